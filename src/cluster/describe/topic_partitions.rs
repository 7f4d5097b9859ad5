//! DescribeTopicPartitions: topics page by page, with replicas that may lead (KIP-966).

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{BrokerId, TopicName};

use super::operations;
use crate::cluster::brokers::Brokers;
use crate::cluster::image::{Image, Topic};
use crate::cluster::record::{PartitionState, Replica};
use crate::cluster::topic_name;
use crate::codec::error_code::ErrorCode;
use crate::types::NodeId;

/// Answers DescribeTopicPartitions 0. `partitions_max`: of the broker, whatever the client asks for.
///
/// Topics come in the order of their names, those before the cursor's left out. Cost: O(topics asked for and
/// partitions described).
pub fn describe_topic_partitions(
    image: &Image,
    brokers: &Brokers,
    request: &DescribeTopicPartitionsRequest,
    partitions_max: usize,
) -> DescribeTopicPartitionsResponse {
    match first(request) {
        Some(first) => describe(image, brokers, request, partitions_max, first),
        None => {
            let topics =
                request.topics.iter().map(|topic| failed(topic.name.clone(), ErrorCode::InvalidRequest));
            DescribeTopicPartitionsResponse::default().with_topics(topics.collect())
        }
    }
}

/// Where the page begins; `None` if the cursor's topic is not asked for, or its partition cannot be one.
fn first(request: &DescribeTopicPartitionsRequest) -> Option<(&str, usize)> {
    let Some(cursor) = &request.cursor else { return Some(("", 0)) };
    let is_asked = request.topics.is_empty() || request.topics.iter().any(|it| it.name == cursor.topic_name);
    let partition = usize::try_from(cursor.partition_index).ok()?;
    is_asked.then_some((cursor.topic_name.as_str(), partition))
}

fn describe(
    image: &Image,
    brokers: &Brokers,
    request: &DescribeTopicPartitionsRequest,
    partitions_max: usize,
    (first_topic, first_partition): (&str, usize),
) -> DescribeTopicPartitionsResponse {
    let is_all = request.topics.is_empty();
    let names: BTreeSet<&str> = match is_all {
        true => image.topics().map(|topic| topic.name.as_str()).collect(),
        false => request.topics.iter().map(|topic| topic.name.as_str()).collect(),
    };
    let asked_max = usize::try_from(request.response_partition_limit).unwrap_or_default();
    let mut left = asked_max.min(partitions_max).max(1);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.range(first_topic..) {
        if left == 0 {
            response.next_cursor = Some(cursor(name, 0));
            break;
        }
        let Some(topic) = image.topic_named(name) else {
            response.topics.push(failed(topic_name_of(name), missing(name)));
            continue;
        };
        let from = if *name == first_topic { first_partition } else { 0 };
        let count = topic.partitions.len();
        let end = from.saturating_add(left).min(count);
        response.topics.push(describe_topic(brokers, topic, from.min(end)..end));
        left -= end.saturating_sub(from);
        if end < count {
            response.next_cursor = Some(cursor(name, end));
            break;
        }
    }
    response
}

fn missing(name: &str) -> ErrorCode {
    match topic_name::validate(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    }
}

fn failed(name: TopicName, error: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_is_internal(topic_name::is_internal(&name))
        .with_name(Some(name))
        .with_topic_authorized_operations(operations::TOPIC)
}

fn describe_topic(
    brokers: &Brokers,
    topic: &Topic,
    partitions: std::ops::Range<usize>,
) -> DescribeTopicPartitionsResponseTopic {
    let described = topic.partitions[partitions.clone()].iter().zip(partitions);
    let described = described.map(|(state, index)| describe_partition(brokers, index as i32, state));
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(topic_name_of(&topic.name)))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic_name::is_internal(&topic.name))
        .with_partitions(described.collect())
        .with_topic_authorized_operations(operations::TOPIC)
}

fn describe_partition(
    brokers: &Brokers,
    index: i32,
    state: &PartitionState,
) -> DescribeTopicPartitionsResponsePartition {
    let broker_of = |replica: &Replica| BrokerId(brokers.broker_of(replica).0);
    let on = |node: &NodeId| state.replica_on(*node).map(broker_of);
    let offline = state.replicas.iter().filter(|replica| !brokers.is_online(replica));
    let eligible = state.eligible_leaders.iter().filter_map(on).collect();
    DescribeTopicPartitionsResponsePartition::default()
        .with_partition_index(index)
        .with_leader_id(BrokerId(brokers.leader_of(state).map_or(-1, |leader| leader.0)))
        .with_leader_epoch(state.leader_epoch.0)
        .with_replica_nodes(state.replicas.iter().map(broker_of).collect())
        .with_isr_nodes(state.in_sync.iter().filter_map(on).collect())
        .with_eligible_leader_replicas(Some(eligible))
        .with_last_known_elr(Some(Vec::new()))
        .with_offline_replicas(offline.map(broker_of).collect())
}

fn cursor(topic: &str, partition: usize) -> Cursor {
    Cursor::default().with_topic_name(topic_name_of(topic)).with_partition_index(partition as i32)
}

fn topic_name_of(name: &str) -> TopicName {
    TopicName(name.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, partition_id, replica};
    use crate::cluster::record::Record;
    use crate::config::Routing;
    use crate::types::PartitionEpoch;
    use bytes::BytesMut;
    use kafka_protocol::messages::describe_topic_partitions_request::{self as wire, TopicRequest};
    use kafka_protocol::protocol::{Decodable, Encodable};

    fn image() -> Image {
        let mut image = image_of(&[node(1, 2, Routing::Core)]);
        add_topic(&mut image, 1, "b", &[0, 1, 0]);
        add_topic(&mut image, 2, "a", &[1, 1]);
        add_topic(&mut image, 3, "c", &[0]);
        image
    }

    fn request(topics: &[&str], limit: i32) -> DescribeTopicPartitionsRequest {
        let topic = |name: &&str| TopicRequest::default().with_name(topic_name_of(name));
        DescribeTopicPartitionsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_response_partition_limit(limit)
    }

    fn describe(request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
        let image = image();
        let brokers = Brokers::new(&image, NodeId(1));
        let response = describe_topic_partitions(&image, &brokers, request, 2000);
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, 0).expect("encodes");
        DescribeTopicPartitionsResponse::decode(&mut bytes.freeze(), 0).expect("decodes")
    }

    /// Topic, error, and partitions.
    fn shown(response: &DescribeTopicPartitionsResponse) -> Vec<(String, i16, Vec<i32>)> {
        let topics = response.topics.iter().map(|topic| {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            (name, topic.error_code, topic.partitions.iter().map(|it| it.partition_index).collect())
        });
        topics.collect()
    }

    fn next(response: &DescribeTopicPartitionsResponse) -> Option<(String, i32)> {
        response.next_cursor.as_ref().map(|next| (next.topic_name.to_string(), next.partition_index))
    }

    #[test]
    fn pages_together_are_everything_whatever_their_size() {
        for limit in 1..8 {
            let mut asked = request(&[], limit);
            let mut seen = Vec::new();
            loop {
                let response = describe(&asked);
                let page = shown(&response).into_iter();
                let page: Vec<_> = page
                    .flat_map(|(name, _, all)| all.into_iter().map(move |it| (name.clone(), it)))
                    .collect();
                assert!((1..=limit as usize).contains(&page.len()), "{page:?}");
                seen.extend(page);
                let Some(next) = response.next_cursor else { break };
                let next = wire::Cursor::default()
                    .with_topic_name(next.topic_name)
                    .with_partition_index(next.partition_index);
                asked.cursor = Some(next);
            }
            let all = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("c", 0)];
            assert_eq!(seen, all.map(|(name, index)| (name.to_owned(), index)), "limit {limit}");
        }
    }

    #[test]
    fn named_topics_are_described_in_their_order_and_missing_ones_refused() {
        let response = describe(&request(&["c", "nosuch", "a", "a", "no/good"], 100));
        let expected =
            [("a", 0, vec![0, 1]), ("c", 0, vec![0]), ("no/good", 17, vec![]), ("nosuch", 3, vec![])];
        assert_eq!(shown(&response), expected.map(|(name, code, all)| (name.to_owned(), code, all)));
        assert_eq!(next(&response), None);
        let partition = &response.topics[0].partitions[1];
        assert_eq!((partition.leader_id.0, partition.leader_epoch, partition.error_code), (1001, 0, 0));
        assert_eq!(partition.eligible_leader_replicas.as_deref(), Some(&[][..]));
        assert!(!response.topics[0].topic_id.is_nil());
    }

    #[test]
    fn a_page_may_end_with_its_topic() {
        let response = describe(&request(&["a", "b"], 2));
        assert_eq!(shown(&response), [("a".to_owned(), 0, vec![0, 1])]);
        assert_eq!(next(&response), Some(("b".to_owned(), 0)));
        assert_eq!(shown(&describe(&request(&["b"], 0)))[0].2, [0], "at least one");
    }

    #[test]
    fn cursors_that_lead_nowhere_are_refused_or_the_end() {
        let cursor = |topic: &str, partition| {
            let cursor = wire::Cursor::default().with_topic_name(topic_name_of(topic));
            Some(cursor.with_partition_index(partition))
        };
        let refused = describe(&request(&["a"], 10).with_cursor(cursor("b", 0)));
        assert_eq!(shown(&refused), [("a".to_owned(), 42, vec![])]);
        let refused = describe(&request(&["a"], 10).with_cursor(cursor("a", -1)));
        assert_eq!(shown(&refused), [("a".to_owned(), 42, vec![])]);
        let past = describe(&request(&["a"], 10).with_cursor(cursor("a", 7)));
        assert_eq!((shown(&past), next(&past)), (vec![("a".to_owned(), 0, vec![])], None));
        let gone = describe(&request(&[], 10).with_cursor(cursor("bb", 3)));
        assert_eq!(shown(&gone), [("c".to_owned(), 0, vec![0])]);
    }

    #[test]
    fn eligible_leaders_are_told() {
        let mut image = image();
        let mut state = PartitionState::new(vec![replica(1, 0), replica(2, 0)]);
        state.eligible_leaders.extend(state.in_sync.pop());
        state.partition_epoch = PartitionEpoch(1);
        image.apply(&Record::PartitionChanged { id: partition_id(3, 0), state }).expect("fits");
        let brokers = Brokers::new(&image, NodeId(1));
        let response = describe_topic_partitions(&image, &brokers, &request(&["c"], 10), 10);
        let partition = &response.topics[0].partitions[0];
        assert_eq!(partition.isr_nodes, [BrokerId(1000)]);
        assert_eq!(partition.eligible_leader_replicas.as_deref(), Some(&[BrokerId(2)][..]));
        assert_eq!(partition.offline_replicas, [BrokerId(2)]);
    }
}
