//! JoinGroup: who is let in, under which id, and what the answer says (KIP-345, 394).

use crate::codec::error_code::ErrorCode;
use crate::group::classic::{
    Assignments, Group, MEMBER_ID_REQUIRED_FROM, Replaced, SKIP_ASSIGNMENT_FROM, State, refused_join,
    refused_sync,
};
use crate::group::coordinator::{Then, Turn};
use crate::group::member::{Joining, Member, pending_size, text};
use crate::group::timers::Timer;
use crate::group::{Answer, Ticket, millis};
use crate::types::limits::{GROUP_MEMBERS_MAX, GROUP_NEW_MEMBER_TIME_MAX};
use kafka_protocol::messages::JoinGroupResponse;

impl Group {
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

    pub(super) fn has_place_for(&self, member_id: &str, turn: &Turn<'_>) -> bool {
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
    pub(super) fn supports(&self, joining: &Joining) -> bool {
        let known = || joining.protocols.iter();
        match self.state {
            State::Empty => !joining.protocol_type.is_empty() && known().next().is_some(),
            _ => {
                self.protocol_type.as_deref() == Some(&joining.protocol_type)
                    && known().any(|protocol| self.members.values().all(|m| m.supports(&protocol.name)))
            }
        }
    }

    pub(super) fn join_new(
        &mut self,
        joining: Joining,
        fresh_id: String,
        ticket: Ticket,
        turn: &mut Turn<'_>,
    ) {
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
    pub(super) fn give_id(
        &mut self,
        joining: &Joining,
        fresh_id: String,
        ticket: Ticket,
        turn: &mut Turn<'_>,
    ) {
        if self.pending.len() + self.members.len() >= GROUP_MEMBERS_MAX {
            return turn.answer(ticket, refused_join("", ErrorCode::GroupMaxSizeReached));
        }
        let end = turn.now.mono.after(millis(joining.session_timeout_ms));
        let timer = Timer::Session { group: self.id.as_str().into(), member: fresh_id.as_str().into() };
        turn.timers.set(end, timer);
        turn.answer(ticket, refused_join(&fresh_id, ErrorCode::MemberIdRequired));
        *turn.held += pending_size(&fresh_id);
        self.pending.insert(fresh_id, end);
    }

    pub(super) fn join_known(&mut self, joining: Joining, ticket: Ticket, turn: &mut Turn<'_>) {
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
                self.touch(&member_id, turn);
            }
            State::Stable if is_same && !is_leader => {
                turn.answer(ticket, Answer::Join(self.joined(&member_id, false)));
                self.touch(&member_id, turn);
            }
            State::PreparingRebalance { .. } | State::CompletingRebalance | State::Stable => {
                self.update(&member_id, joining, ticket, turn);
                self.rebalance_or_complete(turn);
            }
        }
    }

    pub(super) fn add(&mut self, joining: Joining, member_id: String, ticket: Ticket, turn: &mut Turn<'_>) {
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

    pub(super) fn update(&mut self, member_id: &str, joining: Joining, ticket: Ticket, turn: &mut Turn<'_>) {
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
    pub(super) fn replace_static(
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
    pub(super) fn rename(&mut self, old_id: &str, new_id: &str, turn: &mut Turn<'_>) -> Member {
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
    pub(super) fn joined(&self, member_id: &str, with_members: bool) -> JoinGroupResponse {
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
}
