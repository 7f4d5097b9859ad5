//! IncrementalAlterConfigs: overrides of topics (KIP-339). Broker settings change with a restart.

use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use kafka_protocol::messages::incremental_alter_configs_response::{
    AlterConfigsResourceResponse, IncrementalAlterConfigsResponse,
};

use super::{Change, Controller, Refusal, occurrences};
use crate::cluster::describe::ResourceType;
use crate::cluster::image::Topic;
use crate::cluster::record::Record;
use crate::cluster::topic_name;
use crate::config::topic::{self, TopicConfig};

/// What is done to one property (Kafka `AlterConfigOp.OpType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Set,
    Delete,
    Append,
    Subtract,
}

/// Decides IncrementalAlterConfigs 0 to 1.
pub fn decide_incremental_alter_configs(
    controller: Controller<'_>,
    request: &IncrementalAlterConfigsRequest,
) -> (Vec<Record>, IncrementalAlterConfigsResponse) {
    let key = |resource: &AlterConfigsResource| (resource.resource_type, resource.resource_name.to_string());
    let counts = occurrences(request.resources.iter().map(key));
    let mut change = Change::new(controller.image);
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        let decided = match counts[&key(resource)] {
            1 => alter(controller, resource).and_then(|records| change.add(records)),
            _ => Err(Refusal::DuplicateResource),
        };
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        responses.push(match decided {
            Ok(()) => response.with_error_message(None),
            Err(refusal) => {
                response.with_error_code(refusal.code().code()).with_error_message(refusal.message())
            }
        });
    }
    let records = change.into_records(request.validate_only);
    (records, IncrementalAlterConfigsResponse::default().with_responses(responses))
}

fn alter(controller: Controller<'_>, resource: &AlterConfigsResource) -> Result<Vec<Record>, Refusal> {
    let keys = occurrences(resource.configs.iter().map(|config| config.name.as_str()));
    if keys.len() < resource.configs.len() {
        return Err(Refusal::DuplicateConfigKeys);
    }
    let names = |configs: &[&AlterableConfig]| {
        configs.iter().map(|config| config.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let is_null = |config: &&AlterableConfig| config.value.is_none() && config.config_operation != 1;
    let nulls: Vec<&AlterableConfig> = resource.configs.iter().filter(is_null).collect();
    if !nulls.is_empty() {
        return Err(Refusal::NullValues(names(&nulls)));
    }
    match ResourceType::from_wire(resource.resource_type) {
        Some(ResourceType::Topic) => alter_topic(controller, resource),
        Some(ResourceType::Broker) => {
            Err(Refusal::BrokerConfigs(names(&resource.configs.iter().collect::<Vec<_>>())))
        }
        None => Err(Refusal::ResourceType(resource.resource_type)),
    }
}

fn alter_topic(controller: Controller<'_>, resource: &AlterConfigsResource) -> Result<Vec<Record>, Refusal> {
    let name = resource.resource_name.as_str();
    if name.is_empty() {
        return Err(Refusal::DefaultTopicResource);
    }
    topic_name::validate(name)?;
    let topic = controller.image.topic_named(name).ok_or_else(|| Refusal::NoSuchTopic(name.to_owned()))?;
    let mut after = topic.config.clone();
    let mut records = Vec::new();
    for config in &resource.configs {
        let value = new_value(controller, topic, config)?;
        let key = config.name.as_str();
        if topic.config.get(key) == value.as_ref() {
            continue;
        }
        match &value {
            Some(value) => after.insert(key.to_owned(), value.clone()),
            None => after.remove(key),
        };
        records.push(Record::TopicConfigSet { topic: topic.id, key: key.to_owned(), value });
    }
    let overrides = after.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let config = TopicConfig::resolve(controller.defaults, topic.replication_factor(), overrides)?;
    if topic_name::is_internal(name) && !config.is_compacted() {
        return Err(Refusal::InternalCompaction(name.to_owned()));
    }
    Ok(records)
}

/// The override after the operation; `None`: there is none.
fn new_value(
    controller: Controller<'_>,
    topic: &Topic,
    config: &AlterableConfig,
) -> Result<Option<String>, Refusal> {
    let operation = Operation::from_wire(config.config_operation)
        .ok_or(Refusal::UnknownOperation(config.config_operation))?;
    let given = config.value.as_ref().map_or("", |value| value.as_str()).trim();
    match operation {
        Operation::Set => Ok(Some(given.to_owned())),
        Operation::Delete => Ok(None),
        Operation::Append | Operation::Subtract => {
            let key = config.name.as_str();
            let property = topic::find(key).filter(|property| property.kind.is_list());
            let Some(property) = property else {
                let operation = if operation == Operation::Append { "APPEND" } else { "SUBTRACT" };
                return Err(Refusal::NotAList { operation, key: key.to_owned() });
            };
            let current = match topic.config.get(key) {
                Some(value) => value.clone(),
                None => property.show(&controller.defaults.config(topic.replication_factor())),
            };
            let given = given.split(',').map(str::trim);
            Ok(Some(combine(&current, given, operation)))
        }
    }
}

/// A comma-separated list with words added at the end, or taken out.
fn combine<'a>(current: &'a str, given: impl Iterator<Item = &'a str>, operation: Operation) -> String {
    let mut words: Vec<&str> = current.split(',').filter(|word| !word.is_empty()).collect();
    for word in given {
        let position = words.iter().position(|known| *known == word);
        match (operation, position) {
            (Operation::Append, None) => words.push(word),
            (Operation::Subtract, Some(position)) => {
                words.remove(position);
            }
            _ => {}
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
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::cluster::image::tests::add_topic;
    use crate::codec::error_code::ErrorCode;
    use crate::config::Routing;
    use kafka_protocol::protocol::StrBytes;

    const TOPIC: i8 = ResourceType::Topic as i8;

    fn resource(kind: i8, name: &str, configs: &[(&str, i8, Option<&str>)]) -> AlterConfigsResource {
        let config = |&(name, operation, value): &(&str, i8, Option<&str>)| {
            AlterableConfig::default()
                .with_name(StrBytes::from_string(name.to_owned()))
                .with_config_operation(operation)
                .with_value(value.map(|value| StrBytes::from_string(value.to_owned())))
        };
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_configs(configs.iter().map(config).collect())
    }

    fn decide(
        cluster: &mut Cluster,
        resources: Vec<AlterConfigsResource>,
    ) -> Vec<(Option<ErrorCode>, String)> {
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let (_, response) =
            cluster.decide(|controller, _| decide_incremental_alter_configs(controller, &request));
        let message =
            |text: &Option<StrBytes>| text.as_ref().map(|text| text.to_string()).unwrap_or_default();
        let answer = |response: &AlterConfigsResourceResponse| {
            (ErrorCode::from_wire(response.error_code), message(&response.error_message))
        };
        response.responses.iter().map(answer).collect()
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(1, Routing::Node);
        add_topic(&mut cluster.image, 1, "a", &[0]);
        cluster
    }

    fn value(cluster: &Cluster, key: &str) -> Option<String> {
        cluster.image.topic_named("a").expect("exists").config.get(key).cloned()
    }

    #[test]
    fn set_and_delete_an_override() {
        let mut cluster = cluster();
        let set = resource(TOPIC, "a", &[("retention.ms", 0, Some("5")), ("segment.ms", 0, Some("7"))]);
        assert_eq!(decide(&mut cluster, vec![set])[0].0, Some(ErrorCode::None));
        assert_eq!(value(&cluster, "retention.ms").as_deref(), Some("5"));
        let delete = resource(TOPIC, "a", &[("retention.ms", 1, None)]);
        assert_eq!(decide(&mut cluster, vec![delete])[0].0, Some(ErrorCode::None));
        assert_eq!(value(&cluster, "retention.ms"), None);
        assert_eq!(value(&cluster, "segment.ms").as_deref(), Some("7"));
    }

    #[test]
    fn unchanged_values_leave_no_record() {
        let mut cluster = cluster();
        let set = || vec![resource(TOPIC, "a", &[("retention.ms", 0, Some("5")), ("segment.ms", 1, None)])];
        let request = IncrementalAlterConfigsRequest::default().with_resources(set());
        let (records, _) =
            cluster.decide(|controller, _| decide_incremental_alter_configs(controller, &request));
        assert_eq!(records.len(), 1);
        let (records, _) =
            cluster.decide(|controller, _| decide_incremental_alter_configs(controller, &request));
        assert_eq!(records, []);
    }

    #[test]
    fn lists_are_appended_to_and_subtracted_from() {
        let mut cluster = cluster();
        let key = "leader.replication.throttled.replicas";
        let append = |words| resource(TOPIC, "a", &[(key, 2, Some(words))]);
        decide(&mut cluster, vec![append("0:1,1:1")]);
        decide(&mut cluster, vec![append("1:1,2:1")]);
        assert_eq!(value(&cluster, key).as_deref(), Some("0:1,1:1,2:1"));
        decide(&mut cluster, vec![resource(TOPIC, "a", &[(key, 3, Some("1:1"))])]);
        assert_eq!(value(&cluster, key).as_deref(), Some("0:1,2:1"));
        // The default is what is appended to where there is no override.
        let compact = resource(TOPIC, "a", &[("cleanup.policy", 2, Some("compact"))]);
        decide(&mut cluster, vec![compact]);
        assert_eq!(value(&cluster, "cleanup.policy").as_deref(), Some("delete,compact"));
    }

    #[test]
    fn internal_topics_stay_compacted() {
        let mut cluster = cluster();
        let name = topic_name::INTERNAL[0];
        add_topic(&mut cluster.image, 2, name, &[0]);
        let policy = |operation, value| resource(TOPIC, name, &[("cleanup.policy", operation, value)]);
        assert_eq!(decide(&mut cluster, vec![policy(0, Some("compact"))])[0].0, Some(ErrorCode::None));
        // Also with deletion: an operator may want a bound.
        assert_eq!(decide(&mut cluster, vec![policy(2, Some("delete"))])[0].0, Some(ErrorCode::None));
        let before = cluster.image.clone();
        for refused in [policy(3, Some("compact")), policy(0, Some("delete")), policy(1, None)] {
            let answers = decide(&mut cluster, vec![refused]);
            assert_eq!(answers[0].0, Some(ErrorCode::InvalidConfig), "{answers:?}");
            assert_eq!(cluster.image, before);
        }
        let other = resource(TOPIC, name, &[("segment.ms", 0, Some("7"))]);
        assert_eq!(decide(&mut cluster, vec![other])[0].0, Some(ErrorCode::None));
    }

    #[test]
    fn refusals_change_nothing() {
        let scripts = [
            (resource(TOPIC, "a", &[("retention.ms", 0, Some("x"))]), ErrorCode::InvalidConfig),
            (resource(TOPIC, "a", &[("nosuch", 0, Some("1"))]), ErrorCode::InvalidConfig),
            (resource(TOPIC, "a", &[("retention.ms", 2, Some("1"))]), ErrorCode::InvalidConfig),
            (resource(TOPIC, "a", &[("retention.ms", 0, None)]), ErrorCode::InvalidRequest),
            (resource(TOPIC, "a", &[("retention.ms", 9, Some("1"))]), ErrorCode::InvalidRequest),
            (
                resource(TOPIC, "a", &[("segment.ms", 0, Some("1")), ("segment.ms", 0, Some("2"))]),
                ErrorCode::InvalidRequest,
            ),
            (
                resource(TOPIC, "a", &[("segment.ms", 0, Some("1")), ("retention.ms", 0, Some("x"))]),
                ErrorCode::InvalidConfig,
            ),
            (resource(TOPIC, "b", &[("segment.ms", 0, Some("1"))]), ErrorCode::UnknownTopicOrPartition),
            (resource(TOPIC, "", &[("segment.ms", 0, Some("1"))]), ErrorCode::InvalidRequest),
            (resource(TOPIC, "a/b", &[]), ErrorCode::InvalidTopicException),
            (resource(4, "1", &[("log.retention.ms", 0, Some("1"))]), ErrorCode::InvalidRequest),
            (resource(16, "m", &[]), ErrorCode::InvalidRequest),
        ];
        for (resource, code) in scripts {
            let mut cluster = cluster();
            let before = cluster.image.clone();
            assert_eq!(decide(&mut cluster, vec![resource.clone()])[0].0, Some(code), "{resource:?}");
            assert_eq!(cluster.image, before);
        }
    }

    #[test]
    fn resource_that_occurs_twice_is_refused_twice() {
        let mut cluster = cluster();
        let set = || resource(TOPIC, "a", &[("segment.ms", 0, Some("1"))]);
        let answers = decide(&mut cluster, vec![set(), set()]);
        assert!(answers.iter().all(|(code, _)| *code == Some(ErrorCode::InvalidRequest)));
        assert_eq!(answers.len(), 2);
        assert_eq!(value(&cluster, "segment.ms"), None);
    }
}
