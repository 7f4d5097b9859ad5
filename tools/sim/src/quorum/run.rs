//! One seed: things go wrong for a while, then nothing does, and everything has to come to its end.

use crate::quorum::cluster::Cluster;
use crate::quorum::settings::{Mistake, Settings, check};
use crate::seeds::{SeedOptions, SeedResult, run_in};
use crate::world::World;
use std::cell::Cell;
use std::rc::Rc;

/// Happenings after which a seed counts as stuck.
const STEPS_MAX: u64 = 5_000_000;

pub fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
    let world = World::new(options.seed, options.print);
    let settings = Settings::draw(options.seed, options.mistake);
    run_in(&world, || {
        world.note(format_args!("{settings:?}"));
        let is_done = Rc::new(Cell::new(false));
        let (done, cluster) = (is_done.clone(), Cluster::new(&world, settings));
        world.spawn(async move {
            cluster.run().await;
            done.set(true);
        });
        let mut steps = 0;
        let over = || {
            steps += 1;
            is_done.get() || world.has_findings() || steps > STEPS_MAX
        };
        if !world.run_until(over) || (!is_done.get() && !world.has_findings()) {
            world.finding(check::LIVE, format_args!("the seed is stuck"));
        }
    })
}
