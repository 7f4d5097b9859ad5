//! Default < file < environment < flags, and which of them won.
//!
//! A key that is not in the table is an error that names the nearest one: a misspelt setting that is
//! silently ignored is found in production.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::dynamic::DynamicLevel;
use super::memory::MemoryPlan;
use super::property::{self, DefaultValue, PROPERTIES, Property};
use super::value::{self, HostPort};
use super::{Config, LogFormat, ReplicaSelector, Routing, TimestampType};
use crate::types::NodeId;
use crate::types::limits;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    /// As it was written: `--data-dir`, `--set log.segment.bytes`.
    Flag(String),
    /// Made at run time, for all nodes or for this one.
    Dynamic(DynamicLevel),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(variable) => write!(f, "environment {variable}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
            Origin::Dynamic(DynamicLevel::Cluster) => f.write_str("set for all nodes"),
            Origin::Dynamic(DynamicLevel::Node) => f.write_str("set for this node"),
        }
    }
}

/// One setting's effective value.
#[derive(Clone, Debug)]
pub struct Entry {
    pub property: &'static Property,
    /// In Kafka's spelling (plain counts); empty when unset.
    pub value: String,
    pub origin: Origin,
}

/// What the machine allows; the defaults of `cores`, `cpus` and `memory` follow from it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The process's affinity mask, ascending.
    pub cpus_allowed: Vec<usize>,
    /// The smaller of the machine's memory and the control group's limit.
    pub memory_bytes: u64,
}

/// Everything that can set a value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs<'a> {
    pub file: Option<(&'a Path, &'a str)>,
    /// All variables; those without our prefix are ignored.
    pub environment: &'a [(String, String)],
    /// Flag as written, setting, value. A later one wins.
    pub flags: &'a [(String, String, String)],
}

/// Why there is no usable configuration. Each message says what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("unknown setting `{key}` ({origin}){}", suggestion(*.nearest))]
    UnknownKey { key: String, origin: Origin, nearest: Option<&'static str> },
    #[error("`{key}` cannot be `{value}` ({origin}): expected {expected}")]
    Invalid { key: &'static str, value: String, origin: Origin, expected: String },
    #[error("`{key}` is set twice in {}: keep one of them", .path.display())]
    SetTwice { key: &'static str, path: PathBuf },
    #[error("`{key}` in {} is not a number, a string, true or false", .path.display())]
    NotAScalar { key: String, path: PathBuf },
    #[error("{} is not valid TOML: {message}", .path.display())]
    Syntax { path: PathBuf, message: String },
    #[error(
        "{cores} cores were asked for, but only CPUs {allowed} are allowed: lower --cores, or widen the CPU affinity"
    )]
    TooManyCores { cores: usize, allowed: String },
    #[error("{cores} cores were asked for, but --cpus names {cpus}: make them agree")]
    CoresAndCpus { cores: usize, cpus: String },
    #[error("CPU {cpu} is not among those allowed ({allowed}): change --cpus or the CPU affinity")]
    CpuNotAllowed { cpu: usize, allowed: String },
    #[error("`data-dir` names {} twice: keep one of them", .path.display())]
    DataDirTwice { path: PathBuf },
    #[error(
        "`data-dir` names {}, which lies inside {}: choose directories beside each other",
        .inner.display(), .outer.display()
    )]
    DataDirNested { inner: PathBuf, outer: PathBuf },
    #[error("no room for {cores} broker ports after {port}: choose a lower port for --listen")]
    PortsPastEnd { cores: usize, port: u16 },
    #[error(
        "message.max.bytes ({message_max_bytes}) does not fit into a request of \
         socket.request.max.bytes ({socket_request_max_bytes}): lower one or raise the other"
    )]
    MessageAboveRequest { message_max_bytes: usize, socket_request_max_bytes: usize },
    #[error(
        "socket.request.max.bytes ({socket_request_max_bytes}) is more than each of {cores} cores can take \
         in ({taken_in} bytes): lower it, raise --memory to {needed} or lower --cores"
    )]
    RequestAboveMemory { socket_request_max_bytes: usize, taken_in: usize, cores: usize, needed: u64 },
    #[error(
        "--memory {memory_bytes} leaves {per_core} bytes for each of {cores} cores, and a core needs \
         at least {needed}: raise --memory or lower --cores"
    )]
    MemoryTooSmall { memory_bytes: u64, per_core: u64, cores: usize, needed: u64 },
    #[error("{name} ({value} ms) is not between {min} and {max} ms, as set by the limits beside it")]
    OutsideOfLimits { name: &'static str, value: u128, min: u128, max: u128 },
    #[error(
        "group.consumer.heartbeat.interval.ms ({interval}) is not below group.consumer.session.timeout.ms \
         ({timeout}): members would be given up between two heartbeats"
    )]
    HeartbeatAboveSession { interval: u128, timeout: u128 },
    #[error(
        "broker.session.timeout.ms ({timeout}) has room for less than two broker.heartbeat.interval.ms ({interval}): \
         nodes would be fenced for one late heartbeat"
    )]
    BrokerHeartbeats { interval: u128, timeout: u128 },
}

fn suggestion(nearest: Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!(": did you mean `{name}`?"),
        None => ": `odradek config` lists them all".to_string(),
    }
}

/// `socket.request.max.bytes` where nothing is set and memory allows (Kafka's default).
const REQUEST_MAX_DEFAULT: usize = 100 << 20;

/// Bytes a shard needs for its rings, receive buffers and commit buffers before it holds a record.
pub const MEMORY_PER_SHARD_MIN: u64 = 64 << 20;

/// Variables with our prefix that are not settings: the file's own name, and what Kubernetes puts
/// into every container beside a service named "odradek".
const ENVIRONMENT_IGNORED: [&str; 2] = ["ODRADEK_CONFIG", "ODRADEK_PORT"];
const ENVIRONMENT_IGNORED_PREFIXES: [&str; 2] = ["ODRADEK_SERVICE_", "ODRADEK_PORT_"];

type Assignments = BTreeMap<&'static str, (String, Origin)>;

impl Config {
    pub fn resolve(inputs: &Inputs<'_>, machine: &Machine) -> Result<Config, ConfigError> {
        let mut assigned = Assignments::new();
        if let Some((path, contents)) = inputs.file {
            assign_file(&mut assigned, path, contents)?;
        }
        assign_environment(&mut assigned, inputs.environment)?;
        for (flag, key, value) in inputs.flags {
            let origin = Origin::Flag(flag.clone());
            assigned.insert(known(key, &origin)?.name, (value.clone(), origin));
        }

        let mut config = blank();
        for property in PROPERTIES {
            config.apply(property, assigned.remove(property.name))?;
        }
        assert!(assigned.is_empty(), "only names of the table are assigned");
        config.fit_to(machine)?;
        config.check()?;
        Ok(config)
    }

    fn apply(
        &mut self,
        property: &'static Property,
        assigned: Option<(String, Origin)>,
    ) -> Result<(), ConfigError> {
        let (text, origin) = match (assigned, property.default) {
            (Some(assigned), _) => assigned,
            (None, DefaultValue::Text(text)) => (text.to_string(), Origin::Default),
            (None, DefaultValue::Derived(_)) => {
                self.entries.push(Entry { property, value: String::new(), origin: Origin::Default });
                return Ok(());
            }
        };
        match (property.apply)(self, text.trim()) {
            Ok(value) => {
                self.entries.push(Entry { property, value, origin });
                Ok(())
            }
            Err(expected) => Err(ConfigError::Invalid { key: property.name, value: text, origin, expected }),
        }
    }

    /// Gives what follows from the machine its value, and refuses what the machine does not have.
    fn fit_to(&mut self, machine: &Machine) -> Result<(), ConfigError> {
        let allowed = || value::format_cpu_list(&machine.cpus_allowed);
        match (self.cores, self.cpus.is_empty()) {
            (0, true) => self.cores = machine.cpus_allowed.len().min(limits::SHARDS_MAX),
            (0, false) => self.cores = self.cpus.len(),
            (_, true) => {}
            (cores, false) if cores != self.cpus.len() => {
                let cpus = value::format_cpu_list(&self.cpus);
                return Err(ConfigError::CoresAndCpus { cores, cpus });
            }
            (_, false) => {}
        }
        if self.cpus.is_empty() {
            self.cpus = machine.cpus_allowed.iter().copied().take(self.cores).collect();
        }
        if self.cpus.len() < self.cores {
            return Err(ConfigError::TooManyCores { cores: self.cores, allowed: allowed() });
        }
        if let Some(&cpu) = self.cpus.iter().find(|cpu| !machine.cpus_allowed.contains(cpu)) {
            return Err(ConfigError::CpuNotAllowed { cpu, allowed: allowed() });
        }
        if self.memory_bytes == 0 {
            self.memory_bytes = machine.memory_bytes / 2;
        }
        if self.socket_request_max_bytes == 0 {
            self.socket_request_max_bytes = REQUEST_MAX_DEFAULT.min(self.memory_plan().request_size_max());
        }
        self.derive("cores", self.cores.to_string());
        self.derive("cpus", value::format_cpu_list(&self.cpus));
        self.derive("memory", self.memory_bytes.to_string());
        self.derive("socket.request.max.bytes", self.socket_request_max_bytes.to_string());
        Ok(())
    }

    /// Shows the value that an unset setting got.
    fn derive(&mut self, name: &str, value: String) {
        let entry = self.entries.iter_mut().find(|entry| entry.property.name == name);
        let entry = entry.expect("the table has a row for it, and every row has an entry");
        if entry.origin == Origin::Default {
            entry.value = value;
        }
    }

    /// What only several settings together can violate.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_data_dirs()?;
        let per_core = self.memory_bytes_per_shard();
        if per_core < MEMORY_PER_SHARD_MIN {
            return Err(ConfigError::MemoryTooSmall {
                memory_bytes: self.memory_bytes,
                per_core,
                cores: self.cores,
                needed: MEMORY_PER_SHARD_MIN,
            });
        }
        let taken_in = self.memory_plan().request_size_max();
        if self.socket_request_max_bytes > taken_in {
            return Err(ConfigError::RequestAboveMemory {
                socket_request_max_bytes: self.socket_request_max_bytes,
                taken_in,
                cores: self.cores,
                needed: MemoryPlan::budget_for_request(self.socket_request_max_bytes) * self.cores as u64,
            });
        }
        if self.message_max_bytes > self.socket_request_max_bytes {
            return Err(ConfigError::MessageAboveRequest {
                message_max_bytes: self.message_max_bytes,
                socket_request_max_bytes: self.socket_request_max_bytes,
            });
        }
        let last_port = self.listen.port as usize + self.cores;
        if self.routing == Routing::Core && last_port > u16::MAX as usize {
            return Err(ConfigError::PortsPastEnd { cores: self.cores, port: self.listen.port });
        }
        let (interval, timeout) = (self.broker_heartbeat_interval, self.broker_session_timeout);
        if 2 * interval > timeout {
            let (interval, timeout) = (interval.as_millis(), timeout.as_millis());
            return Err(ConfigError::BrokerHeartbeats { interval, timeout });
        }
        self.check_consumer_groups()
    }

    fn check_consumer_groups(&self) -> Result<(), ConfigError> {
        let within = |name, value: Duration, min: Duration, max: Duration| {
            let (value, min, max) = (value.as_millis(), min.as_millis(), max.as_millis());
            match (min..=max).contains(&value) {
                true => Ok(value),
                false => Err(ConfigError::OutsideOfLimits { name, value, min, max }),
            }
        };
        let timeout = within(
            "group.consumer.session.timeout.ms",
            self.group_consumer_session_timeout,
            self.group_consumer_min_session_timeout,
            self.group_consumer_max_session_timeout,
        )?;
        let interval = within(
            "group.consumer.heartbeat.interval.ms",
            self.group_consumer_heartbeat_interval,
            self.group_consumer_min_heartbeat_interval,
            self.group_consumer_max_heartbeat_interval,
        )?;
        match interval < timeout {
            true => Ok(()),
            false => Err(ConfigError::HeartbeatAboveSession { interval, timeout }),
        }
    }

    fn check_data_dirs(&self) -> Result<(), ConfigError> {
        for (at, path) in self.data_dirs.iter().enumerate() {
            for other in &self.data_dirs[..at] {
                let (left, right) = (plain(path), plain(other));
                let nested = |inner: &PathBuf, outer: &PathBuf| ConfigError::DataDirNested {
                    inner: inner.clone(),
                    outer: outer.clone(),
                };
                if left == right {
                    return Err(ConfigError::DataDirTwice { path: path.clone() });
                } else if left.starts_with(&right) {
                    return Err(nested(path, other));
                } else if right.starts_with(&left) {
                    return Err(nested(other, path));
                }
            }
        }
        Ok(())
    }
}

/// A path as it was written, without what says nothing (`.`, a slash at its end). Links are followed at
/// start, when they can be.
fn plain(path: &Path) -> PathBuf {
    let parts: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    if parts.as_os_str().is_empty() { PathBuf::from(".") } else { parts }
}

fn known(key: &str, origin: &Origin) -> Result<&'static Property, ConfigError> {
    property::find(key).ok_or_else(|| ConfigError::UnknownKey {
        key: key.to_string(),
        origin: origin.clone(),
        nearest: property::nearest(key),
    })
}

fn assign_file(assigned: &mut Assignments, path: &Path, contents: &str) -> Result<(), ConfigError> {
    let table: toml::Table = contents.parse().map_err(|error: toml::de::Error| {
        let message = error.to_string().trim().to_string();
        ConfigError::Syntax { path: path.to_path_buf(), message }
    })?;
    let mut settings = Vec::new();
    flatten("", &table, path, &mut settings)?;
    for (key, value) in settings {
        let origin = Origin::File(path.to_path_buf());
        let name = known(&key, &origin)?.name;
        if assigned.insert(name, (value, origin)).is_some() {
            return Err(ConfigError::SetTwice { key: name, path: path.to_path_buf() });
        }
    }
    Ok(())
}

/// Joins nested tables with dots: an unquoted `log.segment.bytes` is three tables to TOML.
fn flatten(
    prefix: &str,
    table: &toml::Table,
    path: &Path,
    settings: &mut Vec<(String, String)>,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(table) => flatten(&key, table, path, settings)?,
            value => match scalar(value) {
                Some(text) => settings.push((key, text)),
                None => return Err(ConfigError::NotAScalar { key, path: path.to_path_buf() }),
            },
        }
    }
    Ok(())
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(integer) => Some(integer.to_string()),
        toml::Value::Boolean(boolean) => Some(boolean.to_string()),
        toml::Value::Array(items) => Some(items.iter().map(scalar).collect::<Option<Vec<_>>>()?.join(",")),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// An empty variable counts as unset, as in most shells' habits.
fn assign_environment(
    assigned: &mut Assignments,
    environment: &[(String, String)],
) -> Result<(), ConfigError> {
    for (variable, value) in environment {
        let Some(key) = variable.strip_prefix("ODRADEK_") else { continue };
        let ignored = ENVIRONMENT_IGNORED.contains(&variable.as_str())
            || ENVIRONMENT_IGNORED_PREFIXES.iter().any(|prefix| variable.starts_with(prefix));
        if ignored || value.is_empty() {
            continue;
        }
        let origin = Origin::Environment(variable.clone());
        let name = if key == "LOG" { "log-level" } else { known(key, &origin)?.name };
        assigned.insert(name, (value.clone(), origin));
    }
    Ok(())
}

/// Zeros, before the table's defaults are applied; never seen outside.
pub(super) fn blank() -> Config {
    let nowhere = HostPort { host: String::new(), port: 0 };
    Config {
        node_id: NodeId(0),
        data_dirs: Vec::new(),
        listen: nowhere,
        advertise: None,
        cores: 0,
        cpus: Vec::new(),
        routing: Routing::default(),
        memory_bytes: 0,
        rack: None,
        admin_listen: None,
        peer_listen: None,
        peer_advertise: None,
        join: Vec::new(),
        voters: Vec::new(),
        broker_heartbeat_interval: Duration::ZERO,
        broker_session_timeout: Duration::ZERO,
        metadata_bytes_between_snapshots: 0,
        log_format: LogFormat::default(),
        log_level: String::new(),
        journal: false,
        journal_file_size: 0,
        journal_files: 0,
        storage_min_free_bytes: 0,
        open_files: 0,
        unsafe_buffered_io: false,
        auto_create_topics_enable: false,
        delete_topic_enable: false,
        num_partitions: 0,
        default_replication_factor: 0,
        min_insync_replicas: None,
        replica_lag_time_max: Duration::ZERO,
        leader_replication_throttled_rate: None,
        follower_replication_throttled_rate: None,
        auto_leader_rebalance_enable: false,
        leader_imbalance_check_interval: Duration::ZERO,
        offsets_topic_replication_factor: 0,
        transaction_state_log_replication_factor: 0,
        max_request_partition_size_limit: 0,
        message_max_bytes: 0,
        socket_request_max_bytes: 0,
        max_connections: 0,
        connections_max_idle: None,
        replica_selector: ReplicaSelector::default(),
        fetch_max_bytes: 0,
        max_incremental_fetch_session_cache_slots: 0,
        log_segment_bytes: 0,
        log_roll_ms: None,
        log_roll_hours: Duration::ZERO,
        log_retention_ms: None,
        log_retention_minutes: None,
        log_retention_hours: None,
        log_retention_bytes: None,
        log_retention_check_interval: Duration::ZERO,
        log_segment_delete_delay: Duration::ZERO,
        log_index_interval_bytes: 0,
        log_index_size_max_bytes: 0,
        log_message_timestamp_type: TimestampType::default(),
        log_message_timestamp_before_max: Duration::ZERO,
        log_message_timestamp_after_max: Duration::ZERO,
        producer_id_expiration: Duration::ZERO,
        producer_id_expiration_check_interval: Duration::ZERO,
        transaction_partition_verification_enable: true,
        log_cleaner_enable: false,
        log_cleaner_backoff: Duration::ZERO,
        log_cleaner_dedupe_buffer_size: 0,
        log_cleaner_io_max_bytes_per_second: None,
        telemetry_max_bytes: 0,
        quota_window_num: 0,
        quota_window_size: Duration::ZERO,
        group_min_session_timeout: Duration::ZERO,
        group_max_session_timeout: Duration::ZERO,
        group_initial_rebalance_delay: Duration::ZERO,
        group_max_size: 0,
        group_consumer_session_timeout: Duration::ZERO,
        group_consumer_min_session_timeout: Duration::ZERO,
        group_consumer_max_session_timeout: Duration::ZERO,
        group_consumer_heartbeat_interval: Duration::ZERO,
        group_consumer_min_heartbeat_interval: Duration::ZERO,
        group_consumer_max_heartbeat_interval: Duration::ZERO,
        group_consumer_max_size: 0,
        group_consumer_assignors: Vec::new(),
        group_consumer_migration_policy: "",
        offset_metadata_max_bytes: 0,
        offsets_retention: Duration::ZERO,
        offsets_retention_check_interval: Duration::ZERO,
        offsets_topic_num_partitions: 0,
        offsets_topic_segment_bytes: 0,
        transaction_max_timeout: Duration::ZERO,
        transactional_id_expiration: Duration::ZERO,
        transaction_abort_interval: Duration::ZERO,
        transaction_expiration_interval: Duration::ZERO,
        transaction_state_log_num_partitions: 0,
        transaction_state_log_segment_bytes: 0,
        entries: Vec::with_capacity(PROPERTIES.len()),
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
