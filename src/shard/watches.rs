//! Which partitions of this shard the fetches of other shards watch, by fetch: what a fetch that has
//! been answered leaves behind is found without a look at any other partition.
//!
//! A fetch is named by [`WatchKey`]; it watches each partition that it reads here, again with every
//! look. Bounded by the partitions of the fetches that their shards may park.

use crate::types::{ShardId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// A parked fetch, among those of all shards. Its own shard numbers it.
///
/// Layout: shard + 1 in the upper 16 bits, so that a fetch of this shard (plain numbers) is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchKey(u64);

impl WatchKey {
    pub fn new(from: ShardId, watch: u64) -> WatchKey {
        WatchKey(watch | (u64::from(from.0) + 1) << 48)
    }

    /// As a replica's table of watchers knows it.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Lives: one per shard.
#[derive(Debug, Default)]
pub struct RemoteWatches {
    watched: BTreeMap<WatchKey, BTreeSet<TopicPartition>>,
}

impl RemoteWatches {
    pub fn add(&mut self, key: WatchKey, partition: TopicPartition) {
        self.watched.entry(key).or_default().insert(partition);
    }

    /// Forgets a fetch; returns what it watched. O(log fetches) beside what is returned.
    pub fn remove(&mut self, key: WatchKey) -> BTreeSet<TopicPartition> {
        self.watched.remove(&key).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PartitionIndex, TopicId, Uuid};

    #[test]
    fn a_fetch_leaves_with_what_it_watched_and_nothing_else() {
        let mut watches = RemoteWatches::default();
        let (one, other) = (WatchKey::new(ShardId(1), 7), WatchKey::new(ShardId(2), 7));
        for index in [0, 1, 0] {
            watches.add(one, partition(index));
        }
        watches.add(other, partition(1));
        assert_eq!(watches.remove(one), BTreeSet::from([partition(0), partition(1)]));
        assert_eq!(watches.remove(one), BTreeSet::new());
        assert_eq!(watches.remove(other), BTreeSet::from([partition(1)]));
        assert!(watches.watched.is_empty());
    }

    fn partition(index: i32) -> TopicPartition {
        let partition = PartitionIndex::from_wire(index).unwrap();
        TopicPartition { topic: TopicId(Uuid::from_u128(1)), partition }
    }
}
