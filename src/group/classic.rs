//! One group under the classic protocol: members agree on a generation, its leader hands out what each is to
//! do, and heartbeats keep it up.
//!
//! ```text
//!            first join               all joined, or time out              leader's sync is kept
//!   Empty ───────────────► Preparing ─────────────────────► Completing ─────────────────────► Stable
//!     ▲                    Rebalance ◄──────────────────── Rebalance                            │
//!     │ nobody is left      │  ▲   join, leave, failure, no sync in time                        │
//!     └─────────────────────┘  └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! The first rebalance of an empty group waits for a moment, so that members which start together share it
//! (KIP-134). A member without an id is given one and has to come back with it, so that clients which give up
//! leave no members behind (KIP-394). A static member that comes back under its instance id takes its old place
//! without a rebalance (KIP-345, KIP-814). What members say of themselves and are assigned is opaque, but for
//! the topics that consumers name.

use crate::codec::consumer_protocol::{PROTOCOL_TYPE, subscribed_topics};
use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::{GroupRecord, GroupValue};
use crate::group::coordinator::{Then, Turn};
use crate::group::member::{Joining, Member, Protocol, pending_size, text};
use crate::group::offsets::GroupOffsets;
use crate::group::timers::Timer;
use crate::group::{Answer, Ticket, WriteId, millis};
use crate::types::limits::{GROUP_MEMBERS_MAX, GROUP_NEW_MEMBER_TIME_MAX, GROUP_REJOIN_TIME_MIN};
use crate::types::{Mono, Timestamp};
use bytes::Bytes;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{HeartbeatRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The first version that has dynamic members come back with the id they are given.
const MEMBER_ID_REQUIRED_FROM: i16 = 4;
/// The first version in which a leader can be told that there is nothing to assign (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;

/// What a group is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Empty,
    PreparingRebalance {
        /// When it goes on without those that are missing.
        end: Mono,
        /// Of a group that was empty.
        initial: Option<Initial>,
    },
    CompletingRebalance,
    Stable,
}

/// The wait of an empty group for more members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initial {
    /// How long it waits in this round.
    delay: Duration,
    /// How long it may wait after it, while members keep coming.
    remaining: Duration,
}

impl State {
    /// Kafka's name, as DescribeGroups and ListGroups have it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance { .. } => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// Lives: in one coordinator, from its first member or committed offset until nothing of it is left.
/// Invariant: `statics` names exactly the members that have an instance id; a leader is a member.
#[derive(Clone, Debug)]
pub struct Group {
    pub id: String,
    pub state: State,
    pub generation: i32,
    /// `None`: nobody was ever a member.
    pub protocol_type: Option<String>,
    /// The one that all members of this generation know.
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Member by instance id.
    statics: BTreeMap<String, String>,
    /// Ids that were given out and did not come back yet, until when they may.
    pending: BTreeMap<String, Mono>,
    /// Members that have not asked for their assignments yet, and until when they may.
    pending_sync: BTreeSet<String>,
    sync_end: Option<Mono>,
    /// Somebody joined while an empty group waits for more.
    member_added: bool,
    /// The leader's assignments are on their way to the log.
    assigning: Option<WriteId>,
    /// Since when it is in its state.
    pub state_since: Option<Timestamp>,
    /// Topics that consumers of this generation named; `None` if that is not known.
    subscribed: Option<BTreeSet<String>>,
    pub offsets: GroupOffsets,
    /// There are records of it, and so it stays until one says that it is gone.
    pub is_kept: bool,
    /// It is being deleted: nothing else happens to it meanwhile.
    pub is_closing: bool,
}

/// What a leader handed out, by member.
pub type Assignments = BTreeMap<String, Bytes>;

/// How a static member was before another one took its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    new_id: String,
    old: Member,
    /// The leader that clients before version 9 are told.
    leader: Option<String>,
    version: i16,
    ticket: Ticket,
}

impl Group {
    pub fn new(id: &str, now: Timestamp) -> Group {
        Group {
            id: id.to_owned(),
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            sync_end: None,
            member_added: false,
            assigning: None,
            state_since: Some(now),
            subscribed: None,
            offsets: GroupOffsets::default(),
            is_kept: false,
            is_closing: false,
        }
    }

    /// The group as its record has it; `offsets` are those it has.
    pub fn from_record(id: &str, mut value: GroupValue, offsets: GroupOffsets) -> Group {
        let mut group = Group::new(id, Timestamp::NONE);
        group.offsets = offsets;
        group.is_kept = true;
        value.drop_repeated();
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type).filter(|protocol_type| !protocol_type.is_empty());
        group.state_since = value.state_timestamp.map(Timestamp);
        let protocol = value.protocol.clone().unwrap_or_default();
        for member in value.members {
            let member = Member::from_record(member, &protocol);
            if let Some(instance_id) = &member.instance_id {
                group.statics.insert(instance_id.clone(), member.id.clone());
            }
            group.members.insert(member.id.clone(), member);
        }
        group.state = if group.members.is_empty() { State::Empty } else { State::Stable };
        group.protocol = value.protocol;
        let leader = value.leader.filter(|leader| group.members.contains_key(leader));
        group.leader = leader.or_else(|| group.members.keys().next().cloned());
        group.subscribed = group.subscriptions();
        group
    }

    /// What is kept of it. `assignments`: of members that are to have others than they have.
    fn to_record(&self, assignments: &Assignments) -> GroupRecord {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let assignment = |member: &Member| match assignments.get(&member.id) {
            Some(assignment) => assignment.clone(),
            None => member.assignment.clone(),
        };
        let members = self.members.values().map(|member| member.to_record(protocol, assignment(member)));
        let value = GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp: self.state_since.map(|since| since.0),
            members: members.collect(),
        };
        GroupRecord::Group { group: self.id.clone(), value: Some(value) }
    }

    /// Nobody is a member, or on the way to become one.
    pub fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// It was never used but to keep offsets.
    pub fn is_simple(&self) -> bool {
        self.protocol_type.is_none() && self.is_empty()
    }

    pub fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(PROTOCOL_TYPE)
    }

    /// Bytes that it takes, beside those of every group.
    pub fn size(&self) -> usize {
        let members: usize = self.members.values().map(Member::size).sum();
        let pending: usize = self.pending.keys().map(|id| pending_size(id)).sum();
        members + pending + self.offsets.size()
    }

    /// Bytes that a member would take more than now.
    pub fn growth(&self, joining: &Joining) -> usize {
        let current = joining.instance_id.as_ref().and_then(|instance_id| self.statics.get(instance_id));
        let member = self.members.get(current.unwrap_or(&joining.member_id));
        joining.size().saturating_sub(member.map_or(0, Member::size))
    }

    #[cfg(test)]
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Ids were given out to members which did not come back yet.
    pub fn has_pending_members(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether consumers of the group read a topic, as far as is known: then its offsets stay.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.is_of_consumers(),
        }
    }

    /// Whether it is known which topics its consumers read.
    pub fn knows_subscriptions(&self) -> bool {
        self.subscribed.is_some()
    }

    /// Checks that a request is from a member, and from the only one of its instance id.
    pub fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.statics.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    // --- JoinGroup

    /// `fresh_id`: an id for a member that has none.
    pub fn join(&mut self, joining: Joining, fresh_id: String, ticket: Ticket, turn: &mut Turn<'_>) {
        let current = joining.instance_id.as_ref().and_then(|instance_id| self.statics.get(instance_id));
        // Who comes back by its instance id takes its own place.
        let member_id = current.filter(|_| joining.member_id.is_empty()).unwrap_or(&joining.member_id);
        if !self.has_place_for(member_id, turn) {
            self.drop_member(&joining.member_id, turn);
            turn.answer(ticket, refused_join("", ErrorCode::GroupMaxSizeReached));
            self.maybe_complete_join(turn);
        } else if !self.supports(&joining) {
            let error = ErrorCode::InconsistentGroupProtocol;
            turn.answer(ticket, refused_join(&joining.member_id, error));
        } else if joining.member_id.is_empty() {
            self.join_new(joining, fresh_id, ticket, turn);
        } else {
            self.join_known(joining, ticket, turn);
        }
    }

    fn has_place_for(&self, member_id: &str, turn: &Turn<'_>) -> bool {
        let size_max = turn.settings.size_max.min(GROUP_MEMBERS_MAX);
        let member = self.members.get(member_id);
        let awaiting = || self.members.values().filter(|member| member.awaiting_join.is_some()).count();
        match self.state {
            // Nobody is a member; ids that were given out have a bound of their own.
            State::Empty => true,
            // Those that wait are counted, so that a group which became too large loses the last to join.
            State::PreparingRebalance { .. } => {
                member.is_some_and(|member| member.awaiting_join.is_some()) || awaiting() < size_max
            }
            State::CompletingRebalance | State::Stable => member.is_some() || self.members.len() < size_max,
        }
    }

    /// Whether all members would still have a protocol in common.
    fn supports(&self, joining: &Joining) -> bool {
        let known = || joining.protocols.iter();
        match self.state {
            State::Empty => !joining.protocol_type.is_empty() && known().next().is_some(),
            _ => {
                self.protocol_type.as_deref() == Some(&joining.protocol_type)
                    && known().any(|protocol| self.members.values().all(|m| m.supports(&protocol.name)))
            }
        }
    }

    fn join_new(&mut self, joining: Joining, fresh_id: String, ticket: Ticket, turn: &mut Turn<'_>) {
        let current = joining.instance_id.as_ref().and_then(|id| self.statics.get(id)).cloned();
        match current {
            Some(current) => self.replace_static(&current, joining, fresh_id, ticket, turn),
            None if joining.instance_id.is_none() && joining.version >= MEMBER_ID_REQUIRED_FROM => {
                self.give_id(&joining, fresh_id, ticket, turn);
            }
            None => self.add(joining, fresh_id, ticket, turn),
        }
    }

    /// The member has to come back with its id within its session time-out.
    fn give_id(&mut self, joining: &Joining, fresh_id: String, ticket: Ticket, turn: &mut Turn<'_>) {
        if self.pending.len() + self.members.len() >= GROUP_MEMBERS_MAX {
            return turn.answer(ticket, refused_join("", ErrorCode::GroupMaxSizeReached));
        }
        let end = turn.now.mono.after(millis(joining.session_timeout_ms));
        let timer = Timer::Session { group: self.id.clone(), member: fresh_id.clone() };
        turn.timers.set(end, timer);
        turn.answer(ticket, refused_join(&fresh_id, ErrorCode::MemberIdRequired));
        *turn.held += pending_size(&fresh_id);
        self.pending.insert(fresh_id, end);
    }

    fn join_known(&mut self, joining: Joining, ticket: Ticket, turn: &mut Turn<'_>) {
        let member_id = joining.member_id.clone();
        if self.pending.contains_key(&member_id) {
            // Only dynamic members are given ids to come back with.
            match joining.instance_id {
                None => return self.add(joining, member_id, ticket, turn),
                Some(_) => return turn.answer(ticket, refused_join(&member_id, ErrorCode::UnknownMemberId)),
            }
        }
        if let Err(error) = self.check_member(&member_id, joining.instance_id.as_deref()) {
            return turn.answer(ticket, refused_join(&member_id, error));
        }
        let is_leader = self.leader.as_ref() == Some(&member_id);
        let is_same = self.members[&member_id].protocols == joining.protocols;
        match self.state {
            State::Empty => turn.answer(ticket, refused_join(&member_id, ErrorCode::UnknownMemberId)),
            // The answer was lost, or a follower asks for nothing new.
            State::CompletingRebalance if is_same => {
                let answer = self.joined(&member_id, is_leader);
                turn.answer(ticket, Answer::Join(answer));
            }
            State::Stable if is_same && !is_leader => {
                turn.answer(ticket, Answer::Join(self.joined(&member_id, false)));
            }
            State::PreparingRebalance { .. } | State::CompletingRebalance | State::Stable => {
                self.update(&member_id, joining, ticket, turn);
                self.rebalance_or_complete(turn);
            }
        }
    }

    fn add(&mut self, joining: Joining, member_id: String, ticket: Ticket, turn: &mut Turn<'_>) {
        if let State::PreparingRebalance { initial: Some(_), .. } = self.state {
            self.member_added = true;
        }
        self.forget_pending(&member_id, turn);
        if self.members.is_empty() {
            self.protocol_type = Some(joining.protocol_type.clone());
        }
        let mut member = Member::new(member_id.clone(), &joining);
        member.awaiting_join = Some(ticket);
        if let Some(instance_id) = &member.instance_id {
            self.statics.insert(instance_id.clone(), member_id.clone());
        }
        self.leader.get_or_insert_with(|| member_id.clone());
        *turn.held += member.size();
        self.members.insert(member_id.clone(), member);
        // It knows nothing of its membership and sends no heartbeats until it is answered. A client that has
        // given up meanwhile is not waited for longer than this.
        self.extend_session(&member_id, GROUP_NEW_MEMBER_TIME_MAX, turn);
        self.rebalance_or_complete(turn);
    }

    fn update(&mut self, member_id: &str, joining: Joining, ticket: Ticket, turn: &mut Turn<'_>) {
        let member = self.members.get_mut(member_id).expect("the caller has found it");
        *turn.held -= member.size();
        member.protocols = joining.protocols;
        *turn.held += member.size();
        member.rebalance_timeout_ms = joining.rebalance_timeout_ms;
        member.session_timeout_ms = joining.session_timeout_ms;
        if let Some(earlier) = member.awaiting_join.replace(ticket) {
            // Nobody waits for it any more, or should.
            turn.answer(earlier, refused_join(member_id, ErrorCode::RebalanceInProgress));
        }
    }

    /// A static member comes back without its id: it takes the place that it had.
    fn replace_static(
        &mut self,
        old_id: &str,
        joining: Joining,
        new_id: String,
        ticket: Ticket,
        turn: &mut Turn<'_>,
    ) {
        let leader = self.leader.clone();
        let version = joining.version;
        let old = self.rename(old_id, &new_id, turn);
        self.extend_session(&new_id, old.session_timeout(), turn);
        self.update(&new_id, joining, ticket, turn);
        match self.state {
            State::Stable if self.protocol == self.choose_protocol() => {
                let record = self.to_record(&Assignments::new());
                let replaced = Replaced { new_id, old, leader, version, ticket };
                turn.write(&self.id, vec![record], Then::Replaced(Box::new(replaced)));
            }
            State::Stable => self.rebalance_or_complete(turn),
            // The leader may be assigning to the old id just now.
            State::CompletingRebalance => self.prepare_rebalance(turn),
            State::PreparingRebalance { .. } => self.maybe_complete_join(turn),
            State::Empty => unreachable!("a group with a member is not empty"),
        }
    }

    /// Gives a static member another id. What its old one waits for is refused. Returns the member as it was.
    fn rename(&mut self, old_id: &str, new_id: &str, turn: &mut Turn<'_>) -> Member {
        let mut old = self.members.remove(old_id).expect("the caller has found it");
        *turn.held -= old.size();
        if let Some(ticket) = old.awaiting_join.take() {
            turn.answer(ticket, refused_join(old_id, ErrorCode::FencedInstanceId));
        }
        if let Some(ticket) = old.awaiting_sync.take() {
            turn.answer(ticket, refused_sync(ErrorCode::FencedInstanceId));
        }
        self.forget_reminder(&old, turn);
        (old.session_end, old.reminder) = (None, None);
        let new = Member { id: new_id.to_owned(), is_new: false, ..old.clone() };
        let instance_id = new.instance_id.clone().expect("only static members are replaced");
        self.statics.insert(instance_id, new_id.to_owned());
        if self.leader.as_deref() == Some(old_id) {
            self.leader = Some(new_id.to_owned());
        }
        self.pending_sync.remove(old_id);
        *turn.held += new.size();
        self.members.insert(new_id.to_owned(), new);
        old
    }

    /// The record of a static member's new id has ended.
    pub fn replaced(&mut self, replaced: Replaced, kept: Result<(), ErrorCode>, turn: &mut Turn<'_>) {
        let Replaced { new_id, old, leader, version, ticket } = replaced;
        // It may be gone by now, or wait for a rebalance that has begun meanwhile, or for another answer.
        let is_waiting = self.members.get(&new_id).is_some_and(|new| new.awaiting_join == Some(ticket));
        match kept {
            Ok(()) if is_waiting && self.state == State::Stable => {
                let is_leader = self.leader.as_ref() == Some(&new_id);
                let answer = match version {
                    SKIP_ASSIGNMENT_FROM.. => self.joined(&new_id, is_leader).with_skip_assignment(is_leader),
                    // The old leader's id: the member is not to assign anything.
                    _ => self.joined(&new_id, false).with_leader(text(leader.as_deref().unwrap_or_default())),
                };
                self.members.get_mut(&new_id).expect("found above").awaiting_join = None;
                turn.answer(ticket, Answer::Join(answer));
                self.touch(&new_id, turn); // It may have ended while the log was waited for.
            }
            Ok(()) => {}
            Err(error) if is_waiting => {
                self.members.get_mut(&new_id).expect("found above").awaiting_join = None;
                turn.answer(ticket, refused_join("", error));
                // In a rebalance that has begun meanwhile the member comes back by its instance id anyway.
                if self.state == State::Stable {
                    self.rename(&new_id, &old.id, turn);
                    let (id, timeout) = (old.id.clone(), old.session_timeout());
                    *turn.held += old.size();
                    *turn.held -= self.members.insert(id.clone(), old).as_ref().map_or(0, Member::size);
                    self.extend_session(&id, timeout, turn);
                } else {
                    self.touch(&new_id, turn); // It may have ended while the member waited.
                }
            }
            Err(_) => {}
        }
    }

    /// The answer to a member of this generation.
    fn joined(&self, member_id: &str, with_members: bool) -> JoinGroupResponse {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.values().filter(|_| with_members);
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.as_deref().map(text))
            .with_protocol_name(self.protocol.as_deref().map(text))
            .with_leader(text(self.leader.as_deref().unwrap_or_default()))
            .with_member_id(text(member_id))
            .with_members(members.map(|member| member.describe_to_leader(protocol)).collect())
    }

    // --- Rebalancing

    fn rebalance_or_complete(&mut self, turn: &mut Turn<'_>) {
        match self.state {
            State::PreparingRebalance { .. } => self.maybe_complete_join(turn),
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(turn),
        }
    }

    /// Asks all members to join again.
    pub fn prepare_rebalance(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::CompletingRebalance {
            self.assign_nothing(ErrorCode::RebalanceInProgress, turn);
        }
        self.pending_sync.clear();
        self.forget_sync(turn);
        self.assigning = None; // Its record is of a generation that is over.
        let all = self.rebalance_timeout();
        let (wait, initial) = match self.state {
            State::Empty => {
                let delay = turn.settings.initial_rebalance_delay;
                (delay, Some(Initial { delay, remaining: all.saturating_sub(delay) }))
            }
            _ => (all, None),
        };
        self.member_added = false;
        self.wait_for_joins(wait, initial, turn);
        self.state_since = Some(turn.now.wall);
        if initial.is_none() {
            self.maybe_complete_join(turn);
        }
    }

    fn wait_for_joins(&mut self, wait: Duration, initial: Option<Initial>, turn: &mut Turn<'_>) {
        self.forget_join(turn);
        let end = turn.now.mono.after(wait);
        self.state = State::PreparingRebalance { end, initial };
        turn.timers.set(end, Timer::Join { group: self.id.clone() });
    }

    fn forget_join(&self, turn: &mut Turn<'_>) {
        if let State::PreparingRebalance { end, .. } = self.state {
            turn.timers.cancel(end, &Timer::Join { group: self.id.clone() });
        }
    }

    fn forget_sync(&mut self, turn: &mut Turn<'_>) {
        if let Some(end) = self.sync_end.take() {
            turn.timers.cancel(end, &Timer::Sync { group: self.id.clone() });
        }
    }

    /// The longest that a member may take (KIP-62).
    fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(Member::rebalance_timeout).max().unwrap_or_default()
    }

    fn has_all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    /// Goes on once all members have joined; but an empty group waits for more of them in any case.
    fn maybe_complete_join(&mut self, turn: &mut Turn<'_>) {
        if let State::PreparingRebalance { initial: None, .. } = self.state
            && self.has_all_joined()
        {
            self.complete_join(turn);
        }
    }

    /// Members had the time to join.
    pub fn join_ended(&mut self, turn: &mut Turn<'_>) {
        let State::PreparingRebalance { end, initial } = self.state else { return };
        if end > turn.now.mono {
            return; // Of another rebalance.
        }
        match initial {
            Some(Initial { delay, remaining }) if self.member_added && remaining > Duration::ZERO => {
                self.member_added = false;
                let next = turn.settings.initial_rebalance_delay.min(remaining);
                let initial = Initial { delay: next, remaining: remaining.saturating_sub(delay) };
                self.wait_for_joins(next, Some(initial), turn);
            }
            _ => self.complete_join(turn),
        }
    }

    /// The next generation begins, of those that have joined.
    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        let is_missing = |member: &&Member| member.awaiting_join.is_none() && member.instance_id.is_none();
        let missing: Vec<String> =
            self.members.values().filter(is_missing).map(|member| member.id.clone()).collect();
        missing.iter().for_each(|member| self.drop_member(member, turn));
        if !self.elect_leader() && !self.members.is_empty() {
            // Static members that are all away keep their places until their sessions end.
            let wait = self.rebalance_timeout().max(GROUP_REJOIN_TIME_MIN);
            return self.wait_for_joins(wait, None, turn);
        }
        self.forget_join(turn);
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.state_since = Some(turn.now.wall);
        self.pending_sync.clear();
        self.protocol = self.choose_protocol();
        self.subscribed = self.subscriptions();
        if self.members.is_empty() {
            self.state = State::Empty;
            let record = self.to_record(&Assignments::new());
            return turn.write(&self.id, vec![record], Then::Nothing);
        }
        self.state = State::CompletingRebalance;
        *turn.rebalances += 1;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in &ids {
            let answer = self.joined(id, self.leader.as_ref() == Some(id));
            let member = self.members.get_mut(id).expect("listed above");
            member.is_new = false;
            let timeout = member.session_timeout();
            if let Some(ticket) = member.awaiting_join.take() {
                turn.answer(ticket, Answer::Join(answer));
            }
            self.extend_session(id, timeout, turn);
            self.pending_sync.insert(id.clone());
        }
        let end = turn.now.mono.after(self.rebalance_timeout());
        self.sync_end = Some(end);
        turn.timers.set(end, Timer::Sync { group: self.id.clone() });
    }

    /// The leader stays if it has joined; else one that has takes its place.
    fn elect_leader(&mut self) -> bool {
        let has_joined = |member: &&Member| member.awaiting_join.is_some();
        let current = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        if current.as_ref().is_some_and(has_joined) {
            return true;
        }
        let next = self.members.values().find(has_joined).map(|member| member.id.clone());
        let is_found = next.is_some();
        self.leader = next.or_else(|| self.leader.take());
        is_found
    }

    /// Of the protocols that all members know, the one that most of them like best; the first by name of those
    /// that are liked alike.
    fn choose_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let is_common = |name: &str| self.members.values().all(|member| member.supports(name));
        let common: BTreeSet<&str> = first
            .protocols
            .iter()
            .map(|protocol| protocol.name.as_str())
            .filter(|name| is_common(name))
            .collect();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let names = || member.protocols.iter().map(|protocol: &Protocol| protocol.name.as_str());
            if let Some(liked) = names().find(|name| common.contains(name)) {
                *votes.entry(liked).or_insert(0) += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    fn subscriptions(&self) -> Option<BTreeSet<String>> {
        if !self.is_of_consumers() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(protocol);
            topics.extend(subscribed_topics(&metadata).ok()?.into_iter().map(str::to_owned));
        }
        Some(topics)
    }

    // --- SyncGroup

    pub fn sync(&mut self, request: &SyncGroupRequest, ticket: Ticket, turn: &mut Turn<'_>) {
        if let Err(error) = self.check_sync(request) {
            return turn.answer(ticket, refused_sync(error));
        }
        let member_id = request.member_id.to_string();
        match self.state {
            State::Empty => turn.answer(ticket, refused_sync(ErrorCode::UnknownMemberId)),
            State::PreparingRebalance { .. } => {
                turn.answer(ticket, refused_sync(ErrorCode::RebalanceInProgress));
            }
            State::CompletingRebalance => {
                let member = self.members.get_mut(&member_id).expect("checked above");
                if let Some(earlier) = member.awaiting_sync.replace(ticket) {
                    turn.answer(earlier, refused_sync(ErrorCode::RebalanceInProgress));
                }
                self.pending_sync.remove(&member_id);
                if self.leader.as_ref() == Some(&member_id) && self.assigning.is_none() {
                    self.assign(request, turn);
                }
            }
            State::Stable => {
                self.pending_sync.remove(&member_id);
                let answer = self.synced(&self.members[&member_id]);
                turn.answer(ticket, Answer::Sync(answer));
            }
        }
        if self.pending_sync.is_empty() {
            self.forget_sync(turn);
        }
    }

    fn check_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |theirs: Option<&str>, ours: Option<&str>| {
            theirs.zip(ours).is_some_and(|(theirs, ours)| theirs != ours)
        };
        if differs(request.protocol_type.as_deref(), self.protocol_type.as_deref())
            || differs(request.protocol_name.as_deref(), self.protocol.as_deref())
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// The leader says what each member is to do; who is not named gets nothing.
    fn assign(&mut self, request: &SyncGroupRequest, turn: &mut Turn<'_>) {
        let mut assignments: Assignments =
            self.members.keys().map(|member| (member.clone(), Bytes::new())).collect();
        for assigned in &request.assignments {
            if let Some(assignment) = assignments.get_mut(&*assigned.member_id) {
                *assignment = Bytes::copy_from_slice(&assigned.assignment);
            }
        }
        let record = self.to_record(&assignments);
        let then = Then::Assigned { generation: self.generation, assignments };
        let write = turn.next_write();
        self.assigning = Some(write);
        turn.write(&self.id, vec![record], then);
    }

    /// The record of a generation has ended.
    pub fn assigned(
        &mut self,
        write: WriteId,
        generation: i32,
        mut assignments: Assignments,
        kept: Result<(), ErrorCode>,
        turn: &mut Turn<'_>,
    ) {
        if self.assigning != Some(write) {
            return; // Another rebalance has begun meanwhile.
        }
        self.assigning = None;
        assert!(self.state == State::CompletingRebalance, "a rebalance gives up what it waits for");
        assert!(self.generation == generation);
        if let Err(error) = kept {
            self.assign_nothing(error, turn);
            return self.prepare_rebalance(turn);
        }
        for member in self.members.values_mut() {
            *turn.held -= member.assignment.len();
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
            *turn.held += member.assignment.len();
        }
        self.state = State::Stable;
        self.state_since = Some(turn.now.wall);
        let waiting = |member: &&Member| member.awaiting_sync.is_some();
        let ids: Vec<String> =
            self.members.values().filter(waiting).map(|member| member.id.clone()).collect();
        for id in ids {
            let answer = self.synced(&self.members[&id]);
            let member = self.members.get_mut(&id).expect("listed above");
            let timeout = member.session_timeout();
            if let Some(ticket) = member.awaiting_sync.take() {
                turn.answer(ticket, Answer::Sync(answer));
            }
            self.extend_session(&id, timeout, turn);
        }
    }

    fn synced(&self, member: &Member) -> SyncGroupResponse {
        SyncGroupResponse::default()
            .with_protocol_type(self.protocol_type.as_deref().map(text))
            .with_protocol_name(self.protocol.as_deref().map(text))
            .with_assignment(member.assignment.clone())
    }

    /// Those that wait for an assignment get an error.
    fn assign_nothing(&mut self, error: ErrorCode, turn: &mut Turn<'_>) {
        let mut refused = Vec::new();
        for member in self.members.values_mut() {
            *turn.held -= std::mem::take(&mut member.assignment).len();
            if let Some(ticket) = member.awaiting_sync.take() {
                turn.answer(ticket, refused_sync(error));
                refused.push((member.id.clone(), member.session_timeout()));
            }
        }
        refused.iter().for_each(|(id, timeout)| self.extend_session(id, *timeout, turn));
    }

    /// Members had the time to ask for their assignments: who has not is gone.
    pub fn sync_ended(&mut self, turn: &mut Turn<'_>) {
        let is_due = self.sync_end.is_some_and(|end| end <= turn.now.mono);
        if !is_due || self.pending_sync.is_empty() {
            return;
        }
        let missing = std::mem::take(&mut self.pending_sync);
        missing.iter().for_each(|member| self.drop_member(member, turn));
        self.prepare_rebalance(turn);
    }

    // --- Heartbeat, LeaveGroup, sessions

    pub fn heartbeat(&mut self, request: &HeartbeatRequest, turn: &mut Turn<'_>) -> ErrorCode {
        let member_id = &request.member_id;
        if let Err(error) = self.check_member(member_id, request.group_instance_id.as_deref()) {
            return error;
        }
        if request.generation_id != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        self.touch(member_id, turn);
        match self.state {
            State::Empty => ErrorCode::UnknownMemberId,
            State::PreparingRebalance { .. } => ErrorCode::RebalanceInProgress,
            State::CompletingRebalance | State::Stable => ErrorCode::None,
        }
    }

    /// The member lives.
    pub fn touch(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        if let Some(timeout) = self.members.get(member_id).map(Member::session_timeout) {
            self.extend_session(member_id, timeout, turn);
        }
    }

    fn extend_session(&mut self, member_id: &str, timeout: Duration, turn: &mut Turn<'_>) {
        let end = turn.now.mono.after(timeout);
        let member = self.members.get_mut(member_id).expect("the caller has found it");
        member.session_end = Some(end);
        // A reminder that comes too early is set again.
        if member.reminder.is_some_and(|reminder| reminder <= end) {
            return;
        }
        let earlier = member.reminder.replace(end);
        let timer = Timer::Session { group: self.id.clone(), member: member_id.to_owned() };
        if let Some(earlier) = earlier {
            turn.timers.cancel(earlier, &timer);
        }
        turn.timers.set(end, timer);
    }

    fn forget_reminder(&self, member: &Member, turn: &mut Turn<'_>) {
        if let Some(reminder) = member.reminder {
            let timer = Timer::Session { group: self.id.clone(), member: member.id.clone() };
            turn.timers.cancel(reminder, &timer);
        }
    }

    /// All members' sessions begin anew: the coordinator was not there to hear them.
    pub fn restart_sessions(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        ids.iter().for_each(|member| self.touch(member, turn));
        if self.members.len() > turn.settings.size_max {
            self.prepare_rebalance(turn); // There were more allowed before.
        }
    }

    /// A session may be over.
    pub fn session_ended(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        if self.pending.get(member_id).is_some_and(|end| *end <= now) {
            self.pending.remove(member_id);
            *turn.held -= pending_size(member_id);
            return self.maybe_complete_join(turn);
        }
        let Some(member) = self.members.get_mut(member_id) else { return };
        member.reminder = None;
        let Some(end) = member.session_end else { return };
        if end > now {
            member.reminder = Some(end);
            let timer = Timer::Session { group: self.id.clone(), member: member_id.to_owned() };
            return turn.timers.set(end, timer);
        }
        member.session_end = None;
        // Who waits for the others cannot send heartbeats; the answer begins a session.
        let is_waiting = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
        if member.is_new || !is_waiting {
            self.drop_member(member_id, turn);
            self.member_gone(turn);
        }
    }

    /// What became of each of the members that are to leave.
    pub fn leave(&mut self, leaving: &[MemberIdentity], turn: &mut Turn<'_>) -> Vec<ErrorCode> {
        let mut errors = Vec::with_capacity(leaving.len());
        for identity in leaving {
            errors.push(match self.leaving_member(identity) {
                Ok(member_id) => {
                    self.drop_member(&member_id, turn);
                    ErrorCode::None
                }
                Err(error) => error,
            });
        }
        if errors.contains(&ErrorCode::None) {
            self.member_gone(turn);
        }
        errors
    }

    /// An administrator names static members by their instance ids alone.
    fn leaving_member(&self, identity: &MemberIdentity) -> Result<String, ErrorCode> {
        let instance_id = identity.group_instance_id.as_deref();
        if identity.member_id.is_empty() {
            let current = instance_id.and_then(|id| self.statics.get(id));
            return current.cloned().ok_or(ErrorCode::UnknownMemberId);
        }
        if !self.pending.contains_key(&*identity.member_id) {
            self.check_member(&identity.member_id, instance_id)?;
        }
        Ok(identity.member_id.to_string())
    }

    /// Takes a member out. Who waits as it is told to join as a new one.
    fn drop_member(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        self.forget_pending(member_id, turn);
        self.pending_sync.remove(member_id);
        let Some(member) = self.members.remove(member_id) else { return };
        *turn.held -= member.size();
        self.forget_reminder(&member, turn);
        if let Some(ticket) = member.awaiting_join {
            turn.answer(ticket, refused_join("", ErrorCode::UnknownMemberId));
        }
        if let Some(ticket) = member.awaiting_sync {
            turn.answer(ticket, refused_sync(ErrorCode::UnknownMemberId));
        }
        if let Some(instance_id) = &member.instance_id {
            self.statics.remove(instance_id);
        }
        if self.leader.as_deref() == Some(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    fn forget_pending(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        if let Some(end) = self.pending.remove(member_id) {
            *turn.held -= pending_size(member_id);
            let timer = Timer::Session { group: self.id.clone(), member: member_id.to_owned() };
            turn.timers.cancel(end, &timer);
        }
    }

    /// The others have to share what a member had.
    fn member_gone(&mut self, turn: &mut Turn<'_>) {
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(turn),
            State::PreparingRebalance { .. } => self.maybe_complete_join(turn),
            State::Empty => {}
        }
    }

    /// Everybody that waits is sent to look for the coordinator again.
    pub fn resign(&mut self, error: ErrorCode, turn: &mut Turn<'_>) {
        for member in self.members.values_mut() {
            if let Some(ticket) = member.awaiting_join.take() {
                turn.answer(ticket, refused_join(&member.id, error));
            }
            if let Some(ticket) = member.awaiting_sync.take() {
                turn.answer(ticket, refused_sync(error));
            }
        }
    }

    /// Nothing is waited for any more.
    pub fn forget_timers(&mut self, turn: &mut Turn<'_>) {
        self.forget_join(turn);
        self.forget_sync(turn);
        let pending: Vec<String> = self.pending.keys().cloned().collect();
        pending.iter().for_each(|member| self.forget_pending(member, turn));
        self.members.values().for_each(|member| self.forget_reminder(member, turn));
    }

    /// Panics unless what must hold does.
    #[cfg(test)]
    pub fn check(&self) {
        let statics = self.members.values().filter(|member| member.instance_id.is_some()).count();
        assert_eq!(statics, self.statics.len());
        for (instance_id, member_id) in &self.statics {
            assert_eq!(self.members[member_id].instance_id.as_ref(), Some(instance_id));
        }
        assert!(self.leader.as_ref().is_none_or(|leader| self.members.contains_key(leader)), "{self:?}");
        assert!(self.pending_sync.iter().all(|member| self.members.contains_key(member)));
        assert!(self.pending.keys().all(|member| !self.members.contains_key(member)));
        let waits = |member: &Member| member.awaiting_join.is_some() || member.awaiting_sync.is_some();
        match self.state {
            State::Empty => assert!(self.members.is_empty(), "{self:?}"),
            // A static member may wait for its new id to be kept.
            State::Stable => assert!(self.members.values().all(|member| member.awaiting_sync.is_none())),
            State::CompletingRebalance => {
                assert!(self.members.values().all(|member| member.awaiting_join.is_none()), "{self:?}");
                assert!(self.protocol.is_some());
            }
            State::PreparingRebalance { .. } => {
                assert!(self.members.values().all(|member| member.awaiting_sync.is_none()));
                assert!(self.assigning.is_none());
            }
        }
        let sessions = self.members.values().all(|member| member.session_end.is_some() || waits(member));
        assert!(sessions, "a member that nobody waits for and nothing ends: {self:?}");
    }
}

pub fn refused_join(member_id: &str, error: ErrorCode) -> Answer {
    let answer = JoinGroupResponse::default().with_error_code(error.code()).with_generation_id(-1);
    Answer::Join(answer.with_member_id(text(member_id)).with_protocol_name(None))
}

pub fn refused_sync(error: ErrorCode) -> Answer {
    Answer::Sync(SyncGroupResponse::default().with_error_code(error.code()))
}
