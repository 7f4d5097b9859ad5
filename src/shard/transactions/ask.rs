//! Questions to transactions' coordinators, on whatever shard they are.

use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::PartitionNames;
use crate::codec::transactions::VerificationQuestion;
use crate::shard::Shard;
use crate::shard::coordinators;
use crate::shard::message::{Reply, Request};
use crate::shard::transactions::elsewhere::{NodeCall, ask_node};
use crate::shard::transactions::{TransactionCall, TransactionReply, TransactionRequest, call_local};
use crate::shard::verification::TransactionVerifier;
use crate::txn::transaction::Addition;
use crate::txn::{Answer, TRANSACTIONS_TOPIC, Writer};
use crate::types::{ShardId, TopicPartition, TransactionVersion};
use futures::future::{FutureExt, LocalBoxFuture};
use std::rc::{Rc, Weak};

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

/// On whatever node it is.
async fn verify(shard: &Rc<Shard>, question: VerificationQuestion) -> Result<(), ErrorCode> {
    let Some(state) = coordinators::partition_of(shard, TRANSACTIONS_TOPIC, &question.transactional_id)
    else {
        // There never was a transaction; or the coordinator is another node, and this one has not heard of it.
        let is_alone = shard.image.borrow().nodes().nth(1).is_none();
        return Err(match is_alone {
            true => ErrorCode::InvalidProducerIdMapping,
            false => ErrorCode::CoordinatorNotAvailable,
        });
    };
    let leader = shard.image.borrow().partition(state).and_then(|state| state.leader);
    match leader {
        Some(node) if node != shard.node => {
            let answered = ask_node(shard, node, NodeCall::Verify(question)).await;
            answered.into_iter().find(|error| error.is_error()).map_or(Ok(()), Err)
        }
        _ => verify_here(shard, question).await,
    }
}

/// On this node.
pub async fn verify_here(shard: &Rc<Shard>, question: VerificationQuestion) -> Result<(), ErrorCode> {
    let place = coordinators::locate(shard, TRANSACTIONS_TOPIC, &question.transactional_id)?;
    let partitions: PartitionNames = {
        let image = shard.image.borrow();
        // Who leads it has heard of it before this node.
        let topic = image.topic(question.partition.topic).ok_or(ErrorCode::CoordinatorLoadInProgress)?;
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
