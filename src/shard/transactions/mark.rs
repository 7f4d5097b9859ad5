//! Markers of a transaction that is decided: into each of its partitions, on whatever shard, until all of them
//! have one.

use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::PartitionNames;
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, Place};
use crate::shard::message::MarkerItem;
use crate::shard::transactions::Served;
use crate::txn::Marking;
use crate::types::limits::MARKER_RETRY_TIMES;
use crate::types::{PartitionIndex, TopicPartition};
use std::rc::Rc;

/// Until the coordinator has heard of it, or is the coordinator no more: the next one does it again.
pub async fn run(shard: Rc<Shard>, served: Rc<Served>, mut marking: Marking) {
    let (mut wait, wait_max) = MARKER_RETRY_TIMES;
    if marking.is_again {
        glommio::timer::sleep(wait_max).await;
    }
    while !served.is_over(&shard) {
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
    let mut left = PartitionNames::default();
    let names: Vec<(&str, i32)> = marking.partitions.iter().collect();
    for (at, (topic, partition)) in names.iter().enumerate() {
        // Of a topic that is gone there is nothing to end.
        let Some(id) = find(shard, topic, *partition) else { continue };
        match shard.owner(&id) {
            Some(owner) => {
                let item = MarkerItem { partition: id, marker: marking.marker, version: marking.version };
                by_owner.push(owner, Place { topic: 0, partition: at }, item);
            }
            None => left.insert(topic, *partition),
        }
    }
    for (place, outcome) in by_owner.ask(shard).await {
        let (topic, partition) = names[place.partition];
        let transactional_id = &marking.transactional_id;
        match outcome.error {
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

fn find(shard: &Shard, topic: &str, partition: i32) -> Option<TopicPartition> {
    let image = shard.image.borrow();
    let topic = image.topic_named(topic)?;
    let index = PartitionIndex::from_wire(partition)?;
    topic.partitions.get(index.index())?;
    Some(TopicPartition { topic: topic.id, partition: index })
}
