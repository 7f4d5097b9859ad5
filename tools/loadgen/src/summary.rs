//! How a run is shown: the JSON object of `--json`, a few lines for people, and the progress line.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cluster::error_name;
use crate::stats::{Interval, Stats};

/// The object that `--json` writes. Its fields are part of the product and do not change.
///
/// `bytes`: of record values when producing and verifying (record size × records); of batches as
/// stored when consuming, where values are not looked at. `errors`: records that failed for good.
/// `acks` and `latency_us` are null where there is none (consuming; `acks=0` has no latency). `transactions`, the
/// number that was committed, is there only where records were produced in transactions.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub records: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub records_per_second: f64,
    /// 10^6 bytes.
    pub megabytes_per_second: f64,
    pub errors: u64,
    pub acks: Option<&'static str>,
    pub latency_us: Option<LatencySummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transactions: Option<u64>,
    pub client_cpu_seconds: f64,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

impl LatencySummary {
    /// `None` when nothing was recorded. `histogram` is in nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Option<LatencySummary> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Some(LatencySummary {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max() as f64 / 1e3,
        })
    }

    /// Name and value of each, in order.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("p99.99", self.p9999),
            ("max", self.max),
        ]
    }
}

impl Summary {
    pub fn new(stats: &Stats, seconds: f64, cpu_seconds: f64, acks: Option<&'static str>) -> Summary {
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Summary {
            records: stats.records,
            bytes: stats.bytes,
            seconds,
            records_per_second: per_second(stats.records),
            megabytes_per_second: per_second(stats.bytes) / 1e6,
            errors: stats.failed,
            acks,
            latency_us: LatencySummary::of(&stats.latency),
            transactions: Some(stats.transactions).filter(|count| *count > 0),
            client_cpu_seconds: cpu_seconds,
        }
    }

    /// For people.
    pub fn text(&self, stats: &Stats) -> String {
        let mut text = format!(
            "{} records, {:.1} MB in {:.2} s: {:.0} records/s, {:.1} MB/s",
            self.records,
            self.bytes as f64 / 1e6,
            self.seconds,
            self.records_per_second,
            self.megabytes_per_second
        );
        if let Some(acks) = self.acks {
            text.push_str(&format!(", acks={acks}"));
        }
        if let Some(transactions) = self.transactions {
            text.push_str(&format!(
                "\n{transactions} transactions: {:.1} per second",
                transactions as f64 / self.seconds.max(f64::MIN_POSITIVE)
            ));
        }
        if let Some(l) = self.latency_us {
            text.push_str("\nlatency:");
            for (name, us) in l.named() {
                text.push_str(&format!(" {name} {}", micros(us)));
            }
        }
        let gigabytes = self.bytes as f64 / 1e9;
        text.push_str(&format!("\nclient: {:.2} CPU-s", self.client_cpu_seconds));
        if gigabytes > 0.0 {
            text.push_str(&format!(", {:.2} per GB", self.client_cpu_seconds / gigabytes));
        }
        for (code, count) in &stats.codes {
            text.push_str(&format!("\n{count} answers with {}", error_name(*code)));
        }
        if stats.disconnects > 0 {
            text.push_str(&format!("\n{} broken connections", stats.disconnects));
        }
        if stats.failed > 0 {
            text.push_str(&format!("\n{} records failed", stats.failed));
        }
        text
    }
}

/// A latency with three digits or so and a unit.
pub fn micros(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Writes `value` to a file, or to standard output for `-`.
#[expect(clippy::disallowed_methods, reason = "a report is written once, after the run")]
pub fn write_json(value: &impl Serialize, path: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    if path == Path::new("-") {
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(());
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The line that follows a run on a terminal: rate, errors and p99 of the last second.
pub struct ProgressLine {
    shown: bool,
    records: u64,
    bytes: u64,
    since: Duration,
}

impl ProgressLine {
    /// Nothing is shown when `quiet`, or when standard error is not a terminal.
    pub fn new(quiet: bool) -> ProgressLine {
        let shown = !quiet && std::io::stderr().is_terminal();
        ProgressLine { shown, records: 0, bytes: 0, since: Duration::ZERO }
    }

    pub fn show(&mut self, since: Duration, interval: &Interval) {
        let seconds = since.saturating_sub(self.since).as_secs_f64().max(1e-9);
        let records = (interval.records.saturating_sub(self.records)) as f64 / seconds;
        let megabytes = (interval.bytes.saturating_sub(self.bytes)) as f64 / seconds / 1e6;
        (self.records, self.bytes, self.since) = (interval.records, interval.bytes, since);
        if !self.shown {
            return;
        }
        let p99 = LatencySummary::of(&interval.latency)
            .map_or(String::new(), |l| format!("  p99 {}", micros(l.p99)));
        // A terminal that is gone does not end the run.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{:4.0} s  {records:10.0} records/s  {megabytes:8.1} MB/s  {} errors{p99}",
            since.as_secs_f64(),
            interval.errors
        );
    }

    pub fn finish(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_exactly_the_promised_fields() {
        let mut stats = Stats::default();
        (stats.records, stats.bytes, stats.failed) = (1000, 100_000, 2);
        stats.took(Duration::from_micros(1500), 1000);
        let summary = Summary::new(&stats, 2.0, 0.25, Some("all"));
        let value = serde_json::to_value(&summary).unwrap();
        let fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = vec![
            "records",
            "bytes",
            "seconds",
            "records_per_second",
            "megabytes_per_second",
            "errors",
            "acks",
            "latency_us",
            "client_cpu_seconds",
        ];
        expected.sort_unstable();
        let mut sorted = fields.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        let latency = value["latency_us"].as_object().unwrap();
        assert_eq!(latency.len(), 6);
        assert!((latency["p50"].as_f64().unwrap() - 1500.0).abs() < 2.0);
        assert_eq!(value["records_per_second"], 500.0);
        assert_eq!(value["megabytes_per_second"], 0.05);
    }
}
