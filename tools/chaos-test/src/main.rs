//! `odradek-chaos`: three real nodes, clients of librdkafka, every fault that can be made on one machine, and a checker
//! over what clients saw (SAFETY 1 to 10).
//!
//! ```text
//! producers, transactions, a group, readers ─► node 1 ◄─┐
//!          │                                   node 2 ◄─┼─► [network: dark, slow, one way]
//!          ▼                                   node 3 ◄─┘
//!       history ─► checks, at every answer and at the end
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `history` | what clients were told, and what of that cannot be; pure |
//! | `load` | the clients |
//! | `cluster` | the nodes as processes, and what they say of themselves |
//! | `proxy` | the network between them |
//! | `faults` | what is done to both |
//! | `damage` | bits that rot |
//! | `rounds` | faults one after the other, quiet moments, the verdict |
//! | `probes` | others, whom coordinators have to serve |
//! | `outages` | instead: how long partitions take no records |
//!
//! Exit code 0: no violation; 1: one, or not everything was served again; 2: it could not be found out.
#![expect(
    clippy::disallowed_methods,
    reason = "a tool that looks at clocks, files and processes from outside; no broker code"
)]

mod cluster;
mod damage;
mod faults;
mod history;
mod load;
mod outages;
mod probes;
mod proxy;
mod rounds;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use odradek_powerloss::process::{Interrupted, catch_interrupts};

use crate::faults::Fault;
use crate::outages::{failover, stops};
use crate::rounds::{Plan, chaos};

/// Runs three nodes under load and does to them what machines and networks do; then reads everything back.
#[derive(Debug, Parser)]
#[command(name = "odradek-chaos", version)]
struct Flags {
    /// How long faults go on.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    minutes: f64,
    /// Only these; default: all.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT,..")]
    faults: Vec<Fault>,
    /// Instead: kill the leader of a partition so often, and say how long the next acknowledgement took.
    #[arg(long, value_name = "ROUNDS")]
    failover: Option<u32>,
    /// Instead: stop a node so often, and say how long its partitions took no records.
    #[arg(long, value_name = "ROUNDS", conflicts_with = "failover")]
    stops: Option<u32>,
    /// Of the dice. Default: from the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// A setting of the nodes; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Of each node.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cores: usize,
    /// Of each node, all on its one disk.
    #[arg(long, value_name = "N", default_value_t = 1)]
    log_dirs: usize,
    /// Another build of the broker: each start of a node is of the one that its last start was not of.
    #[arg(long, value_name = "EXECUTABLE")]
    other_build: Option<PathBuf>,
}

fn main() -> ExitCode {
    catch_interrupts();
    let flags = Flags::parse();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let settings =
        flags.set.iter().map(|set| set.split_once('=').map(|(name, value)| (name.into(), value.into())));
    let Some(settings) = settings.collect::<Option<Vec<_>>>() else {
        eprintln!("odradek-chaos: --set takes NAME=VALUE");
        return ExitCode::from(2);
    };
    let plan = Plan {
        time: Duration::from_secs_f64(60.0 * flags.minutes.max(0.0)),
        seed: flags.seed.unwrap_or(since_epoch.as_nanos() as u64),
        faults: if flags.faults.is_empty() { Fault::value_variants().to_vec() } else { flags.faults },
        settings,
        cores: flags.cores.max(1),
        log_dirs: flags.log_dirs.max(1),
        other_build: flags.other_build,
    };
    println!("seed {}", plan.seed);
    let mut say = |line| println!("{line}");
    let result = match (flags.failover, flags.stops) {
        (Some(rounds), _) => failover(&plan, rounds, &mut say),
        (None, Some(rounds)) => stops(&plan, rounds, &mut say),
        (None, None) => chaos(&plan, &mut say),
    };
    match result {
        Ok(violations) if violations.is_empty() => {
            println!("no violation");
            ExitCode::SUCCESS
        }
        Ok(violations) => {
            violations.iter().for_each(|violation| eprintln!("VIOLATION: {violation}"));
            eprintln!("seed {}", plan.seed);
            ExitCode::FAILURE
        }
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("odradek-chaos: interrupted");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("odradek-chaos: {error:#} (seed {})", plan.seed);
            ExitCode::FAILURE
        }
    }
}
