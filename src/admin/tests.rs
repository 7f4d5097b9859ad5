//! The admin plane as a scraper and a load balancer see it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::metrics::clients::{ClientMetrics, ClientSeries, ClientSnapshot};
use crate::metrics::recovery::RecoveryBranch;
use crate::metrics::{
    LogDirSnapshot, MemoryKind, ShardMetrics, ShardSnapshot, SnapshotError, SnapshotSource,
};
use crate::types::ShardId;

#[test]
fn health_follows_the_brokers_state() {
    let admin = start(&any_port()).expect("a free port");
    assert_eq!(get(&admin, "/healthz"), (503, "starting\n".to_string()));
    assert!(get(&admin, "/metrics").1.contains("odradek_up 0\n"));

    admin.serving(serving(|_| None));
    assert_eq!(get(&admin, "/healthz"), (200, "ok\n".to_string()));
    assert!(get(&admin, "/v1/status").1.contains("\"state\": \"serving\""));

    let failed = |_: u16| Some("fdatasync: input/output error".to_string());
    admin.serving(serving(failed));
    let line = "log directory offline: /disk0: fdatasync: input/output error\n";
    assert_eq!(get(&admin, "/healthz"), (503, line.to_string()));
    admin.serving(sources(shards_with(&["/disk0", "/disk1"], |shard| {
        (shard == 1).then(|| "fdatasync: input/output error".to_string())
    })));
    assert_eq!(get(&admin, "/healthz"), (200, format!("ok\n{line}")), "the other one is served");
    let text = get(&admin, "/metrics").1;
    assert!(text.contains("odradek_log_dir_offline{shard=\"1\",dir=\"/disk0\"} 1\n"), "{text}");
    assert!(text.contains("odradek_log_dir_offline{shard=\"1\",dir=\"/disk1\"} 0\n"), "{text}");
    assert!(text.contains("odradek_log_dir_partitions{shard=\"0\",dir=\"/disk1\"} 3\n"), "{text}");
    assert!(get(&admin, "/v1/status").1.contains("\"path\": \"/disk1\""));

    admin.serving(sources(Arc::new(|| Box::pin(async { Err(SnapshotError { shard: ShardId(1) }) }))));
    assert_eq!(get(&admin, "/healthz"), (503, "shard 1 does not answer\n".to_string()));

    admin.stopping();
    assert_eq!(get(&admin, "/healthz"), (503, "stopping\n".to_string()));
    let address = admin.address();
    admin.stop();
    assert!(TcpStream::connect(address).is_err(), "the port is closed");
}

#[test]
fn shards_that_never_answer_are_unhealthy_and_do_not_hold_up_the_end() {
    let admin = start(&any_port()).expect("a free port");
    admin.serving(sources(Arc::new(|| Box::pin(std::future::pending()))));
    assert_eq!(get(&admin, "/healthz"), (503, "the shards do not answer within 2 s\n".to_string()));
    let mut open = connect(&admin);
    open.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    admin.stop();
}

#[test]
fn every_series_names_its_shard_and_histograms_are_cumulative() {
    let admin = start(&any_port()).expect("a free port");
    admin.serving(serving(|_| None));
    let (status, text) = get(&admin, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "odradek_up 1\n",
        "odradek_requests_total{shard=\"0\",api=\"Produce\"} 2\n",
        "odradek_requests_total{shard=\"1\",api=\"other\"} 1\n",
        "odradek_request_bytes_total{shard=\"0\",api=\"Produce\"} 300\n",
        "odradek_errors_total{shard=\"0\",api=\"Produce\",error=\"NOT_LEADER_OR_FOLLOWER\"} 1\n",
        "odradek_memory_bytes{shard=\"1\",kind=\"tail\"} 4096\n",
        "odradek_recovery_total{shard=\"0\",branch=\"torn_tail_cut\"} 1\n",
        "odradek_recovery_total{shard=\"1\",branch=\"torn_tail_cut\"} 0\n",
        "odradek_produced_records_total{shard=\"0\"} 10\n",
        "odradek_flush_latency_seconds_bucket{le=\"0.0001\",shard=\"0\"} 0\n",
        "odradek_flush_latency_seconds_bucket{le=\"0.0002\",shard=\"0\"} 1\n",
        "odradek_flush_latency_seconds_bucket{le=\"5.0\",shard=\"0\"} 2\n",
        "odradek_flush_latency_seconds_bucket{le=\"+Inf\",shard=\"0\"} 3\n",
        "odradek_flush_latency_seconds_count{shard=\"0\"} 3\n",
        "odradek_flush_latency_seconds_sum{shard=\"0\"} 10.0032\n",
        "# TYPE odradek_commit_size_bytes histogram\n",
    ] {
        assert!(text.contains(line), "{line} is missing from\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_taken_port_is_an_error_of_the_start() {
    let first = start(&any_port()).expect("a free port");
    let taken = HostPort { host: "127.0.0.1".to_string(), port: first.address().port() };
    let error = start(&taken).err().expect("taken").to_string();
    assert!(error.contains("choose another --admin-listen"), "{error}");
}

fn any_port() -> HostPort {
    HostPort { host: "127.0.0.1".to_string(), port: 0 }
}

#[test]
fn clients_are_listed_and_what_they_measure() {
    let admin = start(&any_port()).expect("a free port");
    assert_eq!(get(&admin, "/v1/clients"), (503, "starting\n".to_string()));
    admin.serving(serving(|_| None));
    let (status, text) = get(&admin, "/v1/clients");
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, found["clients"].as_array().map(Vec::len)), (200, Some(1)));
    let client = &found["clients"][0];
    assert_eq!(client["address"], "127.0.0.1:4711");
    assert_eq!((&client["client_id"], &client["requests"]), (&"app".into(), &3.into()));
    assert_eq!(client["software_version"], serde_json::Value::Null);
    let (status, text) = get(&admin, "/v1/clients/127.0.0.1:4711");
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status, 200);
    let series = &found["instances"][0]["metrics"][0];
    assert_eq!((&series["name"], &series["value"]), (&"m".into(), &1.5.into()));
    assert_eq!(series["attributes"]["node_id"], "1");
    assert_eq!(get(&admin, "/v1/clients/nobody").0, 400);
}

/// The admin plane with these shards and one client.
fn sources(snapshots: SnapshotSource) -> Sources {
    let client = ClientSnapshot {
        shard: ShardId(0),
        connection: 1,
        address: "127.0.0.1:4711".parse().expect("an address"),
        client_id: Some("app".to_string()),
        software_name: Some("a-client".to_string()),
        software_version: None,
        connected: Duration::from_secs(5),
        requests: 3,
        bytes_in: 100,
        bytes_out: 200,
    };
    let series = ClientSeries {
        name: "m".to_string(),
        attributes: vec![("node_id".to_string(), "1".to_string())],
        value: 1.5,
    };
    let interval = Duration::from_secs(1);
    let measured = ClientMetrics { instance: "id".to_string(), pushes: 1, interval, series: vec![series] };
    Sources {
        snapshots,
        clients: Arc::new(move || {
            let client = client.clone();
            Box::pin(async move { Ok(vec![client]) })
        }),
        client_metrics: Arc::new(move |_| {
            let measured = measured.clone();
            Box::pin(async move { Ok(vec![measured]) })
        }),
    }
}

fn serving(offline: fn(u16) -> Option<String>) -> Sources {
    sources(shards(offline))
}

/// Two shards; `offline` says why a shard's log directory is.
fn shards(offline: fn(u16) -> Option<String>) -> SnapshotSource {
    shards_with(&["/disk0"], offline)
}

/// The same with several log directories, of which the first may be offline.
fn shards_with(paths: &'static [&'static str], offline: fn(u16) -> Option<String>) -> SnapshotSource {
    Arc::new(move || {
        let snapshots = [0, 1].map(|shard| ShardSnapshot {
            shard: ShardId(shard),
            metrics: metrics(shard),
            log_dirs: (0..)
                .zip(paths)
                .map(|(at, path)| LogDirSnapshot {
                    path: path.to_string(),
                    partitions: 3,
                    offline: offline(shard).filter(|_| at == 0),
                })
                .collect(),
        });
        Box::pin(async move { Ok(snapshots.to_vec()) })
    })
}

fn metrics(shard: u16) -> ShardMetrics {
    let mut metrics = ShardMetrics::new();
    if shard == 0 {
        metrics.request_received(0, 100);
        metrics.request_received(0, 200);
        metrics.request_answered(0, 50, Duration::from_micros(700));
        metrics.error(0, 6);
        metrics.produced_records = 10;
        metrics.recovery.count(RecoveryBranch::TornTailCut);
        for us in [200, 3_000, 10_000_000] {
            metrics.flush_latency_us.record(us);
        }
    } else {
        metrics.request_received(i16::MAX, 1);
        metrics.memory_add(MemoryKind::Tail, 4096);
    }
    metrics
}

fn connect(admin: &AdminHandle) -> TcpStream {
    let stream = TcpStream::connect(admin.address()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a valid time");
    stream
}

fn get(admin: &AdminHandle, path: &str) -> (u16, String) {
    let mut stream = connect(admin);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_string())
}
