//! The replicas of one shard in one log directory, and their common commit: carries out what `log::commit`
//! decides.
//!
//! ```text
//! append ─► tail buffers ─► pump ─► journal blocks ─► journal flush ──┐
//!                            ▲ └──► segment write (one per partition)  ├─► advance: acks leave, readers wake
//!                            │             └─► flush of segments ──────┘
//!                            └──── whenever the disk has answered
//! ```
//!
//! Knows no sockets and no requests: an acknowledgement is a call on an [`AckTarget`].

use crate::codec::error_code::ErrorCode;
use crate::log::checkpoint::CheckpointGeneration;
use crate::log::commit::{Advance, GroupCommit, Stored};
use crate::log::durability::Durability;
use crate::log::journal::block::{BlockSequence, BlockWriter, FileEpoch};
use crate::log::journal::pack::{PackedBlock, pack};
use crate::log::journal::ring::{BlockPlace, FileIndex, JournalFlush, JournalRing};
use crate::log::plan::{FILE_FLUSHES_IN_FLIGHT_MAX, FlushMethod, FlushPlan, Slot, TickPlan, WritePlan};
use crate::log::removal::Removals;
use crate::metrics::recovery::RecoveryBranch;
use crate::replication::produces::Acks;
use crate::shard::catch_up::CatchUp;
use crate::shard::clock::Clock;
use crate::shard::disk::{Disk, allocate, is_full_disk, unless_full};
use crate::shard::event::Broadcast;
use crate::shard::journal::Journal;
use crate::shard::memory::Meter;
use crate::shard::message::ProduceOutcome;
use crate::shard::partition_map::PartitionMap;
use crate::shard::removing::{Removal, Remover};
use crate::shard::replica::{Replica, TickItem};
use crate::shard::side_thread::SideThread;
use crate::shard::stores::{Eviction, Shared};
use crate::shard::tail::TailBlock;
use crate::types::limits::TAIL_BUFFER_SIZE_MAX;
use crate::types::prefetch::prefetch;
use crate::types::{LogDirIndex, Mono, Offset, ShardId, TopicId, TopicPartition};
use futures::stream::{self, TryStreamExt};
use glommio::TaskQueueHandle;
use glommio::io::DmaBuffer;
use glommio::sync::Semaphore;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::metrics::ShardMetrics;

pub mod changes;

/// A journal file that found no space is asked for again after this long.
const NO_SPACE_RETRY: Duration = Duration::from_secs(1);

/// Who is told what became of an appended batch. Called once per batch, from the shard's own tasks.
pub trait AckTarget {
    /// `index`: which of the request's batches.
    fn acknowledged(&self, index: u32, outcome: ProduceOutcome);

    /// Who has to have the batch before that.
    fn waits_for(&self) -> Acks {
        Acks::All
    }

    /// How long others may take to have it.
    fn time_max(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// Which log directory a store is for.
pub struct StoreDir {
    pub index: LogDirIndex,
    pub path: PathBuf,
    /// Of the last checkpoint that a start has found.
    pub generation: CheckpointGeneration,
}

/// A replica's place among those of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSlot {
    pub dir: LogDirIndex,
    pub slot: Slot,
}

/// Tells the other shards of the node that the directory has failed, and why.
pub type OnFailed = Box<dyn Fn(&str)>;

/// Tells the shard of one of its replicas.
pub type OnDamaged = Box<dyn Fn(TopicPartition)>;

/// How many replicas ahead memory is asked for.
const AHEAD: usize = 8;

/// Lives: one per shard and log directory, as long as the process.
pub struct Store {
    pub dir: LogDirIndex,
    pub path: PathBuf,
    pub clock: Clock,
    pub disk: Disk,
    pub metrics: Rc<RefCell<ShardMetrics>>,
    /// Of all that acknowledgements wait for. What asks for a commit may have a smaller share.
    pub queue: TaskQueueHandle,
    pub tail_memory: Rc<Meter>,
    pub catch_up: Rc<CatchUp>,
    pub side_thread: Rc<SideThread>,
    journal: Option<Rc<Journal>>,
    commit: RefCell<GroupCommit>,
    slots: RefCell<Vec<Option<Rc<Replica>>>>,
    replicas: RefCell<PartitionMap<Rc<Replica>>>,
    pub eviction: Rc<Eviction>,
    pub drained: Rc<Broadcast>,
    removals: RefCell<Removals<Removal>>,
    undurable_max: u64,
    unstored_max: u64,
    offline: RefCell<Option<String>>,
    on_failed: RefCell<Option<OnFailed>>,
    on_damaged: RefCell<Option<OnDamaged>>,
    on_doubtful: RefCell<Option<OnDamaged>>,
    checkpoint: Cell<CheckpointGeneration>,
    /// One checkpoint is written at a time.
    pub checkpoint_turn: Semaphore,
    /// The final state is being written.
    closed: Cell<bool>,
    /// When the oldest write began that the next flush covers and somebody waits for, for the commit
    /// latency.
    write_started: Cell<Option<Mono>>,
    /// Until when a task sleeps that looks for a due flush that nobody waits for.
    flush_timed: Cell<Option<Mono>>,
}

impl Store {
    pub fn new(shared: &Shared, dir: StoreDir, disk: Disk, journal: Option<(ShardId, Journal)>) -> Rc<Store> {
        let ring = journal.as_ref().map(|(shard, journal)| match journal.head() {
            Some(head) => JournalRing::resume(journal.limits(), &head),
            None => JournalRing::new(*shard, journal.limits(), BlockSequence(1), FileEpoch(0)),
        });
        let Shared { clock, metrics, tail_memory, catch_up, side_thread, drained, eviction, .. } =
            shared.clone();
        let store = Rc::new(Store {
            dir: dir.index,
            path: dir.path,
            clock,
            disk,
            metrics,
            queue: glommio::executor().current_task_queue(),
            tail_memory,
            catch_up,
            side_thread,
            commit: RefCell::new(GroupCommit::new(ring, shared.unstored_max)),
            journal: journal.map(|(_, journal)| Rc::new(journal)),
            slots: RefCell::default(),
            replicas: RefCell::default(),
            eviction,
            drained,
            undurable_max: shared.undurable_max,
            unstored_max: shared.unstored_max,
            removals: RefCell::default(),
            offline: RefCell::new(None),
            on_failed: RefCell::new(None),
            on_damaged: RefCell::new(None),
            on_doubtful: RefCell::new(None),
            checkpoint: Cell::new(dir.generation),
            checkpoint_turn: Semaphore::new(1),
            closed: Cell::new(false),
            write_started: Cell::new(None),
            flush_timed: Cell::new(None),
        });
        store.catch_up.serves(&store);
        store
    }

    /// Counts what was found on disk and put right, or refused.
    pub fn recovered(&self, branch: RecoveryBranch) {
        self.metrics.borrow_mut().recovery.count(branch);
    }

    /// What became of a file that can be built again. Without space it is left out, `left_out` says so. Any
    /// other failure is final, as everywhere: a flush of a file or of its directory that fails says so once,
    /// and the next one, of a segment's name perhaps, would be believed although nothing of it is on disk.
    pub fn derived_written(&self, path: &Path, written: io::Result<()>, left_out: &'static str) {
        match unless_full(written) {
            Ok(None) => {}
            Ok(Some(error)) => tracing::warn!(directory = %path.display(), %error, "{left_out}"),
            Err(error) => self.fail(&format!("writing beside the segments of {}: {error}", path.display())),
        }
    }

    /// How the other shards are told that the directory has failed.
    pub fn on_failed(&self, told: OnFailed) {
        *self.on_failed.borrow_mut() = Some(told);
    }

    /// How the shard is told that a replica is damaged.
    pub fn on_damaged(&self, told: OnDamaged) {
        *self.on_damaged.borrow_mut() = Some(told);
    }

    /// How the shard is told that the end of a replica may be gone.
    pub fn on_doubtful(&self, told: OnDamaged) {
        *self.on_doubtful.borrow_mut() = Some(told);
    }

    /// Its end was cut where it is no batch: a write that was interrupted, or what was there is damaged.
    pub fn replica_doubtful(&self, id: TopicPartition) {
        if let Some(told) = &*self.on_doubtful.borrow() {
            told(id);
        }
    }

    /// What was read of a replica is not what was written.
    pub fn replica_damaged(&self, id: TopicPartition) {
        if let Some(told) = &*self.on_damaged.borrow() {
            told(id);
        }
    }

    /// The generation of the last checkpoint.
    pub fn checkpoint_generation(&self) -> CheckpointGeneration {
        self.checkpoint.get()
    }

    /// Of the next one.
    pub fn next_checkpoint_generation(&self) -> CheckpointGeneration {
        self.checkpoint.set(self.checkpoint.get().next());
        self.checkpoint.get()
    }

    /// Asks for a replica that is looked at soon.
    pub fn prefetch_replica(&self, partition: &TopicPartition) {
        if let Some(replica) = self.replicas.borrow().get(partition) {
            prefetch::<Replica>(replica);
        }
    }

    /// Asks for how far a partition has come.
    pub fn prefetch_progress(&self, slot: Slot) {
        self.commit.borrow().prefetch(slot);
    }

    pub fn find(&self, partition: &TopicPartition) -> Option<Rc<Replica>> {
        self.replicas.borrow().get(partition).cloned()
    }

    pub fn replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas.borrow().values().cloned().collect()
    }

    /// The first replicas from there on, in the order of their ids.
    pub fn replicas_from(&self, from: Bound<TopicPartition>, count: usize) -> VecDeque<Rc<Replica>> {
        let replicas = self.replicas.borrow();
        replicas.range(from).take(count).cloned().collect()
    }

    /// The first replicas of a topic.
    pub fn replicas_of(&self, topic: TopicId, count: usize) -> Vec<Rc<Replica>> {
        let replicas = self.replicas.borrow();
        replicas.of_topic(topic).take(count).cloned().collect()
    }

    pub fn replica_count(&self) -> usize {
        self.replicas.borrow().len()
    }

    /// Takes in a partition that is flushed up to `end`.
    pub fn open_slot(&self, end: Offset) -> StoreSlot {
        StoreSlot { dir: self.dir, slot: self.commit.borrow_mut().open(end) }
    }

    pub fn insert(&self, replica: Rc<Replica>) {
        let mut slots = self.slots.borrow_mut();
        let at = replica.slot.0 as usize;
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        slots[at] = Some(replica.clone());
        self.replicas.borrow_mut().insert(replica.id, replica);
    }

    /// The replica can no longer be found; its slot stays until [`release_slot`](Self::release_slot).
    pub fn remove(&self, partition: &TopicPartition) -> Option<Rc<Replica>> {
        self.replicas.borrow_mut().remove(partition)
    }

    /// Waits until nothing of the replica is in flight, then gives its slot free.
    pub async fn release_slot(self: &Rc<Self>, slot: Slot) {
        self.write_out(slot).await;
        if self.is_idle(slot) {
            self.commit.borrow_mut().close(slot);
            let replica = self.slots.borrow_mut()[slot.0 as usize].take();
            replica.iter().for_each(|replica| self.eviction.forget(replica));
        }
    }

    /// What a replica's acknowledgements wait for.
    pub fn set_durability(&self, slot: Slot, durability: Durability) {
        self.commit.borrow_mut().set_durability(slot, durability);
    }

    pub fn is_idle(&self, slot: Slot) -> bool {
        self.commit.borrow().is_idle(slot)
    }

    /// The log directory has failed; nothing is appended any more.
    pub fn is_offline(&self) -> bool {
        self.offline.borrow().is_some()
    }

    pub fn offline_reason(&self) -> Option<String> {
        self.offline.borrow().clone()
    }

    /// Takes no more appends: what the final state says of a log is its end. A request that a stop did
    /// not wait for is refused from here on.
    pub fn close(&self) {
        self.closed.set(true);
        self.replicas().iter().for_each(|replica| replica.ready.notify_all());
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Too much is appended and not flushed, or not in its segments while the memory for it is spent:
    /// nothing more is appended until [`drained`](Self::drained).
    pub fn is_full(&self) -> bool {
        if self.is_offline() {
            return false; // It refuses.
        }
        let commit = self.commit.borrow();
        let unstored = commit.unstored_bytes();
        // Many partitions spend it in buffers that are hardly filled.
        let is_spent = unstored > 0 && self.tail_memory.is_over() && self.eviction.is_empty();
        commit.undurable_bytes() > self.undurable_max || unstored > self.unstored_max || is_spent
    }

    /// What commits have not done yet, in words.
    pub fn outstanding(&self) -> String {
        self.commit.borrow().outstanding()
    }

    /// Appended and not flushed in its segment.
    pub fn unstored_bytes(&self) -> u64 {
        self.commit.borrow().unstored_bytes()
    }

    /// Everything goes to its segment from here on.
    pub fn write_all_out(self: &Rc<Self>) {
        self.commit.borrow_mut().drain();
        self.pump();
    }

    /// Waits until everything of a replica is flushed in its segments, or the log directory failed.
    pub async fn write_out(self: &Rc<Self>, slot: Slot) {
        while !self.is_idle(slot) && !self.is_offline() {
            self.request_write_out(slot);
            self.pump();
            // Where nothing waits for the disk, all of it has happened by now.
            if !self.is_idle(slot) && !self.is_offline() {
                self.drained.notified().await;
            }
        }
    }

    #[cfg(test)]
    pub fn has_journal_room(&self) -> bool {
        self.commit.borrow().has_journal_room()
    }

    /// What a replica has now goes to its segments soon.
    pub fn request_write_out(&self, slot: Slot) {
        self.commit.borrow_mut().write_out(slot);
    }

    pub fn appended(&self, slot: Slot, end: Offset, size: u64) {
        self.commit.borrow_mut().appended(slot, end, size);
    }

    /// Issues every write and flush that is due. Called once after a run of appends, and whenever
    /// the disk has answered.
    pub fn pump(self: &Rc<Self>) {
        let is_short = !self.tail_memory.has_room(TAIL_BUFFER_SIZE_MAX) && self.eviction.is_short();
        self.commit.borrow_mut().set_memory_short(is_short);
        let deadline = self.commit.borrow_mut().flush_deadline(self.clock.mono());
        if let Some(deadline) = deadline {
            self.flush_by(deadline);
        }
        self.issue_writes();
        if let Some(journal) = &self.journal {
            self.pump_journal(journal);
            self.issue_writes(); // What a tick has just taken can be written out.
        }
        let flush = self.commit.borrow_mut().next_flush();
        if let Some(plan) = flush {
            self.spawn(self.clone().flush(plan));
        }
    }

    /// Pumps again when a flush is due that nothing else asks for.
    fn flush_by(self: &Rc<Self>, deadline: Mono) {
        if self.flush_timed.get().is_some_and(|timed| timed <= deadline) {
            return;
        }
        self.flush_timed.set(Some(deadline));
        let store = self.clone();
        self.spawn(async move {
            glommio::timer::sleep(deadline.since(store.clock.mono())).await;
            if store.flush_timed.get() == Some(deadline) {
                store.flush_timed.set(None);
            }
            store.pump();
        });
    }

    fn issue_writes(self: &Rc<Self>) {
        loop {
            let plan = self.commit.borrow_mut().next_write();
            let Some(plan) = plan else { break };
            let replica = self.slot(plan.slot);
            let mut blocks = Vec::new();
            replica.seal_for_write(self, plan.end, &mut blocks);
            self.catch_up.commit_started();
            self.commit_started(replica.log.borrow().config.durability);
            self.spawn(self.clone().write(plan, replica, blocks));
        }
    }

    fn commit_started(&self, durability: Durability) {
        if durability == Durability::Fsync && self.write_started.get().is_none() {
            self.write_started.set(Some(self.clock.mono()));
        }
    }

    fn pump_journal(self: &Rc<Self>, journal: &Rc<Journal>) {
        self.issue_changes(journal);
        self.issue_records(journal);
        loop {
            let plan = self.commit.borrow_mut().next_tick();
            let Some(plan) = plan else { break };
            if !self.tick(journal, &plan) {
                break;
            }
        }
        let mark = self.commit.borrow_mut().next_mark();
        let statement = self.commit.borrow_mut().next_statement();
        for place in mark.into_iter().chain(statement) {
            self.write_block(journal, place, &PackedBlock::default(), &[]);
        }
        let flush = self.commit.borrow_mut().next_journal_flush();
        if let Some(flush) = flush {
            self.spawn(self.clone().flush_journal(journal.clone(), flush));
        }
        let file = self.commit.borrow_mut().next_journal_file();
        if let Some(file) = file {
            self.spawn(self.clone().make_journal_file(journal.clone(), file));
        }
    }

    /// Issues what small appends have gathered. `false` when the journal has no room.
    fn tick(self: &Rc<Self>, journal: &Rc<Journal>, plan: &TickPlan) -> bool {
        let mut items: Vec<(usize, TickItem)> = Vec::with_capacity(plan.entries.len());
        let mut of_entry = Vec::with_capacity(1);
        self.prefetch_slots(plan.entries.iter().take(AHEAD).map(|entry| entry.slot));
        let replicas = plan.entries.iter().enumerate().map(|(at, entry)| {
            self.prefetch_slots(plan.entries.get(at + AHEAD).map(|entry| entry.slot));
            self.slot(entry.slot)
        });
        let replicas: Vec<Rc<Replica>> = replicas.collect();
        for (at, (entry, replica)) in plan.entries.iter().zip(&replicas).enumerate() {
            replica.tick_items(entry.end, &mut of_entry);
            items.extend(of_entry.drain(..).map(|item| (at, item)));
        }
        let blocks = pack(items.iter().map(|(_, item)| item.size()));
        let entries: Vec<usize> = items.iter().map(|(at, _)| *at).collect();
        let places = self.commit.borrow_mut().begin_tick(plan, &entries, &blocks);
        let Some(places) = places else {
            return false; // Write-outs begin; the next answer of the disk comes back here.
        };
        self.catch_up.commit_started();
        replicas.iter().for_each(|replica| self.commit_started(replica.log.borrow().config.durability));
        let items: Vec<(Rc<Replica>, TickItem)> =
            items.into_iter().map(|(at, item)| (replicas[at].clone(), item)).collect();
        for (block, place) in blocks.iter().zip(places) {
            self.write_block(journal, place, block, &items);
        }
        for (entry, replica) in plan.entries.iter().zip(&replicas) {
            replica.seal_for_tick(entry.end);
        }
        true
    }

    /// Asks for replicas that are looked at soon.
    fn prefetch_slots(&self, slots: impl IntoIterator<Item = Slot>) {
        let replicas = self.slots.borrow();
        for slot in slots {
            if let Some(Some(replica)) = replicas.get(slot.0 as usize) {
                prefetch::<Replica>(replica);
            }
        }
    }

    fn slot(&self, slot: Slot) -> Rc<Replica> {
        let replica = self.slots.borrow()[slot.0 as usize].clone();
        replica.expect("a replica with appends has its slot")
    }

    /// Fills a block and issues its write. One copy of the bytes.
    fn write_block(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        place: BlockPlace,
        block: &PackedBlock,
        items: &[(Rc<Replica>, TickItem)],
    ) {
        let (mut buffer, _) = allocate(block.size());
        let mut writer = BlockWriter::new(buffer.as_bytes_mut(), block.parts.len());
        for (at, part) in block.parts.iter().enumerate() {
            if let Some(next) = block.parts.get(at + AHEAD / 2) {
                items[next.item].0.prefetch_last(next.part.len());
            }
            let (replica, item) = &items[part.item];
            item.write(replica, part, &mut writer);
        }
        writer.finish(&place.header);
        self.issue_block(journal, place, buffer);
    }

    fn issue_block(self: &Rc<Self>, journal: &Rc<Journal>, place: BlockPlace, buffer: DmaBuffer) {
        let (store, journal) = (self.clone(), journal.clone());
        self.spawn(async move {
            let size = buffer.len() as u64;
            match journal.write(&place, Rc::new(buffer)).await {
                Ok(()) => {
                    let mut metrics = store.metrics.borrow_mut();
                    metrics.commit_bytes.record(size);
                    metrics.disk_written_bytes += size;
                    drop(metrics);
                    store.commit.borrow_mut().block_written(place.header.sequence);
                    store.advance_written();
                    store.pump();
                }
                Err(error) => store.fail(&format!("writing the journal: {error}")),
            }
        });
    }

    async fn flush_journal(self: Rc<Self>, journal: Rc<Journal>, flush: JournalFlush) {
        let started = self.clock.mono();
        let write_started = self.write_started.take().unwrap_or(started);
        if let Err(error) = journal.flush(&flush).await {
            return self.fail(&format!("flushing the journal: {error}"));
        }
        self.record_flush(started, write_started);
        let mut advances: Vec<Advance> = Vec::new();
        self.commit.borrow_mut().journal_flushed(&flush, &mut advances);
        self.advance(&advances, &[]);
    }

    async fn make_journal_file(self: Rc<Self>, journal: Rc<Journal>, file: FileIndex) {
        match journal.make_file(file).await {
            Ok(()) => self.commit.borrow_mut().journal_file_made(file, true),
            Err(error) if is_full_disk(&error) => {
                tracing::warn!(%error, "no space for a journal file; what it would hold goes to the segments");
                glommio::timer::sleep(NO_SPACE_RETRY).await;
                self.commit.borrow_mut().journal_file_made(file, false);
            }
            Err(error) => return self.fail(&format!("making a journal file: {error}")),
        }
        self.pump();
    }

    async fn write(self: Rc<Self>, plan: WritePlan, replica: Rc<Replica>, blocks: Vec<Rc<TailBlock>>) {
        let size: usize = blocks.iter().map(|block| block.buffer.len()).sum();
        match replica.write_blocks(&self, blocks).await {
            Ok(segments) => {
                let mut metrics = self.metrics.borrow_mut();
                metrics.commit_bytes.record(plan.size);
                metrics.disk_written_bytes += size as u64;
                drop(metrics);
                self.commit.borrow_mut().wrote(&plan, &segments);
                self.advance_written();
                self.pump();
            }
            Err(error) => self.fail(&format!("writing {}: {error}", replica.directory.display())),
        }
    }

    async fn flush(self: Rc<Self>, plan: FlushPlan) {
        let started = self.clock.mono();
        let write_started = self.write_started.take().unwrap_or(started);
        if let Err(error) = self.flush_files(&plan).await {
            self.fail(&format!("flushing: {error}"));
            return;
        }
        self.record_flush(started, write_started);
        let mut advances: Vec<Advance> = Vec::with_capacity(plan.entries.len());
        let mut stored: Vec<Stored> = Vec::with_capacity(plan.entries.len());
        self.commit.borrow_mut().flushed(&plan, &mut advances, &mut stored);
        self.advance(&advances, &stored);
    }

    fn record_flush(&self, started: Mono, write_started: Mono) {
        let now = self.clock.mono();
        let mut metrics = self.metrics.borrow_mut();
        metrics.flush_latency_us.record_duration(now.since(started));
        metrics.commit_latency_us.record_duration(now.since(write_started));
    }

    /// Tells the replicas whose acknowledgements wait for writes only what a write has done for them.
    fn advance_written(&self) {
        let mut advances: Vec<Advance> = Vec::new();
        self.commit.borrow_mut().written(&mut advances);
        for advance in &advances {
            self.slot(advance.slot).advance(advance.durable_end);
        }
        if !advances.is_empty() {
            self.drained.notify_all();
        }
    }

    /// Tells the replicas what a flush has done for them, then goes on.
    fn advance(self: &Rc<Self>, advances: &[Advance], stored: &[Stored]) {
        self.prefetch_slots(advances.iter().take(AHEAD).map(|advance| advance.slot));
        for (at, advance) in advances.iter().enumerate() {
            self.prefetch_slots(advances.get(at + AHEAD).map(|advance| advance.slot));
            let replica = self.slots.borrow()[advance.slot.0 as usize].clone();
            if let Some(replica) = replica {
                replica.advance(advance.durable_end);
            }
        }
        for stored in stored {
            let replica = self.slots.borrow()[stored.slot.0 as usize].clone();
            if let Some(replica) = replica {
                let count = replica.stored(stored.stored_end);
                self.eviction.blocks_stored(&replica, count);
            }
        }
        self.drained.notify_all();
        self.pump();
    }

    async fn flush_files(&self, plan: &FlushPlan) -> io::Result<()> {
        let mut files: Vec<(Rc<Replica>, Offset)> = Vec::with_capacity(plan.file_count());
        for entry in &plan.entries {
            let replica = self.slots.borrow()[entry.slot.0 as usize].clone();
            let replica = replica.expect("a replica with unflushed writes has its slot");
            files.extend(entry.segments.iter().map(|segment| (replica.clone(), *segment)));
        }
        if plan.method(self.disk.sync_fs()) == FlushMethod::FileSystem {
            for (replica, segment) in &files {
                if let Some(file) = replica.written_file(self, *segment).await? {
                    return self.disk.sync_file_system(&file).await;
                }
            }
            return Ok(());
        }
        // One that was closed meanwhile is opened again: a flush is of the file, whoever wrote to it.
        let flushes = files.iter().map(|(replica, segment)| {
            Ok(async {
                match replica.written_file(self, *segment).await? {
                    Some(file) => file.flush().await,
                    None => Ok(()),
                }
            })
        });
        stream::iter(flushes).try_buffer_unordered(FILE_FLUSHES_IN_FLIGHT_MAX).try_collect().await
    }

    /// Removes what has its last name already, after `delay`.
    pub fn remove_later(&self, removal: Removal, delay: Duration) {
        let due = self.clock.mono().after(delay);
        self.removals.borrow_mut().wait(due, removal);
    }

    /// Removes what is due, one after the other. What fails is tried again by the next start, which
    /// knows it by its name.
    pub async fn remove_due(&self) {
        let remover = Remover::new(&self.side_thread);
        loop {
            let next = self.removals.borrow_mut().take(self.clock.mono());
            let Some(removal) = next else { return };
            if let Err(error) = remover.remove(removal).await {
                tracing::warn!(%error, "deleted data is removed at the next start");
            }
        }
    }

    /// Takes the log directory offline, on every shard: a failed write or flush is never tried again.
    pub fn fail(&self, reason: &str) {
        if self.is_offline() {
            return;
        }
        let directory = self.path.display();
        tracing::error!(%directory, reason, "the log directory is offline; produce is refused, reads go on");
        self.go_offline(reason);
        if let Some(told) = &*self.on_failed.borrow() {
            told(reason);
        }
    }

    /// It has failed on another shard, or at the start.
    pub fn go_offline(&self, reason: &str) {
        if self.is_offline() {
            return;
        }
        *self.offline.borrow_mut() = Some(reason.to_owned());
        self.commit.borrow_mut().fail();
        for replica in self.replicas() {
            replica.refuse_parked(ErrorCode::KafkaStorageError);
        }
        self.drained.notify_all();
    }
}
