//! Clients of librdkafka that go on whatever happens, each in a thread, and write down what they are told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use odradek_powerloss::random::Random;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DefaultProducerContext, Producer, ProducerContext, PurgeConfig,
    ThreadedProducer,
};
use rdkafka::{Offset, TopicPartitionList};

use crate::history::{History, Ledger, Outcome, Value};

pub const TOPIC: &str = "chaos";
pub const PARTITIONS: usize = 6;
pub const LEDGER: &str = "ledger";
pub const LEDGER_PARTITIONS: usize = 3;
pub const GROUP: &str = "chaos-group";

pub const PRODUCERS: u32 = 3;
const TRANSACTIONAL: u32 = 2;
const MEMBERS: u32 = 2;

/// Between two records of one producer.
const PAUSE: Duration = Duration::from_millis(4);
/// Lines that are kept of what librdkafka says in a producer.
const SAID_MAX: usize = 400;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than anything that a client waits for at its end.
const END_PATIENCE: Duration = Duration::from_secs(100);

/// What all of them know.
pub struct Shared {
    pub bootstrap: String,
    pub history: Mutex<History>,
    pub ledger: Mutex<Ledger>,
    /// What a group has committed and heard of, by partition.
    pub committed: Mutex<BTreeMap<i32, i64>>,
    /// The newest end that a client was told of each partition.
    ends: Mutex<BTreeMap<i32, i64>>,
    /// When the newest acknowledgement came whose record was sent last, by partition and producer: sent, acknowledged.
    newest: Mutex<BTreeMap<(usize, u32), (Instant, Instant)>>,
    /// The longest that a record took to be acknowledged, by partition.
    slowest: Mutex<BTreeMap<usize, Duration>>,
    /// What librdkafka has said last in each producer.
    said: Mutex<BTreeMap<u32, VecDeque<String>>>,
    began: Instant,
    pub commits: AtomicU64,
    pub replaced: AtomicU64,
    probes: AtomicI64,
    is_over: AtomicBool,
    producing: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(bootstrap: String) -> Arc<Shared> {
        Arc::new(Shared {
            bootstrap,
            history: Mutex::new(History::new(PARTITIONS)),
            ledger: Mutex::default(),
            committed: Mutex::default(),
            ends: Mutex::default(),
            newest: Mutex::default(),
            slowest: Mutex::default(),
            said: Mutex::default(),
            began: Instant::now(),
            commits: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            probes: AtomicI64::new(0),
            is_over: AtomicBool::new(false),
            producing: AtomicBool::new(true),
        })
    }

    /// How many there were.
    pub fn next_probe(&self) -> i64 {
        self.probes.fetch_add(1, Ordering::Relaxed)
    }

    pub fn probes(&self) -> i64 {
        self.probes.load(Ordering::Relaxed)
    }

    pub fn violations(&self) -> Vec<String> {
        lock(&self.history).violations.clone()
    }

    /// When a record was acknowledged, whoever's, that was sent after that moment.
    pub fn acknowledged_since(&self, partition: usize, since: Instant) -> Option<Instant> {
        (0..PRODUCERS).filter_map(|producer| self.acknowledged_to(producer, partition, since)).min()
    }

    /// The same of one producer.
    pub fn acknowledged_to(&self, producer: u32, partition: usize, since: Instant) -> Option<Instant> {
        let newest = lock(&self.newest).get(&(partition, producer)).copied();
        newest.filter(|(sent, _)| *sent > since).map(|(_, acknowledged)| acknowledged)
    }

    pub fn forget_slowest(&self) {
        lock(&self.slowest).clear();
    }

    /// Of the records of a partition that were acknowledged since that was forgotten.
    pub fn slowest(&self, partition: usize) -> Duration {
        lock(&self.slowest).get(&partition).copied().unwrap_or_default()
    }

    pub fn said_in(&self, producer: u32) -> Vec<String> {
        lock(&self.said).get(&producer).into_iter().flatten().cloned().collect()
    }

    pub fn failed(&self) -> u64 {
        lock(&self.history).failed
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        // Of a node that stands still nobody hears anything; a minute of waiting for it shows nothing.
        config.set("socket.timeout.ms", "5000").set("log_level", "0");
        config
    }

    fn consumer(&self, isolation: &str) -> Result<BaseConsumer, KafkaError> {
        let mut config = self.config();
        config.set("group.id", "unused").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "error").set("isolation.level", isolation);
        config.set("fetch.wait.max.ms", "50").create()
    }

    /// Everything of a partition, from its start to its end.
    pub fn read_whole(
        &self,
        topic: &str,
        partition: i32,
        isolation: &str,
        patience: Duration,
    ) -> Result<Vec<(i64, Vec<u8>)>, String> {
        let consumer = self.consumer(isolation).map_err(|error| error.to_string())?;
        let give_up = Instant::now() + patience;
        let mut end = None;
        while end.is_none() && Instant::now() < give_up {
            end = consumer.fetch_watermarks(topic, partition, TIMEOUT).ok().map(|(_, end)| end);
        }
        let end = end.ok_or_else(|| format!("nobody says where {topic}-{partition} ends"))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(0)).map_err(|error| error.to_string())?;
        consumer.assign(&list).map_err(|error| error.to_string())?;
        let mut records = Vec::new();
        loop {
            let position = consumer.position().map_err(|error| error.to_string())?;
            let at = position.find_partition(topic, partition).map(|found| found.offset());
            if end == 0 || matches!(at, Some(Offset::Offset(at)) if at >= end) {
                return Ok(records);
            }
            if Instant::now() >= give_up {
                return Err(format!("{topic}-{partition} is not read to its end {end}, but to {at:?}"));
            }
            match consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    records.push((message.offset(), message.payload().unwrap_or_default().to_vec()));
                }
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    return Err(format!("{topic}-{partition}: {error}"));
                }
                _ => {}
            }
        }
    }
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(shared: &Arc<Shared>, seed: u64) -> Load {
        let mut threads = Vec::new();
        let mut spawn = |work: Box<dyn FnOnce(Arc<Shared>) + Send>| {
            let shared = shared.clone();
            threads.push(std::thread::spawn(move || work(shared)));
        };
        for number in 0..PRODUCERS {
            spawn(Box::new(move |shared| produce(&shared, number, seed)));
        }
        for number in 0..TRANSACTIONAL {
            spawn(Box::new(move |shared| transact(&shared, number, seed)));
        }
        for _ in 0..MEMBERS {
            spawn(Box::new(|shared| share(&shared)));
        }
        spawn(Box::new(|shared| follow(&shared)));
        spawn(Box::new(|shared| watch_ends(&shared)));
        Load { shared: shared.clone(), threads }
    }

    /// Nothing more is sent; what is on its way is waited for by whoever sent it. Then everybody ends. Returns how many
    /// do not: librdkafka may stand still where a broker leaves the metadata while an answer of it is looked at
    /// (`rd_kafka_toppar_undelegate`). They are left behind, and what they were told counts.
    pub fn end(self) -> usize {
        self.shared.producing.store(false, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(2));
        self.shared.is_over.store(true, Ordering::Relaxed);
        let give_up = Instant::now() + END_PATIENCE;
        let hang = || self.threads.iter().filter(|thread| !thread.is_finished()).count();
        while hang() > 0 && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(20));
        }
        hang()
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        self.producing.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Hears what became of each record.
struct Deliveries {
    shared: Arc<Shared>,
    producer: u32,
}

impl ClientContext for Deliveries {
    fn log(&self, _: RDKafkaLogLevel, subject: &str, message: &str) {
        let at = self.shared.began.elapsed().as_secs_f64();
        let mut said = lock(&self.shared.said);
        let lines = said.entry(self.producer).or_default();
        if lines.len() == SAID_MAX {
            lines.pop_front();
        }
        lines.push_back(format!("{at:9.3} s  {subject}: {message}"));
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<(usize, Value, Instant)>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<(usize, Value, Instant)>) {
        let (partition, value, at) = *sent;
        match result {
            Ok(message) => {
                let mut history = lock(&self.shared.history);
                match message.offset() {
                    offset @ 0.. => history.acknowledged(partition, value, offset),
                    _ => history.acknowledged_somewhere(partition, value),
                }
                drop(history);
                let mut slowest = lock(&self.shared.slowest);
                let longest = slowest.entry(partition).or_default();
                *longest = at.elapsed().max(*longest);
                drop(slowest);
                let mut newest = lock(&self.shared.newest);
                let entry =
                    newest.entry((partition, value.producer % PRODUCERS)).or_insert((at, Instant::now()));
                if at > entry.0 {
                    *entry = (at, Instant::now());
                }
            }
            Err(_) => lock(&self.shared.history).failed(),
        }
    }
}

fn producer(shared: &Arc<Shared>, number: u32) -> Option<BaseProducer<Deliveries>> {
    let mut config = shared.config();
    config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "0");
    // Longer than any series of faults: when one message is given up librdkafka numbers all others anew that may be
    // there already, under another epoch, and no broker can know them again.
    config.set("message.timeout.ms", "600000").set("request.timeout.ms", "5000");
    // For the same reason: a batch that is refused as too few replicas are in sync, and the next one, which is then out
    // of order, make it do so ("skipped sequence numbers"), with what is on its way to other partitions and may be there.
    config.set("max.in.flight.requests.per.connection", "1");
    config.set("debug", "eos,broker").set_log_level(RDKafkaLogLevel::Debug);
    config.create_with_context(Deliveries { shared: shared.clone(), producer: number }).ok()
}

/// An idempotent producer; one that cannot go on is replaced.
fn produce(shared: &Arc<Shared>, number: u32, seed: u64) {
    let mut random = Random::of(seed, 1000 + u64::from(number));
    let (mut generation, mut next) = (0, 0u64);
    while shared.goes_on() {
        let Some(client) = producer(shared, number) else { return };
        while shared.goes_on() && client.client().fatal_error().is_none() {
            let partition = random.below(PARTITIONS as u64) as usize;
            // A new producer id begins its own order.
            let value = Value { producer: number + PRODUCERS * generation, number: next };
            next += 1;
            lock(&shared.history).sent(partition, value);
            let payload = value.to_string();
            let record =
                BaseRecord::<(), _, _>::with_opaque_to(TOPIC, Box::new((partition, value, Instant::now())));
            let sent = client.send(record.partition(partition as i32).payload(&payload));
            if sent.is_err() {
                lock(&shared.history).failed();
            }
            client.poll(PAUSE);
        }
        if client.client().fatal_error().is_some() {
            client.purge(PurgeConfig::default().queue().inflight());
        }
        let _ = client.flush(Duration::from_secs(70));
        generation += 1;
        if shared.goes_on() {
            shared.replaced.fetch_add(1, Ordering::Relaxed);
            eprintln!("producer {number} is replaced: {:?}", client.client().fatal_error());
        }
    }
}

/// Transactions over all partitions of the ledger; one in four is aborted.
fn transact(shared: &Arc<Shared>, number: u32, seed: u64) {
    let mut random = Random::of(seed, 2000 + u64::from(number));
    let mut next = 0u64;
    while shared.goes_on() {
        let mut config = shared.config();
        config.set("transactional.id", format!("chaos-{number}")).set("transaction.timeout.ms", "20000");
        config.set("message.timeout.ms", "15000").set("linger.ms", "0").set("request.timeout.ms", "5000");
        let Ok(client) = config.create::<ThreadedProducer<DefaultProducerContext>>() else { return };
        while shared.goes_on() && client.init_transactions(TIMEOUT).is_err() {
            if client.client().fatal_error().is_some() {
                break;
            }
        }
        while shared.goes_on() && client.client().fatal_error().is_none() {
            let value = Value { producer: number, number: next };
            next += 1;
            // Until it is heard how it ends.
            lock(&shared.ledger).outcomes.insert(value, Outcome::Unknown);
            let commits = !random.one_in(4);
            let Some(outcome) = one_transaction(&client, value, commits) else { break };
            lock(&shared.ledger).outcomes.insert(value, outcome);
        }
        if shared.goes_on() {
            shared.replaced.fetch_add(1, Ordering::Relaxed);
            eprintln!("transactional producer {number} is replaced: {:?}", client.client().fatal_error());
        }
    }
}

/// `None`: the producer cannot go on, and nobody knows how the transaction ends.
fn one_transaction(
    client: &ThreadedProducer<DefaultProducerContext>,
    value: Value,
    commits: bool,
) -> Option<Outcome> {
    client.begin_transaction().ok()?;
    let payload = value.to_string();
    let mut is_written = true;
    for partition in 0..LEDGER_PARTITIONS {
        let record = BaseRecord::<(), _>::to(LEDGER).partition(partition as i32).payload(&payload);
        is_written &= client.send(record).is_ok();
    }
    if commits && is_written {
        match again(|| client.commit_transaction(TIMEOUT)) {
            Ok(()) => return Some(Outcome::Committed),
            Err(error) if !must_abort(&error) => return None,
            // It has not been committed, and is to be aborted.
            Err(_) => {}
        }
    }
    again(|| client.abort_transaction(TIMEOUT)).ok()?;
    Some(Outcome::Aborted)
}

/// As long as librdkafka says that it may be tried again.
fn again(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    const TRIES: usize = 6;
    for _ in 1..TRIES {
        match call() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {}
            done => return done,
        }
    }
    call()
}

fn must_abort(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort())
}

/// A member of a group that commits what it has read.
fn share(shared: &Arc<Shared>) {
    let mut config = shared.config();
    config.set("group.id", GROUP).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    config.set("session.timeout.ms", "6000").set("fetch.wait.max.ms", "50");
    let Ok(consumer) = config.create::<BaseConsumer>() else { return };
    if consumer.subscribe(&[TOPIC]).is_err() {
        return;
    }
    let mut since = Instant::now();
    let mut positions: BTreeMap<i32, i64> = BTreeMap::new();
    while !shared.is_over() {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
            positions.insert(message.partition(), message.offset() + 1);
        }
        if since.elapsed() < Duration::from_millis(200) || positions.is_empty() {
            continue;
        }
        since = Instant::now();
        // What a rebalance took away is committed by somebody else.
        let assigned = consumer.assignment().unwrap_or_default();
        positions.retain(|partition, _| assigned.find_partition(TOPIC, *partition).is_some());
        let mut list = TopicPartitionList::new();
        for (partition, offset) in &positions {
            let _ = list.add_partition_offset(TOPIC, *partition, Offset::Offset(*offset));
        }
        if list.count() > 0 && consumer.commit(&list, CommitMode::Sync).is_ok() {
            shared.commits.fetch_add(1, Ordering::Relaxed);
            let mut committed = lock(&shared.committed);
            for (partition, offset) in &positions {
                let newest = committed.entry(*partition).or_insert(*offset);
                *newest = (*newest).max(*offset);
            }
        }
    }
}

/// Reads all partitions from their starts, at the tail.
fn follow(shared: &Arc<Shared>) {
    let Ok(consumer) = shared.consumer("read_uncommitted") else { return };
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS as i32 {
        let _ = list.add_partition_offset(TOPIC, partition, Offset::Offset(0));
    }
    if consumer.assign(&list).is_err() {
        return;
    }
    let mut newest = [-1; PARTITIONS];
    while !shared.is_over() {
        match consumer.poll(Duration::from_millis(20)) {
            Some(Ok(message)) => {
                let (partition, offset) = (message.partition() as usize, message.offset());
                let mut history = lock(&shared.history);
                history.read(partition, offset, message.payload().unwrap_or_default());
                if offset != newest[partition] + 1 {
                    let before = newest[partition];
                    history.violations.push(format!("a reader of {partition} got {offset} behind {before}"));
                }
                newest[partition] = offset;
            }
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                lock(&shared.history).violations.push(format!("a reader stood outside of a log: {error}"));
                return;
            }
            _ => {}
        }
    }
}

/// Ends of partitions never move back (SAFETY 6).
fn watch_ends(shared: &Arc<Shared>) {
    let Ok(consumer) = shared.consumer("read_uncommitted") else { return };
    while !shared.is_over() {
        for partition in 0..PARTITIONS as i32 {
            let before = lock(&shared.ends).get(&partition).copied().unwrap_or(0);
            let Ok((start, end)) = consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(2)) else {
                continue;
            };
            if start != 0 || end < before {
                let said = format!("{partition} is said to lie at {start}..{end}, and ended at {before}");
                lock(&shared.history).violations.push(said);
            }
            lock(&shared.ends).insert(partition, end.max(before));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
