//! Opens a partition's log from its directory: at once after a clean stop, by a scan of its active
//! segment otherwise.
//!
//! Only the active segment can hold anything that was not flushed: a segment is closed, cut to its
//! length and flushed before the next one is written to.

use crate::codec::record_batch::BatchView;
use crate::log::checkpoint::PartitionPoint;
use crate::log::checksums::walk::DamageAt;
use crate::log::checksums::{HasTransactions, SegmentChecksums, SegmentId};
use crate::log::epochs::LeaderEpochs;
use crate::log::final_state::{PartitionState, files_checksum};
use crate::log::index::{SegmentExtent, SegmentIndex};
use crate::log::log_start::find_log_start;
use crate::log::ownership::ClaimRefused;
use crate::log::partition::{LogConfig, Opened, PartitionLog};
use crate::log::plan::{align_down, align_up};
use crate::log::producers::{ProducerEvent, Producers};
use crate::log::read::Rope;
use crate::log::recovery::{OffsetGaps, Progress, Recovered, RecoveryScan, ScanOptions, Tail as Verdict};
use crate::log::segment::{SegmentFile, SegmentInfo, StoredBatch};
use crate::log::transactions::index::TransactionIndex;
use crate::log::transactions::{AbortedTransaction, aborted};
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::compaction::swap::SwapDamaged;
use crate::shard::disk::{DiskFile, blocking, is_full_disk, sync_directory};
use crate::shard::doubts;
use crate::shard::replay::producers_before;
use crate::shard::replica::Replica;
use crate::shard::segments::Segments;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::shard::survey::Listing;
#[cfg(test)]
use crate::shard::survey::{Survey, Wanted, survey, take_directory};
use crate::shard::tail::Tail;
use crate::shard::verified::check_extents;
use crate::types::limits::{IO_ALIGNMENT, IO_SIZE_MAX};
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicPartition};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bytes of the largest batch that recovery accepts: whatever `max.message.bytes` was when it was
/// written, a request could not be larger.
pub const BATCH_SIZE_MAX: usize = i32::MAX as usize;

/// Bytes of a scan's first read: all that most of ten thousand partitions have.
const FIRST_READ_SIZE: usize = 64 << 10;

/// Why a partition cannot be served. It stays offline; the others go on.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailed {
    #[error("{directory}: {source}")]
    Disk { directory: PathBuf, source: io::Error },
    #[error(
        "{directory}: segment {segment} is damaged at byte {file_position}, below the recovery point: {reason}"
    )]
    Corrupt { directory: PathBuf, segment: Offset, file_position: u64, reason: String },
    #[error("{directory} is not this partition's: {source}")]
    Foreign { directory: PathBuf, source: ClaimRefused },
    #[error("{directory}: what was committed to the journal for it is damaged or gone")]
    JournalCorrupt { directory: PathBuf },
}

impl OpenFailed {
    /// A directory could not be listed.
    pub fn listing(directory: PathBuf, source: io::Error) -> OpenFailed {
        match source.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(SwapDamaged { segment, damage: DamageAt { file_position, damage } }) => {
                OpenFailed::Corrupt {
                    directory,
                    segment: *segment,
                    file_position: *file_position,
                    reason: format!("an interrupted compaction cannot be completed: {damage}"),
                }
            }
            None => OpenFailed::Disk { directory, source },
        }
    }

    /// What was committed is not there as it was.
    pub fn is_damage(&self) -> bool {
        match self {
            OpenFailed::Corrupt { .. } | OpenFailed::JournalCorrupt { .. } => true,
            OpenFailed::Disk { .. } | OpenFailed::Foreign { .. } => false,
        }
    }

    pub fn is_for_want_of_space(&self) -> bool {
        match self {
            OpenFailed::Disk { source, .. } => is_full_disk(source),
            OpenFailed::Corrupt { .. } | OpenFailed::Foreign { .. } | OpenFailed::JournalCorrupt { .. } => {
                false
            }
        }
    }
}

/// What to open.
pub struct OpenRequest {
    pub id: TopicPartition,
    pub topic_name: Rc<str>,
    pub directory: PathBuf,
    pub config: Rc<LogConfig>,
    pub leader_epoch: LeaderEpoch,
    /// Other nodes have a replica as well: one of them may lead where this one may lack its end.
    pub has_others: bool,
    /// What the last checkpoint says of it.
    pub point: Option<PartitionPoint>,
    /// The last stop was clean: the checkpoint is exact.
    pub clean: bool,
    /// What a clean stop has left of it, or the checksum of what lies beside its segments.
    pub state: Option<PartitionState>,
    /// Its closed segments, where whoever had it before is still there to say.
    pub closed: Option<Vec<SegmentInfo>>,
    /// Where the log ends at least, says the journal.
    pub journal_end: Option<Offset>,
}

/// A replica that was read from its directory.
pub struct Opening {
    pub replica: Rc<Replica>,
    /// What was found in this file may not be flushed yet: nobody may read it before.
    pub unflushed: Option<Rc<DiskFile>>,
}

/// Opens or creates a replica and puts it into the store.
#[cfg(test)]
pub async fn open(store: &Rc<Store>, request: OpenRequest) -> Result<Rc<Replica>, OpenFailed> {
    let directory = request.directory.clone();
    let failed = |source| OpenFailed::Disk { directory: directory.clone(), source };
    let (wanted, sync_fs) = (Wanted::of(&request), store.disk.sync_fs());
    let listing = blocking(move || match survey(std::slice::from_ref(&wanted)).remove(0)? {
        Survey::Owned(listing) => Ok(listing),
        Survey::Free | Survey::Claimed => take_directory(wanted, sync_fs),
    });
    let listing = listing.await.map_err(|source| OpenFailed::listing(directory.clone(), source));
    if let Err(OpenFailed::Corrupt { .. }) = &listing {
        store.recovered(RecoveryBranch::SegmentDamaged);
    }
    let listing = listing?;
    let Opening { replica, unflushed } = read(store, request, listing).await?;
    if let Some(file) = unflushed {
        file.flush().await.map_err(failed)?;
    }
    store.insert(replica.clone());
    Ok(replica)
}

/// Makes a replica of what lies in its directory. The caller flushes it and puts it into the store.
pub async fn read(
    store: &Rc<Store>,
    request: OpenRequest,
    mut listing: Listing,
) -> Result<Opening, OpenFailed> {
    let directory = request.directory.clone();
    let failed = |source| OpenFailed::Disk { directory: directory.clone(), source };
    let now = store.clock.wall();
    check_segments(store, &request, &listing)?;
    let (active_base, active_file) = match listing.logs.last_key_value() {
        Some((base, (size, modified))) => (*base, Some((*size, *modified))),
        None => (request.first_segment(), None),
    };
    listing.recovery.iter().for_each(|branch| store.recovered(*branch));
    let epochs = read_epochs(store, &listing, &request.directory);
    let closed = match request.closed.as_ref().filter(|closed| are_those_of(closed, &listing, active_base)) {
        Some(closed) => closed.iter().copied().collect(),
        None => closed_segments(&listing, &request, active_base).await.map_err(failed)?,
    };
    let segments = Segments::new(request.directory.clone(), active_base);
    if listing.is_new || (active_file.is_some() && request.clean) {
        segments.active_is_named();
    }
    let mut active = SegmentInfo::empty(active_base, active_file.map_or(now, |(_, modified)| modified));
    let mut index = SegmentIndex::new(active_base, request.config.index_interval_bytes);
    let mut checksums = SegmentChecksums::new(request.segment(active_base));
    let mut producers = Producers::new();
    let mut aborted = Vec::new();
    let mut epochs = epochs;
    let mut log_end = active_base;
    let mut carry = Vec::new();
    let mut unflushed = None;
    let left = active_file.and_then(|(size, _)| load_state(store, &request, active_base, size));
    if let Some((found, bytes)) = left {
        let modified = active.modified_at;
        (active, index, checksums, producers, epochs, log_end) =
            (found.active, found.index, found.checksums, found.producers, found.epochs, found.log_end);
        aborted = found.aborted;
        active.modified_at = modified;
        carry = bytes;
    } else if let Some((size, modified)) = active_file {
        let file = store.disk.create(&segments.path(active_base, SegmentFile::Log)).await.map_err(failed)?;
        let clean = load_clean(store, &request, &mut listing, &file, active_base, size).await;
        let found = match clean {
            Ok((found, bytes)) => {
                carry = bytes;
                found
            }
            Err(reason) => {
                if request.clean {
                    tracing::warn!(
                        directory = %directory.display(), segment = %active_base, reason,
                        "what a clean stop has left of a partition cannot be used: its active segment is scanned"
                    );
                    store.recovered(RecoveryBranch::CleanStateUnusable);
                }
                let bases: Vec<Offset> = listing.logs.range(..active_base).map(|(base, _)| *base).collect();
                let producers = producers_before(store, &request, &bases, active_base, &mut epochs);
                let producers = producers.await.map_err(failed)?;
                unflushed = Some(file.clone());
                let found = scan(store, &request, &file, active_base, size, producers, epochs).await?;
                carry = read_carry(store, &file, &found.checksums).await.map_err(|reason| {
                    store.recovered(RecoveryBranch::SegmentDamaged);
                    let directory = request.directory.clone();
                    let file_position = align_down(found.active.size);
                    OpenFailed::Corrupt { directory, segment: active_base, file_position, reason }
                })?;
                found
            }
        };
        (active, index, checksums, producers, epochs, log_end) =
            (found.active, found.index, found.checksums, found.producers, found.epochs, found.log_end);
        aborted = found.aborted;
        active.modified_at = modified;
    }
    // Of a log that was cut, the file may tell more than there is.
    epochs.truncate_from_end(log_end);
    check_complete(store, &request, active_base, log_end, active.size)?;
    remove_snapshots(request.directory.clone(), listing.snapshots).await.map_err(failed)?;
    let oldest = closed.front().map_or(active_base, |segment| segment.base_offset);
    let log_start = find_log_start(request.point.map(|point| point.log_start), oldest, log_end);
    if log_start.is_by_names {
        tracing::warn!(
            directory = %directory.display(), log_start = %log_start.offset,
            "only the names of the segments say where a log begins, as after retention on a full disk"
        );
        store.recovered(RecoveryBranch::LogStartByNames);
        let path = request.directory.clone();
        blocking(move || sync_directory(&path)).await.map_err(failed)?;
    }
    let opened = Opened {
        jitter_seed: jitter_seed(&request.id),
        log_start: log_start.offset,
        log_end,
        closed,
        active_index: index,
        active_checksums: checksums,
        producers,
        aborted,
        epochs,
        active,
    };
    let tail = Tail::new(active_base, opened.active.size, carry);
    let log = PartitionLog::new(opened, request.config.clone(), request.leader_epoch);
    let slot = store.open_slot(log_end);
    store.set_durability(slot.slot, request.config.durability);
    let replica = Replica::new(request.id, request.topic_name, slot, request.directory, log, tail, segments);
    Ok(Opening { replica, unflushed })
}

/// Removes snapshots of clean stops once they were read: the log goes on behind them.
async fn remove_snapshots(directory: PathBuf, snapshots: Vec<Offset>) -> io::Result<()> {
    if snapshots.is_empty() {
        return Ok(());
    }
    blocking(move || {
        for base in snapshots {
            #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
            std::fs::remove_file(directory.join(SegmentFile::ProducerSnapshot.name(base)))?;
        }
        Ok(())
    })
    .await
}

fn jitter_seed(id: &TopicPartition) -> u64 {
    let (high, low) = id.topic.0.as_u64_pair();
    high ^ low.rotate_left(32) ^ id.partition.index() as u64
}

fn read_epochs(store: &Store, listing: &Listing, directory: &Path) -> LeaderEpochs {
    let Some(text) = &listing.epochs else { return LeaderEpochs::default() };
    LeaderEpochs::decode(text).unwrap_or_else(|error| {
        tracing::warn!(directory = %directory.display(), %error, "leader epochs are rebuilt from the active segment");
        store.recovered(RecoveryBranch::EpochsRebuilt);
        LeaderEpochs::default()
    })
}

/// Whether these are the closed segments that are there.
fn are_those_of(closed: &[SegmentInfo], listing: &Listing, active_base: Offset) -> bool {
    let found = listing.logs.range(..active_base).map(|(base, (size, _))| (*base, *size));
    closed.iter().map(|segment| (segment.base_offset, segment.size)).eq(found)
}

/// Closed segments, oldest first, with their largest timestamps from their time indexes.
async fn closed_segments(
    listing: &Listing,
    request: &OpenRequest,
    active_base: Offset,
) -> io::Result<VecDeque<SegmentInfo>> {
    let mut closed = VecDeque::with_capacity(listing.logs.len());
    let bases: Vec<Offset> = listing.logs.keys().copied().collect();
    for pair in bases.windows(2) {
        let (base, end_offset) = (pair[0], pair[1]);
        assert!(base < active_base);
        let (size, modified) = listing.logs[&base];
        let index = load_index(request, SegmentExtent { base_offset: base, end_offset, size }).await;
        let max = index.and_then(|index| index.max_timestamp());
        let mut info = SegmentInfo::empty(base, modified);
        info.size = size;
        info.max_timestamp = max.map_or(Timestamp::NONE, |max| max.timestamp);
        // No entry at all is what a truncated file looks like.
        info.is_indexed = max.is_some() || size == 0;
        info.has_transactions = HasTransactions::Unknown;
        closed.push_back(info);
    }
    Ok(closed)
}

/// `None` when the index files are missing or wrong.
async fn load_index(request: &OpenRequest, extent: SegmentExtent) -> Option<SegmentIndex> {
    let offsets = request.directory.join(SegmentFile::OffsetIndex.name(extent.base_offset));
    let times = request.directory.join(SegmentFile::TimeIndex.name(extent.base_offset));
    let (offsets, times) = (read_file(offsets).await?, read_file(times).await?);
    SegmentIndex::decode(&extent, request.config.index_interval_bytes, &offsets, &times).ok()
}

async fn read_file(path: PathBuf) -> Option<Vec<u8>> {
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    blocking(move || std::fs::read(path).ok()).await
}

impl OpenRequest {
    /// Base offset of the segment that a partition without any begins with.
    pub fn first_segment(&self) -> Offset {
        self.point.map_or(Offset::ZERO, |point| point.log_start)
    }

    pub fn segment(&self, base_offset: Offset) -> SegmentId {
        SegmentId { partition: self.id, base_offset }
    }

    /// Where the log ends exactly, if the last stop was clean.
    pub fn clean_point(&self) -> Option<PartitionPoint> {
        self.point.filter(|_| self.clean)
    }

    /// What a clean stop has left of it lies beside its segments.
    pub fn has_files_beside(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.files_checksum.is_some())
    }
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
}

/// After a clean stop: the checkpoint and the shard's final state say it all, and no segment is opened.
/// With the bytes between the last block boundary and the end.
fn load_state(
    store: &Store,
    request: &OpenRequest,
    active_base: Offset,
    file_size: u64,
) -> Option<(Found, Vec<u8>)> {
    let point = request.clean_point().filter(|point| point.segment_base == active_base)?;
    let state = request.state.as_ref()?;
    let is_of_this_stop =
        state.active == active_base && state.log_end == point.flushed_end && state.files_checksum.is_none();
    let is_whole = state.carry.len() as u64 == point.file_position - align_down(point.file_position);
    if !is_of_this_stop || !is_whole || file_size < point.file_position {
        return None;
    }
    let extent =
        SegmentExtent { base_offset: active_base, end_offset: point.flushed_end, size: point.file_position };
    let interval = request.config.index_interval_bytes;
    let index = SegmentIndex::decode(&extent, interval, &state.offset_index, &state.time_index).ok()?;
    let checksums =
        SegmentChecksums::decode(request.segment(active_base), extent.size, &state.checksums).ok()?;
    let mut active = SegmentInfo::empty(active_base, store.clock.wall());
    active.size = point.file_position;
    active.first_timestamp = state.first_timestamp;
    if let Some(max) = index.max_timestamp() {
        active.max_timestamp = max.timestamp;
    }
    let producers = Producers::decode_snapshot(&state.producers, store.clock.wall()).ok()?;
    let epochs = LeaderEpochs::decode(std::str::from_utf8(&state.epochs).ok()?).ok()?;
    let aborted = TransactionIndex::of_segment(&checksums, &state.transactions).ok()?.aborted;
    let log_end = point.flushed_end;
    Some((Found { active, index, checksums, producers, aborted, epochs, log_end }, state.carry.clone()))
}

/// After a clean stop: the checkpoint and the files beside the segment say it all. With the
/// bytes between the last block boundary and the end. Errors: what is missing or wrong, which costs a scan
/// and nothing else.
async fn load_clean(
    store: &Rc<Store>,
    request: &OpenRequest,
    listing: &mut Listing,
    file: &Rc<DiskFile>,
    active_base: Offset,
    file_size: u64,
) -> Result<(Found, Vec<u8>), String> {
    let point = request.clean_point().filter(|point| point.segment_base == active_base);
    let point = point.ok_or("the checkpoint does not have it")?;
    if file_size < point.file_position {
        return Err("the file is shorter than the log".to_owned());
    }
    let extent =
        SegmentExtent { base_offset: active_base, end_offset: point.flushed_end, size: point.file_position };
    let state = request.state.as_ref().ok_or("the final state does not have it")?;
    // Their formats have no checksums, and nothing else would find a flipped bit in them.
    let checksum = state.files_checksum.ok_or("what the final state has of it does not fit its segment")?;
    let mut files = Vec::with_capacity(3);
    for file in [SegmentFile::OffsetIndex, SegmentFile::TimeIndex, SegmentFile::ProducerSnapshot] {
        let base = if file == SegmentFile::ProducerSnapshot { point.flushed_end } else { active_base };
        files.push(match listing.clean.remove(&file) {
            Some(bytes) => bytes,
            None => {
                let name = file.name(base);
                let bytes = read_file(request.directory.join(&name)).await;
                bytes.ok_or_else(|| format!("{name} is missing"))?
            }
        });
    }
    let epochs = listing.epochs.as_ref().ok_or("its leader epochs are missing")?;
    if checksum != files_checksum([&files[0], &files[1], &files[2], epochs.as_bytes()]) {
        return Err("the files beside it are not those of the stop".to_owned());
    }
    let interval = request.config.index_interval_bytes;
    let index = SegmentIndex::decode(&extent, interval, &files[0], &files[1]);
    let index = index.map_err(|error| error.to_string())?;
    if index.max_timestamp().is_none() && point.file_position > 0 {
        return Err("the time index is empty".to_owned()); // What a truncated one looks like.
    }
    // They have one of their own.
    let checksums = match listing.clean.remove(&SegmentFile::Checksums) {
        Some(checksums) => checksums,
        None => {
            let bytes = read_file(request.directory.join(SegmentFile::Checksums.name(active_base))).await;
            bytes.ok_or("its checksums are missing")?
        }
    };
    let checksums = SegmentChecksums::decode(request.segment(active_base), extent.size, &checksums);
    let checksums = checksums.map_err(|error| error.to_string())?;
    let transactions =
        match (listing.clean.remove(&SegmentFile::TransactionIndex), checksums.has_transactions()) {
            (Some(bytes), _) => bytes,
            (None, HasTransactions::No) => Vec::new(),
            (None, HasTransactions::Yes | HasTransactions::Unknown) => {
                let name = SegmentFile::TransactionIndex.name(active_base);
                read_file(request.directory.join(name)).await.ok_or("its transaction index is missing")?
            }
        };
    let transactions = TransactionIndex::of_segment(&checksums, &transactions);
    let aborted = transactions.map_err(|error| error.to_string())?.aborted;
    let producers = Producers::decode_snapshot(&files[2], store.clock.wall());
    let producers = producers.map_err(|error| error.to_string())?;
    let epochs = LeaderEpochs::decode(epochs).map_err(|error| error.to_string())?;
    let mut active = SegmentInfo::empty(active_base, store.clock.wall());
    active.size = point.file_position;
    if let Some(max) = index.max_timestamp() {
        active.max_timestamp = max.timestamp;
    }
    if point.file_position > 0 {
        let block = file.read(0, IO_ALIGNMENT).await.map_err(|error| error.to_string())?;
        let first = Rope::new(&[&block]).batches(0).next().ok_or("its first batch is damaged")?;
        let first = first.max_timestamp;
        active.first_timestamp = (first.0 >= 0).then_some(first);
    }
    let carry = read_carry(store, file, &checksums).await?;
    Ok((Found { active, index, checksums, producers, aborted, epochs, log_end: point.flushed_end }, carry))
}

/// After an unclean stop: every batch is checked, and the file is cut where they end.
async fn scan(
    store: &Rc<Store>,
    request: &OpenRequest,
    file: &Rc<DiskFile>,
    active_base: Offset,
    file_size: u64,
    producers: Producers,
    epochs: LeaderEpochs,
) -> Result<Found, OpenFailed> {
    let failed = |source| OpenFailed::Disk { directory: request.directory.clone(), source };
    let now = store.clock.wall();
    let found = RefCell::new(Found {
        active: SegmentInfo::empty(active_base, now),
        index: SegmentIndex::new(active_base, request.config.index_interval_bytes),
        checksums: SegmentChecksums::new(request.segment(active_base)),
        producers,
        aborted: Vec::new(),
        epochs,
        log_end: active_base,
    });
    let mut scan = RecoveryScan::new(ScanOptions {
        segment_base: active_base,
        recovery_point: request.point.and_then(|point| point.recovery_point(active_base)),
        gaps: OffsetGaps::Refused,
        leader_epoch_min: None,
        leader_epoch_max: Some(request.leader_epoch),
        batch_size_max: BATCH_SIZE_MAX,
    });
    let mut position = 0;
    while position < file_size {
        let size = if position == 0 { FIRST_READ_SIZE } else { IO_SIZE_MAX };
        let bytes = file.read(position, size).await.map_err(failed)?;
        if bytes.is_empty() {
            break;
        }
        let progress = scan.feed(&bytes, &mut |batch, stored| {
            found.borrow_mut().take_batch(batch, stored, now);
        });
        if progress != Progress::Batches {
            break;
        }
        position += bytes.len() as u64;
        glommio::executor().yield_if_needed().await;
    }
    let recovered = scan.finish();
    if matches!(recovered.tail, Verdict::Torn { .. }) && request.has_others {
        let log_directory = request.directory.parent().unwrap_or(Path::new("/"));
        doubts::note(log_directory, request.id).await.map_err(failed)?;
    }
    report(store, request, active_base, &recovered)?;
    check_complete(store, request, active_base, recovered.log_end, recovered.file_position_end)?;
    let end = recovered.file_position_end;
    if recovered.tail != Verdict::Clean || file.has_data_from(align_up(end)).await.map_err(failed)? {
        file.truncate(end).await.map_err(failed)?;
    }
    let mut found = found.into_inner();
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
        if let Some(event) = ProducerEvent::of(batch, stored, now) {
            let ended = self.producers.take(&event);
            self.aborted.extend(ended.as_ref().and_then(aborted));
        }
    }
}

/// A directory has a segment from its first moment on, of a log that was emptied the one that is next.
fn check_segments(store: &Store, request: &OpenRequest, listing: &Listing) -> Result<(), OpenFailed> {
    if !listing.logs.is_empty() || listing.is_new {
        return Ok(());
    }
    store.recovered(RecoveryBranch::LogShort);
    Err(OpenFailed::Corrupt {
        directory: request.directory.clone(),
        segment: request.first_segment(),
        file_position: 0,
        reason: "no segment is left".to_owned(),
    })
}

/// Whatever segment the checkpoint names: below its flushed end nothing may be missing. Segments that
/// are gone as whole files are found here.
fn check_complete(
    store: &Store,
    request: &OpenRequest,
    segment: Offset,
    log_end: Offset,
    file_position: u64,
) -> Result<(), OpenFailed> {
    let flushed_end = request.point.map(|point| point.flushed_end).max(request.journal_end);
    match flushed_end {
        Some(flushed_end) if log_end < flushed_end => {
            store.recovered(RecoveryBranch::LogShort);
            Err(OpenFailed::Corrupt {
                directory: request.directory.clone(),
                segment,
                file_position,
                reason: format!("the log ends at {log_end}, flushed were {flushed_end}"),
            })
        }
        _ => Ok(()),
    }
}

fn report(
    store: &Store,
    request: &OpenRequest,
    segment: Offset,
    recovered: &Recovered,
) -> Result<(), OpenFailed> {
    let directory = request.directory.display();
    match &recovered.tail {
        Verdict::Clean => {
            tracing::debug!(%directory, log_end = %recovered.log_end, "recovered: the tail is whole");
        }
        Verdict::Torn { file_position, damage } => {
            tracing::warn!(
                %directory, %segment, file_position, %damage, log_end = %recovered.log_end,
                "recovered: a torn tail was cut, beyond the last flush that a checkpoint or the journal has noted"
            );
            store.recovered(RecoveryBranch::TornTailCut);
            store.replica_doubtful(request.id);
        }
        Verdict::Corrupt { file_position, damage } => {
            store.recovered(RecoveryBranch::SegmentDamaged);
            return Err(OpenFailed::Corrupt {
                directory: request.directory.clone(),
                segment,
                file_position: *file_position,
                reason: damage.to_string(),
            });
        }
    }
    Ok(())
}

/// The bytes between the last block boundary and the end, which the next write begins with and readers of
/// the tail are served: they are checked like any others.
async fn read_carry(
    store: &Store,
    file: &Rc<DiskFile>,
    checksums: &SegmentChecksums,
) -> Result<Vec<u8>, String> {
    let end = checksums.end();
    let from = align_down(end);
    if from == end {
        return Ok(Vec::new());
    }
    let extents = checksums.extents(from, u64::MAX);
    let start = extents.first().expect("a batch reaches to the end").start;
    let mut bytes = Vec::new();
    let mut at = align_down(start);
    while at < end {
        let size = (align_up(end) - at).min(IO_SIZE_MAX as u64) as usize;
        let piece = file.read(at, size).await.map_err(|error| error.to_string())?;
        let skipped = start.saturating_sub(at) as usize;
        bytes.extend_from_slice(piece.get(skipped..size.min((end - at) as usize)).unwrap_or_default());
        at += size as u64;
    }
    let pieces = std::iter::once(&bytes[..]);
    let mut pace = Pace::new(&store.clock);
    match check_extents(&checksums.segment(), &extents, pieces, &mut pace).await {
        (_, Some(damage)) => Err(damage.to_string()),
        (_, None) => Ok(bytes[(from - start) as usize..].to_vec()),
    }
}
