//! A client of the simplest kind: finds leaders, sends whole batches, reads from an offset.
//!
//! Never retries: what the broker answers is what the test sees. Two things apart, in which every client asks again: a
//! node that was just told to lead a partition may hear of it after the one that was asked who leads, and the quorum may
//! lose its leader while it is asked for something.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteTopicsRequest, FetchRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::RecordBatchDecoder;

use crate::batch::{Batch, BatchProducer};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::ports::are_of_one;
use crate::wait::wait_for;

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRecord {
    pub offset: i64,
    pub timestamp: i64,
    pub value: Bytes,
}

pub struct Client {
    bootstrap: Connection,
    /// The broker is one of several, as was seen when leaders were asked for.
    has_others: bool,
    leaders: BTreeMap<i32, Connection>,
}

impl Client {
    pub const PRODUCE_VERSION: i16 = 9;
    pub const FETCH_VERSION: i16 = 11;
    pub const LIST_OFFSETS_VERSION: i16 = 7;
    pub const METADATA_VERSION: i16 = 12;

    pub fn connect(broker: &Broker) -> Client {
        Client::of(Connection::open(broker.port()))
    }

    /// One that asks over that connection who leads.
    pub fn of(bootstrap: Connection) -> Client {
        Client { bootstrap, has_others: false, leaders: BTreeMap::new() }
    }

    /// The connection to the bootstrap port.
    pub fn bootstrap(&mut self) -> &mut Connection {
        &mut self.bootstrap
    }

    pub fn create_topic(&mut self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let configs = settings.iter().map(|(name, value)| {
            CreatableTopicConfig::default().with_name(string(name)).with_value(Some(string(value)))
        });
        let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![
            CreatableTopic::default()
                .with_name(topic_name(topic))
                .with_num_partitions(partitions)
                .with_replication_factor(1)
                .with_configs(configs.collect()),
        ]);
        let response = self.bootstrap.call(5, &request);
        assert_eq!(response.topics[0].error_code, 0, "creating {topic}: {:?}", response.topics[0]);
    }

    pub fn metadata(&mut self, topics: &[&str]) -> MetadataResponse {
        let topics =
            topics.iter().map(|topic| MetadataRequestTopic::default().with_name(Some(topic_name(topic))));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.collect()))
            .with_allow_auto_topic_creation(false);
        self.bootstrap.call(Client::METADATA_VERSION, &request)
    }

    /// Leader of a partition: broker id and port. A topic that was just created may still lack one.
    pub fn leader(&mut self, topic: &str, partition: i32) -> (i32, u16) {
        wait_for(&format!("a leader of {topic}-{partition}"), || {
            let metadata = self.metadata(&[topic]);
            let own = self.bootstrap.port();
            self.has_others |= metadata.brokers.iter().any(|broker| !are_of_one(broker.port as u16, own));
            let partitions = &metadata.topics[0].partitions;
            let found = partitions.iter().find(|found| found.partition_index == partition)?;
            let leader = metadata.brokers.iter().find(|broker| broker.node_id == found.leader_id)?;
            (found.error_code == 0).then_some((leader.node_id.0, leader.port as u16))
        })
    }

    /// A connection to the leader, kept. Who is said to lead may be gone without anybody knowing it yet.
    pub fn to_leader(&mut self, topic: &str, partition: i32) -> &mut Connection {
        let leader = wait_for(&format!("a connection to the leader of {topic}-{partition}"), || {
            let (id, port) = self.leader(topic, partition);
            if let Entry::Vacant(place) = self.leaders.entry(id) {
                place.insert(Connection::try_open(port).ok()?);
            }
            Some(id)
        });
        self.leaders.get_mut(&leader).expect("it is open")
    }

    pub fn produce_request(topic: &str, partition: i32, records: Bytes) -> ProduceRequest {
        ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![
            TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![
                PartitionProduceData::default().with_index(partition).with_records(Some(records)),
            ]),
        ])
    }

    pub fn partition_answer(response: &ProduceResponse) -> &PartitionProduceResponse {
        &response.responses[0].partition_responses[0]
    }

    /// Sends the bytes to the leader with `acks=all`: the base offset, or the broker's error.
    pub fn produce_bytes(
        &mut self,
        topic: &str,
        partition: i32,
        records: Bytes,
    ) -> Result<i64, ResponseError> {
        let request = Client::produce_request(topic, partition, records);
        let response = self.to_leader(topic, partition).call(Client::PRODUCE_VERSION, &request);
        let answer = Client::partition_answer(&response);
        match ResponseError::try_from_code(answer.error_code) {
            None => Ok(answer.base_offset),
            Some(error) => Err(error),
        }
    }

    /// As [`Client::produce_bytes`]; any error is a failure of the test.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &Batch) -> i64 {
        let what = format!("producing to {topic}-{partition}");
        self.once_known(&what, |client| client.produce_bytes(topic, partition, batch.bytes()))
    }

    /// What a leader answers. Any error is a failure of the test, but that of several nodes one does not know yet that
    /// it leads, or the one that was asked does not know yet who does: a copy of the metadata may be behind.
    fn once_known<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&mut Client) -> Result<T, ResponseError>,
    ) -> T {
        wait_for(what, || match ask(self) {
            Ok(answer) => Some(answer),
            Err(
                ResponseError::UnknownTopicOrPartition
                | ResponseError::NotLeaderOrFollower
                | ResponseError::OffsetNotAvailable,
            ) if self.has_others => None,
            Err(error) => panic!("{what}: {error:?}"),
        })
    }

    pub fn init_producer(&mut self) -> BatchProducer {
        let request =
            InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
        wait_for("a producer id", || {
            let response = self.bootstrap.call(1, &request);
            match ResponseError::try_from_code(response.error_code) {
                None => {}
                Some(ResponseError::NotController | ResponseError::RequestTimedOut) => return None,
                Some(error) => panic!("InitProducerId: {error:?}"),
            }
            let (id, epoch) = (response.producer_id.0, response.producer_epoch);
            Some(BatchProducer { id, epoch, sequence: 0 })
        })
    }

    /// A fetch of one partition without a session, answered at once.
    pub fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(0)
            .with_min_bytes(1)
            .with_max_bytes(16 << 20)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![
                FetchPartition::default()
                    .with_partition(partition)
                    .with_current_leader_epoch(-1)
                    .with_fetch_offset(offset)
                    .with_partition_max_bytes(8 << 20),
            ])])
    }

    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        let request = Client::fetch_request(topic, partition, offset);
        let response = self.to_leader(topic, partition).call(Client::FETCH_VERSION, &request);
        assert_eq!(response.error_code, 0, "fetch of {topic}-{partition}");
        response.responses[0].partitions[0].clone()
    }

    /// As [`Client::fetch`]; any error of the partition is a failure of the test.
    fn fetch_well(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        let what = format!("fetch of {topic}-{partition} at {offset}");
        self.once_known(&what, |client| {
            let data = client.fetch(topic, partition, offset);
            ResponseError::try_from_code(data.error_code).map_or(Ok(data), Err)
        })
    }

    /// Every record from `offset` up to the high watermark.
    pub fn read_from(&mut self, topic: &str, partition: i32, offset: i64) -> Vec<ReadRecord> {
        let mut records = Vec::new();
        let mut next = offset;
        loop {
            let data = self.fetch_well(topic, partition, next);
            let read = records_of(&data);
            records.extend(read.into_iter().filter(|record| record.offset >= next));
            next = batches_end(&data).unwrap_or(next);
            if next >= data.high_watermark {
                return records;
            }
        }
    }

    pub fn read_all(&mut self, topic: &str, partition: i32) -> Vec<ReadRecord> {
        let start = self.list_offset(topic, partition, -2);
        self.read_from(topic, partition, start)
    }

    /// ListOffsets: -1 latest, -2 earliest, -3 the one of the largest timestamp, else by time.
    pub fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> i64 {
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![
            ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![
                ListOffsetsPartition::default()
                    .with_partition_index(partition)
                    .with_current_leader_epoch(-1)
                    .with_timestamp(timestamp),
            ]),
        ]);
        let what = format!("ListOffsets of {topic}-{partition} at {timestamp}");
        self.once_known(&what, |client| {
            let response = client.to_leader(topic, partition).call(Client::LIST_OFFSETS_VERSION, &request);
            let answer = &response.topics[0].partitions[0];
            ResponseError::try_from_code(answer.error_code).map_or(Ok(answer.offset), Err)
        })
    }
}

/// Makes topics, also where the quorum gets another leader meanwhile: then it is asked again, as clients do. The first
/// topic's error, if there is one.
pub fn create_topics(broker: &Broker, request: &CreateTopicsRequest) -> Option<ResponseError> {
    let mut is_again = false;
    wait_for("topics to be made", || {
        let response = Connection::open(broker.port()).call(5, request);
        match ResponseError::try_from_code(response.topics[0].error_code) {
            Some(ResponseError::NotController | ResponseError::RequestTimedOut) => {
                is_again = true;
                None
            }
            Some(ResponseError::TopicAlreadyExists) if is_again => Some(None),
            error => Some(error),
        }
    })
}

/// Deletes a topic, also where the quorum gets another leader meanwhile. The error, if there is one.
pub fn delete_topic(broker: &Broker, topic: &str) -> Option<ResponseError> {
    let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name(topic)]);
    let mut is_again = false;
    wait_for("a topic to be deleted", || {
        let response = Connection::open(broker.port()).call(5, &request);
        match ResponseError::try_from_code(response.responses[0].error_code) {
            Some(ResponseError::NotController | ResponseError::RequestTimedOut) => {
                is_again = true;
                None
            }
            Some(ResponseError::UnknownTopicOrPartition) if is_again => Some(None),
            error => Some(error),
        }
    })
}

/// The offset after the last whole batch of an answer, which may hold no record (compaction).
fn batches_end(data: &PartitionData) -> Option<i64> {
    let bytes = data.records.as_deref().unwrap_or_default();
    let (mut at, mut end) = (0, None);
    while let Some(header) = bytes.get(at..at + 27) {
        let base = i64::from_be_bytes(header[..8].try_into().expect("eight bytes"));
        let length = u32::from_be_bytes(header[8..12].try_into().expect("four bytes"));
        let delta = i32::from_be_bytes(header[23..27].try_into().expect("four bytes"));
        at += 12 + length as usize;
        if at <= bytes.len() {
            end = Some(base + i64::from(delta) + 1);
        }
    }
    end
}

/// The uncompressed records of one partition's answer. A cut batch at its end is left out.
pub fn records_of(data: &PartitionData) -> Vec<ReadRecord> {
    let mut bytes = data.records.clone().unwrap_or_default();
    let mut records = Vec::new();
    const LENGTH_END: usize = 12; // Base offset and length come first; length counts what follows.
    while bytes.len() >= LENGTH_END {
        let length = u32::from_be_bytes(bytes[8..LENGTH_END].try_into().expect("four bytes"));
        if bytes.len() < LENGTH_END + length as usize {
            break;
        }
        let mut batch = bytes.split_to(LENGTH_END + length as usize);
        let decoded = RecordBatchDecoder::decode(&mut batch).expect("the broker serves whole batches");
        records.extend(decoded.records.into_iter().map(|record| ReadRecord {
            offset: record.offset,
            timestamp: record.timestamp,
            value: record.value.unwrap_or_default(),
        }));
    }
    records
}

pub fn topic_name(topic: &str) -> TopicName {
    TopicName(string(topic))
}

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}
