//! Whether a transaction has a partition: its coordinator is asked before the first batch is appended
//! (KIP-890). What is decided by the answer is in `log::producers::verification`.
//!
//! With `transaction.partition.verification.enable=false`, which may change at run time, nobody is asked about
//! partitions that were added before.
//! Until a shard has a verifier, which is before it serves, every transaction is refused.

use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::BatchProducer;
use crate::codec::transactions::VerificationQuestion;
use crate::log::producers::verification::VerificationNeed;
use crate::shard::Shard;
use crate::shard::message::{ClaimKind, ProduceOutcome, TransactionClaim};
use crate::shard::replica::{Replica, refused_sequence};
use futures::future::LocalBoxFuture;
use std::rc::Rc;

/// Asks transactions' coordinators, on whatever shard or node they are.
///
/// Lives: one per shard.
pub trait TransactionVerifier {
    /// Errors: the coordinator's, or why there is no answer.
    fn verify(&self, question: VerificationQuestion) -> LocalBoxFuture<'static, Result<(), ErrorCode>>;
}

/// How often the coordinator is asked about one batch, if markers come between its answers.
const TRIES: usize = 3;

impl Shard {
    /// Whether any transaction can be confirmed here.
    pub fn may_have_transactions(&self) -> bool {
        !self.settings().transaction_partition_verification_enable || self.verifier.borrow().is_some()
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
    // Who adds a partition says so in any case.
    let is_asked =
        shard.settings().transaction_partition_verification_enable || claim.kind == ClaimKind::Adds;
    let verifier = shard.verifier.borrow().clone();
    if is_asked && verifier.is_none() {
        return Err(refused(ErrorCode::InvalidTxnState, claim.kind));
    }
    for _ in 0..TRIES {
        let now = shard.clock.wall();
        let need = replica.log.borrow_mut().producers.begin_verification(batch, claim.kind.version(), now);
        let guard = match need.map_err(refused_sequence)? {
            VerificationNeed::Nothing => return Ok(()),
            VerificationNeed::Ask(guard) => guard,
        };
        if let Some(verifier) = verifier.as_ref().filter(|_| is_asked) {
            let answered = verifier.verify(VerificationQuestion {
                transactional_id: claim.transactional_id.clone(),
                producer: batch.id,
                epoch: batch.epoch,
                partition: replica.id,
                version: claim.kind.version(),
            });
            if let Err(error) = answered.await {
                if is_final(error) {
                    replica.log.borrow_mut().producers.refuted(batch.id, guard);
                }
                return Err(refused(error, claim.kind));
            }
        }
        if replica.log.borrow_mut().producers.verified(batch.id, guard) {
            return Ok(());
        }
        // The marker of the transaction before has come meanwhile: was the answer about this one?
    }
    Ok(()) // The append is refused.
}

/// Whether asking again cannot help: nothing is to be kept of the question, which would stand in the way of other
/// batches of the producer.
fn is_final(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::InvalidProducerIdMapping
            | ErrorCode::InvalidTxnState
            | ErrorCode::ProducerFenced
            | ErrorCode::TransactionAbortable
    )
}

/// What a producer is told of a coordinator's refusal (Kafka `ReplicaManager`): errors that it would take for
/// another's become one that it tries again after.
fn refused(error: ErrorCode, kind: ClaimKind) -> ProduceOutcome {
    let told = match error {
        ErrorCode::ConcurrentTransactions if kind == ClaimKind::Adds => error,
        ErrorCode::TransactionAbortable if kind == ClaimKind::Added => ErrorCode::InvalidTxnState,
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
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
        let told = |error, kind| refused(error, kind).error;
        let (before, knows, adds) = (ClaimKind::Added, ClaimKind::AddedOrAborts, ClaimKind::Adds);
        assert_eq!(told(ErrorCode::NotCoordinator, before), ErrorCode::NotEnoughReplicas);
        assert_eq!(told(ErrorCode::ConcurrentTransactions, knows), ErrorCode::NotEnoughReplicas);
        assert_eq!(told(ErrorCode::ConcurrentTransactions, adds), ErrorCode::ConcurrentTransactions);
        assert_eq!(told(ErrorCode::InvalidProducerIdMapping, adds), ErrorCode::InvalidTxnState);
        assert_eq!(told(ErrorCode::ProducerFenced, before), ErrorCode::InvalidProducerEpoch);
        assert_eq!(told(ErrorCode::TransactionAbortable, before), ErrorCode::InvalidTxnState);
        assert_eq!(told(ErrorCode::TransactionAbortable, knows), ErrorCode::TransactionAbortable);
    }
}
