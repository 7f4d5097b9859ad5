//! What must hold for clients that measure themselves (KIP-714): who they are and what they have measured is shown
//! while they are there, and their last word is taken when they go.

use odradek_test_harness::kafka_protocol::messages::IncrementalAlterConfigsRequest;
use odradek_test_harness::kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Broker, Client as PlainClient, Connection, Options, Routing, wait_for};
use serde_json::{Value, json};

use crate::client::{Answer, Kind};
use crate::commands;
use crate::driver::Driver;

const TOPIC: &str = "measured";
/// Kafka's number of such a resource.
const CLIENT_METRICS: i8 = 16;
const OFTEN_MS: &str = "500";
/// In the time of a test, only when the client goes.
const SELDOM_MS: &str = "3600000";

impl Kind {
    /// What it says that it is.
    fn software(self) -> &'static str {
        match self {
            Kind::Java3 | Kind::Java4 => "apache-kafka-java",
            Kind::Confluent => "confluent-kafka-python",
            Kind::ConfluentJs => "confluent-kafka-javascript",
            Kind::Rdkafka => "librdkafka",
            Kind::Kcat | Kind::KafkaPython2 | Kind::KafkaPython3 | Kind::Aiokafka | Kind::Kafkajs => {
                unreachable!("it does not measure itself")
            }
        }
    }
}

/// A producer of this client, which is asked often, and another one, which says what it has to say when it goes.
pub fn clients_measure_themselves(kind: Kind) {
    let mut broker = Broker::start_with(Options::new(Routing::Node));
    PlainClient::connect(&broker).create_topic(TOPIC, 1, &[]);
    let result = often(kind, &broker).and_then(|()| at_last(kind, &broker));
    if let Err(error) = result {
        panic!("{}: {error}", kind.name());
    }
    broker.stop();
}

fn often(kind: Kind, broker: &Broker) -> Answer<()> {
    subscribe(broker, OFTEN_MS);
    let mut driver = producing(kind, broker, "often")?;
    let (client, series) = wait_for("metrics of the producer", || measured(broker, kind.software()));
    let version = client["software_version"].as_str().unwrap_or_default();
    if version.is_empty() {
        return Err(format!("it does not say which version it is: {client}"));
    }
    let name = |series: &Value| series["name"].as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = series.iter().map(name).collect();
    if names.iter().any(|name| name.starts_with("org.apache.kafka.consumer.")) {
        return Err(format!("a producer has metrics of a consumer: {names:?}"));
    }
    if !series.iter().any(|series| series["value"].as_f64() > Some(0.0)) {
        return Err(format!("nothing has a value: {series:?}"));
    }
    driver.ask(&json!({ "op": "close" }))?;
    expect_no_error(broker)
}

fn at_last(kind: Kind, broker: &Broker) -> Answer<()> {
    subscribe(broker, SELDOM_MS);
    let asked = requests(broker, "GetTelemetrySubscriptions");
    let mut driver = producing(kind, broker, "seldom")?;
    wait_for("a question for subscriptions", || {
        (requests(broker, "GetTelemetrySubscriptions") > asked).then_some(())
    });
    // The Java client says its last word only while it has something else to say: a transaction that is open.
    begin(&mut driver)?;
    let pushed = requests(broker, "PushTelemetry");
    driver.ask(&json!({ "op": "close" }))?;
    wait_for("what it says at last", || (requests(broker, "PushTelemetry") > pushed).then_some(()));
    expect_no_error(broker)
}

fn subscribe(broker: &Broker, interval_ms: &str) {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let set = |(name, value): (&str, &str)| {
        AlterableConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let resource = AlterConfigsResource::default()
        .with_resource_type(CLIENT_METRICS)
        .with_resource_name(text("all"))
        .with_configs([("metrics", "*"), ("interval.ms", interval_ms)].map(set).to_vec());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let response = Connection::open(broker.port()).call(1, &request);
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0]);
}

fn producing(kind: Kind, broker: &Broker, id: &str) -> Answer<Driver> {
    let mut driver = kind.member(&broker.bootstrap());
    driver.ask(&json!({ "op": "init", "id": id, "timeout": 60_000 }))?;
    begin(&mut driver)?;
    driver.ask(&json!({ "op": "end", "commit": true }))?;
    Ok(driver)
}

fn begin(driver: &mut Driver) -> Answer<()> {
    driver.ask(&json!({ "op": "begin" }))?;
    driver.ask(&json!({ "op": "write", "topic": TOPIC, "records": [[0, "a record"]] })).map(drop)
}

/// A connected client of this software, and what it has measured as a producer.
fn measured(broker: &Broker, software: &str) -> Option<(Value, Vec<Value>)> {
    let listed = commands::ask_admin(broker, &["client", "list", "--interval", "0"]).ok()?;
    let clients = listed["clients"].as_array()?.iter();
    clients.filter(|client| client["software_name"] == software).find_map(|client| {
        // It may be gone by now, or another connection of the client be the one that it measures itself by.
        let described = commands::ask_admin(broker, &["client", "describe", client["address"].as_str()?]);
        let described = described.ok()?;
        let series = described["instances"][0]["metrics"].as_array()?.clone();
        let name = |series: &Value| series["name"].as_str().unwrap_or_default().to_owned();
        let is_there = series.iter().any(|series| name(series).starts_with("org.apache.kafka.producer."));
        is_there.then(|| (client.clone(), series))
    })
}

/// A counter of the broker for an API, over all cores.
fn counted(broker: &Broker, counter: &str, api: &str) -> u64 {
    let (_, text) = broker.admin_get("/metrics");
    let api = format!("api=\"{api}\"");
    let values = text.lines().filter(|line| line.starts_with(counter) && line.contains(&api));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn requests(broker: &Broker, api: &str) -> u64 {
    counted(broker, "odradek_requests_total{", api)
}

fn expect_no_error(broker: &Broker) -> Answer<()> {
    for api in ["GetTelemetrySubscriptions", "PushTelemetry"] {
        let count = counted(broker, "odradek_errors_total{", api);
        if count > 0 {
            let (_, text) = broker.admin_get("/metrics");
            let of_api = text.lines().filter(|line| line.contains(api)).collect::<Vec<_>>();
            return Err(format!("{api} was refused: {of_api:?}"));
        }
    }
    Ok(())
}
