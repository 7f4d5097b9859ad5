//! What a shard has of its partitions, found by topic and number.
//!
//! ```text
//! topic ─► [ 0: some  1: none (another core's)  2: some .. ]
//! ```
//!
//! Every batch asks for its partition. A tree of all partitions takes a dozen steps to memory that is in no
//! cache once there are thousands; topics are few, and the second step is one of a known place.

use crate::types::{TopicId, TopicPartition};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Lives: one per shard and log directory.
/// Size: eight bytes for each partition of its topics up to the last one that is here, and what is stored.
#[derive(Debug)]
pub struct PartitionMap<T> {
    topics: BTreeMap<TopicId, Vec<Option<T>>>,
    count: usize,
}

impl<T> Default for PartitionMap<T> {
    fn default() -> PartitionMap<T> {
        PartitionMap { topics: BTreeMap::new(), count: 0 }
    }
}

impl<T> PartitionMap<T> {
    /// O(log topics).
    pub fn get(&self, id: &TopicPartition) -> Option<&T> {
        self.topics.get(&id.topic)?.get(id.partition.index())?.as_ref()
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns what was there.
    pub fn insert(&mut self, id: TopicPartition, value: T) -> Option<T> {
        let partitions = self.topics.entry(id.topic).or_default();
        let at = id.partition.index();
        if partitions.len() <= at {
            partitions.resize_with(at + 1, || None);
        }
        let before = partitions[at].replace(value);
        self.count += usize::from(before.is_none());
        before
    }

    /// O(1) after the last partition of a topic, else O(partitions behind it that are not here).
    pub fn remove(&mut self, id: &TopicPartition) -> Option<T> {
        let partitions = self.topics.get_mut(&id.topic)?;
        let removed = partitions.get_mut(id.partition.index())?.take();
        self.count -= usize::from(removed.is_some());
        while partitions.pop_if(|last| last.is_none()).is_some() {}
        if partitions.is_empty() {
            self.topics.remove(&id.topic);
        }
        removed
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.topics.values().flatten().flatten()
    }

    pub fn of_topic(&self, topic: TopicId) -> impl Iterator<Item = &T> {
        self.topics.get(&topic).into_iter().flatten().flatten()
    }

    /// From there on, in the order of their ids.
    pub fn range(&self, from: Bound<TopicPartition>) -> impl Iterator<Item = &T> {
        let (topic, first) = match from {
            Bound::Unbounded => (None, 0),
            Bound::Included(id) => (Some(id.topic), id.partition.index()),
            Bound::Excluded(id) => (Some(id.topic), id.partition.index() + 1),
        };
        let topics = self.topics.range((topic.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded));
        topics.flat_map(move |(id, partitions)| {
            let skipped = if topic == Some(*id) { first } else { 0 };
            partitions.iter().skip(skipped).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PartitionIndex, Uuid};
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in vec((any::<bool>(), 0..3u128, 0..12i32), 0..60)) {
            let id = |topic, partition| TopicPartition {
                topic: TopicId(Uuid::from_u128(topic)),
                partition: PartitionIndex::from_wire(partition).unwrap(),
            };
            let (mut map, mut naive) = (PartitionMap::default(), BTreeMap::new());
            for (number, (inserts, topic, partition)) in steps.into_iter().enumerate() {
                let id = id(topic, partition);
                if inserts {
                    prop_assert_eq!(map.insert(id, number), naive.insert(id, number));
                } else {
                    prop_assert_eq!(map.remove(&id), naive.remove(&id));
                }
                prop_assert_eq!(map.len(), naive.len());
                prop_assert_eq!(map.get(&id), naive.get(&id));
                prop_assert!(map.values().eq(naive.values()));
                let of_topic = naive.iter().filter(|(other, _)| other.topic == id.topic);
                prop_assert!(map.of_topic(id.topic).eq(of_topic.map(|(_, value)| value)));
                for from in [Bound::Unbounded, Bound::Included(id), Bound::Excluded(id)] {
                    let expected = naive.range((from, Bound::Unbounded)).map(|(_, value)| value);
                    prop_assert!(map.range(from).eq(expected));
                }
            }
            let ids: Vec<TopicPartition> = naive.keys().copied().collect();
            ids.iter().for_each(|id| assert!(map.remove(id).is_some()));
            prop_assert!(map.topics.is_empty(), "nothing of deleted topics stays");
        }
    }
}
