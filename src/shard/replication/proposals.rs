//! A leader asks the controller for another in-sync set (AlterPartition, KIP-497).

use crate::codec::control::{
    AlterOutcome, AlterPartitions, AlterRefusal, AlteredPartition, PartitionProposal,
};
use crate::replication::in_sync::{Committed, Proposal};
use crate::replication::leader::Event;
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use crate::shard::replica::Replica;
use std::rc::Rc;

/// Asks once; an answer that does not come is asked for again by the leader's ticks.
pub async fn propose(shard: Rc<Shard>, replica: Rc<Replica>, proposal: Proposal) {
    let asked = PartitionProposal {
        partition: replica.id,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        in_sync: proposal.in_sync,
    };
    let request =
        AlterPartitions { node: shard.node, broker_epoch: shard.broker_epoch(), partitions: vec![asked] };
    match shard.control(ControlRequest::AlterPartitions(request)).await {
        ControlReply::AlterPartitions(altered) => {
            altered.iter().for_each(|altered| take_in(&shard, &replica, altered));
        }
        ControlReply::Failed(error) => {
            tracing::debug!(partition = ?replica.id, ?error, "the controller has not altered an in-sync set");
        }
        _ => unreachable!("partitions are altered as that"),
    }
}

fn take_in(shard: &Shard, replica: &Rc<Replica>, altered: &AlteredPartition) {
    if replica.replication.epoch() != Some(altered.leader_epoch) {
        return;
    }
    match &altered.outcome {
        AlterOutcome::Committed { partition_epoch, in_sync } => {
            let in_sync = in_sync.clone();
            let committed = Committed { partition_epoch: *partition_epoch, in_sync };
            replica.lead(Event::IsrCommitted(committed));
        }
        // News of the metadata are due, or another registration.
        AlterOutcome::Refused {
            reason: AlterRefusal::FencedLeaderEpoch | AlterRefusal::InvalidUpdateVersion,
            ..
        } => {}
        AlterOutcome::Refused { partition_epoch, reason } => {
            tracing::debug!(partition = ?replica.id, ?reason, "an in-sync set was refused");
            let (partition_epoch, now) = (*partition_epoch, shard.clock.mono());
            replica.lead(Event::ProposalRefused { partition_epoch, now });
        }
    }
}
