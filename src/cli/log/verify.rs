//! `odradek log verify`: everything in a stopped broker's data directories, held against everything else.
//!
//! ```text
//! metadata log ─► image: topics, partitions, epochs ──┐
//! recovery-point-checkpoint.*, clean-stop ─► points ──┼─► partition directory: partition.metadata, segments,
//! journal.<shard> ─► what was cut since ──────────────┘   indexes, producer snapshots, epochs
//! ```
//!
//! Of several directories one has the metadata, which says what each of the others has. Without it, less is
//! known of them: not their topics' settings, and not which partitions are missing.
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
use std::path::{Path, PathBuf};

use bytes::Bytes;

use odradek::cluster::encoding;
use odradek::cluster::image::Image;
use odradek::cluster::log_entry::Verdict;
use odradek::cluster::quorum::entry::{LogEntry, Payload};
use odradek::cluster::quorum::frame::scan;
use odradek::cluster::quorum::members::PeerId;
use odradek::cluster::record::Record;
use odradek::log::checkpoint::{Checkpoint, CleanStop, PartitionPoint, merge};
use odradek::log::data_dir::{CLEAN_STOP_FILE, is_checkpoint, is_final_state};
use odradek::log::final_state;
use odradek::log::inspect::findings::Severity;
use odradek::log::inspect::partition_check::PartitionExpectation;
use odradek::log::ownership::{self, PARTITION_METADATA};
use odradek::log::recovery::OffsetGaps;
use odradek::log::segment::{DirectoryName, FileName, SegmentFile, directory_name};
use odradek::preflight;
use odradek::types::{DirectoryId, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicPartition};

use self::report::{Line, PartitionReport, Progress, Report, counted};
use super::VerifyArguments;
use crate::cli::{Failure, print, print_json};

/// Bytes of a file that is read as a whole.
const WHOLE_FILE_MAX: u64 = 256 << 20;

const METADATA_LOG: &str = "metadata/00000000000000000000.log";

/// What the metadata says, and whether it could be looked at.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Metadata {
    Known(Image),
    /// It is in a directory that was not given.
    Elsewhere,
}

/// What the files of a directory say, before any partition is looked at.
struct Node {
    /// Its identity, if it has one.
    id: Option<DirectoryId>,
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
    let directories = &arguments.directories;
    let held = directories.iter().map(|directory| preflight::hold_for_reading(directory));
    let _held = held.collect::<Result<Vec<_>, _>>()?;
    let mut progress = Progress::new(directories)?;
    let report = verify(directories, &mut progress)?;
    progress.finish();
    if arguments.json {
        print_json(&report.json())?;
    } else {
        print(&report.text())?;
    }
    match report.problem_count() {
        0 => Ok(()),
        count => {
            let names: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
            Err(format!("{} in {}", counted(count, "problem"), names.join(", ")).into())
        }
    }
}

/// Errors: a directory that cannot be listed. A file that cannot be read is a finding.
fn verify(data_dirs: &[PathBuf], progress: &mut Progress) -> io::Result<Report> {
    let mut first = Report::default();
    let metadata = find_metadata(data_dirs, &mut first);
    let mut reports = Vec::with_capacity(data_dirs.len());
    let mut found = BTreeMap::new();
    for data_dir in data_dirs {
        let mut report = std::mem::take(&mut first);
        verify_one(data_dir, &metadata, &mut found, &mut report, progress)?;
        reports.push(report);
    }
    let names = data_dirs.iter().map(|path| path.display().to_string());
    Ok(Report::of_all(names.zip(reports).collect()))
}

/// The image of the directory that has the metadata; what is wrong with it goes into `report`, which is
/// that of the first directory.
fn find_metadata(data_dirs: &[PathBuf], report: &mut Report) -> Metadata {
    if let Some(data_dir) = data_dirs.iter().find(|data_dir| data_dir.join(METADATA_LOG).exists()) {
        return Metadata::Known(read_metadata(data_dir, report));
    }
    let elsewhere =
        |data_dir: &PathBuf| preflight::directory_ids(data_dir).and_then(|(_, metadata)| metadata);
    match data_dirs.iter().map(elsewhere).collect::<Option<Vec<String>>>() {
        Some(ids) => {
            let id = ids.first().map_or("", |id| id);
            let what = format!("the metadata is in the directory with directory.id {id}; give it as well");
            report.lines.push(Line::new(Severity::Note, METADATA_LOG, None, what));
            Metadata::Elsewhere
        }
        None => Metadata::Known(read_metadata(&data_dirs[0], report)),
    }
}

/// `found`: the partitions of all directories so far, and where they are.
fn verify_one(
    data_dir: &Path,
    metadata: &Metadata,
    found: &mut BTreeMap<TopicPartition, PathBuf>,
    report: &mut Report,
    progress: &mut Progress,
) -> io::Result<()> {
    let mut node = read_node(data_dir, report)?;
    node.journalled = journal::verify(data_dir, node.clean, &mut node.points, report)?;
    report.clean = node.clean;
    let mut here: Vec<TopicPartition> = Vec::new();
    for directory in partition_directories(data_dir, report)? {
        let id = partition_id(data_dir, metadata, &directory);
        here.extend(id);
        let path = data_dir.join(&directory.name);
        let mut partition = match id {
            Some(id) => {
                let mut partition = partition::verify(&path, &expected(metadata, &node, id), progress)?;
                check_place(metadata, &node, id, &mut partition);
                if let Some(other) = found.insert(id, path.clone()) {
                    let what = format!("the same partition is in {}", other.display());
                    partition.push(Line::new(Severity::Problem, "", None, what));
                }
                partition
            }
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
    if let Metadata::Known(image) = metadata {
        find_missing(image, &node, here, report);
    }
    Ok(())
}

/// Whose a partition's directory is: as the metadata says, or without it, as it says itself.
fn partition_id(
    data_dir: &Path,
    metadata: &Metadata,
    directory: &PartitionDirectory,
) -> Option<TopicPartition> {
    let topic = match metadata {
        Metadata::Known(image) => {
            let topic = image.topic_named(&directory.topic)?;
            (directory.partition.index() < topic.partitions.len()).then_some(topic.id)?
        }
        Metadata::Elsewhere => {
            let text = read_whole(&data_dir.join(&directory.name).join(PARTITION_METADATA)).ok()?;
            ownership::decode(&String::from_utf8_lossy(&text)).ok()?
        }
    };
    Some(TopicPartition { topic, partition: directory.partition })
}

/// The metadata may say that the partition is in another directory: then a start leaves it offline.
fn check_place(metadata: &Metadata, node: &Node, id: TopicPartition, partition: &mut PartitionReport) {
    let Metadata::Known(image) = metadata else { return };
    let state = image.partition(id).expect("it was found in the image");
    let stated: Vec<DirectoryId> = state.replicas.iter().filter_map(|replica| replica.directory).collect();
    if let Some(here) = node.id
        && let Some(wanted) = stated.first()
        && !stated.contains(&here)
    {
        let what = format!("the metadata says that it is in the directory with directory.id {wanted}");
        partition.push(Line::new(Severity::Problem, "", None, what));
    }
}

/// What is held against one partition's directory.
pub struct Expected {
    pub id: TopicPartition,
    /// `None`: nothing says it.
    pub leader_epoch: Option<LeaderEpoch>,
    pub log: PartitionExpectation,
}

fn expected(metadata: &Metadata, node: &Node, id: TopicPartition) -> Expected {
    let (leader_epoch, may_have_gaps) = match metadata {
        Metadata::Known(image) => {
            let state = image.partition(id).expect("it was found in the image");
            let topic = image.topic(id.topic).expect("it was found in the image");
            let policy = topic.config.get("cleanup.policy");
            (Some(state.leader_epoch), policy.is_some_and(|policy| policy.contains("compact")))
        }
        Metadata::Elsewhere => (None, true),
    };
    let log = PartitionExpectation {
        clean: node.clean,
        gaps: if may_have_gaps { OffsetGaps::Allowed } else { OffsetGaps::Refused },
        point: node.points.get(&id).copied(),
        journalled: node.journalled.contains(&id),
    };
    Expected { id, leader_epoch, log }
}

fn read_node(data_dir: &Path, report: &mut Report) -> io::Result<Node> {
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
    let id = preflight::directory_ids(data_dir).map(|(id, _)| id);
    Ok(Node { id, points: merge(&checkpoints), clean, journalled: BTreeSet::new() })
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
    // Whose log it is only matters to one without members, and then to nothing that is looked at here.
    let found = scan(&bytes, PeerId::new(NodeId(0), 0));
    let recovered = &found.recovered;
    if let Err(problem) = apply_all(&recovered.base.parts, recovered.base.index, &mut image) {
        report.problem(METADATA_LOG, None, problem);
        return image;
    }
    // Of several voters, the last entries may not be committed; of one, all are.
    for LogEntry { index, payload, .. } in &recovered.entries {
        let Payload::Records(records) = payload else { continue };
        if let Err(problem) = apply_all(std::slice::from_ref(records), *index, &mut image) {
            report.problem(METADATA_LOG, None, problem);
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

/// Errors: what is wrong with the entry.
fn apply_all(parts: &[Bytes], index: u64, image: &mut Image) -> Result<(), String> {
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let records: Vec<Record> =
            encoding::decode(part).map_err(|error| format!("entry {index} cannot be read: {error}"))?;
        let applied = records.iter().try_for_each(|record| image.apply(record));
        applied.map_err(|error| format!("entry {index} does not apply: {error}"))?;
    }
    Ok(())
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
fn find_missing(image: &Image, node: &Node, mut found: Vec<TopicPartition>, report: &mut Report) {
    found.sort();
    for (id, point) in &node.points {
        let Some(topic) = image.topic(id.topic) else { continue };
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
