//! Opens a partition's log: at once after a clean stop, by a scan of its active segment otherwise.

use crate::disk::{DiskError, DiskResult};
use crate::metadata::TopicKind;
use crate::settings::Mistake;
use crate::shell::Shell;
use crate::shell::compaction::complete_swaps;
use crate::shell::doubts;
use crate::shell::reading::{BATCH_SIZE_MAX, closed_scan, feed_in_pieces};
use crate::shell::replica::Replica;
use crate::shell::tail::Tail;
use odradek::codec::record_batch::BatchView;
use odradek::log::checkpoint::PartitionPoint;
use odradek::log::checksums::check::{ChecksumCompare, ExtentCheck};
use odradek::log::checksums::{HasTransactions, SegmentChecksums, SegmentId};
use odradek::log::epochs::{LEADER_EPOCH_CHECKPOINT, LeaderEpochs};
use odradek::log::final_state::{PartitionState, files_checksum};
use odradek::log::index::{SegmentExtent, SegmentIndex};
use odradek::log::log_start::find_log_start;
use odradek::log::ownership::{self, Claim, PARTITION_METADATA, claim};
use odradek::log::partition::{Opened, PartitionLog};
use odradek::log::plan::align_down;
use odradek::log::producers::{EndedTransaction, ProducerEvent, Producers};
use odradek::log::read::Rope;
use odradek::log::recovery::{OffsetGaps, RecoveryScan, ScanOptions, Tail as Verdict};
use odradek::log::segment::{FileName, SegmentFile, SegmentInfo, StoredBatch, stray_directory_name};
use odradek::log::transactions::index::TransactionIndex;
use odradek::log::transactions::{AbortedTransaction, aborted};
use odradek::types::limits::IO_ALIGNMENT;
use odradek::types::{LeaderEpoch, Offset, Timestamp, TopicPartition, Uuid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Bytes of one read of a scan.
const SCAN_SIZE: usize = 16 << 10;

pub struct OpenRequest {
    pub id: TopicPartition,
    /// Its directory.
    pub name: String,
    pub kind: TopicKind,
    /// As the metadata have it: what was written under another one is none of this log's.
    pub leader_epoch: LeaderEpoch,
    pub point: Option<PartitionPoint>,
    /// Where the log ends at least, says the last checkpoint alone.
    pub checkpointed_end: Option<Offset>,
    pub clean: bool,
    pub state: Option<PartitionState>,
    pub journal_end: Option<Offset>,
}

/// Why a partition is not served. The others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFailed {
    Disk(DiskError),
    Corrupt {
        segment: Offset,
        file_position: u64,
    },
    Short {
        log_end: Offset,
        flushed_end: Offset,
    },
    /// A directory has one from its first moment on.
    NoSegment,
    JournalCorrupt,
    /// The directory is another topic's.
    Foreign,
    /// It is not to be opened any more.
    Deleted,
}

#[derive(Default)]
struct Listing {
    logs: BTreeMap<Offset, u64>,
    epochs: bool,
    /// Producer snapshots that belong to no segment: of clean stops.
    snapshots: Vec<Offset>,
}

/// The active segment as it was left or as it is.
struct Found {
    active: SegmentInfo,
    index: SegmentIndex,
    checksums: SegmentChecksums,
    producers: Producers,
    aborted: Vec<AbortedTransaction>,
    epochs: LeaderEpochs,
    log_end: Offset,
    /// The bytes between the last block boundary and the end, which the next write begins with.
    carry: Vec<u8>,
}

pub async fn open(shell: &Rc<Shell>, request: OpenRequest) -> Result<(), OpenFailed> {
    let now = Timestamp(shell.world.wall_ms());
    let config = shell.settings.log_config(&request.kind);
    claim_directory(shell, &request).await?;
    complete_swaps(shell, &request.name).await?;
    let listing = list(shell, &request.name).await.map_err(OpenFailed::Disk)?;
    let Some((active_base, active_size)) = listing.logs.last_key_value().map(|(base, size)| (*base, *size))
    else {
        shell.world.count("recovery: no segment left, offline");
        return Err(OpenFailed::NoSegment);
    };
    let epochs = read_epochs(shell, &request, &listing).await;
    let closed = closed_segments(shell, &request, &listing).await;
    let fresh = Found {
        active: SegmentInfo::empty(active_base, now),
        index: SegmentIndex::new(active_base, config.index_interval_bytes),
        checksums: SegmentChecksums::new(request.segment(active_base)),
        producers: Producers::new(),
        aborted: Vec::new(),
        epochs,
        log_end: active_base,
        carry: Vec::new(),
    };
    let mut left = load_state(shell, &request, active_base, active_size);
    if left.is_none() {
        left = load_clean(shell, &request, active_base, active_size).await;
    }
    let mut found = match left {
        Some(found) => {
            shell.world.count("recovery: clean");
            found
        }
        None => {
            let bases: Vec<Offset> = listing.logs.range(..active_base).map(|(base, _)| *base).collect();
            let mut fresh = fresh;
            let producers = producers_before(shell, &request, &bases, active_base, &mut fresh.epochs).await;
            let producers = producers.map_err(OpenFailed::Disk)?;
            scan(shell, &request, Found { producers, ..fresh }).await?
        }
    };
    for base in listing.snapshots {
        let path = format!("{}/{}", request.name, SegmentFile::ProducerSnapshot.name(base));
        shell.disk.remove_if_present(&path).await.map_err(OpenFailed::Disk)?;
    }
    // Of a log that was cut, the file may tell more than there is.
    found.epochs.truncate_from_end(found.log_end);
    check_complete(shell, &request, found.log_end)?;
    let oldest = closed.front().map_or(active_base, |segment| segment.base_offset);
    let noted = request.point.map(|point| point.log_start);
    let noted = noted.filter(|_| !shell.settings.makes(Mistake::LogStartMovedBack));
    let log_start = find_log_start(noted, oldest, found.log_end);
    if log_start.is_by_names {
        shell.world.count("recovery: log start told by names only");
        shell.disk.sync_directory(&request.name).await.map_err(OpenFailed::Disk)?;
    }
    let opened = Opened {
        jitter_seed: 0,
        log_start: log_start.offset,
        log_end: found.log_end,
        closed,
        active: found.active,
        active_index: found.index,
        active_checksums: found.checksums,
        producers: found.producers,
        aborted: found.aborted,
        epochs: found.epochs,
    };
    let log = PartitionLog::new(opened, config, request.leader_epoch);
    let tail = Tail::new(log.end_place(), found.carry);
    if !shell.metadata.borrow().partitions.contains_key(&request.id) {
        return Err(OpenFailed::Deleted);
    }
    let slot = shell.open_slot(found.log_end);
    shell.set_durability(slot, request.kind.durability);
    shell.insert(Replica::new(request.id, request.name, slot, log, tail));
    Ok(())
}

/// Makes sure that the directory is this topic's, as `log::ownership` decides.
async fn claim_directory(shell: &Shell, request: &OpenRequest) -> Result<(), OpenFailed> {
    let path = format!("{}/{PARTITION_METADATA}", request.name);
    let text = match shell.disk.read_file(&path).await {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(DiskError::NotFound) => None,
        Err(error) => return Err(OpenFailed::Disk(error)),
    };
    let is_known = |topic| shell.metadata.borrow().partitions.keys().any(|id| id.topic == topic);
    match claim(text.as_deref(), request.id.topic, is_known) {
        Claim::Open => Ok(()),
        Claim::Take => take_directory(shell, request).await.map_err(OpenFailed::Disk),
        Claim::PutAside { .. } => put_aside(shell, request).await.map_err(OpenFailed::Disk),
        Claim::Refuse(_) => Err(OpenFailed::Foreign),
    }
}

async fn put_aside(shell: &Shell, request: &OpenRequest) -> DiskResult<()> {
    shell.world.count("recovery: directory put aside");
    let topic = request.name.strip_suffix("-0").expect("every topic has one partition");
    let unique = Uuid::from_u128(u128::from(shell.world.draw()));
    let aside = stray_directory_name(topic, request.id.partition, unique);
    shell.disk.rename(&request.name, &aside).await?;
    shell.disk.sync_directory("").await?;
    take_directory(shell, request).await
}

async fn take_directory(shell: &Shell, request: &OpenRequest) -> DiskResult<()> {
    shell.disk.make_directory(&request.name).await?;
    if list(shell, &request.name).await?.logs.is_empty() {
        let first = SegmentFile::Log.name(request.first_segment());
        shell.disk.open(&format!("{}/{first}", request.name), true).await?;
        shell.disk.sync_directory(&request.name).await?;
    }
    let text = ownership::encode(request.id.topic);
    shell.disk.replace_file(&format!("{}/{PARTITION_METADATA}", request.name), text.as_bytes()).await
}

/// Removes what a crash left half done, and lists the rest.
async fn list(shell: &Shell, directory: &str) -> DiskResult<Listing> {
    let mut listing = Listing::default();
    let mut derived = Vec::new();
    for (name, size) in shell.disk.list(directory).await? {
        let path = format!("{directory}/{name}");
        if name.ends_with(".spare") || name.ends_with(".tmp") {
            shell.disk.remove_if_present(&path).await?;
        } else if name == LEADER_EPOCH_CHECKPOINT {
            listing.epochs = true;
        } else {
            match FileName::parse(&name) {
                Some(FileName::Deleted { .. }) => shell.disk.remove_if_present(&path).await?,
                Some(FileName::Live { base_offset, file: SegmentFile::Log }) => {
                    listing.logs.insert(base_offset, size.unwrap_or(0));
                }
                Some(FileName::Live { base_offset, file: SegmentFile::ProducerSnapshot }) => {
                    listing.snapshots.push(base_offset);
                }
                Some(FileName::Live { base_offset, .. }) => derived.push((base_offset, path)),
                Some(FileName::Cleaned { .. } | FileName::Swap { .. }) | None => {}
            }
        }
    }
    listing.snapshots.retain(|base| !listing.logs.contains_key(base));
    for (base, path) in derived {
        if !listing.logs.contains_key(&base) {
            shell.disk.remove_if_present(&path).await?;
        }
    }
    Ok(listing)
}

async fn read_epochs(shell: &Shell, request: &OpenRequest, listing: &Listing) -> LeaderEpochs {
    if !listing.epochs {
        return LeaderEpochs::default();
    }
    let bytes = shell.disk.read_file(&format!("{}/{LEADER_EPOCH_CHECKPOINT}", request.name)).await;
    let decoded = bytes.ok().and_then(|bytes| LeaderEpochs::decode(std::str::from_utf8(&bytes).ok()?).ok());
    decoded.unwrap_or_default()
}

async fn closed_segments(shell: &Shell, request: &OpenRequest, listing: &Listing) -> VecDeque<SegmentInfo> {
    let now = Timestamp(shell.world.wall_ms());
    let bases: Vec<(Offset, u64)> = listing.logs.iter().map(|(base, size)| (*base, *size)).collect();
    let mut closed = VecDeque::with_capacity(bases.len());
    for pair in bases.windows(2) {
        let ((base, size), (end_offset, _)) = (pair[0], pair[1]);
        let index = load_index(shell, request, SegmentExtent { base_offset: base, end_offset, size }).await;
        let max = index.and_then(|index| index.max_timestamp());
        let mut info = SegmentInfo::empty(base, now);
        info.size = size;
        info.max_timestamp = max.map_or(Timestamp::NONE, |max| max.timestamp);
        info.is_indexed = max.is_some() || size == 0;
        info.has_transactions = HasTransactions::Unknown;
        closed.push_back(info);
    }
    closed
}

async fn load_index(shell: &Shell, request: &OpenRequest, extent: SegmentExtent) -> Option<SegmentIndex> {
    let path = |file: SegmentFile| format!("{}/{}", request.name, file.name(extent.base_offset));
    let offsets = shell.disk.read_file(&path(SegmentFile::OffsetIndex)).await.ok()?;
    let times = shell.disk.read_file(&path(SegmentFile::TimeIndex)).await.ok()?;
    let interval = shell.settings.log_config(&request.kind).index_interval_bytes;
    SegmentIndex::decode(&extent, interval, &offsets, &times).ok()
}

/// After a clean stop: the checkpoint and the shard's final state say it all.
fn load_state(shell: &Shell, request: &OpenRequest, base: Offset, size: u64) -> Option<Found> {
    let now = Timestamp(shell.world.wall_ms());
    let point = request.point.filter(|point| request.clean && point.segment_base == base)?;
    let state = request.state.as_ref()?;
    let is_of_this_stop =
        state.active == base && state.log_end == point.flushed_end && state.files_checksum.is_none();
    let is_whole = state.carry.len() as u64 == point.file_position - align_down(point.file_position);
    if !is_of_this_stop || !is_whole || size < point.file_position {
        return None;
    }
    let extent =
        SegmentExtent { base_offset: base, end_offset: point.flushed_end, size: point.file_position };
    let interval = shell.settings.log_config(&request.kind).index_interval_bytes;
    let index = SegmentIndex::decode(&extent, interval, &state.offset_index, &state.time_index).ok()?;
    let mut active = SegmentInfo::empty(base, now);
    active.size = point.file_position;
    active.first_timestamp = state.first_timestamp;
    if let Some(max) = index.max_timestamp() {
        active.max_timestamp = max.timestamp;
    }
    let producers = Producers::decode_snapshot(&state.producers, now).ok()?;
    let epochs = LeaderEpochs::decode(std::str::from_utf8(&state.epochs).ok()?).ok()?;
    let checksums = SegmentChecksums::decode(request.segment(base), extent.size, &state.checksums).ok()?;
    let aborted = TransactionIndex::of_segment(&checksums, &state.transactions).ok()?.aborted;
    shell.world.count("recovery: from the final state");
    let (carry, log_end) = (state.carry.clone(), point.flushed_end);
    Some(Found { active, index, checksums, producers, aborted, epochs, log_end, carry })
}

/// After a clean stop: the checkpoint and the files beside the segment say it all. `None` when
/// something is missing, which costs a scan and nothing else.
async fn load_clean(shell: &Shell, request: &OpenRequest, base: Offset, size: u64) -> Option<Found> {
    let now = Timestamp(shell.world.wall_ms());
    let point = request.point.filter(|point| request.clean && point.segment_base == base)?;
    if size < point.file_position {
        return None;
    }
    let extent =
        SegmentExtent { base_offset: base, end_offset: point.flushed_end, size: point.file_position };
    let checksum = request.state.as_ref().and_then(|state| state.files_checksum)?;
    let names = [
        SegmentFile::OffsetIndex.name(base),
        SegmentFile::TimeIndex.name(base),
        SegmentFile::ProducerSnapshot.name(point.flushed_end),
        LEADER_EPOCH_CHECKPOINT.to_owned(),
    ];
    let mut files = Vec::new();
    for name in names {
        files.push(shell.disk.read_file(&format!("{}/{name}", request.name)).await.ok()?);
    }
    if checksum != files_checksum([&files[0], &files[1], &files[2], &files[3]]) {
        shell.world.count("recovery: files beside a segment are not believed");
        return None;
    }
    let interval = shell.settings.log_config(&request.kind).index_interval_bytes;
    let index = SegmentIndex::decode(&extent, interval, &files[0], &files[1]).ok()?;
    if index.max_timestamp().is_none() && point.file_position > 0 {
        return None;
    }
    let checksums = format!("{}/{}", request.name, SegmentFile::Checksums.name(base));
    let checksums = shell.disk.read_file(&checksums).await.ok()?;
    let checksums = SegmentChecksums::decode(request.segment(base), extent.size, &checksums).ok()?;
    let transactions = format!("{}/{}", request.name, SegmentFile::TransactionIndex.name(base));
    let transactions = match checksums.has_transactions() {
        HasTransactions::No => Vec::new(),
        HasTransactions::Yes | HasTransactions::Unknown => shell.disk.read_file(&transactions).await.ok()?,
    };
    let aborted = TransactionIndex::of_segment(&checksums, &transactions).ok()?.aborted;
    let producers = Producers::decode_snapshot(&files[2], now).ok()?;
    let epochs = LeaderEpochs::decode(std::str::from_utf8(&files[3]).ok()?).ok()?;
    shell.world.count("recovery: from files beside a segment");
    let mut active = SegmentInfo::empty(base, now);
    active.size = point.file_position;
    if let Some(max) = index.max_timestamp() {
        active.max_timestamp = max.timestamp;
    }
    if point.file_position > 0 {
        let file = shell.disk.open(&log_path(request, base), false).await.ok()?;
        let block = file.read(0, IO_ALIGNMENT).await.ok()?;
        let first = Rope::new(&[&block]).batches(0).next()?.max_timestamp;
        active.first_timestamp = (first.0 >= 0).then_some(first);
    }
    let carry = read_carry(shell, request, &checksums).await?;
    Some(Found { active, index, checksums, producers, aborted, epochs, log_end: point.flushed_end, carry })
}

/// After an unclean stop: every batch is checked, and the file is cut where they end.
async fn scan(shell: &Shell, request: &OpenRequest, mut found: Found) -> Result<Found, OpenFailed> {
    let base = found.active.base_offset;
    let now = Timestamp(shell.world.wall_ms());
    let file = shell.disk.open(&log_path(request, base), true).await.map_err(OpenFailed::Disk)?;
    let mut scan = RecoveryScan::new(ScanOptions {
        segment_base: base,
        recovery_point: request.point.and_then(|point| point.recovery_point(base)),
        gaps: OffsetGaps::Refused,
        leader_epoch_min: None,
        leader_epoch_max: Some(request.leader_epoch),
        batch_size_max: BATCH_SIZE_MAX,
    });
    let bytes = file.read(0, usize::MAX).await.map_err(OpenFailed::Disk)?;
    feed_in_pieces(&mut scan, &bytes, SCAN_SIZE, &mut |batch, stored| found.take_batch(batch, stored, now));
    let recovered = scan.finish();
    let world = &shell.world;
    match recovered.tail {
        Verdict::Clean => world.count("recovery: tail whole"),
        Verdict::Torn { file_position, damage } => {
            world.note(format_args!("{}: torn at {file_position} of {base}: {damage}", request.name));
            world.count("recovery: tail torn, cut");
            doubts::note(shell, &BTreeSet::from([request.id])).await.map_err(OpenFailed::Disk)?;
        }
        Verdict::Corrupt { file_position, damage } => {
            world.note(format_args!("{}: corrupt at {file_position} of {base}: {damage}", request.name));
            world.count("recovery: corrupt, offline");
            count_recorded(shell, request, recovered.log_end);
            return Err(OpenFailed::Corrupt { segment: base, file_position });
        }
    }
    check_complete(shell, request, recovered.log_end)?;
    file.truncate(recovered.file_position_end).await.map_err(OpenFailed::Disk)?;
    file.flush().await.map_err(OpenFailed::Disk)?;
    let end = recovered.file_position_end;
    found.carry = bytes[align_down(end) as usize..end as usize].to_vec();
    found.log_end = recovered.log_end;
    found.epochs.truncate_from_end(recovered.log_end);
    Ok(found)
}

impl Found {
    fn take_batch(&mut self, batch: &BatchView<'_>, stored: &StoredBatch, now: Timestamp) {
        self.index.observe(stored);
        self.checksums.observe(batch.header(), stored.size);
        self.active.append(stored, now);
        self.epochs.assign(stored.leader_epoch, stored.base_offset);
        let ended = record(&mut self.producers, batch, stored, now);
        self.aborted.extend(ended.as_ref().and_then(aborted));
    }
}

fn record(
    producers: &mut Producers,
    batch: &BatchView<'_>,
    stored: &StoredBatch,
    now: Timestamp,
) -> Option<EndedTransaction> {
    ProducerEvent::of(batch, stored, now).and_then(|event| producers.take(&event))
}

/// Below the flushed end nothing may be missing, whatever segment the checkpoint names.
fn check_complete(shell: &Shell, request: &OpenRequest, log_end: Offset) -> Result<(), OpenFailed> {
    let flushed_end = request.point.map(|point| point.flushed_end).max(request.journal_end);
    match flushed_end {
        Some(flushed_end) if log_end < flushed_end => {
            shell.world.count("recovery: shorter than flushed, offline");
            count_recorded(shell, request, log_end);
            Err(OpenFailed::Short { log_end, flushed_end })
        }
        _ => Ok(()),
    }
}

/// Of damage that would be taken for a torn tail, were there no record of a flush.
fn count_recorded(shell: &Shell, request: &OpenRequest, log_end: Offset) {
    let known = request.checkpointed_end.max(request.journal_end);
    if known.is_none_or(|known| known <= log_end) {
        shell.world.count("recovery: damage below a recorded flush, offline");
    }
}

/// The producers just before the active segment: its snapshot, or the newest before it and the
/// batches since.
async fn producers_before(
    shell: &Shell,
    request: &OpenRequest,
    closed: &[Offset],
    active: Offset,
    epochs: &mut LeaderEpochs,
) -> DiskResult<Producers> {
    let now = Timestamp(shell.world.wall_ms());
    // Without a checkpoint of them the epochs of all segments are looked for.
    let lacks_epochs = epochs.entries().is_empty() && !closed.is_empty();
    let kept = read_snapshot(shell, request, active).await;
    if let Some(producers) = kept.clone().filter(|_| !lacks_epochs) {
        return Ok(producers);
    }
    if closed.is_empty() && active == Offset::ZERO {
        return Ok(Producers::new());
    }
    if kept.is_none() {
        shell.world.count("recovery: producers rebuilt");
    }
    let (mut producers, mut from) = (Producers::new(), 0);
    for (at, base) in closed.iter().enumerate().rev() {
        let Some(mut found) = read_snapshot(shell, request, *base).await else { continue };
        if request.kind.compacts && at == 0 {
            found.forget_open_transactions();
        }
        if !request.kind.compacts || found.first_open_transaction().is_none() {
            (producers, from) = (found, at);
            break;
        }
    }
    let first = if lacks_epochs { 0 } else { from };
    for (at, base) in closed.iter().enumerate().skip(first) {
        let bytes = shell.disk.read_file(&log_path(request, *base)).await?;
        let companion = format!("{}/{}", request.name, SegmentFile::Checksums.name(*base));
        let companion = shell.disk.read_file(&companion).await.ok();
        let (id, size) = (request.segment(*base), bytes.len() as u64);
        let companion = companion.and_then(|file| SegmentChecksums::decode(id, size, &file).ok());
        let mut compare = ChecksumCompare::new(id, companion);
        let mut scan = RecoveryScan::new(closed_scan(*base));
        let mut waiting = Producers::clone(&producers);
        feed_in_pieces(&mut scan, &bytes, SCAN_SIZE, &mut |batch, stored| {
            if !shell.settings.makes(Mistake::EpochsForgotten) {
                epochs.assign(stored.leader_epoch, stored.base_offset);
            }
            if at < from {
                return;
            }
            record(&mut waiting, batch, stored, now);
            if compare.observe(batch.header(), stored.size) {
                producers.clone_from(&waiting);
            }
        });
        if compare.damage().is_none() {
            producers = waiting;
        }
    }
    // Where the snapshot is, the next start looks for no epochs before it.
    let path = format!("{}/{LEADER_EPOCH_CHECKPOINT}", request.name);
    let has_epochs = shell.disk.replace_file(&path, epochs.encode().as_bytes()).await.is_ok();
    if let Some(producers) = kept {
        return Ok(producers);
    }
    if !has_epochs {
        return Ok(producers);
    }
    let path = format!("{}/{}", request.name, SegmentFile::ProducerSnapshot.name(active));
    let _ = shell.disk.replace_file(&path, &producers.encode_snapshot()).await;
    Ok(producers)
}

async fn read_snapshot(shell: &Shell, request: &OpenRequest, base: Offset) -> Option<Producers> {
    let path = format!("{}/{}", request.name, SegmentFile::ProducerSnapshot.name(base));
    let bytes = shell.disk.read_file(&path).await.ok()?;
    Producers::decode_snapshot(&bytes, Timestamp(shell.world.wall_ms())).ok()
}

/// The bytes between the last block boundary and the end; `None` when they are not what was written.
async fn read_carry(shell: &Shell, request: &OpenRequest, checksums: &SegmentChecksums) -> Option<Vec<u8>> {
    let end = checksums.end();
    let from = align_down(end);
    if from == end {
        return Some(Vec::new());
    }
    let file = shell.disk.open(&log_path(request, checksums.segment().base_offset), false).await.ok()?;
    let extents = checksums.extents(from, u64::MAX);
    let start = extents.first()?.start;
    let bytes = file.read(start, (end - start) as usize).await.ok()?;
    for extent in extents {
        let mut check = ExtentCheck::new(&checksums.segment(), extent);
        check.feed(bytes.get((extent.start - start) as usize..(extent.end - start) as usize)?).ok()?;
        check.finish().ok()?;
    }
    Some(bytes[(from - start) as usize..].to_vec())
}

impl OpenRequest {
    /// What a new directory begins with.
    fn first_segment(&self) -> Offset {
        self.point.map_or(Offset::ZERO, |point| point.log_start)
    }

    fn segment(&self, base_offset: Offset) -> SegmentId {
        SegmentId { partition: self.id, base_offset }
    }
}
fn log_path(request: &OpenRequest, base: Offset) -> String {
    format!("{}/{}", request.name, SegmentFile::Log.name(base))
}
