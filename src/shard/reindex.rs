//! Closed segments whose index files were missing or wrong: their batches are looked
//! through before anything is decided by timestamps, and the files are written anew.
//!
//! Until then the largest timestamp of such a segment is not known: a look-up would pass it by, and
//! retention would take the file's modification time for its age. It is not done at the start
//! itself, which does not wait for reading closed segments.
//!
//! A time index has no checksum, and one flipped bit makes a segment decades old. So a closed segment that retention is
//! to delete for the age of its batches is held against two of them first.

use crate::log::index::SegmentExtent;
use crate::log::read::{BatchPlace, Rope};
use crate::log::retention::{RetentionPlan, RetentionReason, plan_for};
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::catch_up::{Hold, Reading};
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::types::{Offset, Timestamp};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

/// Bytes that are read at once of a segment whose index leads to the batch that is looked for.
const READ_SIZE_MAX: u64 = 64 << 10;

impl Replica {
    /// Makes the timestamps of all closed segments known. Costs nothing when they are; else one
    /// pass over each segment that was not indexed, a piece at a time.
    pub async fn index_timestamps(self: &Rc<Self>, store: &Rc<Store>) -> Result<(), ReadFailed> {
        if self.log.borrow().first_unindexed().is_none() {
            return Ok(());
        }
        let turn = self.reindexing.acquire_permit(1).await;
        let _turn = turn.map_err(|error| disk(Offset::ZERO, error.into()))?;
        loop {
            let Some(segment) = self.log.borrow().first_unindexed() else { return Ok(()) };
            self.reindex(store, segment).await?;
        }
    }

    /// What retention may do now. A file's largest timestamp that its segment does not confirm is replaced by the
    /// segment's own, once for each. Of one that cannot be read the file is believed.
    pub async fn retention_plan(self: &Rc<Self>, store: &Rc<Store>, now: Timestamp) -> RetentionPlan {
        let mut asked = BTreeSet::new();
        loop {
            let plan = plan_for(&self.log.borrow(), now);
            let active = self.log.borrow().active().base_offset;
            let by_age = plan.delete.iter().filter(|(_, reason)| *reason == RetentionReason::Age);
            let closed = by_age.map(|(segment, _)| *segment).filter(|segment| *segment != active);
            let unsure: Vec<Offset> = closed.filter(|segment| asked.insert(*segment)).collect();
            if unsure.is_empty() {
                return plan; // Nothing has happened since.
            }
            for segment in unsure {
                if self.is_deleted() || store.is_offline() || store.is_closed() {
                    return plan; // It is not carried out.
                }
                if matches!(self.is_of_its_age(store, segment).await, Ok(false)) {
                    self.log.borrow_mut().doubt_timestamp(segment);
                }
            }
            self.index_all(store).await;
        }
    }

    /// The timestamps of all closed segments, as far as they can be read.
    pub async fn index_all(self: &Rc<Self>, store: &Rc<Store>) {
        if let Err(error) = self.index_timestamps(store).await {
            tracing::warn!(%error, "a segment's age is its file's: it cannot be read through");
        }
    }

    /// Whether the first batch that is as young as a closed segment is said to be is just so young, and the
    /// last one not younger.
    async fn is_of_its_age(self: &Rc<Self>, store: &Rc<Store>, segment: Offset) -> Result<bool, ReadFailed> {
        let (extent, _) = self.closed_extent(segment)?;
        let found = self.log.borrow().closed().iter().find(|closed| closed.base_offset == segment).copied();
        let Some(max) = found.map(|closed| closed.max_timestamp).filter(|max| max.0 >= 0) else {
            return Ok(true); // It goes by the time of its file.
        };
        let mut hold = Hold::new(&Reading::own(store));
        let index = self.closed_index(&mut hold, segment).await?;
        let start = index.position_for_timestamp(max);
        let youngest = self.find_batch(&mut hold, &extent, start, |batch| batch.max_timestamp >= max).await?;
        if youngest.is_none_or(|found| found != max) {
            return Ok(false);
        }
        let last = Offset::new(extent.end_offset.get().saturating_sub(1)).unwrap_or(segment);
        let start = index.position_for(last);
        let younger = self.find_batch(&mut hold, &extent, start, |batch| batch.max_timestamp > max).await?;
        Ok(younger.is_none())
    }

    /// The largest timestamp of the first such batch from file position `position` on.
    async fn find_batch(
        self: &Rc<Self>,
        hold: &mut Hold,
        extent: &SegmentExtent,
        mut position: u64,
        is_wanted: impl Fn(&BatchPlace) -> bool,
    ) -> Result<Option<Timestamp>, ReadFailed> {
        let mut pace = Pace::new(&hold.store().clock);
        while position < extent.size {
            let stretch =
                self.verified(hold, extent.base_offset, position, READ_SIZE_MAX, extent.size).await?;
            let pieces: Vec<&[u8]> = stretch.slices.iter().map(Slice::bytes).collect();
            if let Some(found) = Rope::new(&pieces).batches(0).find(&is_wanted) {
                return Ok(Some(found.max_timestamp));
            }
            if let Some(damage) = stretch.damage {
                return Err(damage);
            }
            position = stretch.end;
            pace.give_way().await;
        }
        Ok(None)
    }

    async fn reindex(self: &Rc<Self>, store: &Rc<Store>, segment: Offset) -> Result<(), ReadFailed> {
        tracing::warn!(
            directory = %self.directory.display(), %segment,
            "the index files of a segment were missing or wrong: they are built again from its batches"
        );
        store.recovered(RecoveryBranch::IndexRebuilt);
        let (extent, interval) = self.closed_extent(segment)?;
        let generation = self.reads.generation();
        let rebuilt = self.rebuild_index(&mut Hold::new(&Reading::own(store)), &extent, interval).await;
        let turn = self.replacing.acquire_permit(1).await;
        let _turn = turn.map_err(|error| disk(segment, error.into()))?;
        if self.log.borrow().closed_extent(segment) != Some(extent) {
            return Ok(()); // Deleted or compacted meanwhile.
        }
        let index = rebuilt?;
        let max = index.max_timestamp().map_or(Timestamp::NONE, |max| max.timestamp);
        self.log.borrow_mut().indexed(segment, max);
        let index = Rc::new(index);
        if generation == self.reads.generation() {
            self.reads.indexes.keep(index.clone()); // Also where another one was.
        }
        let written = self.write_index(&index).await;
        let left_out = "no space for rebuilt index files; the next start builds them again";
        store.derived_written(&self.directory, written, left_out);
        Ok(())
    }
}

fn disk(segment: Offset, source: io::Error) -> ReadFailed {
    ReadFailed::Disk { segment, source }
}
