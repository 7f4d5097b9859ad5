//! `odradek log dump`: what is in a file, item by item, in memory that does not depend on its size.
//!
//! The kind of a file is told by its name, as brokers give it; a segment and the metadata log share
//! theirs and are told apart by their first bytes. Damage is a line in its place, the rest of the file
//! is shown as far as it can be, and the exit code is 1. The names of fields are those of Kafka's
//! `kafka-dump-log.sh` where it has them. Absent: Kafka's own `.txnindex` and formats before v2.

#![expect(clippy::disallowed_methods, reason = "a command of its own process reads files")]

mod journal;
mod metadata;
mod segment;
mod small;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use odradek::cluster::log_entry;
use odradek::log::data_dir::{CLEAN_STOP_FILE, is_checkpoint, is_final_state};
use odradek::log::epochs::LEADER_EPOCH_CHECKPOINT;
use odradek::log::ownership::PARTITION_METADATA;
use odradek::log::segment::{FileName, SegmentFile};
use odradek::shard::journal::parse_file_name;
use odradek::types::Offset;

use super::DumpArguments;
use super::item::{Item, Printer};
use crate::cli::Failure;

/// Whether records are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    Batches,
    Records,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Segment { base_offset: Offset },
    OffsetIndex { base_offset: Offset },
    TimeIndex { base_offset: Offset },
    Checksums { base_offset: Offset },
    TransactionIndex { base_offset: Offset },
    ProducerSnapshot { offset: Offset },
    MetadataLog,
    RecoveryPoints,
    CleanStop,
    LeaderEpochs,
    PartitionMetadata,
    Journal,
    FinalState,
}

/// Why a dump ends early. What could be read of the file was shown.
#[derive(Debug)]
enum Interrupted {
    /// The file could not be read.
    Read(io::Error),
    /// Nobody reads what is printed, or it cannot be written.
    Print(io::Error),
}

pub fn run(arguments: &DumpArguments) -> Result<(), Failure> {
    let depth = if arguments.deep { Depth::Records } else { Depth::Batches };
    let mut printer = Printer::new(BufWriter::new(io::stdout().lock()), arguments.json);
    let mut damaged = 0;
    for path in &arguments.files {
        let before = printer.problem_count;
        match dump(path, depth, &mut printer) {
            // `| head`
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        damaged += u64::from(printer.problem_count > before);
    }
    match printer.finish() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        result => result?,
    };
    match damaged {
        0 => Ok(()),
        _ => Err(format!("problems in {damaged} of {} files", arguments.files.len()).into()),
    }
}

/// Errors: from printing only.
fn dump<W: Write>(path: &Path, depth: Depth, printer: &mut Printer<W>) -> io::Result<()> {
    let shown = path.display().to_string();
    let opened = File::open(path).and_then(|file| Ok((kind(path, &file)?, file)));
    let result = match opened {
        Ok((Some(kind), file)) => {
            let mut item = Item::new("file").with("file", shown).with("kind", kind.name());
            if let Some(offset) = kind.offset() {
                item = item.with("startingOffset", offset.get());
            }
            printer.print(&item)?;
            dump_kind(kind, &file, depth, printer)
        }
        Ok((None, _)) => {
            printer.print(&Item::new("file").with("file", shown))?;
            let reason = "not a file of a data directory, by its name";
            return printer.print(&Item::problem(0, reason));
        }
        Err(error) => {
            printer.print(&Item::new("file").with("file", shown))?;
            Err(Interrupted::Read(error))
        }
    };
    match result {
        Ok(()) => Ok(()),
        Err(Interrupted::Read(error)) => {
            printer.print(&Item::problem(0, format!("it cannot be read: {error}")))
        }
        Err(Interrupted::Print(error)) => Err(error),
    }
}

fn dump_kind<W: Write>(
    kind: Kind,
    file: &File,
    depth: Depth,
    printer: &mut Printer<W>,
) -> Result<(), Interrupted> {
    match kind {
        Kind::Segment { .. } => segment::dump(file, depth, printer),
        Kind::MetadataLog => metadata::dump(file, printer),
        Kind::OffsetIndex { base_offset } => small::dump_offset_index(file, base_offset, printer),
        Kind::TimeIndex { base_offset } => small::dump_time_index(file, base_offset, printer),
        Kind::Checksums { .. } => small::dump_whole(file, printer, small::checksums),
        Kind::TransactionIndex { .. } => small::dump_whole(file, printer, small::transactions),
        Kind::ProducerSnapshot { .. } => small::dump_whole(file, printer, small::producers),
        Kind::RecoveryPoints => small::dump_whole(file, printer, small::recovery_points),
        Kind::CleanStop => small::dump_whole(file, printer, small::clean_stop),
        Kind::LeaderEpochs => small::dump_whole(file, printer, small::leader_epochs),
        Kind::PartitionMetadata => small::dump_whole(file, printer, small::partition_metadata),
        Kind::Journal => journal::dump(file, depth, printer),
        Kind::FinalState => small::dump_whole(file, printer, small::final_state),
    }
}

/// `None` for a name that says nothing.
fn kind(path: &Path, file: &File) -> io::Result<Option<Kind>> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(None);
    };
    let kind = match FileName::parse(name) {
        Some(
            FileName::Live { base_offset, file: kind }
            | FileName::Deleted { base_offset, file: kind }
            | FileName::Cleaned { base_offset, file: kind }
            | FileName::Swap { base_offset, file: kind },
        ) => match kind {
            SegmentFile::Log if is_metadata(file)? => Kind::MetadataLog,
            SegmentFile::Log => Kind::Segment { base_offset },
            SegmentFile::OffsetIndex => Kind::OffsetIndex { base_offset },
            SegmentFile::TimeIndex => Kind::TimeIndex { base_offset },
            SegmentFile::Checksums => Kind::Checksums { base_offset },
            SegmentFile::TransactionIndex => Kind::TransactionIndex { base_offset },
            SegmentFile::ProducerSnapshot => Kind::ProducerSnapshot { offset: base_offset },
        },
        None if name == CLEAN_STOP_FILE => Kind::CleanStop,
        None if name == LEADER_EPOCH_CHECKPOINT => Kind::LeaderEpochs,
        None if name == PARTITION_METADATA => Kind::PartitionMetadata,
        None if is_checkpoint(name) => Kind::RecoveryPoints,
        None if is_final_state(name) => Kind::FinalState,
        None if parse_file_name(name).is_some() => Kind::Journal,
        None => return Ok(None),
    };
    Ok(Some(kind))
}

/// A batch begins with its base offset: one of this magic's size is never reached.
fn is_metadata(file: &File) -> io::Result<bool> {
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) => Ok(u32::from_le_bytes(magic) == log_entry::MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Segment { .. } => "segment",
            Kind::OffsetIndex { .. } => "offset index",
            Kind::TimeIndex { .. } => "time index",
            Kind::Checksums { .. } => "checksums",
            Kind::TransactionIndex { .. } => "transaction index",
            Kind::ProducerSnapshot { .. } => "producer snapshot",
            Kind::MetadataLog => "metadata log",
            Kind::RecoveryPoints => "recovery point checkpoint",
            Kind::CleanStop => "clean stop",
            Kind::LeaderEpochs => "leader epoch checkpoint",
            Kind::PartitionMetadata => "partition metadata",
            Kind::Journal => "commit journal",
            Kind::FinalState => "final state",
        }
    }

    /// From the name.
    fn offset(self) -> Option<Offset> {
        match self {
            Kind::Segment { base_offset: offset }
            | Kind::OffsetIndex { base_offset: offset }
            | Kind::TimeIndex { base_offset: offset }
            | Kind::Checksums { base_offset: offset }
            | Kind::TransactionIndex { base_offset: offset }
            | Kind::ProducerSnapshot { offset } => Some(offset),
            Kind::MetadataLog
            | Kind::RecoveryPoints
            | Kind::CleanStop
            | Kind::LeaderEpochs
            | Kind::PartitionMetadata
            | Kind::Journal
            | Kind::FinalState => None,
        }
    }
}

#[cfg(test)]
mod tests;
