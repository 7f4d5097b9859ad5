//! A few hundred seeds of the groups, and the mistakes that the checks have to find.

mod common;

use odradek_sim::groups::Groups;

/// Each has some hundred requests.
const SEEDS: u64 = 200;

#[test]
fn no_seed_has_a_finding() {
    let counts = common::clean::<Groups>(SEEDS);
    assert!(counts.get("requests") >= SEEDS * 300);
    assert!(counts.get("restarts") >= SEEDS * 3);
    assert!(counts.get("generations") >= SEEDS * 10);
}

#[test]
fn a_seed_replays_exactly() {
    common::replays_exactly::<Groups>(200);
}

#[test]
fn every_mistake_is_found() {
    common::finds_every_mistake::<Groups>(300);
}
