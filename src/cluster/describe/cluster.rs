//! DescribeCluster (KIP-700, KIP-919).

use kafka_protocol::messages::describe_cluster_request::DescribeClusterRequest;
use kafka_protocol::messages::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::operations;
use crate::cluster::brokers::{Broker, Brokers};
use crate::cluster::image::Image;
use crate::cluster::wire_text::{self, cluster_id_text};
use crate::codec::error_code::ErrorCode;

/// Endpoint types on the wire. Controllers have no endpoint of their own here.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// Answers DescribeCluster 0 to 2.
pub fn describe_cluster(
    image: &Image,
    brokers: &Brokers,
    request: &DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    if version >= 1 && request.endpoint_type != BROKERS {
        return refused(request.endpoint_type);
    }
    let operations = match request.include_cluster_authorized_operations {
        true => operations::CLUSTER,
        false => i32::MIN,
    };
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_cluster_id(image.cluster_id().map(cluster_id_text).unwrap_or_default().into())
        .with_controller_id(brokers.controller().map_or(-1, |id| id.0).into())
        .with_brokers(brokers.iter().map(broker).collect())
        .with_cluster_authorized_operations(operations)
}

fn broker(broker: &Broker) -> DescribeClusterBroker {
    DescribeClusterBroker::default()
        .with_broker_id(broker.id.0.into())
        .with_host(broker.host.clone().into())
        .with_port(i32::from(broker.port))
        .with_rack(broker.rack.clone().map(StrBytes::from_string))
}

fn refused(endpoint_type: i8) -> DescribeClusterResponse {
    let (code, message) = match endpoint_type {
        CONTROLLERS => (
            ErrorCode::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
                .to_owned(),
        ),
        _ => (ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {endpoint_type}")),
    };
    DescribeClusterResponse::default()
        .with_error_code(code.code())
        .with_error_message(wire_text::error_message(&message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node};
    use crate::config::Routing;
    use crate::types::NodeId;
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    fn describe(request: DescribeClusterRequest, version: i16) -> DescribeClusterResponse {
        let image = image_of(&[node(1, 2, Routing::Core)]);
        let response = describe_cluster(&image, &Brokers::new(&image, NodeId(1)), &request, version);
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, version).expect("encodes");
        DescribeClusterResponse::decode(&mut bytes.freeze(), version).expect("decodes")
    }

    #[test]
    fn cluster_is_described_in_every_version() {
        for version in 0..=2 {
            let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
            let response = describe(request, version);
            assert_eq!(response.error_code, 0);
            assert_eq!(response.cluster_id.as_str(), "AAAAAAAAAAAAAAAAAAAADA");
            assert_eq!(response.controller_id.0, 1000);
            assert_eq!(response.brokers.len(), 2);
            assert_eq!(response.cluster_authorized_operations, 8096);
        }
    }

    #[test]
    fn other_endpoints_are_refused() {
        let response = describe(DescribeClusterRequest::default().with_endpoint_type(2), 1);
        assert_eq!(response.error_code, ErrorCode::MismatchedEndpointType.code());
        let response = describe(DescribeClusterRequest::default().with_endpoint_type(9), 2);
        assert_eq!(response.error_code, ErrorCode::UnsupportedEndpointType.code());
    }
}
