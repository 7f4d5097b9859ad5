//! What was measured, and what it means for acknowledgements.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use odradek::log::commit::DIRECT_SIZE;
use odradek::log::plan::SyncFs;

use super::super::table::Table;
use super::disk::FILES;

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

/// How the broker flushes several segments at once on that file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushOfMany {
    /// One `syncfs`, and what else it takes.
    FileSystem,
    EachFile,
}

impl FlushOfMany {
    pub fn on(sync_fs: SyncFs) -> FlushOfMany {
        match sync_fs {
            SyncFs::Device | SyncFs::Metadata => FlushOfMany::FileSystem,
            SyncFs::Nothing => FlushOfMany::EachFile,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            FlushOfMany::FileSystem => "one syncfs",
            FlushOfMany::EachFile => "fdatasync of each",
        }
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
    /// Over blocks that were written before: the commit journal, where small appends go.
    pub overwrite: FlushFigures,
    /// Into space that was only preallocated: a segment, where large ones go.
    pub fresh: FlushFigures,
    /// The same of [`FILES`] segments with one flush for all.
    pub many: FlushFigures,
    pub flush_of_many: FlushOfMany,
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
            "flush_many_preallocated": self.many.json(),
            "many": { "files": FILES, "flush": self.flush_of_many.name() },
            "acknowledgement": predict(&self.overwrite).json(),
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
        let many = format!("{FILES} segments, {}", self.flush_of_many.name());
        let kinds = [
            ("journal: over written blocks", &self.overwrite),
            ("segment: preallocated", &self.fresh),
            (&many, &self.many),
        ];
        let mut table = Table::new(&["4 KiB WRITE, THEN FLUSH", "COUNT", "P50", "P99", "P99.9", "MAX"]);
        let rows = kinds.iter().flat_map(|(kind, figures)| {
            let parts = [("write", &figures.write), ("flush", &figures.flush), ("both", &figures.total)];
            parts.map(|(part, latency)| (format!("{kind}: {part}"), latency))
        });
        for (name, latency) in rows {
            let figures = [latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us].map(milliseconds);
            let [p50, p99, p999, max] = &figures;
            table.row(&[&name, &latency.count.to_string(), p50, p99, p999, max]);
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
        let journaled = DIRECT_SIZE >> 10;
        let kinds = [
            (format!("through the journal, below {journaled} KiB of a partition"), &self.overwrite),
            ("through a preallocated segment, above".to_owned(), &self.fresh),
            (format!("through {many}"), &self.many),
        ];
        for (kind, figures) in kinds {
            text.push_str(&format!("  {kind}: {}\n", predict(figures).text()));
        }
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

            4 KiB WRITE, THEN FLUSH              COUNT  P50      P99      P99.9    MAX
            journal: over written blocks: write  1000   0.02 ms  0.10 ms  0.20 ms  0.30 ms
            journal: over written blocks: flush  1000   0.10 ms  0.80 ms  1.60 ms  2.40 ms
            journal: over written blocks: both   1000   0.12 ms  0.90 ms  1.80 ms  2.70 ms
            segment: preallocated: write         1000   0.03 ms  0.20 ms  0.40 ms  0.60 ms
            segment: preallocated: flush         1000   0.40 ms  2.70 ms  5.40 ms  8.10 ms
            segment: preallocated: both          1000   0.42 ms  2.90 ms  5.80 ms  8.70 ms
            8 segments, one syncfs: write        1000   0.20 ms  0.90 ms  1.80 ms  2.70 ms
            8 segments, one syncfs: flush        1000   0.50 ms  3.00 ms  6.00 ms  9.00 ms
            8 segments, one syncfs: both         1000   0.70 ms  3.80 ms  7.60 ms  11.40 ms

            GROUP COMMIT  PER SECOND  MB/S    P50      P99
            4 KiB         8000        32.8    0.12 ms  0.25 ms
            1024 KiB      1000        1048.6  1.00 ms  2.00 ms

            An acknowledgement (acks=all, one node) takes at least, on this disk:
              through the journal, below 32 KiB of a partition: 0.12 ms p50, 0.90 ms p99 on an idle disk; 0.17 ms p50, 1.70 ms p99 behind a flush
              through a preallocated segment, above: 0.42 ms p50, 2.90 ms p99 on an idle disk; 0.62 ms p50, 5.60 ms p99 behind a flush
              through 8 segments, one syncfs: 0.70 ms p50, 3.80 ms p99 on an idle disk; 0.95 ms p50, 6.80 ms p99 behind a flush
        "#]].assert_eq(&figures().text());
        let json = figures().json();
        assert_eq!(json["flush_preallocated"]["acknowledgement"]["busy_p99_us"], 5600.0);
        assert_eq!(json["acknowledgement"]["busy_p99_us"], 1700.0, "the journal's");
        assert_eq!(json["many"]["flush"], "one syncfs");
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
            many: FlushFigures {
                write: latency(200.0, 900.0),
                flush: latency(500.0, 3000.0),
                total: latency(700.0, 3800.0),
            },
            flush_of_many: FlushOfMany::FileSystem,
            group_commits: vec![commit(4096, 8000.0), commit(1 << 20, 1000.0)],
        }
    }

    fn latency(p50_us: f64, p99_us: f64) -> Latency {
        Latency { count: 1000, p50_us, p99_us, p999_us: 2.0 * p99_us, max_us: 3.0 * p99_us }
    }
}
