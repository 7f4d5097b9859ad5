//! First walk: which offset every key of the dirty part was written at last (Kafka
//! `Cleaner.buildOffsetMap`).
//!
//! ```text
//! offsets   log_start ........ first_dirty .................... first_uncleanable ...... log_end
//!           compacted before   └──── into the map, while there is room ────┘
//!                                              ▲ latest: up to here this pass compacts
//! ```

use super::offset_map::{HashSeed, MapFull, OffsetMap};
use super::payload::{PayloadError, delta_after, records};
use super::transactions::CleanedTransactions;
use crate::codec::record_batch::BatchView;
use crate::types::Offset;

/// Whether the walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapProgress {
    More,
    /// The map is full inside this batch: the rest takes another pass.
    Full,
}

/// Lives: for the first walk of one pass. Pure.
/// Shape: one batch per step.
#[derive(Debug)]
pub struct KeyWalk {
    map: OffsetMap,
    first_dirty: Offset,
    /// Of the batch before.
    last: Option<Offset>,
    transactions: CleanedTransactions,
    scratch: Vec<u8>,
}

impl KeyWalk {
    /// `end`, exclusive: where the walk will stop at the latest. No more keys than offsets.
    pub fn new(first_dirty: Offset, end: Offset, size_max: usize, seed: HashSeed) -> KeyWalk {
        let mut map = OffsetMap::new(end.since(first_dirty), size_max, seed);
        // What was compacted before holds each key once: there is nothing to know of it.
        if let Some(clean) = first_dirty.get().checked_sub(1).and_then(Offset::new) {
            map.advance_latest(clean);
        }
        let transactions = CleanedTransactions::default();
        KeyWalk { map, first_dirty, last: None, transactions, scratch: Vec::new() }
    }

    pub fn transactions(&mut self) -> &mut CleanedTransactions {
        &mut self.transactions
    }

    /// Takes the next batch as it was read.
    ///
    /// Cost per record: its varints and one hash of its key.
    pub fn take(&mut self, bytes: &[u8]) -> Result<MapProgress, PayloadError> {
        let (batch, _) = BatchView::split_first(bytes)?;
        batch.validate_stored()?;
        let got = batch.base_offset();
        if let Some(last) = self.last.filter(|last| got <= *last) {
            return Err(PayloadError::Order { last, got });
        }
        self.last = Some(batch.last_offset());
        let is_aborted = self.transactions.observe(&batch) && !batch.is_control();
        if !batch.is_control() && !is_aborted && batch.last_offset() >= self.first_dirty {
            let mut before = None;
            for (number, record) in (0..).zip(records(&batch, &mut self.scratch)?) {
                let record = record?;
                let delta = delta_after(&record, number, before, &batch)?;
                before = Some(delta);
                let offset = batch.base_offset().advance(delta).unwrap_or(Offset::MAX);
                if let Some(key) = record.key.filter(|_| offset >= self.first_dirty)
                    && let Err(MapFull) = self.map.put(key, offset)
                {
                    return Ok(MapProgress::Full);
                }
            }
        }
        if batch.last_offset() >= self.first_dirty {
            self.map.advance_latest(batch.last_offset());
        }
        Ok(MapProgress::More)
    }

    /// A segment was walked to its end; the next one starts at `next_base`.
    pub fn segment_ended(&mut self, next_base: Offset) {
        if let Some(last) = next_base.get().checked_sub(1).and_then(Offset::new)
            && last >= self.first_dirty
        {
            self.map.advance_latest(last);
        }
    }

    pub fn finish(self) -> OffsetMap {
        self.map
    }
}
