//! Reads from a partition's log: from the tail buffers when they hold the bytes, else from disk.
//!
//! ```text
//! file    |------ stored ------------------------|
//! tail                        |------------------'------|  the newest bytes, maybe only in the journal
//! read           [-- direct --|--- shared buffers --]
//!                 ^ held against its checksums
//! ```
//!
//! What lies in the tail is answered at once. A reader behind it gets its bytes in the queue and out of
//! the memory of those that catch up ([`catch_up`](crate::shard::catch_up)), by direct reads side by side;
//! while it digests them the next stretch is read ahead, so that it neither waits for each read nor
//! evicts the tail.

use crate::log::checksums::walk::DamageAt;
use crate::log::partition::Place;
use crate::log::plan::align_down;
use crate::log::read::{Cut, Rope};
use crate::log::segment::SegmentFile;
use crate::log::transactions::{AbortedTransaction, Isolation};
use crate::shard::catch_up::{Hold, READ_SLACK, ReadTurn, Reading};
use crate::shard::read_ahead::ReadAhead;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::segment_checksums::Checksums;
use crate::shard::segment_index::Indexes;
use crate::shard::segment_transactions::TransactionIndexes;
use crate::shard::store::Store;
use crate::shard::verified::Stretch;
use crate::types::Offset;
use crate::types::limits::READ_CURSORS_MAX;
use glommio::io::ReadResult;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;

/// Bytes that are looked through at once for the place of an offset.
const PLACE_READ_SIZE: u64 = 256 << 10;

/// Why a read cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailed {
    #[error("the offset lies outside the log")]
    OutOfRange,
    #[error("reading {segment}: {source}")]
    Disk { segment: Offset, source: io::Error },
    /// What the disk handed back is not what was written there.
    #[error("{} is damaged at {damage}", SegmentFile::Log.name(*segment))]
    Damaged { segment: Offset, damage: DamageAt },
    #[error("segment {segment} holds no batch with offset {offset}")]
    NoBatch { segment: Offset, offset: Offset },
    /// Other reads of the same fetch hold some: that is answered first.
    #[error("there is no memory for another read of this fetch")]
    NoTurn,
}

/// Record batches as stored, the first one holding the offset asked for.
#[derive(Default)]
pub struct ReadBytes {
    pub slices: Vec<Slice>,
    pub size: usize,
    pub batches: usize,
    /// Bytes that came from disk, for this read or ahead of it.
    pub disk_size: usize,
    /// There is more to read, for which memory was short, or which ends where it was checked.
    pub is_short: bool,
    /// What a reader of committed records has to leave out of it.
    pub aborted: Vec<AbortedTransaction>,
    /// The memory of what was read from disk, until it is part of an answer.
    pub turn: Option<ReadTurn>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Cursor {
    offset: Offset,
    segment: Offset,
    file_position: u64,
}

/// What a replica remembers for its readers.
#[derive(Default)]
pub struct ReadState {
    cursors: RefCell<VecDeque<Cursor>>,
    pub indexes: Indexes,
    pub checksums: Checksums,
    pub transactions: TransactionIndexes,
    pub ahead: ReadAhead,
    generation: Cell<u64>,
    /// The damage that was told last: a reader that comes back for it is not worth another line.
    told: Cell<Option<(Offset, u64)>>,
}

impl ReadState {
    /// Changes when files of closed segments are removed or replaced. What was looked up in one
    /// generation and read in another does not belong together, and is looked up again.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Forgets what lies before a new log start, or in segments that were replaced.
    pub fn forget(&self) {
        self.generation.set(self.generation.get() + 1);
        self.cursors.borrow_mut().clear();
        self.indexes.clear();
        self.checksums.clear();
        self.transactions.clear();
        self.ahead.clear();
    }

    fn cursor(&self, segment: Offset, offset: Offset) -> Option<u64> {
        let cursors = self.cursors.borrow();
        let found = cursors.iter().find(|cursor| cursor.offset == offset && cursor.segment == segment);
        found.map(|cursor| cursor.file_position)
    }
}

impl Replica {
    /// Batches from the one that holds `offset`, at most `size_max` bytes of them but at least that
    /// one; empty at the high watermark, and when memory is short for one more read of the fetch.
    pub async fn read(
        self: &Rc<Self>,
        reading: &Rc<Reading>,
        offset: Offset,
        size_max: usize,
    ) -> Result<ReadBytes, ReadFailed> {
        self.read_isolated(reading, offset, size_max, Isolation::Uncommitted).await
    }

    /// The same for a follower: also what is not durable yet, but nothing from offset `below` on.
    pub async fn read_appended(
        self: &Rc<Self>,
        reading: &Rc<Reading>,
        offset: Offset,
        size_max: usize,
        below: Offset,
    ) -> Result<ReadBytes, ReadFailed> {
        self.read_for(reading, offset, size_max, Reader::Follower { below }).await
    }

    /// The same for a reader that may want committed records only: up to the last stable offset, with the
    /// aborted transactions among them named.
    pub async fn read_isolated(
        self: &Rc<Self>,
        reading: &Rc<Reading>,
        offset: Offset,
        size_max: usize,
        isolation: Isolation,
    ) -> Result<ReadBytes, ReadFailed> {
        self.read_for(reading, offset, size_max, Reader::Client(isolation)).await
    }

    async fn read_for(
        self: &Rc<Self>,
        reading: &Rc<Reading>,
        offset: Offset,
        size_max: usize,
        for_whom: Reader,
    ) -> Result<ReadBytes, ReadFailed> {
        let (replica, reader) = (self.clone(), reading.clone());
        let read = async move { replica.read_current(&reader, offset, size_max, for_whom).await };
        let read = match self.is_in_memory(offset) {
            true => read.await,
            false => reading.store.catch_up.run(read).await,
        };
        match read {
            Err(ReadFailed::NoTurn) => Ok(ReadBytes { is_short: true, ..ReadBytes::default() }),
            read => read,
        }
    }

    /// Whether a read from `offset` on needs no disk.
    pub fn is_in_memory(&self, offset: Offset) -> bool {
        let log = self.log.borrow();
        let Some((segment, _)) = log.locate(offset) else { return true };
        let position = self.reads.cursor(segment, offset).or_else(|| {
            (log.active().base_offset == segment).then(|| log.active_index().position_for(offset))
        });
        position.is_some_and(|position| self.tail().begin(segment).is_some_and(|begin| begin <= position))
    }

    async fn read_current(
        self: &Rc<Self>,
        reading: &Rc<Reading>,
        offset: Offset,
        size_max: usize,
        for_whom: Reader,
    ) -> Result<ReadBytes, ReadFailed> {
        loop {
            let generation = self.reads.generation();
            let read = self.read_once(reading, offset, size_max, for_whom).await;
            if generation == self.reads.generation() {
                return read;
            }
        }
    }

    async fn read_once(
        self: &Rc<Self>,
        reading: &Rc<Reading>,
        offset: Offset,
        size_max: usize,
        for_whom: Reader,
    ) -> Result<ReadBytes, ReadFailed> {
        let generation = self.reads.generation();
        let (segment, readable_end, below) = {
            let log = self.log.borrow();
            let below = match for_whom {
                Reader::Client(isolation) => log.readable_end(isolation),
                Reader::Follower { below } => below,
            };
            // Between high watermark and log end there is nothing to read yet (KIP-207).
            if offset >= below && offset <= log.log_end() {
                return Ok(ReadBytes::default());
            }
            let located = match for_whom {
                Reader::Client(_) => log.locate(offset),
                Reader::Follower { .. } => log.locate_appended(offset),
            };
            let (segment, readable_end) = located.ok_or(ReadFailed::OutOfRange)?;
            (segment, readable_end, below)
        };
        let mut hold = Hold::new(reading);
        // Before anything is read: an index may have to be built again, which takes memory too.
        let mut aborted = match for_whom {
            Reader::Client(Isolation::Committed) => {
                Some(self.search_aborted(&mut hold, segment, offset, below).await?)
            }
            Reader::Client(Isolation::Uncommitted) | Reader::Follower { .. } => None,
        };
        let mut named = |read: &mut CutRead| {
            if let Some(search) = aborted.take() {
                read.bytes.aborted = search.finish(read.end_offset);
            }
        };
        if generation != self.reads.generation() {
            return Ok(ReadBytes::default()); // The caller looks again.
        }
        let (mut start, exact) = self.start_position(&mut hold, segment, offset).await?;
        // The start of a segment and the active one need no index file. What a file says is checked, also where
        // it leads into memory.
        let mut is_believed = exact || start == 0 || self.with_active_index(segment, |_| ()).is_some();
        let wanted = Wanted { offset, size_max, below };
        if is_believed && let Some(read) = self.read_tail(segment, start..readable_end, wanted) {
            return read.map(|mut read| {
                named(&mut read);
                read.bytes
            });
        }
        let size_max = size_max.min(reading.store.catch_up.read_size_max());
        let wanted = Wanted { size_max, ..wanted };
        loop {
            if start >= readable_end {
                // Past what may be read of it: the index is not this segment's.
                if std::mem::replace(&mut is_believed, true) {
                    return Err(ReadFailed::NoBatch { segment, offset });
                }
                start = self.replace_index(&mut hold, segment).await?.position_for(offset);
                continue;
            }
            let stretch = self.verified(&mut hold, segment, start, size_max as u64, readable_end).await?;
            if generation != self.reads.generation() {
                return Ok(ReadBytes::default()); // The caller looks again.
            }
            if !std::mem::replace(&mut is_believed, true) && !stretch.leads_to(offset) {
                drop(stretch);
                start = self.replace_index(&mut hold, segment).await?.position_for(offset);
                continue;
            }
            let (from, end, damage) = (stretch.start, stretch.end, stretch.damage);
            match (self.cut((segment, from), stretch.slices, wanted), damage) {
                (Some(mut read), _) => {
                    named(&mut read);
                    let next = from + read.end as u64;
                    self.read_ahead(hold.store(), segment, next, readable_end.min(next + size_max as u64));
                    let is_short = next < readable_end && read.end_offset < below;
                    return Ok(ReadBytes { is_short, turn: hold.into_turn(), ..read.bytes });
                }
                (None, Some(damage)) => return Err(damage),
                (None, None) if end < readable_end => start = end,
                (None, None) => return Err(ReadFailed::NoBatch { segment, offset }),
            }
        }
    }

    /// The same from memory, from file position `range.start` on; `None` when it begins before that.
    fn read_tail(
        &self,
        segment: Offset,
        range: Range<u64>,
        wanted: Wanted,
    ) -> Option<Result<CutRead, ReadFailed>> {
        let Wanted { offset, size_max, .. } = wanted;
        let mut size = size_max as u64 + READ_SLACK;
        loop {
            let end = range.end.min(range.start + size);
            let slices = self.tail().slices(segment, range.start..end)?;
            let slices = slices.into_iter().map(Slice::Tail).collect();
            match self.cut((segment, range.start), slices, wanted) {
                Some(read) => return Some(Ok(read)),
                None if end == range.end => return Some(Err(ReadFailed::NoBatch { segment, offset })),
                None => size *= 2, // The batch is larger, or lies behind it.
            }
        }
    }

    /// Looks for the wanted offset in what was read from `place` on, and cuts it there and where the answer
    /// is full or readable no further.
    fn cut(&self, place: (Offset, u64), slices: Vec<Slice>, wanted: Wanted) -> Option<CutRead> {
        let Wanted { offset, size_max, below } = wanted;
        let pieces: Vec<&[u8]> = slices.iter().map(Slice::bytes).collect();
        let rope = Rope::new(&pieces);
        let first = rope.find_offset(offset)?;
        let Cut { end, batches, end_offset } = rope.cut(first.at, size_max.min(rope.size()), below)?;
        let (segment, start) = place;
        self.remember(Cursor { offset: end_offset, segment, file_position: start + end as u64 });
        let bytes = ReadBytes { batches, ..take_range(slices, first.at, end) };
        Some(CutRead { bytes, end, end_offset })
    }

    /// Where in its files the batch begins that holds `offset`, or the next one if a gap does, and its base offset.
    pub async fn place_of(
        self: &Rc<Self>,
        reading: &Rc<Reading>,
        offset: Offset,
    ) -> Result<(Place, Offset), ReadFailed> {
        let (segment, end) = self.log.borrow().locate_appended(offset).ok_or(ReadFailed::OutOfRange)?;
        let mut hold = Hold::new(reading);
        let (mut start, _) = self.start_position(&mut hold, segment, offset).await?;
        while start < end {
            let size = PLACE_READ_SIZE.min(end - start);
            let slices = self.slices(&mut hold, segment, start, start + size).await?;
            let pieces: Vec<&[u8]> = slices.iter().map(Slice::bytes).collect();
            let rope = Rope::new(&pieces);
            if let Some(found) = rope.find_offset(offset) {
                let file_position = start + found.at as u64;
                return Ok((Place { segment, file_position }, found.base_offset));
            }
            let last = rope.batches(0).last().ok_or(ReadFailed::NoBatch { segment, offset })?;
            start += (last.at + last.size) as u64;
        }
        Err(ReadFailed::NoBatch { segment, offset })
    }

    /// File position at or before the batch that holds `offset`, and whether it is that batch's.
    async fn start_position(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
        offset: Offset,
    ) -> Result<(u64, bool), ReadFailed> {
        if let Some(position) = self.reads.cursor(segment, offset) {
            return Ok((position, true));
        }
        if let Some(position) = self.with_active_index(segment, |index| index.position_for(offset)) {
            return Ok((position, false));
        }
        Ok((self.closed_index(hold, segment).await?.position_for(offset), false))
    }

    fn remember(&self, cursor: Cursor) {
        let mut cursors = self.reads.cursors.borrow_mut();
        if cursors.contains(&cursor) {
            return;
        }
        if cursors.len() >= READ_CURSORS_MAX {
            cursors.pop_front();
        }
        cursors.push_back(cursor);
    }

    /// Takes note of a read that failed: damage is counted every time, and told once.
    pub fn tell(&self, store: &Store, failed: &ReadFailed) {
        let directory = self.directory.display();
        match failed {
            ReadFailed::Damaged { segment, damage } => {
                store.metrics.borrow_mut().read_corruption += 1;
                store.replica_damaged(self.id);
                let place = Some((*segment, damage.file_position));
                self.reads.ahead.drop_arrived(); // Whoever tries again asks the disk again.
                if self.reads.told.replace(place) != place {
                    tracing::error!(%directory, %failed, "a read was refused: what is there was not written there");
                }
            }
            ReadFailed::OutOfRange | ReadFailed::NoTurn => {}
            ReadFailed::Disk { .. } | ReadFailed::NoBatch { .. } => {
                tracing::error!(%directory, %failed, "a read failed");
            }
        }
    }

    /// The bytes of a segment from file position `start` to `end`, as they are. What was read under the same hold
    /// before must be gone when they are more.
    pub async fn slices(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
        start: u64,
        end: u64,
    ) -> Result<Vec<Slice>, ReadFailed> {
        let in_tail = self.tail().slices(segment, start..end);
        if let Some(slices) = in_tail {
            return Ok(slices.into_iter().map(Slice::Tail).collect());
        }
        hold.reserve(start, end).await?;
        let store = hold.store().clone();
        let (disk_end, newest) = self.beside_tail(segment, start, end);
        let failed = |source| ReadFailed::Disk { segment, source };
        let file = self.reader(&store, segment).await.map_err(failed)?;
        let mut slices = Vec::new();
        let at = self.reads.ahead.take(segment, start, disk_end, &mut slices).await;
        if at < disk_end {
            let pieces = store.catch_up.read(&file, at, disk_end).await.map_err(failed)?;
            push_range(&pieces, align_down(at), at, disk_end, &mut slices);
        }
        slices.extend(newest);
        Ok(slices)
    }

    /// Up to where a range that begins before the tail is read from disk, and the rest of it. What the
    /// segment's file does not have yet is always in the tail.
    fn beside_tail(&self, segment: Offset, start: u64, end: u64) -> (u64, Vec<Slice>) {
        let tail = self.tail();
        let begin = tail.begin(segment).filter(|begin| (start..end).contains(begin));
        let newest = begin.and_then(|begin| Some((begin, tail.slices(segment, begin..end)?)));
        match newest {
            Some((begin, slices)) => (begin, slices.into_iter().map(Slice::Tail).collect()),
            None => (end, Vec::new()),
        }
    }
}

/// Who reads.
#[derive(Clone, Copy)]
enum Reader {
    Client(Isolation),
    /// Another replica.
    Follower {
        below: Offset,
    },
}

/// What is asked of a stretch of the log.
#[derive(Clone, Copy)]
struct Wanted {
    offset: Offset,
    size_max: usize,
    /// Batches from this offset on are not to be read yet.
    below: Offset,
}

/// What a read found.
struct CutRead {
    bytes: ReadBytes,
    /// Where in what was read the next batch begins.
    end: usize,
    /// Of the last batch; exclusive.
    end_offset: Offset,
}

impl Stretch {
    /// Whether what is looked for does not lie before it.
    fn leads_to(&self, offset: Offset) -> bool {
        let pieces: Vec<&[u8]> = self.slices.iter().map(Slice::bytes).collect();
        Rope::new(&pieces).leads_to(offset)
    }
}

/// Appends the bytes from `from` to `to` of consecutive pieces that start at `start`. Stops early
/// where the file did.
pub fn push_range(pieces: &[Rc<ReadResult>], start: u64, from: u64, to: u64, slices: &mut Vec<Slice>) {
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

/// The bytes from `from` to `to` of consecutive slices.
pub fn take_range(slices: Vec<Slice>, from: usize, to: usize) -> ReadBytes {
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
