//! Settings of the broker that may change at run time (KIP-226), for all nodes or for one.
//!
//! ```text
//! static settings ◄── what was set for all nodes ◄── what was set for this node
//! ```
//!
//! The later ones win. These are Kafka's dynamic settings, as far as the broker has them: what topics inherit,
//! the cleaner's, limits of connections, producers, rates of replication. Any other one is read where it cannot
//! change any more, and refused. Source: Kafka `DynamicBrokerConfig`.

use std::collections::BTreeMap;

use super::property::{self, PROPERTIES};
use super::topic::{self, TopicDefaults};
use super::{Config, Origin};

/// For whom a setting was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DynamicLevel {
    Cluster,
    Node,
}

/// Those that no topic inherits.
const OF_THE_BROKER: [&str; 9] = [
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "max.connections",
    "producer.id.expiration.ms",
    "replica.alter.log.dirs.io.max.bytes.per.second",
    "transaction.partition.verification.enable",
];

/// Why settings cannot be made at run time. Kafka's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDynamic {
    #[error("Cannot update these configs dynamically: Set({0})")]
    ReadOnly(String),
    #[error("Unknown broker config name: {0}")]
    Unknown(String),
    #[error("Invalid value {value} for configuration {name}: expected {expected}")]
    Value { name: &'static str, value: String, expected: String },
    /// What several settings together, or topics, do not allow.
    #[error("{0}")]
    Together(String),
}

/// Whether a setting may change at run time. Of several units Kafka changes the finest only.
pub fn is_dynamic(name: &str) -> bool {
    let inherits =
        |property: &topic::Property| property.broker_names.first().is_some_and(|it| it.name == name);
    let is_known = || PROPERTIES.iter().any(|property| property.name == name);
    OF_THE_BROKER.contains(&name) || topic::PROPERTIES.iter().any(inherits) && is_known()
}

/// Checks what is being set: its names and, with all that is set already, its values.
pub fn check(
    config: &Config,
    changed: &[&str],
    (level, settings): (DynamicLevel, &BTreeMap<String, String>),
    others: (DynamicLevel, &BTreeMap<String, String>),
) -> Result<(), NotDynamic> {
    let unknown = changed.iter().find(|name| PROPERTIES.iter().all(|property| property.name != **name));
    if let Some(unknown) = unknown {
        return Err(NotDynamic::Unknown(unknown.chars().take(topic::VALUE_LENGTH_MAX).collect()));
    }
    let read_only: Vec<&str> = changed.iter().copied().filter(|name| !is_dynamic(name)).collect();
    if !read_only.is_empty() {
        return Err(NotDynamic::ReadOnly(read_only.join(", ")));
    }
    let mut effective = config.clone();
    let mut all = [(level, settings), others];
    all.sort_by_key(|(level, _)| *level);
    for (level, settings) in all {
        effective.set_dynamically(level, settings)?;
    }
    effective.check().map_err(|error| NotDynamic::Together(error.to_string()))?;
    TopicDefaults::from_config(&effective).map_err(|error| NotDynamic::Together(error.to_string()))?;
    Ok(())
}

impl Config {
    /// The settings in effect: these, and what was set at run time. What cannot be is left out: it was checked
    /// when it was set, by another build or beside other settings, and the broker has to start.
    pub fn with_dynamic(
        &self,
        cluster: &BTreeMap<String, String>,
        node: &BTreeMap<String, String>,
    ) -> (Config, Vec<NotDynamic>) {
        let mut effective = self.clone();
        let mut refused = Vec::new();
        for (level, settings) in [(DynamicLevel::Cluster, cluster), (DynamicLevel::Node, node)] {
            for (name, value) in settings {
                let one = BTreeMap::from([(name.clone(), value.clone())]);
                let mut next = effective.clone();
                let set = next.set_dynamically(level, &one).and_then(|()| {
                    let together = next.check().map_err(|error| error.to_string());
                    let inherited = || TopicDefaults::from_config(&next).map_err(|error| error.to_string());
                    together.and_then(|()| inherited().map(drop)).map_err(NotDynamic::Together)
                });
                match set {
                    Ok(()) => effective = next,
                    Err(error) => refused.push(error),
                }
            }
        }
        (effective, refused)
    }

    fn set_dynamically(
        &mut self,
        level: DynamicLevel,
        settings: &BTreeMap<String, String>,
    ) -> Result<(), NotDynamic> {
        for (name, text) in settings {
            let found = property::find(name).filter(|found| found.name == name && is_dynamic(name));
            let found = found.ok_or_else(|| NotDynamic::ReadOnly(name.clone()))?;
            let value = (found.apply)(self, text.trim()).map_err(|expected| NotDynamic::Value {
                name: found.name,
                value: text.chars().take(topic::VALUE_LENGTH_MAX).collect(),
                expected,
            })?;
            let entry = self.entries.iter_mut().find(|entry| entry.property.name == found.name);
            let entry = entry.expect("every row of the table has an entry");
            entry.value = value;
            entry.origin = Origin::Dynamic(level);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;

    fn config() -> Config {
        let machine = Machine { cpus_allowed: vec![0, 1], memory_bytes: 8 << 30 };
        Config::defaults(&machine).expect("valid")
    }

    fn settings(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn checked(all: &[(&str, &str)]) -> Result<(), String> {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let none = BTreeMap::new();
        let set = settings(all);
        check(&config(), &names, (DynamicLevel::Cluster, &set), (DynamicLevel::Node, &none))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn kafkas_dynamic_settings_are_and_others_are_read_only() {
        for name in ["log.retention.ms", "log.segment.bytes", "message.max.bytes", "log.cleaner.backoff.ms"] {
            assert!(is_dynamic(name), "{name}");
        }
        for name in ["log.retention.hours", "num.partitions", "data-dir", "fetch.max.bytes", "nosuch"] {
            assert!(!is_dynamic(name), "{name}");
        }
        for name in OF_THE_BROKER {
            assert!(PROPERTIES.iter().any(|property| property.name == name), "{name} is a setting");
        }
    }

    #[test]
    fn what_cannot_be_set_is_refused_in_kafkas_words() {
        assert_eq!(checked(&[("log.retention.ms", "60000"), ("max.connections", "5")]), Ok(()));
        let read_only = checked(&[("log.retention.ms", "1"), ("num.partitions", "3"), ("listen", "x")]);
        let expected = "Cannot update these configs dynamically: Set(num.partitions, listen)";
        assert_eq!(read_only, Err(expected.to_owned()));
        assert_eq!(checked(&[("nosuch", "1")]), Err("Unknown broker config name: nosuch".to_owned()));
        assert!(checked(&[("log.retention.ms", "soon")]).is_err());
        assert!(checked(&[("log.segment.bytes", "5")]).is_err());
        assert!(checked(&[("message.max.bytes", "2000000000")]).is_err(), "larger than a request");
    }

    #[test]
    fn the_nodes_own_settings_win_and_say_where_they_come_from() {
        let cluster = settings(&[("log.retention.ms", "1000"), ("log.retention.bytes", "7")]);
        let node = settings(&[("log.retention.ms", "2000")]);
        let (effective, refused) = config().with_dynamic(&cluster, &node);
        assert_eq!(refused, []);
        let defaults = TopicDefaults::from_config(&effective).expect("valid").config(1);
        assert_eq!((defaults.retention_ms, defaults.retention_bytes), (Some(2000), Some(7)));
        let origin = |name: &str| {
            let entry = effective.entries().iter().find(|entry| entry.property.name == name);
            entry.expect("a setting").origin.clone()
        };
        assert_eq!(origin("log.retention.ms"), Origin::Dynamic(DynamicLevel::Node));
        assert_eq!(origin("log.retention.bytes"), Origin::Dynamic(DynamicLevel::Cluster));
        assert_eq!(origin("log.segment.bytes"), Origin::Default);
    }

    #[test]
    fn rates_of_replication_are_kafkas() {
        let rate = |text: &str| {
            let set = settings(&[("leader.replication.throttled.rate", text)]);
            let (effective, refused) = config().with_dynamic(&BTreeMap::new(), &set);
            (effective.leader_replication_throttled_rate, refused.len())
        };
        assert_eq!(config().follower_replication_throttled_rate, None);
        assert_eq!(
            [rate("0"), rate("700000"), rate("2MiB")],
            [(Some(0), 0), (Some(700_000), 0), (Some(2 << 20), 0)]
        );
        assert_eq!(rate("9223372036854775807"), (None, 0), "as good as none");
        assert!(checked(&[("follower.replication.throttled.rate", "-1")]).is_err());
    }

    #[test]
    fn what_another_build_has_left_does_not_keep_a_node_from_starting() {
        let cluster = settings(&[("nosuch", "1"), ("log.segment.bytes", "x"), ("log.retention.ms", "1000")]);
        let (effective, refused) = config().with_dynamic(&cluster, &BTreeMap::new());
        assert_eq!(refused.len(), 2);
        assert_eq!(TopicDefaults::from_config(&effective).expect("valid").config(1).retention_ms, Some(1000));
    }
}
