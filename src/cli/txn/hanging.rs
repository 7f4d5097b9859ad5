//! Transactions that hang: open in a partition, where they keep readers of committed records back, while no
//! coordinator is going to end them (KIP-664).

use std::collections::BTreeSet;

use clap::Args;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::ProducerState;
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    DescribeProducersRequest, ListTransactionsRequest, TopicName, WriteTxnMarkersRequest,
};
use odradek::metrics::names::error_name;
use serde_json::json;

use super::{describe_one, list_all, now_ms};
use crate::cli::brokers::{Cluster, Place, text};
use crate::cli::client::Client;
use crate::cli::table::Table;
use crate::cli::{Failure, print, print_json};

#[derive(Debug, Args)]
pub struct FindArguments {
    /// Only in these topics
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Only in this partition of the topic
    #[arg(long, value_name = "PARTITION", requires = "topics")]
    partition: Option<i32>,
    /// Only in partitions that this broker leads
    #[arg(long, value_name = "ID")]
    broker_id: Option<i32>,
    /// Only those that nothing was written to for longer than this; transaction.max.timeout.ms of the brokers or more
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    open_for: u32,
}

/// Partitions that one request asks for.
const PARTITIONS_MAX: usize = 500;

/// An open transaction in a partition.
struct Open {
    place: Place,
    producer: ProducerState,
    /// Its coordinator has it, and should have aborted it.
    transactional_id: Option<String>,
}

pub fn find(cluster: &mut Cluster, arguments: &FindArguments, as_json: bool) -> Result<(), Failure> {
    let now_ms = now_ms();
    let mut hanging = Vec::new();
    for mut open in open_transactions(cluster, arguments)? {
        if now_ms - open.producer.last_timestamp < i64::from(arguments.open_for) * 1000 {
            continue;
        }
        match known_as(cluster, &open.producer, &open.place)? {
            Some(state) if !is_overdue(&state, now_ms, arguments.open_for) => continue,
            Some(state) => open.transactional_id = Some(state.transactional_id.to_string()),
            None => {}
        }
        hanging.push(open);
    }
    if as_json {
        let hanging = hanging.iter().map(|Open { place, producer, transactional_id }| {
            json!({
                "topic": place.0,
                "partition": place.1,
                "producer_id": producer.producer_id.0,
                "producer_epoch": producer.producer_epoch,
                "coordinator_epoch": producer.coordinator_epoch,
                "start_offset": producer.current_txn_start_offset,
                "last_timestamp_ms": producer.last_timestamp,
                "transactional_id": transactional_id,
            })
        });
        return print_json(&hanging.collect());
    }
    let mut table = Table::new(&[
        "TOPIC",
        "PARTITION",
        "PRODUCER",
        "EPOCH",
        "START-OFFSET",
        "IDLE-SECONDS",
        "TRANSACTIONAL ID",
    ]);
    for Open { place: (topic, partition), producer, transactional_id } in &hanging {
        table.row(&[
            topic,
            &partition.to_string(),
            &producer.producer_id.0.to_string(),
            &producer.producer_epoch.to_string(),
            &producer.current_txn_start_offset.to_string(),
            &((now_ms - producer.last_timestamp) / 1000).to_string(),
            transactional_id.as_deref().unwrap_or("-"),
        ]);
    }
    print(&table.to_string())
}

/// Whether the coordinator of a transaction should have aborted it some time ago.
fn is_overdue(state: &TransactionState, now_ms: i64, seconds: u32) -> bool {
    let time_ms = i64::from(state.transaction_timeout_ms) + i64::from(seconds) * 1000;
    state.transaction_start_time_ms >= 0 && now_ms - state.transaction_start_time_ms > time_ms
}

/// All that are open in the partitions that are looked into.
fn open_transactions(cluster: &mut Cluster, arguments: &FindArguments) -> Result<Vec<Open>, Failure> {
    let topics: BTreeSet<String> = arguments.topics.iter().cloned().collect();
    let metadata = match topics.is_empty() {
        true => cluster.metadata_of_all()?,
        false => cluster.metadata(&topics)?,
    };
    if let Some(missing) = metadata.topics.iter().find(|topic| topic.error_code != 0) {
        let name = missing.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
        return Err(format!("{name}: {}", error_name(missing.error_code)).into());
    }
    let mut open = Vec::new();
    let brokers = metadata.brokers.iter();
    for broker in brokers.filter(|broker| arguments.broker_id.is_none_or(|id| broker.node_id.0 == id)) {
        let led = metadata.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions
                .filter(|partition| partition.leader_id == broker.node_id)
                .map(|partition| (topic.name.clone().unwrap_or_default(), partition.partition_index))
        });
        let led: Vec<_> =
            led.filter(|(_, index)| arguments.partition.is_none_or(|wanted| wanted == *index)).collect();
        for places in led.chunks(PARTITIONS_MAX) {
            let asked = places.chunk_by(|left, right| left.0 == right.0).map(|of_topic| {
                let indexes = of_topic.iter().map(|(_, index)| *index).collect();
                TopicRequest::default().with_name(of_topic[0].0.clone()).with_partition_indexes(indexes)
            });
            let request = DescribeProducersRequest::default().with_topics(asked.collect());
            let response = cluster.broker(&broker.host, broker.port)?.send(|_| request)?;
            for topic in response.topics {
                for partition in topic.partitions {
                    let place = (topic.name.to_string(), partition.partition_index);
                    if partition.error_code != 0 {
                        let (topic, index) = place;
                        return Err(format!("{topic}-{index}: {}", error_name(partition.error_code)).into());
                    }
                    let producers = partition.active_producers.into_iter();
                    let producers = producers.filter(|producer| producer.current_txn_start_offset >= 0);
                    open.extend(producers.map(|producer| Open {
                        place: place.clone(),
                        producer,
                        transactional_id: None,
                    }));
                }
            }
        }
    }
    open.sort_by(|left, right| {
        let key = |open: &Open| (open.place.clone(), open.producer.current_txn_start_offset);
        key(left).cmp(&key(right))
    });
    Ok(open)
}

/// A transaction that is open in a partition.
pub struct Hanging<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub start_offset: i64,
}

/// Writes the marker that nobody else writes.
pub fn abort(cluster: &mut Cluster, hanging: &Hanging<'_>, as_json: bool) -> Result<(), Failure> {
    let Hanging { topic, partition, start_offset } = *hanging;
    let what = format!("{topic}-{partition}");
    let metadata = cluster.metadata(&BTreeSet::from([topic.to_string()]))?;
    let partitions = metadata.topics.first().map(|topic| &topic.partitions[..]).unwrap_or_default();
    let found = partitions.iter().find(|found| found.partition_index == partition);
    let leader = found
        .and_then(|found| metadata.brokers.iter().find(|broker| broker.node_id == found.leader_id).cloned());
    let leader = leader.ok_or_else(|| format!("{what}: there is no such partition, or it has no leader"))?;
    let producer = open_producer(cluster.broker(&leader.host, leader.port)?, hanging)?;
    if let Some(state) = known_as(cluster, &producer, &(topic.to_string(), partition))? {
        let id = &**state.transactional_id;
        return Err(format!("{what}: the transaction is that of {id}: abort it by that").into());
    }
    let marked = WritableTxnMarkerTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partition_indexes(vec![partition]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(producer.producer_id)
        .with_producer_epoch(producer.producer_epoch as i16)
        .with_transaction_result(false)
        // As the last marker of the producer has it, or the first that there can be.
        .with_coordinator_epoch(producer.coordinator_epoch.max(0))
        .with_topics(vec![marked]);
    let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
    let response = cluster.broker(&leader.host, leader.port)?.send(|_| request)?;
    let results =
        response.markers.iter().flat_map(|marker| &marker.topics).flat_map(|topic| &topic.partitions);
    if let Some(refused) = results.into_iter().find(|result| result.error_code != 0) {
        return Err(format!("{what}: {}", error_name(refused.error_code)).into());
    }
    let producer = producer.producer_id.0;
    match as_json {
        true => print_json(&json!({
            "topic": topic,
            "partition": partition,
            "start_offset": start_offset,
            "producer_id": producer,
            "aborted": true,
        })),
        false => print(&format!("aborted the transaction of producer {producer} in {what}\n")),
    }
}

/// The producer whose transaction begins there.
fn open_producer(client: &mut Client, hanging: &Hanging<'_>) -> Result<ProducerState, Failure> {
    let Hanging { topic, partition, start_offset } = *hanging;
    let asked =
        TopicRequest::default().with_name(TopicName(text(topic))).with_partition_indexes(vec![partition]);
    let request = DescribeProducersRequest::default().with_topics(vec![asked]);
    let response = client.send(|_| request)?;
    let described = response.topics.into_iter().flat_map(|topic| topic.partitions).next();
    let described = described.ok_or_else(|| format!("{topic}-{partition}: nothing was said of it"))?;
    if described.error_code != 0 {
        return Err(format!("{topic}-{partition}: {}", error_name(described.error_code)).into());
    }
    let mut producers = described.active_producers.into_iter();
    let found = producers.find(|producer| producer.current_txn_start_offset == start_offset);
    Ok(found.ok_or_else(|| {
        format!("{topic}-{partition}: no transaction is open that begins at {start_offset}")
    })?)
}

/// The transaction whose part it is, if its coordinator knows.
fn known_as(
    cluster: &mut Cluster,
    producer: &ProducerState,
    (topic, partition): &Place,
) -> Result<Option<TransactionState>, Failure> {
    let of_producer =
        |_: i16| ListTransactionsRequest::default().with_producer_id_filters(vec![producer.producer_id]);
    for (id, _) in list_all(cluster, of_producer)? {
        let state = describe_one(cluster, &id)?;
        // Once all markers are written, it has no partitions any more.
        let has_it = state
            .topics
            .iter()
            .any(|described| **described.topic == **topic && described.partitions.contains(partition));
        if has_it {
            return Ok(Some(state));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_its_coordinator_has_hangs_when_it_is_overdue() {
        let state = TransactionState::default()
            .with_transaction_timeout_ms(10_000)
            .with_transaction_start_time_ms(1_000_000);
        assert!(!is_overdue(&state, 1_010_000, 5));
        assert!(!is_overdue(&state, 1_015_000, 5));
        assert!(is_overdue(&state, 1_015_001, 5));
        assert!(!is_overdue(&state.with_transaction_start_time_ms(-1), i64::MAX, 0), "none has begun");
    }
}
