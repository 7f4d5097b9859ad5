//! `odradek-loadgen`: parses flags, runs a command of the library, shows the result.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use odradek_loadgen::cluster::Bootstrap;
use odradek_loadgen::consume::group::GroupConfig;
use odradek_loadgen::consume::message::Isolation;
use odradek_loadgen::consume::run::{ConsumeConfig, Consumed};
use odradek_loadgen::consume::worker::{Discard, start_positions};
use odradek_loadgen::executor::block_on;
use odradek_loadgen::flags::{Cli, Command, CommonFlags, ConsumeFlags, ProduceFlags};
use odradek_loadgen::produce::message::Acks;
use odradek_loadgen::produce::run::Templates;
use odradek_loadgen::stats::Stats;
use odradek_loadgen::summary::{ProgressLine, Summary, write_json};
use odradek_loadgen::{consume, groups, produce, verify};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Produce(flags) => run_produce(&flags),
        Command::Consume(flags) => run_consume(&flags),
        Command::Verify(flags) => verify::run::run(&flags),
        Command::Groups(flags) => groups::run::run(&flags),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be closed; the exit code says it too.
            let _ = writeln!(std::io::stderr(), "odradek-loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// API keys of what a run may ask for and this client cannot do without.
const FIND_COORDINATOR: i16 = 10;
const END_TRANSACTION: i16 = 26;

/// Returns whether every record made it.
fn run_produce(flags: &ProduceFlags) -> anyhow::Result<bool> {
    anyhow::ensure!(flags.in_flight > 0, "--in-flight must be at least 1");
    anyhow::ensure!(flags.batches_per_request > 0, "--batches-per-request must be at least 1");
    anyhow::ensure!(flags.rate.is_none_or(|rate| rate > 0.0), "--rate must be above zero");
    if flags.transactional_id.is_some() {
        anyhow::ensure!(flags.acks == Acks::All, "--transactional-id needs --acks all");
        anyhow::ensure!(flags.transaction_records != Some(0), "--transaction-records must be at least 1");
        require_api(&flags.common.bootstrap(), END_TRANSACTION, "transactions")?;
    }
    let config = flags.config();
    let shape = config.shape;
    let mut progress = ProgressLine::new(flags.common.quiet);
    let make_source = move |thread| Templates::new(&shape, thread);
    let produced =
        produce::run::run(&config, make_source, |since, interval| progress.show(since, &interval))?;
    progress.finish();
    let summary =
        Summary::new(&produced.stats, produced.seconds, produced.cpu_seconds, Some(flags.acks.name()));
    show(&flags.common, &summary, &produced.stats, &produced.problems)?;
    Ok(produced.stats.failed == 0 && produced.problems.is_empty())
}

fn run_consume(flags: &ConsumeFlags) -> anyhow::Result<bool> {
    let bootstrap = flags.common.bootstrap();
    let topic = flags.common.topic.clone();
    let isolation = if flags.read_committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let setup = flags.fetch.setup(&topic, isolation);
    if let Some(group) = &flags.group {
        require_api(&bootstrap, FIND_COORDINATOR, "consumer groups")?;
        let config = GroupConfig {
            bootstrap,
            setup,
            group: group.clone(),
            from: flags.from.log_end(),
            records: flags.records,
            duration: flags.duration,
            idle_timeout: flags.fetch.idle_timeout,
            check_crc: !flags.fetch.no_crc_check,
            members: flags.common.connections,
            threads: flags.common.threads(),
        };
        let mut progress = ProgressLine::new(flags.common.quiet);
        let consumed = consume::group::run(&config, |since, interval| progress.show(since, &interval))?;
        progress.finish();
        return show_consumed(flags, &consumed);
    }
    let (positions, leaders) = block_on(async {
        let positions = start_positions(&bootstrap, &topic, flags.from.log_end()).await?;
        let leaders = bootstrap.leaders(&topic).await?;
        anyhow::Ok((positions, leaders))
    })??;
    let config = ConsumeConfig {
        bootstrap,
        setup,
        positions,
        more_readers: Vec::new(),
        leaders,
        records: flags.records,
        duration: flags.duration,
        idle_timeout: flags.fetch.idle_timeout,
        check_crc: !flags.fetch.no_crc_check,
        connections: flags.common.connections,
        threads: flags.common.threads(),
    };
    let mut progress = ProgressLine::new(flags.common.quiet);
    let consumed =
        consume::run::run(&config, |_| Discard, |since, interval| progress.show(since, &interval))?;
    progress.finish();
    show_consumed(flags, &consumed)
}

/// Returns whether as much was read as was asked for.
fn show_consumed<S>(flags: &ConsumeFlags, consumed: &Consumed<S>) -> anyhow::Result<bool> {
    let summary = Summary::new(&consumed.stats, consumed.seconds, consumed.cpu_seconds, None);
    show(&flags.common, &summary, &consumed.stats, &consumed.problems)?;
    let enough = flags.records.is_none_or(|records| consumed.stats.records >= records);
    Ok(enough && consumed.problems.is_empty())
}

/// Fails with a sentence that names what the broker lacks.
fn require_api(bootstrap: &Bootstrap, api_key: i16, what: &str) -> anyhow::Result<()> {
    let offered = block_on(async {
        let connection = bootstrap.connect().await?;
        anyhow::Ok(connection.offers(api_key))
    })??;
    anyhow::ensure!(offered, "the broker does not offer {what} (API key {api_key})");
    Ok(())
}

fn show(flags: &CommonFlags, summary: &Summary, stats: &Stats, problems: &[String]) -> anyhow::Result<()> {
    let to_stdout = flags.json.as_deref() == Some(std::path::Path::new("-"));
    if !flags.quiet {
        let text = summary.text(stats);
        if to_stdout {
            writeln!(std::io::stderr(), "{text}")?;
        } else {
            writeln!(std::io::stdout(), "{text}")?;
        }
    }
    for problem in problems {
        writeln!(std::io::stderr(), "odradek-loadgen: {problem}")?;
    }
    if let Some(path) = &flags.json {
        write_json(summary, path).context("the result was not written")?;
    }
    Ok(())
}
