//! What a run counts: per thread without sharing, published a few times a second for whoever watches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Nanoseconds; what takes longer is counted as this long.
pub const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// Decimal digits that a latency keeps.
const LATENCY_DIGITS: u8 = 3;

/// An empty latency histogram. Unit: nanoseconds.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_NS, LATENCY_DIGITS).expect("the bounds are valid")
}

/// Counts of one thread.
pub struct Stats {
    pub records: u64,
    /// Of record values, before compression.
    pub bytes: u64,
    /// Records that failed for good.
    pub failed: u64,
    /// Answers per error code, retried ones included. Zero is not an error and not counted.
    pub codes: BTreeMap<i16, u64>,
    /// That were committed.
    pub transactions: u64,
    /// Connections that broke while they were needed.
    pub disconnects: u64,
    pub latency: Histogram<u64>,
    interval: Histogram<u64>,
}

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            records: 0,
            bytes: 0,
            failed: 0,
            codes: BTreeMap::new(),
            transactions: 0,
            disconnects: 0,
            latency: latencies(),
            interval: latencies(),
        }
    }
}

impl Stats {
    /// Records that took `latency` each.
    pub fn took(&mut self, latency: Duration, records: u64) {
        let latency = latency.as_nanos().min(LATENCY_MAX_NS as u128) as u64;
        self.latency.saturating_record_n(latency, records);
        self.interval.saturating_record_n(latency, records);
    }

    pub fn error(&mut self, code: i16) {
        *self.codes.entry(code).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Stats) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.transactions += other.transactions;
        self.disconnects += other.disconnects;
        for (code, count) in &other.codes {
            *self.codes.entry(*code).or_default() += count;
        }
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
    }
}

/// Where one thread leaves its counts for the watcher.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Posted>>);

#[derive(Default)]
struct Posted {
    records: u64,
    bytes: u64,
    errors: u64,
    latency: Option<Histogram<u64>>,
}

/// What happened since the last look.
pub struct Interval {
    /// So far, not since the last look.
    pub records: u64,
    pub bytes: u64,
    pub errors: u64,
    /// Since the last look.
    pub latency: Histogram<u64>,
}

impl Board {
    /// Posts the counts and hands over the interval's latencies.
    pub fn post(&self, stats: &mut Stats) {
        let mut posted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        posted.records = stats.records;
        posted.bytes = stats.bytes;
        posted.errors = stats.failed + stats.codes.values().sum::<u64>();
        let latency = posted.latency.get_or_insert_with(latencies);
        latency.add(&stats.interval).expect("all histograms have the same bounds");
        stats.interval.reset();
    }

    /// Sums up several boards and empties their intervals.
    pub fn look(boards: &[Board]) -> Interval {
        let mut sum = Interval { records: 0, bytes: 0, errors: 0, latency: latencies() };
        for board in boards {
            let mut posted = board.0.lock().unwrap_or_else(PoisonError::into_inner);
            sum.records += posted.records;
            sum.bytes += posted.bytes;
            sum.errors += posted.errors;
            if let Some(latency) = posted.latency.take() {
                sum.latency.add(&latency).expect("all histograms have the same bounds");
            }
        }
        sum
    }
}
