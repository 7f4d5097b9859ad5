//! Where an encoded answer says how long its client is throttled (KIP-219).
//!
//! Whether a request has used up a quota is known once it is answered: its time is part of what is used. So
//! the answer is encoded first, and the number put where it belongs, which is the beginning of the body in all
//! answers but a few. Produce and Fetch have encoders of their own and are given it before.

use crate::codec::api::versions::ApiKey;
use crate::codec::wire::{Encoding, Reader};

/// Bytes of the length and of the correlation id before a body, or the tagged fields before it.
const PREFIX_SIZE: usize = 8;

/// Puts the throttle time into a whole frame. An answer without a place for it is left as it is.
pub fn set_throttle_time(api_key: ApiKey, version: i16, frame: &mut [u8], milliseconds: i32) {
    let tagged = usize::from(api_key.response_header_encoding(version) == Encoding::Compact);
    let body = PREFIX_SIZE + tagged;
    let at = frame.get(body..).and_then(|bytes| place(api_key, version, bytes));
    let place = at.and_then(|at| frame.get_mut(body + at..body + at + 4));
    if let Some(place) = place {
        place.copy_from_slice(&milliseconds.to_be_bytes());
    }
}

/// The position in the body.
fn place(api_key: ApiKey, version: i16, body: &[u8]) -> Option<usize> {
    match api_key {
        ApiKey::ApiVersions => after_api_versions(version, body),
        ApiKey::OffsetDelete => Some(2), // Behind the error.
        _ => first_version(api_key).filter(|first| version >= *first).map(|_| 0),
    }
}

/// The first version whose body begins with the throttle time; `None` for answers that never do.
fn first_version(api_key: ApiKey) -> Option<i16> {
    match api_key {
        ApiKey::Produce | ApiKey::Fetch | ApiKey::ApiVersions | ApiKey::OffsetDelete => None,
        ApiKey::WriteTxnMarkers | ApiKey::DescribeQuorum => None,
        ApiKey::ListOffsets | ApiKey::JoinGroup => Some(2),
        ApiKey::Metadata | ApiKey::OffsetCommit | ApiKey::OffsetFetch => Some(3),
        ApiKey::FindCoordinator
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::SyncGroup
        | ApiKey::DescribeGroups
        | ApiKey::ListGroups => Some(1),
        // All that came after throttling.
        _ => Some(0),
    }
}

/// Behind the error and the ranges of all keys.
fn after_api_versions(version: i16, body: &[u8]) -> Option<usize> {
    const RANGE_SIZE: usize = 6;
    let mut reader = Reader::new(body, ApiKey::ApiVersions.encoding(version));
    reader.i16().ok()?;
    let tagged = usize::from(reader.encoding() == Encoding::Compact);
    let count = reader.count(RANGE_SIZE + tagged).ok()?;
    reader.take(count * (RANGE_SIZE + tagged)).ok()?;
    (version >= 1).then(|| reader.at())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::api::response::write_response;
    use crate::codec::api::versions::api_versions_response;
    use kafka_protocol::messages as m;
    use kafka_protocol::protocol::Encodable;

    const TIME: i32 = 0x0102_0304;

    /// The answer with the time, encoded by the library, is the one without it and the time put in.
    fn check<M: Encodable>(api_key: ApiKey, without: M, with: impl Fn(i16) -> Option<M>) {
        for version in api_key.api().served_min..=api_key.api().max {
            let encode = |message: &M| {
                let mut frame = Vec::new();
                write_response(api_key, version, 7, message, &mut frame).expect("encodes");
                frame
            };
            let plain = encode(&without);
            let mut patched = plain.clone();
            set_throttle_time(api_key, version, &mut patched, TIME);
            match with(version) {
                Some(with) => {
                    let expected = encode(&with);
                    assert_eq!(patched, expected, "{} {version}", api_key.name());
                    let is_told = expected.windows(4).any(|bytes| bytes == TIME.to_be_bytes());
                    assert_eq!(is_told, expected != plain, "{} {version}", api_key.name());
                }
                None => assert_eq!(patched, plain, "{} {version}", api_key.name()),
            }
        }
    }

    macro_rules! check_all {
        ($($key:ident: $response:ident,)*) => {
            /// Those that the library encodes, but for ApiVersions.
            const CHECKED: &[ApiKey] = &[$(ApiKey::$key,)*];

            #[test]
            fn throttle_time_is_put_where_the_library_has_it() {
                // The library leaves it out where there is no place for it.
                $(check(ApiKey::$key, m::$response::default(), |_| {
                    Some(m::$response::default().with_throttle_time_ms(TIME))
                });)*
            }
        };
    }

    check_all! {
        ListOffsets: ListOffsetsResponse,
        Metadata: MetadataResponse,
        OffsetCommit: OffsetCommitResponse,
        OffsetFetch: OffsetFetchResponse,
        FindCoordinator: FindCoordinatorResponse,
        JoinGroup: JoinGroupResponse,
        Heartbeat: HeartbeatResponse,
        LeaveGroup: LeaveGroupResponse,
        SyncGroup: SyncGroupResponse,
        DescribeGroups: DescribeGroupsResponse,
        ListGroups: ListGroupsResponse,
        CreateTopics: CreateTopicsResponse,
        DeleteTopics: DeleteTopicsResponse,
        DeleteRecords: DeleteRecordsResponse,
        InitProducerId: InitProducerIdResponse,
        OffsetForLeaderEpoch: OffsetForLeaderEpochResponse,
        AddPartitionsToTxn: AddPartitionsToTxnResponse,
        AddOffsetsToTxn: AddOffsetsToTxnResponse,
        EndTxn: EndTxnResponse,
        TxnOffsetCommit: TxnOffsetCommitResponse,
        DescribeConfigs: DescribeConfigsResponse,
        AlterConfigs: AlterConfigsResponse,
        DescribeLogDirs: DescribeLogDirsResponse,
        CreatePartitions: CreatePartitionsResponse,
        DeleteGroups: DeleteGroupsResponse,
        ElectLeaders: ElectLeadersResponse,
        IncrementalAlterConfigs: IncrementalAlterConfigsResponse,
        AlterPartitionReassignments: AlterPartitionReassignmentsResponse,
        ListPartitionReassignments: ListPartitionReassignmentsResponse,
        OffsetDelete: OffsetDeleteResponse,
        DescribeClientQuotas: DescribeClientQuotasResponse,
        AlterClientQuotas: AlterClientQuotasResponse,
        DescribeCluster: DescribeClusterResponse,
        DescribeProducers: DescribeProducersResponse,
        DescribeTransactions: DescribeTransactionsResponse,
        ListTransactions: ListTransactionsResponse,
        ConsumerGroupHeartbeat: ConsumerGroupHeartbeatResponse,
        ConsumerGroupDescribe: ConsumerGroupDescribeResponse,
        GetTelemetrySubscriptions: GetTelemetrySubscriptionsResponse,
        PushTelemetry: PushTelemetryResponse,
        ListConfigResources: ListConfigResourcesResponse,
        DescribeTopicPartitions: DescribeTopicPartitionsResponse,
        AddRaftVoter: AddRaftVoterResponse,
        RemoveRaftVoter: RemoveRaftVoterResponse,
        UnregisterBroker: UnregisterBrokerResponse,
    }

    #[test]
    fn every_key_is_checked_or_has_its_reason() {
        let own = [ApiKey::Produce, ApiKey::Fetch]; // They are given it before they are encoded.
        let none = [ApiKey::WriteTxnMarkers, ApiKey::DescribeQuorum];
        for key in ApiKey::ALL {
            let is_known = own.contains(key) || none.contains(key) || *key == ApiKey::ApiVersions;
            assert!(CHECKED.contains(key) != is_known, "{} is missing, or here twice", key.name());
        }
    }

    #[test]
    fn api_versions_has_it_behind_the_ranges() {
        check(ApiKey::ApiVersions, api_versions_response(0), |version| {
            (version >= 1).then(|| api_versions_response(0).with_throttle_time_ms(TIME))
        });
        let none = m::ApiVersionsResponse::default();
        check(ApiKey::ApiVersions, none.clone(), |version| {
            (version >= 1).then(|| none.clone().with_throttle_time_ms(TIME))
        });
    }

    #[test]
    fn answers_without_a_place_are_left_alone() {
        check(ApiKey::WriteTxnMarkers, m::WriteTxnMarkersResponse::default(), |_| None);
        check(ApiKey::DescribeQuorum, m::DescribeQuorumResponse::default(), |_| None);
        let mut short = [0; 3];
        set_throttle_time(ApiKey::Metadata, 12, &mut short, TIME);
        assert_eq!(short, [0; 3]);
    }
}
