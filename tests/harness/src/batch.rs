//! Record batches byte by byte, independent of the broker's own code.
//!
//! Fields can be set to what no client would send. The layout is Kafka's `DefaultRecordBatch`.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

/// Who sends a batch, for idempotence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchProducer {
    pub id: i64,
    pub epoch: i16,
    /// Sequence of the batch's first record.
    pub sequence: i32,
}

/// A batch to be sent.
#[derive(Clone, Debug)]
pub struct Batch {
    values: Vec<Bytes>,
    timestamp: i64,
    producer: Option<BatchProducer>,
}

impl Batch {
    /// One record per value, uncompressed, all of the same time.
    pub fn of<V: AsRef<[u8]>>(values: &[V], timestamp: i64) -> Batch {
        let values = values.iter().map(|value| Bytes::copy_from_slice(value.as_ref())).collect();
        Batch { values, timestamp, producer: None }
    }

    pub fn by(mut self, producer: BatchProducer) -> Batch {
        self.producer = Some(producer);
        self
    }

    pub fn bytes(&self) -> Bytes {
        let producer = self.producer.unwrap_or(BatchProducer {
            id: NO_PRODUCER_ID,
            epoch: NO_PRODUCER_EPOCH,
            sequence: NO_SEQUENCE,
        });
        let records: Vec<Record> = (0..)
            .zip(&self.values)
            .map(|(index, value)| Record {
                transactional: false,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
                producer_id: producer.id,
                producer_epoch: producer.epoch,
                timestamp_type: TimestampType::Creation,
                offset: index,
                sequence: if self.producer.is_some() {
                    producer.sequence + index as i32
                } else {
                    NO_SEQUENCE
                },
                timestamp: self.timestamp,
                key: None,
                value: Some(value.clone()),
                headers: IndexMap::new(),
            })
            .collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut bytes = BytesMut::new();
        RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("the records fit a batch");
        bytes.freeze()
    }
}

/// One message in a format from before record batches: version 0 or 1.
pub fn legacy_message_set(magic: u8, value: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(magic);
    message.put_u8(0); // Attributes.
    if magic == 1 {
        message.put_i64(1_000_000_000_000); // Timestamp.
    }
    message.put_i32(-1); // Key.
    message.put_i32(value.len() as i32);
    message.put_slice(value);
    let mut set = BytesMut::new();
    set.put_i64(0); // Offset.
    set.put_i32(4 + message.len() as i32);
    set.put_u32(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &message) as u32);
    set.put_slice(&message);
    set.freeze()
}
