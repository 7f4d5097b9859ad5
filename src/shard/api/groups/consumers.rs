//! ConsumerGroupHeartbeat, ConsumerGroupDescribe (KIP-848).

use crate::cluster::describe::operations;
use crate::codec::error_code::ErrorCode;
use crate::group::Answer;
use crate::group::member::text;
use crate::shard::api::groups::{Asking, distinct};
use crate::shard::groups::{GroupReply, GroupRequest};
use crate::shard::step::Pace;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, GroupId,
};

pub async fn consumer_heartbeat(
    asking: &Asking<'_>,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let group = request.group_id.clone();
    match asking.ask(&group, GroupRequest::ConsumerHeartbeat(request)).await {
        GroupReply::Refused(error) => ConsumerGroupHeartbeatResponse::default()
            .with_error_code(error.code())
            .with_error_message(Some(text(error.message()))),
        GroupReply::Answer(Answer::ConsumerHeartbeat(response)) => response,
        GroupReply::Answer(_)
        | GroupReply::Fetched(_)
        | GroupReply::Described(_)
        | GroupReply::ConsumerDescribed(_) => unreachable!("a heartbeat is answered by a heartbeat"),
    }
}

pub async fn consumer_describe(
    asking: &Asking<'_>,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let asked = distinct(request.group_ids, GroupId::clone);
    let mut groups = Vec::with_capacity(asked.len());
    let mut pace = Pace::new(&asking.shard.clock);
    for id in asked {
        pace.give_way().await;
        let refused = |error: ErrorCode| {
            let described = DescribedGroup::default().with_error_code(error.code());
            described.with_error_message(Some(text(error.message())))
        };
        let mut described = if id.is_empty() {
            refused(ErrorCode::InvalidGroupId)
        } else {
            match asking.ask(&id, GroupRequest::ConsumerDescribe { group: id.to_string() }).await {
                GroupReply::ConsumerDescribed(described) => *described,
                GroupReply::Refused(error) => refused(error),
                GroupReply::Answer(_) | GroupReply::Fetched(_) | GroupReply::Described(_) => {
                    unreachable!("a description is answered by a description")
                }
            }
        };
        described.group_id = id;
        if request.include_authorized_operations && described.error_code == 0 {
            described.authorized_operations = operations::GROUP;
        }
        groups.push(described);
    }
    ConsumerGroupDescribeResponse::default().with_groups(groups)
}
