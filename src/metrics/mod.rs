//! Plain counters and histograms, one set per shard.
//!
//! A shard owns its set and adds to it without atomics; the admin thread asks for a copy by message
//! ([`ShardSnapshot`]) and never touches the live one. Counting is an index and an addition;
//! recording a duration is one bucket computation. What is copied is bounded: about 20 KiB per
//! histogram, and one histogram per API that was ever asked for.

pub mod clients;
pub mod names;
pub mod recovery;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram as HdrHistogram;

use crate::config::quota::QuotaKind;
use crate::metrics::clients::{ClientMetrics, ClientSnapshot};
use crate::metrics::recovery::RecoveryCounts;
use crate::types::ShardId;

/// API keys counted apart; Kafka's go to 94. Larger ones share the last place.
pub const API_KEYS_MAX: usize = 128;

/// Pairs of API key and error code counted apart; further ones are only counted together. Kafka has
/// some 130 codes and few of them occur with each API.
pub const ERROR_KINDS_MAX: usize = 1024;

/// Longest duration told apart from longer ones.
pub const DURATION_MAX: Duration = Duration::from_secs(60);

/// A shorter step of a task is nobody's stall, and not worth recording.
pub const STEP_RECORDED_MIN: Duration = Duration::from_micros(100);

/// Largest commit told apart from larger ones. Unit: bytes.
pub const COMMIT_SIZE_MAX: u64 = 1 << 30;

/// A distribution of whole numbers with a known largest value, to two significant digits.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: HdrHistogram<u64>,
    sum: u64,
}

impl Histogram {
    /// Of durations, in microseconds.
    pub fn durations() -> Histogram {
        Histogram::with_max(DURATION_MAX.as_micros() as u64)
    }

    /// `max` is the largest value told apart; what is larger counts as `max`.
    pub fn with_max(max: u64) -> Histogram {
        /// Buckets are at most 1 % wide; three digits would take eight times the memory.
        const SIGNIFICANT_DIGITS: u8 = 2;
        let counts = HdrHistogram::new_with_bounds(1, max.max(2), SIGNIFICANT_DIGITS);
        Histogram { counts: counts.expect("bounds of 1 and at least 2, and two digits, are valid"), sum: 0 }
    }

    pub fn record(&mut self, value: u64) {
        self.counts.saturating_record(value);
        self.sum = self.sum.saturating_add(value);
    }

    pub fn record_duration(&mut self, duration: Duration) {
        self.record(duration.as_micros().min(u64::MAX as u128) as u64);
    }

    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// Exact, in the unit that was recorded.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn max(&self) -> u64 {
        self.counts.max()
    }

    /// `quantile` from 0 to 1.
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.counts.value_at_quantile(quantile)
    }

    /// How many values were at most each of `bounds`, which ascend. Bounds are met to within the
    /// histogram's precision.
    pub fn cumulative(&self, bounds: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len()];
        for value in self.counts.iter_recorded() {
            let lowest = self.counts.lowest_equivalent(value.value_iterated_to());
            let place = bounds.partition_point(|&bound| bound < lowest);
            if let Some(count) = counts.get_mut(place) {
                *count += value.count_since_last_iteration();
            }
        }
        let mut total = 0;
        for count in &mut counts {
            total += *count;
            *count = total;
        }
        counts
    }
}

/// Requests of one API key.
#[derive(Clone, Debug, Default)]
pub struct RequestMetrics {
    pub count: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// From the whole request received to its answer handed to the socket. Made on first use.
    pub latency_us: Option<Box<Histogram>>,
}

/// What a shard's memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryKind {
    /// What connections received and has not been answered.
    Receive,
    /// Newest records of partitions, kept for writing and for tail reads.
    Tail,
    /// What was read from disk for fetches that are behind.
    ReadAhead,
    /// Answers on their way to sockets.
    Response,
    /// Payloads on their way to other shards.
    Mesh,
    /// Decoded requests, and what they ask for until it is answered.
    Requests,
}

impl MemoryKind {
    pub const ALL: [MemoryKind; 6] = [
        MemoryKind::Receive,
        MemoryKind::Tail,
        MemoryKind::ReadAhead,
        MemoryKind::Response,
        MemoryKind::Mesh,
        MemoryKind::Requests,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            MemoryKind::Receive => "receive",
            MemoryKind::Tail => "tail",
            MemoryKind::ReadAhead => "read_ahead",
            MemoryKind::Response => "response",
            MemoryKind::Mesh => "mesh",
            MemoryKind::Requests => "requests",
        }
    }
}

/// Counters only grow; gauges (marked) hold the present value.
///
/// Lives: one per shard, changed by that shard only.
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    requests: Box<[RequestMetrics]>,
    errors: BTreeMap<(i16, i16), u64>,
    /// Errors of kinds that found no place in the table.
    pub errors_unlisted: u64,

    pub produced_batches: u64,
    pub produced_records: u64,
    pub produced_bytes: u64,
    /// Idempotent batches that were stored already.
    pub produced_duplicates: u64,
    /// In answers, as is the next; not what a fetch looked at while it waited for more.
    pub fetched_batches: u64,
    pub fetched_bytes: u64,
    /// Of those, not found in memory when they were asked for, or read ahead for that.
    pub fetched_disk_bytes: u64,

    /// From the first append of a commit to its acknowledgement. Microseconds.
    pub commit_latency_us: Histogram,
    /// Duration of one `fdatasync`. Microseconds.
    pub flush_latency_us: Histogram,
    /// Bytes made durable by one commit.
    pub commit_bytes: Histogram,
    pub disk_written_bytes: u64,
    /// For consumers behind the tail.
    pub disk_read_bytes: u64,
    /// Reads that were refused because the disk handed back what was not written there.
    pub read_corruption: u64,
    /// Closed segments that were read through because their checksums were missing or wrong.
    pub checksums_rebuilt: u64,
    /// What starts and reads have put right or refused.
    pub recovery: RecoveryCounts,
    /// Reads from disk that had to wait for their turn.
    pub catch_up_waits: u64,
    /// Gauge: those that wait now.
    pub catch_up_waiting: u64,

    /// Gauge.
    pub connections_open: u64,
    pub connections_accepted: u64,
    /// Refused because of `max.connections`.
    pub connections_refused: u64,
    /// Closed with a reason that is not idleness or a stop: what the client sent or failed to do, most
    /// often. One for each warning of it in the log.
    pub connections_failed: u64,
    /// Of those, the ones that held receive memory without progress while it was short.
    pub receive_evictions: u64,
    /// Gauge: Fetch requests that wait for data or their deadline.
    pub fetches_parked: u64,
    /// Gauge: partitions owned by the shard.
    pub partitions: u64,
    /// Gauge: partitions that were found damaged or could not be opened, and are refused.
    pub partitions_offline: u64,
    /// Gauge.
    pub fetch_sessions: u64,

    /// Gauges, by [`MemoryKind`].
    memory_bytes: [u64; MemoryKind::ALL.len()],
    /// Gauge: what the shard may use altogether.
    pub memory_budget_bytes: u64,
    /// How often the intake of requests began to wait: for receive memory, for unflushed bytes to become
    /// fewer, for batches on their way to other shards.
    pub memory_waits: u64,
    /// Write buffers that came from the heap since the registered pool had no room for them. Of its
    /// read buffers the runtime does not say it; they share the pool.
    pub dma_buffer_fallbacks: u64,

    pub mesh_messages_sent: u64,
    /// Of those, the ones that had to wait as the other shard's queue was full.
    pub mesh_queue_full: u64,
    /// Requests, or parts of them, handed to the shard that owns their partition.
    pub requests_forwarded: u64,
    /// Longest step of one task since the start: from one wait of it to its next, in which the shard
    /// did nothing else. Microseconds.
    pub stall_us_max: u64,
    /// The steps of [`STEP_RECORDED_MIN`] and more. Microseconds.
    pub step_us: Histogram,

    /// Requests whose clients had to wait for a quota, by kind, and for how long. Microseconds.
    throttled: [(u64, u64); QuotaKind::ALL.len()],
    /// Bytes sent to, and taken by, replicas that were held to a rate while they caught up (KIP-73).
    pub throttled_leader_bytes: u64,
    pub throttled_follower_bytes: u64,
    /// Gauges: such replicas that this shard sends to, and has, and are not in sync.
    pub throttled_leader_replicas: u64,
    pub throttled_follower_replicas: u64,
    /// Gauges: this shard's part of the rates, in bytes per second; 0 where there is none.
    pub throttled_leader_rate: u64,
    pub throttled_follower_rate: u64,

    /// Gauge: consumer groups that this shard coordinates.
    pub groups: u64,
    /// Generations of consumer groups that began with members.
    pub group_rebalances: u64,
    /// Elections of this node as the controller by which records may have been lost.
    pub unclean_leader_elections: u64,
    /// Damaged replicas that were made again from those of others.
    pub replicas_restored: u64,
    /// Gauge: transactional ids that this shard coordinates.
    pub transactional_ids: u64,
    /// Transactions whose end was decided here, by how.
    pub transactions_committed: u64,
    pub transactions_aborted: u64,

    /// Passes of compaction that came to their end.
    pub compactions: u64,
    /// Bytes of batches that compaction read from segments, and that it left of them.
    pub compacted_bytes_in: u64,
    pub compacted_bytes_out: u64,
    /// Records that compaction removed.
    pub compacted_records_removed: u64,
    /// Gauge: the largest dirty share of a compacted log, in percent.
    pub compaction_dirty_percent_max: u64,
    /// Gauge: compacted logs that cannot be compacted, as they cannot be read.
    pub partitions_uncleanable: u64,
}

impl ShardMetrics {
    pub fn new() -> ShardMetrics {
        ShardMetrics {
            requests: vec![RequestMetrics::default(); API_KEYS_MAX].into_boxed_slice(),
            errors: BTreeMap::new(),
            errors_unlisted: 0,
            produced_batches: 0,
            produced_records: 0,
            produced_bytes: 0,
            produced_duplicates: 0,
            fetched_batches: 0,
            fetched_bytes: 0,
            fetched_disk_bytes: 0,
            commit_latency_us: Histogram::durations(),
            flush_latency_us: Histogram::durations(),
            commit_bytes: Histogram::with_max(COMMIT_SIZE_MAX),
            disk_written_bytes: 0,
            disk_read_bytes: 0,
            read_corruption: 0,
            checksums_rebuilt: 0,
            recovery: RecoveryCounts::default(),
            catch_up_waits: 0,
            catch_up_waiting: 0,
            connections_open: 0,
            connections_accepted: 0,
            connections_refused: 0,
            connections_failed: 0,
            receive_evictions: 0,
            fetches_parked: 0,
            partitions: 0,
            partitions_offline: 0,
            fetch_sessions: 0,
            memory_bytes: [0; MemoryKind::ALL.len()],
            memory_budget_bytes: 0,
            memory_waits: 0,
            dma_buffer_fallbacks: 0,
            mesh_messages_sent: 0,
            mesh_queue_full: 0,
            requests_forwarded: 0,
            stall_us_max: 0,
            step_us: Histogram::durations(),
            throttled: Default::default(),
            throttled_leader_bytes: 0,
            throttled_follower_bytes: 0,
            throttled_leader_replicas: 0,
            throttled_follower_replicas: 0,
            throttled_leader_rate: 0,
            throttled_follower_rate: 0,
            groups: 0,
            group_rebalances: 0,
            unclean_leader_elections: 0,
            replicas_restored: 0,
            transactional_ids: 0,
            transactions_committed: 0,
            transactions_aborted: 0,
            compactions: 0,
            compacted_bytes_in: 0,
            compacted_bytes_out: 0,
            compacted_records_removed: 0,
            compaction_dirty_percent_max: 0,
            partitions_uncleanable: 0,
        }
    }

    /// Counts a request that was received whole. O(1).
    pub fn request_received(&mut self, api_key: i16, bytes: usize) {
        let request = self.request_mut(api_key);
        request.count += 1;
        request.bytes_in += bytes as u64;
    }

    /// Counts its answer. O(1).
    pub fn request_answered(&mut self, api_key: i16, bytes: usize, latency: Duration) {
        let request = self.request_mut(api_key);
        request.bytes_out += bytes as u64;
        let histogram = request.latency_us.get_or_insert_with(|| Box::new(Histogram::durations()));
        histogram.record_duration(latency);
    }

    /// Counts an error code in an answer; 0 is not an error.
    pub fn error(&mut self, api_key: i16, code: i16) {
        if code == 0 {
            return;
        }
        let listed = self.errors.len();
        match self.errors.get_mut(&(api_key, code)) {
            Some(count) => *count += 1,
            None if listed < ERROR_KINDS_MAX => {
                self.errors.insert((api_key, code), 1);
            }
            None => self.errors_unlisted += 1,
        }
    }

    /// A client has to wait for a quota.
    pub fn throttled(&mut self, kind: QuotaKind, wait: Duration) {
        let (count, microseconds) = &mut self.throttled[kind as usize];
        *count += 1;
        *microseconds += wait.as_micros().min(u64::MAX.into()) as u64;
    }

    /// How many requests had to wait for a quota of a kind, and for how long together.
    pub fn throttled_by(&self, kind: QuotaKind) -> (u64, Duration) {
        let (count, microseconds) = self.throttled[kind as usize];
        (count, Duration::from_micros(microseconds))
    }

    pub fn memory_add(&mut self, kind: MemoryKind, bytes: usize) {
        self.memory_bytes[kind as usize] += bytes as u64;
    }

    pub fn memory_remove(&mut self, kind: MemoryKind, bytes: usize) {
        let used = &mut self.memory_bytes[kind as usize];
        debug_assert!(*used >= bytes as u64, "more {} memory given back than taken", kind.name());
        *used = used.saturating_sub(bytes as u64);
    }

    pub fn memory_set(&mut self, kind: MemoryKind, bytes: usize) {
        self.memory_bytes[kind as usize] = bytes as u64;
    }

    pub fn memory_bytes(&self, kind: MemoryKind) -> u64 {
        self.memory_bytes[kind as usize]
    }

    /// A task has held its shard for so long. O(1), and one comparison for most.
    pub fn stalled(&mut self, duration: Duration) {
        self.stall_us_max = self.stall_us_max.max(duration.as_micros().min(u64::MAX as u128) as u64);
        if duration >= STEP_RECORDED_MIN {
            self.step_us.record_duration(duration);
        }
    }

    /// The API keys that were asked for, ascending.
    pub fn requests(&self) -> impl Iterator<Item = (i16, &RequestMetrics)> {
        let asked = self.requests.iter().enumerate().filter(|(_, request)| request.count > 0);
        asked.map(|(api_key, request)| (api_key as i16, request))
    }

    /// API key, error code and how often, ascending.
    pub fn errors(&self) -> impl Iterator<Item = (i16, i16, u64)> {
        self.errors.iter().map(|(&(api_key, code), &count)| (api_key, code, count))
    }

    fn request_mut(&mut self, api_key: i16) -> &mut RequestMetrics {
        let place = usize::try_from(api_key).unwrap_or(API_KEYS_MAX).min(API_KEYS_MAX - 1);
        &mut self.requests[place]
    }
}

impl Default for ShardMetrics {
    fn default() -> ShardMetrics {
        ShardMetrics::new()
    }
}

/// A copy of one shard's metrics, on its way to the admin thread.
#[derive(Clone, Debug)]
pub struct ShardSnapshot {
    pub shard: ShardId,
    pub metrics: ShardMetrics,
    /// In the order of the configuration; of each shard the same ones.
    pub log_dirs: Vec<LogDirSnapshot>,
}

/// A log directory as one shard has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirSnapshot {
    pub path: String,
    /// Partitions in it that the shard serves.
    pub partitions: u64,
    /// Why it takes no more writes, if so.
    pub offline: Option<String>,
}

/// Asks every shard for its snapshot. Called on the admin thread; the answer comes by message.
pub type SnapshotSource = Arc<dyn Fn() -> SnapshotFuture + Send + Sync>;

/// In shard order.
pub type SnapshotFuture = Answer<Vec<ShardSnapshot>>;

/// Whom the admin plane asks.
#[derive(Clone)]
pub struct Sources {
    pub snapshots: SnapshotSource,
    pub clients: ClientsSource,
    pub client_metrics: ClientMetricsSource,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, SnapshotError>> + Send>>;

/// Asks every shard for its connections.
pub type ClientsSource = Arc<dyn Fn() -> Answer<Vec<ClientSnapshot>> + Send + Sync>;

/// Asks for what the client at an address measures; empty where it sends nothing.
pub type ClientMetricsSource = Arc<dyn Fn(SocketAddr) -> Answer<Vec<ClientMetrics>> + Send + Sync>;

/// A shard that does not answer is stuck or stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {} does not answer", .shard.0)]
pub struct SnapshotError {
    pub shard: ShardId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_keys_outside_the_table_share_the_last_place() {
        let mut metrics = ShardMetrics::new();
        for api_key in [0, 1, 127, 128, i16::MAX, -1, i16::MIN] {
            metrics.request_received(api_key, 10);
        }
        let counts: Vec<_> = metrics.requests().map(|(api_key, request)| (api_key, request.count)).collect();
        assert_eq!(counts, [(0, 1), (1, 1), (127, 5)]);
    }

    #[test]
    fn longest_step_is_known_and_short_ones_are_not_recorded() {
        let mut metrics = ShardMetrics::new();
        for step_us in [10, 99, 100, 900, 1100] {
            metrics.stalled(Duration::from_micros(step_us));
        }
        assert_eq!(metrics.stall_us_max, 1100);
        assert_eq!(metrics.step_us.cumulative(&[250, 1000, 2500]), [1, 2, 3]);
    }

    #[test]
    fn kinds_of_errors_are_bounded_and_none_is_lost() {
        let mut metrics = ShardMetrics::new();
        for api_key in 0..100 {
            for code in 0..100 {
                metrics.error(api_key, code);
            }
        }
        let listed: u64 = metrics.errors().map(|(_, _, count)| count).sum();
        assert_eq!(metrics.errors().count(), ERROR_KINDS_MAX);
        assert_eq!(listed + metrics.errors_unlisted, 100 * 99, "0 is not an error");
    }

    #[test]
    fn histograms_keep_counts_within_bounds() {
        let mut histogram = Histogram::durations();
        for us in [1, 50, 51, 1_000, 2_000, u64::MAX] {
            histogram.record(us);
        }
        assert_eq!(histogram.count(), 6);
        assert_eq!(histogram.cumulative(&[50, 1_000, 10_000]), [2, 4, 5]);
        assert_eq!(histogram.sum(), u64::MAX);
        assert!(histogram.max() >= 60_000_000);
    }

    #[test]
    fn a_snapshot_stays_small() {
        let histogram = Histogram::durations();
        assert!(histogram.counts.distinct_values() * 8 <= 24 << 10, "{}", histogram.counts.distinct_values());
    }
}
