//! One target under load for one round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use odradek_loadgen::clock;
use odradek_loadgen::cluster::{Bootstrap, Leader, LogEnd};
use odradek_loadgen::consume;
use odradek_loadgen::consume::message::{FetchSetup, Isolation};
use odradek_loadgen::consume::run::{ConsumeConfig, Consumed};
use odradek_loadgen::consume::worker::{Position, start_positions};
use odradek_loadgen::content::Shape;
use odradek_loadgen::executor::{Threads, block_on};
use odradek_loadgen::produce;
use odradek_loadgen::produce::message::Acks;
use odradek_loadgen::produce::run::{ProduceConfig, Produced, Templates};
use odradek_loadgen::produce::worker::OnDisconnect;
use odradek_loadgen::stats::latencies;
use odradek_loadgen::summary::LatencySummary;

use crate::outcome::{Point, RoundOutcome};
use crate::send_log::{EndToEnd, NotedSource, SendLog};
use crate::workload::{Reader, Workload};

/// Distance of the points of latency over time.
const POINT_EVERY: Duration = Duration::from_millis(500);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Place {
    pub bootstrap: Bootstrap,
    pub topic: String,
    pub leaders: Vec<Leader>,
    pub broker_pid: Option<u32>,
    /// Of the producing thread and of the reading one.
    pub cpus: Vec<usize>,
}

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Dose {
    /// Records per second; none: full speed.
    pub rate: Option<f64>,
    pub duration: Duration,
}

/// What a round gave, distributions included.
pub struct Round {
    pub outcome: RoundOutcome,
    pub acknowledged: Histogram<u64>,
    pub end_to_end: Histogram<u64>,
    pub errors: u64,
    pub read_megabytes_per_second: Option<f64>,
    pub broker_cpu_seconds: Option<f64>,
    pub client_cpu_seconds: f64,
}

impl Round {
    /// A distribution that no broker gave.
    pub fn of_requests(latency: Histogram<u64>, seconds: f64) -> Round {
        let records = latency.len();
        Round {
            outcome: RoundOutcome {
                seconds,
                records,
                bytes: 0,
                records_per_second: records as f64 / seconds.max(1e-9),
                acknowledged: LatencySummary::of(&latency),
                end_to_end: None,
                acknowledged_over_time: Vec::new(),
                end_to_end_over_time: Vec::new(),
                resident_over_time: Vec::new(),
            },
            acknowledged: latency,
            end_to_end: latencies(),
            errors: 0,
            read_megabytes_per_second: None,
            broker_cpu_seconds: None,
            client_cpu_seconds: 0.0,
        }
    }
}

/// Runs one round and waits until everything is answered and read.
pub fn run(place: &Place, workload: &Workload, dose: Dose) -> anyhow::Result<Round> {
    let partitions = place.leaders.iter().flat_map(|leader| leader.partitions.iter().copied());
    let log = Arc::new(SendLog::new(partitions));
    let start = clock::now();
    let reader = start_reader(place, workload, dose, &log)?;
    let cpu_before = place.broker_pid.map(broker_cpu).transpose()?;
    let mut over_time = OverTime::default();
    let produced = produce(place, workload, dose, &log, &mut over_time);
    let cpu_after = place.broker_pid.map(broker_cpu).transpose()?;
    let read = match reader {
        Some(reader) => Some(reader.finish(place)?),
        None => None,
    };
    let produced = produced?;
    anyhow::ensure!(produced.problems.is_empty(), "{}", produced.problems.join("; "));
    let read_megabytes_per_second =
        read.as_ref().map(|read| read.stats.bytes as f64 / 1e6 / read.seconds.max(1e-9));
    let (end_to_end, end_to_end_over_time) = match read.and_then(|mut read| read.sinks.pop()) {
        Some(sink) => (sink.latency, sink.points),
        None => (latencies(), Vec::new()),
    };
    let stats = produced.stats;
    let seconds = produced.seconds;
    Ok(Round {
        outcome: RoundOutcome {
            seconds,
            records: stats.records,
            bytes: stats.bytes,
            records_per_second: stats.records as f64 / seconds.max(1e-9),
            acknowledged: LatencySummary::of(&stats.latency),
            end_to_end: LatencySummary::of(&end_to_end),
            acknowledged_over_time: over_time.latency,
            end_to_end_over_time,
            resident_over_time: over_time.resident,
        },
        acknowledged: stats.latency,
        end_to_end,
        errors: stats.failed,
        read_megabytes_per_second,
        broker_cpu_seconds: cpu_before.zip(cpu_after).map(|(before, after)| after - before),
        client_cpu_seconds: clock::now().since(start).as_secs_f64().min(produced.cpu_seconds),
    })
}

/// Fills a topic with history, at full speed.
pub fn fill(place: &Place, workload: &Workload, bytes: u64) -> anyhow::Result<()> {
    let mut config = produce_config(place, workload, Dose { rate: None, duration: Duration::MAX });
    config.duration = None;
    config.records = Some((bytes / workload.record_size as u64).max(1));
    let shape = config.shape;
    let filled = produce::run::run(&config, move |thread| Templates::new(&shape, thread), |_, _| {})?;
    anyhow::ensure!(filled.problems.is_empty(), "{}", filled.problems.join("; "));
    Ok(())
}

fn produce(
    place: &Place,
    workload: &Workload,
    dose: Dose,
    log: &Arc<SendLog>,
    over_time: &mut OverTime,
) -> anyhow::Result<Produced> {
    let config = produce_config(place, workload, dose);
    let (shape, log) = (config.shape, log.clone());
    let make_source =
        move |thread| NotedSource { templates: Templates::new(&shape, thread), log: log.clone() };
    produce::run::run(&config, make_source, |since, interval| {
        let seconds = since.as_secs_f64();
        over_time.latency.extend(Point::of(seconds, &interval.latency));
        let resident = place.broker_pid.and_then(|pid| resident_bytes(pid).ok());
        over_time.resident.extend(resident.map(|bytes| (seconds, bytes as f64)));
    })
}

/// What is noted at every point of a round.
#[derive(Default)]
struct OverTime {
    latency: Vec<Point>,
    resident: Vec<(f64, f64)>,
}

fn produce_config(place: &Place, workload: &Workload, dose: Dose) -> ProduceConfig {
    // End to end, batches are known by their sequence.
    let tail = workload.reader == Reader::Tail;
    ProduceConfig {
        bootstrap: place.bootstrap.clone(),
        topic: place.topic.clone(),
        create: None,
        shape: Shape {
            record_size: workload.record_size,
            batch_size: workload.batch_bytes,
            keys: workload.keys,
            compression: workload.compression,
        },
        records_per_batch: None,
        records: None,
        duration: Some(dose.duration),
        rate: dose.rate,
        acks: Acks::All,
        batches_per_request: workload.batches_per_request,
        linger: workload.linger,
        in_flight: workload.in_flight,
        connections: workload.connections,
        exclusive_partitions: tail,
        idempotent: tail,
        transactional: None,
        delivery_timeout: DELIVERY_TIMEOUT,
        on_disconnect: OnDisconnect::Retry,
        threads: Threads {
            count: 1,
            cpus: place.cpus.first().copied().into_iter().collect(),
            watch_every: POINT_EVERY,
        },
    }
}

/// A consumer on a thread of its own.
struct ReaderThread {
    thread: std::thread::JoinHandle<anyhow::Result<Consumed<EndToEnd>>>,
    ends: BTreeMap<i32, Arc<AtomicI64>>,
    to_the_end: bool,
}

fn start_reader(
    place: &Place,
    workload: &Workload,
    dose: Dose,
    log: &Arc<SendLog>,
) -> anyhow::Result<Option<ReaderThread>> {
    let from = match workload.reader {
        Reader::None => return Ok(None),
        Reader::Tail => LogEnd::Latest,
        Reader::History { .. } => LogEnd::Earliest,
    };
    let mut positions = block_on(start_positions(&place.bootstrap, &place.topic, from))??;
    let mut more_readers = Vec::new();
    if let Reader::History { readers, .. } = workload.reader {
        let ends = block_on(place.bootstrap.offsets(&place.topic, LogEnd::Latest))??;
        let spread = |reader| spread(&positions, &ends, reader, readers);
        let mut all: Vec<Vec<Position>> = (0..readers.max(1)).map(spread).collect();
        positions = all.remove(0);
        more_readers = all;
    }
    let ends = positions.iter().map(|p: &Position| (p.partition, p.end.clone())).collect();
    let to_the_end = workload.reader == Reader::Tail;
    let config = ConsumeConfig {
        bootstrap: place.bootstrap.clone(),
        setup: FetchSetup {
            topic: place.topic.clone(),
            isolation: Isolation::ReadUncommitted,
            bytes_max: 4 << 20,
            partition_bytes_max: 1 << 20,
            bytes_min: 1,
            wait_max_ms: 500,
        },
        positions,
        more_readers,
        leaders: place.leaders.clone(),
        records: None,
        duration: (!to_the_end).then_some(dose.duration),
        idle_timeout: IDLE_TIMEOUT,
        // The client's core is for the producers, whose latency is measured.
        check_crc: to_the_end,
        connections: 1,
        threads: Threads {
            count: 1,
            cpus: place.cpus.get(1).copied().into_iter().collect(),
            watch_every: POINT_EVERY,
        },
    };
    let log = log.clone();
    let start = clock::now();
    let thread = std::thread::spawn(move || {
        let make_sink = move |_| {
            if !to_the_end {
                give_way();
            }
            EndToEnd::new(log.clone(), start, POINT_EVERY)
        };
        consume::run::run(&config, make_sink, |_, _| {})
    });
    Ok(Some(ReaderThread { thread, ends, to_the_end }))
}

/// Where the `reader`th of several readers begins: they are spread over all of the history, so that none
/// finds what another has just read.
fn spread(starts: &[Position], ends: &BTreeMap<i32, i64>, reader: usize, readers: usize) -> Vec<Position> {
    let place = |start: &Position| {
        let end = ends.get(&start.partition).copied().unwrap_or(start.offset);
        let span = (end - start.offset).max(0) as i128;
        let offset = start.offset + (span * reader as i128 / readers.max(1) as i128) as i64;
        Position::around(start.partition, start.offset, offset, end)
    };
    starts.iter().map(place).collect()
}

/// Gives this thread the time only that its core is idle: readers of history share it with the producers, and
/// must not show in their latency where the broker has no part in it. (At the lowest nice value a thread still
/// finishes its slice before one that wakes up: a millisecond and more.)
fn give_way() {
    let idle = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the parameters outlive the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &idle) };
}

impl ReaderThread {
    /// Lets a reader at the head take in what was produced last, then collects what it saw.
    fn finish(self, place: &Place) -> anyhow::Result<Consumed<EndToEnd>> {
        if self.to_the_end {
            let last = block_on(place.bootstrap.offsets(&place.topic, LogEnd::Latest))?;
            for (partition, end) in &self.ends {
                let offset = last.as_ref().ok().and_then(|last| last.get(partition)).copied();
                end.store(offset.unwrap_or(0), Ordering::Relaxed);
            }
            last?;
        }
        let read = self.thread.join().map_err(|_| anyhow::anyhow!("the reading thread failed"))??;
        anyhow::ensure!(read.problems.is_empty(), "{}", read.problems.join("; "));
        Ok(read)
    }
}

/// CPU-seconds of a process so far, user and system.
fn broker_cpu(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("there is no process {pid}"))?;
    parse_cpu_ticks(&stat).map(|ticks| ticks as f64 / ticks_per_second()).with_context(|| path)
}

/// Resident memory of a process.
fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("there is no process {pid}"))?;
    parse_resident(&status).with_context(|| path)
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Fields 14 and 15; the second one, a name in parentheses, may hold anything.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes a constant and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_found() {
        assert_eq!(parse_resident("VmHWM:	 9 kB\nVmRSS:	  120 kB\n"), Some(120 << 10));
        assert_eq!(parse_resident("Name: x"), None);
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn readers_of_history_begin_apart_and_go_around() {
        let starts = [Position::from(0, 100), Position::from(1, 5)];
        let ends = BTreeMap::from([(0, 200)]);
        let third = spread(&starts, &ends, 3, 10);
        let shown: Vec<_> = third.iter().map(|p| (p.offset, p.end.load(Ordering::Relaxed))).collect();
        assert_eq!(shown, [(130, 200), (5, 5)]);
    }

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 5 6 7";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        assert_eq!(parse_cpu_ticks("77"), None);
        assert!(broker_cpu(std::process::id()).unwrap() >= 0.0);
    }
}
