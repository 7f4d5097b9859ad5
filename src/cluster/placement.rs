//! Which shard of a node owns a replica, and which of its log directories holds it.
//!
//! The least loaded one when a partition is created, counted in replicas (Kafka
//! `LogManager.nextLogDirs`); the first among equals, so that the same records follow from the same
//! image. A replica stays in its directory, whichever shard owns it. Absent: moving partitions between
//! directories, and between shards by traffic or size ([`core_balance`](super::core_balance) counts).

use std::collections::{BTreeMap, BTreeSet};

use super::image::Image;
use super::record::{Node, PartitionState, Replica};
use crate::config::Routing;
use crate::types::{
    DirectoryId, LeaderEpoch, NodeId, OwnershipEpoch, PartitionEpoch, ShardId, TopicPartition,
};

/// The loads of every node's shards while decisions are being made: choices count at once.
#[derive(Clone, Debug)]
pub struct Placement {
    nodes: BTreeMap<NodeId, Shards>,
    /// Of those that have said.
    racks: BTreeMap<NodeId, String>,
    /// Those that are neither fenced nor about to stop: they alone are chosen.
    active: BTreeSet<NodeId>,
    directories: BTreeMap<NodeId, Directories>,
    /// Partitions so far: their leaders go round.
    partitions: usize,
}

/// The log directories of a node that take partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryChoice {
    /// It has one, of which nothing is said.
    One,
    /// Those of several that are online, in their order.
    Online(Vec<DirectoryId>),
}

/// The loads of those of one node; none when all are offline.
#[derive(Clone, Debug)]
struct Directories {
    loads: Vec<(u32, DirectoryId)>,
}

/// Why a replica cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// There are fewer active nodes than replicas.
    TooFewNodes,
    /// The node never registered, or has no such shard.
    NoShard,
    /// All log directories of the node are offline.
    NoDirectory,
}

/// The loads of one node's shards.
#[derive(Clone, Debug)]
struct Shards {
    by_load: BTreeSet<(u32, ShardId)>,
    loads: Vec<u32>,
    total: u64,
}

impl Placement {
    /// `own`: the log directories of this node that are online, of which it knows before the image does.
    pub fn new(image: &Image, own: Option<(NodeId, &DirectoryChoice)>) -> Placement {
        let nodes = image.nodes().map(|node| (node.id, Shards::new(image, node))).collect();
        let among = |node: NodeId, ids: &[DirectoryId]| {
            let loads = ids.iter().map(|id| (image.directory_load(node, *id), *id)).collect();
            (node, Directories { loads })
        };
        let is_own = |node: &Node| own.is_some_and(|(own, _)| own == node.id);
        let with_several = image.nodes().filter(|node| !node.log_directories.is_empty() && !is_own(node));
        let directories = with_several.map(|node| {
            let online = node.log_directories.iter().filter(|directory| !directory.is_offline);
            among(node.id, &online.map(|directory| directory.id).collect::<Vec<_>>())
        });
        let directories =
            directories.chain(own.into_iter().filter_map(|(node, directories)| match directories {
                DirectoryChoice::One => None,
                DirectoryChoice::Online(ids) => Some(among(node, ids)),
            }));
        let rack = |node: &Node| Some((node.id, node.rack.clone()?));
        Placement {
            nodes,
            active: image.nodes().filter(|node| node.is_active()).map(|node| node.id).collect(),
            racks: image.nodes().filter_map(rack).collect(),
            directories: directories.collect(),
            partitions: image.partition_count(),
        }
    }

    /// The replicas of a new partition: in as many racks as there are, on the least loaded nodes, there on the
    /// least loaded shards and in the least loaded directories. Each of them is the preferred leader in turn.
    ///
    /// Shape: O(nodes) a replica.
    pub fn place(&mut self, replication_factor: u16) -> Result<Vec<Replica>, NoPlace> {
        let mut chosen: Vec<NodeId> = Vec::with_capacity(replication_factor.into());
        for _ in 0..replication_factor {
            let used = |node: &NodeId| {
                let rack = self.racks.get(node);
                chosen.iter().filter(|other| rack.is_some() && self.racks.get(other) == rack).count()
            };
            let free = self.nodes.iter().filter(|(id, _)| self.active.contains(id) && !chosen.contains(id));
            let next = free.min_by_key(|(id, shards)| (used(id), shards.total, **id));
            chosen.push(*next.ok_or(NoPlace::TooFewNodes)?.0);
        }
        if !chosen.is_empty() {
            let turn = self.partitions % chosen.len();
            chosen.rotate_left(turn);
        }
        self.partitions += 1;
        chosen.into_iter().map(|node| self.place_on(node, None)).collect()
    }

    /// A replica on a given node, and on a given shard or the least loaded one. O(log shards +
    /// directories).
    pub fn place_on(&mut self, node: NodeId, shard: Option<ShardId>) -> Result<Replica, NoPlace> {
        let shards = self.nodes.get_mut(&node).ok_or(NoPlace::NoShard)?;
        let owner = match shard {
            Some(shard) => shard,
            None => shards.least_loaded(),
        };
        shards.count(owner).ok_or(NoPlace::NoShard)?;
        let directory = match self.directories.get_mut(&node) {
            None => None,
            Some(directories) => Some(directories.take_least_loaded().ok_or(NoPlace::NoDirectory)?),
        };
        Ok(Replica { node, owner, ownership_epoch: OwnershipEpoch(0), directory })
    }

    /// A replica that goes to another shard of its node. O(log shards).
    pub fn move_to(&mut self, replica: &Replica, shard: ShardId) -> Result<Replica, NoPlace> {
        let shards = self.nodes.get_mut(&replica.node).ok_or(NoPlace::NoShard)?;
        shards.count(shard).ok_or(NoPlace::NoShard)?;
        shards.discount(replica.owner);
        Ok(moved(replica, shard))
    }

    pub fn active_count(&self) -> usize {
        self.active.len()
    }
}

/// The replica on another shard of its node, under the next ownership.
pub fn moved(replica: &Replica, shard: ShardId) -> Replica {
    let ownership_epoch = OwnershipEpoch(replica.ownership_epoch.0 + 1);
    Replica { owner: shard, ownership_epoch, ..*replica }
}

impl Directories {
    fn take_least_loaded(&mut self) -> Option<DirectoryId> {
        let (load, id) = self.loads.iter_mut().min_by_key(|(load, _)| *load)?; // The first of equals.
        *load += 1;
        Some(*id)
    }
}

impl Shards {
    fn new(image: &Image, node: &Node) -> Shards {
        assert!(node.cores > 0, "a node has a core");
        let loads: Vec<u32> = (0..node.cores).map(|shard| image.load(node.id, ShardId(shard))).collect();
        let by_load = (0..).map(ShardId).zip(&loads).map(|(shard, &load)| (load, shard)).collect();
        Shards { by_load, total: loads.iter().map(|&load| u64::from(load)).sum(), loads }
    }

    fn least_loaded(&self) -> ShardId {
        let &(_, shard) = self.by_load.first().expect("a node has a core");
        shard
    }

    fn count(&mut self, shard: ShardId) -> Option<()> {
        let load = self.loads.get_mut(shard.index())?;
        self.by_load.remove(&(*load, shard));
        *load += 1;
        self.by_load.insert((*load, shard));
        self.total += 1;
        Some(())
    }

    fn discount(&mut self, shard: ShardId) {
        if let Some(load) = self.loads.get_mut(shard.index()) {
            self.by_load.remove(&(*load, shard));
            *load = load.saturating_sub(1);
            self.by_load.insert((*load, shard));
            self.total = self.total.saturating_sub(1);
        }
    }
}

/// Moves the replicas of shards that `node` no longer has to the least loaded ones it has, and states
/// the log directory of those that were made while the node had only one: where they were `found`, else
/// the first. Of a node that `begins_anew`, in the place of one of its id that is gone, those in directories
/// that it does not have, or in none that is stated, are spread over the ones that it has.
///
/// Run at start, before any partition opens, so nothing has to be fenced: the new owner replays
/// what the old one left. Under core routing the leader's broker changes for clients, which is a
/// new leadership to them: its epoch grows.
pub fn rehome(
    image: &Image,
    node: &Node,
    found: &BTreeMap<TopicPartition, DirectoryId>,
    begins_anew: bool,
) -> BTreeMap<TopicPartition, PartitionState> {
    let mut shards = Shards::new(image, node);
    let mut directories = AnewIn::new(node);
    let first = node.log_directories.first().map(|directory| directory.id);
    let mut changed = BTreeMap::new();
    for (id, state) in image.partitions() {
        let Some(position) = state.replicas.iter().position(|replica| replica.node == node.id) else {
            continue;
        };
        let replica = state.replicas[position];
        let is_orphan = replica.owner.0 >= node.cores;
        let is_unstated = replica.directory.is_none() && first.is_some();
        let is_gone = begins_anew && replica.directory.is_some_and(|id| !directories.has(id));
        if !is_orphan && !is_unstated && !is_gone {
            continue;
        }
        let mut state = state.clone();
        let replica = &mut state.replicas[position];
        if is_gone || is_unstated && begins_anew {
            replica.directory = directories.next();
        } else if is_unstated {
            replica.directory = found.get(&id).copied().or(first);
        }
        if is_orphan {
            let owner = shards.least_loaded();
            shards.count(owner).expect("the least loaded shard exists");
            *replica = moved(replica, owner);
        }
        if is_orphan && state.leader == Some(node.id) && node.routing == Routing::Core {
            state.leader_epoch = LeaderEpoch(state.leader_epoch.0 + 1);
            state.partition_epoch = PartitionEpoch(state.partition_epoch.0 + 1);
        }
        changed.insert(id, state);
    }
    changed
}

/// The log directories of a node that has nothing in them yet.
struct AnewIn<'a> {
    node: &'a Node,
    /// Those that are online, of which each is next in turn.
    online: Vec<DirectoryId>,
    given: usize,
}

impl AnewIn<'_> {
    fn new(node: &Node) -> AnewIn<'_> {
        let online = node.log_directories.iter().filter(|directory| !directory.is_offline);
        AnewIn { node, online: online.map(|directory| directory.id).collect(), given: 0 }
    }

    fn has(&self, id: DirectoryId) -> bool {
        self.node.log_directories.iter().any(|directory| directory.id == id)
    }

    /// `None`: there is only one, which is not stated.
    fn next(&mut self) -> Option<DirectoryId> {
        let next = self.online.get(self.given % self.online.len().max(1)).copied();
        self.given += 1;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node};
    use crate::cluster::image::tests::{partition_id, replica, topic_id};
    use crate::cluster::record::{LogDirectory, Record};
    use crate::types::Uuid;
    use proptest::prelude::*;

    fn owners(image: &Image) -> Vec<u16> {
        image.partitions().map(|(_, state)| state.replicas[0].owner.0).collect()
    }

    fn rehome(image: &Image, node: &Node) -> Vec<Record> {
        rehome_found(image, node, &BTreeMap::new())
    }

    fn rehome_found(
        image: &Image,
        node: &Node,
        found: &BTreeMap<TopicPartition, DirectoryId>,
    ) -> Vec<Record> {
        let moved = super::rehome(image, node, found, false).into_iter();
        moved.map(|(id, state)| Record::PartitionChanged { id, state }).collect()
    }

    fn directory(number: u128) -> DirectoryId {
        DirectoryId(Uuid::from_u128(number))
    }

    /// A node with these log directories.
    fn node_with(cores: u16, directories: &[u128]) -> Node {
        let named = |number: &u128| LogDirectory {
            id: directory(*number),
            path: format!("/{number}"),
            is_offline: false,
        };
        Node { log_directories: directories.iter().map(named).collect(), ..node(1, cores, Routing::Node) }
    }

    fn apply_all(image: &mut Image, records: &[Record]) {
        records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
    }

    #[test]
    fn least_loaded_shard_is_chosen() {
        let mut image = image_of(&[node(1, 3, Routing::Node)]);
        add_topic(&mut image, 1, "a", &[0, 0, 1]);
        let mut placement = Placement::new(&image, None);
        let mut place = || placement.place(1).expect("one node")[0].owner.0;
        assert_eq!([(); 5].map(|()| place()), [2, 1, 2, 0, 1]);
    }

    #[test]
    fn replicas_are_on_different_nodes() {
        let image = image_of(&[node(1, 2, Routing::Core), node(2, 2, Routing::Core)]);
        let mut placement = Placement::new(&image, None);
        let nodes: Vec<i32> = placement.place(2).expect("two nodes").iter().map(|r| r.node.0).collect();
        assert_eq!(nodes, [1, 2]);
        let leaders: Vec<i32> = (0..4).map(|_| placement.place(2).expect("two nodes")[0].node.0).collect();
        assert_eq!(leaders, [2, 1, 2, 1], "they take turns");
        assert_eq!(placement.place(3), Err(NoPlace::TooFewNodes));
        assert_eq!(placement.place_on(NodeId(1), Some(ShardId(2))), Err(NoPlace::NoShard));
        assert_eq!(placement.place_on(NodeId(3), None), Err(NoPlace::NoShard));
    }

    #[test]
    fn replicas_are_in_different_racks_while_there_are_any() {
        let in_rack = |id, rack: &str| Node { rack: Some(rack.to_owned()), ..node(id, 1, Routing::Node) };
        let image = image_of(&[in_rack(1, "a"), in_rack(2, "a"), in_rack(3, "a"), in_rack(4, "b")]);
        let mut placement = Placement::new(&image, None);
        for _ in 0..6 {
            let nodes: BTreeSet<i32> =
                placement.place(2).expect("two racks").iter().map(|replica| replica.node.0).collect();
            assert!(nodes.contains(&4), "{nodes:?}");
        }
        let all = placement.place(4).expect("four nodes");
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn nothing_is_placed_on_nodes_that_are_fenced_or_stop() {
        let fenced = Node { is_fenced: true, ..node(1, 1, Routing::Node) };
        let stopping = Node { is_shutting_down: true, ..node(2, 1, Routing::Node) };
        let image = image_of(&[fenced, stopping, node(3, 1, Routing::Node)]);
        let mut placement = Placement::new(&image, None);
        assert_eq!(placement.active_count(), 1);
        let nodes = [(); 2].map(|()| placement.place(1).expect("one node")[0].node.0);
        assert_eq!(nodes, [3, 3]);
        assert_eq!(placement.place(2), Err(NoPlace::TooFewNodes));
        assert!(placement.place_on(NodeId(1), None).is_ok(), "who names it may have it");
    }

    #[test]
    fn new_partition_goes_to_the_online_directory_with_the_fewest() {
        let mut image = image_of(&[node_with(2, &[1, 2, 3])]);
        image.apply(&Record::TopicCreated { topic: topic_id(7), name: "a".to_owned() }).expect("new");
        for (index, number) in [1, 1, 2].into_iter().enumerate() {
            let replica = Replica { directory: Some(directory(number)), ..replica(1, 0) };
            let state = PartitionState::new(vec![replica]);
            image.apply(&Record::PartitionCreated { id: partition_id(7, index), state }).expect("the next");
        }
        let places = |online: &[u128]| {
            let online = DirectoryChoice::Online(online.iter().map(|number| directory(*number)).collect());
            let mut placement = Placement::new(&image, Some((NodeId(1), &online)));
            let place = |_| placement.place(1).map(|replicas| replicas[0].directory);
            (0..4).map(place).collect::<Result<Vec<_>, _>>()
        };
        let directories = |numbers: [u128; 4]| Ok(numbers.map(|number| Some(directory(number))).to_vec());
        assert_eq!(places(&[1, 2, 3]), directories([3, 2, 3, 1]));
        assert_eq!(places(&[1, 2]), directories([2, 1, 2, 1]));
        assert_eq!(places(&[]), Err(NoPlace::NoDirectory));
        let mut placement = Placement::new(&image, Some((NodeId(1), &DirectoryChoice::One)));
        assert_eq!(placement.place(1).expect("one node")[0].directory, None);
    }

    #[test]
    fn directory_of_older_partitions_is_stated_once_there_are_several() {
        let mut image = image_of(&[node(1, 4, Routing::Node)]);
        add_topic(&mut image, 7, "a", &[0, 3, 0]);
        let several = node_with(2, &[1, 2]);
        let found = BTreeMap::from([(partition_id(7, 1), directory(2))]);
        let records = rehome_found(&image, &several, &found);
        apply_all(&mut image, &records);
        let places: Vec<_> = image.partitions().map(|(_, state)| state.replicas[0].directory).collect();
        assert_eq!(places, [1, 2, 1].map(|number| Some(directory(number))));
        assert_eq!(owners(&image), [0, 1, 0], "the missing core's went to another in the same step");
        assert_eq!(rehome(&image, &several), []);
        assert_eq!(rehome(&image, &node(1, 2, Routing::Node)), [], "they stay stated");
    }

    #[test]
    fn partitions_of_vanished_shards_move_under_a_higher_ownership_epoch() {
        let mut image = image_of(&[node(1, 4, Routing::Node)]);
        add_topic(&mut image, 1, "a", &[0, 1, 2, 3, 2]);
        let fewer = node(1, 2, Routing::Node);
        let records = rehome(&image, &fewer);
        assert_eq!(records.len(), 3);
        apply_all(&mut image, &records);
        assert_eq!(owners(&image), [0, 1, 0, 1, 0]);
        let epochs: Vec<u32> =
            image.partitions().map(|(_, state)| state.replicas[0].ownership_epoch.0).collect();
        assert_eq!(epochs, [0, 0, 1, 1, 1]);
        assert!(image.partitions().all(|(_, state)| state.leader_epoch.0 == 0));
        assert_eq!(rehome(&image, &fewer), []);
    }

    #[test]
    fn under_core_routing_a_moved_leader_is_a_new_leadership() {
        let mut image = image_of(&[node(1, 2, Routing::Core)]);
        add_topic(&mut image, 1, "a", &[0, 1]);
        let records = rehome(&image, &node(1, 1, Routing::Core));
        apply_all(&mut image, &records);
        let epochs: Vec<i32> = image.partitions().map(|(_, state)| state.leader_epoch.0).collect();
        assert_eq!(epochs, [0, 1]);
    }

    proptest! {
        #[test]
        fn rehomed_partitions_live_on_living_shards_evenly(
            shards in proptest::collection::vec(0..8u16, 1..60),
            cores in 1..8u16,
        ) {
            let mut image = image_of(&[node(1, 8, Routing::Node)]);
            add_topic(&mut image, 1, "a", &shards);
            let kept = (0..cores).map(|shard| image.load(NodeId(1), ShardId(shard))).max().unwrap_or(0);
            let records = rehome(&image, &node(1, cores, Routing::Node));
            apply_all(&mut image, &records);
            prop_assert!(owners(&image).iter().all(|&owner| owner < cores));
            let even = (shards.len() as u32).div_ceil(u32::from(cores));
            let most = (0..cores).map(|shard| image.load(NodeId(1), ShardId(shard))).max().unwrap_or(0);
            prop_assert!(most <= kept.max(even));
        }
    }
}
