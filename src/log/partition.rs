//! One partition's log: which offset a batch gets, which segment takes it, how far readers may read.
//!
//! ```text
//! offset line    log_start ... stored_end ... high_watermark ≤ durable_end ... log_end
//!                readable      not flushed in its segment      appended, not durable
//!                ..... last_stable_offset: below it no transaction is undecided
//! segments       [closed][closed][active ..........................................
//! ```
//!
//! Pure: the shell copies, writes and flushes what is planned here. The high watermark of the only replica is
//! its durable end (see `log::durability`); where there are others it is what replication says, and never more.

use crate::codec::control_record::EndMarker;
use crate::codec::record_batch::BatchView;
use crate::log::checksums::{HasTransactions, SegmentChecksums, SegmentId};
use crate::log::compaction::plan::CompactionLimits;
use crate::log::durability::Durability;
use crate::log::epochs::LeaderEpochs;
use crate::log::index::{SegmentExtent, SegmentIndex};
use crate::log::plan::AppendPlan;
use crate::log::producers::{
    MarkerRejected, ProducerEvent, Producers, RetainedBatch, SequenceCheck, SequenceError,
};
use crate::log::recompression::StoredCompression;
use crate::log::segment::{IncomingBatch, RollLimits, SegmentInfo, StoredBatch, roll_jitter_ms, roll_reason};
use crate::log::transactions::index::TransactionIndex;
use crate::log::transactions::{AbortedTransaction, Isolation, PartitionTransactions};
use crate::types::short_queue::ShortQueue;
use crate::types::{LeaderEpoch, Offset, Timestamp, TransactionVersion};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// What a topic's properties mean for its partitions' logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Bytes.
    pub segment_size_max: u64,
    pub segment_ms: i64,
    /// At most this much less for each segment, so that not all of a broker roll at once.
    pub segment_jitter_ms: i64,
    /// Bytes of one record batch (`max.message.bytes`).
    pub batch_size_max: usize,
    pub index_interval_bytes: u32,
    pub index_size_max: u32,
    /// `message.timestamp.type` = `LogAppendTime`.
    pub append_time: bool,
    /// How far a batch's timestamp may lie before and after the broker's clock, milliseconds.
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// Milliseconds; `None` keeps for ever.
    pub retention_ms: Option<u64>,
    /// Bytes; `None` keeps all.
    pub retention_bytes: Option<u64>,
    /// How long a file that was given up keeps its bytes (`file.delete.delay.ms`).
    pub file_delete_delay: Duration,
    pub cleanup: Cleanup,
    pub durability: Durability,
    /// `None`: batches are stored as producers send them.
    pub compression: Option<StoredCompression>,
}

/// `cleanup.policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Retention by time and size deletes segments.
    pub delete: bool,
    /// Of every key the last record stays.
    pub compact: Option<CompactionLimits>,
}

impl Cleanup {
    pub const DELETE: Cleanup = Cleanup { delete: true, compact: None };
}

/// Why a batch is refused. `codec::error_code` assigns the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendRejected {
    #[error("a batch of {size} bytes exceeds max.message.bytes ({size_max})")]
    BatchTooLarge { size: usize, size_max: usize },
    #[error("a batch of {size} bytes exceeds segment.bytes ({size_max})")]
    SegmentTooSmall { size: usize, size_max: u64 },
    #[error(
        "timestamp {timestamp} is outside message.timestamp.before.max.ms and message.timestamp.after.max.ms"
    )]
    Timestamp { timestamp: i64 },
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error(transparent)]
    Marker(#[from] MarkerRejected),
    #[error("the partition has used all offsets")]
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendDecision {
    Append(AppendPlan),
    /// Stored before: the answer is its first place, once that is flushed.
    Duplicate(RetainedBatch),
}

/// A position in the log as files have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Base offset of the segment.
    pub segment: Offset,
    pub file_position: u64,
}

/// A segment that takes no more appends, with what is written beside it.
#[derive(Debug)]
pub struct ClosedSegment {
    pub info: SegmentInfo,
    pub index: SegmentIndex,
    pub checksums: SegmentChecksums,
    /// `None` when no batch of it is part of a transaction.
    pub transactions: Option<TransactionIndex>,
}

impl ClosedSegment {
    /// The file of its transaction index; `None` when it needs none.
    pub fn encode_transactions(&self) -> Option<Vec<u8>> {
        let index = self.transactions.as_ref()?;
        Some(index.encode(&self.checksums.segment(), self.info.size))
    }
}

/// What a start found on disk.
#[derive(Debug)]
pub struct Opened {
    /// Differs between partitions, and is the same at every start: `segment.jitter.ms`.
    pub jitter_seed: u64,
    pub log_start: Offset,
    pub log_end: Offset,
    pub closed: VecDeque<SegmentInfo>,
    pub active: SegmentInfo,
    pub active_index: SegmentIndex,
    pub active_checksums: SegmentChecksums,
    pub producers: Producers,
    /// Transactions whose markers lie in the active segment, in the order of these.
    pub aborted: Vec<AbortedTransaction>,
    pub epochs: LeaderEpochs,
}

/// Lives: one per replica, on its owner shard.
/// Invariant: log_start ≤ high watermark ≤ durable_end, stored_end ≤ durable_end ≤ log_end; the last stable offset,
/// between log_start and the high watermark, never moves back; segments are in offset order and without gaps.
/// In this order in memory: what appends look at comes first.
#[derive(Debug)]
#[repr(C)]
pub struct PartitionLog {
    /// That of the topic: one for all of its partitions.
    pub config: Rc<LogConfig>,
    leader_epoch: LeaderEpoch,
    jitter_seed: u64,
    log_start: Offset,
    log_end: Offset,
    durable_end: Offset,
    durable_place: Place,
    /// Below it other replicas have it too, as far as is known here; `None`: there are none.
    replicated_end: Option<Offset>,
    /// Ends of writes, to the journal or the segment, that are not durable yet, with their places,
    /// oldest first.
    sealed_ends: ShortQueue<(Offset, Place)>,
    active: SegmentInfo,
    active_index: SegmentIndex,
    active_checksums: SegmentChecksums,
    epochs: LeaderEpochs,
    /// `None` until a transaction ends.
    transactions: Option<Box<PartitionTransactions>>,
    pub producers: Producers,
    closed: VecDeque<SegmentInfo>,
    /// Below it everything is flushed in its segments.
    stored_end: Offset,
    stored_place: Place,
    /// Ends of segment writes that are not flushed yet, likewise.
    segment_ends: ShortQueue<(Offset, Place)>,
}

impl PartitionLog {
    /// Everything found is flushed: recovery has seen to it.
    pub fn new(opened: Opened, config: impl Into<Rc<LogConfig>>, leader_epoch: LeaderEpoch) -> PartitionLog {
        assert!(opened.log_start <= opened.log_end);
        assert!(opened.active.base_offset <= opened.log_end);
        assert!(opened.active_checksums.end() == opened.active.size, "every batch is covered");
        let durable_place = Place { segment: opened.active.base_offset, file_position: opened.active.size };
        PartitionLog {
            config: config.into(),
            leader_epoch,
            jitter_seed: opened.jitter_seed,
            log_start: opened.log_start,
            log_end: opened.log_end,
            durable_end: opened.log_end,
            durable_place,
            replicated_end: None,
            sealed_ends: ShortQueue::default(),
            stored_end: opened.log_end,
            stored_place: durable_place,
            segment_ends: ShortQueue::default(),
            closed: opened.closed,
            active: opened.active,
            active_index: opened.active_index,
            active_checksums: opened.active_checksums,
            producers: opened.producers,
            transactions: PartitionTransactions::recovered(opened.aborted),
            epochs: opened.epochs,
        }
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// Exclusive.
    pub fn high_watermark(&self) -> Offset {
        self.replicated_end.map_or(self.durable_end, |end| end.min(self.durable_end))
    }

    /// Exclusive: below it everything is as durable here as the topic wants it.
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Batches are appended under `epoch` from now on: somebody leads anew, or another one does.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        assert!(self.leader_epoch <= epoch, "leader epochs go up");
        self.leader_epoch = epoch;
    }

    /// This replica leads under its epoch, which begins where the log ends.
    pub fn begin_leading(&mut self) {
        self.epochs.assign(self.leader_epoch, self.log_end);
    }

    /// There are other replicas, and this is how far the high watermark is as this one knows it; `None`: there are
    /// none any more.
    pub fn replicate_from(&mut self, high_watermark: Option<Offset>) {
        self.replicated_end = high_watermark;
        self.settle_transactions();
    }

    /// `None`: there are no other replicas, as far as the log has heard.
    pub fn replicated_end(&self) -> Option<Offset> {
        self.replicated_end
    }

    /// Replication has moved the high watermark.
    pub fn replicated(&mut self, high_watermark: Offset) {
        assert!(high_watermark <= self.durable_end, "the high watermark passed what is durable");
        assert!(self.replicated_end.is_some_and(|before| before <= high_watermark), "it moved back");
        self.replicate_from(Some(high_watermark));
    }

    fn settle_transactions(&mut self) {
        let high_watermark = self.high_watermark();
        if let Some(transactions) = &mut self.transactions {
            transactions.replicated(high_watermark);
        }
    }

    /// Exclusive: below it every transaction has ended, with a marker that stays. Where a log start was moved
    /// past the beginning of an open one, it is the log start. O(log n) in the open transactions.
    pub fn last_stable_offset(&self) -> Offset {
        let open = self.producers.first_open_transaction();
        let unreplicated = self.transactions.as_ref().and_then(|all| all.first_unreplicated());
        let unstable = [open, unreplicated].into_iter().flatten().min();
        let high_watermark = self.high_watermark();
        unstable.map_or(high_watermark, |first| first.max(self.log_start).min(high_watermark))
    }

    /// Exclusive: below it every transaction has ended for good, also where a topic acknowledges what is not
    /// flushed. What is taken away because of how a transaction ended lies below it.
    pub fn settled_end(&self) -> Offset {
        let open = self.producers.first_open_transaction();
        let unstored = self.transactions.as_ref().and_then(|all| all.first_unstored());
        let unreplicated = self.transactions.as_ref().and_then(|all| all.first_unreplicated());
        let unsettled = [open, unstored, unreplicated].into_iter().flatten().min();
        let settled = self.stored_end.min(self.high_watermark());
        unsettled.map_or(settled, |first| first.min(settled))
    }

    /// Exclusive: how far a reader may read.
    pub fn readable_end(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::Uncommitted => self.high_watermark(),
            Isolation::Committed => self.last_stable_offset(),
        }
    }

    /// Aborted transactions whose markers lie in the active segment, in the order of these.
    pub fn active_aborted(&self) -> &[AbortedTransaction] {
        self.transactions.as_ref().map_or(&[], |transactions| transactions.aborted())
    }

    /// What the file of the active segment's transaction index would say.
    pub fn active_transactions(&self) -> Option<TransactionIndex> {
        (self.active_checksums.has_transactions() != HasTransactions::No).then(|| TransactionIndex {
            aborted: self.active_aborted().to_vec(),
            first_open: self.producers.first_open_transaction(),
        })
    }

    pub fn durable_place(&self) -> Place {
        self.durable_place
    }

    /// Exclusive. The recovery point of the segments: what lies beyond may be in the journal only.
    pub fn stored_end(&self) -> Offset {
        self.stored_end
    }

    pub fn stored_place(&self) -> Place {
        self.stored_place
    }

    pub fn active(&self) -> &SegmentInfo {
        &self.active
    }

    pub fn active_index(&self) -> &SegmentIndex {
        &self.active_index
    }

    pub fn active_checksums(&self) -> &SegmentChecksums {
        &self.active_checksums
    }

    pub fn closed(&self) -> &VecDeque<SegmentInfo> {
        &self.closed
    }

    pub fn epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    /// Where the next batch goes.
    pub fn end_place(&self) -> Place {
        Place { segment: self.active.base_offset, file_position: self.active.size }
    }

    /// Judges a validated batch. Changes nothing.
    pub fn decide_append(
        &self,
        batch: &BatchView<'_>,
        now: Timestamp,
    ) -> Result<AppendDecision, AppendRejected> {
        let size = batch.size();
        if size > self.config.batch_size_max {
            return Err(AppendRejected::BatchTooLarge { size, size_max: self.config.batch_size_max });
        }
        if size as u64 > self.config.segment_size_max {
            return Err(AppendRejected::SegmentTooSmall { size, size_max: self.config.segment_size_max });
        }
        self.check_timestamp(batch, now)?;
        match (batch.producer(), batch.writer()) {
            (Some(producer), _) => match self.producers.check(&producer)? {
                SequenceCheck::Append => {}
                SequenceCheck::Duplicate(stored) => return Ok(AppendDecision::Duplicate(stored)),
            },
            // Offsets that a group coordinator commits in a transaction.
            (None, Some((id, epoch))) => self.producers.check_unsequenced(id, epoch)?,
            (None, None) => {}
        }
        self.plan_append(batch, self.log_end, now).map(AppendDecision::Append)
    }

    /// Judges a marker of a transaction's coordinator; `batch` is its control batch. Changes nothing.
    pub fn decide_marker(
        &self,
        marker: &EndMarker,
        version: TransactionVersion,
        batch: &BatchView<'_>,
        now: Timestamp,
    ) -> Result<AppendPlan, AppendRejected> {
        assert!(EndMarker::read(batch).as_ref() == Some(marker), "the batch is that of the marker");
        self.producers.check_marker(marker, version)?;
        self.plan_append(batch, self.log_end, now)
    }

    fn plan_append(
        &self,
        batch: &BatchView<'_>,
        base_offset: Offset,
        now: Timestamp,
    ) -> Result<AppendPlan, AppendRejected> {
        let size = batch.size();
        let last_offset = base_offset.advance(batch.last_offset_delta()).ok_or(AppendRejected::Full)?;
        last_offset.advance(1).ok_or(AppendRejected::Full)?;
        let max_timestamp = if self.config.append_time { now } else { batch.max_timestamp() };
        let incoming = IncomingBatch { size: size as u32, last_offset, max_timestamp };
        let limits = self.roll_limits();
        let is_listed_full = self.transactions.as_ref().is_some_and(|transactions| transactions.is_full());
        let rolls = roll_reason(&self.active, &incoming, &limits, now).is_some()
            || ((is_listed_full || self.active_index.is_full(self.config.index_size_max))
                && self.active.size > 0);
        let (segment, file_position) =
            if rolls { (self.log_end, 0) } else { (self.active.base_offset, self.active.size) };
        Ok(AppendPlan { base_offset, segment, file_position, size: size as u32, rolls })
    }

    fn roll_limits(&self) -> RollLimits {
        let LogConfig { segment_size_max, segment_ms, segment_jitter_ms, .. } = *self.config;
        let jitter_ms =
            roll_jitter_ms(self.jitter_seed, self.active.base_offset, segment_jitter_ms.min(segment_ms));
        RollLimits { segment_bytes: segment_size_max, segment_ms: segment_ms - jitter_ms }
    }

    fn check_timestamp(&self, batch: &BatchView<'_>, now: Timestamp) -> Result<(), AppendRejected> {
        let timestamp = batch.max_timestamp();
        if self.config.append_time || timestamp.0 < 0 {
            return Ok(());
        }
        let behind = now.0.saturating_sub(timestamp.0) > self.config.timestamp_before_max_ms;
        let ahead = timestamp.0.saturating_sub(now.0) > self.config.timestamp_after_max_ms;
        if behind || ahead {
            return Err(AppendRejected::Timestamp { timestamp: timestamp.0 });
        }
        Ok(())
    }

    /// Closes the active segment; the next batch starts a new one at the log end.
    pub fn roll(&mut self, now: Timestamp) -> ClosedSegment {
        assert!(self.active.size > 0, "an empty segment was rolled");
        let active = SegmentInfo::empty(self.log_end, now);
        let index = SegmentIndex::new(self.log_end, self.config.index_interval_bytes);
        let info = std::mem::replace(&mut self.active, active);
        let index = std::mem::replace(&mut self.active_index, index);
        let segment = SegmentId { base_offset: self.log_end, ..self.active_checksums.segment() };
        let checksums = std::mem::replace(&mut self.active_checksums, SegmentChecksums::new(segment));
        let mut info = info;
        info.has_transactions = checksums.has_transactions();
        let aborted = self.transactions.as_mut().map(|transactions| transactions.take_aborted());
        let transactions = (info.has_transactions != HasTransactions::No).then(|| TransactionIndex {
            aborted: aborted.unwrap_or_default(),
            first_open: self.producers.first_open_transaction(),
        });
        self.closed.push_back(info);
        ClosedSegment { info, index, checksums, transactions }
    }

    /// Places a batch as the leader has it: it was judged there. Its offset may lie behind the log end, where
    /// compaction has taken what was between.
    pub fn plan_replicated(
        &self,
        batch: &BatchView<'_>,
        now: Timestamp,
    ) -> Result<AppendPlan, AppendRejected> {
        assert!(self.log_end <= batch.base_offset(), "what is there already is not sent");
        self.plan_append(batch, batch.base_offset(), now)
    }

    /// Takes in a batch that was planned by [`decide_append`](Self::decide_append),
    /// [`decide_marker`](Self::decide_marker) or [`plan_replicated`](Self::plan_replicated), rolled for if the plan said so, and has its place written into
    /// it.
    pub fn apply_append(&mut self, plan: &AppendPlan, batch: &BatchView<'_>, now: Timestamp) {
        assert!(self.log_end <= plan.base_offset, "a plan was applied after another append");
        assert!(plan.segment == self.active.base_offset, "a plan was applied without its roll");
        assert!(batch.base_offset() == plan.base_offset);
        let stored = StoredBatch::new(batch, plan.file_position);
        self.active_index.observe(&stored);
        self.active_checksums.observe(batch.header(), stored.size);
        self.active.append(&stored, now);
        self.epochs.assign(stored.leader_epoch, stored.base_offset);
        if let Some(event) = ProducerEvent::of(batch, &stored, now)
            && let Some(ended) = self.producers.take(&event)
        {
            self.transactions.get_or_insert_default().ended(&ended);
        }
        self.log_end = batch.end_offset();
    }

    /// A write to the journal or the segment was issued that reaches the log end.
    pub fn sealed(&mut self, end: Offset) {
        assert!(end == self.log_end, "a write is sealed at the log end");
        let last = self.sealed_ends.back().map_or(self.durable_end, |(end, _)| *end);
        if last < end {
            self.sealed_ends.push_back((end, self.end_place()));
        }
    }

    /// The same, and it goes to the segment.
    pub fn segment_sealed(&mut self, end: Offset) {
        self.sealed(end);
        self.segment_ends.push_back((end, self.end_place()));
    }

    /// Everything below `end` is as durable as the topic wants it: it may be read and acknowledged.
    pub fn durable(&mut self, end: Offset) {
        assert!(self.durable_end <= end, "the durable end moved back");
        assert!(end <= self.log_end);
        (self.durable_end, self.durable_place) =
            reached(&mut self.sealed_ends, end, (self.durable_end, self.durable_place));
        self.settle_transactions();
    }

    /// Everything below `end` is flushed in its segments. Comes after [`durable`](Self::durable).
    pub fn stored(&mut self, end: Offset) {
        assert!(self.stored_end <= end, "the stored end moved back");
        assert!(end <= self.durable_end, "what is stored is durable");
        (self.stored_end, self.stored_place) =
            reached(&mut self.segment_ends, end, (self.stored_end, self.stored_place));
        if let Some(transactions) = &mut self.transactions {
            transactions.stored(end);
        }
    }

    /// The active segment was rolled while everything was stored: the durable place moves along.
    pub fn rolled_while_stored(&mut self) {
        assert!(self.stored_end == self.log_end);
        self.durable_place = self.end_place();
        self.stored_place = self.end_place();
    }

    /// Whether everything below `start` is flushed: a log start that is noted says that it was. Where
    /// acknowledgements wait for writes only, what they cover may still go with the power.
    pub fn is_flushed_below(&self, start: Offset) -> bool {
        match self.config.durability {
            Durability::Fsync => start <= self.durable_end,
            Durability::Write(_) => start <= self.stored_end,
        }
    }

    /// Moves the log start forward (retention, DeleteRecords). Never past the high watermark.
    pub fn advance_log_start(&mut self, to: Offset) {
        assert!(to <= self.high_watermark(), "the log start passed the high watermark");
        self.log_start = self.log_start.max(to);
        self.epochs.truncate_from_start(self.log_start);
    }

    /// Closed segments that hold nothing at or above the log start.
    pub fn droppable_segments(&self) -> usize {
        let next_base = |at: usize| {
            self.closed.get(at + 1).map_or(self.active.base_offset, |segment| segment.base_offset)
        };
        (0..self.closed.len()).take_while(|at| next_base(*at) <= self.log_start).count()
    }

    /// Forgets those of them that are final; the caller removes their files. One that begins at `written`
    /// or later may still be written to: its roll is not finished on disk, and it goes next time.
    pub fn drop_final_segments(&mut self, written: Offset) -> Vec<SegmentInfo> {
        let final_count = self.closed.partition_point(|segment| segment.base_offset < written);
        self.drop_segments(self.droppable_segments().min(final_count))
    }

    /// Forgets the `count` oldest closed segments; the caller removes their files.
    pub fn drop_segments(&mut self, count: usize) -> Vec<SegmentInfo> {
        self.closed.drain(..count).collect()
    }

    /// The oldest closed segment whose largest timestamp is not known.
    pub fn first_unindexed(&self) -> Option<Offset> {
        self.closed.iter().find(|segment| !segment.is_indexed).map(|segment| segment.base_offset)
    }

    /// The batches of a closed segment were looked through. It may have been dropped meanwhile.
    pub fn indexed(&mut self, segment: Offset, max_timestamp: Timestamp) {
        let found = self.closed.iter_mut().find(|closed| closed.base_offset == segment);
        if let Some(closed) = found {
            closed.max_timestamp = max_timestamp;
            closed.is_indexed = true;
        }
    }

    /// A closed segment's largest timestamp is not what its batches say: they are to be looked through.
    pub fn doubt_timestamp(&mut self, segment: Offset) {
        let found = self.closed.iter_mut().find(|closed| closed.base_offset == segment);
        if let Some(closed) = found {
            closed.max_timestamp = Timestamp::NONE;
            closed.is_indexed = false;
        }
    }

    /// The checksums of a closed segment were read.
    pub fn note_transactions(&mut self, segment: Offset, has_transactions: HasTransactions) {
        if let Some(found) = self.closed.iter_mut().find(|closed| closed.base_offset == segment) {
            found.has_transactions = has_transactions;
        }
    }

    /// Whether batches of a closed segment are part of transactions; `None` when there is no such segment.
    pub fn closed_has_transactions(&self, segment: Offset) -> Option<HasTransactions> {
        let at = self.closed.binary_search_by_key(&segment, |closed| closed.base_offset).ok()?;
        Some(self.closed[at].has_transactions)
    }

    /// What the index of a closed segment is checked against; `None` when there is no such segment.
    pub fn closed_extent(&self, segment: Offset) -> Option<SegmentExtent> {
        let at = self.closed.binary_search_by_key(&segment, |closed| closed.base_offset).ok()?;
        let next = self.closed.get(at + 1).unwrap_or(&self.active);
        let size = self.closed[at].size;
        Some(SegmentExtent { base_offset: segment, end_offset: next.base_offset, size })
    }

    /// Whether these closed segments are still there, one after the other: retention may take them
    /// while they are compacted.
    pub fn holds_segments(&self, bases: &[Offset]) -> bool {
        let from = bases
            .first()
            .map_or(0, |first| self.closed.partition_point(|segment| segment.base_offset < *first));
        let found = self.closed.iter().skip(from).take(bases.len());
        found.map(|segment| &segment.base_offset).eq(bases)
    }

    /// Puts a compacted segment in the place of closed ones.
    pub fn replace_segments(&mut self, replaced: &[Offset], compacted: SegmentInfo) {
        assert!(replaced.first() == Some(&compacted.base_offset), "the first one's place is taken");
        assert!(self.holds_segments(replaced), "what is replaced was looked at before");
        let from = self.closed.partition_point(|segment| segment.base_offset < compacted.base_offset);
        self.closed.drain(from + 1..from + replaced.len());
        self.closed[from] = compacted;
        // Nothing of the segment behind them may be there yet: then these ends are that of the last one.
        let end = Place { segment: compacted.base_offset, file_position: compacted.size };
        for place in [&mut self.durable_place, &mut self.stored_place] {
            if replaced.contains(&place.segment) {
                *place = end;
            }
        }
    }

    /// The timestamp of a closed segment's first batch was read; a start does not.
    pub fn note_first_timestamp(&mut self, segment: Offset, timestamp: Timestamp) {
        if let Some(found) = self.closed.iter_mut().find(|closed| closed.base_offset == segment) {
            found.first_timestamp = Some(timestamp);
        }
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.closed.iter().map(|segment| segment.size).sum::<u64>() + self.active.size
    }

    /// The segment that holds `offset`, and the first byte after what is durable of it.
    pub fn locate(&self, offset: Offset) -> Option<(Offset, u64)> {
        if offset >= self.durable_end {
            return None;
        }
        let (segment, size) = self.locate_appended(offset)?;
        let is_last = segment == self.durable_place.segment;
        Some((segment, if is_last { self.durable_place.file_position } else { size }))
    }

    /// The segment that holds `offset`, and the first byte after what was appended to it.
    pub fn locate_appended(&self, offset: Offset) -> Option<(Offset, u64)> {
        if offset < self.log_start || offset >= self.log_end {
            return None;
        }
        let after = self.closed.partition_point(|segment| segment.base_offset <= offset);
        let segment = if offset >= self.active.base_offset {
            self.active
        } else {
            self.closed[after.checked_sub(1)?]
        };
        Some((segment.base_offset, segment.size))
    }
}

/// Takes the ends up to `end` out of a queue; `end` is one of them, or where it stands already.
fn reached(ends: &mut ShortQueue<(Offset, Place)>, end: Offset, from: (Offset, Place)) -> (Offset, Place) {
    let mut at = from;
    while let Some(next) = ends.front().copied()
        && next.0 <= end
    {
        at = next;
        ends.pop_front();
    }
    assert!(at.0 == end, "what is durable ends inside a write");
    at
}

#[cfg(test)]
mod tests;
