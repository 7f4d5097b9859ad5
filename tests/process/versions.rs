//! What is advertised, and what happens to requests beyond it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Buf;
use odradek_test_harness::kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, VoteRequest,
};
use odradek_test_harness::kafka_protocol::protocol::{Decodable, StrBytes};
use odradek_test_harness::{Broker, Connection, Routing, frame};

const SOON: Duration = Duration::from_secs(10);

fn ranges(response: &ApiVersionsResponse) -> BTreeMap<i16, (i16, i16)> {
    response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect()
}

#[test]
fn every_port_advertises_the_same_and_nothing_else() {
    // API key, lowest and highest version.
    let expected = BTreeMap::from([
        (0, (0, 12)),
        (1, (4, 12)),
        (2, (1, 10)),
        (3, (0, 12)),
        (8, (2, 9)),
        (9, (1, 9)),
        (10, (0, 6)),
        (11, (0, 9)),
        (12, (0, 4)),
        (13, (0, 5)),
        (14, (0, 5)),
        (15, (0, 6)),
        (16, (0, 5)),
        (18, (0, 4)),
        (19, (2, 7)),
        (20, (1, 6)),
        (21, (0, 2)),
        (22, (0, 5)),
        (23, (2, 4)),
        (24, (0, 5)),
        (25, (0, 4)),
        (26, (0, 5)),
        (27, (1, 1)),
        (28, (0, 5)),
        (32, (1, 4)),
        (33, (0, 2)),
        (35, (1, 4)),
        (37, (0, 3)),
        (42, (0, 2)),
        (43, (0, 2)),
        (44, (0, 1)),
        (45, (0, 1)),
        (46, (0, 0)),
        (47, (0, 0)),
        (48, (0, 1)),
        (49, (0, 1)),
        (55, (0, 2)),
        (60, (0, 2)),
        (61, (0, 0)),
        (64, (0, 0)),
        (65, (0, 0)),
        (66, (0, 2)),
        (68, (0, 1)),
        (69, (0, 1)),
        (71, (0, 0)),
        (72, (0, 0)),
        (74, (0, 1)),
        (75, (0, 0)),
        (80, (0, 0)),
        (81, (0, 0)),
    ]);
    let broker = Broker::start(Routing::Core);
    for port in [broker.port(), broker.port() + 1, broker.port() + 2] {
        for version in 0..=4 {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("process-test"))
                .with_client_software_version(StrBytes::from_static_str("1"));
            let request = if version < 3 { ApiVersionsRequest::default() } else { request };
            let response = Connection::open(port).call(version, &request);
            assert_eq!((response.error_code, ranges(&response)), (0, expected.clone()), "version {version}");
        }
    }
}

/// KIP-511: the client then asks again in a version that both know.
#[test]
fn unknown_version_of_api_versions_is_answered_in_version_0() {
    const UNSUPPORTED_VERSION: i16 = 35;
    let broker = Broker::start(Routing::Node);
    let mut connection = Connection::open(broker.port());
    // Version 99 of request header 2, and a body that nobody knows.
    let mut request = frame(4, 7, &ApiVersionsRequest::default());
    request[6..8].copy_from_slice(&99i16.to_be_bytes());
    connection.send_bytes(&request).expect("the broker reads");
    let mut answer = connection.receive_frame().expect("it is answered");
    assert_eq!(answer.get_i32(), 7, "correlation id");
    let response = ApiVersionsResponse::decode(&mut answer, 0).expect("version 0");
    assert_eq!(response.error_code, UNSUPPORTED_VERSION);
    assert_eq!(ranges(&response).get(&18), Some(&(0, 4)));
    // The connection goes on.
    assert_eq!(connection.call(0, &ApiVersionsRequest::default()).error_code, 0);
}

#[test]
fn requests_that_are_not_offered_close_their_connection() {
    let broker = Broker::start(Routing::Node);
    let vote = frame(0, 1, &VoteRequest::default());
    let mut old_produce =
        frame(3, 1, &odradek_test_harness::kafka_protocol::messages::ProduceRequest::default());
    old_produce[6..8].copy_from_slice(&2i16.to_be_bytes());
    let mut new_metadata = frame(12, 1, &MetadataRequest::default());
    new_metadata[6..8].copy_from_slice(&13i16.to_be_bytes());
    let mut unknown_api = frame(12, 1, &MetadataRequest::default());
    unknown_api[4..6].copy_from_slice(&999i16.to_be_bytes());
    for (what, request) in
        [("Vote", vote), ("Produce 2", old_produce), ("Metadata 13", new_metadata), ("API 999", unknown_api)]
    {
        let mut bystander = Connection::open(broker.port());
        let mut connection = Connection::open(broker.port());
        connection.send_bytes(&request).expect("the broker reads");
        assert!(connection.is_closed_within(SOON), "{what}");
        assert_eq!(bystander.call(0, &ApiVersionsRequest::default()).error_code, 0, "{what}");
    }
    assert_eq!(
        broker.log().matches("connection closed").count(),
        4,
        "each with its reason\n{}",
        broker.log()
    );
}
