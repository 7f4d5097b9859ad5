//! The broker around one coordinator of transactions: carries out what it decides as
//! `odradek::shard::transactions` does, on a log that fails, and starts it again from that log.

mod marking;

use crate::keyed_log::{Keyed, KeyedLog};
use crate::transactions::cluster::Cluster;
use crate::transactions::scene::Scene;
use crate::transactions::settings::{MS, Mistake, S, check};
use crate::transactions::watch::{Cause, WriteEnd};
use crate::world::{Micros, Signal};
use futures::channel::oneshot;
use futures::future::{Either, select};
use odradek::codec::error_code::ErrorCode;
use odradek::codec::transaction_record::{PartitionNames, TransactionRecord, TransactionValue};
use odradek::txn::coordinator::{Coordinator, Listed};
use odradek::txn::transaction::{Addition, End, Init};
use odradek::txn::{Answer, Effect, Ticket, WriteId, Writer};
use odradek::types::limits::TRANSACTION_ADDITION_TIME_MAX;
use odradek::types::{CoordinatorEpoch, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::rc::{Rc, Weak};

/// A disk that stalls, stalls so long at most.
const STALL_MAX: Micros = 3 * S;

impl Keyed for TransactionRecord {
    fn key(&self) -> Vec<u8> {
        self.encode_key()
    }

    fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
}

enum State {
    Down,
    /// Its log is being read.
    Loading,
    Ready(Box<Coordinator>),
    /// It answers nothing any more; its writes may still end.
    Resigned(Box<Coordinator>),
}

/// How long a request waits at most: for writes, with disks that stall.
const WAIT_MAX: Micros = 30 * S;

struct Waiting {
    sender: oneshot::Sender<Answer>,
    since: Micros,
    what: String,
    /// What is to be added.
    addition: Option<(String, Addition)>,
}

/// Lives: one per partition of `__transaction_state` and seed; its runs end and begin again.
pub struct Shell {
    scene: Rc<Scene>,
    cluster: RefCell<Weak<Cluster>>,
    pub index: usize,
    log: RefCell<KeyedLog<TransactionRecord>>,
    state: RefCell<State>,
    /// Which run it is; tasks of others end.
    run: Cell<u64>,
    /// Of the partition's leader.
    epoch: Cell<i32>,
    lane: RefCell<VecDeque<WriteId>>,
    lane_filled: Signal,
    unflushed: RefCell<VecDeque<(WriteId, u64)>>,
    appended: Signal,
    is_offline: Cell<bool>,
    waiting: RefCell<BTreeMap<Ticket, Waiting>>,
    /// Nobody waits for them any more.
    given_up: RefCell<Vec<Ticket>>,
    next_ticket: Cell<u64>,
}

impl Shell {
    pub fn new(scene: &Rc<Scene>, index: usize) -> Rc<Shell> {
        Rc::new(Shell {
            scene: scene.clone(),
            cluster: RefCell::default(),
            index,
            log: RefCell::default(),
            state: RefCell::new(State::Down),
            run: Cell::new(0),
            epoch: Cell::new(0),
            lane: RefCell::default(),
            lane_filled: Signal::default(),
            unflushed: RefCell::default(),
            appended: Signal::default(),
            is_offline: Cell::new(false),
            waiting: RefCell::default(),
            given_up: RefCell::default(),
            next_ticket: Cell::new(0),
        })
    }

    pub fn join(&self, cluster: &Rc<Cluster>) {
        *self.cluster.borrow_mut() = Rc::downgrade(cluster);
    }

    fn cluster(&self) -> Rc<Cluster> {
        self.cluster.borrow().upgrade().expect("the cluster is there as long as the seed")
    }

    pub fn is_offline(&self) -> bool {
        self.is_offline.get()
    }

    pub fn is_ready(&self) -> bool {
        matches!(&*self.state.borrow(), State::Ready(_))
    }

    pub fn epoch(&self) -> CoordinatorEpoch {
        CoordinatorEpoch(self.epoch.get())
    }

    /// What the log has before anything happens.
    pub fn seed(&self, record: TransactionRecord) {
        let mut log = self.log.borrow_mut();
        self.scene.watch.borrow_mut().seeded(&record);
        log.append(&[record]);
        let end = log.end();
        log.flush(end);
    }

    // --- Requests

    /// Why nobody is asked.
    fn refusal(&self) -> Option<Option<ErrorCode>> {
        match &*self.state.borrow() {
            State::Down => Some(None),
            State::Loading => Some(Some(ErrorCode::CoordinatorLoadInProgress)),
            State::Resigned(_) => Some(Some(ErrorCode::NotCoordinator)),
            State::Ready(_) => None,
        }
    }

    fn ticket(
        &self,
        what: String,
        addition: Option<(String, Addition)>,
    ) -> (Ticket, oneshot::Receiver<Answer>) {
        self.next_ticket.set(self.next_ticket.get() + 1);
        let ticket = Ticket(self.next_ticket.get());
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting { sender, since: self.scene.world.now(), what, addition };
        self.waiting.borrow_mut().insert(ticket, waiting);
        (ticket, receiver)
    }

    /// `None`: the connection has ended.
    pub async fn init(self: &Rc<Self>, id: &str, mut init: Init) -> Option<Result<Writer, ErrorCode>> {
        if let Some(refusal) = self.refusal() {
            return refusal.map(Err);
        }
        if self.scene.makes(Mistake::EpochUnchecked) {
            init.expected = None;
        }
        let (ticket, receiver) = self.ticket(format!("init {id} {init:?}"), None);
        let fresh = &mut || self.cluster().fresh_producer();
        self.decide(Cause::Init(init), |coordinator, now, effects| {
            coordinator.init(id, &init, ticket, now, fresh, effects);
        });
        writer_of(receiver.await.ok()?)
    }

    pub async fn end(self: &Rc<Self>, id: &str, mut end: End) -> Option<Result<Writer, ErrorCode>> {
        if let Some(refusal) = self.refusal() {
            return refusal.map(Err);
        }
        let asked = end;
        if self.scene.makes(Mistake::EpochUnchecked)
            && let Some(value) = self.describe(id).ok().flatten()
        {
            end.writer = Writer { producer: value.producer, epoch: value.epoch };
        }
        let (ticket, receiver) = self.ticket(format!("end {id} {end:?}"), None);
        let fresh = &mut || self.cluster().fresh_producer();
        self.decide(Cause::End(asked), |coordinator, now, effects| {
            coordinator.end(id, &end, ticket, now, fresh, effects);
        });
        writer_of(receiver.await.ok()?)
    }

    pub async fn add(self: &Rc<Self>, id: &str, addition: Addition) -> Option<Result<(), ErrorCode>> {
        if let Some(refusal) = self.refusal() {
            return refusal.map(Err);
        }
        let (ticket, receiver) =
            self.ticket(format!("add {id} {addition:?}"), Some((id.to_owned(), addition.clone())));
        let run = self.run.get();
        self.decide(Cause::Add(addition.writer), |coordinator, now, effects| {
            coordinator.add(id, addition, ticket, now, effects);
        });
        // What is being ended may take as long as a partition is offline.
        let patience = self.scene.world.sleep(TRANSACTION_ADDITION_TIME_MAX.as_micros() as Micros);
        let answer = match select(receiver, pin!(patience)).await {
            Either::Left((answer, _)) => answer.ok()?,
            Either::Right(_) => {
                if self.run.get() != run {
                    return None;
                }
                self.scene.world.count("add: waited for long enough");
                self.waiting.borrow_mut().remove(&ticket);
                self.given_up.borrow_mut().push(ticket);
                self.decide(Cause::Nothing, |coordinator, _, _| coordinator.give_up(id, ticket));
                Answer::Added(Err(ErrorCode::ConcurrentTransactions))
            }
        };
        match answer {
            Answer::Added(added) => Some(added),
            Answer::Writer(_) => unreachable!("an addition is answered as one"),
        }
    }

    /// Whether a transaction has these partitions.
    pub fn verify(&self, id: &str, writer: Writer, partitions: &PartitionNames) -> Result<(), ErrorCode> {
        match &*self.state.borrow() {
            State::Down => Err(ErrorCode::NetworkException),
            State::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            State::Resigned(_) => Err(ErrorCode::NotCoordinator),
            State::Ready(coordinator) => {
                let mut all = partitions.iter();
                all.try_for_each(|(topic, partition)| coordinator.verify(id, writer, topic, partition))
            }
        }
    }

    pub fn describe(&self, id: &str) -> Result<Option<TransactionValue>, ErrorCode> {
        match &*self.state.borrow() {
            State::Down | State::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            State::Resigned(_) => Err(ErrorCode::NotCoordinator),
            State::Ready(coordinator) => Ok(coordinator.describe(id).cloned()),
        }
    }

    pub fn list(&self) -> Result<Vec<Listed>, ErrorCode> {
        match &*self.state.borrow() {
            State::Down | State::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            State::Resigned(_) => Err(ErrorCode::NotCoordinator),
            State::Ready(coordinator) => {
                let ids = coordinator.ids_after(None, usize::MAX);
                Ok(ids.iter().filter_map(|id| coordinator.listed(id)).collect())
            }
        }
    }

    /// Decides something, then carries it out. `None` while there is no coordinator.
    fn decide<T>(
        self: &Rc<Self>,
        cause: Cause,
        decide: impl FnOnce(&mut Coordinator, Timestamp, &mut Vec<Effect>) -> T,
    ) -> Option<T> {
        let now = self.scene.now();
        let mut effects = Vec::new();
        let (decided, written) = {
            let mut state = self.state.borrow_mut();
            let (State::Ready(coordinator) | State::Resigned(coordinator)) = &mut *state else { return None };
            let decided = decide(coordinator, now, &mut effects);
            let written = effects.iter().filter_map(|effect| match effect {
                Effect::Write(write) => {
                    Some((*write, coordinator.record(*write).expect("it is on its way").clone()))
                }
                Effect::Answer(..) | Effect::Mark(_) => None,
            });
            (decided, written.collect::<BTreeMap<_, _>>())
        };
        self.carry_out(cause, effects, &written);
        Some(decided)
    }

    fn carry_out(
        self: &Rc<Self>,
        cause: Cause,
        effects: Vec<Effect>,
        written: &BTreeMap<WriteId, TransactionRecord>,
    ) {
        let run = (self.index, self.run.get());
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => self.answered(ticket, answer),
                Effect::Write(write) => {
                    self.scene.watch.borrow_mut().written((run, write), &written[&write], cause);
                    self.lane.borrow_mut().push_back(write);
                    self.lane_filled.notify();
                }
                Effect::Mark(marking) => {
                    self.scene.world.note(format_args!("  {marking:?}"));
                    self.scene.world.spawn(self.clone().run_marking(self.run.get(), marking));
                }
            }
        }
    }

    fn answered(&self, ticket: Ticket, answer: Answer) {
        let Some(waiting) = self.waiting.borrow_mut().remove(&ticket) else {
            if !self.given_up.borrow().contains(&ticket) {
                let what = format!("{ticket:?} is answered twice: {answer:?}");
                self.scene.world.finding(check::ANSWERED, format_args!("{what}"));
            }
            return;
        };
        if self.scene.makes(Mistake::AnswersForgotten) && self.scene.world.one_in(20) {
            self.waiting.borrow_mut().insert(ticket, waiting);
            return;
        }
        if let (Answer::Added(Ok(())), Some((id, addition))) = (answer, &waiting.addition) {
            self.scene.watch.borrow_mut().added(id, addition);
        }
        // Whoever asked may have died.
        let _ = waiting.sender.send(answer);
    }

    // --- Writes

    fn end_write(self: &Rc<Self>, write: WriteId, end: WriteEnd, result: Result<(), ErrorCode>) {
        self.scene.world.note(format_args!("  {write:?} of {} is {end:?}: {result:?}", self.index));
        self.scene.world.count(match end {
            WriteEnd::Kept => "write: kept",
            WriteEnd::Refused => "write: refused",
            WriteEnd::Unsure => "write: flush failed",
        });
        let run = (self.index, self.run.get());
        self.scene.watch.borrow_mut().ended((run, write), end);
        self.decide(Cause::WriteEnded, |coordinator, now, effects| {
            coordinator.finished(write, result, now, effects);
        });
    }

    /// Appends writes one after the other.
    async fn run_lane(self: Rc<Self>, run: u64) {
        const ERRORS: [ErrorCode; 3] =
            [ErrorCode::NotEnoughReplicas, ErrorCode::UnknownTopicOrPartition, ErrorCode::MessageTooLarge];
        let scene = self.scene.clone();
        while self.run.get() == run {
            let next = self.lane.borrow_mut().pop_front();
            let Some(write) = next else {
                self.lane_filled.notified().await;
                continue;
            };
            scene.pause(scene.settings.write_max / 2).await;
            if self.run.get() != run {
                return;
            }
            if self.is_offline.get() {
                self.end_write(write, WriteEnd::Refused, Err(ErrorCode::KafkaStorageError));
            } else if scene.is_faulty(scene.settings.write_fault) {
                let error = ERRORS[scene.world.below(ERRORS.len() as u64) as usize];
                let told = if scene.makes(Mistake::RefusedTakenForKept) { Ok(()) } else { Err(error) };
                let end = if told.is_ok() { WriteEnd::Kept } else { WriteEnd::Refused };
                self.end_write(write, end, told);
            } else {
                self.append(write);
            }
        }
    }

    fn append(self: &Rc<Self>, write: WriteId) {
        let record = match &*self.state.borrow() {
            State::Ready(coordinator) | State::Resigned(coordinator) => {
                coordinator.record(write).expect("it is on its way").clone()
            }
            State::Down | State::Loading => unreachable!("it has decided"),
        };
        let end = {
            let mut log = self.log.borrow_mut();
            log.append(&[record]);
            log.end()
        };
        if self.scene.makes(Mistake::AnsweredBeforeFlushed) {
            return self.end_write(write, WriteEnd::Kept, Ok(()));
        }
        self.unflushed.borrow_mut().push_back((write, end));
        self.appended.notify();
    }

    async fn run_flushes(self: Rc<Self>, run: u64) {
        let scene = self.scene.clone();
        while self.run.get() == run {
            if self.unflushed.borrow().is_empty() {
                self.appended.notified().await;
                continue;
            }
            let end = self.log.borrow().end();
            let time = if scene.is_faulty(scene.settings.write_fault.saturating_mul(4)) {
                scene.world.count("write: slow");
                scene.world.between(MS, STALL_MAX)
            } else {
                scene.world.below(scene.settings.write_max / 2 + 1)
            };
            scene.world.sleep(time).await;
            if self.run.get() == run {
                self.flushed(end);
            }
        }
    }

    fn flushed(self: &Rc<Self>, end: u64) {
        let has_failed = self.scene.is_faulty(self.scene.settings.write_fault.saturating_mul(8));
        if has_failed {
            self.is_offline.set(true);
        } else {
            self.log.borrow_mut().flush(end);
        }
        loop {
            let next = {
                let mut unflushed = self.unflushed.borrow_mut();
                unflushed.pop_front_if(|(_, at)| has_failed || *at <= end)
            };
            let Some((write, _)) = next else { return };
            match has_failed {
                true => self.end_write(write, WriteEnd::Unsure, Err(ErrorCode::KafkaStorageError)),
                false => self.end_write(write, WriteEnd::Kept, Ok(())),
            }
        }
    }

    // --- Time

    fn ids(&self) -> Vec<String> {
        match &*self.state.borrow() {
            State::Ready(coordinator) => coordinator.ids_after(None, usize::MAX),
            State::Down | State::Loading | State::Resigned(_) => Vec::new(),
        }
    }

    async fn watch_time_outs(self: Rc<Self>, run: u64) {
        if self.scene.makes(Mistake::TimeoutsUnwatched) {
            return;
        }
        let early = if self.scene.makes(Mistake::TimedOutEarly) { 3_600_000 } else { 0 };
        while self.run.get() == run {
            self.scene.world.sleep(self.scene.settings.abort_interval).await;
            if self.run.get() != run {
                return;
            }
            for id in self.ids() {
                let aborts = self.decide(Cause::Time, |coordinator, now, effects| {
                    coordinator.abort_timed_out(&id, Timestamp(now.0 + early), effects)
                });
                if aborts == Some(true) {
                    self.scene.world.count("transaction timed out");
                }
            }
        }
    }

    /// Ids that nobody uses; now and then.
    pub fn expire(self: &Rc<Self>) {
        let early = if self.scene.makes(Mistake::ExpiredEarly) { 30 * 86_400_000 } else { 0 };
        for id in self.ids() {
            self.decide(Cause::Time, |coordinator, now, effects| {
                coordinator.expire(&id, Timestamp(now.0 + early), effects);
            });
        }
    }

    // --- Checks from time to time

    pub fn look(&self) {
        let now = self.scene.world.now();
        if let Some(waiting) = self.waiting.borrow().values().find(|waiting| now > waiting.since + WAIT_MAX) {
            let what = format!("{} waits for {} s", waiting.what, (now - waiting.since) / S);
            self.scene.world.finding(check::ANSWERED, format_args!("{what}"));
        }
        if let State::Ready(coordinator) = &*self.state.borrow() {
            self.scene.watch.borrow().look(self.index, coordinator);
        }
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.borrow().len()
    }

    // --- Runs

    /// Everything in memory is gone, and with it as much as it likes of what was not flushed.
    pub fn crash(&self) {
        let end = {
            let log = self.log.borrow();
            self.scene.world.between(log.flushed_end(), log.end())
        };
        self.scene.world.note(format_args!("a crash leaves the log of {} up to {end}", self.index));
        self.scene.world.count("restart: crash");
        self.log.borrow_mut().cut(end);
        self.end_run();
    }

    /// The coordinator gives up its partition: whoever waits to add something is sent away.
    pub fn resign(self: &Rc<Self>) {
        if !self.is_ready() {
            return;
        }
        self.scene.world.note(format_args!("the coordinator of {} resigns", self.index));
        self.scene.world.count("restart: resigned");
        self.decide(Cause::Nothing, |coordinator, _, effects| coordinator.resign(effects));
        let state = std::mem::replace(&mut *self.state.borrow_mut(), State::Down);
        *self.state.borrow_mut() = match state {
            State::Ready(coordinator) => State::Resigned(coordinator),
            state => state,
        };
    }

    /// After it has resigned: what is in the log stays.
    pub fn hand_over(&self) {
        let end = self.log.borrow().end();
        self.log.borrow_mut().cut(end);
        self.end_run();
    }

    fn end_run(&self) {
        self.run.set(self.run.get() + 1);
        *self.state.borrow_mut() = State::Down;
        self.lane.borrow_mut().clear();
        self.unflushed.borrow_mut().clear();
        // Connections end.
        self.waiting.borrow_mut().clear();
        self.given_up.borrow_mut().clear();
        self.is_offline.set(false);
        [&self.lane_filled, &self.appended].into_iter().for_each(Signal::notify);
    }

    /// The cleaner comes by: everything up to somewhere, or not at all.
    pub fn clean(&self) {
        let mut log = self.log.borrow_mut();
        let end = self.scene.world.below(log.flushed_end() + 1);
        let old = self.scene.world.one_in(2);
        self.scene.world.note(format_args!("the cleaner of {} goes up to {end}, {old}", self.index));
        self.scene.world.count("cleaner");
        if old {
            self.scene.world.count("cleaner: old deletions gone");
        }
        if self.scene.makes(Mistake::TombstonesDroppedEarly) {
            log.drop_tombstones(end);
        } else {
            log.compact(end, old);
        }
    }

    /// Reads the log, and takes up the work: as the leader of a new term, or of the same if the whole node has
    /// come again.
    pub async fn start(self: &Rc<Self>, is_new_term: bool) {
        let scene = &self.scene;
        scene.world.count("restarts");
        let run = self.run.get();
        *self.state.borrow_mut() = State::Loading;
        scene.world.sleep(scene.world.below(200 * MS)).await;
        if self.run.get() != run {
            return;
        }
        if is_new_term {
            self.epoch.set(self.epoch.get() + 1);
        }
        let mut coordinator = Coordinator::new(scene.settings.coordinator, self.epoch());
        self.replay(&mut coordinator);
        let latest = self.log.borrow().latest();
        scene.watch.borrow_mut().restarted(self.index, &coordinator, &latest);
        // Found before anything is asked: what a request decides meanwhile is not to be ended twice.
        let mut effects = Vec::new();
        if !scene.makes(Mistake::NotResumed) {
            for id in coordinator.ids_after(None, usize::MAX) {
                coordinator.loaded(&id, &mut effects);
            }
        }
        *self.state.borrow_mut() = State::Ready(Box::new(coordinator));
        scene.world.spawn(self.clone().run_lane(run));
        scene.world.spawn(self.clone().run_flushes(run));
        scene.world.spawn(self.clone().watch_time_outs(run));
        for effect in effects {
            scene.world.count("restart: a decided transaction goes on");
            self.carry_out(Cause::Loaded, vec![effect], &BTreeMap::new());
            if scene.world.one_in(2) {
                scene.pause(20 * MS).await;
                if self.run.get() != run {
                    return;
                }
            }
        }
    }

    fn replay(&self, coordinator: &mut Coordinator) {
        let log = self.log.borrow();
        let count = log.records().count();
        let ends_early = self.scene.makes(Mistake::ReplayEndsEarly);
        for record in log.records().take(count.saturating_sub(usize::from(ends_early))) {
            let (key, value) = (record.encode_key(), record.encode_value());
            let read = TransactionRecord::decode(Some(&key), value.as_deref());
            assert_eq!(read.as_ref().map(Option::as_ref), Ok(Some(record)), "records are read as written");
            coordinator.apply(record.clone());
        }
    }
}

fn writer_of(answer: Answer) -> Option<Result<Writer, ErrorCode>> {
    match answer {
        Answer::Writer(told) => Some(told),
        Answer::Added(_) => unreachable!("a producer is told who it is"),
    }
}
