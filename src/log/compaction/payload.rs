//! The records of a batch, looked into: by compaction, and where a compacted topic is produced to.

use crate::codec::compression::{DecompressError, decompress};
use crate::codec::record_batch::{BatchError, BatchView, Compression};
use crate::codec::records::{RecordError, RecordView, Records};
use crate::types::limits::DECOMPRESSED_SIZE_MAX;

/// Scratch memory of this size is kept from batch to batch; a larger one is given back.
const SCRATCH_KEPT: usize = 1 << 20;

/// Bytes of records, decompressed, that are looked through without letting others run.
pub const TURN_SIZE_MAX: usize = 192 << 10;

/// Why a batch cannot be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("codec of a batch that was not validated")]
    Codec,
    #[error("record {record} has offset delta {got}")]
    OffsetDelta { record: u32, got: i32 },
    /// Kafka's wording, without the partition.
    #[error("Compacted topic cannot accept message without key (record {record} of the batch)")]
    NoKey { record: u32 },
}

/// The records of a batch whose payload is in `scratch` if it was compressed.
pub fn records<'a>(batch: &BatchView<'a>, scratch: &'a mut Vec<u8>) -> Result<Records<'a>, PayloadError> {
    let codec = batch.compression().ok_or(PayloadError::Codec)?;
    if codec == Compression::None || batch.record_count() == 0 {
        return Ok(Records::new(batch.payload(), batch.record_count()));
    }
    if scratch.capacity() > SCRATCH_KEPT {
        *scratch = Vec::new();
    }
    decompress(codec, batch.payload(), DECOMPRESSED_SIZE_MAX, scratch)?;
    Ok(Records::new(scratch, batch.record_count()))
}

/// The same for as many bytes as one turn of a core may look through; `None` for more.
///
/// Cost: at the slowest codec (gzip, some 300 MB/s) and with the smallest records under 1 ms.
pub fn records_in_turn<'a>(
    batch: &BatchView<'a>,
    scratch: &'a mut Vec<u8>,
) -> Result<Option<Records<'a>>, PayloadError> {
    let codec = batch.compression().ok_or(PayloadError::Codec)?;
    if batch.payload().len() > TURN_SIZE_MAX {
        return Ok(None);
    }
    if codec == Compression::None || batch.record_count() == 0 {
        return Ok(Some(Records::new(batch.payload(), batch.record_count())));
    }
    match decompress(codec, batch.payload(), TURN_SIZE_MAX, scratch) {
        Ok(()) => Ok(Some(Records::new(scratch, batch.record_count()))),
        Err(DecompressError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A record's place in its batch, which must lie in it and behind the one before.
pub fn delta_after(
    record: &RecordView<'_>,
    number: u32,
    before: Option<u32>,
    batch: &BatchView<'_>,
) -> Result<u32, PayloadError> {
    let error = PayloadError::OffsetDelta { record: number, got: record.offset_delta };
    let delta = u32::try_from(record.offset_delta).map_err(|_| error)?;
    let follows = before.is_none_or(|before| before < delta);
    if follows && delta <= batch.last_offset_delta() { Ok(delta) } else { Err(error) }
}

/// Whether a batch from a producer may go into a compacted topic: every record has a key, and can be
/// found again when the log is compacted (Kafka `LogValidator.validateKey`).
///
/// Cost: the batch is decompressed, in the turn of its append.
pub fn check_keys(batch: &BatchView<'_>) -> Result<(), PayloadError> {
    let mut scratch = Vec::new();
    for (number, record) in (0..).zip(records(batch, &mut scratch)?) {
        let record = record?;
        if record.offset_delta != number {
            return Err(PayloadError::OffsetDelta { record: number as u32, got: record.offset_delta });
        }
        if record.key.is_none() {
            return Err(PayloadError::NoKey { record: number as u32 });
        }
    }
    Ok(())
}
