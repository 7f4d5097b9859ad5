//! The workload of exactly-once (SAFETY 8) while the broker and its clients are killed: transfers between
//! accounts, whose sum is constant, and a pipeline from one topic to another, which counts each record once.
//!
//! Workers are processes of a real client (`python/exactly_once.py`, `java/ExactlyOnce.java`). A round has all of
//! them at work, kills the broker in the middle of it, now and then a worker too, and starts both again. All the
//! time somebody reads what is committed (`reader.rs`), and in the end it is read anew: both have to be the same,
//! and that is held against what the workers were told:
//!
//! | a transaction that | is |
//! |---|---|
//! | was committed | there, whole and once |
//! | was aborted | not there |
//! | ended in an error, or whose worker was killed | there whole and once, or not at all |

mod reader;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use odradek_test_harness::{Broker, Client as PlainClient, Options, Routing};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::Deserialize;
use serde_json::json;

use self::reader::{Broken, Reader, Watch};
use crate::client::Answer;
use crate::driver::{Driver, parse};

/// As the workers have it.
const PARTITIONS: i32 = 4;
const ACCOUNTS: &str = "accounts";
const OUTPUTS: &str = "outputs";
const INPUTS_A_ROUND: u64 = 60;
const WORK_MS: u64 = 2500;
/// Of everything that is still open at the end: a transaction that nobody ends is aborted after ten seconds, a
/// session after six.
const END_TIME_MAX: Duration = Duration::from_secs(90);
const CALL_TIME_MAX: Duration = Duration::from_secs(60);
/// A worker that works for longer hangs: more than what its calls may take over a broker that is killed.
const WORK_TIME_MAX: Duration = Duration::from_secs(60);

/// Clients that have transactions.
///
/// librdkafka's `send_offsets_to_transaction` may go on for ever, whatever its time-out, once the group's
/// coordinator was away (confluentinc/librdkafka issues 5456 and 5511): a worker of it that hangs is killed, as
/// others are, and what it has left open is for its successor to fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transactor {
    Confluent,
    KafkaPython,
    /// Its transactions are of version 2 (KIP-890), its groups of the newer protocol.
    Java,
}

impl Transactor {
    fn name(self) -> &'static str {
        match self {
            Transactor::Confluent => "confluent",
            Transactor::KafkaPython => "kafka-python",
            Transactor::Java => "java",
        }
    }
}

/// How long it goes on, and what happens when.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    pub transactor: Transactor,
    pub routing: Routing,
    /// In each the broker is killed once.
    pub rounds: u32,
    /// Of the dice.
    pub seed: u64,
}

/// What a run has met, so that a reader can tell that it was about something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    pub committed: usize,
    pub aborted: usize,
    pub unknown: usize,
    pub workers_killed: u32,
    /// Killed because their client did not come back.
    pub workers_hung: u32,
    pub inputs: u64,
    /// How often somebody has read what was committed until then, and transactions that were half there.
    pub looks: usize,
    pub halves: usize,
}

/// Which transactions a worker knows what of.
#[derive(Debug, Default, Deserialize)]
struct Outcomes {
    committed: Vec<String>,
    aborted: Vec<String>,
    unknown: Vec<String>,
}

struct Worker {
    role: &'static str,
    name: String,
    driver: Driver,
}

impl Worker {
    fn start(play: &Play, broker: &Broker, role: &'static str, number: u32) -> Worker {
        let name = format!("{role}-{number}");
        let (client, bootstrap) = (play.transactor.name(), &broker.bootstrap());
        let driver = match play.transactor {
            Transactor::Confluent | Transactor::KafkaPython => {
                Driver::python_with("python", "exactly_once.py", &[client, bootstrap, role, &name])
            }
            Transactor::Java => Driver::java_with("4.3.0", "ExactlyOnce", &[bootstrap, role, &name]),
        };
        Worker { role, driver, name }
    }
}

/// Everything that the workers of one role were told.
#[derive(Debug, Default)]
struct Told {
    committed: BTreeSet<String>,
    aborted: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

impl Told {
    fn add(&mut self, outcomes: Outcomes) {
        self.committed.extend(outcomes.committed);
        self.aborted.extend(outcomes.aborted);
        self.unknown.extend(outcomes.unknown);
    }
}

/// Dice that fall alike for one seed.
struct Dice(u64);

impl Dice {
    /// Below `sides`.
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Plays to the end: what was met, or what was violated.
pub fn exactly_once(play: Play) -> Answer<Met> {
    let options = Options::new(play.routing)
        .set("offsets.topic.num.partitions", "4")
        .set("group.consumer.min.session.timeout.ms", "6000")
        .set("group.consumer.session.timeout.ms", "6000")
        .set("group.consumer.min.heartbeat.interval.ms", "500")
        .set("group.consumer.heartbeat.interval.ms", "500")
        .set("transaction.state.log.num.partitions", "4")
        .small_journal();
    let mut broker = Broker::start_with(options);
    let mut plain = PlainClient::connect(&broker);
    for topic in [ACCOUNTS, "inputs", OUTPUTS] {
        plain.create_topic(topic, PARTITIONS, &[]);
    }
    drop(plain);
    let result = Run::new(play, &broker).and_then(|run| run.play(&mut broker));
    if result.is_ok() {
        broker.stop();
    }
    result
}

struct Run {
    play: Play,
    dice: Dice,
    workers: Vec<Worker>,
    transfers: Told,
    pipeline: Told,
    /// Lives of workers that were killed: of their last transactions nobody was told.
    killed_names: BTreeSet<String>,
    source: BaseProducer,
    met: Met,
}

impl Run {
    fn new(play: Play, broker: &Broker) -> Answer<Run> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.bootstrap()).set("enable.idempotence", "true");
        let source: BaseProducer = config.create().map_err(text)?;
        let workers = ["transfer", "pipeline"]
            .into_iter()
            .flat_map(|role| (0..2).map(move |number| (role, number)))
            .map(|(role, number)| Worker::start(&play, broker, role, number))
            .collect();
        Ok(Run {
            dice: Dice(play.seed),
            play,
            workers,
            transfers: Told::default(),
            pipeline: Told::default(),
            killed_names: BTreeSet::new(),
            source,
            met: Met::default(),
        })
    }

    fn play(mut self, broker: &mut Broker) -> Answer<Met> {
        let watch = Watch::start(&broker.bootstrap(), &[ACCOUNTS, OUTPUTS]);
        for round in 0..self.play.rounds {
            self.round(broker, round).map_err(|error| format!("round {round}: {error}"))?;
            if watch.has_ended() {
                break; // It has met something.
            }
        }
        let mut readers = watch.end()?;
        self.finish(broker)?;
        for (reader, told) in readers.iter_mut().zip([&self.transfers, &self.pipeline]) {
            at_rest(reader)?;
            self.judge(broker, reader, told)?;
            self.met.looks += reader.looks;
            self.met.halves += reader.halves_met;
        }
        Ok(self.met)
    }

    fn round(&mut self, broker: &mut Broker, round: u32) -> Answer<()> {
        for worker in &mut self.workers {
            worker.driver.send(&json!({ "op": "work", "ms": WORK_MS }))?;
        }
        for _ in 0..INPUTS_A_ROUND {
            let number = self.met.inputs;
            let value = number.to_string();
            let partition = self.dice.throw(PARTITIONS as u64) as i32;
            let record = BaseRecord::<(), str>::to("inputs").payload(&value).partition(partition);
            self.source.send(record).map_err(|(error, _)| text(error))?;
            self.met.inputs += 1;
        }
        self.source.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(200 + self.dice.throw(1800)));
        broker.kill();
        if round % 5 == 4 {
            let worker = self.dice.throw(self.workers.len() as u64) as usize;
            self.kill_worker(broker, worker)?;
        }
        broker.start_again();
        self.source.flush(CALL_TIME_MAX).map_err(text)?;
        self.hear(broker)
    }

    /// Another one of its name is at work at once, and has to fence it.
    fn kill_worker(&mut self, broker: &Broker, index: usize) -> Answer<()> {
        self.replace_worker(broker, index);
        self.workers[index].driver.send(&json!({ "op": "work", "ms": WORK_MS }))?;
        self.met.workers_killed += 1;
        Ok(())
    }

    fn replace_worker(&mut self, broker: &Broker, index: usize) {
        let Worker { role, name, .. } = &self.workers[index];
        let (role, name) = (*role, name.clone());
        let number = name.rsplit('-').next().and_then(|number| number.parse().ok()).expect("it ends in one");
        self.killed_names.insert(name);
        self.workers[index] = Worker::start(&self.play, broker, role, number);
    }

    fn hear(&mut self, broker: &Broker) -> Answer<()> {
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            let answer = worker.driver.receive_within(WORK_TIME_MAX);
            let Some(answer) = answer.map_err(|error| format!("{}: {error}", worker.name))? else {
                if self.play.transactor != Transactor::Confluent || worker.role != "pipeline" {
                    return Err(format!("{}: no answer from the client", worker.name));
                }
                self.replace_worker(broker, index);
                self.met.workers_hung += 1;
                continue;
            };
            let worker = &self.workers[index];
            let outcomes: Outcomes = parse(answer)?;
            self.met.committed += outcomes.committed.len();
            self.met.aborted += outcomes.aborted.len();
            self.met.unknown += outcomes.unknown.len();
            match worker.role {
                "transfer" => self.transfers.add(outcomes),
                _ => self.pipeline.add(outcomes),
            }
        }
        Ok(())
    }

    /// Until everything is through the pipeline and no transaction is open.
    fn finish(&mut self, broker: &Broker) -> Answer<()> {
        let begun = Instant::now();
        loop {
            for worker in self.workers.iter_mut().filter(|worker| worker.role == "pipeline") {
                worker.driver.send(&json!({ "op": "work", "ms": 1000 }))?;
            }
            for worker in self.workers.iter_mut().filter(|worker| worker.role == "pipeline") {
                let outcomes: Outcomes = parse(worker.driver.receive()?)?;
                self.met.committed += outcomes.committed.len();
                self.pipeline.add(outcomes);
            }
            let mut outputs = Reader::new(broker.bootstrap(), OUTPUTS);
            at_rest(&mut outputs)?;
            let counted = outputs.inputs();
            if let Some(number) = counted.iter().find(|number| **number >= self.met.inputs) {
                return Err(format!("{number} was read, and never written"));
            }
            if counted.len() as u64 == self.met.inputs {
                break;
            }
            if begun.elapsed() > END_TIME_MAX {
                let missing: Vec<u64> =
                    (0..self.met.inputs).filter(|number| !counted.contains(number)).take(20).collect();
                return Err(format!("inputs {missing:?} and others were not counted"));
            }
        }
        for worker in &mut self.workers {
            worker.driver.send(&json!({ "op": "finish" }))?;
        }
        for worker in &mut self.workers {
            worker.driver.receive().map_err(|error| format!("{}: {error}", worker.name))?;
        }
        Ok(())
    }

    /// `reader`: of somebody who has watched all the time; `told`: of the workers that have written that topic.
    fn judge(&self, broker: &Broker, reader: &Reader, told: &Told) -> Answer<()> {
        let mut anew = Reader::new(broker.bootstrap(), reader.topic());
        at_rest(&mut anew)?;
        let transactions = anew.transactions();
        for (transaction, parts) in transactions {
            if !parts.is_whole() {
                return Err(format!("{transaction} is not there whole: {parts:?}"));
            }
            if told.aborted.contains(transaction) {
                return Err(format!("{transaction} was aborted, and is there"));
            }
            let is_told = told.committed.contains(transaction) || told.unknown.contains(transaction);
            let of_killed = self.killed_names.iter().any(|name| transaction.starts_with(&format!("{name}.")));
            if !is_told && !of_killed {
                return Err(format!("{transaction} is there, and nobody has made it"));
            }
        }
        if let Some(lost) = told.committed.iter().find(|transaction| !transactions.contains_key(*transaction))
        {
            return Err(format!("{lost} was committed, and is not there"));
        }
        let watched = reader.transactions();
        let differs = |transaction: &&String| watched.get(*transaction) != transactions.get(*transaction);
        match watched.keys().chain(transactions.keys()).find(differs) {
            Some(other) => Err(format!(
                "{other} was read as {:?} meanwhile, and is {:?} in the end",
                watched.get(other),
                transactions.get(other)
            )),
            None => Ok(()),
        }
    }
}

/// Reads on until no transaction is open.
fn at_rest(reader: &mut Reader) -> Answer<()> {
    let begun = Instant::now();
    loop {
        let is_over = match reader.look().and_then(|()| reader.is_at_rest()) {
            Ok(true) => return Ok(()),
            Ok(false) => "a transaction stays open".to_owned(),
            Err(Broken::Away(error)) => error,
            Err(Broken::Violated(what)) => return Err(what),
        };
        if begun.elapsed() > END_TIME_MAX {
            return Err(format!("{}: {is_over}", reader.topic()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
