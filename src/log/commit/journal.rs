//! The journal's half of the group commit: which appends one tick takes, where its blocks go, what their
//! flush makes durable, and the blocks without entries that state something.

use crate::log::commit::{Advance, GroupCommit, TICKS_MAX, TICKS_UNFLUSHED_MAX, Tick};
use crate::log::journal::block::BlockSequence;
use crate::log::journal::pack::PackedBlock;
use crate::log::journal::ring::{BlockPlace, FileIndex, JournalFlush, JournalRing, Pin};
use crate::log::plan::{TickEntry, TickPlan};

impl GroupCommit {
    /// The next tick, if one is due: what small appends have gathered. Nothing changes until
    /// [`begin_tick`](Self::begin_tick). O(partitions in it).
    pub fn next_tick(&mut self) -> Option<TickPlan> {
        let journal = self.journal.as_ref()?;
        let waits_for_writes = self.waiting_write_bytes > 0;
        let busy = (journal.flush_in_flight() && !waits_for_writes) || self.blocks_in_flight > 0;
        let ticks_max = if waits_for_writes { TICKS_UNFLUSHED_MAX } else { TICKS_MAX };
        if self.failed
            || self.journal_blocked
            || self.ticks.len() >= ticks_max
            || (busy && self.waiting_bytes < self.sizes.block_max)
        {
            return None;
        }
        // Behind a flush that nobody waits for, the journal is the shorter way whatever the size.
        let is_long = self.flush_in_flight && !self.flush_in_flight_is_urgent;
        let direct_size = if is_long { u64::MAX } else { self.direct_size };
        let mut entries = Vec::new();
        let mut size = 0;
        for slot in &self.waiting {
            let progress = &self.partitions[slot.0 as usize];
            if progress.pending() == 0 || progress.is_direct(direct_size) || progress.is_behind_a_write() {
                continue;
            }
            if size + progress.pending() > self.sizes.tick_max && size > 0 {
                break;
            }
            size += progress.pending();
            entries.push(TickEntry { slot: *slot, end: progress.appended.end, size: progress.pending() });
        }
        (!entries.is_empty()).then_some(TickPlan { entries })
    }

    /// Seals what the tick takes and gives its blocks their places; `None` when the journal has no
    /// room, which write-outs make. `items` says which entry each packed item belongs to.
    pub fn begin_tick(
        &mut self,
        plan: &TickPlan,
        items: &[usize],
        blocks: &[PackedBlock],
    ) -> Option<Vec<BlockPlace>> {
        let journal = self.journal.as_mut().expect("ticks are planned with a journal");
        if !journal.fits(blocks.iter().map(|block| block.size() as u64)) {
            self.journal_blocked = true;
            return None;
        }
        let from = |entry: usize| self.partitions[plan.entries[entry].slot.0 as usize].sealed.bytes;
        let mut reached: Vec<u64> = (0..plan.entries.len()).map(from).collect();
        let mut places = Vec::with_capacity(blocks.len());
        for block in blocks {
            let pins = block.parts.iter().map(|part| {
                let entry = items[part.item];
                reached[entry] += part.part.len() as u64;
                Pin { slot: plan.entries[entry].slot, bytes: reached[entry] }
            });
            let place = journal.reserve(block.size() as u64, pins);
            places.push(place.expect("the ring said that they fit"));
        }
        for (block, place) in blocks.iter().zip(&places) {
            for part in &block.parts {
                let slot = plan.entries[items[part.item]].slot;
                let named = &mut self.partitions[slot.0 as usize].named;
                (named.at, named.is_record) = (place.header.sequence, false);
            }
        }
        let through = places.last().expect("a tick has a block").header.sequence.next();
        self.blocks_in_flight += places.len();
        let mut entries = Vec::with_capacity(plan.entries.len());
        for (at, entry) in plan.entries.iter().enumerate() {
            let progress = &mut self.partitions[entry.slot.0 as usize];
            assert!(progress.appended.bytes == reached[at], "a tick took what it was not planned for");
            entries.push((entry.slot, progress.sealed.bytes, progress.appended));
            progress.ticks += 1;
            progress.sealed = progress.appended;
            progress.named.bytes = progress.sealed.bytes;
        }
        for entry in &plan.entries {
            self.uncount(entry.slot);
            self.queue(entry.slot);
        }
        // What the tick took stands at the head, among others that have nothing to write.
        while let Some(slot) = self.waiting.front().copied() {
            let progress = &mut self.partitions[slot.0 as usize];
            if progress.pending() > 0 && !progress.is_behind_a_write() {
                break;
            }
            progress.queued.waiting = false;
            self.waiting.pop_front();
        }
        self.ticks.push_back(Tick { through, entries, written: false });
        Some(places)
    }

    /// A block without entries that has to be written so that a journal file gets free.
    pub fn next_mark(&mut self) -> Option<BlockPlace> {
        let mark = self.journal.as_mut().filter(|_| !self.failed)?.next_mark()?;
        self.blocks_in_flight += 1;
        Some(mark)
    }

    /// Whatever the journal holds now is stated to be flushed, if need be by a block without entries, so that
    /// damage to it is not taken for a torn tail. Asked for now and then: appends that go on state it anyway.
    pub fn state_flushed(&mut self) {
        let end = self.journal.as_ref().map_or(BlockSequence(0), JournalRing::entries_end);
        self.state_through = self.state_through.max(end);
    }

    /// A block without entries that has to be written since nothing else states the last flush.
    pub fn next_statement(&mut self) -> Option<BlockPlace> {
        let journal = self.journal.as_mut().filter(|_| !self.failed)?;
        if !journal.needs_statement(self.state_through) {
            return None;
        }
        let place = journal.reserve_statement();
        match place {
            Some(_) => self.blocks_in_flight += 1,
            // Without a change that waits for it, it can come later.
            None => self.journal_blocked |= self.changes.are_waiting_for_statement(),
        }
        place
    }

    /// A block of the journal is written whole.
    pub fn block_written(&mut self, sequence: BlockSequence) {
        self.blocks_in_flight -= usize::from(!self.records.written(sequence));
        let journal = self.journal.as_mut().expect("it wrote a block");
        journal.wrote(sequence);
        let through = journal.written_through();
        for tick in self.ticks.iter_mut().filter(|tick| !tick.written && tick.through <= through) {
            tick.written = true;
            for (slot, from, to) in tick.entries.iter().filter(|_| !self.failed) {
                let progress = &mut self.partitions[slot.0 as usize];
                let grown = progress.advance_written(*from, *to);
                self.undurable_bytes -= grown;
                if grown > 0 {
                    self.written_advances.push(Advance { slot: *slot, durable_end: progress.durable.end });
                }
            }
        }
    }

    /// The next flush of the journal to issue.
    pub fn next_journal_flush(&mut self) -> Option<JournalFlush> {
        let journal = self.journal.as_mut().filter(|_| !self.failed)?;
        let is_waited_for = self.journal_blocked || self.changes.are_waiting_for_statement();
        let may_wait = journal.flush_may_wait() && !is_waited_for;
        if may_wait && !self.records.flush_is_overdue() {
            return None;
        }
        let flush = journal.next_flush()?;
        self.records.flushing();
        Some(flush)
    }

    /// A flush of the journal returned without error: what it covered is durable.
    pub fn journal_flushed(&mut self, flush: &JournalFlush, advances: &mut Vec<Advance>) {
        let journal = self.journal.as_mut().expect("it was flushed");
        journal.flushed(flush);
        let stated = journal.stated();
        self.journal_blocked = false;
        if self.failed {
            return;
        }
        self.changes.stated(stated);
        while self.ticks.front().is_some_and(|tick| tick.through <= flush.through) {
            let tick = self.ticks.pop_front().expect("looked at above");
            for (slot, from, to) in tick.entries {
                let progress = &mut self.partitions[slot.0 as usize];
                progress.ticks -= 1;
                assert!(from <= progress.flushed.bytes, "the journal holds bytes behind a hole");
                let grown = progress.advance_flushed(to);
                self.undurable_bytes -= grown;
                if grown > 0 {
                    advances.push(Advance { slot, durable_end: progress.durable.end });
                }
            }
        }
    }

    /// Whether the journal takes small appends now.
    #[cfg(test)]
    pub fn has_journal_room(&self) -> bool {
        let block = crate::log::journal::block::BLOCK_SIZE_MAX as u64;
        self.journal.as_ref().is_some_and(|journal| journal.fits([block].into_iter()))
    }

    /// The journal file that is to be made next.
    pub fn next_journal_file(&mut self) -> Option<FileIndex> {
        self.journal.as_mut().filter(|_| !self.failed)?.next_file()
    }

    /// A journal file was made, or could not be for lack of space.
    pub fn journal_file_made(&mut self, file: FileIndex, made: bool) {
        let journal = self.journal.as_mut().expect("it asked for a file");
        match made {
            true => journal.file_made(file),
            false => journal.file_not_made(),
        }
        self.journal_blocked = false;
    }
}
