//! The metadata image: the state that the metadata log adds up to.
//!
//! Every shard holds a copy and applies the same records in the same order; maps are ordered, so
//! copies are equal and runs replay. [`Image::apply`] is the only mutator. What can be derived in
//! one look (brokers, resolved configurations) is not stored here.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::leadership::{Member, Members};
use super::record::{ConfigResource, FEATURE_LEVEL, Node, PartitionState, ProducerIdBlock, Record};
use super::topic_name;
use crate::config::quota::QuotaTable;
use crate::config::topic::{InvalidConfig, TopicConfig, TopicDefaults};
use crate::types::{
    BrokerEpoch, DirectoryId, NodeId, PartitionIndex, ShardId, TopicId, TopicPartition, Uuid,
};

/// Lives: one per shard.
/// Invariant: `names` and `topics` name the same topics; `loads` and `directory_loads` count
/// exactly their replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    cluster_id: Option<Uuid>,
    feature_level: u16,
    nodes: BTreeMap<NodeId, Node>,
    /// Of those that are none any more, the one with the highest epoch.
    unregistered: Option<(NodeId, BrokerEpoch)>,
    topics: BTreeMap<TopicId, Topic>,
    names: BTreeMap<String, TopicId>,
    /// Names that contain '.' or '_', by `topic_name::collision_key`.
    collisions: BTreeMap<String, TopicId>,
    producer_ids: Option<(NodeId, ProducerIdBlock)>,
    /// Settings that are no topic's; no entry means none.
    configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    quotas: QuotaTable,
    /// Replicas owned by each shard; no entry means none.
    loads: BTreeMap<(NodeId, ShardId), u32>,
    /// Replicas in each log directory that some are stated to be in; no entry means none.
    directory_loads: BTreeMap<(NodeId, DirectoryId), u32>,
    partition_count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    /// By partition index, without gaps.
    pub partitions: Vec<PartitionState>,
    /// Overrides only, by Kafka's property name; `config::topic` resolves them.
    pub config: BTreeMap<String, String>,
}

/// Why a record does not fit the image it is applied to. The log that holds it was not written
/// by a controller with this image: the node must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inapplicable {
    #[error("the cluster was created before, as {0}")]
    ClusterCreatedTwice(Uuid),
    #[error("feature level {found} is above {FEATURE_LEVEL}, the newest this build knows")]
    FeatureLevel { found: u16 },
    #[error("topic {0:?} exists")]
    TopicExists(TopicId),
    #[error("a topic is named {0}")]
    NameTaken(String),
    #[error("topic {0:?} does not exist")]
    UnknownTopic(TopicId),
    #[error("partition {id:?} created where partition {expected} comes next")]
    PartitionOutOfOrder { id: TopicPartition, expected: usize },
    #[error("partition {0:?} does not exist")]
    UnknownPartition(TopicPartition),
    #[error("partition {0:?} goes back in leader, partition or ownership epoch")]
    EpochGoesBack(TopicPartition),
    #[error("partition {0:?} has other replicas under the same partition epoch")]
    OtherReplicas(TopicPartition),
    #[error("node {node:?} registers under epoch {epoch:?}, which is not new")]
    BrokerEpochGoesBack { node: NodeId, epoch: BrokerEpoch },
    #[error("producer ids from {first} were given out below {next}")]
    ProducerIdsTwice { first: i64, next: i64 },
}

impl Image {
    /// The image that the records add up to.
    pub fn rebuild<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Image, Inapplicable> {
        let mut image = Image::default();
        records.into_iter().try_for_each(|record| image.apply(record))?;
        Ok(image)
    }

    pub fn cluster_id(&self) -> Option<Uuid> {
        self.cluster_id
    }

    /// 0 until the cluster is formed.
    pub fn feature_level(&self) -> u16 {
        self.feature_level
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// Higher than that of any registration there was.
    pub fn next_broker_epoch(&self) -> BrokerEpoch {
        let registered = self.nodes.values().map(|node| node.broker_epoch);
        let last = registered.chain(self.unregistered.map(|(_, epoch)| epoch)).max();
        BrokerEpoch(last.map_or(0, |epoch| epoch.0) + 1)
    }

    /// The nodes as decisions about partitions look at them.
    pub fn members(&self) -> Members {
        let member = |node: &Node| Member {
            broker_epoch: node.broker_epoch,
            is_fenced: node.is_fenced,
            is_shutting_down: node.is_shutting_down,
        };
        Members(self.nodes.values().map(|node| (node.id, member(node))).collect())
    }

    pub fn topic(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id)
    }

    pub fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.names.get(name).copied()
    }

    pub fn topic_named(&self, name: &str) -> Option<&Topic> {
        self.names.get(name).map(|id| &self.topics[id])
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.names.values().map(|id| &self.topics[id])
    }

    /// Those behind a name.
    pub fn topics_after(&self, after: Option<&str>) -> impl Iterator<Item = &Topic> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.names.range::<str, _>((from, Bound::Unbounded)).map(|(_, id)| &self.topics[id])
    }

    /// The topic whose name differs from `name` only in '.' and '_', or is the same.
    pub fn topic_colliding(&self, name: &str) -> Option<&Topic> {
        self.collisions.get(&topic_name::collision_key(name)?).map(|id| &self.topics[id])
    }

    pub fn partition(&self, id: TopicPartition) -> Option<&PartitionState> {
        self.topics.get(&id.topic)?.partitions.get(id.partition.index())
    }

    /// Every partition, by topic id and index.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &PartitionState)> {
        self.topics.values().flat_map(Topic::partitions)
    }

    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// Replicas that a shard owns.
    pub fn load(&self, node: NodeId, shard: ShardId) -> u32 {
        self.loads.get(&(node, shard)).copied().unwrap_or(0)
    }

    /// The nodes whose replica of a partition is in a log directory that cannot be used.
    pub fn offline_replicas(&self, state: &PartitionState) -> Vec<NodeId> {
        state.offline_replicas(|node| self.node(node))
    }

    /// Replicas that are stated to be in a log directory.
    pub fn directory_load(&self, node: NodeId, directory: DirectoryId) -> u32 {
        self.directory_loads.get(&(node, directory)).copied().unwrap_or(0)
    }

    /// The log directories of a node that partitions are stated to be in, and how many.
    pub fn directory_loads(&self, node: NodeId) -> impl Iterator<Item = (DirectoryId, u32)> {
        let all = self.directory_loads.iter().filter(move |((of, _), _)| *of == node);
        all.map(|((_, directory), load)| (*directory, *load))
    }

    /// The lowest producer id that no block holds.
    pub fn next_producer_id(&self) -> i64 {
        self.producer_ids.map_or(0, |(_, block)| block.end())
    }

    /// What was set of a resource at run time, by Kafka's name.
    pub fn settings(&self, resource: &ConfigResource) -> Option<&BTreeMap<String, String>> {
        self.configs.get(resource)
    }

    /// The subscriptions to clients' metrics, by name.
    pub fn subscriptions(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>)> {
        self.configs.iter().filter_map(|(resource, settings)| match resource {
            ConfigResource::ClientMetrics(name) => Some((name.as_str(), settings)),
            ConfigResource::Brokers | ConfigResource::Node(_) | ConfigResource::Group(_) => None,
        })
    }

    /// The groups that have settings of their own.
    pub fn group_configs(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>)> {
        // Groups are ordered behind all else.
        let groups = self.configs.range(ConfigResource::Group(String::new())..);
        groups.filter_map(|(resource, settings)| match resource {
            ConfigResource::Group(name) => Some((name.as_str(), settings)),
            ConfigResource::Brokers | ConfigResource::Node(_) | ConfigResource::ClientMetrics(_) => None,
        })
    }

    pub fn quotas(&self) -> &QuotaTable {
        &self.quotas
    }

    /// Takes one record. On an error the image is as it was.
    ///
    /// Shape: O(log topics), but O(partitions of the topic) for `TopicDeleted`.
    pub fn apply(&mut self, record: &Record) -> Result<(), Inapplicable> {
        match record {
            Record::ClusterCreated { cluster_id } => self.create_cluster(*cluster_id),
            Record::FeatureLevelSet { level } => self.set_feature_level(*level),
            Record::NodeRegistered(node) => self.register(node),
            Record::NodeUnregistered { node, broker_epoch } => {
                self.unregister(*node, *broker_epoch);
                Ok(())
            }
            Record::TopicCreated { topic, name } => self.create_topic(*topic, name),
            Record::TopicDeleted { topic } => self.delete_topic(*topic),
            Record::PartitionCreated { id, state } => self.create_partition(*id, state),
            Record::PartitionChanged { id, state } => self.change_partition(*id, state),
            Record::TopicConfigSet { topic, key, value } => self.set_config(*topic, key, value.as_deref()),
            Record::ProducerIdsAllocated { node, block } => self.allocate_producer_ids(*node, *block),
            Record::ConfigSet { resource, key, value } => {
                self.set_resource_config(resource, key, value.as_deref());
                Ok(())
            }
            Record::ClientQuotaSet { entity, kind, limit } => {
                self.quotas.set(entity, *kind, *limit);
                Ok(())
            }
        }
    }

    /// Records that rebuild this image: what a compacted metadata log starts with.
    ///
    /// More than one entry may be needed: `quorum::frame::encode_parts`.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records =
            Vec::with_capacity(self.partition_count + 2 * self.topics.len() + self.nodes.len() + 3);
        records.extend(self.cluster_id.map(|cluster_id| Record::ClusterCreated { cluster_id }));
        if self.feature_level > 0 {
            records.push(Record::FeatureLevelSet { level: self.feature_level });
        }
        records.extend(self.nodes.values().cloned().map(Record::NodeRegistered));
        // Behind the nodes, which may have registered before.
        let unregistered = |(node, broker_epoch)| Record::NodeUnregistered { node, broker_epoch };
        records.extend(self.unregistered.map(unregistered));
        records.extend(self.producer_ids.map(|(node, block)| Record::ProducerIdsAllocated { node, block }));
        for (resource, settings) in &self.configs {
            records.extend(settings.iter().map(|(key, value)| Record::ConfigSet {
                resource: resource.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            }));
        }
        for (entity, limits) in self.quotas.iter() {
            records.extend(limits.iter().map(|(kind, limit)| Record::ClientQuotaSet {
                entity: entity.clone(),
                kind: *kind,
                limit: Some(*limit),
            }));
        }
        for topic in self.topics.values() {
            records.push(Record::TopicCreated { topic: topic.id, name: topic.name.clone() });
            records.extend(topic.config.iter().map(|(key, value)| Record::TopicConfigSet {
                topic: topic.id,
                key: key.clone(),
                value: Some(value.clone()),
            }));
            let created =
                |(id, state): (_, &PartitionState)| Record::PartitionCreated { id, state: state.clone() };
            records.extend(topic.partitions().map(created));
        }
        records
    }

    fn create_cluster(&mut self, cluster_id: Uuid) -> Result<(), Inapplicable> {
        match self.cluster_id {
            Some(before) => Err(Inapplicable::ClusterCreatedTwice(before)),
            None => {
                self.cluster_id = Some(cluster_id);
                Ok(())
            }
        }
    }

    fn set_feature_level(&mut self, level: u16) -> Result<(), Inapplicable> {
        if level > FEATURE_LEVEL {
            return Err(Inapplicable::FeatureLevel { found: level });
        }
        self.feature_level = level;
        Ok(())
    }

    /// A registration under a new epoch, or what has changed of one.
    fn register(&mut self, node: &Node) -> Result<(), Inapplicable> {
        let current = self.nodes.get(&node.id).map(|node| node.broker_epoch);
        let last = current.max(self.unregistered.map(|(_, epoch)| epoch));
        if current != Some(node.broker_epoch) && last.is_some_and(|last| node.broker_epoch <= last) {
            return Err(Inapplicable::BrokerEpochGoesBack { node: node.id, epoch: node.broker_epoch });
        }
        self.nodes.insert(node.id, node.clone());
        Ok(())
    }

    fn unregister(&mut self, node: NodeId, epoch: BrokerEpoch) {
        if self.nodes.get(&node).is_some_and(|registered| registered.broker_epoch <= epoch) {
            self.nodes.remove(&node);
        }
        if self.unregistered.is_none_or(|(_, before)| before < epoch) {
            self.unregistered = Some((node, epoch));
        }
    }

    fn create_topic(&mut self, id: TopicId, name: &str) -> Result<(), Inapplicable> {
        if self.topics.contains_key(&id) {
            return Err(Inapplicable::TopicExists(id));
        }
        if self.names.contains_key(name) {
            return Err(Inapplicable::NameTaken(name.to_owned()));
        }
        self.names.insert(name.to_owned(), id);
        if let Some(key) = topic_name::collision_key(name) {
            self.collisions.insert(key, id);
        }
        let topic = Topic { id, name: name.to_owned(), partitions: Vec::new(), config: BTreeMap::new() };
        self.topics.insert(id, topic);
        Ok(())
    }

    fn delete_topic(&mut self, id: TopicId) -> Result<(), Inapplicable> {
        let topic = self.topics.remove(&id).ok_or(Inapplicable::UnknownTopic(id))?;
        self.names.remove(&topic.name);
        if let Some(key) = topic_name::collision_key(&topic.name)
            && self.collisions.get(&key) == Some(&id)
        {
            self.collisions.remove(&key);
        }
        self.partition_count -= topic.partitions.len();
        topic.partitions.iter().for_each(|state| self.uncount(state));
        Ok(())
    }

    fn create_partition(&mut self, id: TopicPartition, state: &PartitionState) -> Result<(), Inapplicable> {
        let topic = self.topics.get_mut(&id.topic).ok_or(Inapplicable::UnknownTopic(id.topic))?;
        let expected = topic.partitions.len();
        if id.partition.index() != expected {
            return Err(Inapplicable::PartitionOutOfOrder { id, expected });
        }
        topic.partitions.push(state.clone());
        self.partition_count += 1;
        self.count(state);
        Ok(())
    }

    fn change_partition(&mut self, id: TopicPartition, state: &PartitionState) -> Result<(), Inapplicable> {
        let topic = self.topics.get_mut(&id.topic).ok_or(Inapplicable::UnknownTopic(id.topic))?;
        let current =
            topic.partitions.get_mut(id.partition.index()).ok_or(Inapplicable::UnknownPartition(id))?;
        let ownership_goes_back = current.replicas.iter().any(|before| {
            state.replica_on(before.node).is_some_and(|after| after.ownership_epoch < before.ownership_epoch)
        });
        if state.leader_epoch < current.leader_epoch
            || state.partition_epoch < current.partition_epoch
            || ownership_goes_back
        {
            return Err(Inapplicable::EpochGoesBack(id));
        }
        if state.partition_epoch == current.partition_epoch && !is_on_same_nodes(state, current) {
            return Err(Inapplicable::OtherReplicas(id));
        }
        let before = std::mem::replace(current, state.clone());
        self.uncount(&before);
        self.count(state);
        Ok(())
    }

    fn set_config(&mut self, id: TopicId, key: &str, value: Option<&str>) -> Result<(), Inapplicable> {
        let topic = self.topics.get_mut(&id).ok_or(Inapplicable::UnknownTopic(id))?;
        match value {
            Some(value) => topic.config.insert(key.to_owned(), value.to_owned()),
            None => topic.config.remove(key),
        };
        Ok(())
    }

    fn set_resource_config(&mut self, resource: &ConfigResource, key: &str, value: Option<&str>) {
        let settings = self.configs.entry(resource.clone()).or_default();
        match value {
            Some(value) => settings.insert(key.to_owned(), value.to_owned()),
            None => settings.remove(key),
        };
        if settings.is_empty() {
            self.configs.remove(resource);
        }
    }

    fn allocate_producer_ids(&mut self, node: NodeId, block: ProducerIdBlock) -> Result<(), Inapplicable> {
        let next = self.next_producer_id();
        if block.first < next {
            return Err(Inapplicable::ProducerIdsTwice { first: block.first, next });
        }
        self.producer_ids = Some((node, block));
        Ok(())
    }

    fn count(&mut self, state: &PartitionState) {
        for replica in &state.replicas {
            *self.loads.entry((replica.node, replica.owner)).or_insert(0) += 1;
            if let Some(directory) = replica.directory {
                *self.directory_loads.entry((replica.node, directory)).or_insert(0) += 1;
            }
        }
    }

    fn uncount(&mut self, state: &PartitionState) {
        for replica in &state.replicas {
            subtract_one(&mut self.loads, (replica.node, replica.owner));
            if let Some(directory) = replica.directory {
                subtract_one(&mut self.directory_loads, (replica.node, directory));
            }
        }
    }
}

fn is_on_same_nodes(a: &PartitionState, b: &PartitionState) -> bool {
    let has_all =
        |of: &PartitionState| b.replicas.iter().all(|replica| of.replica_on(replica.node).is_some());
    a.replicas.len() == b.replicas.len() && has_all(a)
}

/// No load is no entry.
fn subtract_one<K: Ord>(loads: &mut BTreeMap<K, u32>, key: K) {
    let load = loads.get_mut(&key).expect("every replica of the image was counted");
    *load -= 1;
    if *load == 0 {
        loads.remove(&key);
    }
}

impl Topic {
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = (TopicPartition, &PartitionState)> {
        let id = |index| TopicPartition { topic: self.id, partition: partition_index(index) };
        self.partitions.iter().enumerate().map(move |(index, state)| (id(index), state))
    }

    /// The broker's defaults with this topic's overrides on top.
    pub fn resolve_config(&self, defaults: &TopicDefaults) -> Result<TopicConfig, InvalidConfig> {
        self.resolve_config_for(defaults, self.replication_factor())
    }

    /// The same for a partition of so many replicas.
    pub fn resolve_config_for(
        &self,
        defaults: &TopicDefaults,
        replicas: u16,
    ) -> Result<TopicConfig, InvalidConfig> {
        let overrides = self.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        TopicConfig::resolve(defaults, replicas, overrides)
    }

    /// Of its first partition; a topic's partitions are created with as many replicas each. While replicas move, as
    /// before: those that come do not count before they are in sync.
    pub fn replication_factor(&self) -> u16 {
        let count = |state: &PartitionState| (state.replicas.len() - state.adding.len()) as u16;
        self.partitions.first().map_or(0, count)
    }
}

/// The index of a partition that is in, or is being added to, a topic's list.
pub(super) fn partition_index(index: usize) -> PartitionIndex {
    i32::try_from(index).ok().and_then(PartitionIndex::from_wire).expect("partitions of a topic fit an i32")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cluster::record::Replica;
    use crate::config::Routing;
    use crate::config::quota::{EntityName, QuotaEntity, QuotaKind, QuotaLimit};
    use crate::types::{LeaderEpoch, OwnershipEpoch, PartitionEpoch};
    use proptest::prelude::*;

    pub fn node(id: i32, cores: u16, routing: Routing) -> Node {
        Node {
            id: NodeId(id),
            cores,
            routing,
            host: "broker.example".to_owned(),
            port: 9092,
            rack: None,
            log_directories: Vec::new(),
            peer: None,
            broker_epoch: BrokerEpoch(0),
            incarnation: Uuid::nil(),
            is_fenced: false,
            is_shutting_down: false,
            feature_level_max: FEATURE_LEVEL,
        }
    }

    pub fn replica(node: i32, shard: u16) -> Replica {
        Replica {
            node: NodeId(node),
            owner: ShardId(shard),
            ownership_epoch: OwnershipEpoch(0),
            directory: None,
        }
    }

    pub fn topic_id(number: u128) -> TopicId {
        TopicId(Uuid::from_u128(number))
    }

    pub fn partition_id(topic: u128, index: usize) -> TopicPartition {
        TopicPartition { topic: topic_id(topic), partition: partition_index(index) }
    }

    /// A formed cluster of these nodes.
    pub fn image_of(nodes: &[Node]) -> Image {
        let mut image = Image::default();
        let mut take = |record| image.apply(&record).expect("fits an empty image");
        take(Record::ClusterCreated { cluster_id: Uuid::from_u128(0xC) });
        take(Record::FeatureLevelSet { level: FEATURE_LEVEL });
        nodes.iter().cloned().map(Record::NodeRegistered).for_each(take);
        image
    }

    /// Adds a topic with one partition per owner shard, all on node 1.
    pub fn add_topic(image: &mut Image, number: u128, name: &str, owners: &[u16]) {
        let created = Record::TopicCreated { topic: topic_id(number), name: name.to_owned() };
        image.apply(&created).expect("a new topic");
        for (index, &shard) in owners.iter().enumerate() {
            let state = PartitionState::new(vec![replica(1, shard)]);
            let created = Record::PartitionCreated { id: partition_id(number, index), state };
            image.apply(&created).expect("the next partition");
        }
    }

    #[test]
    fn topics_are_found_by_name_and_by_id_until_deleted() {
        let mut image = image_of(&[node(1, 2, Routing::Node)]);
        add_topic(&mut image, 7, "orders", &[0, 1, 0]);
        assert_eq!(image.topic_named("orders").map(|topic| topic.id), Some(topic_id(7)));
        assert_eq!(image.topic(topic_id(7)).map(|topic| topic.partitions.len()), Some(3));
        assert_eq!(image.load(NodeId(1), ShardId(0)), 2);
        image.apply(&Record::TopicDeleted { topic: topic_id(7) }).expect("it exists");
        assert_eq!(image, image_of(&[node(1, 2, Routing::Node)]));
    }

    #[test]
    fn epochs_of_registrations_go_up_and_are_never_given_out_again() {
        let mut image = image_of(&[node(1, 1, Routing::Node), node(2, 1, Routing::Node)]);
        assert_eq!(image.next_broker_epoch(), BrokerEpoch(1));
        let under = |id, epoch| {
            let broker_epoch = BrokerEpoch(epoch);
            Record::NodeRegistered(Node { broker_epoch, ..node(id, 1, Routing::Node) })
        };
        let registered = under(2, 7);
        image.apply(&registered).expect("it is new");
        image.apply(&registered).expect("what has changed of it");
        assert_eq!(image.next_broker_epoch(), BrokerEpoch(8));
        let gone = Record::NodeUnregistered { node: NodeId(2), broker_epoch: BrokerEpoch(7) };
        image.apply(&gone).expect("it is there");
        assert_eq!(image.node(NodeId(2)), None);
        image = Image::rebuild(&image.snapshot()).expect("a snapshot applies");
        assert_eq!(image.next_broker_epoch(), BrokerEpoch(8));
        let late = Inapplicable::BrokerEpochGoesBack { node: NodeId(2), epoch: BrokerEpoch(7) };
        assert_eq!(image.apply(&registered), Err(late));
        image.apply(&under(2, 8)).expect("it is new");
        image.apply(&gone).expect("it comes late");
        assert!(image.node(NodeId(2)).is_some(), "it has registered again since");
    }

    #[test]
    fn refused_record_changes_nothing() {
        let mut image = image_of(&[node(1, 2, Routing::Node)]);
        add_topic(&mut image, 7, "orders", &[0]);
        let before = image.clone();
        let gone = Record::NodeUnregistered { node: NodeId(2), broker_epoch: BrokerEpoch(0) };
        image.apply(&gone).expect("whether it was there or not");
        let state = PartitionState::new(vec![replica(1, 0)]);
        let mut stale = state.clone();
        stale.leader_epoch = LeaderEpoch(3);
        stale.partition_epoch = PartitionEpoch(3);
        let moved = PartitionState { replicas: vec![replica(2, 0)], ..stale.clone() };
        image.apply(&Record::PartitionChanged { id: partition_id(7, 0), state: stale }).expect("newer");
        let newer = image.clone();
        let refused = [
            Record::ClusterCreated { cluster_id: Uuid::nil() },
            Record::FeatureLevelSet { level: FEATURE_LEVEL + 1 },
            Record::TopicCreated { topic: topic_id(7), name: "other".to_owned() },
            Record::TopicCreated { topic: topic_id(8), name: "orders".to_owned() },
            Record::TopicDeleted { topic: topic_id(8) },
            Record::PartitionCreated { id: partition_id(7, 2), state: state.clone() },
            Record::PartitionCreated { id: partition_id(8, 0), state: state.clone() },
            Record::PartitionChanged { id: partition_id(7, 1), state: state.clone() },
            Record::PartitionChanged { id: partition_id(7, 0), state },
            Record::PartitionChanged { id: partition_id(7, 0), state: moved },
            Record::TopicConfigSet { topic: topic_id(8), key: "a".to_owned(), value: None },
            Record::NodeRegistered(node(2, 1, Routing::Node)),
        ];
        for record in refused {
            assert!(image.apply(&record).is_err(), "{record:?}");
            assert_eq!(image, newer, "{record:?}");
        }
        assert_ne!(before, newer);
    }

    #[test]
    fn producer_ids_are_given_out_once() {
        let mut image = Image::default();
        let block = |first| {
            let block = ProducerIdBlock::new(first, 1000).expect("a block");
            Record::ProducerIdsAllocated { node: NodeId(1), block }
        };
        image.apply(&block(0)).expect("the first");
        assert_eq!(image.next_producer_id(), 1000);
        assert!(image.apply(&block(999)).is_err());
        image.apply(&block(1000)).expect("the next");
    }

    /// Any record over few ids, so that most of them meet.
    pub fn any_step() -> impl Strategy<Value = Record> {
        let topic = (0..4u128).prop_map(topic_id);
        let partition = (0..4u128, 0..4usize).prop_map(|(topic, index)| partition_id(topic, index));
        let state = (0..3u16, 0..3i32, 0..3u32, 1..4i32).prop_map(|(shard, epoch, ownership, nodes)| {
            let on = |node| Replica {
                ownership_epoch: OwnershipEpoch(ownership),
                directory: (shard > 0).then(|| DirectoryId(Uuid::from_u128(shard.into()))),
                ..replica(node, shard)
            };
            // On node 1, on node 2, on both, of which the second comes.
            let mut state = PartitionState::new((1..=2).filter(|node| nodes & node != 0).map(on).collect());
            state.adding = (nodes == 3).then_some(NodeId(2)).into_iter().collect();
            state.leader_epoch = LeaderEpoch(epoch);
            state.partition_epoch = PartitionEpoch(epoch);
            state
        });
        let key = proptest::sample::select(vec!["retention.ms", "segment.bytes"]).prop_map(str::to_owned);
        let name = proptest::sample::select(vec!["a", "a.b", "a_b", "c"]).prop_map(str::to_owned);
        prop_oneof![
            Just(Record::ClusterCreated { cluster_id: Uuid::from_u128(1) }),
            (0..3u16).prop_map(|level| Record::FeatureLevelSet { level }),
            (1..4i32, 1..5u16, 0..30i64).prop_map(|(id, cores, epoch)| {
                let (broker_epoch, is_fenced) = (BrokerEpoch(epoch), cores > 3);
                Record::NodeRegistered(Node { broker_epoch, is_fenced, ..node(id, cores, Routing::Core) })
            }),
            (1..4i32, 0..30i64).prop_map(|(id, epoch)| Record::NodeUnregistered {
                node: NodeId(id),
                broker_epoch: BrokerEpoch(epoch),
            }),
            (topic.clone(), name).prop_map(|(topic, name)| Record::TopicCreated { topic, name }),
            topic.clone().prop_map(|topic| Record::TopicDeleted { topic }),
            (partition.clone(), state.clone()).prop_map(|(id, state)| Record::PartitionCreated { id, state }),
            (partition, state).prop_map(|(id, state)| Record::PartitionChanged { id, state }),
            (topic, key, proptest::option::of("[0-9]{1,3}"))
                .prop_map(|(topic, key, value)| Record::TopicConfigSet { topic, key, value }),
            (0..9i64, 1..5u32).prop_map(|(first, count)| Record::ProducerIdsAllocated {
                node: NodeId(1),
                block: ProducerIdBlock { first, count },
            }),
            (0..3i32, proptest::option::of("[0-9]")).prop_map(|(node, value)| {
                let resource = match node {
                    0 => ConfigResource::Brokers,
                    2 => ConfigResource::Group("g".to_owned()),
                    node => ConfigResource::Node(NodeId(node)),
                };
                Record::ConfigSet { resource, key: "log.retention.ms".to_owned(), value }
            }),
            ("[a*]?", "[b*]", 0..3u32).prop_map(|(user, client, limit)| {
                let name = |text: &str| match text {
                    "*" => EntityName::Default,
                    text => EntityName::Named(text.to_owned()),
                };
                let user = (!user.is_empty()).then(|| name(&user));
                Record::ClientQuotaSet {
                    entity: QuotaEntity { user, client_id: Some(name(&client)) },
                    kind: QuotaKind::ConsumerByteRate,
                    limit: QuotaLimit::new(limit.into()),
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn snapshot_rebuilds_the_image(steps in proptest::collection::vec(any_step(), 0..120)) {
            let mut image = Image::default();
            for record in &steps {
                let before = image.clone();
                if image.apply(record).is_err() {
                    prop_assert_eq!(&image, &before);
                }
            }
            let mut rebuilt = Image::rebuild(&image.snapshot()).expect("a snapshot applies");
            // Which of two colliding names is remembered depends on the order of creation, and the
            // controller refuses the second.
            rebuilt.collisions.clone_from(&image.collisions);
            prop_assert_eq!(&rebuilt, &image);
            let replicas: usize = image.partitions().map(|(_, state)| state.replicas.len()).sum();
            prop_assert_eq!(image.loads.values().map(|&load| load as usize).sum::<usize>(), replicas);
            let stated = image.partitions().filter(|(_, state)| state.replicas[0].directory.is_some());
            let stated = stated.map(|(_, state)| state.replicas.len());
            let loads = (1..=2).flat_map(|node| image.directory_loads(NodeId(node)));
            prop_assert_eq!(loads.map(|(_, load)| load as usize).sum::<usize>(), stated.sum::<usize>());
            prop_assert_eq!(image.partitions().count(), image.partition_count());
        }
    }
}
