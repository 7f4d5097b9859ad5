//! A few hundred seeds of the consumers, and the mistakes that the checks have to find.

use odradek_sim::consumers::run::run_seed;
use odradek_sim::consumers::settings::Mistake;
use odradek_sim::report::Counts;
use odradek_sim::seeds::{PlannedMistake, SeedOptions, SeedResult};

/// Seeds of the short run; each has some thousand requests.
const SEEDS: u64 = 100;

/// Seeds within which a mistake has to be found.
const MISTAKE_SEEDS: u64 = 200;

fn run(seed: u64, mistake: Option<Mistake>) -> SeedResult {
    run_seed(SeedOptions { seed, mistake, print: false })
}

#[test]
fn no_seed_has_a_finding() {
    let every_fourth = |first: u64| {
        let mut counts = Counts::default();
        for seed in (first..SEEDS).step_by(4) {
            let result = run(seed, None);
            assert!(result.findings.is_empty(), "seed {seed}: {:?}", result.findings);
            counts.sum(&result.counts);
        }
        counts
    };
    let counts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|first| scope.spawn(move || every_fourth(first))).collect();
        let mut counts = Counts::default();
        for thread in threads {
            counts.sum(&thread.join().expect("a seed has a finding"));
        }
        counts
    });
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
    for seed in [3, 4, 5] {
        let (one, other) = (run(seed, None), run(seed, None));
        assert!(one.trace.0 > 200);
        assert_eq!(one, other, "seed {seed}");
    }
    assert_ne!(run(3, None).trace, run(4, None).trace);
}

/// Each by the check that is there for it.
#[test]
fn every_mistake_is_found() {
    let is_found = |mistake: Mistake| {
        (0..MISTAKE_SEEDS).any(|seed| {
            let result = run(seed, Some(mistake));
            result.findings.iter().any(|finding| finding.starts_with(mistake.check()))
        })
    };
    std::thread::scope(|scope| {
        let half = Mistake::ALL.len().div_ceil(2);
        for mistakes in Mistake::ALL.chunks(half) {
            scope.spawn(move || {
                for mistake in mistakes {
                    let (name, check) = (mistake.name(), mistake.check());
                    assert!(is_found(*mistake), "{name} was not found by the check that {check}");
                }
            });
        }
    });
}
