//! The commit journals: which blocks of them a start would believe, and what it would miss.
//!
//! | found | it is |
//! |---|---|
//! | a block that was flushed and is needed is damaged or missing; bytes of such a one do not hold | a problem; a note after a clean stop, when nothing in a journal is needed |
//! | files of several sizes | a problem |
//! | `journal.<shard>.damaged.<number>` | a problem: what its partitions had committed is lost |
//! | whole blocks beyond a gap, `journal.<shard>.replayed` | a note |
//!
//! Of each journal the first offence is told. Judgements are those of a start
//! ([`Replay`], [`Redoing`]). Absent: the bytes of its entries in the place of those that segments lack.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use odradek::log::checkpoint::PartitionPoint;
use odradek::log::inspect::findings::Severity;
use odradek::log::inspect::journal_walk::{WalkedPart, entries_at, walk_journal_file};
use odradek::log::journal::block::{BlockSequence, BlockView};
use odradek::log::journal::flushed_ends::FlushedEnds;
use odradek::log::journal::redo::Redoing;
use odradek::log::journal::replay::{FoundBlock, Replay, Verdict};
use odradek::log::journal::ring::FileIndex;
use odradek::log::journal::settle::Settled;
use odradek::shard::journal::{
    Condition, file_name, is_replayed_directory, parse_directory_name, parse_file_name,
};
use odradek::types::{Offset, TopicPartition};

use super::names;
use super::report::{Line, Report};

type Points = BTreeMap<TopicPartition, PartitionPoint>;

/// Looks through all journals and brings the recovery points in line with what they say was cut or flushed.
///
/// Gives the partitions of which a journal has bytes to replay.
///
/// Errors: a directory that cannot be listed. A journal that cannot be read is a finding.
pub fn verify(
    data_dir: &Path,
    clean: bool,
    points: &mut Points,
    report: &mut Report,
) -> io::Result<BTreeSet<TopicPartition>> {
    let mut journalled = BTreeSet::new();
    for name in names(data_dir)? {
        let path = data_dir.join(&name);
        if !path.is_dir() {
            continue;
        }
        if is_replayed_directory(&name) {
            let what = "a journal that was replayed; the next start removes it";
            report.lines.push(Line::new(Severity::Note, &name, None, what));
            continue;
        }
        match parse_directory_name(&name) {
            None => {}
            Some((_, Condition::Damaged(_))) => {
                let what =
                    "a start has found this journal damaged; its partitions are offline until it is removed";
                report.problem(&name, None, what);
            }
            Some((_, Condition::Usable)) => match look_through(&path) {
                Ok(found) => {
                    report.lines.extend(found.offence.as_ref().map(|offence| offence.line(&name, clean)));
                    if !clean {
                        journalled.extend(found.settled.reached.keys());
                        found.settle(points);
                    }
                }
                Err(error) => report.problem(&name, None, format!("it cannot be read: {error}")),
            },
        }
    }
    Ok(journalled)
}

/// What is wrong with a journal, and where.
struct Offence {
    file: Option<FileIndex>,
    position: Option<u64>,
    what: String,
    weight: Weight,
}

/// What it means.
enum Weight {
    /// Whoever made the files would not have.
    Always,
    /// Only to a start that replays.
    UnlessClean,
    Never,
}

impl Offence {
    fn line(&self, directory: &str, clean: bool) -> Line {
        let name = match self.file {
            Some(file) => format!("{directory}/{}", file_name(file)),
            None => directory.to_string(),
        };
        match self.weight {
            Weight::UnlessClean if clean => {
                let what = format!("{}; after a clean stop it is not needed", self.what);
                Line::new(Severity::Note, &name, self.position, what)
            }
            Weight::Always | Weight::UnlessClean => {
                Line::new(Severity::Problem, &name, self.position, &self.what)
            }
            Weight::Never => Line::new(Severity::Note, &name, self.position, &self.what),
        }
    }
}

struct Found {
    offence: Option<Offence>,
    settled: Settled,
}

impl Found {
    /// A recovery point above which the log was cut, or below where it starts now, is explained. What only
    /// the journal has is not in the segments yet, and not expected there.
    fn settle(mut self, points: &mut Points) {
        let reached = std::mem::take(&mut self.settled.reached);
        for id in reached.keys() {
            let flushed_end = points.get(id).map_or(Offset::ZERO, |point| point.flushed_end);
            if self.settled.log_starts.get(id).is_some_and(|start| flushed_end < *start) {
                self.settled.log_starts.remove(id);
                points.remove(id);
            }
        }
        self.settled.apply(points);
    }
}

struct JournalFile {
    file: File,
    size: u64,
}

type JournalFiles = BTreeMap<FileIndex, JournalFile>;

fn look_through(directory: &Path) -> io::Result<Found> {
    let mut files = JournalFiles::new();
    for name in names(directory)? {
        let Some(index) = parse_file_name(&name) else { continue };
        let file = File::open(directory.join(&name))?;
        let size = file.metadata()?.len();
        files.insert(index, JournalFile { file, size });
    }
    let mut replay = Replay::default();
    for (index, file) in &files {
        replay.scan_file(*index, file.size, |position, size| file.read(position, size))?;
    }
    let (redoing, flushed_ends) = redo(&files, &replay)?;
    let offence = match other_size(&files) {
        Some(offence) => Some(offence),
        None => match replay.verdict() {
            Verdict::Corrupt { missing } => Some(missing_block(&files, missing)?),
            Verdict::FileCut { file, size, made } => Some(Offence {
                file: Some(file),
                position: None,
                what: format!("{size} bytes, where it was made with {made}"),
                weight: Weight::Always,
            }),
            Verdict::FileGone { file } => Some(Offence {
                file: Some(file),
                position: None,
                what: "it is gone, while one that was made after it is there".to_string(),
                weight: Weight::Always,
            }),
            Verdict::Whole | Verdict::BeyondGap { .. } if !redoing.corrupt().is_empty() => {
                damaged_bytes(&files, &replay, &redoing)?
            }
            Verdict::BeyondGap { first } => Some(Offence {
                file: None,
                position: None,
                what: format!(
                    "block {} and those behind it lie beyond a gap: an interrupted write; the next start ignores them",
                    first.0
                ),
                weight: Weight::Never,
            }),
            Verdict::Whole => None,
        },
    };
    let settled = if replay.verdict().is_lost() {
        Settled::default()
    } else {
        Settled {
            reached: redoing.reached().clone(),
            truncated: redoing.truncated().clone(),
            log_starts: redoing.log_starts().clone(),
            flushed: flushed_ends.ends().clone(),
        }
    };
    Ok(Found { offence, settled })
}

/// What a start would make of the blocks that it believes.
fn redo(files: &JournalFiles, replay: &Replay) -> io::Result<(Redoing, FlushedEnds)> {
    let (mut redoing, mut flushed_ends) = (Redoing::default(), FlushedEnds::default());
    for (sequence, block) in replay.run() {
        if let Ok(view) = BlockView::decode(&read_block(files, block)?, block.position) {
            let is_needed = replay.is_needed(sequence);
            flushed_ends.block(&view, is_needed);
            if is_needed {
                redoing.look_ahead(&view, replay.is_flushed(sequence));
            }
        }
    }
    for (sequence, block) in replay.blocks() {
        if let Ok(view) = BlockView::decode(&read_block(files, block)?, block.position) {
            redoing.block(&view, replay.is_flushed(sequence), &mut Vec::new());
        }
    }
    Ok((redoing, flushed_ends))
}

fn other_size(files: &JournalFiles) -> Option<Offence> {
    let (_, first) = files.first_key_value()?;
    let (index, other) = files.iter().find(|(_, file)| file.size != first.size)?;
    Some(Offence {
        file: Some(*index),
        position: None,
        what: format!("{} bytes, where the first file has {}", other.size, first.size),
        weight: Weight::Always,
    })
}

/// Damage that follows the block before it, or begins a file, is where it was.
fn missing_block(files: &JournalFiles, missing: BlockSequence) -> io::Result<Offence> {
    let what = format!("block {}, which was flushed, is missing", missing.0);
    let mut offence = Offence { file: None, position: None, what, weight: Weight::UnlessClean };
    for (index, file) in files {
        let mut last: Option<BlockSequence> = None;
        walk_journal_file(
            file.size,
            |position, size| file.read(position, size),
            |part| {
                match part {
                    WalkedPart::Block(view) => last = Some(view.header.sequence),
                    WalkedPart::Damaged { position, error } => {
                        let is_here = last.map_or(position == 0, |last| last.next() == missing);
                        if is_here && offence.file.is_none() {
                            offence.file = Some(*index);
                            offence.position = Some(position);
                            offence.what =
                                format!("{error}; block {}, which was flushed, is lost", missing.0);
                        }
                    }
                }
                Ok(())
            },
        )?;
    }
    Ok(offence)
}

fn damaged_bytes(files: &JournalFiles, replay: &Replay, redoing: &Redoing) -> io::Result<Option<Offence>> {
    for (sequence, block) in replay.blocks() {
        let bytes = read_block(files, block)?;
        let Ok(view) = BlockView::decode(&bytes, block.position) else { continue };
        let damaged = entries_at(&view)
            .into_iter()
            .find(|(_, entry, bytes)| bytes.is_none() && redoing.corrupt().contains(&entry.partition));
        if let Some((position, _, _)) = damaged {
            return Ok(Some(Offence {
                file: Some(block.file),
                position: Some(position),
                what: format!(
                    "bytes of block {}, which was flushed, are not as their CRC-32 says",
                    sequence.0
                ),
                weight: Weight::UnlessClean,
            }));
        }
    }
    Ok(None)
}

fn read_block(files: &JournalFiles, block: FoundBlock) -> io::Result<Vec<u8>> {
    files[&block.file].read(block.position, block.size)
}

impl JournalFile {
    /// Fewer bytes only at the end of the file.
    fn read(&self, position: u64, size: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match self.file.read_at(&mut bytes[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}
