//! The coordinator of the groups whose offsets are committed in transactions: its writes go to the partition of
//! `__consumer_offsets`, where markers decide them. As `odradek::shard::groups` does it.

use crate::transactions::cluster::Cluster;
use crate::transactions::partition::{Content, Partition, Stored, batch_of};
use crate::transactions::produce::verify;
use crate::transactions::request::{Place, Write};
use crate::transactions::scene::Scene;
use crate::transactions::settings::{MS, Mistake, S, check};
use crate::world::Signal;
use futures::channel::oneshot;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use odradek::codec::control_record::TransactionOutcome;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::group_record::GroupRecord;
use odradek::codec::record_batch::BatchProducer;
use odradek::group::coordinator::Coordinator;
use odradek::group::{Answer, Effect, Moment, Settings, Ticket, WriteId};
use odradek::txn::Writer;
use odradek::types::{Mono, ProducerId, Sequence};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// What is committed is of partitions of this topic.
const READ_TOPIC: &str = "input";

/// The offset of one partition, for a group: its number, and where it stands in the log.
type Committed = BTreeMap<(String, i32), i64>;

enum State {
    Down,
    Loading,
    Ready(Box<Coordinator>),
}

/// Lives: one per seed; its runs are those of its partition.
pub struct Groups {
    scene: Rc<Scene>,
    partition: Rc<Partition>,
    state: RefCell<State>,
    lane: RefCell<VecDeque<WriteId>>,
    lane_filled: Signal,
    waiting: RefCell<BTreeMap<Ticket, oneshot::Sender<Result<(), ErrorCode>>>>,
    next_ticket: Cell<u64>,
}

impl Groups {
    pub fn new(scene: &Rc<Scene>, partition: &Rc<Partition>) -> Rc<Groups> {
        Rc::new(Groups {
            scene: scene.clone(),
            partition: partition.clone(),
            state: RefCell::new(State::Down),
            lane: RefCell::default(),
            lane_filled: Signal::default(),
            waiting: RefCell::default(),
            next_ticket: Cell::new(0),
        })
    }

    fn moment(&self) -> Moment {
        Moment { mono: Mono(S * 1000 + self.scene.world.now() * 1000), wall: self.scene.now() }
    }

    fn refusal(&self) -> Option<Option<ErrorCode>> {
        match &*self.state.borrow() {
            State::Down => Some(None),
            State::Loading => Some(Some(ErrorCode::CoordinatorLoadInProgress)),
            State::Ready(_) => None,
        }
    }

    /// TxnOffsetCommit of one partition, or OffsetCommit. `None`: the connection has ended.
    pub async fn commit(
        self: &Rc<Self>,
        cluster: &Rc<Cluster>,
        id: &str,
        write: Write,
    ) -> Option<Result<(), ErrorCode>> {
        if let Some(refusal) = self.refusal() {
            return refusal.map(Err);
        }
        let Place::Offset { group, of } = write.place else { unreachable!("it is an offset") };
        let request = request_of(group, of, write.number);
        let writer = write.is_transactional.then_some((write.writer.producer, write.writer.epoch));
        if let Some((id_of_producer, epoch)) = writer {
            // What is committed is not numbered.
            let first = Sequence(0);
            let batch = BatchProducer {
                id: id_of_producer,
                epoch,
                base_sequence: first,
                last_sequence: first,
                is_transactional: true,
            };
            let run = self.partition.run.get();
            let verified = verify(cluster, &self.partition, id, &batch, write.claim).await?;
            if let Err(error) = verified {
                return Some(Err(odradek::group::coordinator::write_error(error)));
            }
            if self.partition.run.get() != run {
                return None;
            }
            if let Some(refusal) = self.refusal() {
                return refusal.map(Err);
            }
        }
        self.next_ticket.set(self.next_ticket.get() + 1);
        let ticket = Ticket(self.next_ticket.get());
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(ticket, sender);
        self.decide(|coordinator, now, effects| match writer {
            Some(writer) => coordinator.commit_in_transaction(writer, request, ticket, now, effects),
            None => coordinator.commit(8, request, ticket, now, effects),
        });
        receiver.await.ok()
    }

    /// Whether the group's offsets are stable, as OffsetFetch tells.
    pub fn fetch(&self, group: usize) -> Option<Result<(), ErrorCode>> {
        if let Some(refusal) = self.refusal() {
            return refusal.map(Err);
        }
        let State::Ready(coordinator) = &*self.state.borrow() else { unreachable!("it is ready") };
        let name = group_name(group);
        let is_unstable = (0..4).any(|of| coordinator.is_unstable(&name, READ_TOPIC, of));
        Some(if is_unstable { Err(ErrorCode::UnstableOffsetCommit) } else { Ok(()) })
    }

    /// A marker has been flushed. What is still loading reads it.
    pub fn transaction_ended(self: &Rc<Self>, producer: ProducerId, outcome: TransactionOutcome) {
        if self.scene.makes(Mistake::OffsetsNotEnded) {
            return;
        }
        let outcome = match self.scene.makes(Mistake::OffsetsAlwaysCommitted) {
            true => TransactionOutcome::Commit,
            false => outcome,
        };
        self.decide(|coordinator, _, _| coordinator.transaction_ended(producer, outcome));
    }

    fn decide(self: &Rc<Self>, decide: impl FnOnce(&mut Coordinator, Moment, &mut Vec<Effect>)) {
        let now = self.moment();
        let mut effects = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let State::Ready(coordinator) = &mut *state else { return };
            decide(coordinator, now, &mut effects);
        }
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => {
                    let Answer::Commit(response) = answer else { unreachable!("only commits are asked for") };
                    let code = response.topics[0].partitions[0].error_code;
                    let error = ErrorCode::from_wire(code).expect("the broker's own");
                    let result = if error == ErrorCode::None { Ok(()) } else { Err(error) };
                    match self.waiting.borrow_mut().remove(&ticket) {
                        Some(sender) => drop(sender.send(result)),
                        None => {
                            let what = format!("{ticket:?} of a group is answered twice");
                            self.scene.world.finding(check::ANSWERED, format_args!("{what}"));
                        }
                    }
                }
                Effect::Write(write) => {
                    self.lane.borrow_mut().push_back(write);
                    self.lane_filled.notify();
                }
            }
        }
    }

    async fn run_lane(self: Rc<Self>, run: u64) {
        while self.partition.run.get() == run {
            let next = self.lane.borrow_mut().pop_front();
            let Some(write) = next else {
                self.lane_filled.notified().await;
                continue;
            };
            self.scene.wait_for_room().await;
            if self.partition.run.get() == run {
                self.append(run, write);
            }
        }
    }

    fn append(self: &Rc<Self>, run: u64, write: WriteId) {
        let (records, writer) = match &*self.state.borrow() {
            State::Ready(coordinator) => (coordinator.records(write).to_vec(), coordinator.writer(write)),
            State::Down | State::Loading => unreachable!("it has decided"),
        };
        let encoded: Vec<_> =
            records.iter().map(|record| (Some(record.encode_key()), record.encode_value())).collect();
        let writer = writer.map(|(producer, epoch)| Writer { producer, epoch });
        let bytes =
            batch_of(&encoded, writer.map(|writer| (writer, None)), writer.is_some(), self.scene.now());
        let this = self.clone();
        let on_end = Box::new(move |result| {
            if this.partition.run.get() == run {
                this.decide(|coordinator, now, effects| coordinator.finished(write, result, now, effects));
            }
        });
        if let Err(error) = self.partition.append(bytes, writer, Content::Groups(records), on_end) {
            self.decide(|coordinator, now, effects| {
                coordinator.finished(write, Err(error), now, effects);
            });
        }
    }

    // --- Checks from time to time

    /// Whether the coordinator has what its log says.
    pub fn look(&self) {
        let State::Ready(coordinator) = &*self.state.borrow() else { return };
        let (committed, pending) = said(&self.partition.flushed_batches());
        for ((group, of), value) in &committed {
            let fetched = coordinator.offsets(group).and_then(|offsets| offsets.get(READ_TOPIC, *of));
            if fetched.map(|fetched| fetched.offset) != Some(*value) {
                let fetched = fetched.map(|fetched| fetched.offset);
                let what = format!("{group} {of}: {fetched:?} is fetched, {value} was committed");
                self.scene.world.finding(check::OFFSETS, format_args!("{what}"));
            }
        }
        for group in coordinator.ids_after(None, usize::MAX) {
            for (topic, of) in coordinator.offsets(&group).into_iter().flat_map(|offsets| offsets.keys()) {
                if topic != READ_TOPIC || !committed.contains_key(&(group.clone(), of)) {
                    let what = format!("{group} {topic} {of} was never committed");
                    self.scene.world.finding(check::OFFSETS, format_args!("{what}"));
                }
            }
        }
        for (group, of) in &pending {
            if !coordinator.is_unstable(group, READ_TOPIC, *of) {
                let what = format!("{group} {of} is stable while a transaction is open");
                self.scene.world.finding(check::OFFSETS, format_args!("{what}"));
            }
        }
    }

    /// What is to be decided is nothing.
    pub fn is_stable(&self) -> bool {
        let State::Ready(coordinator) = &*self.state.borrow() else { return false };
        let groups = coordinator.ids_after(None, usize::MAX);
        !groups.iter().any(|group| (0..4).any(|of| coordinator.is_unstable(group, READ_TOPIC, of)))
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.borrow().len()
    }

    // --- Runs

    /// Its partition has crashed.
    pub fn crash(&self) {
        *self.state.borrow_mut() = State::Down;
        self.lane.borrow_mut().clear();
        self.waiting.borrow_mut().clear();
        self.lane_filled.notify();
    }

    /// Its partition has started.
    pub async fn start(self: &Rc<Self>) {
        let run = self.partition.run.get();
        *self.state.borrow_mut() = State::Loading;
        self.scene.world.sleep(self.scene.world.below(200 * MS)).await;
        if self.partition.run.get() != run {
            return;
        }
        let mut coordinator = Coordinator::new(Settings {
            session_timeout_min: Duration::from_secs(1),
            session_timeout_max: Duration::from_secs(60),
            initial_rebalance_delay: Duration::ZERO,
            size_max: usize::MAX,
            offset_metadata_max: 4096,
            offsets_retention: Duration::from_secs(7 * 86_400),
        });
        // Up to the high watermark: markers that come meanwhile are read, or told after that.
        for stored in self.partition.flushed_batches() {
            replay(&mut coordinator, &stored);
        }
        *self.state.borrow_mut() = State::Ready(Box::new(coordinator));
        self.scene.world.spawn(self.clone().run_lane(run));
        self.look();
    }
}

fn replay(coordinator: &mut Coordinator, stored: &Stored) {
    match &stored.content {
        Content::Marker(marker) => coordinator.transaction_ended(marker.producer, marker.outcome),
        Content::Groups(records) => {
            for record in records {
                let (key, value) = (record.encode_key(), record.encode_value());
                let read = GroupRecord::decode(Some(&key), value.as_deref());
                assert_eq!(read.as_ref().map(Option::as_ref), Ok(Some(record)), "as it was written");
                match stored.writer {
                    Some(writer) => coordinator.apply_in_transaction(writer.producer, record),
                    None => coordinator.apply(record),
                }
            }
        }
        Content::Record(_) => unreachable!("nobody produces to it"),
    }
}

/// What a log says, told by a model: the committed offsets, and those that are undecided.
fn said(batches: &[Stored]) -> (Committed, Vec<(String, i32)>) {
    let mut committed: BTreeMap<(String, i32), (u64, i64)> = BTreeMap::new();
    let mut pending: BTreeMap<(ProducerId, String, i32), (u64, i64)> = BTreeMap::new();
    let mut commit = |key: (String, i32), value: (u64, i64)| {
        let place = committed.entry(key).or_insert(value);
        *place = value.max(*place);
    };
    for stored in batches {
        match &stored.content {
            Content::Marker(marker) => {
                let of_producer = pending.extract_if(.., |(producer, ..), _| *producer == marker.producer);
                for ((_, group, of), value) in of_producer {
                    if marker.outcome == TransactionOutcome::Commit {
                        commit((group, of), value);
                    }
                }
            }
            Content::Groups(records) => {
                for (at, record) in (stored.base..).zip(records) {
                    let GroupRecord::Offset { group, partition, value: Some(value), .. } = record else {
                        continue;
                    };
                    let value = (at, value.offset);
                    match stored.writer {
                        Some(writer) => {
                            pending.insert((writer.producer, group.clone(), *partition), value);
                        }
                        None => commit((group.clone(), *partition), value),
                    }
                }
            }
            Content::Record(_) => {}
        }
    }
    let pending = pending.into_keys().map(|(_, group, of)| (group, of)).collect();
    (committed.into_iter().map(|(key, (_, value))| (key, value)).collect(), pending)
}

pub fn group_name(group: usize) -> String {
    format!("g{group}")
}

/// The numbers of the offsets that a batch commits.
pub fn numbers(records: &[GroupRecord]) -> impl Iterator<Item = u64> {
    records.iter().filter_map(|record| match record {
        GroupRecord::Offset { value: Some(value), .. } => Some(value.offset as u64),
        _ => None,
    })
}

fn request_of(group: usize, of: i32, number: u64) -> OffsetCommitRequest {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(of)
        .with_committed_offset(number as i64)
        .with_committed_leader_epoch(-1);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(READ_TOPIC)))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(&group_name(group))))
        .with_generation_id_or_member_epoch(-1)
        .with_retention_time_ms(-1)
        .with_topics(vec![topic])
}
