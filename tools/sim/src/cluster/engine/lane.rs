//! What is handed over of one replica's log, carried out one after the other.
//!
//! ```text
//! appends          go into the log, and are done when they are flushed; the next does not wait for that
//! a moved start    is on its way beside them
//! cut, start over  wait for it, and what comes behind waits for them
//! removals         likewise; what comes behind begins with an empty log
//! ```

use crate::cluster::engine::{Event, Events, batches, known_as};
use crate::cluster::settings::check;
use crate::disk::{DiskError, DiskResult};
use crate::replication::log::{Batch, Op, offset};
use crate::replication::scene::partition_id;
use crate::shell::cutting::{Cut, CutFailed, cut};
use crate::shell::open::{OpenFailed, OpenRequest, open};
use crate::shell::reading::ReadFailed;
use crate::shell::replica::{AckTarget, AppendRefused, Appended, Outcome};
use crate::shell::{NO_SPACE_RETRY, Shell, background, deletion};
use crate::world::Signal;
use odradek::types::{LeaderEpoch, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Do(Op),
    /// The partition goes on without this replica.
    Remove,
    /// The partition is no more.
    Delete,
}

/// Lives: one per replica and process.
pub struct Lane {
    shell: Rc<Shell>,
    partition: usize,
    events: Events,
    steps: RefCell<VecDeque<(u64, Step)>>,
    filled: Signal,
    is_busy: Cell<bool>,
    /// Log starts on their way.
    moving: Cell<usize>,
    moved: Signal,
}

impl Lane {
    pub fn start(shell: &Rc<Shell>, partition: usize, events: &Events) -> Rc<Lane> {
        let lane = Rc::new(Lane {
            shell: shell.clone(),
            partition,
            events: events.clone(),
            steps: RefCell::default(),
            filled: Signal::default(),
            is_busy: Cell::new(false),
            moving: Cell::new(0),
            moved: Signal::default(),
        });
        shell.world.spawn(lane.clone().run());
        lane
    }

    pub fn push(&self, number: u64, step: Step) {
        self.steps.borrow_mut().push_back((number, step));
        self.filled.notify();
    }

    /// Everything is carried out, but for what waits to be flushed.
    pub fn is_idle(&self) -> bool {
        !self.is_busy.get() && self.moving.get() == 0 && self.steps.borrow().is_empty()
    }

    fn id(&self) -> TopicPartition {
        partition_id(self.partition)
    }

    async fn run(self: Rc<Self>) {
        loop {
            let next = self.steps.borrow_mut().pop_front();
            let Some((number, step)) = next else {
                self.filled.notified().await;
                continue;
            };
            self.is_busy.set(true);
            match self.carry_out(number, step).await {
                Ok(()) => self.is_busy.set(false),
                Err(DiskError::Full) => {
                    self.shell.world.count("engine: a full disk ends the process");
                    return self.shell.fail(&format!("no space for {step:?} of {}", self.partition));
                }
                Err(error) => {
                    return self.shell.failed(format_args!("{step:?} of {}", self.partition), error);
                }
            }
        }
    }

    fn done(&self, number: u64) {
        self.events.borrow_mut().push_back(Event::Done { partition: self.partition, number });
    }

    async fn carry_out(self: &Rc<Self>, number: u64, step: Step) -> DiskResult<()> {
        if !matches!(step, Step::Do(Op::Append(_) | Op::MoveStart(_))) {
            while self.moving.get() > 0 {
                self.moved.notified().await;
            }
        }
        if matches!(step, Step::Do(_)) && self.shell.find(&self.id()).is_none() {
            self.open_anew().await?;
        }
        match step {
            Step::Do(Op::Append(batch)) => return self.append(number, &batch).await,
            Step::Do(Op::MoveStart(start)) => {
                self.moving.set(self.moving.get() + 1);
                self.shell.world.spawn(self.clone().move_start(number, start));
                return Ok(());
            }
            Step::Do(Op::CutTo(end)) => self.cut(Cut::To(offset(end))).await?,
            Step::Do(Op::StartOver(at)) => self.cut(Cut::StartOver(offset(at))).await?,
            Step::Remove => {
                let directory = known_as(self.partition, LeaderEpoch(0)).directory();
                deletion::remove(&self.shell, &self.id(), &directory).await?;
                self.shell.metadata.borrow_mut().partitions.remove(&self.id());
                self.events.borrow_mut().push_back(Event::Removed { partition: self.partition });
            }
            Step::Delete => {
                self.shell.metadata.borrow_mut().delete(&self.id());
                deletion::delete(&self.shell, &self.id()).await;
                self.events.borrow_mut().push_back(Event::Removed { partition: self.partition });
            }
        }
        self.done(number);
        Ok(())
    }

    async fn append(self: &Rc<Self>, number: u64, batch: &Batch) -> DiskResult<()> {
        let bytes = batches::encode(batch);
        let lane = Rc::downgrade(self);
        let target: AckTarget = Rc::new(move |outcome| {
            if let (Outcome::Acknowledged { .. }, Some(lane)) = (outcome, lane.upgrade()) {
                lane.done(number);
            }
        });
        loop {
            while self.shell.is_full() && !self.shell.is_offline() {
                self.shell.drained.notified().await;
            }
            let Some(replica) = self.shell.find(&self.id()) else { return Err(DiskError::Offline) };
            match replica.append_replicated(&self.shell, &bytes, &target) {
                Ok(Appended::Parked) => {
                    self.shell.pump();
                    return Ok(());
                }
                Ok(Appended::Wait) => replica.ready.notified().await,
                Err(AppendRefused::NoSpace) => self.shell.world.sleep(NO_SPACE_RETRY).await,
                Err(AppendRefused::Offline) => return Err(DiskError::Offline),
                Err(AppendRefused::Rejected(rejected)) => {
                    let what = format_args!("partition {}: {batch:?} is refused: {rejected}", self.partition);
                    self.shell.world.finding(check::FOUND, what);
                    return Err(DiskError::Offline);
                }
            }
        }
    }

    async fn move_start(self: Rc<Self>, number: u64, start: u64) {
        let replica = self.shell.find(&self.id()).expect("it was opened");
        let to = offset(start);
        let is_moved = background::delete_records(&self.shell, &replica, to).await;
        if is_moved {
            self.done(number);
        }
        self.moving.set(self.moving.get() - 1);
        self.moved.notify();
    }

    async fn cut(&self, to: Cut) -> DiskResult<()> {
        let replica = self.shell.find(&self.id()).ok_or(DiskError::Offline)?;
        match cut(&self.shell, &replica, to).await {
            Ok(()) => Ok(()),
            // The next start finds what is to be cut in the journal.
            Err(CutFailed::NoSpace) => Err(DiskError::Full),
            Err(CutFailed::Offline) => Err(DiskError::Offline),
            Err(CutFailed::Open(OpenFailed::Disk(error)) | CutFailed::Read(ReadFailed::Disk(error))) => {
                Err(error)
            }
            Err(error) => {
                let what = format_args!("partition {}: {to:?} ends with {error:?}", self.partition);
                self.shell.world.finding(check::FOUND, what);
                Err(DiskError::Offline)
            }
        }
    }

    /// An empty log takes the place of what a start could not open, or there was none.
    async fn open_anew(&self) -> DiskResult<()> {
        let (shell, id) = (&self.shell, self.id());
        let known = known_as(self.partition, LeaderEpoch(0));
        let name = known.directory();
        let is_damaged = shell.unavailable.borrow().contains_key(&id);
        if is_damaged {
            shell.world.count("engine: damaged replica made again");
            deletion::remove(shell, &id, &name).await?;
            self.events.borrow_mut().push_back(Event::Gone { partition: self.partition });
        }
        {
            let mut metadata = shell.metadata.borrow_mut();
            metadata.deleted.remove(&id.topic);
            metadata.partitions.insert(id, known.clone());
        }
        let request = OpenRequest {
            id,
            name,
            kind: known.kind,
            leader_epoch: known.leader_epoch,
            point: None,
            checkpointed_end: None,
            clean: false,
            state: None,
            journal_end: None,
        };
        match open(shell, request).await {
            Ok(()) => Ok(()),
            Err(OpenFailed::Disk(error)) => Err(error),
            Err(error) => {
                let what = format_args!("partition {}: a new log ends with {error:?}", self.partition);
                shell.world.finding(check::FOUND, what);
                Err(DiskError::Offline)
            }
        }
    }
}
