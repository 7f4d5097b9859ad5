//! Nodes that come get their share, nodes that go are emptied first, and nodes that are lost are replaced.

use std::collections::BTreeMap;

use odradek_test_harness::{Batch, Broker, Client, Options, wait_for};
use serde_json::Value;

use crate::clusters::{PARTITIONS, create, options, run, status, three_with, voters};

const TOPIC: &str = "spread";

fn settings() -> Options {
    options().set("broker.session.timeout.ms", "3000")
}

fn join(nodes: &mut Vec<Broker>, id: i32) {
    let next = Broker::start_with(settings().in_cluster(id, &[&nodes[0]]));
    nodes.push(next);
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
    let expected = (BTreeMap::from([(1, 3), (2, 3), (3, 3), (4, 3)]), 0);
    wait_for("another node to know of it", || (loads(&nodes[0]) == expected).then_some(()));
    assert_eq!(json(&nodes[0], &["cluster", "rebalance", "--plan"]), Vec::<Value>::new());
    check(&nodes[0], 1);

    run(&nodes[0], &["node", "drain", "1", "--at-a-time", "2"]).expect("it is emptied");
    assert_eq!(loads(&nodes[0]), (BTreeMap::from([(1, 0), (2, 4), (3, 4), (4, 4)]), 0));
    fill(&nodes[0]);
    check(&nodes[3], 2);

    // It has nothing, waits for nobody to stop it, and is none of the cluster afterwards.
    let mut first = nodes.remove(0);
    first.stop();
    run(&nodes[0], &["node", "decommission", "1"]).expect("it is taken out");
    assert_eq!(loads(&nodes[0]), (BTreeMap::from([(2, 4), (3, 4), (4, 4)]), 0));
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
    assert_eq!(loads(&nodes[0]), (BTreeMap::from([(3, 4), (4, 4), (5, 4)]), 0));
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
