//! Record batch, format v2 (KIP-98): a borrowed view, its checks, and the two rewrites that the
//! broker makes in place. Batches are never decompressed here; see [`super::records`].
//!
//! | offset | size | field | covered by the CRC |
//! |---|---|---|---|
//! | 0 | 8 | base offset | no |
//! | 8 | 4 | batch length: bytes after this field | no |
//! | 12 | 4 | partition leader epoch | no |
//! | 16 | 1 | magic: 2 | no |
//! | 17 | 4 | CRC-32C (Castagnoli) of everything from `attributes` on | |
//! | 21 | 2 | attributes: bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon | yes |
//! | 23 | 4 | last offset delta | yes |
//! | 27 | 8 | base timestamp, ms; the delete horizon if bit 6 is set (KIP-534) | yes |
//! | 35 | 8 | max timestamp, ms | yes |
//! | 43 | 8 | producer id, -1: none | yes |
//! | 51 | 2 | producer epoch | yes |
//! | 53 | 4 | base sequence | yes |
//! | 57 | 4 | record count | yes |
//! | 61 | | records, compressed as one block if a codec is set | yes |
//!
//! All integers big-endian. Source: Kafka `DefaultRecordBatch`.

mod fields;

use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

pub use fields::BatchFields;

const BASE_OFFSET_AT: usize = 0;
const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const RECORD_COUNT_AT: usize = 57;

/// Bytes of a batch before its first record.
pub const BATCH_HEADER_SIZE: usize = 61;
/// Bytes that the length field does not count: base offset and the length itself.
pub const BATCH_OVERHEAD: usize = 12;
/// Offset, in bytes, from which the CRC covers a batch.
pub const CRC_COVERS_FROM: usize = ATTRIBUTES_AT;

const MAGIC_V2: i8 = 2;
const CODEC_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
/// The sequence of what is not numbered.
pub const UNSEQUENCED: Sequence = Sequence(-1);
/// The base timestamp is the delete horizon (KIP-534).
const DELETE_HORIZON: i16 = 1 << 6;

/// CRC-32C, about 100 GB/s on 64 KiB with AVX-512.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The same over bytes that come in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Crc32c {
        Crc32c(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// From the low three bits of the attributes; `None` for 5 to 7.
    pub const fn from_attributes(attributes: i16) -> Option<Compression> {
        match attributes & CODEC_MASK {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    pub const fn attribute_bits(self) -> i16 {
        self as i16
    }

    /// Kafka's name, as in `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// Why bytes are not a record batch that can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("{available} bytes cannot hold a record batch of {needed}")]
    Truncated { needed: usize, available: usize },
    #[error("the batch length field says {length}")]
    Length { length: i32 },
    #[error("message format v{magic} is not supported; v2 is")]
    Magic { magic: i8 },
    #[error("CRC-32C is {computed:#010x}, the batch says {stored:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("{records} records with a last offset delta of {last_offset_delta}")]
    RecordCount { records: i32, last_offset_delta: i32 },
    #[error("codec {code} is unknown")]
    Codec { code: i16 },
    #[error("producer id {producer_id} with epoch {epoch} and sequence {sequence}")]
    ProducerFields { producer_id: i64, epoch: i16, sequence: i32 },
    #[error("a client may not send control batches")]
    Control,
    #[error("base offset {base_offset} is not zero as it is from a producer, or not an offset")]
    BaseOffset { base_offset: i64 },
}

/// Who wrote a batch, when it is idempotent or transactional.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchProducer {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    pub base_sequence: Sequence,
    pub last_sequence: Sequence,
    /// The batch is part of a transaction.
    pub is_transactional: bool,
}

/// A whole record batch in somebody else's bytes. Its length field agrees with the slice.
#[derive(Clone, Copy)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Takes the first batch off `bytes` and returns it with the rest. Checks length and magic
    /// only; O(1).
    pub fn split_first(bytes: &'a [u8]) -> Result<(BatchView<'a>, &'a [u8]), BatchError> {
        let size = batch_size(bytes)?;
        if bytes.len() < size {
            return Err(BatchError::Truncated { needed: size, available: bytes.len() });
        }
        let (batch, rest) = bytes.split_at(size);
        let view = BatchView { bytes: batch };
        if view.magic() != MAGIC_V2 {
            return Err(BatchError::Magic { magic: view.magic() });
        }
        if size < BATCH_HEADER_SIZE {
            return Err(BatchError::Length { length: i32_at(bytes, LENGTH_AT) });
        }
        Ok((view, rest))
    }

    /// Checks everything that can be told without looking into the records (KAFKA.md rule 10).
    ///
    /// Cost: one pass of CRC-32C over the batch.
    pub fn validate(&self) -> Result<(), BatchError> {
        let computed = crc32c(&self.bytes[CRC_COVERS_FROM..]);
        if computed != self.crc() {
            return Err(BatchError::Crc { stored: self.crc(), computed });
        }
        self.fields().check()
    }

    /// [`validate`](Self::validate), and what holds only for batches fresh from a producer: offsets
    /// from zero and dense, no control batch, a sequence for every producer (Kafka `LogValidator`,
    /// `UnifiedLog`).
    pub fn validate_produced(&self) -> Result<(), BatchError> {
        self.validate()?;
        let base_offset = i64_at(self.bytes, BASE_OFFSET_AT);
        if base_offset != 0 {
            return Err(BatchError::BaseOffset { base_offset });
        }
        let records = i32_at(self.bytes, RECORD_COUNT_AT);
        let last_offset_delta = i32_at(self.bytes, LAST_OFFSET_DELTA_AT);
        if records - 1 != last_offset_delta {
            return Err(BatchError::RecordCount { records, last_offset_delta });
        }
        if self.is_control() {
            return Err(BatchError::Control);
        }
        let (producer_id, epoch, sequence) = self.producer_fields();
        if producer_id >= 0 && sequence < 0 {
            return Err(BatchError::ProducerFields { producer_id, epoch, sequence });
        }
        Ok(())
    }

    /// Checks a batch that the log wrote: [`validate`](Self::validate) plus its place. Compaction
    /// leaves batches without records, for their offsets and their producer's sequence.
    pub fn validate_stored(&self) -> Result<(), BatchError> {
        let base_offset = i64_at(self.bytes, BASE_OFFSET_AT);
        let last = base_offset.checked_add(i32_at(self.bytes, LAST_OFFSET_DELTA_AT) as i64);
        if base_offset < 0 || last.is_none() {
            return Err(BatchError::BaseOffset { base_offset });
        }
        self.validate()
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// First offset. Zero in a batch from a producer; negative values read as zero.
    pub fn base_offset(&self) -> Offset {
        Offset::from_wire(i64_at(self.bytes, BASE_OFFSET_AT)).unwrap_or(Offset::ZERO)
    }

    /// Last offset, inclusive; saturates at [`Offset::MAX`].
    pub fn last_offset(&self) -> Offset {
        self.base_offset().advance(self.last_offset_delta()).unwrap_or(Offset::MAX)
    }

    /// The offset after this batch.
    pub fn end_offset(&self) -> Offset {
        self.last_offset().advance(1).unwrap_or(Offset::MAX)
    }

    pub fn last_offset_delta(&self) -> u32 {
        i32_at(self.bytes, LAST_OFFSET_DELTA_AT).max(0) as u32
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(i32_at(self.bytes, LEADER_EPOCH_AT))
    }

    pub fn crc(&self) -> u32 {
        i32_at(self.bytes, CRC_AT) as u32
    }

    pub fn record_count(&self) -> u32 {
        i32_at(self.bytes, RECORD_COUNT_AT).max(0) as u32
    }

    pub fn base_timestamp(&self) -> Timestamp {
        Timestamp(i64_at(self.bytes, BASE_TIMESTAMP_AT))
    }

    pub fn max_timestamp(&self) -> Timestamp {
        Timestamp(i64_at(self.bytes, MAX_TIMESTAMP_AT))
    }

    /// `None` for a codec that does not exist; never after [`validate`](Self::validate).
    pub fn compression(&self) -> Option<Compression> {
        Compression::from_attributes(self.attributes())
    }

    pub fn is_log_append_time(&self) -> bool {
        self.attributes() & LOG_APPEND_TIME != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL != 0
    }

    /// From when on tombstones and transaction markers of the batch may go; it is set when compaction
    /// first meets them (KIP-534).
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        (self.attributes() & DELETE_HORIZON != 0).then(|| self.base_timestamp())
    }

    /// Who wrote the batch, also for what has no sequence: transaction markers, and offsets that a group
    /// coordinator commits as part of a transaction.
    pub fn writer(&self) -> Option<(ProducerId, ProducerEpoch)> {
        let (id, epoch, _) = self.producer_fields();
        (id >= 0).then_some((ProducerId(id), ProducerEpoch(epoch)))
    }

    /// The producer, when its batches are numbered.
    pub fn producer(&self) -> Option<BatchProducer> {
        let (id, epoch, sequence) = self.producer_fields();
        if id < 0 || sequence < 0 {
            return None;
        }
        let base_sequence = Sequence(sequence);
        Some(BatchProducer {
            id: ProducerId(id),
            epoch: ProducerEpoch(epoch),
            base_sequence,
            last_sequence: base_sequence.advance(self.last_offset_delta()),
            is_transactional: self.is_transactional(),
        })
    }

    /// The records as stored, maybe compressed.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[BATCH_HEADER_SIZE..]
    }

    /// The bytes before the first record.
    pub fn header(&self) -> &'a [u8; BATCH_HEADER_SIZE] {
        self.bytes.first_chunk().expect("a batch has a whole header")
    }

    /// Every field of the header as stored.
    pub fn fields(&self) -> BatchFields {
        BatchFields::decode(self.header())
    }

    fn attributes(&self) -> i16 {
        i16_at(self.bytes, ATTRIBUTES_AT)
    }

    fn magic(&self) -> i8 {
        self.bytes[MAGIC_AT] as i8
    }

    fn producer_fields(&self) -> (i64, i16, i32) {
        (
            i64_at(self.bytes, PRODUCER_ID_AT),
            i16_at(self.bytes, PRODUCER_EPOCH_AT),
            i32_at(self.bytes, BASE_SEQUENCE_AT),
        )
    }
}

/// Size of the batch that starts `bytes`, from its length field; `Truncated` when fewer than the
/// 17 bytes up to the magic are there. The batch itself may be cut off.
///
/// v0 and v1 messages have the same first fields, so that their magic can be named in the error.
pub fn batch_size(bytes: &[u8]) -> Result<usize, BatchError> {
    if bytes.len() <= MAGIC_AT {
        return Err(BatchError::Truncated { needed: BATCH_HEADER_SIZE, available: bytes.len() });
    }
    let length = i32_at(bytes, LENGTH_AT);
    if length < (MAGIC_AT + 1 - BATCH_OVERHEAD) as i32 {
        return Err(BatchError::Length { length });
    }
    Ok(BATCH_OVERHEAD + length as usize)
}

/// Whether the batch with this header is part of a transaction, the marker that ends one among them.
pub fn is_transactional(header: &[u8; BATCH_HEADER_SIZE]) -> bool {
    i16_at(header, ATTRIBUTES_AT) & TRANSACTIONAL != 0
}

/// Gives a stored batch its place: the only two fields that are always rewritten, neither under
/// the CRC.
pub fn assign_offset(batch: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) {
    batch[BASE_OFFSET_AT..BASE_OFFSET_AT + 8].copy_from_slice(&base_offset.to_wire().to_be_bytes());
    batch[LEADER_EPOCH_AT..LEADER_EPOCH_AT + 4].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Stamps a batch of a `LogAppendTime` topic and recomputes its CRC (KIP-32).
pub fn stamp_append_time(batch: &mut [u8], now: Timestamp) {
    let attributes = i16_at(batch, ATTRIBUTES_AT) | LOG_APPEND_TIME;
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&now.0.to_be_bytes());
    seal(batch);
}

/// Recomputes the CRC after the covered fields were changed.
pub fn seal(batch: &mut [u8]) {
    let crc = crc32c(&batch[CRC_COVERS_FROM..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

/// The fields of a batch header that its writer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub compression: Compression,
    pub transactional: bool,
    pub record_count: u32,
    pub base_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    pub producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
}

/// Appends a whole batch, base offset 0, to `out`; `payload` is already compressed.
pub fn write_batch(header: &BatchHeader, payload: &[u8], out: &mut Vec<u8>) {
    assert!(header.record_count > 0, "a batch has at least one record");
    let start = out.len();
    let (producer_id, epoch, sequence) = match header.producer {
        Some((id, epoch, sequence)) => (id.0, epoch.0, sequence.0),
        None => (-1, -1, -1),
    };
    let transactional = if header.transactional { TRANSACTIONAL } else { 0 };
    let attributes = header.compression.attribute_bits() | transactional;
    let length = (BATCH_HEADER_SIZE - BATCH_OVERHEAD + payload.len()) as i32;
    out.extend_from_slice(&0i64.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&(-1i32).to_be_bytes());
    out.push(MAGIC_V2 as u8);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&attributes.to_be_bytes());
    out.extend_from_slice(&(header.record_count as i32 - 1).to_be_bytes());
    out.extend_from_slice(&header.base_timestamp.0.to_be_bytes());
    out.extend_from_slice(&header.max_timestamp.0.to_be_bytes());
    out.extend_from_slice(&producer_id.to_be_bytes());
    out.extend_from_slice(&epoch.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&(header.record_count as i32).to_be_bytes());
    out.extend_from_slice(payload);
    seal(&mut out[start..]);
}

/// Appends a control batch of one record, which is part of the producer's transaction.
pub fn write_control_batch(
    (id, epoch): (ProducerId, ProducerEpoch),
    now: Timestamp,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let header = BatchHeader {
        compression: Compression::None,
        transactional: true,
        record_count: 1,
        base_timestamp: now,
        max_timestamp: now,
        producer: Some((id, epoch, UNSEQUENCED)),
    };
    write_batch(&header, payload, out);
    let batch = &mut out[start..];
    let attributes = i16_at(batch, ATTRIBUTES_AT) | CONTROL;
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    seal(batch);
}

/// What compaction changes of a batch. Offsets, epoch, producer and sequence stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRewrite {
    pub compression: Compression,
    pub record_count: u32,
    /// The delete horizon, if `has_delete_horizon`. The records' timestamp deltas count from it.
    pub base_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    pub has_delete_horizon: bool,
}

/// Appends `batch` with another payload, already compressed, to `out` (Kafka
/// `MemoryRecords.buildRetainedRecordsInto`, `DefaultRecordBatch.writeEmptyHeader`).
pub fn rewrite_batch(batch: &BatchView<'_>, rewrite: &BatchRewrite, payload: &[u8], out: &mut Vec<u8>) {
    assert!(rewrite.record_count > 0 || payload.is_empty(), "records that are not counted");
    let start = out.len();
    out.extend_from_slice(&batch.bytes[..BATCH_HEADER_SIZE]);
    out.extend_from_slice(payload);
    let written = &mut out[start..];
    let length = (written.len() - BATCH_OVERHEAD) as i32;
    let horizon = if rewrite.has_delete_horizon { DELETE_HORIZON } else { 0 };
    let kept = batch.attributes() & !(CODEC_MASK | DELETE_HORIZON);
    let attributes = kept | rewrite.compression.attribute_bits() | horizon;
    let mut put = |at: usize, field: &[u8]| written[at..at + field.len()].copy_from_slice(field);
    put(LENGTH_AT, &length.to_be_bytes());
    put(ATTRIBUTES_AT, &attributes.to_be_bytes());
    put(BASE_TIMESTAMP_AT, &rewrite.base_timestamp.0.to_be_bytes());
    put(MAX_TIMESTAMP_AT, &rewrite.max_timestamp.0.to_be_bytes());
    put(RECORD_COUNT_AT, &(rewrite.record_count as i32).to_be_bytes());
    seal(written);
}

/// Gives a batch that was built once new timestamps and a new sequence, and seals it again. The
/// records' timestamp deltas stay. For load generators, which build a batch once.
pub fn restamp(batch: &mut [u8], base: Timestamp, producer: Option<(ProducerId, ProducerEpoch, Sequence)>) {
    let span = i64_at(batch, MAX_TIMESTAMP_AT) - i64_at(batch, BASE_TIMESTAMP_AT);
    batch[BASE_TIMESTAMP_AT..BASE_TIMESTAMP_AT + 8].copy_from_slice(&base.0.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&(base.0 + span).to_be_bytes());
    if let Some((id, epoch, sequence)) = producer {
        batch[PRODUCER_ID_AT..PRODUCER_ID_AT + 8].copy_from_slice(&id.0.to_be_bytes());
        batch[PRODUCER_EPOCH_AT..PRODUCER_EPOCH_AT + 2].copy_from_slice(&epoch.0.to_be_bytes());
        batch[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].copy_from_slice(&sequence.0.to_be_bytes());
    }
    seal(batch);
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_kafkas() {
        let batch = batch(3, b"payload");
        assert_eq!(batch.len(), 61 + 7);
        assert_eq!(batch[8..12], (49i32 + 7).to_be_bytes());
        assert_eq!(batch[16], 2);
        assert_eq!(batch[23..27], 2i32.to_be_bytes());
        assert_eq!(batch[57..61], 3i32.to_be_bytes());
    }

    #[test]
    fn any_flipped_bit_under_the_crc_is_found() {
        let whole = batch(2, b"some records");
        for bit in CRC_AT * 8..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (view, _) = BatchView::split_first(&bytes).unwrap();
            assert!(view.validate_produced().is_err(), "bit {bit}");
        }
    }

    #[test]
    fn assigned_offset_and_epoch_do_not_touch_the_crc() {
        let mut bytes = batch(4, b"records");
        assign_offset(&mut bytes, Offset::new(41).unwrap(), LeaderEpoch(7));
        let (view, rest) = BatchView::split_first(&bytes).unwrap();
        assert_eq!(view.validate_stored(), Ok(()));
        assert_eq!(view.last_offset(), Offset::new(44).unwrap());
        assert_eq!(view.leader_epoch(), LeaderEpoch(7));
        assert!(rest.is_empty());
    }

    #[test]
    fn old_formats_are_named() {
        let mut bytes = batch(1, b"x");
        bytes[MAGIC_AT] = 1;
        let error = BatchView::split_first(&bytes).err();
        assert_eq!(error, Some(BatchError::Magic { magic: 1 }));
    }

    #[test]
    fn a_producers_batch_starts_at_offset_zero() {
        let mut bytes = batch(1, b"x");
        assign_offset(&mut bytes, Offset::new(1).unwrap(), LeaderEpoch(0));
        let (view, _) = BatchView::split_first(&bytes).unwrap();
        assert_eq!(view.validate_produced(), Err(BatchError::BaseOffset { base_offset: 1 }));
        assert_eq!(view.validate_stored(), Ok(()));
    }

    #[test]
    fn only_a_coordinator_writes_without_a_sequence() {
        let mut bytes = batch(1, b"x");
        bytes[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].copy_from_slice(&(-1i32).to_be_bytes());
        seal(&mut bytes);
        let error = Err(BatchError::ProducerFields { producer_id: 5, epoch: 0, sequence: -1 });
        let (view, _) = BatchView::split_first(&bytes).unwrap();
        assert_eq!((view.validate_produced(), view.validate_stored()), (error, error));
        bytes[ATTRIBUTES_AT + 1] |= TRANSACTIONAL as u8;
        seal(&mut bytes);
        let (view, _) = BatchView::split_first(&bytes).unwrap();
        assert_eq!((view.validate_produced(), view.validate_stored()), (error, Ok(())));
        assert_eq!((view.producer(), view.writer()), (None, Some((ProducerId(5), ProducerEpoch(0)))));
    }

    #[test]
    fn append_time_is_stamped_under_a_new_crc() {
        let mut bytes = batch(1, b"x");
        stamp_append_time(&mut bytes, Timestamp(99));
        let (view, _) = BatchView::split_first(&bytes).unwrap();
        assert_eq!(view.validate_produced(), Ok(()));
        assert!(view.is_log_append_time());
        assert_eq!(view.max_timestamp(), Timestamp(99));
    }

    #[test]
    fn a_batch_without_records_is_stored_but_not_produced() {
        let mut bytes = batch(4, b"records");
        assign_offset(&mut bytes, Offset::new(41).unwrap(), LeaderEpoch(7));
        let (view, _) = BatchView::split_first(&bytes).unwrap();
        let rewrite = BatchRewrite {
            compression: Compression::None,
            record_count: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp(20),
            has_delete_horizon: false,
        };
        let mut out = Vec::new();
        rewrite_batch(&view, &rewrite, &[], &mut out);
        let (emptied, rest) = BatchView::split_first(&out).unwrap();
        assert!(rest.is_empty());
        assert_eq!(emptied.validate_stored(), Ok(()));
        assert_eq!((emptied.base_offset(), emptied.end_offset()), (view.base_offset(), view.end_offset()));
        assert_eq!((emptied.producer(), emptied.leader_epoch()), (view.producer(), view.leader_epoch()));
        let mut produced = out.clone();
        assign_offset(&mut produced, Offset::ZERO, LeaderEpoch(0));
        let (produced, _) = BatchView::split_first(&produced).unwrap();
        assert!(matches!(produced.validate_produced(), Err(BatchError::RecordCount { records: 0, .. })));
        // A count of zero over a payload is damage.
        out.push(1);
        out[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&50i32.to_be_bytes());
        seal(&mut out);
        let (view, _) = BatchView::split_first(&out).unwrap();
        assert!(matches!(view.validate_stored(), Err(BatchError::RecordCount { .. })));
    }

    #[test]
    fn a_rewritten_batch_keeps_its_place_and_producer() {
        let mut bytes = batch(4, b"records");
        assign_offset(&mut bytes, Offset::new(41).unwrap(), LeaderEpoch(7));
        let (view, _) = BatchView::split_first(&bytes).unwrap();
        let rewrite = BatchRewrite {
            compression: Compression::Lz4,
            record_count: 2,
            base_timestamp: Timestamp(99),
            max_timestamp: Timestamp(15),
            has_delete_horizon: true,
        };
        let mut out = Vec::new();
        rewrite_batch(&view, &rewrite, b"less", &mut out);
        let (written, _) = BatchView::split_first(&out).unwrap();
        assert_eq!(written.validate_stored(), Ok(()));
        assert_eq!(written.delete_horizon(), Some(Timestamp(99)));
        assert_eq!(written.compression(), Some(Compression::Lz4));
        assert_eq!(written.last_offset(), view.last_offset());
        assert_eq!(written.producer(), view.producer());
        assert_eq!(written.payload(), b"less");
        assert_eq!(view.delete_horizon(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_whole(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((view, rest)) = BatchView::split_first(&bytes) {
                prop_assert_eq!(view.size() + rest.len(), bytes.len());
                let _ = view.validate_stored();
                let _ = (view.last_offset(), view.end_offset(), view.producer());
            }
        }
    }

    fn batch(record_count: u32, payload: &[u8]) -> Vec<u8> {
        let header = BatchHeader {
            compression: Compression::None,
            transactional: false,
            record_count,
            base_timestamp: Timestamp(10),
            max_timestamp: Timestamp(20),
            producer: Some((ProducerId(5), ProducerEpoch(0), Sequence(0))),
        };
        let mut out = Vec::new();
        write_batch(&header, payload, &mut out);
        out
    }
}
