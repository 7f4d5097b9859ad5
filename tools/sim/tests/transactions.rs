//! A few hundred seeds of the transactions, and the mistakes that the checks have to find.

mod common;

use odradek_sim::seeds::Simulation;
use odradek_sim::transactions::Transactions;

/// Each has some hundred requests.
const SEEDS: u64 = 200;

#[test]
fn no_seed_has_a_finding() {
    let counts = common::clean::<Transactions>(SEEDS);
    assert!(counts.get("requests") >= SEEDS * 300);
    assert!(counts.get("restarts") >= SEEDS * 4);
    assert!(counts.get("transaction: committed") >= SEEDS * 10);
    let missing = counts.missing(Transactions::EXPECTED);
    assert!(missing.len() < Transactions::EXPECTED.len() / 5, "{missing:?}");
}

#[test]
fn a_seed_replays_exactly() {
    common::replays_exactly::<Transactions>(200);
}

#[test]
fn every_mistake_is_found() {
    common::finds_every_mistake::<Transactions>(300);
}
