//! One file's unflushed changes, and what is left of them when the power goes.
//!
//! ```text
//! sector          0    1    2    3    4
//! flushed         a    a    a
//! write 1              b    b    b            before: a a -      the size grows to 4 sectors
//! write 2                   c    c    c       before: b b -      the size grows to 5
//! cut             a    b|a  c|b|a ..          each write leaves each of its sectors or not; what it does
//!                                             not leave is as the last write before it left it
//! ```
//!
//! The file itself holds the newest bytes, so reads cost nothing here; each change keeps what it
//! replaced. The size follows the changes in their order, as a journal keeps them: a cut takes it back
//! to where it was after some of them. Bytes whose size is on disk and whose data is not are zeros.
//!
//! Pure: the caller reads and writes the file.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use crate::random::Random;

/// Bytes that any device writes whole or not at all. One with larger sectors writes more of them whole.
pub const SECTOR_SIZE: u64 = 512;

/// Bytes that one file may have unflushed; past it the oldest count as flushed, as a device writes
/// back what it has held for long.
pub const UNFLUSHED_MAX: usize = 256 << 20;

/// Whole sectors around `range`.
pub fn sectors_around(range: Range<u64>) -> Range<u64> {
    range.start - range.start % SECTOR_SIZE..range.end.next_multiple_of(SECTOR_SIZE)
}

/// A point in a file's order of changes; a flush that was asked for then covers all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

#[derive(Debug)]
struct Change {
    kind: Kind,
    /// Byte position of `before`, a sector's start.
    position: u64,
    /// What was there, in whole sectors; zeros behind the end of the file.
    before: Vec<u8>,
    size_before: u64,
    size_after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Survives or not, sector by sector.
    Write,
    /// Survives as a whole or not, in its order among the changes of the size.
    Resize,
}

/// Lives: one per file, as long as a name or a handle leads to it.
#[derive(Debug, Default)]
pub struct History {
    changes: VecDeque<Change>,
    /// Changes that were flushed so far.
    flushed: u64,
    unflushed_bytes: usize,
}

/// What a cut leaves: the file gets these bytes back, in this order, and then this size.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub restored: Vec<(u64, Vec<u8>)>,
    pub size: Option<u64>,
    pub sectors_unflushed: u64,
    pub sectors_dropped: u64,
    /// Of [`SECTOR_SIZE`], in one of the device's.
    sectors_per_piece: u64,
}

impl History {
    /// Bytes `position..` are about to be overwritten, of which `before` is what is there: whole
    /// sectors, zeros behind the end of the file.
    pub fn write(&mut self, position: u64, before: Vec<u8>, size_before: u64, size_after: u64) {
        assert!(size_before <= size_after, "a write never shrinks a file");
        self.push(Change { kind: Kind::Write, position, before, size_before, size_after });
    }

    /// The size is about to change; `before`: the sectors from the new end to the old one, if any.
    pub fn resize(&mut self, position: u64, before: Vec<u8>, size_before: u64, size_after: u64) {
        self.push(Change { kind: Kind::Resize, position, before, size_before, size_after });
    }

    fn push(&mut self, change: Change) {
        assert!(change.position.is_multiple_of(SECTOR_SIZE));
        assert!(change.before.len().is_multiple_of(SECTOR_SIZE as usize));
        self.unflushed_bytes += change.before.len();
        self.changes.push_back(change);
        while self.unflushed_bytes > UNFLUSHED_MAX {
            self.flushed(Mark(self.flushed + 1));
        }
    }

    /// Now; for a flush that starts.
    pub fn mark(&self) -> Mark {
        Mark(self.flushed + self.changes.len() as u64)
    }

    /// A flush that was asked for at `mark` is complete.
    pub fn flushed(&mut self, mark: Mark) {
        while self.flushed < mark.0 {
            let Some(change) = self.changes.pop_front() else { return };
            self.unflushed_bytes -= change.before.len();
            self.flushed += 1;
        }
    }

    /// Throws the dice over every unflushed change, of a device with sectors of so many bytes.
    pub fn cut(&self, sector_size: u64, random: &mut Random) -> Cut {
        assert!(sector_size.is_multiple_of(SECTOR_SIZE), "sectors of {sector_size} bytes");
        let mut cut = Cut { sectors_per_piece: sector_size / SECTOR_SIZE, ..Cut::default() };
        let Some(first) = self.changes.front() else { return cut };
        let resized = |change: &&Change| change.size_before != change.size_after;
        let sizes = self.changes.iter().filter(resized).count() as u64;
        let mut sizes_kept = random.below(sizes + 1);
        let mut size = first.size_before;
        // Whether each change of the size is kept, oldest first.
        let kept: Vec<bool> = self
            .changes
            .iter()
            .map(|change| {
                let keeps = resized(&change) && sizes_kept > 0;
                if keeps {
                    sizes_kept -= 1;
                    size = change.size_after;
                }
                keeps
            })
            .collect();
        // Newest first: a sector is decided by the newest change that survives on it.
        let mut decided = BTreeSet::new();
        for (change, kept) in self.changes.iter().zip(kept).rev() {
            let fate = match change.kind {
                Kind::Write => Fate::of_write(random),
                Kind::Resize if kept => Fate::Kept,
                Kind::Resize => Fate::Dropped,
            };
            cut.undo(change, fate, &mut decided, random);
        }
        cut.size = Some(size);
        cut
    }
}

/// What becomes of one write.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kept,
    Dropped,
    Torn,
}

impl Fate {
    /// Evenly: with sectors alone a large write would never survive whole behind one that did not.
    fn of_write(random: &mut Random) -> Fate {
        match random.below(3) {
            0 => Fate::Kept,
            1 => Fate::Dropped,
            _ => Fate::Torn,
        }
    }
}

impl Cut {
    fn undo(&mut self, change: &Change, fate: Fate, decided: &mut BTreeSet<u64>, random: &mut Random) {
        let first = change.position / SECTOR_SIZE;
        let (mut piece, mut keeps_piece) = (None, false);
        for (sector, before) in (first..).zip(change.before.chunks(SECTOR_SIZE as usize)) {
            self.sectors_unflushed += u64::from(change.kind == Kind::Write);
            let kept = match fate {
                Fate::Kept => true,
                Fate::Dropped => false,
                Fate::Torn => {
                    let of = Some(sector / self.sectors_per_piece);
                    if piece != of {
                        (piece, keeps_piece) = (of, random.one_in(2));
                    }
                    keeps_piece
                }
            };
            if decided.contains(&sector) {
                continue;
            }
            if kept {
                decided.insert(sector);
            } else {
                self.sectors_dropped += u64::from(change.kind == Kind::Write);
                self.restore(sector * SECTOR_SIZE, before);
            }
        }
    }

    /// Neighbours become one write.
    fn restore(&mut self, position: u64, bytes: &[u8]) {
        match self.restored.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == position => run.extend_from_slice(bytes),
            _ => self.restored.push((position, bytes.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECTOR: usize = SECTOR_SIZE as usize;

    /// A file in memory that tells its history what it does.
    #[derive(Default)]
    struct Model {
        bytes: Vec<u8>,
        history: History,
    }

    impl Model {
        fn write(&mut self, position: usize, bytes: &[u8]) {
            let size_before = self.bytes.len() as u64;
            let size_after = size_before.max((position + bytes.len()) as u64);
            let around = sectors_around(position as u64..(position + bytes.len()) as u64);
            self.history.write(around.start, self.sectors(around), size_before, size_after);
            self.bytes.resize(size_after as usize, 0);
            self.bytes[position..position + bytes.len()].copy_from_slice(bytes);
        }

        fn resize(&mut self, size: usize) {
            let size_before = self.bytes.len();
            let around = sectors_around(size.min(size_before) as u64..size_before as u64);
            self.history.resize(around.start, self.sectors(around), size_before as u64, size as u64);
            self.bytes.resize(size, 0);
        }

        fn flush(&mut self) {
            self.history.flushed(self.history.mark());
        }

        fn sectors(&self, around: Range<u64>) -> Vec<u8> {
            (around.start..around.end).map(|at| self.bytes.get(at as usize).copied().unwrap_or(0)).collect()
        }

        fn after_cut(&self, seed: u64) -> Vec<u8> {
            self.after_cut_of(SECTOR_SIZE, seed)
        }

        fn after_cut_of(&self, sector_size: u64, seed: u64) -> Vec<u8> {
            let cut = self.history.cut(sector_size, &mut Random::new(seed));
            let mut bytes = self.bytes.clone();
            for (position, restored) in cut.restored {
                let (start, end) = (position as usize, position as usize + restored.len());
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(&restored);
            }
            bytes.resize(cut.size.unwrap_or(self.bytes.len() as u64) as usize, 0);
            bytes
        }
    }

    #[test]
    fn a_device_with_larger_sectors_keeps_each_whole_or_not_at_all() {
        const LARGE: usize = 8 * SECTOR;
        let mut file = Model::default();
        file.write(0, &[1; 4 * LARGE]);
        file.flush();
        file.write(LARGE, &[2; 2 * LARGE]);
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let bytes = file.after_cut_of(LARGE as u64, seed);
            let sectors: Vec<u8> = bytes.chunks(LARGE).map(|sector| sector[0]).collect();
            assert!(bytes.chunks(LARGE).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            seen.insert(sectors);
        }
        assert_eq!(seen.len(), 4, "every subset of two: {seen:?}");
    }

    #[test]
    fn flushed_bytes_stay_and_the_rest_may_go_sector_by_sector() {
        let mut file = Model::default();
        file.write(0, &[1; 4 * SECTOR]);
        file.flush();
        file.write(SECTOR, &[2; 2 * SECTOR]);
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let bytes = file.after_cut(seed);
            assert_eq!((bytes.len(), bytes[0], bytes[3 * SECTOR]), (4 * SECTOR, 1, 1));
            assert!(bytes[SECTOR..2 * SECTOR].iter().all(|byte| *byte == bytes[SECTOR]), "whole sectors");
            seen.insert((bytes[SECTOR], bytes[2 * SECTOR]));
        }
        assert_eq!(seen, BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]), "every subset");
    }

    #[test]
    fn sector_written_twice_is_left_in_any_of_its_versions() {
        let mut file = Model::default();
        file.write(0, &[1; SECTOR]);
        file.flush();
        file.write(0, &[2; SECTOR]);
        file.write(0, &[3; SECTOR]);
        let seen: BTreeSet<u8> = (0..200).map(|seed| file.after_cut(seed)[0]).collect();
        assert_eq!(seen, BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn write_behind_the_mark_of_a_flush_is_not_flushed_by_it() {
        let mut file = Model::default();
        file.write(0, &[1; SECTOR]);
        let mark = file.history.mark();
        file.write(0, &[2; SECTOR]);
        file.history.flushed(mark);
        let seen: BTreeSet<u8> = (0..200).map(|seed| file.after_cut(seed)[0]).collect();
        assert_eq!(seen, BTreeSet::from([1, 2]));
    }

    #[test]
    fn size_goes_back_to_where_it_once_was() {
        let mut file = Model::default();
        file.write(0, &[1; 3 * SECTOR]);
        file.flush();
        file.resize(SECTOR + 7);
        file.resize(8 * SECTOR);
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let bytes = file.after_cut(seed);
            let ones = bytes.iter().take_while(|byte| **byte == 1).count();
            assert!(bytes[ones..].iter().all(|byte| *byte == 0));
            seen.insert((bytes.len(), ones));
        }
        let expected = [(3 * SECTOR, 3 * SECTOR), (SECTOR + 7, SECTOR + 7), (8 * SECTOR, SECTOR + 7)];
        assert_eq!(seen, BTreeSet::from(expected));
    }

    #[test]
    fn what_is_held_for_long_is_written_back() {
        let mut history = History::default();
        for _ in 0..3 {
            history.write(0, vec![0; UNFLUSHED_MAX / 2], UNFLUSHED_MAX as u64, UNFLUSHED_MAX as u64);
        }
        assert!(history.unflushed_bytes <= UNFLUSHED_MAX);
        assert_eq!(history.flushed, 1);
    }

    proptest! {
        /// Whatever is written around it: a flushed byte that is not written again is there, and every
        /// byte is one that was once there.
        #[test]
        fn nothing_flushed_is_lost_and_nothing_is_invented(
            flushed in prop::collection::vec((0..5000usize, 1..3000usize), 0..6),
            unflushed in prop::collection::vec((0..5000usize, 1..3000usize), 0..6),
            seed in any::<u64>(),
        ) {
            let mut file = Model::default();
            let mut versions: Vec<BTreeSet<u8>> = vec![BTreeSet::from([0]); 8000];
            for (value, (position, size)) in (1..).zip(&flushed) {
                file.write(*position, &vec![value; *size]);
            }
            file.flush();
            let durable = file.bytes.clone();
            for (at, byte) in durable.iter().enumerate() {
                versions[at] = BTreeSet::from([*byte]);
            }
            for (value, (position, size)) in (100..).zip(&unflushed) {
                file.write(*position, &vec![value; *size]);
                versions[*position..position + size].iter_mut().for_each(|seen| seen.extend([value]));
            }
            let left = file.after_cut(seed);
            prop_assert!(durable.len() <= left.len() && left.len() <= file.bytes.len());
            for (at, byte) in left.iter().enumerate() {
                prop_assert!(versions[at].contains(byte), "byte {at} is {byte}");
            }
            prop_assert_eq!(left, file.after_cut(seed), "the same seed, the same bytes");
        }
    }
}
