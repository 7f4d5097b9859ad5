use super::*;
use expect_test::expect;
use kafka_protocol::ResponseError;

#[test]
fn codes_and_names_are_kafkas() {
    let mut table = String::new();
    for error in ErrorCode::ALL {
        table += &format!("{} {}\n", error.code(), error.name());
    }
    expect![[r#"
        -1 UNKNOWN_SERVER_ERROR
        0 NONE
        1 OFFSET_OUT_OF_RANGE
        2 CORRUPT_MESSAGE
        3 UNKNOWN_TOPIC_OR_PARTITION
        4 INVALID_FETCH_SIZE
        5 LEADER_NOT_AVAILABLE
        6 NOT_LEADER_OR_FOLLOWER
        7 REQUEST_TIMED_OUT
        8 BROKER_NOT_AVAILABLE
        9 REPLICA_NOT_AVAILABLE
        10 MESSAGE_TOO_LARGE
        12 OFFSET_METADATA_TOO_LARGE
        13 NETWORK_EXCEPTION
        14 COORDINATOR_LOAD_IN_PROGRESS
        15 COORDINATOR_NOT_AVAILABLE
        16 NOT_COORDINATOR
        17 INVALID_TOPIC_EXCEPTION
        18 RECORD_LIST_TOO_LARGE
        19 NOT_ENOUGH_REPLICAS
        20 NOT_ENOUGH_REPLICAS_AFTER_APPEND
        21 INVALID_REQUIRED_ACKS
        22 ILLEGAL_GENERATION
        23 INCONSISTENT_GROUP_PROTOCOL
        24 INVALID_GROUP_ID
        25 UNKNOWN_MEMBER_ID
        26 INVALID_SESSION_TIMEOUT
        27 REBALANCE_IN_PROGRESS
        29 TOPIC_AUTHORIZATION_FAILED
        30 GROUP_AUTHORIZATION_FAILED
        31 CLUSTER_AUTHORIZATION_FAILED
        32 INVALID_TIMESTAMP
        33 UNSUPPORTED_SASL_MECHANISM
        34 ILLEGAL_SASL_STATE
        35 UNSUPPORTED_VERSION
        36 TOPIC_ALREADY_EXISTS
        37 INVALID_PARTITIONS
        38 INVALID_REPLICATION_FACTOR
        39 INVALID_REPLICA_ASSIGNMENT
        40 INVALID_CONFIG
        41 NOT_CONTROLLER
        42 INVALID_REQUEST
        43 UNSUPPORTED_FOR_MESSAGE_FORMAT
        44 POLICY_VIOLATION
        45 OUT_OF_ORDER_SEQUENCE_NUMBER
        46 DUPLICATE_SEQUENCE_NUMBER
        47 INVALID_PRODUCER_EPOCH
        48 INVALID_TXN_STATE
        49 INVALID_PRODUCER_ID_MAPPING
        50 INVALID_TRANSACTION_TIMEOUT
        51 CONCURRENT_TRANSACTIONS
        52 TRANSACTION_COORDINATOR_FENCED
        53 TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        55 OPERATION_NOT_ATTEMPTED
        56 KAFKA_STORAGE_ERROR
        59 UNKNOWN_PRODUCER_ID
        68 NON_EMPTY_GROUP
        69 GROUP_ID_NOT_FOUND
        70 FETCH_SESSION_ID_NOT_FOUND
        71 INVALID_FETCH_SESSION_EPOCH
        72 LISTENER_NOT_FOUND
        73 TOPIC_DELETION_DISABLED
        74 FENCED_LEADER_EPOCH
        75 UNKNOWN_LEADER_EPOCH
        76 UNSUPPORTED_COMPRESSION_TYPE
        78 OFFSET_NOT_AVAILABLE
        79 MEMBER_ID_REQUIRED
        80 PREFERRED_LEADER_NOT_AVAILABLE
        81 GROUP_MAX_SIZE_REACHED
        82 FENCED_INSTANCE_ID
        83 ELIGIBLE_LEADERS_NOT_AVAILABLE
        84 ELECTION_NOT_NEEDED
        85 NO_REASSIGNMENT_IN_PROGRESS
        86 GROUP_SUBSCRIBED_TO_TOPIC
        87 INVALID_RECORD
        88 UNSTABLE_OFFSET_COMMIT
        89 THROTTLING_QUOTA_EXCEEDED
        90 PRODUCER_FENCED
        91 RESOURCE_NOT_FOUND
        92 DUPLICATE_RESOURCE
        99 POSITION_OUT_OF_RANGE
        100 UNKNOWN_TOPIC_ID
        101 DUPLICATE_BROKER_REGISTRATION
        102 BROKER_ID_NOT_REGISTERED
        103 INCONSISTENT_TOPIC_ID
        104 INCONSISTENT_CLUSTER_ID
        105 TRANSACTIONAL_ID_NOT_FOUND
        106 FETCH_SESSION_TOPIC_ID_ERROR
        110 FENCED_MEMBER_EPOCH
        111 UNRELEASED_INSTANCE_ID
        112 UNSUPPORTED_ASSIGNOR
        113 STALE_MEMBER_EPOCH
        114 MISMATCHED_ENDPOINT_TYPE
        115 UNSUPPORTED_ENDPOINT_TYPE
        117 UNKNOWN_SUBSCRIPTION_ID
        118 TELEMETRY_TOO_LARGE
        120 TRANSACTION_ABORTABLE
        126 DUPLICATE_VOTER
        127 VOTER_NOT_FOUND
        128 INVALID_REGULAR_EXPRESSION
    "#]]
    .assert_eq(&table);
}

#[test]
fn codes_and_names_agree_with_the_library() {
    for error in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_wire(error.code()), Some(*error));
        let Some(theirs) = ResponseError::try_from_code(error.code()) else {
            assert_eq!(*error, ErrorCode::None);
            continue;
        };
        let mut camel = String::new();
        for word in error.name().split('_') {
            camel += &word[..1];
            camel += &word[1..].to_lowercase();
        }
        assert_eq!(format!("{theirs:?}"), camel, "{}", error.code());
    }
}

#[test]
fn messages_are_one_plain_clause() {
    for error in ErrorCode::ALL {
        let message = error.message();
        assert!(!message.is_empty(), "{error}");
        assert!(!message.ends_with('.'), "{error}");
    }
}

#[test]
fn batch_errors_map_to_what_producers_expect() {
    let cases = [
        (BatchError::Truncated { needed: 1, available: 0 }, ErrorCode::CorruptMessage),
        (BatchError::Length { length: -1 }, ErrorCode::CorruptMessage),
        (BatchError::Crc { stored: 0, computed: 1 }, ErrorCode::CorruptMessage),
        (BatchError::Magic { magic: 1 }, ErrorCode::UnsupportedForMessageFormat),
        (BatchError::Codec { code: 5 }, ErrorCode::UnsupportedCompressionType),
        (BatchError::RecordCount { records: 1, last_offset_delta: 4 }, ErrorCode::InvalidRecord),
        (BatchError::ProducerFields { producer_id: 1, epoch: 0, sequence: -1 }, ErrorCode::InvalidRecord),
        (BatchError::Control, ErrorCode::InvalidRecord),
        (BatchError::BaseOffset { base_offset: 4 }, ErrorCode::InvalidRecord),
    ];
    for (error, code) in cases {
        assert_eq!(ErrorCode::from(&error), code, "{error}");
    }
}
