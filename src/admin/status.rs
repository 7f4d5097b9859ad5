//! The state of the broker in JSON, for scripts and people.

use serde_json::{Value, json};

use super::server::Unhealthy;
use crate::metrics::names::api_name;
use crate::metrics::{Histogram, LogDirSnapshot, MemoryKind, ShardSnapshot};

pub fn json(snapshots: &Result<Vec<ShardSnapshot>, Unhealthy>) -> String {
    let status = match snapshots {
        Ok(snapshots) => json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": "serving",
            "shards": snapshots.iter().map(shard).collect::<Vec<_>>(),
        }),
        Err(reason) => json!({ "version": env!("CARGO_PKG_VERSION"), "state": reason.to_string() }),
    };
    format!("{status:#}\n")
}

fn shard(snapshot: &ShardSnapshot) -> Value {
    let metrics = &snapshot.metrics;
    let memory: serde_json::Map<_, _> = MemoryKind::ALL
        .iter()
        .map(|&kind| (kind.name().to_string(), metrics.memory_bytes(kind).into()))
        .collect();
    let requests: serde_json::Map<_, _> =
        metrics.requests().map(|(api_key, request)| (api_name(api_key), request.count.into())).collect();
    json!({
        "shard": snapshot.shard.0,
        "log_dirs": snapshot.log_dirs.iter().map(log_dir).collect::<Vec<_>>(),
        "partitions": metrics.partitions,
        "partitions_offline": metrics.partitions_offline,
        "connections_open": metrics.connections_open,
        "fetches_parked": metrics.fetches_parked,
        "produced_records": metrics.produced_records,
        "produced_bytes": metrics.produced_bytes,
        "fetched_bytes": metrics.fetched_bytes,
        "requests": requests,
        "memory_bytes": memory,
        "memory_budget_bytes": metrics.memory_budget_bytes,
        "commit_latency_us": percentiles(&metrics.commit_latency_us),
        "flush_latency_us": percentiles(&metrics.flush_latency_us),
        "stall_us_max": metrics.stall_us_max,
    })
}

fn log_dir(dir: &LogDirSnapshot) -> Value {
    json!({ "path": dir.path, "partitions": dir.partitions, "offline": dir.offline })
}

fn percentiles(histogram: &Histogram) -> Value {
    json!({
        "count": histogram.count(),
        "p50": histogram.quantile(0.5),
        "p99": histogram.quantile(0.99),
        "p99_9": histogram.quantile(0.999),
        "max": histogram.max(),
    })
}
