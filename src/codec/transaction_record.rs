//! Records of `__transaction_state`, in Kafka's own formats.
//!
//! | key version | key: classic encoding behind an i16 version | value |
//! |---|---|---|
//! | 0 | transactional id: string | what its coordinator knows of it |
//! | others | passed over | |
//!
//! A value begins with its own version; no value is a tombstone. Version 0 is classic, version 1 flexible
//! (KIP-482, KIP-890) and what is written:
//!
//! | field | type | versions |
//! |---|---|---|
//! | producer id | i64 | all |
//! | producer epoch | i16 | all |
//! | transaction time-out, ms | i32 | all |
//! | state | i8 | all |
//! | partitions | nullable array of topic: string, partitions: array of i32 | all |
//! | last update, start; ms since 1970, -1: none | i64, i64 | all |
//! | tag 0: producer id of the transaction before; -1: none | i64 | 1 |
//! | tag 1: the producer id that replaces an exhausted one once the transaction has ended; -1: none | i64 | 1 |
//! | tag 2: version of transactions that the client used | i16 | 1 |
//!
//! Source: Kafka `TransactionLogKey`, `TransactionLogValue`, `TransactionLog`.

use crate::codec::wire::{Encoding, Reader, WireError, Writer, uvarint_size};
use crate::types::{ProducerEpoch, ProducerId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

const KEY: i16 = 0;
const VALUE_CLASSIC: i16 = 0;
const VALUE: i16 = 1;
const TAG_PREVIOUS_PRODUCER: u32 = 0;
const TAG_NEXT_PRODUCER: u32 = 1;
const TAG_CLIENT_VERSION: u32 = 2;

/// One record; no value deletes what its key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRecord {
    pub transactional_id: String,
    pub value: Option<TransactionValue>,
}

/// Where a transactional id stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionValue {
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    /// Of the last transaction that ended, or before the id was exhausted.
    pub previous_producer: Option<ProducerId>,
    /// Takes the place of `producer`, whose epochs are exhausted, once the transaction has ended.
    pub next_producer: Option<ProducerId>,
    pub timeout_ms: i32,
    pub state: TransactionState,
    pub partitions: PartitionNames,
    pub last_update: Timestamp,
    /// [`Timestamp::NONE`] before the first transaction.
    pub start: Timestamp,
    /// As `transaction.version` counts: from 2 on every transaction has an epoch of its own.
    pub client_version: i16,
}

/// Partitions by topic. No topic is without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionNames(BTreeMap<String, BTreeSet<i32>>);

/// As Kafka numbers and names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum TransactionState {
    /// The producer has begun nothing since it was told its epoch.
    Empty = 0,
    Ongoing = 1,
    /// Decided; markers are being written.
    PrepareCommit = 2,
    PrepareAbort = 3,
    /// All markers are written.
    CompleteCommit = 4,
    CompleteAbort = 5,
    /// Expired. Never in a record.
    Dead = 6,
    /// An older producer is being fenced. Never in a record.
    PrepareEpochFence = 7,
}

impl TransactionState {
    pub const ALL: [TransactionState; 8] = [
        TransactionState::Empty,
        TransactionState::Ongoing,
        TransactionState::PrepareCommit,
        TransactionState::PrepareAbort,
        TransactionState::CompleteCommit,
        TransactionState::CompleteAbort,
        TransactionState::Dead,
        TransactionState::PrepareEpochFence,
    ];

    pub fn from_wire(state: i8) -> Option<TransactionState> {
        TransactionState::ALL.into_iter().find(|known| *known as i8 == state)
    }

    pub fn from_name(name: &str) -> Option<TransactionState> {
        TransactionState::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Kafka's name, as clients compare it.
    pub const fn name(self) -> &'static str {
        match self {
            TransactionState::Empty => "Empty",
            TransactionState::Ongoing => "Ongoing",
            TransactionState::PrepareCommit => "PrepareCommit",
            TransactionState::PrepareAbort => "PrepareAbort",
            TransactionState::CompleteCommit => "CompleteCommit",
            TransactionState::CompleteAbort => "CompleteAbort",
            TransactionState::Dead => "Dead",
            TransactionState::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    /// Decided, with markers that may not be written yet.
    pub const fn is_prepared(self) -> bool {
        matches!(self, TransactionState::PrepareCommit | TransactionState::PrepareAbort)
    }
}

impl PartitionNames {
    pub fn insert(&mut self, topic: &str, partition: i32) {
        match self.0.get_mut(topic) {
            Some(partitions) => {
                partitions.insert(partition);
            }
            None => {
                self.0.insert(topic.to_owned(), BTreeSet::from([partition]));
            }
        }
    }

    pub fn remove(&mut self, topic: &str, partition: i32) {
        let Some(partitions) = self.0.get_mut(topic) else { return };
        partitions.remove(&partition);
        if partitions.is_empty() {
            self.0.remove(topic);
        }
    }

    pub fn contains(&self, topic: &str, partition: i32) -> bool {
        self.0.get(topic).is_some_and(|partitions| partitions.contains(&partition))
    }

    pub fn contains_all(&self, others: &PartitionNames) -> bool {
        others.iter().all(|(topic, partition)| self.contains(topic, partition))
    }

    pub fn add_all(&mut self, others: &PartitionNames) {
        others.iter().for_each(|(topic, partition)| self.insert(topic, partition));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, i32)> {
        self.topics().flat_map(|(topic, partitions)| partitions.iter().map(move |index| (topic, *index)))
    }

    pub fn topics(&self) -> impl Iterator<Item = (&str, &BTreeSet<i32>)> {
        self.0.iter().map(|(topic, partitions)| (topic.as_str(), partitions))
    }

    /// Bytes of a record that they take, some more at the most.
    pub fn size(&self) -> usize {
        self.topics().map(|(topic, partitions)| topic.len() + 8 + 4 * partitions.len()).sum()
    }
}

impl<T: AsRef<str>> FromIterator<(T, i32)> for PartitionNames {
    fn from_iter<I: IntoIterator<Item = (T, i32)>>(partitions: I) -> PartitionNames {
        let mut names = PartitionNames::default();
        partitions.into_iter().for_each(|(topic, partition)| names.insert(topic.as_ref(), partition));
        names
    }
}

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionRecordError {
    #[error("the record has no key")]
    NoKey,
    #[error("key: {0}")]
    Key(WireError),
    #[error("value: {0}")]
    Value(WireError),
    #[error("version {0} of the value is not known")]
    ValueVersion(i16),
    #[error("the state of the transaction is {0}")]
    State(i8),
    #[error("a tagged field of {0} bytes")]
    TaggedField(u32),
}

impl From<WireError> for TransactionRecordError {
    fn from(error: WireError) -> TransactionRecordError {
        TransactionRecordError::Value(error)
    }
}

impl TransactionRecord {
    /// `None` for a kind of record that is not known here.
    pub fn decode(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Option<TransactionRecord>, TransactionRecordError> {
        let mut key = Reader::new(key.ok_or(TransactionRecordError::NoKey)?, Encoding::Classic);
        if key.i16().map_err(TransactionRecordError::Key)? != KEY {
            return Ok(None);
        }
        let transactional_id = key.str().map_err(TransactionRecordError::Key)?.to_owned();
        let value = value.map(TransactionValue::decode).transpose()?;
        Ok(Some(TransactionRecord { transactional_id, value }))
    }

    pub fn encode_key(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.transactional_id.len());
        let mut writer = Writer::new(&mut out, Encoding::Classic);
        writer.i16(KEY);
        writer.str(&self.transactional_id);
        out
    }

    /// `None` for a tombstone.
    pub fn encode_value(&self) -> Option<Vec<u8>> {
        self.value.as_ref().map(TransactionValue::encode)
    }
}

impl TransactionValue {
    fn decode(bytes: &[u8]) -> Result<TransactionValue, TransactionRecordError> {
        let mut reader = Reader::new(bytes, Encoding::Classic);
        match reader.i16()? {
            VALUE_CLASSIC => {}
            VALUE => reader = reader.with_encoding(Encoding::Compact),
            version => return Err(TransactionRecordError::ValueVersion(version)),
        }
        let producer = ProducerId(reader.i64()?);
        let epoch = ProducerEpoch(reader.i16()?);
        let timeout_ms = reader.i32()?;
        let state = reader.i8()?;
        let state = TransactionState::from_wire(state).ok_or(TransactionRecordError::State(state))?;
        let partitions = read_partitions(&mut reader)?;
        let last_update = Timestamp(reader.i64()?);
        let start = Timestamp(reader.i64()?);
        let mut value = TransactionValue {
            producer,
            epoch,
            previous_producer: None,
            next_producer: None,
            timeout_ms,
            state,
            partitions,
            last_update,
            start,
            client_version: 0,
        };
        value.read_tagged(&mut reader)?;
        Ok(value)
    }

    fn read_tagged(&mut self, reader: &mut Reader<'_>) -> Result<(), TransactionRecordError> {
        if reader.encoding() == Encoding::Classic {
            return Ok(());
        }
        // Any count is fine: each field takes at least two bytes, so the bytes run out first.
        for _ in 0..reader.uvarint()? {
            let tag = reader.uvarint()?;
            let size = reader.uvarint()?;
            let mut field = Reader::new(reader.take(size as usize)?, Encoding::Compact);
            let producer = |id: i64| (id >= 0).then_some(ProducerId(id));
            match tag {
                TAG_PREVIOUS_PRODUCER => self.previous_producer = producer(field.i64()?),
                TAG_NEXT_PRODUCER => self.next_producer = producer(field.i64()?),
                TAG_CLIENT_VERSION => self.client_version = field.i16()?,
                _ => continue,
            }
            if field.remaining() > 0 {
                return Err(TransactionRecordError::TaggedField(size));
            }
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.partitions.size());
        Writer::new(&mut out, Encoding::Classic).i16(VALUE);
        let mut writer = Writer::new(&mut out, Encoding::Compact);
        writer.i64(self.producer.0);
        writer.i16(self.epoch.0);
        writer.i32(self.timeout_ms);
        writer.i8(self.state as i8);
        // Kafka writes none, where nothing has begun, as null.
        let topics = (self.state != TransactionState::Empty).then_some(self.partitions.0.len());
        writer.length(topics);
        for (topic, partitions) in topics.iter().flat_map(|_| self.partitions.topics()) {
            writer.str(topic);
            writer.length(Some(partitions.len()));
            partitions.iter().for_each(|partition| writer.i32(*partition));
            writer.no_tagged_fields();
        }
        writer.i64(self.last_update.0);
        writer.i64(self.start.0);
        self.write_tagged(&mut writer);
        out
    }

    /// Fields that have their default are left out.
    fn write_tagged(&self, writer: &mut Writer<'_>) {
        let producers =
            [(TAG_PREVIOUS_PRODUCER, self.previous_producer), (TAG_NEXT_PRODUCER, self.next_producer)];
        let count = producers.iter().filter(|(_, producer)| producer.is_some()).count();
        writer.uvarint(count as u32 + u32::from(self.client_version != 0));
        for (tag, producer) in producers {
            if let Some(producer) = producer {
                writer.uvarint(tag);
                writer.uvarint(8);
                writer.i64(producer.0);
            }
        }
        if self.client_version != 0 {
            writer.uvarint(TAG_CLIENT_VERSION);
            writer.uvarint(2);
            writer.i16(self.client_version);
        }
    }
}

const _: () = assert!(uvarint_size(TAG_CLIENT_VERSION) == 1);

fn read_partitions(reader: &mut Reader<'_>) -> Result<PartitionNames, WireError> {
    /// Bytes of the smallest topic, in any version: an empty name and an array.
    const TOPIC_SIZE_MIN: usize = 2;
    let mut names = PartitionNames::default();
    for _ in 0..reader.nullable_count(TOPIC_SIZE_MIN)?.unwrap_or(0) {
        let topic = reader.str()?;
        for _ in 0..reader.count(4)? {
            names.insert(topic, reader.i32()?);
        }
        reader.skip_tagged_fields()?;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ongoing() -> TransactionValue {
        TransactionValue {
            producer: ProducerId(0x0102),
            epoch: ProducerEpoch(3),
            previous_producer: None,
            next_producer: None,
            timeout_ms: 60_000,
            state: TransactionState::Ongoing,
            partitions: [("tt", 1), ("u", 0), ("tt", 7)].into_iter().collect(),
            last_update: Timestamp(0x20),
            start: Timestamp(0x10),
            client_version: 0,
        }
    }

    fn record(value: Option<TransactionValue>) -> TransactionRecord {
        TransactionRecord { transactional_id: "id".to_owned(), value }
    }

    fn decode(value: &[u8]) -> Result<Option<TransactionRecord>, TransactionRecordError> {
        TransactionRecord::decode(Some(&record(None).encode_key()), Some(value))
    }

    #[test]
    fn keys_are_kafkas_bytes() {
        assert_eq!(record(None).encode_key(), *b"\0\0\0\x02id");
        assert_eq!(record(None).encode_value(), None);
        assert_eq!(TransactionRecord::decode(Some(b"\0\0\0\x02id"), None), Ok(Some(record(None))));
        assert_eq!(TransactionRecord::decode(Some(b"\0\x01anything"), None), Ok(None));
        assert_eq!(TransactionRecord::decode(None, None), Err(TransactionRecordError::NoKey));
    }

    #[test]
    fn values_are_kafkas_bytes_in_every_version() {
        let one = b"\0\x01\0\0\0\0\0\0\x01\x02\0\x03\0\0\xea\x60\x01\
            \x03\x03tt\x03\0\0\0\x01\0\0\0\x07\0\x02u\x02\0\0\0\0\0\
            \0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x10\0";
        assert_eq!(record(Some(ongoing())).encode_value().unwrap(), one);
        assert_eq!(decode(one), Ok(Some(record(Some(ongoing())))));
        let zero = b"\0\0\0\0\0\0\0\0\x01\x02\0\x03\0\0\xea\x60\x01\
            \0\0\0\x02\0\x02tt\0\0\0\x02\0\0\0\x01\0\0\0\x07\0\x01u\0\0\0\x01\0\0\0\0\
            \0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x10";
        assert_eq!(decode(zero), Ok(Some(record(Some(ongoing())))));
        assert_eq!(decode(b"\0\x02"), Err(TransactionRecordError::ValueVersion(2)));
    }

    #[test]
    fn what_has_no_default_is_a_tagged_field() {
        let mut value = TransactionValue { partitions: PartitionNames::default(), ..ongoing() };
        value.state = TransactionState::Empty;
        value.start = Timestamp::NONE;
        value.previous_producer = Some(ProducerId(5));
        value.next_producer = Some(ProducerId(6));
        value.client_version = 2;
        let bytes = b"\0\x01\0\0\0\0\0\0\x01\x02\0\x03\0\0\xea\x60\0\0\
            \0\0\0\0\0\0\0\x20\xff\xff\xff\xff\xff\xff\xff\xff\
            \x03\0\x08\0\0\0\0\0\0\0\x05\x01\x08\0\0\0\0\0\0\0\x06\x02\x02\0\x02";
        assert_eq!(record(Some(value.clone())).encode_value().unwrap(), bytes);
        assert_eq!(decode(bytes), Ok(Some(record(Some(value.clone())))));
        // A field of later versions, and one that is not what it should be.
        let end = bytes.len() - 4;
        let later = [&bytes[..end], b"\x09\x01x"].concat();
        value.client_version = 0;
        assert_eq!(decode(&later), Ok(Some(record(Some(value)))));
        let longer = [&bytes[..end], b"\x02\x03\0\x02\0"].concat();
        assert_eq!(decode(&longer), Err(TransactionRecordError::TaggedField(3)));
    }

    #[test]
    fn states_are_kafkas() {
        for (number, state) in (0..).zip(TransactionState::ALL) {
            assert_eq!(TransactionState::from_wire(number), Some(state));
            assert_eq!(TransactionState::from_name(state.name()), Some(state));
        }
        assert_eq!(TransactionState::from_wire(8), None);
        let mut value = record(Some(ongoing())).encode_value().unwrap();
        value[2 + 8 + 2 + 4] = 9;
        assert_eq!(decode(&value), Err(TransactionRecordError::State(9)));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(
            version in 0..3i16, value in prop::collection::vec(any::<u8>(), 0..80)
        ) {
            let value = [&version.to_be_bytes()[..], &value].concat();
            let _ = decode(&value);
        }

        #[test]
        fn damaged_values_never_panic(at in 0..80usize, byte: u8) {
            let mut value = record(Some(ongoing())).encode_value().unwrap();
            let size = value.len();
            value[at % size] = byte;
            let _ = decode(&value);
        }

        #[test]
        fn what_is_written_is_read(
            producer: i64, epoch: i16, previous in prop::option::of(0..i64::MAX),
            next in prop::option::of(0..i64::MAX), timeout_ms: i32, state in 1..6i8,
            partitions in prop::collection::vec((".{0,9}", any::<i32>()), 0..9),
            last_update: i64, start: i64, client_version: i16
        ) {
            let value = TransactionValue {
                producer: ProducerId(producer),
                epoch: ProducerEpoch(epoch),
                previous_producer: previous.map(ProducerId),
                next_producer: next.map(ProducerId),
                timeout_ms,
                state: TransactionState::from_wire(state).unwrap(),
                partitions: partitions.into_iter().collect(),
                last_update: Timestamp(last_update),
                start: Timestamp(start),
                client_version,
            };
            let record = record(Some(value));
            let (key, value) = (record.encode_key(), record.encode_value());
            prop_assert_eq!(TransactionRecord::decode(Some(&key), value.as_deref()), Ok(Some(record)));
        }
    }
}
