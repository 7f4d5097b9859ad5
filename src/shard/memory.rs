//! A shard's memory accounts: who holds how much, and how much there may be.
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

    pub fn grow(&mut self, more: usize) {
        self.meter.used.set(self.meter.used.get() + more);
        self.size += more;
    }

    pub fn shrink(&mut self, less: usize) {
        assert!(less <= self.size, "more is given back than was taken");
        self.meter.used.set(self.meter.used.get() - less);
        self.size -= less;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.used.set(self.meter.used.get() - self.size);
    }
}
