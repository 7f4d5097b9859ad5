//! The nodes as clients see them: as Kafka brokers.
//!
//! | routing | a broker is | broker id | port | rack |
//! |---|---|---|---|---|
//! | `node` | a node | node id | the node's | as configured |
//! | `core` | one core | node id × 1000 + shard | the node's + 1 + shard | as configured, else `node-<id>` |
//!
//! Under core routing the node's own port is a bootstrap address and no broker.

use std::collections::{BTreeMap, BTreeSet};

use super::image::Image;
use super::record::{Node, PartitionState, Replica};
pub use crate::config::Routing;
use crate::types::limits::SHARDS_MAX;
use crate::types::{BrokerId, DirectoryId, NodeId, ShardId};

/// Broker ids of one node under core routing.
const BROKERS_PER_NODE: i32 = 1000;

/// The largest node id whose brokers have ids under either routing.
pub const NODE_ID_MAX: i32 = i32::MAX / BROKERS_PER_NODE - 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: BrokerId,
    pub node: NodeId,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
    /// Clients are not told of it: it leads nothing.
    pub is_fenced: bool,
}

/// Every broker of the cluster. Derived from the image; built anew when a node registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brokers {
    /// By id.
    brokers: Vec<Broker>,
    nodes: BTreeMap<NodeId, Routing>,
    /// Those that are not fenced.
    alive: BTreeSet<NodeId>,
    /// Log directories that cannot be used.
    offline: BTreeSet<(NodeId, DirectoryId)>,
    controller: Option<BrokerId>,
}

impl Routing {
    pub const fn broker_id(self, node: NodeId, shard: ShardId) -> BrokerId {
        match self {
            Routing::Node => BrokerId(node.0),
            Routing::Core => BrokerId(node.0 * BROKERS_PER_NODE + shard.0 as i32),
        }
    }

    /// The port on which a shard's broker listens. `None` past 65535.
    pub fn port(self, base: u16, shard: ShardId) -> Option<u16> {
        match self {
            Routing::Node => Some(base),
            Routing::Core => base.checked_add(1)?.checked_add(shard.0),
        }
    }
}

impl Brokers {
    /// `controller`: the node that decides for the cluster; its shard 0 does.
    pub fn new(image: &Image, controller: NodeId) -> Brokers {
        let mut brokers: Vec<Broker> = image.nodes().flat_map(brokers_of).collect();
        brokers.sort_by_key(|broker| broker.id);
        let controller = image.node(controller).filter(|node| !node.is_fenced);
        let controller = controller.map(|node| node.routing.broker_id(node.id, ShardId(0)));
        let nodes = image.nodes().map(|node| (node.id, node.routing)).collect();
        let alive = image.nodes().filter(|node| !node.is_fenced).map(|node| node.id).collect();
        let offline_of = |node: &Node| {
            let offline = node.log_directories.iter().filter(|directory| directory.is_offline);
            let id = node.id;
            offline.map(move |directory| (id, directory.id)).collect::<Vec<_>>()
        };
        let offline = image.nodes().flat_map(offline_of).collect();
        Brokers { brokers, nodes, alive, offline, controller }
    }

    /// Those that clients are told of.
    pub fn alive(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.iter().filter(|broker| !broker.is_fenced)
    }

    /// Those that are fenced too.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Broker> {
        self.brokers.iter()
    }

    pub fn get(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers
            .binary_search_by_key(&id, |broker| broker.id)
            .ok()
            .map(|position| &self.brokers[position])
    }

    /// Where clients send administrative requests.
    pub fn controller(&self) -> Option<BrokerId> {
        self.controller
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The broker that clients produce to and fetch from, `None` while there is no leader.
    pub fn leader_of(&self, partition: &PartitionState) -> Option<BrokerId> {
        let replica = partition.replica_on(partition.leader?)?;
        self.is_registered(replica.node).then(|| self.broker_of(replica))
    }

    /// A replica's broker, also when its node never registered.
    pub fn broker_of(&self, replica: &Replica) -> BrokerId {
        let routing = self.nodes.get(&replica.node).copied().unwrap_or_default();
        routing.broker_id(replica.node, replica.owner)
    }

    pub fn is_registered(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Its node is registered and not fenced, and can use the log directory.
    pub fn is_online(&self, replica: &Replica) -> bool {
        let is_offline = |directory| self.offline.contains(&(replica.node, directory));
        self.alive.contains(&replica.node) && !replica.directory.is_some_and(is_offline)
    }

    /// The node behind a broker id, and under core routing the shard.
    pub fn resolve(&self, id: BrokerId) -> Option<(NodeId, Option<ShardId>)> {
        let node = self.get(id)?.node;
        let shard = match self.nodes[&node] {
            Routing::Node => None,
            Routing::Core => Some(ShardId((id.0 - node.0 * BROKERS_PER_NODE) as u16)),
        };
        Some((node, shard))
    }
}

fn brokers_of(node: &Node) -> impl Iterator<Item = Broker> + '_ {
    let shards = match node.routing {
        Routing::Node => 1,
        Routing::Core => node.cores,
    };
    let rack = match node.routing {
        Routing::Node => node.rack.clone(),
        Routing::Core => Some(node.rack.clone().unwrap_or_else(|| format!("node-{}", node.id.0))),
    };
    // A core whose port would pass 65535 has no address; registration refuses such a node.
    (0..shards).map(ShardId).filter_map(move |shard| {
        Some(Broker {
            id: node.routing.broker_id(node.id, shard),
            node: node.id,
            host: node.host.clone(),
            port: node.routing.port(node.port, shard)?,
            rack: rack.clone(),
            is_fenced: node.is_fenced,
        })
    })
}

const _: () = assert!((SHARDS_MAX as i32) < BROKERS_PER_NODE);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node, replica};

    #[test]
    fn node_routing_is_one_broker_on_one_port() {
        let brokers = Brokers::new(&image_of(&[node(1, 4, Routing::Node)]), NodeId(1));
        let all: Vec<_> =
            brokers.iter().map(|broker| (broker.id.0, broker.port, broker.rack.clone())).collect();
        assert_eq!(all, [(1, 9092, None)]);
        let partition = PartitionState::new(vec![replica(1, 3)]);
        assert_eq!(brokers.leader_of(&partition), Some(BrokerId(1)));
        assert_eq!(brokers.resolve(BrokerId(1)), Some((NodeId(1), None)));
        assert_eq!(brokers.controller(), Some(BrokerId(1)));
    }

    #[test]
    fn core_routing_is_a_broker_per_core() {
        let brokers = Brokers::new(&image_of(&[node(1, 2, Routing::Core)]), NodeId(1));
        let all: Vec<_> =
            brokers.iter().map(|broker| (broker.id.0, broker.port, broker.rack.clone())).collect();
        let rack = Some("node-1".to_owned());
        assert_eq!(all, [(1000, 9093, rack.clone()), (1001, 9094, rack)]);
        let partition = PartitionState::new(vec![replica(1, 1)]);
        assert_eq!(brokers.leader_of(&partition), Some(BrokerId(1001)));
        assert_eq!(brokers.resolve(BrokerId(1001)), Some((NodeId(1), Some(ShardId(1)))));
        assert_eq!(brokers.resolve(BrokerId(1)), None);
    }

    #[test]
    fn clients_are_not_told_of_fenced_nodes() {
        let fenced = Node { is_fenced: true, ..node(2, 2, Routing::Core) };
        let image = image_of(&[node(1, 2, Routing::Core), fenced]);
        let brokers = Brokers::new(&image, NodeId(2));
        assert_eq!(brokers.alive().map(|broker| broker.id.0).collect::<Vec<_>>(), [1000, 1001]);
        assert_eq!(brokers.iter().len(), 4);
        assert_eq!(brokers.controller(), None, "it would be a broker that is not there");
        assert_eq!((brokers.is_online(&replica(2, 0)), brokers.is_registered(NodeId(2))), (false, true));
        assert_eq!(brokers.resolve(BrokerId(2001)), Some((NodeId(2), Some(ShardId(1)))));
    }

    #[test]
    fn leader_on_an_unknown_node_is_no_leader() {
        let brokers = Brokers::new(&image_of(&[node(1, 2, Routing::Node)]), NodeId(1));
        assert_eq!(brokers.leader_of(&PartitionState::new(vec![replica(2, 0)])), None);
    }

    #[test]
    fn ports_end_at_65535() {
        assert_eq!(Routing::Core.port(65_533, ShardId(1)), Some(65_535));
        assert_eq!(Routing::Core.port(65_533, ShardId(2)), None);
        assert_eq!(Routing::Core.port(65_535, ShardId(0)), None);
    }
}
