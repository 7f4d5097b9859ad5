//! AlterPartition: leaders ask for other in-sync sets (KIP-497).

use super::Controller;
use crate::cluster::leadership::Rules;
use crate::cluster::leadership::alter::{AlterRefused, Alteration};
use crate::cluster::lifecycle::InSyncMin;
use crate::cluster::record::Record;
use crate::codec::control::{
    AlterOutcome, AlterPartitions, AlterRefusal, AlteredPartition, PartitionProposal,
};
use std::collections::BTreeSet;

/// Decides each proposal by itself; of a partition that is named twice the first.
pub fn decide_alter_partitions(
    controller: Controller<'_>,
    asked: &AlterPartitions,
) -> (Vec<Record>, Vec<AlteredPartition>) {
    let members = controller.image.members();
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    let mut altered = Vec::with_capacity(asked.partitions.len());
    for proposal in &asked.partitions {
        if !seen.insert(proposal.partition) {
            altered.push(refused(proposal, AlterRefusal::InvalidRequest));
            continue;
        }
        let topic = controller.image.topic(proposal.partition.topic);
        let state = topic.and_then(|topic| topic.partitions.get(proposal.partition.partition.index()));
        let (Some(topic), Some(state)) = (topic, state) else {
            altered.push(refused(proposal, AlterRefusal::UnknownPartition));
            continue;
        };
        let in_sync_min = InSyncMin::of(topic, controller.defaults).get(state);
        let offline = controller.image.offline_replicas(state);
        let rules = Rules { members: &members, in_sync_min, offline: &offline };
        let alteration = Alteration {
            node: asked.node,
            broker_epoch: asked.broker_epoch,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            in_sync: &proposal.in_sync,
        };
        altered.push(match state.leadership().alter(rules, alteration) {
            Err(reason) => refused(proposal, refusal(reason)),
            Ok(leadership) => {
                let state = state.clone().with_leadership(&leadership);
                records.push(Record::PartitionChanged { id: proposal.partition, state });
                let (partition_epoch, in_sync) = (leadership.partition_epoch, leadership.in_sync);
                AlteredPartition {
                    partition: proposal.partition,
                    leader_epoch: leadership.leader_epoch,
                    outcome: AlterOutcome::Committed { partition_epoch, in_sync },
                }
            }
        });
    }
    let level = records.iter().map(Record::feature_level).max().unwrap_or_default();
    if controller.image.feature_level() < level {
        records.insert(0, Record::FeatureLevelSet { level });
    }
    (records, altered)
}

fn refused(proposal: &PartitionProposal, reason: AlterRefusal) -> AlteredPartition {
    AlteredPartition {
        partition: proposal.partition,
        leader_epoch: proposal.leader_epoch,
        outcome: AlterOutcome::Refused { partition_epoch: proposal.partition_epoch, reason },
    }
}

fn refusal(reason: AlterRefused) -> AlterRefusal {
    match reason {
        AlterRefused::StaleBrokerEpoch(_) => AlterRefusal::StaleBrokerEpoch,
        AlterRefused::NotController => AlterRefusal::NotController,
        AlterRefused::FencedLeaderEpoch { .. } => AlterRefusal::FencedLeaderEpoch,
        AlterRefused::NotLeader(_) | AlterRefused::InvalidInSync => AlterRefusal::InvalidRequest,
        AlterRefused::InvalidUpdateVersion { .. } => AlterRefusal::InvalidUpdateVersion,
        AlterRefused::IneligibleReplica(_) => AlterRefusal::IneligibleReplica,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::cluster::image::tests::{node, partition_id, replica, topic_id};
    use crate::cluster::record::{Node, PartitionState};
    use crate::config::Routing;
    use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch};

    /// Nodes 1 to 3 under epochs 11 to 13, and two partitions on them that node 1 leads.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(1, Routing::Node);
        let mut take = |record| cluster.image.apply(&record).expect("fits");
        for id in 1..=3 {
            let broker_epoch = BrokerEpoch(10 + i64::from(id));
            take(Record::NodeRegistered(Node { broker_epoch, ..node(id, 1, Routing::Node) }));
        }
        take(Record::TopicCreated { topic: topic_id(1), name: "a".to_owned() });
        for index in 0..2 {
            let state = PartitionState::new(vec![replica(1, 0), replica(2, 0), replica(3, 0)]);
            take(Record::PartitionCreated { id: partition_id(1, index), state });
        }
        cluster
    }

    fn proposal(index: usize, partition_epoch: i32, in_sync: &[(i32, Option<i64>)]) -> PartitionProposal {
        let member = |(node, epoch): &(i32, Option<i64>)| (NodeId(*node), epoch.map(BrokerEpoch));
        PartitionProposal {
            partition: partition_id(1, index),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(partition_epoch),
            in_sync: in_sync.iter().map(member).collect(),
        }
    }

    fn alter(cluster: &mut Cluster, node: i32, partitions: Vec<PartitionProposal>) -> Vec<AlterOutcome> {
        let broker_epoch = BrokerEpoch(10 + i64::from(node));
        let asked = AlterPartitions { node: NodeId(node), broker_epoch, partitions };
        let (_, altered) = cluster.decide(|view, _| decide_alter_partitions(view, &asked));
        altered.into_iter().map(|altered| altered.outcome).collect()
    }

    fn is_refused(outcome: &AlterOutcome, why: AlterRefusal) -> bool {
        matches!(outcome, AlterOutcome::Refused { reason, .. } if *reason == why)
    }

    #[test]
    fn sets_shrink_and_grow_again_by_the_registration_that_caught_up() {
        let mut cluster = cluster();
        let both = [(1, None), (3, None)];
        let outcomes = alter(&mut cluster, 1, vec![proposal(0, 0, &both), proposal(1, 0, &[(1, None)])]);
        let committed = |epoch, nodes: &[i32]| AlterOutcome::Committed {
            partition_epoch: PartitionEpoch(epoch),
            in_sync: nodes.iter().copied().map(NodeId).collect(),
        };
        assert_eq!(outcomes, [committed(1, &[1, 3]), committed(1, &[1])]);
        let state = cluster.image.partition(partition_id(1, 1)).expect("it is there");
        assert_eq!(state.eligible_leaders, [NodeId(2), NodeId(3)], "fewer than two are in sync");
        let grown = [(1, None), (2, Some(12)), (3, None)];
        assert_eq!(alter(&mut cluster, 1, vec![proposal(0, 1, &grown)]), [committed(2, &[1, 2, 3])]);
        let earlier = [(1, None), (2, Some(7))];
        let outcomes = alter(&mut cluster, 1, vec![proposal(1, 1, &earlier)]);
        assert!(is_refused(&outcomes[0], AlterRefusal::IneligibleReplica), "{outcomes:?}");
    }

    #[test]
    fn each_proposal_is_refused_by_itself() {
        let mut cluster = cluster();
        let set = [(1, None), (2, None)];
        let unknown = PartitionProposal { partition: partition_id(2, 0), ..proposal(0, 0, &set) };
        let asked = vec![unknown, proposal(0, 5, &set), proposal(1, 0, &set), proposal(1, 0, &set)];
        let outcomes = alter(&mut cluster, 1, asked);
        assert!(is_refused(&outcomes[0], AlterRefusal::UnknownPartition), "{outcomes:?}");
        assert!(is_refused(&outcomes[1], AlterRefusal::NotController), "{outcomes:?}");
        assert!(matches!(outcomes[2], AlterOutcome::Committed { .. }), "{outcomes:?}");
        assert!(is_refused(&outcomes[3], AlterRefusal::InvalidRequest), "{outcomes:?}");
        let outcomes = alter(&mut cluster, 2, vec![proposal(0, 0, &[(1, None), (2, None)])]);
        assert!(is_refused(&outcomes[0], AlterRefusal::InvalidRequest), "it does not lead: {outcomes:?}");
        let late = AlterPartitions {
            node: NodeId(1),
            broker_epoch: BrokerEpoch(1),
            partitions: vec![proposal(0, 0, &set)],
        };
        let (records, altered) = cluster.decide(|view, _| decide_alter_partitions(view, &late));
        assert_eq!(records, []);
        assert!(is_refused(&altered[0].outcome, AlterRefusal::StaleBrokerEpoch), "{altered:?}");
    }
}
