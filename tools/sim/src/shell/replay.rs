//! Replays the journals of the last run into the segments, whatever the number of shards is now, and
//! marks those that are gone on with.
//!
//! Every block that is believed is held against the ledger of those that were issued: a block in the
//! wrong place or of an earlier use of its file must never be among them.

use crate::disk::{DiskError, DiskResult, OpenFile};
use crate::settings::Mistake;
use crate::shell::Shell;
use crate::shell::cutting::truncate;
use crate::shell::deletion::forget_lost;
use crate::shell::doubts;
use crate::shell::journal::{
    MAKING, damaged_journal_directory, journal_file, parse_damaged_directory, parse_journal_directory,
    parse_journal_file, replayed_journal_directory,
};
use odradek::log::checkpoint::{Checkpoint, PartitionPoint};
use odradek::log::data_dir::checkpoint_name;
use odradek::log::journal::block::{BlockHeader, BlockView, BlockWriter, HEADER_SIZE, block_size};
use odradek::log::journal::flushed_ends::FlushedEnds;
use odradek::log::journal::redo::{Reached, Redo, Redoing};
use odradek::log::journal::replay::{
    FoundBlock, Replay, Verdict, bounds_of_first_blocks, files_of, first_mark,
};
use odradek::log::journal::ring::{BlockPlace, FileIndex, JournalHead};
use odradek::log::journal::settle::Settled;
use odradek::log::named_partitions::{self, LOST_PARTITIONS_FILE};
use odradek::log::ownership::{self, PARTITION_METADATA};
use odradek::log::partition::Place;
use odradek::log::plan::SyncFs;
use odradek::log::segment::{FileName, SegmentFile};
use odradek::types::limits::IO_ALIGNMENT;
use odradek::types::{Offset, ShardId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

type Points = BTreeMap<TopicPartition, PartitionPoint>;

/// What the journals say of the partitions' logs.
#[derive(Debug, Default)]
pub struct Replayed {
    pub ends: BTreeMap<TopicPartition, Offset>,
    pub corrupt: BTreeSet<TopicPartition>,
    /// Journals that their shards go on with.
    pub heads: BTreeMap<ShardId, JournalHead>,
    settled: Settled,
}

/// What becomes of a journal that was replayed.
enum After {
    /// Something that was committed is damaged or gone, of these partitions.
    KeepDamaged(BTreeSet<TopicPartition>),
    Remove,
    Resume(JournalHead),
}

type Files = BTreeMap<FileIndex, Vec<u8>>;

/// Replays all journals and brings the recovery points up to date with them.
pub async fn replay(shells: &[Rc<Shell>], points: &mut Points, clean: bool) -> DiskResult<Replayed> {
    let shell = &shells[0];
    let disk = &shell.disk;
    let mut replayed = Replayed::default();
    let known: BTreeSet<TopicPartition> = shell.metadata.borrow().partitions.keys().copied().collect();
    forget_lost(shell, |id| !known.contains(id)).await?;
    let names: Vec<String> = disk.list("").await?.into_iter().map(|(name, _)| name).collect();
    let mut segments = Segments { shell, known: BTreeMap::new(), touched: BTreeMap::new() };
    if names.iter().any(|name| name.ends_with(".replayed")) {
        disk.sync_directory("").await?;
    }
    for name in &names {
        if let Some(shard) = parse_damaged_directory(name) {
            take_lost(shells, shard, name, &mut replayed).await?;
        } else if name.ends_with(".replayed") {
            // What an interrupted start has left of one that was replayed.
            disk.remove_directory(name).await?;
            shell.world.count("journal: rest of a replayed one removed");
        }
    }
    let told = doubts::read(shell).await?;
    shell.doubtful.borrow_mut().extend(told.intersection(&known));
    let mut retire = Vec::new();
    for name in &names {
        let Some(shard) = parse_journal_directory(name) else { continue };
        if shard.index() >= shells.len() {
            shell.world.count("journal: of a core that is no more");
        }
        let files = read_files(shell, name).await?;
        let after = match clean {
            true => mark_unread(shells, shard, &files).map_or(After::Remove, After::Resume),
            false => judge(shells, shard, name, &files, &mut segments, &mut replayed).await?,
        };
        retire.push((shard, name, after));
    }
    segments.flush().await?;
    for (id, reached) in &replayed.settled.reached {
        shell.model.borrow_mut().stored(id, reached.end);
    }
    if !clean {
        replayed.settled.apply(points);
    }
    if !clean || shell.metadata.borrow().moves_partitions(shells.len() as u16) {
        write_checkpoints(shells, points).await?;
    }
    let doubtful = shell.doubtful.borrow().clone();
    doubts::note(shell, &doubtful).await?; // The journal that says so may go.
    let mut done = Vec::new();
    for (shard, name, after) in retire {
        match after {
            After::KeepDamaged(lost) => put_aside(shell, shard, name, &lost).await?,
            After::Remove => {
                let replayed = replayed_journal_directory(shard);
                // At once: half a journal would look like one that has lost something.
                disk.rename(name, &replayed).await?;
                done.push(replayed);
            }
            After::Resume(head) => {
                write_mark(shell, name, &head.mark).await?;
                shell.world.count("journal: gone on with");
                replayed.heads.insert(shard, head);
            }
        }
    }
    disk.sync_directory("").await?;
    for name in done {
        disk.remove_directory(&name).await?;
    }
    Ok(replayed)
}

/// The files of a journal, flushed as they were found, names included: a loss of power must not take back
/// what the start goes by.
async fn read_files(shell: &Shell, directory: &str) -> DiskResult<Files> {
    let mut files = Files::new();
    for (name, _) in shell.disk.list(directory).await? {
        if let Some(index) = parse_journal_file(&name) {
            let file = shell.disk.open(&format!("{directory}/{name}"), false).await?;
            shell.flush_file(&file).await?;
            files.insert(index, file.read(0, usize::MAX).await?);
        }
    }
    shell.disk.sync_directory(directory).await?;
    if shell.settings.makes(Mistake::StaleBlockAccepted) {
        files.values_mut().for_each(|bytes| take_stale_blocks_along(bytes));
    }
    Ok(files)
}

/// What an earlier start has found a journal to have lost.
async fn take_lost(
    shells: &[Rc<Shell>],
    shard: ShardId,
    directory: &str,
    replayed: &mut Replayed,
) -> DiskResult<()> {
    let shell = &shells[0];
    let lost = match shell.disk.read_file(&format!("{directory}/{LOST_PARTITIONS_FILE}")).await {
        Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(named_partitions::decode),
        Err(DiskError::NotFound) => None,
        Err(error) => return Err(error),
    };
    let lost = lost.unwrap_or_else(|| partitions_of(shell, shard));
    if shell.settings.makes(Mistake::LostJournalServed) {
        return Ok(());
    }
    let known = shell.metadata.borrow();
    replayed.corrupt.extend(lost.into_iter().filter(|id| known.partitions.contains_key(id)));
    Ok(())
}

/// A journal that has lost something is kept under another name.
async fn put_aside(
    shell: &Shell,
    shard: ShardId,
    directory: &str,
    lost: &BTreeSet<TopicPartition>,
) -> DiskResult<()> {
    let disk = &shell.disk;
    disk.replace_file(
        &format!("{directory}/{LOST_PARTITIONS_FILE}"),
        named_partitions::encode(lost).as_bytes(),
    )
    .await?;
    let number = (1..).find(|number| !disk.exists(&damaged_journal_directory(shard, *number)));
    let aside = damaged_journal_directory(shard, number.expect("some number is free"));
    disk.rename(directory, &aside).await
}

/// Log starts stand nowhere but in the journals, until now.
async fn write_checkpoints(shells: &[Rc<Shell>], points: &Points) -> DiskResult<()> {
    let mut by_owner: BTreeMap<ShardId, Points> = BTreeMap::new();
    for (id, owner) in shells[0].metadata.borrow().owners_with(shells.len() as u16) {
        if let Some(point) = points.get(&id) {
            by_owner.entry(owner).or_default().insert(id, *point);
        }
    }
    for (shard, points) in by_owner {
        let generation = shells[0].generation.get();
        let starts: Vec<_> = points.iter().map(|(id, point)| (*id, point.log_start)).collect();
        let bytes = Checkpoint { shard, generation, points }.encode();
        shells[0].disk.replace_file(&checkpoint_name(shard), &bytes).await?;
        for (id, start) in starts {
            shells[0].model.borrow_mut().checkpointed(&id, start);
        }
    }
    Ok(())
}

async fn write_mark(shell: &Shell, directory: &str, mark: &BlockPlace) -> DiskResult<()> {
    let mut block = vec![0; block_size(0, 0)];
    BlockWriter::new(&mut block, 0).finish(&mark.header);
    let file = shell.disk.open(&format!("{directory}/{}", journal_file(mark.file)), false).await?;
    shell.ledger.borrow_mut().issued(file.node, *mark, block.len());
    file.write(mark.header.position, &block).await?;
    shell.flush_file(&file).await?;
    shell.disk.remove_if_present(&format!("{directory}/{MAKING}")).await
}

/// How many files a journal has, if they are those of this configuration.
fn kept_files(shells: &[Rc<Shell>], shard: ShardId, files: &Files) -> Option<u32> {
    // What a journal says of a replica that has gone it would say of one that has come as well.
    let is_kept = shard.index() < shells.len() && !shells[0].metadata.borrow().replicas_removed;
    let limits = shells[0].settings.journal.filter(|_| is_kept)?;
    files_of(&files.iter().map(|(file, bytes)| (*file, bytes.len() as u64)).collect(), &limits)
}

/// Where a journal goes on that is not read through.
fn mark_unread(shells: &[Rc<Shell>], shard: ShardId, files: &Files) -> Option<JournalHead> {
    let file_count = kept_files(shells, shard, files)?;
    let file_size = files[&FileIndex(0)].len() as u64;
    let mut headers: Vec<BlockHeader> = Vec::new();
    for bytes in files.values() {
        match BlockView::decode(bytes, 0) {
            Ok(view) => headers.push(view.header),
            Err(_) if bytes[..IO_ALIGNMENT].iter().all(|byte| *byte == 0) => {} // Not used yet.
            Err(_) => return None,
        }
    }
    let (last, epoch) = bounds_of_first_blocks(headers, file_size, file_count).unwrap_or_default();
    Some(JournalHead { mark: first_mark(shard, last, epoch, file_size), file_count })
}

/// The partitions that a shard's journal may hold something of. Those of a core that was no more then have
/// other owners, and nothing says which they were.
fn partitions_of(shell: &Shell, shard: ShardId) -> BTreeSet<TopicPartition> {
    let metadata = shell.metadata.borrow();
    let is_gone = shard.0 >= metadata.cores;
    let may_be = metadata.partitions.iter().filter(|(_, known)| is_gone || known.owner == shard);
    may_be.map(|(id, _)| *id).collect()
}

/// Looks through one journal and writes to the segments what it holds, unless it has lost blocks.
async fn judge(
    shells: &[Rc<Shell>],
    shard: ShardId,
    directory: &str,
    files: &Files,
    segments: &mut Segments<'_>,
    replayed: &mut Replayed,
) -> DiskResult<After> {
    let shell = &shells[0];
    let world = &shell.world;
    let mut replay = Replay::default();
    for (index, bytes) in files {
        let read = |position, size| Ok::<_, std::convert::Infallible>(read_at(bytes, position, size));
        let Ok(_) = replay.scan_file(*index, bytes.len() as u64, read);
    }
    match replay.verdict() {
        Verdict::Whole => world.count("journal: whole"),
        Verdict::BeyondGap { first } => {
            world.note(format_args!("{directory}: whole blocks beyond a gap, from {}", first.0));
            world.count("journal: whole blocks beyond a gap");
            shell.doubtful.borrow_mut().extend(partitions_of(shell, shard));
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
        // What the missing one said of the others is not known.
        let lost = partitions_of(shell, shard);
        if !shell.settings.makes(Mistake::LostJournalServed) {
            replayed.corrupt.extend(&lost);
        }
        return Ok(After::KeepDamaged(lost));
    }
    let mut redoing = Redoing::default();
    let mut flushed_ends = FlushedEnds::default();
    for (sequence, FoundBlock { file, position, size }) in replay.run() {
        let bytes = read_at(&files[&file], position, size);
        let view = BlockView::decode(&bytes, position).expect("it was whole a moment ago");
        let is_needed = replay.is_needed(sequence);
        flushed_ends.block(&view, is_needed);
        if is_needed {
            // One that is not may be back where a loss of power took what was written over it.
            let node = shell.disk.node(&format!("{directory}/{}", journal_file(file)));
            shell.ledger.borrow().check_believed(world, sequence, node.expect("it was read"), position);
            redoing.look_ahead(&view, replay.is_flushed(sequence));
        }
    }
    if !shell.settings.makes(Mistake::FlushRecordsIgnored) {
        replayed.settled.take_flushed(&flushed_ends);
    }
    for (sequence, FoundBlock { file, position, size }) in replay.blocks() {
        let bytes = read_at(&files[&file], position, size);
        let view = BlockView::decode(&bytes, position).expect("it was whole a moment ago");
        let mut redo = Vec::new();
        redoing.block(&view, replay.is_flushed(sequence), &mut redo);
        world.count("journal: block replayed");
        for redo in &redo {
            segments.redo(redo, &mut replayed.corrupt).await?;
        }
    }
    let is_here = |id: &TopicPartition| shell.metadata.borrow().partitions.contains_key(id);
    shell.doubtful.borrow_mut().extend(redoing.may_lack_their_end().filter(is_here));
    replayed.take(&redoing);
    if !redoing.corrupt().is_empty() {
        world.note(format_args!("{directory}: damaged bytes of {} partitions", redoing.corrupt().len()));
        world.count("journal: bytes of one partition damaged");
        return Ok(After::KeepDamaged(redoing.corrupt().clone()));
    }
    let head = kept_files(shells, shard, files).and_then(|file_count| {
        let mark = replay.mark(shard, files[&FileIndex(0)].len() as u64)?;
        Some(JournalHead { mark, file_count })
    });
    Ok(head.map_or(After::Remove, After::Resume))
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
        let is_whole = |(id, _): &(&TopicPartition, &Reached)| !redoing.corrupt().contains(*id);
        self.settled.reached.extend(redoing.reached().iter().filter(is_whole));
        self.settled.truncated.extend(redoing.truncated().iter().filter(is_whole));
    }
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
    /// Directory and base offsets of each partition's segments; `None` when it is gone.
    known: BTreeMap<TopicPartition, Option<(String, BTreeSet<Offset>)>>,
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
            Redo::Cut { partition, segment, size, is_missed } => {
                let Some(path) = self.path(partition, segment).await? else { return Ok(()) };
                if !disk.exists(&path) {
                    return Ok(());
                }
                let file = disk.open(&path, true).await?;
                if file.size() < size {
                    if !is_missed {
                        return Ok(());
                    }
                    self.shell.world.note(format_args!("{path} is shorter than {size}"));
                    corrupt.insert(partition);
                    return Ok(());
                }
                self.shell.world.count("segment: closed by replay");
                file.truncate(size).await?;
                for derived in SegmentFile::DERIVED {
                    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                    disk.remove_if_present(&format!("{directory}/{}", derived.name(segment))).await?;
                }
                self.touched.insert(path, file);
            }
            Redo::Delete { partition } => {
                // The metadata knew it first.
                self.known.insert(partition, None);
                self.shell.world.count("journal: deletion replayed");
                if self.shell.metadata.borrow().partitions.contains_key(&partition) {
                    let what = format_args!("{partition:?} is there");
                    self.shell.world.finding("deleted topics do not come back", what);
                }
            }
            Redo::Truncate { partition, place } => self.truncate(partition, place).await?,
        }
        Ok(())
    }

    async fn truncate(&mut self, partition: TopicPartition, place: Place) -> DiskResult<()> {
        let disk = &self.shell.disk.clone();
        let Some((directory, bases)) = self.find(partition).await? else { return Ok(()) };
        bases.split_off(&place.segment);
        truncate(disk, directory, place).await?;
        let path = format!("{directory}/{}", SegmentFile::Log.name(place.segment));
        if disk.exists(&path) {
            bases.insert(place.segment);
            self.touched.insert(path.clone(), disk.open(&path, false).await?);
        }
        self.shell.world.count("journal: cut replayed");
        Ok(())
    }

    async fn find(
        &mut self,
        partition: TopicPartition,
    ) -> DiskResult<Option<&mut (String, BTreeSet<Offset>)>> {
        if !self.known.contains_key(&partition) {
            let found = self.look_up(partition).await?;
            self.known.insert(partition, found);
        }
        Ok(self.known.get_mut(&partition).and_then(Option::as_mut))
    }

    /// `None` for what was deleted.
    async fn path(&mut self, partition: TopicPartition, segment: Offset) -> DiskResult<Option<String>> {
        let brings_back = self.shell.settings.makes(Mistake::LogStartMovedBack);
        let Some((directory, bases)) = self.find(partition).await? else { return Ok(None) };
        if !bases.contains(&segment) {
            if bases.last().is_some_and(|last| segment < *last) && !brings_back {
                return Ok(None);
            }
            bases.insert(segment);
        }
        Ok(Some(format!("{directory}/{}", SegmentFile::Log.name(segment))))
    }

    async fn look_up(&self, partition: TopicPartition) -> DiskResult<Option<(String, BTreeSet<Offset>)>> {
        let known = self.shell.metadata.borrow().partitions.get(&partition).cloned();
        let Some(known) = known else { return Ok(None) };
        let directory = known.directory();
        let disk = &self.shell.disk;
        let owner = match disk.read_file(&format!("{directory}/{PARTITION_METADATA}")).await {
            Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| ownership::decode(text).ok()),
            Err(DiskError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if owner.is_some_and(|owner| owner != partition.topic) {
            return Ok(None);
        }
        let names = match disk.list(&directory).await {
            Ok(names) => names,
            Err(DiskError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let bases = names.iter().filter_map(|(name, _)| match FileName::parse(name) {
            Some(FileName::Live { base_offset, file: SegmentFile::Log }) => Some(base_offset),
            _ => None,
        });
        let bases: BTreeSet<Offset> = bases.collect();
        let is_its = owner.is_some() || !bases.is_empty();
        Ok(is_its.then_some((directory, bases)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::settings::Settings;
    use crate::shell::Surroundings;
    use crate::shell::journal::journal_directory;
    use crate::world::World;
    use std::cell::RefCell;

    /// A kill leaves names and blocks that no flush has covered; a start that has gone by them must not lose
    /// them with the power.
    #[test]
    fn journal_that_a_start_has_read_outlives_the_power() {
        for seed in 0..20 {
            let world = World::new(seed, false);
            let around = Surroundings {
                world: world.clone(),
                disk: Disk::new(world.clone(), seed),
                settings: Settings::draw(seed, None),
                metadata: Rc::default(),
                model: Rc::default(),
                ledger: Rc::default(),
            };
            let (disk, shell) = (around.disk.clone(), Shell::new(ShardId(0), &around));
            let read = Rc::new(RefCell::new(None));
            let (reading, result) = (shell.clone(), read.clone());
            world.spawn(async move {
                let directory = journal_directory(ShardId(0));
                reading.disk.make_directory(&directory).await.unwrap();
                let path = format!("{directory}/{}", journal_file(FileIndex(0)));
                reading.disk.open(&path, true).await.unwrap().write(0, &[7; 4096]).await.unwrap();
                reading.disk.kill();
                *result.borrow_mut() = Some(read_files(&reading, &directory).await.unwrap());
            });
            world.run_until(|| read.borrow().is_some());
            disk.lose_power();
            let file = format!("{}/{}", journal_directory(ShardId(0)), journal_file(FileIndex(0)));
            assert_eq!(disk.peek(&file).as_ref(), read.borrow().as_ref().map(|files| &files[&FileIndex(0)]));
        }
    }
}
