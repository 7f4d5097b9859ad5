//! `odradek.durability`: where it is set and shown, and that a change counts at once.

use std::process::Command;

use odradek_test_harness::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use odradek_test_harness::kafka_protocol::messages::{DescribeConfigsRequest, TopicName};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Batch, Broker, Client, Options, Routing, binary};

use crate::now_ms;

const TOPIC: i8 = 2;
const DESCRIBE_VERSION: i16 = 4;

#[test]
fn durability_of_a_topic_is_the_broker_s_until_it_says_otherwise() {
    let broker = Broker::start_with(Options::new(Routing::Node).set("odradek.durability", "write"));
    let mut client = Client::connect(&broker);
    client.create_topic("relaxed", 1, &[]);
    client.create_topic("strict", 1, &[("odradek.durability", "fsync"), ("flush.messages", "5")]);
    assert!(odradek(&broker, &["describe", "relaxed"]).contains("odradek.durability=write"));
    let text = odradek(&broker, &["describe", "strict"]);
    assert!(text.contains("odradek.durability=fsync") && text.contains("flush.messages=5"), "{text}");
    let own = ("odradek.durability", "fsync", 1);
    let (of_broker, built_in) = (("odradek.durability", "write", 4), ("odradek.durability", "fsync", 5));
    assert_eq!(synonyms(&mut client, "relaxed"), owned(&[of_broker, built_in]));
    assert_eq!(synonyms(&mut client, "strict"), owned(&[own, of_broker, built_in]));

    for (topic, durability) in [("relaxed", "fsync"), ("strict", "write")] {
        client.produce(topic, 0, &Batch::of(&["before"], now_ms()));
        odradek(&broker, &["alter", topic, "--config", &format!("odradek.durability={durability}")]);
        client.produce(topic, 0, &Batch::of(&["after"], now_ms()));
        assert_eq!(client.read_all(topic, 0).len(), 2);
    }
    let refused = command(&broker, &["alter", "strict", "--config", "odradek.durability=never"]).output();
    assert!(!refused.expect("it runs").status.success());
}

/// Name, value and source of each, in the order in which they count.
fn synonyms(client: &mut Client, topic: &'static str) -> Vec<(String, String, i8)> {
    let key = StrBytes::from_static_str("odradek.durability");
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(TopicName(StrBytes::from_static_str(topic)).0)
        .with_configuration_keys(Some(vec![key]));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let mut response = client.bootstrap().call(DESCRIBE_VERSION, &request);
    let config = response.results.remove(0).configs.remove(0);
    assert!(config.documentation.is_some_and(|text| text.contains("`write`")));
    let synonyms = config.synonyms.into_iter();
    synonyms
        .map(|synonym| {
            (synonym.name.to_string(), synonym.value.unwrap_or_default().to_string(), synonym.source)
        })
        .collect()
}

fn owned(synonyms: &[(&str, &str, i8)]) -> Vec<(String, String, i8)> {
    synonyms.iter().map(|(name, value, source)| (name.to_string(), value.to_string(), *source)).collect()
}

fn odradek(broker: &Broker, arguments: &[&str]) -> String {
    let output = command(broker, arguments).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn command(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("topic").args(arguments).args(["--brokers", &broker.bootstrap()]);
    command
}
