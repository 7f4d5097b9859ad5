//! A whole consuming run: where to start, connections over leaders and threads, result.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use odradek::types::Mono;

use crate::clock;
use crate::cluster::{Bootstrap, Leader};
use crate::connection::Connection;
use crate::consume::message::FetchSetup;
use crate::consume::worker::{ConsumePlan, ConsumeWorker, Goal, Position, Sink, receive_size};
use crate::executor::{Finished, Gate, Threads, run_threads};
use crate::stats::{Board, Interval, Stats};
use crate::tally::Tally;

/// Everything that a consuming run is told.
#[derive(Clone, Debug)]
pub struct ConsumeConfig {
    pub bootstrap: Bootstrap,
    pub setup: FetchSetup,
    pub positions: Vec<Position>,
    /// Of further readers, each for itself with connections of its own.
    pub more_readers: Vec<Vec<Position>>,
    pub leaders: Vec<Leader>,
    pub records: Option<u64>,
    pub duration: Option<Duration>,
    pub idle_timeout: Duration,
    pub check_crc: bool,
    /// Over all leaders; each gets at least one.
    pub connections: usize,
    pub threads: Threads,
}

/// What a consuming run did. `stats.bytes` are those of batches as stored.
pub struct Consumed<S> {
    pub stats: Stats,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub problems: Vec<String>,
    pub sinks: Vec<S>,
}

impl<S> Consumed<S> {
    /// Of all threads.
    pub fn of(finished: Finished<(Tally, S)>) -> Consumed<S> {
        let (mut all, mut sinks) = (Tally::default(), Vec::new());
        for (tally, sink) in finished.results {
            all.merge(tally);
            sinks.push(sink);
        }
        let Tally { stats, problems, seconds } = all;
        Consumed { stats, seconds, cpu_seconds: finished.cpu_seconds, problems, sinks }
    }
}

#[derive(Clone, Debug)]
struct Assignment {
    address: String,
    positions: Vec<Position>,
}

/// Runs to the end. `make_sink` is called once on each thread; `watch` each second.
pub fn run<S: Sink + Send + 'static>(
    config: &ConsumeConfig,
    make_sink: impl Fn(usize) -> S + Clone + Send + 'static,
    mut watch: impl FnMut(Duration, Interval),
) -> anyhow::Result<Consumed<S>> {
    let assignments = Arc::new(assign(config));
    anyhow::ensure!(!assignments.is_empty(), "there is nothing to read");
    let mut threads = config.threads.clone();
    threads.count = threads.count.clamp(1, assignments.len());
    let goal = Arc::new(Goal::new(config.records));
    let boards: Vec<Board> = (0..threads.count).map(|_| Board::default()).collect();
    let body = {
        let (config, boards, count) = (Arc::new(config.clone()), boards.clone(), threads.count);
        move |thread: usize, gate: Arc<Gate>| {
            let (config, assignments, goal) = (config.clone(), assignments.clone(), goal.clone());
            let (board, sink) = (boards[thread].clone(), make_sink(thread));
            async move { run_thread(&config, &assignments, (thread, count), sink, goal, &board, &gate).await }
        }
    };
    let finished = run_threads("consume", &threads, body, |since| watch(since, Board::look(&boards)))?;
    Ok(Consumed::of(finished))
}

/// Each leader's partitions are dealt to its connections.
fn assign(config: &ConsumeConfig) -> Vec<Assignment> {
    let connections = config.connections.max(config.leaders.len());
    let mut assignments = Vec::new();
    let readers = || std::iter::once(&config.positions).chain(&config.more_readers);
    let pairs =
        readers().flat_map(|positions| config.leaders.iter().enumerate().map(move |led| (positions, led)));
    for (positions, (at, leader)) in pairs {
        let led: Vec<&Position> =
            positions.iter().filter(|p| leader.partitions.contains(&p.partition)).collect();
        let of_leader = (at..connections).step_by(config.leaders.len()).count().min(led.len());
        for connection in 0..of_leader {
            let positions = led.iter().skip(connection).step_by(of_leader).map(|p| (*p).clone());
            assignments.push(Assignment { address: leader.address.clone(), positions: positions.collect() });
        }
    }
    assignments
}

async fn run_thread<S: Sink + 'static>(
    config: &ConsumeConfig,
    assignments: &[Assignment],
    (thread, threads): (usize, usize),
    sink: S,
    goal: Arc<Goal>,
    board: &Board,
    gate: &Gate,
) -> anyhow::Result<(Tally, S)> {
    let plan = Rc::new(ConsumePlan {
        bootstrap: config.bootstrap.clone(),
        setup: config.setup.clone(),
        check_crc: config.check_crc,
        idle_timeout: config.idle_timeout,
        deadline: Cell::new(Mono(u64::MAX)),
        goal,
    });
    let sink = Rc::new(RefCell::new(sink));
    let stats = Rc::new(RefCell::new(Stats::default()));
    let mut connections = Vec::new();
    for assignment in assignments.iter().skip(thread).step_by(threads) {
        let connection = Connection::open(&assignment.address, receive_size(&config.setup)).await?;
        connections.push((assignment.positions.clone(), connection));
    }
    let start = gate.pass().await.context("another thread failed")?;
    glommio::timer::sleep(start.since(clock::now())).await;
    plan.goal.begin(start);
    plan.deadline.set(config.duration.map_or(Mono(u64::MAX), |duration| start.after(duration)));
    let workers = connections.into_iter().map(|(positions, connection)| {
        let worker = ConsumeWorker::new(plan.clone(), positions, sink.clone(), stats.clone());
        glommio::spawn_local(worker.run(connection))
    });
    let tally = Tally::of(workers, &stats, board, start).await;
    let sink = Rc::into_inner(sink).context("the workers have ended")?.into_inner();
    Ok((tally, sink))
}
