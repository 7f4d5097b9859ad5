//! Requests to transaction coordinators: found by the transactional id, asked on whichever core has them.
//!
//! | file | API keys |
//! |---|---|
//! | `producers.rs` | InitProducerId (22), EndTxn (26) |
//! | `partitions.rs` | AddPartitionsToTxn (24), AddOffsetsToTxn (25) |
//! | `admin.rs` | DescribeTransactions (65), ListTransactions (66) |

mod admin;
mod partitions;
mod producers;

pub use admin::{describe, list};
pub use partitions::{add_offsets, add_partitions};
pub use producers::{end, init};

use crate::codec::error_code::ErrorCode;
use crate::shard::api::groups::Asking;
use crate::shard::transactions::{self, TransactionReply, TransactionRequest};
use crate::txn::TRANSACTIONS_TOPIC;

impl Asking<'_> {
    /// Asks the coordinator of a transactional id, if it may be asked on this connection.
    async fn ask_transaction(&self, id: &str, request: TransactionRequest) -> TransactionReply {
        match self.locate(TRANSACTIONS_TOPIC, id) {
            Ok(place) => transactions::ask(self.shard, place, id, request).await,
            Err(error) => TransactionReply::Refused(error),
        }
    }
}

/// What clients of older versions are told: they do not know errors that came later.
fn known_error(error: ErrorCode, version: i16, fenced_from: i16, abortable_from: i16) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced if version < fenced_from => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if version < abortable_from => ErrorCode::InvalidTxnState,
        error => error,
    }
}
