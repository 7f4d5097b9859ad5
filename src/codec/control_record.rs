//! Control batches: the markers that end a transaction in each of its partitions (KIP-98).
//!
//! A control batch is a record batch with the control and the transactional bit, a producer, no sequence
//! and one record, never compressed. The record's key says what it is, its value who wrote it:
//!
//! | offset | size | field of the key |
//! |---|---|---|
//! | 0 | 2 | version: 0 |
//! | 2 | 2 | type: 0 abort, 1 commit; others end no transaction |
//!
//! | offset | size | field of a marker's value |
//! |---|---|---|
//! | 0 | 2 | version: 0 |
//! | 2 | 4 | epoch of the transaction coordinator |
//!
//! Readers take the fields that they know from later versions, which may only append others.
//! Source: Kafka `ControlRecordType`, `EndTransactionMarker`, `MemoryRecords.writeEndTransactionalMarker`.

use crate::codec::record_batch::{BatchView, Compression, write_control_batch};
use crate::codec::records::{NewRecord, Records, write_record};
use crate::types::{CoordinatorEpoch, ProducerEpoch, ProducerId, Timestamp};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransactionOutcome {
    Commit,
    Abort,
}

/// What a coordinator has written into a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndMarker {
    pub producer: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub coordinator_epoch: CoordinatorEpoch,
    pub outcome: TransactionOutcome,
}

impl EndMarker {
    /// Appends the whole control batch, base offset 0, to `out`.
    pub fn write(&self, now: Timestamp, out: &mut Vec<u8>) {
        let kind = match self.outcome {
            TransactionOutcome::Abort => ABORT,
            TransactionOutcome::Commit => COMMIT,
        };
        let mut key = [0; 4];
        key[..2].copy_from_slice(&KEY_VERSION.to_be_bytes());
        key[2..].copy_from_slice(&kind.to_be_bytes());
        let mut value = [0; 6];
        value[..2].copy_from_slice(&VALUE_VERSION.to_be_bytes());
        value[2..].copy_from_slice(&self.coordinator_epoch.0.to_be_bytes());
        let mut payload = Vec::with_capacity(24);
        let record = NewRecord { key: Some(&key), value: Some(&value), ..NewRecord::default() };
        write_record(&record, &mut payload);
        write_control_batch((self.producer, self.producer_epoch), now, &payload, out);
    }

    /// Reads a marker. `None` for batches that are none, for control records of other kinds, and for a
    /// marker whose record was compacted away.
    pub fn read(batch: &BatchView<'_>) -> Option<EndMarker> {
        let outcome = marker_outcome(batch)?;
        let (producer, producer_epoch) = batch.writer()?;
        let value = record(batch)?.1.unwrap_or_default();
        let coordinator_epoch = i32::from_be_bytes(*value.get(2..)?.first_chunk()?);
        Some(EndMarker {
            producer,
            producer_epoch,
            coordinator_epoch: CoordinatorEpoch(coordinator_epoch),
            outcome,
        })
    }
}

/// How a control batch ends a transaction; `None` when it ends none.
pub fn marker_outcome(batch: &BatchView<'_>) -> Option<TransactionOutcome> {
    let key = record(batch)?.0?;
    match i16::from_be_bytes(*key.get(2..)?.first_chunk()?) {
        ABORT => Some(TransactionOutcome::Abort),
        COMMIT => Some(TransactionOutcome::Commit),
        _ => None,
    }
}

type KeyAndValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

fn record<'a>(batch: &BatchView<'a>) -> Option<KeyAndValue<'a>> {
    if !batch.is_control() || batch.compression() != Some(Compression::None) {
        return None;
    }
    let record = Records::new(batch.payload(), batch.record_count()).next()?.ok()?;
    Some((record.key, record.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::record_batch::seal;

    fn marker(outcome: TransactionOutcome) -> EndMarker {
        EndMarker {
            producer: ProducerId(0x0102),
            producer_epoch: ProducerEpoch(3),
            coordinator_epoch: CoordinatorEpoch(9),
            outcome,
        }
    }

    fn written(marker: &EndMarker) -> Vec<u8> {
        let mut bytes = Vec::new();
        marker.write(Timestamp(0x30), &mut bytes);
        bytes
    }

    /// Built by hand after Kafka's schemas.
    #[test]
    fn layout_is_kafkas() {
        let bytes = written(&marker(TransactionOutcome::Commit));
        let mut golden = vec![0; 8]; // Base offset.
        golden.extend(66i32.to_be_bytes()); // 49 bytes of header behind the length, 17 of a record.
        golden.extend((-1i32).to_be_bytes()); // Leader epoch.
        golden.push(2); // Magic.
        golden.extend(&bytes[17..21]); // CRC, checked below.
        golden.extend([0, 0b11_0000]); // Control, transactional.
        golden.extend(0i32.to_be_bytes()); // Last offset delta.
        golden.extend(0x30i64.to_be_bytes()); // Base and max timestamp.
        golden.extend(0x30i64.to_be_bytes());
        golden.extend(0x0102i64.to_be_bytes()); // Producer.
        golden.extend(3i16.to_be_bytes());
        golden.extend((-1i32).to_be_bytes()); // No sequence.
        golden.extend(1i32.to_be_bytes()); // One record: 16 bytes, no attributes, deltas 0 and 0,
        golden.extend([32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 9, 0]); // key, value, no headers.
        assert_eq!(bytes, golden);
        let (view, rest) = BatchView::split_first(&bytes).unwrap();
        assert_eq!((view.validate_stored(), rest.len()), (Ok(()), 0));
    }

    #[test]
    fn markers_are_read_as_written_and_nothing_else_is_one() {
        for outcome in [TransactionOutcome::Commit, TransactionOutcome::Abort] {
            let bytes = written(&marker(outcome));
            let (view, _) = BatchView::split_first(&bytes).unwrap();
            assert_eq!(EndMarker::read(&view), Some(marker(outcome)));
            assert_eq!(marker_outcome(&view), Some(outcome));
        }
        let bytes = written(&marker(TransactionOutcome::Commit));
        let changed = |at: usize, to: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = to;
            seal(&mut bytes);
            let (view, _) = BatchView::split_first(&bytes).unwrap();
            (EndMarker::read(&view).is_some(), marker_outcome(&view).is_some())
        };
        let key = 61 + 5;
        assert_eq!(changed(key + 1, 7), (true, true), "a later version of the key");
        assert_eq!(changed(key + 3, 2), (false, false), "a leader change ends no transaction");
        assert_eq!(changed(22, 0b01_0000), (false, false), "no control batch");
        assert_eq!(changed(22, 0b11_0001), (false, false), "compressed");
        assert_eq!(changed(key - 1, 6), (false, false), "a key that is too short");
    }
}
