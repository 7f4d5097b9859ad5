//! Elections that the controller holds by itself, over all partitions.
//!
//! | when | which |
//! |---|---|
//! | a node comes, goes or stops | [`lifecycle`](super::lifecycle)'s, together with what becomes of the node |
//! | right behind that, a setting may have allowed it, another node leads the quorum | [`elect_leaderless`] |
//! | from time to time | [`elect_preferred`] |
//!
//! Source: KIP-966, KAFKA-12670; Kafka `ReplicationControlManager.maybeBalancePartitionLeaders` and
//! `maybeTriggerUncleanLeaderElectionForLeaderlessPartitions`.

use super::image::Image;
use super::leadership::{Election, Rules};
use super::lifecycle::{InSyncMin, level_for_lifecycle, settings_of};
use super::record::{Node, PartitionState, Record};
use crate::config::topic::TopicDefaults;
use crate::types::{NodeId, TopicPartition};

/// The setting that allows unclean elections, of a topic and of the broker.
const UNCLEAN_SETTING: &str = "unclean.leader.election.enable";

/// Leaders that return to their preferred replicas at a time, as in Kafka (`MAX_ELECTIONS_PER_IMBALANCE`): their
/// clients find them elsewhere all at once.
pub const PREFERRED_ELECTIONS_MAX: usize = 1000;

/// What becomes of partitions that nobody leads.
#[derive(Debug, Default)]
pub struct Leaderless {
    pub records: Vec<Record>,
    /// Some wait for a node that is coming: it is to be seen again whether it does.
    pub is_waiting: bool,
}

/// An election that may have lost something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncleanElection {
    pub topic: String,
    pub id: TopicPartition,
    pub leader: NodeId,
}

/// Partitions that nobody leads are led by an active replica that has everything, if there is one: a change of which a
/// crash has left the first part, as of a node that was to be fenced, may have taken its leader from one, and nothing
/// else comes of that. Otherwise by replicas that are not in sync, where their topics allow it, and nobody who has
/// everything `is_coming`. Kafka does not wait for those, and loses records where all nodes start again.
///
/// Shape: O(partitions of the cluster).
pub fn elect_leaderless(
    image: &Image,
    defaults: &TopicDefaults,
    is_coming: impl Fn(&Node) -> bool,
) -> Leaderless {
    let members = image.members();
    let is_waited_for = |id: &NodeId| image.node(*id).is_some_and(&is_coming);
    let mut leaderless = Leaderless::default();
    for topic in image.topics() {
        let mut partitions = topic.partitions().filter(|(_, state)| state.leader.is_none()).peekable();
        // Most topics have none, and settings take a while to read.
        if partitions.peek().is_none() {
            continue;
        }
        let settings = settings_of(topic, defaults);
        let mut in_sync_min = InSyncMin::of(topic, defaults);
        for (id, state) in partitions {
            let offline = image.offline_replicas(state);
            let rules = Rules { members: &members, in_sync_min: in_sync_min.get(state), offline: &offline };
            let with_all = state.in_sync.iter().chain(&state.eligible_leaders);
            let mut active = with_all.filter(|node| members.is_active(**node));
            let led = active.find_map(|node| {
                state.leadership().node_came(rules, *node).filter(|led| led.leader.is_some())
            });
            if let Some(led) = led {
                let state = state.clone().with_leadership(&led);
                leaderless.records.push(Record::PartitionChanged { id, state });
                continue;
            }
            if !settings.unclean_leader_election {
                continue;
            }
            if state.in_sync.iter().chain(&state.eligible_leaders).any(is_waited_for) {
                leaderless.is_waiting = true;
                continue;
            }
            let elected = state.leadership().elect(rules, Election::Unclean);
            if let Some(elected) = elected.filter(|elected| elected.leader.is_some()) {
                let state = state.clone().with_leadership(&elected);
                leaderless.records.push(Record::PartitionChanged { id, state });
            }
        }
    }
    with_level(image, &mut leaderless.records);
    leaderless
}

/// The records by which leaders return to their preferred replicas, where these are alive and in sync; the first of
/// them, [`PREFERRED_ELECTIONS_MAX`] at most.
///
/// Shape: O(partitions of the cluster).
pub fn elect_preferred(image: &Image, defaults: &TopicDefaults) -> Vec<Record> {
    let members = image.members();
    let wants = |state: &PartitionState| {
        let preferred = state.replicas.first().map(|replica| replica.node);
        let is_online = |node| !image.offline_replicas(state).contains(&node);
        let can = |node| state.in_sync.contains(&node) && members.is_active(node) && is_online(node);
        state.leader.is_some() && state.leader != preferred && preferred.is_some_and(can)
    };
    let mut records = Vec::new();
    for topic in image.topics() {
        let mut partitions = topic.partitions().filter(|(_, state)| wants(state)).peekable();
        // As for those without a leader.
        if partitions.peek().is_none() {
            continue;
        }
        let mut in_sync_min = InSyncMin::of(topic, defaults);
        let elected = partitions.filter_map(|(id, state)| {
            let offline = image.offline_replicas(state);
            let rules = Rules { members: &members, in_sync_min: in_sync_min.get(state), offline: &offline };
            let elected = state.leadership().elect(rules, Election::Preferred)?;
            Some(Record::PartitionChanged { id, state: state.clone().with_leadership(&elected) })
        });
        records.extend(elected.take(PREFERRED_ELECTIONS_MAX - records.len()));
    }
    with_level(image, &mut records);
    records
}

/// Whether somebody may lead who could not, once a record is applied.
pub fn may_elect_after(record: &Record) -> bool {
    match record {
        Record::NodeRegistered(_) | Record::NodeUnregistered { .. } => true,
        Record::TopicConfigSet { key, .. } | Record::ConfigSet { key, .. } => key == UNCLEAN_SETTING,
        // As where a reassignment is cancelled.
        Record::PartitionChanged { state, .. } => state.leader.is_none(),
        Record::ClusterCreated { .. }
        | Record::FeatureLevelSet { .. }
        | Record::TopicCreated { .. }
        | Record::TopicDeleted { .. }
        | Record::PartitionCreated { .. }
        | Record::ProducerIdsAllocated { .. }
        | Record::ClientQuotaSet { .. } => false,
    }
}

/// Which elections among records that were decided on this image are unclean.
pub fn unclean(image: &Image, records: &[Record]) -> Vec<UncleanElection> {
    let each = records.iter().filter_map(|record| match record {
        Record::PartitionChanged { id, state } => {
            let before = image.partition(*id)?.leadership();
            let leader = state.leader.filter(|_| state.leadership().is_unclean_after(&before))?;
            let topic = image.topic(id.topic).map(|topic| topic.name.clone()).unwrap_or_default();
            Some(UncleanElection { topic, id: *id, leader })
        }
        _ => None,
    });
    each.collect()
}

/// A leader that is elected may leave others eligible, which older builds do not know.
fn with_level(image: &Image, records: &mut Vec<Record>) {
    if !records.is_empty() {
        records.splice(0..0, level_for_lifecycle(image));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node, partition_id, replica, topic_id};
    use crate::cluster::lifecycle::{NodeChange, change_node, unregister};
    use crate::config::Routing;
    use crate::types::BrokerEpoch;

    /// Nodes 1 to 3 under epochs 1 to 3, and one partition on all of them.
    fn cluster() -> Image {
        let under = |id| Node { broker_epoch: BrokerEpoch(i64::from(id)), ..node(id, 1, Routing::Node) };
        let mut image = image_of(&[under(1), under(2), under(3)]);
        image.apply(&Record::TopicCreated { topic: topic_id(1), name: "t".to_owned() }).expect("new");
        let state = PartitionState::new((1..=3).map(|id| replica(id, 0)).collect());
        image.apply(&Record::PartitionCreated { id: partition_id(1, 0), state }).expect("the next");
        image
    }

    fn take(image: &mut Image, records: &[Record]) {
        records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
    }

    fn change(image: &mut Image, id: i32, change: NodeChange) {
        let epoch = BrokerEpoch(i64::from(id));
        let records = change_node(image, &TopicDefaults::default(), (NodeId(id), epoch), &change);
        assert!(records.iter().any(may_elect_after), "it is looked at then");
        assert_eq!(unclean(image, &records), [], "not with the change itself");
        take(image, &records);
    }

    fn allow(image: &mut Image, is_allowed: bool) {
        let (key, value) = (UNCLEAN_SETTING.to_owned(), Some(is_allowed.to_string()));
        let record = Record::TopicConfigSet { topic: topic_id(1), key, value };
        assert!(may_elect_after(&record), "it is looked at then");
        take(image, &[record]);
    }

    /// How many unclean elections there are while nobody is coming.
    fn elect(image: &mut Image) -> usize {
        let leaderless = elect_leaderless(image, &TopicDefaults::default(), |_| false);
        assert!(!leaderless.is_waiting);
        let unclean = unclean(image, &leaderless.records).len();
        take(image, &leaderless.records);
        unclean
    }

    fn leader(image: &Image) -> Option<i32> {
        image.partition(partition_id(1, 0))?.leader.map(|leader| leader.0)
    }

    /// Node 1 is the only one in sync, node 3 is alive beside it.
    fn one_in_sync() -> Image {
        let mut image = cluster();
        change(&mut image, 3, NodeChange::Fence);
        change(&mut image, 2, NodeChange::Fence);
        change(&mut image, 3, NodeChange::Unfence);
        let state = image.partition(partition_id(1, 0)).expect("it is there");
        assert_eq!((state.leader, &state.in_sync[..]), (Some(NodeId(1)), &[NodeId(1)][..]));
        image
    }

    #[test]
    fn who_has_everything_leads_what_a_change_in_parts_has_left_without_a_leader() {
        for in_sync in [vec![], vec![NodeId(1)]] {
            let eligible_leaders = if in_sync.is_empty() { vec![NodeId(1)] } else { Vec::new() };
            let mut image = cluster();
            let id = partition_id(1, 0);
            let before = image.partition(id).expect("it is there").clone();
            let (leader_epoch, partition_epoch) = (before.leader_epoch, before.partition_epoch);
            let state = PartitionState { leader: None, in_sync, eligible_leaders, ..before };
            let left = Record::PartitionChanged { id, state };
            assert!(may_elect_after(&left), "it is looked at then");
            image.apply(&left).expect("it fits");
            let records = elect_leaderless(&image, &TopicDefaults::default(), |_| false).records;
            let [.., Record::PartitionChanged { state, .. }] = &records[..] else { panic!("{records:?}") };
            assert_eq!((state.leader, &state.in_sync[..]), (Some(NodeId(1)), &[NodeId(1)][..]));
            assert!(state.leader_epoch > leader_epoch && state.partition_epoch > partition_epoch);

            let fenced = Node { is_fenced: true, ..image.node(NodeId(1)).expect("it is there").clone() };
            image.apply(&Record::NodeRegistered(fenced)).expect("it is the same registration");
            let leaderless = elect_leaderless(&image, &TopicDefaults::default(), |_| false);
            assert_eq!(leaderless.records, [], "it is fenced by now");
        }
    }

    #[test]
    fn who_is_not_in_sync_leads_only_where_that_is_allowed() {
        for (is_allowed, expected) in [(false, None), (true, Some(3))] {
            for how in [NodeChange::Fence, NodeChange::BeginShutDown] {
                let mut image = one_in_sync();
                allow(&mut image, is_allowed);
                assert_eq!((elect(&mut image), leader(&image)), (0, Some(1)), "somebody leads");
                change(&mut image, 1, how.clone());
                assert_eq!(leader(&image), None, "{how:?}");
                assert_eq!(
                    (elect(&mut image), leader(&image)),
                    (usize::from(is_allowed), expected),
                    "{how:?}"
                );
                assert_eq!(elect(&mut image), 0);
            }
        }
    }

    #[test]
    fn it_counts_alone_from_then_on() {
        let mut image = one_in_sync();
        change(&mut image, 1, NodeChange::Fence);
        allow(&mut image, true);
        assert_eq!(elect(&mut image), 1);
        let state = image.partition(partition_id(1, 0)).expect("it is there");
        assert_eq!((state.leader, &state.in_sync[..]), (Some(NodeId(3)), &[NodeId(3)][..]));
        assert_eq!(state.eligible_leaders, [], "what they have beyond it counts no more");
    }

    #[test]
    fn who_is_eligible_leads_before_who_is_not() {
        let mut image = one_in_sync();
        allow(&mut image, true);
        // It left while fewer than two were in sync.
        change(&mut image, 2, NodeChange::Unfence);
        change(&mut image, 1, NodeChange::Fence);
        assert_eq!((leader(&image), elect(&mut image)), (Some(2), 0), "it has everything");
    }

    #[test]
    fn who_comes_back_first_leads_where_that_is_allowed() {
        let mut image = one_in_sync();
        change(&mut image, 3, NodeChange::Fence);
        change(&mut image, 1, NodeChange::Fence);
        allow(&mut image, true);
        assert_eq!((elect(&mut image), leader(&image)), (0, None), "nobody is there");
        change(&mut image, 3, NodeChange::Unfence);
        assert_eq!((elect(&mut image), leader(&image)), (1, Some(3)));
    }

    #[test]
    fn nobody_leads_uncleanly_while_one_that_has_everything_is_coming() {
        for coming in [1, 2] {
            let mut image = one_in_sync();
            allow(&mut image, true);
            change(&mut image, 1, NodeChange::Fence);
            let is_coming = |node: &Node| node.id.0 == coming;
            let leaderless = elect_leaderless(&image, &TopicDefaults::default(), is_coming);
            assert_eq!((leaderless.records, leaderless.is_waiting), (vec![], true));
            change(&mut image, coming, NodeChange::Unfence);
            assert_eq!((leader(&image), elect(&mut image)), (Some(coming), 0));
        }
    }

    #[test]
    fn who_is_there_leads_once_the_last_in_sync_is_unregistered() {
        let mut image = one_in_sync();
        allow(&mut image, true);
        // As it starts, its log complete.
        let fenced = Node { is_fenced: true, ..image.node(NodeId(1)).expect("it is there").clone() };
        take(&mut image, &[Record::NodeRegistered(fenced)]);
        let records = unregister(&image, &TopicDefaults::default(), NodeId(1)).expect("it is fenced");
        assert!(records.iter().any(may_elect_after), "it is looked at then");
        take(&mut image, &records);
        assert_eq!((elect(&mut image), leader(&image)), (1, Some(3)));
    }

    #[test]
    fn the_brokers_default_allows_it_for_all_topics_that_do_not_say() {
        let mut image = one_in_sync();
        change(&mut image, 1, NodeChange::Fence);
        let mut allowing = TopicDefaults::default();
        allowing.set(UNCLEAN_SETTING, "true").expect("valid");
        let records = elect_leaderless(&image, &allowing, |_| false).records;
        let elected = UncleanElection { topic: "t".to_owned(), id: partition_id(1, 0), leader: NodeId(3) };
        assert_eq!(unclean(&image, &records), [elected]);
        allow(&mut image, false);
        assert_eq!(elect_leaderless(&image, &allowing, |_| false).records, []);
    }

    /// How many leaders there are that return.
    fn balance(image: &mut Image) -> usize {
        let records = elect_preferred(image, &TopicDefaults::default());
        assert_eq!(unclean(image, &records), []);
        take(image, &records);
        records.len()
    }

    #[test]
    fn the_preferred_replica_leads_again_once_it_is_in_sync_and_alive() {
        let mut image = cluster();
        change(&mut image, 1, NodeChange::Fence);
        assert_eq!((leader(&image), balance(&mut image)), (Some(2), 0), "it is gone");
        change(&mut image, 1, NodeChange::Unfence);
        assert_eq!(balance(&mut image), 0, "it has to catch up");
        let state = image.partition(partition_id(1, 0)).expect("it is there").clone();
        let state = PartitionState { in_sync: vec![NodeId(1), NodeId(2), NodeId(3)], ..state };
        take(&mut image, &[Record::PartitionChanged { id: partition_id(1, 0), state }]);
        let mut stopping = image.clone();
        let stops = Node { is_shutting_down: true, ..image.node(NodeId(1)).expect("it is there").clone() };
        take(&mut stopping, &[Record::NodeRegistered(stops)]);
        assert_eq!(balance(&mut stopping), 0, "it is about to go");
        let epoch = |image: &Image| image.partition(partition_id(1, 0)).map(|state| state.leader_epoch.0);
        assert_eq!((balance(&mut image), leader(&image), epoch(&image)), (1, Some(1), Some(2)));
        assert_eq!(balance(&mut image), 0);
    }

    #[test]
    fn nobody_is_preferred_where_nobody_leads() {
        let mut image = one_in_sync();
        change(&mut image, 1, NodeChange::Fence);
        assert_eq!((leader(&image), balance(&mut image)), (None, 0));
    }

    #[test]
    fn so_many_leaders_return_at_a_time() {
        let mut image = cluster();
        image.apply(&Record::TopicCreated { topic: topic_id(2), name: "u".to_owned() }).expect("new");
        let elsewhere = PartitionState {
            leader: Some(NodeId(2)),
            ..PartitionState::new((1..=3).map(|id| replica(id, 0)).collect())
        };
        for (topic, count) in [(1, PREFERRED_ELECTIONS_MAX), (2, 2)] {
            let first = if topic == 1 { 1 } else { 0 };
            for index in first..first + count {
                let id = partition_id(topic, index);
                let created = Record::PartitionCreated { id, state: elsewhere.clone() };
                image.apply(&created).expect("the next");
            }
        }
        assert_eq!(balance(&mut image), PREFERRED_ELECTIONS_MAX);
        assert_eq!(balance(&mut image), 2);
        assert_eq!(balance(&mut image), 0);
    }
}
