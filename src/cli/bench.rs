//! `odradek bench disk`: what this disk costs, and what the broker's acknowledgements will cost on it.
//!
//! | file | what |
//! |---|---|
//! | `bench/scratch.rs` | a file without a name, direct I/O, aligned buffers |
//! | `bench/disk.rs` | the measurements |
//! | `bench/figures.rs` | what they add up to, for people and programs |
//!
//! Ordinary blocking calls on purpose: the figures are the disk's, not the executor's.

mod disk;
mod figures;
mod scratch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Failure, print, print_json};

#[derive(Debug, Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Measure bandwidth, flush latency and group commits of a disk, and predict acknowledgements
    Disk {
        /// A directory on the disk; needs 384 MiB there, which are given back at the end
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// Time for all measurements together
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    let BenchCommand::Disk { dir, seconds, json } = &arguments.command;
    let measured = disk::measure(dir, Duration::from_secs(*seconds));
    let figures = measured.map_err(|error| format!("{} cannot be measured: {error}", dir.display()))?;
    if *json { print_json(&figures.json()) } else { print(&figures.text()) }
}

/// What an acknowledgement takes at least on the disk of that directory, through the journal and behind
/// another flush: its 99th percentile, in microseconds. Takes about a second. `None` where it cannot be
/// measured.
pub fn acknowledgement_us_p99(directory: &Path) -> Option<u64> {
    let measured = disk::measure_flush(directory, Duration::from_secs(1)).ok()?;
    Some(figures::predict(&measured).busy_us_p99.round() as u64)
}
