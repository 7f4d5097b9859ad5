//! A few hundred seeds of the transactions, and the mistakes that the checks have to find.

use odradek_sim::report::Counts;
use odradek_sim::seeds::{PlannedMistake, SeedOptions, SeedResult, Simulation};
use odradek_sim::transactions::Transactions;
use odradek_sim::transactions::run::run_seed;
use odradek_sim::transactions::settings::Mistake;

/// Seeds of the short run; each has some hundred requests.
const SEEDS: u64 = 200;

/// Seeds within which a mistake has to be found.
const MISTAKE_SEEDS: u64 = 300;

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
    assert!(counts.get("requests") >= SEEDS * 300);
    assert!(counts.get("restarts") >= SEEDS * 4);
    assert!(counts.get("transaction: committed") >= SEEDS * 10);
    let missing = counts.missing(Transactions::EXPECTED);
    assert!(missing.len() < Transactions::EXPECTED.len() / 5, "{missing:?}");
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
    for mistake in Mistake::ALL {
        let finds = |seed: u64| {
            let result = run(seed, Some(*mistake));
            result.findings.iter().any(|finding| finding.starts_with(mistake.check()))
        };
        let is_found = (0..MISTAKE_SEEDS).any(finds);
        assert!(is_found, "{} was not found by the check that {}", mistake.name(), mistake.check());
    }
}
