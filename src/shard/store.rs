//! The replicas of one shard and their common commit: carries out what `log::commit` decides.
//!
//! ```text
//! append ─► tail buffers ─► pump ─► write task (one per partition) ─┐
//!                            ▲                                     ▼
//!                            └──── flush task (one per shard) ◄─ written
//!                                        └─► advance: acks leave, readers wake
//! ```
//!
//! Knows no sockets and no requests: an acknowledgement is a call on an [`AckTarget`].

use crate::codec::error_code::ErrorCode;
use crate::config::memory::MemoryPlan;
use crate::log::commit::{Advance, GroupCommit};
use crate::log::plan::{FILE_FLUSHES_IN_FLIGHT_MAX, FlushMethod, FlushPlan, Slot, WritePlan};
use crate::log::removal::Removals;
use crate::shard::clock::Clock;
use crate::shard::disk::{Disk, DiskFile, blocking, remove_if_present};
use crate::shard::event::Broadcast;
use crate::shard::memory::Meter;
use crate::shard::message::ProduceOutcome;
use crate::shard::replica::Replica;
use crate::shard::tail::TailBlock;
use crate::types::limits::TAIL_BUFFER_SIZE_MAX;
use crate::types::{Mono, Offset, TopicPartition};
use futures::stream::{self, TryStreamExt};
use glommio::sync::Semaphore;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::metrics::ShardMetrics;

/// Who is told what became of an appended batch. Called once per batch, from the shard's own tasks.
pub trait AckTarget {
    /// `index`: which of the request's batches.
    fn acknowledged(&self, index: u32, outcome: ProduceOutcome);
}

/// What was given up under its last name and still holds disk space.
#[derive(Debug)]
pub enum Removal {
    /// The files of a segment.
    Files(Vec<PathBuf>),
    /// The directory of a partition.
    Directory(PathBuf),
}

/// Lives: one per shard, as long as the process.
pub struct Store {
    pub clock: Clock,
    pub disk: Disk,
    pub metrics: Rc<RefCell<ShardMetrics>>,
    pub tail_memory: Rc<Meter>,
    pub read_memory: Rc<Meter>,
    /// A read that has to be larger than asked for has its turn.
    pub enlarging: Semaphore,
    commit: RefCell<GroupCommit>,
    slots: RefCell<Vec<Option<Rc<Replica>>>>,
    replicas: RefCell<BTreeMap<TopicPartition, Rc<Replica>>>,
    /// Replicas in the order in which their tail blocks were sealed, one entry per block.
    eviction: RefCell<VecDeque<Slot>>,
    /// Signalled after every flush: unflushed bytes have become fewer.
    pub drained: Broadcast,
    unflushed_max: u64,
    removals: RefCell<Removals<Removal>>,
    offline: RefCell<Option<String>>,
    /// The final state is being written.
    closed: Cell<bool>,
    /// Times of the writes that the next flush covers, oldest first, for the commit latency.
    write_started: Cell<Option<Mono>>,
}

impl Store {
    pub fn new(
        clock: Clock,
        disk: Disk,
        metrics: Rc<RefCell<ShardMetrics>>,
        memory: &MemoryPlan,
    ) -> Rc<Store> {
        Rc::new(Store {
            clock,
            disk,
            metrics,
            tail_memory: Meter::new(memory.tail),
            read_memory: Meter::new(memory.read),
            enlarging: Semaphore::new(1),
            commit: RefCell::new(GroupCommit::new()),
            slots: RefCell::default(),
            replicas: RefCell::default(),
            eviction: RefCell::default(),
            drained: Broadcast::default(),
            unflushed_max: memory.unflushed as u64,
            removals: RefCell::default(),
            offline: RefCell::new(None),
            closed: Cell::new(false),
            write_started: Cell::new(None),
        })
    }

    pub fn find(&self, partition: &TopicPartition) -> Option<Rc<Replica>> {
        self.replicas.borrow().get(partition).cloned()
    }

    pub fn replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas.borrow().values().cloned().collect()
    }

    pub fn replica_count(&self) -> usize {
        self.replicas.borrow().len()
    }

    /// Takes in a partition that is flushed up to `end`.
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

    /// The replica can no longer be found; its slot stays until [`release_slot`](Self::release_slot).
    pub fn remove(&self, partition: &TopicPartition) -> Option<Rc<Replica>> {
        self.replicas.borrow_mut().remove(partition)
    }

    /// Waits until nothing of the replica is in flight, then gives its slot free.
    pub async fn release_slot(&self, slot: Slot) {
        while !self.is_idle(slot) && !self.is_offline() {
            self.drained.notified().await;
        }
        if self.is_idle(slot) {
            self.commit.borrow_mut().close(slot);
            self.slots.borrow_mut()[slot.0 as usize] = None;
            // The slot's next replica has none of these blocks.
            self.eviction.borrow_mut().retain(|entry| *entry != slot);
        }
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

    /// Too much is appended and not flushed: sockets are not read until [`drained`](Self::drained).
    pub fn is_full(&self) -> bool {
        self.commit.borrow().unflushed_bytes() > self.unflushed_max
    }

    pub fn unflushed_bytes(&self) -> u64 {
        self.commit.borrow().unflushed_bytes()
    }

    /// Frees tail memory for another block, oldest first. What is not flushed stays.
    pub fn make_tail_room(&self) {
        if self.tail_memory.has_room(TAIL_BUFFER_SIZE_MAX) {
            return;
        }
        let mut eviction = self.eviction.borrow_mut();
        let slots = self.slots.borrow();
        for _ in 0..eviction.len() {
            if self.tail_memory.has_room(TAIL_BUFFER_SIZE_MAX) {
                return;
            }
            let Some(slot) = eviction.pop_front() else { return };
            let Some(replica) = &slots[slot.0 as usize] else { continue };
            if !replica.evict_oldest() {
                eviction.push_back(slot);
            }
        }
    }

    /// A replica has `count` more sealed blocks.
    pub fn blocks_sealed(&self, slot: Slot, count: usize) {
        let mut eviction = self.eviction.borrow_mut();
        for _ in 0..count {
            eviction.push_back(slot);
        }
    }

    /// `count` of a replica's oldest blocks are gone without an eviction. O(n), for retention.
    pub fn blocks_dropped(&self, slot: Slot, mut count: usize) {
        self.eviction.borrow_mut().retain(|entry| {
            let drops = *entry == slot && count > 0;
            count -= usize::from(drops);
            !drops
        });
    }

    pub fn appended(&self, slot: Slot, end: Offset, size: u64) {
        self.commit.borrow_mut().appended(slot, end, size);
    }

    /// Issues every write and flush that is due. Called once after a run of appends, and whenever
    /// the disk has answered.
    pub fn pump(self: &Rc<Self>) {
        loop {
            let plan = self.commit.borrow_mut().next_write();
            let Some(plan) = plan else { break };
            let replica = self.slots.borrow()[plan.slot.0 as usize].clone();
            let replica = replica.expect("a replica with appends has its slot");
            let mut blocks = Vec::new();
            let sealed = replica.seal_for_write(plan.end, &mut blocks);
            self.blocks_sealed(plan.slot, sealed);
            if self.write_started.get().is_none() {
                self.write_started.set(Some(self.clock.mono()));
            }
            self.spawn(self.clone().write(plan, replica, blocks));
        }
        let flush = self.commit.borrow_mut().next_flush();
        if let Some(plan) = flush {
            self.spawn(self.clone().flush(plan));
        }
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
        let now = self.clock.mono();
        {
            let mut metrics = self.metrics.borrow_mut();
            metrics.flush_latency_us.record_duration(now.since(started));
            metrics.commit_latency_us.record_duration(now.since(write_started));
        }
        let mut advances: Vec<Advance> = Vec::with_capacity(plan.entries.len());
        self.commit.borrow_mut().flushed(&plan, &mut advances);
        for advance in advances {
            let replica = self.slots.borrow()[advance.slot.0 as usize].clone();
            if let Some(replica) = replica {
                replica.advance(advance.flushed_end);
            }
        }
        self.drained.notify_all();
        self.pump();
    }

    async fn flush_files(&self, plan: &FlushPlan) -> io::Result<()> {
        let mut files: Vec<Rc<DiskFile>> = Vec::with_capacity(plan.file_count());
        for entry in &plan.entries {
            let replica = self.slots.borrow()[entry.slot.0 as usize].clone();
            let replica = replica.expect("a replica with unflushed writes has its slot");
            files.extend(entry.segments.iter().filter_map(|segment| replica.written_file(*segment)));
        }
        match plan.method(self.disk.sync_fs()) {
            FlushMethod::FileSystem => match files.first() {
                Some(file) => self.disk.sync_file_system(file).await,
                None => Ok(()),
            },
            FlushMethod::Files if files.len() == 1 => files[0].flush().await,
            FlushMethod::Files => {
                let flushes = stream::iter(files.iter().map(|file| Ok(file.flush())));
                flushes.try_buffer_unordered(FILE_FLUSHES_IN_FLIGHT_MAX).try_collect().await
            }
        }
    }

    /// Removes what has its last name already, after `delay`.
    pub fn remove_later(&self, removal: Removal, delay: Duration) {
        let due = self.clock.mono().after(delay);
        self.removals.borrow_mut().wait(due, removal);
    }

    /// Removes what is due, one after the other. What fails is tried again by the next start, which
    /// knows it by its name.
    pub async fn remove_due(&self) {
        loop {
            let next = self.removals.borrow_mut().take(self.clock.mono());
            let Some(removal) = next else { return };
            if let Err(error) = blocking(move || removal.carry_out()).await {
                tracing::warn!(%error, "deleted data is removed at the next start");
            }
        }
    }

    /// Takes the log directory offline: a failed write or flush is never tried again.
    pub fn fail(&self, reason: &str) {
        if self.offline.borrow().is_some() {
            return;
        }
        tracing::error!(reason, "the log directory is offline; produce is refused, reads go on");
        *self.offline.borrow_mut() = Some(reason.to_owned());
        self.commit.borrow_mut().fail();
        for replica in self.replicas() {
            replica.refuse_parked(ErrorCode::KafkaStorageError);
        }
        self.drained.notify_all();
    }
}

impl Removal {
    /// Blocks; what is gone already is none of its business.
    fn carry_out(self) -> io::Result<()> {
        match self {
            Removal::Files(files) => files.iter().try_for_each(|file| remove_if_present(file)),
            Removal::Directory(directory) => match std::fs::remove_dir_all(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }
}
