//! A verification: producing and reading at the same time, or one phase now and the other after the
//! broker was killed and started again.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context;
use odradek::codec::compression::decompress;
use odradek::codec::record_batch::{BatchView, Compression};
use odradek::codec::records::Records;
use odradek::types::{Mono, Timestamp};

use crate::clock;
use crate::cluster::{Leader, LogEnd};
use crate::consume::message::Isolation;
use crate::consume::run::{ConsumeConfig, Consumed};
use crate::consume::worker::{Position, Sink};
use crate::content::{Keys, Random, Shape};
use crate::executor::block_on;
use crate::flags::{Phase, VerifyFlags};
use crate::produce::message::Acks;
use crate::produce::run::{ProduceConfig, Produced};
use crate::produce::worker::OnDisconnect;
use crate::stats::Stats;
use crate::summary::{ProgressLine, Summary, write_json};
use crate::verify::checker::{Checker, Read, Report};
use crate::verify::ledger::{Ledger, StampedSource, State, stamped_records_per_batch};
use crate::verify::stamp::{RunId, STAMP_SIZE};
use crate::{consume, produce};

/// Bytes of one batch after decompression; ours are far below.
const PLAIN_SIZE_MAX: usize = 256 << 20;

/// Runs a verification and says whether all is well.
pub fn run(flags: &VerifyFlags) -> anyhow::Result<bool> {
    anyhow::ensure!(flags.in_flight > 0, "--in-flight must be at least 1");
    anyhow::ensure!(flags.batches_per_request > 0, "--batches-per-request must be at least 1");
    anyhow::ensure!(flags.record_size >= STAMP_SIZE, "--record-size must be at least {STAMP_SIZE}");
    match flags.phase {
        Phase::Both => run_both(flags),
        Phase::Produce => run_produce(flags),
        Phase::Read => run_read(flags),
    }
}

fn run_both(flags: &VerifyFlags) -> anyhow::Result<bool> {
    let (leaders, state) = prepare(flags)?;
    let ledger = Arc::new(Ledger::new(&state));
    let positions = positions(&state);
    let ends: Vec<(i32, Arc<AtomicI64>)> = positions.iter().map(|p| (p.partition, p.end.clone())).collect();
    let reader = {
        let config = consume_config(flags, positions, leaders.clone());
        let ledger = ledger.clone();
        std::thread::spawn(move || read_all(&config, &ledger))
    };
    let produced = produce_all(flags, &leaders, &ledger);
    // Even after a failed run the reader must be told where to stop.
    let last = block_on(flags.common.bootstrap().offsets(&flags.common.topic, LogEnd::Latest))?;
    for (partition, end) in &ends {
        let offset = last.as_ref().ok().and_then(|last| last.get(partition)).copied();
        end.store(offset.unwrap_or(0), Ordering::Relaxed);
    }
    let consumed = reader.join().map_err(|_| anyhow::anyhow!("the reading thread failed"))??;
    let produced = produced?;
    last?;
    conclude(flags, &ledger, consumed, Some(produced))
}

fn run_produce(flags: &VerifyFlags) -> anyhow::Result<bool> {
    let path = flags.state.as_deref().context("--phase produce needs --state")?;
    let (leaders, mut state) = prepare(flags)?;
    if let Some(earlier) = State::load(path)? {
        anyhow::ensure!(earlier.topic == flags.common.topic, "{} is of another topic", path.display());
        state = earlier;
    }
    let ledger = Arc::new(Ledger::new(&state));
    let produced = produce_all(flags, &leaders, &ledger);
    ledger.state().save(path)?;
    let produced = produced?;
    let acked = ledger.state().acked_records();
    show(flags, &produced.stats, produced.seconds, produced.cpu_seconds)?;
    if !flags.common.quiet {
        say(flags, &format!("{acked} records acknowledged so far, kept in {}", path.display()))?;
    }
    warn(&produced.problems)?;
    let stopped = flags.stop_on_disconnect && produced.stats.failed == 0;
    Ok(stopped || (produced.stats.failed == 0 && produced.problems.is_empty()))
}

fn run_read(flags: &VerifyFlags) -> anyhow::Result<bool> {
    let path = flags.state.as_deref().context("--phase read needs --state")?;
    let mut state = State::load(path)?.with_context(|| format!("there is no {}", path.display()))?;
    if let Some(only) = &flags.only {
        state.partitions.retain(|partition| only.contains(&partition.partition));
    }
    anyhow::ensure!(state.topic == flags.common.topic, "{} is of another topic", path.display());
    let ledger = Arc::new(Ledger::new(&state));
    let bootstrap = flags.common.bootstrap();
    let (leaders, last) = block_on(async {
        let leaders = bootstrap.leaders(&flags.common.topic).await?;
        let wanted = |partition| flags.only.as_ref().is_none_or(|only| only.contains(&partition));
        let last = bootstrap.offsets_of(&flags.common.topic, LogEnd::Latest, wanted).await?;
        anyhow::Ok((leaders, last))
    })??;
    let positions = positions(&state);
    for position in &positions {
        position.end.store(last.get(&position.partition).copied().unwrap_or(0), Ordering::Relaxed);
    }
    let consumed = read_all(&consume_config(flags, positions, leaders), &ledger)?;
    conclude(flags, &ledger, consumed, None)
}

/// Creates the topic if asked, and notes where each log ends before the run.
fn prepare(flags: &VerifyFlags) -> anyhow::Result<(Vec<Leader>, State)> {
    let bootstrap = flags.common.bootstrap();
    let (leaders, start_offsets) = block_on(async {
        let leaders = match flags.create.new_topic(&flags.common.topic) {
            Some(topic) => bootstrap.create_topic(&topic).await?,
            None => bootstrap.leaders(&flags.common.topic).await?,
        };
        let start_offsets = bootstrap.offsets(&flags.common.topic, LogEnd::Latest).await?;
        anyhow::Ok((leaders, start_offsets))
    })??;
    // Two runs at the same millisecond by processes of the same number are not a concern.
    let run = Random::new(clock::wall_ms() as u64 ^ ((std::process::id() as u64) << 48)).next();
    Ok((leaders, State::new(RunId(run), &flags.common.topic, &start_offsets)))
}

fn produce_all(flags: &VerifyFlags, leaders: &[Leader], ledger: &Arc<Ledger>) -> anyhow::Result<Produced> {
    let partitions: usize = leaders.iter().map(|leader| leader.partitions.len()).sum();
    let shape = Shape {
        record_size: flags.record_size,
        batch_size: flags.batch_bytes,
        keys: Keys::None,
        compression: flags.compression,
    };
    let config = ProduceConfig {
        bootstrap: flags.common.bootstrap(),
        topic: flags.common.topic.clone(),
        create: None,
        shape,
        records_per_batch: Some(stamped_records_per_batch(flags.record_size, flags.batch_bytes)),
        records: flags.records,
        duration: flags.duration,
        rate: flags.rate,
        acks: flags.acks,
        batches_per_request: flags.batches_per_request,
        linger: flags.linger,
        in_flight: flags.in_flight,
        // A partition has one producer, or its order would not be defined.
        connections: flags.common.connections.min(partitions),
        exclusive_partitions: true,
        idempotent: flags.acks == Acks::All,
        transactional: None,
        delivery_timeout: flags.delivery_timeout,
        on_disconnect: if flags.stop_on_disconnect { OnDisconnect::Stop } else { OnDisconnect::Retry },
        threads: flags.common.threads(),
    };
    let acknowledged = flags.acks != Acks::None;
    let (record_size, compression) = (flags.record_size, flags.compression);
    let ledger = ledger.clone();
    let make_source = move |_| StampedSource::new(ledger.clone(), record_size, compression, acknowledged);
    let mut progress = ProgressLine::new(flags.common.quiet);
    let produced = produce::run::run(&config, make_source, |since, interval| progress.show(since, &interval));
    progress.finish();
    produced
}

/// Where to read from: the log's end when the run began.
fn positions(state: &State) -> Vec<Position> {
    state.partitions.iter().map(|p| Position::from(p.partition, p.start_offset)).collect()
}

fn consume_config(flags: &VerifyFlags, positions: Vec<Position>, leaders: Vec<Leader>) -> ConsumeConfig {
    ConsumeConfig {
        bootstrap: flags.common.bootstrap(),
        setup: flags.fetch.setup(&flags.common.topic, Isolation::ReadUncommitted),
        positions,
        more_readers: Vec::new(),
        leaders,
        records: None,
        duration: None,
        idle_timeout: flags.fetch.idle_timeout.max(flags.delivery_timeout),
        check_crc: !flags.fetch.no_crc_check,
        connections: 1,
        threads: Default::default(),
    }
}

fn read_all(config: &ConsumeConfig, ledger: &Arc<Ledger>) -> anyhow::Result<Consumed<CheckingSink>> {
    let ledger = ledger.clone();
    let make_sink = move |_| CheckingSink {
        checker: Checker::new(ledger.run()),
        ledger: ledger.clone(),
        plain: Vec::new(),
    };
    consume::run::run(config, make_sink, |_, _| {})
}

/// Feeds the checker.
pub struct CheckingSink {
    checker: Checker,
    ledger: Arc<Ledger>,
    plain: Vec<u8>,
}

impl Sink for CheckingSink {
    fn batch(&mut self, partition: i32, batch: &BatchView<'_>, _received: Mono) {
        let (base, count) = (batch.base_offset().to_wire(), batch.record_count());
        let payload = match batch.compression() {
            Some(Compression::None) => batch.payload(),
            Some(codec) => match decompress(codec, batch.payload(), PLAIN_SIZE_MAX, &mut self.plain) {
                Ok(()) => &self.plain,
                Err(_) => return self.checker.unreadable(partition, base, count),
            },
            None => return self.checker.unreadable(partition, base, count),
        };
        let sent_end = self.ledger.sent_end(partition);
        for (at, record) in Records::new(payload, count).enumerate() {
            let Ok(record) = record else {
                let left = count.saturating_sub(at as u32).max(1);
                return self.checker.unreadable(partition, base + at as i64, left);
            };
            let timestamp = (!batch.is_log_append_time())
                .then(|| Timestamp(batch.base_timestamp().0.wrapping_add(record.timestamp_delta)));
            let offset = base + record.offset_delta as i64;
            self.checker.read(&Read { partition, offset, timestamp, record }, sent_end);
        }
    }
}

/// Adds up the verdicts and shows them.
fn conclude(
    flags: &VerifyFlags,
    ledger: &Ledger,
    consumed: Consumed<CheckingSink>,
    produced: Option<Produced>,
) -> anyhow::Result<bool> {
    let acked = ledger.acked();
    let mut report = Report::default();
    // One thread reads, so one checker saw everything.
    for sink in consumed.sinks {
        report.merge(sink.checker.finish(&acked));
    }
    let mut clean = report.is_clean() && consumed.problems.is_empty();
    match &produced {
        Some(produced) => {
            show(flags, &produced.stats, produced.seconds, produced.cpu_seconds)?;
            warn(&produced.problems)?;
            clean &= produced.stats.failed == 0 && produced.problems.is_empty();
        }
        None => show(flags, &consumed.stats, consumed.seconds, consumed.cpu_seconds)?,
    }
    warn(&consumed.problems)?;
    let acked: u64 = acked.values().flatten().map(|range| range.end - range.start).sum();
    let mut out = std::io::stderr();
    for offender in &report.offenders {
        writeln!(out, "{offender}")?;
    }
    for (fault, count) in &report.faults {
        writeln!(out, "{count} records {fault}")?;
    }
    if !flags.common.quiet {
        let verdict = if clean { "verified" } else { "FAILED" };
        say(flags, &format!("{verdict}: {acked} records acknowledged, {} read", report.records))?;
    }
    Ok(clean)
}

fn show(flags: &VerifyFlags, stats: &Stats, seconds: f64, cpu_seconds: f64) -> anyhow::Result<()> {
    let acks = (flags.phase != Phase::Read).then(|| flags.acks.name());
    let summary = Summary::new(stats, seconds, cpu_seconds, acks);
    if !flags.common.quiet {
        say(flags, &summary.text(stats))?;
    }
    match &flags.common.json {
        Some(path) => write_json(&summary, path),
        None => Ok(()),
    }
}

/// A line for people, out of the way of the JSON.
fn say(flags: &VerifyFlags, text: &str) -> anyhow::Result<()> {
    match flags.common.json.as_deref() == Some(std::path::Path::new("-")) {
        true => writeln!(std::io::stderr(), "{text}")?,
        false => writeln!(std::io::stdout(), "{text}")?,
    }
    Ok(())
}

fn warn(problems: &[String]) -> anyhow::Result<()> {
    for problem in problems {
        writeln!(std::io::stderr(), "odradek-loadgen: {problem}")?;
    }
    Ok(())
}
