//! Which batches of a fetch belong to aborted transactions (KIP-98). Pure.
//!
//! The broker names, per fetch, producers that aborted and the first offset of each such transaction.
//! From there to its abort marker a producer's batches are passed over.

use std::collections::BTreeSet;

use odradek::codec::record_batch::BatchView;
use odradek::codec::records::Records;

/// An aborted transaction, as a fetch answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aborted {
    pub first_offset: i64,
    pub producer_id: i64,
}

/// Lives: while one partition's part of one answer is read.
pub struct AbortedFilter {
    /// Not reached yet, last first.
    ahead: Vec<Aborted>,
    open: BTreeSet<i64>,
}

const CONTROL_ABORT: i16 = 0;

impl AbortedFilter {
    pub fn new(mut aborted: Vec<Aborted>) -> AbortedFilter {
        aborted.sort_unstable_by(|a, b| b.cmp(a));
        AbortedFilter { ahead: aborted, open: BTreeSet::new() }
    }

    /// Whether the records of `batch` are for the reader. Batches come in offset order.
    pub fn shows(&mut self, batch: &BatchView<'_>) -> bool {
        let last_offset = batch.last_offset().to_wire();
        while let Some(next) = self.ahead.pop_if(|next| next.first_offset <= last_offset) {
            self.open.insert(next.producer_id);
        }
        if !batch.is_transactional() {
            return !batch.is_control();
        }
        let Some(producer_id) = producer_id(batch) else {
            return !batch.is_control();
        };
        if batch.is_control() {
            if control_type(batch) == Some(CONTROL_ABORT) {
                self.open.remove(&producer_id);
            }
            return false;
        }
        !self.open.contains(&producer_id)
    }
}

/// Control batches have no sequence, which [`BatchView::producer`] insists on.
fn producer_id(batch: &BatchView<'_>) -> Option<i64> {
    const PRODUCER_ID_AT: usize = 43;
    let field = batch.bytes().get(PRODUCER_ID_AT..PRODUCER_ID_AT + 8)?;
    Some(i64::from_be_bytes(field.try_into().ok()?)).filter(|id| *id >= 0)
}

/// The key of a control record: version i16, type i16.
fn control_type(batch: &BatchView<'_>) -> Option<i16> {
    let record = Records::new(batch.payload(), batch.record_count()).next()?.ok()?;
    let kind = record.key?.get(2..4)?;
    Some(i16::from_be_bytes([kind[0], kind[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek::codec::record_batch::{BatchHeader, Compression, assign_offset, seal, write_batch};
    use odradek::codec::records::{NewRecord, write_record};
    use odradek::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

    #[test]
    fn an_aborted_producers_batches_are_hidden_until_its_marker() {
        let aborted = vec![Aborted { first_offset: 10, producer_id: 7 }];
        let mut filter = AbortedFilter::new(aborted);
        let shown: Vec<bool> = [
            (5, Some(7), false),  // An earlier, committed transaction of the same producer.
            (10, Some(7), false), // The aborted one.
            (11, Some(8), false), // Another producer's.
            (12, None, false),    // Not transactional.
            (13, Some(7), true),  // The abort marker.
            (14, Some(7), false), // The producer's next transaction.
        ]
        .map(|(offset, producer, control)| show(&mut filter, offset, producer, control))
        .to_vec();
        assert_eq!(shown, [true, false, true, true, false, true]);
    }

    fn show(filter: &mut AbortedFilter, offset: u64, producer: Option<i64>, control: bool) -> bool {
        let mut payload = Vec::new();
        let key = [0, 0, 0, CONTROL_ABORT as u8];
        write_record(&NewRecord { key: Some(&key), ..NewRecord::default() }, &mut payload);
        let header = BatchHeader {
            compression: Compression::None,
            transactional: producer.is_some(),
            record_count: 1,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(0),
            producer: producer.map(|id| (ProducerId(id), ProducerEpoch(0), Sequence(0))),
        };
        let mut bytes = Vec::new();
        write_batch(&header, &payload, &mut bytes);
        if control {
            bytes[22] |= 1 << 5;
            seal(&mut bytes);
        }
        assign_offset(&mut bytes, Offset::new(offset).unwrap(), LeaderEpoch(0));
        let (batch, _) = BatchView::split_first(&bytes).unwrap();
        filter.shows(&batch)
    }
}
