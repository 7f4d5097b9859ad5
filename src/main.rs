//! The command line: the broker itself and the commands that speak to a running one.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("odradek: {failure}");
            ExitCode::FAILURE
        }
    }
}
