//! A disk of one node fails while the node goes on: others lead what it had, and it gets that back from them.

use std::collections::{BTreeMap, BTreeSet};

use odradek_test_harness::{Batch, Broker, Options, SmallDisk, wait_for};

use crate::clusters::{options, status, three_of};
use crate::log_dirs::partitions_in;
use crate::replication::{TOPIC, check, create, partition, produce, read_all, wait_for_in_sync};

const PARTITIONS: i32 = 6;

/// The node with the disk that fails, and its place in the list.
const NODE: i32 = 2;
const AT: usize = 1;

type Acknowledged = Vec<BTreeMap<i64, String>>;

fn produce_to_all(nodes: &[Broker], what: &str, acknowledged: &mut Acknowledged) {
    for of in 0..PARTITIONS {
        let value = format!("{what} {of}");
        let offset = produce(nodes, 0, of, &Batch::of(&[&value], 1));
        let before = acknowledged[of as usize].insert(offset, value);
        assert_eq!(before, None, "one value per offset");
    }
}

/// Waits until all nodes know which partitions the node does not serve, though it is there.
fn wait_until_offline(nodes: &[Broker], offline: &BTreeSet<i32>) {
    for (node, of) in nodes.iter().flat_map(|node| (0..PARTITIONS).map(move |of| (node, of))) {
        wait_for(&format!("what is offline of partition {of}"), || {
            let found = partition(node, of)?;
            let has = |ids: &[_]| {
                ids.iter().any(|id: &odradek_test_harness::kafka_protocol::messages::BrokerId| id.0 == NODE)
            };
            let is_offline = has(&found.offline_replicas);
            let is_left = found.leader_id.0 != NODE && !has(&found.isr_nodes);
            (is_offline == offline.contains(&of) && (is_left || !is_offline)).then_some(())
        });
    }
}

fn state_of_node(node: &Broker) -> Option<String> {
    let status = status(node)?;
    let broker = status["brokers"].as_array()?.iter().find(|broker| broker["broker"] == NODE)?.clone();
    Some(broker["state"].as_str()?.to_owned())
}

#[test]
fn partitions_of_a_disk_that_fails_are_led_by_others_until_it_is_mounted_again() {
    let Some(disk) = SmallDisk::mount(192 << 20) else { return };
    let second = disk.path().join("data");
    let options: Options = options().set("broker.session.timeout.ms", "3000").small_journal();
    let with_disk = options.clone().other_dirs(&[&second]);
    let mut nodes = three_of([options.clone(), with_disk, options]);
    create(&nodes[0], PARTITIONS, &[("min.insync.replicas", "2")]);
    let mut acknowledged: Acknowledged = vec![BTreeMap::new(); PARTITIONS as usize];
    produce_to_all(&nodes, "before", &mut acknowledged);
    (0..PARTITIONS).for_each(|of| wait_for_in_sync(&nodes[0], of, &[1, 2, 3]));
    let failing = partitions_in(&second, TOPIC);
    assert_eq!(failing.len(), 3, "half of them");
    let led = |of: &&i32| partition(&nodes[0], **of).is_some_and(|found| found.leader_id.0 == NODE);
    assert!(failing.iter().any(|of| led(&of)), "it leads some of those that will fail");

    disk.break_down();
    for round in 0..3 {
        produce_to_all(&nodes, &format!("failed {round}"), &mut acknowledged);
    }
    wait_until_offline(&nodes, &failing);
    // It has another disk.
    wait_for("the node to be there", || (state_of_node(&nodes[0])? == "alive").then_some(()));
    for of in (0..PARTITIONS).filter(|of| !failing.contains(of)) {
        wait_for_in_sync(&nodes[0], of, &[1, 2, 3]);
    }

    // A start finds the disk as it is.
    nodes[AT].stop();
    nodes[AT].start_again();
    wait_until_offline(&nodes, &failing);
    produce_to_all(&nodes, "started", &mut acknowledged);

    nodes[AT].stop();
    disk.unmount();
    disk.mount_again();
    nodes[AT].start_again();
    wait_until_offline(&nodes, &BTreeSet::new());
    produce_to_all(&nodes, "mounted", &mut acknowledged);
    (0..PARTITIONS).for_each(|of| wait_for_in_sync(&nodes[0], of, &[1, 2, 3]));
    for (of, acknowledged) in (0..).zip(&acknowledged) {
        check(&read_all(&nodes, 0, of, acknowledged.len()), acknowledged);
    }
    nodes.iter_mut().for_each(Broker::stop);
    for of in &failing {
        let segment = |dir: &std::path::Path| {
            let path = dir.join(format!("{TOPIC}-{of}")).join("00000000000000000000.log");
            std::fs::read(path).expect("it is there")
        };
        assert!(segment(&second) == segment(&nodes[0].data_dir()), "replicas of partition {of} differ");
    }
}
