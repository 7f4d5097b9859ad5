//! DeleteRecords (key 21): moves a partition's log start forward, durably before it is answered.

use crate::cluster::topic_name;
use crate::codec::error_code::ErrorCode;
use crate::log::journal::block::Entry;
use crate::replication::leader::Event;
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, PartitionItem, Place};
use crate::shard::api::list_offsets::{find, locate};
use crate::shard::background;
use crate::shard::conn::Connection;
use crate::shard::disk::is_full_disk;
use crate::shard::message::{DeleteRecordsItem, DeleteRecordsOutcome, Reply, Request};
use crate::shard::replica::Replica;
use crate::shard::store::Store;
use crate::shard::store::changes::Logged;
use crate::types::Offset;
use futures::future::{join_all, select};
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// The wire's "up to the high watermark".
const TO_HIGH_WATERMARK: i64 = -1;

/// How long the other replicas may take.
const REPLICATION_TIME_MAX: Duration = Duration::from_secs(10);

pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Connection,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut response = DeleteRecordsResponse::default();
    let mut by_owner = ByOwner::new();
    for (topic_at, topic) in request.topics.iter().enumerate() {
        let mut answers = Vec::with_capacity(topic.partitions.len());
        for (at, partition) in topic.partitions.iter().enumerate() {
            let mut answer = DeleteRecordsPartitionResult::default()
                .with_partition_index(partition.partition_index)
                .with_low_watermark(-1);
            let before = Offset::from_wire(partition.offset);
            let found = if topic_name::is_internal(&topic.name) {
                Err(ErrorCode::InvalidTopicException) // Coordinators need all of it.
            } else if before.is_none() && partition.offset != TO_HIGH_WATERMARK {
                Err(ErrorCode::OffsetOutOfRange)
            } else {
                locate(shard, connection, &topic.name, partition.partition_index)
            };
            match found {
                Ok((owner, partition)) => {
                    let item = DeleteRecordsItem { partition, before };
                    by_owner.push(owner, Place { topic: topic_at, partition: at }, item);
                }
                Err(error) => answer.error_code = error.code(),
            }
            answers.push(answer);
        }
        let topic = DeleteRecordsTopicResult::default().with_name(topic.name.clone());
        response.topics.push(topic.with_partitions(answers));
    }
    for (place, outcome) in by_owner.ask(shard).await {
        let answer = &mut response.topics[place.topic].partitions[place.partition];
        answer.error_code = outcome.error.code();
        answer.low_watermark = outcome.low_watermark.map_or(-1, Offset::to_wire);
    }
    response
}

impl PartitionItem for DeleteRecordsItem {
    type Outcome = DeleteRecordsOutcome;

    async fn serve(shard: &Rc<Shard>, items: Vec<DeleteRecordsItem>) -> Vec<DeleteRecordsOutcome> {
        delete_local(shard, &items).await
    }

    fn request(items: Vec<DeleteRecordsItem>) -> Request {
        Request::DeleteRecords(items)
    }

    fn outcomes(reply: Reply) -> Vec<DeleteRecordsOutcome> {
        let Reply::DeleteRecords(outcomes) = reply else {
            unreachable!("deletions are answered by deletions")
        };
        outcomes
    }
}

/// Deletes in partitions of this core: the new log starts are flushed together, then answered, and only
/// then seen by readers.
pub async fn delete_local(shard: &Rc<Shard>, items: &[DeleteRecordsItem]) -> Vec<DeleteRecordsOutcome> {
    let decided: Vec<Result<Decided, ErrorCode>> = items.iter().map(|item| decide(shard, item)).collect();
    for Decided { replica, .. } in decided.iter().flatten() {
        // Of all that was decided: the entry says the highest.
        if !replica.log.borrow().is_flushed_below(replica.log_start_decided()) {
            shard.stores.of(replica).write_out(replica.slot).await;
        }
    }
    let durable = join_all(shard.stores.iter().map(|store| make_durable(shard, store, &decided))).await;
    let mut outcomes = Vec::with_capacity(items.len());
    for decided in decided {
        let durable = |decided: Decided| durable[decided.replica.dir.index()].map(|()| decided);
        outcomes.push(match decided.and_then(durable) {
            Ok(decided) => carry_out(shard, &decided).await,
            Err(error) => refused(error),
        });
    }
    outcomes
}

/// Flushes what was decided for the partitions of one log directory.
async fn make_durable(
    shard: &Rc<Shard>,
    store: &Rc<Store>,
    decided: &[Result<Decided, ErrorCode>],
) -> Result<(), ErrorCode> {
    let is_here = |decided: &&Decided| decided.replica.dir == store.dir && decided.change.is_some();
    let here = || decided.iter().flatten().filter(is_here);
    if here().next().is_none() {
        return Ok(());
    }
    match store.log_changes(here().filter_map(|decided| decided.change).collect()).await {
        Logged::Flushed => Ok(()),
        Logged::NoJournal => checkpoint(shard, store, here()).await,
        Logged::Failed => Err(ErrorCode::KafkaStorageError),
    }
}

/// A new log start.
struct Decided {
    replica: Rc<Replica>,
    start: Offset,
    /// What makes it durable here; `None` where there are other replicas: the leader has it made durable by all.
    change: Option<Entry>,
}

fn decide(shard: &Shard, item: &DeleteRecordsItem) -> Result<Decided, ErrorCode> {
    let replica = find(shard, &item.partition)?;
    let store = shard.stores.of(&replica);
    // A stop that did not wait for this request: the final state has the log start as it is.
    if store.is_offline() || store.is_closed() {
        return Err(ErrorCode::KafkaStorageError);
    }
    let high_watermark = replica.log.borrow().high_watermark();
    let start = item.before.unwrap_or(high_watermark);
    if start > high_watermark {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let change = replica.replication.is_alone().then(|| replica.decide_log_start(start));
    Ok(Decided { replica, start, change })
}

/// Without a journal the checkpoint says it, which says only what is flushed in the segments.
async fn checkpoint(
    shard: &Rc<Shard>,
    store: &Rc<Store>,
    decided: impl Iterator<Item = &Decided>,
) -> Result<(), ErrorCode> {
    for decided in decided {
        if decided.start > decided.replica.log.borrow().stored_end() {
            store.write_out(decided.replica.slot).await;
        }
    }
    background::write_checkpoint(shard, store).await.map_err(|error| {
        if !is_full_disk(&error) {
            store.fail(&format!("writing the checkpoint: {error}"));
        }
        ErrorCode::KafkaStorageError
    })
}

async fn carry_out(shard: &Rc<Shard>, decided: &Decided) -> DeleteRecordsOutcome {
    if decided.change.is_none() {
        return carry_out_replicated(shard, &decided.replica, decided.start).await;
    }
    decided.replica.log.borrow_mut().advance_log_start(decided.start);
    if !decided.replica.is_deleted() {
        background::drop_segments(shard.stores.of(&decided.replica), &decided.replica).await;
    }
    let low_watermark = Some(decided.replica.log.borrow().log_start());
    DeleteRecordsOutcome { error: ErrorCode::None, low_watermark }
}

/// All in-sync replicas have it before it is answered (Kafka `DelayedDeleteRecords`).
async fn carry_out_replicated(shard: &Shard, replica: &Rc<Replica>, start: Offset) -> DeleteRecordsOutcome {
    let deadline = shard.clock.mono().after(REPLICATION_TIME_MAX);
    replica.lead(Event::LogStartWanted { log_start: start });
    while replica.log.borrow().log_start() < start {
        let left = deadline.since(shard.clock.mono());
        if !replica.replication.is_leader() {
            return refused(ErrorCode::NotLeaderOrFollower);
        }
        if left.is_zero() {
            return refused(ErrorCode::RequestTimedOut);
        }
        let (changed, timer) =
            (pin!(replica.replication.changed.notified()), pin!(glommio::timer::sleep(left)));
        select(changed, timer).await;
    }
    let low_watermark = Some(replica.log.borrow().log_start());
    DeleteRecordsOutcome { error: ErrorCode::None, low_watermark }
}

fn refused(error: ErrorCode) -> DeleteRecordsOutcome {
    DeleteRecordsOutcome { error, ..Default::default() }
}
