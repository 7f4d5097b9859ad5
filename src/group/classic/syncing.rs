//! SyncGroup: the leader hands out assignments; everybody gets theirs once they are kept.

use crate::codec::error_code::ErrorCode;
use crate::group::classic::{Assignments, Group, State, refused_sync};
use crate::group::coordinator::{Then, Turn};
use crate::group::member::{Member, text};
use crate::group::{Answer, Ticket, WriteId};
use bytes::Bytes;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

impl Group {
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
                self.touch(&member_id, turn);
            }
        }
        if self.pending_sync.is_empty() {
            self.forget_sync(turn);
        }
    }

    pub(super) fn check_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
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
    pub(super) fn assign(&mut self, request: &SyncGroupRequest, turn: &mut Turn<'_>) {
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

    pub(super) fn synced(&self, member: &Member) -> SyncGroupResponse {
        SyncGroupResponse::default()
            .with_protocol_type(self.protocol_type.as_deref().map(text))
            .with_protocol_name(self.protocol.as_deref().map(text))
            .with_assignment(member.assignment.clone())
    }

    /// Those that wait for an assignment get an error. What members had until now stays known: it is what they may
    /// still read, if the group becomes one of the newer protocol now.
    pub(super) fn assign_nothing(&mut self, error: ErrorCode, turn: &mut Turn<'_>) {
        let mut refused = Vec::new();
        for member in self.members.values_mut() {
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
}
