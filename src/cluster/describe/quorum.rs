//! DescribeQuorum (KIP-595, KIP-836, KIP-853).
//!
//! Kafka counts the entries of its quorum from zero, we from one: an entry's index is the offset behind it. A
//! member is told apart by its directory, of which the quorum keeps a part; the whole id is known of this node.

use kafka_protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{DescribeQuorumRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::image::Image;
use crate::cluster::wire_text;
use crate::codec::error_code::ErrorCode;
use crate::types::{DirectoryId, NodeId, Timestamp};

/// What Kafka calls the log of its quorum. It has one partition.
pub const METADATA_TOPIC: &str = "__cluster_metadata";

/// What a listener is called here.
const LISTENER: &str = "PLAINTEXT";

/// The quorum as its leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumState {
    pub leader: NodeId,
    pub term: u64,
    /// The last entry that is committed.
    pub committed: u64,
    pub voters: Vec<QuorumMember>,
    pub observers: Vec<QuorumMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumMember {
    pub node: NodeId,
    pub directory: Option<DirectoryId>,
    /// The last entry that it has flushed; `None` where it has said nothing yet.
    pub flushed: Option<u64>,
    /// When it was heard of last, and when it had everything.
    pub heard: Option<Timestamp>,
    pub caught_up: Option<Timestamp>,
}

impl QuorumState {
    /// What another node has answered, in version 2; `None` of a refusal.
    pub fn from_response(response: &DescribeQuorumResponse) -> Option<QuorumState> {
        let [topic] = &response.topics[..] else { return None };
        let [partition] = &topic.partitions[..] else { return None };
        if response.error_code != 0 || partition.error_code != 0 {
            return None;
        }
        let time = |time: i64| (time >= 0).then_some(Timestamp(time));
        let member = |replica: &ReplicaState| QuorumMember {
            node: NodeId(replica.replica_id.0),
            directory: (!replica.replica_directory_id.is_nil())
                .then_some(DirectoryId(replica.replica_directory_id)),
            flushed: u64::try_from(replica.log_end_offset).ok(),
            heard: time(replica.last_fetch_timestamp),
            caught_up: time(replica.last_caught_up_timestamp),
        };
        Some(QuorumState {
            leader: NodeId(partition.leader_id.0),
            term: u64::try_from(partition.leader_epoch).ok()?,
            committed: u64::try_from(partition.high_watermark).ok()?,
            voters: partition.current_voters.iter().map(member).collect(),
            observers: partition.observers.iter().map(member).collect(),
        })
    }
}

/// Answers DescribeQuorum 0 to 2. `state`: `None` where this node does not lead the quorum.
pub fn describe_quorum(
    image: &Image,
    state: Option<&QuorumState>,
    request: &DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    let Some(state) = state else { return refused(ErrorCode::NotLeaderOrFollower, version) };
    let [topic] = &request.topics[..] else { return refused(ErrorCode::InvalidRequest, version) };
    let is_known = topic.topic_name.as_str() == METADATA_TOPIC;
    let partitions = topic.partitions.iter().map(|asked| match (is_known, asked.partition_index) {
        (true, 0) => partition(state, version),
        (_, index) => unknown(index, version),
    });
    let answered =
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(partitions.collect());
    let response = DescribeQuorumResponse::default().with_error_message(None).with_topics(vec![answered]);
    if version < 2 { response } else { response.with_nodes(nodes(image, state)) }
}

/// The whole request is.
fn refused(code: ErrorCode, version: i16) -> DescribeQuorumResponse {
    let message = (version >= 2).then(|| wire_text::error_message(&code.message())).flatten();
    DescribeQuorumResponse::default().with_error_code(code.code()).with_error_message(message)
}

fn unknown(index: i32, version: i16) -> PartitionData {
    let code = ErrorCode::UnknownTopicOrPartition;
    let message = (version >= 2).then(|| wire_text::error_message(&code.message())).flatten();
    PartitionData::default()
        .with_partition_index(index)
        .with_error_code(code.code())
        .with_error_message(message)
        .with_leader_id((-1).into())
        .with_leader_epoch(-1)
        .with_high_watermark(-1)
}

fn partition(state: &QuorumState, version: i16) -> PartitionData {
    let members =
        |members: &[QuorumMember]| members.iter().map(|member| replica(member, version)).collect::<Vec<_>>();
    PartitionData::default()
        .with_error_message(None)
        .with_leader_id(state.leader.0.into())
        .with_leader_epoch(i32::try_from(state.term).unwrap_or(i32::MAX))
        .with_high_watermark(state.committed as i64)
        .with_current_voters(members(&state.voters))
        .with_observers(members(&state.observers))
}

fn replica(member: &QuorumMember, version: i16) -> ReplicaState {
    let time = |time: Option<Timestamp>| time.map_or(-1, |time| time.0);
    let mut replica = ReplicaState::default()
        .with_replica_id(member.node.0.into())
        .with_log_end_offset(member.flushed.map_or(-1, |index| index as i64));
    if version >= 1 {
        replica.last_fetch_timestamp = time(member.heard);
        replica.last_caught_up_timestamp = time(member.caught_up);
    }
    if version >= 2 {
        replica.replica_directory_id = member.directory.map_or(uuid::Uuid::nil(), |id| id.0);
    }
    replica
}

/// The voters' addresses.
fn nodes(image: &Image, state: &QuorumState) -> Vec<Node> {
    let node = |member: &QuorumMember| {
        let node = image.node(member.node)?;
        let listener = Listener::default()
            .with_name(StrBytes::from_static_str(LISTENER))
            .with_host(node.host.clone().into())
            .with_port(node.port);
        Some(Node::default().with_node_id(member.node.0.into()).with_listeners(vec![listener]))
    };
    state.voters.iter().filter_map(node).collect()
}

/// The request for all there is to know.
pub fn ask_quorum() -> DescribeQuorumRequest {
    use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
    let topic = TopicData::default()
        .with_topic_name(TopicName(StrBytes::from_static_str(METADATA_TOPIC)))
        .with_partitions(vec![PartitionData::default().with_partition_index(0)]);
    DescribeQuorumRequest::default().with_topics(vec![topic])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node};
    use crate::config::Routing;
    use crate::types::Uuid;
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    fn state() -> QuorumState {
        let voter = QuorumMember {
            node: NodeId(1),
            directory: Some(DirectoryId(Uuid::from_u128(7))),
            flushed: Some(12),
            heard: Some(Timestamp(1000)),
            caught_up: Some(Timestamp(1000)),
        };
        let observer =
            QuorumMember { node: NodeId(2), directory: None, flushed: None, heard: None, caught_up: None };
        QuorumState {
            leader: NodeId(1),
            term: 3,
            committed: 12,
            voters: vec![voter],
            observers: vec![observer],
        }
    }

    fn describe(
        state: Option<&QuorumState>,
        request: &DescribeQuorumRequest,
        version: i16,
    ) -> DescribeQuorumResponse {
        let image = image_of(&[node(1, 2, Routing::Core)]);
        let response = describe_quorum(&image, state, request, version);
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, version).expect("encodes");
        DescribeQuorumResponse::decode(&mut bytes.freeze(), version).expect("decodes")
    }

    #[test]
    fn the_quorum_is_described_in_every_version() {
        for version in 0..=2 {
            let response = describe(Some(&state()), &ask_quorum(), version);
            assert_eq!(response.error_code, 0);
            let partition = &response.topics[0].partitions[0];
            assert_eq!((partition.leader_id.0, partition.leader_epoch, partition.high_watermark), (1, 3, 12));
            let (voter, observer) = (&partition.current_voters[0], &partition.observers[0]);
            assert_eq!((voter.replica_id.0, voter.log_end_offset), (1, 12));
            assert_eq!((observer.replica_id.0, observer.log_end_offset), (2, -1));
            let caught_up = if version >= 1 { 1000 } else { -1 };
            assert_eq!(voter.last_caught_up_timestamp, caught_up);
            let directory = if version >= 2 { 7 } else { 0 };
            assert_eq!(voter.replica_directory_id.as_u128(), directory);
            assert_eq!(response.nodes.len(), usize::from(version >= 2));
        }
    }

    #[test]
    fn only_the_leader_answers_and_only_of_the_metadata() {
        for version in 0..=2 {
            let response = describe(None, &ask_quorum(), version);
            assert_eq!(response.error_code, ErrorCode::NotLeaderOrFollower.code());
            let mut request = ask_quorum();
            request.topics[0].topic_name = TopicName(StrBytes::from_static_str("orders"));
            let response = describe(Some(&state()), &request, version);
            let code = response.topics[0].partitions[0].error_code;
            assert_eq!(code, ErrorCode::UnknownTopicOrPartition.code());
            let mut request = ask_quorum();
            request.topics[0].partitions[0].partition_index = 1;
            let response = describe(Some(&state()), &request, version);
            let code = response.topics[0].partitions[0].error_code;
            assert_eq!(code, ErrorCode::UnknownTopicOrPartition.code());
            let response = describe(Some(&state()), &DescribeQuorumRequest::default(), version);
            assert_eq!(response.error_code, ErrorCode::InvalidRequest.code());
        }
    }
}
