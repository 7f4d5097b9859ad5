use super::*;
use crate::codec::record_batch::{BatchHeader, write_batch};
use crate::types::{BrokerId, LeaderEpoch};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response as library;
use kafka_protocol::messages::{self, ProduceRequest, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const VERSIONS: std::ops::RangeInclusive<i16> = 3..=12;

proptest! {
    #[test]
    fn view_shows_what_the_library_wrote(request in requests(), version in VERSIONS) {
        let body = encode(&request, version);
        let view = ProduceView::parse(version, &body).unwrap();
        prop_assert_eq!(view.transactional_id, request.transactional_id.as_ref().map(|id| id.as_str()));
        prop_assert_eq!(view.acks, request.acks);
        prop_assert_eq!(view.timeout_ms, request.timeout_ms);
        prop_assert_eq!(view.topic_count(), request.topic_data.len());
        prop_assert_eq!(view.topics().count(), view.topic_count());
        let mut partition_count = 0;
        for (topic, sent) in view.topics().zip(&request.topic_data) {
            prop_assert_eq!(topic.name, sent.name.as_str());
            prop_assert_eq!(topic.partitions.len(), sent.partition_data.len());
            partition_count += topic.partitions.count();
            for (partition, sent) in topic.partitions.zip(&sent.partition_data) {
                prop_assert_eq!(partition.index, sent.index);
                prop_assert_eq!(partition.records, sent.records.as_deref());
            }
        }
        prop_assert_eq!(view.partition_count(), partition_count);
    }

    #[test]
    fn every_cut_is_refused_and_additions_are_ignored(request in requests(), version in VERSIONS) {
        let body = encode(&request, version);
        for end in 0..body.len() {
            prop_assert!(ProduceView::parse(version, &body[..end]).is_err(), "cut to {}", end);
        }
        let longer = [&body[..], &[0]].concat();
        prop_assert!(ProduceView::parse(version, &longer).is_ok());
    }

    #[test]
    fn damaged_requests_are_refused_or_walked_to_the_end(
        request in requests(), version in VERSIONS, flips in vec((any::<usize>(), any::<u8>()), 1..4)
    ) {
        let mut body = encode(&request, version).to_vec();
        for (at, value) in flips {
            let at = at % body.len();
            body[at] = value;
        }
        if let Ok(view) = ProduceView::parse(version, &body) {
            let walked: usize = view.topics().map(|topic| topic.partitions.count()).sum();
            prop_assert_eq!(walked, view.partition_count());
        }
    }

    #[test]
    fn response_is_byte_for_byte_the_librarys(
        partitions in partitions(), endpoints in vec((0..9i32, "[a-z.]{0,9}", any::<u16>(), option::of("[a-z]{0,3}")), 0..3),
        throttle_time_ms: i32, correlation_id: i32, version in VERSIONS, records in vec(0..1000u32, 0..4),
    ) {
        let partitions: Vec<ProducedPartition<'_>> = partitions
            .iter()
            .map(|(topic, message, partition)| ProducedPartition {
                topic,
                error_message: message.as_deref(),
                record_errors: RecordErrors { records: &records, message: topic },
                ..*partition
            })
            .collect();
        let endpoints: Vec<NodeEndpoint<'_>> = endpoints
            .iter()
            .map(|(node, host, port, rack)| NodeEndpoint {
                node: BrokerId(*node), host, port: *port, rack: rack.as_deref(),
            })
            .collect();
        let response = ProduceResponse { partitions: &partitions, endpoints: &endpoints, throttle_time_ms };
        let mut out = b"before".to_vec();
        response.write(version, correlation_id, &mut out);
        prop_assert_eq!(&out[6..], &library_frame(&response, version, correlation_id)[..]);
    }
}

#[test]
fn versions_below_3_and_above_12_are_not_read() {
    for version in [-1, 0, 1, 2, 13] {
        assert_eq!(ProduceView::parse(version, &[0; 40]).err(), Some(ProduceError::Unserved { version }));
    }
}

#[test]
fn impossible_counts_are_refused_without_allocating() {
    // No transactional id, acks 1, timeout 0, then two billion topics.
    let body = [&[0xff, 0xff, 0, 1, 0, 0, 0, 0][..], &i32::MAX.to_be_bytes()].concat();
    let error = ProduceView::parse(3, &body).err();
    assert!(matches!(error, Some(ProduceError::Malformed(WireError::Count { .. }))), "{error:?}");
}

#[test]
fn too_many_partitions_are_refused() {
    let partition = PartitionProduceData::default();
    let topic = TopicProduceData::default().with_partition_data(vec![partition; REQUEST_ELEMENTS_MAX]);
    let body = encode(&ProduceRequest::default().with_topic_data(vec![topic]), 3);
    assert_eq!(ProduceView::parse(3, &body).err(), Some(ProduceError::TooMany));
}

#[test]
fn acks_are_minus_one_zero_and_one() {
    assert_eq!(Acks::from_wire(-1), Some(Acks::All));
    assert_eq!(Acks::from_wire(0), Some(Acks::None));
    assert_eq!(Acks::from_wire(1), Some(Acks::Leader));
    assert_eq!(Acks::from_wire(2), None);
    assert_eq!(Acks::from_wire(-2), None);
}

#[test]
fn a_partition_takes_exactly_one_whole_batch() {
    let one = batch(Compression::None);
    assert!(produced_batch(3, Some(&one)).is_ok());
    assert_eq!(produced_batch(3, None).err(), Some(RecordsRejected::Missing));
    assert_eq!(produced_batch(3, Some(&[])).err(), Some(RecordsRejected::Missing));
    let two = [&one[..], &one].concat();
    assert_eq!(produced_batch(3, Some(&two)).err(), Some(RecordsRejected::NotAlone { size: one.len() }));
    let cut = produced_batch(3, Some(&one[..one.len() - 1])).err().unwrap();
    assert_eq!(ErrorCode::from(&cut), ErrorCode::CorruptMessage);
}

#[test]
fn zstd_needs_version_7() {
    let zstd = batch(Compression::Zstd);
    let error = produced_batch(6, Some(&zstd)).err().unwrap();
    assert_eq!(error, RecordsRejected::ZstdTooEarly { version: 6 });
    assert_eq!(ErrorCode::from(&error), ErrorCode::UnsupportedCompressionType);
    assert!(produced_batch(7, Some(&zstd)).is_ok());
}

#[test]
fn a_message_longer_than_the_wire_allows_is_clipped() {
    let long = "x".repeat(100_000);
    let refused = ProducedPartition::refused("t", 0, ErrorCode::InvalidRecord);
    let partitions = [ProducedPartition { error_message: Some(&long), ..refused }];
    let response = ProduceResponse { partitions: &partitions, endpoints: &[], throttle_time_ms: 0 };
    for version in VERSIONS {
        let mut out = Vec::new();
        response.write(version, 1, &mut out);
        assert!(out.len() < 40_000);
    }
}

fn requests() -> impl Strategy<Value = ProduceRequest> {
    let partition = (any::<i32>(), option::of(vec(any::<u8>(), 0..20))).prop_map(|(index, records)| {
        PartitionProduceData::default().with_index(index).with_records(records.map(Bytes::from))
    });
    let topic = ("[a-z]{0,5}", vec(partition, 0..4)).prop_map(|(name, partitions)| {
        TopicProduceData::default().with_name(topic_name(name)).with_partition_data(partitions)
    });
    (option::of("[a-z]{0,5}"), any::<i16>(), any::<i32>(), vec(topic, 0..4)).prop_map(
        |(id, acks, timeout_ms, topics)| {
            ProduceRequest::default()
                .with_transactional_id(id.map(|id| StrBytes::from_string(id).into()))
                .with_acks(acks)
                .with_timeout_ms(timeout_ms)
                .with_topic_data(topics)
        },
    )
}

type OwnedPartition = (String, Option<String>, ProducedPartition<'static>);

fn partitions() -> impl Strategy<Value = Vec<OwnedPartition>> {
    let hint = option::of((0..9i32, 0..9i32));
    let fields =
        (any::<i32>(), 0..ErrorCode::ALL.len(), option::of(0..9u64), any::<i64>(), option::of(0..9u64), hint);
    let partition =
        fields.prop_map(|(partition, error, base_offset, time, log_start, hint)| ProducedPartition {
            base_offset: base_offset.and_then(Offset::new),
            log_append_time: Timestamp(time),
            log_start: log_start.and_then(Offset::new),
            current_leader: hint
                .map(|(leader, epoch)| CurrentLeader { leader: BrokerId(leader), epoch: LeaderEpoch(epoch) }),
            ..ProducedPartition::refused("", partition, ErrorCode::ALL[error])
        });
    vec(("[ab]", option::of(".{0,9}"), partition), 0..8)
}

/// The same answer, encoded by the library.
fn library_frame(response: &ProduceResponse<'_>, version: i16, correlation_id: i32) -> BytesMut {
    let mut topics: Vec<library::TopicProduceResponse> = Vec::new();
    for partition in response.partitions {
        if topics.last().is_none_or(|topic| topic.name.as_str() != partition.topic) {
            let name = topic_name(partition.topic.to_owned());
            topics.push(library::TopicProduceResponse::default().with_name(name));
        }
        let topic = topics.last_mut().unwrap();
        topic.partition_responses.push(library_partition(partition, version));
    }
    let mut body = messages::ProduceResponse::default()
        .with_responses(topics)
        .with_throttle_time_ms(response.throttle_time_ms);
    if version >= 10 {
        body.node_endpoints = response
            .endpoints
            .iter()
            .map(|endpoint| {
                library::NodeEndpoint::default()
                    .with_node_id(endpoint.node.0.into())
                    .with_host(StrBytes::from_string(endpoint.host.to_owned()))
                    .with_port(endpoint.port.into())
                    .with_rack(endpoint.rack.map(|rack| StrBytes::from_string(rack.to_owned())))
            })
            .collect();
    }
    let mut frame = BytesMut::from(&[0; 4][..]);
    let header_version = if version >= 9 { 1 } else { 0 };
    ResponseHeader::default().with_correlation_id(correlation_id).encode(&mut frame, header_version).unwrap();
    body.encode(&mut frame, version).unwrap();
    let size = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    frame
}

fn library_partition(partition: &ProducedPartition<'_>, version: i16) -> library::PartitionProduceResponse {
    let mut encoded = library::PartitionProduceResponse::default()
        .with_index(partition.partition)
        .with_error_code(partition.error.code())
        .with_base_offset(partition.base_offset.map_or(-1, Offset::to_wire))
        .with_log_append_time_ms(partition.log_append_time.0)
        .with_log_start_offset(partition.log_start.map_or(-1, Offset::to_wire))
        .with_error_message(partition.error_message.map(|text| StrBytes::from_string(text.to_owned())));
    if version >= 8 {
        let errors = partition.record_errors.records.iter().map(|record| {
            library::BatchIndexAndErrorMessage::default()
                .with_batch_index(*record as i32)
                .with_batch_index_error_message(Some(StrBytes::from_string(
                    partition.record_errors.message.to_owned(),
                )))
        });
        encoded.record_errors = errors.collect();
    }
    if version >= 10
        && let Some(hint) = partition.current_leader
    {
        encoded.current_leader = library::LeaderIdAndEpoch::default()
            .with_leader_id(hint.leader.0.into())
            .with_leader_epoch(hint.epoch.0);
    }
    encoded
}

fn encode(request: &ProduceRequest, version: i16) -> Bytes {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).unwrap();
    let decoded = ProduceRequest::decode(&mut body.clone().freeze(), version).unwrap();
    assert_eq!(&decoded, request);
    body.freeze()
}

fn topic_name(name: String) -> TopicName {
    StrBytes::from_string(name).into()
}

fn batch(compression: Compression) -> Vec<u8> {
    let header = BatchHeader {
        compression,
        transactional: false,
        record_count: 1,
        base_timestamp: Timestamp(0),
        max_timestamp: Timestamp(0),
        producer: None,
    };
    let mut out = Vec::new();
    write_batch(&header, b"payload", &mut out);
    out
}
