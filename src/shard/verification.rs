//! Whether a transaction has a partition: its coordinator is asked before the first batch is appended
//! (KIP-890). What is decided by the answer is in `log::producers::verification`.
//!
//! Absent: the coordinator. Until one is there, a shard has no verifier, and every transaction is refused:
//! nobody can have begun one. With `transaction.partition.verification.enable=false` nobody is asked.

use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::BatchProducer;
use crate::log::producers::verification::VerificationNeed;
use crate::shard::Shard;
use crate::shard::message::{ProduceOutcome, TransactionClaim};
use crate::shard::replica::{Replica, refused_sequence};
use crate::types::{ProducerEpoch, ProducerId, TopicPartition, TransactionVersion};
use futures::future::LocalBoxFuture;
use std::rc::Rc;

/// What a transaction's coordinator is asked: whether the partition is part of the transaction that this
/// producer has open. In version 2 it may add the partition to it, and then say yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationQuestion {
    pub transactional_id: Rc<str>,
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    pub partition: TopicPartition,
    pub version: TransactionVersion,
}

/// Asks transactions' coordinators, on whatever shard or node they are.
///
/// Lives: one per shard.
pub trait TransactionVerifier {
    /// Errors: the coordinator's, or why there is no answer.
    fn verify(&self, question: VerificationQuestion) -> LocalBoxFuture<'static, Result<(), ErrorCode>>;
}

impl Shard {
    /// Whether any transaction can be confirmed here.
    pub fn may_have_transactions(&self) -> bool {
        !self.config.transaction_partition_verification_enable || self.verifier.borrow().is_some()
    }
}

/// Sees to it that a batch of a transaction may be appended, as far as the coordinator is concerned. It is
/// asked once for a transaction and partition; what is appended later needs no answer.
pub async fn verify(
    shard: &Rc<Shard>,
    replica: &Rc<Replica>,
    batch: &BatchProducer,
    claim: &TransactionClaim,
) -> Result<(), ProduceOutcome> {
    let is_asked = shard.config.transaction_partition_verification_enable;
    let verifier = shard.verifier.borrow().clone();
    if is_asked && verifier.is_none() {
        return Err(refused(ErrorCode::InvalidTxnState, claim.version));
    }
    let now = shard.clock.wall();
    let need = replica.log.borrow_mut().producers.begin_verification(batch, claim.version, now);
    let guard = match need.map_err(refused_sequence)? {
        VerificationNeed::Nothing => return Ok(()),
        VerificationNeed::Ask(guard) => guard,
    };
    if !is_asked {
        replica.log.borrow_mut().producers.verified(batch.id, guard);
        return Ok(());
    }
    let verifier = verifier.expect("looked at above");
    let answered = verifier.verify(VerificationQuestion {
        transactional_id: claim.transactional_id.as_str().into(),
        producer: batch.id,
        epoch: batch.epoch,
        partition: replica.id,
        version: claim.version,
    });
    answered.await.map_err(|error| refused(error, claim.version))?;
    // Where the answer comes too late, the append is refused.
    let _is_about_it = replica.log.borrow_mut().producers.verified(batch.id, guard);
    Ok(())
}

/// What a producer is told of a coordinator's refusal (Kafka `ReplicaManager`): errors that it would take for
/// another's become one that it tries again after.
fn refused(error: ErrorCode, version: TransactionVersion) -> ProduceOutcome {
    let told = match error {
        ErrorCode::ConcurrentTransactions if version == TransactionVersion::V2 => error,
        ErrorCode::ConcurrentTransactions
        | ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotEnoughReplicas,
        ErrorCode::InvalidProducerIdMapping => ErrorCode::InvalidTxnState,
        error => error,
    };
    let message = format!("the transaction's coordinator has not confirmed the partition: {error}");
    ProduceOutcome { error: told, message: Some(message), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_try_again_where_the_coordinator_is_not_there() {
        let told = |error, version| refused(error, version).error;
        let (v1, v2) = (TransactionVersion::V1, TransactionVersion::V2);
        assert_eq!(told(ErrorCode::NotCoordinator, v1), ErrorCode::NotEnoughReplicas);
        assert_eq!(told(ErrorCode::ConcurrentTransactions, v1), ErrorCode::NotEnoughReplicas);
        assert_eq!(told(ErrorCode::ConcurrentTransactions, v2), ErrorCode::ConcurrentTransactions);
        assert_eq!(told(ErrorCode::InvalidProducerIdMapping, v1), ErrorCode::InvalidTxnState);
        assert_eq!(told(ErrorCode::InvalidProducerEpoch, v1), ErrorCode::InvalidProducerEpoch);
    }
}
