//! IncrementalAlterConfigs (KIP-339) and AlterConfigs, which replaces all that was set: overrides of topics,
//! settings of brokers that change at run time (KIP-226), subscriptions to clients' metrics (KIP-714), settings of
//! groups (KIP-848).

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use kafka_protocol::messages::incremental_alter_configs_response::{
    AlterConfigsResourceResponse, IncrementalAlterConfigsResponse,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, alter_configs_request, alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;

use super::{Change, Controller, Refusal, occurrences};
use crate::cluster::describe::ResourceType;
use crate::cluster::image::{Image, Topic};
use crate::cluster::record::{ConfigResource, Record};
use crate::cluster::topic_name;
use crate::config::client_metrics::{self, InvalidSubscription, Subscription};
use crate::config::dynamic::{self, DynamicLevel};
use crate::config::group::GroupTimes;
use crate::config::topic::{self, TopicConfig};
use crate::types::BrokerId;
use crate::types::limits::{CLIENT_METRICS_SUBSCRIPTIONS_MAX, GROUP_CONFIGS_MAX, GROUP_ID_SIZE_MAX};

/// What is done to one property (Kafka `AlterConfigOp.OpType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Set,
    Delete,
    Append,
    Subtract,
}

/// What is asked of one resource.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Incremental(&'a [AlterableConfig]),
    /// Everything else that was set goes.
    Replacing(&'a [alter_configs_request::AlterableConfig]),
}

/// What is set of a resource, by name.
type Settings = BTreeMap<String, String>;

/// Decides IncrementalAlterConfigs 0 to 1.
pub fn decide_incremental_alter_configs(
    controller: Controller<'_>,
    request: &IncrementalAlterConfigsRequest,
) -> (Vec<Record>, IncrementalAlterConfigsResponse) {
    let asked = |resource: &AlterConfigsResource| (resource.resource_type, resource.resource_name.clone());
    let resources = request.resources.iter();
    let asked = resources.map(|resource| (asked(resource), Asked::Incremental(&resource.configs)));
    let (change, answers) = alter_all(controller, asked.collect());
    let answered = request.resources.iter().zip(answers).map(|(resource, (code, message))| {
        AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(code)
            .with_error_message(message)
    });
    let response = IncrementalAlterConfigsResponse::default().with_responses(answered.collect());
    (change.into_records(request.validate_only), response)
}

/// Decides AlterConfigs 0 to 2.
pub fn decide_alter_configs(
    controller: Controller<'_>,
    request: &AlterConfigsRequest,
) -> (Vec<Record>, AlterConfigsResponse) {
    let resources = request.resources.iter();
    let asked = resources.map(|resource| {
        ((resource.resource_type, resource.resource_name.clone()), Asked::Replacing(&resource.configs))
    });
    let (change, answers) = alter_all(controller, asked.collect());
    let answered = request.resources.iter().zip(answers).map(|(resource, (code, message))| {
        alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(code)
            .with_error_message(message)
    });
    let response = AlterConfigsResponse::default().with_responses(answered.collect());
    (change.into_records(request.validate_only), response)
}

type Named = (i8, StrBytes);
/// Its code, and the text where it is an error.
type Answer = (i16, Option<StrBytes>);

/// Each resource by itself; one that is named again is refused each time.
fn alter_all<'a>(controller: Controller<'a>, asked: Vec<(Named, Asked<'_>)>) -> (Change<'a>, Vec<Answer>) {
    let counts = occurrences(asked.iter().map(|(named, _)| named));
    let mut change = Change::new(controller.image);
    let mut so_far = SoFar::new(controller.image);
    let answers = asked.iter().map(|(named, asked)| {
        let decided = match counts[named] {
            1 => alter(controller, &so_far, named.0, &named.1, *asked).and_then(|altered| {
                change.add(altered.records)?;
                so_far.take(altered.settings);
                Ok(())
            }),
            _ => Err(Refusal::DuplicateResource),
        };
        match decided {
            Ok(()) => (0, None),
            Err(refusal) => (refusal.code().code(), refusal.message()),
        }
    });
    let answers = answers.collect();
    (change, answers)
}

/// What a resource is to have.
struct Altered {
    records: Vec<Record>,
    /// `None`: of a topic, which is named once.
    settings: Option<(ConfigResource, Settings)>,
}

/// What is set of resources that are no topics, with what the request has changed so far: names of several brokers
/// may stand for one node, and what is set for all of them has to go together with what is set for one.
struct SoFar<'a> {
    image: &'a Image,
    changed: BTreeMap<ConfigResource, Settings>,
    subscription_count: usize,
    group_count: usize,
    none: Settings,
}

impl<'a> SoFar<'a> {
    fn new(image: &'a Image) -> SoFar<'a> {
        SoFar {
            image,
            changed: BTreeMap::new(),
            subscription_count: image.subscriptions().count(),
            group_count: image.group_configs().count(),
            none: Settings::new(),
        }
    }

    fn settings(&self, resource: &ConfigResource) -> &Settings {
        let changed = self.changed.get(resource);
        changed.or_else(|| self.image.settings(resource)).unwrap_or(&self.none)
    }

    fn take(&mut self, altered: Option<(ConfigResource, Settings)>) {
        let Some((resource, after)) = altered else { return };
        let was_empty = self.settings(&resource).is_empty();
        let count = match &resource {
            ConfigResource::Brokers | ConfigResource::Node(_) => None,
            ConfigResource::ClientMetrics(_) => Some(&mut self.subscription_count),
            ConfigResource::Group(_) => Some(&mut self.group_count),
        };
        if let Some(count) = count {
            match (was_empty, after.is_empty()) {
                (true, false) => *count += 1,
                (false, true) => *count -= 1,
                (true, true) | (false, false) => {}
            }
        }
        self.changed.insert(resource, after);
    }
}

fn alter(
    controller: Controller<'_>,
    so_far: &SoFar<'_>,
    resource_type: i8,
    name: &str,
    asked: Asked<'_>,
) -> Result<Altered, Refusal> {
    asked.check()?;
    match ResourceType::from_wire(resource_type) {
        Some(ResourceType::Topic) => alter_topic(controller, name, asked),
        Some(ResourceType::Broker) => alter_broker(controller, so_far, name, asked),
        Some(ResourceType::ClientMetrics) => alter_client_metrics(so_far, name, asked),
        Some(ResourceType::Group) => alter_group(controller, so_far, name, asked),
        None => Err(Refusal::ResourceType(resource_type)),
    }
}

fn alter_topic(controller: Controller<'_>, name: &str, asked: Asked<'_>) -> Result<Altered, Refusal> {
    if name.is_empty() {
        return Err(Refusal::DefaultTopicResource);
    }
    topic_name::validate(name)?;
    let topic = controller.image.topic_named(name).ok_or_else(|| Refusal::NoSuchTopic(name.to_owned()))?;
    let after = asked.apply(&topic.config, |key| default_list(controller, topic, key))?;
    let overrides = after.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let config = TopicConfig::resolve(controller.defaults, topic.replication_factor(), overrides)?;
    if topic_name::is_internal(name) && !config.is_compacted() {
        return Err(Refusal::InternalCompaction(name.to_owned()));
    }
    let record = |(key, value)| Record::TopicConfigSet { topic: topic.id, key, value };
    Ok(Altered { records: differences(&topic.config, after).map(record).collect(), settings: None })
}

/// What is appended to where a topic says nothing.
fn default_list(controller: Controller<'_>, topic: &Topic, key: &str) -> Option<String> {
    let property = topic::find(key).filter(|property| property.kind.is_list())?;
    Some(property.show(&controller.defaults.config(topic.replication_factor())))
}

/// The empty name stands for all brokers. Brokers of one node have their settings in common. What is set for one node is
/// checked beside what is set for all, and the other way round.
fn alter_broker(
    controller: Controller<'_>,
    so_far: &SoFar<'_>,
    name: &str,
    asked: Asked<'_>,
) -> Result<Altered, Refusal> {
    let (resource, level) = match name {
        "" => (ConfigResource::Brokers, DynamicLevel::Cluster),
        name => {
            let id = BrokerId::from_name(name).ok_or_else(|| Refusal::BrokerName(name.to_owned()))?;
            let Some((node, _)) = controller.brokers.resolve(id) else {
                let all = controller.brokers.iter().map(|broker| broker.id.to_string());
                let expected = all.collect::<Vec<_>>().join(" or ");
                return Err(Refusal::OtherBroker { expected, found: id });
            };
            (ConfigResource::Node(node), DynamicLevel::Node)
        }
    };
    let current = so_far.settings(&resource);
    let after = asked.apply(current, |_| None)?;
    let others: Vec<(DynamicLevel, ConfigResource)> = match level {
        DynamicLevel::Cluster => {
            let nodes = controller.image.nodes().map(|node| node.id);
            nodes.map(|node| (DynamicLevel::Node, ConfigResource::Node(node))).collect()
        }
        DynamicLevel::Node => vec![(DynamicLevel::Cluster, ConfigResource::Brokers)],
    };
    for (other, resource) in others {
        let others = (other, so_far.settings(&resource));
        dynamic::check(controller.config, &asked.names(), (level, &after), others)?;
    }
    Ok(altered(resource, current, after))
}

fn alter_client_metrics(so_far: &SoFar<'_>, name: &str, asked: Asked<'_>) -> Result<Altered, Refusal> {
    if name.is_empty() {
        return Err(InvalidSubscription::Nameless.into());
    }
    if name.len() > client_metrics::NAME_SIZE_MAX {
        return Err(Refusal::SubscriptionName);
    }
    let resource = ConfigResource::ClientMetrics(name.to_owned());
    let current = so_far.settings(&resource);
    let is_list = |key: &str| client_metrics::find(key).is_some_and(|property| property.is_list());
    let after = asked.apply(current, |key| is_list(key).then(String::new))?;
    let is_new = current.is_empty() && !after.is_empty();
    if is_new && so_far.subscription_count >= CLIENT_METRICS_SUBSCRIPTIONS_MAX {
        return Err(Refusal::TooManySubscriptions);
    }
    Subscription::parse(&after)?;
    Ok(altered(resource, current, after))
}

/// The group need not be there: it goes by them once it is.
fn alter_group(
    controller: Controller<'_>,
    so_far: &SoFar<'_>,
    name: &str,
    asked: Asked<'_>,
) -> Result<Altered, Refusal> {
    if name.is_empty() {
        return Err(Refusal::DefaultGroupResource);
    }
    if name.len() > GROUP_ID_SIZE_MAX {
        return Err(Refusal::GroupName);
    }
    let resource = ConfigResource::Group(name.to_owned());
    let current = so_far.settings(&resource);
    let after = asked.apply(current, |_| None)?;
    let is_new = current.is_empty() && !after.is_empty();
    if is_new && so_far.group_count >= GROUP_CONFIGS_MAX {
        return Err(Refusal::TooManyGroupConfigs);
    }
    GroupTimes::parse(&after, controller.config)?;
    Ok(altered(resource, current, after))
}

fn altered(resource: ConfigResource, current: &Settings, after: Settings) -> Altered {
    let record = |(key, value)| Record::ConfigSet { resource: resource.clone(), key, value };
    let records = differences(current, after.clone()).map(record).collect();
    Altered { records, settings: Some((resource, after)) }
}

/// What has to be set, and removed, to get from one to the other.
fn differences(before: &Settings, after: Settings) -> impl Iterator<Item = (String, Option<String>)> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let gone: Vec<_> = gone.map(|key| (key.clone(), None)).collect();
    let changed = after.into_iter().filter(|(key, value)| before.get(key) != Some(value));
    changed.map(|(key, value)| (key, Some(value))).chain(gone)
}

impl Asked<'_> {
    fn names(&self) -> Vec<&str> {
        match self {
            Asked::Incremental(configs) => configs.iter().map(|config| config.name.as_str()).collect(),
            Asked::Replacing(configs) => configs.iter().map(|config| config.name.as_str()).collect(),
        }
    }

    /// What is refused whatever it is asked of.
    fn check(&self) -> Result<(), Refusal> {
        let names = self.names();
        if occurrences(&names).len() < names.len() {
            return Err(Refusal::DuplicateConfigKeys);
        }
        let nulls: Vec<&str> = match self {
            Asked::Incremental(configs) => {
                let is_null =
                    |config: &&AlterableConfig| config.value.is_none() && config.config_operation != 1;
                configs.iter().filter(is_null).map(|config| config.name.as_str()).collect()
            }
            Asked::Replacing(configs) => {
                configs.iter().filter(|config| config.value.is_none()).map(|it| it.name.as_str()).collect()
            }
        };
        if nulls.is_empty() { Ok(()) } else { Err(Refusal::NullValues(nulls.join(", "))) }
    }

    /// What is set once it is done. `default_list`: what a list is where nothing is set; `None` if it is none.
    fn apply(
        &self,
        current: &Settings,
        default_list: impl Fn(&str) -> Option<String>,
    ) -> Result<Settings, Refusal> {
        let configs = match self {
            Asked::Incremental(configs) => *configs,
            Asked::Replacing(configs) => {
                let value = |value: &Option<StrBytes>| value.as_deref().unwrap_or_default().trim().to_owned();
                return Ok(configs.iter().map(|it| (it.name.to_string(), value(&it.value))).collect());
            }
        };
        let mut after = current.clone();
        for config in configs {
            let key = config.name.as_str();
            let operation = Operation::from_wire(config.config_operation)
                .ok_or(Refusal::UnknownOperation(config.config_operation))?;
            let given = config.value.as_ref().map_or("", |value| value.as_str()).trim();
            match operation {
                Operation::Set => drop(after.insert(key.to_owned(), given.to_owned())),
                Operation::Delete => drop(after.remove(key)),
                Operation::Append | Operation::Subtract => {
                    let Some(default) = default_list(key) else {
                        let operation = if operation == Operation::Append { "APPEND" } else { "SUBTRACT" };
                        return Err(Refusal::NotAList { operation, key: key.to_owned() });
                    };
                    let list = current.get(key).unwrap_or(&default);
                    let given = given.split(',').map(str::trim);
                    after.insert(key.to_owned(), combine(list, given, operation));
                }
            }
        }
        Ok(after)
    }
}

/// A comma-separated list with words added at the end, or taken out.
///
/// Shape: O(words log words), whatever either says.
fn combine<'a>(current: &'a str, given: impl Iterator<Item = &'a str>, operation: Operation) -> String {
    let mut words: Vec<&str> = current.split(',').filter(|word| !word.is_empty()).collect();
    match operation {
        Operation::Subtract => {
            let given: BTreeSet<&str> = given.collect();
            words.retain(|word| !given.contains(word));
        }
        Operation::Set | Operation::Delete | Operation::Append => {
            let mut known: BTreeSet<&str> = words.iter().copied().collect();
            words.extend(given.filter(|word| known.insert(word)));
        }
    }
    words.join(",")
}

impl Operation {
    fn from_wire(operation: i8) -> Option<Operation> {
        match operation {
            0 => Some(Operation::Set),
            1 => Some(Operation::Delete),
            2 => Some(Operation::Append),
            3 => Some(Operation::Subtract),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
