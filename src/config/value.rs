//! The values of properties: text to typed value, and back to the one spelling that is shown.
//!
//! Sizes take Kafka's plain byte counts and the usual suffixes (`512MiB`, `1GB`), durations plain
//! counts of the property's unit and suffixes (`7d`, `500ms`). -1 means "no limit" only where a
//! property says so. Every parser returns what it expected instead as a phrase that completes
//! "expected ...".

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// What would have been accepted; completes "expected ...".
pub type Expected = String;

/// Where a listener is, or where clients reach it. The host is a name or an address; it is looked
/// up only when a socket is opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

impl HostPort {
    /// True for `0.0.0.0` and `::`, which no client can connect to.
    pub fn is_wildcard(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
    }
}

impl FromStr for HostPort {
    type Err = Expected;

    fn from_str(text: &str) -> Result<HostPort, Expected> {
        let expected = || "HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092".to_string();
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(expected)?,
            None if host.contains(':') => return Err(expected()),
            None => host,
        };
        let valid = !host.is_empty() && host.len() <= 253 && !host.contains(['/', ' ', '[', ']', '@']);
        let port = port.parse().map_err(|_| expected())?;
        if valid { Ok(HostPort { host: host.to_string(), port }) } else { Err(expected()) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Which broker a client sees behind a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// One broker on one port; what belongs to another core takes one hop.
    #[default]
    Node,
    /// One broker per core: id = node id × 1000 + shard, port = base + 1 + shard.
    Core,
}

/// Which replica a consumer is sent to (KIP-392).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaSelector {
    /// The leader: nobody is sent anywhere.
    #[default]
    Leader,
    /// One of the consumer's rack, where the leader is in another one.
    RackAware,
}

/// How log lines are written to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    Human,
    Json,
}

/// Whose clock stamps the records of a topic (Kafka `message.timestamp.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    #[default]
    CreateTime,
    LogAppendTime,
}

/// What an acknowledgement waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DurabilityMode {
    #[default]
    Fsync,
    Write,
}

/// How batches are stored (`compression.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer sent them.
    #[default]
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

macro_rules! words {
    ($type:ty, $($word:literal => $value:path),+) => {
        impl FromStr for $type {
            type Err = Expected;

            fn from_str(text: &str) -> Result<Self, Expected> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err([$($word),+].join(" or ")),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $($value => $word,)+
                })
            }
        }
    };
}

words!(Routing, "node" => Routing::Node, "core" => Routing::Core);
words!(LogFormat, "auto" => LogFormat::Auto, "human" => LogFormat::Human, "json" => LogFormat::Json);
words!(
    TimestampType,
    "CreateTime" => TimestampType::CreateTime,
    "LogAppendTime" => TimestampType::LogAppendTime
);
words!(
    CompressionType,
    "producer" => CompressionType::Producer,
    "uncompressed" => CompressionType::Uncompressed,
    "gzip" => CompressionType::Gzip,
    "snappy" => CompressionType::Snappy,
    "lz4" => CompressionType::Lz4,
    "zstd" => CompressionType::Zstd
);
words!(ReplicaSelector, "leader" => ReplicaSelector::Leader, "rack-aware" => ReplicaSelector::RackAware);
words!(DurabilityMode, "fsync" => DurabilityMode::Fsync, "write" => DurabilityMode::Write);

/// By its name, or as Kafka names the class that does it.
pub fn replica_selector(text: &str) -> Result<ReplicaSelector, Expected> {
    match text.strip_prefix("org.apache.kafka.common.replica.") {
        Some("RackAwareReplicaSelector") => Ok(ReplicaSelector::RackAware),
        Some("LeaderSelector") => Ok(ReplicaSelector::Leader),
        _ => text.parse(),
    }
}

pub fn boolean(text: &str) -> Result<bool, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false".to_string()),
    }
}

/// A boolean that people call on and off.
pub fn switch(text: &str) -> Result<bool, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        other => boolean(other).map_err(|_| "on or off".to_string()),
    }
}

pub fn integer(text: &str, range: RangeInclusive<i64>) -> Result<i64, Expected> {
    let expected = || format!("a whole number from {} to {}", range.start(), range.end());
    let value: i64 = text.parse().map_err(|_| expected())?;
    if range.contains(&value) { Ok(value) } else { Err(expected()) }
}

/// Bytes, with an optional suffix: `k`, `kB`, `KiB` and so on. As in Kafka's world and in most
/// tools that start processes, `K`, `M` and `G` alone are powers of 1024; `kB` and `MB` are decimal.
pub fn size(text: &str, range: RangeInclusive<u64>) -> Result<u64, Expected> {
    let expected =
        || format!("a size from {} to {} bytes, such as 1048576 or 512MiB", range.start(), range.end());
    let (digits, suffix) = split_suffix(text);
    let unit: u64 = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(expected()),
    };
    let count: u64 = digits.parse().map_err(|_| expected())?;
    let bytes = count.checked_mul(unit).ok_or_else(expected)?;
    if range.contains(&bytes) { Ok(bytes) } else { Err(expected()) }
}

/// A size, or `None` for -1.
pub fn size_or_unlimited(text: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Expected> {
    if text == "-1" {
        return Ok(None);
    }
    size(text, range).map(Some).map_err(|expected| format!("{expected}, or -1 for no limit"))
}

/// A duration: a plain count is in `unit`, a suffix names its own.
pub fn duration(text: &str, unit: Duration, range: RangeInclusive<Duration>) -> Result<Duration, Expected> {
    let expected = || {
        let unit = match unit.as_millis() {
            1 => "milliseconds",
            60_000 => "minutes",
            _ => "hours",
        };
        format!("{unit} from {}, or a duration such as 500ms, 10s or 7d", range.start().as_millis())
    };
    let (digits, suffix) = split_suffix(text);
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" | "min" => Duration::from_secs(60),
        "h" => Duration::from_secs(3_600),
        "d" => Duration::from_secs(86_400),
        _ => return Err(expected()),
    };
    let count: u64 = digits.parse().map_err(|_| expected())?;
    let unit_ms = unit.as_millis() as u64; // At most a day.
    let duration = Duration::from_millis(count.checked_mul(unit_ms).ok_or_else(expected)?);
    if range.contains(&duration) { Ok(duration) } else { Err(expected()) }
}

/// A duration, or `None` for any negative number (Kafka's "no limit").
pub fn duration_or_unlimited(
    text: &str,
    unit: Duration,
    range: RangeInclusive<Duration>,
) -> Result<Option<Duration>, Expected> {
    if text.parse::<i64>().is_ok_and(|count| count < 0) {
        return Ok(None);
    }
    duration(text, unit, range).map(Some).map_err(|expected| format!("{expected}, or -1 for no limit"))
}

/// One of some words.
pub fn choice(text: &str, known: &[&'static str]) -> Result<&'static str, Expected> {
    let word = text.trim();
    let found = known.iter().find(|known| known.eq_ignore_ascii_case(word));
    found.copied().ok_or_else(|| known.join(", "))
}

/// Some of some words, each once, with commas between.
pub fn choices(text: &str, known: &[&'static str]) -> Result<Vec<&'static str>, Expected> {
    let mut chosen = Vec::new();
    for word in text.split(',') {
        let word = choice(word, known).map_err(|known| format!("some of {known}, with commas between"))?;
        if !chosen.contains(&word) {
            chosen.push(word);
        }
    }
    Ok(chosen)
}

/// CPU numbers as the kernel lists them: `0-3,6`. Ascending and without repeats.
pub fn cpu_list(text: &str) -> Result<Vec<usize>, Expected> {
    /// Above the kernel's own `NR_CPUS` maximum of 8192; bounds the list that a typo can ask for.
    const CPUS_MAX: usize = 8192;
    let expected = || "CPU numbers such as 0-3,6".to_string();
    let mut cpus = std::collections::BTreeSet::new();
    for range in text.split(',').map(str::trim) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: usize = first.trim().parse().map_err(|_| expected())?;
        let last: usize = last.trim().parse().map_err(|_| expected())?;
        if first > last || last >= CPUS_MAX {
            return Err(expected());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus.into_iter().collect())
}

/// The inverse of [`cpu_list`].
pub fn format_cpu_list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let words = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

fn split_suffix(text: &str) -> (&str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits);
    (digits, suffix.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_kafka_counts_and_suffixes() {
        let any = 0..=u64::MAX;
        assert_eq!(size("1048588", any.clone()), Ok(1_048_588));
        assert_eq!(size("1GiB", any.clone()), Ok(1 << 30));
        assert_eq!(size("512 MiB", any.clone()), Ok(512 << 20));
        assert_eq!(size("2g", any.clone()), Ok(2 << 30));
        assert_eq!(size("3MB", any.clone()), Ok(3_000_000));
        for wrong in ["", "-1", "GiB", "1.5GiB", "1 parsec", "99999999999999999999", "18446744073709551615k"]
        {
            assert!(size(wrong, any.clone()).is_err(), "{wrong}");
        }
        assert!(size("10", 11..=20).is_err());
        assert_eq!(size_or_unlimited("-1", any.clone()), Ok(None));
        assert!(size_or_unlimited("-2", any).is_err());
    }

    #[test]
    fn durations_take_the_propertys_unit_and_suffixes() {
        let any = Duration::ZERO..=Duration::MAX;
        let hour = Duration::from_secs(3_600);
        let ms = Duration::from_millis(1);
        assert_eq!(duration("168", hour, any.clone()), Ok(hour * 168));
        assert_eq!(duration("7d", ms, any.clone()), Ok(hour * 168));
        assert_eq!(duration("250ms", hour, any.clone()), Ok(ms * 250));
        assert!(duration("18446744073709551615d", ms, any.clone()).is_err());
        assert!(duration("-1", ms, any.clone()).is_err());
        assert_eq!(duration_or_unlimited("-1", ms, any), Ok(None));
    }

    #[test]
    fn host_and_port_keep_ipv6_brackets() {
        for text in ["127.0.0.1:9092", "[::1]:9092", "broker-1.example:1"] {
            assert_eq!(text.parse::<HostPort>().map(|host_port| host_port.to_string()), Ok(text.to_string()));
        }
        for wrong in ["", "9092", ":9092", "::1:9092", "[::1]", "host:", "host:70000", "a b:1", "http://a:1"]
        {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong}");
        }
        assert!("0.0.0.0:1".parse::<HostPort>().is_ok_and(|host_port| host_port.is_wildcard()));
        assert!("[::]:1".parse::<HostPort>().is_ok_and(|host_port| host_port.is_wildcard()));
        assert!("127.0.0.1:1".parse::<HostPort>().is_ok_and(|host_port| !host_port.is_wildcard()));
    }

    #[test]
    fn cpu_lists_round_trip() {
        assert_eq!(cpu_list("6, 0-3"), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(format_cpu_list(&[0, 1, 2, 3, 6]), "0-3,6");
        for wrong in ["", "a", "3-1", "0-99999999999", "1,,2"] {
            assert!(cpu_list(wrong).is_err(), "{wrong}");
        }
    }
}
