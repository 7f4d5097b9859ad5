//! AddRaftVoter (80), RemoveRaftVoter (81), DescribeQuorum (55), DescribeCluster (60), UnregisterBroker (64),
//! DescribeConfigs (32), AlterConfigs (33), IncrementalAlterConfigs (44), ListConfigResources (74).

use crate::cluster::describe;
use crate::cluster::describe::ConfigView;
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, AlterConfigsRequest, AlterConfigsResponse,
    DescribeClusterRequest, DescribeClusterResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    DescribeQuorumRequest, DescribeQuorumResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, ListConfigResourcesRequest, ListConfigResourcesResponse,
    RemoveRaftVoterRequest, RemoveRaftVoterResponse, UnregisterBrokerRequest, UnregisterBrokerResponse,
    alter_configs_response, incremental_alter_configs_response,
};
use std::rc::Rc;

pub fn describe_cluster(
    shard: &Shard,
    request: &DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    let (image, brokers) = (shard.image.borrow(), shard.brokers.borrow());
    describe::describe_cluster(&image, &brokers, request, version)
}

pub async fn describe_quorum(
    shard: &Rc<Shard>,
    request: &DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    let state = match shard.control(ControlRequest::DescribeQuorum).await {
        ControlReply::Quorum(state) => Some(state),
        _ => None,
    };
    let image = shard.image.borrow();
    describe::describe_quorum(&image, state.as_ref(), request, version)
}

pub async fn add_voter(shard: &Rc<Shard>, request: AddRaftVoterRequest) -> AddRaftVoterResponse {
    match shard.control(ControlRequest::AddVoter(request)).await {
        ControlReply::AddVoter(response) => response,
        ControlReply::Failed(error) => AddRaftVoterResponse::default().with_error_code(error.code()),
        _ => unreachable!("a vote is answered by a vote"),
    }
}

pub async fn remove_voter(shard: &Rc<Shard>, request: RemoveRaftVoterRequest) -> RemoveRaftVoterResponse {
    match shard.control(ControlRequest::RemoveVoter(request)).await {
        ControlReply::RemoveVoter(response) => response,
        ControlReply::Failed(error) => RemoveRaftVoterResponse::default().with_error_code(error.code()),
        _ => unreachable!("a vote is answered by a vote"),
    }
}

pub async fn unregister_broker(
    shard: &Rc<Shard>,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    match shard.control(ControlRequest::UnregisterBroker(request)).await {
        ControlReply::UnregisterBroker(response) => response,
        ControlReply::Failed(error) => UnregisterBrokerResponse::default().with_error_code(error.code()),
        _ => unreachable!("a broker is answered by a broker"),
    }
}

pub fn describe_configs(shard: &Shard, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let (image, brokers) = (shard.image.borrow(), shard.brokers.borrow());
    let view = ConfigView {
        image: &image,
        brokers: &brokers,
        defaults: &shard.topic_defaults(),
        node: shard.node,
        started: &shard.config,
        effective: &shard.settings(),
    };
    describe::describe_configs(view, request)
}

pub fn list_config_resources(
    shard: &Shard,
    request: &ListConfigResourcesRequest,
    version: i16,
) -> ListConfigResourcesResponse {
    let (image, brokers) = (shard.image.borrow(), shard.brokers.borrow());
    describe::list_config_resources(&image, &brokers, request, version)
}

pub async fn incremental_alter_configs(
    shard: &Rc<Shard>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let resources = request.resources.iter();
    let asked: Vec<_> = resources.map(|it| (it.resource_type, it.resource_name.clone())).collect();
    match shard.control(ControlRequest::IncrementalAlterConfigs(request)).await {
        ControlReply::IncrementalAlterConfigs(response) => response,
        ControlReply::Failed(error) => {
            let failed = |(resource_type, name)| {
                incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                    .with_error_code(error.code())
                    .with_resource_type(resource_type)
                    .with_resource_name(name)
            };
            IncrementalAlterConfigsResponse::default().with_responses(asked.into_iter().map(failed).collect())
        }
        _ => unreachable!("an alteration is answered as such"),
    }
}

pub async fn alter_configs(shard: &Rc<Shard>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let resources = request.resources.iter();
    let asked: Vec<_> = resources.map(|it| (it.resource_type, it.resource_name.clone())).collect();
    match shard.control(ControlRequest::AlterConfigs(request)).await {
        ControlReply::AlterConfigs(response) => response,
        ControlReply::Failed(error) => {
            let failed = |(resource_type, name)| {
                alter_configs_response::AlterConfigsResourceResponse::default()
                    .with_error_code(error.code())
                    .with_resource_type(resource_type)
                    .with_resource_name(name)
            };
            AlterConfigsResponse::default().with_responses(asked.into_iter().map(failed).collect())
        }
        _ => unreachable!("an alteration is answered as such"),
    }
}
