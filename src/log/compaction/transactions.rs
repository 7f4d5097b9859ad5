//! Which transactions a compaction has met: what an aborted one wrote may go, and a marker once
//! nothing of its transaction is left (Kafka `CleanedTransactionMetadata`).
//!
//! Aborted transactions are known from the transaction indexes of the segments (and of those behind them,
//! where a transaction goes on). The compacted segment gets an index of those of which something is left.

use crate::codec::control_record::{TransactionOutcome, marker_outcome};
use crate::codec::record_batch::BatchView;
use crate::log::transactions::AbortedTransaction;
use crate::types::{Offset, ProducerId};
use std::collections::{BTreeMap, BTreeSet};

/// Lives: for one walk over a log, from its start.
#[derive(Debug, Default)]
pub struct CleanedTransactions {
    /// In the order in which they begin.
    aborted: BTreeSet<AbortedTransaction>,
    /// Aborted ones that have begun, and whether a batch of theirs is there.
    open_aborted: BTreeMap<ProducerId, (AbortedTransaction, bool)>,
    open_committed: BTreeSet<ProducerId>,
    /// Those of which records are left: what the cleaned log's transaction index has to say.
    retained: Vec<AbortedTransaction>,
}

impl CleanedTransactions {
    /// Takes what a transaction index says.
    pub fn add_aborted(&mut self, aborted: impl IntoIterator<Item = AbortedTransaction>) {
        self.aborted.extend(aborted);
    }

    /// What the transaction index of the cleaned log has to say.
    pub fn take_retained(&mut self) -> Vec<AbortedTransaction> {
        std::mem::take(&mut self.retained)
    }

    /// The next batch of the log. Whether its records may be discarded: they were aborted, or are the
    /// marker of a transaction of which nothing is left.
    pub fn observe(&mut self, batch: &BatchView<'_>) -> bool {
        self.begin_up_to(batch.last_offset());
        if batch.is_control() { self.observe_marker(batch) } else { self.observe_data(batch) }
    }

    fn observe_data(&mut self, batch: &BatchView<'_>) -> bool {
        let Some((producer, _)) = batch.writer().filter(|_| batch.is_transactional()) else {
            return false;
        };
        match self.open_aborted.get_mut(&producer) {
            Some((_, has_batches)) => {
                *has_batches = true;
                true
            }
            None => {
                self.open_committed.insert(producer);
                false
            }
        }
    }

    fn observe_marker(&mut self, batch: &BatchView<'_>) -> bool {
        let Some((producer, _)) = batch.writer() else {
            return false;
        };
        if batch.record_count() == 0 {
            return true; // Its record was discarded before.
        }
        match marker_outcome(batch) {
            Some(TransactionOutcome::Abort) => match self.open_aborted.remove(&producer) {
                Some((transaction, true)) => {
                    self.retained.push(transaction);
                    false
                }
                Some((_, false)) | None => true,
            },
            Some(TransactionOutcome::Commit) => !self.open_committed.remove(&producer),
            None => false, // Of another kind.
        }
    }

    fn begin_up_to(&mut self, offset: Offset) {
        while let Some(first) = self.aborted.first().copied().filter(|first| first.first_offset <= offset) {
            self.aborted.remove(&first);
            self.open_aborted.entry(first.producer).or_insert((first, false));
        }
    }
}
