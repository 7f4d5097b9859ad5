//! Records of flushes: the journal says how far logs are flushed in their segments, where nothing else in it
//! does. A start that does not find that much has found damage, not a torn tail.
//!
//! ```text
//! segments flushed ─► is more flushed than blocks name? ─► waiting ─► a block of records ─► with the next flush
//! a file gets free ─► did only blocks in it name them? ──┘                                 or FLUSH_WITHIN later
//! ```
//!
//! What went through the journal needs none: its own blocks say it, once they are not needed any more. So
//! records are written of what went straight to the segments, one for each partition of a flush; and of
//! partitions whose last block is in a file that gets free, unless a checkpoint has them. One flush of ten
//! thousand partitions that the journal has held writes nothing; 64 MiB of a journal are followed by 56 bytes
//! for each partition in them at most.
//!
//! A record is a block of its own, written beside ticks at once, and nobody waits for it: not an answer, which
//! leaves when the segments are flushed, and not a tick, which would wait for its flush. A flush that the tick
//! behind it needs covers it; where none comes, one is issued after [`FLUSH_WITHIN`].
//!
//! So what was flushed last is not attested yet when it is acknowledged: after a kill during the time of one
//! small write, after a loss of power during [`FLUSH_WITHIN`] at most; longer while the journal has no room. It
//! is on stable storage all the same, and lacks only what tells damage to it from a torn tail. An answer that
//! waited for the record's flush too would take twice as long, for what the last block of the journal does not
//! have either: only a later one states its flush.
//!
//! No step grows with the partitions: at most [`RECORDS_PER_BLOCK`] are looked at in one.
//!
//! Absent: bounds. A partition waits once, however often it is flushed meanwhile. A checksum of what was flushed:
//! see [`flushed_ends`](crate::log::journal::flushed_ends).

use crate::log::commit::GroupCommit;
use crate::log::journal::block::{BlockSequence, ENTRY_SIZE, HEADER_SIZE, block_size};
use crate::log::journal::ring::BlockPlace;
use crate::log::plan::Slot;
use crate::types::Mono;
use std::collections::VecDeque;
use std::time::Duration;

/// Records of one block at most: some 56 KiB, and some 100 µs of work. One such block is written at a time.
pub const RECORDS_PER_BLOCK: usize = 1000;

/// How long records wait for the flush of something else.
///
/// Only where no tick comes meanwhile: one that comes while theirs is in flight waits for it.
pub const FLUSH_WITHIN: Duration = Duration::from_millis(100);

/// What blocks of the journal say of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Up to where, since it was opened.
    pub bytes: u64,
    /// The last of them.
    pub at: BlockSequence,
    /// That is a record: it was flushed by then.
    pub is_record: bool,
}

#[derive(Debug, Default)]
pub(super) struct FlushRecords {
    /// Oldest first.
    pub(super) waiting: VecDeque<Slot>,
    in_flight: Option<BlockSequence>,
    /// Some are written, and no flush was issued since.
    unflushed: bool,
    flush_by: Option<Mono>,
    overdue: bool,
    /// What records below it say is in a flushed checkpoint.
    checkpointed: BlockSequence,
}

impl FlushRecords {
    pub(super) fn checkpointed(&mut self, through: BlockSequence) {
        self.checkpointed = self.checkpointed.max(through);
    }

    /// A block was written. Whether it was one of these.
    pub(super) fn written(&mut self, sequence: BlockSequence) -> bool {
        let is_record = self.in_flight == Some(sequence);
        if is_record {
            self.in_flight = None;
            self.unflushed = true;
        }
        is_record
    }

    /// A flush of the journal was issued.
    pub(super) fn flushing(&mut self) {
        (self.unflushed, self.flush_by, self.overdue) = (false, None, false);
    }

    pub(super) fn flush_is_overdue(&self) -> bool {
        self.overdue
    }

    /// Takes notice of the time, and returns when it wants to be told again.
    pub(super) fn flush_deadline(&mut self, now: Mono) -> Option<Mono> {
        if self.unflushed && !self.overdue {
            let by = *self.flush_by.get_or_insert(now.after(FLUSH_WITHIN));
            self.overdue = by <= now;
        }
        self.flush_by.filter(|_| !self.overdue)
    }
}

impl GroupCommit {
    /// More of the partition may be flushed than the journal says.
    pub(super) fn await_record(&mut self, slot: Slot) {
        let progress = &mut self.partitions[slot.0 as usize];
        if self.journal.is_some() && progress.lacks_record() && !progress.queued.record {
            progress.queued.record = true;
            self.records.waiting.push_back(slot);
        }
    }

    /// The next block of records, and of which partitions; each says how far the partition is flushed now.
    /// O(records in it).
    pub fn next_record_block(&mut self) -> Option<(BlockPlace, Vec<Slot>)> {
        if self.failed || self.records.in_flight.is_some() {
            return None;
        }
        self.take_freed();
        let block_max = self.sizes.block_max as usize;
        let count_max = RECORDS_PER_BLOCK.min((block_max - HEADER_SIZE) / ENTRY_SIZE);
        let mut slots = Vec::new();
        while slots.len() < count_max
            && let Some(slot) = self.records.waiting.pop_front()
        {
            let progress = &mut self.partitions[slot.0 as usize];
            progress.queued.record = false;
            if progress.lacks_record() {
                slots.push(slot);
            }
        }
        if slots.is_empty() {
            return None;
        }
        let journal = self.journal.as_mut().expect("records wait with a journal");
        let Some(place) = journal.reserve_records(block_size(slots.len(), 0) as u64, &slots) else {
            for slot in slots.iter().rev() {
                self.partitions[slot.0 as usize].queued.record = true;
                self.records.waiting.push_front(*slot);
            }
            return None;
        };
        for slot in &slots {
            let progress = &mut self.partitions[slot.0 as usize];
            progress.named =
                Named { bytes: progress.stored.bytes, at: place.header.sequence, is_record: true };
        }
        self.records.in_flight = Some(place.header.sequence);
        Some((place, slots))
    }

    /// What only a file said that is written over soon has to be said again.
    fn take_freed(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        for (slot, file_end) in journal.take_freed(RECORDS_PER_BLOCK) {
            let named = &mut self.partitions[slot.0 as usize].named;
            let is_in_checkpoint = named.is_record && named.at < self.records.checkpointed;
            if named.at < file_end && !is_in_checkpoint {
                *named = Named::default();
                self.await_record(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::commit::DIRECT_SIZE;
    use crate::log::commit::changes::tests::{commit_of, make_files};
    use crate::log::journal::pack::pack;
    use crate::types::Offset;

    const SMALL: u64 = 100;

    #[test]
    fn what_went_straight_to_its_segment_is_recorded_once_it_is_flushed() {
        let mut commit = commit_of(64);
        let slot = commit.open(Offset::ZERO);
        append(&mut commit, slot, 1, DIRECT_SIZE);
        assert_eq!(commit.next_record_block(), None, "nothing is flushed yet");
        flush_segments(&mut commit);
        let (place, slots) = commit.next_record_block().unwrap();
        assert_eq!(slots, [slot]);
        append(&mut commit, slot, 2, DIRECT_SIZE);
        flush_segments(&mut commit);
        assert_eq!(commit.next_record_block(), None, "one at a time");
        commit.block_written(place.header.sequence);
        assert_eq!(commit.next_record_block().unwrap().1, [slot], "it was flushed again meanwhile");
    }

    #[test]
    fn what_the_journal_has_held_needs_no_record() {
        let mut commit = commit_of(64);
        let slot = commit.open(Offset::ZERO);
        append(&mut commit, slot, 1, SMALL);
        tick(&mut commit, SMALL);
        commit.write_out(slot);
        flush_segments(&mut commit);
        assert!(commit.is_idle(slot));
        assert_eq!(commit.next_record_block(), None);
    }

    #[test]
    fn record_waits_for_the_flush_of_a_tick_and_not_for_ever() {
        let mut commit = commit_of(64);
        let slots = [(); 2].map(|()| commit.open(Offset::ZERO));
        append(&mut commit, slots[0], 1, DIRECT_SIZE);
        flush_segments(&mut commit);
        let (place, _) = commit.next_record_block().unwrap();
        make_files(&mut commit);
        append(&mut commit, slots[1], 1, SMALL);
        assert!(commit.next_tick().is_some(), "no tick waits for a record");
        commit.block_written(place.header.sequence);
        assert_eq!(commit.next_journal_flush(), None);
        let by = commit.flush_deadline(Mono(7)).unwrap();
        assert_eq!(by, Mono(7).after(FLUSH_WITHIN));
        tick(&mut commit, SMALL);
        assert_eq!(commit.flush_deadline(by), None, "the tick's flush was theirs");
        append(&mut commit, slots[0], 2, DIRECT_SIZE);
        flush_segments(&mut commit);
        let (place, _) = commit.next_record_block().unwrap();
        commit.block_written(place.header.sequence);
        let by = commit.flush_deadline(by).unwrap();
        assert_eq!(commit.next_journal_flush(), None);
        assert_eq!(commit.flush_deadline(by), None);
        assert_eq!(commit.next_journal_flush().unwrap().through, place.header.sequence.next());
    }

    /// Two files of three blocks and a mark each.
    #[test]
    fn whom_only_a_freed_file_names_is_recorded_until_a_checkpoint_has_it() {
        let mut commit = commit_of(4);
        let [idle, busy] = [(); 2].map(|()| commit.open(Offset::ZERO));
        append(&mut commit, idle, 1, SMALL);
        tick(&mut commit, SMALL);
        commit.write_out(idle);
        flush_segments(&mut commit);
        let mut end = 0;
        let mut fill_a_file = |commit: &mut GroupCommit| {
            for _ in 0..3 {
                end += 1;
                append(commit, busy, end, SMALL);
                tick(commit, SMALL);
                commit.write_out(busy);
                flush_segments(commit);
            }
            let mark = commit.next_mark();
            mark.into_iter().for_each(|place| commit.block_written(place.header.sequence));
            flush_journal(commit);
        };
        fill_a_file(&mut commit);
        let (place, slots) = commit.next_record_block().unwrap();
        assert_eq!(slots, [idle], "the other one has newer blocks");
        commit.block_written(place.header.sequence);
        fill_a_file(&mut commit);
        fill_a_file(&mut commit);
        let (place, slots) = commit.next_record_block().unwrap();
        assert_eq!(slots, [idle], "nothing else says it");
        commit.block_written(place.header.sequence);
        let seen = commit.changes_seen().unwrap();
        commit.checkpointed(seen);
        fill_a_file(&mut commit);
        fill_a_file(&mut commit);
        assert_eq!(commit.next_record_block(), None);
    }

    #[test]
    fn many_partitions_take_several_blocks_one_after_the_other() {
        let mut commit = commit_of(64);
        let slots: Vec<Slot> = (0..RECORDS_PER_BLOCK + 1).map(|_| commit.open(Offset::ZERO)).collect();
        slots.iter().for_each(|slot| append(&mut commit, *slot, 1, DIRECT_SIZE));
        flush_segments(&mut commit);
        commit.close(slots[3]);
        for count in [RECORDS_PER_BLOCK, 0] {
            let block = commit.next_record_block();
            assert_eq!(
                block.as_ref().map_or(0, |(_, slots)| slots.len()),
                count,
                "the closed one is left out"
            );
            block.into_iter().for_each(|(place, _)| commit.block_written(place.header.sequence));
        }
    }

    #[test]
    fn records_wait_for_room_and_take_none_from_appends() {
        let mut commit = commit_of(2);
        let [direct, small] = [(); 2].map(|()| commit.open(Offset::ZERO));
        for end in [1, 2] {
            append(&mut commit, small, end, SMALL);
            tick(&mut commit, SMALL);
        }
        append(&mut commit, direct, 1, DIRECT_SIZE);
        flush_segments(&mut commit);
        assert!(commit.is_idle(small), "a full journal is written out");
        assert_eq!(commit.next_record_block(), None, "and is full until a mark says so");
        let mark = commit.next_mark().unwrap();
        commit.block_written(mark.header.sequence);
        flush_journal(&mut commit);
        assert_eq!(commit.next_record_block().unwrap().1, [direct]);
    }

    fn append(commit: &mut GroupCommit, slot: Slot, end: u64, size: u64) {
        commit.appended(slot, Offset::new(end).unwrap(), size);
    }

    /// One partition's append of this size, through the journal.
    fn tick(commit: &mut GroupCommit, size: u64) {
        make_files(commit);
        let plan = commit.next_tick().unwrap();
        let places = commit.begin_tick(&plan, &[0], &pack([size as usize].into_iter())).unwrap();
        places.into_iter().for_each(|place| commit.block_written(place.header.sequence));
        flush_journal(commit);
    }

    fn flush_journal(commit: &mut GroupCommit) {
        if let Some(flush) = commit.next_journal_flush() {
            commit.journal_flushed(&flush, &mut Vec::new());
        }
    }

    fn flush_segments(commit: &mut GroupCommit) {
        while let Some(plan) = commit.next_write() {
            commit.wrote(&plan, &[Offset::ZERO]);
        }
        let plan = commit.next_flush().unwrap();
        commit.flushed(&plan, &mut Vec::new(), &mut Vec::new());
    }
}
