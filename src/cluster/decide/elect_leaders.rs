//! ElectLeaders: the preferred replica leads again, or any that is left (KIP-460).
//!
//! On one node every partition has the leader that it can have, and is told so. Who may lead is
//! [`Leadership::elect`](crate::cluster::leadership::Leadership::elect)'s to say.

use kafka_protocol::messages::ElectLeadersRequest;
use kafka_protocol::messages::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use kafka_protocol::protocol::StrBytes;

use super::{Change, Controller, Refusal};
use crate::cluster::image::{Topic, partition_index};
use crate::cluster::leadership::{Election, Rules};
use crate::cluster::lifecycle::InSyncMin;
use crate::cluster::record::{PartitionState, Record};
use crate::cluster::wire_text;
use crate::codec::error_code::ErrorCode;
use crate::types::TopicPartition;

/// Why a partition gets no other leader. Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NotElected {
    #[error("No such topic as {0}")]
    UnknownTopic(String),
    #[error("No such partition as {0}-{1}")]
    UnknownPartition(String, i32),
    #[error("Leader election not needed for topic partition.")]
    NotNeeded,
    #[error("The preferred leader was not available.")]
    PreferredNotAvailable,
    #[error("Eligible topic partition leaders are not available.")]
    NobodyEligible,
    #[error(transparent)]
    Change(#[from] Refusal),
}

/// Decides ElectLeaders 0 to 2.
pub fn decide_elect_leaders(
    controller: Controller<'_>,
    request: &ElectLeadersRequest,
) -> (Vec<Record>, ElectLeadersResponse) {
    let election = match request.election_type {
        0 => Election::Preferred,
        1 => Election::Unclean,
        other => return (Vec::new(), refused(request, other)),
    };
    let mut change = Change::new(controller.image);
    let mut elect = |name: &str, topic: Option<&Topic>, index: i32| {
        let state = elect(controller, election, name, topic, index)?;
        let topic = topic.expect("a partition of it was found");
        let id = TopicPartition { topic: topic.id, partition: partition_index(index as usize) };
        Ok(change.add(vec![Record::PartitionChanged { id, state }])?)
    };
    let results: Vec<ReplicaElectionResult> = match &request.topic_partitions {
        Some(topics) => {
            let each = topics.iter().map(|asked| {
                let topic = controller.image.topic_named(&asked.topic);
                let results = asked.partitions.iter();
                let results = results.map(|index| result(*index, elect(&asked.topic, topic, *index)));
                let of_topic = ReplicaElectionResult::default().with_topic(asked.topic.clone());
                of_topic.with_partition_result(results.collect())
            });
            each.collect()
        }
        // Every partition; those that have their leader are not told of.
        None => {
            let each = controller.image.topics().map(|topic| {
                let all = (0..topic.partitions.len() as i32)
                    .map(|index| (index, elect(&topic.name, Some(topic), index)));
                let told = all.filter(|(_, elected)| *elected != Err(NotElected::NotNeeded));
                let results = told.map(|(index, elected)| result(index, elected)).collect();
                let name = StrBytes::from_string(topic.name.clone());
                ReplicaElectionResult::default().with_topic(name.into()).with_partition_result(results)
            });
            each.collect()
        }
    };
    (change.into_records(false), ElectLeadersResponse::default().with_replica_election_results(results))
}

/// Its state with the new leader.
fn elect(
    controller: Controller<'_>,
    election: Election,
    name: &str,
    topic: Option<&Topic>,
    index: i32,
) -> Result<PartitionState, NotElected> {
    let topic = topic.ok_or_else(|| NotElected::UnknownTopic(name.to_owned()))?;
    let state = usize::try_from(index).ok().and_then(|index| topic.partitions.get(index));
    let state = state.ok_or_else(|| NotElected::UnknownPartition(name.to_owned(), index))?;
    let preferred = state.replicas.first().map(|replica| replica.node);
    let is_needed = match election {
        Election::Online | Election::Preferred => state.leader != preferred,
        Election::Unclean => state.leader.is_none(),
    };
    if !is_needed {
        return Err(NotElected::NotNeeded);
    }
    let members = controller.image.members();
    let in_sync_min = InSyncMin::of(topic, controller.defaults).get(state);
    let offline = controller.image.offline_replicas(state);
    let rules = Rules { members: &members, in_sync_min, offline: &offline };
    let elected = state.leadership().elect(rules, election);
    let elected = match election {
        Election::Online | Election::Preferred => {
            elected.filter(|elected| elected.leader == preferred).ok_or(NotElected::PreferredNotAvailable)?
        }
        Election::Unclean => {
            elected.filter(|elected| elected.leader.is_some()).ok_or(NotElected::NobodyEligible)?
        }
    };
    Ok(state.clone().with_leadership(&elected))
}

fn result(index: i32, elected: Result<(), NotElected>) -> PartitionResult {
    let result = PartitionResult::default().with_partition_id(index);
    match elected {
        Ok(()) => result.with_error_message(None),
        Err(reason) => {
            result.with_error_code(reason.code().code()).with_error_message(wire_text::error_message(&reason))
        }
    }
}

/// For want of a place for it in the first version every partition has the error, as in Kafka.
fn refused(request: &ElectLeadersRequest, election_type: i8) -> ElectLeadersResponse {
    let code = ErrorCode::InvalidRequest.code();
    let message = wire_text::error_message(&format!("Unknown election type {election_type}"));
    let topics = request.topic_partitions.iter().flatten().map(|asked| {
        let results = asked.partitions.iter().map(|index| {
            let result = PartitionResult::default().with_partition_id(*index);
            result.with_error_code(code).with_error_message(message.clone())
        });
        let of_topic = ReplicaElectionResult::default().with_topic(asked.topic.clone());
        of_topic.with_partition_result(results.collect())
    });
    ElectLeadersResponse::default().with_error_code(code).with_replica_election_results(topics.collect())
}

impl NotElected {
    fn code(&self) -> ErrorCode {
        match self {
            NotElected::UnknownTopic(_) | NotElected::UnknownPartition(..) => {
                ErrorCode::UnknownTopicOrPartition
            }
            NotElected::NotNeeded => ErrorCode::ElectionNotNeeded,
            NotElected::PreferredNotAvailable => ErrorCode::PreferredLeaderNotAvailable,
            NotElected::NobodyEligible => ErrorCode::EligibleLeadersNotAvailable,
            NotElected::Change(refusal) => refusal.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::cluster::image::tests::{add_topic, node, partition_id, replica};
    use crate::cluster::record::Node;
    use crate::config::Routing;
    use crate::types::{NodeId, PartitionEpoch};
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;

    fn asked(topics: &[(&'static str, &[i32])], election_type: i8) -> ElectLeadersRequest {
        let topic = |&(name, partitions): &(&'static str, &[i32])| {
            let topic = TopicPartitions::default().with_topic(StrBytes::from_static_str(name).into());
            topic.with_partitions(partitions.to_vec())
        };
        ElectLeadersRequest::default()
            .with_topic_partitions(Some(topics.iter().map(topic).collect()))
            .with_election_type(election_type)
    }

    fn elect(cluster: &mut Cluster, request: &ElectLeadersRequest) -> (usize, Vec<(i32, ErrorCode)>) {
        let (records, response) = cluster.decide(|controller, _| decide_elect_leaders(controller, request));
        let results = response.replica_election_results.iter().flat_map(|topic| &topic.partition_result);
        let code = |result: &PartitionResult| ErrorCode::from_wire(result.error_code).expect("a known code");
        (records.len(), results.map(|result| (result.partition_id, code(result))).collect())
    }

    #[test]
    fn one_node_leads_already() {
        let mut cluster = Cluster::new(2, Routing::Core);
        add_topic(&mut cluster.image, 1, "a", &[0, 1]);
        for election_type in [0, 1] {
            let request = asked(&[("a", &[0, 1, 7, -1]), ("b", &[0])], election_type);
            let unknown = ErrorCode::UnknownTopicOrPartition;
            let not_needed = ErrorCode::ElectionNotNeeded;
            let expected = [(0, not_needed), (1, not_needed), (7, unknown), (-1, unknown), (0, unknown)];
            assert_eq!(elect(&mut cluster, &request), (0, expected.to_vec()));
            let all = ElectLeadersRequest::default().with_topic_partitions(None);
            assert_eq!(elect(&mut cluster, &all.with_election_type(election_type)), (0, Vec::new()));
        }
        let unknown = asked(&[("a", &[0])], 9);
        assert_eq!(elect(&mut cluster, &unknown).1, [(0, ErrorCode::InvalidRequest)]);
    }

    #[test]
    fn preferred_replica_leads_again_and_the_last_one_left_does() {
        let mut cluster = Cluster::new(1, Routing::Node);
        cluster.image.apply(&Record::NodeRegistered(node(2, 1, Routing::Node))).expect("fits");
        cluster.brokers = crate::cluster::brokers::Brokers::new(&cluster.image, NodeId(1));
        add_topic(&mut cluster.image, 1, "a", &[0, 0]);
        let mut lead = |index, leader: Option<i32>, in_sync: &[i32]| {
            let state = PartitionState {
                leader: leader.map(NodeId),
                in_sync: in_sync.iter().copied().map(NodeId).collect(),
                partition_epoch: PartitionEpoch(1),
                ..PartitionState::new(vec![replica(1, 0), replica(2, 0)])
            };
            let record = Record::PartitionChanged { id: partition_id(1, index), state };
            cluster.image.apply(&record).expect("fits");
        };
        lead(0, Some(2), &[1, 2]);
        lead(1, None, &[]);
        assert_eq!(elect(&mut cluster, &asked(&[("a", &[0])], 0)), (1, vec![(0, ErrorCode::None)]));
        let state = |cluster: &Cluster, index| {
            let state = cluster.image.partition(partition_id(1, index)).expect("exists");
            (state.leader.map(|node| node.0), state.leader_epoch.0, state.in_sync.len())
        };
        assert_eq!(state(&cluster, 0), (Some(1), 1, 2));
        let refused = elect(&mut cluster, &asked(&[("a", &[1])], 0));
        assert_eq!(refused, (0, vec![(1, ErrorCode::PreferredLeaderNotAvailable)]));
        assert_eq!(elect(&mut cluster, &asked(&[("a", &[1])], 1)), (1, vec![(1, ErrorCode::None)]));
        assert_eq!(state(&cluster, 1), (Some(1), 1, 1));
    }

    #[test]
    fn nobody_leads_who_is_fenced_and_who_is_eligible_leads_before_all_others() {
        let mut cluster = Cluster::new(1, Routing::Node);
        for id in 2..=3 {
            cluster.image.apply(&Record::NodeRegistered(node(id, 1, Routing::Node))).expect("fits");
        }
        add_topic(&mut cluster.image, 1, "a", &[0]);
        let state = PartitionState {
            leader: None,
            in_sync: Vec::new(),
            eligible_leaders: vec![NodeId(3)],
            partition_epoch: PartitionEpoch(1),
            ..PartitionState::new(vec![replica(1, 0), replica(2, 0), replica(3, 0)])
        };
        let fence = |cluster: &mut Cluster, id, is_fenced| {
            let record = Record::NodeRegistered(Node { is_fenced, ..node(id, 1, Routing::Node) });
            cluster.image.apply(&record).expect("fits");
        };
        let unclean = asked(&[("a", &[0])], 1);
        let changed = |state: &PartitionState| Record::PartitionChanged {
            id: partition_id(1, 0),
            state: state.clone(),
        };
        cluster.image.apply(&changed(&state)).expect("fits");
        (1..=3).for_each(|id| fence(&mut cluster, id, true));
        let refused = vec![(0, ErrorCode::EligibleLeadersNotAvailable)];
        assert_eq!(elect(&mut cluster, &unclean), (0, refused));
        (2..=3).for_each(|id| fence(&mut cluster, id, false));
        assert_eq!(elect(&mut cluster, &unclean), (1, vec![(0, ErrorCode::None)]));
        let elected = cluster.image.partition(partition_id(1, 0)).expect("exists").clone();
        assert_eq!((elected.leader, elected.leader_epoch.0), (Some(NodeId(3)), 1), "it has everything");
        let refused = vec![(0, ErrorCode::PreferredLeaderNotAvailable)];
        assert_eq!(elect(&mut cluster, &asked(&[("a", &[0])], 0)), (0, refused), "it is fenced");
        fence(&mut cluster, 3, true);
        let lost = PartitionState { leader: None, partition_epoch: elected.partition_epoch, ..elected };
        cluster.image.apply(&changed(&lost)).expect("fits");
        assert_eq!(elect(&mut cluster, &unclean), (1, vec![(0, ErrorCode::None)]));
        let elected = cluster.image.partition(partition_id(1, 0)).expect("exists");
        assert_eq!((elected.leader, &elected.in_sync[..]), (Some(NodeId(2)), &[NodeId(2)][..]));
    }
}
