//! `odradek-sim storage`: many seeds of the storage engine on a simulated disk. `odradek-sim groups`: the same of
//! group coordinators and their clients, `odradek-sim consumers` of those that use the newer protocol.
//! `odradek-sim transactions`: of transaction coordinators, partitions and producers. `odradek-sim quorum`: of the
//! metadata quorum. `odradek-sim replication`: of replicas, their network and the controller's side of them.
//! `odradek-sim cluster`: of whole clusters, whose quorum is that controller.
//! `odradek-sim mistakes`: whether the checks find what they are there for.
//!
//! Exit code 0: every check held and everything that is to be met was met; 1: a check failed; 2: some
//! fault or branch of recovery was never met; 3: the program could not do its work.
#![expect(clippy::disallowed_methods, reason = "a tool that keeps its sums in a file")]

use anyhow::Context;
use clap::{Parser, Subcommand};
use odradek_sim::cluster::Clusters;
use odradek_sim::consumers::Consumers;
use odradek_sim::groups::Groups;
use odradek_sim::quorum::Quorums;
use odradek_sim::replication::Replication;
use odradek_sim::report::Counts;
use odradek_sim::seeds::{PlannedMistake, SeedOptions, Simulation};
use odradek_sim::storage::Storage;
use odradek_sim::transactions::Transactions;
use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the engine's own decisions under simulated faults. The same seed always does the same.
#[derive(Debug, Parser)]
#[command(name = "odradek-sim", version)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The storage engine of some cores: journal, segments, recovery.
    Storage(SeedsFlags),
    /// Coordinators of consumer groups: members, generations, committed offsets.
    Groups(SeedsFlags),
    /// The same of groups that use the newer protocol, or both: epochs, assignments, conversions.
    Consumers(SeedsFlags),
    /// Coordinators of transactions: producers, outcomes, markers, offsets that are committed in them.
    Transactions(SeedsFlags),
    /// The metadata quorum: elections, commits, snapshots, members that come and go.
    Quorum(SeedsFlags),
    /// Replicas: leaders, followers, in-sync sets, elections, on nodes that crash and a network that cuts.
    Replication(SeedsFlags),
    /// Whole clusters: a quorum that decides about nodes and partitions, replicas that move, nodes that are replaced.
    Cluster(SeedsFlags),
    /// Makes each mistake on purpose and says which check found it, and after how many seeds.
    Mistakes(MistakesFlags),
}

#[derive(Debug, clap::Args)]
struct MistakesFlags {
    /// Seeds within which each has to be found.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Of one simulation only: storage, groups, transactions, consumers, quorum, replication or
    /// cluster.
    #[arg(long, value_name = "SIMULATION")]
    of: Option<String>,
}

#[derive(Debug, clap::Args)]
struct SeedsFlags {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Only this one.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds at a time; each does what it does alone.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// Print everything that happens. For one seed.
    #[arg(long)]
    trace: bool,
    /// The first seed; with --state the one behind those that were run.
    #[arg(long)]
    first: Option<u64>,
    /// Sums are read from this file and kept in it, so that a long run can be resumed.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Make a mistake on purpose, one of those that `odradek-sim mistakes` lists.
    #[arg(long)]
    mistake: Option<String>,
}

/// The mistake of that name.
fn mistake_of<S: Simulation>(flags: &SeedsFlags) -> anyhow::Result<Option<S::Mistake>> {
    let Some(name) = &flags.mistake else { return Ok(None) };
    let found = S::Mistake::ALL.iter().find(|mistake| mistake.name() == name);
    found.copied().map(Some).with_context(|| format!("{name} is no mistake of {}", S::NAME))
}

thread_local! {
    /// Which seed runs on this thread.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Seeds between two times at which the sums are kept in their file.
const SEEDS_PER_STATE: u64 = 100;

/// In the state file: the seed to go on with, and the seeds run.
const NEXT: &str = "next seed";
const SEEDS: &str = "seeds";

fn main() -> ExitCode {
    let what = Flags::parse().what;
    // A finding says what a broken assertion said; where a panic ends the process, nobody else can.
    std::panic::set_hook(Box::new(|panic| {
        if cfg!(panic = "abort") {
            println!("seed {}: assertions hold: {panic}", SEED.get());
        }
    }));
    let done = match &what {
        What::Storage(flags) => run::<Storage>(flags),
        What::Groups(flags) => run::<Groups>(flags),
        What::Transactions(flags) => run::<Transactions>(flags),
        What::Consumers(flags) => run::<Consumers>(flags),
        What::Quorum(flags) => run::<Quorums>(flags),
        What::Replication(flags) => run::<Replication>(flags),
        What::Cluster(flags) => run::<Clusters>(flags),
        What::Mistakes(flags) => find_all_mistakes(flags),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("odradek-sim: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn run<S: Simulation>(flags: &SeedsFlags) -> anyhow::Result<ExitCode> {
    let mistake = mistake_of::<S>(flags)?;
    if let Some(seed) = flags.seed {
        SEED.set(seed);
        let result = S::run_seed(SeedOptions { seed, mistake, print: flags.trace });
        print!("{}", result.counts.table(S::EXPECTED));
        println!("seed {seed}: {} lines of trace, checksum {:08x}", result.trace.0, result.trace.1);
        result.findings.iter().for_each(|finding| println!("seed {seed}: {finding}"));
        return Ok(ExitCode::from(u8::from(!result.findings.is_empty())));
    }
    let mut counts = match &flags.state {
        Some(path) => read_state(path)?,
        None => Counts::default(),
    };
    let first = flags.first.unwrap_or(counts.get(NEXT));
    let end = first + flags.seeds;
    let mut failed = 0;
    for first in (first..end).step_by(SEEDS_PER_STATE as usize) {
        let seeds = first..end.min(first + SEEDS_PER_STATE);
        failed += run_seeds::<S>(flags.threads, mistake, seeds.clone(), &mut counts);
        let next = seeds.end.saturating_sub(counts.get(NEXT));
        counts.add(NEXT, next);
        if let Some(path) = &flags.state {
            write_state(path, &counts)?;
        }
    }
    print!("{}", counts.table(S::EXPECTED));
    let seeds = counts.get(SEEDS).max(1);
    for name in S::RATES {
        println!("{:>14.2}  {name} per seed", counts.get(name) as f64 / seeds as f64);
    }
    if failed > 0 {
        println!("{failed} findings");
        return Ok(ExitCode::from(1));
    }
    let missing = counts.missing(S::EXPECTED);
    if !missing.is_empty() {
        missing.iter().for_each(|name| println!("never met: {name}"));
        return Ok(ExitCode::from(2));
    }
    println!("{seeds} seeds without a finding");
    Ok(ExitCode::SUCCESS)
}

/// Runs each of them, tells what is found, and sums up what was met. How many findings there were.
fn run_seeds<S: Simulation>(
    threads: u64,
    mistake: Option<S::Mistake>,
    seeds: Range<u64>,
    counts: &mut Counts,
) -> u64 {
    let share = |thread: u64| {
        let (mut counts, mut failed) = (Counts::default(), 0);
        for seed in (seeds.start + thread..seeds.end).step_by(threads as usize) {
            SEED.set(seed);
            let result = S::run_seed(SeedOptions { seed, mistake, print: false });
            counts.sum(&result.counts);
            counts.add(SEEDS, 1);
            failed += result.findings.len() as u64;
            result.findings.iter().for_each(|finding| println!("seed {seed}: {finding}"));
        }
        (counts, failed)
    };
    std::thread::scope(|scope| {
        let share = &share;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || share(thread))).collect();
        let shares = threads.into_iter().map(|thread| thread.join().expect("a seed tells its panics itself"));
        shares.fold(0, |failed, (share, more)| {
            counts.sum(&share);
            failed + more
        })
    })
}

fn find_all_mistakes(flags: &MistakesFlags) -> anyhow::Result<ExitCode> {
    let is_wanted = |name: &str| flags.of.as_deref().is_none_or(|of| of == name);
    println!("{:>24}  {:>6}  found by the check that", "mistake", "seeds");
    let mut missed = 0;
    if is_wanted(Storage::NAME) {
        missed += find_mistakes::<Storage>(flags.seeds)?;
    }
    if is_wanted(Groups::NAME) {
        missed += find_mistakes::<Groups>(flags.seeds)?;
    }
    if is_wanted(Transactions::NAME) {
        missed += find_mistakes::<Transactions>(flags.seeds)?;
    }
    if is_wanted(Consumers::NAME) {
        missed += find_mistakes::<Consumers>(flags.seeds)?;
    }
    if is_wanted(Quorums::NAME) {
        missed += find_mistakes::<Quorums>(flags.seeds)?;
    }
    if is_wanted(Replication::NAME) {
        missed += find_mistakes::<Replication>(flags.seeds)?;
    }
    if is_wanted(Clusters::NAME) {
        missed += find_mistakes::<Clusters>(flags.seeds)?;
    }
    Ok(ExitCode::from(u8::from(missed > 0)))
}

/// How many were missed. Each seed is a process of its own: a mistake may break an assertion, which ends it.
fn find_mistakes<S: Simulation>(seeds: u64) -> anyhow::Result<usize> {
    let program = std::env::current_exe()?;
    let mut missed = 0;
    for mistake in S::Mistake::ALL {
        let mut needed = None;
        for seed in 0..seeds {
            let arguments = [S::NAME, "--mistake", mistake.name(), "--seed", &seed.to_string()];
            let output = std::process::Command::new(&program).args(arguments).output()?;
            let finding = format!("seed {seed}: {}: ", mistake.check());
            if String::from_utf8_lossy(&output.stdout).lines().any(|line| line.starts_with(&finding)) {
                needed = Some(seed + 1);
                break;
            }
        }
        missed += usize::from(needed.is_none());
        let needed = needed.map_or("none".to_owned(), |needed| needed.to_string());
        println!("{:>24}  {needed:>6}  {}", mistake.name(), mistake.check());
    }
    Ok(missed)
}

fn read_state(path: &Path) -> anyhow::Result<Counts> {
    match std::fs::read_to_string(path) {
        Ok(text) => Counts::decode(&text).with_context(|| format!("{} is no state file", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Counts::default()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn write_state(path: &Path, counts: &Counts) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, counts.encode())?;
    std::fs::rename(&temporary, path).with_context(|| path.display().to_string())
}
