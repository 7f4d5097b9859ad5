//! Who is no member: those that only commit, administrators, and strays that speak in the name of others.

use crate::groups::consumer::{Users, with_assignments};
use crate::groups::network::call;
use crate::groups::request::{self, Request, Sender, text};
use crate::groups::settings::{MS, S};
use crate::world::World;
use std::rc::Rc;

/// The group of those that only commit.
const SIMPLE: &str = "simple";

/// Of so many that have members, or the one that has none.
pub fn some_group(world: &World, groups: usize) -> String {
    match world.below(groups as u64 + 1) {
        0 => SIMPLE.to_owned(),
        group => format!("g{}", group - 1),
    }
}

/// Commits without being a member, and looks at what is committed.
pub async fn run_committer(users: Rc<Users>) {
    let act = async || {
        let world = users.world();
        // One that has members refuses.
        let group =
            if world.one_in(5) { some_group(world, users.broker.settings.groups) } else { SIMPLE.to_owned() };
        if world.one_in(3) {
            call(&users.broker, Request::Fetch(group), 0).await;
            return;
        }
        let version = world.between(2, 9) as i16;
        let sender = Sender { member: "", instance: None, generation: -1 };
        let commit =
            request::commit(&group, sender, users.retention_ms(version), &users.something_to_commit());
        call(&users.broker, Request::Commit(version, commit), 10 * S).await;
    };
    users.crowd.now_and_then((10 * MS, 3 * S), act).await;
}

/// Deletes, and takes members out.
pub async fn run_administrator(users: Rc<Users>) {
    let act = async || {
        let world = users.world();
        let group = some_group(world, users.broker.settings.groups);
        match world.below(12) {
            0..=2 => {
                call(&users.broker, Request::DeleteGroup(group), 10 * S).await;
            }
            3..=5 => {
                let topic = &users.topics[world.below(users.topics.len() as u64) as usize];
                let partitions: Vec<i32> = (0..users.broker.settings.partitions).collect();
                call(&users.broker, request::delete_offsets(&group, topic, &partitions), 10 * S).await;
            }
            6 => {
                let instances = users.broker.watch.borrow().known_instances(&group);
                if let Some(instance) = instances.first() {
                    call(&users.broker, request::leave(&group, &[("", Some(instance))]), 0).await;
                }
            }
            7 if world.one_in(2) => delete_topic(&users).await,
            _ => {
                call(&users.broker, Request::Describe(group), 0).await;
            }
        }
    };
    users.crowd.now_and_then((100 * MS, 10 * S), act).await;
}

/// While groups are deleted and committed to, half of the time.
async fn delete_topic(users: &Rc<Users>) {
    let world = users.world();
    let topic = users.topics[1 + world.below(users.topics.len() as u64 - 1) as usize].clone();
    if !users.broker.topics.has(&topic) {
        return;
    }
    if world.one_in(2) {
        let sender = Sender { member: "", instance: None, generation: -1 };
        let commit = request::commit(SIMPLE, sender, -1, &users.something_to_commit());
        for request in [Request::DeleteGroup(SIMPLE.to_owned()), Request::Commit(8, commit)] {
            let users = users.clone();
            world.spawn(async move {
                call(&users.broker, request, 10 * S).await;
            });
        }
        let settings = &users.broker.settings;
        world.sleep(world.below(2 * settings.latency_max + settings.write_max)).await;
    }
    world.count("topic deleted");
    users.broker.delete_topic(&topic);
}

/// Speaks in the name of members, of this generation and others, under instance ids that may not be theirs.
pub async fn run_stray(users: Rc<Users>) {
    let act = async || {
        let world = users.world();
        let group = some_group(world, users.broker.settings.groups);
        let (members, instances, newest) = {
            let watch = users.broker.watch.borrow();
            (watch.known_members(&group), watch.known_instances(&group), watch.generation_of(&group))
        };
        let of = |names: &[String]| match names.len() as u64 {
            0 => "nobody".to_owned(),
            count => names[world.below(count) as usize].clone(),
        };
        let member = of(&members);
        let instance = (world.one_in(2) && !instances.is_empty()).then(|| of(&instances));
        let generation = newest - world.below(3) as i32;
        let sender = Sender { member: &member, instance: instance.as_deref(), generation };
        let request = match world.below(10) {
            0..=2 => request::heartbeat(&group, Sender { generation: newest - 1, ..sender }),
            3..=4 => {
                let sync = request::sync(&group, sender).with_protocol_type(Some(text("consumer")));
                Request::Sync(with_assignments(&users, sync, &members.iter().cloned().collect()))
            }
            5 if world.one_in(6) => request::leave(&group, &[(&member, instance.as_deref())]),
            _ => {
                let commit = request::commit(&group, sender, -1, &users.something_to_commit());
                Request::Commit(world.between(7, 9) as i16, commit)
            }
        };
        call(&users.broker, request, 10 * S).await;
    };
    users.crowd.now_and_then((10 * MS, 4 * S), act).await;
}
