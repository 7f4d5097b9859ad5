//! Who is in sync, as the controller has committed it, and who counts as such until it has spoken.
//!
//! ```text
//!   committed {1, 2} under partition epoch 7 ── propose {1, 2, 3} ──► controller
//!   maximal   {1, 2, 3}: the high watermark waits for 3 from now on, as 3 may already be in sync (KIP-497)
//! ```
//!
//! The controller takes a proposal only under the partition epoch it was made under, and ends that epoch with
//! it. So whatever was proposed under an epoch may still be committed, refused or not, until the next epoch is
//! known: a copy of the proposal may come late. Until then it counts.
//! Source: KIP-497, Kafka `Partition.scala` (`PartitionState`); that a refused proposal goes on to count is ours.

use std::collections::BTreeSet;

use crate::types::{BrokerEpoch, LeaderEpoch, Mono, NodeId, PartitionEpoch};

/// What the leader asks of the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub leader_epoch: LeaderEpoch,
    /// Under which it is made.
    pub partition_epoch: PartitionEpoch,
    /// With the registration that each had when it was found in sync (KIP-903); none of those in sync before.
    pub in_sync: Vec<(NodeId, Option<BrokerEpoch>)>,
}

/// The controller's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub partition_epoch: PartitionEpoch,
    pub in_sync: Vec<NodeId>,
}

#[derive(Clone, Debug)]
struct Pending {
    proposal: Proposal,
    sent_at: Mono,
}

/// Lives: one per led partition.
/// Invariant: `committed` ⊆ maximal; a proposal is made under the current partition epoch.
#[derive(Clone, Debug)]
pub struct InSync {
    committed: BTreeSet<NodeId>,
    partition_epoch: PartitionEpoch,
    /// Everybody proposed under this partition epoch.
    proposed: BTreeSet<NodeId>,
    pending: Option<Pending>,
}

impl InSync {
    pub fn new(committed: Committed) -> InSync {
        InSync {
            committed: committed.in_sync.into_iter().collect(),
            partition_epoch: committed.partition_epoch,
            proposed: BTreeSet::new(),
            pending: None,
        }
    }

    pub fn partition_epoch(&self) -> PartitionEpoch {
        self.partition_epoch
    }

    pub fn committed(&self) -> &BTreeSet<NodeId> {
        &self.committed
    }

    /// Those whom the high watermark waits for.
    pub fn maximal(&self) -> impl Iterator<Item = NodeId> {
        self.committed.union(&self.proposed).copied()
    }

    pub fn is_in_maximal(&self, node: NodeId) -> bool {
        self.committed.contains(&node) || self.proposed.contains(&node)
    }

    /// Those who were proposed and refused, and may still be committed.
    pub fn in_vain(&self) -> impl Iterator<Item = NodeId> {
        let is_over = self.pending.is_none();
        self.proposed.difference(&self.committed).copied().filter(move |_| is_over)
    }

    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Makes a proposal; nothing else is pending.
    pub fn propose(
        &mut self,
        leader_epoch: LeaderEpoch,
        in_sync: Vec<(NodeId, Option<BrokerEpoch>)>,
        now: Mono,
    ) -> Proposal {
        assert!(self.pending.is_none(), "one proposal at a time");
        self.proposed.extend(in_sync.iter().map(|(node, _)| *node));
        let proposal = Proposal { leader_epoch, partition_epoch: self.partition_epoch, in_sync };
        self.pending = Some(Pending { proposal: proposal.clone(), sent_at: now });
        proposal
    }

    /// The pending proposal once more, if it has gone unanswered for `patience`.
    pub fn again(&mut self, now: Mono, patience: std::time::Duration) -> Option<Proposal> {
        let pending = self.pending.as_mut().filter(|pending| now.since(pending.sent_at) >= patience)?;
        pending.sent_at = now;
        Some(pending.proposal.clone())
    }

    /// The controller has refused what was proposed under that epoch. It goes on to count.
    pub fn refused(&mut self, partition_epoch: PartitionEpoch) -> Option<Proposal> {
        let pending = self.pending.take_if(|pending| pending.proposal.partition_epoch == partition_epoch);
        pending.map(|pending| pending.proposal)
    }

    /// The controller has committed; whether that was news. Everything proposed before is void.
    pub fn commit(&mut self, committed: Committed) -> bool {
        if committed.partition_epoch <= self.partition_epoch {
            return false;
        }
        *self = InSync::new(committed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn committed(epoch: i32, in_sync: &[i32]) -> Committed {
        Committed {
            partition_epoch: PartitionEpoch(epoch),
            in_sync: in_sync.iter().copied().map(NodeId).collect(),
        }
    }

    fn maximal(in_sync: &InSync) -> Vec<i32> {
        in_sync.maximal().map(|node| node.0).collect()
    }

    fn propose(in_sync: &mut InSync, nodes: &[i32]) -> Proposal {
        let nodes = nodes.iter().map(|node| (NodeId(*node), None)).collect();
        in_sync.propose(LeaderEpoch(1), nodes, Mono(0))
    }

    #[test]
    fn who_is_proposed_counts_at_once_and_who_is_dropped_until_committed() {
        let mut in_sync = InSync::new(committed(7, &[1, 2]));
        propose(&mut in_sync, &[1, 2, 3]);
        assert_eq!(maximal(&in_sync), [1, 2, 3]);
        assert!(in_sync.commit(committed(8, &[1, 2, 3])));
        propose(&mut in_sync, &[1, 3]);
        assert_eq!(maximal(&in_sync), [1, 2, 3]);
        assert!(in_sync.commit(committed(9, &[1, 3])));
        assert_eq!(maximal(&in_sync), [1, 3]);
    }

    #[test]
    fn a_refused_proposal_counts_until_its_epoch_is_over() {
        let mut in_sync = InSync::new(committed(7, &[1, 2]));
        propose(&mut in_sync, &[1, 2, 3]);
        assert!(in_sync.refused(PartitionEpoch(7)).is_some());
        assert_eq!(in_sync.in_vain().collect::<Vec<_>>(), [NodeId(3)]);
        assert_eq!(maximal(&in_sync), [1, 2, 3], "a late copy of it may be committed");
        propose(&mut in_sync, &[1, 2]);
        assert_eq!(maximal(&in_sync), [1, 2, 3]);
        assert!(!in_sync.commit(committed(7, &[1, 2])), "old news");
        assert!(in_sync.commit(committed(8, &[1, 2])));
        assert_eq!(maximal(&in_sync), [1, 2]);
        assert_eq!(in_sync.in_vain().count(), 0);
    }

    #[test]
    fn an_unanswered_proposal_is_made_again_and_an_old_refusal_means_nothing() {
        let mut in_sync = InSync::new(committed(7, &[1, 2]));
        let proposal = propose(&mut in_sync, &[1]);
        let (patience, later) = (Duration::from_secs(1), Mono(1_000_000_000));
        assert_eq!(in_sync.again(Mono(5), patience), None);
        assert_eq!(in_sync.again(later, patience), Some(proposal));
        assert_eq!(in_sync.again(later, patience), None);
        assert_eq!(in_sync.refused(PartitionEpoch(6)), None);
        assert!(in_sync.is_pending());
    }
}
