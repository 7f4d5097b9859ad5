//! One seed: a cluster is founded, nodes join it, topics are made and used while things go wrong; then quiet, in which
//! everything is served again.

use crate::cluster::metadata::{Metadata, slot};
use crate::cluster::settings::{Mistake, Settings};
use crate::replication::run::{end, play};
use crate::replication::scene::Scene;
use crate::replication::settings::check;
use crate::seeds::{SeedOptions, SeedResult, run_in};
use crate::world::{S, World};
use std::rc::Rc;

pub fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
    let world = World::new(options.seed, options.print);
    let settings = Settings::draw(options.seed, options.mistake);
    run_in(&world, || run(&world, settings))
}

fn run(world: &Rc<World>, settings: Settings) {
    world.note(format_args!("{settings:?}"));
    let metadata = Metadata::new(world, settings);
    let mut scene = Scene::new(world.clone(), settings.replication);
    scene.metadata = Some(Box::new(metadata));
    scene.found_engines(settings);
    for id in 1..=settings.replication.nodes {
        scene.start_node(id);
    }
    let is_there = |scene: &Scene| {
        (1..=scene.settings.nodes).all(|id| scene.decided().desks[slot(id)].is_serving())
            && scene.controller.unfenced_count() == scene.settings.nodes
    };
    if !play(&mut scene, 30 * S, is_there) {
        return world.finding(check::SERVED, format_args!("not all nodes have come"));
    }
    scene.create_coordinated_topics();
    while scene.ordinary_partitions().len() < settings.replication.partitions && !world.has_findings() {
        scene.create_topic();
        play(&mut scene, S, |_| false);
    }
    scene.do_harm_to_cluster();
    scene.administer();
    scene.look_after();
    play(&mut scene, settings.replication.faulty_time, |_| false);
    if world.has_findings() {
        return;
    }
    scene.become_calm();
    end(&mut scene);
    world.counts.borrow_mut().add("simulated seconds", world.now() / S);
}

impl Scene {
    /// Every node is a member, is there, and has everything that is decided.
    pub fn is_cluster_whole(&self) -> bool {
        let metadata = self.decided();
        let last = metadata.quorum.watch.last_committed();
        let members = metadata.quorum.watch.members();
        let is_there = |id: &usize| {
            let node = &metadata.quorum.all[slot(*id)];
            members.contains(node.peer)
                && metadata.desks[slot(*id)].is_serving()
                && metadata.applied(slot(*id)) == last
        };
        self.controller.unfenced_count() == self.settings.nodes
            && members.voters.len() + members.observers.len() == self.settings.nodes
            && (1..=self.settings.nodes).all(|id| is_there(&id))
    }

    pub fn what_nodes_lack(&self) -> String {
        let metadata = self.decided();
        let mut out = format!("; {:?}", metadata.quorum.watch.members());
        for id in 1..=self.settings.nodes {
            let node = &metadata.quorum.all[slot(id)];
            let (stage, applied) = (metadata.desks[slot(id)].stage, metadata.applied(slot(id)));
            let leader = node.quorum().and_then(|quorum| quorum.leader());
            out += &format!("; {:?} {stage:?}, has {applied}, follows {leader:?}", node.peer);
        }
        out
    }
}
