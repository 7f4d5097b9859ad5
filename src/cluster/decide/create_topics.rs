//! CreateTopics, and the placement of partitions that CreatePartitions shares.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Change, Controller, NewTopicId, Refusal, occurrences};
use crate::cluster::brokers::Brokers;
use crate::cluster::describe::ConfigSource;
use crate::cluster::image::partition_index;
use crate::cluster::leadership::{Leadership, Members, Rules};
use crate::cluster::placement::{NoPlace, Placement};
use crate::cluster::record::{PartitionState, Record, Replica};
use crate::cluster::topic_name;
use crate::config::topic::{PROPERTIES, TopicConfig};
use crate::types::limits::PARTITIONS_PER_TOPIC_MAX;
use crate::types::{BrokerId, TopicId, TopicPartition};

/// "Use the broker's default" for partitions and replication factor.
const DEFAULT: i32 = -1;

/// Decides CreateTopics 2 to 7.
pub fn decide_create_topics(
    controller: Controller<'_>,
    request: &CreateTopicsRequest,
    new_topic_id: NewTopicId<'_>,
) -> (Vec<Record>, CreateTopicsResponse) {
    let mut creation = Creation::new(controller, new_topic_id);
    let mut duplicates = occurrences(request.topics.iter().map(|topic| &topic.name));
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let result = match duplicates.get_mut(&topic.name) {
            Some(1) => creation.create(topic),
            Some(answered @ 2..) => {
                *answered = 0; // A name that occurs often is answered once, as in Kafka.
                Err(Refusal::DuplicateTopicName)
            }
            Some(0) | None => continue,
        };
        results.push(result.unwrap_or_else(|refusal| refused(topic, &refusal)));
    }
    let records = creation.change.into_records(request.validate_only);
    (records, CreateTopicsResponse::default().with_topics(results))
}

/// Topics on their way into one change: each sees the names and loads of those before it.
pub(super) struct Creation<'a> {
    controller: Controller<'a>,
    new_topic_id: NewTopicId<'a>,
    placement: Placement,
    members: Members,
    /// Names that '.' and '_' make collide, of topics in this change.
    collisions: BTreeMap<String, String>,
    naming: Naming,
    pub change: Change<'a>,
}

/// Whose topics are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    Client,
    Internal,
}

impl<'a> Creation<'a> {
    pub fn new(controller: Controller<'a>, new_topic_id: NewTopicId<'a>) -> Creation<'a> {
        Creation {
            controller,
            new_topic_id,
            placement: Placement::new(controller.image, Some(controller.log_dirs)),
            members: controller.image.members(),
            collisions: BTreeMap::new(),
            naming: Naming::Client,
            change: Change::new(controller.image),
        }
    }

    pub fn naming(self, naming: Naming) -> Creation<'a> {
        Creation { naming, ..self }
    }

    pub fn create(&mut self, topic: &CreatableTopic) -> Result<CreatableTopicResult, Refusal> {
        let name = topic.name.as_str();
        self.check_name(name)?;
        let overrides = overrides(&topic.configs)?;
        // A refused topic must not weigh on the placement of the next.
        let mut placement = self.placement.clone();
        let partitions = self.place(topic, &mut placement)?;
        let replication_factor = partitions.first().map_or(0, Vec::len) as u16;
        let config = TopicConfig::resolve(
            self.controller.defaults,
            replication_factor,
            overrides.iter().map(|(name, value)| (*name, value.as_str())),
        )?;

        let each = partitions.iter().cloned().enumerate();
        let states = each.map(|(index, replicas)| new_partition(&self.members, index, replicas));
        let states: Vec<PartitionState> = states.collect::<Result<_, _>>()?;
        let id = (self.new_topic_id)();
        assert!(id != TopicId::ZERO, "zero means no topic id");
        assert!(self.controller.image.topic(id).is_none(), "topic ids are new");
        let result = created(&self.controller, topic, id, &partitions, &config, &overrides);
        self.controller.take_mutations(partitions.len())?;
        self.change.add(records(id, name, states, overrides))?;
        self.placement = placement;
        if let Some(key) = topic_name::collision_key(name) {
            self.collisions.insert(key, name.to_owned());
        }
        Ok(result)
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        let is_internal = topic_name::is_internal(name) && self.naming == Naming::Client;
        if name == topic_name::CLUSTER_METADATA || is_internal {
            return Err(Refusal::InternalTopic(name.to_owned()));
        }
        topic_name::validate(name)?;
        if self.controller.image.topic_id(name).is_some() {
            return Err(Refusal::TopicExists(name.to_owned()));
        }
        let existing = self.controller.image.topic_colliding(name).map(|topic| &topic.name);
        let created = || topic_name::collision_key(name).and_then(|key| self.collisions.get(&key));
        match existing.or_else(created) {
            Some(existing) => Err(Refusal::Collision { name: name.to_owned(), existing: existing.clone() }),
            None => Ok(()),
        }
    }

    /// The replicas of each partition, in index order.
    fn place(&self, topic: &CreatableTopic, placement: &mut Placement) -> Result<Vec<Vec<Replica>>, Refusal> {
        if !topic.assignments.is_empty() {
            return place_manually(self.controller.brokers, topic, placement);
        }
        let replication_factor = match topic.replication_factor {
            -1 => self.controller.defaults.replication_factor,
            factor => u16::try_from(factor).map_err(|_| Refusal::NonPositiveReplicationFactor)?,
        };
        if replication_factor == 0 {
            return Err(Refusal::NonPositiveReplicationFactor);
        }
        let partitions = match topic.num_partitions {
            DEFAULT => self.controller.defaults.partitions,
            count => u32::try_from(count).map_err(|_| Refusal::NonPositivePartitions)?,
        };
        if partitions == 0 {
            return Err(Refusal::NonPositivePartitions);
        }
        if partitions > PARTITIONS_PER_TOPIC_MAX {
            return Err(Refusal::TooManyPartitions(i64::from(partitions)));
        }
        place_automatically(placement, partitions as usize, replication_factor)
    }
}

pub(super) fn place_automatically(
    placement: &mut Placement,
    partitions: usize,
    replication_factor: u16,
) -> Result<Vec<Vec<Replica>>, Refusal> {
    let nodes = placement.active_count();
    let placed: Result<Vec<_>, _> = (0..partitions).map(|_| placement.place(replication_factor)).collect();
    placed.map_err(|reason| match reason {
        NoPlace::NoDirectory => Refusal::NoLogDirectory,
        NoPlace::TooFewNodes if nodes == 0 => Refusal::NobodyActive(replication_factor),
        NoPlace::TooFewNodes | NoPlace::NoShard => Refusal::TooFewNodes { wanted: replication_factor, nodes },
    })
}

/// The replicas on the brokers that a client names. `expected`: replicas of the partitions before.
pub(super) fn place_on_brokers<'b>(
    brokers: &Brokers,
    placement: &mut Placement,
    named: impl ExactSizeIterator<Item = &'b kafka_protocol::messages::BrokerId>,
    expected: Option<usize>,
) -> Result<Vec<Replica>, Refusal> {
    let found = named.len();
    if found == 0 {
        return Err(Refusal::EmptyAssignment);
    }
    // Before the loop, which is quadratic in the replicas that there can be.
    if found > brokers.node_count()
        && let Some(expected) = expected.filter(|&expected| expected != found)
    {
        return Err(Refusal::ReplicasDiffer { found, expected });
    }
    let mut seen = BTreeSet::new();
    let mut replicas: Vec<Replica> = Vec::new();
    for id in named.map(|id| BrokerId(id.0)) {
        let (node, shard) = brokers.resolve(id).ok_or(Refusal::UnknownBroker(id))?;
        if !seen.insert(id) {
            return Err(Refusal::BrokerTwice(id));
        }
        if replicas.iter().any(|replica| replica.node == node) {
            return Err(Refusal::NodeTwice(id));
        }
        replicas.push(placement.place_on(node, shard).map_err(|reason| match reason {
            NoPlace::NoDirectory => Refusal::NoLogDirectory,
            NoPlace::TooFewNodes | NoPlace::NoShard => Refusal::UnknownBroker(id),
        })?);
    }
    match expected {
        Some(expected) if expected != found => Err(Refusal::ReplicasDiffer { found, expected }),
        _ => Ok(replicas),
    }
}

fn place_manually(
    brokers: &Brokers,
    topic: &CreatableTopic,
    placement: &mut Placement,
) -> Result<Vec<Vec<Replica>>, Refusal> {
    if topic.replication_factor != -1 {
        return Err(Refusal::AssignmentAndReplicationFactor);
    }
    if topic.num_partitions != DEFAULT {
        return Err(Refusal::AssignmentAndPartitions);
    }
    if topic.assignments.len() > PARTITIONS_PER_TOPIC_MAX as usize {
        return Err(Refusal::TooManyPartitions(topic.assignments.len() as i64));
    }
    let mut by_index: BTreeMap<i32, &CreatableReplicaAssignment> = BTreeMap::new();
    for assignment in &topic.assignments {
        if by_index.insert(assignment.partition_index, assignment).is_some() {
            return Err(Refusal::AssignedTwice(assignment.partition_index));
        }
    }
    if (0..).zip(by_index.keys()).any(|(expected, &index)| expected != index) {
        return Err(Refusal::AssignmentGap);
    }
    let mut partitions: Vec<Vec<Replica>> = Vec::with_capacity(by_index.len());
    for assignment in by_index.values() {
        let expected = partitions.first().map(Vec::len);
        partitions.push(place_on_brokers(brokers, placement, assignment.broker_ids.iter(), expected)?);
    }
    Ok(partitions)
}

/// The overrides of a new topic, as they are stored. A later value of the same name wins.
fn overrides(configs: &[CreatableTopicConfig]) -> Result<BTreeMap<&str, String>, Refusal> {
    let nulls: Vec<&str> =
        configs.iter().filter(|config| config.value.is_none()).map(|config| config.name.as_str()).collect();
    if !nulls.is_empty() {
        return Err(Refusal::NullConfigs(nulls.join(",")));
    }
    let value = |config: &CreatableTopicConfig| config.value.as_ref().map(|value| value.trim().to_owned());
    Ok(configs.iter().filter_map(|config| Some((config.name.as_str(), value(config)?))).collect())
}

fn records(
    topic: TopicId,
    name: &str,
    partitions: Vec<PartitionState>,
    overrides: BTreeMap<&str, String>,
) -> Vec<Record> {
    let mut records = Vec::with_capacity(1 + overrides.len() + partitions.len());
    records.push(Record::TopicCreated { topic, name: name.to_owned() });
    records.extend(overrides.into_iter().map(|(key, value)| Record::TopicConfigSet {
        topic,
        key: key.to_owned(),
        value: Some(value),
    }));
    records.extend(partitions.into_iter().enumerate().map(|(index, state)| {
        let id = TopicPartition { topic, partition: partition_index(index) };
        Record::PartitionCreated { id, state }
    }));
    records
}

/// Led by the first of its replicas that may; everybody who may is in sync.
pub(super) fn new_partition(
    members: &Members,
    index: usize,
    replicas: Vec<Replica>,
) -> Result<PartitionState, Refusal> {
    let nodes = replicas.iter().map(|replica| replica.node).collect();
    // Nobody is eligible yet: the minimum means nothing.
    let leadership = Leadership::new(nodes, Rules { members, in_sync_min: 1, offline: &[] });
    match leadership.leader {
        Some(_) => Ok(PartitionState::created(replicas, &leadership)),
        None => Err(Refusal::AssignedToNobodyActive(index)),
    }
}

fn created(
    controller: &Controller<'_>,
    topic: &CreatableTopic,
    id: TopicId,
    partitions: &[Vec<Replica>],
    config: &TopicConfig,
    overrides: &BTreeMap<&str, String>,
) -> CreatableTopicResult {
    let configs = PROPERTIES.iter().map(|property| {
        let overridden = overrides.contains_key(property.name);
        let source = ConfigSource::of(property, controller.defaults, overridden);
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(property.name))
            .with_value(Some(StrBytes::from_string(property.show(config))))
            .with_config_source(source as i8)
    });
    CreatableTopicResult::default()
        .with_name(topic.name.clone())
        .with_topic_id(id.0)
        .with_num_partitions(partitions.len() as i32)
        .with_replication_factor(partitions.first().map_or(0, Vec::len) as i16)
        .with_configs(Some(configs.collect()))
}

fn refused(topic: &CreatableTopic, refusal: &Refusal) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(topic.name.clone())
        .with_error_code(refusal.code().code())
        .with_error_message(refusal.message())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::codec::error_code::ErrorCode;
    use crate::config::Routing;
    use bytes::BytesMut;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::protocol::{Decodable, Encodable};

    fn topic(name: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
        CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_num_partitions(partitions)
            .with_replication_factor(replication_factor)
    }

    fn with_config(topic: CreatableTopic, name: &str, value: Option<&str>) -> CreatableTopic {
        let config = CreatableTopicConfig::default()
            .with_name(StrBytes::from_string(name.to_owned()))
            .with_value(value.map(|value| StrBytes::from_string(value.to_owned())));
        topic.with_configs(vec![config])
    }

    fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
        let assignments = assignments.iter().map(|&(index, brokers)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index)
                .with_broker_ids(brokers.iter().map(|&id| id.into()).collect())
        });
        topic(name, -1, -1).with_assignments(assignments.collect())
    }

    fn request(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
        CreateTopicsRequest::default().with_topics(topics)
    }

    fn create(cluster: &mut Cluster, topics: Vec<CreatableTopic>) -> CreateTopicsResponse {
        cluster.decide(|controller, new_id| decide_create_topics(controller, &request(topics), new_id)).1
    }

    /// The error and its text when this topic alone is created; nothing may have been recorded.
    fn refusal(cluster: &mut Cluster, topic: CreatableTopic) -> (Option<ErrorCode>, String) {
        let before = cluster.image.clone();
        let response = create(cluster, vec![topic]);
        assert_eq!(cluster.image, before);
        let result = &response.topics[0];
        let message = result.error_message.as_ref().map(|text| text.to_string()).unwrap_or_default();
        (ErrorCode::from_wire(result.error_code), message)
    }

    #[test]
    fn topic_is_created_with_its_partitions_on_the_least_loaded_shards() {
        let mut cluster = Cluster::new(2, Routing::Node);
        let response = create(&mut cluster, vec![topic("orders", 4, 1), topic("defaults", -1, -1)]);
        assert!(response.topics.iter().all(|result| result.error_code == 0));
        let orders = cluster.image.topic_named("orders").expect("created");
        assert_eq!(response.topics[0].topic_id, orders.id.0);
        assert_eq!(response.topics[0].num_partitions, 4);
        assert_eq!(response.topics[0].replication_factor, 1);
        let owners: Vec<u16> = orders.partitions.iter().map(|state| state.replicas[0].owner.0).collect();
        assert_eq!(owners, [0, 1, 0, 1]);
        assert_eq!(cluster.image.topic_named("defaults").map(|topic| topic.partitions.len()), Some(1));
    }

    #[test]
    fn names_are_checked() {
        let mut cluster = Cluster::new(1, Routing::Node);
        create(&mut cluster, vec![topic("a.b", 1, 1)]);
        let (code, _) = refusal(&mut cluster, topic("no/slash", 1, 1));
        assert_eq!(code, Some(ErrorCode::InvalidTopicException));
        let (code, message) = refusal(&mut cluster, topic("a_b", 1, 1));
        assert_eq!(code, Some(ErrorCode::InvalidTopicException));
        assert_eq!(message, "Topic 'a_b' collides with existing topic: a.b");
        let (code, message) = refusal(&mut cluster, topic("a.b", 1, 1));
        assert_eq!(code, Some(ErrorCode::TopicAlreadyExists));
        assert_eq!(message, "Topic 'a.b' already exists.");
        let (code, _) = refusal(&mut cluster, topic("__cluster_metadata", 1, 1));
        assert_eq!(code, Some(ErrorCode::InvalidRequest));
    }

    #[test]
    fn one_refused_topic_does_not_stop_the_others() {
        let mut cluster = Cluster::new(2, Routing::Node);
        let topics = vec![topic("x.y", 1, 1), topic("x_y", 1, 1), topic("z", 0, 1), topic("ok", 1, 1)];
        let response = create(&mut cluster, topics);
        let codes: Vec<i16> = response.topics.iter().map(|result| result.error_code).collect();
        let invalid = ErrorCode::InvalidTopicException.code();
        assert_eq!(codes, [0, invalid, ErrorCode::InvalidPartitions.code(), 0]);
        assert_eq!(
            cluster.image.topics().map(|topic| topic.name.as_str()).collect::<Vec<_>>(),
            ["ok", "x.y"]
        );
    }

    #[test]
    fn name_that_occurs_twice_is_refused_once() {
        let mut cluster = Cluster::new(1, Routing::Node);
        let response = create(&mut cluster, vec![topic("a", 1, 1), topic("b", 1, 1), topic("a", 2, 1)]);
        let results: Vec<_> =
            response.topics.iter().map(|result| (result.name.to_string(), result.error_code)).collect();
        assert_eq!(results, [("a".into(), ErrorCode::InvalidRequest.code()), ("b".into(), 0)]);
        assert!(cluster.image.topic_named("a").is_none());
    }

    #[test]
    fn counts_outside_their_range_are_refused() {
        let mut cluster = Cluster::new(1, Routing::Node);
        let code = |cluster: &mut Cluster, topic| refusal(cluster, topic).0.expect("an error");
        assert_eq!(code(&mut cluster, topic("a", 0, 1)), ErrorCode::InvalidPartitions);
        assert_eq!(code(&mut cluster, topic("a", -2, 1)), ErrorCode::InvalidPartitions);
        assert_eq!(code(&mut cluster, topic("a", i32::MAX, 1)), ErrorCode::InvalidPartitions);
        assert_eq!(code(&mut cluster, topic("a", 1, 0)), ErrorCode::InvalidReplicationFactor);
        let (code, message) = refusal(&mut cluster, topic("a", 1, 3));
        assert_eq!(code, Some(ErrorCode::InvalidReplicationFactor));
        assert!(message.contains("only 1 broker(s) are registered"), "{message}");
    }

    #[test]
    fn configurations_are_validated_and_stored() {
        let mut cluster = Cluster::new(1, Routing::Node);
        let (code, message) = refusal(&mut cluster, with_config(topic("a", 1, 1), "retention.ms", Some("x")));
        assert_eq!(code, Some(ErrorCode::InvalidConfig));
        assert_eq!(message, "Invalid value x for configuration retention.ms: Not a number of type LONG");
        let (code, _) = refusal(&mut cluster, with_config(topic("a", 1, 1), "cleanup.policy", Some("keep")));
        assert_eq!(code, Some(ErrorCode::InvalidConfig));
        let (code, _) = refusal(&mut cluster, with_config(topic("a", 1, 1), "retention.ms", None));
        assert_eq!(code, Some(ErrorCode::InvalidConfig));

        let response =
            create(&mut cluster, vec![with_config(topic("a", 1, 1), "retention.ms", Some(" 1000 "))]);
        let stored = &cluster.image.topic_named("a").expect("created").config;
        assert_eq!(stored.get("retention.ms").map(String::as_str), Some("1000"));
        let configs = response.topics[0].configs.as_ref().expect("described");
        let retention = configs.iter().find(|config| config.name.as_str() == "retention.ms").expect("listed");
        assert_eq!(retention.config_source, ConfigSource::DynamicTopic as i8);
        assert_eq!(configs.len(), PROPERTIES.len());
    }

    #[test]
    fn validate_only_records_nothing() {
        let mut cluster = Cluster::new(1, Routing::Node);
        let request = request(vec![topic("a", 1, 1)]).with_validate_only(true);
        let (records, response) =
            cluster.decide(|controller, new_id| decide_create_topics(controller, &request, new_id));
        assert_eq!(records, []);
        assert_eq!(response.topics[0].error_code, 0);
    }

    #[test]
    fn manual_assignment_picks_the_core_under_core_routing() {
        let mut cluster = Cluster::new(3, Routing::Core);
        create(&mut cluster, vec![assigned("a", &[(1, &[1002]), (0, &[1001])])]);
        let topic = cluster.image.topic_named("a").expect("created");
        let owners: Vec<u16> = topic.partitions.iter().map(|state| state.replicas[0].owner.0).collect();
        assert_eq!(owners, [1, 2]);
    }

    #[test]
    fn manual_assignments_are_checked() {
        let mut cluster = Cluster::new(2, Routing::Core);
        let invalid = Some(ErrorCode::InvalidReplicaAssignment);
        for assignments in [
            &[(0, [1000].as_slice()), (0, &[1001])][..],
            &[(1, &[1000])],
            &[(0, &[])],
            &[(0, &[7])],
            &[(0, &[1000, 1000])],
            &[(0, &[1000, 1001])],
            &[(-1, &[1000])],
        ] {
            assert_eq!(refusal(&mut cluster, assigned("a", assignments)).0, invalid, "{assignments:?}");
        }
        let both = assigned("a", &[(0, &[1000])]).with_num_partitions(1);
        assert_eq!(refusal(&mut cluster, both).0, Some(ErrorCode::InvalidRequest));
        let both = assigned("a", &[(0, &[1000])]).with_replication_factor(1);
        assert_eq!(refusal(&mut cluster, both).0, Some(ErrorCode::InvalidRequest));
    }

    #[test]
    fn request_larger_than_an_entry_is_refused_topic_by_topic() {
        let mut cluster = Cluster::new(2, Routing::Node);
        let most = PARTITIONS_PER_TOPIC_MAX as i32;
        let response =
            create(&mut cluster, vec![topic("a", most, 1), topic("b", most, 1), topic("c", most, 1)]);
        let codes: Vec<i16> = response.topics.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, 0, ErrorCode::PolicyViolation.code()]);
        assert_eq!(cluster.image.partition_count(), 2 * most as usize);
    }

    #[test]
    fn response_encodes_in_every_version() {
        let mut cluster = Cluster::new(1, Routing::Node);
        let response = create(&mut cluster, vec![topic("a", 1, 1), topic("b", 0, 1)]);
        for version in 2..=7 {
            let mut bytes = BytesMut::new();
            response.encode(&mut bytes, version).expect("encodes");
            let decoded = CreateTopicsResponse::decode(&mut bytes.freeze(), version).expect("decodes");
            assert_eq!(decoded.topics.len(), 2, "version {version}");
        }
    }
}
