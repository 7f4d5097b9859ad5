//! Topic-level properties: Kafka's names, our types.
//!
//! A topic's configuration is the broker's defaults with the topic's overrides on top. The table
//! of all properties is in `topic/properties.rs`, the broker's part in `topic/defaults.rs`:
//!
//! ```text
//! broker settings ─► TopicDefaults ─┐
//! overrides (name, text) ───────────┴─► TopicConfig::resolve ─► typed values
//! ```
//!
//! Texts are parsed as Kafka's `ConfigDef` parses them and refused in its words. What this broker
//! cannot do yet (tiered storage) is refused rather than ignored; what has no meaning here but does no harm is
//! accepted, and its documentation says so.

mod defaults;
mod properties;
mod throttled_replicas;

pub use defaults::{SettingLevel, TopicDefaults};
pub use properties::{BrokerName, Kind, PROPERTIES, Property, find};
pub use throttled_replicas::ThrottledReplicas;

use super::TimestampType;
use super::value::{CompressionType, DurabilityMode};

/// Bytes of a property's text. No legal value needs more; what is longer is not stored.
pub const VALUE_LENGTH_MAX: usize = 1024;

/// The same of a list of replicas: as long as a string of Kafka's protocol is, some 4,000 of them.
const REPLICAS_LENGTH_MAX: usize = i16::MAX as usize;

/// The effective configuration of one topic.
///
/// Units: `_ms` milliseconds, `_bytes` bytes. `None` is Kafka's -1: no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub segment_bytes: u32,
    pub segment_ms: u64,
    pub segment_jitter_ms: u64,
    pub segment_index_bytes: u32,
    pub index_interval_bytes: u32,
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
    pub local_retention_ms: i64,
    pub local_retention_bytes: i64,
    pub file_delete_delay_ms: u64,
    pub max_message_bytes: u32,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: u64,
    pub timestamp_after_max_ms: u64,
    /// `cleanup.policy` as it was written: its words with commas between.
    pub cleanup_policy: String,
    pub min_insync_replicas: u32,
    pub unclean_leader_election: bool,
    pub delete_retention_ms: u64,
    pub min_compaction_lag_ms: u64,
    pub max_compaction_lag_ms: u64,
    pub min_cleanable_dirty_ratio: f64,
    pub durability: DurabilityMode,
    pub flush_messages: u64,
    pub flush_ms: u64,
    pub preallocate: bool,
    pub compression: CompressionType,
    pub compression_gzip_level: i32,
    pub compression_lz4_level: i32,
    pub compression_zstd_level: i32,
    pub remote_log_copy_disable: bool,
    pub remote_log_delete_on_disable: bool,
    pub leader_throttled_replicas: String,
    pub follower_throttled_replicas: String,
}

/// Why a topic configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    #[error("Unknown topic config name: {name}")]
    Unknown { name: String },
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Value { name: &'static str, value: String, reason: String },
    #[error("conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})")]
    CompactionLags { min: u64, max: u64 },
}

/// A parsed text, within the range of its property.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Text(String),
}

impl TopicConfig {
    /// The broker's defaults with a topic's overrides on top.
    ///
    /// `replication_factor`: the default of `min.insync.replicas` is a majority of it.
    pub fn resolve<'a>(
        defaults: &TopicDefaults,
        replication_factor: u16,
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<TopicConfig, InvalidConfig> {
        let mut config = defaults.config(replication_factor);
        for (name, text) in overrides {
            let property = find(name).ok_or_else(|| InvalidConfig::Unknown { name: excerpt(name) })?;
            property.apply(&mut config, text)?;
        }
        config.check()?;
        Ok(config)
    }

    /// Whether `cleanup.policy` names `compact`.
    pub fn is_compacted(&self) -> bool {
        self.cleanup_policy.split(',').any(|word| word == "compact")
    }

    /// Whether `cleanup.policy` names `delete`.
    pub fn is_deleting(&self) -> bool {
        self.cleanup_policy.split(',').any(|word| word == "delete")
    }

    /// The rules between properties.
    fn check(&self) -> Result<(), InvalidConfig> {
        let (min, max) = (self.min_compaction_lag_ms, self.max_compaction_lag_ms);
        if min > max { Err(InvalidConfig::CompactionLags { min, max }) } else { Ok(()) }
    }
}

impl Property {
    /// Parses a text as Kafka would.
    pub fn parse(&self, text: &str) -> Result<Value, InvalidConfig> {
        let refuse = |reason: String| InvalidConfig::Value { name: self.name, value: excerpt(text), reason };
        let names_replicas = matches!(self.kind, Kind::ThrottledReplicas);
        let length_max = if names_replicas { REPLICAS_LENGTH_MAX } else { VALUE_LENGTH_MAX };
        if text.len() > length_max {
            return Err(refuse(format!("longer than {length_max} bytes")));
        }
        self.kind.parse(self.name, text.trim()).map_err(refuse)
    }

    /// Parses a text and stores what it says.
    pub(super) fn apply(&self, config: &mut TopicConfig, text: &str) -> Result<(), InvalidConfig> {
        (self.set)(config, self.parse(text)?);
        Ok(())
    }

    /// The value in Kafka's spelling.
    pub fn show(&self, config: &TopicConfig) -> String {
        (self.get)(config)
    }
}

impl Kind {
    /// `name`: of the property, for the reason.
    fn parse(&self, name: &str, text: &str) -> Result<Value, String> {
        match *self {
            Kind::Boolean { unsupported } => match text {
                _ if text.eq_ignore_ascii_case("false") => Ok(Value::Boolean(false)),
                _ if !text.eq_ignore_ascii_case("true") => {
                    Err("Expected value to be either true or false".into())
                }
                _ => unsupported.map_or(Ok(Value::Boolean(true)), |reason| Err(reason.into())),
            },
            Kind::Int { min, max } => {
                let value = text.parse::<i32>().map_err(|_| "Not a number of type INT".to_owned())?;
                in_range(i64::from(value), i64::from(min), i64::from(max)).map(Value::Integer)
            }
            Kind::Long { min } => {
                let value = text.parse::<i64>().map_err(|_| "Not a number of type LONG".to_owned())?;
                in_range(value, min, i64::MAX).map(Value::Integer)
            }
            Kind::Ratio => {
                let value = text.parse::<f64>().map_err(|_| "Not a number of type DOUBLE".to_owned())?;
                match value {
                    _ if value.is_nan() || value < 0.0 => Err("Value must be at least 0".into()),
                    _ if value > 1.0 => Err("Value must be no more than 1".into()),
                    _ => Ok(Value::Double(value)),
                }
            }
            Kind::Choice { known, supported, reason } => {
                choose(text, known, supported, reason).map(|()| Value::Text(text.to_owned()))
            }
            Kind::List { known, supported, reason } => {
                let parts: Vec<&str> = text.split(',').map(str::trim).collect();
                parts.iter().try_for_each(|part| choose(part, known, supported, reason))?;
                Ok(Value::Text(parts.join(",")))
            }
            Kind::ThrottledReplicas => match ThrottledReplicas::parse(text) {
                Some(_) => Ok(Value::Text(text.to_owned())),
                None => Err(format!(
                    "{name} must be the literal '*' or a list of replicas in the following format: \
                     [partitionId]:[brokerId],[partitionId]:[brokerId],..."
                )),
            },
        }
    }

    /// Whether APPEND and SUBTRACT make sense.
    pub fn is_list(&self) -> bool {
        matches!(self, Kind::List { .. } | Kind::ThrottledReplicas)
    }

    /// Kafka's `ConfigType` on the wire.
    pub fn wire_type(&self) -> i8 {
        match self {
            Kind::Boolean { .. } => 1,
            Kind::Choice { .. } => 2,
            Kind::Int { .. } => 3,
            Kind::Long { .. } => 5,
            Kind::Ratio => 6,
            Kind::List { .. } | Kind::ThrottledReplicas => 7,
        }
    }
}

impl Value {
    fn boolean(self) -> bool {
        matches!(self, Value::Boolean(true))
    }

    fn integer(self) -> i64 {
        match self {
            Value::Integer(value) => value,
            Value::Boolean(_) | Value::Double(_) | Value::Text(_) => {
                unreachable!("the table pairs kinds and fields")
            }
        }
    }

    /// Of a property whose range starts at zero or above.
    fn unsigned(self) -> u64 {
        self.integer().unsigned_abs()
    }

    /// Of an Int property whose range starts at zero or above.
    fn unsigned32(self) -> u32 {
        self.integer() as u32
    }

    /// Negative means no limit.
    fn limit(self) -> Option<u64> {
        u64::try_from(self.integer()).ok()
    }

    fn double(self) -> f64 {
        match self {
            Value::Double(value) => value,
            Value::Boolean(_) | Value::Integer(_) | Value::Text(_) => {
                unreachable!("the table pairs kinds and fields")
            }
        }
    }

    fn text(self) -> String {
        match self {
            Value::Text(text) => text,
            Value::Boolean(_) | Value::Integer(_) | Value::Double(_) => {
                unreachable!("the table pairs kinds and fields")
            }
        }
    }
}

fn in_range(value: i64, min: i64, max: i64) -> Result<i64, String> {
    if value < min {
        return Err(format!("Value must be at least {min}"));
    }
    if value > max {
        return Err(format!("Value must be no more than {max}"));
    }
    Ok(value)
}

fn choose(text: &str, known: &[&str], supported: &[&str], reason: &str) -> Result<(), String> {
    if !known.contains(&text) {
        return Err(format!("String must be one of: {}", known.join(", ")));
    }
    if !supported.contains(&text) {
        return Err(reason.to_owned());
    }
    Ok(())
}

/// What is echoed of a text that may be as long as a request.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(VALUE_LENGTH_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolve(overrides: &[(&str, &str)]) -> Result<TopicConfig, String> {
        TopicConfig::resolve(&TopicDefaults::default(), 1, overrides.iter().copied())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_kafkas_but_for_min_insync_replicas() {
        let config = resolve(&[]).expect("the defaults are valid");
        assert_eq!(config.segment_bytes, 1 << 30);
        assert_eq!(config.retention_ms, Some(7 * 24 * 3600 * 1000));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.timestamp_after_max_ms, 3_600_000);
        let majority = |replicas| {
            let none = std::iter::empty();
            TopicConfig::resolve(&TopicDefaults::default(), replicas, none).map(|c| c.min_insync_replicas)
        };
        assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3].map(Ok));
    }

    #[test]
    fn overrides_win_and_are_trimmed() {
        let config = resolve(&[
            ("retention.ms", "-1"),
            ("segment.bytes", " 1048576 "),
            ("message.timestamp.type", "LogAppendTime"),
            ("preallocate", "TRUE"),
        ]);
        let config = config.expect("valid");
        assert_eq!(config.retention_ms, None);
        assert_eq!(config.segment_bytes, 1 << 20);
        assert_eq!(config.timestamp_type, TimestampType::LogAppendTime);
        assert!(config.preallocate);
    }

    #[test]
    fn refusals_are_worded_like_kafkas() {
        let refused = [
            (("nosuch", "1"), "Unknown topic config name: nosuch"),
            (
                ("retention.ms", "x"),
                "Invalid value x for configuration retention.ms: Not a number of type LONG",
            ),
            (
                ("retention.ms", "-2"),
                "Invalid value -2 for configuration retention.ms: Value must be at least -1",
            ),
            (
                ("segment.bytes", "14"),
                "Invalid value 14 for configuration segment.bytes: Value must be at least 4096",
            ),
            (
                ("segment.bytes", "99999999999"),
                "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT",
            ),
            (
                ("preallocate", "yes"),
                "Invalid value yes for configuration preallocate: Expected value to be either true or false",
            ),
            (
                ("message.timestamp.type", "Now"),
                "Invalid value Now for configuration message.timestamp.type: String must be one of: \
                 CreateTime, LogAppendTime",
            ),
            (
                ("min.cleanable.dirty.ratio", "1.5"),
                "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
            ),
            (
                ("leader.replication.throttled.replicas", "0-1"),
                "Invalid value 0-1 for configuration leader.replication.throttled.replicas: \
                 leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the \
                 following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
            ),
        ];
        for ((name, value), message) in refused {
            assert_eq!(resolve(&[(name, value)]), Err(message.to_owned()));
        }
        let lags = resolve(&[("min.compaction.lag.ms", "9"), ("max.compaction.lag.ms", "8")]);
        assert_eq!(
            lags,
            Err("conflict topic config setting min.compaction.lag.ms (9) > max.compaction.lag.ms (8)".into())
        );
    }

    #[test]
    fn what_is_not_built_yet_is_refused_not_ignored() {
        for (name, value) in
            [("cleanup.policy", ""), ("compression.type", "brotli"), ("remote.storage.enable", "true")]
        {
            assert!(resolve(&[(name, value)]).is_err(), "{name}={value}");
        }
        for codec in ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"] {
            let config = resolve(&[("cleanup.policy", "delete"), ("compression.type", codec)]);
            assert_eq!(config.expect("valid").compression.to_string(), codec);
        }
        assert!(resolve(&[("remote.storage.enable", "false")]).is_ok());
    }

    #[test]
    fn cleanup_policy_may_name_both() {
        let of = |text| {
            let config = resolve(&[("cleanup.policy", text)]).expect("valid");
            (config.is_compacted(), config.is_deleting(), config.cleanup_policy)
        };
        assert_eq!(of("compact"), (true, false, "compact".to_owned()));
        assert_eq!(of(" delete , compact"), (true, true, "delete,compact".to_owned()));
        assert_eq!(of("delete"), (false, true, "delete".to_owned()));
        assert!(resolve(&[("cleanup.policy", "compactor")]).is_err());
    }

    #[test]
    fn long_texts_are_refused_and_not_echoed_in_full() {
        let error = resolve(&[("retention.ms", &"9".repeat(1 << 20))]).expect_err("too long");
        assert!(error.len() < 2 * VALUE_LENGTH_MAX);
        assert!(resolve(&[(&"n".repeat(1 << 20), "1")]).expect_err("unknown").len() < 2 * VALUE_LENGTH_MAX);
    }

    #[test]
    fn every_default_is_accepted_as_an_override_and_shown_the_same() {
        let config = resolve(&[]).expect("the defaults are valid");
        for property in PROPERTIES {
            let shown = property.show(&config);
            let again = resolve(&[(property.name, &shown)]);
            assert_eq!(again, Ok(config.clone()), "{}", property.name);
            assert!(!property.doc.is_empty());
        }
    }

    #[test]
    fn table_is_in_order_and_names_are_unique() {
        assert!(PROPERTIES.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(PROPERTIES.iter().all(|property| find(property.name).is_some()));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(at in 0..PROPERTIES.len(), text in ".{0,30}") {
            let _ = resolve(&[(PROPERTIES[at].name, &text)]);
        }

        #[test]
        fn what_is_taken_is_shown_so_that_it_is_taken_again(at in 0..PROPERTIES.len(), number in any::<i64>()) {
            let property = &PROPERTIES[at];
            if let Ok(config) = resolve(&[(property.name, &number.to_string())]) {
                let shown = property.show(&config);
                prop_assert_eq!(resolve(&[(property.name, &shown)]), Ok(config));
            }
        }
    }
}
