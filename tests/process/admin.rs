//! The admin port.

use std::time::Duration;

use odradek_test_harness::kafka_protocol::messages::FetchRequest;
use odradek_test_harness::{Batch, Broker, Client, Connection, Routing, records_of, wait_for};

use crate::now_ms;

#[test]
fn health_is_ok_while_serving() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let (status, body) = broker.admin_get("/healthz");
        assert_eq!((status, body.trim_end()), (200, "ok"));
        assert_eq!(broker.admin_get("/nothing-here").0, 404);
    }
}

#[test]
fn metrics_count_what_was_done_per_shard() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("counted", 2, &[]);
        for partition in 0..2 {
            for _ in 0..10 {
                client.produce("counted", partition, &Batch::of(&[vec![1; 1000]], now_ms()));
            }
        }
        let produced = wait_for("twenty produce requests in the metrics", || {
            let (status, text) = broker.admin_get("/metrics");
            assert_eq!(status, 200);
            (sum(&text, "odradek_requests_total", "api=\"Produce\"") >= 20.0).then_some(text)
        });
        for shard in ["shard=\"0\"", "shard=\"1\""] {
            assert!(produced.contains(shard), "{shard} is missing in\n{produced}");
        }
        assert!(produced.trim_end().ends_with("# EOF"), "it is complete");
    }
}

/// A fetch that looks, waits and looks again has sent its batches once; after a restart they come from
/// disk.
#[test]
fn what_is_sent_to_consumers_is_counted_once_and_by_where_it_was() {
    const BATCHES: usize = 5;
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("read", 2, &[]);
        let batch = Batch::of(&[vec![1; 1000]], now_ms());
        let size = batch.bytes().len() as f64;
        for partition in 0..2 {
            let (_, port) = client.leader("read", partition);
            let mut waiting = Connection::open(port);
            let request = Client::fetch_request("read", partition, 0)
                .with_max_wait_ms(20_000)
                .with_min_bytes(BATCHES as i32 * 1000);
            waiting.send(Client::FETCH_VERSION, &request).expect("the broker reads");
            for _ in 0..BATCHES {
                client.produce("read", partition, &batch);
            }
            waiting.receive::<FetchRequest>(Client::FETCH_VERSION).expect("it is answered");
        }
        let fetched = |broker: &Broker| {
            let text = broker.admin_get("/metrics").1;
            ["batches", "bytes", "disk_bytes"]
                .map(|what| sum(&text, &format!("odradek_fetched_{what}_total"), "shard"))
        };
        let count = 2.0 * BATCHES as f64;
        assert_eq!(fetched(&broker), [count, count * size, 0.0]);
        drop(client);
        broker.stop();
        broker.start_again();
        let mut client = Client::connect(&broker);
        for partition in 0..2 {
            assert_eq!(records_of(&client.fetch("read", partition, 0)).len(), BATCHES);
        }
        assert_eq!(fetched(&broker), [count, count * size, count * size]);
    }
}

#[test]
fn failed_connections_messages_and_the_longest_step_are_counted() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("hops", 2, &[]);
    for partition in 0..2 {
        client.produce("hops", partition, &Batch::of(&["x"], now_ms()));
    }
    let failed = || sum(&broker.admin_get("/metrics").1, "odradek_connections_failed_total", "shard");
    assert_eq!(failed(), 0.0);
    for _ in 0..3 {
        let mut connection = Connection::open(broker.port());
        connection.send_bytes(b"GET / HTTP/1.1\r\n\r\n").expect("the broker reads");
        assert!(connection.is_closed_within(Duration::from_secs(10)));
        drop(Connection::open(broker.port())); // Leaves without a fault.
    }
    wait_for("three failed connections", || (failed() >= 3.0).then_some(()));
    let text = broker.admin_get("/metrics").1;
    assert_eq!(failed(), 3.0);
    assert_eq!(broker.log().matches("connection closed").count(), 3);
    for shard in ["shard=\"0\"", "shard=\"1\""] {
        let step = sum(&text, "odradek_stall_max_seconds", shard);
        assert!(step > 0.0 && step < 10.0, "{step} s");
        let recorded = sum(&text, "odradek_step_seconds_count", shard);
        assert!(recorded > 0.0 || step < 0.0001, "{recorded} steps, the longest of {step} s");
        // Metadata changes go from shard 0 to the other, their answers come back.
        assert!(sum(&text, "odradek_mesh_messages_sent_total", shard) > 0.0);
    }
}

/// Of every series of that name with that label.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let series = text.lines().filter(|line| line.split('{').next() == Some(name) && line.contains(label));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
