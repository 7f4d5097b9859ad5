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

mod joining;
mod rebalancing;
mod sessions;
mod syncing;

use crate::codec::consumer_protocol::PROTOCOL_TYPE;
use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::{GroupRecord, GroupValue};
use crate::group::consumer::ConsumerGroup;
use crate::group::member::{Joining, Member, pending_size, text};
use crate::group::offsets::GroupOffsets;
use crate::group::{Answer, Ticket, WriteId};
use crate::types::{Mono, Timestamp};
use bytes::Bytes;
use kafka_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
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
    /// It uses the newer protocol; there are no members here then.
    pub consumer: Option<Box<ConsumerGroup>>,
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
            consumer: None,
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
        self.state == State::Empty && self.consumer.as_ref().is_none_or(|consumer| consumer.is_empty())
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
        let consumer = self.consumer.as_ref().map_or(0, |consumer| consumer.size());
        members + pending + self.offsets.size() + consumer
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

    /// With those that have only been given an id.
    pub fn member_count(&self) -> usize {
        self.members.len() + self.pending.len()
    }

    /// Ids were given out to members which did not come back yet.
    pub fn has_pending_members(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether consumers of the group read a topic, as far as is known: then its offsets stay.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        if let Some(consumer) = &self.consumer {
            return consumer.is_subscribed_to(topic);
        }
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

    /// Panics unless what must hold does.
    #[cfg(test)]
    pub fn check(&self) {
        if let Some(consumer) = &self.consumer {
            consumer.check();
            assert!(self.state == State::Empty && self.pending.is_empty(), "{self:?}");
        }
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
