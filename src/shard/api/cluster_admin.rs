//! DescribeCluster (60), DescribeConfigs (32), IncrementalAlterConfigs (44).

use crate::cluster::describe;
use crate::cluster::describe::{BrokerProperty, ConfigView};
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeClusterResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
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
    let broker_properties: Vec<BrokerProperty> =
        shard.config.entries().iter().map(BrokerProperty::from).collect();
    let view = ConfigView {
        image: &image,
        brokers: &brokers,
        defaults: &shard.topic_defaults,
        node: shard.node,
        broker_properties: &broker_properties,
    };
    describe::describe_configs(view, request)
}

pub async fn alter_configs(
    shard: &Rc<Shard>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let asked: Vec<_> = request
        .resources
        .iter()
        .map(|resource| (resource.resource_type, resource.resource_name.clone()))
        .collect();
    match shard.control(ControlRequest::IncrementalAlterConfigs(request)).await {
        ControlReply::IncrementalAlterConfigs(response) => response,
        ControlReply::Failed(error) => {
            let failed = |(resource_type, name)| {
                AlterConfigsResourceResponse::default()
                    .with_error_code(error.code())
                    .with_resource_type(resource_type)
                    .with_resource_name(name)
            };
            IncrementalAlterConfigsResponse::default().with_responses(asked.into_iter().map(failed).collect())
        }
        _ => unreachable!("an alteration is answered as such"),
    }
}
