//! OffsetForLeaderEpoch (key 23): where a leader epoch ends, so that a consumer finds out about
//! truncation (KIP-320).

use crate::codec::error_code::ErrorCode;
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, PartitionItem, Place};
use crate::shard::api::fetch::check_epoch;
use crate::shard::api::list_offsets::{find, locate};
use crate::shard::conn::Connection;
use crate::shard::message::{EpochEndItem, EpochEndOutcome, Reply, Request};
use crate::types::{LeaderEpoch, Offset};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use std::rc::Rc;

pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Connection,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let mut response = OffsetForLeaderEpochResponse::default();
    let mut by_owner = ByOwner::new();
    for (topic_at, topic) in request.topics.iter().enumerate() {
        let mut answers = Vec::with_capacity(topic.partitions.len());
        for (at, partition) in topic.partitions.iter().enumerate() {
            let mut answer = EpochEndOffset::default()
                .with_partition(partition.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            match locate(shard, connection, &topic.topic, partition.partition) {
                Ok((owner, id)) => {
                    let current = partition.current_leader_epoch;
                    let item = EpochEndItem {
                        partition: id,
                        current_epoch: (current >= 0).then_some(LeaderEpoch(current)),
                        epoch: LeaderEpoch(partition.leader_epoch),
                    };
                    by_owner.push(owner, Place { topic: topic_at, partition: at }, item);
                }
                Err(error) => answer.error_code = error.code(),
            }
            answers.push(answer);
        }
        let topic = OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone());
        response.topics.push(topic.with_partitions(answers));
    }
    for (place, outcome) in by_owner.ask(shard).await {
        let answer = &mut response.topics[place.topic].partitions[place.partition];
        answer.error_code = outcome.error.code();
        answer.leader_epoch = outcome.epoch.map_or(-1, |epoch| epoch.0);
        answer.end_offset = outcome.end_offset.map_or(-1, Offset::to_wire);
    }
    response
}

impl PartitionItem for EpochEndItem {
    type Outcome = EpochEndOutcome;

    async fn serve(shard: &Rc<Shard>, items: Vec<EpochEndItem>) -> Vec<EpochEndOutcome> {
        epoch_ends_local(shard, &items)
    }

    fn request(items: Vec<EpochEndItem>) -> Request {
        Request::EpochEnds(items)
    }

    fn outcomes(reply: Reply) -> Vec<EpochEndOutcome> {
        let Reply::EpochEnds(outcomes) = reply else { unreachable!("epoch ends are answered by epoch ends") };
        outcomes
    }
}

/// Answers for partitions of this core.
pub fn epoch_ends_local(shard: &Shard, items: &[EpochEndItem]) -> Vec<EpochEndOutcome> {
    items.iter().map(|item| epoch_end(shard, item).unwrap_or_else(refused)).collect()
}

fn epoch_end(shard: &Shard, item: &EpochEndItem) -> Result<EpochEndOutcome, ErrorCode> {
    let replica = find(shard, &item.partition)?;
    let log = replica.log.borrow();
    check_epoch(item.current_epoch, log.leader_epoch())?;
    // An epoch that has written nothing yet ends where the log does.
    let end = if item.epoch == log.leader_epoch() {
        Some((item.epoch, log.high_watermark()))
    } else {
        log.epochs().end_offset_for(item.epoch, log.high_watermark()).map(|end| (end.epoch, end.end_offset))
    };
    Ok(EpochEndOutcome {
        error: ErrorCode::None,
        epoch: end.map(|(epoch, _)| epoch),
        end_offset: end.map(|(_, end_offset)| end_offset),
    })
}

fn refused(error: ErrorCode) -> EpochEndOutcome {
    EpochEndOutcome { error, ..Default::default() }
}
