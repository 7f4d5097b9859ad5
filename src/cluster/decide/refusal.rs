//! Why the controller refuses a topic or a resource, with Kafka's code and words.

use kafka_protocol::protocol::StrBytes;

use crate::cluster::levels::LevelNotKnown;
use crate::cluster::topic_name::InvalidTopicName;
use crate::cluster::wire_text;
use crate::codec::error_code::ErrorCode;
use crate::config::client_metrics::{InvalidSubscription, NAME_SIZE_MAX};
use crate::config::dynamic::NotDynamic;
use crate::config::group::InvalidGroupConfig;
use crate::config::topic::InvalidConfig;
use crate::types::BrokerId;
use crate::types::limits::{
    CLIENT_METRICS_SUBSCRIPTIONS_MAX, GROUP_CONFIGS_MAX, GROUP_ID_SIZE_MAX, PARTITIONS_MAX,
    PARTITIONS_PER_TOPIC_MAX,
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("The throttling quota has been exceeded.")]
    QuotaExceeded,
    #[error("Duplicate topic name.")]
    DuplicateTopicName,
    #[error("Duplicate topic id.")]
    DuplicateTopicId,
    #[error("The provided topic name maps to an ID that was already supplied.")]
    NameOfSuppliedId,
    #[error("Neither topic name nor id were specified.")]
    NeitherNameNorId,
    #[error("You may not specify both topic name and topic id.")]
    BothNameAndId,
    #[error("Creation of internal topic {0} is prohibited.")]
    InternalTopic(String),
    /// Ours: what coordinators keep is found by the number of partitions.
    #[error("The number of partitions of internal topic {0} cannot be changed.")]
    InternalPartitions(String),
    /// Ours: without compaction what coordinators keep would be deleted in time.
    #[error("Invalid value for configuration cleanup.policy: internal topic {0} has to be compacted")]
    InternalCompaction(String),
    #[error(transparent)]
    TopicName(#[from] InvalidTopicName),
    #[error("Topic '{name}' collides with existing topic: {existing}")]
    Collision { name: String, existing: String },
    #[error("Topic '{0}' already exists.")]
    TopicExists(String),
    #[error("This server does not host this topic-partition.")]
    UnknownTopic,
    #[error("The topic '{0}' does not exist.")]
    NoSuchTopic(String),
    #[error("This server does not host this topic ID.")]
    UnknownTopicId,
    #[error("Topic deletion is disabled.")]
    DeletionDisabled,
    /// Before DeleteTopics 3, which has no code for it.
    #[error("Topic deletion is disabled.")]
    DeletionDisabledOld,

    #[error("Number of partitions was set to an invalid non-positive value.")]
    NonPositivePartitions,
    #[error("Number of partitions {0} is above the maximum of {PARTITIONS_PER_TOPIC_MAX} per topic.")]
    TooManyPartitions(i64),
    #[error("Topic already has {0} partition(s).")]
    SamePartitions(usize),
    #[error("The topic {name} currently has {current} partition(s); {wanted} would not be an increase.")]
    FewerPartitions { name: String, current: usize, wanted: i32 },
    #[error("Replication factor must be larger than 0, or -1 to use the default value.")]
    NonPositiveReplicationFactor,
    #[error(
        "Unable to replicate the partition {wanted} time(s): The target replication factor of {wanted} cannot be \
         reached because only {nodes} broker(s) are registered."
    )]
    TooFewNodes { wanted: u16, nodes: usize },
    #[error(
        "Unable to replicate the partition {0} time(s): All brokers are currently fenced or in controlled shutdown."
    )]
    NobodyActive(u16),
    #[error(
        "All brokers specified in the manual partition assignment for partition {0} are fenced or in controlled \
         shutdown."
    )]
    AssignedToNobodyActive(usize),

    #[error("A manual partition assignment was specified, but replication factor was not set to -1.")]
    AssignmentAndReplicationFactor,
    #[error("A manual partition assignment was specified, but numPartitions was not set to -1.")]
    AssignmentAndPartitions,
    #[error("Found multiple manual partition assignments for partition {0}")]
    AssignedTwice(i32),
    #[error("partitions should be a consecutive 0-based integer sequence")]
    AssignmentGap,
    #[error(
        "Attempted to add {additional} additional partition(s), but only {assigned} assignment(s) were specified."
    )]
    AssignmentCount { additional: usize, assigned: usize },
    #[error("The manual partition assignment includes an empty replica list.")]
    EmptyAssignment,
    #[error("The manual partition assignment includes broker {0}, but no such broker is registered.")]
    UnknownBroker(BrokerId),
    #[error("The manual partition assignment includes the broker {0} more than once.")]
    BrokerTwice(BrokerId),
    /// Ours: cores of one node are brokers of their own, but share its fate.
    #[error(
        "The manual partition assignment includes broker {0}, but another broker of the same node as well."
    )]
    NodeTwice(BrokerId),
    /// Ours: a replica stays on its core while it is on its node.
    #[error(
        "The manual partition assignment includes a partition with {found} replica(s), but this is not consistent \
         with previous partitions, which have {expected} replica(s)."
    )]
    ReplicasDiffer { found: usize, expected: usize },

    #[error("Unable to find a topic named {0}.")]
    TopicNotFound(String),
    #[error("Unable to find partition {0}:{1}.")]
    PartitionNotFound(String, i32),
    #[error("No partition reassignment is in progress.")]
    NoReassignment,
    #[error(
        "Unable to revert partition assignment for {name}:{partition} because it would require an unclean leader \
         election."
    )]
    UncleanRevert { name: String, partition: i32 },
    #[error("The replication factor is changed from {from} to {to}")]
    ReplicationFactorChanged { from: usize, to: usize },

    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error("Null value not supported for topic configs: {0}")]
    NullConfigs(String),
    #[error("Each resource must appear at most once.")]
    DuplicateResource,
    #[error("Error due to duplicate config keys")]
    DuplicateConfigKeys,
    #[error("Null value not supported for : {0}")]
    NullValues(String),
    #[error("Unknown operations type {0}")]
    UnknownOperation(i8),
    #[error("Can't {operation} to key {key} because its type is not LIST.")]
    NotAList { operation: &'static str, key: String },
    #[error("Default topic resources are not allowed.")]
    DefaultTopicResource,
    #[error(transparent)]
    NotDynamic(#[from] NotDynamic),
    #[error("Node id must be an integer, but it is: {0}")]
    BrokerName(String),
    #[error("Unexpected broker id, expected {expected}, but received {found}")]
    OtherBroker { expected: String, found: BrokerId },
    #[error(transparent)]
    Subscription(#[from] InvalidSubscription),
    /// Ours: a bound.
    #[error("Subscription name can't be longer than {NAME_SIZE_MAX} bytes")]
    SubscriptionName,
    /// Ours: a bound.
    #[error("There are {CLIENT_METRICS_SUBSCRIPTIONS_MAX} client metrics subscriptions already.")]
    TooManySubscriptions,
    #[error("Default group resources are not allowed.")]
    DefaultGroupResource,
    #[error(transparent)]
    GroupConfig(#[from] InvalidGroupConfig),
    /// Ours: no group can have such an id.
    #[error("Group name can't be longer than {GROUP_ID_SIZE_MAX} bytes")]
    GroupName,
    /// Ours: a bound.
    #[error("{GROUP_CONFIGS_MAX} groups have settings of their own already.")]
    TooManyGroupConfigs,
    #[error("Unknown resource type {0}")]
    ResourceType(i8),

    /// Ours: there is no directory to put a partition into.
    #[error("All log directories of the broker are offline.")]
    NoLogDirectory,
    #[error("Unable to perform excessively large batch operation.")]
    ChangeTooLarge,
    #[error("The cluster would have more than {PARTITIONS_MAX} partitions.")]
    ClusterFull,
    /// Ours: builds side by side.
    #[error(transparent)]
    Level(#[from] LevelNotKnown),
}

impl Refusal {
    pub fn code(&self) -> ErrorCode {
        match self {
            Refusal::QuotaExceeded => ErrorCode::ThrottlingQuotaExceeded,
            Refusal::DuplicateTopicName
            | Refusal::DuplicateTopicId
            | Refusal::NameOfSuppliedId
            | Refusal::NeitherNameNorId
            | Refusal::BothNameAndId
            | Refusal::InternalTopic(_)
            | Refusal::InternalPartitions(_)
            | Refusal::DeletionDisabledOld
            | Refusal::AssignmentAndReplicationFactor
            | Refusal::AssignmentAndPartitions
            | Refusal::DuplicateResource
            | Refusal::DuplicateConfigKeys
            | Refusal::NullValues(_)
            | Refusal::UnknownOperation(_)
            | Refusal::DefaultTopicResource
            | Refusal::BrokerName(_)
            | Refusal::OtherBroker { .. }
            | Refusal::SubscriptionName
            | Refusal::DefaultGroupResource
            | Refusal::GroupName
            | Refusal::ResourceType(_) => ErrorCode::InvalidRequest,
            // Kafka has it so, and clients with it: a setting that cannot be applied is a wrong request.
            Refusal::NotDynamic(NotDynamic::Unknown(_)) => ErrorCode::InvalidConfig,
            Refusal::NotDynamic(
                NotDynamic::ReadOnly(_) | NotDynamic::Value { .. } | NotDynamic::Together(_),
            ) => ErrorCode::InvalidRequest,
            Refusal::Subscription(InvalidSubscription::NotANumber(_) | InvalidSubscription::Pattern(_)) => {
                ErrorCode::InvalidConfig
            }
            Refusal::Subscription(_) => ErrorCode::InvalidRequest,
            Refusal::TopicName(_) | Refusal::Collision { .. } => ErrorCode::InvalidTopicException,
            Refusal::TopicExists(_) => ErrorCode::TopicAlreadyExists,
            Refusal::UnknownTopic
            | Refusal::NoSuchTopic(_)
            | Refusal::TopicNotFound(_)
            | Refusal::PartitionNotFound(..) => ErrorCode::UnknownTopicOrPartition,
            Refusal::NoReassignment => ErrorCode::NoReassignmentInProgress,
            Refusal::UnknownTopicId => ErrorCode::UnknownTopicId,
            Refusal::DeletionDisabled => ErrorCode::TopicDeletionDisabled,
            Refusal::NonPositivePartitions
            | Refusal::TooManyPartitions(_)
            | Refusal::SamePartitions(_)
            | Refusal::FewerPartitions { .. } => ErrorCode::InvalidPartitions,
            Refusal::NonPositiveReplicationFactor
            | Refusal::TooFewNodes { .. }
            | Refusal::ReplicationFactorChanged { .. }
            | Refusal::NobodyActive(_) => ErrorCode::InvalidReplicationFactor,
            Refusal::AssignedTwice(_)
            | Refusal::AssignmentGap
            | Refusal::AssignmentCount { .. }
            | Refusal::EmptyAssignment
            | Refusal::UnknownBroker(_)
            | Refusal::BrokerTwice(_)
            | Refusal::NodeTwice(_)
            | Refusal::AssignedToNobodyActive(_)
            | Refusal::UncleanRevert { .. }
            | Refusal::ReplicasDiffer { .. } => ErrorCode::InvalidReplicaAssignment,
            Refusal::Config(_)
            | Refusal::GroupConfig(_)
            | Refusal::InternalCompaction(_)
            | Refusal::NullConfigs(_)
            | Refusal::NotAList { .. } => ErrorCode::InvalidConfig,
            Refusal::NoLogDirectory => ErrorCode::KafkaStorageError,
            Refusal::ChangeTooLarge
            | Refusal::ClusterFull
            | Refusal::TooManySubscriptions
            | Refusal::TooManyGroupConfigs => ErrorCode::PolicyViolation,
            Refusal::Level(_) => ErrorCode::UnsupportedVersion,
        }
    }

    pub(super) fn message(&self) -> Option<StrBytes> {
        wire_text::error_message(self)
    }
}
