//! AlterPartitionReassignments: partitions get other replicas, or keep those they had (KIP-455, KIP-860).

use std::collections::BTreeSet;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition,
};
use kafka_protocol::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};

use super::{Change, Controller, Refusal};
use crate::cluster::image::{Topic, partition_index};
use crate::cluster::leadership::reassignment::NotCancelled;
use crate::cluster::leadership::{Members, Rules};
use crate::cluster::lifecycle::InSyncMin;
use crate::cluster::placement::{NoPlace, Placement};
use crate::cluster::record::{PartitionState, Record, Replica};
use crate::codec::error_code::ErrorCode;
use crate::types::{BrokerId, NodeId, TopicPartition};

/// Whether a reassignment may leave a partition with more or fewer replicas (KIP-860).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CountChange {
    Allowed,
    Refused,
}

/// Decides AlterPartitionReassignments 0 to 1, each partition by itself; of one that is named twice the first.
pub fn decide_alter_reassignments(
    controller: Controller<'_>,
    request: &AlterPartitionReassignmentsRequest,
) -> (Vec<Record>, AlterPartitionReassignmentsResponse) {
    let count_change = match request.allow_replication_factor_change {
        true => CountChange::Allowed,
        false => CountChange::Refused,
    };
    let members = controller.image.members();
    let mut placement = Placement::new(controller.image, Some(controller.log_dirs));
    let mut change = Change::new(controller.image);
    let mut seen = BTreeSet::new();
    let mut decide = |name: &str, topic: Option<&Topic>, asked: &ReassignablePartition| {
        let topic = topic.ok_or_else(|| Refusal::TopicNotFound(name.to_owned()))?;
        let index = usize::try_from(asked.partition_index).ok();
        let found = index.and_then(|index| Some((index, topic.partitions.get(index)?)));
        let not_found = || Refusal::PartitionNotFound(name.to_owned(), asked.partition_index);
        let (index, state) = found.ok_or_else(not_found)?;
        let id = TopicPartition { topic: topic.id, partition: partition_index(index) };
        if !seen.insert(id) {
            return Err(Refusal::DuplicateResource);
        }
        let mut tentative = placement.clone();
        let offline = controller.image.offline_replicas(state);
        let of = Partition { controller, members: &members, topic, id, state, offline };
        let state = match &asked.replicas {
            None => Some(of.cancel()?),
            Some(replicas) => {
                let brokers: Vec<BrokerId> = replicas.iter().map(|id| BrokerId(id.0)).collect();
                of.reassign(&brokers, count_change, &mut tentative)?
            }
        };
        if let Some(state) = state {
            change.add(vec![Record::PartitionChanged { id, state }])?;
            placement = tentative;
        }
        Ok(())
    };
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let found = controller.image.topic_named(&topic.name);
        let results = topic.partitions.iter().map(|asked| {
            let result = ReassignablePartitionResponse::default().with_partition_index(asked.partition_index);
            match decide(&topic.name, found, asked) {
                Ok(()) => result.with_error_code(ErrorCode::None.code()).with_error_message(None),
                Err(refusal) => {
                    result.with_error_code(refusal.code().code()).with_error_message(refusal.message())
                }
            }
        });
        let of_topic = ReassignableTopicResponse::default().with_name(topic.name.clone());
        responses.push(of_topic.with_partitions(results.collect()));
    }
    let response = AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_error_message(None)
        .with_responses(responses);
    (change.into_records(false), response)
}

/// What is asked about.
struct Partition<'a> {
    controller: Controller<'a>,
    members: &'a Members,
    topic: &'a Topic,
    id: TopicPartition,
    state: &'a PartitionState,
    /// Nodes that have it in a log directory that cannot be used.
    offline: Vec<NodeId>,
}

impl Partition<'_> {
    fn rules(&self) -> Rules<'_> {
        let in_sync_min = InSyncMin::of(self.topic, self.controller.defaults).get(self.state);
        Rules { members: self.members, in_sync_min, offline: &self.offline }
    }

    fn cancel(&self) -> Result<PartitionState, Refusal> {
        let config = self.topic.resolve_config(self.controller.defaults);
        let is_unclean_allowed = config.is_ok_and(|config| config.unclean_leader_election);
        let leadership = self.state.leadership();
        match leadership.cancel_reassignment(self.rules(), is_unclean_allowed) {
            Ok(leadership) => Ok(self.state.clone().with_leadership(&leadership)),
            Err(NotCancelled::NotInProgress) => Err(Refusal::NoReassignment),
            Err(NotCancelled::Unclean) => {
                let (name, partition) = (self.topic.name.clone(), self.id.partition.to_wire());
                Err(Refusal::UncleanRevert { name, partition })
            }
        }
    }

    /// `None` where it has these replicas.
    fn reassign(
        &self,
        brokers: &[BrokerId],
        count_change: CountChange,
        placement: &mut Placement,
    ) -> Result<Option<PartitionState>, Refusal> {
        let replicas = self.place(brokers, placement)?;
        let nodes: Vec<NodeId> = replicas.iter().map(|replica| replica.node).collect();
        let moved = self.state.with_owners(&replicas);
        let leadership = moved.leadership();
        let (from, to) = (leadership.target_count(), nodes.len());
        if count_change == CountChange::Refused && from != to {
            return Err(Refusal::ReplicationFactorChanged { from, to });
        }
        let reassigned = leadership.reassign(self.rules(), &nodes);
        let next = match reassigned {
            Some(leadership) => moved.with_replicas(&leadership, &replicas),
            None => moved,
        };
        Ok((next != *self.state).then_some(next))
    }

    /// Who is a replica already stays where it is, or goes to the broker of its node that is named; others are placed
    /// as those of a new partition.
    fn place(&self, named: &[BrokerId], placement: &mut Placement) -> Result<Vec<Replica>, Refusal> {
        if named.is_empty() {
            return Err(Refusal::EmptyAssignment);
        }
        let (mut brokers, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        let mut replicas = Vec::new();
        for &id in named {
            let no_place = |reason| match reason {
                NoPlace::NoDirectory => Refusal::NoLogDirectory,
                NoPlace::TooFewNodes | NoPlace::NoShard => Refusal::UnknownBroker(id),
            };
            let (node, shard) = self.controller.brokers.resolve(id).ok_or(Refusal::UnknownBroker(id))?;
            if !brokers.insert(id) {
                return Err(Refusal::BrokerTwice(id));
            }
            if !nodes.insert(node) {
                return Err(Refusal::NodeTwice(id));
            }
            replicas.push(match self.state.replica_on(node) {
                Some(replica) => match shard.filter(|shard| *shard != replica.owner) {
                    Some(shard) => placement.move_to(replica, shard).map_err(no_place)?,
                    None => *replica,
                },
                None => placement.place_on(node, shard).map_err(no_place)?,
            });
        }
        Ok(replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::brokers::Brokers;
    use crate::cluster::decide::decide_alter_partitions;
    use crate::cluster::decide::tests::Cluster;
    use crate::cluster::describe::list_reassignments;
    use crate::cluster::elections::elect_leaderless;
    use crate::cluster::image::tests::{node, partition_id, replica, topic_id};
    use crate::cluster::lifecycle::{NodeChange, change_node};
    use crate::cluster::record::Node;
    use crate::codec::control::{AlterOutcome, AlterPartitions, PartitionProposal};
    use crate::config::Routing;
    use crate::types::{BrokerEpoch, ShardId};
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;
    use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
    use kafka_protocol::protocol::StrBytes;

    /// Nodes 1 to 5 of two cores, under epochs 1 to 5, and two partitions on the first three.
    fn cluster(routing: Routing) -> Cluster {
        let mut cluster = Cluster::new(2, routing);
        let mut take = |record| cluster.image.apply(&record).expect("fits");
        for id in 1..=5 {
            let broker_epoch = BrokerEpoch(id.into());
            take(Record::NodeRegistered(Node { broker_epoch, ..node(id, 2, routing) }));
        }
        take(Record::TopicCreated { topic: topic_id(1), name: "a".to_owned() });
        for index in 0..2 {
            let state = PartitionState::new((1..=3).map(|id| replica(id, 1)).collect());
            take(Record::PartitionCreated { id: partition_id(1, index), state });
        }
        cluster.brokers = Brokers::new(&cluster.image, NodeId(1));
        cluster
    }

    /// `None`: cancelled.
    fn asked(index: i32, brokers: Option<&[i32]>) -> ReassignablePartition {
        let replicas = brokers.map(|ids| ids.iter().map(|&id| id.into()).collect());
        ReassignablePartition::default().with_partition_index(index).with_replicas(replicas)
    }

    fn request(
        name: &'static str,
        partitions: Vec<ReassignablePartition>,
    ) -> AlterPartitionReassignmentsRequest {
        let name = TopicName(StrBytes::from_static_str(name));
        let topic = ReassignableTopic::default().with_name(name).with_partitions(partitions);
        AlterPartitionReassignmentsRequest::default().with_topics(vec![topic])
    }

    /// Each partition's error.
    fn decide(
        cluster: &mut Cluster,
        request: &AlterPartitionReassignmentsRequest,
    ) -> Vec<(ErrorCode, Option<String>)> {
        let (_, response) = cluster.decide(|view, _| decide_alter_reassignments(view, request));
        let results = response.responses.into_iter().flat_map(|topic| topic.partitions);
        let error = |result: ReassignablePartitionResponse| {
            let code = ErrorCode::from_wire(result.error_code).expect("a known code");
            (code, result.error_message.map(|message| message.to_string()))
        };
        results.map(error).collect()
    }

    fn reassign(cluster: &mut Cluster, brokers: Option<&[i32]>) -> ErrorCode {
        decide(cluster, &request("a", vec![asked(0, brokers)]))[0].0
    }

    /// The leader of the first partition asks for this in-sync set.
    fn in_sync(cluster: &mut Cluster, nodes: &[i32]) {
        let state = state(cluster).clone();
        let leader = state.leader.expect("somebody leads");
        let epoch = |node: i32| (NodeId(node), Some(BrokerEpoch(node.into())));
        let proposal = PartitionProposal {
            partition: partition_id(1, 0),
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            in_sync: nodes.iter().map(|node| epoch(*node)).collect(),
        };
        let broker_epoch = BrokerEpoch(leader.0.into());
        let asked = AlterPartitions { node: leader, broker_epoch, partitions: vec![proposal] };
        let (_, altered) = cluster.decide(|view, _| decide_alter_partitions(view, &asked));
        assert!(matches!(altered[0].outcome, AlterOutcome::Committed { .. }), "{altered:?}");
    }

    fn state(cluster: &Cluster) -> &PartitionState {
        cluster.image.partition(partition_id(1, 0)).expect("it is there")
    }

    /// Replicas, those that come, those that go.
    fn moves(cluster: &Cluster) -> [Vec<i32>; 3] {
        let state = state(cluster);
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
        let replicas: Vec<NodeId> = state.replicas.iter().map(|replica| replica.node).collect();
        [ids(&replicas), ids(&state.adding), ids(&state.removing)]
    }

    #[test]
    fn replicas_of_before_go_once_all_others_are_in_sync() {
        let mut cluster = cluster(Routing::Node);
        assert_eq!(reassign(&mut cluster, Some(&[4, 3, 5])), ErrorCode::None);
        assert_eq!(moves(&cluster), [vec![4, 3, 5, 1, 2], vec![4, 5], vec![1, 2]]);
        assert_eq!(state(&cluster).leader_epoch.0, 0, "whoever leads goes on");
        in_sync(&mut cluster, &[1, 2, 3, 4]);
        assert_eq!(moves(&cluster)[1], [4, 5], "one is missing");
        in_sync(&mut cluster, &[1, 2, 3, 4, 5]);
        assert_eq!(moves(&cluster), [vec![4, 3, 5], vec![], vec![]]);
        let state = state(&cluster);
        assert_eq!((state.leader, state.leader_epoch.0), (Some(NodeId(4)), 1), "the leader was to go");
        assert_eq!(state.in_sync, [NodeId(4), NodeId(3), NodeId(5)]);
    }

    #[test]
    fn a_leader_that_stays_leads_on_under_a_new_epoch() {
        let mut cluster = cluster(Routing::Node);
        assert_eq!(reassign(&mut cluster, Some(&[2, 1])), ErrorCode::None);
        assert_eq!(moves(&cluster), [vec![2, 1], vec![], vec![]], "all that stay are in sync");
        assert_eq!((state(&cluster).leader, state(&cluster).leader_epoch.0), (Some(NodeId(1)), 1));
        assert_eq!(reassign(&mut cluster, Some(&[1, 2])), ErrorCode::None);
        assert_eq!(state(&cluster).leader_epoch.0, 1, "another order is none");
        let before = cluster.image.clone();
        assert_eq!(reassign(&mut cluster, Some(&[1, 2])), ErrorCode::None);
        assert_eq!(cluster.image, before, "it is so");
    }

    #[test]
    fn who_comes_is_placed_as_in_a_new_partition_and_who_stays_stays() {
        let mut cluster = cluster(Routing::Node);
        assert_eq!(reassign(&mut cluster, Some(&[1, 4])), ErrorCode::None);
        let owners: Vec<ShardId> = state(&cluster).replicas.iter().map(|replica| replica.owner).collect();
        assert_eq!(owners, [1, 0, 1, 1].map(ShardId), "node 4's first core has the fewest");
    }

    #[test]
    fn cancelled_it_is_as_before() {
        let mut cluster = cluster(Routing::Node);
        assert_eq!(reassign(&mut cluster, None), ErrorCode::NoReassignmentInProgress);
        reassign(&mut cluster, Some(&[4, 5]));
        in_sync(&mut cluster, &[1, 2, 3, 4]);
        // Another one takes its place; what was before counts.
        assert_eq!(reassign(&mut cluster, Some(&[5, 3])), ErrorCode::None);
        assert_eq!(moves(&cluster), [vec![5, 3, 1, 2, 4], vec![4, 5], vec![1, 2, 4]]);
        assert_eq!(reassign(&mut cluster, None), ErrorCode::None);
        assert_eq!(moves(&cluster), [vec![3, 1, 2], vec![], vec![]]);
        let state = state(&cluster);
        assert_eq!((state.leader, state.leader_epoch.0), (Some(NodeId(1)), 1));
        assert_eq!(state.in_sync, [NodeId(3), NodeId(1), NodeId(2)]);
    }

    #[test]
    fn nobody_of_before_in_sync_is_no_way_back_unless_elections_may_be_unclean() {
        let mut cluster = cluster(Routing::Node);
        reassign(&mut cluster, Some(&[4, 5]));
        in_sync(&mut cluster, &[1, 4]);
        fence(&mut cluster, 1);
        assert_eq!(state(&cluster).leader, Some(NodeId(4)));
        let refused = decide(&mut cluster, &request("a", vec![asked(0, None)]));
        let text = "Unable to revert partition assignment for a:0 because it would require an unclean leader election.";
        assert_eq!(refused, [(ErrorCode::InvalidReplicaAssignment, Some(text.to_owned()))]);
        let (key, value) = ("unclean.leader.election.enable".to_owned(), Some("true".to_owned()));
        let record = Record::TopicConfigSet { topic: topic_id(1), key, value };
        cluster.image.apply(&record).expect("it is there");
        assert_eq!(reassign(&mut cluster, None), ErrorCode::None);
        assert_eq!(moves(&cluster), [vec![1, 2, 3], vec![], vec![]]);
        // The controller looks at once who may lead: the first that is there, where nobody is coming who has all.
        assert_eq!(state(&cluster).leader, None);
        let leaderless = elect_leaderless(&cluster.image, &cluster.defaults, |node| node.id == NodeId(1));
        assert_eq!((leaderless.records, leaderless.is_waiting), (vec![], true));
        let leaderless = elect_leaderless(&cluster.image, &cluster.defaults, |_| false);
        let elected = leaderless.records.iter().find_map(|record| match record {
            Record::PartitionChanged { state, .. } => state.leader,
            _ => None,
        });
        assert_eq!(elected, Some(NodeId(2)));
    }

    fn fence(cluster: &mut Cluster, id: i32) {
        let node = (NodeId(id), BrokerEpoch(id.into()));
        let records = change_node(&cluster.image, &cluster.defaults, node, &NodeChange::Fence);
        records.iter().for_each(|record| cluster.image.apply(record).expect("decided on this image"));
    }

    #[test]
    fn fenced_nodes_delay_it_and_do_not_end_it() {
        let mut cluster = cluster(Routing::Node);
        fence(&mut cluster, 4);
        assert_eq!(reassign(&mut cluster, Some(&[4, 2])), ErrorCode::None, "it is registered");
        assert_eq!(moves(&cluster), [vec![4, 2, 1, 3], vec![4], vec![1, 3]]);
        fence(&mut cluster, 1);
        assert_eq!(moves(&cluster)[0], [4, 2, 1, 3], "who goes has not gone");
        assert_eq!(state(&cluster).leader, Some(NodeId(2)));
        let record =
            Record::NodeRegistered(Node { broker_epoch: BrokerEpoch(4), ..node(4, 2, Routing::Node) });
        cluster.image.apply(&record).expect("it is back");
        in_sync(&mut cluster, &[2, 3, 4]);
        assert_eq!(moves(&cluster), [vec![4, 2], vec![], vec![]]);
        assert_eq!(state(&cluster).leader, Some(NodeId(2)));
    }

    /// It ends with whatever leaves those that stay in sync, and not only with what their leader asks for.
    #[test]
    fn fewer_replicas_are_a_matter_of_one_change() {
        let mut cluster = cluster(Routing::Node);
        fence(&mut cluster, 3);
        assert_eq!(reassign(&mut cluster, Some(&[1, 3])), ErrorCode::None);
        assert_eq!(moves(&cluster), [vec![1, 3, 2], vec![], vec![2]], "one that stays is missing");
        assert_eq!(reassign(&mut cluster, Some(&[1])), ErrorCode::None);
        assert_eq!(moves(&cluster), [vec![1], vec![], vec![]]);
        assert_eq!(state(&cluster).in_sync, [NodeId(1)]);
    }

    #[test]
    fn the_number_of_replicas_stays_where_it_may_not_change() {
        let mut cluster = cluster(Routing::Node);
        let asked = |brokers: &[i32]| {
            request("a", vec![asked(0, Some(brokers))]).with_allow_replication_factor_change(false)
        };
        let refused = decide(&mut cluster, &asked(&[1, 2]));
        let text = "The replication factor is changed from 3 to 2";
        assert_eq!(refused, [(ErrorCode::InvalidReplicationFactor, Some(text.to_owned()))]);
        assert_eq!(decide(&mut cluster, &asked(&[4, 5, 1]))[0].0, ErrorCode::None);
        assert_eq!(
            decide(&mut cluster, &asked(&[4, 5, 2]))[0].0,
            ErrorCode::None,
            "as many as there will be"
        );
        assert_eq!(moves(&cluster), [vec![4, 5, 2, 1, 3], vec![4, 5], vec![1, 3]]);
    }

    #[test]
    fn refusals_change_nothing() {
        let unknown = ErrorCode::UnknownTopicOrPartition;
        let invalid = ErrorCode::InvalidReplicaAssignment;
        let in_assignment = |what: &str| format!("The manual partition assignment includes {what}");
        let scripts = [
            ("b", asked(0, None), unknown, "Unable to find a topic named b.".to_owned()),
            ("a", asked(2, None), unknown, "Unable to find partition a:2.".to_owned()),
            ("a", asked(-1, Some(&[1])), unknown, "Unable to find partition a:-1.".to_owned()),
            (
                "a",
                asked(0, None),
                ErrorCode::NoReassignmentInProgress,
                "No partition reassignment is in progress.".to_owned(),
            ),
            ("a", asked(0, Some(&[])), invalid, in_assignment("an empty replica list.")),
            (
                "a",
                asked(0, Some(&[1, 9])),
                invalid,
                in_assignment("broker 9, but no such broker is registered."),
            ),
            ("a", asked(0, Some(&[4, 4])), invalid, in_assignment("the broker 4 more than once.")),
        ];
        for (name, asked, code, text) in scripts {
            let mut cluster = cluster(Routing::Node);
            let before = cluster.image.clone();
            let refused = decide(&mut cluster, &request(name, vec![asked]));
            assert_eq!(refused, [(code, Some(text))]);
            assert_eq!(cluster.image, before);
        }
        let mut cluster = cluster(Routing::Node);
        let twice = vec![asked(0, Some(&[1, 2, 4])), asked(0, Some(&[4])), asked(1, Some(&[4]))];
        let codes: Vec<ErrorCode> =
            decide(&mut cluster, &request("a", twice)).into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes, [ErrorCode::None, ErrorCode::InvalidRequest, ErrorCode::None]);
        assert_eq!(moves(&cluster)[0], [1, 2, 4, 3]);
    }

    #[test]
    fn cores_of_a_node_share_its_replica() {
        let mut cluster = cluster(Routing::Core);
        for (brokers, code) in
            [([4000, 4001], ErrorCode::InvalidReplicaAssignment), ([2001, 4000], ErrorCode::None)]
        {
            assert_eq!(reassign(&mut cluster, Some(&brokers)), code, "{brokers:?}");
        }
        let on = |node| state(&cluster).replica_on(NodeId(node)).map(|replica| replica.owner);
        assert_eq!((on(2), on(4)), (Some(ShardId(1)), Some(ShardId(0))));
    }

    #[test]
    fn a_replica_moves_to_another_core_of_its_node() {
        let mut cluster = cluster(Routing::Core);
        let before = state(&cluster).clone();
        assert_eq!(before.leader, Some(NodeId(1)));
        let moved = |cluster: &Cluster| {
            let state = state(cluster);
            let replica = |replica: &Replica| (replica.node.0, replica.owner.0, replica.ownership_epoch.0);
            let epochs = state.leader_epoch.0 - before.leader_epoch.0;
            (
                state.replicas.iter().map(replica).collect::<Vec<_>>(),
                epochs,
                state.leadership().is_reassigned(),
            )
        };
        let expect_moved = |cluster: &mut Cluster, to: [i32; 3], expected: [(i32, u16, u32); 3], epochs| {
            assert_eq!(reassign(cluster, Some(&to)), ErrorCode::None);
            assert_eq!(moved(cluster), (expected.to_vec(), epochs, false));
        };
        // A leader that moves leads anew, a follower does not end that.
        expect_moved(&mut cluster, [1001, 2000, 3001], [(1, 1, 0), (2, 0, 1), (3, 1, 0)], 0);
        expect_moved(&mut cluster, [1000, 2000, 3001], [(1, 0, 1), (2, 0, 1), (3, 1, 0)], 1);
        assert!(state(&cluster).partition_epoch > before.partition_epoch);
        expect_moved(&mut cluster, [1000, 2000, 3001], [(1, 0, 1), (2, 0, 1), (3, 1, 0)], 1);
        expect_moved(&mut cluster, [1001, 2000, 3001], [(1, 1, 2), (2, 0, 1), (3, 1, 0)], 2);
        assert_eq!(reassign(&mut cluster, Some(&[1002, 2000, 3001])), ErrorCode::InvalidReplicaAssignment);
        // Together with others that come and go.
        assert_eq!(reassign(&mut cluster, Some(&[1000, 2000, 4001])), ErrorCode::None);
        let owner = |node| state(&cluster).replica_on(NodeId(node)).map(|replica| replica.owner.0);
        assert_eq!([1, 2, 3, 4].map(owner), [Some(0), Some(0), Some(1), Some(1)]);
        assert!(state(&cluster).leadership().is_reassigned());
    }

    #[test]
    fn what_moves_is_listed_until_it_has() {
        let mut cluster = cluster(Routing::Core);
        let list = |cluster: &Cluster| {
            let all = ListPartitionReassignmentsRequest::default().with_topics(None);
            let response = list_reassignments(&cluster.image, &cluster.brokers, &all);
            let each = response.topics.into_iter().flat_map(|topic| topic.partitions).map(|partition| {
                let ids = |brokers: Vec<kafka_protocol::messages::BrokerId>| {
                    brokers.into_iter().map(|id| id.0).collect::<Vec<i32>>()
                };
                let (adding, removing) = (ids(partition.adding_replicas), ids(partition.removing_replicas));
                (partition.partition_index, ids(partition.replicas), adding, removing)
            });
            each.collect::<Vec<_>>()
        };
        assert_eq!(list(&cluster), []);
        reassign(&mut cluster, Some(&[4000, 2001]));
        let expected = (0, vec![4000, 2001, 1001, 3001], vec![4000], vec![1001, 3001]);
        assert_eq!(list(&cluster), [expected]);
        in_sync(&mut cluster, &[1, 2, 4]);
        assert_eq!(list(&cluster), []);
    }
}
