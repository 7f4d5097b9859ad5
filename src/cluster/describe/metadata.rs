//! Metadata: brokers, topics and who leads what.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::protocol::StrBytes;

use super::operations;
use crate::cluster::brokers::{Broker, Brokers};
use crate::cluster::image::{Image, Topic};
use crate::cluster::record::{PartitionState, Replica};
use crate::cluster::topic_name;
use crate::cluster::wire_text::cluster_id_text;
use crate::codec::error_code::ErrorCode;
use crate::types::{NodeId, TopicId};

/// From here on topics can be asked for by id, and a name can be null.
const TOPIC_IDS: i16 = 12;
/// The response tells what a client may do with the cluster in these versions.
const CLUSTER_OPERATIONS: std::ops::RangeInclusive<i16> = 8..=10;
const TOPIC_OPERATIONS: i16 = 8;

/// Answers Metadata 0 to 12.
///
/// `not_created`: the names whose creation was tried for this request and refused.
/// Cost: O(partitions described), two small allocations each.
pub fn describe_metadata(
    image: &Image,
    brokers: &Brokers,
    request: &MetadataRequest,
    version: i16,
    not_created: &BTreeMap<TopicName, ErrorCode>,
) -> MetadataResponse {
    let mut topics = match asked(request, version) {
        None => image.topics().map(|topic| describe_topic(brokers, topic)).collect(),
        Some(asked) if version < TOPIC_IDS && asked.iter().any(uses_id) => {
            asked.iter().map(refuse_id).collect()
        }
        Some(asked) => describe_asked(image, brokers, asked, not_created),
    };
    if version >= TOPIC_OPERATIONS && request.include_topic_authorized_operations {
        // Also of names that there are not: kafka-python 2 takes no answer without them.
        let named = topics.iter_mut().filter(|topic| !is_refused_id(topic));
        named.for_each(|topic| topic.topic_authorized_operations = operations::TOPIC);
    }
    let mut response = MetadataResponse::default()
        .with_brokers(brokers.alive().map(broker).collect())
        .with_cluster_id(image.cluster_id().map(cluster_id_text).map(StrBytes::from_string))
        .with_controller_id(brokers.controller().map_or(-1, |id| id.0).into())
        .with_topics(topics);
    if CLUSTER_OPERATIONS.contains(&version) && request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = operations::CLUSTER;
    }
    response
}

/// Asked for by an id that there is not, or that the version has no place for.
fn is_refused_id(topic: &MetadataResponseTopic) -> bool {
    [ErrorCode::UnknownTopicId, ErrorCode::InvalidRequest]
        .iter()
        .any(|error| error.code() == topic.error_code)
}

/// `None`: all topics. Version 0 has no null and says so by an empty list.
fn asked(request: &MetadataRequest, version: i16) -> Option<&[MetadataRequestTopic]> {
    request.topics.as_deref().filter(|topics| version > 0 || !topics.is_empty())
}

fn uses_id(topic: &MetadataRequestTopic) -> bool {
    topic.name.is_none() || !topic.topic_id.is_nil()
}

/// A reference that this version has no place for spoils the whole request, as in Kafka.
fn refuse_id(topic: &MetadataRequestTopic) -> MetadataResponseTopic {
    let name = topic.name.clone().unwrap_or_default();
    failed(Some(name), TopicId(topic.topic_id), ErrorCode::InvalidRequest)
}

/// Every topic once, however often it was asked for.
fn describe_asked(
    image: &Image,
    brokers: &Brokers,
    asked: &[MetadataRequestTopic],
    not_created: &BTreeMap<TopicName, ErrorCode>,
) -> Vec<MetadataResponseTopic> {
    let mut described = BTreeSet::new();
    let mut missing = BTreeSet::new();
    let mut topics = Vec::with_capacity(asked.len().min(image.topics().len()));
    for topic in asked {
        let by_id = !topic.topic_id.is_nil();
        let name = topic.name.clone().unwrap_or_default();
        let found = match by_id {
            true => image.topic(TopicId(topic.topic_id)),
            false => image.topic_named(name.as_str()),
        };
        match found {
            Some(found) if described.insert(found.id) => topics.push(describe_topic(brokers, found)),
            None if missing.insert((topic.topic_id, name.clone())) => topics.push(match by_id {
                true => failed(None, TopicId(topic.topic_id), ErrorCode::UnknownTopicId),
                false => missing_name(name, not_created),
            }),
            Some(_) | None => {}
        }
    }
    topics
}

fn missing_name(name: TopicName, not_created: &BTreeMap<TopicName, ErrorCode>) -> MetadataResponseTopic {
    let error = match not_created.get(&name) {
        Some(&error) => error,
        None if topic_name::validate(name.as_str()).is_err() => ErrorCode::InvalidTopicException,
        None => ErrorCode::UnknownTopicOrPartition,
    };
    failed(Some(name), TopicId::ZERO, error)
}

fn failed(name: Option<TopicName>, id: TopicId, error: ErrorCode) -> MetadataResponseTopic {
    let is_internal = name.as_ref().is_some_and(|name| topic_name::is_internal(name.as_str()));
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_name(name)
        .with_topic_id(id.0)
        .with_is_internal(is_internal)
}

fn describe_topic(brokers: &Brokers, topic: &Topic) -> MetadataResponseTopic {
    let partitions =
        (0..).zip(&topic.partitions).map(|(index, state)| describe_partition(brokers, index, state));
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(topic.name.clone().into())))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic_name::is_internal(&topic.name))
        .with_partitions(partitions.collect())
}

fn describe_partition(brokers: &Brokers, index: i32, state: &PartitionState) -> MetadataResponsePartition {
    let broker_of = |replica: &Replica| brokers.broker_of(replica).0.into();
    let in_sync = |node: &NodeId| state.replica_on(*node).map(broker_of);
    let offline = state.replicas.iter().filter(|replica| !brokers.is_online(replica));
    let (leader, error) = match brokers.leader_of(state) {
        Some(leader) => (leader.0, ErrorCode::None),
        None => (-1, ErrorCode::LeaderNotAvailable),
    };
    MetadataResponsePartition::default()
        .with_error_code(error.code())
        .with_partition_index(index)
        .with_leader_id(leader.into())
        .with_leader_epoch(state.leader_epoch.0)
        .with_replica_nodes(state.replicas.iter().map(broker_of).collect())
        .with_isr_nodes(state.in_sync.iter().filter_map(in_sync).collect())
        .with_offline_replicas(offline.map(broker_of).collect())
}

fn broker(broker: &Broker) -> MetadataResponseBroker {
    MetadataResponseBroker::default()
        .with_node_id(broker.id.0.into())
        .with_host(broker.host.clone().into())
        .with_port(i32::from(broker.port))
        .with_rack(broker.rack.clone().map(StrBytes::from_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, partition_id, replica, topic_id};
    use crate::cluster::record::{Node, Record};
    use crate::config::Routing;
    use crate::types::PartitionEpoch;
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    fn image(routing: Routing) -> Image {
        let mut image = image_of(&[node(1, 2, routing)]);
        add_topic(&mut image, 1, "orders", &[0, 1, 1]);
        add_topic(&mut image, 2, "__consumer_offsets", &[0]);
        image
    }

    fn by_name(name: &str) -> MetadataRequestTopic {
        MetadataRequestTopic::default().with_name(Some(TopicName(name.to_owned().into())))
    }

    fn by_id(id: u128) -> MetadataRequestTopic {
        MetadataRequestTopic::default().with_name(None).with_topic_id(topic_id(id).0)
    }

    fn asking(topics: Vec<MetadataRequestTopic>) -> MetadataRequest {
        MetadataRequest::default().with_topics(Some(topics))
    }

    /// Describes, and takes the answer over the wire of that version.
    fn describe(image: &Image, request: &MetadataRequest, version: i16) -> MetadataResponse {
        let brokers = Brokers::new(image, NodeId(1));
        let response = describe_metadata(image, &brokers, request, version, &BTreeMap::new());
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, version).expect("encodes");
        MetadataResponse::decode(&mut bytes.freeze(), version).expect("decodes")
    }

    fn names(response: &MetadataResponse) -> Vec<String> {
        let name = |topic: &MetadataResponseTopic| topic.name.as_ref().map(|name| name.to_string());
        response.topics.iter().map(|topic| name(topic).unwrap_or_default()).collect()
    }

    #[test]
    fn all_topics_are_described_in_every_version() {
        let image = image(Routing::Node);
        for version in 0..=12 {
            let all = MetadataRequest::default().with_topics(if version == 0 { Some(vec![]) } else { None });
            let response = describe(&image, &all, version);
            assert_eq!(names(&response), ["__consumer_offsets", "orders"], "version {version}");
            let orders = &response.topics[1];
            let leaders: Vec<i32> = orders.partitions.iter().map(|partition| partition.leader_id.0).collect();
            assert_eq!(leaders, [1, 1, 1]);
            assert_eq!(response.brokers.len(), 1);
            if version >= 1 {
                assert_eq!(response.controller_id.0, 1);
                assert!(response.topics[0].is_internal);
            }
            if version >= 10 {
                assert_eq!(orders.topic_id, topic_id(1).0);
            }
            if version >= 7 {
                assert_eq!(orders.partitions[0].leader_epoch, 0);
            }
        }
    }

    #[test]
    fn empty_list_means_no_topics_after_version_0() {
        assert_eq!(describe(&image(Routing::Node), &asking(vec![]), 1).topics, []);
    }

    #[test]
    fn core_routing_names_the_owners_broker() {
        let response = describe(&image(Routing::Core), &asking(vec![by_name("orders")]), 9);
        let partitions = &response.topics[0].partitions;
        let brokers =
            |ids: &[kafka_protocol::messages::BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(partitions.iter().map(|p| p.leader_id.0).collect::<Vec<_>>(), [1000, 1001, 1001]);
        assert_eq!(brokers(&partitions[1].replica_nodes), [1001]);
        assert_eq!(brokers(&partitions[1].isr_nodes), [1001]);
        assert_eq!(response.brokers.iter().map(|b| b.port).collect::<Vec<_>>(), [9093, 9094]);
    }

    #[test]
    fn missing_topics_have_an_error_each() {
        let asked =
            asking(vec![by_name("nosuch"), by_name("bad/name"), by_name("orders"), by_name("nosuch")]);
        let response = describe(&image(Routing::Node), &asked, 9);
        let codes: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        assert_eq!(codes, [unknown, ErrorCode::InvalidTopicException.code(), 0]);
    }

    #[test]
    fn refused_creation_is_told() {
        let image = image(Routing::Node);
        let refused = BTreeMap::from([(TopicName("new".into()), ErrorCode::InvalidReplicationFactor)]);
        let brokers = Brokers::new(&image, NodeId(1));
        let response = describe_metadata(&image, &brokers, &asking(vec![by_name("new")]), 9, &refused);
        assert_eq!(response.topics[0].error_code, ErrorCode::InvalidReplicationFactor.code());
    }

    #[test]
    fn topics_are_found_by_id_from_version_12() {
        let image = image(Routing::Node);
        let asked = asking(vec![by_id(1), by_id(77), by_id(1)]);
        let response = describe(&image, &asked, 12);
        assert_eq!(response.topics.len(), 2);
        assert_eq!(response.topics[0].name, Some(TopicName("orders".into())));
        assert_eq!(response.topics[1].error_code, ErrorCode::UnknownTopicId.code());
        assert_eq!((response.topics[1].name.clone(), response.topics[1].topic_id), (None, topic_id(77).0));
        for version in 10..12 {
            let response = describe(&image, &asked, version);
            assert!(response.topics.iter().all(|t| t.error_code == ErrorCode::InvalidRequest.code()));
        }
    }

    #[test]
    fn operations_are_told_when_asked() {
        let image = image(Routing::Node);
        let asked = asking(vec![by_name("orders"), by_name("missing"), by_name("no topic")])
            .with_include_topic_authorized_operations(true)
            .with_include_cluster_authorized_operations(true);
        let response = describe(&image, &asked, 8);
        assert_eq!(response.topics[0].topic_authorized_operations, 3576);
        assert_eq!(response.topics[1].error_code, ErrorCode::UnknownTopicOrPartition.code());
        assert_eq!(response.topics[1].topic_authorized_operations, 3576);
        assert_eq!(response.topics[2].error_code, ErrorCode::InvalidTopicException.code());
        assert_eq!(response.topics[2].topic_authorized_operations, 3576);
        assert_eq!(response.cluster_authorized_operations, 8096);
        let by_id = asking(vec![by_id(77)]).with_include_topic_authorized_operations(true);
        assert_eq!(describe(&image, &by_id, 12).topics[0].topic_authorized_operations, i32::MIN);
        assert_eq!(describe(&image, &asked, 11).cluster_authorized_operations, i32::MIN);
    }

    #[test]
    fn replicas_of_fenced_nodes_are_offline() {
        let mut image = image(Routing::Node);
        let fenced = Node { is_fenced: true, ..node(2, 1, Routing::Node) };
        image.apply(&Record::NodeRegistered(fenced)).expect("fits");
        let mut state = PartitionState::new(vec![replica(1, 0), replica(2, 0)]);
        state.partition_epoch = PartitionEpoch(1);
        image.apply(&Record::PartitionChanged { id: partition_id(1, 0), state }).expect("fits");
        let response = describe(&image, &asking(vec![by_name("orders")]), 12);
        assert_eq!(response.brokers.iter().map(|broker| broker.node_id.0).collect::<Vec<_>>(), [1]);
        let partition = &response.topics[0].partitions[0];
        assert_eq!(partition.replica_nodes.iter().map(|id| id.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(partition.offline_replicas.iter().map(|id| id.0).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn partition_without_leader_and_replica_on_an_unknown_node() {
        let mut image = image(Routing::Node);
        let mut state = PartitionState::new(vec![replica(1, 0), replica(2, 0)]);
        (state.leader, state.partition_epoch) = (None, PartitionEpoch(1));
        image.apply(&Record::PartitionChanged { id: partition_id(1, 0), state }).expect("fits");
        let response = describe(&image, &asking(vec![by_name("orders")]), 9);
        let partition = &response.topics[0].partitions[0];
        assert_eq!(partition.error_code, ErrorCode::LeaderNotAvailable.code());
        assert_eq!(partition.leader_id.0, -1);
        assert_eq!(partition.offline_replicas.iter().map(|id| id.0).collect::<Vec<_>>(), [2]);
    }
}
