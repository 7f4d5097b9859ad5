//! What requests name and there is not: taken out of them before a coordinator sees them, and told in its answers.

use crate::cluster::image::Image;
use crate::codec::error_code::ErrorCode;
use crate::types::PartitionIndex;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetDeleteRequest, TopicName};
use std::collections::BTreeMap;

fn has_partition(image: &Image, topic: &str, partition: i32) -> bool {
    let index = PartitionIndex::from_wire(partition);
    let topic = image.topic_named(topic);
    topic.zip(index).is_some_and(|(topic, index)| index.index() < topic.partitions.len())
}

/// Takes out of a request what is of topics and partitions that there are not.
fn take_unknown<T, P>(
    image: &Image,
    topics: &mut Vec<T>,
    parts: impl for<'a> Fn(&'a mut T) -> (&'a TopicName, &'a mut Vec<P>),
    index: impl Fn(&P) -> i32,
) -> Vec<(TopicName, Vec<i32>)> {
    let mut unknown = Vec::new();
    topics.retain_mut(|topic| {
        let (name, partitions) = parts(topic);
        let gone = partitions.extract_if(.., |partition| !has_partition(image, name, index(partition)));
        let gone: Vec<i32> = gone.map(|partition| index(&partition)).collect();
        if !gone.is_empty() {
            unknown.push((name.clone(), gone));
        }
        !partitions.is_empty()
    });
    unknown
}

/// What is answered of these. `refused`: of a partition; `topic`: of all of a topic.
fn answers<T, P>(
    unknown: Vec<(TopicName, Vec<i32>)>,
    refused: impl Fn(i32, i16) -> P,
    topic: impl Fn(TopicName, Vec<P>) -> T,
) -> Vec<T> {
    let error = ErrorCode::UnknownTopicOrPartition.code();
    let partitions = |gone: Vec<i32>| gone.into_iter().map(|index| refused(index, error)).collect();
    unknown.into_iter().map(|(name, gone)| topic(name, partitions(gone))).collect()
}

/// Takes them out of a commit; returns the answers to them.
pub fn split_commit(image: &Image, request: &mut OffsetCommitRequest) -> Vec<OffsetCommitResponseTopic> {
    let unknown = take_unknown(
        image,
        &mut request.topics,
        |topic| (&topic.name, &mut topic.partitions),
        |partition| partition.partition_index,
    );
    answers(
        unknown,
        |index, error| {
            OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(error)
        },
        |name, all| OffsetCommitResponseTopic::default().with_name(name).with_partitions(all),
    )
}

/// The same of a deletion.
pub fn split_deletion(image: &Image, request: &mut OffsetDeleteRequest) -> Vec<OffsetDeleteResponseTopic> {
    let unknown = take_unknown(
        image,
        &mut request.topics,
        |topic| (&topic.name, &mut topic.partitions),
        |partition| partition.partition_index,
    );
    answers(
        unknown,
        |index, error| {
            OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(error)
        },
        |name, all| OffsetDeleteResponseTopic::default().with_name(name).with_partitions(all),
    )
}

/// Adds answers to others; no topic is listed again for them.
pub fn add_topics<T, P>(
    topics: &mut Vec<T>,
    added: Vec<T>,
    parts: impl for<'a> Fn(&'a mut T) -> (&'a TopicName, &'a mut Vec<P>),
) {
    let places = topics.iter_mut().enumerate().map(|(at, topic)| (parts(topic).0.clone(), at));
    let places: BTreeMap<TopicName, usize> = places.collect();
    for mut topic in added {
        let (name, partitions) = parts(&mut topic);
        match places.get(name) {
            Some(at) => parts(&mut topics[*at]).1.append(partitions),
            None => topics.push(topic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_answered_once_where_some_of_their_partitions_are_not_there() {
        let topic = |name: &str, indexes: &[i32]| {
            let partition =
                |index: &i32| OffsetCommitResponsePartition::default().with_partition_index(*index);
            OffsetCommitResponseTopic::default()
                .with_name(TopicName(crate::group::member::text(name)))
                .with_partitions(indexes.iter().map(partition).collect())
        };
        let mut topics = vec![topic("a", &[0]), topic("b", &[1])];
        let unknown = vec![topic("c", &[5]), topic("a", &[7, 8])];
        add_topics(&mut topics, unknown, |topic| (&topic.name, &mut topic.partitions));
        assert_eq!(topics, [topic("a", &[0, 7, 8]), topic("b", &[1]), topic("c", &[5])]);
    }
}
