//! Members by the classic protocol, in classic groups and in those of the newer one: eager, who let everything go
//! before they join, or cooperative, who keep what they have and let go what they are not given any more.

use crate::consumers::users::{Client, Profile, Users};
use crate::groups::network::call;
use crate::groups::request::{self, NotJoined, Reply, Request, Sender, text};
use crate::groups::settings::{MS, S};
use crate::world::{Micros, World};
use bytes::Bytes;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse, SyncGroupRequest};
use odradek::codec::consumer_protocol::{self, NamedPartitions, Subscription};
use odradek::codec::consumer_record::{Partitions, SubscribedTopic};
use odradek::codec::error_code::ErrorCode;
use odradek::group::Answer;
use odradek::group::topics::Topics;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Lives: from a client's start to its end.
struct Member {
    users: Rc<Users>,
    profile: Profile,
    number: u64,
    id: String,
    generation: i32,
    /// The generation that has told it what it reads: one that it has only joined has not yet.
    synced: i32,
    topics: BTreeSet<String>,
    owned: Partitions,
    /// The topics that it reads as they were when it led last: it sees to it that new partitions are read.
    led: Option<BTreeMap<String, SubscribedTopic>>,
    has_said_all: bool,
    end: Micros,
}

/// What a client makes of an answer.
enum Next {
    GoOn,
    JoinAgain,
    End,
}

pub async fn run(users: Rc<Users>, profile: Profile, number: u64) {
    let world = users.world();
    let end = world.now() + world.between(S, 60 * S);
    let topics = users.some_topics();
    let owned = Partitions::new();
    let mut member = Member {
        users: users.clone(),
        profile,
        number,
        id: String::new(),
        generation: -1,
        synced: -1,
        topics,
        owned,
        led: None,
        has_said_all: false,
        end,
    };
    member.tell();
    member.play().await;
}

fn write_partitions(out: &mut Vec<u8>, partitions: &NamedPartitions) {
    out.extend((partitions.len() as i32).to_be_bytes());
    for (topic, indexes) in partitions {
        out.extend((topic.len() as i16).to_be_bytes());
        out.extend(topic.as_bytes());
        out.extend((indexes.len() as i32).to_be_bytes());
        indexes.iter().for_each(|index| out.extend(index.to_be_bytes()));
    }
}

/// What a consumer says of itself: in Kafka's format, version 1.
fn subscription(topics: &BTreeSet<String>, owned: &NamedPartitions) -> Bytes {
    let mut out = vec![0, 1];
    out.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        out.extend((topic.len() as i16).to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend((-1i32).to_be_bytes());
    write_partitions(&mut out, owned);
    out.into()
}

impl Member {
    fn world(&self) -> &Rc<World> {
        self.users.world()
    }

    fn is_over(&self) -> bool {
        self.users.crowd.is_over() || (!self.users.is_settling.get() && self.world().now() > self.end)
    }

    fn tell(&self) {
        let client = Client {
            group: self.profile.group.clone(),
            member: self.id.clone(),
            epoch: self.synced,
            owned: self.owned.clone(),
            topics: self.topics.clone(),
            regex: None,
            is_classic: true,
        };
        self.users.tell(self.number, client);
    }

    fn sender(&self) -> Sender<'_> {
        let instance = self.profile.instance.as_deref();
        Sender { member: &self.id, instance, generation: self.generation }
    }

    fn lose_all(&mut self) {
        self.owned = Partitions::new();
        self.tell();
    }

    async fn play(&mut self) {
        loop {
            if self.is_over() {
                return self.go().await;
            }
            let response = match self.join().await {
                Ok(response) => response,
                Err(Next::End) => return,
                Err(_) => continue,
            };
            if self.id != *response.member_id {
                self.id = response.member_id.to_string();
            }
            self.generation = response.generation_id;
            self.tell();
            match self.sync(&response).await {
                Next::GoOn => {}
                Next::JoinAgain => continue,
                Next::End => return,
            }
            if let Next::End = self.stay().await {
                return;
            }
        }
    }

    async fn go(&mut self) {
        let world = self.world().clone();
        if self.id.is_empty() || world.one_in(2) {
            return world.count("consumer: died");
        }
        self.lose_all();
        let sender = self.sender();
        // A static member of the classic protocol goes without a word.
        if sender.instance.is_some() && !world.one_in(3) {
            return world.count("consumer: died");
        }
        let leave = request::leave(&self.profile.group, &[(sender.member, sender.instance)]);
        call(&self.users.broker, leave, 0).await;
        world.count("consumer: left");
    }

    /// After an error that says how to go on.
    async fn after(&mut self, error: ErrorCode) -> Next {
        self.world().sleep(self.world().between(MS, 500 * MS)).await;
        match error {
            ErrorCode::UnknownMemberId => {
                self.lose_all();
                (self.id, self.generation, self.synced) = (String::new(), -1, -1);
                Next::JoinAgain
            }
            ErrorCode::IllegalGeneration => {
                self.lose_all();
                Next::JoinAgain
            }
            error if request::is_final(error) => Next::End,
            _ => Next::JoinAgain,
        }
    }

    async fn join(&mut self) -> Result<JoinGroupResponse, Next> {
        let cooperates = self.users.settings.cooperates;
        if !cooperates && !self.owned.is_empty() {
            self.lose_all();
        }
        let profile = &self.profile;
        let name = if cooperates { "cooperative-sticky" } else { "range" };
        let metadata = subscription(&self.topics, &self.users.named(&self.owned));
        let join = JoinGroupRequest::default()
            .with_group_id(request::group_id(&profile.group))
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.sender().instance.map(text))
            .with_session_timeout_ms((profile.session / 1000) as i32)
            .with_rebalance_timeout_ms((profile.rebalance / 1000) as i32)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![request::protocol(name, metadata)]);
        let caller = request::caller(&profile.name, profile.version);
        match request::joined(call(&self.users.broker, Request::Join(caller, join), 60 * S).await) {
            Ok(response) => Ok(response),
            Err(NotJoined::Unanswered) => Err(Next::JoinAgain),
            Err(NotJoined::Named(id)) => {
                self.id = id;
                self.tell();
                Err(Next::JoinAgain)
            }
            Err(NotJoined::Refused(error)) => Err(self.after(error).await),
        }
    }

    /// Who leads says what everybody is to have: of each topic the readers share the partitions, and what another
    /// one still has is given to nobody yet.
    fn assignments(&mut self, response: &JoinGroupResponse) -> SyncGroupRequest {
        let request = request::sync(&self.profile.group, self.sender())
            .with_protocol_type(response.protocol_type.clone())
            .with_protocol_name(response.protocol_name.clone());
        self.led = None;
        if response.leader != response.member_id {
            return request;
        }
        self.led = Some(self.users.broker.topics.all());
        if response.skip_assignment {
            return request;
        }
        let said: BTreeMap<String, Subscription> = response
            .members
            .iter()
            .map(|member| {
                let said = consumer_protocol::subscription(&member.metadata).unwrap_or_default();
                (member.member_id.to_string(), said)
            })
            .collect();
        let mut given: BTreeMap<&String, NamedPartitions> =
            said.keys().map(|id| (id, BTreeMap::new())).collect();
        for (name, topic) in self.users.broker.topics.all() {
            let readers: Vec<&String> =
                said.iter().filter(|(_, said)| said.topics.contains(&name)).map(|(id, _)| id).collect();
            for index in (0..topic.partition_count).filter(|_| !readers.is_empty()) {
                let next = readers[index as usize % readers.len()];
                let has = |said: &Subscription| said.owned.get(&name).is_some_and(|all| all.contains(&index));
                if said.iter().all(|(id, said)| id == next || !has(said)) {
                    given.get_mut(next).expect("a reader").entry(name.clone()).or_default().insert(index);
                }
            }
        }
        let assignments = given.into_iter().map(|(id, partitions)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(id))
                .with_assignment(Bytes::from(consumer_protocol::write_assignment(1, &partitions)))
        });
        request.with_assignments(assignments.collect())
    }

    async fn sync(&mut self, response: &JoinGroupResponse) -> Next {
        let request = self.assignments(response);
        let synced = request::synced(call(&self.users.broker, Request::Sync(request), 30 * S).await);
        let assigned = match synced {
            Ok(assignment) => consumer_protocol::assignment(&assignment).unwrap_or_default(),
            Err(None) => return Next::JoinAgain,
            Err(Some(error)) => return self.after(error).await,
        };
        let topics = self.users.broker.topics.clone();
        let assigned: Partitions = assigned
            .into_iter()
            .filter_map(|(name, all)| Some((topics.named(&name)?.id, all.into_iter().collect())))
            .collect();
        let lets_go = self
            .owned
            .iter()
            .any(|(topic, indexes)| assigned.get(topic).is_none_or(|assigned| !indexes.is_subset(assigned)));
        if lets_go && self.world().one_in(2) {
            self.commit();
        }
        (self.owned, self.synced) = (assigned, self.generation);
        self.tell();
        match lets_go {
            true => Next::JoinAgain,
            false => Next::GoOn,
        }
    }

    /// A member of a generation: until there is a next one.
    async fn stay(&mut self) -> Next {
        let mut missed = 0;
        while !self.is_over() {
            let world = self.world().clone();
            let is_settling = self.users.is_settling.get();
            let session = self.profile.session;
            let freezes =
                !is_settling && self.profile.freezes != u64::MAX && world.one_in(self.profile.freezes);
            // Who learns of a rebalance later than it may join is taken out, comes back, and begins the next one.
            let in_time = if is_settling { self.profile.rebalance / 2 } else { Micros::MAX };
            let pause = match freezes {
                true => {
                    world.count("consumer: froze");
                    world.between(session, 2 * session)
                }
                false => world.between(session / 8, session / 3).min(in_time),
            };
            world.sleep(pause).await;
            if world.one_in(3) {
                self.commit();
            }
            if !is_settling && world.one_in(60) {
                world.count("consumer: changed its topics");
                self.topics = self.users.some_topics();
                self.tell();
                return Next::JoinAgain;
            }
            let topics = self.users.broker.topics.all();
            // Who came back to lead may not know that it does (KIP-814): at the end everybody joins once more.
            let is_due = world.now() >= self.users.says_all_from.get() && !self.has_said_all;
            if is_due || self.led.as_ref().is_some_and(|led| *led != topics) {
                self.has_said_all |= is_due;
                return Next::JoinAgain;
            }
            let heartbeat = request::heartbeat(&self.profile.group, self.sender());
            let error = match call(&self.users.broker, heartbeat, 0).await {
                None if missed < 3 => {
                    missed += 1;
                    continue;
                }
                None => return Next::JoinAgain,
                Some(Reply::Refused(error)) => error,
                Some(Reply::Answer(Answer::Heartbeat(error))) => error,
                Some(other) => unreachable!("a heartbeat is answered by a heartbeat: {other:?}"),
            };
            missed = 0;
            match error {
                ErrorCode::None | ErrorCode::CoordinatorLoadInProgress | ErrorCode::NotCoordinator => {}
                ErrorCode::RebalanceInProgress => {
                    let lingers = self.profile.lingers;
                    if !is_settling && lingers != u64::MAX && world.one_in(lingers) {
                        world.count("consumer: joins late");
                        world.sleep(world.below(2 * self.profile.rebalance)).await;
                    }
                    return Next::JoinAgain;
                }
                error => return self.after(error).await,
            }
        }
        Next::JoinAgain
    }

    fn commit(&self) {
        let version = self.users.world().between(7, 9) as i16;
        let what = self.users.something_to_commit(&self.owned);
        let request =
            Request::Commit(version, request::commit(&self.profile.group, self.sender(), -1, &what));
        let users = self.users.clone();
        self.world().spawn(async move {
            call(&users.broker, request, 10 * S).await;
        });
    }
}
