//! A partition's leadership as the image stores it.

use super::Leadership;
use crate::cluster::record::{PartitionState, Replica};
use crate::types::{LeaderEpoch, PartitionEpoch};

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
            adding: self.adding.clone(),
            removing: self.removing.clone(),
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
        }
    }

    /// Under another leadership, which has some of the same replicas.
    pub fn with_leadership(self, leadership: &Leadership) -> PartitionState {
        self.with_replicas(leadership, &[])
    }

    /// With those of `moved` that it has on the shards that they have gone to. A leader that goes to another one leads
    /// anew: those that follow it, and under core routing its clients, find it elsewhere.
    pub fn with_owners(&self, moved: &[Replica]) -> PartitionState {
        let mut state = self.clone();
        for replica in &mut state.replicas {
            let next = moved.iter().find(|moved| moved.node == replica.node);
            if let Some(next) = next.filter(|next| next.owner != replica.owner) {
                *replica = *next;
                state.partition_epoch = PartitionEpoch(self.partition_epoch.0 + 1);
                if self.leader == Some(replica.node) {
                    state.leader_epoch = LeaderEpoch(self.leader_epoch.0 + 1);
                }
            }
        }
        state
    }

    /// The same where a leadership has `more`. Who is a replica already stays where it is.
    pub fn with_replicas(self, leadership: &Leadership, more: &[Replica]) -> PartitionState {
        let all = || self.replicas.iter().chain(more).copied();
        let replica =
            |node: &_| all().find(|replica| replica.node == *node).expect("it is that of these replicas");
        PartitionState {
            replicas: leadership.replicas.iter().map(replica).collect(),
            in_sync: leadership.in_sync.clone(),
            eligible_leaders: leadership.eligible_leaders.clone(),
            adding: leadership.adding.clone(),
            removing: leadership.removing.clone(),
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
    use crate::types::NodeId;

    #[test]
    fn what_is_stored_is_what_was_decided() {
        let replicas = vec![replica(2, 1), replica(1, 0), replica(3, 0)];
        let decided = Leadership {
            replicas: vec![NodeId(2), NodeId(1), NodeId(3)],
            in_sync: vec![NodeId(1)],
            eligible_leaders: vec![NodeId(2)],
            adding: vec![NodeId(3)],
            removing: vec![NodeId(1)],
            leader: Some(NodeId(1)),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
        };
        let stored = PartitionState::created(replicas.clone(), &decided);
        assert_eq!(stored.check(), Ok(()));
        assert_eq!(stored.replicas, replicas, "owners and directories stay");
        assert_eq!(stored.leadership(), decided);
    }

    #[test]
    fn who_stays_keeps_its_place_and_who_comes_has_the_given_one() {
        let state = PartitionState::new(vec![replica(1, 1), replica(2, 2)]);
        let mut decided = state.leadership();
        decided.replicas = vec![NodeId(3), NodeId(2)];
        (decided.in_sync, decided.leader) = (vec![NodeId(2)], Some(NodeId(2)));
        let stored = state.with_replicas(&decided, &[replica(2, 7), replica(3, 3)]);
        assert_eq!(stored.replicas, [replica(3, 3), replica(2, 2)]);
        assert_eq!(stored.check(), Ok(()));
    }
}
