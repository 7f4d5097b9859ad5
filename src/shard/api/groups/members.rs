//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup: what the versions differ in.

use crate::codec::error_code::ErrorCode;
use crate::group::Answer;
use crate::group::classic::{refused_join, refused_sync};
use crate::shard::api::groups::Asking;
use crate::shard::groups::{GroupReply, GroupRequest};
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

/// The first version of JoinGroup in which there may be no protocol.
const NULL_PROTOCOL_FROM: i16 = 7;
/// The first version of SyncGroup that has to name the protocol.
const PROTOCOL_REQUIRED_FROM: i16 = 5;
/// The first version of LeaveGroup with a list of members.
const MEMBERS_FROM: i16 = 3;

pub async fn join(asking: &Asking<'_>, request: JoinGroupRequest) -> JoinGroupResponse {
    let (group, member_id) = (request.group_id.clone(), request.member_id.clone());
    let answer = match asking.ask(&group, GroupRequest::Join(request)).await {
        GroupReply::Refused(error) => refused_join(&member_id, error),
        GroupReply::Answer(answer) => answer,
        GroupReply::Fetched(_) | GroupReply::Described(_) | GroupReply::ConsumerDescribed(_) => {
            unreachable!("a join is answered by a join")
        }
    };
    let Answer::Join(mut response) = answer else { unreachable!("a join is answered by a join") };
    if asking.version < NULL_PROTOCOL_FROM {
        response.protocol_name.get_or_insert_with(StrBytes::default);
    }
    response
}

pub async fn sync(asking: &Asking<'_>, request: SyncGroupRequest) -> SyncGroupResponse {
    let names_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
    let group = request.group_id.clone();
    let answer = if asking.version >= PROTOCOL_REQUIRED_FROM && !names_protocol {
        refused_sync(ErrorCode::InconsistentGroupProtocol)
    } else {
        match asking.ask(&group, GroupRequest::Sync(request)).await {
            GroupReply::Refused(error) => refused_sync(error),
            GroupReply::Answer(answer) => answer,
            GroupReply::Fetched(_) | GroupReply::Described(_) | GroupReply::ConsumerDescribed(_) => {
                unreachable!("a sync is answered by a sync")
            }
        }
    };
    let Answer::Sync(response) = answer else { unreachable!("a sync is answered by a sync") };
    response
}

pub async fn heartbeat(asking: &Asking<'_>, request: HeartbeatRequest) -> HeartbeatResponse {
    let group = request.group_id.clone();
    let error = match asking.ask(&group, GroupRequest::Heartbeat(request)).await {
        // Members do not give up because their coordinator is about to know them again.
        GroupReply::Refused(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::None,
        GroupReply::Refused(error) | GroupReply::Answer(Answer::Heartbeat(error)) => error,
        GroupReply::Answer(_)
        | GroupReply::Fetched(_)
        | GroupReply::Described(_)
        | GroupReply::ConsumerDescribed(_) => {
            unreachable!("a heartbeat is answered by a heartbeat")
        }
    };
    HeartbeatResponse::default().with_error_code(error.code())
}

pub async fn leave(asking: &Asking<'_>, mut request: LeaveGroupRequest) -> LeaveGroupResponse {
    if asking.version < MEMBERS_FROM {
        let member = MemberIdentity::default().with_member_id(std::mem::take(&mut request.member_id));
        request.members = vec![member];
    }
    let group = request.group_id.clone();
    let response = match asking.ask(&group, GroupRequest::Leave(request)).await {
        GroupReply::Refused(error) => LeaveGroupResponse::default().with_error_code(error.code()),
        GroupReply::Answer(Answer::Leave(response)) => response,
        GroupReply::Answer(_)
        | GroupReply::Fetched(_)
        | GroupReply::Described(_)
        | GroupReply::ConsumerDescribed(_) => {
            unreachable!("a leave is answered by a leave")
        }
    };
    in_version(response, asking.version)
}

/// Before there was a list, the error of the one member is that of the request.
fn in_version(response: LeaveGroupResponse, version: i16) -> LeaveGroupResponse {
    if version >= MEMBERS_FROM {
        return response;
    }
    let of_member = response.members.first().map_or(0, |member: &MemberResponse| member.error_code);
    let error = if response.error_code == 0 { of_member } else { response.error_code };
    LeaveGroupResponse::default().with_error_code(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::member::text;
    use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
    use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
    use kafka_protocol::messages::{DescribeGroupsResponse, GroupId};
    use kafka_protocol::protocol::Encodable;

    /// What coordinators fill in whatever the version: the encoder leaves out what a version does not have.
    #[test]
    fn answers_fit_every_version() {
        let instance_id = Some(text("instance"));
        let member = JoinGroupResponseMember::default().with_group_instance_id(instance_id.clone());
        let joined = JoinGroupResponse::default()
            .with_generation_id(3)
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_members(vec![member]);
        (0..=9).for_each(|version| joined.encode(&mut Vec::new(), version).unwrap());
        let synced = SyncGroupResponse::default()
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")));
        (0..=5).for_each(|version| synced.encode(&mut Vec::new(), version).unwrap());
        let member = MemberResponse::default().with_group_instance_id(instance_id.clone());
        let left = LeaveGroupResponse::default().with_members(vec![member]);
        (0..=5)
            .for_each(|version| in_version(left.clone(), version).encode(&mut Vec::new(), version).unwrap());
        let member = DescribedGroupMember::default().with_group_instance_id(instance_id);
        let group = DescribedGroup::default().with_group_id(GroupId(text("g"))).with_members(vec![member]);
        let described = DescribeGroupsResponse::default().with_groups(vec![group]);
        (0..=6).for_each(|version| described.encode(&mut Vec::new(), version).unwrap());
    }

    #[test]
    fn old_versions_have_the_error_of_their_one_member() {
        let member = MemberResponse::default().with_error_code(25);
        let response = LeaveGroupResponse::default().with_members(vec![member]);
        assert_eq!(in_version(response.clone(), 3), response);
        let old = in_version(response, 2);
        assert_eq!((old.error_code, old.members.len()), (25, 0));
        let refused = LeaveGroupResponse::default().with_error_code(16);
        assert_eq!(in_version(refused, 0).error_code, 16);
    }
}
