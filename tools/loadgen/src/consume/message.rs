//! Fetch requests, and their answers parsed in place: record bytes stay in the receive buffer.

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::consume::aborted::Aborted;
use crate::wire::{Malformed, Reader};

const FLEXIBLE_FROM: i16 = 12;
const SESSIONS_FROM: i16 = 7;

/// Which records are visible (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
}

/// What all requests of a connection share.
#[derive(Clone, Debug)]
pub struct FetchSetup {
    pub topic: String,
    pub isolation: Isolation,
    /// Bytes of one answer.
    pub bytes_max: i32,
    /// Bytes of one partition's part of it.
    pub partition_bytes_max: i32,
    pub bytes_min: i32,
    /// How long an answer without data may be held back at the head of the log.
    pub wait_max_ms: i32,
}

/// A request for what follows the given offsets: (partition, offset) each.
pub fn request(
    setup: &FetchSetup,
    wait_max_ms: i32,
    positions: impl Iterator<Item = (i32, i64)>,
) -> FetchRequest {
    let partitions = positions.map(|(partition, offset)| {
        FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(setup.partition_bytes_max)
    });
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(setup.topic.clone())))
        .with_partitions(partitions.collect());
    let isolation = match setup.isolation {
        Isolation::ReadUncommitted => 0,
        Isolation::ReadCommitted => 1,
    };
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(wait_max_ms)
        .with_min_bytes(setup.bytes_min)
        .with_max_bytes(setup.bytes_max)
        .with_isolation_level(isolation)
        .with_session_id(0)
        .with_session_epoch(-1) // No session (KIP-227).
        .with_topics(vec![topic])
}

/// One partition's part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct FetchAnswer<'a> {
    pub partition: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    /// End of what a read-committed consumer may see; -1 when the broker does not say.
    pub last_stable_offset: i64,
    pub aborted: Vec<Aborted>,
    /// Whole batches, and maybe the start of one more.
    pub records: &'a [u8],
}

/// What concerns a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchHead {
    pub correlation: i32,
    pub error_code: i16,
}

/// Reads an answer without its size prefix and passes each partition's part on.
pub fn read_response<'a>(
    frame: &'a [u8],
    version: i16,
    mut on_partition: impl FnMut(FetchAnswer<'a>),
) -> Result<FetchHead, Malformed> {
    let mut reader = Reader::new(frame, version >= FLEXIBLE_FROM);
    let correlation = reader.i32()?;
    reader.skip_tags()?;
    reader.i32()?; // Throttle time.
    let mut error_code = 0;
    if version >= SESSIONS_FROM {
        error_code = reader.i16()?;
        reader.i32()?; // Session id.
    }
    for _ in 0..reader.array_length()? {
        reader.string()?;
        for _ in 0..reader.array_length()? {
            on_partition(read_partition(&mut reader, version)?);
        }
        reader.skip_tags()?;
    }
    Ok(FetchHead { correlation, error_code })
}

fn read_partition<'a>(reader: &mut Reader<'a>, version: i16) -> Result<FetchAnswer<'a>, Malformed> {
    let (partition, error_code, high_watermark) = (reader.i32()?, reader.i16()?, reader.i64()?);
    let last_stable_offset = reader.i64()?;
    if version >= 5 {
        reader.i64()?; // Log start offset.
    }
    let mut aborted = Vec::new();
    for _ in 0..reader.array_length()? {
        let producer_id = reader.i64()?;
        aborted.push(Aborted { first_offset: reader.i64()?, producer_id });
        reader.skip_tags()?;
    }
    if version >= 11 {
        reader.i32()?; // Preferred read replica.
    }
    let records = reader.bytes()?;
    reader.skip_tags()?;
    Ok(FetchAnswer { partition, error_code, high_watermark, last_stable_offset, aborted, records })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::FetchResponse;
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, FetchableTopicResponse, PartitionData,
    };
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn we_read_the_librarys_answers() {
        for version in 4..=12 {
            let full = PartitionData::default()
                .with_partition_index(2)
                .with_high_watermark(50)
                .with_last_stable_offset(40)
                .with_aborted_transactions(Some(vec![
                    AbortedTransaction::default().with_producer_id(7.into()).with_first_offset(3),
                ]))
                .with_records(Some(Bytes::from_static(b"records")));
            let refused =
                PartitionData::default().with_partition_index(4).with_error_code(1).with_records(None);
            let topic = FetchableTopicResponse::default().with_partitions(vec![full, refused]);
            let mut response = FetchResponse::default().with_responses(vec![topic]);
            if version >= SESSIONS_FROM {
                response.error_code = 71;
            }
            let mut frame = BytesMut::new();
            frame.extend_from_slice(&55i32.to_be_bytes());
            if version >= FLEXIBLE_FROM {
                frame.extend_from_slice(&[0]);
            }
            response.encode(&mut frame, version).unwrap();
            let mut answers = Vec::new();
            let head = read_response(&frame, version, |answer| answers.push(answer)).unwrap();
            let error_code = if version >= SESSIONS_FROM { 71 } else { 0 };
            assert_eq!(head, FetchHead { correlation: 55, error_code });
            let aborted = vec![Aborted { first_offset: 3, producer_id: 7 }];
            assert_eq!(
                answers,
                [
                    FetchAnswer {
                        partition: 2,
                        error_code: 0,
                        high_watermark: 50,
                        last_stable_offset: 40,
                        aborted,
                        records: b"records"
                    },
                    FetchAnswer {
                        partition: 4,
                        error_code: 1,
                        high_watermark: 0,
                        last_stable_offset: -1,
                        aborted: Vec::new(),
                        records: b""
                    },
                ]
            );
            for end in 0..frame.len() {
                let _ = read_response(&frame[..end], version, |_| {});
            }
        }
    }
}
