//! What a start after a crash believes of a journal's files.
//!
//! ```text
//! sequence   needed ............ flushed ............ end
//!            │ every block must be │ whole blocks up to │ a torn tail: never acknowledged
//!            │ there and hold      │ the first gap      │
//! ```
//!
//! | what is found | below `flushed` | at or past it |
//! |---|---|---|
//! | a block is missing or its header or table is damaged | [`Verdict::Corrupt`] | the log of blocks ends here |
//! | whole blocks beyond such a gap | the same | ambiguous: not replayed, reported |
//! | bytes of one entry are damaged | that partition is corrupt | the log of blocks ends here |
//!
//! | what is found of the files | |
//! |---|---|
//! | one is shorter than any believed block says that they are | [`Verdict::FileCut`] |
//! | one is not there, and one of a higher number is | [`Verdict::FileGone`]: it was made when this was in use |
//! | the one of the highest number is gone; no file is left | not told |
//!
//! Blocks below `needed` are not redone; as long as they are there they still say how far logs were flushed
//! ([`flushed_ends`](crate::log::journal::flushed_ends)). Which of them belong to the run that ended is told by
//! their numbers: the mark of a start leaves one out.
//!
//! `flushed` and `needed` are the highest that any whole block states. The last flush before the
//! crash may be stated nowhere; a damaged block of that one flush cannot be told from a torn write. A
//! change that was carried out is never among them (`log::commit::changes`), nor is what was flushed
//! before the last checkpoint.

use crate::log::journal::block::{BlockError, BlockHeader, BlockSequence, BlockView, FileEpoch, stated_size};
use crate::log::journal::ring::{BlockPlace, FileIndex, RingLimits};
use crate::types::ShardId;
use crate::types::limits::IO_ALIGNMENT;
use std::collections::BTreeMap;

/// Where a whole block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundBlock {
    pub file: FileIndex,
    pub position: u64,
    pub size: usize,
}

/// How many files a journal has, if they are those of this configuration: then it is gone on with.
pub fn files_of(sizes: &BTreeMap<FileIndex, u64>, limits: &RingLimits) -> Option<u32> {
    let count = sizes.len() as u32;
    let in_order = (0..).zip(sizes).all(|(at, (file, size))| file.0 == at && *size == limits.file_size);
    (0 < count && count <= limits.file_count_max && in_order).then_some(count)
}

/// Upper bounds of what was ever written to a journal, from the first block of each of its files: after
/// a clean stop nothing in them is needed, and they are not read through.
///
/// `None` when there is no block.
pub fn bounds_of_first_blocks(
    headers: impl IntoIterator<Item = BlockHeader>,
    file_size: u64,
    file_count: u32,
) -> Option<(BlockSequence, FileEpoch)> {
    // Within a file both grow by one a block at most, by two with a mark, or jump to what another file has had.
    let blocks_max = 2 * (file_size / IO_ALIGNMENT as u64) * (u64::from(file_count) + 1);
    let bounds = |header: BlockHeader| (header.sequence.0 + blocks_max, header.epoch.0 + blocks_max);
    let highest =
        |(sequence, epoch): (u64, u64), other: (u64, u64)| (sequence.max(other.0), epoch.max(other.1));
    let (sequence, epoch) = headers.into_iter().map(bounds).reduce(highest)?;
    Some((BlockSequence(sequence), FileEpoch(epoch)))
}

/// The mark that a start writes at the head of an empty journal, or of one that nobody needs.
pub fn first_mark(shard: ShardId, last: BlockSequence, epoch: FileEpoch, file_size: u64) -> BlockPlace {
    mark_at(shard, FileIndex(0), 0, mark_sequence(last), epoch.next(), file_size)
}

/// A number is left out before it: what stands there is of another run.
const fn mark_sequence(last: BlockSequence) -> BlockSequence {
    last.next().next()
}

fn mark_at(
    shard: ShardId,
    file: FileIndex,
    position: u64,
    sequence: BlockSequence,
    epoch: FileEpoch,
    file_size: u64,
) -> BlockPlace {
    let (flushed, needed) = (sequence, sequence);
    let header = BlockHeader { shard, epoch, position, sequence, flushed, needed, file_size };
    BlockPlace { file, header }
}

/// Why no more blocks of a file were believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The file is full, or what follows was left by an earlier use or never written.
    End,
    Damaged(BlockError),
}

/// The journal's state as its blocks tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was flushed is there; what follows the last block was never acknowledged.
    Whole,
    /// The same, and whole blocks lie beyond the first gap: an interrupted write of several.
    BeyondGap { first: BlockSequence },
    /// A block that was flushed and is needed is gone.
    Corrupt { missing: BlockSequence },
    /// The file has fewer bytes than it was made with: what it held is not known.
    FileCut { file: FileIndex, size: u64, made: u64 },
    /// The file is gone, while one that was made after it is there.
    FileGone { file: FileIndex },
}

impl Verdict {
    /// What was committed may be gone: the journal is kept, and its partitions are offline.
    pub fn is_lost(&self) -> bool {
        match self {
            Verdict::Whole | Verdict::BeyondGap { .. } => false,
            Verdict::Corrupt { .. } | Verdict::FileCut { .. } | Verdict::FileGone { .. } => true,
        }
    }
}

/// Lives: while a shard's journal is looked through, file by file, then block by block.
#[derive(Debug, Default)]
pub struct Replay {
    blocks: BTreeMap<BlockSequence, FoundBlock>,
    flushed: BlockSequence,
    needed: BlockSequence,
    last: BlockSequence,
    epoch: FileEpoch,
    /// A file has a block, and its first one does not hold.
    is_headless: bool,
    /// What each file has, and what the blocks say that all of them have; 0: none says it.
    sizes: BTreeMap<FileIndex, u64>,
    file_size: u64,
}

impl Replay {
    /// Looks through one file. `read` gives up to `size` bytes at a position, fewer at its end.
    ///
    /// Errors: only what `read` fails with. Reads each block once and, beyond the first that does not
    /// hold, one disk block at a time.
    pub fn scan_file<E>(
        &mut self,
        file: FileIndex,
        file_size: u64,
        mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
    ) -> Result<Stop, E> {
        self.sizes.insert(file, file_size);
        let mut position = 0;
        let mut expected: Option<(FileEpoch, BlockSequence)> = None;
        let mut stop = Stop::End;
        while position + IO_ALIGNMENT as u64 <= file_size {
            let found = read_block(position, &mut read)?;
            let (step, error) = match found {
                Ok((header, size)) => {
                    let follows = expected.is_none_or(|(epoch, next)| header.0 >= epoch && header.1 >= next);
                    if follows {
                        self.is_headless |= expected.is_none() && position > 0;
                        expected = Some((header.0, header.1.next()));
                        self.take(header, FoundBlock { file, position, size });
                        (size as u64, None)
                    } else {
                        (IO_ALIGNMENT as u64, None) // Left by an earlier use of the file, or run.
                    }
                }
                Err(error) => (IO_ALIGNMENT as u64, Some(error)),
            };
            if let Some(error) = error
                && error != BlockError::Magic
                && stop == Stop::End
            {
                stop = Stop::Damaged(error);
            }
            position += step;
        }
        Ok(stop)
    }

    fn take(&mut self, header: Stated, block: FoundBlock) {
        let Stated(epoch, sequence, flushed, needed, file_size) = header;
        self.blocks.insert(sequence, block);
        self.file_size = self.file_size.max(file_size);
        self.flushed = self.flushed.max(flushed);
        self.needed = self.needed.max(needed);
        self.last = self.last.max(sequence);
        self.epoch = self.epoch.max(epoch);
    }

    /// The block that a start writes once everything is replayed: it says that nothing before it is
    /// needed, and destroys nothing that is. `None` where there is no such place, and where a file's first
    /// block has been lost: after a clean stop the first blocks alone say what numbers were used
    /// ([`bounds_of_first_blocks`]), and what is behind them would be taken for what comes next.
    pub fn mark(&self, shard: ShardId, file_size: u64) -> Option<BlockPlace> {
        if self.is_headless {
            return None;
        }
        let Some((_, last)) = self.blocks().last() else {
            return self.blocks.is_empty().then(|| first_mark(shard, self.last, self.epoch, file_size));
        };
        let position = last.position + last.size as u64;
        let fits = position + IO_ALIGNMENT as u64 <= file_size;
        let (sequence, epoch) = (mark_sequence(self.last), self.epoch.next());
        fits.then(|| mark_at(shard, last.file, position, sequence, epoch, file_size))
    }

    /// The end of the blocks that are believed, exclusive, from `needed` on without a gap.
    fn end(&self) -> BlockSequence {
        let mut end = self.needed;
        for sequence in self.blocks.range(self.needed..).map(|(sequence, _)| *sequence) {
            if sequence != end {
                break;
            }
            end = end.next();
        }
        end
    }

    /// The first file that does not have what it was made with.
    fn lost_file(&self) -> Option<Verdict> {
        // All are of one size; where not even the first block of any is there, the largest has it.
        let largest = self.sizes.values().copied().max();
        let made = if self.blocks.is_empty() { largest? } else { self.file_size };
        (0..).map(FileIndex).zip(&self.sizes).find_map(|(expected, (file, size))| {
            if *file != expected {
                return Some(Verdict::FileGone { file: expected });
            }
            (*size < made).then_some(Verdict::FileCut { file: *file, size: *size, made })
        })
    }

    pub fn verdict(&self) -> Verdict {
        if let Some(lost) = self.lost_file() {
            return lost;
        }
        let end = self.end();
        if end < self.flushed {
            return Verdict::Corrupt { missing: end };
        }
        match self.blocks.range(end..).next() {
            Some((first, _)) => Verdict::BeyondGap { first: *first },
            None => Verdict::Whole,
        }
    }

    /// The blocks to replay, in their order, whether or not they were flushed.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockSequence, FoundBlock)> + '_ {
        let end = self.end();
        self.blocks.range(self.needed..end).map(|(sequence, block)| (*sequence, *block))
    }

    /// The blocks of the run that ended, in their order: those to replay, and of those that are not needed any
    /// more what is left without a gap before them.
    pub fn run(&self) -> impl Iterator<Item = (BlockSequence, FoundBlock)> + '_ {
        let end = self.end();
        let mut first = end;
        for sequence in self.blocks.range(..end).rev().map(|(sequence, _)| *sequence) {
            if sequence.next() != first {
                break;
            }
            first = sequence;
        }
        self.blocks.range(first..end).map(|(sequence, block)| (*sequence, *block))
    }

    /// Whether the block is replayed; everything in those before is flushed in its segments.
    pub fn is_needed(&self, sequence: BlockSequence) -> bool {
        self.needed <= sequence
    }

    /// Whether the block was flushed: damage in it is corruption, never a tail.
    pub fn is_flushed(&self, sequence: BlockSequence) -> bool {
        sequence < self.flushed
    }
}

/// Epoch, sequence, flushed, needed, size of the file.
#[derive(Clone, Copy)]
struct Stated(FileEpoch, BlockSequence, BlockSequence, BlockSequence, u64);

type Found = Result<(Stated, usize), BlockError>;

fn read_block<E>(position: u64, read: &mut impl FnMut(u64, usize) -> Result<Vec<u8>, E>) -> Result<Found, E> {
    let head = read(position, IO_ALIGNMENT)?;
    let size = match stated_size(&head) {
        Ok(size) => size,
        Err(error) => return Ok(Err(error)),
    };
    let bytes = if size > head.len() { read(position, size)? } else { head };
    Ok(BlockView::decode(&bytes, position).map(|view| {
        let BlockHeader { epoch, sequence, flushed, needed, file_size, .. } = view.header;
        (Stated(epoch, sequence, flushed, needed, file_size), view.size)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::journal::block::{BlockHeader, BlockWriter};
    use crate::types::ShardId;

    #[test]
    fn needed_blocks_are_replayed_in_order_over_files() {
        let mut disk = Disk::new(2, 4);
        disk.block(1, 0, 1, 5, (5, 4)); // file 1 was begun later
        disk.block(0, 0, 0, 3, (3, 2));
        disk.block(0, 1, 0, 4, (4, 4));
        let replay = disk.scan();
        assert_eq!(replay.verdict(), Verdict::Whole);
        assert_eq!(sequences(&replay), [4, 5]);
        let mark = replay.mark(ShardId(0), 4 * IO_ALIGNMENT as u64).unwrap();
        assert_eq!((mark.file, mark.header.position), (FileIndex(1), IO_ALIGNMENT as u64));
        assert_eq!((mark.header.sequence, mark.header.epoch), (BlockSequence(7), FileEpoch(2)));
    }

    #[test]
    fn blocks_of_an_earlier_use_are_not_replayed() {
        let mut disk = Disk::new(1, 4);
        disk.block(0, 0, 7, 20, (20, 20));
        disk.block(0, 1, 6, 12, (12, 10));
        disk.block(0, 2, 6, 13, (13, 10));
        let replay = disk.scan();
        assert_eq!((replay.verdict(), sequences(&replay)), (Verdict::Whole, vec![20]));
    }

    /// The mark of a start stands behind the last block that is believed; what lay beyond it is left of
    /// another run, whatever it says.
    #[test]
    fn nothing_before_a_mark_or_left_behind_it_is_replayed_again() {
        let mut disk = Disk::new(2, 6);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.block(0, 1, 1, 2, (1, 1));
        disk.block(0, 2, 1, 3, (1, 1)); // Torn.
        disk.damage(0, 2);
        disk.block(0, 3, 1, 4, (1, 1));
        disk.block(1, 0, 2, 5, (1, 1));
        let replay = disk.scan();
        assert_eq!(sequences(&replay), [1, 2]);
        let mark = replay.mark(ShardId(0), 6 * IO_ALIGNMENT as u64).unwrap();
        assert_eq!((mark.file, mark.header.position), (FileIndex(0), 2 * IO_ALIGNMENT as u64));
        assert_eq!((mark.header.sequence, mark.header.epoch), (BlockSequence(7), FileEpoch(3)));
        disk.block(0, 2, 3, 7, (7, 7));
        let replay = disk.scan();
        assert_eq!((replay.verdict(), sequences(&replay)), (Verdict::Whole, vec![7]));
        let again = replay.mark(ShardId(0), 6 * IO_ALIGNMENT as u64).unwrap();
        assert_eq!(again.header.position, 3 * IO_ALIGNMENT as u64, "over what was left there");
        assert_eq!((again.header.sequence, again.header.epoch), (BlockSequence(9), FileEpoch(4)));
        assert_eq!(replay.mark(ShardId(0), 3 * IO_ALIGNMENT as u64), None, "no room behind it");
    }

    /// Lost power has taken the first block of a new file and left another one. A mark behind that would stand
    /// until the next start after a clean stop, which begins at the head, and below the numbers that it finds.
    #[test]
    fn journal_that_has_lost_the_first_block_of_a_file_is_made_anew() {
        let mut disk = Disk::new(2, 6);
        disk.block(0, 2, 1, 3, (1, 1));
        let replay = disk.scan();
        assert_eq!(replay.mark(ShardId(0), 6 * IO_ALIGNMENT as u64), None);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.block(0, 1, 1, 2, (1, 1));
        assert!(disk.scan().mark(ShardId(0), 6 * IO_ALIGNMENT as u64).is_some());
        disk.block(1, 3, 2, 9, (1, 1));
        assert_eq!(disk.scan().mark(ShardId(0), 6 * IO_ALIGNMENT as u64), None, "whichever file it is");
    }

    /// What a start has marked is of another run: its partitions may have had another core since.
    #[test]
    fn run_goes_back_to_the_first_gap_or_the_mark_of_its_start() {
        let mut disk = Disk::new(2, 6);
        disk.block(0, 0, 1, 1, (1, 1));
        let mark = disk.scan().mark(ShardId(0), 6 * IO_ALIGNMENT as u64).unwrap().header;
        let (first, epoch) = (mark.sequence.0, mark.epoch.0);
        disk.block(0, 1, epoch, first, (first, first));
        for at in 1..4 {
            let sequence = first + at;
            disk.block(0, at as usize + 1, epoch, sequence, (sequence, sequence));
        }
        let run = |disk: &Disk| disk.scan().run().map(|(sequence, _)| sequence.0).collect::<Vec<_>>();
        assert_eq!(run(&disk), [first, first + 1, first + 2, first + 3]);
        assert_eq!(sequences(&disk.scan()), [first + 3]);
        assert!(!disk.scan().is_needed(BlockSequence(first + 2)));
        disk.damage(0, 2);
        assert_eq!(run(&disk), [first + 2, first + 3], "what stood there said something of those before");
        disk.block(1, 0, epoch + 1, first + 5, (first, first));
        assert_eq!(run(&disk), [first + 2, first + 3], "nothing beyond a gap");
    }

    /// The first blocks alone are known: what a file has behind its own is never taken for newer.
    #[test]
    fn stale_blocks_are_older_than_a_mark_after_a_clean_stop() {
        let mut disk = Disk::new(2, 6);
        disk.block(0, 0, 3, 20, (20, 20));
        disk.block(0, 1, 7, 24, (24, 24)); // Behind three starts.
        disk.block(0, 2, 7, 25, (24, 24));
        disk.block(1, 0, 2, 10, (10, 10));
        let header = |file: usize| BlockView::decode(&disk.files[file], 0).unwrap().header;
        let file_size = 6 * IO_ALIGNMENT as u64;
        let (last, epoch) = bounds_of_first_blocks([header(0), header(1)], file_size, 2).unwrap();
        let mark = first_mark(ShardId(0), last, epoch, file_size).header;
        disk.block(0, 0, mark.epoch.0, mark.sequence.0, (mark.flushed.0, mark.needed.0));
        assert_eq!(sequences(&disk.scan()), [mark.sequence.0]);
        disk.block(0, 1, mark.epoch.0, mark.sequence.0 + 1, (mark.flushed.0, mark.needed.0));
        assert_eq!(sequences(&disk.scan()), [mark.sequence.0, mark.sequence.0 + 1]);
    }

    #[test]
    fn torn_tail_ends_the_replay_and_is_no_corruption() {
        let mut disk = Disk::new(1, 4);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.block(0, 1, 1, 2, (2, 1));
        disk.damage(0, 1);
        let replay = disk.scan();
        assert_eq!((replay.verdict(), sequences(&replay)), (Verdict::Whole, vec![1]));
    }

    #[test]
    fn damage_below_the_flush_mark_is_corruption() {
        let mut disk = Disk::new(1, 4);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.block(0, 1, 1, 2, (2, 1));
        disk.block(0, 2, 1, 3, (3, 1)); // says that 2 was flushed
        disk.damage(0, 1);
        assert_eq!(disk.scan().verdict(), Verdict::Corrupt { missing: BlockSequence(2) });
    }

    #[test]
    fn damage_below_what_is_needed_is_none() {
        let mut disk = Disk::new(1, 4);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.block(0, 1, 1, 2, (2, 2));
        disk.damage(0, 0);
        let replay = disk.scan();
        assert_eq!((replay.verdict(), sequences(&replay)), (Verdict::Whole, vec![2]));
    }

    #[test]
    fn block_beyond_a_gap_past_the_mark_is_not_replayed() {
        let mut disk = Disk::new(1, 4);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.block(0, 1, 1, 2, (1, 1));
        disk.block(0, 2, 1, 3, (1, 1));
        disk.damage(0, 1);
        let replay = disk.scan();
        assert_eq!(replay.verdict(), Verdict::BeyondGap { first: BlockSequence(3) });
        assert_eq!(sequences(&replay), [1]);
    }

    /// All that its last block stated was there, and the blocks behind it went with the bytes.
    #[test]
    fn cut_file_is_a_loss_whichever_block_states_its_size() {
        let mut disk = Disk::new(2, 4);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.block(0, 1, 1, 2, (2, 1));
        disk.block(1, 0, 2, 3, (3, 1));
        assert_eq!(disk.scan().verdict(), Verdict::Whole);
        let made = 4 * IO_ALIGNMENT as u64;
        for (file, size) in
            [(0, 2), (0, 0), (1, 1), (1, 0)].map(|(file, blocks)| (file, blocks * IO_ALIGNMENT))
        {
            for size in [size, size + 700] {
                let mut cut = disk.clone();
                cut.files[file].truncate(size);
                let verdict = Verdict::FileCut { file: FileIndex(file as u32), size: size as u64, made };
                assert_eq!(cut.scan().verdict(), verdict);
                assert!(verdict.is_lost());
            }
        }
        let mut longer = disk.clone();
        longer.files[1].extend([0; IO_ALIGNMENT]);
        assert_eq!(longer.scan().verdict(), Verdict::Whole);
    }

    #[test]
    fn cut_file_is_a_loss_when_no_block_is_left() {
        let mut disk = Disk::new(2, 4);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.files[0].truncate(100);
        let made = 4 * IO_ALIGNMENT as u64;
        assert_eq!(disk.scan().verdict(), Verdict::FileCut { file: FileIndex(0), size: 100, made });
    }

    #[test]
    fn blocks_of_the_first_version_say_nothing_of_their_file() {
        let mut disk = Disk::new(2, 4);
        disk.file_size = 0;
        disk.block(0, 0, 1, 1, (1, 1));
        disk.files[0].truncate(2 * IO_ALIGNMENT);
        assert_eq!(disk.scan().verdict(), Verdict::Whole);
    }

    #[test]
    fn file_that_is_gone_below_another_is_a_loss() {
        let mut disk = Disk::new(3, 2);
        disk.block(0, 0, 1, 1, (1, 1));
        disk.block(1, 0, 2, 2, (2, 1)); // The last flush is stated nowhere.
        for gone in [0, 1] {
            let left = Disk { gone: vec![gone], ..disk.clone() };
            assert_eq!(left.scan().verdict(), Verdict::FileGone { file: FileIndex(gone as u32) });
            assert!(left.scan().verdict().is_lost());
        }
        let unused = Disk { gone: vec![2], ..disk.clone() };
        assert_eq!(unused.scan().verdict(), Verdict::Whole);
    }

    #[derive(Clone)]
    struct Disk {
        file_size: u64,
        files: Vec<Vec<u8>>,
        gone: Vec<usize>,
    }

    impl Disk {
        fn new(files: usize, blocks: usize) -> Disk {
            let size = blocks * IO_ALIGNMENT;
            Disk { file_size: size as u64, files: vec![vec![0; size]; files], gone: Vec::new() }
        }

        fn block(
            &mut self,
            file: usize,
            at: usize,
            epoch: u64,
            sequence: u64,
            (flushed, needed): (u64, u64),
        ) {
            let header = BlockHeader {
                shard: ShardId(0),
                epoch: FileEpoch(epoch),
                position: (at * IO_ALIGNMENT) as u64,
                sequence: BlockSequence(sequence),
                flushed: BlockSequence(flushed),
                needed: BlockSequence(needed),
                file_size: self.file_size,
            };
            let mut out = vec![0; IO_ALIGNMENT];
            BlockWriter::new(&mut out, 0).finish(&header);
            self.files[file][at * IO_ALIGNMENT..(at + 1) * IO_ALIGNMENT].copy_from_slice(&out);
        }

        fn damage(&mut self, file: usize, at: usize) {
            self.files[file][at * IO_ALIGNMENT + 41] ^= 1;
        }

        fn scan(&self) -> Replay {
            let mut replay = Replay::default();
            for (at, file) in self.files.iter().enumerate().filter(|(at, _)| !self.gone.contains(at)) {
                let read = |position: u64, size: usize| {
                    let end = (position as usize + size).min(file.len());
                    Ok::<_, std::convert::Infallible>(file[position as usize..end].to_vec())
                };
                replay.scan_file(FileIndex(at as u32), file.len() as u64, read).unwrap();
            }
            replay
        }
    }

    fn sequences(replay: &Replay) -> Vec<u64> {
        replay.blocks().map(|(sequence, _)| sequence.0).collect()
    }
}
