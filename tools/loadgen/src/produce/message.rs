//! Produce requests as own bytes around shared payloads, and their answers parsed in place.
//!
//! | request, versions 3 to 12 | encoding |
//! |---|---|
//! | size, API key, version, correlation id | i32, i16, i16, i32 |
//! | client id; tags | string; from 9 |
//! | transactional id, or null | string, compact from 9 |
//! | acks, timeout in ms | i16, i32 |
//! | one topic: name | array, string |
//! | per partition: index, records; tags | i32, bytes; from 9 |
//! | tags of topic and request | from 9 |
//!
//! The library's encoder would copy every batch, hence this one; tests compare the two.

use odradek::types::Timestamp;

use crate::batch::{Payload, Stamp};
use crate::connection::{CLIENT_ID, Outgoing};
use crate::wire::{Malformed, Reader, write_unsigned};

/// From here on lengths are compact and structures end in tags (KIP-482).
const FLEXIBLE_FROM: i16 = 9;

/// How many replicas must have a batch before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    None,
    Leader,
    All,
}

impl Acks {
    pub const fn to_wire(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Acks::None => "0",
            Acks::Leader => "1",
            Acks::All => "all",
        }
    }
}

impl std::str::FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Acks, String> {
        match text {
            "0" => Ok(Acks::None),
            "1" => Ok(Acks::Leader),
            "all" | "-1" => Ok(Acks::All),
            _ => Err("use all, 1 or 0".to_string()),
        }
    }
}

/// What all requests of a connection share.
#[derive(Clone, Debug)]
pub struct ProduceSetup {
    pub topic: String,
    pub acks: Acks,
    /// How long the broker may wait for replicas.
    pub timeout_ms: i32,
    pub version: i16,
    /// Whose transaction its batches belong to.
    pub transactional_id: Option<String>,
}

/// One partition's part of a request.
pub struct ProducePart<'a> {
    pub partition: i32,
    pub payload: &'a Payload,
    pub timestamp: Timestamp,
    pub stamp: Stamp,
}

/// Fills `out` with one request.
pub fn write_request(setup: &ProduceSetup, correlation: i32, parts: &[ProducePart<'_>], out: &mut Outgoing) {
    let flexible = setup.version >= FLEXIBLE_FROM;
    let bytes = &mut out.bytes;
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&0i16.to_be_bytes()); // Produce.
    bytes.extend_from_slice(&setup.version.to_be_bytes());
    bytes.extend_from_slice(&correlation.to_be_bytes());
    bytes.extend_from_slice(&(CLIENT_ID.len() as i16).to_be_bytes()); // Never compact.
    bytes.extend_from_slice(CLIENT_ID.as_bytes());
    write_tags(flexible, bytes);
    match &setup.transactional_id {
        Some(id) => write_string(flexible, id, bytes),
        None if flexible => bytes.push(0),
        None => bytes.extend_from_slice(&(-1i16).to_be_bytes()),
    }
    bytes.extend_from_slice(&setup.acks.to_wire().to_be_bytes());
    bytes.extend_from_slice(&setup.timeout_ms.to_be_bytes());
    write_length(flexible, 1, bytes);
    write_string(flexible, &setup.topic, bytes);
    write_length(flexible, parts.len(), bytes);
    for part in parts {
        bytes.extend_from_slice(&part.partition.to_be_bytes());
        write_length(flexible, part.payload.batch_size(), bytes);
        part.payload.write_header(part.timestamp, part.stamp, setup.transactional_id.is_some(), bytes);
        out.payloads.push((bytes.len(), part.payload.bytes.clone(), part.payload.range.clone()));
        write_tags(flexible, bytes);
    }
    write_tags(flexible, bytes);
    write_tags(flexible, bytes);
    let size = out.size() as i32 - 4;
    out.bytes[..4].copy_from_slice(&size.to_be_bytes());
}

fn write_string(flexible: bool, text: &str, out: &mut Vec<u8>) {
    if flexible {
        write_unsigned(text.len() as u32 + 1, out);
    } else {
        out.extend_from_slice(&(text.len() as i16).to_be_bytes());
    }
    out.extend_from_slice(text.as_bytes());
}

fn write_length(flexible: bool, length: usize, out: &mut Vec<u8>) {
    if flexible {
        write_unsigned(length as u32 + 1, out);
    } else {
        out.extend_from_slice(&(length as i32).to_be_bytes());
    }
}

fn write_tags(flexible: bool, out: &mut Vec<u8>) {
    if flexible {
        out.push(0);
    }
}

/// The answer to one partition's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceAnswer {
    pub partition: i32,
    pub error_code: i16,
    /// -1 when unknown.
    pub base_offset: i64,
}

/// Reads an answer without its size prefix: passes each partition's part on, in the broker's order,
/// and returns the correlation id.
pub fn read_response(
    frame: &[u8],
    version: i16,
    mut on_partition: impl FnMut(ProduceAnswer),
) -> Result<i32, Malformed> {
    let mut reader = Reader::new(frame, version >= FLEXIBLE_FROM);
    let correlation = reader.i32()?;
    reader.skip_tags()?;
    for _ in 0..reader.array_length()? {
        reader.string()?;
        for _ in 0..reader.array_length()? {
            let answer = ProduceAnswer {
                partition: reader.i32()?,
                error_code: reader.i16()?,
                base_offset: reader.i64()?,
            };
            reader.i64()?; // Log append time.
            if version >= 5 {
                reader.i64()?; // Log start offset.
            }
            if version >= 8 {
                for _ in 0..reader.array_length()? {
                    reader.i32()?;
                    reader.string()?;
                    reader.skip_tags()?;
                }
                reader.string()?; // Error message.
            }
            reader.skip_tags()?;
            on_partition(answer);
        }
        reader.skip_tags()?;
    }
    Ok(correlation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Template;
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::produce_response::{
        BatchIndexAndErrorMessage, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
    };
    use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse};
    use kafka_protocol::protocol::{Decodable, Encodable, StrBytes, decode_request_header_from_buffer};
    use odradek::codec::record_batch::{BatchView, Compression};
    use odradek::types::{ProducerEpoch, ProducerId, Sequence};

    #[test]
    fn the_library_reads_our_requests() {
        let mut template = Template::new((0..10).map(|_| (None, &b"value"[..])), Compression::None);
        let transactional_ids = [None, Some("a-producer".to_owned())];
        for (version, transactional_id) in
            (3..=12).flat_map(|version| transactional_ids.iter().map(move |id| (version, id.clone())))
        {
            let setup = ProduceSetup {
                topic: "a-topic".into(),
                acks: Acks::All,
                timeout_ms: 1234,
                version,
                transactional_id: transactional_id.clone(),
            };
            let payloads = [template.take(10), template.take(3)];
            let parts: Vec<ProducePart> = payloads
                .iter()
                .zip([5, 2])
                .map(|(payload, partition)| ProducePart {
                    partition,
                    payload,
                    timestamp: Timestamp(9),
                    stamp: transactional_id.as_ref().map(|_| (ProducerId(3), ProducerEpoch(1), Sequence(0))),
                })
                .collect();
            let mut out = Outgoing::default();
            write_request(&setup, 77, &parts, &mut out);
            let mut frame = Bytes::from(out.to_bytes());
            let size = frame.split_to(4);
            assert_eq!(i32::from_be_bytes(size[..].try_into().unwrap()) as usize, frame.len());
            let header = decode_request_header_from_buffer(&mut frame).unwrap();
            assert_eq!(header.request_api_key, ApiKey::Produce as i16);
            assert_eq!((header.correlation_id, header.request_api_version), (77, version));
            let request = ProduceRequest::decode(&mut frame, version).unwrap();
            assert!(frame.is_empty(), "version {version}");
            assert_eq!((request.acks, request.timeout_ms), (-1, 1234));
            assert_eq!(request.transactional_id.map(|id| id.0.to_string()), transactional_id);
            let topic = &request.topic_data[0];
            assert_eq!(topic.name.0.as_str(), "a-topic");
            for (partition, (index, count)) in topic.partition_data.iter().zip([(5, 10), (2, 3)]) {
                let records = partition.records.as_ref().unwrap();
                let (view, rest) = BatchView::split_first(records).unwrap();
                assert_eq!((partition.index, view.record_count()), (index, count));
                assert_eq!(view.validate_produced(), Ok(()));
                assert_eq!(view.is_transactional(), transactional_id.is_some());
                assert!(rest.is_empty());
            }
        }
    }

    #[test]
    fn we_read_the_librarys_answers() {
        for version in 3..=12 {
            let mut partitions = vec![PartitionProduceResponse::default().with_index(3).with_base_offset(99)];
            let mut refused = PartitionProduceResponse::default().with_index(4).with_error_code(6);
            if version >= 8 {
                refused.error_message = Some(StrBytes::from_static_str("why"));
                refused.record_errors = vec![BatchIndexAndErrorMessage::default().with_batch_index(1)];
            }
            partitions.push(refused);
            let mut response = ProduceResponse::default()
                .with_responses(vec![TopicProduceResponse::default().with_partition_responses(partitions)]);
            if version >= 10 {
                response.responses[0].partition_responses[1].current_leader.leader_id = 8.into();
                response.node_endpoints = vec![NodeEndpoint::default().with_node_id(8.into())];
            }
            let mut frame = BytesMut::new();
            frame.extend_from_slice(&55i32.to_be_bytes());
            if version >= 9 {
                frame.extend_from_slice(&[0]);
            }
            response.encode(&mut frame, version).unwrap();
            let mut answers = Vec::new();
            assert_eq!(read_response(&frame, version, |answer| answers.push(answer)), Ok(55));
            assert_eq!(
                answers,
                [
                    ProduceAnswer { partition: 3, error_code: 0, base_offset: 99 },
                    ProduceAnswer { partition: 4, error_code: 6, base_offset: 0 },
                ]
            );
            for end in 0..frame.len() - 1 {
                let _ = read_response(&frame[..end], version, |_| {});
            }
        }
    }
}
