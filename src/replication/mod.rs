//! Replication of one partition: leader, follower, in-sync replicas. Events in, effects out; no clock, no I/O.
//!
//! ```text
//!   leader                                             follower
//!     │ ◄────── Statement: log end, flushed end, epochs ── │  once per session
//!     │ ── Alignment: cut there, or go on from here ─────► │  (KIP-101, 279, 320: by epochs only)
//!     │ ── Append: batches, high watermark, log start ───► │  pushed when the leader's write is issued
//!     │ ◄────── Acknowledgement: flushed end, log start ── │  once flushed
//!     │ ── ProposeInSync ─► controller ─► IsrCommitted ──► │  under partition epochs (KIP-497)
//! ```
//!
//! | module | what it decides |
//! |---|---|
//! | [`leader`] | what followers get, the high watermark, the log start that clients see |
//! | [`follower`] | where its log is cut, what it appends and acknowledges, whom it believes |
//! | [`in_sync`] | who is in sync, and who counts as such until the controller has spoken |
//! | [`progress`] | how far one follower is, as its leader knows it |
//! | [`divergence`] | up to where two logs agree |
//! | [`produces`] | who waits for which offset |
//! | [`throttle`] | how many bytes replicas that catch up are sent, where they are held to a rate |
//! | [`reads`] | what clients may read and are told |
//! | [`window`] | whose turn it is on a connection, and how many bytes may be on their way |
//!
//! Absent: which write and flush covers what (`log`), the frames (`codec::replication`), the controller's side
//! (`cluster::leadership`).

pub mod divergence;
pub mod follower;
pub mod in_sync;
pub mod leader;
pub mod produces;
pub mod progress;
pub mod reads;
pub mod throttle;
pub mod window;

use crate::types::LeaderEpoch;

/// Why a request or message under another leader epoch is refused (KIP-320).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochRefused {
    #[error("leader epoch {stated:?} is behind {current:?}")]
    Fenced { stated: LeaderEpoch, current: LeaderEpoch },
    #[error("leader epoch {stated:?} is ahead of {current:?}")]
    Unknown { stated: LeaderEpoch, current: LeaderEpoch },
}

/// `stated`: none of clients that do not know it, which Kafka lets pass.
pub fn check_epoch(current: LeaderEpoch, stated: Option<LeaderEpoch>) -> Result<(), EpochRefused> {
    match stated {
        Some(stated) if stated < current => Err(EpochRefused::Fenced { stated, current }),
        Some(stated) if stated > current => Err(EpochRefused::Unknown { stated, current }),
        _ => Ok(()),
    }
}
