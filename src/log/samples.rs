//! Logs and batches that tests of this layer and of the shards build on.

use crate::codec::record_batch::{BatchHeader, Compression, write_batch};
use crate::log::checksums::SegmentId;
use crate::log::durability::Durability;
use crate::log::partition::{Cleanup, LogConfig};
use crate::types::{
    Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId, TopicPartition, Uuid,
};
use std::time::Duration;

/// What the tests of a partition's log leave open: segments of this size, everything else without
/// limit.
pub fn log_config(segment_size_max: u64) -> LogConfig {
    LogConfig {
        segment_size_max,
        segment_ms: i64::MAX,
        segment_jitter_ms: 0,
        batch_size_max: 1 << 20,
        index_interval_bytes: 4096,
        index_size_max: 10 << 20,
        append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        retention_ms: None,
        retention_bytes: None,
        file_delete_delay: Duration::ZERO,
        cleanup: Cleanup::DELETE,
        durability: Durability::Fsync,
        compression: None,
    }
}

/// A segment of the one partition that most tests have.
pub fn sample_segment(base_offset: Offset) -> SegmentId {
    let partition = PartitionIndex::from_wire(3).expect("three is one");
    SegmentId { partition: TopicPartition { topic: TopicId(Uuid::from_u128(7)), partition }, base_offset }
}

/// A batch whose payload no broker looks into.
#[derive(Clone, Copy, Debug)]
pub struct SampleBatch<'a> {
    pub record_count: u32,
    pub timestamp: i64,
    pub producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
    pub payload: &'a [u8],
}

impl Default for SampleBatch<'_> {
    fn default() -> Self {
        SampleBatch { record_count: 1, timestamp: 10, producer: None, payload: b"sixteen bytes .." }
    }
}

impl SampleBatch<'_> {
    pub fn encode(&self) -> Vec<u8> {
        let header = BatchHeader {
            compression: Compression::None,
            transactional: false,
            record_count: self.record_count,
            base_timestamp: Timestamp(self.timestamp),
            max_timestamp: Timestamp(self.timestamp),
            producer: self.producer,
        };
        let mut out = Vec::new();
        write_batch(&header, self.payload, &mut out);
        out
    }
}
