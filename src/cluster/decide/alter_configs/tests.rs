use super::*;
use crate::cluster::brokers::Brokers;
use crate::cluster::decide::tests::Cluster;
use crate::cluster::image::tests::{add_topic, node};
use crate::codec::error_code::ErrorCode;
use crate::config::Routing;
use crate::types::NodeId;

const TOPIC: i8 = ResourceType::Topic as i8;
const BROKER: i8 = ResourceType::Broker as i8;
const CLIENT_METRICS: i8 = ResourceType::ClientMetrics as i8;
const GROUP: i8 = ResourceType::Group as i8;

fn resource(kind: i8, name: &str, configs: &[(&str, i8, Option<&str>)]) -> AlterConfigsResource {
    let config = |&(name, operation, value): &(&str, i8, Option<&str>)| {
        AlterableConfig::default()
            .with_name(StrBytes::from_string(name.to_owned()))
            .with_config_operation(operation)
            .with_value(value.map(|value| StrBytes::from_string(value.to_owned())))
    };
    AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(StrBytes::from_string(name.to_owned()))
        .with_configs(configs.iter().map(config).collect())
}

fn decide(cluster: &mut Cluster, resources: Vec<AlterConfigsResource>) -> Vec<(Option<ErrorCode>, String)> {
    let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
    let (_, response) =
        cluster.decide(|controller, _| decide_incremental_alter_configs(controller, &request));
    let message = |text: &Option<StrBytes>| text.as_ref().map(|text| text.to_string()).unwrap_or_default();
    let answer = |response: &AlterConfigsResourceResponse| {
        (ErrorCode::from_wire(response.error_code), message(&response.error_message))
    };
    response.responses.iter().map(answer).collect()
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(1, Routing::Node);
    add_topic(&mut cluster.image, 1, "a", &[0]);
    cluster
}

fn value(cluster: &Cluster, key: &str) -> Option<String> {
    cluster.image.topic_named("a").expect("exists").config.get(key).cloned()
}

#[test]
fn set_and_delete_an_override() {
    let mut cluster = cluster();
    let set = resource(TOPIC, "a", &[("retention.ms", 0, Some("5")), ("segment.ms", 0, Some("7"))]);
    assert_eq!(decide(&mut cluster, vec![set])[0].0, Some(ErrorCode::None));
    assert_eq!(value(&cluster, "retention.ms").as_deref(), Some("5"));
    let delete = resource(TOPIC, "a", &[("retention.ms", 1, None)]);
    assert_eq!(decide(&mut cluster, vec![delete])[0].0, Some(ErrorCode::None));
    assert_eq!(value(&cluster, "retention.ms"), None);
    assert_eq!(value(&cluster, "segment.ms").as_deref(), Some("7"));
}

#[test]
fn unchanged_values_leave_no_record() {
    let mut cluster = cluster();
    let set = || vec![resource(TOPIC, "a", &[("retention.ms", 0, Some("5")), ("segment.ms", 1, None)])];
    let request = IncrementalAlterConfigsRequest::default().with_resources(set());
    let (records, _) = cluster.decide(|controller, _| decide_incremental_alter_configs(controller, &request));
    assert_eq!(records.len(), 1);
    let (records, _) = cluster.decide(|controller, _| decide_incremental_alter_configs(controller, &request));
    assert_eq!(records, []);
}

#[test]
fn lists_are_appended_to_and_subtracted_from() {
    let mut cluster = cluster();
    let key = "leader.replication.throttled.replicas";
    let append = |words| resource(TOPIC, "a", &[(key, 2, Some(words))]);
    decide(&mut cluster, vec![append("0:1,1:1")]);
    decide(&mut cluster, vec![append("1:1,2:1")]);
    assert_eq!(value(&cluster, key).as_deref(), Some("0:1,1:1,2:1"));
    decide(&mut cluster, vec![resource(TOPIC, "a", &[(key, 3, Some("1:1"))])]);
    assert_eq!(value(&cluster, key).as_deref(), Some("0:1,2:1"));
    decide(&mut cluster, vec![append("2:1,3:1,3:1")]);
    assert_eq!(value(&cluster, key).as_deref(), Some("0:1,2:1,3:1"));
    // The default is what is appended to where there is no override.
    let compact = resource(TOPIC, "a", &[("cleanup.policy", 2, Some("compact"))]);
    decide(&mut cluster, vec![compact]);
    assert_eq!(value(&cluster, "cleanup.policy").as_deref(), Some("delete,compact"));
}

#[test]
fn internal_topics_stay_compacted() {
    let mut cluster = cluster();
    let name = topic_name::INTERNAL[0];
    add_topic(&mut cluster.image, 2, name, &[0]);
    let policy = |operation, value| resource(TOPIC, name, &[("cleanup.policy", operation, value)]);
    assert_eq!(decide(&mut cluster, vec![policy(0, Some("compact"))])[0].0, Some(ErrorCode::None));
    // Also with deletion: an operator may want a bound.
    assert_eq!(decide(&mut cluster, vec![policy(2, Some("delete"))])[0].0, Some(ErrorCode::None));
    let before = cluster.image.clone();
    for refused in [policy(3, Some("compact")), policy(0, Some("delete")), policy(1, None)] {
        let answers = decide(&mut cluster, vec![refused]);
        assert_eq!(answers[0].0, Some(ErrorCode::InvalidConfig), "{answers:?}");
        assert_eq!(cluster.image, before);
    }
    let other = resource(TOPIC, name, &[("segment.ms", 0, Some("7"))]);
    assert_eq!(decide(&mut cluster, vec![other])[0].0, Some(ErrorCode::None));
}

#[test]
fn refusals_change_nothing() {
    let scripts = [
        (resource(TOPIC, "a", &[("retention.ms", 0, Some("x"))]), ErrorCode::InvalidConfig),
        (resource(TOPIC, "a", &[("nosuch", 0, Some("1"))]), ErrorCode::InvalidConfig),
        (resource(TOPIC, "a", &[("retention.ms", 2, Some("1"))]), ErrorCode::InvalidConfig),
        (resource(TOPIC, "a", &[("retention.ms", 0, None)]), ErrorCode::InvalidRequest),
        (resource(TOPIC, "a", &[("retention.ms", 9, Some("1"))]), ErrorCode::InvalidRequest),
        (
            resource(TOPIC, "a", &[("segment.ms", 0, Some("1")), ("segment.ms", 0, Some("2"))]),
            ErrorCode::InvalidRequest,
        ),
        (
            resource(TOPIC, "a", &[("segment.ms", 0, Some("1")), ("retention.ms", 0, Some("x"))]),
            ErrorCode::InvalidConfig,
        ),
        (resource(TOPIC, "b", &[("segment.ms", 0, Some("1"))]), ErrorCode::UnknownTopicOrPartition),
        (resource(TOPIC, "", &[("segment.ms", 0, Some("1"))]), ErrorCode::InvalidRequest),
        (resource(TOPIC, "a/b", &[]), ErrorCode::InvalidTopicException),
        (resource(BROKER, "1", &[("num.partitions", 0, Some("1"))]), ErrorCode::InvalidRequest),
        (resource(BROKER, "", &[("nosuch", 0, Some("1"))]), ErrorCode::InvalidConfig),
        (resource(BROKER, "", &[("log.retention.ms", 0, Some("x"))]), ErrorCode::InvalidRequest),
        (resource(BROKER, "", &[("log.retention.ms", 2, Some("1"))]), ErrorCode::InvalidConfig),
        (resource(BROKER, "7", &[("log.retention.ms", 0, Some("1"))]), ErrorCode::InvalidRequest),
        (resource(BROKER, "x", &[("log.retention.ms", 0, Some("1"))]), ErrorCode::InvalidRequest),
        (resource(BROKER, "01", &[("log.retention.ms", 0, Some("1"))]), ErrorCode::InvalidRequest),
        (resource(BROKER, "+1", &[("log.retention.ms", 0, Some("1"))]), ErrorCode::InvalidRequest),
        (resource(CLIENT_METRICS, "", &[("metrics", 0, Some("*"))]), ErrorCode::InvalidRequest),
        (resource(CLIENT_METRICS, "m", &[("nosuch", 0, Some("*"))]), ErrorCode::InvalidRequest),
        (resource(CLIENT_METRICS, "m", &[("interval.ms", 0, Some("1"))]), ErrorCode::InvalidRequest),
        (resource(CLIENT_METRICS, "m", &[("interval.ms", 0, Some("x"))]), ErrorCode::InvalidConfig),
        (resource(CLIENT_METRICS, "m", &[("match", 0, Some("a"))]), ErrorCode::InvalidConfig),
        (resource(8, "1", &[("odradek", 0, Some("DEBUG"))]), ErrorCode::InvalidRequest),
    ];
    for (resource, code) in scripts {
        let mut cluster = cluster();
        let before = cluster.image.clone();
        assert_eq!(decide(&mut cluster, vec![resource.clone()])[0].0, Some(code), "{resource:?}");
        assert_eq!(cluster.image, before);
    }
}

#[test]
fn resource_that_occurs_twice_is_refused_twice() {
    let mut cluster = cluster();
    let set = || resource(TOPIC, "a", &[("segment.ms", 0, Some("1"))]);
    let answers = decide(&mut cluster, vec![set(), set()]);
    assert!(answers.iter().all(|(code, _)| *code == Some(ErrorCode::InvalidRequest)));
    assert_eq!(answers.len(), 2);
    assert_eq!(value(&cluster, "segment.ms"), None);
}

fn replace(cluster: &mut Cluster, name: &str, configs: &[(&str, Option<&str>)]) -> Option<ErrorCode> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let configs = configs.iter().map(|(name, value)| {
        alter_configs_request::AlterableConfig::default().with_name(text(name)).with_value(value.map(text))
    });
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    let (_, response) = cluster.decide(|controller, _| decide_alter_configs(controller, &request));
    ErrorCode::from_wire(response.responses[0].error_code)
}

#[test]
fn the_older_way_replaces_everything_that_was_set() {
    let mut cluster = cluster();
    let set = [("retention.ms", Some("5")), ("segment.ms", Some("7"))];
    assert_eq!(replace(&mut cluster, "a", &set), Some(ErrorCode::None));
    assert_eq!(replace(&mut cluster, "a", &[("segment.ms", Some("9"))]), Some(ErrorCode::None));
    assert_eq!(value(&cluster, "retention.ms"), None);
    assert_eq!(value(&cluster, "segment.ms").as_deref(), Some("9"));
    let before = cluster.image.clone();
    for (configs, code) in [
        (&[("segment.ms", None)][..], ErrorCode::InvalidRequest),
        (&[("segment.ms", Some("1")), ("segment.ms", Some("2"))], ErrorCode::InvalidRequest),
        (&[("segment.ms", Some("x"))], ErrorCode::InvalidConfig),
        (&[("nosuch", Some("1"))], ErrorCode::InvalidConfig),
    ] {
        assert_eq!(replace(&mut cluster, "a", configs), Some(code), "{configs:?}");
    }
    assert_eq!(replace(&mut cluster, "nosuch", &[]), Some(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(cluster.image, before);
    assert_eq!(replace(&mut cluster, "a", &[]), Some(ErrorCode::None));
    assert_eq!(value(&cluster, "segment.ms"), None);
}

#[test]
fn settings_of_brokers_are_for_all_or_for_one_node() {
    let mut cluster = Cluster::new(2, Routing::Core);
    let set = |name, value| resource(BROKER, name, &[("log.retention.ms", 0, Some(value))]);
    // Either core's broker is this node.
    for (name, value) in [("", "1000"), ("1000", "2000"), ("1001", "3000")] {
        assert_eq!(decide(&mut cluster, vec![set(name, value)])[0], (Some(ErrorCode::None), String::new()));
    }
    let get = |cluster: &Cluster, resource| {
        cluster.image.settings(resource).and_then(|all| all.get("log.retention.ms").cloned())
    };
    let node = ConfigResource::Node(NodeId(1));
    assert_eq!(get(&cluster, &ConfigResource::Brokers).as_deref(), Some("1000"));
    assert_eq!(get(&cluster, &node).as_deref(), Some("3000"));
    decide(&mut cluster, vec![resource(BROKER, "1000", &[("log.retention.ms", 1, None)])]);
    assert_eq!(get(&cluster, &node), None);
    let refused = decide(&mut cluster, vec![resource(BROKER, "", &[("num.partitions", 0, Some("3"))])]);
    assert_eq!(refused[0].1, "Cannot update these configs dynamically: Set(num.partitions)");
}

/// Whichever node decides.
#[test]
fn settings_of_other_nodes_are_theirs_and_go_with_what_is_set_for_all() {
    let mut cluster = Cluster::new(1, Routing::Node);
    cluster.image.apply(&Record::NodeRegistered(node(2, 1, Routing::Node))).expect("it is new");
    cluster.brokers = Brokers::new(&cluster.image, NodeId(1));
    let set = |name, key, value| vec![resource(BROKER, name, &[(key, 0, Some(value))])];
    let rate = "leader.replication.throttled.rate";
    assert_eq!(decide(&mut cluster, set("2", rate, "1000"))[0].0, Some(ErrorCode::None));
    let settings =
        |cluster: &Cluster, node| cluster.image.settings(&ConfigResource::Node(NodeId(node))).cloned();
    assert_eq!(settings(&cluster, 2), Some([(rate.to_owned(), "1000".to_owned())].into()));
    assert_eq!(settings(&cluster, 1), None);
    let (least, most) = ("log.cleaner.min.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms");
    assert_eq!(decide(&mut cluster, set("2", most, "5"))[0].0, Some(ErrorCode::None));
    let refused = decide(&mut cluster, set("", least, "9"));
    assert_eq!(refused[0].0, Some(ErrorCode::InvalidRequest), "node 2 has less: {}", refused[0].1);
    assert_eq!(decide(&mut cluster, set("", least, "5"))[0].0, Some(ErrorCode::None));
    assert_eq!(decide(&mut cluster, set("1", most, "4"))[0].0, Some(ErrorCode::InvalidRequest));
}

#[test]
fn subscriptions_to_metrics_come_and_go() {
    let mut cluster = cluster();
    let set =
        resource(CLIENT_METRICS, "m", &[("metrics", 2, Some("a.,b.")), ("interval.ms", 0, Some("100"))]);
    assert_eq!(decide(&mut cluster, vec![set])[0].0, Some(ErrorCode::None));
    let names = |cluster: &Cluster| {
        cluster.image.subscriptions().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&cluster), ["m"]);
    let remove = resource(CLIENT_METRICS, "m", &[("metrics", 1, None), ("interval.ms", 1, None)]);
    assert_eq!(decide(&mut cluster, vec![remove])[0].0, Some(ErrorCode::None));
    assert_eq!(names(&cluster), [""; 0]);
}

/// Both cores are one node.
#[test]
fn names_of_one_node_in_one_request_are_decided_one_after_the_other() {
    let mut cluster = Cluster::new(2, Routing::Core);
    let set = |name, key| resource(BROKER, name, &[(key, 0, Some("1000"))]);
    let replace = |key: &str| {
        let config = alter_configs_request::AlterableConfig::default()
            .with_name(StrBytes::from_string(key.to_owned()))
            .with_value(Some(StrBytes::from_static_str("1000")));
        move |name: &str| {
            alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(BROKER)
                .with_resource_name(StrBytes::from_string(name.to_owned()))
                .with_configs(vec![config.clone()])
        }
    };
    let node = ConfigResource::Node(NodeId(1));
    let names = |cluster: &Cluster| {
        let settings = cluster.image.settings(&node);
        settings.into_iter().flatten().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let answers = decide(&mut cluster, vec![set("1000", "log.retention.ms"), set("1001", "log.roll.ms")]);
    assert!(answers.iter().all(|(code, _)| *code == Some(ErrorCode::None)), "{answers:?}");
    assert_eq!(names(&cluster), ["log.retention.ms", "log.roll.ms"]);
    let resources = vec![replace("log.roll.ms")("1000"), replace("log.retention.ms")("1001")];
    let request = AlterConfigsRequest::default().with_resources(resources);
    cluster.decide(|controller, _| decide_alter_configs(controller, &request));
    assert_eq!(names(&cluster), ["log.retention.ms"], "the later one replaces what the other has set");
}

#[test]
fn one_request_adds_no_more_subscriptions_than_there_may_be() {
    let mut cluster = cluster();
    let add = |name: usize| resource(CLIENT_METRICS, &name.to_string(), &[("metrics", 0, Some("a"))]);
    let answers = decide(&mut cluster, (0..CLIENT_METRICS_SUBSCRIPTIONS_MAX + 2).map(add).collect());
    let refused: Vec<_> =
        answers.iter().enumerate().filter(|(_, it)| it.0 != Some(ErrorCode::None)).collect();
    assert_eq!(refused.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1000, 1001], "{refused:?}");
    assert_eq!(cluster.image.subscriptions().count(), CLIENT_METRICS_SUBSCRIPTIONS_MAX);
    // One that goes makes room in the same request.
    let remove = resource(CLIENT_METRICS, "7", &[("metrics", 1, None)]);
    let answers = decide(&mut cluster, vec![add(5000), remove, add(5001), add(5002)]);
    let codes: Vec<bool> = answers.iter().map(|(code, _)| *code == Some(ErrorCode::None)).collect();
    assert_eq!(codes, [false, true, true, false]);
}

#[test]
fn settings_of_groups_are_within_what_the_broker_allows() {
    let mut cluster = cluster();
    let (session, heartbeat) = ("consumer.session.timeout.ms", "consumer.heartbeat.interval.ms");
    let set = |name: &str, key, value| resource(GROUP, name, &[(key, 0, Some(value))]);
    let answers = decide(&mut cluster, vec![set("g", session, "50000"), set("other", heartbeat, "7000")]);
    assert!(answers.iter().all(|(code, _)| *code == Some(ErrorCode::None)), "{answers:?}");
    let of = |cluster: &Cluster, name: &str| {
        cluster.image.settings(&ConfigResource::Group(name.to_owned())).cloned()
    };
    assert_eq!(of(&cluster, "g"), Some(Settings::from([(session.to_owned(), "50000".to_owned())])));
    let before = cluster.image.clone();
    let refused = [
        (set("g", session, "44999"), ErrorCode::InvalidConfig),
        (set("g", "share.session.timeout.ms", "45000"), ErrorCode::InvalidConfig),
        (set("g", "streams.num.standby.replicas", "1"), ErrorCode::InvalidConfig),
        (set("", session, "50000"), ErrorCode::InvalidRequest),
        (set(&"g".repeat(GROUP_ID_SIZE_MAX + 1), session, "50000"), ErrorCode::InvalidRequest),
        (resource(GROUP, "g", &[(session, 2, Some("50000"))]), ErrorCode::InvalidConfig),
        (resource(GROUP, "g", &[(session, 0, None)]), ErrorCode::InvalidRequest),
    ];
    for (resource, code) in refused {
        let answers = decide(&mut cluster, vec![resource]);
        assert_eq!(answers[0].0, Some(code), "{answers:?}");
        assert!(!answers[0].1.is_empty());
        assert_eq!(cluster.image, before);
    }
    decide(&mut cluster, vec![resource(GROUP, "g", &[(session, 1, None)])]);
    assert_eq!(of(&cluster, "g").unwrap_or_default(), Settings::new());
    let names: Vec<&str> = cluster.image.group_configs().map(|(name, _)| name).collect();
    assert_eq!(names, ["other"], "one without settings is none");
}

#[test]
fn no_more_groups_have_settings_than_may() {
    let mut cluster = cluster();
    let key = "consumer.session.timeout.ms";
    let add = |name: usize| resource(GROUP, &name.to_string(), &[(key, 0, Some("50000"))]);
    let mut answers = Vec::new();
    for from in (0..=GROUP_CONFIGS_MAX).step_by(1000) {
        answers.extend(decide(&mut cluster, (from..from + 1000).map(add).collect()));
    }
    let kept = answers.iter().filter(|(code, _)| *code == Some(ErrorCode::None)).count();
    assert_eq!((kept, cluster.image.group_configs().count()), (GROUP_CONFIGS_MAX, GROUP_CONFIGS_MAX));
    assert_eq!(answers.last().and_then(|(code, _)| *code), Some(ErrorCode::PolicyViolation));
}

/// A million words took a million million steps.
#[test]
fn long_lists_are_combined_in_time() {
    let words = (0..200_000).map(|number| format!("w{number}")).collect::<Vec<_>>().join(",");
    let combined = combine(&words, words.split(','), Operation::Append);
    assert_eq!(combined.len(), words.len());
    assert_eq!(combine(&words, words.split(','), Operation::Subtract), "");
}
