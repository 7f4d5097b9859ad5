//! `odradek log verify`: everything in a stopped broker's data directory, held against everything else.
//!
//! ```text
//! metadata log ─► image: topics, partitions, epochs ──┐
//! recovery-point-checkpoint.*, clean-stop ─► points ──┼─► partition directory: partition.metadata, segments,
//! journal.<shard> ─► what was cut since ──────────────┘   indexes, producer snapshots, epochs
//! ```
//!
//! Reads only; a shared lock keeps a broker from starting meanwhile. What a start would put right by
//! itself (a torn tail, a missing index) is a note and does not count; anything else is a problem.
//! Absent: bytes that after an unclean stop only the commit journal has. They are not laid over the
//! segments, which may lack them from the recovery point on.

#![expect(clippy::disallowed_methods, reason = "a command of its own process reads files")]

mod journal;
mod partition;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use odradek::cluster::image::Image;
use odradek::cluster::log_entry::{Verdict, scan};
use odradek::log::checkpoint::{Checkpoint, CleanStop, PartitionPoint, merge};
use odradek::log::data_dir::{CLEAN_STOP_FILE, is_checkpoint, is_final_state};
use odradek::log::final_state;
use odradek::log::inspect::findings::Severity;
use odradek::log::inspect::partition_check::PartitionExpectation;
use odradek::log::recovery::OffsetGaps;
use odradek::log::segment::{DirectoryName, FileName, SegmentFile, directory_name};
use odradek::preflight;
use odradek::types::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};

use self::report::{Line, PartitionReport, Progress, Report, counted};
use super::VerifyArguments;
use crate::cli::{Failure, print, print_json};

/// Bytes of a file that is read as a whole.
const WHOLE_FILE_MAX: u64 = 256 << 20;

const METADATA_LOG: &str = "metadata/00000000000000000000.log";

/// What the files of the node say, before any partition is looked at.
struct Node {
    image: Image,
    points: BTreeMap<TopicPartition, PartitionPoint>,
    clean: bool,
    /// Of which the journals have bytes to replay.
    journalled: BTreeSet<TopicPartition>,
}

/// A partition's directory, by its name.
struct PartitionDirectory {
    name: String,
    topic: String,
    partition: PartitionIndex,
}

pub fn run(arguments: &VerifyArguments) -> Result<(), Failure> {
    let _held = preflight::hold_for_reading(&arguments.directory)?;
    let mut progress = Progress::new(&arguments.directory)?;
    let report = verify(&arguments.directory, &mut progress)?;
    progress.finish();
    if arguments.json {
        print_json(&report.json())?;
    } else {
        print(&report.text())?;
    }
    match report.problem_count() {
        0 => Ok(()),
        count => Err(format!("{} in {}", counted(count, "problem"), arguments.directory.display()).into()),
    }
}

/// Errors: a directory that cannot be listed. A file that cannot be read is a finding.
fn verify(data_dir: &Path, progress: &mut Progress) -> io::Result<Report> {
    let mut report = Report::default();
    let mut node = read_node(data_dir, &mut report)?;
    node.journalled = journal::verify(data_dir, node.clean, &mut node.points, &mut report)?;
    report.clean = node.clean;
    let mut found: Vec<TopicPartition> = Vec::new();
    for directory in partition_directories(data_dir, &mut report)? {
        let topic = node.image.topic_named(&directory.topic);
        let topic = topic.filter(|topic| directory.partition.index() < topic.partitions.len());
        let id = topic.map(|topic| TopicPartition { topic: topic.id, partition: directory.partition });
        found.extend(id);
        let path = data_dir.join(&directory.name);
        let mut partition = match id {
            Some(id) => partition::verify(&path, &expected(&node, id), progress)?,
            None => {
                let what = "no topic in the metadata has this partition; brokers leave it alone";
                let mut partition = PartitionReport::default();
                partition.push(Line::new(Severity::Note, "", None, what));
                partition
            }
        };
        partition.directory = directory.name;
        report.partitions.push(partition);
    }
    find_missing(&node, &found, &mut report);
    Ok(report)
}

/// What is held against one partition's directory.
pub struct Expected {
    pub topic: TopicId,
    pub leader_epoch: LeaderEpoch,
    pub log: PartitionExpectation,
}

fn expected(node: &Node, id: TopicPartition) -> Expected {
    let state = node.image.partition(id).expect("it was found in the image");
    let topic = node.image.topic(id.topic).expect("it was found in the image");
    let is_compacted = topic.config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
    let log = PartitionExpectation {
        clean: node.clean,
        gaps: if is_compacted { OffsetGaps::Allowed } else { OffsetGaps::Refused },
        point: node.points.get(&id).copied(),
        journalled: node.journalled.contains(&id),
    };
    Expected { topic: id.topic, leader_epoch: state.leader_epoch, log }
}

fn read_node(data_dir: &Path, report: &mut Report) -> io::Result<Node> {
    let image = read_metadata(data_dir, report);
    let mut checkpoints = Vec::new();
    for name in names(data_dir)?.into_iter().filter(|name| is_checkpoint(name)) {
        match read_whole(&data_dir.join(&name)).map(|bytes| Checkpoint::decode(&bytes)) {
            Ok(Ok(checkpoint)) => checkpoints.push(checkpoint),
            Ok(Err(error)) => report.problem(&name, None, error),
            Err(error) => report.problem(&name, None, error),
        }
    }
    let clean = match read_whole(&data_dir.join(CLEAN_STOP_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            report.problem(CLEAN_STOP_FILE, None, error);
            false
        }
        Ok(bytes) => match CleanStop::decode(&bytes) {
            Ok(mark) if mark.confirms(&checkpoints) => true,
            Ok(_) => {
                report.problem(CLEAN_STOP_FILE, None, "the checkpoints are not those of this stop");
                false
            }
            Err(error) => {
                report.problem(CLEAN_STOP_FILE, None, error);
                false
            }
        },
    };
    check_final_states(data_dir, report)?;
    Ok(Node { image, points: merge(&checkpoints), clean, journalled: BTreeSet::new() })
}

/// Without its final state a start looks into the segments: no record is lost.
fn check_final_states(data_dir: &Path, report: &mut Report) -> io::Result<()> {
    for name in names(data_dir)?.into_iter().filter(|name| is_final_state(name)) {
        let what = match read_whole(&data_dir.join(&name)).map(|bytes| final_state::decode(&bytes)) {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        report.lines.push(Line::new(Severity::Note, &name, None, what));
    }
    Ok(())
}

/// The image as far as the log can be read.
fn read_metadata(data_dir: &Path, report: &mut Report) -> Image {
    let mut image = Image::default();
    let bytes = match read_whole(&data_dir.join(METADATA_LOG)) {
        Ok(bytes) => bytes,
        Err(error) => {
            report.problem(METADATA_LOG, None, error);
            return image;
        }
    };
    let found = scan(&bytes);
    for entry in &found.entries {
        if let Err(error) = entry.records.iter().try_for_each(|record| image.apply(record)) {
            report.problem(METADATA_LOG, None, format!("entry {} does not apply: {error}", entry.sequence.0));
            return image;
        }
    }
    let at = Some(found.valid_end as u64);
    match found.verdict {
        Verdict::Clean => {}
        Verdict::TornTail { damage } => {
            let what = format!("a torn write; the next start cuts the log here ({damage})");
            report.lines.push(Line::new(Severity::Note, METADATA_LOG, at, what));
        }
        Verdict::Corrupt { damage } => report.problem(METADATA_LOG, at, damage),
        Verdict::Unreadable { sequence, error } => {
            report.problem(METADATA_LOG, at, format!("entry {}: {error}", sequence.0));
        }
    }
    image
}

fn partition_directories(data_dir: &Path, report: &mut Report) -> io::Result<Vec<PartitionDirectory>> {
    let mut directories = Vec::new();
    for name in names(data_dir)? {
        match DirectoryName::parse(&name) {
            Some(DirectoryName::Live { topic, partition }) if data_dir.join(&name).is_dir() => {
                directories.push(PartitionDirectory { name, topic, partition });
            }
            Some(DirectoryName::Deleted { .. }) => {
                let what = "left of a deleted topic; the next start removes it";
                report.lines.push(Line::new(Severity::Note, &name, None, what));
            }
            Some(DirectoryName::Live { .. }) | None => {}
        }
    }
    Ok(directories)
}

/// Partitions of which a checkpoint says that something was flushed, and that have no directory.
fn find_missing(node: &Node, found: &[TopicPartition], report: &mut Report) {
    let mut found = found.to_vec();
    found.sort();
    for (id, point) in &node.points {
        let Some(topic) = node.image.topic(id.topic) else { continue };
        let is_partition = id.partition.index() < topic.partitions.len();
        if is_partition && found.binary_search(id).is_err() && point.flushed_end > Offset::ZERO {
            let name = directory_name(&topic.name, id.partition);
            let what = format!("the directory is not there; flushed were {}", point.flushed_end);
            report.problem(&name, None, what);
        }
    }
}

/// Names in a directory, sorted; those that are no UTF-8 are nobody's.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(WHOLE_FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > WHOLE_FILE_MAX {
        return Err(io::Error::other(format!("more than {WHOLE_FILE_MAX} bytes are not looked at")));
    }
    Ok(bytes)
}

/// Bytes of all segments below, for the progress line.
fn segment_bytes(data_dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for name in names(data_dir)? {
        let path = data_dir.join(&name);
        if !matches!(DirectoryName::parse(&name), Some(DirectoryName::Live { .. })) || !path.is_dir() {
            continue;
        }
        for file in names(&path)? {
            if matches!(FileName::parse(&file), Some(FileName::Live { file: SegmentFile::Log, .. })) {
                bytes += std::fs::metadata(path.join(file))?.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
