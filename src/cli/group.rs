//! `odradek group`: list, describe, reset and delete consumer groups, over the Kafka protocol.
//!
//! What a group is asked goes to its coordinator, offsets of partitions to their leaders: any cluster of
//! Kafka-compatible brokers will do.

mod consumer;

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    BrokerId, DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, ListGroupsRequest,
    ListOffsetsRequest, MetadataRequest, MetadataResponse, OffsetCommitRequest, OffsetFetchRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek::config::HostPort;
use odradek::metrics::names::error_name;
use serde_json::{Value, json};

use super::client::{Client, ClientFlags};
use super::table::Table;
use super::{Failure, print, print_json};

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
    List,
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

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
/// "The group has members", as a commit from outside is told.
const UNKNOWN_MEMBER_ID: i16 = 25;
const GROUP_ID_NOT_FOUND: i16 = 69;

pub fn run(arguments: &GroupArguments) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&arguments.flags.brokers)?;
    match &arguments.command {
        GroupCommand::List => list(&mut cluster, arguments.flags.json),
        GroupCommand::Describe { groups } => describe(&mut cluster, groups, arguments.flags.json),
        GroupCommand::ResetOffsets(reset) => self::reset(&mut cluster, reset, arguments.flags.json),
        GroupCommand::Delete { groups } => delete(&mut cluster, groups, arguments.flags.json),
    }
}

/// Connections, one to each broker that had to be asked.
pub struct Cluster {
    bootstrap: Client,
    brokers: BTreeMap<(String, u16), Client>,
}

/// What a coordinator is asked for, as FindCoordinator numbers it.
#[derive(Clone, Copy, Debug)]
pub enum KeyType {
    Group = 0,
    Transaction = 1,
}

impl Cluster {
    pub fn connect(brokers: &[HostPort]) -> Result<Cluster, Failure> {
        Ok(Cluster { bootstrap: Client::connect(brokers)?, brokers: BTreeMap::new() })
    }

    pub fn broker(&mut self, host: &str, port: i32) -> Result<&mut Client, Failure> {
        let port = u16::try_from(port).map_err(|_| format!("a broker is said to have port {port}"))?;
        let place = (host.to_string(), port);
        if !self.brokers.contains_key(&place) {
            let client = Client::connect(&[HostPort { host: host.to_string(), port }])?;
            self.brokers.insert(place.clone(), client);
        }
        Ok(self.brokers.get_mut(&place).expect("connected above"))
    }

    pub fn metadata(&mut self, topics: &BTreeSet<String>) -> Result<MetadataResponse, Failure> {
        /// Before it, creation cannot be switched off.
        const AUTO_CREATION_SINCE: i16 = 4;
        let topics = topics
            .iter()
            .map(|topic| MetadataRequestTopic::default().with_name(Some(TopicName(text(topic)))));
        let topics: Vec<_> = topics.collect();
        Ok(self.bootstrap.send(|version| {
            let request = MetadataRequest::default().with_topics(Some(topics));
            match version {
                AUTO_CREATION_SINCE.. => request.with_allow_auto_topic_creation(false),
                _ => request,
            }
        })?)
    }

    fn coordinator(&mut self, group: &str) -> Result<&mut Client, Failure> {
        self.coordinator_of(KeyType::Group, group)
    }

    pub fn coordinator_of(&mut self, key_type: KeyType, key: &str) -> Result<&mut Client, Failure> {
        /// From here on several keys are asked for at once.
        const KEYS_SINCE: i16 = 4;
        /// Before it, there are coordinators of groups only.
        const KEY_TYPE_SINCE: i16 = 1;
        let response = self.bootstrap.send(|version| {
            let request = FindCoordinatorRequest::default();
            let request = match version {
                KEY_TYPE_SINCE.. => request.with_key_type(key_type as i8),
                _ => request,
            };
            match version {
                KEYS_SINCE.. => request.with_coordinator_keys(vec![text(key)]),
                _ => request.with_key(text(key)),
            }
        })?;
        let (host, port, code) = match response.coordinators.first() {
            Some(found) => (found.host.to_string(), found.port, found.error_code),
            None => (response.host.to_string(), response.port, response.error_code),
        };
        match code {
            0 => self.broker(&host, port),
            code => Err(format!("{key}: no coordinator: {}", error_name(code)).into()),
        }
    }

    /// The offset that is looked for in every partition named, as its leader says.
    fn look_up(
        &mut self,
        wanted: &BTreeSet<(String, i32)>,
        timestamp: i64,
    ) -> Result<BTreeMap<(String, i32), i64>, Failure> {
        let topics = wanted.iter().map(|(topic, _)| topic.clone()).collect();
        let metadata = self.metadata(&topics)?;
        let mut by_leader: BTreeMap<BrokerId, Vec<(String, i32)>> = BTreeMap::new();
        for topic in &metadata.topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            for partition in &topic.partitions {
                let place = (name.clone(), partition.partition_index);
                if wanted.contains(&place) {
                    by_leader.entry(partition.leader_id).or_default().push(place);
                }
            }
        }
        let mut found = BTreeMap::new();
        for (leader, places) in by_leader {
            let Some(broker) = metadata.brokers.iter().find(|broker| broker.node_id == leader) else {
                continue;
            };
            let client = self.broker(&broker.host, broker.port)?;
            let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
            for (topic, index) in &places {
                let partition = ListOffsetsPartition::default().with_partition_index(*index);
                topics.entry(topic).or_default().push(partition.with_timestamp(timestamp));
            }
            let topics = topics.into_iter().map(|(topic, partitions)| {
                ListOffsetsTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions)
            });
            let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1));
            let request = request.with_topics(topics.collect());
            let response = client.send(|_| request)?;
            for topic in response.topics {
                for partition in topic.partitions.iter().filter(|partition| partition.error_code == 0) {
                    found.insert((topic.name.to_string(), partition.partition_index), partition.offset);
                }
            }
        }
        Ok(found)
    }
}

fn list(cluster: &mut Cluster, as_json: bool) -> Result<(), Failure> {
    let metadata = cluster.metadata(&BTreeSet::new())?;
    let mut groups = BTreeMap::new();
    for broker in &metadata.brokers {
        let response = cluster.broker(&broker.host, broker.port)?.send(|_| ListGroupsRequest::default())?;
        if response.error_code != 0 {
            let (host, port) = (&*broker.host, broker.port);
            return Err(format!("{host}:{port}: {}", error_name(response.error_code)).into());
        }
        groups.extend(response.groups.into_iter().map(|group| (group.group_id.to_string(), group)));
    }
    if as_json {
        let groups = groups.iter().map(|(id, group)| {
            json!({
                "group": id,
                "type": kind(group),
                "state": &*group.group_state,
                "protocol_type": &*group.protocol_type,
            })
        });
        return print_json(&groups.collect());
    }
    let mut table = Table::new(&["GROUP", "TYPE", "STATE", "PROTOCOL"]);
    for (id, group) in &groups {
        table.row(&[id, kind(group), &group.group_state, &group.protocol_type]);
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

/// A committed offset of a group, and the end of its partition.
struct Progress {
    topic: String,
    partition: i32,
    committed: i64,
    end: Option<i64>,
}

impl Progress {
    fn lag(&self) -> Option<i64> {
        self.end.map(|end| (end - self.committed).max(0))
    }
}

fn describe(cluster: &mut Cluster, groups: &[String], as_json: bool) -> Result<(), Failure> {
    let mut described = Vec::new();
    let mut missing = Vec::new();
    for id in groups {
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(id))]);
        let mut response = cluster.coordinator(id)?.send(|_| request)?;
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
                let progress = progress(cluster, id)?;
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

fn progress(cluster: &mut Cluster, id: &str) -> Result<Vec<Progress>, Failure> {
    /// From here on several groups are asked for at once.
    const GROUPS_SINCE: i16 = 8;
    let response = cluster.coordinator(id)?.send(|version| match version {
        GROUPS_SINCE.. => {
            let group = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(id))).with_topics(None);
            OffsetFetchRequest::default().with_groups(vec![group])
        }
        _ => OffsetFetchRequest::default().with_group_id(GroupId(text(id))).with_topics(None),
    })?;
    let code = response.groups.first().map_or(response.error_code, |group| group.error_code);
    if code != 0 {
        return Err(format!("{id}: {}", error_name(code)).into());
    }
    let mut progress = Vec::new();
    let mut add = |topic: &TopicName, partition, committed| {
        progress.push(Progress { topic: topic.to_string(), partition, committed, end: None });
    };
    for topic in &response.topics {
        topic.partitions.iter().for_each(|p| add(&topic.name, p.partition_index, p.committed_offset));
    }
    for topic in response.groups.iter().flat_map(|group| &group.topics) {
        topic.partitions.iter().for_each(|p| add(&topic.name, p.partition_index, p.committed_offset));
    }
    let wanted = progress.iter().map(|progress| (progress.topic.clone(), progress.partition)).collect();
    let ends = cluster.look_up(&wanted, LATEST)?;
    for progress in &mut progress {
        progress.end = ends.get(&(progress.topic.clone(), progress.partition)).copied();
    }
    Ok(progress)
}

fn group_json(group: &Shown, progress: &[Progress]) -> Value {
    let offsets = progress.iter().map(|progress| {
        json!({
            "topic": progress.topic,
            "partition": progress.partition,
            "committed": progress.committed,
            "end": progress.end,
            "lag": progress.lag(),
        })
    });
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
    shown + &progress_text(progress)
}

fn classic_text(group: &DescribedGroup) -> String {
    let protocol =
        if group.protocol_data.is_empty() { String::new() } else { format!(", {}", &*group.protocol_data) };
    let mut shown = format!("{}: {}{protocol}\n", &*group.group_id.0, &*group.group_state);
    if !group.members.is_empty() {
        let mut table = Table::new(&["MEMBER", "INSTANCE", "CLIENT", "HOST"]);
        for member in &group.members {
            let instance = member.group_instance_id.as_deref().unwrap_or("-");
            table.row(&[&member.member_id, instance, &member.client_id, &member.client_host]);
        }
        shown += &table.to_string();
    }
    shown
}

fn progress_text(progress: &[Progress]) -> String {
    let mut shown = String::new();
    if !progress.is_empty() {
        let mut table = Table::new(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"]);
        let number = |number: Option<i64>| number.map_or("-".to_string(), |number| number.to_string());
        for progress in progress {
            let Progress { topic, partition, committed, end } = progress;
            let (end, lag) = (number(*end), number(progress.lag()));
            table.row(&[topic, &partition.to_string(), &committed.to_string(), &end, &lag]);
        }
        shown += &table.to_string();
    }
    shown
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
    let response = cluster.coordinator(&arguments.group)?.send(|_| request)?;
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
    wanted: &BTreeSet<(String, i32)>,
    timestamp: i64,
) -> Result<BTreeMap<(String, i32), i64>, Failure> {
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
        let response = cluster.coordinator(id)?.send(|_| request)?;
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

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
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
