//! Metadata (3), CreateTopics (19), DeleteTopics (20), CreatePartitions (37), ElectLeaders (43),
//! AlterPartitionReassignments (45), ListPartitionReassignments (46), DescribeTopicPartitions (75).

use crate::cluster::decide::topics_to_create;
use crate::cluster::describe::{self, describe_metadata, describe_topic_partitions};
use crate::codec::error_code::ErrorCode;
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest, MutationLimit};
use crate::shard::quotas::Charged;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, CreatePartitionsRequest,
    CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    ElectLeadersRequest, ElectLeadersResponse, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse, MetadataRequest, MetadataResponse,
};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Creates what is asked for and missing, if that is allowed, then describes.
pub async fn metadata(shard: &Rc<Shard>, request: MetadataRequest, version: i16) -> MetadataResponse {
    let missing = topics_to_create(&shard.image.borrow(), &shard.topic_defaults(), &request, version);
    let mut not_created = BTreeMap::new();
    if !missing.is_empty() {
        let names = missing.clone();
        match shard.control(ControlRequest::AutoCreate(missing)).await {
            ControlReply::AutoCreate(errors) => not_created = errors,
            ControlReply::Failed(error) => {
                not_created = names.into_iter().map(|name| (name, error)).collect();
            }
            _ => unreachable!("a creation is answered by its errors"),
        }
    }
    let (image, brokers) = (shard.image.borrow(), shard.brokers.borrow());
    describe_metadata(&image, &brokers, &request, version, &not_created)
}

/// From these versions on a client is refused what is too much for its quota; before, it only waits for it
/// (KIP-599).
const CREATE_STRICT_FROM: i16 = 6;
const DELETE_STRICT_FROM: i16 = 5;
const CREATE_PARTITIONS_STRICT_FROM: i16 = 3;

/// What a client may create and delete, if it is limited.
fn limit(charged: Option<&Charged>, is_strict: bool) -> Option<MutationLimit> {
    charged.and_then(|charged| charged.mutations(is_strict))
}

pub async fn create(
    shard: &Rc<Shard>,
    charged: Option<&Charged>,
    request: CreateTopicsRequest,
    version: i16,
) -> CreateTopicsResponse {
    let limit = limit(charged, version >= CREATE_STRICT_FROM);
    let names: Vec<_> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    match shard.control(ControlRequest::CreateTopics(request, limit)).await {
        ControlReply::CreateTopics(response) => {
            charged.iter().for_each(|charged| charged.mutated(response.throttle_time_ms));
            response
        }
        ControlReply::Failed(error) => {
            let failed = |name| CreatableTopicResult::default().with_name(name).with_error_code(error.code());
            CreateTopicsResponse::default().with_topics(names.into_iter().map(failed).collect())
        }
        _ => unreachable!("a creation is answered as such"),
    }
}

pub async fn delete(
    shard: &Rc<Shard>,
    charged: Option<&Charged>,
    request: DeleteTopicsRequest,
    version: i16,
) -> DeleteTopicsResponse {
    let limit = limit(charged, version >= DELETE_STRICT_FROM);
    let named = request.topic_names.clone().into_iter().map(Some);
    let names: Vec<_> = named.chain(request.topics.iter().map(|topic| topic.name.clone())).collect();
    match shard.control(ControlRequest::DeleteTopics(request, version, limit)).await {
        ControlReply::DeleteTopics(response) => {
            charged.iter().for_each(|charged| charged.mutated(response.throttle_time_ms));
            response
        }
        ControlReply::Failed(error) => {
            let failed = |name| DeletableTopicResult::default().with_name(name).with_error_code(error.code());
            DeleteTopicsResponse::default().with_responses(names.into_iter().map(failed).collect())
        }
        _ => unreachable!("a deletion is answered as such"),
    }
}

pub async fn create_partitions(
    shard: &Rc<Shard>,
    charged: Option<&Charged>,
    request: CreatePartitionsRequest,
    version: i16,
) -> CreatePartitionsResponse {
    let limit = limit(charged, version >= CREATE_PARTITIONS_STRICT_FROM);
    let names: Vec<_> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    match shard.control(ControlRequest::CreatePartitions(request, limit)).await {
        ControlReply::CreatePartitions(response) => {
            charged.iter().for_each(|charged| charged.mutated(response.throttle_time_ms));
            response
        }
        ControlReply::Failed(error) => {
            let failed = |name: kafka_protocol::messages::TopicName| refused(name, error);
            CreatePartitionsResponse::default().with_results(names.into_iter().map(failed).collect())
        }
        _ => unreachable!("an extension is answered as such"),
    }
}

/// A page of topics.
pub fn describe(shard: &Shard, request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let (image, brokers) = (shard.image.borrow(), shard.brokers.borrow());
    let partitions_max = shard.config.max_request_partition_size_limit;
    describe_topic_partitions(&image, &brokers, request, partitions_max)
}

pub async fn elect_leaders(
    shard: &Rc<Shard>,
    request: ElectLeadersRequest,
    version: i16,
) -> ElectLeadersResponse {
    /// Before it there was no place for an error of the whole request.
    const ERROR_FROM: i16 = 1;
    let mut response = match shard.control(ControlRequest::ElectLeaders(request)).await {
        ControlReply::ElectLeaders(response) => response,
        ControlReply::Failed(error) => ElectLeadersResponse::default().with_error_code(error.code()),
        _ => unreachable!("an election is answered as such"),
    };
    if version < ERROR_FROM {
        response.error_code = 0;
    }
    response
}

pub async fn alter_reassignments(
    shard: &Rc<Shard>,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let is_change_allowed = request.allow_replication_factor_change;
    match shard.control(ControlRequest::AlterReassignments(request)).await {
        ControlReply::AlterReassignments(response) => response,
        ControlReply::Failed(error) => AlterPartitionReassignmentsResponse::default()
            .with_allow_replication_factor_change(is_change_allowed)
            .with_error_code(error.code())
            .with_error_message(None),
        _ => unreachable!("a reassignment is answered as such"),
    }
}

pub fn list_reassignments(
    shard: &Shard,
    request: &ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    describe::list_reassignments(&shard.image.borrow(), &shard.brokers.borrow(), request)
}

fn refused(name: kafka_protocol::messages::TopicName, error: ErrorCode) -> CreatePartitionsTopicResult {
    CreatePartitionsTopicResult::default().with_name(name).with_error_code(error.code())
}
