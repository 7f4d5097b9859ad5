//! One member of a group: a request at a time on its connection.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::connection::{CallError, Connection};
use crate::versions::Api;

pub const NONE: i16 = 0;
const UNKNOWN_MEMBER_ID: i16 = 25;
const MEMBER_ID_REQUIRED: i16 = 79;

/// Long enough that no pause of a measurement ends it.
const SESSION: Duration = Duration::from_secs(300);
const REBALANCE: Duration = Duration::from_secs(120);

/// Lives: from its first join on, whatever generation it is in.
#[derive(Clone, Debug)]
pub struct Member {
    pub group: String,
    pub id: String,
    pub generation: i32,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn millis(time: Duration) -> i32 {
    time.as_millis() as i32
}

/// A subscription to one topic, as consumers write it (`ConsumerProtocolSubscription`, version 0).
fn subscription(topic: &str) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1];
    bytes.extend((topic.len() as i16).to_be_bytes());
    bytes.extend(topic.as_bytes());
    bytes.extend((-1i32).to_be_bytes());
    bytes.into()
}

impl Member {
    pub fn new(group: &str) -> Member {
        Member { group: group.to_owned(), id: String::new(), generation: -1 }
    }

    /// Joins and asks for the assignment, once. The error that kept it from one of them.
    pub async fn join(&mut self, connection: &mut Connection, topic: &str) -> Result<i16, CallError> {
        let version = connection.version(Api::JoinGroup)?;
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str("range"))
            .with_metadata(subscription(topic));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_session_timeout_ms(millis(SESSION))
            .with_rebalance_timeout_ms(millis(REBALANCE))
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol]);
        let joined = loop {
            let request = request.clone().with_member_id(text(&self.id));
            let answer = connection.call(&request, version).await?;
            match answer.error_code {
                MEMBER_ID_REQUIRED => self.id = answer.member_id.to_string(),
                NONE => break answer,
                UNKNOWN_MEMBER_ID => {
                    self.id.clear();
                    return Ok(UNKNOWN_MEMBER_ID);
                }
                error => return Ok(error),
            }
        };
        self.id = joined.member_id.to_string();
        self.generation = joined.generation_id;
        let assigned = joined.members.iter().map(|member| {
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(Bytes::from_static(&[0; 10]))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.id))
            .with_generation_id(self.generation)
            .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
            .with_protocol_name(joined.protocol_name.clone())
            .with_assignments(assigned.collect());
        let version = connection.version(Api::SyncGroup)?;
        Ok(connection.call(&request, version).await?.error_code)
    }

    /// The error in its answer.
    pub async fn heartbeat(&self, connection: &mut Connection) -> Result<i16, CallError> {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.id))
            .with_generation_id(self.generation);
        let version = connection.version(Api::Heartbeat)?;
        Ok(connection.call(&request, version).await?.error_code)
    }

    /// Commits one partition. The error in its answer.
    pub async fn commit(
        &self,
        connection: &mut Connection,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<i16, CallError> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(StrBytes::default()));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.id))
            .with_generation_id_or_member_epoch(self.generation)
            .with_topics(vec![topic]);
        let version = connection.version(Api::OffsetCommit)?;
        let answer = connection.call(&request, version).await?;
        let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
        partition
            .map(|partition| partition.error_code)
            .ok_or_else(|| connection.protocol_error("no partition in the answer"))
    }
}
