//! A few hundred seeds, and the mistakes that the checks have to find.

mod common;

use odradek_sim::storage::Storage;

/// Each has some 2,000 operations.
const SEEDS: u64 = 150;

#[test]
fn no_seed_has_a_finding() {
    let counts = common::clean::<Storage>(SEEDS);
    assert!(counts.get("operations") >= SEEDS * 2_000);
    assert!(counts.get("crashes") >= SEEDS * 3);
    assert!(counts.get("damage") >= SEEDS);
}

#[test]
fn a_seed_replays_exactly() {
    common::replays_exactly::<Storage>(1_000);
}

#[test]
fn every_mistake_is_found() {
    common::finds_every_mistake::<Storage>(300);
}
