//! Checksums of a segment's batches: that what a disk hands back is what was written, at this place of
//! this segment.
//!
//! A batch's own CRC-32C begins behind base offset, length, leader epoch and magic, and it holds
//! wherever the batch lies. So the headers are summed up once more, in extents of whole batches:
//!
//! ```text
//! batches   │  a  │   b   │    c    │          d, large           │ e │
//! extents   └── from 32 KiB on the next begins ┘ one by itself ───┘ └ open, until it has 32 KiB
//! checksum  of the segment's name, the extent's position, and the whole header of every batch
//! ```
//!
//! Together they cover every byte: a header holds the CRC of what follows it, and its length says where
//! the next one begins. An append costs one checksum over 61 bytes, not a second pass over its records.
//! Nothing less than an extent can be checked: a read begins and ends with one.
//!
//! `.checksums`, beside a closed segment (an active one has them in memory, a clean stop keeps them):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: `ODRKSUMS` |
//! | 8 | 2 | version: 2 |
//! | 10 | 16 | topic id |
//! | 26 | 4 | number of the partition |
//! | 30 | 8 | base offset of the segment |
//! | 38 | 8 | bytes of the segment |
//! | 46 | 4 | bit 31: some batch is part of a transaction; the rest: count of extents |
//! | 50 | 8 each | file position of an extent, its CRC-32 (`crc32fast`) |
//! | size - 4 | 4 | CRC-32 of everything before |
//!
//! All integers big-endian. Version 1 is of builds that took no transactions. One that is missing or not its segment's is built again from the batches
//! ([`rebuild`]), each of which is looked at once more for that.

pub mod check;
pub mod rebuild;
pub mod walk;

#[cfg(test)]
mod tests;

use crate::codec::record_batch::{BATCH_HEADER_SIZE, is_transactional};
use crate::log::index::FILE_POSITION_MAX;
use crate::types::with_last::WithLast;
use crate::types::{Offset, TopicPartition, Uuid};

/// Bytes from which on an extent takes no more batches: 8 bytes of memory for so many on disk, and
/// what a read of one small batch has to read at least.
pub const EXTENT_SIZE: u64 = 32 << 10;

/// The bytes of a batch before its first record.
pub type HeaderBytes = [u8; BATCH_HEADER_SIZE];

const MAGIC: [u8; 8] = *b"ODRKSUMS";
const VERSION: u16 = 2;
/// Of builds that took none.
const VERSION_WITHOUT_TRANSACTIONS: u16 = 1;
/// In the count of extents, which a segment of 2 GiB does not reach.
const HAS_TRANSACTIONS: u32 = 1 << 31;
/// Bytes of a segment's name.
pub const NAME_SIZE: usize = 28;
const HEADER_SIZE: usize = 8 + 2 + NAME_SIZE + 8 + 4;
const ENTRY_SIZE: usize = 8;
const CRC_SIZE: usize = 4;

/// Which segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentId {
    pub partition: TopicPartition,
    pub base_offset: Offset,
}

/// Batches that are checked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// File positions, both between batches.
    pub start: u64,
    pub end: u64,
    pub crc: u32,
}

/// Why a companion is not used; it is built again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumsError {
    #[error("the file does not begin as checksums of version 1 or 2")]
    Header,
    #[error("the file is not as its CRC-32 says")]
    Crc,
    #[error("it is another segment's, or of the segment when it had another length")]
    Foreign,
    #[error("extent {entry} does not follow the one before, or lies outside the segment")]
    Entry { entry: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    file_position: u32,
    crc: u32,
}

/// Lives: with the partition for its active segment, with its readers for closed ones. Pure.
/// Shape: 8 bytes for each [`EXTENT_SIZE`]; lookups O(log n), appends O(1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentChecksums {
    segment: SegmentId,
    entries: WithLast<Entry>,
    /// File position behind the last batch.
    end: u64,
    transactions: HasTransactions,
}

/// Whether batches of a segment are part of transactions, markers among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HasTransactions {
    No,
    Yes,
    /// Its checksums were not read since the start.
    Unknown,
}

impl SegmentChecksums {
    /// Of no batches.
    pub fn new(segment: SegmentId) -> SegmentChecksums {
        SegmentChecksums { segment, entries: WithLast::default(), end: 0, transactions: HasTransactions::No }
    }

    pub fn segment(&self) -> SegmentId {
        self.segment
    }

    /// File position up to which batches are covered.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn count(&self) -> usize {
        self.entries.len()
    }

    pub fn has_transactions(&self) -> HasTransactions {
        self.transactions
    }

    /// Takes note of the next batch of the segment, of `size` bytes.
    pub fn observe(&mut self, header: &HeaderBytes, size: u32) {
        assert!(self.end <= FILE_POSITION_MAX, "segment.bytes is a signed 32-bit integer");
        let is_large = size as u64 >= EXTENT_SIZE;
        let end = self.end;
        let open = self.entries.last().filter(|last| {
            let held = end - last.file_position as u64;
            held < EXTENT_SIZE && !is_large
        });
        match open.copied() {
            Some(open) => self.entries.replace_last(Entry { crc: continued(open.crc, header), ..open }),
            None => {
                let crc = continued(begun(&self.segment, end), header);
                self.entries.push(Entry { file_position: end as u32, crc });
            }
        }
        self.end = end + size as u64;
        if is_transactional(header) {
            self.transactions = HasTransactions::Yes;
        }
    }

    /// The extent that holds the byte at `file_position`, and those behind it that lie within
    /// `size_max` bytes of its start. None where no batch is covered.
    pub fn extents(&self, file_position: u64, size_max: u64) -> Vec<Extent> {
        if file_position >= self.end {
            return Vec::new();
        }
        let after = self.entries.partition_point(|entry| entry.file_position as u64 <= file_position);
        let Some(first) = after.checked_sub(1) else { return Vec::new() };
        let until = (self.entries[first].file_position as u64).saturating_add(size_max);
        let rest = (first + 1..self.entries.len()).map(|at| self.extent(at));
        let rest = rest.take_while(|extent| extent.end <= until);
        std::iter::once(self.extent(first)).chain(rest).collect()
    }

    pub fn all(&self) -> impl Iterator<Item = Extent> {
        (0..self.entries.len()).map(|at| self.extent(at))
    }

    pub fn extent_at(&self, at: usize) -> Option<Extent> {
        (at < self.entries.len()).then(|| self.extent(at))
    }

    fn extent(&self, at: usize) -> Extent {
        let Entry { file_position, crc } = self.entries[at];
        let end = self.entries.get(at + 1).map_or(self.end, |next| next.file_position as u64);
        Extent { start: file_position as u64, end, crc }
    }

    /// The `.checksums` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_SIZE + self.entries.len() * ENTRY_SIZE + CRC_SIZE);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&segment_name(&self.segment));
        out.extend_from_slice(&self.end.to_be_bytes());
        let flag = if self.transactions == HasTransactions::Yes { HAS_TRANSACTIONS } else { 0 };
        out.extend_from_slice(&(self.entries.len() as u32 | flag).to_be_bytes());
        assert_eq!(out.len(), HEADER_SIZE);
        for entry in &self.entries[..] {
            out.extend_from_slice(&entry.file_position.to_be_bytes());
            out.extend_from_slice(&entry.crc.to_be_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads the file of a segment of `size` bytes.
    pub fn decode(segment: SegmentId, size: u64, bytes: &[u8]) -> Result<SegmentChecksums, ChecksumsError> {
        let decoded = DecodedChecksums::decode(bytes)?;
        if decoded.name != segment_name(&segment) || decoded.segment_size != size {
            return Err(ChecksumsError::Foreign);
        }
        let mut found = SegmentChecksums::new(segment);
        found.entries.edit(|all| all.reserve_exact(decoded.extents.len()));
        for (at, (file_position, crc)) in decoded.extents.iter().copied().enumerate() {
            let follows = match found.entries.last() {
                Some(last) => last.file_position < file_position,
                None => file_position == 0,
            };
            if !follows || file_position as u64 >= size {
                return Err(ChecksumsError::Entry { entry: at });
            }
            found.entries.push(Entry { file_position, crc });
        }
        if found.entries.is_empty() && size > 0 {
            return Err(ChecksumsError::Entry { entry: 0 });
        }
        found.end = size;
        found.transactions = decoded.transactions;
        Ok(found)
    }
}

/// A companion as it is stored, before anybody has asked whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedChecksums {
    name: [u8; NAME_SIZE],
    pub segment_size: u64,
    /// File position and CRC-32 of each.
    pub extents: Vec<(u32, u32)>,
    pub transactions: HasTransactions,
}

impl DecodedChecksums {
    pub fn decode(bytes: &[u8]) -> Result<DecodedChecksums, ChecksumsError> {
        let (covered, crc) = bytes.split_last_chunk::<CRC_SIZE>().ok_or(ChecksumsError::Header)?;
        let (header, entries) = covered.split_first_chunk::<HEADER_SIZE>().ok_or(ChecksumsError::Header)?;
        let (magic, rest) = header.split_first_chunk::<8>().expect("a header's bytes");
        let (version, rest) = rest.split_first_chunk::<2>().expect("as before");
        let (name, rest) = rest.split_first_chunk::<NAME_SIZE>().expect("as before");
        let (segment_size, rest) = rest.split_first_chunk::<8>().expect("as before");
        let count = rest.first_chunk::<4>().expect("as before");
        let version = u16::from_be_bytes(*version);
        if *magic != MAGIC || !matches!(version, VERSION_WITHOUT_TRANSACTIONS | VERSION) {
            return Err(ChecksumsError::Header);
        }
        if crc32fast::hash(covered) != u32::from_be_bytes(*crc) {
            return Err(ChecksumsError::Crc);
        }
        let (entries, rest) = entries.as_chunks::<ENTRY_SIZE>();
        let count = u32::from_be_bytes(*count);
        let flag = if version == VERSION { count & HAS_TRANSACTIONS } else { 0 };
        if !rest.is_empty() || entries.len() != (count & !flag) as usize {
            return Err(ChecksumsError::Header);
        }
        let extent = |entry: &[u8; ENTRY_SIZE]| {
            let [a, b, c, d, rest @ ..] = *entry;
            (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(rest))
        };
        Ok(DecodedChecksums {
            name: *name,
            segment_size: u64::from_be_bytes(*segment_size),
            extents: entries.iter().map(extent).collect(),
            transactions: if flag == 0 { HasTransactions::No } else { HasTransactions::Yes },
        })
    }

    /// Topic id, number of the partition and base offset, as stored.
    pub fn segment(&self) -> (Uuid, i32, i64) {
        let (topic, rest) = self.name.split_first_chunk::<16>().expect("a name's bytes");
        let (partition, rest) = rest.split_first_chunk::<4>().expect("as before");
        let base_offset = rest.first_chunk::<8>().expect("as before");
        (Uuid::from_bytes(*topic), i32::from_be_bytes(*partition), i64::from_be_bytes(*base_offset))
    }
}

/// A segment's name in bytes: topic id, number of the partition, base offset.
pub fn segment_name(segment: &SegmentId) -> [u8; NAME_SIZE] {
    let mut name = [0; NAME_SIZE];
    name[..16].copy_from_slice(segment.partition.topic.0.as_bytes());
    name[16..20].copy_from_slice(&segment.partition.partition.to_wire().to_be_bytes());
    name[20..].copy_from_slice(&segment.base_offset.to_wire().to_be_bytes());
    name
}

/// The checksum of an extent before its first batch.
fn begun(segment: &SegmentId, file_position: u64) -> u32 {
    let mut place = [0; NAME_SIZE + 4];
    place[..NAME_SIZE].copy_from_slice(&segment_name(segment));
    place[NAME_SIZE..].copy_from_slice(&(file_position as u32).to_be_bytes());
    crc32fast::hash(&place)
}

/// With one more batch.
fn continued(crc: u32, header: &HeaderBytes) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(header);
    hasher.finalize()
}
