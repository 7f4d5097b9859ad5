//! Records of `__consumer_offsets`, in Kafka's own formats: lag tools read this topic.
//!
//! | key version | key: classic encoding behind an i16 version | value |
//! |---|---|---|
//! | 0, 1 | group, topic: string; partition: i32 | a committed offset |
//! | 2 | group: string | a group: its generation and its members |
//! | 3 to 8, 16 | groups of the newer protocol: [`consumer_record`](super::consumer_record) | |
//! | others | other kinds of groups; passed over | |
//!
//! A value begins with its own version; no value is a tombstone.
//!
//! | committed offset | versions | group | versions |
//! |---|---|---|---|
//! | offset: i64 | all | protocol type: string | all |
//! | leader epoch: i32, -1: none | 3, 4 | generation: i32 | all |
//! | metadata: string | all | protocol, leader: nullable string | all |
//! | commit timestamp: i64 | all | since when it is in its state: i64 | 2 and above |
//! | expire timestamp: i64 | 1 | members, as below | all |
//!
//! A member: id; from 3 on the nullable instance id; client id, client host: string; from 1 on the rebalance
//! time-out: i32; session time-out: i32; subscription, assignment: bytes. Version 4 of both values is flexible
//! (KIP-482, KIP-915). Written: key 1 and 2, values 3, and 1 for an offset with a time of its own to expire.
//! Source: Kafka `OffsetCommitKey`, `OffsetCommitValue`, `GroupMetadataKey`, `GroupMetadataValue`,
//! `GroupCoordinatorRecordHelpers`.

use crate::codec::consumer_record::ConsumerRecord;
use crate::codec::wire::{Encoding, Reader, WireError, Writer};
use bytes::Bytes;
use std::collections::BTreeSet;

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const OFFSET_VALUE_EXPIRING: i16 = 1;
const OFFSET_VALUE: i16 = 3;
const GROUP_VALUE: i16 = 3;
/// The first flexible version of both values, and the last that is known.
const FLEXIBLE_FROM: i16 = 4;

/// One record; no value deletes what its key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord {
    Offset {
        group: String,
        topic: String,
        partition: i32,
        value: Option<OffsetValue>,
    },
    Group {
        group: String,
        value: Option<GroupValue>,
    },
    /// Of a group of the newer protocol.
    Consumer(ConsumerRecord),
}

/// A committed offset, as a group has it for one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetValue {
    /// As the consumer sent it: any number.
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub metadata: String,
    /// Milliseconds since 1970.
    pub commit_timestamp: i64,
    /// Of clients that say how long an offset is to be kept (OffsetCommit up to 4).
    pub expire_timestamp: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupValue {
    /// Empty for a group that never had members.
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    /// Since when it is in its state, milliseconds since 1970.
    pub state_timestamp: Option<i64>,
    pub members: Vec<MemberValue>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberValue {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// What the member said of itself under the protocol that was chosen.
    pub subscription: Bytes,
    pub assignment: Bytes,
}

impl GroupValue {
    /// Leaves out members whose id or instance id another one has before them; returns how many. Nobody writes
    /// such, but a group is made of what is read.
    pub fn drop_repeated(&mut self) -> usize {
        let count = self.members.len();
        let (mut ids, mut instance_ids) = (BTreeSet::new(), BTreeSet::new());
        self.members.retain(|member| {
            let is_known = ids.contains(&member.member_id)
                || member.instance_id.as_ref().is_some_and(|id| instance_ids.contains(id));
            if !is_known {
                ids.insert(member.member_id.clone());
                instance_ids.extend(member.instance_id.clone());
            }
            !is_known
        });
        count - self.members.len()
    }
}

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupRecordError {
    #[error("the record has no key")]
    NoKey,
    #[error("key: {0}")]
    Key(WireError),
    #[error("value: {0}")]
    Value(WireError),
    #[error("version {0} of the value is not known")]
    ValueVersion(i16),
}

impl GroupRecord {
    /// `None` for a kind of record that is not known here.
    pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Option<GroupRecord>, GroupRecordError> {
        let mut key = Reader::new(key.ok_or(GroupRecordError::NoKey)?, Encoding::Classic);
        Ok(Some(match key.i16().map_err(GroupRecordError::Key)? {
            0..=OFFSET_KEY => {
                let (group, topic, partition) = offset_key(&mut key).map_err(GroupRecordError::Key)?;
                let value = value.map(offset_value).transpose()?;
                GroupRecord::Offset { group, topic, partition, value }
            }
            GROUP_KEY => {
                let group = key.str().map_err(GroupRecordError::Key)?.to_owned();
                GroupRecord::Group { group, value: value.map(group_value).transpose()? }
            }
            version => {
                let record = ConsumerRecord::decode(version, key, value)?;
                return Ok(record.map(GroupRecord::Consumer));
            }
        }))
    }

    /// The group that the record is of.
    pub fn group(&self) -> &str {
        match self {
            GroupRecord::Offset { group, .. } | GroupRecord::Group { group, .. } => group,
            GroupRecord::Consumer(record) => record.group(),
        }
    }

    /// Bytes of its key and its value.
    pub fn size(&self) -> usize {
        match self {
            GroupRecord::Offset { group, topic, value, .. } => {
                2 + string_size(group) + string_size(topic) + 4 + value.as_ref().map_or(0, offset_size)
            }
            GroupRecord::Group { group, value } => {
                2 + string_size(group) + value.as_ref().map_or(0, group_size)
            }
            GroupRecord::Consumer(record) => record.size(),
        }
    }

    pub fn encode_key(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, Encoding::Classic);
        match self {
            GroupRecord::Offset { group, topic, partition, .. } => {
                writer.i16(OFFSET_KEY);
                writer.str(group);
                writer.str(topic);
                writer.i32(*partition);
            }
            GroupRecord::Group { group, .. } => {
                writer.i16(GROUP_KEY);
                writer.str(group);
            }
            GroupRecord::Consumer(record) => return record.encode_key(),
        }
        out
    }

    /// `None` for a tombstone.
    pub fn encode_value(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            GroupRecord::Offset { value, .. } => write_offset(value.as_ref()?, &mut out),
            GroupRecord::Group { value, .. } => write_group(value.as_ref()?, &mut out),
            GroupRecord::Consumer(record) => return record.encode_value(),
        }
        Some(out)
    }
}

fn string_size(text: &str) -> usize {
    2 + text.len()
}

fn nullable_string_size(text: Option<&str>) -> usize {
    2 + text.map_or(0, str::len)
}

fn offset_size(value: &OffsetValue) -> usize {
    // An expire timestamp, or a leader epoch.
    2 + 8 + string_size(&value.metadata) + 8 + if value.expire_timestamp.is_some() { 8 } else { 4 }
}

fn group_size(value: &GroupValue) -> usize {
    let names =
        nullable_string_size(value.protocol.as_deref()) + nullable_string_size(value.leader.as_deref());
    let members: usize = value.members.iter().map(member_size).sum();
    2 + string_size(&value.protocol_type) + 4 + names + 8 + 4 + members
}

fn member_size(member: &MemberValue) -> usize {
    let strings = [&member.member_id, &member.client_id, &member.client_host];
    let strings = strings.into_iter().map(|text| string_size(text)).sum::<usize>();
    let instance_id = nullable_string_size(member.instance_id.as_deref());
    strings + instance_id + 4 + 4 + 4 + member.subscription.len() + 4 + member.assignment.len()
}

fn offset_key(key: &mut Reader<'_>) -> Result<(String, String, i32), WireError> {
    Ok((key.str()?.to_owned(), key.str()?.to_owned(), key.i32()?))
}

/// A reader behind the version of a value.
fn versioned(bytes: &[u8]) -> Result<(i16, Reader<'_>), GroupRecordError> {
    let mut reader = Reader::new(bytes, Encoding::Classic);
    let version = reader.i16().map_err(GroupRecordError::Value)?;
    match version {
        0..FLEXIBLE_FROM => Ok((version, reader)),
        FLEXIBLE_FROM => Ok((version, reader.with_encoding(Encoding::Compact))),
        _ => Err(GroupRecordError::ValueVersion(version)),
    }
}

fn offset_value(bytes: &[u8]) -> Result<OffsetValue, GroupRecordError> {
    let (version, reader) = versioned(bytes)?;
    read_offset(version, reader).map_err(GroupRecordError::Value)
}

fn read_offset(version: i16, mut reader: Reader<'_>) -> Result<OffsetValue, WireError> {
    let offset = reader.i64()?;
    let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
    let metadata = reader.str()?.to_owned();
    let commit_timestamp = reader.i64()?;
    let expire_timestamp = if version == OFFSET_VALUE_EXPIRING { reader.i64()? } else { -1 };
    reader.skip_tagged_fields()?;
    Ok(OffsetValue {
        offset,
        leader_epoch: (leader_epoch >= 0).then_some(leader_epoch),
        metadata,
        commit_timestamp,
        expire_timestamp: (expire_timestamp >= 0).then_some(expire_timestamp),
    })
}

fn write_offset(value: &OffsetValue, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out, Encoding::Classic);
    let version = if value.expire_timestamp.is_some() { OFFSET_VALUE_EXPIRING } else { OFFSET_VALUE };
    writer.i16(version);
    writer.i64(value.offset);
    if version == OFFSET_VALUE {
        writer.i32(value.leader_epoch.unwrap_or(-1));
    }
    writer.str(&value.metadata);
    writer.i64(value.commit_timestamp);
    if let Some(expire_timestamp) = value.expire_timestamp {
        writer.i64(expire_timestamp);
    }
}

fn group_value(bytes: &[u8]) -> Result<GroupValue, GroupRecordError> {
    let (version, reader) = versioned(bytes)?;
    read_group(version, reader).map_err(GroupRecordError::Value)
}

fn read_group(version: i16, mut reader: Reader<'_>) -> Result<GroupValue, WireError> {
    let protocol_type = reader.str()?.to_owned();
    let generation = reader.i32()?;
    let protocol = reader.nullable_str()?.map(str::to_owned);
    let leader = reader.nullable_str()?.map(str::to_owned);
    let state_timestamp = if version >= 2 { reader.i64()? } else { -1 };
    /// Bytes of the smallest member, in any version: three strings, a time-out, two fields of bytes.
    const MEMBER_SIZE_MIN: usize = 9;
    let count = reader.count(MEMBER_SIZE_MIN)?;
    let members: Result<_, _> = (0..count).map(|_| read_member(version, &mut reader)).collect();
    let members = members?;
    reader.skip_tagged_fields()?;
    let state_timestamp = (state_timestamp >= 0).then_some(state_timestamp);
    Ok(GroupValue { protocol_type, generation, protocol, leader, state_timestamp, members })
}

fn read_member(version: i16, reader: &mut Reader<'_>) -> Result<MemberValue, WireError> {
    let member_id = reader.str()?.to_owned();
    let instance_id = if version >= 3 { reader.nullable_str()?.map(str::to_owned) } else { None };
    let client_id = reader.str()?.to_owned();
    let client_host = reader.str()?.to_owned();
    let rebalance_timeout_ms = if version >= 1 { reader.i32()? } else { -1 };
    let session_timeout_ms = reader.i32()?;
    let subscription = Bytes::copy_from_slice(reader.bytes()?);
    let assignment = Bytes::copy_from_slice(reader.bytes()?);
    reader.skip_tagged_fields()?;
    Ok(MemberValue {
        member_id,
        instance_id,
        client_id,
        client_host,
        // Before there was such a time-out, that of the session was meant.
        rebalance_timeout_ms: if rebalance_timeout_ms < 0 {
            session_timeout_ms
        } else {
            rebalance_timeout_ms
        },
        session_timeout_ms,
        subscription,
        assignment,
    })
}

fn write_group(value: &GroupValue, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out, Encoding::Classic);
    writer.i16(GROUP_VALUE);
    writer.str(&value.protocol_type);
    writer.i32(value.generation);
    writer.nullable_str(value.protocol.as_deref());
    writer.nullable_str(value.leader.as_deref());
    writer.i64(value.state_timestamp.unwrap_or(-1));
    writer.length(Some(value.members.len()));
    value.members.iter().for_each(|member| write_member(member, out));
}

fn write_member(member: &MemberValue, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out, Encoding::Classic);
    writer.str(&member.member_id);
    writer.nullable_str(member.instance_id.as_deref());
    writer.str(&member.client_id);
    writer.str(&member.client_host);
    writer.i32(member.rebalance_timeout_ms);
    writer.i32(member.session_timeout_ms);
    for bytes in [&member.subscription, &member.assignment] {
        Writer::new(out, Encoding::Classic).length(Some(bytes.len()));
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offset(value: Option<OffsetValue>) -> GroupRecord {
        GroupRecord::Offset { group: "g".to_owned(), topic: "tt".to_owned(), partition: 7, value }
    }

    fn member(instance_id: Option<&str>) -> MemberValue {
        MemberValue {
            member_id: "m".to_owned(),
            instance_id: instance_id.map(str::to_owned),
            client_id: "c".to_owned(),
            client_host: "/h".to_owned(),
            rebalance_timeout_ms: 5,
            session_timeout_ms: 6,
            subscription: Bytes::from_static(&[1]),
            assignment: Bytes::from_static(&[2, 3]),
        }
    }

    fn group(value: Option<GroupValue>) -> GroupRecord {
        GroupRecord::Group { group: "g".to_owned(), value }
    }

    fn stable(instance_id: Option<&str>) -> GroupValue {
        GroupValue {
            protocol_type: "consumer".to_owned(),
            generation: 4,
            protocol: Some("range".to_owned()),
            leader: Some("m".to_owned()),
            state_timestamp: Some(9),
            members: vec![member(instance_id)],
        }
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Option<GroupRecord>, GroupRecordError> {
        GroupRecord::decode(Some(key), Some(value))
    }

    #[test]
    fn keys_are_kafkas_bytes() {
        assert_eq!(offset(None).encode_key(), *b"\0\x01\0\x01g\0\x02tt\0\0\0\x07");
        assert_eq!(group(None).encode_key(), *b"\0\x02\0\x01g");
        assert_eq!(group(None).encode_value(), None);
        let oldest = GroupRecord::decode(Some(b"\0\0\0\x01g\0\x02tt\0\0\0\x07"), None);
        assert_eq!(oldest, Ok(Some(offset(None))));
    }

    #[test]
    fn offsets_are_kafkas_bytes_in_every_version() {
        let mut value = OffsetValue {
            offset: 258,
            leader_epoch: Some(3),
            metadata: "me".to_owned(),
            commit_timestamp: 16,
            expire_timestamp: None,
        };
        let three = b"\0\x03\0\0\0\0\0\0\x01\x02\0\0\0\x03\0\x02me\0\0\0\0\0\0\0\x10";
        assert_eq!(offset(Some(value.clone())).encode_value().unwrap(), three);
        let key = offset(None).encode_key();
        assert_eq!(decode(&key, three), Ok(Some(offset(Some(value.clone())))));
        let four = b"\0\x04\0\0\0\0\0\0\x01\x02\0\0\0\x03\x03me\0\0\0\0\0\0\0\x10\x01\x00\x02ab";
        assert_eq!(decode(&key, four), Ok(Some(offset(Some(value.clone())))));
        value.leader_epoch = None;
        for old in [
            &b"\0\0\0\0\0\0\0\0\x01\x02\0\x02me\0\0\0\0\0\0\0\x10"[..],
            b"\0\x02\0\0\0\0\0\0\x01\x02\0\x02me\0\0\0\0\0\0\0\x10",
        ] {
            assert_eq!(decode(&key, old), Ok(Some(offset(Some(value.clone())))));
        }
        value.expire_timestamp = Some(32);
        let one = b"\0\x01\0\0\0\0\0\0\x01\x02\0\x02me\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x20";
        assert_eq!(offset(Some(value.clone())).encode_value().unwrap(), one);
        assert_eq!(decode(&key, one), Ok(Some(offset(Some(value)))));
        assert_eq!(decode(&key, b"\0\x05"), Err(GroupRecordError::ValueVersion(5)));
    }

    #[test]
    fn groups_are_kafkas_bytes_in_every_version() {
        let key = group(None).encode_key();
        let three = b"\0\x03\0\x08consumer\0\0\0\x04\0\x05range\0\x01m\0\0\0\0\0\0\0\x09\0\0\0\x01\
            \0\x01m\0\x01i\0\x01c\0\x02/h\0\0\0\x05\0\0\0\x06\0\0\0\x01\x01\0\0\0\x02\x02\x03";
        assert_eq!(group(Some(stable(Some("i")))).encode_value().unwrap(), three);
        assert_eq!(decode(&key, three), Ok(Some(group(Some(stable(Some("i")))))));
        let four = b"\0\x04\x09consumer\0\0\0\x04\x06range\x02m\0\0\0\0\0\0\0\x09\x02\
            \x02m\x02i\x02c\x03/h\0\0\0\x05\0\0\0\x06\x02\x01\x03\x02\x03\0\0";
        assert_eq!(decode(&key, four), Ok(Some(group(Some(stable(Some("i")))))));
        let two = b"\0\x02\0\x08consumer\0\0\0\x04\0\x05range\0\x01m\0\0\0\0\0\0\0\x09\0\0\0\x01\
            \0\x01m\0\x01c\0\x02/h\0\0\0\x05\0\0\0\x06\0\0\0\x01\x01\0\0\0\x02\x02\x03";
        assert_eq!(decode(&key, two), Ok(Some(group(Some(stable(None))))));
        let one = b"\0\x01\0\x08consumer\0\0\0\x04\0\x05range\0\x01m\0\0\0\x01\
            \0\x01m\0\x01c\0\x02/h\0\0\0\x05\0\0\0\x06\0\0\0\x01\x01\0\0\0\x02\x02\x03";
        let untimed = GroupValue { state_timestamp: None, ..stable(None) };
        assert_eq!(decode(&key, one), Ok(Some(group(Some(untimed.clone())))));
        let zero = b"\0\0\0\x08consumer\0\0\0\x04\0\x05range\0\x01m\0\0\0\x01\
            \0\x01m\0\x01c\0\x02/h\0\0\0\x06\0\0\0\x01\x01\0\0\0\x02\x02\x03";
        let members = vec![MemberValue { rebalance_timeout_ms: 6, ..member(None) }];
        assert_eq!(decode(&key, zero), Ok(Some(group(Some(GroupValue { members, ..untimed })))));
        let empty =
            GroupValue { generation: 5, protocol_type: "consumer".to_owned(), ..GroupValue::default() };
        let bytes = b"\0\x03\0\x08consumer\0\0\0\x05\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(group(Some(empty)).encode_value().unwrap(), bytes);
    }

    #[test]
    fn sizes_are_known_before_anything_is_written() {
        let value = OffsetValue { metadata: "me".to_owned(), ..OffsetValue::default() };
        let expiring = OffsetValue { expire_timestamp: Some(9), ..value.clone() };
        let records = [
            offset(None),
            offset(Some(value)),
            offset(Some(expiring)),
            group(None),
            group(Some(GroupValue::default())),
            group(Some(stable(None))),
            group(Some(stable(Some("instance")))),
        ];
        for record in records {
            let written = record.encode_key().len() + record.encode_value().unwrap_or_default().len();
            assert_eq!(record.size(), written, "{record:?}");
        }
    }

    #[test]
    fn other_kinds_of_records_are_passed_over() {
        for kind in (9..16).chain(17..20i16) {
            assert_eq!(decode(&kind.to_be_bytes(), b"anything"), Ok(None));
        }
        assert_eq!(GroupRecord::decode(None, None), Err(GroupRecordError::NoKey));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(
            kind in 0..4i16, key in prop::collection::vec(any::<u8>(), 0..20),
            version in 0..6i16, value in prop::collection::vec(any::<u8>(), 0..60)
        ) {
            let key = [&kind.to_be_bytes()[..], &key].concat();
            let value = [&version.to_be_bytes()[..], &value].concat();
            let _ = decode(&key, &value);
        }

        #[test]
        fn damaged_groups_never_panic(at in 0..70usize, byte: u8) {
            let mut value = group(Some(stable(Some("i")))).encode_value().unwrap();
            let size = value.len();
            value[at % size] = byte;
            let _ = decode(&group(None).encode_key(), &value);
        }

        #[test]
        fn what_is_written_is_read(
            group_id in ".{0,20}", topic in ".{0,20}", partition: i32, offset: i64,
            leader_epoch in prop::option::of(0..i32::MAX), metadata in ".{0,20}", commit_timestamp: i64
        ) {
            let value = OffsetValue { offset, leader_epoch, metadata, commit_timestamp, expire_timestamp: None };
            let record = GroupRecord::Offset { group: group_id, topic, partition, value: Some(value) };
            let (key, value) = (record.encode_key(), record.encode_value());
            prop_assert_eq!(GroupRecord::decode(Some(&key), value.as_deref()), Ok(Some(record)));
        }
    }
}
