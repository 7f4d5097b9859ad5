//! Both ways to route: one broker for all cores, or a broker per core.

use std::collections::BTreeSet;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::{Batch, Broker, Client, Connection, Routing};

use crate::now_ms;

#[test]
fn node_routing_is_one_broker_that_serves_every_partition_on_every_connection() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("spread", 8, &[]);
    let metadata = client.metadata(&["spread"]);
    let brokers: Vec<_> = metadata.brokers.iter().map(|b| (b.node_id.0, b.port as u16)).collect();
    assert_eq!(brokers, [(1, broker.port())]);
    // Which core accepts a connection is the kernel's choice: several make both likely.
    for round in 0..8 {
        let mut connection = Connection::open(broker.port());
        for partition in 0..8 {
            let request = Client::produce_request("spread", partition, Batch::of(&["any"], now_ms()).bytes());
            let response = connection.call(Client::PRODUCE_VERSION, &request);
            assert_eq!(Client::partition_answer(&response).error_code, 0);
            assert_eq!(Client::partition_answer(&response).base_offset, round);
        }
    }
}

#[test]
fn core_routing_is_a_broker_per_core_that_leads_its_own_partitions() {
    let broker = Broker::start(Routing::Core);
    let mut client = Client::connect(&broker);
    client.create_topic("spread", 8, &[]);
    // Every port tells the same.
    for offset in 0..3 {
        let mut connection = Connection::open(broker.port() + offset);
        let metadata = connection.call(
            Client::METADATA_VERSION,
            &odradek_test_harness::kafka_protocol::messages::MetadataRequest::default().with_topics(None),
        );
        let mut brokers: Vec<_> = metadata.brokers.iter().map(|b| (b.node_id.0, b.port as u16)).collect();
        brokers.sort_unstable();
        assert_eq!(brokers, [(1000, broker.port() + 1), (1001, broker.port() + 2)]);
        let topic =
            metadata.topics.iter().find(|t| t.name.as_ref().is_some_and(|n| n.0.as_str() == "spread"));
        let partitions = &topic.expect("it is listed").partitions;
        let leaders: BTreeSet<i32> = partitions.iter().map(|partition| partition.leader_id.0).collect();
        assert_eq!(leaders, BTreeSet::from([1000, 1001]), "both cores lead partitions");
    }
}

#[test]
fn misrouted_request_is_told_the_leader() {
    const WITH_HINT: i16 = 10; // KIP-951.
    let broker = Broker::start(Routing::Core);
    let mut client = Client::connect(&broker);
    client.create_topic("spread", 4, &[]);
    for partition in 0..4 {
        let (leader, leader_port) = client.leader("spread", partition);
        for port in (broker.port()..broker.port() + 3).filter(|port| *port != leader_port) {
            let mut wrong = Connection::open(port);
            let batch = Batch::of(&["lost?"], now_ms()).bytes();
            let request = Client::produce_request("spread", partition, batch);
            for version in [Client::PRODUCE_VERSION, WITH_HINT] {
                let response = wrong.call(version, &request);
                let answer = Client::partition_answer(&response);
                let error = ResponseError::try_from_code(answer.error_code);
                assert_eq!(error, Some(ResponseError::NotLeaderOrFollower));
                if version == WITH_HINT {
                    assert_eq!(answer.current_leader.leader_id.0, leader);
                    let told: Vec<_> =
                        response.node_endpoints.iter().map(|e| (e.node_id.0, e.port as u16)).collect();
                    assert_eq!(told, [(leader, leader_port)]);
                }
            }
            let fetched = wrong.call(Client::FETCH_VERSION, &Client::fetch_request("spread", partition, 0));
            let error = fetched.responses[0].partitions[0].error_code;
            assert_eq!(ResponseError::try_from_code(error), Some(ResponseError::NotLeaderOrFollower));
        }
        assert_eq!(client.list_offset("spread", partition, -1), 0, "nothing was stored");
    }
}
