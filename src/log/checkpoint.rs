//! What a shard writes down about its partitions so that a start knows how far each log was flushed:
//! the checkpoint of recovery points, and the mark of a clean stop.
//!
//! After an unclean stop the recovery point tells damage from a torn tail (see
//! [`recovery`](crate::log::recovery)); what the journals know beyond it is added by the start. After a
//! clean one the log ends exactly there, and nothing is scanned.
//!
//! Checkpoint, one file per shard, replaced as a whole:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: `ODRKCKPT` |
//! | 8 | 2 | version: 1 |
//! | 10 | 2 | shard |
//! | 12 | 4 | count of partitions |
//! | 16 | 8 | generation |
//! | 24 | 52 each | partition, by topic id and number |
//! | 24 + 52 × count | 4 | CRC-32 (`crc32fast`) of everything before |
//!
//! | offset | size | field of a partition |
//! |---|---|---|
//! | 0 | 16 | topic id |
//! | 16 | 4 | number of the partition |
//! | 20 | 8 | log start |
//! | 28 | 8 | flushed end |
//! | 36 | 8 | base offset of the segment that holds the flushed end |
//! | 44 | 8 | file position of the flushed end in it |
//!
//! Mark of a clean stop, one file per node, written last and removed before the next start serves:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: `ODRKSTOP` |
//! | 8 | 2 | version: 1 |
//! | 10 | 2 | count of shards |
//! | 12 | 10 each | shard 2, generation of its checkpoint 8 |
//! | 12 + 10 × count | 4 | CRC-32 of everything before |
//!
//! All integers big-endian. Zeros up to a block may follow either file.
//!
//! Generations order the checkpoints of different runs, whatever the number of shards then: a start
//! takes the highest it finds, and its shards count on from there.

use std::collections::BTreeMap;

use crate::log::partition::PartitionLog;
use crate::log::recovery::RecoveryPoint;
use crate::types::limits::SHARDS_MAX;
use crate::types::{Offset, PartitionIndex, ShardId, TopicId, TopicPartition, Uuid};

const CHECKPOINT_MAGIC: [u8; 8] = *b"ODRKCKPT";
const CHECKPOINT_HEADER_SIZE: usize = 24;
const ENTRY_SIZE: usize = 52;
const MARK_MAGIC: [u8; 8] = *b"ODRKSTOP";
const MARK_HEADER_SIZE: usize = 12;
const MARK_SHARD_SIZE: usize = 10;
const CRC_SIZE: usize = 4;
const VERSION: u16 = 1;

/// Orders checkpoints; increases with every one that a shard writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointGeneration(pub u64);

impl CheckpointGeneration {
    pub const fn next(self) -> CheckpointGeneration {
        CheckpointGeneration(self.0.saturating_add(1))
    }
}

/// How far a partition's log was flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionPoint {
    pub log_start: Offset,
    /// Exclusive.
    pub flushed_end: Offset,
    /// The segment that holds the flushed end: all before it are closed and whole.
    pub segment_base: Offset,
    /// Where the flushed end lies in that segment.
    pub file_position: u64,
}

impl PartitionPoint {
    /// What a checkpoint that is begun now says of a log that is to begin at `log_start`. It never begins
    /// behind its end.
    pub fn of(log: &PartitionLog, log_start: Offset) -> PartitionPoint {
        let place = log.stored_place();
        PartitionPoint {
            log_start: log_start.min(log.stored_end()),
            flushed_end: log.stored_end(),
            segment_base: place.segment,
            file_position: place.file_position,
        }
    }

    /// What the scan of the segment at `segment_base` goes by. `None` for segments before it (their
    /// end is their length) and after it (nothing in them is known to be flushed).
    pub fn recovery_point(&self, segment_base: Offset) -> Option<RecoveryPoint> {
        (segment_base == self.segment_base)
            .then_some(RecoveryPoint { flushed_end: self.flushed_end, file_position: self.file_position })
    }
}

/// Why a file is no checkpoint or mark. A start without it scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("{size} bytes are not the size that the file itself states")]
    Size { size: usize },
    #[error("the file does not begin as a checkpoint")]
    Magic,
    #[error("checkpoint version {version} is not supported; 1 is")]
    Version { version: u16 },
    #[error("CRC-32 is {computed:#010x}, the file says {stored:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("entry {entry} has values that it cannot have, or is out of order")]
    Entry { entry: usize },
}

/// The recovery points of one shard's partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub shard: ShardId,
    pub generation: CheckpointGeneration,
    pub points: BTreeMap<TopicPartition, PartitionPoint>,
}

impl Checkpoint {
    pub fn encode(&self) -> Vec<u8> {
        let size = CHECKPOINT_HEADER_SIZE + self.points.len() * ENTRY_SIZE + CRC_SIZE;
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(&CHECKPOINT_MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.shard.0.to_be_bytes());
        out.extend_from_slice(&(self.points.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.generation.0.to_be_bytes());
        for (partition, point) in &self.points {
            out.extend_from_slice(partition.topic.0.as_bytes());
            out.extend_from_slice(&partition.partition.to_wire().to_be_bytes());
            out.extend_from_slice(&point.log_start.get().to_be_bytes());
            out.extend_from_slice(&point.flushed_end.get().to_be_bytes());
            out.extend_from_slice(&point.segment_base.get().to_be_bytes());
            out.extend_from_slice(&point.file_position.to_be_bytes());
        }
        seal(&mut out);
        assert_eq!(out.len(), size);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
        let (shard, rest) = split_header(bytes, &CHECKPOINT_MAGIC)?;
        let size_error = CheckpointError::Size { size: bytes.len() };
        let (count, rest) = rest.split_first_chunk().ok_or(size_error)?;
        let (generation, _) = rest.split_first_chunk().ok_or(size_error)?;
        let count = u32::from_be_bytes(*count) as usize;
        let entries = sealed_entries(bytes, CHECKPOINT_HEADER_SIZE, ENTRY_SIZE, count)?;
        let mut points = BTreeMap::new();
        for (at, entry) in entries.chunks_exact(ENTRY_SIZE).enumerate() {
            let error = CheckpointError::Entry { entry: at };
            let (partition, point) = decode_entry(entry).ok_or(error)?;
            if points.last_key_value().is_some_and(|(last, _)| *last >= partition) {
                return Err(error);
            }
            points.insert(partition, point);
        }
        let generation = CheckpointGeneration(u64::from_be_bytes(*generation));
        Ok(Checkpoint { shard: ShardId(shard), generation, points })
    }
}

fn decode_entry(entry: &[u8]) -> Option<(TopicPartition, PartitionPoint)> {
    let (topic, rest) = entry.split_first_chunk::<16>()?;
    let (partition, rest) = rest.split_first_chunk()?;
    let (fields, _) = rest.as_chunks::<8>();
    let [log_start, flushed_end, segment_base, file_position] = fields else {
        return None;
    };
    let partition = TopicPartition {
        topic: TopicId(Uuid::from_bytes(*topic)),
        partition: PartitionIndex::from_wire(i32::from_be_bytes(*partition))?,
    };
    let point = PartitionPoint {
        log_start: Offset::new(u64::from_be_bytes(*log_start))?,
        flushed_end: Offset::new(u64::from_be_bytes(*flushed_end))?,
        segment_base: Offset::new(u64::from_be_bytes(*segment_base))?,
        file_position: u64::from_be_bytes(*file_position),
    };
    let in_order = point.log_start <= point.flushed_end && point.segment_base <= point.flushed_end;
    in_order.then_some((partition, point))
}

/// The recovery points of a node, from all the checkpoints found in its directory. A partition that
/// several name has moved between shards: the highest generation counts, of equal ones the higher
/// flushed end.
pub fn merge(checkpoints: &[Checkpoint]) -> BTreeMap<TopicPartition, PartitionPoint> {
    let mut newest: BTreeMap<TopicPartition, (CheckpointGeneration, PartitionPoint)> = BTreeMap::new();
    for checkpoint in checkpoints {
        for (partition, point) in &checkpoint.points {
            let candidate = (checkpoint.generation, *point);
            let rank = |(generation, point): &(CheckpointGeneration, PartitionPoint)| {
                (*generation, point.flushed_end)
            };
            let entry = newest.entry(*partition).or_insert(candidate);
            if rank(entry) < rank(&candidate) {
                *entry = candidate;
            }
        }
    }
    newest.into_iter().map(|(partition, (_, point))| (partition, point)).collect()
}

/// The generation that the shards of a new run begin with.
pub fn first_generation(checkpoints: &[Checkpoint]) -> CheckpointGeneration {
    let highest = checkpoints.iter().map(|checkpoint| checkpoint.generation).max();
    highest.unwrap_or_default().next()
}

/// Says that everything was flushed, and under which checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanStop {
    pub generations: BTreeMap<ShardId, CheckpointGeneration>,
}

impl CleanStop {
    /// Whether the recovery points in these checkpoints are exactly where the logs end: the one of
    /// each shard is there, and none is newer.
    pub fn confirms(&self, checkpoints: &[Checkpoint]) -> bool {
        let Some(lowest) = self.generations.values().min() else {
            return false;
        };
        let is_there = |(shard, generation): (&ShardId, &CheckpointGeneration)| {
            checkpoints.iter().any(|found| found.shard == *shard && found.generation == *generation)
        };
        // Left from a run with more shards, and older, or of this stop.
        let is_known = |found: &Checkpoint| match self.generations.get(&found.shard) {
            Some(generation) => found.generation == *generation,
            None => found.generation < *lowest,
        };
        self.generations.iter().all(is_there) && checkpoints.iter().all(is_known)
    }

    pub fn encode(&self) -> Vec<u8> {
        assert!(self.generations.len() <= SHARDS_MAX);
        let mut out =
            Vec::with_capacity(MARK_HEADER_SIZE + self.generations.len() * MARK_SHARD_SIZE + CRC_SIZE);
        out.extend_from_slice(&MARK_MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&(self.generations.len() as u16).to_be_bytes());
        for (shard, generation) in &self.generations {
            out.extend_from_slice(&shard.0.to_be_bytes());
            out.extend_from_slice(&generation.0.to_be_bytes());
        }
        seal(&mut out);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<CleanStop, CheckpointError> {
        let (count, _) = split_header(bytes, &MARK_MAGIC)?;
        let entries = sealed_entries(bytes, MARK_HEADER_SIZE, MARK_SHARD_SIZE, count as usize)?;
        let mut generations = BTreeMap::new();
        for (at, entry) in entries.as_chunks::<MARK_SHARD_SIZE>().0.iter().enumerate() {
            let [shard_high, shard_low, generation @ ..] = *entry;
            let shard = ShardId(u16::from_be_bytes([shard_high, shard_low]));
            if generations.last_key_value().is_some_and(|(last, _)| *last >= shard) {
                return Err(CheckpointError::Entry { entry: at });
            }
            generations.insert(shard, CheckpointGeneration(u64::from_be_bytes(generation)));
        }
        Ok(CleanStop { generations })
    }
}

/// Checks magic and version; returns the 16-bit field after them and what follows it.
fn split_header<'a>(bytes: &'a [u8], magic: &[u8; 8]) -> Result<(u16, &'a [u8]), CheckpointError> {
    let size_error = CheckpointError::Size { size: bytes.len() };
    let (found, rest) = bytes.split_first_chunk::<8>().ok_or(size_error)?;
    if found != magic {
        return Err(CheckpointError::Magic);
    }
    let (version, rest) = rest.split_first_chunk().ok_or(size_error)?;
    let version = u16::from_be_bytes(*version);
    if version != VERSION {
        return Err(CheckpointError::Version { version });
    }
    let (field, rest) = rest.split_first_chunk().ok_or(size_error)?;
    Ok((u16::from_be_bytes(*field), rest))
}

/// Checks size and CRC; returns the entries' bytes.
fn sealed_entries(
    bytes: &[u8],
    header_size: usize,
    entry_size: usize,
    count: usize,
) -> Result<&[u8], CheckpointError> {
    let size_error = CheckpointError::Size { size: bytes.len() };
    let covered_size = header_size.saturating_add(count.saturating_mul(entry_size));
    let (covered, rest) = bytes.split_at_checked(covered_size).ok_or(size_error)?;
    let (stored, padding) = rest.split_first_chunk::<CRC_SIZE>().ok_or(size_error)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(size_error);
    }
    let (stored, computed) = (u32::from_be_bytes(*stored), crc32fast::hash(covered));
    if stored != computed {
        return Err(CheckpointError::Crc { stored, computed });
    }
    Ok(&covered[header_size..])
}

fn seal(out: &mut Vec<u8>) {
    let crc = crc32fast::hash(out);
    out.extend_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    #[test]
    fn layout_is_the_documented_one() {
        let checkpoint = checkpoint(3, 9, &[(0x0a, 7, [1, 20, 10, 4096])]);
        let mut golden = b"ODRKCKPT\0\x01\0\x03\0\0\0\x01\0\0\0\0\0\0\0\x09".to_vec();
        golden.extend([0; 15].iter().chain(&[0x0a, 0, 0, 0, 7]));
        for field in [1u64, 20, 10, 4096] {
            golden.extend(field.to_be_bytes());
        }
        golden.extend(crc32fast::hash(&golden).to_be_bytes());
        assert_eq!(checkpoint.encode(), golden);
        golden.resize(4096, 0);
        assert_eq!(Checkpoint::decode(&golden), Ok(checkpoint), "padded to a block");

        let mut golden = b"ODRKSTOP\0\x01\0\x01\0\x03\0\0\0\0\0\0\0\x09".to_vec();
        golden.extend(crc32fast::hash(&golden).to_be_bytes());
        assert_eq!(mark(&[(3, 9)]).encode(), golden);
        assert_eq!(CleanStop::decode(&golden), Ok(mark(&[(3, 9)])));
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let whole = checkpoint(3, 9, &[(1, 0, [0, 20, 10, 4096]), (1, 1, [0, 2, 1, 96])]).encode();
        let mark = mark(&[(0, 4), (1, 5)]).encode();
        for bit in 0..whole.len() * 8 {
            assert!(Checkpoint::decode(&flipped(&whole, bit)).is_err(), "bit {bit}");
        }
        for bit in 0..mark.len() * 8 {
            assert!(CleanStop::decode(&flipped(&mark, bit)).is_err(), "bit {bit}");
        }
        for size in 0..whole.len() {
            assert!(Checkpoint::decode(&whole[..size]).is_err(), "size {size}");
        }
        for size in 0..mark.len() {
            assert!(CleanStop::decode(&mark[..size]).is_err(), "size {size}");
        }
    }

    #[test]
    fn impossible_entries_are_refused_under_a_good_crc() {
        for fields in [[21, 20, 10, 0], [0, 20, 21, 0], [0, u64::MAX, 0, 0]] {
            let mut bytes = checkpoint(0, 0, &[(1, 0, [0, 20, 10, 0])]).encode();
            for (at, field) in fields.iter().enumerate() {
                bytes[44 + at * 8..52 + at * 8].copy_from_slice(&field.to_be_bytes());
            }
            let covered = bytes.len() - CRC_SIZE;
            let crc = crc32fast::hash(&bytes[..covered]);
            bytes[covered..].copy_from_slice(&crc.to_be_bytes());
            assert_eq!(Checkpoint::decode(&bytes), Err(CheckpointError::Entry { entry: 0 }), "{fields:?}");
        }
    }

    #[test]
    fn newest_checkpoint_of_a_partition_counts() {
        let old = checkpoint(0, 4, &[(1, 0, [0, 90, 0, 1]), (1, 1, [0, 50, 0, 1])]);
        let new = checkpoint(1, 5, &[(1, 0, [0, 40, 0, 2])]);
        for order in [[old.clone(), new.clone()], [new, old]] {
            let merged = merge(&order);
            let ends: Vec<u64> = merged.values().map(|point| point.flushed_end.get()).collect();
            assert_eq!(ends, [40, 50]);
            assert_eq!(first_generation(&order), CheckpointGeneration(6));
        }
    }

    #[test]
    fn clean_stop_stands_for_its_own_checkpoints_only() {
        let stop = mark(&[(0, 7), (1, 6)]);
        let [zero, one] = [checkpoint(0, 7, &[]), checkpoint(1, 6, &[])];
        assert!(stop.confirms(&[zero.clone(), one.clone()]));
        let retired = checkpoint(2, 5, &[]);
        assert!(stop.confirms(&[one.clone(), retired, zero.clone()]), "a run with three shards was before");
        assert!(!stop.confirms(std::slice::from_ref(&zero)), "one is missing");
        assert!(!stop.confirms(&[zero.clone(), checkpoint(1, 5, &[])]), "one is older");
        assert!(!stop.confirms(&[zero.clone(), checkpoint(1, 8, &[])]), "one was written since");
        assert!(!stop.confirms(&[zero, one, checkpoint(2, 8, &[])]), "another shard has run since");
        assert!(!mark(&[]).confirms(&[]));
    }

    #[test]
    fn recovery_point_is_of_one_segment() {
        let point = point([0, 20, 10, 4096]);
        let expected = RecoveryPoint { flushed_end: offset(20), file_position: 4096 };
        assert_eq!(point.recovery_point(offset(10)), Some(expected));
        assert_eq!(point.recovery_point(offset(20)), None);
    }

    proptest! {
        #[test]
        fn round_trip(
            shard in 0..999u16,
            generation in any::<u64>(),
            entries in btree_map((any::<u128>(), 0..=i32::MAX), proptest::array::uniform4(0..1u64 << 62), 0..20),
        ) {
            let entries: Vec<_> = entries.into_iter().map(|((topic, partition), mut fields)| {
                let end = fields[..3].iter().copied().max().unwrap();
                fields[1] = end;
                (topic, partition, fields)
            }).collect();
            let checkpoint = checkpoint(shard, generation, &entries);
            prop_assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
        }

        #[test]
        fn any_bytes_are_refused(bytes in vec(any::<u8>(), 0..120), count in any::<u32>()) {
            let header = [&CHECKPOINT_MAGIC[..], &[0, 1, 0, 0], &count.to_be_bytes(), &bytes].concat();
            prop_assert!(Checkpoint::decode(&header).is_err());
            let header = [&MARK_MAGIC[..], &[0, 1], &bytes].concat();
            prop_assert!(CleanStop::decode(&header).is_err());
        }
    }

    fn checkpoint(shard: u16, generation: u64, entries: &[(u128, i32, [u64; 4])]) -> Checkpoint {
        let place = |(topic, partition, fields): &(u128, i32, [u64; 4])| {
            let topic = TopicId(Uuid::from_u128(*topic));
            let partition = PartitionIndex::from_wire(*partition).unwrap();
            (TopicPartition { topic, partition }, point(*fields))
        };
        Checkpoint {
            shard: ShardId(shard),
            generation: CheckpointGeneration(generation),
            points: entries.iter().map(place).collect(),
        }
    }

    fn point([log_start, flushed_end, segment_base, file_position]: [u64; 4]) -> PartitionPoint {
        PartitionPoint {
            log_start: offset(log_start),
            flushed_end: offset(flushed_end),
            segment_base: offset(segment_base),
            file_position,
        }
    }

    fn mark(generations: &[(u16, u64)]) -> CleanStop {
        let place = |(shard, generation): &(u16, u64)| (ShardId(*shard), CheckpointGeneration(*generation));
        CleanStop { generations: generations.iter().map(place).collect() }
    }

    fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
