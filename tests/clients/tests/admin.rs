//! Administration by real clients: see `odradek_client_tests::administration`.

use odradek_client_tests::{Kind, administration};

#[test]
fn confluent_kafka_administers() {
    administration(Kind::Confluent);
}

/// It has no call for single settings, log directories and quotas.
#[test]
fn kafka_python_2_administers() {
    administration(Kind::KafkaPython2);
}

/// The same, and none for elections.
#[test]
fn aiokafka_administers() {
    administration(Kind::Aiokafka);
}

#[test]
fn kafka_python_3_administers() {
    administration(Kind::KafkaPython3);
}

#[test]
fn kafkajs_administers() {
    administration(Kind::Kafkajs);
}

/// It has no call for the controller, for single settings, elections, log directories and quotas.
#[test]
fn rdkafka_administers() {
    administration(Kind::Rdkafka);
}

/// It has no call for settings, elections, log directories and quotas.
#[test]
fn kafka_javascript_administers() {
    administration(Kind::ConfluentJs);
}

#[test]
fn java_3_administers() {
    administration(Kind::Java3);
}

#[test]
fn java_4_administers() {
    administration(Kind::Java4);
}
