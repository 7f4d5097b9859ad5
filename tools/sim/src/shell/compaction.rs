//! Compaction of the dirtiest log, and what a start makes of one that was interrupted.

use crate::disk::{DiskError, DiskResult, OpenFile};
use crate::shell::Shell;
use crate::shell::journal::Logged;
use crate::shell::open::OpenFailed;
use crate::shell::reading::ReadFailed;
use crate::shell::replica::Replica;
use crate::world::Turn;
use odradek::codec::record_batch::{BatchView, batch_size};
use odradek::log::checksums::walk::DamageAt;
use odradek::log::compaction::checkpoint::{CLEANER_CHECKPOINT_FILE, decode, encode};
use odradek::log::compaction::filter::{BatchFacts, BatchFilter, FilterOptions};
use odradek::log::compaction::keys::{KeyWalk, MapProgress};
use odradek::log::compaction::offset_map::HashSeed;
use odradek::log::compaction::output::CompactedSegment;
use odradek::log::compaction::plan::{Cleanable, GroupLimits, SegmentToClean, end_of, group_segments};
use odradek::log::compaction::swap::{
    Interrupted, SwapStep, abandon_steps, cleaned_name, decide_steps, discard_steps, is_decided,
    replace_steps,
};
use odradek::log::compaction::swapped::SwappedSegment;
use odradek::log::journal::block::{Change, Entry};
use odradek::log::recovery::Damage;
use odradek::log::segment::{SegmentFile, SegmentInfo};
use odradek::log::transactions::AbortedTransaction;
use odradek::log::transactions::index::TransactionIndex;
use odradek::types::{Offset, Timestamp, TopicPartition};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Bytes of one key in a map.
const KEY_SIZE: usize = 24;

/// What the compaction of a shard remembers.
#[derive(Default)]
pub struct Cleaned {
    /// One pass at a time.
    turn: Turn,
    /// What was written down of each partition: its first dirty offset.
    checkpoints: RefCell<BTreeMap<TopicPartition, Option<Offset>>>,
    /// Partitions that cannot be read.
    uncleanable: RefCell<BTreeSet<TopicPartition>>,
}

/// Why a pass did not come to its end.
enum Failed {
    Superseded,
    NoSpace,
    Unreadable(ReadFailed),
    Disk(DiskError),
}

fn writing(error: DiskError) -> Failed {
    if error.is_full() { Failed::NoSpace } else { Failed::Disk(error) }
}

/// Passes over the logs that are due, the dirtiest first. One that does not get on waits for the next
/// round.
pub async fn clean_all(shell: &Rc<Shell>) {
    let _turn = shell.cleaned.turn.take().await;
    let mut passed_over = BTreeSet::new();
    for replica in shell.all_replicas() {
        if replica.swapped.borrow().is_some()
            && let Err(failed) = finish_swap(shell, &replica).await
        {
            note_failed(shell, &replica, failed);
            passed_over.insert(replica.id);
        }
    }
    while let Some((replica, cleanable)) = dirtiest(shell, &passed_over).await {
        if !clean(shell, &replica, &cleanable).await {
            passed_over.insert(replica.id);
        }
    }
}

/// One pass. Whether it got on.
async fn clean(shell: &Rc<Shell>, replica: &Rc<Replica>, cleanable: &Cleanable) -> bool {
    match pass(shell, replica, cleanable).await {
        Ok(first_dirty) => {
            shell.world.count("compaction");
            if cleanable.first_dirty > Offset::ZERO && first_dirty < cleanable.first_uncleanable {
                shell.world.count("compaction: in several passes");
            }
            shell.world.note(format_args!("compacted {} to {first_dirty}", replica.name));
            let gets_on = first_dirty > cleanable.first_dirty;
            write_checkpoint(shell, replica, first_dirty).await && gets_on
        }
        Err(failed) => {
            note_failed(shell, replica, failed);
            false
        }
    }
}

fn note_failed(shell: &Rc<Shell>, replica: &Rc<Replica>, failed: Failed) {
    match failed {
        Failed::Superseded => shell.world.count("compaction: given up"),
        Failed::NoSpace => shell.world.count("compaction: no space"),
        Failed::Unreadable(error) => {
            crate::workload::failed_read(shell, &replica.id, 0, error);
            shell.cleaned.uncleanable.borrow_mut().insert(replica.id);
        }
        Failed::Disk(error) => shell.failed(format_args!("compacting {}", replica.name), error),
    }
}

async fn dirtiest(
    shell: &Rc<Shell>,
    passed_over: &BTreeSet<TopicPartition>,
) -> Option<(Rc<Replica>, Cleanable)> {
    let mut dirtiest: Option<(Rc<Replica>, Cleanable)> = None;
    for replica in shell.all_replicas() {
        let Some(limits) = replica.log.borrow().config.cleanup.compact else { continue };
        let is_left = passed_over.contains(&replica.id);
        if is_left || replica.is_deleted() || shell.cleaned.uncleanable.borrow().contains(&replica.id) {
            continue;
        }
        let checkpoint = checkpoint(shell, &replica).await;
        let written = replica.segments.borrow().written;
        let now = Timestamp(shell.world.wall_ms());
        let cleanable = Cleanable::of(&replica.log.borrow(), checkpoint, written, &limits, now);
        let is_dirtier = dirtiest.as_ref().is_none_or(|(_, most)| most.dirty_ppm() < cleanable.dirty_ppm());
        if cleanable.is_due(&limits) && is_dirtier {
            dirtiest = Some((replica, cleanable));
        }
    }
    dirtiest.filter(|_| !shell.is_offline() && !shell.is_closed())
}

fn topic_of(replica: &Replica) -> &str {
    replica.name.strip_suffix("-0").expect("every topic has one partition")
}

async fn checkpoint(shell: &Shell, replica: &Replica) -> Option<Offset> {
    if let Some(known) = shell.cleaned.checkpoints.borrow().get(&replica.id) {
        return *known;
    }
    let text = shell.disk.read_file(&format!("{}/{CLEANER_CHECKPOINT_FILE}", replica.name)).await.ok();
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
    let read = text.and_then(|text| decode(&text, topic_of(replica), replica.id.partition));
    shell.cleaned.checkpoints.borrow_mut().insert(replica.id, read);
    read
}

async fn write_checkpoint(shell: &Rc<Shell>, replica: &Rc<Replica>, first_dirty: Offset) -> bool {
    shell.cleaned.checkpoints.borrow_mut().insert(replica.id, Some(first_dirty));
    let Some(_names) = replica.hold_names() else { return false };
    let text = encode(topic_of(replica), replica.id.partition, first_dirty);
    let path = format!("{}/{CLEANER_CHECKPOINT_FILE}", replica.name);
    // Without it, the next start compacts once more what is clean.
    let _ = shell.disk.replace_file(&path, text.as_bytes()).await;
    true
}

async fn pass(shell: &Rc<Shell>, replica: &Rc<Replica>, cleanable: &Cleanable) -> Result<Offset, Failed> {
    let now = Timestamp(shell.world.wall_ms());
    let walk = walk_keys(shell, replica, cleanable).await?;
    let limits = replica.log.borrow().config.cleanup.compact.ok_or(Failed::Superseded)?;
    let options = FilterOptions {
        now,
        delete_retention_ms: limits.delete_retention_ms,
        end: cleanable.first_uncleanable,
    };
    let mut filter = BatchFilter::new(walk.finish(), options);
    let first_dirty = filter.clean_end().unwrap_or(cleanable.first_dirty);
    let mut segments = Vec::new();
    for (info, end_offset) in segments_between(replica, Offset::ZERO, first_dirty) {
        segments.push(SegmentToClean { info, end_offset, index_size: info.size / 8 });
    }
    let segment_size_max = replica.log.borrow().config.segment_size_max;
    let limits = GroupLimits { segment_size_max, index_size_max: 10 << 20 };
    let mut rest = &segments[..];
    for count in group_segments(&segments, &limits) {
        let (group, after) = rest.split_at(count);
        rest = after;
        compact_group(shell, replica, group, &mut filter).await?;
    }
    Ok(first_dirty)
}

/// The closed segments that hold offsets from `from` to `to`, each with where it ends.
fn segments_between(replica: &Replica, from: Offset, to: Offset) -> Vec<(SegmentInfo, Offset)> {
    let log = replica.log.borrow();
    let all = log.closed().iter().map(|segment| (*segment, end_of(&log, segment)));
    all.filter(|(segment, end)| *end > from && segment.base_offset < to).collect()
}

async fn walk_keys(
    shell: &Rc<Shell>,
    replica: &Rc<Replica>,
    cleanable: &Cleanable,
) -> Result<KeyWalk, Failed> {
    let size_max = shell.settings.keys_max as usize * KEY_SIZE;
    let seed = HashSeed(shell.world.draw(), shell.world.draw());
    let mut walk = KeyWalk::new(cleanable.first_dirty, cleanable.first_uncleanable, size_max, seed);
    for (info, end_offset) in segments_between(replica, cleanable.first_dirty, cleanable.first_uncleanable) {
        let bytes = read_segment(shell, replica, &info).await?;
        if let Some((aborted, _)) = aborted_in(shell, replica, &info).await? {
            walk.transactions().add_aborted(aborted);
        }
        for batch in batches(&bytes) {
            if batch_end(batch) <= cleanable.first_dirty {
                continue;
            }
            match walk.take(batch).map_err(|error| unfit(shell, &info, &error))? {
                MapProgress::More => {}
                MapProgress::Full => return Ok(walk),
            }
        }
        walk.segment_ended(end_offset);
    }
    Ok(walk)
}

fn unfit(shell: &Shell, info: &SegmentInfo, error: &dyn std::fmt::Display) -> Failed {
    shell.world.note(format_args!("segment {}: {error}", info.base_offset));
    damaged(info)
}

fn damaged(info: &SegmentInfo) -> Failed {
    Failed::Unreadable(ReadFailed::Damaged { segment: info.base_offset })
}

fn batch_end(batch: &[u8]) -> Offset {
    BatchView::split_first(batch).map_or(Offset::ZERO, |(view, _)| view.end_offset())
}

/// The aborted transactions that have something in a segment, and which is open at its end. `None` when none
/// of its batches is part of one.
async fn aborted_in(
    shell: &Rc<Shell>,
    replica: &Rc<Replica>,
    info: &SegmentInfo,
) -> Result<Option<(Vec<AbortedTransaction>, Option<Offset>)>, Failed> {
    let segment = info.base_offset;
    let found = async {
        let Some(index) = replica.closed_transactions(shell, segment).await? else { return Ok(None) };
        let stable = replica.log.borrow().last_stable_offset();
        let search = replica.search_aborted(shell, segment, segment, stable).await?;
        Ok(Some((search.finish(stable), index.first_open)))
    };
    let found = found.await;
    if replica.is_deleted() || !replica.log.borrow().holds_segments(&[segment]) {
        return Err(Failed::Superseded);
    }
    found.map_err(Failed::Unreadable)
}

async fn read_segment(
    shell: &Rc<Shell>,
    replica: &Rc<Replica>,
    info: &SegmentInfo,
) -> Result<Vec<u8>, Failed> {
    let segment = info.base_offset;
    let is_there = || !replica.is_deleted() && replica.log.borrow().holds_segments(&[segment]);
    let goes_on = || is_there() && !shell.is_closed() && !shell.is_offline();
    if !goes_on() {
        return Err(Failed::Superseded);
    }
    let bytes = async {
        let swapped = replica.swapped.borrow().clone().filter(|(base, _)| *base == segment);
        let file = match swapped {
            Some((_, file)) => file,
            None => shell.disk.open(&replica.path(segment, SegmentFile::Log), false).await?,
        };
        file.read(0, info.size as usize).await
    };
    let bytes = bytes.await;
    if !goes_on() {
        return Err(Failed::Superseded);
    }
    let bytes = bytes.map_err(|error| Failed::Unreadable(ReadFailed::Disk(error)))?;
    let whole: usize = batches(&bytes).map(<[u8]>::len).sum();
    if whole as u64 != info.size {
        shell.world.note(format_args!("{whole} bytes of batches in {} of {}", bytes.len(), info.size));
        return Err(damaged(info));
    }
    let is_as_written = replica.is_as_written(shell, segment, &bytes).await;
    if !goes_on() {
        return Err(Failed::Superseded);
    }
    if is_as_written.map_err(Failed::Unreadable)? { Ok(bytes) } else { Err(damaged(info)) }
}

fn batches(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = batch_size(rest).ok().filter(|size| *size <= rest.len())?;
        let (batch, after) = rest.split_at(size);
        rest = after;
        Some(batch)
    })
}

/// Writes one segment in the place of a group, and takes it into the log.
async fn compact_group(
    shell: &Rc<Shell>,
    replica: &Rc<Replica>,
    group: &[SegmentToClean],
    filter: &mut BatchFilter,
) -> Result<(), Failed> {
    let (first, last) = (group.first().expect("no group is empty"), group.last().expect("as before"));
    let base = first.info.base_offset;
    let replaced: Vec<Offset> = group.iter().map(|segment| segment.info.base_offset).collect();
    let swapped = match write_group(shell, replica, group, filter).await {
        Ok(written) => swap(shell, replica, &replaced, last.end_offset, written).await,
        Err(failed) => Err(failed),
    };
    // After a failure of the disk nobody knows what is decided: the next start does, by the names.
    if matches!(swapped, Err(ref failed) if !matches!(failed, Failed::Disk(_)))
        && let Some(_names) = replica.hold_names()
        && !shell.is_offline()
    {
        // What stays is removed by the next pass or start.
        let _ = carry_out(shell, &replica.name, &discard_steps(base)).await.whole();
    }
    swapped
}

async fn write_group(
    shell: &Rc<Shell>,
    replica: &Rc<Replica>,
    group: &[SegmentToClean],
    filter: &mut BatchFilter,
) -> Result<(CompactedSegment, OpenFile), Failed> {
    let interval = replica.log.borrow().config.index_interval_bytes;
    let first = group.first().expect("no group is empty");
    let base = first.info.base_offset;
    let path = |file| format!("{}/{}", replica.name, cleaned_name(file, base));
    let file: OpenFile = {
        let _names = replica.hold_names().ok_or(Failed::Superseded)?;
        let file = shell.disk.open(&path(SegmentFile::Log), true).await.map_err(writing)?;
        file.truncate(0).await.map_err(writing)?;
        file
    };
    let mut out = CompactedSegment::new(replica.id, &first.info, interval);
    let mut first_open = None;
    let mut written = 0;
    for (at, segment) in group.iter().enumerate() {
        let bytes = read_segment(shell, replica, &segment.info).await?;
        if let Some((aborted, open)) = aborted_in(shell, replica, &segment.info).await? {
            filter.transactions().add_aborted(aborted);
            first_open = open;
        }
        let mut read = 0;
        let mut kept = Vec::new();
        for batch in batches(&bytes) {
            read += batch.len() as u64;
            let (view, _) = BatchView::split_first(batch).map_err(|_| damaged(&segment.info))?;
            let writer = view.writer().map(|(producer, _)| producer);
            let last_record =
                writer.and_then(|producer| replica.log.borrow().producers.last_record(producer));
            let facts =
                BatchFacts { last_record, ends_group: at + 1 == group.len() && read == segment.info.size };
            let from = kept.len();
            filter.take(batch, &facts, &mut kept).map_err(|error| unfit(shell, &segment.info, &error))?;
            if kept.len() > from {
                let pushed = out.push(&kept[from..], segment.info.modified_at);
                pushed.map_err(|error| unfit(shell, &segment.info, &error))?;
            }
        }
        if !kept.is_empty() {
            file.write(written, &kept).await.map_err(writing)?;
            written += kept.len() as u64;
        }
    }
    let _names = replica.hold_names().ok_or(Failed::Superseded)?;
    file.truncate(out.info().size).await.map_err(writing)?;
    shell.flush_file(&file).await.map_err(writing)?;
    out.list_transactions(TransactionIndex { aborted: filter.transactions().take_retained(), first_open });
    let files = [
        (SegmentFile::OffsetIndex, out.index().encode_offset_index()),
        (SegmentFile::TimeIndex, out.index().encode_time_index()),
        (SegmentFile::Checksums, out.checksums().encode()),
    ];
    let transactions = out.encode_transactions().map(|bytes| (SegmentFile::TransactionIndex, bytes));
    for (file, bytes) in files.into_iter().chain(transactions) {
        shell.disk.replace_file(&path(file), &bytes).await.map_err(writing)?;
    }
    Ok((out, file))
}

/// Puts a compacted segment, whole and flushed, in the place of those it was made from.
async fn swap(
    shell: &Rc<Shell>,
    replica: &Rc<Replica>,
    replaced: &[Offset],
    end: Offset,
    (compacted, file): (CompactedSegment, OpenFile),
) -> Result<(), Failed> {
    let base = compacted.info().base_offset;
    let _turn = replica.replacing.take().await;
    if !replica.log.borrow().holds_segments(replaced) || shell.is_offline() {
        return Err(Failed::Superseded);
    }
    if replica.swapped.borrow().is_some() {
        return Err(Failed::NoSpace);
    }
    // A replay must not write into what takes their place; all of them are flushed.
    let epoch = replica.log.borrow().leader_epoch();
    let change = Change::Replaced { from: base, to: end, epoch };
    if shell.log_changes(vec![Entry { partition: replica.id, change }]).await == Logged::Failed {
        return Err(Failed::Superseded);
    }
    let _names = replica.hold_names().ok_or(Failed::Superseded)?;
    let decided = carry_out(shell, &replica.name, &decide_steps(base)).await;
    if let Some(error) = decided.stopped
        && !(error.is_full() && is_decided(base, &decided.rest))
    {
        return Err(writing(error));
    }
    shell.world.count("compaction: segments replaced");
    shell.world.note(format_args!("{}: {base}..{end} replaced", replica.name));
    // From here on the new segment is the log's. Reads that began before look again.
    replica.log.borrow_mut().replace_segments(replaced, *compacted.info());
    *replica.swapped.borrow_mut() = Some((base, file));
    let mut rest = decided.rest;
    rest.extend(replace_steps(base, &replaced[1..]));
    *replica.swap_rest.borrow_mut() = rest;
    // Until its companion has its name: the name may still be that of the segment before.
    replica
        .unwritten_transactions
        .borrow_mut()
        .extend(compacted.transactions().map(|all| (base, all.clone())));
    replica.unwritten.borrow_mut().insert(base, compacted.into_checksums());
    replica.generation.set(replica.generation.get() + 1);
    replica.tail.borrow_mut().drop_before(end);
    match finish_swap_of(shell, replica).await {
        Err(Failed::NoSpace) => {
            shell.world.count("compaction: no space for a name");
            Ok(())
        }
        finished => finished,
    }
}

/// Gives a compacted segment its name if it found no space for that before.
async fn finish_swap(shell: &Shell, replica: &Replica) -> Result<(), Failed> {
    let _turn = replica.replacing.take().await;
    let _names = replica.hold_names().ok_or(Failed::Superseded)?;
    finish_swap_of(shell, replica).await
}

async fn finish_swap_of(shell: &Shell, replica: &Replica) -> Result<(), Failed> {
    let Some(base) = replica.swapped.borrow().as_ref().map(|(base, _)| *base) else { return Ok(()) };
    let rest = replica.swap_rest.take();
    let carried = carry_out(shell, &replica.name, &rest).await;
    if let Some(error) = carried.stopped {
        *replica.swap_rest.borrow_mut() = carried.rest;
        return Err(writing(error));
    }
    replica.swapped.borrow_mut().take();
    replica.unwritten.borrow_mut().remove(&base);
    replica.unwritten_transactions.borrow_mut().remove(&base);
    replica.generation.set(replica.generation.get() + 1);
    for path in carried.given_up {
        let _ = shell.disk.remove_if_present(&path).await;
    }
    Ok(())
}

/// The segment is deleted before it has its name. The caller holds the names.
pub async fn abandon_swap(shell: &Shell, replica: &Replica, deleted: Offset) -> DiskResult<()> {
    let swapped = replica.swapped.borrow_mut().take_if(|(base, _)| *base == deleted);
    if swapped.is_none() {
        return Ok(());
    }
    shell.world.count("compaction: deleted before it had its name");
    let rest = replica.swap_rest.take();
    replica.unwritten.borrow_mut().remove(&deleted);
    replica.unwritten_transactions.borrow_mut().remove(&deleted);
    carry_out(shell, &replica.name, &abandon_steps(&rest)).await.whole().map(drop)
}

/// How far steps came.
struct CarriedOut {
    given_up: Vec<String>,
    /// Why it ends before the first step of `rest`.
    stopped: Option<DiskError>,
    rest: Vec<SwapStep>,
}

impl CarriedOut {
    fn whole(self) -> DiskResult<Vec<String>> {
        self.stopped.map_or(Ok(self.given_up), Err)
    }
}

/// Takes steps one after the other, up to the first that fails.
async fn carry_out(shell: &Shell, directory: &str, steps: &[SwapStep]) -> CarriedOut {
    let mut given_up = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        match take(shell, directory, step).await {
            Ok(file) => given_up.extend(file),
            Err(error) => return CarriedOut { given_up, stopped: Some(error), rest: steps[at..].to_vec() },
        }
    }
    CarriedOut { given_up, stopped: None, rest: Vec::new() }
}

/// Returns a file that was given up.
async fn take(shell: &Shell, directory: &str, step: &SwapStep) -> DiskResult<Option<String>> {
    let disk = &shell.disk;
    let path = |name: &String| format!("{directory}/{name}");
    match step {
        SwapStep::Rename { from, to } => match disk.rename(&path(from), &path(to)).await {
            Err(DiskError::NotFound) => {}
            other => other?,
        },
        SwapStep::Remove { name } => disk.remove_if_present(&path(name)).await?,
        SwapStep::GiveUp { name, deleted } => match disk.rename(&path(name), &path(deleted)).await {
            Ok(()) => return Ok(Some(path(deleted))),
            Err(DiskError::NotFound) => {}
            Err(error) if error.is_full() => disk.remove_if_present(&path(name)).await?,
            Err(error) => return Err(error),
        },
        SwapStep::SyncDirectory => disk.sync_directory(directory).await?,
    }
    Ok(None)
}

/// Before a partition's directory is read: a swap that was decided is completed, one that was not is
/// undone.
pub async fn complete_swaps(shell: &Shell, directory: &str) -> Result<(), OpenFailed> {
    let names = shell.disk.list(directory).await.map_err(OpenFailed::Disk)?;
    let found = Interrupted::find(names.iter().map(|(name, _)| name.as_str()));
    let mut ends = Vec::with_capacity(found.decided().len());
    for base in found.decided() {
        ends.push(swapped_end(shell, directory, *base).await?);
        shell.world.count("recovery: swap completed");
    }
    let steps = found.steps(&ends);
    if steps.iter().any(|step| matches!(step, SwapStep::Remove { name } if name.ends_with(".cleaned"))) {
        shell.world.count("recovery: swap undone");
    }
    carry_out(shell, directory, &steps).await.whole().map(drop).map_err(OpenFailed::Disk)
}

/// The offset after the last batch of a decided swap's segment.
async fn swapped_end(shell: &Shell, directory: &str, base: Offset) -> Result<Offset, OpenFailed> {
    let path = format!("{directory}/{}", Interrupted::log_name(base));
    let bytes = shell.disk.read_file(&path).await.map_err(OpenFailed::Disk)?;
    let mut companions = Vec::new();
    for name in Interrupted::checksums_names(base) {
        match shell.disk.read_file(&format!("{directory}/{name}")).await {
            Ok(bytes) => companions.push(bytes),
            Err(DiskError::NotFound) => {}
            Err(error) => return Err(OpenFailed::Disk(error)),
        }
    }
    let damaged = |damage: DamageAt| {
        shell.world.count("recovery: interrupted compaction damaged, offline");
        OpenFailed::Corrupt { segment: base, file_position: damage.file_position }
    };
    let mut segment = SwappedSegment::new(base, bytes.len() as u64, companions.iter().map(Vec::as_slice));
    while let Some(file_position) = segment.next_header() {
        let header = bytes[file_position as usize..].first_chunk();
        let cut_off = DamageAt { file_position, damage: Damage::CutOff };
        segment.observe(header.ok_or(cut_off).map_err(damaged)?).map_err(damaged)?;
    }
    segment.finish().map_err(damaged)
}
