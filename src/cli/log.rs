//! `odradek log`: what the files of a stopped broker say, and whether they hold. Changes nothing.
//!
//! | file | what |
//! |---|---|
//! | `dump.rs` | which kind of file it is; one file after the other |
//! | `dump/segment.rs`, `dump/journal.rs`, `dump/metadata.rs`, `dump/small.rs` | one kind each |
//! | `verify.rs` | whole data directories: what there is, and what it is held against |
//! | `verify/journal.rs` | the commit journals |
//! | `verify/partition.rs`, `verify/report.rs` | one partition's files; the result for people and programs |
//! | `item.rs` | a line of `key: value` for people, an object for programs |
//!
//! Byte layouts and judgements are `odradek::log`'s; here are files and lines.

mod dump;
mod item;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Failure;

#[derive(Debug, Args)]
pub struct LogArguments {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Show what is in segments, indexes, producer snapshots, checkpoints, commit journals and the metadata log
    Dump(DumpArguments),
    /// Check a stopped broker's data directories; exit code 1 if anything in them does not hold
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
struct DumpArguments {
    /// Files of a data directory, under the names that they have there
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show the records of each batch, decompressed
    #[arg(long)]
    deep: bool,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArguments {
    /// The data directory; of a broker with several, all of them or some
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &LogArguments) -> Result<(), Failure> {
    match &arguments.command {
        LogCommand::Dump(arguments) => dump::run(arguments),
        LogCommand::Verify(arguments) => verify::run(arguments),
    }
}
