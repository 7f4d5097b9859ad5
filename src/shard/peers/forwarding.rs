//! What clients ask of the controller where that is another node: the request goes to the leader of the quorum as it is
//! and is answered there; here it is waited for until what was decided has been applied (Kafka: `Envelope`, and
//! `AllocateProducerIds` of KIP-730).

use crate::cluster::describe::{QuorumState, ask_quorum, describe_quorum};
use crate::cluster::encoding::decode as decode_records;
use crate::cluster::quorum::members::PeerId;
use crate::cluster::record::{ProducerIdBlock, Record};
use crate::cluster::registration::Start;
use crate::codec::control::{
    Answer, MutationLimit as AskedLimit, Question, QuestionKind, Registration, decode_alter_partitions,
    decode_altered_partitions, decode_heartbeat, encode_alter_partitions, encode_altered_partitions,
    encode_heartbeat_answer,
};
use crate::codec::error_code::ErrorCode;
use crate::config::quota::{QuotaLimit, QuotaScope};
use crate::shard::controller::{ControlReply, ControlRequest, InternalState, MutationLimit, execute_here};
use crate::shard::quorum::MetadataQuorum;
use crate::shard::transactions;
use crate::types::{DirectoryId, NodeId, TopicPartition};
use bytes::Bytes;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    AllocateProducerIdsResponse, AlterClientQuotasRequest, AlterConfigsRequest, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteTopicsRequest, DescribeQuorumResponse, ElectLeadersRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Versions in which requests and answers go between nodes: the newest of each that has all that others have.
/// DeleteTopics goes as the client has sent it.
const CREATE_TOPICS: i16 = 7;
const CREATE_PARTITIONS: i16 = 3;
const INCREMENTAL_ALTER_CONFIGS: i16 = 1;
const ALTER_CONFIGS: i16 = 2;
const ELECT_LEADERS: i16 = 2;
const ALTER_CLIENT_QUOTAS: i16 = 1;
const METADATA: i16 = 12;
const ALLOCATE_PRODUCER_IDS: i16 = 0;
const DESCRIBE_QUORUM: i16 = 2;
const RAFT_VOTERS: i16 = 0;
const UNREGISTER_BROKER: i16 = 0;
const ALTER_PARTITION_REASSIGNMENTS: i16 = 1;
/// Of what is none of Kafka's.
const OURS: i16 = 0;

/// A message that does not say what it should.
#[derive(Debug, thiserror::Error)]
#[error("malformed: {0}")]
struct Malformed(String);

fn encode(message: &impl Encodable, version: i16) -> Result<Bytes, Malformed> {
    let mut bytes = bytes::BytesMut::new();
    message.encode(&mut bytes, version).map_err(|error| Malformed(error.to_string()))?;
    Ok(bytes.freeze())
}

fn decode<T: Decodable>(payload: &[u8], version: i16) -> Result<T, Malformed> {
    let mut bytes = Bytes::copy_from_slice(payload);
    let message = T::decode(&mut bytes, version).map_err(|error| Malformed(error.to_string()))?;
    if bytes.is_empty() { Ok(message) } else { Err(Malformed(format!("{} bytes too many", bytes.len()))) }
}

/// Asks the leader of the quorum.
pub async fn forward(quorum: &Rc<MetadataQuorum>, request: &ControlRequest) -> ControlReply {
    let Some(peers) = quorum.peers() else { return ControlReply::Failed(ErrorCode::NotController) };
    let (kind, version) = kind_of(request);
    let payload = match encode_request(request, version) {
        Ok(payload) => payload,
        Err(error) => {
            tracing::error!(%error, "a request to the controller cannot be passed on");
            return ControlReply::Failed(ErrorCode::UnknownServerError);
        }
    };
    let question = Question {
        number: 0,
        kind,
        node: peers.me().node(),
        peer: peers.me().raw(),
        version,
        found: Vec::new(),
        limit: limit_of(request).map(|MutationLimit { scope, limit, is_strict }| AskedLimit {
            user: scope.user.clone(),
            client_id: scope.client_id.clone(),
            rate: limit.get(),
            is_strict: *is_strict,
        }),
        registration: None,
    };
    let is_repeatable = matches!(
        request,
        ControlRequest::DescribeQuorum
            | ControlRequest::AutoCreate(_)
            | ControlRequest::CreateInternal(_)
            | ControlRequest::AllocateProducerIds
            // A second time it comes under a partition epoch that has ended.
            | ControlRequest::AlterPartitions(_)
    );
    match peers.ask_leader(&question, &payload, is_repeatable).await {
        Ok((Answer { error, .. }, _)) if error != 0 => {
            ControlReply::Failed(ErrorCode::from_wire(error).unwrap_or(ErrorCode::UnknownServerError))
        }
        Ok((_, payload)) => decode_reply(kind, version, &payload).unwrap_or_else(|error| {
            tracing::error!(%error, ?kind, "an answer of the controller cannot be read");
            ControlReply::Failed(ErrorCode::UnknownServerError)
        }),
        Err(error) => ControlReply::Failed(error),
    }
}

/// Answers another node, as the leader.
pub async fn answer(quorum: &Rc<MetadataQuorum>, question: &Question, payload: &[u8]) -> (Answer, Bytes) {
    let (error, payload, message) = match question.kind {
        QuestionKind::Register => match register(quorum, question, payload).await {
            Ok(()) => (ErrorCode::None, Bytes::new(), String::new()),
            Err((code @ ErrorCode::DuplicateBrokerRegistration, message)) => {
                (code, Bytes::from(quorum.current_registration(question.node)), message)
            }
            Err((code, message)) => (code, Bytes::new(), message),
        },
        QuestionKind::AppliedIndex => {
            let code = if quorum.is_leading() { ErrorCode::None } else { ErrorCode::NotController };
            (code, Bytes::new(), String::new())
        }
        QuestionKind::Heartbeat => match decode_heartbeat(payload) {
            _ if !quorum.is_leading() => (ErrorCode::NotController, Bytes::new(), String::new()),
            Ok(heartbeat) if heartbeat.node == question.node => {
                let answer = encode_heartbeat_answer(&quorum.hear(&heartbeat));
                (ErrorCode::None, Bytes::from(answer), String::new())
            }
            Ok(_) => (ErrorCode::InvalidRequest, Bytes::new(), "the heartbeat of another node".to_owned()),
            Err(error) => (ErrorCode::InvalidRequest, Bytes::new(), error.to_string()),
        },
        QuestionKind::VerifyTransaction | QuestionKind::WriteMarkers => {
            let answered = match quorum.attached() {
                Some(shard) => transactions::answer_node(&shard, question.kind, payload).await,
                None => Some((ErrorCode::CoordinatorNotAvailable, Bytes::new())), // It still starts.
            };
            let (code, payload) = answered.unwrap_or((ErrorCode::InvalidRequest, Bytes::new()));
            (code, payload, String::new())
        }
        _ => match (quorum.attached(), decode_request(question, payload)) {
            (_, Err(error)) => {
                tracing::warn!(%error, kind = ?question.kind, "a question of another node cannot be read");
                (ErrorCode::InvalidRequest, Bytes::new(), error.to_string())
            }
            // Its own partitions are not open yet.
            (None, _) => (ErrorCode::NotController, Bytes::new(), String::new()),
            (Some(shard), Ok(request)) => {
                let reply = execute_here(&shard, question.node, &request).await;
                match encode_reply(quorum, &reply, question.version) {
                    Ok(payload) => (ErrorCode::None, payload, String::new()),
                    Err(code) => (code, Bytes::new(), String::new()),
                }
            }
        },
    };
    let leader = quorum.leader();
    let address = leader.and_then(|leader| quorum.peers()?.address_of(leader));
    let answer = Answer {
        number: question.number,
        error: error.code(),
        leader: leader.map_or(0, PeerId::raw),
        leader_address: address.map(|address| (address.host, address.port)),
        term: quorum.term(),
        // Whoever starts has to have all that it had applied, which the leader may not have done yet.
        index: match question.kind {
            QuestionKind::AppliedIndex => quorum.committed(),
            _ => quorum.applied_index(),
        },
        message,
    };
    (answer, payload)
}

async fn register(
    quorum: &Rc<MetadataQuorum>,
    question: &Question,
    payload: &[u8],
) -> Result<(), (ErrorCode, String)> {
    let invalid = |what: String| (ErrorCode::InvalidRequest, what);
    let records = decode_records(payload).map_err(|error| invalid(error.to_string()))?;
    let [Record::NodeRegistered(node)] = &records[..] else {
        return Err(invalid("not the registration of a node".to_owned()));
    };
    let peer = PeerId::from_raw(question.peer).filter(|peer| peer.node() == node.id);
    let peer = peer.ok_or_else(|| invalid("the registration of another node".to_owned()))?;
    let registration = question.registration.as_ref();
    let registration = registration.filter(|it| it.node == node.id && it.incarnation == node.incarnation);
    let registration = registration.ok_or_else(|| invalid("it does not say what has started".to_owned()))?;
    let found: BTreeMap<TopicPartition, DirectoryId> =
        question.found.iter().map(|found| (found.partition, found.directory)).collect();
    let Registration { logs, doubtful, replaces, .. } = registration.clone();
    quorum.register_other(peer, &Start { node: node.clone(), found, logs, doubtful, replaces }).await
}

fn limit_of(request: &ControlRequest) -> Option<&MutationLimit> {
    match request {
        ControlRequest::CreateTopics(_, limit)
        | ControlRequest::DeleteTopics(_, _, limit)
        | ControlRequest::CreatePartitions(_, limit) => limit.as_ref(),
        _ => None,
    }
}

fn kind_of(request: &ControlRequest) -> (QuestionKind, i16) {
    match request {
        ControlRequest::CreateTopics(..) => (QuestionKind::CreateTopics, CREATE_TOPICS),
        ControlRequest::DeleteTopics(_, version, _) => (QuestionKind::DeleteTopics, *version),
        ControlRequest::CreatePartitions(..) => (QuestionKind::CreatePartitions, CREATE_PARTITIONS),
        ControlRequest::IncrementalAlterConfigs(_) => {
            (QuestionKind::IncrementalAlterConfigs, INCREMENTAL_ALTER_CONFIGS)
        }
        ControlRequest::AlterConfigs(_) => (QuestionKind::AlterConfigs, ALTER_CONFIGS),
        ControlRequest::ElectLeaders(_) => (QuestionKind::ElectLeaders, ELECT_LEADERS),
        ControlRequest::AlterClientQuotas(_) => (QuestionKind::AlterClientQuotas, ALTER_CLIENT_QUOTAS),
        ControlRequest::AutoCreate(_) => (QuestionKind::AutoCreate, METADATA),
        ControlRequest::CreateInternal(InternalState::Groups) => (QuestionKind::CreateGroupsTopic, METADATA),
        ControlRequest::CreateInternal(InternalState::Transactions) => {
            (QuestionKind::CreateTransactionsTopic, METADATA)
        }
        ControlRequest::AllocateProducerIds => (QuestionKind::AllocateProducerIds, ALLOCATE_PRODUCER_IDS),
        ControlRequest::DescribeQuorum => (QuestionKind::DescribeQuorum, DESCRIBE_QUORUM),
        ControlRequest::AddVoter(_) => (QuestionKind::AddVoter, RAFT_VOTERS),
        ControlRequest::RemoveVoter(_) => (QuestionKind::RemoveVoter, RAFT_VOTERS),
        ControlRequest::AlterPartitions(_) => (QuestionKind::AlterPartitions, OURS),
        ControlRequest::UnregisterBroker(_) => (QuestionKind::UnregisterBroker, UNREGISTER_BROKER),
        ControlRequest::AlterReassignments(_) => {
            (QuestionKind::AlterPartitionReassignments, ALTER_PARTITION_REASSIGNMENTS)
        }
    }
}

fn encode_request(request: &ControlRequest, version: i16) -> Result<Bytes, Malformed> {
    match request {
        ControlRequest::CreateTopics(request, _) => encode(request, version),
        ControlRequest::DeleteTopics(request, version, _) => encode(request, *version),
        ControlRequest::CreatePartitions(request, _) => encode(request, version),
        ControlRequest::IncrementalAlterConfigs(request) => encode(request, version),
        ControlRequest::AlterConfigs(request) => encode(request, version),
        ControlRequest::ElectLeaders(request) => encode(request, version),
        ControlRequest::AlterClientQuotas(request) => encode(request, version),
        ControlRequest::AddVoter(request) => encode(request, version),
        ControlRequest::RemoveVoter(request) => encode(request, version),
        ControlRequest::AlterPartitions(asked) => Ok(Bytes::from(encode_alter_partitions(asked))),
        ControlRequest::UnregisterBroker(request) => encode(request, version),
        ControlRequest::AlterReassignments(request) => encode(request, version),
        ControlRequest::AutoCreate(names) => {
            let topic = |name: &TopicName| MetadataRequestTopic::default().with_name(Some(name.clone()));
            let request = MetadataRequest::default().with_topics(Some(names.iter().map(topic).collect()));
            encode(&request, version)
        }
        ControlRequest::CreateInternal(_)
        | ControlRequest::AllocateProducerIds
        | ControlRequest::DescribeQuorum => Ok(Bytes::new()),
    }
}

fn decode_request(question: &Question, payload: &[u8]) -> Result<ControlRequest, Malformed> {
    let version = question.version;
    let limit = question.limit.as_ref().and_then(|limit| {
        let scope = QuotaScope { user: limit.user.clone(), client_id: limit.client_id.clone() };
        Some(MutationLimit { scope, limit: QuotaLimit::new(limit.rate)?, is_strict: limit.is_strict })
    });
    Ok(match question.kind {
        QuestionKind::Register
        | QuestionKind::AppliedIndex
        | QuestionKind::Heartbeat
        | QuestionKind::VerifyTransaction
        | QuestionKind::WriteMarkers => {
            return Err(Malformed("nothing of the controller".to_owned()));
        }
        QuestionKind::CreateTopics => {
            ControlRequest::CreateTopics(decode::<CreateTopicsRequest>(payload, version)?, limit)
        }
        QuestionKind::DeleteTopics => {
            ControlRequest::DeleteTopics(decode::<DeleteTopicsRequest>(payload, version)?, version, limit)
        }
        QuestionKind::CreatePartitions => {
            ControlRequest::CreatePartitions(decode::<CreatePartitionsRequest>(payload, version)?, limit)
        }
        QuestionKind::IncrementalAlterConfigs => {
            ControlRequest::IncrementalAlterConfigs(decode::<IncrementalAlterConfigsRequest>(
                payload, version,
            )?)
        }
        QuestionKind::AlterConfigs => {
            ControlRequest::AlterConfigs(decode::<AlterConfigsRequest>(payload, version)?)
        }
        QuestionKind::ElectLeaders => {
            ControlRequest::ElectLeaders(decode::<ElectLeadersRequest>(payload, version)?)
        }
        QuestionKind::AlterClientQuotas => {
            ControlRequest::AlterClientQuotas(decode::<AlterClientQuotasRequest>(payload, version)?)
        }
        QuestionKind::AutoCreate => {
            let request = decode::<MetadataRequest>(payload, version)?;
            let names = request.topics.into_iter().flatten().filter_map(|topic| topic.name);
            ControlRequest::AutoCreate(names.collect())
        }
        QuestionKind::CreateGroupsTopic => ControlRequest::CreateInternal(InternalState::Groups),
        QuestionKind::CreateTransactionsTopic => ControlRequest::CreateInternal(InternalState::Transactions),
        QuestionKind::AllocateProducerIds => ControlRequest::AllocateProducerIds,
        QuestionKind::DescribeQuorum => ControlRequest::DescribeQuorum,
        QuestionKind::AddVoter => ControlRequest::AddVoter(decode(payload, version)?),
        QuestionKind::RemoveVoter => ControlRequest::RemoveVoter(decode(payload, version)?),
        QuestionKind::UnregisterBroker => ControlRequest::UnregisterBroker(decode(payload, version)?),
        QuestionKind::AlterPartitionReassignments => {
            ControlRequest::AlterReassignments(decode(payload, version)?)
        }
        QuestionKind::AlterPartitions => match decode_alter_partitions(payload) {
            Ok(asked) if asked.node == question.node => ControlRequest::AlterPartitions(asked),
            Ok(_) => return Err(Malformed("partitions of another node".to_owned())),
            Err(error) => return Err(Malformed(error.to_string())),
        },
    })
}

/// `version`: as it was asked.
fn encode_reply(quorum: &MetadataQuorum, reply: &ControlReply, version: i16) -> Result<Bytes, ErrorCode> {
    let encoded = match reply {
        ControlReply::CreateTopics(response) => encode(response, version),
        ControlReply::DeleteTopics(response) => encode(response, version),
        ControlReply::CreatePartitions(response) => encode(response, version),
        ControlReply::IncrementalAlterConfigs(response) => encode(response, version),
        ControlReply::AlterConfigs(response) => encode(response, version),
        ControlReply::ElectLeaders(response) => encode(response, version),
        ControlReply::AlterClientQuotas(response) => encode(response, version),
        ControlReply::AddVoter(response) => encode(response, version),
        ControlReply::RemoveVoter(response) => encode(response, version),
        ControlReply::UnregisterBroker(response) => encode(response, version),
        ControlReply::AlterReassignments(response) => encode(response, version),
        ControlReply::AlterPartitions(altered) => Ok(Bytes::from(encode_altered_partitions(altered))),
        ControlReply::AutoCreate(errors) => {
            let topic = |(name, error): (&TopicName, &ErrorCode)| {
                MetadataResponseTopic::default().with_name(Some(name.clone())).with_error_code(error.code())
            };
            let response = MetadataResponse::default().with_topics(errors.iter().map(topic).collect());
            encode(&response, version)
        }
        ControlReply::ProducerIds(block) => {
            let response = AllocateProducerIdsResponse::default()
                .with_producer_id_start(block.first.into())
                .with_producer_id_len(i32::try_from(block.count).unwrap_or(i32::MAX));
            encode(&response, version)
        }
        ControlReply::Quorum(state) => quorum.with_image(|image| {
            encode(&describe_quorum(image, Some(state), &ask_quorum(), version), version)
        }),
        ControlReply::Failed(error) => return Err(*error),
    };
    encoded.map_err(|error| {
        tracing::error!(%error, "an answer to another node cannot be written");
        ErrorCode::UnknownServerError
    })
}

fn decode_reply(kind: QuestionKind, version: i16, payload: &[u8]) -> Result<ControlReply, Malformed> {
    Ok(match kind {
        QuestionKind::Register
        | QuestionKind::AppliedIndex
        | QuestionKind::Heartbeat
        | QuestionKind::VerifyTransaction
        | QuestionKind::WriteMarkers => {
            return Err(Malformed("nothing of the controller".to_owned()));
        }
        QuestionKind::CreateTopics => ControlReply::CreateTopics(decode(payload, version)?),
        QuestionKind::DeleteTopics => ControlReply::DeleteTopics(decode(payload, version)?),
        QuestionKind::CreatePartitions => ControlReply::CreatePartitions(decode(payload, version)?),
        QuestionKind::IncrementalAlterConfigs => {
            ControlReply::IncrementalAlterConfigs(decode(payload, version)?)
        }
        QuestionKind::AlterConfigs => ControlReply::AlterConfigs(decode(payload, version)?),
        QuestionKind::ElectLeaders => ControlReply::ElectLeaders(decode(payload, version)?),
        QuestionKind::AlterClientQuotas => ControlReply::AlterClientQuotas(decode(payload, version)?),
        QuestionKind::AddVoter => ControlReply::AddVoter(decode(payload, version)?),
        QuestionKind::RemoveVoter => ControlReply::RemoveVoter(decode(payload, version)?),
        QuestionKind::UnregisterBroker => ControlReply::UnregisterBroker(decode(payload, version)?),
        QuestionKind::AlterPartitionReassignments => {
            ControlReply::AlterReassignments(decode(payload, version)?)
        }
        QuestionKind::AlterPartitions => {
            let altered = decode_altered_partitions(payload);
            ControlReply::AlterPartitions(altered.map_err(|error| Malformed(error.to_string()))?)
        }
        QuestionKind::AutoCreate
        | QuestionKind::CreateGroupsTopic
        | QuestionKind::CreateTransactionsTopic => {
            let response = decode::<MetadataResponse>(payload, version)?;
            let error = |topic: MetadataResponseTopic| {
                let code = ErrorCode::from_wire(topic.error_code).unwrap_or(ErrorCode::UnknownServerError);
                Some((topic.name?, code))
            };
            ControlReply::AutoCreate(response.topics.into_iter().filter_map(error).collect())
        }
        QuestionKind::AllocateProducerIds => {
            let response = decode::<AllocateProducerIdsResponse>(payload, version)?;
            let count = u32::try_from(response.producer_id_len).unwrap_or(0);
            let block = ProducerIdBlock::new(response.producer_id_start.0, count);
            ControlReply::ProducerIds(block.ok_or_else(|| Malformed("no producer ids".to_owned()))?)
        }
        QuestionKind::DescribeQuorum => {
            let response = decode::<DescribeQuorumResponse>(payload, version)?;
            let state = QuorumState::from_response(&response);
            ControlReply::Quorum(state.ok_or_else(|| Malformed("no quorum".to_owned()))?)
        }
    })
}

/// For who asks on behalf of a node.
pub fn question(kind: QuestionKind, me: PeerId) -> Question {
    let node: NodeId = me.node();
    Question {
        number: 0,
        kind,
        node,
        peer: me.raw(),
        version: 0,
        found: Vec::new(),
        limit: None,
        registration: None,
    }
}
