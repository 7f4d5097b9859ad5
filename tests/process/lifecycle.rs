//! Nodes of a cluster come and go: who is not there is fenced, leads nothing and gets nothing new, and is back once it
//! is there again.

use std::collections::{BTreeMap, BTreeSet};

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::metadata_response::MetadataResponsePartition;
use odradek_test_harness::{Batch, Broker, Client, Options, wait_for};
use serde_json::Value;

use super::clusters::{self, PARTITIONS, create, create_at_last, leader, run, status, three_with};

/// Short, and longer than a node stands still because others run on its core.
fn options() -> Options {
    clusters::options().set("broker.session.timeout.ms", "3000")
}

/// What a node says of a broker: its state, and the epoch of its registration.
fn broker(node: &Broker, id: usize) -> Option<(String, i64)> {
    let status = status(node)?;
    let brokers = status["brokers"].as_array()?;
    let found = brokers.iter().find(|broker| broker["broker"] == id)?;
    Some((found["state"].as_str()?.to_owned(), found["epoch"].as_i64().unwrap_or(-1)))
}

/// Waits until a node says so, and returns the epoch.
fn wait_until(node: &Broker, id: usize, state: &str) -> i64 {
    wait_for(&format!("broker {id} to be {state}"), || {
        broker(node, id).filter(|(is, _)| is == state).map(|(_, epoch)| epoch)
    })
}

fn partitions(node: &Broker, topic: &str) -> BTreeMap<i32, MetadataResponsePartition> {
    let metadata = Client::connect(node).metadata(&[topic]);
    let partitions = metadata.topics[0].partitions.iter();
    partitions.map(|partition| (partition.partition_index, partition.clone())).collect()
}

fn led_by(partitions: &BTreeMap<i32, MetadataResponsePartition>, id: i32) -> BTreeSet<i32> {
    let led = partitions.iter().filter(|(_, partition)| partition.leader_id.0 == id);
    led.map(|(index, _)| *index).collect()
}

/// A record in each partition.
fn fill(node: &Broker, topic: &str) {
    let mut client = Client::connect(node);
    for partition in 0..PARTITIONS {
        client.produce(topic, partition, &Batch::of(&[format!("{topic} {partition}")], 1));
    }
}

/// As often as it was filled.
fn check(node: &Broker, topic: &str, times: usize) {
    let mut client = Client::connect(node);
    for partition in 0..PARTITIONS {
        assert_eq!(client.read_all(topic, partition).len(), times, "{topic}-{partition}");
    }
}

/// The place in the list of a node that leads the quorum, and of one that does not.
fn leading_and_other(nodes: &[Broker]) -> (usize, usize) {
    let leading = usize::try_from(leader(&nodes[0])).expect("nodes are counted from one") - 1;
    (leading, (leading + 1) % nodes.len())
}

fn kill_and_start_again(nodes: &mut [Broker], gone: usize) {
    let other = (gone + 1) % nodes.len();
    assert_eq!(create(&nodes[gone], "before", 1), None);
    fill(&nodes[gone], "before");
    let before = partitions(&nodes[gone], "before");
    let led = led_by(&before, gone as i32 + 1);
    assert!(!led.is_empty(), "partitions are spread");
    let epoch = wait_until(&nodes[other], gone + 1, "alive");

    nodes[gone].kill();
    assert_eq!(wait_until(&nodes[other], gone + 1, "fenced"), epoch);
    let metadata = Client::connect(&nodes[other]).metadata(&["before"]);
    assert!(metadata.brokers.iter().all(|broker| broker.node_id.0 != gone as i32 + 1));
    let without = partitions(&nodes[other], "before");
    assert_eq!(led_by(&without, -1), led, "and no others");
    for partition in led.iter().map(|index| &without[index]) {
        assert_eq!(partition.error_code, ResponseError::LeaderNotAvailable.code());
        assert_eq!(partition.offline_replicas, partition.replica_nodes);
    }
    let offline = wait_for("who lacks a leader", || Some(status(&nodes[other])?["offline"].clone()));
    assert_eq!(offline.as_array().map(Vec::len), Some(led.len()), "{offline}");
    create_at_last(&nodes[other], "after");
    let after = partitions(&nodes[other], "after");
    assert!(led_by(&after, gone as i32 + 1).is_empty() && led_by(&after, -1).is_empty(), "{after:?}");

    nodes[gone].start_again();
    assert!(wait_until(&nodes[other], gone + 1, "alive") > epoch);
    check(&nodes[other], "before", 1);
    fill(&nodes[gone], "before");
    check(&nodes[other], "before", 2);
    let again = partitions(&nodes[gone], "before");
    for (index, partition) in &again {
        assert_eq!(partition.leader_id, before[index].leader_id);
        let is_new = partition.leader_epoch > before[index].leader_epoch;
        assert_eq!(is_new, led.contains(index), "{index}: another leadership, where there was none");
    }
}

#[test]
fn a_killed_node_is_fenced_and_everything_is_back_after_its_restart() {
    let mut nodes = three_with(&options());
    let (_, other) = leading_and_other(&nodes);
    kill_and_start_again(&mut nodes, other);
    nodes.into_iter().for_each(|mut node| node.stop());
}

#[test]
fn so_is_the_node_that_led_the_quorum() {
    let mut nodes = three_with(&options());
    let (leading, _) = leading_and_other(&nodes);
    kill_and_start_again(&mut nodes, leading);
    nodes.into_iter().for_each(|mut node| node.stop());
}

/// Longer than a session: it may think that it leads when it goes on.
#[test]
fn a_node_that_stood_still_is_fenced_and_then_unfenced() {
    let nodes = three_with(&options());
    let (leading, other) = leading_and_other(&nodes);
    assert_eq!(create(&nodes[leading], "before", 1), None);
    fill(&nodes[leading], "before");
    let epoch = wait_until(&nodes[leading], other + 1, "alive");
    nodes[other].pause();
    assert_eq!(wait_until(&nodes[leading], other + 1, "fenced"), epoch);
    assert!(!led_by(&partitions(&nodes[leading], "before"), -1).is_empty());
    nodes[other].resume();
    assert_eq!(wait_until(&nodes[leading], other + 1, "alive"), epoch, "it is the same process");
    fill(&nodes[leading], "before");
    check(&nodes[other], "before", 2);
    nodes.into_iter().for_each(|mut node| node.stop());
}

/// No session is over as long as this test runs.
#[test]
fn a_node_that_stops_is_fenced_at_once() {
    let mut nodes = three_with(&clusters::options().set("broker.session.timeout.ms", "600000"));
    for gone in 0..nodes.len() {
        let other = (gone + 1) % nodes.len();
        let epoch = wait_until(&nodes[other], gone + 1, "alive");
        nodes[gone].stop();
        assert!(!nodes[gone].log().contains("it stops all the same"), "{}", nodes[gone].log());
        assert_eq!(wait_until(&nodes[other], gone + 1, "fenced"), epoch);
        nodes[gone].start_again();
        assert!(wait_until(&nodes[other], gone + 1, "alive") > epoch);
    }
    nodes.into_iter().for_each(|mut node| node.stop());
}

#[test]
fn a_node_that_is_gone_for_good_is_unregistered() {
    let mut nodes = three_with(&options());
    let (_, gone) = leading_and_other(&nodes);
    let (other, id) = ((gone + 1) % nodes.len(), (gone + 1).to_string());
    let unregister = |node: &Broker, id: &str| run(node, &["cluster", "node", "unregister", id]);
    let refused = unregister(&nodes[other], &id).expect_err("it runs");
    assert!(refused.contains("only a node that is fenced is unregistered"), "{refused}");
    let refused = unregister(&nodes[other], "9").expect_err("there is none");
    assert!(refused.contains("BROKER_ID_NOT_REGISTERED"), "{refused}");
    let epochs: Vec<i64> = (1..=3).map(|id| wait_until(&nodes[other], id, "alive")).collect();
    nodes[gone].kill();
    wait_until(&nodes[other], gone + 1, "fenced");
    // The answer to a try before may be lost with a leader of the quorum.
    if let Err(said) = unregister(&nodes[other], &id) {
        assert!(said.contains("BROKER_ID_NOT_REGISTERED"), "{said}");
    }
    let listed = run(&nodes[other], &["cluster", "node", "list", "--json"]).expect("it lists nodes");
    let listed: Value = serde_json::from_str(&listed).expect("it is JSON");
    let listed = listed.as_array().expect("a list").iter();
    assert!(listed.clone().all(|broker| broker["broker"] != gone + 1));
    assert_eq!(listed.count(), 2);
    // It was not, after all.
    nodes[gone].start_again();
    let epoch = wait_until(&nodes[other], gone + 1, "alive");
    assert!(epochs.iter().all(|before| *before < epoch), "{epoch} after {epochs:?}");
    nodes.into_iter().for_each(|mut node| node.stop());
}

/// It began with an empty directory, and has not started since; what it has by now is not given up for that.
#[test]
fn a_node_that_is_unregistered_while_nothing_is_heard_of_it_comes_back_with_what_it_has() {
    let nodes = three_with(&options());
    let (leading, _) = leading_and_other(&nodes);
    let joined = if leading == 2 { 1 } else { 2 };
    let (other, id) = ((joined + 1) % nodes.len(), (joined + 1).to_string());
    assert_eq!(create(&nodes[other], "alone", 1), None);
    fill(&nodes[other], "alone");
    let before = led_by(&partitions(&nodes[other], "alone"), joined as i32 + 1);
    assert!(!before.is_empty());
    let epoch = wait_until(&nodes[other], joined + 1, "alive");
    nodes[joined].pause();
    wait_until(&nodes[other], joined + 1, "fenced");
    if let Err(said) = run(&nodes[other], &["cluster", "node", "unregister", &id]) {
        assert!(said.contains("BROKER_ID_NOT_REGISTERED"), "{said}");
    }
    nodes[joined].resume();
    assert!(wait_until(&nodes[other], joined + 1, "alive") > epoch);
    wait_for("leaders as before", || {
        (led_by(&partitions(&nodes[other], "alone"), joined as i32 + 1) == before).then_some(())
    });
    check(&nodes[other], "alone", 1);
    nodes.into_iter().for_each(|mut node| node.stop());
}
