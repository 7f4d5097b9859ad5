//! Markers of a transaction that is decided, until every partition has one, as `odradek::shard::transactions` writes
//! them. On their way they are late, get lost, and outlive who has sent them.

use crate::transactions::coordinator::Shell;
use crate::transactions::produce::{MarkerItem, mark};
use crate::transactions::settings::{Mistake, S};
use crate::transactions::watch::Cause;
use crate::world::Micros;
use futures::channel::oneshot;
use futures::future::join_all;
use odradek::codec::control_record::TransactionOutcome;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::transaction_record::PartitionNames;
use odradek::txn::Marking;
use odradek::types::limits::MARKER_RETRY_TIMES;
use std::rc::Rc;

impl Shell {
    /// Until the coordinator has heard of it, or is the coordinator no more: the next one does it again.
    pub(super) async fn run_marking(self: Rc<Self>, run: u64, mut marking: Marking) {
        let world = self.scene.world.clone();
        let micros = |time: std::time::Duration| time.as_micros() as Micros;
        let (mut wait, wait_max) = (micros(MARKER_RETRY_TIMES.0), micros(MARKER_RETRY_TIMES.1));
        if marking.is_again {
            world.count("marker: only its record is tried again");
            world.sleep(wait_max).await;
        }
        let is_over = || self.writes.run() != run || !self.is_ready();
        while !is_over() {
            marking.partitions = self.write_markers(&marking).await;
            if is_over() {
                return;
            }
            if marking.partitions.is_empty() {
                self.decide(Cause::Marked, |coordinator, now, effects| {
                    coordinator.marked(&marking.transactional_id, marking.id, now, effects);
                });
                return;
            }
            world.count("marker: tried again");
            world.sleep(wait).await;
            wait = (wait * 2).min(wait_max);
        }
    }

    /// Returns the partitions that have no marker yet.
    async fn write_markers(self: &Rc<Self>, marking: &Marking) -> PartitionNames {
        let names: Vec<(String, i32)> =
            marking.partitions.iter().map(|(topic, index)| (topic.to_owned(), index)).collect();
        let first_only = self.scene.makes(Mistake::MarkedByTheFirst);
        let sent = names.iter().take(if first_only { 1 } else { usize::MAX });
        let sent =
            sent.map(|(topic, index)| self.clone().write_marker(marking.clone(), topic.clone(), *index));
        let outcomes = join_all(sent).await;
        let mut left = PartitionNames::default();
        for ((topic, index), outcome) in names.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {}
                // Somebody has ended it there, and the producer has gone on.
                Err(ErrorCode::InvalidProducerEpoch) => self.scene.world.count("marker: comes too late"),
                Err(_) if self.scene.makes(Mistake::MarkerErrorTakenForDone) => {}
                Err(_) => left.insert(topic, *index),
            }
        }
        left
    }

    /// On its way it goes on alone: whoever has sent it may be gone when it comes.
    async fn write_marker(
        self: Rc<Self>,
        marking: Marking,
        topic: String,
        index: i32,
    ) -> Result<(), ErrorCode> {
        let (sender, receiver) = oneshot::channel();
        let scene = self.scene.clone();
        let cluster = self.cluster();
        let node_run = scene.run.get();
        let own_run = self.writes.run();
        let shell = self.clone();
        scene.world.clone().spawn(async move {
            let fault = scene.settings.network_fault.saturating_mul(2);
            scene.travel().await;
            if scene.is_faulty(fault) {
                scene.world.count("marker: lost");
                let _ = sender.send(Err(ErrorCode::NetworkException));
                return;
            }
            if scene.is_faulty(fault) {
                scene.world.count("marker: late");
                scene.pause(8 * S).await;
            }
            if scene.run.get() != node_run {
                return; // It was on its way within a process that is gone.
            }
            if shell.writes.run() != own_run {
                scene.world.count("marker: of a coordinator that is gone");
            }
            let mut marker = marking.marker;
            if scene.makes(Mistake::OutcomeTurned) && scene.world.one_in(4) {
                marker.outcome = match marker.outcome {
                    TransactionOutcome::Commit => TransactionOutcome::Abort,
                    TransactionOutcome::Abort => TransactionOutcome::Commit,
                };
            }
            let item = MarkerItem {
                marker,
                version: marking.version,
                newest: marker.coordinator_epoch,
                is_coordinators: true,
            };
            let at = cluster.partition_named(&topic, index);
            let mut outcome = mark(&cluster, at, item).await.unwrap_or(Err(ErrorCode::NetworkException));
            if outcome == Err(ErrorCode::TransactionCoordinatorFenced) {
                scene.world.count("marker: refused, TRANSACTION_COORDINATOR_FENCED");
            }
            if outcome.is_ok() && scene.is_faulty(fault) {
                scene.world.count("marker: answer lost");
                outcome = Err(ErrorCode::NetworkException);
            }
            scene.travel().await;
            let _ = sender.send(outcome);
        });
        receiver.await.unwrap_or(Err(ErrorCode::NetworkException))
    }
}
