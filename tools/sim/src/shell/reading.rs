//! Reads: from memory when it holds the bytes, else from disk; and indexes built again.

use crate::disk::DiskError;
use crate::settings::Mistake;
use crate::shell::Shell;
use crate::shell::replica::Replica;
use odradek::codec::record_batch::BatchView;
use odradek::log::checksums::check::ExtentCheck;
use odradek::log::checksums::rebuild::{ChecksumRebuild, Rebuilt};
use odradek::log::checksums::{Extent, HasTransactions, SegmentChecksums, SegmentId};
use odradek::log::index::{SegmentExtent, SegmentIndex};
use odradek::log::partition::Place;
use odradek::log::producers::Producers;
use odradek::log::read::Rope;
use odradek::log::recovery::{OffsetGaps, Progress, RecoveryScan, ScanOptions, Tail};
use odradek::log::segment::{SegmentFile, StoredBatch};
use odradek::log::transactions::index::{TransactionIndex, TransactionIndexRebuild};
use odradek::log::transactions::{AbortedSearch, AbortedTransaction};
use odradek::types::{Offset, Timestamp};
use std::ops::Range;
use std::rc::Rc;

/// Bytes of one read.
const READ_SIZE: u64 = 16 << 10;

/// Bytes of the largest batch that a scan accepts.
pub const BATCH_SIZE_MAX: usize = i32::MAX as usize;

/// Why a read cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailed {
    OutOfRange,
    Disk(DiskError),
    Damaged { segment: Offset },
}

/// What a reader of committed records gets.
pub struct Committed {
    pub bytes: Vec<u8>,
    pub aborted: Vec<AbortedTransaction>,
    /// The last stable offset.
    pub stable: Offset,
}

/// Batches that are what was written.
struct Stretch {
    bytes: Vec<u8>,
    end: u64,
    /// It ends where they are not.
    is_damaged: bool,
}

impl Replica {
    /// Whole batches from the one that holds `offset`; empty at the high watermark.
    pub async fn read(&self, shell: &Shell, offset: Offset) -> Result<Vec<u8>, ReadFailed> {
        loop {
            let generation = self.generation.get();
            let read = self.read_once(shell, offset).await;
            if generation == self.generation.get() || self.is_deleted() {
                return read;
            }
        }
    }

    async fn read_once(&self, shell: &Shell, offset: Offset) -> Result<Vec<u8>, ReadFailed> {
        let (segment, end) = {
            let log = self.log.borrow();
            if log.high_watermark() <= offset && offset <= log.log_end() {
                return Ok(Vec::new());
            }
            log.locate(offset).ok_or(ReadFailed::OutOfRange)?
        };
        let mut start = self.start_position(shell, segment, offset).await?;
        let mut is_believed = start == 0 || self.log.borrow().active().base_offset == segment;
        if is_believed
            && start < end
            && let Some(read) = self.read_tail(shell, segment, start..end, offset)
        {
            return read;
        }
        loop {
            if start >= end {
                if std::mem::replace(&mut is_believed, true) {
                    return Err(ReadFailed::Damaged { segment });
                }
                start = self.replace_index(shell, segment).await?.position_for(offset);
                continue;
            }
            let stretch = self.verified(shell, segment, start, READ_SIZE, end).await?;
            let pieces = [&stretch.bytes[..]];
            let rope = Rope::new(&pieces);
            if !std::mem::replace(&mut is_believed, true) && !rope.leads_to(offset) {
                start = self.replace_index(shell, segment).await?.position_for(offset);
                continue;
            }
            if let Some(found) = rope.find_offset(offset)
                && let Some(cut) = rope.cut(found.at, READ_SIZE as usize, Offset::MAX)
            {
                return Ok(stretch.bytes[found.at..cut.end].to_vec());
            }
            if stretch.is_damaged || stretch.end >= end {
                return Err(ReadFailed::Damaged { segment });
            }
            start = stretch.end;
        }
    }

    /// The same from memory; `None` when it begins before that.
    fn read_tail(
        &self,
        shell: &Shell,
        segment: Offset,
        range: Range<u64>,
        offset: Offset,
    ) -> Option<Result<Vec<u8>, ReadFailed>> {
        let bytes = self.tail.borrow().slice(segment, range)?.to_vec();
        shell.world.count("read: from memory");
        let pieces = [&bytes[..]];
        let rope = Rope::new(&pieces);
        let found = rope
            .find_offset(offset)
            .map(|found| (found.at, rope.cut(found.at, READ_SIZE as usize, Offset::MAX)));
        Some(match found {
            Some((at, Some(cut))) => Ok(bytes[at..cut.end].to_vec()),
            _ => Err(ReadFailed::Damaged { segment }),
        })
    }

    /// Whole extents from the one at `position` on, as far as they are what was written.
    async fn verified(
        &self,
        shell: &Shell,
        segment: Offset,
        position: u64,
        size_max: u64,
        readable_end: u64,
    ) -> Result<Stretch, ReadFailed> {
        let mut extents = self.extents(shell, segment, position, size_max).await?;
        extents.retain(|extent| extent.start < readable_end);
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else {
            return Err(ReadFailed::Damaged { segment });
        };
        let (start, mut end) = (first.start, last.end);
        let mut bytes = self.bytes(shell, segment, start, end).await?;
        let mut is_damaged = false;
        for extent in extents {
            let range = (extent.start - start) as usize..(extent.end - start) as usize;
            let mut check = ExtentCheck::new(&self.segment_id(segment), extent);
            let checked = bytes.get(range).ok_or(()).and_then(|bytes| {
                let fed = check.feed(bytes).and_then(|()| check.finish());
                fed.map_err(|damage| shell.world.note(format_args!("{} {segment}: {damage}", self.name)))
            });
            if checked.is_err() && !shell.settings.makes(Mistake::ChecksumsUnchecked) {
                if extent.start == start {
                    return Err(ReadFailed::Damaged { segment });
                }
                (end, is_damaged) = (extent.start, true);
                break;
            }
        }
        bytes.truncate((end.min(readable_end) - start) as usize);
        Ok(Stretch { bytes, end, is_damaged })
    }

    /// Whether the bytes of a whole segment are what was written.
    pub async fn is_as_written(
        &self,
        shell: &Shell,
        segment: Offset,
        bytes: &[u8],
    ) -> Result<bool, ReadFailed> {
        let extents = self.extents(shell, segment, 0, u64::MAX).await?;
        let is_checked = !shell.settings.makes(Mistake::ChecksumsUnchecked);
        Ok(extents.into_iter().filter(|_| is_checked).all(|extent| {
            let range = extent.start as usize..extent.end as usize;
            let mut check = ExtentCheck::new(&self.segment_id(segment), extent);
            bytes.get(range).is_some_and(|bytes| check.feed(bytes).is_ok() && check.finish().is_ok())
        }))
    }

    pub fn segment_id(&self, base_offset: Offset) -> SegmentId {
        SegmentId { partition: self.id, base_offset }
    }

    async fn extents(
        &self,
        shell: &Shell,
        segment: Offset,
        position: u64,
        size_max: u64,
    ) -> Result<Vec<Extent>, ReadFailed> {
        let active = {
            let log = self.log.borrow();
            let is_active = log.active().base_offset == segment;
            is_active.then(|| log.active_checksums().extents(position, size_max))
        };
        if let Some(extents) = active {
            return Ok(extents);
        }
        Ok(self.closed_checksums(shell, segment).await?.extents(position, size_max))
    }

    async fn closed_checksums(&self, shell: &Shell, segment: Offset) -> Result<SegmentChecksums, ReadFailed> {
        let extent = self.log.borrow().closed_extent(segment).ok_or(ReadFailed::OutOfRange)?;
        let unwritten = self.unwritten.borrow().get(&segment).cloned();
        if let Some(checksums) = unwritten {
            return Ok(checksums);
        }
        let id = self.segment_id(segment);
        let file = shell.disk.read_file(&self.path(segment, SegmentFile::Checksums)).await;
        let checksums = match file.ok().and_then(|file| SegmentChecksums::decode(id, extent.size, &file).ok())
        {
            Some(checksums) => checksums,
            None => self.rebuild_checksums(shell, &extent).await?,
        };
        Ok(checksums)
    }

    /// The same for a reader of committed records: batches below the last stable offset, with the aborted
    /// transactions among them, and that offset.
    pub async fn read_committed(&self, shell: &Shell, offset: Offset) -> Result<Committed, ReadFailed> {
        loop {
            let generation = self.generation.get();
            let read = self.read_committed_once(shell, offset).await;
            if generation == self.generation.get() || self.is_deleted() {
                return read;
            }
        }
    }

    async fn read_committed_once(&self, shell: &Shell, offset: Offset) -> Result<Committed, ReadFailed> {
        let (stable, located) = {
            let log = self.log.borrow();
            (log.last_stable_offset(), log.locate(offset))
        };
        if offset >= stable && offset <= self.log.borrow().log_end() {
            return Ok(Committed { bytes: Vec::new(), aborted: Vec::new(), stable });
        }
        let (segment, _) = located.ok_or(ReadFailed::OutOfRange)?;
        let search = self.search_aborted(shell, segment, offset, stable).await?;
        let mut bytes = self.read_once(shell, offset).await?;
        let pieces = [&bytes[..]];
        let cut = Rope::new(&pieces).cut(0, usize::MAX, stable);
        let (size, end) = cut.map_or((0, offset), |cut| (cut.end, cut.end_offset));
        bytes.truncate(size);
        Ok(Committed { bytes, aborted: search.finish(end), stable })
    }

    pub async fn search_aborted(
        &self,
        shell: &Shell,
        segment: Offset,
        offset: Offset,
        stable: Offset,
    ) -> Result<AbortedSearch, ReadFailed> {
        let end =
            self.log.borrow().closed_extent(segment).map_or(stable, |extent| extent.end_offset.min(stable));
        let mut search = AbortedSearch::new(offset, end);
        let mut next = segment;
        loop {
            {
                let log = self.log.borrow();
                if log.active().base_offset == next {
                    search.take_listed(log.active_aborted());
                    return Ok(search);
                }
            }
            match self.closed_transactions(shell, next).await? {
                None if next == segment => return Ok(search),
                None => {}
                Some(index) => {
                    if !search.take(&index) {
                        return Ok(search);
                    }
                    shell.world.count("read: aborted transactions of a later segment");
                }
            }
            next = self.log.borrow().closed_extent(next).ok_or(ReadFailed::OutOfRange)?.end_offset;
        }
    }

    /// The transaction index of a closed segment, from its file or built again; `None` when none of its batches is
    /// part of one.
    pub async fn closed_transactions(
        &self,
        shell: &Shell,
        segment: Offset,
    ) -> Result<Option<TransactionIndex>, ReadFailed> {
        if let Some(index) = self.unwritten_transactions.borrow().get(&segment) {
            return Ok(Some(index.clone()));
        }
        let known = self.log.borrow().closed_has_transactions(segment).ok_or(ReadFailed::OutOfRange)?;
        let found = match known {
            HasTransactions::Unknown => {
                let generation = self.generation.get();
                let found = self.closed_checksums(shell, segment).await?.has_transactions();
                if generation == self.generation.get() {
                    self.log.borrow_mut().note_transactions(segment, found);
                }
                found
            }
            known => known,
        };
        if found == HasTransactions::No {
            return Ok(None);
        }
        let extent = self.log.borrow().closed_extent(segment).ok_or(ReadFailed::OutOfRange)?;
        let file = shell.disk.read_file(&self.path(segment, SegmentFile::TransactionIndex)).await;
        let id = self.segment_id(segment);
        if let Some(Ok(index)) = file.ok().map(|file| TransactionIndex::decode(&id, extent.size, &file)) {
            return Ok(Some(index));
        }
        if shell.settings.makes(Mistake::AbortedForgotten) {
            return Ok(Some(TransactionIndex::default()));
        }
        let index = self.rebuild_transactions(shell, segment).await?;
        let _turn = self.replacing.take().await;
        if self.log.borrow().closed_extent(segment) == Some(extent) {
            let path = self.path(segment, SegmentFile::TransactionIndex);
            let _helper = shell.helper.take().await;
            let _ = shell.disk.replace_file(&path, &index.encode(&id, extent.size)).await;
        }
        Ok(Some(index))
    }

    async fn rebuild_transactions(
        &self,
        shell: &Shell,
        segment: Offset,
    ) -> Result<TransactionIndex, ReadFailed> {
        shell.world.count("recovery: transaction index rebuilt");
        let bases: Vec<Offset> = {
            let log = self.log.borrow();
            log.closed().iter().map(|closed| closed.base_offset).filter(|base| *base <= segment).collect()
        };
        let (mut producers, mut from) = (Producers::new(), 0);
        for (at, base) in bases.iter().enumerate().rev() {
            let file = shell.disk.read_file(&self.path(*base, SegmentFile::ProducerSnapshot)).await;
            let found = file.ok().and_then(|bytes| Producers::decode_snapshot(&bytes, Timestamp::NONE).ok());
            if let Some(found) = found {
                (producers, from) = (found, at);
                break;
            }
        }
        let mut rebuild = TransactionIndexRebuild::new(segment, producers);
        for base in &bases[from..] {
            let extent = self.log.borrow().closed_extent(*base).ok_or(ReadFailed::OutOfRange)?;
            let mut position = 0;
            while position < extent.size {
                let stretch = self.verified(shell, *base, position, READ_SIZE, extent.size).await?;
                if stretch.is_damaged {
                    return Err(ReadFailed::Damaged { segment: *base });
                }
                let mut rest = &stretch.bytes[..];
                while let Ok((batch, after)) = BatchView::split_first(rest) {
                    rebuild.take(&batch, &StoredBatch::new(&batch, 0));
                    rest = after;
                }
                position = stretch.end;
            }
        }
        Ok(rebuild.finish())
    }

    /// Kept only where all of the segment can be believed.
    async fn rebuild_checksums(
        &self,
        shell: &Shell,
        extent: &SegmentExtent,
    ) -> Result<SegmentChecksums, ReadFailed> {
        shell.world.count("recovery: checksums rebuilt");
        let segment = extent.base_offset;
        let bytes = self.bytes(shell, segment, 0, extent.size).await?;
        let (epochs, epoch_max) = {
            let log = self.log.borrow();
            (log.epochs().clone(), log.leader_epoch())
        };
        let mut rebuild = ChecksumRebuild::new(self.segment_id(segment), *extent, epochs, epoch_max);
        rebuild.feed(&bytes);
        let Rebuilt { checksums, damage } = rebuild.finish();
        if let Some(damage) = damage {
            shell.world.note(format_args!("{} {segment} of {}: {damage}", self.name, extent.size));
        }
        let _turn = self.replacing.take().await;
        if damage.is_none() && self.log.borrow().closed_extent(segment) == Some(*extent) {
            let path = self.path(segment, SegmentFile::Checksums);
            let _helper = shell.helper.take().await;
            let _ = shell.disk.replace_file(&path, &checksums.encode()).await;
        }
        Ok(checksums)
    }

    async fn start_position(
        &self,
        shell: &Shell,
        segment: Offset,
        offset: Offset,
    ) -> Result<u64, ReadFailed> {
        let active = {
            let log = self.log.borrow();
            (log.active().base_offset == segment).then(|| log.active_index().position_for(offset))
        };
        match active {
            Some(position) => Ok(position),
            None => Ok(self.closed_index(shell, segment).await?.position_for(offset)),
        }
    }

    /// The index of a closed segment, from its files or built again.
    async fn closed_index(&self, shell: &Shell, segment: Offset) -> Result<SegmentIndex, ReadFailed> {
        let (extent, interval) = {
            let log = self.log.borrow();
            let extent = log.closed_extent(segment).ok_or(ReadFailed::OutOfRange)?;
            (extent, log.config.index_interval_bytes)
        };
        let offsets = shell.disk.read_file(&self.path(segment, SegmentFile::OffsetIndex)).await;
        let times = shell.disk.read_file(&self.path(segment, SegmentFile::TimeIndex)).await;
        if let (Ok(offsets), Ok(times)) = (offsets, times)
            && let Ok(index) = SegmentIndex::decode(&extent, interval, &offsets, &times)
        {
            return Ok(index);
        }
        self.rebuild_index(shell, &extent, interval).await
    }

    /// The index files hold what an index can hold, but not where the batches are.
    async fn replace_index(&self, shell: &Shell, segment: Offset) -> Result<SegmentIndex, ReadFailed> {
        shell.world.count("recovery: index entry led nowhere");
        let (extent, interval) = {
            let log = self.log.borrow();
            let extent = log.closed_extent(segment).ok_or(ReadFailed::OutOfRange)?;
            (extent, log.config.index_interval_bytes)
        };
        let index = self.rebuild_index(shell, &extent, interval).await?;
        let _turn = self.replacing.take().await;
        if self.log.borrow().closed_extent(segment) == Some(extent) {
            let _ = self.write_index(shell, &index).await;
        }
        Ok(index)
    }

    pub async fn rebuild_index(
        &self,
        shell: &Shell,
        extent: &SegmentExtent,
        interval: u32,
    ) -> Result<SegmentIndex, ReadFailed> {
        shell.world.count("recovery: index rebuilt");
        let segment = extent.base_offset;
        let mut index = SegmentIndex::new(segment, interval);
        let mut scan = RecoveryScan::new(closed_scan(segment));
        let mut position = 0;
        while position < extent.size {
            let stretch = self.verified(shell, segment, position, READ_SIZE, extent.size).await?;
            if stretch.is_damaged {
                return Err(ReadFailed::Damaged { segment });
            }
            scan.feed(&stretch.bytes, &mut |_: &BatchView<'_>, stored: &StoredBatch| index.observe(stored));
            position = stretch.end;
        }
        match scan.finish() {
            found if found.file_position_end == extent.size && found.tail == Tail::Clean => Ok(index),
            _ => Err(ReadFailed::Damaged { segment }),
        }
    }

    /// Where the batch that holds `offset` lies, and where it begins: of those that were appended.
    pub async fn place_of(&self, shell: &Shell, offset: Offset) -> Result<(Place, Offset), ReadFailed> {
        let (segment, end) = self.log.borrow().locate_appended(offset).ok_or(ReadFailed::OutOfRange)?;
        let mut start = self.start_position(shell, segment, offset).await?;
        while start < end {
            let bytes = self.bytes(shell, segment, start, end.min(start + READ_SIZE)).await?;
            let pieces = [&bytes[..]];
            let rope = Rope::new(&pieces);
            if let Some(found) = rope.find_offset(offset) {
                let file_position = start + found.at as u64;
                return Ok((Place { segment, file_position }, found.base_offset));
            }
            let last = rope.batches(0).last().ok_or(ReadFailed::Damaged { segment })?;
            start += (last.at + last.size) as u64;
        }
        Err(ReadFailed::Damaged { segment })
    }

    /// Makes the timestamps of closed segments known whose index files were missing or wrong.
    pub async fn index_timestamps(self: &Rc<Self>, shell: &Shell) -> Result<(), ReadFailed> {
        loop {
            let Some(segment) = self.log.borrow().first_unindexed() else { return Ok(()) };
            let (extent, interval) = {
                let log = self.log.borrow();
                let extent = log.closed_extent(segment).ok_or(ReadFailed::OutOfRange)?;
                (extent, log.config.index_interval_bytes)
            };
            let rebuilt = self.rebuild_index(shell, &extent, interval).await;
            let _turn = self.replacing.take().await;
            if self.log.borrow().closed_extent(segment) != Some(extent) {
                continue;
            }
            let index = rebuilt?;
            let max = index.max_timestamp().map_or(Timestamp::NONE, |max| max.timestamp);
            self.log.borrow_mut().indexed(segment, max);
            let _ = self.write_index(shell, &index).await;
        }
    }

    /// Bytes of a segment, from memory or disk, as they are.
    async fn bytes(
        &self,
        shell: &Shell,
        segment: Offset,
        start: u64,
        end: u64,
    ) -> Result<Vec<u8>, ReadFailed> {
        let in_memory = self.tail.borrow().slice(segment, start..end).map(<[u8]>::to_vec);
        if let Some(bytes) = in_memory {
            shell.world.count("read: from memory");
            return Ok(bytes);
        }
        shell.world.count("read: from disk");
        // What the segment's file does not have yet is always in memory; taken before the first wait.
        let begin = self.tail.borrow().begin(segment).filter(|begin| (start..end).contains(begin));
        let disk_end = begin.unwrap_or(end);
        let newest = self.tail.borrow().slice(segment, disk_end..end).map(<[u8]>::to_vec);
        let swapped = self.swapped.borrow().clone().filter(|(base, _)| *base == segment);
        let open = swapped.map(|(_, file)| file).or_else(|| self.written_file(segment));
        let file = match open {
            Some(file) => file,
            None if self.is_deleted() => return Err(ReadFailed::OutOfRange),
            None => {
                let path = self.path(segment, SegmentFile::Log);
                shell.disk.open(&path, false).await.map_err(ReadFailed::Disk)?
            }
        };
        let mut bytes = file.read(start, (disk_end - start) as usize).await.map_err(ReadFailed::Disk)?;
        if bytes.len() as u64 != disk_end - start {
            shell.world.note(format_args!(
                "{}: {} bytes in {start}..{disk_end} of {segment}",
                self.name,
                bytes.len()
            ));
            return Err(ReadFailed::Damaged { segment });
        }
        bytes.extend(newest.into_iter().flatten());
        Ok(bytes)
    }
}

/// How a segment is looked through that takes no more appends.
pub fn closed_scan(segment: Offset) -> ScanOptions {
    ScanOptions {
        segment_base: segment,
        recovery_point: None,
        gaps: OffsetGaps::Allowed,
        leader_epoch_min: None,
        leader_epoch_max: None,
        batch_size_max: BATCH_SIZE_MAX,
    }
}

/// Feeds a whole file to a scan in pieces, as it is read.
pub fn feed_in_pieces(
    scan: &mut RecoveryScan,
    bytes: &[u8],
    piece: usize,
    on_batch: &mut impl FnMut(&BatchView<'_>, &StoredBatch),
) {
    for piece in bytes.chunks(piece) {
        if scan.feed(piece, on_batch) != Progress::Batches {
            return;
        }
    }
}
