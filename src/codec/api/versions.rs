//! The one table of the APIs on offer, and the answer that advertises them.
//!
//! Adding a row is a promise to serve every version in it. So is a feature (KIP-584): clients choose their
//! protocols by those that are finalised. Absent: unstable versions, changes of features, and throttling.
//! Source: KIP-35, KIP-511, KIP-482, KIP-584; Kafka `ApiKeys`, `ApiVersionsResponse`, `RequestContext`.

use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::protocol::StrBytes;

use crate::codec::error_code::ErrorCode;
use crate::codec::wire::Encoding;

/// An API that this broker offers. Others are refused before this type is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum ApiKey {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    WriteTxnMarkers = 27,
    TxnOffsetCommit = 28,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    DescribeLogDirs = 35,
    CreatePartitions = 37,
    DeleteGroups = 42,
    ElectLeaders = 43,
    IncrementalAlterConfigs = 44,
    AlterPartitionReassignments = 45,
    ListPartitionReassignments = 46,
    OffsetDelete = 47,
    DescribeClientQuotas = 48,
    AlterClientQuotas = 49,
    DescribeQuorum = 55,
    DescribeCluster = 60,
    DescribeProducers = 61,
    UnregisterBroker = 64,
    DescribeTransactions = 65,
    ListTransactions = 66,
    ConsumerGroupHeartbeat = 68,
    ConsumerGroupDescribe = 69,
    GetTelemetrySubscriptions = 71,
    PushTelemetry = 72,
    ListConfigResources = 74,
    DescribeTopicPartitions = 75,
    AddRaftVoter = 80,
    RemoveRaftVoter = 81,
}

/// One row of the table. All versions are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    pub key: ApiKey,
    /// Kafka's name, as in its documentation and metrics.
    pub name: &'static str,
    pub advertised_min: i16,
    /// At or above `advertised_min`. Versions between the two are announced and refused.
    pub served_min: i16,
    pub max: i16,
    /// The first version with compact strings and tagged fields (KIP-482).
    pub flexible_from: i16,
}

/// In the order of their keys.
///
/// Produce: librdkafka before 2.11.1 turns compression off unless version 0 is in the range, so
/// Kafka announces 0 to 2 and refuses them (KAFKA-18659); the same here. Fetch 13, Produce 13, and
/// OffsetCommit and OffsetFetch 10 would commit us to topic ids, hence the maxima. Older librdkafka wants
/// version 0 of FindCoordinator for LZ4, and of all group APIs for groups (`rdkafka_feature.c`).
const APIS: [Api; 50] = [
    Api { served_min: 3, ..api(ApiKey::Produce, "Produce", 0, 12, 9) },
    api(ApiKey::Fetch, "Fetch", 4, 12, 12),
    api(ApiKey::ListOffsets, "ListOffsets", 1, 10, 6),
    api(ApiKey::Metadata, "Metadata", 0, 12, 9),
    api(ApiKey::OffsetCommit, "OffsetCommit", 2, 9, 8),
    api(ApiKey::OffsetFetch, "OffsetFetch", 1, 9, 6),
    api(ApiKey::FindCoordinator, "FindCoordinator", 0, 6, 3),
    api(ApiKey::JoinGroup, "JoinGroup", 0, 9, 6),
    api(ApiKey::Heartbeat, "Heartbeat", 0, 4, 4),
    api(ApiKey::LeaveGroup, "LeaveGroup", 0, 5, 4),
    api(ApiKey::SyncGroup, "SyncGroup", 0, 5, 4),
    api(ApiKey::DescribeGroups, "DescribeGroups", 0, 6, 5),
    api(ApiKey::ListGroups, "ListGroups", 0, 5, 3),
    api(ApiKey::ApiVersions, "ApiVersions", 0, 4, 3),
    api(ApiKey::CreateTopics, "CreateTopics", 2, 7, 5),
    api(ApiKey::DeleteTopics, "DeleteTopics", 1, 6, 4),
    api(ApiKey::DeleteRecords, "DeleteRecords", 0, 2, 2),
    api(ApiKey::InitProducerId, "InitProducerId", 0, 5, 2),
    api(ApiKey::OffsetForLeaderEpoch, "OffsetForLeaderEpoch", 2, 4, 4),
    api(ApiKey::AddPartitionsToTxn, "AddPartitionsToTxn", 0, 5, 3),
    api(ApiKey::AddOffsetsToTxn, "AddOffsetsToTxn", 0, 4, 3),
    api(ApiKey::EndTxn, "EndTxn", 0, 5, 3),
    api(ApiKey::WriteTxnMarkers, "WriteTxnMarkers", 1, 1, 1),
    api(ApiKey::TxnOffsetCommit, "TxnOffsetCommit", 0, 5, 3),
    api(ApiKey::DescribeConfigs, "DescribeConfigs", 1, 4, 4),
    api(ApiKey::AlterConfigs, "AlterConfigs", 0, 2, 2),
    api(ApiKey::DescribeLogDirs, "DescribeLogDirs", 1, 4, 2),
    api(ApiKey::CreatePartitions, "CreatePartitions", 0, 3, 2),
    api(ApiKey::DeleteGroups, "DeleteGroups", 0, 2, 2),
    api(ApiKey::ElectLeaders, "ElectLeaders", 0, 2, 2),
    api(ApiKey::IncrementalAlterConfigs, "IncrementalAlterConfigs", 0, 1, 1),
    api(ApiKey::AlterPartitionReassignments, "AlterPartitionReassignments", 0, 1, 0),
    api(ApiKey::ListPartitionReassignments, "ListPartitionReassignments", 0, 0, 0),
    api(ApiKey::OffsetDelete, "OffsetDelete", 0, 0, NEVER_FLEXIBLE),
    api(ApiKey::DescribeClientQuotas, "DescribeClientQuotas", 0, 1, 1),
    api(ApiKey::AlterClientQuotas, "AlterClientQuotas", 0, 1, 1),
    api(ApiKey::DescribeQuorum, "DescribeQuorum", 0, 2, 0),
    api(ApiKey::DescribeCluster, "DescribeCluster", 0, 2, 0),
    api(ApiKey::DescribeProducers, "DescribeProducers", 0, 0, 0),
    api(ApiKey::UnregisterBroker, "UnregisterBroker", 0, 0, 0),
    api(ApiKey::DescribeTransactions, "DescribeTransactions", 0, 0, 0),
    api(ApiKey::ListTransactions, "ListTransactions", 0, 2, 0),
    api(ApiKey::ConsumerGroupHeartbeat, "ConsumerGroupHeartbeat", 0, 1, 0),
    api(ApiKey::ConsumerGroupDescribe, "ConsumerGroupDescribe", 0, 1, 0),
    api(ApiKey::GetTelemetrySubscriptions, "GetTelemetrySubscriptions", 0, 0, 0),
    api(ApiKey::PushTelemetry, "PushTelemetry", 0, 0, 0),
    api(ApiKey::ListConfigResources, "ListConfigResources", 0, 1, 0),
    api(ApiKey::DescribeTopicPartitions, "DescribeTopicPartitions", 0, 0, 0),
    api(ApiKey::AddRaftVoter, "AddRaftVoter", 0, 0, 0),
    api(ApiKey::RemoveRaftVoter, "RemoveRaftVoter", 0, 0, 0),
];

/// Of an API whose only versions are from before.
const NEVER_FLEXIBLE: i16 = i16::MAX;

const fn api(key: ApiKey, name: &'static str, min: i16, max: i16, flexible_from: i16) -> Api {
    Api { key, name, advertised_min: min, served_min: min, max, flexible_from }
}

/// What to do with a request of some version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Serve,
    /// An ApiVersions request newer than ours: do not read its body, answer with
    /// [`api_versions_fallback`] encoded as version 0, and go on with the connection (KIP-511).
    AnswerFallback,
    /// Log and close the connection without an answer, as Kafka does, including for Produce 0 to 2:
    /// a client that sends a version outside of what it was told could not read an answer either.
    Close,
}

impl ApiKey {
    pub const ALL: &[ApiKey] = &{
        let mut keys = [ApiKey::Produce; APIS.len()];
        let mut at = 0;
        while at < APIS.len() {
            keys[at] = APIS[at].key;
            at += 1;
        }
        keys
    };

    /// `None` for an API that is not offered.
    pub fn from_wire(key: i16) -> Option<ApiKey> {
        APIS.iter().find(|api| api.key as i16 == key).map(|api| api.key)
    }

    pub const fn to_wire(self) -> i16 {
        self as i16
    }

    pub fn api(self) -> &'static Api {
        APIS.iter().find(|api| api.key == self).expect("the table has a row for every key")
    }

    pub fn name(self) -> &'static str {
        self.api().name
    }

    pub fn admit(self, version: i16) -> Admission {
        let api = self.api();
        if (api.served_min..=api.max).contains(&version) {
            Admission::Serve
        } else if self == ApiKey::ApiVersions {
            Admission::AnswerFallback
        } else {
            Admission::Close
        }
    }

    /// How bodies and request headers of `version` are encoded. Defined for versions that are not
    /// served too, so that a header can be read before its version is judged.
    pub fn encoding(self, version: i16) -> Encoding {
        if version >= self.api().flexible_from { Encoding::Compact } else { Encoding::Classic }
    }

    /// ApiVersions keeps the old header in all its responses: the client does not know yet what the
    /// broker understands (KIP-511).
    pub fn response_header_encoding(self, version: i16) -> Encoding {
        if self == ApiKey::ApiVersions { Encoding::Classic } else { self.encoding(version) }
    }
}

/// The first version of ApiVersions that has features.
const FEATURES_FROM: i16 = 3;
/// The first in which a supported range may begin with 0 (KIP-584); clients of the one before refuse that.
const FEATURE_ZERO_FROM: i16 = 4;

/// A feature of the cluster, and the level that is finalised.
struct Feature {
    name: &'static str,
    level: i16,
}

/// `group.version` 1: there is the newer group protocol (KIP-848). `transaction.version` 2: every transaction has an
/// epoch of its own (KIP-890).
const FEATURES: [Feature; 2] =
    [Feature { name: "group.version", level: 1 }, Feature { name: "transaction.version", level: 2 }];

/// The table as the answer to an ApiVersions request of a version that is served.
pub fn api_versions_response(version: i16) -> ApiVersionsResponse {
    let response = ApiVersionsResponse::default().with_api_keys(APIS.iter().map(advertised).collect());
    if version < FEATURES_FROM {
        return response;
    }
    let min_version = if version >= FEATURE_ZERO_FROM { 0 } else { 1 };
    let supported = FEATURES.iter().map(|feature| {
        SupportedFeatureKey::default()
            .with_name(StrBytes::from_static_str(feature.name))
            .with_min_version(min_version)
            .with_max_version(feature.level)
    });
    let finalized = FEATURES.iter().map(|feature| {
        FinalizedFeatureKey::default()
            .with_name(StrBytes::from_static_str(feature.name))
            .with_min_version_level(feature.level)
            .with_max_version_level(feature.level)
    });
    response
        .with_supported_features(supported.collect())
        .with_finalized_features(finalized.collect())
        .with_finalized_features_epoch(FEATURES_EPOCH)
}

/// They were finalised by the build: one more with every change of them.
const FEATURES_EPOCH: i64 = 2;

/// The answer to an ApiVersions request of an unknown version, always encoded as version 0: the
/// client asks again with the range of ApiVersions found in it (KIP-511).
pub fn api_versions_fallback() -> ApiVersionsResponse {
    ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(vec![advertised(ApiKey::ApiVersions.api())])
}

/// Whether a client may call itself so in ApiVersions 3 and later; Kafka answers
/// `INVALID_REQUEST` otherwise (KIP-511).
pub fn is_client_software(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    outer(bytes.first()) && outer(bytes.last()) && bytes.iter().all(|byte| inner(*byte))
}

fn advertised(api: &Api) -> ApiVersion {
    ApiVersion::default()
        .with_api_key(api.key.to_wire())
        .with_min_version(api.advertised_min)
        .with_max_version(api.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use expect_test::expect;
    use kafka_protocol::messages::ApiKey as LibraryKey;
    use kafka_protocol::protocol::{Decodable, Encodable};

    #[test]
    fn table_is_what_we_promise() {
        let rows: String = APIS
            .iter()
            .map(|api| {
                let Api { key, name, advertised_min, served_min, max, flexible_from } = api;
                format!(
                    "{} {name} {advertised_min}({served_min})-{max} flexible {flexible_from}\n",
                    *key as i16
                )
            })
            .collect();
        expect![[r#"
            0 Produce 0(3)-12 flexible 9
            1 Fetch 4(4)-12 flexible 12
            2 ListOffsets 1(1)-10 flexible 6
            3 Metadata 0(0)-12 flexible 9
            8 OffsetCommit 2(2)-9 flexible 8
            9 OffsetFetch 1(1)-9 flexible 6
            10 FindCoordinator 0(0)-6 flexible 3
            11 JoinGroup 0(0)-9 flexible 6
            12 Heartbeat 0(0)-4 flexible 4
            13 LeaveGroup 0(0)-5 flexible 4
            14 SyncGroup 0(0)-5 flexible 4
            15 DescribeGroups 0(0)-6 flexible 5
            16 ListGroups 0(0)-5 flexible 3
            18 ApiVersions 0(0)-4 flexible 3
            19 CreateTopics 2(2)-7 flexible 5
            20 DeleteTopics 1(1)-6 flexible 4
            21 DeleteRecords 0(0)-2 flexible 2
            22 InitProducerId 0(0)-5 flexible 2
            23 OffsetForLeaderEpoch 2(2)-4 flexible 4
            24 AddPartitionsToTxn 0(0)-5 flexible 3
            25 AddOffsetsToTxn 0(0)-4 flexible 3
            26 EndTxn 0(0)-5 flexible 3
            27 WriteTxnMarkers 1(1)-1 flexible 1
            28 TxnOffsetCommit 0(0)-5 flexible 3
            32 DescribeConfigs 1(1)-4 flexible 4
            33 AlterConfigs 0(0)-2 flexible 2
            35 DescribeLogDirs 1(1)-4 flexible 2
            37 CreatePartitions 0(0)-3 flexible 2
            42 DeleteGroups 0(0)-2 flexible 2
            43 ElectLeaders 0(0)-2 flexible 2
            44 IncrementalAlterConfigs 0(0)-1 flexible 1
            45 AlterPartitionReassignments 0(0)-1 flexible 0
            46 ListPartitionReassignments 0(0)-0 flexible 0
            47 OffsetDelete 0(0)-0 flexible 32767
            48 DescribeClientQuotas 0(0)-1 flexible 1
            49 AlterClientQuotas 0(0)-1 flexible 1
            55 DescribeQuorum 0(0)-2 flexible 0
            60 DescribeCluster 0(0)-2 flexible 0
            61 DescribeProducers 0(0)-0 flexible 0
            64 UnregisterBroker 0(0)-0 flexible 0
            65 DescribeTransactions 0(0)-0 flexible 0
            66 ListTransactions 0(0)-2 flexible 0
            68 ConsumerGroupHeartbeat 0(0)-1 flexible 0
            69 ConsumerGroupDescribe 0(0)-1 flexible 0
            71 GetTelemetrySubscriptions 0(0)-0 flexible 0
            72 PushTelemetry 0(0)-0 flexible 0
            74 ListConfigResources 0(0)-1 flexible 0
            75 DescribeTopicPartitions 0(0)-0 flexible 0
            80 AddRaftVoter 0(0)-0 flexible 0
            81 RemoveRaftVoter 0(0)-0 flexible 0
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn header_versions_and_ranges_agree_with_the_library() {
        for api in APIS {
            let library = LibraryKey::try_from(api.key.to_wire()).unwrap();
            let range = library.valid_versions();
            assert!(range.min <= api.served_min && api.max <= range.max, "{}", api.name);
            assert!(api.advertised_min <= api.served_min && api.served_min <= api.max, "{}", api.name);
            for version in api.served_min..=api.max {
                let request = if api.key.encoding(version) == Encoding::Compact { 2 } else { 1 };
                assert_eq!(request, library.request_header_version(version), "{} {version}", api.name);
                let response = i16::from(api.key.response_header_encoding(version) == Encoding::Compact);
                assert_eq!(response, library.response_header_version(version), "{} {version}", api.name);
            }
        }
    }

    #[test]
    fn keys_are_found_by_number_and_ordered() {
        for api in APIS {
            assert_eq!(ApiKey::from_wire(api.key as i16), Some(api.key));
            assert_eq!(api.key.api(), &api);
        }
        assert!(APIS.windows(2).all(|pair| pair[0].key < pair[1].key));
        assert_eq!(ApiKey::from_wire(4), None);
        assert_eq!(ApiKey::from_wire(-1), None);
    }

    #[test]
    fn versions_outside_the_range_close_the_connection_except_of_api_versions() {
        assert_eq!(ApiKey::Produce.admit(0), Admission::Close);
        assert_eq!(ApiKey::Produce.admit(2), Admission::Close);
        assert_eq!(ApiKey::Produce.admit(3), Admission::Serve);
        assert_eq!(ApiKey::Produce.admit(13), Admission::Close);
        assert_eq!(ApiKey::Fetch.admit(-1), Admission::Close);
        assert_eq!(ApiKey::ApiVersions.admit(4), Admission::Serve);
        assert_eq!(ApiKey::ApiVersions.admit(5), Admission::AnswerFallback);
        assert_eq!(ApiKey::ApiVersions.admit(-1), Admission::AnswerFallback);
    }

    #[test]
    fn fallback_is_bytes_that_every_client_reads() {
        let mut bytes = BytesMut::new();
        api_versions_fallback().encode(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..], [0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]);
    }

    #[test]
    fn answer_round_trips_in_every_version() {
        for version in 0..=4 {
            let mut bytes = BytesMut::new();
            api_versions_response(version).encode(&mut bytes, version).unwrap();
            let decoded = ApiVersionsResponse::decode(&mut bytes.freeze(), version).unwrap();
            assert_eq!(decoded, api_versions_response(version));
            assert_eq!(decoded.api_keys[0].min_version, 0);
            let levels = |range: std::ops::RangeInclusive<i16>| (*range.start(), *range.end());
            let supported = decoded.supported_features.iter();
            let supported: Vec<_> =
                supported.map(|feature| levels(feature.min_version..=feature.max_version)).collect();
            assert_eq!(
                supported,
                [&[][..], &[(1, 1), (1, 2)], &[(0, 1), (0, 2)]][(version - 2).max(0) as usize]
            );
            let finalized = decoded.finalized_features.iter();
            let finalized: Vec<_> = finalized.map(|feature| feature.max_version_level).collect();
            assert_eq!(finalized, [&[][..], &[1, 2]][usize::from(version >= 3)]);
        }
    }

    #[test]
    fn client_software_names_follow_kafkas_pattern() {
        for name in ["librdkafka", "apache-kafka-java", "2.11.1", "a"] {
            assert!(is_client_software(name), "{name}");
        }
        for name in ["", "-a", "a-", "a b", "ä", "a.", "a_b"] {
            assert!(!is_client_software(name), "{name}");
        }
    }
}
