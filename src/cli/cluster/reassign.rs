//! `odradek cluster reassign`: partitions get other replicas, keep those they had, or are on their way.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use odradek::cluster::balance::Assigned;
use odradek::metrics::names::error_name;
use odradek::types::NodeId;
use serde_json::{Value, json};

use super::super::brokers::{Cluster, Place, text};
use super::super::client::ClientFlags;
use super::super::table::Table;
use super::super::{Failure, print, print_json};
use super::carrying::{Carrying, Pace, carry_out};
use super::moving::{Ongoing, assigned, ongoing, print_plan};
use super::{TIMEOUT_MS, throttle};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ReassignArguments {
    #[command(subcommand)]
    command: Option<ReassignCommand>,
    /// The topic
    #[arg(long, value_name = "TOPIC", required = true)]
    topic: Option<String>,
    /// The partition of it [default: all of them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// The brokers that are to have it, the preferred leader first
    #[arg(
        long,
        value_name = "ID,...",
        value_delimiter = ',',
        required_unless_present = "cancel",
        conflicts_with = "cancel"
    )]
    replicas: Vec<i32>,
    /// Go back to the replicas of before
    #[arg(long, conflicts_with = "throttle")]
    cancel: bool,
    /// Refuse another number of replicas than there are
    #[arg(long, conflicts_with = "throttle")]
    keep_replication_factor: bool,
    /// Wait until they are there, which --throttle does anyway
    #[arg(long, conflicts_with_all = ["cancel", "keep_replication_factor"])]
    wait: bool,
    #[command(flatten)]
    pace: Pace,
}

#[derive(Debug, Subcommand)]
enum ReassignCommand {
    /// Show the partitions that are on their way
    List,
    /// The same, and once there are none take away what has held them to a rate
    Verify,
}

pub fn run(flags: &ClientFlags, arguments: &ReassignArguments) -> Result<(), Failure> {
    match (&arguments.command, &arguments.topic) {
        (Some(ReassignCommand::List), _) => {
            let mut cluster = Cluster::connect(&flags.brokers)?;
            list(flags, &ongoing(&mut cluster)?)
        }
        (Some(ReassignCommand::Verify), _) => verify(flags),
        (None, Some(topic)) if arguments.wait || arguments.pace.throttle.is_some() => {
            move_and_wait(flags, arguments, topic)
        }
        (None, Some(topic)) => reassign(flags, arguments, topic),
        (None, None) => unreachable!("a topic is required"),
    }
}

/// As a plan of these partitions alone.
fn move_and_wait(flags: &ClientFlags, arguments: &ReassignArguments, topic: &str) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&flags.brokers)?;
    let partitions = match arguments.partition {
        Some(partition) => vec![partition],
        None => partitions_of(&mut cluster, topic)?,
    };
    let before = assigned(&mut cluster)?;
    let replicas: Vec<NodeId> = arguments.replicas.iter().copied().map(NodeId).collect();
    let plan = partitions.into_iter().map(|partition| Assigned {
        topic: topic.to_owned(),
        partition,
        replicas: replicas.clone(),
    });
    let plan: Vec<Assigned> = plan.collect();
    let carrying = Carrying { at_a_time: plan.len(), pace: arguments.pace };
    carry_out(&mut cluster, &before, &plan, carrying)?;
    print_plan(flags.json, &before, &plan)
}

fn reassign(flags: &ClientFlags, arguments: &ReassignArguments, topic: &str) -> Result<(), Failure> {
    /// Before it the number of replicas may change always.
    const KEEPS_COUNT_SINCE: i16 = 1;
    let mut cluster = Cluster::connect(&flags.brokers)?;
    let partitions = match arguments.partition {
        Some(partition) => vec![partition],
        None => partitions_of(&mut cluster, topic)?,
    };
    let replicas = (!arguments.cancel)
        .then(|| arguments.replicas.iter().copied().map(BrokerId).collect::<Vec<BrokerId>>());
    let asked = partitions.iter().map(|partition| {
        let partition = ReassignablePartition::default().with_partition_index(*partition);
        partition.with_replicas(replicas.clone())
    });
    let asked =
        ReassignableTopic::default().with_name(TopicName(text(topic))).with_partitions(asked.collect());
    let request =
        AlterPartitionReassignmentsRequest::default().with_timeout_ms(TIMEOUT_MS).with_topics(vec![asked]);
    let keeps_count = arguments.keep_replication_factor;
    let response = cluster.any().send(|version| match version {
        KEEPS_COUNT_SINCE.. => request.with_allow_replication_factor_change(!keeps_count),
        _ => request,
    })?;
    if response.error_code != 0 {
        return Err(format!("{topic}: {}", error_name(response.error_code)).into());
    }
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for result in response.responses.into_iter().flat_map(|topic| topic.partitions) {
        match result.error_code {
            0 => done.push(result.partition_index),
            code => {
                let reason = result.error_message.map_or(String::new(), |reason| format!(": {reason}"));
                refused.push(format!("{topic}-{}: {}{reason}", result.partition_index, error_name(code)));
            }
        }
    }
    // Who goes back has nothing to be copied any more.
    if arguments.cancel {
        throttle::clear(&mut cluster, Some(&BTreeSet::from([topic.to_owned()])))?;
    }
    report(flags, arguments, topic, &done)?;
    if refused.is_empty() { Ok(()) } else { Err(refused.join("\n").into()) }
}

fn report(
    flags: &ClientFlags,
    arguments: &ReassignArguments,
    topic: &str,
    done: &[i32],
) -> Result<(), Failure> {
    let what = if arguments.cancel { "cancelled" } else { "reassigned" };
    if flags.json {
        let each =
            done.iter().map(|partition| json!({ "topic": topic, "partition": partition, "done": what }));
        return print_json(&Value::from(each.collect::<Vec<_>>()));
    }
    print(&done.iter().map(|partition| format!("{what} {topic}-{partition}\n")).collect::<String>())
}

fn partitions_of(cluster: &mut Cluster, topic: &str) -> Result<Vec<i32>, Failure> {
    let metadata = cluster.metadata(&[topic.to_owned()].into())?;
    let found = metadata.topics.first().ok_or_else(|| format!("{topic}: nothing is said of it"))?;
    match found.error_code {
        0 => {
            let mut partitions: Vec<i32> =
                found.partitions.iter().map(|partition| partition.partition_index).collect();
            partitions.sort();
            Ok(partitions)
        }
        code => Err(format!("{topic}: {}", error_name(code)).into()),
    }
}

fn verify(flags: &ClientFlags) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&flags.brokers)?;
    let moving = ongoing(&mut cluster)?;
    if moving.is_empty() {
        let cleared = throttle::clear(&mut cluster, None)?;
        cleared.iter().for_each(|what| eprintln!("took the throttle of {what} away"));
    }
    list(flags, &moving)
}

fn list(flags: &ClientFlags, moving: &BTreeMap<Place, Ongoing>) -> Result<(), Failure> {
    if flags.json {
        let each = moving.iter().map(|((topic, _), partition)| {
            json!({
                "topic": topic,
                "partition": partition.partition_index,
                "replicas": ids(&partition.replicas),
                "adding": ids(&partition.adding_replicas),
                "removing": ids(&partition.removing_replicas),
            })
        });
        return print_json(&Value::from(each.collect::<Vec<_>>()));
    }
    let mut table = Table::new(&["PARTITION", "REPLICAS", "ADDING", "REMOVING"]);
    for ((topic, _), partition) in moving {
        let name = format!("{topic}-{}", partition.partition_index);
        let lists = [&partition.replicas, &partition.adding_replicas, &partition.removing_replicas];
        let [replicas, adding, removing] = lists.map(|brokers| listed(brokers));
        table.row(&[&name, &replicas, &adding, &removing]);
    }
    print(&table.to_string())
}

fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|id| id.0).collect()
}

fn listed(brokers: &[BrokerId]) -> String {
    match brokers {
        [] => "-".to_owned(),
        brokers => ids(brokers).iter().map(i32::to_string).collect::<Vec<_>>().join(","),
    }
}
