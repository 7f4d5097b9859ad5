//! One seed: runs of the broker, one after the other, ended by crashes or by giving the partition up, with clients
//! that go on; then quiet, in which everything comes to its end and nothing is left.

use crate::crowd::Crowd;
use crate::groups::broker::{Broker, Parts};
use crate::groups::consumer::{Users, run_slot};
use crate::groups::network::LATE_MAX;
use crate::groups::others::{run_administrator, run_committer, run_stray};
use crate::groups::request::{Reply, Request};
use crate::groups::settings::{MS, Mistake, S, Settings, check};
use crate::groups::topics::SimTopics;
use crate::groups::watch::Watch;
use crate::groups::witness::Witness;
use crate::seeds::{SeedOptions, SeedResult, run_in, run_to_end};
use crate::world::{Micros, World};
use odradek::codec::error_code::ErrorCode;
use odradek::group::Answer;
use odradek::group::consumer::ConsumerSettings;
use odradek::group::coordinator::Holdings;
use std::rc::Rc;

/// How long it takes at most until nobody waits for anything, once all clients have gone: requests that are late,
/// new members that are waited for, rebalances without end.
const QUIET_MAX: Micros = 900 * S;

/// The time between two looks at everything.
pub const LOOK: Micros = 500 * MS;

pub fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
    let world = World::new(options.seed, options.print);
    let settings = Settings::draw(options.seed, options.mistake);
    run_in(&world, || run(&world, settings))
}

fn run(world: &Rc<World>, settings: Settings) {
    world.note(format_args!("{settings:?}"));
    let topics = Rc::new(SimTopics::default());
    (0..3).for_each(|topic| topics.set(&format!("t{topic}"), settings.partitions));
    let parts =
        Parts { watch: Watch::new(world.clone(), settings), topics, consumers: ConsumerSettings::default() };
    let broker = Broker::new(world, settings, parts);
    run_to_end(world, check::ANSWERED, play(broker));
}

async fn play(broker: Rc<Broker<Watch>>) {
    let world = broker.world.clone();
    broker.start().await;
    let users = Users::new(&broker);
    for group in 0..broker.settings.groups {
        for slot in 0..broker.settings.consumers {
            world.spawn(run_slot(users.clone(), group, slot));
        }
    }
    world.spawn(run_committer(users.clone()));
    world.spawn(run_administrator(users.clone()));
    world.spawn(run_stray(users.clone()));
    serve_and_restart(&broker).await;
    users.crowd.end();
    become_quiet(&broker, &users.crowd).await;
    end_groups(&broker).await;
}

/// Runs, one after the other, and what ends them.
pub async fn serve_and_restart<W: Witness>(broker: &Rc<Broker<W>>) {
    let world = &broker.world;
    for _ in 0..world.between(1, 4) {
        serve(broker, world.between(5 * S, 60 * S)).await;
        end_run(broker).await;
        world.sleep(world.below(8 * S)).await;
        if world.one_in(2) {
            broker.clean();
        }
        broker.start().await;
    }
    serve(broker, 5 * S).await;
}

/// Clients do as they like.
async fn serve<W: Witness>(broker: &Rc<Broker<W>>, time: Micros) {
    let world = &broker.world;
    let end = world.now() + time;
    while world.now() < end && !broker.is_offline() {
        world.sleep(LOOK).await;
        broker.look();
        if world.one_in(20) {
            broker.expire_offsets();
        }
        if world.one_in(40) {
            broker.clean();
        }
    }
}

async fn end_run<W: Witness>(broker: &Rc<Broker<W>>) {
    let world = &broker.world;
    if !broker.is_offline() && world.one_in(3) {
        broker.resign();
        world.sleep(world.below(S)).await;
        if !broker.is_offline() {
            return broker.hand_over();
        }
    }
    if broker.is_offline() {
        world.sleep(world.below(2 * S)).await;
    }
    broker.crash();
}

/// No client is left, nothing goes wrong, and time goes by.
pub async fn become_quiet<W: Witness>(broker: &Rc<Broker<W>>, crowd: &Crowd) {
    let world = &broker.world;
    broker.is_calm.set(true);
    if broker.is_offline() {
        broker.crash();
        broker.start().await;
    }
    let end = world.now() + QUIET_MAX;
    while crowd.count() > 0 && world.now() < end {
        world.sleep(LOOK).await;
        broker.look();
    }
    // What is on its way for long comes in.
    world.sleep(LATE_MAX).await;
    loop {
        world.sleep(10 * S).await;
        broker.look();
        let is_quiet = broker.holdings().is_some_and(|holdings| {
            holdings.members == 0 && holdings.deadlines == 0 && holdings.writes == 0 && holdings.waiting == 0
        });
        if is_quiet && crowd.count() == 0 && broker.waiting_count() == 0 {
            break;
        }
        if world.now() > end {
            let (clients, waiting) = (crowd.count(), broker.waiting_count());
            let holdings = broker.holdings();
            let what = format!("{clients} clients, {waiting} requests, {holdings:?} after all have gone");
            let check = if waiting > 0 { check::ANSWERED } else { check::STOPPED_EXPELLED };
            return world.finding(check, format_args!("{what}"));
        }
    }
    check_topics_gone(broker);
    broker.expire_offsets();
    world.sleep(10 * S).await;
    broker.watch.borrow_mut().kept().retried();
    check_topics_gone(broker);
}

fn check_topics_gone<W: Witness>(broker: &Broker<W>) {
    for group in broker.groups() {
        for topic in broker.topics_of(&group) {
            broker.watch.borrow_mut().kept().check_gone(&group, &topic);
        }
    }
}

/// Groups are deleted, or expire; then nothing is left of them, in memory and in the log.
pub async fn end_groups<W: Witness>(broker: &Rc<Broker<W>>) {
    let world = &broker.world;
    if world.one_in(2) {
        world.count("end: groups deleted");
        for group in broker.groups() {
            match broker.ask(Request::DeleteGroup(group.clone())).await {
                Some(Reply::Answer(Answer::DeleteGroup(ErrorCode::None))) => {}
                other => {
                    let what = format!("{group} without members cannot be deleted: {other:?}");
                    world.finding(check::DELETED_EMPTY, format_args!("{what}"));
                }
            }
        }
    } else {
        world.count("end: groups expired");
        let retention = broker.settings.coordinator.offsets_retention.as_micros() as Micros;
        for _ in 0..2 {
            world.sleep(retention + S).await;
            broker.expire_offsets();
        }
        world.sleep(10 * S).await;
    }
    check_nothing_left(broker, "at the end");
    broker.crash();
    broker.clean();
    broker.start().await;
    world.sleep(S).await;
    check_nothing_left(broker, "after a restart");
}

fn check_nothing_left<W: Witness>(broker: &Broker<W>, when: &str) {
    let holdings = broker.holdings();
    if holdings.as_ref() != Some(&Holdings::default()) || !broker.watch.borrow_mut().kept().is_empty() {
        let groups = broker.groups();
        broker.world.finding(check::NOTHING_LEFT, format_args!("{when}: {holdings:?} of {groups:?}"));
    }
}
