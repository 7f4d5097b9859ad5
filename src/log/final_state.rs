//! What a clean stop leaves of the partitions of a shard so that a start opens them without looking
//! into their segments: one file, read and removed by the next start.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: `ODRKLAST` |
//! | 8 | 2 | version: 3 |
//! | 10 | 4 | count of partitions |
//! | 14 | | partitions |
//! | size - 4 | 4 | CRC-32 (`crc32fast`) of everything before |
//!
//! | offset | size | field of a partition |
//! |---|---|---|
//! | 0 | 16 | topic id |
//! | 16 | 4 | number of the partition |
//! | 20 | 8 | base offset of the active segment |
//! | 28 | 8 | log end |
//! | 36 | 8 | first timestamp of the active segment, ms; -1: none |
//! | 44 | 4 each | sizes of the following |
//! | 72 | 1 | 1: the following stand in files beside the active segment, and all sizes are 0; else 0 |
//! | 73 | 4 | CRC-32 of those files ([`files_checksum`]) but the checksums and the transaction index, which have their own, or 0 |
//! | 77 | | offset index, time index, checksums, producer snapshot, leader epochs, transaction index (nothing where it needs none), each as in its own file; bytes between the last block boundary and the end |
//!
//! All integers big-endian. A partition with more than [`STATE_SIZE_MAX`] of these, or one that would
//! make the file larger than [`FILE_SIZE_MAX`], has files beside its active segment instead. Their formats
//! are Kafka's and have no checksum; a start believes them by the one that stands here.

use crate::log::partition::PartitionLog;
use crate::types::{Offset, PartitionIndex, Timestamp, TopicId, TopicPartition, Uuid};
use std::collections::BTreeMap;

/// Bytes of one partition's indexes, producers and the rest.
pub const STATE_SIZE_MAX: usize = 16 << 10;

/// Bytes. Read as a whole by a start; ten thousand idle partitions have 2 MB without their last blocks,
/// and at most 43 MB with them.
pub const FILE_SIZE_MAX: usize = 64 << 20;

const MAGIC: [u8; 8] = *b"ODRKLAST";
const VERSION: u16 = 3;
const HEADER_SIZE: usize = 14;
const PART_COUNT: usize = 7;
const ENTRY_SIZE: usize = 44 + PART_COUNT * 4 + 1 + 4;
const CRC_SIZE: usize = 4;

/// One partition as it was left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// Base offset of the active segment.
    pub active: Offset,
    pub log_end: Offset,
    pub first_timestamp: Option<Timestamp>,
    pub offset_index: Vec<u8>,
    pub time_index: Vec<u8>,
    pub checksums: Vec<u8>,
    pub producers: Vec<u8>,
    pub epochs: Vec<u8>,
    /// Of the active segment; empty where it has no transactions.
    pub transactions: Vec<u8>,
    /// Bytes between the last block boundary and the end of the log.
    pub carry: Vec<u8>,
    /// Of the files beside the active segment, where those have it; then all of the above are empty.
    pub files_checksum: Option<u32>,
}

impl PartitionState {
    /// A log of which everything is stored; `carry` is what its tail has behind the last whole block.
    pub fn of(log: &PartitionLog, carry: Vec<u8>) -> PartitionState {
        let index = log.active_index();
        PartitionState {
            active: log.active().base_offset,
            log_end: log.durable_end(),
            first_timestamp: log.active().first_timestamp,
            offset_index: index.encode_offset_index(),
            time_index: index.encode_time_index(),
            checksums: log.active_checksums().encode(),
            producers: log.producers.encode_snapshot(),
            epochs: log.epochs().encode().into_bytes(),
            transactions: log.active_transactions().map_or_else(Vec::new, |transactions| {
                transactions.encode(&log.active_checksums().segment(), log.active().size)
            }),
            carry,
            files_checksum: None,
        }
    }
}

/// CRC-32 (`crc32fast`) of offset index, time index, producer snapshot and leader epochs, each behind its
/// size.
pub fn files_checksum(files: [&[u8]; 4]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for file in files {
        crc.update(&(file.len() as u64).to_be_bytes());
        crc.update(file);
    }
    crc.finalize()
}

/// Why a file is no final state. A start without it looks into the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FinalStateError {
    #[error("the file does not begin as a final state of version 3")]
    Header,
    #[error("the file is not as its CRC-32 says")]
    Crc,
    #[error("partition {entry} has values that it cannot have")]
    Entry { entry: usize },
}

impl PartitionState {
    fn parts(&self) -> [&[u8]; PART_COUNT] {
        [
            &self.offset_index,
            &self.time_index,
            &self.checksums,
            &self.producers,
            &self.epochs,
            &self.transactions,
            &self.carry,
        ]
    }

    /// Bytes.
    pub fn size(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

/// Makes the file's bytes.
#[derive(Debug)]
pub struct FinalStateWriter {
    out: Vec<u8>,
    count: u32,
    state_size_max: usize,
}

impl Default for FinalStateWriter {
    fn default() -> FinalStateWriter {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        FinalStateWriter { out, count: 0, state_size_max: STATE_SIZE_MAX }
    }
}

impl FinalStateWriter {
    /// With less than a shard puts into the file, so that little data meets both cases.
    pub fn with_state_size_max(state_size_max: usize) -> FinalStateWriter {
        assert!(state_size_max <= STATE_SIZE_MAX);
        FinalStateWriter { state_size_max, ..FinalStateWriter::default() }
    }

    /// `false` when it is too much: the partition gets files of its own, and its checksum stands here.
    pub fn add(&mut self, id: TopicPartition, state: &PartitionState) -> bool {
        let size = state.size();
        let fits = size <= self.state_size_max && self.has_room(size);
        if fits {
            self.push(id, state);
        } else if self.has_room(0) {
            let files = [&state.offset_index[..], &state.time_index, &state.producers, &state.epochs];
            let beside = PartitionState {
                active: state.active,
                log_end: state.log_end,
                first_timestamp: state.first_timestamp,
                files_checksum: Some(files_checksum(files)),
                ..PartitionState::default()
            };
            self.push(id, &beside);
        }
        fits
    }

    fn has_room(&self, size: usize) -> bool {
        self.out.len() + ENTRY_SIZE + size + CRC_SIZE <= FILE_SIZE_MAX
    }

    fn push(&mut self, id: TopicPartition, state: &PartitionState) {
        self.out.extend_from_slice(id.topic.0.as_bytes());
        self.out.extend_from_slice(&id.partition.to_wire().to_be_bytes());
        self.out.extend_from_slice(&state.active.get().to_be_bytes());
        self.out.extend_from_slice(&state.log_end.get().to_be_bytes());
        let first = state.first_timestamp.map_or(-1, |timestamp| timestamp.0);
        self.out.extend_from_slice(&first.to_be_bytes());
        for part in state.parts() {
            self.out.extend_from_slice(&(part.len() as u32).to_be_bytes());
        }
        self.out.push(state.files_checksum.is_some().into());
        self.out.extend_from_slice(&state.files_checksum.unwrap_or(0).to_be_bytes());
        for part in state.parts() {
            self.out.extend_from_slice(part);
        }
        self.count += 1;
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.out[HEADER_SIZE - 4..HEADER_SIZE].copy_from_slice(&self.count.to_be_bytes());
        let crc = crc32fast::hash(&self.out);
        self.out.extend_from_slice(&crc.to_be_bytes());
        assert!(self.out.len() <= FILE_SIZE_MAX);
        self.out
    }
}

/// Reads the file.
pub fn decode(bytes: &[u8]) -> Result<BTreeMap<TopicPartition, PartitionState>, FinalStateError> {
    let (covered, crc) = bytes.split_last_chunk::<CRC_SIZE>().ok_or(FinalStateError::Header)?;
    let (header, mut rest) = covered.split_first_chunk::<HEADER_SIZE>().ok_or(FinalStateError::Header)?;
    if header[..8] != MAGIC || header[8..10] != VERSION.to_be_bytes() {
        return Err(FinalStateError::Header);
    }
    if crc32fast::hash(covered) != u32::from_be_bytes(*crc) {
        return Err(FinalStateError::Crc);
    }
    let count = u32::from_be_bytes([header[10], header[11], header[12], header[13]]) as usize;
    let mut states = BTreeMap::new();
    for entry in 0..count {
        let (id, state, after) = decode_entry(rest).ok_or(FinalStateError::Entry { entry })?;
        if states.insert(id, state).is_some() {
            return Err(FinalStateError::Entry { entry });
        }
        rest = after;
    }
    if rest.is_empty() { Ok(states) } else { Err(FinalStateError::Entry { entry: count }) }
}

fn decode_entry(bytes: &[u8]) -> Option<(TopicPartition, PartitionState, &[u8])> {
    let (topic, rest) = bytes.split_first_chunk::<16>()?;
    let (partition, rest) = rest.split_first_chunk()?;
    let id = TopicPartition {
        topic: TopicId(Uuid::from_bytes(*topic)),
        partition: PartitionIndex::from_wire(i32::from_be_bytes(*partition))?,
    };
    let (active, rest) = rest.split_first_chunk()?;
    let (log_end, rest) = rest.split_first_chunk()?;
    let (first, rest) = rest.split_first_chunk()?;
    let (sizes, rest) = rest.split_first_chunk::<{ PART_COUNT * 4 }>()?;
    let (beside, rest) = rest.split_first_chunk::<1>()?;
    let (checksum, mut rest) = rest.split_first_chunk()?;
    let files_checksum = match beside {
        [0] => None,
        [1] if *sizes == [0; PART_COUNT * 4] => Some(u32::from_be_bytes(*checksum)),
        _ => return None,
    };
    let first = Timestamp(i64::from_be_bytes(*first));
    let mut parts: [Vec<u8>; PART_COUNT] = Default::default();
    for (part, size) in parts.iter_mut().zip(sizes.as_chunks::<4>().0) {
        let (taken, after) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
        *part = taken.to_vec();
        rest = after;
    }
    let [offset_index, time_index, checksums, producers, epochs, transactions, carry] = parts;
    let state = PartitionState {
        active: Offset::new(u64::from_be_bytes(*active))?,
        log_end: Offset::new(u64::from_be_bytes(*log_end))?,
        first_timestamp: (first.0 >= 0).then_some(first),
        offset_index,
        time_index,
        checksums,
        producers,
        epochs,
        transactions,
        carry,
        files_checksum,
    };
    (state.active <= state.log_end).then_some((id, state, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(partition: i32) -> TopicPartition {
        let partition = PartitionIndex::from_wire(partition).unwrap();
        TopicPartition { topic: TopicId(Uuid::from_u128(7)), partition }
    }

    fn state(size: usize) -> PartitionState {
        PartitionState {
            active: Offset::new(5).unwrap(),
            log_end: Offset::new(9).unwrap(),
            first_timestamp: Some(Timestamp(77)),
            offset_index: vec![1; size],
            transactions: vec![3; 1],
            carry: vec![2; 2],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_large_is_left_to_files_of_its_own() {
        let mut writer = FinalStateWriter::default();
        assert!(writer.add(id(0), &state(STATE_SIZE_MAX - 3)));
        assert!(!writer.add(id(1), &state(STATE_SIZE_MAX - 2)));
        let mut added = 1;
        while writer.add(id(added + 1), &state(STATE_SIZE_MAX - 3)) {
            added += 1;
        }
        let bytes = writer.finish();
        assert!(bytes.len() <= FILE_SIZE_MAX && bytes.len() > FILE_SIZE_MAX - 2 * STATE_SIZE_MAX);
        let decoded = decode(&bytes).unwrap();
        let whole = decoded.values().filter(|state| state.files_checksum.is_none());
        assert_eq!(whole.count(), added as usize);
        let large = state(STATE_SIZE_MAX - 2);
        let sum = files_checksum([&large.offset_index, &[], &[], &[]]);
        let left = &decoded[&id(1)];
        assert_eq!((left.size(), left.log_end, left.files_checksum), (0, large.log_end, Some(sum)));
    }

    #[test]
    fn checksum_of_files_tells_where_one_ends() {
        let files: [&[u8]; 4] = [b"ab", b"c", b"", b"d"];
        assert_eq!(files_checksum(files), files_checksum(files));
        for others in [[&b"a"[..], b"bc", b"", b"d"], [b"ab", b"c", b"d", b""], [b"ab", b"c", b"", b"e"]] {
            assert_ne!(files_checksum(files), files_checksum(others));
        }
    }

    proptest! {
        #[test]
        fn states_are_read_back_and_no_flipped_bit_is(
            sizes in proptest::collection::vec(0..300usize, 0..8),
            flip in any::<proptest::sample::Index>(),
        ) {
            let mut writer = FinalStateWriter::default();
            let states: BTreeMap<_, _> = (0..).zip(&sizes).map(|(at, size)| (id(at), state(*size))).collect();
            for (id, state) in &states {
                prop_assert!(writer.add(*id, state));
            }
            let mut bytes = writer.finish();
            prop_assert_eq!(decode(&bytes), Ok(states));
            let at = flip.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert!(decode(&bytes).is_err());
            prop_assert!(decode(&bytes[..at]).is_err());
        }

        #[test]
        fn nothing_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut file = FinalStateWriter::default().out;
            file.append(&mut bytes);
            file[HEADER_SIZE - 1] = 3;
            let crc = crc32fast::hash(&file);
            file.extend_from_slice(&crc.to_be_bytes());
            let _ = decode(&file);
        }
    }
}
