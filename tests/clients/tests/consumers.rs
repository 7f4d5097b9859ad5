//! Groups of the newer protocol (KIP-848): see `odradek_client_tests::consumers_share_a_topic`.

use odradek_client_tests::{
    Assignor, Kind, consumers_follow_a_regular_expression, consumers_share_a_topic,
    group_changes_its_protocol, members_share_a_topic, static_consumers_come_back,
};
use odradek_test_harness::Routing;

#[test]
fn one_consumer() {
    consumers_share_a_topic(Routing::Node, 1, None);
}

#[test]
fn three_consumers_with_ranges_under_core_routing() {
    consumers_share_a_topic(Routing::Core, 3, Some("range"));
}

#[test]
fn twenty_consumers() {
    consumers_share_a_topic(Routing::Node, 20, None);
}

#[test]
fn confluent_kafka_with_a_crash() {
    members_share_a_topic(Kind::Confluent, Routing::Node, Assignor::Uniform);
}

#[test]
fn kafka_javascript_with_a_crash() {
    members_share_a_topic(Kind::ConfluentJs, Routing::Node, Assignor::Uniform);
}

#[test]
fn java_4_with_a_crash_under_core_routing() {
    members_share_a_topic(Kind::Java4, Routing::Core, Assignor::Uniform);
}

#[test]
fn a_live_group_changes_its_protocol() {
    group_changes_its_protocol();
}

#[test]
fn topics_by_regular_expression() {
    consumers_follow_a_regular_expression();
}

#[test]
fn static_consumers() {
    static_consumers_come_back();
}
