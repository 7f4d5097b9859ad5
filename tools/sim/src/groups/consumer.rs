//! Members of groups as clients are: they join, ask for their assignment, send heartbeats and commits, change
//! their minds, freeze, leave and die; and come back, some of them under the instance id that they had.

use crate::crowd::Crowd;
use crate::groups::broker::Broker;
use crate::groups::network::call;
use crate::groups::request::{self, Committing, NotJoined, Reply, Request, Sender, subscription, text};
use crate::groups::settings::{MS, S};
use crate::groups::watch::Watch;
use crate::groups::watch::kept::assignment;
use crate::world::{Micros, World};
use bytes::Bytes;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse, SyncGroupRequest};
use odradek::codec::error_code::ErrorCode;
use odradek::group::Answer;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The first versions that have instance ids.
const JOIN_INSTANCE_FROM: i16 = 5;
/// The last version of OffsetCommit that says how long an offset is kept.
const COMMIT_RETENTION_TO: i16 = 4;

/// What all clients of a seed share.
pub struct Users {
    pub broker: Rc<Broker<Watch>>,
    pub topics: Vec<String>,
    pub crowd: Crowd,
}

impl Users {
    pub fn new(broker: &Rc<Broker<Watch>>) -> Rc<Users> {
        Rc::new(Users {
            broker: broker.clone(),
            topics: broker.topics.all().into_keys().collect(),
            crowd: Crowd::new(&broker.world),
        })
    }

    pub fn world(&self) -> &Rc<World> {
        &self.broker.world
    }

    /// Something to commit: a partition or two, and now and then too much to say of it.
    pub fn something_to_commit(&self) -> Vec<Committing> {
        let world = self.world();
        let count = world.between(1, 2);
        let mut what: Vec<Committing> = Vec::new();
        for _ in 0..count {
            let topic = self.crowd.pick(&self.topics).clone();
            let partition = world.below(self.broker.settings.partitions as u64) as i32;
            if what.iter().any(|other| other.topic == topic && other.partition == partition) {
                continue;
            }
            let metadata = *self.crowd.pick(&["", "", "note", "more than is allowed"]);
            what.push(Committing {
                topic,
                partition,
                offset: self.crowd.next() as i64,
                metadata: metadata.to_owned(),
            });
        }
        what
    }

    /// How long an offset is to be kept, of clients of that version.
    pub fn retention_ms(&self, version: i16) -> i64 {
        let says = version <= COMMIT_RETENTION_TO && self.world().one_in(3);
        if says { self.world().between(1, 60_000) as i64 } else { -1 }
    }
}

/// What a member is like.
#[derive(Clone, Debug)]
pub struct Profile {
    pub group: String,
    pub name: String,
    pub instance: Option<String>,
    pub session: Micros,
    pub rebalance: Micros,
    pub protocol_type: &'static str,
    pub protocols: Vec<&'static str>,
    pub join_version: i16,
    pub commit_version: i16,
    /// One heartbeat in so many is forgotten for longer than a session.
    pub freezes: u64,
}

impl Profile {
    pub fn draw(users: &Users, group: usize, slot: u64) -> Profile {
        let world = users.world();
        let settings = &users.broker.settings;
        let join_version = world.between(0, 9) as i16;
        // Two names among all: they meet each other.
        let instance = format!("i{}", world.below(2));
        let is_static = join_version >= JOIN_INSTANCE_FROM && world.one_in(2);
        let session = match is_static {
            // Everybody of that name has the same.
            true => settings.sessions.1,
            false => world.between(settings.sessions.0, settings.sessions.1),
        };
        Profile {
            group: format!("g{group}"),
            name: format!("c{slot}"),
            instance: is_static.then_some(instance),
            session,
            rebalance: world.between(S, settings.rebalance_max.max(S)),
            protocol_type: if world.one_in(30) { "connect" } else { "consumer" },
            protocols: match world.below(12) {
                0 => vec!["roundrobin", "range"],
                1 => vec!["other"],
                2..=5 => vec!["range", "roundrobin"],
                _ => vec!["range"],
            },
            join_version,
            // About as old as the rest of the client.
            commit_version: (join_version + 2).clamp(2, 9),
            freezes: *users.crowd.pick(&[10, 50, u64::MAX]),
        }
    }
}

/// Lives: from a client's start to its end.
struct Member {
    users: Rc<Users>,
    profile: Profile,
    id: String,
    generation: i32,
    topics: Vec<String>,
    /// When it has had enough.
    end: Micros,
}

/// What a client makes of an answer.
enum Next {
    /// Of its generation it knows all that it has to.
    GoOn,
    JoinAgain,
    End,
}

/// A place for members, one after the other.
pub async fn run_slot(users: Rc<Users>, group: usize, slot: u64) {
    let client = async {
        let mut profile = Profile::draw(&users, group, slot);
        while !users.crowd.is_over() {
            let world = users.world();
            world.sleep(world.below(10 * S)).await;
            let topics = some_topics(&users);
            let end = world.now() + world.between(S, 60 * S);
            let member = Member {
                users: users.clone(),
                profile: profile.clone(),
                id: String::new(),
                generation: -1,
                topics,
                end,
            };
            member.run().await;
            // A static member starts again as who it was, mostly.
            if profile.instance.is_some() && !users.world().one_in(4) {
                users.world().count("consumer: static member came back");
            } else {
                profile = Profile::draw(&users, group, slot);
            }
        }
    };
    users.crowd.attend(client).await;
}

fn some_topics(users: &Users) -> Vec<String> {
    let world = users.world();
    let mut topics: Vec<String> = users.topics.iter().filter(|_| world.one_in(2)).cloned().collect();
    if topics.is_empty() {
        topics.push(users.topics[0].clone());
    }
    topics
}

impl Member {
    async fn run(mut self) {
        loop {
            if self.is_over() {
                return self.go().await;
            }
            let response = match self.join().await {
                Ok(response) => response,
                Err(Next::End) => return,
                Err(_) => continue,
            };
            self.id = response.member_id.to_string();
            self.generation = response.generation_id;
            // Some die before they ask for anything.
            if self.world().one_in(40) {
                return self.world().count("consumer: died");
            }
            match self.sync(&response).await {
                Next::GoOn => {}
                Next::JoinAgain => continue,
                Next::End => return,
            }
            match self.stay().await {
                Next::GoOn | Next::JoinAgain => {}
                Next::End => return,
            }
        }
    }

    fn world(&self) -> &Rc<World> {
        self.users.world()
    }

    fn is_over(&self) -> bool {
        self.users.crowd.is_over() || self.world().now() > self.end
    }

    fn sender(&self) -> Sender<'_> {
        let has_instance = self.profile.join_version >= JOIN_INSTANCE_FROM;
        Sender {
            member: &self.id,
            instance: self.profile.instance.as_deref().filter(|_| has_instance),
            generation: self.generation,
        }
    }

    async fn go(self) {
        if self.id.is_empty() || self.world().one_in(2) {
            return self.world().count("consumer: died");
        }
        let sender = self.sender();
        let leave = request::leave(&self.profile.group, &[(sender.member, sender.instance)]);
        call(&self.users.broker, leave, 0).await;
        self.world().count("consumer: left");
    }

    async fn ask(&self, request: Request, waits: Micros) -> Option<Reply> {
        call(&self.users.broker, request, waits).await
    }

    /// After an error that says how to go on.
    async fn after(&mut self, error: ErrorCode) -> Next {
        self.world().sleep(self.world().between(MS, 500 * MS)).await;
        match error {
            ErrorCode::UnknownMemberId => {
                self.id.clear();
                Next::JoinAgain
            }
            error if request::is_final(error) => Next::End,
            _ => Next::JoinAgain,
        }
    }

    async fn join(&mut self) -> Result<JoinGroupResponse, Next> {
        let profile = &self.profile;
        let protocols = profile
            .protocols
            .iter()
            .map(|name| request::protocol(name, subscription(&self.topics)))
            .collect();
        let is_invalid = self.world().one_in(200);
        let join = JoinGroupRequest::default()
            .with_group_id(request::group_id(&profile.group))
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.sender().instance.map(text))
            .with_session_timeout_ms(if is_invalid { 1 } else { (profile.session / 1000) as i32 })
            .with_rebalance_timeout_ms((profile.rebalance / 1000) as i32)
            .with_protocol_type(text(profile.protocol_type))
            .with_protocols(protocols);
        let caller = request::caller(&profile.name, profile.join_version);
        // Some do not wait for the others.
        let waits = if self.world().one_in(10) { 0 } else { 60 * S };
        match request::joined(self.ask(Request::Join(caller, join), waits).await) {
            Ok(response) => Ok(response),
            Err(NotJoined::Unanswered) => Err(Next::JoinAgain),
            Err(NotJoined::Named(id)) => {
                self.id = id;
                Err(Next::JoinAgain)
            }
            Err(NotJoined::Refused(error)) => Err(self.after(error).await),
        }
    }

    /// Who leads says what everybody is to do; and may forget somebody.
    fn assignments(&self, response: &JoinGroupResponse) -> SyncGroupRequest {
        let request = request::sync(&self.profile.group, self.sender())
            .with_protocol_type(response.protocol_type.clone())
            .with_protocol_name(response.protocol_name.clone());
        if response.leader != response.member_id || response.skip_assignment {
            return request;
        }
        let members = response.members.iter().map(|member| member.member_id.to_string());
        let named: BTreeSet<String> = members.filter(|_| !self.world().one_in(20)).collect();
        with_assignments(&self.users, request, &named)
    }

    async fn sync(&mut self, response: &JoinGroupResponse) -> Next {
        let request = self.assignments(response);
        let world = self.world();
        if world.one_in(20) {
            world.sleep(world.below(self.profile.rebalance)).await;
        }
        match request::synced(self.ask(Request::Sync(request), 30 * S).await) {
            Ok(_) => Next::GoOn,
            Err(None) => Next::JoinAgain,
            Err(Some(error)) => self.after(error).await,
        }
    }

    /// A member of a generation: until there is a next one.
    async fn stay(&mut self) -> Next {
        let mut missed = 0;
        while !self.is_over() {
            let world = self.world();
            let pause = match world.one_in(self.profile.freezes) {
                true => {
                    world.count("consumer: froze");
                    world.between(self.profile.session, 2 * self.profile.session)
                }
                false => world.between(self.profile.session / 8, self.profile.session / 3),
            };
            world.sleep(pause).await;
            if world.one_in(2) {
                self.commit();
            }
            if world.one_in(60) {
                world.count("consumer: changed its topics");
                self.topics = some_topics(&self.users);
                return Next::JoinAgain;
            }
            let heartbeat = request::heartbeat(&self.profile.group, self.sender());
            let error = match self.ask(heartbeat, 0).await {
                // Whoever gets no answer for long looks for the coordinator, and joins again.
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
                ErrorCode::None => {}
                ErrorCode::CoordinatorLoadInProgress | ErrorCode::NotCoordinator => {}
                error => {
                    // What was read is committed before it goes to somebody else.
                    if error == ErrorCode::RebalanceInProgress && self.world().one_in(2) {
                        self.commit();
                    }
                    return self.after(error).await;
                }
            }
        }
        Next::JoinAgain
    }

    /// Commits on the side: heartbeats go on.
    fn commit(&self) {
        let version = self.profile.commit_version;
        let what = self.users.something_to_commit();
        let mut sender = self.sender();
        if version < 7 {
            sender.instance = None;
        }
        let retention = self.users.retention_ms(version);
        let request =
            Request::Commit(version, request::commit(&self.profile.group, sender, retention, &what));
        let users = self.users.clone();
        self.world().spawn(async move {
            call(&users.broker, request, 10 * S).await;
        });
    }
}

/// A sync that hands something out to these.
pub fn with_assignments(
    users: &Users,
    request: SyncGroupRequest,
    named: &BTreeSet<String>,
) -> SyncGroupRequest {
    let number = users.crowd.next();
    users.broker.watch.borrow_mut().kept.names(number, named.clone());
    let (generation, leader) = (request.generation_id, request.member_id.to_string());
    let assignments = named.iter().map(|member| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from(assignment(number, generation, &leader, member)))
    });
    request.with_assignments(assignments.collect())
}
