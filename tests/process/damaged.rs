//! Bits rot on one node: others lead what is damaged there, and it gets that back from them by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::{Batch, Broker, Client, Options, ReadRecord, records_of, wait_for};

use crate::clusters::{options, three_with};
use crate::files::flip;
use crate::journal::{DISK_BLOCK, blocks, write};
use crate::replication::{TOPIC, check, create, leader, partition, produce, wait_for_in_sync};

const PARTITIONS: i32 = 3;

fn settings() -> Options {
    options().set("broker.session.timeout.ms", "3000").small_journal()
}

type Acknowledged = Vec<BTreeMap<i64, String>>;

fn fill(nodes: &[Broker], count: usize) -> Acknowledged {
    let each = (0..PARTITIONS).map(|of| {
        let values = (0..count).map(|number| format!("{of} {number}"));
        values.map(|value| (produce(nodes, 0, of, &Batch::of(&[&value], 1)), value)).collect()
    });
    each.collect()
}

/// As a client reads that tries again.
fn read(nodes: &[Broker], of: i32, expected: usize) -> Vec<ReadRecord> {
    let mut records: Vec<ReadRecord> = Vec::new();
    wait_for(&format!("{expected} records of partition {of}"), || {
        let leader = leader(nodes, 0, of)?;
        let next = records.last().map_or(0, |record| record.offset + 1);
        let data = Client::connect(&nodes[leader]).fetch(TOPIC, of, next);
        match ResponseError::try_from_code(data.error_code) {
            None => records.extend(records_of(&data).into_iter().filter(|record| record.offset >= next)),
            Some(
                ResponseError::CorruptMessage
                | ResponseError::KafkaStorageError
                | ResponseError::NotLeaderOrFollower
                | ResponseError::UnknownTopicOrPartition
                | ResponseError::OffsetNotAvailable,
            ) => {}
            Some(error) => panic!("{error:?}"),
        }
        (records.len() >= expected).then(|| std::mem::take(&mut records))
    })
}

fn segment(node: &Broker, of: i32) -> PathBuf {
    node.data_dir().join(format!("{TOPIC}-{of}")).join("00000000000000000000.log")
}

fn times_restored(node: &Broker) -> usize {
    node.log().matches("a damaged replica is made again").count()
}

fn finish(nodes: &mut [Broker], acknowledged: &Acknowledged) {
    for (of, acknowledged) in (0..).zip(acknowledged) {
        wait_for_in_sync(&nodes[0], of, &[1, 2, 3]);
        check(&read(nodes, of, acknowledged.len()), acknowledged);
    }
    nodes.iter_mut().for_each(Broker::stop);
    for of in 0..PARTITIONS {
        let bytes: Vec<Vec<u8>> =
            nodes.iter().map(|node| std::fs::read(segment(node, of)).expect("it is there")).collect();
        assert!(!bytes[0].is_empty());
        assert!(bytes[0] == bytes[1] && bytes[1] == bytes[2], "replicas of partition {of} differ");
    }
}

#[test]
fn a_lost_block_of_a_journal_is_fetched_from_others() {
    const AT: usize = 1;
    let mut nodes = three_with(&settings());
    create(&nodes[0], PARTITIONS, &[]);
    let mut acknowledged = fill(&nodes, 10);
    // The journal may get its first file late. There has to be something behind the block that is lost.
    wait_for("the journal", || {
        for (of, acknowledged) in (0..).zip(&mut acknowledged) {
            let value = format!("{of} {}", acknowledged.len());
            acknowledged.insert(produce(&nodes, 0, of, &Batch::of(&[&value], 1)), value);
        }
        (blocks(&nodes[AT]).len() > 6).then_some(())
    });
    (0..PARTITIONS).for_each(|of| wait_for_in_sync(&nodes[0], of, &[1, 2, 3]));
    nodes[AT].kill();
    let (file, at) = blocks(&nodes[AT])[3].clone();
    write(&file, at, &[0; DISK_BLOCK]);
    nodes[AT].start_again();
    wait_for("what it has lost", || (times_restored(&nodes[AT]) == PARTITIONS as usize).then_some(()));
    (0..PARTITIONS).for_each(|of| wait_for_in_sync(&nodes[0], of, &[1, 2, 3]));
    // The journal is kept, and nothing is missed any more.
    assert!(nodes[AT].data_dir().join("journal.0.damaged.1").is_dir());
    nodes[AT].kill();
    nodes[AT].start_again();
    finish(&mut nodes, &acknowledged);
    assert_eq!(times_restored(&nodes[AT]), PARTITIONS as usize);
}

#[test]
fn damage_that_a_read_finds_is_mended_from_others() {
    let mut nodes = three_with(&settings().set("leader.imbalance.check.interval.seconds", "1"));
    create(&nodes[0], PARTITIONS, &[]);
    let acknowledged = fill(&nodes, 10);
    (0..PARTITIONS).for_each(|of| wait_for_in_sync(&nodes[0], of, &[1, 2, 3]));
    const OF: i32 = 1;
    let at = leader(&nodes, 0, OF).expect("it was produced to");
    // After a clean stop a start does not look at what is there.
    nodes[at].stop();
    flip(&segment(&nodes[at], OF), 70);
    nodes[at].start_again();
    // It may take itself for the leader until it has heard of what came meanwhile.
    for asked in 0..nodes.len() {
        wait_for("it to lead again", || (leader(&nodes, asked, OF)? == at).then_some(()));
    }
    check(&read(&nodes, OF, 10), &acknowledged[OF as usize]);
    wait_for("what is damaged", || (times_restored(&nodes[at]) == 1).then_some(()));
    assert_eq!(partition(&nodes[0], OF).map(|found| found.replica_nodes.len()), Some(3));
    finish(&mut nodes, &acknowledged);
    assert_eq!(times_restored(&nodes[at]), 1);
}
