//! Which partitions move from one core of their node to another so that its cores have alike many. Pure.
//!
//! New partitions go to the least loaded core; what makes cores differ is what happens later: topics are deleted,
//! leaders go to other nodes and come back, a node starts with more cores. Counted in partitions that a core leads, which
//! make most of its work, then in those that it follows. Absent: traffic and sizes.

use super::image::Image;
use super::placement::moved;
use super::record::{Node, PartitionState, Record};
use crate::types::{NodeId, ShardId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// Partitions of a node that move at a time: each of them is served by nobody for some milliseconds.
pub const CORE_MOVES_MAX: usize = 16;

/// Cores that differ by fewer partitions are alike.
const DIFFERENCE_MIN: usize = 2;

/// The partitions of a node by the core that has them.
struct Cores {
    led: Vec<BTreeSet<TopicPartition>>,
    followed: Vec<BTreeSet<TopicPartition>>,
}

impl Cores {
    fn load(&self, core: usize) -> usize {
        self.led[core].len() + self.followed[core].len()
    }

    /// The cores with the most and the fewest, where they differ.
    fn extremes(&self, load: impl Fn(&Cores, usize) -> usize) -> Option<(usize, usize)> {
        let most = (0..self.led.len()).max_by_key(|core| load(self, *core))?;
        let fewest = (0..self.led.len()).min_by_key(|core| load(self, *core))?;
        (load(self, most) >= load(self, fewest) + DIFFERENCE_MIN).then_some((most, fewest))
    }

    /// Moves one partition towards evenness, and says which and where to; `None` once there is nothing to gain.
    fn move_one(&mut self) -> Option<(TopicPartition, ShardId)> {
        if let Some((from, to)) = self.extremes(|cores, core| cores.led[core].len()) {
            let id = self.led[from].pop_first()?;
            self.led[to].insert(id);
            return Some((id, ShardId(to as u16)));
        }
        let (from, to) = self.extremes(Cores::load)?;
        let id = self.followed[from].pop_first()?;
        self.followed[to].insert(id);
        Some((id, ShardId(to as u16)))
    }
}

/// The records by which partitions move on nodes whose cores differ, [`CORE_MOVES_MAX`] of each at most. None of a
/// partition that is reassigned, or that lies in a log directory that cannot be used. At a fixed point nothing moves.
///
/// Shape: O(replicas of the cluster + moves × cores).
pub fn balance_cores(image: &Image) -> Vec<Record> {
    let spread: BTreeMap<NodeId, &Node> =
        image.nodes().filter(|node| node.is_active() && node.cores > 1).map(|node| (node.id, node)).collect();
    let none = |node: &Node| vec![BTreeSet::new(); node.cores.into()];
    let mut nodes: BTreeMap<NodeId, Cores> =
        spread.iter().map(|(id, node)| (*id, Cores { led: none(node), followed: none(node) })).collect();
    for (id, state) in image.partitions() {
        if state.leadership().is_reassigned() {
            continue;
        }
        let offline = image.offline_replicas(state);
        for replica in state.replicas.iter().filter(|replica| !offline.contains(&replica.node)) {
            let Some(cores) = nodes.get_mut(&replica.node) else { continue };
            let is_led = state.leader == Some(replica.node);
            let of_kind = if is_led { &mut cores.led } else { &mut cores.followed };
            if let Some(of_core) = of_kind.get_mut(replica.owner.index()) {
                of_core.insert(id);
            }
        }
    }
    let mut changed: BTreeMap<TopicPartition, PartitionState> = BTreeMap::new();
    for (node, mut cores) in nodes {
        for _ in 0..CORE_MOVES_MAX {
            let Some((id, to)) = cores.move_one() else { break };
            let before = changed.remove(&id).or_else(|| image.partition(id).cloned());
            let state = before.expect("it was just found");
            let next = state.replica_on(node).map(|replica| moved(replica, to));
            changed.insert(id, state.with_owners(next.as_slice()));
        }
    }
    changed.into_iter().map(|(id, state)| Record::PartitionChanged { id, state }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node, partition_id, replica, topic_id};
    use crate::config::Routing;
    use crate::types::LeaderEpoch;
    use proptest::prelude::*;

    /// A topic on nodes of so many cores. Of each partition: its replicas, the leader's first, by node and core.
    fn image(cores: &[u16], partitions: &[Vec<(i32, u16)>]) -> Image {
        let nodes = (1..).zip(cores).map(|(id, cores)| node(id, *cores, Routing::Node));
        let mut image = image_of(&nodes.collect::<Vec<_>>());
        image.apply(&Record::TopicCreated { topic: topic_id(1), name: "t".to_owned() }).expect("new");
        for (index, replicas) in partitions.iter().enumerate() {
            let replicas = replicas.iter().map(|(node, core)| replica(*node, *core)).collect();
            let (id, state) = (partition_id(1, index), PartitionState::new(replicas));
            image.apply(&Record::PartitionCreated { id, state }).expect("the next");
        }
        image
    }

    /// Balances until nothing moves; how many moves that took.
    fn balance(image: &mut Image) -> usize {
        let mut moves = 0;
        loop {
            let records = balance_cores(image);
            if records.is_empty() {
                return moves;
            }
            moves += records.len();
            records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
            assert!(moves < 10_000, "it goes round");
        }
    }

    /// By core: led, followed.
    fn loads(image: &Image, node: i32, cores: u16) -> Vec<(usize, usize)> {
        let of_core = |core| {
            let here = image.partitions().filter(move |(_, state)| {
                state.replica_on(NodeId(node)).is_some_and(|replica| replica.owner == ShardId(core))
            });
            let (led, followed): (Vec<_>, Vec<_>) =
                here.partition(|(_, state)| state.leader == Some(NodeId(node)));
            (led.len(), followed.len())
        };
        (0..cores).map(of_core).collect()
    }

    #[test]
    fn leaders_are_spread_first_and_followers_make_up_for_the_rest() {
        let mut image = image(
            &[2, 1],
            &[
                vec![(1, 0), (2, 0)],
                vec![(1, 0), (2, 0)],
                vec![(1, 0), (2, 0)],
                vec![(1, 0), (2, 0)],
                vec![(2, 0), (1, 1)],
                vec![(2, 0), (1, 1)],
                vec![(2, 0), (1, 1)],
            ],
        );
        assert_eq!(balance(&mut image), 3, "two leaders, and a follower for it");
        assert_eq!(loads(&image, 1, 2), [(2, 1), (2, 2)]);
        let epochs: Vec<(u32, i32)> = image
            .partitions()
            .map(|(_, state)| (state.replicas[0].ownership_epoch.0, state.leader_epoch.0))
            .collect();
        assert_eq!(epochs[..2], [(1, 1), (1, 1)], "they lead anew, the first ones");
        assert_eq!(image.partition(partition_id(1, 4)).map(|state| state.leader_epoch), Some(LeaderEpoch(0)));
    }

    #[test]
    fn no_more_than_so_many_of_a_node_at_a_time() {
        let image = image(&[3], &vec![vec![(1, 2)]; 90]);
        assert_eq!(balance_cores(&image).len(), CORE_MOVES_MAX);
    }

    proptest! {
        /// Wherever partitions are: cores end alike as far as there are followers to move, and then nothing moves.
        #[test]
        fn cores_end_alike(
            placed in proptest::collection::vec((0..4u16, 0..3u16, any::<bool>()), 0..120),
        ) {
            let placed: Vec<Vec<(i32, u16)>> = placed
                .into_iter()
                .map(|(one, two, turned)| {
                    let mut replicas = vec![(1, one), (2, two)];
                    if turned {
                        replicas.reverse();
                    }
                    replicas
                })
                .collect();
            let mut image = image(&[4, 3], &placed);
            balance(&mut image);
            for (node, cores) in [(1, 4), (2, 3)] {
                let loads = loads(&image, node, cores);
                let led = || loads.iter().map(|(led, _)| *led);
                prop_assert!(led().max() <= led().min().map(|least| least + 1), "{:?}", loads);
                let all = || loads.iter().map(|(led, followed)| led + followed);
                let is_alike = all().max() <= all().min().map(|least| least + 1);
                let most = all().max();
                let leads_only = loads.iter().any(|it| Some(it.0 + it.1) == most && it.1 == 0);
                prop_assert!(is_alike || leads_only, "{:?}", loads);
            }
        }
    }
}
