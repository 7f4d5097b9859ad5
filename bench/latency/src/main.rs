//! `odradek-latency`: parses flags, runs or compares, says where the report is.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use odradek_latency::flags::{Cli, Command, RunFlags};
use odradek_latency::{compare, report, session};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(flags) => run(&flags),
        Command::Compare(flags) => compare::run(&flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code says it too.
            let _ = writeln!(std::io::stderr(), "odradek-latency: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &RunFlags) -> anyhow::Result<()> {
    let (outcome, distributions) = session::run(flags)?;
    report::write(&flags.report, &outcome, &distributions)?;
    writeln!(std::io::stdout(), "{}", flags.report.join("report.html").display())?;
    Ok(())
}
