//! A partition's leadership as the image stores it.

use super::Leadership;
use crate::cluster::record::{PartitionState, Replica};

impl PartitionState {
    /// A new partition on these replicas.
    pub fn created(replicas: Vec<Replica>, leadership: &Leadership) -> PartitionState {
        PartitionState::new(replicas).with_leadership(leadership)
    }

    pub fn leadership(&self) -> Leadership {
        Leadership {
            replicas: self.replicas.iter().map(|replica| replica.node).collect(),
            in_sync: self.in_sync.clone(),
            eligible_leaders: self.eligible_leaders.clone(),
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
        }
    }

    /// The same replicas under another leadership.
    pub fn with_leadership(self, leadership: &Leadership) -> PartitionState {
        let replicas = self.replicas.iter().map(|replica| replica.node);
        assert!(replicas.eq(leadership.replicas.iter().copied()), "it is that of these replicas");
        PartitionState {
            replicas: self.replicas,
            in_sync: leadership.in_sync.clone(),
            eligible_leaders: leadership.eligible_leaders.clone(),
            leader: leadership.leader,
            leader_epoch: leadership.leader_epoch,
            partition_epoch: leadership.partition_epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::replica;
    use crate::types::{LeaderEpoch, NodeId, PartitionEpoch};

    #[test]
    fn what_is_stored_is_what_was_decided() {
        let replicas = vec![replica(2, 1), replica(1, 0), replica(3, 0)];
        let decided = Leadership {
            replicas: vec![NodeId(2), NodeId(1), NodeId(3)],
            in_sync: vec![NodeId(1)],
            eligible_leaders: vec![NodeId(2)],
            leader: Some(NodeId(1)),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
        };
        let stored = PartitionState::created(replicas.clone(), &decided);
        assert_eq!(stored.check(), Ok(()));
        assert_eq!(stored.replicas, replicas, "owners and directories stay");
        assert_eq!(stored.leadership(), decided);
    }
}
