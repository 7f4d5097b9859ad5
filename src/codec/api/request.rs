//! Requests that the library decodes, made safe to decode.
//!
//! Absent: Produce, see [`produce`](super::produce).

use bytes::{Buf, Bytes};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AddRaftVoterRequest, AlterClientQuotasRequest,
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, ApiVersionsRequest,
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClientQuotasRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    DescribeLogDirsRequest, DescribeProducersRequest, DescribeQuorumRequest, DescribeTopicPartitionsRequest,
    DescribeTransactionsRequest, ElectLeadersRequest, EndTxnRequest, FetchRequest, FindCoordinatorRequest,
    GetTelemetrySubscriptionsRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListConfigResourcesRequest,
    ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest, ListTransactionsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, PushTelemetryRequest, RemoveRaftVoterRequest, SyncGroupRequest,
    TxnOffsetCommitRequest, UnregisterBrokerRequest, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::Decodable;

use crate::codec::api::guard::{WalkError, Walked, walk};
use crate::codec::api::schema::schema;
use crate::codec::api::versions::{Admission, ApiKey};
use crate::types::limits::{REQUEST_ELEMENT_SIZE, REQUEST_TAGGED_FIELD_SIZE};

/// A decoded request. Its strings are slices of the body, which lives as long as they do.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Fetch(FetchRequest),
    ListOffsets(ListOffsetsRequest),
    Metadata(MetadataRequest),
    OffsetCommit(OffsetCommitRequest),
    OffsetFetch(OffsetFetchRequest),
    FindCoordinator(FindCoordinatorRequest),
    JoinGroup(JoinGroupRequest),
    Heartbeat(HeartbeatRequest),
    LeaveGroup(LeaveGroupRequest),
    SyncGroup(SyncGroupRequest),
    DescribeGroups(DescribeGroupsRequest),
    ListGroups(ListGroupsRequest),
    ApiVersions(ApiVersionsRequest),
    CreateTopics(CreateTopicsRequest),
    DeleteTopics(DeleteTopicsRequest),
    DeleteRecords(DeleteRecordsRequest),
    InitProducerId(InitProducerIdRequest),
    OffsetForLeaderEpoch(OffsetForLeaderEpochRequest),
    AddPartitionsToTxn(AddPartitionsToTxnRequest),
    AddOffsetsToTxn(AddOffsetsToTxnRequest),
    EndTxn(EndTxnRequest),
    WriteTxnMarkers(WriteTxnMarkersRequest),
    TxnOffsetCommit(TxnOffsetCommitRequest),
    DescribeConfigs(DescribeConfigsRequest),
    AlterConfigs(AlterConfigsRequest),
    DescribeLogDirs(DescribeLogDirsRequest),
    CreatePartitions(CreatePartitionsRequest),
    DeleteGroups(DeleteGroupsRequest),
    ElectLeaders(ElectLeadersRequest),
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest),
    AlterPartitionReassignments(AlterPartitionReassignmentsRequest),
    ListPartitionReassignments(ListPartitionReassignmentsRequest),
    OffsetDelete(OffsetDeleteRequest),
    DescribeClientQuotas(DescribeClientQuotasRequest),
    AlterClientQuotas(AlterClientQuotasRequest),
    DescribeQuorum(DescribeQuorumRequest),
    AddRaftVoter(AddRaftVoterRequest),
    RemoveRaftVoter(RemoveRaftVoterRequest),
    UnregisterBroker(UnregisterBrokerRequest),
    DescribeCluster(DescribeClusterRequest),
    DescribeProducers(DescribeProducersRequest),
    DescribeTransactions(DescribeTransactionsRequest),
    ListTransactions(ListTransactionsRequest),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatRequest),
    ConsumerGroupDescribe(ConsumerGroupDescribeRequest),
    GetTelemetrySubscriptions(GetTelemetrySubscriptionsRequest),
    PushTelemetry(PushTelemetryRequest),
    ListConfigResources(ListConfigResourcesRequest),
    DescribeTopicPartitions(DescribeTopicPartitionsRequest),
}

/// Why a body cannot be decoded; ends the connection, as in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("{} {version} is not decoded here", api_key.name())]
    Unserved { api_key: ApiKey, version: i16 },
    #[error("{} {version} is malformed: {error}", api_key.name())]
    Malformed { api_key: ApiKey, version: i16, error: WalkError },
    /// A tag that the version does not have; or our description of the request is wrong.
    #[error("{} {version} is refused: {reason}", api_key.name())]
    Refused { api_key: ApiKey, version: i16, reason: String },
}

/// A request body that may be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    api_key: ApiKey,
    version: i16,
    walked: Walked,
}

impl Checked {
    /// Bytes of the request; those behind it are ignored.
    pub fn size(&self) -> usize {
        self.walked.size
    }

    /// Bytes that the request takes once decoded, those of its body among them; an upper bound.
    pub fn memory_size(&self) -> usize {
        self.walked.size
            + self.walked.elements * REQUEST_ELEMENT_SIZE
            + self.walked.tagged_fields * REQUEST_TAGGED_FIELD_SIZE
    }
}

/// Checks a request body before it is copied or decoded. Takes no memory.
pub fn check_request(api_key: ApiKey, version: i16, body: &[u8]) -> Result<Checked, RequestError> {
    let unserved = RequestError::Unserved { api_key, version };
    if api_key.admit(version) != Admission::Serve {
        return Err(unserved);
    }
    let Some(schema) = schema(api_key) else { return Err(unserved) };
    let malformed = |error| RequestError::Malformed { api_key, version, error };
    let walked = walk(schema, version, api_key.encoding(version), body).map_err(malformed)?;
    Ok(Checked { api_key, version, walked })
}

/// Checks and decodes a request body. Memory: the decoded elements only, within the bound of
/// [`REQUEST_ELEMENTS_MAX`](crate::types::limits::REQUEST_ELEMENTS_MAX).
pub fn decode_request(api_key: ApiKey, version: i16, body: Bytes) -> Result<Request, RequestError> {
    decode_checked(check_request(api_key, version, &body)?, body)
}

/// Decodes the body that was checked, or a copy of it.
pub fn decode_checked(checked: Checked, body: Bytes) -> Result<Request, RequestError> {
    let Checked { api_key, version, walked } = checked;
    let mut body = body.slice(..walked.size);
    let decoded = decode_walked(api_key, version, &mut body);
    let refused = |reason| RequestError::Refused { api_key, version, reason };
    let request = decoded.map_err(refused)?.ok_or(RequestError::Unserved { api_key, version })?;
    match body.remaining() {
        0 => Ok(request),
        left => Err(refused(format!("{left} bytes were left over"))),
    }
}

fn decode_walked(api_key: ApiKey, version: i16, body: &mut Bytes) -> Result<Option<Request>, String> {
    Ok(Some(match api_key {
        ApiKey::Produce => return Ok(None),
        ApiKey::Fetch => Request::Fetch(decode(version, body)?),
        ApiKey::ListOffsets => Request::ListOffsets(decode(version, body)?),
        ApiKey::Metadata => Request::Metadata(decode(version, body)?),
        ApiKey::OffsetCommit => Request::OffsetCommit(decode(version, body)?),
        ApiKey::OffsetFetch => Request::OffsetFetch(decode(version, body)?),
        ApiKey::FindCoordinator => Request::FindCoordinator(decode(version, body)?),
        ApiKey::JoinGroup => Request::JoinGroup(decode(version, body)?),
        ApiKey::Heartbeat => Request::Heartbeat(decode(version, body)?),
        ApiKey::LeaveGroup => Request::LeaveGroup(decode(version, body)?),
        ApiKey::SyncGroup => Request::SyncGroup(decode(version, body)?),
        ApiKey::DescribeGroups => Request::DescribeGroups(decode(version, body)?),
        ApiKey::ListGroups => Request::ListGroups(decode(version, body)?),
        ApiKey::ApiVersions => Request::ApiVersions(decode(version, body)?),
        ApiKey::CreateTopics => Request::CreateTopics(decode(version, body)?),
        ApiKey::DeleteTopics => Request::DeleteTopics(decode(version, body)?),
        ApiKey::DeleteRecords => Request::DeleteRecords(decode(version, body)?),
        ApiKey::InitProducerId => Request::InitProducerId(decode(version, body)?),
        ApiKey::OffsetForLeaderEpoch => Request::OffsetForLeaderEpoch(decode(version, body)?),
        ApiKey::AddPartitionsToTxn => Request::AddPartitionsToTxn(decode(version, body)?),
        ApiKey::AddOffsetsToTxn => Request::AddOffsetsToTxn(decode(version, body)?),
        ApiKey::EndTxn => Request::EndTxn(decode(version, body)?),
        ApiKey::WriteTxnMarkers => Request::WriteTxnMarkers(decode(version, body)?),
        ApiKey::TxnOffsetCommit => Request::TxnOffsetCommit(decode(version, body)?),
        ApiKey::DescribeConfigs => Request::DescribeConfigs(decode(version, body)?),
        ApiKey::AlterConfigs => Request::AlterConfigs(decode(version, body)?),
        ApiKey::DescribeLogDirs => Request::DescribeLogDirs(decode(version, body)?),
        ApiKey::CreatePartitions => Request::CreatePartitions(decode(version, body)?),
        ApiKey::DeleteGroups => Request::DeleteGroups(decode(version, body)?),
        ApiKey::ElectLeaders => Request::ElectLeaders(decode(version, body)?),
        ApiKey::IncrementalAlterConfigs => Request::IncrementalAlterConfigs(decode(version, body)?),
        ApiKey::AlterPartitionReassignments => Request::AlterPartitionReassignments(decode(version, body)?),
        ApiKey::ListPartitionReassignments => Request::ListPartitionReassignments(decode(version, body)?),
        ApiKey::OffsetDelete => Request::OffsetDelete(decode(version, body)?),
        ApiKey::DescribeClientQuotas => Request::DescribeClientQuotas(decode(version, body)?),
        ApiKey::AlterClientQuotas => Request::AlterClientQuotas(decode(version, body)?),
        ApiKey::DescribeQuorum => Request::DescribeQuorum(decode(version, body)?),
        ApiKey::AddRaftVoter => Request::AddRaftVoter(decode(version, body)?),
        ApiKey::RemoveRaftVoter => Request::RemoveRaftVoter(decode(version, body)?),
        ApiKey::UnregisterBroker => Request::UnregisterBroker(decode(version, body)?),
        ApiKey::DescribeCluster => Request::DescribeCluster(decode(version, body)?),
        ApiKey::DescribeProducers => Request::DescribeProducers(decode(version, body)?),
        ApiKey::DescribeTransactions => Request::DescribeTransactions(decode(version, body)?),
        ApiKey::ListTransactions => Request::ListTransactions(decode(version, body)?),
        ApiKey::ConsumerGroupHeartbeat => Request::ConsumerGroupHeartbeat(decode(version, body)?),
        ApiKey::ConsumerGroupDescribe => Request::ConsumerGroupDescribe(decode(version, body)?),
        ApiKey::GetTelemetrySubscriptions => Request::GetTelemetrySubscriptions(decode(version, body)?),
        ApiKey::PushTelemetry => Request::PushTelemetry(decode(version, body)?),
        ApiKey::ListConfigResources => Request::ListConfigResources(decode(version, body)?),
        ApiKey::DescribeTopicPartitions => Request::DescribeTopicPartitions(decode(version, body)?),
    }))
}

fn decode<T: Decodable>(version: i16, body: &mut Bytes) -> Result<T, String> {
    T::decode(body, version).map_err(|error| error.to_string())
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;
