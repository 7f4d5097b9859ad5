//! Markers of a transaction that is decided: into each of its partitions, on whatever shard of whatever node, until
//! all of them have one.

use crate::cluster::image::Image;
use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::PartitionNames;
use crate::codec::transactions::PartitionMarker;
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, Place};
use crate::shard::message::MarkerItem;
use crate::shard::transactions::Served;
use crate::shard::transactions::elsewhere::{NodeCall, ask_node};
use crate::txn::Marking;
use crate::types::limits::{MARKER_RETRY_TIMES, PEER_PARTITIONS_MAX};
use crate::types::{NodeId, PartitionIndex, TopicPartition};
use futures::future::{join, join_all};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Until the coordinator has heard of it, or is the coordinator no more: the next one does it again.
pub async fn run(shard: Rc<Shard>, served: Rc<Served>, mut marking: Marking) {
    let (mut wait, wait_max) = MARKER_RETRY_TIMES;
    if marking.is_again {
        glommio::timer::sleep(wait_max).await;
    }
    while !served.has_ended() && !shard.is_stopping() {
        marking.partitions = write(&shard, &marking).await;
        if marking.partitions.is_empty() {
            served.decide(&shard, |coordinator, now, effects| {
                coordinator.marked(&marking.transactional_id, marking.id, now, effects);
            });
            return;
        }
        glommio::timer::sleep(wait).await;
        wait = (wait * 2).min(wait_max);
    }
}

/// Returns the partitions that have no marker yet.
async fn write(shard: &Rc<Shard>, marking: &Marking) -> PartitionNames {
    let mut by_owner = ByOwner::new();
    let mut by_node: BTreeMap<NodeId, Vec<(usize, PartitionMarker)>> = BTreeMap::new();
    let mut left = PartitionNames::default();
    let names: Vec<(&str, i32)> = marking.partitions.iter().collect();
    let (marker, version) = (marking.marker, marking.version);
    for (at, (topic, partition)) in names.iter().enumerate() {
        // Of a topic that is gone there is nothing to end.
        let found = find(&shard.image.borrow(), topic, *partition);
        let Some(id) = found else { continue };
        let leader = shard.image.borrow().partition(id).and_then(|state| state.leader);
        match (shard.leader(&id), leader) {
            (Some(owner), _) => {
                let newest = marker.coordinator_epoch;
                let item = MarkerItem { partition: id, marker, version, newest };
                by_owner.push(owner, Place { topic: 0, partition: at }, item);
            }
            (None, Some(node)) if node != shard.node => {
                let marker = PartitionMarker { partition: id, marker, version };
                by_node.entry(node).or_default().push((at, marker));
            }
            (None, _) => left.insert(topic, *partition),
        }
    }
    let elsewhere = by_node.into_iter().map(|(node, markers)| write_elsewhere(shard, node, markers));
    let (here, elsewhere) = join(by_owner.ask(shard), join_all(elsewhere)).await;
    let here = here.into_iter().map(|(place, outcome)| (place.partition, outcome.error));
    for (at, error) in here.chain(elsewhere.into_iter().flatten()) {
        let (topic, partition) = names[at];
        let transactional_id = &marking.transactional_id;
        match error {
            ErrorCode::None => {}
            // Somebody has ended it there, and the producer has gone on.
            error @ ErrorCode::InvalidProducerEpoch => {
                tracing::warn!(transactional_id, topic, partition, %error, "a marker comes too late");
            }
            error => {
                tracing::warn!(transactional_id, topic, partition, %error, "a marker is tried again");
                left.insert(topic, partition);
            }
        }
    }
    left
}

/// Into partitions that another node leads; returns what came of each.
async fn write_elsewhere(
    shard: &Rc<Shard>,
    node: NodeId,
    markers: Vec<(usize, PartitionMarker)>,
) -> Vec<(usize, ErrorCode)> {
    let mut written = Vec::with_capacity(markers.len());
    for some in markers.chunks(PEER_PARTITIONS_MAX) {
        let call = NodeCall::WriteMarkers(some.iter().map(|(_, marker)| *marker).collect());
        let errors = ask_node(shard, node, call).await;
        written.extend(some.iter().map(|(at, _)| *at).zip(errors));
    }
    written
}

/// Whether all of these are there, as far as this core has heard. What is part of a transaction and not found
/// when that ends is gone: what others know of already must not become part of one here before.
pub fn has_all(image: &Image, partitions: &PartitionNames) -> bool {
    partitions.iter().all(|(topic, partition)| find(image, topic, partition).is_some())
}

fn find(image: &Image, topic: &str, partition: i32) -> Option<TopicPartition> {
    let topic = image.topic_named(topic)?;
    let index = PartitionIndex::from_wire(partition)?;
    topic.partitions.get(index.index())?;
    Some(TopicPartition { topic: topic.id, partition: index })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, partition_id};
    use crate::config::Routing;

    #[test]
    fn a_core_takes_only_partitions_that_it_has_heard_of() {
        let named = |partitions: &[(&str, i32)]| partitions.iter().copied().collect::<PartitionNames>();
        let mut image = image_of(&[node(1, 2, Routing::Node)]);
        assert!(!has_all(&image, &named(&[("orders", 0)])), "it was created, and not heard of here");
        add_topic(&mut image, 7, "orders", &[0, 1]);
        assert!(has_all(&image, &named(&[("orders", 0), ("orders", 1)])));
        assert!(!has_all(&image, &named(&[("orders", 1), ("orders", 2)])), "partitions were added");
        assert!(!has_all(&image, &named(&[("orders", 0), ("other", 0)])));
        assert_eq!(find(&image, "orders", 1), Some(partition_id(7, 1)));
        assert_eq!(find(&image, "orders", -1), None);
    }
}
