//! What must hold for members of the newer group protocol (KIP-848): every record is read once, by whoever has its
//! partition, while members come and go, the broker is killed, topics come and go, and the group changes its
//! protocol. The members are librdkafka's, in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use odradek_test_harness::{Batch, Broker, Client as PlainClient, Options, Routing};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;

const GROUP: &str = "sharing";
/// For one step: a session that ends takes six seconds.
const STEP_TIME_MAX: Duration = Duration::from_secs(90);
/// How long each member listens before the next one.
const POLL: Duration = Duration::from_millis(5);

/// The protocol of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Classic,
    Consumer,
}

/// What a member is like.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    pub protocol: Protocol,
    pub topic: &'a str,
    pub instance: Option<&'a str>,
    /// Of the newer protocol, and of the broker.
    pub assignor: Option<&'a str>,
}

impl<'a> Reader<'a> {
    pub fn of(protocol: Protocol, topic: &'a str) -> Reader<'a> {
        Reader { protocol, topic, instance: None, assignor: None }
    }

    fn join(self, broker: &Broker) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.bootstrap()).set("group.id", GROUP);
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        // New topics are found soon.
        config.set("topic.metadata.refresh.interval.ms", "1000");
        // Its own are ten seconds, longer than the session, for a broker that was away.
        config.set("reconnect.backoff.max.ms", "500");
        match self.protocol {
            Protocol::Classic => {
                config.set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "500");
                config.set("partition.assignment.strategy", "cooperative-sticky");
            }
            Protocol::Consumer => {
                config.set("group.protocol", "consumer");
                if let Some(assignor) = self.assignor {
                    config.set("group.remote.assignor", assignor);
                }
            }
        }
        if let Some(instance) = self.instance {
            config.set("group.instance.id", instance);
        }
        let consumer: BaseConsumer = config.create().expect("the settings are fine");
        consumer.subscribe(&[self.topic]).expect("it subscribes");
        consumer
    }
}

/// The broker, its topics, and the members.
pub struct Hall {
    broker: Broker,
    members: Vec<BaseConsumer>,
    /// Partitions of each topic, and records of each of them.
    written: BTreeMap<&'static str, (i32, i64)>,
    /// How often each record was read.
    read: BTreeMap<(String, i32, i64), u32>,
}

impl Hall {
    pub fn start(routing: Routing) -> Hall {
        let options = Options::new(routing)
            .set("offsets.topic.num.partitions", "4")
            .set("group.consumer.min.session.timeout.ms", "6000")
            .set("group.consumer.session.timeout.ms", "6000")
            .set("group.consumer.min.heartbeat.interval.ms", "300")
            .set("group.consumer.heartbeat.interval.ms", "300");
        let broker = Broker::start_with(options);
        Hall { broker, members: Vec::new(), written: BTreeMap::new(), read: BTreeMap::new() }
    }

    fn create(&mut self, topic: &'static str, partitions: i32) {
        PlainClient::connect(&self.broker).create_topic(topic, partitions, &[]);
        self.written.insert(topic, (partitions, 0));
    }

    fn delete(&mut self, topic: &str) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.broker.bootstrap());
        let admin: AdminClient<DefaultClientContext> = config.create().expect("the settings are fine");
        let options = AdminOptions::new().operation_timeout(Some(STEP_TIME_MAX));
        let deleted = futures::executor::block_on(admin.delete_topics(&[topic], &options));
        assert!(matches!(deleted.as_deref(), Ok([Ok(_)])), "{deleted:?}");
        self.written.remove(topic);
    }

    fn join(&mut self, reader: Reader<'_>) {
        let member = reader.join(&self.broker);
        self.members.push(member);
    }

    /// Writes a few records to every partition. Only once members have settled: whoever reads one and lets its
    /// partition go before it has committed leaves it to be read again.
    fn write(&mut self) {
        const COUNT: i64 = 3;
        let mut client = PlainClient::connect(&self.broker);
        for (topic, (partitions, written)) in &mut self.written {
            for partition in 0..*partitions {
                for number in 0..COUNT {
                    let batch = Batch::of(&[format!("record {number}")], 1_700_000_000_000 + number);
                    client.produce(topic, partition, &batch);
                }
            }
            *written += COUNT;
        }
    }

    /// All members listen, one after the other.
    fn poll(&mut self) {
        for member in &self.members {
            while let Some(polled) = member.poll(POLL) {
                match polled {
                    Ok(message) => {
                        let place = (message.topic().to_owned(), message.partition(), message.offset());
                        *self.read.entry(place).or_default() += 1;
                    }
                    Err(error) => assert!(is_passing(&error), "{error:?}"),
                }
            }
        }
    }

    /// What each member has.
    fn assigned(&self) -> Vec<BTreeSet<(String, i32)>> {
        let of_member = |member: &BaseConsumer| {
            let assigned = member.assignment().expect("it knows what it has");
            let elements = assigned.elements();
            elements.iter().map(|place| (place.topic().to_owned(), place.partition())).collect()
        };
        self.members.iter().map(of_member).collect()
    }

    /// Until everything that was written is read, and all partitions are shared, twice in a row.
    fn settle(&mut self, step: &str) {
        let begun = Instant::now();
        let partitions: usize = self.written.values().map(|(partitions, _)| *partitions as usize).sum();
        let records: i64 =
            self.written.values().map(|(partitions, written)| i64::from(*partitions) * written).sum();
        let mut shared = 0;
        while shared < 2 {
            self.poll();
            let assigned = self.assigned();
            let sizes: Vec<usize> = assigned.iter().map(BTreeSet::len).collect();
            let all: BTreeSet<_> = assigned.iter().flatten().collect();
            let (least, most) = (sizes.iter().min().unwrap_or(&0), sizes.iter().max().unwrap_or(&0));
            let is_shared = all.len() == partitions && sizes.iter().sum::<usize>() == partitions;
            let is_even = most - least <= 1;
            let is_read = self.read.len() as i64 >= records;
            shared = if is_shared && is_even && is_read { shared + 1 } else { 0 };
            assert!(
                begun.elapsed() < STEP_TIME_MAX,
                "{step}: {sizes:?} of {partitions} partitions, {} of {records} records",
                self.read.len()
            );
        }
        let twice: Vec<_> = self.read.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{step}: read twice: {twice:?}");
        assert_eq!(self.read.len() as i64, records, "{step}");
        self.commit(step);
    }

    /// Every member commits. One that has not heard of the group's newest epoch yet is refused, and hears of it with
    /// its next heartbeat.
    fn commit(&mut self, step: &str) {
        let begun = Instant::now();
        for at in 0..self.members.len() {
            loop {
                match self.members[at].commit_consumer_state(CommitMode::Sync) {
                    Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => break,
                    Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::StaleMemberEpoch))
                        if begun.elapsed() < STEP_TIME_MAX =>
                    {
                        self.poll();
                    }
                    Err(error) => panic!("{step}: {error}"),
                }
            }
        }
    }

    fn write_and_settle(&mut self, step: &str) {
        self.write();
        self.settle(step);
    }

    fn kill_and_start_again(&mut self) {
        self.broker.kill();
        self.broker.start_again();
    }

    fn rebalances(&self) -> u64 {
        let (_, text) = self.broker.admin_get("/metrics");
        let values = text.lines().filter(|line| line.starts_with("odradek_group_rebalances_total"));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    fn stop(mut self) {
        self.members.clear();
        self.broker.stop();
    }
}

/// Errors that a member gets over by itself.
pub fn is_passing(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::NotCoordinator
        )
    )
}

/// Members come, one goes, the broker is killed and starts again without anybody having to join again.
pub fn consumers_share_a_topic(routing: Routing, count: usize, assignor: Option<&str>) {
    let mut hall = Hall::start(routing);
    hall.create("shared", 40);
    let reader = Reader { assignor, ..Reader::of(Protocol::Consumer, "shared") };
    (0..count).for_each(|_| hall.join(reader));
    hall.settle("they join");
    hall.write_and_settle("they read");
    hall.join(reader);
    hall.settle("one more");
    drop(hall.members.remove(0));
    hall.settle("one less");
    hall.write_and_settle("the others read");
    hall.kill_and_start_again();
    hall.write_and_settle("the broker was killed");
    assert_eq!(hall.rebalances(), 0, "members keep their epochs");
    hall.stop();
}

/// A group moves from the classic protocol to the newer one while it reads, and back.
pub fn group_changes_its_protocol() {
    let mut hall = Hall::start(Routing::Node);
    hall.create("shared", 12);
    (0..3).for_each(|_| hall.join(Reader::of(Protocol::Classic, "shared")));
    hall.settle("three of the classic protocol");
    hall.write_and_settle("three of the classic protocol");
    for (protocol, step) in [(Protocol::Consumer, "to the newer protocol"), (Protocol::Classic, "and back")] {
        for _ in 0..3 {
            hall.join(Reader::of(protocol, "shared"));
            hall.settle(step);
            hall.write_and_settle(step);
            drop(hall.members.remove(0));
            hall.settle(step);
            hall.write_and_settle(step);
        }
    }
    hall.stop();
}

/// Topics that a regular expression matches are read, as they come and go.
pub fn consumers_follow_a_regular_expression() {
    let mut hall = Hall::start(Routing::Node);
    hall.create("shared-1", 4);
    PlainClient::connect(&hall.broker).create_topic("other", 3, &[]);
    (0..2).for_each(|_| hall.join(Reader::of(Protocol::Consumer, "^shared-[0-9]+$")));
    hall.settle("no record yet");
    hall.write_and_settle("one topic");
    hall.create("shared-2", 6);
    hall.write_and_settle("two topics");
    hall.written.insert("shared-3", (1, 0));
    PlainClient::connect(&hall.broker).create_topic("shared-3", 1, &[]);
    hall.write_and_settle("three topics");
    hall.delete("shared-2");
    hall.read.retain(|(topic, _, _), _| topic != "shared-2");
    hall.write_and_settle("two again");
    hall.stop();
}

/// A static member stops and starts again within its session: nobody is disturbed.
pub fn static_consumers_come_back() {
    let mut hall = Hall::start(Routing::Node);
    hall.create("shared", 6);
    let named = |instance| Reader { instance: Some(instance), ..Reader::of(Protocol::Consumer, "shared") };
    hall.join(named("first"));
    hall.join(named("second"));
    hall.settle("two members");
    hall.write_and_settle("two members read");
    let (had, rebalances) = (hall.assigned(), hall.rebalances());
    drop(hall.members.remove(1));
    hall.poll();
    hall.join(named("second"));
    hall.write_and_settle("the second is back");
    assert_eq!((hall.assigned(), hall.rebalances()), (had, rebalances));
    hall.stop();
}
