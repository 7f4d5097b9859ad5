//! A few hundred seeds of replication, and the mistakes that the checks have to find.

mod common;

use odradek_sim::replication::Replication;
use odradek_sim::seeds::Simulation;

const SEEDS: u64 = 200;

#[test]
fn no_seed_has_a_finding() {
    let counts = common::clean::<Replication>(SEEDS);
    assert!(counts.get("acknowledged: all") >= SEEDS * 100);
    assert!(counts.get("fault: crash") >= SEEDS * 3);
    assert!(counts.get("leader: begins") >= SEEDS * 5);
    let missing = counts.missing(Replication::EXPECTED);
    assert!(missing.len() < Replication::EXPECTED.len() / 5, "{missing:?}");
}

#[test]
fn a_seed_replays_exactly() {
    common::replays_exactly::<Replication>(200);
}

#[test]
fn every_mistake_is_found() {
    common::finds_every_mistake::<Replication>(500);
}
