//! Replays the journals of the last run into the segments.
//!
//! Every block that is believed is held against the ledger of those that were issued: a block in the
//! wrong place or of an earlier use of its file must never be among them.

use crate::disk::{DiskResult, OpenFile};
use crate::settings::Mistake;
use crate::shell::Shell;
use crate::shell::start::{damaged_journal_directory, journal_directory, replayed_journal_directory};
use odradek::log::journal::block::{BlockView, HEADER_SIZE};
use odradek::log::journal::redo::{Redo, Redoing};
use odradek::log::journal::replay::{FoundBlock, Replay, Verdict};
use odradek::log::journal::ring::FileIndex;
use odradek::log::plan::SyncFs;
use odradek::log::segment::{FileName, SegmentFile};
use odradek::types::limits::IO_ALIGNMENT;
use odradek::types::{Offset, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What the journals say of the partitions' logs.
#[derive(Debug, Default)]
pub struct Replayed {
    pub ends: BTreeMap<TopicPartition, Offset>,
    pub corrupt: BTreeSet<TopicPartition>,
}

/// Replays all journals and removes them; one that has lost what was committed is kept and judged again
/// at every start.
pub async fn replay(
    shell: &Rc<Shell>,
    partitions: &BTreeMap<TopicPartition, String>,
    clean: bool,
) -> DiskResult<Replayed> {
    let disk = &shell.disk;
    let mut replayed = Replayed::default();
    let names: Vec<String> = disk.list("").await?.into_iter().map(|(name, _)| name).collect();
    let mut segments = Segments { shell, partitions, known: BTreeMap::new(), touched: BTreeMap::new() };
    let usable = journal_directory();
    let mut damaged = false;
    for name in names.iter().filter(|name| name.starts_with(&format!("{usable}.damaged."))) {
        judge(shell, name, partitions, None, &mut replayed).await?;
    }
    // What an interrupted start has left of one that was replayed.
    if names.contains(&replayed_journal_directory()) {
        disk.remove_directory(&replayed_journal_directory()).await?;
        shell.world.count("journal: rest of a replayed one removed");
    }
    let is_there = names.contains(&usable);
    if is_there && !clean {
        damaged = judge(shell, &usable, partitions, Some(&mut segments), &mut replayed).await?;
    }
    segments.flush().await?;
    if damaged {
        let number = (1..).find(|number| !disk.exists(&damaged_journal_directory(*number)));
        let kept = damaged_journal_directory(number.expect("some number is free"));
        disk.rename(&usable, &kept).await?;
    } else if is_there {
        // At once: half a journal would look like one that has lost something.
        disk.rename(&usable, &replayed_journal_directory()).await?;
    }
    if !names.is_empty() {
        disk.sync_directory("").await?;
    }
    shell.ledger.borrow_mut().clear();
    if is_there && !damaged {
        disk.remove_directory(&replayed_journal_directory()).await?;
    }
    Ok(replayed)
}

/// Looks through one journal and, given `segments`, writes to them what it holds. Whether it has lost
/// what was committed.
async fn judge(
    shell: &Rc<Shell>,
    directory: &str,
    partitions: &BTreeMap<TopicPartition, String>,
    mut segments: Option<&mut Segments<'_>>,
    replayed: &mut Replayed,
) -> DiskResult<bool> {
    let mut files: BTreeMap<FileIndex, Vec<u8>> = BTreeMap::new();
    for (name, _) in shell.disk.list(directory).await? {
        if let Some(index) = name.strip_suffix(".journal").and_then(|digits| digits.parse().ok()) {
            let bytes = shell.disk.read_file(&format!("{directory}/{name}")).await?;
            files.insert(FileIndex(index), bytes);
        }
    }
    if shell.settings.makes(Mistake::StaleBlockAccepted) {
        files.values_mut().for_each(|bytes| take_stale_blocks_along(bytes));
    }
    let mut replay = Replay::default();
    for (index, bytes) in &files {
        let read = |position, size| Ok::<_, std::convert::Infallible>(read_at(bytes, position, size));
        let Ok(_) = replay.scan_file(*index, bytes.len() as u64, read);
    }
    let world = &shell.world;
    match replay.verdict() {
        Verdict::Whole => world.count("journal: whole"),
        Verdict::BeyondGap { first } => {
            world.note(format_args!("{directory}: whole blocks beyond a gap, from {}", first.0));
            world.count("journal: whole blocks beyond a gap");
        }
        Verdict::Corrupt { missing } => {
            world.note(format_args!("{directory}: block {} was flushed and is gone", missing.0));
            world.count("journal: flushed block gone");
        }
        Verdict::FileCut { file, .. } | Verdict::FileGone { file } => {
            world.note(format_args!("{directory}: file {} is cut short or gone", file.0));
            world.count("journal: file cut short or gone");
        }
    }
    if replay.verdict().is_lost() {
        replayed.corrupt.extend(partitions.keys());
        segments = None; // What the missing one said of the others is not known.
    }
    let mut redoing = Redoing::default();
    for (sequence, FoundBlock { file, position, size }) in replay.blocks() {
        let bytes = read_at(&files[&file], position, size);
        let view = BlockView::decode(&bytes, position).expect("it was whole a moment ago");
        redoing.look_ahead(&view, replay.is_flushed(sequence));
    }
    for (sequence, FoundBlock { file, position, size }) in replay.blocks() {
        if segments.is_some() {
            shell.ledger.borrow().check_believed(world, sequence, file, position);
        }
        let bytes = read_at(&files[&file], position, size);
        let view = BlockView::decode(&bytes, position).expect("it was whole a moment ago");
        let mut redo = Vec::new();
        redoing.block(&view, replay.is_flushed(sequence), &mut redo);
        world.count("journal: block replayed");
        if let Some(segments) = &mut segments {
            for redo in &redo {
                segments.redo(redo, &mut replayed.corrupt).await?;
            }
        }
    }
    if !redoing.corrupt().is_empty() {
        world.note(format_args!("{directory}: damaged bytes of {} partitions", redoing.corrupt().len()));
        world.count("journal: bytes of one partition damaged");
    }
    replayed.corrupt.extend(redoing.corrupt());
    for (partition, end) in redoing.ends() {
        let reached = replayed.ends.entry(*partition).or_insert(*end);
        *reached = end.max(reached).to_owned();
    }
    Ok(!redoing.corrupt().is_empty() || replay.verdict().is_lost())
}

fn read_at(bytes: &[u8], position: u64, size: usize) -> Vec<u8> {
    let from = (position as usize).min(bytes.len());
    bytes[from..bytes.len().min(from + size)].to_vec()
}

/// The mistake: epoch and sequence of what an earlier use left are made to follow what stands before.
fn take_stale_blocks_along(bytes: &mut [u8]) {
    let mut position = 0;
    let mut last: Option<(u64, u64)> = None;
    while position + IO_ALIGNMENT <= bytes.len() {
        let found = BlockView::decode(&bytes[position..], position as u64);
        let Ok((header, size)) = found.map(|view| (view.header, view.size)) else {
            position += IO_ALIGNMENT;
            continue;
        };
        let (epoch, sequence) = match last {
            Some((epoch, sequence)) if header.epoch.0 != epoch => (epoch, sequence + 1),
            _ => (header.epoch.0, header.sequence.0),
        };
        let entries = u32::from_be_bytes(bytes[position + 16..position + 20].try_into().expect("four bytes"));
        bytes[position + 24..position + 32].copy_from_slice(&epoch.to_be_bytes());
        bytes[position + 40..position + 48].copy_from_slice(&sequence.to_be_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[position..position + 64]);
        crc.update(&bytes[position + HEADER_SIZE..position + HEADER_SIZE + entries as usize * 56]);
        crc.update(&bytes[position + 68..position + HEADER_SIZE]);
        bytes[position + 64..position + 68].copy_from_slice(&crc.finalize().to_be_bytes());
        last = Some((epoch, sequence));
        position += size;
    }
}

/// The segments' files that a replay writes to.
struct Segments<'a> {
    shell: &'a Rc<Shell>,
    partitions: &'a BTreeMap<TopicPartition, String>,
    /// The base offsets of each partition's segments.
    known: BTreeMap<TopicPartition, BTreeSet<Offset>>,
    touched: BTreeMap<String, OpenFile>,
}

impl Segments<'_> {
    async fn redo(&mut self, redo: &Redo<'_>, corrupt: &mut BTreeSet<TopicPartition>) -> DiskResult<()> {
        let disk = &self.shell.disk.clone();
        match *redo {
            Redo::Write { partition, segment, file_position, bytes } => {
                let Some(path) = self.path(partition, segment).await? else { return Ok(()) };
                let file = disk.open(&path, true).await?;
                file.write(file_position, bytes).await?;
                self.touched.insert(path, file);
            }
            Redo::Cut { partition, segment, size } => {
                let Some(path) = self.path(partition, segment).await? else { return Ok(()) };
                if !disk.exists(&path) {
                    return Ok(());
                }
                let file = disk.open(&path, true).await?;
                if file.size() < size {
                    self.shell.world.note(format_args!("{path} is shorter than {size}"));
                    corrupt.insert(partition);
                    return Ok(());
                }
                self.shell.world.count("segment: closed by replay");
                file.truncate(size).await?;
                for derived in [SegmentFile::OffsetIndex, SegmentFile::TimeIndex] {
                    let name = format!("{}/{}", self.partitions[&partition], derived.name(segment));
                    disk.remove_if_present(&name).await?;
                }
                self.touched.insert(path, file);
            }
            // Nobody here truncates or deletes a partition.
            Redo::Truncate { partition, .. } | Redo::Delete { partition } => {
                let what = format_args!("{partition:?} is to be cut or deleted");
                self.shell.world.finding("blocks that are believed are those of this use", what);
            }
        }
        Ok(())
    }

    /// `None` for what was deleted.
    async fn path(&mut self, partition: TopicPartition, segment: Offset) -> DiskResult<Option<String>> {
        let Some(directory) = self.partitions.get(&partition) else { return Ok(None) };
        if !self.known.contains_key(&partition) {
            let names = self.shell.disk.list(directory).await?;
            let bases = names.iter().filter_map(|(name, _)| match FileName::parse(name) {
                Some(FileName::Live { base_offset, file: SegmentFile::Log }) => Some(base_offset),
                _ => None,
            });
            self.known.insert(partition, bases.collect());
        }
        let bases = self.known.get_mut(&partition).expect("just put in");
        if !bases.contains(&segment) {
            let brings_back = self.shell.settings.makes(Mistake::LogStartMovedBack);
            if bases.last().is_some_and(|last| segment < *last) && !brings_back {
                return Ok(None);
            }
            bases.insert(segment);
        }
        Ok(Some(format!("{directory}/{}", SegmentFile::Log.name(segment))))
    }

    /// Everything written is on stable storage, names included.
    async fn flush(&self) -> DiskResult<()> {
        if self.touched.is_empty() {
            return Ok(());
        }
        if self.shell.settings.sync_fs == SyncFs::Device {
            return self.shell.disk.sync_file_system().await;
        }
        for file in self.touched.values() {
            self.shell.flush_file(file).await?;
        }
        let directories: BTreeSet<&str> =
            self.touched.keys().filter_map(|path| Some(path.rsplit_once('/')?.0)).collect();
        for directory in directories {
            self.shell.disk.sync_directory(directory).await?;
        }
        Ok(())
    }
}
