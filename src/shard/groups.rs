//! The coordinators of the partitions of `__consumer_offsets` that this shard owns: carries out what
//! [`group`](crate::group) decides.
//!
//! ```text
//! request ─► coordinator ─► answers ─────────────────────────────────────► who waits for that ticket
//!                 ▲     └─► writes ─► lane ─► log ─► flushed ─► finished ─┐
//!                 └───────────────────────────────────────────────────────┘
//! ```
//!
//! A partition's writes go to its log one after the other, as they were decided; they are flushed like any
//! batch. One task of the shard waits for the next deadline of all its coordinators.

mod in_transactions;
mod load;
mod topics;

pub use in_transactions::transaction_ended;

use crate::cluster::image::Image;
use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::GroupRecord;
use crate::codec::record_batch::{BatchHeader, Compression, UNSEQUENCED, write_batch};
use crate::codec::records::{NewRecord, write_record};
use crate::group::assignor::Assignor;
use crate::group::consumer::regex::Patterns;
use crate::group::consumer::{ConsumerSettings, Migration};
use crate::group::coordinator::{Coordinator, TransactionWriter};
use crate::group::offsets::GroupOffsets;
use crate::group::{Answer, Caller, Effect, GROUPS_TOPIC, Moment, Settings, Ticket, WriteId};
use crate::shard::Shard;
use crate::shard::answers::{Answers, Wait};
use crate::shard::api::produce;
use crate::shard::event::Signal;
use crate::shard::message::{ProduceOutcome, TransactionClaim};
use crate::shard::step::Pace;
use crate::shard::store::AckTarget;
use crate::types::limits::{GROUP_BATCH_SIZE_MAX, GROUP_WORK_STEP};
use crate::types::{Mono, PartitionIndex, Timestamp, TopicId, TopicPartition, Uuid};
use futures::future::select;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, SyncGroupRequest, TopicName,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Groups that are looked at before others may run.
const GROUPS_STEP: usize = 16;

/// A log that could not be read is tried again after this long at the earliest.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// A question to the coordinator of one group.
pub struct GroupCall {
    /// Of `__consumer_offsets`.
    pub partition: TopicPartition,
    pub caller: Caller,
    pub request: GroupRequest,
}

pub enum GroupRequest {
    Join(JoinGroupRequest),
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    /// As versions from 3 on have it.
    Leave(LeaveGroupRequest),
    Commit(OffsetCommitRequest),
    /// A TxnOffsetCommit.
    CommitInTransaction {
        request: OffsetCommitRequest,
        writer: TransactionWriter,
        claim: TransactionClaim,
    },
    Fetch {
        group: String,
        /// Who asks, and in which epoch, if that is said.
        member: (Option<String>, i32),
        /// `None`: of all topics.
        topics: Option<Vec<(TopicName, Vec<i32>)>>,
        /// Whether offsets that open transactions may change are told.
        stability: Stability,
    },
    Describe {
        group: String,
    },
    DeleteGroup {
        group: String,
    },
    DeleteOffsets(OffsetDeleteRequest),
    ConsumerHeartbeat(ConsumerGroupHeartbeatRequest),
    ConsumerDescribe {
        group: String,
    },
}

pub enum GroupReply {
    Answer(Answer),
    Fetched(Vec<(TopicName, Vec<FetchedOffset>)>),
    Described(DescribedGroup),
    ConsumerDescribed(Box<DescribedConsumerGroup>),
    /// Nothing was looked at.
    Refused(ErrorCode),
}

/// A committed offset of one partition, if there is one.
pub struct FetchedOffset {
    pub partition: i32,
    pub committed: Option<Committed>,
    /// An open transaction may change it, and that matters to who asks.
    pub is_unstable: bool,
}

/// Which offsets a consumer wants (KIP-447).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    Any,
    /// Those that no open transaction may change.
    Stable,
}

pub struct Committed {
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub metadata: String,
}

/// Lives: one per shard.
#[derive(Default)]
pub struct Groups {
    served: RefCell<BTreeMap<TopicPartition, Rc<Served>>>,
    answers: Answers<Answer>,
    patterns: Rc<Patterns>,
    /// Until when the task that waits for deadlines sleeps; `None`: until it is told.
    sleeps_until: Cell<Option<Mono>>,
    /// There is an earlier deadline.
    earlier: Signal,
}

/// Lives: one per partition of `__consumer_offsets` of this shard, from the first look at it until the
/// partition goes.
struct Served {
    id: TopicPartition,
    state: RefCell<ServedState>,
    /// Writes that are not in the log yet; each is encoded when its turn comes. Bounded by the requests that
    /// wait for them.
    lane: RefCell<VecDeque<WriteId>>,
    lane_filled: Signal,
    /// There is what takes long, and a task that is at it.
    has_work: Cell<bool>,
    is_working: Cell<bool>,
    ended: Cell<bool>,
}

enum ServedState {
    Loading,
    Failed { at: Mono },
    Ready(Box<Coordinator>),
}

impl Served {
    fn new(id: TopicPartition) -> Rc<Served> {
        Rc::new(Served {
            id,
            state: RefCell::new(ServedState::Loading),
            lane: RefCell::default(),
            lane_filled: Signal::default(),
            has_work: Cell::default(),
            is_working: Cell::default(),
            ended: Cell::new(false),
        })
    }

    /// Decides something, then carries it out. `None` while the log is not loaded.
    fn decide<T>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        decide: impl FnOnce(&mut Coordinator, Moment, &mut Vec<Effect>) -> T,
    ) -> Option<T> {
        let now = moment(shard);
        let mut effects = Vec::new();
        let mut to_resolve = Vec::new();
        let (decided, next) = {
            let mut state = self.state.borrow_mut();
            let ServedState::Ready(coordinator) = &mut *state else { return None };
            let rebalances = coordinator.rebalances;
            let decided = decide(coordinator, now, &mut effects);
            shard.metrics.borrow_mut().group_rebalances += coordinator.rebalances - rebalances;
            to_resolve.extend(std::iter::from_fn(|| coordinator.next_to_resolve()));
            self.has_work.set(coordinator.has_work());
            (decided, coordinator.next_deadline())
        };
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => shard.groups.answers.complete(ticket.0, answer),
                Effect::Write(write) => {
                    self.lane.borrow_mut().push_back(write);
                    self.lane_filled.notify();
                }
            }
        }
        if self.has_work.get() && !self.is_working.replace(true) {
            shard.spawn(work(shard.clone(), self.clone()));
        }
        for asked in to_resolve {
            shard.spawn(topics::resolve(shard.clone(), self.clone(), asked));
        }
        shard.groups.look_by(next);
        Some(decided)
    }

    /// The batch of a write; `None` if it is too large for the log.
    fn batch(&self, shard: &Shard, write: WriteId) -> Option<Vec<u8>> {
        let allowed = shard.stores.find(&self.id).map_or(usize::MAX, |replica| {
            let log = replica.log.borrow();
            log.config.batch_size_max.min(usize::try_from(log.config.segment_size_max).unwrap_or(usize::MAX))
        });
        match &*self.state.borrow() {
            ServedState::Ready(coordinator) => {
                let (records, writer) = (coordinator.records(write), coordinator.writer(write));
                let batch = batch_of(records, writer, shard.clock.wall(), allowed.min(GROUP_BATCH_SIZE_MAX));
                if batch.is_none() {
                    let size = records.iter().map(GroupRecord::size).sum::<usize>();
                    let group = records.first().map_or("", GroupRecord::group);
                    tracing::error!(
                        group,
                        size,
                        allowed,
                        "what is to be kept of a group is larger than its log takes: raise max.message.bytes of \
                         {GROUPS_TOPIC}"
                    );
                }
                batch
            }
            ServedState::Loading | ServedState::Failed { .. } => unreachable!("it has decided"),
        }
    }

    fn has_consumers(&self, group: &str) -> bool {
        match &*self.state.borrow() {
            ServedState::Ready(coordinator) => coordinator.is_consumer_group(group),
            ServedState::Loading | ServedState::Failed { .. } => false,
        }
    }

    fn end(self: &Rc<Self>, shard: &Rc<Shard>) {
        if !self.ended.replace(true) {
            self.decide(shard, |coordinator, now, effects| coordinator.resign(now, effects));
            self.lane_filled.notify();
        }
    }
}

impl Groups {
    /// Sees to it that a deadline is not slept through.
    fn look_by(&self, deadline: Option<Mono>) {
        let Some(deadline) = deadline else { return };
        if self.sleeps_until.get().is_none_or(|until| deadline < until) {
            self.earlier.notify();
        }
    }

    fn served(&self) -> Vec<Rc<Served>> {
        self.served.borrow().values().cloned().collect()
    }

    pub fn group_count(&self) -> usize {
        let count = |served: &Rc<Served>| match &*served.state.borrow() {
            ServedState::Ready(coordinator) => coordinator.group_count(),
            ServedState::Loading | ServedState::Failed { .. } => 0,
        };
        self.served.borrow().values().map(count).sum()
    }
}

/// Records as one batch, as a producer would send it; `None` if they have more bytes than so many, in which case
/// nothing is written.
fn batch_of(
    records: &[GroupRecord],
    writer: Option<TransactionWriter>,
    now: Timestamp,
    size_max: usize,
) -> Option<Vec<u8>> {
    if records.iter().map(GroupRecord::size).sum::<usize>() > size_max {
        return None;
    }
    let mut payload = Vec::new();
    for (number, record) in (0..).zip(records) {
        let (key, value) = (record.encode_key(), record.encode_value());
        let record = NewRecord {
            timestamp_delta: 0,
            offset_delta: number,
            key: Some(&key),
            value: value.as_deref(),
            headers: &[],
        };
        write_record(&record, &mut payload);
    }
    let header = BatchHeader {
        compression: Compression::None,
        transactional: writer.is_some(),
        record_count: records.len() as u32,
        base_timestamp: now,
        max_timestamp: now,
        producer: writer.map(|(id, epoch)| (id, epoch, UNSEQUENCED)),
    };
    let mut batch = Vec::with_capacity(payload.len() + 61);
    write_batch(&header, &payload, &mut batch);
    Some(batch)
}

fn moment(shard: &Shard) -> Moment {
    Moment { mono: shard.clock.mono(), wall: shard.clock.wall() }
}

/// Tells a coordinator what became of one of its writes.
struct WriteEnd {
    shard: Weak<Shard>,
    served: Rc<Served>,
    write: WriteId,
}

impl AckTarget for WriteEnd {
    fn acknowledged(&self, _index: u32, outcome: ProduceOutcome) {
        let Some(shard) = self.shard.upgrade() else { return };
        let result = match outcome.error {
            ErrorCode::None => Ok(()),
            error => Err(error),
        };
        if let Err(error) = result {
            let partition = self.served.id.partition.index();
            tracing::warn!(partition, %error, "a change of consumer groups was not kept");
        }
        let write = self.write;
        self.served.decide(&shard, |coordinator, now, effects| {
            coordinator.finished(write, result, now, effects);
        });
    }
}

/// Appends a partition's writes, one after the other, until it goes.
async fn run_lane(shard: Rc<Shard>, served: Rc<Served>) {
    while !served.ended.get() || !served.lane.borrow().is_empty() {
        let next = served.lane.borrow_mut().pop_front();
        let Some(write) = next else {
            shard.stores.pump();
            served.lane_filled.notified().await;
            continue;
        };
        let end = WriteEnd { shard: Rc::downgrade(&shard), served: served.clone(), write };
        let target: Rc<dyn AckTarget> = Rc::new(end);
        match served.batch(&shard, write) {
            Some(mut batch) => produce::append(&shard, &target, 0, &served.id, &mut batch, None).await,
            None => {
                let error = ErrorCode::MessageTooLarge;
                target.acknowledged(0, ProduceOutcome { error, ..Default::default() });
            }
        }
    }
}

/// Goes on with what takes a coordinator long, a little at a time.
async fn work(shard: Rc<Shard>, served: Rc<Served>) {
    let mut pace = Pace::new(&shard.clock);
    while served.has_work.get() {
        pace.give_way().await;
        served.decide(&shard, |coordinator, now, effects| coordinator.work(GROUP_WORK_STEP, now, effects));
    }
    served.is_working.set(false);
}

/// Starts the work that goes on beside requests, and reads what this shard's partitions hold.
pub fn start(shard: &Rc<Shard>) {
    shard.spawn(watch_deadlines(shard.clone()));
    load_all(shard);
    let expiring = shard.clone();
    shard.spawn(async move {
        loop {
            glommio::timer::sleep(expiring.config.offsets_retention_check_interval).await;
            if expiring.is_stopping() {
                return;
            }
            load_all(&expiring); // Those that were opened late.
            expire_offsets(&expiring).await;
            // Those of deleted topics that could not be taken away are tried again.
            for served in expiring.groups.served() {
                forget_gone_topics(&expiring, &served).await;
            }
        }
    });
}

/// Ends sessions and waits when they are over.
async fn watch_deadlines(shard: Rc<Shard>) {
    // Once this node stops, whoever waits has been sent elsewhere.
    while !shard.is_stopping() {
        let next = {
            let deadline = |served: &Rc<Served>| match &*served.state.borrow() {
                ServedState::Ready(coordinator) => coordinator.next_deadline(),
                ServedState::Loading | ServedState::Failed { .. } => None,
            };
            shard.groups.served.borrow().values().filter_map(deadline).min()
        };
        let now = shard.clock.mono();
        match next {
            Some(next) if next <= now => {
                for served in shard.groups.served() {
                    served.decide(&shard, |coordinator, now, effects| coordinator.expire(now, effects));
                }
                glommio::executor().yield_now().await;
            }
            _ => {
                shard.groups.sleeps_until.set(next);
                let told = pin!(shard.groups.earlier.notified());
                match next {
                    Some(next) => {
                        select(told, pin!(glommio::timer::sleep(next.since(now)))).await;
                    }
                    None => told.await,
                }
            }
        }
    }
}

/// Decides something for every group of a coordinator, a few at a time.
async fn for_each_group(
    shard: &Rc<Shard>,
    served: &Rc<Served>,
    decide: impl Fn(&mut Coordinator, &str, Moment, &mut Vec<Effect>),
) {
    let mut pace = Pace::new(&shard.clock);
    let mut after: Option<String> = None;
    loop {
        let ids = served.decide(shard, |coordinator, now, effects| {
            let ids = coordinator.ids_after(after.as_deref(), GROUPS_STEP);
            ids.iter().for_each(|id| decide(coordinator, id, now, effects));
            ids
        });
        after = ids.and_then(|mut ids| ids.pop());
        if after.is_none() {
            return;
        }
        pace.give_way().await;
    }
}

async fn expire_offsets(shard: &Rc<Shard>) {
    for served in shard.groups.served() {
        for_each_group(shard, &served, |coordinator, id, now, effects| {
            coordinator.expire_offsets(id, now, effects);
        })
        .await;
    }
}

/// Takes away the offsets of topics that the image does not have any more.
async fn forget_gone_topics(shard: &Rc<Shard>, served: &Rc<Served>) {
    served.decide(shard, |coordinator, _, _| {
        let image = shard.image.borrow();
        coordinator.forget_in_flight(|topic| image.topic_named(topic).is_none());
    });
    for_each_group(shard, served, |coordinator, id, now, effects| {
        let image = shard.image.borrow();
        coordinator.forget_topics(id, |topic| image.topic_named(topic).is_none(), now, effects);
    })
    .await;
}

/// Topics are gone from the image: the offsets that groups have in them go too.
pub fn topics_deleted(shard: &Rc<Shard>, topics: &[TopicId]) {
    let gone: Vec<Rc<Served>> = {
        let mut served = shard.groups.served.borrow_mut();
        let gone = served.extract_if(.., |id, _| topics.contains(&id.topic));
        gone.map(|(_, served)| served).collect()
    };
    gone.iter().for_each(|served| served.end(shard));
    for served in shard.groups.served() {
        let shard = shard.clone();
        shard.clone().spawn(async move { forget_gone_topics(&shard, &served).await });
    }
}

/// Topics have come, gone or grown: groups that read them look at them with the next heartbeat.
pub fn topics_changed(shard: &Shard) {
    for served in shard.groups.served() {
        if let ServedState::Ready(coordinator) = &mut *served.state.borrow_mut() {
            coordinator.topics_changed();
        }
    }
}

/// This node stops: all that wait are sent to look elsewhere.
pub fn resign(shard: &Rc<Shard>) {
    for served in shard.groups.served() {
        served.decide(shard, |coordinator, now, effects| coordinator.resign(now, effects));
    }
    shard.groups.earlier.notify();
}

/// Begins to read every partition of this shard that is not read yet.
fn load_all(shard: &Rc<Shard>) {
    let topic = shard.image.borrow().topic_named(GROUPS_TOPIC).map(|topic| topic.id);
    let Some(topic) = topic else { return };
    for store in shard.stores.iter() {
        for replica in store.replicas_of(topic, usize::MAX) {
            find(shard, replica.id);
        }
    }
}

/// The coordinator of a partition of this shard, which is read first if need be.
fn find(shard: &Rc<Shard>, id: TopicPartition) -> Option<Rc<Served>> {
    let replica = shard.stores.find(&id)?;
    let known = shard.groups.served.borrow().get(&id).cloned();
    let served = known.unwrap_or_else(|| {
        let served = Served::new(id);
        shard.groups.served.borrow_mut().insert(id, served.clone());
        shard.spawn(run_lane(shard.clone(), served.clone()));
        load::begin(shard, &served, &replica);
        served
    });
    let failed = match &*served.state.borrow() {
        ServedState::Failed { at } => Some(*at),
        ServedState::Loading | ServedState::Ready(_) => None,
    };
    if failed.is_some_and(|at| shard.clock.mono().since(at) >= RELOAD_INTERVAL) {
        *served.state.borrow_mut() = ServedState::Loading;
        load::begin(shard, &served, &replica);
    }
    Some(served)
}

/// Why a partition cannot be asked.
fn not_ready(shard: &Rc<Shard>, id: TopicPartition) -> Result<Rc<Served>, ErrorCode> {
    if shard.is_stopping() {
        return Err(ErrorCode::NotCoordinator);
    }
    let served = find(shard, id).ok_or(ErrorCode::NotCoordinator)?;
    let error = match &*served.state.borrow() {
        ServedState::Ready(_) => None,
        ServedState::Loading => Some(ErrorCode::CoordinatorLoadInProgress),
        ServedState::Failed { .. } => Some(ErrorCode::CoordinatorNotAvailable),
    };
    error.map_or(Ok(served), Err)
}

/// Answers a question to a coordinator of this shard.
pub async fn call_local(shard: &Rc<Shard>, call: GroupCall) -> GroupReply {
    let GroupCall { partition, caller, request } = call;
    let served = match not_ready(shard, partition) {
        Ok(served) => served,
        Err(error) => return GroupReply::Refused(error),
    };
    if let GroupRequest::CommitInTransaction { writer, claim, .. } = &request
        && let Err(error) = in_transactions::verify(shard, partition, *writer, claim).await
    {
        return GroupReply::Refused(error);
    }
    if served.ended.get() {
        return GroupReply::Refused(ErrorCode::NotCoordinator);
    }
    match ask(shard, &served, &caller, request) {
        Asked::Waits(wait) => GroupReply::Answer(wait.answer().await),
        Asked::Commits(wait, unknown) => {
            let mut answer = wait.answer().await;
            if let Answer::Commit(response) = &mut answer {
                add_topics(&mut response.topics, unknown, |topic| (&topic.name, &mut topic.partitions));
            }
            GroupReply::Answer(answer)
        }
        Asked::Deletes(wait, unknown) => {
            let mut answer = wait.answer().await;
            if let Answer::DeleteOffsets(response) = &mut answer
                && response.error_code == 0
            {
                add_topics(&mut response.topics, unknown, |topic| (&topic.name, &mut topic.partitions));
            }
            GroupReply::Answer(answer)
        }
        Asked::Done(reply) => reply,
    }
}

enum Asked<'a> {
    Done(GroupReply),
    Waits(Wait<'a, Answer>),
    /// With what is answered of topics that there are not.
    Commits(Wait<'a, Answer>, Vec<OffsetCommitResponseTopic>),
    Deletes(Wait<'a, Answer>, Vec<OffsetDeleteResponseTopic>),
}

fn ask<'a>(shard: &'a Rc<Shard>, served: &Rc<Served>, caller: &Caller, request: GroupRequest) -> Asked<'a> {
    let answers = &shard.groups.answers;
    let ready = "the caller has looked";
    let done = |answer| Asked::Done(GroupReply::Answer(answer));
    match request {
        GroupRequest::Join(request) => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            let fresh = Uuid::new_v4().to_string();
            served.decide(shard, |coordinator, now, effects| {
                coordinator.join(caller, &request, &fresh, ticket, now, effects);
            });
            Asked::Waits(wait)
        }
        GroupRequest::Sync(request) => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served
                .decide(shard, |coordinator, now, effects| coordinator.sync(&request, ticket, now, effects));
            Asked::Waits(wait)
        }
        GroupRequest::Heartbeat(request) => {
            let beat = |coordinator: &mut Coordinator, now, effects: &mut Vec<Effect>| {
                coordinator.heartbeat(&request, now, effects)
            };
            done(Answer::Heartbeat(served.decide(shard, beat).expect(ready)))
        }
        GroupRequest::Leave(request) if served.has_consumers(&request.group_id.0) => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.consumer_leave_group(request, ticket, now, effects);
            });
            Asked::Waits(wait)
        }
        GroupRequest::Leave(request) => {
            let leave = |coordinator: &mut Coordinator, now, effects: &mut Vec<Effect>| {
                coordinator.leave(&request, now, effects)
            };
            done(Answer::Leave(served.decide(shard, leave).expect(ready)))
        }
        GroupRequest::Commit(mut request) => {
            let unknown = split_commit(&shard.image.borrow(), &mut request);
            if request.topics.is_empty() {
                return done(Answer::Commit(OffsetCommitResponse::default().with_topics(unknown)));
            }
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.commit(caller.version, request, ticket, now, effects);
            });
            Asked::Commits(wait, unknown)
        }
        GroupRequest::CommitInTransaction { mut request, writer, .. } => {
            let unknown = split_commit(&shard.image.borrow(), &mut request);
            if request.topics.is_empty() {
                return done(Answer::Commit(OffsetCommitResponse::default().with_topics(unknown)));
            }
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.commit_in_transaction(writer, request, ticket, now, effects);
            });
            Asked::Commits(wait, unknown)
        }
        GroupRequest::Fetch { group, member: (member, epoch), topics, stability } => {
            let fetch = |coordinator: &mut Coordinator, _, _: &mut Vec<Effect>| {
                coordinator.check_fetch(&group, member.as_deref(), epoch)?;
                let mut fetched = fetched(coordinator.offsets(&group), topics);
                if stability == Stability::Stable {
                    in_transactions::mark_unstable(coordinator, &group, &mut fetched);
                }
                Ok(fetched)
            };
            Asked::Done(match served.decide(shard, fetch).expect(ready) {
                Ok(fetched) => GroupReply::Fetched(fetched),
                Err(error) => GroupReply::Refused(error),
            })
        }
        GroupRequest::ConsumerHeartbeat(request) => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            let fresh = Uuid::new_v4().to_string();
            served.decide(shard, |coordinator, now, effects| {
                coordinator.consumer_heartbeat(caller, request, &fresh, ticket, now, effects);
            });
            Asked::Waits(wait)
        }
        GroupRequest::ConsumerDescribe { group } => {
            let describe = |coordinator: &mut Coordinator, _, _: &mut Vec<Effect>| {
                Box::new(coordinator.consumer_describe(&group, caller.version))
            };
            Asked::Done(GroupReply::ConsumerDescribed(served.decide(shard, describe).expect(ready)))
        }
        GroupRequest::Describe { group } => {
            let describe = |coordinator: &mut Coordinator, _, _: &mut Vec<Effect>| {
                coordinator.describe(&group, caller.version)
            };
            Asked::Done(GroupReply::Described(served.decide(shard, describe).expect(ready)))
        }
        GroupRequest::DeleteGroup { group } => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.delete_group(&group, ticket, now, effects);
            });
            Asked::Waits(wait)
        }
        GroupRequest::DeleteOffsets(mut request) => {
            let unknown = split_deletion(&shard.image.borrow(), &mut request);
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.delete_offsets(request, ticket, now, effects);
            });
            Asked::Deletes(wait, unknown)
        }
    }
}

fn has_partition(image: &Image, topic: &str, partition: i32) -> bool {
    let index = PartitionIndex::from_wire(partition);
    let topic = image.topic_named(topic);
    topic.zip(index).is_some_and(|(topic, index)| index.index() < topic.partitions.len())
}

/// Takes out of a request what is of topics and partitions that there are not.
fn take_unknown<T, P>(
    image: &Image,
    topics: &mut Vec<T>,
    parts: impl for<'a> Fn(&'a mut T) -> (&'a TopicName, &'a mut Vec<P>),
    index: impl Fn(&P) -> i32,
) -> Vec<(TopicName, Vec<i32>)> {
    let mut unknown = Vec::new();
    topics.retain_mut(|topic| {
        let (name, partitions) = parts(topic);
        let gone = partitions.extract_if(.., |partition| !has_partition(image, name, index(partition)));
        let gone: Vec<i32> = gone.map(|partition| index(&partition)).collect();
        if !gone.is_empty() {
            unknown.push((name.clone(), gone));
        }
        !partitions.is_empty()
    });
    unknown
}

/// The same of a commit; returns the answers to it.
fn split_commit(image: &Image, request: &mut OffsetCommitRequest) -> Vec<OffsetCommitResponseTopic> {
    let unknown = take_unknown(
        image,
        &mut request.topics,
        |topic| (&topic.name, &mut topic.partitions),
        |partition| partition.partition_index,
    );
    let refused = |index| {
        OffsetCommitResponsePartition::default()
            .with_partition_index(index)
            .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
    };
    let answer = |(name, gone): (TopicName, Vec<i32>)| {
        let partitions = gone.into_iter().map(refused).collect();
        OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions)
    };
    unknown.into_iter().map(answer).collect()
}

/// The same of a deletion.
fn split_deletion(image: &Image, request: &mut OffsetDeleteRequest) -> Vec<OffsetDeleteResponseTopic> {
    let unknown = take_unknown(
        image,
        &mut request.topics,
        |topic| (&topic.name, &mut topic.partitions),
        |partition| partition.partition_index,
    );
    let refused = |index| {
        OffsetDeleteResponsePartition::default()
            .with_partition_index(index)
            .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
    };
    let answer = |(name, gone): (TopicName, Vec<i32>)| {
        let partitions = gone.into_iter().map(refused).collect();
        OffsetDeleteResponseTopic::default().with_name(name).with_partitions(partitions)
    };
    unknown.into_iter().map(answer).collect()
}

/// Adds answers to others; no topic is listed again for them.
fn add_topics<T, P>(
    topics: &mut Vec<T>,
    added: Vec<T>,
    parts: impl for<'a> Fn(&'a mut T) -> (&'a TopicName, &'a mut Vec<P>),
) {
    let places = topics.iter_mut().enumerate().map(|(at, topic)| (parts(topic).0.clone(), at));
    let places: BTreeMap<TopicName, usize> = places.collect();
    for mut topic in added {
        let (name, partitions) = parts(&mut topic);
        match places.get(name) {
            Some(at) => parts(&mut topics[*at]).1.append(partitions),
            None => topics.push(topic),
        }
    }
}

fn fetched(
    offsets: Option<&GroupOffsets>,
    topics: Option<Vec<(TopicName, Vec<i32>)>>,
) -> Vec<(TopicName, Vec<FetchedOffset>)> {
    let committed = |topic: &str, partition: i32| {
        let value = offsets?.get(topic, partition)?;
        let metadata = value.metadata.clone();
        Some(Committed { offset: value.offset, leader_epoch: value.leader_epoch, metadata })
    };
    let of_topic = |name: &str, partitions: Vec<i32>| -> Vec<FetchedOffset> {
        let fetched = partitions.into_iter().map(|partition| {
            let committed = committed(name, partition);
            FetchedOffset { partition, committed, is_unstable: false }
        });
        fetched.collect()
    };
    match topics {
        Some(topics) => topics
            .into_iter()
            .map(|(name, partitions)| {
                let fetched = of_topic(&name, partitions);
                (name, fetched)
            })
            .collect(),
        None => {
            let all = offsets.into_iter().flat_map(|offsets| offsets.topics());
            all.map(|(name, partitions)| {
                let fetched = of_topic(name, partitions.keys().copied().collect());
                (TopicName(crate::group::member::text(name)), fetched)
            })
            .collect()
        }
    }
}

/// All groups of this shard's coordinators.
pub async fn list_local(shard: &Rc<Shard>) -> Result<Vec<ListedGroup>, ErrorCode> {
    let mut pace = Pace::new(&shard.clock);
    let mut listed = Vec::new();
    for served in shard.groups.served() {
        let mut after: Option<String> = None;
        loop {
            let mut ids = match &*served.state.borrow() {
                ServedState::Ready(coordinator) => {
                    let ids = coordinator.ids_after(after.as_deref(), GROUPS_STEP);
                    listed.extend(ids.iter().filter_map(|id| coordinator.listed(id)));
                    ids
                }
                ServedState::Loading => return Err(ErrorCode::CoordinatorLoadInProgress),
                ServedState::Failed { .. } => return Err(ErrorCode::CoordinatorNotAvailable),
            };
            after = ids.pop();
            if after.is_none() {
                break;
            }
            pace.give_way().await;
        }
    }
    Ok(listed)
}

/// The partition of `__consumer_offsets` that a group belongs to; `None` while there is no such topic.
pub fn partition_of(shard: &Shard, group: &str) -> Option<TopicPartition> {
    let image = shard.image.borrow();
    let topic = image.topic_named(GROUPS_TOPIC)?;
    let index = crate::group::partition_of(group, topic.partitions.len());
    let partition = PartitionIndex::from_wire(index as i32)?;
    Some(TopicPartition { topic: topic.id, partition })
}

fn new_coordinator(shard: &Shard) -> Coordinator {
    let config = &shard.config;
    let named = |name: &&str| Assignor::named(name).expect("the configuration has no others");
    let policy = config.group_consumer_migration_policy;
    let migration = Migration::ALL.into_iter().find(|migration| migration.name() == policy);
    let consumers = ConsumerSettings {
        session_timeout: config.group_consumer_session_timeout,
        heartbeat_interval: config.group_consumer_heartbeat_interval,
        size_max: config.group_consumer_max_size,
        assignors: config.group_consumer_assignors.iter().map(named).collect(),
        migration: migration.expect("the configuration has no others"),
        ..ConsumerSettings::default()
    };
    let topics = Rc::new(topics::ImageTopics::new(shard));
    Coordinator::new(Settings::new(config))
        .with_consumers(consumers, topics)
        .with_patterns(shard.groups.patterns.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::group_record::{GroupValue, MemberValue};
    use bytes::Bytes;

    #[test]
    fn topics_are_answered_once_where_some_of_their_partitions_are_not_there() {
        let topic = |name: &str, indexes: &[i32]| {
            let partition =
                |index: &i32| OffsetCommitResponsePartition::default().with_partition_index(*index);
            OffsetCommitResponseTopic::default()
                .with_name(TopicName(crate::group::member::text(name)))
                .with_partitions(indexes.iter().map(partition).collect())
        };
        let mut topics = vec![topic("a", &[0]), topic("b", &[1])];
        let unknown = vec![topic("c", &[5]), topic("a", &[7, 8])];
        add_topics(&mut topics, unknown, |topic| (&topic.name, &mut topic.partitions));
        assert_eq!(topics, [topic("a", &[0, 7, 8]), topic("b", &[1]), topic("c", &[5])]);
    }

    #[test]
    fn what_does_not_fit_the_log_is_not_even_written() {
        // One MiB each, all of them the same memory.
        let subscription = Bytes::from(vec![0; 1 << 20]);
        let group = |members: usize| {
            let member = MemberValue { subscription: subscription.clone(), ..MemberValue::default() };
            let value = GroupValue { members: vec![member; members], ..GroupValue::default() };
            [GroupRecord::Group { group: "g".to_owned(), value: Some(value) }]
        };
        let small = group(1);
        let size = small[0].size();
        assert!(batch_of(&small, None, Timestamp(0), size).is_some());
        assert!(batch_of(&small, None, Timestamp(0), size - 1).is_none());
        assert!(batch_of(&group(10_000), None, Timestamp(0), GROUP_BATCH_SIZE_MAX).is_none(), "10 GiB");
    }
}
