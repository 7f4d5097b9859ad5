//! One partition: copies batches in, writes what is planned, finishes rolls on disk.

use crate::disk::{DiskError, DiskResult, OpenFile};
use crate::shell::tail::{Tail, TailWrite};
use crate::shell::{NO_SPACE_RETRY, Shell};
use crate::world::{Micros, Signal, Turn};
use futures::future::try_join_all;
use odradek::codec::control_record::EndMarker;
use odradek::codec::record_batch::{BatchView, assign_offset};
use odradek::log::checksums::SegmentChecksums;
use odradek::log::commit::ParkedAcks;
use odradek::log::compaction::swap::SwapStep;
use odradek::log::epochs::LEADER_EPOCH_CHECKPOINT;
use odradek::log::index::SegmentIndex;
use odradek::log::journal::block::{BlockWriter, Change, Entry};
use odradek::log::journal::pack::Part;
use odradek::log::partition::{AppendDecision, AppendRejected, ClosedSegment, PartitionLog, Place};
use odradek::log::plan::{AppendPlan, Slot};
use odradek::log::segment::{ALLOCATION_STEP_MAX, SegmentFile, allocation_for};
use odradek::log::transactions::index::TransactionIndex;
use odradek::types::{Offset, Timestamp, TopicPartition, TransactionVersion};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// What became of an appended batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged { base_offset: Offset },
    Refused,
}

/// Who is told.
pub type AckTarget = Rc<dyn Fn(Outcome)>;

/// What became of an append in its first turn.
pub enum Appended {
    Parked,
    /// Nothing happened yet: wait on [`Replica::ready`], then try again.
    Wait,
}

#[derive(Clone, Copy, Debug)]
pub enum AppendRefused {
    Offline,
    NoSpace,
    Rejected(AppendRejected),
}

/// What a tick takes of one partition, in order.
pub enum TickItem {
    Bytes { place: Place, size: usize, end: Offset },
    Closed { segment: Offset, size: u64, next: Offset },
}

impl TickItem {
    pub fn size(&self) -> usize {
        match self {
            TickItem::Bytes { size, .. } => *size,
            TickItem::Closed { .. } => 0,
        }
    }

    pub fn write(&self, replica: &Replica, part: &Part, writer: &mut BlockWriter<'_>) {
        match self {
            TickItem::Closed { segment, size, next } => writer.closed(replica.id, *segment, *size, *next),
            TickItem::Bytes { place, end, .. } => {
                let at = |part: usize| place.file_position + part as u64;
                let tail = replica.tail.borrow();
                let bytes = tail.slice(place.segment, at(part.part.start)..at(part.part.end));
                let bytes = bytes.expect("what is not written out is in memory");
                let place = Place { segment: place.segment, file_position: at(part.part.start) };
                let end = if part.last { *end } else { Offset::ZERO };
                writer.bytes(replica.id, place, end, std::iter::once(bytes));
            }
        }
    }
}

/// A segment file that may be written.
#[derive(Clone)]
struct Handle {
    file: OpenFile,
    allocated: u64,
}

/// The files of the partition.
pub struct Segments {
    active: Offset,
    /// Behind `active` while a roll is unfinished on disk.
    pub written: Offset,
    writable: BTreeMap<Offset, Handle>,
    spare: Option<(String, Handle)>,
    /// Spares that a roll took; they keep their name until it is finished.
    adopted: BTreeMap<Offset, String>,
    spare_number: u64,
}

struct Rolled {
    closed: ClosedSegment,
    snapshot: Vec<u8>,
}

pub struct Replica {
    pub id: TopicPartition,
    /// Its directory.
    pub name: String,
    pub slot: Slot,
    pub log: RefCell<PartitionLog>,
    pub tail: RefCell<Tail>,
    pub segments: RefCell<Segments>,
    acks: RefCell<ParkedAcks<(AckTarget, Outcome)>>,
    pub ready: Signal,
    preparing: Cell<bool>,
    no_space_since: Cell<Option<Micros>>,
    rolled: RefCell<VecDeque<Rolled>>,
    /// Checksums of closed segments whose companion is not written yet.
    pub unwritten: RefCell<BTreeMap<Offset, SegmentChecksums>>,
    pub unwritten_transactions: RefCell<BTreeMap<Offset, TransactionIndex>>,
    finishing: Turn,
    pub replacing: Turn,
    sealed_place: Cell<Place>,
    /// Changes when files of closed segments are removed or replaced.
    pub generation: Cell<u64>,
    /// Held while bytes are reserved for a segment's file, or cut off it.
    sizes: Turn,
    /// A compacted segment that has not got its name yet.
    pub swapped: RefCell<Option<(Offset, OpenFile)>>,
    /// The steps that give it one.
    pub swap_rest: RefCell<Vec<SwapStep>>,
    deleted: Cell<bool>,
    /// Tasks that name files in the directory; a deletion moves it away only when there are none.
    naming: Cell<usize>,
    naming_ended: Signal,
    log_start_decided: Cell<Offset>,
}

/// Held while a file in the directory is created, renamed or removed.
pub struct NamesHeld<'a>(&'a Replica);

impl Drop for NamesHeld<'_> {
    fn drop(&mut self) {
        self.0.naming.set(self.0.naming.get() - 1);
        self.0.naming_ended.notify();
    }
}

impl Replica {
    pub fn new(id: TopicPartition, name: String, slot: Slot, log: PartitionLog, tail: Tail) -> Rc<Replica> {
        let active = log.active().base_offset;
        let sealed_place = Cell::new(log.end_place());
        Rc::new(Replica {
            id,
            name,
            slot,
            log: RefCell::new(log),
            tail: RefCell::new(tail),
            segments: RefCell::new(Segments {
                active,
                written: active,
                writable: BTreeMap::new(),
                spare: None,
                adopted: BTreeMap::new(),
                spare_number: 0,
            }),
            acks: RefCell::default(),
            ready: Signal::default(),
            preparing: Cell::new(false),
            no_space_since: Cell::new(None),
            rolled: RefCell::default(),
            unwritten: RefCell::default(),
            unwritten_transactions: RefCell::default(),
            finishing: Turn::default(),
            replacing: Turn::default(),
            sealed_place,
            generation: Cell::new(0),
            sizes: Turn::default(),
            swapped: RefCell::new(None),
            swap_rest: RefCell::default(),
            deleted: Cell::new(false),
            naming: Cell::new(0),
            naming_ended: Signal::default(),
            log_start_decided: Cell::new(Offset::ZERO),
        })
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.get()
    }

    /// No request reaches the log any more.
    pub fn mark_deleted(&self) {
        self.deleted.set(true);
        self.refuse_parked();
    }

    /// Keeps the directory where it is; `None` once the topic was deleted: then the path may be another
    /// topic's.
    pub fn hold_names(&self) -> Option<NamesHeld<'_>> {
        if self.deleted.get() {
            return None;
        }
        self.naming.set(self.naming.get() + 1);
        Some(NamesHeld(self))
    }

    /// Waits until nobody names files in the directory any more.
    pub async fn names_released(&self) {
        while self.naming.get() > 0 {
            self.naming_ended.notified().await;
        }
    }

    /// Says that the log is to begin at `start` at least, before that is durable.
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

    pub fn path(&self, segment: Offset, file: SegmentFile) -> String {
        format!("{}/{}", self.name, file.name(segment))
    }

    /// Appends one validated batch and parks its acknowledgement.
    pub fn append(
        self: &Rc<Self>,
        shell: &Rc<Shell>,
        batch: &mut [u8],
        target: &AckTarget,
    ) -> Result<Appended, AppendRefused> {
        if shell.is_offline() || shell.is_closed() || self.deleted.get() {
            return Err(AppendRefused::Offline);
        }
        let now = Timestamp(shell.world.wall_ms());
        let (view, _) = BatchView::split_first(batch).expect("the producer made a whole batch");
        let decision = self.log.borrow().decide_append(&view, now);
        let plan = match decision.map_err(AppendRefused::Rejected)? {
            AppendDecision::Append(plan) => plan,
            AppendDecision::Duplicate(stored) => {
                shell.world.count("append: duplicate");
                let end = stored.last_offset.advance(1).unwrap_or(Offset::MAX);
                self.park(target, stored.base_offset, end);
                return Ok(Appended::Parked);
            }
        };
        if !self.has_space(shell, &plan)? {
            return Ok(Appended::Wait);
        }
        assign_offset(batch, plan.base_offset, self.log.borrow().leader_epoch());
        self.place(shell, batch, &plan, now);
        let end = self.log.borrow().log_end();
        shell.model.borrow_mut().appended(&shell.world, &self.id, batch);
        shell.appended(self.slot, end, plan.size as u64);
        self.park(target, plan.base_offset, end);
        Ok(Appended::Parked)
    }

    /// Appends a transaction's marker and parks its acknowledgement.
    pub fn append_marker(
        self: &Rc<Self>,
        shell: &Rc<Shell>,
        marker: &EndMarker,
        version: TransactionVersion,
        target: &AckTarget,
    ) -> Result<Appended, AppendRefused> {
        if shell.is_offline() || shell.is_closed() || self.deleted.get() {
            return Err(AppendRefused::Offline);
        }
        let now = Timestamp(shell.world.wall_ms());
        let mut batch = Vec::new();
        marker.write(now, &mut batch);
        let (view, _) = BatchView::split_first(&batch).expect("it was just written");
        let decision = self.log.borrow().decide_marker(marker, version, &view, now);
        let plan = decision.map_err(AppendRefused::Rejected)?;
        if !self.has_space(shell, &plan)? {
            return Ok(Appended::Wait);
        }
        assign_offset(&mut batch, plan.base_offset, self.log.borrow().leader_epoch());
        self.place(shell, &batch, &plan, now);
        let end = self.log.borrow().log_end();
        shell.model.borrow_mut().appended(&shell.world, &self.id, &batch);
        shell.appended(self.slot, end, plan.size as u64);
        self.park(target, plan.base_offset, end);
        Ok(Appended::Parked)
    }

    /// Appends a batch as the leader has it, and parks who waits for its flush.
    pub fn append_replicated(
        self: &Rc<Self>,
        shell: &Rc<Shell>,
        batch: &[u8],
        target: &AckTarget,
    ) -> Result<Appended, AppendRefused> {
        if shell.is_offline() || shell.is_closed() || self.deleted.get() {
            return Err(AppendRefused::Offline);
        }
        let now = Timestamp(shell.world.wall_ms());
        let (view, _) = BatchView::split_first(batch).expect("the leader has sent a whole batch");
        let plan = self.log.borrow().plan_replicated(&view, now).map_err(AppendRefused::Rejected)?;
        if !self.has_space(shell, &plan)? {
            return Ok(Appended::Wait);
        }
        if self.log.borrow().leader_epoch() < view.leader_epoch() {
            self.log.borrow_mut().begin_epoch(view.leader_epoch());
        }
        self.place(shell, batch, &plan, now);
        let end = self.log.borrow().log_end();
        shell.appended(self.slot, end, plan.size as u64);
        self.park(target, plan.base_offset, end);
        Ok(Appended::Parked)
    }

    fn place(&self, shell: &Shell, batch: &[u8], plan: &AppendPlan, now: Timestamp) {
        let mut log = self.log.borrow_mut();
        if plan.rolls {
            shell.world.count("roll");
            shell.world.note(format_args!("roll {} at {}", self.name, plan.segment));
            self.tail.borrow_mut().roll(plan.segment);
            self.adopt_spare(plan.segment);
            self.roll(&mut log, now);
        }
        self.tail.borrow_mut().append(batch);
        let (view, _) = BatchView::split_first(batch).expect("the batch was whole before");
        log.apply_append(plan, &view, now);
        if plan.rolls {
            shell.request_write_out(self.slot);
        }
    }

    fn adopt_spare(&self, segment: Offset) {
        let mut segments = self.segments.borrow_mut();
        let (name, handle) = segments.spare.take().expect("a roll is planned only with a spare");
        segments.writable.insert(segment, handle);
        segments.adopted.insert(segment, name);
        segments.active = segment;
    }

    fn roll(&self, log: &mut PartitionLog, now: Timestamp) {
        let snapshot = log.producers.encode_snapshot();
        let closed = log.roll(now);
        self.unwritten.borrow_mut().insert(closed.info.base_offset, closed.checksums.clone());
        let transactions = closed.transactions.clone().map(|all| (closed.info.base_offset, all));
        self.unwritten_transactions.borrow_mut().extend(transactions);
        self.rolled.borrow_mut().push_back(Rolled { closed, snapshot });
    }

    fn park(&self, target: &AckTarget, base_offset: Offset, end: Offset) {
        let outcome = Outcome::Acknowledged { base_offset };
        if end <= self.log.borrow().high_watermark() {
            target(outcome);
        } else {
            self.acks.borrow_mut().park(end, (target.clone(), outcome));
        }
    }

    /// Whether the file is there and long enough for the plan. Asks for more ahead of time.
    fn has_space(self: &Rc<Self>, shell: &Rc<Shell>, plan: &AppendPlan) -> Result<bool, AppendRefused> {
        let end = plan.file_position + plan.size as u64;
        let size_max = self.log.borrow().config.segment_size_max;
        let (active, spare) = {
            let segments = self.segments.borrow();
            let active = segments.writable.get(&segments.active).map(|handle| handle.allocated);
            (active, segments.spare.as_ref().map(|(_, handle)| handle.allocated))
        };
        let allocated = if plan.rolls { spare } else { active };
        let ready = allocated.is_some_and(|allocated| end <= allocated);
        let ahead = end + (end / 2).min(ALLOCATION_STEP_MAX);
        let wants_more = !plan.rolls && ahead > allocated.unwrap_or(0) && allocated < Some(size_max);
        let wants_spare = plan.rolls || (end > size_max / 4 * 3 && spare.is_none());
        if let Some(since) = self.no_space_since.get() {
            if shell.world.now() - since >= NO_SPACE_RETRY {
                self.no_space_since.set(None);
            } else if ready {
                return Ok(true);
            } else {
                return Err(AppendRefused::NoSpace);
            }
        }
        if (!ready || wants_more || wants_spare) && !self.preparing.replace(true) {
            let extend = (!plan.rolls && (wants_more || !ready))
                .then(|| allocation_for(ahead.min(size_max).max(end), size_max));
            let spare = wants_spare.then(|| allocation_for(plan.size as u64, size_max));
            shell.world.spawn(self.clone().prepare(shell.clone(), extend, spare));
        }
        Ok(ready)
    }

    /// Reserves space on disk, so that no accepted batch ever meets a full disk.
    async fn prepare(self: Rc<Self>, shell: Rc<Shell>, extend: Option<u64>, spare: Option<u64>) {
        let result = async {
            let Some(_names) = self.hold_names() else { return Ok(()) };
            if let Some(size) = extend {
                self.extend_active(&shell, size).await?;
            }
            match spare {
                Some(size) => self.prepare_spare(&shell, size).await,
                None => Ok(()),
            }
        };
        if let Err(error) = result.await {
            if error.is_full() {
                self.no_space_since.set(Some(shell.world.now()));
            } else {
                shell.failed(format_args!("preparing space in {}", self.name), error);
            }
        }
        self.preparing.set(false);
        self.ready.notify();
    }

    async fn extend_active(&self, shell: &Shell, size: u64) -> DiskResult<()> {
        let segment = self.segments.borrow().active;
        let open = self.segments.borrow().writable.get(&segment).cloned();
        let handle = match open {
            Some(handle) => handle,
            None => {
                let file = shell.disk.open(&self.path(segment, SegmentFile::Log), true).await?;
                shell.disk.sync_directory(&self.name).await?;
                let handle = Handle { file, allocated: 0 };
                self.segments.borrow_mut().writable.insert(segment, handle.clone());
                handle
            }
        };
        let _sizes = self.sizes.take().await;
        // One that was rolled meanwhile gets nothing: it is cut to its length, or was.
        if self.segments.borrow().active != segment {
            shell.world.count("roll: closed what was to be enlarged");
            return Ok(());
        }
        if handle.allocated < size {
            handle.file.allocate(size).await?;
            if let Some(handle) = self.segments.borrow_mut().writable.get_mut(&segment) {
                handle.allocated = size;
            }
        }
        Ok(())
    }

    async fn prepare_spare(&self, shell: &Shell, size: u64) -> DiskResult<()> {
        let spare = self.segments.borrow_mut().spare.take();
        let (name, mut handle) = match spare {
            Some(spare) => spare,
            None => {
                let number = {
                    let mut segments = self.segments.borrow_mut();
                    segments.spare_number += 1;
                    segments.spare_number - 1
                };
                let name = format!("{}/{number}.spare", self.name);
                let file = shell.disk.open(&name, true).await?;
                (name, Handle { file, allocated: 0 })
            }
        };
        let mut result = Ok(());
        if handle.allocated < size {
            result = handle.file.allocate(size).await;
            if result.is_ok() {
                handle.allocated = size;
            }
        }
        self.segments.borrow_mut().spare = Some((name, handle));
        result
    }

    pub fn seal_for_write(&self, end: Offset, size_max: u64) -> Vec<TailWrite> {
        let mut log = self.log.borrow_mut();
        log.segment_sealed(end);
        self.sealed_place.set(log.end_place());
        self.tail.borrow_mut().seal_for_write(size_max)
    }

    /// What was appended since anything was written, for the journal. Changes nothing.
    pub fn tick_items(&self, end: Offset) -> Vec<TickItem> {
        let log = self.log.borrow();
        assert!(log.log_end() == end, "a tick takes all that was appended");
        let mut items = Vec::new();
        let mut from = self.sealed_place.get();
        let rolled = log.closed().partition_point(|segment| segment.base_offset < from.segment);
        let mut closed = log.closed().range(rolled..).peekable();
        while let Some(segment) = closed.next() {
            let next = closed.peek().map_or(log.active().base_offset, |next| next.base_offset);
            push_bytes(&mut items, from, segment.size, next);
            items.push(TickItem::Closed { segment: segment.base_offset, size: segment.size, next });
            from = Place { segment: next, file_position: 0 };
        }
        push_bytes(&mut items, from, log.active().size, end);
        items
    }

    pub fn seal_for_tick(&self, end: Offset) {
        let mut log = self.log.borrow_mut();
        log.sealed(end);
        self.sealed_place.set(log.end_place());
    }

    pub fn stored(&self, end: Offset) {
        self.log.borrow_mut().stored(end);
    }

    /// Writes sealed pieces, finishing rolled segments on the way. Returns the segments touched.
    pub async fn write(&self, shell: &Shell, writes: Vec<TailWrite>) -> DiskResult<Vec<Offset>> {
        let mut touched = Vec::new();
        for writes in writes.chunk_by(|left, right| left.segment == right.segment) {
            let segment = writes[0].segment;
            self.finish_rolls(shell, segment).await?;
            let Some(file) = self.written_file(segment) else { break }; // Deleted: nobody waits for it.
            try_join_all(writes.iter().map(|write| file.write(write.position, &write.bytes))).await?;
            touched.push(segment);
        }
        Ok(touched)
    }

    /// Finishes rolled segments on disk until `segment` is the one that takes writes.
    pub async fn finish_rolls(&self, shell: &Shell, segment: Offset) -> DiskResult<()> {
        let _turn = self.finishing.take().await;
        while self.segments.borrow().written < segment {
            let Some(_names) = self.hold_names() else { return Ok(()) };
            match self.finish_roll(shell).await {
                Err(error) if error.is_full() && self.deleted.get() => return Ok(()),
                finished => finished?,
            }
        }
        Ok(())
    }

    /// The old file is cut to its length and flushed, its indexes and the producer state are written,
    /// the spare gets its name. Only then is the new segment written to.
    async fn finish_roll(&self, shell: &Shell) -> DiskResult<()> {
        let rolled = self.rolled.borrow_mut().pop_front().expect("a newer segment is written to");
        let next = self.rolled.borrow().front().map(|next| next.closed.info.base_offset);
        let next = next.unwrap_or(self.log.borrow().active().base_offset);
        let epochs = self.log.borrow().epochs().encode();
        let base = rolled.closed.info.base_offset;
        let open = self.segments.borrow().writable.get(&base).map(|handle| handle.file.clone());
        let old = match open {
            Some(file) => file,
            None => shell.disk.open(&self.path(base, SegmentFile::Log), true).await?,
        };
        {
            let _sizes = self.sizes.take().await;
            old.truncate(rolled.closed.info.size).await?;
        }
        shell.flush_file(&old).await?;
        let snapshot = self.path(next, SegmentFile::ProducerSnapshot);
        let files = [
            (self.path(base, SegmentFile::OffsetIndex), rolled.closed.index.encode_offset_index()),
            (self.path(base, SegmentFile::TimeIndex), rolled.closed.index.encode_time_index()),
            (self.path(base, SegmentFile::Checksums), rolled.closed.checksums.encode()),
            (snapshot.clone(), rolled.snapshot),
        ];
        let transactions = rolled.closed.encode_transactions();
        let transactions = transactions.map(|bytes| (self.path(base, SegmentFile::TransactionIndex), bytes));
        let helper = shell.helper.take().await;
        // Where the snapshot is, a start looks for no epochs before it.
        let path = format!("{}/{LEADER_EPOCH_CHECKPOINT}", self.name);
        let has_epochs = match shell.disk.replace_file(&path, epochs.as_bytes()).await {
            Err(error) if error.is_full() => false,
            other => other.map(|()| true)?,
        };
        for (path, bytes) in files.into_iter().chain(transactions) {
            let written = match path == snapshot && !has_epochs {
                true => Err(DiskError::Full),
                false => shell.disk.replace_file(&path, &bytes).await,
            };
            match written {
                Err(error) if error.is_full() => {
                    shell.world.count("roll: no space for a derived file");
                    if path == snapshot
                        && let Some(model) = shell.model.borrow_mut().partitions.get_mut(&self.id)
                    {
                        model.snapshot_left_out = true;
                    }
                    shell.disk.remove_if_present(&path).await?;
                }
                other => other?,
            }
        }
        drop(helper);
        self.unwritten.borrow_mut().remove(&base);
        self.unwritten_transactions.borrow_mut().remove(&base);
        let spare = self.segments.borrow_mut().adopted.remove(&next).expect("adopted at the roll");
        self.name_segment(shell, &spare, next).await?;
        let mut segments = self.segments.borrow_mut();
        segments.writable.remove(&base);
        segments.written = next;
        Ok(())
    }

    async fn name_segment(&self, shell: &Shell, spare: &str, segment: Offset) -> DiskResult<()> {
        let path = self.path(segment, SegmentFile::Log);
        loop {
            let named = async {
                if shell.disk.exists(spare) {
                    shell.disk.rename(spare, &path).await?;
                }
                shell.disk.sync_directory(&self.name).await
            };
            match named.await {
                Err(error)
                    if error.is_full()
                        && !shell.is_closed()
                        && !shell.is_offline()
                        && !self.deleted.get() =>
                {
                    shell.world.count("roll: no space for a name");
                    shell.world.sleep(NO_SPACE_RETRY).await;
                }
                done => return done,
            }
        }
    }

    /// Everything below `end` is durable: answers leave.
    pub fn advance(&self, shell: &Shell, end: Offset) {
        self.log.borrow_mut().durable(end);
        if self.deleted.get() {
            return; // Nobody is told of it any more.
        }
        shell.model.borrow_mut().advanced(&shell.world, &self.id, end);
        let (start, stable) = {
            let log = self.log.borrow();
            (log.log_start(), log.last_stable_offset())
        };
        shell.model.borrow_mut().stable(&shell.world, &self.id, start, stable);
        loop {
            let released = self.acks.borrow_mut().release(end);
            let Some((target, outcome)) = released else { break };
            target(outcome);
        }
    }

    pub fn refuse_parked(&self) {
        let parked: Vec<_> = self.acks.borrow_mut().drain().collect();
        parked.into_iter().for_each(|(target, _)| target(Outcome::Refused));
        self.ready.notify();
    }

    /// The file of a segment that a flush has to cover; `None` when it was finished (and flushed).
    pub fn written_file(&self, segment: Offset) -> Option<OpenFile> {
        if self.deleted.get() {
            return None;
        }
        self.segments.borrow().writable.get(&segment).map(|handle| handle.file.clone())
    }

    pub fn evict(&self) {
        let place = self.log.borrow().stored_place();
        self.tail.borrow_mut().evict(place);
    }

    /// Rolls the active segment, if nothing of it waits for the disk and there is a spare for the next.
    pub fn try_roll(self: &Rc<Self>, shell: &Rc<Shell>) -> Option<Offset> {
        if self.deleted.get() || !self.rolled.borrow().is_empty() || self.log.borrow().active().size == 0 {
            return None;
        }
        if !shell.is_idle(self.slot) {
            shell.request_write_out(self.slot);
            shell.pump();
            return None;
        }
        if self.segments.borrow().spare.is_none() {
            if !self.preparing.replace(true) {
                let size = self.log.borrow().config.segment_size_max;
                let spare = Some(allocation_for(1, size));
                shell.world.spawn(self.clone().prepare(shell.clone(), None, spare));
            }
            return None;
        }
        let mut log = self.log.borrow_mut();
        let segment = log.log_end();
        self.tail.borrow_mut().roll(segment);
        self.tail.borrow_mut().rolled_while_written(segment);
        self.adopt_spare(segment);
        self.roll(&mut log, Timestamp(shell.world.wall_ms()));
        log.rolled_while_stored();
        self.sealed_place.set(log.end_place());
        Some(segment)
    }

    pub async fn write_index(&self, shell: &Shell, index: &SegmentIndex) -> DiskResult<()> {
        let Some(_names) = self.hold_names() else { return Ok(()) };
        let _helper = shell.helper.take().await;
        let base = index.base_offset();
        let offsets = self.path(base, SegmentFile::OffsetIndex);
        shell.disk.replace_file(&offsets, &index.encode_offset_index()).await?;
        let times = self.path(base, SegmentFile::TimeIndex);
        shell.disk.replace_file(&times, &index.encode_time_index()).await
    }
}

fn push_bytes(items: &mut Vec<TickItem>, place: Place, size: u64, end: Offset) {
    if place.file_position < size {
        let size = (size - place.file_position) as usize;
        items.push(TickItem::Bytes { place, size, end });
    }
}
