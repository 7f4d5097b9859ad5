//! What the short runs of all simulations have in common.

use odradek_sim::report::Counts;
use odradek_sim::seeds::{PlannedMistake, SeedOptions, SeedResult, Simulation};

/// Seeds at a time.
const THREADS: u64 = 4;

fn run<S: Simulation>(seed: u64, mistake: Option<S::Mistake>) -> SeedResult {
    S::run_seed(SeedOptions { seed, mistake, print: false })
}

/// Runs so many seeds, none of which has a finding: what they have met.
pub fn clean<S: Simulation>(seeds: u64) -> Counts {
    let some = |first: u64| {
        let mut counts = Counts::default();
        for seed in (first..seeds).step_by(THREADS as usize) {
            let result = run::<S>(seed, None);
            assert!(result.findings.is_empty(), "seed {seed}: {:?}", result.findings);
            counts.sum(&result.counts);
        }
        counts
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || some(first))).collect();
        let mut counts = Counts::default();
        for thread in threads {
            counts.sum(&thread.join().expect("a seed has a finding"));
        }
        counts
    })
}

/// A seed does the same each time, in at least so many lines of trace.
pub fn replays_exactly<S: Simulation>(lines_min: u64) {
    for seed in [3, 4, 5] {
        let (one, other) = (run::<S>(seed, None), run::<S>(seed, None));
        assert!(one.trace.0 > lines_min);
        assert_eq!(one, other, "seed {seed}");
    }
    assert_ne!(run::<S>(3, None).trace, run::<S>(4, None).trace);
}

/// Every mistake is found within so many seeds, by the check that is there for it.
pub fn finds_every_mistake<S: Simulation>(seeds: u64) {
    let find = |mistake: S::Mistake| {
        let (name, check) = (mistake.name(), mistake.check());
        let finds = |seed: u64| {
            let findings = run::<S>(seed, Some(mistake)).findings;
            findings.iter().any(|finding| finding.starts_with(check))
        };
        assert!((0..seeds).any(finds), "{name} was not found by the check that {check}");
    };
    std::thread::scope(|scope| {
        for mistakes in S::Mistake::ALL.chunks(S::Mistake::ALL.len().div_ceil(THREADS as usize)) {
            scope.spawn(move || mistakes.iter().copied().for_each(find));
        }
    });
}
