//! The broker as a process, in plain protocol: what it answers, what it refuses, and what is left after
//! it was stopped or killed.
//!
//! Clients of the real world are in `tests/clients`.
#![expect(clippy::disallowed_methods, reason = "tests read files and the clock")]

mod admin;
mod administration;
mod balancing;
mod cluster_transactions;
mod clusters;
mod compaction;
mod connections;
mod consumer_groups;
mod coordination;
mod cores;
mod damaged;
mod deletion;
mod durability;
mod elections;
mod failed_disks;
mod fetching;
mod files;
mod full_disk;
mod groups;
mod host;
mod journal;
mod lifecycle;
mod log_dirs;
mod many_partitions;
mod nearest_replica;
mod offsets;
mod ownership;
mod quotas;
mod reassignment;
mod recompression;
mod refusals;
mod replication;
mod routing;
mod start_stop;
mod survival;
mod telemetry;
mod throttling;
mod transactions;
mod versions;

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, as records are stamped.
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
    i64::try_from(now.as_millis()).expect("it is before the year 292 million")
}
