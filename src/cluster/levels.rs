//! What may be written while nodes of several builds are registered.
//!
//! Each says the highest feature level that its build knows. Records of a higher one are not written: that node could
//! not read on. So a cluster is upgraded one node after the other, and has what a level brings from the change on that
//! first needs it once the last node is upgraded.
//!
//! A registration must have nothing of a level that the cluster does not have yet: it would wait for the nodes that are
//! not upgraded, and theirs for it.

use super::image::Image;
use super::record::{Node, Record};
use crate::types::NodeId;
use std::collections::BTreeMap;

/// Why records are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "This needs feature level {needed}, and node {node} is registered with levels up to {known}: upgrade it first."
)]
pub struct LevelNotKnown {
    pub needed: u16,
    pub node: i32,
    pub known: u16,
}

/// Whether every node that is registered, as it is with these records, knows all that is in them. O(nodes + records).
pub fn check_levels(image: &Image, records: &[Record]) -> Result<(), LevelNotKnown> {
    let Some(needed) = records.iter().map(Record::feature_level).max() else { return Ok(()) };
    let mut nodes: BTreeMap<NodeId, u16> = image.nodes().map(known_by).collect();
    for record in records {
        match record {
            Record::NodeRegistered(node) => drop(nodes.insert(node.id, node.feature_level_max)),
            Record::NodeUnregistered { node, .. } => drop(nodes.remove(node)),
            _ => {}
        }
    }
    match nodes.into_iter().find(|(_, known)| *known < needed) {
        Some((node, known)) => Err(LevelNotKnown { needed, node: node.0, known }),
        None => Ok(()),
    }
}

fn known_by(node: &Node) -> (NodeId, u16) {
    (node.id, node.feature_level_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node};
    use crate::cluster::record::FEATURE_LEVEL_LIFECYCLE;
    use crate::config::Routing;
    use crate::types::{BrokerEpoch, TopicId};

    fn with_level(id: i32, feature_level_max: u16) -> Node {
        Node { feature_level_max, ..node(id, 1, Routing::Node) }
    }

    #[test]
    fn nothing_is_written_that_a_registered_node_does_not_know() {
        let needed = FEATURE_LEVEL_LIFECYCLE;
        let newer = |node| Record::NodeUnregistered { node: NodeId(node), broker_epoch: BrokerEpoch(1) };
        let image = image_of(&[with_level(1, needed), with_level(2, needed - 1)]);
        let refused = Err(LevelNotKnown { needed, node: 2, known: needed - 1 });
        assert_eq!(check_levels(&image, &[newer(9)]), refused);
        assert_eq!(check_levels(&image, &[Record::TopicDeleted { topic: TopicId::ZERO }]), Ok(()));
        assert_eq!(check_levels(&image, &[]), Ok(()));
        let upgraded = Record::NodeRegistered(with_level(2, needed));
        assert_eq!(check_levels(&image, &[newer(9), upgraded.clone()]), Ok(()), "it is from here on");
        assert_eq!(check_levels(&image, &[newer(2)]), Ok(()), "it is gone");
        let older = Record::NodeRegistered(with_level(1, needed - 1));
        let refused = Err(LevelNotKnown { needed, node: 1, known: needed - 1 });
        assert_eq!(
            check_levels(&image, &[newer(9), upgraded, older]),
            refused,
            "and so is the first of them"
        );
    }
}
