//! What goes away on purpose: by DeleteRecords, by retention, with its topic.

use std::path::Path;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use odradek_test_harness::kafka_protocol::messages::{DeleteRecordsRequest, DeleteTopicsRequest};
use odradek_test_harness::{Batch, Broker, Client, Options, Routing, topic_name, wait_for};

use crate::now_ms;

fn quick_background(routing: Routing) -> Options {
    Options::new(routing)
        .set("log.retention.check.interval.ms", "100")
        .set("log.segment.delete.delay.ms", "100")
}

#[test]
fn deleted_records_stay_deleted() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("trimmed", 2, &[]);
        for number in 0..10 {
            client.produce("trimmed", 1, &Batch::of(&[format!("value {number}")], now_ms()));
        }
        let delete = |client: &mut Client, offset: i64| {
            let topic = DeleteRecordsTopic::default().with_name(topic_name("trimmed")).with_partitions(vec![
                DeleteRecordsPartition::default().with_partition_index(1).with_offset(offset),
            ]);
            let request = DeleteRecordsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
            let response = client.to_leader("trimmed", 1).call(1, &request);
            let answer = &response.topics[0].partitions[0];
            (ResponseError::try_from_code(answer.error_code), answer.low_watermark)
        };
        assert_eq!(delete(&mut client, 4), (None, 4));
        assert_eq!(delete(&mut client, 11).0, Some(ResponseError::OffsetOutOfRange));
        let check = |client: &mut Client, start: i64| {
            assert_eq!(client.list_offset("trimmed", 1, -2), start);
            let offsets: Vec<i64> =
                client.read_all("trimmed", 1).iter().map(|record| record.offset).collect();
            assert_eq!(offsets, (start..10).collect::<Vec<_>>());
            let below = client.fetch("trimmed", 1, start - 1);
            assert_eq!(ResponseError::try_from_code(below.error_code), Some(ResponseError::OffsetOutOfRange));
        };
        check(&mut client, 4);
        broker.kill();
        broker.start_again();
        let mut client = Client::connect(&broker);
        check(&mut client, 4);
        assert_eq!(delete(&mut client, 6), (None, 6));
        broker.stop();
        broker.start_again();
        let mut client = Client::connect(&broker);
        check(&mut client, 6);
        assert_eq!(delete(&mut client, -1), (None, 10), "-1: everything");
    }
}

#[test]
fn retention_by_size_deletes_whole_old_segments() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(quick_background(routing));
        let mut client = Client::connect(&broker);
        let settings = [("segment.bytes", "65536"), ("retention.bytes", "200000")];
        client.create_topic("sized", 2, &settings);
        for _ in 0..100 {
            client.produce("sized", 1, &Batch::of(&[vec![1; 10_000]], now_ms()));
        }
        // Kafka keeps at least the limit and less than a segment more.
        let start = wait_for("retention by size", || {
            let start = client.list_offset("sized", 1, -2);
            (100 - start <= 27).then_some(start)
        });
        assert!(100 - start >= 19, "only {} records are left", 100 - start);
        let read = client.read_all("sized", 1);
        assert_eq!(read.len() as i64, 100 - start);
        wait_for("the files' end", || (segments(&broker.data_dir(), "sized-1") <= 5).then_some(()));
        broker.kill();
        broker.start_again();
        assert_eq!(Client::connect(&broker).list_offset("sized", 1, -2), start);
        broker.stop();
    }
}

#[test]
fn retention_by_time_deletes_what_is_old() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(quick_background(routing));
        let mut client = Client::connect(&broker);
        client.create_topic("timed", 2, &[("segment.bytes", "65536"), ("retention.ms", "600000")]);
        let old = now_ms() - 3_600_000;
        for _ in 0..20 {
            client.produce("timed", 1, &Batch::of(&[vec![1; 10_000]], old));
        }
        for _ in 0..10 {
            client.produce("timed", 1, &Batch::of(&[vec![2; 10_000]], now_ms()));
        }
        // A segment goes when its newest record is old: one may hold both.
        let start = wait_for("retention by time", || {
            let start = client.list_offset("timed", 1, -2);
            (start > 12).then_some(start)
        });
        assert!(start <= 20, "new records are kept, the log starts at {start}");
        broker.stop();
    }
}

#[test]
fn deleted_topic_leaves_nothing_behind() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(quick_background(routing));
        let mut client = Client::connect(&broker);
        client.create_topic("gone", 3, &[]);
        for partition in 0..3 {
            client.produce("gone", partition, &Batch::of(&["old"], now_ms()));
        }
        let id = client.metadata(&["gone"]).topics[0].clone();
        let request =
            DeleteTopicsRequest::default().with_timeout_ms(10_000).with_topic_names(vec![topic_name("gone")]);
        let response = client.bootstrap().call(4, &request);
        assert_eq!(response.responses[0].error_code, 0);
        let unknown = client.metadata(&["gone"]).topics[0].error_code;
        assert_eq!(ResponseError::try_from_code(unknown), Some(ResponseError::UnknownTopicOrPartition));
        wait_for("the files' end", || (segments(&broker.data_dir(), "gone-") == 0).then_some(()));

        // A topic of the same name is another one.
        client.create_topic("gone", 3, &[]);
        assert_ne!(client.metadata(&["gone"]).topics[0], id);
        assert_eq!(client.list_offset("gone", 1, -1), 0);
        assert_eq!(client.produce("gone", 1, &Batch::of(&["new"], now_ms())), 0);
        broker.kill();
        broker.start_again();
        let read = Client::connect(&broker).read_all("gone", 1);
        assert_eq!(read.iter().map(|record| &record.value[..]).collect::<Vec<_>>(), [b"new"]);
        broker.stop();
    }
}

/// Segment files below directories whose name starts like that.
fn segments(directory: &Path, partition: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let entries: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    let ours = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(partition));
    let here = entries.iter().filter(|path| ours && path.extension().is_some_and(|end| end == "log")).count();
    here + entries.iter().filter(|path| path.is_dir()).map(|path| segments(path, partition)).sum::<usize>()
}
