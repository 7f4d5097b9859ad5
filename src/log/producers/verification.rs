//! What a transaction's coordinator has said of a partition, before the first batch is appended (KIP-890).
//!
//! ```text
//! first batch ─► begin ─► Ask(guard) ─► the coordinator ─► verified(guard) ─► append ─► the transaction is
//!                                            │                 ▲                         open: nobody asks
//!                 marker, or a newer epoch ──┴─► forgotten ────┘ refused: of another transaction
//! ```
//!
//! Without the question a batch that was delayed in the network could come behind the marker that ended its
//! transaction, and begin one that nobody ends: readers of committed records would wait for ever. The guard
//! is there because an answer may come late as well: between it and its question the transaction may have
//! ended, and another one begun that does not have this partition.
//!
//! A question is about one epoch, and so is its answer: an epoch that nobody has may be asked about beside the
//! one that the coordinator knows. Once one is confirmed, older ones are not current any more.
//!
//! Nothing of this is written down: after a start the coordinator is asked again.
//! Source: Kafka `VerificationStateEntry`, `VerificationGuard`, `UnifiedLog.maybeStartTransactionVerification`.
//! One deliberate difference: there the guard outlives a newer epoch.

use crate::codec::record_batch::BatchProducer;
use crate::types::limits::VERIFICATIONS_PER_PARTITION_MAX;
use crate::types::{ProducerEpoch, ProducerId, Sequence, Timestamp, TransactionVersion};
use std::collections::BTreeMap;
use std::ops::{RangeBounds, RangeInclusive};

/// Tells the answer to one question from that to another. Never given out twice by a partition, as
/// long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerificationGuard(u64);

/// What is to be done before a batch of a transaction is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerificationNeed {
    /// The transaction is open here, or the batch is stored already, or the coordinator was asked before.
    Nothing,
    /// Its coordinator is to be asked whether the partition is part of the transaction.
    Ask(VerificationGuard),
}

/// A producer's epoch that is about to begin a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verification {
    guard: VerificationGuard,
    version: TransactionVersion,
    /// The smallest that was asked about: one behind it must not be stored first, or this one would be out
    /// of order for ever.
    lowest_sequence: Sequence,
    begun_at: Timestamp,
    is_verified: bool,
}

impl Verification {
    pub(super) fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// What the first sequence of a batch has to be, if it is not `got`. `has_batches`: some of the producer
    /// are known. With version 2 every transaction has an epoch of its own, so that nothing but its start can
    /// come from a producer that is not known.
    pub(super) fn expected_sequence(&self, got: Sequence, has_batches: bool) -> Option<Sequence> {
        if self.version == TransactionVersion::V2 && !has_batches && got != Sequence(0) {
            return Some(Sequence(0));
        }
        (got > self.lowest_sequence).then_some(self.lowest_sequence)
    }
}

/// Lives: with a partition's producers, from their first transaction on.
/// Invariant: at most [`VERIFICATIONS_PER_PARTITION_MAX`] entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Verifications {
    by_writer: BTreeMap<(ProducerId, ProducerEpoch), Verification>,
    next_guard: u64,
}

impl Verifications {
    pub(super) fn find(&self, id: ProducerId, epoch: ProducerEpoch) -> Option<&Verification> {
        self.by_writer.get(&(id, epoch))
    }

    pub(super) fn begin(
        &mut self,
        batch: &BatchProducer,
        version: TransactionVersion,
        now: Timestamp,
    ) -> VerificationNeed {
        let writer = (batch.id, batch.epoch);
        if let Some(found) = self.by_writer.get_mut(&writer) {
            found.lowest_sequence = found.lowest_sequence.min(batch.base_sequence);
            return if found.is_verified {
                VerificationNeed::Nothing
            } else {
                VerificationNeed::Ask(found.guard)
            };
        }
        if self.by_writer.len() >= VERIFICATIONS_PER_PARTITION_MAX {
            let oldest = self.by_writer.iter().min_by_key(|(_, found)| found.guard);
            if let Some(oldest) = oldest.map(|(writer, _)| *writer) {
                self.by_writer.remove(&oldest);
            }
        }
        let guard = VerificationGuard(self.next_guard);
        self.next_guard += 1;
        let verification = Verification {
            guard,
            version,
            lowest_sequence: batch.base_sequence,
            begun_at: now,
            is_verified: false,
        };
        self.by_writer.insert(writer, verification);
        VerificationNeed::Ask(guard)
    }

    pub(super) fn verified(&mut self, id: ProducerId, guard: VerificationGuard) -> bool {
        let Some(epoch) = self.epoch_of(id, guard) else { return false };
        self.by_writer.get_mut(&(id, epoch)).expect("it was just there").is_verified = true;
        self.remove_epochs(id, ..epoch);
        true
    }

    pub(super) fn refuted(&mut self, id: ProducerId, guard: VerificationGuard) {
        if let Some(epoch) = self.epoch_of(id, guard)
            && !self.by_writer[&(id, epoch)].is_verified
        {
            self.by_writer.remove(&(id, epoch));
        }
    }

    /// Which epoch a question is about, unless it is forgotten. Mostly there is one.
    fn epoch_of(&self, id: ProducerId, guard: VerificationGuard) -> Option<ProducerEpoch> {
        let mut of_producer = self.by_writer.range(all_of(id));
        of_producer.find(|(_, found)| found.guard == guard).map(|((_, epoch), _)| *epoch)
    }

    /// The transaction is open, or has ended.
    pub(super) fn remove(&mut self, id: ProducerId) {
        self.remove_epochs(id, ..);
    }

    fn remove_epochs(&mut self, id: ProducerId, epochs: impl RangeBounds<ProducerEpoch>) {
        let gone = self.by_writer.extract_if(all_of(id), |(_, epoch), _| epochs.contains(epoch));
        gone.for_each(drop);
    }

    pub(super) fn expire(&mut self, now: Timestamp, idle_max_ms: i64) {
        self.by_writer.retain(|_, found| now.0.saturating_sub(found.begun_at.0) < idle_max_ms);
    }
}

/// A producer's epochs.
fn all_of(id: ProducerId) -> RangeInclusive<(ProducerId, ProducerEpoch)> {
    (id, ProducerEpoch(i16::MIN))..=(id, ProducerEpoch(i16::MAX))
}
