//! Which replicas are held to a rate while they catch up, as the metadata say, and how the cores of a node share it
//! (KIP-73).
//!
//! Topics name them (`leader.replication.throttled.replicas`, `follower.replication.throttled.replicas`), as
//! `partition:broker` pairs. A replica in sync is never held back, whatever they say.
//!
//! A node's rate is for all its cores. Each of them has the part that it has of the node's throttled replicas that are
//! to catch up: every core finds the same in its copy of the metadata, so they need not tell each other. Whoever is
//! done leaves the rate to the others.

use std::collections::BTreeMap;

use super::brokers::Brokers;
use super::image::{Image, Topic};
use super::record::{Node, PartitionState, Record};
use crate::config::topic::ThrottledReplicas;
use crate::types::{NodeId, PartitionIndex, ShardId, TopicId, TopicPartition};

const LEADERS: &str = "leader.replication.throttled.replicas";
const FOLLOWERS: &str = "follower.replication.throttled.replicas";

/// Which side of replication has a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Leader,
    Follower,
}

/// What one topic says. `None` of what is not set, or of what this build does not take.
#[derive(Clone, Debug, Default)]
struct Lists {
    leaders: Option<ThrottledReplicas>,
    followers: Option<ThrottledReplicas>,
}

/// Lives: one per shard; made anew when the metadata say something about it.
#[derive(Clone, Debug, Default)]
pub struct Throttled {
    topics: BTreeMap<TopicId, Lists>,
    /// By shard of this node, how many throttled replicas it sends to that are not in sync, and how many such it has.
    sending: BTreeMap<ShardId, u64>,
    taking: BTreeMap<ShardId, u64>,
    /// Of the latter on this shard, those that lead them.
    sources: BTreeMap<(NodeId, ShardId), u64>,
}

impl Throttled {
    /// Shape: O(topics), and O(partitions) of those that name any.
    pub fn of(image: &Image, brokers: &Brokers, (node, shard): (NodeId, ShardId)) -> Throttled {
        let lists = image.topics().filter_map(|topic| Some((topic.id, Lists::of(topic)?)));
        let mut throttled = Throttled { topics: lists.collect(), ..Throttled::default() };
        let named = throttled.topics.keys().filter_map(|id| image.topic(*id));
        for (id, state) in named.flat_map(Topic::partitions).collect::<Vec<_>>() {
            let (Some(leader), Some(own)) = (state.leader, state.owner_on(node)) else { continue };
            if leader == node {
                let is_active = |node| image.node(node).is_some_and(Node::is_active);
                let nodes = state.replicas.iter().map(|replica| replica.node);
                let count =
                    nodes.filter(|node| !state.in_sync.contains(node) && is_active(*node)).count() as u64;
                if count > 0 && throttled.names(brokers, Side::Leader, id, node, state) {
                    *throttled.sending.entry(own).or_default() += count;
                }
            } else if !state.in_sync.contains(&node)
                && throttled.names(brokers, Side::Follower, id, node, state)
            {
                *throttled.taking.entry(own).or_default() += 1;
                if own == shard
                    && let Some(owner) = state.owner_on(leader)
                {
                    *throttled.sources.entry((leader, owner)).or_default() += 1;
                }
            }
        }
        throttled
    }

    /// Whether what is here may be something else once the record is applied.
    pub fn is_changed_by(&self, record: &Record) -> bool {
        match record {
            Record::TopicConfigSet { key, .. } => key == LEADERS || key == FOLLOWERS,
            Record::TopicDeleted { topic } => self.topics.contains_key(topic),
            Record::PartitionCreated { id, .. } | Record::PartitionChanged { id, .. } => {
                self.topics.contains_key(&id.topic)
            }
            Record::NodeRegistered(_) | Record::NodeUnregistered { .. } => !self.is_empty(),
            Record::ClusterCreated { .. }
            | Record::FeatureLevelSet { .. }
            | Record::TopicCreated { .. }
            | Record::ProducerIdsAllocated { .. }
            | Record::ConfigSet { .. }
            | Record::ClientQuotaSet { .. } => false,
        }
    }

    /// No topic names any.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether the replica of a node is named, as that side of replication.
    pub fn names(
        &self,
        brokers: &Brokers,
        side: Side,
        id: TopicPartition,
        node: NodeId,
        state: &PartitionState,
    ) -> bool {
        let replica = state.replica_on(node);
        let broker = replica.map(|replica| brokers.broker_of(replica));
        let lists = self.topics.get(&id.topic);
        let list = lists.and_then(|lists| match side {
            Side::Leader => lists.leaders.as_ref(),
            Side::Follower => lists.followers.as_ref(),
        });
        list.zip(broker).is_some_and(|(list, broker)| list.contains(id.partition, broker))
    }

    /// The shards that lead throttled replicas which this one has and which are not in sync.
    pub fn sources(&self) -> impl Iterator<Item = (NodeId, ShardId)> {
        self.sources.keys().copied()
    }

    pub fn has_source(&self, node: NodeId, shard: ShardId) -> bool {
        self.sources.contains_key(&(node, shard))
    }

    /// Throttled replicas that are to catch up and that a shard sends to, or has.
    pub fn count(&self, side: Side, shard: ShardId) -> u64 {
        self.counts(side).get(&shard).copied().unwrap_or(0)
    }

    /// A shard's part of the node's rate, in bytes per second. One that has nothing to catch up, as far as the
    /// metadata say, counts as if it had one.
    pub fn share(&self, side: Side, shard: ShardId, rate: u64) -> u64 {
        let own = self.count(side, shard).max(1);
        let others = self.counts(side).iter().filter(|(of, _)| **of != shard).map(|(_, count)| count);
        let all = own + others.sum::<u64>();
        let share = (u128::from(rate) * u128::from(own) / u128::from(all)) as u64;
        // Not nothing, or it would never be done.
        share.max(rate.min(1))
    }

    fn counts(&self, side: Side) -> &BTreeMap<ShardId, u64> {
        match side {
            Side::Leader => &self.sending,
            Side::Follower => &self.taking,
        }
    }
}

impl Lists {
    /// `None`: the topic names nobody.
    fn of(topic: &Topic) -> Option<Lists> {
        let list = |key| {
            let parsed = ThrottledReplicas::parse(topic.config.get(key)?)?;
            Some(parsed).filter(|list| !list.is_empty())
        };
        let lists = Lists { leaders: list(LEADERS), followers: list(FOLLOWERS) };
        (lists.leaders.is_some() || lists.followers.is_some()).then_some(lists)
    }
}

/// The entries of both lists for a partition that moves: all who may lead it, and those that come.
///
/// Source: Kafka `ReassignPartitionsCommand.calculateLeaderThrottles`, `calculateFollowerThrottles`.
pub fn throttled_by_move(
    partition: PartitionIndex,
    before: &[NodeId],
    after: &[NodeId],
) -> (Vec<String>, Vec<String>) {
    let entry = |node: &NodeId| format!("{partition}:{}", node.0);
    let come = after.iter().filter(|node| !before.contains(node));
    (before.iter().map(entry).collect(), come.map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node, partition_id, replica, topic_id};
    use crate::config::Routing;
    use crate::types::PartitionEpoch;
    use proptest::prelude::*;

    /// A topic whose replicas are on nodes 1 and 2, led by 1; those of the partitions named are not in sync on node 2.
    /// Partition by partition, its shard on both.
    fn image(routing: Routing, shards: &[u16], lagging: &[usize], lists: [&str; 2]) -> Image {
        let mut image = image_of(&[node(1, 4, routing), node(2, 4, routing)]);
        let mut take = |record| image.apply(&record).expect("it fits");
        take(Record::TopicCreated { topic: topic_id(7), name: "t".to_owned() });
        for (index, shard) in shards.iter().enumerate() {
            let mut state = PartitionState::new(vec![replica(1, *shard), replica(2, *shard)]);
            if lagging.contains(&index) {
                state.in_sync.retain(|node| *node == NodeId(1));
            }
            take(Record::PartitionCreated { id: partition_id(7, index), state });
        }
        for (key, value) in [LEADERS, FOLLOWERS].into_iter().zip(lists) {
            let value = Some(value.to_owned());
            take(Record::TopicConfigSet { topic: topic_id(7), key: key.to_owned(), value });
        }
        image
    }

    fn throttled(image: &Image, node: i32, shard: u16) -> Throttled {
        let brokers = Brokers::new(image, NodeId(1));
        Throttled::of(image, &brokers, (NodeId(node), ShardId(shard)))
    }

    fn names(image: &Image, side: Side, index: usize, node: i32) -> bool {
        let (brokers, id) = (Brokers::new(image, NodeId(1)), partition_id(7, index));
        let state = image.partition(id).expect("it is there");
        throttled(image, 1, 0).names(&brokers, side, id, NodeId(node), state)
    }

    #[test]
    fn topics_name_leaders_and_followers_apart() {
        let image = image(Routing::Node, &[0, 1], &[], ["0:1,1:2", "*"]);
        let leaders =
            [(0, 1), (0, 2), (1, 1), (1, 2)].map(|(at, node)| names(&image, Side::Leader, at, node));
        assert_eq!(leaders, [true, false, false, true]);
        assert!([(0, 1), (1, 2)].iter().all(|(at, node)| names(&image, Side::Follower, *at, *node)));
    }

    /// Under core routing lists name brokers, of which a node has several.
    #[test]
    fn brokers_of_cores_are_named_by_their_own_ids() {
        let image = image(Routing::Core, &[0, 3], &[1], ["0:1000,1:1000", "1:2003"]);
        assert!(names(&image, Side::Leader, 0, 1));
        assert!(!names(&image, Side::Leader, 1, 1), "it is another core's");
        assert!(names(&image, Side::Follower, 1, 2));
        assert_eq!(throttled(&image, 2, 3).sources().collect::<Vec<_>>(), [(NodeId(1), ShardId(3))]);
    }

    #[test]
    fn a_rate_is_shared_by_what_is_to_catch_up() {
        let image = image(Routing::Node, &[0, 1, 1, 1, 2], &[0, 1, 2, 3], ["*", "*"]);
        for (node, side) in [(1, Side::Leader), (2, Side::Follower)] {
            let throttled = throttled(&image, node, 0);
            assert_eq!([0, 1, 2].map(|shard| throttled.count(side, ShardId(shard))), [1, 3, 0]);
            assert_eq!([0, 1].map(|shard| throttled.share(side, ShardId(shard), 1_000)), [250, 750]);
            assert_eq!(throttled.share(side, ShardId(2), 1_000), 200, "should the metadata be behind");
            assert_eq!([0, 1].map(|rate| throttled.share(side, ShardId(0), rate)), [0, 1]);
        }
    }

    #[test]
    fn who_is_done_or_gone_leaves_the_rate_to_the_others() {
        let mut image = image(Routing::Node, &[0, 1], &[0, 1], ["*", ""]);
        let before = throttled(&image, 1, 0);
        assert_eq!(before.share(Side::Leader, ShardId(0), 1_000), 500);
        assert_eq!(before.count(Side::Follower, ShardId(0)), 0, "an empty list names nobody");
        let mut state = image.partition(partition_id(7, 1)).expect("it is there").clone();
        state.in_sync.push(NodeId(2));
        state.partition_epoch = PartitionEpoch(1);
        let record = Record::PartitionChanged { id: partition_id(7, 1), state };
        assert!(before.is_changed_by(&record));
        image.apply(&record).expect("it is newer");
        assert_eq!(throttled(&image, 1, 0).share(Side::Leader, ShardId(0), 1_000), 1_000);
        let mut fenced = node(2, 4, Routing::Node);
        (fenced.is_fenced, fenced.broker_epoch) = (true, crate::types::BrokerEpoch(1));
        image.apply(&Record::NodeRegistered(fenced)).expect("it is newer");
        assert_eq!(throttled(&image, 1, 0).count(Side::Leader, ShardId(0)), 0);
    }

    #[test]
    fn a_move_holds_back_those_that_come_and_whoever_may_lead() {
        let partition = partition_id(7, 4).partition;
        let moved = throttled_by_move(partition, &[NodeId(1), NodeId(2)], &[NodeId(2), NodeId(3)]);
        assert_eq!(moved, (vec!["4:1".to_owned(), "4:2".to_owned()], vec!["4:3".to_owned()]));
    }

    proptest! {
        #[test]
        fn shares_of_all_shards_are_the_rate(
            shards in proptest::collection::vec(0..4u16, 1..20),
            rate in 100..u64::MAX / 2,
        ) {
            let lagging: Vec<usize> = (0..shards.len()).collect();
            let image = image(Routing::Node, &shards, &lagging, ["*", "*"]);
            for (node, side) in [(1, Side::Leader), (2, Side::Follower)] {
                let throttled = throttled(&image, node, 0);
                let busy = (0..4).map(ShardId).filter(|shard| throttled.count(side, *shard) > 0);
                let sum: u64 = busy.map(|shard| throttled.share(side, shard, rate)).sum();
                prop_assert!((rate - 4..=rate).contains(&sum), "{sum} of {rate}");
            }
        }
    }
}
