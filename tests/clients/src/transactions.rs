//! What must hold for transactions, whichever client has them: readers of committed records get what was
//! committed, of all partitions or of none, and who reads, processes and writes counts every record once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use odradek_test_harness::{Batch, Broker, Client as PlainClient, Options, Routing};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Answer, Kind};
use crate::commands;
use crate::driver::{Driver, parse};
use crate::refusals::Refusal;

const PARTITIONS: i32 = 3;
const TOPIC: &str = "accounts";
const INPUT: &str = "orders";
const GROUP: &str = "processing";
const TIMEOUT_MS: u64 = 60_000;
/// Of a transaction that is to run out of time.
const SHORT_MS: u64 = 4000;
/// How long workers work before it is looked at what they have done.
const ROUND: Duration = Duration::from_millis(1500);
/// For one step of a pipeline: a session that ends takes six seconds, and a client that starts a few.
const STEP_TIME_MAX: Duration = Duration::from_secs(120);

fn start(routing: Routing) -> Broker {
    let options = Options::new(routing)
        .set("transaction.state.log.num.partitions", "4")
        .set("offsets.topic.num.partitions", "4")
        .set("transaction.abort.timed.out.transaction.cleanup.interval.ms", "200");
    let broker = Broker::start_with(options);
    let mut client = PlainClient::connect(&broker);
    client.create_topic(TOPIC, PARTITIONS, &[]);
    client.create_topic(INPUT, PARTITIONS, &[]);
    broker
}

/// A client process with a producer.
struct Producer(Driver);

impl Producer {
    fn new(kind: Kind, broker: &Broker, id: &str, timeout_ms: u64) -> Answer<Producer> {
        Producer::at(kind, &broker.bootstrap(), id, timeout_ms)
    }

    fn at(kind: Kind, bootstrap: &str, id: &str, timeout_ms: u64) -> Answer<Producer> {
        let mut producer = Producer(kind.member(bootstrap));
        producer.ask(&json!({ "op": "init", "id": id, "timeout": timeout_ms }))?;
        Ok(producer)
    }

    fn ask(&mut self, request: &Value) -> Answer<Value> {
        self.0.send(request)?;
        self.0.receive()
    }

    /// A transaction with one record in every partition.
    fn write(&mut self, text: &str) -> Answer<()> {
        self.ask(&json!({ "op": "begin" }))?;
        let records: Vec<_> = (0..PARTITIONS).map(|partition| json!([partition, text])).collect();
        self.ask(&json!({ "op": "write", "topic": TOPIC, "records": records })).map(drop)
    }

    fn end(&mut self, commit: bool) -> Answer<()> {
        self.ask(&json!({ "op": "end", "commit": commit })).map(drop)
    }

    fn expect_no_commit(&mut self, name: &str) -> Answer<()> {
        self.0.expect_refused(&json!({ "op": "end", "commit": true }), name)
    }

    /// What a partition has for readers of committed records, once nothing in it is open.
    fn committed(&mut self, broker: &Broker, topic: &str, partition: i32) -> Answer<Vec<String>> {
        #[derive(Deserialize)]
        struct Committed {
            values: Vec<String>,
        }
        let until = PlainClient::connect(broker).list_offset(topic, partition, -1);
        let request = json!({ "op": "committed", "topic": topic, "partition": partition, "until": until });
        let committed: Committed = parse(self.ask(&request)?)?;
        Ok(committed.values)
    }
}

impl Kind {
    /// Of version 2 (KIP-890) each has an epoch of its own, so that nothing late is taken for the next one's.
    fn epochs_a_transaction(self) -> i64 {
        match self {
            Kind::Java4 => 1,
            Kind::Kcat
            | Kind::KafkaPython2
            | Kind::KafkaPython3
            | Kind::Confluent
            | Kind::Aiokafka
            | Kind::Kafkajs
            | Kind::ConfluentJs
            | Kind::Java3
            | Kind::Rdkafka => 0,
        }
    }
}

/// The producer's epoch once its last transaction has its markers.
fn ended(broker: &Broker, id: &str) -> Answer<i64> {
    let begun = Instant::now();
    loop {
        let found = &commands::ask(broker, &["txn", "describe", id])?[0];
        if found["state"].as_str().is_some_and(|state| state.starts_with("Complete")) {
            return found["producer_epoch"].as_i64().ok_or_else(|| format!("no epoch in {found}"));
        }
        if begun.elapsed() > STEP_TIME_MAX {
            return Err(format!("it stays {found}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Committed, aborted, out of time, fenced, and over a restart of the broker.
pub fn transactions_end(kind: Kind, routing: Routing) {
    let mut broker = start(routing);
    if let Err(error) = end(&mut broker, kind) {
        panic!("{}: {error}", kind.name());
    }
    broker.stop();
}

fn end(broker: &mut Broker, kind: Kind) -> Answer<()> {
    let step = |what: &'static str| move |error: String| format!("{what}: {error}");
    let mut producer = Producer::new(kind, broker, "teller", TIMEOUT_MS).map_err(step("init"))?;
    producer.write("first").map_err(step("the first"))?;
    producer.end(true).map_err(step("commit"))?;
    let mut epoch = ended(broker, "teller").map_err(step("the first has ended"))?;
    producer.write("second").map_err(step("the second"))?;
    producer.end(false).map_err(step("abort"))?;
    for number in 0..5 {
        let next = ended(broker, "teller").map_err(step("one has ended"))?;
        if next != epoch + kind.epochs_a_transaction() {
            return Err(format!("epoch {epoch} became {next} with a transaction"));
        }
        epoch = next;
        producer.write(&format!("many {number}")).map_err(step("many"))?;
        producer.end(number % 2 == 0).map_err(step("ends"))?;
    }
    let mut expected: Vec<String> = ["first", "many 0", "many 2", "many 4"].map(str::to_owned).to_vec();
    let check = |producer: &mut Producer, broker: &Broker, expected: &[String]| -> Answer<()> {
        for partition in 0..PARTITIONS {
            let committed = producer.committed(broker, TOPIC, partition)?;
            if committed != expected {
                return Err(format!("partition {partition} has {committed:?}, not {expected:?}"));
            }
        }
        Ok(())
    };
    check(&mut producer, broker, &expected).map_err(step("committed and aborted"))?;

    // The producer of kafka-python 2 waits for ever when its coordinator is gone for a moment.
    if kind != Kind::KafkaPython2 {
        producer.write("interrupted").map_err(step("before the kill"))?;
        broker.kill();
        broker.start_again();
        producer.end(true).map_err(step("commit after the kill"))?;
        expected.push("interrupted".to_owned());
        check(&mut producer, broker, &expected).map_err(step("after the kill"))?;
    }

    producer.write("fenced").map_err(step("before another comes"))?;
    let mut other = Producer::new(kind, broker, "teller", TIMEOUT_MS).map_err(step("another"))?;
    producer.expect_no_commit(kind.says(Refusal::Fenced)).map_err(step("one that was fenced"))?;
    other.write("of the other").map_err(step("the other"))?;
    other.end(true).map_err(step("the other's commit"))?;
    expected.push("of the other".to_owned());
    check(&mut other, broker, &expected).map_err(step("fenced"))?;

    let mut slow = Producer::new(kind, broker, "slow", SHORT_MS).map_err(step("a slow one"))?;
    slow.write("too slow").map_err(step("slowly"))?;
    ended(broker, "slow").map_err(step("its time is over"))?;
    slow.expect_no_commit(kind.says(Refusal::OutOfTime)).map_err(step("one whose time was over"))?;
    check(&mut other, broker, &expected).map_err(step("out of time"))
}

/// Members of a group, each with a producer: they read orders, write what they have read, and commit how far
/// they are in the same transaction, while members come, crash, and some transactions are aborted.
pub fn pipelines_count_once(kind: Kind, routing: Routing) {
    let mut broker = start(routing);
    if let Err(error) = pipeline(&mut broker, kind) {
        panic!("{}: {error}", kind.name());
    }
    broker.stop();
}

/// One that reads and writes.
struct Worker {
    kind: Kind,
    bootstrap: String,
    name: String,
    producer: Producer,
}

#[derive(Deserialize)]
struct Polled {
    assigned: Vec<i32>,
    records: Vec<(i32, i64)>,
}

impl Worker {
    fn new(kind: Kind, broker: &Broker, name: &str) -> Answer<Worker> {
        let (bootstrap, name) = (broker.bootstrap(), name.to_owned());
        let producer = Producer::at(kind, &bootstrap, &name, TIMEOUT_MS)?;
        let mut worker = Worker { kind, bootstrap, name, producer };
        worker.join()?;
        Ok(worker)
    }

    fn join(&mut self) -> Answer<()> {
        let join =
            json!({ "op": "join", "group": GROUP, "topic": INPUT, "assignor": "range", "instance": null });
        self.producer.ask(&join).map(drop)
    }

    /// Works for so long; with the errors it met.
    fn work_for(&mut self, time: Duration) -> Vec<String> {
        let begun = Instant::now();
        let mut errors = Vec::new();
        while begun.elapsed() < time {
            errors.extend(self.work().err());
        }
        errors
    }

    /// Reads for a while, and writes what it has read. An error of the client, as in a rebalance, is followed by
    /// an abort, after which the member begins anew; a client that cannot abort either (kafkajs, while markers of
    /// its last transaction are written) is replaced by another one, which aborts what is open.
    fn work(&mut self) -> Answer<()> {
        let polled: Polled = parse(self.producer.ask(&json!({ "op": "poll", "ms": 500 }))?)?;
        if polled.records.is_empty() {
            return Ok(());
        }
        let Err(error) = self.copy(&polled.records) else { return Ok(()) };
        let aborted = self.producer.end(false);
        // It has read on; another member reads from what is committed.
        self.producer.ask(&json!({ "op": "leave" }))?;
        let Err(second) = aborted else {
            self.join()?;
            return Err(error);
        };
        self.producer = Producer::at(self.kind, &self.bootstrap, &self.name, TIMEOUT_MS)?;
        self.join()?;
        Err(format!("{error}, and then {second}"))
    }

    /// In one transaction, with how far that is.
    fn copy(&mut self, records: &[(i32, i64)]) -> Answer<()> {
        self.producer.ask(&json!({ "op": "begin" }))?;
        let copies: Vec<_> = records
            .iter()
            .map(|(partition, offset)| json!([partition, format!("{partition} {offset}")]))
            .collect();
        self.producer.ask(&json!({ "op": "write", "topic": TOPIC, "records": copies }))?;
        let mut positions: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, offset) in records {
            positions.insert(*partition, offset + 1);
        }
        let positions: Vec<_> = positions.into_iter().collect();
        self.producer.ask(&json!({
            "op": "offsets", "group": GROUP, "topic": INPUT, "positions": positions,
        }))?;
        self.producer.end(true)
    }
}

fn write_orders(broker: &Broker, count: i64) {
    let mut client = PlainClient::connect(broker);
    for partition in 0..PARTITIONS {
        for number in 0..count {
            client.produce(INPUT, partition, &Batch::of(&[format!("order {number}")], 1_700_000_000_000));
        }
    }
}

/// The same with one member: for clients whose producers cannot say which generation their offsets are of
/// (KIP-447), or whose members are reassigned behind the back of who processes.
pub fn one_pipeline_counts_once(kind: Kind, routing: Routing) {
    let mut broker = start(routing);
    if let Err(error) = one_member(&mut broker, kind) {
        panic!("{}: {error}", kind.name());
    }
    broker.stop();
}

fn one_member(broker: &mut Broker, kind: Kind) -> Answer<()> {
    const COUNT: i64 = 20;
    write_orders(broker, COUNT);
    let mut workers = vec![Worker::new(kind, broker, "worker")?];
    work_until(broker, &mut workers, COUNT).map_err(|error| format!("at first: {error}"))?;
    drop(workers);
    // Another one goes on where it was; its producer has the same id.
    write_orders(broker, COUNT);
    let mut workers = vec![Worker::new(kind, broker, "worker")?];
    work_until(broker, &mut workers, 2 * COUNT).map_err(|error| format!("its successor: {error}"))
}

/// Who has read something, and commits that in a transaction after the group has rebalanced, is refused (KIP-447):
/// the member that has its partitions now may have done the same.
pub fn offsets_of_an_old_generation_are_refused(kind: Kind, routing: Routing) {
    let mut broker = start(routing);
    if let Err(error) = late(&mut broker, kind) {
        panic!("{}: {error}", kind.name());
    }
    broker.stop();
}

fn late(broker: &mut Broker, kind: Kind) -> Answer<()> {
    const COUNT: i64 = 20;
    write_orders(broker, COUNT);
    let mut late = Worker::new(kind, broker, "late")?;
    poll_until(&mut [&mut late], |polled| !polled[0].records.is_empty())
        .map_err(|error| format!("one: {error}"))?;
    late.producer.ask(&json!({ "op": "begin" }))?;
    let copy = json!([[0, "of one that is late"]]);
    late.producer.ask(&json!({ "op": "write", "topic": TOPIC, "records": copy }))?;

    let mut other = Worker::new(kind, broker, "other")?;
    poll_until(&mut [&mut late, &mut other], |polled| {
        polled.iter().all(|polled| !polled.assigned.is_empty())
            && polled.iter().map(|polled| polled.assigned.len()).sum::<usize>() == PARTITIONS as usize
    })
    .map_err(|error| format!("two: {error}"))?;
    let positions: Vec<(i32, i64)> = (0..PARTITIONS).map(|partition| (partition, COUNT)).collect();
    let offsets = json!({ "op": "offsets", "group": GROUP, "topic": INPUT, "positions": positions });
    late.producer.0.expect_refused(&offsets, kind.says(Refusal::OldGeneration))?;
    late.producer.end(false)?;

    // Whatever it read is read again.
    late.producer.ask(&json!({ "op": "leave" }))?;
    late.join()?;
    other.producer.ask(&json!({ "op": "leave" }))?;
    other.join()?;
    work_until(broker, &mut [late, other], COUNT).map_err(|error| format!("then: {error}"))
}

/// All poll side by side until that holds.
fn poll_until(workers: &mut [&mut Worker], holds: impl Fn(&[Polled]) -> bool) -> Answer<()> {
    let begun = Instant::now();
    while begun.elapsed() < STEP_TIME_MAX {
        for worker in workers.iter_mut() {
            worker.producer.0.send(&json!({ "op": "poll", "ms": 500 }))?;
        }
        let polled = workers.iter_mut().map(|worker| parse(worker.producer.0.receive()?));
        let polled: Vec<Polled> = polled.collect::<Answer<_>>()?;
        if holds(&polled) {
            return Ok(());
        }
    }
    Err("that did not come to pass".to_owned())
}

fn pipeline(broker: &mut Broker, kind: Kind) -> Answer<()> {
    const COUNT: i64 = 20;
    let mut names = (0..).map(|number| format!("worker-{number}"));
    let mut new = |broker: &Broker| Worker::new(kind, broker, &names.next().expect("there are more"));
    write_orders(broker, COUNT);
    let mut workers = vec![new(broker)?];
    work_until(broker, &mut workers, COUNT).map_err(|error| format!("one worker: {error}"))?;

    workers.push(new(broker)?);
    write_orders(broker, COUNT);
    work_until(broker, &mut workers, 2 * COUNT).map_err(|error| format!("two workers: {error}"))?;

    // One is killed in the middle of a transaction, which the other one must not wait for too long.
    write_orders(broker, COUNT);
    let mut last = workers.pop().expect("there are two");
    last.producer.ask(&json!({ "op": "begin" }))?;
    let copy = json!([[0, "of one that was killed"]]);
    last.producer.ask(&json!({ "op": "write", "topic": TOPIC, "records": copy }))?;
    drop(last);
    // Whoever comes in its place aborts what it has begun.
    let _successor = Producer::new(kind, broker, "worker-1", TIMEOUT_MS)?;
    work_until(broker, &mut workers, 3 * COUNT).map_err(|error| format!("after a crash: {error}"))?;

    // The broker is killed, and so are they: librdkafka does not come back to a group's coordinator with offsets.
    drop(workers);
    broker.kill();
    broker.start_again();
    write_orders(broker, COUNT);
    let mut workers = vec![new(broker)?, new(broker)?];
    work_until(broker, &mut workers, 4 * COUNT).map_err(|error| format!("after a kill: {error}"))
}

/// Until every order was copied; each once.
fn work_until(broker: &Broker, workers: &mut [Worker], count: i64) -> Answer<()> {
    let begun = Instant::now();
    let mut errors = Vec::new();
    loop {
        // Side by side, as in an application: a rebalance needs each of them.
        std::thread::scope(|scope| {
            let working = workers.iter_mut().map(|worker| scope.spawn(|| worker.work_for(ROUND)));
            let working: Vec<_> = working.collect();
            errors.extend(working.into_iter().flat_map(|worker| worker.join().expect("it does not panic")));
        });
        let mut copies: BTreeMap<String, usize> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            for copy in workers[0].producer.committed(broker, TOPIC, partition)? {
                *copies.entry(copy).or_default() += 1;
            }
        }
        let again: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
        if !again.is_empty() {
            return Err(format!("counted again: {again:?}; {errors:?}"));
        }
        if copies.len() as i64 == count * i64::from(PARTITIONS) {
            return Ok(());
        }
        if begun.elapsed() > STEP_TIME_MAX {
            return Err(format!("{} of {} were copied; {errors:?}", copies.len(), count * 3));
        }
    }
}
