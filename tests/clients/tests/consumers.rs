//! Groups of the newer protocol (KIP-848): see `odradek_client_tests::consumers_share_a_topic`.

use odradek_client_tests::{
    Assignor, Kind, consumers_follow_a_regular_expression, consumers_share_a_topic,
    group_changes_its_protocol, lag_and_reset, members_change_their_protocol,
    members_follow_a_regular_expression, members_share_a_topic, static_consumers_come_back,
    static_members_come_back, twenty_members_share_a_topic,
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
fn twenty_members_of_confluent_kafka_with_crashes() {
    twenty_members_share_a_topic(&[Kind::Confluent], Assignor::Uniform);
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

#[test]
fn lag_and_reset_by_confluent_kafka() {
    lag_and_reset(Kind::Confluent, Assignor::Uniform);
}

#[test]
fn lag_and_reset_by_kafka_javascript() {
    lag_and_reset(Kind::ConfluentJs, Assignor::Uniform);
}

#[test]
fn lag_and_reset_by_java_4() {
    lag_and_reset(Kind::Java4, Assignor::Uniform);
}

/// In which the protocol was not for production yet.
#[test]
fn java_3_with_a_crash() {
    members_share_a_topic(Kind::Java3, Routing::Node, Assignor::Uniform);
}

#[test]
fn topics_by_a_regular_expression_of_java_4() {
    members_follow_a_regular_expression(Kind::Java4);
}

#[test]
fn static_members_of_java_4_come_back() {
    static_members_come_back(Kind::Java4, Assignor::Uniform);
}

/// All partitions of the older members are taken from them in a rebalance.
#[test]
fn a_live_group_of_java_changes_its_protocol() {
    members_change_their_protocol((Kind::Java3, Assignor::Range), (Kind::Java4, Assignor::Uniform));
}
