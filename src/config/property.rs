//! The table of every broker setting.
//!
//! One row serves the file, the environment, the flags, `odradek config`, DescribeConfigs and the
//! README. The odradek names are also flags (`--data-dir`); the Kafka names keep Kafka's meaning
//! and defaults and are set on the command line by `--set`.
//!
//! | written as | where |
//! |---|---|
//! | `data-dir = "/srv/odradek"`, `log.segment.bytes = "512MiB"` | file |
//! | `ODRADEK_DATA_DIR`, `ODRADEK_LOG_SEGMENT_BYTES` | environment |
//! | `--data-dir /srv/odradek`, `--set log.segment.bytes=512MiB` | flags |

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::resolve::blank;
use super::value::{self, CompressionType, DurabilityMode, Expected, HostPort};
use super::{Config, LogFormat, Routing, TimestampType, Voter};
use crate::types::NodeId;
use crate::types::limits;

/// What DescribeConfigs says of a value (the wire's codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    List = 7,
}

/// Who gave the setting its name, and so where it may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Has a flag of its own.
    Odradek,
    Kafka,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    Text(&'static str),
    /// No text of its own: what happens instead.
    Derived(&'static str),
}

/// Parses, stores, and returns the value in the spelling that is shown.
type Apply = fn(&mut Config, &str) -> Result<String, Expected>;

/// One setting of the broker.
pub struct Property {
    pub name: &'static str,
    pub namespace: Namespace,
    pub value_type: ValueType,
    /// What stands after the flag in its help.
    pub placeholder: &'static str,
    pub default: DefaultValue,
    pub doc: &'static str,
    pub(super) apply: Apply,
}

impl std::fmt::Debug for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Property").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Property {
    /// The environment variable that sets it.
    pub fn environment(&self) -> String {
        format!("ODRADEK_{}", normalise(self.name).to_ascii_uppercase())
    }

    /// The default in Kafka's spelling; `None` where it follows from something else.
    pub fn default_value(&self) -> Option<String> {
        match self.default {
            DefaultValue::Text(text) => (self.apply)(&mut blank(), text).ok(),
            DefaultValue::Derived(_) => None,
        }
    }

    /// The default as documentation shows it.
    pub fn default_text(&self) -> &'static str {
        match self.default {
            DefaultValue::Text(text) | DefaultValue::Derived(text) => text,
        }
    }
}

/// The setting of that name, however it is written: `data-dir`, `data_dir`, `DATA_DIR`.
pub fn find(name: &str) -> Option<&'static Property> {
    let wanted = normalise(name);
    PROPERTIES.iter().find(|property| normalise(property.name) == wanted)
}

/// The name that was probably meant, for an error message.
pub fn nearest(name: &str) -> Option<&'static str> {
    /// What Kafka's own configuration calls something that we call differently.
    const KAFKA_NAMES: [(&str, &str); 7] = [
        ("broker.id", "node-id"),
        ("log.dir", "data-dir"),
        ("log.dirs", "data-dir"),
        ("listeners", "listen"),
        ("advertised.listeners", "advertise"),
        ("broker.rack", "rack"),
        ("num.network.threads", "cores"),
    ];
    /// Below it a suggestion is more confusing than none.
    const SIMILARITY_MIN: f64 = 0.7;
    let wanted = normalise(name);
    if let Some((_, ours)) = KAFKA_NAMES.iter().find(|(kafka, _)| normalise(kafka) == wanted) {
        return Some(ours);
    }
    let scored = PROPERTIES.iter().map(|property| {
        let similarity = strsim::normalized_damerau_levenshtein(&wanted, &normalise(property.name));
        (similarity, property.name)
    });
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= SIMILARITY_MIN).then_some(best.1)
}

fn normalise(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '-' | '.' => '_',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

/// Every setting as a Markdown table, for the README.
pub fn markdown() -> String {
    let mut table = String::from("| setting | default | what it does |\n|---|---|---|\n");
    for property in PROPERTIES {
        let default = match property.default {
            DefaultValue::Text(text) => format!("`{text}`"),
            DefaultValue::Derived(text) => text.to_string(),
        };
        table.push_str(&format!("| `{}` | {default} | {} |\n", property.name, property.doc));
    }
    table
}

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// Kafka's `Long.MAX_VALUE` of milliseconds.
const DURATION_MAX: Duration = Duration::from_millis(i64::MAX as u64);
const INT_MAX: u64 = i32::MAX as u64;

macro_rules! property {
    ($namespace:ident $name:literal, $type:ident $placeholder:literal, $default:expr, $apply:expr, $doc:literal) => {
        Property {
            name: $name,
            namespace: Namespace::$namespace,
            value_type: ValueType::$type,
            placeholder: $placeholder,
            default: $default,
            doc: $doc,
            apply: $apply,
        }
    };
}

use DefaultValue::{Derived, Text};

/// In the order in which they are shown.
pub const PROPERTIES: &[Property] = &[
    property!(Odradek "node-id", Int "ID", Text("1"),
        |config, text| {
            // Broker ids are node id × 1000 + shard under `core` routing.
            const NODE_ID_MAX: i64 = i32::MAX as i64 / 1000 - 1;
            let id = value::integer(text, 0..=NODE_ID_MAX)?;
            config.node_id = NodeId(id as i32);
            Ok(id.to_string())
        },
        "Identity of this node; fixed once its data directory exists."),
    property!(Odradek "data-dir", List "DIR", Text("./odradek-data"),
        |config, text| {
            config.data_dirs = directories(text)?;
            Ok(config.data_dirs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(","))
        },
        "Where everything is stored; repeated, or with commas between, for several disks, of which the first has the metadata. One broker at a time; local file systems with direct I/O."),
    property!(Odradek "listen", String "HOST:PORT", Text("127.0.0.1:9092"),
        |config, text| store(&mut config.listen, text.parse::<HostPort>()),
        "Where Kafka clients connect. Under `core` routing it is the bootstrap port."),
    property!(Odradek "advertise", String "HOST:PORT", Derived("where it listens"),
        |config, text| store_some(&mut config.advertise, text.parse::<HostPort>()),
        "The address that clients are told to connect to."),
    property!(Odradek "cores", Int "N", Derived("every CPU the process may use"),
        |config, text| {
            config.cores = value::integer(text, 1..=limits::SHARDS_MAX as i64)? as usize;
            Ok(config.cores.to_string())
        },
        "Shards to run, one executor pinned to each CPU."),
    property!(Odradek "cpus", List "LIST", Derived("the first ones the process may use"),
        |config, text| {
            config.cpus = value::cpu_list(text)?;
            Ok(value::format_cpu_list(&config.cpus))
        },
        "The CPUs to pin the shards to, such as `0-3,6`."),
    property!(Odradek "routing", String "node|core", Text("node"),
        |config, text| store(&mut config.routing, text.parse::<Routing>()),
        "`node`: one broker on one port. `core`: each core is a broker of its own on port + 1 + shard."),
    property!(Odradek "memory", Long "SIZE", Derived("half of the machine's or its cgroup's memory"),
        |config, text| store(&mut config.memory_bytes, value::size(text, 64 << 20..=1 << 50)),
        "Memory budget of the whole node."),
    property!(Odradek "journal", Boolean "BOOL", Text("true"),
        |config, text| store(&mut config.journal, value::switch(text)),
        "Commit small batches of all partitions of a core in one journal with one flush."),
    property!(Odradek "journal-file-size", Long "SIZE", Text("256MiB"),
        |config, text| store(&mut config.journal_file_size,
            value::size(text, 4 << 20..=1 << 40).map(|bytes| bytes / 4096 * 4096)),
        "Size of each file of a core's journal."),
    property!(Odradek "journal-files", Int "N", Text("4"),
        |config, text| {
            config.journal_files = value::integer(text, 2..=1024)? as u32;
            Ok(config.journal_files.to_string())
        },
        "Files of a core's journal; made when they are needed, then used again and again."),
    property!(Odradek "storage-min-free-bytes", Long "SIZE", Text("64MiB"),
        |config, text| store(&mut config.storage_min_free_bytes, value::size(text, 0..=1 << 50)),
        "Left free on the disk of each log directory: produce is refused before, and what makes room, metadata and checkpoints can still be written."),
    property!(Odradek "open-files", Int "N", Text("16384"),
        |config, text| {
            config.open_files = value::integer(text, 16..=1 << 20)? as usize;
            Ok(config.open_files.to_string())
        },
        "Segment files kept open, over all cores; the least recently used is closed past it. Less where the limit of open files is low."),
    property!(Odradek "rack", String "NAME", Derived("none"),
        |config, text| store_some(&mut config.rack, non_empty(text, "a name").map(str::to_string)),
        "Failure domain reported to clients."),
    property!(Odradek "admin-listen", String "HOST:PORT", Text("127.0.0.1:9644"),
        |config, text| match text {
            "none" => { config.admin_listen = None; same(text) }
            _ => store_some(&mut config.admin_listen,
                text.parse::<HostPort>().map_err(|expected| format!("{expected}, or none"))),
        },
        "Metrics and health over HTTP; `none` turns it off."),
    property!(Odradek "peer-listen", String "HOST:PORT", Text("none"),
        |config, text| match text {
            "none" => { config.peer_listen = None; same(text) }
            _ => store_some(&mut config.peer_listen,
                text.parse::<HostPort>().map_err(|expected| format!("{expected}, or none"))),
        },
        "Where other nodes of the cluster connect; `none` for a node that is alone."),
    property!(Odradek "peer-advertise", String "HOST:PORT", Derived("where it listens to other nodes"),
        |config, text| store_some(&mut config.peer_advertise, text.parse::<HostPort>()),
        "The address that other nodes are told to connect to."),
    property!(Odradek "join", List "HOST:PORT", Text("none"),
        |config, text| {
            config.join = match text {
                "none" => Vec::new(),
                _ => addresses(text)?,
            };
            same(text)
        },
        "Where nodes of a cluster listen to others: an empty data directory joins that cluster instead of beginning one. Repeated, or with commas between."),
    property!(Odradek "voters", List "ID@HOST:PORT", Text("none"),
        |config, text| {
            config.voters = match text {
                "none" => Vec::new(),
                _ => voters(text)?,
            };
            same(text)
        },
        "The 1, 3 or 5 nodes that have a vote in the metadata quorum, and where each listens to others; `none`: the first three that have joined. Others follow as observers. The same on all nodes. Repeated, or with commas between."),
    property!(Kafka "metadata.log.max.record.bytes.between.snapshots", Long "SIZE", Text("20MiB"),
        |config, text| store(&mut config.metadata_bytes_between_snapshots, value::size(text, 64 << 10..=1 << 40)),
        "Size from which the log of the metadata is replaced by a snapshot while the node runs, and again when it has doubled since."),
    property!(Kafka "broker.heartbeat.interval.ms", Long "MS", Text("250"),
        |config, text| duration(&mut config.broker_heartbeat_interval, text, MS),
        "How often a node tells the controller that it is there."),
    property!(Kafka "broker.session.timeout.ms", Long "MS", Text("1000"),
        |config, text| duration(&mut config.broker_session_timeout, text, MS),
        "Without a heartbeat for so long a node is fenced: others lead its partitions, if they can. Kafka waits 9 seconds; here nothing but the network and a shard that is busy delays a heartbeat, and who leads nothing any more costs its clients less than who is not there. The same on all nodes."),
    property!(Odradek "log-format", String "auto|human|json", Text("auto"),
        |config, text| store(&mut config.log_format, text.parse::<LogFormat>()),
        "How log lines look; `auto` is human on a terminal and JSON elsewhere."),
    property!(Odradek "log-level", String "FILTER", Text("info"),
        |config, text| store(&mut config.log_level, non_empty(text, "a level such as info, or a filter")
            .map(str::to_string)),
        "What is logged: a level or a tracing filter. `ODRADEK_LOG` sets it too."),
    property!(Odradek "unsafe-buffered-io", Boolean "BOOL", Text("false"),
        |config, text| store(&mut config.unsafe_buffered_io, value::boolean(text)),
        "Accept a file system without direct I/O. For development only: durability is not promised."),
    property!(Kafka "auto.create.topics.enable", Boolean "BOOL", Text("true"),
        |config, text| store(&mut config.auto_create_topics_enable, value::boolean(text)),
        "Create a topic when a client asks for its metadata."),
    property!(Kafka "delete.topic.enable", Boolean "BOOL", Text("true"),
        |config, text| store(&mut config.delete_topic_enable, value::boolean(text)),
        "Whether topics can be deleted."),
    property!(Kafka "num.partitions", Int "N", Text("1"),
        |config, text| {
            config.num_partitions = value::integer(text, 1..=limits::PARTITIONS_PER_TOPIC_MAX as i64)? as u32;
            Ok(config.num_partitions.to_string())
        },
        "Partitions of a topic that does not say."),
    property!(Kafka "default.replication.factor", Int "N", Text("1"),
        |config, text| {
            config.default_replication_factor = value::integer(text, 1..=i16::MAX as i64)? as u16;
            Ok(config.default_replication_factor.to_string())
        },
        "Replicas of a topic that does not say."),
    property!(Kafka "min.insync.replicas", Int "N", Derived("a majority of the replication factor"),
        |config, text| {
            let replicas = value::integer(text, 1..=i16::MAX as i64)?;
            config.min_insync_replicas = Some(replicas as u16);
            Ok(replicas.to_string())
        },
        "Replicas that must hold a record before `acks=all` is answered."),
    property!(Kafka "unclean.leader.election.enable", Boolean "BOOL", Text("false"),
        |_, text| value::boolean(text).map(|is_enabled| is_enabled.to_string()),
        "Whether a replica that is not in sync leads where no other can: what it lacks is lost."),
    property!(Kafka "auto.leader.rebalance.enable", Boolean "BOOL", Text("true"),
        |config, text| store(&mut config.auto_leader_rebalance_enable, value::boolean(text)),
        "Whether partitions are led by the first of their replicas again once that is alive and in sync, and \
         cores that have more of them than others of their node give them some."),
    property!(Kafka "leader.imbalance.check.interval.seconds", Long "S", Text("300"),
        |config, text| {
            const SECOND: Duration = Duration::from_secs(1);
            let interval = value::duration(text, SECOND, SECOND..=DURATION_MAX)?;
            config.leader_imbalance_check_interval = interval;
            count(Some(interval), SECOND)
        },
        "How often the controller looks for such partitions."),
    property!(Kafka "leader.imbalance.per.broker.percentage", Int "PERCENT", Text("10"),
        |_, text| value::integer(text, 0..=INT_MAX as i64).map(|percent| percent.to_string()),
        "Without effect, as in Kafka since controllers are a quorum: the first replica leads wherever it can."),
    property!(Kafka "replica.lag.time.max.ms", Long "MS", Text("30000"),
        |config, text| duration(&mut config.replica_lag_time_max, text, MS),
        "A replica that has not had all that its leader has for so long is not in sync any more."),
    property!(Kafka "leader.replication.throttled.rate", Long "SIZE", Text("9223372036854775807"),
        |config, text| rate(&mut config.leader_replication_throttled_rate, text),
        "Bytes per second that this node, over all its cores, sends to replicas that catch up, of the leaders in `leader.replication.throttled.replicas` of their topics (KIP-73)."),
    property!(Kafka "follower.replication.throttled.rate", Long "SIZE", Text("9223372036854775807"),
        |config, text| rate(&mut config.follower_replication_throttled_rate, text),
        "Bytes per second that replicas on this node, over all its cores, are sent while they catch up, of those in `follower.replication.throttled.replicas` of their topics."),
    property!(Kafka "replica.alter.log.dirs.io.max.bytes.per.second", Long "SIZE", Text("9223372036854775807"),
        |_, text| value::size(text, 0..=i64::MAX as u64).map(|bytes| bytes.to_string()),
        "Without effect, as replicas do not move between log directories; Kafka's tools set it and take it away."),
    property!(Kafka "max.request.partition.size.limit", Int "N", Text("2000"),
        |config, text| {
            config.max_request_partition_size_limit = value::integer(text, 1..=i32::MAX as i64)? as usize;
            Ok(config.max_request_partition_size_limit.to_string())
        },
        "Partitions in one answer to DescribeTopicPartitions."),
    property!(Kafka "message.max.bytes", Int "SIZE", Text("1048588"),
        |config, text| size(&mut config.message_max_bytes, text, 1..=INT_MAX),
        "Largest record batch, as sent."),
    property!(Kafka "socket.request.max.bytes", Int "SIZE",
        Derived("104857600, or what a core's share of the memory can take in if that is less"),
        |config, text| size(&mut config.socket_request_max_bytes, text, 1024..=INT_MAX),
        "Largest request. It has to fit into seven eighths of what a core has for receiving, an eighth of its memory."),
    property!(Kafka "max.connections", Int "N", Text("20000"),
        |config, text| {
            config.max_connections = value::integer(text, 1..=i32::MAX as i64)? as usize;
            Ok(config.max_connections.to_string())
        },
        "Client connections of the whole node, whichever cores they reach; more are refused."),
    property!(Kafka "connections.max.idle.ms", Long "MS", Text("600000"),
        |config, text| duration_or_none(&mut config.connections_max_idle, text, MS),
        "Close a connection that sent nothing for so long; -1: never."),
    property!(Kafka "replica.selector.class", String "leader|rack-aware", Text("leader"),
        |config, text| store(&mut config.replica_selector, value::replica_selector(text)),
        "Which replica consumers read from: `leader`, or `rack-aware`, one in sync in the rack that they name, where the leader is in another one. Kafka's names of these classes will do."),
    property!(Kafka "fetch.max.bytes", Int "SIZE", Text("57671680"),
        |config, text| size(&mut config.fetch_max_bytes, text, 1024..=INT_MAX),
        "Largest answer to one Fetch."),
    property!(Kafka "max.incremental.fetch.session.cache.slots", Int "N", Text("1000"),
        |config, text| {
            let slots = value::integer(text, 0..=limits::FETCH_SESSIONS_MAX as i64)?;
            config.max_incremental_fetch_session_cache_slots = slots as usize;
            Ok(slots.to_string())
        },
        "Incremental fetch sessions kept by each shard."),
    property!(Kafka "log.segment.bytes", Int "SIZE", Text("1073741824"),
        |config, text| store(&mut config.log_segment_bytes, value::size(text, SEGMENT_BYTES)),
        "Size at which a segment is closed."),
    property!(Kafka "log.roll.ms", Long "MS", Derived("`log.roll.hours`"),
        |config, text| {
            let age = value::duration(text, MS, MS..=DURATION_MAX)?;
            config.log_roll_ms = Some(age);
            milliseconds(age)
        },
        "Age at which a segment is closed."),
    property!(Kafka "log.roll.hours", Int "HOURS", Text("168"),
        |config, text| {
            config.log_roll_hours = value::duration(text, HOUR, MS..=DURATION_MAX)?;
            count(Some(config.log_roll_hours), HOUR)
        },
        "The same in hours."),
    property!(Kafka "log.retention.ms", Long "MS", Derived("`log.retention.minutes`"),
        |config, text| retention(&mut config.log_retention_ms, text, MS),
        "Age past which records are deleted; -1: never."),
    property!(Kafka "log.retention.minutes", Int "MINUTES", Derived("`log.retention.hours`"),
        |config, text| retention(&mut config.log_retention_minutes, text, MINUTE),
        "The same in minutes."),
    property!(Kafka "log.retention.hours", Int "HOURS", Text("168"),
        |config, text| {
            config.log_retention_hours = value::duration_or_unlimited(text, HOUR, MS..=DURATION_MAX)?;
            count(config.log_retention_hours, HOUR)
        },
        "The same in hours."),
    property!(Kafka "log.retention.bytes", Long "SIZE", Text("-1"),
        |config, text| {
            config.log_retention_bytes = value::size_or_unlimited(text, 0..=i64::MAX as u64)?;
            Ok(config.log_retention_bytes.map_or("-1".to_string(), |bytes| bytes.to_string()))
        },
        "Size of a partition past which its oldest segments are deleted; -1: no limit."),
    property!(Kafka "log.retention.check.interval.ms", Long "MS", Text("300000"),
        |config, text| duration(&mut config.log_retention_check_interval, text, MS),
        "How often retention is looked at."),
    property!(Kafka "log.segment.delete.delay.ms", Long "MS", Text("60000"),
        |config, text| duration(&mut config.log_segment_delete_delay, text, Duration::ZERO),
        "How long the files of a deleted segment stay."),
    property!(Kafka "log.index.interval.bytes", Int "SIZE", Text("4096"),
        |config, text| size32(&mut config.log_index_interval_bytes, text, 0..=INT_MAX),
        "Log bytes between two entries of the offset index."),
    property!(Kafka "log.index.size.max.bytes", Int "SIZE", Text("10485760"),
        |config, text| size32(&mut config.log_index_size_max_bytes, text, 12..=INT_MAX),
        "Size of an index at which its segment is closed."),
    property!(Kafka "log.message.timestamp.type", String "TYPE", Text("CreateTime"),
        |config, text| store(&mut config.log_message_timestamp_type, text.parse::<TimestampType>()),
        "Whose clock stamps records: `CreateTime` (the producer's) or `LogAppendTime` (the broker's)."),
    property!(Kafka "log.message.timestamp.before.max.ms", Long "MS", Text("9223372036854775807"),
        |config, text| duration(&mut config.log_message_timestamp_before_max, text, Duration::ZERO),
        "How far a record's timestamp may lie behind the broker's clock."),
    property!(Kafka "log.message.timestamp.after.max.ms", Long "MS", Text("3600000"),
        |config, text| duration(&mut config.log_message_timestamp_after_max, text, Duration::ZERO),
        "How far a record's timestamp may lie ahead of the broker's clock."),
    property!(Kafka "compression.type", String "CODEC", Text("producer"),
        |_, text| text.parse::<CompressionType>().map(|codec| codec.to_string()),
        "How batches are stored: `producer`, as they were sent; or compressed anew where their codec is another one: `uncompressed`, `gzip`, `snappy`, `lz4`, `zstd`."),
    property!(Kafka "compression.gzip.level", Int "LEVEL", Text("-1"),
        |_, text| value::integer(text, -1..=9).map(|level| level.to_string()),
        "The level of `gzip`; -1: the usual one."),
    property!(Kafka "compression.lz4.level", Int "LEVEL", Text("9"),
        |_, text| value::integer(text, 1..=17).map(|level| level.to_string()),
        "That of `lz4`. Without effect: there is one level."),
    property!(Kafka "compression.zstd.level", Int "LEVEL", Text("3"),
        |_, text| value::integer(text, -131_072..=22).map(|level| level.to_string()),
        "That of `zstd`."),
    property!(Kafka "odradek.durability", String "fsync|write", Text("fsync"),
        |_, text| text.parse::<DurabilityMode>().map(|mode| mode.to_string()),
        "What an acknowledgement waits for: `fsync`, a flush; `write`, the write, and a lost power may take the last second."),
    property!(Kafka "log.flush.interval.messages", Long "N", Text("9223372036854775807"),
        |_, text| value::integer(text, 1..=i64::MAX).map(|count| count.to_string()),
        "Under `write`: so many records are never acknowledged without a flush."),
    property!(Kafka "log.flush.interval.ms", Long "MS", Derived("one second"),
        |_, text| milliseconds(value::duration(text, MS, Duration::ZERO..=DURATION_MAX)?),
        "Under `write`: how long a written record waits for its flush, one second at most."),
    property!(Kafka "producer.id.expiration.ms", Int "MS", Text("86400000"),
        |config, text| duration(&mut config.producer_id_expiration, text, MS),
        "How long a producer that sends nothing is remembered; one with an open transaction is until that ends."),
    property!(Kafka "producer.id.expiration.check.interval.ms", Int "MS", Text("600000"),
        |config, text| duration(&mut config.producer_id_expiration_check_interval, text, MS),
        "How often to look for producers that send nothing."),
    property!(Kafka "transaction.partition.verification.enable", Boolean "BOOL", Text("true"),
        |config, text| store(&mut config.transaction_partition_verification_enable, value::boolean(text)),
        "Whether a transaction's coordinator is asked before a partition takes its first batch; without it a batch that comes late may leave a transaction open for ever."),
    property!(Kafka "log.cleanup.policy", List "POLICY", Text("delete"),
        |_, text| same(text),
        "What happens to old records of a topic that does not say: `delete`, `compact`, or both with a comma between."),
    property!(Kafka "log.cleaner.enable", Boolean "BOOL", Text("true"),
        |config, text| store(&mut config.log_cleaner_enable, value::boolean(text)),
        "Whether compacted topics are compacted."),
    property!(Kafka "log.cleaner.backoff.ms", Long "MS", Text("15000"),
        |config, text| duration(&mut config.log_cleaner_backoff, text, MS),
        "How often to look for a log to compact, when there was none."),
    property!(Kafka "log.cleaner.dedupe.buffer.size", Long "SIZE", Text("134217728"),
        |config, text| size(&mut config.log_cleaner_dedupe_buffer_size, text, 1024..=i64::MAX as u64),
        "Memory for the keys of logs that are being compacted, over all cores; what does not fit takes another pass."),
    property!(Kafka "log.cleaner.io.max.bytes.per.second", Long "SIZE", Text("-1"),
        |config, text| {
            config.log_cleaner_io_max_bytes_per_second = value::size_or_unlimited(text, 1..=i64::MAX as u64)?;
            Ok(config.log_cleaner_io_max_bytes_per_second.map_or("-1".to_string(), |bytes| bytes.to_string()))
        },
        "Bytes that compaction reads and writes per second, over all cores; -1: no limit."),
    property!(Kafka "log.cleaner.min.cleanable.ratio", String "RATIO", Text("0.5"),
        |_, text| same(text),
        "Uncompacted share of a log at which it is compacted."),
    property!(Kafka "log.cleaner.min.compaction.lag.ms", Long "MS", Text("0"),
        |_, text| milliseconds(value::duration(text, MS, Duration::ZERO..=DURATION_MAX)?),
        "How long a record stays uncompacted at least."),
    property!(Kafka "log.cleaner.max.compaction.lag.ms", Long "MS", Text("9223372036854775807"),
        |_, text| milliseconds(value::duration(text, MS, MS..=DURATION_MAX)?),
        "How long a record stays uncompacted at most."),
    property!(Kafka "log.cleaner.delete.retention.ms", Long "MS", Text("86400000"),
        |_, text| milliseconds(value::duration(text, MS, Duration::ZERO..=DURATION_MAX)?),
        "How long the tombstones of a compacted log stay."),
    property!(Kafka "telemetry.max.bytes", Int "SIZE", Text("1048576"),
        |config, text| size(&mut config.telemetry_max_bytes, text, 1..=INT_MAX),
        "Largest push of what a client measures of itself, compressed."),
    property!(Kafka "quota.window.num", Int "N", Text("11"),
        |config, text| {
            config.quota_window_num = value::integer(text, 1..=1000)? as u32;
            Ok(config.quota_window_num.to_string())
        },
        "Windows over which client quotas are counted, the one that is being filled among them."),
    property!(Kafka "quota.window.size.seconds", Int "N", Text("1"),
        |config, text| {
            let seconds = value::integer(text, 1..=3600)?;
            config.quota_window_size = Duration::from_secs(seconds as u64);
            Ok(seconds.to_string())
        },
        "How long each of them is."),
    property!(Kafka "group.min.session.timeout.ms", Int "MS", Text("6000"),
        |config, text| duration(&mut config.group_min_session_timeout, text, Duration::ZERO),
        "Shortest session time-out that a member of a group may ask for."),
    property!(Kafka "group.max.session.timeout.ms", Int "MS", Text("1800000"),
        |config, text| duration(&mut config.group_max_session_timeout, text, Duration::ZERO),
        "The longest."),
    property!(Kafka "group.initial.rebalance.delay.ms", Int "MS", Text("3000"),
        |config, text| duration(&mut config.group_initial_rebalance_delay, text, Duration::ZERO),
        "How long an empty group waits for more members, so that those that start together share one rebalance."),
    property!(Kafka "group.max.size", Int "N", Text("2147483647"),
        |config, text| {
            config.group_max_size = value::integer(text, 1..=INT_MAX as i64)? as usize;
            Ok(config.group_max_size.to_string())
        },
        "Members of a group; never more than 10,000."),
    property!(Kafka "group.consumer.session.timeout.ms", Int "MS", Text("45000"),
        |config, text| duration(&mut config.group_consumer_session_timeout, text, MS),
        "Session time-out of members of the newer protocol (KIP-848), which do not say one."),
    property!(Kafka "group.consumer.min.session.timeout.ms", Int "MS", Text("45000"),
        |config, text| duration(&mut config.group_consumer_min_session_timeout, text, MS),
        "The shortest that may be set."),
    property!(Kafka "group.consumer.max.session.timeout.ms", Int "MS", Text("60000"),
        |config, text| duration(&mut config.group_consumer_max_session_timeout, text, MS),
        "The longest that may be set."),
    property!(Kafka "group.consumer.heartbeat.interval.ms", Int "MS", Text("5000"),
        |config, text| duration(&mut config.group_consumer_heartbeat_interval, text, MS),
        "How often these members are told to send a heartbeat."),
    property!(Kafka "group.consumer.min.heartbeat.interval.ms", Int "MS", Text("5000"),
        |config, text| duration(&mut config.group_consumer_min_heartbeat_interval, text, MS),
        "The shortest that may be set."),
    property!(Kafka "group.consumer.max.heartbeat.interval.ms", Int "MS", Text("15000"),
        |config, text| duration(&mut config.group_consumer_max_heartbeat_interval, text, MS),
        "The longest that may be set."),
    property!(Kafka "group.consumer.max.size", Int "N", Text("2147483647"),
        |config, text| {
            config.group_consumer_max_size = value::integer(text, 1..=INT_MAX as i64)? as usize;
            Ok(config.group_consumer_max_size.to_string())
        },
        "Members of a group of the newer protocol; never more than 10,000."),
    property!(Kafka "group.consumer.assignors", List "NAMES", Text("uniform,range"),
        |config, text| {
            config.group_consumer_assignors = value::choices(text, &["uniform", "range"])?;
            Ok(config.group_consumer_assignors.join(","))
        },
        "Assignors that these members may ask for, with commas between; the first is the default."),
    property!(Kafka "group.consumer.migration.policy", String "POLICY", Text("bidirectional"),
        |config, text| {
            let known = ["disabled", "upgrade", "downgrade", "bidirectional"];
            config.group_consumer_migration_policy = value::choice(text, &known)?;
            Ok(config.group_consumer_migration_policy.to_owned())
        },
        "Whether a group may change its protocol while members use it: `bidirectional`, `upgrade` (to the newer one), `downgrade`, `disabled`."),
    property!(Kafka "offset.metadata.max.bytes", Int "SIZE", Text("4096"),
        |config, text| size(&mut config.offset_metadata_max_bytes, text, 0..=INT_MAX),
        "Largest note that a client may leave with a committed offset."),
    property!(Kafka "offsets.retention.minutes", Int "MINUTES", Text("10080"),
        |config, text| {
            config.offsets_retention = value::duration(text, MINUTE, MS..=DURATION_MAX)?;
            count(Some(config.offsets_retention), MINUTE)
        },
        "How long committed offsets stay that nobody comes back for: from when the group has lost its last member, or from the commit where it never had one."),
    property!(Kafka "offsets.retention.check.interval.ms", Long "MS", Text("600000"),
        |config, text| duration(&mut config.offsets_retention_check_interval, text, MS),
        "How often that is looked at."),
    property!(Kafka "offsets.topic.num.partitions", Int "N", Text("50"),
        |config, text| {
            let count = value::integer(text, 1..=limits::PARTITIONS_PER_TOPIC_MAX as i64)?;
            config.offsets_topic_num_partitions = count as u32;
            Ok(count.to_string())
        },
        "Partitions of `__consumer_offsets` when it is made, at the first use of a group."),
    property!(Kafka "offsets.topic.segment.bytes", Int "SIZE", Text("104857600"),
        |config, text| store(&mut config.offsets_topic_segment_bytes, value::size(text, SEGMENT_BYTES)),
        "Size of its segments."),
    property!(Kafka "transaction.max.timeout.ms", Int "MS", Text("900000"),
        |config, text| duration(&mut config.transaction_max_timeout, text, MS),
        "The longest time that a producer may ask for its transactions."),
    property!(Kafka "transactional.id.expiration.ms", Int "MS", Text("604800000"),
        |config, text| duration(&mut config.transactional_id_expiration, text, MS),
        "How long a transactional id is kept that no producer uses."),
    property!(Kafka "transaction.abort.timed.out.transaction.cleanup.interval.ms", Int "MS", Text("10000"),
        |config, text| duration(&mut config.transaction_abort_interval, text, MS),
        "How often to look for transactions whose time is over; they are aborted."),
    property!(Kafka "transaction.remove.expired.transaction.cleanup.interval.ms", Int "MS", Text("3600000"),
        |config, text| duration(&mut config.transaction_expiration_interval, text, MS),
        "How often to look for transactional ids that no producer uses."),
    property!(Kafka "offsets.topic.replication.factor", Int "N", Text("3"),
        |config, text| replicas(&mut config.offsets_topic_replication_factor, text),
        "Replicas of the topic that groups are kept in, made when it is first needed; no more than there are nodes then."),
    property!(Kafka "transaction.state.log.replication.factor", Int "N", Text("3"),
        |config, text| replicas(&mut config.transaction_state_log_replication_factor, text),
        "The same of the topic that transactions are kept in."),
    property!(Kafka "transaction.state.log.num.partitions", Int "N", Text("50"),
        |config, text| {
            let count = value::integer(text, 1..=limits::PARTITIONS_PER_TOPIC_MAX as i64)?;
            config.transaction_state_log_num_partitions = count as u32;
            Ok(count.to_string())
        },
        "Partitions of `__transaction_state` when it is made, at the first use of a transactional id."),
    property!(Kafka "transaction.state.log.segment.bytes", Int "SIZE", Text("104857600"),
        |config, text| store(&mut config.transaction_state_log_segment_bytes, value::size(text, SEGMENT_BYTES)),
        "Size of its segments."),
];

/// At least one aligned block; at most what Kafka's 32-bit file positions reach.
const SEGMENT_BYTES: RangeInclusive<u64> = limits::IO_ALIGNMENT as u64..=INT_MAX;

fn directories(text: &str) -> Result<Vec<PathBuf>, Expected> {
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    if names.len() > limits::LOG_DIRS_MAX || names.iter().any(|name| name.is_empty()) {
        return Err(format!("a directory, or up to {} with commas between", limits::LOG_DIRS_MAX));
    }
    Ok(names.into_iter().map(PathBuf::from).collect())
}

fn voters(text: &str) -> Result<Vec<Voter>, Expected> {
    const EXPECTED: &str = "1, 3 or 5 different nodes as ID@HOST:PORT, with commas between";
    let voter = |part: &str| {
        let (node, address) = part.trim().split_once('@')?;
        Some(Voter { node: NodeId(node.parse().ok()?), address: address.parse().ok()? })
    };
    let voters: Option<Vec<Voter>> = text.split(',').map(voter).collect();
    let is_known = |voters: &Vec<Voter>| {
        let nodes: BTreeSet<NodeId> = voters.iter().map(|voter| voter.node).collect();
        nodes.len() == voters.len() && [1, 3, 5].contains(&nodes.len())
    };
    voters.filter(is_known).ok_or_else(|| EXPECTED.to_owned())
}

fn addresses(text: &str) -> Result<Vec<HostPort>, Expected> {
    text.split(',').map(|address| address.trim().parse::<HostPort>()).collect()
}

fn same(text: &str) -> Result<String, Expected> {
    Ok(text.to_string())
}

fn non_empty<'a>(text: &'a str, expected: &str) -> Result<&'a str, Expected> {
    if text.is_empty() { Err(expected.to_string()) } else { Ok(text) }
}

fn store<T: ToString>(field: &mut T, parsed: Result<T, Expected>) -> Result<String, Expected> {
    *field = parsed?;
    Ok(field.to_string())
}

fn store_some<T: ToString>(field: &mut Option<T>, parsed: Result<T, Expected>) -> Result<String, Expected> {
    let parsed = parsed?;
    let text = parsed.to_string();
    *field = Some(parsed);
    Ok(text)
}

fn replicas(to: &mut u16, text: &str) -> Result<String, Expected> {
    *to = value::integer(text, 1..=i16::MAX as i64)? as u16;
    Ok(to.to_string())
}

fn size(field: &mut usize, text: &str, range: RangeInclusive<u64>) -> Result<String, Expected> {
    *field = value::size(text, range)? as usize;
    Ok(field.to_string())
}

fn size32(field: &mut u32, text: &str, range: RangeInclusive<u64>) -> Result<String, Expected> {
    *field = value::size(text, range)? as u32; // Every range ends at i32::MAX.
    Ok(field.to_string())
}

/// Kafka's `Long.MAX_VALUE` is no limit.
fn rate(field: &mut Option<u64>, text: &str) -> Result<String, Expected> {
    let bytes = value::size(text, 0..=i64::MAX as u64)?;
    *field = (bytes < i64::MAX as u64).then_some(bytes);
    Ok(bytes.to_string())
}

fn duration(field: &mut Duration, text: &str, min: Duration) -> Result<String, Expected> {
    *field = value::duration(text, MS, min..=DURATION_MAX)?;
    milliseconds(*field)
}

fn duration_or_none(field: &mut Option<Duration>, text: &str, min: Duration) -> Result<String, Expected> {
    *field = value::duration_or_unlimited(text, MS, min..=DURATION_MAX)?;
    count(*field, MS)
}

fn retention(field: &mut Option<Option<Duration>>, text: &str, unit: Duration) -> Result<String, Expected> {
    let age = value::duration_or_unlimited(text, unit, MS..=DURATION_MAX)?;
    *field = Some(age);
    count(age, unit)
}

fn milliseconds(duration: Duration) -> Result<String, Expected> {
    count(Some(duration), MS)
}

/// In the property's own unit if that is exact, else in milliseconds with their suffix.
fn count(duration: Option<Duration>, unit: Duration) -> Result<String, Expected> {
    Ok(match duration.map(|duration| (duration.as_millis(), unit.as_millis())) {
        None => "-1".to_string(),
        Some((duration, unit)) if duration.is_multiple_of(unit) => (duration / unit).to_string(),
        Some((duration, _)) => format!("{duration}ms"),
    })
}
