//! The files of a journal as a ring: where the next block goes, which blocks a flush covers, which
//! file is free again. Pure.
//!
//! ```text
//!            needed                     flushed                next
//!  ............│ written out to segments? no │ on stable storage? no │
//!  free files  │ files in use, oldest first ............. current    │
//! ```
//!
//! - A file is pinned by every partition with bytes in it that are not flushed in their segments, and
//!   by what it says of log starts until a checkpoint says the same.
//! - Files are freed oldest first, and only once a *flushed* block states a `needed` past them: a
//!   start that finds the first block of a new use torn must not miss what stood there before.
//! - Which blocks are flushed is stated by later blocks. Where there is none and somebody asks for it,
//!   a block without entries states it.
//! - Records of flushes pin nothing: what a start reads of a file that may be free it reads as long as it is
//!   there. Who stands in a file that gets free is told, and may be named again elsewhere.
//! - The last disk block of every file is kept for a block without entries. When no file is free and
//!   nothing else can be written, it states `needed`, so that the ring never blocks itself. In the only file
//!   there is it states the last flush.

use crate::log::journal::block::{BlockHeader, BlockSequence, FileEpoch};
use crate::log::plan::Slot;
use crate::types::ShardId;
use crate::types::limits::IO_ALIGNMENT;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes at the end of every file that only a block without entries may take.
const MARK_SIZE: u64 = IO_ALIGNMENT as u64;

/// One file of the ring, in the order of their making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIndex(pub u32);

/// How large a journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// Bytes of each file.
    pub file_size: u64,
    pub file_count_max: u32,
}

/// Where a block goes, and what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    pub file: FileIndex,
    pub header: BlockHeader,
}

/// Where a journal goes on: behind a block without entries that states that nothing before it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHead {
    pub mark: BlockPlace,
    /// Files that are filled with zeros or blocks.
    pub file_count: u32,
}

/// A flush of the journal: all blocks below `through` are on stable storage once every file of it
/// has been flushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalFlush {
    /// Exclusive.
    pub through: BlockSequence,
    pub files: Vec<FileIndex>,
}

/// How many bytes of a partition a file holds up to, counted since the partition was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    pub slot: Slot,
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct FileState {
    /// Exclusive; of a file that is no longer the current one.
    end: BlockSequence,
    /// The first block since which it has been pinned without a pause.
    pinned_from: BlockSequence,
    pins: BTreeMap<Slot, u64>,
    /// Whom its blocks say something of, pinned or not.
    named: BTreeSet<Slot>,
    /// The last block in it with a log start that no checkpoint has.
    log_start_in: Option<BlockSequence>,
}

impl FileState {
    fn is_pinned(&self) -> bool {
        !self.pins.is_empty() || self.log_start_in.is_some()
    }
}

#[derive(Debug)]
struct Issued {
    file: FileIndex,
    /// What its header says.
    flushed: BlockSequence,
    needed: BlockSequence,
    purpose: Purpose,
    written: bool,
}

/// Lives: one per shard with a journal.
/// Invariant: needed_flushed ≤ needed ≤ next, stated ≤ flushed ≤ next.
#[derive(Debug)]
pub struct JournalRing {
    shard: ShardId,
    limits: RingLimits,
    files: Vec<FileState>,
    /// Files asked for and not made yet.
    making: bool,
    free: VecDeque<FileIndex>,
    /// Oldest first; the last is the current one.
    used: VecDeque<FileIndex>,
    position: u64,
    next: BlockSequence,
    epoch: FileEpoch,
    /// Blocks from `flushed` on, in order.
    issued: VecDeque<Issued>,
    flushed: BlockSequence,
    flush_in_flight: bool,
    /// The highest `needed` that a flushed block states.
    needed_flushed: BlockSequence,
    /// The highest `flushed` that a flushed block states: damage below it is never taken for a torn tail.
    stated: BlockSequence,
    /// Behind the last block that has entries.
    entries_end: BlockSequence,
    /// Whom files name that were freed, and the ends of those files, until somebody takes them.
    freed: Vec<(Slot, BlockSequence)>,
}

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Somebody may wait for its flush.
    Commit,
    /// It has nothing but records of flushes.
    Records,
}

impl JournalRing {
    /// An empty ring whose blocks are numbered after everything that was ever written by this shard.
    pub fn new(shard: ShardId, limits: RingLimits, next: BlockSequence, epoch: FileEpoch) -> JournalRing {
        assert!(limits.file_count_max >= 2, "one file is filled while another is written out");
        assert!(limits.file_size.is_multiple_of(IO_ALIGNMENT as u64));
        JournalRing {
            shard,
            limits,
            files: Vec::new(),
            making: false,
            free: VecDeque::new(),
            used: VecDeque::new(),
            position: 0,
            next,
            epoch,
            issued: VecDeque::new(),
            flushed: next,
            flush_in_flight: false,
            needed_flushed: next,
            stated: next,
            entries_end: next,
            freed: Vec::new(),
        }
    }

    /// The ring of an earlier run, nothing of which is needed any more: goes on behind its mark.
    pub fn resume(limits: RingLimits, head: &JournalHead) -> JournalRing {
        let JournalHead { mark, file_count } = head;
        assert!(mark.file.0 < *file_count);
        let next = mark.header.sequence.next();
        let after = |at: u32| FileIndex((mark.file.0 + at) % file_count);
        JournalRing {
            files: (0..*file_count).map(|_| FileState::default()).collect(),
            used: VecDeque::from([mark.file]),
            free: (1..*file_count).map(after).collect(),
            position: mark.header.position + MARK_SIZE,
            needed_flushed: mark.header.sequence,
            ..JournalRing::new(mark.header.shard, limits, next, mark.header.epoch)
        }
    }

    /// The file that is to be made next, once; there is none beyond the limit.
    pub fn next_file(&mut self) -> Option<FileIndex> {
        let made = self.files.len() as u32;
        let short = self.free.is_empty() && made < self.limits.file_count_max;
        if !short || self.making {
            return None;
        }
        self.making = true;
        Some(FileIndex(made))
    }

    /// A file has its size and is filled with zeros.
    pub fn file_made(&mut self, file: FileIndex) {
        assert!(self.making);
        assert!(file.0 as usize == self.files.len(), "files are made in order");
        self.making = false;
        self.files.push(FileState::default());
        self.free.push_back(file);
    }

    /// A file could not be made, for lack of space; it is asked for again.
    pub fn file_not_made(&mut self) {
        self.making = false;
    }

    /// Whether blocks of these sizes find a place now, in this order.
    pub fn fits(&self, sizes: impl Iterator<Item = u64>) -> bool {
        let mut room = if self.used.is_empty() { 0 } else { self.room() };
        let mut free = self.free.len();
        for size in sizes {
            if size > room {
                let Some(left) = free.checked_sub(1) else { return false };
                free = left;
                room = self.limits.file_size - MARK_SIZE;
            }
            room -= size;
        }
        true
    }

    fn room(&self) -> u64 {
        (self.limits.file_size - MARK_SIZE).saturating_sub(self.position)
    }

    /// More than five eighths of it is in files that cannot be used now, or no more than a file is left.
    pub fn is_short(&self) -> bool {
        let used = (self.used.len() as u64).saturating_sub(1) * self.limits.file_size + self.position;
        let size = self.limits.file_size * self.limits.file_count_max as u64;
        used > (size / 8 * 5).min(size - self.limits.file_size)
    }

    /// The place of the next block; `pins` are the partitions whose bytes it holds. `None` when no
    /// file has room: write out, then try again.
    pub fn reserve(&mut self, size: u64, pins: impl Iterator<Item = Pin>) -> Option<BlockPlace> {
        let file = self.file_for(size)?;
        let state = &mut self.files[file.0 as usize];
        if !state.is_pinned() {
            state.pinned_from = self.next;
        }
        for pin in pins {
            let reached = state.pins.entry(pin.slot).or_insert_with(|| {
                state.named.insert(pin.slot);
                pin.bytes
            });
            assert!(*reached <= pin.bytes, "a partition went backwards in the journal");
            *reached = pin.bytes;
        }
        let place = self.place(file, size, Purpose::Commit);
        self.entries_end = self.next;
        Some(place)
    }

    /// The file that a block of this size goes to; another one is begun where it has to be.
    fn file_for(&mut self, size: u64) -> Option<FileIndex> {
        assert!(size > 0 && size.is_multiple_of(IO_ALIGNMENT as u64));
        assert!(size <= self.limits.file_size - MARK_SIZE, "a block larger than a journal file");
        if self.used.is_empty() || size > self.room() {
            self.begin_file()?;
        }
        Some(*self.used.back().expect("a file was begun"))
    }

    /// The place of a block of records, which name these partitions. `None` as before; they can wait. The only
    /// file is never freed: most of it is for changes, which may be what makes space for another one.
    pub fn reserve_records(&mut self, size: u64, slots: &[Slot]) -> Option<BlockPlace> {
        if self.files.len() == 1 && self.position + size > self.limits.file_size / 2 {
            return None;
        }
        let file = self.file_for(size)?;
        self.files[file.0 as usize].named.extend(slots);
        Some(self.place(file, size, Purpose::Records))
    }

    /// Some of those whom files name that were freed, each with the end of its file, once.
    pub fn take_freed(&mut self, count_max: usize) -> Vec<(Slot, BlockSequence)> {
        let left = self.freed.len().saturating_sub(count_max);
        self.freed.split_off(left)
    }

    /// The place of a block that says where logs begin: it is needed until a checkpoint was written.
    pub fn reserve_log_starts(&mut self, size: u64) -> Option<BlockPlace> {
        let place = self.reserve(size, std::iter::empty())?;
        self.files[place.file.0 as usize].log_start_in = Some(place.header.sequence);
        Some(place)
    }

    /// Where logs begin according to blocks below `through` stands in a flushed checkpoint.
    pub fn checkpointed(&mut self, through: BlockSequence) {
        for file in &self.used {
            let state = &mut self.files[file.0 as usize];
            state.log_start_in = state.log_start_in.filter(|block| *block >= through);
        }
        self.free_files();
    }

    /// The number of the next block: those below it have their places.
    pub fn next(&self) -> BlockSequence {
        self.next
    }

    /// Whether there is a file to write blocks to, now or once some are free again.
    pub fn has_file(&self) -> bool {
        !self.files.is_empty()
    }

    fn begin_file(&mut self) -> Option<()> {
        let file = self.free.pop_front()?;
        if let Some(last) = self.used.back() {
            self.files[last.0 as usize].end = self.next;
        }
        self.used.push_back(file);
        self.position = 0;
        self.epoch = self.epoch.next();
        Some(())
    }

    fn place(&mut self, file: FileIndex, size: u64, purpose: Purpose) -> BlockPlace {
        let needed = self.needed();
        let header = BlockHeader {
            shard: self.shard,
            epoch: self.epoch,
            position: self.position,
            sequence: self.next,
            flushed: self.flushed,
            needed,
            file_size: self.limits.file_size,
        };
        self.issued.push_back(Issued { file, flushed: self.flushed, needed, purpose, written: false });
        self.position += size;
        self.next = self.next.next();
        BlockPlace { file, header }
    }

    /// The place of a block without entries that is to be written now so that a file can be freed;
    /// `None` while there is nothing to state or a block with entries can say it.
    pub fn next_mark(&mut self) -> Option<BlockPlace> {
        let oldest = *self.used.front()?;
        let current = *self.used.back()?;
        let stated = self.issued.back().map_or(self.needed_flushed, |issued| issued.needed);
        let freeable = oldest != current && self.needed() >= self.files[oldest.0 as usize].end;
        if !self.free.is_empty() || !freeable || stated >= self.files[oldest.0 as usize].end {
            return None;
        }
        if self.position + MARK_SIZE > self.limits.file_size {
            return None;
        }
        Some(self.place(current, MARK_SIZE, Purpose::Commit))
    }

    /// Behind the last block with entries.
    pub fn entries_end(&self) -> BlockSequence {
        self.entries_end
    }

    /// Everything in blocks below it is flushed, and a block that says so is flushed too.
    pub fn stated(&self) -> BlockSequence {
        self.stated
    }

    /// Whether a block without entries has to state what was flushed: of what lies below `wanted` some is,
    /// and no block that was issued says it.
    pub fn needs_statement(&self, wanted: BlockSequence) -> bool {
        let issued = self.issued.back().map_or(self.stated, |issued| issued.flushed);
        issued < wanted.min(self.entries_end).min(self.flushed)
    }

    /// The place of such a block. `None` when no file has room.
    pub fn reserve_statement(&mut self) -> Option<BlockPlace> {
        if self.room() < MARK_SIZE && !self.last_block_is_spare() {
            self.begin_file()?;
        }
        let file = *self.used.back().expect("something was flushed");
        Some(self.place(file, MARK_SIZE, Purpose::Commit))
    }

    /// Whether the block that is kept for a mark may state the last flush: the only file is never freed by a
    /// mark of its own, and where there is no space for another one, a change that waits for the statement may
    /// be what makes some. Nothing else is left to be stated later: no block behind it has a place in the file.
    fn last_block_is_spare(&self) -> bool {
        let is_only = self.used.len() == 1 && self.free.is_empty();
        is_only && self.entries_end <= self.flushed && self.position + MARK_SIZE <= self.limits.file_size
    }

    /// Everything in blocks below it is flushed in its segments.
    pub fn needed(&self) -> BlockSequence {
        let pinned = self.used.iter().find(|file| self.files[file.0 as usize].is_pinned());
        pinned.map_or(self.next, |file| self.files[file.0 as usize].pinned_from)
    }

    /// A block is written whole.
    pub fn wrote(&mut self, sequence: BlockSequence) {
        let at = (sequence.0 - self.flushed.0) as usize;
        let issued = &mut self.issued[at];
        assert!(!issued.written, "a block was written twice");
        issued.written = true;
    }

    /// Every block below it is written: a start after a crash of the process finds no hole before it.
    pub fn written_through(&self) -> BlockSequence {
        let written = self.issued.iter().take_while(|issued| issued.written).count();
        BlockSequence(self.flushed.0 + written as u64)
    }

    /// The next flush to issue, if any written block waits for one and none is in flight.
    pub fn next_flush(&mut self) -> Option<JournalFlush> {
        if self.flush_in_flight {
            return None;
        }
        let written = self.issued.iter().take_while(|issued| issued.written);
        let mut files: Vec<FileIndex> = Vec::with_capacity(1);
        let mut count = 0;
        for issued in written {
            if files.last() != Some(&issued.file) {
                files.push(issued.file);
            }
            count += 1;
        }
        if count == 0 {
            return None;
        }
        self.flush_in_flight = true;
        Some(JournalFlush { through: BlockSequence(self.flushed.0 + count), files })
    }

    /// What the next flush would cover is nothing but records, and no file waits for it to get free.
    pub fn flush_may_wait(&self) -> bool {
        let mut written = self.issued.iter().take_while(|issued| issued.written);
        !self.free.is_empty() && written.all(|issued| issued.purpose == Purpose::Records)
    }

    pub fn flush_in_flight(&self) -> bool {
        self.flush_in_flight
    }

    /// A flush returned without error.
    pub fn flushed(&mut self, flush: &JournalFlush) {
        assert!(self.flush_in_flight, "a flush returned that was not issued");
        self.flush_in_flight = false;
        while self.flushed < flush.through {
            let issued = self.issued.pop_front().expect("every block below `next` was issued");
            assert!(issued.written);
            assert!(self.needed_flushed <= issued.needed, "`needed` moved back");
            self.needed_flushed = issued.needed;
            self.stated = issued.flushed;
            self.flushed = self.flushed.next();
        }
        self.free_files();
    }

    /// Everything that the partition had up to `bytes` is flushed in its segments.
    pub fn written_out(&mut self, slot: Slot, bytes: u64) {
        for file in &self.used {
            let pins = &mut self.files[file.0 as usize].pins;
            if pins.get(&slot).is_some_and(|reached| *reached <= bytes) {
                pins.remove(&slot);
            }
        }
        self.free_files();
    }

    /// The partition is gone: nothing of it is needed.
    pub fn forget(&mut self, slot: Slot) {
        for file in &self.used {
            self.files[file.0 as usize].pins.remove(&slot);
        }
        self.free_files();
    }

    fn free_files(&mut self) {
        while self.used.len() > 1 {
            let oldest = self.used[0];
            let state = &mut self.files[oldest.0 as usize];
            // Its last block may still be on its way to the disk.
            let settled = !state.is_pinned() && state.end <= self.flushed;
            if !settled || self.needed_flushed < state.end {
                return;
            }
            let end = state.end;
            self.freed.extend(std::mem::take(&mut state.named).into_iter().map(|slot| (slot, end)));
            self.used.pop_front();
            self.free.push_back(oldest);
        }
    }

    /// The partitions that keep the oldest file from being freed. O(partitions in it).
    pub fn oldest_pins(&self) -> impl Iterator<Item = Slot> + '_ {
        let oldest = self.used.iter().take(1).flat_map(|file| self.files[file.0 as usize].pins.keys());
        oldest.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u64 = 4096;

    #[test]
    fn sequence_numbers_run_on_from_file_to_file() {
        let mut ring = ring(4, 2);
        let places: Vec<BlockPlace> = (0..4).map(|_| reserve(&mut ring, 1, 1).unwrap()).collect();
        let seen: Vec<(u32, u64, u64)> = places
            .iter()
            .map(|place| (place.file.0, place.header.position / BLOCK, place.header.sequence.0))
            .collect();
        assert_eq!(seen, [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 4)]);
        assert!(places[0].header.epoch < places[3].header.epoch);
    }

    #[test]
    fn journal_of_an_earlier_run_goes_on_behind_its_mark() {
        let limits = RingLimits { file_size: 4 * BLOCK, file_count_max: 4 };
        let header = BlockHeader {
            shard: ShardId(0),
            epoch: FileEpoch(9),
            position: 2 * BLOCK,
            sequence: BlockSequence(50),
            flushed: BlockSequence(50),
            needed: BlockSequence(50),
            file_size: limits.file_size,
        };
        let mark = BlockPlace { file: FileIndex(1), header };
        let mut ring = JournalRing::resume(limits, &JournalHead { mark, file_count: 3 });
        assert_eq!(ring.next_file(), None, "there are files");
        let places: Vec<BlockPlace> = (0..6).map(|_| reserve(&mut ring, 1, 1).unwrap()).collect();
        let seen: Vec<(u32, u64, u64)> = places
            .iter()
            .map(|place| (place.file.0, place.header.position / BLOCK, place.header.epoch.0))
            .collect();
        // The last block of a file is kept for a mark.
        assert_eq!(seen, [(2, 0, 10), (2, 1, 10), (2, 2, 10), (0, 0, 11), (0, 1, 11), (0, 2, 11)]);
        assert_eq!(ring.next_file(), Some(FileIndex(3)), "the mark's own is not free yet");
        assert_eq!(places[0].header.sequence, BlockSequence(51));
        assert_eq!(places[0].header.flushed, BlockSequence(51));
    }

    #[test]
    fn flush_covers_the_written_prefix_only() {
        let mut ring = ring(8, 2);
        let places: Vec<BlockPlace> = (0..3).map(|_| reserve(&mut ring, 1, 1).unwrap()).collect();
        ring.wrote(places[0].header.sequence);
        ring.wrote(places[2].header.sequence);
        let flush = ring.next_flush().unwrap();
        assert_eq!(flush.through, places[1].header.sequence);
        assert_eq!(ring.next_flush(), None, "one flush at a time");
        ring.wrote(places[1].header.sequence);
        ring.flushed(&flush);
        assert_eq!(ring.next_flush().unwrap().through, places[2].header.sequence.next());
    }

    #[test]
    fn file_is_not_reused_before_its_segments_are_flushed_and_a_flushed_block_says_so() {
        let mut ring = ring(2, 2);
        commit(&mut ring, 7, 100);
        commit(&mut ring, 8, 50);
        assert_eq!(reserve(&mut ring, 9, 1), None, "both files are pinned");
        assert_eq!(ring.next_mark(), None, "nothing is written out");
        ring.written_out(Slot(7), 99);
        assert_eq!(ring.next_mark(), None, "one byte is missing");
        ring.written_out(Slot(7), 100);
        assert_eq!(reserve(&mut ring, 9, 1), None, "no flushed block says so yet");
        let mark = ring.next_mark().unwrap();
        assert_eq!((mark.file, mark.header.needed), (FileIndex(1), BlockSequence(2)));
        assert_eq!(ring.next_mark(), None, "once");
        ring.wrote(mark.header.sequence);
        assert_eq!(reserve(&mut ring, 9, 1), None, "the mark is not flushed yet");
        let flush = ring.next_flush().unwrap();
        ring.flushed(&flush);
        assert_eq!(reserve(&mut ring, 9, 1).unwrap().file, FileIndex(0));
    }

    #[test]
    fn last_flush_is_stated_by_a_block_of_its_own_where_no_other_comes() {
        let mut ring = ring(4, 2);
        let place = reserve(&mut ring, 7, 100).unwrap();
        let wanted = ring.entries_end();
        assert!(!ring.needs_statement(wanted), "it is not flushed yet");
        flush(&mut ring, place);
        assert!(!ring.needs_statement(place.header.sequence), "nobody asks for it");
        assert!(ring.needs_statement(wanted));
        let statement = ring.reserve_statement().unwrap();
        assert_eq!((statement.header.flushed, statement.header.position), (wanted, BLOCK));
        assert!(!ring.needs_statement(wanted), "once");
        assert_eq!(ring.stated(), place.header.sequence, "the statement is not flushed yet");
        flush(&mut ring, statement);
        assert_eq!(ring.stated(), wanted);
        assert!(!ring.needs_statement(ring.entries_end()), "it has no entries itself");
        commit(&mut ring, 7, 200);
        let later = reserve(&mut ring, 7, 300).unwrap();
        assert!(!ring.needs_statement(later.header.sequence), "this one says it");
    }

    #[test]
    fn statement_takes_no_block_that_is_kept_for_a_mark() {
        let mut ring = ring(2, 2);
        commit(&mut ring, 7, 100);
        let statement = ring.reserve_statement().unwrap();
        assert_eq!((statement.file, statement.header.position), (FileIndex(1), 0));
        flush(&mut ring, statement);
        assert_eq!(ring.reserve_statement(), None);
        ring.written_out(Slot(7), 100);
        let mark = ring.next_mark().unwrap();
        flush(&mut ring, mark);
        assert!(ring.reserve_statement().is_some());
    }

    /// The second file finds no space, and what waits for the statement may make some.
    #[test]
    fn statement_takes_the_last_block_of_the_only_file_once_it_says_everything() {
        let limits = RingLimits { file_size: 3 * BLOCK, file_count_max: 2 };
        let mut ring = JournalRing::new(ShardId(0), limits, BlockSequence(1), FileEpoch(0));
        let file = ring.next_file().unwrap();
        ring.file_made(file);
        let places = [1, 2].map(|bytes| reserve(&mut ring, 7, bytes).unwrap());
        assert_eq!(ring.next_file(), Some(FileIndex(1)), "it is asked for");
        flush(&mut ring, places[0]);
        let wanted = ring.entries_end();
        assert!(ring.needs_statement(wanted));
        assert_eq!(ring.reserve_statement(), None, "of the second block nothing could be stated any more");
        flush(&mut ring, places[1]);
        let statement = ring.reserve_statement().unwrap();
        assert_eq!((statement.file, statement.header.position), (file, 2 * BLOCK));
        flush(&mut ring, statement);
        assert_eq!(ring.stated(), wanted);
        assert!(!ring.needs_statement(wanted));
        assert_eq!(reserve(&mut ring, 7, 3), None);
        assert_eq!(ring.next_mark(), None);
        // There is space again, and the ring goes round as ever.
        ring.file_made(FileIndex(1));
        for (bytes, file) in [(3, 1), (4, 1), (5, 0), (6, 0), (7, 1)] {
            ring.written_out(Slot(7), bytes - 1);
            if let Some(mark) = ring.next_mark() {
                flush(&mut ring, mark);
            }
            let place = reserve(&mut ring, 7, bytes).unwrap();
            assert_eq!(place.file, FileIndex(file), "{bytes}");
            flush(&mut ring, place);
        }
    }

    #[test]
    fn a_partition_that_went_away_pins_nothing() {
        let mut ring = ring(2, 2);
        commit(&mut ring, 7, 100);
        commit(&mut ring, 8, 50);
        ring.forget(Slot(7));
        let mark = ring.next_mark().unwrap();
        ring.wrote(mark.header.sequence);
        let flush = ring.next_flush().unwrap();
        ring.flushed(&flush);
        assert!(ring.fits([BLOCK].into_iter()));
    }

    #[test]
    fn log_start_is_kept_until_a_checkpoint_has_it() {
        let mut ring = ring(2, 2);
        let place = ring.reserve_log_starts(BLOCK).unwrap();
        assert_eq!(place.header.needed, place.header.sequence);
        ring.wrote(place.header.sequence);
        let flush = ring.next_flush().unwrap();
        ring.flushed(&flush);
        commit(&mut ring, 8, 50);
        ring.written_out(Slot(8), 50);
        assert_eq!(ring.next_mark(), None, "the log start is in the oldest file");
        ring.checkpointed(place.header.sequence);
        assert_eq!(ring.next_mark(), None, "that checkpoint was begun before");
        ring.checkpointed(place.header.sequence.next());
        let mark = ring.next_mark().unwrap();
        assert!(mark.header.needed > place.header.sequence);
    }

    proptest! {
        /// Any order of appends, writes, flushes and write-outs: no block that a replay would need is
        /// ever overwritten, and the ring goes on once everything is written out.
        #[test]
        fn nothing_needed_is_overwritten(script in proptest::collection::vec((0u8..5, 0u32..4), 1..400)) {
            let mut ring = ring(5, 3);
            let mut bytes = [0u64; 4];
            let mut written_out = [0u64; 4];
            // What lies where: file and position -> sequence, slot, bytes.
            let mut disk: BTreeMap<(u32, u64), (BlockSequence, u32, u64)> = BTreeMap::new();
            let mut in_flight: Vec<BlockPlace> = Vec::new();
            let mut flush: Option<JournalFlush> = None;
            let mut flushed_needed = BlockSequence(0);
            let mut needed_of: BTreeMap<BlockSequence, BlockSequence> = BTreeMap::new();
            for (action, which) in script {
                match action {
                    0 | 1 => {
                        let slot = which as usize;
                        let size = BLOCK * (1 + which as u64 % 2);
                        let pin = Pin { slot: Slot(which), bytes: bytes[slot] + 10 };
                        if let Some(place) = ring.reserve(size, [pin].into_iter()) {
                            bytes[slot] += 10;
                            let at = (place.file.0, place.header.position);
                            // The whole file belongs to its new use from its first block on.
                            if at.1 == 0 {
                                for (_, (sequence, slot, reached)) in disk.extract_if(.., |key, _| key.0 == at.0) {
                                    prop_assert!(written_out[slot as usize] >= reached);
                                    prop_assert!(sequence < flushed_needed);
                                }
                            }
                            prop_assert!(disk.insert(at, (place.header.sequence, which, bytes[slot])).is_none());
                            needed_of.insert(place.header.sequence, place.header.needed);
                            in_flight.push(place);
                        }
                    }
                    2 if !in_flight.is_empty() => {
                        let place = in_flight.remove(which as usize % in_flight.len());
                        ring.wrote(place.header.sequence);
                    }
                    3 => {
                        if let Some(done) = flush.take() {
                            ring.flushed(&done);
                            let covered = needed_of.range(..done.through).map(|(_, needed)| *needed);
                            flushed_needed = covered.max().unwrap_or_default().max(flushed_needed);
                        }
                        flush = flush.or_else(|| ring.next_flush());
                    }
                    _ => {
                        let slot = which as usize;
                        written_out[slot] = bytes[slot];
                        ring.written_out(Slot(which), bytes[slot]);
                        if let Some(mark) = ring.next_mark() {
                            needed_of.insert(mark.header.sequence, mark.header.needed);
                            in_flight.push(mark);
                        }
                    }
                }
                while let Some(file) = ring.next_file() {
                    ring.file_made(file);
                }
            }
            for slot in 0..4u32 {
                ring.written_out(Slot(slot), bytes[slot as usize]);
            }
            for _ in 0..2 {
                in_flight.extend(ring.next_mark());
                in_flight.drain(..).for_each(|place| ring.wrote(place.header.sequence));
                if let Some(done) = flush.take() {
                    ring.flushed(&done);
                }
                if let Some(done) = ring.next_flush() {
                    ring.flushed(&done);
                }
            }
            prop_assert!(ring.fits([BLOCK].into_iter()), "the ring has blocked itself");
        }
    }

    fn ring(file_blocks: u64, files: u32) -> JournalRing {
        let limits = RingLimits { file_size: file_blocks * BLOCK, file_count_max: files };
        let mut ring = JournalRing::new(ShardId(0), limits, BlockSequence(1), FileEpoch(0));
        while let Some(file) = ring.next_file() {
            ring.file_made(file);
            if ring.files.len() < files as usize {
                ring.free.clear(); // As if it were in use: the next is asked for.
            }
        }
        ring.free = (0..files).map(FileIndex).collect();
        ring
    }

    fn reserve(ring: &mut JournalRing, slot: u32, bytes: u64) -> Option<BlockPlace> {
        ring.reserve(BLOCK, [Pin { slot: Slot(slot), bytes }].into_iter())
    }

    fn commit(ring: &mut JournalRing, slot: u32, bytes: u64) {
        let place = reserve(ring, slot, bytes).unwrap();
        flush(ring, place);
    }

    fn flush(ring: &mut JournalRing, place: BlockPlace) {
        ring.wrote(place.header.sequence);
        let flush = ring.next_flush().unwrap();
        ring.flushed(&flush);
    }
}
