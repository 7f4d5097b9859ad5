//! Requests of all kinds, as a broker takes them from its connections, and what comes back.

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, OffsetDeleteRequest, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek::codec::error_code::ErrorCode;
use odradek::group::{Answer, Caller};

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Join(Caller, JoinGroupRequest),
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    Leave(LeaveGroupRequest),
    /// Of the newer protocol.
    ConsumerHeartbeat(Caller, ConsumerGroupHeartbeatRequest),
    /// In a version.
    Commit(i16, OffsetCommitRequest),
    /// All that a group has committed.
    Fetch(String),
    Describe(String),
    DeleteGroup(String),
    DeleteOffsets(OffsetDeleteRequest),
}

#[derive(Clone, Debug)]
pub enum Reply {
    Answer(Answer),
    /// Members and state.
    Described,
    Fetched,
    /// Nothing was looked at.
    Refused(ErrorCode),
}

/// Who a request is from, as it says itself.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    pub member: &'a str,
    pub instance: Option<&'a str>,
    pub generation: i32,
}

impl Request {
    pub fn group(&self) -> &str {
        match self {
            Request::Join(_, request) => &request.group_id,
            Request::Sync(request) => &request.group_id,
            Request::Heartbeat(request) => &request.group_id,
            Request::Leave(request) => &request.group_id,
            Request::ConsumerHeartbeat(_, request) => &request.group_id,
            Request::Commit(_, request) => &request.group_id,
            Request::DeleteOffsets(request) => &request.group_id,
            Request::Fetch(group) | Request::Describe(group) | Request::DeleteGroup(group) => group,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Request::Join(..) => "join",
            Request::Sync(_) => "sync",
            Request::Heartbeat(_) => "heartbeat",
            Request::Leave(_) => "leave",
            Request::ConsumerHeartbeat(..) => "consumer heartbeat",
            Request::Commit(..) => "commit",
            Request::Fetch(_) => "fetch",
            Request::Describe(_) => "describe",
            Request::DeleteGroup(_) => "delete group",
            Request::DeleteOffsets(_) => "delete offsets",
        }
    }

    /// Of requests that name one member.
    pub fn sender(&self) -> Option<Sender<'_>> {
        let sender = match self {
            Request::Join(_, request) => Sender {
                member: &request.member_id,
                instance: request.group_instance_id.as_deref(),
                generation: -1,
            },
            Request::Sync(request) => Sender {
                member: &request.member_id,
                instance: request.group_instance_id.as_deref(),
                generation: request.generation_id,
            },
            Request::Heartbeat(request) => Sender {
                member: &request.member_id,
                instance: request.group_instance_id.as_deref(),
                generation: request.generation_id,
            },
            Request::Commit(_, request) => Sender {
                member: &request.member_id,
                instance: request.group_instance_id.as_deref(),
                generation: request.generation_id_or_member_epoch,
            },
            Request::ConsumerHeartbeat(_, request) => Sender {
                member: &request.member_id,
                instance: request.instance_id.as_deref(),
                generation: request.member_epoch,
            },
            Request::Leave(_)
            | Request::Fetch(_)
            | Request::Describe(_)
            | Request::DeleteGroup(_)
            | Request::DeleteOffsets(_) => return None,
        };
        Some(sender)
    }

    /// One line of the trace.
    pub fn summary(&self) -> String {
        let group = self.group();
        match (self, self.sender()) {
            (Request::Join(caller, request), Some(sender)) => format!(
                "join {} of {group} v{} {:?} {:?}, session {} ms, rebalance {} ms",
                caller.client_id,
                caller.version,
                sender.member,
                sender.instance,
                request.session_timeout_ms,
                request.rebalance_timeout_ms
            ),
            (Request::Leave(request), _) => {
                let who = |member: &MemberIdentity| {
                    format!("{:?} {:?}", member.member_id, member.group_instance_id)
                };
                format!("leave {group} {:?}", request.members.iter().map(who).collect::<Vec<_>>())
            }
            (Request::Commit(version, request), Some(sender)) => format!(
                "commit to {group} v{version} {:?} {:?} generation {}: {}",
                sender.member,
                sender.instance,
                sender.generation,
                committed(request)
                    .map(|(topic, at, value)| format!("{topic}-{at}={value} "))
                    .collect::<String>()
            ),
            (Request::ConsumerHeartbeat(caller, request), Some(sender)) => format!(
                "consumer heartbeat {group} v{} {:?} {:?} epoch {}: {:?} {:?} {:?}, has {}",
                caller.version,
                sender.member,
                sender.instance,
                sender.generation,
                request.subscribed_topic_names.iter().flatten().map(|name| &***name).collect::<Vec<_>>(),
                request.subscribed_topic_regex,
                request.server_assignor,
                request.topic_partitions.as_ref().map_or("?".to_owned(), |owned| {
                    let owned =
                        owned.iter().map(|of| format!("{:x}:{:?} ", of.topic_id.as_u128(), of.partitions));
                    owned.collect()
                }),
            ),
            (_, Some(sender)) => format!(
                "{} {group} {:?} {:?} generation {}",
                self.name(),
                sender.member,
                sender.instance,
                sender.generation
            ),
            (_, None) => format!("{} {group}", self.name()),
        }
    }
}

/// What a commit is of: topic, partition, offset.
pub fn committed(request: &OffsetCommitRequest) -> impl Iterator<Item = (&str, i32, i64)> {
    request.topics.iter().flat_map(|topic| {
        let of = |partition: &OffsetCommitRequestPartition| {
            (partition.partition_index, partition.committed_offset)
        };
        topic.partitions.iter().map(move |partition| {
            let (index, offset) = of(partition);
            (&**topic.name, index, offset)
        })
    })
}

/// The errors that an answer has, each once; `None` is one of them.
pub fn errors(answer: &Answer) -> Vec<ErrorCode> {
    let mut codes: Vec<i16> = match answer {
        Answer::Join(response) => vec![response.error_code],
        Answer::Sync(response) => vec![response.error_code],
        Answer::ConsumerHeartbeat(response) => vec![response.error_code],
        Answer::Heartbeat(error) | Answer::DeleteGroup(error) => vec![error.code()],
        Answer::Leave(response) => match response.error_code {
            0 => response.members.iter().map(|member| member.error_code).collect(),
            error => vec![error],
        },
        Answer::Commit(response) => {
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).collect()
        }
        Answer::DeleteOffsets(response) => match response.error_code {
            0 => {
                let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
                partitions.map(|partition| partition.error_code).collect()
            }
            error => vec![error],
        },
    };
    codes.sort_unstable();
    codes.dedup();
    codes.into_iter().map(error).collect()
}

pub fn error(code: i16) -> ErrorCode {
    ErrorCode::from_wire(code).expect("the broker's own")
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// What a consumer says of itself: its topics, in Kafka's format of subscriptions.
pub fn subscription(topics: &[String]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    bytes.into()
}

pub fn protocol(name: &str, metadata: Bytes) -> JoinGroupRequestProtocol {
    JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(metadata)
}

pub fn heartbeat(group: &str, sender: Sender<'_>) -> Request {
    let request = HeartbeatRequest::default()
        .with_group_id(group_id(group))
        .with_member_id(text(sender.member))
        .with_group_instance_id(sender.instance.map(text))
        .with_generation_id(sender.generation);
    Request::Heartbeat(request)
}

pub fn sync(group: &str, sender: Sender<'_>) -> SyncGroupRequest {
    SyncGroupRequest::default()
        .with_group_id(group_id(group))
        .with_member_id(text(sender.member))
        .with_group_instance_id(sender.instance.map(text))
        .with_generation_id(sender.generation)
}

pub fn leave(group: &str, members: &[(&str, Option<&str>)]) -> Request {
    let members = members.iter().map(|(member, instance)| {
        MemberIdentity::default().with_member_id(text(member)).with_group_instance_id(instance.map(text))
    });
    Request::Leave(
        LeaveGroupRequest::default().with_group_id(group_id(group)).with_members(members.collect()),
    )
}

/// One partition of a commit.
#[derive(Clone, Debug)]
pub struct Committing {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub metadata: String,
}

pub fn commit(
    group: &str,
    sender: Sender<'_>,
    retention_ms: i64,
    what: &[Committing],
) -> OffsetCommitRequest {
    let topics = what.iter().map(|committing| {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(committing.partition)
            .with_committed_offset(committing.offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(text(&committing.metadata)));
        OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(&committing.topic)))
            .with_partitions(vec![partition])
    });
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_member_id(text(sender.member))
        .with_group_instance_id(sender.instance.map(text))
        .with_generation_id_or_member_epoch(sender.generation)
        .with_retention_time_ms(retention_ms)
        .with_topics(topics.collect())
}

pub fn delete_offsets(group: &str, topic: &str, partitions: &[i32]) -> Request {
    let partitions = partitions
        .iter()
        .map(|index| OffsetDeleteRequestPartition::default().with_partition_index(*index))
        .collect();
    let topic =
        OffsetDeleteRequestTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions);
    Request::DeleteOffsets(
        OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(vec![topic]),
    )
}

/// Who asks, as the broker knows it.
pub fn caller(client: &str, version: i16) -> Caller {
    Caller { client_id: client.to_owned(), client_host: "/127.0.0.1".to_owned(), version }
}

/// What became of a join that was not answered with a generation.
pub enum NotJoined {
    Unanswered,
    /// Given an id, to join with.
    Named(String),
    Refused(ErrorCode),
}

/// The answer to a join.
pub fn joined(reply: Option<Reply>) -> Result<JoinGroupResponse, NotJoined> {
    match reply {
        None => Err(NotJoined::Unanswered),
        Some(Reply::Refused(error)) => Err(NotJoined::Refused(error)),
        Some(Reply::Answer(Answer::Join(response))) => match error(response.error_code) {
            ErrorCode::None => Ok(response),
            ErrorCode::MemberIdRequired => Err(NotJoined::Named(response.member_id.to_string())),
            error => Err(NotJoined::Refused(error)),
        },
        Some(other) => unreachable!("a join is answered by a join: {other:?}"),
    }
}

/// What a sync hands out. Errors: why not, if there was an answer.
pub fn synced(reply: Option<Reply>) -> Result<Bytes, Option<ErrorCode>> {
    match reply {
        None => Err(None),
        Some(Reply::Refused(error)) => Err(Some(error)),
        Some(Reply::Answer(Answer::Sync(response))) => match error(response.error_code) {
            ErrorCode::None => Ok(response.assignment),
            error => Err(Some(error)),
        },
        Some(other) => unreachable!("a sync is answered by a sync: {other:?}"),
    }
}

/// After such an error a member does not join again.
pub fn is_final(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::FencedInstanceId
            | ErrorCode::InconsistentGroupProtocol
            | ErrorCode::GroupMaxSizeReached
            | ErrorCode::InvalidSessionTimeout
    )
}
