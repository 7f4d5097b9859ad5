//! Which shard of a node owns a replica.
//!
//! The least loaded one when a partition is created, counted in replicas; the lowest number among
//! equals, so that the same records follow from the same image. Absent: moving partitions between
//! living shards by traffic, and placement over racks once there are more nodes than one.

use std::collections::{BTreeMap, BTreeSet};

use super::image::Image;
use super::record::{Node, Record, Replica};
use crate::config::Routing;
use crate::types::{LeaderEpoch, NodeId, OwnershipEpoch, PartitionEpoch, ShardId};

/// The loads of every node's shards while decisions are being made: choices count at once.
#[derive(Clone, Debug)]
pub struct Placement {
    nodes: BTreeMap<NodeId, Shards>,
}

/// The loads of one node's shards.
#[derive(Clone, Debug)]
struct Shards {
    by_load: BTreeSet<(u32, ShardId)>,
    loads: Vec<u32>,
    total: u64,
}

impl Placement {
    pub fn new(image: &Image) -> Placement {
        Placement { nodes: image.nodes().map(|node| (node.id, Shards::new(image, node))).collect() }
    }

    /// The replicas of a new partition: on the least loaded nodes, there on the least loaded shards.
    /// `None` when there are fewer nodes than replicas.
    pub fn place(&mut self, replication_factor: u16) -> Option<Vec<Replica>> {
        let mut nodes: Vec<(u64, NodeId)> =
            self.nodes.iter().map(|(&id, shards)| (shards.total, id)).collect();
        nodes.sort_unstable();
        let chosen = nodes.get(..usize::from(replication_factor))?;
        chosen.iter().map(|&(_, node)| self.place_on(node, None)).collect()
    }

    /// A replica on a given node, and on a given shard or the least loaded one. `None` when the
    /// node never registered or has no such shard. O(log shards).
    pub fn place_on(&mut self, node: NodeId, shard: Option<ShardId>) -> Option<Replica> {
        let shards = self.nodes.get_mut(&node)?;
        let owner = match shard {
            Some(shard) => shard,
            None => shards.least_loaded(),
        };
        shards.count(owner)?;
        Some(Replica { node, owner, ownership_epoch: OwnershipEpoch(0) })
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
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
}

/// Moves the replicas of shards that `node` no longer has to the least loaded ones it has.
///
/// Run at start, before any partition opens, so nothing has to be fenced: the new owner replays
/// what the old one left. Under core routing the leader's broker changes for clients, which is a
/// new leadership to them: its epoch grows.
pub fn rehome(image: &Image, node: &Node) -> Vec<Record> {
    let mut shards = Shards::new(image, node);
    let mut records = Vec::new();
    for (id, state) in image.partitions() {
        let Some(position) = orphan(state.replicas.iter().map(|replica| (replica.node, replica.owner)), node)
        else {
            continue;
        };
        let mut state = state.clone();
        let replica = &mut state.replicas[position];
        replica.owner = shards.least_loaded();
        shards.count(replica.owner).expect("the least loaded shard exists");
        replica.ownership_epoch = OwnershipEpoch(replica.ownership_epoch.0 + 1);
        if state.leader == Some(node.id) && node.routing == Routing::Core {
            state.leader_epoch = LeaderEpoch(state.leader_epoch.0 + 1);
            state.partition_epoch = PartitionEpoch(state.partition_epoch.0 + 1);
        }
        records.push(Record::PartitionChanged { id, state });
    }
    records
}

/// The replica that is on `node` but on none of its shards.
fn orphan(mut owners: impl Iterator<Item = (NodeId, ShardId)>, node: &Node) -> Option<usize> {
    owners.position(|(id, owner)| id == node.id && owner.0 >= node.cores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node};
    use proptest::prelude::*;

    fn owners(image: &Image) -> Vec<u16> {
        image.partitions().map(|(_, state)| state.replicas[0].owner.0).collect()
    }

    fn apply_all(image: &mut Image, records: &[Record]) {
        records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
    }

    #[test]
    fn least_loaded_shard_is_chosen() {
        let mut image = image_of(&[node(1, 3, Routing::Node)]);
        add_topic(&mut image, 1, "a", &[0, 0, 1]);
        let mut placement = Placement::new(&image);
        let mut place = || placement.place(1).expect("one node")[0].owner.0;
        assert_eq!([(); 5].map(|()| place()), [2, 1, 2, 0, 1]);
    }

    #[test]
    fn replicas_are_on_different_nodes() {
        let image = image_of(&[node(1, 2, Routing::Core), node(2, 2, Routing::Core)]);
        let mut placement = Placement::new(&image);
        let nodes: Vec<i32> = placement.place(2).expect("two nodes").iter().map(|r| r.node.0).collect();
        assert_eq!(nodes, [1, 2]);
        assert_eq!(placement.place(3), None);
        assert_eq!(placement.place_on(NodeId(1), Some(ShardId(2))), None);
        assert_eq!(placement.place_on(NodeId(3), None), None);
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
