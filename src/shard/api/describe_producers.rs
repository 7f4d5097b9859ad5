//! DescribeProducers (key 61): who writes to a partition, and since which offset their transactions are open
//! (KIP-664).

use crate::codec::error_code::ErrorCode;
use crate::log::producers::{EXPIRE_STEP_COUNT, ProducerDescription};
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, PartitionItem, Place};
use crate::shard::api::list_offsets::{find, locate};
use crate::shard::conn::Connection;
use crate::shard::message::{DescribeProducersItem, DescribeProducersOutcome, Reply, Request};
use crate::types::limits::PRODUCERS_DESCRIBED_MAX;
use crate::types::{Offset, ProducerId};
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};
use std::rc::Rc;

pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Connection,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let mut response = DescribeProducersResponse::default();
    let mut by_owner = ByOwner::new();
    for (topic_at, topic) in request.topics.iter().enumerate() {
        let mut answers = Vec::with_capacity(topic.partition_indexes.len());
        for (at, index) in topic.partition_indexes.iter().enumerate() {
            let mut answer = PartitionResponse::default().with_partition_index(*index);
            match locate(shard, connection, &topic.name, *index) {
                Ok((owner, partition)) => {
                    let item = DescribeProducersItem { partition };
                    by_owner.push(owner, Place { topic: topic_at, partition: at }, item);
                }
                Err(error) => answer.error_code = error.code(),
            }
            answers.push(answer);
        }
        let topic = TopicResponse::default().with_name(topic.name.clone());
        response.topics.push(topic.with_partitions(answers));
    }
    for (place, outcome) in by_owner.ask(shard).await {
        let answer = &mut response.topics[place.topic].partitions[place.partition];
        answer.error_code = outcome.error.code();
        if outcome.error != ErrorCode::None {
            answer.error_message = Some(outcome.error.message().into());
        }
        answer.active_producers = outcome.producers.iter().map(described).collect();
    }
    response
}

fn described(producer: &ProducerDescription) -> ProducerState {
    ProducerState::default()
        .with_producer_id(producer.id.0.into())
        .with_producer_epoch(producer.epoch.0.into())
        .with_last_sequence(producer.last_sequence.map_or(-1, |sequence| sequence.0))
        .with_last_timestamp(producer.last_timestamp.0)
        .with_coordinator_epoch(producer.coordinator_epoch.0)
        .with_current_txn_start_offset(producer.transaction_start.map_or(-1, Offset::to_wire))
}

impl PartitionItem for DescribeProducersItem {
    type Outcome = DescribeProducersOutcome;

    async fn serve(shard: &Rc<Shard>, items: Vec<DescribeProducersItem>) -> Vec<DescribeProducersOutcome> {
        describe_local(shard, &items).await
    }

    fn request(items: Vec<DescribeProducersItem>) -> Request {
        Request::DescribeProducers(items)
    }

    fn outcomes(reply: Reply) -> Vec<DescribeProducersOutcome> {
        let Reply::DescribeProducers(outcomes) = reply else {
            unreachable!("producers are answered by producers")
        };
        outcomes
    }
}

/// Describes the producers of partitions of this core, some at a time. Past [`PRODUCERS_DESCRIBED_MAX`] of a
/// request the rest is refused: it is to be asked for by itself.
pub async fn describe_local(
    shard: &Rc<Shard>,
    items: &[DescribeProducersItem],
) -> Vec<DescribeProducersOutcome> {
    let mut outcomes = Vec::with_capacity(items.len());
    let mut left = PRODUCERS_DESCRIBED_MAX;
    for item in items {
        let described = describe_one(shard, item, left).await;
        let outcome =
            described.unwrap_or_else(|error| DescribeProducersOutcome { error, producers: Vec::new() });
        left -= outcome.producers.len();
        outcomes.push(outcome);
    }
    outcomes
}

async fn describe_one(
    shard: &Rc<Shard>,
    item: &DescribeProducersItem,
    left: usize,
) -> Result<DescribeProducersOutcome, ErrorCode> {
    let replica = find(shard, &item.partition)?;
    let mut producers: Vec<ProducerDescription> = Vec::new();
    let mut from = Some(ProducerId(0));
    while let Some(next) = from {
        let step = replica.log.borrow().producers.describe(next, EXPIRE_STEP_COUNT);
        from = step.last().and_then(|last| last.id.0.checked_add(1)).map(ProducerId);
        from = from.filter(|_| step.len() == EXPIRE_STEP_COUNT);
        producers.extend(step);
        if producers.len() > left {
            return Err(ErrorCode::PolicyViolation);
        }
        glommio::executor().yield_if_needed().await;
    }
    Ok(DescribeProducersOutcome { error: ErrorCode::None, producers })
}
