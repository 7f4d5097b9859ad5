//! Reads from a partition's log: from the tail buffers when they hold the bytes, else from disk.
//!
//! A reader behind the tail gets its bytes by direct reads of at most 1 MiB side by side; while it
//! digests them the next stretch is read ahead, once per partition and bounded by the shard's
//! budget, so that a lagging consumer neither waits for each read nor evicts the tail.

use crate::log::index::{SegmentExtent, SegmentIndex};
use crate::log::plan::{align_down, align_up};
use crate::log::read::Rope;
use crate::log::segment::{SegmentFile, StoredBatch};
use crate::shard::disk::{DiskFile, blocking};
use crate::shard::event::Broadcast;
use crate::shard::memory::Charge;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::store::Store;
use crate::shard::window::{Beginning, Enlarged, beginning};
use crate::types::limits::IO_SIZE_MAX;
use crate::types::{Offset, Timestamp};
use glommio::io::ReadResult;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

/// Bytes read beyond what was asked for, so that the batch at the start is whole although the index
/// is sparse.
const READ_SLACK: u64 = 64 << 10;

/// Places where readers stopped, per partition: a consumer goes on where it was.
const CURSORS_MAX: usize = 8;

/// Closed segments whose index is kept in memory, per partition.
const INDEXES_MAX: usize = 4;

/// Why a read cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailed {
    #[error("the offset lies outside the log")]
    OutOfRange,
    #[error("reading {segment}: {source}")]
    Disk { segment: Offset, source: io::Error },
    #[error("segment {segment} holds no batch with offset {offset}")]
    Damaged { segment: Offset, offset: Offset },
}

/// Record batches as stored, the first one holding the offset asked for.
#[derive(Default)]
pub struct ReadBytes {
    pub slices: Vec<Slice>,
    pub size: usize,
    pub batches: usize,
    /// Bytes that came from disk, for this read or ahead of it.
    pub disk_size: usize,
    /// Of a batch that was larger than asked for.
    pub charge: Option<Charge>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Cursor {
    offset: Offset,
    segment: Offset,
    file_position: u64,
}

/// A stretch that is being read, or was read, before anybody asked for it.
struct Ahead {
    segment: Offset,
    /// File positions.
    start: u64,
    end: u64,
    /// `None` while the disk works on it.
    pieces: Option<Vec<Rc<ReadResult>>>,
    /// Nobody has asked since the last look.
    idle: bool,
    _charge: Charge,
}

/// What a replica remembers for its readers.
#[derive(Default)]
pub struct ReadState {
    cursors: RefCell<VecDeque<Cursor>>,
    indexes: RefCell<VecDeque<Rc<SegmentIndex>>>,
    ahead: RefCell<Option<Ahead>>,
    ahead_arrived: Broadcast,
    generation: Cell<u64>,
}

impl ReadState {
    /// Gives back what was read ahead for a reader that did not come back. Called now and then.
    pub fn drop_idle(&self) {
        let mut ahead = self.ahead.borrow_mut();
        match &mut *ahead {
            Some(found) if found.idle && found.pieces.is_some() => *ahead = None,
            Some(found) => found.idle = true,
            None => {}
        }
    }

    /// Changes when files of closed segments are removed or replaced. What was looked up in one
    /// generation and read in another does not belong together, and is looked up again.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Forgets what lies before a new log start, or in segments that were replaced.
    pub fn forget(&self) {
        self.generation.set(self.generation.get() + 1);
        self.cursors.borrow_mut().clear();
        self.indexes.borrow_mut().clear();
        *self.ahead.borrow_mut() = None;
    }
}

impl Replica {
    /// Batches from the one that holds `offset`, at most `size_max` bytes of them but at least that
    /// one; empty at the high watermark.
    pub async fn read(
        self: &Rc<Self>,
        store: &Rc<Store>,
        offset: Offset,
        size_max: usize,
    ) -> Result<ReadBytes, ReadFailed> {
        loop {
            let generation = self.reads.generation();
            let read = self.read_once(store, offset, size_max).await;
            if generation == self.reads.generation() {
                return read;
            }
        }
    }

    async fn read_once(
        self: &Rc<Self>,
        store: &Rc<Store>,
        offset: Offset,
        size_max: usize,
    ) -> Result<ReadBytes, ReadFailed> {
        let generation = self.reads.generation();
        let (segment, readable_end) = {
            let log = self.log.borrow();
            if offset == log.high_watermark() {
                return Ok(ReadBytes::default());
            }
            // Between high watermark and log end there is nothing to read yet (KIP-207).
            if offset > log.high_watermark() && offset <= log.log_end() {
                return Ok(ReadBytes::default());
            }
            log.locate(offset).ok_or(ReadFailed::OutOfRange)?
        };
        let damaged = || ReadFailed::Damaged { segment, offset };
        let (mut start, exact) = self.start_position(store, segment, offset).await?;
        let mut wanted = size_max as u64 + if exact { 0 } else { READ_SLACK };
        let mut enlarged: Option<Enlarged<'_>> = None;
        loop {
            let end = readable_end.min(start + wanted);
            let slices = self.slices(store, segment, start, end).await?;
            if generation != self.reads.generation() {
                return Ok(ReadBytes::default()); // The caller looks again.
            }
            let pieces: Vec<&[u8]> = slices.iter().map(Slice::bytes).collect();
            let rope = Rope::new(&pieces);
            let mut before = 0; // Bytes of batches before the one that is looked for.
            let first = rope.batches(0).find(|batch| {
                let found = batch.end_offset > offset;
                before = if found { batch.at } else { batch.at + batch.size };
                found
            });
            match beginning(&rope, before) {
                Beginning::Whole => {
                    let first = first.expect("the walk ends at a batch only if it is the one");
                    let charge = enlarged.map(Enlarged::into_charge);
                    let cut = rope.cut(first.at, size_max.min(rope.size())).expect("the first one is whole");
                    let (batches, next) = count_batches(&rope, first.at, cut);
                    let next_position = start + cut as u64;
                    self.remember(Cursor { offset: next, segment, file_position: next_position });
                    if slices.iter().any(|slice| matches!(slice, Slice::Disk(..))) {
                        let ahead_end = readable_end.min(next_position + size_max as u64);
                        self.read_ahead(store, segment, next_position, ahead_end);
                    }
                    return Ok(ReadBytes { charge, batches, ..take_range(slices, first.at, cut) });
                }
                // It fits into a window of this size that begins with it.
                Beginning::Cut(cut) if before > 0 && cut.size as u64 <= wanted => start += before as u64,
                Beginning::Cut(cut) if enlarged.is_none() => {
                    start += before as u64;
                    let larger = self.enlarge(store, segment, start, cut, readable_end).await?;
                    wanted = larger.size.max(size_max as u64);
                    enlarged = Some(larger);
                }
                // The window was too small for a header, and the file did not end in it.
                Beginning::Short if before == 0 && wanted < READ_SLACK && end < readable_end => {
                    wanted = READ_SLACK;
                }
                // What was looked for lies behind the window.
                Beginning::Short if before > 0 && start + (before as u64) < readable_end => {
                    start += before as u64;
                }
                Beginning::Cut(_) | Beginning::Short | Beginning::Damaged => return Err(damaged()),
            }
        }
    }

    /// File position at or before the batch that holds `offset`, and whether it is that batch's.
    async fn start_position(
        self: &Rc<Self>,
        store: &Rc<Store>,
        segment: Offset,
        offset: Offset,
    ) -> Result<(u64, bool), ReadFailed> {
        let known = self
            .reads
            .cursors
            .borrow()
            .iter()
            .find(|cursor| cursor.offset == offset && cursor.segment == segment)
            .map(|cursor| cursor.file_position);
        if let Some(position) = known {
            return Ok((position, true));
        }
        if let Some(position) = self.with_active_index(segment, |index| index.position_for(offset)) {
            return Ok((position, false));
        }
        Ok((self.closed_index(store, segment).await?.position_for(offset), false))
    }

    fn remember(&self, cursor: Cursor) {
        let mut cursors = self.reads.cursors.borrow_mut();
        if cursors.contains(&cursor) {
            return;
        }
        if cursors.len() >= CURSORS_MAX {
            cursors.pop_front();
        }
        cursors.push_back(cursor);
    }

    /// File position from which the first batch with a timestamp at or past `timestamp` is found.
    pub async fn position_for_timestamp(
        self: &Rc<Self>,
        store: &Rc<Store>,
        segment: Offset,
        timestamp: Timestamp,
    ) -> Result<u64, ReadFailed> {
        let active = self.with_active_index(segment, |index| index.position_for_timestamp(timestamp));
        match active {
            Some(position) => Ok(position),
            None => Ok(self.closed_index(store, segment).await?.position_for_timestamp(timestamp)),
        }
    }

    /// The index of a closed segment, read from its files, or built again from the segment when they
    /// are missing or wrong.
    pub async fn closed_index(
        self: &Rc<Self>,
        store: &Rc<Store>,
        segment: Offset,
    ) -> Result<Rc<SegmentIndex>, ReadFailed> {
        let known = self.reads.indexes.borrow().iter().find(|index| index.base_offset() == segment).cloned();
        if let Some(index) = known {
            return Ok(index);
        }
        let generation = self.reads.generation();
        let index = Rc::new(self.load_index(store, segment).await?);
        if generation != self.reads.generation() {
            return Ok(index); // Maybe of a file that is gone: whoever asked looks again.
        }
        let mut indexes = self.reads.indexes.borrow_mut();
        if indexes.len() >= INDEXES_MAX {
            indexes.pop_front();
        }
        indexes.push_back(index.clone());
        Ok(index)
    }

    fn with_active_index<T>(&self, segment: Offset, with: impl FnOnce(&SegmentIndex) -> T) -> Option<T> {
        let log = self.log.borrow();
        (log.active().base_offset == segment).then(|| with(log.active_index()))
    }

    async fn load_index(
        self: &Rc<Self>,
        store: &Rc<Store>,
        segment: Offset,
    ) -> Result<SegmentIndex, ReadFailed> {
        let (extent, interval) = self.closed_extent(segment)?;
        let offset_path = self.segments.path(segment, SegmentFile::OffsetIndex);
        let time_path = self.segments.path(segment, SegmentFile::TimeIndex);
        let files = blocking(move || {
            #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
            let read = |path| std::fs::read(path);
            Ok::<_, io::Error>((read(offset_path)?, read(time_path)?))
        })
        .await;
        let decoded = files.map_err(|error| error.to_string()).and_then(|(offsets, times)| {
            SegmentIndex::decode(&extent, interval, &offsets, &times).map_err(|error| error.to_string())
        });
        match decoded {
            Ok(index) => Ok(index),
            Err(reason) => {
                tracing::warn!(directory = %self.directory.display(), %segment, reason, "index is rebuilt");
                self.rebuild_index(store, &extent, interval).await
            }
        }
    }

    /// What the index of a closed segment is checked against, and `index.interval.bytes`.
    pub fn closed_extent(&self, segment: Offset) -> Result<(SegmentExtent, u32), ReadFailed> {
        let log = self.log.borrow();
        let extent = log.closed_extent(segment).ok_or(ReadFailed::OutOfRange)?;
        Ok((extent, log.config.index_interval_bytes))
    }

    /// Reads a closed segment through. What is no batch of it ends in an error.
    pub async fn rebuild_index(
        self: &Rc<Self>,
        store: &Rc<Store>,
        extent: &SegmentExtent,
        interval: u32,
    ) -> Result<SegmentIndex, ReadFailed> {
        let segment = extent.base_offset;
        let mut index = SegmentIndex::new(segment, interval);
        let mut position = 0;
        let mut next = segment;
        let mut enlarged: Option<Enlarged<'_>> = None;
        while position < extent.size {
            let wanted = enlarged.as_ref().map_or(IO_SIZE_MAX as u64, |enlarged| enlarged.size);
            let end = extent.size.min(position + wanted);
            let slices = self.slices(store, segment, position, end).await?;
            let pieces: Vec<&[u8]> = slices.iter().map(Slice::bytes).collect();
            let rope = Rope::new(&pieces);
            let mut taken = 0;
            for batch in rope.batches(0).take_while(|batch| batch.at + batch.size <= rope.size()) {
                if batch.base_offset < next || batch.end_offset > extent.end_offset {
                    return Err(ReadFailed::Damaged { segment, offset: next });
                }
                next = batch.end_offset;
                index.observe(&StoredBatch {
                    base_offset: batch.base_offset,
                    last_offset: Offset::new(batch.end_offset.get() - 1).unwrap_or_default(),
                    max_timestamp: batch.max_timestamp,
                    leader_epoch: Default::default(),
                    file_position: position + batch.at as u64,
                    size: batch.size as u32,
                });
                taken = batch.at + batch.size;
            }
            enlarged = match beginning(&rope, 0) {
                Beginning::Whole => None,
                Beginning::Cut(cut) if enlarged.is_none() => {
                    Some(self.enlarge(store, segment, position, cut, extent.size).await?)
                }
                _ => return Err(ReadFailed::Damaged { segment, offset: next }),
            };
            position += taken as u64;
            glommio::executor().yield_if_needed().await;
        }
        Ok(index)
    }

    /// The bytes of a segment from file position `start` to `end`.
    pub async fn slices(
        self: &Rc<Self>,
        store: &Rc<Store>,
        segment: Offset,
        start: u64,
        end: u64,
    ) -> Result<Vec<Slice>, ReadFailed> {
        let in_tail = self.tail().slices(segment, start..end);
        if let Some(slices) = in_tail {
            return Ok(slices.into_iter().map(Slice::Tail).collect());
        }
        let failed = |source| ReadFailed::Disk { segment, source };
        let file = self.reader(store, segment).await.map_err(failed)?;
        let mut slices = Vec::new();
        let at = self.take_ahead(segment, start, end, &mut slices).await;
        if at < end {
            let pieces = read_pieces(&file, align_down(at), align_up(end)).await.map_err(failed)?;
            push_range(&pieces, align_down(at), at, end, &mut slices);
            store.metrics.borrow_mut().disk_read_bytes += end - at;
        }
        Ok(slices)
    }

    /// Hands out what was read ahead from `start` on, waiting for the disk if it is about to arrive.
    /// Returns up to where.
    async fn take_ahead(&self, segment: Offset, start: u64, end: u64, slices: &mut Vec<Slice>) -> u64 {
        let covers = |ahead: &Ahead| ahead.segment == segment && (ahead.start..ahead.end).contains(&start);
        loop {
            let arrived = match &*self.reads.ahead.borrow() {
                Some(ahead) if covers(ahead) => {
                    ahead.pieces.clone().map(|pieces| (ahead.start, ahead.end, pieces))
                }
                _ => return start,
            };
            match arrived {
                Some((ahead_start, ahead_end, pieces)) => {
                    let end = end.min(ahead_end);
                    push_range(&pieces, ahead_start, start, end, slices);
                    return end;
                }
                None => self.reads.ahead_arrived.notified().await,
            }
        }
    }

    /// Reads the stretch that a sequential reader will ask for next. One per partition: the newest
    /// reader's.
    fn read_ahead(self: &Rc<Self>, store: &Rc<Store>, segment: Offset, start: u64, end: u64) {
        let start = align_down(start);
        let size = end.saturating_sub(start) as usize;
        let in_flight = self.reads.ahead.borrow().as_ref().is_some_and(|ahead| ahead.pieces.is_none());
        let in_tail = self.tail().slices(segment, start..end).is_some();
        if size == 0 || in_tail || in_flight || !store.read_memory.has_room(size) {
            return;
        }
        let _charge = store.read_memory.charge(size);
        *self.reads.ahead.borrow_mut() =
            Some(Ahead { segment, start, end, pieces: None, idle: false, _charge });
        let generation = self.reads.generation();
        let (replica, spawner, store) = (self.clone(), store.clone(), store.clone());
        spawner.spawn(async move {
            let read = async {
                let file = replica.reader(&store, segment).await?;
                read_pieces(&file, start, align_up(end)).await
            };
            let read = read.await;
            let mut ahead = replica.reads.ahead.borrow_mut();
            if generation != replica.reads.generation() {
                *ahead = None;
            }
            match (read, &mut *ahead) {
                (Ok(pieces), Some(ahead)) if ahead.segment == segment && ahead.start == start => {
                    store.metrics.borrow_mut().disk_read_bytes += size as u64;
                    ahead.pieces = Some(pieces);
                }
                // Whoever asks for these bytes reads them itself, and meets the error.
                _ => *ahead = None,
            }
            drop(ahead);
            replica.reads.ahead_arrived.notify_all();
        });
    }
}

/// Aligned reads of at most [`IO_SIZE_MAX`] each, side by side.
async fn read_pieces(file: &Rc<DiskFile>, start: u64, end: u64) -> io::Result<Vec<Rc<ReadResult>>> {
    let starts = (start..end).step_by(IO_SIZE_MAX);
    let reads = starts.map(|at| file.read(at, (end - at).min(IO_SIZE_MAX as u64) as usize));
    let pieces = futures::future::try_join_all(reads).await?;
    Ok(pieces.into_iter().map(Rc::new).collect())
}

/// Appends the bytes from `from` to `to` of consecutive pieces that start at `start`. Stops early
/// where the file did.
fn push_range(pieces: &[Rc<ReadResult>], start: u64, from: u64, to: u64, slices: &mut Vec<Slice>) {
    let mut at = start;
    for piece in pieces {
        let end = at + piece.len() as u64;
        let (low, high) = (from.max(at), to.min(end));
        if low < high {
            slices.push(Slice::Disk(piece.clone(), (low - at) as usize..(high - at) as usize));
        }
        at = end;
    }
}

/// How many batches lie between two of their boundaries, and the offset behind the last.
fn count_batches(rope: &Rope<'_>, from: usize, to: usize) -> (usize, Offset) {
    let (mut count, mut end) = (0, Offset::ZERO);
    for batch in rope.batches(from).take_while(|batch| batch.at < to) {
        count += 1;
        end = batch.end_offset;
    }
    (count, end)
}

/// The bytes from `from` to `to` of consecutive slices.
fn take_range(slices: Vec<Slice>, from: usize, to: usize) -> ReadBytes {
    let mut out = Vec::with_capacity(slices.len());
    let mut disk_size = 0;
    let mut at = 0;
    for slice in slices {
        let end = at + slice.len();
        let (low, high) = (from.max(at), to.min(end));
        if low < high {
            disk_size += if matches!(slice, Slice::Disk(..)) { high - low } else { 0 };
            out.push(slice.narrow(low - at..high - at));
        }
        at = end;
    }
    ReadBytes { slices: out, size: to - from, disk_size, ..ReadBytes::default() }
}
