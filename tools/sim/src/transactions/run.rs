//! One seed: producers and others at work while coordinators move, partitions crash and the whole node does; then
//! quiet, in which everything comes to its end and nothing is left.

use crate::seeds::{SeedOptions, SeedResult, run_in, run_to_end};
use crate::transactions::cluster::Cluster;
use crate::transactions::network::LATE_MAX;
use crate::transactions::others::{abort_hanging, run_administrator, run_consumer, run_stray};
use crate::transactions::producer::{Users, run_slot};
use crate::transactions::scene::Scene;
use crate::transactions::settings::{MS, Mistake, S, Settings, check};
use crate::world::{Micros, World};
use std::rc::Rc;

/// How long it takes at most until nothing is open, once all clients have gone and nothing goes wrong: what is on
/// its way, time-outs, markers.
const QUIET_MAX: Micros = 120 * S;

/// The time between two looks at everything.
const LOOK: Micros = 500 * MS;

pub fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
    let world = World::new(options.seed, options.print);
    let settings = Settings::draw(options.seed, options.mistake);
    run_in(&world, || run(&world, settings))
}

fn run(world: &Rc<World>, settings: Settings) {
    world.note(format_args!("{settings:?}"));
    let scene = Scene::new(world, settings);
    let cluster = Cluster::new(&scene);
    run_to_end(world, check::ANSWERED, play(cluster));
}

async fn play(cluster: Rc<Cluster>) {
    let world = cluster.scene.world.clone();
    let settings = cluster.scene.settings;
    if settings.is_exhausted {
        cluster.seed();
    }
    cluster.start().await;
    let users = Users::new(&cluster);
    for number in 0..settings.ids {
        for _ in 0..settings.producers {
            world.spawn(run_slot(users.clone(), cluster.id(number)));
        }
    }
    world.spawn(run_consumer(users.clone()));
    world.spawn(run_administrator(users.clone()));
    world.spawn(run_stray(users.clone()));
    for _ in 0..world.between(2, 5) {
        serve(&cluster, world.between(2 * S, 25 * S)).await;
        go_down(&cluster).await;
    }
    serve(&cluster, 5 * S).await;
    become_quiet(&cluster, &users).await;
    end_ids(&cluster).await;
}

/// Clients do as they like.
async fn serve(cluster: &Rc<Cluster>, time: Micros) {
    let world = &cluster.scene.world;
    let end = world.now() + time;
    while world.now() < end {
        world.sleep(LOOK).await;
        cluster.look();
        // Disks that have failed are found out after a while.
        if world.one_in(4) {
            cluster.mend().await;
        }
        let one = |count: usize| world.below(count as u64) as usize;
        if world.one_in(10) {
            cluster.coordinators.iter().for_each(|shell| shell.expire());
        }
        if world.one_in(20) {
            cluster.coordinators[one(cluster.coordinators.len())].clean();
        }
        if world.one_in(20) {
            cluster.partitions.iter().for_each(|partition| partition.forget_idle());
        }
    }
}

async fn go_down(cluster: &Rc<Cluster>) {
    let world = &cluster.scene.world;
    match world.below(4) {
        0 => cluster.restart().await,
        1 => {
            let partition = world.below(cluster.partitions.len() as u64) as usize;
            cluster.restart_partition(partition).await;
        }
        _ => {
            let coordinator = world.below(cluster.coordinators.len() as u64) as usize;
            cluster.move_coordinator(coordinator).await;
        }
    }
}

/// No client is left, nothing goes wrong, and time goes by.
async fn become_quiet(cluster: &Rc<Cluster>, users: &Rc<Users>) {
    let world = &cluster.scene.world;
    users.crowd.end();
    cluster.scene.is_calm.set(true);
    cluster.mend().await;
    let end = world.now() + QUIET_MAX;
    while users.crowd.count() > 0 && world.now() < end {
        world.sleep(LOOK).await;
        cluster.look();
    }
    // What is on its way for long comes in.
    world.sleep(LATE_MAX).await;
    let settings = cluster.scene.settings;
    let time_out = settings.timeout_max + settings.abort_interval + 5 * S;
    let end = world.now() + time_out;
    while world.now() < end {
        world.sleep(LOOK).await;
        cluster.look();
        cluster.partitions.iter().for_each(|partition| partition.forget_idle());
    }
    if !settings.verifies {
        abort_hanging(users).await;
        world.sleep(S).await;
        cluster.look();
    }
    if users.crowd.count() > 0 || cluster.waiting_count() > 0 {
        let (clients, waiting) = (users.crowd.count(), cluster.waiting_count());
        let what = format!("{clients} clients and {waiting} requests after all have gone");
        world.finding(check::ANSWERED, format_args!("{what}"));
    }
    check_ended(cluster);
    cluster.look();
    cluster.groups.look();
    cluster.scene.watch.borrow().records.check_whole();
}

/// Nothing is open any more.
fn check_ended(cluster: &Cluster) {
    let world = &cluster.scene.world;
    for shell in &cluster.coordinators {
        for listed in shell.list().unwrap_or_default() {
            use odradek::codec::transaction_record::TransactionState as State;
            if !matches!(listed.state, State::Empty | State::CompleteCommit | State::CompleteAbort) {
                world.finding(check::ENDS, format_args!("{listed:?}"));
            }
        }
    }
    for partition in &cluster.partitions {
        if !partition.is_settled() {
            let open = partition.open_transactions();
            let what = format!("{}-{}: {open:?}", partition.topic, partition.number);
            world.finding(check::ENDS, format_args!("{what}"));
        }
    }
    if !cluster.groups.is_stable() {
        world.finding(check::OFFSETS, format_args!("offsets are unstable and no transaction is open"));
    }
}

/// The node starts again, and says the same; then ids expire, and nothing is left of them, in memory and in the log.
async fn end_ids(cluster: &Rc<Cluster>) {
    let world = &cluster.scene.world;
    cluster.restart().await;
    world.sleep(S).await;
    cluster.look();
    cluster.groups.look();
    check_ended(cluster);
    let expiration = cluster.scene.settings.coordinator.id_expiration.as_micros() as Micros;
    world.sleep(expiration + S).await;
    for _ in 0..2 {
        cluster.coordinators.iter().for_each(|shell| shell.expire());
        world.sleep(10 * S).await;
    }
    check_nothing_left(cluster, "at the end");
    for shell in &cluster.coordinators {
        shell.crash();
        shell.clean();
        shell.start(true).await;
    }
    check_nothing_left(cluster, "after a restart");
}

fn check_nothing_left(cluster: &Cluster, when: &str) {
    let left: Vec<_> =
        cluster.coordinators.iter().flat_map(|shell| shell.list().unwrap_or_default()).collect();
    if !left.is_empty() || cluster.scene.watch.borrow().has_ids() {
        cluster.scene.world.finding(check::NOTHING_LEFT, format_args!("{when}: {left:?}"));
    }
}
