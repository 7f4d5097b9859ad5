//! The `rdkafka` crate: librdkafka in this process.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::client::{Answer, Client, Codec, Ends, From, Idempotence, Listing};
use crate::records::{Outgoing, Read};

const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Librdkafka {
    bootstrap: String,
}

impl Librdkafka {
    pub fn new(bootstrap: &str) -> Librdkafka {
        Librdkafka { bootstrap: bootstrap.to_string() }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// librdkafka wants the name of a group even where partitions are assigned by hand.
    fn consumer(&self) -> Answer<BaseConsumer> {
        let mut config = self.config();
        config.set("group.id", "unused").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "error").set("check.crcs", "true");
        // A consumer that is closed waits for its last fetch.
        config.set("fetch.wait.max.ms", "20");
        config.create().map_err(text)
    }

    /// What the broker says of the topic.
    fn create_partitions(&self, topic: &str, partitions: u32) -> Answer<Result<(), RDKafkaErrorCode>> {
        let admin: AdminClient<DefaultClientContext> = self.config().create().map_err(text)?;
        let grown = NewPartitions::new(topic, partitions as usize);
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let grown = futures::executor::block_on(admin.create_partitions([&grown], &options)).map_err(text)?;
        Ok(grown.into_iter().try_for_each(|result| result.map(|_| ()).map_err(|(_, code)| code)))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Client for Librdkafka {
    fn create(&mut self, topic: &str, partitions: u32) -> Answer<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create().map_err(text)?;
        let topic = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let created = futures::executor::block_on(admin.create_topics([&topic], &options)).map_err(text)?;
        created
            .into_iter()
            .try_for_each(|result| result.map(|_| ()).map_err(|(topic, code)| format!("{topic}: {code}")))
    }

    fn grow(&mut self, topic: &str, partitions: u32) -> Answer<()> {
        self.create_partitions(topic, partitions)?.map_err(|code| format!("{topic}: {code}"))
    }

    fn expect_not_grown(&mut self, topic: &str, partitions: u32, name: &str) -> Answer<()> {
        match self.create_partitions(topic, partitions)? {
            Err(code) if format!("{code:?}") == name => Ok(()),
            Err(code) => Err(format!("refused as {code:?} and not as {name}")),
            Ok(()) => Err(format!("not refused as {name}")),
        }
    }

    fn metadata(&mut self, topic: &str) -> Answer<Listing> {
        let metadata = self.consumer()?.fetch_metadata(None, TIMEOUT).map_err(text)?;
        let mut topics: Vec<String> =
            metadata.topics().iter().map(|found| found.name().to_string()).collect();
        topics.sort();
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions =
            found.map(|found| found.partitions().iter().map(|partition| partition.id()).collect());
        let mut brokers: Vec<_> = metadata
            .brokers()
            .iter()
            .map(|broker| (broker.id(), broker.host().to_string(), broker.port() as u16))
            .collect();
        brokers.sort();
        let mut partitions: Vec<i32> = partitions.unwrap_or_default();
        partitions.sort_unstable();
        Ok(Listing { topics, partitions, brokers })
    }

    fn ends(&mut self, topic: &str, partition: i32) -> Answer<Ends> {
        let (earliest, latest) =
            self.consumer()?.fetch_watermarks(topic, partition, TIMEOUT).map_err(text)?;
        Ok(Ends { earliest, latest })
    }

    fn produce(
        &mut self,
        topic: &str,
        codec: Codec,
        idempotence: Idempotence,
        records: &[Outgoing],
    ) -> Answer<Option<Vec<(i32, i64)>>> {
        let (sender, deliveries) = mpsc::channel();
        let mut config = self.config();
        config.set("acks", "all").set("compression.type", codec.name()).set("linger.ms", "20");
        config.set("enable.idempotence", (idempotence == Idempotence::On).to_string());
        config.set("message.timeout.ms", TIMEOUT.as_millis().to_string());
        let producer: ThreadedProducer<Deliveries> =
            config.create_with_context(Deliveries { sender }).map_err(text)?;
        for (index, record) in records.iter().enumerate() {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: value.as_ref() });
            }
            let mut sent: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(topic, index);
            sent = sent.timestamp(record.timestamp).headers(headers);
            sent.partition = record.partition;
            sent.key = record.key.as_deref();
            sent.payload = record.value.as_deref();
            producer.send(sent).map_err(|(error, _)| error.to_string())?;
        }
        producer.flush(TIMEOUT).map_err(text)?;
        let mut placed = vec![None; records.len()];
        for (index, place) in deliveries.try_iter() {
            placed[index] = Some(place?);
        }
        placed
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .map(Some)
            .ok_or("a record was not delivered".to_string())
    }

    fn read(&mut self, topic: &str, partition: i32, from: From, until: i64) -> Answer<Vec<Read>> {
        let consumer = self.consumer()?;
        let at = |offset| -> Answer<TopicPartitionList> {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, offset).map_err(text)?;
            Ok(list)
        };
        let start = match from {
            From::Earliest => at(Offset::Beginning)?,
            From::Offset(offset) => at(Offset::Offset(offset))?,
            // The list carries the timestamp in the offset's place, and the answer the offset.
            From::Timestamp(timestamp) => {
                consumer.offsets_for_times(at(Offset::Offset(timestamp))?, TIMEOUT).map_err(text)?
            }
        };
        consumer.assign(&start).map_err(text)?;
        let mut records: Vec<Read> = Vec::new();
        let deadline = Instant::now() + TIMEOUT;
        while records.last().is_none_or(|last| last.offset + 1 < until) {
            if Instant::now() > deadline {
                return Err(format!("{} records before {until} were read", records.len()));
            }
            let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
            let message = message.map_err(text)?;
            let headers = message.headers().map(|headers| {
                let pairs =
                    headers.iter().map(|header| (header.key.to_string(), header.value.map(<[u8]>::to_vec)));
                pairs.collect()
            });
            records.push(Read {
                offset: message.offset(),
                timestamp: message.timestamp().to_millis().unwrap_or(-1),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: headers.unwrap_or_default(),
            });
        }
        Ok(records)
    }
}

/// Index of a record, and where it was put.
pub type Delivery = (usize, Answer<(i32, i64)>);

pub struct Deliveries {
    pub sender: mpsc::Sender<Delivery>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let place = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.to_string()),
        };
        let _ = self.sender.send((index, place)); // The test may have ended.
    }
}
