//! A partition that is written to in transactions: the broker's own log and producers, over a disk that forgets
//! what was not flushed.
//!
//! ```text
//! batches   ████████████████████░░░░░
//!           ▲ last stable offset ▲ flushed end: a crash cuts at it or behind any batch after it
//! ```

use crate::transactions::scene::Scene;
use crate::transactions::settings::{MS, Mistake, S, check};
use crate::world::{Micros, Signal};
use odradek::codec::control_record::EndMarker;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::group_record::GroupRecord;
use odradek::codec::record_batch::{
    BatchHeader, BatchView, Compression, UNSEQUENCED, assign_offset, write_batch,
};
use odradek::codec::records::{NewRecord, write_record};
use odradek::log::checksums::{SegmentChecksums, SegmentId};
use odradek::log::durability::Durability;
use odradek::log::epochs::LeaderEpochs;
use odradek::log::index::SegmentIndex;
use odradek::log::partition::{AppendDecision, AppendRejected, Cleanup, LogConfig, Opened, PartitionLog};
use odradek::log::plan::AppendPlan;
use odradek::log::producers::{MarkerRejected, Producers, SequenceError};
use odradek::log::segment::SegmentInfo;
use odradek::log::transactions::{AbortedSearch, Isolation};
use odradek::txn::Writer;
use odradek::types::{
    CoordinatorEpoch, LeaderEpoch, Offset, PartitionIndex, ProducerId, Sequence, Timestamp, TopicId,
    TopicPartition, TransactionVersion,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// A disk that stalls, stalls so long at most.
const STALL_MAX: Micros = 3 * S;

/// How long a producer that does not write is remembered: longer than any request is late.
const IDLE_MAX: Duration = Duration::from_secs(50);

/// What a batch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A record, by its number.
    Record(u64),
    /// What a group coordinator keeps, with the numbers of the offsets.
    Groups(Vec<GroupRecord>),
    Marker(EndMarker),
}

/// A batch of the log.
#[derive(Clone, Debug)]
pub struct Stored {
    pub bytes: Vec<u8>,
    pub base: u64,
    pub end: u64,
    pub writer: Option<Writer>,
    pub content: Content,
}

/// Told the end of an append: flushed, or why it is not certain to be.
type OnEnd = Box<dyn FnOnce(Result<(), ErrorCode>)>;

struct Parked {
    end: u64,
    on_end: OnEnd,
}

/// Lives: one per partition and seed; its runs end and begin again.
pub struct Partition {
    pub scene: Rc<Scene>,
    pub index: usize,
    pub topic: String,
    pub number: i32,
    batches: RefCell<Vec<Stored>>,
    flushed_end: Cell<u64>,
    pub log: RefCell<PartitionLog>,
    pub run: Cell<u64>,
    is_up: Cell<bool>,
    /// A flush has failed: nothing is written before the next start.
    is_offline: Cell<bool>,
    parked: RefCell<VecDeque<Parked>>,
    appended: Signal,
    /// Batches that the reader of committed records has taken, and what was stable then.
    read: Cell<usize>,
    stable: Cell<u64>,
    aborting: RefCell<BTreeSet<ProducerId>>,
}

impl Partition {
    pub fn new(scene: &Rc<Scene>, index: usize, topic: &str, number: i32) -> Rc<Partition> {
        Rc::new(Partition {
            scene: scene.clone(),
            index,
            topic: topic.to_owned(),
            number,
            batches: RefCell::default(),
            flushed_end: Cell::new(0),
            log: RefCell::new(empty_log(scene.now())),
            run: Cell::new(0),
            is_up: Cell::new(false),
            is_offline: Cell::new(false),
            parked: RefCell::default(),
            appended: Signal::default(),
            read: Cell::new(0),
            stable: Cell::new(0),
            aborting: RefCell::default(),
        })
    }

    pub fn is_up(&self) -> bool {
        self.is_up.get()
    }

    pub fn is_offline(&self) -> bool {
        self.is_offline.get()
    }

    pub fn batches(&self) -> Vec<Stored> {
        self.batches.borrow().clone()
    }

    /// Of what was flushed.
    pub fn flushed_batches(&self) -> Vec<Stored> {
        let end = self.flushed_end.get();
        self.batches.borrow().iter().filter(|stored| stored.end <= end).cloned().collect()
    }

    /// Everything is flushed and every transaction decided.
    pub fn is_settled(&self) -> bool {
        let log = self.log.borrow();
        log.last_stable_offset() == log.log_end()
    }

    // --- Appends

    /// Judges a batch and appends it; of one that is there already the place is the answer. `on_end` is told when
    /// that is flushed. Errors: it is refused.
    pub fn append(
        &self,
        mut bytes: Vec<u8>,
        writer: Option<Writer>,
        content: Content,
        on_end: OnEnd,
    ) -> Result<(), ErrorCode> {
        self.check_served()?;
        let now = self.scene.now();
        let (view, _) = BatchView::split_first(&bytes).expect("it was just written");
        let decision = self.log.borrow().decide_append(&view, now).map_err(refused)?;
        match decision {
            AppendDecision::Duplicate(stored) => {
                self.scene.world.count("produce: there already");
                self.park(stored.last_offset.get() + 1, on_end);
            }
            AppendDecision::Append(plan) => {
                self.scene.watch.borrow_mut().appended(self, writer, &content);
                self.place(&mut bytes, &plan, writer, content);
                self.park(self.log.borrow().log_end().get(), on_end);
            }
        }
        Ok(())
    }

    pub fn append_marker(
        &self,
        marker: &EndMarker,
        version: TransactionVersion,
        newest: CoordinatorEpoch,
        on_end: OnEnd,
    ) -> Result<(), ErrorCode> {
        self.check_served()?;
        if !self.log.borrow().producers.may_be_coordinators(marker, newest) {
            return Err(ErrorCode::InvalidRequest);
        }
        let now = self.scene.now();
        let mut bytes = Vec::new();
        marker.write(now, &mut bytes);
        let (view, _) = BatchView::split_first(&bytes).expect("it was just written");
        let plan = self.log.borrow().decide_marker(marker, version, &view, now).map_err(refused)?;
        let writer = Writer { producer: marker.producer, epoch: marker.producer_epoch };
        self.place(&mut bytes, &plan, Some(writer), Content::Marker(*marker));
        self.park(self.log.borrow().log_end().get(), on_end);
        Ok(())
    }

    fn check_served(&self) -> Result<(), ErrorCode> {
        match self.is_offline.get() || !self.is_up.get() {
            true => Err(ErrorCode::KafkaStorageError),
            false => Ok(()),
        }
    }

    fn place(&self, bytes: &mut [u8], plan: &AppendPlan, writer: Option<Writer>, content: Content) {
        assign_offset(bytes, plan.base_offset, LeaderEpoch(0));
        let mut log = self.log.borrow_mut();
        let (view, _) = BatchView::split_first(bytes).expect("it was just written");
        log.apply_append(plan, &view, self.scene.now());
        let (base, end) = (plan.base_offset.get(), log.log_end().get());
        self.scene.world.note(format_args!("  {}-{} {base}: {content:?}", self.topic, self.number));
        self.batches.borrow_mut().push(Stored { bytes: bytes.to_vec(), base, end, writer, content });
        self.appended.notify();
    }

    fn park(&self, end: u64, on_end: OnEnd) {
        if end <= self.flushed_end.get() {
            return on_end(Ok(()));
        }
        self.parked.borrow_mut().push_back(Parked { end, on_end });
    }

    async fn run_flushes(self: Rc<Self>, run: u64) {
        let scene = self.scene.clone();
        let settings = scene.settings;
        while self.run.get() == run {
            let end = self.log.borrow().log_end();
            if end.get() == self.flushed_end.get() || self.is_offline.get() {
                self.appended.notified().await;
                continue;
            }
            self.log.borrow_mut().sealed(end);
            let time = match scene.is_faulty(settings.write_fault.saturating_mul(4)) {
                true => {
                    scene.world.count("partition: slow");
                    scene.world.between(MS, STALL_MAX)
                }
                false => scene.world.below(settings.write_max + 1),
            };
            scene.world.sleep(time).await;
            if self.run.get() == run {
                self.flushed(end);
            }
        }
    }

    fn flushed(&self, end: Offset) {
        let settings = self.scene.settings;
        let has_failed = self.scene.is_faulty(settings.write_fault.saturating_mul(12));
        if has_failed {
            self.scene.world.count("partition: flush failed");
            self.is_offline.set(true);
        } else {
            self.log.borrow_mut().durable(end);
            self.flushed_end.set(end.get());
        }
        loop {
            let next = {
                let mut parked = self.parked.borrow_mut();
                let at = parked.iter().position(|parked| has_failed || parked.end <= end.get());
                at.and_then(|at| parked.remove(at))
            };
            let Some(Parked { on_end, .. }) = next else { return };
            on_end(if has_failed { Err(ErrorCode::KafkaStorageError) } else { Ok(()) });
        }
    }

    // --- Readers

    /// Reads on, as a consumer of committed records does.
    pub fn read(&self) {
        if !self.is_up.get() {
            return;
        }
        let log = self.log.borrow();
        let stable = log.last_stable_offset().get();
        if stable < self.stable.get() {
            let what = format!("{}-{}: {stable} after {}", self.topic, self.number, self.stable.get());
            self.scene.world.finding(check::STABLE, format_args!("{what}"));
        }
        self.stable.set(self.stable.get().max(stable));
        let end = match self.scene.makes(Mistake::ReadPastStable) {
            true => log.high_watermark(),
            false => log.readable_end(Isolation::Committed),
        };
        let batches = self.batches.borrow();
        let from = self.read.get();
        let Some(first) = batches.get(from).filter(|stored| stored.end <= end.get()) else { return };
        let start = Offset::new(first.base).expect("it is in the log");
        let mut search = AbortedSearch::new(start, end);
        search.take_listed(log.active_aborted());
        let mut aborted = VecDeque::from(search.finish(end));
        aborted.make_contiguous().sort_by_key(|entry| entry.first_offset);
        let mut aborting = self.aborting.borrow_mut();
        aborting.clear();
        for stored in batches[from..].iter().take_while(|stored| stored.end <= end.get()) {
            while let Some(entry) = aborted.pop_front_if(|entry| entry.first_offset.get() < stored.end) {
                aborting.insert(entry.producer);
            }
            self.read.set(self.read.get() + 1);
            let (view, _) = BatchView::split_first(&stored.bytes).expect("it is in the log");
            if let Content::Marker(marker) = &stored.content {
                aborting.remove(&marker.producer);
                continue;
            }
            let is_aborted = view.is_transactional()
                && stored.writer.is_some_and(|writer| aborting.contains(&writer.producer));
            self.scene.watch.borrow_mut().read(self, stored, !is_aborted);
        }
    }

    /// Forgets producers that are idle.
    pub fn forget_idle(&self) {
        let mut log = self.log.borrow_mut();
        let before = log.producers.count();
        log.producers.expire(ProducerId(0), self.scene.now(), IDLE_MAX);
        if log.producers.count() < before {
            self.scene.world.count("partition: producer forgotten");
        }
    }

    /// The open transactions: whose, and from where on.
    pub fn open_transactions(&self) -> Vec<(Writer, u64)> {
        let described = self.log.borrow().producers.describe(ProducerId(0), usize::MAX);
        let open = described.into_iter().filter_map(|producer| {
            let start = producer.transaction_start?;
            Some((Writer { producer: producer.id, epoch: producer.epoch }, start.get()))
        });
        open.collect()
    }

    // --- Runs

    /// Everything in memory is gone, and with it as much as it likes of what was not flushed.
    pub fn crash(&self) {
        let world = &self.scene.world;
        let mut batches = self.batches.borrow_mut();
        let flushed = batches.iter().filter(|stored| stored.end <= self.flushed_end.get()).count();
        let left = flushed + world.below((batches.len() - flushed) as u64 + 1) as usize;
        if left < batches.len() {
            world.count("partition: unflushed batches lost");
        } else if left > flushed {
            world.count("partition: unflushed batches there");
        }
        batches.truncate(left);
        let end = batches.last().map_or(0, |stored| stored.end);
        world.note(format_args!("a crash leaves {}-{} up to {end}", self.topic, self.number));
        world.count("partition: crash");
        self.flushed_end.set(end);
        self.run.set(self.run.get() + 1);
        self.is_up.set(false);
        self.is_offline.set(false);
        drop(batches);
        self.parked.borrow_mut().clear();
        self.appended.notify();
    }

    /// Reads what is there.
    pub fn start(self: &Rc<Self>) {
        let mut log = empty_log(self.scene.now());
        for stored in self.batches.borrow().iter() {
            let (view, _) = BatchView::split_first(&stored.bytes).expect("it was written");
            let plan = AppendPlan {
                base_offset: log.log_end(),
                segment: log.active().base_offset,
                file_position: log.active().size,
                size: view.size() as u32,
                rolls: false,
            };
            log.apply_append(&plan, &view, self.scene.now());
        }
        let end = log.log_end();
        log.sealed(end);
        log.durable(end);
        *self.log.borrow_mut() = log;
        self.is_up.set(true);
        self.scene.world.spawn(self.clone().run_flushes(self.run.get()));
        self.scene.watch.borrow_mut().partition_started(self);
    }
}

pub fn empty_log(now: Timestamp) -> PartitionLog {
    let config = LogConfig {
        segment_size_max: 1 << 30,
        segment_ms: i64::MAX,
        segment_jitter_ms: 0,
        batch_size_max: 1 << 20,
        index_interval_bytes: 4096,
        index_size_max: 10 << 20,
        append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        retention_ms: None,
        retention_bytes: None,
        file_delete_delay: Duration::ZERO,
        cleanup: Cleanup::DELETE,
        durability: Durability::Fsync,
        compression: None,
    };
    let partition = PartitionIndex::from_wire(0).expect("it is one");
    let id = TopicPartition { topic: TopicId(Default::default()), partition };
    let opened = Opened {
        jitter_seed: 0,
        log_start: Offset::ZERO,
        log_end: Offset::ZERO,
        closed: VecDeque::new(),
        active: SegmentInfo::empty(Offset::ZERO, now),
        active_index: SegmentIndex::new(Offset::ZERO, config.index_interval_bytes),
        active_checksums: SegmentChecksums::new(SegmentId { partition: id, base_offset: Offset::ZERO }),
        producers: Producers::new(),
        aborted: Vec::new(),
        epochs: LeaderEpochs::new(),
    };
    PartitionLog::new(opened, config, LeaderEpoch(0))
}

/// As `odradek::shard::replica` has it.
pub fn refused(rejected: AppendRejected) -> ErrorCode {
    match rejected {
        AppendRejected::BatchTooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendRejected::SegmentTooSmall { .. } => ErrorCode::RecordListTooLarge,
        AppendRejected::Timestamp { .. } => ErrorCode::InvalidTimestamp,
        AppendRejected::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
        AppendRejected::Sequence(SequenceError::StaleEpoch { .. })
        | AppendRejected::Marker(MarkerRejected::StaleEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
        AppendRejected::Sequence(SequenceError::NotVerified | SequenceError::NotTransactional) => {
            ErrorCode::InvalidTxnState
        }
        AppendRejected::Sequence(SequenceError::TooManyTransactions) => ErrorCode::NotEnoughReplicas,
        AppendRejected::Marker(MarkerRejected::CoordinatorFenced { .. }) => {
            ErrorCode::TransactionCoordinatorFenced
        }
        AppendRejected::Full => ErrorCode::KafkaStorageError,
    }
}

pub type KeyAndValue = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A batch of these keys and values, as a producer sends it.
pub fn batch_of(
    records: &[KeyAndValue],
    writer: Option<(Writer, Option<i32>)>,
    is_transactional: bool,
    now: Timestamp,
) -> Vec<u8> {
    let mut payload = Vec::new();
    for (number, (key, value)) in (0..).zip(records) {
        let record = NewRecord {
            offset_delta: number,
            key: key.as_deref(),
            value: value.as_deref(),
            ..NewRecord::default()
        };
        write_record(&record, &mut payload);
    }
    let header = BatchHeader {
        compression: Compression::None,
        transactional: is_transactional,
        record_count: records.len() as u32,
        base_timestamp: now,
        max_timestamp: now,
        producer: writer.map(|(writer, sequence)| {
            (writer.producer, writer.epoch, sequence.map_or(UNSEQUENCED, Sequence))
        }),
    };
    let mut batch = Vec::with_capacity(payload.len() + 61);
    write_batch(&header, &payload, &mut batch);
    batch
}
