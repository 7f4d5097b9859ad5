//! Records of `__consumer_offsets` that groups of the newer protocol (KIP-848) are kept in, in Kafka's own
//! formats.
//!
//! | key version | key behind it: strings | what its value says |
//! |---|---|---|
//! | 3 | group | epoch: i32 |
//! | 4 | group | topics that are subscribed to: id, name, partitions: i32, an unused array |
//! | 5 | group, member | what a member says of itself |
//! | 6 | group | epoch of the assignment that is aimed at: i32 |
//! | 7 | group, member | partitions that are aimed at |
//! | 8 | group, member | epoch: i32, the one before: i32, state: i8, partitions that it has, that it is to let go |
//! | 16 | group, regular expression | names of topics: array, version: i64, timestamp: i64 |
//!
//! Keys have the classic encoding, values the flexible one (KIP-482) behind a version, i16, which is 0. No value
//! is a tombstone. Partitions: an array of topic id (16 bytes) and array of i32. A member: instance id, rack:
//! nullable string; client id, client host: string; names of topics: array of string; regular expression:
//! nullable string; rebalance time-out: i32; assignor: nullable string; and, as tagged field 0 of one that uses
//! the classic protocol, the session time-out: i32, and its protocols: array of name: string, metadata: bytes.
//!
//! Later versions of Kafka add tagged fields, which are passed over (KIP-1101, KIP-1282).
//! Source: Kafka `ConsumerGroupMetadataKey` and its siblings.

use crate::codec::group_record::GroupRecordError;
use crate::codec::wire::{Encoding, Reader, WireError, Writer};
use crate::types::sorted::{SortedMap, SortedSet};
use crate::types::{TopicId, Uuid};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

const GROUP_KEY: i16 = 3;
const TOPICS_KEY: i16 = 4;
const MEMBER_KEY: i16 = 5;
const TARGET_EPOCH_KEY: i16 = 6;
const TARGET_KEY: i16 = 7;
const CURRENT_KEY: i16 = 8;
const REGEX_KEY: i16 = 16;
/// The version of all values.
const VALUE: i16 = 0;
/// Tag of what members of the classic protocol have.
const CLASSIC_TAG: u32 = 0;

/// Partitions by topic. No topic is without one.
pub type Partitions = SortedMap<TopicId, SortedSet<i32>>;

/// One record; no value deletes what its key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerRecord {
    Group { group: String, epoch: Option<i32> },
    Topics { group: String, topics: Option<BTreeMap<String, SubscribedTopic>> },
    Member { group: String, member: String, value: Option<MemberValue> },
    TargetEpoch { group: String, epoch: Option<i32> },
    Target { group: String, member: String, partitions: Option<Partitions> },
    Current { group: String, member: String, value: Option<CurrentValue> },
    Regex { group: String, regex: String, value: Option<RegexValue> },
}

/// A topic as it was when a group last looked at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribedTopic {
    pub id: TopicId,
    pub partition_count: i32,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberValue {
    pub instance_id: Option<String>,
    pub rack: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub topics: SortedSet<String>,
    pub regex: Option<String>,
    /// Negative: not known.
    pub rebalance_timeout_ms: i32,
    pub assignor: Option<String>,
    /// Of a member that uses the classic protocol.
    pub classic: Option<Box<ClassicValue>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassicValue {
    pub session_timeout_ms: i32,
    /// Name and metadata, in the member's order.
    pub protocols: Vec<(String, Bytes)>,
}

/// Where a member is on its way to what is aimed at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    #[default]
    Stable,
    /// It has to let partitions go before it gets its next epoch.
    Unrevoked,
    /// Partitions that it is to have are not free yet.
    Unreleased,
    /// Of a later version of Kafka.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CurrentValue {
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: Partitions,
    pub revoking: Partitions,
}

/// What a regular expression was resolved to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegexValue {
    pub topics: BTreeSet<String>,
    /// Which version of the topics it was held against.
    pub version: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
}

impl MemberState {
    fn from_wire(state: i8) -> MemberState {
        match state {
            0 => MemberState::Stable,
            1 => MemberState::Unrevoked,
            2 => MemberState::Unreleased,
            _ => MemberState::Unknown,
        }
    }

    fn to_wire(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::Unrevoked => 1,
            MemberState::Unreleased => 2,
            MemberState::Unknown => i8::MAX,
        }
    }
}

impl ConsumerRecord {
    /// `key` is behind its version. `None` for a kind of record that is not known here.
    pub fn decode(
        version: i16,
        mut key: Reader<'_>,
        value: Option<&[u8]>,
    ) -> Result<Option<ConsumerRecord>, GroupRecordError> {
        if !matches!(version, GROUP_KEY..=CURRENT_KEY | REGEX_KEY) {
            return Ok(None);
        }
        let mut name = || key.str().map(str::to_owned).map_err(GroupRecordError::Key);
        let group = name()?;
        Ok(Some(match version {
            GROUP_KEY => ConsumerRecord::Group { group, epoch: read(value, read_epoch)? },
            TOPICS_KEY => ConsumerRecord::Topics { group, topics: read(value, read_topics)? },
            MEMBER_KEY => ConsumerRecord::Member { group, member: name()?, value: read(value, read_member)? },
            TARGET_EPOCH_KEY => ConsumerRecord::TargetEpoch { group, epoch: read(value, read_epoch)? },
            TARGET_KEY => {
                ConsumerRecord::Target { group, member: name()?, partitions: read(value, read_target)? }
            }
            CURRENT_KEY => {
                ConsumerRecord::Current { group, member: name()?, value: read(value, read_current)? }
            }
            REGEX_KEY => ConsumerRecord::Regex { group, regex: name()?, value: read(value, read_regex)? },
            _ => unreachable!("looked at above"),
        }))
    }

    pub fn group(&self) -> &str {
        match self {
            ConsumerRecord::Group { group, .. }
            | ConsumerRecord::Topics { group, .. }
            | ConsumerRecord::Member { group, .. }
            | ConsumerRecord::TargetEpoch { group, .. }
            | ConsumerRecord::Target { group, .. }
            | ConsumerRecord::Current { group, .. }
            | ConsumerRecord::Regex { group, .. } => group,
        }
    }

    /// The member that it is of.
    pub fn member(&self) -> Option<&str> {
        match self {
            ConsumerRecord::Member { member, .. }
            | ConsumerRecord::Target { member, .. }
            | ConsumerRecord::Current { member, .. } => Some(member),
            ConsumerRecord::Group { .. }
            | ConsumerRecord::Topics { .. }
            | ConsumerRecord::TargetEpoch { .. }
            | ConsumerRecord::Regex { .. } => None,
        }
    }

    /// Whether it deletes what its key names.
    pub fn is_tombstone(&self) -> bool {
        match self {
            ConsumerRecord::Group { epoch, .. } | ConsumerRecord::TargetEpoch { epoch, .. } => {
                epoch.is_none()
            }
            ConsumerRecord::Topics { topics, .. } => topics.is_none(),
            ConsumerRecord::Member { value, .. } => value.is_none(),
            ConsumerRecord::Target { partitions, .. } => partitions.is_none(),
            ConsumerRecord::Current { value, .. } => value.is_none(),
            ConsumerRecord::Regex { value, .. } => value.is_none(),
        }
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.encode_key().len() + self.encode_value().map_or(0, |value| value.len())
    }

    pub fn encode_key(&self) -> Vec<u8> {
        let (version, group, second) = match self {
            ConsumerRecord::Group { group, .. } => (GROUP_KEY, group, None),
            ConsumerRecord::Topics { group, .. } => (TOPICS_KEY, group, None),
            ConsumerRecord::Member { group, member, .. } => (MEMBER_KEY, group, Some(member)),
            ConsumerRecord::TargetEpoch { group, .. } => (TARGET_EPOCH_KEY, group, None),
            ConsumerRecord::Target { group, member, .. } => (TARGET_KEY, group, Some(member)),
            ConsumerRecord::Current { group, member, .. } => (CURRENT_KEY, group, Some(member)),
            ConsumerRecord::Regex { group, regex, .. } => (REGEX_KEY, group, Some(regex)),
        };
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, Encoding::Classic);
        writer.i16(version);
        writer.str(group);
        second.into_iter().for_each(|second| writer.str(second));
        out
    }

    /// `None` for a tombstone.
    pub fn encode_value(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        writer(&mut out).i16(VALUE);
        match self {
            ConsumerRecord::Group { epoch, .. } | ConsumerRecord::TargetEpoch { epoch, .. } => {
                writer(&mut out).i32((*epoch)?);
            }
            ConsumerRecord::Topics { topics, .. } => write_topics(topics.as_ref()?, &mut out),
            ConsumerRecord::Member { value, .. } => {
                write_member(value.as_ref()?, &mut out);
                return Some(out);
            }
            ConsumerRecord::Target { partitions, .. } => write_partitions(partitions.as_ref()?, &mut out),
            ConsumerRecord::Current { value, .. } => write_current(value.as_ref()?, &mut out),
            ConsumerRecord::Regex { value, .. } => {
                let value = value.as_ref()?;
                write_names(value.topics.iter(), &mut out);
                let mut writer = writer(&mut out);
                writer.i64(value.version);
                writer.i64(value.timestamp);
            }
        }
        writer(&mut out).no_tagged_fields();
        Some(out)
    }
}

fn writer(out: &mut Vec<u8>) -> Writer<'_> {
    Writer::new(out, Encoding::Compact)
}

/// Reads a value, if there is one, behind its version.
fn read<T>(
    value: Option<&[u8]>,
    body: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Option<T>, GroupRecordError> {
    let Some(value) = value else { return Ok(None) };
    let mut reader = Reader::new(value, Encoding::Compact);
    match reader.i16().map_err(GroupRecordError::Value)? {
        VALUE => body(&mut reader).map(Some).map_err(GroupRecordError::Value),
        version => Err(GroupRecordError::ValueVersion(version)),
    }
}

fn read_epoch(reader: &mut Reader<'_>) -> Result<i32, WireError> {
    let epoch = reader.i32()?;
    reader.skip_tagged_fields()?;
    Ok(epoch)
}

fn read_topic_id(reader: &mut Reader<'_>) -> Result<TopicId, WireError> {
    const SIZE: usize = 16;
    let mut id = [0; SIZE];
    id.copy_from_slice(reader.take(SIZE)?);
    Ok(TopicId(Uuid::from_bytes(id)))
}

fn read_names<Names: FromIterator<String>>(reader: &mut Reader<'_>) -> Result<Names, WireError> {
    let count = reader.count(1)?;
    (0..count).map(|_| reader.str().map(str::to_owned)).collect()
}

fn write_names<'a>(names: impl ExactSizeIterator<Item = &'a String>, out: &mut Vec<u8>) {
    let mut writer = writer(out);
    writer.length(Some(names.len()));
    names.for_each(|name| writer.str(name));
}

fn read_topics(reader: &mut Reader<'_>) -> Result<BTreeMap<String, SubscribedTopic>, WireError> {
    /// An id, an empty name, a count, an empty array, no tagged fields.
    const TOPIC_SIZE_MIN: usize = 16 + 1 + 4 + 1 + 1;
    let count = reader.count(TOPIC_SIZE_MIN)?;
    let mut topics = BTreeMap::new();
    for _ in 0..count {
        let id = read_topic_id(reader)?;
        let name = reader.str()?.to_owned();
        let partition_count = reader.i32()?;
        // Racks, which Kafka does not use after 4.0.
        for _ in 0..reader.count(4 + 1 + 1)? {
            reader.i32()?;
            let _racks: Vec<String> = read_names(reader)?;
            reader.skip_tagged_fields()?;
        }
        reader.skip_tagged_fields()?;
        topics.insert(name, SubscribedTopic { id, partition_count });
    }
    reader.skip_tagged_fields()?;
    Ok(topics)
}

fn write_topics(topics: &BTreeMap<String, SubscribedTopic>, out: &mut Vec<u8>) {
    writer(out).length(Some(topics.len()));
    for (name, topic) in topics {
        out.extend_from_slice(topic.id.0.as_bytes());
        let mut writer = writer(out);
        writer.str(name);
        writer.i32(topic.partition_count);
        writer.length(Some(0));
        writer.no_tagged_fields();
    }
}

fn read_partitions(reader: &mut Reader<'_>) -> Result<Partitions, WireError> {
    /// An id, an empty array, no tagged fields.
    const TOPIC_SIZE_MIN: usize = 16 + 1 + 1;
    let count = reader.count(TOPIC_SIZE_MIN)?;
    let mut partitions = Partitions::new();
    for _ in 0..count {
        let id = read_topic_id(reader)?;
        let count = reader.count(4)?;
        let indexes: Vec<i32> = (0..count).map(|_| reader.i32()).collect::<Result<_, _>>()?;
        reader.skip_tagged_fields()?;
        if !indexes.is_empty() {
            partitions.get_or_default(id).extend(indexes);
        }
    }
    Ok(partitions)
}

fn read_target(reader: &mut Reader<'_>) -> Result<Partitions, WireError> {
    let partitions = read_partitions(reader)?;
    reader.skip_tagged_fields()?;
    Ok(partitions)
}

fn write_partitions(partitions: &Partitions, out: &mut Vec<u8>) {
    writer(out).length(Some(partitions.len()));
    for (id, indexes) in partitions {
        out.extend_from_slice(id.0.as_bytes());
        let mut writer = writer(out);
        writer.length(Some(indexes.len()));
        indexes.iter().for_each(|index| writer.i32(*index));
        writer.no_tagged_fields();
    }
}

fn read_current(reader: &mut Reader<'_>) -> Result<CurrentValue, WireError> {
    let (epoch, previous_epoch) = (reader.i32()?, reader.i32()?);
    let state = MemberState::from_wire(reader.i8()?);
    let (assigned, revoking) = (read_partitions(reader)?, read_partitions(reader)?);
    reader.skip_tagged_fields()?;
    Ok(CurrentValue { epoch, previous_epoch, state, assigned, revoking })
}

fn write_current(value: &CurrentValue, out: &mut Vec<u8>) {
    let mut writer = writer(out);
    writer.i32(value.epoch);
    writer.i32(value.previous_epoch);
    writer.i8(value.state.to_wire());
    write_partitions(&value.assigned, out);
    write_partitions(&value.revoking, out);
}

fn read_regex(reader: &mut Reader<'_>) -> Result<RegexValue, WireError> {
    let topics = read_names(reader)?;
    let (version, timestamp) = (reader.i64()?, reader.i64()?);
    reader.skip_tagged_fields()?;
    Ok(RegexValue { topics, version, timestamp })
}

fn read_member(reader: &mut Reader<'_>) -> Result<MemberValue, WireError> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let instance_id = owned(reader.nullable_str()?);
    let rack = owned(reader.nullable_str()?);
    let (client_id, client_host) = (reader.str()?.to_owned(), reader.str()?.to_owned());
    let topics = read_names(reader)?;
    let regex = owned(reader.nullable_str()?);
    let rebalance_timeout_ms = reader.i32()?;
    let assignor = owned(reader.nullable_str()?);
    let mut classic = None;
    for _ in 0..reader.uvarint()? {
        let tag = reader.uvarint()?;
        let size = reader.uvarint()?;
        let bytes = reader.take(size as usize)?;
        if tag == CLASSIC_TAG {
            classic = read_classic(bytes)?.map(Box::new);
        }
    }
    Ok(MemberValue {
        instance_id,
        rack,
        client_id,
        client_host,
        topics,
        regex,
        rebalance_timeout_ms,
        assignor,
        classic,
    })
}

/// A structure that may be null has a byte before it which says whether it is: -1, or 1.
fn read_classic(bytes: &[u8]) -> Result<Option<ClassicValue>, WireError> {
    let mut reader = Reader::new(bytes, Encoding::Compact);
    if reader.i8()? < 0 {
        return Ok(None);
    }
    let session_timeout_ms = reader.i32()?;
    /// An empty name, no metadata, no tagged fields.
    const PROTOCOL_SIZE_MIN: usize = 3;
    let count = reader.count(PROTOCOL_SIZE_MIN)?;
    let mut protocols = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.str()?.to_owned();
        let metadata = Bytes::copy_from_slice(reader.bytes()?);
        reader.skip_tagged_fields()?;
        protocols.push((name, metadata));
    }
    reader.skip_tagged_fields()?;
    Ok(Some(ClassicValue { session_timeout_ms, protocols }))
}

fn write_classic(value: &ClassicValue) -> Vec<u8> {
    let mut out = Vec::new();
    let mut start = writer(&mut out);
    start.i8(1);
    start.i32(value.session_timeout_ms);
    start.length(Some(value.protocols.len()));
    for (name, metadata) in &value.protocols {
        let mut protocol = writer(&mut out);
        protocol.str(name);
        protocol.length(Some(metadata.len()));
        out.extend_from_slice(metadata);
        writer(&mut out).no_tagged_fields();
    }
    writer(&mut out).no_tagged_fields();
    out
}

fn write_member(value: &MemberValue, out: &mut Vec<u8>) {
    let mut start = writer(out);
    start.nullable_str(value.instance_id.as_deref());
    start.nullable_str(value.rack.as_deref());
    start.str(&value.client_id);
    start.str(&value.client_host);
    write_names(value.topics.iter(), out);
    let mut end = writer(out);
    end.nullable_str(value.regex.as_deref());
    end.i32(value.rebalance_timeout_ms);
    end.nullable_str(value.assignor.as_deref());
    match &value.classic {
        None => end.no_tagged_fields(),
        Some(classic) => {
            let classic = write_classic(classic);
            end.uvarint(1);
            end.uvarint(CLASSIC_TAG);
            end.uvarint(classic.len() as u32);
            out.extend_from_slice(&classic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::group_record::GroupRecord;
    use proptest::prelude::*;

    const GROUP: &str = "g";

    fn id(number: u8) -> TopicId {
        TopicId(Uuid::from_bytes([number; 16]))
    }

    fn partitions(topic: u8, indexes: &[i32]) -> Partitions {
        Partitions::from([(id(topic), indexes.iter().copied().collect())])
    }

    fn names<Names: FromIterator<String>>(names: &[&str]) -> Names {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// A record, its key and its value.
    fn golden() -> Vec<(ConsumerRecord, Vec<u8>, Vec<u8>)> {
        let group = || GROUP.to_owned();
        let member = || "m".to_owned();
        let plain = MemberValue {
            client_id: "c".to_owned(),
            client_host: "/h".to_owned(),
            topics: names(&["a", "bc"]),
            rebalance_timeout_ms: 5,
            ..MemberValue::default()
        };
        let full = MemberValue {
            instance_id: Some("i".to_owned()),
            rack: Some("r".to_owned()),
            regex: Some("x.*".to_owned()),
            assignor: Some("range".to_owned()),
            topics: SortedSet::new(),
            classic: Some(Box::new(ClassicValue {
                session_timeout_ms: 6,
                protocols: vec![("p".to_owned(), Bytes::from_static(&[7, 8]))],
            })),
            ..plain.clone()
        };
        let current = CurrentValue {
            epoch: 3,
            previous_epoch: 2,
            state: MemberState::Unrevoked,
            assigned: partitions(1, &[0, 2]),
            revoking: partitions(2, &[1]),
        };
        let regex = RegexValue { topics: names(&["t"]), version: 9, timestamp: 16 };
        let topic = SubscribedTopic { id: id(1), partition_count: 4 };
        let (one, two) = ([1; 16], [2; 16]);
        vec![
            (
                ConsumerRecord::Group { group: group(), epoch: Some(258) },
                b"\0\x03\0\x01g".to_vec(),
                b"\0\0\0\0\x01\x02\0".to_vec(),
            ),
            (
                ConsumerRecord::Topics {
                    group: group(),
                    topics: Some(BTreeMap::from([("t".to_owned(), topic)])),
                },
                b"\0\x04\0\x01g".to_vec(),
                [&b"\0\0\x02"[..], &one, b"\x02t\0\0\0\x04\x01\0\0"].concat(),
            ),
            (
                ConsumerRecord::Member { group: group(), member: member(), value: Some(plain) },
                b"\0\x05\0\x01g\0\x01m".to_vec(),
                b"\0\0\0\0\x02c\x03/h\x03\x02a\x03bc\0\0\0\0\x05\0\0".to_vec(),
            ),
            (
                ConsumerRecord::Member { group: group(), member: member(), value: Some(full) },
                b"\0\x05\0\x01g\0\x01m".to_vec(),
                b"\0\0\x02i\x02r\x02c\x03/h\x01\x04x.*\0\0\0\x05\x06range\
                    \x01\0\x0d\x01\0\0\0\x06\x02\x02p\x03\x07\x08\0\0"
                    .to_vec(),
            ),
            (
                ConsumerRecord::TargetEpoch { group: group(), epoch: Some(3) },
                b"\0\x06\0\x01g".to_vec(),
                b"\0\0\0\0\0\x03\0".to_vec(),
            ),
            (
                ConsumerRecord::Target {
                    group: group(),
                    member: member(),
                    partitions: Some(partitions(1, &[0, 2])),
                },
                b"\0\x07\0\x01g\0\x01m".to_vec(),
                [&b"\0\0\x02"[..], &one, b"\x03\0\0\0\0\0\0\0\x02\0\0"].concat(),
            ),
            (
                ConsumerRecord::Current { group: group(), member: member(), value: Some(current) },
                b"\0\x08\0\x01g\0\x01m".to_vec(),
                [
                    &b"\0\0\0\0\0\x03\0\0\0\x02\x01\x02"[..],
                    &one,
                    b"\x03\0\0\0\0\0\0\0\x02\0\x02",
                    &two,
                    b"\x02\0\0\0\x01\0\0",
                ]
                .concat(),
            ),
            (
                ConsumerRecord::Regex { group: group(), regex: "t.*".to_owned(), value: Some(regex) },
                b"\0\x10\0\x01g\0\x03t.*".to_vec(),
                b"\0\0\x02\x02t\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x10\0".to_vec(),
            ),
        ]
    }

    #[test]
    fn records_are_kafkas_bytes() {
        for (record, key, value) in golden() {
            assert_eq!(record.encode_key(), key, "{record:?}");
            assert_eq!(record.encode_value().as_deref(), Some(&value[..]), "{record:?}");
            assert_eq!(record.size(), key.len() + value.len());
            let decoded = GroupRecord::decode(Some(&key), Some(&value));
            assert_eq!(decoded, Ok(Some(GroupRecord::Consumer(record))));
        }
    }

    #[test]
    fn no_value_is_a_tombstone() {
        for (_, key, _) in golden() {
            let Ok(Some(record)) = GroupRecord::decode(Some(&key), None) else { panic!("{key:?}") };
            assert_eq!(record.encode_key(), key);
            let GroupRecord::Consumer(record) = record else { panic!("{record:?}") };
            assert_eq!((record.encode_value(), record.is_tombstone()), (None, true));
        }
    }

    #[test]
    fn what_later_versions_add_is_passed_over() {
        // The hash of the topics and the time of the creation (KIP-1101, KIP-1282).
        let value = b"\0\0\0\0\0\x05\x02\0\x08\0\0\0\0\0\0\0\x01\x01\x08\0\0\0\0\0\0\0\x02";
        let decoded = GroupRecord::decode(Some(b"\0\x03\0\x01g"), Some(value));
        let record = ConsumerRecord::Group { group: GROUP.to_owned(), epoch: Some(5) };
        assert_eq!(decoded, Ok(Some(GroupRecord::Consumer(record))));
        let unknown = GroupRecord::decode(Some(b"\0\x03\0\x01g"), Some(b"\0\x01\0\0\0\x05\0"));
        assert_eq!(unknown, Err(GroupRecordError::ValueVersion(1)));
        // Racks of partitions, which versions before 4.1 wrote.
        let racks = [&b"\0\0\x02"[..], &[1; 16], b"\x02t\0\0\0\x04\x02\0\0\0\0\x02\x02r\0\0\0"];
        let decoded = GroupRecord::decode(Some(b"\0\x04\0\x01g"), Some(&racks.concat()));
        let topic = SubscribedTopic { id: id(1), partition_count: 4 };
        let topics = Some(BTreeMap::from([("t".to_owned(), topic)]));
        let record = ConsumerRecord::Topics { group: GROUP.to_owned(), topics };
        assert_eq!(decoded, Ok(Some(GroupRecord::Consumer(record))));
    }

    proptest! {
        #[test]
        fn damaged_records_never_panic(which in 0..8usize, at in 0..90usize, byte: u8, end in 0..90usize) {
            let (_, key, mut value) = golden().swap_remove(which);
            let size = value.len();
            value[at % size] = byte;
            value.truncate(end);
            let _ = GroupRecord::decode(Some(&key), Some(&value));
        }
    }
}
