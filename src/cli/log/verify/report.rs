//! What was found, for people and for programs; and how far it has got, on a terminal.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use odradek::log::inspect::findings::{Finding, Findings, Place, Severity};
use odradek::log::inspect::partition_check::PartitionFacts;
use serde_json::{Value, json};

use super::segment_bytes;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    severity: Severity,
    /// Relative to the directory that is spoken of; empty: that directory itself.
    file: String,
    position: Option<u64>,
    what: String,
}

impl Line {
    pub fn new(severity: Severity, file: &str, position: Option<u64>, what: impl ToString) -> Line {
        Line { severity, file: file.to_string(), position, what: what.to_string() }
    }

    fn of(finding: &Finding) -> Line {
        let what = &finding.offence;
        match finding.place {
            Place::Partition => Line::new(finding.severity, "", None, what),
            Place::File { base_offset, file, file_position } => {
                Line::new(finding.severity, &file.name(base_offset), Some(file_position), what)
            }
        }
    }

    fn text(&self) -> String {
        let severity = severity_name(self.severity);
        let at = self.position.map_or(String::new(), |position| format!(" byte {position}"));
        match self.file.as_str() {
            "" => format!("{severity}: {}", self.what),
            file => format!("{severity}: {file}{at}: {}", self.what),
        }
    }

    fn json(&self) -> Value {
        json!({
            "severity": severity_name(self.severity),
            "file": (!self.file.is_empty()).then_some(&self.file),
            "position": self.position,
            "what": self.what,
        })
    }
}

/// "1 batch", "2 batches".
pub fn counted(count: u64, what: &str) -> String {
    let plural = if what.ends_with('h') { "es" } else { "s" };
    format!("{count} {what}{}", if count == 1 { "" } else { plural })
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Problem => "problem",
    }
}

#[derive(Clone, Debug, Default)]
pub struct PartitionReport {
    pub directory: String,
    facts: PartitionFacts,
    /// The first ones.
    lines: Vec<Line>,
    problem_count: u64,
    note_count: u64,
}

impl PartitionReport {
    pub fn new(facts: PartitionFacts, findings: &Findings) -> PartitionReport {
        PartitionReport {
            directory: String::new(),
            facts,
            lines: findings.kept().iter().map(Line::of).collect(),
            problem_count: findings.problem_count,
            note_count: findings.note_count,
        }
    }

    pub fn push(&mut self, line: Line) {
        match line.severity {
            Severity::Note => self.note_count += 1,
            Severity::Problem => self.problem_count += 1,
        }
        self.lines.push(line);
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(&format!("{}: {}\n", self.directory, line.text()));
        }
        let more = self.problem_count + self.note_count - self.lines.len() as u64;
        if more > 0 {
            text.push_str(&format!("{}: {more} more\n", self.directory));
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "directory": self.directory,
            "logStart": self.facts.log_start.get(),
            "logEnd": self.facts.log_end.get(),
            "segments": self.facts.segment_count,
            "batches": self.facts.batch_count,
            "records": self.facts.record_count,
            "bytes": self.facts.size,
            "problems": self.problem_count,
            "notes": self.note_count,
            "findings": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The last stop was clean.
    pub clean: bool,
    /// About the files of the node.
    pub lines: Vec<Line>,
    pub partitions: Vec<PartitionReport>,
}

impl Report {
    /// One of all directories; with several, everything says which one it is about.
    pub fn of_all(mut reports: Vec<(String, Report)>) -> Report {
        if reports.len() == 1 {
            return reports.pop().map(|(_, report)| report).unwrap_or_default();
        }
        let mut all = Report { clean: true, ..Report::default() };
        for (directory, report) in reports {
            all.clean &= report.clean;
            all.lines.extend(report.lines.into_iter().map(|mut line| {
                line.file = format!("{directory}/{}", line.file);
                line
            }));
            all.partitions.extend(report.partitions.into_iter().map(|mut partition| {
                partition.directory = format!("{directory}/{}", partition.directory);
                partition
            }));
        }
        all
    }

    pub fn problem(&mut self, file: &str, position: Option<u64>, what: impl ToString) {
        self.lines.push(Line::new(Severity::Problem, file, position, what));
    }

    pub fn problem_count(&self) -> u64 {
        self.count(Severity::Problem)
    }

    fn count(&self, severity: Severity) -> u64 {
        let own = self.lines.iter().filter(|line| line.severity == severity).count() as u64;
        let of = |partition: &PartitionReport| match severity {
            Severity::Note => partition.note_count,
            Severity::Problem => partition.problem_count,
        };
        own + self.partitions.iter().map(of).sum::<u64>()
    }

    fn total(&self, figure: impl Fn(&PartitionFacts) -> u64) -> u64 {
        self.partitions.iter().map(|partition| figure(&partition.facts)).sum()
    }

    pub fn text(&self) -> String {
        let mut text: String = self.lines.iter().map(|line| line.text() + "\n").collect();
        self.partitions.iter().for_each(|partition| text.push_str(&partition.text()));
        text.push_str(&format!(
            "{}, {}, {} in {} and {}, {}: {}, {}\n",
            counted(self.partitions.len() as u64, "partition"),
            counted(self.total(|facts| facts.segment_count), "segment"),
            counted(self.total(|facts| facts.record_count), "record"),
            counted(self.total(|facts| facts.batch_count), "batch"),
            counted(self.total(|facts| facts.size), "byte"),
            if self.clean { "stopped cleanly" } else { "not stopped cleanly" },
            counted(self.count(Severity::Problem), "problem"),
            counted(self.count(Severity::Note), "note"),
        ));
        text
    }

    pub fn json(&self) -> Value {
        json!({
            "cleanStop": self.clean,
            "problems": self.count(Severity::Problem),
            "notes": self.count(Severity::Note),
            "segments": self.total(|facts| facts.segment_count),
            "batches": self.total(|facts| facts.batch_count),
            "records": self.total(|facts| facts.record_count),
            "bytes": self.total(|facts| facts.size),
            "findings": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
            "partitions": self.partitions.iter().map(PartitionReport::json).collect::<Vec<_>>(),
        })
    }
}

/// A line on standard error that is written over, one step per hundredth; nothing where standard error
/// is no terminal.
pub struct Progress {
    total: u64,
    done: u64,
    shown: Option<u64>,
}

impl Progress {
    pub fn new(data_dirs: &[PathBuf]) -> io::Result<Progress> {
        if !io::stderr().is_terminal() {
            return Ok(Progress::hidden());
        }
        let mut total = 0;
        for data_dir in data_dirs {
            total += segment_bytes(data_dir)?;
        }
        Ok(Progress { total, done: 0, shown: Some(0) })
    }

    pub fn hidden() -> Progress {
        Progress { total: 0, done: 0, shown: None }
    }

    pub fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        let percent = (self.done as u128 * 100 / self.total.max(1) as u128) as u64;
        if self.shown.is_some_and(|shown| shown < percent) {
            self.shown = Some(percent);
            eprint!("\r{percent} % of {} MiB", self.total >> 20);
        }
    }

    /// Clears the line.
    pub fn finish(&mut self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
