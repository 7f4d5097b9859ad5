//! Heartbeat, LeaveGroup and sessions: who stays, who goes, and what follows from that.

use crate::codec::error_code::ErrorCode;
use crate::group::classic::{Group, State, refused_join, refused_sync};
use crate::group::coordinator::Turn;
use crate::group::member::{Member, pending_size};
use crate::group::timers::Timer;
use kafka_protocol::messages::HeartbeatRequest;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use std::rc::Rc;
use std::time::Duration;

impl Group {
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

    pub(super) fn extend_session(&mut self, member_id: &str, timeout: Duration, turn: &mut Turn<'_>) {
        let end = turn.now.mono.after(timeout);
        let member = self.members.get_mut(member_id).expect("the caller has found it");
        member.session_end = Some(end);
        // A reminder that comes too early is set again.
        if member.reminder.is_some_and(|reminder| reminder <= end) {
            return;
        }
        let earlier = member.reminder.replace(end);
        let timer = Timer::Session { group: self.id.as_str().into(), member: member_id.into() };
        if let Some(earlier) = earlier {
            turn.timers.cancel(earlier, &timer);
        }
        turn.timers.set(end, timer);
    }

    pub(super) fn forget_reminder(&self, member: &Member, turn: &mut Turn<'_>) {
        if let Some(reminder) = member.reminder {
            let timer = Timer::Session { group: self.id.as_str().into(), member: member.id.as_str().into() };
            turn.timers.cancel(reminder, &timer);
        }
    }

    /// All members' sessions begin anew: the coordinator was not there to hear them.
    pub fn restart_sessions(&mut self, turn: &mut Turn<'_>) {
        if let Some(consumer) = &mut self.consumer {
            let ids: Vec<Rc<str>> = consumer.members.keys().cloned().collect();
            let now = turn.now.mono;
            let settings = turn.consumers.of_group(turn.topics, &self.id);
            ids.iter().for_each(|member| consumer.touch(member, now, &settings, turn.timers));
        }
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
            let timer = Timer::Session { group: self.id.as_str().into(), member: member_id.into() };
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
    pub(super) fn leaving_member(&self, identity: &MemberIdentity) -> Result<String, ErrorCode> {
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
    pub(super) fn drop_member(&mut self, member_id: &str, turn: &mut Turn<'_>) {
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

    pub(super) fn forget_pending(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        if let Some(end) = self.pending.remove(member_id) {
            *turn.held -= pending_size(member_id);
            let timer = Timer::Session { group: self.id.as_str().into(), member: member_id.into() };
            turn.timers.cancel(end, &timer);
        }
    }

    /// The others have to share what a member had.
    pub(super) fn member_gone(&mut self, turn: &mut Turn<'_>) {
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
        if let Some(consumer) = &mut self.consumer {
            consumer.forget_clocks(None, turn.timers);
        }
    }
}
