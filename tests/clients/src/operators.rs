//! What must hold for operators of transactions (KIP-664): they are listed and described as they are, those that
//! hang are found and aborted, and a producer is fenced.
//!
//! | call | answer |
//! |---|---|
//! | `transactions`: of a `state`, of a `producer`, `open_for` more than so many milliseconds, whose ids have a `pattern` | `{"ids":[I..]}` |
//! | `transaction`, of an `id` | `{"state":S,"producer":N,"epoch":E,"timeout":MS,"has_start":B,"partitions":[TEXT..]}` |
//! | `producers` of a `topic` and `partition` | `{"producers":[[id,epoch,sequence,where its transaction begins or null]..]}` |
//! | `abort` in these what a `producer` of this `epoch` has open | `{}` |
//! | `fence` an `id` | `{"producer":N,"epoch":E}`: whose it is then |

use odradek_test_harness::kafka_protocol::messages::TransactionalId;
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Batch, Broker, Client as PlainClient, Options, Routing, wait_for};
use serde_json::{Value, json};

use crate::client::{Answer, Kind};
use crate::driver::Driver;
use crate::refusals::Refusal;

const TOPIC: &str = "accounts";
const TIMEOUT_MS: i64 = 60_000;
/// Longer than any transaction here is open.
const LONG_MS: i64 = 600_000;

/// What only some clients have.
struct Abilities {
    /// Lists transactions by a pattern of their ids.
    patterns: bool,
    fences: bool,
}

impl Kind {
    fn operates(self) -> Abilities {
        match self {
            Kind::Java3 => Abilities { patterns: false, fences: true },
            Kind::Java4 => Abilities { patterns: true, fences: true },
            Kind::KafkaPython3 => Abilities { patterns: true, fences: false },
            Kind::Kcat
            | Kind::KafkaPython2
            | Kind::Confluent
            | Kind::Aiokafka
            | Kind::Kafkajs
            | Kind::ConfluentJs
            | Kind::Rdkafka => unreachable!("it has no calls for transactions"),
        }
    }
}

struct Operator {
    kind: Kind,
    driver: Driver,
}

impl Operator {
    fn ask(&mut self, call: &str, arguments: Value) -> Answer<Value> {
        let mut request = json!({ "op": "admin", "call": call });
        let fields = request.as_object_mut().expect("it is an object");
        fields.extend(arguments.as_object().cloned().unwrap_or_default());
        self.driver.ask(&request)
    }

    fn expect_listed(&mut self, filter: Value, expected: &[&str]) -> Answer<()> {
        let shown = filter.to_string();
        let found = self.ask("transactions", filter)?;
        equal(&format!("transactions of {shown}"), &found["ids"], &json!(expected))
    }

    fn transaction(&mut self, id: &str) -> Answer<Value> {
        self.ask("transaction", json!({ "id": id }))
    }

    /// Epoch and first offset of what a producer has open.
    fn producer(&mut self, partition: i32, id: i64) -> Answer<(i64, Value)> {
        let answer = self.ask("producers", json!({ "topic": TOPIC, "partition": partition }))?;
        let mut found = answer["producers"].as_array().into_iter().flatten();
        let state = found.find(|state| state[0] == id).ok_or_else(|| format!("no {id} in {answer}"))?;
        Ok((state[1].as_i64().ok_or("an epoch is a number")?, state[3].clone()))
    }

    /// One with a record in each of these partitions.
    fn write(&mut self, partitions: &[i32]) -> Answer<()> {
        self.driver.ask(&json!({ "op": "begin" }))?;
        let records: Vec<_> = partitions.iter().map(|partition| json!([partition, "a record"])).collect();
        self.driver.ask(&json!({ "op": "write", "topic": TOPIC, "records": records })).map(drop)
    }
}

fn equal(what: &str, found: &Value, expected: &Value) -> Answer<()> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found}, and not {expected}")) }
}

/// One client's producer, and the same client's operator.
pub fn transactions_are_operated(kind: Kind) {
    let options = Options::new(Routing::Node)
        .set("transaction.state.log.num.partitions", "4")
        // Otherwise nothing can hang.
        .set("transaction.partition.verification.enable", "false");
    let mut broker = Broker::start_with(options);
    PlainClient::connect(&broker).create_topic(TOPIC, 3, &[]);
    let mut operator = Operator { kind, driver: kind.member(&broker.bootstrap()) };
    let abilities = kind.operates();
    let result = listed_and_described(&mut operator, &broker, &abilities)
        .and_then(|()| aborted(&mut operator, &broker).map_err(|error| format!("one that hangs: {error}")))
        .and_then(|()| match abilities.fences {
            true => fenced(&mut operator).map_err(|error| format!("one that is fenced: {error}")),
            false => Ok(()),
        });
    if let Err(error) = result {
        panic!("{}: {error}", kind.name());
    }
    drop(operator);
    broker.stop();
}

fn listed_and_described(operator: &mut Operator, broker: &Broker, abilities: &Abilities) -> Answer<()> {
    operator.driver.ask(&json!({ "op": "init", "id": "done", "timeout": TIMEOUT_MS }))?;
    operator.write(&[0])?;
    operator.driver.ask(&json!({ "op": "end", "commit": true }))?;
    operator.driver.ask(&json!({ "op": "init", "id": "open", "timeout": TIMEOUT_MS }))?;
    operator.write(&[1, 2])?;
    // It has ended once its markers are written, which is behind its producer's back.
    wait_for("the end of a transaction", || {
        let found = crate::commands::ask(broker, &["txn", "describe", "done"]).ok()?;
        (found[0]["state"] == "CompleteCommit").then_some(())
    });

    operator.expect_listed(json!({}), &["done", "open"])?;
    operator.expect_listed(json!({ "state": "Ongoing" }), &["open"])?;
    operator.expect_listed(json!({ "state": "CompleteCommit" }), &["done"])?;
    operator.expect_listed(json!({ "state": "PrepareAbort" }), &[])?;
    operator.expect_listed(json!({ "open_for": LONG_MS }), &[])?;
    wait_for("some milliseconds to pass", || {
        operator.expect_listed(json!({ "open_for": 1, "state": "Ongoing" }), &["open"]).ok()
    });
    if abilities.patterns {
        operator.expect_listed(json!({ "pattern": "o.*n" }), &["open"])?;
        operator.expect_listed(json!({ "pattern": "o" }), &[])?;
    }

    let open = operator.transaction("open")?;
    equal("the state", &open["state"], &json!("Ongoing"))?;
    equal("the time-out", &open["timeout"], &json!(TIMEOUT_MS))?;
    equal("that its beginning is known", &open["has_start"], &json!(true))?;
    equal("the partitions", &open["partitions"], &json!([format!("{TOPIC}-1"), format!("{TOPIC}-2")]))?;
    let done = operator.transaction("done")?;
    equal("the state", &done["state"], &json!("CompleteCommit"))?;
    equal("the partitions", &done["partitions"], &json!([]))?;
    let id = |of: &Value| of["producer"].as_i64().ok_or_else(|| format!("no producer in {of}"));
    operator.expect_listed(json!({ "producer": id(&open)? }), &["open"])?;

    let (epoch, begins) = operator.producer(1, id(&open)?)?;
    equal("the epoch", &json!(epoch), &open["epoch"])?;
    equal("where it begins", &begins, &json!(0))?;
    let (_, begins) = operator.producer(0, id(&done)?)?;
    equal("where what has ended begins", &begins, &Value::Null)
}

/// A transaction that no coordinator knows: of a producer that has none of its own for it.
fn aborted(operator: &mut Operator, broker: &Broker) -> Answer<()> {
    let mut client = PlainClient::connect(broker);
    let producer = client.init_producer();
    let batch = Batch::of(&["a record that hangs"], 1_700_000_000_000).by(producer).in_transaction();
    let id = TransactionalId(StrBytes::from_static_str("hanging"));
    let request = PlainClient::produce_request(TOPIC, 0, batch.bytes()).with_transactional_id(Some(id));
    let response = client.to_leader(TOPIC, 0).call(PlainClient::PRODUCE_VERSION, &request);
    let answer = PlainClient::partition_answer(&response);
    if answer.error_code != 0 {
        return Err(format!("it was not written: {answer:?}"));
    }
    let (epoch, begins) = operator.producer(0, producer.id)?;
    equal("where it begins", &begins, &json!(answer.base_offset))?;
    let of = json!({ "topic": TOPIC, "partition": 0, "producer": producer.id, "epoch": epoch });
    operator.ask("abort", of)?;
    let (_, begins) = operator.producer(0, producer.id)?;
    equal("where it begins, once it is aborted", &begins, &Value::Null)?;
    let end = client.list_offset(TOPIC, 0, -1);
    equal("the end, behind a marker", &json!(end), &json!(answer.base_offset + 2))?;
    // Readers of committed records go on.
    let committed = json!({ "op": "committed", "topic": TOPIC, "partition": 0, "until": end });
    let committed = operator.driver.ask(&committed)?;
    equal("what is committed", &committed["values"], &json!(["a record"]))
}

/// The transaction that was left open is aborted, and its producer cannot commit it.
fn fenced(operator: &mut Operator) -> Answer<()> {
    let before = operator.transaction("open")?;
    let fenced = operator.ask("fence", json!({ "id": "open" }))?;
    let after = operator.transaction("open")?;
    let epoch = |of: &Value| of["epoch"].as_i64();
    if fenced["producer"] == before["producer"] && epoch(&fenced) <= epoch(&before) {
        return Err(format!("{before} became {fenced}"));
    }
    equal("whose it is", &after["producer"], &fenced["producer"])?;
    equal("its epoch", &after["epoch"], &fenced["epoch"])?;
    let commit = json!({ "op": "end", "commit": true });
    operator.driver.expect_refused(&commit, operator.kind.says(Refusal::Fenced))?;
    operator.expect_listed(json!({ "state": "Ongoing" }), &[])
}
