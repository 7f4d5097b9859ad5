//! What a starting node adds to the metadata log before it opens anything.

use super::brokers::NODE_ID_MAX;
use super::image::Image;
use super::placement;
use super::record::{FEATURE_LEVEL_BASE, FEATURE_LEVEL_DIRECTORIES, Node, Record};
use crate::config::Routing;
use crate::types::limits::SHARDS_MAX;
use crate::types::{DirectoryId, NodeId, ShardId, TopicPartition, Uuid};
use std::collections::BTreeMap;

/// Why a node may not start with this configuration on this metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationRefused {
    #[error("node id {0} is out of range: use 0 to {NODE_ID_MAX}")]
    NodeId(i32),
    #[error("{0} cores are out of range: use 1 to {SHARDS_MAX}")]
    Cores(u16),
    #[error("with routing = core the cores listen on ports {base} + 1 to {base} + {cores}: use a lower port")]
    Ports { base: u16, cores: u16 },
    /// One node is the whole cluster for now, so another id means another node's directory.
    #[error("the data directory belongs to node {found}, not to node {wanted}: start with --node-id {found}")]
    OtherNode { found: i32, wanted: i32 },
}

/// The records by which `node` joins: the cluster itself when there is none, the node when
/// anything about it changed, new owners for the partitions of cores that it no longer has, and the log
/// directory of partitions that were made while it had only one, as they were `found`.
///
/// An unchanged restart yields nothing. `new_cluster_id` is used only for a new cluster.
pub fn register(
    image: &Image,
    node: &Node,
    found: &BTreeMap<TopicPartition, DirectoryId>,
    new_cluster_id: Uuid,
) -> Result<Vec<Record>, RegistrationRefused> {
    check(image, node)?;
    let mut records = Vec::new();
    if image.cluster_id().is_none() {
        records.push(Record::ClusterCreated { cluster_id: new_cluster_id });
    }
    let level = match node.log_directories.is_empty() {
        true => FEATURE_LEVEL_BASE,
        false => FEATURE_LEVEL_DIRECTORIES,
    };
    if image.feature_level() < level {
        records.push(Record::FeatureLevelSet { level });
    }
    if image.node(node.id) != Some(node) {
        records.push(Record::NodeRegistered(node.clone()));
    }
    records.extend(placement::rehome(image, node, found));
    Ok(records)
}

fn check(image: &Image, node: &Node) -> Result<(), RegistrationRefused> {
    let NodeId(id) = node.id;
    if !(0..=NODE_ID_MAX).contains(&id) {
        return Err(RegistrationRefused::NodeId(id));
    }
    if node.cores == 0 || usize::from(node.cores) > SHARDS_MAX {
        return Err(RegistrationRefused::Cores(node.cores));
    }
    if node.routing == Routing::Core && node.routing.port(node.port, ShardId(node.cores - 1)).is_none() {
        return Err(RegistrationRefused::Ports { base: node.port, cores: node.cores });
    }
    match image.nodes().next() {
        Some(other) if image.node(node.id).is_none() => {
            Err(RegistrationRefused::OtherNode { found: other.id.0, wanted: id })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, node};

    const CLUSTER_ID: Uuid = Uuid::from_u128(9);

    fn registered(image: &mut Image, node: &Node) -> Vec<Record> {
        let records = register(image, node, &BTreeMap::new(), CLUSTER_ID).expect("a valid node");
        records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
        records
    }

    #[test]
    fn first_start_forms_the_cluster_and_a_second_adds_nothing() {
        let mut image = Image::default();
        assert_eq!(registered(&mut image, &node(1, 2, Routing::Node)).len(), 3);
        assert_eq!(image.cluster_id(), Some(CLUSTER_ID));
        assert_eq!(registered(&mut image, &node(1, 2, Routing::Node)), []);
    }

    #[test]
    fn fewer_cores_rehome_and_register() {
        let mut image = Image::default();
        registered(&mut image, &node(1, 4, Routing::Node));
        add_topic(&mut image, 1, "a", &[3, 0]);
        assert_eq!(registered(&mut image, &node(1, 1, Routing::Node)).len(), 2);
        assert!(image.partitions().all(|(_, state)| state.replicas[0].owner == ShardId(0)));
    }

    #[test]
    fn another_nodes_directory_is_refused() {
        let mut image = Image::default();
        registered(&mut image, &node(1, 1, Routing::Node));
        let refused = register(&image, &node(2, 1, Routing::Node), &BTreeMap::new(), CLUSTER_ID);
        assert_eq!(refused, Err(RegistrationRefused::OtherNode { found: 1, wanted: 2 }));
    }

    #[test]
    fn ids_and_ports_past_their_range_are_refused() {
        let image = Image::default();
        let refused = |node: Node| register(&image, &node, &BTreeMap::new(), CLUSTER_ID).is_err();
        assert!(refused(node(-1, 1, Routing::Node)));
        assert!(refused(node(NODE_ID_MAX + 1, 1, Routing::Node)));
        assert!(refused(node(1, 0, Routing::Node)));
        assert!(refused(Node { port: 65_535, ..node(1, 1, Routing::Core) }));
        assert!(!refused(Node { port: 65_535, ..node(1, 1, Routing::Node) }));
    }
}
