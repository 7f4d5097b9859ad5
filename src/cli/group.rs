//! `odradek group`: list, describe, reset and delete consumer groups, over the Kafka protocol.
//!
//! What a group is asked goes to its coordinator, offsets of partitions to their leaders: any cluster of
//! Kafka-compatible brokers will do.

mod consumer;
mod progress;
mod times;

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest, OffsetCommitRequest, TopicName,
};
use odradek::codec::consumer_protocol::{self, NamedPartitions};
use odradek::metrics::names::error_name;
use serde_json::{Value, json};

use super::brokers::{Address, Cluster, EARLIEST, KeyType, LATEST, Place, text};
use super::client::ClientFlags;
use super::table::Table;
use super::{Failure, print, print_json};
use consumer::ranges;
use progress::{Lag, Progress};

#[derive(Debug, Args)]
pub struct GroupArguments {
    #[command(flatten)]
    flags: ClientFlags,
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List the groups of all brokers
    List {
        /// Also how far each is behind: records in all, and seconds where it is most
        #[arg(long)]
        lag: bool,
    },
    /// Show a group's state, its members, and how far behind it is
    Describe {
        /// Groups to show
        #[arg(value_name = "GROUP", required = true)]
        groups: Vec<String>,
    },
    /// Set what a group without members has committed
    ResetOffsets(ResetArguments),
    /// Delete groups without members, and what they have committed
    Delete {
        /// Groups to delete
        #[arg(value_name = "GROUP", required = true)]
        groups: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct ResetArguments {
    /// The group
    #[arg(value_name = "GROUP")]
    group: String,
    /// Topics whose offsets are set, all partitions of each
    #[arg(long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<String>,
    /// Where the group is to go on: earliest, latest, an offset, or a time such as @1700000000000 (milliseconds)
    #[arg(long, value_name = "WHERE", value_parser = target)]
    to: Target,
}

/// Where a group is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// What ListOffsets calls it: -2, -1, or milliseconds.
    Looked(i64),
    Offset(i64),
}

fn target(text: &str) -> Result<Target, String> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    match (text, text.strip_prefix('@')) {
        ("earliest", _) => Some(Target::Looked(EARLIEST)),
        ("latest", _) => Some(Target::Looked(LATEST)),
        (_, Some(time)) => number(time).map(Target::Looked),
        (offset, None) => number(offset).map(Target::Offset),
    }
    .ok_or("expected earliest, latest, an offset, or @ and milliseconds since 1970".to_string())
}

/// "The group has members", as a commit from outside is told.
const UNKNOWN_MEMBER_ID: i16 = 25;
const GROUP_ID_NOT_FOUND: i16 = 69;

pub fn run(arguments: &GroupArguments) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&arguments.flags.brokers)?;
    match &arguments.command {
        GroupCommand::List { lag } => list(&mut cluster, *lag, arguments.flags.json),
        GroupCommand::Describe { groups } => describe(&mut cluster, groups, arguments.flags.json),
        GroupCommand::ResetOffsets(reset) => self::reset(&mut cluster, reset, arguments.flags.json),
        GroupCommand::Delete { groups } => delete(&mut cluster, groups, arguments.flags.json),
    }
}

fn list(cluster: &mut Cluster, with_lag: bool, as_json: bool) -> Result<(), Failure> {
    let metadata = cluster.metadata(&BTreeSet::new())?;
    let mut groups = BTreeMap::new();
    let mut coordinated: BTreeMap<Address, Vec<String>> = BTreeMap::new();
    for broker in &metadata.brokers {
        let response = cluster.broker(&broker.host, broker.port)?.send(|_| ListGroupsRequest::default())?;
        if response.error_code != 0 {
            let (host, port) = (&*broker.host, broker.port);
            return Err(format!("{host}:{port}: {}", error_name(response.error_code)).into());
        }
        let ids = response.groups.iter().map(|group| group.group_id.to_string());
        coordinated.insert((broker.host.to_string(), broker.port), ids.collect());
        groups.extend(response.groups.into_iter().map(|group| (group.group_id.to_string(), group)));
    }
    let lags = if with_lag { Some(progress::lags(cluster, &coordinated)?) } else { None };
    let lag_of = |id: &str| lags.as_ref().map(|lags| lags.get(id).copied().unwrap_or_default());
    if as_json {
        let groups = groups.iter().map(|(id, group)| {
            let mut shown = json!({
                "group": id,
                "type": kind(group),
                "state": &*group.group_state,
                "protocol_type": &*group.protocol_type,
            });
            if let Some(Lag { records, seconds }) = lag_of(id) {
                shown["lag"] = json!(records);
                shown["lag_seconds"] = json!(seconds);
            }
            shown
        });
        return print_json(&groups.collect());
    }
    let heads = ["GROUP", "TYPE", "STATE", "PROTOCOL", "LAG", "LAG-SECONDS"];
    let shown = if with_lag { heads.len() } else { heads.len() - 2 };
    let mut table = Table::new(&heads[..shown]);
    for (id, group) in &groups {
        let lag = lag_of(id).unwrap_or_default();
        let (records, seconds) = (progress::number(lag.records), progress::seconds(lag.seconds));
        let row = [id, kind(group), &group.group_state, &group.protocol_type, &records, &seconds];
        table.row(&row[..shown]);
    }
    print(&table.to_string())
}

/// Brokers that say nothing of it know one type.
fn kind(group: &ListedGroup) -> &str {
    if group.group_type.is_empty() { "classic" } else { &group.group_type }
}

/// A group, by the protocol that it uses.
enum Shown {
    Classic(DescribedGroup),
    Consumer(DescribedConsumerGroup),
}

impl Shown {
    /// Partitions that its members have.
    fn assigned(&self) -> BTreeSet<Place> {
        match self {
            Shown::Classic(group) => {
                let assignments = group.members.iter().filter_map(|member| assignment(group, member));
                let named = assignments.flat_map(NamedPartitions::into_iter);
                named
                    .flat_map(|(topic, indexes)| indexes.into_iter().map(move |index| (topic.clone(), index)))
                    .collect()
            }
            Shown::Consumer(group) => consumer::assigned(group),
        }
    }
}

/// What a member has, where that is in the form of consumers; other clients have their own.
fn assignment(group: &DescribedGroup, member: &DescribedGroupMember) -> Option<NamedPartitions> {
    let is_consumer = &*group.protocol_type == consumer_protocol::PROTOCOL_TYPE;
    is_consumer.then(|| consumer_protocol::assignment(&member.member_assignment).ok()).flatten()
}

fn describe(cluster: &mut Cluster, groups: &[String], as_json: bool) -> Result<(), Failure> {
    let mut described = Vec::new();
    let mut missing = Vec::new();
    for id in groups {
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(id))]);
        let mut response = cluster.coordinator_of(KeyType::Group, id)?.send(|_| request)?;
        let group = response.groups.pop().ok_or_else(|| format!("{id}: nothing was said of it"))?;
        let is_missing = group.error_code == GROUP_ID_NOT_FOUND || &*group.group_state == "Dead";
        let group = if is_missing {
            consumer::describe(cluster, id)?.map(Shown::Consumer)
        } else if group.error_code != 0 {
            Err(error_name(group.error_code))
        } else {
            Ok(Shown::Classic(group))
        };
        match group {
            Ok(group) => {
                let progress = progress::of_group(cluster, id, &group.assigned())?;
                described.push((group, progress));
            }
            Err(error) => missing.push(format!("{id}: {error}")),
        }
    }
    if as_json {
        print_json(&described.iter().map(|(group, progress)| group_json(group, progress)).collect())?;
    } else {
        let texts: Vec<_> = described.iter().map(|(group, progress)| group_text(group, progress)).collect();
        print(&texts.join("\n"))?;
    }
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\nodradek: ").into()) }
}

fn group_json(group: &Shown, progress: &[Progress]) -> Value {
    let offsets = progress.iter().map(Progress::json);
    let offsets: Vec<Value> = offsets.collect();
    let group = match group {
        Shown::Classic(group) => group,
        Shown::Consumer(group) => return consumer::json(group, &offsets),
    };
    let members = group.members.iter().map(|member| {
        json!({
            "member": &*member.member_id,
            "instance": member.group_instance_id.as_deref(),
            "client": &*member.client_id,
            "host": &*member.client_host,
            "assignment": assignment(group, member).map(|assigned| {
                let topics = assigned.iter();
                topics
                    .map(|(topic, partitions)| json!({ "topic": topic, "partitions": partitions }))
                    .collect::<Vec<_>>()
            }),
        })
    });
    json!({
        "group": &*group.group_id.0,
        "type": "classic",
        "state": &*group.group_state,
        "protocol_type": &*group.protocol_type,
        "protocol": &*group.protocol_data,
        "members": members.collect::<Vec<_>>(),
        "offsets": offsets,
    })
}

fn group_text(group: &Shown, progress: &[Progress]) -> String {
    let shown = match group {
        Shown::Classic(group) => classic_text(group),
        Shown::Consumer(group) => consumer::shown(group),
    };
    shown + &progress::shown(progress)
}

fn classic_text(group: &DescribedGroup) -> String {
    let protocol =
        if group.protocol_data.is_empty() { String::new() } else { format!(", {}", &*group.protocol_data) };
    let mut shown = format!("{}: {}{protocol}\n", &*group.group_id.0, &*group.group_state);
    if !group.members.is_empty() {
        let mut table = Table::new(&["MEMBER", "INSTANCE", "CLIENT", "HOST", "ASSIGNMENT"]);
        for member in &group.members {
            let instance = member.group_instance_id.as_deref().unwrap_or("-");
            let assigned = match assignment(group, member) {
                Some(assigned) => assigned_text(&assigned),
                None => format!("{} bytes", member.member_assignment.len()),
            };
            table.row(&[&member.member_id, instance, &member.client_id, &member.client_host, &assigned]);
        }
        shown += &table.to_string();
    }
    shown
}

/// `orders:0-3,7 payments:1`
fn assigned_text(assigned: &NamedPartitions) -> String {
    let topics = assigned
        .iter()
        .map(|(topic, indexes)| format!("{topic}:{}", ranges(&indexes.iter().copied().collect::<Vec<_>>())));
    let topics: Vec<String> = topics.collect();
    if topics.is_empty() { "none".to_string() } else { topics.join(" ") }
}

fn reset(cluster: &mut Cluster, arguments: &ResetArguments, as_json: bool) -> Result<(), Failure> {
    let metadata = cluster.metadata(&arguments.topics.iter().cloned().collect())?;
    let mut wanted = BTreeSet::new();
    for topic in &metadata.topics {
        let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
        if topic.error_code != 0 {
            return Err(format!("{name}: {}", error_name(topic.error_code)).into());
        }
        wanted.extend(topic.partitions.iter().map(|partition| (name.clone(), partition.partition_index)));
    }
    let offsets = match arguments.to {
        Target::Offset(offset) => wanted.iter().map(|place| (place.clone(), offset)).collect(),
        Target::Looked(timestamp) => looked_up(cluster, &wanted, timestamp)?,
    };
    if let Some((topic, partition)) = wanted.iter().find(|place| !offsets.contains_key(*place)) {
        return Err(format!("{topic}-{partition}: its leader does not say where that is").into());
    }
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for ((topic, index), offset) in &offsets {
        let partition = OffsetCommitRequestPartition::default().with_partition_index(*index);
        topics.entry(topic).or_default().push(partition.with_committed_offset(*offset));
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        OffsetCommitRequestTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions)
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(&arguments.group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(topics.collect());
    let response = cluster.coordinator_of(KeyType::Group, &arguments.group)?.send(|_| request)?;
    let results = response.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|p| (topic.name.to_string(), p.partition_index, p.error_code))
    });
    if let Some((topic, partition, code)) = results.into_iter().find(|(_, _, code)| *code != 0) {
        return Err(match code {
            UNKNOWN_MEMBER_ID => {
                format!("{}: the group has members: stop them first", arguments.group).into()
            }
            code => format!("{topic}-{partition}: {}", error_name(code)).into(),
        });
    }
    if as_json {
        let offsets = offsets.iter().map(|((topic, partition), offset)| {
            json!({ "topic": topic, "partition": partition, "committed": offset })
        });
        return print_json(&offsets.collect());
    }
    let mut table = Table::new(&["TOPIC", "PARTITION", "COMMITTED"]);
    for ((topic, partition), offset) in &offsets {
        table.row(&[topic, &partition.to_string(), &offset.to_string()]);
    }
    print(&table.to_string())
}

/// Of a partition that has no record from that time on, its end.
fn looked_up(
    cluster: &mut Cluster,
    wanted: &BTreeSet<Place>,
    timestamp: i64,
) -> Result<BTreeMap<Place, i64>, Failure> {
    let mut found = cluster.look_up(wanted, timestamp)?;
    let later: BTreeSet<_> =
        found.iter().filter(|(_, offset)| **offset < 0).map(|(place, _)| place.clone()).collect();
    if !later.is_empty() {
        found.extend(cluster.look_up(&later, LATEST)?);
    }
    Ok(found)
}

fn delete(cluster: &mut Cluster, groups: &[String], as_json: bool) -> Result<(), Failure> {
    let mut failures = Vec::new();
    let mut results = Vec::new();
    for id in groups {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(id))]);
        let response = cluster.coordinator_of(KeyType::Group, id)?.send(|_| request)?;
        let code = response.results.first().map_or(0, |result| result.error_code);
        if code != 0 {
            failures.push(format!("{id}: {}", error_name(code)));
        }
        results.push((id, code));
    }
    if as_json {
        let results = results.iter().map(|(id, code)| {
            json!({ "group": id, "deleted": *code == 0, "error": (*code != 0).then(|| error_name(*code)) })
        });
        print_json(&results.collect())?;
    } else {
        let deleted = results.iter().filter(|(_, code)| *code == 0);
        print(&deleted.map(|(id, _)| format!("deleted {id}\n")).collect::<String>())?;
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\nodradek: ").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_names_offsets_or_times() {
        assert_eq!(target("earliest"), Ok(Target::Looked(-2)));
        assert_eq!(target("latest"), Ok(Target::Looked(-1)));
        assert_eq!(target("42"), Ok(Target::Offset(42)));
        assert_eq!(target("@1700"), Ok(Target::Looked(1700)));
        for wrong in ["", "@", "-1", "@-1", "newest", "4x"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
