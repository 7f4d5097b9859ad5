//! `odradek cluster rebalance`: nodes get alike many replicas and preferred leaders.

use std::collections::BTreeSet;

use clap::Args;
use odradek::cluster::balance::plan_rebalance;

use super::super::brokers::Cluster;
use super::super::client::ClientFlags;
use super::super::{Failure, print};
use super::carrying::{Carrying, carry_out};
use super::moving::{assigned, print_plan, targets};
use super::nodes::check_routing;

#[derive(Debug, Args)]
pub struct RebalanceArguments {
    /// Show what would move
    #[arg(long, required_unless_present = "apply", conflicts_with = "apply")]
    plan: bool,
    /// Move it, and wait until it is there
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    carrying: Carrying,
}

pub fn run(flags: &ClientFlags, arguments: &RebalanceArguments) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&flags.brokers)?;
    check_routing(&mut cluster)?;
    let before = assigned(&mut cluster)?;
    let targets = targets(&mut cluster, &BTreeSet::new())?;
    let plan = plan_rebalance(&targets, &before);
    if plan.is_empty() && !flags.json {
        return print("nothing has to move\n");
    }
    if arguments.apply {
        carry_out(&mut cluster, &before, &plan, arguments.carrying)?;
    }
    print_plan(flags.json, &before, &plan)
}
