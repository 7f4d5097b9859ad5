//! What the cluster's metadata knows: which partitions there are, where, and how they are kept.
//!
//! Its own log is another matter: here it is committed at once and never lost. A change of it comes
//! before what the shards make of it, so that a crash in between leaves that to the next start.

use crate::random::Random;
use odradek::log::compaction::plan::CompactionLimits;
use odradek::log::durability::{Durability, FlushBounds};
use odradek::log::partition::Cleanup;
use odradek::types::{LeaderEpoch, PartitionIndex, ShardId, TopicId, TopicPartition, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a topic is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicKind {
    pub compacts: bool,
    pub durability: Durability,
}

impl TopicKind {
    pub fn draw(dice: &mut Random) -> TopicKind {
        let durability = match dice.below(6) {
            0 => Durability::Write(FlushBounds {
                records_max: *dice.pick(&[1, 5, 40, i64::MAX as u64]),
                within: Duration::from_millis(dice.between(1, 500)),
            }),
            _ => Durability::Fsync,
        };
        TopicKind { compacts: dice.one_in(3), durability }
    }

    pub fn cleanup(&self) -> Cleanup {
        let limits = CompactionLimits {
            delete_retention_ms: 1 << 40,
            min_lag_ms: 0,
            max_lag_ms: i64::MAX,
            min_dirty_ppm: 100_000,
        };
        if self.compacts { Cleanup { delete: false, compact: Some(limits) } } else { Cleanup::DELETE }
    }

    /// A loss of power may take what was acknowledged.
    pub fn is_flushed_late(&self) -> bool {
        self.durability != Durability::Fsync
    }
}

/// One partition.
#[derive(Clone, Debug)]
pub struct Known {
    /// The name of its topic.
    pub topic: String,
    pub kind: TopicKind,
    pub leader_epoch: LeaderEpoch,
    pub owner: ShardId,
}

impl Known {
    pub fn directory(&self) -> String {
        format!("{}-0", self.topic)
    }
}

/// Lives: one per seed; it outlives every crash.
#[derive(Debug, Default)]
pub struct Metadata {
    pub partitions: BTreeMap<TopicPartition, Known>,
    pub deleted: BTreeSet<TopicId>,
    /// Replicas have gone that may come again, and a start finds what is left of them.
    pub replicas_removed: bool,
    /// Of the last start that stated them.
    pub cores: u16,
    made: u64,
}

impl Metadata {
    /// A new topic of one partition.
    pub fn create(&mut self, topic: Option<String>, kind: TopicKind, owner: ShardId) -> TopicPartition {
        self.made += 1;
        let id = TopicPartition {
            topic: TopicId(Uuid::from_u128(u128::from(self.made))),
            partition: PartitionIndex::from_wire(0).expect("zero is one"),
        };
        let topic = topic.unwrap_or_else(|| format!("t{}", self.made));
        self.partitions.insert(id, Known { topic, kind, leader_epoch: LeaderEpoch(0), owner });
        id
    }

    pub fn delete(&mut self, id: &TopicPartition) -> Option<Known> {
        self.deleted.insert(id.topic);
        self.partitions.remove(id)
    }

    /// Who owns what with so many cores: the partitions of those that are no more have others.
    pub fn owners_with(&self, shard_count: u16) -> BTreeMap<TopicPartition, ShardId> {
        let owner = |(at, (id, known)): (usize, (&TopicPartition, &Known))| {
            let is_gone = known.owner.0 >= shard_count;
            (*id, if is_gone { ShardId(at as u16 % shard_count) } else { known.owner })
        };
        self.partitions.iter().enumerate().map(owner).collect()
    }

    /// Whether somebody gets another owner with so many cores.
    pub fn moves_partitions(&self, shard_count: u16) -> bool {
        self.owners_with(shard_count).iter().any(|(id, owner)| self.partitions[id].owner != *owner)
    }

    /// A start states its cores. Whether partitions got other owners.
    pub fn state_cores(&mut self, shard_count: u16) -> bool {
        self.cores = shard_count;
        let mut moved = false;
        for (id, owner) in self.owners_with(shard_count) {
            let known = self.partitions.get_mut(&id).expect("it was there a moment ago");
            moved |= known.owner != owner;
            known.owner = owner;
        }
        moved
    }

    pub fn number(id: &TopicPartition) -> u64 {
        id.topic.0.as_u64_pair().1
    }
}
