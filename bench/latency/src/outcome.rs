//! What was measured, as data: the file `result.json` of a report, read again by `compare`.

use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;
use odradek_loadgen::summary::LatencySummary;
use serde::{Deserialize, Serialize};

/// Name of the file in a report directory.
pub const RESULT_FILE: &str = "result.json";

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub machine: Machine,
    pub command: String,
    pub label: String,
    pub rounds: usize,
    pub seconds_per_round: f64,
    pub workloads: Vec<WorkloadOutcome>,
    /// Workloads that did not run, and why.
    pub skipped: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkloadOutcome {
    pub name: String,
    pub about: String,
    /// Whether `acknowledged` is a latency; else a closed loop's round trip.
    pub open_loop: bool,
    /// Records per second that were asked for.
    pub rate_wanted: Option<f64>,
    pub targets: Vec<TargetOutcome>,
    /// What the figures come to, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetOutcome {
    pub name: String,
    pub address: String,
    pub durability: String,
    pub rounds: Vec<RoundOutcome>,
    /// Medians over the rounds.
    pub records_per_second: f64,
    pub megabytes_per_second: f64,
    pub errors: u64,
    /// From the intended send time to the acknowledgement, over all rounds.
    pub acknowledged: Option<Curve>,
    /// From the intended send time to the arrival at a consumer.
    pub end_to_end: Option<Curve>,
    /// What the reader took in, median over the rounds.
    pub read_megabytes_per_second: Option<f64>,
    /// Of the broker's process, over all rounds.
    pub broker_cpu_seconds_per_gigabyte: Option<f64>,
    pub broker_cpu_seconds_per_million_records: Option<f64>,
    pub client_cpu_seconds_per_gigabyte: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoundOutcome {
    pub seconds: f64,
    pub records: u64,
    pub bytes: u64,
    pub records_per_second: f64,
    pub acknowledged: Option<LatencySummary>,
    pub end_to_end: Option<LatencySummary>,
    pub acknowledged_over_time: Vec<Point>,
    pub end_to_end_over_time: Vec<Point>,
    /// Resident memory of the broker's process: seconds since the start of the round, and bytes.
    #[serde(default)]
    pub resident_over_time: Vec<(f64, f64)>,
}

/// A distribution: its usual percentiles and enough points to draw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub latency: LatencySummary,
    /// Quantile and microseconds, ascending.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    pub fn of(histogram: &Histogram<u64>) -> Option<Curve> {
        let latency = LatencySummary::of(histogram)?;
        let mut points: Vec<(f64, f64)> = histogram
            .iter_quantiles(5)
            .map(|at| (at.quantile_iterated_to(), at.value_iterated_to() as f64 / 1e3))
            .collect();
        // On an axis of nines 100 % is infinitely far: the maximum stands half way beyond the last.
        if let [.., (before, _), (last, _)] = points.as_mut_slice()
            && *last >= 1.0
        {
            *last = (1.0 + *before) / 2.0;
        }
        Some(Curve { latency, points })
    }
}

/// What an interval of a round was like. Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Since the start of the round.
    pub seconds: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Point {
    /// `None` when nothing happened.
    pub fn of(seconds: f64, interval: &Histogram<u64>) -> Option<Point> {
        let latency = LatencySummary::of(interval)?;
        Some(Point { seconds, p50: latency.p50, p99: latency.p99, max: latency.max })
    }
}

impl Machine {
    pub fn this() -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        Machine {
            cpu: model.trim_start_matches([' ', '\t', ':']).to_string(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
        }
    }
}

impl Outcome {
    pub fn load(directory: &Path) -> anyhow::Result<Outcome> {
        let path = directory.join(RESULT_FILE);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a result", path.display()))
    }
}

/// The middle one; the mean of the two middle ones of an even number. Zero for none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        even if even.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_curve_ends_at_the_maximum() {
        let mut histogram = odradek_loadgen::stats::latencies();
        (1..=1000).for_each(|us| histogram.saturating_record(us * 1000));
        let curve = Curve::of(&histogram).unwrap();
        let last = curve.points.last().unwrap();
        assert!(last.0 > 0.999 && last.0 < 1.0);
        assert_eq!(last.1, curve.latency.max);
        assert!((curve.latency.p99 - 990.0).abs() < 2.0);
        assert!(curve.points.is_sorted_by(|a, b| a.1 <= b.1));
    }
}
