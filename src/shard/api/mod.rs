//! One thin handler per API key: decode, ask whoever decides, encode.
//!
//! Produce runs in the reader's turn, in place, so that requests of a connection are appended in
//! the order of their arrival. Everything else runs as its own task; answers keep their order.

pub(super) mod by_owner;
mod client_quotas;
mod cluster_admin;
pub(super) mod delete_records;
pub(super) mod describe_log_dirs;
pub(super) mod describe_producers;
pub(super) mod fetch;
mod find_coordinator;
mod groups;
pub(super) mod list_offsets;
pub(super) mod offset_for_leader_epoch;
pub(super) mod produce;
mod telemetry;
mod topics;
mod transactions;
mod write_txn_markers;

use crate::cluster::describe::ResourceType;
use crate::cluster::image::Image;
use crate::codec::api::request::{Request, check_request, decode_checked};
use crate::codec::api::response::{EncodeError, write_response};
use crate::codec::api::throttle::set_throttle_time;
use crate::codec::api::versions::{
    Admission, ApiKey, api_versions_fallback, api_versions_response, is_client_software,
};
use crate::codec::error_code::ErrorCode;
use crate::codec::frame::RequestHeader;
use crate::shard::Shard;
use crate::shard::api::groups::Asking;
use crate::shard::conn::{AnswerTicket, CloseReason, Connection, FetchingAnswer, MakingAnswer, clipped};
use crate::shard::quotas::Charged;
use crate::shard::request_memory::RequestCharge;
use crate::shard::response::Response;
use crate::types::TopicId;
use bytes::Bytes;
use futures::future::select;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::Encodable;
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;

/// What an answer needs of its request.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext {
    pub api_key: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
}

impl RequestContext {
    pub fn new(header: &RequestHeader<'_>) -> RequestContext {
        RequestContext {
            api_key: header.api_key,
            version: header.api_version,
            correlation_id: header.correlation_id,
        }
    }

    /// Encodes a library message as the answer.
    pub fn encode<M: Encodable>(&self, message: &M) -> Result<Response, EncodeError> {
        let mut out = Vec::with_capacity(256);
        write_response(self.api_key, self.version, self.correlation_id, message, &mut out)?;
        Ok(Response::new(out))
    }
}

/// Whose request it is.
pub struct Caller {
    /// Of JoinGroup, which alone keeps it.
    pub client_id: Option<String>,
    /// What it counts for; `None` while there are no quotas.
    pub charged: Option<Rc<Charged>>,
}

/// Starts serving one request. Its answer goes to `ticket`, now or later.
pub async fn dispatch(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    ticket: AnswerTicket,
    (context, caller): (RequestContext, Caller),
    body: &mut [u8],
) -> Result<(), CloseReason> {
    let RequestContext { api_key, version, .. } = context;
    match api_key.admit(version) {
        Admission::Serve => {}
        Admission::AnswerFallback => {
            let context = RequestContext { version: 0, ..context };
            let response = context.encode(&api_versions_fallback())?;
            connection.complete(ticket, Some(response));
            return Ok(());
        }
        Admission::Close => {
            return Err(CloseReason::UnsupportedRequest { api: api_key.name(), api_version: version });
        }
    }
    if api_key == ApiKey::Produce {
        return match caller.charged {
            None => produce::handle(shard, connection, (ticket, None), context, body).await,
            Some(charged) => {
                let produced = produce::handle(shard, connection, (ticket, Some(&charged)), context, body);
                charged.timed(produced).await
            }
        };
    }
    let checked = check_request(api_key, version, body)?;
    let Some(memory) = take_memory(shard, connection, checked.memory_size()).await else { return Ok(()) };
    let request_size = checked.size(); // What is behind it is ignored.
    let request = decode_checked(checked, Bytes::copy_from_slice(&body[..request_size]))?;
    let (serving, connection) = (shard.clone(), connection.clone());
    let making = match &request {
        Request::Fetch(request) => {
            Making::Fetch(connection.fetching_answer(fetch::answer_size_max(shard, request)))
        }
        request => {
            let size = answer_size(&shard.image.borrow(), request, request_size);
            Making::Other(connection.making_answer(size))
        }
    };
    // A member of a group waits for the others, who may need the memory: the group keeps what it needs.
    let (memory_size, held) = match &request {
        Request::JoinGroup(_) | Request::SyncGroup(_) => (0, None),
        _ => (memory.size(), Some((making, memory))),
    };
    shard.spawn(async move {
        let Caller { client_id, charged } = caller;
        let asked = Asked { context, client_id, charged: charged.as_deref(), memory_size };
        let answering = answer(&serving, &connection, asked, request);
        let answered = match &charged {
            None => answering.await,
            Some(charged) => {
                charged.timed(answering).await.map(|response| throttled(context, charged, response))
            }
        };
        match answered {
            Ok(response) => connection.complete(ticket, Some(response)),
            Err(error) => connection.close(&CloseReason::Encode(error)),
        }
        drop(held); // The answer counts itself now.
    });
    // One of a connection, then one of each other.
    glommio::executor().yield_now().await;
    Ok(())
}

/// Counts the time that a request has taken, and tells its client for how long it is not read. A fetch has counted
/// already.
fn throttled(context: RequestContext, charged: &Charged, mut response: Response) -> Response {
    if context.api_key == ApiKey::Fetch {
        return response;
    }
    charged.record_time();
    if charged.throttle_ms() > 0 {
        set_throttle_time(context.api_key, context.version, response.head_mut(), charged.throttle_ms());
    }
    response
}

/// An answer that is being made, as it counts for its connection.
enum Making {
    Fetch(#[expect(dead_code, reason = "counts until it is dropped")] FetchingAnswer),
    Other(#[expect(dead_code, reason = "counts until it is dropped")] MakingAnswer),
}

/// Waits until a request may be decoded. `None` if its connection ended meanwhile.
async fn take_memory(shard: &Shard, connection: &Connection, size: usize) -> Option<RequestCharge> {
    let mut has_waited = false;
    while !connection.is_closed() {
        if let Some(memory) = shard.request_memory.try_take(size, &connection.requests_counted) {
            return Some(memory);
        }
        if !std::mem::replace(&mut has_waited, true) {
            shard.metrics.borrow_mut().memory_waits += 1;
        }
        let _wanted = shard.request_memory.want(size);
        shard.hurry_oldest_fetches();
        shard.stores.pump();
        let (freed, ended) = (pin!(shard.request_memory.freed()), pin!(connection.drained_or_ended()));
        select(freed, ended).await;
    }
    None
}

/// About how many bytes an answer takes; what it says of partitions and settings is many times its
/// request.
fn answer_size(image: &Image, request: &Request, request_size: usize) -> usize {
    const PARTITION: usize = 40;
    const TOPIC: usize = 300;
    const CONFIGS: usize = 8 << 10;
    const GROUP_CONFIGS: usize = 2 << 10;
    const GROUP_TYPE: i8 = ResourceType::Group as i8;
    const REFUSAL: usize = 200;
    /// Of one entity, its names apart.
    const QUOTAS: usize = 120;
    /// Of a dozen members or so; what a group is like is known where it is coordinated.
    const GROUP: usize = 4 << 10;
    /// Of a few partitions.
    const TRANSACTION: usize = 400;
    /// More is rarely there, and counts once the answer is made.
    const GROUPS_MAX: usize = 4 << 20;
    let of_request = 2 * request_size + 1024;
    match request {
        Request::Metadata(request) => {
            let size = |partitions: usize| TOPIC + partitions * PARTITION;
            let all = || image.topics().map(|topic| size(topic.partitions.len())).sum::<usize>();
            let named = |topics: &[MetadataRequestTopic]| {
                let known = topics.iter().map(|topic| match &topic.name {
                    Some(name) => image.topic_named(name.as_str()),
                    None => image.topic(TopicId(topic.topic_id)),
                });
                known.map(|topic| size(topic.map_or(0, |topic| topic.partitions.len()))).sum::<usize>()
            };
            // Each topic is described once.
            let is_few = |topics: &&[_]| !topics.is_empty() && topics.len() <= image.topics().len();
            of_request + request.topics.as_deref().filter(is_few).map_or_else(all, named)
        }
        Request::DescribeConfigs(request) => {
            let named = request.resources.iter().map(|named| (named.resource_type, &named.resource_name));
            // Each is described once; groups need not be there for it.
            let (groups, others): (BTreeSet<_>, BTreeSet<_>) = named.partition(|it| it.0 == GROUP_TYPE);
            let brokers: usize = image.nodes().map(|node| 1 + usize::from(node.cores)).sum();
            let subscriptions = image.subscriptions().count();
            let known = others.len().min(image.topics().len() + brokers + subscriptions);
            of_request + others.len() * REFUSAL + known * CONFIGS + groups.len() * GROUP_CONFIGS
        }
        Request::OffsetFetch(request) => {
            let all = match &request.groups[..] {
                [] => usize::from(request.topics.is_none()),
                groups => groups.iter().filter(|group| group.topics.is_none()).count(),
            };
            let partitions = || image.topics().map(|topic| topic.partitions.len()).sum::<usize>();
            let each = if all == 0 { 0 } else { partitions() * PARTITION };
            of_request + all.saturating_mul(each).min(GROUPS_MAX)
        }
        Request::DescribeTopicPartitions(request) => {
            let asked = usize::try_from(request.response_partition_limit).unwrap_or_default();
            of_request
                + asked.min(image.partition_count()) * PARTITION
                + image.topics().len().min(asked) * TOPIC
        }
        Request::DescribeLogDirs(_) => of_request + image.partition_count() * PARTITION,
        Request::ListConfigResources(_) => {
            let named = image.subscriptions().chain(image.group_configs());
            let names: usize = named.map(|(name, _)| name.len() + PARTITION).sum();
            of_request + image.topics().len() * TOPIC + names
        }
        Request::DescribeClientQuotas(_) => {
            of_request + image.quotas().iter().len() * QUOTAS + image.quotas().names_size()
        }
        Request::ElectLeaders(request) if request.topic_partitions.is_none() => {
            of_request + image.topics().len() * TOPIC
        }
        Request::ListPartitionReassignments(_) => of_request + image.partition_count() * PARTITION,
        Request::DescribeGroups(request) => of_request + (request.groups.len() * GROUP).min(GROUPS_MAX),
        Request::ConsumerGroupDescribe(request) => {
            of_request + (request.group_ids.len() * GROUP).min(GROUPS_MAX)
        }
        Request::ListGroups(_) | Request::ListTransactions(_) => of_request + GROUP,
        Request::DescribeTransactions(request) => {
            of_request + (request.transactional_ids.len() * TRANSACTION).min(GROUPS_MAX)
        }
        _ => of_request,
    }
}

/// What a handler is to know beside the request.
struct Asked<'a> {
    context: RequestContext,
    client_id: Option<String>,
    charged: Option<&'a Charged>,
    /// Bytes of request memory that are held for it.
    memory_size: usize,
}

async fn answer(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    Asked { context, client_id, charged, memory_size }: Asked<'_>,
    request: Request,
) -> Result<Response, EncodeError> {
    let asking = Asking { shard, connection, version: context.version, client_id };
    match request {
        Request::Fetch(request) => {
            fetch::answer(shard, connection, (context, charged), request, memory_size).await
        }
        Request::ListOffsets(request) => {
            context.encode(&list_offsets::answer(shard, connection, request, context.version).await)
        }
        Request::OffsetForLeaderEpoch(request) => {
            context.encode(&offset_for_leader_epoch::answer(shard, connection, request).await)
        }
        Request::DeleteRecords(request) => {
            context.encode(&delete_records::answer(shard, connection, request).await)
        }
        Request::WriteTxnMarkers(request) => {
            context.encode(&write_txn_markers::answer(shard, connection, request).await)
        }
        Request::DescribeProducers(request) => {
            context.encode(&describe_producers::answer(shard, connection, request).await)
        }
        Request::InitProducerId(request) => context.encode(&transactions::init(&asking, request).await),
        Request::AddPartitionsToTxn(request) => {
            context.encode(&transactions::add_partitions(&asking, request).await)
        }
        Request::AddOffsetsToTxn(request) => {
            context.encode(&transactions::add_offsets(&asking, request).await)
        }
        Request::EndTxn(request) => context.encode(&transactions::end(&asking, request).await),
        Request::DescribeTransactions(request) => {
            context.encode(&transactions::describe(&asking, request).await)
        }
        Request::ListTransactions(request) => context.encode(&transactions::list(&asking, request).await),
        Request::ApiVersions(request) => context.encode(&api_versions(connection, &request, context.version)),
        Request::Metadata(request) => {
            context.encode(&topics::metadata(shard, request, context.version).await)
        }
        Request::FindCoordinator(request) => {
            context.encode(&find_coordinator::answer(shard, &request, context.version).await)
        }
        Request::JoinGroup(request) => context.encode(&groups::join(&asking, request).await),
        Request::SyncGroup(request) => context.encode(&groups::sync(&asking, request).await),
        Request::Heartbeat(request) => context.encode(&groups::heartbeat(&asking, request).await),
        Request::LeaveGroup(request) => context.encode(&groups::leave(&asking, request).await),
        Request::ConsumerGroupHeartbeat(request) => {
            context.encode(&groups::consumer_heartbeat(&asking, request).await)
        }
        Request::ConsumerGroupDescribe(request) => {
            context.encode(&groups::consumer_describe(&asking, request).await)
        }
        Request::OffsetCommit(request) => context.encode(&groups::commit(&asking, request).await),
        Request::TxnOffsetCommit(request) => {
            context.encode(&groups::commit_in_transaction(&asking, request).await)
        }
        Request::OffsetFetch(request) => context.encode(&groups::fetch(&asking, request).await),
        Request::OffsetDelete(request) => context.encode(&groups::delete_offsets(&asking, request).await),
        Request::DescribeGroups(request) => context.encode(&groups::describe(&asking, request).await),
        Request::ListGroups(request) => context.encode(&groups::list(&asking, request).await),
        Request::DeleteGroups(request) => context.encode(&groups::delete(&asking, request).await),
        Request::CreateTopics(request) => {
            context.encode(&topics::create(shard, charged, request, context.version).await)
        }
        Request::DeleteTopics(request) => {
            context.encode(&topics::delete(shard, charged, request, context.version).await)
        }
        Request::CreatePartitions(request) => {
            context.encode(&topics::create_partitions(shard, charged, request, context.version).await)
        }
        Request::IncrementalAlterConfigs(request) => {
            context.encode(&cluster_admin::incremental_alter_configs(shard, request).await)
        }
        Request::AlterConfigs(request) => context.encode(&cluster_admin::alter_configs(shard, request).await),
        Request::ListConfigResources(request) => {
            context.encode(&cluster_admin::list_config_resources(shard, &request, context.version))
        }
        Request::DescribeLogDirs(request) => {
            context.encode(&describe_log_dirs::answer(shard, connection, request, context.version).await)
        }
        Request::ElectLeaders(request) => {
            context.encode(&topics::elect_leaders(shard, request, context.version).await)
        }
        Request::AlterPartitionReassignments(request) => {
            context.encode(&topics::alter_reassignments(shard, request).await)
        }
        Request::ListPartitionReassignments(request) => {
            context.encode(&topics::list_reassignments(shard, &request))
        }
        Request::DescribeTopicPartitions(request) => context.encode(&topics::describe(shard, &request)),
        Request::DescribeConfigs(request) => {
            context.encode(&cluster_admin::describe_configs(shard, &request))
        }
        Request::DescribeClientQuotas(request) => {
            context.encode(&client_quotas::describe(shard, &request).await)
        }
        Request::AlterClientQuotas(request) => context.encode(&client_quotas::alter(shard, request).await),
        Request::GetTelemetrySubscriptions(request) => {
            context.encode(&telemetry::get(shard, connection, request).await)
        }
        Request::PushTelemetry(request) => context.encode(&telemetry::push(shard, connection, request).await),
        Request::DescribeQuorum(request) => {
            context.encode(&cluster_admin::describe_quorum(shard, &request, context.version).await)
        }
        Request::AddRaftVoter(request) => context.encode(&cluster_admin::add_voter(shard, request).await),
        Request::RemoveRaftVoter(request) => {
            context.encode(&cluster_admin::remove_voter(shard, request).await)
        }
        Request::UnregisterBroker(request) => {
            context.encode(&cluster_admin::unregister_broker(shard, request).await)
        }
        Request::DescribeCluster(request) => {
            context.encode(&cluster_admin::describe_cluster(shard, &request, context.version))
        }
    }
}

fn api_versions(connection: &Connection, request: &ApiVersionsRequest, version: i16) -> ApiVersionsResponse {
    let (name, software_version) = (&request.client_software_name, &request.client_software_version);
    if version < 3 {
        return api_versions_response(version);
    }
    if !is_client_software(name) || !is_client_software(software_version) {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    let mut client = connection.client.borrow_mut();
    client.software_name = Some(clipped(name).to_owned());
    client.software_version = Some(clipped(software_version).to_owned());
    api_versions_response(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node};
    use crate::cluster::record::{ConfigResource, Record};
    use crate::config::Routing;
    use crate::config::quota::{EntityName, QuotaEntity, QuotaKind, QuotaLimit};
    use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
    use kafka_protocol::messages::{
        DescribeClientQuotasRequest, DescribeConfigsRequest, DescribeGroupsRequest, GroupId,
        ListConfigResourcesRequest, OffsetFetchRequest,
    };

    #[test]
    fn groups_count_as_many_times_their_names() {
        let mut image = image_of(&[node(1, 1, Routing::Node)]);
        add_topic(&mut image, 1, "t", &[0; 100]);
        let all = OffsetFetchRequest::default().with_topics(None);
        let some = OffsetFetchRequest::default().with_topics(Some(Vec::new()));
        let fetch_size = |request| answer_size(&image, &Request::OffsetFetch(request), 100);
        assert!(fetch_size(all) >= fetch_size(some) + 100 * 40);
        let describe_size = |count: usize| {
            let request = DescribeGroupsRequest::default().with_groups(vec![GroupId::default(); count]);
            answer_size(&image, &Request::DescribeGroups(request), 100)
        };
        assert!(describe_size(2) >= describe_size(1) + (4 << 10));
        assert!(describe_size(200_000) <= 5 << 20);
    }

    #[test]
    fn quotas_and_subscriptions_count_with_their_names() {
        let mut image = image_of(&[node(1, 1, Routing::Node)]);
        let quotas = || Request::DescribeClientQuotas(DescribeClientQuotasRequest::default());
        let list = || Request::ListConfigResources(ListConfigResourcesRequest::default());
        let before = (answer_size(&image, &quotas(), 100), answer_size(&image, &list(), 100));
        let long = |number: u32| format!("{number:0>1000}");
        let quota = |number, limit| Record::ClientQuotaSet {
            entity: QuotaEntity { user: Some(EntityName::Named(long(number))), client_id: None },
            kind: QuotaKind::ProducerByteRate,
            limit: QuotaLimit::new(limit),
        };
        for number in 0..10 {
            let subscription = Record::ConfigSet {
                resource: ConfigResource::ClientMetrics(long(number)),
                key: "metrics".to_owned(),
                value: Some("*".to_owned()),
            };
            // Twice, as it is changed.
            for record in [quota(number, 1.0), quota(number, 2.0), subscription] {
                image.apply(&record).expect("it fits any");
            }
        }
        let after = (answer_size(&image, &quotas(), 100), answer_size(&image, &list(), 100));
        assert!((10_000..15_000).contains(&(after.0 - before.0)), "{before:?} {after:?}");
        assert!((10_000..15_000).contains(&(after.1 - before.1)), "{before:?} {after:?}");
        (0..10).for_each(|number| image.apply(&quota(number, 0.0)).expect("it fits any"));
        assert_eq!(answer_size(&image, &quotas(), 100), before.0);
    }

    #[test]
    fn settings_count_once_for_what_has_any() {
        let mut image = image_of(&[node(1, 1, Routing::Node)]);
        add_topic(&mut image, 1, "t", &[0]);
        let size = |names: Vec<String>| {
            let resource = |name: String| {
                DescribeConfigsResource::default().with_resource_type(2).with_resource_name(name.into())
            };
            let resources = names.into_iter().map(resource).collect();
            let request = DescribeConfigsRequest::default().with_resources(resources);
            answer_size(&image, &Request::DescribeConfigs(request), 100)
        };
        let one = size(vec!["t".to_owned()]);
        assert!(one > 8 << 10);
        assert_eq!(size(vec!["t".to_owned(); 10_000]), one);
        let unknown = size((0..10_000).map(|number| number.to_string()).collect());
        assert!(unknown < one + 10_000 * 400, "{unknown}");
    }
}
