//! Transactions: which producer holds a transactional id, which partitions its transaction has, and how it
//! ends. Pure: no clock, no I/O, no shard.
//!
//! ```text
//!            request ─► Coordinator ─► Effect::Write:  one record, to be appended
//!        time passed ─► expire │    └► Effect::Answer: to the request of that ticket, now
//!    write has ended ─► finished    └► Effect::Mark:   markers, into every partition of the transaction
//! markers are written ─► marked ┘
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | [`coordinator`] | the transactional ids of one partition of `__transaction_state`: what is written, what waits for it, who is answered |
//! | [`transaction`] | one transactional id: which request it takes, and what becomes of it |
//!
//! ```text
//!               ┌──────── InitProducerId: a new epoch ─────────┐
//!               ▼                                              │
//! InitProducerId ─► Empty ─ add ─► Ongoing ─ end ─► Prepare ─ all markers ─► Complete
//!                                   ▲ │ add  ▲      Commit or    written      │
//!                                   └─┘      │      Abort                     │
//!                                            └───────────── add ──────────────┘
//! ```
//!
//! A transaction is decided when the record that prepares its end is durable, and at no other time: markers are
//! written after it, and the record that completes it after all of them. Whoever loads a log that ends anywhere
//! in between does the rest. What is kept changes only by records ([`apply`](coordinator::Coordinator::apply) in
//! a replay, the same values when a write ends); beside it there are only the epoch before the last
//! InitProducerId, and who waits.
//!
//! Epochs. A producer that asks for its id again gets a newer epoch, and what comes from the older one is
//! refused here and, once the marker is written, by the partitions. With version 2 of transactions (KIP-890)
//! every transaction has an epoch of its own: its marker already has the next one, so that nothing that comes
//! late can get into another transaction. A transaction that the coordinator ends by itself, since its time is
//! over or another producer has come, is ended as in version 1, with an epoch that no producer was told: an
//! EndTxn of the producer that lost it is refused, and not taken for a repeated one.
//!
//! Deliberate differences from Kafka: what is added while another addition is written, or while markers are,
//! waits for that for a while and need not come again; an InitProducerId with an epoch that is not the current
//! one never ends another's transaction, and is a repeated one only under the producer id that had that epoch.
//!
//! Absent: two-phase commit by clients (KIP-939), authorization.
//! Source: Kafka `TransactionCoordinator`, `TransactionMetadata`, `TransactionStateManager`; KIP-98, 360, 588,
//! 664, 890.

pub mod coordinator;
pub mod transaction;

use crate::codec::control_record::EndMarker;
use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::PartitionNames;
use crate::config::Config;
use crate::types::{ProducerEpoch, ProducerId, TransactionVersion};
use std::time::Duration;

/// Topic that coordinators keep their state in.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Which request an answer is for; the shell gives them out, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Which write has ended. Given out by a coordinator, in the order of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub u64);

/// Which writing of markers it is. Given out by a coordinator: of one transaction one goes on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MarkingId(pub u64);

/// Who writes as part of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
}

/// What the shell carries out, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Answer(Ticket, Answer),
    /// Its [`record`](coordinator::Coordinator::record) is appended; the end of that is told to
    /// [`finished`](coordinator::Coordinator::finished).
    Write(WriteId),
    Mark(Marking),
}

/// A transaction that ends in its partitions: tried until all of them have the marker or are gone, then told to
/// [`marked`](coordinator::Coordinator::marked).
#[derive(Clone, Debug, PartialEq)]
pub struct Marking {
    pub id: MarkingId,
    pub transactional_id: String,
    pub marker: EndMarker,
    pub version: TransactionVersion,
    pub partitions: PartitionNames,
    /// The markers are there, but the record that says so could not be kept: not at once again.
    pub is_again: bool,
}

/// The answer to a request that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// InitProducerId, EndTxn: who the producer is from now on.
    Writer(Result<Writer, ErrorCode>),
    /// AddPartitionsToTxn, AddOffsetsToTxn, and batches that add their partition.
    Added(Result<(), ErrorCode>),
}

/// What the operator has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The longest that a producer may ask for.
    pub timeout_max: Duration,
    /// How long a transactional id is kept that nobody uses.
    pub id_expiration: Duration,
}

impl Settings {
    pub fn new(config: &Config) -> Settings {
        Settings {
            timeout_max: config.transaction_max_timeout,
            id_expiration: config.transactional_id_expiration,
        }
    }
}

#[cfg(test)]
mod tests;
