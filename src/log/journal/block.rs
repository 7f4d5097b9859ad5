//! One block of the commit journal: what one write of it holds.
//!
//! ```text
//! 0        72              72 + 56 × entries                    size, a multiple of 4096
//! | header | table of entries | bytes of the entries, end to end | zeros |
//! ```
//!
//! Header:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: `ODRKJRNL` |
//! | 8 | 2 | version: 4; blocks of version 1 have no entries of kind 3 or above, those of version 2 none of kind 8, those of 3 none of kind 9 |
//! | 10 | 2 | shard |
//! | 12 | 4 | size of the block, the zeros included |
//! | 16 | 4 | count of entries |
//! | 20 | 4 | bytes of all entries |
//! | 24 | 8 | epoch of the file: which use of it this block belongs to |
//! | 32 | 8 | position of the block in the file |
//! | 40 | 8 | sequence number: one more than that of the block before, over all files |
//! | 48 | 8 | flushed: every block below this number was on stable storage when this one was issued |
//! | 56 | 8 | needed: everything in blocks below this number is flushed in its segments |
//! | 64 | 4 | CRC-32 (`crc32fast`) of bytes 0 to 63, of the table, and of bytes 68 to 71; version 1: without these |
//! | 68 | 4 | size of the file, in blocks of 4096 bytes; version 1: zero |
//!
//! Entry:
//!
//! | offset | size | bytes of a segment | a segment is closed |
//! |---|---|---|---|
//! | 0 | 16 | topic id | topic id |
//! | 16 | 4 | number of the partition | number of the partition |
//! | 20 | 4 | kind: 1 | kind: 2 |
//! | 24 | 8 | base offset of the segment | base offset of the segment |
//! | 32 | 8 | file position of the first byte | its exact size |
//! | 40 | 8 | log end that these bytes reach | base offset of the next |
//! | 48 | 4 | count of bytes | 0 |
//! | 52 | 4 | CRC-32 of the bytes | 0 |
//!
//! Entries of other changes begin with topic id and number of the partition too, and go on:
//!
//! | offset | size | log start moved | partition deleted, replica removed | segments replaced | log is being cut, was cut |
//! |---|---|---|---|---|---|
//! | 20 | 4 | kind: 3 | kind: 4, 9 | kind: 5 | kind: 6, 7 |
//! | 24 | 8 | new log start | 0 | base offset of the first | base offset of the segment that is last then |
//! | 32 | 8 | 0 | 0 | 0 | its size then |
//! | 40 | 8 | 0 | 0 | offset after the last | log end then |
//! | 48 | 4 | leader epoch | leader epoch | leader epoch | leader epoch |
//! | 52 | 4 | 0 | 0 | 0 | 0 |
//!
//! | offset | size | log is flushed in its segments |
//! |---|---|---|
//! | 20 | 4 | kind: 8 |
//! | 24 | 8 | base offset of the segment that holds the flushed end |
//! | 32 | 8 | file position of the flushed end |
//! | 40 | 8 | flushed end, exclusive |
//! | 48 | 4 | leader epoch |
//! | 52 | 4 | 0 |
//!
//! All integers big-endian. The epoch and the position stand under the checksum, so that neither a
//! block that an earlier use of the file left there nor one that was written to a wrong place is ever
//! taken for this one. The size of the file tells one that was cut short. The bytes have checksums of their own: one damaged stretch costs one
//! partition. Bytes are a range of the segment's file, not batches: a range that does not fit goes on
//! in the next block, and its log end is reached only there.

use crate::log::partition::{PartitionLog, Place};
use crate::log::plan::align_up;
use crate::types::limits::{IO_ALIGNMENT, IO_SIZE_MAX};
use crate::types::{LeaderEpoch, Offset, PartitionIndex, ShardId, TopicId, TopicPartition, Uuid};

const MAGIC: [u8; 8] = *b"ODRKJRNL";
const VERSION: u16 = 4;
const VERSION_MIN: u16 = 1;
const CRC_AT: usize = 64;
const FILE_SIZE_AT: usize = 68;

/// Bytes of a block's header.
pub const HEADER_SIZE: usize = 72;

/// Bytes of one entry of the table.
pub const ENTRY_SIZE: usize = 56;

/// Bytes of the largest block: one direct write.
pub const BLOCK_SIZE_MAX: usize = IO_SIZE_MAX;

/// Entries of the fullest block.
pub const BLOCK_ENTRIES_MAX: usize = (BLOCK_SIZE_MAX - HEADER_SIZE) / ENTRY_SIZE;

/// Counts blocks over all files of a shard's journal, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSequence(pub u64);

impl BlockSequence {
    pub const fn next(self) -> BlockSequence {
        BlockSequence(self.0 + 1) // 2^64 blocks are never written.
    }
}

/// Counts the uses of a shard's journal files, from 1: each use of each file has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileEpoch(pub u64);

impl FileEpoch {
    pub const fn next(self) -> FileEpoch {
        FileEpoch(self.0 + 1)
    }
}

/// Where a block lies, and what was known when it was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    pub shard: ShardId,
    pub epoch: FileEpoch,
    pub position: u64,
    pub sequence: BlockSequence,
    /// Exclusive.
    pub flushed: BlockSequence,
    /// The first block that a replay needs.
    pub needed: BlockSequence,
    /// Bytes of the file, which has them from when it is made on; 0: version 1 does not say.
    pub file_size: u64,
}

/// What an entry says of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A range of a segment's bytes, from `place`; the log reaches to `end` with its last byte.
    Bytes { place: Place, end: Offset, size: u32, crc: u32 },
    /// The segment takes no more bytes: it is `size` long, `next` comes after it.
    Closed { segment: Offset, size: u64, next: Offset },
    /// Nothing below `start` is in the log any more (DeleteRecords, retention). Flushed before a reader
    /// is told, and before a file goes.
    LogStart { start: Offset, epoch: LeaderEpoch },
    /// The partition is gone; flushed before its directory is.
    Deleted { epoch: LeaderEpoch },
    /// The replica is gone from here, and may come again; flushed once its directory is gone, and before it can.
    Removed { epoch: LeaderEpoch },
    /// Another segment takes the place of those that begin from `from` on and below `to`, all of them
    /// flushed (compaction). Flushed before it does: nothing may be written into it any more.
    Replaced { from: Offset, to: Offset, epoch: LeaderEpoch },
    /// The log ends at `end`, which is `place`. Flushed before a file is cut.
    Cutting { place: Place, end: Offset, epoch: LeaderEpoch },
    /// The files are cut and flushed. Nothing is appended before this is flushed as well: a replay does
    /// not cut again.
    Cut { place: Place, end: Offset, epoch: LeaderEpoch },
    /// Everything below `end`, which is `place`, was flushed in its segments before the block was issued. It
    /// changes nothing: what a start does not find of it is damage, never a torn tail.
    Flushed { place: Place, end: Offset, epoch: LeaderEpoch },
}

impl Change {
    /// How far a log is flushed in its segments now.
    pub fn flushed(log: &PartitionLog) -> Change {
        Change::Flushed { place: log.stored_place(), end: log.stored_end(), epoch: log.leader_epoch() }
    }

    /// The leadership under which it happened; of appends, their batches say it.
    pub fn epoch(&self) -> Option<LeaderEpoch> {
        match *self {
            Change::Bytes { .. } | Change::Closed { .. } => None,
            Change::LogStart { epoch, .. }
            | Change::Deleted { epoch }
            | Change::Removed { epoch }
            | Change::Replaced { epoch, .. }
            | Change::Cutting { epoch, .. }
            | Change::Cut { epoch, .. }
            | Change::Flushed { epoch, .. } => Some(epoch),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub partition: TopicPartition,
    pub change: Change,
}

impl Entry {
    fn body_size(&self) -> usize {
        match self.change {
            Change::Bytes { size, .. } => size as usize,
            Change::Closed { .. }
            | Change::LogStart { .. }
            | Change::Deleted { .. }
            | Change::Removed { .. }
            | Change::Replaced { .. }
            | Change::Cutting { .. }
            | Change::Cut { .. }
            | Change::Flushed { .. } => 0,
        }
    }

    fn encode(&self, out: &mut [u8]) {
        let stated = |epoch: LeaderEpoch| epoch.0 as u32;
        let (kind, at, position, end, size, crc) = match self.change {
            Change::Bytes { place, end, size, crc } => {
                (1u32, place.segment, place.file_position, end, size, crc)
            }
            Change::Closed { segment, size, next } => (2, segment, size, next, 0, 0),
            Change::LogStart { start, epoch } => (3, start, 0, Offset::ZERO, stated(epoch), 0),
            Change::Deleted { epoch } => (4, Offset::ZERO, 0, Offset::ZERO, stated(epoch), 0),
            Change::Removed { epoch } => (9, Offset::ZERO, 0, Offset::ZERO, stated(epoch), 0),
            Change::Replaced { from, to, epoch } => (5, from, 0, to, stated(epoch), 0),
            Change::Cutting { place, end, epoch } => {
                (6, place.segment, place.file_position, end, stated(epoch), 0)
            }
            Change::Cut { place, end, epoch } => {
                (7, place.segment, place.file_position, end, stated(epoch), 0)
            }
            Change::Flushed { place, end, epoch } => {
                (8, place.segment, place.file_position, end, stated(epoch), 0)
            }
        };
        out[..16].copy_from_slice(self.partition.topic.0.as_bytes());
        out[16..20].copy_from_slice(&self.partition.partition.to_wire().to_be_bytes());
        out[20..24].copy_from_slice(&kind.to_be_bytes());
        out[24..32].copy_from_slice(&at.get().to_be_bytes());
        out[32..40].copy_from_slice(&position.to_be_bytes());
        out[40..48].copy_from_slice(&end.get().to_be_bytes());
        out[48..52].copy_from_slice(&size.to_be_bytes());
        out[52..56].copy_from_slice(&crc.to_be_bytes());
    }

    /// `None` for values that no writer writes.
    fn decode(bytes: &[u8]) -> Option<Entry> {
        let partition = TopicPartition {
            topic: TopicId(Uuid::from_bytes(*bytes.first_chunk()?)),
            partition: PartitionIndex::from_wire(u32_at(bytes, 16)? as i32)?,
        };
        let segment = Offset::new(u64_at(bytes, 24)?)?;
        let position = u64_at(bytes, 32)?;
        let end = Offset::new(u64_at(bytes, 40)?)?;
        let (size, crc) = (u32_at(bytes, 48)?, u32_at(bytes, 52)?);
        let place = Place { segment, file_position: position };
        let kind = u32_at(bytes, 20)?;
        let epoch = LeaderEpoch(size as i32);
        if kind > 2 && epoch.0 < 0 {
            return None;
        }
        let change = match kind {
            1 => Change::Bytes { place, end, size, crc },
            2 if segment < end => Change::Closed { segment, size: position, next: end },
            3 => Change::LogStart { start: segment, epoch },
            4 => Change::Deleted { epoch },
            5 if segment < end => Change::Replaced { from: segment, to: end, epoch },
            6 if segment <= end => Change::Cutting { place, end, epoch },
            7 if segment <= end => Change::Cut { place, end, epoch },
            8 if segment <= end => Change::Flushed { place, end, epoch },
            9 => Change::Removed { epoch },
            _ => return None,
        };
        Some(Entry { partition, change })
    }
}

/// Bytes of a block with these entries, whole blocks of the disk.
pub fn block_size(entries: usize, body_size: usize) -> usize {
    align_up((HEADER_SIZE + entries * ENTRY_SIZE + body_size) as u64) as usize
}

/// Writes a block: the entries first, each with its bytes, then the header.
///
/// Lives: while one block is filled. The buffer is as long as [`block_size`] says for what is coming.
pub struct BlockWriter<'a> {
    out: &'a mut [u8],
    entries_max: usize,
    entries: usize,
    body_end: usize,
}

impl<'a> BlockWriter<'a> {
    pub fn new(out: &'a mut [u8], entries_max: usize) -> BlockWriter<'a> {
        assert!(out.len().is_multiple_of(IO_ALIGNMENT));
        assert!(out.len() <= BLOCK_SIZE_MAX);
        let body_end = HEADER_SIZE + entries_max * ENTRY_SIZE;
        assert!(body_end <= out.len());
        BlockWriter { out, entries_max, entries: 0, body_end }
    }

    /// Adds a range of bytes, given in pieces: the one copy on the journal's way. O(bytes).
    pub fn bytes<'b>(
        &mut self,
        partition: TopicPartition,
        place: Place,
        end: Offset,
        pieces: impl Iterator<Item = &'b [u8]>,
    ) {
        let start = self.body_end;
        for piece in pieces {
            self.out[self.body_end..self.body_end + piece.len()].copy_from_slice(piece);
            self.body_end += piece.len();
        }
        let body = &self.out[start..self.body_end];
        let (size, crc) = (body.len() as u32, crc32fast::hash(body));
        self.put(&Entry { partition, change: Change::Bytes { place, end, size, crc } });
    }

    /// Adds that a segment was closed.
    pub fn closed(&mut self, partition: TopicPartition, segment: Offset, size: u64, next: Offset) {
        assert!(segment < next);
        self.put(&Entry { partition, change: Change::Closed { segment, size, next } });
    }

    /// Adds what has no bytes.
    pub fn change(&mut self, entry: &Entry) {
        assert!(entry.body_size() == 0, "bytes go in with their entry");
        self.put(entry);
    }

    fn put(&mut self, entry: &Entry) {
        assert!(self.entries < self.entries_max, "more entries than the block was planned for");
        let at = HEADER_SIZE + self.entries * ENTRY_SIZE;
        entry.encode(&mut self.out[at..at + ENTRY_SIZE]);
        self.entries += 1;
    }

    /// Seals the block.
    pub fn finish(self, header: &BlockHeader) {
        assert!(self.entries == self.entries_max, "fewer entries than the block was planned for");
        assert!(header.position.is_multiple_of(IO_ALIGNMENT as u64));
        assert!(header.file_size.is_multiple_of(IO_ALIGNMENT as u64));
        let file_blocks = u32::try_from(header.file_size / IO_ALIGNMENT as u64);
        let file_blocks = file_blocks.expect("a journal file is below 16 TiB");
        let body_size = self.body_end - HEADER_SIZE - self.entries * ENTRY_SIZE;
        // What an earlier use left in the buffer does not reach the disk.
        self.out[self.body_end..].fill(0);
        let size = self.out.len() as u32;
        let out = self.out;
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_be_bytes());
        out[10..12].copy_from_slice(&header.shard.0.to_be_bytes());
        out[12..16].copy_from_slice(&size.to_be_bytes());
        out[16..20].copy_from_slice(&(self.entries as u32).to_be_bytes());
        out[20..24].copy_from_slice(&(body_size as u32).to_be_bytes());
        out[24..32].copy_from_slice(&header.epoch.0.to_be_bytes());
        out[32..40].copy_from_slice(&header.position.to_be_bytes());
        out[40..48].copy_from_slice(&header.sequence.0.to_be_bytes());
        out[48..56].copy_from_slice(&header.flushed.0.to_be_bytes());
        out[56..64].copy_from_slice(&header.needed.0.to_be_bytes());
        out[FILE_SIZE_AT..HEADER_SIZE].copy_from_slice(&file_blocks.to_be_bytes());
        let crc = header_crc(out, self.entries);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    }
}

fn version_of(block: &[u8]) -> u16 {
    u16::from_be_bytes([block[8], block[9]])
}

fn header_crc(block: &[u8], entries: usize) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&block[..CRC_AT]);
    crc.update(&block[HEADER_SIZE..HEADER_SIZE + entries * ENTRY_SIZE]);
    if version_of(block) > 1 {
        crc.update(&block[FILE_SIZE_AT..HEADER_SIZE]);
    }
    crc.finalize()
}

/// Why bytes are no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("the bytes do not begin as a block")]
    Magic,
    #[error("block version {version} is not supported; 1 to 3 are")]
    Version { version: u16 },
    #[error("{size} bytes are no size of a block with {entries} entries and {body_size} bytes in them")]
    Size { size: u32, entries: u32, body_size: u32 },
    #[error("the block is cut off")]
    CutOff,
    #[error("CRC-32 of header and table is {computed:#010x}, the block says {stored:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("the block was written for position {stated}")]
    Position { stated: u64 },
    #[error("entry {entry} has values that it cannot have")]
    Entry { entry: usize },
}

/// A block whose header and table hold. Whether its bytes do is asked entry by entry.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    pub header: BlockHeader,
    pub size: usize,
    entries: usize,
    block: &'a [u8],
}

/// Bytes of the block that begins here, from its header; what is not plausible is no block.
pub fn stated_size(bytes: &[u8]) -> Result<usize, BlockError> {
    let header: &[u8; HEADER_SIZE] = bytes.first_chunk().ok_or(BlockError::CutOff)?;
    if header[..8] != MAGIC {
        return Err(BlockError::Magic);
    }
    let version = u16::from_be_bytes([header[8], header[9]]);
    if !(VERSION_MIN..=VERSION).contains(&version) {
        return Err(BlockError::Version { version });
    }
    let field = |at: usize| u32_at(header, at).expect("inside the header");
    let (size, entries, body_size) = (field(12), field(16), field(20));
    let error = BlockError::Size { size, entries, body_size };
    if size as usize > BLOCK_SIZE_MAX || entries as usize > BLOCK_ENTRIES_MAX || body_size > size {
        return Err(error);
    }
    if block_size(entries as usize, body_size as usize) != size as usize {
        return Err(error);
    }
    Ok(size as usize)
}

impl<'a> BlockView<'a> {
    /// The block at the head of `bytes`, which were read at `position`.
    pub fn decode(bytes: &'a [u8], position: u64) -> Result<BlockView<'a>, BlockError> {
        let size = stated_size(bytes)?;
        let block = bytes.get(..size).ok_or(BlockError::CutOff)?;
        let entries = u32_at(block, 16).expect("inside the header") as usize;
        let stored = u32_at(block, CRC_AT).expect("inside the header");
        let computed = header_crc(block, entries);
        if stored != computed {
            return Err(BlockError::Crc { stored, computed });
        }
        let field = |at: usize| u64_at(block, at).expect("inside the header");
        let file_blocks = if version_of(block) > 1 { u32_at(block, FILE_SIZE_AT) } else { None };
        let header = BlockHeader {
            shard: ShardId(u16::from_be_bytes([block[10], block[11]])),
            epoch: FileEpoch(field(24)),
            position: field(32),
            sequence: BlockSequence(field(40)),
            flushed: BlockSequence(field(48)),
            needed: BlockSequence(field(56)),
            file_size: u64::from(file_blocks.unwrap_or(0)) * IO_ALIGNMENT as u64,
        };
        if header.position != position {
            return Err(BlockError::Position { stated: header.position });
        }
        let view = BlockView { header, size, entries, block };
        view.check_entries()?;
        Ok(view)
    }

    pub fn version(&self) -> u16 {
        version_of(self.block)
    }

    fn check_entries(&self) -> Result<(), BlockError> {
        let mut body_size = 0;
        for at in 0..self.entries {
            let entry = self.entry(at).ok_or(BlockError::Entry { entry: at })?;
            let since = match entry.change {
                Change::Bytes { .. } | Change::Closed { .. } => 1,
                Change::LogStart { .. }
                | Change::Deleted { .. }
                | Change::Replaced { .. }
                | Change::Cutting { .. }
                | Change::Cut { .. } => 2,
                Change::Flushed { .. } => 3,
                Change::Removed { .. } => 4,
            };
            if self.version() < since {
                return Err(BlockError::Entry { entry: at });
            }
            body_size += entry.body_size();
        }
        let stated = u32_at(self.block, 20).expect("inside the header") as usize;
        if body_size != stated {
            return Err(BlockError::Entry { entry: self.entries });
        }
        Ok(())
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        let start = HEADER_SIZE + at * ENTRY_SIZE;
        Entry::decode(self.block.get(start..start + ENTRY_SIZE)?)
    }

    /// The entries in their order; `None` for the bytes of one whose checksum does not hold.
    pub fn entries(&self) -> impl Iterator<Item = (Entry, Option<&'a [u8]>)> + '_ {
        let mut body = HEADER_SIZE + self.entries * ENTRY_SIZE;
        (0..self.entries).map(move |at| {
            let entry = self.entry(at).expect("checked when the block was decoded");
            let bytes = &self.block[body..body + entry.body_size()];
            body += bytes.len();
            let holds = match entry.change {
                Change::Bytes { crc, .. } => crc32fast::hash(bytes) == crc,
                Change::Closed { .. }
                | Change::LogStart { .. }
                | Change::Deleted { .. }
                | Change::Removed { .. }
                | Change::Replaced { .. }
                | Change::Cutting { .. }
                | Change::Cut { .. }
                | Change::Flushed { .. } => true,
            };
            (entry, holds.then_some(bytes))
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    #[test]
    fn layout_is_the_table_above() {
        let block = sample(&header(), b"batch");
        let words: Vec<String> = block[..HEADER_SIZE + 2 * ENTRY_SIZE + 5]
            .chunks(8)
            .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        expect![[r#"
            4f44524b4a524e4c
            0004000300001000
            0000000200000005
            0000000000000007
            0000000000002000
            000000000000002a
            0000000000000029
            0000000000000011
            eaf92baf00000009
            0000000000000000
            00000000000000ab
            0000000400000001
            0000000000000064
            0000000000003000
            0000000000000078
            00000005f80b52d4
            0000000000000000
            00000000000000ab
            0000000400000002
            0000000000000064
            0000000000003005
            0000000000000078
            0000000000000000
            6261746368
        "#]]
        .assert_eq(&(words.join("\n") + "\n"));
    }

    #[test]
    fn block_is_read_back() {
        let block = sample(&header(), b"some bytes of a segment");
        let view = BlockView::decode(&block, header().position).unwrap();
        assert_eq!((view.header, view.size), (header(), 4096));
        let entries: Vec<_> = view.entries().collect();
        assert_eq!(entries[0].1, Some(&b"some bytes of a segment"[..]));
        assert_eq!(
            entries[1].0.change,
            Change::Closed {
                segment: offset(100),
                size: 12288 + entries[0].1.unwrap().len() as u64,
                next: offset(120)
            }
        );
    }

    #[test]
    fn changes_are_read_back() {
        let changes = changes();
        let mut out = vec![0xee; block_size(changes.len(), 0)];
        let mut writer = BlockWriter::new(&mut out, changes.len());
        for change in &changes {
            writer.change(&Entry { partition: partition(), change: *change });
        }
        writer.finish(&header());
        let view = BlockView::decode(&out, header().position).unwrap();
        let found: Vec<Change> = view.entries().map(|(entry, _)| entry.change).collect();
        assert_eq!(found, changes);
        assert!(view.entries().all(|(entry, bytes)| entry.partition == partition() && bytes == Some(&[])));
    }

    /// Journals that a broker of the first version left are replayed; what that version did not have is
    /// no entry of it.
    #[test]
    fn blocks_of_the_first_version_are_read() {
        let mut block = sample(&header(), b"bytes");
        state_version(&mut block, 1, 2);
        let view = BlockView::decode(&block, header().position).unwrap();
        assert_eq!((view.version(), view.entries().count(), view.header.file_size), (1, 2, 0));
        let mut later = vec![0; block_size(1, 0)];
        let mut writer = BlockWriter::new(&mut later, 1);
        writer.change(&Entry { partition: partition(), change: changes()[0] });
        writer.finish(&header());
        state_version(&mut later, 1, 1);
        let refused = BlockView::decode(&later, header().position).unwrap_err();
        assert_eq!(refused, BlockError::Entry { entry: 0 });
        state_version(&mut later, 2, 1);
        assert!(BlockView::decode(&later, header().position).is_ok());
        state_version(&mut later, 5, 1);
        let refused = BlockView::decode(&later, header().position).unwrap_err();
        assert_eq!(refused, BlockError::Version { version: 5 });
    }

    #[test]
    fn record_of_a_flush_is_the_table_above_and_none_of_the_second_version() {
        let place = Place { segment: offset(100), file_position: 12288 };
        let change = Change::Flushed { place, end: offset(120), epoch: LeaderEpoch(6) };
        let mut block = vec![0xee; block_size(1, 0)];
        let mut writer = BlockWriter::new(&mut block, 1);
        writer.change(&Entry { partition: partition(), change });
        writer.finish(&header());
        let entry = &block[HEADER_SIZE + 16..HEADER_SIZE + ENTRY_SIZE];
        let words: Vec<String> =
            entry.chunks(8).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        expect![[r#"
            0000000400000008
            0000000000000064
            0000000000003000
            0000000000000078
            0000000600000000
        "#]]
        .assert_eq(&(words.join("\n") + "\n"));
        state_version(&mut block, 2, 1);
        let refused = BlockView::decode(&block, header().position).unwrap_err();
        assert_eq!(refused, BlockError::Entry { entry: 0 });
    }

    /// A build that does not know of it would take what a replica that has come since has for the other's.
    #[test]
    fn removed_replica_is_none_of_the_third_version() {
        let mut block = vec![0xee; block_size(1, 0)];
        let mut writer = BlockWriter::new(&mut block, 1);
        let change = Change::Removed { epoch: LeaderEpoch(6) };
        writer.change(&Entry { partition: partition(), change });
        writer.finish(&header());
        assert_eq!(block[HEADER_SIZE + 20..HEADER_SIZE + 24], 9u32.to_be_bytes());
        assert_eq!(block[HEADER_SIZE + 48..HEADER_SIZE + 52], 6u32.to_be_bytes());
        let view = BlockView::decode(&block, header().position).unwrap();
        assert_eq!(view.entries().map(|(entry, _)| entry.change).collect::<Vec<_>>(), [change]);
        state_version(&mut block, 3, 1);
        let refused = BlockView::decode(&block, header().position).unwrap_err();
        assert_eq!(refused, BlockError::Entry { entry: 0 });
    }

    #[test]
    fn block_of_another_place_is_refused() {
        let block = sample(&header(), b"x");
        let refused = BlockView::decode(&block, 0).unwrap_err();
        assert_eq!(refused, BlockError::Position { stated: header().position });
    }

    #[test]
    fn damaged_bytes_cost_their_own_entry_only() {
        let mut block = sample(&header(), b"some bytes");
        block[HEADER_SIZE + 2 * ENTRY_SIZE + 3] ^= 1;
        let view = BlockView::decode(&block, header().position).unwrap();
        let holds: Vec<bool> = view.entries().map(|(_, bytes)| bytes.is_some()).collect();
        assert_eq!(holds, [false, true]);
    }

    proptest! {
        /// Whatever bit flips in header or table, the block is refused; in the bytes, their entry is.
        #[test]
        fn no_flipped_bit_goes_unnoticed(bit in 0usize..(HEADER_SIZE + 2 * ENTRY_SIZE + 40) * 8) {
            let mut block = sample(&header(), &[7; 40]);
            block[bit / 8] ^= 1 << (bit % 8);
            match BlockView::decode(&block, header().position) {
                Err(_) => {}
                Ok(view) => prop_assert!(view.entries().any(|(_, bytes)| bytes.is_none())),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..9000), magic: bool) {
            if magic && bytes.len() > 24 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..10].copy_from_slice(&VERSION.to_be_bytes());
                bytes[12..24].copy_from_slice(&[0, 0, 16, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
            }
            if let Ok(view) = BlockView::decode(&bytes, 0) {
                prop_assert!(view.entries().count() <= BLOCK_ENTRIES_MAX);
            }
        }
    }

    fn header() -> BlockHeader {
        BlockHeader {
            shard: ShardId(3),
            epoch: FileEpoch(7),
            position: 8192,
            sequence: BlockSequence(42),
            flushed: BlockSequence(41),
            needed: BlockSequence(17),
            file_size: 9 * IO_ALIGNMENT as u64,
        }
    }

    fn partition() -> TopicPartition {
        TopicPartition {
            topic: TopicId(Uuid::from_u128(0xab)),
            partition: PartitionIndex::from_wire(4).unwrap(),
        }
    }

    /// One of every kind without bytes, but for a closed segment.
    fn changes() -> Vec<Change> {
        let epoch = LeaderEpoch(6);
        let place = Place { segment: offset(100), file_position: 12288 };
        vec![
            Change::LogStart { start: offset(110), epoch },
            Change::Replaced { from: offset(20), to: offset(100), epoch },
            Change::Cutting { place, end: offset(120), epoch },
            Change::Cut { place, end: offset(120), epoch },
            Change::Flushed { place, end: offset(120), epoch },
            Change::Deleted { epoch },
            Change::Removed { epoch },
        ]
    }

    fn state_version(block: &mut [u8], version: u16, entries: usize) {
        block[8..10].copy_from_slice(&version.to_be_bytes());
        let crc = header_crc(block, entries);
        block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    }

    fn sample(header: &BlockHeader, bytes: &[u8]) -> Vec<u8> {
        let partition = partition();
        let mut out = vec![0xee; block_size(2, bytes.len())];
        let mut writer = BlockWriter::new(&mut out, 2);
        let place = Place { segment: offset(100), file_position: 12288 };
        let (first, second) = bytes.split_at(bytes.len() / 2);
        writer.bytes(partition, place, offset(120), [first, second].into_iter());
        writer.closed(partition, offset(100), 12288 + bytes.len() as u64, offset(120));
        writer.finish(header);
        out
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
