//! The load generator against a broker of this project: what needs coordinators.

use std::process::{Child, Command, Stdio};

use odradek_test_harness::kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, ListGroupsRequest, OffsetCommitRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Broker, Client, Options, Routing, topic_name, wait_for};
use serde_json::Value;

const TOPIC: &str = "load";

fn broker() -> Broker {
    let options = Options::new(Routing::Node)
        .set("offsets.topic.num.partitions", "2")
        .set("transaction.state.log.num.partitions", "2");
    Broker::start_with(options)
}

fn start(broker: &Broker, command: &str, flags: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_odradek-loadgen"))
        .args([command, "--brokers", &broker.bootstrap(), "--topic", TOPIC, "--quiet", "--json", "-"])
        .args(flags.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is built")
}

fn finish(child: Child) -> Value {
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    serde_json::from_str(&text).expect("it is JSON")
}

fn run(broker: &Broker, command: &str, flags: &str) -> Value {
    finish(start(broker, command, flags))
}

#[test]
fn transactions_are_committed_one_after_the_other() {
    let mut broker = broker();
    let produce = "--create --partitions 3 --record-size 50 --records 3000 --batch-bytes 1000 --connections 2 \
                   --transactional-id load --transaction-records 100";
    for produced in [3000, 6000] {
        let summary = run(&broker, "produce", produce);
        assert_eq!((&summary["records"], &summary["errors"]), (&3000.into(), &0.into()), "{summary}");
        // The last of each connection may be a short one.
        let transactions = summary["transactions"].as_u64().expect("a number");
        assert!((30..=31).contains(&transactions), "{summary}");
        let read = run(&broker, "consume", &format!("--records {produced} --read-committed"));
        assert_eq!(read["records"], produced, "none is open, and none was aborted");
    }
    broker.stop();
}

#[test]
fn members_read_everything_once() {
    let mut broker = broker();
    let produce = "--create --partitions 4 --record-size 50 --records 8000 --batch-bytes 1000";
    run(&broker, "produce", produce);
    let small = "--group readers --fetch-bytes 4000 --partition-fetch-bytes 1000";
    let first = run(&broker, "consume", &format!("--records 2000 {small}"));
    let read = |summary: &Value| summary["records"].as_u64().expect("a number");
    assert!((2000..8000).contains(&read(&first)), "{first}");
    // The next ones go on where it was, and share what is left.
    let others = start(&broker, "consume", &format!("--duration 12s --connections 2 {small}"));
    let another = start(&broker, "consume", &format!("--duration 12s {small}"));
    let (others, another) = (finish(others), finish(another));
    assert_eq!(read(&first) + read(&others) + read(&another), 8000, "{first} {others} {another}");
    broker.stop();
}

#[test]
fn a_reader_that_fails_ends_the_run_of_its_group() {
    let mut broker = broker();
    run(&broker, "produce", "--create --partitions 2 --record-size 50 --records 100");
    commit_beyond_the_end(&broker, "lost");
    // Another one would still read, and there is nothing to read for very long.
    let flags = "--group lost --records 1000 --connections 2 --idle-timeout 300s";
    let mut child = start(&broker, "consume", flags);
    let status = wait_for("the run to end", || child.try_wait().expect("it was started here"));
    let output = child.wait_with_output().expect("it has ended");
    let problems = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status.code(), Some(1), "{problems}");
    assert!(problems.contains("partition 0: OffsetOutOfRange"), "{problems}");
    broker.stop();
}

#[test]
fn groups_form_and_go_on_and_others_join_and_lie_idle() {
    let mut broker = broker();
    // The command has no flag that keeps it quiet.
    let output = Command::new(env!("CARGO_BIN_EXE_odradek-loadgen"))
        .args(["groups", "--brokers", &broker.bootstrap(), "--topic", TOPIC, "--json", "-"])
        .args("--groups 4 --members 3 --groups-per-connection 2 --heartbeat 300ms".split_whitespace())
        .args("--commit-rate 50 --produce-rate 20 --duration 3s --join 8 --idle 20".split_whitespace())
        .output()
        .expect("it is built");
    let (text, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {text} {problems}", output.status);
    let begin = text.find('{').expect("there is JSON");
    let summary: Value = serde_json::from_str(&text[begin..]).expect("it is JSON");
    for kind in ["heartbeats", "commits", "produced"] {
        let requests = &summary[kind];
        assert!(requests["count"].as_u64().is_some_and(|count| count > 10), "{kind}: {summary}");
        assert_eq!(requests["errors"].as_object().map(|errors| errors.len()), Some(0), "{kind}: {summary}");
    }
    assert!(summary["join_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{summary}");
    assert_eq!(summary["idle_groups"], 20, "{summary}");
    let listed = Client::connect(&broker).bootstrap().call(4, &ListGroupsRequest::default());
    // Beside the groups, the one that all join, the idle ones, and the one of the first commits.
    assert!(listed.groups.len() >= 4 + 1 + 20, "{}", listed.groups.len());
    broker.stop();
}

/// Of partition 0, as somebody who is no member.
fn commit_beyond_the_end(broker: &Broker, group: &str) {
    let group = StrBytes::from_string(group.to_owned());
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(1_000_000);
    let topic =
        OffsetCommitRequestTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(group.clone()))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let mut client = Client::connect(broker);
    wait_for("the offset to be kept", || {
        client.bootstrap().call(3, &FindCoordinatorRequest::default().with_key(group.clone()));
        let response = client.bootstrap().call(8, &request);
        (response.topics[0].partitions[0].error_code == 0).then_some(())
    });
}
