//! Record batches byte by byte, independent of the broker's own code.
//!
//! Fields can be set to what no client would send. The layout is Kafka's `DefaultRecordBatch`.

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};

/// Who sends a batch, for idempotence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchProducer {
    pub id: i64,
    pub epoch: i16,
    /// Sequence of the batch's first record.
    pub sequence: i32,
}

const NOBODY: BatchProducer = BatchProducer { id: -1, epoch: -1, sequence: -1 };

/// A batch to be sent.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `None`: null, which deletes its key in a compacted topic.
    values: Vec<Option<Bytes>>,
    /// As many as values, or none.
    keys: Vec<Bytes>,
    timestamp: i64,
    producer: BatchProducer,
    codec: i16,
}

impl Batch {
    /// One record per value, uncompressed, all of the same time.
    pub fn of<V: AsRef<[u8]>>(values: &[V], timestamp: i64) -> Batch {
        let values = values.iter().map(|value| Some(Bytes::copy_from_slice(value.as_ref()))).collect();
        Batch { values, keys: Vec::new(), timestamp, producer: NOBODY, codec: 0 }
    }

    /// Every record gets its key.
    pub fn keyed<K: AsRef<[u8]>>(mut self, keys: &[K]) -> Batch {
        assert_eq!(keys.len(), self.values.len());
        self.keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_ref())).collect();
        self
    }

    /// That record's value is null.
    pub fn null_at(mut self, index: usize) -> Batch {
        self.values[index] = None;
        self
    }

    pub fn by(mut self, producer: BatchProducer) -> Batch {
        self.producer = producer;
        self
    }

    /// The batch is part of its producer's transaction.
    pub fn in_transaction(mut self) -> Batch {
        self.codec |= 1 << 4;
        self
    }

    /// Says that its records are compressed, by Kafka's number of the codec, which they are not: whoever
    /// looks into it fails.
    pub fn claiming_codec(mut self, codec: i16) -> Batch {
        self.codec = codec;
        self
    }

    pub fn bytes(&self) -> Bytes {
        let count = self.values.len() as i32;
        let mut summed = BytesMut::new();
        summed.put_i16(self.codec); // Attributes: the codec, the producer's time, maybe a transaction.
        summed.put_i32(count - 1); // Last offset delta.
        summed.put_i64(self.timestamp); // Base timestamp.
        summed.put_i64(self.timestamp); // Largest timestamp.
        summed.put_i64(self.producer.id);
        summed.put_i16(self.producer.epoch);
        summed.put_i32(self.producer.sequence);
        summed.put_i32(count);
        for (index, value) in self.values.iter().enumerate() {
            put_record(&mut summed, index as i64, self.keys.get(index), value.as_ref());
        }
        let mut batch = BytesMut::new();
        batch.put_i64(0); // Base offset.
        batch.put_i32((4 + 1 + 4 + summed.len()) as i32);
        batch.put_i32(-1); // Leader epoch.
        batch.put_u8(2); // Magic.
        batch.put_u32(checksum(CrcAlgorithm::Crc32Iscsi, &summed) as u32);
        batch.put_slice(&summed);
        batch.freeze()
    }
}

fn put_record(out: &mut BytesMut, offset_delta: i64, key: Option<&Bytes>, value: Option<&Bytes>) {
    let mut record = BytesMut::new();
    record.put_u8(0); // Attributes.
    put_varint(&mut record, 0); // Timestamp delta.
    put_varint(&mut record, offset_delta);
    for field in [key, value] {
        match field {
            Some(bytes) => {
                put_varint(&mut record, bytes.len() as i64);
                record.put_slice(bytes);
            }
            None => put_varint(&mut record, -1), // Null.
        }
    }
    put_varint(&mut record, 0); // Headers.
    put_varint(out, record.len() as i64);
    out.put_slice(&record);
}

/// Zigzag, seven bits at a time.
fn put_varint(out: &mut BytesMut, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
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
    set.put_u32(checksum(CrcAlgorithm::Crc32IsoHdlc, &message) as u32);
    set.put_slice(&message);
    set.freeze()
}
