//! One producing connection: keeps its pipeline full, takes the answers, and follows its partitions
//! when the connection breaks or their leader moves.
//!
//! Closed loop: as many requests in flight as allowed, latency from the moment of sending. Open loop
//! (`--rate`): records fall due on a schedule, latency from the intended send time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::{Timer, sleep};
use odradek::types::{Mono, ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::batch::Payload;
use crate::clock;
use crate::cluster::{Bootstrap, ClusterError};
use crate::connection::{CallError, Connection, Progress};
use crate::produce::message::{Acks, ProduceAnswer, ProducePart, ProduceSetup, read_response, write_request};
use crate::produce::pacing::{Decision, Due, Pacer};
use crate::produce::partition::{Partition, Verdict};
use crate::produce::transaction::Transactions;
use crate::stats::Stats;
use crate::versions::Api;

/// Bytes of a producing connection's receive buffer: thousands of answers.
pub const RECEIVE_SIZE: usize = 64 << 10;
/// An answer that takes longer means the connection is dead (Kafka `request.timeout.ms`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two attempts to reach a broker again.
const RECONNECT_WAIT: Duration = Duration::from_millis(100);
/// How often a worker without a schedule looks at time-outs.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// Where a worker's records come from, and who wants to know what became of them. One per thread.
pub trait Source {
    /// At least one and at most `count` records for `partition`.
    fn take(&mut self, partition: i32, count: u32, timestamp: Timestamp) -> Payload;

    /// They are about to be sent for the first time.
    fn sent(&mut self, _batch: SentBatch) {}

    /// Their fate is known; per partition in the order in which they were sent.
    fn settled(&mut self, _batch: SettledBatch) {}
}

/// A batch that leaves for the first time.
#[derive(Clone, Copy, Debug)]
pub struct SentBatch {
    pub partition: i32,
    pub producer: Option<ProducerId>,
    pub sequence: Sequence,
    pub record_count: u32,
    pub due: Due,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledBatch {
    pub partition: i32,
    pub record_count: u32,
    pub stored: bool,
}

/// What to do when a broker that is needed is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// Reconnect and send again until the delivery time-out.
    Retry,
    /// End the run; what was in flight stays unanswered.
    Stop,
}

/// Who a worker's batches are from.
pub enum Producer {
    Plain,
    Idempotent(ProducerId, ProducerEpoch),
    Transactional(Box<Transactions>),
}

/// What all workers of a run share.
pub struct Plan {
    pub bootstrap: Bootstrap,
    pub topic: String,
    pub acks: Acks,
    pub record_size: usize,
    pub batches_per_request: usize,
    pub in_flight_max: usize,
    pub records_per_batch: u32,
    /// How long a batch is retried (Kafka `delivery.timeout.ms`).
    pub delivery_timeout: Duration,
    pub on_disconnect: OnDisconnect,
}

/// Records that a thread may still send, and until when.
pub struct Budget {
    pub records: Cell<u64>,
    pub deadline: Mono,
    /// Set to end the run early; no new records are taken.
    pub stopped: Cell<bool>,
}

impl Budget {
    fn take(&self, wanted: u32, now: Mono) -> u32 {
        if self.is_spent(now) {
            return 0;
        }
        let granted = self.records.get().min(wanted as u64);
        self.records.set(self.records.get() - granted);
        granted as u32
    }

    fn give_back(&self, records: u32) {
        self.records.set(self.records.get() + records as u64);
    }

    fn is_spent(&self, now: Mono) -> bool {
        self.stopped.get() || now >= self.deadline || self.records.get() == 0
    }
}

/// Why a worker ended early.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("every partition of {address} failed for good")]
    AllClosed { address: String },
    #[error("the connection to {address} broke: {error}")]
    Disconnected { address: String, error: io::Error },
    #[error("the transaction of {id} was aborted: not all of its records were stored")]
    Aborted { id: String },
    #[error("the brokers did not come back within the delivery time-out; the last error: {last}")]
    DeliveryTimeout { last: String },
}

/// A request that waits for its answer.
struct InFlight {
    correlation: i32,
    sent_at: Mono,
    /// Slot in `partitions`, and the batch's number there.
    batches: Vec<(usize, u64)>,
}

/// Lives: one per connection, for the whole run.
pub struct Worker<S> {
    plan: Rc<Plan>,
    setup: ProduceSetup,
    partitions: Vec<Partition>,
    source: Rc<RefCell<S>>,
    stats: Rc<RefCell<Stats>>,
    budget: Rc<Budget>,
    pacer: Option<Pacer>,
    in_flight: VecDeque<InFlight>,
    /// Vectors of answered requests, to be used again.
    spare: Vec<Vec<(usize, u64)>>,
    answers: Vec<ProduceAnswer>,
    /// Partition that is next in turn.
    cursor: usize,
    /// Partitions with batches to send again.
    retrying: bool,
    /// A partition's leader is elsewhere.
    moved: bool,
    transactions: Option<Transactions>,
    /// Workers that were split off, each with whether all it had outstanding was stored.
    splits: Vec<glommio::Task<bool>>,
}

enum Ended {
    Finished,
    /// The open transaction has as many records as it is to have.
    TransactionFull,
    Moved,
}

/// Newest Produce whose partitions do not join a transaction by being written to.
const PRODUCE_ADDS_NO_PARTITIONS: i16 = 11;

impl<S: Source + 'static> Worker<S> {
    pub fn new(
        plan: Rc<Plan>,
        partitions: &[i32],
        producer: Producer,
        source: Rc<RefCell<S>>,
        stats: Rc<RefCell<Stats>>,
        budget: Rc<Budget>,
    ) -> Worker<S> {
        let (producer, transactions) = match producer {
            Producer::Plain => (None, None),
            Producer::Idempotent(id, epoch) => (Some((id, epoch)), None),
            Producer::Transactional(transactions) => (Some(transactions.producer()), Some(*transactions)),
        };
        let setup = ProduceSetup {
            topic: plan.topic.clone(),
            acks: plan.acks,
            timeout_ms: 30_000,
            version: 0,
            transactional_id: transactions.as_ref().map(|transactions| transactions.id().to_owned()),
        };
        let partitions = partitions.iter().map(|&index| Partition::new(index, producer)).collect();
        Worker {
            plan,
            setup,
            partitions,
            source,
            stats,
            budget,
            pacer: None,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            answers: Vec::new(),
            cursor: 0,
            retrying: false,
            moved: false,
            transactions,
            splits: Vec::new(),
        }
    }

    /// Sends until the budget is spent and every batch is answered.
    pub async fn run(mut self, connection: Connection, pacer: Option<Pacer>) -> Result<(), WorkerError> {
        self.pacer = pacer;
        let result = self.run_until_answered(connection).await;
        if result.is_err() {
            self.abandon();
        }
        let aborted = self.abort().await;
        self.have_splits_stored().await;
        result.and(aborted)
    }

    /// Waits for the workers that were split off.
    async fn have_splits_stored(&mut self) -> bool {
        let mut stored = true;
        while let Some(split) = self.splits.pop() {
            stored &= split.await;
        }
        stored
    }

    async fn begin_transaction(&mut self) -> Result<(), WorkerError> {
        if let Some(transactions) = &mut self.transactions
            && !self.budget.is_spent(clock::now())
        {
            let partitions: Vec<i32> = self.partitions.iter().map(|partition| partition.index).collect();
            transactions.begin(&self.plan.topic, &partitions).await?;
        }
        Ok(())
    }

    /// Everything that was sent is answered: commits the open transaction if all of it was stored.
    async fn end_transaction(&mut self) -> Result<(), WorkerError> {
        let stored = self.have_splits_stored().await && !self.partitions.iter().any(Partition::is_closed);
        let Some(transactions) = self.transactions.as_mut().filter(|_| stored) else {
            return Ok(()); // One that is left open is aborted.
        };
        if transactions.end(true).await? > 0 {
            self.stats.borrow_mut().transactions += 1;
        }
        let producer = transactions.producer();
        self.partitions.iter_mut().for_each(|partition| partition.renew(producer));
        Ok(())
    }

    /// Aborts the transaction that is left open, if one is: none of its records is to be read.
    async fn abort(&mut self) -> Result<(), WorkerError> {
        let Some(transactions) = &mut self.transactions else {
            return Ok(());
        };
        let in_doubt = transactions.written();
        if in_doubt == 0 {
            return Ok(());
        }
        {
            let mut stats = self.stats.borrow_mut();
            let stored = in_doubt.min(stats.records);
            stats.records -= stored;
            stats.bytes -= stored * self.plan.record_size as u64;
            stats.failed += stored;
        }
        let id = transactions.id().to_owned();
        transactions.end(false).await?;
        Err(WorkerError::Aborted { id })
    }

    async fn run_until_answered(&mut self, mut connection: Connection) -> Result<(), WorkerError> {
        loop {
            let implicit = self.transactions.as_ref().is_some_and(Transactions::is_implicit);
            let newest = if implicit { i16::MAX } else { PRODUCE_ADDS_NO_PARTITIONS };
            self.setup.version = connection.version(Api::Produce)?.min(newest);
            self.begin_transaction().await?;
            match self.drive(&mut connection).await {
                Ok(Ended::Finished) => return self.end_transaction().await,
                Ok(Ended::TransactionFull) => {
                    self.end_transaction().await?;
                    if !self.partitions.iter().any(Partition::is_closed) {
                        continue;
                    }
                }
                Ok(Ended::Moved) => sleep(RECONNECT_WAIT).await,
                Err(error) => {
                    self.stats.borrow_mut().disconnects += 1;
                    if self.plan.on_disconnect == OnDisconnect::Stop {
                        self.budget.stopped.set(true);
                        return Err(WorkerError::Disconnected {
                            address: connection.address().into(),
                            error,
                        });
                    }
                }
            }
            let is_closed = Partition::is_closed;
            let is_over = match self.transactions {
                Some(_) => self.partitions.iter().any(is_closed),
                None => self.partitions.iter().all(is_closed),
            };
            if is_over {
                return Err(WorkerError::AllClosed { address: connection.address().into() });
            }
            connection = self.reconnect().await?;
        }
    }

    /// The pipeline over one connection. Ends with an I/O error when it breaks.
    async fn drive(&mut self, connection: &mut Connection) -> io::Result<Ended> {
        let mut timer: Option<Timer> = None;
        let mut timer_at = Mono(0);
        loop {
            while let Some(frame) = connection.take_frame()? {
                self.on_answer(frame)?;
            }
            let now = clock::now();
            let wake = self.fill(connection, now);
            if self.in_flight.is_empty() {
                if self.moved {
                    return Ok(Ended::Moved);
                }
                let idle = self.partitions.iter().all(|p| p.is_idle() || p.is_closed());
                if idle && (self.budget.is_spent(now) || self.partitions.iter().all(Partition::is_closed)) {
                    return Ok(Ended::Finished);
                }
                if idle && self.transaction_room() == 0 {
                    return Ok(Ended::TransactionFull);
                }
            }
            self.check_timeout(now)?;
            let wake = wake.unwrap_or(Mono(u64::MAX)).min(now.after(IDLE_CHECK));
            let wake = if now < self.budget.deadline { wake.min(self.budget.deadline) } else { wake };
            // A timer that fires a little early costs one more round, a new one on each round more.
            if timer.is_none() || wake < timer_at || timer_at <= now {
                timer = Some(Timer::new(wake.since(now)));
                timer_at = wake;
            }
            match connection.progress(self.plan.acks == Acks::None, &mut timer).await? {
                Progress::Received => {}
                Progress::Flushed => self.on_flushed(),
                Progress::Due => timer = None,
            }
            glommio::yield_if_needed().await;
        }
    }

    fn check_timeout(&self, now: Mono) -> io::Result<()> {
        match self.in_flight.front() {
            Some(oldest) if now.since(oldest.sent_at) > REQUEST_TIMEOUT => {
                Err(io::ErrorKind::TimedOut.into())
            }
            _ => Ok(()),
        }
    }

    /// Queues what may be sent now. Returns when there will be more, if that is known.
    fn fill(&mut self, connection: &mut Connection, now: Mono) -> Option<Mono> {
        let timestamp = Timestamp(clock::wall_ms());
        if self.retrying {
            self.resend(connection, now);
        }
        while self.in_flight.len() < self.plan.in_flight_max && !self.moved {
            let room = self.transaction_room();
            if self.budget.is_spent(now) || room == 0 {
                break;
            }
            let slots = self.open_slots();
            if slots.is_empty() {
                break;
            }
            let full = self.plan.records_per_batch.saturating_mul(slots.len() as u32);
            let (count, due) = match &self.pacer {
                None => (full, Due { first: now, interval_ns: 0.0 }),
                Some(pacer) => match pacer.decide(now, full) {
                    Decision::Send(count) => (count, pacer.next()),
                    Decision::Wait(until) => return Some(until),
                },
            };
            let granted = self.budget.take(count.min(room), now);
            if granted == 0 {
                break;
            }
            self.send_new(connection, &slots, granted, due, timestamp, now);
        }
        if !self.retrying {
            return None;
        }
        self.partitions.iter().filter_map(Partition::resend_at).min()
    }

    /// How many records the open transaction still takes, or none is needed; none where a batch of it has failed.
    fn transaction_room(&self) -> u32 {
        match &self.transactions {
            None => u32::MAX,
            Some(_) if self.partitions.iter().any(Partition::is_closed) => 0,
            Some(transactions) => transactions.room().min(u64::from(u32::MAX)) as u32,
        }
    }

    /// The next partitions in turn that take a batch, as many as a request carries.
    fn open_slots(&mut self) -> Vec<usize> {
        let count = self.partitions.len();
        let mut slots = Vec::with_capacity(self.plan.batches_per_request.min(count));
        for _ in 0..count {
            if slots.len() == self.plan.batches_per_request {
                break;
            }
            if self.partitions[self.cursor].is_open() {
                slots.push(self.cursor);
            }
            self.cursor = (self.cursor + 1) % count;
        }
        slots
    }

    /// Sends `count` records as one request, spread evenly over `slots`.
    fn send_new(
        &mut self,
        connection: &mut Connection,
        slots: &[usize],
        count: u32,
        due: Due,
        timestamp: Timestamp,
        now: Mono,
    ) {
        let share = count.div_ceil(slots.len() as u32);
        let give_up = now.after(self.plan.delivery_timeout);
        let mut batches = self.spare.pop().unwrap_or_default();
        let mut sent = 0;
        for &slot in slots {
            if sent == count {
                break;
            }
            let partition = &mut self.partitions[slot];
            let mut source = self.source.borrow_mut();
            let payload = source.take(partition.index, share.min(count - sent), timestamp);
            let (record_count, due) = (payload.record_count, due.skip(sent));
            let id = partition.send(payload, timestamp, due, give_up);
            let producer = partition.stamp(id).map(|(producer, _, _)| producer);
            let sequence = partition.outstanding(id).sequence;
            source.sent(SentBatch { partition: partition.index, producer, sequence, record_count, due });
            batches.push((slot, id));
            sent += record_count;
        }
        self.budget.give_back(count - sent);
        if let Some(transactions) = &mut self.transactions {
            transactions.wrote(u64::from(sent));
        }
        if let Some(pacer) = &mut self.pacer {
            pacer.advance(sent);
        }
        self.queue(connection, batches, now);
    }

    /// Batches go out again one per request: a request names a partition once.
    fn resend(&mut self, connection: &mut Connection, now: Mono) {
        for slot in 0..self.partitions.len() {
            while self.in_flight.len() < self.plan.in_flight_max {
                let Some(id) = self.partitions[slot].resend(now) else {
                    break;
                };
                self.queue(connection, vec![(slot, id)], now);
            }
        }
        self.retrying = self.partitions.iter().any(|p| !p.is_open() && !p.is_idle() && !p.is_closed());
    }

    fn queue(&mut self, connection: &mut Connection, batches: Vec<(usize, u64)>, now: Mono) {
        let correlation = connection.correlation();
        let mut request = connection.outgoing();
        let parts: Vec<ProducePart<'_>> = batches
            .iter()
            .map(|&(slot, id)| {
                let partition = &self.partitions[slot];
                let batch = partition.outstanding(id);
                ProducePart {
                    partition: partition.index,
                    payload: &batch.payload,
                    timestamp: batch.timestamp,
                    stamp: partition.stamp(id),
                }
            })
            .collect();
        write_request(&self.setup, correlation, &parts, &mut request);
        connection.queue(request);
        self.in_flight.push_back(InFlight { correlation, sent_at: now, batches });
    }

    fn on_answer(&mut self, frame: &[u8]) -> io::Result<()> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let request = self.in_flight.pop_front().ok_or_else(|| bad("an answer that nobody asked for"))?;
        let now = clock::now();
        let mut answers = std::mem::take(&mut self.answers);
        answers.clear();
        let correlation = read_response(frame, self.setup.version, |answer| answers.push(answer));
        let correlation = correlation.map_err(|e| bad(&e.to_string()))?;
        if correlation != request.correlation || answers.len() != request.batches.len() {
            return Err(bad("an answer that does not fit its request"));
        }
        for (at, answer) in answers.iter().enumerate() {
            // Brokers answer in the order of the request; a search is the exception.
            let same = |&&(slot, _): &&(usize, u64)| self.partitions[slot].index == answer.partition;
            let found = Some(&request.batches[at]).filter(same).or_else(|| request.batches.iter().find(same));
            let &(slot, id) = found.ok_or_else(|| bad("an answer for a partition that was not asked"))?;
            self.on_batch(slot, id, answer.error_code, now);
        }
        self.answers = answers;
        self.recycle(request);
        Ok(())
    }

    /// With `acks=0` a batch is done when it is in the socket.
    fn on_flushed(&mut self) {
        let now = clock::now();
        while let Some(request) = self.in_flight.pop_front() {
            for &(slot, id) in &request.batches {
                self.on_batch(slot, id, 0, now);
            }
            self.recycle(request);
        }
    }

    fn recycle(&mut self, mut request: InFlight) {
        request.batches.clear();
        self.spare.push(request.batches);
    }

    fn on_batch(&mut self, slot: usize, id: u64, code: i16, now: Mono) {
        let partition = &mut self.partitions[slot];
        let mut stats = self.stats.borrow_mut();
        if code != 0 {
            stats.error(code);
            self.moved |= is_elsewhere(code);
        }
        match partition.answered(id, code, now) {
            Verdict::Stored => {
                if self.plan.acks != Acks::None {
                    let batch = partition.outstanding(id);
                    record_latency(&mut stats, batch.due, batch.payload.record_count, now);
                }
            }
            Verdict::Retry => self.retrying = true,
            Verdict::Failed => {}
        }
        settle(partition, &mut stats, &mut *self.source.borrow_mut(), self.plan.record_size);
    }

    /// Finds the leader again, for as long as the oldest batch may still be delivered. Partitions that
    /// now have different leaders are left to workers of their own.
    async fn reconnect(&mut self) -> Result<Connection, WorkerError> {
        let now = clock::now();
        self.in_flight.clear();
        self.moved = false;
        self.retrying = true;
        self.partitions.iter_mut().for_each(|partition| partition.disconnected(now));
        let give_up = now.after(self.plan.delivery_timeout);
        loop {
            let last = match self.connect_to_leader().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if clock::now() >= give_up {
                return Err(WorkerError::DeliveryTimeout { last: last.to_string() });
            }
            sleep(RECONNECT_WAIT).await;
        }
    }

    async fn connect_to_leader(&mut self) -> Result<Connection, ClusterError> {
        let leaders = self.plan.bootstrap.leaders(&self.plan.topic).await?;
        let leads = |index: i32| leaders.iter().position(|leader| leader.partitions.contains(&index));
        let first = self.partitions.first().and_then(|partition| leads(partition.index)).unwrap_or(0);
        let connection = Connection::open(&leaders[first].address, RECEIVE_SIZE).await?;
        let (stay, go): (Vec<Partition>, Vec<Partition>) =
            std::mem::take(&mut self.partitions).into_iter().partition(|p| leads(p.index) == Some(first));
        self.partitions = stay;
        self.cursor = 0;
        for partition in go {
            self.split_off(partition);
        }
        Ok(connection)
    }

    /// A partition whose leader is now elsewhere goes on with a worker of its own, which ends when
    /// what it had outstanding is answered: the schedule stays here.
    fn split_off(&mut self, partition: Partition) {
        if partition.is_idle() {
            return;
        }
        let mut worker = Worker {
            plan: self.plan.clone(),
            setup: self.setup.clone(),
            partitions: vec![partition],
            source: self.source.clone(),
            stats: self.stats.clone(),
            budget: Rc::new(Budget {
                records: Cell::new(0),
                deadline: self.budget.deadline,
                stopped: Cell::new(true),
            }),
            pacer: None,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            answers: Vec::new(),
            cursor: 0,
            retrying: true,
            moved: false,
            transactions: None,
            splits: Vec::new(),
        };
        self.splits.push(glommio::spawn_local(async move {
            let result = match worker.reconnect().await {
                Ok(connection) => worker.run_until_answered(connection).await,
                Err(error) => Err(error),
            };
            if result.is_err() {
                worker.abandon();
            }
            let stored = result.is_ok() && !worker.partitions.iter().any(Partition::is_closed);
            worker.have_splits_stored().await && stored
        }));
    }

    /// Counts what was never answered as failed, unless the run was told to stop there.
    fn abandon(&mut self) {
        let now = clock::now();
        let stop = self.plan.on_disconnect == OnDisconnect::Stop;
        for partition in &mut self.partitions {
            partition.disconnected(now);
            partition.close();
            if !stop {
                settle(
                    partition,
                    &mut self.stats.borrow_mut(),
                    &mut *self.source.borrow_mut(),
                    self.plan.record_size,
                );
            }
        }
    }
}

/// Hands on the batches whose fate is known.
fn settle(partition: &mut Partition, stats: &mut Stats, source: &mut impl Source, record_size: usize) {
    while let Some((batch, stored)) = partition.settled() {
        let record_count = batch.payload.record_count;
        if stored {
            stats.records += record_count as u64;
            stats.bytes += record_count as u64 * record_size as u64;
        } else {
            stats.failed += record_count as u64;
        }
        source.settled(SettledBatch { partition: partition.index, record_count, stored });
    }
}

fn record_latency(stats: &mut Stats, due: Due, record_count: u32, now: Mono) {
    if due.interval_ns == 0.0 {
        return stats.took(now.since(due.first), record_count as u64);
    }
    for record in 0..record_count {
        stats.took(now.since(due.of(record)), 1);
    }
}

/// Errors that send a client to the metadata.
fn is_elsewhere(code: i16) -> bool {
    const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    const LEADER_NOT_AVAILABLE: i16 = 5;
    const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    const FENCED_LEADER_EPOCH: i16 = 74;
    [UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, FENCED_LEADER_EPOCH]
        .contains(&code)
}
