//! AddPartitionsToTxn, AddOffsetsToTxn.
//!
//! Versions of AddPartitionsToTxn from 4 on are for brokers, that ask for many transactions at once, and may
//! ask only whether a transaction has its partitions (KIP-890).

use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::PartitionNames;
use crate::group::GROUPS_TOPIC;
use crate::shard::api::groups::Asking;
use crate::shard::api::transactions::known_error;
use crate::shard::controller::InternalState;
use crate::shard::coordinators;
use crate::shard::step::Pace;
use crate::shard::transactions::{TransactionReply, TransactionRequest};
use crate::txn::transaction::Addition;
use crate::txn::{Answer, Writer};
use crate::types::{PartitionIndex, ProducerEpoch, ProducerId, TransactionVersion};
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
};
use std::collections::BTreeMap;

/// The first version of AddPartitionsToTxn with many transactions.
const MANY_FROM: i16 = 4;
/// The first version of both that says that a producer is fenced (KIP-588).
const FENCED_FROM: i16 = 2;
const PARTITIONS_ABORTABLE_FROM: i16 = 5;
const OFFSETS_ABORTABLE_FROM: i16 = 4;

pub async fn add_partitions(
    asking: &Asking<'_>,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    let response = AddPartitionsToTxnResponse::default();
    if asking.version < MANY_FROM {
        let transaction = AddPartitionsToTxnTransaction::default()
            .with_transactional_id(request.v3_and_below_transactional_id)
            .with_producer_id(request.v3_and_below_producer_id)
            .with_producer_epoch(request.v3_and_below_producer_epoch)
            .with_topics(request.v3_and_below_topics);
        return response.with_results_by_topic_v3_and_below(add(asking, &transaction).await);
    }
    let mut results = Vec::with_capacity(request.transactions.len());
    let mut pace = Pace::new(&asking.shard.clock);
    for transaction in &request.transactions {
        pace.give_way().await;
        let topics = add(asking, transaction).await;
        let result = AddPartitionsToTxnResult::default().with_topic_results(topics);
        results.push(result.with_transactional_id(transaction.transactional_id.clone()));
    }
    response.with_results_by_transaction(results)
}

/// All partitions of a transaction, or none.
async fn add(
    asking: &Asking<'_>,
    transaction: &AddPartitionsToTxnTransaction,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let topics = &transaction.topics;
    let unknown = unknown_partitions(asking, topics);
    if !unknown.is_empty() {
        return results(topics, |topic, partition| {
            unknown.get(&(topic, partition)).copied().unwrap_or(ErrorCode::OperationNotAttempted)
        });
    }
    let named = topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.as_str(), *partition)));
    let partitions: PartitionNames = named.collect();
    let writer = Writer {
        producer: ProducerId(transaction.producer_id.0),
        epoch: ProducerEpoch(transaction.producer_epoch),
    };
    let known = |error| known_error(error, asking.version, FENCED_FROM, PARTITIONS_ABORTABLE_FROM);
    let request = match transaction.verify_only {
        true => TransactionRequest::Verify { writer, partitions: partitions.clone() },
        false => {
            let version = match asking.version {
                ..MANY_FROM => TransactionVersion::V1,
                MANY_FROM.. => TransactionVersion::V2, // A broker's, for a batch that adds its partition.
            };
            TransactionRequest::Add(Addition { writer, version, partitions: partitions.clone() })
        }
    };
    let error = match asking.ask_transaction(&transaction.transactional_id, request).await {
        TransactionReply::Verified(verified) => {
            let verified: BTreeMap<(&str, i32), Result<(), ErrorCode>> =
                partitions.iter().zip(verified).collect();
            return results(topics, |topic, partition| {
                verified[&(topic, partition)].map_or_else(known, |()| ErrorCode::None)
            });
        }
        reply => added(reply).map_or_else(known, |()| ErrorCode::None),
    };
    results(topics, |_, _| error)
}

/// Those that there are not, and those that clients have no right to.
fn unknown_partitions<'a>(
    asking: &Asking<'_>,
    topics: &'a [AddPartitionsToTxnTopic],
) -> BTreeMap<(&'a str, i32), ErrorCode> {
    let image = asking.shard.image.borrow();
    let mut unknown = BTreeMap::new();
    for topic in topics {
        let found = image.topic_named(&topic.name);
        let is_internal = crate::cluster::topic_name::is_internal(&topic.name);
        for partition in &topic.partitions {
            let index = PartitionIndex::from_wire(*partition);
            let is_there =
                found.zip(index).is_some_and(|(topic, index)| index.index() < topic.partitions.len());
            let error = match (is_internal && asking.version < MANY_FROM, is_there) {
                (true, _) => ErrorCode::TopicAuthorizationFailed,
                (false, false) => ErrorCode::UnknownTopicOrPartition,
                (false, true) => continue,
            };
            unknown.insert((topic.name.as_str(), *partition), error);
        }
    }
    unknown
}

fn results(
    topics: &[AddPartitionsToTxnTopic],
    error: impl Fn(&str, i32) -> ErrorCode,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let of_topic = |topic: &AddPartitionsToTxnTopic| {
        let results = topic.partitions.iter().map(|partition| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*partition)
                .with_partition_error_code(error(&topic.name, *partition).code())
        });
        let results = results.collect();
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(results)
    };
    topics.iter().map(of_topic).collect()
}

/// Adds the partition that the group's offsets are committed to.
pub async fn add_offsets(asking: &Asking<'_>, request: AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse {
    let added = add_group(asking, &request).await;
    let error = match added {
        Ok(()) => ErrorCode::None,
        Err(error) => known_error(error, asking.version, FENCED_FROM, OFFSETS_ABORTABLE_FROM),
    };
    AddOffsetsToTxnResponse::default().with_error_code(error.code())
}

async fn add_group(asking: &Asking<'_>, request: &AddOffsetsToTxnRequest) -> Result<(), ErrorCode> {
    asking.shard.create_internal(InternalState::Groups).await?;
    let partition = coordinators::partition_of(asking.shard, GROUPS_TOPIC, &request.group_id);
    let partition = partition.ok_or(ErrorCode::CoordinatorNotAvailable)?;
    let addition = Addition {
        writer: Writer {
            producer: ProducerId(request.producer_id.0),
            epoch: ProducerEpoch(request.producer_epoch),
        },
        version: TransactionVersion::V1,
        partitions: [(GROUPS_TOPIC, partition.partition.to_wire())].into_iter().collect(),
    };
    added(asking.ask_transaction(&request.transactional_id, TransactionRequest::Add(addition)).await)
}

fn added(reply: TransactionReply) -> Result<(), ErrorCode> {
    match reply {
        TransactionReply::Answer(Answer::Added(added)) => added,
        TransactionReply::Refused(error) => Err(error),
        TransactionReply::Answer(Answer::Writer(_))
        | TransactionReply::Verified(_)
        | TransactionReply::Described(_) => unreachable!("an addition is answered as one"),
    }
}
