//! Kafka's error codes, and the one place where our errors become them.
//!
//! The code is what clients act on (retry, refresh metadata, give up), so the mapping is part of
//! the protocol. Messages are ours: clients only show them. Absent: codes that belong to APIs which
//! are not offered. Source: Kafka `Errors`, `LogValidator`, `UnifiedLog.analyzeAndValidateRecords`.

use crate::codec::record_batch::BatchError;

/// Declares the codes, their names and their default messages in one table.
macro_rules! error_codes {
    ($($variant:ident = $code:literal, $name:literal, $message:literal;)*) => {
        /// An error code of the Kafka protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ErrorCode {
            $($variant = $code,)*
        }

        impl ErrorCode {
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// `None` for a code that this broker never sends.
            pub const fn from_wire(code: i16) -> Option<ErrorCode> {
                match code {
                    $($code => Some(ErrorCode::$variant),)*
                    _ => None,
                }
            }

            /// Kafka's name, as its tools and documentation print it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $name,)*
                }
            }

            /// What to tell a user when nothing more precise is known.
            pub const fn message(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $message,)*
                }
            }
        }
    };
}

error_codes! {
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR", "the broker failed in a way it did not foresee";
    None = 0, "NONE", "no error";
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", "the offset is outside of what the partition holds";
    CorruptMessage = 2, "CORRUPT_MESSAGE", "the record batch is damaged: its checksum or its length is wrong";
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", "there is no such topic or partition here";
    InvalidFetchSize = 4, "INVALID_FETCH_SIZE", "the fetch size is invalid";
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", "the partition has no leader at the moment";
    NotLeaderOrFollower = 6, "NOT_LEADER_OR_FOLLOWER", "this broker does not lead the partition";
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", "the request could not be completed in time";
    BrokerNotAvailable = 8, "BROKER_NOT_AVAILABLE", "the broker is not available";
    ReplicaNotAvailable = 9, "REPLICA_NOT_AVAILABLE", "the replica is not available";
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", "the record batch is larger than max.message.bytes";
    OffsetMetadataTooLarge = 12, "OFFSET_METADATA_TOO_LARGE", "the metadata of the committed offset is too large";
    NetworkException = 13, "NETWORK_EXCEPTION", "the connection closed before the answer";
    CoordinatorLoadInProgress = 14, "COORDINATOR_LOAD_IN_PROGRESS", "the coordinator is still loading";
    CoordinatorNotAvailable = 15, "COORDINATOR_NOT_AVAILABLE", "the coordinator is not available";
    NotCoordinator = 16, "NOT_COORDINATOR", "this broker is not the coordinator";
    InvalidTopicException = 17, "INVALID_TOPIC_EXCEPTION", "the topic name is invalid";
    RecordListTooLarge = 18, "RECORD_LIST_TOO_LARGE", "the record batch is larger than a segment";
    NotEnoughReplicas = 19, "NOT_ENOUGH_REPLICAS", "fewer replicas are in sync than min.insync.replicas";
    NotEnoughReplicasAfterAppend = 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "the records were written, but too few replicas have them";
    InvalidRequiredAcks = 21, "INVALID_REQUIRED_ACKS", "acks must be -1, 0 or 1";
    IllegalGeneration = 22, "ILLEGAL_GENERATION", "the group generation is not the current one";
    InconsistentGroupProtocol = 23, "INCONSISTENT_GROUP_PROTOCOL", "the member shares no protocol with its group";
    InvalidGroupId = 24, "INVALID_GROUP_ID", "the group id is invalid";
    UnknownMemberId = 25, "UNKNOWN_MEMBER_ID", "the coordinator does not know this member";
    InvalidSessionTimeout = 26, "INVALID_SESSION_TIMEOUT", "the session timeout is outside of what is allowed";
    RebalanceInProgress = 27, "REBALANCE_IN_PROGRESS", "the group is rebalancing; join again";
    TopicAuthorizationFailed = 29, "TOPIC_AUTHORIZATION_FAILED", "access to the topic is denied";
    GroupAuthorizationFailed = 30, "GROUP_AUTHORIZATION_FAILED", "access to the group is denied";
    ClusterAuthorizationFailed = 31, "CLUSTER_AUTHORIZATION_FAILED", "access to the cluster is denied";
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", "the timestamp is outside of what is allowed";
    UnsupportedSaslMechanism = 33, "UNSUPPORTED_SASL_MECHANISM", "the SASL mechanism is not supported";
    IllegalSaslState = 34, "ILLEGAL_SASL_STATE", "the request does not fit the state of authentication";
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION", "this version of the API is not supported";
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", "a topic of this name exists";
    InvalidPartitions = 37, "INVALID_PARTITIONS", "the number of partitions is invalid";
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR",
        "the replication factor is below 1 or above the number of brokers";
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT", "the replica assignment is invalid";
    InvalidConfig = 40, "INVALID_CONFIG", "the configuration is invalid";
    NotController = 41, "NOT_CONTROLLER", "this broker is not the controller";
    InvalidRequest = 42, "INVALID_REQUEST", "the request is malformed or contradicts itself";
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT",
        "only record batches of format v2 are supported";
    PolicyViolation = 44, "POLICY_VIOLATION", "the request breaks a policy of the cluster";
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER",
        "the producer's sequence number does not follow the last one";
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", "the producer's sequence number was used before";
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", "a newer producer epoch exists";
    InvalidTxnState = 48, "INVALID_TXN_STATE", "the operation does not fit the state of the transaction";
    InvalidProducerIdMapping = 49, "INVALID_PRODUCER_ID_MAPPING",
        "the producer id does not belong to the transactional id";
    InvalidTransactionTimeout = 50, "INVALID_TRANSACTION_TIMEOUT",
        "the transaction timeout is larger than the broker allows";
    ConcurrentTransactions = 51, "CONCURRENT_TRANSACTIONS", "another operation on the transaction is under way";
    TransactionCoordinatorFenced = 52, "TRANSACTION_COORDINATOR_FENCED",
        "a newer transaction coordinator has written to the partition";
    TransactionalIdAuthorizationFailed = 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "access to the transactional id is denied";
    OperationNotAttempted = 55, "OPERATION_NOT_ATTEMPTED", "the operation was not tried, as another one failed";
    KafkaStorageError = 56, "KAFKA_STORAGE_ERROR", "the disk failed or is full";
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", "nothing is known of the producer id any more";
    NonEmptyGroup = 68, "NON_EMPTY_GROUP", "the group has members";
    GroupIdNotFound = 69, "GROUP_ID_NOT_FOUND", "the group does not exist";
    FetchSessionIdNotFound = 70, "FETCH_SESSION_ID_NOT_FOUND", "the fetch session does not exist";
    InvalidFetchSessionEpoch = 71, "INVALID_FETCH_SESSION_EPOCH", "the fetch session epoch is not the expected one";
    ListenerNotFound = 72, "LISTENER_NOT_FOUND", "the leader has no such listener";
    TopicDeletionDisabled = 73, "TOPIC_DELETION_DISABLED", "topic deletion is disabled";
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", "the leader epoch is older than the broker's";
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", "the leader epoch is newer than the broker's";
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", "the compression type is not supported";
    OffsetNotAvailable = 78, "OFFSET_NOT_AVAILABLE", "a new leader does not know its high watermark yet";
    MemberIdRequired = 79, "MEMBER_ID_REQUIRED", "the member must join again with the member id it was given";
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE", "the preferred leader is not available";
    GroupMaxSizeReached = 81, "GROUP_MAX_SIZE_REACHED", "the group is full";
    FencedInstanceId = 82, "FENCED_INSTANCE_ID", "another member has registered with this group.instance.id";
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE", "no replica may lead";
    ElectionNotNeeded = 84, "ELECTION_NOT_NEEDED", "the partition has its leader";
    NoReassignmentInProgress = 85, "NO_REASSIGNMENT_IN_PROGRESS", "no replica of the partition moves";
    GroupSubscribedToTopic = 86, "GROUP_SUBSCRIBED_TO_TOPIC", "members of the group read the topic";
    InvalidRecord = 87, "INVALID_RECORD", "the record batch breaks a rule of the broker";
    UnstableOffsetCommit = 88, "UNSTABLE_OFFSET_COMMIT", "offsets of an open transaction are pending";
    ThrottlingQuotaExceeded = 89, "THROTTLING_QUOTA_EXCEEDED", "the quota is used up";
    ProducerFenced = 90, "PRODUCER_FENCED", "a newer producer has taken over the transactional id";
    ResourceNotFound = 91, "RESOURCE_NOT_FOUND", "the resource does not exist";
    DuplicateResource = 92, "DUPLICATE_RESOURCE", "the request names a resource twice";
    PositionOutOfRange = 99, "POSITION_OUT_OF_RANGE", "the position is out of range";
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID", "there is no topic of this id here";
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION",
        "another process has registered as this node";
    BrokerIdNotRegistered = 102, "BROKER_ID_NOT_REGISTERED", "no such broker is registered";
    InconsistentTopicId = 103, "INCONSISTENT_TOPIC_ID", "the topic id is not the one the log has";
    InconsistentClusterId = 104, "INCONSISTENT_CLUSTER_ID", "the request is for another cluster";
    TransactionalIdNotFound = 105, "TRANSACTIONAL_ID_NOT_FOUND", "the transactional id is not known";
    FetchSessionTopicIdError = 106, "FETCH_SESSION_TOPIC_ID_ERROR",
        "the fetch session mixes topic names and topic ids";
    FencedMemberEpoch = 110, "FENCED_MEMBER_EPOCH",
        "the member's epoch is not the coordinator's: it must give up its partitions and join again";
    UnreleasedInstanceId = 111, "UNRELEASED_INSTANCE_ID", "another member still has this group.instance.id";
    UnsupportedAssignor = 112, "UNSUPPORTED_ASSIGNOR", "the coordinator does not know this assignor";
    StaleMemberEpoch = 113, "STALE_MEMBER_EPOCH", "the member's epoch is not the current one; try with the new one";
    MismatchedEndpointType = 114, "MISMATCHED_ENDPOINT_TYPE", "the request belongs to another kind of endpoint";
    UnsupportedEndpointType = 115, "UNSUPPORTED_ENDPOINT_TYPE", "this kind of endpoint is not supported";
    UnknownSubscriptionId = 117, "UNKNOWN_SUBSCRIPTION_ID", "the client's subscriptions to metrics have changed";
    TelemetryTooLarge = 118, "TELEMETRY_TOO_LARGE", "the metrics are larger than telemetry.max.bytes";
    TransactionAbortable = 120, "TRANSACTION_ABORTABLE", "the transaction has to be aborted";
    DuplicateVoter = 126, "DUPLICATE_VOTER", "the node has a vote already";
    VoterNotFound = 127, "VOTER_NOT_FOUND", "the node is no member of the quorum";
    InvalidRegularExpression = 128, "INVALID_REGULAR_EXPRESSION", "the regular expression is invalid";
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn code(self) -> i16 {
        self as i16
    }

    pub const fn is_error(self) -> bool {
        !matches!(self, ErrorCode::None)
    }
}

#[expect(clippy::derivable_impls, reason = "the table's macro has no place for the attribute")]
impl Default for ErrorCode {
    fn default() -> ErrorCode {
        ErrorCode::None
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<&BatchError> for ErrorCode {
    /// Damage is `CORRUPT_MESSAGE`, which producers retry; a rule broken on purpose is not.
    fn from(error: &BatchError) -> ErrorCode {
        match error {
            BatchError::Truncated { .. } | BatchError::Length { .. } | BatchError::Crc { .. } => {
                ErrorCode::CorruptMessage
            }
            BatchError::Magic { .. } => ErrorCode::UnsupportedForMessageFormat,
            BatchError::Codec { .. } => ErrorCode::UnsupportedCompressionType,
            BatchError::RecordCount { .. }
            | BatchError::ProducerFields { .. }
            | BatchError::Control
            | BatchError::BaseOffset { .. } => ErrorCode::InvalidRecord,
        }
    }
}

#[cfg(test)]
mod tests;
