//! Requests of members of the classic protocol.

use crate::codec::error_code::ErrorCode;
use crate::group::classic::{Group, refused_join, refused_sync};
use crate::group::coordinator::deferred::Deferred;
use crate::group::coordinator::{Coordinator, Turn, is_too_long};
use crate::group::member::Joining;
use crate::group::{Caller, Effect, Moment, Ticket, millis};
use crate::types::limits::{
    GROUP_INSTANCE_ID_SIZE_MAX, GROUP_MEMBER_NAME_SIZE_MAX, GROUP_MEMBER_SIZE_MAX, GROUP_PROTOCOLS_MAX,
    GROUPS_PER_COORDINATOR_MAX, GROUPS_SIZE_MAX,
};
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest,
};

impl Coordinator {
    /// `fresh_id`: an id that nobody has, for a member without one.
    pub fn join(
        &mut self,
        caller: &Caller,
        request: &JoinGroupRequest,
        fresh: &str,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let refuse = |error, effects: &mut Vec<Effect>| {
            effects.push(Effect::Answer(ticket, refused_join(&request.member_id, error)));
        };
        if request.group_id.is_empty() || is_too_long(&request.group_id.0) {
            return refuse(ErrorCode::InvalidGroupId, effects);
        }
        let instance_id = request.group_instance_id.as_deref();
        if instance_id.is_some_and(|id| id.len() > GROUP_INSTANCE_ID_SIZE_MAX) {
            return refuse(ErrorCode::InvalidRequest, effects);
        }
        let session_timeout = millis(request.session_timeout_ms);
        let allowed = self.settings.session_timeout_min..=self.settings.session_timeout_max;
        if !allowed.contains(&session_timeout) {
            return refuse(ErrorCode::InvalidSessionTimeout, effects);
        }
        if request.protocols.len() > GROUP_PROTOCOLS_MAX {
            return refuse(ErrorCode::InvalidRequest, effects);
        }
        let joining = Joining::new(caller, request);
        if joining.size() > GROUP_MEMBER_SIZE_MAX || !joining.fits_record() {
            return refuse(ErrorCode::InvalidRequest, effects);
        }
        // As Kafka makes them: what it is called, and something that nobody else has.
        let name = joining.instance_id.as_deref().unwrap_or(&joining.client_id);
        let name = &name[..name.floor_char_boundary(GROUP_MEMBER_NAME_SIZE_MAX)];
        let fresh_id = format!("{name}-{fresh}");
        self.join_or_wait(joining, fresh_id, ticket, now, effects);
    }

    pub(super) fn join_or_wait(
        &mut self,
        joining: Joining,
        fresh_id: String,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_busy(&joining.group) {
            let refused = refused_join(&joining.member_id, ErrorCode::CoordinatorLoadInProgress);
            let id = joining.group.clone();
            return self.defer(&id, Deferred::Join(joining, fresh_id, ticket), ticket, refused, effects);
        }
        let id = joining.group.clone();
        if self.is_consumer_group(&id) {
            return self.consumer_join(joining, &fresh_id, ticket, now, effects);
        }
        let is_new = !self.groups.contains_key(&id);
        if is_new && !joining.member_id.is_empty() {
            let refused = refused_join(&joining.member_id, ErrorCode::UnknownMemberId);
            return effects.push(Effect::Answer(ticket, refused));
        }
        if is_new && self.groups.len() >= GROUPS_PER_COORDINATOR_MAX {
            let refused = refused_join("", ErrorCode::CoordinatorNotAvailable);
            return effects.push(Effect::Answer(ticket, refused));
        }
        let growth = self.groups.get(&id).map_or(joining.size(), |group| group.growth(&joining));
        if growth > 0 && self.held + growth > GROUPS_SIZE_MAX {
            let refused = refused_join(&joining.member_id, ErrorCode::CoordinatorNotAvailable);
            return effects.push(Effect::Answer(ticket, refused));
        }
        let group = self.groups.entry(id.clone()).or_insert_with_key(|id| Group::new(id, now.wall));
        group.join(joining, fresh_id, ticket, &mut turn!(self, now, effects));
        self.drop_if_nothing(&id);
    }

    pub fn sync(
        &mut self,
        request: &SyncGroupRequest,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_consumer_group(&request.group_id.0) {
            return self.consumer_sync(request, ticket, now, effects);
        }
        let mut turn = turn!(self, now, effects);
        match self.groups.get_mut(&*request.group_id.0) {
            _ if request.group_id.is_empty() => turn.answer(ticket, refused_sync(ErrorCode::InvalidGroupId)),
            Some(group) if !group.is_empty() => group.sync(request, ticket, &mut turn),
            _ => turn.answer(ticket, refused_sync(ErrorCode::UnknownMemberId)),
        }
    }

    pub fn heartbeat(
        &mut self,
        request: &HeartbeatRequest,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) -> ErrorCode {
        match self.groups.get_mut(&*request.group_id.0) {
            _ if request.group_id.is_empty() => ErrorCode::InvalidGroupId,
            Some(group) if group.consumer.is_some() => self.consumer_classic_heartbeat(request, now),
            Some(group) => group.heartbeat(request, &mut turn!(self, now, effects)),
            None => ErrorCode::UnknownMemberId,
        }
    }

    /// `request` as versions from 3 on have it: with a list of members.
    pub fn leave(
        &mut self,
        request: &LeaveGroupRequest,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) -> LeaveGroupResponse {
        if request.group_id.is_empty() {
            return LeaveGroupResponse::default().with_error_code(ErrorCode::InvalidGroupId.code());
        }
        let errors = match self.groups.get_mut(&*request.group_id.0) {
            Some(group) => group.leave(&request.members, &mut turn!(self, now, effects)),
            None => vec![ErrorCode::UnknownMemberId; request.members.len()],
        };
        self.drop_if_nothing(&request.group_id.0);
        let left = request.members.iter().zip(errors).map(|(member, error)| {
            MemberResponse::default()
                .with_member_id(member.member_id.clone())
                .with_group_instance_id(member.group_instance_id.clone())
                .with_error_code(error.code())
        });
        LeaveGroupResponse::default().with_members(left.collect())
    }
}
