//! A disk that is really full: what needs space is refused, everything else goes on, and all of it
//! comes back by itself.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use odradek_test_harness::kafka_protocol::messages::create_topics_request::CreatableTopic;
use odradek_test_harness::kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest,
};
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Options, Routing, SmallDisk, topic_name, wait_for,
};

use crate::now_ms;

/// Ten batches fill a segment to its last block: closing it gives none back.
const VALUE_SIZE: usize = 104_700;

#[test]
fn full_disk_refuses_what_needs_space_and_recovers_by_itself() {
    for routing in Routing::BOTH {
        let Some(disk) = SmallDisk::mount(160 << 20) else { return };
        let options = Options::new(routing).data_dir(disk.path().join("data"));
        let mut broker = Broker::start_with(options);
        let mut client = Client::connect(&broker);
        client.create_topic("full", 2, &[("segment.bytes", "1048576")]);
        client.create_topic("given-up", 1, &[]);
        let mut producer = client.init_producer();
        let mut stored = 0;
        // The file of the next segment is there before the last space goes: the roll into it happens
        // on a full disk.
        while !has_spare(&broker.data_dir().join("full-1")) {
            assert_eq!(produce(&mut client, &mut producer), Ok(stored));
            stored += 1;
        }
        disk.fill();
        let full_since = stored;
        let refused = loop {
            match produce(&mut client, &mut producer) {
                Ok(offset) => assert_eq!(offset, stored),
                Err(error) => break error,
            }
            stored += 1;
        };
        assert_eq!(refused, ResponseError::KafkaStorageError);
        assert!(stored > full_since + 5, "what was reserved before is used, {stored} after {full_since}");
        let log = broker.log();
        assert!(log.contains("no space for the files beside a closed segment"), "{log}");

        assert_eq!(client.list_offset("full", 1, -1), stored);
        assert_eq!(client.read_all("full", 1).len() as i64, stored, "fetches go on");
        assert_eq!(create(&mut client, "refused"), Some(ResponseError::KafkaStorageError));
        let unknown = client.metadata(&["refused"]).topics[0].error_code;
        assert_eq!(ResponseError::try_from_code(unknown), Some(ResponseError::UnknownTopicOrPartition));
        assert_eq!(produce(&mut client, &mut producer), Err(ResponseError::KafkaStorageError));

        // What frees space has some kept for it.
        assert_eq!(delete(&mut client, "given-up"), None);
        disk.make_room();
        wait_for("space", || produce(&mut client, &mut producer).ok().filter(|offset| *offset == stored));
        stored += 1;
        assert_eq!(create(&mut client, "refused"), None);
        assert_eq!(client.produce("refused", 1, &Batch::of(&["welcome"], now_ms())), 0);
        let log = broker.log();
        assert!(!log.contains("the log directory is offline"), "{log}");

        // What was left out is built again, whether or not the stop was clean.
        for is_clean in [true, false] {
            if is_clean {
                broker.stop()
            } else {
                broker.kill()
            }
            broker.start_again();
            let mut client = Client::connect(&broker);
            assert_eq!(client.read_all("full", 1).len() as i64, stored);
            for offset in [0, full_since, stored - 1] {
                assert_eq!(client.list_offset("full", 1, time(offset)), offset);
            }
            producer.sequence -= 1;
            assert_eq!(produce(&mut client, &mut producer), Ok(stored - 1), "a retry");
            assert_eq!(produce(&mut client, &mut producer), Ok(stored));
            stored += 1;
            assert_eq!(client.read_all("refused", 1).len(), 1);
        }
        broker.stop();
    }
}

/// Appends leave some space: what makes room is written there, and they go on once it has.
#[test]
fn disk_that_appends_have_filled_has_room_for_what_makes_room() {
    for (has_journal, deletes_topic) in [(true, false), (false, false), (false, true)] {
        let Some(disk) = SmallDisk::mount(144 << 20) else { return };
        let options = Options::new(Routing::Node).data_dir(disk.path().join("data")).small_journal();
        let options = options.set("log.segment.delete.delay.ms", "100");
        let mut broker = Broker::start_with(if has_journal { options } else { options.without_journal() });
        let mut client = Client::connect(&broker);
        client.create_topic("full", 2, &[("segment.bytes", "4194304")]);
        client.create_topic("other", 2, &[]);
        assert_eq!(client.produce("other", 1, &Batch::of(&["there"], now_ms())), 0);
        let mut producer = client.init_producer();
        let refused = loop {
            if let Err(error) = produce(&mut client, &mut producer) {
                break error;
            }
        };
        assert_eq!(refused, ResponseError::KafkaStorageError);
        let stored = i64::from(producer.sequence);
        assert!(stored > 100, "{stored} fit");
        let free = disk.free();
        assert!(free >= 48 << 20, "{free} bytes are left");
        // Not for a moment only.
        assert_eq!(produce(&mut client, &mut producer), Err(ResponseError::KafkaStorageError));
        assert_eq!(client.read_all("full", 1).len() as i64, stored, "fetches go on");
        if deletes_topic {
            assert_eq!(delete(&mut client, "full"), None);
            let welcome = || {
                let batch = Batch::of(&[vec![1; VALUE_SIZE]], now_ms());
                client.produce_bytes("other", 0, batch.bytes()).ok()
            };
            wait_for("space", welcome);
        } else {
            assert_eq!(delete_before(&mut client, "full", stored - 5), Ok(stored - 5));
            wait_for("space", || produce(&mut client, &mut producer).ok().filter(|offset| *offset == stored));
            assert_eq!(client.list_offset("full", 1, -2), stored - 5);
        }
        assert_eq!(delete(&mut client, "other"), None);
        let log = broker.log();
        assert!(!log.contains("the log directory is offline"), "{log}");
        broker.stop();
    }
}

/// A partition that cannot go to another core for want of space holds up nothing else, and goes once there is some.
#[test]
fn a_partition_on_its_way_to_another_core_waits_for_space() {
    let Some(disk) = SmallDisk::mount(160 << 20) else { return };
    // The metadata are on another one, and go on.
    let other = disk.path().join("data");
    let mut broker = Broker::start_with(Options::new(Routing::Core).cores(2).other_dirs(&[&other]));
    let mut client = Client::connect(&broker);
    client.create_topic("full", 2, &[("segment.bytes", "1048576")]);
    client.create_topic("given-up", 1, &[]);
    assert!(other.join("full-1").exists(), "in turn to either");
    let mut producer = client.init_producer();
    for _ in 0..25 {
        produce(&mut client, &mut producer).expect("there is space");
    }
    let (from, _) = client.leader("full", 1);
    let to = 2001 - from;
    disk.fill();
    let moving =
        ReassignablePartition::default().with_partition_index(1).with_replicas(Some(vec![BrokerId(to)]));
    let topic = ReassignableTopic::default().with_name(topic_name("full")).with_partitions(vec![moving]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let moved = client.bootstrap().call(1, &request);
    assert_eq!(moved.responses[0].partitions[0].error_code, 0);
    assert_eq!(client.leader("full", 1).0, to, "so the metadata say");
    wait_for("it to wait", || {
        broker.log().contains("partitions wait on their way to other cores").then_some(())
    });
    assert_eq!(produce(&mut client, &mut producer), Err(ResponseError::NotLeaderOrFollower));
    assert_eq!(delete(&mut client, "given-up"), None, "what needs no space goes on");

    disk.make_room();
    wait_for("it to be served", || produce(&mut client, &mut producer).ok().filter(|offset| *offset == 25));
    let values = client.read_all("full", 1).len();
    assert_eq!(values, 26);
    broker.kill();
    broker.start_again();
    let mut client = Client::connect(&broker);
    assert_eq!((client.leader("full", 1).0, client.read_all("full", 1).len()), (to, 26));

    // One that is deleted while it waits leaves nothing behind, on neither core.
    disk.fill();
    let moving =
        ReassignablePartition::default().with_partition_index(1).with_replicas(Some(vec![BrokerId(from)]));
    let topic = ReassignableTopic::default().with_name(topic_name("full")).with_partitions(vec![moving]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let moved = client.bootstrap().call(1, &request);
    assert_eq!(moved.responses[0].partitions[0].error_code, 0);
    let waits = || broker.log().matches("partitions wait on their way to other cores").count();
    wait_for("it to wait again", || (waits() >= 2).then_some(()));
    assert_eq!(delete(&mut client, "full"), None);
    disk.make_room();
    client.create_topic("full", 2, &[("file.delete.delay.ms", "100")]);
    assert_eq!(client.produce("full", 1, &Batch::of(&["anew"], now_ms())), 0);
    let left = || {
        let entries = std::fs::read_dir(&other).expect("it is there");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.starts_with("full-1.")).collect::<Vec<_>>()
    };
    wait_for("nothing to be left of it", || left().is_empty().then_some(()));
    let log = broker.log();
    assert!(!log.contains("the log directory is offline"), "{log}");
    broker.stop();
}

fn delete(client: &mut Client, topic: &str) -> Option<ResponseError> {
    let request =
        DeleteTopicsRequest::default().with_timeout_ms(10_000).with_topic_names(vec![topic_name(topic)]);
    ResponseError::try_from_code(client.bootstrap().call(5, &request).responses[0].error_code)
}

/// The new log start.
fn delete_before(client: &mut Client, topic: &str, offset: i64) -> Result<i64, ResponseError> {
    let partition = DeleteRecordsPartition::default().with_partition_index(1).with_offset(offset);
    let topics =
        vec![DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition])];
    let request = DeleteRecordsRequest::default().with_timeout_ms(10_000).with_topics(topics);
    let answer = &client.to_leader(topic, 1).call(1, &request).topics[0].partitions[0];
    ResponseError::try_from_code(answer.error_code).map_or(Ok(answer.low_watermark), Err)
}

/// Timestamp of the record at an offset.
fn time(offset: i64) -> i64 {
    1_700_000_000_000 + offset * 1000
}

/// The producer's next record, whose sequence is its offset.
fn produce(client: &mut Client, producer: &mut BatchProducer) -> Result<i64, ResponseError> {
    let batch = Batch::of(&[vec![1; VALUE_SIZE]], time(producer.sequence.into())).by(*producer);
    let offset = client.produce_bytes("full", 1, batch.bytes())?;
    producer.sequence += 1;
    Ok(offset)
}

fn create(client: &mut Client, topic: &str) -> Option<ResponseError> {
    let topic = CreatableTopic::default()
        .with_name(topic_name(topic))
        .with_num_partitions(2)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    ResponseError::try_from_code(client.bootstrap().call(5, &request).topics[0].error_code)
}

/// It has its name before it has its blocks.
fn has_spare(partition: &Path) -> bool {
    let mut files = std::fs::read_dir(partition).expect("the partition has its directory");
    files.any(|entry| {
        let entry = entry.expect("it can be listed");
        let is_spare = entry.path().extension().is_some_and(|end| end == "spare");
        is_spare && entry.metadata().is_ok_and(|found| found.blocks() > 0)
    })
}
