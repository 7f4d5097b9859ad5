//! Snapshots as Prometheus text.
//!
//! Series are per shard (`shard="0"`); sums are the reader's. Histograms are cumulative over fixed
//! bounds in seconds or bytes, so that they add up over shards and nodes.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::config::quota::QuotaKind;
use crate::metrics::names::{api_name, error_name};
use crate::metrics::recovery::RecoveryBranch;
use crate::metrics::{Histogram, LogDirSnapshot, MemoryKind, ShardMetrics, ShardSnapshot};

/// What the encoder writes is OpenMetrics, which Prometheus and its kin read.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Microseconds: from a flush on a good device to a stall that clients time out on.
const DURATION_BOUNDS_US: [u64; 20] = [
    50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 50_000, 100_000,
    200_000, 500_000, 1_000_000, 5_000_000,
];

/// Microseconds: below and above the millisecond that no step of background work is to exceed.
const STEP_BOUNDS_US: [u64; 9] = [250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000];

/// Bytes: from one sector to what many writes of the largest size make.
const SIZE_BOUNDS: [u64; 9] =
    [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20];

/// `None`: the shards could not be asked.
pub fn encode(snapshots: Option<Vec<ShardSnapshot>>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("odradek");
    registry.register_collector(Box::new(Shards {
        up: snapshots.is_some(),
        snapshots: snapshots.unwrap_or_default(),
    }));
    let mut text = String::with_capacity(64 << 10);
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Shards {
    up: bool,
    snapshots: Vec<ShardSnapshot>,
}

/// Reads one value of a shard.
type Read = fn(&ShardMetrics) -> u64;

/// Name, help and value of what is one number per shard. `_total` is appended to counters.
const COUNTERS: &[(&str, &str, Read)] = &[
    ("produced_batches", "Record batches appended", |m| m.produced_batches),
    ("produced_records", "Records appended", |m| m.produced_records),
    ("produced_bytes", "Bytes of record batches appended", |m| m.produced_bytes),
    ("produced_duplicates", "Idempotent batches that were stored already", |m| m.produced_duplicates),
    ("fetched_batches", "Record batches sent to consumers", |m| m.fetched_batches),
    ("fetched_bytes", "Bytes of record batches sent to consumers", |m| m.fetched_bytes),
    ("fetched_disk_bytes", "Of those, bytes that were read from disk", |m| m.fetched_disk_bytes),
    ("disk_written_bytes", "Bytes written by direct I/O", |m| m.disk_written_bytes),
    ("disk_read_bytes", "Bytes read by direct I/O for consumers behind the tail", |m| m.disk_read_bytes),
    ("read_corruption", "Reads refused because the disk handed back what was not written there", |m| {
        m.read_corruption
    }),
    ("checksums_rebuilt", "Segments read through because their checksums were missing or wrong", |m| {
        m.checksums_rebuilt
    }),
    ("catch_up_waits", "Reads from disk that had to wait for their turn", |m| m.catch_up_waits),
    ("connections_accepted", "Client connections accepted", |m| m.connections_accepted),
    ("connections_refused", "Client connections refused for want of room", |m| m.connections_refused),
    ("connections_failed", "Client connections closed for a failure, most often theirs", |m| {
        m.connections_failed
    }),
    ("receive_evictions", "Client connections closed for receive memory held without progress", |m| {
        m.receive_evictions
    }),
    ("memory_waits", "Times that reading requests had to wait for memory", |m| m.memory_waits),
    ("dma_buffer_fallbacks", "Write buffers that came from the heap, not from the registered pool", |m| {
        m.dma_buffer_fallbacks
    }),
    ("mesh_messages_sent", "Messages sent to other shards", |m| m.mesh_messages_sent),
    ("mesh_queue_full", "Messages that waited for another shard's queue", |m| m.mesh_queue_full),
    ("requests_forwarded", "Requests handed to the shard that owns their partition", |m| {
        m.requests_forwarded
    }),
    ("throttled_leader_bytes", "Bytes sent to replicas that catch up at a rate", |m| {
        m.throttled_leader_bytes
    }),
    ("throttled_follower_bytes", "Bytes that replicas took which catch up at a rate", |m| {
        m.throttled_follower_bytes
    }),
    ("group_rebalances", "Generations of consumer groups that began with members", |m| m.group_rebalances),
    ("replicas_restored", "Damaged replicas that were made again from those of others", |m| {
        m.replicas_restored
    }),
    ("unclean_leader_elections", "Elections of replicas that were not in sync, for want of another", |m| {
        m.unclean_leader_elections
    }),
    ("transactions_committed", "Transactions that were committed", |m| m.transactions_committed),
    ("transactions_aborted", "Transactions that were aborted", |m| m.transactions_aborted),
    ("compactions", "Passes of compaction over a log", |m| m.compactions),
    ("compacted_bytes_in", "Bytes of batches that compaction read", |m| m.compacted_bytes_in),
    ("compacted_bytes_out", "Bytes that compaction left of them", |m| m.compacted_bytes_out),
    ("compacted_records_removed", "Records that compaction removed", |m| m.compacted_records_removed),
    ("errors_unlisted", "Errors beyond the kinds that are counted apart", |m| m.errors_unlisted),
];

const GAUGES: &[(&str, &str, Read)] = &[
    ("connections_open", "Client connections", |m| m.connections_open),
    ("fetches_parked", "Fetch requests that wait for data", |m| m.fetches_parked),
    ("catch_up_waiting", "Reads from disk that wait for their turn", |m| m.catch_up_waiting),
    ("fetch_sessions", "Incremental fetch sessions", |m| m.fetch_sessions),
    ("throttled_leader_replicas", "Replicas that catch up at a rate, by who sends", |m| {
        m.throttled_leader_replicas
    }),
    ("throttled_follower_replicas", "Replicas that catch up at a rate, by who takes", |m| {
        m.throttled_follower_replicas
    }),
    ("throttled_leader_rate", "Part of the rate of leaders, in bytes per second; 0: none", |m| {
        m.throttled_leader_rate
    }),
    ("throttled_follower_rate", "Part of the rate of followers, in bytes per second; 0: none", |m| {
        m.throttled_follower_rate
    }),
    ("groups", "Consumer groups coordinated", |m| m.groups),
    ("transactional_ids", "Transactional ids coordinated", |m| m.transactional_ids),
    ("partitions", "Partitions owned", |m| m.partitions),
    ("partitions_offline", "Partitions found damaged or not opened", |m| m.partitions_offline),
    ("partitions_uncleanable", "Partitions that compaction cannot read", |m| m.partitions_uncleanable),
    ("compaction_dirty_percent_max", "Largest uncompacted share of a log", |m| {
        m.compaction_dirty_percent_max
    }),
    ("memory_budget_bytes", "Memory the shard may use", |m| m.memory_budget_bytes),
];

/// One histogram per shard.
struct Distribution {
    name: &'static str,
    help: &'static str,
    /// Appended to the name.
    unit: Unit,
    /// In what was recorded.
    bounds: &'static [u64],
    /// What was recorded is divided by it to get the unit.
    scale: f64,
    read: fn(&ShardMetrics) -> &Histogram,
}

const MICROSECONDS: f64 = 1e6;

const DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        name: "commit_latency",
        help: "From a commit's first append to its acknowledgement",
        unit: Unit::Seconds,
        bounds: &DURATION_BOUNDS_US,
        scale: MICROSECONDS,
        read: |metrics| &metrics.commit_latency_us,
    },
    Distribution {
        name: "flush_latency",
        help: "Duration of fdatasync",
        unit: Unit::Seconds,
        bounds: &DURATION_BOUNDS_US,
        scale: MICROSECONDS,
        read: |metrics| &metrics.flush_latency_us,
    },
    Distribution {
        name: "commit_size",
        help: "Bytes made durable by one commit",
        unit: Unit::Bytes,
        bounds: &SIZE_BOUNDS,
        scale: 1.0,
        read: |metrics| &metrics.commit_bytes,
    },
    Distribution {
        name: "step",
        help: "Steps of one task of at least 100 microseconds, in which its shard did nothing else",
        unit: Unit::Seconds,
        bounds: &STEP_BOUNDS_US,
        scale: MICROSECONDS,
        read: |metrics| &metrics.step_us,
    },
];

impl Collector for Shards {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let up = if self.up { 1u64 } else { 0 };
        encoder
            .encode_descriptor("up", "1 if the shards answer", None, MetricType::Gauge)?
            .encode_gauge(&up)?;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encoder.encode_descriptor("build", "This build", None, MetricType::Info)?.encode_info(&version)?;
        self.numbers(&mut encoder)?;
        self.requests(&mut encoder)?;
        self.durations(&mut encoder)
    }
}

impl Shards {
    fn shards(&self) -> impl Iterator<Item = (String, &ShardMetrics)> {
        self.snapshots.iter().map(|snapshot| (snapshot.shard.0.to_string(), &snapshot.metrics))
    }

    fn numbers(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        for (name, help, read) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, metrics) in self.shards() {
                let labels = [("shard", shard.as_str())];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&read(metrics), None)?;
            }
        }
        for (name, help, read) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (shard, metrics) in self.shards() {
                metric.encode_family(&[("shard", shard.as_str())])?.encode_gauge(&read(metrics))?;
            }
        }
        let mut memory = encoder.encode_descriptor(
            "memory_bytes",
            "Memory in use, by purpose",
            None,
            MetricType::Gauge,
        )?;
        for (shard, metrics) in self.shards() {
            for kind in MemoryKind::ALL {
                let labels = [("shard", shard.as_str()), ("kind", kind.name())];
                memory.encode_family(&labels)?.encode_gauge(&metrics.memory_bytes(kind))?;
            }
        }
        let help = "What starts and reads found on disk and put right, cut or refused";
        let mut recovery = encoder.encode_descriptor("recovery", help, None, MetricType::Counter)?;
        for (shard, metrics) in self.shards() {
            for branch in RecoveryBranch::ALL {
                let labels = [("shard", shard.as_str()), ("branch", branch.name())];
                let count = metrics.recovery.get(branch);
                recovery.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        type ReadLogDir = fn(&LogDirSnapshot) -> u64;
        let gauges: [(&str, &str, ReadLogDir); 2] = [
            ("log_dir_offline", "1 if the log directory takes no more writes", |dir| {
                u64::from(dir.offline.is_some())
            }),
            ("log_dir_partitions", "Partitions served from the log directory", |dir| dir.partitions),
        ];
        for (name, help, read) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for snapshot in &self.snapshots {
                let shard = snapshot.shard.0.to_string();
                for dir in &snapshot.log_dirs {
                    let labels = [("shard", shard.as_str()), ("dir", dir.path.as_str())];
                    metric.encode_family(&labels)?.encode_gauge(&read(dir))?;
                }
            }
        }
        let help = "Requests whose clients had to wait for a quota";
        let mut throttled =
            encoder.encode_descriptor("throttled_requests", help, None, MetricType::Counter)?;
        for (shard, metrics) in self.shards() {
            for kind in QuotaKind::ALL {
                let labels = [("shard", shard.as_str()), ("quota", kind.name())];
                let (count, _) = metrics.throttled_by(kind);
                throttled.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "How long clients had to wait for a quota";
        let mut throttled =
            encoder.encode_descriptor("throttled", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for (shard, metrics) in self.shards() {
            for kind in QuotaKind::ALL {
                let labels = [("shard", shard.as_str()), ("quota", kind.name())];
                let (_, time) = metrics.throttled_by(kind);
                let seconds = time.as_secs_f64();
                throttled.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
            }
        }
        let help = "Longest step of one task, in which its shard did nothing else";
        let mut stall =
            encoder.encode_descriptor("stall_max", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (shard, metrics) in self.shards() {
            let seconds = metrics.stall_us_max as f64 / MICROSECONDS;
            stall.encode_family(&[("shard", shard.as_str())])?.encode_gauge(&seconds)?;
        }
        Ok(())
    }

    fn requests(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        type ReadRequest = fn(&crate::metrics::RequestMetrics) -> u64;
        let counters: [(&str, &str, ReadRequest); 3] = [
            ("requests", "Requests received", |request| request.count),
            ("request_bytes", "Bytes of requests", |request| request.bytes_in),
            ("response_bytes", "Bytes of answers", |request| request.bytes_out),
        ];
        for (name, help, read) in counters {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, metrics) in self.shards() {
                for (api_key, request) in metrics.requests() {
                    let labels = [("shard", shard.clone()), ("api", api_name(api_key))];
                    metric
                        .encode_family(&labels)?
                        .encode_counter::<NoLabelSet, _, u64>(&read(request), None)?;
                }
            }
        }
        let mut errors =
            encoder.encode_descriptor("errors", "Kafka error codes answered", None, MetricType::Counter)?;
        for (shard, metrics) in self.shards() {
            for (api_key, code, count) in metrics.errors() {
                let labels =
                    [("shard", shard.clone()), ("api", api_name(api_key)), ("error", error_name(code))];
                errors.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "From a whole request received to its answer handed to the socket";
        let mut latency = encoder.encode_descriptor(
            "request_latency",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (shard, metrics) in self.shards() {
            for (api_key, request) in metrics.requests() {
                let Some(histogram) = request.latency_us.as_deref() else { continue };
                let labels = [("shard", shard.clone()), ("api", api_name(api_key))];
                let (sum, buckets) = buckets(histogram, &DURATION_BOUNDS_US, MICROSECONDS);
                latency.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    sum,
                    histogram.count(),
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn durations(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        for Distribution { name, help, unit, bounds, scale, read } in DISTRIBUTIONS {
            let mut metric = encoder.encode_descriptor(name, help, Some(unit), MetricType::Histogram)?;
            for (shard, metrics) in self.shards() {
                let histogram = read(metrics);
                let (sum, buckets) = buckets(histogram, bounds, *scale);
                metric.encode_family(&[("shard", shard.as_str())])?.encode_histogram::<NoLabelSet>(
                    sum,
                    histogram.count(),
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }
}

/// Sum and per-bucket counts in the unit shown, with the bucket without a bound last. The encoder
/// adds the counts up.
fn buckets(histogram: &Histogram, bounds: &[u64], scale: f64) -> (f64, Vec<(f64, u64)>) {
    let cumulative = histogram.cumulative(bounds);
    let mut below = 0;
    let mut buckets: Vec<_> = bounds
        .iter()
        .zip(cumulative)
        .map(|(&bound, upto)| {
            let count = upto - below;
            below = upto;
            (bound as f64 / scale, count)
        })
        .collect();
    buckets.push((f64::MAX, histogram.count() - below));
    (histogram.sum() as f64 / scale, buckets)
}
