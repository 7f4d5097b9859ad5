//! What has to be applied to an image for it to become a later one: a node that was sent a snapshot of the metadata
//! goes on from what it has, and its partitions with it.

use super::image::{Image, Topic};
use super::record::{PartitionState, Record};
use crate::types::TopicId;

/// The records that make `before` into `after`, which the same log has led to later.
///
/// Shape: O(both).
pub fn difference(before: &Image, after: &Image) -> Vec<Record> {
    let kept =
        |id: TopicId| before.topic(id).filter(|topic| after.topic(id).is_some_and(|to| grows(topic, to)));
    let mut records = Vec::new();
    // First, since their names may have been given to others.
    let gone = before.topics().filter(|topic| kept(topic.id).is_none());
    records.extend(gone.map(|topic| Record::TopicDeleted { topic: topic.id }));
    for record in before.snapshot() {
        match record {
            Record::ConfigSet { resource, key, .. } => {
                let is_set = after.settings(&resource).is_some_and(|settings| settings.contains_key(&key));
                records.extend((!is_set).then_some(Record::ConfigSet { resource, key, value: None }));
            }
            Record::ClientQuotaSet { entity, kind, .. } if after.quotas().get(&entity, kind).is_none() => {
                records.push(Record::ClientQuotaSet { entity, kind, limit: None });
            }
            Record::TopicConfigSet { topic, key, .. } => {
                let is_set = after.topic(topic).is_some_and(|topic| topic.config.contains_key(&key));
                let is_left = kept(topic).is_some() && !is_set;
                records.extend(is_left.then_some(Record::TopicConfigSet { topic, key, value: None }));
            }
            _ => {}
        }
    }
    if before.feature_level() != after.feature_level() {
        records.push(Record::FeatureLevelSet { level: after.feature_level() });
    }
    let had: Vec<Record> = before.snapshot().into_iter().filter(is_unregistration).collect();
    for record in after.snapshot() {
        let is_known = match &record {
            Record::ClusterCreated { .. } => before.cluster_id().is_some(),
            Record::FeatureLevelSet { .. } => true, // Set above.
            Record::NodeRegistered(node) => before.node(node.id) == Some(node),
            Record::NodeUnregistered { .. } => had.contains(&record),
            Record::ProducerIdsAllocated { .. } => before.next_producer_id() == after.next_producer_id(),
            Record::ConfigSet { resource, key, value } => {
                before.settings(resource).and_then(|settings| settings.get(key)) == value.as_ref()
            }
            Record::ClientQuotaSet { entity, kind, limit } => before.quotas().get(entity, *kind) == *limit,
            Record::TopicCreated { topic, .. } => kept(*topic).is_some(),
            Record::TopicConfigSet { topic, key, value } => {
                kept(*topic).and_then(|topic| topic.config.get(key)) == value.as_ref()
            }
            Record::PartitionCreated { id, state } => {
                let known = kept(id.topic).and_then(|topic| topic.partitions.get(id.partition.index()));
                if known.is_some_and(|known| known != state) {
                    records.push(Record::PartitionChanged { id: *id, state: state.clone() });
                }
                known.is_some()
            }
            Record::TopicDeleted { .. } | Record::PartitionChanged { .. } => false,
        };
        if !is_known {
            records.push(record);
        }
    }
    // Behind those that came, whose epochs may be lower.
    let gone = before.nodes().filter(|node| after.node(node.id).is_none());
    records
        .extend(gone.map(|node| Record::NodeUnregistered { node: node.id, broker_epoch: node.broker_epoch }));
    records
}

fn is_unregistration(record: &Record) -> bool {
    matches!(record, Record::NodeUnregistered { .. })
}

/// Whether a topic can have become the other one: else it is another topic, whatever its id.
fn grows(before: &Topic, after: &Topic) -> bool {
    let goes_on = |(before, after): (&PartitionState, &PartitionState)| {
        let owned = |after: &PartitionState| {
            before.replicas.iter().all(|had| {
                after.replica_on(had.node).is_none_or(|has| has.ownership_epoch >= had.ownership_epoch)
            })
        };
        before.leader_epoch <= after.leader_epoch
            && before.partition_epoch <= after.partition_epoch
            && owned(after)
    };
    before.name == after.name
        && before.partitions.len() <= after.partitions.len()
        && before.partitions.iter().zip(&after.partitions).all(goes_on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::any_step;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_image_becomes_the_later_one(
            steps in vec(any_step(), 0..120),
            more in vec(any_step(), 0..60),
        ) {
            let mut before = Image::default();
            steps.iter().for_each(|record| drop(before.apply(record)));
            let mut after = before.clone();
            more.iter().for_each(|record| drop(after.apply(record)));
            // As a node receives it.
            let received = Image::rebuild(&after.snapshot()).expect("a snapshot applies");
            let records = difference(&before, &received);
            let mut found = before.clone();
            for record in &records {
                found.apply(record).map_err(|error| TestCaseError::fail(format!("{error}: {records:?}")))?;
            }
            prop_assert_eq!(found.snapshot(), received.snapshot());
            prop_assert_eq!(difference(&found, &received), Vec::new());
        }
    }
}
