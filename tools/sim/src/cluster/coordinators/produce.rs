//! What is written in transactions: the coordinator, on whatever node it is, adds the partition; then the leader
//! appends. As `odradek::shard::verification` does it, for clients of version 2.

use crate::cluster::coordinators::Then;
use crate::cluster::coordinators::logs::Appending;
use crate::cluster::coordinators::marking::micros;
use crate::cluster::coordinators::requests::{Reply, Write};
use crate::replication::scene::{Scene, index};
use crate::transactions::partition::{batch_of, refused};
use crate::transactions::produce::{is_final, told};
use crate::transactions::request::Claim;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::record_batch::BatchProducer;
use odradek::codec::transaction_record::PartitionNames;
use odradek::log::partition::AppendRejected;
use odradek::log::producers::verification::{VerificationGuard, VerificationNeed};
use odradek::txn::transaction::Addition;
use odradek::txn::{self, TRANSACTIONS_TOPIC, Writer};
use odradek::types::limits::{TRANSACTION_ADDITION_TIME_MAX, VERIFICATION_ANSWER_TIME_MAX};
use odradek::types::{Sequence, TransactionVersion};

/// How often the coordinator is asked about one batch, if markers come between its answers.
const TRIES: usize = 3;

/// A batch that its transaction's coordinator is asked about.
#[derive(Clone)]
struct Verifying {
    node: usize,
    partition: usize,
    /// Under which the node leads.
    epoch: i32,
    id: String,
    batch: BatchProducer,
    tries: usize,
}

impl Scene {
    /// A record of a transaction.
    pub fn produce_in_transaction(&mut self, id: usize, write: Write, reply: Then<Reply>) {
        let Write { partition, writer, sequence, number, .. } = write;
        let then: Then<_> = Box::new(move |scene, verified: Result<(), ErrorCode>| {
            if let Err(error) = verified {
                return reply(scene, Reply::Done(Err(error)));
            }
            let value = Some(number.to_be_bytes().to_vec());
            let bytes = batch_of(&[(None, value)], Some((writer, Some(sequence))), true, scene.wall());
            let then: Then<_> = Box::new(move |scene, result| reply(scene, Reply::Done(result)));
            scene.append_coordinated(id, partition, Appending::Batch(bytes), then);
        });
        self.verify(id, partition, write.id, (writer, sequence), then);
    }

    /// Sees to it that the transaction has the partition, which this node leads.
    pub fn verify(
        &mut self,
        node: usize,
        partition: usize,
        id: String,
        (writer, sequence): (Writer, i32),
        then: Then<Result<(), ErrorCode>>,
    ) {
        let Some(replica) = self.nodes[node].replicas.get(&partition) else {
            return then(self, Err(ErrorCode::NotLeaderOrFollower));
        };
        let epoch = replica.epoch;
        let batch = BatchProducer {
            id: writer.producer,
            epoch: writer.epoch,
            base_sequence: Sequence(sequence),
            last_sequence: Sequence(sequence),
            is_transactional: true,
        };
        self.verify_again(Verifying { node, partition, epoch, id, batch, tries: TRIES }, then);
    }

    fn verify_again(&mut self, verifying: Verifying, then: Then<Result<(), ErrorCode>>) {
        let (now, node, partition) = (self.wall(), verifying.node, verifying.partition);
        let Some(log) = self.coordinators().logs.led(node, partition) else {
            return then(self, Err(ErrorCode::NotLeaderOrFollower));
        };
        match log.producers.begin_verification(&verifying.batch, TransactionVersion::V2, now) {
            Err(error) => then(self, Err(refused(AppendRejected::Sequence(error)))),
            Ok(VerificationNeed::Nothing) => then(self, Ok(())),
            Ok(VerificationNeed::Ask(guard)) => {
                let (id, batch) = (verifying.id.clone(), verifying.batch);
                let then: Then<_> =
                    Box::new(move |scene, answered| scene.is_verified(verifying, guard, answered, then));
                self.ask_coordinator(node, partition, id, batch, then);
            }
        }
    }

    fn is_verified(
        &mut self,
        mut verifying: Verifying,
        guard: VerificationGuard,
        answered: Result<(), ErrorCode>,
        then: Then<Result<(), ErrorCode>>,
    ) {
        let Verifying { node, partition, epoch, batch, .. } = verifying;
        // The model's questions do not outlive a leadership.
        let is_led = self.nodes[node].replicas.get(&partition).is_some_and(|replica| replica.epoch == epoch);
        let Some(log) = self.coordinators().logs.led(node, partition).filter(|_| is_led) else {
            return then(self, Err(ErrorCode::NotLeaderOrFollower));
        };
        if let Err(error) = answered {
            if is_final(error) {
                log.producers.refuted(batch.id, guard);
            }
            return then(self, Err(told(error, Claim::Adds)));
        }
        verifying.tries -= 1;
        if log.producers.verified(batch.id, guard) || verifying.tries == 0 {
            return then(self, Ok(()));
        }
        self.world.count("verify: the answer came too late");
        self.verify_again(verifying, then);
    }

    /// On whatever node it is.
    fn ask_coordinator(
        &mut self,
        node: usize,
        partition: usize,
        id: String,
        batch: BatchProducer,
        then: Then<Result<(), ErrorCode>>,
    ) {
        let name = self.coordinated().names[&partition].clone();
        let writer = Writer { producer: batch.id, epoch: batch.epoch };
        let partitions: PartitionNames = [(name.as_str(), 0)].into_iter().collect();
        let addition = Addition { writer, version: TransactionVersion::V2, partitions };
        let state = self.partition_named(TRANSACTIONS_TOPIC);
        let leadership = self.nodes[node].image.partitions.get(&state);
        match leadership.and_then(|leadership| leadership.leader).map(index) {
            Some(leader) if leader != node => {
                self.world.count("verify: on another node");
                let time_max = micros(VERIFICATION_ANSWER_TIME_MAX);
                let ask = move |scene: &mut Scene, reply| scene.add_here(leader, id, addition, reply);
                self.ask_node((node, leader), time_max, ask, then);
            }
            _ => self.add_here(node, id, addition, then),
        }
    }

    fn add_here(&mut self, node: usize, id: String, addition: Addition, then: Then<Result<(), ErrorCode>>) {
        let key = match self.coordinator_at(node, TRANSACTIONS_TOPIC) {
            Ok(key) => key,
            Err(error) => return then(self, Err(error)),
        };
        let adding = id.clone();
        let ticket = self.ask_transactions(
            key,
            |transactions, ticket, now, effects| {
                transactions.add(&adding, addition, ticket, now.wall, effects)
            },
            move |scene, answer| match answer {
                txn::Answer::Added(added) => then(scene, added),
                txn::Answer::Writer(_) => unreachable!("an addition is answered as one"),
            },
        );
        // What is being ended may take long.
        self.after_at(micros(TRANSACTION_ADDITION_TIME_MAX), node, move |scene| {
            scene.give_up_addition(key, &id, ticket);
        });
    }
}
