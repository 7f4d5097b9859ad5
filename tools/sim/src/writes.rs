//! A coordinator and its log, as a simulated broker has them: where the coordinator is, and what becomes of its
//! writes. They go into the log one after the other, and are flushed together; some are refused, some stall, and
//! after a flush that fails there are no more.

use crate::keyed_log::{Keyed, KeyedLog};
use crate::world::{MS, Micros, S, Signal, World};
use odradek::codec::error_code::ErrorCode;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// A disk that stalls, stalls so long at most.
const STALL_MAX: Micros = 3 * S;

/// How a write has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEnd {
    Kept,
    /// It is not in the log.
    Refused,
    /// It is in the log, and not certainly flushed: after a crash it may be there.
    Unsure,
}

/// A coordinator, in one of its runs.
pub enum State<C> {
    Down,
    /// Its log is being read.
    Loading,
    Ready(Box<C>),
    /// It answers nothing any more; its writes may still end.
    Resigned(Box<C>),
}

impl<C> State<C> {
    /// One that answers.
    pub fn ready(&self) -> Option<&C> {
        match self {
            State::Ready(coordinator) => Some(coordinator),
            State::Down | State::Loading | State::Resigned(_) => None,
        }
    }

    /// One whose writes may end.
    pub fn deciding(&mut self) -> Option<&mut C> {
        match self {
            State::Ready(coordinator) | State::Resigned(coordinator) => Some(coordinator),
            State::Down | State::Loading => None,
        }
    }

    /// Why nobody is asked; without an error there is no connection.
    pub fn refusal(&self) -> Option<Option<ErrorCode>> {
        match self {
            State::Down => Some(None),
            State::Loading => Some(Some(ErrorCode::CoordinatorLoadInProgress)),
            State::Resigned(_) => Some(Some(ErrorCode::NotCoordinator)),
            State::Ready(_) => None,
        }
    }

    pub fn resign(&mut self) {
        *self = match std::mem::replace(self, State::Down) {
            State::Ready(coordinator) => State::Resigned(coordinator),
            state => state,
        };
    }
}

/// Lives: one per coordinator and seed; runs of the coordinator end and begin again.
pub struct Writes<R, W> {
    pub log: RefCell<KeyedLog<R>>,
    /// Which run it is; tasks of others end.
    run: Cell<u64>,
    lane: RefCell<VecDeque<W>>,
    lane_filled: Signal,
    /// Writes that are in the log up to their ends, and not flushed.
    unflushed: RefCell<VecDeque<(W, u64)>>,
    appended: Signal,
    /// A flush has failed: nothing is written before the next start.
    is_offline: Cell<bool>,
}

impl<R, W> Default for Writes<R, W> {
    fn default() -> Writes<R, W> {
        Writes {
            log: RefCell::default(),
            run: Cell::new(0),
            lane: RefCell::default(),
            lane_filled: Signal::default(),
            unflushed: RefCell::default(),
            appended: Signal::default(),
            is_offline: Cell::new(false),
        }
    }
}

impl<R: Keyed, W> Writes<R, W> {
    pub fn run(&self) -> u64 {
        self.run.get()
    }

    pub fn is_offline(&self) -> bool {
        self.is_offline.get()
    }

    /// Behind what was decided before.
    pub fn push(&self, write: W) {
        self.lane.borrow_mut().push_back(write);
        self.lane_filled.notify();
    }

    /// A crash takes as much as it likes of what was not flushed. Returns where it has cut the log.
    pub fn crash(&self, world: &World) -> u64 {
        let end = {
            let cuts = self.log.borrow().cuts();
            cuts[world.below(cuts.len() as u64) as usize]
        };
        self.log.borrow_mut().cut(end);
        end
    }

    /// Nobody crashes: what is in the log stays.
    pub fn hand_over(&self) {
        let end = self.log.borrow().end();
        self.log.borrow_mut().cut(end);
    }

    /// What was on its way is forgotten.
    pub fn end_run(&self) {
        self.run.set(self.run.get() + 1);
        self.lane.borrow_mut().clear();
        self.unflushed.borrow_mut().clear();
        self.is_offline.set(false);
        [&self.lane_filled, &self.appended].into_iter().for_each(Signal::notify);
    }

    /// The cleaner comes by: everything up to somewhere, or not at all. `drops_early`: a mistake. Returns how far,
    /// and whether deletions go.
    pub fn clean(&self, world: &World, drops_early: bool) -> (u64, bool) {
        let mut log = self.log.borrow_mut();
        let end = world.below(log.flushed_end() + 1);
        let old = world.one_in(2);
        world.count("cleaner");
        if old {
            world.count("cleaner: old deletions gone");
        }
        match drops_early {
            true => log.drop_tombstones(end),
            false => log.compact(end, old),
        }
        (end, old)
    }
}

/// A broker, as its coordinator's writes see it.
pub trait Writing: Sized + 'static {
    type Record: Keyed;
    type Write: Copy;
    /// What a log may say that takes nothing.
    const ERRORS: &'static [ErrorCode];

    fn world(&self) -> &Rc<World>;

    fn writes(&self) -> &Writes<Self::Record, Self::Write>;

    /// How long a write takes at most, and one in how many fails.
    fn write_times(&self) -> (Micros, u64);

    fn is_faulty(&self, one_in: u64) -> bool;

    fn records(&self, write: Self::Write) -> Vec<Self::Record>;

    /// The log has not taken it.
    fn refused(self: &Rc<Self>, write: Self::Write, error: ErrorCode);

    /// It is in the log. A mistake: that is all that is waited for, and the coordinator has been told.
    fn is_taken_for_flushed(self: &Rc<Self>, write: Self::Write) -> bool;

    /// The coordinator is told.
    fn end_write(self: &Rc<Self>, write: Self::Write, end: WriteEnd, result: Result<(), ErrorCode>);
}

/// A write has ended so.
pub fn count_end(world: &World, end: WriteEnd) {
    world.count(match end {
        WriteEnd::Kept => "write: kept",
        WriteEnd::Refused => "write: refused",
        WriteEnd::Unsure => "write: flush failed",
    });
}

/// Appends writes one after the other, and flushes what was appended, to the end of the run.
pub fn start<B: Writing>(broker: &Rc<B>) {
    let run = broker.writes().run.get();
    broker.world().spawn(run_lane(broker.clone(), run));
    broker.world().spawn(run_flushes(broker.clone(), run));
}

async fn run_lane<B: Writing>(broker: Rc<B>, run: u64) {
    let (world, writes) = (broker.world(), broker.writes());
    let (write_max, write_fault) = broker.write_times();
    while writes.run.get() == run {
        let next = writes.lane.borrow_mut().pop_front();
        let Some(write) = next else {
            writes.lane_filled.notified().await;
            continue;
        };
        world.sleep(world.below(write_max / 2 + 1)).await;
        if writes.run.get() != run {
            return;
        }
        if writes.is_offline.get() {
            broker.end_write(write, WriteEnd::Refused, Err(ErrorCode::KafkaStorageError));
        } else if broker.is_faulty(write_fault) {
            broker.refused(write, B::ERRORS[world.below(B::ERRORS.len() as u64) as usize]);
        } else {
            append(&broker, write);
        }
    }
}

fn append<B: Writing>(broker: &Rc<B>, write: B::Write) {
    let records = broker.records(write);
    let writes = broker.writes();
    let end = {
        let mut log = writes.log.borrow_mut();
        log.append(&records);
        log.end()
    };
    if !broker.is_taken_for_flushed(write) {
        writes.unflushed.borrow_mut().push_back((write, end));
        writes.appended.notify();
    }
}

async fn run_flushes<B: Writing>(broker: Rc<B>, run: u64) {
    let (world, writes) = (broker.world(), broker.writes());
    let (write_max, write_fault) = broker.write_times();
    while writes.run.get() == run {
        if writes.unflushed.borrow().is_empty() {
            writes.appended.notified().await;
            continue;
        }
        let end = writes.log.borrow().end();
        let time = if broker.is_faulty(write_fault.saturating_mul(4)) {
            world.count("write: slow");
            world.between(MS, STALL_MAX)
        } else {
            world.below(write_max / 2 + 1)
        };
        world.sleep(time).await;
        if writes.run.get() == run {
            flushed(&broker, end);
        }
    }
}

fn flushed<B: Writing>(broker: &Rc<B>, end: u64) {
    let writes = broker.writes();
    let has_failed = broker.is_faulty(broker.write_times().1.saturating_mul(8));
    if has_failed {
        writes.is_offline.set(true);
    } else {
        writes.log.borrow_mut().flush(end);
    }
    loop {
        let next = writes.unflushed.borrow_mut().pop_front_if(|(_, at)| has_failed || *at <= end);
        let Some((write, _)) = next else { return };
        match has_failed {
            true => broker.end_write(write, WriteEnd::Unsure, Err(ErrorCode::KafkaStorageError)),
            false => broker.end_write(write, WriteEnd::Kept, Ok(())),
        }
    }
}
