//! What clients are told of the image: responses as functions of image and request.
//!
//! Nothing is decided here and nothing waits: any shard answers from its own copy.

mod client_quotas;
mod cluster;
mod configs;
mod metadata;
mod quorum;
mod reassignments;
mod topic_partitions;

pub use client_quotas::{QuotaFilter, described_client_quotas};
pub use cluster::{BrokerCores, BrokerLifecycle, describe_cluster};
pub use configs::{ConfigSource, ConfigView, ResourceType, describe_configs, list_config_resources};
pub use metadata::describe_metadata;
pub use quorum::{QuorumMember, QuorumState, ask_quorum, describe_quorum};
pub use reassignments::list_reassignments;
pub use topic_partitions::describe_topic_partitions;

/// Bits of the operations that a client may perform (Kafka `AclOperation`). Until there are ACLs,
/// all that exist for the resource.
pub mod operations {
    const READ: i32 = 1 << 3;
    const WRITE: i32 = 1 << 4;
    const CREATE: i32 = 1 << 5;
    const DELETE: i32 = 1 << 6;
    const ALTER: i32 = 1 << 7;
    const DESCRIBE: i32 = 1 << 8;
    const CLUSTER_ACTION: i32 = 1 << 9;
    const DESCRIBE_CONFIGS: i32 = 1 << 10;
    const ALTER_CONFIGS: i32 = 1 << 11;
    const IDEMPOTENT_WRITE: i32 = 1 << 12;

    pub const TOPIC: i32 =
        READ | WRITE | CREATE | DELETE | ALTER | DESCRIBE | DESCRIBE_CONFIGS | ALTER_CONFIGS;
    pub const CLUSTER: i32 =
        CREATE | ALTER | DESCRIBE | CLUSTER_ACTION | DESCRIBE_CONFIGS | ALTER_CONFIGS | IDEMPOTENT_WRITE;
    pub const GROUP: i32 = READ | DESCRIBE | DELETE | DESCRIBE_CONFIGS | ALTER_CONFIGS;
}
