//! The engine's decisions carried out on the simulated disk: what `odradek::shard` does over the ring,
//! without sockets and without memory that is worth saving.
//!
//! | here | there |
//! |---|---|
//! | [`Shell`]: pumps writes, ticks and flushes | `shard::store` |
//! | [`replica`]: appends, seals, finishes rolls, moves log starts | `shard::replica`, `shard::segments` |
//! | [`tail`] | `shard::tail` |
//! | [`reading`] | `shard::reader` |
//! | [`background`]: checkpoints, retention, the final state | `shard::background` |
//! | [`start`], [`replay`], [`open`] | `shard::executor`, `shard::journal_replay`, `shard::open` |
//!
//! Which flush covers which write, when an answer leaves, where a block goes, what a start believes:
//! all of it is asked of `odradek::log`.

pub mod background;
pub mod open;
pub mod reading;
pub mod replay;
pub mod replica;
pub mod start;
pub mod tail;

use crate::disk::{Disk, DiskError, DiskResult, OpenFile};
use crate::model::{Ledger, Model};
use crate::settings::{Mistake, Settings};
use crate::shell::replica::{Replica, TickItem};
use crate::shell::tail::TailWrite;
use crate::world::{Signal, Turn, World};
use futures::future::try_join_all;
use odradek::log::checkpoint::{CheckpointGeneration, PartitionPoint};
use odradek::log::commit::{Advance, GroupCommit, Stored};
use odradek::log::journal::block::{BlockSequence, BlockWriter, FileEpoch};
use odradek::log::journal::pack::{PackedBlock, pack_into};
use odradek::log::journal::ring::{BlockPlace, FileIndex, JournalFlush, JournalRing};
use odradek::log::plan::{FlushMethod, FlushPlan, Slot, SyncFs, TickPlan, WritePlan};
use odradek::types::limits::IO_ALIGNMENT;
use odradek::types::{ShardId, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The one shard.
pub const SHARD: ShardId = ShardId(0);

/// A journal file that found no space is asked for again after this long, microseconds.
pub const NO_SPACE_RETRY: u64 = 100_000;

/// A journal file that does not have its size yet.
const MAKING: &str = "next.journal.making";

/// Lives: from a start to the next stop or crash.
pub struct Shell {
    pub world: Rc<World>,
    pub disk: Rc<Disk>,
    pub settings: Settings,
    pub model: Rc<RefCell<Model>>,
    pub ledger: Rc<RefCell<Ledger>>,
    commit: RefCell<GroupCommit>,
    journal_files: RefCell<Vec<OpenFile>>,
    slots: RefCell<Vec<Option<Rc<Replica>>>>,
    pub replicas: RefCell<BTreeMap<TopicPartition, Rc<Replica>>>,
    /// What the last checkpoint says of partitions that could not be opened.
    pub unavailable: RefCell<BTreeMap<TopicPartition, Option<PartitionPoint>>>,
    pub generation: Cell<CheckpointGeneration>,
    checkpoint_turn: Turn,
    /// After every flush: unflushed bytes have become fewer.
    pub drained: Signal,
    offline: RefCell<Option<String>>,
    closed: Cell<bool>,
}

impl Shell {
    pub fn new(
        world: Rc<World>,
        disk: Rc<Disk>,
        settings: Settings,
        model: Rc<RefCell<Model>>,
        ledger: Rc<RefCell<Ledger>>,
    ) -> Rc<Shell> {
        let ring = |limits| JournalRing::new(SHARD, limits, BlockSequence(1), FileEpoch(0));
        let ring = settings.journal.map(ring);
        Rc::new(Shell {
            world,
            disk,
            settings,
            model,
            ledger,
            commit: RefCell::new(GroupCommit::with_sizes(ring, settings.unstored_max, settings.sizes)),
            journal_files: RefCell::default(),
            slots: RefCell::default(),
            replicas: RefCell::default(),
            unavailable: RefCell::default(),
            generation: Cell::default(),
            checkpoint_turn: Turn::default(),
            drained: Signal::default(),
            offline: RefCell::new(None),
            closed: Cell::new(false),
        })
    }

    pub fn open_slot(&self, end: odradek::types::Offset) -> Slot {
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

    pub fn all_replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas.borrow().values().cloned().collect()
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

    pub fn is_idle(&self, slot: Slot) -> bool {
        self.commit.borrow().is_idle(slot)
    }

    pub fn appended(&self, slot: Slot, end: odradek::types::Offset, size: u64) {
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

    /// Issues every write and flush that is due. Called after appends, and whenever the disk has
    /// answered.
    pub fn pump(self: &Rc<Self>) {
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
                self.pump();
            }
            Err(error) => self.fail(&format!("writing {}: {error:?}", replica.name)),
        }
    }

    async fn flush(self: Rc<Self>, plan: FlushPlan) {
        if let Err(error) = self.flush_files(&plan).await {
            return self.fail(&format!("flushing: {error:?}"));
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

    /// Tells the replicas what a flush has done for them, then goes on.
    fn advance(self: &Rc<Self>, advances: &[Advance], stored: &[Stored]) {
        for advance in advances {
            self.slot(advance.slot).advance(self, advance.durable_end);
        }
        for stored in stored {
            self.slot(stored.slot).stored(stored.stored_end);
        }
        self.drained.notify();
        self.pump();
    }

    fn pump_journal(self: &Rc<Self>) {
        loop {
            let plan = self.commit.borrow_mut().next_tick();
            let Some(plan) = plan else { break };
            if !self.tick(&plan) {
                break;
            }
        }
        let mark = self.commit.borrow_mut().next_mark();
        if let Some(place) = mark {
            self.world.count("journal: mark without entries");
            self.write_block(place, &PackedBlock::default(), &[]);
        }
        let flush = self.commit.borrow_mut().next_journal_flush();
        if let Some(flush) = flush {
            self.world.spawn(self.clone().flush_journal(flush));
        }
        let file = self.commit.borrow_mut().next_journal_file();
        if let Some(file) = file {
            self.world.spawn(self.clone().make_journal_file(file));
        }
    }

    /// Issues what small appends have gathered. `false` when the journal has no room.
    fn tick(self: &Rc<Self>, plan: &TickPlan) -> bool {
        let mut items: Vec<(Rc<Replica>, TickItem)> = Vec::new();
        let mut entries: Vec<usize> = Vec::new();
        let replicas: Vec<Rc<Replica>> = plan.entries.iter().map(|entry| self.slot(entry.slot)).collect();
        for (at, (entry, replica)) in plan.entries.iter().zip(&replicas).enumerate() {
            for item in replica.tick_items(entry.end) {
                items.push((replica.clone(), item));
                entries.push(at);
            }
        }
        let sizes = items.iter().map(|(_, item)| item.size());
        let blocks = pack_into(sizes, self.settings.sizes.block_max as usize);
        let places = self.commit.borrow_mut().begin_tick(plan, &entries, &blocks);
        let Some(places) = places else {
            self.world.count("journal: no room");
            return false;
        };
        self.world.count("journal: tick");
        for (block, place) in blocks.iter().zip(places) {
            self.write_block(place, block, &items);
        }
        for (entry, replica) in plan.entries.iter().zip(&replicas) {
            replica.seal_for_tick(entry.end);
        }
        true
    }

    fn write_block(
        self: &Rc<Self>,
        place: BlockPlace,
        block: &PackedBlock,
        items: &[(Rc<Replica>, TickItem)],
    ) {
        let mut bytes = vec![0; block.size().max(IO_ALIGNMENT)];
        let mut writer = BlockWriter::new(&mut bytes, block.parts.len());
        for part in &block.parts {
            let (replica, item) = &items[part.item];
            item.write(replica, part, &mut writer);
        }
        writer.finish(&place.header);
        let sequence = place.header.sequence;
        self.world.note(format_args!(
            "block {} at {} of file {}, needed {}",
            sequence.0, place.header.position, place.file.0, place.header.needed.0
        ));
        if place.header.position == 0 && self.ledger.borrow().has_blocks_in(place.file) {
            self.world.count("journal: file used again");
        }
        self.ledger.borrow_mut().issued(place, bytes.len());
        let across_gap = self.settings.makes(Mistake::AcknowledgedAcrossGap);
        if across_gap {
            self.commit.borrow_mut().block_written(sequence);
        }
        let shell = self.clone();
        self.world.spawn(async move {
            let file = shell.journal_files.borrow()[place.file.0 as usize].clone();
            match file.write(place.header.position, &bytes).await {
                Ok(()) => {
                    if !across_gap {
                        shell.commit.borrow_mut().block_written(sequence);
                    }
                    shell.pump();
                }
                Err(error) => shell.fail(&format!("writing the journal: {error:?}")),
            }
        });
    }

    async fn flush_journal(self: Rc<Self>, flush: JournalFlush) {
        for file in &flush.files {
            let file = self.journal_files.borrow()[file.0 as usize].clone();
            if let Err(error) = self.flush_file(&file).await {
                return self.fail(&format!("flushing the journal: {error:?}"));
            }
        }
        self.ledger.borrow_mut().flushed(flush.through);
        let mut advances: Vec<Advance> = Vec::new();
        self.commit.borrow_mut().journal_flushed(&flush, &mut advances);
        self.advance(&advances, &[]);
    }

    async fn make_journal_file(self: Rc<Self>, file: FileIndex) {
        match self.try_make_journal_file(file).await {
            Ok(made) => {
                self.journal_files.borrow_mut().push(made);
                self.commit.borrow_mut().journal_file_made(file, true);
            }
            Err(DiskError::Full) => {
                self.world.count("journal: no space for a file");
                self.world.sleep(NO_SPACE_RETRY).await;
                self.commit.borrow_mut().journal_file_made(file, false);
            }
            Err(error) => return self.fail(&format!("making a journal file: {error:?}")),
        }
        self.pump();
    }

    async fn try_make_journal_file(&self, file: FileIndex) -> DiskResult<OpenFile> {
        let limits = self.settings.journal.expect("there is a journal");
        let directory = start::journal_directory();
        self.disk.make_directory(&directory).await?;
        let making = format!("{directory}/{MAKING}");
        let made = self.disk.open(&making, true).await?;
        made.allocate(limits.file_size).await?;
        made.write(0, &vec![0; limits.file_size as usize]).await?;
        made.flush().await?;
        self.disk.rename(&making, &format!("{directory}/{}", start::journal_file(file))).await?;
        self.disk.sync_directory(&directory).await?;
        Ok(made)
    }
}
