//! JoinGroup, SyncGroup, Heartbeat and LeaveGroup of members that use the classic protocol in a group of the newer
//! one: for as long as a group is on its way from one protocol to the other.
//!
//! Such a member's generation is its epoch. It joins whenever there is something for it to learn, says which
//! partitions it has, and is answered at once; what it is assigned it gets with SyncGroup, from the coordinator.
//! Source: Kafka `GroupMetadataManager.classicGroupJoinToConsumerGroup` and what is beside it.

use crate::codec::consumer_protocol::{self, NamedPartitions, PROTOCOL_TYPE, Subscription};
use crate::codec::consumer_record::{ClassicValue, MemberState, MemberValue, Partitions};
use crate::codec::error_code::ErrorCode;
use crate::group::consumer::rebalance::Aimed;
use crate::group::consumer::{Change, ConsumerGroup, Context, Member, Refusal};
use crate::group::member::{Joining, text};
use crate::group::topics::Topics;
use bytes::Bytes;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{HeartbeatRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse};

/// The first version of JoinGroup that has dynamic members come back with the id they are given.
const MEMBER_ID_REQUIRED_FROM: i16 = 4;

impl ConsumerGroup {
    /// Whether a member is to come back with an id first.
    pub fn has_to_come_back(joining: &Joining) -> bool {
        let has_no_id = joining.member_id.is_empty() && joining.instance_id.is_none();
        has_no_id && joining.version >= MEMBER_ID_REQUIRED_FROM
    }

    /// Checks that a member may be one of this group at all.
    pub fn check_joining(&self, joining: &Joining, context: &Context<'_>) -> Result<(), Refusal> {
        self.check_size(&joining.member_id, joining.instance_id.as_deref(), context)?;
        let is_known = |name: &str| {
            let mut classic = self.members.values().filter_map(|member| member.value.classic.as_ref());
            classic.all(|classic| classic.protocols.iter().any(|(known, _)| known == name))
        };
        let is_consumer = joining.protocol_type == PROTOCOL_TYPE;
        if is_consumer && joining.protocols.iter().any(|protocol| is_known(&protocol.name)) {
            return Ok(());
        }
        let message = format!("Member {}'s protocols are not supported.", joining.member_id);
        Err(Refusal::new(ErrorCode::InconsistentGroupProtocol, message))
    }

    /// `id`: the one it says, or one that was made for it. `None`: it is to come again, as with a heartbeat. After a
    /// refusal what it has changed is to be undone.
    pub fn join(
        &mut self,
        joining: &Joining,
        id: &str,
        context: &Context<'_>,
        change: &mut Change,
    ) -> Result<Option<JoinGroupResponse>, Refusal> {
        let malformed =
            |_| Refusal::new(ErrorCode::InconsistentGroupProtocol, "The subscription is malformed.");
        let metadata = joining.protocols.first().map(|protocol| &protocol.metadata[..]);
        let subscription =
            consumer_protocol::subscription(metadata.unwrap_or_default()).map_err(malformed)?;
        if let Some(instance_id) = joining.instance_id.as_deref() {
            match self.statics.get(instance_id).cloned() {
                Some(current) if current == id => {}
                Some(current) if joining.member_id.is_empty() => self.replace(&current, id, change),
                Some(_) => return Err(Refusal::new(ErrorCode::FencedInstanceId, "")),
                None if joining.member_id.is_empty() => {}
                None => return Err(Refusal::new(ErrorCode::UnknownMemberId, "")),
            }
        }
        let before = self.members.get(id).map(|member| member.value.clone());
        let value = member_value(joining, &subscription, before.as_ref());
        let is_changed = self.subscribe(id, (before.as_ref(), value), context, change)?;
        if self.rebalance(is_changed, context, change)? == Aimed::Later {
            return Ok(None);
        }
        let owned = with_ids(&subscription.owned, context.topics);
        self.reconcile(id, Some(&owned), change)?;
        let member = &self.members[id];
        let response = JoinGroupResponse::default()
            .with_member_id(text(id))
            .with_generation_id(member.current.epoch)
            .with_protocol_type(Some(text(PROTOCOL_TYPE)))
            .with_protocol_name(Some(text(protocol_of(member))));
        Ok(Some(response))
    }

    /// The member that a request comes from, if it is one of the classic protocol.
    fn classic_member(&self, id: &str, instance_id: Option<&str>) -> Result<&Member, ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.statics.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        let member = self.members.get(id).filter(|member| member.uses_classic());
        member.ok_or(ErrorCode::UnknownMemberId)
    }

    /// Whether there is a newer epoch that a member has not joined for. Who lets partitions go has joined already.
    fn is_behind(&self, member: &Member) -> bool {
        self.epoch > member.current.epoch && member.current.state != MemberState::Unrevoked
    }

    pub fn sync(
        &self,
        request: &SyncGroupRequest,
        topics: &dyn Topics,
    ) -> Result<SyncGroupResponse, ErrorCode> {
        let member = self.classic_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != member.current.epoch {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |said: Option<&str>, known: &str| said.is_some_and(|said| said != known);
        if differs(request.protocol_type.as_deref(), PROTOCOL_TYPE)
            || differs(request.protocol_name.as_deref(), protocol_of(member))
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if self.is_behind(member) {
            return Err(ErrorCode::RebalanceInProgress);
        }
        let assigned = with_names(&member.current.assigned, topics);
        let assignment = consumer_protocol::write_assignment(version_of(member), &assigned);
        Ok(SyncGroupResponse::default()
            .with_protocol_type(Some(text(PROTOCOL_TYPE)))
            .with_protocol_name(Some(text(protocol_of(member))))
            .with_assignment(Bytes::from(assignment)))
    }

    /// Whether the member is to join again: there is a newer epoch, or partitions to let go, or to be had.
    pub fn classic_heartbeat(&self, request: &HeartbeatRequest) -> Result<bool, ErrorCode> {
        let member = self.classic_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != member.current.epoch {
            return Err(ErrorCode::IllegalGeneration);
        }
        let is_free = || !self.is_waiting_for_others(&request.member_id, member);
        Ok(member.current.epoch < self.epoch
            || match member.current.state {
                MemberState::Unrevoked => true,
                MemberState::Unreleased => is_free(),
                MemberState::Stable | MemberState::Unknown => false,
            })
    }

    fn is_waiting_for_others(&self, id: &str, member: &Member) -> bool {
        let assigned = &member.current.assigned;
        let missing = self.targets.get(id).into_iter().flatten().flat_map(|(topic, indexes)| {
            let has = assigned.get(topic);
            let missing = indexes.iter().filter(move |index| has.is_none_or(|has| !has.contains(index)));
            missing.map(|index| (*topic, *index))
        });
        let mut missing = missing;
        missing.any(|(topic, index)| self.is_held(topic, index))
    }

    /// The member that is to leave. An administrator names static members by their instance ids alone.
    pub fn classic_leaving(&self, identity: &MemberIdentity) -> Result<String, ErrorCode> {
        let instance_id = identity.group_instance_id.as_deref();
        let current = instance_id.and_then(|instance_id| self.statics.get(instance_id));
        let id = match current {
            Some(current) if identity.member_id.is_empty() => current.as_str(),
            _ => &identity.member_id,
        };
        self.classic_member(id, instance_id).map(|_| id.to_owned())
    }

    /// Whether all members but one use the classic protocol.
    pub fn is_last_of_its_protocol(&self, id: &str) -> bool {
        let others = || self.members.iter().filter(|(other, _)| &***other != id);
        self.members.get(id).is_some_and(|member| !member.uses_classic())
            && others().all(|(_, member)| member.uses_classic())
    }
}

fn member_value(joining: &Joining, subscription: &Subscription, before: Option<&MemberValue>) -> MemberValue {
    let before = before.cloned().unwrap_or_default();
    let protocols = joining.protocols.iter();
    MemberValue {
        instance_id: joining.instance_id.clone().or(before.instance_id),
        rack: subscription.rack.clone().or(before.rack),
        client_id: joining.client_id.clone(),
        client_host: joining.client_host.clone(),
        topics: subscription.topics.iter().cloned().collect(),
        regex: None,
        rebalance_timeout_ms: joining.rebalance_timeout_ms,
        assignor: before.assignor,
        classic: Some(Box::new(ClassicValue {
            session_timeout_ms: joining.session_timeout_ms,
            protocols: protocols.map(|known| (known.name.clone(), known.metadata.clone())).collect(),
        })),
    }
}

/// The protocol that a member is told: the one that it likes best.
fn protocol_of(member: &Member) -> &str {
    let classic = member.value.classic.as_ref();
    classic.and_then(|classic| classic.protocols.first()).map_or("", |(name, _)| name)
}

/// The version of what a member says of itself.
pub(super) fn version_of(member: &Member) -> i16 {
    let classic = member.value.classic.as_ref();
    let metadata = classic.and_then(|classic| classic.protocols.first()).map(|(_, metadata)| metadata);
    metadata
        .and_then(|metadata| consumer_protocol::subscription(metadata).ok())
        .map_or(0, |said| said.version)
}

pub(super) fn with_ids(named: &NamedPartitions, topics: &dyn Topics) -> Partitions {
    let known = named.iter().filter(|(_, indexes)| !indexes.is_empty());
    known
        .filter_map(|(name, indexes)| Some((topics.named(name)?.id, indexes.iter().copied().collect())))
        .collect()
}

pub(super) fn with_names(partitions: &Partitions, topics: &dyn Topics) -> NamedPartitions {
    partitions
        .iter()
        .filter_map(|(id, indexes)| Some((topics.name(*id)?, indexes.iter().copied().collect())))
        .collect()
}
