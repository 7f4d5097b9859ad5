//! DescribeConfigs: the effective properties of topics and brokers, and where they come from.

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::brokers::Brokers;
use crate::cluster::image::{Image, Topic};
use crate::cluster::topic_name::{self, InvalidTopicName};
use crate::cluster::wire_text;
use crate::codec::error_code::ErrorCode;
use crate::config::topic::{InvalidConfig, PROPERTIES, Property, TopicConfig, TopicDefaults};
use crate::config::{Entry, Origin};
use crate::types::{BrokerId, NodeId};

/// Where a value comes from (Kafka `DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// An override of the topic.
    DynamicTopic = 1,
    /// A setting of the node: file, environment or flag.
    StaticBroker = 4,
    Default = 5,
}

/// What a configuration belongs to; Kafka's other types do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ResourceType {
    Topic = 2,
    Broker = 4,
}

/// One effective setting of this node, as it is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerProperty {
    pub name: &'static str,
    /// `None`: unset.
    pub value: Option<String>,
    pub source: ConfigSource,
    /// Kafka's `ConfigType` on the wire.
    pub wire_type: i8,
    pub doc: &'static str,
}

/// What DescribeConfigs may look at.
#[derive(Clone, Copy, Debug)]
pub struct ConfigView<'a> {
    pub image: &'a Image,
    pub brokers: &'a Brokers,
    pub defaults: &'a TopicDefaults,
    /// This node: the only one whose settings are known here.
    pub node: NodeId,
    pub broker_properties: &'a [BrokerProperty],
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
    #[error("Unsupported resource type: {0}")]
    ResourceType(i8),
}

/// Answers DescribeConfigs 1 to 4. Every resource once, however often it was asked for: what is said of one
/// is hundreds of times the bytes that name it.
pub fn describe_configs(view: ConfigView<'_>, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let describe = |resource: &DescribeConfigsResource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe_resource(view, request, resource) {
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
        match defaults.configured(property) {
            _ if overridden => ConfigSource::DynamicTopic,
            Some(_) => ConfigSource::StaticBroker,
            None => ConfigSource::Default,
        }
    }
}

impl ResourceType {
    pub fn from_wire(resource_type: i8) -> Option<ResourceType> {
        match resource_type {
            2 => Some(ResourceType::Topic),
            4 => Some(ResourceType::Broker),
            _ => None,
        }
    }
}

impl From<&Entry> for BrokerProperty {
    fn from(entry: &Entry) -> BrokerProperty {
        BrokerProperty {
            name: entry.property.name,
            value: Some(entry.value.clone()).filter(|value| !value.is_empty()),
            source: match entry.origin {
                Origin::Default => ConfigSource::Default,
                Origin::File(_) | Origin::Environment(_) | Origin::Flag(_) => ConfigSource::StaticBroker,
            },
            wire_type: entry.property.value_type as i8,
            doc: entry.property.doc,
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
            | NotDescribed::ResourceType(_) => ErrorCode::InvalidRequest,
        }
    }
}

fn describe_resource(
    view: ConfigView<'_>,
    request: &DescribeConfigsRequest,
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
            Ok(properties.map(|property| topic_property(view, request, topic, property, &config)).collect())
        }
        Some(ResourceType::Broker) => {
            // The empty name stands for settings of all brokers at run time; there are none.
            if name.is_empty() {
                return Ok(Vec::new());
            }
            check_broker(view, name)?;
            let properties = view.broker_properties.iter().filter(|property| asked(property.name));
            Ok(properties.map(|property| broker_property(request, property)).collect())
        }
        None => Err(NotDescribed::ResourceType(resource.resource_type)),
    }
}

/// Only this node's settings are known here; under core routing its cores share them.
fn check_broker(view: ConfigView<'_>, name: &str) -> Result<(), NotDescribed> {
    let found = name.parse().map(BrokerId).map_err(|_| NotDescribed::BrokerName(name.to_owned()))?;
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
    topic: &Topic,
    property: &Property,
    config: &TopicConfig,
) -> DescribeConfigsResourceResult {
    let overridden = topic.config.contains_key(property.name);
    let synonyms = match request.include_synonyms {
        true => synonyms(view, topic, property),
        false => Vec::new(),
    };
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(property.name))
        .with_value(Some(StrBytes::from_string(property.show(config))))
        .with_config_source(ConfigSource::of(property, view.defaults, overridden) as i8)
        .with_synonyms(synonyms)
        .with_config_type(property.kind.wire_type())
        .with_documentation(documentation(request, property.doc))
}

/// Every place that gives the property a value, the one that counts first.
fn synonyms(view: ConfigView<'_>, topic: &Topic, property: &Property) -> Vec<DescribeConfigsSynonym> {
    let synonym = |name: &'static str, value: &str, source: ConfigSource| {
        DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value.to_owned())))
            .with_source(source as i8)
    };
    let overridden = topic.config.get(property.name);
    let configured = view.defaults.configured(property);
    let built_in = TopicDefaults::default().config(topic.replication_factor());
    let default = property
        .broker_names
        .first()
        .map(|broker| synonym(broker.name, &property.show(&built_in), ConfigSource::Default));
    overridden
        .map(|value| synonym(property.name, value, ConfigSource::DynamicTopic))
        .into_iter()
        .chain(configured.map(|(name, value)| synonym(name, value, ConfigSource::StaticBroker)))
        .chain(default)
        .collect()
}

fn broker_property(
    request: &DescribeConfigsRequest,
    property: &BrokerProperty,
) -> DescribeConfigsResourceResult {
    let value = property.value.clone().map(StrBytes::from_string);
    let own = DescribeConfigsSynonym::default()
        .with_name(StrBytes::from_static_str(property.name))
        .with_value(value.clone())
        .with_source(property.source as i8);
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(property.name))
        .with_value(value)
        .with_read_only(true)
        .with_config_source(property.source as i8)
        .with_synonyms(if request.include_synonyms { vec![own] } else { Vec::new() })
        .with_config_type(property.wire_type)
        .with_documentation(documentation(request, property.doc))
}

fn documentation(request: &DescribeConfigsRequest, doc: &'static str) -> Option<StrBytes> {
    request.include_documentation.then(|| StrBytes::from_static_str(doc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, topic_id};
    use crate::cluster::record::Record;
    use crate::config::Routing;
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
        let mut defaults = TopicDefaults::default();
        defaults.set("log.retention.hours", "1").expect("valid");
        defaults.set("log.segment.bytes", "1048576").expect("valid");
        let broker_properties = [BrokerProperty {
            name: "num.partitions",
            value: Some("1".to_owned()),
            source: ConfigSource::Default,
            wire_type: 3,
            doc: "Partitions of a new topic.",
        }];
        let view = ConfigView {
            image: &image,
            brokers: &Brokers::new(&image, NodeId(1)),
            defaults: &defaults,
            node: NodeId(1),
            broker_properties: &broker_properties,
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
        assert_eq!(describe(&asking(resource(BROKER, "", None)), 4).configs, []);
    }

    #[test]
    fn what_cannot_be_described_has_an_error() {
        let scripts = [
            (resource(TOPIC, "nosuch", None), ErrorCode::UnknownTopicOrPartition),
            (resource(TOPIC, "bad/name", None), ErrorCode::InvalidTopicException),
            (resource(BROKER, "7", None), ErrorCode::InvalidRequest),
            (resource(BROKER, "x", None), ErrorCode::InvalidRequest),
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
        let image = image_of(&[node(1, 2, Routing::Core)]);
        let brokers = Brokers::new(&image, NodeId(1));
        let view = ConfigView {
            image: &image,
            brokers: &brokers,
            defaults: &TopicDefaults::default(),
            node: NodeId(1),
            broker_properties: &[],
        };
        let named = ["a", "b", "a", "a"].map(|name| resource(TOPIC, name, None));
        let request = DescribeConfigsRequest::default().with_resources(named.to_vec());
        let described = describe_configs(view, &request).results;
        let names: Vec<&str> = described.iter().map(|result| result.resource_name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
