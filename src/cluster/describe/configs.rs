//! DescribeConfigs: the effective properties of topics, brokers, groups and subscriptions to clients' metrics, and
//! where they come from. ListConfigResources: of what there are any.

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::list_config_resources_response::ConfigResource as ListedResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::brokers::Brokers;
use crate::cluster::image::{Image, Topic};
use crate::cluster::record::ConfigResource;
use crate::cluster::topic_name::{self, InvalidTopicName};
use crate::cluster::wire_text;
use crate::codec::error_code::ErrorCode;
use crate::config::dynamic::{DynamicLevel, is_dynamic};
use crate::config::topic::{InvalidConfig, PROPERTIES, Property, SettingLevel, TopicConfig, TopicDefaults};
use crate::config::{Config, Entry, Origin, client_metrics, group, property};
use crate::types::{BrokerId, NodeId};

/// Where a value comes from (Kafka `DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// An override of the topic.
    DynamicTopic = 1,
    /// Set at run time, for this node.
    DynamicBroker = 2,
    /// The same, for all nodes.
    DynamicDefaultBroker = 3,
    /// A setting of the node: file, environment or flag.
    StaticBroker = 4,
    Default = 5,
    /// Of a subscription to clients' metrics.
    ClientMetrics = 7,
    /// Of one group.
    DynamicGroup = 8,
}

/// What a configuration belongs to; Kafka's other types do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ResourceType {
    Topic = 2,
    Broker = 4,
    ClientMetrics = 16,
    Group = 32,
}

/// What DescribeConfigs may look at.
#[derive(Clone, Copy, Debug)]
pub struct ConfigView<'a> {
    pub image: &'a Image,
    pub brokers: &'a Brokers,
    pub defaults: &'a TopicDefaults,
    /// This node: the only one whose settings are known here.
    pub node: NodeId,
    /// What it was started with.
    pub started: &'a Config,
    /// The same with what was set at run time.
    pub effective: &'a Config,
}

/// Why a resource is not described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NotDescribed {
    #[error(transparent)]
    TopicName(#[from] InvalidTopicName),
    #[error("This server does not host this topic-partition.")]
    UnknownTopic,
    /// A stored override that this build no longer accepts.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error("Broker id must be an integer, but it is: {0}")]
    BrokerName(String),
    #[error("Unexpected broker id, expected {expected} or empty string, but received {found}")]
    OtherBroker { expected: String, found: BrokerId },
    #[error("Client metrics subscription name must not be empty")]
    NamelessSubscription,
    #[error("Group name must not be empty")]
    NamelessGroup,
    #[error("Unsupported resource type: {0}")]
    ResourceType(i8),
}

/// Answers DescribeConfigs 1 to 4. Every resource once, however often it was asked for: what is said of one
/// is hundreds of times the bytes that name it.
pub fn describe_configs(view: ConfigView<'_>, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let origins = request.include_synonyms.then(|| TopicOrigins {
        started: TopicDefaults::from_config(view.started).unwrap_or_default(),
        built_in: TopicDefaults::default(),
    });
    let describe = |resource: &DescribeConfigsResource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe_resource(view, request, origins.as_ref(), resource) {
            Ok(configs) => result.with_error_message(None).with_configs(configs),
            Err(reason) => result
                .with_error_code(reason.code().code())
                .with_error_message(wire_text::error_message(&reason)),
        }
    };
    let mut named = BTreeSet::new();
    let each = request.resources.iter();
    let once = each.filter(|resource| named.insert((resource.resource_type, &resource.resource_name)));
    DescribeConfigsResponse::default().with_results(once.map(describe).collect())
}

impl ConfigSource {
    /// The source that counts for a topic property.
    pub fn of(property: &Property, defaults: &TopicDefaults, overridden: bool) -> ConfigSource {
        match defaults.configured_at(property) {
            _ if overridden => ConfigSource::DynamicTopic,
            Some((_, _, SettingLevel::Static)) => ConfigSource::StaticBroker,
            Some((_, _, SettingLevel::Dynamic(level))) => ConfigSource::of_level(level),
            None => ConfigSource::Default,
        }
    }

    fn of_level(level: DynamicLevel) -> ConfigSource {
        match level {
            DynamicLevel::Cluster => ConfigSource::DynamicDefaultBroker,
            DynamicLevel::Node => ConfigSource::DynamicBroker,
        }
    }

    fn of_origin(origin: &Origin) -> ConfigSource {
        match origin {
            Origin::Default => ConfigSource::Default,
            Origin::File(_) | Origin::Environment(_) | Origin::Flag(_) => ConfigSource::StaticBroker,
            Origin::Dynamic(level) => ConfigSource::of_level(*level),
        }
    }
}

impl ResourceType {
    pub fn from_wire(resource_type: i8) -> Option<ResourceType> {
        match resource_type {
            2 => Some(ResourceType::Topic),
            4 => Some(ResourceType::Broker),
            16 => Some(ResourceType::ClientMetrics),
            32 => Some(ResourceType::Group),
            _ => None,
        }
    }
}

impl NotDescribed {
    fn code(&self) -> ErrorCode {
        match self {
            NotDescribed::TopicName(_) => ErrorCode::InvalidTopicException,
            NotDescribed::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
            NotDescribed::Config(_) => ErrorCode::InvalidConfig,
            NotDescribed::BrokerName(_)
            | NotDescribed::OtherBroker { .. }
            | NotDescribed::NamelessSubscription
            | NotDescribed::NamelessGroup
            | NotDescribed::ResourceType(_) => ErrorCode::InvalidRequest,
        }
    }
}

/// What topics inherit, by where it comes from; made once, as it takes all settings of the broker.
struct TopicOrigins {
    started: TopicDefaults,
    built_in: TopicDefaults,
}

/// `origins`: where synonyms are asked for.
fn describe_resource(
    view: ConfigView<'_>,
    request: &DescribeConfigsRequest,
    origins: Option<&TopicOrigins>,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, NotDescribed> {
    let keys: Option<BTreeSet<&str>> = match resource.configuration_keys.as_deref() {
        None | Some([]) => None,
        Some(keys) => Some(keys.iter().map(StrBytes::as_str).collect()),
    };
    let asked = |name: &str| keys.as_ref().is_none_or(|keys| keys.contains(name));
    let name = resource.resource_name.as_str();
    match ResourceType::from_wire(resource.resource_type) {
        Some(ResourceType::Topic) => {
            topic_name::validate(name)?;
            let topic = view.image.topic_named(name).ok_or(NotDescribed::UnknownTopic)?;
            let config = topic.resolve_config(view.defaults)?;
            let properties = PROPERTIES.iter().filter(|property| asked(property.name));
            let describe = |property| {
                let synonyms = origins.map(|origins| synonyms(view, origins, topic, property));
                topic_property(view, request, (topic, &config), property, synonyms.unwrap_or_default())
            };
            Ok(properties.map(describe).collect())
        }
        Some(ResourceType::Broker) => {
            // The empty name stands for what was set at run time for all brokers.
            if name.is_empty() {
                let set = view.image.settings(&ConfigResource::Brokers).into_iter().flatten();
                let set = set.filter(|(name, _)| asked(name));
                return Ok(set
                    .filter_map(|(name, value)| default_of_brokers(request, name, value))
                    .collect());
            }
            check_broker(view, name)?;
            let entries = view.effective.entries().iter().filter(|entry| asked(entry.property.name));
            Ok(entries.map(|entry| broker_property(view, request, entry)).collect())
        }
        Some(ResourceType::ClientMetrics) => {
            if name.is_empty() {
                return Err(NotDescribed::NamelessSubscription);
            }
            let resource = ConfigResource::ClientMetrics(name.to_owned());
            let set = view.image.settings(&resource).into_iter().flatten();
            let set = set.filter(|(name, _)| asked(name));
            Ok(set.filter_map(|(name, value)| of_subscription(request, name, value)).collect())
        }
        Some(ResourceType::Group) => {
            if name.is_empty() {
                return Err(NotDescribed::NamelessGroup);
            }
            let set = view.image.settings(&ConfigResource::Group(name.to_owned()));
            let properties = group::PROPERTIES.iter().filter(|property| asked(property.name));
            let own = |property: &group::Property| set?.get(property.name).map(String::as_str);
            Ok(properties.filter_map(|property| of_group(view, request, property, own(property))).collect())
        }
        None => Err(NotDescribed::ResourceType(resource.resource_type)),
    }
}

/// Only this node's settings are known here; under core routing its cores share them.
fn check_broker(view: ConfigView<'_>, name: &str) -> Result<(), NotDescribed> {
    let found = BrokerId::from_name(name).ok_or_else(|| NotDescribed::BrokerName(name.to_owned()))?;
    match view.brokers.resolve(found) {
        Some((node, _)) if node == view.node => Ok(()),
        _ => {
            let own = view.brokers.iter().filter(|broker| broker.node == view.node);
            let expected = own.map(|broker| broker.id.to_string()).collect::<Vec<_>>().join(", ");
            Err(NotDescribed::OtherBroker { expected, found })
        }
    }
}

fn topic_property(
    view: ConfigView<'_>,
    request: &DescribeConfigsRequest,
    (topic, config): (&Topic, &TopicConfig),
    property: &Property,
    synonyms: Vec<DescribeConfigsSynonym>,
) -> DescribeConfigsResourceResult {
    let overridden = topic.config.contains_key(property.name);
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(property.name))
        .with_value(Some(StrBytes::from_string(property.show(config))))
        .with_config_source(ConfigSource::of(property, view.defaults, overridden) as i8)
        .with_synonyms(synonyms)
        .with_config_type(property.kind.wire_type())
        .with_documentation(documentation(request, property.doc))
}

fn synonym(name: &str, value: &str, source: ConfigSource) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym::default()
        .with_name(StrBytes::from_string(name.to_owned()))
        .with_value(Some(StrBytes::from_string(value.to_owned())))
        .with_source(source as i8)
}

/// Every place that gives the property a value, the one that counts first.
fn synonyms(
    view: ConfigView<'_>,
    origins: &TopicOrigins,
    topic: &Topic,
    property: &Property,
) -> Vec<DescribeConfigsSynonym> {
    let mut found = Vec::new();
    if let Some(value) = topic.config.get(property.name) {
        found.push(synonym(property.name, value, ConfigSource::DynamicTopic));
    }
    let names: Vec<&str> = property.broker_names.iter().map(|name| name.name).collect();
    found.extend(dynamic_synonyms(view, &names));
    if let Some((name, value)) = origins.started.configured(property) {
        found.push(synonym(name, value, ConfigSource::StaticBroker));
    }
    if let Some(name) = names.first() {
        let built_in = origins.built_in.config(topic.replication_factor());
        found.push(synonym(name, &property.show(&built_in), ConfigSource::Default));
    }
    found
}

/// What was set at run time under any of these names, for this node first.
fn dynamic_synonyms<'a>(
    view: ConfigView<'a>,
    names: &'a [&'a str],
) -> impl Iterator<Item = DescribeConfigsSynonym> + 'a {
    let node = view.image.settings(&ConfigResource::Node(view.node));
    let cluster = view.image.settings(&ConfigResource::Brokers);
    let levels = [(DynamicLevel::Node, node), (DynamicLevel::Cluster, cluster)];
    levels.into_iter().flat_map(move |(level, settings)| {
        names
            .iter()
            .filter_map(move |name| Some(synonym(name, settings?.get(*name)?, ConfigSource::of_level(level))))
    })
}

/// Settings of the broker that are one in several units, the one that counts first.
const UNITS: [&[&str]; 2] = [
    &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
    &["log.roll.ms", "log.roll.hours"],
];

fn broker_property(
    view: ConfigView<'_>,
    request: &DescribeConfigsRequest,
    entry: &Entry,
) -> DescribeConfigsResourceResult {
    let name = entry.property.name;
    let value = Some(entry.value.clone()).filter(|value| !value.is_empty()).map(StrBytes::from_string);
    let synonyms = match request.include_synonyms {
        true => broker_synonyms(view, name),
        false => Vec::new(),
    };
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(name))
        .with_value(value)
        .with_read_only(!is_dynamic(name))
        .with_config_source(ConfigSource::of_origin(&entry.origin) as i8)
        .with_synonyms(synonyms)
        .with_config_type(entry.property.value_type as i8)
        .with_documentation(documentation(request, entry.property.doc))
}

fn broker_synonyms(view: ConfigView<'_>, name: &str) -> Vec<DescribeConfigsSynonym> {
    let own = [name];
    let names = UNITS.into_iter().find(|names| names.contains(&name)).unwrap_or(&own);
    let of_names = |entry: &&Entry| names.contains(&entry.property.name);
    let entries = || view.started.entries().iter().filter(of_names);
    let made = entries().filter(|entry| entry.origin != Origin::Default);
    let made = made.map(|entry| synonym(entry.property.name, &entry.value, ConfigSource::StaticBroker));
    let built_in = entries().filter_map(|entry| {
        Some(synonym(entry.property.name, &entry.property.default_value()?, ConfigSource::Default))
    });
    let found = dynamic_synonyms(view, names).chain(made).chain(built_in);
    // Kafka leaves out what counts before the one that is asked for.
    found.skip_while(|synonym| synonym.name.as_str() != name).collect()
}

/// What was set of one of the brokers' settings for all of them.
fn default_of_brokers(
    request: &DescribeConfigsRequest,
    name: &str,
    value: &str,
) -> Option<DescribeConfigsResourceResult> {
    let property = property::find(name)?;
    let source = ConfigSource::DynamicDefaultBroker;
    let synonyms = if request.include_synonyms { vec![synonym(name, value, source)] } else { Vec::new() };
    let result = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(property.name))
        .with_value(Some(StrBytes::from_string(value.to_owned())))
        .with_config_source(source as i8)
        .with_synonyms(synonyms)
        .with_config_type(property.value_type as i8)
        .with_documentation(documentation(request, property.doc));
    Some(result)
}

fn of_subscription(
    request: &DescribeConfigsRequest,
    name: &str,
    value: &str,
) -> Option<DescribeConfigsResourceResult> {
    let property = client_metrics::find(name)?;
    let result = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(property.name))
        .with_value(Some(StrBytes::from_string(value.to_owned())))
        .with_config_source(ConfigSource::ClientMetrics as i8)
        .with_config_type(property.wire_type)
        .with_documentation(documentation(request, property.doc));
    Some(result)
}

/// `own`: what is set of this group; the broker's counts without it.
fn of_group(
    view: ConfigView<'_>,
    request: &DescribeConfigsRequest,
    property: &group::Property,
    own: Option<&str>,
) -> Option<DescribeConfigsResourceResult> {
    let inherited = view.effective.entries().iter().find(|it| it.property.name == property.broker_name)?;
    let mut synonyms = Vec::new();
    if request.include_synonyms {
        synonyms.extend(own.map(|own| synonym(property.name, own, ConfigSource::DynamicGroup)));
        synonyms.extend(broker_synonyms(view, property.broker_name));
    }
    let (value, source) = match own {
        Some(own) => (own, ConfigSource::DynamicGroup),
        None => (inherited.value.as_str(), ConfigSource::of_origin(&inherited.origin)),
    };
    let result = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(property.name))
        .with_value(Some(StrBytes::from_string(value.to_owned())))
        .with_config_source(source as i8)
        .with_synonyms(synonyms)
        .with_config_type(inherited.property.value_type as i8)
        .with_documentation(documentation(request, property.doc));
    Some(result)
}

/// Answers ListConfigResources 0 to 1 (KIP-1142). Version 0 asks for the subscriptions to clients' metrics.
pub fn list_config_resources(
    image: &Image,
    brokers: &Brokers,
    request: &ListConfigResourcesRequest,
    version: i16,
) -> ListConfigResourcesResponse {
    /// Kafka has settings of these as well; here there are none.
    const LOGGER: i8 = 8;
    const SUPPORTED: [i8; 5] = [
        ResourceType::Topic as i8,
        ResourceType::Broker as i8,
        LOGGER,
        ResourceType::ClientMetrics as i8,
        ResourceType::Group as i8,
    ];
    let asked: BTreeSet<i8> = match (version, &request.resource_types[..]) {
        (0, _) => BTreeSet::from([ResourceType::ClientMetrics as i8]),
        (_, []) => BTreeSet::from(SUPPORTED),
        (_, types) => types.iter().copied().collect(),
    };
    if asked.iter().any(|resource_type| !SUPPORTED.contains(resource_type)) {
        let code = ErrorCode::UnsupportedVersion.code();
        return ListConfigResourcesResponse::default().with_error_code(code);
    }
    let resource = |resource_type: ResourceType, name: &str| {
        // Version 0 has no place for anything else.
        ListedResource::default()
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_resource_type(resource_type as i8)
    };
    let has = |resource_type: ResourceType| asked.contains(&(resource_type as i8));
    let mut listed = Vec::new();
    if has(ResourceType::Topic) {
        listed.extend(image.topics().map(|topic| resource(ResourceType::Topic, &topic.name)));
    }
    if has(ResourceType::Broker) {
        let ids = brokers.iter().map(|broker| broker.id.to_string());
        listed.extend(ids.map(|id| resource(ResourceType::Broker, &id)));
    }
    if has(ResourceType::ClientMetrics) {
        let names = image.subscriptions().map(|(name, _)| name);
        listed.extend(names.map(|name| resource(ResourceType::ClientMetrics, name)));
    }
    if has(ResourceType::Group) {
        let names = image.group_configs().map(|(name, _)| name);
        listed.extend(names.map(|name| resource(ResourceType::Group, name)));
    }
    ListConfigResourcesResponse::default().with_config_resources(listed)
}

fn documentation(request: &DescribeConfigsRequest, doc: &'static str) -> Option<StrBytes> {
    request.include_documentation.then(|| StrBytes::from_static_str(doc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, topic_id};
    use crate::cluster::record::Record;
    use crate::config::{Inputs, Machine, Routing};
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    const TOPIC: i8 = ResourceType::Topic as i8;
    const BROKER: i8 = ResourceType::Broker as i8;

    fn resource(resource_type: i8, name: &str, keys: Option<&[&'static str]>) -> DescribeConfigsResource {
        let keys = keys.map(|keys| keys.iter().map(|key| StrBytes::from_static_str(key)).collect());
        DescribeConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_configuration_keys(keys)
    }

    fn asking(resource: DescribeConfigsResource) -> DescribeConfigsRequest {
        DescribeConfigsRequest::default()
            .with_resources(vec![resource])
            .with_include_synonyms(true)
            .with_include_documentation(true)
    }

    fn started() -> Config {
        let machine = Machine { cpus_allowed: vec![0, 1], memory_bytes: 8 << 30 };
        let flags = [
            ("--set".to_owned(), "log.retention.hours".to_owned(), "1".to_owned()),
            ("--set".to_owned(), "log.segment.bytes".to_owned(), "1048576".to_owned()),
        ];
        Config::resolve(&Inputs { flags: &flags, ..Inputs::default() }, &machine).expect("valid")
    }

    /// Describes one resource, and takes the answer over the wire of that version.
    fn describe(request: &DescribeConfigsRequest, version: i16) -> DescribeConfigsResult {
        let mut image = image_of(&[node(1, 2, Routing::Core)]);
        add_topic(&mut image, 1, "a", &[0]);
        let set = Record::TopicConfigSet {
            topic: topic_id(1),
            key: "retention.ms".to_owned(),
            value: Some("5000".to_owned()),
        };
        image.apply(&set).expect("fits");
        let defaults = TopicDefaults::from_config(&started()).expect("valid");
        let started = started();
        let view = ConfigView {
            image: &image,
            brokers: &Brokers::new(&image, NodeId(1)),
            defaults: &defaults,
            node: NodeId(1),
            started: &started,
            effective: &started,
        };
        let response = describe_configs(view, request);
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, version).expect("encodes");
        DescribeConfigsResponse::decode(&mut bytes.freeze(), version).expect("decodes").results.remove(0)
    }

    fn config(result: &DescribeConfigsResult, name: &str) -> (Option<String>, i8) {
        let found = result.configs.iter().find(|config| config.name.as_str() == name).expect("listed");
        (found.value.as_ref().map(|value| value.to_string()), found.config_source)
    }

    #[test]
    fn topic_properties_come_with_their_source_in_every_version() {
        for version in 1..=4 {
            let result = describe(&asking(resource(TOPIC, "a", None)), version);
            assert_eq!(result.error_code, 0);
            assert_eq!(result.configs.len(), PROPERTIES.len());
            assert_eq!(config(&result, "retention.ms"), (Some("5000".to_owned()), 1));
            assert_eq!(config(&result, "segment.bytes"), (Some("1048576".to_owned()), 4));
            assert_eq!(config(&result, "segment.ms"), (Some("604800000".to_owned()), 5));
            assert_eq!(config(&result, "cleanup.policy"), (Some("delete".to_owned()), 5));
        }
    }

    #[test]
    fn synonyms_are_ordered_by_what_counts() {
        let result = describe(&asking(resource(TOPIC, "a", Some(&["retention.ms"]))), 4);
        assert_eq!(result.configs.len(), 1);
        let synonyms: Vec<_> = result.configs[0]
            .synonyms
            .iter()
            .map(|synonym| (synonym.name.to_string(), synonym.value.clone().unwrap_or_default().to_string()))
            .collect();
        let expected =
            [("retention.ms", "5000"), ("log.retention.hours", "3600000"), ("log.retention.ms", "604800000")];
        assert_eq!(synonyms, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(result.configs[0].documentation.is_some());
        assert_eq!(result.configs[0].config_type, 5);
    }

    #[test]
    fn broker_properties_are_those_of_this_node() {
        let result = describe(&asking(resource(BROKER, "1001", None)), 4);
        assert_eq!(config(&result, "num.partitions"), (Some("1".to_owned()), 5));
        assert!(result.configs[0].read_only);
        assert_eq!(config(&result, "log.segment.bytes"), (Some("1048576".to_owned()), 4));
        assert_eq!(describe(&asking(resource(BROKER, "", None)), 4).configs, []);
    }

    #[test]
    fn what_was_set_at_run_time_comes_before_what_the_node_was_started_with() {
        let mut image = image_of(&[node(1, 2, Routing::Core)]);
        add_topic(&mut image, 1, "a", &[0]);
        let mut set = |resource, key: &str, value: &str| {
            let (key, value) = (key.to_owned(), Some(value.to_owned()));
            image.apply(&Record::ConfigSet { resource, key, value }).expect("fits");
        };
        set(ConfigResource::Brokers, "log.retention.ms", "1000");
        set(ConfigResource::Node(NodeId(1)), "log.retention.ms", "2000");
        set(ConfigResource::Brokers, "log.segment.bytes", "8192");
        set(ConfigResource::ClientMetrics("m".to_owned()), "metrics", "*");
        set(ConfigResource::Group("g".to_owned()), "consumer.session.timeout.ms", "50000");
        let settings = |resource| image.settings(&resource).cloned().unwrap_or_default();
        let (cluster, own) = (settings(ConfigResource::Brokers), settings(ConfigResource::Node(NodeId(1))));
        let started = started();
        let (effective, _) = started.with_dynamic(&cluster, &own);
        let brokers = Brokers::new(&image, NodeId(1));
        let view = ConfigView {
            image: &image,
            brokers: &brokers,
            defaults: &TopicDefaults::from_config(&effective).expect("valid"),
            node: NodeId(1),
            started: &started,
            effective: &effective,
        };
        let describe = |kind, name: &str, key: &'static str| {
            let request = asking(resource(kind, name, Some(&[key])));
            let mut result = describe_configs(view, &request).results.remove(0);
            let config = result.configs.remove(0);
            let synonyms = config.synonyms.iter().map(|synonym| {
                (synonym.name.to_string(), synonym.value.as_deref().unwrap_or("-").to_owned(), synonym.source)
            });
            let synonyms: Vec<_> = synonyms.collect();
            (config.value.map(|value| value.to_string()), config.config_source, config.read_only, synonyms)
        };
        let owned = |all: &[(&str, &str, i8)]| -> Vec<(String, String, i8)> {
            all.iter()
                .map(|(name, value, source)| ((*name).to_owned(), (*value).to_owned(), *source))
                .collect()
        };
        let (value, source, read_only, synonyms) = describe(BROKER, "1000", "log.retention.ms");
        assert_eq!((value.as_deref(), source, read_only), (Some("2000"), 2, false));
        let expected = [
            ("log.retention.ms", "2000", 2),
            ("log.retention.ms", "1000", 3),
            ("log.retention.hours", "1", 4),
            ("log.retention.hours", "168", 5),
        ];
        assert_eq!(synonyms, owned(&expected));
        let (value, source, _, synonyms) = describe(TOPIC, "a", "segment.bytes");
        assert_eq!((value.as_deref(), source), (Some("8192"), 3));
        let expected = [
            ("log.segment.bytes", "8192", 3),
            ("log.segment.bytes", "1048576", 4),
            ("log.segment.bytes", "1073741824", 5),
        ];
        assert_eq!(synonyms, owned(&expected));
        let (value, source, _, synonyms) = describe(BROKER, "", "log.retention.ms");
        assert_eq!((value.as_deref(), source), (Some("1000"), 3));
        assert_eq!(synonyms, owned(&[("log.retention.ms", "1000", 3)]));
        let (value, source, ..) = describe(16, "m", "metrics");
        assert_eq!((value.as_deref(), source), (Some("*"), 7));
        let (value, source, read_only, synonyms) = describe(32, "g", "consumer.session.timeout.ms");
        assert_eq!((value.as_deref(), source, read_only), (Some("50000"), 8, false));
        let broker = ("group.consumer.session.timeout.ms", "45000", 5);
        assert_eq!(synonyms, owned(&[("consumer.session.timeout.ms", "50000", 8), broker]));
        // Of a group that nobody has heard of too.
        let (value, source, _, synonyms) = describe(32, "other", "consumer.session.timeout.ms");
        assert_eq!((value.as_deref(), source), (Some("45000"), 5));
        assert_eq!(synonyms, owned(&[broker]));
        let list = |types: &[i8], version| {
            let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
            let response = list_config_resources(&image, &brokers, &request, version);
            let listed = response.config_resources.iter();
            let listed: Vec<_> = listed.map(|it| (it.resource_type, it.resource_name.to_string())).collect();
            (response.error_code, listed)
        };
        let all = [(TOPIC, "a"), (BROKER, "1000"), (BROKER, "1001"), (16, "m"), (32, "g")];
        let all = all.map(|(kind, name)| (kind, name.to_owned()));
        assert_eq!(list(&[], 1), (0, all.to_vec()));
        assert_eq!(list(&[], 0), (0, all[3..4].to_vec()));
        assert_eq!(list(&[TOPIC, 16], 1), (0, vec![all[0].clone(), all[3].clone()]));
        assert_eq!(list(&[32, 8], 1), (0, all[4..].to_vec()));
        assert_eq!(list(&[8], 1), (0, Vec::new()));
        assert_eq!(list(&[3], 1), (ErrorCode::UnsupportedVersion.code(), Vec::new()));
    }

    #[test]
    fn what_cannot_be_described_has_an_error() {
        let scripts = [
            (resource(TOPIC, "nosuch", None), ErrorCode::UnknownTopicOrPartition),
            (resource(TOPIC, "bad/name", None), ErrorCode::InvalidTopicException),
            (resource(BROKER, "7", None), ErrorCode::InvalidRequest),
            (resource(BROKER, "x", None), ErrorCode::InvalidRequest),
            (resource(BROKER, "01", None), ErrorCode::InvalidRequest),
            (resource(BROKER, "+1", None), ErrorCode::InvalidRequest),
            (resource(16, "", None), ErrorCode::InvalidRequest),
            (resource(32, "", None), ErrorCode::InvalidRequest),
            (resource(8, "1", None), ErrorCode::InvalidRequest),
        ];
        for (resource, code) in scripts {
            let result = describe(&asking(resource), 4);
            assert_eq!(ErrorCode::from_wire(result.error_code), Some(code));
            assert!(result.error_message.is_some());
        }
    }

    #[test]
    fn a_resource_is_described_once_however_often_it_is_named() {
        let (started, image) = (started(), image_of(&[node(1, 2, Routing::Core)]));
        let brokers = Brokers::new(&image, NodeId(1));
        let view = ConfigView {
            image: &image,
            brokers: &brokers,
            defaults: &TopicDefaults::default(),
            node: NodeId(1),
            started: &started,
            effective: &started,
        };
        let named = ["a", "b", "a", "a"].map(|name| resource(TOPIC, name, None));
        let request = DescribeConfigsRequest::default().with_resources(named.to_vec());
        let described = describe_configs(view, &request).results;
        let names: Vec<&str> = described.iter().map(|result| result.resource_name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
