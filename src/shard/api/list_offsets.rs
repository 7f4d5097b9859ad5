//! ListOffsets (key 2): earliest, latest, by timestamp, the offset of the largest timestamp, and what there is in
//! tiered storage: nothing. Who reads
//! committed records only is told of none past the last stable offset.
//!
//! A timestamp is looked up in the segments' time indexes; only the one batch found is decompressed,
//! to name the record.

use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::BatchView;
use crate::codec::records::Records;
use crate::log::read::{ListOffsetsTarget, Rope};
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, PartitionItem, Place};
use crate::shard::api::fetch::{check_epoch, isolation};
use crate::shard::api::produce::is_served_here;
use crate::shard::catch_up::{Hold, Reading};
use crate::shard::conn::Connection;
use crate::shard::look_inside::look_inside;
use crate::shard::message::{ListOffsetsItem, ListOffsetsOutcome, Reply, Request};
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::replication::role::Replication;
use crate::shard::response::Slice;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::types::limits::IO_SIZE_MAX;
use crate::types::{LeaderEpoch, Offset, PartitionIndex, ShardId, Timestamp, TopicPartition};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use std::rc::Rc;

/// Bytes of a segment that are read first for a look-up by time: the index leads to within an interval
/// and a batch of what is looked for, which fit most often.
const FIRST_WINDOW_SIZE: u64 = 64 << 10;

/// The first version whose answer names the leader epoch.
const LEADER_EPOCH_FROM: i16 = 4;

/// The first version that asks for the largest timestamp.
const MAX_TIMESTAMP_FROM: i16 = 7;

/// The first version that asks where the local log begins (KIP-405): without tiered storage, where all does.
const EARLIEST_LOCAL_FROM: i16 = 8;

/// The first version that asks up to where the log is in tiered storage (KIP-1005): nowhere.
const LATEST_TIERED_FROM: i16 = 9;

pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Connection,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let mut response = ListOffsetsResponse::default();
    let mut by_owner = ByOwner::new();
    let isolation = isolation(request.isolation_level);
    for (topic_at, topic) in request.topics.iter().enumerate() {
        let mut answers = Vec::with_capacity(topic.partitions.len());
        for (at, partition) in topic.partitions.iter().enumerate() {
            let mut answer = ListOffsetsPartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_timestamp(-1)
                .with_offset(-1);
            let epoch = partition.current_leader_epoch;
            let item = target(partition.timestamp, version).ok_or(ErrorCode::UnsupportedVersion);
            let found = item.and_then(|target| {
                let (owner, id) = locate(shard, connection, &topic.name, partition.partition_index)?;
                let leader_epoch = (epoch >= 0).then_some(LeaderEpoch(epoch));
                Ok((owner, ListOffsetsItem { partition: id, target, isolation, leader_epoch }))
            });
            match found {
                Ok((owner, item)) => by_owner.push(owner, Place { topic: topic_at, partition: at }, item),
                Err(error) => answer.error_code = error.code(),
            }
            answers.push(answer);
        }
        let topic = ListOffsetsTopicResponse::default().with_name(topic.name.clone());
        response.topics.push(topic.with_partitions(answers));
    }
    for (place, outcome) in by_owner.ask(shard).await {
        let answer = &mut response.topics[place.topic].partitions[place.partition];
        answer.error_code = outcome.error.code();
        answer.offset = outcome.offset.map_or(-1, Offset::to_wire);
        answer.timestamp = outcome.timestamp.map_or(-1, |timestamp| timestamp.0);
        if version >= LEADER_EPOCH_FROM {
            answer.leader_epoch = outcome.leader_epoch.map_or(-1, |epoch| epoch.0);
        }
    }
    response
}

/// Finds the owner shard of a partition that this connection may ask about.
pub fn locate(
    shard: &Shard,
    connection: &Connection,
    topic: &str,
    partition: i32,
) -> Result<(ShardId, TopicPartition), ErrorCode> {
    let image = shard.image.borrow();
    let topic = image.topic_named(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let index = PartitionIndex::from_wire(partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let state = topic.partitions.get(index.index()).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let owner = state.led_on(shard.node);
    let owner = owner.filter(|owner| is_served_here(shard, connection, *owner));
    let id = TopicPartition { topic: topic.id, partition: index };
    owner.map(|owner| (owner, id)).ok_or(ErrorCode::NotLeaderOrFollower)
}

fn target(timestamp: i64, version: i16) -> Option<ListOffsetsTarget> {
    match timestamp {
        -1 => Some(ListOffsetsTarget::Latest),
        -2 => Some(ListOffsetsTarget::Earliest),
        -3 if version >= MAX_TIMESTAMP_FROM => Some(ListOffsetsTarget::MaxTimestamp),
        -4 if version >= EARLIEST_LOCAL_FROM => Some(ListOffsetsTarget::Earliest),
        -5 if version >= LATEST_TIERED_FROM => Some(ListOffsetsTarget::LatestTiered),
        0.. => Some(ListOffsetsTarget::AtOrAfter(Timestamp(timestamp))),
        _ => None,
    }
}

impl PartitionItem for ListOffsetsItem {
    type Outcome = ListOffsetsOutcome;

    async fn serve(shard: &Rc<Shard>, items: Vec<ListOffsetsItem>) -> Vec<ListOffsetsOutcome> {
        list_local(shard, items).await
    }

    fn request(items: Vec<ListOffsetsItem>) -> Request {
        Request::ListOffsets(items)
    }

    fn outcomes(reply: Reply) -> Vec<ListOffsetsOutcome> {
        let Reply::ListOffsets(outcomes) = reply else { unreachable!("offsets are answered by offsets") };
        outcomes
    }
}

/// Answers for partitions of this core.
pub async fn list_local(shard: &Rc<Shard>, items: Vec<ListOffsetsItem>) -> Vec<ListOffsetsOutcome> {
    let mut outcomes = Vec::with_capacity(items.len());
    for item in items {
        let outcome = list_one(shard, &item).await;
        outcomes.push(outcome.unwrap_or_else(|error| ListOffsetsOutcome { error, ..Default::default() }));
    }
    outcomes
}

async fn list_one(shard: &Rc<Shard>, item: &ListOffsetsItem) -> Result<ListOffsetsOutcome, ErrorCode> {
    let replica = find(shard, &item.partition)?;
    let (log_start, readable_end, leader_epoch) = {
        let log = replica.log.borrow();
        check_epoch(item.leader_epoch, log.leader_epoch())?;
        (log.log_start(), log.readable_end(item.isolation), log.leader_epoch())
    };
    check_known(&replica, item.target)?;
    let found = match item.target {
        ListOffsetsTarget::Latest => Some((readable_end, None)),
        ListOffsetsTarget::Earliest => Some((log_start, None)),
        ListOffsetsTarget::LatestTiered => None,
        ListOffsetsTarget::MaxTimestamp | ListOffsetsTarget::AtOrAfter(_) => {
            let found = look_up(shard.stores.for_reading(), &replica, item.target).await;
            if replica.is_deleted() {
                return Err(ErrorCode::UnknownTopicOrPartition);
            }
            let found = found.map_err(|failed| refused(shard, &replica, &failed))?;
            // What has become readable while it was looked up may be told as well.
            let readable_end = replica.log.borrow().readable_end(item.isolation);
            found.filter(|(offset, _)| *offset < readable_end)
        }
    };
    let epoch_of = |offset| replica.log.borrow().epochs().epoch_for(offset);
    Ok(ListOffsetsOutcome {
        error: ErrorCode::None,
        offset: found.map(|(offset, _)| offset),
        timestamp: found.and_then(|(_, timestamp)| timestamp),
        leader_epoch: found.map(|(offset, _)| epoch_of(offset).unwrap_or(leader_epoch)),
    })
}

/// A leader that is new may not know yet what an earlier one has shown (KIP-207).
fn check_known(replica: &Replica, target: ListOffsetsTarget) -> Result<(), ErrorCode> {
    let known = replica.replication.with_leader(|leader| match target {
        ListOffsetsTarget::Earliest => leader.earliest(),
        ListOffsetsTarget::Latest
        | ListOffsetsTarget::LatestTiered
        | ListOffsetsTarget::MaxTimestamp
        | ListOffsetsTarget::AtOrAfter(_) => leader.latest(),
    });
    match known {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(_)) => Err(ErrorCode::OffsetNotAvailable),
    }
}

/// A replica that clients may be served from.
pub fn find(shard: &Shard, id: &TopicPartition) -> Result<Rc<Replica>, ErrorCode> {
    find_where(shard, id, Replication::serves)
}

/// The same, where its role is one that will do.
pub fn find_where(
    shard: &Shard,
    id: &TopicPartition,
    will_do: impl Fn(&Replication) -> bool,
) -> Result<Rc<Replica>, ErrorCode> {
    let replica = shard.stores.find(id).ok_or_else(|| shard.absence(id))?;
    if will_do(&replica.replication) { Ok(replica) } else { Err(ErrorCode::NotLeaderOrFollower) }
}

fn refused(shard: &Shard, replica: &Replica, failed: &ReadFailed) -> ErrorCode {
    replica.tell(shard.stores.of(replica), failed);
    match failed {
        ReadFailed::Damaged { .. } | ReadFailed::NoBatch { .. } => ErrorCode::CorruptMessage,
        ReadFailed::OutOfRange | ReadFailed::Disk { .. } | ReadFailed::NoTurn => ErrorCode::KafkaStorageError,
    }
}

type Found = Option<(Offset, Option<Timestamp>)>;

/// Looks up a time; again if a segment was deleted under the look-up, which moves the log start each
/// time, or was replaced by its compacted form.
pub async fn look_up(
    store: &Rc<Store>,
    replica: &Rc<Replica>,
    target: ListOffsetsTarget,
) -> Result<Found, ReadFailed> {
    loop {
        let log_start = replica.log.borrow().log_start();
        let generation = replica.reads.generation();
        let found = match target {
            ListOffsetsTarget::AtOrAfter(wanted) => first_at_or_after(store, replica, wanted).await,
            _ => max_timestamp(store, replica).await,
        };
        let is_same = replica.reads.generation() == generation;
        if is_same && (found.is_ok() || replica.log.borrow().log_start() == log_start) {
            return found;
        }
    }
}

/// The first record at or past `wanted`, below the high watermark.
async fn first_at_or_after(
    store: &Rc<Store>,
    replica: &Rc<Replica>,
    wanted: Timestamp,
) -> Result<Found, ReadFailed> {
    replica.index_timestamps(store).await?;
    let mut hold = Hold::new(&Reading::own(store));
    let segments: Vec<Offset> = {
        let log = replica.log.borrow();
        let closed = log.closed().iter().chain([log.active()]);
        let late = closed.filter(|segment| segment.max_timestamp >= wanted);
        late.map(|segment| segment.base_offset).collect()
    };
    for segment in segments {
        let start = replica.position_for_timestamp(&mut hold, segment, wanted).await?;
        if let Some(found) = scan(&mut hold, replica, segment, start, wanted).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The first record that has the largest timestamp of the partition (KIP-734).
async fn max_timestamp(store: &Rc<Store>, replica: &Rc<Replica>) -> Result<Found, ReadFailed> {
    replica.index_timestamps(store).await?;
    let mut hold = Hold::new(&Reading::own(store));
    let newest = {
        let log = replica.log.borrow();
        let all = log.closed().iter().chain([log.active()]).filter(|segment| segment.max_timestamp.0 >= 0);
        // The first of equals, as Kafka has it.
        all.rev().max_by_key(|segment| segment.max_timestamp).map(|s| (s.base_offset, s.max_timestamp))
    };
    let Some((segment, max)) = newest else { return Ok(None) };
    let start = replica.position_for_timestamp(&mut hold, segment, Timestamp(max.0 - 1)).await?;
    scan(&mut hold, replica, segment, start, max).await
}

/// The first readable record from file position `start` on that is at or past `wanted`. One batch at
/// a time is copied and decompressed, and only one whose header promises such a record.
async fn scan(
    hold: &mut Hold,
    replica: &Rc<Replica>,
    segment: Offset,
    start: u64,
    wanted: Timestamp,
) -> Result<Found, ReadFailed> {
    let readable_end = {
        let log = replica.log.borrow();
        let first = segment.max(log.log_start());
        log.locate(first).map_or(0, |(found, end)| if found == segment { end } else { 0 })
    };
    let log_start = replica.log.borrow().log_start();
    let mut position = start;
    let mut window = FIRST_WINDOW_SIZE;
    let mut pace = Pace::new(&hold.store().clock);
    while position < readable_end {
        let stretch = replica.verified(hold, segment, position, window, readable_end).await?;
        let pieces: Vec<&[u8]> = stretch.slices.iter().map(Slice::bytes).collect();
        let rope = Rope::new(&pieces);
        for batch in rope.batches(0) {
            pace.give_way().await;
            if batch.max_timestamp >= wanted && batch.end_offset > log_start {
                let bytes = rope.copied(batch.at..batch.at + batch.size);
                if let Some((offset, timestamp)) = record_in(&bytes, log_start, wanted).await {
                    return Ok(Some((offset, Some(timestamp))));
                }
            }
        }
        if let Some(damage) = stretch.damage {
            return Err(damage);
        }
        position = stretch.end;
        window = IO_SIZE_MAX as u64;
    }
    Ok(None)
}

/// The first record of a batch, from `log_start` on, that is at or past `wanted`. `None` also for
/// records that the broker cannot look into.
async fn record_in(batch: &[u8], log_start: Offset, wanted: Timestamp) -> Option<(Offset, Timestamp)> {
    let (view, _) = BatchView::split_first(batch).ok()?;
    // A compacted batch may have lost its first record.
    let is_dense = view.record_count() == view.last_offset_delta() + 1;
    if view.is_log_append_time() && is_dense {
        return Some((view.base_offset().max(log_start), view.max_timestamp()));
    }
    let found = look_inside(batch, move |view, records| find_record(view, records, log_start, wanted));
    found.await.ok().flatten()
}

fn find_record(
    batch: &BatchView<'_>,
    records: Records<'_>,
    log_start: Offset,
    wanted: Timestamp,
) -> Option<(Offset, Timestamp)> {
    for record in records {
        let record = record.ok()?;
        let timestamp = match batch.is_log_append_time() {
            true => batch.max_timestamp(),
            false => Timestamp(batch.base_timestamp().0.wrapping_add(record.timestamp_delta)),
        };
        let offset = batch.base_offset().advance(u32::try_from(record.offset_delta).ok()?)?;
        if timestamp >= wanted && offset >= log_start {
            return Some((offset, timestamp));
        }
    }
    None
}
