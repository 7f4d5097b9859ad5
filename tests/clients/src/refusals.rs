//! What clients call the errors of the broker that the tests provoke.

use crate::client::Kind;

/// Why the broker refuses something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The commit of a producer that another one with its id has taken the place of.
    Fenced,
    /// The commit of a transaction that the coordinator has aborted.
    OutOfTime,
    /// The offsets of a transaction that began before the group's last rebalance.
    OldGeneration,
    /// Of a topic that was deleted.
    UnknownTopic,
    /// The commit of offsets, by who is no member, of a group that has members.
    NoMember,
    /// The deletion of a group that has members.
    NonEmptyGroup,
    /// Fewer partitions than a topic has.
    FewerPartitions,
    /// A topic of a name that there is.
    TopicExists,
    /// A setting that is none, or whose value is none of its kind.
    BadSetting,
    /// Partitions on a broker that there is not.
    BadAssignment,
    /// The deletion of offsets of a topic that members subscribe to.
    Subscribed,
}

impl Kind {
    /// The client's name for it.
    pub fn says(self, refusal: Refusal) -> &'static str {
        match self {
            Kind::Confluent => match refusal {
                Refusal::Fenced | Refusal::OutOfTime => "_FENCED",
                Refusal::OldGeneration => "ILLEGAL_GENERATION",
                Refusal::UnknownTopic => "UNKNOWN_TOPIC_OR_PART",
                Refusal::NoMember => "UNKNOWN_MEMBER_ID",
                Refusal::NonEmptyGroup => "NON_EMPTY_GROUP",
                Refusal::FewerPartitions => "INVALID_PARTITIONS",
                Refusal::TopicExists => "TOPIC_ALREADY_EXISTS",
                Refusal::BadSetting => "INVALID_CONFIG",
                Refusal::BadAssignment => "INVALID_REPLICA_ASSIGNMENT",
                Refusal::Subscribed => unreachable!("it has no such call"),
            },
            Kind::Rdkafka => match refusal {
                Refusal::Fenced | Refusal::OutOfTime => "Fenced",
                Refusal::OldGeneration => "IllegalGeneration",
                Refusal::UnknownTopic => "UnknownTopicOrPartition",
                Refusal::NoMember => "UnknownMemberId",
                Refusal::NonEmptyGroup => "NonEmptyGroup",
                Refusal::FewerPartitions => "InvalidPartitions",
                Refusal::TopicExists => "TopicAlreadyExists",
                Refusal::BadSetting => "InvalidConfig",
                Refusal::BadAssignment => "InvalidReplicaAssignment",
                Refusal::Subscribed => unreachable!("it has no such call"),
            },
            Kind::ConfluentJs => match refusal {
                Refusal::Fenced | Refusal::OutOfTime => "ERR__FENCED",
                Refusal::OldGeneration => unreachable!("it says what it is only when it commits"),
                Refusal::UnknownTopic => "ERR_UNKNOWN_TOPIC_OR_PART",
                Refusal::NoMember => "ERR_UNKNOWN_MEMBER_ID",
                Refusal::NonEmptyGroup => "ERR_NON_EMPTY_GROUP",
                Refusal::FewerPartitions => "ERR_INVALID_PARTITIONS",
                // It returns false, which its driver takes for an error.
                Refusal::TopicExists => "Error",
                Refusal::BadSetting => "ERR_INVALID_CONFIG",
                Refusal::BadAssignment | Refusal::Subscribed => unreachable!("it has no such call"),
            },
            Kind::Kafkajs => match refusal {
                // Of EndTxn before version 2, which had no other word for it.
                Refusal::Fenced | Refusal::OutOfTime => "INVALID_PRODUCER_EPOCH",
                Refusal::OldGeneration => unreachable!("it does not say which generation it is of"),
                Refusal::UnknownTopic => "UNKNOWN_TOPIC_OR_PARTITION",
                // It looks whether there are members, and does not ask.
                Refusal::NoMember => "KafkaJSNonRetriableError",
                Refusal::NonEmptyGroup => "NON_EMPTY_GROUP",
                Refusal::FewerPartitions => "INVALID_PARTITIONS",
                // It returns false, which its driver takes for an error.
                Refusal::TopicExists => "Error",
                Refusal::BadSetting => "INVALID_CONFIG",
                Refusal::BadAssignment => "INVALID_REPLICA_ASSIGNMENT",
                Refusal::Subscribed => unreachable!("it has no such call"),
            },
            Kind::KafkaPython2 => match refusal {
                // The same.
                Refusal::Fenced | Refusal::OutOfTime => "InvalidProducerEpochError",
                Refusal::OldGeneration => unreachable!("it does not say which generation it is of"),
                Refusal::UnknownTopic => "UnknownTopicOrPartitionError",
                Refusal::NoMember => "CommitFailedError",
                Refusal::NonEmptyGroup => "NonEmptyGroupError",
                Refusal::FewerPartitions => "InvalidPartitionsError",
                Refusal::TopicExists => "TopicAlreadyExistsError",
                Refusal::BadSetting => "InvalidConfigurationError",
                Refusal::BadAssignment => "InvalidReplicationAssignmentError",
                Refusal::Subscribed => unreachable!("it has no such call"),
            },
            Kind::KafkaPython3 => match refusal {
                Refusal::Fenced | Refusal::OutOfTime => "ProducerFencedError",
                Refusal::OldGeneration => "CommitFailedError",
                Refusal::UnknownTopic => "UnknownTopicOrPartitionError",
                Refusal::NoMember => "UnknownMemberIdError",
                Refusal::NonEmptyGroup => "NonEmptyGroupError",
                Refusal::FewerPartitions => "InvalidPartitionsError",
                Refusal::TopicExists => "TopicAlreadyExistsError",
                Refusal::BadSetting => "InvalidConfigurationError",
                Refusal::BadAssignment => "InvalidReplicationAssignmentError",
                Refusal::Subscribed => "GroupSubscribedToTopicError",
            },
            Kind::Aiokafka => match refusal {
                Refusal::Fenced | Refusal::OutOfTime => "ProducerFenced",
                Refusal::OldGeneration => unreachable!("it does not say which generation it is of"),
                Refusal::UnknownTopic => "UnknownTopicOrPartitionError",
                Refusal::NoMember => "CommitFailedError",
                Refusal::NonEmptyGroup => "NonEmptyGroupError",
                Refusal::FewerPartitions => "InvalidPartitionsError",
                Refusal::TopicExists => "TopicAlreadyExistsError",
                Refusal::BadSetting => "InvalidConfigurationError",
                Refusal::BadAssignment => "InvalidReplicationAssignmentError",
                Refusal::Subscribed => unreachable!("it has no such call"),
            },
            Kind::Java3 | Kind::Java4 => match refusal {
                Refusal::Fenced | Refusal::OutOfTime => "ProducerFencedException",
                Refusal::OldGeneration => "CommitFailedException",
                Refusal::UnknownTopic => "UnknownTopicOrPartitionException",
                Refusal::NoMember => "UnknownMemberIdException",
                Refusal::NonEmptyGroup => "GroupNotEmptyException",
                Refusal::FewerPartitions => "InvalidPartitionsException",
                Refusal::TopicExists => "TopicExistsException",
                Refusal::BadSetting => "InvalidConfigurationException",
                Refusal::BadAssignment => "InvalidReplicaAssignmentException",
                Refusal::Subscribed => "GroupSubscribedToTopicException",
            },
            Kind::Kcat => unreachable!("it says what it likes"),
        }
    }
}
