//! Offsets that are committed in transactions: may they be, and how it ended.

use crate::codec::control_record::TransactionOutcome;
use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::BatchProducer;
use crate::group::coordinator::{Coordinator, TransactionWriter, write_error};
use crate::shard::groups::FetchedOffset;
use crate::shard::message::TransactionClaim;
use crate::shard::{Shard, verification};
use crate::types::{ProducerId, Sequence, TopicPartition};
use kafka_protocol::messages::TopicName;
use std::rc::Rc;

/// Sees to it that the transaction has the group's partition (KIP-890).
pub async fn verify(
    shard: &Rc<Shard>,
    partition: TopicPartition,
    (id, epoch): TransactionWriter,
    claim: &TransactionClaim,
) -> Result<(), ErrorCode> {
    let replica = shard.stores.find(&partition).ok_or(ErrorCode::NotCoordinator)?;
    // What is committed is not numbered.
    let first = Sequence(0);
    let batch =
        BatchProducer { id, epoch, base_sequence: first, last_sequence: first, is_transactional: true };
    let verified = verification::verify(shard, &replica, &batch, claim).await;
    verified.map_err(|refused| write_error(refused.error))
}

/// Notes which offsets open transactions may change.
pub fn mark_unstable(
    coordinator: &Coordinator,
    group: &str,
    fetched: &mut [(TopicName, Vec<FetchedOffset>)],
) {
    for (topic, offsets) in fetched {
        for offset in offsets {
            offset.is_unstable = coordinator.is_unstable(group, topic, offset.partition);
        }
    }
}

/// A partition of `__consumer_offsets` of this shard has a marker. What is still loading reads it.
pub fn transaction_ended(
    shard: &Rc<Shard>,
    partition: TopicPartition,
    producer: ProducerId,
    outcome: TransactionOutcome,
) {
    if let Some(served) = shard.groups.coordinators.known(partition) {
        served.decide(shard, |coordinator, _, _| coordinator.transaction_ended(producer, outcome));
    }
}
