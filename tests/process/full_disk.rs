//! A disk that is really full: what needs space is refused, everything else goes on, and all of it
//! comes back by itself.

use std::path::Path;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::CreateTopicsRequest;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::CreatableTopic;
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Options, Routing, SmallDisk, topic_name, wait_for,
};

use crate::now_ms;

/// Ten batches fill a segment to its last block: closing it gives none back.
const VALUE_SIZE: usize = 104_700;

#[test]
fn full_disk_refuses_what_needs_space_and_recovers_by_itself() {
    for routing in Routing::BOTH {
        let Some(disk) = SmallDisk::mount(96 << 20) else { return };
        let options = Options::new(routing).data_dir(disk.path().join("data"));
        let mut broker = Broker::start_with(options);
        let mut client = Client::connect(&broker);
        client.create_topic("full", 2, &[("segment.bytes", "1048576")]);
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

fn has_spare(partition: &Path) -> bool {
    let mut files = std::fs::read_dir(partition).expect("the partition has its directory");
    files.any(|entry| entry.expect("it can be listed").path().extension().is_some_and(|end| end == "spare"))
}
