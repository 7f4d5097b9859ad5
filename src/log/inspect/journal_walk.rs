//! Finds the blocks of one file of a commit journal, in the order in which they lie in it.
//!
//! ```text
//! epoch   │ 7 │ 7 │ 7 │ 5 │ .. │ 5 │ 0000 │      5: left from an earlier use, "..": the rest of a block
//!         blocks ─────► stale ─────► empty       of that use whose head was written over
//! ```
//!
//! [`Replay`](crate::log::journal::replay::Replay) looks for what a start does with all files of a
//! journal; this one tells what each part of one file is. Which blocks follow each other is the same
//! rule. Absent: whether damage is a torn tail, which only all files of the journal say together.

use crate::log::journal::block::{
    BlockError, BlockSequence, BlockView, Change, ENTRY_SIZE, Entry, FileEpoch, HEADER_SIZE, stated_size,
};
use crate::types::limits::IO_ALIGNMENT;

/// A part of the file that is worth telling.
#[derive(Clone, Copy, Debug)]
pub enum WalkedPart<'a> {
    Block(BlockView<'a>),
    /// It begins as a block, and is none.
    Damaged {
        position: u64,
        error: BlockError,
    },
}

/// What was found in a file, and what was not handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkCounts {
    pub blocks: u64,
    /// Whole blocks of an earlier use of the file.
    pub stale_blocks: u64,
    /// Bytes of these, and of what is left of others.
    pub stale_bytes: u64,
    /// Bytes of zeros that no block has.
    pub empty_bytes: u64,
}

/// Goes through a file. `read` gives up to `size` bytes at a position, fewer at its end.
///
/// Errors: what `read` or `take` fail with. Reads each block once; one block is in memory at a time.
pub fn walk_journal_file<E>(
    file_size: u64,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
    mut take: impl FnMut(WalkedPart<'_>) -> Result<(), E>,
) -> Result<WalkCounts, E> {
    let mut counts = WalkCounts::default();
    let mut expected: Option<(FileEpoch, BlockSequence)> = None;
    let mut position = 0;
    while position < file_size {
        let mut bytes = read(position, IO_ALIGNMENT)?;
        let head_size = bytes.len().max(1) as u64; // A file that became shorter ends all the same.
        if let Ok(size) = stated_size(&bytes)
            && size > bytes.len()
        {
            bytes = read(position, size)?;
        }
        position += match BlockView::decode(&bytes, position) {
            Ok(view) => {
                let header = view.header;
                let follows =
                    expected.is_none_or(|(epoch, next)| header.epoch >= epoch && header.sequence >= next);
                if follows {
                    expected = Some((header.epoch, header.sequence.next()));
                    counts.blocks += 1;
                    take(WalkedPart::Block(view))?;
                } else {
                    counts.stale_blocks += 1;
                    counts.stale_bytes += view.size as u64;
                }
                view.size as u64
            }
            // A last part that is shorter than a header is no block either.
            Err(BlockError::Magic | BlockError::CutOff) if is_no_head(&bytes) => {
                match bytes.iter().all(|byte| *byte == 0) {
                    true => counts.empty_bytes += head_size,
                    false => counts.stale_bytes += head_size,
                }
                head_size
            }
            Err(error) => {
                take(WalkedPart::Damaged { position, error })?;
                head_size
            }
        };
    }
    Ok(counts)
}

fn is_no_head(bytes: &[u8]) -> bool {
    bytes.len() < HEADER_SIZE || stated_size(bytes) == Err(BlockError::Magic)
}

/// The entries of a block with their bytes, if these hold, and where the bytes are in the file.
pub fn entries_at<'a>(view: &BlockView<'a>) -> Vec<(u64, Entry, Option<&'a [u8]>)> {
    let entries: Vec<_> = view.entries().collect();
    let mut position = view.header.position + (HEADER_SIZE + entries.len() * ENTRY_SIZE) as u64;
    let place = |(entry, bytes): (Entry, Option<&'a [u8]>)| {
        let at = position;
        position += match entry.change {
            Change::Bytes { size, .. } => u64::from(size),
            Change::Closed { .. }
            | Change::LogStart { .. }
            | Change::Deleted { .. }
            | Change::Removed { .. }
            | Change::Replaced { .. }
            | Change::Cutting { .. }
            | Change::Cut { .. }
            | Change::Flushed { .. } => 0,
        };
        (at, entry, bytes)
    };
    entries.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::journal::block::{BlockHeader, BlockWriter, block_size};
    use crate::log::partition::Place;
    use crate::types::{Offset, PartitionIndex, ShardId, TopicId, TopicPartition, Uuid};
    use std::convert::Infallible;

    const BLOCK: u64 = IO_ALIGNMENT as u64;

    #[test]
    fn parts_of_a_file_are_told_apart() {
        let mut file = block(0, 7, 20);
        file.extend(block(BLOCK, 7, 21));
        file.extend(vec![0x5a; IO_ALIGNMENT]); // The rest of one whose head was written over.
        file.extend(block(3 * BLOCK, 6, 12));
        file.extend(vec![0; IO_ALIGNMENT + 10]);
        let counts =
            WalkCounts { blocks: 2, stale_blocks: 1, stale_bytes: 2 * BLOCK, empty_bytes: BLOCK + 10 };
        assert_eq!(walked(&file), (vec!["0: 20".to_string(), "4096: 21".to_string()], counts));
        file[BLOCK as usize + 41] ^= 1;
        let (parts, counts) = walked(&file);
        assert!(parts[1].starts_with("4096: CRC-32 of header and table"), "{parts:?}");
        assert_eq!((parts.len(), counts.blocks), (2, 1), "what follows damage is told all the same");
    }

    #[test]
    fn a_cut_block_is_damage() {
        let file = block(0, 1, 1);
        let (parts, counts) = walked(&file[..100]);
        assert_eq!((parts, counts.blocks), (vec!["0: the block is cut off".to_string()], 0));
        assert_eq!(walked(&[]), (vec![], WalkCounts::default()));
    }

    #[test]
    fn entries_are_told_with_where_their_bytes_are() {
        let partition = TopicPartition {
            topic: TopicId(Uuid::from_u128(7)),
            partition: PartitionIndex::from_wire(0).unwrap(),
        };
        let place = Place { segment: Offset::ZERO, file_position: 0 };
        let mut file = vec![0; block_size(2, 7)];
        let mut writer = BlockWriter::new(&mut file, 2);
        for bytes in [&b"abc"[..], b"defg"] {
            writer.bytes(partition, place, Offset::ZERO, [bytes].into_iter());
        }
        writer.finish(&header(0, 1, 1));
        let view = BlockView::decode(&file, 0).unwrap();
        for (at, _, bytes) in entries_at(&view) {
            let bytes = bytes.unwrap();
            assert_eq!(&file[at as usize..at as usize + bytes.len()], bytes);
        }
    }

    fn walked(file: &[u8]) -> (Vec<String>, WalkCounts) {
        let mut parts = Vec::new();
        let read = |position: u64, size: usize| {
            let from = (position as usize).min(file.len());
            Ok::<_, Infallible>(file[from..(from + size).min(file.len())].to_vec())
        };
        let counts = walk_journal_file(file.len() as u64, read, |part| {
            parts.push(match part {
                WalkedPart::Block(view) => format!("{}: {}", view.header.position, view.header.sequence.0),
                WalkedPart::Damaged { position, error } => format!("{position}: {error}"),
            });
            Ok(())
        });
        (parts, counts.unwrap())
    }

    fn block(position: u64, epoch: u64, sequence: u64) -> Vec<u8> {
        let mut out = vec![0; block_size(0, 0)];
        BlockWriter::new(&mut out, 0).finish(&header(position, epoch, sequence));
        out
    }

    fn header(position: u64, epoch: u64, sequence: u64) -> BlockHeader {
        let sequence = BlockSequence(sequence);
        let epoch = FileEpoch(epoch);
        let (flushed, needed) = (sequence, sequence);
        BlockHeader { shard: ShardId(0), file_size: 0, epoch, position, sequence, flushed, needed }
    }
}
