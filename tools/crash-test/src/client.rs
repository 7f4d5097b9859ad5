//! The requests of the changing load, one at a time, and everything that a partition holds.
//!
//! Nothing is tried again: what is not answered may have happened or not.

use std::collections::BTreeSet;
use std::io;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig,
};
use odradek_test_harness::kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use odradek_test_harness::kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, ListOffsetsRequest,
    MetadataRequest,
};
use odradek_test_harness::kafka_protocol::protocol::{Request, StrBytes};
use odradek_test_harness::kafka_protocol::records::{Record, RecordBatchDecoder};
use odradek_test_harness::{Batch, Client as Requests, Connection, topic_name};

use crate::promises::{Read, ReadBack, Stamp};

const CREATE_TOPICS_VERSION: i16 = 5;
const DELETE_TOPICS_VERSION: i16 = 5;
const DELETE_RECORDS_VERSION: i16 = 1;

/// What ListOffsets means by these times.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Where a batch states its length, what follows that, and its header's end.
const LENGTH_AT: usize = 8;
const LENGTH_END: usize = 12;
const LAST_OFFSET_DELTA_AT: usize = 23;

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer came: the broker is gone, or its connection.
    #[error("no answer: {0}")]
    Gone(#[from] io::Error),
    #[error("{what}: {error:?}")]
    Refused { what: String, error: ResponseError },
    /// The answer is not what such an answer can be.
    #[error("{0}")]
    Wrong(String),
}

impl CallError {
    /// A topic that was just made may have no leader for a moment.
    pub fn is_no_leader(&self) -> bool {
        use ResponseError::{LeaderNotAvailable, NotLeaderOrFollower, UnknownTopicOrPartition};
        let passing = [LeaderNotAvailable, NotLeaderOrFollower, UnknownTopicOrPartition];
        matches!(self, CallError::Refused { error, .. } if passing.contains(error))
    }
}

pub struct Client {
    connection: Connection,
}

impl Client {
    pub fn connect(address: &str) -> Result<Client, CallError> {
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| CallError::Wrong(format!("{address} has no port")))?;
        Ok(Client { connection: Connection::try_open(port)? })
    }

    pub fn create_topic(
        &mut self,
        topic: &str,
        partition_count: usize,
        settings: &[(&str, &str)],
    ) -> Result<(), CallError> {
        let configs = settings.iter().map(|(name, value)| {
            let value = Some(StrBytes::from_string((*value).to_owned()));
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string((*name).to_owned()))
                .with_value(value)
        });
        let topic_to_make = CreatableTopic::default()
            .with_name(topic_name(topic))
            .with_num_partitions(partition_count as i32)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic_to_make]);
        let response = self.call(CREATE_TOPICS_VERSION, &request)?;
        let code = response.topics.first().map(|topic| topic.error_code);
        accepted(&format!("making {topic}"), code)
    }

    pub fn delete_topic(&mut self, topic: &str) -> Result<(), CallError> {
        let request =
            DeleteTopicsRequest::default().with_timeout_ms(10_000).with_topic_names(vec![topic_name(topic)]);
        let response = self.call(DELETE_TOPICS_VERSION, &request)?;
        let code = response.responses.first().map(|topic| topic.error_code);
        accepted(&format!("deleting {topic}"), code)
    }

    pub fn topics(&mut self) -> Result<BTreeSet<String>, CallError> {
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let response = self.call(Requests::METADATA_VERSION, &request)?;
        let names = response.topics.into_iter().filter_map(|topic| topic.name);
        Ok(names.map(|name| name.0.to_string()).collect())
    }

    /// The base offset that is acknowledged.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &Batch) -> Result<i64, CallError> {
        let request = Requests::produce_request(topic, partition, batch.bytes());
        let response = self.call(Requests::PRODUCE_VERSION, &request)?;
        let answer = response.responses.first().and_then(|topic| topic.partition_responses.first());
        accepted(&format!("producing to {topic}-{partition}"), answer.map(|answer| answer.error_code))?;
        Ok(answer.map_or(-1, |answer| answer.base_offset))
    }

    /// The log start that is acknowledged.
    pub fn delete_records(&mut self, topic: &str, partition: i32, below: i64) -> Result<i64, CallError> {
        let partitions =
            vec![DeleteRecordsPartition::default().with_partition_index(partition).with_offset(below)];
        let topics =
            vec![DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(partitions)];
        let request = DeleteRecordsRequest::default().with_timeout_ms(10_000).with_topics(topics);
        let response = self.call(DELETE_RECORDS_VERSION, &request)?;
        let answer = response.topics.first().and_then(|topic| topic.partitions.first());
        let what = format!("deleting records of {topic}-{partition} below {below}");
        accepted(&what, answer.map(|answer| answer.error_code))?;
        Ok(answer.map_or(-1, |answer| answer.low_watermark))
    }

    /// Log start and high watermark. The first is asked for first: it may be ahead only of an older one.
    pub fn ends(&mut self, topic: &str, partition: i32) -> Result<(i64, i64), CallError> {
        Ok((self.offset(topic, partition, EARLIEST)?, self.offset(topic, partition, LATEST)?))
    }

    fn offset(&mut self, topic: &str, partition: i32, time: i64) -> Result<i64, CallError> {
        let partitions = vec![
            ListOffsetsPartition::default()
                .with_partition_index(partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(time),
        ];
        let topics =
            vec![ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions)];
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics);
        let response = self.call(Requests::LIST_OFFSETS_VERSION, &request)?;
        let answer = response.topics.first().and_then(|topic| topic.partitions.first());
        let code = answer.map(|answer| answer.error_code);
        accepted(&format!("the offsets of {topic}-{partition}"), code)?;
        Ok(answer.map_or(-1, |answer| answer.offset))
    }

    /// Everything from the log start to the high watermark, while nobody writes. Retention may take the oldest
    /// meanwhile: then it is what lies behind the new log start.
    pub fn read_all(&mut self, topic: &str, partition: i32) -> Result<ReadBack, CallError> {
        let (earliest, latest) = self.ends(topic, partition)?;
        let mut read = ReadBack { earliest, latest, ..ReadBack::default() };
        let mut next = earliest;
        while next < latest {
            let bytes = match self.fetch(topic, partition, next) {
                Err(refused @ CallError::Refused { error: ResponseError::OffsetOutOfRange, .. }) => {
                    let (earliest, _) = self.ends(topic, partition)?;
                    if earliest <= next {
                        return Err(refused);
                    }
                    read = ReadBack { earliest, latest, ..ReadBack::default() };
                    next = earliest;
                    continue;
                }
                bytes => bytes?,
            };
            let mut reached = next;
            let mut rest = &bytes[..];
            while let Some((batch, after)) = split_batch(rest) {
                rest = after;
                read.bytes += batch.len() as u64;
                reached = reached.max(batch_end(batch));
                let records = decode(batch).map_err(|error| {
                    CallError::Wrong(format!(
                        "{topic}-{partition} at {next} has a batch that is none: {error}"
                    ))
                })?;
                read.records.extend(records.iter().filter(|record| record.offset >= next).map(read_of));
            }
            if reached == next {
                let what = format!("{topic}-{partition} gives nothing at {next}, and ends at {latest}");
                return Err(CallError::Wrong(what));
            }
            next = reached;
        }
        Ok(read)
    }

    /// Whether a read below the log start is refused, as it has to be.
    pub fn is_refused_at(&mut self, topic: &str, partition: i32, offset: i64) -> Result<bool, CallError> {
        match self.fetch(topic, partition, offset) {
            Err(CallError::Refused { error: ResponseError::OffsetOutOfRange, .. }) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Result<Vec<u8>, CallError> {
        let request = Requests::fetch_request(topic, partition, offset);
        let response = self.call(Requests::FETCH_VERSION, &request)?;
        let what = format!("reading {topic}-{partition} at {offset}");
        accepted(&what, Some(response.error_code))?;
        let answer =
            response.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        accepted(&what, answer.as_ref().map(|answer| answer.error_code))?;
        Ok(answer.and_then(|answer| answer.records).unwrap_or_default().to_vec())
    }

    fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, CallError> {
        Ok(self.connection.try_call(version, request)?)
    }
}

fn accepted(what: &str, code: Option<i16>) -> Result<(), CallError> {
    let Some(code) = code else { return Err(CallError::Wrong(format!("{what}: an empty answer"))) };
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(CallError::Refused { what: what.to_owned(), error }),
    }
}

/// The first batch, and what follows it; none when it is cut.
fn split_batch(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.get(LENGTH_AT..)?.first_chunk::<4>()?;
    bytes.split_at_checked(LENGTH_END + u32::from_be_bytes(*length) as usize)
}

/// The offset behind it, whether or not it has that record (compaction).
fn batch_end(batch: &[u8]) -> i64 {
    let base = batch.first_chunk::<8>().map_or(0, |bytes| i64::from_be_bytes(*bytes));
    let delta = batch.get(LAST_OFFSET_DELTA_AT..).and_then(|rest| rest.first_chunk::<4>());
    base + i64::from(delta.map_or(0, |bytes| i32::from_be_bytes(*bytes))) + 1
}

fn decode(batch: &[u8]) -> Result<Vec<Record>, String> {
    let decoded = RecordBatchDecoder::decode(&mut &batch[..]);
    decoded.map(|set| set.records).map_err(|error| error.to_string())
}

fn read_of(record: &Record) -> Read {
    let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()?.parse().ok());
    // What is no stamp is one of no run, and invented.
    let stamp = |value: &[u8]| parse_stamp(value).unwrap_or(Stamp { run: 0, sequence: 0 });
    Read { offset: record.offset, key, stamp: record.value.as_deref().map(stamp) }
}

/// A value: whose it is, then as many bytes as it is to be long. The last ones say how many there were.
pub fn stamped(stamp: Stamp, size: usize) -> Vec<u8> {
    let mut value = format!("{} {} ", stamp.run, stamp.sequence).into_bytes();
    let size = size.max(value.len());
    value.resize(size, b'.');
    value.extend_from_slice(format!(" {size}").as_bytes());
    value
}

fn parse_stamp(value: &[u8]) -> Option<Stamp> {
    let text = std::str::from_utf8(value).ok()?;
    let (head, size) = text.rsplit_once(' ')?;
    let mut parts = head.splitn(3, ' ');
    let stamp = Stamp { run: parts.next()?.parse().ok()?, sequence: parts.next()?.parse().ok()? };
    let padding = parts.next()?;
    let is_whole = size.parse() == Ok(head.len()) && padding.bytes().all(|byte| byte == b'.');
    is_whole.then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_whose_it_is_unless_a_byte_of_it_is_another() {
        let stamp = Stamp { run: 12, sequence: 345 };
        for size in [0, 40, 1000] {
            let mut value = stamped(stamp, size);
            assert_eq!(parse_stamp(&value), Some(stamp));
            let last = value.len() - 1;
            assert_ne!(parse_stamp(&value[..last]), Some(stamp));
            value[size.min(last)] ^= 1;
            assert_ne!(parse_stamp(&value), Some(stamp), "{size}");
        }
    }

    #[test]
    fn records_of_a_batch_are_read_as_they_were_sent() {
        let stamp = Stamp { run: 1, sequence: 5 };
        let batch = Batch::of(&[stamped(stamp, 90), Vec::new()], 1).keyed(&["7", "8"]).null_at(1).bytes();
        let (first, rest) = split_batch(&batch).expect("it is whole");
        assert_eq!((batch_end(first), rest.len()), (2, 0));
        let records: Vec<Read> = decode(first).expect("a batch").iter().map(read_of).collect();
        let value = Read { offset: 0, key: Some(7), stamp: Some(stamp) };
        assert_eq!(records, [value, Read { offset: 1, key: Some(8), stamp: None }]);
        assert_eq!(split_batch(&batch[..batch.len() - 1]), None);
    }
}
