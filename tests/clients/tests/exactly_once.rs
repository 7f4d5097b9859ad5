//! Transactions of real clients while the broker is killed: see `odradek_client_tests::exactly_once`.
//!
//! `EXACTLY_ONCE_ROUNDS` is how often; its default is the short form.

use odradek_client_tests::{Play, Transactor, exactly_once};
use odradek_test_harness::Routing;

fn play(transactor: Transactor, routing: Routing, seed: u64) {
    let rounds = std::env::var("EXACTLY_ONCE_ROUNDS").map_or(5, |rounds| rounds.parse().expect("a number"));
    match exactly_once(Play { transactor, routing, rounds, seed }) {
        Ok(met) => {
            println!("{transactor:?}: {rounds} kills, {met:?}");
            assert!(met.committed > rounds as usize && met.aborted > 0, "too little happened: {met:?}");
            assert!(met.looks > 2 * rounds as usize, "nobody looked meanwhile: {met:?}");
        }
        Err(error) => panic!("{transactor:?}, seed {seed}: {error}"),
    }
}

#[test]
fn transfers_and_a_pipeline_of_librdkafka_survive_kills() {
    play(Transactor::Confluent, Routing::Node, 1);
}

#[test]
fn transfers_and_a_pipeline_of_kafka_python_survive_kills() {
    play(Transactor::KafkaPython, Routing::Node, 2);
}

#[test]
fn transfers_and_a_pipeline_of_java_survive_kills() {
    play(Transactor::Java, Routing::Core, 3);
}
