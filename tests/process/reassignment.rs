//! Partitions that move between nodes: what was acknowledged is there once, and nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use odradek_test_harness::kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use odradek_test_harness::kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use odradek_test_harness::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use odradek_test_harness::kafka_protocol::messages::metadata_response::MetadataResponsePartition;
use odradek_test_harness::kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, CreateTopicsRequest, DeleteRecordsRequest, MetadataRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Connection, Options, ReadRecord, create_topics, topic_name,
    wait_for,
};
use serde_json::Value;

use crate::clusters::{options, run, three_with};

pub const TOPIC: &str = "moving";

/// Two cores each, so that a replica may come back to another one.
pub fn settings() -> Options {
    options().cores(2).set("broker.session.timeout.ms", "3000")
}

pub fn four() -> Vec<Broker> {
    four_with(&settings())
}

pub fn four_with(options: &Options) -> Vec<Broker> {
    let mut nodes = three_with(options);
    let fourth = Broker::start_with(options.clone().in_cluster(4, &[&nodes[0]]));
    nodes.push(fourth);
    nodes
}

/// Each partition on the nodes given.
pub fn create(node: &Broker, partitions: &[&[i32]]) {
    let assignments = (0..).zip(partitions).map(|(index, nodes)| {
        let ids = nodes.iter().copied().map(BrokerId).collect();
        CreatableReplicaAssignment::default().with_partition_index(index).with_broker_ids(ids)
    });
    // Small segments, which are gone soon, and records of 1970, which stay.
    let configs = [("segment.bytes", "1048576"), ("file.delete.delay.ms", "100"), ("retention.ms", "-1")];
    let configs = configs.map(|(name, value)| {
        let config = CreatableTopicConfig::default().with_name(StrBytes::from_static_str(name));
        config.with_value(Some(StrBytes::from_static_str(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(TOPIC))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(assignments.collect())
        .with_configs(configs.to_vec());
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    assert_eq!(create_topics(node, &request), None);
}

/// `None`: cancelled. The error, if there is one.
fn reassign(node: &Broker, of: i32, replicas: Option<&[i32]>) -> Option<ResponseError> {
    let replicas = replicas.map(|ids| ids.iter().copied().map(BrokerId).collect());
    let partition = ReassignablePartition::default().with_partition_index(of).with_replicas(replicas);
    let topic = ReassignableTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    // The quorum may get another leader meanwhile.
    wait_for("an answer of the controller", || {
        let response = Connection::open(node.port()).call(1, &request);
        let codes = [response.error_code, response.responses[0].partitions[0].error_code];
        let [whole, error] = codes.map(ResponseError::try_from_code);
        match error.or(whole) {
            Some(ResponseError::NotController | ResponseError::RequestTimedOut) => None,
            _ if whole.is_some() => panic!("{whole:?}"),
            error => Some(error),
        }
    })
}

pub fn partition(port: u16, of: i32) -> Option<MetadataResponsePartition> {
    let topics = vec![MetadataRequestTopic::default().with_name(Some(topic_name(TOPIC)))];
    let request = MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false);
    let metadata = Connection::try_open(port).ok()?.try_call(Client::METADATA_VERSION, &request).ok()?;
    metadata.topics[0].partitions.iter().find(|found| found.partition_index == of).cloned()
}

/// Replicas, and those in sync.
pub fn replicas(node: &Broker, of: i32) -> Option<(Vec<i32>, BTreeSet<i32>)> {
    let found = partition(node.port(), of)?;
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|id| id.0).collect::<Vec<i32>>();
    Some((ids(&found.replica_nodes), ids(&found.isr_nodes).into_iter().collect()))
}

fn wait_until_on(node: &Broker, of: i32, expected: &[i32]) {
    wait_for(&format!("partition {of} on {expected:?}"), || {
        let (replicas, in_sync) = replicas(node, of)?;
        (replicas == expected && in_sync == expected.iter().copied().collect()).then_some(())
    });
}

/// A partition's directories, under whatever name.
fn directories(node: &Broker, of: i32) -> Vec<String> {
    let entries = std::fs::read_dir(node.data_dir()).expect("it is there");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.split('.').next() == Some(&format!("{TOPIC}-{of}"))).collect()
}

/// Nothing of the partition is left anywhere but where it is to be.
fn wait_until_only_on(nodes: &[Broker], of: i32, expected: &[i32]) {
    for (id, node) in (1..).zip(nodes) {
        wait_for(&format!("directories of partition {of} on node {id}"), || {
            let found = directories(node, of);
            let is_right = match expected.contains(&id) {
                true => found == [format!("{TOPIC}-{of}")],
                false => found.is_empty(),
            };
            is_right.then_some(())
        });
    }
}

pub fn move_to(nodes: &[Broker], of: i32, target: &[i32]) {
    // Whichever is asked.
    let at = target.iter().sum::<i32>() as usize % nodes.len();
    assert_eq!(reassign(&nodes[at], of, Some(target)), None);
    nodes.iter().for_each(|node| wait_until_on(node, of, target));
    wait_until_only_on(nodes, of, target);
}

/// Somebody who produces until told to stop, and remembers what was acknowledged.
pub struct Writer {
    stops: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<BTreeMap<i64, String>>,
}

impl Writer {
    pub fn start(nodes: &[Broker], of: i32) -> Writer {
        let producer = Client::connect(&nodes[0]).init_producer();
        let ports: Vec<u16> = nodes.iter().map(Broker::port).collect();
        let stops = Arc::new(AtomicBool::new(false));
        let told = stops.clone();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let thread = std::thread::spawn(move || {
            let mut acknowledged = BTreeMap::new();
            for sequence in 0.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let value = format!("record {sequence} of partition {of}");
                let batch = Batch::of(&[&value], 1).by(BatchProducer { sequence, ..producer });
                let before = acknowledged.insert(produce(&ports, of, &batch), value);
                assert_eq!(before, None, "one value per offset");
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            acknowledged
        });
        Writer { stops, count, thread }
    }

    /// How many were acknowledged so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn stop(self) -> BTreeMap<i64, String> {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.join().expect("everything was acknowledged at last")
    }
}

/// As a client does that tries again until it has succeeded. Returns the offset.
pub fn produce(ports: &[u16], of: i32, batch: &Batch) -> i64 {
    wait_for("an acknowledgement", || {
        let leader = ports.iter().find_map(|port| partition(*port, of))?.leader_id.0;
        let port = usize::try_from(leader - 1).ok().and_then(|at| ports.get(at))?;
        let request = Client::produce_request(TOPIC, of, batch.bytes()).with_acks(-1);
        let mut connection = Connection::try_open(*port).ok()?;
        let response = connection.try_call(Client::PRODUCE_VERSION, &request).ok()?;
        let answer = Client::partition_answer(&response);
        match ResponseError::try_from_code(answer.error_code) {
            None => Some(answer.base_offset),
            Some(
                ResponseError::NotLeaderOrFollower
                // It was just made: the leader may hear of that last.
                | ResponseError::UnknownTopicOrPartition
                | ResponseError::NotEnoughReplicas
                | ResponseError::NotEnoughReplicasAfterAppend
                | ResponseError::RequestTimedOut,
            ) => None,
            Some(error) => panic!("partition {of} on port {port}: {error:?}"),
        }
    })
}

fn read_all(nodes: &[Broker], of: i32, expected: usize) -> Vec<ReadRecord> {
    wait_for(&format!("{expected} records of partition {of}"), || {
        let leader = nodes.iter().find_map(|node| partition(node.port(), of))?.leader_id.0;
        let leader = nodes.get(usize::try_from(leader - 1).ok()?)?;
        let read = Client::connect(leader).read_from(TOPIC, of, 0);
        (read.len() >= expected).then_some(read)
    })
}

/// Everything is there, once, where it was acknowledged.
pub fn check(nodes: &[Broker], of: i32, acknowledged: &BTreeMap<i64, String>) {
    assert!(!acknowledged.is_empty(), "somebody has produced");
    let read = read_all(nodes, of, acknowledged.len());
    let read: Vec<(i64, String)> = read
        .iter()
        .map(|record| (record.offset, String::from_utf8_lossy(&record.value).into_owned()))
        .collect();
    let expected: Vec<(i64, String)> =
        acknowledged.iter().map(|(offset, value)| (*offset, value.clone())).collect();
    assert!(read == expected, "{} records were read, {} acknowledged", read.len(), expected.len());
}

/// Of partition 0, by all that are left.
fn wait_for_leader_without(nodes: &[Broker], gone: usize) {
    for (_, node) in nodes.iter().enumerate().filter(|(at, _)| *at != gone) {
        wait_for("another leader", || {
            let leader = partition(node.port(), 0)?.leader_id.0;
            (leader > 0 && leader != gone as i32 + 1).then_some(())
        });
    }
}

pub fn listed(node: &Broker) -> Vec<Value> {
    let text = run(node, &["cluster", "reassign", "list", "--json"]).expect("it lists");
    let listed: Value = serde_json::from_str(&text).expect("it is JSON");
    listed.as_array().expect("a list").clone()
}

#[test]
fn the_only_replica_goes_round_and_comes_back() {
    go_round(&settings());
}

/// Where nothing but its files says that it has gone.
#[test]
fn without_a_journal_it_comes_back_too() {
    go_round(&settings().without_journal());
}

fn go_round(options: &Options) {
    let mut nodes = three_with(options);
    create(&nodes[0], &[&[1], &[2]]);
    let writer = Writer::start(&nodes, 0);
    for round in 0..2 {
        for id in [2, 3, 1] {
            move_to(&nodes, 0, &[id]);
        }
        assert_eq!(directories(&nodes[1], 1).len(), 1, "round {round}: others stay");
    }
    // What the journals of before have of it is not what it is now, whichever core has it.
    for id in [2, 1] {
        move_to(&nodes, 0, &[id]);
        nodes[0].kill();
        nodes[0].start_again();
    }
    wait_until_only_on(&nodes, 0, &[1]);
    let acknowledged = writer.stop();
    check(&nodes, 0, &acknowledged);
    nodes.iter_mut().for_each(Broker::kill);
    nodes.iter_mut().for_each(Broker::begin_start);
    nodes.iter().for_each(|node| drop(node.wait_until_ready()));
    check(&nodes, 0, &acknowledged);
    assert_eq!(listed(&nodes[2]), Vec::<Value>::new());
    nodes.iter_mut().for_each(Broker::stop);
    for node in &nodes {
        assert!(!node.log().contains("\"level\":\"ERROR\""), "{}", node.log());
    }
}

#[test]
fn replicas_move_on_with_their_leader_under_a_producer() {
    let mut nodes = four();
    create(&nodes[0], &[&[1, 2, 3]]);
    let writer = Writer::start(&nodes, 0);
    move_to(&nodes, 0, &[2, 3, 4]);
    move_to(&nodes, 0, &[4, 1, 2]);
    let acknowledged = writer.stop();
    check(&nodes, 0, &acknowledged);
    // Any of them has everything.
    for gone in [3, 0, 1] {
        nodes[gone].kill();
        wait_for_leader_without(&nodes, gone);
        nodes[gone].start_again();
        nodes.iter().for_each(|node| {
            wait_for("all to be in sync again", || (replicas(node, 0)?.1.len() == 3).then_some(()));
        });
        check(&nodes, 0, &acknowledged);
    }
    nodes.iter_mut().for_each(Broker::stop);
}

/// Records were deleted up to the middle of a batch: what is copied begins with the whole of it.
#[test]
fn a_log_that_begins_within_a_batch_is_copied() {
    let mut nodes = three_with(&settings());
    create(&nodes[0], &[&[1], &[1]]);
    let ports: Vec<u16> = nodes.iter().map(Broker::port).collect();
    let values = |from: i64| (from..from + 10).map(|number| format!("record {number}")).collect::<Vec<_>>();
    for base in [0, 10, 20] {
        let values = values(base);
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        assert_eq!(produce(&ports, 0, &Batch::of(&values, 1)), base);
    }
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(15);
    let topic = DeleteRecordsTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    let deleted = Connection::open(nodes[0].port()).call(1, &request);
    assert_eq!(deleted.topics[0].partitions[0].error_code, 0);
    for target in [&[1, 2][..], &[2, 3], &[3]] {
        move_to(&nodes, 0, target);
        let leader = wait_for("a leader", || {
            let leader = nodes.iter().find_map(|node| self::partition(node.port(), 0))?.leader_id.0;
            usize::try_from(leader - 1).ok()
        });
        let read = Client::connect(&nodes[leader]).read_all(TOPIC, 0);
        assert_eq!(read.iter().map(|record| record.offset).collect::<Vec<_>>(), (15..30).collect::<Vec<_>>());
    }
    nodes.iter_mut().for_each(Broker::stop);
}

#[test]
fn more_replicas_and_fewer_again() {
    let mut nodes = three_with(&settings());
    create(&nodes[0], &[&[1]]);
    let writer = Writer::start(&nodes, 0);
    move_to(&nodes, 0, &[1, 2, 3]);
    move_to(&nodes, 0, &[3]);
    move_to(&nodes, 0, &[3, 1]);
    move_to(&nodes, 0, &[2, 3, 1]);
    let acknowledged = writer.stop();
    check(&nodes, 0, &acknowledged);
    nodes[2].kill();
    wait_for_leader_without(&nodes, 2);
    check(&nodes, 0, &acknowledged);
    nodes[2].start_again();
    nodes.iter_mut().for_each(Broker::stop);
}

/// Where the topic does not say how many have to be in sync, it is a majority of the partition's own replicas.
#[test]
fn each_partition_has_as_many_in_sync_as_it_needs() {
    let mut nodes = four();
    create(&nodes[0], &[&[1], &[1], &[1]]);
    // The last one stays as it is.
    for of in 0..2 {
        move_to(&nodes, of, &[1, 4]);
    }
    nodes[3].kill();
    for of in 0..2 {
        wait_for("the fourth to be out of sync", || {
            let (_, in_sync) = replicas(&nodes[0], of)?;
            (in_sync == [1].into()).then_some(())
        });
        let request = Client::produce_request(TOPIC, of, Batch::of(&["alone"], 1).bytes()).with_acks(-1);
        wait_for("a refusal", || {
            let response = Connection::open(nodes[0].port()).call(Client::PRODUCE_VERSION, &request);
            match ResponseError::try_from_code(Client::partition_answer(&response).error_code) {
                Some(ResponseError::NotEnoughReplicas) => Some(()),
                // Its shard hears of it after the one that was asked who is in sync.
                Some(ResponseError::NotEnoughReplicasAfterAppend) => None,
                other => panic!("partition {of}: {other:?}"),
            }
        });
    }
    let ports: Vec<u16> = nodes.iter().map(Broker::port).collect();
    assert_eq!(produce(&ports, 2, &Batch::of(&["the only one"], 1)), 0);
    nodes[3].start_again();
    nodes.iter_mut().for_each(Broker::stop);
}

#[test]
fn cancelled_it_stays_where_it_was() {
    let mut nodes = four();
    create(&nodes[0], &[&[1, 2, 3]]);
    for node in &nodes {
        assert_eq!(reassign(node, 0, None), Some(ResponseError::NoReassignmentInProgress));
        assert_eq!(reassign(node, 0, Some(&[1, 9])), Some(ResponseError::InvalidReplicaAssignment));
        assert_eq!(reassign(node, 7, Some(&[1])), Some(ResponseError::UnknownTopicOrPartition));
    }
    let writer = Writer::start(&nodes, 0);
    // Who is to come is not there: nothing is ready before it is cancelled.
    nodes[3].kill();
    let moved = ["cluster", "reassign", "--topic", TOPIC, "--partition", "0", "--replicas", "4,3"];
    let kept = run(&nodes[1], &[&moved[..], &["--keep-replication-factor"]].concat());
    assert!(kept.is_err_and(|said| said.contains("INVALID_REPLICATION_FACTOR")));
    run(&nodes[1], &moved).expect("it is begun");
    for node in &nodes[..3] {
        wait_for("the move to be listed", || (listed(node).len() == 1).then_some(()));
    }
    let moving = &listed(&nodes[0])[0];
    assert_eq!(moving["replicas"], serde_json::json!([4, 3, 1, 2]));
    assert_eq!((&moving["adding"], &moving["removing"]), (&Value::from(vec![4]), &Value::from(vec![1, 2])));
    let (all, in_sync) = replicas(&nodes[0], 0).expect("it is there");
    assert_eq!((all, in_sync), (vec![4, 3, 1, 2], [1, 2, 3].into()));
    let cancel = ["cluster", "reassign", "--topic", TOPIC, "--cancel"];
    assert_eq!(run(&nodes[2], &cancel), Ok(format!("cancelled {TOPIC}-0\n")));
    nodes[..3].iter().for_each(|node| wait_until_on(node, 0, &[3, 1, 2]));
    // Another time it has begun to follow, and is gone again.
    run(&nodes[1], &moved).expect("it is begun");
    nodes[3].start_again();
    wait_for("its directory", || (!directories(&nodes[3], 0).is_empty()).then_some(()));
    nodes[3].kill();
    let cancelled = run(&nodes[2], &cancel);
    // It may have been in time; then there is no way back.
    let expected: &[i32] = match cancelled {
        Ok(said) => {
            assert_eq!(said, format!("cancelled {TOPIC}-0\n"));
            &[3, 1, 2]
        }
        Err(said) => {
            assert!(said.contains("NO_REASSIGNMENT_IN_PROGRESS"), "{said}");
            &[4, 3]
        }
    };
    nodes[3].start_again();
    nodes.iter().for_each(|node| wait_until_on(node, 0, expected));
    wait_until_only_on(&nodes, 0, expected);
    let acknowledged = writer.stop();
    check(&nodes, 0, &acknowledged);
    nodes.iter_mut().for_each(Broker::stop);
}

/// More than goes in one frame is on its way to a node that is killed while it takes it in, and once more.
#[test]
fn a_target_that_is_killed_goes_on_where_it_was() {
    let mut nodes = four();
    create(&nodes[0], &[&[1, 2, 3]]);
    let ports: Vec<u16> = nodes.iter().map(Broker::port).collect();
    let large = "x".repeat(500_000);
    let mut acknowledged = BTreeMap::new();
    let producer = Client::connect(&nodes[0]).init_producer();
    for number in 0..60 {
        let value = format!("{number} {large}");
        let batch = Batch::of(&[&value], 1).by(BatchProducer { sequence: number, ..producer });
        acknowledged.insert(produce(&ports, 0, &batch), value);
    }
    assert_eq!(reassign(&nodes[0], 0, Some(&[4, 2])), None);
    for _ in 0..2 {
        wait_for("its directory", || (!directories(&nodes[3], 0).is_empty()).then_some(()));
        nodes[3].kill();
        nodes[3].start_again();
    }
    nodes.iter().for_each(|node| wait_until_on(node, 0, &[4, 2]));
    wait_until_only_on(&nodes, 0, &[4, 2]);
    // Who is to go is killed before it has gone.
    assert_eq!(reassign(&nodes[2], 0, Some(&[3, 4])), None);
    nodes[1].kill();
    wait_for("the end of it", || (replicas(&nodes[0], 0)?.0 == [3, 4]).then_some(()));
    nodes[1].start_again();
    wait_until_only_on(&nodes, 0, &[3, 4]);
    check(&nodes, 0, &acknowledged);
    nodes.iter_mut().for_each(Broker::stop);
}
