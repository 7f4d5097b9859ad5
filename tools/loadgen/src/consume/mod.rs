//! Consuming: every partition's leader is asked for more as soon as its last answer is read; records
//! are counted from batch headers and not looked at unless a [`worker::Sink`] does.
//!
//! | file | what it is |
//! |---|---|
//! | `run` | a whole run: offsets, connections, threads, result |
//! | `worker` | one connection's fetches |
//! | `group`, `member` | a run as members of a consumer group, and what one says to its coordinator |
//! | `message` | Fetch on the wire |
//! | `aborted` | which batches a read-committed consumer passes over, pure |
//!
//! Absent: fetch sessions (each request names its partitions).

pub mod aborted;
pub mod group;
pub mod member;
pub mod message;
pub mod run;
pub mod worker;
