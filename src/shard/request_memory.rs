//! Memory for requests other than Produce while they are decoded and served, parked fetches among them.
//!
//! A few bytes on the wire may be a hundred once decoded, so a request is counted by what a walk over it has
//! found before it is copied. There is no queue: whoever finds room takes it. One that is larger than all of
//! the memory is served alone; a small one of a connection that has no other is always served. While one
//! waits, no fetch stays parked: it might, for as long as its client likes.

use crate::shard::event::Broadcast;
use crate::shard::memory::{Charge, Meter};
use crate::types::limits::REQUEST_MEMORY_FLOOR;
use std::cell::Cell;
use std::rc::Rc;

/// Lives: one per shard.
pub struct RequestMemory {
    meter: Rc<Meter>,
    freed: Rc<Broadcast>,
    waiting: Cell<usize>,
}

/// What one request holds of it, until dropped.
pub struct RequestCharge {
    /// `None` only while it is dropped.
    charge: Option<Charge>,
    of_connection: Rc<Cell<usize>>,
    freed: Rc<Broadcast>,
}

impl RequestMemory {
    pub fn new(limit: usize) -> RequestMemory {
        RequestMemory { meter: Meter::new(limit), freed: Rc::default(), waiting: Cell::new(0) }
    }

    pub fn used(&self) -> usize {
        self.meter.used()
    }

    /// Somebody waits for some.
    pub fn is_short(&self) -> bool {
        self.waiting.get() > 0
    }

    /// `of_connection`: how many requests of its connection are counted.
    pub fn try_take(&self, size: usize, of_connection: &Rc<Cell<usize>>) -> Option<RequestCharge> {
        let is_small = size <= REQUEST_MEMORY_FLOOR && of_connection.get() == 0;
        if !is_small && self.meter.used() > 0 && !self.meter.has_room(size) {
            return None;
        }
        of_connection.set(of_connection.get() + 1);
        Some(RequestCharge {
            charge: Some(self.meter.charge(size)),
            of_connection: of_connection.clone(),
            freed: self.freed.clone(),
        })
    }

    /// Resolves once some was given back.
    pub async fn freed(&self) {
        let _waiting = Waiting::new(&self.waiting);
        self.freed.notified().await;
    }
}

struct Waiting<'a>(&'a Cell<usize>);

impl Waiting<'_> {
    fn new(count: &Cell<usize>) -> Waiting<'_> {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Drop for RequestCharge {
    fn drop(&mut self) {
        self.charge = None; // Before anybody looks.
        self.of_connection.set(self.of_connection.get() - 1);
        self.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const LIMIT: usize = 10 * REQUEST_MEMORY_FLOOR;

    #[test]
    fn large_requests_wait_and_small_ones_of_others_do_not() {
        let memory = RequestMemory::new(LIMIT);
        let [first, second]: [Rc<Cell<usize>>; 2] = Default::default();
        let large = memory.try_take(LIMIT, &first).expect("there is room");
        assert!(memory.try_take(1, &first).is_none(), "it has one");
        let small = memory.try_take(REQUEST_MEMORY_FLOOR, &second).expect("it has none");
        assert!(memory.try_take(1, &second).is_none(), "it has one");
        drop(small);
        assert!(memory.try_take(REQUEST_MEMORY_FLOOR + 1, &second).is_none());
        drop(large);
        assert!(memory.try_take(REQUEST_MEMORY_FLOOR + 1, &second).is_some());
        assert_eq!((memory.used(), first.get(), second.get()), (0, 0, 0));
    }

    #[test]
    fn one_that_is_larger_than_all_memory_is_served_alone() {
        let memory = RequestMemory::new(LIMIT);
        let connection = Rc::default();
        let alone = memory.try_take(2 * LIMIT, &connection).expect("nothing else is there");
        assert!(memory.try_take(2 * LIMIT, &Rc::default()).is_none());
        drop(alone);
        assert!(memory.try_take(2 * LIMIT, &Rc::default()).is_some());
    }

    #[test]
    fn it_is_short_while_somebody_waits() {
        let memory = RequestMemory::new(LIMIT);
        let held = memory.try_take(LIMIT, &Rc::default());
        let mut freed = Box::pin(memory.freed());
        assert!(!memory.is_short());
        assert!(freed.as_mut().now_or_never().is_none());
        assert!(memory.is_short());
        drop(held);
        assert!(freed.as_mut().now_or_never().is_some());
        drop(freed);
        assert!(!memory.is_short());
    }
}
