//! The indexes of closed segments as readers need them: from their files, or built again from the
//! batches.

use crate::log::index::{SegmentExtent, SegmentIndex};
use crate::log::read::{BatchPlace, Rope};
use crate::log::segment::{SegmentFile, StoredBatch};
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::catch_up::Hold;
use crate::shard::disk::blocking;
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::step::Pace;
use crate::types::limits::IO_SIZE_MAX;
use crate::types::{Offset, Timestamp};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Closed segments whose index is kept in memory, per partition.
const INDEXES_MAX: usize = 4;

/// Lives: one per replica.
#[derive(Default)]
pub struct Indexes(RefCell<VecDeque<Rc<SegmentIndex>>>);

impl Indexes {
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }

    fn find(&self, segment: Offset) -> Option<Rc<SegmentIndex>> {
        self.0.borrow().iter().find(|index| index.base_offset() == segment).cloned()
    }

    pub fn keep(&self, index: Rc<SegmentIndex>) {
        let mut indexes = self.0.borrow_mut();
        indexes.retain(|known| known.base_offset() != index.base_offset());
        if indexes.len() >= INDEXES_MAX {
            indexes.pop_front();
        }
        indexes.push_back(index);
    }
}

impl Replica {
    /// File position from which the first batch with a timestamp at or past `timestamp` is found.
    pub async fn position_for_timestamp(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
        timestamp: Timestamp,
    ) -> Result<u64, ReadFailed> {
        let active = self.with_active_index(segment, |index| index.position_for_timestamp(timestamp));
        match active {
            Some(position) => Ok(position),
            None => Ok(self.closed_index(hold, segment).await?.position_for_timestamp(timestamp)),
        }
    }

    /// The index of a closed segment, read from its files, or built again from the segment when they
    /// are missing or wrong.
    pub async fn closed_index(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
    ) -> Result<Rc<SegmentIndex>, ReadFailed> {
        if let Some(index) = self.reads.indexes.find(segment) {
            return Ok(index);
        }
        let generation = self.reads.generation();
        let index = Rc::new(self.load_index(hold, segment).await?);
        if generation != self.reads.generation() {
            return Ok(index); // Maybe of a file that is gone: whoever asked looks again.
        }
        self.reads.indexes.keep(index.clone());
        Ok(index)
    }

    pub fn with_active_index<T>(&self, segment: Offset, with: impl FnOnce(&SegmentIndex) -> T) -> Option<T> {
        let log = self.log.borrow();
        (log.active().base_offset == segment).then(|| with(log.active_index()))
    }

    async fn load_index(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
    ) -> Result<SegmentIndex, ReadFailed> {
        let (extent, interval) = self.closed_extent(segment)?;
        if self.segments.unfinished_swap() == Some(segment) {
            // What has its name is of the segment before, until there is space for the swap's last steps.
            return self.rebuild_index(hold, &extent, interval).await;
        }
        let offset_path = self.segments.path(segment, SegmentFile::OffsetIndex);
        let time_path = self.segments.path(segment, SegmentFile::TimeIndex);
        let decoded = blocking(move || {
            #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
            let read = |path| std::fs::read(path).map_err(|error| error.to_string());
            let (offsets, times) = (read(offset_path)?, read(time_path)?);
            SegmentIndex::decode(&extent, interval, &offsets, &times).map_err(|error| error.to_string())
        });
        match decoded.await {
            Ok(index) => Ok(index),
            Err(reason) => {
                tracing::warn!(directory = %self.directory.display(), %segment, reason, "index is rebuilt");
                hold.store().recovered(RecoveryBranch::IndexRebuilt);
                self.rebuild_index(hold, &extent, interval).await
            }
        }
    }

    /// The index files of a closed segment hold what an index can hold, but not where its batches are:
    /// they are built again.
    pub async fn replace_index(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
    ) -> Result<Rc<SegmentIndex>, ReadFailed> {
        let directory = self.directory.display();
        tracing::warn!(%directory, %segment, "an index entry leads to no batch: the index is rebuilt");
        hold.store().recovered(RecoveryBranch::IndexRebuilt);
        let generation = self.reads.generation();
        let (extent, interval) = self.closed_extent(segment)?;
        let index = Rc::new(self.rebuild_index(hold, &extent, interval).await?);
        let turn = self.replacing.acquire_permit(1).await;
        let _turn = turn.map_err(|error| ReadFailed::Disk { segment, source: error.into() })?;
        if generation == self.reads.generation() && self.log.borrow().closed_extent(segment) == Some(extent) {
            self.reads.indexes.keep(index.clone());
            let written = self.write_index(&index).await;
            hold.store().derived_written(&self.directory, written, "no space for a rebuilt index");
        }
        Ok(index)
    }

    /// What the index of a closed segment is checked against, and `index.interval.bytes`.
    pub fn closed_extent(&self, segment: Offset) -> Result<(SegmentExtent, u32), ReadFailed> {
        let log = self.log.borrow();
        let extent = log.closed_extent(segment).ok_or(ReadFailed::OutOfRange)?;
        Ok((extent, log.config.index_interval_bytes))
    }

    /// Reads a closed segment through.
    pub async fn rebuild_index(
        self: &Rc<Self>,
        hold: &mut Hold,
        extent: &SegmentExtent,
        interval: u32,
    ) -> Result<SegmentIndex, ReadFailed> {
        let segment = extent.base_offset;
        let mut index = SegmentIndex::new(segment, interval);
        let mut pace = Pace::new(&hold.store().clock);
        let mut position = 0;
        while position < extent.size {
            let stretch = self.verified(hold, segment, position, IO_SIZE_MAX as u64, extent.size).await?;
            if let Some(damage) = stretch.damage {
                return Err(damage);
            }
            let pieces: Vec<&[u8]> = stretch.slices.iter().map(Slice::bytes).collect();
            for batch in Rope::new(&pieces).batches(0) {
                // It may be of a segment that has taken this one's place.
                if batch.end_offset > extent.end_offset {
                    return Err(ReadFailed::NoBatch { segment, offset: batch.base_offset });
                }
                index.observe(&stored(&batch, position));
            }
            position = stretch.end;
            pace.give_way().await;
        }
        Ok(index)
    }
}

/// A batch that was found in bytes from file position `position` on.
fn stored(batch: &BatchPlace, position: u64) -> StoredBatch {
    StoredBatch {
        base_offset: batch.base_offset,
        last_offset: Offset::new(batch.end_offset.get() - 1).unwrap_or_default(),
        max_timestamp: batch.max_timestamp,
        leader_epoch: Default::default(),
        file_position: position + batch.at as u64,
        size: batch.size as u32,
    }
}
