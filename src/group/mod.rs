//! Consumer groups: who is a member, which generation it is, and what was committed. Pure: no clock, no I/O,
//! no shard.
//!
//! ```text
//!            request ─► Coordinator ─► Effect::Write:  records, to be appended as one batch, in this order
//! deadline passed ─► expire │      └► Effect::Answer: to the request of that ticket, now
//!    write ended ─► finished ┘
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | [`coordinator`] | the groups of one partition of `__consumer_offsets`: which request meets which group, what waits for which write |
//! | [`consumer`] | a group under the newer protocol (KIP-848): heartbeats, epochs, what each member is to have |
//! | [`assignor`] | who is to have which partition in such a group |
//! | [`topics`] | what groups have to know of topics |
//! | [`classic`] | a group under the classic protocol: joins, syncs, heartbeats, leaves, and the time-outs of all these |
//! | [`member`] | a member, and what it says of itself |
//! | [`offsets`] | committed offsets of a group, and when they expire |
//! | [`timers`] | deadlines as data |
//!
//! What is kept in the log changes only by [`Coordinator::apply`](coordinator::Coordinator::apply), which is also
//! how a log is replayed: committed offsets, and that a group is gone. A generation and its members are kept as
//! one record each time a leader has handed out assignments; who is joining just now, and what is being waited
//! for, is in memory only, and members say it again after a restart. An answer that reports something as kept
//! leaves when [`finished`](coordinator::Coordinator::finished) says that its records are.
//!
//! Absent: authorization.
//! Source: Kafka `GroupMetadataManager`, `ClassicGroup`, `OffsetMetadataManager`; KIP-62, 345, 394, 496, 814, 848.

pub mod assignor;
pub mod classic;
pub mod consumer;
pub mod coordinator;
pub mod member;
pub mod offsets;
pub mod timers;
pub mod topics;

use crate::codec::error_code::ErrorCode;
use crate::config::Config;
use crate::types::{Mono, Timestamp};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, OffsetCommitResponse,
    OffsetDeleteResponse, SyncGroupResponse,
};
use std::time::Duration;

pub use crate::types::java_hash::partition_of;

/// Topic that coordinators keep their state in.
pub const GROUPS_TOPIC: &str = "__consumer_offsets";

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What sessions and rebalances are measured by.
    pub mono: Mono,
    /// What is written into records.
    pub wall: Timestamp,
}

/// Which request an answer is for; the shell gives them out, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Which write has ended. Given out by a coordinator, in the order of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub u64);

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub client_id: String,
    /// The address that the client comes from, as Kafka shows it: `/127.0.0.1`.
    pub client_host: String,
    pub version: i16,
}

/// What the shell carries out, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Answer(Ticket, Answer),
    /// Its [`records`](coordinator::Coordinator::records) are appended as one batch, all or nothing; the end of
    /// that is told to [`finished`](coordinator::Coordinator::finished).
    Write(WriteId),
}

/// The answer to a request that changes something. Fields that a version does not have are for the encoder
/// to leave out.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(ErrorCode),
    Leave(LeaveGroupResponse),
    Commit(OffsetCommitResponse),
    DeleteGroup(ErrorCode),
    DeleteOffsets(OffsetDeleteResponse),
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse),
}

/// What the operator has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub session_timeout_min: Duration,
    pub session_timeout_max: Duration,
    pub initial_rebalance_delay: Duration,
    /// Members of a group.
    pub size_max: usize,
    /// Bytes of the metadata of one committed offset.
    pub offset_metadata_max: usize,
    pub offsets_retention: Duration,
}

impl Settings {
    pub fn new(config: &Config) -> Settings {
        Settings {
            session_timeout_min: config.group_min_session_timeout,
            session_timeout_max: config.group_max_session_timeout,
            initial_rebalance_delay: config.group_initial_rebalance_delay,
            size_max: config.group_max_size,
            offset_metadata_max: config.offset_metadata_max_bytes,
            offsets_retention: config.offsets_retention,
        }
    }
}

/// Milliseconds of the wire, none of them negative.
fn millis(ms: i32) -> Duration {
    Duration::from_millis(ms.max(0) as u64)
}

#[cfg(test)]
mod tests;
