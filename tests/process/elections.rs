//! Elections that the cluster holds by itself.

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use odradek_test_harness::kafka_protocol::messages::metadata_response::MetadataResponsePartition;
use odradek_test_harness::kafka_protocol::messages::{BrokerId, CreateTopicsRequest};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Connection, Options, create_topics, topic_name, wait_for,
};

use crate::clusters::{self, run, three_with};

const UNCLEAN: &str = "unclean.leader.election.enable";

fn options() -> Options {
    clusters::options().set("broker.session.timeout.ms", "3000")
}

/// One partition on these nodes, the first of which leads.
pub fn create(node: &Broker, topic: &str, replicas: &[i32], settings: &[(&str, &str)]) {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let configs = settings.iter().map(|(name, value)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    let replicas = replicas.iter().copied().map(BrokerId).collect();
    let assignment = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(replicas);
    let topic = CreatableTopic::default()
        .with_name(topic_name(topic))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![assignment])
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    assert_eq!(create_topics(node, &request), None);
}

pub fn partition(node: &Broker, topic: &str) -> MetadataResponsePartition {
    Client::connect(node).metadata(&[topic]).topics[0].partitions[0].clone()
}

/// Waits until a node knows of this leader.
fn wait_for_leader(node: &Broker, topic: &str, leader: i32) {
    wait_for(&format!("node {leader} to lead {topic}"), || {
        (partition(node, topic).leader_id.0 == leader).then_some(())
    });
}

pub fn wait_for_in_sync(node: &Broker, topic: &str, expected: &[i32]) {
    wait_for(&format!("{expected:?} to be in sync of {topic}"), || {
        let mut in_sync: Vec<i32> = partition(node, topic).isr_nodes.iter().map(|node| node.0).collect();
        in_sync.sort();
        (in_sync == expected).then_some(())
    });
}

fn values(node: &Broker, topic: &str) -> Vec<String> {
    let read = Client::connect(node).read_all(topic, 0);
    read.into_iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

/// With `acks=all`, as a client does that tries again. Returns the offset.
pub fn produce(alive: &Broker, topic: &str, batch: &Batch) -> i64 {
    let attempt = || {
        let metadata = Client::connect(alive).metadata(&[topic]);
        let leader = metadata.topics[0].partitions[0].leader_id;
        let leader = metadata.brokers.iter().find(|broker| broker.node_id == leader)?;
        let request = Client::produce_request(topic, 0, batch.bytes());
        let mut connection = Connection::try_open(leader.port as u16).ok()?;
        let response = connection.try_call(Client::PRODUCE_VERSION, &request).ok()?;
        let answer = Client::partition_answer(&response);
        match ResponseError::try_from_code(answer.error_code) {
            None => Some(answer.base_offset),
            Some(
                ResponseError::NotLeaderOrFollower
                // It was just made: the leader may hear of that last.
                | ResponseError::UnknownTopicOrPartition
                | ResponseError::RequestTimedOut
                | ResponseError::NotEnoughReplicas
                | ResponseError::NotEnoughReplicasAfterAppend,
            ) => None,
            Some(error) => panic!("{error:?}"),
        }
    };
    wait_for("an acknowledgement", attempt)
}

fn record(value: &str) -> Batch {
    Batch::of(&[value], 1)
}

fn unclean_elections(nodes: &[Broker]) -> usize {
    nodes.iter().map(|node| node.log().matches("an unclean election").count()).sum()
}

/// It is said once the change is everywhere.
fn wait_for_unclean(nodes: &[Broker], expected: usize) {
    wait_for("unclean elections", || (unclean_elections(nodes) == expected).then_some(()));
}

/// Two of the three nodes are gone. The third is there for the quorum, and has no replica.
#[test]
fn who_is_not_in_sync_leads_alone_only_where_that_is_allowed() {
    let mut nodes = three_with(&options());
    let minimum = ("min.insync.replicas", "1");
    create(&nodes[0], "kept", &[2, 3], &[minimum]);
    create(&nodes[0], "allowed", &[2, 3], &[minimum, (UNCLEAN, "true")]);
    for topic in ["kept", "allowed"] {
        assert_eq!(produce(&nodes[0], topic, &record("on both")), 0);
    }
    nodes[2].kill();
    for topic in ["kept", "allowed"] {
        wait_for_in_sync(&nodes[0], topic, &[2]);
        assert_eq!(produce(&nodes[0], topic, &record("on one")), 1);
    }
    nodes[1].kill();
    nodes[2].start_again();
    wait_for_leader(&nodes[0], "allowed", 3);
    wait_for_unclean(&nodes, 1);
    assert_eq!(produce(&nodes[0], "allowed", &record("new")), 1, "where the lost one was");
    assert_eq!(values(&nodes[0], "allowed"), ["on both", "new"]);

    // It waits for the one that has everything, until it is told not to.
    let waiting = partition(&nodes[0], "kept");
    assert_eq!(waiting.leader_id.0, -1);
    assert_eq!(waiting.error_code, ResponseError::LeaderNotAvailable.code());
    run(&nodes[0], &["topic", "alter", "kept", "--config", &format!("{UNCLEAN}=true")]).expect("it is set");
    wait_for_leader(&nodes[0], "kept", 3);
    wait_for_unclean(&nodes, 2);
    assert_eq!(produce(&nodes[0], "kept", &record("new")), 1, "where the lost one was");

    // What only the other one had is gone from it too.
    nodes[1].start_again();
    for topic in ["kept", "allowed"] {
        wait_for_in_sync(&nodes[0], topic, &[2, 3]);
        assert_eq!(produce(&nodes[0], topic, &record("last")), 2);
        assert_eq!(values(&nodes[1], topic), ["on both", "new", "last"]);
    }
    nodes.iter_mut().for_each(Broker::stop);
}

/// Somebody writes all the time, and nothing is lost or stored twice on the way.
#[test]
fn leaders_return_to_the_preferred_replica_once_it_is_back() {
    const TOPIC: &str = "preferred";
    let mut nodes = three_with(&options().set("leader.imbalance.check.interval.seconds", "1"));
    create(&nodes[0], TOPIC, &[2, 3, 1], &[]);
    let producer = Client::connect(&nodes[0]).init_producer();
    let mut expected = Vec::new();
    let mut write = |node: &Broker| {
        let (sequence, value) = (expected.len() as i32, format!("value {}", expected.len()));
        let batch = record(&value).by(BatchProducer { sequence, ..producer });
        assert_eq!(produce(node, TOPIC, &batch), i64::from(sequence), "each is stored once");
        expected.push(value);
    };
    (0..5).for_each(|_| write(&nodes[0]));
    nodes[1].kill();
    // The next one of its replicas, or the last where that one was not in sync for a moment.
    wait_for("another leader", || [1, 3].contains(&partition(&nodes[0], TOPIC).leader_id.0).then_some(()));
    (0..5).for_each(|_| write(&nodes[0]));
    nodes[1].begin_start();
    wait_for("the preferred replica to lead", || {
        write(&nodes[0]);
        (partition(&nodes[0], TOPIC).leader_id.0 == 2).then_some(())
    });
    (0..5).for_each(|_| write(&nodes[0]));
    drop(nodes[1].wait_until_ready());
    wait_for("all values", || (values(&nodes[0], TOPIC).len() >= expected.len()).then_some(()));
    assert_eq!(values(&nodes[0], TOPIC), expected);
    assert_eq!(unclean_elections(&nodes), 0);
    nodes.iter_mut().for_each(Broker::stop);
}
