//! Closed segments whose index files were missing or wrong at a start: their batches are looked
//! through before anything is decided by timestamps, and the files are written anew.
//!
//! Until then the largest timestamp of such a segment is not known: a look-up would pass it by, and
//! retention would take the file's modification time for its age. It is not done at the start
//! itself, which does not wait for reading closed segments.

use crate::metrics::recovery::RecoveryBranch;
use crate::shard::catch_up::{Hold, Reading};
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::store::Store;
use crate::types::{Offset, Timestamp};
use std::io;
use std::rc::Rc;

impl Replica {
    /// Makes the timestamps of all closed segments known. Costs nothing when they are; else one
    /// pass over each segment that was not indexed, a piece at a time, once per start.
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

    async fn reindex(self: &Rc<Self>, store: &Rc<Store>, segment: Offset) -> Result<(), ReadFailed> {
        tracing::warn!(
            directory = %self.directory.display(), %segment,
            "the index files of a segment were missing or wrong: they are built again from its batches"
        );
        store.recovered(RecoveryBranch::IndexRebuilt);
        let (extent, interval) = self.closed_extent(segment)?;
        let rebuilt = self.rebuild_index(&mut Hold::new(&Reading::own(store)), &extent, interval).await;
        let turn = self.replacing.acquire_permit(1).await;
        let _turn = turn.map_err(|error| disk(segment, error.into()))?;
        if self.log.borrow().closed_extent(segment) != Some(extent) {
            return Ok(()); // Deleted or compacted meanwhile.
        }
        let index = rebuilt?;
        let max = index.max_timestamp().map_or(Timestamp::NONE, |max| max.timestamp);
        self.log.borrow_mut().indexed(segment, max);
        let written = self.write_index(&index).await;
        let left_out = "no space for rebuilt index files; the next start builds them again";
        store.derived_written(&self.directory, written, left_out);
        Ok(())
    }
}

fn disk(segment: Offset, source: io::Error) -> ReadFailed {
    ReadFailed::Disk { segment, source }
}
