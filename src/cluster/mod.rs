//! The cluster's metadata: which topics, partitions, owners and configurations there are.
//!
//! ```text
//! request ─► decide::*(&Image, ..) ─► records + response
//!                                        │
//!     quorum: a majority's logs have them ◄┘  written and flushed, then
//!                                        └► Image::apply on every shard, then the response leaves
//! request ─► describe::*(&Image, ..) ─► response
//! ```
//!
//! Everything here is pure: no clock, no randomness, no I/O; topic ids and the like are arguments.
//! [`Image::apply`](image::Image::apply) is the only mutator, hence also the replay path. [`quorum`]
//! decides what is committed.

pub mod balance;
pub mod brokers;
pub mod core_balance;
pub mod decide;
pub mod describe;
pub mod difference;
pub mod elections;
pub mod encoding;
pub mod heartbeats;
pub mod image;
pub mod leadership;
pub mod levels;
pub mod lifecycle;
pub mod log_entry;
pub mod placement;
pub mod quorum;
pub mod record;
pub mod registration;
pub mod throttled;
pub mod topic_name;
pub mod wire_text;
