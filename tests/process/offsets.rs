//! ListOffsets: by time across restarts and lost index files, at and below the log start.

use std::path::Path;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::DeleteRecordsRequest;
use odradek_test_harness::kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use odradek_test_harness::{Batch, Broker, Client, Routing, topic_name};

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
const MAX_TIMESTAMP: i64 = -3;

/// Timestamp of the record at an offset.
fn time(offset: i64) -> i64 {
    1_700_000_000_000 + offset * 1000
}

/// One partition over several segments, one record a batch.
fn fill(client: &mut Client, topic: &str, count: i64) {
    client.create_topic(topic, 2, &[("segment.bytes", "65536"), ("retention.ms", "-1")]);
    for offset in 0..count {
        assert_eq!(client.produce(topic, 1, &Batch::of(&[vec![1; 10_000]], time(offset))), offset);
    }
}

#[test]
fn offsets_by_time_are_right_after_index_files_were_lost() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        fill(&mut client, "indexed", 40);
        for is_clean in [true, false] {
            if is_clean {
                broker.stop()
            } else {
                broker.kill()
            }
            assert!(remove_files(&broker.data_dir(), "indexed-1", ".timeindex") >= 5);
            broker.start_again();
            let mut client = Client::connect(&broker);
            for offset in [0, 7, 20, 39] {
                assert_eq!(client.list_offset("indexed", 1, time(offset)), offset, "{routing:?}");
                assert_eq!(client.list_offset("indexed", 1, time(offset) - 1), offset);
            }
            assert_eq!(client.list_offset("indexed", 1, time(40)), -1, "later than every record");
            assert_eq!(client.list_offset("indexed", 1, MAX_TIMESTAMP), 39);
            let log = broker.log();
            assert!(log.contains("they are built again from its batches"), "{log}");
        }
        broker.stop();
    }
}

#[test]
fn offsets_start_where_the_records_do_after_a_deletion() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        fill(&mut client, "trimmed", 20);
        // Inside a segment, whose first records stay on disk.
        assert_eq!(delete_before(&mut client, "trimmed", 9), Ok(9));
        for start in 0..3 {
            let mut client = Client::connect(&broker);
            assert_eq!(client.list_offset("trimmed", 1, EARLIEST), 9);
            assert_eq!(client.list_offset("trimmed", 1, LATEST), 20);
            for wanted in [0, time(0), time(3), time(9) - 1, time(9)] {
                assert_eq!(client.list_offset("trimmed", 1, wanted), 9, "{wanted} in start {start}");
            }
            assert_eq!(client.list_offset("trimmed", 1, time(10)), 10);
            assert_eq!(client.list_offset("trimmed", 1, MAX_TIMESTAMP), 19);
            assert_eq!(delete_before(&mut client, "trimmed", 5), Ok(9), "never moves back");
            match start {
                0 => broker.kill(),
                _ => broker.stop(),
            }
            broker.start_again();
        }
        // Nothing is left: there is no record for any time.
        let mut client = Client::connect(&broker);
        assert_eq!(delete_before(&mut client, "trimmed", -1), Ok(20));
        assert_eq!(delete_before(&mut client, "trimmed", 21), Err(ResponseError::OffsetOutOfRange));
        assert_eq!(client.list_offset("trimmed", 1, EARLIEST), 20);
        assert_eq!(client.list_offset("trimmed", 1, LATEST), 20);
        assert_eq!(client.list_offset("trimmed", 1, time(3)), -1);
        broker.stop();
    }
}

/// The new log start.
fn delete_before(client: &mut Client, topic: &str, offset: i64) -> Result<i64, ResponseError> {
    let partition = DeleteRecordsPartition::default().with_partition_index(1).with_offset(offset);
    let topics =
        vec![DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition])];
    let request = DeleteRecordsRequest::default().with_timeout_ms(10_000).with_topics(topics);
    let response = client.to_leader(topic, 1).call(1, &request);
    let answer = &response.topics[0].partitions[0];
    ResponseError::try_from_code(answer.error_code).map_or(Ok(answer.low_watermark), Err)
}

/// Removes files of a partition, and says how many.
fn remove_files(data_dir: &Path, partition: &str, suffix: &str) -> usize {
    let files = std::fs::read_dir(data_dir.join(partition)).expect("the partition has its directory");
    let files = files.map(|entry| entry.expect("it can be listed").path());
    let wanted = files.filter(|path| path.to_string_lossy().ends_with(suffix));
    wanted.inspect(|path| std::fs::remove_file(path).expect("it can be removed")).count()
}
