//! Fetch and ListOffsets: bounds, waiting, incremental sessions (KIP-227), offsets by time.

use std::time::{Duration, Instant};

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::fetch_request::{
    FetchPartition, FetchTopic, ForgottenTopic,
};
use odradek_test_harness::kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, OffsetForLeaderEpochRequest,
    offset_for_leader_epoch_request,
};
use odradek_test_harness::{Batch, Broker, Client, Connection, Options, Routing, records_of, topic_name};

use crate::now_ms;

const LONG_WAIT: Duration = Duration::from_secs(20);

/// Batches that say they are compressed and are not: whatever looked into one would fail.
#[test]
fn a_fetch_never_decompresses() {
    let mut broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("sealed", 1, &[]);
    let batches: Vec<_> = (1..=4)
        .map(|codec| Batch::of(&vec!["x".repeat(1000); 50], now_ms()).claiming_codec(codec).bytes())
        .collect();
    for (at, batch) in batches.iter().enumerate() {
        assert_eq!(client.produce_bytes("sealed", 0, batch.clone()), Ok(50 * at as i64));
    }
    // From memory, and after a restart from disk. All but base offset, length and leader epoch is under
    // the checksum, and as it was sent.
    for restarted in [false, true] {
        if restarted {
            broker.stop();
            broker.start_again();
            client = Client::connect(&broker);
        }
        let fetched = client.fetch("sealed", 0, 0);
        let stored = fetched.records.expect("records");
        let mut at = 0;
        for batch in &batches {
            assert_eq!(stored[at + 16..at + batch.len()], batch[16..], "restarted {restarted}");
            at += batch.len();
        }
        assert_eq!(stored.len(), at);
    }
    broker.stop();
}

#[test]
fn empty_fetch_waits_as_long_as_it_says() {
    const WAIT: Duration = Duration::from_millis(300);
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("empty", 2, &[]);
        for partition in 0..2 {
            let request =
                Client::fetch_request("empty", partition, 0).with_max_wait_ms(WAIT.as_millis() as i32);
            let connection = client.to_leader("empty", partition);
            let start = Instant::now();
            let response = connection.call(Client::FETCH_VERSION, &request);
            let waited = start.elapsed();
            assert!(waited >= WAIT, "answered after {waited:?}");
            assert!(waited < LONG_WAIT, "answered after {waited:?}");
            assert_eq!(response.responses[0].partitions[0].high_watermark, 0);
        }
    }
}

#[test]
fn waiting_fetch_is_answered_by_a_produce() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("tail", 2, &[]);
        for partition in 0..2 {
            let (_, port) = client.leader("tail", partition);
            let mut waiting = Connection::open(port);
            let request =
                Client::fetch_request("tail", partition, 0).with_max_wait_ms(LONG_WAIT.as_millis() as i32);
            let start = Instant::now();
            waiting.send(Client::FETCH_VERSION, &request).expect("the broker reads");
            client.produce("tail", partition, &Batch::of(&["awaited"], now_ms()));
            let response = waiting.receive::<FetchRequest>(Client::FETCH_VERSION).expect("it is answered");
            assert!(start.elapsed() < LONG_WAIT / 2, "woken by the produce, not by its deadline");
            assert_eq!(records_of(&response.responses[0].partitions[0])[0].value, "awaited");
        }
    }
}

#[test]
fn fetch_waits_for_its_minimum_of_bytes() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("minimum", 2, &[]);
    for partition in 0..2 {
        let mut waiting = Connection::open(broker.port());
        let request = Client::fetch_request("minimum", partition, 0)
            .with_max_wait_ms(LONG_WAIT.as_millis() as i32)
            .with_min_bytes(5_000);
        waiting.send(Client::FETCH_VERSION, &request).expect("the broker reads");
        for _ in 0..5 {
            client.produce("minimum", partition, &Batch::of(&[vec![1; 1_000]], now_ms()));
        }
        let response = waiting.receive::<FetchRequest>(Client::FETCH_VERSION).expect("it is answered");
        let bytes = response.responses[0].partitions[0].records.as_ref().map_or(0, |records| records.len());
        assert!(bytes >= 5_000, "answered with {bytes} bytes");
    }
}

#[test]
fn fetch_keeps_its_bounds_but_always_brings_one_batch() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("bounded", 2, &[]);
        for partition in 0..2 {
            for _ in 0..10 {
                client.produce("bounded", partition, &Batch::of(&[vec![1; 10_000]], now_ms()));
            }
            let count = |client: &mut Client, bytes_max: i32, partition_bytes_max: i32| {
                let mut request = Client::fetch_request("bounded", partition, 0).with_max_bytes(bytes_max);
                request.topics[0].partitions[0].partition_max_bytes = partition_bytes_max;
                let response = client.to_leader("bounded", partition).call(Client::FETCH_VERSION, &request);
                records_of(&response.responses[0].partitions[0]).len()
            };
            assert_eq!(count(&mut client, 16 << 20, 16 << 20), 10);
            assert_eq!(count(&mut client, 16 << 20, 35_000), 3, "bound of the partition");
            assert_eq!(count(&mut client, 35_000, 16 << 20), 3, "bound of the answer");
            assert_eq!(count(&mut client, 1, 1), 1, "a batch larger than every bound is still read");
        }
    }
}

#[test]
fn offset_beyond_the_log_is_out_of_range() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("short", 1, &[]);
    client.produce("short", 0, &Batch::of(&["a", "b"], now_ms()));
    for (offset, error) in [
        (2, None),
        (3, Some(ResponseError::OffsetOutOfRange)),
        (i64::MAX, Some(ResponseError::OffsetOutOfRange)),
    ] {
        let data = client.fetch("short", 0, offset);
        assert_eq!(ResponseError::try_from_code(data.error_code), error, "offset {offset}");
    }
}

#[test]
fn offsets_are_found_by_time() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(Options::new(routing).set("log.segment.bytes", "65536"));
        let mut client = Client::connect(&broker);
        client.create_topic("times", 2, &[]);
        let start = now_ms() - 1_000_000;
        // Over several segments: 100 batches of some 4 KB, a second apart.
        for number in 0..100 {
            client.produce("times", 1, &Batch::of(&[vec![0; 2_000], vec![1; 2_000]], start + number * 1_000));
        }
        let check = |client: &mut Client| {
            assert_eq!(client.list_offset("times", 1, -2), 0, "earliest");
            assert_eq!(client.list_offset("times", 1, -1), 200, "latest");
            assert_eq!(client.list_offset("times", 1, start - 5), 0, "before the first");
            assert_eq!(client.list_offset("times", 1, start + 50_000), 100, "the very time of one");
            assert_eq!(client.list_offset("times", 1, start + 49_001), 100, "between two");
            assert_eq!(client.list_offset("times", 1, start + 99_000), 198, "the last");
            assert_eq!(client.list_offset("times", 1, start + 99_001), -1, "after the last");
            assert_eq!(client.list_offset("times", 0, start), -1, "an empty partition");
            // Every record of the last batch has the largest timestamp; the first of them is found.
            let newest = client.list_offset("times", 1, -3);
            assert!((198..200).contains(&newest), "largest timestamp at {newest}");
        };
        check(&mut client);
        broker.stop();
        broker.start_again();
        check(&mut Client::connect(&broker));
        broker.kill();
        broker.start_again();
        check(&mut Client::connect(&broker));
    }
}

#[test]
fn end_of_the_leaders_epoch_is_the_end_of_the_log() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("epochs", 2, &[]);
        client.produce("epochs", 1, &Batch::of(&["a", "b", "c"], now_ms()));
        let epoch = client.metadata(&["epochs"]).topics[0]
            .partitions
            .iter()
            .find(|p| p.partition_index == 1)
            .map(|p| p.leader_epoch);
        let epoch = epoch.expect("partition 1 is there");
        let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
            .with_topic(topic_name("epochs"))
            .with_partitions(vec![
                offset_for_leader_epoch_request::OffsetForLeaderPartition::default()
                    .with_partition(1)
                    .with_current_leader_epoch(epoch)
                    .with_leader_epoch(epoch),
            ]);
        let request =
            OffsetForLeaderEpochRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
        let response = client.to_leader("epochs", 1).call(3, &request);
        let answer = &response.topics[0].partitions[0];
        assert_eq!((answer.error_code, answer.leader_epoch, answer.end_offset), (0, epoch, 3));
    }
}

/// Partitions of one answer: topic-partition and how many records.
fn shown(response: &FetchResponse) -> Vec<(i32, usize)> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|data| (data.partition_index, records_of(data).len())).collect()
}

fn session_request(session_id: i32, epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
    let partitions: Vec<FetchPartition> = partitions
        .iter()
        .map(|(partition, offset)| {
            FetchPartition::default()
                .with_partition(*partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(*offset)
                .with_partition_max_bytes(1 << 20)
        })
        .collect();
    let topics = if partitions.is_empty() {
        Vec::new()
    } else {
        vec![FetchTopic::default().with_topic(topic_name("session")).with_partitions(partitions)]
    };
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(16 << 20)
        .with_session_id(session_id)
        .with_session_epoch(epoch)
        .with_topics(topics)
}

/// One connection to a node whose partitions lie on both cores.
#[test]
fn incremental_sessions_show_only_what_changed() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("session", 4, &[]);
    let mut connection = Connection::open(broker.port());
    let mut fetch = |request: &FetchRequest| connection.call(Client::FETCH_VERSION, request);

    let all: Vec<(i32, i64)> = (0..4).map(|partition| (partition, 0)).collect();
    let first = fetch(&session_request(0, 0, &all));
    assert_eq!(first.error_code, 0);
    assert_ne!(first.session_id, 0, "a session was made");
    let mut first_shown = shown(&first);
    first_shown.sort_unstable();
    assert_eq!(first_shown, [(0, 0), (1, 0), (2, 0), (3, 0)], "a full fetch shows every partition");
    let id = first.session_id;

    assert_eq!(shown(&fetch(&session_request(id, 1, &[]))), [], "nothing has changed");
    client.produce("session", 2, &Batch::of(&["a", "b"], now_ms()));
    assert_eq!(shown(&fetch(&session_request(id, 2, &[]))), [(2, 2)]);
    // The client moves on in that partition, and the session remembers where.
    assert_eq!(shown(&fetch(&session_request(id, 3, &[(2, 2)]))), []);
    client.produce("session", 1, &Batch::of(&["c"], now_ms()));
    client.produce("session", 2, &Batch::of(&["d"], now_ms()));
    let mut both = shown(&fetch(&session_request(id, 4, &[])));
    both.sort_unstable();
    assert_eq!(both, [(1, 1), (2, 1)]);
    // A partition that was forgotten is not shown any more.
    let forgotten = ForgottenTopic::default().with_topic(topic_name("session")).with_partitions(vec![1]);
    let forget = session_request(id, 5, &[(2, 3)]).with_forgotten_topics_data(vec![forgotten]);
    assert_eq!(shown(&fetch(&forget)), []);
    client.produce("session", 1, &Batch::of(&["e"], now_ms()));
    assert_eq!(shown(&fetch(&session_request(id, 6, &[]))), []);

    let wrong_epoch = fetch(&session_request(id, 9, &[]));
    assert_eq!(
        ResponseError::try_from_code(wrong_epoch.error_code),
        Some(ResponseError::InvalidFetchSessionEpoch)
    );
    let unknown = fetch(&session_request(id.wrapping_add(1), 1, &[]));
    assert_eq!(ResponseError::try_from_code(unknown.error_code), Some(ResponseError::FetchSessionIdNotFound));
}

/// One request, partitions of both cores and one that is not there, in no order.
#[test]
fn each_partition_of_a_request_gets_its_own_answer_whichever_core_owns_it() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("mixed", 4, &[]);
    for partition in 0..4 {
        let records: Vec<&str> = (0..=partition).map(|_| "x").collect();
        client.produce("mixed", partition, &Batch::of(&records, now_ms()));
    }
    const ORDER: [i32; 5] = [2, 0, 9, 3, 1];
    const LATEST: i64 = -1;
    let partitions = ORDER.map(|partition| {
        ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(LATEST)
    });
    let topic =
        ListOffsetsTopic::default().with_name(topic_name("mixed")).with_partitions(partitions.to_vec());
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let response = client.bootstrap().call(5, &request);
    let answers = &response.topics[0].partitions;
    let answers: Vec<(i32, i64)> =
        answers.iter().map(|answer| (answer.partition_index, answer.offset)).collect();
    assert_eq!(answers, [(2, 3), (0, 1), (9, -1), (3, 4), (1, 2)]);
}
