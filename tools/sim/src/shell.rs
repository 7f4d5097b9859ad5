//! The engine's decisions carried out on the simulated disk: what `odradek::shard` does over the ring,
//! without sockets and without memory that is worth saving.
//!
//! | here | there |
//! |---|---|
//! | [`Shell`]: pumps writes, ticks and flushes | `shard::store` |
//! | [`journal`]: its files, changes of logs through it | `shard::journal`, `shard::store::changes` |
//! | [`replica`]: appends, seals, finishes rolls, moves log starts | `shard::replica`, `shard::segments` |
//! | [`tail`] | `shard::tail` |
//! | [`reading`] | `shard::reader` |
//! | [`background`]: checkpoints, retention, the final state | `shard::background` |
//! | [`compaction`], [`deletion`] | `shard::compaction`, `shard::partitions` |
//! | [`cutting`] | `shard::replication::cutting` |
//! | [`start`], [`replay`], [`open`] | `shard::executor`, `shard::journal_replay`, `shard::open` |
//!
//! Which flush covers which write, when an answer leaves, where a block goes, what a start believes:
//! all of it is asked of `odradek::log`.

pub mod background;
pub mod compaction;
pub mod cutting;
pub mod deletion;
pub mod doubts;
pub mod journal;
pub mod open;
pub mod reading;
pub mod replay;
pub mod replica;
pub mod start;
pub mod tail;

use crate::disk::{Disk, DiskError, DiskResult, OpenFile};
use crate::ledger::Ledger;
use crate::metadata::Metadata;
use crate::model::Model;
use crate::settings::{Mistake, Settings};
use crate::shell::compaction::Cleaned;
use crate::shell::replica::Replica;
use crate::shell::tail::TailWrite;
use crate::world::{Signal, Turn, World};
use futures::future::try_join_all;
use odradek::log::checkpoint::{CheckpointGeneration, PartitionPoint};
use odradek::log::commit::{Advance, GroupCommit, Stored};
use odradek::log::plan::{FlushMethod, FlushPlan, Slot, SyncFs, WritePlan};
use odradek::types::{Mono, Offset, ShardId, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A journal file that found no space is asked for again after this long, microseconds.
pub const NO_SPACE_RETRY: u64 = 100_000;

/// What all shards of a run share.
#[derive(Clone)]
pub struct Surroundings {
    pub world: Rc<World>,
    pub disk: Rc<Disk>,
    pub settings: Settings,
    pub metadata: Rc<RefCell<Metadata>>,
    pub model: Rc<RefCell<Model>>,
    pub ledger: Rc<RefCell<Ledger>>,
}

/// Lives: one per shard, from a start to the next stop or crash.
pub struct Shell {
    pub shard: ShardId,
    pub world: Rc<World>,
    pub disk: Rc<Disk>,
    pub settings: Settings,
    pub metadata: Rc<RefCell<Metadata>>,
    pub model: Rc<RefCell<Model>>,
    pub ledger: Rc<RefCell<Ledger>>,
    commit: RefCell<GroupCommit>,
    journal_files: RefCell<Vec<OpenFile>>,
    slots: RefCell<Vec<Option<Rc<Replica>>>>,
    pub replicas: RefCell<BTreeMap<TopicPartition, Rc<Replica>>>,
    /// What the last checkpoint says of partitions that could not be opened.
    pub unavailable: RefCell<BTreeMap<TopicPartition, Option<PartitionPoint>>>,
    /// Partitions of which a start cannot tell that it has found all that they had.
    pub doubtful: RefCell<BTreeSet<TopicPartition>>,
    pub generation: Cell<CheckpointGeneration>,
    checkpoint_turn: Turn,
    /// Files that name partitions are changed one after the other.
    naming: Turn,
    retaining: Turn,
    /// The shard's helper thread, for what two tasks may write at a time: files beside a segment.
    helper: Turn,
    /// After every flush: unflushed bytes have become fewer.
    pub drained: Signal,
    offline: RefCell<Option<String>>,
    closed: Cell<bool>,
    /// Until when a task sleeps that looks for a due flush that nobody waits for.
    flush_timed: Cell<Option<Mono>>,
    cleaned: Cleaned,
}

impl Shell {
    pub fn new(shard: ShardId, around: &Surroundings) -> Rc<Shell> {
        let Surroundings { world, disk, settings, metadata, model, ledger } = around.clone();
        Rc::new(Shell {
            shard,
            world,
            disk,
            settings,
            metadata,
            model,
            ledger,
            commit: RefCell::new(GroupCommit::with_sizes(None, settings.unstored_max, settings.sizes)),
            journal_files: RefCell::default(),
            slots: RefCell::default(),
            replicas: RefCell::default(),
            unavailable: RefCell::default(),
            doubtful: RefCell::default(),
            generation: Cell::default(),
            checkpoint_turn: Turn::default(),
            naming: Turn::default(),
            retaining: Turn::default(),
            helper: Turn::default(),
            drained: Signal::default(),
            offline: RefCell::new(None),
            closed: Cell::new(false),
            flush_timed: Cell::new(None),
            cleaned: Cleaned::default(),
        })
    }

    pub fn open_slot(&self, end: Offset) -> Slot {
        self.commit.borrow_mut().open(end)
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

    pub fn find(&self, partition: &TopicPartition) -> Option<Rc<Replica>> {
        self.replicas.borrow().get(partition).cloned()
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
            self.slots.borrow_mut()[slot.0 as usize] = None;
        }
    }

    pub fn all_replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas.borrow().values().cloned().collect()
    }

    /// What a replica's acknowledgements wait for.
    pub fn set_durability(&self, slot: Slot, durability: odradek::log::durability::Durability) {
        self.commit.borrow_mut().set_durability(slot, durability);
    }

    pub fn is_offline(&self) -> bool {
        self.offline.borrow().is_some()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub fn close(&self) {
        self.closed.set(true);
        self.all_replicas().iter().for_each(|replica| replica.ready.notify());
    }

    /// Producers are to wait for [`drained`](Self::drained).
    pub fn is_full(&self) -> bool {
        let commit = self.commit.borrow();
        commit.undurable_bytes() > self.settings.undurable_max
            || commit.unstored_bytes() > self.settings.unstored_max
    }

    pub fn unstored_bytes(&self) -> u64 {
        self.commit.borrow().unstored_bytes()
    }

    pub fn write_all_out(self: &Rc<Self>) {
        self.commit.borrow_mut().drain();
        self.pump();
    }

    pub fn request_write_out(&self, slot: Slot) {
        self.commit.borrow_mut().write_out(slot);
    }

    /// Waits until everything of a replica is flushed in its segments, or the log directory failed.
    pub async fn write_out(self: &Rc<Self>, slot: Slot) {
        while !self.is_idle(slot) && !self.is_offline() {
            self.request_write_out(slot);
            self.pump();
            if !self.is_idle(slot) && !self.is_offline() {
                self.drained.notified().await;
            }
        }
    }

    pub fn is_idle(&self, slot: Slot) -> bool {
        self.commit.borrow().is_idle(slot)
    }

    pub fn appended(&self, slot: Slot, end: Offset, size: u64) {
        self.commit.borrow_mut().appended(slot, end, size);
    }

    pub fn set_memory_short(&self, short: bool) {
        self.commit.borrow_mut().set_memory_short(short);
    }

    /// Takes the log directory offline: a failed write or flush is never tried again.
    pub fn fail(&self, reason: &str) {
        if self.offline.borrow().is_some() {
            return;
        }
        self.world.note(format_args!("offline: {reason}"));
        self.world.count("log directory offline");
        *self.offline.borrow_mut() = Some(reason.to_owned());
        self.commit.borrow_mut().fail();
        for replica in self.all_replicas() {
            replica.refuse_parked();
        }
        self.drained.notify();
    }

    /// The same after an operation on the disk, which a want of space must not come to: what finds none is
    /// refused, left out or tried again.
    pub fn failed(&self, doing: std::fmt::Arguments<'_>, error: DiskError) {
        // What waited for space gives up once the directory is offline for another reason.
        if error.is_full() && !self.is_closed() && !self.is_offline() {
            self.world.finding("a full disk takes no log directory offline", doing);
        }
        self.fail(&format!("{doing}: {error:?}"));
    }

    /// Issues every write and flush that is due. Called after appends, and whenever the disk has
    /// answered.
    pub fn pump(self: &Rc<Self>) {
        let deadline = self.commit.borrow_mut().flush_deadline(self.mono());
        if let Some(deadline) = deadline {
            self.flush_by(deadline);
        }
        self.issue_writes();
        if self.settings.journal.is_some() {
            self.pump_journal();
            self.issue_writes(); // What a tick has just taken can be written out.
        }
        let flush = self.commit.borrow_mut().next_flush();
        if let Some(plan) = flush {
            self.world.spawn(self.clone().flush(plan));
        }
    }

    fn mono(&self) -> Mono {
        Mono(self.world.now() * 1000)
    }

    /// Pumps again when a flush is due that nothing else asks for.
    fn flush_by(self: &Rc<Self>, deadline: Mono) {
        if self.flush_timed.get().is_some_and(|timed| timed <= deadline) {
            return;
        }
        self.flush_timed.set(Some(deadline));
        let shell = self.clone();
        self.world.spawn(async move {
            let wait = deadline.since(shell.mono()).as_micros() as u64;
            shell.world.sleep(wait + 1).await;
            if shell.flush_timed.get() == Some(deadline) {
                shell.flush_timed.set(None);
            }
            shell.pump();
        });
    }

    fn issue_writes(self: &Rc<Self>) {
        loop {
            let plan = self.commit.borrow_mut().next_write();
            let Some(plan) = plan else { break };
            let replica = self.slot(plan.slot);
            let writes = replica.seal_for_write(plan.end, self.settings.sizes.block_max);
            self.world.note(format_args!("write {} to {}", replica.name, plan.end));
            self.world.spawn(self.clone().write(plan, replica, writes));
        }
    }

    fn slot(&self, slot: Slot) -> Rc<Replica> {
        let replica = self.slots.borrow()[slot.0 as usize].clone();
        replica.expect("a replica with appends has its slot")
    }

    async fn write(self: Rc<Self>, plan: WritePlan, replica: Rc<Replica>, writes: Vec<TailWrite>) {
        match replica.write(&self, writes).await {
            Ok(segments) => {
                self.commit.borrow_mut().wrote(&plan, &segments);
                self.advance_written();
                self.pump();
            }
            Err(error) => self.failed(format_args!("writing {}", replica.name), error),
        }
    }

    async fn flush(self: Rc<Self>, plan: FlushPlan) {
        if let Err(error) = self.flush_files(&plan).await {
            return self.failed(format_args!("flushing"), error);
        }
        let mut advances: Vec<Advance> = Vec::new();
        let mut stored: Vec<Stored> = Vec::new();
        self.commit.borrow_mut().flushed(&plan, &mut advances, &mut stored);
        self.advance(&advances, &stored);
    }

    async fn flush_files(&self, plan: &FlushPlan) -> DiskResult<()> {
        if self.settings.makes(Mistake::RecycledBeforeStored) {
            return Ok(());
        }
        let mut files: Vec<OpenFile> = Vec::new();
        for entry in &plan.entries {
            let replica = self.slot(entry.slot);
            files.extend(entry.segments.iter().filter_map(|segment| replica.written_file(*segment)));
        }
        match plan.method(self.settings.sync_fs) {
            FlushMethod::FileSystem => {
                let Some(file) = files.first() else { return Ok(()) };
                self.world.count("flush: of the file system");
                if self.settings.makes(Mistake::FlushLeftOut) {
                    return Ok(());
                }
                self.disk.sync_file_system().await?;
                if self.settings.sync_fs == SyncFs::Metadata {
                    file.flush().await?;
                }
                Ok(())
            }
            FlushMethod::Files => {
                let flushes = files.iter().map(|file| self.flush_file(file));
                try_join_all(flushes).await.map(drop)
            }
        }
    }

    /// Every flush of what was appended comes through here.
    pub async fn flush_file(&self, file: &OpenFile) -> DiskResult<()> {
        if self.settings.makes(Mistake::FlushLeftOut) {
            return Ok(());
        }
        file.flush().await
    }

    /// Tells the replicas whose acknowledgements wait for writes only what a write has done for them.
    fn advance_written(&self) {
        let mut advances: Vec<Advance> = Vec::new();
        self.commit.borrow_mut().written(&mut advances);
        for advance in &advances {
            self.world.count("acknowledged before a flush");
            self.slot(advance.slot).advance(self, advance.durable_end);
        }
        if !advances.is_empty() {
            self.drained.notify();
        }
    }

    /// Tells the replicas what a flush has done for them, then goes on.
    fn advance(self: &Rc<Self>, advances: &[Advance], stored: &[Stored]) {
        let slot = |slot: Slot| self.slots.borrow()[slot.0 as usize].clone();
        for advance in advances {
            if let Some(replica) = slot(advance.slot) {
                replica.advance(self, advance.durable_end);
            }
        }
        for stored in stored {
            if let Some(replica) = slot(stored.slot) {
                replica.stored(stored.stored_end);
                if !replica.is_deleted() {
                    self.model.borrow_mut().stored(&replica.id, stored.stored_end);
                }
            }
        }
        self.drained.notify();
        self.pump();
    }
}
