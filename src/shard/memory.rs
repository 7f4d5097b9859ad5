//! A shard's memory budget: who holds how much, and how much there may be.
//!
//! Plain cells: a shard counts its own memory. Buffers count themselves out when they are dropped,
//! so that bytes pinned by an answer that waits for a slow reader stay in the account.

use std::cell::Cell;
use std::rc::Rc;

/// One kind of memory with its limit.
///
/// Unit: bytes allocated, not bytes used.
#[derive(Debug)]
pub struct Meter {
    used: Cell<usize>,
    limit: usize,
    /// Buffers that the registered pool should have held and did not.
    heap_buffers: Cell<u64>,
}

impl Meter {
    pub fn new(limit: usize) -> Rc<Meter> {
        Rc::new(Meter { used: Cell::new(0), limit, heap_buffers: Cell::new(0) })
    }

    pub fn used(&self) -> usize {
        self.used.get()
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn is_over(&self) -> bool {
        self.used.get() > self.limit
    }

    /// Whether `size` more would still fit.
    pub fn has_room(&self, size: usize) -> bool {
        self.used.get() + size <= self.limit
    }

    pub fn count_heap_buffer(&self) {
        self.heap_buffers.set(self.heap_buffers.get() + 1);
    }

    /// How many buffers came from the heap so far.
    pub fn heap_buffers(&self) -> u64 {
        self.heap_buffers.get()
    }

    /// Counts `size` until the charge is dropped.
    pub fn charge(self: &Rc<Self>, size: usize) -> Charge {
        self.used.set(self.used.get() + size);
        Charge { meter: self.clone(), size }
    }
}

#[derive(Debug)]
pub struct Charge {
    meter: Rc<Meter>,
    size: usize,
}

impl Charge {
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.used.set(self.meter.used.get() - self.size);
    }
}

/// How a shard's share of `--memory` is divided.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Commit buffers and the newest records kept for readers.
    pub tail: usize,
    /// Appended and not yet flushed. Part of `tail`.
    pub unflushed: usize,
    /// Requests being read and executed.
    pub receive: usize,
    /// Blocks read from disk for readers behind the tail.
    pub read: usize,
    /// Answers waiting for their sockets, beyond what they pin of the above.
    pub response: usize,
}

/// Bytes of a shard's tail and of its reads from disk. With these the registered pool holds both,
/// and no buffer is ever faulted in on the data path; a reader further behind than the tail is
/// served at the disk's speed.
const TAIL_SIZE_MAX: usize = 512 << 20;
const READ_SIZE_MAX: usize = 256 << 20;

// The kernel takes at most 1 GiB as one registered buffer.
const _: () = assert!(TAIL_SIZE_MAX + READ_SIZE_MAX <= 1 << 30);

impl MemoryPlan {
    /// Size of the ring's registered buffer pool, pinned at start.
    pub fn registered(&self) -> usize {
        self.tail + self.read
    }

    /// Divides a shard's budget. A quarter is left to everything that is not a buffer.
    pub fn new(budget: usize) -> MemoryPlan {
        let tail = (budget * 3 / 8).min(TAIL_SIZE_MAX);
        MemoryPlan {
            tail,
            unflushed: (tail / 2).min(128 << 20),
            receive: budget / 8,
            read: (budget / 8).min(READ_SIZE_MAX),
            response: budget / 8,
        }
    }
}
