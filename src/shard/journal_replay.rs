//! Replays the journals of the last run into the segments, before any shard starts.
//!
//! ```text
//! journal.0/ journal.1/ ...  ─► blocks that are believed ─► ranges of segments' files ─► flushed ─► journals removed
//! ```
//!
//! Every journal that is found is replayed, whatever the number of shards is now. A range is written
//! to the place that the journal states, so that a replay that was interrupted is simply done again;
//! what it reaches is checked by the scan of the segment when its partition is opened. Ordinary
//! buffered files: nothing else runs yet.
//!
//! A journal that has lost what was committed is kept under another name and judged again at every
//! start: its partitions stay offline until somebody removes it.
//!
//! A segment that is gone while a later one of its partition is there was deleted, and stays so.

use crate::cluster::image::Image;
use crate::log::journal::block::BlockView;
use crate::log::journal::replay::{FoundBlock, Redo, Redoing, Replay, Stop, Verdict};
use crate::log::journal::ring::FileIndex;
use crate::log::ownership::{self, PARTITION_METADATA};
use crate::log::plan::SyncFs;
use crate::log::segment::{FileName, SegmentFile, directory_name};
use crate::shard::disk::sync_directory;
use crate::shard::journal::{self, Condition};
use crate::types::{Offset, ShardId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the journals say of the partitions' logs.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Where logs end at least; one that ends before has lost what was committed.
    pub ends: BTreeMap<TopicPartition, Offset>,
    /// Partitions whose committed bytes are damaged: they stay offline.
    pub corrupt: BTreeSet<TopicPartition>,
}

/// Replays all journals below `data_dir` and removes them. After a clean stop there is nothing in
/// them that the segments lack, and they are removed as they are.
#[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
pub fn replay(data_dir: &Path, image: &Image, clean: bool, sync_fs: SyncFs) -> io::Result<Replayed> {
    let mut replayed = Replayed::default();
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        if let Some((shard, condition)) = entry.file_name().to_str().and_then(journal::parse_directory_name) {
            journals.push((shard, condition, entry.path()));
        }
    }
    journals.sort();
    let mut segments = Segments { data_dir, image, known: BTreeMap::new(), touched: BTreeSet::new() };
    let mut damaged = BTreeSet::new();
    for (shard, condition, directory) in &journals {
        // Nothing is written from a journal that an earlier start has judged.
        let segments = (*condition == Condition::Usable).then_some(&mut segments);
        if clean && *condition == Condition::Usable {
            continue;
        }
        if judge(*shard, directory, image, segments, &mut replayed)? == Condition::Usable {
            continue;
        }
        if *condition == Condition::Usable {
            damaged.insert(*shard);
        }
    }
    segments.flush(sync_fs)?;
    for (shard, condition, directory) in &journals {
        match condition {
            Condition::Damaged(_) => {}
            Condition::Usable if damaged.contains(shard) => {
                let taken =
                    |number: u32| data_dir.join(journal::damaged_directory_name(*shard, number)).exists();
                let number = (1..).find(|number| !taken(*number)).expect("some number is free");
                std::fs::rename(directory, data_dir.join(journal::damaged_directory_name(*shard, number)))?;
            }
            Condition::Usable => std::fs::remove_dir_all(directory)?,
        }
    }
    if !journals.is_empty() {
        sync_directory(data_dir)?;
    }
    Ok(replayed)
}

/// Looks through one journal and, given `segments`, writes to them what it holds.
fn judge(
    shard: ShardId,
    directory: &Path,
    image: &Image,
    mut segments: Option<&mut Segments<'_>>,
    replayed: &mut Replayed,
) -> io::Result<Condition> {
    let files = open_files(directory)?;
    let mut replay = Replay::default();
    for (index, file) in &files {
        let size = file.metadata()?.len();
        let stop = replay.scan_file(*index, size, |position, size| read_at(file, position, size))?;
        if let Stop::Damaged(error) = stop {
            tracing::warn!(directory = %directory.display(), file = index.0, %error, "the journal has a block that does not hold");
        }
    }
    match replay.verdict() {
        Verdict::Whole => {}
        Verdict::BeyondGap { first } => {
            tracing::warn!(
                directory = %directory.display(), block = first.0,
                "whole blocks lie beyond a gap in the journal: an interrupted write, they are not replayed"
            );
        }
        Verdict::Corrupt { missing } => {
            tracing::error!(
                directory = %directory.display(), block = missing.0,
                "a block of the journal that was flushed is damaged or gone: the core's partitions stay offline"
            );
            let owned = image
                .partitions()
                .filter(|(_, state)| state.replicas.iter().any(|replica| replica.owner == shard));
            replayed.corrupt.extend(owned.map(|(id, _)| id));
        }
    }
    let mut redoing = Redoing::default();
    let mut count = 0u64;
    for (sequence, FoundBlock { file, position, size }) in replay.blocks() {
        let bytes = read_at(&files[&file], position, size)?;
        let Ok(view) = BlockView::decode(&bytes, position) else {
            return Err(io::Error::other(format!(
                "block {} of the journal reads differently now",
                sequence.0
            )));
        };
        let mut redo = Vec::new();
        redoing.block(&view, replay.is_flushed(sequence), &mut redo);
        for redo in &redo {
            if let Some(segments) = &mut segments {
                segments.redo(redo, &mut replayed.corrupt)?;
            }
        }
        count += 1;
    }
    for partition in redoing.corrupt() {
        tracing::error!(?partition, "committed bytes of a partition are damaged in the journal");
    }
    replayed.corrupt.extend(redoing.corrupt());
    for (partition, end) in redoing.ends() {
        let reached = replayed.ends.entry(*partition).or_insert(*end);
        *reached = end.max(reached).to_owned();
    }
    tracing::info!(
        directory = %directory.display(), blocks = count, partitions = redoing.ends().len(),
        "the journal was replayed"
    );
    let lost = !redoing.corrupt().is_empty() || matches!(replay.verdict(), Verdict::Corrupt { .. });
    Ok(if lost { Condition::Damaged(0) } else { Condition::Usable })
}

fn open_files(directory: &Path) -> io::Result<BTreeMap<FileIndex, File>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(index) = entry.file_name().to_str().and_then(journal::parse_file_name) {
            #[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
            files.insert(index, File::open(entry.path())?);
        }
    }
    Ok(files)
}

fn read_at(file: &File, position: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], position + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The segments' files that a replay writes to.
struct Segments<'a> {
    data_dir: &'a Path,
    image: &'a Image,
    /// The base offsets of each partition's segments; `None` when the partition is gone.
    known: BTreeMap<TopicPartition, Option<(PathBuf, BTreeSet<Offset>)>>,
    touched: BTreeSet<PathBuf>,
}

impl Segments<'_> {
    fn redo(&mut self, redo: &Redo<'_>, corrupt: &mut BTreeSet<TopicPartition>) -> io::Result<()> {
        match *redo {
            Redo::Write { partition, segment, file_position, bytes } => {
                let Some(path) = self.path(partition, segment)? else { return Ok(()) };
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
                file.write_all_at(bytes, file_position)?;
                self.touched.insert(path);
            }
            Redo::Cut { partition, segment, size } => {
                let Some(path) = self.path(partition, segment)? else { return Ok(()) };
                if !path.exists() {
                    return Ok(());
                }
                let file = OpenOptions::new().write(true).open(&path)?;
                if file.metadata()?.len() < size {
                    tracing::error!(path = %path.display(), size, "a closed segment is shorter than it was");
                    corrupt.insert(partition);
                    return Ok(());
                }
                file.set_len(size)?;
                // Those of a clean stop before describe less than the segment.
                for derived in [SegmentFile::OffsetIndex, SegmentFile::TimeIndex] {
                    remove_if_present(&path.with_file_name(derived.name(segment)))?;
                }
                self.touched.insert(path);
            }
        }
        Ok(())
    }

    /// `None` for what was deleted.
    fn path(&mut self, partition: TopicPartition, segment: Offset) -> io::Result<Option<PathBuf>> {
        if !self.known.contains_key(&partition) {
            let found = self.look_up(partition)?;
            self.known.insert(partition, found);
        }
        let Some((directory, segments)) = self.known.get_mut(&partition).expect("just put in") else {
            return Ok(None);
        };
        if !segments.contains(&segment) {
            if segments.last().is_some_and(|last| segment < *last) {
                return Ok(None);
            }
            segments.insert(segment);
        }
        Ok(Some(directory.join(SegmentFile::Log.name(segment))))
    }

    fn look_up(&self, partition: TopicPartition) -> io::Result<Option<(PathBuf, BTreeSet<Offset>)>> {
        let Some(topic) = self.image.topic(partition.topic) else { return Ok(None) };
        let directory = self.data_dir.join(directory_name(&topic.name, partition.partition));
        // Where it is gone or another topic's, the log ends before what the journal reaches: that is
        // found when the partition is opened.
        let owner = match std::fs::read_to_string(directory.join(PARTITION_METADATA)) {
            Ok(text) => ownership::decode(&text).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if owner != Some(partition.topic) {
            return Ok(None);
        }
        let mut segments = BTreeSet::new();
        for entry in std::fs::read_dir(&directory)? {
            let name = entry?.file_name();
            if let Some(FileName::Live { base_offset, file: SegmentFile::Log }) =
                name.to_str().and_then(FileName::parse)
            {
                segments.insert(base_offset);
            }
        }
        Ok(Some((directory, segments)))
    }

    /// Everything written is on stable storage, names included.
    fn flush(&self, sync_fs: SyncFs) -> io::Result<()> {
        if self.touched.is_empty() {
            return Ok(());
        }
        if sync_fs == SyncFs::Device {
            #[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
            let directory = File::open(self.data_dir)?;
            // SAFETY: syncfs takes any open descriptor; `directory` lives until it returns.
            let result = unsafe { libc::syncfs(directory.as_raw_fd()) };
            return if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        }
        for path in &self.touched {
            #[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
            File::open(path)?.sync_all()?;
        }
        let directories: BTreeSet<&Path> = self.touched.iter().filter_map(|path| path.parent()).collect();
        directories.into_iter().try_for_each(sync_directory)
    }
}

#[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
fn remove_if_present(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
