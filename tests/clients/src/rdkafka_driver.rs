//! The `rdkafka` crate, a request per line in and an answer per line out, as `driver.rs` has them: librdkafka in a
//! process of its own, so that a member of a group and a producer can be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::consumers::is_passing;
use crate::librdkafka::{Deliveries, Librdkafka};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Of members of groups: the shortest session that the broker allows by default, unless a request says otherwise.
const SESSION_MS: u64 = 6000;
const HEARTBEAT_MS: u64 = 500;

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    Ends { topic: String, partition: i32 },
    Join { group: String, topic: String, assignor: String, instance: Option<String>, session: Option<u64> },
    Poll { ms: u64 },
    Commit,
    Leave,
    Init { id: String, timeout: u64 },
    Begin,
    Write { topic: String, records: Vec<(i32, String)> },
    Offsets { topic: String, positions: Vec<(i32, i64)> },
    End { commit: bool },
    Close,
    Committed { topic: String, partition: i32, until: i64 },
    Groups,
    Describe { group: String },
    Positions { group: String, topic: String },
    Reset { group: String, topic: String, offsets: Vec<(i32, i64)> },
    Delete { group: String },
    Admin(Call),
}

/// It has no call for the controller, for elections, log directories and quotas, and none that changes single
/// settings.
#[derive(Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
enum Call {
    Create {
        topic: String,
        partitions: Option<i32>,
        assignments: Option<Vec<Vec<i32>>>,
        set: BTreeMap<String, String>,
        validate: bool,
    },
    Grow {
        topic: String,
        partitions: usize,
        assignments: Option<Vec<Vec<i32>>>,
        validate: bool,
    },
    Configs {
        #[serde(flatten)]
        resource: Resource,
    },
    Replace {
        #[serde(flatten)]
        resource: Resource,
        set: serde_json::Map<String, Value>,
        validate: bool,
    },
    Offset {
        topic: String,
        partition: i32,
        of: String,
    },
    DeleteRecords {
        topic: String,
        partition: i32,
        before: i64,
    },
    Partitions {
        topic: String,
    },
    Delete {
        topic: String,
    },
}

#[derive(Deserialize)]
struct Resource {
    r#type: String,
    name: String,
}

impl Resource {
    fn specifier(&self) -> ResourceSpecifier<'_> {
        match self.r#type.as_str() {
            "broker" => ResourceSpecifier::Broker(self.name.parse().expect("a broker is a number")),
            _ => ResourceSpecifier::Topic(&self.name),
        }
    }
}

/// An error, and librdkafka's name for it.
struct Refused {
    name: String,
    text: String,
}

impl Refused {
    fn of(code: RDKafkaErrorCode) -> Refused {
        Refused { name: format!("{code:?}"), text: code.to_string() }
    }

    fn other(text: String) -> Refused {
        Refused { name: "other".to_owned(), text }
    }
}

impl From<KafkaError> for Refused {
    fn from(error: KafkaError) -> Refused {
        let code = match &error {
            KafkaError::AdminOp(code) => Some(*code),
            error => error.rdkafka_error_code(),
        };
        let name = code.map_or("other".to_owned(), |code| format!("{code:?}"));
        Refused { name, text: error.to_string() }
    }
}

type Answer = Result<Value, Refused>;

/// Records that a member has read, without those of partitions that were taken from it meanwhile.
#[derive(Default)]
struct Polled(Mutex<Vec<(i32, i64)>>);

impl Polled {
    fn change<T>(&self, change: impl FnOnce(&mut Vec<(i32, i64)>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Polled {}

impl ConsumerContext for Polled {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(revoked) = rebalance {
            let elements = revoked.elements();
            let gone: BTreeSet<i32> = elements.iter().map(|place| place.partition()).collect();
            self.change(|records| records.retain(|(partition, _)| !gone.contains(partition)));
        }
    }
}

struct Served {
    bootstrap: String,
    member: Option<BaseConsumer<Polled>>,
    /// What the member was in its group when the transaction began.
    read_as: Option<ConsumerGroupMetadata>,
    producer: Option<(ThreadedProducer<Deliveries>, mpsc::Receiver<crate::librdkafka::Delivery>)>,
}

/// Serves requests until there are no more.
pub fn serve_rdkafka(bootstrap: &str) {
    let mut served = Served { bootstrap: bootstrap.to_owned(), member: None, read_as: None, producer: None };
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { return };
        let request: Request = serde_json::from_str(&line).expect("a request that it knows");
        let answer = served.answer(request);
        let answer = answer.unwrap_or_else(|Refused { name, text }| json!({ "error": text, "name": name }));
        println!("{answer}");
    }
}

impl Served {
    fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::Ends { topic, partition } => {
                let ends =
                    Librdkafka::new(&self.bootstrap).ends(&topic, partition).map_err(Refused::other)?;
                Ok(json!({ "earliest": ends.earliest, "latest": ends.latest }))
            }
            Request::Join { group, topic, assignor, instance, session } => {
                self.join(&group, &topic, &assignor, instance.as_deref(), session.unwrap_or(SESSION_MS))
            }
            Request::Poll { ms } => self.poll(Duration::from_millis(ms)),
            Request::Commit => match self.member().commit_consumer_state(CommitMode::Sync) {
                // It takes it for an error that there is nothing to commit.
                Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(json!({})),
                Err(error) => Err(error.into()),
            },
            Request::Leave => {
                self.member = None;
                Ok(json!({}))
            }
            Request::Init { id, timeout } => self.init(&id, timeout),
            Request::Begin => {
                self.read_as = self.member.as_ref().and_then(Consumer::group_metadata);
                done(self.producer().begin_transaction())
            }
            Request::Write { topic, records } => self.write(&topic, &records),
            Request::Offsets { topic, positions } => {
                let group = self.read_as.as_ref().expect("it is a member");
                let positions = list(&topic, &positions)?;
                done(self.producer().send_offsets_to_transaction(&positions, group, TIMEOUT))
            }
            Request::End { commit: true } => done(self.producer().commit_transaction(TIMEOUT)),
            Request::End { commit: false } => done(self.producer().abort_transaction(TIMEOUT)),
            Request::Close => {
                self.producer = None;
                Ok(json!({}))
            }
            Request::Committed { topic, partition, until } => self.committed(&topic, partition, until),
            Request::Groups => {
                let listed = self.consumer("unused", &[])?.fetch_group_list(None, TIMEOUT)?;
                let mut groups: Vec<&str> = listed.groups().iter().map(|group| group.name()).collect();
                groups.sort_unstable();
                Ok(json!({ "groups": groups }))
            }
            Request::Describe { group } => {
                let listed = self.consumer("unused", &[])?.fetch_group_list(Some(&group), TIMEOUT)?;
                let [described] = listed.groups() else {
                    return Err(Refused::other(format!(
                        "{} groups are called {group}",
                        listed.groups().len()
                    )));
                };
                Ok(json!({ "state": described.state(), "members": described.members().len() }))
            }
            Request::Positions { group, topic } => self.positions(&group, &topic),
            Request::Reset { group, topic, offsets } => {
                // It has it only so: as a consumer that is no member.
                let consumer = self.consumer(&group, &[])?;
                done(consumer.commit(&list(&topic, &offsets)?, CommitMode::Sync))
            }
            Request::Delete { group } => {
                let asked = self.admin()?;
                let deleted = futures::executor::block_on(asked.delete_groups(&[&group], &options()))?;
                only(deleted.into_iter().map(|result| result.map(drop).map_err(|(_, code)| code)))
            }
            Request::Admin(call) => self.administrate(call),
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn consumer(&self, group: &str, settings: &[(&str, &str)]) -> Result<BaseConsumer, KafkaError> {
        let mut config = self.config();
        config.set("group.id", group).set("enable.auto.commit", "false");
        settings.iter().for_each(|(name, value)| {
            config.set(*name, *value);
        });
        config.create()
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.config().create()
    }

    fn member(&self) -> &BaseConsumer<Polled> {
        self.member.as_ref().expect("it has joined")
    }

    fn producer(&self) -> &ThreadedProducer<Deliveries> {
        &self.producer.as_ref().expect("it has a producer").0
    }

    fn join(
        &mut self,
        group: &str,
        topic: &str,
        assignor: &str,
        instance: Option<&str>,
        session_ms: u64,
    ) -> Answer {
        let mut config = self.config();
        config.set("group.id", group).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        // When the broker comes back, so does it, well within its session. Its own are ten seconds.
        config.set("reconnect.backoff.max.ms", "500");
        if assignor == "uniform" {
            // Of the broker, which says how long a session is.
            config.set("group.protocol", "consumer").set("group.remote.assignor", assignor);
        } else {
            config.set("partition.assignment.strategy", assignor.replace("round-robin", "roundrobin"));
            config.set("session.timeout.ms", session_ms.to_string());
            config.set("heartbeat.interval.ms", HEARTBEAT_MS.to_string());
        }
        if let Some(instance) = instance {
            config.set("group.instance.id", instance);
        }
        let member: BaseConsumer<Polled> = config.create_with_context(Polled::default())?;
        member.subscribe(&[topic])?;
        self.member = Some(member);
        Ok(json!({}))
    }

    fn poll(&mut self, time: Duration) -> Answer {
        let member = self.member();
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match member.poll(left) {
                None => {}
                Some(Ok(read)) => {
                    member.context().change(|records| records.push((read.partition(), read.offset())));
                }
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
        let mut assigned: Vec<i32> =
            member.assignment()?.elements().iter().map(|place| place.partition()).collect();
        assigned.sort_unstable();
        Ok(json!({ "assigned": assigned, "records": member.context().change(std::mem::take) }))
    }

    fn init(&mut self, id: &str, timeout_ms: u64) -> Answer {
        let (sender, deliveries) = mpsc::channel();
        let mut config = self.config();
        config.set("transactional.id", id).set("transaction.timeout.ms", timeout_ms.to_string());
        config.set("linger.ms", "5");
        let producer: ThreadedProducer<Deliveries> = config.create_with_context(Deliveries { sender })?;
        producer.init_transactions(TIMEOUT)?;
        self.producer = Some((producer, deliveries));
        Ok(json!({}))
    }

    fn write(&mut self, topic: &str, records: &[(i32, String)]) -> Answer {
        let (producer, deliveries) = self.producer.as_ref().expect("it has a producer");
        for (index, (partition, text)) in records.iter().enumerate() {
            let mut record: BaseRecord<'_, str, str, usize> = BaseRecord::with_opaque_to(topic, index);
            record.partition = Some(*partition);
            record.payload = Some(text);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(TIMEOUT)?;
        let delivered: Vec<_> = deliveries.try_iter().map(|(_, place)| place).collect();
        if delivered.len() != records.len() {
            return Err(Refused::other(format!("{} of {} were delivered", delivered.len(), records.len())));
        }
        delivered.into_iter().try_for_each(|place| place.map(drop)).map_err(Refused::other)?;
        Ok(json!({}))
    }

    fn committed(&self, topic: &str, partition: i32, until: i64) -> Answer {
        let settings = [("isolation.level", "read_committed"), ("enable.partition.eof", "true")];
        let consumer = self.consumer("unused", &settings)?;
        consumer.assign(&list(topic, &[(partition, 0)])?)?;
        let mut values = Vec::new();
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            match consumer.poll(Duration::from_secs(1)) {
                None => {}
                Some(Ok(read)) => {
                    let value = read.payload().unwrap_or_default();
                    values.push(String::from_utf8_lossy(value).into_owned());
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    // Behind the markers too, which it does not show; none before it has met anything.
                    let reached = match consumer.position()?.elements_for_topic(topic)[0].offset() {
                        Offset::Offset(at) => at,
                        _ => 0,
                    };
                    if reached >= until {
                        return Ok(json!({ "values": values }));
                    }
                }
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
        Err(Refused::other(format!("{values:?} before {until}")))
    }

    fn positions(&self, group: &str, topic: &str) -> Answer {
        let consumer = self.consumer(group, &[])?;
        let mut asked = TopicPartitionList::new();
        for partition in partitions(&consumer, topic)? {
            asked.add_partition(topic, partition);
        }
        let found = consumer.committed_offsets(asked, TIMEOUT)?;
        let offsets: Vec<(i32, i64)> = found
            .elements()
            .iter()
            .filter_map(|place| match place.offset() {
                Offset::Offset(at) => Some((place.partition(), at)),
                _ => None,
            })
            .collect();
        Ok(json!({ "offsets": offsets }))
    }

    fn administrate(&self, call: Call) -> Answer {
        let admin = self.admin()?;
        match call {
            Call::Create { topic, partitions, assignments, set, validate } => {
                let brokers: Vec<&[i32]> = assignments.iter().flatten().map(Vec::as_slice).collect();
                let mut asked = match partitions {
                    Some(partitions) => NewTopic::new(&topic, partitions, TopicReplication::Fixed(1)),
                    None => NewTopic::new(&topic, brokers.len() as i32, TopicReplication::Variable(&brokers)),
                };
                for (name, value) in &set {
                    asked = asked.set(name, value);
                }
                let asked = [asked];
                let created = admin.create_topics(&asked, &options().validate_only(validate));
                let created = futures::executor::block_on(created)?;
                only(created.into_iter().map(|result| result.map(drop).map_err(|(_, code)| code)))
            }
            Call::Grow { topic, partitions, assignments, validate } => {
                let brokers: Option<Vec<&[i32]>> =
                    assignments.as_ref().map(|assignments| assignments.iter().map(Vec::as_slice).collect());
                let mut asked = NewPartitions::new(&topic, partitions);
                if let Some(brokers) = &brokers {
                    asked = asked.assign(brokers);
                }
                let asked = [asked];
                let grown = admin.create_partitions(&asked, &options().validate_only(validate));
                let grown = futures::executor::block_on(grown)?;
                only(grown.into_iter().map(|result| result.map(drop).map_err(|(_, code)| code)))
            }
            Call::Configs { resource } => {
                let specifier = resource.specifier();
                let asked = admin.describe_configs([&specifier], &options());
                let mut described = futures::executor::block_on(asked)?;
                let described = described.remove(0).map_err(Refused::of)?;
                let configs: serde_json::Map<String, Value> = described
                    .entries
                    .into_iter()
                    .map(|entry| {
                        let source = source(&entry.source);
                        (entry.name, json!([entry.value, source, entry.is_read_only]))
                    })
                    .collect();
                Ok(json!({ "configs": configs }))
            }
            Call::Replace { resource, set, validate } => {
                let mut change = AlterConfig::new(resource.specifier());
                for (name, value) in &set {
                    change = change.set(name, value.as_str().expect("a setting is text"));
                }
                let asked = admin.alter_configs([&change], &options().validate_only(validate));
                let changed = futures::executor::block_on(asked)?;
                only(
                    changed
                        .into_iter()
                        .map(|result| result.map(|_: OwnedResourceSpecifier| ()).map_err(|(_, code)| code)),
                )
            }
            Call::Offset { topic, partition, of } => {
                let ends = self.consumer("unused", &[])?.fetch_watermarks(&topic, partition, TIMEOUT)?;
                Ok(json!({ "offset": if of == "earliest" { ends.0 } else { ends.1 } }))
            }
            Call::DeleteRecords { topic, partition, before } => {
                let asked = list(&topic, &[(partition, before)])?;
                let deleted = futures::executor::block_on(admin.delete_records(&asked, &options()))?;
                let place = &deleted.elements()[0];
                place.error()?;
                Ok(json!({ "low": place.offset().to_raw() }))
            }
            Call::Partitions { topic } => {
                let consumer = self.consumer("unused", &[])?;
                Ok(json!({ "partitions": partitions(&consumer, &topic)? }))
            }
            Call::Delete { topic } => {
                let deleted = futures::executor::block_on(admin.delete_topics(&[&topic], &options()))?;
                only(deleted.into_iter().map(|result| result.map(drop).map_err(|(_, code)| code)))
            }
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

fn done(result: Result<(), KafkaError>) -> Answer {
    result.map(|()| json!({})).map_err(Refused::from)
}

/// Of an admin request, which has a result for each of what it asks for.
fn only(mut results: impl Iterator<Item = Result<(), RDKafkaErrorCode>>) -> Answer {
    results.try_for_each(|result| result).map(|()| json!({})).map_err(Refused::of)
}

fn list(topic: &str, offsets: &[(i32, i64)]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(list)
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>, Refused> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let found = &metadata.topics()[0];
    if let Some(error) = found.error() {
        return Err(Refused::of(error.into()));
    }
    let mut partitions: Vec<i32> = found.partitions().iter().map(|partition| partition.id()).collect();
    partitions.sort_unstable();
    Ok(partitions)
}

/// As the protocol numbers them.
fn source(source: &ConfigSource) -> i64 {
    match source {
        ConfigSource::Unknown => 0,
        ConfigSource::DynamicTopic => 1,
        ConfigSource::DynamicBroker => 2,
        ConfigSource::DynamicDefaultBroker => 3,
        ConfigSource::StaticBroker => 4,
        ConfigSource::Default => 5,
    }
}
