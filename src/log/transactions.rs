//! Which transactions of a partition are decided, and which of those were aborted: how far readers of
//! committed records may read, and what they have to leave out (KIP-98).
//!
//! ```text
//! offset        10      11      12       13      14       15      16
//! producer 1    begins                   more    COMMIT
//! producer 2            begins  more                      ABORT
//! flushed up to                                           ▲ high watermark
//! undecided     11: its marker is appended and may still be lost
//! readable      10: the last stable offset is 11; with the marker flushed it is the high watermark, and
//!               who reads from 11 on is told: leave out what producer 2 wrote from 11 on, up to its marker
//! ```
//!
//! Open transactions are the producers' ([`producers`](crate::log::producers)). Here are those that have
//! ended above the high watermark, and the aborted ones of the active segment; those of closed ones lie in
//! `.txnindex` files beside them, whose layout is in [`index`]. A transaction is listed by the segment that
//! has its marker, wherever it began.
//! Source: Kafka `ProducerStateManager`, `UnifiedLog.lastStableOffset`, `TransactionIndex`.

pub mod index;

use crate::codec::control_record::TransactionOutcome;
use crate::log::producers::EndedTransaction;
use crate::log::transactions::index::TransactionIndex;
use crate::types::limits::ABORTED_PER_SEGMENT_MAX;
use crate::types::{Offset, ProducerId};
use std::collections::{BTreeMap, VecDeque};

/// Which records a reader gets (`isolation.level`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Below the high watermark.
    #[default]
    Uncommitted,
    /// Below the last stable offset, and with the aborted transactions named.
    Committed,
}

/// A transaction whose records a reader of committed records leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbortedTransaction {
    pub first_offset: Offset,
    pub producer: ProducerId,
    /// The marker's.
    pub last_offset: Offset,
    /// What was stable once the marker was there.
    pub last_stable_offset: Offset,
}

impl AbortedTransaction {
    /// Whether a reader of the offsets from `from` to `end` (exclusive) has to know of it.
    pub fn overlaps(&self, from: Offset, end: Offset) -> bool {
        self.last_offset >= from && self.first_offset < end
    }
}

/// Looks for the aborted transactions that a read of one segment has to name: in that segment, and in those
/// behind it as far as transactions reach that were open at its end.
///
/// Lives: for one read. Pure.
#[derive(Debug)]
pub struct AbortedSearch {
    from: Offset,
    end: Offset,
    found: Vec<AbortedTransaction>,
}

impl AbortedSearch {
    /// `from`: the offset that is asked for; `end`: the end of its segment or the last stable offset,
    /// whichever comes first: a read ends there at the latest. Exclusive.
    pub fn new(from: Offset, end: Offset) -> AbortedSearch {
        AbortedSearch { from, end, found: Vec::new() }
    }

    /// Takes the index of the next segment. Whether those behind it are of interest.
    pub fn take(&mut self, index: &TransactionIndex) -> bool {
        self.take_listed(&index.aborted);
        // Of what began behind the read nobody asks.
        index.first_open.is_some_and(|first| first < self.end)
    }

    /// Takes what the active segment lists; there is none behind it.
    pub fn take_listed(&mut self, aborted: &[AbortedTransaction]) {
        self.found.extend(aborted.iter().filter(|entry| entry.overlaps(self.from, self.end)));
    }

    /// What a read that ends at `end` has to name, in the order of the markers.
    pub fn finish(mut self, end: Offset) -> Vec<AbortedTransaction> {
        self.found.retain(|entry| entry.overlaps(self.from, end));
        self.found
    }
}

/// Lives: one per partition that has ever seen a transaction end, on its owner shard. Pure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionTransactions {
    /// Ended, with markers at or above the high watermark: first offset and marker.
    unreplicated: BTreeMap<Offset, Offset>,
    /// Marker and first offset of those that have ended and are not flushed in their segments, in the order of
    /// the markers.
    unstored: VecDeque<(Offset, Offset)>,
    /// Aborted, with markers in the active segment, in the order of these.
    aborted: Vec<AbortedTransaction>,
}

impl PartitionTransactions {
    /// What a start found in the active segment. Everything found is flushed.
    pub fn recovered(aborted: Vec<AbortedTransaction>) -> Option<Box<PartitionTransactions>> {
        let is_needed = !aborted.is_empty();
        is_needed.then(|| Box::new(PartitionTransactions { aborted, ..PartitionTransactions::default() }))
    }

    /// A marker was appended.
    pub fn ended(&mut self, transaction: &EndedTransaction) {
        self.unreplicated.insert(transaction.first_offset, transaction.last_offset);
        self.unstored.push_back((transaction.last_offset, transaction.first_offset));
        self.aborted.extend(aborted(transaction));
    }

    /// Everything below `high_watermark` stays: what ended there is decided for readers too. O(n) in the
    /// transactions that ended above the last one.
    pub fn replicated(&mut self, high_watermark: Offset) {
        self.unreplicated.retain(|_, marker| *marker >= high_watermark);
    }

    /// First offset of the oldest transaction that has ended and may yet be lost.
    pub fn first_unreplicated(&self) -> Option<Offset> {
        self.unreplicated.first_key_value().map(|(first, _)| *first)
    }

    /// Everything below `stored_end` is flushed in its segment. Amortised O(1).
    pub fn stored(&mut self, stored_end: Offset) {
        while self.unstored.pop_front_if(|(marker, _)| *marker < stored_end).is_some() {}
    }

    /// First offset of the oldest transaction whose end a loss of power may take back, whatever readers were
    /// told. O(n) in those.
    pub fn first_unstored(&self) -> Option<Offset> {
        self.unstored.iter().map(|(_, first)| *first).min()
    }

    /// Of the active segment, in the order of their markers.
    pub fn aborted(&self) -> &[AbortedTransaction] {
        &self.aborted
    }

    /// The active segment is to be closed before it lists more.
    pub fn is_full(&self) -> bool {
        self.aborted.len() >= ABORTED_PER_SEGMENT_MAX
    }

    /// The active segment is closed.
    pub fn take_aborted(&mut self) -> Vec<AbortedTransaction> {
        std::mem::take(&mut self.aborted)
    }
}

/// The entry of a transaction index, if it was aborted.
pub fn aborted(transaction: &EndedTransaction) -> Option<AbortedTransaction> {
    let is_aborted = transaction.outcome == TransactionOutcome::Abort;
    is_aborted.then_some(AbortedTransaction {
        first_offset: transaction.first_offset,
        producer: transaction.producer,
        last_offset: transaction.last_offset,
        last_stable_offset: transaction.last_stable_offset,
    })
}

#[cfg(test)]
mod tests;
