//! What is written in transactions: verified with the coordinator, then appended; and markers, on their way from
//! coordinators into partitions. As `odradek::shard::verification` and `odradek::shard::markers` do it.

use crate::transactions::cluster::Cluster;
use crate::transactions::partition::{Content, Partition, batch_of, refused};
use crate::transactions::request::{Claim, Place, Write};
use crate::transactions::settings::{Mistake, S, check};
use futures::channel::oneshot;
use odradek::codec::control_record::EndMarker;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::record_batch::BatchProducer;
use odradek::codec::transaction_record::PartitionNames;
use odradek::log::partition::AppendRejected;
use odradek::log::producers::verification::VerificationNeed;
use odradek::txn::transaction::Addition;
use odradek::types::{CoordinatorEpoch, Sequence, TransactionVersion};
use std::rc::Rc;

/// How often the coordinator is asked about one batch, if markers come between its answers.
const TRIES: usize = 3;

/// Sees to it that a batch may be appended, as far as the coordinator is concerned. `None`: the partition has
/// crashed.
pub async fn verify(
    cluster: &Rc<Cluster>,
    partition: &Rc<Partition>,
    id: &str,
    batch: &BatchProducer,
    claim: Claim,
) -> Option<Result<(), ErrorCode>> {
    let scene = &cluster.scene;
    let run = partition.run.get();
    let is_asked = scene.settings.verifies || claim == Claim::Adds;
    for _ in 0..TRIES {
        let need = {
            let mut log = partition.log.borrow_mut();
            log.producers.begin_verification(batch, claim.version(), scene.now())
        };
        let guard = match need.map_err(|error| refused(AppendRejected::Sequence(error))) {
            Err(error) => return Some(Err(error)),
            Ok(VerificationNeed::Nothing) => return Some(Ok(())),
            Ok(VerificationNeed::Ask(guard)) => guard,
        };
        if is_asked && !scene.makes(Mistake::VerificationSkipped) {
            let answered = ask(cluster, partition, id, batch, claim).await;
            if partition.run.get() != run {
                return None;
            }
            if let Err(error) = answered {
                if is_final(error) {
                    partition.log.borrow_mut().producers.refuted(batch.id, guard);
                }
                return Some(Err(told(error, claim)));
            }
        }
        let mut log = partition.log.borrow_mut();
        let mut guard = guard;
        if scene.makes(Mistake::GuardIgnored)
            && let Ok(VerificationNeed::Ask(newest)) =
                log.producers.begin_verification(batch, claim.version(), scene.now())
        {
            guard = newest;
        }
        if log.producers.verified(batch.id, guard) {
            return Some(Ok(()));
        }
        scene.world.count("verify: the answer came too late");
    }
    Some(Ok(()))
}

async fn ask(
    cluster: &Rc<Cluster>,
    partition: &Rc<Partition>,
    id: &str,
    batch: &BatchProducer,
    claim: Claim,
) -> Result<(), ErrorCode> {
    let scene = &cluster.scene;
    let fault = scene.settings.network_fault.saturating_mul(4);
    scene.travel().await;
    if scene.is_faulty(fault) {
        return Err(ErrorCode::NetworkException);
    }
    let partitions: PartitionNames = [(partition.topic.as_str(), partition.number)].into_iter().collect();
    let writer = odradek::txn::Writer { producer: batch.id, epoch: batch.epoch };
    let coordinator = cluster.coordinator_of(id);
    let answered = match claim.version() {
        TransactionVersion::V1 => coordinator.verify(id, writer, &partitions),
        version @ TransactionVersion::V2 => {
            let addition = Addition { writer, version, partitions };
            coordinator.add(id, addition).await.unwrap_or(Err(ErrorCode::NetworkException))
        }
    };
    if scene.is_faulty(fault) {
        scene.pause(2 * S).await; // Late: markers may come first.
    }
    scene.travel().await;
    scene.world.count(match answered {
        Ok(()) => "verify: confirmed",
        Err(_) => "verify: refused",
    });
    answered
}

/// As `odradek::shard::verification` has it.
pub fn is_final(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::InvalidProducerIdMapping
            | ErrorCode::InvalidTxnState
            | ErrorCode::ProducerFenced
            | ErrorCode::TransactionAbortable
    )
}

/// As `odradek::shard::verification` has it.
pub fn told(error: ErrorCode, claim: Claim) -> ErrorCode {
    match error {
        ErrorCode::ConcurrentTransactions if claim == Claim::Adds => error,
        ErrorCode::TransactionAbortable if claim == Claim::Added => ErrorCode::InvalidTxnState,
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::ConcurrentTransactions
        | ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotEnoughReplicas,
        ErrorCode::InvalidProducerIdMapping => ErrorCode::InvalidTxnState,
        error => error,
    }
}

/// Produce of one batch. `None`: the connection has ended.
pub async fn produce(cluster: &Rc<Cluster>, id: &str, mut write: Write) -> Option<Result<(), ErrorCode>> {
    let scene = &cluster.scene;
    let Place::Record { partition, mut sequence } = write.place else { unreachable!("it is a record") };
    let partition = &cluster.partitions[partition];
    if !partition.is_up() {
        return None;
    }
    if scene.makes(Mistake::EpochOfBatchRaised)
        && let Some(newest) = scene.watch.borrow().newest_writer(id)
        && newest.producer == write.writer.producer
        && newest.epoch > write.writer.epoch
    {
        (write.writer, sequence) = (newest, 0);
    }
    let batch = BatchProducer {
        id: write.writer.producer,
        epoch: write.writer.epoch,
        base_sequence: Sequence(sequence),
        last_sequence: Sequence(sequence),
        is_transactional: write.is_transactional,
    };
    let run = partition.run.get();
    if write.is_transactional
        && let Err(error) = verify(cluster, partition, id, &batch, write.claim).await?
    {
        return Some(Err(error));
    }
    if scene.world.one_in(4) {
        scene.wait_for_room().await;
        if partition.run.get() != run {
            return None;
        }
    }
    let value = write.number.to_be_bytes().to_vec();
    let bytes = batch_of(
        &[(None, Some(value))],
        Some((write.writer, Some(sequence))),
        write.is_transactional,
        scene.now(),
    );
    let (sender, receiver) = oneshot::channel();
    let on_end = Box::new(move |result| {
        let _ = sender.send(result);
    });
    match partition.append(bytes, Some(write.writer), Content::Record(write.number), on_end) {
        Ok(()) => receiver.await.ok(),
        Err(error) => Some(Err(error)),
    }
}

/// A marker for a partition, from a coordinator or an operator.
#[derive(Clone, Copy, Debug)]
pub struct MarkerItem {
    pub marker: EndMarker,
    pub version: TransactionVersion,
    /// The newest epoch that a coordinator has.
    pub newest: CoordinatorEpoch,
    pub is_coordinators: bool,
}

/// Brings a marker into a partition. `None`: the partition has crashed with it.
pub async fn mark(cluster: &Rc<Cluster>, at: usize, item: MarkerItem) -> Option<Result<(), ErrorCode>> {
    let scene = &cluster.scene;
    let partition = &cluster.partitions[at];
    let (sender, receiver) = oneshot::channel();
    let telling = cluster.clone();
    let on_end = Box::new(move |result: Result<(), ErrorCode>| {
        if result.is_ok() && at == telling.offsets_partition() {
            telling.groups.transaction_ended(item.marker.producer, item.marker.outcome);
        }
        let _ = sender.send(result);
    });
    let open = partition.open_transactions();
    let is_open = open.iter().any(|(writer, _)| writer.producer == item.marker.producer);
    match partition.append_marker(&item.marker, item.version, item.newest, on_end) {
        Ok(()) if item.is_coordinators && is_open => {
            scene.watch.borrow().marker_ends(partition, &item.marker);
        }
        Ok(()) => {}
        Err(error) => {
            scene.world.note(format_args!("  {}-{} {error:?}: {item:?}", partition.topic, partition.number));
            let is_late = error == ErrorCode::InvalidProducerEpoch && item.is_coordinators;
            if is_late && !is_open {
                // It has ended there before.
                scene.watch.borrow_mut().marked(partition, &item.marker);
            } else if is_late && scene.watch.borrow().has_decided(&item.marker) {
                let what = format!("{}-{} is open and refuses {item:?}", partition.topic, partition.number);
                scene.world.finding(check::ONE_OUTCOME, format_args!("{what}"));
            }
            return Some(Err(error));
        }
    }
    let run = partition.run.get();
    let ended = receiver.await.ok()?;
    if partition.run.get() != run {
        return None;
    }
    if ended.is_ok() {
        scene.watch.borrow_mut().marked(partition, &item.marker);
    }
    Some(ended)
}
