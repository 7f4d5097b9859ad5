//! Two reports side by side: the ratio of each figure, other to base.

use std::io::Write;

use odradek_loadgen::summary::micros;

use crate::flags::CompareFlags;
use crate::outcome::{Curve, Outcome, TargetOutcome};
use crate::report::html::{document, facts};
use crate::report::svg::{Axis, COLOURS, Line, chart, escape};

/// Prints the ratios, and writes the page if asked.
pub fn run(flags: &CompareFlags) -> anyhow::Result<()> {
    let (base, other) = (Outcome::load(&flags.base)?, Outcome::load(&flags.other)?);
    let rows = rows(&base, &other);
    anyhow::ensure!(!rows.is_empty(), "the reports have no workload and target in common");
    let mut out = std::io::stdout();
    writeln!(out, "{:<40} {:>14} {:>14} {:>8}", "workload / target / figure", "base", "other", "ratio")?;
    for row in &rows {
        let ratio = row.ratio().map_or("-".to_string(), |ratio| format!("{ratio:.2}"));
        writeln!(
            out,
            "{:<40} {:>14} {:>14} {ratio:>8}",
            row.name,
            row.shown(row.base),
            row.shown(row.other)
        )?;
    }
    if let Some(path) = &flags.report {
        write_page(path, &page(&base, &other, &rows))?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a report is written once")]
fn write_page(path: &std::path::Path, page: &str) -> anyhow::Result<()> {
    std::fs::write(path, page).map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Micros,
    Plain,
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    unit: Unit,
    base: f64,
    other: f64,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        (self.base > 0.0).then(|| self.other / self.base)
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::Micros => micros(value),
            Unit::Plain => format!("{value:.2}"),
        }
    }
}

/// Figures that both reports have for the same workload and target name.
fn rows(base: &Outcome, other: &Outcome) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, of_base, of_other) in pairs(base, other) {
        let mut add = |figure: &str, unit, base: Option<f64>, other: Option<f64>| {
            if let Some((base, other)) = base.zip(other) {
                rows.push(Row { name: format!("{name} {figure}"), unit, base, other });
            }
        };
        add("records/s", Unit::Plain, Some(of_base.records_per_second), Some(of_other.records_per_second));
        let cpu = |target: &TargetOutcome| target.broker_cpu_seconds_per_gigabyte;
        add("broker CPU-s/GB", Unit::Plain, cpu(of_base), cpu(of_other));
        let curves = [
            ("ack", &of_base.acknowledged, &of_other.acknowledged),
            ("e2e", &of_base.end_to_end, &of_other.end_to_end),
        ];
        for (kind, base, other) in curves {
            if let (Some(base), Some(other)) = (base, other) {
                let figures = base.latency.named().into_iter().zip(other.latency.named());
                for ((figure, base), (_, other)) in figures {
                    add(&format!("{kind} {figure}"), Unit::Micros, Some(base), Some(other));
                }
            }
        }
    }
    rows
}

fn pairs<'a>(base: &'a Outcome, other: &'a Outcome) -> Vec<(String, &'a TargetOutcome, &'a TargetOutcome)> {
    let mut pairs = Vec::new();
    for of_base in &base.workloads {
        let Some(of_other) = other.workloads.iter().find(|workload| workload.name == of_base.name) else {
            continue;
        };
        for target in &of_base.targets {
            if let Some(found) = of_other.targets.iter().find(|found| found.name == target.name) {
                pairs.push((format!("{} / {}", of_base.name, target.name), target, found));
            }
        }
    }
    pairs
}

fn page(base: &Outcome, other: &Outcome, rows: &[Row]) -> String {
    let mut body = format!("<h1>Two latency reports</h1><h2>Base</h2>{}", facts(base));
    body.push_str(&format!("<h2>Other</h2>{}<h2>Figures</h2>", facts(other)));
    body.push_str(
        "<table><thead><tr><th>figure</th><th>base</th><th>other</th><th>ratio</th></tr></thead><tbody>",
    );
    for row in rows {
        let ratio = row.ratio().map_or("-".to_string(), |ratio| format!("{ratio:.2}"));
        body.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{ratio}</td></tr>",
            escape(&row.name),
            row.shown(row.base),
            row.shown(row.other)
        ));
    }
    body.push_str("</tbody></table>");
    for (name, of_base, of_other) in pairs(base, other) {
        let line = |name: &str, at: usize, curve: &Option<Curve>| Line {
            name: name.to_string(),
            colour: COLOURS[at],
            dashed: at > 0,
            points: curve.as_ref().map_or_else(Vec::new, |curve| curve.points.clone()),
        };
        let acknowledged = [line("base", 0, &of_base.acknowledged), line("other", 1, &of_other.acknowledged)];
        body.push_str(&chart(&format!("{name}: send to acknowledgement"), Axis::Quantile, &acknowledged));
        let end_to_end = [line("base", 0, &of_base.end_to_end), line("other", 1, &of_other.end_to_end)];
        body.push_str(&chart(&format!("{name}: end to end"), Axis::Quantile, &end_to_end));
    }
    document("Two latency reports", &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn ratios_are_other_to_base() {
        let (base, _) = sample();
        let mut other = base.clone();
        other.workloads[0].targets[0].records_per_second *= 2.0;
        let rows = rows(&base, &other);
        assert_eq!(rows[0].name, "steady-1k / a records/s");
        assert_eq!(rows[0].ratio(), Some(2.0));
        assert_eq!(rows.len(), 2 + 6);
        assert!(rows[2..].iter().all(|row| row.ratio() == Some(1.0)));
        assert!(page(&base, &other, &rows).contains("</html>"));
    }

    #[test]
    fn what_only_one_report_has_is_left_out() {
        let (base, _) = sample();
        let mut other = base.clone();
        other.workloads[0].targets[0].name = "b".into();
        assert!(rows(&base, &other).is_empty());
    }
}
