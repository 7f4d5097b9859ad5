//! Flags, configuration, start and stop; the commands for topics, for files and for the host.
//!
//! | file | what |
//! |---|---|
//! | `settings.rs` | flags, environment and file into a `Config` |
//! | `start.rs`, `signals.rs`, `logging.rs` | the broker as a process |
//! | `config.rs` | `odradek config` |
//! | `topic.rs`, `client.rs` | `odradek topic`, over the Kafka protocol |
//! | `group.rs`, `client.rs` | `odradek group`, the same |
//! | `txn.rs`, `client.rs` | `odradek txn`, the same |
//! | `quota.rs`, `client.rs` | `odradek quota`, the same |
//! | `clients.rs` | `odradek client`, over the admin port |
//! | `log.rs` | `odradek log`, over the files of a stopped broker |
//! | `bench.rs` | `odradek bench`, over a file of its own |
//! | `tune.rs` | `odradek tune`, over the data in `tuning/` |
//! | `table.rs` | columns for people |
//!
//! Answers go to standard output, everything else to standard error. Exit code 0: done; 1: refused
//! or failed, with one sentence that says why; 2: the command line is wrong.

mod bench;
mod brokers;
mod client;
mod clients;
mod cluster;
mod config;
mod group;
mod log;
mod logging;
mod quota;
mod settings;
mod signals;
mod start;
mod table;
mod topic;
mod tune;
mod txn;

use clap::{Parser, Subcommand};

/// Shown to the user as it is, so each one is a sentence that says what to do.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A streaming log broker for bare-metal Linux that every Kafka client uses unchanged.
#[derive(Debug, Parser)]
#[command(name = "odradek", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker until SIGTERM or SIGINT
    Start(start::StartArguments),
    /// Print every setting, its effective value, and where the value came from
    Config(config::ConfigArguments),
    /// Create, list, describe, change and delete topics of a running broker
    Topic(topic::TopicArguments),
    /// Start the nodes of a cluster for the first time; show its metadata quorum, brokers and partitions
    Cluster(cluster::ClusterArguments),
    /// Show, empty and replace nodes of a running cluster
    Node(cluster::NodeArguments),
    /// List, describe, reset and delete consumer groups of a running broker
    Group(group::GroupArguments),
    /// List, describe and abort transactions of a running broker
    Txn(txn::TxnArguments),
    /// List, set and remove client quotas of a running broker
    Quota(quota::QuotaArguments),
    /// Show who is connected to a running broker, and what clients measure of themselves
    Client(clients::ClientArguments),
    /// Show or check the files of a stopped broker
    Log(log::LogArguments),
    /// Measure what this host's hardware costs
    Bench(bench::BenchArguments),
    /// Compare this host's settings with those that the broker runs best with
    Tune(tune::TuneArguments),
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Start(arguments) => start::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
        Command::Topic(arguments) => topic::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Node(arguments) => cluster::run_node(&arguments),
        Command::Group(arguments) => group::run(&arguments),
        Command::Txn(arguments) => txn::run(&arguments),
        Command::Quota(arguments) => quota::run(&arguments),
        Command::Client(arguments) => clients::run(&arguments),
        Command::Log(arguments) => log::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
    }
}

/// Writes to standard output. A reader that went away (`| head`) is not a failure.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}
