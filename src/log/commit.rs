//! Group commit of one shard: which write goes when, which flush covers which write, and how far
//! each partition is durable. Pure: the shell writes and flushes what it is told and reports back.
//!
//! ```text
//! one partition     0 ........ flushed ........ written ........ sealed ........ appended
//!                   readable,            under the          being         waits for its
//!                   acknowledged         next flush         written       next write
//! ```
//!
//! - One write per partition at a time: two would race on the tail block.
//! - One flush per shard at a time; writes go on behind it. It covers what was written before it
//!   was issued.
//! - An idle disk is used at once. While a flush is in flight, small appends gather until it
//!   returns; large ones are written meanwhile. No timer, no linger.
//! - A failed write or flush is final: the log directory goes offline and nothing is acknowledged
//!   any more.

use crate::log::plan::{FlushEntry, FlushPlan, Slot, WritePlan};
use crate::types::Offset;
use std::collections::VecDeque;

/// Appended bytes from which a partition is written although a flush is in flight.
///
/// Unit: bytes. Large enough that a write's fixed cost (about 10 µs) is small beside it.
pub const WRITE_GATHER_SIZE: u64 = 256 << 10;

/// How far one partition has come. Offsets exclusive, `bytes` cumulative since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    end: Offset,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Progress {
    open: bool,
    appended: Mark,
    sealed: Mark,
    written: Mark,
    flushing: Mark,
    flushed: Mark,
    writing: bool,
    /// Appended bytes wait for a write; stands in `GroupCommit::waiting`.
    waiting: bool,
    /// Stands in `GroupCommit::large` too.
    large: bool,
    /// Stands in `GroupCommit::unflushed`.
    unflushed: bool,
    /// Segments written since the last flush that covered them.
    dirty_segments: Vec<Offset>,
}

/// A partition is durable up to `flushed_end`: answers may leave, readers may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    pub slot: Slot,
    pub flushed_end: Offset,
}

/// Lives: one per shard.
/// Invariant, per partition: flushed ≤ flushing ≤ written ≤ sealed ≤ appended.
#[derive(Debug, Default)]
pub struct GroupCommit {
    partitions: Vec<Progress>,
    free: Vec<Slot>,
    /// Partitions with appended bytes and no write in flight, oldest first.
    waiting: VecDeque<Slot>,
    /// Those of them with at least [`WRITE_GATHER_SIZE`] appended. Entries whose write has been
    /// issued meanwhile are skipped, in both queues.
    large: VecDeque<Slot>,
    /// Partitions with written bytes that no flush covers yet, oldest first.
    unflushed: Vec<Slot>,
    flush_in_flight: bool,
    unflushed_bytes: u64,
    failed: bool,
}

impl GroupCommit {
    pub fn new() -> GroupCommit {
        GroupCommit::default()
    }

    /// Takes in a partition whose log is flushed up to `end`.
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
            appended: mark,
            sealed: mark,
            written: mark,
            flushing: mark,
            flushed: mark,
            ..Progress::default()
        };
        slot
    }

    /// Forgets a partition. The caller has waited until [`is_idle`](Self::is_idle).
    pub fn close(&mut self, slot: Slot) {
        assert!(self.is_idle(slot), "a partition was closed under its writes");
        self.partitions[slot.0 as usize].open = false;
        self.free.push(slot);
    }

    /// Nothing of the partition is appended and not flushed.
    pub fn is_idle(&self, slot: Slot) -> bool {
        let progress = &self.partitions[slot.0 as usize];
        progress.appended.bytes == progress.flushed.bytes && !progress.writing
    }

    /// Bytes appended and not flushed, over all partitions. The shell bounds it by not reading
    /// from sockets.
    pub fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// A batch was copied into the partition's commit buffer.
    pub fn appended(&mut self, slot: Slot, end: Offset, size: u64) {
        let progress = &mut self.partitions[slot.0 as usize];
        assert!(progress.open, "append to a closed slot");
        assert!(progress.appended.end < end, "an append did not advance the log end");
        progress.appended = Mark { end, bytes: progress.appended.bytes + size };
        self.unflushed_bytes += size;
        if !progress.writing {
            self.queue_write(slot);
        }
    }

    /// O(1).
    fn queue_write(&mut self, slot: Slot) {
        let progress = &mut self.partitions[slot.0 as usize];
        if !progress.waiting {
            progress.waiting = true;
            self.waiting.push_back(slot);
        }
        if !progress.large && progress.appended.bytes - progress.sealed.bytes >= WRITE_GATHER_SIZE {
            progress.large = true;
            self.large.push_back(slot);
        }
    }

    /// The next write to issue, or `None` until something is reported. The caller seals the
    /// partition's commit buffer at `end`.
    pub fn next_write(&mut self) -> Option<WritePlan> {
        if self.failed {
            return None;
        }
        let slot = self.pop_due()?;
        let progress = &mut self.partitions[slot.0 as usize];
        assert!(!progress.writing, "two writes of one partition");
        progress.waiting = false;
        progress.large = false;
        progress.writing = true;
        let size = progress.appended.bytes - progress.sealed.bytes;
        progress.sealed = progress.appended;
        Some(WritePlan { slot, end: progress.sealed.end, size })
    }

    /// Amortised O(1): every queued entry is popped once.
    fn pop_due(&mut self) -> Option<Slot> {
        while let Some(slot) = self.large.pop_front() {
            if self.partitions[slot.0 as usize].large {
                return Some(slot);
            }
        }
        if self.flush_in_flight {
            return None;
        }
        while let Some(slot) = self.waiting.pop_front() {
            if self.partitions[slot.0 as usize].waiting {
                return Some(slot);
            }
        }
        None
    }

    /// A write completed whole; `segments` are the files that it touched.
    pub fn wrote(&mut self, plan: &WritePlan, segments: &[Offset]) {
        let progress = &mut self.partitions[plan.slot.0 as usize];
        assert!(progress.writing, "a write completed that was not issued");
        assert!(progress.sealed.end == plan.end, "a write completed out of order");
        progress.writing = false;
        progress.written = progress.sealed;
        for segment in segments {
            if !progress.dirty_segments.contains(segment) {
                progress.dirty_segments.push(*segment);
            }
        }
        if !progress.unflushed {
            progress.unflushed = true;
            self.unflushed.push(plan.slot);
        }
        if progress.appended.bytes > progress.sealed.bytes {
            self.queue_write(plan.slot);
        }
    }

    /// The next flush to issue, if one is due. It covers every completed write.
    pub fn next_flush(&mut self) -> Option<FlushPlan> {
        if self.failed || self.flush_in_flight || self.unflushed.is_empty() {
            return None;
        }
        self.flush_in_flight = true;
        let entries = self.unflushed.drain(..).map(|slot| {
            let progress = &mut self.partitions[slot.0 as usize];
            progress.unflushed = false;
            progress.flushing = progress.written;
            FlushEntry {
                slot,
                end: progress.written.end,
                segments: std::mem::take(&mut progress.dirty_segments),
            }
        });
        Some(FlushPlan { entries: entries.collect() })
    }

    /// A flush returned without error: what it covered is durable.
    pub fn flushed(&mut self, plan: &FlushPlan, advances: &mut Vec<Advance>) {
        assert!(self.flush_in_flight, "a flush returned that was not issued");
        self.flush_in_flight = false;
        if self.failed {
            return;
        }
        for entry in &plan.entries {
            let progress = &mut self.partitions[entry.slot.0 as usize];
            assert!(progress.flushing.end == entry.end, "a flush returned for another plan");
            assert!(progress.flushed.end <= entry.end, "the flushed end moved back");
            self.unflushed_bytes -= progress.flushing.bytes - progress.flushed.bytes;
            progress.flushed = progress.flushing;
            advances.push(Advance { slot: entry.slot, flushed_end: entry.end });
        }
    }

    /// A write or a flush failed. Nothing is issued or acknowledged from here on.
    pub fn fail(&mut self) {
        self.failed = true;
    }
}

/// Answers that wait for a partition's flushed end, in offset order.
///
/// Lives: one per partition. Bounded by the requests in flight of its connections.
#[derive(Debug)]
pub struct ParkedAcks<T> {
    parked: VecDeque<(Offset, T)>,
}

impl<T> Default for ParkedAcks<T> {
    fn default() -> Self {
        ParkedAcks { parked: VecDeque::new() }
    }
}

impl<T> ParkedAcks<T> {
    /// Parks an answer until everything below `end` is flushed. A duplicate's batch may lie before
    /// others that wait already; its answer goes behind theirs.
    pub fn park(&mut self, end: Offset, answer: T) {
        let end = self.parked.back().map_or(end, |(last, _)| end.max(*last));
        self.parked.push_back((end, answer));
    }

    /// The next answer that may leave.
    pub fn release(&mut self, flushed_end: Offset) -> Option<T> {
        match self.parked.front() {
            Some((end, _)) if *end <= flushed_end => self.parked.pop_front().map(|(_, answer)| answer),
            _ => None,
        }
    }

    /// Every answer, for a log that went offline or away.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.parked.drain(..).map(|(_, answer)| answer)
    }

    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEGMENT: Offset = Offset::ZERO;

    #[test]
    fn an_idle_shard_writes_and_flushes_at_once() {
        let mut commit = GroupCommit::new();
        let slot = commit.open(offset(0));
        commit.appended(slot, offset(3), 100);
        let write = commit.next_write().unwrap();
        assert_eq!(write, WritePlan { slot, end: offset(3), size: 100 });
        assert_eq!(commit.next_flush(), None, "nothing is written yet");
        commit.wrote(&write, &[SEGMENT]);
        let flush = commit.next_flush().unwrap();
        assert_eq!(advances(&mut commit, &flush), [Advance { slot, flushed_end: offset(3) }]);
        assert!(commit.is_idle(slot));
    }

    #[test]
    fn a_flush_does_not_cover_a_write_that_completes_behind_it() {
        let mut commit = GroupCommit::new();
        let slot = commit.open(offset(0));
        commit.appended(slot, offset(1), WRITE_GATHER_SIZE);
        let first = commit.next_write().unwrap();
        commit.wrote(&first, &[SEGMENT]);
        let flush = commit.next_flush().unwrap();
        commit.appended(slot, offset(2), WRITE_GATHER_SIZE);
        let second = commit.next_write().unwrap();
        commit.wrote(&second, &[SEGMENT]);
        assert_eq!(commit.next_flush(), None, "one flush at a time");
        assert_eq!(advances(&mut commit, &flush), [Advance { slot, flushed_end: offset(1) }]);
        let flush = commit.next_flush().unwrap();
        assert_eq!(advances(&mut commit, &flush), [Advance { slot, flushed_end: offset(2) }]);
    }

    #[test]
    fn a_duplicate_s_answer_waits_behind_those_parked_before() {
        let mut acks = ParkedAcks::default();
        acks.park(offset(3), "first");
        acks.park(offset(5), "second");
        acks.park(offset(3), "first again");
        assert_eq!(acks.release(offset(2)), None);
        assert_eq!(acks.release(offset(3)), Some("first"));
        assert_eq!(acks.release(offset(3)), None);
        assert_eq!(acks.release(offset(5)), Some("second"));
        assert_eq!(acks.release(offset(5)), Some("first again"));
    }

    #[test]
    fn small_appends_gather_while_a_flush_is_in_flight() {
        let mut commit = GroupCommit::new();
        let slot = commit.open(offset(0));
        commit.appended(slot, offset(1), 10);
        let write = commit.next_write().unwrap();
        commit.wrote(&write, &[SEGMENT]);
        let flush = commit.next_flush().unwrap();
        commit.appended(slot, offset(2), 10);
        commit.appended(slot, offset(3), 10);
        assert_eq!(commit.next_write(), None);
        advances(&mut commit, &flush);
        assert_eq!(commit.next_write(), Some(WritePlan { slot, end: offset(3), size: 20 }));
    }

    #[test]
    fn nothing_is_acknowledged_after_a_failure() {
        let mut commit = GroupCommit::new();
        let slot = commit.open(offset(0));
        commit.appended(slot, offset(1), 10);
        let write = commit.next_write().unwrap();
        commit.wrote(&write, &[SEGMENT]);
        let flush = commit.next_flush().unwrap();
        commit.fail();
        assert_eq!(advances(&mut commit, &flush), []);
        commit.appended(slot, offset(2), 10);
        assert_eq!(commit.next_write(), None);
    }

    proptest! {
        /// A disk that completes writes and flushes in any order it may, recorded: no partition is
        /// ever advanced past what was written before a completed flush was issued.
        #[test]
        fn no_advance_is_ahead_of_a_flush(script in proptest::collection::vec((0..3usize, 0..4u8, 1..600_000u64), 1..300)) {
            let mut commit = GroupCommit::new();
            let slots: Vec<Slot> = (0..3).map(|_| commit.open(offset(0))).collect();
            let mut appended = [0u64; 3];
            let mut written = [0u64; 3];
            let mut advanced = [0u64; 3];
            let mut writes: Vec<WritePlan> = Vec::new();
            let mut flush: Option<(FlushPlan, [u64; 3])> = None;
            for (which, action, size) in script {
                match action {
                    0 => {
                        appended[which] += 1;
                        commit.appended(slots[which], offset(appended[which]), size);
                    }
                    1 if !writes.is_empty() => {
                        let plan = writes.remove(which % writes.len());
                        written[plan.slot.0 as usize] = plan.end.get();
                        commit.wrote(&plan, &[SEGMENT]);
                    }
                    2 => {
                        if let Some((plan, covered)) = flush.take() {
                            for advance in advances(&mut commit, &plan) {
                                let at = advance.slot.0 as usize;
                                prop_assert!(advance.flushed_end.get() <= covered[at]);
                                prop_assert!(advanced[at] <= advance.flushed_end.get());
                                advanced[at] = advance.flushed_end.get();
                            }
                        }
                    }
                    _ => {}
                }
                while let Some(plan) = commit.next_write() {
                    prop_assert!(writes.iter().all(|other| other.slot != plan.slot));
                    writes.push(plan);
                }
                if let Some(plan) = commit.next_flush() {
                    prop_assert!(flush.is_none());
                    flush = Some((plan, written));
                }
            }
            // Liveness: once the disk answers everything, everything is durable.
            for _ in 0..10 {
                for plan in writes.drain(..) {
                    commit.wrote(&plan, &[SEGMENT]);
                }
                if let Some((plan, _)) = flush.take() {
                    advances(&mut commit, &plan);
                }
                while let Some(plan) = commit.next_write() {
                    writes.push(plan);
                }
                flush = commit.next_flush().map(|plan| (plan, written));
            }
            prop_assert!(slots.iter().all(|slot| commit.is_idle(*slot)));
            prop_assert_eq!(commit.unflushed_bytes(), 0);
        }
    }

    fn advances(commit: &mut GroupCommit, plan: &FlushPlan) -> Vec<Advance> {
        let mut out = Vec::new();
        commit.flushed(plan, &mut out);
        out
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
