//! Batches of the replicas as the storage engine keeps them: record batches that say all that the model's do.
//!
//! ```text
//! header: base offset, leader epoch, count of records, producer │ value 8 │ producer 4 │ sequence 4 │ filling
//! ```

use crate::random::Random;
use crate::replication::log::{Batch, offset};
use odradek::codec::record_batch::{BatchHeader, BatchView, Compression, assign_offset, write_batch};
use odradek::types::{LeaderEpoch, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// When all of them were made, milliseconds since 1970.
const MADE_AT: Timestamp = Timestamp(1_700_000_000_000);

/// The same on every replica.
pub fn encode(batch: &Batch) -> Vec<u8> {
    let mut payload = batch.value.to_be_bytes().to_vec();
    payload.extend_from_slice(&batch.producer.to_be_bytes());
    payload.extend_from_slice(&batch.sequence.to_be_bytes());
    let mut dice = Random::new(batch.value);
    let filling_max = if dice.one_in(8) { 4000 } else { 300 };
    let filling = dice.below(filling_max) as usize;
    payload.resize(payload.len() + filling, batch.value as u8);
    let header = BatchHeader {
        compression: Compression::None,
        transactional: false,
        record_count: batch.count,
        base_timestamp: MADE_AT,
        max_timestamp: MADE_AT,
        producer: (batch.producer > 0)
            .then(|| (ProducerId(batch.producer.into()), ProducerEpoch(0), Sequence(batch.sequence as i32))),
    };
    let mut bytes = Vec::new();
    write_batch(&header, &payload, &mut bytes);
    assign_offset(&mut bytes, offset(batch.base), LeaderEpoch(batch.epoch));
    bytes
}

/// `None` for what [`encode`] has not made.
pub fn decode(view: &BatchView<'_>) -> Option<Batch> {
    let payload = view.payload();
    let u32_at = |at: usize| Some(u32::from_be_bytes(*payload.get(at..)?.first_chunk()?));
    let batch = Batch {
        base: view.base_offset().get(),
        count: view.record_count(),
        epoch: view.leader_epoch().0,
        producer: u32_at(8)?,
        sequence: u32_at(12)?,
        value: u64::from_be_bytes(*payload.first_chunk()?),
    };
    (encode(&batch) == view.bytes()).then_some(batch)
}

/// The last sequence that the engine has of a producer whose last batch this is.
pub fn last_sequence(sequence: u32, count: u32) -> Sequence {
    Sequence((sequence + count - 1) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_says_all_of_a_batch() {
        for value in 1..50 {
            let batch = Batch { base: 7 * value, count: 3, epoch: 4, producer: 2, sequence: 9, value };
            let bytes = encode(&batch);
            let (view, rest) = BatchView::split_first(&bytes).expect("a whole batch");
            assert!(rest.is_empty() && view.validate_stored().is_ok());
            assert_eq!(decode(&view), Some(batch));
        }
    }
}
