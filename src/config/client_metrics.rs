//! Subscriptions to what clients measure of themselves (KIP-714): Kafka's names, our types.
//!
//! | setting | what it says |
//! |---|---|
//! | `metrics` | names of metrics, or beginnings of names, with commas between; `*`: all; nothing: none |
//! | `interval.ms` | how often clients send them: 100 ms to an hour, five minutes by default |
//! | `match` | `name=pattern` with commas between: of which clients, all of them having to match |
//!
//! Source: Kafka `ClientMetricsConfigs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regex::{Regex, RegexBuilder};

/// What is asked for where nothing is said (Kafka `DEFAULT_INTERVAL_MS`).
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(300);

const INTERVAL_MIN_MS: i32 = 100;
const INTERVAL_MAX_MS: i32 = 3_600_000;

/// Bytes that a compiled pattern may take: any that names clients takes a few kilobytes.
const PATTERN_SIZE_MAX: usize = 256 << 10;

/// Bytes of all settings of one subscription; every shard holds them, and each of its clients what it is asked for.
pub const SETTINGS_SIZE_MAX: usize = 16 << 10;

/// Bytes of a subscription's name.
pub const NAME_SIZE_MAX: usize = 1024;

/// Every metric that there is.
pub const ALL_METRICS: &str = "*";

/// A setting of a subscription.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    pub name: &'static str,
    /// Kafka's `ConfigType` on the wire.
    pub wire_type: i8,
    pub doc: &'static str,
}

pub const PROPERTIES: [Property; 3] = [
    Property { name: "interval.ms", wire_type: 3, doc: "How often clients send their metrics." },
    Property {
        name: "match",
        wire_type: 7,
        doc: "Of which clients: `name=pattern`, with commas between. All of them have to match.",
    },
    Property {
        name: "metrics",
        wire_type: 7,
        doc: "Names of metrics, or beginnings of names; `*` is all of them.",
    },
];

impl Property {
    pub fn is_list(&self) -> bool {
        const LIST: i8 = 7;
        self.wire_type == LIST
    }
}

/// What a pattern is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    InstanceId,
    ClientId,
    SoftwareName,
    SoftwareVersion,
    SourceAddress,
    SourcePort,
}

/// One subscription.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub metrics: BTreeSet<String>,
    pub interval: Duration,
    /// One of each attribute.
    patterns: BTreeMap<Attribute, Regex>,
}

/// Why settings are not those of a subscription. Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubscription {
    #[error("Subscription name can't be empty")]
    Nameless,
    #[error("Unknown client metrics configuration: {0}")]
    Unknown(String),
    #[error("Invalid value {0} for interval.ms, interval must be between 100 and 3600000 (1 hour)")]
    Interval(i32),
    #[error("Invalid value {0} for configuration interval.ms: Not a number of type INT")]
    NotANumber(String),
    #[error("Illegal client matching pattern: {0}")]
    Pattern(String),
    /// Ours: a bound.
    #[error("Settings of a subscription can't be longer than {SETTINGS_SIZE_MAX} bytes")]
    TooLong,
}

impl Attribute {
    const ALL: [(&str, Attribute); 6] = [
        ("client_instance_id", Attribute::InstanceId),
        ("client_id", Attribute::ClientId),
        ("client_software_name", Attribute::SoftwareName),
        ("client_software_version", Attribute::SoftwareVersion),
        ("client_source_address", Attribute::SourceAddress),
        ("client_source_port", Attribute::SourcePort),
    ];
}

/// Whether a subscription has such a setting.
pub fn find(name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.name == name)
}

impl Subscription {
    pub fn parse(settings: &BTreeMap<String, String>) -> Result<Subscription, InvalidSubscription> {
        if let Some(unknown) = settings.keys().find(|name| find(name).is_none()) {
            return Err(InvalidSubscription::Unknown(unknown.chars().take(1024).collect()));
        }
        let sizes = settings.iter().map(|(name, value)| name.len() + value.len());
        if sizes.sum::<usize>() > SETTINGS_SIZE_MAX {
            return Err(InvalidSubscription::TooLong);
        }
        let words = |name: &str| {
            let text = settings.get(name).map_or("", String::as_str);
            text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>()
        };
        let interval = match settings.get("interval.ms") {
            None => INTERVAL_DEFAULT,
            Some(text) => {
                let number = text.trim().parse::<i32>();
                let ms = number.map_err(|_| InvalidSubscription::NotANumber(text.clone()))?;
                if !(INTERVAL_MIN_MS..=INTERVAL_MAX_MS).contains(&ms) {
                    return Err(InvalidSubscription::Interval(ms));
                }
                Duration::from_millis(ms as u64)
            }
        };
        // Of several for one attribute the last counts, as in Kafka, and is the only one that is compiled.
        let mut texts = BTreeMap::new();
        for text in words("match") {
            let (attribute, pattern) = split(text).ok_or_else(|| illegal(text))?;
            texts.insert(attribute, (text, pattern));
        }
        let mut patterns = BTreeMap::new();
        for (attribute, (text, pattern)) in texts {
            patterns.insert(attribute, compile(pattern).ok_or_else(|| illegal(text))?);
        }
        let metrics = words("metrics").into_iter().map(str::to_owned).collect();
        Ok(Subscription { metrics, interval, patterns })
    }

    /// Whether it is for a client; of an attribute that is not known there is none.
    pub fn is_for<'a>(&self, attribute: impl Fn(Attribute) -> Option<&'a str>) -> bool {
        let matches = |(name, pattern): (&Attribute, &Regex)| {
            attribute(*name).is_some_and(|value| pattern.is_match(value))
        };
        self.patterns.iter().all(matches)
    }
}

fn illegal(text: &str) -> InvalidSubscription {
    InvalidSubscription::Pattern(text.to_owned())
}

/// An attribute, and what it has to match.
fn split(text: &str) -> Option<(Attribute, &str)> {
    let (name, pattern) = text.split_once('=')?;
    if pattern.is_empty() || pattern.contains('=') {
        return None; // As Kafka, which splits at each of them.
    }
    let known = Attribute::ALL.iter().find(|(known, _)| *known == name.trim());
    known.map(|(_, attribute)| (*attribute, pattern.trim()))
}

/// Shape: some milliseconds at worst.
fn compile(pattern: &str) -> Option<Regex> {
    // The whole value has to match.
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(PATTERN_SIZE_MAX).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(settings: &[(&str, &str)]) -> Result<Subscription, String> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Subscription::parse(&settings.collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_those_of_kafka() {
        let subscription = parse(&[
            ("metrics", "org.apache.kafka.producer., org.apache.kafka.consumer.fetch"),
            ("interval.ms", "1000"),
            ("match", "client_software_name = apache-kafka-java, client_software_version=3\\..*"),
        ]);
        let subscription = subscription.expect("valid");
        assert_eq!(subscription.metrics.len(), 2);
        assert_eq!(subscription.interval, Duration::from_secs(1));
        let client = |name: &'static str, version: &'static str| {
            move |attribute| match attribute {
                Attribute::SoftwareName => Some(name),
                Attribute::SoftwareVersion => Some(version),
                _ => None,
            }
        };
        assert!(subscription.is_for(client("apache-kafka-java", "3.9.0")));
        assert!(!subscription.is_for(client("apache-kafka-java", "4.0")), "all have to match");
        assert!(!subscription.is_for(client("apache-kafka-java-fork", "3.9.0")), "the whole name has to");
        assert!(!subscription.is_for(|_| None), "what is not known does not match");
        let nothing = parse(&[]).expect("everything has a default");
        assert_eq!((nothing.metrics.len(), nothing.interval), (0, INTERVAL_DEFAULT));
        assert!(nothing.is_for(|_| None));
    }

    #[test]
    fn what_is_none_is_refused_in_kafkas_words() {
        let refused = [
            (("retention.ms", "1"), "Unknown client metrics configuration: retention.ms"),
            (
                ("interval.ms", "99"),
                "Invalid value 99 for interval.ms, interval must be between 100 and 3600000 (1 hour)",
            ),
            (("interval.ms", "x"), "Invalid value x for configuration interval.ms: Not a number of type INT"),
            (("match", "client_id"), "Illegal client matching pattern: client_id"),
            (("match", "client_id=a=b"), "Illegal client matching pattern: client_id=a=b"),
            (("match", "nosuch=a"), "Illegal client matching pattern: nosuch=a"),
            (("match", "client_id=("), "Illegal client matching pattern: client_id=("),
        ];
        for (setting, message) in refused {
            assert_eq!(parse(&[setting]).err().as_deref(), Some(message));
        }
        assert!(parse(&[("match", "client_id=(a{1000}){1000}")]).is_err(), "patterns are bounded");
        let long = "m".repeat(SETTINGS_SIZE_MAX);
        assert_eq!(parse(&[("metrics", &long)]).err(), Some(InvalidSubscription::TooLong.to_string()));
    }

    /// However many there are, what is kept and compiled is one of each attribute.
    #[test]
    fn the_last_pattern_of_an_attribute_counts() {
        let large = "client_id=(a{100}){10},".repeat(500);
        let subscription = parse(&[("match", &format!("{large}client_id=b,client_source_port=1"))]);
        let subscription = subscription.expect("valid");
        assert_eq!(subscription.patterns.len(), 2);
        let is_for = |id: &'static str| {
            subscription.is_for(|attribute| match attribute {
                Attribute::ClientId => Some(id),
                _ => Some("1"),
            })
        };
        assert!(is_for("b") && !is_for("a"));
    }
}
