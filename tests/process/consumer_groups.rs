//! Groups of the newer protocol (KIP-848) in plain protocol: epochs over a kill, what others are told of them.

use std::process::Command;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::CreatableTopic;
use odradek_test_harness::kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use odradek_test_harness::kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    ApiVersionsRequest, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, CreateTopicsRequest, DescribeGroupsRequest, FindCoordinatorRequest,
    GroupId, IncrementalAlterConfigsRequest, JoinGroupRequest, ListGroupsRequest, OffsetCommitRequest,
    incremental_alter_configs_request,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Broker, Client, Connection, Options, Routing, binary, topic_name, wait_for};

const BEAT: i16 = 1;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

fn error(code: i16) -> Option<ResponseError> {
    ResponseError::try_from_code(code)
}

fn options(routing: Routing) -> Options {
    Options::new(routing)
        .set("offsets.topic.num.partitions", "8")
        .set("group.consumer.min.session.timeout.ms", "6000")
        .set("group.consumer.session.timeout.ms", "6000")
        .set("group.consumer.min.heartbeat.interval.ms", "100")
        .set("group.consumer.heartbeat.interval.ms", "100")
}

/// A member of a group, on a connection to its coordinator.
struct Member {
    connection: Connection,
    id: String,
    epoch: i32,
    owned: Vec<TopicPartitions>,
    topics: Vec<&'static str>,
    regex: Option<&'static str>,
}

const GROUP: &str = "g";

impl Member {
    fn new(broker: &Broker, id: &str, topics: &[&'static str]) -> Member {
        let port = wait_for("a coordinator", || {
            let request = FindCoordinatorRequest::default().with_key(text(GROUP));
            let response = Connection::open(broker.port()).call(3, &request);
            (response.error_code == 0).then_some(response.port as u16)
        });
        Member {
            connection: Connection::open(port),
            id: id.to_string(),
            epoch: 0,
            owned: Vec::new(),
            topics: topics.to_vec(),
            regex: None,
        }
    }

    fn beat_as(&mut self, epoch: i32) -> ConsumerGroupHeartbeatResponse {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(text(&self.id))
            .with_member_epoch(epoch)
            .with_topic_partitions(Some(self.owned.clone()));
        let request = match epoch {
            0 => request
                .with_rebalance_timeout_ms(30_000)
                .with_subscribed_topic_names(Some(self.topics.iter().map(|name| topic_name(name)).collect()))
                .with_subscribed_topic_regex(self.regex.map(text)),
            _ => request,
        };
        self.connection.call(BEAT, &request)
    }

    /// One heartbeat; what it is given.
    fn beat(&mut self) -> usize {
        // A new topic's partition may still be read.
        let response = wait_for("a coordinator that has loaded", || {
            let response = self.beat_as(self.epoch);
            let is_loading = error(response.error_code) == Some(ResponseError::CoordinatorLoadInProgress);
            (!is_loading).then_some(response)
        });
        assert_eq!(error(response.error_code), None, "{:?}", response.error_message);
        assert_eq!(response.heartbeat_interval_ms, 100);
        self.epoch = response.member_epoch;
        if let Some(assignment) = response.assignment {
            let topics = assignment.topic_partitions.into_iter();
            let owned = topics.map(|topic| {
                TopicPartitions::default().with_topic_id(topic.topic_id).with_partitions(topic.partitions)
            });
            self.owned = owned.collect();
        }
        self.owned.iter().map(|topic| topic.partitions.len()).sum()
    }
}

fn settle(members: &mut [&mut Member], expected: &[usize]) {
    wait_for("members that have settled", || {
        let counts: Vec<usize> = members.iter_mut().map(|member| member.beat()).collect();
        let is_one_epoch = members.windows(2).all(|pair| pair[0].epoch == pair[1].epoch);
        (counts == expected && is_one_epoch).then_some(())
    });
}

#[test]
fn members_share_a_topic_and_keep_their_epochs_when_the_broker_is_killed() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(options(routing));
        Client::connect(&broker).create_topic("t", 6, &[]);
        let (mut a, mut b) = (Member::new(&broker, "a", &["t"]), Member::new(&broker, "b", &["t"]));
        assert_eq!((a.beat(), a.epoch), (6, 1), "the first gets all");
        settle(&mut [&mut a, &mut b], &[3, 3]);
        let epoch = a.epoch;
        broker.kill();
        broker.start_again();
        let again = |member: &Member| Member {
            epoch: member.epoch,
            owned: member.owned.clone(),
            ..Member::new(&broker, &member.id, &["t"])
        };
        let (mut a, mut b) = (again(&a), again(&b));
        let resumed = wait_for("the group after its restart", || {
            let response = a.beat_as(epoch);
            (response.error_code == 0).then_some(response)
        });
        assert_eq!((resumed.member_epoch, resumed.assignment), (epoch, None));
        assert_eq!((b.beat(), b.epoch), (3, epoch));
        // The other one is silent for its session.
        settle(&mut [&mut a], &[6]);
        assert_eq!(error(b.beat_as(epoch).error_code), Some(ResponseError::UnknownMemberId));
        broker.stop();
    }
}

#[test]
fn heartbeats_are_as_often_as_is_set_of_the_group() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(options(routing));
        let mut client = Client::connect(&broker);
        client.create_topic("t", 6, &[]);
        let mut member = Member::new(&broker, "a", &["t"]);
        assert_eq!(member.beat(), 6);
        let config = incremental_alter_configs_request::AlterableConfig::default()
            .with_name(text("consumer.heartbeat.interval.ms"))
            .with_value(Some(text("1500")));
        let resource = incremental_alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(32)
            .with_resource_name(text(GROUP))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = client.bootstrap().call(1, &request);
        assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
        // The coordinator may be on another core, which hears of it a little later.
        wait_for("another interval", || {
            let response = member.beat_as(member.epoch);
            assert_eq!(error(response.error_code), None, "{:?}", response.error_message);
            (response.heartbeat_interval_ms == 1500).then_some(())
        });
        broker.stop();
    }
}

/// What is given to whom is made in several steps here.
#[test]
fn members_share_more_partitions_than_are_given_out_at_once() {
    let mut broker = Broker::start_with(options(Routing::Core));
    Client::connect(&broker).create_topic("t", 2500, &[]);
    let (mut a, mut b) = (Member::new(&broker, "a", &["t"]), Member::new(&broker, "b", &["t"]));
    assert_eq!((a.beat(), a.epoch), (2500, 1));
    settle(&mut [&mut a, &mut b], &[1250, 1250]);
    broker.kill();
    broker.start_again();
    let again = |member: &Member| Member {
        epoch: member.epoch,
        owned: member.owned.clone(),
        ..Member::new(&broker, &member.id, &["t"])
    };
    let (mut a, mut b, mut c) = (again(&a), again(&b), Member::new(&broker, "c", &["t"]));
    settle(&mut [&mut a, &mut b, &mut c], &[834, 833, 833]);
    broker.stop();
}

/// Long names, so that what a group subscribes to is more than topics take by default here.
fn long_names() -> Vec<&'static str> {
    (0..20).map(|n| &*format!("{}-{n}", "long".repeat(50)).leak()).collect()
}

#[test]
fn what_is_kept_of_a_group_may_be_larger_than_other_topics_take() {
    let mut broker = Broker::start_with(options(Routing::Node).set("message.max.bytes", "2000"));
    let mut client = Client::connect(&broker);
    let names = long_names();
    names.iter().for_each(|name| client.create_topic(name, 1, &[]));
    let mut member = Member::new(&broker, "a", &names);
    assert_eq!(member.beat(), 20);
    // Unless the operator wants it otherwise.
    let config = incremental_alter_configs_request::AlterableConfig::default()
        .with_name(text("max.message.bytes"))
        .with_value(Some(text("2000")));
    let resource = incremental_alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("__consumer_offsets"))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(client.bootstrap().call(1, &request).responses[0].error_code, 0);
    let mut other = Member::new(&broker, "b", &names);
    let message = wait_for("a refusal", || {
        let response = other.beat_as(0);
        (error(response.error_code) == Some(ResponseError::UnknownServerError))
            .then_some(response.error_message)
    });
    assert!(message.is_some_and(|message| message.contains("max.message.bytes of __consumer_offsets")));
    member.beat();
    broker.stop();
}

#[test]
fn topics_that_match_are_given_out_as_they_come() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut client = Client::connect(&broker);
    client.create_topic("orders-eu", 2, &[]);
    client.create_topic("other", 5, &[]);
    let mut member = Member { regex: Some("orders-.*"), ..Member::new(&broker, "a", &[]) };
    assert_eq!(member.beat(), 2);
    client.create_topic("orders-us", 3, &[]);
    settle(&mut [&mut member], &[5]);
    let mut wrong = Member { regex: Some("("), ..Member::new(&broker, "b", &[]) };
    let refused = wrong.beat_as(0);
    assert_eq!(refused.error_code, 128, "INVALID_REGULAR_EXPRESSION");
    broker.stop();
}

#[test]
fn more_topics_than_are_looked_at_at_once_are_matched_too() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let topics = (0..1010).map(|number| {
        CreatableTopic::default()
            .with_name(topic_name(&format!("t{number}")))
            .with_num_partitions(1)
            .with_replication_factor(1)
    });
    let request = CreateTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(60_000);
    let created = Connection::open(broker.port()).call(7, &request);
    assert!(created.topics.iter().all(|topic| topic.error_code == 0), "{created:?}");
    let mut member = Member { regex: Some("t[0-9]7"), ..Member::new(&broker, "a", &[]) };
    assert_eq!(member.beat(), 0, "they are looked at beside the heartbeat");
    settle(&mut [&mut member], &[9]);
    broker.stop();
}

#[test]
fn what_others_are_told_of_a_group_of_the_newer_protocol() {
    // Its member is silent while others ask.
    let options = options(Routing::Node).set("group.consumer.session.timeout.ms", "45000");
    let mut broker = Broker::start_with(options);
    Client::connect(&broker).create_topic("t", 2, &[]);
    let mut member = Member::new(&broker, "a", &["t"]);
    member.beat();
    let mut connection = Connection::open(broker.port());

    let versions = connection.call(
        4,
        &ApiVersionsRequest::default()
            .with_client_software_name(text("test"))
            .with_client_software_version(text("1")),
    );
    let levels: Vec<(&str, i16)> = versions
        .finalized_features
        .iter()
        .map(|feature| (&*feature.name, feature.max_version_level))
        .collect();
    assert!(levels.contains(&("group.version", 1)), "{levels:?}");

    let listed = |types: &[&str]| {
        let types = types.iter().map(|name| text(name)).collect();
        let response =
            Connection::open(broker.port()).call(5, &ListGroupsRequest::default().with_types_filter(types));
        let groups = response.groups.iter();
        groups.map(|group| (group.group_type.to_string(), group.group_state.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(listed(&["consumer"]), [("consumer".to_string(), "Stable".to_string())]);
    assert_eq!(listed(&["classic"]), []);

    let request = ConsumerGroupDescribeRequest::default()
        .with_group_ids(vec![GroupId(text(GROUP)), GroupId(text("x"))]);
    let described = connection.call(1, &request).groups;
    assert_eq!((&*described[0].group_state, described[0].group_epoch), ("Stable", 1));
    assert_eq!(described[0].members[0].assignment.topic_partitions[0].partitions, [0, 1]);
    assert_eq!(error(described[1].error_code), Some(ResponseError::GroupIdNotFound));
    let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(GROUP))]);
    let classic = connection.call(6, &request).groups;
    assert_eq!(error(classic[0].error_code), Some(ResponseError::GroupIdNotFound));

    let mut commit = |epoch| {
        let partition =
            OffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(1);
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(text("a"))
            .with_generation_id_or_member_epoch(epoch)
            .with_topics(vec![topic]);
        error(connection.call(9, &request).topics[0].partitions[0].error_code)
    };
    assert_eq!(commit(1), None);
    assert_eq!(commit(0), Some(ResponseError::StaleMemberEpoch));

    let command = |line: &[&str]| {
        let run =
            Command::new(binary()).arg("group").args(line).arg("--brokers").arg(broker.bootstrap()).output();
        let run = run.expect("it can be run");
        assert!(run.status.success(), "{run:?}");
        String::from_utf8(run.stdout).expect("it is text")
    };
    assert!(command(&["list"]).contains("consumer"));
    let shown = command(&["describe", GROUP]);
    assert!(shown.starts_with("g: Stable, epoch 1, assignment epoch 1, uniform\n"), "{shown}");
    assert!(shown.contains("t:0-1"), "{shown}");
    let json = command(&["describe", GROUP, "--json"]);
    assert!(json.contains("\"assignment_epoch\": 1"), "{json}");
    assert_eq!(member.beat_as(-1).error_code, 0);
    assert_eq!(command(&["delete", GROUP]), "deleted g\n");
    broker.stop();
}

#[test]
fn groups_have_the_size_and_the_assignors_that_are_set() {
    let options =
        options(Routing::Node).set("group.consumer.max.size", "1").set("group.consumer.assignors", "range");
    let mut broker = Broker::start_with(options);
    Client::connect(&broker).create_topic("t", 6, &[]);
    let mut member = Member::new(&broker, "a", &["t"]);
    assert_eq!(member.beat(), 6);
    let refused = Member::new(&broker, "b", &["t"]).beat_as(0);
    assert_eq!(error(refused.error_code), Some(ResponseError::GroupMaxSizeReached));
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(text(GROUP))]);
    let described = member.connection.call(1, &request);
    assert_eq!(&*described.groups[0].assignor_name, "range");
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("other")))
        .with_member_id(text("c"))
        .with_rebalance_timeout_ms(30_000)
        .with_subscribed_topic_names(Some(vec![topic_name("t")]))
        .with_server_assignor(Some(text("uniform")))
        .with_topic_partitions(Some(Vec::new()));
    let refused = member.connection.call(BEAT, &request);
    assert_eq!(error(refused.error_code), Some(ResponseError::UnsupportedAssignor));
    broker.stop();
}

#[test]
fn groups_change_their_protocol_only_where_they_may() {
    let join = |member: &mut Member, id: StrBytes| {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff".as_slice().into());
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(id)
            .with_session_timeout_ms(30_000)
            .with_rebalance_timeout_ms(30_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        member.connection.call(9, &request)
    };
    for (policy, expected) in [("disabled", Some(ResponseError::GroupIdNotFound)), ("upgrade", None)] {
        let options = options(Routing::Node)
            .set("group.initial.rebalance.delay.ms", "0")
            .set("group.consumer.migration.policy", policy);
        let mut broker = Broker::start_with(options);
        Client::connect(&broker).create_topic("t", 6, &[]);
        let mut member = Member::new(&broker, "a", &["t"]);
        let given = join(&mut member, text(""));
        assert_eq!(error(given.error_code), Some(ResponseError::MemberIdRequired));
        assert_eq!(join(&mut member, given.member_id).error_code, 0);
        assert_eq!(error(member.beat_as(0).error_code), expected, "{policy}");
        broker.stop();
    }
}
