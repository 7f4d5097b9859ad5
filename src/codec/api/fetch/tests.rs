use super::*;
use bytes::{Buf, Bytes};
use kafka_protocol::messages::fetch_response as library;
use kafka_protocol::messages::{FetchResponse, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

type Partition = (FetchedPartition<'static>, Option<Vec<AbortedTransaction>>, Vec<u8>);

proptest! {
    #[test]
    fn assembled_response_is_what_the_library_reads_and_writes(
        topics in vec(("[a-z]{0,5}", vec(partitions(), 0..4)), 0..4),
        throttle_time_ms: i32, session_id: i32, correlation_id: i32, error in errors(), version in 4..=12i16,
    ) {
        let header = FetchResponseHeader { version, correlation_id, throttle_time_ms, error, session_id };
        let (encoded, records) = write(&header, &topics);
        let frame = assemble(&encoded, &records);
        prop_assert_eq!(frame.len(), encoded.size());

        let mut rest = frame.clone();
        prop_assert_eq!(rest.get_i32() as usize, frame.len() - 4);
        let header_version = if version >= 12 { 1 } else { 0 };
        let decoded_header = ResponseHeader::decode(&mut rest, header_version).unwrap();
        prop_assert_eq!(decoded_header.correlation_id, correlation_id);
        let body = rest.clone();
        let decoded = FetchResponse::decode(&mut rest, version).unwrap();
        prop_assert_eq!(rest.remaining(), 0);
        prop_assert_eq!(&decoded, &expected(&header, &topics));

        let mut again = Vec::new();
        decoded.encode(&mut again, version).unwrap();
        prop_assert_eq!(&again[..], &body[..]);
    }
}

#[test]
fn head_has_no_records_and_splices_have_no_holes() {
    let header = header(12);
    let mut writer = FetchResponseWriter::new(&header, 1, EncodedFetch::default());
    writer.topic("t", 3);
    writer.partition(&FetchedPartition::refused(0, ErrorCode::None), 100);
    writer.partition(&FetchedPartition::refused(1, ErrorCode::OffsetOutOfRange), 0);
    writer.partition(&FetchedPartition::refused(2, ErrorCode::None), 7);
    let encoded = writer.finish();
    assert_eq!(encoded.splices.iter().map(|splice| splice.size).collect::<Vec<_>>(), [100, 7]);
    let pieces: Vec<Piece<'_>> = encoded.pieces().collect();
    assert_eq!(pieces.len(), 5);
    assert_eq!(pieces[1], Piece::Records { splice: 0, size: 100 });
    assert_eq!(pieces[3], Piece::Records { splice: 1, size: 7 });
    // The tail: the tagged fields of partition, topic and response.
    assert_eq!(pieces[4], Piece::Head(&[0, 0, 0]));
}

#[test]
fn recycled_buffers_start_empty() {
    let write_one = |recycled| {
        let mut writer = FetchResponseWriter::new(&header(11), 1, recycled);
        writer.topic("t", 1);
        writer.partition(&FetchedPartition::refused(0, ErrorCode::None), 5);
        writer.finish()
    };
    let first = write_one(EncodedFetch::default());
    let second = write_one(first.clone());
    assert_eq!(first.head, second.head);
    assert_eq!(first.splices, second.splices);
}

#[test]
#[should_panic(expected = "fewer topics than announced")]
fn a_missing_topic_is_noticed() {
    FetchResponseWriter::new(&header(12), 1, EncodedFetch::default()).finish();
}

fn header(version: i16) -> FetchResponseHeader {
    FetchResponseHeader {
        version,
        correlation_id: 1,
        throttle_time_ms: 0,
        error: ErrorCode::None,
        session_id: 0,
    }
}

fn errors() -> impl Strategy<Value = ErrorCode> {
    (0..ErrorCode::ALL.len()).prop_map(|at| ErrorCode::ALL[at])
}

fn offsets() -> impl Strategy<Value = Option<Offset>> {
    option::of(0..1000u64).prop_map(|offset| offset.and_then(Offset::new))
}

fn partitions() -> impl Strategy<Value = Partition> {
    let aborted = (0..9i64, 0..9u64).prop_map(|(producer, first_offset)| AbortedTransaction {
        producer: ProducerId(producer),
        first_offset: Offset::new(first_offset).unwrap(),
    });
    let diverging = (0..9i32, 0..9u64).prop_map(|(epoch, end_offset)| DivergingEpoch {
        epoch: LeaderEpoch(epoch),
        end_offset: Offset::new(end_offset).unwrap(),
    });
    let leader = (0..9i32, 0..9i32)
        .prop_map(|(leader, epoch)| CurrentLeader { leader: BrokerId(leader), epoch: LeaderEpoch(epoch) });
    let replica = option::of((0..9i32).prop_map(BrokerId));
    let fields = (any::<i32>(), errors(), offsets(), offsets(), offsets(), replica);
    let partition = (fields, option::of(diverging), option::of(leader)).prop_map(
        |((partition, error, high, stable, start, replica), diverging_epoch, current_leader)| {
            FetchedPartition {
                high_watermark: high,
                last_stable_offset: stable,
                log_start: start,
                preferred_read_replica: replica,
                diverging_epoch,
                current_leader,
                ..FetchedPartition::refused(partition, error)
            }
        },
    );
    (partition, option::of(vec(aborted, 0..3)), vec(any::<u8>(), 0..300))
}

fn write<'a>(
    header: &FetchResponseHeader,
    topics: &'a [(String, Vec<Partition>)],
) -> (EncodedFetch, Vec<&'a [u8]>) {
    let mut records = Vec::new();
    let mut writer = FetchResponseWriter::new(header, topics.len(), EncodedFetch::default());
    for (name, partitions) in topics {
        writer.topic(name, partitions.len());
        for (partition, aborted, bytes) in partitions {
            let partition = FetchedPartition { aborted: aborted.as_deref(), ..*partition };
            writer.partition(&partition, bytes.len());
            if !bytes.is_empty() {
                records.push(&bytes[..]);
            }
        }
    }
    (writer.finish(), records)
}

fn assemble(encoded: &EncodedFetch, records: &[&[u8]]) -> Bytes {
    let pieces = encoded.pieces().map(|piece| match piece {
        Piece::Head(bytes) => bytes,
        Piece::Records { splice, size } => {
            assert_eq!(records[splice].len(), size);
            records[splice]
        }
    });
    Bytes::from(pieces.collect::<Vec<_>>().concat())
}

fn expected(header: &FetchResponseHeader, topics: &[(String, Vec<Partition>)]) -> FetchResponse {
    let version = header.version;
    let topics = topics.iter().map(|(name, partitions)| {
        let partitions = partitions.iter().map(|partition| expected_partition(partition, version));
        library::FetchableTopicResponse::default()
            .with_topic(StrBytes::from_string(name.clone()).into())
            .with_partitions(partitions.collect())
    });
    let mut response = FetchResponse::default()
        .with_throttle_time_ms(header.throttle_time_ms)
        .with_responses(topics.collect());
    if version >= 7 {
        response.error_code = header.error.code();
        response.session_id = header.session_id;
    }
    response
}

fn expected_partition(partition: &Partition, version: i16) -> library::PartitionData {
    let (partition, aborted, records) = partition;
    let wire = |offset: Option<Offset>| offset.map_or(-1, Offset::to_wire);
    let aborted = aborted.as_ref().map(|aborted| {
        let transactions = aborted.iter().map(|transaction| {
            library::AbortedTransaction::default()
                .with_producer_id(transaction.producer.0.into())
                .with_first_offset(transaction.first_offset.to_wire())
        });
        transactions.collect()
    });
    let mut data = library::PartitionData::default()
        .with_partition_index(partition.partition)
        .with_error_code(partition.error.code())
        .with_high_watermark(wire(partition.high_watermark))
        .with_last_stable_offset(wire(partition.last_stable_offset))
        .with_aborted_transactions(aborted)
        .with_records(Some(Bytes::from(records.clone())));
    if version >= 5 {
        data.log_start_offset = wire(partition.log_start);
    }
    if version >= 11 {
        data.preferred_read_replica = partition.preferred_read_replica.map_or(-1, |replica| replica.0).into();
    }
    if version >= 12 {
        if let Some(diverging) = partition.diverging_epoch {
            data.diverging_epoch = library::EpochEndOffset::default()
                .with_epoch(diverging.epoch.0)
                .with_end_offset(diverging.end_offset.to_wire());
        }
        if let Some(leader) = partition.current_leader {
            data.current_leader = library::LeaderIdAndEpoch::default()
                .with_leader_id(leader.leader.0.into())
                .with_leader_epoch(leader.epoch.0);
        }
    }
    data
}
