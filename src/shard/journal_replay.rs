//! Replays the journals of the last run in one log directory into its segments, before any shard starts.
//!
//! ```text
//! journals ─► blocks that are believed ─► ranges of segments' files ─► flushed ─► recovery points ─► marked
//! ```
//!
//! Every journal that is found is replayed, whatever the number of shards is now. A range is written
//! to the place that the journal states, so that a replay that was interrupted is simply done again;
//! what it reaches is checked by the scan of the segment when its partition is opened. Ordinary
//! buffered files: nothing else runs yet.
//!
//! A journal that has lost what was committed is kept under another name, with the names of its
//! partitions: those stay offline until they are made again from other replicas, or somebody removes it.
//!
//! A journal that was replayed is renamed before it is removed: half of one would look as if it had
//! lost what was committed.
//!
//! One that misses a block or a part of a file is not replayed at all: what was there said something of
//! the others.

use crate::cluster::image::Image;
use crate::cluster::record::{PartitionState, Replica};
use crate::log::checkpoint::{Checkpoint, CheckpointGeneration, PartitionPoint};
use crate::log::data_dir::checkpoint_name;
use crate::log::journal::block::{BLOCK_SIZE_MAX, BlockSequence, BlockView, BlockWriter, block_size};
use crate::log::journal::flushed_ends::FlushedEnds;
use crate::log::journal::redo::{Reached, Redoing};
use crate::log::journal::replay::{
    FoundBlock, Replay, Stop, Verdict, bounds_of_first_blocks, files_of, first_mark,
};
use crate::log::journal::ring::{BlockPlace, FileIndex, JournalHead, RingLimits};
use crate::log::journal::settle::Settled;
use crate::log::plan::SyncFs;
use crate::metrics::recovery::{RecoveryBranch, RecoveryCounts};
use crate::shard::disk::{is_full_disk, remove_if_present, replace_file, sync_directory};
use crate::shard::journal::{self, Condition};
use crate::shard::journal_replay::segments::Segments;
use crate::shard::{doubts, kept_journals};
use crate::types::limits::IO_ALIGNMENT;
use crate::types::{NodeId, Offset, ShardId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

mod segments;

pub use segments::truncate;

/// What the journals say of the partitions' logs.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Where logs end at least; one that ends before has lost what was committed.
    pub ends: BTreeMap<TopicPartition, Offset>,
    /// Partitions whose committed bytes are damaged: they stay offline.
    pub corrupt: BTreeSet<TopicPartition>,
    /// Partitions that may lack their end: a whole block lies beyond a gap, which is an interrupted write of several, or
    /// damage (DESIGN 5); or a log was about to begin anew.
    pub doubtful: BTreeSet<TopicPartition>,
    /// Journals that their shards go on with.
    pub heads: BTreeMap<ShardId, JournalHead>,
    pub recovery: RecoveryCounts,
    settled: Settled,
}

/// What a replay goes by.
pub struct ReplayStart<'a> {
    pub data_dir: &'a Path,
    pub image: &'a Image,
    /// As it was before this start stated its cores: whose partitions the shards of before had.
    pub before: &'a Image,
    pub node: NodeId,
    /// Whether a replica is in this log directory.
    pub is_here: &'a dyn Fn(&Replica) -> bool,
    /// After a clean stop there is nothing in the journals that the segments lack.
    pub clean: bool,
    pub sync_fs: SyncFs,
    /// The shards whose checkpoints name a partition.
    pub checkpointed_by: &'a BTreeMap<TopicPartition, BTreeSet<ShardId>>,
    /// Of the checkpoints that are written once everything is replayed.
    pub generation: CheckpointGeneration,
    pub keep: Option<Keep>,
    /// Replicas have gone from here since: the checkpoints must not speak of them any longer.
    pub replicas_removed: bool,
}

/// Which journals are gone on with.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    pub limits: RingLimits,
    pub shard_count: usize,
}

/// Replays all journals below the data directory, brings the recovery points up to date with them, and
/// marks those that are gone on with: nothing in them is needed from there on.
pub fn replay(
    start: &ReplayStart<'_>,
    points: &mut BTreeMap<TopicPartition, PartitionPoint>,
) -> io::Result<Replayed> {
    let mut replayed = Replayed::default();
    // If it comes again it begins empty: what it has lost then is another matter.
    let forgotten = kept_journals::forget_in(start.data_dir, |id| start.has_gone(*id));
    unless_full(forgotten, "what damaged journals have lost of replicas that are elsewhere")?;
    replayed.doubtful = doubts::read(start.data_dir, || start.partitions_here())?;
    let is_over = |id: &TopicPartition| start.image.partition(*id).is_none() || start.has_gone(*id);
    replayed.doubtful.retain(|id| !is_over(id));
    unless_full(doubts::forget_in(start.data_dir, is_over), "doubts about replicas that are elsewhere")?;
    let journals = find_journals(start.data_dir)?;
    let mut segments = Segments::new(start.data_dir, start.image);
    let mut retire = Vec::new();
    for (shard, condition, directory) in &journals {
        let is_usable = *condition == Condition::Usable;
        if start.clean && is_usable {
            retire.push((
                *shard,
                directory,
                start.mark_unread(*shard, directory)?.map_or(After::Remove, After::Resume),
            ));
            continue;
        }
        if !is_usable && let Some(lost) = kept_journals::read(directory)? {
            let known = lost.into_iter().filter(|id| start.image.partition(*id).is_some());
            let known: Vec<TopicPartition> = known.collect();
            tracing::error!(
                directory = %directory.display(), partitions = known.len(),
                "a damaged journal is kept: what it has lost of partitions is offline until others have made it good"
            );
            replayed.recovery.count(RecoveryBranch::JournalKeptDamaged);
            replayed.corrupt.extend(known);
            continue;
        }
        // Nothing is written from a journal that an earlier start has judged.
        let segments = is_usable.then_some(&mut segments);
        let after = judge(*shard, directory, start, segments, &mut replayed)?;
        match after {
            _ if is_usable => retire.push((*shard, directory, after)),
            // It could not say so before.
            After::KeepDamaged(lost) => {
                unless_full(kept_journals::write(directory, &lost), "what a damaged journal has lost")?;
            }
            After::Remove | After::Resume(_) => {}
        }
    }
    segments.flush(start.sync_fs)?;
    if !start.clean {
        replayed.settled.apply(points);
    }
    if !start.clean || start.moves_partitions() || start.has_strays(points) || start.replicas_removed {
        write_checkpoints(start, points)?;
    }
    if !replayed.doubtful.is_empty() {
        doubts::note_in(start.data_dir, &replayed.doubtful)?; // The journal that says so may go.
    }
    let mut done = Vec::new();
    for (shard, directory, after) in retire {
        match after {
            After::KeepDamaged(lost) => put_aside(start.data_dir, shard, directory, &lost)?,
            #[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
            After::Remove => {
                let replayed = start.data_dir.join(journal::replayed_directory_name(shard));
                std::fs::rename(directory, &replayed)?;
                done.push(replayed);
            }
            After::Resume(head) => {
                write_mark(directory, &head.mark)?;
                replayed.heads.insert(shard, head);
            }
        }
    }
    if !journals.is_empty() {
        sync_directory(start.data_dir)?;
    }
    done.into_iter().try_for_each(std::fs::remove_dir_all)?;
    Ok(replayed)
}

/// Flushes a journal as it was found, names included. What a crash of the process has left may be in no
/// flush, and a loss of power after the start has acted on it must not take it back: segments would be
/// without their end, files that are gone on with without their names.
fn settle(directory: &Path, files: &BTreeMap<FileIndex, File>) -> io::Result<()> {
    files.values().try_for_each(File::sync_all)?;
    sync_directory(directory)
}

fn find_journals(data_dir: &Path) -> io::Result<Vec<(ShardId, Condition, PathBuf)>> {
    let mut journals = Vec::new();
    let mut replayed = Vec::new();
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some((shard, condition)) = journal::parse_directory_name(name) {
            journals.push((shard, condition, entry.path()));
        } else if journal::is_replayed_directory(name) {
            replayed.push(entry.path()); // What an interrupted start has left.
        }
    }
    if !replayed.is_empty() {
        sync_directory(data_dir)?; // Half of one must not be back under the name of a live one.
        replayed.into_iter().try_for_each(std::fs::remove_dir_all)?;
    }
    journals.sort();
    Ok(journals)
}

/// What the next start would write down as well.
fn unless_full(written: io::Result<()>, what: &str) -> io::Result<()> {
    match written {
        Err(error) if is_full_disk(&error) => {
            tracing::warn!(%error, what, "no space to write that down: the next start does");
            Ok(())
        }
        written => written,
    }
}

/// A journal that has lost something is kept under another name.
#[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
fn put_aside(
    data_dir: &Path,
    shard: ShardId,
    directory: &Path,
    lost: &BTreeSet<TopicPartition>,
) -> io::Result<()> {
    kept_journals::write(directory, lost)?;
    let aside = |number: u32| data_dir.join(journal::damaged_directory_name(shard, number));
    let number = (1..).find(|number| !aside(*number).exists()).expect("some number is free");
    std::fs::rename(directory, aside(number))
}

/// Log starts stand nowhere but in the journals, until now; and of a partition that has another owner, in the
/// checkpoint of a shard that may write the next one without it.
fn write_checkpoints(
    start: &ReplayStart<'_>,
    points: &BTreeMap<TopicPartition, PartitionPoint>,
) -> io::Result<()> {
    let mut by_owner: BTreeMap<ShardId, BTreeMap<TopicPartition, PartitionPoint>> = BTreeMap::new();
    if start.replicas_removed {
        let cores = start.image.node(start.node).map_or(0, |node| node.cores);
        by_owner.extend((0..cores).map(|shard| (ShardId(shard), BTreeMap::new())));
    }
    for (id, state) in start.image.partitions() {
        if let (Some(replica), Some(point)) = (state.replica_on(start.node), points.get(&id)) {
            by_owner.entry(replica.owner).or_default().insert(id, *point);
        }
    }
    for (shard, points) in by_owner {
        let path = start.data_dir.join(checkpoint_name(shard));
        replace_file(&path, &Checkpoint { shard, generation: start.generation, points }.encode())?;
    }
    Ok(())
}

fn write_mark(directory: &Path, mark: &BlockPlace) -> io::Result<()> {
    let mut block = vec![0; block_size(0, 0)];
    BlockWriter::new(&mut block, 0).finish(&mark.header);
    let file = File::options().write(true).open(directory.join(journal::file_name(mark.file)))?;
    file.write_all_at(&block, mark.header.position)?;
    file.sync_data()?;
    remove_if_present(&directory.join(journal::MAKING))
}

impl ReplayStart<'_> {
    /// The partitions with a replica in this log directory.
    fn partitions_here(&self) -> BTreeSet<TopicPartition> {
        let is_here = |replica: &Replica| replica.node == self.node && (self.is_here)(replica);
        let here = self.image.partitions().filter(|(_, state)| state.replicas.iter().any(is_here));
        here.map(|(id, _)| id).collect()
    }

    /// Its replica has left this node: what there was of it was removed.
    fn has_gone(&self, id: TopicPartition) -> bool {
        self.image.partition(id).is_some_and(|state| state.is_elsewhere(self.node))
    }

    /// Some partition has another owner from now on.
    fn moves_partitions(&self) -> bool {
        let owner = |state: &PartitionState| state.replica_on(self.node).map(|replica| replica.owner);
        self.image.partitions().any(|(id, state)| self.before.partition(id).and_then(owner) != owner(state))
    }

    /// How many files a journal has, if they are those of this configuration.
    fn kept_files(&self, shard: ShardId, files: &BTreeMap<FileIndex, File>) -> io::Result<Option<u32>> {
        let Some(Keep { limits, shard_count }) = self.keep else { return Ok(None) };
        let mut sizes = BTreeMap::new();
        for (index, file) in files {
            sizes.insert(*index, file.metadata()?.len());
        }
        Ok(files_of(&sizes, &limits).filter(|_| shard.index() < shard_count))
    }

    /// What is known of some partition stands in the checkpoint of a shard that does not own it, and may write the next
    /// one without it.
    fn has_strays(&self, points: &BTreeMap<TopicPartition, PartitionPoint>) -> bool {
        points.keys().any(|id| {
            let owner = self.image.partition(*id).and_then(|state| state.owner_on(self.node));
            owner.is_some_and(|owner| !self.is_checkpointed_by(id, owner))
        })
    }

    fn is_checkpointed_by(&self, id: &TopicPartition, shard: ShardId) -> bool {
        self.checkpointed_by.get(id).is_some_and(|shards| shards.contains(&shard))
    }

    /// The partitions that a shard's journal may hold something of. Those of a core that was no more then
    /// have other owners, and so may have those that were moved: a shard that has let one go has it neither in its
    /// checkpoint nor in its journal, unless no checkpoint has it at all.
    fn partitions_of(&self, shard: ShardId) -> BTreeSet<TopicPartition> {
        let cores = self.before.node(self.node).map_or(0, |node| node.cores);
        let may_have_owned = |id| {
            let replica = self.before.partition(id).and_then(|state| state.replica_on(self.node));
            replica.is_some_and(|replica| {
                let is_elsewhere =
                    self.checkpointed_by.contains_key(&id) && !self.is_checkpointed_by(&id, shard);
                replica.owner == shard || (replica.has_moved() && !is_elsewhere)
            })
        };
        let may_be = |(id, state): (TopicPartition, &PartitionState)| -> Option<TopicPartition> {
            let is_here = state.replicas.iter().any(|replica| (self.is_here)(replica));
            (is_here && (shard.0 >= cores || may_have_owned(id))).then_some(id)
        };
        self.image.partitions().filter_map(may_be).collect()
    }

    /// Where a journal goes on that is not read through.
    fn mark_unread(&self, shard: ShardId, directory: &Path) -> io::Result<Option<JournalHead>> {
        let files = open_files(directory)?;
        settle(directory, &files)?;
        let Some(file_count) = self.kept_files(shard, &files)? else { return Ok(None) };
        let file_size = files[&FileIndex(0)].metadata()?.len();
        let mut headers = Vec::new();
        for file in files.values() {
            let bytes = read_at(file, 0, BLOCK_SIZE_MAX)?;
            match BlockView::decode(&bytes, 0) {
                Ok(view) => headers.push(view.header),
                Err(_) if bytes[..IO_ALIGNMENT].iter().all(|byte| *byte == 0) => {} // Not used yet.
                Err(_) => return Ok(None),
            }
        }
        let (last, epoch) = bounds_of_first_blocks(headers, file_size, file_count).unwrap_or_default();
        Ok(Some(JournalHead { mark: first_mark(shard, last, epoch, file_size), file_count }))
    }
}

/// What becomes of a journal that was replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum After {
    /// Something that was committed is damaged or gone, of these partitions.
    KeepDamaged(BTreeSet<TopicPartition>),
    /// Its shard makes it anew, or there is no such shard.
    Remove,
    Resume(JournalHead),
}

/// Looks through one journal and, given `segments`, writes to them what it holds.
fn judge(
    shard: ShardId,
    directory: &Path,
    start: &ReplayStart<'_>,
    mut segments: Option<&mut Segments<'_>>,
    replayed: &mut Replayed,
) -> io::Result<After> {
    let files = open_files(directory)?;
    settle(directory, &files)?;
    let mut replay = Replay::default();
    for (index, file) in &files {
        let size = file.metadata()?.len();
        let stop = replay.scan_file(*index, size, |position, size| read_at(file, position, size))?;
        if let Stop::Damaged(error) = stop {
            tracing::warn!(directory = %directory.display(), file = index.0, %error, "the journal has a block that does not hold");
            replayed.recovery.count(RecoveryBranch::JournalBlockDamaged);
        }
    }
    if let Some(branch) = report(&replay, directory) {
        replayed.recovery.count(branch);
    }
    if segments.is_some() && matches!(replay.verdict(), Verdict::BeyondGap { .. }) {
        replayed.doubtful.extend(start.partitions_of(shard));
    }
    let mut lost = BTreeSet::new();
    if replay.verdict().is_lost() {
        lost = start.partitions_of(shard);
        replayed.corrupt.extend(&lost);
        segments = None;
    }
    let mut redoing = Redoing::default();
    let mut flushed_ends = FlushedEnds::default();
    for (sequence, block) in replay.run() {
        let (bytes, is_needed) = (read_block(&files, sequence, block)?, replay.is_needed(sequence));
        flushed_ends.block(&bytes.view(), is_needed);
        if is_needed {
            redoing.look_ahead(&bytes.view(), replay.is_flushed(sequence));
        }
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
        replayed.recovery.count(RecoveryBranch::JournalEntryDamaged);
    }
    tracing::info!(
        directory = %directory.display(), blocks = count, partitions = redoing.ends().len(),
        "the journal was replayed"
    );
    replayed.take(&redoing);
    if segments.is_some() {
        let is_here = |id: &TopicPartition| start.image.partition(*id).is_some() && !start.has_gone(*id);
        replayed.doubtful.extend(redoing.may_lack_their_end().filter(is_here));
        replayed.take_redone(&redoing);
        replayed.settled.take_flushed(&flushed_ends);
    }
    if !redoing.corrupt().is_empty() || replay.verdict().is_lost() {
        lost.extend(redoing.corrupt());
        lost.retain(|id| !start.has_gone(*id));
        return Ok(After::KeepDamaged(lost));
    }
    let head = match (start.kept_files(shard, &files)?, start.keep) {
        (Some(file_count), Some(keep)) => {
            let mark = replay.mark(shard, keep.limits.file_size);
            mark.map(|mark| JournalHead { mark, file_count })
        }
        _ => None,
    };
    Ok(head.map_or(After::Remove, After::Resume))
}

fn report(replay: &Replay, directory: &Path) -> Option<RecoveryBranch> {
    match replay.verdict() {
        Verdict::Whole => None,
        Verdict::BeyondGap { first } => {
            tracing::warn!(
                directory = %directory.display(), block = first.0,
                "whole blocks lie beyond a gap in the journal: an interrupted write, they are not replayed"
            );
            Some(RecoveryBranch::JournalBlockBeyondGap)
        }
        Verdict::Corrupt { missing } => {
            tracing::error!(
                directory = %directory.display(), block = missing.0,
                "a block of the journal that was flushed is damaged or gone: the core's partitions stay offline"
            );
            Some(RecoveryBranch::JournalBlockGone)
        }
        Verdict::FileCut { file, size, made } => {
            tracing::error!(
                directory = %directory.display(), file = file.0, size, made,
                "a file of the journal is shorter than it was made: the core's partitions stay offline"
            );
            Some(RecoveryBranch::JournalFileCut)
        }
        Verdict::FileGone { file } => {
            tracing::error!(
                directory = %directory.display(), file = file.0,
                "a file of the journal is gone: the core's partitions stay offline"
            );
            Some(RecoveryBranch::JournalFileGone)
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
        for (partition, start) in redoing.log_starts() {
            let known = self.settled.log_starts.entry(*partition).or_insert(*start);
            *known = (*known).max(*start);
        }
    }

    /// What it says was carried out.
    fn take_redone(&mut self, redoing: &Redoing) {
        let is_whole = |(id, _): &(&TopicPartition, &Reached)| !redoing.corrupt().contains(*id);
        self.settled.reached.extend(redoing.reached().iter().filter(is_whole));
        self.settled.truncated.extend(redoing.truncated().iter().filter(is_whole));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node};
    use crate::config::Routing;

    /// A start was interrupted while it removed a journal that it had replayed: what is left must not be
    /// judged, as it would have lost its first blocks.
    #[test]
    fn rest_of_a_replayed_journal_is_removed_and_not_judged() {
        let data_dir = tempfile::tempdir().unwrap();
        let directory = data_dir.path().join(journal::replayed_directory_name(ShardId(0)));
        std::fs::create_dir(&directory).unwrap();
        File::create_new(directory.join(journal::file_name(FileIndex(1)))).unwrap();
        let image = image_of(&[node(1, 1, Routing::Node)]);
        let start = |clean| ReplayStart {
            data_dir: data_dir.path(),
            image: &image,
            before: &image,
            node: NodeId(1),
            is_here: &|_| true,
            clean,
            sync_fs: SyncFs::Nothing,
            checkpointed_by: const { &BTreeMap::new() },
            generation: CheckpointGeneration::default(),
            keep: None,
            replicas_removed: false,
        };
        let replayed = replay(&start(false), &mut BTreeMap::new()).unwrap();
        assert!(replayed.corrupt.is_empty());
        assert!(!directory.exists());
        // One that was not replayed is, and goes.
        let directory = data_dir.path().join(journal::directory_name(ShardId(0)));
        std::fs::create_dir(&directory).unwrap();
        replay(&start(true), &mut BTreeMap::new()).unwrap();
        assert_eq!(std::fs::read_dir(data_dir.path()).unwrap().count(), 0);
    }
}
