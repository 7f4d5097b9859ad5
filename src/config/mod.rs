//! Properties of the broker and of topics: Kafka's names, our types.
//!
//! | file | what |
//! |---|---|
//! | `property.rs` | the table of every broker setting: name, default, parser, what it means |
//! | `resolve.rs` | default < file < environment < flags, and which of them won |
//! | `value.rs` | sizes, durations, addresses |
//! | `dynamic.rs` | settings that change at run time |
//! | `quota.rs` | client quotas, and which of several counts |
//! | `client_metrics.rs` | subscriptions to what clients measure |
//! | `group.rs` | settings of one group |
//! | `topic.rs` | topic-level properties |
//!
//! Everything here is a function of its arguments: file contents, environment and the facts about
//! the machine are handed in, so that the same inputs give the same configuration.

pub mod client_metrics;
pub mod dynamic;
pub mod group;
pub mod memory;
pub mod property;
pub mod quota;
pub mod resolve;
pub mod topic;
pub mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::memory::MemoryPlan;
use crate::types::NodeId;

pub use property::{PROPERTIES, Property, ValueType};
pub use resolve::{ConfigError, Entry, Inputs, Machine, Origin};
pub use value::{HostPort, LogFormat, ReplicaSelector, Routing, TimestampType};

/// A node that is to have a vote, and where it listens to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    pub node: NodeId,
    pub address: HostPort,
}

/// The effective configuration of one node. Made by [`Config::resolve`], never changed after: what is set at
/// run time makes [another one](Config::with_dynamic).
///
/// Lives: one per process; every shard holds a copy.
/// Invariant: `cpus` holds one CPU per core; `message_max_bytes` fits in a request.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_id: NodeId,
    /// At least one; the first one has the metadata. None is twice in it, nor inside another.
    pub data_dirs: Vec<PathBuf>,
    /// Port 0 asks for any free one.
    pub listen: HostPort,
    /// What Metadata names. `None`: see [`Config::advertised`].
    pub advertise: Option<HostPort>,
    pub cores: usize,
    /// One per core, in shard order.
    pub cpus: Vec<usize>,
    pub routing: Routing,
    /// For the whole node; each shard gets an equal share.
    pub memory_bytes: u64,
    pub journal: bool,
    /// Bytes, a multiple of the disk's block.
    pub journal_file_size: u64,
    pub journal_files: u32,
    /// What appends leave of each log directory's file system.
    pub storage_min_free_bytes: u64,
    /// Segment files kept open, of the whole node.
    pub open_files: usize,
    pub rack: Option<String>,
    pub admin_listen: Option<HostPort>,
    /// Where other nodes of the cluster connect; `None`: there are none.
    pub peer_listen: Option<HostPort>,
    /// Where they are told to. `None`: see [`Config::peer_advertised`].
    pub peer_advertise: Option<HostPort>,
    /// Nodes of the cluster that an empty data directory is to belong to; none: it begins one.
    pub join: Vec<HostPort>,
    /// Who has a vote in the metadata quorum; none: the first three that have joined.
    pub voters: Vec<Voter>,
    pub broker_heartbeat_interval: Duration,
    /// Without a heartbeat for so long a node is fenced.
    pub broker_session_timeout: Duration,
    pub metadata_bytes_between_snapshots: u64,
    pub log_format: LogFormat,
    pub log_level: String,
    pub unsafe_buffered_io: bool,

    pub auto_create_topics_enable: bool,
    pub delete_topic_enable: bool,
    pub num_partitions: u32,
    pub default_replication_factor: u16,
    /// `None`: a majority of the topic's replication factor.
    pub min_insync_replicas: Option<u16>,
    pub replica_lag_time_max: Duration,
    /// Bytes per second of the whole node, of throttled leaders and followers. `None`: no limit.
    pub leader_replication_throttled_rate: Option<u64>,
    pub follower_replication_throttled_rate: Option<u64>,
    /// Whether leaders return to the preferred replicas by themselves, and how often that is looked for.
    pub auto_leader_rebalance_enable: bool,
    pub leader_imbalance_check_interval: Duration,
    pub offsets_topic_replication_factor: u16,
    pub transaction_state_log_replication_factor: u16,
    /// Partitions in one answer that comes page by page.
    pub max_request_partition_size_limit: usize,
    /// Largest record batch; topics may set their own.
    pub message_max_bytes: usize,
    pub socket_request_max_bytes: usize,
    /// Of the whole node.
    pub max_connections: usize,
    /// `None`: idle connections stay open.
    pub connections_max_idle: Option<Duration>,
    /// Which replica consumers are sent to.
    pub replica_selector: ReplicaSelector,
    /// Largest answer to one Fetch, whatever the client asks for.
    pub fetch_max_bytes: usize,
    pub max_incremental_fetch_session_cache_slots: usize,
    pub log_segment_bytes: u64,
    pub log_roll_ms: Option<Duration>,
    pub log_roll_hours: Duration,
    pub log_retention_ms: Option<Unlimited>,
    pub log_retention_minutes: Option<Unlimited>,
    pub log_retention_hours: Unlimited,
    /// Per partition. `None`: no limit.
    pub log_retention_bytes: Option<u64>,
    pub log_retention_check_interval: Duration,
    pub log_segment_delete_delay: Duration,
    pub log_index_interval_bytes: u32,
    pub log_index_size_max_bytes: u32,
    pub log_message_timestamp_type: TimestampType,
    /// How far a record's timestamp may lie behind the broker's clock.
    pub log_message_timestamp_before_max: Duration,
    pub log_message_timestamp_after_max: Duration,
    pub producer_id_expiration: Duration,
    pub producer_id_expiration_check_interval: Duration,
    /// Whether a transaction's coordinator is asked before its first batch is appended (KIP-890).
    pub transaction_partition_verification_enable: bool,
    pub log_cleaner_enable: bool,
    pub log_cleaner_backoff: Duration,
    /// Of the whole node.
    pub log_cleaner_dedupe_buffer_size: usize,
    /// Of the whole node. `None`: no limit.
    pub log_cleaner_io_max_bytes_per_second: Option<u64>,
    /// Of what a client pushes at once, compressed.
    pub telemetry_max_bytes: usize,
    pub quota_window_num: u32,
    pub quota_window_size: Duration,
    pub group_min_session_timeout: Duration,
    pub group_max_session_timeout: Duration,
    pub group_initial_rebalance_delay: Duration,
    pub group_max_size: usize,
    pub group_consumer_session_timeout: Duration,
    pub group_consumer_min_session_timeout: Duration,
    pub group_consumer_max_session_timeout: Duration,
    pub group_consumer_heartbeat_interval: Duration,
    pub group_consumer_min_heartbeat_interval: Duration,
    pub group_consumer_max_heartbeat_interval: Duration,
    pub group_consumer_max_size: usize,
    /// By name, each once; never empty.
    pub group_consumer_assignors: Vec<&'static str>,
    pub group_consumer_migration_policy: &'static str,
    pub offset_metadata_max_bytes: usize,
    pub offsets_retention: Duration,
    pub offsets_retention_check_interval: Duration,
    pub offsets_topic_num_partitions: u32,
    pub offsets_topic_segment_bytes: u64,
    /// The longest that a producer may ask for.
    pub transaction_max_timeout: Duration,
    pub transactional_id_expiration: Duration,
    /// How often transactions are looked for whose time is over.
    pub transaction_abort_interval: Duration,
    /// How often transactional ids are looked for that nobody uses.
    pub transaction_expiration_interval: Duration,
    pub transaction_state_log_num_partitions: u32,
    pub transaction_state_log_segment_bytes: u64,

    /// Every setting with its value and where it came from, in the order of [`PROPERTIES`].
    entries: Vec<Entry>,
}

/// A limit that may be absent (`None`), inside a property that may be absent itself.
pub type Unlimited = Option<Duration>;

impl Config {
    /// The configuration of a node that sets nothing.
    pub fn defaults(machine: &Machine) -> Result<Config, ConfigError> {
        Config::resolve(&Inputs::default(), machine)
    }

    /// The directory that has the metadata.
    pub fn metadata_dir(&self) -> &Path {
        &self.data_dirs[0]
    }

    /// Every setting with its value and where it came from.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where clients are told to connect: `advertise`, else where we listen.
    ///
    /// A wildcard address is of no use to a client: then it is the host's name, as in Kafka.
    /// `listening` is the address really bound, since the configured port may be 0.
    pub fn advertised(&self, listening: &HostPort, hostname: &str) -> HostPort {
        match &self.advertise {
            Some(advertise) => advertise.clone(),
            None if listening.is_wildcard() => HostPort { host: hostname.to_string(), port: listening.port },
            None => listening.clone(),
        }
    }

    /// Other nodes that know more of the cluster, most likely.
    pub fn seeds(&self) -> Vec<HostPort> {
        let voters = self.voters.iter().filter(|voter| voter.node != self.node_id);
        self.join.iter().chain(voters.map(|voter| &voter.address)).cloned().collect()
    }

    /// Where other nodes are told to connect: as clients are told. `None` where they cannot.
    pub fn peer_advertised(&self, listening: Option<&HostPort>, hostname: &str) -> Option<HostPort> {
        match (&self.peer_advertise, listening) {
            (_, None) => None,
            (Some(advertise), _) => Some(advertise.clone()),
            (None, Some(listening)) if listening.is_wildcard() => {
                Some(HostPort { host: hostname.to_string(), port: listening.port })
            }
            (None, Some(listening)) => Some(listening.clone()),
        }
    }

    /// Age at which a segment is closed: `log.roll.ms`, else `log.roll.hours`.
    pub fn log_roll(&self) -> Duration {
        self.log_roll_ms.unwrap_or(self.log_roll_hours)
    }

    /// Age past which segments are deleted, `None` for never. The finest unit that is set wins, as
    /// in Kafka.
    pub fn log_retention(&self) -> Option<Duration> {
        self.log_retention_ms.or(self.log_retention_minutes).unwrap_or(self.log_retention_hours)
    }

    /// Bytes that one shard may use for everything: buffers, indexes, queues.
    pub fn memory_bytes_per_shard(&self) -> u64 {
        self.memory_bytes / self.cores as u64
    }

    /// What each shard's share is divided into.
    pub fn memory_plan(&self) -> MemoryPlan {
        MemoryPlan::new(self.memory_bytes_per_shard() as usize)
    }
}
