//! Plans of partitions that get other replicas: from what brokers say, and to the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
pub use kafka_protocol::messages::list_partition_reassignments_response::OngoingPartitionReassignment as Ongoing;
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

/// How often a change is tried again while nobody leads the metadata quorum.
const TRIES_MAX: usize = 20;

/// Tries again what may be different in a moment: another node leads the metadata quorum, or nobody does. `code_of`: the
/// error of an answer.
pub fn try_again<T>(
    mut ask: impl FnMut() -> Result<T, Failure>,
    code_of: impl Fn(&T) -> i16,
) -> Result<T, Failure> {
    const REQUEST_TIMED_OUT: i16 = 7;
    const NOT_CONTROLLER: i16 = 41;
    for _ in 1..TRIES_MAX {
        let answer = ask()?;
        if !matches!(code_of(&answer), REQUEST_TIMED_OUT | NOT_CONTROLLER) {
            return Ok(answer);
        }
        pause();
    }
    ask()
}

/// Before the next look.
#[expect(clippy::disallowed_methods, reason = "nobody tells a client that a partition has moved")]
pub fn pause() {
    std::thread::sleep(LOOK);
}

/// Partitions that are on their way.
pub fn ongoing(cluster: &mut Cluster) -> Result<BTreeMap<Place, Ongoing>, Failure> {
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

/// The replicas that a partition had before it was on its way.
pub fn before_of(moving: &Ongoing) -> Vec<NodeId> {
    let before = moving.replicas.iter().filter(|id| !moving.adding_replicas.contains(id));
    before.map(|id| NodeId(id.0)).collect()
}

/// Those that it is to have.
pub fn after_of(moving: &Ongoing) -> Vec<NodeId> {
    let after = moving.replicas.iter().filter(|id| !moving.removing_replicas.contains(id));
    after.map(|id| NodeId(id.0)).collect()
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

/// Partitions that are on their way from a node, with the replicas that they are to have: an earlier command has begun
/// it, and until they are there it is their source.
pub fn leaving(cluster: &mut Cluster, node: i32) -> Result<Vec<Assigned>, Failure> {
    let ongoing = ongoing(cluster)?.into_iter();
    let leaving = ongoing.filter(|(_, moving)| moving.removing_replicas.contains(&BrokerId(node)));
    Ok(leaving
        .map(|((topic, partition), moving)| Assigned { topic, partition, replicas: after_of(&moving) })
        .collect())
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

fn by_topic(plan: &[Assigned]) -> BTreeMap<&str, Vec<&Assigned>> {
    let mut topics: BTreeMap<&str, Vec<&Assigned>> = BTreeMap::new();
    plan.iter().for_each(|it| topics.entry(&it.topic).or_default().push(it));
    topics
}

/// Has partitions begin to move.
pub fn submit(cluster: &mut Cluster, plan: &[Assigned]) -> Result<(), Failure> {
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
    // To have something moved where it moves already changes nothing.
    let ask = || Ok(cluster.any().send(|_| request.clone())?);
    let response = try_again(ask, |response| response.error_code)?;
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
