//! The topic commands against a scripted broker, in every version that they can speak.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message, Request, decode_request_header_from_buffer,
};

use super::*;
use odradek::config::HostPort;

#[test]
fn every_version_of_every_command_is_understood() {
    for version in 2..=7 {
        let mut client = client(CreateTopicsRequest::KEY, version);
        let arguments =
            create_arguments(&["create", "t", "taken", "-p", "3", "-r", "1", "-c", "retention.ms=5"]);
        let outcomes = create(&mut client, &arguments).expect("answered");
        assert_eq!(outcomes[0].failure(), None, "version {version}");
        let failure = outcomes[1].failure().expect("the name is taken");
        assert!(
            failure.starts_with("taken: TOPIC_ALREADY_EXISTS: it is there"),
            "version {version}: {failure}"
        );
    }
    for version in 1..=6 {
        let mut client = client(DeleteTopicsRequest::KEY, version);
        let outcomes = delete(&mut client, &["t".to_string(), "taken".to_string()], true).expect("answered");
        let done: Vec<_> = outcomes.iter().map(|outcome| outcome.done.as_str()).collect();
        assert_eq!(done, ["t does not exist", "deleted taken"], "version {version}");
    }
    for version in 0..=3 {
        let mut client = client(CreatePartitionsRequest::KEY, version);
        let outcomes = add_partitions(&mut client, &["taken".to_string()], 9).expect("answered");
        assert_eq!(outcomes[0].json(), json!({ "topic": "taken", "partitions": 9 }), "version {version}");
    }
    for version in 0..=1 {
        let mut client = client(IncrementalAlterConfigsRequest::KEY, version);
        let outcomes = alter(&mut client, &alter_arguments()).expect("answered");
        assert_eq!(outcomes[0].failure(), None, "version {version}");
    }
    for version in 1..=12 {
        let mut client = client(MetadataRequest::KEY, version);
        describe::list(&mut client, true).expect("listed");
        describe::describe(&mut client, &["taken".to_string()], false).expect("described");
        let missing = describe::describe(&mut client, &["t".to_string()], true);
        assert_eq!(missing.expect_err("missing").to_string(), "t: UNKNOWN_TOPIC_OR_PARTITION");
    }
}

#[test]
fn existing_topics_are_fine_when_asked_for() {
    let mut client = client(CreateTopicsRequest::KEY, 7);
    let arguments = create_arguments(&["create", "taken", "--if-not-exists"]);
    let outcomes = create(&mut client, &arguments).expect("answered");
    assert_eq!(outcomes[0].failure(), None);
    assert_eq!((outcomes[0].done.as_str(), &outcomes[0].json()["created"]), ("taken exists", &json!(false)));
}

#[test]
fn a_broker_without_the_api_is_told_by_name() {
    let mut client = client(MetadataRequest::KEY, 12);
    let error = delete(&mut client, &["t".to_string()], false).err().expect("not offered").to_string();
    assert!(
        error.ends_with("does not support DeleteTopics in a version that this command speaks"),
        "{error}"
    );
    let error = alter(&mut client, &alter_arguments()).err().expect("not offered").to_string();
    assert!(error.contains("no IncrementalAlterConfigs"), "{error}");
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: TopicArguments,
}

fn command(line: &[&str]) -> TopicCommand {
    let line = Line::try_parse_from([&["topic"], line].concat());
    line.expect("a valid command line").arguments.command
}

fn create_arguments(line: &[&str]) -> CreateArguments {
    match command(line) {
        TopicCommand::Create(arguments) => arguments,
        other => panic!("{other:?}"),
    }
}

fn alter_arguments() -> AlterArguments {
    match command(&["alter", "taken", "--config", "retention.ms=5", "--delete-config", "cleanup.policy"]) {
        TopicCommand::Alter(arguments) => arguments,
        other => panic!("{other:?}"),
    }
}

/// A client of a broker that offers one API, in one version. The topic `taken` exists, `t` does not.
fn client(api_key: i16, version: i16) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        while let Some(request) = frame(&mut stream) {
            let answer = answer(request, api_key, version);
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    Client::connect(&[HostPort { host: "127.0.0.1".to_string(), port }]).expect("it listens")
}

fn frame(stream: &mut TcpStream) -> Option<Bytes> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).ok()?;
    Some(body.into())
}

fn answer(mut frame: Bytes, offered: i16, offered_version: i16) -> Vec<u8> {
    let header = decode_request_header_from_buffer(&mut frame).expect("a header");
    let (version, id) = (header.request_api_version, header.correlation_id);
    match ApiKey::try_from(header.request_api_key).expect("a known API") {
        ApiKey::ApiVersions => {
            let ranges = [(ApiVersionsRequest::KEY, 0, 3), (offered, offered_version, offered_version)];
            let ranges = ranges.into_iter().chain(
                // Describe asks for both.
                (offered == MetadataRequest::KEY).then_some((DescribeConfigsRequest::KEY, 1, 4)),
            );
            let api_keys = ranges.map(|(key, min, max)| {
                ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
            });
            reply(id, version, ApiVersionsResponse::default().with_api_keys(api_keys.collect()))
        }
        ApiKey::CreateTopics => {
            let request: CreateTopicsRequest = whole(frame, version);
            let results = request.topics.into_iter().map(|topic| {
                let taken = topic.name.0.as_str() == "taken";
                let result = CreatableTopicResult::default()
                    .with_name(topic.name)
                    .with_error_code(if taken { TOPIC_ALREADY_EXISTS } else { 0 })
                    .with_error_message(taken.then(|| text("it is there")));
                if version >= 5 { result.with_num_partitions(3).with_replication_factor(1) } else { result }
            });
            reply(id, version, CreateTopicsResponse::default().with_topics(results.collect()))
        }
        ApiKey::DeleteTopics => {
            let request: DeleteTopicsRequest = whole(frame, version);
            let named = request.topics.into_iter().filter_map(|topic| topic.name);
            let results = named.chain(request.topic_names).map(|topic| {
                let code = if topic.0.as_str() == "taken" { 0 } else { UNKNOWN_TOPIC_OR_PARTITION };
                DeletableTopicResult::default().with_name(Some(topic)).with_error_code(code)
            });
            reply(id, version, DeleteTopicsResponse::default().with_responses(results.collect()))
        }
        ApiKey::CreatePartitions => {
            let request: CreatePartitionsRequest = whole(frame, version);
            let results = request
                .topics
                .into_iter()
                .map(|topic| CreatePartitionsTopicResult::default().with_name(topic.name));
            reply(id, version, CreatePartitionsResponse::default().with_results(results.collect()))
        }
        ApiKey::IncrementalAlterConfigs => {
            let request: IncrementalAlterConfigsRequest = whole(frame, version);
            let operations: Vec<_> =
                request.resources[0].configs.iter().map(|config| config.config_operation).collect();
            assert_eq!(operations, [0, 1], "set, then delete");
            let results = request.resources.into_iter().map(|resource| {
                AlterConfigsResourceResponse::default().with_resource_name(resource.resource_name)
            });
            reply(id, version, IncrementalAlterConfigsResponse::default().with_responses(results.collect()))
        }
        ApiKey::Metadata => {
            let request: MetadataRequest = whole(frame, version);
            assert!(version < 4 || !request.allow_auto_topic_creation, "asking must create nothing");
            let names =
                request.topics.map(|topics| topics.into_iter().filter_map(|topic| topic.name).collect());
            let topics = names.unwrap_or_else(|| vec![name("taken")]).into_iter().map(|topic| {
                let found = topic.0.as_str() == "taken";
                let partition = MetadataResponsePartition::default().with_replica_nodes(vec![BrokerId(1)]);
                MetadataResponseTopic::default()
                    .with_error_code(if found { 0 } else { UNKNOWN_TOPIC_OR_PARTITION })
                    .with_partitions(if found { vec![partition] } else { Vec::new() })
                    .with_name(Some(topic))
            });
            reply(id, version, MetadataResponse::default().with_topics(topics.collect()))
        }
        ApiKey::DescribeConfigs => {
            let request: DescribeConfigsRequest = whole(frame, version);
            let config = DescribeConfigsResourceResult::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text("5")))
                .with_config_source(1);
            let results = request.resources.into_iter().map(|resource| {
                DescribeConfigsResult::default()
                    .with_resource_name(resource.resource_name)
                    .with_configs(vec![config.clone()])
            });
            reply(id, version, DescribeConfigsResponse::default().with_results(results.collect()))
        }
        other => panic!("{other:?} was not offered"),
    }
}

fn whole<R: Decodable + Message>(mut frame: Bytes, version: i16) -> R {
    let request = R::decode(&mut frame, version).expect("a valid request");
    assert!(frame.is_empty(), "nothing is left over");
    request
}

fn reply<R: Encodable + Message + HeaderVersion>(correlation_id: i32, version: i16, response: R) -> Vec<u8> {
    let mut body = BytesMut::new();
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header.encode(&mut body, R::header_version(version)).expect("valid");
    response.encode(&mut body, version).expect("valid");
    let mut frame = BytesMut::new();
    frame.put_u32(body.len() as u32);
    frame.extend_from_slice(&body);
    frame.to_vec()
}
