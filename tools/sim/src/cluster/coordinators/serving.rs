//! Coordinators, as `odradek::shard::coordinators` has them: loaded by whoever begins to lead their partition, asked
//! from then on, resigned when the role ends. Their writes go into the log one after the other.

use crate::cluster::coordinators::logs::Appending;
use crate::cluster::coordinators::requests::READ_TOPIC;
use crate::cluster::coordinators::{Coordinators, Then};
use crate::cluster::settings::Mistake;
use crate::groups::topics::SimTopics;
use crate::replication::node::Role;
use crate::replication::scene::Scene;
use crate::transactions::partition::{KeyAndValue, batch_of};
use crate::world::{MS, S};
use odradek::codec::control_record::EndMarker;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::group_record::GroupRecord;
use odradek::codec::record_batch::BatchView;
use odradek::codec::records::Records;
use odradek::codec::transaction_record::TransactionRecord;
use odradek::group::consumer::ConsumerSettings;
use odradek::group::coordinator::Coordinator as Groups;
use odradek::group::{self, GROUPS_TOPIC, Moment, Settings};
use odradek::txn::coordinator::Coordinator as Transactions;
use odradek::txn::{self, TRANSACTIONS_TOPIC, Writer};
use odradek::types::{CoordinatorEpoch, Mono, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Between two looks for transactions and sessions whose time is over.
const LOOK_INTERVAL: u64 = 300 * MS;

/// Units of what takes a coordinator long.
const WORK_STEP: usize = 1000;

/// Batches that are read before others may run.
const BATCHES_MAX: u64 = 20;

/// A coordinator of one kind.
pub enum Machine {
    Groups(Box<Groups>),
    Transactions(Box<Transactions>),
}

/// What one has decided.
#[derive(Default)]
pub struct Effects {
    pub groups: Vec<group::Effect>,
    pub transactions: Vec<txn::Effect>,
}

/// The answer of one.
pub enum Answer {
    Group(group::Answer),
    Transaction(txn::Answer),
}

/// Lives: while a node leads a partition with a coordinator's state, and until its last write has ended.
pub struct Served {
    pub node: usize,
    pub partition: usize,
    pub epoch: i32,
    machine: Machine,
    /// Where its log is to be read on; `None` once it is loaded.
    reads_at: Option<u64>,
    /// Writes that are not in the log.
    lane: VecDeque<u64>,
    is_appending: bool,
    has_ended: bool,
}

impl Served {
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}

/// Somebody who waits for an answer.
struct Waiting {
    node: usize,
    then: Then<Answer>,
}

/// Lives: one per seed.
#[derive(Default)]
pub struct Serving {
    served: BTreeMap<u64, Served>,
    next_served: u64,
    /// By node and partition.
    current: BTreeMap<(usize, usize), u64>,
    waiting: BTreeMap<u64, Waiting>,
    next_ticket: u64,
    /// Who has loaded each partition last.
    last: BTreeMap<usize, usize>,
}

impl Serving {
    /// One that can be asked. Errors: why there is none.
    pub fn ready(&self, id: usize, partition: usize) -> Result<u64, ErrorCode> {
        let key = *self.current.get(&(id, partition)).ok_or(ErrorCode::NotCoordinator)?;
        match self.served[&key].reads_at {
            Some(_) => Err(ErrorCode::CoordinatorLoadInProgress),
            None => Ok(key),
        }
    }

    pub fn served(&self, key: u64) -> Option<&Served> {
        self.served.get(&key)
    }

    pub fn groups(&self, key: u64) -> &Groups {
        match &self.served[&key].machine {
            Machine::Groups(groups) => groups,
            Machine::Transactions(_) => unreachable!("it is one of groups"),
        }
    }

    fn crash(&mut self, id: usize) {
        self.served.retain(|_, served| served.node != id);
        self.current.retain(|(node, _), _| *node != id);
        self.waiting.retain(|_, waiting| waiting.node != id);
    }
}

impl Machine {
    /// Under the epoch of the partition's leader.
    fn empty(name: &str, epoch: i32) -> Option<Machine> {
        let week = Duration::from_secs(7 * 86_400);
        match name {
            GROUPS_TOPIC => {
                let settings = Settings {
                    session_timeout_min: Duration::from_secs(1),
                    session_timeout_max: Duration::from_secs(60),
                    initial_rebalance_delay: Duration::ZERO,
                    size_max: usize::MAX,
                    offset_metadata_max: 4096,
                    offsets_retention: week,
                };
                let consumers = ConsumerSettings {
                    session_timeout: Duration::from_secs(6),
                    heartbeat_interval: Duration::from_secs(1),
                    ..ConsumerSettings::default()
                };
                let topics = SimTopics::default();
                topics.set(READ_TOPIC, 4);
                let groups = Groups::new(settings).with_consumers(consumers, Rc::new(topics));
                Some(Machine::Groups(Box::new(groups)))
            }
            TRANSACTIONS_TOPIC => {
                let settings = txn::Settings { timeout_max: Duration::from_secs(60), id_expiration: week };
                let epoch = CoordinatorEpoch(epoch);
                Some(Machine::Transactions(Box::new(Transactions::new(settings, epoch))))
            }
            _ => None,
        }
    }

    fn replay(&mut self, bytes: &[u8]) {
        let (view, _) = BatchView::split_first(bytes).expect("it was written");
        let groups = match self {
            Machine::Groups(groups) => groups,
            Machine::Transactions(transactions) => {
                for record in Records::new(view.payload(), view.record_count()) {
                    let record = record.expect("it was written");
                    let record = TransactionRecord::decode(record.key, record.value);
                    transactions.apply(record.expect("as it was written").expect("of a kind that is known"));
                }
                return;
            }
        };
        if view.is_control() {
            let marker = EndMarker::read(&view).expect("nothing else is written");
            return groups.transaction_ended(marker.producer, marker.outcome);
        }
        let producer = view.writer().map(|(producer, _)| producer).filter(|_| view.is_transactional());
        for record in Records::new(view.payload(), view.record_count()) {
            let record = record.expect("it was written");
            let record = GroupRecord::decode(record.key, record.value).expect("as it was written");
            let record = record.expect("of a kind that is known");
            match producer {
                Some(producer) => groups.apply_in_transaction(producer, &record),
                None => groups.apply(&record),
            }
        }
    }

    fn batch(&self, write: u64, now: Timestamp) -> Vec<u8> {
        let groups = match self {
            Machine::Groups(groups) => groups,
            Machine::Transactions(transactions) => {
                let record = transactions.record(txn::WriteId(write)).expect("it is on its way");
                return batch_of(&[(Some(record.encode_key()), record.encode_value())], None, false, now);
            }
        };
        let write = group::WriteId(write);
        let records = groups.records(write).iter();
        let records: Vec<KeyAndValue> =
            records.map(|record| (Some(record.encode_key()), record.encode_value())).collect();
        let writer = groups.writer(write).map(|(producer, epoch)| (Writer { producer, epoch }, None));
        batch_of(&records, writer, writer.is_some(), now)
    }

    fn finished(&mut self, write: u64, result: Result<(), ErrorCode>, now: Moment, effects: &mut Effects) {
        match self {
            Machine::Groups(groups) => {
                groups.finished(group::WriteId(write), result, now, &mut effects.groups);
            }
            Machine::Transactions(transactions) => {
                transactions.finished(txn::WriteId(write), result, now.wall, &mut effects.transactions);
            }
        }
    }

    fn resign(&mut self, now: Moment, effects: &mut Effects) {
        match self {
            Machine::Groups(groups) => groups.resign(now, &mut effects.groups),
            Machine::Transactions(transactions) => transactions.resign(&mut effects.transactions),
        }
    }
}

impl Scene {
    fn moment(&self) -> Moment {
        Moment { mono: Mono(S * 1000 + self.world.now() * 1000), wall: self.wall() }
    }

    fn serving(&mut self) -> &mut Serving {
        &mut self.coordinators().serving
    }

    /// A node begins to lead a partition, or does anew.
    pub fn coordinates(&mut self, id: usize, partition: usize) {
        if !self.is_coordinated(partition) {
            return;
        }
        self.opens_led_log(id, partition);
        let replica = &self.nodes[id].replicas[&partition];
        let (epoch, is_empty) = (replica.epoch, replica.log.end() == replica.log.start());
        let at = replica.log.start();
        let Some(machine) = Machine::empty(&self.coordinated().names[&partition], epoch) else { return };
        let serving = self.serving();
        if serving.current.contains_key(&(id, partition)) {
            return; // A mistake: it was never told that it is over.
        }
        serving.next_served += 1;
        let key = serving.next_served;
        let served = Served {
            node: id,
            partition,
            epoch,
            machine,
            reads_at: Some(at),
            lane: VecDeque::new(),
            is_appending: false,
            has_ended: false,
        };
        serving.served.insert(key, served);
        serving.current.insert((id, partition), key);
        match is_empty {
            true => self.is_loaded(key),
            false => self.after_at(self.world.below(5 * MS), id, move |scene| scene.load(key)),
        }
    }

    /// The role ends.
    pub fn coordinates_no_more(&mut self, id: usize, partition: usize) {
        if !self.is_coordinated(partition) {
            return;
        }
        self.coordinators().logs.is_led_no_more(id, partition);
        if self.errs(Mistake::CoordinatorStays) {
            return;
        }
        let Some(key) = self.serving().current.remove(&(id, partition)) else { return };
        self.world.count("coordinator: resigns");
        self.serving().served.get_mut(&key).expect("it is current").has_ended = true;
        self.coordinate(key, |machine, now, effects| machine.resign(now, effects));
    }

    pub fn coordinators_crash(&mut self, id: usize) {
        let Some(Coordinators { logs, serving, calls, markings, .. }) = self.coordinators.as_deref_mut()
        else {
            return;
        };
        markings.crash(|key| serving.served(key).is_some_and(|served| served.node == id));
        logs.crash(id);
        serving.crash(id);
        calls.crash(id);
    }

    /// Reads on, up to the high watermark: what the leader before has kept may lie beyond as long as that is not known.
    fn load(&mut self, key: u64) {
        let Some(served) = self.serving().served.get(&key).filter(|served| !served.has_ended) else { return };
        let (id, partition) = (served.node, served.partition);
        let Some(at) = served.reads_at else { return };
        let Some(replica) = self.nodes[id].replicas.get(&partition) else { return };
        let Role::Leader(leader) = &replica.role else { return };
        let high_watermark = leader.high_watermark().get();
        let is_known = leader.latest().is_ok() || self.errs(Mistake::LoadedTooEarly);
        let batches = replica.log.memory.from_offset(at).iter();
        let batches = batches.take_while(|batch| batch.end() <= high_watermark);
        let batches: Vec<_> = batches.take(self.world.between(1, BATCHES_MAX) as usize).copied().collect();
        let Coordinators { logs, serving, .. } = self.coordinators.as_deref_mut().expect("it has some");
        let served = serving.served.get_mut(&key).expect("looked up above");
        for batch in &batches {
            served.machine.replay(&logs.bytes(batch));
        }
        let at = batches.last().map_or(at, |batch| batch.end());
        served.reads_at = Some(at);
        if at >= high_watermark {
            if is_known {
                return self.is_loaded(key);
            }
            self.world.count("coordinator: waits for the high watermark");
        }
        self.after_at(self.world.between(MS, 10 * MS), id, move |scene| scene.load(key));
    }

    fn is_loaded(&mut self, key: u64) {
        let served = self.serving().served.get_mut(&key).expect("it was loaded");
        served.reads_at = None;
        let (id, partition, epoch) = (served.node, served.partition, served.epoch);
        self.world.count("coordinator: loaded");
        self.world.note(format_args!("node {id} coordinates {partition} under {epoch}"));
        if self.serving().last.insert(partition, id).is_some_and(|last| last != id) {
            self.world.count("coordinator: failed over");
        }
        self.check_loaded(key);
        let ids_max = if self.errs(Mistake::DecidedNotResumed) { 0 } else { usize::MAX };
        let mut goes_on = false;
        // What was decided goes on, before anything else is asked.
        self.coordinate(key, |machine, now, effects| match machine {
            Machine::Groups(groups) => {
                for group in groups.ids_after(None, usize::MAX) {
                    groups.loaded(&group, now, &mut effects.groups);
                }
            }
            Machine::Transactions(transactions) => {
                for id in transactions.ids_after(None, ids_max) {
                    transactions.loaded(&id, &mut effects.transactions);
                }
                goes_on = !effects.transactions.is_empty();
            }
        });
        if goes_on {
            self.world.count("coordinator: a decided transaction goes on");
        }
        self.after_at(LOOK_INTERVAL, id, move |scene| scene.look_at_time(key));
    }

    fn look_at_time(&mut self, key: u64) {
        let Some(served) = self.serving().served.get(&key).filter(|served| !served.has_ended) else { return };
        let id = served.node;
        let mut is_aborted = false;
        self.coordinate(key, |machine, now, effects| match machine {
            Machine::Groups(groups) => {
                if groups.next_deadline().is_some_and(|deadline| deadline <= now.mono) {
                    groups.expire(now, &mut effects.groups);
                }
            }
            Machine::Transactions(transactions) => {
                for id in transactions.ids_after(None, usize::MAX) {
                    is_aborted |= transactions.abort_timed_out(&id, now.wall, &mut effects.transactions);
                }
            }
        });
        if is_aborted {
            self.world.count("transaction: timed out");
        }
        self.after_at(LOOK_INTERVAL, id, move |scene| scene.look_at_time(key));
    }

    // --- Decisions

    /// Asks a coordinator something whose answer may take a while.
    pub fn ask_groups(
        &mut self,
        key: u64,
        ask: impl FnOnce(&mut Groups, group::Ticket, Moment, &mut Vec<group::Effect>),
        then: impl FnOnce(&mut Scene, group::Answer) + 'static,
    ) {
        let ticket = self.waits_for(
            key,
            Box::new(|scene, answer| {
                let Answer::Group(answer) = answer else { unreachable!("it is one of groups") };
                then(scene, answer);
            }),
        );
        self.coordinate(key, |machine, now, effects| {
            let Machine::Groups(groups) = machine else { unreachable!("it is one of groups") };
            ask(groups, group::Ticket(ticket), now, &mut effects.groups);
        });
    }

    pub fn ask_transactions(
        &mut self,
        key: u64,
        ask: impl FnOnce(&mut Transactions, txn::Ticket, Moment, &mut Vec<txn::Effect>),
        then: impl FnOnce(&mut Scene, txn::Answer) + 'static,
    ) -> u64 {
        let ticket = self.waits_for(
            key,
            Box::new(|scene, answer| {
                let Answer::Transaction(answer) = answer else { unreachable!("it is one of transactions") };
                then(scene, answer);
            }),
        );
        self.tell_transactions(key, |transactions, now, effects| {
            ask(transactions, txn::Ticket(ticket), now, effects);
        });
        ticket
    }

    /// What is to be added takes too long: it is not made behind the back of who was told otherwise.
    pub fn give_up_addition(&mut self, key: u64, id: &str, ticket: u64) {
        let Some(Waiting { then, .. }) = self.serving().waiting.remove(&ticket) else { return };
        self.tell_transactions(key, |transactions, _, _| transactions.give_up(id, txn::Ticket(ticket)));
        then(self, Answer::Transaction(txn::Answer::Added(Err(ErrorCode::ConcurrentTransactions))));
    }

    pub fn tell_groups(&mut self, key: u64, tell: impl FnOnce(&mut Groups)) {
        self.coordinate(key, |machine, _, _| {
            let Machine::Groups(groups) = machine else { unreachable!("it is one of groups") };
            tell(groups);
        });
    }

    pub fn tell_transactions(
        &mut self,
        key: u64,
        tell: impl FnOnce(&mut Transactions, Moment, &mut Vec<txn::Effect>),
    ) {
        self.coordinate(key, |machine, now, effects| {
            let Machine::Transactions(transactions) = machine else { unreachable!("it is one of these") };
            tell(transactions, now, &mut effects.transactions);
        });
    }

    fn waits_for(&mut self, key: u64, then: Then<Answer>) -> u64 {
        let serving = self.serving();
        serving.next_ticket += 1;
        let ticket = serving.next_ticket;
        let node = serving.served[&key].node;
        serving.waiting.insert(ticket, Waiting { node, then });
        ticket
    }

    /// Decides something, then carries it out.
    fn coordinate(&mut self, key: u64, decide: impl FnOnce(&mut Machine, Moment, &mut Effects)) {
        let now = self.moment();
        let mut effects = Effects::default();
        let Some(served) = self.serving().served.get_mut(&key) else { return };
        decide(&mut served.machine, now, &mut effects);
        if let Machine::Groups(groups) = &mut served.machine {
            while groups.has_work() {
                groups.work(WORK_STEP, now, &mut effects.groups);
            }
        }
        for effect in effects.groups {
            match effect {
                group::Effect::Answer(group::Ticket(ticket), answer) => {
                    self.answers(ticket, Answer::Group(answer));
                }
                group::Effect::Write(group::WriteId(write)) => self.writes(key, write),
            }
        }
        for effect in effects.transactions {
            match effect {
                txn::Effect::Answer(txn::Ticket(ticket), answer) => {
                    self.answers(ticket, Answer::Transaction(answer));
                }
                txn::Effect::Write(txn::WriteId(write)) => self.writes(key, write),
                txn::Effect::Mark(marking) => self.begin_marking(key, marking),
            }
        }
    }

    fn answers(&mut self, ticket: u64, answer: Answer) {
        if let Some(Waiting { then, .. }) = self.serving().waiting.remove(&ticket) {
            then(self, answer);
        }
    }

    fn writes(&mut self, key: u64, write: u64) {
        let served = self.serving().served.get_mut(&key).expect("it has decided");
        served.lane.push_back(write);
        if !std::mem::replace(&mut served.is_appending, true) {
            let id = served.node;
            self.after_at(self.world.below(MS), id, move |scene| scene.append_next(key));
        }
    }

    /// The next of its writes is appended.
    fn append_next(&mut self, key: u64) {
        let now = self.wall();
        let Some(served) = self.serving().served.get_mut(&key) else { return };
        let Some(write) = served.lane.pop_front() else {
            served.is_appending = false;
            return;
        };
        let (id, partition, bytes) = (served.node, served.partition, served.machine.batch(write, now));
        if served.has_ended {
            // Whoever coordinates by now has not heard of it.
            self.finished(key, write, Err(ErrorCode::NotLeaderOrFollower));
        } else {
            let then: Then<_> = Box::new(move |scene, result| scene.finished(key, write, result));
            self.append_coordinated(id, partition, Appending::Batch(bytes), then);
            if self.errs(Mistake::CoordinatorAnswersEarly) {
                self.finished(key, write, Ok(()));
            }
        }
        self.after_at(self.world.below(2 * MS), id, move |scene| scene.append_next(key));
    }

    fn finished(&mut self, key: u64, write: u64, result: Result<(), ErrorCode>) {
        if let Err(error) = result {
            self.world.count("coordinator: a write is not kept");
            self.world.note(format_args!("write {write} of coordinator {key}: {error:?}"));
        }
        self.coordinate(key, |machine, now, effects| machine.finished(write, result, now, effects));
    }
}
