//! UnregisterBroker (KIP-631): a node that is gone for good is none any more.

use super::Controller;
use crate::cluster::lifecycle::{NotUnregistered, unregister};
use crate::cluster::record::Record;
use crate::codec::error_code::ErrorCode;
use crate::types::BrokerId;
use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use kafka_protocol::protocol::StrBytes;

/// Decides UnregisterBroker 0. Of a core's broker it is the node. Other than in Kafka, whose brokers register again,
/// one that runs is not taken from under its clients.
pub fn decide_unregister_broker(
    controller: Controller<'_>,
    request: &UnregisterBrokerRequest,
) -> (Vec<Record>, UnregisterBrokerResponse) {
    let id = BrokerId(request.broker_id.0);
    let node = controller.brokers.resolve(id).map(|(node, _)| node).ok_or(NotUnregistered::Unknown);
    let (code, message) = match node.and_then(|node| unregister(controller.image, controller.defaults, node))
    {
        Ok(records) => return (records, UnregisterBrokerResponse::default().with_error_message(None)),
        Err(NotUnregistered::Unknown) => {
            (ErrorCode::BrokerIdNotRegistered, format!("Broker ID {id} is not currently registered"))
        }
        Err(NotUnregistered::Alive) => {
            let why = "is running, or was a moment ago: only a node that is fenced is unregistered";
            (ErrorCode::InvalidRequest, format!("Broker ID {id} {why}"))
        }
    };
    let response = UnregisterBrokerResponse::default().with_error_code(code.code());
    (Vec::new(), response.with_error_message(Some(StrBytes::from_string(message))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::brokers::Brokers;
    use crate::cluster::decide::tests::Cluster;
    use crate::cluster::image::tests::node;
    use crate::cluster::record::Node;
    use crate::config::Routing;
    use crate::types::NodeId;

    #[test]
    fn a_broker_that_runs_stays_and_a_fenced_one_goes() {
        let mut cluster = Cluster::new(2, Routing::Core);
        let fenced = Node { is_fenced: true, ..node(2, 2, Routing::Core) };
        cluster.image.apply(&Record::NodeRegistered(fenced)).expect("fits");
        cluster.brokers = Brokers::new(&cluster.image, NodeId(1));
        let mut ask = |id: i32| {
            let request = UnregisterBrokerRequest::default().with_broker_id(id.into());
            let (_, response) = cluster.decide(|view, _| decide_unregister_broker(view, &request));
            (response.error_code, response.error_message.map(|text| text.to_string()))
        };
        let (code, message) = ask(1000);
        assert_eq!(code, ErrorCode::InvalidRequest.code());
        assert!(message.is_some_and(|text| text.contains("only a node that is fenced")));
        assert_eq!(ask(3000).0, ErrorCode::BrokerIdNotRegistered.code());
        assert_eq!(ask(2001), (0, None));
        assert_eq!(cluster.image.nodes().map(|node| node.id.0).collect::<Vec<_>>(), [1]);
    }
}
