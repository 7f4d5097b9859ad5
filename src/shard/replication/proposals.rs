//! Leaders ask the controller for other in-sync sets (AlterPartition, KIP-497): all of a shard in one request, and the
//! next one once that is answered. A node that is back in sync with thousands of partitions costs few commits.

use crate::codec::control::{
    AlterOutcome, AlterPartitions, AlterRefusal, AlteredPartition, PartitionProposal,
};
use crate::replication::in_sync::{Committed, Proposal};
use crate::replication::leader::Event;
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use crate::shard::replica::Replica;
use crate::types::TopicPartition;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Partitions of one request: far less than an entry of the metadata holds.
const PROPOSALS_MAX: usize = 1_000;

/// Lives: with its shard.
#[derive(Default)]
pub struct Proposals {
    /// The newest of each partition. Bounded by the partitions of the shard.
    waiting: RefCell<BTreeMap<TopicPartition, PartitionProposal>>,
    is_asking: Cell<bool>,
}

/// Asks once; an answer that does not come is asked for again by the leader's ticks.
pub fn propose(shard: &Rc<Shard>, replica: &Replica, proposal: Proposal) {
    let asked = PartitionProposal {
        partition: replica.id,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        in_sync: proposal.in_sync,
    };
    let proposals = &shard.replication.proposals;
    proposals.waiting.borrow_mut().insert(replica.id, asked);
    if !proposals.is_asking.replace(true) {
        shard.spawn(ask(shard.clone()));
    }
}

/// As long as something waits.
async fn ask(shard: Rc<Shard>) {
    loop {
        let partitions = take(&mut shard.replication.proposals.waiting.borrow_mut());
        if partitions.is_empty() {
            return shard.replication.proposals.is_asking.set(false);
        }
        let request = AlterPartitions { node: shard.node, broker_epoch: shard.broker_epoch(), partitions };
        match shard.control(ControlRequest::AlterPartitions(request)).await {
            ControlReply::AlterPartitions(altered) => {
                altered.iter().for_each(|altered| take_in(&shard, altered));
            }
            ControlReply::Failed(error) => {
                tracing::debug!(?error, "the controller has not altered in-sync sets");
            }
            _ => unreachable!("partitions are altered as that"),
        }
    }
}

fn take(waiting: &mut BTreeMap<TopicPartition, PartitionProposal>) -> Vec<PartitionProposal> {
    let next = std::iter::from_fn(|| waiting.pop_first());
    next.take(PROPOSALS_MAX).map(|(_, proposal)| proposal).collect()
}

fn take_in(shard: &Shard, altered: &AlteredPartition) {
    let Some(replica) = shard.stores.find(&altered.partition) else { return };
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
