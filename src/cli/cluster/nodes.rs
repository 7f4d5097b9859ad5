//! `odradek node`, and `odradek cluster node`: brokers, whether they run or not; nodes that are emptied, leave for good, or
//! are replaced.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use kafka_protocol::messages::{RemoveRaftVoterRequest, UnregisterBrokerRequest};
use odradek::cluster::balance::{Assigned, plan_drain, plan_replace};
use odradek::types::NodeId;
use serde_json::{Value, json};

use super::super::brokers::Cluster;
use super::super::client::ClientFlags;
use super::super::table::Table;
use super::super::{Failure, print, print_json};
use super::carrying::{Carrying, carry_out};
use super::moving::{assigned, leaving, pause, print_plan, targets};
use super::{Load, State, describe_brokers, describe_quorum, refused};

/// How often that fails before it is given up, and how often a node is taken out that was there a moment ago.
const FAILURES_MAX: usize = 40;

#[derive(Debug, Args)]
pub struct NodeArguments {
    #[command(flatten)]
    flags: ClientFlags,
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show every broker, whether it runs or not, and under which epoch it is registered
    List,
    /// Move all replicas of a node to others, and wait until it has none
    Drain {
        /// The node
        #[arg(value_name = "NODE-ID")]
        node: i32,
        #[command(flatten)]
        moving: Moving,
    },
    /// Drain a node, wait until it is stopped, and take it out of the quorum and the metadata
    Decommission {
        /// The node
        #[arg(value_name = "NODE-ID")]
        node: i32,
        #[command(flatten)]
        moving: Moving,
    },
    /// Give everything that a node has, or had before it was lost, to another one
    Replace {
        /// The node that goes; where it does not run any more, it is taken out of the quorum and the metadata, too
        #[arg(value_name = "NODE-ID")]
        node: i32,
        /// The one that comes, and runs already
        #[arg(value_name = "NEW-NODE-ID")]
        by: i32,
        #[command(flatten)]
        moving: Moving,
    },
    /// Take a node that does not run any more out of the metadata
    Unregister {
        /// Any of the node's brokers
        #[arg(value_name = "BROKER-ID")]
        broker: i32,
    },
}

#[derive(Debug, Args)]
pub struct Moving {
    /// Only show what would move
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    carrying: Carrying,
}

pub fn run_alone(arguments: &NodeArguments) -> Result<(), Failure> {
    run(&arguments.flags, &arguments.command)
}

pub fn run(flags: &ClientFlags, command: &NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List => list(flags),
        NodeCommand::Drain { node, moving } => {
            let mut cluster = Cluster::connect(&flags.brokers)?;
            drain(flags, &mut cluster, *node, moving)
        }
        NodeCommand::Decommission { node, moving } => decommission(flags, *node, moving),
        NodeCommand::Replace { node, by, moving } => replace(flags, (*node, *by), moving),
        NodeCommand::Unregister { broker } => {
            let mut cluster = Cluster::connect(&flags.brokers)?;
            unregister(&mut cluster, *broker)?;
            if flags.json {
                print_json(&json!({ "broker": broker, "registered": false }))
            } else {
                print(&format!("unregistered {broker}\n"))
            }
        }
    }
}

fn list(flags: &ClientFlags) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&flags.brokers)?;
    let brokers: BTreeMap<i32, Load> = describe_brokers(cluster.any())?
        .iter()
        .map(|broker| (broker.broker_id.0, Load::of(broker)))
        .collect();
    if flags.json {
        let each = brokers.iter().map(|(id, load)| {
            let (address, rack, state) = (&load.address, &load.rack, load.state.name());
            json!({ "broker": id, "address": address, "rack": rack, "state": state, "epoch": load.epoch })
        });
        return print_json(&Value::from(each.collect::<Vec<_>>()));
    }
    let mut table = Table::new(&["BROKER", "ADDRESS", "RACK", "STATE", "EPOCH"]);
    for (id, load) in &brokers {
        let rack = load.rack.as_deref().unwrap_or("-");
        table.row(&[&id.to_string(), &load.address, rack, load.state.name(), &load.epoch()]);
    }
    print(&table.to_string())
}

fn unregister(cluster: &mut Cluster, broker: i32) -> Result<(), Failure> {
    let request = UnregisterBrokerRequest::default().with_broker_id(broker.into());
    let response = cluster.any().send(|_| request.clone())?;
    match response.error_code {
        0 => Ok(()),
        code => Err(refused("broker", broker, code, response.error_message)),
    }
}

fn drain(flags: &ClientFlags, cluster: &mut Cluster, node: i32, moving: &Moving) -> Result<(), Failure> {
    check_routing(cluster)?;
    let before = assigned(cluster)?;
    let targets = targets(cluster, &BTreeSet::from([node]))?;
    let mut plan = leaving(cluster, node)?;
    plan.extend(plan_drain(NodeId(node), &targets, &before)?);
    if !moving.plan {
        carry_out(cluster, &before, &plan, moving.carrying)?;
        check_empty(cluster, node)?;
    }
    if plan.is_empty() && !flags.json {
        return print(&format!("node {node} has no replicas\n"));
    }
    print_plan(flags.json, &before, &plan)
}

fn decommission(flags: &ClientFlags, node: i32, moving: &Moving) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&flags.brokers)?;
    drain(flags, &mut cluster, node, moving)?;
    if moving.plan {
        return Ok(());
    }
    if runs(&mut cluster, node)? {
        eprintln!("node {node} has nothing any more: stop it now");
        wait_until_stopped(flags, node)?;
    }
    // Until it was stopped it was given what was made.
    check_empty(&mut Cluster::connect(&flags.brokers)?, node)?;
    take_out(flags, node)?;
    if flags.json { Ok(()) } else { print(&format!("node {node} is none of this cluster any more\n")) }
}

/// Over a connection of its own each time: it may be that node which was asked until now.
fn wait_until_stopped(flags: &ClientFlags, node: i32) -> Result<(), Failure> {
    let mut failures = 0;
    loop {
        match Cluster::connect(&flags.brokers).and_then(|mut cluster| runs(&mut cluster, node)) {
            Ok(false) => return Ok(()),
            Ok(true) => failures = 0,
            Err(failure) if failures == FAILURES_MAX => return Err(failure),
            Err(_) => failures += 1,
        }
        pause();
    }
}

fn replace(flags: &ClientFlags, (node, by): (i32, i32), moving: &Moving) -> Result<(), Failure> {
    if node == by {
        return Err(format!("node {node} cannot be replaced by itself").into());
    }
    let mut cluster = Cluster::connect(&flags.brokers)?;
    if !runs(&mut cluster, by)? {
        return Err(format!("node {by} does not run, or is none of this cluster").into());
    }
    check_routing(&mut cluster)?;
    let before = assigned(&mut cluster)?;
    let mut plan = plan_replace(NodeId(node), NodeId(by), &before);
    // What it has already goes to others.
    let is_planned =
        |it: &Assigned| plan.iter().any(|to| (&to.topic, to.partition) == (&it.topic, it.partition));
    let rest: Vec<Assigned> = before.iter().filter(|it| !is_planned(it)).cloned().collect();
    plan.extend(plan_drain(NodeId(node), &targets(&mut cluster, &BTreeSet::from([node]))?, &rest)?);
    plan.extend(leaving(&mut cluster, node)?);
    if moving.plan {
        return print_plan(flags.json, &before, &plan);
    }
    carry_out(&mut cluster, &before, &plan, moving.carrying)?;
    check_empty(&mut cluster, node)?;
    print_plan(flags.json, &before, &plan)?;
    if !runs(&mut cluster, node)? {
        take_out(flags, node)?;
    }
    Ok(())
}

/// Somebody may have given it something since it was planned, or have cancelled what was. What is on its way from it
/// counts: it is the source.
fn check_empty(cluster: &mut Cluster, node: i32) -> Result<(), Failure> {
    let metadata = cluster.metadata_of_all()?;
    for topic in &metadata.topics {
        let mut partitions = topic.partitions.iter();
        if let Some(partition) = partitions.find(|it| it.replica_nodes.contains(&node.into())) {
            let name = topic.name.as_ref().map_or("", |name| name.as_str());
            return Err(format!(
                "node {node} has {name}-{}, since a moment ago: give the command again",
                partition.partition_index
            )
            .into());
        }
    }
    Ok(())
}

/// Partitions are on brokers, and with `core` routing a node has several.
pub fn check_routing(cluster: &mut Cluster) -> Result<(), Failure> {
    let Some(quorum) = describe_quorum(cluster.any())? else { return Ok(()) };
    let nodes: BTreeSet<i32> =
        quorum.voters.iter().chain(&quorum.observers).map(|member| member.replica_id.0).collect();
    let brokers = describe_brokers(cluster.any())?;
    match brokers.iter().find(|broker| !nodes.contains(&broker.broker_id.0)) {
        None => Ok(()),
        Some(broker) => Err(format!(
            "broker {} is a core of a node (`--routing core`), or of one that has left: use `odradek cluster reassign`",
            broker.broker_id.0
        )
        .into()),
    }
}

fn runs(cluster: &mut Cluster, node: i32) -> Result<bool, Failure> {
    let brokers = describe_brokers(cluster.any())?;
    let found = brokers.iter().find(|broker| broker.broker_id.0 == node);
    Ok(found.is_some_and(|broker| !matches!(Load::of(broker).state, State::Fenced)))
}

/// Out of the quorum, if it is in, and out of the metadata. A node that was there a moment ago is refused for a while.
fn take_out(flags: &ClientFlags, node: i32) -> Result<(), Failure> {
    let mut failures = 0;
    loop {
        match Cluster::connect(&flags.brokers).and_then(|mut cluster| try_take_out(&mut cluster, node)) {
            Err(failure) if failures == FAILURES_MAX => return Err(failure),
            Err(_) => failures += 1,
            done => return done,
        }
        pause();
    }
}

fn try_take_out(cluster: &mut Cluster, node: i32) -> Result<(), Failure> {
    let quorum = describe_quorum(cluster.any())?;
    let is_member = quorum.is_some_and(|quorum| {
        let mut members = quorum.voters.iter().chain(&quorum.observers);
        members.any(|member| member.replica_id.0 == node)
    });
    if is_member {
        let request = RemoveRaftVoterRequest::default().with_cluster_id(None).with_voter_id(node);
        let response = cluster.any().send(|_| request.clone())?;
        if response.error_code != 0 {
            return Err(refused("node", node, response.error_code, response.error_message));
        }
    }
    let brokers = describe_brokers(cluster.any())?;
    if brokers.iter().any(|broker| broker.broker_id.0 == node) { unregister(cluster, node) } else { Ok(()) }
}
