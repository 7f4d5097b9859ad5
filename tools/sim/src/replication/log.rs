//! One replica's log: batches in memory, what of them is flushed, and what a crash leaves.
//!
//! ```text
//!   durable ── applied ── ops not flushed yet: append, cut, start over, move the start ──► memory
//! ```
//!
//! A flush makes the oldest operations durable; a crash keeps any beginning of the rest, as recovery ends at the
//! first gap.

use odradek::log::epochs::LeaderEpochs;
use odradek::types::{LeaderEpoch, Offset};
use std::collections::BTreeMap;

/// Bytes of a batch on the wire.
pub const BATCH_SIZE: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub base: u64,
    pub count: u32,
    pub epoch: i32,
    /// 0: of nobody in particular.
    pub producer: u32,
    pub sequence: u32,
    /// What it says; never twice.
    pub value: u64,
}

impl Batch {
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.producer.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.value.to_le_bytes());
    }

    pub fn decode(bytes: &[u8]) -> Batch {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Batch {
            base: u64_at(0),
            count: u32_at(8),
            epoch: u32_at(12) as i32,
            producer: u32_at(16),
            sequence: u32_at(20),
            value: u64_at(24),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Append(Batch),
    CutTo(u64),
    StartOver(u64),
    MoveStart(u64),
}

/// A log as it lies somewhere. What lies below the start is kept, and not read any more.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub start: u64,
    /// Where it began, or began anew.
    origin: u64,
    pub batches: Vec<Batch>,
}

impl Image {
    pub fn end(&self) -> u64 {
        self.batches.last().map_or(self.origin, Batch::end)
    }

    /// The batches from an offset on, where one begins.
    pub fn from_offset(&self, offset: u64) -> &[Batch] {
        &self.batches[self.batches.partition_point(|batch| batch.end() <= offset)..]
    }

    /// As a start has found it.
    pub fn found(start: u64, origin: u64, batches: Vec<Batch>) -> Image {
        Image { start, origin, batches }
    }

    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Append(batch) => self.batches.push(batch),
            Op::CutTo(end) => {
                self.batches.truncate(self.batches.partition_point(|batch| batch.end() <= end));
                // A batch that reaches across goes as a whole.
                self.start = self.start.min(self.end());
            }
            Op::StartOver(at) => *self = Image { start: at, origin: at, batches: Vec::new() },
            Op::MoveStart(start) => self.start = self.start.max(start),
        }
    }
}

/// Lives: one per replica of a node, through its crashes.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub memory: Image,
    pub durable: Image,
    unflushed: Vec<Op>,
    pub epochs: LeaderEpochs,
    /// The last sequence and where it ends, by producer.
    producers: BTreeMap<u32, (u32, u64)>,
    /// As far as the durable log is that of the memory.
    pub flushed_end: u64,
    durable_high_watermark: u64,
    /// It lacks what it once acknowledged, and the controller does not know yet.
    pub is_lost: bool,
    /// How far it was flushed before it was damaged.
    pub once_flushed: u64,
}

/// What a flush has done for a replica.
#[derive(Clone, Copy, Debug)]
pub struct Flushed {
    pub end: u64,
    pub start: u64,
    /// No cut waits for a flush any more, and this one had some.
    pub is_cut: bool,
}

impl Log {
    pub fn start(&self) -> u64 {
        self.memory.start
    }

    pub fn end(&self) -> u64 {
        self.memory.end()
    }

    pub fn unflushed_count(&self) -> usize {
        self.unflushed.len()
    }

    /// What was done since the last flush, oldest first.
    pub fn unflushed(&self) -> &[Op] {
        &self.unflushed
    }

    pub fn append(&mut self, batch: Batch) {
        // Whoever starts over at a log start may get a batch that begins before it.
        let is_first = self.memory.batches.is_empty() && batch.base <= self.end() && batch.end() > self.end();
        assert!(is_first || batch.base == self.end(), "batches follow each other");
        self.epochs.assign(LeaderEpoch(batch.epoch), offset(batch.base));
        if batch.producer > 0 {
            self.producers.insert(batch.producer, (batch.sequence, batch.end()));
        }
        self.change(Op::Append(batch));
    }

    /// The whole batches below `end` stay.
    pub fn cut_to(&mut self, end: u64) {
        self.change(Op::CutTo(end));
        self.flushed_end = self.flushed_end.min(self.end());
        self.epochs.truncate_from_end(offset(self.end()));
        self.learn_producers();
    }

    pub fn start_over(&mut self, at: u64) {
        self.change(Op::StartOver(at));
        self.flushed_end = at;
        self.epochs = LeaderEpochs::new();
        self.producers.clear();
    }

    pub fn move_start(&mut self, start: u64) {
        self.change(Op::MoveStart(start));
    }

    /// Clients see the log start from now on.
    pub fn forget_epochs(&mut self, start: u64) {
        self.epochs.truncate_from_start(offset(start));
    }

    fn change(&mut self, op: Op) {
        self.memory.apply(op);
        self.unflushed.push(op);
    }

    /// The oldest `count` operations are flushed.
    pub fn flush(&mut self, count: usize, high_watermark: u64) -> Flushed {
        let is_cut = |op: &Op| matches!(op, Op::CutTo(_) | Op::StartOver(_));
        let mut had_cut = false;
        for op in self.unflushed.drain(..count) {
            had_cut |= is_cut(&op);
            self.durable.apply(op);
        }
        let mut end = self.durable.end();
        for op in &self.unflushed {
            match op {
                Op::CutTo(to) => end = end.min(*to),
                Op::StartOver(at) => end = *at,
                Op::Append(_) | Op::MoveStart(_) => {}
            }
        }
        self.flushed_end = end.min(self.end());
        self.durable_high_watermark = high_watermark;
        let is_cut = had_cut && !self.unflushed.iter().any(is_cut);
        Flushed { end: self.flushed_end, start: self.durable.start.min(self.memory.start), is_cut }
    }

    /// Everything in memory is gone, and of what was not flushed any beginning is there. Returns what was lost.
    pub fn crash(&mut self, kept: usize) -> usize {
        let lost = self.unflushed.len() - kept;
        for op in std::mem::take(&mut self.unflushed).into_iter().take(kept) {
            self.durable.apply(op);
        }
        self.recover();
        lost
    }

    /// The disk has lost what lies behind `end`, which was flushed.
    pub fn damage(&mut self, end: u64) {
        self.once_flushed = self.once_flushed.max(self.durable.end());
        self.is_lost = true;
        self.durable.apply(Op::CutTo(end));
        if self.durable.end() <= self.durable.start {
            let at = self.durable.start;
            self.durable.apply(Op::StartOver(at));
        }
        self.recover();
    }

    /// The disk is empty.
    pub fn wipe(&mut self) {
        self.once_flushed = self.once_flushed.max(self.durable.end());
        self.is_lost = true;
        self.durable = Image::default();
        self.recover();
    }

    /// A start has found this of it.
    pub fn is_found(&mut self, image: Image) {
        self.durable = image;
        self.recover();
    }

    fn recover(&mut self) {
        self.unflushed.clear();
        self.memory = self.durable.clone();
        self.flushed_end = self.end();
        self.epochs = LeaderEpochs::new();
        for batch in &self.memory.batches {
            self.epochs.assign(LeaderEpoch(batch.epoch), offset(batch.base));
        }
        self.epochs.truncate_from_start(offset(self.memory.start));
        self.learn_producers();
    }

    fn learn_producers(&mut self) {
        self.producers.clear();
        for batch in self.memory.batches.iter().filter(|batch| batch.producer > 0) {
            self.producers.insert(batch.producer, (batch.sequence, batch.end()));
        }
    }

    /// All that are known: the last sequence of each, and where it ends.
    pub fn producers(&self) -> &BTreeMap<u32, (u32, u64)> {
        &self.producers
    }

    pub fn producer(&self, producer: u32) -> Option<(u32, u64)> {
        self.producers.get(&producer).copied()
    }

    /// Up to where the log may be taken away without forgetting who has written what: what lies beyond the high
    /// watermark may be cut, and then the batch before is a producer's newest.
    pub fn removable_end(&self, high_watermark: u64) -> u64 {
        let batches = &self.memory.batches;
        let safe = &batches[..batches.partition_point(|batch| batch.end() <= high_watermark)];
        let newest = |producer: &u32| {
            safe.iter().rev().find(|batch| batch.producer == *producer).map(|batch| batch.base)
        };
        self.producers.keys().filter_map(newest).min().unwrap_or(high_watermark)
    }

    /// After a start.
    pub fn high_watermark(&self) -> u64 {
        self.durable_high_watermark.clamp(self.start(), self.end().max(self.start()))
    }
}

pub fn offset(value: u64) -> Offset {
    Offset::new(value).expect("a simulated log is short")
}
