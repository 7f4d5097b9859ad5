//! Consumer groups of real clients: see `odradek_client_tests::members_share_a_topic`.

use odradek_client_tests::{Assignor, Kind, members_share_a_topic, static_members_come_back};
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
    java_3_range: Kind::Java3, Routing::Node, Assignor::Range;
    java_4_sticky: Kind::Java4, Routing::Node, Assignor::Sticky;
    java_4_cooperative_sticky_under_core_routing: Kind::Java4, Routing::Core, Assignor::CooperativeSticky;
}

#[test]
fn static_members_of_confluent_kafka_come_back() {
    static_members_come_back(Kind::Confluent, Assignor::Range);
}

#[test]
fn static_members_of_java_come_back() {
    static_members_come_back(Kind::Java4, Assignor::CooperativeSticky);
}
