//! What was measured, and what it means for acknowledgements.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::super::table::Table;

/// Percentiles of one kind of call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// From nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            count: histogram.len(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }

    fn json(&self) -> Value {
        json!({
            "count": self.count,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "p999_us": self.p999_us,
            "max_us": self.max_us,
        })
    }
}

/// 4 KiB writes, each with its flush.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlushFigures {
    pub write: Latency,
    pub flush: Latency,
    /// Both together.
    pub total: Latency,
}

impl FlushFigures {
    fn json(&self) -> Value {
        json!({
            "write": self.write.json(),
            "flush": self.flush.json(),
            "total": self.total.json(),
            "acknowledgement": predict(self).json(),
        })
    }
}

/// Writes of one size, each with its flush, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupCommit {
    /// Bytes.
    pub size: usize,
    pub commits_per_second: f64,
    pub latency: Latency,
}

/// What the disk lets an acknowledgement take inside the broker, without network and client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// A commit that finds the disk idle: its write and its flush.
    pub idle_us_p50: f64,
    pub idle_us_p99: f64,
    /// One that finds a flush under way: it waits for half of that one on average, for all of it at
    /// worst, and then takes its own.
    pub busy_us_p50: f64,
    pub busy_us_p99: f64,
}

pub fn predict(figures: &FlushFigures) -> Prediction {
    let (idle_us_p50, idle_us_p99) = (figures.total.p50_us, figures.total.p99_us);
    Prediction {
        idle_us_p50,
        idle_us_p99,
        busy_us_p50: idle_us_p50 + figures.flush.p50_us / 2.0,
        busy_us_p99: idle_us_p99 + figures.flush.p99_us,
    }
}

impl Prediction {
    fn json(&self) -> Value {
        json!({
            "idle_p50_us": self.idle_us_p50,
            "idle_p99_us": self.idle_us_p99,
            "busy_p50_us": self.busy_us_p50,
            "busy_p99_us": self.busy_us_p99,
        })
    }

    fn text(&self) -> String {
        format!(
            "{} p50, {} p99 on an idle disk; {} p50, {} p99 behind a flush",
            milliseconds(self.idle_us_p50),
            milliseconds(self.idle_us_p99),
            milliseconds(self.busy_us_p50),
            milliseconds(self.busy_us_p99),
        )
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    pub directory: String,
    pub write_bytes_per_second: f64,
    pub read_bytes_per_second: f64,
    /// Over blocks that were written before.
    pub overwrite: FlushFigures,
    /// Into space that was only preallocated: where this build's commits go.
    pub fresh: FlushFigures,
    pub group_commits: Vec<GroupCommit>,
}

impl Figures {
    pub fn json(&self) -> Value {
        let group_commits = self.group_commits.iter().map(|commit| {
            json!({
                "size": commit.size,
                "commits_per_second": commit.commits_per_second,
                "bytes_per_second": commit.commits_per_second * commit.size as f64,
                "latency": commit.latency.json(),
            })
        });
        json!({
            "directory": self.directory,
            "write_bytes_per_second": self.write_bytes_per_second,
            "read_bytes_per_second": self.read_bytes_per_second,
            "flush_overwriting": self.overwrite.json(),
            "flush_preallocated": self.fresh.json(),
            "group_commits": group_commits.collect::<Vec<_>>(),
        })
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: sequential write {:.0} MB/s, read {:.0} MB/s (direct, 1 MiB, 4 in flight)\n\n",
            self.directory,
            self.write_bytes_per_second / 1e6,
            self.read_bytes_per_second / 1e6,
        );
        let mut table = Table::new(&["4 KiB WRITE, THEN FDATASYNC", "COUNT", "P50", "P99", "P99.9", "MAX"]);
        let rows = [
            ("over written blocks: write", &self.overwrite.write),
            ("over written blocks: flush", &self.overwrite.flush),
            ("over written blocks: both", &self.overwrite.total),
            ("into preallocated space: write", &self.fresh.write),
            ("into preallocated space: flush", &self.fresh.flush),
            ("into preallocated space: both", &self.fresh.total),
        ];
        for (name, latency) in rows {
            let figures = [latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us].map(milliseconds);
            let [p50, p99, p999, max] = &figures;
            table.row(&[name, &latency.count.to_string(), p50, p99, p999, max]);
        }
        text.push_str(&table.to_string());
        let mut table = Table::new(&["GROUP COMMIT", "PER SECOND", "MB/S", "P50", "P99"]);
        for commit in &self.group_commits {
            table.row(&[
                &format!("{} KiB", commit.size >> 10),
                &format!("{:.0}", commit.commits_per_second),
                &format!("{:.1}", commit.commits_per_second * commit.size as f64 / 1e6),
                &milliseconds(commit.latency.p50_us),
                &milliseconds(commit.latency.p99_us),
            ]);
        }
        text.push_str(&format!("\n{table}\n"));
        text.push_str("An acknowledgement (acks=all, one node) takes at least, on this disk:\n");
        text.push_str(&format!(
            "  into preallocated segments, as this build commits: {}\n",
            predict(&self.fresh).text()
        ));
        text.push_str(&format!("  over written blocks: {}\n", predict(&self.overwrite).text()));
        text
    }
}

fn milliseconds(us: f64) -> String {
    format!("{:.2} ms", us / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn figures_are_shown_with_what_they_mean() {
        expect![[r#"
            /srv/odradek: sequential write 2100 MB/s, read 3200 MB/s (direct, 1 MiB, 4 in flight)

            4 KiB WRITE, THEN FDATASYNC     COUNT  P50      P99      P99.9    MAX
            over written blocks: write      1000   0.02 ms  0.10 ms  0.20 ms  0.30 ms
            over written blocks: flush      1000   0.10 ms  0.80 ms  1.60 ms  2.40 ms
            over written blocks: both       1000   0.12 ms  0.90 ms  1.80 ms  2.70 ms
            into preallocated space: write  1000   0.03 ms  0.20 ms  0.40 ms  0.60 ms
            into preallocated space: flush  1000   0.40 ms  2.70 ms  5.40 ms  8.10 ms
            into preallocated space: both   1000   0.42 ms  2.90 ms  5.80 ms  8.70 ms

            GROUP COMMIT  PER SECOND  MB/S    P50      P99
            4 KiB         8000        32.8    0.12 ms  0.25 ms
            1024 KiB      1000        1048.6  1.00 ms  2.00 ms

            An acknowledgement (acks=all, one node) takes at least, on this disk:
              into preallocated segments, as this build commits: 0.42 ms p50, 2.90 ms p99 on an idle disk; 0.62 ms p50, 5.60 ms p99 behind a flush
              over written blocks: 0.12 ms p50, 0.90 ms p99 on an idle disk; 0.17 ms p50, 1.70 ms p99 behind a flush
        "#]].assert_eq(&figures().text());
        let json = figures().json();
        assert_eq!(json["flush_preallocated"]["acknowledgement"]["busy_p99_us"], 5600.0);
        assert_eq!(json["group_commits"][1]["bytes_per_second"], 1_048_576_000.0);
    }

    #[test]
    fn who_finds_a_flush_under_way_waits_for_it() {
        let prediction = predict(&figures().overwrite);
        assert_eq!((prediction.idle_us_p50, prediction.busy_us_p50), (120.0, 170.0));
        assert_eq!((prediction.idle_us_p99, prediction.busy_us_p99), (900.0, 1700.0));
    }

    fn figures() -> Figures {
        let overwrite = FlushFigures {
            write: latency(20.0, 100.0),
            flush: latency(100.0, 800.0),
            total: latency(120.0, 900.0),
        };
        let fresh = FlushFigures {
            write: latency(25.0, 200.0),
            flush: latency(400.0, 2700.0),
            total: latency(425.0, 2900.0),
        };
        let commit = |size, commits_per_second| GroupCommit {
            size,
            commits_per_second,
            latency: latency(1e6 / commits_per_second, 2e6 / commits_per_second),
        };
        Figures {
            directory: "/srv/odradek".to_string(),
            write_bytes_per_second: 2.1e9,
            read_bytes_per_second: 3.2e9,
            overwrite,
            fresh,
            group_commits: vec![commit(4096, 8000.0), commit(1 << 20, 1000.0)],
        }
    }

    fn latency(p50_us: f64, p99_us: f64) -> Latency {
        Latency { count: 1000, p50_us, p99_us, p999_us: 2.0 * p99_us, max_us: 3.0 * p99_us }
    }
}
