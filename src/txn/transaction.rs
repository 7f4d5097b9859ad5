//! One transactional id: which request it takes, and what becomes of it.
//!
//! Nothing here changes anything: what is decided is a value to be written, and holds once it is.

use crate::codec::control_record::TransactionOutcome;
use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::{PartitionNames, TransactionState, TransactionValue};
use crate::txn::{MarkingId, Ticket, Writer};
use crate::types::{ProducerEpoch, ProducerId, Timestamp, TransactionVersion};
use std::time::Duration;

/// Before the first InitProducerId is written.
pub const NO_EPOCH: ProducerEpoch = ProducerEpoch(-1);

/// No producer is given this epoch or a higher one: what fences it, or ends its transaction, is one more
/// (Kafka `TransactionMetadata.isEpochExhausted`).
const EPOCH_EXHAUSTED: i16 = i16::MAX - 1;

/// A producer id that nobody has; `None` while there is none to be had.
pub type FreshId<'a> = &'a mut dyn FnMut() -> Option<ProducerId>;

/// Asks for a producer id and an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    pub timeout_ms: i32,
    /// Who the producer is, if it knows: it goes on after an error (KIP-360).
    pub expected: Option<Writer>,
}

/// Adds partitions to the transaction, or begins it with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    pub writer: Writer,
    pub version: TransactionVersion,
    pub partitions: PartitionNames,
}

/// Ends the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub writer: Writer,
    pub version: TransactionVersion,
    pub outcome: TransactionOutcome,
}

/// What is to be written, and what holds with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    pub value: TransactionValue,
    pub last_epoch: Option<ProducerEpoch>,
}

/// What an InitProducerId leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Initialised {
    As(Next),
    /// A transaction is aborted first; the producer asks again.
    Fences(Next),
}

/// What an EndTxn leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    By(Next),
    /// It was a repeated one.
    Already(Writer),
}

/// What an addition leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// They have to be written.
    New,
    Already,
    /// Something else is on its way: it is looked at again after that.
    Later,
}

/// Lives: with its coordinator, from its first InitProducerId until it expires.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// As the log has it.
    pub value: TransactionValue,
    /// Before the last InitProducerId that named it; who sends that again gets the same answer.
    pub last_epoch: Option<ProducerEpoch>,
    /// `false`: the log has nothing of it yet.
    pub is_kept: bool,
    /// What it becomes when the write that is on its way ends.
    pub pending: Option<TransactionState>,
    /// Its markers are being written.
    pub marking: Option<MarkingId>,
    /// Additions that wait for what is on its way.
    pub waiting: Vec<(Addition, Ticket)>,
}

fn is_exhausted(epoch: ProducerEpoch) -> bool {
    epoch.0 >= EPOCH_EXHAUSTED
}

/// The last one stays: no producer has it.
fn next_epoch(epoch: ProducerEpoch) -> ProducerEpoch {
    ProducerEpoch(epoch.0.saturating_add(1))
}

/// What `transaction.version` counts as.
fn client_version(version: TransactionVersion) -> i16 {
    match version {
        TransactionVersion::V1 => 1,
        TransactionVersion::V2 => 2,
    }
}

impl Transaction {
    /// Of an id that nobody has used.
    pub fn new(producer: ProducerId, timeout_ms: i32, now: Timestamp) -> Transaction {
        let value = TransactionValue {
            producer,
            epoch: NO_EPOCH,
            previous_producer: None,
            next_producer: None,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: PartitionNames::default(),
            last_update: now,
            start: Timestamp::NONE,
            client_version: 0,
        };
        Transaction { is_kept: false, ..Transaction::from_log(value) }
    }

    pub fn from_log(value: TransactionValue) -> Transaction {
        Transaction {
            value,
            last_epoch: None,
            is_kept: true,
            pending: None,
            marking: None,
            waiting: Vec::new(),
        }
    }

    pub fn writer(&self) -> Writer {
        Writer { producer: self.value.producer, epoch: self.value.epoch }
    }

    /// Who the producer is told to be: where its id is exhausted, who it will be when the transaction has ended.
    pub fn told(&self) -> Writer {
        match self.value.next_producer {
            Some(producer) => Writer { producer, epoch: ProducerEpoch(0) },
            None => self.writer(),
        }
    }

    /// Whether it is the producer under its new id, which holds once the markers of the old one are written.
    fn is_early(&self, writer: Writer) -> bool {
        self.value.state.is_prepared() && self.value.next_producer.is_some() && writer == self.told()
    }

    /// How the transaction goes about its end.
    pub fn version(&self) -> TransactionVersion {
        match self.value.client_version {
            ..2 => TransactionVersion::V1,
            2.. => TransactionVersion::V2,
        }
    }

    // --- InitProducerId

    pub fn init(&self, init: &Init, now: Timestamp, fresh: FreshId<'_>) -> Result<Initialised, ErrorCode> {
        if self.pending.is_some() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let expected = init.expected.filter(|_| self.value.epoch != NO_EPOCH);
        if expected.is_some_and(|expected| self.is_early(expected)) {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        if let Some(expected) = expected {
            self.check_expected(expected)?;
        }
        let expected = expected.map(|expected| expected.epoch);
        match self.value.state {
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                Err(ErrorCode::ConcurrentTransactions)
            }
            // Who comes late must not end what the producer has begun since.
            TransactionState::Ongoing if expected.is_some_and(|epoch| epoch != self.value.epoch) => {
                Err(ErrorCode::ProducerFenced)
            }
            TransactionState::Ongoing => Ok(Initialised::Fences(self.fence(now))),
            TransactionState::Empty
            | TransactionState::CompleteCommit
            | TransactionState::CompleteAbort
            | TransactionState::Dead
            | TransactionState::PrepareEpochFence => {
                self.next_producer(init.timeout_ms, expected, now, fresh).map(Initialised::As)
            }
        }
    }

    fn check_expected(&self, expected: Writer) -> Result<(), ErrorCode> {
        let is_last = self.last_epoch == Some(expected.epoch);
        let is_known = if expected.producer == self.value.producer {
            // The last epoch may be the id's before this one, of which nobody has so high an epoch yet.
            expected.epoch == self.value.epoch || (is_last && expected.epoch < self.value.epoch)
        } else {
            // It was told of a new id, and has not heard.
            let is_previous = self.value.previous_producer == Some(expected.producer);
            is_previous && is_exhausted(expected.epoch) && is_last
        };
        if is_known { Ok(()) } else { Err(ErrorCode::ProducerFenced) }
    }

    fn next_producer(
        &self,
        timeout_ms: i32,
        expected: Option<ProducerEpoch>,
        now: Timestamp,
        fresh: FreshId<'_>,
    ) -> Result<Next, ErrorCode> {
        let TransactionValue { producer, epoch, .. } = self.value;
        let is_repeated = expected.is_some_and(|expected| expected != epoch);
        let (next, last_epoch) = if is_repeated {
            (self.writer(), self.last_epoch)
        } else if is_exhausted(epoch) {
            let producer = fresh().ok_or(ErrorCode::CoordinatorNotAvailable)?;
            (Writer { producer, epoch: ProducerEpoch(0) }, expected)
        } else {
            (Writer { producer, epoch: next_epoch(epoch) }, expected)
        };
        let previous = match is_repeated {
            true => self.value.previous_producer,
            false => self.is_kept.then_some(producer),
        };
        let value = TransactionValue {
            producer: next.producer,
            epoch: next.epoch,
            previous_producer: previous,
            next_producer: None,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: PartitionNames::default(),
            last_update: now,
            start: Timestamp::NONE,
            client_version: self.value.client_version,
        };
        Ok(Next { value, last_epoch })
    }

    /// Aborts the transaction under an epoch that nobody was told.
    pub fn fence(&self, now: Timestamp) -> Next {
        assert!(self.value.state == TransactionState::Ongoing, "there is something to abort");
        let value = TransactionValue {
            epoch: next_epoch(self.value.epoch),
            next_producer: None,
            state: TransactionState::PrepareAbort,
            last_update: now,
            client_version: client_version(TransactionVersion::V1),
            ..self.value.clone()
        };
        Next { value, last_epoch: None }
    }

    // --- Partitions

    fn check_writer(&self, writer: Writer) -> Result<(), ErrorCode> {
        if writer.producer != self.value.producer {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        // The last one is what fences the one before it.
        if writer.epoch != self.value.epoch || writer.epoch.0 > EPOCH_EXHAUSTED {
            return Err(ErrorCode::ProducerFenced);
        }
        Ok(())
    }

    pub fn add(&self, addition: &Addition) -> Result<Added, ErrorCode> {
        let is_ending = self.value.state.is_prepared();
        if self.is_early(addition.writer) {
            return Ok(Added::Later);
        }
        self.check_writer(addition.writer)?;
        match self.pending {
            // Of which the epoch may change.
            Some(TransactionState::Empty) => return Err(ErrorCode::ConcurrentTransactions),
            Some(TransactionState::PrepareCommit | TransactionState::PrepareAbort) => {
                return Err(ErrorCode::ConcurrentTransactions);
            }
            Some(_) => return Ok(Added::Later),
            None if is_ending => return Ok(Added::Later),
            None => {}
        }
        let is_ongoing = self.value.state == TransactionState::Ongoing;
        if is_ongoing && self.value.partitions.contains_all(&addition.partitions) {
            return Ok(Added::Already);
        }
        Ok(Added::New)
    }

    pub fn with_partitions(
        &self,
        added: &PartitionNames,
        version: TransactionVersion,
        now: Timestamp,
    ) -> Next {
        let mut value = self.value.clone();
        if value.state != TransactionState::Ongoing {
            value.start = now;
        }
        value.state = TransactionState::Ongoing;
        value.partitions.add_all(added);
        value.last_update = now;
        value.next_producer = None;
        value.client_version = client_version(version);
        Next { value, last_epoch: self.last_epoch }
    }

    /// Whether the transaction has a partition. What is being written does not count yet; what is appended to
    /// the partition is judged there again.
    pub fn verify(&self, writer: Writer, topic: &str, partition: i32) -> Result<(), ErrorCode> {
        if self.is_early(writer) {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        self.check_writer(writer)?;
        if self.value.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let is_in = self.value.partitions.contains(topic, partition);
        if is_in { Ok(()) } else { Err(ErrorCode::TransactionAbortable) }
    }

    // --- The end

    pub fn end(&self, end: &End, now: Timestamp, fresh: FreshId<'_>) -> Result<Ended, ErrorCode> {
        if self.is_early(end.writer) {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        match end.version {
            TransactionVersion::V1 => self.end_v1(end, now),
            TransactionVersion::V2 => self.end_v2(end, now, fresh),
        }
    }

    fn end_v1(&self, end: &End, now: Timestamp) -> Result<Ended, ErrorCode> {
        self.check_writer(end.writer)?;
        if self.pending.is_some() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        match (self.value.state, end.outcome) {
            (TransactionState::Ongoing, _) => {
                let last_epoch = self.last_epoch;
                Ok(Ended::By(self.prepared(end, (self.value.epoch, None), last_epoch, now)))
            }
            (TransactionState::CompleteCommit, TransactionOutcome::Commit)
            | (TransactionState::CompleteAbort, TransactionOutcome::Abort) => {
                Ok(Ended::Already(self.writer()))
            }
            (TransactionState::PrepareCommit, TransactionOutcome::Commit)
            | (TransactionState::PrepareAbort, TransactionOutcome::Abort) => {
                Err(ErrorCode::ConcurrentTransactions)
            }
            _ => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// Every end has the next epoch, also one that aborts nothing: something may be on its way.
    fn end_v2(&self, end: &End, now: Timestamp, fresh: FreshId<'_>) -> Result<Ended, ErrorCode> {
        let is_repeated = self.is_repeated(end.writer);
        if !is_repeated {
            self.check_writer(end.writer)?;
        }
        if self.pending.is_some() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        match (self.value.state, end.outcome) {
            (TransactionState::PrepareCommit, TransactionOutcome::Commit)
            | (TransactionState::PrepareAbort, TransactionOutcome::Abort)
                if is_repeated =>
            {
                Err(ErrorCode::ConcurrentTransactions)
            }
            (TransactionState::CompleteCommit, TransactionOutcome::Commit)
            | (TransactionState::CompleteAbort, TransactionOutcome::Abort)
                if is_repeated =>
            {
                Ok(Ended::Already(self.writer()))
            }
            _ if is_repeated => Err(ErrorCode::InvalidTxnState),
            // The end of the next one: the producer was told its epoch as soon as this end was decided.
            (TransactionState::PrepareCommit | TransactionState::PrepareAbort, _) => {
                Err(ErrorCode::ConcurrentTransactions)
            }
            (TransactionState::Ongoing, _) | (_, TransactionOutcome::Abort) => {
                let next = match is_exhausted(self.value.epoch) {
                    true => Some(fresh().ok_or(ErrorCode::CoordinatorNotAvailable)?),
                    false => None,
                };
                let epoch = next_epoch(self.value.epoch);
                Ok(Ended::By(self.prepared(end, (epoch, next), None, now)))
            }
            (_, TransactionOutcome::Commit) => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// Whether an EndTxn was answered already: the epoch has been raised by it.
    fn is_repeated(&self, writer: Writer) -> bool {
        if self.version() != TransactionVersion::V2 {
            return false;
        }
        let TransactionValue { producer, epoch, state, previous_producer, .. } = self.value;
        match state {
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                writer.producer == producer && i32::from(writer.epoch.0) + 1 == i32::from(epoch.0)
            }
            TransactionState::CompleteCommit | TransactionState::CompleteAbort => {
                let is_raised =
                    writer.producer == producer && i32::from(writer.epoch.0) + 1 == i32::from(epoch.0);
                // The marker's epoch is one higher, and nobody has it.
                let is_replaced = epoch.0 == 0
                    && writer.producer != producer
                    && previous_producer == Some(writer.producer)
                    && writer.epoch.0 == EPOCH_EXHAUSTED;
                is_raised || is_replaced
            }
            TransactionState::Empty
            | TransactionState::Ongoing
            | TransactionState::Dead
            | TransactionState::PrepareEpochFence => false,
        }
    }

    fn prepared(
        &self,
        end: &End,
        (epoch, next_producer): (ProducerEpoch, Option<ProducerId>),
        last_epoch: Option<ProducerEpoch>,
        now: Timestamp,
    ) -> Next {
        let is_begun = self.value.state == TransactionState::Ongoing;
        let value = TransactionValue {
            epoch,
            next_producer,
            state: match end.outcome {
                TransactionOutcome::Commit => TransactionState::PrepareCommit,
                TransactionOutcome::Abort => TransactionState::PrepareAbort,
            },
            last_update: now,
            start: if is_begun { self.value.start } else { now },
            client_version: client_version(end.version),
            ..self.value.clone()
        };
        Next { value, last_epoch }
    }

    /// All markers are written.
    pub fn completed(&self, now: Timestamp) -> Next {
        let outcome = self.outcome().expect("its end is prepared");
        let TransactionValue { producer, epoch, next_producer, .. } = self.value;
        let value = TransactionValue {
            producer: next_producer.unwrap_or(producer),
            epoch: if next_producer.is_some() { ProducerEpoch(0) } else { epoch },
            previous_producer: Some(producer),
            next_producer: None,
            state: match outcome {
                TransactionOutcome::Commit => TransactionState::CompleteCommit,
                TransactionOutcome::Abort => TransactionState::CompleteAbort,
            },
            partitions: PartitionNames::default(),
            last_update: now,
            ..self.value.clone()
        };
        Next { value, last_epoch: self.last_epoch.filter(|_| next_producer.is_none()) }
    }

    /// How it ends, once that is decided and not completed.
    pub fn outcome(&self) -> Option<TransactionOutcome> {
        match self.value.state {
            TransactionState::PrepareCommit => Some(TransactionOutcome::Commit),
            TransactionState::PrepareAbort => Some(TransactionOutcome::Abort),
            TransactionState::Empty
            | TransactionState::Ongoing
            | TransactionState::CompleteCommit
            | TransactionState::CompleteAbort
            | TransactionState::Dead
            | TransactionState::PrepareEpochFence => None,
        }
    }

    // --- Time

    pub fn is_timed_out(&self, now: Timestamp) -> bool {
        self.pending.is_none()
            && self.value.state == TransactionState::Ongoing
            && now.0.saturating_sub(self.value.start.0) > i64::from(self.value.timeout_ms)
    }

    pub fn is_expired(&self, now: Timestamp, expiration: Duration) -> bool {
        let is_idle = matches!(
            self.value.state,
            TransactionState::Empty | TransactionState::CompleteCommit | TransactionState::CompleteAbort
        );
        let age = u128::try_from(now.0.saturating_sub(self.value.last_update.0)).unwrap_or(0);
        self.pending.is_none() && self.is_kept && is_idle && age >= expiration.as_millis()
    }
}
