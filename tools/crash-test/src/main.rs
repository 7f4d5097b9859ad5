//! `odradek-crash`: kills the broker under load, damages its files, and reads everything back.
//!
//! ```text
//! kill     load ─► kill -9 ─► start ─► read: every acknowledged record, once, in order, nothing else
//! damage   load ─► kill -9, or a stop ─► damage one file ─► start ─► offline is what may be, with its log
//!          line and metric; what else there is reads as above
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `damage` | which file is damaged how, and what may follow from it |
//! | `broker` | the broker as a process: start, log lines, metrics; the load generator beside it |
//! | `rounds` | the rounds, and the verdicts |
//!
//! Exit code 0: no violation; 1: one, and its files are kept; 2: it could not be found out.
#![expect(
    clippy::disallowed_methods,
    reason = "a tool that damages files, waits for processes and takes a seed from the clock; no broker code"
)]

mod broker;
mod damage;
mod rounds;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use odradek_powerloss::process::catch_interrupts;

use crate::rounds::{Failed, Options};

/// Kills the broker under load, again and again, and reads everything back after each restart; then
/// damages its files and looks what becomes of that. Half of the rounds with a journal.
#[derive(Debug, Parser)]
#[command(name = "odradek-crash", version)]
struct Flags {
    /// Rounds that only kill.
    #[arg(default_value_t = 10)]
    rounds: u32,
    /// Rounds that damage a file after it.
    #[arg(long, default_value_t = 0)]
    damage: u32,
    /// Of the dice: the moments, the files, the bits. Default: from the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// Log directories of the broker; files of any of them are damaged.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    log_dirs: u32,
    /// Where a directory for the run is made. It goes when all was well.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A setting of the broker; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    catch_interrupts();
    match run(&Flags::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("odradek-crash: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().context("where this program lies is not known")?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let parent = flags.dir.clone().unwrap_or_else(std::env::temp_dir);
    let options = Options {
        broker: own.with_file_name("odradek"),
        load_generator: own.with_file_name("odradek-loadgen"),
        directory: parent.join(format!("odradek-crash.{}", std::process::id())),
        kills: flags.rounds,
        damages: flags.damage,
        seed: flags.seed.unwrap_or(since_epoch.as_nanos() as u64),
        log_dirs: flags.log_dirs,
        settings: flags.set.clone(),
    };
    println!("seed {}, in {}", options.seed, options.directory.display());
    match rounds::run(&options, &mut |line| println!("{line}")) {
        Ok(()) => {
            std::fs::remove_dir_all(&options.directory)?;
            println!("{} kills and {} damages without a violation", options.kills, options.damages);
            Ok(ExitCode::SUCCESS)
        }
        Err(Failed::Violation { round, what }) => {
            let (seed, directory) = (options.seed, options.directory.display());
            eprintln!("{what}\nVIOLATION in {round}, seed {seed}; everything is in {directory}");
            Ok(ExitCode::FAILURE)
        }
        Err(failed) => Err(failed).with_context(|| format!("see {}", options.directory.display())),
    }
}
