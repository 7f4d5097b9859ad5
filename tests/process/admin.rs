//! The admin port.

use odradek_test_harness::{Batch, Broker, Client, Routing, wait_for};

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

/// Of every series of that name with that label.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let series = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
