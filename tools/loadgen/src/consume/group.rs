//! A consuming run in a group: each connection asked for is a member of it, and reads what it is assigned over
//! connections of its own to the leaders. Offsets are committed every few seconds, at each rebalance, and at
//! the end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use glommio::timer::sleep;
use odradek::codec::record_batch::BatchView;
use odradek::types::Mono;

use crate::clock;
use crate::cluster::{Bootstrap, LogEnd};
use crate::connection::Connection;
use crate::consume::member::{GroupMember, Standing};
use crate::consume::message::FetchSetup;
use crate::consume::run::Consumed;
use crate::consume::worker::{ConsumeError, ConsumePlan, ConsumeWorker, Goal, Position, Sink, receive_size};
use crate::executor::{Gate, Threads, run_threads};
use crate::stats::{Board, Interval, Stats};
use crate::tally::Tally;

/// How often a member looks whether the run is over.
const LOOK: Duration = Duration::from_millis(50);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
/// Kafka `auto.commit.interval.ms`.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Everything that such a run is told.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    pub bootstrap: Bootstrap,
    pub setup: FetchSetup,
    pub group: String,
    /// Where partitions are read from in which the group has committed nothing.
    pub from: LogEnd,
    pub records: Option<u64>,
    pub duration: Option<Duration>,
    pub idle_timeout: Duration,
    pub check_crc: bool,
    pub members: usize,
    pub threads: Threads,
}

/// Runs to the end; `watch` each second.
pub fn run(config: &GroupConfig, mut watch: impl FnMut(Duration, Interval)) -> anyhow::Result<Consumed<()>> {
    let mut threads = config.threads.clone();
    threads.count = threads.count.clamp(1, config.members.max(1));
    let goal = Arc::new(Goal::new(config.records));
    let boards: Vec<Board> = (0..threads.count).map(|_| Board::default()).collect();
    let body = {
        let (config, boards, count) = (Arc::new(config.clone()), boards.clone(), threads.count);
        move |thread: usize, gate: Arc<Gate>| {
            let (config, goal, board) = (config.clone(), goal.clone(), boards[thread].clone());
            let members = (thread..config.members.max(1)).step_by(count).count();
            async move { run_thread(&config, members, goal, &board, &gate).await }
        }
    };
    let finished = run_threads("consume", &threads, body, |since| watch(since, Board::look(&boards)))?;
    Ok(Consumed::of(finished))
}

async fn run_thread(
    config: &Arc<GroupConfig>,
    members: usize,
    goal: Arc<Goal>,
    board: &Board,
    gate: &Gate,
) -> anyhow::Result<(Tally, ())> {
    let stats = Rc::new(RefCell::new(Stats::default()));
    let start = gate.pass().await.context("another thread failed")?;
    sleep(start.since(clock::now())).await;
    goal.begin(start);
    let deadline = config.duration.map_or(Mono(u64::MAX), |duration| start.after(duration));
    let readers = (0..members).map(|_| {
        let reader = Reader {
            config: config.clone(),
            member: GroupMember::new(&config.bootstrap, &config.group, &config.setup.topic),
            goal: goal.clone(),
            deadline,
            stats: stats.clone(),
        };
        glommio::spawn_local(reader.run())
    });
    Ok((Tally::of(readers, &stats, board, start).await, ()))
}

/// How far a member is in what it reads.
#[derive(Default)]
struct Positions(BTreeMap<i32, i64>);

impl Sink for Positions {
    fn batch(&mut self, _partition: i32, _batch: &BatchView<'_>, _received: Mono) {}

    fn read_to(&mut self, partition: i32, offset: i64) {
        self.0.insert(partition, offset);
    }
}

/// Lives: for the whole run; one member.
struct Reader {
    config: Arc<GroupConfig>,
    member: GroupMember,
    goal: Arc<Goal>,
    deadline: Mono,
    stats: Rc<RefCell<Stats>>,
}

impl Reader {
    async fn run(mut self) -> Result<(), ConsumeError> {
        let mut ended = Ok(());
        while ended.is_ok() && !self.is_over() {
            let partitions = self.member.join().await?;
            ended = self.read(&partitions).await;
        }
        let left = self.member.leave().await;
        ended.and(left.map_err(ConsumeError::Cluster))
    }

    fn is_over(&self) -> bool {
        self.goal.is_reached() || clock::now() >= self.deadline
    }

    /// One generation: until the run is over or the group changes.
    async fn read(&mut self, partitions: &[i32]) -> Result<(), ConsumeError> {
        let plan = Rc::new(ConsumePlan {
            bootstrap: self.config.bootstrap.clone(),
            setup: self.config.setup.clone(),
            check_crc: self.config.check_crc,
            idle_timeout: self.config.idle_timeout,
            deadline: Cell::new(self.deadline),
            goal: self.goal.clone(),
        });
        let read = Rc::new(RefCell::new(Positions::default()));
        let workers = self.start(&plan, partitions, &read).await?;
        let standing = self.stay(&read).await;
        plan.deadline.set(Mono(0));
        let mut ended = standing.as_ref().map(drop).map_err(|_| ());
        let mut problem = None;
        for worker in workers {
            if let Err(error) = worker.await {
                (ended, problem) = (Err(()), Some(error));
            }
        }
        if standing.as_ref().is_ok_and(|standing| *standing != Standing::Lost) {
            let positions = read.borrow().0.clone();
            self.member.commit(&positions).await?;
        }
        match (ended, problem) {
            (Ok(()), _) => Ok(()),
            (Err(()), Some(problem)) => Err(problem),
            (Err(()), None) => standing.map(drop),
        }
    }

    /// A connection to each leader of what it is assigned.
    async fn start(
        &mut self,
        plan: &Rc<ConsumePlan>,
        partitions: &[i32],
        read: &Rc<RefCell<Positions>>,
    ) -> Result<Vec<glommio::Task<Result<(), ConsumeError>>>, ConsumeError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut offsets = self.member.committed(partitions).await?;
        let is_new = |partition: i32| partitions.contains(&partition) && !offsets.contains_key(&partition);
        if partitions.iter().any(|partition| is_new(*partition)) {
            let topic = &self.config.setup.topic;
            let ends = self.config.bootstrap.offsets_of(topic, self.config.from, is_new).await?;
            offsets.extend(ends);
        }
        let mut workers = Vec::new();
        for leader in self.config.bootstrap.leaders(&self.config.setup.topic).await? {
            let led = offsets.iter().filter(|(partition, _)| leader.partitions.contains(partition));
            let positions: Vec<Position> =
                led.map(|(partition, offset)| Position::from(*partition, *offset)).collect();
            if positions.is_empty() {
                continue;
            }
            let connection = Connection::open(&leader.address, receive_size(&self.config.setup)).await?;
            let worker = ConsumeWorker::new(plan.clone(), positions, read.clone(), self.stats.clone());
            let goal = self.goal.clone();
            workers.push(glommio::spawn_local(async move {
                // Nobody else gets the partitions before the run is over.
                worker.run(connection).await.inspect_err(|_| goal.give_up())
            }));
        }
        Ok(workers)
    }

    /// Tells the group that it is there, and how far it is.
    async fn stay(&mut self, read: &Rc<RefCell<Positions>>) -> Result<Standing, ConsumeError> {
        let mut heard_at = clock::now();
        let mut committed_at = heard_at;
        loop {
            sleep(LOOK).await;
            let now = clock::now();
            if self.is_over() {
                return Ok(Standing::Member);
            }
            let last = Mono(self.goal.last_record.load(Ordering::Relaxed));
            if now.since(last) > self.config.idle_timeout {
                return Err(ConsumeError::Idle(self.config.idle_timeout));
            }
            let mut standing = Standing::Member;
            if now.since(committed_at) >= COMMIT_EVERY {
                committed_at = now;
                let positions = read.borrow().0.clone();
                standing = self.member.commit(&positions).await?;
            }
            if standing == Standing::Member && now.since(heard_at) >= HEARTBEAT_EVERY {
                heard_at = now;
                standing = self.member.heartbeat().await?;
            }
            if standing != Standing::Member {
                return Ok(standing);
            }
        }
    }
}
