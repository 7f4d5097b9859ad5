//! One seed: nodes start, partitions are made, clients use them while things go wrong; then quiet, in which
//! everything is served again.

use crate::replication::network::CONTROLLER;
use crate::replication::node::Role;
use crate::replication::scene::{Scene, index};
use crate::replication::settings::{MS, Mistake, S, Settings, check};
use crate::seeds::{SeedOptions, SeedResult, run_in};
use crate::world::{Micros, World};
use std::rc::Rc;

/// How long it takes at most until everything is served again: a long log over the smallest window too, as disks
/// and networks are quick by then.
const QUIET_MAX: Micros = 30 * S;

pub fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
    let world = World::new(options.seed, options.print);
    let settings = Settings::draw(options.seed, options.mistake);
    run_in(&world, || run(&world, settings))
}

fn run(world: &Rc<World>, settings: Settings) {
    world.note(format_args!("{settings:?}"));
    let mut scene = Scene::new(world.clone(), settings);
    // The controller decodes as the node of its number.
    scene.nodes[CONTROLLER].is_up = true;
    for id in 1..=settings.nodes {
        scene.start_node(id);
    }
    scene.control();
    if !play(&mut scene, 20 * S, |scene| scene.controller.unfenced_count() == settings.nodes) {
        return world.finding(check::SERVED, format_args!("not all nodes have come"));
    }
    scene.create_partitions();
    scene.start_clients();
    scene.after(S, |scene| scene.do_harm());
    play(&mut scene, settings.faulty_time, |_| false);
    if world.has_findings() {
        return;
    }
    scene.become_calm();
    end(&mut scene);
}

/// Nothing goes wrong any more: everything has to be served again, and to be there.
pub fn end(scene: &mut Scene) {
    let world = scene.world.clone();
    play(scene, 5 * S, |_| false);
    scene.clients.is_over = true;
    let is_served = play(scene, QUIET_MAX, Scene::is_served);
    if world.has_findings() {
        return;
    }
    if !is_served {
        let what = scene.what_is_missing();
        world.finding(check::SERVED, format_args!("{what}"));
    }
    scene.check_kept();
    scene.check_outcomes();
}

/// Until it is done, or the time is over, or there is a finding.
pub fn play(scene: &mut Scene, time: Micros, is_done: impl Fn(&Scene) -> bool) -> bool {
    let end = scene.world.now() + time;
    let mut next_look = scene.world.now();
    while scene.world.now() < end && !scene.world.has_findings() {
        if scene.world.now() >= next_look {
            if is_done(scene) {
                return true;
            }
            next_look = scene.world.now() + 50 * MS;
        }
        if !scene.step() {
            return false;
        }
    }
    is_done(scene)
}

impl Scene {
    fn is_served(&self) -> bool {
        let is_partition = |partition: usize| {
            let leadership = &self.controller.partitions[&partition];
            let Some(leader) = leadership.leader.map(index) else { return false };
            let replica = &self.nodes[leader].replicas[&partition];
            let Role::Leader(machine) = &replica.role else { return false };
            // Who starts over behind all that is left begins there.
            let end = self.watch.end(partition).max(replica.log.start());
            leadership.in_sync.len() == leadership.replicas.len()
                && !leadership.is_reassigned()
                && machine.epoch() == leadership.leader_epoch
                && replica.log.end() == end
                && machine.high_watermark().get() == end
                && self.clients.position(partition) == end
        };
        let is_whole = self.metadata.is_none() || self.is_cluster_whole();
        let is_whole = is_whole && self.are_coordinators_quiet();
        is_whole && self.clients.outstanding_count() == 0 && self.partitions().into_iter().all(is_partition)
    }

    fn what_is_missing(&self) -> String {
        let mut out = format!("{} producers wait", self.clients.outstanding_count());
        for (&partition, leadership) in &self.controller.partitions {
            let leader = leadership.leader.map(index);
            let log = leader.map(|leader| &self.nodes[leader].replicas[&partition]);
            let ends = log.map(|replica| (replica.known_high_watermark(), replica.log.end()));
            let (read, end) = (self.clients.position(partition), self.watch.end(partition));
            let in_sync = (&leadership.in_sync, &leadership.eligible_leaders);
            out +=
                &format!("; {partition}: leader {leader:?} with {ends:?}, {in_sync:?}, read {read} of {end}");
        }
        if self.metadata.is_some() {
            out += &self.what_nodes_lack();
            out += &self.what_coordinators_lack();
        }
        out
    }
}
