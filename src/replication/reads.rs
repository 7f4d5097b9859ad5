//! What clients may read of a replica, and what they are told of its ends.
//!
//! A new leader does not know how far the high watermark of the one before it was. Until its own reaches the
//! start of its epoch, whoever asks for the latest offset has to come again (`OFFSET_NOT_AVAILABLE`), and a
//! fetch behind the high watermark is never out of range: an earlier leader may have shown more (KIP-207). A
//! follower knows less than its leader, and sends those who are ahead of it back to try again (KIP-392).

use crate::replication::follower::Follower;
use crate::replication::leader::Leader;
use crate::types::{NodeId, Offset};

/// Why nothing is read, or told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadRefused {
    /// `OFFSET_NOT_AVAILABLE`: it may be there soon.
    #[error("the high watermark is not known yet")]
    NotAvailable,
    /// `OFFSET_OUT_OF_RANGE`: it never will be, or is no more.
    #[error("the log has offsets from {log_start} to {log_end}")]
    OutOfRange { log_start: Offset, log_end: Offset },
}

impl Leader {
    /// `ListOffsets(latest)`: the end of what may be read.
    pub fn latest(&self) -> Result<Offset, ReadRefused> {
        let is_known = self.high_watermark() >= self.epoch_start();
        if is_known { Ok(self.high_watermark()) } else { Err(ReadRefused::NotAvailable) }
    }

    /// `ListOffsets(earliest)`: where what may be read begins.
    ///
    /// A leader may have a later log start than the one before it has shown, which others do not have yet, and so
    /// may the next one. It is told once all in-sync replicas have it.
    pub fn earliest(&self) -> Result<Offset, ReadRefused> {
        if self.is_log_start_known() { Ok(self.log_start()) } else { Err(ReadRefused::NotAvailable) }
    }

    /// Up to where a fetch from `from` may read, exclusive.
    pub fn readable(&self, from: Offset) -> Result<Offset, ReadRefused> {
        let (log_start, log_end) = (self.log_start(), self.log_end());
        if from < log_start || from > log_end {
            return Err(ReadRefused::OutOfRange { log_start, log_end });
        }
        Ok(self.high_watermark().max(from))
    }

    /// The follower to read from `from` on, of those that `is_near` to the client; `None` where there is none.
    ///
    /// It is in sync, and has and knows enough: one that was not told yet would send the client back. Of several the
    /// one that has most. Source: KIP-392; Kafka `ReplicaManager.findPreferredReadReplica`.
    pub fn nearest(&self, from: Offset, is_near: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let can_serve = |node: NodeId| {
            let progress = self.follower(node).filter(|progress| progress.is_following)?;
            let known_end = progress.flushed_end.min(progress.told_high_watermark);
            let is_there = self.log_start().max(progress.log_start) <= from && from <= known_end;
            (is_there && is_near(node)).then_some((progress.flushed_end, node))
        };
        let in_sync = self.in_sync().committed().iter().copied();
        in_sync.filter_map(can_serve).max().map(|(_, node)| node)
    }
}

impl Follower {
    /// The same of a follower. An offset that it does not have is not out of range: the leader may have it, and a
    /// client would begin anew elsewhere.
    pub fn readable(&self, from: Offset) -> Result<Offset, ReadRefused> {
        let (log_start, log_end) = (self.log_start(), self.log_end());
        if from < log_start {
            return Err(ReadRefused::OutOfRange { log_start, log_end });
        }
        if from > self.high_watermark() {
            return Err(ReadRefused::NotAvailable);
        }
        Ok(self.high_watermark())
    }
}
