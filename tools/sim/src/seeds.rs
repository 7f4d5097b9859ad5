//! What there is to simulate, as whoever runs seeds sees it: one seed at a time, what came of it, and the
//! mistakes that its checks have to find.

use crate::report::Counts;
use crate::world::World;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// One seed, and how to run it.
#[derive(Clone, Copy, Debug)]
pub struct SeedOptions<M> {
    pub seed: u64,
    pub mistake: Option<M>,
    pub print: bool,
}

/// What came of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedResult {
    pub counts: Counts,
    pub findings: Vec<String>,
    /// Lines and checksum of the trace.
    pub trace: (u64, u32),
}

/// A part of the broker with all around it simulated.
pub trait Simulation {
    type Mistake: PlannedMistake;
    /// The command that runs it.
    const NAME: &'static str;
    /// Everything that a long run has to have met at least once.
    const EXPECTED: &'static [&'static str];
    /// Counters that are also told per seed.
    const RATES: &'static [&'static str];

    fn run_seed(options: SeedOptions<Self::Mistake>) -> SeedResult;
}

/// A mistake that somebody could make, made on purpose.
pub trait PlannedMistake: Copy + fmt::Debug + Send + Sync + 'static {
    const ALL: &'static [Self];

    /// As the command line has it.
    fn name(self) -> &'static str;

    /// The name of the check that has to find it.
    fn check(self) -> &'static str;
}

/// Steps of the executor after which a seed counts as stuck.
const STEPS_MAX: u64 = 5_000_000;

/// Plays to the end, or until something is found. `check`: what does not hold of a seed that comes to no end.
pub fn run_to_end(world: &World, check: &'static str, play: impl Future<Output = ()> + 'static) {
    let is_done = Rc::new(Cell::new(false));
    let done = is_done.clone();
    world.spawn(async move {
        play.await;
        done.set(true);
    });
    let mut steps = 0;
    let over = || {
        steps += 1;
        is_done.get() || world.has_findings() || steps > STEPS_MAX
    };
    if !world.run_until(over) || (!is_done.get() && !world.has_findings()) {
        world.finding(check, format_args!("the seed is stuck"));
    }
}

/// Runs a seed in its world. A broken assertion is a finding too.
pub fn run_in(world: &World, run: impl FnOnce()) -> SeedResult {
    let ran = catch_unwind(AssertUnwindSafe(run));
    let mut findings = world.take_findings();
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        findings.push(format!("assertions hold: {}", text.unwrap_or_default()));
    }
    // Tasks hold the world, and the world its tasks.
    world.drop_tasks();
    let (counts, trace) = (world.counts.take(), world.trace());
    SeedResult { counts, findings, trace }
}
