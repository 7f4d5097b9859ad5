//! Transactions of real clients: see `odradek_client_tests::transactions_end`, `pipelines_count_once`,
//! `offsets_of_an_old_generation_are_refused` and `one_pipeline_counts_once`.

use odradek_client_tests::{
    Kind, offsets_of_an_old_generation_are_refused, one_pipeline_counts_once, pipelines_count_once,
    transactions_are_operated, transactions_end,
};
use odradek_test_harness::Routing;

macro_rules! transaction_tests {
    ($($what:ident { $($name:ident: $kind:expr, $routing:expr;)* })*) => {
        $(mod $what {
            use super::*;
            $(#[test]
            fn $name() {
                super::$what($kind, $routing);
            })*
        })*
    };
}

transaction_tests! {
    transactions_end {
        confluent_kafka: Kind::Confluent, Routing::Node;
        confluent_kafka_under_core_routing: Kind::Confluent, Routing::Core;
        kafka_python_2: Kind::KafkaPython2, Routing::Node;
        kafka_python_3: Kind::KafkaPython3, Routing::Node;
        aiokafka: Kind::Aiokafka, Routing::Node;
        kafkajs: Kind::Kafkajs, Routing::Node;
        kafka_javascript: Kind::ConfluentJs, Routing::Node;
        java_3: Kind::Java3, Routing::Node;
        java_4: Kind::Java4, Routing::Node;
        java_4_under_core_routing: Kind::Java4, Routing::Core;
        rdkafka: Kind::Rdkafka, Routing::Node;
        rdkafka_under_core_routing: Kind::Rdkafka, Routing::Core;
    }
    pipelines_count_once {
        confluent_kafka: Kind::Confluent, Routing::Node;
        kafka_python_3: Kind::KafkaPython3, Routing::Node;
        kafka_javascript: Kind::ConfluentJs, Routing::Node;
        java_3: Kind::Java3, Routing::Node;
        java_4_under_core_routing: Kind::Java4, Routing::Core;
        rdkafka: Kind::Rdkafka, Routing::Node;
        rdkafka_under_core_routing: Kind::Rdkafka, Routing::Core;
    }
    // For clients whose offsets are those of the generation that has read: not kafkajs, aiokafka and kafka-python 2,
    // which never say it, and kafka-javascript, which says the one at the time of the commit.
    offsets_of_an_old_generation_are_refused {
        confluent_kafka: Kind::Confluent, Routing::Node;
        kafka_python_3: Kind::KafkaPython3, Routing::Node;
        java_3: Kind::Java3, Routing::Node;
        java_4: Kind::Java4, Routing::Node;
        rdkafka: Kind::Rdkafka, Routing::Core;
    }
    one_pipeline_counts_once {
        kafka_python_2: Kind::KafkaPython2, Routing::Node;
        kafka_python_3: Kind::KafkaPython3, Routing::Node;
        aiokafka: Kind::Aiokafka, Routing::Node;
        kafkajs: Kind::Kafkajs, Routing::Node;
    }
}

mod transactions_are_operated {
    use super::*;

    #[test]
    fn kafka_python_3() {
        super::transactions_are_operated(Kind::KafkaPython3);
    }

    #[test]
    fn java_3() {
        super::transactions_are_operated(Kind::Java3);
    }

    #[test]
    fn java_4() {
        super::transactions_are_operated(Kind::Java4);
    }
}
