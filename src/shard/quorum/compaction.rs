//! The log of the metadata is replaced by a snapshot while the node runs, once it has grown long.
//!
//! Each member does so by itself, whoever leads: what it has applied is committed. Entries that followers may be behind
//! by stay in memory, and whoever is further behind gets the snapshot.

use crate::cluster::image::Image;
use crate::cluster::quorum::event::Event;
use crate::shard::disk::blocking;
use crate::shard::quorum::MetadataQuorum;
use std::cell::Cell;

/// Lives: with the quorum's shell.
#[derive(Debug)]
pub(super) struct Compaction {
    /// Bytes of the log as it was last written.
    size: Cell<u64>,
    /// Bytes from which it is replaced.
    due: Cell<u64>,
    /// Bytes that it has to grow by at least.
    step: u64,
    /// A replacement was decided, and is not written yet.
    is_under_way: Cell<bool>,
}

impl Compaction {
    pub fn of(size: u64, step: u64) -> Compaction {
        Compaction { size: Cell::new(size), due: Cell::new(step), step, is_under_way: Cell::new(false) }
    }

    fn grown(&self, size: u64, is_replaced: bool) {
        self.size.set(size);
        if is_replaced {
            self.is_under_way.set(false);
            self.due.set(self.step.max(2 * size));
        }
    }

    fn is_due(&self) -> bool {
        !self.is_under_way.get() && self.size.get() > self.due.get()
    }
}

impl MetadataQuorum {
    /// The log was written, and is of that size now.
    pub(super) fn log_grown(&self, size: u64, is_replaced: bool) {
        self.compaction.grown(size, is_replaced);
        if self.compaction.is_due() {
            self.decided_waiting.notify();
        }
    }

    pub(super) fn is_compaction_due(&self) -> bool {
        self.compaction.is_due() && self.attached().is_some() && !self.has_failed()
    }

    /// Whether there is space for another log beside this one; where there is none it is looked again when it has grown
    /// by as much.
    pub(super) async fn has_room_to_compact(&self) -> bool {
        let Ok(_turn) = self.log_turn.acquire_permit(1).await else { return false };
        let Some(log) = self.log.borrow_mut().take() else { return false };
        let (log, has_room) = blocking(move || {
            let has_room = log.has_room_for_another();
            (log, has_room)
        })
        .await;
        *self.log.borrow_mut() = Some(log);
        if !has_room {
            tracing::warn!("no space for a snapshot of the metadata: their log goes on growing");
            self.compaction.due.set(self.compaction.size.get() + self.compaction.step);
        }
        has_room
    }

    /// The image is as of the last entry that was applied.
    pub(super) fn compact(&self) {
        let records = self.with_image(Image::snapshot);
        tracing::info!(
            bytes = self.compaction.size.get(),
            "the log of the metadata is replaced by a snapshot"
        );
        self.compaction.is_under_way.set(true);
        self.step(Event::Compact { records });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_replaced_when_it_has_grown_by_a_step_and_doubled() {
        let compaction = Compaction::of(5, 100);
        compaction.grown(100, false);
        assert!(!compaction.is_due());
        compaction.grown(101, false);
        assert!(compaction.is_due());
        compaction.is_under_way.set(true);
        compaction.grown(150, false);
        assert!(!compaction.is_due(), "one at a time");
        compaction.grown(80, true);
        compaction.grown(160, false);
        assert!(!compaction.is_due());
        compaction.grown(161, false);
        assert!(compaction.is_due());
    }
}
