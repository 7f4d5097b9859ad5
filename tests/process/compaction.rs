//! Compacted topics: of every key the last value is left, also after a crash.

use std::collections::BTreeMap;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::{Batch, Broker, Client, Options, ReadRecord, Routing, wait_for};

use crate::now_ms;

const RECORDS: i64 = 300;
const KEYS: i64 = 7;

#[test]
fn the_last_value_of_every_key_is_left() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(Options::new(routing).set("log.cleaner.backoff.ms", "50"));
        let mut client = Client::connect(&broker);
        let settings =
            [("cleanup.policy", "compact"), ("segment.bytes", "8192"), ("min.cleanable.dirty.ratio", "0.01")];
        client.create_topic("state", 2, &settings);
        let before = now_ms();
        for number in 0..RECORDS {
            let batch = Batch::of(&[value(number)], before + number).keyed(&[key(number)]);
            assert_eq!(client.produce("state", 1, &batch), number);
        }
        // What is left cannot get fewer: one of each key, and the segment that is written to.
        let left = wait_for("compaction", || {
            let read = client.read_all("state", 1);
            (read.len() < 100).then_some(read)
        });
        check(&left);
        let by_time = client.list_offset("state", 1, before + RECORDS / 2);
        let first = left.iter().find(|record| record.timestamp >= before + RECORDS / 2);
        assert!(by_time >= first.expect("the last ones are there").offset);
        assert!(client.read_from("state", 1, by_time).iter().all(|record| record.offset >= by_time));

        broker.kill();
        broker.start_again();
        let mut client = Client::connect(&broker);
        check(&client.read_all("state", 1));
        assert_eq!(client.list_offset("state", 1, -1), RECORDS);
        // The log goes on, and so does compaction.
        for number in RECORDS..2 * RECORDS {
            let batch = Batch::of(&[value(number)], before + number).keyed(&[key(number)]);
            assert_eq!(client.produce("state", 1, &batch), number);
        }
        wait_for("compaction", || (client.read_all("state", 1).len() < 100).then_some(()));
        check(&client.read_all("state", 1));
        broker.stop();
    }
}

#[test]
fn records_without_a_key_are_refused_where_they_could_not_be_compacted() {
    let mut broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("state", 1, &[("cleanup.policy", "compact,delete")]);
    let refused = client.produce_bytes("state", 0, Batch::of(&["x"], now_ms()).bytes());
    assert_eq!(refused, Err(ResponseError::InvalidRecord));
    // More than is looked into at once; every record is named, up to a hundred of them (KIP-467).
    let values = vec!["x".repeat(2000); 200];
    let request = Client::produce_request("state", 0, Batch::of(&values, now_ms()).bytes());
    let response = client.to_leader("state", 0).call(9, &request);
    let answer = &response.responses[0].partition_responses[0];
    assert_eq!(answer.error_code, ResponseError::InvalidRecord.code());
    let named: Vec<i32> = answer.record_errors.iter().map(|error| error.batch_index).collect();
    assert_eq!(named, (0..100).collect::<Vec<_>>());
    let message = answer.record_errors[0].batch_index_error_message.as_ref().unwrap();
    assert!(message.ends_with("message without key in topic partition state-0"), "{message}");
    assert_eq!(client.produce("state", 0, &Batch::of(&["x"], now_ms()).keyed(&["k"])), 0);
    client.create_topic("plain", 1, &[]);
    assert_eq!(client.produce("plain", 0, &Batch::of(&["x"], now_ms())), 0);
    broker.stop();
}

/// Everything read is what was written there, in order; of what is missing a newer value of the same key
/// is there.
fn check(read: &[ReadRecord]) {
    assert!(read.is_sorted_by(|one, next| one.offset < next.offset));
    let mut newest = BTreeMap::new();
    for record in read {
        assert_eq!(&record.value[..], value(record.offset).as_bytes());
        newest.insert(key(record.offset), record.offset);
    }
    let end = read.last().expect("something is left").offset + 1;
    assert!(end == RECORDS || end == 2 * RECORDS);
    for number in end - KEYS..end {
        assert_eq!(newest.get(&key(number)), Some(&number), "the last value of {}", key(number));
    }
}

fn key(number: i64) -> String {
    format!("key {}", number % KEYS)
}

fn value(number: i64) -> String {
    format!("value {number} {}", "x".repeat(100))
}
