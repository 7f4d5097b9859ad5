//! `--throttle`: what moves is copied at a rate (KIP-73), for as long as it moves.
//!
//! As Kafka's tool does it: topics name the replicas that move, brokers have the rate. A command that is interrupted
//! leaves both, since the copy goes on; whoever is last, or `cluster reassign verify`, takes them away.
//!
//! Source: Kafka `ReassignPartitionsCommand.modifyReassignmentThrottle`, `clearAllThrottles`.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use odradek::cluster::balance::Assigned;
use odradek::cluster::describe::{ConfigSource, ResourceType};
use odradek::cluster::throttled::throttled_by_move;
use odradek::metrics::names::error_name;
use odradek::types::{NodeId, PartitionIndex};

use super::super::Failure;
use super::super::brokers::{Address, Cluster, text};
use super::super::client::Client;
use super::moving::{after_of, before_of, ongoing, try_again};
use super::{Load, State, describe_brokers};

const OF_TOPICS: [&str; 2] =
    ["leader.replication.throttled.replicas", "follower.replication.throttled.replicas"];
const OF_BROKERS: [&str; 2] = ["leader.replication.throttled.rate", "follower.replication.throttled.rate"];

/// Of IncrementalAlterConfigs.
const SET: i8 = 0;
const DELETE: i8 = 1;

/// Has partitions that are to move copied at a rate, with those of the same topics that do already.
///
/// `before`: the replicas that each has now.
pub fn set(cluster: &mut Cluster, before: &[Assigned], plan: &[Assigned], rate: u64) -> Result<(), Failure> {
    let had: BTreeMap<(&str, i32), &[NodeId]> =
        before.iter().map(|it| ((it.topic.as_str(), it.partition), &it.replicas[..])).collect();
    let topics: BTreeSet<&str> = plan.iter().map(|it| it.topic.as_str()).collect();
    let planned = plan.iter().map(|it| {
        let before = had.get(&(it.topic.as_str(), it.partition)).copied().unwrap_or_default();
        (it.topic.clone(), it.partition, before.to_vec(), it.replicas.clone())
    });
    let moving = ongoing(cluster)?.into_iter().filter(|((topic, _), _)| topics.contains(topic.as_str()));
    let moving =
        moving.map(|((topic, partition), moving)| (topic, partition, before_of(&moving), after_of(&moving)));
    let mut lists: BTreeMap<String, [BTreeSet<String>; 2]> = BTreeMap::new();
    let mut brokers: BTreeSet<i32> = BTreeSet::new();
    for (topic, partition, before, after) in planned.chain(moving) {
        let Some(partition) = PartitionIndex::from_wire(partition) else { continue };
        brokers.extend(before.iter().chain(&after).map(|node| node.0));
        let (leaders, followers) = throttled_by_move(partition, &before, &after);
        let [of_leaders, of_followers] = lists.entry(topic).or_default();
        of_leaders.extend(leaders);
        of_followers.extend(followers);
    }
    let resources = lists.iter().map(|(topic, lists)| {
        let joined = |list: &BTreeSet<String>| list.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let lists = lists.each_ref().map(joined);
        resource(ResourceType::Topic, topic, OF_TOPICS.into_iter().zip(lists.map(Some)))
    });
    alter(cluster.any(), resources.collect())?;
    let rate = rate.to_string();
    for (id, address) in running(cluster)?.into_iter().filter(|(id, _)| brokers.contains(id)) {
        let Ok(client) = cluster.broker(&address.0, address.1) else {
            eprintln!("broker {id} does not answer, and gets no rate");
            continue;
        };
        let rates = OF_BROKERS.map(|name| (name, Some(rate.clone())));
        alter(client, vec![resource(ResourceType::Broker, &id.to_string(), rates)])?;
    }
    Ok(())
}

/// Takes away the lists of topics, or of all that have some, and the rates of all brokers that run; those of topics of
/// which something is on its way stay, and then the rates do, too. Says which topics and brokers had some.
pub fn clear(cluster: &mut Cluster, topics: Option<&BTreeSet<String>>) -> Result<Vec<String>, Failure> {
    let moving: BTreeSet<String> = ongoing(cluster)?.into_keys().map(|(topic, _)| topic).collect();
    let all: BTreeSet<String> = match topics {
        Some(topics) => topics.clone(),
        None => {
            let metadata = cluster.metadata_of_all()?;
            metadata.topics.iter().filter_map(|topic| Some(topic.name.as_ref()?.to_string())).collect()
        }
    };
    let mut cleared = Vec::new();
    let still: Vec<&String> = all.iter().filter(|topic| !moving.contains(*topic)).collect();
    let is_of_topic = |source| source == ConfigSource::DynamicTopic as i8;
    let set = with_any(cluster.any(), ResourceType::Topic, &still, OF_TOPICS, is_of_topic)?;
    delete(cluster.any(), ResourceType::Topic, &set, OF_TOPICS)?;
    cleared.extend(set.into_iter().map(|topic| format!("topic {topic}")));
    if !moving.is_empty() {
        return Ok(cleared);
    }
    for (id, address) in running(cluster)? {
        // One that is gone for a moment is none to wait for.
        let Ok(client) = cluster.broker(&address.0, address.1) else {
            eprintln!("broker {id} does not answer, and keeps a rate if it has one");
            continue;
        };
        let id = id.to_string();
        let is_of_broker = |source| source == ConfigSource::DynamicBroker as i8;
        let set = with_any(client, ResourceType::Broker, &[&id], OF_BROKERS, is_of_broker)?;
        delete(client, ResourceType::Broker, &set, OF_BROKERS)?;
        cleared.extend(set.into_iter().map(|broker| format!("broker {broker}")));
    }
    Ok(cleared)
}

/// Brokers change their settings themselves, and those that do not run cannot.
fn running(cluster: &mut Cluster) -> Result<BTreeMap<i32, Address>, Failure> {
    let brokers = describe_brokers(cluster.any())?;
    let running = brokers.iter().filter(|broker| !matches!(Load::of(broker).state, State::Fenced));
    Ok(running.map(|broker| (broker.broker_id.0, (broker.host.to_string(), broker.port))).collect())
}

fn resource(
    of: ResourceType,
    name: &str,
    values: impl IntoIterator<Item = (&'static str, Option<String>)>,
) -> AlterConfigsResource {
    let configs = values.into_iter().map(|(name, value)| {
        let operation = if value.is_some() { SET } else { DELETE };
        let config = AlterableConfig::default().with_name(text(name)).with_config_operation(operation);
        config.with_value(value.map(|value| text(&value)))
    });
    AlterConfigsResource::default()
        .with_resource_type(of as i8)
        .with_resource_name(text(name))
        .with_configs(configs.collect())
}

fn delete(
    client: &mut Client,
    of: ResourceType,
    names: &[String],
    settings: [&'static str; 2],
) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    let each = names.iter().map(|name| resource(of, name, settings.map(|setting| (setting, None))));
    alter(client, each.collect())
}

fn alter(client: &mut Client, resources: Vec<AlterConfigsResource>) -> Result<(), Failure> {
    let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
    let ask = || Ok(client.send(|_| request.clone())?);
    let response = try_again(ask, |response| response.responses.first().map_or(0, |first| first.error_code))?;
    let refused = response.responses.into_iter().filter(|it| it.error_code != 0);
    let refused: Vec<String> = refused
        .map(|it| {
            let reason = it.error_message.map_or(String::new(), |reason| format!(": {reason}"));
            format!("a throttle on {}: {}{reason}", it.resource_name, error_name(it.error_code))
        })
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(refused.join("\n").into()) }
}

/// Those that have any of the settings themselves.
fn with_any(
    client: &mut Client,
    of: ResourceType,
    names: &[&String],
    settings: [&'static str; 2],
    is_own: impl Fn(i8) -> bool,
) -> Result<Vec<String>, Failure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let resources = names.iter().map(|name| {
        DescribeConfigsResource::default()
            .with_resource_type(of as i8)
            .with_resource_name(text(name))
            .with_configuration_keys(Some(settings.map(text).to_vec()))
    });
    let request = DescribeConfigsRequest::default().with_resources(resources.collect());
    let response = client.send(|_| request)?;
    let has_own = response.results.into_iter().filter(|result| {
        // A topic that is gone has none.
        result.error_code == 0 && result.configs.iter().any(|config| is_own(config.config_source))
    });
    Ok(has_own.map(|result| result.resource_name.to_string()).collect())
}
