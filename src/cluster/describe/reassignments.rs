//! ListPartitionReassignments: the partitions that get other replicas (KIP-455).

use kafka_protocol::messages::BrokerId;
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use kafka_protocol::messages::list_partition_reassignments_response::{
    ListPartitionReassignmentsResponse, OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::brokers::Brokers;
use crate::cluster::image::{Image, Topic};
use crate::cluster::record::Replica;
use crate::types::NodeId;

/// Answers ListPartitionReassignments 0. Nothing is said of what is asked for and does not move, or is not there.
///
/// Shape: O(partitions asked for), or of the cluster.
pub fn list_reassignments(
    image: &Image,
    brokers: &Brokers,
    request: &ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let topics: Vec<OngoingTopicReassignment> = match &request.topics {
        None => {
            let all = |topic: &Topic| of_topic(brokers, topic, 0..topic.partitions.len() as i32);
            image.topics().filter_map(all).collect()
        }
        Some(asked) => {
            let of_asked = asked.iter().filter_map(|asked| {
                let topic = image.topic_named(&asked.name)?;
                of_topic(brokers, topic, asked.partition_indexes.iter().copied())
            });
            of_asked.collect()
        }
    };
    ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
}

/// `None` where nothing moves.
fn of_topic(
    brokers: &Brokers,
    topic: &Topic,
    indexes: impl Iterator<Item = i32>,
) -> Option<OngoingTopicReassignment> {
    let moving = indexes.filter_map(|index| {
        let state = topic.partitions.get(usize::try_from(index).ok()?)?;
        let broker_of = |replica: &Replica| BrokerId(brokers.broker_of(replica).0);
        let on = |node: &NodeId| state.replica_on(*node).map(broker_of);
        state.is_reassigned().then(|| {
            OngoingPartitionReassignment::default()
                .with_partition_index(index)
                .with_replicas(state.replicas.iter().map(broker_of).collect())
                .with_adding_replicas(state.adding.iter().filter_map(on).collect())
                .with_removing_replicas(state.removing.iter().filter_map(on).collect())
        })
    });
    let partitions: Vec<OngoingPartitionReassignment> = moving.collect();
    let name = StrBytes::from_string(topic.name.clone());
    let named = OngoingTopicReassignment::default().with_name(name.into());
    (!partitions.is_empty()).then(|| named.with_partitions(partitions))
}
