//! DescribeCluster (KIP-700, KIP-919, KIP-1073).

use kafka_protocol::messages::describe_cluster_request::DescribeClusterRequest;
use kafka_protocol::messages::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::operations;
use crate::cluster::brokers::{Broker, Brokers};
use crate::cluster::image::Image;
use crate::cluster::record::Node;
use crate::cluster::wire_text::{self, cluster_id_text};
use crate::codec::error_code::ErrorCode;
use crate::types::{BrokerEpoch, NodeId};
use std::collections::BTreeMap;

/// Endpoint types on the wire. Controllers have no endpoint of their own here.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// What Kafka has no field for, in a tagged field of a broker that others pass over: told to who asks for fenced
/// brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerLifecycle {
    pub broker_epoch: BrokerEpoch,
    pub is_shutting_down: bool,
}

impl BrokerLifecycle {
    /// Far from what Kafka gives out.
    const TAG: i32 = 10_000;
    /// Bytes: the epoch, and 1 of a node that is about to stop.
    const SIZE: usize = 9;

    fn of(node: &Node) -> BrokerLifecycle {
        BrokerLifecycle { broker_epoch: node.broker_epoch, is_shutting_down: node.is_shutting_down }
    }

    fn tag(self, mut broker: DescribeClusterBroker) -> DescribeClusterBroker {
        let mut value = Vec::with_capacity(Self::SIZE);
        value.extend(self.broker_epoch.0.to_be_bytes());
        value.push(self.is_shutting_down.into());
        broker.unknown_tagged_fields.insert(Self::TAG, value.into());
        broker
    }

    /// `None` of another broker than ours.
    pub fn told(broker: &DescribeClusterBroker) -> Option<BrokerLifecycle> {
        let value: &[u8; Self::SIZE] = broker.unknown_tagged_fields.get(&Self::TAG)?[..].try_into().ok()?;
        let (epoch, state) = value.split_last_chunk::<1>().map(|(epoch, state)| (epoch, state[0]))?;
        let broker_epoch = BrokerEpoch(i64::from_be_bytes(epoch.try_into().ok()?));
        Some(BrokerLifecycle { broker_epoch, is_shutting_down: state == 1 })
    }
}

/// Another such field: the node behind a broker, and how many partitions each of the broker's cores leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerCores {
    pub node: NodeId,
    /// Under `core` routing of the one that the broker is.
    pub leaders: Vec<u32>,
}

impl BrokerCores {
    const TAG: i32 = BrokerLifecycle::TAG + 1;
    const NUMBER_SIZE: usize = size_of::<u32>();

    /// O(partitions).
    fn of_all(image: &Image) -> BTreeMap<NodeId, Vec<u32>> {
        let none = |node: &Node| (node.id, vec![0; usize::from(node.cores)]);
        let mut leaders: BTreeMap<NodeId, Vec<u32>> = image.nodes().map(none).collect();
        for (_, state) in image.partitions() {
            let Some(leader) = state.leader else { continue };
            let owner = state.led_on(leader).map(|owner| usize::from(owner.0));
            // One that a core has which the node has not any more moves at its next start.
            let cores = leaders.get_mut(&leader);
            if let Some(count) = cores.zip(owner).and_then(|(cores, owner)| cores.get_mut(owner)) {
                *count += 1;
            }
        }
        leaders
    }

    fn tag(&self, mut broker: DescribeClusterBroker) -> DescribeClusterBroker {
        let numbers = std::iter::once(self.node.0 as u32).chain(self.leaders.iter().copied());
        let value: Vec<u8> = numbers.flat_map(u32::to_be_bytes).collect();
        broker.unknown_tagged_fields.insert(Self::TAG, value.into());
        broker
    }

    /// `None` of another broker than ours, or of one of a build before this field.
    pub fn told(broker: &DescribeClusterBroker) -> Option<BrokerCores> {
        let (numbers, []) =
            broker.unknown_tagged_fields.get(&Self::TAG)?.as_chunks::<{ Self::NUMBER_SIZE }>()
        else {
            return None;
        };
        let (node, leaders) = numbers.split_first()?;
        let leaders = leaders.iter().map(|count| u32::from_be_bytes(*count)).collect();
        Some(BrokerCores { node: NodeId(i32::from_be_bytes(*node)), leaders })
    }
}

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
    let wants_fenced = version >= 2 && request.include_fenced_brokers;
    let wanted = brokers.iter().filter(|broker| wants_fenced || !broker.is_fenced);
    let leaders = if wants_fenced { BrokerCores::of_all(image) } else { BTreeMap::new() };
    let described = wanted.map(|wanted| match (image.node(wanted.node), leaders.get(&wanted.node)) {
        (Some(node), Some(leaders)) => {
            let only = brokers.resolve(wanted.id).and_then(|(_, shard)| shard);
            let leaders = match only {
                Some(shard) => leaders.get(usize::from(shard.0)).copied().into_iter().collect(),
                None => leaders.clone(),
            };
            let cores = BrokerCores { node: wanted.node, leaders };
            cores.tag(BrokerLifecycle::of(node).tag(broker(wanted)))
        }
        _ => broker(wanted),
    });
    let operations = match request.include_cluster_authorized_operations {
        true => operations::CLUSTER,
        false => i32::MIN,
    };
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_cluster_id(image.cluster_id().map(cluster_id_text).unwrap_or_default().into())
        .with_controller_id(brokers.controller().map_or(-1, |id| id.0).into())
        .with_brokers(described.collect())
        .with_cluster_authorized_operations(operations)
}

fn broker(broker: &Broker) -> DescribeClusterBroker {
    DescribeClusterBroker::default()
        .with_broker_id(broker.id.0.into())
        .with_host(broker.host.clone().into())
        .with_port(i32::from(broker.port))
        .with_rack(broker.rack.clone().map(StrBytes::from_string))
        .with_is_fenced(broker.is_fenced)
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
    use crate::cluster::image::tests::{add_topic, image_of, node};
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

    /// As a client of version 2 has it.
    fn decoded(image: &Image, include_fenced_brokers: bool) -> DescribeClusterResponse {
        let request = DescribeClusterRequest::default().with_include_fenced_brokers(include_fenced_brokers);
        let response = describe_cluster(image, &Brokers::new(image, NodeId(1)), &request, 2);
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, 2).expect("encodes");
        DescribeClusterResponse::decode(&mut bytes.freeze(), 2).expect("decodes")
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
    fn fenced_brokers_are_described_to_who_asks_for_them() {
        let fenced = Node { is_fenced: true, ..node(2, 1, Routing::Node) };
        let image = image_of(&[node(1, 1, Routing::Node), fenced]);
        let described = |version: i16, include_fenced_brokers: bool| {
            let request =
                DescribeClusterRequest::default().with_include_fenced_brokers(include_fenced_brokers);
            let response = describe_cluster(&image, &Brokers::new(&image, NodeId(1)), &request, version);
            let each = response.brokers.iter().map(|broker| (broker.broker_id.0, broker.is_fenced));
            each.collect::<Vec<_>>()
        };
        assert_eq!(described(1, true), [(1, false)]);
        assert_eq!(described(2, false), [(1, false)]);
        assert_eq!(described(2, true), [(1, false), (2, true)]);
    }

    #[test]
    fn who_asks_for_fenced_brokers_is_told_epochs_and_who_stops() {
        let stopping =
            Node { broker_epoch: BrokerEpoch(1 << 40), is_shutting_down: true, ..node(1, 1, Routing::Node) };
        let image = image_of(&[stopping]);
        let told = |include_fenced_brokers: bool| {
            BrokerLifecycle::told(&decoded(&image, include_fenced_brokers).brokers[0])
        };
        let broker_epoch = BrokerEpoch(1 << 40);
        assert_eq!(told(true), Some(BrokerLifecycle { broker_epoch, is_shutting_down: true }));
        assert_eq!(told(false), None);
    }

    #[test]
    fn who_asks_for_fenced_brokers_is_told_what_each_core_leads() {
        let told = |routing: Routing, include_fenced_brokers: bool| {
            let mut image = image_of(&[node(1, 3, routing)]);
            add_topic(&mut image, 7, "orders", &[0, 2, 0, 0]);
            decoded(&image, include_fenced_brokers).brokers.iter().map(BrokerCores::told).collect::<Vec<_>>()
        };
        let cores = |leaders: &[u32]| Some(BrokerCores { node: NodeId(1), leaders: leaders.to_vec() });
        assert_eq!(told(Routing::Node, true), [cores(&[3, 0, 1])]);
        assert_eq!(told(Routing::Core, true), [cores(&[3]), cores(&[0]), cores(&[1])]);
        assert_eq!(told(Routing::Node, false), [None]);
    }

    #[test]
    fn other_endpoints_are_refused() {
        let response = describe(DescribeClusterRequest::default().with_endpoint_type(2), 1);
        assert_eq!(response.error_code, ErrorCode::MismatchedEndpointType.code());
        let response = describe(DescribeClusterRequest::default().with_endpoint_type(9), 2);
        assert_eq!(response.error_code, ErrorCode::UnsupportedEndpointType.code());
    }
}
