//! `odradek-crash`: kills the broker under load, damages its files, and reads everything back.
//!
//! ```text
//! kill     load ─► kill -9, or a stop that is killed, or not ─► [start, killed again] ─► start ─► judge
//! damage   load ─► kill -9, or a stop ─► damage one file ─► start ─► offline is what may be, with its log
//!          line and metric; what else there is reads as below
//! ```
//! The load of the load generator is read back whole: every acknowledged record, once, in order, nothing
//! else. Beside it, in the rounds that kill, others write to compacted topics and to topics that keep
//! little, delete records, and make and delete topics; what that leaves is held against what was answered.
//!
//! | file | what it is |
//! |---|---|
//! | `promises` | what was asked and answered of those, and what has to be there for it; pure |
//! | `changes`, `client` | the threads that ask; their requests, and how a partition is read whole |
//! | `damage` | which file is damaged how, and what may follow from it |
//! | `broker` | the broker as a process: start, log lines, metrics; the load generator beside it |
//! | `rounds` | the rounds, and the verdicts |
//!
//! Exit code 0: no violation; 1: one, and its files are kept; 2: it could not be found out, or a long run
//! never met something that it is there for; 3: the file system cannot be mounted here.
#![expect(
    clippy::disallowed_methods,
    reason = "a tool that damages files, waits for processes and takes a seed from the clock; no broker code"
)]

mod broker;
mod changes;
mod client;
mod damage;
mod promises;
mod rounds;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use odradek_powerloss::process::catch_interrupts;
use odradek_test_harness::{FileSystem, Image};

use crate::changes::Met;
use crate::rounds::{Failed, Options};

/// The file that holds the file system of --fs. Takes as much space as is written.
const IMAGE: &str = "image";
const IMAGE_SIZE: u64 = 3 << 30;

/// So many kills that everything else happens, too: a stop is killed in every twelfth round.
const KILLS_THAT_MEET_ALL: u32 = 60;

/// Kills the broker under load, again and again, and reads everything back after each restart; then
/// damages its files and looks what becomes of that. Half of the rounds with a journal.
///
/// With --fs the broker's files are on a file system of that kind, in a file below --dir; needs root.
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
    /// ext4 or xfs: a file system for the broker's files alone. Default: the one of --dir.
    #[arg(long, value_name = "NAME")]
    fs: Option<FileSystem>,
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
    let directory = parent.join(format!("odradek-crash.{}", std::process::id()));
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let image = match flags.fs.map(|file_system| mount(&directory, file_system)).transpose() {
        Ok(image) => image,
        Err(error) => {
            std::fs::remove_dir_all(&directory)?;
            eprintln!("odradek-crash: a file system cannot be mounted, which takes root: {error}");
            return Ok(ExitCode::from(3));
        }
    };
    let options = Options {
        broker: own.with_file_name("odradek"),
        load_generator: own.with_file_name("odradek-loadgen"),
        data: image.as_ref().map_or(directory.clone(), |image| image.path().to_owned()),
        directory,
        kills: flags.rounds,
        damages: flags.damage,
        seed: flags.seed.unwrap_or(since_epoch.as_nanos() as u64),
        log_dirs: flags.log_dirs,
        settings: flags.set.clone(),
    };
    let on = flags.fs.map_or(String::new(), |file_system| format!(", the broker's files on {file_system}"));
    println!("seed {}, in {}{on}", options.seed, options.directory.display());
    let met = Arc::new(Met::default());
    let result = rounds::run(&options, &met, &mut |line| println!("{line}"));
    drop(image);
    match result {
        Ok(()) => {
            std::fs::remove_dir_all(&options.directory)?;
            if options.kills > 0 {
                println!("{}", met.told());
            }
            let never = met.never();
            if options.kills >= KILLS_THAT_MEET_ALL && !never.is_empty() {
                println!("never met: {}", never.join(", "));
                return Ok(ExitCode::from(2));
            }
            println!("{} kills and {} damages without a violation", options.kills, options.damages);
            Ok(ExitCode::SUCCESS)
        }
        Err(Failed::Violation { round, what }) => {
            let (seed, directory) = (options.seed, options.directory.display());
            eprintln!("{what}\nVIOLATION in {round}, seed {seed}; everything is in {directory}");
            if flags.fs.is_some() {
                eprintln!("the broker's files are in its {IMAGE}: mount -o loop");
            }
            Ok(ExitCode::FAILURE)
        }
        Err(failed) => Err(failed).with_context(|| format!("see {}", options.directory.display())),
    }
}

fn mount(directory: &Path, file_system: FileSystem) -> std::io::Result<Image> {
    Image::make(&directory.join(IMAGE), &directory.join("mounted"), file_system, IMAGE_SIZE)
}
