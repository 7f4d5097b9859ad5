//! Transactions in partitions, as their coordinator will begin and end them: what readers of committed
//! records get, on one core and from another, before and after a kill.

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::describe_producers_request::TopicRequest;
use odradek_test_harness::kafka_protocol::messages::fetch_response::PartitionData;
use odradek_test_harness::kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsTopic,
};
use odradek_test_harness::kafka_protocol::messages::write_txn_markers_request::{
    WritableTxnMarker, WritableTxnMarkerTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    BrokerId, DescribeProducersRequest, FetchRequest, ListOffsetsRequest, TransactionalId,
    WriteTxnMarkersRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Connection, Options, Routing, records_of, topic_name,
};

use crate::now_ms;

const TOPIC: &str = "transfers";
const UNCOMMITTED: i8 = 0;
const COMMITTED: i8 = 1;

#[test]
fn readers_of_committed_records_get_what_was_committed_on_every_core() {
    for routing in Routing::BOTH {
        // There is no coordinator that could be asked.
        let options = Options::new(routing).set("transaction.partition.verification.enable", "false");
        let mut broker = Broker::start_with(options);
        let mut client = Client::connect(&broker);
        client.create_topic(TOPIC, 4, &[]);
        let producer = client.init_producer();
        for partition in 0..4 {
            let mut connection = leader(&mut client, partition);
            let plain = Batch::of(&["plain"], now_ms()).bytes();
            assert_eq!(client.produce_bytes(TOPIC, partition, plain), Ok(0));
            assert_eq!(transact(&mut connection, partition, producer, "first"), 1);
            let open = fetch(&mut connection, partition, 0, COMMITTED);
            assert_eq!(values(&open), ["plain"], "{routing:?} {partition}");
            assert_eq!((open.high_watermark, open.last_stable_offset), (2, 1));
            assert_eq!(open.aborted_transactions.as_deref(), Some(&[][..]));
            let all = fetch(&mut connection, partition, 0, UNCOMMITTED);
            assert_eq!(values(&all), ["plain", "first"]);
            assert_eq!((all.last_stable_offset, all.aborted_transactions), (1, None));
            assert_eq!(latest(&mut connection, partition, COMMITTED), 1);
            assert_eq!(latest(&mut connection, partition, UNCOMMITTED), 2);
            assert_eq!(open_since(&mut connection, partition, producer), 1);

            // A reader that waits for committed records is woken by the marker that aborts it.
            let mut waiting = leader(&mut client, partition);
            let request = fetch_request(partition, 1, COMMITTED).with_max_wait_ms(60_000);
            waiting.send(Client::FETCH_VERSION, &request).expect("it is sent");
            assert_eq!(end(&mut connection, partition, producer, false, 0), None);
            let response = waiting.receive::<FetchRequest>(Client::FETCH_VERSION).expect("it is woken");
            let woken = &response.responses[0].partitions[0];
            assert_eq!((woken.last_stable_offset, aborted(woken)), (3, vec![(producer.id, 1)]));
            assert_eq!(open_since(&mut connection, partition, producer), -1);

            // The next one is committed; an earlier coordinator is too late for it.
            let next = BatchProducer { sequence: 1, ..producer };
            assert_eq!(transact(&mut connection, partition, next, "second"), 3);
            let unknown = end(&mut connection, partition, producer, false, i32::MAX);
            assert_eq!(unknown, Some(ResponseError::InvalidRequest), "it would keep all others out");
            let fenced = end(&mut connection, partition, producer, false, -1);
            assert_eq!(fenced, Some(ResponseError::TransactionCoordinatorFenced));
            assert_eq!(end(&mut connection, partition, producer, true, 0), None);
        }
        broker.kill();
        broker.start_again();
        let mut client = Client::connect(&broker);
        for partition in 0..4 {
            let mut connection = leader(&mut client, partition);
            let whole = fetch(&mut connection, partition, 0, COMMITTED);
            assert_eq!((whole.high_watermark, whole.last_stable_offset), (5, 5), "{routing:?} {partition}");
            assert_eq!(aborted(&whole), [(producer.id, 1)]);
            let behind = fetch(&mut connection, partition, 3, COMMITTED);
            assert_eq!((values(&behind), aborted(&behind)), (vec!["second".to_owned()], vec![]));
        }
        broker.stop();
    }
}

#[test]
fn nobody_begins_a_transaction_that_no_coordinator_knows() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic(TOPIC, 4, &[]);
        let producer = client.init_producer();
        for partition in 0..4 {
            let mut connection = leader(&mut client, partition);
            let request = transactional(partition, producer, "late");
            let response = connection.call(Client::PRODUCE_VERSION, &request);
            let answer = Client::partition_answer(&response);
            assert_eq!(answer.error_code, ResponseError::InvalidTxnState.code(), "{routing:?}");
            // Nor without saying whose it is.
            let response = connection.call(Client::PRODUCE_VERSION, &request.with_transactional_id(None));
            let answer = Client::partition_answer(&response);
            assert_eq!(answer.error_code, ResponseError::TransactionalIdAuthorizationFailed.code());
            assert_eq!(latest(&mut connection, partition, UNCOMMITTED), 0);
            // And nothing of it stands in the way of whoever has that producer id: more batches than are
            // remembered, the refused one again, and one more.
            let own = |sequence| BatchProducer { sequence, ..producer };
            for sequence in 0..7 {
                let batch = Batch::of(&["plain"], now_ms()).by(own(sequence)).bytes();
                assert_eq!(client.produce_bytes(TOPIC, partition, batch), Ok(i64::from(sequence)));
            }
            let response =
                connection.call(Client::PRODUCE_VERSION, &transactional(partition, own(0), "late"));
            let answer = Client::partition_answer(&response);
            assert_eq!(answer.error_code, ResponseError::InvalidTxnState.code(), "{routing:?}");
            let batch = Batch::of(&["plain"], now_ms()).by(own(7)).bytes();
            assert_eq!(client.produce_bytes(TOPIC, partition, batch), Ok(7));
        }
    }
}

fn leader(client: &mut Client, partition: i32) -> Connection {
    let (_, port) = client.leader(TOPIC, partition);
    Connection::open(port)
}

fn transactional(
    partition: i32,
    producer: BatchProducer,
    value: &str,
) -> odradek_test_harness::kafka_protocol::messages::ProduceRequest {
    let batch = Batch::of(&[value], now_ms()).by(producer).in_transaction();
    let id = TransactionalId(StrBytes::from_static_str("transfers"));
    Client::produce_request(TOPIC, partition, batch.bytes()).with_transactional_id(Some(id))
}

fn transact(connection: &mut Connection, partition: i32, producer: BatchProducer, value: &str) -> i64 {
    let response = connection.call(Client::PRODUCE_VERSION, &transactional(partition, producer, value));
    let answer = Client::partition_answer(&response);
    assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
    answer.base_offset
}

fn end(
    connection: &mut Connection,
    partition: i32,
    producer: BatchProducer,
    commits: bool,
    coordinator_epoch: i32,
) -> Option<ResponseError> {
    let topic = WritableTxnMarkerTopic::default()
        .with_name(topic_name(TOPIC))
        .with_partition_indexes(vec![partition]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(producer.id.into())
        .with_producer_epoch(producer.epoch)
        .with_transaction_result(commits)
        .with_coordinator_epoch(coordinator_epoch)
        .with_topics(vec![topic]);
    let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
    let response = connection.call(1, &request);
    ResponseError::try_from_code(response.markers[0].topics[0].partitions[0].error_code)
}

/// First offset of the producer's open transaction, -1: none.
fn open_since(connection: &mut Connection, partition: i32, producer: BatchProducer) -> i64 {
    let topic = TopicRequest::default().with_name(topic_name(TOPIC)).with_partition_indexes(vec![partition]);
    let response = connection.call(0, &DescribeProducersRequest::default().with_topics(vec![topic]));
    let answer = &response.topics[0].partitions[0];
    assert_eq!(answer.error_code, 0);
    let found = answer.active_producers.iter().find(|found| found.producer_id.0 == producer.id);
    found.expect("it has written").current_txn_start_offset
}

fn fetch_request(partition: i32, offset: i64, isolation: i8) -> FetchRequest {
    Client::fetch_request(TOPIC, partition, offset).with_isolation_level(isolation)
}

fn fetch(connection: &mut Connection, partition: i32, offset: i64, isolation: i8) -> PartitionData {
    let response = connection.call(Client::FETCH_VERSION, &fetch_request(partition, offset, isolation));
    let data = response.responses[0].partitions[0].clone();
    assert_eq!(data.error_code, 0);
    data
}

fn latest(connection: &mut Connection, partition: i32, isolation: i8) -> i64 {
    let asked = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(-1);
    let topic = ListOffsetsTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation)
        .with_topics(vec![topic]);
    let response = connection.call(Client::LIST_OFFSETS_VERSION, &request);
    response.topics[0].partitions[0].offset
}

/// Of data records; markers have none.
fn values(data: &PartitionData) -> Vec<String> {
    let records = records_of(data).into_iter();
    let values = records.map(|record| String::from_utf8_lossy(&record.value).into_owned());
    values.filter(|value| !value.contains('\0')).collect()
}

fn aborted(data: &PartitionData) -> Vec<(i64, i64)> {
    let aborted = data.aborted_transactions.iter().flatten();
    aborted.map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect()
}
