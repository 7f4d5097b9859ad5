//! What the broker's own settings say about topics that do not.

use std::collections::BTreeMap;

use super::properties::{BrokerName, PROPERTIES, Property};
use super::{InvalidConfig, TopicConfig, Value};
use crate::config::dynamic::DynamicLevel;
use crate::config::value::{CompressionType, DurabilityMode};
use crate::config::{Config, Origin, TimestampType};

/// The broker's defaults for topics.
///
/// Lives: one per shard, a copy; made anew when settings change at run time.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicDefaults {
    /// `num.partitions`.
    pub partitions: u32,
    /// `default.replication.factor`.
    pub replication_factor: u16,
    /// `auto.create.topics.enable`.
    pub auto_create: bool,
    /// `delete.topic.enable`.
    pub deletion: bool,
    /// `min_insync_replicas` in here means nothing; see [`TopicDefaults::config`].
    config: TopicConfig,
    /// `None`: a majority of the replication factor.
    min_insync_replicas: Option<u32>,
    /// Settings that the operator made, by broker setting, in milliseconds where they are times.
    configured: BTreeMap<&'static str, (String, SettingLevel)>,
}

/// Where the operator has made a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingLevel {
    /// In what the node was started with.
    Static,
    Dynamic(DynamicLevel),
}

impl TopicDefaults {
    /// From the node's configuration. A setting that no topic could have is an error.
    pub fn from_config(config: &Config) -> Result<TopicDefaults, InvalidConfig> {
        let mut defaults = TopicDefaults {
            partitions: config.num_partitions,
            replication_factor: config.default_replication_factor,
            auto_create: config.auto_create_topics_enable,
            deletion: config.delete_topic_enable,
            ..TopicDefaults::default()
        };
        for entry in config.entries().iter().filter(|entry| entry.origin != Origin::Default) {
            let level = match entry.origin {
                Origin::Dynamic(level) => SettingLevel::Dynamic(level),
                Origin::Default | Origin::File(_) | Origin::Environment(_) | Origin::Flag(_) => {
                    SettingLevel::Static
                }
            };
            defaults.set_at(level, entry.property.name, &entry.value)?;
        }
        defaults.config.check()?;
        Ok(defaults)
    }

    /// Takes one broker setting; settings that no topic property follows are not ours.
    pub fn set(&mut self, broker_name: &str, text: &str) -> Result<(), InvalidConfig> {
        self.set_at(SettingLevel::Static, broker_name, text)
    }

    fn set_at(&mut self, level: SettingLevel, broker_name: &str, text: &str) -> Result<(), InvalidConfig> {
        for property in PROPERTIES {
            if let Some(name) = property.broker_names.iter().find(|name| name.name == broker_name) {
                let text = in_base_unit(name, text);
                property.parse(&text)?;
                self.configured.insert(name.name, (text, level));
                self.follow(property)?;
            }
        }
        Ok(())
    }

    /// The configuration of a topic without overrides.
    pub fn config(&self, replication_factor: u16) -> TopicConfig {
        let majority = u32::from(replication_factor) / 2 + 1;
        TopicConfig {
            min_insync_replicas: self.min_insync_replicas.unwrap_or(majority),
            ..self.config.clone()
        }
    }

    /// The operator's setting that a property follows, and its value.
    pub fn configured(&self, property: &Property) -> Option<(&'static str, &str)> {
        self.configured_at(property).map(|(name, text, _)| (name, text))
    }

    /// The same, with where it was made.
    pub fn configured_at(&self, property: &Property) -> Option<(&'static str, &str, SettingLevel)> {
        let mut names = property.broker_names.iter();
        names.find_map(|name| {
            self.configured.get(name.name).map(|(text, level)| (name.name, text.as_str(), *level))
        })
    }

    /// Of several settings for one property the first in the table's order wins, not the last made.
    fn follow(&mut self, property: &Property) -> Result<(), InvalidConfig> {
        let Some((name, text)) = self.configured(property) else {
            return Ok(());
        };
        let value = property.parse(text)?;
        if name == "min.insync.replicas"
            && let Value::Integer(replicas) = value
        {
            self.min_insync_replicas = Some(replicas as u32);
        } else {
            (property.set)(&mut self.config, value);
        }
        Ok(())
    }
}

impl Default for TopicDefaults {
    /// Kafka's defaults, with `min.insync.replicas` a majority.
    fn default() -> TopicDefaults {
        TopicDefaults {
            partitions: 1,
            replication_factor: 1,
            auto_create: true,
            deletion: true,
            config: built_in(),
            min_insync_replicas: None,
            configured: BTreeMap::new(),
        }
    }
}

/// The text in the topic property's unit; left alone where it is no number, so that it is refused
/// as it was written.
fn in_base_unit(name: &BrokerName, text: &str) -> String {
    match text.trim().parse::<i64>() {
        Ok(count) if name.scale != 1 && count >= 0 => count.saturating_mul(name.scale).to_string(),
        _ => text.trim().to_owned(),
    }
}

fn built_in() -> TopicConfig {
    const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;
    TopicConfig {
        segment_bytes: 1 << 30,
        segment_ms: WEEK_MS,
        segment_jitter_ms: 0,
        segment_index_bytes: 10 << 20,
        index_interval_bytes: 4096,
        retention_ms: Some(WEEK_MS),
        retention_bytes: None,
        local_retention_ms: -2,
        local_retention_bytes: -2,
        file_delete_delay_ms: 60_000,
        max_message_bytes: (1 << 20) + 12, // 1 MiB and the offset and length before a batch.
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX as u64,
        timestamp_after_max_ms: 3_600_000,
        cleanup_policy: "delete".to_owned(),
        min_insync_replicas: 1,
        unclean_leader_election: false,
        delete_retention_ms: 24 * 3600 * 1000,
        min_compaction_lag_ms: 0,
        max_compaction_lag_ms: i64::MAX as u64,
        min_cleanable_dirty_ratio: 0.5,
        durability: DurabilityMode::Fsync,
        flush_messages: i64::MAX as u64,
        flush_ms: i64::MAX as u64,
        preallocate: false,
        compression: CompressionType::Producer,
        compression_gzip_level: -1,
        compression_lz4_level: 9,
        compression_zstd_level: 3,
        remote_log_copy_disable: false,
        remote_log_delete_on_disable: false,
        leader_throttled_replicas: String::new(),
        follower_throttled_replicas: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::topic::find;
    use crate::config::{Inputs, Machine};

    fn machine() -> Machine {
        Machine { cpus_allowed: vec![0, 1], memory_bytes: 8 << 30 }
    }

    #[test]
    fn finest_unit_wins_whatever_the_order() {
        let mut defaults = TopicDefaults::default();
        defaults.set("log.retention.ms", "5000").expect("valid");
        defaults.set("log.retention.hours", "2").expect("valid");
        assert_eq!(defaults.config(1).retention_ms, Some(5000));
        let mut defaults = TopicDefaults::default();
        defaults.set("log.retention.hours", "2").expect("valid");
        assert_eq!(defaults.config(1).retention_ms, Some(2 * 3600 * 1000));
        let retention = find("retention.ms").expect("in the table");
        assert_eq!(defaults.configured(retention), Some(("log.retention.hours", "7200000")));
    }

    #[test]
    fn operators_min_insync_replicas_replaces_the_majority() {
        let mut defaults = TopicDefaults::default();
        assert_eq!(defaults.config(3).min_insync_replicas, 2);
        defaults.set("min.insync.replicas", "1").expect("valid");
        assert_eq!(defaults.config(3).min_insync_replicas, 1);
    }

    #[test]
    fn broker_settings_that_no_topic_could_have_are_refused() {
        let mut defaults = TopicDefaults::default();
        assert!(defaults.set("log.segment.bytes", "5").is_err());
        assert_eq!(defaults, TopicDefaults::default());
        assert_eq!(defaults.set("node-id", "5"), Ok(()));
    }

    #[test]
    fn nodes_that_set_nothing_have_the_built_in_defaults() {
        let config = Config::defaults(&machine()).expect("valid");
        assert_eq!(TopicDefaults::from_config(&config), Ok(TopicDefaults::default()));
        // The broker's own table says the same, setting by setting.
        let mut spelled_out = TopicDefaults::default();
        for entry in config.entries().iter().filter(|entry| !entry.value.is_empty()) {
            spelled_out.set(entry.property.name, &entry.value).expect("a default is valid");
        }
        assert_eq!(spelled_out.config(3), TopicDefaults::default().config(3));
    }

    #[test]
    fn settings_come_from_the_configuration() {
        let flags = [
            ("--set".to_owned(), "log.segment.bytes".to_owned(), "16MiB".to_owned()),
            ("--set".to_owned(), "num.partitions".to_owned(), "6".to_owned()),
        ];
        let inputs = Inputs { flags: &flags, ..Inputs::default() };
        let config = Config::resolve(&inputs, &machine()).expect("valid");
        let defaults = TopicDefaults::from_config(&config).expect("valid");
        assert_eq!((defaults.config(1).segment_bytes, defaults.partitions), (16 << 20, 6));
    }
}
