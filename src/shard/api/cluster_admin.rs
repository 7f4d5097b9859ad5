//! DescribeCluster (60), DescribeConfigs (32), AlterConfigs (33), IncrementalAlterConfigs (44),
//! ListConfigResources (74).

use crate::cluster::describe;
use crate::cluster::describe::ConfigView;
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeClusterRequest, DescribeClusterResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, ListConfigResourcesRequest, ListConfigResourcesResponse,
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
