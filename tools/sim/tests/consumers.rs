//! A few hundred seeds of the consumers, and the mistakes that the checks have to find.

mod common;

use odradek_sim::consumers::Consumers;

/// Each has some thousand requests.
const SEEDS: u64 = 100;

#[test]
fn no_seed_has_a_finding() {
    let counts = common::clean::<Consumers>(SEEDS);
    assert!(counts.get("requests") >= SEEDS * 500);
    assert!(counts.get("restarts") >= SEEDS * 2);
    assert!(counts.get("group epochs") >= SEEDS * 30);
    let settled = [
        "end: a group of the newer protocol settled",
        "end: a group of both protocols settled",
        "end: a group of the classic protocol settled",
    ];
    settled.iter().for_each(|name| assert!(counts.get(name) > 0, "{name}"));
}

#[test]
fn a_seed_replays_exactly() {
    common::replays_exactly::<Consumers>(200);
}

#[test]
fn every_mistake_is_found() {
    common::finds_every_mistake::<Consumers>(200);
}
