//! Consumer groups of real clients: see `odradek_client_tests::members_share_a_topic`.

use odradek_client_tests::{
    Assignor, Kind, kcat_goes_on, lag_and_reset, members_share_a_topic,
    some_of_twenty_static_members_come_back, static_members_come_back, twenty_members_come_and_go,
    twenty_members_share_a_topic,
};
use odradek_test_harness::Routing;

macro_rules! sharing_tests {
    ($($name:ident: $kind:expr, $routing:expr, $assignor:expr;)*) => {
        $(#[test]
        fn $name() {
            members_share_a_topic($kind, $routing, $assignor);
        })*
    };
}

sharing_tests! {
    confluent_kafka_range: Kind::Confluent, Routing::Node, Assignor::Range;
    confluent_kafka_round_robin_under_core_routing: Kind::Confluent, Routing::Core, Assignor::RoundRobin;
    confluent_kafka_cooperative_sticky: Kind::Confluent, Routing::Node, Assignor::CooperativeSticky;
    kafka_python_2_range: Kind::KafkaPython2, Routing::Node, Assignor::Range;
    kafka_python_3_sticky: Kind::KafkaPython3, Routing::Node, Assignor::Sticky;
    aiokafka_round_robin: Kind::Aiokafka, Routing::Node, Assignor::RoundRobin;
    kafkajs_round_robin: Kind::Kafkajs, Routing::Node, Assignor::RoundRobin;
    kafka_javascript_range: Kind::ConfluentJs, Routing::Node, Assignor::Range;
    kafka_javascript_cooperative_sticky_under_core_routing:
        Kind::ConfluentJs, Routing::Core, Assignor::CooperativeSticky;
    java_3_range: Kind::Java3, Routing::Node, Assignor::Range;
    java_4_sticky: Kind::Java4, Routing::Node, Assignor::Sticky;
    java_4_cooperative_sticky_under_core_routing: Kind::Java4, Routing::Core, Assignor::CooperativeSticky;
    rdkafka_range: Kind::Rdkafka, Routing::Node, Assignor::Range;
}

#[test]
fn static_members_of_confluent_kafka_come_back() {
    static_members_come_back(Kind::Confluent, Assignor::Range);
}

#[test]
fn static_members_of_kafka_javascript_come_back() {
    static_members_come_back(Kind::ConfluentJs, Assignor::RoundRobin);
}

#[test]
fn static_members_of_java_come_back() {
    static_members_come_back(Kind::Java4, Assignor::CooperativeSticky);
}

#[test]
fn static_members_of_kafka_python_3_come_back() {
    static_members_come_back(Kind::KafkaPython3, Assignor::Range);
}

#[test]
fn static_members_of_aiokafka_come_back() {
    static_members_come_back(Kind::Aiokafka, Assignor::RoundRobin);
}

#[test]
fn static_members_of_rdkafka_come_back() {
    static_members_come_back(Kind::Rdkafka, Assignor::CooperativeSticky);
}

#[test]
fn kcat_reads_as_the_only_member() {
    kcat_goes_on();
}

macro_rules! reset_tests {
    ($($name:ident: $kind:expr, $assignor:expr;)*) => {
        $(#[test]
        fn $name() {
            lag_and_reset($kind, $assignor);
        })*
    };
}

reset_tests! {
    lag_and_reset_by_confluent_kafka: Kind::Confluent, Assignor::CooperativeSticky;
    lag_and_reset_by_kafka_python_2: Kind::KafkaPython2, Assignor::Range;
    lag_and_reset_by_kafka_python_3: Kind::KafkaPython3, Assignor::Sticky;
    lag_and_reset_by_aiokafka: Kind::Aiokafka, Assignor::RoundRobin;
    lag_and_reset_by_kafkajs: Kind::Kafkajs, Assignor::RoundRobin;
    lag_and_reset_by_kafka_javascript: Kind::ConfluentJs, Assignor::RoundRobin;
    lag_and_reset_by_java_3: Kind::Java3, Assignor::CooperativeSticky;
    lag_and_reset_by_java_4: Kind::Java4, Assignor::Range;
    lag_and_reset_by_rdkafka: Kind::Rdkafka, Assignor::RoundRobin;
}

#[test]
fn twenty_members_of_confluent_kafka_cooperative() {
    twenty_members_share_a_topic(&[Kind::Confluent], Assignor::CooperativeSticky);
}

#[test]
fn twenty_members_of_kafkajs() {
    twenty_members_share_a_topic(&[Kind::Kafkajs], Assignor::RoundRobin);
}

/// Whichever of them leads assigns for all.
#[test]
fn twenty_members_of_five_clients() {
    let kinds = [Kind::Confluent, Kind::KafkaPython3, Kind::Aiokafka, Kind::Java4, Kind::KafkaPython2];
    twenty_members_share_a_topic(&kinds, Assignor::Range);
}

macro_rules! twenty_tests {
    ($($name:ident: [$($kind:expr),*], $assignor:expr;)*) => {
        $(#[test]
        fn $name() {
            twenty_members_come_and_go(&[$($kind),*], $assignor);
        })*
    };
}

twenty_tests! {
    twenty_members_of_confluent_kafka_eager: [Kind::Confluent], Assignor::RoundRobin;
    twenty_members_of_kafka_python_2_eager: [Kind::KafkaPython2], Assignor::Sticky;
    twenty_members_of_kafka_python_3_eager: [Kind::KafkaPython3], Assignor::RoundRobin;
    twenty_members_of_aiokafka_eager: [Kind::Aiokafka], Assignor::Sticky;
    twenty_members_of_kafka_javascript_eager: [Kind::ConfluentJs], Assignor::Range;
    // Ten of each: twenty of one take a minute to start on two cores.
    twenty_members_of_java_3_and_4_eager: [Kind::Java3, Kind::Java4], Assignor::Sticky;
    twenty_members_of_rdkafka_eager: [Kind::Rdkafka], Assignor::Range;
}

#[test]
fn some_of_twenty_static_members_of_confluent_kafka_come_back() {
    some_of_twenty_static_members_come_back(Kind::Confluent, Assignor::Range);
}
