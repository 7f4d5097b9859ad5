//! DeleteRecords (key 21): moves a partition's log start forward, durably before it is answered.

use crate::codec::error_code::ErrorCode;
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, PartitionItem, Place};
use crate::shard::api::list_offsets::{find, locate};
use crate::shard::background;
use crate::shard::conn::Connection;
use crate::shard::disk::is_full_disk;
use crate::shard::message::{DeleteRecordsItem, DeleteRecordsOutcome, Reply, Request};
use crate::types::Offset;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use std::rc::Rc;

/// The wire's "up to the high watermark".
const TO_HIGH_WATERMARK: i64 = -1;

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
            let found = if before.is_none() && partition.offset != TO_HIGH_WATERMARK {
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

/// Deletes in partitions of this core: the new log starts are flushed together, then answered.
pub async fn delete_local(shard: &Rc<Shard>, items: &[DeleteRecordsItem]) -> Vec<DeleteRecordsOutcome> {
    for item in items {
        write_out(shard, item).await;
    }
    let mut outcomes: Vec<DeleteRecordsOutcome> =
        items.iter().map(|item| advance(shard, item).unwrap_or_else(refused)).collect();
    if outcomes.iter().any(|outcome| outcome.error == ErrorCode::None)
        && let Err(error) = background::write_checkpoint(shard).await
    {
        if !is_full_disk(&error) {
            shard.store.fail(&format!("writing the checkpoint: {error}"));
        }
        outcomes.iter_mut().for_each(|outcome| outcome.error = ErrorCode::KafkaStorageError);
    }
    for item in items {
        if let Some(replica) = shard.store.find(&item.partition) {
            background::drop_segments(&shard.store, &replica).await;
        }
    }
    outcomes
}

/// The log start never passes what is flushed in the segments: the checkpoint says both.
async fn write_out(shard: &Rc<Shard>, item: &DeleteRecordsItem) {
    if let Ok(replica) = find(shard, &item.partition)
        && item.before.is_none_or(|before| before > replica.log.borrow().stored_end())
    {
        shard.store.write_out(replica.slot).await;
    }
}

fn advance(shard: &Shard, item: &DeleteRecordsItem) -> Result<DeleteRecordsOutcome, ErrorCode> {
    let replica = find(shard, &item.partition)?;
    if shard.store.is_offline() {
        return Err(ErrorCode::KafkaStorageError);
    }
    let mut log = replica.log.borrow_mut();
    let before = item.before.unwrap_or(log.stored_end());
    if before > log.high_watermark() {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let before = before.min(log.stored_end());
    log.advance_log_start(before);
    Ok(DeleteRecordsOutcome { error: ErrorCode::None, low_watermark: Some(log.log_start()) })
}

fn refused(error: ErrorCode) -> DeleteRecordsOutcome {
    DeleteRecordsOutcome { error, ..Default::default() }
}
