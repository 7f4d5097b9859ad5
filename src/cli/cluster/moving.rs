//! Plans of partitions that get other replicas: from what brokers say, to the controller, and waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::Duration;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use kafka_protocol::messages::list_partition_reassignments_response::OngoingPartitionReassignment;
use kafka_protocol::messages::{BrokerId, ListPartitionReassignmentsRequest, TopicName};
use odradek::cluster::balance::{Assigned, Target};
use odradek::metrics::names::error_name;
use odradek::types::NodeId;
use serde_json::{Value, json};

use super::super::brokers::{Cluster, Place, text};
use super::super::table::Table;
use super::super::{Failure, print, print_json};
use super::{Load, State, TIMEOUT_MS, describe_brokers};

/// How often is asked what is still on its way, and whether a node still runs.
const LOOK: Duration = Duration::from_millis(500);

/// ElectLeaders: the first of the replicas, where it is in sync.
const PREFERRED: i8 = 0;

/// Before the next look.
#[expect(clippy::disallowed_methods, reason = "nobody tells a client that a partition has moved")]
pub fn pause() {
    std::thread::sleep(LOOK);
}

/// Partitions that are on their way.
pub fn ongoing(cluster: &mut Cluster) -> Result<BTreeMap<Place, OngoingPartitionReassignment>, Failure> {
    let request = ListPartitionReassignmentsRequest::default().with_timeout_ms(TIMEOUT_MS).with_topics(None);
    let response = cluster.any().send(|_| request)?;
    if response.error_code != 0 {
        return Err(format!("reassignments: {}", error_name(response.error_code)).into());
    }
    let each = response.topics.into_iter().flat_map(|topic| {
        let name = topic.name.to_string();
        topic
            .partitions
            .into_iter()
            .map(move |partition| ((name.clone(), partition.partition_index), partition))
    });
    Ok(each.collect())
}

/// Every partition with the replicas that it has, or is to have where it is on its way.
pub fn assigned(cluster: &mut Cluster) -> Result<Vec<Assigned>, Failure> {
    let ongoing = ongoing(cluster)?;
    let metadata = cluster.metadata_of_all()?;
    let mut all = Vec::new();
    for topic in &metadata.topics {
        let name = topic.name.as_ref().map_or("", |name| name.as_str());
        for partition in &topic.partitions {
            let place = (name.to_owned(), partition.partition_index);
            let goes = |id: &BrokerId| {
                ongoing.get(&place).is_some_and(|moving| moving.removing_replicas.contains(id))
            };
            let replicas = partition.replica_nodes.iter().filter(|id| !goes(id)).map(|id| NodeId(id.0));
            all.push(Assigned { topic: place.0.clone(), partition: place.1, replicas: replicas.collect() });
        }
    }
    all.sort();
    Ok(all)
}

/// Brokers that run, but for those that are to have nothing.
pub fn targets(cluster: &mut Cluster, leaving: &BTreeSet<i32>) -> Result<Vec<Target>, Failure> {
    let mut targets: Vec<Target> = Vec::new();
    for broker in describe_brokers(cluster.any())? {
        let load = Load::of(&broker);
        if matches!(load.state, State::Alive) && !leaving.contains(&broker.broker_id.0) {
            targets.push(Target { node: NodeId(broker.broker_id.0), rack: load.rack });
        }
    }
    targets.sort_by_key(|target| target.node);
    Ok(targets)
}

/// Has a plan carried out, so many partitions at a time, and waits for each. Says on standard error how far it is.
pub fn carry_out(cluster: &mut Cluster, plan: &[Assigned], at_a_time: usize) -> Result<(), Failure> {
    let mut progress = Progress::new(plan.len());
    for some in plan.chunks(at_a_time.max(1)) {
        let done = progress.done;
        submit(cluster, some)?;
        loop {
            let ongoing = ongoing(cluster)?;
            let is_there = |it: &&Assigned| ongoing.contains_key(&(it.topic.clone(), it.partition));
            let left = some.iter().filter(is_there).count();
            progress.show(done + some.len() - left);
            if left == 0 {
                break;
            }
            pause();
        }
    }
    progress.end();
    elect_preferred(cluster, plan)
}

fn by_topic(plan: &[Assigned]) -> BTreeMap<&str, Vec<&Assigned>> {
    let mut topics: BTreeMap<&str, Vec<&Assigned>> = BTreeMap::new();
    plan.iter().for_each(|it| topics.entry(&it.topic).or_default().push(it));
    topics
}

fn submit(cluster: &mut Cluster, plan: &[Assigned]) -> Result<(), Failure> {
    let topics = by_topic(plan).into_iter().map(|(name, partitions)| {
        let each = partitions.into_iter().map(|it| {
            let replicas = it.replicas.iter().map(|node| BrokerId(node.0)).collect();
            ReassignablePartition::default().with_partition_index(it.partition).with_replicas(Some(replicas))
        });
        ReassignableTopic::default().with_name(TopicName(text(name))).with_partitions(each.collect())
    });
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topics(topics.collect());
    let response = cluster.any().send(|_| request)?;
    if response.error_code != 0 {
        return Err(format!("reassignments: {}", error_name(response.error_code)).into());
    }
    let mut refused = Vec::new();
    for topic in response.responses {
        for partition in topic.partitions.iter().filter(|partition| partition.error_code != 0) {
            let reason =
                partition.error_message.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            let (name, code) = (topic.name.as_str(), error_name(partition.error_code));
            refused.push(format!("{name}-{}: {code}{reason}", partition.partition_index));
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(refused.join("\n").into()) }
}

/// So that leaders are where the plan has them, without waiting for the controller to see to it. Who leads already, or
/// cannot yet, is no failure.
fn elect_preferred(cluster: &mut Cluster, plan: &[Assigned]) -> Result<(), Failure> {
    if plan.is_empty() || !cluster.any().offers::<ElectLeadersRequest>() {
        return Ok(());
    }
    let topics = by_topic(plan).into_iter().map(|(name, partitions)| {
        let indexes = partitions.iter().map(|it| it.partition).collect();
        TopicPartitions::default().with_topic(TopicName(text(name))).with_partitions(indexes)
    });
    let request = ElectLeadersRequest::default()
        .with_election_type(PREFERRED)
        .with_timeout_ms(TIMEOUT_MS)
        .with_topic_partitions(Some(topics.collect()));
    cluster.any().send(|_| request)?;
    Ok(())
}

/// What a plan would do, or has done.
pub fn print_plan(is_json: bool, before: &[Assigned], plan: &[Assigned]) -> Result<(), Failure> {
    let had: BTreeMap<(&str, i32), &Assigned> =
        before.iter().map(|it| ((it.topic.as_str(), it.partition), it)).collect();
    let ids = |it: &Assigned| it.replicas.iter().map(|node| node.0).collect::<Vec<i32>>();
    if is_json {
        let each = plan.iter().map(|it| {
            let from = had.get(&(it.topic.as_str(), it.partition)).map(|before| ids(before));
            json!({ "topic": it.topic, "partition": it.partition, "from": from, "to": ids(it) })
        });
        return print_json(&Value::from(each.collect::<Vec<_>>()));
    }
    let listed = |it: &Assigned| ids(it).iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let mut table = Table::new(&["PARTITION", "FROM", "TO"]);
    for it in plan {
        let from =
            had.get(&(it.topic.as_str(), it.partition)).map_or("-".to_owned(), |before| listed(before));
        table.row(&[&format!("{}-{}", it.topic, it.partition), &from, &listed(it)]);
    }
    print(&table.to_string())
}

/// One line that is written over, on a terminal; else a line each time.
struct Progress {
    total: usize,
    done: usize,
    shown: Option<usize>,
}

impl Progress {
    fn new(total: usize) -> Progress {
        Progress { total, done: 0, shown: None }
    }

    fn show(&mut self, done: usize) {
        self.done = done;
        if self.shown == Some(done) {
            return;
        }
        self.shown = Some(done);
        let mut out = std::io::stderr().lock();
        let (start, end) = if out.is_terminal() { ("\r", "") } else { ("", "\n") };
        // It is for eyes only.
        let _ = write!(out, "{start}{done} of {} partitions moved{end}", self.total);
        let _ = out.flush();
    }

    fn end(&self) {
        if self.shown.is_some() && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}
