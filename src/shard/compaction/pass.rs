//! One pass over one log: first the keys, then group after group of segments.

use crate::codec::record_batch::{BatchView, Compression};
use crate::log::checksums::HasTransactions;
use crate::log::compaction::filter::{BatchFacts, BatchFilter, FilterCounts, FilterOptions};
use crate::log::compaction::keys::{KeyWalk, MapProgress};
use crate::log::compaction::offset_map::HashSeed;
use crate::log::compaction::output::{CompactedSegment, OutputError};
use crate::log::compaction::payload::PayloadError;
use crate::log::compaction::plan::{GroupLimits, SegmentToClean, end_of, group_segments};
use crate::log::compaction::swap::{decide_steps, discard_steps, is_decided, replace_steps};
use crate::log::journal::block::{Change, Entry};
use crate::log::producers::LastRecord;
use crate::log::segment::SegmentInfo;
use crate::log::transactions::AbortedTransaction;
use crate::log::transactions::index::TransactionIndex;
use crate::shard::catch_up::{Hold, Reading};
use crate::shard::compaction::files::{ReadSegmentFailed, SegmentReader, SegmentWriter};
use crate::shard::compaction::swap::carry_out;
use crate::shard::compaction::{Cleaner, Dirty};
use crate::shard::disk::{DiskFile, blocking, is_full_disk};
use crate::shard::reader::ReadFailed;
use crate::shard::removing::Removal;
use crate::shard::replica::Replica;
use crate::shard::side_thread::SideThread;
use crate::shard::step::Pace;
use crate::shard::store::changes::Logged;
use crate::types::{Offset, Timestamp, Uuid};
use std::io;
use std::ops::Range;
use std::rc::Rc;

/// Bytes of a batch that is looked into in one turn of the core, some 100 µs. Larger ones go to the side
/// thread, and so do compressed ones, whose size says nothing.
const INLINE_SIZE_MAX: usize = 16 << 10;

/// What a pass has done.
#[derive(Clone, Copy, Debug)]
pub struct PassDone {
    /// Below it the log is compacted.
    pub first_dirty: Offset,
    pub counts: FilterCounts,
}

/// Why a pass did not come to its end. The log holds what it held.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("what was to be compacted has gone")]
    Superseded,
    #[error("{0}")]
    NoSpace(io::Error),
    #[error("segment {segment}: {reason}")]
    Unreadable { segment: Offset, reason: String },
    #[error("segment {segment}: {reason}")]
    DoesNotFit { segment: Offset, reason: OutputError },
    #[error("{0}")]
    Disk(io::Error),
}

impl Failed {
    fn writing(error: io::Error) -> Failed {
        if is_full_disk(&error) { Failed::NoSpace(error) } else { Failed::Disk(error) }
    }

    fn reading(segment: Offset, reason: impl ToString) -> Failed {
        Failed::Unreadable { segment, reason: reason.to_string() }
    }
}

impl Cleaner {
    pub(super) async fn pass(&self, dirty: &Dirty) -> Result<PassDone, Failed> {
        let now = self.clock.wall();
        let walk = self.walk_keys(dirty).await?;
        let options = FilterOptions {
            now,
            delete_retention_ms: dirty.limits.delete_retention_ms,
            end: dirty.cleanable.first_uncleanable,
        };
        let mut filter = BatchFilter::new(walk.finish(), options);
        let first_dirty = filter.clean_end().unwrap_or(dirty.cleanable.first_dirty);
        let segments = self.segments_below(dirty, first_dirty).await?;
        let limits = {
            let config = dirty.replica.log.borrow().config.clone();
            GroupLimits {
                segment_size_max: config.segment_size_max,
                index_size_max: config.index_size_max.into(),
            }
        };
        let mut rest = &segments[..];
        for count in group_segments(&segments, &limits) {
            let (group, after) = rest.split_at(count);
            rest = after;
            filter = self.compact_group(dirty, group, filter).await?;
        }
        let counts = filter.counts();
        // The map of keys is large: giving its memory back takes milliseconds.
        self.store(&dirty.replica).side_thread.run(move || drop(filter)).await;
        Ok(PassDone { first_dirty, counts })
    }

    /// The newest offset of every key of the dirty part, as far as they fit.
    async fn walk_keys(&self, dirty: &Dirty) -> Result<KeyWalk, Failed> {
        let (replica, cleanable) = (&dirty.replica, &dirty.cleanable);
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let size_max = self.settings.get().map_size_max;
        let seed = HashSeed(high, low);
        let mut walk = KeyWalk::new(cleanable.first_dirty, cleanable.first_uncleanable, size_max, seed);
        let mut pace = Pace::new(&self.clock);
        for (info, end_offset) in
            segments_between(replica, cleanable.first_dirty, cleanable.first_uncleanable)
        {
            let segment = info.base_offset;
            let index =
                replica.closed_index(&mut Hold::new(&Reading::own(self.store(replica))), segment).await;
            let start = index.map_err(|error| read_failed(replica, segment, error))?;
            let start = start.position_for(cleanable.first_dirty);
            walk.transactions().add_aborted(self.aborted_in(replica, segment).await?.aborted);
            let mut reader = self.open(replica, &info, start).await?;
            while let Some((mut bytes, batches)) = self.next(replica, segment, &mut reader).await? {
                self.pay(bytes.len() as u64).await;
                for batch in batches {
                    let progress;
                    (walk, bytes, progress) =
                        take_keys(&self.store(replica).side_thread, walk, bytes, batch).await;
                    match progress.map_err(|error| Failed::reading(segment, error))? {
                        MapProgress::More => {}
                        MapProgress::Full => return Ok(walk),
                    }
                    pace.give_way().await;
                }
            }
            walk.segment_ended(end_offset);
        }
        Ok(walk)
    }

    /// The closed segments that begin below `end`, with the sizes of their indexes.
    async fn segments_below(&self, dirty: &Dirty, end: Offset) -> Result<Vec<SegmentToClean>, Failed> {
        let replica = &dirty.replica;
        let mut segments = Vec::new();
        let mut pace = Pace::new(&self.clock);
        for (info, end_offset) in segments_between(replica, Offset::ZERO, end) {
            let index = replica
                .closed_index(&mut Hold::new(&Reading::own(self.store(replica))), info.base_offset)
                .await;
            let index = index.map_err(|error| read_failed(replica, info.base_offset, error))?;
            segments.push(SegmentToClean { info, end_offset, index_size: index.file_size_max() });
            pace.give_way().await;
        }
        Ok(segments)
    }

    /// Writes one segment in the place of a group, and takes it into the log.
    async fn compact_group(
        &self,
        dirty: &Dirty,
        group: &[SegmentToClean],
        filter: BatchFilter,
    ) -> Result<BatchFilter, Failed> {
        let replica = &dirty.replica;
        let (first, last) = (group.first().expect("no group is empty"), group.last().expect("as before"));
        let base = first.info.base_offset;
        let interval = replica.log.borrow().config.index_interval_bytes;
        let created = {
            let _names = replica.hold_names().ok_or(Failed::Superseded)?;
            let disk = &self.store(replica).disk;
            SegmentWriter::create(disk, &replica.directory, replica.id, &first.info, interval).await
        };
        let written = match created {
            Ok(writer) => self.write_group(replica, group, filter, writer).await,
            Err(error) => Err(Failed::writing(error)),
        };
        let replaced: Vec<Offset> = group.iter().map(|segment| segment.info.base_offset).collect();
        let swapped = match written {
            Ok((filter, segment, file)) => {
                let swapped = self.swap(replica, &replaced, last.end_offset, segment, file).await;
                swapped.map(|()| filter)
            }
            Err(failed) => Err(failed),
        };
        // After a failure of the disk nobody knows what is decided: the next start does, by the names.
        if matches!(swapped, Err(ref failed) if !matches!(failed, Failed::Disk(_)))
            && let Some(_names) = replica.hold_names()
            && !self.store(replica).is_offline()
        {
            let directory = replica.directory.clone();
            // What stays is removed by the next pass or start.
            let discard = move || carry_out(&directory, &discard_steps(base));
            let _ = self.store(replica).side_thread.run(discard).await.whole();
        }
        swapped
    }

    /// Copies what stays of a group. The new file and its indexes are flushed.
    async fn write_group(
        &self,
        replica: &Rc<Replica>,
        group: &[SegmentToClean],
        mut filter: BatchFilter,
        mut writer: SegmentWriter,
    ) -> Result<(BatchFilter, CompactedSegment, Rc<DiskFile>), Failed> {
        let mut modified_at = Timestamp::NONE;
        let mut first_open = None;
        let mut pace = Pace::new(&self.clock);
        for (at, segment) in group.iter().enumerate() {
            let base = segment.info.base_offset;
            let is_last = at + 1 == group.len();
            let transactions = self.aborted_in(replica, base).await?;
            filter.transactions().add_aborted(transactions.aborted);
            if transactions.has_any {
                first_open = transactions.first_open;
            }
            let mut reader = self.open(replica, &segment.info, 0).await?;
            let mut read = 0;
            while let Some((mut bytes, batches)) = self.next(replica, base, &mut reader).await? {
                self.pay(bytes.len() as u64).await;
                for batch in batches {
                    let facts = BatchFacts {
                        last_record: last_record(replica, &bytes[batch.clone()]),
                        ends_group: is_last && read + batch.end as u64 == segment.info.size,
                    };
                    let kept;
                    (filter, bytes, kept) =
                        take_batch(&self.store(replica).side_thread, filter, bytes, batch, facts).await;
                    let kept = kept.map_err(|error| Failed::reading(base, error))?;
                    let pushed = writer.push(&kept, segment.info.modified_at);
                    pushed.map_err(|reason| Failed::DoesNotFit { segment: base, reason })?;
                    pace.give_way().await;
                }
                read += bytes.len() as u64;
                let written = writer.write_full().await.map_err(Failed::writing)?;
                self.pay(written).await;
            }
            modified_at = segment.info.modified_at;
        }
        let _names = replica.hold_names().ok_or(Failed::Superseded)?;
        let transactions = TransactionIndex { aborted: filter.transactions().take_retained(), first_open };
        let finished = writer.finish(&self.store(replica).side_thread, transactions, modified_at).await;
        let (segment, file) = finished.map_err(Failed::writing)?;
        Ok((filter, segment, file))
    }

    /// The aborted transactions that have something in a closed segment, and which is open at its end.
    async fn aborted_in(&self, replica: &Rc<Replica>, segment: Offset) -> Result<Aborted, Failed> {
        let failed = |error| read_failed(replica, segment, error);
        let mut hold = Hold::new(&Reading::own(self.store(replica)));
        let has = replica.has_transactions(&mut hold, segment).await.map_err(failed)?;
        if has == HasTransactions::No {
            return Ok(Aborted::default());
        }
        let first_open = replica.closed_transactions(&mut hold, segment).await.map_err(failed)?.first_open;
        let stable = replica.log.borrow().last_stable_offset();
        let search = replica.search_aborted(&mut hold, segment, segment, stable).await.map_err(failed)?;
        Ok(Aborted { aborted: search.finish(stable), first_open, has_any: true })
    }

    /// Puts a compacted segment, whole and flushed, in the place of those it was made from. Once that is
    /// decided it is done, even where the disk is too full for all of its steps: the rest follows.
    async fn swap(
        &self,
        replica: &Rc<Replica>,
        replaced: &[Offset],
        end: Offset,
        compacted: CompactedSegment,
        file: Rc<DiskFile>,
    ) -> Result<(), Failed> {
        let base = compacted.info().base_offset;
        let _turn = replica.replacing.acquire_permit(1).await.map_err(|_| Failed::Superseded)?;
        if !replica.log.borrow().holds_segments(replaced) || self.store(replica).is_offline() {
            return Err(Failed::Superseded);
        }
        if replica.segments.unfinished_swap().is_some() {
            return Err(Failed::NoSpace(io::ErrorKind::StorageFull.into()));
        }
        // A replay must not write into what takes their place; all of them are flushed.
        let epoch = replica.log.borrow().leader_epoch();
        let change = Change::Replaced { from: base, to: end, epoch };
        if self.store(replica).log_changes(vec![Entry { partition: replica.id, change }]).await
            == Logged::Failed
        {
            return Err(Failed::Superseded);
        }
        let _names = replica.hold_names().ok_or(Failed::Superseded)?;
        let directory = replica.directory.clone();
        let decided = blocking(move || carry_out(&directory, &decide_steps(base))).await;
        if let Some(error) = decided.stopped
            && !(is_full_disk(&error) && is_decided(base, &decided.rest))
        {
            return Err(Failed::writing(error));
        }

        // From here on the new segment is the log's. Reads that began before look again.
        let _paths = replica.segments.hold_names().await.map_err(Failed::Disk)?;
        replica.log.borrow_mut().replace_segments(replaced, *compacted.info());
        let mut rest = decided.rest;
        rest.extend(replace_steps(base, &replaced[1..]));
        replica.segments.swap_reader(replaced, file, rest);
        replica.reads.forget();
        // Until its companion has its name: that may still be of the segment before.
        replica.reads.transactions.closed(base, compacted.transactions());
        replica.reads.checksums.closed(compacted.into_checksums());
        replica.drop_tail_before(self.store(replica), end);
        match self.finish_swap_of(replica).await {
            Err(Failed::NoSpace(error)) => {
                let directory = replica.directory.display();
                tracing::warn!(%directory, segment = %base, %error, "no space for a compacted segment's name; it is given later");
                Ok(())
            }
            finished => finished,
        }
    }

    /// Gives a compacted segment its name if it found no space for that before. Until then no other one
    /// takes its place in the log.
    pub(super) async fn finish_swap(&self, replica: &Rc<Replica>) -> Result<(), Failed> {
        let _turn = replica.replacing.acquire_permit(1).await.map_err(|_| Failed::Superseded)?;
        let _names = replica.hold_names().ok_or(Failed::Superseded)?;
        let _paths = replica.segments.hold_names().await.map_err(Failed::Disk)?;
        self.finish_swap_of(replica).await
    }

    /// The caller keeps all names where they are.
    async fn finish_swap_of(&self, replica: &Rc<Replica>) -> Result<(), Failed> {
        let Some(base) = replica.segments.unfinished_swap() else { return Ok(()) };
        let carried = replica.segments.finish_swap().await;
        let delay = replica.log.borrow().config.file_delete_delay;
        self.store(replica).remove_later(Removal::Files(carried.given_up), delay);
        if let Some(error) = carried.stopped {
            return Err(Failed::writing(error));
        }
        replica.reads.checksums.written(base);
        replica.reads.transactions.written(base);
        Ok(())
    }

    async fn open(
        &self,
        replica: &Rc<Replica>,
        info: &SegmentInfo,
        position: u64,
    ) -> Result<SegmentReader, Failed> {
        let Some(_names) = replica.hold_names() else { return Err(Failed::Superseded) };
        let file = replica.segments.reader(&self.store(replica).disk, info.base_offset).await;
        let file = file.map_err(|error| read_failed_io(replica, info.base_offset, &error))?;
        Ok(SegmentReader::new(self.store(replica), replica, info, file, position))
    }

    /// The next batches of a segment, unless the pass has lost its object.
    async fn next(
        &self,
        replica: &Rc<Replica>,
        segment: Offset,
        reader: &mut SegmentReader,
    ) -> Result<Option<(Vec<u8>, Vec<Range<usize>>)>, Failed> {
        let is_compacted = replica.log.borrow().config.cleanup.compact.is_some();
        let goes_on = is_compacted && !replica.is_deleted() && !self.store(replica).is_closed();
        if !goes_on || !replica.log.borrow().holds_segments(&[segment]) || self.store(replica).is_offline() {
            return Err(Failed::Superseded);
        }
        reader.next().await.map_err(|error| match error {
            ReadSegmentFailed::Disk(source) => read_failed_io(replica, segment, &source),
            ReadSegmentFailed::Damaged(damage) => {
                let failed = ReadFailed::Damaged { segment, damage };
                replica.tell(self.store(replica), &failed);
                read_failed(replica, segment, failed)
            }
            ReadSegmentFailed::Checksums(failed) => read_failed(replica, segment, failed),
        })
    }
}

/// What a segment's transaction index, and those behind it, say of it.
#[derive(Default)]
struct Aborted {
    aborted: Vec<AbortedTransaction>,
    first_open: Option<Offset>,
    has_any: bool,
}

/// The closed segments that hold offsets from `from` to `to`, each with where it ends.
fn segments_between(replica: &Replica, from: Offset, to: Offset) -> Vec<(SegmentInfo, Offset)> {
    let log = replica.log.borrow();
    let all = log.closed().iter().map(|segment| (*segment, end_of(&log, segment)));
    all.filter(|(segment, end)| *end > from && segment.base_offset < to).collect()
}

/// An error while a segment was read: damage, unless the segment has gone meanwhile.
fn read_failed(replica: &Replica, segment: Offset, error: ReadFailed) -> Failed {
    if replica.is_deleted() || !replica.log.borrow().holds_segments(&[segment]) {
        return Failed::Superseded;
    }
    Failed::reading(segment, error)
}

fn read_failed_io(replica: &Replica, segment: Offset, error: &io::Error) -> Failed {
    if replica.is_deleted() || !replica.log.borrow().holds_segments(&[segment]) {
        return Failed::Superseded;
    }
    Failed::reading(segment, error)
}

/// What the log has to keep of the producer that wrote a batch.
fn last_record(replica: &Replica, batch: &[u8]) -> Option<LastRecord> {
    let (batch, _) = BatchView::split_first(batch).ok()?;
    let (producer, _) = batch.writer()?;
    replica.log.borrow().producers.last_record(producer)
}

fn is_small(batch: &[u8]) -> bool {
    let is_plain =
        BatchView::split_first(batch).is_ok_and(|(view, _)| view.compression() == Some(Compression::None));
    batch.len() <= INLINE_SIZE_MAX && is_plain
}

type KeysTaken = (KeyWalk, Vec<u8>, Result<MapProgress, PayloadError>);

async fn take_keys(
    side_thread: &SideThread,
    mut walk: KeyWalk,
    bytes: Vec<u8>,
    batch: Range<usize>,
) -> KeysTaken {
    let is_small = is_small(&bytes[batch.clone()]);
    let step = move || {
        let progress = walk.take(&bytes[batch]);
        (walk, bytes, progress)
    };
    if is_small { step() } else { side_thread.run(step).await }
}

/// The filter, the bytes it looked into, and what stays of the batch.
type BatchTaken = (BatchFilter, Vec<u8>, Result<Vec<u8>, PayloadError>);

async fn take_batch(
    side_thread: &SideThread,
    mut filter: BatchFilter,
    bytes: Vec<u8>,
    batch: Range<usize>,
    facts: BatchFacts,
) -> BatchTaken {
    let is_small = is_small(&bytes[batch.clone()]);
    let step = move || {
        let mut kept = Vec::new();
        let taken = filter.take(&bytes[batch], &facts, &mut kept);
        (filter, bytes, taken.map(|_| kept))
    };
    if is_small { step() } else { side_thread.run(step).await }
}
