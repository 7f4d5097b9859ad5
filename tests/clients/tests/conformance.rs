//! Clients cannot tell that the broker is another one: see `odradek_client_tests`.

use odradek_client_tests::{Kind, conformance, cross_reading};
use odradek_test_harness::Routing;

macro_rules! conformance_tests {
    ($($client:ident: $kind:expr,)*) => {
        $(mod $client {
            use super::*;

            #[test]
            fn under_node_routing() {
                conformance($kind, Routing::Node);
            }

            #[test]
            fn under_core_routing() {
                conformance($kind, Routing::Core);
            }
        })*
    };
}

conformance_tests! {
    kcat: Kind::Kcat,
    kafka_python_2: Kind::KafkaPython2,
    kafka_python_3: Kind::KafkaPython3,
    confluent_kafka: Kind::Confluent,
    aiokafka: Kind::Aiokafka,
    kafkajs: Kind::Kafkajs,
    kafka_javascript: Kind::ConfluentJs,
    java_3: Kind::Java3,
    java_4: Kind::Java4,
    rdkafka: Kind::Rdkafka,
}

#[test]
fn clients_read_each_other_under_node_routing() {
    cross_reading(Routing::Node);
}

#[test]
fn clients_read_each_other_under_core_routing() {
    cross_reading(Routing::Core);
}
