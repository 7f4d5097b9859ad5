//! Some seeds of whole clusters, and the mistakes that the checks have to find.

mod common;

use odradek_sim::cluster::Clusters;
use odradek_sim::seeds::Simulation;

const SEEDS: u64 = 40;

#[test]
fn no_seed_has_a_finding() {
    let counts = common::clean::<Clusters>(SEEDS);
    assert!(counts.get("simulated seconds") >= SEEDS * 120);
    assert!(counts.get("acknowledged: all") >= SEEDS * 50);
    assert!(counts.get("fault: crash") >= SEEDS * 3);
    assert!(counts.get("committed") >= SEEDS * 30);
    assert!(counts.get("coordinator: failed over") >= SEEDS);
    assert!(counts.get("commit: acknowledged") >= SEEDS * 50);
    assert!(counts.get("transaction: committed") >= SEEDS * 4);
    let missing = counts.missing(Clusters::EXPECTED);
    assert!(missing.len() < Clusters::EXPECTED.len() / 5, "{missing:?}");
}

#[test]
fn a_seed_replays_exactly() {
    common::replays_exactly::<Clusters>(500);
}

#[test]
fn every_mistake_is_found() {
    common::finds_every_mistake::<Clusters>(300);
}
