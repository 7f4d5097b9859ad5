//! The named workloads.
//!
//! Those at a constant rate measure latency. Those at full speed are closed loops: their round trips
//! are shown, but they are a throughput figure and are not called latency.

use std::time::Duration;

use odradek::codec::record_batch::Compression;
use odradek_loadgen::content::Keys;

/// How hard a workload pushes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// As fast as it is acknowledged.
    Peak,
    /// This part of the peak that the slowest target reaches, unless a rate is given.
    Share(f64),
}

/// Who reads meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    None,
    /// At the head of the log; its latency is end to end.
    Tail,
    /// Several, each for itself and over and over through as many bytes of history.
    History {
        bytes: u64,
        readers: usize,
    },
}

/// One workload, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub name: String,
    pub about: &'static str,
    pub partitions: u32,
    pub record_size: usize,
    pub batch_bytes: usize,
    pub batches_per_request: usize,
    pub connections: usize,
    pub in_flight: usize,
    pub linger: Duration,
    pub compression: Compression,
    pub keys: Keys,
    pub load: Load,
    pub reader: Reader,
    pub topic_configs: Vec<(&'static str, &'static str)>,
    /// Of its one round, unless the command says otherwise.
    pub duration: Option<Duration>,
}

/// All names, as `--workload` takes them.
pub const NAMES: [&str; 10] = [
    "peak-100",
    "peak-1k",
    "steady-1k",
    "wide",
    "small",
    "lz4-1k",
    "tail",
    "catch-up",
    "retention",
    "compact",
];

const HISTORY_BYTES: u64 = 10_000_000_000;

/// Readers of history beside the producers.
const HISTORY_READERS: usize = 10;

/// What shows only over time is looked at for as long as this.
const LONG: Duration = Duration::from_secs(600);

/// The workloads behind a name; some are several runs. `None`: there is no such name.
pub fn named(name: &str, scale: f64) -> Option<Vec<Workload>> {
    let base = Workload {
        name: name.to_string(),
        about: "1 KiB records, 64 KiB batches, 100 partitions, full speed",
        partitions: 100,
        record_size: 1024,
        batch_bytes: 65_536,
        batches_per_request: 1,
        connections: 4,
        in_flight: 16,
        linger: Duration::from_millis(1),
        compression: Compression::None,
        keys: Keys::None,
        load: Load::Peak,
        reader: Reader::None,
        topic_configs: Vec::new(),
        duration: None,
    };
    let steady = Workload { load: Load::Share(0.5), in_flight: 64, partitions: 8, ..base.clone() };
    let small_segments = vec![("segment.bytes", "67108864"), ("file.delete.delay.ms", "1000")];
    let found = match name {
        "peak-100" => vec![Workload {
            about: "100-byte records, 64 KiB batches, 8 partitions, full speed",
            partitions: 8,
            record_size: 100,
            ..base
        }],
        "peak-1k" => vec![base],
        "steady-1k" => vec![Workload {
            about: "1 KiB records at half of the peak, 1 ms linger, end to end",
            partitions: 100,
            reader: Reader::Tail,
            ..steady
        }],
        "wide" => [1_000, 10_000]
            .map(|partitions| Workload {
                name: format!("wide-{partitions}"),
                about: "1 KB records, 4 KiB batches, 16 batches per request, 64 connections, full speed",
                partitions,
                record_size: 1000,
                batch_bytes: 4096,
                batches_per_request: 16,
                connections: 64,
                in_flight: 4,
                ..base.clone()
            })
            .to_vec(),
        "small" => vec![Workload {
            about: "one 100-byte record per request, 100 connections with one request each, full speed",
            partitions: 8,
            record_size: 100,
            batch_bytes: 1,
            connections: 100,
            in_flight: 1,
            ..base
        }],
        "lz4-1k" => vec![Workload {
            about: "1 KiB JSON-like records, lz4 batches, 100 partitions, full speed",
            compression: Compression::Lz4,
            ..base
        }],
        "tail" => vec![Workload {
            about: "1 KiB records, 100 partitions, full speed, a consumer at the head",
            reader: Reader::Tail,
            ..base
        }],
        "catch-up" => vec![Workload {
            about: "1 KiB records at half of the peak, alone and then beside ten readers of 10 GB of history",
            reader: Reader::History {
                bytes: (HISTORY_BYTES as f64 * scale) as u64,
                readers: HISTORY_READERS,
            },
            ..steady
        }],
        "retention" => vec![Workload {
            about: "1 KiB records at half of the peak while retention deletes segments; the broker has to look \
                    often (log.retention.check.interval.ms=1000)",
            topic_configs: [small_segments, vec![("retention.bytes", "134217728")]].concat(),
            duration: Some(LONG),
            ..steady
        }],
        "compact" => vec![Workload {
            about: "keyed updates (zipf over 100,000 keys) at half of the peak with compaction; the broker has to \
                    look often (log.cleaner.backoff.ms=1000)",
            keys: Keys::Zipf(100_000),
            topic_configs: [small_segments, vec![("cleanup.policy", "compact")]].concat(),
            duration: Some(LONG),
            ..steady
        }],
        _ => return None,
    };
    Some(found.into_iter().map(|workload| workload.scaled(scale)).collect())
}

impl Workload {
    fn scaled(mut self, scale: f64) -> Workload {
        let scaled = |count: u64| ((count as f64 * scale).round() as u64).max(1);
        self.partitions = scaled(self.partitions as u64) as u32;
        self.connections = scaled(self.connections as u64) as usize;
        self
    }

    /// Whether its round trips are latencies: open loop, from the intended send time.
    pub fn is_open_loop(&self) -> bool {
        self.load != Load::Peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_workload_and_others_have_none() {
        for name in NAMES {
            assert!(named(name, 1.0).is_some_and(|found| !found.is_empty()), "{name}");
        }
        assert_eq!(named("fast", 1.0), None);
    }

    #[test]
    fn scale_shrinks_but_never_to_nothing() {
        let wide = named("wide", 0.01).unwrap();
        assert_eq!((wide[0].partitions, wide[1].partitions, wide[1].connections), (10, 100, 1));
        let catch_up = named("catch-up", 0.1).unwrap();
        assert_eq!(catch_up[0].reader, Reader::History { bytes: 1_000_000_000, readers: 10 });
    }
}
