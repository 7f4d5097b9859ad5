//! The idempotent producers of a partition (KIP-98): is a batch the next of its producer, one that
//! is stored already, or out of order?
//!
//! ```text
//! sequences of one producer:   … 40─44 │ 45─45 │ 46─60 │ 61─70 │ 71─71 │ 72 expected next
//!                                        └─ the last five batches: a retry of one of them ─┘
//!                                           is answered with the offsets it already has
//! ```
//!
//! A producer may write in transactions. Each of these ends with a marker that its coordinator has appended;
//! until then the producer's state has the offset where it began:
//!
//! ```text
//! offset        10      11      12       13      14       15
//! producer 1    begins                   more    commit
//! producer 2            begins  more                      abort
//! open          10      10 11   10 11    10 11   11       none      below the first nothing is undecided
//! ```
//!
//! The first batch of a transaction is taken only when the coordinator has said that the partition is part
//! of it (KIP-890, [`verification`]): otherwise a batch that comes late, behind the marker, would begin a
//! transaction that nobody ends.
//!
//! The rules are those of Kafka's `ProducerAppendInfo` and `ProducerStateEntry`. A producer that is
//! not known (new, expired, or all of its batches deleted) may begin at any sequence; a new epoch
//! begins at 0. Kafka 4 has no answer of its own for a duplicate older than the window: it is out of
//! order like any other gap. [`Producers::check`] and [`Producers::record`] both happen when a batch
//! is appended, before it is flushed, so that pipelined requests follow each other.
//!
//! Two deliberate differences. Idleness is measured from the append, not from the batch's own
//! timestamp, so that a producer that replays old data is not forgotten while it writes. And past
//! [`PRODUCERS_PER_PARTITION_MAX`] the producer that has not written for longest is forgotten. None is
//! while its transaction is open.
//!
//! Which of the ended transactions are not durable yet, and which were aborted, is kept by
//! [`transactions`](crate::log::transactions). The snapshot file's layout is in `snapshot.rs`.

mod snapshot;
mod table;
pub mod verification;

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::time::Duration;

use crate::codec::control_record::{EndMarker, TransactionOutcome};
use crate::codec::record_batch::{BatchProducer, BatchView};
use crate::log::segment::StoredBatch;
use crate::types::limits::{
    PRODUCER_BATCHES_RETAINED, PRODUCERS_PER_PARTITION_MAX, TRANSACTIONS_PER_PARTITION_MAX,
};
use crate::types::{
    CoordinatorEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TransactionVersion,
};

use table::ProducerTable;
use verification::{VerificationGuard, VerificationNeed, Verifications};

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
    /// `INVALID_TXN_STATE`: no transaction of the producer is open here, and its coordinator has not said
    /// that one is to be.
    #[error("the transaction is not known to have this partition")]
    NotVerified,
    /// `INVALID_TXN_STATE`.
    #[error("a transaction of the producer is open, and the batch is not part of one")]
    NotTransactional,
    #[error("{TRANSACTIONS_PER_PARTITION_MAX} transactions are open in the partition")]
    TooManyTransactions,
}

/// Why a marker is refused. `codec::error_code` assigns the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkerRejected {
    /// `INVALID_PRODUCER_EPOCH`: of a transaction that has ended.
    #[error("producer epoch {got:?} is behind {current:?}")]
    StaleEpoch { current: ProducerEpoch, got: ProducerEpoch },
    /// `TRANSACTION_COORDINATOR_FENCED`: a newer coordinator has written here.
    #[error("coordinator epoch {got:?} is behind {current:?}")]
    CoordinatorFenced { current: CoordinatorEpoch, got: CoordinatorEpoch },
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

/// What a batch of the log means for its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerEvent {
    Batch(AcceptedBatch),
    /// Part of a transaction, and not numbered: offsets that a group coordinator commits in it.
    Unsequenced {
        producer: ProducerId,
        epoch: ProducerEpoch,
        written: Unsequenced,
        appended_at: Timestamp,
    },
    Marker {
        producer: ProducerId,
        epoch: ProducerEpoch,
        /// `None` once compaction has dropped the marker's record, when nothing else of its transaction
        /// was left.
        end: Option<(TransactionOutcome, CoordinatorEpoch)>,
        written: Unsequenced,
        appended_at: Timestamp,
    },
}

impl ProducerEvent {
    /// `None` for batches without a producer, and for control batches that end no transaction.
    /// Cost: the fields of the header; of a control batch its record.
    pub fn of(batch: &BatchView<'_>, stored: &StoredBatch, appended_at: Timestamp) -> Option<ProducerEvent> {
        let (id, epoch) = batch.writer()?;
        let written = Unsequenced { offset: stored.base_offset, timestamp: stored.max_timestamp };
        if batch.is_control() {
            let end = EndMarker::read(batch).map(|marker| (marker.outcome, marker.coordinator_epoch));
            let is_marker = end.is_some() || batch.record_count() == 0;
            let marker = ProducerEvent::Marker { producer: id, epoch, end, written, appended_at };
            return is_marker.then_some(marker);
        }
        Some(match batch.producer() {
            Some(producer) => ProducerEvent::Batch(AcceptedBatch {
                producer,
                base_offset: stored.base_offset,
                last_offset: stored.last_offset,
                timestamp: stored.max_timestamp,
                appended_at,
            }),
            None => ProducerEvent::Unsequenced { producer: id, epoch, written, appended_at },
        })
    }
}

/// A marker, or a batch that is not numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsequenced {
    /// Its first.
    pub offset: Offset,
    pub timestamp: Timestamp,
}

/// A transaction whose marker was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedTransaction {
    pub producer: ProducerId,
    pub first_offset: Offset,
    /// The marker's.
    pub last_offset: Offset,
    pub outcome: TransactionOutcome,
    /// Where the oldest transaction begins that was still open behind the marker; without any, the end of
    /// the marker.
    pub last_stable_offset: Offset,
}

/// A producer for who describes them; the wire's -1 is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerDescription {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    pub last_sequence: Option<Sequence>,
    pub last_timestamp: Timestamp,
    pub coordinator_epoch: CoordinatorEpoch,
    /// First offset of the open transaction.
    pub transaction_start: Option<Offset>,
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
/// Shape: two ordered tables, O(log n) per batch; about 280 bytes per producer.
/// Invariant: `by_recency` holds exactly one entry per producer, under what it wrote last; `transactions`
/// has those that the producers say are open.
#[derive(Clone, Debug)]
pub struct Producers {
    by_id: ProducerTable,
    /// Least recently used first: offsets are given in the order of appends.
    by_recency: BTreeSet<(Offset, ProducerId)>,
    count_max: usize,
    /// `None` until the first transaction.
    transactions: Option<Box<OpenTransactions>>,
}

#[derive(Clone, Debug, Default)]
struct OpenTransactions {
    /// By their first offsets.
    open: BTreeMap<Offset, ProducerId>,
    verifications: Verifications,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ProducerState {
    epoch: ProducerEpoch,
    batches: Window,
    /// The newest marker, or batch that is not numbered.
    unsequenced: Option<Unsequenced>,
    appended_at: Timestamp,
    /// Of the last marker.
    coordinator_epoch: CoordinatorEpoch,
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
        Producers {
            by_id: ProducerTable::default(),
            by_recency: BTreeSet::new(),
            count_max,
            transactions: None,
        }
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
        let state = self.by_id.get(batch.id);
        if let Some(state) = state
            && let Some(stored) = state.duplicate_of(batch)?
        {
            return Ok(SequenceCheck::Duplicate(stored));
        }
        if batch.is_transactional {
            self.check_transaction(batch.id, batch.epoch)?;
        }
        if let Some(verification) = self.verifications().and_then(|all| all.find(batch.id, batch.epoch)) {
            let has_batches = state.is_some_and(|state| !state.batches.as_slice().is_empty());
            if let Some(expected) = verification.expected_sequence(batch.base_sequence, has_batches) {
                return Err(SequenceError::OutOfOrder { expected, got: batch.base_sequence });
            }
        }
        let Some(state) = state else { return Ok(SequenceCheck::Append) };
        let expected = if batch.epoch == state.epoch { state.batches.next_sequence() } else { Sequence(0) };
        if batch.base_sequence != expected {
            return Err(SequenceError::OutOfOrder { expected, got: batch.base_sequence });
        }
        if state.transaction_start.is_some() && !batch.is_transactional {
            return Err(SequenceError::NotTransactional);
        }
        Ok(SequenceCheck::Append)
    }

    /// Judges a batch that is part of a transaction and not numbered, from a group coordinator.
    pub fn check_unsequenced(&self, id: ProducerId, epoch: ProducerEpoch) -> Result<(), SequenceError> {
        if let Some(state) = self.by_id.get(id) {
            state.check_epoch(epoch)?;
        }
        self.check_transaction(id, epoch)
    }

    /// Judges a marker (Kafka `ProducerAppendInfo.appendEndTxnMarker`). In version 2 an epoch ends with its
    /// transaction, and a marker has the next one: one that has the producer's own comes late, unless it is
    /// the same one again, whose answer was lost. Kafka, too, appends that once more.
    pub fn check_marker(
        &self,
        marker: &EndMarker,
        version: TransactionVersion,
    ) -> Result<(), MarkerRejected> {
        let Some(state) = self.by_id.get(marker.producer) else { return Ok(()) };
        let (current, got) = (state.epoch, marker.producer_epoch);
        let is_late = match version {
            TransactionVersion::V1 => got < current,
            TransactionVersion::V2 => got < current || (got == current && state.transaction_start.is_some()),
        };
        if is_late {
            return Err(MarkerRejected::StaleEpoch { current, got });
        }
        let (current, got) = (state.coordinator_epoch, marker.coordinator_epoch);
        if got < current {
            return Err(MarkerRejected::CoordinatorFenced { current, got });
        }
        Ok(())
    }

    /// Whether a marker can be from a coordinator, of which none has an epoch above `newest`: one that is kept of
    /// none would keep all others out for ever. In a directory of another cluster's there may be higher ones.
    pub fn may_be_coordinators(&self, marker: &EndMarker, newest: CoordinatorEpoch) -> bool {
        let known = self.by_id.get(marker.producer).map(|state| state.coordinator_epoch);
        marker.coordinator_epoch <= newest || known.is_some_and(|known| marker.coordinator_epoch <= known)
    }

    /// Whether the coordinator is to be asked about a batch of a transaction before that is appended. A
    /// batch that is stored already needs nobody's word.
    pub fn begin_verification(
        &mut self,
        batch: &BatchProducer,
        version: TransactionVersion,
        now: Timestamp,
    ) -> Result<VerificationNeed, SequenceError> {
        if let Some(state) = self.by_id.get(batch.id)
            && (state.duplicate_of(batch)?.is_some() || state.is_in_transaction(batch.epoch))
        {
            return Ok(VerificationNeed::Nothing);
        }
        let transactions = self.transactions.get_or_insert_default();
        Ok(transactions.verifications.begin(batch, version, now))
    }

    /// The coordinator says that the partition is part of the transaction. `false` when a marker, or a newer
    /// epoch, came between the question and the answer: it is about another transaction then.
    pub fn verified(&mut self, id: ProducerId, guard: VerificationGuard) -> bool {
        let transactions = self.transactions.as_mut();
        transactions.is_some_and(|transactions| transactions.verifications.verified(id, guard))
    }

    /// The coordinator says that it is not, and will not be.
    pub fn refuted(&mut self, id: ProducerId, guard: VerificationGuard) {
        if let Some(transactions) = &mut self.transactions {
            transactions.verifications.refuted(id, guard);
        }
    }

    fn verifications(&self) -> Option<&Verifications> {
        self.transactions.as_ref().map(|transactions| &transactions.verifications)
    }

    /// Whether a batch may go on with a transaction, or begin one.
    fn check_transaction(&self, id: ProducerId, epoch: ProducerEpoch) -> Result<(), SequenceError> {
        if self.by_id.get(id).is_some_and(|state| state.is_in_transaction(epoch)) {
            return Ok(());
        }
        let transactions = self.transactions.as_ref().ok_or(SequenceError::NotVerified)?;
        if !transactions.verifications.find(id, epoch).is_some_and(|found| found.is_verified()) {
            return Err(SequenceError::NotVerified);
        }
        if transactions.open.len() >= TRANSACTIONS_PER_PARTITION_MAX {
            return Err(SequenceError::TooManyTransactions);
        }
        Ok(())
    }

    /// Where the oldest open transaction begins: from there on something is undecided.
    pub fn first_open_transaction(&self) -> Option<Offset> {
        let (first, _) = self.transactions.as_ref()?.open.first_key_value()?;
        Some(*first)
    }

    /// No transaction is open any more; everything else stays as it is.
    pub fn forget_open_transactions(&mut self) {
        let open = self.transactions.as_mut().map(|transactions| std::mem::take(&mut transactions.open));
        for id in open.into_iter().flatten().map(|(_, id)| id) {
            let state = self.by_id.get_mut(id).expect("who has an open transaction is known");
            state.transaction_start = None;
        }
    }

    /// What the log has to keep of a producer: its newest batch holds the sequence that the next one
    /// is judged by, and a marker its epoch (Kafka `UnifiedLog.lastRecordsOfActiveProducers`).
    pub fn last_record(&self, id: ProducerId) -> Option<LastRecord> {
        let state = self.by_id.get(id)?;
        let last_offset = state.batches.as_slice().last().map(|batch| batch.last_offset);
        Some(LastRecord { epoch: state.epoch, last_offset })
    }

    /// At most `count` producers, in the order of their ids, from `from` on.
    pub fn describe(&self, from: ProducerId, count: usize) -> Vec<ProducerDescription> {
        let described = self.by_id.iter_from(from).take(count).map(|(id, state)| state.describe(id));
        described.collect()
    }

    /// Takes note of a batch of the log, in the order of offsets. What the log holds is not judged again
    /// (recovery, replication): an older epoch replaces a newer one as in Kafka. Returns the transaction
    /// that it has ended.
    pub fn take(&mut self, event: &ProducerEvent) -> Option<EndedTransaction> {
        match event {
            ProducerEvent::Batch(batch) => {
                self.record(batch);
                None
            }
            ProducerEvent::Unsequenced { producer, epoch, written, appended_at } => {
                self.update(*producer, *epoch, *appended_at, |state| state.unsequenced = Some(*written));
                self.begin_transaction(*producer, written.offset);
                None
            }
            ProducerEvent::Marker { producer, epoch, end, written, appended_at } => {
                self.update(*producer, *epoch, *appended_at, |state| {
                    state.unsequenced = Some(*written);
                    if let Some((_, coordinator_epoch)) = end {
                        state.coordinator_epoch = *coordinator_epoch;
                    }
                });
                let first_offset = self.end_transaction(*producer)?;
                let (outcome, _) = (*end)?;
                let end = written.offset.advance(1).expect("offsets behind an append");
                Some(EndedTransaction {
                    producer: *producer,
                    first_offset,
                    last_offset: written.offset,
                    outcome,
                    last_stable_offset: self.first_open_transaction().unwrap_or(end),
                })
            }
        }
    }

    /// Takes note of a numbered batch.
    pub fn record(&mut self, batch: &AcceptedBatch) {
        assert!(batch.base_offset <= batch.last_offset);
        let BatchProducer { id, epoch, .. } = batch.producer;
        self.update(id, epoch, batch.appended_at, |state| {
            state.batches.push(RetainedBatch {
                base_sequence: batch.producer.base_sequence,
                last_sequence: batch.producer.last_sequence,
                base_offset: batch.base_offset,
                last_offset: batch.last_offset,
                timestamp: batch.timestamp,
            });
        });
        if batch.producer.is_transactional {
            self.begin_transaction(id, batch.base_offset);
        }
    }

    /// Changes a producer that has written, and puts it where it belongs by recency.
    fn update(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        appended_at: Timestamp,
        change: impl FnOnce(&mut ProducerState),
    ) {
        if !self.by_id.contains(id) {
            if self.by_id.len() >= self.count_max {
                self.forget_least_recent();
            }
            self.by_id.insert(id, ProducerState::new(epoch, appended_at));
        }
        let state = self.by_id.get_mut(id).expect("it is there now");
        self.by_recency.remove(&(state.recency(), id));
        if state.epoch != epoch {
            state.epoch = epoch;
            state.batches = Window::default();
        }
        change(state);
        state.appended_at = appended_at;
        self.by_recency.insert((state.recency(), id));
        assert_eq!(self.by_id.len(), self.by_recency.len());
    }

    /// The producer has written a part of a transaction: at `offset` it begins, unless it is open.
    fn begin_transaction(&mut self, id: ProducerId, offset: Offset) {
        let transactions = self.transactions.get_or_insert_default();
        transactions.verifications.remove(id);
        let state = self.by_id.get_mut(id).expect("it has just written");
        // Where another one begins there already, a snapshot was not this log's.
        if state.transaction_start.is_none()
            && let Entry::Vacant(vacant) = transactions.open.entry(offset)
        {
            vacant.insert(id);
            state.transaction_start = Some(offset);
        }
    }

    /// Returns where it began; `None` when none was open.
    fn end_transaction(&mut self, id: ProducerId) -> Option<Offset> {
        let start = self.by_id.get_mut(id)?.transaction_start.take();
        let transactions = self.transactions.as_mut()?;
        transactions.verifications.remove(id);
        if let Some(start) = start {
            let listed = transactions.open.remove(&start);
            assert_eq!(listed, Some(id), "an open transaction is listed");
        }
        start
    }

    /// Forgets producers that have not written for `idle_max` (`producer.id.expiration.ms`), but those with an
    /// open transaction. Looks at [`EXPIRE_STEP_COUNT`] of them, from `from` on, and returns where the next
    /// look begins; `None` at the end.
    pub fn expire(&mut self, from: ProducerId, now: Timestamp, idle_max: Duration) -> Option<ProducerId> {
        let idle_max_ms = i64::try_from(idle_max.as_millis()).unwrap_or(i64::MAX);
        if let Some(transactions) = &mut self.transactions {
            transactions.verifications.expire(now, idle_max_ms);
        }
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

    /// Forgets everything with offsets at or past `end`. O(k log n) for k producers that wrote some. A
    /// transaction whose marker goes is open again, which only a replay can tell.
    pub fn truncate_to(&mut self, end: Offset) -> Rewind {
        let mut rewind = Rewind::Complete;
        let newer = self.by_recency.range((end, ProducerId(i64::MIN))..);
        for (recency, id) in newer.copied().collect::<Vec<_>>() {
            let state = self.by_id.get_mut(id).expect("who is listed by recency is there");
            let loses_unsequenced = state.unsequenced.is_some_and(|written| written.offset >= end);
            if !state.batches.truncate_to(end) && !loses_unsequenced {
                continue; // It has none.
            }
            let begins_later = state.transaction_start.is_some_and(|start| start >= end);
            let is_gone = state.batches.as_slice().is_empty() || loses_unsequenced;
            let left = state.recency();
            if is_gone || begins_later {
                self.end_transaction(id);
            }
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

    /// `false` where all have open transactions: nobody is forgotten then, and those have a limit of their own.
    fn forget_least_recent(&mut self) -> bool {
        let may_go = |(_, id): &&(Offset, ProducerId)| {
            self.by_id.get(*id).is_some_and(|state| state.transaction_start.is_none())
        };
        let Some(entry) = self.by_recency.iter().find(may_go).copied() else { return false };
        self.by_recency.remove(&entry);
        self.by_id.remove(entry.1);
        true
    }
}

/// What the log says of its producers is the same. Questions that are open are none of it.
impl PartialEq for Producers {
    fn eq(&self, other: &Producers) -> bool {
        let open = |producers: &Producers| {
            producers.transactions.as_ref().map(|all| all.open.clone()).unwrap_or_default()
        };
        self.by_id == other.by_id
            && self.by_recency == other.by_recency
            && self.count_max == other.count_max
            && open(self) == open(other)
    }
}

impl Eq for Producers {}

impl ProducerState {
    fn new(epoch: ProducerEpoch, appended_at: Timestamp) -> ProducerState {
        ProducerState {
            epoch,
            batches: Window::default(),
            unsequenced: None,
            appended_at,
            coordinator_epoch: CoordinatorEpoch::NONE,
            transaction_start: None,
        }
    }

    fn recency(&self) -> Offset {
        let newest = self.batches.as_slice().last().map(|batch| batch.last_offset);
        newest.max(self.unsequenced.map(|written| written.offset)).unwrap_or_default()
    }

    fn check_epoch(&self, epoch: ProducerEpoch) -> Result<(), SequenceError> {
        if epoch < self.epoch {
            return Err(SequenceError::StaleEpoch { current: self.epoch, got: epoch });
        }
        Ok(())
    }

    /// The stored batch that `batch` is again.
    fn duplicate_of(&self, batch: &BatchProducer) -> Result<Option<RetainedBatch>, SequenceError> {
        self.check_epoch(batch.epoch)?;
        Ok(if batch.epoch == self.epoch { self.batches.find(batch) } else { None })
    }

    /// A newer epoch is another transaction.
    fn is_in_transaction(&self, epoch: ProducerEpoch) -> bool {
        self.transaction_start.is_some() && self.epoch == epoch
    }

    fn describe(&self, id: ProducerId) -> ProducerDescription {
        let newest = self.batches.as_slice().last();
        let written = self.unsequenced.filter(|written| {
            newest.is_none_or(|newest| newest.last_offset < written.offset) // A marker, or like one.
        });
        let last_timestamp = written.map(|written| written.timestamp);
        ProducerDescription {
            id,
            epoch: self.epoch,
            last_sequence: newest.map(|newest| newest.last_sequence),
            last_timestamp: last_timestamp
                .or(newest.map(|newest| newest.timestamp))
                .unwrap_or(Timestamp::NONE),
            coordinator_epoch: self.coordinator_epoch,
            transaction_start: self.transaction_start,
        }
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
