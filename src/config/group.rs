//! Settings of one group (KIP-848): Kafka's names, our types.
//!
//! | setting | what it says instead of |
//! |---|---|
//! | `consumer.session.timeout.ms` | `group.consumer.session.timeout.ms` |
//! | `consumer.heartbeat.interval.ms` | `group.consumer.heartbeat.interval.ms` |
//!
//! Both have to be within what the broker allows, and together make sense. Kafka's settings of share and streams
//! groups are unknown here, as these groups are. Source: Kafka `GroupConfig`, `GroupConfigManager`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Config;

const SESSION: &str = "consumer.session.timeout.ms";
const HEARTBEAT: &str = "consumer.heartbeat.interval.ms";

/// Digits that a number may have, zeros in front included.
const NUMBER_LENGTH_MAX: usize = 20;

/// A setting of a group.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    pub name: &'static str,
    /// The broker's, which counts where the group has none.
    pub broker_name: &'static str,
    pub doc: &'static str,
}

pub const PROPERTIES: [Property; 2] = [
    Property {
        name: HEARTBEAT,
        broker_name: "group.consumer.heartbeat.interval.ms",
        doc: "How often members of the newer protocol (KIP-848) are told to send a heartbeat.",
    },
    Property {
        name: SESSION,
        broker_name: "group.consumer.session.timeout.ms",
        doc: "Session time-out of members of the newer protocol (KIP-848), which do not say one.",
    },
];

/// What a group goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTimes {
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
}

/// Why settings are not those of a group. Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGroupConfig {
    #[error("Unknown group config name: {0}")]
    Unknown(String),
    #[error("Invalid value {value} for configuration {name}: Not a number of type INT")]
    NotANumber { name: &'static str, value: String },
    #[error("Invalid value {value} for configuration {name}: Value must be at least 1")]
    NotPositive { name: &'static str, value: i32 },
    #[error("{name} must be greater than or equal to {bound}")]
    TooSmall { name: &'static str, bound: &'static str },
    #[error("{name} must be less than or equal to {bound}")]
    TooLarge { name: &'static str, bound: &'static str },
    #[error("{SESSION} must be greater than {HEARTBEAT}")]
    SessionTooShort,
}

/// Whether a group has such a setting.
pub fn find(name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.name == name)
}

/// What the broker allows.
struct Bounds {
    name: &'static str,
    min: (Duration, &'static str),
    max: (Duration, &'static str),
}

impl Bounds {
    fn of_session(config: &Config) -> Bounds {
        Bounds {
            name: SESSION,
            min: (config.group_consumer_min_session_timeout, "group.consumer.min.session.timeout.ms"),
            max: (config.group_consumer_max_session_timeout, "group.consumer.max.session.timeout.ms"),
        }
    }

    fn of_heartbeat(config: &Config) -> Bounds {
        Bounds {
            name: HEARTBEAT,
            min: (config.group_consumer_min_heartbeat_interval, "group.consumer.min.heartbeat.interval.ms"),
            max: (config.group_consumer_max_heartbeat_interval, "group.consumer.max.heartbeat.interval.ms"),
        }
    }

    fn check(&self, value: Duration) -> Result<(), InvalidGroupConfig> {
        if value < self.min.0 {
            return Err(InvalidGroupConfig::TooSmall { name: self.name, bound: self.min.1 });
        }
        if value > self.max.0 {
            return Err(InvalidGroupConfig::TooLarge { name: self.name, bound: self.max.1 });
        }
        Ok(())
    }

    fn clamp(&self, value: Duration) -> Duration {
        value.max(self.min.0).min(self.max.0)
    }
}

impl GroupTimes {
    /// Those of groups that have none of their own.
    pub fn of_broker(config: &Config) -> GroupTimes {
        GroupTimes {
            session_timeout: config.group_consumer_session_timeout,
            heartbeat_interval: config.group_consumer_heartbeat_interval,
        }
    }

    /// Checks what is to be set of a group.
    pub fn parse(
        settings: &BTreeMap<String, String>,
        config: &Config,
    ) -> Result<GroupTimes, InvalidGroupConfig> {
        if let Some(unknown) = settings.keys().find(|name| find(name).is_none()) {
            return Err(InvalidGroupConfig::Unknown(unknown.chars().take(1024).collect()));
        }
        let mut times = GroupTimes::of_broker(config);
        for (name, value) in settings {
            times.set(name, value)?;
        }
        Bounds::of_heartbeat(config).check(times.heartbeat_interval)?;
        Bounds::of_session(config).check(times.session_timeout)?;
        if times.session_timeout <= times.heartbeat_interval {
            return Err(InvalidGroupConfig::SessionTooShort);
        }
        Ok(times)
    }

    /// What a group goes by that has such settings. They were checked when they were set, perhaps under other
    /// bounds: what is outside of those of now counts as the nearest that is within, and what makes no sense
    /// together as not set.
    pub fn in_effect(settings: &BTreeMap<String, String>, config: &Config) -> GroupTimes {
        let of_broker = GroupTimes::of_broker(config);
        let mut times = of_broker;
        for (name, value) in settings {
            let _ = times.set(name, value); // Of another build; the broker's counts.
        }
        times.session_timeout = Bounds::of_session(config).clamp(times.session_timeout);
        times.heartbeat_interval = Bounds::of_heartbeat(config).clamp(times.heartbeat_interval);
        if times.session_timeout > times.heartbeat_interval { times } else { of_broker }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), InvalidGroupConfig> {
        let (name, place) = match name {
            SESSION => (SESSION, &mut self.session_timeout),
            HEARTBEAT => (HEARTBEAT, &mut self.heartbeat_interval),
            unknown => return Err(InvalidGroupConfig::Unknown(unknown.to_owned())),
        };
        let number = value.trim().parse::<i32>().ok().filter(|_| value.len() <= NUMBER_LENGTH_MAX);
        let number = number.ok_or_else(|| InvalidGroupConfig::NotANumber {
            name,
            value: value.chars().take(1024).collect(),
        })?;
        if number < 1 {
            return Err(InvalidGroupConfig::NotPositive { name, value: number });
        }
        *place = Duration::from_millis(number as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, Machine};

    fn started(settings: &[(&str, &str)]) -> Config {
        let machine = Machine { cpus_allowed: vec![0], memory_bytes: 8 << 30 };
        let flags = settings
            .iter()
            .map(|(name, value)| ("--set".to_owned(), (*name).to_owned(), (*value).to_owned()));
        let flags: Vec<_> = flags.collect();
        Config::resolve(&Inputs { flags: &flags, ..Inputs::default() }, &machine).expect("valid")
    }

    fn settings(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn times(session_ms: u64, heartbeat_ms: u64) -> GroupTimes {
        GroupTimes {
            session_timeout: Duration::from_millis(session_ms),
            heartbeat_interval: Duration::from_millis(heartbeat_ms),
        }
    }

    #[test]
    fn what_a_group_does_not_say_is_the_brokers() {
        let config = started(&[("group.consumer.session.timeout.ms", "50000")]);
        let parse = |set: &[(&str, &str)]| GroupTimes::parse(&settings(set), &config);
        assert_eq!(parse(&[]), Ok(times(50_000, 5000)));
        assert_eq!(parse(&[(SESSION, "46000")]), Ok(times(46_000, 5000)));
        assert_eq!(parse(&[(SESSION, "60000"), (HEARTBEAT, "15000")]), Ok(times(60_000, 15_000)));
    }

    #[test]
    fn what_is_none_is_refused_in_kafkas_words() {
        let config = started(&[("group.consumer.min.session.timeout.ms", "10000")]);
        let refused = [
            (
                vec![("share.session.timeout.ms", "45000")],
                "Unknown group config name: share.session.timeout.ms",
            ),
            (
                vec![("streams.num.standby.replicas", "1")],
                "Unknown group config name: streams.num.standby.replicas",
            ),
            (
                vec![(SESSION, "9999")],
                "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms",
            ),
            (
                vec![(SESSION, "60001")],
                "consumer.session.timeout.ms must be less than or equal to group.consumer.max.session.timeout.ms",
            ),
            (
                vec![(HEARTBEAT, "4999")],
                "consumer.heartbeat.interval.ms must be greater than or equal to \
                 group.consumer.min.heartbeat.interval.ms",
            ),
            (
                vec![(HEARTBEAT, "15001")],
                "consumer.heartbeat.interval.ms must be less than or equal to \
                 group.consumer.max.heartbeat.interval.ms",
            ),
            (
                vec![(SESSION, "12000"), (HEARTBEAT, "12000")],
                "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms",
            ),
            (
                vec![(SESSION, "0")],
                "Invalid value 0 for configuration consumer.session.timeout.ms: Value must be at least 1",
            ),
            (
                vec![(SESSION, "1s")],
                "Invalid value 1s for configuration consumer.session.timeout.ms: Not a number of type INT",
            ),
        ];
        for (set, message) in refused {
            let error = GroupTimes::parse(&settings(&set), &config).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
        let long = format!("{}50000", "0".repeat(NUMBER_LENGTH_MAX));
        assert!(GroupTimes::parse(&settings(&[(SESSION, &long)]), &config).is_err(), "it would be kept");
    }

    #[test]
    fn settings_made_under_other_bounds_are_brought_within_those_of_now() {
        let config = started(&[]);
        let in_effect = |set: &[(&str, &str)]| GroupTimes::in_effect(&settings(set), &config);
        assert_eq!(in_effect(&[(SESSION, "50000")]), times(50_000, 5000));
        assert_eq!(in_effect(&[(SESSION, "1000"), (HEARTBEAT, "100")]), times(45_000, 5000));
        assert_eq!(in_effect(&[(SESSION, "99000"), (HEARTBEAT, "99000")]), times(60_000, 15_000));
        assert_eq!(in_effect(&[(SESSION, "x"), ("other", "1")]), times(45_000, 5000));
        let narrow = started(&[
            ("group.consumer.min.session.timeout.ms", "6000"),
            ("group.consumer.session.timeout.ms", "6000"),
        ]);
        let both = settings(&[(SESSION, "10000"), (HEARTBEAT, "12000")]);
        assert_eq!(GroupTimes::in_effect(&both, &narrow), times(6000, 5000), "not one without the other");
    }
}
