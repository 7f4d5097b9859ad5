//! Partitions that move between the cores of a node while it serves: what was acknowledged is there once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use odradek_test_harness::kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic,
};
use odradek_test_harness::kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use odradek_test_harness::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use odradek_test_harness::kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use odradek_test_harness::kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use odradek_test_harness::kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, FindCoordinatorRequest, GroupId, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetFetchRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Connection, Options, Routing, create_topics, topic_name, wait_for,
};

use crate::clusters::{options, voters};
use crate::now_ms;

const TOPIC: &str = "moving";

fn one() -> Options {
    Options::new(Routing::Core).cores(2).small_journal()
}

/// What any of the nodes says.
fn metadata(ports: &[u16], topic: &str) -> Option<MetadataResponse> {
    let topics = vec![MetadataRequestTopic::default().with_name(Some(topic_name(topic)))];
    let request = MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false);
    ports
        .iter()
        .find_map(|port| Connection::try_open(*port).ok()?.try_call(Client::METADATA_VERSION, &request).ok())
}

/// The broker that leads, and its port.
fn leader(ports: &[u16], topic: &str, of: i32) -> Option<(i32, u16)> {
    let metadata = metadata(ports, topic)?;
    let partition = metadata.topics[0].partitions.iter().find(|found| found.partition_index == of)?;
    let broker = metadata.brokers.iter().find(|broker| broker.node_id == partition.leader_id)?;
    Some((broker.node_id.0, broker.port as u16))
}

fn replicas(ports: &[u16], topic: &str, of: i32) -> Option<(Vec<i32>, usize)> {
    let metadata = metadata(ports, topic)?;
    let partition = metadata.topics[0].partitions.iter().find(|found| found.partition_index == of)?;
    Some((partition.replica_nodes.iter().map(|id| id.0).collect(), partition.isr_nodes.len()))
}

/// The error, if there is one.
fn try_reassign(port: u16, topic: &str, of: i32, brokers: &[i32]) -> Option<Option<ResponseError>> {
    let ids = brokers.iter().copied().map(BrokerId).collect();
    let partition = ReassignablePartition::default().with_partition_index(of).with_replicas(Some(ids));
    let topic = ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let response = Connection::try_open(port).ok()?.try_call(1, &request).ok()?;
    let code = response.responses.first().map_or(response.error_code, |of| of.partitions[0].error_code);
    Some(ResponseError::try_from_code(code))
}

fn move_to(ports: &[u16], topic: &str, of: i32, brokers: &[i32]) {
    wait_for("a controller that moves it", || match try_reassign(ports[0], topic, of, brokers)? {
        None => Some(()),
        Some(ResponseError::NotController | ResponseError::RequestTimedOut) => None,
        Some(error) => panic!("{error:?}"),
    });
    wait_for("what has moved to be in sync", || {
        let (replicas, in_sync) = replicas(ports, topic, of)?;
        (replicas == brokers && in_sync == brokers.len()).then_some(())
    });
}

fn create(broker: &Broker, brokers: &[i32]) {
    let ids = brokers.iter().copied().map(BrokerId).collect();
    let assignment = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(ids);
    let topic = CreatableTopic::default()
        .with_name(topic_name(TOPIC))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![assignment]);
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    assert_eq!(create_topics(broker, &request), None);
}

/// Produces until told to stop, as a client does that tries again until it has succeeded.
struct Writer {
    stops: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<i64, String>>,
}

impl Writer {
    /// The value of a record takes so many bytes, some more or less.
    fn start(ports: &[u16], value_size: usize) -> Writer {
        let first = Connection::open(ports[0]);
        let producer = Client::of(first).init_producer();
        let stops = Arc::new(AtomicBool::new(false));
        let (told, ports) = (stops.clone(), ports.to_vec());
        let thread = std::thread::spawn(move || {
            let mut acknowledged = BTreeMap::new();
            for sequence in 0.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let value = format!("record {sequence} {}", "x".repeat(value_size));
                let batch = Batch::of(&[&value], now_ms()).by(BatchProducer { sequence, ..producer });
                let offset = wait_for("an acknowledgement", || produce(&ports, &batch));
                assert_eq!(acknowledged.insert(offset, value), None, "one value per offset");
            }
            acknowledged
        });
        Writer { stops, thread }
    }

    fn stop(self) -> BTreeMap<i64, String> {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.join().expect("everything was acknowledged at last")
    }
}

fn produce(ports: &[u16], batch: &Batch) -> Option<i64> {
    let (_, port) = leader(ports, TOPIC, 0)?;
    let request = Client::produce_request(TOPIC, 0, batch.bytes());
    let response = Connection::try_open(port).ok()?.try_call(Client::PRODUCE_VERSION, &request).ok()?;
    let answer = Client::partition_answer(&response);
    match ResponseError::try_from_code(answer.error_code) {
        None => Some(answer.base_offset),
        Some(
            ResponseError::NotLeaderOrFollower
            | ResponseError::UnknownTopicOrPartition
            | ResponseError::NotEnoughReplicas
            | ResponseError::NotEnoughReplicasAfterAppend
            | ResponseError::RequestTimedOut,
        ) => None,
        Some(error) => panic!("{error:?}"),
    }
}

/// Everything from `start` on is there, once, where it was acknowledged.
fn check(ports: &[u16], acknowledged: &BTreeMap<i64, String>, start: i64) {
    let expected: Vec<(i64, String)> =
        acknowledged.range(start..).map(|(offset, value)| (*offset, value.clone())).collect();
    let read = wait_for("everything that was acknowledged", || {
        let (_, port) = leader(ports, TOPIC, 0)?;
        let records = Client::of(Connection::try_open(port).ok()?).read_from(TOPIC, 0, start);
        let read =
            records.iter().map(|record| (record.offset, String::from_utf8_lossy(&record.value).into_owned()));
        let read: Vec<_> = read.collect();
        (read.len() >= expected.len()).then_some(read)
    });
    assert!(!expected.is_empty() && read == expected, "{} read, {} acknowledged", read.len(), expected.len());
}

#[test]
fn a_partition_goes_from_core_to_core_under_a_producer() {
    let mut broker = Broker::start_with(one());
    let ports = [broker.port()];
    create(&broker, &[1000]);
    let writer = Writer::start(&ports, 30_000);
    for round in 0..12 {
        move_to(&ports, TOPIC, 0, &[1001 - round % 2]);
        std::thread::sleep(Duration::from_millis(100));
    }
    let acknowledged = writer.stop();
    check(&ports, &acknowledged, 0);
    // What has gone with a move stays gone, and nothing of it is in the other core's journal.
    let start = *acknowledged.keys().nth(acknowledged.len() / 2).expect("some were");
    delete_before(&ports, start);
    move_to(&ports, TOPIC, 0, &[1001]);
    broker.kill();
    broker.start_again();
    assert_eq!(leader(&ports, TOPIC, 0).map(|(id, _)| id), Some(1001));
    check(&ports, &acknowledged, start);
    move_to(&ports, TOPIC, 0, &[1000]);
    check(&ports, &acknowledged, start);
    broker.stop();
    broker.start_again();
    check(&ports, &acknowledged, start);
    assert_eq!(first_offset(&ports), start);
    broker.stop();
    assert!(!broker.log().contains("\"level\":\"ERROR\""), "{}", broker.log());
}

fn delete_before(ports: &[u16], offset: i64) {
    use odradek_test_harness::kafka_protocol::messages::delete_records_request::{
        DeleteRecordsPartition, DeleteRecordsTopic,
    };
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let (_, port) = leader(ports, TOPIC, 0).expect("somebody leads");
    let response = Connection::open(port).call(1, &request);
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
}

fn first_offset(ports: &[u16]) -> i64 {
    const EARLIEST: i64 = -2;
    let (_, port) = leader(ports, TOPIC, 0).expect("somebody leads");
    Client::of(Connection::open(port)).list_offset(TOPIC, 0, EARLIEST)
}

/// At whichever step.
#[test]
fn nothing_is_lost_where_the_broker_is_killed_meanwhile() {
    let mut broker = Broker::start_with(one());
    let ports = [broker.port()];
    create(&broker, &[1000]);
    let mut acknowledged = BTreeMap::new();
    for round in 0..8 {
        let writer = Writer::start(&ports, 2_000);
        let stops = Arc::new(AtomicBool::new(false));
        let moves = Arc::new(AtomicUsize::new(0));
        let (told, counted, port) = (stops.clone(), moves.clone(), broker.port());
        let mover = std::thread::spawn(move || {
            for id in [1000, 1001].into_iter().cycle() {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let has_moved = try_reassign(port, TOPIC, 0, &[id]) == Some(None);
                counted.fetch_add(usize::from(has_moved), Ordering::Relaxed);
            }
        });
        wait_for("a move", || (moves.load(Ordering::Relaxed) > 0).then_some(()));
        std::thread::sleep(Duration::from_millis(50 + 37 * round));
        broker.kill();
        stops.store(true, Ordering::Relaxed);
        broker.start_again();
        mover.join().expect("it moves");
        acknowledged.extend(writer.stop());
        check(&ports, &acknowledged, 0);
    }
    broker.stop();
}

#[test]
fn a_group_goes_on_where_its_partition_has_gone() {
    const OFFSETS: &str = "__consumer_offsets";
    let mut broker = Broker::start_with(one().set("offsets.topic.num.partitions", "1"));
    let ports = [broker.port()];
    create(&broker, &[1000]);
    let group = || GroupId(StrBytes::from_static_str("g"));
    let commit = |offset: i64| {
        let partition =
            OffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(offset);
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        wait_for("a commit", || {
            let (_, port) = leader(&ports, OFFSETS, 0).unwrap_or((0, ports[0]));
            let response = Connection::open(port).call(8, &request);
            (response.topics[0].partitions[0].error_code == 0).then_some(())
        });
    };
    let committed = || {
        let topic =
            OffsetFetchRequestTopic::default().with_name(topic_name(TOPIC)).with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![topic]));
        wait_for("the committed offset", || {
            let (_, port) = leader(&ports, OFFSETS, 0)?;
            let response = Connection::open(port).call(7, &request);
            (response.error_code == 0).then(|| response.topics[0].partitions[0].committed_offset)
        })
    };
    let coordinator =
        FindCoordinatorRequest::default().with_coordinator_keys(vec![StrBytes::from_static_str("g")]);
    wait_for("a coordinator", || {
        let response = Connection::open(broker.port()).call(4, &coordinator);
        (response.coordinators[0].error_code == 0).then_some(())
    });
    commit(1);
    let (mut at, _) = leader(&ports, OFFSETS, 0).expect("somebody leads");
    for offset in 2..8 {
        at = 2001 - at;
        move_to(&ports, OFFSETS, 0, &[at]);
        assert_eq!(committed(), offset - 1);
        commit(offset);
        assert_eq!(committed(), offset);
    }
    broker.stop();
}

/// Six brokers.
fn three(options: &Options) -> Vec<Broker> {
    let mut nodes = vec![Broker::start_with(options.clone().in_cluster(1, &[]))];
    for id in [2, 3] {
        let next = Broker::start_with(options.clone().in_cluster(id, &[&nodes[0]]));
        nodes.push(next);
    }
    for node in &nodes {
        wait_for("three votes", || (voters(node) == [1, 2, 3].into()).then_some(()));
        wait_for("six brokers", || (metadata(&[node.port()], TOPIC)?.brokers.len() == 6).then_some(()));
    }
    nodes
}

#[test]
fn leaders_and_followers_change_their_cores() {
    let options = Options::new(Routing::Core).cores(2).set("broker.session.timeout.ms", "3000");
    let mut nodes = three(&options.small_journal());
    let ports: Vec<u16> = nodes.iter().map(Broker::port).collect();
    create(&nodes[0], &[1000, 2000, 3000]);
    let writer = Writer::start(&ports, 1_000);
    for brokers in [
        [1001, 2000, 3000], // Who leads.
        [1001, 2001, 3000], // Who follows.
        [1000, 2000, 3001], // All.
        [2001, 1000, 3001], // In another order, too.
        [2000, 1001, 3000],
    ] {
        move_to(&ports, TOPIC, 0, &brokers);
        std::thread::sleep(Duration::from_millis(200));
    }
    let acknowledged = writer.stop();
    check(&ports, &acknowledged, 0);
    // Each of them has everything.
    for gone in 0..3 {
        nodes[gone].kill();
        let others: Vec<u16> = ports.iter().copied().filter(|port| *port != ports[gone]).collect();
        wait_for("another leader", || {
            let (id, _) = leader(&others, TOPIC, 0)?;
            (id / 1000 != gone as i32 + 1).then_some(())
        });
        check(&others, &acknowledged, 0);
        nodes[gone].start_again();
        wait_for("all to be in sync", || (replicas(&ports, TOPIC, 0)?.1 == 3).then_some(()));
    }
    nodes.iter_mut().for_each(Broker::stop);
}

/// How many partitions each core has.
fn by_core(broker: &Broker) -> Vec<usize> {
    let (_, text) = broker.admin_get("/metrics");
    let of_core = |core| {
        let name = format!("odradek_partitions{{shard=\"{core}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok());
        value.expect("it is there") as usize
    };
    [0, 1].map(of_core).to_vec()
}

#[test]
fn cores_that_differ_are_balanced() {
    let interval = "leader.imbalance.check.interval.seconds";
    let mut broker = Broker::start_with(
        options().cores(2).set(interval, "1").set("auto.leader.rebalance.enable", "false"),
    );
    let mut client = Client::connect(&broker);
    let name = |number: usize| format!("t{number}");
    // In turn to either core.
    for number in 0..8 {
        client.create_topic(&name(number), 1, &[]);
        client.produce(&name(number), 0, &Batch::of(&[&name(number)], now_ms()));
    }
    assert_eq!(by_core(&broker), [4, 4]);
    for number in [1, 3, 5, 7] {
        let topic = DeleteTopicState::default().with_name(Some(topic_name(&name(number))));
        let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        assert_eq!(client.bootstrap().call(6, &request).responses[0].error_code, 0);
    }
    wait_for("the topics to be gone", || (by_core(&broker).iter().sum::<usize>() == 4).then_some(()));
    assert!(
        [[4, 0], [0, 4]].contains(&[by_core(&broker)[0], by_core(&broker)[1]]),
        "all that are left are on one core"
    );
    std::thread::sleep(Duration::from_secs(2));
    assert!(by_core(&broker).contains(&0), "nothing moves by itself where that is off");
    broker.stop();
    broker.reconfigure(|options| options.set("auto.leader.rebalance.enable", "true"));
    broker.start_again();
    wait_for("each core to have two", || (by_core(&broker) == [2, 2]).then_some(()));
    let mut client = Client::connect(&broker);
    for number in [0, 2, 4, 6] {
        client.produce(&name(number), 0, &Batch::of(&["more"], now_ms()));
        let values: Vec<_> =
            client.read_all(&name(number), 0).into_iter().map(|record| record.value).collect();
        assert_eq!(values, [name(number).into_bytes(), b"more".to_vec()]);
    }
    broker.stop();
}
