//! The broker around one coordinator of transactions: carries out what it decides as
//! `odradek::shard::transactions` does, on a log that fails, and starts it again from that log.

mod marking;

use crate::keyed_log::Keyed;
use crate::transactions::cluster::Cluster;
use crate::transactions::scene::Scene;
use crate::transactions::settings::{MS, Mistake, S, check};
use crate::transactions::watch::Cause;
use crate::world::{Micros, World};
use crate::writes::{self, State, WriteEnd, Writes, Writing, count_end};
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
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::{Rc, Weak};

impl Keyed for TransactionRecord {
    fn key(&self) -> Vec<u8> {
        self.encode_key()
    }

    fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
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
    state: RefCell<State<Coordinator>>,
    writes: Writes<TransactionRecord, WriteId>,
    /// Of the partition's leader.
    epoch: Cell<i32>,
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
            state: RefCell::new(State::Down),
            writes: Writes::default(),
            epoch: Cell::new(0),
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
        self.writes.is_offline()
    }

    pub fn is_ready(&self) -> bool {
        self.state.borrow().ready().is_some()
    }

    pub fn epoch(&self) -> CoordinatorEpoch {
        CoordinatorEpoch(self.epoch.get())
    }

    /// What the log has before anything happens.
    pub fn seed(&self, record: TransactionRecord) {
        let mut log = self.writes.log.borrow_mut();
        self.scene.watch.borrow_mut().seeded(&record);
        log.append(&[record]);
        let end = log.end();
        log.flush(end);
    }

    // --- Requests

    /// Why nobody is asked.
    fn refusal(&self) -> Option<Option<ErrorCode>> {
        self.state.borrow().refusal()
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
        let run = self.writes.run();
        self.decide(Cause::Add(addition.writer), |coordinator, now, effects| {
            coordinator.add(id, addition, ticket, now, effects);
        });
        // What is being ended may take as long as a partition is offline.
        let patience = self.scene.world.sleep(TRANSACTION_ADDITION_TIME_MAX.as_micros() as Micros);
        let answer = match select(receiver, pin!(patience)).await {
            Either::Left((answer, _)) => answer.ok()?,
            Either::Right(_) => {
                if self.writes.run() != run {
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
            let coordinator = state.deciding()?;
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
        let run = (self.index, self.writes.run());
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => self.answered(ticket, answer),
                Effect::Write(write) => {
                    self.scene.watch.borrow_mut().written((run, write), &written[&write], cause);
                    self.writes.push(write);
                }
                Effect::Mark(marking) => {
                    self.scene.world.note(format_args!("  {marking:?}"));
                    self.scene.world.spawn(self.clone().run_marking(self.writes.run(), marking));
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

    // --- Time

    fn ids(&self) -> Vec<String> {
        let ids = |coordinator: &Coordinator| coordinator.ids_after(None, usize::MAX);
        self.state.borrow().ready().map(ids).unwrap_or_default()
    }

    async fn watch_time_outs(self: Rc<Self>, run: u64) {
        if self.scene.makes(Mistake::TimeoutsUnwatched) {
            return;
        }
        let early = if self.scene.makes(Mistake::TimedOutEarly) { 3_600_000 } else { 0 };
        while self.writes.run() == run {
            self.scene.world.sleep(self.scene.settings.abort_interval).await;
            if self.writes.run() != run {
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
        if let Some(coordinator) = self.state.borrow().ready() {
            self.scene.watch.borrow().look(self.index, coordinator);
        }
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.borrow().len()
    }

    // --- Runs

    /// Everything in memory is gone, and with it as much as it likes of what was not flushed.
    pub fn crash(&self) {
        let end = self.writes.crash(&self.scene.world);
        self.scene.world.note(format_args!("a crash leaves the log of {} up to {end}", self.index));
        self.scene.world.count("restart: crash");
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
        self.state.borrow_mut().resign();
    }

    /// After it has resigned: what is in the log stays.
    pub fn hand_over(&self) {
        self.writes.hand_over();
        self.end_run();
    }

    fn end_run(&self) {
        *self.state.borrow_mut() = State::Down;
        // Connections end.
        self.waiting.borrow_mut().clear();
        self.given_up.borrow_mut().clear();
        self.writes.end_run();
    }

    /// The cleaner comes by: everything up to somewhere, or not at all.
    pub fn clean(&self) {
        let drops_early = self.scene.makes(Mistake::TombstonesDroppedEarly);
        let (end, old) = self.writes.clean(&self.scene.world, drops_early);
        self.scene.world.note(format_args!("the cleaner of {} goes up to {end}, {old}", self.index));
    }

    /// Reads the log, and takes up the work: as the leader of a new term, or of the same if the whole node has
    /// come again.
    pub async fn start(self: &Rc<Self>, is_new_term: bool) {
        let scene = &self.scene;
        scene.world.count("restarts");
        let run = self.writes.run();
        *self.state.borrow_mut() = State::Loading;
        scene.world.sleep(scene.world.below(200 * MS)).await;
        if self.writes.run() != run {
            return;
        }
        if is_new_term {
            self.epoch.set(self.epoch.get() + 1);
        }
        let mut coordinator = Coordinator::new(scene.settings.coordinator, self.epoch());
        self.replay(&mut coordinator);
        let latest = self.writes.log.borrow().latest();
        scene.watch.borrow_mut().restarted(self.index, &coordinator, &latest);
        // Found before anything is asked: what a request decides meanwhile is not to be ended twice.
        let mut effects = Vec::new();
        if !scene.makes(Mistake::NotResumed) {
            for id in coordinator.ids_after(None, usize::MAX) {
                coordinator.loaded(&id, &mut effects);
            }
        }
        *self.state.borrow_mut() = State::Ready(Box::new(coordinator));
        writes::start(self);
        scene.world.spawn(self.clone().watch_time_outs(run));
        for effect in effects {
            scene.world.count("restart: a decided transaction goes on");
            self.carry_out(Cause::Loaded, vec![effect], &BTreeMap::new());
            if scene.world.one_in(2) {
                scene.pause(20 * MS).await;
                if self.writes.run() != run {
                    return;
                }
            }
        }
    }

    fn replay(&self, coordinator: &mut Coordinator) {
        let log = self.writes.log.borrow();
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

impl Writing for Shell {
    type Record = TransactionRecord;
    type Write = WriteId;
    const ERRORS: &'static [ErrorCode] =
        &[ErrorCode::NotEnoughReplicas, ErrorCode::UnknownTopicOrPartition, ErrorCode::MessageTooLarge];

    fn world(&self) -> &Rc<World> {
        &self.scene.world
    }

    fn writes(&self) -> &Writes<TransactionRecord, WriteId> {
        &self.writes
    }

    fn write_times(&self) -> (Micros, u64) {
        (self.scene.settings.write_max, self.scene.settings.write_fault)
    }

    fn is_faulty(&self, one_in: u64) -> bool {
        self.scene.is_faulty(one_in)
    }

    fn records(&self, write: WriteId) -> Vec<TransactionRecord> {
        let mut state = self.state.borrow_mut();
        let coordinator = state.deciding().expect("it has decided");
        vec![coordinator.record(write).expect("it is on its way").clone()]
    }

    fn refused(self: &Rc<Self>, write: WriteId, error: ErrorCode) {
        match self.scene.makes(Mistake::RefusedTakenForKept) {
            true => self.end_write(write, WriteEnd::Kept, Ok(())),
            false => self.end_write(write, WriteEnd::Refused, Err(error)),
        }
    }

    fn is_taken_for_flushed(self: &Rc<Self>, write: WriteId) -> bool {
        let is_taken = self.scene.makes(Mistake::AnsweredBeforeFlushed);
        if is_taken {
            self.end_write(write, WriteEnd::Kept, Ok(()));
        }
        is_taken
    }

    fn end_write(self: &Rc<Self>, write: WriteId, end: WriteEnd, result: Result<(), ErrorCode>) {
        self.scene.world.note(format_args!("  {write:?} of {} is {end:?}: {result:?}", self.index));
        count_end(&self.scene.world, end);
        let run = (self.index, self.writes.run());
        self.scene.watch.borrow_mut().ended((run, write), end);
        self.decide(Cause::WriteEnded, |coordinator, now, effects| {
            coordinator.finished(write, result, now, effects);
        });
    }
}

fn writer_of(answer: Answer) -> Option<Result<Writer, ErrorCode>> {
    match answer {
        Answer::Writer(told) => Some(told),
        Answer::Added(_) => unreachable!("a producer is told who it is"),
    }
}
