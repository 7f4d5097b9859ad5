//! What nodes and their controller say to each other, as owned values; `schemas/control.fbs` has the tables.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use crate::codec::peer_message::{MessageError, table_root, topic_partition};
use crate::codec::replication::{few, finish};
use crate::schema::control as fb;
use crate::types::{
    BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, PartitionEpoch, ShardId, TopicPartition, Uuid,
};

/// The first words on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Nil of a node that belongs to none yet.
    pub cluster: Uuid,
    pub node: NodeId,
    /// Versions of the messages that this side understands, both inclusive.
    pub version_min: u16,
    pub version_max: u16,
    /// As which member of the metadata quorum it speaks; 0: as none.
    pub peer: u64,
    /// Where other nodes reach it.
    pub address: Option<(String, u16)>,
    /// Of a connection over which the first shard follows partitions of the second, which is on the other side.
    pub shards: Option<(ShardId, ShardId)>,
}

/// What is asked of the node that leads the metadata quorum, or that leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionKind {
    /// The metadata are to say this of a node.
    Register,
    CreateTopics,
    DeleteTopics,
    CreatePartitions,
    IncrementalAlterConfigs,
    AlterConfigs,
    ElectLeaders,
    AlterClientQuotas,
    /// Topics that were asked for and are not there: a Metadata request and answer.
    AutoCreate,
    CreateGroupsTopic,
    CreateTransactionsTopic,
    AllocateProducerIds,
    DescribeQuorum,
    /// How much of the metadata there is.
    AppliedIndex,
    AddVoter,
    RemoveVoter,
    Heartbeat,
    AlterPartitions,
    UnregisterBroker,
    /// Of the coordinator of a transaction.
    VerifyTransaction,
    /// Of leaders of partitions in which one has ended.
    WriteMarkers,
    AlterPartitionReassignments,
}

/// Of a partition: in which log directory of a node it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub partition: TopicPartition,
    pub directory: DirectoryId,
}

/// What the client that asks may create and delete (KIP-599).
#[derive(Clone, Debug, PartialEq)]
pub struct MutationLimit {
    pub user: Option<String>,
    pub client_id: Option<String>,
    /// Partitions a second.
    pub rate: f64,
    pub is_strict: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// On this connection.
    pub number: u64,
    pub kind: QuestionKind,
    /// Who asks, and as which member of the quorum.
    pub node: NodeId,
    pub peer: u64,
    /// Of the Kafka request that is the payload.
    pub version: i16,
    /// Of a registration.
    pub found: Vec<Found>,
    pub limit: Option<MutationLimit>,
    /// What has started, of a registration.
    pub registration: Option<Registration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub number: u64,
    /// Kafka's; 0: it was done.
    pub error: i16,
    /// Who would know, of one who does not lead the quorum; 0: nobody is known.
    pub leader: u64,
    /// Where that one is reached.
    pub leader_address: Option<(String, u16)>,
    /// Of the quorum, as who answers knows it.
    pub term: u64,
    /// How much of the metadata has to be applied for the answer to be seen.
    pub index: u64,
    pub message: String,
}

/// The kinds of questions, as both sides name them.
const QUESTIONS: [(QuestionKind, fb::QuestionKind); 22] = [
    (QuestionKind::Register, fb::QuestionKind::Register),
    (QuestionKind::CreateTopics, fb::QuestionKind::CreateTopics),
    (QuestionKind::DeleteTopics, fb::QuestionKind::DeleteTopics),
    (QuestionKind::CreatePartitions, fb::QuestionKind::CreatePartitions),
    (QuestionKind::IncrementalAlterConfigs, fb::QuestionKind::IncrementalAlterConfigs),
    (QuestionKind::AlterConfigs, fb::QuestionKind::AlterConfigs),
    (QuestionKind::ElectLeaders, fb::QuestionKind::ElectLeaders),
    (QuestionKind::AlterClientQuotas, fb::QuestionKind::AlterClientQuotas),
    (QuestionKind::AutoCreate, fb::QuestionKind::AutoCreate),
    (QuestionKind::CreateGroupsTopic, fb::QuestionKind::CreateGroupsTopic),
    (QuestionKind::CreateTransactionsTopic, fb::QuestionKind::CreateTransactionsTopic),
    (QuestionKind::AllocateProducerIds, fb::QuestionKind::AllocateProducerIds),
    (QuestionKind::DescribeQuorum, fb::QuestionKind::DescribeQuorum),
    (QuestionKind::AppliedIndex, fb::QuestionKind::AppliedIndex),
    (QuestionKind::AddVoter, fb::QuestionKind::AddVoter),
    (QuestionKind::RemoveVoter, fb::QuestionKind::RemoveVoter),
    (QuestionKind::Heartbeat, fb::QuestionKind::Heartbeat),
    (QuestionKind::AlterPartitions, fb::QuestionKind::AlterPartitions),
    (QuestionKind::UnregisterBroker, fb::QuestionKind::UnregisterBroker),
    (QuestionKind::VerifyTransaction, fb::QuestionKind::VerifyTransaction),
    (QuestionKind::WriteMarkers, fb::QuestionKind::WriteMarkers),
    (QuestionKind::AlterPartitionReassignments, fb::QuestionKind::AlterPartitionReassignments),
];

/// What a start has found of the logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogsFound {
    /// Complete up to what was acknowledged, but for those that are named.
    Damaged(Vec<TopicPartition>),
    /// Nothing: the disk is empty.
    Empty,
}

/// Partitions whose log may lack its end: whoever else is in sync is sure to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubtful {
    Partitions(Vec<TopicPartition>),
    /// More than a frame holds.
    All,
}

/// A node has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub node: NodeId,
    pub incarnation: Uuid,
    pub logs: LogsFound,
    pub doubtful: Doubtful,
    /// The registration of the node that ends with this one, as the controller has told this process.
    pub replaces: Option<BrokerEpoch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    pub incarnation: Uuid,
    pub broker_epoch: BrokerEpoch,
    /// Registered under that epoch; otherwise it is the one to replace.
    pub is_accepted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub node: NodeId,
    pub broker_epoch: BrokerEpoch,
    /// How much of the metadata it has applied.
    pub metadata_offset: u64,
    pub wants_shut_down: bool,
    /// Log directories that have failed since it has started.
    pub offline_directories: Vec<DirectoryId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    pub broker_epoch: BrokerEpoch,
    /// Otherwise it has to register again.
    pub is_known: bool,
    pub is_fenced: bool,
    pub may_shut_down: bool,
}

/// A leader asks for another in-sync set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProposal {
    pub partition: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// With the registration that each had when it was found in sync; none of those in sync before.
    pub in_sync: Vec<(NodeId, Option<BrokerEpoch>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterPartitions {
    pub node: NodeId,
    pub broker_epoch: BrokerEpoch,
    pub partitions: Vec<PartitionProposal>,
}

/// Why an in-sync set stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterRefusal {
    UnknownPartition,
    StaleBrokerEpoch,
    NotController,
    FencedLeaderEpoch,
    InvalidUpdateVersion,
    InvalidRequest,
    IneligibleReplica,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlterOutcome {
    Committed {
        partition_epoch: PartitionEpoch,
        in_sync: Vec<NodeId>,
    },
    /// What was proposed under that epoch.
    Refused {
        partition_epoch: PartitionEpoch,
        reason: AlterRefusal,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredPartition {
    pub partition: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub outcome: AlterOutcome,
}

type Builder = FlatBufferBuilder<'static>;

fn id(partition: TopicPartition) -> (fb::Id, u32) {
    (fb::Id::new(partition.topic.0.as_bytes()), partition.partition.index() as u32)
}

fn uuid(id: &fb::Id) -> Uuid {
    Uuid::from_bytes(id.bytes().into())
}

fn leader_epoch(value: i32) -> Result<LeaderEpoch, MessageError> {
    if value < 0 { Err(MessageError::NegativeEpoch) } else { Ok(LeaderEpoch(value)) }
}

fn partition_epoch(value: i32) -> Result<PartitionEpoch, MessageError> {
    if value < 0 { Err(MessageError::NegativeEpoch) } else { Ok(PartitionEpoch(value)) }
}

pub(super) fn encode_greeting(greeting: &Greeting) -> Vec<u8> {
    let mut builder = Builder::with_capacity(128);
    let cluster = fb::Id::new(greeting.cluster.as_bytes());
    let host = greeting.address.as_ref().map(|(host, _)| builder.create_string(host));
    let args = fb::GreetingArgs {
        cluster: Some(&cluster),
        node: greeting.node.0,
        version_min: greeting.version_min,
        version_max: greeting.version_max,
        peer: greeting.peer,
        host,
        port: greeting.address.as_ref().map_or(0, |(_, port)| *port),
        from_shard: greeting.shards.map_or(-1, |(from, _)| from.0.into()),
        to_shard: greeting.shards.map_or(-1, |(_, to)| to.0.into()),
    };
    let root = fb::Greeting::create(&mut builder, &args);
    finish(builder, root)
}

pub(super) fn decode_greeting(table: &[u8]) -> Result<Greeting, MessageError> {
    let root = table_root::<fb::Greeting<'_>>(table)?;
    Ok(Greeting {
        cluster: uuid(root.cluster()),
        node: NodeId(root.node()),
        version_min: root.version_min(),
        version_max: root.version_max(),
        peer: root.peer(),
        address: root.host().map(|host| (host.to_owned(), root.port())),
        shards: shard(root.from_shard()).zip(shard(root.to_shard())),
    })
}

fn shard(value: i32) -> Option<ShardId> {
    u16::try_from(value).ok().map(ShardId)
}

pub(super) fn encode_question(question: &Question) -> Vec<u8> {
    let mut builder = Builder::with_capacity(128 + 40 * question.found.len());
    let found = question.found.iter().map(|found| {
        let (topic, partition) = id(found.partition);
        fb::Found::new(&topic, partition, &fb::Id::new(found.directory.0.as_bytes()))
    });
    let found: Vec<_> = found.collect();
    let found = (!found.is_empty()).then(|| builder.create_vector(&found));
    let limit = question.limit.as_ref().map(|limit| {
        let user = limit.user.as_ref().map(|user| builder.create_string(user));
        let client_id = limit.client_id.as_ref().map(|client_id| builder.create_string(client_id));
        let args = fb::MutationLimitArgs { user, client_id, rate: limit.rate, is_strict: limit.is_strict };
        fb::MutationLimit::create(&mut builder, &args)
    });
    let registration = question.registration.as_ref().map(|it| registration_table(&mut builder, it));
    let kind = QUESTIONS.iter().find(|(kind, _)| *kind == question.kind);
    let args = fb::QuestionArgs {
        number: question.number,
        kind: kind.expect("all are listed").1,
        node: question.node.0,
        peer: question.peer,
        version: question.version,
        found,
        limit,
        registration,
    };
    let root = fb::Question::create(&mut builder, &args);
    finish(builder, root)
}

pub(super) fn decode_question(table: &[u8]) -> Result<Question, MessageError> {
    let root = table_root::<fb::Question<'_>>(table)?;
    let kind = QUESTIONS.iter().find(|(_, kind)| *kind == root.kind());
    let (kind, _) = kind.ok_or(MessageError::Question(root.kind().0))?;
    let found = root.found().into_iter().flatten().map(|found| {
        let partition = topic_partition(&found.topic().bytes(), found.partition())?;
        Ok(Found { partition, directory: DirectoryId(uuid(found.log_directory())) })
    });
    Ok(Question {
        number: root.number(),
        kind: *kind,
        node: NodeId(root.node()),
        peer: root.peer(),
        version: root.version(),
        found: found.collect::<Result<_, _>>()?,
        limit: root.limit().map(|limit| MutationLimit {
            user: limit.user().map(str::to_owned),
            client_id: limit.client_id().map(str::to_owned),
            rate: limit.rate(),
            is_strict: limit.is_strict(),
        }),
        registration: root.registration().map(registration_of).transpose()?,
    })
}

pub(super) fn encode_answer(answer: &Answer) -> Vec<u8> {
    let mut builder = Builder::with_capacity(128);
    let message = (!answer.message.is_empty()).then(|| builder.create_string(&answer.message));
    let leader_host = answer.leader_address.as_ref().map(|(host, _)| builder.create_string(host));
    let args = fb::AnswerArgs {
        number: answer.number,
        error: answer.error,
        leader: answer.leader,
        index: answer.index,
        message,
        leader_host,
        leader_port: answer.leader_address.as_ref().map_or(0, |(_, port)| *port),
        term: answer.term,
    };
    let root = fb::Answer::create(&mut builder, &args);
    finish(builder, root)
}

pub(super) fn decode_answer(table: &[u8]) -> Result<Answer, MessageError> {
    let root = table_root::<fb::Answer<'_>>(table)?;
    Ok(Answer {
        number: root.number(),
        error: root.error(),
        leader: root.leader(),
        term: root.term(),
        index: root.index(),
        message: root.message().unwrap_or_default().to_owned(),
        leader_address: root.leader_host().map(|host| (host.to_owned(), root.leader_port())),
    })
}

pub(super) fn encode_registration(registration: &Registration) -> Vec<u8> {
    let mut builder = Builder::with_capacity(128);
    let root = registration_table(&mut builder, registration);
    finish(builder, root)
}

fn registration_table(
    builder: &mut Builder,
    registration: &Registration,
) -> WIPOffset<fb::Registration<'static>> {
    let named = |partitions: &[TopicPartition]| {
        let each = partitions.iter().map(|partition| {
            let (topic, index) = id(*partition);
            fb::TopicPartition::new(&topic, index)
        });
        each.collect::<Vec<_>>()
    };
    let damaged = match &registration.logs {
        LogsFound::Empty => Vec::new(),
        LogsFound::Damaged(partitions) => named(partitions),
    };
    let doubtful = match &registration.doubtful {
        Doubtful::All => Vec::new(),
        Doubtful::Partitions(partitions) => named(partitions),
    };
    let damaged = builder.create_vector(&damaged);
    let doubtful = builder.create_vector(&doubtful);
    let incarnation = fb::Id::new(registration.incarnation.as_bytes());
    let args = fb::RegistrationArgs {
        node: registration.node.0,
        incarnation: Some(&incarnation),
        is_empty: registration.logs == LogsFound::Empty,
        damaged: Some(damaged),
        replaces: registration.replaces.map_or(-1, |epoch| epoch.0),
        doubtful: Some(doubtful),
        is_all_doubtful: registration.doubtful == Doubtful::All,
    };
    fb::Registration::create(builder, &args)
}

pub(super) fn decode_registration(table: &[u8]) -> Result<Registration, MessageError> {
    registration_of(table_root::<fb::Registration<'_>>(table)?)
}

fn registration_of(root: fb::Registration<'_>) -> Result<Registration, MessageError> {
    let partition = |named: &fb::TopicPartition| topic_partition(&named.topic().bytes(), named.partition());
    let damaged = root.damaged().into_iter().flatten().map(partition);
    let logs = match root.is_empty() {
        true => LogsFound::Empty,
        false => LogsFound::Damaged(damaged.collect::<Result<_, _>>()?),
    };
    let doubtful = root.doubtful().into_iter().flatten().map(partition);
    let doubtful = match root.is_all_doubtful() {
        true => Doubtful::All,
        false => Doubtful::Partitions(doubtful.collect::<Result<_, _>>()?),
    };
    let replaces = (root.replaces() >= 0).then_some(BrokerEpoch(root.replaces()));
    Ok(Registration {
        node: NodeId(root.node()),
        incarnation: uuid(root.incarnation()),
        logs,
        doubtful,
        replaces,
    })
}

pub fn encode_registered(registered: &Registered) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64);
    let incarnation = fb::Id::new(registered.incarnation.as_bytes());
    let broker_epoch = registered.broker_epoch.0;
    let is_accepted = registered.is_accepted;
    let args = fb::RegisteredArgs { incarnation: Some(&incarnation), broker_epoch, is_accepted };
    let root = fb::Registered::create(&mut builder, &args);
    finish(builder, root)
}

pub fn decode_registered(table: &[u8]) -> Result<Registered, MessageError> {
    let root = table_root::<fb::Registered<'_>>(table)?;
    Ok(Registered {
        incarnation: uuid(root.incarnation()),
        broker_epoch: BrokerEpoch(root.broker_epoch()),
        is_accepted: root.is_accepted(),
    })
}

pub fn encode_heartbeat(heartbeat: &Heartbeat) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64);
    let ids = heartbeat.offline_directories.iter().map(|directory| fb::Id::new(directory.0.as_bytes()));
    let offline = ids.collect::<Vec<fb::Id>>();
    let args = fb::HeartbeatArgs {
        node: heartbeat.node.0,
        broker_epoch: heartbeat.broker_epoch.0,
        metadata_offset: heartbeat.metadata_offset,
        wants_shut_down: heartbeat.wants_shut_down,
        offline_directories: (!offline.is_empty()).then(|| builder.create_vector(&offline)),
    };
    let root = fb::Heartbeat::create(&mut builder, &args);
    finish(builder, root)
}

pub fn decode_heartbeat(table: &[u8]) -> Result<Heartbeat, MessageError> {
    let root = table_root::<fb::Heartbeat<'_>>(table)?;
    Ok(Heartbeat {
        node: NodeId(root.node()),
        broker_epoch: BrokerEpoch(root.broker_epoch()),
        metadata_offset: root.metadata_offset(),
        wants_shut_down: root.wants_shut_down(),
        offline_directories: root
            .offline_directories()
            .into_iter()
            .flatten()
            .map(|id| DirectoryId(uuid(id)))
            .collect(),
    })
}

pub fn encode_heartbeat_answer(answer: &HeartbeatAnswer) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64);
    let args = fb::HeartbeatAnswerArgs {
        broker_epoch: answer.broker_epoch.0,
        is_known: answer.is_known,
        is_fenced: answer.is_fenced,
        may_shut_down: answer.may_shut_down,
    };
    let root = fb::HeartbeatAnswer::create(&mut builder, &args);
    finish(builder, root)
}

pub fn decode_heartbeat_answer(table: &[u8]) -> Result<HeartbeatAnswer, MessageError> {
    let root = table_root::<fb::HeartbeatAnswer<'_>>(table)?;
    Ok(HeartbeatAnswer {
        broker_epoch: BrokerEpoch(root.broker_epoch()),
        is_known: root.is_known(),
        is_fenced: root.is_fenced(),
        may_shut_down: root.may_shut_down(),
    })
}

pub fn encode_alter_partitions(request: &AlterPartitions) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64 + 96 * request.partitions.len());
    let each = |proposal: &PartitionProposal| {
        let in_sync = proposal.in_sync.iter();
        let in_sync: Vec<_> =
            in_sync.map(|(node, epoch)| fb::InSync::new(epoch.map_or(-1, |epoch| epoch.0), node.0)).collect();
        let in_sync = builder.create_vector(&in_sync);
        let (topic, partition) = id(proposal.partition);
        let args = fb::PartitionProposalArgs {
            topic: Some(&topic),
            partition,
            leader_epoch: proposal.leader_epoch.0,
            partition_epoch: proposal.partition_epoch.0,
            in_sync: Some(in_sync),
        };
        fb::PartitionProposal::create(&mut builder, &args)
    };
    let partitions: Vec<_> = request.partitions.iter().map(each).collect();
    let partitions = builder.create_vector(&partitions);
    let args = fb::AlterPartitionsArgs {
        node: request.node.0,
        broker_epoch: request.broker_epoch.0,
        partitions: Some(partitions),
    };
    let root = fb::AlterPartitions::create(&mut builder, &args);
    finish(builder, root)
}

pub fn decode_alter_partitions(table: &[u8]) -> Result<AlterPartitions, MessageError> {
    let root = table_root::<fb::AlterPartitions<'_>>(table)?;
    let each = |proposal: fb::PartitionProposal<'_>| {
        let member = |member: &fb::InSync| {
            let epoch = member.broker_epoch();
            (NodeId(member.node()), (epoch >= 0).then_some(BrokerEpoch(epoch)))
        };
        Ok(PartitionProposal {
            partition: topic_partition(&proposal.topic().bytes(), proposal.partition())?,
            leader_epoch: leader_epoch(proposal.leader_epoch())?,
            partition_epoch: partition_epoch(proposal.partition_epoch())?,
            in_sync: proposal.in_sync().iter().map(member).collect(),
        })
    };
    Ok(AlterPartitions {
        node: NodeId(root.node()),
        broker_epoch: BrokerEpoch(root.broker_epoch()),
        partitions: few(root.partitions().iter())?.map(each).collect::<Result<_, _>>()?,
    })
}

pub fn encode_altered_partitions(altered: &[AlteredPartition]) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64 + 96 * altered.len());
    let each = |altered: &AlteredPartition| {
        let (outcome, partition_epoch, in_sync): (_, _, Vec<i32>) = match &altered.outcome {
            AlterOutcome::Committed { partition_epoch, in_sync } => {
                (fb::AlterOutcome::Committed, partition_epoch.0, in_sync.iter().map(|node| node.0).collect())
            }
            AlterOutcome::Refused { partition_epoch, reason } => {
                (encode_refusal(*reason), partition_epoch.0, Vec::new())
            }
        };
        let in_sync = builder.create_vector(&in_sync);
        let (topic, partition) = id(altered.partition);
        let args = fb::AlteredPartitionArgs {
            topic: Some(&topic),
            partition,
            leader_epoch: altered.leader_epoch.0,
            outcome,
            partition_epoch,
            in_sync: Some(in_sync),
        };
        fb::AlteredPartition::create(&mut builder, &args)
    };
    let partitions: Vec<_> = altered.iter().map(each).collect();
    let partitions = builder.create_vector(&partitions);
    let args = fb::AlteredPartitionsArgs { partitions: Some(partitions) };
    let root = fb::AlteredPartitions::create(&mut builder, &args);
    finish(builder, root)
}

pub fn decode_altered_partitions(table: &[u8]) -> Result<Vec<AlteredPartition>, MessageError> {
    let root = table_root::<fb::AlteredPartitions<'_>>(table)?;
    let each = |altered: fb::AlteredPartition<'_>| {
        let partition_epoch = partition_epoch(altered.partition_epoch())?;
        let outcome = match decode_refusal(altered.outcome())? {
            Some(reason) => AlterOutcome::Refused { partition_epoch, reason },
            None => {
                let in_sync = altered.in_sync().into_iter().flatten().map(NodeId).collect();
                AlterOutcome::Committed { partition_epoch, in_sync }
            }
        };
        Ok(AlteredPartition {
            partition: topic_partition(&altered.topic().bytes(), altered.partition())?,
            leader_epoch: leader_epoch(altered.leader_epoch())?,
            outcome,
        })
    };
    few(root.partitions().iter())?.map(each).collect()
}

fn encode_refusal(reason: AlterRefusal) -> fb::AlterOutcome {
    match reason {
        AlterRefusal::UnknownPartition => fb::AlterOutcome::UnknownPartition,
        AlterRefusal::StaleBrokerEpoch => fb::AlterOutcome::StaleBrokerEpoch,
        AlterRefusal::NotController => fb::AlterOutcome::NotController,
        AlterRefusal::FencedLeaderEpoch => fb::AlterOutcome::FencedLeaderEpoch,
        AlterRefusal::InvalidUpdateVersion => fb::AlterOutcome::InvalidUpdateVersion,
        AlterRefusal::InvalidRequest => fb::AlterOutcome::InvalidRequest,
        AlterRefusal::IneligibleReplica => fb::AlterOutcome::IneligibleReplica,
    }
}

fn decode_refusal(outcome: fb::AlterOutcome) -> Result<Option<AlterRefusal>, MessageError> {
    Ok(Some(match outcome {
        fb::AlterOutcome::Committed => return Ok(None),
        fb::AlterOutcome::UnknownPartition => AlterRefusal::UnknownPartition,
        fb::AlterOutcome::StaleBrokerEpoch => AlterRefusal::StaleBrokerEpoch,
        fb::AlterOutcome::NotController => AlterRefusal::NotController,
        fb::AlterOutcome::FencedLeaderEpoch => AlterRefusal::FencedLeaderEpoch,
        fb::AlterOutcome::InvalidUpdateVersion => AlterRefusal::InvalidUpdateVersion,
        fb::AlterOutcome::InvalidRequest => AlterRefusal::InvalidRequest,
        fb::AlterOutcome::IneligibleReplica => AlterRefusal::IneligibleReplica,
        other => return Err(MessageError::Outcome(other.0)),
    }))
}
