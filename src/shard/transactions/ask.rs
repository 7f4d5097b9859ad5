//! Questions to transactions' coordinators, on whatever shard they are.

use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::PartitionNames;
use crate::shard::Shard;
use crate::shard::message::{Reply, Request};
use crate::shard::transactions::{TransactionCall, TransactionReply, TransactionRequest, call_local};
use crate::shard::verification::{TransactionVerifier, VerificationQuestion};
use crate::txn::transaction::Addition;
use crate::txn::{Answer, TRANSACTIONS_TOPIC, Writer};
use crate::types::{PartitionIndex, ShardId, TopicPartition, TransactionVersion, java_hash};
use futures::future::{FutureExt, LocalBoxFuture};
use std::rc::{Rc, Weak};

/// The partition of `__transaction_state` that a transactional id belongs to; `None` while there is no such topic.
pub fn partition_of(shard: &Shard, transactional_id: &str) -> Option<TopicPartition> {
    let image = shard.image.borrow();
    let topic = image.topic_named(TRANSACTIONS_TOPIC)?;
    let index = java_hash::partition_of(transactional_id, topic.partitions.len());
    let partition = PartitionIndex::from_wire(index as i32)?;
    Some(TopicPartition { topic: topic.id, partition })
}

/// The same, and whose it is. Errors: there is no such topic, or no leader here.
pub fn locate(shard: &Shard, transactional_id: &str) -> Result<(ShardId, TopicPartition), ErrorCode> {
    let partition = partition_of(shard, transactional_id).ok_or(ErrorCode::NotCoordinator)?;
    let owner = shard.owner(&partition).ok_or(ErrorCode::NotCoordinator)?;
    Ok((owner, partition))
}

/// Asks the coordinator at a place.
pub async fn ask(
    shard: &Rc<Shard>,
    (owner, partition): (ShardId, TopicPartition),
    transactional_id: &str,
    request: TransactionRequest,
) -> TransactionReply {
    let call = TransactionCall { partition, transactional_id: transactional_id.to_owned(), request };
    if owner == shard.id {
        return call_local(shard, call).await;
    }
    shard.metrics.borrow_mut().requests_forwarded += 1;
    match shard.mesh.call(owner, Request::Transaction(Box::new(call))).await {
        Reply::Transaction(reply) => *reply,
        _ => unreachable!("transactions are answered by transactions"),
    }
}

/// Asks on behalf of the partitions of this shard.
pub struct Verifier {
    shard: Weak<Shard>,
}

impl Verifier {
    pub fn new(shard: &Rc<Shard>) -> Verifier {
        Verifier { shard: Rc::downgrade(shard) }
    }
}

impl TransactionVerifier for Verifier {
    fn verify(&self, question: VerificationQuestion) -> LocalBoxFuture<'static, Result<(), ErrorCode>> {
        let shard = self.shard.upgrade();
        async move {
            let shard = shard.ok_or(ErrorCode::CoordinatorNotAvailable)?;
            verify(&shard, question).await
        }
        .boxed_local()
    }
}

async fn verify(shard: &Rc<Shard>, question: VerificationQuestion) -> Result<(), ErrorCode> {
    if partition_of(shard, &question.transactional_id).is_none() {
        return Err(ErrorCode::InvalidProducerIdMapping); // There never was a transaction.
    }
    let place = locate(shard, &question.transactional_id)?;
    let partitions: PartitionNames = {
        let image = shard.image.borrow();
        let topic = image.topic(question.partition.topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        [(&*topic.name, question.partition.partition.to_wire())].into_iter().collect()
    };
    let writer = Writer { producer: question.producer, epoch: question.epoch };
    let request = match question.version {
        TransactionVersion::V1 => TransactionRequest::Verify { writer, partitions },
        version @ TransactionVersion::V2 => TransactionRequest::Add(Addition { writer, version, partitions }),
    };
    match ask(shard, place, &question.transactional_id, request).await {
        TransactionReply::Answer(Answer::Added(added)) => added,
        TransactionReply::Verified(verified) => verified.into_iter().collect(),
        TransactionReply::Refused(error) => Err(error),
        TransactionReply::Answer(Answer::Writer(_)) | TransactionReply::Described(_) => {
            unreachable!("an addition is answered as one")
        }
    }
}
