//! A few hundred seeds of the metadata quorum, and the mistakes that the checks have to find.

mod common;

use odradek_sim::quorum::Quorums;
use odradek_sim::seeds::Simulation;

/// Each has some hundred entries.
const SEEDS: u64 = 200;

#[test]
fn no_seed_has_a_finding() {
    let counts = common::clean::<Quorums>(SEEDS);
    assert!(counts.get("messages") >= SEEDS * 300);
    assert!(counts.get("committed") >= SEEDS * 50);
    assert!(counts.get("elections") >= SEEDS * 2);
    assert_eq!(counts.get("quiet: everybody has everything"), SEEDS);
    // Nobody is sent a snapshot of before it was a member: it would ask for the same one for ten time-outs.
    assert_eq!(counts.get("refused: not a member"), 0);
    // What is below a snapshot is taken for what it is: raft says term 0 of it.
    assert_eq!(counts.get("refused: diverged"), 0);
    let missing = counts.missing(Quorums::EXPECTED);
    assert!(missing.len() < Quorums::EXPECTED.len() / 5, "{missing:?}");
}

#[test]
fn a_seed_replays_exactly() {
    common::replays_exactly::<Quorums>(100);
}

#[test]
fn every_mistake_is_found() {
    common::finds_every_mistake::<Quorums>(300);
}
