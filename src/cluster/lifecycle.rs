//! What becomes of a node that is registered, and of its partitions with it.
//!
//! ```text
//!            up to date                    wants to stop
//!  fenced ───────────────► active ─────────────────────────► shutting down
//!    ▲                       │ nothing was heard of it             │ it knows that it leads nothing
//!    └───────────────────────┴─────────────────────────────────────┘
//!    └─► unregistered: an operator says so
//! ```
//!
//! Of a log directory that fails while its node goes on the partitions in it are as if the node were fenced, until the
//! node starts again and can use it (KIP-858).
//!
//! A change is one fact about the node and those about its partitions that follow, which take effect together. Where
//! they are more than an entry holds, the node's own fact comes last: a leader that is gone in between leaves a node
//! that the next one looks at again.
//!
//! Source: KIP-631, KIP-841; Kafka `ReplicationControlManager.handleBrokerFenced` and its neighbours.

use super::image::{Image, Topic};
use super::leadership::{Election, Leadership, Members, Rules};
use super::record::{FEATURE_LEVEL_LIFECYCLE, LogDirectory, Node, PartitionState, Record};
use crate::config::topic::{TopicConfig, TopicDefaults};
use crate::types::{BrokerEpoch, DirectoryId, NodeId};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeChange {
    /// Nothing was heard of it, or it has stopped.
    Fence,
    /// It is up to date.
    Unfence,
    /// It wants to stop: others lead what they can.
    BeginShutDown,
    /// Log directories of it have failed.
    LoseDirectories(Vec<DirectoryId>),
}

/// The records by which a registration of a node changes; none where it is not the current one, or is like that
/// already.
///
/// Shape: O(partitions of the cluster).
pub fn change_node(
    image: &Image,
    defaults: &TopicDefaults,
    (node, broker_epoch): (NodeId, BrokerEpoch),
    change: &NodeChange,
) -> Vec<Record> {
    let Some(before) = image.node(node).filter(|node| node.broker_epoch == broker_epoch) else {
        return Vec::new();
    };
    let mut after = before.clone();
    let mut members = image.members();
    match change {
        NodeChange::Fence => {
            after.is_fenced = true;
            members.fence(node);
        }
        NodeChange::Unfence => {
            after.is_fenced = false;
            members.unfence(node);
        }
        NodeChange::BeginShutDown => {
            after.is_shutting_down = true;
            members.begin_shut_down(node);
        }
        NodeChange::LoseDirectories(failed) => {
            let is_failed = |directory: &&mut LogDirectory| failed.contains(&directory.id);
            after
                .log_directories
                .iter_mut()
                .filter(is_failed)
                .for_each(|directory| directory.is_offline = true);
        }
    }
    if after == *before {
        return Vec::new();
    }
    let mut records = Vec::new();
    records.extend(level_for_lifecycle(image));
    let to = Changed { members: &members, node: &after };
    change_partitions(image, defaults, to, &mut records, |partition, rules| match change {
        NodeChange::Fence | NodeChange::BeginShutDown => partition.node_left(rules, node),
        NodeChange::Unfence => partition.node_came(rules, node),
        NodeChange::LoseDirectories(_) if rules.offline.contains(&node) => partition.node_left(rules, node),
        NodeChange::LoseDirectories(_) => None,
    });
    records.push(Record::NodeRegistered(after));
    records
}

/// Why a node stays registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotUnregistered {
    Unknown,
    /// It would be in the way of a process that runs.
    Alive,
}

/// A node that is gone for good is none any more. It is in sync of nothing from then on; its replicas stay named, until
/// they are placed elsewhere.
pub fn unregister(
    image: &Image,
    defaults: &TopicDefaults,
    node: NodeId,
) -> Result<Vec<Record>, NotUnregistered> {
    let found = image.node(node).ok_or(NotUnregistered::Unknown)?;
    if !found.is_fenced {
        return Err(NotUnregistered::Alive);
    }
    let mut records = Vec::new();
    records.extend(level_for_lifecycle(image));
    let to = Changed { members: &image.members(), node: found };
    change_partitions(image, defaults, to, &mut records, |partition, rules| partition.node_left(rules, node));
    records.push(Record::NodeUnregistered { node, broker_epoch: found.broker_epoch });
    Ok(records)
}

/// Before anything that older builds do not know.
pub fn level_for_lifecycle(image: &Image) -> Option<Record> {
    let level = FEATURE_LEVEL_LIFECYCLE;
    (image.feature_level() < level).then_some(Record::FeatureLevelSet { level })
}

/// What has become of a node.
#[derive(Clone, Copy)]
struct Changed<'a> {
    members: &'a Members,
    node: &'a Node,
}

/// Adds what changes of the partitions that have a replica on a node.
fn change_partitions(
    image: &Image,
    defaults: &TopicDefaults,
    Changed { members, node }: Changed<'_>,
    records: &mut Vec<Record>,
    change: impl Fn(&Leadership, Rules<'_>) -> Option<Leadership>,
) {
    let known = |id| if id == node.id { Some(node) } else { image.node(id) };
    for topic in image.topics() {
        let mut in_sync_min = InSyncMin::of(topic, defaults);
        for (id, state) in topic.partitions().filter(|(_, state)| state.replica_on(node.id).is_some()) {
            let offline = state.offline_replicas(known);
            let rules = Rules { members, in_sync_min: in_sync_min.get(state), offline: &offline };
            if let Some(leadership) = change(&state.leadership(), rules) {
                let state = state.clone().with_leadership(&leadership);
                records.push(Record::PartitionChanged { id, state });
            }
        }
    }
}

/// The setting by which they count.
const IN_SYNC_MIN_SETTING: &str = "min.insync.replicas";

/// Whether fewer or more may have to be in sync once a record is applied.
pub fn may_change_in_sync_min(record: &Record) -> bool {
    matches!(
        record,
        Record::TopicConfigSet { key, .. } | Record::ConfigSet { key, .. } if key == IN_SYNC_MIN_SETTING
    )
}

/// Where fewer have to be in sync than before, a leader goes on without those that were eligible: they are not any
/// more, from the same change on. `image`: with the setting. Source: KIP-966, which clears them in any case.
///
/// Shape: O(partitions of the cluster).
pub fn settle_eligible(image: &Image, defaults: &TopicDefaults) -> Vec<Record> {
    let members = image.members();
    let mut records = Vec::new();
    for topic in image.topics() {
        let mut in_sync_min = InSyncMin::of(topic, defaults);
        let partitions = topic.partitions();
        let with_eligible =
            partitions.filter(|(_, state)| state.leader.is_some() && !state.eligible_leaders.is_empty());
        for (id, state) in with_eligible {
            let offline = image.offline_replicas(state);
            let rules = Rules { members: &members, in_sync_min: in_sync_min.get(state), offline: &offline };
            if let Some(leadership) = state.leadership().elect(rules, Election::Online) {
                let state = state.clone().with_leadership(&leadership);
                records.push(Record::PartitionChanged { id, state });
            }
        }
    }
    records
}

/// `min.insync.replicas` of a topic's partitions. Where the topic has not set it, it goes by the replicas of each
/// partition, of which there may be more and fewer: it is not for one of them to decide for another.
pub struct InSyncMin<'a> {
    topic: &'a Topic,
    defaults: &'a TopicDefaults,
    /// For so many replicas.
    known: Option<(u16, usize)>,
}

impl<'a> InSyncMin<'a> {
    pub fn of(topic: &'a Topic, defaults: &'a TopicDefaults) -> InSyncMin<'a> {
        InSyncMin { topic, defaults, known: None }
    }

    /// Those that come do not count before they are in sync.
    pub fn get(&mut self, state: &PartitionState) -> usize {
        let replicas = (state.replicas.len() - state.adding.len()) as u16;
        if let Some((_, min)) = self.known.filter(|(known, _)| *known == replicas) {
            return min;
        }
        let config = self.topic.resolve_config_for(self.defaults, replicas);
        let config = config.unwrap_or_else(|_| self.defaults.config(replicas));
        let min = config.min_insync_replicas as usize;
        self.known = Some((replicas, min));
        min
    }
}

/// What a topic has set and inherits; of one whose settings are not valid any more, the defaults.
pub fn settings_of(topic: &Topic, defaults: &TopicDefaults) -> TopicConfig {
    topic.resolve_config(defaults).unwrap_or_else(|_| defaults.config(topic.replication_factor()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, partition_id, replica, topic_id};
    use crate::cluster::record::{FEATURE_LEVEL_PEERS, PartitionState};
    use crate::config::Routing;
    use crate::types::Uuid;

    /// Nodes 1 to 3 under epochs 1 to 3; topic 1 is node 1's alone, topic 2 is on all of them.
    fn cluster() -> Image {
        let under = |id| Node { broker_epoch: BrokerEpoch(i64::from(id)), ..node(id, 1, Routing::Node) };
        let mut image = image_of(&[under(1), under(2), under(3)]);
        add_topic(&mut image, 1, "alone", &[0, 0]);
        image.apply(&Record::TopicCreated { topic: topic_id(2), name: "all".to_owned() }).expect("new");
        let state = PartitionState::new((1..=3).map(|id| replica(id, 0)).collect());
        image.apply(&Record::PartitionCreated { id: partition_id(2, 0), state }).expect("the next");
        image
    }

    fn change(image: &mut Image, id: i32, change: NodeChange) -> usize {
        let node = (NodeId(id), BrokerEpoch(i64::from(id)));
        let records = change_node(image, &TopicDefaults::default(), node, &change);
        records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
        assert!(records.is_empty() || matches!(records.last(), Some(Record::NodeRegistered(_))));
        records.len()
    }

    /// Leader, in sync, eligible.
    fn state(image: &Image, topic: u128) -> (Option<i32>, Vec<i32>, Vec<i32>) {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let state = image.partition(partition_id(topic, 0)).expect("it is there");
        (state.leader.map(|node| node.0), ids(&state.in_sync), ids(&state.eligible_leaders))
    }

    #[test]
    fn a_fenced_node_leads_nothing_until_it_is_back() {
        let mut image = cluster();
        assert_eq!(change(&mut image, 1, NodeChange::Fence), 4, "three partitions and the node");
        assert_eq!(state(&image, 1), (None, vec![], vec![1]));
        assert_eq!(state(&image, 2), (Some(2), vec![2, 3], vec![]));
        assert_eq!(change(&mut image, 1, NodeChange::Fence), 0, "it is");
        assert_eq!(change(&mut image, 1, NodeChange::Unfence), 3);
        assert_eq!(state(&image, 1), (Some(1), vec![1], vec![]));
        assert_eq!(state(&image, 2), (Some(2), vec![2, 3], vec![]), "it has to catch up first");
        let epochs = image.partition(partition_id(1, 0)).map(|state| state.leader_epoch.0);
        assert_eq!(epochs, Some(2), "another leadership each time");
    }

    #[test]
    fn who_is_not_waited_for_any_more_is_not_eligible_either() {
        let mut image = cluster();
        change(&mut image, 2, NodeChange::Fence);
        change(&mut image, 3, NodeChange::Fence);
        assert_eq!(state(&image, 2), (Some(1), vec![1], vec![3]), "two have to be in sync");
        let defaults = TopicDefaults::default();
        assert_eq!(settle_eligible(&image, &defaults), []);
        let (key, value) = ("min.insync.replicas".to_owned(), Some("1".to_owned()));
        let set = Record::TopicConfigSet { topic: topic_id(2), key, value };
        assert!(may_change_in_sync_min(&set));
        image.apply(&set).expect("it is there");
        // From now on the leader acknowledges alone what the third does not have.
        for record in settle_eligible(&image, &defaults) {
            image.apply(&record).expect("decided on this image");
        }
        assert_eq!(state(&image, 2), (Some(1), vec![1], vec![]));
        change(&mut image, 1, NodeChange::Fence);
        change(&mut image, 3, NodeChange::Unfence);
        assert_eq!(state(&image, 2).0, None, "it may lack what was acknowledged");
    }

    #[test]
    fn who_stops_leads_nothing_and_stays_unfenced_for_a_while() {
        let mut image = cluster();
        change(&mut image, 1, NodeChange::BeginShutDown);
        assert_eq!(state(&image, 1), (None, vec![], vec![1]));
        assert_eq!(state(&image, 2), (Some(2), vec![2, 3], vec![]));
        assert!(image.node(NodeId(1)).is_some_and(|node| !node.is_fenced));
        assert_eq!(change(&mut image, 1, NodeChange::Fence), 1, "there is nothing left to move");
    }

    #[test]
    fn partitions_of_a_log_directory_that_fails_are_led_elsewhere_until_it_is_back() {
        let directory = |number: u128| DirectoryId(Uuid::from_u128(number));
        let named =
            |number| LogDirectory { id: directory(number), path: format!("/{number}"), is_offline: false };
        let mut image = cluster();
        let mut first = image.node(NodeId(1)).expect("it is there").clone();
        first.log_directories = [1, 2].map(named).to_vec();
        image.apply(&Record::NodeRegistered(first.clone())).expect("fits");
        // One partition in either directory, and one that nobody else has in the second one.
        for (topic, numbers) in [(2, vec![1, 2]), (1, vec![2])] {
            for (index, number) in numbers.into_iter().enumerate() {
                let id = partition_id(topic, index);
                let before = image.partition(id).or_else(|| image.partition(partition_id(topic, 0)));
                let mut state = before.expect("there is one").clone();
                state.replicas[0].directory = Some(directory(number));
                let record = match image.partition(id) {
                    Some(_) => Record::PartitionChanged { id, state },
                    None => Record::PartitionCreated { id, state },
                };
                image.apply(&record).expect("fits");
            }
        }
        let state_of = |image: &Image, topic, index| {
            let state = image.partition(partition_id(topic, index)).expect("it is there").clone();
            (state.leader.map(|node| node.0), state.in_sync.len(), state.eligible_leaders.len())
        };
        let failed = NodeChange::LoseDirectories(vec![directory(2)]);
        assert_eq!(change(&mut image, 1, failed.clone()), 3, "two partitions and the node");
        assert_eq!(state_of(&image, 2, 0), (Some(1), 3, 0), "the other directory is well");
        assert_eq!(state_of(&image, 2, 1), (Some(2), 2, 0));
        assert_eq!(state_of(&image, 1, 0), (None, 0, 1), "nobody else has it");
        assert_eq!(change(&mut image, 1, failed), 0, "it is known");
        assert_eq!(change(&mut image, 1, NodeChange::Fence), 3, "one partition in either, and the node");
        assert_eq!(change(&mut image, 1, NodeChange::Unfence), 2, "the directory is as it was");
        assert_eq!(state_of(&image, 1, 0).0, None);
        // It starts again, and can use it.
        image.apply(&Record::NodeRegistered(Node { is_fenced: true, ..first })).expect("fits");
        change(&mut image, 1, NodeChange::Unfence);
        assert_eq!(state_of(&image, 1, 0), (Some(1), 1, 0));
    }

    #[test]
    fn changes_of_an_earlier_registration_are_none() {
        let image = cluster();
        let defaults = TopicDefaults::default();
        let earlier = (NodeId(1), BrokerEpoch(0));
        assert_eq!(change_node(&image, &defaults, earlier, &NodeChange::Fence), []);
        assert_eq!(change_node(&image, &defaults, (NodeId(9), BrokerEpoch(0)), &NodeChange::Fence), []);
    }

    #[test]
    fn the_topics_minimum_decides_who_stays_eligible() {
        let mut image = cluster();
        change(&mut image, 3, NodeChange::Fence);
        assert_eq!(state(&image, 2), (Some(1), vec![1, 2], vec![]), "two are a majority");
        let (key, value) = ("min.insync.replicas".to_owned(), Some("3".to_owned()));
        image.apply(&Record::TopicConfigSet { topic: topic_id(2), key, value }).expect("it is there");
        change(&mut image, 2, NodeChange::Fence);
        assert_eq!(state(&image, 2), (Some(1), vec![1], vec![2]));
    }

    #[test]
    fn only_a_fenced_node_is_unregistered() {
        let mut image = cluster();
        let unregister = |image: &Image, id| unregister(image, &TopicDefaults::default(), NodeId(id));
        assert_eq!(unregister(&image, 9), Err(NotUnregistered::Unknown));
        assert_eq!(unregister(&image, 3), Err(NotUnregistered::Alive));
        change(&mut image, 3, NodeChange::Fence);
        image.apply(&Record::FeatureLevelSet { level: FEATURE_LEVEL_PEERS }).expect("any below");
        let records = unregister(&image, 3).expect("it is fenced");
        assert!(matches!(
            records[..],
            [Record::FeatureLevelSet { level: 7 }, Record::NodeUnregistered { .. }]
        ));
        records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
        assert_eq!(image.node(NodeId(3)), None);
        assert_eq!(image.next_broker_epoch(), BrokerEpoch(4));
    }

    #[test]
    fn an_unregistered_node_is_in_sync_of_nothing() {
        let mut image = cluster();
        // As it starts, its log complete.
        let fenced = Node { is_fenced: true, ..image.node(NodeId(3)).expect("it is there").clone() };
        image.apply(&Record::NodeRegistered(fenced)).expect("fits");
        assert_eq!(state(&image, 2).1, [1, 2, 3]);
        let records = unregister(&image, &TopicDefaults::default(), NodeId(3)).expect("it is fenced");
        records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
        assert_eq!(state(&image, 2), (Some(1), vec![1, 2], vec![]));
    }
}
