//! AlterPartition: a leader asks for another in-sync set, under the epochs that it knows.

use super::{Leadership, Rules, Target};
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch};

/// What a leader asks for.
#[derive(Clone, Copy, Debug)]
pub struct Alteration<'a> {
    /// Who asks, and as which registration.
    pub node: NodeId,
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// With the registration that each had when it was found in sync; none of those in sync before.
    pub in_sync: &'a [(NodeId, Option<BrokerEpoch>)],
}

/// Why it does not get it. Kafka's codes, in the order in which they are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlterRefused {
    #[error("node {0:?} is not registered under that epoch")]
    StaleBrokerEpoch(NodeId),
    /// The leader knows more than this controller, which therefore is none any more.
    #[error("the epoch is ahead of the controller's")]
    NotController,
    #[error("leader epoch {asked:?} is behind {current:?}")]
    FencedLeaderEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    #[error("node {0:?} does not lead the partition")]
    NotLeader(NodeId),
    #[error("partition epoch {asked:?} is behind {current:?}")]
    InvalidUpdateVersion { asked: PartitionEpoch, current: PartitionEpoch },
    #[error("the in-sync set names others than replicas, one twice, or lacks the leader")]
    InvalidInSync,
    #[error(
        "node {0:?} may not be in sync: it is fenced, stops, has started anew, or its log directory has failed"
    )]
    IneligibleReplica(NodeId),
}

impl Leadership {
    /// The partition as the leader wants it, under a new partition epoch, also where nothing else changes: whatever
    /// else was asked for under the old one is void from then on.
    ///
    /// Other than in Kafka only those are looked at who come in. Who is in sync stays so until it is fenced, and
    /// a leader can take others in meanwhile.
    pub fn alter(&self, rules: Rules<'_>, asked: Alteration<'_>) -> Result<Leadership, AlterRefused> {
        let known = rules.members.get(asked.node);
        if known.is_none_or(|member| member.broker_epoch != asked.broker_epoch) {
            return Err(AlterRefused::StaleBrokerEpoch(asked.node));
        }
        if asked.leader_epoch > self.leader_epoch || asked.partition_epoch > self.partition_epoch {
            return Err(AlterRefused::NotController);
        }
        if asked.leader_epoch < self.leader_epoch {
            let (asked, current) = (asked.leader_epoch, self.leader_epoch);
            return Err(AlterRefused::FencedLeaderEpoch { asked, current });
        }
        if self.leader != Some(asked.node) {
            return Err(AlterRefused::NotLeader(asked.node));
        }
        if asked.partition_epoch < self.partition_epoch {
            let (asked, current) = (asked.partition_epoch, self.partition_epoch);
            return Err(AlterRefused::InvalidUpdateVersion { asked, current });
        }
        let in_sync: Vec<NodeId> = asked.in_sync.iter().map(|(node, _)| *node).collect();
        let is_known = in_sync.iter().all(|node| self.replicas.contains(node));
        let is_twice = |at: usize| in_sync[..at].contains(&in_sync[at]);
        if !is_known || (0..in_sync.len()).any(is_twice) || !in_sync.contains(&asked.node) {
            return Err(AlterRefused::InvalidInSync);
        }
        for (node, broker_epoch) in asked.in_sync.iter().filter(|(node, _)| !self.in_sync.contains(node)) {
            let member = rules.members.get(*node).filter(|_| rules.is_active(*node));
            if member.is_none() || member.map(|member| member.broker_epoch) != *broker_epoch {
                return Err(AlterRefused::IneligibleReplica(*node));
            }
        }
        Ok(self.change(rules, Target::in_sync(&in_sync)).unwrap_or_else(|| {
            let partition_epoch = PartitionEpoch(self.partition_epoch.0 + 1);
            Leadership { partition_epoch, ..self.clone() }
        }))
    }
}
