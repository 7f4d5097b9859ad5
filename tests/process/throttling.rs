//! Partitions that move at a rate (KIP-73): no faster, those in sync not held back, and nothing of it left at the end.
//! And those that cannot move, which are named.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use odradek_test_harness::{Batch, BatchProducer, Broker, Client, binary, wait_for};
use serde_json::Value;

use crate::administration::{BROKER, get, set};
use crate::clusters::{run, status};
use crate::reassignment::{
    TOPIC, Writer, check, create, four, four_with, listed, move_to, partition, produce, replicas, settings,
};

const TOPIC_RESOURCE: i8 = 2;
const LISTS: [&str; 2] = ["leader.replication.throttled.replicas", "follower.replication.throttled.replicas"];
const RATES: [&str; 2] = ["leader.replication.throttled.rate", "follower.replication.throttled.rate"];
/// Of DescribeConfigs: what topics, and brokers, have of their own.
const DYNAMIC_TOPIC: i8 = 1;
const DYNAMIC_BROKER: i8 = 2;

/// What is set of it anywhere, by whom.
fn throttles(nodes: &[Broker]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (id, node) in (1..).zip(nodes) {
        let mut client = Client::connect(node);
        for key in LISTS {
            let (value, source, _) = get(&mut client, TOPIC_RESOURCE, TOPIC, key);
            if source == DYNAMIC_TOPIC {
                found.insert(format!("{id} of the topic {key}"), value);
            }
        }
        for key in RATES {
            let (value, source, _) = get(&mut client, BROKER, &id.to_string(), key);
            if source == DYNAMIC_BROKER {
                found.insert(format!("{id} {key}"), value);
            }
        }
    }
    found
}

fn metric(node: &Broker, name: &str) -> u64 {
    let (_, text) = node.admin_get("/metrics");
    let values = text.lines().filter(|line| line.starts_with(&format!("odradek_{name}{{")));
    values
        .map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number") as u64)
        .sum()
}

/// Moves all partitions, and goes on while others are asked.
fn begin(node: &Broker, arguments: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.args(["cluster", "reassign", "--topic", TOPIC]).args(arguments);
    command.args(["--brokers", &node.bootstrap()]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs")
}

const BATCH_SIZE: usize = 100_000;

/// Returns what was acknowledged.
pub fn fill(nodes: &[Broker], of: i32, count: usize) -> BTreeMap<i64, String> {
    let ports: Vec<u16> = nodes.iter().map(Broker::port).collect();
    let large = "x".repeat(BATCH_SIZE);
    // What is sent again is there once.
    let producer = Client::connect(&nodes[0]).init_producer();
    let each = (0..count).map(|number| {
        let value = format!("{number} {large}");
        let batch = Batch::of(&[&value], 1).by(BatchProducer { sequence: number as i32, ..producer });
        (produce(&ports, of, &batch), value)
    });
    each.collect()
}

#[test]
fn what_moves_is_copied_at_a_rate_while_it_is_written_to() {
    const PARTITIONS: i32 = 3;
    const RATE: u64 = 4_000_000;
    /// What may come at once: what a bucket holds, and a batch of each connection more than was granted.
    const BURST: u64 = RATE / 2 + 10 * BATCH_SIZE as u64;
    // Nobody is out of sync because the machine stands still.
    let mut nodes = four_with(&settings().set("broker.session.timeout.ms", "10000"));
    create(&nodes[0], &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]);
    let mut acknowledged: Vec<_> = (0..PARTITIONS).map(|of| fill(&nodes, of, 80)).collect();
    let writers: Vec<Writer> = (0..PARTITIONS).map(|of| Writer::start(&nodes, of)).collect();

    let begun = Instant::now();
    let mut moves = begin(&nodes[1], &["--replicas", "4,2,3", "--throttle", "4MB"]);
    let mut were_set = BTreeMap::new();
    while moves.try_wait().expect("it is ours").is_none() {
        let taken = metric(&nodes[3], "throttled_follower_bytes_total");
        let given = (RATE as f64 * begun.elapsed().as_secs_f64()) as u64 + BURST;
        assert!(taken <= given, "{taken} bytes were taken where the rate gives {given}");
        if were_set.len() < 4 * (LISTS.len() + RATES.len()) {
            were_set = throttles(&nodes);
        }
        // Moved is not missing.
        let status = wait_for("the cluster's state", || status(&nodes[0]));
        assert_eq!(status["under_replicated"], Value::from(Vec::<Value>::new()), "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let ended = moves.wait_with_output().expect("it is ours");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(
        were_set.get("4 follower.replication.throttled.rate"),
        Some(&RATE.to_string()),
        "{were_set:?}"
    );
    let followers = were_set.get("1 of the topic follower.replication.throttled.replicas");
    assert_eq!(followers.map(String::as_str), Some("0:4,1:4,2:4"));
    let (took, taken) = (begun.elapsed(), metric(&nodes[3], "throttled_follower_bytes_total"));
    let filled = (PARTITIONS as u64) * 80 * BATCH_SIZE as u64;
    assert!(taken >= filled, "{taken} of {filled} bytes were held to the rate");
    assert!(took.as_secs_f64() >= (taken - BURST) as f64 / RATE as f64, "{taken} bytes in {took:?}");
    let sent: u64 = nodes[..3].iter().map(|node| metric(node, "throttled_leader_bytes_total")).sum();
    assert!(sent >= filled, "{sent} of {filled} bytes were sent at the leaders' rates");
    assert_eq!(throttles(&nodes), BTreeMap::new());
    for of in 0..PARTITIONS {
        assert_eq!(replicas(&nodes[0], of).map(|(replicas, _)| replicas), Some(vec![4, 2, 3]));
    }
    // Producers were not held back: those in sync have no rate.
    for (of, writer) in writers.iter().enumerate() {
        assert!(writer.count() > 5, "{} batches of partition {of} in {took:?}", writer.count());
    }
    for (of, writer) in writers.into_iter().enumerate() {
        acknowledged[of].extend(writer.stop());
        check(&nodes, of as i32, &acknowledged[of]);
    }

    let refused =
        run(&nodes[0], &["cluster", "reassign", "--topic", TOPIC, "--replicas", "1,9", "--throttle", "1MB"]);
    assert!(refused.expect_err("there is no 9").contains("INVALID_REPLICA_ASSIGNMENT"));
    assert_eq!(throttles(&nodes), BTreeMap::new(), "what was refused does not move");

    // A command that is killed leaves its throttle, since what it has begun goes on.
    let mut killed = begin(&nodes[2], &["--replicas", "1,2,3", "--throttle", "2MB"]);
    wait_for("it to begin", || (!listed(&nodes[0]).is_empty()).then_some(()));
    killed.kill().expect("it waits");
    killed.wait().expect("it is ours");
    let verify = ["cluster", "reassign", "verify", "--json"];
    run(&nodes[0], &verify).expect("it lists");
    assert!(!throttles(&nodes).is_empty(), "something is still on its way");
    wait_for("all to be moved", || listed(&nodes[0]).is_empty().then_some(()));
    assert_eq!(run(&nodes[0], &verify), Ok("[]\n".to_owned()));
    assert_eq!(throttles(&nodes), BTreeMap::new());
    for of in 0..PARTITIONS {
        check(&nodes, of, &acknowledged[of as usize]);
    }
    nodes.iter_mut().for_each(Broker::stop);
}

/// What operators set by themselves, as with Kafka's tools: a rate for all nodes, `*`, and no rate at all.
#[test]
fn rates_are_set_for_all_nodes_and_change_under_way() {
    let mut nodes = four();
    create(&nodes[0], &[&[1, 2]]);
    let acknowledged = fill(&nodes, 0, 60);
    let mut client = Client::connect(&nodes[1]);
    for key in LISTS {
        let (code, said) = set(&mut client, TOPIC_RESOURCE, TOPIC, key, Some("0-1"));
        assert_eq!(code, 40, "{said}");
        assert!(said.contains("must be the literal '*' or a list of replicas"), "{said}");
        assert_eq!(set(&mut client, TOPIC_RESOURCE, TOPIC, key, Some("*")).0, 0);
    }
    assert_eq!(set(&mut client, BROKER, "", RATES[1], Some("-1")).0, 42);
    assert_eq!(set(&mut client, BROKER, "", RATES[1], Some("0")).0, 0);
    // Each node has heard of it, sooner or later.
    wait_for("the default of all brokers", || {
        (get(&mut Client::connect(&nodes[3]), BROKER, "4", RATES[1]) == ("0".to_owned(), 3, false))
            .then_some(())
    });
    run(&nodes[0], &["cluster", "reassign", "--topic", TOPIC, "--replicas", "1,4"]).expect("it is begun");
    let stuck = run(
        &nodes[0],
        &["cluster", "reassign", "--topic", TOPIC, "--replicas", "1,4", "--wait", "--timeout", "2s"],
    );
    let stuck = stuck.expect_err("nothing may be copied");
    assert!(stuck.contains("moving-0: it is not copied any further"), "{stuck}");
    assert_eq!(metric(&nodes[3], "throttled_follower_bytes_total"), 0);
    assert_eq!(metric(&nodes[3], "throttled_follower_replicas"), 1);
    // One node has its own, and then nobody has any.
    assert_eq!(set(&mut Client::connect(&nodes[3]), BROKER, "4", RATES[1], Some("2MB")).0, 0);
    wait_for("some of it", || (metric(&nodes[3], "throttled_follower_bytes_total") > 0).then_some(()));
    assert_eq!(set(&mut client, BROKER, "", RATES[1], None).0, 0);
    assert_eq!(set(&mut Client::connect(&nodes[3]), BROKER, "4", RATES[1], None).0, 0);
    wait_for("the end of it", || (replicas(&nodes[0], 0)?.0 == [1, 4]).then_some(()));
    check(&nodes, 0, &acknowledged);
    nodes.iter_mut().for_each(Broker::stop);
}

/// The only replica of one is on a node that is gone: the others move, it is named, and stays on its way.
#[test]
fn what_cannot_move_is_named_and_left_pending() {
    let mut nodes = four();
    create(&nodes[0], &[&[4], &[1], &[1]]);
    move_to(&nodes, 1, &[4, 1]);
    move_to(&nodes, 2, &[1, 4]);
    let acknowledged: Vec<_> = (0..3).map(|of| fill(&nodes, of, 1)).collect();
    nodes[3].kill();
    wait_for("it to be missed", || (partition(nodes[0].port(), 0)?.leader_id.0 == -1).then_some(()));
    let drain = ["node", "drain", "4", "--at-a-time", "1", "--timeout", "8s"];
    let stuck = run(&nodes[0], &drain).expect_err("its only replica is not there");
    let why = "moving-0: its source is not there: broker 4, which has it, does not run";
    assert!(stuck.contains(why) && stuck.contains("they stay on their way"), "{stuck}");
    assert!(!stuck.contains("moving-1:") && !stuck.contains("moving-2:"), "others do: {stuck}");
    wait_for("what is pending", || {
        let pending = listed(&nodes[1]);
        (pending.iter().map(|it| &it["partition"]).collect::<Vec<_>>() == [0]).then_some(())
    });
    nodes[3].start_again();
    run(&nodes[0], &drain[..3]).expect("it is there again");
    wait_for("nothing to be pending", || listed(&nodes[1]).is_empty().then_some(()));
    for of in 0..3 {
        assert!(!replicas(&nodes[0], of).expect("it is there").0.contains(&4));
        check(&nodes, of, &acknowledged[of as usize]);
    }
    nodes.iter_mut().for_each(Broker::stop);
}
