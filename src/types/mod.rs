//! The quantities of the broker: each with a type, a unit and an upper bound.
//!
//! Nothing here knows that files, sockets or partitions exist. Wire values such as -1 ("unknown")
//! never reach these types: `codec` turns them into `None` or an error.

pub mod java_hash;
pub mod limits;
pub mod prefetch;
pub mod short_queue;
pub mod sorted;
mod uuid_text;
pub mod with_last;

use std::fmt;

pub use uuid::Uuid;
pub use uuid_text::{parse_uuid_text, uuid_text};

/// Position of a record in one partition's log.
///
/// Unit: records, from zero, consecutive when appended (compaction leaves gaps). The wire's -1
/// ("unknown") becomes `None` in `codec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    pub const ZERO: Offset = Offset(0);
    /// The wire type is i64.
    pub const MAX: Offset = Offset(i64::MAX as u64);

    /// `None` above [`Offset::MAX`].
    pub const fn new(value: u64) -> Option<Offset> {
        if value <= Self::MAX.0 { Some(Offset(value)) } else { None }
    }

    /// `None` for the wire's negative values.
    pub const fn from_wire(value: i64) -> Option<Offset> {
        if value < 0 { None } else { Some(Offset(value as u64)) }
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The offset `records` later, or `None` when the partition is full.
    pub const fn advance(self, records: u32) -> Option<Offset> {
        Offset::new(self.0 + records as u64) // Cannot overflow: MAX + u32::MAX fits a u64.
    }

    /// Records from `earlier` to here.
    pub fn since(self, earlier: Offset) -> u64 {
        assert!(earlier <= self, "offsets compared the wrong way round");
        self.0 - earlier.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which leadership of a partition wrote a batch (KIP-101, 279, 320). From zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(pub i32);

/// Version of a partition's leader and in-sync set (KIP-497). From zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionEpoch(pub i32);

/// Version of a node's registration (KIP-631): a node that starts again has a higher one. Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerEpoch(pub i64);

/// Which ownership of a replica by a shard of its node; one more with every move between shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnershipEpoch(pub u32);

/// One process on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i32);

/// What a client sees in Metadata: one per node, or one per core (`routing`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerId(pub i32);

impl BrokerId {
    /// As requests name brokers. A broker has one name, or it could be named twice where it may be once.
    pub fn from_name(name: &str) -> Option<BrokerId> {
        let id = name.parse().ok().map(BrokerId);
        id.filter(|id| id.to_string() == name)
    }
}

impl fmt::Display for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One core with its executor. Never leaves the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Identity of a topic over renames and re-creations (KIP-516).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub Uuid);

impl TopicId {
    /// "No topic id" on the wire.
    pub const ZERO: TopicId = TopicId(Uuid::nil());
}

/// Identity of a log directory over mounts and paths: `directory.id` of its `meta.properties` (KIP-858).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub Uuid);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&uuid_text(self.0))
    }
}

/// Number of a log directory among those that this process was started with, from zero. The first one
/// has the metadata. Never leaves the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogDirIndex(pub u16);

impl LogDirIndex {
    pub const METADATA: LogDirIndex = LogDirIndex(0);

    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a partition within its topic, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex(u32);

impl PartitionIndex {
    /// `None` for the wire's negative values.
    pub const fn from_wire(value: i32) -> Option<PartitionIndex> {
        if value < 0 { None } else { Some(PartitionIndex(value as u32)) }
    }

    pub const fn to_wire(self) -> i32 {
        self.0 as i32
    }

    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition, by identity. Small and `Copy`: the key of every table on the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: TopicId,
    pub partition: PartitionIndex,
}

/// An idempotent or transactional producer (KIP-98). Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

/// Fences older instances of the same producer id. Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(pub i16);

/// Which term of a transaction coordinator wrote a marker: fences those before it. -1: none, or an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoordinatorEpoch(pub i32);

impl CoordinatorEpoch {
    pub const NONE: CoordinatorEpoch = CoordinatorEpoch(-1);
}

/// How a producer and its coordinator go about transactions (`transaction.version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransactionVersion {
    /// Versions 0 and 1: an epoch may last for many transactions.
    V1,
    /// The epoch is raised with the end of every transaction (KIP-890).
    V2,
}

/// Position of a record in one producer's stream to one partition; wraps after `i32::MAX` to 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub i32);

impl Sequence {
    /// The sequence `records` later (Kafka `DefaultRecordBatch.incrementSequence`).
    pub const fn advance(self, records: u32) -> Sequence {
        Sequence(((self.0 as i64 + records as i64) % (i32::MAX as i64 + 1)) as i32)
    }
}

/// A record's or batch's timestamp: milliseconds since the Unix epoch; negative means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const NONE: Timestamp = Timestamp(-1);
}

/// A reading of the monotonic clock. Unit: nanoseconds since an arbitrary start of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    pub fn since(self, earlier: Mono) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub fn after(self, wait: std::time::Duration) -> Mono {
        Mono(self.0.saturating_add(wait.as_nanos() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_wraps_to_zero_after_the_maximum() {
        assert_eq!(Sequence(i32::MAX).advance(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).advance(3), Sequence(1));
        assert_eq!(Sequence(5).advance(0), Sequence(5));
    }

    #[test]
    fn offset_is_full_at_the_wire_maximum() {
        assert_eq!(Offset::MAX.advance(1), None);
        assert_eq!(Offset::from_wire(-1), None);
        assert_eq!(Offset::ZERO.advance(7), Offset::new(7));
    }
}
