//! What admin clients ask for: settings at run time, log directories, topics page by page, leaders.

use std::path::Path;
use std::process::Command;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::describe_topic_partitions_request::{
    Cursor, TopicRequest,
};
use odradek_test_harness::kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use odradek_test_harness::kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    AlterConfigsRequest, BrokerId, DescribeConfigsRequest, DescribeLogDirsRequest, DescribeQuorumRequest,
    DescribeTopicPartitionsRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest, alter_configs_request,
    describe_configs_request, describe_quorum_request, incremental_alter_configs_request,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{Batch, Broker, Client, Options, Routing, binary, topic_name, wait_for};

use crate::now_ms;

const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

/// Sets (or with `None` removes) one setting, again where the quorum gets another leader meanwhile: the error's code and
/// text.
pub fn set(client: &mut Client, kind: i8, name: &str, key: &str, value: Option<&str>) -> (i16, String) {
    let config = incremental_alter_configs_request::AlterableConfig::default()
        .with_name(text(key))
        .with_config_operation(i8::from(value.is_none()))
        .with_value(value.map(text));
    let resource = incremental_alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    wait_for("an answer of the controller", || {
        let response = client.bootstrap().call(1, &request);
        let answer = &response.responses[0];
        let message = answer.error_message.as_ref().map(|text| text.to_string()).unwrap_or_default();
        match ResponseError::try_from_code(answer.error_code) {
            Some(ResponseError::NotController | ResponseError::RequestTimedOut) => None,
            _ => Some((answer.error_code, message)),
        }
    })
}

/// Value, source and whether it is read-only.
pub fn get(client: &mut Client, kind: i8, name: &str, key: &str) -> (String, i8, bool) {
    let resource = describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(vec![text(key)]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = client.bootstrap().call(4, &request);
    let config = response.results[0].configs.first().expect("it is described");
    let value = config.value.as_ref().map(|value| value.to_string()).unwrap_or_default();
    (value, config.config_source, config.read_only)
}

#[test]
fn settings_of_brokers_change_at_run_time_and_survive_a_restart() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("inherits", 2, &[]);
        client.create_topic("has-its-own", 1, &[("max.message.bytes", "100000")]);
        let large = Batch::of(&[vec![7; 3000]], now_ms()).bytes();
        for partition in 0..2 {
            assert!(client.produce_bytes("inherits", partition, large.clone()).is_ok());
        }
        assert_eq!(set(&mut client, BROKER, "", "message.max.bytes", Some("2000")), (0, String::new()));
        let id = if routing == Routing::Node { "1" } else { "1000" };
        for restarted in [false, true] {
            if restarted {
                broker.kill();
                broker.start_again();
                client = Client::connect(&broker);
            }
            for partition in 0..2 {
                let refused = client.produce_bytes("inherits", partition, large.clone());
                assert_eq!(refused, Err(ResponseError::MessageTooLarge));
            }
            assert!(client.produce_bytes("has-its-own", 0, large.clone()).is_ok());
            let shown = ("2000".to_string(), 3, false);
            assert_eq!(get(&mut client, BROKER, id, "message.max.bytes"), shown);
            assert_eq!(get(&mut client, BROKER, "", "message.max.bytes"), shown);
            let of_topic = get(&mut client, TOPIC, "inherits", "max.message.bytes");
            assert_eq!((of_topic.0.as_str(), of_topic.1), ("2000", 3));
        }
        // This broker's own comes before that of all, and removing it brings that back.
        assert_eq!(set(&mut client, BROKER, id, "message.max.bytes", Some("50000")).0, 0);
        assert!(client.produce_bytes("inherits", 1, large.clone()).is_ok());
        assert_eq!(get(&mut client, BROKER, id, "message.max.bytes").1, 2);
        assert_eq!(set(&mut client, BROKER, id, "message.max.bytes", None).0, 0);
        assert_eq!(client.produce_bytes("inherits", 1, large.clone()), Err(ResponseError::MessageTooLarge));
        assert_eq!(set(&mut client, BROKER, "", "message.max.bytes", None).0, 0);
        assert!(client.produce_bytes("inherits", 0, large.clone()).is_ok());
        let read_only = set(&mut client, BROKER, "", "num.partitions", Some("3"));
        let refused = "Cannot update these configs dynamically: Set(num.partitions)".to_string();
        assert_eq!(read_only, (ResponseError::InvalidRequest.code(), refused));
        assert!(get(&mut client, BROKER, id, "num.partitions").2);
        broker.stop();
    }
}

#[test]
fn settings_of_groups_survive_a_restart() {
    let mut broker = Broker::start(Routing::Core);
    let mut client = Client::connect(&broker);
    let (session, heartbeat) = ("consumer.session.timeout.ms", "consumer.heartbeat.interval.ms");
    assert_eq!(get(&mut client, GROUP, "g", session), ("45000".to_string(), 5, false));
    assert_eq!(set(&mut client, GROUP, "g", session, Some("50000")), (0, String::new()));
    for restarted in [false, true] {
        if restarted {
            broker.kill();
            broker.start_again();
            client = Client::connect(&broker);
        }
        assert_eq!(get(&mut client, GROUP, "g", session), ("50000".to_string(), 8, false));
        assert_eq!(get(&mut client, GROUP, "g", heartbeat), ("5000".to_string(), 5, false));
        assert_eq!(get(&mut client, GROUP, "other", session), ("45000".to_string(), 5, false));
    }
    let refused = set(&mut client, GROUP, "g", session, Some("44999"));
    let words =
        "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms";
    assert_eq!(refused, (ResponseError::InvalidConfig.code(), words.to_string()));
    let refused = set(&mut client, GROUP, "g", "share.session.timeout.ms", Some("45000"));
    let words = "Unknown group config name: share.session.timeout.ms";
    assert_eq!(refused, (ResponseError::InvalidConfig.code(), words.to_string()));
    assert_eq!(set(&mut client, GROUP, "g", session, None).0, 0);
    assert_eq!(get(&mut client, GROUP, "g", session), ("45000".to_string(), 5, false));
    broker.stop();
}

#[test]
fn connections_are_as_many_as_the_changed_limit_says() {
    let broker = Broker::start_with(Options::new(Routing::Core).set("max.connections", "40"));
    let mut client = Client::connect(&broker);
    assert_eq!(set(&mut client, BROKER, "", "max.connections", Some("4")).0, 0);
    let metric = |name: &str| {
        let (_, text) = broker.admin_get("/metrics");
        let values = text.lines().filter(|line| line.starts_with(name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let request = ListConfigResourcesRequest::default();
    let mut open: Vec<_> = (0..10)
        .filter_map(|_| odradek_test_harness::Connection::try_open(broker.port()).ok())
        .filter_map(|mut connection| connection.try_call(1, &request).is_ok().then_some(connection))
        .collect();
    assert_eq!(open.len(), 3, "and the client's own");
    assert_eq!(metric("odradek_connections_open"), 4.0);
    assert_eq!(set(&mut client, BROKER, "", "max.connections", Some("6")).0, 0);
    for _ in 0..2 {
        let mut connection = odradek_test_harness::Connection::open(broker.port());
        connection.call(1, &request);
        open.push(connection);
    }
    assert_eq!(metric("odradek_connections_open"), 6.0);
}

#[test]
fn the_older_way_to_alter_settings_replaces_them() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("t", 1, &[("retention.ms", "5000"), ("segment.bytes", "1048576")]);
    for version in 0..=2 {
        let config = alter_configs_request::AlterableConfig::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text(&format!("{}000", 6 + version))));
        let resource = alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text("t"))
            .with_configs(vec![config]);
        let request = AlterConfigsRequest::default().with_resources(vec![resource]);
        let validated = client.bootstrap().call(version, &request.clone().with_validate_only(true));
        assert_eq!(validated.responses[0].error_code, 0);
        let before = if version == 0 { "5000".to_string() } else { format!("{}000", 5 + version) };
        assert_eq!(get(&mut client, TOPIC, "t", "retention.ms").0, before, "nothing was changed");
        assert_eq!(client.bootstrap().call(version, &request).responses[0].error_code, 0);
        assert_eq!(get(&mut client, TOPIC, "t", "retention.ms").0, format!("{}000", 6 + version));
        assert_eq!(get(&mut client, TOPIC, "t", "segment.bytes"), ("1073741824".to_string(), 5, false));
    }
}

#[test]
fn log_directories_say_what_is_in_them() {
    for routing in Routing::BOTH {
        let options = Options::new(routing).other_dirs(&[Path::new("second")]);
        let broker = Broker::start_with(options);
        let mut client = Client::connect(&broker);
        client.create_topic("sizes", 4, &[]);
        for partition in 0..4 {
            for _ in 0..=partition {
                client.produce("sizes", partition, &Batch::of(&[vec![1; 1000]], now_ms()));
            }
        }
        let mut sizes = std::collections::BTreeMap::new();
        let ports: Vec<u16> = match routing {
            Routing::Node => vec![broker.port()],
            Routing::Core => vec![broker.port() + 1, broker.port() + 2],
        };
        for version in 1..=4 {
            sizes.clear();
            for port in &ports {
                let all = DescribeLogDirsRequest::default().with_topics(None);
                let response = odradek_test_harness::Connection::open(*port).call(version, &all);
                let paths: Vec<_> = response.results.iter().map(|dir| dir.log_dir.to_string()).collect();
                let dirs = [broker.data_dir(), broker.other_dir("second")];
                assert_eq!(paths, dirs.map(|dir| dir.display().to_string()));
                for dir in &response.results {
                    assert_eq!(dir.error_code, 0);
                    assert_eq!(dir.total_bytes > 1 << 20 && dir.usable_bytes > 0, version >= 4, "{dir:?}");
                    for partition in dir.topics.iter().flat_map(|topic| &topic.partitions) {
                        assert_eq!((partition.offset_lag, partition.is_future_key), (0, false));
                        sizes.insert(partition.partition_index, partition.partition_size);
                    }
                }
            }
            let sizes: Vec<i64> = sizes.values().copied().collect();
            assert_eq!(sizes.len(), 4, "each in one directory, of one broker");
            assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "{sizes:?}");
            assert!(sizes[0] > 1000 && sizes[0] < 1200, "{sizes:?}");
        }
    }
}

#[test]
fn a_log_directory_that_cannot_be_used_has_an_error_and_the_others_have_none() {
    let mut broker = Broker::start_with(Options::new(Routing::Node).other_dirs(&[Path::new("second")]));
    let mut client = Client::connect(&broker);
    client.create_topic("t", 4, &[]);
    broker.stop();
    std::fs::rename(broker.other_dir("second"), broker.other_dir("elsewhere")).expect("it is there");
    broker.start_again();
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let response = Client::connect(&broker).bootstrap().call(4, &request);
    let shown: Vec<_> = response.results.iter().map(|dir| (dir.error_code, dir.topics.len())).collect();
    assert_eq!(shown, [(0, 1), (ResponseError::KafkaStorageError.code(), 0)]);
}

#[test]
fn topics_come_page_by_page() {
    let broker = Broker::start_with(Options::new(Routing::Core).set("max.request.partition.size.limit", "3"));
    let mut client = Client::connect(&broker);
    client.create_topic("a", 4, &[]);
    client.create_topic("b", 2, &[]);
    let mut request = DescribeTopicPartitionsRequest::default().with_response_partition_limit(100);
    let mut seen = Vec::new();
    loop {
        let response = client.bootstrap().call(0, &request);
        for topic in &response.topics {
            let name = topic.name.as_ref().expect("it has one").to_string();
            seen.extend(topic.partitions.iter().map(|it| (name.clone(), it.partition_index, it.leader_id.0)));
        }
        let Some(next) = response.next_cursor else { break };
        let cursor = Cursor::default().with_topic_name(next.topic_name);
        request.cursor = Some(cursor.with_partition_index(next.partition_index));
    }
    let indexes: Vec<_> = seen.iter().map(|(name, index, _)| (name.as_str(), *index)).collect();
    assert_eq!(indexes, [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("b", 1)]);
    assert!(seen.iter().all(|(_, _, leader)| [1000, 1001].contains(leader)), "{seen:?}");
    let unknown = TopicRequest::default().with_name(topic_name("nosuch"));
    let request = DescribeTopicPartitionsRequest::default().with_topics(vec![unknown]);
    let response = client.bootstrap().call(0, &request);
    assert_eq!(response.topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());
}

#[test]
fn leaders_stay_and_nothing_moves() {
    let broker = Broker::start(Routing::Core);
    let mut client = Client::connect(&broker);
    client.create_topic("t", 2, &[]);
    for version in 0..=2 {
        let topic = TopicPartitions::default().with_topic(topic_name("t")).with_partitions(vec![0, 1, 2]);
        let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic]));
        let response = client.bootstrap().call(version, &request);
        let codes: Vec<i16> =
            response.replica_election_results[0].partition_result.iter().map(|it| it.error_code).collect();
        let not_needed = ResponseError::ElectionNotNeeded.code();
        assert_eq!(codes, [not_needed, not_needed, ResponseError::UnknownTopicOrPartition.code()]);
        assert_eq!(response.error_code, 0);
    }
    let all = ListPartitionReassignmentsRequest::default();
    let response = client.bootstrap().call(0, &all);
    assert_eq!((response.error_code, response.topics.len()), (0, 0));
}

#[test]
fn resources_with_settings_are_listed() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("t", 1, &[]);
    assert_eq!(set(&mut client, CLIENT_METRICS, "fetching", "metrics", Some("*")).0, 0);
    assert_eq!(set(&mut client, GROUP, "g", "consumer.session.timeout.ms", Some("50000")).0, 0);
    let mut list = |version, types: &[i8]| {
        let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
        let response = client.bootstrap().call(version, &request);
        let listed = response.config_resources.iter();
        let listed: Vec<_> = listed.map(|it| (it.resource_type, it.resource_name.to_string())).collect();
        (response.error_code, listed)
    };
    let metrics = (CLIENT_METRICS, "fetching".to_string());
    let group = (GROUP, "g".to_string());
    let all = [(TOPIC, "t".to_string()), (BROKER, "1".to_string()), metrics.clone(), group.clone()];
    assert_eq!(list(1, &[]), (0, all.to_vec()));
    assert_eq!(list(1, &[TOPIC]), (0, all[..1].to_vec()));
    assert_eq!(list(1, &[GROUP]), (0, vec![group]));
    assert_eq!(list(0, &[]), (0, vec![metrics]));
    assert_eq!(list(1, &[99]).0, ResponseError::UnsupportedVersion.code());
}

#[test]
fn offsets_are_looked_up_by_every_name_that_a_version_has() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("t", 1, &[]);
        for (number, time) in [100, 300, 200].into_iter().enumerate() {
            let batch = Batch::of(&[format!("{number}")], now_ms() - 1000 + time);
            client.produce("t", 0, &batch);
        }
        let mut look_up = |version, timestamp| {
            let partition =
                ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
            let topic = ListOffsetsTopic::default().with_name(topic_name("t"));
            let topics = vec![topic.with_partitions(vec![partition])];
            let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics);
            let response = client.to_leader("t", 0).call(version, &request);
            let answer = &response.topics[0].partitions[0];
            (answer.error_code, answer.offset)
        };
        const UNSUPPORTED: i16 = 35;
        for version in 1..=10 {
            assert_eq!(look_up(version, -2), (0, 0), "earliest");
            assert_eq!(look_up(version, -1), (0, 3), "latest");
            let largest = if version >= 7 { (0, 1) } else { (UNSUPPORTED, -1) };
            assert_eq!(look_up(version, -3), largest, "of the largest timestamp, version {version}");
            let local = if version >= 8 { (0, 0) } else { (UNSUPPORTED, -1) };
            assert_eq!(look_up(version, -4), local, "earliest on this broker, version {version}");
            let tiered = if version >= 9 { (0, -1) } else { (UNSUPPORTED, -1) };
            assert_eq!(look_up(version, -5), tiered, "latest in tiered storage, version {version}");
            assert_eq!(look_up(version, -6), (UNSUPPORTED, -1));
        }
    }
}

#[test]
fn the_quorum_of_one_node_is_described_and_every_start_is_a_term_of_its_own() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let described = |broker: &Broker| {
            let mut client = Client::connect(broker);
            let answers = (0..=2).map(|version| {
                let response = client.bootstrap().call(version, &ask_quorum("__cluster_metadata"));
                assert_eq!((response.error_code, response.topics.len()), (0, 1));
                response.topics[0].partitions[0].clone()
            });
            answers.last().expect("three versions")
        };
        let first = described(&broker);
        let leader = first.leader_id.0;
        assert_eq!((first.error_code, first.current_voters.len(), first.observers.len()), (0, 1, 0));
        assert_eq!(first.current_voters[0].replica_id.0, leader);
        assert_eq!(first.current_voters[0].log_end_offset, first.high_watermark);
        Client::connect(&broker).create_topic("t", 1, &[]);
        let then = described(&broker);
        assert_eq!(then.high_watermark, first.high_watermark + 1);
        assert_eq!(then.leader_epoch, first.leader_epoch);
        broker.stop();
        broker.start_again();
        let last = described(&broker);
        assert_eq!(last.leader_epoch, first.leader_epoch + 1);
        assert!(last.high_watermark > then.high_watermark);
        let mut client = Client::connect(&broker);
        let response = client.bootstrap().call(2, &ask_quorum("t"));
        let code = response.topics[0].partitions[0].error_code;
        assert_eq!(code, ResponseError::UnknownTopicOrPartition.code());

        let status = |form: &[&str]| {
            let output = Command::new(binary())
                .args(["cluster", "status"])
                .args(form)
                .args(["--brokers", &broker.bootstrap()])
                .output()
                .expect("the command runs");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        let shown = status(&[]);
        let line = format!("Quorum: led by {leader} in term {}, ", last.leader_epoch);
        assert!(shown.contains(&line), "{shown}");
        assert!(shown.contains("1 topics, 1 partitions, 0 under-replicated, 0 offline, 0 moving"), "{shown}");
        assert_eq!(shown.contains("\nNODE "), matches!(routing, Routing::Core), "{shown}");
        let shown: serde_json::Value = serde_json::from_str(&status(&["--json"])).expect("JSON");
        assert_eq!(shown["quorum"]["leader"], leader);
        assert_eq!(shown["quorum"]["members"][0]["lag"], 0);
        let leaders = shown["brokers"].as_array().expect("brokers").iter().map(|it| it["leaders"].as_u64());
        assert_eq!(leaders.map(|count| count.expect("a number")).sum::<u64>(), 1);
        let brokers = shown["brokers"].as_array().expect("brokers").iter();
        let per_core = brokers.flat_map(|it| it["leaders_per_core"].as_array().expect("counts"));
        assert_eq!(per_core.map(|count| count.as_u64().expect("a number")).sum::<u64>(), 1, "{shown}");
        broker.stop();
    }
}

fn ask_quorum(topic: &str) -> DescribeQuorumRequest {
    let partition = describe_quorum_request::PartitionData::default().with_partition_index(0);
    let topic = describe_quorum_request::TopicData::default()
        .with_topic_name(topic_name(topic))
        .with_partitions(vec![partition]);
    DescribeQuorumRequest::default().with_topics(vec![topic])
}

/// As with Kafka, never more replicas have to be in sync than there are (`Partition.effectiveMinIsr`).
#[test]
fn one_replica_is_enough_where_there_is_one() {
    let mut broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("t", 1, &[("min.insync.replicas", "2"), ("unclean.leader.election.enable", "true")]);
    assert_eq!(client.produce("t", 0, &Batch::of(&["value"], now_ms())), 0);
    broker.stop();
}
