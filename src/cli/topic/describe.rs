//! `odradek topic list` and `describe`: what Metadata and DescribeConfigs say.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{BrokerId, DescribeConfigsRequest, MetadataRequest};
use odradek::metrics::names::error_name;
use serde_json::{Value, json};

use super::{TOPIC_RESOURCE, name, text};
use crate::cli::client::Client;
use crate::cli::table::Table;
use crate::cli::{Failure, print, print_json};

pub fn list(client: &mut Client, as_json: bool) -> Result<(), Failure> {
    let topics = metadata(client, &[])?;
    if as_json {
        let topics = topics.iter().map(|topic| {
            json!({
                "topic": topic_name(topic),
                "partitions": topic.partitions.len(),
                "replication_factor": replication_factor(topic),
                "internal": topic.is_internal,
            })
        });
        return print_json(&topics.collect());
    }
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "REPLICATION"]);
    for topic in &topics {
        let (partitions, replicas) =
            (topic.partitions.len().to_string(), replication_factor(topic).to_string());
        table.row(&[&topic_name(topic), &partitions, &replicas]);
    }
    print(&table.to_string())
}

pub fn describe(client: &mut Client, names: &[String], as_json: bool) -> Result<(), Failure> {
    let topics = metadata(client, names)?;
    let (found, missing): (Vec<_>, Vec<_>) = topics.iter().partition(|topic| topic.error_code == 0);
    let configs = changed_configs(client, &found)?;
    let none = BTreeMap::new();
    let described = found.iter().map(|topic| (*topic, configs.get(&topic_name(topic)).unwrap_or(&none)));
    if as_json {
        let missing = missing
            .iter()
            .map(|topic| json!({ "topic": topic_name(topic), "error": error_name(topic.error_code) }));
        let described = described.map(|(topic, configs)| topic_json(topic, configs));
        print_json(&described.chain(missing).collect())?;
    } else {
        let described: Vec<_> = described.map(|(topic, configs)| topic_text(topic, configs)).collect();
        print(&described.join("\n"))?;
    }
    let missing =
        missing.iter().map(|topic| format!("{}: {}", topic_name(topic), error_name(topic.error_code)));
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\nodradek: ").into()) }
}

/// By name, all of them if none is named. Asking creates nothing.
fn metadata(client: &mut Client, names: &[String]) -> Result<Vec<MetadataResponseTopic>, Failure> {
    /// Before it, creation cannot be switched off and null does not mean "all".
    const AUTO_CREATION_SINCE: i16 = 4;
    let response = client.send(|version| {
        let topics = names.iter().map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic))));
        let topics: Vec<_> = topics.collect();
        let topics = (!topics.is_empty() || version == 0).then_some(topics);
        let request = MetadataRequest::default().with_topics(topics);
        if version >= AUTO_CREATION_SINCE { request.with_allow_auto_topic_creation(false) } else { request }
    })?;
    let mut topics = response.topics;
    topics.sort_by_key(topic_name);
    topics.iter_mut().for_each(|topic| topic.partitions.sort_by_key(|partition| partition.partition_index));
    Ok(topics)
}

/// What differs from the broker's defaults, and a durability other than the promised one, by topic. A broker without DescribeConfigs shows none.
fn changed_configs(
    client: &mut Client,
    topics: &[&MetadataResponseTopic],
) -> Result<BTreeMap<String, BTreeMap<String, String>>, Failure> {
    const DYNAMIC_TOPIC_CONFIG: i8 = 1;
    const DURABILITY: &str = "odradek.durability";
    if topics.is_empty() || !client.offers::<DescribeConfigsRequest>() {
        return Ok(BTreeMap::new());
    }
    let resources = topics.iter().map(|topic| {
        DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(text(&topic_name(topic)))
            .with_configuration_keys(None)
    });
    let resources = resources.collect();
    let response = client.send(|_| DescribeConfigsRequest::default().with_resources(resources))?;
    let by_topic = response.results.into_iter().map(|result| {
        let changed = result.configs.into_iter().filter(|config| {
            let is_relaxed = config.name.as_str() == DURABILITY && config.value.as_deref() != Some("fsync");
            config.config_source == DYNAMIC_TOPIC_CONFIG || is_relaxed
        });
        let configs = changed.map(|config| {
            (config.name.to_string(), config.value.map(|value| value.to_string()).unwrap_or_default())
        });
        (result.resource_name.to_string(), configs.collect())
    });
    Ok(by_topic.collect())
}

fn topic_json(topic: &MetadataResponseTopic, configs: &BTreeMap<String, String>) -> Value {
    let partitions = topic.partitions.iter().map(|partition| {
        json!({
            "partition": partition.partition_index,
            "leader": leader(partition),
            "leader_epoch": partition.leader_epoch,
            "replicas": ids(&partition.replica_nodes),
            "isr": ids(&partition.isr_nodes),
            "offline_replicas": ids(&partition.offline_replicas),
            "error": (partition.error_code != 0).then(|| error_name(partition.error_code)),
        })
    });
    json!({
        "topic": topic_name(topic),
        "topic_id": (!topic.topic_id.is_nil()).then(|| topic.topic_id.to_string()),
        "internal": topic.is_internal,
        "replication_factor": replication_factor(topic),
        "configs": configs,
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn topic_text(topic: &MetadataResponseTopic, configs: &BTreeMap<String, String>) -> String {
    let mut text = topic_name(topic);
    if !topic.topic_id.is_nil() {
        text.push_str(&format!("  id {}", topic.topic_id));
    }
    let replicas = replication_factor(topic);
    text.push_str(&format!("  {} partitions, replication factor {replicas}\n", topic.partitions.len()));
    for (key, value) in configs {
        text.push_str(&format!("  {key}={value}\n"));
    }
    let mut table = Table::new(&["  PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "OFFLINE"]);
    for partition in &topic.partitions {
        let leader = leader(partition).map_or("none".to_string(), |leader| leader.to_string());
        table.row(&[
            &format!("  {}", partition.partition_index),
            &leader,
            &partition.leader_epoch.to_string(),
            &joined(&partition.replica_nodes),
            &joined(&partition.isr_nodes),
            &joined(&partition.offline_replicas),
        ]);
    }
    text + &table.to_string()
}

fn topic_name(topic: &MetadataResponseTopic) -> String {
    topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default()
}

fn replication_factor(topic: &MetadataResponseTopic) -> usize {
    topic.partitions.first().map_or(0, |partition| partition.replica_nodes.len())
}

/// `None` for the wire's -1.
fn leader(partition: &MetadataResponsePartition) -> Option<i32> {
    (partition.leader_id.0 >= 0).then_some(partition.leader_id.0)
}

fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

fn joined(brokers: &[BrokerId]) -> String {
    ids(brokers).iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}
