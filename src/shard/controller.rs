//! Metadata changes, one after the other, on shard 0: decide, commit, answer.
//!
//! The decisions are `cluster::decide`'s; that they stay, and that every shard has applied them before they are
//! answered, is the [quorum](crate::shard::quorum)'s to see to.

use crate::cluster::decide::{
    self, InternalTopic, Mutations, decide_allocate_producer_ids, decide_alter_client_quotas,
    decide_alter_configs, decide_alter_partitions, decide_alter_reassignments, decide_auto_create,
    decide_create_internal, decide_create_partitions, decide_create_topics, decide_delete_topics,
    decide_elect_leaders, decide_incremental_alter_configs, decide_unregister_broker,
};
use crate::cluster::describe::QuorumState;
use crate::cluster::lifecycle::{may_change_in_sync_min, settle_eligible};
use crate::cluster::placement::DirectoryChoice;
use crate::cluster::record::{ProducerIdBlock, Record};
use crate::codec::control::{AlterPartitions, AlteredPartition};
use crate::codec::error_code::ErrorCode;
use crate::config::Config;
use crate::config::quota::{QuotaLimit, QuotaScope};
use crate::group::GROUPS_TOPIC;
use crate::quota::bucket::Buckets;
use crate::shard::Shard;
use crate::shard::message::{Reply, Request};
use crate::shard::peers::Peers;
use crate::shard::peers::forwarding::forward;
use crate::shard::quorum::{MetadataQuorum, voters};
use crate::shard::settings::topic_defaults_in;
use crate::txn::TRANSACTIONS_TOPIC;
use crate::types::limits::GROUP_TOPIC_BATCH_SIZE;
use crate::types::{NodeId, ShardId, TopicId, Uuid};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, AlterClientQuotasRequest, AlterClientQuotasResponse,
    AlterConfigsRequest, AlterConfigsResponse, AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    ElectLeadersRequest, ElectLeadersResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse, TopicName,
    UnregisterBrokerRequest, UnregisterBrokerResponse,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The shard that decides.
pub const CONTROLLER_SHARD: ShardId = ShardId(0);

/// A change of the metadata, or a question that needs one.
pub enum ControlRequest {
    CreateTopics(CreateTopicsRequest, Option<MutationLimit>),
    DeleteTopics(DeleteTopicsRequest, i16, Option<MutationLimit>),
    CreatePartitions(CreatePartitionsRequest, Option<MutationLimit>),
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest),
    AlterConfigs(AlterConfigsRequest),
    ElectLeaders(ElectLeadersRequest),
    AlterClientQuotas(AlterClientQuotasRequest),
    AutoCreate(BTreeSet<TopicName>),
    /// A topic that coordinators keep their state in.
    CreateInternal(InternalState),
    AllocateProducerIds,
    DescribeQuorum,
    AddVoter(AddRaftVoterRequest),
    RemoveVoter(RemoveRaftVoterRequest),
    /// Partitions that a node leads are to have other in-sync sets.
    AlterPartitions(AlterPartitions),
    UnregisterBroker(UnregisterBrokerRequest),
    AlterReassignments(AlterPartitionReassignmentsRequest),
}

/// Whose state an internal topic has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InternalState {
    Groups,
    Transactions,
}

impl InternalState {
    pub fn topic_name(self) -> &'static str {
        match self {
            InternalState::Groups => GROUPS_TOPIC,
            InternalState::Transactions => TRANSACTIONS_TOPIC,
        }
    }

    fn topic(self, config: &Config) -> InternalTopic {
        let name = self.topic_name();
        match self {
            InternalState::Groups => InternalTopic {
                name,
                partitions: config.offsets_topic_num_partitions,
                replicas: config.offsets_topic_replication_factor,
                segment_bytes: config.offsets_topic_segment_bytes,
                // No more than what a client may ask for, which all memory is laid out for.
                batch_bytes_max: Some(
                    GROUP_TOPIC_BATCH_SIZE.max(config.message_max_bytes).min(config.socket_request_max_bytes),
                ),
            },
            InternalState::Transactions => InternalTopic {
                name,
                partitions: config.transaction_state_log_num_partitions,
                replicas: config.transaction_state_log_replication_factor,
                segment_bytes: config.transaction_state_log_segment_bytes,
                batch_bytes_max: None,
            },
        }
    }
}

/// What the client that asks may create and delete (KIP-599).
#[derive(Clone, Debug)]
pub struct MutationLimit {
    pub scope: QuotaScope,
    pub limit: QuotaLimit,
    /// It is refused what is too much; older clients are only made to wait.
    pub is_strict: bool,
}

pub enum ControlReply {
    CreateTopics(CreateTopicsResponse),
    DeleteTopics(DeleteTopicsResponse),
    CreatePartitions(CreatePartitionsResponse),
    IncrementalAlterConfigs(IncrementalAlterConfigsResponse),
    AlterConfigs(AlterConfigsResponse),
    ElectLeaders(ElectLeadersResponse),
    AlterClientQuotas(AlterClientQuotasResponse),
    /// Topics that were not created, and why.
    AutoCreate(BTreeMap<TopicName, ErrorCode>),
    ProducerIds(ProducerIdBlock),
    Quorum(QuorumState),
    AddVoter(AddRaftVoterResponse),
    RemoveVoter(RemoveRaftVoterResponse),
    AlterPartitions(Vec<AlteredPartition>),
    UnregisterBroker(UnregisterBrokerResponse),
    AlterReassignments(AlterPartitionReassignmentsResponse),
    /// Nothing was changed.
    Failed(ErrorCode),
}

/// Lives: on shard 0.
pub struct Controller {
    pub quorum: Rc<MetadataQuorum>,
    /// What limited clients may change.
    mutations: RefCell<Buckets>,
}

impl Controller {
    pub fn new(quorum: Rc<MetadataQuorum>) -> Rc<Controller> {
        Rc::new(Controller { quorum, mutations: RefCell::default() })
    }

    /// Other nodes, of one that has any.
    pub fn peers(&self) -> Option<Rc<Peers>> {
        self.quorum.peers()
    }
}

impl Shard {
    /// Asks the controller, wherever it is.
    pub async fn control(self: &Rc<Self>, request: ControlRequest) -> ControlReply {
        if self.id == CONTROLLER_SHARD {
            return execute(self, request).await;
        }
        match self.mesh.call(CONTROLLER_SHARD, Request::Control(request)).await {
            Reply::Control(reply) => reply,
            _ => unreachable!("the controller answers as the controller"),
        }
    }
}

impl Shard {
    /// Makes an internal topic, unless it is there. Several may ask for it at once: it is made once.
    pub async fn create_internal(self: &Rc<Self>, state: InternalState) -> Result<(), ErrorCode> {
        let name = state.topic(&self.config).name;
        if self.image.borrow().topic_named(name).is_some() {
            return Ok(());
        }
        match self.control(ControlRequest::CreateInternal(state)).await {
            ControlReply::AutoCreate(errors) if errors.is_empty() => Ok(()),
            ControlReply::AutoCreate(errors) => {
                tracing::error!(?errors, "an internal topic cannot be made");
                Err(ErrorCode::CoordinatorNotAvailable)
            }
            _ => Err(ErrorCode::CoordinatorNotAvailable),
        }
    }

    /// The log directories that a new partition may go to. Of a failure the other shards tell this one.
    fn online_log_dirs(&self) -> DirectoryChoice {
        if self.stores.iter().len() == 1 {
            return DirectoryChoice::One;
        }
        let online = self.stores.iter().filter(|store| !store.is_offline());
        DirectoryChoice::Online(online.filter_map(|store| self.log_dirs.id(store.dir)).collect())
    }
}

/// Carries out one request, after those before it; where another node leads the quorum, there.
pub async fn execute(shard: &Rc<Shard>, request: ControlRequest) -> ControlReply {
    let Some(controller) = shard.controller.get().cloned() else {
        return ControlReply::Failed(ErrorCode::NotController); // Still starting.
    };
    if controller.quorum.is_leading() || controller.quorum.peers().is_none() {
        return execute_here(shard, shard.node, &request).await;
    }
    match forward(&controller.quorum, &request).await {
        // It leads itself by now.
        ControlReply::Failed(ErrorCode::NotController) if controller.quorum.is_leading() => {
            execute_here(shard, shard.node, &request).await
        }
        reply => reply,
    }
}

/// The same on the node that leads, for any of them.
pub async fn execute_here(shard: &Rc<Shard>, node: NodeId, request: &ControlRequest) -> ControlReply {
    let Some(controller) = shard.controller.get().cloned() else {
        return ControlReply::Failed(ErrorCode::NotController); // Still starting.
    };
    if let ControlRequest::DescribeQuorum = request {
        let state = controller.quorum.state(shard);
        return state.map_or(ControlReply::Failed(ErrorCode::NotController), ControlReply::Quorum);
    }
    match request {
        ControlRequest::AddVoter(request) => {
            return ControlReply::AddVoter(voters::add(&controller.quorum, request).await);
        }
        ControlRequest::RemoveVoter(request) => {
            return ControlReply::RemoveVoter(voters::remove(&controller.quorum, request).await);
        }
        _ => {}
    }
    let Ok(_turn) = controller.quorum.turn().acquire_permit(1).await else {
        return ControlReply::Failed(ErrorCode::NotController);
    };
    if controller.quorum.has_failed() {
        return ControlReply::Failed(ErrorCode::KafkaStorageError);
    }
    // Whoever does not lead has not heard of everything.
    if !controller.quorum.is_leading() {
        return ControlReply::Failed(ErrorCode::NotController);
    }
    let (mut records, reply) = decide_limited(shard, &controller, node, request);
    let settled = eligible_after(shard, &records);
    records.extend(settled);
    if records.is_empty() {
        return reply;
    }
    match controller.quorum.commit(records).await {
        Ok(()) => reply,
        Err(error) => {
            tracing::warn!(%error, "a change of the metadata was not made");
            ControlReply::Failed(error.code())
        }
    }
}

/// What becomes of eligible replicas where another number has to be in sync.
fn eligible_after(shard: &Shard, records: &[Record]) -> Vec<Record> {
    if !records.iter().any(may_change_in_sync_min) {
        return Vec::new();
    }
    let mut after = shard.image.borrow().clone();
    records.iter().for_each(|record| after.apply(record).expect("it was decided on this image"));
    settle_eligible(&after, &topic_defaults_in(&shard.config, &after, shard.node))
}

/// Decides, and counts what a limited client has changed. `node`: which one it has asked.
fn decide_limited(
    shard: &Shard,
    controller: &Controller,
    node: NodeId,
    request: &ControlRequest,
) -> (Vec<Record>, ControlReply) {
    let limit = match request {
        ControlRequest::CreateTopics(_, limit)
        | ControlRequest::DeleteTopics(_, _, limit)
        | ControlRequest::CreatePartitions(_, limit) => limit.as_ref(),
        _ => None,
    };
    let Some(MutationLimit { scope, limit, is_strict }) = limit else {
        return decide(shard, node, request, None);
    };
    let windows = shard.quotas.windows();
    let now = shard.clock.mono();
    let mut buckets = controller.mutations.borrow_mut();
    let tokens = Cell::new(buckets.tokens(scope, *limit, &windows, now));
    let mutations = Mutations { tokens: &tokens, is_strict: *is_strict };
    let (records, mut reply) = decide(shard, node, request, Some(mutations));
    let wait = buckets.leave(scope, *limit, tokens.get(), &windows, now);
    let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    match &mut reply {
        ControlReply::CreateTopics(response) => response.throttle_time_ms = wait,
        ControlReply::DeleteTopics(response) => response.throttle_time_ms = wait,
        ControlReply::CreatePartitions(response) => response.throttle_time_ms = wait,
        _ => {}
    }
    (records, reply)
}

fn decide(
    shard: &Shard,
    node: NodeId,
    request: &ControlRequest,
    mutations: Option<Mutations<'_>>,
) -> (Vec<Record>, ControlReply) {
    let image = shard.image.borrow();
    let brokers = shard.brokers.borrow();
    let online = shard.online_log_dirs();
    let log_dirs = (shard.node, &online);
    let (config, defaults) = (&*shard.config, &*shard.topic_defaults());
    let view = decide::Controller { image: &image, brokers: &brokers, config, defaults, log_dirs, mutations };
    let mut new_topic_id = || new_topic_id(&image);
    match request {
        ControlRequest::CreateTopics(request, _) => {
            let (records, response) = decide_create_topics(view, request, &mut new_topic_id);
            (records, ControlReply::CreateTopics(response))
        }
        ControlRequest::DeleteTopics(request, version, _) => {
            let (records, response) = decide_delete_topics(view, request, *version);
            (records, ControlReply::DeleteTopics(response))
        }
        ControlRequest::CreatePartitions(request, _) => {
            let (records, response) = decide_create_partitions(view, request);
            (records, ControlReply::CreatePartitions(response))
        }
        ControlRequest::IncrementalAlterConfigs(request) => {
            let (records, response) = decide_incremental_alter_configs(view, request);
            (records, ControlReply::IncrementalAlterConfigs(response))
        }
        ControlRequest::AlterConfigs(request) => {
            let (records, response) = decide_alter_configs(view, request);
            (records, ControlReply::AlterConfigs(response))
        }
        ControlRequest::ElectLeaders(request) => {
            let (records, response) = decide_elect_leaders(view, request);
            (records, ControlReply::ElectLeaders(response))
        }
        ControlRequest::AlterClientQuotas(request) => {
            let (records, response) = decide_alter_client_quotas(view, request);
            (records, ControlReply::AlterClientQuotas(response))
        }
        ControlRequest::AutoCreate(names) => {
            let (records, errors) = decide_auto_create(view, names, &mut new_topic_id);
            (records, ControlReply::AutoCreate(errors))
        }
        ControlRequest::CreateInternal(state) => {
            let internal = state.topic(&shard.config);
            let (records, errors) = decide_create_internal(view, &internal, &mut new_topic_id);
            (records, ControlReply::AutoCreate(errors))
        }
        ControlRequest::AlterPartitions(asked) => {
            let (records, altered) = decide_alter_partitions(view, asked);
            (records, ControlReply::AlterPartitions(altered))
        }
        ControlRequest::UnregisterBroker(request) => {
            let (records, response) = decide_unregister_broker(view, request);
            (records, ControlReply::UnregisterBroker(response))
        }
        ControlRequest::AlterReassignments(request) => {
            let (records, response) = decide_alter_reassignments(view, request);
            (records, ControlReply::AlterReassignments(response))
        }
        ControlRequest::DescribeQuorum | ControlRequest::AddVoter(_) | ControlRequest::RemoveVoter(_) => {
            unreachable!("the metadata are not changed")
        }
        ControlRequest::AllocateProducerIds => match decide_allocate_producer_ids(&image, node) {
            Ok((records, block)) => (records, ControlReply::ProducerIds(block)),
            Err(error) => {
                tracing::error!(%error, "no producer ids are left");
                (Vec::new(), ControlReply::Failed(ErrorCode::UnknownServerError))
            }
        },
    }
}

/// Random, never the nil id nor one in use.
fn new_topic_id(image: &crate::cluster::image::Image) -> TopicId {
    loop {
        let id = TopicId(Uuid::new_v4());
        if id != TopicId::ZERO && image.topic(id).is_none() {
            return id;
        }
    }
}
