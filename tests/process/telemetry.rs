//! What clients measure of themselves (KIP-714), and who is connected: over the protocol, the admin port and the
//! command.

use std::process::Command;
use std::time::{Duration, Instant};

use odradek::types::uuid_text;
use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use odradek_test_harness::kafka_protocol::messages::{
    ApiVersionsRequest, GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse,
    IncrementalAlterConfigsRequest, PushTelemetryRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Broker, Connection, Options, PATIENCE, Routing, binary};
use serde_json::Value;
use uuid::Uuid;

const CLIENT_METRICS: i8 = 16;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

/// Sets what a subscription asks for.
fn subscribe(broker: &Broker, name: &str, settings: &[(&str, &str)]) {
    let set = |(name, value): &(&str, &str)| {
        AlterableConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let resource = AlterConfigsResource::default()
        .with_resource_type(CLIENT_METRICS)
        .with_resource_name(text(name))
        .with_configs(settings.iter().map(set).collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let response = Connection::open(broker.port()).call(1, &request);
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0]);
}

fn ask(connection: &mut Connection, instance: Uuid) -> GetTelemetrySubscriptionsResponse {
    connection.call(0, &GetTelemetrySubscriptionsRequest::default().with_client_instance_id(instance))
}

fn push(
    connection: &mut Connection,
    told: &GetTelemetrySubscriptionsResponse,
    metrics: Vec<u8>,
) -> Option<ResponseError> {
    let request = PushTelemetryRequest::default()
        .with_client_instance_id(told.client_instance_id)
        .with_subscription_id(told.subscription_id)
        .with_metrics(metrics.into());
    ResponseError::try_from_code(connection.call(0, &request).error_code)
}

/// A field of a protobuf message that has a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128, "its length is one byte");
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

/// OTLP with one gauge that has one attribute.
fn gauge(name: &str, value: f64) -> Vec<u8> {
    let attribute = [field(1, b"node_id"), field(2, &field(1, b"1"))].concat();
    let point = [field(7, &attribute), vec![4 << 3 | 1], value.to_le_bytes().to_vec()].concat();
    let metric = [field(1, name.as_bytes()), field(5, &field(1, &point))].concat();
    field(1, &field(2, &field(2, &metric)))
}

/// Runs `odradek client` and reads its JSON.
fn command(broker: &Broker, line: &[&str]) -> Value {
    let admin = format!("127.0.0.1:{}", broker.admin_port());
    let run = Command::new(binary()).arg("client").args(line).args(["--json", "--admin", &admin]).output();
    let run = run.expect("it can be run");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).expect("it prints JSON")
}

#[test]
fn clients_are_told_what_to_measure_and_it_is_kept() {
    let options = Options::new(Routing::Node).set("telemetry.max.bytes", "4096");
    let mut broker = Broker::start_with(options);
    let mut connection = Connection::open(broker.port());
    // Without subscriptions there is nothing to measure, and an id.
    let told = ask(&mut connection, Uuid::nil());
    assert_eq!((told.error_code, told.push_interval_ms, told.requested_metrics.len()), (0, 300_000, 0));
    assert!(!told.client_instance_id.is_nil());
    assert_eq!((told.telemetry_max_bytes, told.delta_temporality), (4096, true));
    assert_eq!(told.accepted_compression_types, [4, 3, 1, 2]);
    let instance = told.client_instance_id;
    // Too early, on whichever core its connection is.
    for _ in 0..4 {
        let again = ask(&mut Connection::open(broker.port()), instance);
        assert_eq!(again.error_code, ResponseError::ThrottlingQuotaExceeded.code());
    }
    subscribe(&broker, "all", &[("metrics", "org.apache."), ("interval.ms", "1000")]);
    subscribe(&broker, "others", &[("metrics", "*"), ("match", "client_id=nobody.*")]);
    // What has changed is told at once; what was told before is not to be pushed for.
    assert_eq!(
        push(&mut connection, &told, gauge("org.apache.m", 1.0)),
        Some(ResponseError::UnknownSubscriptionId)
    );
    let told = ask(&mut connection, instance);
    assert_eq!((told.error_code, told.push_interval_ms), (0, 1000));
    assert_eq!(told.requested_metrics, [text("org.apache.")]);
    assert_eq!(push(&mut connection, &told, gauge("org.apache.m", 2.5)), None);
    assert_eq!(
        push(&mut connection, &told, gauge("org.apache.m", 3.5)),
        Some(ResponseError::ThrottlingQuotaExceeded),
        "too early"
    );
    for (metrics, error) in [
        (gauge("org.apache.m", 4.5), None),
        (gauge("another", 5.5), None), // Which nobody has asked for.
        (vec![0xff; 100], Some(ResponseError::InvalidRecord)),
        (vec![0; 5000], Some(ResponseError::TelemetryTooLarge)),
    ] {
        std::thread::sleep(Duration::from_millis(1_010));
        assert_eq!(push(&mut connection, &told, metrics), error);
    }
    let mut other = told.clone();
    other.client_instance_id = Uuid::nil();
    assert_eq!(
        push(&mut connection, &other, gauge("org.apache.m", 1.0)),
        Some(ResponseError::InvalidRequest)
    );
    // It is shown under the address that it comes from.
    let listed = command(&broker, &["list", "--interval", "0"]);
    let clients = listed["clients"].as_array().expect("a list");
    let client =
        clients.iter().find(|client| client["requests"].as_u64() > Some(5)).expect("it is connected");
    let address = client["address"].as_str().expect("it has one");
    let described = command(&broker, &["describe", address]);
    let found = &described["instances"][0];
    assert_eq!(found["client_instance_id"], uuid_text(instance));
    assert_eq!(found["metrics"].as_array().map(Vec::len), Some(1), "{found}");
    let series = &found["metrics"][0];
    assert_eq!((&series["name"], &series["value"]), (&"org.apache.m".into(), &4.5.into()));
    assert_eq!(series["attributes"]["node_id"], "1");
    // Subscriptions are kept.
    broker.kill();
    broker.start_again();
    let told = ask(&mut Connection::open(broker.port()), instance);
    assert_eq!((told.error_code, told.push_interval_ms), (0, 1000));
}

#[test]
fn connected_clients_are_listed_with_what_they_say_of_themselves() {
    let broker = Broker::start(Routing::Node);
    let mut named = Connection::open(broker.port());
    let versions = ApiVersionsRequest::default()
        .with_client_software_name(text("a-client"))
        .with_client_software_version(text("1.2.3"));
    assert_eq!(named.call(4, &versions).error_code, 0);
    let _silent: Vec<_> = (0..3).map(|_| Connection::open(broker.port())).collect();
    let begun = Instant::now();
    let listed = loop {
        let listed = command(&broker, &["list", "--interval", "0.2"]);
        if listed["clients"].as_array().is_some_and(|clients| clients.len() == 4) {
            break listed;
        }
        assert!(begun.elapsed() < PATIENCE, "{listed}");
    };
    let clients = listed["clients"].as_array().expect("a list");
    let client = clients.iter().find(|client| client["software_name"] == "a-client").expect("it is there");
    assert_eq!(client["client_id"], "process-test");
    assert_eq!(client["software_version"], "1.2.3");
    assert_eq!(client["requests"], 1);
    assert_eq!(client["requests_per_second"], 0.0, "it was silent meanwhile");
    assert!(client["bytes_in"].as_u64() > Some(20) && client["bytes_out"].as_u64() > Some(100), "{client}");
    let silent = clients.iter().filter(|client| client["client_id"].is_null()).count();
    assert_eq!(silent, 3);
    let (status, _) = broker.admin_get("/v1/clients/nobody");
    assert_eq!(status, 400);
}
