//! One seed: runs of the broker, ended by crashes or by giving the partition up, with clients that go on; then
//! nothing goes wrong any more and nobody comes or goes, until every group has settled; then quiet, in which
//! everything comes to its end and nothing is left.

use crate::consumers::member::run_slot;
use crate::consumers::others::{run_administrator, run_committer, run_stray, run_topics};
use crate::consumers::settings::{Mistake, Settings, check};
use crate::consumers::users::{Client, TOPICS, Users};
use crate::consumers::watch::Watch;
use crate::groups::broker::{Broker, Parts};
use crate::groups::network::LATE_MAX;
use crate::groups::run::{LOOK, become_quiet, end_groups, serve_and_restart};
use crate::groups::settings::{S, check as group_check};
use crate::groups::topics::SimTopics;
use crate::seeds::{SeedOptions, SeedResult, run_in, run_to_end};
use crate::world::World;
use odradek::codec::consumer_record::Partitions;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
    let world = World::new(options.seed, options.print);
    let settings = Settings::draw(options.seed, options.mistake);
    run_in(&world, || run(&world, settings))
}

fn run(world: &Rc<World>, settings: Settings) {
    world.note(format_args!("{settings:?}"));
    let topics = Rc::new(SimTopics::default());
    TOPICS.iter().step_by(2).for_each(|name| topics.set(name, settings.broker.partitions));
    let watch = Watch::new(world.clone(), settings.clone(), topics.clone());
    let parts = Parts { watch, topics, consumers: settings.consumers.clone() };
    let broker = Broker::new(world, settings.broker, parts);
    run_to_end(world, group_check::ANSWERED, play(broker, settings));
}

async fn play(broker: Rc<Broker<Watch>>, settings: Settings) {
    let world = broker.world.clone();
    broker.start().await;
    let users = Users::new(&broker, settings);
    for group in 0..users.settings.broker.groups {
        for slot in 0..users.settings.broker.consumers {
            world.spawn(run_slot(users.clone(), group, slot));
        }
    }
    world.spawn(run_committer(users.clone()));
    world.spawn(run_administrator(users.clone()));
    world.spawn(run_stray(users.clone()));
    world.spawn(run_topics(users.clone()));
    serve_and_restart(&broker).await;
    settle(&broker, &users).await;
    users.crowd.end();
    become_quiet(&broker, &users.crowd).await;
    end_groups(&broker).await;
}

/// Nothing goes wrong, nobody comes or goes, and no topic changes.
async fn settle(broker: &Rc<Broker<Watch>>, users: &Users) {
    let world = &broker.world;
    users.is_settling.set(true);
    broker.is_calm.set(true);
    if broker.is_offline() {
        broker.crash();
        broker.start().await;
    }
    // What is on its way for long comes in, and what it has done is learned of.
    let mut left = LATE_MAX + 5 * S;
    while left > 0 {
        world.sleep(LOOK).await;
        broker.look();
        left = left.saturating_sub(LOOK);
    }
    users.says_all_from.set(world.now());
    // Members that are gone, one after the other, and rebalances that follow.
    let end = world.now() + 4 * (users.settings.session() + users.settings.broker.rebalance_max) + 60 * S;
    let mut before = None;
    loop {
        world.sleep(5 * S).await;
        broker.look();
        let unsettled = unsettled(broker, users);
        let epochs: Vec<i32> = users.clients.borrow().values().map(|client| client.epoch).collect();
        match &unsettled {
            None if before.as_ref() == Some(&epochs) => break,
            None => before = Some(epochs.clone()),
            Some(_) if world.now() < end => before = None,
            Some(why) => return world.finding(check::CONVERGED, format_args!("{why}")),
        }
        if world.now() > end + 60 * S {
            return world.finding(check::CONVERGED, format_args!("{epochs:?} come after {before:?}"));
        }
    }
    for group in 0..users.settings.broker.groups {
        let id = format!("g{group}");
        let watch = broker.watch.borrow();
        let kept = watch.known(&id).map(|group| &group.kept);
        let members = users.clients.borrow().values().filter(|client| client.group == id).count();
        let uses_classic = |id: &String| kept.is_some_and(|kept| kept.uses_classic(id));
        let classic = kept.into_iter().flat_map(|kept| kept.ids()).filter(|id| uses_classic(id)).count();
        world.count(match kept.filter(|kept| kept.is_there()) {
            _ if members == 0 => "end: a group without members",
            Some(_) if classic == 0 => "end: a group of the newer protocol settled",
            Some(_) if classic < members => "end: a group of both protocols settled",
            Some(_) => "end: a group of the newer protocol with members of the classic one settled",
            None => "end: a group of the classic protocol settled",
        });
    }
}

/// What has not come to rest, if anything.
fn unsettled(broker: &Broker<Watch>, users: &Users) -> Option<String> {
    let clients = users.clients.borrow();
    (0..users.settings.broker.groups).map(|group| format!("g{group}")).find_map(|id| {
        let of_group: Vec<&Client> = clients.values().filter(|client| client.group == id).collect();
        let why = group_unsettled(broker, &id, &of_group)?;
        Some(format!("{id}: {why}"))
    })
}

fn group_unsettled(broker: &Broker<Watch>, id: &str, clients: &[&Client]) -> Option<String> {
    let watch = broker.watch.borrow();
    let members: BTreeMap<&str, &&Client> =
        clients.iter().map(|client| (client.member.as_str(), client)).collect();
    if members.len() < clients.len() {
        return Some(format!("some of {clients:?} share an id"));
    }
    let group = watch.known(id).map(|group| group.memory()).filter(|group| group.is_there());
    match group {
        Some(group) => {
            if !group.ids().map(String::as_str).eq(members.keys().copied()) {
                let ids: Vec<&String> = group.ids().collect();
                return Some(format!("{ids:?} are in, of {:?}", members.keys()));
            }
            let none = Partitions::new();
            for (member, client) in &members {
                let target = group.targets.get(*member).unwrap_or(&none);
                if Some(client.epoch) != group.epoch || group.target_epoch != client.epoch {
                    return Some(format!("{member} is in {}, the group in {:?}", client.epoch, group.epoch));
                }
                if client.owned != *target {
                    return Some(format!("{member} reads {:?} of {target:?}", client.owned));
                }
            }
        }
        None => {
            let generations: BTreeSet<i32> = clients.iter().map(|client| client.epoch).collect();
            if generations.len() > 1 || clients.iter().any(|client| !client.is_classic) {
                return Some(format!("a classic group of {clients:?}"));
            }
        }
    }
    let mut owned = BTreeMap::new();
    for client in clients {
        for (topic, indexes) in &client.owned {
            for index in indexes {
                if let Some(other) = owned.insert((*topic, *index), &client.member) {
                    return Some(format!("{topic:?}-{index} is read by {other} and {}", client.member));
                }
            }
        }
    }
    for (name, topic) in broker.topics.all() {
        let is_read = clients.iter().any(|client| client.reads(&name));
        for index in 0..topic.partition_count {
            if owned.remove(&(topic.id, index)).is_some() != is_read {
                return Some(format!("{name}-{index} is to be read: {is_read}"));
            }
        }
    }
    owned.first_key_value().map(|(key, member)| format!("{key:?}, which is gone, is read by {member}"))
}
