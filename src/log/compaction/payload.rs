//! The records of a batch, looked into: by compaction, and where a compacted topic is produced to.

use crate::codec::compression::{DecompressError, decompress};
use crate::codec::record_batch::{BatchError, BatchView, Compression};
use crate::codec::records::{RecordError, RecordView, Records};
use crate::types::Offset;
use crate::types::limits::{DECOMPRESSED_SIZE_MAX, RECORD_ERRORS_MAX};

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
    /// Whole batches in the wrong place: the segment is damaged.
    #[error("base offset {got} behind offset {last}")]
    Order { last: Offset, got: Offset },
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

/// Records of a batch without a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyless {
    pub count: u32,
    /// Their numbers in the batch, at most [`RECORD_ERRORS_MAX`] of them.
    pub records: Vec<u32>,
}

/// Looks for records that a compacted topic does not take: each has to have a key, and to be found again
/// when the log is compacted (Kafka `LogValidator.validateKey`).
pub fn find_keyless(records: Records<'_>) -> Result<Keyless, PayloadError> {
    let mut keyless = Keyless::default();
    for (number, record) in (0..).zip(records) {
        let record = record?;
        if record.offset_delta != number {
            return Err(PayloadError::OffsetDelta { record: number as u32, got: record.offset_delta });
        }
        if record.key.is_none() {
            keyless.count += 1;
            if keyless.records.len() < RECORD_ERRORS_MAX {
                keyless.records.push(number as u32);
            }
        }
    }
    Ok(keyless)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::compression::compress;
    use crate::codec::record_batch::{BatchHeader, write_batch};
    use crate::codec::records::{NewRecord, write_record};
    use crate::types::Timestamp;

    #[test]
    fn records_without_a_key_are_counted_and_the_first_are_named() {
        let payload = payload(&[Some("k"), None, Some("k"), None]);
        let found = find_keyless(Records::new(&payload, 4)).unwrap();
        assert_eq!(found, Keyless { count: 2, records: vec![1, 3] });
        let many = self::payload(&vec![None; RECORD_ERRORS_MAX + 50]);
        let found = find_keyless(Records::new(&many, RECORD_ERRORS_MAX as u32 + 50)).unwrap();
        assert_eq!((found.count as usize, found.records.len()), (RECORD_ERRORS_MAX + 50, RECORD_ERRORS_MAX));
    }

    /// A few compressed bytes may be millions.
    #[test]
    fn what_is_too_much_for_one_turn_is_told_by_what_it_decompresses_to() {
        for codec in
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
        {
            for (size, fits) in [(1_000, true), (TURN_SIZE_MAX + 1, false), (20 << 20, false)] {
                let batch = batch(codec, size);
                let (view, _) = BatchView::split_first(&batch).unwrap();
                let mut scratch = Vec::new();
                let taken = records_in_turn(&view, &mut scratch).unwrap();
                assert_eq!(taken.is_some(), fits, "{codec:?} {size}");
                assert!(scratch.capacity() <= 4 * TURN_SIZE_MAX, "{codec:?}: {} bytes", scratch.capacity());
            }
        }
    }

    fn payload(keys: &[Option<&str>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let key = key.map(str::as_bytes);
            write_record(&NewRecord { offset_delta: at as i32, key, ..NewRecord::default() }, &mut out);
        }
        out
    }

    fn batch(compression: Compression, size: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        write_record(&NewRecord { value: Some(&vec![7; size]), ..NewRecord::default() }, &mut payload);
        let mut packed = Vec::new();
        compress(compression, &payload, &mut packed);
        let header = BatchHeader {
            compression,
            transactional: false,
            record_count: 1,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(0),
            producer: None,
        };
        let mut out = Vec::new();
        write_batch(&header, &packed, &mut out);
        out
    }
}
