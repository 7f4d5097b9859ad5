//! The stores of a shard: one for each log directory, which is taken to be a disk of its own. Each has its
//! group commit, its journal and its flushes, and goes offline alone.
//!
//! ```text
//! shard ─┬─ store of /disk0 ─► journal.3, segments, flush      what they share: memory for the newest
//!        ├─ store of /disk1 ─► journal.3, segments, flush      records, reads from disk and their turns,
//!        └─ store of /disk2    offline: what was flushed is read   open files
//! ```
//!
//! Memory for the newest records goes to whichever directory is written to. What a failure can pin of it
//! is bounded: of what is not flushed, or not in its segment, every directory may have its share only.
//!
//! With one directory this is one store, and nothing is looked up or asked that would not be without it.

use crate::config::memory::MemoryPlan;
use crate::metrics::ShardMetrics;
use crate::shard::catch_up::CatchUp;
use crate::shard::clock::Clock;
use crate::shard::event::Broadcast;
use crate::shard::memory::Meter;
use crate::shard::replica::Replica;
use crate::shard::side_thread::SideThread;
use crate::shard::store::Store;
use crate::types::limits::TAIL_BUFFER_SIZE_MAX;
use crate::types::{LogDirIndex, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Blocks that can be evicted at once below which what is not flushed in its segment is written out: the disk
/// needs a while for that.
///
/// Unit: blocks, of 16 KiB to 1 MiB.
const EVICTABLE_MIN: usize = 64;

/// What the stores of a shard share.
#[derive(Clone)]
pub struct Shared {
    pub clock: Clock,
    pub metrics: Rc<RefCell<ShardMetrics>>,
    pub tail_memory: Rc<Meter>,
    pub catch_up: Rc<CatchUp>,
    /// Signalled after every flush of any: unflushed bytes have become fewer.
    pub drained: Rc<Broadcast>,
    pub eviction: Rc<Eviction>,
    pub side_thread: Rc<SideThread>,
    /// Bytes that one store may have appended and not flushed.
    pub undurable_max: u64,
    /// Bytes that one store may have appended and not flushed in their segments.
    pub unstored_max: u64,
}

impl Shared {
    /// For `count` stores. On the executor that they will live on.
    pub fn new(
        clock: Clock,
        metrics: Rc<RefCell<ShardMetrics>>,
        memory: &MemoryPlan,
        count: usize,
    ) -> Shared {
        let share = |bytes: usize| bytes as u64 / count as u64;
        Shared {
            catch_up: CatchUp::new(memory.read, clock.clone(), metrics.clone()),
            side_thread: SideThread::start(&clock, &metrics),
            clock,
            metrics,
            tail_memory: Meter::new(memory.tail),
            drained: Rc::default(),
            eviction: Rc::default(),
            undurable_max: share(memory.unflushed),
            unstored_max: share(memory.tail / 4 * 3),
        }
    }
}

/// Replicas with tail blocks that are flushed in their segments, in the order in which they became so, one
/// entry per block: room is made without a look at those that have to stay, however many there are.
#[derive(Default)]
pub struct Eviction {
    queue: RefCell<VecDeque<Rc<Replica>>>,
    /// An append has found nothing to make room with.
    found_nothing: Cell<bool>,
}

impl Eviction {
    /// Frees memory for another block, oldest first. What is not flushed stays. Amortised O(1).
    pub fn make_room(&self, memory: &Meter) {
        while !memory.has_room(TAIL_BUFFER_SIZE_MAX) {
            let Some(replica) = self.queue.borrow_mut().pop_front() else {
                return self.found_nothing.set(true);
            };
            replica.evict_oldest();
        }
    }

    /// By how much the tail is more than it may be, if nothing was left to make room with since the last time
    /// that this was asked: what is not flushed holds it, or answers do.
    pub fn excess(&self, memory: &Meter) -> usize {
        let was_spent = self.found_nothing.replace(false) || self.is_empty();
        let wanted = memory.used() + TAIL_BUFFER_SIZE_MAX;
        if was_spent { wanted.saturating_sub(memory.limit()) } else { 0 }
    }

    /// Little is left that could make room.
    pub fn is_short(&self) -> bool {
        self.queue.borrow().len() < EVICTABLE_MIN
    }

    /// Nothing can make room.
    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// `count` more blocks of a replica may go.
    pub fn blocks_stored(&self, replica: &Rc<Replica>, count: usize) {
        let mut queue = self.queue.borrow_mut();
        for _ in 0..count {
            queue.push_back(replica.clone());
        }
    }

    /// `count` blocks of a replica that might have gone this way are gone. O(n), for retention.
    pub fn blocks_dropped(&self, replica: &Replica, mut count: usize) {
        self.queue.borrow_mut().retain(|entry| {
            let drops = std::ptr::eq(&raw const **entry, replica) && count > 0;
            count -= usize::from(drops);
            !drops
        });
    }

    /// Nothing of the replica is kept any more.
    pub fn forget(&self, replica: &Replica) {
        self.queue.borrow_mut().retain(|entry| !std::ptr::eq(&raw const **entry, replica));
    }
}

/// Lives: one per shard, as long as the process.
pub struct Stores(Box<[Rc<Store>]>);

impl Stores {
    /// In the order of the log directories.
    pub fn new(stores: Vec<Rc<Store>>) -> Stores {
        assert!(!stores.is_empty(), "a node has a log directory");
        let in_order = stores.iter().enumerate().all(|(at, store)| store.dir.index() == at);
        assert!(in_order, "a store stands at its directory's place");
        Stores(stores.into())
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Rc<Store>> {
        self.0.iter()
    }

    pub fn get(&self, dir: LogDirIndex) -> &Rc<Store> {
        &self.0[dir.index()]
    }

    /// The one that has a replica.
    pub fn of(&self, replica: &Replica) -> &Rc<Store> {
        self.get(replica.dir)
    }

    /// Any one, for a read: memory, turns and open files are the same in all of them.
    pub fn for_reading(&self) -> &Rc<Store> {
        &self.0[0]
    }

    /// O(directories × log topics).
    pub fn find(&self, partition: &TopicPartition) -> Option<Rc<Replica>> {
        self.iter().find_map(|store| store.find(partition))
    }

    /// Batches are appended to these soon.
    pub fn prefetch_appends<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition> + Clone) {
        for id in partitions.clone() {
            self.iter().for_each(|store| store.prefetch_replica(id));
        }
        for id in partitions {
            if let Some(replica) = self.find(id) {
                replica.prefetch_append(self.of(&replica));
            }
        }
    }

    pub fn replicas(&self) -> Vec<Rc<Replica>> {
        self.iter().flat_map(|store| store.replicas()).collect()
    }

    pub fn replica_count(&self) -> usize {
        self.iter().map(|store| store.replica_count()).sum()
    }

    pub fn drained(&self) -> &Rc<Broadcast> {
        &self.0[0].drained
    }

    /// Issues every write and flush that is due.
    pub fn pump(&self) {
        self.iter().for_each(|store| store.pump());
    }
}
