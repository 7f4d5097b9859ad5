//! Precedence, misspellings and conflicts, as a user would write them.

use super::*;

#[test]
fn every_default_of_the_table_is_valid_and_kafkas() {
    let config = resolve("", &[], &[]).expect("the defaults");
    assert_eq!(config.entries().len(), PROPERTIES.len());
    assert_eq!(config.node_id, NodeId(1));
    assert_eq!(config.listen.to_string(), "127.0.0.1:9092");
    assert_eq!(config.log_segment_bytes, 1 << 30);
    assert_eq!(config.log_retention(), Some(Duration::from_secs(168 * 3_600)));
    assert_eq!(config.log_roll(), Duration::from_secs(168 * 3_600));
    assert_eq!(config.log_retention_bytes, None);
    assert_eq!(config.message_max_bytes, 1_048_588);
    assert_eq!(config.connections_max_idle, Some(Duration::from_secs(600)));
    assert_eq!(config.cores, 4);
    assert_eq!(config.cpus, [2, 3, 5, 7]);
    assert_eq!(config.memory_bytes, 4 << 30);
    assert_eq!(config.admin_listen.map(|listen| listen.port), Some(9644));
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let file = "node-id = 2\ncores = 2\nrack = 'a'\n";
    let environment = [("ODRADEK_NODE_ID", "3"), ("ODRADEK_CORES", "3"), ("PATH", "/bin")];
    let config = resolve(file, &environment, &[("--node-id", "node-id", "4")]).expect("valid");
    assert_eq!((config.node_id, config.cores, config.rack.as_deref()), (NodeId(4), 3, Some("a")));
    let origin = |name: &str| {
        let entry = config.entries().iter().find(|entry| entry.property.name == name);
        entry.expect("every setting has an entry").origin.to_string()
    };
    assert_eq!(origin("node-id"), "flag --node-id");
    assert_eq!(origin("cores"), "environment ODRADEK_CORES");
    assert_eq!(origin("rack"), "file odradek.toml");
    assert_eq!(origin("listen"), "default");
}

#[test]
fn selectors_have_names_of_ours_and_of_kafkas_classes() {
    let selector = |text: &str| {
        let config = resolve("", &[], &[("--set", "replica.selector.class", text)]).ok()?;
        let shown = config.entries().iter().find(|entry| entry.property.name == "replica.selector.class");
        Some((config.replica_selector, shown.expect("every setting has an entry").value.clone()))
    };
    let rack_aware = Some((ReplicaSelector::RackAware, "rack-aware".to_owned()));
    let leader = Some((ReplicaSelector::Leader, "leader".to_owned()));
    assert_eq!(selector("rack-aware"), rack_aware);
    assert_eq!(selector("org.apache.kafka.common.replica.RackAwareReplicaSelector"), rack_aware);
    assert_eq!(selector("leader"), leader);
    assert_eq!(selector("org.apache.kafka.common.replica.LeaderSelector"), leader);
    assert_eq!(selector("org.example.Selector"), None);
}

#[test]
fn kafka_names_work_quoted_nested_by_variable_and_by_set() {
    let quoted = resolve("\"log.segment.bytes\" = \"512MiB\"", &[], &[]).expect("quoted");
    assert_eq!(quoted.log_segment_bytes, 512 << 20);
    let nested = resolve("[log.segment]\nbytes = 65536\n[log.retention]\nms = -1", &[], &[]).expect("nested");
    assert_eq!((nested.log_segment_bytes, nested.log_retention()), (65_536, None));
    let bare = resolve("log.segment.bytes = 65536", &[], &[]).expect("bare");
    assert_eq!(bare.log_segment_bytes, 65_536);
    let variable = resolve("", &[("ODRADEK_LOG_SEGMENT_BYTES", "1m")], &[]).expect("variable");
    assert_eq!(variable.log_segment_bytes, 1 << 20);
    let set = [("--set log.segment.bytes", "log.segment.bytes", "2m")];
    assert_eq!(resolve("", &[], &set).expect("set").log_segment_bytes, 2 << 20);
}

#[test]
fn the_shown_value_is_in_kafkas_spelling() {
    let config =
        resolve("'log.segment.bytes' = '1MiB'\n'log.retention.hours' = '7d'", &[], &[]).expect("valid");
    let shown = |name: &str| {
        config.entries().iter().find(|entry| entry.property.name == name).map(|entry| entry.value.as_str())
    };
    assert_eq!(shown("log.segment.bytes"), Some("1048576"));
    assert_eq!(shown("log.retention.hours"), Some("168"));
    assert_eq!(shown("rack"), Some(""));
}

#[test]
fn data_directories_are_a_list_however_they_are_written() {
    let dirs = |result: Result<Config, ConfigError>| {
        let dirs = result.map(|config| config.data_dirs)?;
        Ok::<_, ConfigError>(dirs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
    };
    assert_eq!(dirs(resolve("data-dir = '/a'", &[], &[])), Ok(vec!["/a".to_owned()]));
    let two = Ok(vec!["/a".to_owned(), "/b/c".to_owned()]);
    assert_eq!(dirs(resolve("data-dir = ['/a', '/b/c']", &[], &[])), two);
    assert_eq!(dirs(resolve("", &[("ODRADEK_DATA_DIR", "/a, /b/c")], &[])), two);
    assert_eq!(dirs(resolve("data-dir = '/x'", &[], &[("--set data-dir", "data-dir", "/a,/b/c")])), two);
    assert!(matches!(resolve("data-dir = ['/a', '']", &[], &[]), Err(ConfigError::Invalid { .. })));
    let message = |text| resolve(text, &[], &[]).expect_err("refused").to_string();
    assert_eq!(message("data-dir = ['/a', '/b', '/a/.']"), "`data-dir` names /a/. twice: keep one of them");
    assert_eq!(
        message("data-dir = ['/a/b', '/ab', '/a']"),
        "`data-dir` names /a/b, which lies inside /a: choose directories beside each other"
    );
}

#[test]
fn the_finest_retention_wins() {
    let both = resolve("log.retention = { hours = 1, minutes = 5, ms = 1000 }", &[], &[]).expect("valid");
    assert_eq!(both.log_retention(), Some(Duration::from_secs(1)));
    let minutes = resolve("log.retention = { hours = 1, minutes = -1 }", &[], &[]).expect("valid");
    assert_eq!(minutes.log_retention(), None);
}

#[test]
fn unknown_keys_name_the_nearest_one() {
    let message = |result: Result<Config, ConfigError>| result.expect_err("unknown").to_string();
    assert_eq!(
        message(resolve("data-dri = 'x'", &[], &[])),
        "unknown setting `data-dri` (file odradek.toml): did you mean `data-dir`?"
    );
    assert_eq!(
        message(resolve("", &[("ODRADEK_LOG_SEGMENT_BYTE", "1")], &[])),
        "unknown setting `LOG_SEGMENT_BYTE` (environment ODRADEK_LOG_SEGMENT_BYTE): \
         did you mean `log.segment.bytes`?"
    );
    assert_eq!(
        message(resolve("", &[], &[("--set log.dirs", "log.dirs", "/x")])),
        "unknown setting `log.dirs` (flag --set log.dirs): did you mean `data-dir`?"
    );
    assert_eq!(
        message(resolve("zookeeper.connect = 'x'", &[], &[])),
        "unknown setting `zookeeper.connect` (file odradek.toml): `odradek config` lists them all"
    );
}

#[test]
fn variables_that_others_set_are_not_settings() {
    let kubernetes = [
        ("ODRADEK_PORT", "tcp://10.0.0.1:9092"),
        ("ODRADEK_PORT_9092_TCP", "tcp://10.0.0.1:9092"),
        ("ODRADEK_SERVICE_HOST", "10.0.0.1"),
        ("ODRADEK_CONFIG", "odradek.toml"),
        ("ODRADEK_RACK", ""),
    ];
    assert!(resolve("", &kubernetes, &[]).is_ok());
    assert_eq!(resolve("", &[("ODRADEK_LOG", "debug")], &[]).expect("valid").log_level, "debug");
}

#[test]
fn a_bad_value_says_where_it_stands_and_what_was_expected() {
    let error = resolve("memory = 'lots'", &[], &[]).expect_err("invalid").to_string();
    assert!(error.starts_with("`memory` cannot be `lots` (file odradek.toml): expected a size"), "{error}");
    let twice = resolve("data-dir = 'a'\ndata_dir = 'b'", &[], &[]);
    let path = PathBuf::from("odradek.toml");
    assert_eq!(twice.expect_err("twice"), ConfigError::SetTwice { key: "data-dir", path });
    assert!(matches!(resolve("cores = 1.5", &[], &[]), Err(ConfigError::NotAScalar { .. })));
    assert!(matches!(resolve("cores = ", &[], &[]), Err(ConfigError::Syntax { .. })));
}

#[test]
fn what_the_machine_does_not_have_is_refused() {
    assert!(matches!(resolve("cores = 5", &[], &[]), Err(ConfigError::TooManyCores { cores: 5, .. })));
    assert!(matches!(resolve("cpus = [0]", &[], &[]), Err(ConfigError::CpuNotAllowed { cpu: 0, .. })));
    let both = resolve("cores = 1\ncpus = '2,3'", &[], &[]);
    assert!(matches!(both, Err(ConfigError::CoresAndCpus { cores: 1, .. })));
    assert_eq!(resolve("cpus = [3, 7]", &[], &[]).map(|config| config.cores), Ok(2));
    assert!(matches!(resolve("memory = '128MiB'", &[], &[]), Err(ConfigError::MemoryTooSmall { .. })));
    let ports = resolve("routing = 'core'\nlisten = '127.0.0.1:65532'", &[], &[]);
    assert!(matches!(ports, Err(ConfigError::PortsPastEnd { cores: 4, port: 65_532 })));
    let message = resolve("message.max.bytes = '200MiB'", &[], &[]);
    assert!(matches!(message, Err(ConfigError::MessageAboveRequest { .. })));
}

/// Else it would wait for memory that never comes.
#[test]
fn a_request_that_no_core_could_take_in_is_refused() {
    let refused = resolve("memory = '1GiB'\n'socket.request.max.bytes' = 104857600", &[], &[]);
    let Err(error @ ConfigError::RequestAboveMemory { needed, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(error.to_string().contains(&format!("raise --memory to {needed}")), "{error}");
    let enough = format!("memory = {needed}\n'socket.request.max.bytes' = 104857600");
    assert_eq!(resolve(&enough, &[], &[]).map(|config| config.socket_request_max_bytes), Ok(100 << 20));
}

#[test]
fn the_largest_request_is_kafkas_where_memory_allows_it() {
    let request_max = |memory: &str| {
        let config = resolve(&format!("memory = '{memory}'"), &[], &[]).expect("valid");
        let shown = config.entries().iter().find(|entry| entry.property.name == "socket.request.max.bytes");
        assert_eq!(shown.map(|entry| entry.value.clone()), Some(config.socket_request_max_bytes.to_string()));
        config.socket_request_max_bytes
    };
    assert_eq!(request_max("8GiB"), 100 << 20);
    // Of an eighth of a core's part, what is not kept for small ones; with its prefix.
    assert_eq!(request_max("1GiB"), (28 << 20) - 4);
}

#[test]
fn a_wildcard_listener_advertises_the_hosts_name() {
    let config = resolve("listen = '0.0.0.0:9092'", &[], &[]).expect("valid");
    assert_eq!(config.advertised(&config.listen, "box").to_string(), "box:9092");
    let config = resolve("listen = '0.0.0.0:9092'\nadvertise = 'broker:1'", &[], &[]).expect("valid");
    assert_eq!(config.advertised(&config.listen, "box").to_string(), "broker:1");
}

#[test]
fn names_are_unique_in_every_spelling() {
    let variables: std::collections::BTreeSet<_> = PROPERTIES.iter().map(Property::environment).collect();
    assert_eq!(variables.len(), PROPERTIES.len());
    assert_eq!(property::markdown().lines().count(), PROPERTIES.len() + 2);
}

fn resolve(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str, &str)],
) -> Result<Config, ConfigError> {
    let environment: Vec<_> =
        environment.iter().map(|(variable, value)| (variable.to_string(), value.to_string())).collect();
    let flags: Vec<_> = flags
        .iter()
        .map(|(flag, key, value)| (flag.to_string(), key.to_string(), value.to_string()))
        .collect();
    let file = (!file.is_empty()).then_some((Path::new("odradek.toml"), file));
    let machine = Machine { cpus_allowed: vec![2, 3, 5, 7], memory_bytes: 8 << 30 };
    Config::resolve(&Inputs { file, environment: &environment, flags: &flags }, &machine)
}
