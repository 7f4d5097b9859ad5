//! What all clients of a seed share, what each of them is like, and what it is at.

use crate::consumers::settings::Settings;
use crate::consumers::watch::Watch;
use crate::crowd::Crowd;
use crate::groups::broker::Broker;
use crate::groups::request::Committing;
use crate::groups::settings::S;
use crate::world::{Micros, World};
use odradek::codec::consumer_record::Partitions;
use odradek::group::consumer::regex::TopicPattern;
use odradek::group::topics::Topics;
use odradek::types::TopicId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Topics that come and go.
pub const TOPICS: [&str; 6] = ["audit", "logs-a", "logs-b", "orders-a", "orders-b", "orders-c"];
/// What members subscribe by; more than a group holds against all topics while a heartbeat waits.
pub const REGEXES: [&str; 7] = [".*", "orders-.*", "logs-.*", ".*-a", ".*-b", "audit|orders-c", "none"];
/// Names that are given to static members: they meet each other.
const INSTANCES: u64 = 3;

/// What a client is doing, as it knows itself.
#[derive(Clone, Debug, Default)]
pub struct Client {
    pub group: String,
    pub member: String,
    /// Or the generation.
    pub epoch: i32,
    pub owned: Partitions,
    pub topics: BTreeSet<String>,
    pub regex: Option<String>,
    pub is_classic: bool,
}

impl Client {
    pub fn reads(&self, topic: &str) -> bool {
        let matches = |regex: &String| TopicPattern::new(regex).is_ok_and(|pattern| pattern.matches(topic));
        self.topics.contains(topic) || self.regex.as_ref().is_some_and(matches)
    }
}

/// What a member is like.
#[derive(Clone, Debug)]
pub struct Profile {
    pub group: String,
    pub name: String,
    pub instance: Option<String>,
    pub is_classic: bool,
    pub session: Micros,
    pub rebalance: Micros,
    pub assignor: Option<&'static str>,
    /// Of ConsumerGroupHeartbeat, or of JoinGroup.
    pub version: i16,
    /// One heartbeat in so many is forgotten for longer than a session.
    pub freezes: u64,
    /// One time in so many it does not let partitions go, or not soon.
    pub lingers: u64,
}

/// Lives: one per seed.
pub struct Users {
    pub broker: Rc<Broker<Watch>>,
    pub settings: Settings,
    pub crowd: Crowd,
    /// Members stay, and nothing about them changes.
    pub is_settling: Cell<bool>,
    /// From then on everybody says once more all that there is to say.
    pub says_all_from: Cell<Micros>,
    /// Those that are members, or want to be.
    pub clients: RefCell<BTreeMap<u64, Client>>,
}

impl Users {
    pub fn new(broker: &Rc<Broker<Watch>>, settings: Settings) -> Rc<Users> {
        Rc::new(Users {
            broker: broker.clone(),
            settings,
            crowd: Crowd::new(&broker.world),
            is_settling: Cell::new(false),
            says_all_from: Cell::new(Micros::MAX),
            clients: RefCell::default(),
        })
    }

    pub fn world(&self) -> &Rc<World> {
        &self.broker.world
    }

    /// A client is at this now.
    pub fn tell(&self, number: u64, client: Client) {
        let mut watch = self.broker.watch.borrow_mut();
        watch.reads(&client.group, number, (&client.member, client.epoch), &client.owned);
        drop(watch);
        self.clients.borrow_mut().insert(number, client);
    }

    /// It is no more, and reads nothing.
    pub fn gone(&self, number: u64) {
        let Some(client) = self.clients.borrow_mut().remove(&number) else { return };
        let mut watch = self.broker.watch.borrow_mut();
        watch.reads(&client.group, number, (&client.member, client.epoch), &Partitions::new());
    }

    pub fn some_topics(&self) -> BTreeSet<String> {
        let world = self.world();
        let mut topics: BTreeSet<String> =
            TOPICS.iter().filter(|_| world.one_in(2)).map(|name| (*name).to_owned()).collect();
        if topics.is_empty() {
            topics.insert((*self.crowd.pick(&TOPICS)).to_owned());
        }
        topics
    }

    /// Something to commit, of what a member reads if it reads anything.
    pub fn something_to_commit(&self, owned: &Partitions) -> Vec<Committing> {
        let world = self.world();
        let own: Vec<(TopicId, i32)> =
            owned.iter().flat_map(|(topic, all)| all.iter().map(|index| (*topic, *index))).collect();
        let (topic, partition) = match own.is_empty() || world.one_in(8) {
            true => ((*self.crowd.pick(&TOPICS)).to_owned(), world.below(3) as i32),
            false => {
                let (topic, index) = *self.crowd.pick(&own);
                (self.broker.topics.name_of(topic), index)
            }
        };
        let metadata = *self.crowd.pick(&["", "", "note", "more than is allowed"]);
        vec![Committing { topic, partition, offset: self.crowd.next() as i64, metadata: metadata.to_owned() }]
    }

    /// What those partitions are called that there still are.
    pub fn named(&self, partitions: &Partitions) -> BTreeMap<String, BTreeSet<i32>> {
        let topics = &self.broker.topics;
        let named = partitions
            .iter()
            .filter_map(|(id, indexes)| Some((topics.name(*id)?, indexes.iter().copied().collect())));
        named.collect()
    }
}

impl Profile {
    pub fn draw(users: &Users, group: usize, slot: u64) -> Profile {
        let world = users.world();
        let settings = &users.settings;
        let is_classic = settings.classic != u64::MAX && world.one_in(settings.classic);
        let version = match is_classic {
            true => world.between(2, 9) as i16,
            false => i16::from(!world.one_in(6)),
        };
        let may_be_static = !is_classic || version >= 5;
        let instance = format!("i{}", world.below(INSTANCES));
        Profile {
            group: format!("g{group}"),
            name: format!("c{slot}"),
            instance: (may_be_static && world.one_in(3)).then_some(instance),
            is_classic,
            session: settings.session(),
            rebalance: world.between(S, settings.broker.rebalance_max.max(S)),
            assignor: *users.crowd.pick(&[None, None, Some("uniform"), Some("range")]),
            version,
            freezes: *users.crowd.pick(&[15, 60, u64::MAX]),
            lingers: *users.crowd.pick(&[4, 20, u64::MAX]),
        }
    }
}
