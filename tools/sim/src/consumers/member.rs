//! Members by the newer protocol, as clients are: they say all that there is to say when they join and after an
//! answer that did not come, and only what is new in between; they let partitions go before they take others, at
//! once, late or never; they commit, change their minds, freeze, leave and die, and come back.

use crate::consumers::classic;
use crate::consumers::users::{Client, Profile, REGEXES, Users};
use crate::consumers::watch::answers::partitions_of;
use crate::groups::network::call;
use crate::groups::request::{self, Reply, Request, Sender, error, group_id, text};
use crate::groups::settings::{MS, S};
use crate::world::{Micros, World};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicName};
use odradek::codec::consumer_record::Partitions;
use odradek::codec::error_code::ErrorCode;
use odradek::group::{Answer, Caller};
use std::collections::BTreeSet;
use std::rc::Rc;

const LEAVES: i32 = -1;
const AWAY: i32 = -2;

/// Lives: from a client's start to its end.
struct Member {
    users: Rc<Users>,
    profile: Profile,
    number: u64,
    id: String,
    epoch: i32,
    topics: BTreeSet<String>,
    regex: Option<String>,
    /// What it was told to have; what it has.
    assigned: Partitions,
    owned: Partitions,
    /// The partitions that it has told of.
    said: Partitions,
    /// It subscribes to something else than it has told.
    is_changed: bool,
    /// All that there is to say has to be said.
    says_all: bool,
    said_all: Micros,
    /// When it lets go what it is not to have any more.
    lets_go: Option<Micros>,
    /// When it has had enough.
    end: Micros,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

/// A place for members of both protocols, one after the other.
pub async fn run_slot(users: Rc<Users>, group: usize, slot: u64) {
    let client = async {
        let mut profile = Profile::draw(&users, group, slot);
        let mut id = String::new();
        loop {
            let world = users.world();
            let pause = world.below(10 * S);
            world.sleep(pause).await;
            if users.crowd.is_over() || users.is_settling.get() {
                break;
            }
            let number = users.crowd.next();
            id = match profile.is_classic {
                true => {
                    classic::run(users.clone(), profile.clone(), number).await;
                    String::new()
                }
                false => run(users.clone(), profile.clone(), number, &id).await,
            };
            users.gone(number);
            // A static member starts again as who it was, mostly; some come back as another client, by the other
            // protocol or another version.
            let world = users.world();
            if profile.instance.is_some() && !world.one_in(4) {
                world.count("consumer: static member came back");
                let is_other = users.settings.classic != u64::MAX && world.one_in(4);
                if is_other {
                    let instance = profile.instance.take();
                    profile = Profile { instance, ..Profile::draw(&users, group, slot) };
                    profile.version =
                        if profile.is_classic { profile.version.max(5) } else { profile.version };
                }
                // A client that subscribes once more has the id that it had; another one only knows the instance's.
                // Else one of version 0 would go by an id made by one of version 1, a request of which, come late,
                // says a regex: version 0 has no way to take it back.
                if !world.one_in(3) || is_other {
                    id.clear();
                }
            } else {
                profile = Profile::draw(&users, group, slot);
                id.clear();
            }
        }
    };
    users.crowd.attend(client).await;
}

/// Returns the id that it had.
async fn run(users: Rc<Users>, profile: Profile, number: u64, id: &str) -> String {
    let world = users.world();
    let makes_id = profile.version >= 1;
    let id = match (id.is_empty(), makes_id) {
        (true, true) => format!("m{number}"),
        _ => id.to_owned(),
    };
    let end = world.now() + world.between(S, 60 * S);
    let mut member = Member {
        number,
        id,
        epoch: 0,
        topics: BTreeSet::new(),
        regex: None,
        assigned: Partitions::new(),
        owned: Partitions::new(),
        said: Partitions::new(),
        is_changed: false,
        says_all: true,
        said_all: 0,
        lets_go: None,
        end,
        users: users.clone(),
        profile,
    };
    member.subscribe();
    member.tell();
    member.play().await;
    member.id
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
            epoch: self.epoch,
            owned: self.owned.clone(),
            topics: self.topics.clone(),
            regex: self.regex.clone(),
            is_classic: false,
        };
        self.users.tell(self.number, client);
    }

    fn subscribe(&mut self) {
        let regexes = self.users.settings.regexes;
        let by_regex = self.profile.version >= 1 && regexes != u64::MAX && self.world().one_in(regexes);
        self.regex = by_regex.then(|| (*self.users.crowd.pick(&REGEXES)).to_owned());
        self.topics = match by_regex && !self.world().one_in(4) {
            true => BTreeSet::new(),
            false => self.users.some_topics(),
        };
    }

    async fn play(&mut self) {
        while !self.is_over() {
            if self.beat().await == Next::End {
                return;
            }
            self.pause().await;
            let world = self.world();
            if self.epoch > 0 && world.one_in(3) {
                self.commit();
            }
            if !self.users.is_settling.get() && world.one_in(60) {
                world.count("consumer: changed its topics");
                self.subscribe();
                self.is_changed = true;
                self.tell();
            }
        }
        self.go().await;
    }

    /// Until the next heartbeat: soon, if there is something to say.
    async fn pause(&mut self) {
        let world = self.world().clone();
        let is_settling = self.users.is_settling.get();
        let session = self.profile.session;
        let mut pause =
            match !is_settling && self.profile.freezes != u64::MAX && world.one_in(self.profile.freezes) {
                true => {
                    world.count("consumer: froze");
                    world.between(session, 2 * session)
                }
                false => world.between(session / 8, session / 3),
            };
        if let Some(at) = self.lets_go {
            let at = if is_settling { world.now() } else { at };
            let left = at.saturating_sub(world.now());
            if left <= pause {
                world.sleep(left).await;
                self.let_go();
                pause = 0;
            }
        } else if self.says_all || self.owned != self.said || self.epoch == 0 {
            pause = pause.min(world.below(200 * MS));
        }
        world.sleep(pause).await;
    }

    /// It reads what it is to read, and nothing else.
    fn let_go(&mut self) {
        if self.world().one_in(2) {
            self.commit();
        }
        self.lets_go = None;
        self.owned = self.assigned.clone();
        self.tell();
    }

    fn request(&mut self) -> ConsumerGroupHeartbeatRequest {
        let now = self.world().now();
        let is_due = now >= self.users.says_all_from.get() && self.said_all < self.users.says_all_from.get();
        let says_all = self.says_all || self.epoch == 0 || is_due;
        if says_all {
            self.said_all = now;
        }
        let owned = (says_all || self.owned != self.said).then(|| {
            let topics = self.owned.iter().map(|(topic, indexes)| {
                TopicPartitions::default()
                    .with_topic_id(topic.0)
                    .with_partitions(indexes.iter().copied().collect())
            });
            topics.collect()
        });
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(&self.profile.group))
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_instance_id(self.profile.instance.as_deref().map(text))
            .with_topic_partitions(owned);
        let request = match says_all || self.is_changed {
            true => {
                let names = self.topics.iter().map(|name| TopicName(text(name))).collect();
                let regex =
                    (self.profile.version >= 1).then(|| text(self.regex.as_deref().unwrap_or_default()));
                request.with_subscribed_topic_names(Some(names)).with_subscribed_topic_regex(regex)
            }
            false => request,
        };
        match says_all {
            true => request
                .with_rebalance_timeout_ms((self.profile.rebalance / 1000) as i32)
                .with_server_assignor(self.profile.assignor.map(text)),
            false => request,
        }
    }

    async fn beat(&mut self) -> Next {
        let request = self.request();
        let said = self.owned.clone();
        self.is_changed = false;
        let caller = Caller {
            client_id: self.profile.name.clone(),
            client_host: "/127.0.0.1".to_owned(),
            version: self.profile.version,
        };
        let reply = call(&self.users.broker, Request::ConsumerHeartbeat(caller, request), 0).await;
        let response = match reply {
            None | Some(Reply::Refused(_)) => {
                self.says_all = true;
                return Next::GoOn;
            }
            Some(Reply::Answer(Answer::ConsumerHeartbeat(response))) => response,
            Some(other) => unreachable!("a heartbeat is answered by a heartbeat: {other:?}"),
        };
        match error(response.error_code) {
            ErrorCode::None => {
                self.said = said;
                self.says_all = false;
                self.take(&response);
            }
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId => {
                // It abandons all that it has, and begins anew.
                self.world().count("consumer: began anew");
                (self.epoch, self.says_all, self.lets_go) = (0, true, None);
                self.owned = Partitions::new();
                self.assigned = Partitions::new();
                self.tell();
            }
            ErrorCode::UnreleasedInstanceId if !self.world().one_in(4) => {
                self.says_all = true;
                let world = self.world().clone();
                world.sleep(world.below(self.profile.session)).await;
            }
            ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::UnknownServerError => self.says_all = true,
            ErrorCode::GroupIdNotFound if self.epoch > 0 => {
                (self.epoch, self.says_all, self.lets_go) = (0, true, None);
                self.owned = Partitions::new();
                self.assigned = Partitions::new();
                self.tell();
            }
            _ => return Next::End,
        }
        Next::GoOn
    }

    fn take(&mut self, response: &ConsumerGroupHeartbeatResponse) {
        self.id = response.member_id.as_deref().unwrap_or_default().to_owned();
        self.epoch = response.member_epoch;
        if let Some(assigned) = partitions_of(response) {
            self.assigned = assigned;
        }
        let has_to_let_go = self.owned.iter().any(|(topic, indexes)| {
            self.assigned.get(topic).is_none_or(|assigned| !indexes.is_subset(assigned))
        });
        if !has_to_let_go {
            self.lets_go = None;
            self.owned = self.assigned.clone();
        } else if self.lets_go.is_none() {
            let world = self.world();
            let lingers = self.profile.lingers;
            let time = match lingers != u64::MAX && world.one_in(lingers) {
                true if world.one_in(2) => {
                    world.count("consumer: lets nothing go");
                    1000 * S
                }
                true => world.below(self.profile.rebalance),
                false => world.below(50 * MS),
            };
            self.lets_go = Some(world.now() + time);
        }
        self.tell();
    }

    async fn go(&mut self) {
        let world = self.world().clone();
        if self.epoch == 0 || world.one_in(3) {
            return world.count("consumer: died");
        }
        // What it had is not read any more before it says so.
        self.owned = Partitions::new();
        self.tell();
        let is_away = self.profile.instance.is_some() && !world.one_in(4);
        let leave = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(&self.profile.group))
            .with_member_id(text(&self.id))
            .with_member_epoch(if is_away { AWAY } else { LEAVES })
            .with_instance_id(self.profile.instance.as_deref().map(text));
        let caller = Caller { version: self.profile.version, ..Caller::default() };
        call(&self.users.broker, Request::ConsumerHeartbeat(caller, leave), 0).await;
        world.count("consumer: left");
    }

    /// Commits on the side: heartbeats go on.
    fn commit(&self) {
        let version = if self.world().one_in(30) { 8 } else { 9 };
        let sender =
            Sender { member: &self.id, instance: self.profile.instance.as_deref(), generation: self.epoch };
        let what = self.users.something_to_commit(&self.owned);
        let request = Request::Commit(version, request::commit(&self.profile.group, sender, -1, &what));
        let users = self.users.clone();
        self.world().spawn(async move {
            call(&users.broker, request, 10 * S).await;
        });
    }
}
