//! Group commit of one shard: what is written where and when, which flush covers which write, and
//! how far each partition is durable. Pure: the shell writes and flushes what it is told and reports
//! back.
//!
//! ```text
//! one partition     0 ...... stored ...... durable ...... sealed ...... appended
//!                   flushed in its         readable,      being         waits for its
//!                   segment                acknowledged   written       next write
//! ```
//!
//! Bytes become durable in one of two ways, whichever is over first:
//!
//! - **Journal**: a tick takes what small appends of all partitions have gathered as a few blocks,
//!   and one `fdatasync` covers them. Ticks go out at once when the journal is idle; while it is
//!   flushed, appends gather, and go out behind the flush once they fill a block. No timer, no linger.
//! - **Segment**: a partition with more to write ([`DIRECT_SIZE`]) is written to its segment and
//!   flushed; until that flush has returned, what it appends gathers, unless it becomes much
//!   ([`WRITE_GATHER_SIZE`]). Without a journal everything goes this way.
//!
//! A topic may ask for less (`log::durability`): then its bytes are durable in this module's sense once
//! they are written, to the journal or the segment, everything before them too; their flush follows
//! within a bound. Their segment writes and ticks do not wait for a flush in flight.
//!
//! What the journal holds is written out to the segments later, in large writes from the buffers that
//! are still in memory; their flush is urgent only if an acknowledgement waits for it.
//!
//! - One segment write per partition at a time: two would race on the tail block.
//! - One flush of each kind at a time; writes go on behind it. It covers what was written before it
//!   was issued.
//! - The journal never holds bytes beyond a segment write that is not flushed: a replay would put them
//!   behind a hole.
//! - What was flushed in segments and never was in the journal is recorded there afterwards
//!   ([`flush_records`]); acknowledgements do not wait for that.
//! - A failed write or flush is final: the log directory goes offline and nothing is acknowledged
//!   any more.

use crate::log::durability::Durability;
use crate::log::journal::block::{BLOCK_SIZE_MAX, BlockSequence};
use crate::log::journal::ring::JournalRing;
use crate::log::plan::{FlushEntry, FlushPlan, Slot, WritePlan};
use crate::types::prefetch::prefetch;
use crate::types::{Mono, Offset};
use std::collections::VecDeque;
use std::time::Duration;

pub mod changes;
pub mod flush_records;
mod journal;
mod parked_acks;
mod progress;

pub use parked_acks::ParkedAcks;

use changes::Changes;
use flush_records::FlushRecords;
use progress::{Mark, Progress};

/// Appended bytes from which a partition is written to its segment instead of to the journal, once no
/// flush of segments is in flight.
///
/// Unit: bytes. Below it, a write of its own and its share of a flush cost more than copying the bytes
/// into the journal, and writing them again later. What it saves is the second write, so that it pays where
/// the disk is the bound. Eight partitions, 64 requests in flight, MB/s to the segment and through the
/// journal, on a disk held to 600 MB/s and on one of 2.1 GB/s:
///
/// ```text
/// batch      16 kB       32 kB       64 kB       256 kB      1 MB
/// 600 MB/s   418 : 251   488 : 268   566 : 273   590 : 312   591 : 502 (its 1 GiB not full for long)
/// 2.1 GB/s                           962 : 932               1723 : 1147
/// device bytes per byte: 1.02 to 1.23 against 1.95 to 2.43
/// ```
pub const DIRECT_SIZE: u64 = 32 << 10;

/// Appended bytes from which a partition is written to its segment at once.
///
/// Unit: bytes. Large enough that a write's fixed cost (about 10 µs) is small beside it.
pub const WRITE_GATHER_SIZE: u64 = 256 << 10;

/// Bytes that only the journal holds from which a partition is written out.
pub const WRITE_OUT_SIZE: u64 = 512 << 10;

/// The same where very many partitions share the memory, so that none of them ever gets that much, once
/// three eighths of it are used: what fits into one block of 64 KiB, and with that into one write. A write into a
/// file that was not written to in the last few milliseconds costs the core 30 µs, however little it is: the kernel
/// has a thread of its own change the file's times.
const WRITE_OUT_SIZE_MIN: u64 = 56 << 10;

/// What is written out side by side without an acknowledgement waiting for it: partitions, and bytes from
/// which nothing more is begun. Many at a time where each has little, as ten thousand do: the disk and the
/// opening of files take their time, not their share of the core.
///
/// 10,000 partitions of one core, 4 KiB batches, thousands of batches per second:
///
/// ```text
/// side by side     4    16    64
///               41.4  49.1  55.4
/// ```
const WRITE_OUTS_MAX: usize = 64;
const WRITE_OUTS_SIZE_MAX: u64 = 2 << 20;

/// Bytes written to segments without urgency from which they are flushed: the price of a flush is
/// spread over them.
const WRITE_OUT_FLUSH_SIZE: u64 = 64 << 20;

/// Bytes of one tick, and ticks written side by side.
const TICK_SIZE_MAX: u64 = 4 << 20;
const TICKS_MAX: usize = 4;

/// Ticks that are not flushed, where acknowledgements wait for their writes only.
const TICKS_UNFLUSHED_MAX: usize = 64;

/// The sizes that decisions go by. A shard takes the defaults; what tries every order of events makes
/// them small, so that little data meets every decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitSizes {
    pub direct: u64,
    pub write_gather: u64,
    pub write_out: u64,
    /// The same while very many share the memory.
    pub write_out_min: u64,
    pub write_out_flush: u64,
    pub tick_max: u64,
    /// Bytes of one block of the journal at most, less than those of one of its files.
    pub block_max: u64,
}

impl Default for CommitSizes {
    fn default() -> CommitSizes {
        CommitSizes {
            direct: DIRECT_SIZE,
            write_gather: WRITE_GATHER_SIZE,
            write_out: WRITE_OUT_SIZE,
            write_out_min: WRITE_OUT_SIZE_MIN,
            write_out_flush: WRITE_OUT_FLUSH_SIZE,
            tick_max: TICK_SIZE_MAX,
            block_max: BLOCK_SIZE_MAX as u64,
        }
    }
}

/// A partition is durable up to `durable_end`: answers may leave, readers may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    pub slot: Slot,
    pub durable_end: Offset,
}

/// A partition is flushed in its segments up to `stored_end`: its buffers may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub slot: Slot,
    pub stored_end: Offset,
}

/// A tick that is not flushed yet.
#[derive(Debug)]
struct Tick {
    /// Its blocks lie below it.
    through: BlockSequence,
    entries: Vec<(Slot, u64, Mark)>,
    /// Its blocks and all before them are written.
    written: bool,
}

/// Lives: one per shard.
/// Invariant, per partition: stored ≤ flushed ≤ durable ≤ sealed ≤ appended; stored ≤ written ≤
/// segment_sealed.
#[derive(Debug, Default)]
pub struct GroupCommit {
    sizes: CommitSizes,
    /// Pending bytes from which a partition goes to its segment: any, without a journal.
    direct_size: u64,
    journal: Option<JournalRing>,
    changes: Changes,
    records: FlushRecords,
    /// Of what lies below it, a block shall state that it is flushed once it is.
    state_through: BlockSequence,
    partitions: Vec<Progress>,
    free: Vec<Slot>,
    /// Partitions with appended bytes that nothing was asked to write, oldest first.
    waiting: VecDeque<Slot>,
    waiting_bytes: u64,
    /// Those of them whose acknowledgements wait for the write only.
    waiting_write_bytes: u64,
    /// Those that never go to the journal; they gather while a flush of segments is in flight.
    gathering: VecDeque<Slot>,
    /// Those of them all with at least [`WRITE_GATHER_SIZE`], or that wait for no flush.
    large: VecDeque<Slot>,
    /// Partitions to write out.
    write_out: VecDeque<Slot>,
    /// Those with anything that their segment does not have, about the oldest first, with how far each was handed to it
    /// then.
    unwritten: VecDeque<(Slot, u64)>,
    /// Partitions with written bytes that no flush covers yet, oldest first.
    unflushed: Vec<Slot>,
    ticks: VecDeque<Tick>,
    /// Blocks issued and not written, but for records.
    blocks_in_flight: usize,
    journal_blocked: bool,
    flush_in_flight: bool,
    /// An acknowledgement or a stop waits for it.
    flush_in_flight_is_urgent: bool,
    urgent: usize,
    write_outs: usize,
    write_outs_bytes: u64,
    written_unflushed_bytes: u64,
    /// What writes alone have made durable since it was last asked for.
    written_advances: Vec<Advance>,
    /// How soon the flush of what was written since the last look at the clock is due, and when that
    /// of what was written before.
    flush_within: Option<Duration>,
    flush_by: Option<Mono>,
    overdue: bool,
    undurable_bytes: u64,
    unstored_bytes: u64,
    /// Appended, and not on its way to a segment; and of how many partitions.
    unwritten_bytes: u64,
    unwritten_partitions: u64,
    /// What producers wait for when `unstored_bytes` reaches it. Of what is not written, beyond three eighths of it, very
    /// many partitions' is in single writes, and beyond five eighths the oldest is, as fast as more comes; with three quarters of it used, what is written is flushed.
    unstored_max: u64,
    memory_short: bool,
    draining: bool,
    failed: bool,
}

impl GroupCommit {
    /// What is not done yet, in words: for the log of a stop that takes long.
    pub fn outstanding(&self) -> String {
        format!(
            "{} bytes not flushed, {} not flushed in segments; {} partitions wait, {} of them for a write-out; \
             {} ticks, {} blocks and {} write-outs in flight; flush in flight: {}, journal blocked: {}",
            self.undurable_bytes,
            self.unstored_bytes,
            self.waiting.len(),
            self.write_out.len(),
            self.ticks.len(),
            self.blocks_in_flight,
            self.write_outs,
            self.flush_in_flight,
            self.journal_blocked,
        )
    }

    /// Without a journal, every write goes to its segment. No more than `unstored_max` bytes shall wait
    /// for that in memory.
    pub fn new(journal: Option<JournalRing>, unstored_max: u64) -> GroupCommit {
        GroupCommit::with_sizes(journal, unstored_max, CommitSizes::default())
    }

    pub fn with_sizes(journal: Option<JournalRing>, unstored_max: u64, sizes: CommitSizes) -> GroupCommit {
        let direct_size = if journal.is_some() { sizes.direct } else { 0 };
        GroupCommit { journal, unstored_max, sizes, direct_size, ..GroupCommit::default() }
    }

    /// Takes in a partition whose log is flushed in its segments up to `end`.
    pub fn open(&mut self, end: Offset) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.partitions.push(Progress::default());
            Slot(self.partitions.len() as u32 - 1)
        });
        let mark = Mark { end, bytes: 0 };
        let progress = &mut self.partitions[slot.0 as usize];
        assert!(!progress.open, "a slot was given out twice");
        *progress = Progress {
            open: true,
            queued: progress.queued,
            appended: mark,
            sealed: mark,
            durable: mark,
            flushed: mark,
            segment_sealed: mark,
            written: mark,
            flushing: mark,
            stored: mark,
            ..Progress::default()
        };
        slot
    }

    /// Forgets a partition. The caller has waited until [`is_idle`](Self::is_idle).
    pub fn close(&mut self, slot: Slot) {
        assert!(self.is_idle(slot), "a partition was closed under its writes");
        self.partitions[slot.0 as usize].open = false;
        if let Some(journal) = &mut self.journal {
            journal.forget(slot);
            self.journal_blocked = false;
        }
        self.free.push(slot);
    }

    /// What the partition's acknowledgements wait for from now on. Nothing durable ever becomes less so;
    /// what is, is flushed soon if that is asked for now.
    pub fn set_durability(&mut self, slot: Slot, durability: Durability) {
        let progress = &mut self.partitions[slot.0 as usize];
        let before = std::mem::replace(&mut progress.durability, durability);
        let counted = progress.counted;
        match (before, durability) {
            (Durability::Fsync, Durability::Write(_)) => self.waiting_write_bytes += counted,
            (Durability::Write(_), Durability::Fsync) => {
                self.waiting_write_bytes -= counted;
                self.write_out(slot);
            }
            (Durability::Fsync, Durability::Fsync) | (Durability::Write(_), Durability::Write(_)) => {}
        }
        self.queue(slot);
    }

    /// Everything of the partition is flushed in its segments.
    pub fn is_idle(&self, slot: Slot) -> bool {
        self.partitions[slot.0 as usize].is_idle()
    }

    /// Bytes appended and not durable as their topics ask for, over all partitions. The shell bounds it by not reading from
    /// sockets.
    pub fn undurable_bytes(&self) -> u64 {
        self.undurable_bytes
    }

    /// Bytes appended and not flushed in their segments: they are kept in memory. Bounded likewise.
    pub fn unstored_bytes(&self) -> u64 {
        self.unstored_bytes
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Memory for newest records is short: what is not written out is, oldest first, until it is not.
    pub fn set_memory_short(&mut self, short: bool) {
        self.memory_short = short;
    }

    /// Everything is written out and flushed from here on: the broker stops.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Writes out and flushes what a partition has now, whatever its size.
    pub fn write_out(&mut self, slot: Slot) {
        let progress = &mut self.partitions[slot.0 as usize];
        progress.store_wanted = progress.appended.bytes;
        self.queue(slot);
        self.mark_urgent(slot);
    }

    fn mark_urgent(&mut self, slot: Slot) {
        let progress = &mut self.partitions[slot.0 as usize];
        if !progress.urgent && progress.queued.unflushed && progress.flush_is_urgent() {
            progress.urgent = true;
            self.urgent += 1;
        }
    }

    /// A batch is appended soon.
    pub fn prefetch(&self, slot: Slot) {
        if let Some(progress) = self.partitions.get(slot.0 as usize) {
            prefetch(progress);
        }
    }

    /// A batch was copied into the partition's tail buffer.
    pub fn appended(&mut self, slot: Slot, end: Offset, size: u64) {
        let progress = &mut self.partitions[slot.0 as usize];
        assert!(progress.open, "append to a closed slot");
        assert!(progress.appended.end < end, "an append did not advance the log end");
        self.unwritten_partitions += u64::from(progress.appended.bytes == progress.segment_sealed.bytes);
        progress.appended = Mark { end, bytes: progress.appended.bytes + size };
        self.undurable_bytes += size;
        self.unstored_bytes += size;
        self.unwritten_bytes += size;
        self.queue(slot);
    }

    /// Puts the partition where it belongs by what it has. O(1).
    fn queue(&mut self, slot: Slot) {
        let progress = &mut self.partitions[slot.0 as usize];
        let is_direct = progress.is_direct(self.direct_size);
        let may_be_journalled = self.journal.is_some() && !progress.is_behind_a_write();
        let is_eager = progress.is_eager(self.direct_size);
        let waits_for_writes = progress.waits_for_writes();
        let queued = &mut progress.queued;
        let pending = progress.appended.bytes - progress.sealed.bytes;
        let unwritten = progress.appended.bytes - progress.segment_sealed.bytes;
        if is_direct && !queued.gathering {
            queued.gathering = true;
            self.gathering.push_back(slot);
        }
        if pending > 0 && may_be_journalled {
            self.waiting_bytes += pending - progress.counted;
            self.waiting_write_bytes += if waits_for_writes { pending - progress.counted } else { 0 };
            progress.counted = pending;
            if !queued.waiting {
                queued.waiting = true;
                self.waiting.push_back(slot);
            }
        }
        if (pending >= self.sizes.write_gather || is_eager) && !queued.large {
            queued.large = true;
            self.large.push_back(slot);
        }
        if self.journal.is_none() || unwritten == 0 {
            return;
        }
        if !queued.unwritten {
            queued.unwritten = true;
            self.unwritten.push_back((slot, progress.segment_sealed.bytes));
        }
        let wanted = progress.segment_sealed.bytes < progress.store_wanted;
        let is_shared = self.unwritten_bytes > self.unstored_max / 8 * 3
            && self.unwritten_bytes < self.unwritten_partitions * self.sizes.write_out_min;
        let size = if is_shared { self.sizes.write_out_min } else { self.sizes.write_out };
        if (unwritten >= size || wanted) && !queued.write_out {
            queued.write_out = true;
            self.write_out.push_back(slot);
        }
    }

    /// The next segment write to issue, or `None` until something is reported. The caller seals the
    /// partition's tail buffer at `end`.
    pub fn next_write(&mut self) -> Option<WritePlan> {
        if self.failed {
            return None;
        }
        let (slot, is_write_out) = self.pop_due()?;
        let progress = &mut self.partitions[slot.0 as usize];
        assert!(!progress.writing, "two writes of one partition");
        let size = progress.appended.bytes - progress.segment_sealed.bytes;
        assert!(size > 0, "a write of nothing");
        if progress.pending() > 0 {
            progress.direct = progress.appended.bytes;
        }
        progress.writing = true;
        progress.writing_out = is_write_out;
        self.unwritten_bytes -= size;
        self.unwritten_partitions -= 1;
        if is_write_out {
            self.write_outs += 1;
            self.write_outs_bytes += size;
        }
        progress.sealed = progress.appended;
        progress.segment_sealed = progress.appended;
        let end = progress.appended.end;
        self.uncount(slot);
        Some(WritePlan { slot, end, size })
    }

    /// What the partition has waiting for a tick was taken.
    fn uncount(&mut self, slot: Slot) {
        let progress = &mut self.partitions[slot.0 as usize];
        let counted = std::mem::take(&mut progress.counted);
        self.waiting_bytes -= counted;
        if progress.waits_for_writes() {
            self.waiting_write_bytes -= counted;
        }
    }

    /// A partition whose segment write is due, and whether nobody waits for it. One that is being
    /// written is queued again when that is over. Amortised O(1): every queued entry is popped once, or once more if it
    /// was written meanwhile.
    fn pop_due(&mut self) -> Option<(Slot, bool)> {
        while let Some(slot) = self.large.pop_front() {
            let progress = &mut self.partitions[slot.0 as usize];
            progress.queued.large = false;
            let is_due = progress.pending() >= self.sizes.write_gather || progress.is_eager(self.direct_size);
            if progress.is_unwritten() && is_due {
                return Some((slot, false));
            }
        }
        if let Some(slot) = self.pop_gathering() {
            return Some((slot, false));
        }
        if self.write_outs >= WRITE_OUTS_MAX || self.write_outs_bytes >= WRITE_OUTS_SIZE_MAX {
            return None;
        }
        while let Some(slot) = self.write_out.pop_front() {
            let progress = &mut self.partitions[slot.0 as usize];
            progress.queued.write_out = false;
            // Bytes that no tick has taken would make the flush urgent; the next tick queues it again.
            let may_wait = progress.pending() > 0 && progress.store_wanted <= progress.segment_sealed.bytes;
            if progress.is_unwritten() && !may_wait {
                return Some((slot, true));
            }
        }
        while self.is_pressed()
            && let Some((slot, sealed)) = self.unwritten.pop_front()
        {
            let progress = &mut self.partitions[slot.0 as usize];
            // Another queue has had it written since: what it has now is newer.
            if progress.segment_sealed.bytes != sealed && progress.is_unwritten() {
                self.unwritten.push_back((slot, progress.segment_sealed.bytes));
                continue;
            }
            progress.queued.unwritten = false;
            if progress.is_unwritten() {
                return Some((slot, true));
            }
        }
        None
    }

    /// A partition that gathers while a flush is in flight.
    fn pop_gathering(&mut self) -> Option<Slot> {
        while !self.flush_in_flight
            && let Some(slot) = self.gathering.pop_front()
        {
            let progress = &mut self.partitions[slot.0 as usize];
            progress.queued.gathering = false;
            if progress.is_unwritten() && progress.is_direct(self.direct_size) {
                return Some(slot);
            }
        }
        None
    }

    /// Whether what the segments lack has to be written out now.
    fn is_pressed(&self) -> bool {
        let journal_short = self.journal.as_ref().is_some_and(JournalRing::is_short);
        // However many partitions share it, each with too little to be written out by itself.
        let waiting = self.unwritten_bytes > self.unstored_max / 8 * 5;
        self.draining || self.memory_short || self.journal_blocked || journal_short || waiting
    }

    /// A segment write completed whole; `segments` are the files that it touched.
    pub fn wrote(&mut self, plan: &WritePlan, segments: &[Offset]) {
        let progress = &mut self.partitions[plan.slot.0 as usize];
        assert!(progress.writing, "a write completed that was not issued");
        assert!(progress.segment_sealed.end == plan.end, "a write completed out of order");
        progress.writing = false;
        if progress.writing_out {
            self.write_outs -= 1;
            self.write_outs_bytes -= plan.size;
        }
        self.written_unflushed_bytes += progress.segment_sealed.bytes - progress.written.bytes;
        progress.written = progress.segment_sealed;
        // A segment holds everything up to where it was written.
        let grown = if self.failed { 0 } else { progress.advance_written(0, progress.written) };
        self.undurable_bytes -= grown;
        if grown > 0 {
            self.written_advances.push(Advance { slot: plan.slot, durable_end: progress.durable.end });
        }
        if let Durability::Write(bounds) = progress.durability
            && progress.flushed.bytes < progress.written.bytes
        {
            self.flush_within =
                Some(self.flush_within.map_or(bounds.within, |within| within.min(bounds.within)));
        }
        for segment in segments {
            if !progress.dirty_segments.contains(segment) {
                progress.dirty_segments.push(*segment);
            }
        }
        if !progress.queued.unflushed {
            progress.queued.unflushed = true;
            self.unflushed.push(plan.slot);
        }
        self.mark_urgent(plan.slot);
        self.queue(plan.slot); // It may have stood aside while the write was in flight.
    }

    /// What completed writes, without a flush, have made durable since the last call.
    pub fn written(&mut self, advances: &mut Vec<Advance>) {
        advances.append(&mut self.written_advances);
    }

    /// Takes notice of the time: a flush that acknowledged bytes or records have waited for long enough is
    /// due. Asked before them; returns when this wants to be asked again, at the latest.
    pub fn flush_deadline(&mut self, now: Mono) -> Option<Mono> {
        if let Some(within) = self.flush_within.take() {
            let by = now.after(within);
            self.flush_by = Some(self.flush_by.map_or(by, |flush_by| flush_by.min(by)));
        }
        if self.flush_by.is_some_and(|by| by <= now) {
            self.flush_by = None;
            self.overdue = true;
        }
        let records_by = self.records.flush_deadline(now);
        self.flush_by.into_iter().chain(records_by).min()
    }

    /// The next flush of segments to issue, if one is due. It covers every completed write.
    pub fn next_flush(&mut self) -> Option<FlushPlan> {
        if self.failed || self.flush_in_flight || self.unflushed.is_empty() {
            return None;
        }
        let due = self.urgent > 0
            || self.overdue
            || self.written_unflushed_bytes >= self.sizes.write_out_flush
            || self.unstored_bytes > self.unstored_max / 4 * 3
            || (self.is_pressed() && self.write_outs == 0);
        if !due {
            return None;
        }
        self.flush_in_flight = true;
        self.flush_in_flight_is_urgent = self.urgent > 0;
        self.urgent = 0;
        self.overdue = false;
        (self.flush_within, self.flush_by) = (None, None);
        self.written_unflushed_bytes = 0;
        let entries = self.unflushed.drain(..).map(|slot| {
            let progress = &mut self.partitions[slot.0 as usize];
            progress.queued.unflushed = false;
            progress.urgent = false;
            progress.flushing = progress.written;
            FlushEntry {
                slot,
                end: progress.written.end,
                segments: std::mem::take(&mut progress.dirty_segments),
            }
        });
        Some(FlushPlan { entries: entries.collect() })
    }

    /// A flush of segments returned without error: what it covered is durable and stored.
    pub fn flushed(&mut self, plan: &FlushPlan, advances: &mut Vec<Advance>, stored: &mut Vec<Stored>) {
        assert!(self.flush_in_flight, "a flush returned that was not issued");
        self.flush_in_flight = false;
        if self.failed {
            return;
        }
        for entry in &plan.entries {
            let progress = &mut self.partitions[entry.slot.0 as usize];
            assert!(progress.flushing.end == entry.end, "a flush returned for another plan");
            assert!(progress.stored.end <= entry.end, "the stored end moved back");
            self.unstored_bytes -= progress.flushing.bytes - progress.stored.bytes;
            progress.stored = progress.flushing;
            let grown = progress.advance_flushed(progress.stored);
            self.undurable_bytes -= grown;
            stored.push(Stored { slot: entry.slot, stored_end: entry.end });
            if grown > 0 {
                advances.push(Advance { slot: entry.slot, durable_end: progress.durable.end });
            }
            if let Some(journal) = &mut self.journal {
                journal.written_out(entry.slot, progress.stored.bytes);
            }
            self.await_record(entry.slot);
            self.queue(entry.slot); // The journal can take what came behind the write.
        }
        self.journal_blocked = false;
    }

    /// A write or a flush failed. Nothing is issued or acknowledged from here on.
    pub fn fail(&mut self) {
        self.failed = true;
    }
}

#[cfg(test)]
mod tests;
