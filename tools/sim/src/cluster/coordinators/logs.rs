//! What leaders have of transactions in their logs, by the product's own account of it; appends to these partitions,
//! and how they end.
//!
//! It is made anew from the replica's batches when a node begins to lead, and goes when it leads no more.

use crate::cluster::coordinators::Then;
use crate::replication::leading::{COORDINATOR, Judged};
use crate::replication::log::{Batch, offset};
use crate::replication::node::Role;
use crate::replication::scene::Scene;
use crate::transactions::partition::{empty_log, refused};
use odradek::codec::control_record::EndMarker;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::record_batch::{BatchView, assign_offset};
use odradek::log::partition::{AppendDecision, PartitionLog};
use odradek::replication::produces::{Acks, ProduceOutcome};
use odradek::types::{LeaderEpoch, Offset, Timestamp, TransactionVersion};
use std::collections::BTreeMap;

/// An append that is not as safe as it is to be.
struct Parked {
    node: usize,
    then: Then<Result<(), ErrorCode>>,
}

/// Lives: one per seed.
#[derive(Default)]
pub struct Logs {
    /// What batches say, by their values.
    said: BTreeMap<u64, Vec<u8>>,
    /// By node and partition.
    led: BTreeMap<(usize, usize), PartitionLog>,
    parked: BTreeMap<u64, Parked>,
    next_parked: u64,
}

impl Logs {
    /// A batch of a replica, as the product has it.
    pub fn bytes(&self, batch: &Batch) -> Vec<u8> {
        let mut bytes = self.said[&batch.value].clone();
        assign_offset(&mut bytes, offset(batch.base), LeaderEpoch(batch.epoch));
        bytes
    }

    pub fn led(&mut self, id: usize, partition: usize) -> Option<&mut PartitionLog> {
        self.led.get_mut(&(id, partition))
    }

    pub fn is_led_no_more(&mut self, id: usize, partition: usize) {
        self.led.remove(&(id, partition));
    }

    pub fn crash(&mut self, id: usize) {
        self.led.retain(|(node, _), _| *node != id);
        self.parked.retain(|_, parked| parked.node != id);
    }
}

/// What is to be appended.
pub enum Appending {
    Batch(Vec<u8>),
    Marker(EndMarker, TransactionVersion),
}

impl Scene {
    /// This node leads, from now on.
    pub fn opens_led_log(&mut self, id: usize, partition: usize) {
        let now = self.wall();
        let replica = &self.nodes[id].replicas[&partition];
        let logs = &mut self.coordinators.as_mut().expect("the cluster has some").logs;
        let mut log = empty_log(now);
        log.replicate_from(Some(Offset::ZERO));
        for batch in &replica.log.memory.batches {
            let bytes = logs.bytes(batch);
            let (view, _) = BatchView::split_first(&bytes).expect("it was written");
            let plan = log.plan_replicated(&view, now).expect("it was judged when it was appended");
            log.apply_append(&plan, &view, now);
        }
        everything_is_flushed(&mut log);
        logs.led.insert((id, partition), log);
    }

    /// What is told of it waits for the high watermark of the replica.
    pub fn settled_log(&mut self, id: usize, partition: usize) -> Option<&mut PartitionLog> {
        let replica = self.nodes[id].replicas.get(&partition)?;
        let high_watermark = offset(replica.known_high_watermark());
        let log = self.coordinators().logs.led(id, partition)?;
        log.replicate_from(Some(high_watermark));
        Some(log)
    }

    /// Judges something and appends it; `then` is told when it is below the high watermark, or why it is not.
    pub fn append_coordinated(
        &mut self,
        id: usize,
        partition: usize,
        what: Appending,
        then: Then<Result<(), ErrorCode>>,
    ) {
        if let Err((error, then)) = self.try_to_append(id, partition, what, then) {
            then(self, Err(error));
        }
    }

    fn try_to_append(
        &mut self,
        id: usize,
        partition: usize,
        what: Appending,
        then: Then<Result<(), ErrorCode>>,
    ) -> Result<(), (ErrorCode, Then<Result<(), ErrorCode>>)> {
        let now = self.wall();
        let Some(replica) = self.nodes[id].replicas.get(&partition) else {
            return Err((ErrorCode::NotLeaderOrFollower, then));
        };
        let Role::Leader(leader) = &replica.role else { return Err((ErrorCode::NotLeaderOrFollower, then)) };
        if leader.admit(Acks::All).is_err() {
            return Err((ErrorCode::NotEnoughReplicas, then));
        }
        let (epoch, end) = (leader.epoch(), replica.log.end());
        let logs = &mut self.coordinators.as_mut().expect("the cluster has some").logs;
        let Some(log) = logs.led.get_mut(&(id, partition)) else {
            return Err((ErrorCode::NotLeaderOrFollower, then));
        };
        assert!(log.log_end() == offset(end), "both are one log");
        let (bytes, decision) = decide(log, what, now);
        let judged = match decision {
            Err(error) => return Err((error, then)),
            Ok(AppendDecision::Duplicate(stored)) => {
                self.world.count("produce: there already");
                Judged::There { end: stored.last_offset.get() + 1 }
            }
            Ok(AppendDecision::Append(plan)) => {
                let value = self.clients.next_value();
                let mut placed = bytes.clone();
                assign_offset(&mut placed, plan.base_offset, epoch);
                let (view, _) = BatchView::split_first(&placed).expect("it was just written");
                log.apply_append(&plan, &view, now);
                everything_is_flushed(log);
                let count = view.last_offset_delta() + 1;
                logs.said.insert(value, bytes);
                let batch = Batch { base: end, count, epoch: epoch.0, producer: 0, sequence: 0, value };
                self.watch.sends(partition, &batch);
                Judged::New(batch)
            }
        };
        logs.next_parked += 1;
        let number = logs.next_parked;
        logs.parked.insert(number, Parked { node: id, then });
        self.append_judged(id, partition, judged, Some(Acks::All), (COORDINATOR, number));
        Ok(())
    }

    /// An append has ended.
    pub fn is_written(&mut self, number: u64, outcome: ProduceOutcome) {
        let Some(parked) = self.coordinators().logs.parked.remove(&number) else { return };
        let result = match outcome {
            ProduceOutcome::Done => Ok(()),
            ProduceOutcome::NotEnoughReplicasAfterAppend => {
                self.world.count("coordinator: not enough replicas after an append");
                Err(ErrorCode::NotEnoughReplicasAfterAppend)
            }
            ProduceOutcome::NotLeader => Err(ErrorCode::NotLeaderOrFollower),
        };
        (parked.then)(self, result);
    }
}

/// The batch, and what is to become of it.
fn decide(
    log: &PartitionLog,
    what: Appending,
    now: Timestamp,
) -> (Vec<u8>, Result<AppendDecision, ErrorCode>) {
    match what {
        Appending::Batch(bytes) => {
            let (view, _) = BatchView::split_first(&bytes).expect("it was just written");
            let decision = log.decide_append(&view, now).map_err(refused);
            (bytes, decision)
        }
        Appending::Marker(marker, version) => {
            let mut bytes = Vec::new();
            marker.write(now, &mut bytes);
            let (view, _) = BatchView::split_first(&bytes).expect("it was just written");
            let decision = log.decide_marker(&marker, version, &view, now).map_err(refused);
            (bytes, decision.map(AppendDecision::Append))
        }
    }
}

/// How far the replica's log is flushed, its replica knows.
fn everything_is_flushed(log: &mut PartitionLog) {
    let end = log.log_end();
    log.sealed(end);
    log.durable(end);
}
