//! Transactions over partitions of several nodes: coordinators and leaders ask each other, and each transaction ends
//! in one way everywhere, whichever node is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use odradek_test_harness::kafka_protocol::messages::CreateTopicsRequest;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::CreatableTopic;
use odradek_test_harness::{Broker, Client, Options, create_topics, topic_name, wait_for};

use crate::clusters::{options as cluster_options, three_with};
use crate::coordination::{
    PARTITIONS, Producer, TOPIC, TRANSACTIONS, Version, committed, coordinator, fetch_offset, wait_for_state,
};

/// Few partitions of the internal topics.
fn options() -> Options {
    cluster_options().set("transaction.state.log.num.partitions", "5")
}

/// Makes the topic, led by all nodes in turn.
fn create(node: &Broker, replication_factor: i16) {
    let topic = CreatableTopic::default()
        .with_name(topic_name(TOPIC))
        .with_num_partitions(PARTITIONS)
        .with_replication_factor(replication_factor);
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    assert_eq!(create_topics(node, &request), None);
}

fn leaders(node: &Broker) -> BTreeSet<i32> {
    let mut client = Client::connect(node);
    (0..PARTITIONS).map(|partition| client.leader(TOPIC, partition).0).collect()
}

/// A transactional id that a node coordinates.
fn id_of(node: &Broker, prefix: &str) -> String {
    let mut ids = (0..1000).map(|number| format!("{prefix}-{number}"));
    ids.find(|id| coordinator(node.port(), TRANSACTIONS, id) == node.port())
        .expect("it coordinates something")
}

#[test]
fn a_transaction_has_partitions_and_offsets_of_every_node() {
    let nodes = three_with(&options());
    create(&nodes[0], 1);
    assert_eq!(leaders(&nodes[0]), BTreeSet::from([1, 2, 3]));
    let mut expected = Vec::new();
    let mut offset = 0;
    for version in Version::BOTH {
        for node in &nodes {
            let id = id_of(node, &format!("{version:?}"));
            let mut producer = Producer::new(node, &id, version).init();
            for (value, commits) in [("first", true), ("second", false), ("third", true)] {
                let value = format!("{id} {value}");
                for partition in 0..PARTITIONS {
                    producer.write(partition, &value);
                }
                wait_for("an offset", || producer.commit_offset(offset + 1).is_none().then_some(()));
                producer.end(commits);
                if commits {
                    expected.push(value);
                    offset += 1;
                }
                // Until its markers are written, the offset is not to be read.
                wait_for("a stable offset", || (fetch_offset(node, true) == Ok(offset)).then_some(()));
            }
            wait_for_state(node, &id, "CompleteCommit");
        }
    }
    for partition in 0..PARTITIONS {
        for node in &nodes {
            assert_eq!(committed(node, partition), expected, "{partition}");
        }
    }
}

#[test]
fn a_transaction_has_one_outcome_whichever_node_is_killed() {
    for version in Version::BOTH {
        let mut nodes = three_with(&options().set("broker.session.timeout.ms", "3000"));
        create(&nodes[0], 3);
        let mut expected = Vec::new();
        for gone in 0..3 {
            let alive = (gone + 1) % 3;
            // It coordinates, and leads one of the partitions.
            let id = id_of(&nodes[gone], &format!("round-{gone}"));
            let mut producer = Producer::new(&nodes[alive], &id, version).init();
            for (value, commits) in [("committed", true), ("aborted", false)] {
                for partition in 0..PARTITIONS {
                    producer.write(partition, &format!("{gone} {value}"));
                }
                producer.end(commits);
            }
            for partition in 0..PARTITIONS {
                producer.write(partition, &format!("{gone} unknown"));
            }
            // Nobody hears how this one ends.
            producer.send_end(true);
            std::thread::sleep(Duration::from_micros(gone as u64 * 1500));
            nodes[gone].kill();
            let (node, dead) = (&nodes[alive], nodes[gone].port());
            wait_for("another coordinator", || {
                (coordinator(node.port(), TRANSACTIONS, &id) != dead).then_some(())
            });
            wait_for("other leaders", || (!leaders(node).contains(&(gone as i32 + 1))).then_some(()));
            let mut next = Producer::new(node, &id, version).init();
            for partition in 0..PARTITIONS {
                next.write(partition, &format!("{gone} after"));
            }
            next.end(true);
            wait_for_state(node, &id, "CompleteCommit");
            expected.extend([format!("{gone} committed"), format!("{gone} after")]);
            wait_for("everything committed to be shown", || {
                let shown = (0..PARTITIONS)
                    .all(|partition| committed(node, partition).ends_with(&expected[expected.len() - 1..]));
                shown.then_some(())
            });
            nodes[gone].start_again();
            wait_for("its leaders", || leaders(&nodes[gone]).iter().all(|leader| *leader > 0).then_some(()));
            wait_for("all in sync", || {
                let metadata = Client::connect(&nodes[alive]).metadata(&[TOPIC, "__transaction_state"]);
                let mut partitions = metadata.topics.iter().flat_map(|topic| &topic.partitions);
                partitions.all(|partition| partition.isr_nodes.len() == 3).then_some(())
            });
        }
        let first = committed(&nodes[0], 0);
        let known: Vec<&String> = first.iter().filter(|value| !value.contains("unknown")).collect();
        assert_eq!(known, expected.iter().collect::<Vec<_>>(), "{version:?}");
        for partition in 1..PARTITIONS {
            assert_eq!(committed(&nodes[0], partition), first, "{version:?} {partition}");
        }
        nodes.iter_mut().for_each(Broker::stop);
    }
}
