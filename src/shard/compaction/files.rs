//! Reading closed segments batch by batch, and writing compacted ones, with direct I/O of bounded
//! size and beside the buffers of consumers.

use crate::codec::record_batch::batch_size;
use crate::log::checksums::walk::DamageAt;
use crate::log::compaction::output::{CompactedSegment, OutputError};
use crate::log::compaction::swap::cleaned_name;
use crate::log::plan::{align_down, align_up};
use crate::log::segment::{SegmentFile, SegmentInfo};
use crate::log::transactions::index::TransactionIndex;
use crate::shard::catch_up::{Hold, Reading};
use crate::shard::disk::{Disk, DiskFile, allocate, replace_file};
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::side_thread::SideThread;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::shard::verified::check_extents;
use crate::types::limits::{COMPACTION_READ_SIZE, IO_SIZE_MAX};
use crate::types::{Offset, Timestamp, TopicPartition};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

/// Why the next batches of a segment cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadSegmentFailed {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error("{0}")]
    Damaged(DamageAt),
    #[error(transparent)]
    Checksums(#[from] ReadFailed),
}

/// Lives: for one walk over one closed segment.
pub struct SegmentReader {
    store: Rc<Store>,
    replica: Rc<Replica>,
    segment: Offset,
    file: Rc<DiskFile>,
    size: u64,
    position: u64,
}

impl SegmentReader {
    /// From a batch at or before `position` on.
    pub fn new(
        store: &Rc<Store>,
        replica: &Rc<Replica>,
        info: &SegmentInfo,
        file: Rc<DiskFile>,
        position: u64,
    ) -> SegmentReader {
        SegmentReader {
            store: store.clone(),
            replica: replica.clone(),
            segment: info.base_offset,
            file,
            size: info.size,
            position,
        }
    }

    /// The next whole batches, as they were written: their bytes, and where each lies in them. `None` at
    /// the end.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<Range<usize>>)>, ReadSegmentFailed> {
        if self.position == self.size {
            return Ok(None);
        }
        let mut hold = Hold::new(&Reading::own(&self.store));
        let size_max = COMPACTION_READ_SIZE as u64;
        let extents = self.replica.extents(&mut hold, self.segment, self.position, size_max).await?;
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else { return Ok(None) };
        let bytes = self.read(first.start, last.end).await?;
        let segment = self.replica.segment_id(self.segment);
        let mut pace = Pace::new(&self.store.clock);
        let pieces = std::iter::once(&bytes[..]);
        if let (_, Some(damage)) = check_extents(&segment, &extents, pieces, &mut pace).await {
            return Err(ReadSegmentFailed::Damaged(damage));
        }
        self.position = last.end;
        let batches = whole_batches(&bytes);
        Ok(Some((bytes, batches)))
    }

    async fn read(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity((end - start) as usize);
        let mut at = align_down(start);
        while at < end {
            let size = (align_up(end) - at).min(IO_SIZE_MAX as u64) as usize;
            let piece = self.file.read(at, size).await?;
            let skipped = start.saturating_sub(at) as usize;
            let until = size.min((end - at) as usize);
            bytes.extend_from_slice(piece.get(skipped..until).ok_or(io::ErrorKind::UnexpectedEof)?);
            at += until as u64;
        }
        Ok(bytes)
    }
}

fn whole_batches(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let mut at = 0;
    while let Ok(size) = batch_size(&bytes[at..])
        && at + size <= bytes.len()
    {
        batches.push(at..at + size);
        at += size;
    }
    batches
}

/// Lives: while a group of segments is compacted.
/// Shape: holds at most one write of [`IO_SIZE_MAX`] and a batch.
pub struct SegmentWriter {
    directory: PathBuf,
    file: Rc<DiskFile>,
    segment: CompactedSegment,
    /// What was pushed and not written, from `position` on.
    pending: Vec<u8>,
    position: u64,
}

impl SegmentWriter {
    /// Creates the file under its `.cleaned` name; what an earlier pass left there goes.
    pub async fn create(
        disk: &Disk,
        directory: &Path,
        partition: TopicPartition,
        first: &SegmentInfo,
        index_interval_bytes: u32,
    ) -> io::Result<SegmentWriter> {
        let path = directory.join(cleaned_name(SegmentFile::Log, first.base_offset));
        let file = disk.create(&path).await?;
        file.truncate(0).await?;
        Ok(SegmentWriter {
            directory: directory.to_owned(),
            file,
            segment: CompactedSegment::new(partition, first, index_interval_bytes),
            pending: Vec::new(),
            position: 0,
        })
    }

    /// Appends one batch, or nothing.
    pub fn push(&mut self, batch: &[u8], modified_at: Timestamp) -> Result<(), OutputError> {
        if !batch.is_empty() {
            self.segment.push(batch, modified_at)?;
            self.pending.extend_from_slice(batch);
        }
        Ok(())
    }

    /// Writes what has gathered, in whole pieces. Returns how many bytes.
    pub async fn write_full(&mut self) -> io::Result<u64> {
        let mut written = 0;
        while self.pending.len() - written >= IO_SIZE_MAX {
            let piece = &self.pending[written..written + IO_SIZE_MAX];
            write(&self.file, piece, self.position + written as u64).await?;
            written += IO_SIZE_MAX;
        }
        self.pending.drain(..written);
        self.position += written as u64;
        Ok(written as u64)
    }

    /// Writes the rest, cuts the file to its length, and flushes it, its indexes and its checksums.
    pub async fn finish(
        mut self,
        side_thread: &SideThread,
        transactions: TransactionIndex,
        modified_at: Timestamp,
    ) -> io::Result<(CompactedSegment, Rc<DiskFile>)> {
        self.write_full().await?;
        if !self.pending.is_empty() {
            write(&self.file, &self.pending, self.position).await?;
        }
        self.file.truncate(self.segment.info().size).await?;
        self.file.flush().await?;
        let (directory, mut segment) = (self.directory, self.segment);
        segment.list_transactions(transactions);
        let modified = UNIX_EPOCH + Duration::from_millis(modified_at.0.max(0) as u64);
        let write = move || {
            let path = |file| directory.join(cleaned_name(file, segment.info().base_offset));
            replace_file(&path(SegmentFile::OffsetIndex), &segment.index().encode_offset_index())?;
            replace_file(&path(SegmentFile::TimeIndex), &segment.index().encode_time_index())?;
            replace_file(&path(SegmentFile::Checksums), &segment.checksums().encode())?;
            if let Some(transactions) = segment.encode_transactions() {
                replace_file(&path(SegmentFile::TransactionIndex), &transactions)?;
            }
            // The age of records without timestamps.
            let file = std::fs::File::options().write(true).open(path(SegmentFile::Log))?;
            file.set_modified(modified).map(|()| segment)
        };
        Ok((side_thread.run(write).await?, self.file))
    }
}

/// Writes a piece, filled up with zeros to a whole number of blocks.
async fn write(file: &DiskFile, bytes: &[u8], position: u64) -> io::Result<()> {
    let size = align_up(bytes.len() as u64) as usize;
    let (mut buffer, _) = allocate(size);
    buffer.as_bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    buffer.as_bytes_mut()[bytes.len()..size].fill(0);
    file.write(Rc::new(buffer), position).await
}
