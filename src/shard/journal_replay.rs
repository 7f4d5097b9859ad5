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
//! One that misses a block is not replayed at all: what the missing one said of the others is not known.

use crate::cluster::image::Image;
use crate::log::journal::block::{BlockSequence, BlockView};
use crate::log::journal::redo::Redoing;
use crate::log::journal::replay::{FoundBlock, Replay, Stop, Verdict};
use crate::log::journal::ring::FileIndex;
use crate::log::plan::SyncFs;
use crate::shard::disk::sync_directory;
use crate::shard::journal::{self, Condition};
use crate::shard::journal_replay::segments::Segments;
use crate::types::{Offset, ShardId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

mod segments;

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
    let mut segments = Segments::new(data_dir, image);
    let mut damaged = BTreeSet::new();
    for (shard, condition, directory) in &journals {
        // Nothing is written from a journal that an earlier start has judged.
        let segments = (*condition == Condition::Usable).then_some(&mut segments);
        if clean && *condition == Condition::Usable {
            continue;
        }
        let found = judge(*shard, directory, image, segments, &mut replayed)?;
        if found == Found::Loss && *condition == Condition::Usable {
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

/// What a look through a journal has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Everything that was committed.
    Everything,
    /// Something that was committed is damaged or gone.
    Loss,
}

/// Looks through one journal and, given `segments`, writes to them what it holds.
fn judge(
    shard: ShardId,
    directory: &Path,
    image: &Image,
    mut segments: Option<&mut Segments<'_>>,
    replayed: &mut Replayed,
) -> io::Result<Found> {
    let files = open_files(directory)?;
    let mut replay = Replay::default();
    for (index, file) in &files {
        let size = file.metadata()?.len();
        let stop = replay.scan_file(*index, size, |position, size| read_at(file, position, size))?;
        if let Stop::Damaged(error) = stop {
            tracing::warn!(directory = %directory.display(), file = index.0, %error, "the journal has a block that does not hold");
        }
    }
    report(&replay, directory);
    if let Verdict::Corrupt { .. } = replay.verdict() {
        let owned = image
            .partitions()
            .filter(|(_, state)| state.replicas.iter().any(|replica| replica.owner == shard));
        replayed.corrupt.extend(owned.map(|(id, _)| id));
        segments = None;
    }
    let mut redoing = Redoing::default();
    for (sequence, block) in replay.blocks() {
        redoing.look_ahead(&read_block(&files, sequence, block)?.view(), replay.is_flushed(sequence));
    }
    let mut count = 0u64;
    for (sequence, block) in replay.blocks() {
        let bytes = read_block(&files, sequence, block)?;
        let mut redo = Vec::new();
        redoing.block(&bytes.view(), replay.is_flushed(sequence), &mut redo);
        if let Some(segments) = &mut segments {
            redo.iter().try_for_each(|redo| segments.redo(redo, &mut replayed.corrupt))?;
        }
        count += 1;
    }
    for partition in redoing.corrupt() {
        tracing::error!(?partition, "committed bytes of a partition are damaged in the journal");
    }
    tracing::info!(
        directory = %directory.display(), blocks = count, partitions = redoing.ends().len(),
        "the journal was replayed"
    );
    replayed.take(&redoing);
    let lost = !redoing.corrupt().is_empty() || matches!(replay.verdict(), Verdict::Corrupt { .. });
    Ok(if lost { Found::Loss } else { Found::Everything })
}

fn report(replay: &Replay, directory: &Path) {
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
        }
    }
}

impl Replayed {
    fn take(&mut self, redoing: &Redoing) {
        self.corrupt.extend(redoing.corrupt());
        for (partition, end) in redoing.ends() {
            let reached = self.ends.entry(*partition).or_insert(*end);
            *reached = end.max(reached).to_owned();
        }
    }
}

/// The bytes of a block that was whole when it was looked for.
struct BlockBytes {
    bytes: Vec<u8>,
    position: u64,
}

fn read_block(
    files: &BTreeMap<FileIndex, File>,
    sequence: BlockSequence,
    block: FoundBlock,
) -> io::Result<BlockBytes> {
    let bytes = read_at(&files[&block.file], block.position, block.size)?;
    if BlockView::decode(&bytes, block.position).is_err() {
        return Err(io::Error::other(format!("block {} of the journal reads differently now", sequence.0)));
    }
    Ok(BlockBytes { bytes, position: block.position })
}

impl BlockBytes {
    fn view(&self) -> BlockView<'_> {
        BlockView::decode(&self.bytes, self.position).expect("it was decoded when it was read")
    }
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
