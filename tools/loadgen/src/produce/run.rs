//! A whole producing run: finds or creates the topic, spreads connections over brokers and threads,
//! starts them together and adds up what they did.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use odradek::codec::record_batch::Compression;
use odradek::types::{Mono, Timestamp};

use crate::batch::{Payload, Template};
use crate::clock;
use crate::cluster::{Bootstrap, Leader, NewTopic, init_producer_id};
use crate::connection::Connection;
use crate::content::Shape;
use crate::executor::{Gate, Threads, block_on, run_threads};
use crate::produce::message::Acks;
use crate::produce::pacing::Pacer;
use crate::produce::transaction::Transactions;
use crate::produce::worker::{Budget, OnDisconnect, Plan, Producer, RECEIVE_SIZE, Source, Worker};
use crate::stats::{Board, Interval, Stats};
use crate::tally::Tally;
use crate::versions::Api;

/// First Produce version whose batches may be zstd (KIP-110).
const ZSTD_FROM: i16 = 7;

/// Everything that a producing run is told.
#[derive(Clone, Debug)]
pub struct ProduceConfig {
    pub bootstrap: Bootstrap,
    pub topic: String,
    /// Create the topic first, with these properties.
    pub create: Option<NewTopic>,
    pub shape: Shape,
    /// Where the source does not build batches by the shape.
    pub records_per_batch: Option<u32>,
    pub records: Option<u64>,
    pub duration: Option<Duration>,
    /// Records per second over all connections; none: a closed loop.
    pub rate: Option<f64>,
    pub acks: Acks,
    pub batches_per_request: usize,
    pub linger: Duration,
    pub in_flight: usize,
    /// Over all leaders; each gets at least one.
    pub connections: usize,
    /// No two connections produce to the same partition; there are then at most as many as partitions.
    pub exclusive_partitions: bool,
    pub idempotent: bool,
    /// Transactional id, and records per transaction. The first connection has it, others with their number.
    pub transactional: Option<(String, u64)>,
    pub delivery_timeout: Duration,
    pub on_disconnect: OnDisconnect,
    pub threads: Threads,
}

/// What a producing run did.
pub struct Produced {
    pub stats: Stats,
    pub seconds: f64,
    pub cpu_seconds: f64,
    /// Why connections ended early, if any did.
    pub problems: Vec<String>,
}

/// Batches from templates, in turn. All partitions of a thread share them.
pub struct Templates {
    templates: Vec<Template>,
    next: usize,
}

impl Templates {
    pub fn new(shape: &Shape, thread: usize) -> Templates {
        Templates { templates: shape.templates(thread as u64 + 1), next: 0 }
    }
}

impl Source for Templates {
    fn take(&mut self, _partition: i32, count: u32, _timestamp: Timestamp) -> Payload {
        self.next = (self.next + 1) % self.templates.len();
        self.templates[self.next].take(count)
    }
}

/// One connection of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Assignment {
    address: String,
    partitions: Vec<i32>,
}

/// Runs to the end. `make_source` is called once on each thread; `watch` each second.
pub fn run<S: Source + 'static>(
    config: &ProduceConfig,
    make_source: impl Fn(usize) -> S + Clone + Send + 'static,
    mut watch: impl FnMut(Duration, Interval),
) -> anyhow::Result<Produced> {
    let leaders = block_on(prepare(config))??;
    let assignments = Arc::new(assign(&leaders, config.connections, config.exclusive_partitions));
    let mut threads = config.threads.clone();
    threads.count = threads.count.clamp(1, assignments.len());
    let boards: Vec<Board> = (0..threads.count).map(|_| Board::default()).collect();
    let body = {
        let (config, assignments, boards) = (Arc::new(config.clone()), assignments.clone(), boards.clone());
        let count = threads.count;
        move |thread: usize, gate: Arc<Gate>| {
            let (config, assignments, board) = (config.clone(), assignments.clone(), boards[thread].clone());
            let source = make_source(thread);
            async move { run_thread(&config, &assignments, (thread, count), source, &board, &gate).await }
        }
    };
    let finished = run_threads("produce", &threads, body, |since| watch(since, Board::look(&boards)))?;
    let mut all = Tally::default();
    finished.results.into_iter().for_each(|tally| all.merge(tally));
    let Tally { stats, problems, seconds } = all;
    Ok(Produced { stats, seconds, cpu_seconds: finished.cpu_seconds, problems })
}

async fn prepare(config: &ProduceConfig) -> anyhow::Result<Vec<Leader>> {
    let leaders = match &config.create {
        Some(topic) => config.bootstrap.create_topic(topic).await?,
        None => config.bootstrap.leaders(&config.topic).await?,
    };
    let connection = Connection::open(&leaders[0].address, RECEIVE_SIZE).await?;
    let version = connection.version(Api::Produce)?;
    if config.shape.compression == Compression::Zstd && version < ZSTD_FROM {
        anyhow::bail!("the broker speaks Produce {version}; zstd needs {ZSTD_FROM}");
    }
    if config.idempotent {
        connection.version(Api::InitProducerId).context("--idempotent needs producer ids")?;
    }
    Ok(leaders)
}

/// Connections go round the leaders; those of one leader share its partitions. With more connections
/// than partitions, several produce to the same one.
fn assign(leaders: &[Leader], connections: usize, exclusive: bool) -> Vec<Assignment> {
    let connections = connections.max(leaders.len());
    let mut assignments = Vec::new();
    for (at, leader) in leaders.iter().enumerate() {
        let partitions = &leader.partitions;
        let wanted = (at..connections).step_by(leaders.len()).count();
        let of_leader = if exclusive { wanted.min(partitions.len()) } else { wanted };
        for connection in 0..of_leader {
            let mine = if of_leader <= partitions.len() {
                partitions.iter().copied().skip(connection).step_by(of_leader).collect()
            } else {
                vec![partitions[connection % partitions.len()]]
            };
            assignments.push(Assignment { address: leader.address.clone(), partitions: mine });
        }
    }
    assignments
}

async fn run_thread<S: Source + 'static>(
    config: &ProduceConfig,
    assignments: &[Assignment],
    (thread, threads): (usize, usize),
    source: S,
    board: &Board,
    gate: &Gate,
) -> anyhow::Result<Tally> {
    let plan = Rc::new(plan(config));
    let source = Rc::new(RefCell::new(source));
    let stats = Rc::new(RefCell::new(Stats::default()));
    let mut connections = Vec::new();
    for (at, assignment) in assignments.iter().enumerate().skip(thread).step_by(threads) {
        let mut connection = Connection::open(&assignment.address, RECEIVE_SIZE).await?;
        let producer = match &config.transactional {
            Some((id, records)) => {
                let id = if at == 0 { id.clone() } else { format!("{id}-{at}") };
                let transactions = Transactions::start(&config.bootstrap, &id, *records).await?;
                Producer::Transactional(Box::new(transactions))
            }
            None if config.idempotent => {
                let (id, epoch) = init_producer_id(&mut connection).await?;
                Producer::Idempotent(id, epoch)
            }
            None => Producer::Plain,
        };
        connections.push((at, assignment, connection, producer));
    }
    let start = gate.pass().await.context("another thread failed")?;
    glommio::timer::sleep(start.since(clock::now())).await;
    let deadline = config.duration.map_or(Mono(u64::MAX), |duration| start.after(duration));
    let budget = Rc::new(Budget {
        records: Cell::new(share(config.records, thread, threads)),
        deadline,
        stopped: Cell::new(false),
    });
    let workers = connections.into_iter().map(|(at, assignment, connection, producer)| {
        let pacer = pacer(config, start, at, assignments.len());
        let worker = Worker::new(
            plan.clone(),
            &assignment.partitions,
            producer,
            source.clone(),
            stats.clone(),
            budget.clone(),
        );
        glommio::spawn_local(worker.run(connection, pacer))
    });
    Ok(Tally::of(workers, &stats, board, start).await)
}

fn plan(config: &ProduceConfig) -> Plan {
    Plan {
        bootstrap: config.bootstrap.clone(),
        topic: config.topic.clone(),
        acks: config.acks,
        record_size: config.shape.record_size,
        batches_per_request: config.batches_per_request,
        in_flight_max: config.in_flight,
        records_per_batch: config.records_per_batch.unwrap_or_else(|| config.shape.records_per_batch()),
        delivery_timeout: config.delivery_timeout,
        on_disconnect: config.on_disconnect,
    }
}

/// This thread's part of the records; without a number there is no end.
fn share(records: Option<u64>, thread: usize, threads: usize) -> u64 {
    let Some(records) = records else {
        return u64::MAX;
    };
    records / threads as u64 + u64::from((thread as u64) < records % threads as u64)
}

/// Schedules of the connections interleave: connection `at` of `count` starts that far into the
/// first interval.
fn pacer(config: &ProduceConfig, start: Mono, at: usize, count: usize) -> Option<Pacer> {
    let rate = config.rate?;
    let offset = Duration::from_secs_f64(at as f64 / rate);
    Some(Pacer::new(start.after(offset), rate / count as f64, config.linger))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_the_partitions_of_their_leader() {
        let leaders = [leader("a", &[0, 2, 4]), leader("b", &[1, 3])];
        let shown = |connections| -> Vec<String> {
            assign(&leaders, connections, false)
                .iter()
                .map(|a| format!("{}{:?}", a.address, a.partitions))
                .collect()
        };
        assert_eq!(shown(1), ["a[0, 2, 4]", "b[1, 3]"]);
        assert_eq!(shown(3), ["a[0, 4]", "a[2]", "b[1, 3]"]);
        assert_eq!(assign(&leaders, 8, true).len(), 5);
        assert_eq!(shown(8), ["a[0]", "a[2]", "a[4]", "a[0]", "b[1]", "b[3]", "b[1]", "b[3]"]);
    }

    #[test]
    fn threads_share_all_records() {
        assert_eq!((0..3).map(|thread| share(Some(11), thread, 3)).sum::<u64>(), 11);
        assert_eq!(share(None, 0, 3), u64::MAX);
    }

    fn leader(address: &str, partitions: &[i32]) -> Leader {
        Leader { broker_id: 1, address: address.to_string(), partitions: partitions.to_vec() }
    }
}
