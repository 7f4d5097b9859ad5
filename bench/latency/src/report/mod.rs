//! A report directory: `report.html`, `result.json`, and a `.hgrm` file per distribution.
//!
//! | file | what it is |
//! |---|---|
//! | `html` | the page: tables and charts, nothing fetched from elsewhere |
//! | `svg` | charts |
//! | `hgrm` | HdrHistogram's own text form, for other plotters |

pub mod hgrm;
pub mod html;
pub mod svg;

use std::path::Path;

use anyhow::Context;

use crate::outcome::{Outcome, RESULT_FILE};
use crate::session::Distributions;

/// Writes the whole directory.
#[expect(clippy::disallowed_methods, reason = "a report is written once, after the run")]
pub fn write(directory: &Path, outcome: &Outcome, distributions: &[Distributions]) -> anyhow::Result<()> {
    let failed = || format!("cannot write to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(failed)?;
    let json = serde_json::to_vec_pretty(outcome)?;
    std::fs::write(directory.join(RESULT_FILE), json).with_context(failed)?;
    std::fs::write(directory.join("report.html"), html::page(outcome)).with_context(failed)?;
    for of in distributions {
        for (kind, histogram) in [("acknowledged", &of.acknowledged), ("end-to-end", &of.end_to_end)] {
            if !histogram.is_empty() {
                let name = format!("{}-{}-{kind}.hgrm", of.workload, of.target);
                std::fs::write(directory.join(name), hgrm::text(histogram)).with_context(failed)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::outcome::{Curve, Machine, Point, RoundOutcome, TargetOutcome, WorkloadOutcome};
    use odradek_loadgen::stats::latencies;

    #[test]
    fn a_report_is_complete_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let (outcome, distributions) = sample();
        write(directory.path(), &outcome, &distributions).unwrap();
        let read = Outcome::load(directory.path()).unwrap();
        let curve = |outcome: &Outcome| outcome.workloads[0].targets[0].acknowledged.clone().unwrap();
        let (written, read) = (curve(&outcome), curve(&read));
        assert!((written.latency.p99 - read.latency.p99).abs() < 0.001);
        assert_eq!(written.points.len(), read.points.len());
        let page = std::fs::read_to_string(directory.path().join("report.html")).unwrap();
        assert!(page.contains("flat &amp; even") && page.contains("Resident memory"));
        assert!(page.contains("steady-1k") && page.contains("&lt;odd&gt;") && !page.contains("<odd>"));
        assert!(!page.contains("http://") && !page.contains("https://"), "the page fetches something");
        assert!(directory.path().join("steady-1k-a-acknowledged.hgrm").exists());
        assert!(!directory.path().join("steady-1k-a-end-to-end.hgrm").exists());
    }

    pub fn sample() -> (Outcome, Vec<Distributions>) {
        let mut histogram = latencies();
        (1..=10_000).for_each(|us| histogram.saturating_record(us * 1000));
        let curve = Curve::of(&histogram);
        let point = Point { seconds: 0.5, p50: 100.0, p99: 200.0, max: 300.0 };
        let round = RoundOutcome {
            seconds: 1.0,
            records: 10_000,
            bytes: 10_240_000,
            records_per_second: 10_000.0,
            acknowledged: curve.as_ref().map(|curve| curve.latency),
            end_to_end: None,
            acknowledged_over_time: vec![point, Point { seconds: 1.0, ..point }],
            end_to_end_over_time: Vec::new(),
            resident_over_time: vec![(0.5, 1e8), (1.0, 2e8)],
        };
        let target = TargetOutcome {
            name: "a".into(),
            address: "h:1".into(),
            durability: "flushed".into(),
            rounds: vec![round],
            records_per_second: 10_000.0,
            megabytes_per_second: 10.24,
            errors: 0,
            acknowledged: curve,
            end_to_end: None,
            read_megabytes_per_second: None,
            broker_cpu_seconds_per_gigabyte: Some(0.5),
            broker_cpu_seconds_per_million_records: Some(0.25),
            client_cpu_seconds_per_gigabyte: 0.4,
        };
        let workload = WorkloadOutcome {
            name: "steady-1k".into(),
            about: "about".into(),
            open_loop: true,
            rate_wanted: Some(10_000.0),
            targets: vec![target],
            notes: vec!["flat & even".into()],
        };
        let outcome = Outcome {
            machine: Machine { cpu: "cpu".into(), cores: 2, kernel: "6".into() },
            command: "odradek-latency run".into(),
            label: "<odd>".into(),
            rounds: 1,
            seconds_per_round: 1.0,
            workloads: vec![workload],
            skipped: vec![("compact".into(), "not offered".into())],
        };
        let distributions = vec![Distributions {
            workload: "steady-1k".into(),
            target: "a".into(),
            acknowledged: histogram,
            end_to_end: latencies(),
        }];
        (outcome, distributions)
    }
}
