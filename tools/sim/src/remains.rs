//! What the journals on disk still have of every log: the least that a start has to make of them where
//! something in them was damaged.
//!
//! Told from the bytes themselves, once all damage is done and before the start reads them: what was
//! flushed and stated has to be there, or its partitions offline; of the rest, everything before the first
//! block that does not hold.
//!
//! | journal | its partitions |
//! |---|---|
//! | one that has lost something, and does not say of whom | all offline |
//! | any other | end and begin as far as it has them, or are offline |
//! | the same, blocks of its run that are not needed any more included | end where they were flushed, or are offline |
//! | put aside by this start or an earlier one | what held for it then holds for as long as it is kept |

use crate::disk::Disk;
use crate::metadata::Metadata;
use crate::shell::journal::{parse_damaged_directory, parse_journal_directory, parse_journal_file};
use odradek::log::journal::block::{BlockView, Change};
use odradek::log::journal::replay::{FoundBlock, Replay};
use odradek::log::journal::ring::FileIndex;
use odradek::types::{ShardId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// What they have of one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Where it ends at least.
    pub end: u64,
    /// Where it begins at least.
    pub log_start: u64,
    /// Where it ends at least according to what is left of records of flushes, and of bytes that are not
    /// needed any more.
    pub flushed: u64,
}

/// What one journal has.
#[derive(Clone, Debug, Default)]
struct Journal {
    remains: BTreeMap<TopicPartition, Remains>,
    /// Those that may have been in it, where it has lost something.
    lost: BTreeSet<TopicPartition>,
}

/// Lives: one per seed; it outlives every crash.
#[derive(Debug, Default)]
pub struct Journals {
    /// As the last start found them.
    found: BTreeMap<ShardId, Journal>,
    /// By directory, as the start found them that has put them aside.
    aside: BTreeMap<String, Journal>,
}

impl Journals {
    /// A start begins. They are looked through where something was hit that they tell of.
    pub fn starting(&mut self, disk: &Disk, metadata: &Metadata, are_hit: bool) {
        let names: BTreeSet<String> =
            disk.names("").unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        self.aside.retain(|name, _| names.contains(name));
        for name in &names {
            if let Some(shard) = parse_damaged_directory(name)
                && !self.aside.contains_key(name)
            {
                self.aside.insert(name.clone(), self.found.get(&shard).cloned().unwrap_or_default());
            }
        }
        self.found.clear();
        for name in names.iter().filter(|_| are_hit) {
            let Some(shard) = parse_journal_directory(name) else { continue };
            // Those of a core that was no more then have other owners.
            let is_gone = shard.0 >= metadata.cores;
            let owned = metadata.partitions.iter().filter(|(_, known)| is_gone || known.owner == shard);
            let journal = look_through(&read_files(disk, name), || owned.map(|(id, _)| *id).collect());
            self.found.insert(shard, journal);
        }
    }

    /// It comes after a clean stop, and needs nothing that is in the journals.
    pub fn are_not_needed(&mut self) {
        self.found.clear();
    }

    /// What was put aside there does not tell any more whose it is.
    pub fn forget_aside(&mut self, directory: &str) {
        self.aside.insert(directory.to_owned(), Journal::default());
    }

    fn all(&self) -> impl Iterator<Item = &Journal> {
        self.found.values().chain(self.aside.values())
    }

    pub fn have_lost(&self, id: &TopicPartition) -> bool {
        self.all().any(|journal| journal.lost.contains(id))
    }

    /// Of those that were put aside what they say of flushes is in a checkpoint, and may go with that.
    pub fn remains(&self, id: &TopicPartition) -> Remains {
        let of_all = self.all().filter_map(|journal| journal.remains.get(id));
        of_all.fold(Remains::default(), |one, other| Remains {
            end: one.end.max(other.end),
            log_start: one.log_start.max(other.log_start),
            flushed: 0,
        })
    }

    /// Where a log was flushed up to, say the journals that this start has found.
    pub fn flushed(&self, id: &TopicPartition) -> u64 {
        let found = self.found.values().filter_map(|journal| journal.remains.get(id));
        found.map(|remains| remains.flushed).max().unwrap_or(0)
    }
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

fn look_through(files: &Files, owned: impl FnOnce() -> BTreeSet<TopicPartition>) -> Journal {
    let mut journal = Journal::default();
    let mut replay = Replay::default();
    for (file, bytes) in files {
        let read = |position: u64, size: usize| {
            let from = (position as usize).min(bytes.len());
            Ok::<_, std::convert::Infallible>(bytes[from..bytes.len().min(from + size)].to_vec())
        };
        let Ok(_) = replay.scan_file(*file, bytes.len() as u64, read);
    }
    if replay.verdict().is_lost() {
        journal.lost = owned();
        return journal;
    }
    for (sequence, FoundBlock { file, position, size }) in replay.blocks() {
        let bytes = &files[&file][position as usize..][..size];
        let view = BlockView::decode(bytes, position).expect("it was whole a moment ago");
        let holds = view.entries().all(|(_, bytes)| bytes.is_some());
        if !holds && !replay.is_flushed(sequence) {
            break;
        }
        for (entry, _) in view.entries() {
            let remains: &mut Remains = journal.remains.entry(entry.partition).or_default();
            match entry.change {
                Change::Bytes { end, .. } => remains.end = remains.end.max(end.get()),
                Change::LogStart { start, .. } => remains.log_start = remains.log_start.max(start.get()),
                Change::Deleted { .. } | Change::Removed { .. } => *remains = Remains::default(),
                Change::Cutting { end, .. } | Change::Cut { end, .. } => {
                    remains.end = remains.end.min(end.get());
                    remains.log_start = remains.log_start.min(end.get());
                }
                Change::Closed { .. } | Change::Flushed { .. } | Change::Replaced { .. } => {}
            }
        }
    }
    for (sequence, FoundBlock { file, position, size }) in replay.run() {
        let bytes = &files[&file][position as usize..][..size];
        let view = BlockView::decode(bytes, position).expect("it was whole a moment ago");
        let is_stored = !replay.is_needed(sequence);
        for (entry, _) in view.entries() {
            let remains = journal.remains.entry(entry.partition).or_default();
            match entry.change {
                Change::Bytes { end, .. } if is_stored => remains.flushed = remains.flushed.max(end.get()),
                Change::Flushed { end, .. } => remains.flushed = remains.flushed.max(end.get()),
                Change::Deleted { .. } | Change::Removed { .. } => remains.flushed = 0,
                Change::Cutting { end, .. } | Change::Cut { end, .. } => {
                    remains.flushed = remains.flushed.min(end.get());
                }
                Change::Bytes { .. }
                | Change::Closed { .. }
                | Change::LogStart { .. }
                | Change::Replaced { .. } => {}
            }
        }
    }
    journal
}
