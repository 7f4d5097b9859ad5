//! Records to FlatBuffers and back.
//!
//! Decoding runs the verifier over the whole buffer before any accessor, then turns every field
//! into a type that cannot be wrong. Members of the record union that this build does not know are
//! an error, never skipped: an image that lacks a fact would answer clients wrongly.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, VerifierOptions, WIPOffset};

use super::quorum::frame::InvalidWrite;
use super::record::{
    ConfigResource, FEATURE_LEVEL, FEATURE_LEVEL_BASE, FEATURE_LEVEL_QUORUM, InvalidRecord, LogDirectory,
    Node, PartitionState, ProducerIdBlock, Record, Replica,
};
use crate::config::quota::{EntityName, QuotaEntity, QuotaKind, QuotaLimit};
use crate::config::{HostPort, Routing};
use crate::schema::metadata as fb;
use crate::types::limits::{LOG_DIRS_MAX, METADATA_RECORDS_PER_ENTRY_MAX, SHARDS_MAX};
use crate::types::{
    BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, OwnershipEpoch, PartitionEpoch, PartitionIndex, ShardId,
    TopicId, TopicPartition, Uuid,
};

/// Why the payload of a log entry is refused, its checksum being right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a metadata entry: {0}")]
    Malformed(flatbuffers::InvalidFlatbuffer),
    #[error(
        "written at feature level {written}, this build knows levels up to {FEATURE_LEVEL}: start the newer build"
    )]
    FeatureLevel { written: u16 },
    #[error(
        "record kind {kind} is unknown at feature level {written}, this build knows up to {FEATURE_LEVEL}"
    )]
    UnknownKind { kind: u8, written: u16 },
    #[error("{0} records in one entry, allowed are {METADATA_RECORDS_PER_ENTRY_MAX}")]
    TooManyRecords(usize),
    #[error("record {position}: {reason}")]
    Invalid { position: usize, reason: InvalidRecord },
    #[error("the quorum's log: {0}")]
    Quorum(InvalidWrite),
}

/// Encodes records that take effect together.
pub fn encode(records: &[Record]) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::with_capacity(128 * records.len().max(8));
    let encoded: Vec<_> = records
        .iter()
        .map(|record| {
            let (body_type, body) = encode_body(&mut builder, record);
            fb::Record::create(&mut builder, &fb::RecordArgs { body_type, body: Some(body) })
        })
        .collect();
    let feature_level = records.iter().map(Record::feature_level).max().unwrap_or(FEATURE_LEVEL_BASE);
    let records = builder.create_vector(&encoded);
    let entry = fb::Entry::create(&mut builder, &fb::EntryArgs { feature_level, records: Some(records) });
    builder.finish(entry, None);
    builder.finished_data().to_vec()
}

/// Decodes what [`encode`] wrote, or refuses it.
pub fn decode(payload: &[u8]) -> Result<Vec<Record>, DecodeError> {
    let options = VerifierOptions {
        // A record has at most four tables (record, body, the two components of a quota's entity), or those
        // of a node's directories, of which there are few.
        max_tables: 4 * METADATA_RECORDS_PER_ENTRY_MAX + LOG_DIRS_MAX + 1,
        ..VerifierOptions::default()
    };
    let entry =
        flatbuffers::root_with_opts::<fb::Entry>(&options, payload).map_err(DecodeError::Malformed)?;
    let written = entry.feature_level();
    // What a quorum has written is no entry of records, whatever it looks like to those who know only these.
    if written > FEATURE_LEVEL || written == FEATURE_LEVEL_QUORUM {
        return Err(DecodeError::FeatureLevel { written });
    }
    let records = entry.records();
    if records.len() > METADATA_RECORDS_PER_ENTRY_MAX {
        return Err(DecodeError::TooManyRecords(records.len()));
    }
    let decode_one = |(position, record)| match decode_body(record) {
        Ok(Some(record)) => Ok(record),
        Ok(None) => Err(DecodeError::UnknownKind { kind: record.body_type().0, written }),
        Err(reason) => Err(DecodeError::Invalid { position, reason }),
    };
    records.iter().enumerate().map(decode_one).collect()
}

fn encode_body(
    builder: &mut FlatBufferBuilder<'_>,
    record: &Record,
) -> (fb::Body, WIPOffset<UnionWIPOffset>) {
    match record {
        Record::ClusterCreated { cluster_id } => {
            let args = fb::ClusterCreatedArgs { cluster_id: Some(&id_bytes(*cluster_id)) };
            (fb::Body::ClusterCreated, fb::ClusterCreated::create(builder, &args).as_union_value())
        }
        Record::FeatureLevelSet { level } => {
            let args = fb::FeatureLevelSetArgs { level: *level };
            (fb::Body::FeatureLevelSet, fb::FeatureLevelSet::create(builder, &args).as_union_value())
        }
        Record::NodeRegistered(node) => (fb::Body::NodeRegistered, encode_node(builder, node)),
        Record::TopicCreated { topic, name } => {
            let name = builder.create_string(name);
            let args = fb::TopicCreatedArgs { topic: Some(&id_bytes(topic.0)), name: Some(name) };
            (fb::Body::TopicCreated, fb::TopicCreated::create(builder, &args).as_union_value())
        }
        Record::TopicDeleted { topic } => {
            let args = fb::TopicDeletedArgs { topic: Some(&id_bytes(topic.0)) };
            (fb::Body::TopicDeleted, fb::TopicDeleted::create(builder, &args).as_union_value())
        }
        Record::PartitionCreated { id, state } => {
            let state = encode_state(builder, state);
            let topic = id_bytes(id.topic.0);
            let index = id.partition.index() as u32;
            let args = fb::PartitionCreatedArgs { topic: Some(&topic), index, state: Some(state) };
            (fb::Body::PartitionCreated, fb::PartitionCreated::create(builder, &args).as_union_value())
        }
        Record::PartitionChanged { id, state } => {
            let state = encode_state(builder, state);
            let topic = id_bytes(id.topic.0);
            let index = id.partition.index() as u32;
            let args = fb::PartitionChangedArgs { topic: Some(&topic), index, state: Some(state) };
            (fb::Body::PartitionChanged, fb::PartitionChanged::create(builder, &args).as_union_value())
        }
        Record::TopicConfigSet { topic, key, value } => {
            let key = builder.create_string(key);
            let value = value.as_ref().map(|value| builder.create_string(value));
            let args = fb::TopicConfigSetArgs { topic: Some(&id_bytes(topic.0)), key: Some(key), value };
            (fb::Body::TopicConfigSet, fb::TopicConfigSet::create(builder, &args).as_union_value())
        }
        Record::ProducerIdsAllocated { node, block } => {
            let args =
                fb::ProducerIdsAllocatedArgs { node: node.0, first: block.first, count: block.count as i32 };
            (
                fb::Body::ProducerIdsAllocated,
                fb::ProducerIdsAllocated::create(builder, &args).as_union_value(),
            )
        }
        Record::ConfigSet { resource, key, value } => {
            (fb::Body::ConfigSet, encode_config(builder, resource, key, value.as_deref()))
        }
        Record::ClientQuotaSet { entity, kind, limit } => {
            (fb::Body::ClientQuotaSet, encode_quota(builder, entity, *kind, *limit))
        }
        Record::NodeUnregistered { node, broker_epoch } => {
            let args = fb::NodeUnregisteredArgs { node: node.0, broker_epoch: broker_epoch.0 };
            (fb::Body::NodeUnregistered, fb::NodeUnregistered::create(builder, &args).as_union_value())
        }
    }
}

fn encode_config(
    builder: &mut FlatBufferBuilder<'_>,
    resource: &ConfigResource,
    key: &str,
    value: Option<&str>,
) -> WIPOffset<UnionWIPOffset> {
    let (kind, node, name) = match resource {
        ConfigResource::Brokers => (fb::ConfigKind::Brokers, 0, None),
        ConfigResource::Node(node) => (fb::ConfigKind::Node, node.0, None),
        ConfigResource::ClientMetrics(name) => {
            (fb::ConfigKind::ClientMetrics, 0, Some(builder.create_string(name)))
        }
        ConfigResource::Group(name) => (fb::ConfigKind::Group, 0, Some(builder.create_string(name))),
    };
    let key = Some(builder.create_string(key));
    let value = value.map(|value| builder.create_string(value));
    fb::ConfigSet::create(builder, &fb::ConfigSetArgs { kind, node, name, key, value }).as_union_value()
}

fn encode_quota(
    builder: &mut FlatBufferBuilder<'_>,
    entity: &QuotaEntity,
    kind: QuotaKind,
    limit: Option<QuotaLimit>,
) -> WIPOffset<UnionWIPOffset> {
    let parts =
        [(fb::QuotaEntityType::User, &entity.user), (fb::QuotaEntityType::ClientId, &entity.client_id)];
    let mut components = Vec::with_capacity(2);
    for (entity_type, name) in parts {
        let Some(name) = name else { continue };
        let name = name.name().map(|name| builder.create_string(name));
        components.push(fb::QuotaComponent::create(builder, &fb::QuotaComponentArgs { entity_type, name }));
    }
    let entity = Some(builder.create_vector(&components));
    let key = Some(builder.create_string(kind.name()));
    let limit = limit.map_or(0.0, QuotaLimit::get);
    fb::ClientQuotaSet::create(builder, &fb::ClientQuotaSetArgs { entity, key, limit }).as_union_value()
}

fn encode_node(builder: &mut FlatBufferBuilder<'_>, node: &Node) -> WIPOffset<UnionWIPOffset> {
    let host = builder.create_string(&node.host);
    let rack = node.rack.as_ref().map(|rack| builder.create_string(rack));
    let directories: Vec<_> = node
        .log_directories
        .iter()
        .map(|directory| {
            let path = builder.create_string(&directory.path);
            let (id, is_offline) = (Some(&id_bytes(directory.id.0)), directory.is_offline);
            let args = fb::LogDirectoryArgs { id, path: Some(path), is_offline };
            fb::LogDirectory::create(builder, &args)
        })
        .collect();
    let log_directories = (!directories.is_empty()).then(|| builder.create_vector(&directories));
    let peer_host = node.peer.as_ref().map(|peer| builder.create_string(&peer.host));
    let incarnation = id_bytes(node.incarnation);
    let args = fb::NodeRegisteredArgs {
        node: node.id.0,
        cores: node.cores,
        routing: match node.routing {
            Routing::Node => fb::Routing::Node,
            Routing::Core => fb::Routing::Core,
        },
        host: Some(host),
        port: node.port,
        rack,
        log_directories,
        peer_host,
        peer_port: node.peer.as_ref().map_or(0, |peer| peer.port),
        broker_epoch: node.broker_epoch.0,
        incarnation: (!node.incarnation.is_nil()).then_some(&incarnation),
        is_fenced: node.is_fenced,
        is_shutting_down: node.is_shutting_down,
        feature_level_max: node.feature_level_max,
    };
    fb::NodeRegistered::create(builder, &args).as_union_value()
}

fn encode_state<'a>(
    builder: &mut FlatBufferBuilder<'a>,
    state: &PartitionState,
) -> WIPOffset<fb::PartitionState<'a>> {
    let replicas = state
        .replicas
        .iter()
        .map(|replica| fb::Replica::new(replica.node.0, replica.ownership_epoch.0, replica.owner.0));
    let replicas = builder.create_vector_from_iter(replicas);
    let in_sync = builder.create_vector_from_iter(state.in_sync.iter().map(|node| node.0));
    let directory = |replica: &Replica| id_bytes(replica.directory.map_or(Uuid::nil(), |id| id.0));
    let is_stated = state.replicas.iter().any(|replica| replica.directory.is_some());
    let directories =
        is_stated.then(|| builder.create_vector_from_iter(state.replicas.iter().map(directory)));
    let mut nodes = |nodes: &[NodeId]| {
        (!nodes.is_empty()).then(|| builder.create_vector_from_iter(nodes.iter().map(|node| node.0)))
    };
    let eligible_leaders = nodes(&state.eligible_leaders);
    let (adding, removing) = (nodes(&state.adding), nodes(&state.removing));
    let args = fb::PartitionStateArgs {
        replicas: Some(replicas),
        in_sync: Some(in_sync),
        leader: state.leader.map_or(-1, |leader| leader.0),
        leader_epoch: state.leader_epoch.0,
        partition_epoch: state.partition_epoch.0,
        directories,
        eligible_leaders,
        adding,
        removing,
    };
    fb::PartitionState::create(builder, &args)
}

/// `None`: a union member that this build does not know.
fn decode_body(record: fb::Record<'_>) -> Result<Option<Record>, InvalidRecord> {
    let decoded = if let Some(body) = record.body_as_cluster_created() {
        Record::ClusterCreated { cluster_id: uuid(body.cluster_id()) }
    } else if let Some(body) = record.body_as_feature_level_set() {
        if body.level() == 0 {
            return Err(InvalidRecord::FeatureLevel);
        }
        Record::FeatureLevelSet { level: body.level() }
    } else if let Some(body) = record.body_as_node_registered() {
        Record::NodeRegistered(decode_node(body)?)
    } else if let Some(body) = record.body_as_topic_created() {
        Record::TopicCreated { topic: TopicId(uuid(body.topic())), name: body.name().to_owned() }
    } else if let Some(body) = record.body_as_topic_deleted() {
        Record::TopicDeleted { topic: TopicId(uuid(body.topic())) }
    } else if let Some(body) = record.body_as_partition_created() {
        let id = partition(body.topic(), body.index())?;
        Record::PartitionCreated { id, state: decode_state(body.state())? }
    } else if let Some(body) = record.body_as_partition_changed() {
        let id = partition(body.topic(), body.index())?;
        Record::PartitionChanged { id, state: decode_state(body.state())? }
    } else if let Some(body) = record.body_as_topic_config_set() {
        let (topic, key) = (TopicId(uuid(body.topic())), body.key().to_owned());
        Record::TopicConfigSet { topic, key, value: body.value().map(str::to_owned) }
    } else if let Some(body) = record.body_as_producer_ids_allocated() {
        let (first, count) = (body.first(), body.count());
        let block = u32::try_from(count).ok().and_then(|count| ProducerIdBlock::new(first, count));
        let block = block.ok_or(InvalidRecord::ProducerIds { first, count: i64::from(count) })?;
        Record::ProducerIdsAllocated { node: node_id(body.node())?, block }
    } else if let Some(body) = record.body_as_config_set() {
        let resource = decode_resource(body)?;
        let (key, value) = (body.key().to_owned(), body.value().map(str::to_owned));
        Record::ConfigSet { resource, key, value }
    } else if let Some(body) = record.body_as_client_quota_set() {
        decode_quota(body)?
    } else if let Some(body) = record.body_as_node_unregistered() {
        let broker_epoch = broker_epoch(body.broker_epoch())?;
        Record::NodeUnregistered { node: node_id(body.node())?, broker_epoch }
    } else {
        return Ok(None);
    };
    Ok(Some(decoded))
}

fn decode_resource(body: fb::ConfigSet<'_>) -> Result<ConfigResource, InvalidRecord> {
    match body.kind() {
        fb::ConfigKind::Brokers => Ok(ConfigResource::Brokers),
        fb::ConfigKind::Node => Ok(ConfigResource::Node(node_id(body.node())?)),
        fb::ConfigKind::ClientMetrics => {
            let name = body.name().ok_or(InvalidRecord::NamelessSubscription)?;
            Ok(ConfigResource::ClientMetrics(name.to_owned()))
        }
        fb::ConfigKind::Group => {
            let name = body.name().ok_or(InvalidRecord::NamelessGroup)?;
            Ok(ConfigResource::Group(name.to_owned()))
        }
        unknown => Err(InvalidRecord::ConfigKind(unknown.0)),
    }
}

fn decode_quota(body: fb::ClientQuotaSet<'_>) -> Result<Record, InvalidRecord> {
    let mut entity = QuotaEntity { user: None, client_id: None };
    for component in body.entity() {
        let part = match component.entity_type() {
            fb::QuotaEntityType::User => &mut entity.user,
            fb::QuotaEntityType::ClientId => &mut entity.client_id,
            _ => return Err(InvalidRecord::QuotaEntity),
        };
        if part.replace(EntityName::from_wire(component.name())).is_some() {
            return Err(InvalidRecord::QuotaEntity);
        }
    }
    if entity.user.is_none() && entity.client_id.is_none() {
        return Err(InvalidRecord::QuotaEntity);
    }
    let kind = QuotaKind::from_name(body.key());
    let kind = kind.ok_or_else(|| InvalidRecord::QuotaKey(body.key().to_owned()))?;
    let limit = match body.limit() {
        0.0 => None,
        limit => Some(QuotaLimit::new(limit).ok_or_else(|| InvalidRecord::QuotaLimit(limit.to_string()))?),
    };
    Ok(Record::ClientQuotaSet { entity, kind, limit })
}

fn decode_node(body: fb::NodeRegistered<'_>) -> Result<Node, InvalidRecord> {
    let cores = body.cores();
    if cores == 0 || usize::from(cores) > SHARDS_MAX {
        return Err(InvalidRecord::Cores(cores));
    }
    let routing = match body.routing() {
        fb::Routing::Node => Routing::Node,
        fb::Routing::Core => Routing::Core,
        unknown => return Err(InvalidRecord::Routing(unknown.0)),
    };
    Ok(Node {
        id: node_id(body.node())?,
        cores,
        routing,
        host: body.host().to_owned(),
        port: body.port(),
        rack: body.rack().map(str::to_owned),
        log_directories: body.log_directories().into_iter().flatten().map(decode_directory).collect(),
        peer: body.peer_host().map(|host| HostPort { host: host.to_owned(), port: body.peer_port() }),
        broker_epoch: broker_epoch(body.broker_epoch())?,
        incarnation: body.incarnation().map(uuid).unwrap_or_default(),
        is_fenced: body.is_fenced(),
        is_shutting_down: body.is_shutting_down(),
        feature_level_max: body.feature_level_max(),
    })
}

fn decode_directory(body: fb::LogDirectory<'_>) -> LogDirectory {
    let (id, path) = (DirectoryId(uuid(body.id())), body.path().to_owned());
    LogDirectory { id, path, is_offline: body.is_offline() }
}

fn decode_state(body: fb::PartitionState<'_>) -> Result<PartitionState, InvalidRecord> {
    let (replicas, directories) = (body.replicas(), body.directories());
    if let Some(directories) = directories.filter(|directories| directories.len() != replicas.len()) {
        return Err(InvalidRecord::Directories { replicas: replicas.len(), directories: directories.len() });
    }
    let directory_of = |at: usize| {
        let id = uuid(directories?.get(at));
        (!id.is_nil()).then_some(DirectoryId(id))
    };
    let decode_replica = |(at, replica): (usize, &fb::Replica)| {
        Ok(Replica {
            node: node_id(replica.node())?,
            owner: ShardId(replica.owner_shard()),
            ownership_epoch: OwnershipEpoch(replica.ownership_epoch()),
            directory: directory_of(at),
        })
    };
    let nodes = |nodes: Option<flatbuffers::Vector<'_, i32>>| {
        nodes.into_iter().flatten().map(node_id).collect::<Result<Vec<NodeId>, _>>()
    };
    let state = PartitionState {
        replicas: replicas.iter().enumerate().map(decode_replica).collect::<Result<_, _>>()?,
        in_sync: nodes(Some(body.in_sync()))?,
        eligible_leaders: nodes(body.eligible_leaders())?,
        adding: nodes(body.adding())?,
        removing: nodes(body.removing())?,
        leader: if body.leader() == -1 { None } else { Some(node_id(body.leader())?) },
        leader_epoch: LeaderEpoch(body.leader_epoch()),
        partition_epoch: PartitionEpoch(body.partition_epoch()),
    };
    state.check()?;
    Ok(state)
}

fn id_bytes(id: Uuid) -> fb::Id {
    fb::Id::new(id.as_bytes())
}

fn uuid(id: &fb::Id) -> Uuid {
    Uuid::from_bytes(id.bytes().into())
}

fn node_id(node: i32) -> Result<NodeId, InvalidRecord> {
    if node < 0 { Err(InvalidRecord::NegativeNode(node)) } else { Ok(NodeId(node)) }
}

fn broker_epoch(epoch: i64) -> Result<BrokerEpoch, InvalidRecord> {
    if epoch < 0 { Err(InvalidRecord::NegativeEpoch) } else { Ok(BrokerEpoch(epoch)) }
}

fn partition(topic: &fb::Id, index: u32) -> Result<TopicPartition, InvalidRecord> {
    let partition = i32::try_from(index).ok().and_then(PartitionIndex::from_wire);
    let partition = partition.ok_or(InvalidRecord::PartitionIndex(index))?;
    Ok(TopicPartition { topic: TopicId(uuid(topic)), partition })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cluster::image::tests::{node, partition_id, replica};
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = PartitionState> {
        let nodes = proptest::sample::subsequence((0..9).collect::<Vec<i32>>(), 1..4);
        let shard = 0..SHARDS_MAX as u16;
        // Of all replicas, of some or of none the directory is stated.
        (nodes, any::<(u32, i32, i32, bool)>(), shard, 0..4i32).prop_map(
            |(nodes, epochs, shard, directory)| {
                let (ownership, leader_epoch, partition_epoch, led) = epochs;
                let replicas = nodes.iter().map(|&node| Replica {
                    node: NodeId(node),
                    owner: ShardId(shard),
                    ownership_epoch: OwnershipEpoch(ownership),
                    directory: (node % 2 == directory)
                        .then(|| DirectoryId(Uuid::from_u128(node as u128 + 1))),
                });
                let mut state = PartitionState::new(replicas.collect());
                state.leader = state.leader.filter(|_| led);
                if shard % 3 == 0 {
                    let stays = usize::from(led).min(state.in_sync.len());
                    state.eligible_leaders = state.in_sync.split_off(stays);
                }
                // None of them, the last, or all but the first, which is the only one that neither comes nor goes.
                let moving = match leader_epoch % 3 {
                    0 => nodes.len(),
                    1 => nodes.len().saturating_sub(1).max(1),
                    _ => 1,
                };
                state.adding = nodes[moving..].iter().copied().map(NodeId).collect();
                state.removing = state.adding.iter().copied().filter(|node| led || node.0 % 2 == 0).collect();
                state.leader_epoch = LeaderEpoch(leader_epoch & i32::MAX);
                state.partition_epoch = PartitionEpoch(partition_epoch & i32::MAX);
                state
            },
        )
    }

    fn any_resource() -> impl Strategy<Value = ConfigResource> {
        prop_oneof![
            Just(ConfigResource::Brokers),
            (0..i32::MAX).prop_map(|node| ConfigResource::Node(NodeId(node))),
            ".{0,9}".prop_map(ConfigResource::ClientMetrics),
            ".{0,9}".prop_map(ConfigResource::Group),
        ]
    }

    fn any_entity() -> impl Strategy<Value = QuotaEntity> {
        let name = || {
            let named = proptest::option::of(".{0,9}");
            named.prop_map(|name: Option<String>| EntityName::from_wire(name.as_deref()))
        };
        prop_oneof![
            name().prop_map(|user| QuotaEntity { user: Some(user), client_id: None }),
            name().prop_map(|client| QuotaEntity { user: None, client_id: Some(client) }),
            (name(), name())
                .prop_map(|(user, client)| QuotaEntity { user: Some(user), client_id: Some(client) }),
        ]
    }

    pub fn any_record() -> impl Strategy<Value = Record> {
        let id = any::<u128>().prop_map(Uuid::from_u128);
        let topic = id.clone().prop_map(TopicId);
        let index = (0..i32::MAX).prop_map(|index| PartitionIndex::from_wire(index).expect("not negative"));
        let partition =
            (topic.clone(), index).prop_map(|(topic, partition)| TopicPartition { topic, partition });
        let node = (0..i32::MAX, 1..=SHARDS_MAX as u16, any::<bool>(), ".{0,20}", any::<u16>(), ".{0,9}");
        prop_oneof![
            id.prop_map(|cluster_id| Record::ClusterCreated { cluster_id }),
            (1..u16::MAX).prop_map(|level| Record::FeatureLevelSet { level }),
            node.prop_map(|(id, cores, core, host, port, rack)| Record::NodeRegistered(Node {
                id: NodeId(id),
                cores,
                routing: if core { Routing::Core } else { Routing::Node },
                host,
                port,
                rack: (!rack.is_empty()).then_some(rack.clone()),
                log_directories: (0..rack.len() as u128)
                    .map(|id| LogDirectory {
                        id: DirectoryId(Uuid::from_u128(id)),
                        path: rack.clone(),
                        is_offline: id % 2 == 1,
                    })
                    .collect(),
                peer: (cores % 2 == 0).then_some(HostPort { host: rack, port }),
                broker_epoch: BrokerEpoch(i64::from(port / 2) << 40),
                incarnation: Uuid::from_u128(u128::from(port % 3)),
                is_fenced: port % 2 == 0,
                is_shutting_down: cores % 5 == 0,
                feature_level_max: cores % 9,
            })),
            (topic.clone(), ".{0,20}").prop_map(|(topic, name)| Record::TopicCreated { topic, name }),
            topic.clone().prop_map(|topic| Record::TopicDeleted { topic }),
            (partition.clone(), any_state()).prop_map(|(id, state)| Record::PartitionCreated { id, state }),
            (partition, any_state()).prop_map(|(id, state)| Record::PartitionChanged { id, state }),
            (topic, ".{0,9}", proptest::option::of(".{0,9}"))
                .prop_map(|(topic, key, value)| Record::TopicConfigSet { topic, key, value }),
            (0..9i32, 0..1i64 << 40, 1..99_999u32).prop_map(|(node, first, count)| {
                Record::ProducerIdsAllocated { node: NodeId(node), block: ProducerIdBlock { first, count } }
            }),
            (any_resource(), ".{0,9}", proptest::option::of(".{0,9}"))
                .prop_map(|(resource, key, value)| Record::ConfigSet { resource, key, value }),
            (any_entity(), proptest::sample::select(&QuotaKind::ALL[..]), 0..1000u32).prop_map(
                |(entity, kind, limit)| {
                    let limit = QuotaLimit::new(f64::from(limit) / 4.0);
                    Record::ClientQuotaSet { entity, kind, limit }
                }
            ),
            (0..i32::MAX, 0..i64::MAX).prop_map(|(node, epoch)| Record::NodeUnregistered {
                node: NodeId(node),
                broker_epoch: BrokerEpoch(epoch),
            }),
        ]
    }

    fn entry_with_body(body_type: u8, level: u16) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::new();
        let body = fb::FeatureLevelSet::create(&mut builder, &fb::FeatureLevelSetArgs { level: 1 });
        let body = Some(body.as_union_value());
        let record =
            fb::Record::create(&mut builder, &fb::RecordArgs { body_type: fb::Body(body_type), body });
        let records = builder.create_vector(&[record]);
        let entry =
            fb::Entry::create(&mut builder, &fb::EntryArgs { feature_level: level, records: Some(records) });
        builder.finish(entry, None);
        builder.finished_data().to_vec()
    }

    #[test]
    fn unknown_record_kind_is_an_error_that_names_the_level() {
        let error = decode(&entry_with_body(99, 1)).expect_err("kind 99 is unknown");
        assert_eq!(error, DecodeError::UnknownKind { kind: 99, written: 1 });
        assert!(error.to_string().contains("feature level 1"));
    }

    #[test]
    fn newer_feature_level_is_refused() {
        let error = decode(&entry_with_body(fb::Body::FeatureLevelSet.0, FEATURE_LEVEL + 1));
        assert_eq!(error, Err(DecodeError::FeatureLevel { written: FEATURE_LEVEL + 1 }));
    }

    #[test]
    fn entry_with_log_directories_is_refused_by_builds_that_would_overlook_them() {
        let level = |record: Record| {
            let bytes = encode(&[Record::FeatureLevelSet { level: 1 }, record]);
            flatbuffers::root::<fb::Entry>(&bytes).expect("just encoded").feature_level()
        };
        let id = TopicPartition {
            topic: TopicId(Uuid::from_u128(7)),
            partition: PartitionIndex::from_wire(0).expect("not negative"),
        };
        let replica = |directory| Replica {
            node: NodeId(1),
            owner: ShardId(0),
            ownership_epoch: OwnershipEpoch(0),
            directory,
        };
        let created =
            |directory| Record::PartitionCreated { id, state: PartitionState::new(vec![replica(directory)]) };
        assert_eq!(level(created(None)), 1, "of one directory nothing is said");
        assert_eq!(level(created(Some(DirectoryId(Uuid::from_u128(3))))), 2);
    }

    #[test]
    fn entry_with_settings_names_the_level_that_knows_them() {
        let level = |resource| {
            let bytes = encode(&[Record::ConfigSet { resource, key: "k".to_owned(), value: None }]);
            flatbuffers::root::<fb::Entry>(&bytes).expect("just encoded").feature_level()
        };
        assert_eq!(level(ConfigResource::ClientMetrics("m".to_owned())), 3);
        assert_eq!(level(ConfigResource::Group("g".to_owned())), 4);
    }

    #[test]
    fn entry_with_epochs_of_nodes_or_eligible_leaders_names_the_level_that_knows_them() {
        let level = |record: Record| {
            let bytes = encode(&[record]);
            flatbuffers::root::<fb::Entry>(&bytes).expect("just encoded").feature_level()
        };
        let older = node(1, 2, Routing::Node);
        assert_eq!(level(Record::NodeRegistered(older.clone())), 1);
        assert_eq!(level(Record::NodeRegistered(Node { broker_epoch: BrokerEpoch(1), ..older.clone() })), 7);
        assert_eq!(level(Record::NodeRegistered(Node { is_fenced: true, ..older })), 7);
        assert_eq!(level(Record::NodeUnregistered { node: NodeId(1), broker_epoch: BrokerEpoch(1) }), 7);
        let mut state = PartitionState::new(vec![replica(1, 0), replica(2, 0)]);
        let changed = |state: &PartitionState| Record::PartitionChanged {
            id: partition_id(7, 0),
            state: state.clone(),
        };
        assert_eq!(level(changed(&state)), 1);
        let moving = PartitionState { removing: vec![NodeId(2)], ..state.clone() };
        assert_eq!(level(changed(&moving)), 7);
        state.eligible_leaders.extend(state.in_sync.pop());
        assert_eq!(level(changed(&state)), 7);
    }

    #[test]
    fn who_comes_or_goes_holds_a_replica_and_some_other_stays() {
        let refused = |adding: &[i32], removing: &[i32]| {
            let nodes = |nodes: &[i32]| nodes.iter().copied().map(NodeId).collect();
            let state = PartitionState {
                adding: nodes(adding),
                removing: nodes(removing),
                ..PartitionState::new(vec![replica(1, 0), replica(2, 0)])
            };
            let refused = decode(&encode(&[Record::PartitionChanged { id: partition_id(7, 0), state }]));
            let Err(DecodeError::Invalid { reason, .. }) = refused else { panic!("{refused:?}") };
            reason
        };
        assert_eq!(refused(&[3], &[]), InvalidRecord::Reassigned(NodeId(3)));
        assert_eq!(refused(&[], &[2, 2]), InvalidRecord::Reassigned(NodeId(2)));
        assert_eq!(refused(&[1, 2], &[]), InvalidRecord::ReassignedAll);
        assert_eq!(refused(&[], &[2, 1]), InvalidRecord::ReassignedAll);
    }

    /// Bytes that a build of this level has written; later ones have to read them.
    #[test]
    fn reassigned_partition_reads_as_it_was_written() {
        let state = PartitionState {
            adding: vec![NodeId(3)],
            removing: vec![NodeId(1)],
            ..PartitionState::new(vec![replica(3, 0), replica(1, 0)])
        };
        let record = Record::PartitionChanged { id: partition_id(7, 0), state };
        let bytes = encode(std::slice::from_ref(&record));
        let text: String = bytes.chunks(32).map(|line| hex(line) + "\n").collect();
        expect_test::expect![[r#"
            0c00000008000c0006000800080000000000070004000000010000000c000000
            08000e000700080008000000000000071000000000000a001a00040000001400
            0a000000000000000000000000000000000000071c0000000000160018000400
            08000c0000000000000000001000140016000000300000002000000003000000
            1000000004000000010000000100000001000000030000000200000003000000
            0100000002000000030000000000000000000000010000000000000000000000
        "#]]
        .assert_eq(&text);
        assert_eq!(decode(&bytes), Ok(vec![record]));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn who_is_eligible_holds_a_replica_and_is_not_in_sync() {
        let refused = |eligible: i32| {
            let mut state = PartitionState::new(vec![replica(1, 0), replica(2, 0)]);
            state.eligible_leaders = vec![NodeId(eligible)];
            decode(&encode(&[Record::PartitionChanged { id: partition_id(7, 0), state }]))
        };
        for node in [2, 3] {
            let reason = InvalidRecord::Eligible(NodeId(node));
            assert_eq!(refused(node), Err(DecodeError::Invalid { position: 0, reason }));
        }
    }

    #[test]
    fn invalid_partition_state_is_refused() {
        let mut state = PartitionState::new(vec![Replica {
            node: NodeId(1),
            owner: ShardId(0),
            ownership_epoch: OwnershipEpoch(0),
            directory: None,
        }]);
        state.leader = Some(NodeId(2));
        let id = TopicPartition {
            topic: TopicId(Uuid::from_u128(7)),
            partition: PartitionIndex::from_wire(0).expect("not negative"),
        };
        let refused = decode(&encode(&[Record::PartitionCreated { id, state }]));
        let reason = InvalidRecord::LeaderNotInSync(NodeId(2));
        assert_eq!(refused, Err(DecodeError::Invalid { position: 0, reason }));
    }

    proptest! {
        #[test]
        fn records_round_trip(records in proptest::collection::vec(any_record(), 0..20)) {
            prop_assert_eq!(decode(&encode(&records)), Ok(records));
        }

        #[test]
        fn size_bound_holds(records in proptest::collection::vec(any_record(), 1..20)) {
            let bound: usize = records.iter().map(Record::encoded_size_max).sum();
            prop_assert!(encode(&records).len() <= bound);
        }

        #[test]
        fn damaged_bytes_never_panic(
            records in proptest::collection::vec(any_record(), 1..4),
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&records);
            let position = at.index(bytes.len());
            bytes[position] = value;
            let _ = decode(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = decode(&bytes);
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
