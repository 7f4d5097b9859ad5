//! The README, kept true: its generated tables are what the code says, its code map names what is
//! there, and no path, link or flag in it is one that does not exist.
//!
//! `UPDATE_EXPECT=1 cargo test --test readme -- --test-threads=1` writes the generated tables.
#![expect(clippy::disallowed_methods, reason = "reads the sources, and writes the README when asked to")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use odradek::codec::api::versions::ApiKey;
use odradek::config::{PROPERTIES, property};

#[path = "readme/kafka_apis.rs"]
mod kafka_apis;

use kafka_apis::{BEHAVIOUR, KAFKA, NEWER_VERSIONS, NOT_OFFERED};

#[test]
fn settings_are_those_of_the_broker() {
    generated("settings", &property::markdown());
}

#[test]
fn protocol_is_what_the_broker_announces() {
    let head = "| key | API | versions served | Kafka 4 | missing |\n|---|---|---|---|---|\n";
    let rows = KAFKA.iter().map(|&(key, name, first, last)| {
        let (served, missing) = match ApiKey::from_wire(key) {
            Some(key) => offered(key, last),
            None => (String::new(), note(NOT_OFFERED, key).unwrap_or_default().to_string()),
        };
        format!("| {key} | {name} | {served} | {} | {missing} |\n", range(first, last))
    });
    generated("protocol", &(head.to_string() + &rows.collect::<String>()));
}

/// The versions that are served of an API, and what they lack against Kafka's.
fn offered(key: ApiKey, last: i16) -> (String, String) {
    let api = key.api();
    let served = match api.advertised_min == api.served_min {
        true => range(api.served_min, api.max),
        false => format!("{}, announced from {}", range(api.served_min, api.max), api.advertised_min),
    };
    let newer = note(NEWER_VERSIONS, key.to_wire())
        .map(|what| format!("version{} {}: {what}", plural(api.max + 1, last), range(api.max + 1, last)));
    let behaviour = note(BEHAVIOUR, key.to_wire()).map(str::to_string);
    let missing: Vec<String> = newer.into_iter().chain(behaviour).collect();
    (served, missing.join("; "))
}

#[test]
fn what_is_missing_is_said_of_every_api_and_of_no_other() {
    let keys = |list: &[(i16, &str)]| list.iter().map(|(key, _)| *key).collect::<Vec<_>>();
    let kafka = |is_missing: fn(&(i16, &str, i16, i16)) -> bool| -> Vec<i16> {
        KAFKA.iter().filter(|api| is_missing(api)).map(|(key, ..)| *key).collect()
    };
    assert_eq!(keys(NOT_OFFERED), kafka(|(key, ..)| ApiKey::from_wire(*key).is_none()), "not offered");
    let is_older = |&(key, _, _, last): &(i16, &str, i16, i16)| {
        ApiKey::from_wire(key).is_some_and(|key| key.api().max < last)
    };
    assert_eq!(keys(NEWER_VERSIONS), kafka(is_older), "of these Kafka has newer versions");
    for key in keys(BEHAVIOUR) {
        assert!(ApiKey::from_wire(key).is_some(), "{key} is not offered at all");
    }
    for key in ApiKey::ALL {
        let api = key.api();
        let kafkas = KAFKA.iter().find(|(kafka, ..)| *kafka == key.to_wire());
        let (_, name, first, last) = *kafkas.unwrap_or_else(|| panic!("Kafka has no {}", api.name));
        assert_eq!(api.name, name);
        assert!(api.served_min >= first && api.max <= last, "Kafka has no such version of {name}");
        assert_eq!(api.served_min, first, "an older version of {name} is missing");
    }
}

fn note(list: &[(i16, &'static str)], key: i16) -> Option<&'static str> {
    list.iter().find(|(of, _)| *of == key).map(|(_, what)| *what)
}

fn range(first: i16, last: i16) -> String {
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

fn plural(first: i16, last: i16) -> &'static str {
    if first == last { "" } else { "s" }
}

#[test]
fn code_map_names_every_module_package_and_directory() {
    let named = paths(&section("Code map"));
    let is_named =
        |path: &str| named.iter().any(|name| name == path || name.starts_with(&format!("{path}/")));
    let top = entries("").into_iter().filter(|name| root().join(name).is_dir());
    let top =
        top.filter(|name| !(name.starts_with('.') || ["target", "odradek-data"].contains(&name.as_str())));
    let modules = entries("src").into_iter().map(|name| format!("src/{name}"));
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ["));
    let members = members.expect("the workspace lists its members on one line").trim_end_matches(']');
    let members = members.split(',').map(|name| name.trim().trim_matches('"').to_string());
    let missing: Vec<_> = top.chain(modules).chain(members).filter(|p| p != "." && !is_named(p)).collect();
    assert!(missing.is_empty(), "the README's code map lacks {missing:?}");
}

#[test]
fn code_map_names_nothing_that_is_gone() {
    let gone: Vec<_> =
        paths(&section("Code map")).into_iter().filter(|path| !root().join(path).exists()).collect();
    assert!(gone.is_empty(), "the README's code map names {gone:?}");
}

#[test]
fn links_lead_somewhere() {
    let readme = read("README.md");
    let anchors: BTreeSet<String> = readme
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-"))
        .collect();
    for target in readme.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
    {
        let leads = match target.strip_prefix('#') {
            Some(anchor) => anchors.contains(anchor),
            None => target.starts_with("https://") || root().join(target).exists(),
        };
        assert!(leads, "the README links to {target}");
    }
}

#[test]
fn flags_are_known() {
    const SOURCES: [&str; 22] = [
        "tools/loadgen/src/flags.rs",
        "bench/latency/src/flags.rs",
        "src/cli/settings.rs",
        "src/cli/config.rs",
        "src/cli/bench.rs",
        "src/cli/clients.rs",
        "src/cli/cluster/carrying.rs",
        "src/cli/cluster/nodes.rs",
        "src/cli/cluster/reassign.rs",
        "src/cli/cluster/rebalance.rs",
        "src/cli/group.rs",
        "src/cli/log.rs",
        "src/cli/quota.rs",
        "src/cli/topic.rs",
        "src/cli/topic/describe.rs",
        "src/cli/tune.rs",
        "src/cli/txn.rs",
        "src/cli/txn/hanging.rs",
        "tools/quickstart",
        "tools/chaos-test/src/main.rs",
        "tools/crash-test/src/main.rs",
        "tools/sim/src/main.rs",
    ];
    const OF_CARGO: [&str; 4] = ["--release", "--package", "--features", "--workspace"];
    let sources: String = SOURCES.iter().map(|path| read(path)).collect();
    let settings: BTreeSet<&str> = PROPERTIES.iter().map(|property| property.name).collect();
    let is_known = |flag: &str| {
        let name = flag.trim_start_matches('-');
        // A flag is a setting, a field of an argument structure, or spelt out.
        settings.contains(name)
            || OF_CARGO.contains(&flag)
            || sources.contains(&format!(" {}: ", name.replace('-', "_")))
            || sources.contains(&format!("\"{name}\""))
            || sources.contains(&format!("{flag})"))
    };
    let readme = read("README.md");
    let words = readme.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
    let flags = words.filter(|word| word.len() > 3 && word.starts_with("--") && !word.starts_with("---"));
    let unknown: BTreeSet<_> = flags.filter(|flag| !is_known(flag)).collect();
    assert!(unknown.is_empty(), "the README names flags that nothing has: {unknown:?}");
}

/// Compares what stands between two markers, or replaces it.
fn generated(name: &str, expected: &str) {
    let readme = read("README.md");
    let (before, rest) = readme.split_once(&format!("<!-- begin: {name} ")).expect("the marker is there");
    let (marker, rest) = rest.split_once("-->\n").expect("the marker ends its line");
    let (found, after) = rest.split_once(&format!("<!-- end: {name} -->")).expect("the end is marked");
    if std::env::var_os("UPDATE_EXPECT").is_some() && found != expected {
        let text = format!("{before}<!-- begin: {name} {marker}-->\n{expected}<!-- end: {name} -->{after}");
        fs::write(root().join("README.md"), text).expect("the README can be written");
        return;
    }
    assert!(
        found == expected,
        "the README's {name} are out of date: UPDATE_EXPECT=1 cargo test --test readme -- --test-threads=1\n{expected}"
    );
}

/// From the heading to the next of its kind.
fn section(heading: &str) -> String {
    let readme = read("README.md");
    let (_, rest) = readme.split_once(&format!("\n## {heading}\n")).expect("the heading is there");
    rest.split("\n## ").next().expect("there is a first piece").to_string()
}

/// The paths of a text's tables: what is quoted in it and has a slash or stands in a first column.
fn paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("| ")) {
        for (column, cell) in row.split(" | ").enumerate() {
            let quoted = cell.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split(' ').next());
            let is_path = |quoted: &&str| column == 0 || quoted.contains('/');
            paths.extend(quoted.filter(is_path).map(|path| path.trim_end_matches('/').to_string()));
        }
    }
    paths
}

fn entries(directory: &str) -> Vec<String> {
    let listed = fs::read_dir(root().join(directory)).expect("the directory can be listed");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("it can be listed").file_name();
    listed.map(|entry| name(entry).to_string_lossy().into_owned()).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
