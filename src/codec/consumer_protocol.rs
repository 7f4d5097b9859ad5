//! What consumers of the classic protocol say of themselves when they join a group (protocol type `consumer`),
//! and what they are assigned. The classic protocol looks at nothing but the topics; where such a consumer is in
//! a group of the newer protocol, the broker takes the place of its assignor.
//!
//! | subscription | type | versions |
//! |---|---|---|
//! | version | i16, from 0 | |
//! | topics | array of string | all |
//! | user data | nullable bytes; not looked at | all |
//! | partitions that it has: topic, indexes | array of string and array of i32 | 1 and above |
//! | generation | i32; not looked at | 2 and above |
//! | rack | nullable string | 3 and above |
//!
//! | assignment | type |
//! |---|---|
//! | version | i16, as the subscription has it |
//! | partitions: topic, indexes | array of string and array of i32 |
//! | user data | nullable bytes |
//!
//! Source: Kafka `ConsumerProtocolSubscription`, `ConsumerProtocolAssignment`; later versions begin like these.

use crate::codec::wire::{Encoding, Reader, WireError, Writer};
use std::collections::{BTreeMap, BTreeSet};

/// The protocol type of consumers.
pub const PROTOCOL_TYPE: &str = "consumer";

/// Bytes of an empty name.
const NAME_SIZE_MIN: usize = 2;
/// The newest version that is written.
const VERSION_MAX: i16 = 3;

/// Partitions by the name of their topic.
pub type NamedPartitions = BTreeMap<String, BTreeSet<i32>>;

/// What a consumer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    pub version: i16,
    pub topics: BTreeSet<String>,
    /// The partitions that it has.
    pub owned: NamedPartitions,
    pub rack: Option<String>,
}

/// The topics of a subscription.
pub fn subscribed_topics(subscription: &[u8]) -> Result<Vec<&str>, WireError> {
    let mut reader = Reader::new(subscription, Encoding::Classic);
    let _version = reader.i16()?;
    topics(&mut reader)
}

fn topics<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>, WireError> {
    let count = reader.count(NAME_SIZE_MIN)?;
    (0..count).map(|_| reader.str()).collect()
}

/// All of a subscription that matters to whoever assigns.
pub fn subscription(bytes: &[u8]) -> Result<Subscription, WireError> {
    let mut reader = Reader::new(bytes, Encoding::Classic);
    let version = reader.i16()?;
    let topics = topics(&mut reader)?.into_iter().map(str::to_owned).collect();
    let _user_data = reader.nullable_bytes()?;
    let owned = if version >= 1 { partitions(&mut reader)? } else { NamedPartitions::new() };
    if version >= 2 {
        reader.i32()?;
    }
    let rack = if version >= 3 { reader.nullable_str()?.map(str::to_owned) } else { None };
    Ok(Subscription { version, topics, owned, rack })
}

/// The partitions of an assignment. No bytes at all are no partitions.
pub fn assignment(bytes: &[u8]) -> Result<NamedPartitions, WireError> {
    if bytes.is_empty() {
        return Ok(NamedPartitions::new());
    }
    let mut reader = Reader::new(bytes, Encoding::Classic);
    let _version = reader.i16()?;
    partitions(&mut reader)
}

/// An assignment for a consumer whose subscription has some version.
pub fn write_assignment(version: i16, partitions: &NamedPartitions) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, Encoding::Classic);
    writer.i16(version.clamp(0, VERSION_MAX));
    writer.length(Some(partitions.len()));
    for (topic, indexes) in partitions {
        writer.str(topic);
        writer.length(Some(indexes.len()));
        indexes.iter().for_each(|index| writer.i32(*index));
    }
    writer.length(None); // User data.
    out
}

fn partitions(reader: &mut Reader<'_>) -> Result<NamedPartitions, WireError> {
    let count = reader.count(NAME_SIZE_MIN + 4)?;
    let mut partitions = NamedPartitions::new();
    for _ in 0..count {
        let topic = reader.str()?.to_owned();
        let count = reader.count(4)?;
        let indexes: BTreeSet<i32> = (0..count).map(|_| reader.i32()).collect::<Result<_, _>>()?;
        partitions.entry(topic).or_default().extend(indexes);
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_come_first_in_every_version() {
        let newest = b"\0\x03\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\0\0\0\0\x01\0\0";
        assert_eq!(subscribed_topics(newest), Ok(vec!["a", "bc"]));
        assert_eq!(subscribed_topics(b"\0\0\0\0\0\0"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_subscription_is_refused() {
        assert!(subscribed_topics(b"").is_err());
        assert!(subscribed_topics(b"\0\0\x7f\xff\xff\xff").is_err());
        assert!(subscribed_topics(b"\0\0\0\0\0\x01\0\x05ab").is_err());
    }

    #[test]
    fn subscriptions_are_read_in_every_version() {
        let zero = b"\0\0\0\0\0\x01\0\x01a\xff\xff\xff\xff";
        let a = || BTreeSet::from(["a".to_owned()]);
        assert_eq!(subscription(zero), Ok(Subscription { topics: a(), ..Subscription::default() }));
        let owned = || NamedPartitions::from([("a".to_owned(), BTreeSet::from([1, 2]))]);
        let body = b"\0\0\0\x01\0\x01a\0\0\0\x01\x07\0\0\0\x01\0\x01a\0\0\0\x02\0\0\0\x01\0\0\0\x02";
        let one = [&b"\0\x01"[..], body].concat();
        let expected = Subscription { version: 1, topics: a(), owned: owned(), rack: None };
        assert_eq!(subscription(&one), Ok(expected.clone()));
        let three = [&b"\0\x03"[..], body, b"\0\0\0\x05\0\x01r"].concat();
        let rack = Some("r".to_owned());
        assert_eq!(subscription(&three), Ok(Subscription { version: 3, rack, ..expected }));
    }

    #[test]
    fn assignments_are_kafkas_bytes() {
        let partitions = NamedPartitions::from([("a".to_owned(), BTreeSet::from([1, 2]))]);
        let bytes = write_assignment(1, &partitions);
        assert_eq!(bytes, b"\0\x01\0\0\0\x01\0\x01a\0\0\0\x02\0\0\0\x01\0\0\0\x02\xff\xff\xff\xff");
        assert_eq!(assignment(&bytes), Ok(partitions));
        assert_eq!(assignment(b""), Ok(NamedPartitions::new()));
        assert_eq!(write_assignment(9, &NamedPartitions::new())[..2], [0, 3]);
        assert!(assignment(b"\0\x01\0\0\x7f\xff").is_err());
    }
}
