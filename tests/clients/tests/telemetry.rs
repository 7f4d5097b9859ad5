//! What real clients measure of themselves: see `odradek_client_tests::clients_measure_themselves`.

use odradek_client_tests::{Kind, clients_measure_themselves};

#[test]
fn confluent_kafka_measures_itself() {
    clients_measure_themselves(Kind::Confluent);
}

#[test]
fn java_4_measures_itself() {
    clients_measure_themselves(Kind::Java4);
}

#[test]
fn java_3_measures_itself() {
    clients_measure_themselves(Kind::Java3);
}

#[test]
fn kafka_javascript_measures_itself() {
    clients_measure_themselves(Kind::ConfluentJs);
}

#[test]
fn rdkafka_measures_itself() {
    clients_measure_themselves(Kind::Rdkafka);
}
