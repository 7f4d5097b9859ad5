//! One consuming connection.
//!
//! Behind the head of its logs it has two fetches in flight over disjoint partitions, so that the
//! broker prepares one answer while the other is read. At the head it has one, over all partitions,
//! that the broker holds back until there is news: answers come in request order, so a second one
//! would wait behind the first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use glommio::timer::{Timer, sleep};
use odradek::codec::record_batch::{BatchError, BatchView};
use odradek::types::Mono;

use crate::clock;
use crate::cluster::{Bootstrap, ClusterError, LogEnd, is_retriable};
use crate::connection::{CallError, Connection, Progress};
use crate::consume::aborted::AbortedFilter;
use crate::consume::message::{FetchAnswer, FetchSetup, Isolation, read_response, request};
use crate::stats::Stats;
use crate::versions::Api;

/// Fetches in flight on one connection behind the head.
const FETCHES_MAX: usize = 2;
/// An answer that takes longer than the wait it was asked for plus this means a dead connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_WAIT: Duration = Duration::from_millis(100);
const IDLE_CHECK: Duration = Duration::from_millis(100);

const OFFSET_OUT_OF_RANGE: i16 = 1;

/// What is done with the batches that arrive. One per thread.
pub trait Sink {
    /// A batch that is visible to this consumer, in offset order per partition.
    fn batch(&mut self, partition: i32, batch: &BatchView<'_>, received: Mono);

    /// Everything below this offset is read, also what is not visible.
    fn read_to(&mut self, _partition: i32, _offset: i64) {}
}

/// Counts only.
pub struct Discard;

impl Sink for Discard {
    fn batch(&mut self, _partition: i32, _batch: &BatchView<'_>, _received: Mono) {}
}

/// What the threads of a run share to know when it is over.
#[derive(Debug)]
pub struct Goal {
    /// Records still wanted over all threads.
    remaining: AtomicU64,
    /// Nanoseconds of the monotonic clock when the last record arrived.
    pub last_record: AtomicU64,
}

impl Goal {
    /// `records`: without a number there is no end.
    pub fn new(records: Option<u64>) -> Goal {
        Goal { remaining: AtomicU64::new(records.unwrap_or(u64::MAX)), last_record: AtomicU64::new(0) }
    }

    /// Nothing is late before the load has begun.
    pub fn begin(&self, start: Mono) {
        self.last_record.fetch_max(start.0, Ordering::Relaxed);
    }

    pub fn is_reached(&self) -> bool {
        self.remaining.load(Ordering::Relaxed) == 0
    }

    /// It cannot be reached any more: all threads end.
    pub fn give_up(&self) {
        self.remaining.store(0, Ordering::Relaxed);
    }
}

/// What all workers of a thread share.
pub struct ConsumePlan {
    pub bootstrap: Bootstrap,
    pub setup: FetchSetup,
    pub check_crc: bool,
    /// Ends with an error when nothing arrived for this long.
    pub idle_timeout: Duration,
    pub deadline: Cell<Mono>,
    pub goal: Arc<Goal>,
}

impl ConsumePlan {
    fn is_over(&self, now: Mono) -> bool {
        self.goal.is_reached() || now >= self.deadline.get()
    }
}

/// Why a consumer ended early.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("nothing arrived for {} s", .0.as_secs())]
    Idle(Duration),
    /// Asking again was to help, and has not.
    #[error("nothing arrived for {} s; partition {partition} answers {}",
        waited.as_secs(), crate::cluster::error_name(*code))]
    Refused { waited: Duration, partition: i32, code: i16 },
    #[error("partition {partition}: {}", crate::cluster::error_name(*code))]
    Partition { partition: i32, code: i16 },
    #[error("partition {partition}, after offset {offset}: {error}")]
    Batch { partition: i32, offset: i64, error: BatchError },
}

/// Where one partition is read.
#[derive(Clone, Debug)]
pub struct Position {
    pub partition: i32,
    /// Next to be read.
    pub offset: i64,
    /// Where to stop, exclusive; `i64::MAX` while that is not known. May be set during the run.
    pub end: Arc<AtomicI64>,
    /// What could be read when the last answer left, exclusive.
    visible_end: i64,
    /// Where to go on at the end, instead of stopping.
    again_from: Option<i64>,
}

impl Position {
    pub fn from(partition: i32, offset: i64) -> Position {
        let end = Arc::new(AtomicI64::new(i64::MAX));
        Position { partition, offset, end, visible_end: i64::MAX, again_from: None }
    }

    /// Reads from `offset` to `end` and then from `start` to `end` over and over.
    pub fn around(partition: i32, start: i64, offset: i64, end: i64) -> Position {
        let position = Position::from(partition, offset);
        position.end.store(end, Ordering::Relaxed);
        Position { again_from: (start < end).then_some(start), ..position }
    }

    fn is_behind(&self) -> bool {
        self.offset < self.visible_end
    }

    fn is_done(&self) -> bool {
        self.offset >= self.end.load(Ordering::Relaxed)
    }
}

/// Lives: one per connection, for the whole run.
pub struct ConsumeWorker<S> {
    plan: Rc<ConsumePlan>,
    positions: Vec<Position>,
    /// Into how many groups positions are dealt behind the head; each has one fetch in flight.
    groups: usize,
    sink: Rc<RefCell<S>>,
    stats: Rc<RefCell<Stats>>,
    in_flight: VecDeque<Fetch>,
    version: i16,
    /// A fatal error found while reading an answer.
    failed: Option<ConsumeError>,
    /// The last partition that was refused since records arrived, and with what.
    refused: Option<(i32, i16)>,
    /// Ask the metadata again before going on.
    moved: bool,
}

struct Fetch {
    correlation: i32,
    /// `None`: over all partitions, at the head.
    group: Option<usize>,
    sent_at: Mono,
}

enum Ended {
    Finished,
    Moved,
}

impl<S: Sink + 'static> ConsumeWorker<S> {
    pub fn new(
        plan: Rc<ConsumePlan>,
        positions: Vec<Position>,
        sink: Rc<RefCell<S>>,
        stats: Rc<RefCell<Stats>>,
    ) -> ConsumeWorker<S> {
        let groups = positions.len().clamp(1, FETCHES_MAX);
        ConsumeWorker {
            plan,
            positions,
            groups,
            sink,
            stats,
            in_flight: VecDeque::new(),
            version: 0,
            failed: None,
            refused: None,
            moved: false,
        }
    }

    /// Reads until the run is over or every partition is read as far as asked.
    pub async fn run(mut self, mut connection: Connection) -> Result<(), ConsumeError> {
        loop {
            self.version = connection.version(Api::Fetch)?;
            match self.drive(&mut connection).await {
                Ok(Ended::Finished) => return Ok(()),
                Ok(Ended::Moved) => {}
                Err(_) => self.stats.borrow_mut().disconnects += 1,
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            connection = self.reconnect(connection.address()).await?;
        }
    }

    async fn drive(&mut self, connection: &mut Connection) -> io::Result<Ended> {
        self.in_flight.clear();
        self.moved = false;
        let mut timer: Option<Timer> = None;
        loop {
            let now = clock::now();
            while let Some(frame) = connection.take_frame()? {
                self.on_answer(frame, now)?;
            }
            if self.failed.is_some() {
                return Ok(Ended::Moved);
            }
            if self.plan.is_over(now) || self.positions.iter().all(Position::is_done) {
                return Ok(Ended::Finished);
            }
            if self.moved {
                return Ok(Ended::Moved);
            }
            self.check_timeouts(now)?;
            self.fetch(connection, now).map_err(io::Error::other)?;
            timer.get_or_insert_with(|| Timer::new(IDLE_CHECK));
            if connection.progress(false, &mut timer).await? == Progress::Due {
                timer = None;
            }
            glommio::yield_if_needed().await;
        }
    }

    fn check_timeouts(&mut self, now: Mono) -> io::Result<()> {
        let last = Mono(self.plan.goal.last_record.load(Ordering::Relaxed));
        if now.since(last) > self.plan.idle_timeout {
            let waited = self.plan.idle_timeout;
            self.failed = Some(match self.refused {
                Some((partition, code)) => ConsumeError::Refused { waited, partition, code },
                None => ConsumeError::Idle(waited),
            });
            return Err(io::ErrorKind::TimedOut.into());
        }
        let wait = Duration::from_millis(self.plan.setup.wait_max_ms.max(0) as u64) + REQUEST_TIMEOUT;
        match self.in_flight.front() {
            Some(oldest) if now.since(oldest.sent_at) > wait => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Behind the head: asks for every group that has no fetch in flight. At the head: once for all.
    fn fetch(&mut self, connection: &mut Connection, now: Mono) -> Result<(), CallError> {
        if self.in_flight.iter().any(|fetch| fetch.group.is_none()) {
            return Ok(());
        }
        let behind = self.positions.iter().any(|position| !position.is_done() && position.is_behind());
        if !behind {
            return if self.in_flight.is_empty() { self.send_fetch(connection, None, now) } else { Ok(()) };
        }
        for group in 0..self.groups {
            if !self.in_flight.iter().any(|fetch| fetch.group == Some(group)) {
                self.send_fetch(connection, Some(group), now)?;
            }
        }
        Ok(())
    }

    fn send_fetch(
        &mut self,
        connection: &mut Connection,
        group: Option<usize>,
        now: Mono,
    ) -> Result<(), CallError> {
        let (first, step) = group.map_or((0, 1), |group| (group, self.groups));
        let of_group = self.positions.iter().skip(first).step_by(step);
        let wanted: Vec<(i32, i64)> =
            of_group.filter(|p| !p.is_done()).map(|p| (p.partition, p.offset)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let wait_max_ms = if group.is_none() { self.plan.setup.wait_max_ms } else { 0 };
        let message = request(&self.plan.setup, wait_max_ms, wanted.into_iter());
        let correlation = connection.queue_message(&message, self.version)?;
        self.in_flight.push_back(Fetch { correlation, group, sent_at: now });
        Ok(())
    }

    fn on_answer(&mut self, frame: &[u8], now: Mono) -> io::Result<()> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let fetch = self.in_flight.pop_front().ok_or_else(|| bad("an answer that nobody asked for"))?;
        let mut answers = Vec::new();
        let head = read_response(frame, self.version, |answer| answers.push(answer));
        let head = head.map_err(|e| bad(&e.to_string()))?;
        if head.correlation != fetch.correlation {
            return Err(bad("an answer to another request"));
        }
        if head.error_code != 0 {
            self.stats.borrow_mut().error(head.error_code);
            return Err(bad("a fetch was refused"));
        }
        let mut first = 0;
        for answer in answers {
            // Brokers answer in the order of the request, leaving some out.
            let found = self.positions[first..].iter().position(|p| p.partition == answer.partition);
            let at = match found {
                Some(at) => first + at,
                None => self
                    .positions
                    .iter()
                    .position(|p| p.partition == answer.partition)
                    .ok_or_else(|| bad("an answer for a partition that was not asked"))?,
            };
            first = at;
            self.on_partition(at, answer, now);
        }
        Ok(())
    }

    fn on_partition(&mut self, at: usize, answer: FetchAnswer<'_>, now: Mono) {
        let code = answer.error_code;
        if code != 0 {
            self.stats.borrow_mut().error(code);
            if code == OFFSET_OUT_OF_RANGE || !is_retriable(code) {
                self.failed.get_or_insert(ConsumeError::Partition { partition: answer.partition, code });
            }
            self.refused = Some((answer.partition, code));
            self.moved = true;
            return;
        }
        if let Err(error) = self.read_batches(at, answer, now) {
            self.failed.get_or_insert(error);
        }
    }

    /// Cost per batch: a few header fields, one pass of CRC-32C unless switched off, and the sink's.
    fn read_batches(&mut self, at: usize, answer: FetchAnswer<'_>, now: Mono) -> Result<(), ConsumeError> {
        let position = &mut self.positions[at];
        let committed = self.plan.setup.isolation == Isolation::ReadCommitted;
        position.visible_end = match answer.last_stable_offset {
            stable @ 0.. if committed => stable,
            _ => answer.high_watermark,
        };
        let mut filter = committed.then(|| AbortedFilter::new(answer.aborted));
        let mut sink = self.sink.borrow_mut();
        let mut rest = answer.records;
        let mut records = 0u64;
        let mut bytes = 0u64;
        while !rest.is_empty() {
            let failed = |offset, error| ConsumeError::Batch { partition: answer.partition, offset, error };
            let (batch, after) = match BatchView::split_first(rest) {
                Ok(split) => split,
                Err(BatchError::Truncated { .. }) => break, // The answer was cut at its size limit.
                Err(error) => return Err(failed(position.offset, error)),
            };
            rest = after;
            if self.plan.check_crc {
                batch.validate_stored().map_err(|error| failed(position.offset, error))?;
            }
            let end = batch.end_offset().to_wire();
            if end <= position.offset {
                continue; // A broker may start with the batch before the one asked for.
            }
            position.offset = end;
            let shown = filter.as_mut().map_or(!batch.is_control(), |filter| filter.shows(&batch));
            if shown {
                records += batch.record_count() as u64;
                bytes += batch.size() as u64;
                sink.batch(answer.partition, &batch, now);
            }
            if let Some(start) = position.again_from.filter(|_| position.is_done()) {
                position.offset = start;
                break;
            }
        }
        sink.read_to(answer.partition, position.offset);
        if records > 0 {
            self.refused = None;
            let mut stats = self.stats.borrow_mut();
            stats.records += records;
            stats.bytes += bytes;
            let goal = &self.plan.goal;
            goal.last_record.store(now.0, Ordering::Relaxed);
            let less = |left: u64| Some(left.saturating_sub(records));
            let _ = goal.remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        Ok(())
    }

    /// Finds the leader of the first partition again. All partitions stay with this connection: with
    /// several leaders a moved one is answered with an error until the next look.
    async fn reconnect(&mut self, address: &str) -> Result<Connection, ConsumeError> {
        let mut last: Option<ClusterError> = None;
        loop {
            let now = clock::now();
            if self.check_timeouts(now).is_err()
                && let Some(idle) = self.failed.take()
            {
                return Err(last.map_or(idle, ConsumeError::Cluster));
            }
            sleep(RETRY_WAIT).await;
            self.in_flight.clear();
            match self.leader().await {
                Ok(leader) => match Connection::open(&leader, receive_size(&self.plan.setup)).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last = Some(error.into()),
                },
                Err(error) => last = Some(error),
            }
            if clock::now() >= self.plan.deadline.get() {
                return Err(last.map_or_else(
                    || ConsumeError::Call(CallError::Timeout { address: address.to_string() }),
                    ConsumeError::Cluster,
                ));
            }
        }
    }

    async fn leader(&self) -> Result<String, ClusterError> {
        let leaders = self.plan.bootstrap.leaders(&self.plan.setup.topic).await?;
        let first = self.positions.first().map_or(0, |position| position.partition);
        let leader = leaders.iter().find(|leader| leader.partitions.contains(&first));
        Ok(leader.unwrap_or(&leaders[0]).address.clone())
    }
}

/// Room for one answer and the start of the next.
pub fn receive_size(setup: &FetchSetup) -> usize {
    setup.bytes_max.max(1 << 18) as usize + (64 << 10)
}

/// Where a run starts reading: the given end of each partition.
pub async fn start_positions(
    bootstrap: &Bootstrap,
    topic: &str,
    from: LogEnd,
) -> Result<Vec<Position>, ClusterError> {
    let offsets = bootstrap.offsets(topic, from).await?;
    Ok(offsets.into_iter().map(|(partition, offset)| Position::from(partition, offset)).collect())
}
