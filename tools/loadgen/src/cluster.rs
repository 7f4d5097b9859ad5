//! What a run asks of the cluster before and between its data: topic creation, leaders, offsets,
//! producer ids. One request at a time; nothing here is on the data path.

use std::collections::BTreeMap;
use std::time::Duration;

use glommio::timer::sleep;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteTopicsRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek::types::{ProducerEpoch, ProducerId};

use crate::clock;
use crate::connection::{CallError, Connection};
use crate::versions::Api;

/// Bytes of the receive buffer of connections that carry single small answers.
const RECEIVE_SIZE: usize = 64 << 10;
/// Between two looks at metadata that is not complete yet.
pub const RETRY_WAIT: Duration = Duration::from_millis(50);
/// How long a new topic may take to get its leaders.
pub const LEADERS_TIMEOUT: Duration = Duration::from_secs(30);

const TOPIC_ALREADY_EXISTS: i16 = 36;

/// Why a run could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("none of the brokers could be reached; the last one: {last}")]
    NoBroker { last: CallError },
    #[error("topic '{topic}': {}", error_name(*code))]
    Topic { topic: String, code: i16 },
    #[error("topic '{topic}' was not created: {}{}", error_name(*code), detail(message))]
    Create { topic: String, code: i16, message: String },
    #[error("topic '{topic}' has no leader for partition {partition}: {}", error_name(*code))]
    NoLeader { topic: String, partition: i32, code: i16 },
    #[error("{what}: {}", error_name(*code))]
    Refused { what: &'static str, code: i16 },
}

/// Where clients learn everything else.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub addresses: Vec<String>,
}

/// A broker's address and the partitions that it leads, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub broker_id: i32,
    pub address: String,
    pub partitions: Vec<i32>,
}

/// A new topic.
#[derive(Clone, Debug)]
pub struct NewTopic {
    pub name: String,
    pub partitions: u32,
    /// -1: the broker's default.
    pub replication_factor: i16,
    pub configs: Vec<(String, String)>,
}

/// Which end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    Earliest,
    Latest,
}

impl Bootstrap {
    /// The first broker that answers.
    pub async fn connect(&self) -> Result<Connection, ClusterError> {
        let mut last = CallError::Address { address: String::new() };
        for address in &self.addresses {
            match Connection::open(address, RECEIVE_SIZE).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(ClusterError::NoBroker { last })
    }

    /// Every partition's leader, waiting for those that have none yet.
    pub async fn leaders(&self, topic: &str) -> Result<Vec<Leader>, ClusterError> {
        let give_up = clock::now().after(LEADERS_TIMEOUT);
        let mut connection = self.connect().await?;
        loop {
            match leaders_now(&mut connection, topic).await {
                Err(error) if is_transient(&error) && clock::now() < give_up => sleep(RETRY_WAIT).await,
                leaders => return leaders,
            }
        }
    }

    /// Creates the topic, or finds it there; then waits until every partition has a leader.
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<Vec<Leader>, ClusterError> {
        let mut connection = self.connect().await?;
        let version = connection.version(Api::CreateTopics)?;
        // Version 4 lets the broker choose what is -1 (KIP-464).
        let choose = version >= 4;
        let configs = topic.configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string(name.clone()))
                .with_value(Some(StrBytes::from_string(value.clone())))
        });
        let replication_factor =
            if topic.replication_factor < 0 && !choose { 1 } else { topic.replication_factor };
        let request = CreateTopicsRequest::default().with_timeout_ms(30_000).with_topics(vec![
            CreatableTopic::default()
                .with_name(TopicName(StrBytes::from_string(topic.name.clone())))
                .with_num_partitions(topic.partitions as i32)
                .with_replication_factor(replication_factor)
                .with_configs(configs.collect()),
        ]);
        let answer = connection.call(&request, version).await?;
        let result =
            answer.topics.first().ok_or_else(|| connection.protocol_error("no topic in the answer"))?;
        if result.error_code != 0 && result.error_code != TOPIC_ALREADY_EXISTS {
            return Err(ClusterError::Create {
                topic: topic.name.clone(),
                code: result.error_code,
                message: result.error_message.as_deref().unwrap_or_default().to_string(),
            });
        }
        self.leaders(&topic.name).await
    }

    /// Deletes a topic. The broker may take its time to free the space.
    pub async fn delete_topic(&self, topic: &str) -> Result<(), ClusterError> {
        let mut connection = self.connect().await?;
        let version = connection.version(Api::DeleteTopics)?;
        let names = vec![TopicName(StrBytes::from_string(topic.to_string()))];
        let request = DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(30_000);
        let answer = connection.call(&request, version).await?;
        match answer.responses.first().map_or(0, |result| result.error_code) {
            0 => Ok(()),
            code => Err(ClusterError::Refused { what: "DeleteTopics", code }),
        }
    }

    /// One end of each partition, by partition.
    pub async fn offsets(&self, topic: &str, end: LogEnd) -> Result<BTreeMap<i32, i64>, ClusterError> {
        self.offsets_of(topic, end, |_| true).await
    }

    /// The same for some of its partitions: what is wrong with the others is not looked at.
    pub async fn offsets_of(
        &self,
        topic: &str,
        end: LogEnd,
        wanted: impl Fn(i32) -> bool,
    ) -> Result<BTreeMap<i32, i64>, ClusterError> {
        let give_up = clock::now().after(LEADERS_TIMEOUT);
        loop {
            match self.offsets_now(topic, end, &wanted).await {
                Err(error) if is_transient(&error) && clock::now() < give_up => sleep(RETRY_WAIT).await,
                offsets => return offsets,
            }
        }
    }

    async fn offsets_now(
        &self,
        topic: &str,
        end: LogEnd,
        wanted: impl Fn(i32) -> bool,
    ) -> Result<BTreeMap<i32, i64>, ClusterError> {
        let mut offsets = BTreeMap::new();
        for leader in self.leaders(topic).await? {
            let mut connection = Connection::open(&leader.address, RECEIVE_SIZE).await?;
            let version = connection.version(Api::ListOffsets)?;
            let timestamp = match end {
                LogEnd::Earliest => -2,
                LogEnd::Latest => -1,
            };
            let partitions =
                leader.partitions.iter().filter(|&&partition| wanted(partition)).map(|&partition| {
                    ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp)
                });
            let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![
                ListOffsetsTopic::default()
                    .with_name(TopicName(StrBytes::from_string(topic.to_string())))
                    .with_partitions(partitions.collect()),
            ]);
            let answer = connection.call(&request, version).await?;
            for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
                if partition.error_code != 0 {
                    return Err(ClusterError::Refused { what: "ListOffsets", code: partition.error_code });
                }
                offsets.insert(partition.partition_index, partition.offset);
            }
        }
        Ok(offsets)
    }
}

/// A fresh producer id, not transactional (KIP-98).
pub async fn init_producer_id(
    connection: &mut Connection,
) -> Result<(ProducerId, ProducerEpoch), ClusterError> {
    let version = connection.version(Api::InitProducerId)?;
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(i32::MAX)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let give_up = clock::now().after(LEADERS_TIMEOUT);
    loop {
        let answer = connection.call(&request, version).await?;
        match answer.error_code {
            0 => return Ok((ProducerId(answer.producer_id.0), ProducerEpoch(answer.producer_epoch))),
            code if is_retriable(code) && clock::now() < give_up => sleep(RETRY_WAIT).await,
            code => return Err(ClusterError::Refused { what: "InitProducerId", code }),
        }
    }
}

async fn leaders_now(connection: &mut Connection, topic: &str) -> Result<Vec<Leader>, ClusterError> {
    let version = connection.version(Api::Metadata)?;
    let name = TopicName(StrBytes::from_string(topic.to_string()));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name))]))
        .with_allow_auto_topic_creation(true);
    let answer = connection.call(&request, version).await?;
    let found = answer.topics.first().ok_or_else(|| connection.protocol_error("no topic in the answer"))?;
    if found.error_code != 0 {
        return Err(ClusterError::Topic { topic: topic.to_string(), code: found.error_code });
    }
    let addresses: BTreeMap<i32, String> =
        answer.brokers.iter().map(|b| (b.node_id.0, format!("{}:{}", b.host.as_str(), b.port))).collect();
    let mut leaders: BTreeMap<i32, Leader> = BTreeMap::new();
    for partition in &found.partitions {
        let broker_id = partition.leader_id.0;
        let Some(address) = addresses.get(&broker_id) else {
            let (partition, code) = (partition.partition_index, partition.error_code);
            return Err(ClusterError::NoLeader { topic: topic.to_string(), partition, code });
        };
        let leader = leaders.entry(broker_id).or_insert_with(|| Leader {
            broker_id,
            address: address.clone(),
            partitions: Vec::new(),
        });
        leader.partitions.push(partition.partition_index);
    }
    let mut leaders: Vec<Leader> = leaders.into_values().collect();
    leaders.iter_mut().for_each(|leader| leader.partitions.sort_unstable());
    if leaders.is_empty() {
        return Err(ClusterError::Topic { topic: topic.to_string(), code: UNKNOWN_TOPIC_OR_PARTITION });
    }
    Ok(leaders)
}

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// Whether asking again may help.
fn is_transient(error: &ClusterError) -> bool {
    match error {
        ClusterError::NoLeader { .. } => true,
        ClusterError::Topic { code, .. } | ClusterError::Refused { code, .. } => is_retriable(*code),
        ClusterError::Call(_) | ClusterError::NoBroker { .. } | ClusterError::Create { .. } => false,
    }
}

/// A transaction's end is still being written (KIP-98); retriable since Kafka 3.0, not in the library.
const CONCURRENT_TRANSACTIONS: i16 = 51;

pub fn is_retriable(code: i16) -> bool {
    code == CONCURRENT_TRANSACTIONS
        || ResponseError::try_from_code(code).is_some_and(|error| error.is_retriable())
}

/// Kafka's name of an error code.
pub fn error_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(error) => format!("{error:?} ({code})"),
        None => format!("error {code}"),
    }
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
