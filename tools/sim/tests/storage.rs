//! A few hundred seeds, and the mistakes that the checks have to find.

use odradek_sim::report::Counts;
use odradek_sim::run::{SeedOptions, run_seed};
use odradek_sim::settings::Mistake;

/// Seeds of the short run; each has some 2,000 operations.
const SEEDS: u64 = 150;

/// Seeds within which a mistake has to be found.
const MISTAKE_SEEDS: u64 = 300;

fn run(seed: u64, mistake: Option<Mistake>) -> odradek_sim::run::SeedResult {
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
    assert!(counts.get("operations") >= SEEDS * 2_000);
    assert!(counts.get("crashes") >= SEEDS * 3);
    assert!(counts.get("damage") >= SEEDS);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 4, 5] {
        let (one, other) = (run(seed, None), run(seed, None));
        assert!(one.trace.0 > 1_000);
        assert_eq!(one, other, "seed {seed}");
    }
    assert_ne!(run(3, None).trace, run(4, None).trace);
}

#[test]
fn a_flush_that_is_left_out_is_found() {
    found(Mistake::FlushLeftOut);
}

#[test]
fn a_journal_file_that_is_used_again_too_early_is_found() {
    found(Mistake::RecycledBeforeStored);
}

#[test]
fn an_acknowledgement_across_a_gap_is_found() {
    found(Mistake::AcknowledgedAcrossGap);
}

#[test]
fn a_log_start_that_a_replay_moves_back_is_found() {
    found(Mistake::LogStartMovedBack);
}

#[test]
fn a_stale_block_that_is_accepted_is_found() {
    found(Mistake::StaleBlockAccepted);
}

#[test]
fn a_read_that_is_not_checked_is_found() {
    found(Mistake::ChecksumsUnchecked);
}

#[test]
fn partitions_of_a_lost_journal_that_are_served_are_found() {
    found(Mistake::LostJournalServed);
}

#[test]
fn a_start_that_ignores_records_of_flushes_is_found() {
    found(Mistake::FlushRecordsIgnored);
}

fn found(mistake: Mistake) {
    let check = mistake.check();
    for seed in 0..MISTAKE_SEEDS {
        let result = run(seed, Some(mistake));
        if result.findings.iter().any(|finding| finding.starts_with(check)) {
            return;
        }
    }
    panic!("{} was not found by the check that {check}", mistake.name());
}
