//! What the requests that the library decodes look like on the wire, for [`guard`](super::guard).
//!
//! The descriptions follow Kafka's message definitions (`common/message/*Request.json`), field by
//! field in wire order, for the versions in [`versions`](super::versions) only. They cannot drift
//! from the library unnoticed: tests send what one accepts through the other.

use crate::codec::api::versions::ApiKey;

/// A structure: fields in wire order, and the tagged fields that the library decodes.
pub(super) struct Structure {
    pub(super) fields: &'static [Field],
    pub(super) tagged: &'static [(u32, Field)],
}

/// A field in the versions that have it; all versions inclusive.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    from: i16,
    to: i16,
    nullable_from: i16,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A number, a boolean or a UUID, by its size in bytes.
    Fixed(usize),
    Str,
    Bytes,
    Array(&'static Kind),
    Structure(&'static Structure),
}

const BOOL: Kind = Kind::Fixed(1);
const I8: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const F64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const STR: Kind = Kind::Str;
const BYTES: Kind = Kind::Bytes;

pub(super) const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, from: 0, to: i16::MAX, nullable_from: i16::MAX }
}

impl Field {
    const fn from(self, from: i16) -> Field {
        Field { from, ..self }
    }

    const fn to(self, to: i16) -> Field {
        Field { to, ..self }
    }

    const fn nullable_from(self, nullable_from: i16) -> Field {
        Field { nullable_from, ..self }
    }

    pub(super) fn is_in(&self, version: i16) -> bool {
        (self.from..=self.to).contains(&version)
    }

    pub(super) fn is_nullable(&self, version: i16) -> bool {
        version >= self.nullable_from
    }
}

const fn structure(fields: &'static [Field]) -> Structure {
    Structure { fields, tagged: &[] }
}

/// The body of a request; `None` for Produce, which has a view of its own.
pub(super) fn schema(api_key: ApiKey) -> Option<&'static Structure> {
    Some(match api_key {
        ApiKey::Produce => return None,
        ApiKey::Fetch => &FETCH,
        ApiKey::ListOffsets => &LIST_OFFSETS,
        ApiKey::Metadata => &METADATA,
        ApiKey::OffsetCommit => &OFFSET_COMMIT,
        ApiKey::OffsetFetch => &OFFSET_FETCH,
        ApiKey::FindCoordinator => &FIND_COORDINATOR,
        ApiKey::JoinGroup => &JOIN_GROUP,
        ApiKey::Heartbeat => &HEARTBEAT,
        ApiKey::LeaveGroup => &LEAVE_GROUP,
        ApiKey::SyncGroup => &SYNC_GROUP,
        ApiKey::DescribeGroups => &DESCRIBE_GROUPS,
        ApiKey::ListGroups => &LIST_GROUPS,
        ApiKey::ApiVersions => &API_VERSIONS,
        ApiKey::CreateTopics => &CREATE_TOPICS,
        ApiKey::DeleteTopics => &DELETE_TOPICS,
        ApiKey::DeleteRecords => &DELETE_RECORDS,
        ApiKey::InitProducerId => &INIT_PRODUCER_ID,
        ApiKey::OffsetForLeaderEpoch => &OFFSET_FOR_LEADER_EPOCH,
        ApiKey::AddPartitionsToTxn => &ADD_PARTITIONS_TO_TXN,
        ApiKey::AddOffsetsToTxn => &ADD_OFFSETS_TO_TXN,
        ApiKey::EndTxn => &END_TXN,
        ApiKey::WriteTxnMarkers => &WRITE_TXN_MARKERS,
        ApiKey::TxnOffsetCommit => &TXN_OFFSET_COMMIT,
        ApiKey::DescribeConfigs => &DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => &ALTER_CONFIGS,
        ApiKey::DescribeLogDirs => &DESCRIBE_LOG_DIRS,
        ApiKey::CreatePartitions => &CREATE_PARTITIONS,
        ApiKey::DeleteGroups => &DELETE_GROUPS,
        ApiKey::ElectLeaders => &ELECT_LEADERS,
        ApiKey::IncrementalAlterConfigs => &INCREMENTAL_ALTER_CONFIGS,
        ApiKey::AlterPartitionReassignments => &ALTER_PARTITION_REASSIGNMENTS,
        ApiKey::ListPartitionReassignments => &LIST_PARTITION_REASSIGNMENTS,
        ApiKey::OffsetDelete => &OFFSET_DELETE,
        ApiKey::DescribeClientQuotas => &DESCRIBE_CLIENT_QUOTAS,
        ApiKey::AlterClientQuotas => &ALTER_CLIENT_QUOTAS,
        ApiKey::DescribeQuorum => &DESCRIBE_QUORUM,
        ApiKey::AddRaftVoter => &ADD_RAFT_VOTER,
        ApiKey::RemoveRaftVoter => &REMOVE_RAFT_VOTER,
        ApiKey::UnregisterBroker => &UNREGISTER_BROKER,
        ApiKey::DescribeCluster => &DESCRIBE_CLUSTER,
        ApiKey::DescribeProducers => &DESCRIBE_PRODUCERS,
        ApiKey::DescribeTransactions => &DESCRIBE_TRANSACTIONS,
        ApiKey::ListTransactions => &LIST_TRANSACTIONS,
        ApiKey::ConsumerGroupHeartbeat => &CONSUMER_GROUP_HEARTBEAT,
        ApiKey::ConsumerGroupDescribe => &CONSUMER_GROUP_DESCRIBE,
        ApiKey::GetTelemetrySubscriptions => &GET_TELEMETRY_SUBSCRIPTIONS,
        ApiKey::PushTelemetry => &PUSH_TELEMETRY,
        ApiKey::ListConfigResources => &LIST_CONFIG_RESOURCES,
        ApiKey::DescribeTopicPartitions => &DESCRIBE_TOPIC_PARTITIONS,
    })
}

static FETCH: Structure = Structure {
    fields: &[
        field("replica_id", I32),
        field("max_wait_ms", I32),
        field("min_bytes", I32),
        field("max_bytes", I32),
        field("isolation_level", I8),
        field("session_id", I32).from(7),
        field("session_epoch", I32).from(7),
        field("topics", Kind::Array(&Kind::Structure(&FETCH_TOPIC))),
        field("forgotten_topics_data", Kind::Array(&Kind::Structure(&FORGOTTEN_TOPIC))).from(7),
        field("rack_id", STR).from(11),
    ],
    tagged: &[(0, field("cluster_id", STR).from(12).nullable_from(12))],
};
static FETCH_TOPIC: Structure =
    structure(&[field("topic", STR), field("partitions", Kind::Array(&Kind::Structure(&FETCH_PARTITION)))]);
static FETCH_PARTITION: Structure = structure(&[
    field("partition", I32),
    field("current_leader_epoch", I32).from(9),
    field("fetch_offset", I64),
    field("last_fetched_epoch", I32).from(12),
    field("log_start_offset", I64).from(5),
    field("partition_max_bytes", I32),
]);
static FORGOTTEN_TOPIC: Structure = structure(&[field("topic", STR), field("partitions", Kind::Array(&I32))]);

static LIST_OFFSETS: Structure = structure(&[
    field("replica_id", I32),
    field("isolation_level", I8).from(2),
    field("topics", Kind::Array(&Kind::Structure(&LIST_OFFSETS_TOPIC))),
    field("timeout_ms", I32).from(10),
]);
static LIST_OFFSETS_TOPIC: Structure = structure(&[
    field("name", STR),
    field("partitions", Kind::Array(&Kind::Structure(&LIST_OFFSETS_PARTITION))),
]);
static LIST_OFFSETS_PARTITION: Structure = structure(&[
    field("partition_index", I32),
    field("current_leader_epoch", I32).from(4),
    field("timestamp", I64),
]);

static METADATA: Structure = structure(&[
    field("topics", Kind::Array(&Kind::Structure(&METADATA_TOPIC))).nullable_from(1),
    field("allow_auto_topic_creation", BOOL).from(4),
    field("include_cluster_authorized_operations", BOOL).from(8).to(10),
    field("include_topic_authorized_operations", BOOL).from(8),
]);
static METADATA_TOPIC: Structure =
    structure(&[field("topic_id", UUID).from(10), field("name", STR).nullable_from(10)]);

static FIND_COORDINATOR: Structure = structure(&[
    field("key", STR).to(3),
    field("key_type", I8).from(1),
    field("coordinator_keys", Kind::Array(&STR)).from(4),
]);

static OFFSET_COMMIT: Structure = structure(&[
    field("group_id", STR),
    field("generation_id_or_member_epoch", I32),
    field("member_id", STR),
    field("group_instance_id", STR).from(7).nullable_from(7),
    field("retention_time_ms", I64).to(4),
    field("topics", Kind::Array(&Kind::Structure(&OFFSET_COMMIT_TOPIC))),
]);
static OFFSET_COMMIT_TOPIC: Structure = structure(&[
    field("name", STR),
    field("partitions", Kind::Array(&Kind::Structure(&OFFSET_COMMIT_PARTITION))),
]);
static OFFSET_COMMIT_PARTITION: Structure = structure(&[
    field("partition_index", I32),
    field("committed_offset", I64),
    field("committed_leader_epoch", I32).from(6),
    field("committed_metadata", STR).nullable_from(0),
]);

static OFFSET_FETCH: Structure = structure(&[
    field("group_id", STR).to(7),
    field("topics", Kind::Array(&Kind::Structure(&OFFSET_FETCH_TOPIC))).to(7).nullable_from(2),
    field("groups", Kind::Array(&Kind::Structure(&OFFSET_FETCH_GROUP))).from(8),
    field("require_stable", BOOL).from(7),
]);
static OFFSET_FETCH_TOPIC: Structure =
    structure(&[field("name", STR), field("partition_indexes", Kind::Array(&I32))]);
static OFFSET_FETCH_GROUP: Structure = structure(&[
    field("group_id", STR),
    field("member_id", STR).from(9).nullable_from(9),
    field("member_epoch", I32).from(9),
    field("topics", Kind::Array(&Kind::Structure(&OFFSET_FETCH_TOPIC))).nullable_from(8),
]);

static JOIN_GROUP: Structure = structure(&[
    field("group_id", STR),
    field("session_timeout_ms", I32),
    field("rebalance_timeout_ms", I32).from(1),
    field("member_id", STR),
    field("group_instance_id", STR).from(5).nullable_from(5),
    field("protocol_type", STR),
    field("protocols", Kind::Array(&Kind::Structure(&JOIN_GROUP_PROTOCOL))),
    field("reason", STR).from(8).nullable_from(8),
]);
static JOIN_GROUP_PROTOCOL: Structure = structure(&[field("name", STR), field("metadata", BYTES)]);

static CONSUMER_GROUP_HEARTBEAT: Structure = structure(&[
    field("group_id", STR),
    field("member_id", STR),
    field("member_epoch", I32),
    field("instance_id", STR).nullable_from(0),
    field("rack_id", STR).nullable_from(0),
    field("rebalance_timeout_ms", I32),
    field("subscribed_topic_names", Kind::Array(&STR)).nullable_from(0),
    field("subscribed_topic_regex", STR).from(1).nullable_from(1),
    field("server_assignor", STR).nullable_from(0),
    field("topic_partitions", Kind::Array(&Kind::Structure(&OWNED_PARTITIONS))).nullable_from(0),
]);
static OWNED_PARTITIONS: Structure =
    structure(&[field("topic_id", UUID), field("partitions", Kind::Array(&I32))]);

static CONSUMER_GROUP_DESCRIBE: Structure =
    structure(&[field("group_ids", Kind::Array(&STR)), field("include_authorized_operations", BOOL)]);

static HEARTBEAT: Structure = structure(&[
    field("group_id", STR),
    field("generation_id", I32),
    field("member_id", STR),
    field("group_instance_id", STR).from(3).nullable_from(3),
]);

static LEAVE_GROUP: Structure = structure(&[
    field("group_id", STR),
    field("member_id", STR).to(2),
    field("members", Kind::Array(&Kind::Structure(&LEAVING_MEMBER))).from(3),
]);
static LEAVING_MEMBER: Structure = structure(&[
    field("member_id", STR),
    field("group_instance_id", STR).nullable_from(3),
    field("reason", STR).from(5).nullable_from(5),
]);

static SYNC_GROUP: Structure = structure(&[
    field("group_id", STR),
    field("generation_id", I32),
    field("member_id", STR),
    field("group_instance_id", STR).from(3).nullable_from(3),
    field("protocol_type", STR).from(5).nullable_from(5),
    field("protocol_name", STR).from(5).nullable_from(5),
    field("assignments", Kind::Array(&Kind::Structure(&SYNC_GROUP_ASSIGNMENT))),
]);
static SYNC_GROUP_ASSIGNMENT: Structure = structure(&[field("member_id", STR), field("assignment", BYTES)]);

static DESCRIBE_GROUPS: Structure =
    structure(&[field("groups", Kind::Array(&STR)), field("include_authorized_operations", BOOL).from(3)]);

static LIST_GROUPS: Structure = structure(&[
    field("states_filter", Kind::Array(&STR)).from(4),
    field("types_filter", Kind::Array(&STR)).from(5),
]);

static DELETE_GROUPS: Structure = structure(&[field("groups_names", Kind::Array(&STR))]);

static OFFSET_DELETE: Structure = structure(&[
    field("group_id", STR),
    field("topics", Kind::Array(&Kind::Structure(&OFFSET_DELETE_TOPIC))),
]);
static OFFSET_DELETE_TOPIC: Structure = structure(&[
    field("name", STR),
    field("partitions", Kind::Array(&Kind::Structure(&OFFSET_DELETE_PARTITION))),
]);
static OFFSET_DELETE_PARTITION: Structure = structure(&[field("partition_index", I32)]);

static API_VERSIONS: Structure =
    structure(&[field("client_software_name", STR).from(3), field("client_software_version", STR).from(3)]);

static CREATE_TOPICS: Structure = structure(&[
    field("topics", Kind::Array(&Kind::Structure(&CREATABLE_TOPIC))),
    field("timeout_ms", I32),
    field("validate_only", BOOL),
]);
static CREATABLE_TOPIC: Structure = structure(&[
    field("name", STR),
    field("num_partitions", I32),
    field("replication_factor", I16),
    field("assignments", Kind::Array(&Kind::Structure(&CREATABLE_ASSIGNMENT))),
    field("configs", Kind::Array(&Kind::Structure(&CREATABLE_CONFIG))),
]);
static CREATABLE_ASSIGNMENT: Structure =
    structure(&[field("partition_index", I32), field("broker_ids", Kind::Array(&I32))]);
static CREATABLE_CONFIG: Structure = structure(&[field("name", STR), field("value", STR).nullable_from(0)]);

static DELETE_TOPICS: Structure = structure(&[
    field("topics", Kind::Array(&Kind::Structure(&DELETE_TOPIC))).from(6),
    field("topic_names", Kind::Array(&STR)).to(5),
    field("timeout_ms", I32),
]);
static DELETE_TOPIC: Structure = structure(&[field("name", STR).nullable_from(6), field("topic_id", UUID)]);

static DELETE_RECORDS: Structure = structure(&[
    field("topics", Kind::Array(&Kind::Structure(&DELETE_RECORDS_TOPIC))),
    field("timeout_ms", I32),
]);
static DELETE_RECORDS_TOPIC: Structure = structure(&[
    field("name", STR),
    field("partitions", Kind::Array(&Kind::Structure(&DELETE_RECORDS_PARTITION))),
]);
static DELETE_RECORDS_PARTITION: Structure =
    structure(&[field("partition_index", I32), field("offset", I64)]);

static INIT_PRODUCER_ID: Structure = structure(&[
    field("transactional_id", STR).nullable_from(0),
    field("transaction_timeout_ms", I32),
    field("producer_id", I64).from(3),
    field("producer_epoch", I16).from(3),
]);

static OFFSET_FOR_LEADER_EPOCH: Structure = structure(&[
    field("replica_id", I32).from(3),
    field("topics", Kind::Array(&Kind::Structure(&EPOCH_TOPIC))),
]);
static EPOCH_TOPIC: Structure =
    structure(&[field("topic", STR), field("partitions", Kind::Array(&Kind::Structure(&EPOCH_PARTITION)))]);
static EPOCH_PARTITION: Structure =
    structure(&[field("partition", I32), field("current_leader_epoch", I32), field("leader_epoch", I32)]);

static DESCRIBE_CONFIGS: Structure = structure(&[
    field("resources", Kind::Array(&Kind::Structure(&DESCRIBED_RESOURCE))),
    field("include_synonyms", BOOL),
    field("include_documentation", BOOL).from(3),
]);
static DESCRIBED_RESOURCE: Structure = structure(&[
    field("resource_type", I8),
    field("resource_name", STR),
    field("configuration_keys", Kind::Array(&STR)).nullable_from(0),
]);

static CREATE_PARTITIONS: Structure = structure(&[
    field("topics", Kind::Array(&Kind::Structure(&GROWING_TOPIC))),
    field("timeout_ms", I32),
    field("validate_only", BOOL),
]);
static GROWING_TOPIC: Structure = structure(&[
    field("name", STR),
    field("count", I32),
    field("assignments", Kind::Array(&Kind::Structure(&GROWING_ASSIGNMENT))).nullable_from(0),
]);
static GROWING_ASSIGNMENT: Structure = structure(&[field("broker_ids", Kind::Array(&I32))]);

static INCREMENTAL_ALTER_CONFIGS: Structure = structure(&[
    field("resources", Kind::Array(&Kind::Structure(&ALTERED_RESOURCE))),
    field("validate_only", BOOL),
]);
static ALTERED_RESOURCE: Structure = structure(&[
    field("resource_type", I8),
    field("resource_name", STR),
    field("configs", Kind::Array(&Kind::Structure(&ALTERED_CONFIG))),
]);
static ALTERED_CONFIG: Structure =
    structure(&[field("name", STR), field("config_operation", I8), field("value", STR).nullable_from(0)]);

static DESCRIBE_QUORUM: Structure =
    structure(&[field("topics", Kind::Array(&Kind::Structure(&QUORUM_TOPIC)))]);
static QUORUM_TOPIC: Structure = structure(&[
    field("topic_name", STR),
    field("partitions", Kind::Array(&Kind::Structure(&QUORUM_PARTITION))),
]);
static QUORUM_PARTITION: Structure = structure(&[field("partition_index", I32)]);

static ADD_RAFT_VOTER: Structure = structure(&[
    field("cluster_id", STR).nullable_from(0),
    field("timeout_ms", I32),
    field("voter_id", I32),
    field("voter_directory_id", UUID),
    field("listeners", Kind::Array(&Kind::Structure(&VOTER_LISTENER))),
]);
static VOTER_LISTENER: Structure = structure(&[field("name", STR), field("host", STR), field("port", I16)]);
static REMOVE_RAFT_VOTER: Structure = structure(&[
    field("cluster_id", STR).nullable_from(0),
    field("voter_id", I32),
    field("voter_directory_id", UUID),
]);

static UNREGISTER_BROKER: Structure = structure(&[field("broker_id", I32)]);

static DESCRIBE_CLUSTER: Structure = structure(&[
    field("include_cluster_authorized_operations", BOOL),
    field("endpoint_type", I8).from(1),
    field("include_fenced_brokers", BOOL).from(2),
]);

static DESCRIBE_PRODUCERS: Structure =
    structure(&[field("topics", Kind::Array(&Kind::Structure(&DESCRIBED_TOPIC)))]);
static DESCRIBED_TOPIC: Structure =
    structure(&[field("name", STR), field("partition_indexes", Kind::Array(&I32))]);

static WRITE_TXN_MARKERS: Structure =
    structure(&[field("markers", Kind::Array(&Kind::Structure(&WRITABLE_MARKER)))]);
static WRITABLE_MARKER: Structure = structure(&[
    field("producer_id", I64),
    field("producer_epoch", I16),
    field("transaction_result", BOOL),
    field("topics", Kind::Array(&Kind::Structure(&DESCRIBED_TOPIC))),
    field("coordinator_epoch", I32),
]);

static ALTER_CONFIGS: Structure = structure(&[
    field("resources", Kind::Array(&Kind::Structure(&REPLACED_RESOURCE))),
    field("validate_only", BOOL),
]);
static REPLACED_RESOURCE: Structure = structure(&[
    field("resource_type", I8),
    field("resource_name", STR),
    field("configs", Kind::Array(&Kind::Structure(&REPLACED_CONFIG))),
]);
static REPLACED_CONFIG: Structure = structure(&[field("name", STR), field("value", STR).nullable_from(0)]);

static DESCRIBE_LOG_DIRS: Structure =
    structure(&[field("topics", Kind::Array(&Kind::Structure(&LOG_DIR_TOPIC))).nullable_from(0)]);
static LOG_DIR_TOPIC: Structure = structure(&[field("topic", STR), field("partitions", Kind::Array(&I32))]);

static ELECT_LEADERS: Structure = structure(&[
    field("election_type", I8).from(1),
    field("topic_partitions", Kind::Array(&Kind::Structure(&ELECTED_TOPIC))).nullable_from(0),
    field("timeout_ms", I32),
]);
static ELECTED_TOPIC: Structure = structure(&[field("topic", STR), field("partitions", Kind::Array(&I32))]);

static ALTER_PARTITION_REASSIGNMENTS: Structure = structure(&[
    field("timeout_ms", I32),
    field("allow_replication_factor_change", BOOL).from(1),
    field("topics", Kind::Array(&Kind::Structure(&REASSIGNED_TOPIC))),
]);
static REASSIGNED_TOPIC: Structure = structure(&[
    field("name", STR),
    field("partitions", Kind::Array(&Kind::Structure(&REASSIGNED_PARTITION))),
]);
static REASSIGNED_PARTITION: Structure =
    structure(&[field("partition_index", I32), field("replicas", Kind::Array(&I32)).nullable_from(0)]);

static LIST_PARTITION_REASSIGNMENTS: Structure = structure(&[
    field("timeout_ms", I32),
    field("topics", Kind::Array(&Kind::Structure(&DESCRIBED_TOPIC))).nullable_from(0),
]);

static LIST_CONFIG_RESOURCES: Structure = structure(&[field("resource_types", Kind::Array(&I8)).from(1)]);

static DESCRIBE_TOPIC_PARTITIONS: Structure = structure(&[
    field("topics", Kind::Array(&Kind::Structure(&PAGED_TOPIC))),
    field("response_partition_limit", I32),
    field("cursor", Kind::Structure(&TOPIC_CURSOR)).nullable_from(0),
]);
static PAGED_TOPIC: Structure = structure(&[field("name", STR)]);
static TOPIC_CURSOR: Structure = structure(&[field("topic_name", STR), field("partition_index", I32)]);

static DESCRIBE_CLIENT_QUOTAS: Structure =
    structure(&[field("components", Kind::Array(&Kind::Structure(&QUOTA_FILTER))), field("strict", BOOL)]);
static QUOTA_FILTER: Structure =
    structure(&[field("entity_type", STR), field("match_type", I8), field("match", STR).nullable_from(0)]);

static ALTER_CLIENT_QUOTAS: Structure =
    structure(&[field("entries", Kind::Array(&Kind::Structure(&QUOTA_ENTRY))), field("validate_only", BOOL)]);
static QUOTA_ENTRY: Structure = structure(&[
    field("entity", Kind::Array(&Kind::Structure(&QUOTA_ENTITY))),
    field("ops", Kind::Array(&Kind::Structure(&QUOTA_OPERATION))),
]);
static QUOTA_ENTITY: Structure =
    structure(&[field("entity_type", STR), field("entity_name", STR).nullable_from(0)]);
static QUOTA_OPERATION: Structure =
    structure(&[field("key", STR), field("value", F64), field("remove", BOOL)]);

static GET_TELEMETRY_SUBSCRIPTIONS: Structure = structure(&[field("client_instance_id", UUID)]);

static PUSH_TELEMETRY: Structure = structure(&[
    field("client_instance_id", UUID),
    field("subscription_id", I32),
    field("terminating", BOOL),
    field("compression_type", I8),
    field("metrics", BYTES),
]);

static ADD_PARTITIONS_TO_TXN: Structure = structure(&[
    field("transactions", Kind::Array(&Kind::Structure(&ADDING_TRANSACTION))).from(4),
    field("v3_and_below_transactional_id", STR).to(3),
    field("v3_and_below_producer_id", I64).to(3),
    field("v3_and_below_producer_epoch", I16).to(3),
    field("v3_and_below_topics", Kind::Array(&Kind::Structure(&ADDED_TOPIC))).to(3),
]);
static ADDING_TRANSACTION: Structure = structure(&[
    field("transactional_id", STR),
    field("producer_id", I64),
    field("producer_epoch", I16),
    field("verify_only", BOOL),
    field("topics", Kind::Array(&Kind::Structure(&ADDED_TOPIC))),
]);
static ADDED_TOPIC: Structure = structure(&[field("name", STR), field("partitions", Kind::Array(&I32))]);

static ADD_OFFSETS_TO_TXN: Structure = structure(&[
    field("transactional_id", STR),
    field("producer_id", I64),
    field("producer_epoch", I16),
    field("group_id", STR),
]);

static END_TXN: Structure = structure(&[
    field("transactional_id", STR),
    field("producer_id", I64),
    field("producer_epoch", I16),
    field("committed", BOOL),
]);

static DESCRIBE_TRANSACTIONS: Structure = structure(&[field("transactional_ids", Kind::Array(&STR))]);

static LIST_TRANSACTIONS: Structure = structure(&[
    field("state_filters", Kind::Array(&STR)),
    field("producer_id_filters", Kind::Array(&I64)),
    field("duration_filter", I64).from(1),
    field("transactional_id_pattern", STR).from(2).nullable_from(2),
]);

static TXN_OFFSET_COMMIT: Structure = structure(&[
    field("transactional_id", STR),
    field("group_id", STR),
    field("producer_id", I64),
    field("producer_epoch", I16),
    field("generation_id", I32).from(3),
    field("member_id", STR).from(3),
    field("group_instance_id", STR).from(3).nullable_from(3),
    field("topics", Kind::Array(&Kind::Structure(&TXN_OFFSET_TOPIC))),
]);
static TXN_OFFSET_TOPIC: Structure = structure(&[
    field("name", STR),
    field("partitions", Kind::Array(&Kind::Structure(&TXN_OFFSET_PARTITION))),
]);
static TXN_OFFSET_PARTITION: Structure = structure(&[
    field("partition_index", I32),
    field("committed_offset", I64),
    field("committed_leader_epoch", I32).from(2),
    field("committed_metadata", STR).nullable_from(0),
]);
