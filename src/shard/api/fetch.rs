//! Fetch (key 1): record bytes leave as slices of the buffers that hold them.
//!
//! ```text
//! request ─► session ─► which partitions ─► read: own core's in place, others' by message
//!                                             │ enough, or an error, or the deadline?
//!                                  yes: answer ▼ no: park, woken by the next flush of any of them
//! ```
//!
//! From version 11 on followers are read from as well, as far as they know that everybody in sync has it; and a leader
//! may send a client to one of its rack (KIP-392).

use crate::cluster::record::Node;
use crate::codec::api::fetch::{
    AbortedTransaction, DivergingEpoch, EncodedFetch, FetchResponseHeader, FetchResponseWriter,
    FetchedPartition,
};
use crate::codec::api::leader_hint::CurrentLeader;
use crate::codec::api::response::EncodeError;
use crate::codec::error_code::ErrorCode;
use crate::config::ReplicaSelector;
use crate::log::read_turns::ReaderId;
use crate::log::transactions::Isolation;
use crate::replication::reads::ReadRefused;
use crate::shard::api::RequestContext;
use crate::shard::api::list_offsets::find_where;
use crate::shard::api::produce::is_served_here;
use crate::shard::catch_up::Reading;
use crate::shard::conn::Connection;
use crate::shard::fetch_sessions::{FetchPartition, FetchScope, Told};
use crate::shard::message::{Message, ReadItem, ReadOutcome, ReadRequest, ReadScope, Reply, Request};
use crate::shard::quotas::Charged;
use crate::shard::reader::{ReadBytes, ReadFailed};
use crate::shard::replica::{Replica, Watcher};
use crate::shard::replication::role::Replication;
use crate::shard::response::{Response, Slice};
use crate::shard::{Parked, Shard};
use crate::types::limits::PARKED_FETCHES_MAX;
use crate::types::{BrokerId, LeaderEpoch, Mono, Offset, PartitionIndex, ShardId, TopicPartition};
use futures::future::{Either, join_all, select};
use kafka_protocol::messages::FetchRequest;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// One partition of the answer.
#[derive(Default)]
struct Outcome {
    error: ErrorCode,
    high_watermark: Option<Offset>,
    last_stable_offset: Option<Offset>,
    log_start: Option<Offset>,
    diverging: Option<(LeaderEpoch, Offset)>,
    preferred: Option<BrokerId>,
    leader: Option<CurrentLeader>,
    aborted: Option<Vec<AbortedTransaction>>,
    records: ReadBytes,
}

/// Where a partition is read.
enum Target {
    Refused(ErrorCode, Option<CurrentLeader>),
    Owned(ShardId, TopicPartition, Offset),
}

/// When a fetch is answered.
struct FetchBounds {
    scope: ReadScope,
    bytes_min: usize,
    bytes_max: usize,
    deadline: Mono,
    /// What it holds of the memory for requests while it waits.
    memory_size: usize,
}

pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    (context, charged): (RequestContext, Option<&Charged>),
    request: FetchRequest,
    memory_size: usize,
) -> Result<Response, EncodeError> {
    let deadline = shard.clock.mono().after(Duration::from_millis(request.max_wait_ms.max(0) as u64));
    let bytes_min = request.min_bytes.max(0) as usize;
    let bytes_max = answer_size_max(shard, &request).min(charged.map_or(usize::MAX, Charged::fetch_size_max));
    let begun = begin_session(shard, &context, &request);
    let (scope, partitions) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            shard.metrics.borrow_mut().error(context.api_key.to_wire(), error.code());
            let throttle = charged.map_or(Throttle::NONE, |charged| {
                charged.record_time();
                Throttle { milliseconds: charged.throttle_ms() }
            });
            return Ok(encode(&context, error, throttle, 0, &[], Vec::new()));
        }
    };
    let read = read_scope(shard, &context, &request);
    let each = partitions.iter().map(|partition| target(shard, connection, partition, read.from_followers));
    let targets: Vec<Target> = each.collect();
    let bounds = FetchBounds { scope: read, bytes_min, bytes_max, deadline, memory_size };
    let outcomes = read_until_enough(shard, connection, &partitions, &targets, bounds).await;
    if let Some(charged) = charged {
        let size = outcomes.iter().filter(|outcome| outcome.is_told()).map(Outcome::told_size).sum();
        if charged.fetched(size) > Duration::ZERO {
            return Ok(throttled(shard, &context, scope, charged));
        }
    }
    Ok(respond(shard, &context, scope, &partitions, outcomes).charge_to(&shard.response_memory))
}

/// A client that has used up its quota gets nothing but the time that it has to wait, and asks again. A session
/// that began with this request is none: the client does not take it for one without its partitions.
fn throttled(shard: &Shard, context: &RequestContext, scope: FetchScope, charged: &Charged) -> Response {
    let session = if scope.incremental { scope.session } else { 0 };
    if !scope.incremental {
        shard.sessions.borrow_mut().forget(scope.session);
    }
    let throttle = Throttle { milliseconds: charged.throttle_ms() };
    encode(context, ErrorCode::None, throttle, session, &[], Vec::new())
}

/// For how long its client is told to wait.
#[derive(Clone, Copy)]
struct Throttle {
    milliseconds: i32,
}

impl Throttle {
    const NONE: Throttle = Throttle { milliseconds: 0 };
}

impl Outcome {
    /// It is in an answer that leaves out what has no news.
    fn is_told(&self) -> bool {
        self.records.size > 0 || self.is_news()
    }

    /// It says something else than what the log has.
    fn is_news(&self) -> bool {
        self.error != ErrorCode::None || self.diverging.is_some() || self.preferred.is_some()
    }

    /// About how many bytes of the answer are its.
    fn told_size(&self) -> usize {
        /// Number, error, offsets and sizes.
        const FIXED: usize = 40;
        self.records.size + FIXED
    }
}

/// From the wire. As in Kafka everything but 1 reads uncommitted.
pub fn isolation(level: i8) -> Isolation {
    if level == 1 { Isolation::Committed } else { Isolation::Uncommitted }
}

/// Whom a client may read from, as far as the version goes that it speaks.
fn read_scope(shard: &Shard, context: &RequestContext, request: &FetchRequest) -> ReadScope {
    /// The first version whose clients go where they are sent.
    const FOLLOWERS_FROM: i16 = 11;
    let from_followers = context.version >= FOLLOWERS_FROM;
    let is_sent = from_followers && shard.config.replica_selector == ReplicaSelector::RackAware;
    let rack = Some(request.rack_id.as_str()).filter(|rack| is_sent && !rack.is_empty());
    ReadScope { isolation: isolation(request.isolation_level), from_followers, rack: rack.map(Box::from) }
}

/// Bytes of records that the answer may hold; one batch that is larger is the exception.
pub fn answer_size_max(shard: &Shard, request: &FetchRequest) -> usize {
    (request.max_bytes.max(0) as usize).min(shard.config.fetch_max_bytes)
}

fn begin_session(
    shard: &Shard,
    context: &RequestContext,
    request: &FetchRequest,
) -> Result<(FetchScope, Vec<FetchPartition>), ErrorCode> {
    let mut named = Vec::new();
    for topic in &request.topics {
        let name: Rc<str> = topic.topic.as_str().into();
        for partition in &topic.partitions {
            named.push(FetchPartition {
                topic: name.clone(),
                partition: partition.partition,
                offset: Offset::from_wire(partition.fetch_offset),
                bytes_max: partition.partition_max_bytes.max(0) as usize,
                leader_epoch: epoch(partition.current_leader_epoch),
                last_fetched_epoch: epoch(partition.last_fetched_epoch),
            });
        }
    }
    if context.version < 7 {
        return Ok((FetchScope { session: 0, incremental: false }, named));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let name: Rc<str> = topic.topic.as_str().into();
        forgotten.extend(topic.partitions.iter().map(|partition| (name.clone(), *partition)));
    }
    let fresh = (uuid::Uuid::new_v4().as_u128() as i32 & i32::MAX).max(1);
    let (id, session_epoch) = (request.session_id, request.session_epoch);
    let now = shard.clock.mono();
    let mut sessions = shard.sessions.borrow_mut();
    let begun = sessions.begin(id, session_epoch, named, &forgotten, fresh, now);
    shard.metrics.borrow_mut().fetch_sessions = sessions.count() as u64;
    begun
}

fn epoch(wire: i32) -> Option<LeaderEpoch> {
    (wire >= 0).then_some(LeaderEpoch(wire))
}

fn target(
    shard: &Shard,
    connection: &Connection,
    partition: &FetchPartition,
    from_followers: bool,
) -> Target {
    let image = shard.image.borrow();
    let topic = image.topic_named(&partition.topic);
    let index = PartitionIndex::from_wire(partition.partition);
    let state = topic.zip(index).and_then(|(topic, index)| topic.partitions.get(index.index()));
    let (Some(topic), Some(index), Some(state)) = (topic, index, state) else {
        return Target::Refused(ErrorCode::UnknownTopicOrPartition, None);
    };
    let follower = state.replica_on(shard.node).filter(|_| from_followers);
    let owner = state.led_on(shard.node).or(follower.map(|replica| replica.owner));
    let Some(owner) = owner.filter(|owner| is_served_here(shard, connection, *owner)) else {
        let leader = shard.brokers.borrow().leader_of(state);
        let hint = leader.map(|leader| CurrentLeader { leader, epoch: state.leader_epoch });
        return Target::Refused(ErrorCode::NotLeaderOrFollower, hint);
    };
    match partition.offset {
        Some(offset) => Target::Owned(owner, TopicPartition { topic: topic.id, partition: index }, offset),
        None => Target::Refused(ErrorCode::OffsetOutOfRange, None),
    }
}

/// A fetch that may park: its signal is fired by any partition it watches.
struct Parking {
    shard: Rc<Shard>,
    watch: u64,
    parked: Rc<Parked>,
    local: Vec<Rc<Replica>>,
    remote: Vec<ShardId>,
}

impl Parking {
    fn new(shard: &Rc<Shard>, connection: &Connection, memory_size: usize, remote: Vec<ShardId>) -> Parking {
        let watch = shard.next_watch.get();
        shard.next_watch.set(watch + 1);
        let parked = Rc::new(Parked { signal: Rc::default(), memory_size, is_hurried: Cell::new(false) });
        connection.fetch_parked(&parked);
        shard.wakes.borrow_mut().insert(watch, parked.clone());
        shard.parked_fetches.set(shard.parked_fetches.get() + 1);
        Parking { shard: shard.clone(), watch, parked, local: Vec::new(), remote }
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.shard.wakes.borrow_mut().remove(&self.watch);
        self.shard.parked_fetches.set(self.shard.parked_fetches.get() - 1);
        for replica in &self.local {
            replica.unwatch(self.watch);
        }
        for owner in &self.remote {
            let request = Request::Unwatch { watch: self.watch };
            self.shard.mesh.post(*owner, Message::Request { id: 0, request });
        }
    }
}

async fn read_until_enough(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    partitions: &[FetchPartition],
    targets: &[Target],
    bounds: FetchBounds,
) -> Vec<Outcome> {
    let FetchBounds { scope, bytes_min, bytes_max, deadline, memory_size } = bounds;
    let mut parking: Option<Parking> = None;
    // Kafka, too, waits for no more than the answer may hold; here each core has a share of it.
    let owners = remote_owners(shard, targets).len() + 1;
    let asked = partitions.iter().fold(0usize, |sum, partition| sum.saturating_add(partition.bytes_max));
    loop {
        let bytes_max = bytes_max.min(shard.response_memory.room());
        let bytes_min = bytes_min.min(bytes_max / owners);
        let reading = shard.response_memory.reserve(bytes_max.min(asked));
        let may_park = shard.clock.mono() < deadline
            && !targets.is_empty()
            && !is_hurried(shard, connection, parking.as_ref())
            && (parking.is_some() || shard.parked_fetches.get() < PARKED_FETCHES_MAX);
        if parking.is_none() && may_park && has_remote(shard, targets) {
            parking = Some(Parking::new(shard, connection, memory_size, remote_owners(shard, targets)));
        }
        let watch = parking.as_ref().filter(|_| may_park).map(|parking| parking.watch);
        let asked_for = ReadBounds { scope: &scope, bytes_min, bytes_max, watch };
        let outcomes = read_all(shard, connection, partitions, targets, asked_for).await;
        drop(reading); // What was found is charged with the answer, in this turn.
        let size: usize = outcomes.iter().map(|outcome| outcome.records.size).sum();
        let has_news = outcomes.iter().any(Outcome::is_news);
        if size >= bytes_min || has_news || !may_park {
            return outcomes;
        }
        if outcomes.iter().any(|outcome| outcome.records.is_short) {
            // There is more, for which there was no memory beside this: the next fetch gets it.
            if size > 0 {
                return outcomes;
            }
            continue;
        }
        let parking = parking.get_or_insert_with(|| Parking::new(shard, connection, memory_size, Vec::new()));
        if watch_local(shard, parking, targets, &outcomes) {
            continue; // Something was flushed between the read and now.
        }
        shard.hurry_oldest_fetches(); // Who waits may have found no fetch parked.
        if is_hurried(shard, connection, Some(parking)) {
            continue; // Before there was a signal to tell.
        }
        let wait = deadline.since(shard.clock.mono());
        let timer = pin!(glommio::timer::sleep(wait));
        let woken = pin!(parking.parked.signal.notified());
        if let Either::Left(_) = select(timer, woken).await {
            continue; // The deadline: one last look.
        }
    }
}

/// It is not to wait for data any more.
fn is_hurried(shard: &Shard, connection: &Connection, parking: Option<&Parking>) -> bool {
    let is_hurried = parking.is_some_and(|parking| parking.parked.is_hurried.get());
    is_hurried || shard.is_stopping() || connection.is_closed()
}

fn remote_owners(shard: &Shard, targets: &[Target]) -> Vec<ShardId> {
    let owners = targets.iter().filter_map(|target| match target {
        Target::Owned(owner, ..) if *owner != shard.id => Some(*owner),
        _ => None,
    });
    let mut owners: Vec<ShardId> = owners.collect();
    owners.sort();
    owners.dedup();
    owners
}

fn has_remote(shard: &Shard, targets: &[Target]) -> bool {
    targets.iter().any(|target| matches!(target, Target::Owned(owner, ..) if *owner != shard.id))
}

/// Watches this core's partitions; true if one of them has moved on since it was read.
fn watch_local(shard: &Shard, parking: &mut Parking, targets: &[Target], outcomes: &[Outcome]) -> bool {
    let mut moved = false;
    parking.local.clear();
    for (target, outcome) in targets.iter().zip(outcomes) {
        let Target::Owned(owner, id, _) = target else { continue };
        if *owner != shard.id {
            continue;
        }
        let Some(replica) = shard.stores.find(id) else {
            moved = true;
            continue;
        };
        moved |= Some(replica.log.borrow().high_watermark()) != outcome.high_watermark;
        replica.watch(parking.watch, Watcher::Local(parking.parked.signal.clone()));
        parking.local.push(replica);
    }
    moved
}

/// What one pass is to read.
struct ReadBounds<'a> {
    scope: &'a ReadScope,
    bytes_min: usize,
    bytes_max: usize,
    watch: Option<u64>,
}

/// One pass over all partitions: this core's and the others' side by side.
async fn read_all(
    shard: &Rc<Shard>,
    connection: &Connection,
    partitions: &[FetchPartition],
    targets: &[Target],
    ReadBounds { scope, bytes_min, bytes_max, watch }: ReadBounds<'_>,
) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(targets.len());
    let mut by_owner: BTreeMap<ShardId, (Vec<usize>, Vec<ReadItem>)> = BTreeMap::new();
    for (at, (partition, target)) in partitions.iter().zip(targets).enumerate() {
        let mut outcome = Outcome::default();
        match target {
            Target::Refused(error, leader) => {
                outcome.error = *error;
                outcome.leader = *leader;
            }
            Target::Owned(owner, id, offset) => {
                let (indexes, items) = by_owner.entry(*owner).or_default();
                indexes.push(at);
                items.push(ReadItem {
                    partition: *id,
                    offset: *offset,
                    bytes_max: partition.bytes_max,
                    leader_epoch: partition.leader_epoch,
                    last_fetched_epoch: partition.last_fetched_epoch,
                });
            }
        }
        outcomes.push(outcome);
    }
    let share = bytes_max / by_owner.len().max(1);
    let mut remote = Vec::new();
    let local = by_owner.remove(&shard.id);
    for (owner, (indexes, items)) in by_owner {
        let connection = connection.id;
        let scope = scope.clone();
        let request = ReadRequest { scope, connection, items, bytes_max: share, bytes_min, watch };
        let ticket = shard.mesh.ask(owner, Request::Read(request)).await;
        shard.metrics.borrow_mut().requests_forwarded += 1;
        remote.push((indexes, ticket));
    }
    if let Some((indexes, items)) = local {
        let reader = ReaderId { shard: shard.id, connection: connection.id };
        for (at, outcome) in indexes.into_iter().zip(read_local(shard, reader, &items, share, scope).await) {
            outcomes[at] = outcome.into();
        }
    }
    for (indexes, ticket) in remote {
        let Reply::Read(replies) = shard.mesh.reply(ticket).await else {
            unreachable!("a read is answered by a read")
        };
        for (at, reply) in indexes.into_iter().zip(replies) {
            outcomes[at] = reply.into();
        }
    }
    outcomes
}

/// A partition of this core, read.
#[derive(Default)]
pub struct LocalRead {
    pub error: ErrorCode,
    pub high_watermark: Option<Offset>,
    pub last_stable_offset: Option<Offset>,
    pub log_start: Option<Offset>,
    pub diverging: Option<(LeaderEpoch, Offset)>,
    /// Who is to be asked instead.
    pub preferred: Option<BrokerId>,
    /// `None` unless committed records were asked for.
    pub aborted: Option<Vec<AbortedTransaction>>,
    pub records: ReadBytes,
}

impl From<LocalRead> for Outcome {
    fn from(read: LocalRead) -> Outcome {
        Outcome {
            error: read.error,
            high_watermark: read.high_watermark,
            last_stable_offset: read.last_stable_offset,
            log_start: read.log_start,
            diverging: read.diverging,
            preferred: read.preferred,
            leader: None,
            aborted: read.aborted,
            records: read.records,
        }
    }
}

impl From<ReadOutcome> for Outcome {
    fn from(read: ReadOutcome) -> Outcome {
        let size = read.records.len();
        let slices = if size == 0 { Vec::new() } else { vec![Slice::Shared(read.records)] };
        Outcome {
            error: read.error,
            high_watermark: read.high_watermark,
            last_stable_offset: read.last_stable_offset,
            log_start: read.log_start,
            diverging: read.diverging,
            preferred: read.preferred,
            leader: None,
            aborted: read.aborted,
            records: ReadBytes {
                slices,
                size,
                aborted: Vec::new(), // Named beside them.
                batches: read.batches,
                disk_size: read.disk_size,
                is_short: read.is_short,
                turn: None,
            },
        }
    }
}

/// Reads partitions of this core in their order, as many side by side as the budget covers. The
/// first batch found is returned whole even if it is larger than any limit (KIP-74).
pub async fn read_local(
    shard: &Rc<Shard>,
    reader: ReaderId,
    items: &[ReadItem],
    bytes_max: usize,
    scope: &ReadScope,
) -> Vec<LocalRead> {
    let reading = Reading::new(shard.stores.for_reading(), reader);
    let mut reads: Vec<LocalRead> = Vec::with_capacity(items.len());
    let mut left = bytes_max;
    let mut found_any = false;
    while reads.len() < items.len() {
        let mut planned = 0;
        let rest = &items[reads.len()..];
        let group = rest.iter().take_while(|item| {
            let fits = planned == 0 || planned < left;
            planned += item.bytes_max.min(left).max(1);
            fits
        });
        let group: Vec<&ReadItem> = group.collect();
        // What is past the limit says how its partition stands, without a look at the disk.
        let budget = if left == 0 && found_any { None } else { Some(left) };
        let read = join_all(group.iter().map(|item| read_one(shard, &reading, item, budget, scope))).await;
        for (item, mut read) in group.into_iter().zip(read) {
            let size = read.records.size;
            if size > 0 {
                let oversized = size > left || size > item.bytes_max;
                if (oversized || left == 0) && found_any {
                    read.records = ReadBytes::default();
                    read.aborted = read.aborted.map(|_| Vec::new());
                } else {
                    found_any = true;
                    left -= size.min(left);
                }
            }
            reads.push(read);
        }
    }
    reads
}

/// `left`: what the answer still takes; `None` reads no records.
async fn read_one(
    shard: &Rc<Shard>,
    reading: &Rc<Reading>,
    item: &ReadItem,
    left: Option<usize>,
    scope: &ReadScope,
) -> LocalRead {
    let will_do = |role: &Replication| role.serves() || scope.from_followers && role.is_follower();
    let replica = match find_where(shard, &item.partition, will_do) {
        Ok(replica) => replica,
        Err(error) => return LocalRead { error, ..LocalRead::default() },
    };
    let mut read = {
        let log = replica.log.borrow();
        if let Err(error) = check_epoch(item.leader_epoch, log.leader_epoch()) {
            return LocalRead { error, ..LocalRead::default() };
        }
        LocalRead {
            high_watermark: Some(log.high_watermark()),
            last_stable_offset: Some(log.last_stable_offset()),
            log_start: Some(log.log_start()),
            aborted: (scope.isolation == Isolation::Committed).then(Vec::new),
            diverging: item.last_fetched_epoch.and_then(|last| {
                let end = log.epochs().end_offset_for(last, log.log_end())?;
                (end.epoch < last || end.end_offset < item.offset).then_some((end.epoch, end.end_offset))
            }),
            ..LocalRead::default()
        }
    };
    // Before epochs are compared: what a follower lacks its leader may have.
    let followed = replica.replication.with_follower(|following| following.machine.readable(item.offset));
    if let Some(Err(refused)) = followed {
        let error = match refused {
            ReadRefused::NotAvailable => ErrorCode::OffsetNotAvailable,
            ReadRefused::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        };
        return LocalRead { error, diverging: None, ..read };
    }
    if read.diverging.is_some() {
        return read;
    }
    read.preferred = scope.rack.as_deref().and_then(|rack| nearest(shard, &replica, rack, item.offset));
    if read.preferred.is_some() {
        return read;
    }
    let Some(left) = left else {
        let log = replica.log.borrow();
        if !(log.log_start()..=log.log_end()).contains(&item.offset) {
            read.error = ErrorCode::OffsetOutOfRange;
        }
        drop(log);
        return read;
    };
    match replica.read_isolated(reading, item.offset, item.bytes_max.min(left), scope.isolation).await {
        // Its path may be another topic's by now.
        _ if replica.is_deleted() => read.error = replica.absence(),
        Ok(records) => {
            if let Some(aborted) = &mut read.aborted {
                let named = records.aborted.iter();
                aborted.extend(named.map(|named| AbortedTransaction {
                    producer: named.producer,
                    first_offset: named.first_offset,
                }));
            }
            read.records = records;
        }
        Err(ReadFailed::OutOfRange) => read.error = ErrorCode::OffsetOutOfRange,
        // Retention has removed the segment under the read.
        Err(_) if item.offset < replica.log.borrow().log_start() => {
            read.error = ErrorCode::OffsetOutOfRange;
        }
        Err(failed @ (ReadFailed::Disk { .. } | ReadFailed::NoTurn)) => {
            replica.tell(shard.stores.of(&replica), &failed);
            read.error = ErrorCode::KafkaStorageError;
        }
        // Not a storage error: clients take that for a broker without its disk, and try again for ever
        // without a word.
        Err(failed @ (ReadFailed::Damaged { .. } | ReadFailed::NoBatch { .. })) => {
            replica.tell(shard.stores.of(&replica), &failed);
            read.error = ErrorCode::CorruptMessage;
        }
    }
    read
}

/// The broker of a client's rack to read from, where this one leads and is in another rack.
fn nearest(shard: &Shard, replica: &Replica, rack: &str, from: Offset) -> Option<BrokerId> {
    let (image, brokers) = (shard.image.borrow(), shard.brokers.borrow());
    let state = image.partition(replica.id)?;
    let broker = |node| brokers.get(brokers.broker_of(state.replica_on(node)?));
    let is_near = |node| broker(node).is_some_and(|broker| broker.rack.as_deref() == Some(rack));
    if is_near(shard.node) {
        return None;
    }
    let may_serve = |node| is_near(node) && image.node(node).is_some_and(Node::is_active);
    let nearest = replica.replication.with_leader(|leader| leader.nearest(from, may_serve))??;
    broker(nearest).map(|broker| broker.id)
}

/// Whether the epoch that a client believes in is ours (KIP-320).
pub fn check_epoch(theirs: Option<LeaderEpoch>, ours: LeaderEpoch) -> Result<(), ErrorCode> {
    match theirs {
        Some(theirs) if theirs < ours => Err(ErrorCode::FencedLeaderEpoch),
        Some(theirs) if theirs > ours => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// Serves a read for another core: bytes are copied once, into what can leave this one.
pub async fn read_for(shard: &Rc<Shard>, from: ShardId, request: ReadRequest) -> Vec<ReadOutcome> {
    let reader = ReaderId { shard: from, connection: request.connection };
    let reads = read_local(shard, reader, &request.items, request.bytes_max, &request.scope).await;
    let size: usize = reads.iter().map(|read| read.records.size).sum();
    if let Some(watch) = request.watch.filter(|_| size < request.bytes_min) {
        let mut moved = false;
        for (item, read) in request.items.iter().zip(&reads) {
            let Some(replica) = shard.stores.find(&item.partition) else { continue };
            moved |= Some(replica.log.borrow().high_watermark()) != read.high_watermark;
            shard.watch_for(from, watch, &replica);
        }
        if moved {
            shard.post_wake(from, watch);
        }
    }
    let copied = reads.into_iter().map(|read| ReadOutcome {
        error: read.error,
        high_watermark: read.high_watermark,
        last_stable_offset: read.last_stable_offset,
        log_start: read.log_start,
        diverging: read.diverging,
        preferred: read.preferred,
        records: copy(&read.records),
        aborted: read.aborted,
        batches: read.records.batches,
        disk_size: read.records.disk_size,
        is_short: read.records.is_short,
    });
    copied.collect()
}

fn copy(records: &ReadBytes) -> bytes::Bytes {
    let mut out = Vec::with_capacity(records.size);
    records.slices.iter().for_each(|slice| out.extend_from_slice(slice.bytes()));
    out.into()
}

fn respond(
    shard: &Shard,
    context: &RequestContext,
    scope: FetchScope,
    partitions: &[FetchPartition],
    outcomes: Vec<Outcome>,
) -> Response {
    let mut sessions = shard.sessions.borrow_mut();
    let mut metrics = shard.metrics.borrow_mut();
    let mut told: Vec<(&FetchPartition, Outcome)> = Vec::with_capacity(outcomes.len());
    let is_from_disk = outcomes.iter().any(|outcome| outcome.records.disk_size > 0);
    for (partition, outcome) in partitions.iter().zip(outcomes) {
        let news = outcome.is_news();
        if outcome.error != ErrorCode::None {
            metrics.error(context.api_key.to_wire(), outcome.error.code());
        }
        let says = Told { high_watermark: outcome.high_watermark, log_start: outcome.log_start };
        let has_records = outcome.records.size > 0;
        metrics.fetched_batches += outcome.records.batches as u64;
        metrics.fetched_bytes += outcome.records.size as u64;
        metrics.fetched_disk_bytes += outcome.records.disk_size as u64;
        if sessions.tell(scope, &partition.topic, partition.partition, says, news, has_records) {
            told.push((partition, outcome));
        }
    }
    let (partitions, outcomes): (Vec<&FetchPartition>, Vec<Outcome>) = told.into_iter().unzip();
    let encoded = encode(context, ErrorCode::None, Throttle::NONE, scope.session, &partitions, outcomes);
    encoded.mark_from_disk(is_from_disk)
}

fn encode(
    context: &RequestContext,
    error: ErrorCode,
    throttle: Throttle,
    session_id: i32,
    partitions: &[&FetchPartition],
    outcomes: Vec<Outcome>,
) -> Response {
    let header = FetchResponseHeader {
        version: context.version,
        correlation_id: context.correlation_id,
        throttle_time_ms: throttle.milliseconds,
        error,
        session_id,
    };
    let topic_count = partitions.chunk_by(|left, right| left.topic == right.topic).count();
    let mut writer = FetchResponseWriter::new(&header, topic_count, EncodedFetch::default());
    let mut outcomes = outcomes.into_iter();
    let mut spliced: Vec<Vec<Slice>> = Vec::new();
    for topic in partitions.chunk_by(|left, right| left.topic == right.topic) {
        writer.topic(&topic[0].topic, topic.len());
        for partition in topic {
            let outcome = outcomes.next().expect("an outcome for each partition");
            let fetched = FetchedPartition {
                partition: partition.partition,
                error: outcome.error,
                high_watermark: outcome.high_watermark,
                last_stable_offset: outcome.last_stable_offset,
                log_start: outcome.log_start,
                aborted: outcome.aborted.as_deref(),
                preferred_read_replica: outcome.preferred,
                diverging_epoch: outcome
                    .diverging
                    .map(|(epoch, end_offset)| DivergingEpoch { epoch, end_offset }),
                current_leader: outcome.leader,
            };
            writer.partition(&fetched, outcome.records.size);
            if outcome.records.size > 0 {
                spliced.push(outcome.records.slices);
            }
        }
    }
    let encoded = writer.finish();
    let places = encoded.splices.iter().map(|splice| splice.at).zip(spliced).collect();
    Response::spliced(encoded.head, places)
}
