//! The idempotent producers of a partition (KIP-98): is a batch the next of its producer, one that
//! is stored already, or out of order?
//!
//! ```text
//! sequences of one producer:   … 40─44 │ 45─45 │ 46─60 │ 61─70 │ 71─71 │ 72 expected next
//!                                        └─ the last five batches: a retry of one of them ─┘
//!                                           is answered with the offsets it already has
//! ```
//!
//! The rules are those of Kafka's `ProducerAppendInfo` and `ProducerStateEntry`. A producer that is
//! not known (new, expired, or all of its batches deleted) may begin at any sequence; a new epoch
//! begins at 0. Kafka 4 has no answer of its own for a duplicate older than the window: it is out of
//! order like any other gap. [`Producers::check`] and [`Producers::record`] both happen when a batch
//! is appended, before it is flushed, so that pipelined requests follow each other.
//!
//! Two deliberate differences. Idleness is measured from the append, not from the batch's own
//! timestamp, so that a producer that replays old data is not forgotten while it writes. And past
//! [`PRODUCERS_PER_PARTITION_MAX`] the producer that has not written for longest is forgotten.
//!
//! Absent: transactions. Their two fields in a snapshot are kept as they are found.
//! The snapshot file's layout is in `snapshot.rs`.

mod snapshot;
mod table;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::codec::record_batch::BatchProducer;
use crate::types::limits::{PRODUCER_BATCHES_RETAINED, PRODUCERS_PER_PARTITION_MAX};
use crate::types::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use table::ProducerTable;

pub use snapshot::{
    EncodedProducers, ProducerSnapshot, SnapshotBatch, SnapshotError, SnapshotListing, SnapshotProducer,
};

/// Producers that one look for idle ones looks at: some 100 µs.
pub const EXPIRE_STEP_COUNT: usize = 512;

/// What to do with a producer's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    Append,
    /// It is stored already: nothing is appended, and these offsets are the answer.
    Duplicate(RetainedBatch),
}

/// Why a producer's batch is refused. `codec::error_code` assigns the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`: batches before this one are missing, or it is a duplicate
    /// that is no longer remembered, or a new epoch does not begin at 0.
    #[error("sequence {got:?} where {expected:?} was expected")]
    OutOfOrder { expected: Sequence, got: Sequence },
    /// `INVALID_PRODUCER_EPOCH` (KIP-588): a newer instance of this producer has written.
    #[error("producer epoch {got:?} is behind {current:?}")]
    StaleEpoch { current: ProducerEpoch, got: ProducerEpoch },
}

/// A batch that a producer has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedBatch {
    pub base_sequence: Sequence,
    pub last_sequence: Sequence,
    pub base_offset: Offset,
    /// Inclusive.
    pub last_offset: Offset,
    /// The batch's max timestamp: the log append time of a `LogAppendTime` topic.
    pub timestamp: Timestamp,
}

/// A batch that was given its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedBatch {
    pub producer: BatchProducer,
    pub base_offset: Offset,
    /// Inclusive.
    pub last_offset: Offset,
    /// The batch's max timestamp.
    pub timestamp: Timestamp,
    /// Wall clock.
    pub appended_at: Timestamp,
}

/// The newest that a producer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    pub epoch: ProducerEpoch,
    /// Inclusive; `None` when nothing but a transaction marker was written in this epoch.
    pub last_offset: Option<Offset>,
}

/// Whether [`Producers::truncate_to`] could tell the state at the new end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Rewind {
    Complete,
    /// What some producer had written before the new end is no longer remembered: the state has to
    /// be built again from the newest snapshot at or below the end and the batches after it.
    Incomplete,
}

/// Lives: one per partition, on its owner shard. Pure: no clock, no I/O.
/// Shape: two ordered tables, O(log n) per batch; about 250 bytes per producer.
/// Invariant: `by_recency` holds exactly one entry per producer, under its newest batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producers {
    by_id: ProducerTable,
    /// Least recently used first: offsets are given in the order of appends.
    by_recency: BTreeSet<(Offset, ProducerId)>,
    count_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ProducerState {
    epoch: ProducerEpoch,
    batches: Window,
    appended_at: Timestamp,
    /// As found in a snapshot (KIP-98 transactions); -1 and `None` for producers of our own.
    coordinator_epoch: i32,
    transaction_start: Option<Offset>,
}

impl Default for Producers {
    fn default() -> Producers {
        Producers::with_count_max(PRODUCERS_PER_PARTITION_MAX)
    }
}

impl Producers {
    pub fn new() -> Producers {
        Producers::default()
    }

    fn with_count_max(count_max: usize) -> Producers {
        assert!(count_max > 0);
        Producers { by_id: ProducerTable::default(), by_recency: BTreeSet::new(), count_max }
    }

    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Judges a batch from a client. Changes nothing; a batch that is to be appended is
    /// [`record`](Self::record)ed once it has its offset.
    pub fn check(&self, batch: &BatchProducer) -> Result<SequenceCheck, SequenceError> {
        let Some(state) = self.by_id.get(batch.id) else {
            return Ok(SequenceCheck::Append);
        };
        if batch.epoch < state.epoch {
            return Err(SequenceError::StaleEpoch { current: state.epoch, got: batch.epoch });
        }
        let expected = if batch.epoch == state.epoch {
            if let Some(stored) = state.batches.find(batch) {
                return Ok(SequenceCheck::Duplicate(stored));
            }
            state.batches.next_sequence()
        } else {
            Sequence(0)
        };
        if batch.base_sequence == expected {
            Ok(SequenceCheck::Append)
        } else {
            Err(SequenceError::OutOfOrder { expected, got: batch.base_sequence })
        }
    }

    /// What the log has to keep of a producer: its newest batch holds the sequence that the next one
    /// is judged by, and a marker its epoch (Kafka `UnifiedLog.lastRecordsOfActiveProducers`).
    pub fn last_record(&self, id: ProducerId) -> Option<LastRecord> {
        let state = self.by_id.get(id)?;
        let last_offset = state.batches.as_slice().last().map(|batch| batch.last_offset);
        Some(LastRecord { epoch: state.epoch, last_offset })
    }

    /// Takes note of a batch that was appended, in the order of offsets. What the log holds is not
    /// judged again (recovery, replication): an older epoch replaces a newer one as in Kafka.
    pub fn record(&mut self, batch: &AcceptedBatch) {
        assert!(batch.base_offset <= batch.last_offset);
        let id = batch.producer.id;
        if !self.by_id.contains(id) {
            if self.by_id.len() == self.count_max {
                self.forget_least_recent();
            }
            let state = ProducerState {
                epoch: batch.producer.epoch,
                batches: Window::default(),
                appended_at: batch.appended_at,
                coordinator_epoch: -1,
                transaction_start: None,
            };
            self.by_id.insert(id, state);
        }
        let state = self.by_id.get_mut(id).expect("it is there now");
        self.by_recency.remove(&(state.recency(), id));
        if state.epoch != batch.producer.epoch {
            state.epoch = batch.producer.epoch;
            state.batches = Window::default();
        }
        state.batches.push(RetainedBatch {
            base_sequence: batch.producer.base_sequence,
            last_sequence: batch.producer.last_sequence,
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
            timestamp: batch.timestamp,
        });
        state.appended_at = batch.appended_at;
        self.by_recency.insert((state.recency(), id));
        assert_eq!(self.by_id.len(), self.by_recency.len());
    }

    /// Forgets producers that have not written for `idle_max` (`producer.id.expiration.ms`). Looks at
    /// [`EXPIRE_STEP_COUNT`] of them, from `from` on, and returns where the next look begins; `None` at
    /// the end.
    pub fn expire(&mut self, from: ProducerId, now: Timestamp, idle_max: Duration) -> Option<ProducerId> {
        let idle_max_ms = i64::try_from(idle_max.as_millis()).unwrap_or(i64::MAX);
        let is_idle = |state: &ProducerState| {
            let idle_ms = now.0.saturating_sub(state.appended_at.0);
            state.transaction_start.is_none() && idle_ms >= idle_max_ms
        };
        let mut rest = self.by_id.iter_from(from);
        let looked_at = rest.by_ref().take(EXPIRE_STEP_COUNT).filter(|(_, state)| is_idle(state));
        let idle: Vec<(Offset, ProducerId)> = looked_at.map(|(id, state)| (state.recency(), id)).collect();
        let next = rest.next().map(|(id, _)| id);
        drop(rest);
        for entry in idle.iter().rev() {
            self.by_id.remove(entry.1);
            self.by_recency.remove(entry);
        }
        next
    }

    /// Forgets every batch with offsets at or past `end`. O(k log n) for k producers that wrote some.
    pub fn truncate_to(&mut self, end: Offset) -> Rewind {
        let mut rewind = Rewind::Complete;
        let newer = self.by_recency.range((end, ProducerId(i64::MIN))..);
        for (_, id) in newer.copied().collect::<Vec<_>>() {
            let state = self.by_id.get_mut(id).expect("who is listed by recency is there");
            let recency = state.recency();
            if !state.batches.truncate_to(end) {
                continue; // It has none.
            }
            let (left, is_gone) = (state.recency(), state.batches.as_slice().is_empty());
            self.by_recency.remove(&(recency, id));
            if is_gone {
                rewind = Rewind::Incomplete;
                self.by_id.remove(id);
            } else {
                self.by_recency.insert((left, id));
            }
        }
        assert_eq!(self.by_id.len(), self.by_recency.len());
        rewind
    }

    fn forget_least_recent(&mut self) {
        if let Some((_, id)) = self.by_recency.pop_first() {
            self.by_id.remove(id);
        }
    }
}

impl ProducerState {
    fn recency(&self) -> Offset {
        self.batches.as_slice().last().map_or(Offset::ZERO, |batch| batch.last_offset)
    }
}

/// The newest batches of one producer and epoch, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    batches: [RetainedBatch; PRODUCER_BATCHES_RETAINED],
    count: usize,
}

impl Default for Window {
    fn default() -> Window {
        const UNUSED: RetainedBatch = RetainedBatch {
            base_sequence: Sequence(0),
            last_sequence: Sequence(0),
            base_offset: Offset::ZERO,
            last_offset: Offset::ZERO,
            timestamp: Timestamp::NONE,
        };
        Window { batches: [UNUSED; PRODUCER_BATCHES_RETAINED], count: 0 }
    }
}

impl Window {
    fn as_slice(&self) -> &[RetainedBatch] {
        &self.batches[..self.count]
    }

    fn push(&mut self, batch: RetainedBatch) {
        if self.count == self.batches.len() {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        self.batches[self.count] = batch;
        self.count += 1;
    }

    /// The stored batch with exactly this range of sequences.
    fn find(&self, batch: &BatchProducer) -> Option<RetainedBatch> {
        let same = |stored: &&RetainedBatch| {
            stored.base_sequence == batch.base_sequence && stored.last_sequence == batch.last_sequence
        };
        self.as_slice().iter().find(same).copied()
    }

    /// 0 when nothing but a transaction marker was written in this epoch.
    fn next_sequence(&self) -> Sequence {
        self.as_slice().last().map_or(Sequence(0), |batch| batch.last_sequence.advance(1))
    }

    /// Whether anything was dropped. What is left answers every retry that a client can still
    /// send: at most as many batches are in flight as the window is long.
    fn truncate_to(&mut self, end: Offset) -> bool {
        let kept = self.as_slice().partition_point(|batch| batch.last_offset < end);
        let dropped = kept < self.count;
        let batches = self.batches;
        *self = Window::default();
        batches[..kept].iter().for_each(|batch| self.push(*batch));
        dropped
    }
}

#[cfg(test)]
mod tests;
