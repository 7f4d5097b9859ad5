//! `odradek-powerloss`: cuts the power below a running broker and reads everything back.
//!
//! Exit code 0: nothing acknowledged was lost; 1: something was, and its files are kept; 2: it could not
//! be found out; 3: nothing can be mounted here.
#![expect(
    clippy::disallowed_methods,
    reason = "a tool that looks at the clock for a seed and removes its files"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use odradek_powerloss::mount::Mount;
use odradek_powerloss::process::catch_interrupts;
use odradek_powerloss::rounds::{self, Failed, Options};
use odradek_test_harness::{FileSystem, Image};

/// Runs the broker under load on a file system that forgets what was not flushed, cuts its power at
/// random moments, and checks after each restart that every acknowledged record is there. Needs root
/// and /dev/fuse.
#[derive(Debug, Parser)]
#[command(name = "odradek-powerloss", version)]
struct Flags {
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Of the dice: the moments and what is lost. Default: from the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// ext4 or xfs: the broker's files on such a file system, on a disk that forgets. Default: the file
    /// system itself is one that forgets.
    #[arg(long, value_name = "NAME")]
    fs: Option<FileSystem>,
    /// Where a directory for the run is made. It goes when all was well.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Default: `odradek` beside this program.
    #[arg(long, value_name = "FILE")]
    broker: Option<PathBuf>,
    /// Default: `odradek-loadgen` beside this program.
    #[arg(long, value_name = "FILE")]
    loadgen: Option<PathBuf>,
    /// A setting of the broker; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    catch_interrupts();
    match run(&Flags::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("odradek-powerloss: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let unavailable = Mount::unavailable().or_else(|| flags.fs.and_then(Image::unavailable));
    if let Some(reason) = unavailable {
        eprintln!("odradek-powerloss: {reason}");
        return Ok(ExitCode::from(3));
    }
    let own = std::env::current_exe().context("where this program lies is not known")?;
    let beside = |name: &str| own.with_file_name(name);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let options = Options {
        broker: flags.broker.clone().unwrap_or_else(|| beside("odradek")),
        load_generator: flags.loadgen.clone().unwrap_or_else(|| beside("odradek-loadgen")),
        directory: flags
            .dir
            .clone()
            .unwrap_or_else(std::env::temp_dir)
            .join(format!("odradek-powerloss.{}", std::process::id())),
        rounds: flags.rounds,
        seed: flags.seed.unwrap_or(since_epoch.as_nanos() as u64),
        file_system: flags.fs,
        settings: flags.set.clone(),
    };
    let on = flags.fs.map_or(String::new(), |file_system| format!(", the broker's files on {file_system}"));
    println!("seed {}, in {}{on}", options.seed, options.directory.display());
    let result = rounds::run(&options, &mut |line| println!("{line}"));
    match result {
        Ok(()) => {
            std::fs::remove_dir_all(&options.directory)?;
            println!("{} rounds without a violation", options.rounds);
            Ok(ExitCode::SUCCESS)
        }
        Err(Failed::Violation { round, what }) => {
            let (seed, directory) = (options.seed, options.directory.display());
            eprintln!("{what}\nVIOLATION in round {round}, seed {seed}; everything is in {directory}");
            Ok(ExitCode::FAILURE)
        }
        Err(failed) => Err(failed).with_context(|| format!("see {}", options.directory.display())),
    }
}
