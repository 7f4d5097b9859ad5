//! What the journals on disk still have of every log: the least that a start has to make of them where
//! something in them was damaged.
//!
//! Told from the bytes themselves, once all damage is done and before the start reads them: what was
//! flushed and stated has to be there, or its partitions offline; of the rest, everything before the first
//! block that does not hold.

use crate::disk::Disk;
use crate::shell::journal::{parse_journal_directory, parse_journal_file};
use odradek::log::journal::block::{BlockView, Change};
use odradek::log::journal::replay::{FoundBlock, Replay};
use odradek::log::journal::ring::FileIndex;
use odradek::types::TopicPartition;
use std::collections::BTreeMap;

/// What they have of one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Where it ends at least.
    pub end: u64,
    /// Where it begins at least.
    pub log_start: u64,
}

/// What all journals have, but for those that have lost something and say so.
pub fn of_journals(disk: &Disk) -> BTreeMap<TopicPartition, Remains> {
    let mut found = BTreeMap::new();
    for (directory, _) in disk.names("").unwrap_or_default() {
        if parse_journal_directory(&directory).is_some() {
            look_through(&read_files(disk, &directory), &mut found);
        }
    }
    found
}

type Files = BTreeMap<FileIndex, Vec<u8>>;

fn read_files(disk: &Disk, directory: &str) -> Files {
    let names = disk.names(directory).unwrap_or_default();
    let files = names.iter().filter_map(|(name, _)| {
        let file = parse_journal_file(name)?;
        Some((file, disk.peek(&format!("{directory}/{name}"))?))
    });
    files.collect()
}

fn look_through(files: &Files, found: &mut BTreeMap<TopicPartition, Remains>) {
    let mut replay = Replay::default();
    for (file, bytes) in files {
        let read = |position: u64, size: usize| {
            let from = (position as usize).min(bytes.len());
            Ok::<_, std::convert::Infallible>(bytes[from..bytes.len().min(from + size)].to_vec())
        };
        let Ok(_) = replay.scan_file(*file, bytes.len() as u64, read);
    }
    if replay.verdict().is_lost() {
        return;
    }
    for (sequence, FoundBlock { file, position, size }) in replay.blocks() {
        let bytes = &files[&file][position as usize..][..size];
        let view = BlockView::decode(bytes, position).expect("it was whole a moment ago");
        let holds = view.entries().all(|(_, bytes)| bytes.is_some());
        if !holds && !replay.is_flushed(sequence) {
            return;
        }
        for (entry, _) in view.entries() {
            let remains: &mut Remains = found.entry(entry.partition).or_default();
            match entry.change {
                Change::Bytes { end, .. } => remains.end = remains.end.max(end.get()),
                Change::LogStart { start, .. } => remains.log_start = remains.log_start.max(start.get()),
                Change::Deleted { .. } => *remains = Remains::default(),
                Change::Closed { .. }
                | Change::Replaced { .. }
                | Change::Cutting { .. }
                | Change::Cut { .. } => {}
            }
        }
    }
}
