//! Partitions with several replicas: what was acknowledged outlives any node, and logs that have parted agree again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig,
};
use odradek_test_harness::kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use odradek_test_harness::kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsTopic,
};
use odradek_test_harness::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use odradek_test_harness::kafka_protocol::messages::metadata_response::MetadataResponsePartition;
use odradek_test_harness::kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse,
    ProduceRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Connection, Options, ReadRecord, Routing, create_topics,
    delete_topic, topic_name, wait_for,
};

use crate::clusters::{options, status, three_with};

pub const TOPIC: &str = "replicated";

fn three() -> Vec<Broker> {
    three_with(&options().set("broker.session.timeout.ms", "3000"))
}

/// With three replicas.
pub fn create(node: &Broker, partitions: i32, settings: &[(&str, &str)]) {
    let configs = settings.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string((*name).to_owned()))
            .with_value(Some(StrBytes::from_string((*value).to_owned())))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(TOPIC))
        .with_num_partitions(partitions)
        .with_replication_factor(3)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    assert_eq!(create_topics(node, &request), None);
}

fn metadata(node: &Broker) -> Option<MetadataResponse> {
    let topics = vec![MetadataRequestTopic::default().with_name(Some(topic_name(TOPIC)))];
    let request = MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false);
    Connection::try_open(node.port()).ok()?.try_call(Client::METADATA_VERSION, &request).ok()
}

pub fn partition(node: &Broker, partition: i32) -> Option<MetadataResponsePartition> {
    let metadata = metadata(node)?;
    metadata.topics[0].partitions.iter().find(|found| found.partition_index == partition).cloned()
}

/// Which of the nodes leads, as `node` has heard.
pub fn leader(nodes: &[Broker], node: usize, of: i32) -> Option<usize> {
    let leader = partition(&nodes[node], of)?.leader_id.0;
    (1..=nodes.len() as i32).contains(&leader).then(|| leader as usize - 1)
}

pub fn wait_for_in_sync(node: &Broker, of: i32, expected: &[i32]) {
    let expected: BTreeSet<i32> = expected.iter().copied().collect();
    wait_for(&format!("{expected:?} to be in sync of partition {of}"), || {
        let found = partition(node, of)?;
        let in_sync: BTreeSet<i32> = found.isr_nodes.iter().map(|node| node.0).collect();
        (in_sync == expected).then_some(())
    });
}

fn try_produce(node: &Broker, of: i32, acks: i16, batch: &Batch) -> Option<Result<i64, ResponseError>> {
    let request: ProduceRequest = Client::produce_request(TOPIC, of, batch.bytes()).with_acks(acks);
    let mut connection = Connection::try_open(node.port()).ok()?;
    let response = connection.try_call(Client::PRODUCE_VERSION, &request).ok()?;
    let answer = Client::partition_answer(&response);
    Some(match ResponseError::try_from_code(answer.error_code) {
        None => Ok(answer.base_offset),
        Some(error) => Err(error),
    })
}

/// Produces with `acks=all`, as a client does that tries again until it has succeeded. Returns the offset.
pub fn produce(nodes: &[Broker], alive: usize, of: i32, batch: &Batch) -> i64 {
    wait_for("an acknowledgement", || match try_produce(&nodes[leader(nodes, alive, of)?], of, -1, batch)? {
        Ok(offset) => Some(offset),
        Err(
            ResponseError::NotLeaderOrFollower
            // It was just made: the leader may hear of that last.
            | ResponseError::UnknownTopicOrPartition
            // Until others lead what is in a log directory that has failed.
            | ResponseError::KafkaStorageError
            | ResponseError::NotEnoughReplicas
            | ResponseError::NotEnoughReplicasAfterAppend
            | ResponseError::RequestTimedOut,
        ) => None,
        Err(error) => panic!("{error:?}"),
    })
}

/// All records of a partition, once its leader knows that it may show them.
pub fn read_all(nodes: &[Broker], alive: usize, of: i32, expected: usize) -> Vec<ReadRecord> {
    wait_for(&format!("{expected} records of partition {of}"), || {
        let leader = leader(nodes, alive, of)?;
        let read = Client::connect(&nodes[leader]).read_from(TOPIC, of, 0);
        (read.len() >= expected).then_some(read)
    })
}

pub fn check(read: &[ReadRecord], acknowledged: &BTreeMap<i64, String>) {
    for (offset, value) in acknowledged {
        let found = read.iter().find(|record| record.offset == *offset);
        let found = found.map(|record| String::from_utf8_lossy(&record.value).into_owned());
        assert_eq!(found.as_ref(), Some(value), "at offset {offset}");
    }
    assert!(read.is_sorted_by(|a, b| a.offset < b.offset));
}

fn sequenced(producer: BatchProducer, sequence: i32, value: &str) -> Batch {
    Batch::of(&[value], 1).by(BatchProducer { sequence, ..producer })
}

/// Bytes of a partition's first segment, up to the high watermark all replicas have the same.
fn segment(node: &Broker, of: i32) -> PathBuf {
    node.data_dir().join(format!("{TOPIC}-{of}")).join("00000000000000000000.log")
}

#[test]
fn acknowledged_records_outlive_each_node_in_turn() {
    let mut nodes = three();
    create(&nodes[0], 3, &[]);
    let mut acknowledged: Vec<BTreeMap<i64, String>> = vec![BTreeMap::new(); 3];
    let producer = Client::connect(&nodes[0]).init_producer();
    for round in 0..4 {
        for of in 0..3 {
            let value = format!("{round} before {of}");
            let batch = sequenced(producer, 2 * round, &value);
            let offset = produce(&nodes, 0, of, &batch);
            acknowledged[of as usize].insert(offset, value);
        }
        let gone = (round as usize) % 3;
        nodes[gone].kill();
        let alive = (gone + 1) % 3;
        for of in 0..3 {
            wait_for("another leader", || leader(&nodes, alive, of).filter(|leader| *leader != gone));
            let value = format!("{round} after {of}");
            let batch = sequenced(producer, 2 * round + 1, &value);
            let offset = produce(&nodes, alive, of, &batch);
            let before = acknowledged[of as usize].insert(offset, value);
            assert_eq!(before, None, "one value per offset");
            let acknowledged = &acknowledged[of as usize];
            check(&read_all(&nodes, alive, of, acknowledged.len()), acknowledged);
        }
        nodes[gone].start_again();
        for of in 0..3 {
            wait_for_in_sync(&nodes[alive], of, &[1, 2, 3]);
        }
    }
    for (of, acknowledged) in acknowledged.iter().enumerate() {
        let read = read_all(&nodes, 0, of as i32, acknowledged.len());
        assert_eq!(read.len(), acknowledged.len(), "each was stored once");
    }
    nodes.iter_mut().for_each(Broker::stop);
    // Segments are closed to their exact length: what replicas have is the same, byte by byte.
    for of in 0..3 {
        let bytes: Vec<Vec<u8>> =
            nodes.iter().map(|node| std::fs::read(segment(node, of)).expect("it is there")).collect();
        assert!(!bytes[0].is_empty());
        assert!(bytes[0] == bytes[1] && bytes[1] == bytes[2], "replicas of partition {of} differ");
    }
}

#[test]
fn all_nodes_are_killed_at_once_and_everything_acknowledged_is_back() {
    let mut nodes = three();
    create(&nodes[0], 1, &[]);
    let mut acknowledged = BTreeMap::new();
    for round in 0..3 {
        for number in 0..5 {
            let value = format!("{round} {number}");
            let offset = produce(&nodes, 0, 0, &Batch::of(&[&value], 1));
            acknowledged.insert(offset, value);
        }
        nodes.iter_mut().for_each(Broker::kill);
        nodes.iter_mut().for_each(Broker::begin_start);
        nodes.iter().for_each(|node| drop(node.wait_until_ready()));
        check(&read_all(&nodes, 0, 0, acknowledged.len()), &acknowledged);
    }
    wait_for_in_sync(&nodes[0], 0, &[1, 2, 3]);
    nodes.iter_mut().for_each(Broker::stop);
}

/// Machines that lose power lose what `odradek.durability=write` has acknowledged: who has not leads.
#[test]
fn after_a_loss_of_power_the_node_leads_that_has_kept_it() {
    const LOST: [usize; 2] = [0, 1];
    const KEPT: usize = 2;
    let mut nodes = three();
    create(&nodes[0], 1, &[("odradek.durability", "write")]);
    let mut acknowledged = BTreeMap::new();
    for number in 0..5 {
        let value = number.to_string();
        let offset = produce(&nodes, 0, 0, &Batch::of(&[&value], 1));
        acknowledged.insert(offset, value);
    }
    wait_for_in_sync(&nodes[0], 0, &[1, 2, 3]);
    nodes.iter_mut().for_each(Broker::kill);
    for at in LOST {
        let path = nodes[at].data_dir().join("meta.properties");
        let text = std::fs::read_to_string(&path).expect("it has an identity");
        let lines = text.lines().filter(|line| !line.starts_with("crc32="));
        let lines = lines.map(|line| if line.starts_with("boot.id=") { "boot.id=before" } else { line });
        let changed: Vec<&str> = lines.collect();
        assert!(changed.contains(&"boot.id=before"), "{text}");
        std::fs::write(path, changed.join("\n") + "\n").expect("nobody uses it");
        nodes[at].begin_start();
    }
    LOST.iter().for_each(|at| drop(nodes[*at].wait_until_ready()));
    let is_alive = |id: usize| {
        let status = status(&nodes[0])?;
        let brokers = status["brokers"].as_array()?;
        brokers.iter().any(|broker| broker["broker"] == id && broker["state"] == "alive").then_some(())
    };
    LOST.iter().for_each(|at| wait_for("who has lost power to be there", || is_alive(at + 1)));
    wait_for("nobody to lead", || {
        let leader = partition(&nodes[0], 0)?.leader_id.0;
        // The third counts as there until its session is over.
        assert!([-1, KEPT as i32 + 1].contains(&leader), "{leader} has lost what another one may have");
        (leader == -1).then_some(())
    });
    nodes[KEPT].start_again();
    assert_eq!(wait_for("a leader", || leader(&nodes, 0, 0)), KEPT);
    check(&read_all(&nodes, 0, 0, acknowledged.len()), &acknowledged);
    wait_for_in_sync(&nodes[0], 0, &[1, 2, 3]);
    // All of them lose it at once: the last one has as much as any.
    nodes.iter_mut().for_each(Broker::kill);
    for node in &nodes {
        let path = node.data_dir().join("meta.properties");
        let text = std::fs::read_to_string(&path).expect("it has an identity");
        let is_kept = |line: &&str| !["boot.id=", "crc32="].iter().any(|name| line.starts_with(name));
        let without = text.lines().filter(is_kept);
        std::fs::write(&path, without.collect::<Vec<_>>().join("\n") + "\n").expect("nobody uses it");
    }
    nodes.iter_mut().for_each(Broker::begin_start);
    nodes.iter().for_each(|node| drop(node.wait_until_ready()));
    check(&read_all(&nodes, 0, 0, acknowledged.len()), &acknowledged);
    wait_for_in_sync(&nodes[0], 0, &[1, 2, 3]);
    nodes.iter_mut().for_each(Broker::stop);
}

/// What only the leader had is cut from its log once another one leads, and is not shown before.
#[test]
fn what_was_not_replicated_is_cut_when_its_leader_comes_back() {
    let options = options().set("broker.session.timeout.ms", "3000").set("log-level", "info");
    let mut nodes = three_with(&options);
    create(&nodes[0], 1, &[]);
    let kept = produce(&nodes, 0, 0, &Batch::of(&["kept"], 1));
    let old = leader(&nodes, 0, 0).expect("it was produced to");
    let followers: Vec<usize> = (0..3).filter(|at| *at != old).collect();
    // Not paused: what has reached their sockets they would take when they go on.
    followers.iter().for_each(|at| nodes[*at].kill());
    for number in 0..20 {
        let alone = format!("alone {number}");
        let appended = try_produce(&nodes[old], 0, 1, &Batch::of(&[&alone], 1));
        assert_eq!(appended, Some(Ok(kept + 1 + number)));
    }
    let read = Client::connect(&nodes[old]).read_from(TOPIC, 0, 0);
    assert_eq!(read.len(), 1, "what the others lack is not shown");
    nodes[old].kill();
    followers.iter().for_each(|at| nodes[*at].begin_start());
    followers.iter().for_each(|at| drop(nodes[*at].wait_until_ready()));
    let alive = followers[0];
    wait_for("another leader", || leader(&nodes, alive, 0).filter(|leader| *leader != old));
    let mut acknowledged = BTreeMap::from([(kept, "kept".to_owned())]);
    let producer = Client::connect(&nodes[alive]).init_producer();
    for number in 0..3 {
        let value = format!("new {number}");
        acknowledged.insert(produce(&nodes, alive, 0, &sequenced(producer, number, &value)), value);
    }
    nodes[old].start_again();
    wait_for_in_sync(&nodes[alive], 0, &[1, 2, 3]);
    assert!(nodes[old].log().contains("a follower's log is cut"), "{}", nodes[old].log());
    // As a leader it shows what the others have.
    followers.iter().for_each(|at| nodes[*at].kill());
    followers.iter().for_each(|at| nodes[*at].begin_start());
    followers.iter().for_each(|at| drop(nodes[*at].wait_until_ready()));
    let read = read_all(&nodes, old, 0, acknowledged.len());
    check(&read, &acknowledged);
    assert_eq!(read.len(), acknowledged.len(), "{read:?}");
    // A cut log is opened again like any other.
    nodes[old].kill();
    nodes[old].start_again();
    check(&read_all(&nodes, old, 0, acknowledged.len()), &acknowledged);
    nodes.iter_mut().for_each(Broker::stop);
}

#[test]
fn too_few_in_sync_refuse_what_all_are_to_have() {
    let mut nodes = three();
    create(&nodes[0], 1, &[("min.insync.replicas", "3")]);
    produce(&nodes, 0, 0, &Batch::of(&["three"], 1));
    let at = leader(&nodes, 0, 0).expect("it was produced to");
    let gone = (at + 1) % 3;
    nodes[gone].kill();
    wait_for("a refusal", || match try_produce(&nodes[at], 0, -1, &Batch::of(&["two"], 1)) {
        Some(Err(ResponseError::NotEnoughReplicas)) => Some(()),
        // It was appended while three were thought to be there.
        Some(Err(ResponseError::NotEnoughReplicasAfterAppend | ResponseError::RequestTimedOut) | Ok(_))
        | None => None,
        Some(Err(error)) => panic!("{error:?}"),
    });
    let only_leader = try_produce(&nodes[at], 0, 1, &Batch::of(&["leader"], 1));
    assert!(matches!(only_leader, Some(Ok(_))), "{only_leader:?}");
    nodes[gone].start_again();
    produce(&nodes, at, 0, &Batch::of(&["three again"], 1));
    nodes.iter_mut().for_each(Broker::stop);
}

#[test]
fn deleted_records_are_gone_on_all_replicas() {
    let mut nodes = three();
    create(&nodes[0], 1, &[]);
    for number in 0..10 {
        produce(&nodes, 0, 0, &Batch::of(&[number.to_string()], 1));
    }
    let at = leader(&nodes, 0, 0).expect("it was produced to");
    let partitions = vec![DeleteRecordsPartition::default().with_partition_index(0).with_offset(7)];
    let topic = DeleteRecordsTopic::default().with_name(topic_name(TOPIC)).with_partitions(partitions);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let response = Connection::open(nodes[at].port()).call(2, &request);
    let answer = &response.topics[0].partitions[0];
    assert_eq!((answer.error_code, answer.low_watermark), (0, 7));
    nodes[at].kill();
    let alive = (at + 1) % 3;
    let next = wait_for("another leader", || leader(&nodes, alive, 0).filter(|leader| *leader != at));
    // It says so once all that are in sync have it too.
    let earliest = wait_for("the log start", || {
        let partitions = vec![ListOffsetsPartition::default().with_timestamp(-2)];
        let topic = ListOffsetsTopic::default().with_name(topic_name(TOPIC)).with_partitions(partitions);
        let request = ListOffsetsRequest::default().with_topics(vec![topic]);
        let response = Connection::open(nodes[next].port()).call(Client::LIST_OFFSETS_VERSION, &request);
        let answer = &response.topics[0].partitions[0];
        match ResponseError::try_from_code(answer.error_code) {
            None => Some(answer.offset),
            Some(ResponseError::OffsetNotAvailable | ResponseError::NotLeaderOrFollower) => None,
            Some(error) => panic!("{error:?}"),
        }
    });
    assert_eq!(earliest, 7);
    nodes[at].start_again();
    nodes.iter_mut().for_each(Broker::stop);
}

#[test]
fn a_deleted_topic_is_gone_everywhere_and_its_name_is_free() {
    let mut nodes = three();
    for round in 0..3 {
        create(&nodes[round], 2, &[]);
        for of in 0..2 {
            assert_eq!(produce(&nodes, 0, of, &Batch::of(&["a record"], 1)), 0, "round {round}");
        }
        assert_eq!(delete_topic(&nodes[round], TOPIC), None);
        for node in &nodes {
            wait_for("the directories to go", || (!segment(node, 0).exists()).then_some(()));
        }
    }
    nodes.iter_mut().for_each(Broker::stop);
    for node in &nodes {
        assert!(!node.log().contains("\"level\":\"ERROR\""), "{}", node.log());
    }
}

/// More than a window, a frame and a tail have room for: what a replica has missed comes from disk.
#[test]
fn a_replica_that_was_away_catches_up_from_disk() {
    let mut nodes = three();
    create(&nodes[0], 1, &[("segment.bytes", "4194304")]);
    produce(&nodes, 0, 0, &Batch::of(&["first"], 1));
    let at = leader(&nodes, 0, 0).expect("it was produced to");
    let away = (at + 1) % 3;
    nodes[away].kill();
    let large = "x".repeat(200_000);
    let mut acknowledged = BTreeMap::from([(0, "first".to_owned())]);
    for number in 0..300 {
        let value = format!("{number} {large}");
        acknowledged.insert(produce(&nodes, at, 0, &Batch::of(&[&value], 1)), value);
    }
    nodes[away].start_again();
    wait_for_in_sync(&nodes[at], 0, &[1, 2, 3]);
    // It has all of it: the others may go.
    nodes[(at + 2) % 3].kill();
    nodes[at].kill();
    nodes[at].start_again();
    let read = read_all(&nodes, away, 0, acknowledged.len());
    check(&read, &acknowledged);
    nodes[(at + 2) % 3].start_again();
    nodes.iter_mut().for_each(Broker::stop);
}

/// A single node has nobody to copy to.
#[test]
fn more_replicas_than_nodes_are_refused() {
    let mut node = Broker::start_with(Options::new(Routing::Node).cores(1).memory("256MiB"));
    let topic = CreatableTopic::default()
        .with_name(topic_name(TOPIC))
        .with_num_partitions(1)
        .with_replication_factor(2);
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    let response = Connection::open(node.port()).call(5, &request);
    let error = ResponseError::try_from_code(response.topics[0].error_code);
    assert_eq!(error, Some(ResponseError::InvalidReplicationFactor));
    node.stop();
}
