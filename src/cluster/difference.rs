//! What has to be applied to an image for it to become a later one: a node that was sent a snapshot of the metadata
//! goes on from what it has, and its partitions with it.

use super::image::{Image, Topic};
use super::record::{PartitionState, Record, Replica};
use crate::types::{NodeId, PartitionEpoch, TopicId};

/// The records by which partitions lose the replicas that were taken from their nodes and given back since, maybe to
/// other shards: what such a node has of them is not what they begin with now. To be applied before
/// [`difference`] is looked for. `on`: only of partitions that lose that node's.
///
/// Shape: O(both).
pub fn replicas_gone(before: &Image, after: &Image, on: Option<NodeId>) -> Vec<Record> {
    let mut records = Vec::new();
    for (id, state) in before.partitions() {
        // It is one change to take a replica, and another one to give it back.
        let had_time = |to: &&PartitionState| to.partition_epoch.0 > state.partition_epoch.0 + 1;
        let Some(to) = after.partition(id).filter(had_time) else { continue };
        // A replica that moves between shards says so by its ownership epoch.
        let is_another = |had: &Replica| {
            to.replica_on(had.node).is_some_and(|has| {
                let (had_epoch, epoch) = (had.ownership_epoch, has.ownership_epoch);
                epoch < had_epoch || (epoch == had_epoch && has.owner != had.owner)
            })
        };
        let mut looked_at = state.replicas.iter().filter(|had| on.is_none_or(|on| had.node == on));
        if looked_at.any(is_another) {
            let mut state = state.clone();
            state.partition_epoch = PartitionEpoch(state.partition_epoch.0 + 1);
            state.replicas.retain(|replica| !is_another(replica));
            let is_left = |node: &NodeId| state.replicas.iter().any(|replica| replica.node == *node);
            state.in_sync.retain(is_left);
            state.eligible_leaders.retain(is_left);
            state.adding.retain(is_left);
            state.removing.retain(is_left);
            state.leader = state.leader.filter(is_left);
            records.push(Record::PartitionChanged { id, state });
        }
    }
    records
}

/// The records that make `before` into `after`, which the same log has led to later.
///
/// Shape: O(both).
pub fn difference(before: &Image, after: &Image) -> Vec<Record> {
    let kept =
        |id: TopicId| before.topic(id).filter(|topic| after.topic(id).is_some_and(|to| grows(topic, to)));
    let mut records = Vec::new();
    // First, since their names may have been given to others.
    let gone = before.topics().filter(|topic| kept(topic.id).is_none());
    records.extend(gone.map(|topic| Record::TopicDeleted { topic: topic.id }));
    for record in before.snapshot() {
        match record {
            Record::ConfigSet { resource, key, .. } => {
                let is_set = after.settings(&resource).is_some_and(|settings| settings.contains_key(&key));
                records.extend((!is_set).then_some(Record::ConfigSet { resource, key, value: None }));
            }
            Record::ClientQuotaSet { entity, kind, .. } if after.quotas().get(&entity, kind).is_none() => {
                records.push(Record::ClientQuotaSet { entity, kind, limit: None });
            }
            Record::TopicConfigSet { topic, key, .. } => {
                let is_set = after.topic(topic).is_some_and(|topic| topic.config.contains_key(&key));
                let is_left = kept(topic).is_some() && !is_set;
                records.extend(is_left.then_some(Record::TopicConfigSet { topic, key, value: None }));
            }
            _ => {}
        }
    }
    if before.feature_level() != after.feature_level() {
        records.push(Record::FeatureLevelSet { level: after.feature_level() });
    }
    let had: Vec<Record> = before.snapshot().into_iter().filter(is_unregistration).collect();
    for record in after.snapshot() {
        let is_known = match &record {
            Record::ClusterCreated { .. } => before.cluster_id().is_some(),
            Record::FeatureLevelSet { .. } => true, // Set above.
            Record::NodeRegistered(node) => before.node(node.id) == Some(node),
            Record::NodeUnregistered { .. } => had.contains(&record),
            Record::ProducerIdsAllocated { .. } => before.next_producer_id() == after.next_producer_id(),
            Record::ConfigSet { resource, key, value } => {
                before.settings(resource).and_then(|settings| settings.get(key)) == value.as_ref()
            }
            Record::ClientQuotaSet { entity, kind, limit } => before.quotas().get(entity, *kind) == *limit,
            Record::TopicCreated { topic, .. } => kept(*topic).is_some(),
            Record::TopicConfigSet { topic, key, value } => {
                kept(*topic).and_then(|topic| topic.config.get(key)) == value.as_ref()
            }
            Record::PartitionCreated { id, state } => {
                let known = kept(id.topic).and_then(|topic| topic.partitions.get(id.partition.index()));
                if known.is_some_and(|known| known != state) {
                    records.push(Record::PartitionChanged { id: *id, state: state.clone() });
                }
                known.is_some()
            }
            Record::TopicDeleted { .. } | Record::PartitionChanged { .. } => false,
        };
        if !is_known {
            records.push(record);
        }
    }
    // Behind those that came, whose epochs may be lower.
    let gone = before.nodes().filter(|node| after.node(node.id).is_none());
    records
        .extend(gone.map(|node| Record::NodeUnregistered { node: node.id, broker_epoch: node.broker_epoch }));
    records
}

fn is_unregistration(record: &Record) -> bool {
    matches!(record, Record::NodeUnregistered { .. })
}

/// Whether a topic can have become the other one: else it is another topic, whatever its id.
fn grows(before: &Topic, after: &Topic) -> bool {
    let goes_on = |(before, after): (&PartitionState, &PartitionState)| {
        let owned = |after: &PartitionState| {
            before.replicas.iter().all(|had| {
                after.replica_on(had.node).is_none_or(|has| has.ownership_epoch >= had.ownership_epoch)
            })
        };
        before.leader_epoch <= after.leader_epoch
            && before.partition_epoch <= after.partition_epoch
            && owned(after)
    };
    before.name == after.name
        && before.partitions.len() <= after.partitions.len()
        && before.partitions.iter().zip(&after.partitions).all(goes_on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{any_step, image_of, node, partition_id, replica, topic_id};
    use crate::config::Routing;
    use crate::types::{LeaderEpoch, OwnershipEpoch, ShardId};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// What its core had is not what another core begins with; the same core goes on with it.
    #[test]
    fn a_replica_that_was_given_back_to_another_core_is_taken_first() {
        let mut before = image_of(&[node(1, 2, Routing::Node), node(2, 2, Routing::Node)]);
        before.apply(&Record::TopicCreated { topic: topic_id(1), name: "t".to_owned() }).expect("new");
        let had = Replica { ownership_epoch: OwnershipEpoch(3), ..replica(1, 0) };
        let state = PartitionState::new(vec![had, replica(2, 0)]);
        let created = Record::PartitionCreated { id: partition_id(1, 0), state: state.clone() };
        before.apply(&created).expect("the next");
        let given_back = |replica: Replica| {
            let mut after = before.clone();
            for (epoch, replicas) in [(1, vec![state.replicas[1]]), (2, vec![state.replicas[1], replica])] {
                let state = PartitionState {
                    leader_epoch: LeaderEpoch(1),
                    partition_epoch: PartitionEpoch(epoch),
                    ..PartitionState::new(replicas)
                };
                after.apply(&Record::PartitionChanged { id: partition_id(1, 0), state }).expect("newer");
            }
            assert_eq!(replicas_gone(&before, &after, Some(NodeId(2))), [], "it keeps its own");
            let gone = replicas_gone(&before, &after, None);
            assert_eq!(replicas_gone(&before, &after, Some(NodeId(1))), gone);
            gone
        };
        for other in [replica(1, 0), replica(1, 1), Replica { owner: ShardId(1), ..had }] {
            let gone = given_back(other);
            let [Record::PartitionChanged { state, .. }] = &gone[..] else { panic!("{gone:?}") };
            assert_eq!((&state.replicas[..], state.leader), (&[replica(2, 0)][..], None), "{other:?}");
            assert_eq!((&state.in_sync[..], state.partition_epoch.0), (&[NodeId(2)][..], 1));
        }
        assert_eq!(given_back(had), []);
        let mut moved = before.clone();
        let replicas = vec![Replica { owner: ShardId(1), ..had }];
        let state = PartitionState { partition_epoch: PartitionEpoch(1), ..PartitionState::new(replicas) };
        moved.apply(&Record::PartitionChanged { id: partition_id(1, 0), state }).expect("newer");
        assert_eq!(replicas_gone(&before, &moved, None), [], "one change does not take and give");
        assert_eq!(given_back(Replica { ownership_epoch: OwnershipEpoch(4), owner: ShardId(1), ..had }), []);
    }

    proptest! {
        #[test]
        fn an_image_becomes_the_later_one(
            steps in vec(any_step(), 0..120),
            more in vec(any_step(), 0..60),
        ) {
            let mut before = Image::default();
            steps.iter().for_each(|record| drop(before.apply(record)));
            let mut after = before.clone();
            more.iter().for_each(|record| drop(after.apply(record)));
            // As a node receives it.
            let received = Image::rebuild(&after.snapshot()).expect("a snapshot applies");
            let mut found = before.clone();
            for record in replicas_gone(&before, &received, None) {
                found.apply(&record).map_err(|error| TestCaseError::fail(format!("{error}: {record:?}")))?;
            }
            let records = difference(&found, &received);
            for record in &records {
                found.apply(record).map_err(|error| TestCaseError::fail(format!("{error}: {records:?}")))?;
            }
            prop_assert_eq!(found.snapshot(), received.snapshot());
            prop_assert_eq!(difference(&found, &received), Vec::new());
        }
    }
}
