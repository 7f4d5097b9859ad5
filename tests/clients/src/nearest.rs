//! Consumers of librdkafka that name their rack (`client.rack`) read from the replica that is there (KIP-392).

use std::time::{Duration, Instant};

use odradek_test_harness::kafka_protocol::messages::CreateTopicsRequest;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic,
};
use odradek_test_harness::kafka_protocol::messages::fetch_response::PartitionData;
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{
    Batch, Broker, Client, Connection, Options, PATIENCE, Routing, topic_name, wait_for,
};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::groups::metric;

const TOPIC: &str = "near";

/// The leader is in rack `a`, the follower and the consumer in `b`: every record comes from the follower.
pub fn consumers_read_in_their_rack() {
    let options = Options::new(Routing::Node).cores(1).memory("256MiB");
    let options =
        options.set("replica.selector.class", "rack-aware").set("broker.session.timeout.ms", "10000");
    let mut leader = Broker::start_with(options.clone().set("rack", "a").in_cluster(1, &[]));
    let mut follower = Broker::start_with(options.set("rack", "b").in_cluster(2, &[&leader]));
    create(&leader);
    let mut written = Vec::new();
    let mut write = |count: usize| {
        let values: Vec<String> = (0..count).map(|at| format!("value {}", written.len() + at)).collect();
        let offset = Client::connect(&leader).produce(TOPIC, 0, &Batch::of(&values, 1));
        assert_eq!(offset, written.len() as i64);
        written.extend(values);
    };
    (0..100).for_each(|_| write(10));
    // From then on the leader sends readers away, wherever they begin.
    wait_for("the follower to know what may be read", || {
        (probe(&leader, 1000).preferred_read_replica.0 == 2).then_some(())
    });
    let consumer = consumer(&leader);
    let mut read = Vec::new();
    read_until(&consumer, &mut read, 1000);
    // At the end of the log, too.
    (0..10).for_each(|_| {
        write(1);
        let until = read.len() + 1;
        read_until(&consumer, &mut read, until);
    });
    drop(consumer);
    assert_eq!(read, written);
    let fetched = |node| metric(node, "odradek_fetched_batches_total");
    assert_eq!(fetched(&leader), 0, "batches that the leader has sent");
    assert!(fetched(&follower) >= 110, "{} that the follower has", fetched(&follower));
    follower.stop();
    leader.stop();
}

fn create(node: &Broker) {
    let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![1.into(), 2.into()]);
    let topic = CreatableTopic::default()
        .with_name(topic_name(TOPIC))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![assignment]);
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    let response = Connection::open(node.port()).call(5, &request);
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0]);
}

fn probe(leader: &Broker, offset: i64) -> PartitionData {
    let request = Client::fetch_request(TOPIC, 0, offset).with_rack_id(StrBytes::from_static_str("b"));
    let response = Connection::open(leader.port()).call(Client::FETCH_VERSION, &request);
    response.responses[0].partitions[0].clone()
}

fn consumer(node: &Broker) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", node.bootstrap()).set("client.rack", "b");
    config.set("group.id", "unused").set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    config.set("fetch.wait.max.ms", "100");
    let consumer: BaseConsumer = config.create().expect("settings that it knows");
    let mut assigned = TopicPartitionList::new();
    assigned.add_partition_offset(TOPIC, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&assigned).expect("nothing else is assigned");
    consumer
}

fn read_until(consumer: &BaseConsumer, read: &mut Vec<String>, count: usize) {
    let end = Instant::now() + PATIENCE;
    while read.len() < count {
        assert!(Instant::now() < end, "{} of {count} records are read", read.len());
        let Some(polled) = consumer.poll(Duration::from_millis(100)) else { continue };
        let record = polled.expect("it reads without an error");
        assert_eq!(record.offset(), read.len() as i64);
        read.push(String::from_utf8_lossy(record.payload().unwrap_or_default()).into_owned());
    }
}
