//! WriteTxnMarkers (key 27): ends transactions in partitions. Brokers send it to each other in Kafka, and
//! operators to abort a transaction that its coordinator has forgotten (KIP-664,
//! `kafka-transactions.sh abort`).

use crate::cluster::image::Image;
use crate::codec::control_record::{EndMarker, TransactionOutcome};
use crate::codec::error_code::ErrorCode;
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, PartitionItem, Place};
use crate::shard::api::list_offsets::locate;
use crate::shard::conn::Connection;
use crate::shard::markers;
use crate::shard::message::{MarkerItem, MarkerOutcome, Reply, Request};
use crate::txn::TRANSACTIONS_TOPIC;
use crate::types::{CoordinatorEpoch, ProducerEpoch, ProducerId, TransactionVersion};
use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarker;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};
use std::rc::Rc;

pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Connection,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let mut response = WriteTxnMarkersResponse::default();
    let newest = newest_coordinator(&shard.image.borrow());
    let mut by_owner = ByOwner::new();
    // The topics of all markers, one after the other: where each stands in the answer.
    let mut places: Vec<(usize, usize)> = Vec::new();
    for (marker_at, marker) in request.markers.iter().enumerate() {
        let mut topics = Vec::with_capacity(marker.topics.len());
        for (topic_at, topic) in marker.topics.iter().enumerate() {
            let mut answers = Vec::with_capacity(topic.partition_indexes.len());
            for (at, index) in topic.partition_indexes.iter().enumerate() {
                let mut answer = WritableTxnMarkerPartitionResult::default().with_partition_index(*index);
                let wanted = end_marker(marker).ok_or(ErrorCode::InvalidRequest);
                let found = wanted.and_then(|wanted| {
                    let (owner, partition) = locate(shard, connection, &topic.name, *index)?;
                    // The one that raises epochs begins with a later version of this request.
                    let version = TransactionVersion::V1;
                    Ok((owner, MarkerItem { partition, marker: wanted, version, newest }))
                });
                match found {
                    Ok((owner, item)) => {
                        by_owner.push(owner, Place { topic: places.len(), partition: at }, item);
                    }
                    Err(error) => answer.error_code = error.code(),
                }
                answers.push(answer);
            }
            places.push((marker_at, topic_at));
            let topic = WritableTxnMarkerTopicResult::default().with_name(topic.name.clone());
            topics.push(topic.with_partitions(answers));
        }
        let result = WritableTxnMarkerResult::default().with_producer_id(marker.producer_id);
        response.markers.push(result.with_topics(topics));
    }
    for (place, outcome) in by_owner.ask(shard).await {
        let (marker, topic) = places[place.topic];
        let answer = &mut response.markers[marker].topics[topic].partitions[place.partition];
        answer.error_code = outcome.error.code();
    }
    response
}

/// The highest epoch of any coordinator: 0 where there is none, as who writes markers in its place says (KIP-664).
fn newest_coordinator(image: &Image) -> CoordinatorEpoch {
    let partitions = image.topic_named(TRANSACTIONS_TOPIC).map(|topic| &topic.partitions[..]);
    let epochs = partitions.unwrap_or_default().iter().map(|partition| partition.leader_epoch.0);
    CoordinatorEpoch(epochs.max().unwrap_or(0))
}

/// `None` for what no producer can have.
fn end_marker(marker: &WritableTxnMarker) -> Option<EndMarker> {
    let is_whole = marker.producer_id.0 >= 0 && marker.producer_epoch >= 0;
    is_whole.then_some(EndMarker {
        producer: ProducerId(marker.producer_id.0),
        producer_epoch: ProducerEpoch(marker.producer_epoch),
        coordinator_epoch: CoordinatorEpoch(marker.coordinator_epoch),
        outcome: match marker.transaction_result {
            true => TransactionOutcome::Commit,
            false => TransactionOutcome::Abort,
        },
    })
}

impl PartitionItem for MarkerItem {
    type Outcome = MarkerOutcome;

    async fn serve(shard: &Rc<Shard>, items: Vec<MarkerItem>) -> Vec<MarkerOutcome> {
        markers::write_local(shard, &items).await
    }

    fn request(items: Vec<MarkerItem>) -> Request {
        Request::WriteMarkers(items)
    }

    fn outcomes(reply: Reply) -> Vec<MarkerOutcome> {
        let Reply::WriteMarkers(outcomes) = reply else { unreachable!("markers are answered by markers") };
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, partition_id, replica};
    use crate::cluster::record::{PartitionState, Record};
    use crate::config::Routing;
    use crate::types::LeaderEpoch;

    #[test]
    fn coordinators_have_the_epochs_of_their_partitions_leaders() {
        let mut image = image_of(&[node(1, 2, Routing::Node)]);
        assert_eq!(newest_coordinator(&image), CoordinatorEpoch(0));
        add_topic(&mut image, 7, TRANSACTIONS_TOPIC, &[0]);
        assert_eq!(newest_coordinator(&image), CoordinatorEpoch(0));
        let state =
            PartitionState { leader_epoch: LeaderEpoch(5), ..PartitionState::new(vec![replica(1, 1)]) };
        image.apply(&Record::PartitionCreated { id: partition_id(7, 1), state }).expect("the next partition");
        assert_eq!(newest_coordinator(&image), CoordinatorEpoch(5));
    }
}
