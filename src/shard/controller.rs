//! Metadata changes, one after the other, on shard 0: decide, log, flush, apply everywhere, answer.
//!
//! The decisions are `cluster::decide`'s. Every shard has applied a change before it is answered, so
//! that a client which was told of a topic finds it on whichever core it connects to next.

use crate::cluster::decide::{
    self, InternalTopic, Mutations, decide_allocate_producer_ids, decide_alter_client_quotas,
    decide_alter_configs, decide_auto_create, decide_create_internal, decide_create_partitions,
    decide_create_topics, decide_delete_topics, decide_elect_leaders, decide_incremental_alter_configs,
};
use crate::cluster::placement::DirectoryChoice;
use crate::cluster::record::{ProducerIdBlock, Record};
use crate::codec::error_code::ErrorCode;
use crate::config::Config;
use crate::config::quota::{QuotaLimit, QuotaScope};
use crate::group::GROUPS_TOPIC;
use crate::quota::bucket::Buckets;
use crate::shard::disk::blocking;
use crate::shard::message::{Reply, Request};
use crate::shard::metadata_log::{MetadataLog, MetadataLogError};
use crate::shard::{Shard, partitions};
use crate::txn::TRANSACTIONS_TOPIC;
use crate::types::limits::GROUP_TOPIC_BATCH_SIZE;
use crate::types::{LogDirIndex, ShardId, TopicId, Uuid};
use glommio::sync::Semaphore;
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, AlterConfigsRequest, AlterConfigsResponse,
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, ElectLeadersRequest, ElectLeadersResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, TopicName,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

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
                segment_bytes: config.offsets_topic_segment_bytes,
                // No more than what a client may ask for, which all memory is laid out for.
                batch_bytes_max: Some(
                    GROUP_TOPIC_BATCH_SIZE.max(config.message_max_bytes).min(config.socket_request_max_bytes),
                ),
            },
            InternalState::Transactions => InternalTopic {
                name,
                partitions: config.transaction_state_log_num_partitions,
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
    /// Nothing was changed.
    Failed(ErrorCode),
}

/// Lives: on shard 0.
pub struct Controller {
    /// Taken out while an entry is written; lost for good when that failed, but not for want of
    /// space.
    log: RefCell<Option<MetadataLog>>,
    /// One change at a time: the next decision sees this one applied.
    turn: Semaphore,
    /// What limited clients may change.
    mutations: RefCell<Buckets>,
}

impl Controller {
    pub fn new(log: MetadataLog) -> Rc<Controller> {
        Rc::new(Controller {
            log: RefCell::new(Some(log)),
            turn: Semaphore::new(1),
            mutations: RefCell::default(),
        })
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

/// Carries out one request, after those before it.
pub async fn execute(shard: &Rc<Shard>, request: ControlRequest) -> ControlReply {
    let Some(controller) = shard.controller.get().cloned() else {
        return ControlReply::Failed(ErrorCode::NotController); // Still starting.
    };
    let Ok(_turn) = controller.turn.acquire_permit(1).await else {
        return ControlReply::Failed(ErrorCode::NotController);
    };
    let (records, reply) = decide_limited(shard, &controller, &request);
    if records.is_empty() {
        return reply;
    }
    match commit(shard, &controller, records).await {
        Ok(()) => reply,
        Err(error) if !error.is_final() => {
            tracing::warn!(%error, "a change of the metadata was refused");
            ControlReply::Failed(ErrorCode::KafkaStorageError)
        }
        Err(error) => {
            tracing::error!(%error, "a change of the metadata failed");
            shard.stores.get(LogDirIndex::METADATA).fail(&error.to_string());
            ControlReply::Failed(ErrorCode::KafkaStorageError)
        }
    }
}

/// Decides, and counts what a limited client has changed.
fn decide_limited(
    shard: &Shard,
    controller: &Controller,
    request: &ControlRequest,
) -> (Vec<Record>, ControlReply) {
    let limit = match request {
        ControlRequest::CreateTopics(_, limit)
        | ControlRequest::DeleteTopics(_, _, limit)
        | ControlRequest::CreatePartitions(_, limit) => limit.as_ref(),
        _ => None,
    };
    let Some(MutationLimit { scope, limit, is_strict }) = limit else { return decide(shard, request, None) };
    let windows = shard.quotas.windows();
    let now = shard.clock.mono();
    let mut buckets = controller.mutations.borrow_mut();
    let tokens = Cell::new(buckets.tokens(scope, *limit, &windows, now));
    let mutations = Mutations { tokens: &tokens, is_strict: *is_strict };
    let (records, mut reply) = decide(shard, request, Some(mutations));
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
        ControlRequest::AllocateProducerIds => match decide_allocate_producer_ids(&image, shard.node) {
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

/// Makes records durable, then applies them on every shard.
async fn commit(
    shard: &Rc<Shard>,
    controller: &Controller,
    records: Vec<Record>,
) -> Result<(), MetadataLogError> {
    let log = controller.log.borrow_mut().take();
    let Some(mut log) = log else {
        return Err(MetadataLogError::Unusable);
    };
    let records: Arc<[Record]> = records.into();
    let written = records.clone();
    let (log, result) = blocking(move || {
        let result = log.append(&written);
        (log, result)
    })
    .await;
    if result.as_ref().map_or_else(|error| !error.is_final(), |()| true) {
        *controller.log.borrow_mut() = Some(log);
    }
    result?;
    let mut tickets = Vec::new();
    for to in (0..shard.mesh.shard_count()).map(|at| ShardId(at as u16)).filter(|to| *to != shard.id) {
        tickets.push(shard.mesh.ask(to, Request::Apply(records.clone())).await);
    }
    let changes = partitions::apply(shard, &records);
    partitions::carry_out(shard, changes).await;
    for ticket in tickets {
        shard.mesh.reply(ticket).await;
    }
    Ok(())
}
