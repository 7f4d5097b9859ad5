//! Consuming: every partition's leader is asked for more as soon as its last answer is read; records
//! are counted from batch headers and not looked at unless a [`worker::Sink`] does.
//!
//! | file | what it is |
//! |---|---|
//! | `run` | a whole run: offsets, connections, threads, result |
//! | `worker` | one connection's fetches |
//! | `message` | Fetch on the wire |
//! | `aborted` | which batches a read-committed consumer passes over, pure |
//!
//! Absent: fetch sessions (each request names its partitions), consumer groups.

pub mod aborted;
pub mod message;
pub mod run;
pub mod worker;
