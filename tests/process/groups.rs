//! Consumer groups in plain protocol: joins that wait, restarts, misrouted requests, deletions.

use std::process::Command;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use odradek_test_harness::kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use odradek_test_harness::kafka_protocol::messages::leave_group_request::MemberIdentity;
use odradek_test_harness::kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use odradek_test_harness::kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use odradek_test_harness::kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use odradek_test_harness::kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use odradek_test_harness::kafka_protocol::messages::{
    ApiVersionsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest, SyncGroupRequest, SyncGroupResponse,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{
    Batch, Broker, Client, Connection, Options, Routing, binary, topic_name, wait_for,
};

use crate::now_ms;

const GROUPS_TOPIC: &str = "__consumer_offsets";
const PARTITIONS: &str = "8";

const FIND: i16 = 3;
const JOIN: i16 = 9;
const SYNC: i16 = 5;
const HEARTBEAT: i16 = 4;
const LEAVE: i16 = 5;
const COMMIT: i16 = 9;
const FETCH: i16 = 9;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

fn error(code: i16) -> Option<ResponseError> {
    ResponseError::try_from_code(code)
}

/// Few partitions, and nobody waits for members that do not come.
fn options(routing: Routing) -> Options {
    Options::new(routing)
        .set("offsets.topic.num.partitions", PARTITIONS)
        .set("group.initial.rebalance.delay.ms", "0")
        .set("group.min.session.timeout.ms", "100")
}

/// The broker id and port that a group is to be found at.
fn find_coordinator(port: u16, group: &str) -> (i32, u16) {
    wait_for("a coordinator", || {
        let request = FindCoordinatorRequest::default().with_key(text(group));
        let response = Connection::open(port).call(FIND, &request);
        (response.error_code == 0).then_some((response.node_id.0, response.port as u16))
    })
}

/// A member of a group, on a connection to its coordinator.
struct Member {
    connection: Connection,
    group: String,
    id: String,
    instance_id: Option<String>,
    generation: i32,
}

impl Member {
    fn new(broker: &Broker, group: &str) -> Member {
        let (_, port) = find_coordinator(broker.port(), group);
        let connection = Connection::open(port);
        let group = group.to_string();
        Member { connection, group, id: String::new(), instance_id: None, generation: -1 }
    }

    fn with_instance_id(self, instance_id: &str) -> Member {
        Member { instance_id: Some(instance_id.to_string()), ..self }
    }

    fn join_request(&self) -> JoinGroupRequest {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff".as_slice().into());
        JoinGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_id.as_deref().map(text))
            .with_session_timeout_ms(30_000)
            .with_rebalance_timeout_ms(30_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    }

    /// Asks for an id if there is none, and sends the JoinGroup whose answer may take its time.
    fn send_join(&mut self) {
        if self.id.is_empty() && self.instance_id.is_none() {
            let given = self.connection.call(JOIN, &self.join_request());
            assert_eq!(error(given.error_code), Some(ResponseError::MemberIdRequired));
            self.id = given.member_id.to_string();
        }
        let request = self.join_request();
        self.connection.send(JOIN, &request).expect("the broker reads");
    }

    fn joined(&mut self) -> JoinGroupResponse {
        let joined = self.connection.receive::<JoinGroupRequest>(JOIN).expect("it is answered");
        if joined.error_code == 0 {
            self.id = joined.member_id.to_string();
            self.generation = joined.generation_id;
        }
        joined
    }

    fn sync_request(&self, members: &[&str]) -> SyncGroupRequest {
        let assignments = members.iter().map(|member| {
            let assignment = format!("for {member}").into_bytes();
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(assignment.into())
        });
        SyncGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_member_id(text(&self.id))
            .with_generation_id(self.generation)
            .with_group_instance_id(self.instance_id.as_deref().map(text))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect())
    }

    fn sync(&mut self, members: &[&str]) -> SyncGroupResponse {
        let request = self.sync_request(members);
        self.connection.call(SYNC, &request)
    }

    fn heartbeat(&mut self) -> Option<ResponseError> {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.group))
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_id.as_deref().map(text))
            .with_generation_id(self.generation);
        error(self.connection.call(HEARTBEAT, &request).error_code)
    }

    fn leave(&mut self) -> Option<ResponseError> {
        let member = MemberIdentity::default().with_member_id(text(&self.id));
        let request = LeaveGroupRequest::default().with_group_id(group_id(&self.group));
        let response = self.connection.call(LEAVE, &request.with_members(vec![member]));
        error(response.error_code).or_else(|| error(response.members[0].error_code))
    }

    fn commit(&mut self, topic: &str, offset: i64) -> Option<ResponseError> {
        commit(&mut self.connection, &self.group, (&self.id, self.generation), topic, offset)
    }

    /// Alone in its group, with an assignment.
    fn settle(&mut self) {
        self.send_join();
        let joined = self.joined();
        assert_eq!((joined.error_code, &joined.leader), (0, &joined.member_id));
        let id = self.id.clone();
        assert_eq!(self.sync(&[&id]).error_code, 0);
    }
}

fn commit_request(
    group: &str,
    (member, generation): (&str, i32),
    topic: &str,
    offset: i64,
) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(3)
        .with_committed_metadata(Some(text("note")));
    let topic =
        OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_member_id(text(member))
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![topic])
}

fn commit(
    connection: &mut Connection,
    group: &str,
    member: (&str, i32),
    topic: &str,
    offset: i64,
) -> Option<ResponseError> {
    let response = connection.call(COMMIT, &commit_request(group, member, topic, offset));
    error(response.topics[0].partitions[0].error_code)
}

/// What a group has committed for partition 0 of a topic.
fn fetch(connection: &mut Connection, group: &str, topic: &str) -> Result<i64, ResponseError> {
    let topics = vec![
        OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(vec![0]),
    ];
    let asked = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(Some(topics));
    let response = connection.call(FETCH, &OffsetFetchRequest::default().with_groups(vec![asked]));
    let group = &response.groups[0];
    match error(group.error_code) {
        Some(error) => Err(error),
        None => Ok(group.topics[0].partitions[0].committed_offset),
    }
}

/// Every group that the broker of that port lists, with its state.
fn list(port: u16) -> Vec<(String, String)> {
    let mut connection = Connection::open(port);
    let listed = wait_for("a list of groups", || {
        let response = connection.call(5, &ListGroupsRequest::default());
        (response.error_code == 0).then_some(response.groups)
    });
    let mut groups: Vec<_> =
        listed.into_iter().map(|group| (group.group_id.to_string(), group.group_state.to_string())).collect();
    groups.sort();
    groups
}

#[test]
fn members_join_and_are_assigned_while_the_others_wait() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(options(routing));
        Client::connect(&broker).create_topic("t", 1, &[]);
        let mut first = Member::new(&broker, "g");
        first.settle();
        assert_eq!((first.generation, first.heartbeat()), (1, None));

        let mut second = Member::new(&broker, "g");
        second.send_join();
        // It waits; all others are served meanwhile, on the same core too.
        wait_for("a rebalance", || {
            (first.heartbeat() == Some(ResponseError::RebalanceInProgress)).then_some(())
        });
        first.send_join();
        let (led, joined) = (first.joined(), second.joined());
        assert_eq!((led.generation_id, joined.generation_id, led.members.len()), (2, 2, 2));

        let waiting = second.sync_request(&[]);
        second.connection.send(SYNC, &waiting).expect("the broker reads");
        let members = [first.id.clone(), second.id.clone()];
        let led = first.sync(&[&members[0], &members[1]]);
        assert_eq!((led.error_code, &led.assignment[..]), (0, format!("for {}", members[0]).as_bytes()));
        let synced = second.connection.receive::<SyncGroupRequest>(SYNC).expect("it is answered");
        assert_eq!(
            (synced.error_code, &synced.assignment[..]),
            (0, format!("for {}", members[1]).as_bytes())
        );

        assert_eq!(second.leave(), None);
        assert_eq!(first.heartbeat(), Some(ResponseError::RebalanceInProgress));
        broker.stop();
    }
}

#[test]
fn members_keep_their_generation_and_offsets_when_the_broker_is_killed() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(options(routing));
        Client::connect(&broker).create_topic("t", 1, &[]);
        // Groups on every core.
        let groups: Vec<String> = (0..12).map(|number| format!("group-{number}")).collect();
        let mut members: Vec<Member> = Vec::new();
        for (number, group) in (0..).zip(&groups) {
            let mut member = Member::new(&broker, group);
            member.settle();
            assert_eq!(member.commit("t", number), None);
            members.push(member);
        }
        for is_clean in [false, true] {
            if is_clean {
                broker.stop()
            } else {
                broker.kill()
            }
            broker.start_again();
            for (number, member) in (0..).zip(&mut members) {
                let (_, port) = find_coordinator(broker.port(), &member.group);
                member.connection = Connection::open(port);
                let fetched = wait_for("the group to be loaded", || {
                    let fetched = fetch(&mut member.connection, &member.group, "t");
                    (fetched != Err(ResponseError::CoordinatorLoadInProgress)).then_some(fetched)
                });
                assert_eq!(fetched, Ok(number));
                assert_eq!(member.heartbeat(), None, "no rebalance");
                let assigned = member.sync(&[]);
                let expected = format!("for {}", member.id);
                assert_eq!((assigned.error_code, &assigned.assignment[..]), (0, expected.as_bytes()));
                assert_eq!(member.commit("t", number), None);
            }
            assert!(list(broker.port()).iter().all(|(_, state)| state == "Stable"));
            assert_eq!(list(broker.port()).len(), groups.len());
        }
        broker.stop();
    }
}

#[test]
fn silent_members_are_gone_after_their_session() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut member = Member::new(&broker, "g");
    member.settle();
    // A leader that joins again starts a rebalance, with what it says now; nothing else ends so soon.
    let request = member.join_request().with_session_timeout_ms(200).with_rebalance_timeout_ms(600_000);
    let joined = member.connection.call(JOIN, &request);
    assert_eq!((joined.error_code, joined.generation_id), (0, 2));
    member.generation = joined.generation_id;
    wait_for("the end of a session", || {
        (list(broker.port()) == [("g".into(), "Empty".into())]).then_some(())
    });
    assert_eq!(member.heartbeat(), Some(ResponseError::UnknownMemberId));
    broker.stop();
}

#[test]
fn under_core_routing_each_core_coordinates_its_own_groups() {
    let mut broker = Broker::start_with(options(Routing::Core));
    Client::connect(&broker).create_topic("t", 1, &[]);
    let mut seen = Vec::new();
    for number in 0..12 {
        let group = format!("group-{number}");
        let (id, port) = find_coordinator(broker.port(), &group);
        assert_eq!(i32::from(port - broker.port()), id - 999, "each broker has its port");
        seen.push(port);
        for other in (broker.port()..broker.port() + 3).filter(|other| *other != port) {
            let mut wrong = Connection::open(other);
            let refused = commit(&mut wrong, &group, ("", -1), "t", 5);
            assert_eq!(refused, Some(ResponseError::NotCoordinator));
            assert_eq!(fetch(&mut wrong, &group, "t"), Err(ResponseError::NotCoordinator));
        }
        let mut right = Connection::open(port);
        assert_eq!(commit(&mut right, &group, ("", -1), "t", number), None);
        assert_eq!(fetch(&mut right, &group, "t"), Ok(number));
        assert!(list(port).iter().any(|(listed, _)| *listed == group));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [broker.port() + 1, broker.port() + 2], "both cores coordinate");
    let (one, other) = (list(broker.port() + 1).len(), list(broker.port() + 2).len());
    assert_eq!(one + other, 12);
    assert_eq!(list(broker.port()).len(), 12, "the base port knows all");
    broker.stop();
}

#[test]
fn static_members_come_back_to_what_they_had() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut member = Member::new(&broker, "g").with_instance_id("one");
    member.settle();
    let had = member.id.clone();
    broker.kill();
    broker.start_again();
    let mut back = wait_for("its place", || {
        let mut back = Member::new(&broker, "g").with_instance_id("one");
        back.send_join();
        (back.joined().error_code == 0).then_some(back)
    });
    assert_eq!(back.generation, 1, "no rebalance");
    assert_ne!(back.id, had);
    assert_eq!(back.sync(&[]).assignment, format!("for {had}").into_bytes());
    assert_eq!(back.heartbeat(), None);
    let mut old = Member::new(&broker, "g").with_instance_id("one");
    (old.id, old.generation) = (had, 1);
    assert_eq!(old.heartbeat(), Some(ResponseError::FencedInstanceId));
    broker.stop();
}

#[test]
fn offsets_are_of_topics_that_there_are() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut client = Client::connect(&broker);
    client.create_topic("t", 1, &[]);
    client.create_topic("gone", 1, &[]);
    let (_, port) = find_coordinator(broker.port(), "g");
    let mut connection = Connection::open(port);
    let none = (("", -1), ResponseError::UnknownTopicOrPartition);
    assert_eq!(commit(&mut connection, "g", none.0, "never", 5), Some(none.1));
    assert_eq!(commit(&mut connection, "g", none.0, "t", 5), None);
    assert_eq!(commit(&mut connection, "g", none.0, "gone", 6), None);
    let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("gone")]);
    assert_eq!(client.bootstrap().call(5, &request).responses[0].error_code, 0);
    wait_for("the offsets of the topic to go", || {
        (fetch(&mut connection, "g", "gone") == Ok(-1)).then_some(())
    });
    assert_eq!(commit(&mut connection, "g", none.0, "gone", 7), Some(none.1));
    broker.kill();
    broker.start_again();
    let mut connection = Connection::open(port);
    let fetched = wait_for("the group to be loaded", || fetch(&mut connection, "g", "t").ok());
    assert_eq!((fetched, fetch(&mut connection, "g", "gone")), (5, Ok(-1)));
    broker.stop();
}

#[test]
fn groups_are_described_and_deleted() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(options(routing));
        Client::connect(&broker).create_topic("t", 1, &[]);
        let mut member = Member::new(&broker, "g");
        member.settle();
        member.commit("t", 5);
        let describe = |connection: &mut Connection, version: i16| {
            let request = DescribeGroupsRequest::default()
                .with_groups(vec![group_id("g"), group_id("none")])
                .with_include_authorized_operations(version >= 3);
            connection.call(version, &request).groups
        };
        let groups = describe(&mut member.connection, 5);
        let [group, none] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!((&*group.group_state, &*group.protocol_type), ("Stable", "consumer"));
        assert_eq!((&*group.protocol_data, group.authorized_operations), ("range", 3400));
        assert_eq!(&*group.members[0].client_id, "process-test");
        assert_eq!(&*group.members[0].client_host, "/127.0.0.1");
        assert_eq!(group.members[0].member_assignment, format!("for {}", member.id).into_bytes());
        if routing == Routing::Node {
            assert_eq!((none.error_code, &*none.group_state), (0, "Dead"));
            let groups = describe(&mut member.connection, 6);
            assert_eq!(error(groups[1].error_code), Some(ResponseError::GroupIdNotFound));
        }
        let delete = |connection: &mut Connection| {
            let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id("g")]);
            error(connection.call(2, &request).results[0].error_code)
        };
        assert_eq!(delete(&mut member.connection), Some(ResponseError::NonEmptyGroup));
        let delete_offset = |connection: &mut Connection| {
            let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
            let topic = OffsetDeleteRequestTopic::default()
                .with_name(topic_name("t"))
                .with_partitions(vec![partition]);
            let request = OffsetDeleteRequest::default().with_group_id(group_id("g"));
            let response = connection.call(0, &request.with_topics(vec![topic]));
            error(response.error_code).or_else(|| error(response.topics[0].partitions[0].error_code))
        };
        assert_eq!(delete_offset(&mut member.connection), Some(ResponseError::GroupSubscribedToTopic));
        assert_eq!(member.leave(), None);
        assert_eq!(delete_offset(&mut member.connection), None);
        assert_eq!(fetch(&mut member.connection, "g", "t"), Ok(-1));
        assert_eq!(delete(&mut member.connection), None);
        assert_eq!(delete(&mut member.connection), Some(ResponseError::GroupIdNotFound));
        assert_eq!(list(broker.port()), []);
        broker.kill();
        broker.start_again();
        assert_eq!(list(broker.port()), []);
        broker.stop();
    }
}

#[test]
fn offsets_expire_that_nobody_comes_back_for() {
    let options = options(Routing::Node)
        .set("offsets.retention.minutes", "300ms")
        .set("offsets.retention.check.interval.ms", "100");
    let mut broker = Broker::start_with(options);
    Client::connect(&broker).create_topic("t", 1, &[]);
    let mut member = Member::new(&broker, "used");
    member.settle();
    member.commit("t", 5);
    let (_, port) = find_coordinator(broker.port(), "left");
    assert_eq!(commit(&mut Connection::open(port), "left", ("", -1), "t", 6), None);
    wait_for("an offset to expire", || {
        (list(broker.port()) == [("used".into(), "Stable".into())]).then_some(())
    });
    assert_eq!(fetch(&mut member.connection, "used", "t"), Ok(5));
    broker.stop();
}

#[test]
fn nobody_else_writes_what_coordinators_keep() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut client = Client::connect(&broker);
    assert!(client.metadata(&[GROUPS_TOPIC]).topics[0].error_code != 0, "it is made by the first group");
    find_coordinator(broker.port(), "g");
    let metadata = client.metadata(&[GROUPS_TOPIC]);
    let topic = &metadata.topics[0];
    assert_eq!((topic.error_code, topic.is_internal, topic.partitions.len()), (0, true, 8));
    let batch = Batch::of(&["forged"], now_ms()).keyed(&["key"]).bytes();
    let refused = client.produce_bytes(GROUPS_TOPIC, 0, batch);
    assert_eq!(refused, Err(ResponseError::InvalidTopicException));
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(-1);
    let topic =
        DeleteRecordsTopic::default().with_name(topic_name(GROUPS_TOPIC)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]);
    let response = client.bootstrap().call(1, &request);
    let refused = response.topics[0].partitions[0].error_code;
    assert_eq!(error(refused), Some(ResponseError::InvalidTopicException));
    broker.stop();
}

#[test]
fn members_that_wait_do_not_hold_up_a_stop_nor_outlive_their_connection() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut first = Member::new(&broker, "g");
    first.settle();
    let mut second = Member::new(&broker, "g");
    second.send_join();
    // Its connection ends while it waits; the rebalance goes on without anybody noticing.
    let mut third = Member::new(&broker, "g");
    third.send_join();
    drop(third);
    let mut other = Connection::open(broker.port());
    assert_eq!(other.call(0, &ApiVersionsRequest::default()).error_code, 0);
    let begun = std::time::Instant::now();
    broker.stop();
    // Less than is waited for clients that do not go.
    assert!(begun.elapsed() < std::time::Duration::from_millis(4_800), "it took {:?}", begun.elapsed());
    assert_eq!(error(second.joined().error_code), Some(ResponseError::NotCoordinator));
}

/// Runs `odradek group`: what it printed, or what it said is wrong.
fn command(broker: &Broker, line: &[&str]) -> Result<String, String> {
    let run =
        Command::new(binary()).arg("group").args(line).arg("--brokers").arg(broker.bootstrap()).output();
    let run = run.expect("it can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    if run.status.success() { Ok(text(run.stdout)) } else { Err(text(run.stderr)) }
}

#[test]
fn groups_are_looked_after_by_command() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(options(routing));
        let mut client = Client::connect(&broker);
        client.create_topic("t", 2, &[]);
        for number in 0..5 {
            client.produce("t", 0, &Batch::of(&["record"], now_ms() + number));
        }
        let mut member = Member::new(&broker, "used");
        member.settle();
        assert_eq!(member.commit("t", 2), None);
        let reset = |to: &str| command(&broker, &["reset-offsets", "used", "--topic", "t", "--to", to]);
        assert!(reset("earliest").expect_err("it is in use").contains("the group has members"));
        let listed = command(&broker, &["list"]).expect("it is listed");
        assert_eq!(
            listed.lines().nth(1).map(|line| line.split_whitespace().collect()),
            Some(vec!["used", "classic", "Stable", "consumer"])
        );
        let described = command(&broker, &["describe", "used"]).expect("it is described");
        assert!(described.starts_with("used: Stable, range\n"), "{described}");
        let row = described.lines().last().expect("it has lines").split_whitespace().collect::<Vec<_>>();
        assert_eq!(row[..5], ["t", "0", "2", "5", "3"], "{described}");
        assert!(row[5].parse::<f64>().is_ok_and(|seconds| (0.0..60.0).contains(&seconds)), "{described}");
        assert!(command(&broker, &["delete", "used"]).expect_err("it is in use").contains("NON_EMPTY_GROUP"));
        assert_eq!(member.leave(), None);
        for (to, expected) in [("earliest", 0), ("latest", 5), ("3", 3), ("@1", 0), ("@99999999999999", 5)] {
            reset(to).expect("it is not in use");
            assert_eq!(fetch(&mut member.connection, "used", "t"), Ok(expected), "{to}");
        }
        assert_eq!(command(&broker, &["delete", "used"]).as_deref(), Ok("deleted used\n"));
        assert!(
            command(&broker, &["describe", "used"]).expect_err("it is gone").contains("GROUP_ID_NOT_FOUND")
        );
        broker.stop();
    }
}

fn json(broker: &Broker, line: &[&str]) -> serde_json::Value {
    let printed = command(broker, &[line, &["--json"]].concat()).expect("it succeeds");
    serde_json::from_str(&printed).expect("JSON")
}

#[test]
fn lag_is_told_in_records_and_in_seconds() {
    const HOUR: i64 = 3600;
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(options(routing));
        let mut client = Client::connect(&broker);
        client.create_topic("t", 7, &[]);
        let began = now_ms();
        let mut write = |partition: i32, ages: &[i64], value: &[u8]| {
            for age in ages {
                let time = if *age < 0 { -1 } else { began - age * 1000 };
                client.produce("t", partition, &Batch::of(&[value], time));
            }
        };
        write(0, &[3 * HOUR, 2 * HOUR, HOUR], b"small");
        // More than is asked for at first, and more than is asked for of several at once.
        write(1, &[3 * HOUR, 2 * HOUR, HOUR], &[7; 40_000]);
        write(2, &[3 * HOUR, 2 * HOUR, HOUR], &[7; 700_000]);
        write(3, &[2 * HOUR], b"read"); // Caught up.
        write(4, &[-1], b"timeless");
        write(5, &[3 * HOUR, 2 * HOUR, HOUR], b"small"); // The log begins behind the commit.
        write(6, &[HOUR], b"small"); // Nothing committed.
        let mut start = DeleteRecordsPartition::default().with_partition_index(5);
        start = start.with_offset(2);
        let topic = DeleteRecordsTopic::default().with_name(topic_name("t")).with_partitions(vec![start]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]);
        let response = client.to_leader("t", 5).call(1, &request);
        assert_eq!(response.topics[0].partitions[0].error_code, 0);

        let mut member = Member::new(&broker, "g");
        member.send_join();
        assert_eq!(member.joined().error_code, 0);
        let id = member.id.clone();
        let mut request = member.sync_request(&[&id]);
        // All partitions, as consumers write it.
        let indexes: Vec<u8> = (0..7i32).flat_map(i32::to_be_bytes).collect();
        let assignment = [b"\0\x01\0\0\0\x01\0\x01t\0\0\0\x07".as_slice(), &indexes, &[255; 4]].concat();
        request.assignments[0].assignment = assignment.into();
        assert_eq!(member.connection.call(SYNC, &request).error_code, 0);
        let commits = [(0, 1), (1, 1), (2, 1), (3, 1), (4, 0), (5, 0)].map(|(index, offset)| {
            OffsetCommitRequestPartition::default().with_partition_index(index).with_committed_offset(offset)
        });
        let mut request = commit_request("g", (&id, member.generation), "t", 0);
        request.topics[0].partitions = commits.to_vec();
        let committed = member.connection.call(COMMIT, &request);
        assert!(committed.topics[0].partitions.iter().all(|partition| partition.error_code == 0));

        let described = json(&broker, &["describe", "g"]);
        let assigned = serde_json::json!([{ "topic": "t", "partitions": [0, 1, 2, 3, 4, 5, 6] }]);
        assert_eq!(described[0]["members"][0]["assignment"], assigned);
        let offsets = described[0]["offsets"].as_array().expect("a list");
        let lags = offsets.iter().map(|offset| (offset["committed"].as_i64(), offset["lag"].as_i64()));
        let expected = [1, 1, 1, 1, 0, 0].map(Some).into_iter().chain([None]);
        assert!(lags.eq(expected.zip([2, 2, 2, 0, 1, 3].map(Some).into_iter().chain([None]))), "{offsets:?}");
        let seconds: Vec<_> = offsets.iter().map(|offset| offset["lag_seconds"].as_f64()).collect();
        let is_about = |seconds: Option<f64>, age: i64| {
            let past = seconds.expect("it is known") - age as f64;
            assert!((0.0..60.0).contains(&past), "{offsets:?}");
        };
        (0..3).for_each(|index| is_about(seconds[index], 2 * HOUR));
        assert_eq!(seconds[3], Some(0.0));
        assert_eq!(seconds[4], None, "its record has no time");
        is_about(seconds[5], HOUR);
        assert_eq!(seconds[6], None);
        let text = command(&broker, &["describe", "g"]).expect("it is described");
        assert!(text.contains("ASSIGNMENT") && text.contains("t:0-6"), "{text}");
        let last: Vec<_> = text.lines().last().expect("it has lines").split_whitespace().collect();
        assert_eq!(last, ["t", "6", "-", "1", "-", "-"], "{text}");

        let listed = json(&broker, &["list", "--lag"]);
        assert_eq!((&listed[0]["group"], &listed[0]["lag"]), (&"g".into(), &10.into()));
        is_about(listed[0]["lag_seconds"].as_f64(), 2 * HOUR);
        let text = command(&broker, &["list", "--lag"]).expect("it is listed");
        assert!(text.starts_with("GROUP  TYPE     STATE   PROTOCOL  LAG  LAG-SECONDS\n"), "{text}");
        let plain = json(&broker, &["list"]);
        assert_eq!(
            plain,
            serde_json::json!([{
                "group": "g", "type": "classic", "state": "Stable", "protocol_type": "consumer",
            }])
        );
        broker.stop();
    }
}

#[test]
fn resets_and_deletions_are_told_as_json() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut client = Client::connect(&broker);
    client.create_topic("t", 2, &[]);
    client.produce("t", 1, &Batch::of(&["one", "two"], now_ms()));
    find_coordinator(broker.port(), "g");
    let reset = json(&broker, &["reset-offsets", "g", "--topic", "t", "--to", "latest"]);
    let expected = serde_json::json!([
        { "topic": "t", "partition": 0, "committed": 0 },
        { "topic": "t", "partition": 1, "committed": 2 },
    ]);
    assert_eq!(reset, expected);
    let deleted = json(&broker, &["delete", "g"]);
    assert_eq!(deleted, serde_json::json!([{ "group": "g", "deleted": true, "error": null }]));
    // A failure is in what is printed, and in the exit code.
    let again = Command::new(binary())
        .args(["group", "delete", "g", "--json", "--brokers"])
        .arg(broker.bootstrap())
        .output()
        .expect("it can be run");
    assert!(!again.status.success());
    let printed: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    let expected = serde_json::json!([{ "group": "g", "deleted": false, "error": "GROUP_ID_NOT_FOUND" }]);
    assert_eq!(printed, expected);
    broker.stop();
}

#[test]
fn groups_and_notes_are_as_large_as_is_set() {
    let options = options(Routing::Node).set("group.max.size", "1").set("offset.metadata.max.bytes", "3");
    let mut broker = Broker::start_with(options);
    Client::connect(&broker).create_topic("t", 1, &[]);
    let mut member = Member::new(&broker, "g");
    member.settle();
    let mut other = Member::new(&broker, "g");
    let refused = other.connection.call(JOIN, &other.join_request());
    assert_eq!(error(refused.error_code), Some(ResponseError::GroupMaxSizeReached));
    assert_eq!(member.heartbeat(), None);
    // The note of these commits has four bytes.
    assert_eq!(member.commit("t", 5), Some(ResponseError::OffsetMetadataTooLarge));
    let mut request = commit_request("g", (&member.id, member.generation), "t", 5);
    request.topics[0].partitions[0].committed_metadata = Some(text("not"));
    let committed = member.connection.call(COMMIT, &request);
    assert_eq!(committed.topics[0].partitions[0].error_code, 0);
    broker.stop();
}
