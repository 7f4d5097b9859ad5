//! What is expected of a coordinator, told by what goes in and comes out of it, and the checks.
//!
//! It knows groups as their clients do: from answers. Where a client cannot be certain, neither is it, and checks
//! nothing: a member is *surely* one while it has its assignment of the newest generation that anybody was told of,
//! and said so within its session. What is certain on the other side: who left, who was replaced, which
//! generation is over, when a member was heard last. [`kept`] knows what is in the log.

pub mod kept;

use crate::groups::request::{Request, Sender, committed, error, errors};
use crate::groups::settings::{MS, Mistake, Settings, check};
use crate::groups::watch::kept::Kept;
use crate::groups::witness::{self, Witness};
use crate::world::{Micros, World};
use crate::writes::WriteEnd;
use kafka_protocol::messages::{JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse};
use odradek::codec::error_code::ErrorCode;
use odradek::codec::group_record::{GroupRecord, GroupValue};
use odradek::group::coordinator::Coordinator;
use odradek::group::{Answer, WriteId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Lives: one per seed.
pub struct Watch {
    world: Rc<World>,
    pub kept: Kept,
    groups: BTreeMap<String, GroupWatch>,
    /// A deadline is looked at so late at most.
    lateness: Micros,
    /// The longest session of all.
    session_max: Micros,
    settings: Settings,
}

/// A group in one run of the broker.
#[derive(Default)]
struct GroupWatch {
    /// The newest that anybody was told of.
    generation: i32,
    leaders: BTreeMap<i32, String>,
    members: BTreeMap<String, MemberWatch>,
    /// Who is known by an instance id.
    holders: BTreeMap<String, String>,
    /// Ids whose instance another one has taken.
    fenced: BTreeSet<String>,
    /// Ids that will never be members again.
    left: BTreeSet<String>,
    /// Members that were seen and nobody was told of, since when: who waits for a first answer, and places of
    /// static members that nobody could be put into.
    strangers: BTreeMap<String, Micros>,
}

#[derive(Default)]
struct MemberWatch {
    session: Micros,
    /// How long it has to join again, once it could know that it has to.
    rebalance: Micros,
    instance: Option<String>,
    /// When it was heard last, or answered: at the latest.
    heard: Micros,
    /// When it certainly was.
    alive: Micros,
    /// When it certainly did not have to join again.
    settled: Micros,
    /// The generation that it was told of; that began a session.
    generation: i32,
    /// The generation that it has its assignment of.
    synced: Option<i32>,
    /// It may have been taken out.
    is_doubtful: bool,
    topics: BTreeSet<String>,
}

impl GroupWatch {
    fn is_surely_member(&self, id: &str, now: Micros) -> bool {
        self.members.get(id).is_some_and(|member| {
            let is_heard = now < member.alive + member.session;
            let is_in_time = is_heard && now < member.settled + member.rebalance;
            member.synced == Some(self.generation) && is_in_time && !member.is_doubtful
        }) && !self.left.contains(id)
            && !self.fenced.contains(id)
    }

    fn sure_members(&self, now: Micros) -> impl Iterator<Item = &MemberWatch> {
        let is_sure = move |id: &&String| self.is_surely_member(id, now);
        self.members.keys().filter(is_sure).map(|id| &self.members[id])
    }

    /// Another member certainly has the sender's instance id.
    fn has_other_holder(&self, sender: &Sender<'_>, now: Micros) -> bool {
        let holder = sender.instance.and_then(|instance| self.holders.get(instance));
        holder.is_some_and(|holder| holder != sender.member && self.is_surely_member(holder, now))
    }

    /// It was answered as only a member can expect.
    fn lives(&mut self, id: &str, now: Micros, answer: ErrorCode) {
        if let Some(member) = self.members.get_mut(id) {
            member.alive = now;
            member.is_doubtful = false;
            if answer == ErrorCode::None {
                member.settled = now;
            }
        }
    }

    fn doubt(&mut self, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.is_doubtful = true;
        }
    }
}

/// What was known when a request came.
#[derive(Clone, Debug)]
pub struct Known {
    generation: i32,
    /// Its sender cannot be a member any more.
    is_gone: bool,
    is_fenced: bool,
    /// Its sender is a member.
    is_sure: bool,
    /// Another member certainly has its instance id.
    has_holder: bool,
    /// The group certainly has members.
    has_members: bool,
}

type Asked = witness::Asked<Known>;

impl Watch {
    pub fn new(world: Rc<World>, settings: Settings) -> Watch {
        let retention = settings.coordinator.offsets_retention.as_micros() as Micros;
        Watch {
            kept: Kept::new(world.clone(), retention),
            world,
            groups: BTreeMap::new(),
            // What expires is looked at when it is due, and then the walk comes by.
            lateness: settings.lateness_max + MS,
            session_max: settings.sessions.1,
            settings,
        }
    }

    fn finding(&self, check: &'static str, what: std::fmt::Arguments<'_>) {
        self.world.finding(check, what);
    }

    /// A replay has ended: members are there again as the log has them.
    fn restored_group(&mut self, id: &str, value: &GroupValue) {
        let now = self.world.now();
        let group = self.groups.entry(id.to_owned()).or_default();
        group.generation = value.generation;
        for member in &value.members {
            let topics = odradek::codec::consumer_protocol::subscribed_topics(&member.subscription);
            let known = MemberWatch {
                session: member.session_timeout_ms as Micros * 1000,
                instance: member.instance_id.clone(),
                heard: now,
                alive: now,
                settled: now,
                rebalance: member.rebalance_timeout_ms as Micros * 1000,
                generation: value.generation,
                synced: Some(value.generation),
                is_doubtful: false,
                topics: topics.unwrap_or_default().into_iter().map(str::to_owned).collect(),
            };
            group.members.insert(member.member_id.clone(), known);
            if let Some(instance) = &member.instance_id {
                group.holders.insert(instance.clone(), member.member_id.clone());
            }
        }
    }

    /// Sessions of a group's members begin.
    fn begin_sessions(&mut self, id: &str) {
        let now = self.world.now();
        if let Some(group) = self.groups.get_mut(id) {
            group
                .members
                .values_mut()
                .for_each(|member| (member.heard, member.alive, member.settled) = (now, now, now));
        }
    }

    /// The group is gone from the log: another one of its name begins anew.
    fn group_gone(&mut self, id: &str) {
        let now = self.world.now();
        let Some(group) = self.groups.remove(id) else { return };
        if group.sure_members(now).next().is_some() {
            self.finding(check::NOT_TAKEN_AWAY, format_args!("{id} had members when it was taken away"));
        }
    }

    // --- Requests

    /// A request comes to the coordinator.
    fn note_arrival(&mut self, request: &Request) -> Asked {
        let now = self.world.now();
        self.kept.asked(request);
        let group = self.groups.entry(request.group().to_owned()).or_default();
        let sender = request.sender();
        let member = sender.map_or("", |sender| sender.member);
        let holder = sender.and_then(|sender| group.holders.get(sender.instance?));
        let has_holder = sender.is_some_and(|sender| group.has_other_holder(&sender, now));
        // Under an instance id that it does not have, nobody is a member.
        let own = group.members.get(member).and_then(|member| member.instance.as_deref());
        let named = sender.and_then(|sender| sender.instance);
        let is_own_instance = named.is_none() || named == own;
        let known = Known {
            generation: group.generation,
            is_gone: group.left.contains(member),
            is_fenced: group.fenced.contains(member),
            is_sure: group.is_surely_member(member, now) && is_own_instance,
            has_holder,
            has_members: group.sure_members(now).next().is_some(),
        };
        let asked = Asked { request: request.clone(), since: now, known };
        match request {
            Request::Join(..) if member.is_empty() => {
                // It may be about to take the place of another one.
                holder.cloned().into_iter().for_each(|holder| group.doubt(&holder));
            }
            Request::Leave(leaving) => {
                for identity in &leaving.members {
                    let holder = identity.group_instance_id.as_ref().and_then(|id| group.holders.get(&**id));
                    holder.cloned().into_iter().for_each(|holder| group.doubt(&holder));
                    group.doubt(&identity.member_id);
                }
            }
            _ => {}
        }
        if let Some(known) = group.members.get_mut(member) {
            known.heard = now;
        }
        asked
    }

    /// The coordinator has answered.
    fn note_answer(&mut self, asked: &Asked, answer: &Answer) {
        self.count(asked, answer);
        self.kept.answered(&asked.request, answer);
        self.check_senders(asked, answer);
        match (&asked.request, answer) {
            (Request::Join(..), Answer::Join(response)) if response.error_code == 0 => {
                self.joined(asked, response);
            }
            (Request::Sync(request), Answer::Sync(response)) if response.error_code == 0 => {
                let now = self.world.now();
                let group = self.groups.entry(request.group_id.to_string()).or_default();
                let newest = group.generation;
                if let Some(member) = group.members.get_mut(&*request.member_id) {
                    (member.heard, member.synced) = (now, Some(request.generation_id));
                    member.settled = now;
                    member.is_doubtful = false;
                    // Where all have been told already, it begins no session (Kafka has it so).
                    if asked.since < now {
                        member.alive = now;
                    }
                }
                if request.generation_id != newest {
                    let told = request.generation_id;
                    self.finding(check::OLD_REFUSED, format_args!("sync of {told} in {newest}"));
                }
                self.kept.synced(request, &response.assignment);
            }
            (Request::Heartbeat(request), Answer::Heartbeat(answer)) => match answer {
                ErrorCode::None | ErrorCode::RebalanceInProgress => {
                    let now = self.world.now();
                    if request.generation_id != asked.known.generation {
                        let (told, newest) = (request.generation_id, asked.known.generation);
                        self.finding(check::OLD_REFUSED, format_args!("heartbeat of {told} in {newest}"));
                    }
                    let group = self.groups.entry(request.group_id.to_string()).or_default();
                    group.lives(&request.member_id, now, *answer);
                }
                ErrorCode::UnknownMemberId => {
                    let group = self.groups.entry(request.group_id.to_string()).or_default();
                    // Dynamic members never come back under their id.
                    let member = group.members.get(&*request.member_id);
                    if member.is_some_and(|member| member.instance.is_none())
                        && request.group_instance_id.is_none()
                    {
                        group.left.insert(request.member_id.to_string());
                    }
                }
                _ => {}
            },
            (Request::Join(_, request), Answer::Join(_)) => {
                // Who could not be replaced is back, with all of its session.
                let now = self.world.now();
                let group = self.groups.entry(request.group_id.to_string()).or_default();
                let holder =
                    request.group_instance_id.as_ref().and_then(|id| group.holders.get(&**id)).cloned();
                let holder = holder.and_then(|holder| group.members.get_mut(&holder));
                holder.into_iter().for_each(|holder| holder.heard = now);
                // It may be one that no client has heard of: another join came while its own was on its way.
                if request.group_instance_id.is_some() {
                    group.strangers.values_mut().for_each(|since| *since = now);
                }
            }
            (Request::Leave(request), Answer::Leave(response)) => self.left(request, response),
            _ => {}
        }
        // An answer that was waited for begins a session, whatever it says.
        if let Some(sender) = asked.request.sender()
            && let Some(group) = self.groups.get_mut(asked.request.group())
            && let Some(member) = group.members.get_mut(sender.member)
        {
            member.heard = self.world.now();
        }
    }

    fn joined(&mut self, asked: &Asked, response: &JoinGroupResponse) {
        let Request::Join(_, request) = &asked.request else { return };
        let now = self.world.now();
        let id = response.member_id.to_string();
        let generation = response.generation_id;
        let group = self.groups.entry(request.group_id.to_string()).or_default();
        let newest = group.generation;
        if generation > newest {
            group.generation = generation;
            self.world.count("generations");
            // Those that are away keep their places, and get the time that all get.
            let statics = group.members.values_mut().filter(|member| member.instance.is_some());
            statics.for_each(|member| member.heard = now);
            group.strangers.values_mut().for_each(|since| *since = now);
        }
        let known = group.members.entry(id.clone()).or_default();
        known.session = request.session_timeout_ms as Micros * 1000;
        known.rebalance = request.rebalance_timeout_ms as Micros * 1000;
        known.instance = request.group_instance_id.as_ref().map(|id| id.to_string());
        known.heard = now;
        if known.generation < generation {
            (known.generation, known.alive) = (generation, now);
            known.topics = topics_of(request);
        }
        let mut is_replaced = false;
        if let Some(instance) = &request.group_instance_id {
            let before = group.holders.insert(instance.to_string(), id.clone());
            if let Some(before) = before.filter(|before| *before != id) {
                // In one generation it reads what the one before it did, whatever it asks for.
                let topics = group.members.get(&before).map(|place| place.topics.clone());
                if let (Some(topics), Some(known)) = (topics, group.members.get_mut(&id))
                    && generation <= newest
                {
                    known.topics.retain(|topic| topics.contains(topic));
                }
                group.fenced.insert(before);
                is_replaced = true;
            }
        }
        let is_leader = response.leader == response.member_id && !response.skip_assignment;
        let mut other_leader = None;
        if is_leader {
            let leader = group.leaders.entry(generation).or_insert_with(|| id.clone());
            other_leader = Some(leader.clone()).filter(|leader| *leader != id);
        }
        let was_fenced = group.fenced.contains(&id);
        if generation < newest {
            self.finding(check::GENERATION_GROWS, format_args!("{generation} after {newest}"));
        }
        if let Some(other) = other_leader {
            self.finding(check::ONE_LEADER, format_args!("{id} and {other} lead {generation}"));
        }
        if was_fenced {
            self.finding(check::FENCED_TOLD, format_args!("{id} has joined"));
        }
        if is_leader && response.members.iter().all(|member| *member.member_id != id) {
            self.finding(check::ONE_LEADER, format_args!("{id} leads a generation that it is not in"));
        }
        let is_told = [
            ("join: as leader", is_leader),
            ("join: leader told to assign nothing", response.skip_assignment),
            ("join: static member replaced", is_replaced),
        ];
        is_told.into_iter().filter(|(_, is)| *is).for_each(|(name, _)| self.world.count(name));
    }

    fn left(&mut self, request: &LeaveGroupRequest, response: &LeaveGroupResponse) {
        let group = self.groups.entry(request.group_id.to_string()).or_default();
        for (identity, answer) in request.members.iter().zip(&response.members) {
            if answer.error_code == 0 && !identity.member_id.is_empty() {
                group.left.insert(identity.member_id.to_string());
            }
        }
    }

    /// Who may ask, and who has to be told that it may not.
    fn check_senders(&mut self, asked: &Asked, answer: &Answer) {
        let Some(sender) = asked.request.sender() else { return };
        let now = self.world.now();
        let name = asked.request.name();
        let errors = errors(answer);
        let is_accepted = match &asked.request {
            // Of a rebalance only members are told.
            Request::Heartbeat(_) => {
                errors.iter().any(|error| matches!(error, ErrorCode::None | ErrorCode::RebalanceInProgress))
            }
            _ => errors.contains(&ErrorCode::None),
        };
        let is_commit = matches!(asked.request, Request::Commit(..));
        // To a group without members anybody may commit.
        let is_of_member = !is_commit || sender.generation >= 0;
        if is_accepted && is_of_member && !sender.member.is_empty() {
            let check = match is_commit {
                true => check::COMMIT_ENTITLED,
                false => check::GONE_REFUSED,
            };
            if asked.known.is_gone {
                self.finding(check, format_args!("{name} of {}, who is gone", sender.member));
            }
            if asked.known.is_fenced {
                self.finding(check::FENCED_TOLD, format_args!("{name} of {}", sender.member));
            }
        }
        if is_commit && is_accepted {
            if sender.generation >= 0 && sender.generation != asked.known.generation {
                let (told, newest) = (sender.generation, asked.known.generation);
                self.finding(check::COMMIT_ENTITLED, format_args!("a commit of {told} in {newest}"));
            }
            // Behind a deletion a request waits, and so long that members can go meanwhile.
            let group = self.groups.get(asked.request.group());
            let has_members = group.is_some_and(|group| group.sure_members(now).next().is_some());
            if sender.generation < 0 && asked.known.has_members && has_members {
                self.finding(check::COMMIT_ENTITLED, format_args!("a commit of nobody to members"));
            }
        }
        let group = self.groups.get(asked.request.group());
        let has_holder = group.is_some_and(|group| group.has_other_holder(&sender, now));
        let must_be_told = asked.known.has_holder && has_holder && !sender.member.is_empty();
        let other = |error: &&ErrorCode| !matches!(error, ErrorCode::FencedInstanceId);
        if must_be_told && !matches!(asked.request, Request::Join(..)) {
            // A coordinator that goes, or is full, says only that.
            let told = errors.iter().find(other);
            let is_excused = told.is_none_or(|error| {
                matches!(
                    error,
                    ErrorCode::NotCoordinator
                        | ErrorCode::CoordinatorLoadInProgress
                        | ErrorCode::CoordinatorNotAvailable
                        | ErrorCode::UnknownTopicOrPartition
                )
            });
            if !is_excused {
                let what = format_args!("{name} of {} is told {errors:?}", sender.member).to_string();
                self.finding(check::FENCED_TOLD, format_args!("{what}"));
            }
        }
        let group = self.groups.entry(asked.request.group().to_owned()).or_default();
        if errors.contains(&ErrorCode::GroupMaxSizeReached) {
            group.doubt(sender.member);
        }
        let is_sure = asked.known.is_sure && group.is_surely_member(sender.member, now);
        if is_sure && errors.contains(&ErrorCode::UnknownMemberId) {
            let what = format!("{name} of {} is told that it is unknown", sender.member);
            self.finding(check::HEARTBEATS_KEEP, format_args!("{what}"));
        }
    }

    fn count(&self, asked: &Asked, answer: &Answer) {
        let name = asked.request.name();
        for error in errors(answer) {
            let name = match error {
                ErrorCode::None => format!("{name}: answered"),
                ErrorCode::MemberIdRequired => format!("{name}: given an id"),
                error => format!("{name}: refused, {}", error.name()),
            };
            self.world.counts.borrow_mut().add(&name, 1);
        }
        if let (Request::Commit(_, request), Answer::Commit(response)) = (&asked.request, answer)
            && request.generation_id_or_member_epoch < 0
            && response.topics.iter().flat_map(|topic| &topic.partitions).any(|at| at.error_code == 0)
        {
            self.world.count("commit: of nobody");
        }
    }

    // --- Looks from time to time

    /// What a group's offsets and members are held against. `waiting`: requests that are not answered yet.
    fn look_at(&mut self, coordinator: &Coordinator, id: &str, waiting: &[&Asked]) {
        self.kept.look(coordinator, id);
        let now = self.world.now();
        let group = self.groups.entry(id.to_owned()).or_default();
        let waits = |member: &str| {
            let is_of =
                |asked: &&&Asked| asked.request.sender().is_some_and(|sender| sender.member == member);
            waiting.iter().filter(is_of).count()
        };
        let mut strangers = BTreeMap::new();
        let mut overdue = Vec::new();
        for member in coordinator.describe(id, 0).members {
            let member_id = member.member_id.to_string();
            match group.members.get(&member_id) {
                None if waits(&member_id) > 0 => {}
                None => {
                    let since = group.strangers.get(&member_id).copied().unwrap_or(now);
                    strangers.insert(member_id, since);
                }
                Some(known) => {
                    let end = known.heard + known.session + self.lateness;
                    if now > end && waits(&member_id) == 0 {
                        overdue.push((member_id, end));
                    }
                }
            }
        }
        // Who waits for a first answer is named by it.
        let named_soon = waits("");
        let end = |since: Micros| since + self.session_max + self.lateness;
        let late = strangers.iter().filter(|(_, since)| now > end(**since));
        if strangers.len() > named_soon {
            overdue.extend(late.map(|(member, since)| (member.clone(), end(*since))));
        }
        group.strangers = strangers;
        for (member, end) in overdue {
            let late = (now - end) / 1000;
            self.finding(check::STOPPED_EXPELLED, format_args!("{member} of {id} is there {late} ms later"));
        }
    }

    /// Topics that members surely read.
    fn is_surely_read(&self, group: &str, topic: &str) -> bool {
        let now = self.world.now();
        let group = self.groups.get(group);
        group.is_some_and(|group| group.sure_members(now).any(|member| member.topics.contains(topic)))
    }

    /// Somebody is surely a member of it.
    pub fn has_sure_members(&self, group: &str) -> bool {
        let now = self.world.now();
        self.groups.get(group).is_some_and(|group| group.sure_members(now).next().is_some())
    }

    /// A generation of a group is in the log.
    fn generation_written(&mut self, id: &str, value: &GroupValue) {
        let group = self.groups.entry(id.to_owned()).or_default();
        let newest = group.generation;
        group.generation = newest.max(value.generation);
        let leader = group.leaders.get(&value.generation).cloned();
        if value.generation < newest {
            let written = value.generation;
            self.finding(check::GENERATION_GROWS, format_args!("{written} is written after {newest}"));
        }
        self.kept.check_assignments(value, leader.as_deref());
    }

    pub fn generation_of(&self, group: &str) -> i32 {
        self.groups.get(group).map_or(0, |group| group.generation)
    }

    /// Whoever is known to have been in a group, for those that speak in another's name.
    pub fn known_members(&self, group: &str) -> Vec<String> {
        self.groups.get(group).map_or_else(Vec::new, |group| group.members.keys().cloned().collect())
    }

    pub fn known_instances(&self, group: &str) -> Vec<String> {
        self.groups.get(group).map_or_else(Vec::new, |group| group.holders.keys().cloned().collect())
    }
}

impl Witness for Watch {
    type Known = Known;

    fn kept(&mut self) -> &mut Kept {
        &mut self.kept
    }

    fn arrived(&mut self, request: &Request) -> Asked {
        self.note_arrival(request)
    }

    fn answered(&mut self, asked: &Asked, answer: &Answer) {
        self.note_answer(asked, answer);
    }

    fn written(&mut self, write: WriteId, records: &[GroupRecord]) {
        for record in records {
            if let GroupRecord::Group { group, value: Some(value) } = record {
                self.generation_written(group, value);
            }
        }
        let read: BTreeSet<(String, String)> = records
            .iter()
            .filter_map(|record| match record {
                GroupRecord::Offset { group, topic, value: None, .. } => Some((group, topic)),
                _ => None,
            })
            .filter(|(group, topic)| self.is_surely_read(group, topic))
            .map(|(group, topic)| (group.clone(), topic.clone()))
            .collect();
        self.kept
            .written(write, records, |group, topic| read.contains(&(group.to_owned(), topic.to_owned())));
    }

    fn ended(&mut self, _write: WriteId, records: &[GroupRecord], end: WriteEnd) {
        let gone = records.iter().filter_map(|record| match record {
            GroupRecord::Group { group, value: None } if end == WriteEnd::Kept => Some(group),
            _ => None,
        });
        gone.for_each(|group| self.group_gone(group));
    }

    fn forget_run(&mut self) {
        self.groups.clear();
    }

    fn restored(
        &mut self,
        _coordinator: &Coordinator,
        _latest: &BTreeMap<Vec<u8>, GroupRecord>,
        restored: &[(String, GroupValue)],
    ) {
        restored.iter().for_each(|(id, value)| self.restored_group(id, value));
    }

    fn sessions_began(&mut self, group: &str) {
        self.begin_sessions(group);
    }

    fn look(&mut self, coordinator: &Coordinator, group: &str, waiting: &[&Asked]) {
        self.look_at(coordinator, group, waiting);
    }

    fn waits_for_writes(request: &Request) -> bool {
        matches!(request, Request::Commit(..) | Request::DeleteGroup(_) | Request::DeleteOffsets(_))
    }

    fn falsify_request(&mut self, request: &mut Request) {
        let newest = self.generation_of(request.group());
        match request {
            Request::Commit(_, request) => {
                if self.settings.makes(Mistake::CommitGenerationUnchecked)
                    && request.generation_id_or_member_epoch >= 0
                {
                    request.generation_id_or_member_epoch = newest;
                }
                if self.settings.makes(Mistake::InstanceUnchecked) {
                    request.group_instance_id = None;
                }
            }
            Request::Sync(request) => {
                let assignments = &mut request.assignments;
                if self.settings.makes(Mistake::AssignmentsShifted) && assignments.len() > 1 {
                    let last = assignments.len() - 1;
                    for at in 0..last {
                        let (left, right) = assignments.split_at_mut(at + 1);
                        std::mem::swap(&mut left[at].assignment, &mut right[0].assignment);
                    }
                }
                if self.settings.makes(Mistake::SyncGenerationUnchecked) {
                    request.generation_id = newest;
                }
                if self.settings.makes(Mistake::InstanceUnchecked) {
                    request.group_instance_id = None;
                }
            }
            Request::Heartbeat(request) if self.settings.makes(Mistake::InstanceUnchecked) => {
                request.group_instance_id = None;
            }
            _ => {}
        }
    }

    fn falsify_answer(&mut self, answer: &mut Answer) {
        if self.settings.makes(Mistake::EverybodyLeads)
            && let Answer::Join(response) = answer
            && response.error_code == 0
        {
            response.leader = response.member_id.clone();
        }
    }
}

/// What is read by a member that joins so.
fn topics_of(request: &kafka_protocol::messages::JoinGroupRequest) -> BTreeSet<String> {
    let metadata = request.protocols.first().map(|protocol| &protocol.metadata);
    let topics =
        metadata.and_then(|metadata| odradek::codec::consumer_protocol::subscribed_topics(metadata).ok());
    topics.unwrap_or_default().into_iter().map(str::to_owned).collect()
}

/// Partitions of a commit with what became of each.
fn committed_with_errors<'a>(
    request: &'a kafka_protocol::messages::OffsetCommitRequest,
    response: &'a kafka_protocol::messages::OffsetCommitResponse,
) -> impl Iterator<Item = (&'a str, i32, i64, ErrorCode)> {
    let results: BTreeMap<(&str, i32), i16> = response
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|at| ((&**topic.name, at.partition_index), at.error_code))
        })
        .collect();
    committed(request).filter_map(move |(topic, index, offset)| {
        let code = results.get(&(topic, index))?;
        Some((topic, index, offset, error(*code)))
    })
}
