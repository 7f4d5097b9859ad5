//! Client quotas: what is told, what is held, over cores and over restarts.

use std::process::Command;
use std::time::{Duration, Instant};

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::alter_client_quotas_request::{
    EntityData, EntryData, OpData,
};
use odradek_test_harness::kafka_protocol::messages::create_topics_request::CreatableTopic;
use odradek_test_harness::kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use odradek_test_harness::kafka_protocol::messages::{
    AlterClientQuotasRequest, ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeClientQuotasRequest, MetadataRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Batch, Broker, Client, Connection, Options, Routing, binary, topic_name};

use crate::now_ms;

/// What the harness calls itself.
const CLIENT_ID: &str = "process-test";

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

/// Sets a quota of a client id (`None`: of all that have none), or removes it.
fn set(client: &mut Client, client_id: Option<&str>, key: &str, limit: Option<f64>) {
    set_of(client, &[("client-id", client_id)], key, limit);
}

/// The same of a user, a client id, or both.
fn set_of(client: &mut Client, entity: &[(&str, Option<&str>)], key: &str, limit: Option<f64>) {
    let part = |(kind, name): &(&str, Option<&str>)| {
        EntityData::default().with_entity_type(text(kind)).with_entity_name(name.map(text))
    };
    let operation = OpData::default().with_key(text(key)).with_remove(limit.is_none());
    let operation = operation.with_value(limit.unwrap_or_default());
    let entry = EntryData::default().with_entity(entity.iter().map(part).collect()).with_ops(vec![operation]);
    let request = AlterClientQuotasRequest::default().with_entries(vec![entry]);
    let response = client.bootstrap().call(1, &request);
    assert_eq!(response.entries[0].error_code, 0, "{:?}", response.entries[0]);
}

/// Two windows of a second each: a second's worth may be used at once.
fn options(routing: Routing) -> Options {
    Options::new(routing).set("quota.window.num", "2")
}

#[test]
fn producers_wait_for_what_they_have_sent_too_much() {
    const LIMIT: f64 = 50_000.0;
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut client = Client::connect(&broker);
    client.create_topic("t", 1, &[]);
    set(&mut client, Some(CLIENT_ID), "producer_byte_rate", Some(LIMIT));
    for restarted in [false, true] {
        if restarted {
            broker.kill();
            broker.start_again();
        }
        let mut connection = Connection::open(broker.port());
        let request =
            |size: usize| Client::produce_request("t", 0, Batch::of(&[vec![7; size]], now_ms()).bytes());
        let (small, large) = (request(30_000), request(90_000));
        let first = connection.call(Client::PRODUCE_VERSION, &small);
        assert_eq!((first.throttle_time_ms, Client::partition_answer(&first).error_code), (0, 0));
        let begun = Instant::now();
        let second = connection.call(Client::PRODUCE_VERSION, &large);
        let answered = begun.elapsed();
        assert_eq!(Client::partition_answer(&second).error_code, 0, "it is stored");
        // 120 kB and what names them, in a second and what has gone of the next one: (120.2 - 50) / 50 s, or up to a
        // second less. It is more than a window by itself, so that it has to wait however late it comes.
        let throttle = second.throttle_time_ms;
        assert!((350..=1_430).contains(&throttle), "{throttle} ms");
        assert!(answered < Duration::from_millis(throttle as u64), "it is answered at once: {answered:?}");
        // The connection is not read meanwhile, whatever its client does.
        connection.call(0, &ApiVersionsRequest::default());
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(throttle as u64), "{waited:?} of {throttle} ms");
        // Another connection of the client finds the quota used up, and says so.
        let mut other = Connection::open(broker.port());
        let third = other.call(Client::PRODUCE_VERSION, &large);
        assert!(third.throttle_time_ms > 0);
    }
    let (_, metrics) = broker.admin_get("/metrics");
    let throttled = metrics.lines().filter(|line| line.starts_with("odradek_throttled_requests_total{"));
    let throttled = throttled.filter(|line| line.contains("quota=\"producer_byte_rate\""));
    let count: f64 = throttled.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert_eq!(count, 2.0);
    set(&mut Client::connect(&broker), Some(CLIENT_ID), "producer_byte_rate", None);
    let mut connection = Connection::open(broker.port());
    let batch = Batch::of(&[vec![7; 500_000]], now_ms()).bytes();
    let unlimited = connection.call(Client::PRODUCE_VERSION, &Client::produce_request("t", 0, batch));
    assert_eq!(unlimited.throttle_time_ms, 0, "the quota is gone");
}

/// Whoever is not authenticated is the user ANONYMOUS. Limits are set from the least to the most specific one, by
/// turns such that nothing may be sent and such that everything may, and taken away again.
#[test]
fn of_limits_of_users_and_client_ids_the_most_specific_one_counts() {
    const KEY: &str = "producer_byte_rate";
    let entities: [&[(&str, Option<&str>)]; 8] = [
        &[("client-id", None)],
        &[("client-id", Some(CLIENT_ID))],
        &[("user", None)],
        &[("user", None), ("client-id", None)],
        &[("user", None), ("client-id", Some(CLIENT_ID))],
        &[("user", Some("ANONYMOUS"))],
        &[("user", Some("ANONYMOUS")), ("client-id", None)],
        &[("user", Some("ANONYMOUS")), ("client-id", Some(CLIENT_ID))],
    ];
    let is_strict = |place: usize| place.is_multiple_of(2);
    let limit = |place: usize| if is_strict(place) { 1_000.0 } else { 1e12 };
    let broker = Broker::start_with(options(Routing::Node));
    let mut client = Client::connect(&broker);
    client.create_topic("t", 1, &[]);
    // Quotas of others are none of ours.
    set_of(&mut client, &[("user", Some("ann"))], KEY, Some(1_000.0));
    set_of(&mut client, &[("user", Some("ann")), ("client-id", Some(CLIENT_ID))], KEY, Some(1_000.0));
    set_of(&mut client, &[("user", Some("ANONYMOUS")), ("client-id", Some("another"))], KEY, Some(1_000.0));
    let is_throttled = |expected: bool, what: &str| {
        let request = Client::produce_request("t", 0, Batch::of(&[vec![7; 30_000]], now_ms()).bytes());
        // One that has been throttled is not read for a while.
        let response = Connection::open(broker.port()).call(Client::PRODUCE_VERSION, &request);
        assert_eq!(Client::partition_answer(&response).error_code, 0);
        let throttle = response.throttle_time_ms;
        assert_eq!(throttle > 0, expected, "{what}: {throttle} ms");
    };
    is_throttled(false, "without a limit");
    for (place, entity) in entities.iter().enumerate() {
        set_of(&mut client, entity, KEY, Some(limit(place)));
        is_throttled(is_strict(place), &format!("{entity:?} counts"));
    }
    for (place, entity) in entities.iter().enumerate().rev() {
        set_of(&mut client, entity, KEY, None);
        is_throttled(!is_strict(place), &format!("without {entity:?}"));
    }
}

/// Two connections, each to a core of its own, hold one limit together.
#[test]
fn the_limit_holds_for_the_sum_over_cores() {
    const LIMIT: f64 = 200_000.0;
    const TIME: Duration = Duration::from_secs(5);
    let broker = Broker::start_with(options(Routing::Core));
    let mut client = Client::connect(&broker);
    client.create_topic("t", 2, &[]);
    set(&mut client, None, "producer_byte_rate", Some(LIMIT));
    let ports: Vec<(i32, u16)> =
        (0..2).map(|partition| (partition, client.leader("t", partition).1)).collect();
    let begun = Instant::now();
    let producers = ports.into_iter().map(|(partition, port)| {
        std::thread::spawn(move || {
            let batch = Batch::of(&[vec![7; 10_000]], now_ms()).bytes();
            let request = Client::produce_request("t", partition, batch);
            let mut connection = Connection::open(port);
            let mut sent = 0.0;
            while begun.elapsed() < TIME {
                let response = connection.call(Client::PRODUCE_VERSION, &request);
                assert_eq!(Client::partition_answer(&response).error_code, 0);
                sent += 10_000.0;
            }
            sent
        })
    });
    let producers: Vec<_> = producers.collect();
    let sent: Vec<f64> =
        producers.into_iter().map(|producer| producer.join().expect("it produces")).collect();
    let rate = sent.iter().sum::<f64>() / begun.elapsed().as_secs_f64();
    // What may be used at once, a second's worth, comes on top, and what one core does not know of the other.
    assert!(rate > LIMIT * 0.3 && rate < LIMIT * 1.9, "{rate} per second of {LIMIT}: {sent:?}");
}

#[test]
fn consumers_get_nothing_while_they_wait_and_everything_in_the_end() {
    const LIMIT: f64 = 100_000.0;
    const RECORDS: i64 = 30;
    for routing in Routing::BOTH {
        let broker = Broker::start_with(options(routing));
        let mut client = Client::connect(&broker);
        client.create_topic("t", 1, &[]);
        for _ in 0..RECORDS {
            client.produce("t", 0, &Batch::of(&[vec![7; 10_000]], now_ms()));
        }
        set(&mut client, Some(CLIENT_ID), "consumer_byte_rate", Some(LIMIT));
        let port = client.leader("t", 0).1;
        let mut connection = Connection::open(port);
        let begun = Instant::now();
        let (mut next, mut throttled, mut read) = (0, 0, 0);
        while next < RECORDS {
            let request = Client::fetch_request("t", 0, next);
            let response = connection.call(Client::FETCH_VERSION, &request);
            assert_eq!(response.error_code, 0);
            if response.throttle_time_ms > 0 {
                assert!(response.responses.is_empty(), "it is empty");
                throttled += 1;
                continue;
            }
            let data = &response.responses[0].partitions[0];
            let records = odradek_test_harness::records_of(data);
            read += records.len() as i64;
            next = records.last().map_or(next, |record| record.offset + 1);
        }
        assert_eq!(read, RECORDS, "each once");
        assert!(throttled > 0);
        // 300 kB at 100 kB/s, of which a second's worth is there at once.
        let elapsed = begun.elapsed();
        assert!(elapsed > Duration::from_millis(1_000), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(15), "{elapsed:?}");
    }
}

#[test]
fn requests_wait_for_the_time_they_have_taken() {
    let broker = Broker::start_with(options(Routing::Node));
    let mut client = Client::connect(&broker);
    client.create_topic("t", 50, &[]);
    // A ten thousandth of a core: soon used up.
    set(&mut client, Some(CLIENT_ID), "request_percentage", Some(0.01));
    let mut connection = Connection::open(broker.port());
    let mut told = 0;
    for _ in 0..50 {
        let begun = Instant::now();
        let all = MetadataRequest::default().with_topics(None);
        let response = connection.call(Client::METADATA_VERSION, &all);
        told = response.throttle_time_ms;
        assert_eq!(response.topics.len(), 1);
        if told > 0 {
            assert!(told <= 1_000, "at most a window: {told}");
            connection.call(0, &ApiVersionsRequest::default());
            assert!(begun.elapsed() >= Duration::from_millis(told as u64));
            break;
        }
    }
    assert!(told > 0, "it was never throttled");
}

#[test]
fn quotas_are_described_as_they_were_set() {
    let mut broker = Broker::start(Routing::Core);
    let mut client = Client::connect(&broker);
    set(&mut client, Some("a"), "producer_byte_rate", Some(1024.0));
    set(&mut client, None, "consumer_byte_rate", Some(2048.0));
    set(&mut client, Some("a"), "request_percentage", Some(12.5));
    for _ in 0..2 {
        broker.stop();
        broker.start_again();
        client = Client::connect(&broker);
        for version in 0..=1 {
            let all = client.bootstrap().call(version, &DescribeClientQuotasRequest::default());
            assert_eq!(all.entries.as_ref().map(Vec::len), Some(2));
            let exactly = ComponentData::default().with_entity_type(text("client-id"));
            let exactly = exactly.with_match(Some(text("a")));
            let request = DescribeClientQuotasRequest::default().with_components(vec![exactly]);
            let response = client.bootstrap().call(version, &request);
            let entries = response.entries.expect("no error");
            assert_eq!(entries.len(), 1);
            let values: Vec<_> =
                entries[0].values.iter().map(|value| (value.key.to_string(), value.value)).collect();
            let expected = [("producer_byte_rate", 1024.0), ("request_percentage", 12.5)];
            assert_eq!(values, expected.map(|(key, value)| (key.to_string(), value)));
        }
    }
    let nobody = EntryData::default();
    let request = AlterClientQuotasRequest::default().with_entries(vec![nobody]);
    let response = client.bootstrap().call(0, &request);
    assert_eq!(response.entries[0].error_code, ResponseError::InvalidRequest.code());
}

#[test]
fn who_creates_too_many_partitions_is_refused_and_waits() {
    const EXCEEDED: i16 = ResponseError::ThrottlingQuotaExceeded.code();
    let broker = Broker::start_with(options(Routing::Node)); // Two windows: two seconds' worth at once.
    let mut client = Client::connect(&broker);
    set(&mut client, Some(CLIENT_ID), "controller_mutation_rate", Some(2.0));
    let topic = |name: &str, partitions| {
        let topic = CreatableTopic::default().with_name(topic_name(name));
        topic.with_num_partitions(partitions).with_replication_factor(1)
    };
    let request = |topics| CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(5000);
    let mut connection = Connection::open(broker.port());
    let response = connection.call(7, &request(vec![topic("a", 9), topic("b", 1)]));
    let codes: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [0, EXCEEDED], "four at once; what goes beyond is owed");
    let message = response.topics[1].error_message.as_deref();
    assert_eq!(message, Some("The throttling quota has been exceeded."));
    let throttle = response.throttle_time_ms;
    assert!((2_400..=2_500).contains(&throttle), "five partitions at two a second: {throttle} ms");
    // Its connection is not read meanwhile; others of the client are refused, or wait where they are old.
    let mut other = Connection::open(broker.port());
    let response = other.call(5, &request(vec![topic("b", 1)]));
    assert_eq!(response.topics[0].error_code, 0, "before version 6 the client only waits");
    assert!(response.throttle_time_ms > throttle / 2, "{} ms", response.throttle_time_ms);
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("b")]).with_timeout_ms(5000);
    let refused = Connection::open(broker.port()).call(5, &delete);
    assert_eq!(refused.responses[0].error_code, EXCEEDED);
    let begun = Instant::now();
    let owed = Duration::from_millis(refused.throttle_time_ms as u64);
    assert!(owed > Duration::from_millis(300), "{owed:?}");
    connection.call(0, &ApiVersionsRequest::default());
    std::thread::sleep((owed + Duration::from_millis(50)).saturating_sub(begun.elapsed()));
    let deleted = Connection::open(broker.port()).call(5, &delete);
    assert_eq!(deleted.responses[0].error_code, 0, "nothing is owed any more");
}

/// Runs `odradek quota`: what it printed, or what it said is wrong.
fn command(broker: &Broker, line: &[&str]) -> Result<String, String> {
    let run =
        Command::new(binary()).arg("quota").args(line).arg("--brokers").arg(broker.bootstrap()).output();
    let run = run.expect("it can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    if run.status.success() { Ok(text(run.stdout)) } else { Err(text(run.stderr)) }
}

#[test]
fn quotas_are_looked_after_by_command() {
    let broker = Broker::start(Routing::Node);
    let ours = ["--user", "ann", "--client-id-default"];
    let set = [&["set"], &ours[..], &["producer_byte_rate=1000", "request_percentage=12.5"]].concat();
    let shown = command(&broker, &set).expect("it is set");
    assert!(shown.contains("ann") && shown.contains("12.5"), "{shown}");
    let json = |line: &[&str]| -> serde_json::Value {
        let printed = command(&broker, &[line, &["--json"]].concat()).expect("it succeeds");
        serde_json::from_str(&printed).expect("JSON")
    };
    let set = json(&["set", "--client-id", "app", "consumer_byte_rate=5", "producer_byte_rate=6"]);
    let app = serde_json::json!({ "name": "app", "default": false });
    let limits = serde_json::json!({ "consumer_byte_rate": 5.0, "producer_byte_rate": 6.0 });
    let expected = |limits| serde_json::json!([{ "user": null, "client_id": app, "limits": limits }]);
    assert_eq!(set, expected(limits));
    let removed = json(&["remove", "--client-id", "app", "producer_byte_rate"]);
    assert_eq!(removed, expected(serde_json::json!({ "consumer_byte_rate": 5.0 })));
    let listed = command(&broker, &["list", "--json"]).expect("they are listed");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let quotas = listed.as_array().expect("a list");
    assert_eq!(quotas.len(), 2, "{listed}");
    let error = command(&broker, &["set", "--client-id", "app", "no_such_rate=5"]);
    assert!(error.is_err_and(|said| said.contains("Invalid configuration key no_such_rate")));
    let error = command(&broker, &["set", "--client-id", "app", "producer_byte_rate=-5"]);
    assert!(error.is_err_and(|said| said.contains("must be greater than 0")));
    let error = command(&broker, &["set", "producer_byte_rate=5"]);
    assert!(error.is_err_and(|said| said.contains("whose quotas?")));
    let remove = [&["remove"], &ours[..], &["producer_byte_rate"]].concat();
    let shown = command(&broker, &remove).expect("it is removed");
    assert!(!shown.contains("producer_byte_rate") && shown.contains("12.5"), "{shown}");
    command(&broker, &[&["remove"], &ours[..]].concat()).expect("all are removed");
    let listed = command(&broker, &["list"]).expect("they are listed");
    assert!(listed.contains("app") && !listed.contains("ann"), "{listed}");
}
