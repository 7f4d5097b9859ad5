//! Who is no member: those that only commit, administrators, strays that speak in the name of others, and whoever
//! creates, extends and deletes topics.

use crate::consumers::settings::Mistake;
use crate::consumers::users::{TOPICS, Users};
use crate::consumers::watch::answers::{BAD_ASSIGNOR, BAD_REGEX};
use crate::groups::network::call;
use crate::groups::others::some_group;
use crate::groups::request::{self, Request, Sender, group_id, text};
use crate::groups::settings::{MS, S};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, TopicName};
use odradek::codec::consumer_record::Partitions;
use odradek::group::Caller;
use std::rc::Rc;

/// Commits without being a member, and looks at what is committed.
pub async fn run_committer(users: Rc<Users>) {
    let act = async || {
        let world = users.world();
        // One that has members refuses.
        let group = some_group(world, users.settings.broker.groups);
        if world.one_in(3) {
            call(&users.broker, Request::Fetch(group), 0).await;
            return;
        }
        let sender = Sender { member: "", instance: None, generation: -1 };
        let what = users.something_to_commit(&Partitions::new());
        let commit = request::commit(&group, sender, -1, &what);
        call(&users.broker, Request::Commit(world.between(2, 9) as i16, commit), 10 * S).await;
    };
    users.crowd.now_and_then((100 * MS, 5 * S), act).await;
}

/// Deletes, looks, and takes members out.
pub async fn run_administrator(users: Rc<Users>) {
    let act = async || {
        let world = users.world();
        if users.is_settling.get() {
            return;
        }
        let group = some_group(world, users.settings.broker.groups);
        match world.below(12) {
            0..=2 => {
                call(&users.broker, Request::DeleteGroup(group), 10 * S).await;
            }
            3..=5 => {
                let topic = *users.crowd.pick(&TOPICS);
                call(&users.broker, request::delete_offsets(&group, topic, &[0, 1, 2]), 10 * S).await;
            }
            6 => {
                let instances = users.broker.watch.borrow().instances_of(&group);
                if !instances.is_empty() {
                    let instance = users.crowd.pick(&instances).clone();
                    call(&users.broker, request::leave(&group, &[("", Some(&instance))]), 0).await;
                }
            }
            _ => {
                call(&users.broker, Request::Describe(group), 0).await;
            }
        }
    };
    users.crowd.now_and_then((100 * MS, 10 * S), act).await;
}

/// Speaks in the name of members, in epochs that are not theirs, under instance ids that are others', and says what
/// nobody takes.
pub async fn run_stray(users: Rc<Users>) {
    let act = async || {
        if users.is_settling.get() {
            return;
        }
        let group = some_group(users.world(), users.settings.broker.groups);
        let request = something_wrong(&users, &group);
        call(&users.broker, request, 10 * S).await;
    };
    users.crowd.now_and_then((100 * MS, 4 * S), act).await;
}

fn something_wrong(users: &Users, group: &str) -> Request {
    let world = users.world();
    let (members, instances) = {
        let watch = users.broker.watch.borrow();
        (watch.members_of(group), watch.instances_of(group))
    };
    let of = |names: &[String]| {
        if names.is_empty() { "nobody".to_owned() } else { users.crowd.pick(names).clone() }
    };
    let member = of(&members);
    let instance = (world.one_in(2) && !instances.is_empty()).then(|| of(&instances));
    let epoch = users.broker.watch.borrow().epoch_of(group, &member).max(1);
    let other = match world.below(3) {
        0 => epoch + 1,
        1 => (epoch - 1).max(1),
        _ => (epoch - world.below(5) as i32).max(1),
    };
    let beat = ConsumerGroupHeartbeatRequest::default().with_group_id(group_id(group));
    let joining = || {
        let names = Some(vec![TopicName(text(users.crowd.pick::<&str>(&TOPICS)))]);
        beat.clone()
            .with_member_id(text(&format!("stray-{}", users.crowd.next())))
            .with_rebalance_timeout_ms(1000)
            .with_topic_partitions(Some(Vec::new()))
            .with_subscribed_topic_names(names)
    };
    let beat = match world.below(12) {
        0 => joining().with_server_assignor(Some(text(BAD_ASSIGNOR))),
        1 => joining().with_subscribed_topic_regex(Some(text(BAD_REGEX))),
        2 => joining().with_rebalance_timeout_ms(-1),
        3 => joining().with_member_epoch(-3),
        4 | 5 => {
            let sender = Sender { member: &member, instance: instance.as_deref(), generation: other };
            let what = users.something_to_commit(&Partitions::new());
            return Request::Commit(9, request::commit(group, sender, -1, &what));
        }
        6 => {
            let sender = Sender { member: &member, instance: instance.as_deref(), generation: other };
            return request::heartbeat(group, sender);
        }
        7 if world.one_in(4) => {
            return request::leave(group, &[(&member, instance.as_deref())]);
        }
        8 => beat
            .with_member_id(text(&format!("stray-{}", users.crowd.next())))
            .with_member_epoch(*users.crowd.pick(&[-1, 1, 7]))
            .with_instance_id(instance.as_deref().map(text)),
        _ => beat
            .with_member_id(text(&member))
            .with_member_epoch(other)
            .with_instance_id(instance.as_deref().map(text)),
    };
    Request::ConsumerHeartbeat(Caller { version: 1, ..Caller::default() }, beat)
}

/// Topics come, grow and go; and come again, with another id.
pub async fn run_topics(users: Rc<Users>) {
    let broker = users.broker.clone();
    let topics = broker.topics.clone();
    topics.is_unseen.set(users.settings.makes(Mistake::TopicsUnseen));
    topics.tells_one.set(users.settings.makes(Mistake::PatternsCutShort));
    let act = async || {
        let world = users.world();
        if users.is_settling.get() {
            return;
        }
        let name = *users.crowd.pick(&TOPICS);
        match topics.all().get(name) {
            None => {
                world.count("topic created");
                broker.set_topic(name, world.between(1, 4) as i32);
            }
            Some(topic) if world.one_in(3) && topic.partition_count < 8 => {
                world.count("topic grown");
                broker.set_topic(name, topic.partition_count + world.between(1, 2) as i32);
            }
            Some(_) if world.one_in(6) => {
                world.count("topic deleted");
                broker.delete_topic(name);
            }
            Some(_) => {}
        }
    };
    users.crowd.now_and_then((users.settings.topics_pause / 2, 2 * users.settings.topics_pause), act).await;
}
