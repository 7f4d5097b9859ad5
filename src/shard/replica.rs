//! Drives one partition's log: copies batches in, writes what is planned, tells who waits.
//!
//! Appending is synchronous: a batch is judged, placed and copied in one turn, so that the order of
//! calls is the order of offsets. What needs the disk first (a new segment, more space) answers
//! [`Appended::Wait`], and the caller comes back when it is there.

use crate::codec::control_record::EndMarker;
use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::{BatchView, assign_offset, stamp_append_time};
use crate::log::commit::ParkedAcks;
use crate::log::index::SegmentIndex;
use crate::log::journal::block::{BlockWriter, Change, Entry};
use crate::log::journal::pack::Part;
use crate::log::partition::{AppendDecision, AppendRejected, ClosedSegment, LogConfig, PartitionLog, Place};
use crate::log::plan::{AppendPlan, Slot};
use crate::log::producers::{MarkerRejected, ProducerSnapshot, SequenceError};
use crate::log::segment::{ALLOCATION_STEP_MAX, SPARE_ALLOCATION_MIN, allocation_for};
use crate::log::transactions::index::TransactionIndex;
use crate::replication::produces::Acks;
use crate::shard::disk::{DiskFile, is_full_disk};
use crate::shard::event::{Broadcast, Signal};
use crate::shard::message::ProduceOutcome;
use crate::shard::reader::ReadState;
use crate::shard::removing::Removal;
use crate::shard::replication::role::Replication;
use crate::shard::segments::{NO_SPACE_RETRY, Segments};
use crate::shard::step::Pace;
use crate::shard::store::{AckTarget, Store, StoreSlot};
use crate::shard::tail::{Tail, TailBlock};
use crate::types::{LogDirIndex, Mono, Offset, ShardId, Timestamp, TopicPartition, TransactionVersion};
use glommio::sync::Semaphore;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// What became of an append in its first turn.
pub enum Appended {
    /// The [`AckTarget`] is told once the batch is flushed.
    Parked,
    /// Nothing happened yet: wait on [`Replica::ready`], then try again.
    Wait,
}

/// Held while a file in a replica's directory is created, renamed or removed.
pub struct NamesHeld<'a>(&'a Replica);

impl Drop for NamesHeld<'_> {
    fn drop(&mut self) {
        self.0.naming.set(self.0.naming.get() - 1);
        self.0.naming_ended.notify_all();
    }
}

/// An answer parked until its batch is flushed, here or also elsewhere.
pub struct ParkedAck {
    target: Rc<dyn AckTarget>,
    index: u32,
    base_offset: Offset,
    log_append_time: Option<Timestamp>,
    log_start: Offset,
}

impl ParkedAck {
    pub fn acks(&self) -> Acks {
        self.target.waits_for()
    }

    /// How long its client wants to wait.
    pub fn time_max(&self) -> Duration {
        self.target.time_max()
    }

    pub fn answer(self) {
        let outcome = ProduceOutcome {
            error: ErrorCode::None,
            base_offset: Some(self.base_offset),
            log_append_time: self.log_append_time,
            log_start: Some(self.log_start),
            message: None,
            record_errors: Vec::new(),
        };
        self.target.acknowledged(self.index, outcome);
    }

    pub fn refuse(self, error: ErrorCode) {
        self.target.acknowledged(self.index, ProduceOutcome { error, ..ProduceOutcome::default() });
    }
}

impl TickItem {
    /// Bytes.
    pub fn size(&self) -> usize {
        match self {
            TickItem::Bytes { size, .. } => *size,
            TickItem::Closed { .. } => 0,
        }
    }

    /// Writes a part of it into a block.
    pub fn write(&self, replica: &Replica, part: &Part, writer: &mut BlockWriter<'_>) {
        match self {
            TickItem::Closed { segment, size, next } => writer.closed(replica.id, *segment, *size, *next),
            TickItem::Bytes { place, end, .. } => {
                let at = |part: usize| place.file_position + part as u64;
                let tail = replica.tail.borrow();
                let range = at(part.part.start)..at(part.part.end);
                let open = tail.open_bytes(place.segment, &range);
                let slices = match open {
                    Some(_) => Vec::new(),
                    None => {
                        let slices = tail.slices(place.segment, range);
                        slices.expect("what is not written out is in memory")
                    }
                };
                let bytes = open.into_iter().chain(slices.iter().map(|slice| slice.bytes()));
                let place = Place { segment: place.segment, file_position: at(part.part.start) };
                // The log end is reached with the last byte only.
                let end = if part.last { *end } else { Offset::ZERO };
                writer.bytes(replica.id, place, end, bytes);
            }
        }
    }
}

/// A segment that was closed in memory, with the producers as they were at its end.
struct Rolled {
    closed: ClosedSegment,
    producers: ProducerSnapshot,
}

/// Who is woken, once, by the next record.
pub enum Watcher {
    Local(Rc<Signal>),
    Remote { shard: ShardId, watch: u64 },
}

/// Tells a watcher of another shard: its shard and watch number.
pub type RemoteWake = Box<dyn Fn(ShardId, u64)>;

/// Lives: one per partition replica, on its owner shard. What an append, its tick and its flush look at comes first, and
/// lies side by side: of ten thousand replicas none is in a cache.
#[repr(C)]
pub struct Replica {
    pub id: TopicPartition,
    /// Of its directory, in which it stays.
    pub dir: LogDirIndex,
    pub slot: Slot,
    pub log: RefCell<PartitionLog>,
    tail: RefCell<Tail>,
    acks: RefCell<ParkedAcks<ParkedAck>>,
    /// Up to where the log was handed to the journal or its segment.
    sealed_place: Cell<Place>,
    pub last_append: Cell<Mono>,
    no_space_since: Cell<Option<Mono>>,
    preparing: Cell<bool>,
    deleted: Cell<bool>,
    /// What whoever still has it is told then.
    absence: Cell<ErrorCode>,
    watchers: RefCell<BTreeMap<u64, Watcher>>,
    /// What it is to the other replicas, where there are any.
    pub replication: Replication,
    pub segments: Segments,
    pub reads: ReadState,
    pub topic_name: Rc<str>,
    pub directory: PathBuf,
    remote_wake: RefCell<Option<RemoteWake>>,
    /// Signalled when a wait for space or a new segment is over, for better or worse.
    pub ready: Broadcast,
    /// Segments that were closed in memory; the next write finishes them on disk.
    rolled: RefCell<VecDeque<Rolled>>,
    /// Rolls are finished on disk one after the other, whoever asks for it.
    finishing: Semaphore,
    /// Segments without an index are read through one after the other, whoever asks for it.
    pub reindexing: Semaphore,
    /// Checksums are read, or built again, one segment after the other, whoever asks for it.
    pub checking: Semaphore,
    /// Closed segments are dropped, replaced and given new index files one after the other.
    pub replacing: Semaphore,
    /// Tasks that name files in the directory. A deletion moves it away only when there are none: the
    /// next topic of that name gets the same path.
    naming: Cell<usize>,
    naming_ended: Broadcast,
    log_start_decided: Cell<Offset>,
}

/// What a tick takes of one partition, in order.
pub enum TickItem {
    /// Bytes of a segment's file. `end` is the log end once they are there: what follows in the tick may be in
    /// a block that a crash has lost.
    Bytes { place: Place, size: usize, end: Offset },
    /// The segment is closed: no bytes.
    Closed { segment: Offset, size: u64, next: Offset },
}

impl Replica {
    pub fn new(
        id: TopicPartition,
        topic_name: Rc<str>,
        StoreSlot { dir, slot }: StoreSlot,
        directory: PathBuf,
        log: PartitionLog,
        tail: Tail,
        segments: Segments,
    ) -> Rc<Replica> {
        let sealed_place = Cell::new(log.end_place());
        Rc::new(Replica {
            id,
            topic_name,
            dir,
            slot,
            directory,
            log: RefCell::new(log),
            tail: RefCell::new(tail),
            segments,
            reads: ReadState::default(),
            acks: RefCell::default(),
            replication: Replication::default(),
            watchers: RefCell::default(),
            remote_wake: RefCell::new(None),
            ready: Broadcast::default(),
            preparing: Cell::new(false),
            no_space_since: Cell::new(None),
            rolled: RefCell::default(),
            finishing: Semaphore::new(1),
            reindexing: Semaphore::new(1),
            checking: Semaphore::new(1),
            replacing: Semaphore::new(1),
            naming: Cell::new(0),
            naming_ended: Broadcast::default(),
            deleted: Cell::new(false),
            absence: Cell::new(ErrorCode::UnknownTopicOrPartition),
            last_append: Cell::new(Mono::default()),
            log_start_decided: Cell::new(Offset::ZERO),
            sealed_place,
        })
    }

    /// How watchers of other shards are told.
    pub fn on_remote_wake(&self, wake: RemoteWake) {
        *self.remote_wake.borrow_mut() = Some(wake);
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.get()
    }

    pub fn configure(&self, store: &Store, config: Rc<LogConfig>) {
        store.set_durability(self.slot, config.durability);
        self.log.borrow_mut().config = config;
    }

    /// Says that the log is to begin at `start` at least, before that is durable: no checkpoint moves it
    /// back from here on. Returns the entry that makes it durable.
    pub fn decide_log_start(&self, start: Offset) -> Entry {
        let start = start.max(self.log_start_decided());
        self.log_start_decided.set(start);
        let epoch = self.log.borrow().leader_epoch();
        Entry { partition: self.id, change: Change::LogStart { start, epoch } }
    }

    /// Where the log begins once everything that was decided is durable.
    pub fn log_start_decided(&self) -> Offset {
        self.log_start_decided.get().max(self.log.borrow().log_start())
    }

    /// A batch is appended soon: asks for what that looks at outside of this.
    pub fn prefetch_append(&self, store: &Store) {
        store.prefetch_progress(self.slot);
        self.tail.borrow().prefetch_append();
    }

    /// So many of the last bytes go into a block soon.
    pub fn prefetch_last(&self, size: usize) {
        self.tail.borrow().prefetch_last(size);
    }

    /// Appends one validated batch and parks its acknowledgement.
    ///
    /// Cost: one copy of the batch. `batch` gets its offset and leader epoch written in place.
    pub fn append(
        self: &Rc<Self>,
        store: &Rc<Store>,
        batch: &mut [u8],
        target: &Rc<dyn AckTarget>,
        index: u32,
    ) -> Result<Appended, ProduceOutcome> {
        self.check_served(store)?;
        self.admit(target.waits_for())?;
        let now = store.clock.wall();
        let (view, rest) = BatchView::split_first(batch).expect("the caller validated the batch");
        assert!(rest.is_empty(), "one batch at a time");
        let decision = self.log.borrow().decide_append(&view, now);
        let plan = match decision.map_err(|rejected| refused(&rejected))? {
            AppendDecision::Append(plan) => plan,
            AppendDecision::Duplicate(stored) => {
                store.metrics.borrow_mut().produced_duplicates += 1;
                let end = stored.last_offset.advance(1).unwrap_or(Offset::MAX);
                let log_append_time = self.log.borrow().config.append_time.then_some(stored.timestamp);
                self.park(target, index, (stored.base_offset, end), log_append_time, store.clock.mono());
                return Ok(Appended::Parked);
            }
        };
        if !self.has_space(store, &plan)? {
            return Ok(Appended::Wait);
        }
        let record_count = view.record_count();
        let end = self.place(store, batch, &plan, now);
        let log_append_time = self.log.borrow().config.append_time.then_some(now);
        self.park(target, index, (plan.base_offset, end), log_append_time, store.clock.mono());
        let mut metrics = store.metrics.borrow_mut();
        metrics.produced_batches += 1;
        metrics.produced_records += record_count as u64;
        metrics.produced_bytes += plan.size as u64;
        Ok(Appended::Parked)
    }

    /// Appends a transaction's marker and parks its acknowledgement.
    pub fn append_marker(
        self: &Rc<Self>,
        store: &Rc<Store>,
        marker: &EndMarker,
        version: TransactionVersion,
        target: &Rc<dyn AckTarget>,
        index: u32,
    ) -> Result<Appended, ProduceOutcome> {
        self.check_served(store)?;
        self.admit(target.waits_for())?;
        let now = store.clock.wall();
        let mut batch = Vec::new();
        marker.write(now, &mut batch);
        let (view, _) = BatchView::split_first(&batch).expect("it was just written");
        let decision = self.log.borrow().decide_marker(marker, version, &view, now);
        let plan = decision.map_err(|rejected| refused(&rejected))?;
        if !self.has_space(store, &plan)? {
            return Ok(Appended::Wait);
        }
        let end = self.place(store, &mut batch, &plan, now);
        self.park(target, index, (plan.base_offset, end), None, store.clock.mono());
        Ok(Appended::Parked)
    }

    /// Appends a batch as the leader has it. `false`: nothing happened yet, as for [`Appended::Wait`].
    pub fn append_replicated(
        self: &Rc<Self>,
        store: &Rc<Store>,
        batch: &[u8],
    ) -> Result<bool, ProduceOutcome> {
        self.check_served(store)?;
        let now = store.clock.wall();
        let (view, rest) = BatchView::split_first(batch).expect("it was checked when it came");
        assert!(rest.is_empty(), "one batch at a time");
        let plan = self.log.borrow().plan_replicated(&view, now).map_err(|rejected| refused(&rejected))?;
        if !self.has_space(store, &plan)? {
            return Ok(false);
        }
        self.make_place(store, &plan, now);
        self.take_in(store, batch, &plan, now);
        Ok(true)
    }

    /// Whether anything may be appended.
    fn check_served(&self, store: &Store) -> Result<(), ProduceOutcome> {
        if self.deleted.get() {
            return Err(ProduceOutcome { error: self.absence.get(), ..Default::default() });
        }
        if store.is_offline() {
            return Err(storage_error(store.offline_reason()));
        }
        if store.is_closed() {
            return Err(storage_error(Some("the broker is stopping".to_owned())));
        }
        Ok(())
    }

    /// Writes the batch's place into it and copies it behind the last one. Returns where the log ends then.
    fn place(
        self: &Rc<Self>,
        store: &Rc<Store>,
        batch: &mut [u8],
        plan: &AppendPlan,
        now: Timestamp,
    ) -> Offset {
        self.make_place(store, plan, now);
        let log = self.log.borrow();
        if log.config.append_time {
            stamp_append_time(batch, now);
        }
        assign_offset(batch, plan.base_offset, log.leader_epoch());
        drop(log);
        self.take_in(store, batch, plan, now);
        let end = self.log.borrow().log_end();
        self.appended(end);
        end
    }

    fn make_place(&self, store: &Rc<Store>, plan: &AppendPlan, now: Timestamp) {
        store.eviction.make_room(&store.tail_memory); // May look at any replica, this one too.
        if plan.rolls {
            self.tail.borrow_mut().roll(plan.segment, &store.tail_memory);
            self.segments.adopt_spare(plan.segment);
            self.roll(&mut self.log.borrow_mut(), now);
        }
    }

    fn take_in(&self, store: &Rc<Store>, batch: &[u8], plan: &AppendPlan, now: Timestamp) {
        self.tail.borrow_mut().append(batch, &store.tail_memory);
        let (view, _) = BatchView::split_first(batch).expect("the batch was whole before");
        let mut log = self.log.borrow_mut();
        log.apply_append(plan, &view, now);
        store.appended(self.slot, log.log_end(), plan.size as u64);
        self.last_append.set(store.clock.mono());
        if plan.rolls {
            store.request_write_out(self.slot); // Retention deletes only what its segment has.
        }
    }

    fn roll(&self, log: &mut PartitionLog, now: Timestamp) {
        let producers = log.producers.snapshot();
        let closed = log.roll(now);
        self.reads.checksums.closed(closed.checksums.clone());
        self.reads.transactions.closed(closed.info.base_offset, closed.transactions.as_ref());
        self.rolled.borrow_mut().push_back(Rolled { closed, producers });
    }

    fn park(
        self: &Rc<Self>,
        target: &Rc<dyn AckTarget>,
        index: u32,
        (base_offset, end): (Offset, Offset),
        log_append_time: Option<Timestamp>,
        now: Mono,
    ) {
        let log = self.log.borrow();
        let ack = ParkedAck {
            target: target.clone(),
            index,
            base_offset,
            log_append_time,
            log_start: log.log_start(),
        };
        let is_durable = end <= log.durable_end();
        drop(log);
        let Some(ack) = self.park_replicated(ack, end, now) else { return };
        if is_durable {
            ack.answer();
        } else {
            self.acks.borrow_mut().park(end, ack);
        }
    }

    /// Whether the file is there and long enough for the plan. Asks for more ahead of time.
    fn has_space(self: &Rc<Self>, store: &Rc<Store>, plan: &AppendPlan) -> Result<bool, ProduceOutcome> {
        let end = plan.file_position + plan.size as u64;
        let segment_size_max = self.log.borrow().config.segment_size_max;
        let allocated = if plan.rolls { self.segments.spare_size() } else { self.segments.active_size() };
        let ready = allocated.is_some_and(|allocated| end <= allocated);
        let ahead = end + (end / 2).min(ALLOCATION_STEP_MAX);
        let wants_more = !plan.rolls && ahead > allocated.unwrap_or(0) && allocated < Some(segment_size_max);
        let wants_spare =
            plan.rolls || (end > segment_size_max / 4 * 3 && self.segments.spare_size().is_none());
        if let Some(since) = self.no_space_since.get() {
            if store.clock.mono().since(since) >= NO_SPACE_RETRY {
                self.no_space_since.set(None);
            } else if ready {
                return Ok(true);
            } else {
                return Err(storage_error(Some("no space left on the log directory's disk".to_owned())));
            }
        }
        if (!ready || wants_more || wants_spare) && !self.preparing.replace(true) {
            let extend = (!plan.rolls && (wants_more || !ready))
                .then(|| allocation_for(ahead.min(segment_size_max).max(end), segment_size_max));
            let spare_size = SPARE_ALLOCATION_MIN.min(segment_size_max).max(plan.size.into());
            let spare = wants_spare.then(|| allocation_for(spare_size, segment_size_max));
            store.spawn(self.clone().prepare(store.clone(), extend, spare));
        }
        Ok(ready)
    }

    /// Reserves space on disk, so that no accepted batch ever meets a full disk.
    async fn prepare(self: Rc<Self>, store: Rc<Store>, extend: Option<u64>, spare: Option<u64>) {
        let result = async {
            let Some(_names) = self.hold_names() else { return Ok(()) };
            if let Some(size) = extend {
                self.segments.extend_active(&store.disk, size).await?;
            }
            if let Some(size) = spare {
                self.segments.prepare_spare(&store.disk, size).await?;
            }
            Ok::<(), io::Error>(())
        };
        if let Err(error) = result.await {
            if is_full_disk(&error) {
                tracing::warn!(directory = %self.directory.display(), "no space left: produce is refused");
                self.no_space_since.set(Some(store.clock.mono()));
            } else {
                store.fail(&format!("preparing space in {}: {error}", self.directory.display()));
            }
        }
        self.preparing.set(false);
        self.ready.notify_all();
    }

    /// Seals everything that its segment lacks for the write that reaches `end`.
    pub fn seal_for_write(self: &Rc<Self>, store: &Store, end: Offset, blocks: &mut Vec<Rc<TailBlock>>) {
        let mut log = self.log.borrow_mut();
        log.segment_sealed(end);
        self.sealed_place.set(log.end_place());
        self.tail.borrow_mut().seal_for_write(blocks, &store.tail_memory);
        drop(log);
        self.issued(end);
    }

    /// What was appended since anything was written, for the journal. Changes nothing.
    pub fn tick_items(&self, end: Offset, items: &mut Vec<TickItem>) {
        let log = self.log.borrow();
        assert!(log.log_end() == end, "a tick takes all that was appended");
        let mut from = self.sealed_place.get();
        let rolled = log.closed().partition_point(|segment| segment.base_offset < from.segment);
        let mut closed = log.closed().range(rolled..).peekable();
        while let Some(segment) = closed.next() {
            let next = closed.peek().map_or(log.active().base_offset, |next| next.base_offset);
            push_bytes(items, from, segment.size, next);
            items.push(TickItem::Closed { segment: segment.base_offset, size: segment.size, next });
            from = Place { segment: next, file_position: 0 };
        }
        push_bytes(items, from, log.active().size, end);
    }

    /// A tick that reaches `end` was issued.
    pub fn seal_for_tick(self: &Rc<Self>, end: Offset) {
        let mut log = self.log.borrow_mut();
        log.sealed(end);
        self.sealed_place.set(log.end_place());
        drop(log);
        self.issued(end);
    }

    /// Everything below `end` is flushed in its segments. Returns how many more tail blocks may go.
    pub fn stored(&self, end: Offset) -> usize {
        let mut log = self.log.borrow_mut();
        log.stored(end);
        let place = log.stored_place();
        self.tail.borrow_mut().stored((place.segment, place.file_position))
    }

    /// Writes sealed blocks, finishing rolled segments on the way. Returns the segments touched.
    pub async fn write_blocks(&self, store: &Store, blocks: Vec<Rc<TailBlock>>) -> io::Result<Vec<Offset>> {
        let mut touched = Vec::with_capacity(1);
        for blocks in blocks.chunk_by(|left, right| left.segment == right.segment) {
            let segment = blocks[0].segment;
            if self.segments.written() < segment {
                self.finish_rolls(store, segment).await?;
            }
            if self.deleted.get() {
                break; // Nobody waits for it, and a roll that was not finished has closed no file.
            }
            let Some(file) = self.written_file(store, segment).await? else {
                assert!(self.deleted.get(), "space was prepared before the append");
                break; // As above.
            };
            write_all(&file, blocks).await?;
            touched.push(segment);
        }
        Ok(touched)
    }

    /// Finishes rolled segments on disk until `segment` is the one that takes writes. Everything
    /// before `segment` has been written.
    pub async fn finish_rolls(&self, store: &Store, segment: Offset) -> io::Result<()> {
        let _turn = self.finishing.acquire_permit(1).await?;
        while self.segments.written() < segment {
            let Some(_names) = self.hold_names() else { return Ok(()) };
            self.finish_roll(store).await?;
        }
        Ok(())
    }

    /// Whether somebody is at that: see [`finish_rolls`](Self::finish_rolls).
    pub fn is_finishing_rolls(&self) -> bool {
        self.finishing.available() == 0
    }

    /// Whether every segment but the active one is final on disk.
    pub fn is_rolled_out(&self) -> bool {
        self.rolled.borrow().is_empty() && self.segments.written() == self.log.borrow().active().base_offset
    }

    /// Makes the oldest rolled segment final on disk: exact length, flushed, its indexes and the
    /// producer state beside it; then gives the next segment its name.
    async fn finish_roll(&self, store: &Store) -> io::Result<()> {
        let rolled = self.rolled.borrow_mut().pop_front();
        let Rolled { closed, mut producers } = rolled.expect("a newer segment is written to");
        let base = closed.info.base_offset;
        let next = next_base(&closed, &self.rolled.borrow(), &self.log.borrow());
        let epochs = self.log.borrow().epochs().encode();
        let mut pace = Pace::new(&store.clock);
        while producers.encode_chunk() {
            pace.give_way().await;
        }
        let producers = producers.finish();
        let keep_trying = || !store.is_closed() && !store.is_offline() && !self.deleted.get();
        let finished = self.segments.finish(&store.disk, closed, next, producers, epochs, keep_trying).await;
        self.reads.checksums.written(base);
        self.reads.transactions.written(base);
        match finished {
            Err(error) if is_full_disk(&error) && self.deleted.get() => Ok(()), // Nobody waits for it.
            finished => finished,
        }
    }

    /// Everything below `end` is durable: answers leave, readers wake.
    pub fn advance(self: &Rc<Self>, end: Offset) {
        self.log.borrow_mut().durable(end);
        loop {
            let released = self.acks.borrow_mut().release(end);
            let Some(ack) = released else { break };
            ack.answer();
        }
        self.flushed(end);
        self.wake_watchers();
    }

    /// Wakes `watcher` at the next record, or when the log goes away.
    pub fn watch(&self, watch: u64, watcher: Watcher) {
        self.watchers.borrow_mut().insert(watch, watcher);
    }

    pub fn unwatch(&self, watch: u64) {
        self.watchers.borrow_mut().remove(&watch);
    }

    pub fn wake_watchers(&self) {
        let watchers = std::mem::take(&mut *self.watchers.borrow_mut());
        for (_, watcher) in watchers {
            match watcher {
                Watcher::Local(signal) => signal.notify(),
                Watcher::Remote { shard, watch } => {
                    if let Some(wake) = &*self.remote_wake.borrow() {
                        wake(shard, watch);
                    }
                }
            }
        }
    }

    /// Answers everything parked with an error.
    pub fn refuse_parked(&self, error: ErrorCode) {
        let parked: Vec<ParkedAck> = self.acks.borrow_mut().drain().collect();
        parked.into_iter().for_each(|ack| ack.refuse(error));
        self.refuse_replicated(error);
        self.ready.notify_all();
        self.wake_watchers();
    }

    /// Why there is nothing any more, once it is deleted.
    pub fn absence(&self) -> ErrorCode {
        self.absence.get()
    }

    /// No request reaches the log any more.
    pub fn mark_deleted(&self) {
        self.give_up(ErrorCode::UnknownTopicOrPartition);
    }

    /// The same, and why: what lies in the directory may go on as another replica.
    pub fn give_up(&self, error: ErrorCode) {
        self.deleted.set(true);
        self.absence.set(error);
        self.refuse_parked(error);
    }

    /// Keeps the directory where it is; `None` once the topic was deleted: then the path may be
    /// another topic's.
    pub fn hold_names(&self) -> Option<NamesHeld<'_>> {
        if self.deleted.get() {
            return None;
        }
        self.naming.set(self.naming.get() + 1);
        Some(NamesHeld(self))
    }

    /// Waits until nobody names files in the directory any more, after
    /// [`mark_deleted`](Self::mark_deleted).
    pub async fn names_released(&self) {
        assert!(self.deleted.get());
        while self.naming.get() > 0 {
            self.naming_ended.notified().await;
        }
    }

    /// A file to read a segment from. Not found once its segment or topic was deleted.
    pub async fn reader(&self, store: &Store, segment: Offset) -> io::Result<Rc<DiskFile>> {
        let _names = self.hold_names().ok_or(io::ErrorKind::NotFound)?;
        self.segments.reader(&store.disk, segment).await
    }

    /// Gives up the files of segments that the log has forgotten; their bytes go after
    /// `file.delete.delay.ms`. `first` is the oldest segment that is left.
    pub async fn remove_segments(
        &self,
        store: &Store,
        segments: Vec<Offset>,
        first: Offset,
    ) -> io::Result<()> {
        let Some(_names) = self.hold_names() else { return Ok(()) };
        let delay = self.log.borrow().config.file_delete_delay;
        for files in self.segments.give_up(segments, first).await? {
            store.remove_later(Removal::Files(files), delay);
        }
        Ok(())
    }

    /// Writes the transaction index of a closed segment of `size` bytes.
    pub async fn write_transactions(
        &self,
        segment: Offset,
        size: u64,
        index: &TransactionIndex,
    ) -> io::Result<()> {
        let Some(_names) = self.hold_names() else { return Ok(()) };
        self.segments.write_transactions(self.segment_id(segment), size, index).await
    }

    /// Writes the index files of a closed segment.
    pub async fn write_index(&self, index: &SegmentIndex) -> io::Result<()> {
        let Some(_names) = self.hold_names() else { return Ok(()) };
        self.segments.write_index(index).await
    }

    pub fn evict_oldest(&self) -> bool {
        self.tail.borrow_mut().evict_oldest()
    }

    /// The newest bytes, for readers.
    pub fn tail(&self) -> std::cell::Ref<'_, Tail> {
        self.tail.borrow()
    }

    pub fn drop_tail_before(&self, store: &Store, segment: Offset) {
        let dropped = self.tail.borrow_mut().drop_before(segment);
        store.eviction.blocks_dropped(self, dropped);
    }

    /// The file of a segment that is written to, or that a flush has to cover; `None` when it was
    /// finished (and flushed) or deleted meanwhile.
    pub async fn written_file(&self, store: &Store, segment: Offset) -> io::Result<Option<Rc<DiskFile>>> {
        let Some(_names) = self.hold_names() else { return Ok(None) };
        self.segments.written_file(&store.disk, segment).await
    }

    /// Rolls the active segment, if nothing of it waits for the disk and there is a spare for the
    /// next (retention of an old active segment). Returns the new one's base offset.
    pub fn try_roll(self: &Rc<Self>, store: &Rc<Store>) -> Option<Offset> {
        if self.deleted.get() || !self.rolled.borrow().is_empty() || self.log.borrow().active().size == 0 {
            return None;
        }
        if !store.is_idle(self.slot) {
            store.request_write_out(self.slot);
            store.pump();
            return None;
        }
        if self.segments.spare_size().is_none() {
            if !self.preparing.replace(true) {
                let size = self.log.borrow().config.segment_size_max;
                let spare = Some(allocation_for(1, size));
                store.spawn(self.clone().prepare(store.clone(), None, spare));
            }
            return None;
        }
        let mut log = self.log.borrow_mut();
        let segment = log.log_end();
        self.tail.borrow_mut().roll(segment, &store.tail_memory);
        self.segments.adopt_spare(segment);
        self.roll(&mut log, store.clock.wall());
        log.rolled_while_stored();
        self.sealed_place.set(log.end_place());
        Some(segment)
    }
}

fn push_bytes(items: &mut Vec<TickItem>, place: Place, size: u64, end: Offset) {
    assert!(place.file_position <= size);
    if place.file_position < size {
        let size = (size - place.file_position) as usize;
        items.push(TickItem::Bytes { place, size, end });
    }
}

/// The base offset of the segment after `closed`.
fn next_base(closed: &ClosedSegment, rolled: &VecDeque<Rolled>, log: &PartitionLog) -> Offset {
    let next = rolled.front().map(|next| next.closed.info.base_offset);
    let next = next.unwrap_or(log.active().base_offset);
    assert!(closed.info.base_offset < next);
    next
}

/// Blocks of one segment do not overlap within one write, so they go out side by side.
async fn write_all(file: &DiskFile, blocks: &[Rc<TailBlock>]) -> io::Result<()> {
    if let [block] = blocks {
        return file.write(block.buffer.clone(), block.position).await;
    }
    let writes = blocks.iter().map(|block| file.write(block.buffer.clone(), block.position));
    futures::future::try_join_all(writes).await.map(drop)
}

fn storage_error(reason: Option<String>) -> ProduceOutcome {
    ProduceOutcome { error: ErrorCode::KafkaStorageError, message: reason, ..Default::default() }
}

/// The answer to a producer whose batch is out of its order.
pub fn refused_sequence(error: SequenceError) -> ProduceOutcome {
    refused(&AppendRejected::Sequence(error))
}

fn refused(rejected: &AppendRejected) -> ProduceOutcome {
    let error = match rejected {
        AppendRejected::BatchTooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendRejected::SegmentTooSmall { .. } => ErrorCode::RecordListTooLarge,
        AppendRejected::Timestamp { .. } => ErrorCode::InvalidTimestamp,
        AppendRejected::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
        AppendRejected::Sequence(SequenceError::StaleEpoch { .. })
        | AppendRejected::Marker(MarkerRejected::StaleEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
        AppendRejected::Sequence(SequenceError::NotVerified | SequenceError::NotTransactional) => {
            ErrorCode::InvalidTxnState
        }
        // Clients try again.
        AppendRejected::Sequence(SequenceError::TooManyTransactions) => ErrorCode::NotEnoughReplicas,
        AppendRejected::Marker(MarkerRejected::CoordinatorFenced { .. }) => {
            ErrorCode::TransactionCoordinatorFenced
        }
        AppendRejected::Full => ErrorCode::KafkaStorageError,
    };
    ProduceOutcome { error, message: Some(rejected.to_string()), ..Default::default() }
}
