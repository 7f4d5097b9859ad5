//! The header of a record batch as it is stored, before anybody has judged it: for tools that show
//! what a damaged log says. The layout stands in the header of the parent module.

use super::*;

/// Values as stored: nothing is clamped, -1 stays -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFields {
    pub base_offset: i64,
    /// Bytes after the length field.
    pub length: i32,
    pub leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    /// Milliseconds; with a delete horizon it is that horizon.
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

impl BatchFields {
    pub fn decode(header: &[u8; BATCH_HEADER_SIZE]) -> BatchFields {
        BatchFields {
            base_offset: i64_at(header, BASE_OFFSET_AT),
            length: i32_at(header, LENGTH_AT),
            leader_epoch: i32_at(header, LEADER_EPOCH_AT),
            magic: header[MAGIC_AT] as i8,
            crc: i32_at(header, CRC_AT) as u32,
            attributes: i16_at(header, ATTRIBUTES_AT),
            last_offset_delta: i32_at(header, LAST_OFFSET_DELTA_AT),
            base_timestamp: i64_at(header, BASE_TIMESTAMP_AT),
            max_timestamp: i64_at(header, MAX_TIMESTAMP_AT),
            producer_id: i64_at(header, PRODUCER_ID_AT),
            producer_epoch: i16_at(header, PRODUCER_EPOCH_AT),
            base_sequence: i32_at(header, BASE_SEQUENCE_AT),
            record_count: i32_at(header, RECORD_COUNT_AT),
        }
    }

    /// Bytes of the whole batch. Errors: what cannot be the header of a v2 batch.
    pub fn size(&self) -> Result<u32, BatchError> {
        if self.magic != MAGIC_V2 {
            return Err(BatchError::Magic { magic: self.magic });
        }
        match u32::try_from(self.length) {
            Ok(length) if length as usize >= BATCH_HEADER_SIZE - BATCH_OVERHEAD => {
                Ok(length + BATCH_OVERHEAD as u32)
            }
            _ => Err(BatchError::Length { length: self.length }),
        }
    }

    /// What the values must satisfy together, whatever the CRC says.
    pub fn check(&self) -> Result<(), BatchError> {
        if self.compression().is_none() {
            return Err(BatchError::Codec { code: self.attributes & CODEC_MASK });
        }
        // Compaction leaves batches without records, and then without payload.
        let payload = self.length.saturating_sub((BATCH_HEADER_SIZE - BATCH_OVERHEAD) as i32);
        let records_min = if payload == 0 { 0 } else { 1 };
        if self.record_count < records_min || self.last_offset_delta < 0 {
            return Err(BatchError::RecordCount {
                records: self.record_count,
                last_offset_delta: self.last_offset_delta,
            });
        }
        let (producer_id, epoch, sequence) = (self.producer_id, self.producer_epoch, self.base_sequence);
        let none = producer_id == -1;
        // Markers are not numbered, nor are offsets that a group coordinator commits in a transaction.
        let has_sequence = sequence >= 0 || self.is_control() || self.is_transactional();
        let whole = producer_id >= 0 && epoch >= 0 && has_sequence;
        if (!none && !whole) || (none && self.is_transactional()) {
            return Err(BatchError::ProducerFields { producer_id, epoch, sequence });
        }
        Ok(())
    }

    /// Inclusive. `None` when no offset is that large, or the base is none.
    pub fn last_offset(&self) -> Option<Offset> {
        Offset::from_wire(self.base_offset)?;
        Offset::from_wire(self.base_offset.checked_add(i64::from(self.last_offset_delta))?)
    }

    /// -1 without a producer (Kafka `DefaultRecordBatch.lastSequence`).
    pub fn last_sequence(&self) -> i32 {
        match u32::try_from(self.last_offset_delta) {
            Ok(delta) if self.base_sequence >= 0 => Sequence(self.base_sequence).advance(delta).0,
            _ => -1,
        }
    }

    /// `None` for a codec that does not exist.
    pub fn compression(&self) -> Option<Compression> {
        Compression::from_attributes(self.attributes)
    }

    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// When compaction may drop the batch's tombstones and markers (KIP-534).
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        (self.attributes & DELETE_HORIZON != 0).then_some(Timestamp(self.base_timestamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_those_that_were_written() {
        let header = BatchHeader {
            compression: Compression::Lz4,
            transactional: true,
            record_count: 5,
            base_timestamp: Timestamp(10),
            max_timestamp: Timestamp(20),
            producer: Some((ProducerId(7), ProducerEpoch(1), Sequence(i32::MAX - 1))),
        };
        let mut bytes = Vec::new();
        write_batch(&header, b"records", &mut bytes);
        assign_offset(&mut bytes, Offset::new(100).expect("small"), LeaderEpoch(3));
        let fields = BatchFields::decode(bytes.first_chunk().expect("it has a header"));
        assert_eq!((fields.size(), fields.check()), (Ok(bytes.len() as u32), Ok(())));
        assert_eq!((fields.base_offset, fields.last_offset()), (100, Offset::new(104)));
        assert_eq!(fields.last_sequence(), 2, "sequences wrap");
        assert_eq!(fields.compression(), Some(Compression::Lz4));
        assert!(fields.is_transactional());
        assert!(!fields.is_control() && !fields.is_log_append_time());
        assert_eq!(fields.delete_horizon(), None);
        let mut crc = Crc32c::default();
        bytes[CRC_COVERS_FROM..].chunks(7).for_each(|piece| crc.update(piece));
        assert_eq!(crc.value(), fields.crc, "in pieces or at once");
    }

    proptest! {
        #[test]
        fn any_header_is_read(header in proptest::array::uniform32(any::<u8>()), rest in proptest::array::uniform29(any::<u8>())) {
            let mut bytes = [0; BATCH_HEADER_SIZE];
            bytes[..32].copy_from_slice(&header);
            bytes[32..].copy_from_slice(&rest);
            let fields = BatchFields::decode(&bytes);
            let _ = (fields.size(), fields.check(), fields.last_offset(), fields.last_sequence());
        }
    }
}
