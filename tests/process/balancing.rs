//! Nodes that come get their share, nodes that go are emptied first, and nodes that are lost are replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::{Batch, Broker, Client, Connection, Options, records_of, wait_for};
use serde_json::Value;

use crate::clusters::{PARTITIONS, create, options, run, status, three_with, voters, wait_until_all_alive};
use crate::reassignment::{self, Writer};
use crate::throttling::fill as fill_with_large;

const TOPIC: &str = "spread";

fn settings() -> Options {
    options().set("broker.session.timeout.ms", "3000")
}

fn join(nodes: &mut Vec<Broker>, id: i32) {
    let next = Broker::start_with(settings().in_cluster(id, &[&nodes[0]]));
    nodes.push(next);
    wait_until_all_alive(nodes);
}

fn fill(node: &Broker) {
    let mut client = Client::connect(node);
    for partition in 0..PARTITIONS {
        client.produce(TOPIC, partition, &Batch::of(&[format!("record of {partition}")], 1));
    }
}

fn check(node: &Broker, times: usize) {
    for partition in 0..PARTITIONS {
        wait_for("all records", || {
            let read = Client::connect(node).read_all(TOPIC, partition);
            (read.len() == times).then_some(())
        });
    }
}

/// Replicas by broker, and how many of them are not in sync.
fn loads(node: &Broker) -> (BTreeMap<i64, u64>, usize) {
    let status = wait_for("the cluster's state", || status(node));
    let brokers = status["brokers"].as_array().expect("a list");
    let load = |broker: &Value| (broker["broker"].as_i64().unwrap(), broker["replicas"].as_u64().unwrap());
    (brokers.iter().map(load).collect(), status["under_replicated"].as_array().expect("a list").len())
}

/// Waits until a node knows of these loads, and that all is in sync.
fn wait_for_loads<const N: usize>(node: &Broker, expected: [(i64, u64); N]) {
    let expected = (BTreeMap::from(expected), 0);
    wait_for(&format!("{expected:?}"), || (loads(node) == expected).then_some(()));
}

fn json(node: &Broker, arguments: &[&str]) -> Vec<Value> {
    let mut all = arguments.to_vec();
    all.push("--json");
    let said = run(node, &all).unwrap_or_else(|failure| panic!("{arguments:?}: {failure}"));
    serde_json::from_str::<Value>(&said).expect("it is JSON").as_array().expect("a list").clone()
}

#[test]
fn nodes_come_get_their_share_are_emptied_and_replaced() {
    let mut nodes = three_with(&settings());
    assert_eq!(create(&nodes[0], TOPIC, 2), None);
    fill(&nodes[0]);
    assert_eq!(run(&nodes[0], &["cluster", "rebalance", "--plan"]), Ok("nothing has to move\n".to_owned()));

    join(&mut nodes, 4);
    let plan = json(&nodes[1], &["cluster", "rebalance", "--plan"]);
    let to_fourth = plan.iter().filter(|it| it["to"].as_array().unwrap().contains(&4.into())).count();
    assert_eq!(to_fourth, 3, "of twelve replicas: {plan:?}");
    assert_eq!(loads(&nodes[0]).0[&4], 0, "a plan moves nothing");
    assert_eq!(json(&nodes[1], &["cluster", "rebalance", "--apply"]), plan);
    wait_for_loads(&nodes[0], [(1, 3), (2, 3), (3, 3), (4, 3)]);
    assert_eq!(json(&nodes[0], &["cluster", "rebalance", "--plan"]), Vec::<Value>::new());
    check(&nodes[0], 1);

    run(&nodes[0], &["node", "drain", "1", "--at-a-time", "2"]).expect("it is emptied");
    wait_for_loads(&nodes[0], [(1, 0), (2, 4), (3, 4), (4, 4)]);
    fill(&nodes[0]);
    check(&nodes[3], 2);

    // It has nothing, waits for nobody to stop it, and is none of the cluster afterwards.
    let mut first = nodes.remove(0);
    first.stop();
    run(&nodes[0], &["node", "decommission", "1"]).expect("it is taken out");
    wait_for_loads(&nodes[0], [(2, 4), (3, 4), (4, 4)]);
    let members = || {
        let status = status(&nodes[0])?;
        let members = status["quorum"]["members"].as_array()?.clone();
        Some(members.iter().filter_map(|member| member["node"].as_i64()).collect::<Vec<_>>())
    };
    assert!(!wait_for("members", members).contains(&1));

    // One is lost for good.
    join(&mut nodes, 5);
    // Two of three are a majority without it.
    wait_for("three votes", || (voters(&nodes[0]).len() == 3).then_some(()));
    let mut lost = nodes.remove(0);
    lost.kill();
    wait_for("it to be fenced", || {
        let status = status(&nodes[0])?;
        let brokers = status["brokers"].as_array()?;
        brokers.iter().find(|broker| broker["broker"] == 2)?["state"]
            .as_str()
            .filter(|state| *state == "fenced")
            .map(drop)
    });
    run(&nodes[0], &["node", "replace", "2", "5"]).expect("it is replaced");
    wait_for_loads(&nodes[0], [(3, 4), (4, 4), (5, 4)]);
    fill(&nodes[0]);
    check(&nodes[0], 3);
    nodes.iter_mut().for_each(Broker::stop);
}

#[test]
fn what_has_no_other_place_is_not_drained() {
    let nodes = three_with(&settings());
    assert_eq!(create(&nodes[0], TOPIC, 3), None);
    let refused = run(&nodes[0], &["node", "drain", "3"]).expect_err("there are two others");
    assert!(
        refused.contains("spread-0 has 3 replicas, and there are no more than 2 nodes for them"),
        "{refused}"
    );
    let refused = run(&nodes[0], &["node", "replace", "3", "9"]).expect_err("there is no 9");
    assert!(refused.contains("node 9 does not run, or is none of this cluster"), "{refused}");
    let refused = run(&nodes[0], &["cluster", "rebalance"]).expect_err("one or the other");
    assert!(refused.contains("--plan"), "{refused}");
}

/// Somebody who reads a partition from its begin, from whoever leads it, as a client does that tries again.
struct Reader {
    /// Until it has read so many.
    count: Arc<AtomicUsize>,
    thread: JoinHandle<BTreeMap<i64, String>>,
}

impl Reader {
    fn start(nodes: &[Broker], of: i32) -> Reader {
        let ports: Vec<u16> = nodes.iter().map(Broker::port).collect();
        let count = Arc::new(AtomicUsize::new(usize::MAX));
        let wanted = count.clone();
        let thread = std::thread::spawn(move || {
            let mut read = BTreeMap::new();
            while read.len() < wanted.load(Ordering::Relaxed) {
                let next = read.len() as i64;
                let records = wait_for("an answer", || fetch(&ports, of, next));
                for record in records {
                    // Offsets are dense, and none comes twice.
                    assert_eq!(record.0, read.len() as i64, "of partition {of}");
                    read.insert(record.0, record.1);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            read
        });
        Reader { count, thread }
    }

    fn stop(self, count: usize) -> BTreeMap<i64, String> {
        self.count.store(count, Ordering::Relaxed);
        self.thread.join().expect("it has read everything")
    }
}

/// `None`: it has to be tried again, as clients do by themselves.
fn fetch(ports: &[u16], of: i32, from: i64) -> Option<Vec<(i64, String)>> {
    let leader = ports.iter().find_map(|port| reassignment::partition(*port, of))?.leader_id.0;
    let port = usize::try_from(leader - 1).ok().and_then(|at| ports.get(at))?;
    let request = Client::fetch_request(reassignment::TOPIC, of, from);
    let response = Connection::try_open(*port).ok()?.try_call(Client::FETCH_VERSION, &request).ok()?;
    assert_eq!(response.error_code, 0);
    let answer = &response.responses[0].partitions[0];
    match ResponseError::try_from_code(answer.error_code) {
        None => {
            let records = records_of(answer).into_iter().filter(|record| record.offset >= from);
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            Some(records.map(|record| (record.offset, text(&record.value))).collect())
        }
        Some(
            ResponseError::NotLeaderOrFollower
            | ResponseError::OffsetNotAvailable
            | ResponseError::UnknownTopicOrPartition,
        ) => None,
        Some(error) => panic!("partition {of} from {from} on port {port}: {error:?}"),
    }
}

#[test]
fn a_node_that_joins_gets_its_share_of_what_is_written_and_read() {
    const SPREAD: [&[i32]; 6] = [&[1, 2], &[2, 3], &[3, 1], &[1, 2], &[2, 3], &[3, 1]];
    // Nobody is fenced because the machine stands still.
    let options = reassignment::settings().set("broker.session.timeout.ms", "10000");
    let mut nodes = three_with(&options);
    nodes.push(Broker::not_started(options.in_cluster(4, &[&nodes[0]])));
    reassignment::create(&nodes[0], &SPREAD);
    let partitions = 0..SPREAD.len() as i32;
    let mut acknowledged: Vec<_> =
        partitions.clone().map(|of| fill_with_large(&nodes[..3], of, 20)).collect();
    let writers: Vec<Writer> = partitions.clone().map(|of| Writer::start(&nodes, of)).collect();
    let readers: Vec<Reader> = partitions.clone().map(|of| Reader::start(&nodes, of)).collect();

    nodes[3].begin_start();
    nodes[3].wait_until_ready();
    wait_until_all_alive(&nodes);
    let before: Vec<usize> = writers.iter().map(Writer::count).collect();
    let plan = json(&nodes[0], &["cluster", "rebalance", "--plan"]);
    assert_eq!(plan.len(), 3, "of twelve replicas: {plan:?}");
    let moved = json(&nodes[0], &["cluster", "rebalance", "--apply", "--at-a-time", "2"]);
    // All of them, or what was left of them once the command had to be given again.
    assert!(moved.iter().all(|it| plan.contains(it)), "{moved:?}, not {plan:?}");
    wait_for_loads(&nodes[0], [(1, 3), (2, 3), (3, 3), (4, 3)]);
    for (writer, before) in writers.iter().zip(before) {
        wait_for("more", || (writer.count() > before + 20).then_some(()));
    }
    for (of, writer) in writers.into_iter().enumerate() {
        acknowledged[of].extend(writer.stop());
    }
    for (of, reader) in readers.into_iter().enumerate() {
        let read = reader.stop(acknowledged[of].len());
        let (found, expected) = (read.len(), acknowledged[of].len());
        assert!(
            read == acknowledged[of],
            "{found} records of partition {of} were read, {expected} acknowledged"
        );
        reassignment::check(&nodes, of as i32, &acknowledged[of]);
    }
    nodes.iter_mut().for_each(Broker::stop);
}
