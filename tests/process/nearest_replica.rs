//! Reads from followers (KIP-392): a leader sends clients to a replica of their rack, which serves what everybody has.

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::fetch_response::PartitionData;
use odradek_test_harness::kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsTopic,
};
use odradek_test_harness::kafka_protocol::messages::write_txn_markers_request::{
    WritableTxnMarker, WritableTxnMarkerTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    BrokerId, FetchRequest, ListOffsetsRequest, TransactionalId, WriteTxnMarkersRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Batch, Broker, Client, Connection, ReadRecord, records_of, topic_name, wait_for};

use crate::clusters::{self, three_of};
use crate::elections::{create, partition, produce, wait_for_in_sync};

const TOPIC: &str = "near";

/// The first is in rack `a`, the others are in `b`.
fn three_in_two_racks() -> Vec<Broker> {
    let options = clusters::options()
        .set("broker.session.timeout.ms", "3000")
        .set("transaction.partition.verification.enable", "false")
        .set("replica.selector.class", "org.apache.kafka.common.replica.RackAwareReplicaSelector");
    three_of(["a", "b", "b"].map(|rack| options.clone().set("rack", rack)))
}

fn request(offset: i64, rack: &'static str) -> FetchRequest {
    Client::fetch_request(TOPIC, 0, offset).with_rack_id(StrBytes::from_static_str(rack))
}

/// What one node answers, of whatever role.
fn answer(node: &Broker, version: i16, request: &FetchRequest) -> PartitionData {
    let response = Connection::open(node.port()).call(version, request);
    assert_eq!(response.error_code, 0);
    response.responses[0].partitions[0].clone()
}

fn fetch(node: &Broker, offset: i64, rack: &'static str) -> PartitionData {
    answer(node, Client::FETCH_VERSION, &request(offset, rack))
}

fn error(data: &PartitionData) -> Option<ResponseError> {
    ResponseError::try_from_code(data.error_code)
}

/// Once a node knows that so much may be read.
fn wait_for_high_watermark(node: &Broker, expected: i64) -> PartitionData {
    wait_for("a high watermark", || {
        let data = fetch(node, 0, "");
        (data.error_code == 0 && data.high_watermark == expected).then_some(data)
    })
}

/// Data records; markers have other values.
fn values(records: Vec<ReadRecord>) -> Vec<String> {
    let values = records.into_iter().map(|record| String::from_utf8_lossy(&record.value).into_owned());
    values.filter(|value| !value.contains('\0')).collect()
}

fn record(value: &str) -> Batch {
    Batch::of(&[value], 1)
}

#[test]
fn readers_are_sent_to_a_replica_of_their_rack_and_find_everything_there() {
    let mut nodes = three_in_two_racks();
    create(&nodes[0], TOPIC, &[1, 2], &[("min.insync.replicas", "1")]);
    let expected: Vec<String> = (0..10).map(|number| format!("value {number}")).collect();
    for (offset, value) in expected.iter().enumerate() {
        assert_eq!(produce(&nodes[0], TOPIC, &record(value)), offset as i64);
    }
    // It is sent nowhere before the follower knows that it may show them.
    let sent = wait_for("to be sent to a follower", || {
        let data = fetch(&nodes[0], 10, "b");
        assert_eq!(data.error_code, 0);
        (data.preferred_read_replica.0 != -1).then_some(data)
    });
    assert_eq!(sent.preferred_read_replica.0, 2);
    let sent = answer(&nodes[0], 12, &request(0, "b").with_max_wait_ms(60_000).with_min_bytes(1 << 20));
    assert_eq!((sent.preferred_read_replica.0, sent.high_watermark), (2, 10), "at once");
    assert!(sent.records.is_none_or(|records| records.is_empty()), "it is to read them there");
    for rack in ["a", "c", ""] {
        let data = fetch(&nodes[0], 0, rack);
        assert_eq!((data.preferred_read_replica.0, records_of(&data).len()), (-1, 10), "rack {rack}");
    }

    wait_for_high_watermark(&nodes[1], 10);
    let near = fetch(&nodes[1], 0, "b");
    assert_eq!((error(&near), near.preferred_read_replica.0), (None, -1));
    assert_eq!((near.high_watermark, near.log_start_offset), (10, 0));
    assert_eq!(values(records_of(&near)), expected);
    // Whoever waits there gets what is new.
    let mut waiting = Connection::open(nodes[1].port());
    let wait = request(10, "b").with_max_wait_ms(60_000);
    waiting.send(Client::FETCH_VERSION, &wait).expect("it is sent");
    assert_eq!(produce(&nodes[0], TOPIC, &record("new")), 10);
    let woken = waiting.receive::<FetchRequest>(Client::FETCH_VERSION).expect("it is woken");
    assert_eq!(values(records_of(&woken.responses[0].partitions[0])), ["new"]);

    // Once it is gone, everything is read where the partition is led.
    nodes[1].kill();
    wait_for_in_sync(&nodes[0], TOPIC, &[1]);
    let data = fetch(&nodes[0], 0, "b");
    assert_eq!((data.preferred_read_replica.0, records_of(&data).len()), (-1, 11));
    nodes[1].start_again();
    nodes.iter_mut().for_each(Broker::stop);
}

#[test]
fn followers_refuse_what_only_leaders_can_answer() {
    let mut nodes = three_in_two_racks();
    create(&nodes[0], TOPIC, &[1, 2], &[]);
    assert_eq!(produce(&nodes[0], TOPIC, &record("value")), 0);
    wait_for_high_watermark(&nodes[1], 1);
    let refused = Some(ResponseError::NotLeaderOrFollower);
    assert_eq!(error(&answer(&nodes[1], 10, &request(0, ""))), refused, "clients that do not know of it");
    let asked = wait_for("the topic there", || {
        let error = error(&answer(&nodes[2], 11, &request(0, "")));
        (error != Some(ResponseError::UnknownTopicOrPartition)).then_some(error)
    });
    assert_eq!(asked, refused, "it is no replica");
    let ahead = error(&fetch(&nodes[1], 2, ""));
    assert_eq!(ahead, Some(ResponseError::OffsetNotAvailable), "the leader may have it");
    assert_eq!(error(&fetch(&nodes[0], 2, "")), Some(ResponseError::OffsetOutOfRange));
    let epoch = partition(&nodes[0], TOPIC).leader_epoch;
    let mut believing = request(0, "");
    for (at, expected) in [(epoch, None), (epoch + 1, Some(ResponseError::UnknownLeaderEpoch))] {
        believing.topics[0].partitions[0].current_leader_epoch = at;
        assert_eq!(error(&answer(&nodes[1], 11, &believing)), expected);
    }
    let mut fetched = request(2, "");
    fetched.topics[0].partitions[0].last_fetched_epoch = epoch;
    let ahead = answer(&nodes[1], 12, &fetched);
    let expected = (Some(ResponseError::OffsetNotAvailable), -1);
    assert_eq!((error(&ahead), ahead.diverging_epoch.end_offset), expected, "nor has it lost it");
    assert_eq!(answer(&nodes[0], 12, &fetched).diverging_epoch.end_offset, 1, "the leader says so");
    let asked = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(-1);
    let topic = ListOffsetsTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![asked]);
    let latest = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    for (node, expected) in [(0, None), (1, refused)] {
        let response = Connection::open(nodes[node].port()).call(Client::LIST_OFFSETS_VERSION, &latest);
        let code = response.topics[0].partitions[0].error_code;
        assert_eq!(ResponseError::try_from_code(code), expected);
    }

    // Under another leader: who believes in the one before is told so by both.
    nodes[0].stop();
    wait_for("another leader", || (partition(&nodes[1], TOPIC).leader_id.0 == 2).then_some(()));
    nodes[0].start_again();
    wait_for_in_sync(&nodes[1], TOPIC, &[1, 2]);
    assert_eq!(partition(&nodes[1], TOPIC).leader_id.0, 2);
    believing.topics[0].partitions[0].current_leader_epoch = epoch;
    for node in &nodes[..2] {
        let fenced = answer(node, 11, &believing);
        assert_eq!(error(&fenced), Some(ResponseError::FencedLeaderEpoch));
    }
    let read = wait_for_high_watermark(&nodes[0], 1);
    assert_eq!(values(records_of(&read)), ["value"], "the one that led follows now");
    nodes.iter_mut().for_each(Broker::stop);
}

#[test]
fn readers_of_committed_records_find_at_a_follower_what_was_committed() {
    let mut nodes = three_in_two_racks();
    create(&nodes[0], TOPIC, &[1, 2], &[]);
    let producer = Client::connect(&nodes[0]).init_producer();
    assert_eq!(produce(&nodes[0], TOPIC, &record("plain")), 0);
    let batch = record("aborted").by(producer).in_transaction();
    let id = TransactionalId(StrBytes::from_static_str("transfers"));
    let transactional = Client::produce_request(TOPIC, 0, batch.bytes()).with_transactional_id(Some(id));
    let mut leader = Connection::open(nodes[0].port());
    let response = leader.call(Client::PRODUCE_VERSION, &transactional);
    assert_eq!(Client::partition_answer(&response).base_offset, 1);
    assert_eq!(wait_for_high_watermark(&nodes[1], 2).last_stable_offset, 1);
    let committed = request(0, "b").with_isolation_level(1);
    let open = answer(&nodes[1], Client::FETCH_VERSION, &committed);
    assert_eq!((values(records_of(&open)), open.last_stable_offset), (vec!["plain".to_owned()], 1));

    // Whoever waits there for the end of the transaction hears of it.
    let mut waiting = Connection::open(nodes[1].port());
    let wait = request(1, "b").with_isolation_level(1).with_max_wait_ms(60_000);
    waiting.send(Client::FETCH_VERSION, &wait).expect("it is sent");
    let topic =
        WritableTxnMarkerTopic::default().with_name(topic_name(TOPIC)).with_partition_indexes(vec![0]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(producer.id.into())
        .with_producer_epoch(producer.epoch)
        .with_transaction_result(false)
        .with_topics(vec![topic]);
    let response = leader.call(1, &WriteTxnMarkersRequest::default().with_markers(vec![marker]));
    assert_eq!(response.markers[0].topics[0].partitions[0].error_code, 0);
    let woken = waiting.receive::<FetchRequest>(Client::FETCH_VERSION).expect("it is woken");
    let woken = &woken.responses[0].partitions[0];
    assert_eq!(woken.last_stable_offset, 3);
    let aborted = woken.aborted_transactions.iter().flatten();
    let aborted: Vec<_> = aborted.map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect();
    assert_eq!(aborted, [(producer.id, 1)]);
    nodes.iter_mut().for_each(Broker::stop);
}
