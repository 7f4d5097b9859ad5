//! The table of topic properties: name, range, broker setting that gives the default, meaning.
//!
//! Source: Kafka `LogConfig`, `TopicConfig`, `ServerTopicConfigSynonyms`, with the minima and
//! defaults of 4.0 (KIP-1030). Removed there, and unknown here: `message.format.version`,
//! `message.downconversion.enable`, `message.timestamp.difference.max.ms`.

use super::{TopicConfig, Value};
use crate::types::limits::IO_ALIGNMENT;

/// What texts a property takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `unsupported`: why `true` is refused.
    Boolean {
        unsupported: Option<&'static str>,
    },
    Int {
        min: i32,
        max: i32,
    },
    Long {
        min: i64,
    },
    /// 0 to 1.
    Ratio,
    /// One word. Known words that are not supported are refused for `reason`.
    Choice {
        known: &'static [&'static str],
        supported: &'static [&'static str],
        reason: &'static str,
    },
    /// One or more words with commas between.
    List {
        known: &'static [&'static str],
        supported: &'static [&'static str],
        reason: &'static str,
    },
    /// `*`, or `partition:broker` pairs with commas between.
    ThrottledReplicas,
}

/// A broker setting that is the default of a topic property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerName {
    pub name: &'static str,
    /// Milliseconds per unit where the setting counts in minutes or hours, else 1.
    pub scale: i64,
}

/// One topic property.
pub struct Property {
    pub name: &'static str,
    pub kind: Kind,
    /// The first that is set wins; the first also names the default in DescribeConfigs.
    pub broker_names: &'static [BrokerName],
    pub doc: &'static str,
    pub(super) get: fn(&TopicConfig) -> String,
    pub(super) set: fn(&mut TopicConfig, Value),
}

impl std::fmt::Debug for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Property").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Looks a property up by Kafka's name.
pub fn find(name: &str) -> Option<&'static Property> {
    PROPERTIES.binary_search_by_key(&name, |property| property.name).ok().map(|at| &PROPERTIES[at])
}

const fn same(name: &'static str) -> BrokerName {
    BrokerName { name, scale: 1 }
}

const MINUTE: i64 = 60 * 1000;
const HOUR: i64 = 60 * MINUTE;

const BOOLEAN: Kind = Kind::Boolean { unsupported: None };
const COMPRESSION_TYPES: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
const TIERED_STORAGE: &str = "Tiered Storage functionality is disabled in the broker. \
                              Topic cannot be configured with remote log storage.";

/// -1: no limit.
fn limit(value: Option<u64>) -> String {
    value.map_or_else(|| "-1".to_owned(), |value| value.to_string())
}

/// By name, as [`find`] searches it.
pub const PROPERTIES: &[Property] = &[
    Property {
        name: "cleanup.policy",
        kind: Kind::List { known: &["compact", "delete"], supported: &["compact", "delete"], reason: "" },
        broker_names: &[same("log.cleanup.policy")],
        doc: "What happens to old records. `delete`: segments go when retention time or size is reached. \
              `compact`: of every key the last record stays. Both, with a comma between.",
        get: |config| config.cleanup_policy.clone(),
        set: |config, value| config.cleanup_policy = value.text(),
    },
    Property {
        name: "compression.gzip.level",
        kind: Kind::Int { min: -1, max: 9 },
        broker_names: &[same("compression.gzip.level")],
        doc: "Level used when `compression.type` is gzip, 1 to 9; -1: the usual one.",
        get: |config| config.compression_gzip_level.to_string(),
        set: |config, value| config.compression_gzip_level = value.integer() as i32,
    },
    Property {
        name: "compression.lz4.level",
        kind: Kind::Int { min: 1, max: 17 },
        broker_names: &[same("compression.lz4.level")],
        doc: "Level used when `compression.type` is lz4. Has no effect: there is one level.",
        get: |config| config.compression_lz4_level.to_string(),
        set: |config, value| config.compression_lz4_level = value.integer() as i32,
    },
    Property {
        name: "compression.type",
        kind: Kind::Choice { known: COMPRESSION_TYPES, supported: COMPRESSION_TYPES, reason: "" },
        broker_names: &[same("compression.type")],
        doc: "How stored batches are compressed. `producer`: as the producer sent them, which costs nothing; \
              else batches of another codec are compressed anew, with its level, before they are appended.",
        get: |config| config.compression.to_string(),
        set: |config, value| {
            config.compression = value.text().parse().expect("the kind knows the same words");
        },
    },
    Property {
        name: "compression.zstd.level",
        kind: Kind::Int { min: -131_072, max: 22 },
        broker_names: &[same("compression.zstd.level")],
        doc: "Level used when `compression.type` is zstd.",
        get: |config| config.compression_zstd_level.to_string(),
        set: |config, value| config.compression_zstd_level = value.integer() as i32,
    },
    Property {
        name: "delete.retention.ms",
        kind: Kind::Long { min: 0 },
        broker_names: &[same("log.cleaner.delete.retention.ms")],
        doc: "How long tombstones stay readable in a compacted topic, from when compaction first meets them.",
        get: |config| config.delete_retention_ms.to_string(),
        set: |config, value| config.delete_retention_ms = value.unsigned(),
    },
    Property {
        name: "file.delete.delay.ms",
        kind: Kind::Long { min: 0 },
        broker_names: &[same("log.segment.delete.delay.ms")],
        doc: "How long the files of a deleted segment stay on disk.",
        get: |config| config.file_delete_delay_ms.to_string(),
        set: |config, value| config.file_delete_delay_ms = value.unsigned(),
    },
    Property {
        name: "flush.messages",
        kind: Kind::Long { min: 1 },
        broker_names: &[same("log.flush.interval.messages")],
        doc: "With `odradek.durability=write`: so many records are never acknowledged without a flush. Else \
              without effect: all are flushed first.",
        get: |config| config.flush_messages.to_string(),
        set: |config, value| config.flush_messages = value.unsigned(),
    },
    Property {
        name: "flush.ms",
        kind: Kind::Long { min: 0 },
        broker_names: &[same("log.flush.interval.ms"), same("log.flush.scheduler.interval.ms")],
        doc: "With `odradek.durability=write`: how long a written record waits for its flush, one second at \
              most. Else without effect: all are flushed before they are acknowledged.",
        get: |config| config.flush_ms.to_string(),
        set: |config, value| config.flush_ms = value.unsigned(),
    },
    Property {
        name: "follower.replication.throttled.replicas",
        kind: Kind::ThrottledReplicas,
        broker_names: &[],
        doc: "Followers that take no more than `follower.replication.throttled.rate` while they catch up, as \
              partition:broker pairs, or `*` for all. Those in sync are never held back.",
        get: |config| config.follower_throttled_replicas.clone(),
        set: |config, value| config.follower_throttled_replicas = value.text(),
    },
    Property {
        name: "index.interval.bytes",
        kind: Kind::Int { min: 0, max: i32::MAX },
        broker_names: &[same("log.index.interval.bytes")],
        doc: "Log bytes between two entries of the offset index.",
        get: |config| config.index_interval_bytes.to_string(),
        set: |config, value| config.index_interval_bytes = value.unsigned32(),
    },
    Property {
        name: "leader.replication.throttled.replicas",
        kind: Kind::ThrottledReplicas,
        broker_names: &[],
        doc: "Leaders that send no more than `leader.replication.throttled.rate` to followers that catch up, as \
              partition:broker pairs, or `*` for all. Those in sync are never held back.",
        get: |config| config.leader_throttled_replicas.clone(),
        set: |config, value| config.leader_throttled_replicas = value.text(),
    },
    Property {
        name: "local.retention.bytes",
        kind: Kind::Long { min: -2 },
        broker_names: &[same("log.local.retention.bytes")],
        doc: "Bytes kept on local disk with tiered storage; -2: as `retention.bytes`. Has no effect without it.",
        get: |config| config.local_retention_bytes.to_string(),
        set: |config, value| config.local_retention_bytes = value.integer(),
    },
    Property {
        name: "local.retention.ms",
        kind: Kind::Long { min: -2 },
        broker_names: &[same("log.local.retention.ms")],
        doc: "Time kept on local disk with tiered storage; -2: as `retention.ms`. Has no effect without it.",
        get: |config| config.local_retention_ms.to_string(),
        set: |config, value| config.local_retention_ms = value.integer(),
    },
    Property {
        name: "max.compaction.lag.ms",
        kind: Kind::Long { min: 1 },
        broker_names: &[same("log.cleaner.max.compaction.lag.ms")],
        doc: "The longest a record may stay uncompacted.",
        get: |config| config.max_compaction_lag_ms.to_string(),
        set: |config, value| config.max_compaction_lag_ms = value.unsigned(),
    },
    Property {
        name: "max.message.bytes",
        kind: Kind::Int { min: 0, max: i32::MAX },
        broker_names: &[same("message.max.bytes")],
        doc: "Largest record batch that is accepted, as sent (compressed).",
        get: |config| config.max_message_bytes.to_string(),
        set: |config, value| config.max_message_bytes = value.unsigned32(),
    },
    Property {
        name: "message.timestamp.after.max.ms",
        kind: Kind::Long { min: 0 },
        broker_names: &[same("log.message.timestamp.after.max.ms")],
        doc: "How far a record's timestamp may lie ahead of the broker's clock. For CreateTime only.",
        get: |config| config.timestamp_after_max_ms.to_string(),
        set: |config, value| config.timestamp_after_max_ms = value.unsigned(),
    },
    Property {
        name: "message.timestamp.before.max.ms",
        kind: Kind::Long { min: 0 },
        broker_names: &[same("log.message.timestamp.before.max.ms")],
        doc: "How far a record's timestamp may lie behind the broker's clock. For CreateTime only.",
        get: |config| config.timestamp_before_max_ms.to_string(),
        set: |config, value| config.timestamp_before_max_ms = value.unsigned(),
    },
    Property {
        name: "message.timestamp.type",
        kind: Kind::Choice {
            known: &["CreateTime", "LogAppendTime"],
            supported: &["CreateTime", "LogAppendTime"],
            reason: "",
        },
        broker_names: &[same("log.message.timestamp.type")],
        doc: "Whose clock stamps records: `CreateTime` (the producer's) or `LogAppendTime` (the broker's).",
        get: |config| config.timestamp_type.to_string(),
        set: |config, value| {
            config.timestamp_type = value.text().parse().expect("the kind knows the same words");
        },
    },
    Property {
        name: "min.cleanable.dirty.ratio",
        kind: Kind::Ratio,
        broker_names: &[same("log.cleaner.min.cleanable.ratio")],
        doc: "Uncompacted share of a log at which it is compacted.",
        get: |config| config.min_cleanable_dirty_ratio.to_string(),
        set: |config, value| config.min_cleanable_dirty_ratio = value.double(),
    },
    Property {
        name: "min.compaction.lag.ms",
        kind: Kind::Long { min: 0 },
        broker_names: &[same("log.cleaner.min.compaction.lag.ms")],
        doc: "The shortest a record stays uncompacted.",
        get: |config| config.min_compaction_lag_ms.to_string(),
        set: |config, value| config.min_compaction_lag_ms = value.unsigned(),
    },
    Property {
        name: "min.insync.replicas",
        kind: Kind::Int { min: 1, max: i32::MAX },
        broker_names: &[same("min.insync.replicas")],
        doc: "Replicas that must have a record before `acks=all` is answered. Default: a majority of the \
              replication factor. Never more than there are replicas, so that it has no effect with one.",
        get: |config| config.min_insync_replicas.to_string(),
        set: |config, value| config.min_insync_replicas = value.unsigned32(),
    },
    Property {
        name: "odradek.durability",
        kind: Kind::Choice { known: &["fsync", "write"], supported: &["fsync", "write"], reason: "" },
        broker_names: &[same("odradek.durability")],
        doc: "What an acknowledgement waits for. `fsync`: a flush; nothing acknowledged is lost with the power. \
              `write`: the write; a lost power may take the last second.",
        get: |config| config.durability.to_string(),
        set: |config, value| {
            config.durability = value.text().parse().expect("the kind knows the same words");
        },
    },
    Property {
        name: "preallocate",
        kind: BOOLEAN,
        broker_names: &[same("log.preallocate")],
        doc: "Whether a new segment reserves its whole size. Has no effect: segments grow in reserved steps.",
        get: |config| config.preallocate.to_string(),
        set: |config, value| config.preallocate = value.boolean(),
    },
    Property {
        name: "remote.log.copy.disable",
        kind: BOOLEAN,
        broker_names: &[],
        doc: "Whether tiered storage stops copying segments. Has no effect without tiered storage.",
        get: |config| config.remote_log_copy_disable.to_string(),
        set: |config, value| config.remote_log_copy_disable = value.boolean(),
    },
    Property {
        name: "remote.log.delete.on.disable",
        kind: BOOLEAN,
        broker_names: &[],
        doc: "Whether disabling tiered storage deletes what it holds. Has no effect without tiered storage.",
        get: |config| config.remote_log_delete_on_disable.to_string(),
        set: |config, value| config.remote_log_delete_on_disable = value.boolean(),
    },
    Property {
        name: "remote.storage.enable",
        kind: Kind::Boolean { unsupported: Some(TIERED_STORAGE) },
        broker_names: &[],
        doc: "Whether the topic uses tiered storage. Only `false` is supported.",
        get: |_| "false".to_owned(),
        set: |_, _| {},
    },
    Property {
        name: "retention.bytes",
        // Any negative number means no limit, as in Kafka.
        kind: Kind::Long { min: i64::MIN },
        broker_names: &[same("log.retention.bytes")],
        doc: "Bytes of a partition past which its oldest segments are deleted; -1: no limit.",
        get: |config| limit(config.retention_bytes),
        set: |config, value| config.retention_bytes = value.limit(),
    },
    Property {
        name: "retention.ms",
        kind: Kind::Long { min: -1 },
        broker_names: &[
            same("log.retention.ms"),
            BrokerName { name: "log.retention.minutes", scale: MINUTE },
            BrokerName { name: "log.retention.hours", scale: HOUR },
        ],
        doc: "Age of a segment's newest record past which the segment is deleted; -1: no limit.",
        get: |config| limit(config.retention_ms),
        set: |config, value| config.retention_ms = value.limit(),
    },
    Property {
        name: "segment.bytes",
        // Kafka 4.0 asks for 1 MiB; smaller segments serve tests and very small topics.
        kind: Kind::Int { min: IO_ALIGNMENT as i32, max: i32::MAX },
        broker_names: &[same("log.segment.bytes")],
        doc: "Size at which a segment is closed and a new one begun. Retention deletes whole segments.",
        get: |config| config.segment_bytes.to_string(),
        set: |config, value| config.segment_bytes = value.unsigned32(),
    },
    Property {
        name: "segment.index.bytes",
        kind: Kind::Int { min: 4, max: i32::MAX },
        broker_names: &[same("log.index.size.max.bytes")],
        doc: "Size of an index at which its segment is closed.",
        get: |config| config.segment_index_bytes.to_string(),
        set: |config, value| config.segment_index_bytes = value.unsigned32(),
    },
    Property {
        name: "segment.jitter.ms",
        kind: Kind::Long { min: 0 },
        broker_names: &[
            same("log.roll.jitter.ms"),
            BrokerName { name: "log.roll.jitter.hours", scale: HOUR },
        ],
        doc: "The most by which closing a segment by age is brought forward, so that not all close at once.",
        get: |config| config.segment_jitter_ms.to_string(),
        set: |config, value| config.segment_jitter_ms = value.unsigned(),
    },
    Property {
        name: "segment.ms",
        kind: Kind::Long { min: 1 },
        broker_names: &[same("log.roll.ms"), BrokerName { name: "log.roll.hours", scale: HOUR }],
        doc: "Age at which a segment is closed even when it is not full.",
        get: |config| config.segment_ms.to_string(),
        set: |config, value| config.segment_ms = value.unsigned(),
    },
    Property {
        name: "unclean.leader.election.enable",
        kind: BOOLEAN,
        broker_names: &[same("unclean.leader.election.enable")],
        doc: "Whether a replica that is not in sync leads when no other can: what it lacks is lost.",
        get: |config| config.unclean_leader_election.to_string(),
        set: |config, value| config.unclean_leader_election = value.boolean(),
    },
];
