//! Memory for requests other than Produce while they are decoded and served, parked fetches among them.
//!
//! A few bytes on the wire may be a hundred once decoded, so a request is counted by what a walk over it has
//! found before it is copied. There is no queue: whoever finds room takes it. One that is larger than all of
//! the memory is served when no other holds any of it. While one waits, the oldest parked fetches that hold
//! some are answered, as many as it takes: they might stay for as long as their clients like. Nothing else that
//! holds some waits for a client.
//!
//! A small request of a connection that has no other is always served. It is counted beside the limit: nobody
//! waits for such to end, since there is no end of them.

use crate::shard::event::Broadcast;
use crate::shard::memory::{Charge, Meter};
use crate::types::limits::REQUEST_MEMORY_FLOOR;
use std::cell::Cell;
use std::rc::Rc;

/// Lives: one per shard.
pub struct RequestMemory {
    meter: Rc<Meter>,
    /// Small requests, for which nobody waits. At most one of each connection.
    small: Rc<Meter>,
    freed: Rc<Broadcast>,
    /// Bytes in all that are waited for.
    wanted: Cell<usize>,
}

/// What one request holds of it, until dropped.
pub struct RequestCharge {
    /// `None` only while it is dropped.
    charge: Option<Charge>,
    is_small: bool,
    of_connection: Rc<Cell<usize>>,
    freed: Rc<Broadcast>,
}

impl RequestMemory {
    pub fn new(limit: usize) -> RequestMemory {
        RequestMemory {
            meter: Meter::new(limit),
            small: Meter::new(usize::MAX),
            freed: Rc::default(),
            wanted: Cell::new(0),
        }
    }

    pub fn used(&self) -> usize {
        self.meter.used() + self.small.used()
    }

    /// How much has to be given back for those that wait.
    pub fn missing(&self) -> usize {
        let (used, wanted) = (self.meter.used(), self.wanted.get());
        if wanted == 0 { 0 } else { (used + wanted).saturating_sub(self.meter.limit()).min(used) }
    }

    /// `of_connection`: how many requests of its connection are counted.
    pub fn try_take(&self, size: usize, of_connection: &Rc<Cell<usize>>) -> Option<RequestCharge> {
        let is_small = size <= REQUEST_MEMORY_FLOOR && of_connection.get() == 0;
        if !is_small && self.meter.used() > 0 && !self.meter.has_room(size) {
            return None;
        }
        of_connection.set(of_connection.get() + 1);
        Some(RequestCharge {
            charge: Some(if is_small { self.small.charge(size) } else { self.meter.charge(size) }),
            is_small,
            of_connection: of_connection.clone(),
            freed: self.freed.clone(),
        })
    }

    /// Says that a request waits for `size`, until what is returned is dropped.
    pub fn want(&self, size: usize) -> Wanted<'_> {
        self.wanted.set(self.wanted.get() + size);
        Wanted { wanted: &self.wanted, size }
    }

    /// Resolves once some was given back.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl RequestCharge {
    /// Bytes that others may wait for.
    pub fn size(&self) -> usize {
        if self.is_small { 0 } else { self.charge.as_ref().map_or(0, Charge::size) }
    }
}

/// Those of the parked fetches, the oldest first, that hold what is missing.
pub fn oldest_covering<T>(
    parked: impl Iterator<Item = T>,
    size: impl Fn(&T) -> usize,
    missing: usize,
) -> impl Iterator<Item = T> {
    let mut held = 0;
    parked.map(move |parked| (size(&parked), parked)).filter(|(size, _)| *size > 0).map_while(
        move |(size, parked)| {
            let is_needed = held < missing;
            held += size;
            is_needed.then_some(parked)
        },
    )
}

pub struct Wanted<'a> {
    wanted: &'a Cell<usize>,
    size: usize,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.wanted.set(self.wanted.get() - self.size);
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

    /// There is always some small request.
    #[test]
    fn nobody_waits_for_small_requests() {
        let memory = RequestMemory::new(LIMIT);
        let small = memory.try_take(REQUEST_MEMORY_FLOOR, &Rc::default()).expect("it is served");
        let wanted = memory.want(2 * LIMIT);
        assert_eq!((memory.missing(), small.size()), (0, 0), "no fetch ends for nothing");
        drop(wanted);
        let large = memory.try_take(2 * LIMIT, &Rc::default()).expect("it is alone but for small ones");
        assert_eq!(memory.used(), 2 * LIMIT + REQUEST_MEMORY_FLOOR);
        let _wanted = memory.want(2 * LIMIT);
        assert_eq!((memory.missing(), large.size()), (2 * LIMIT, 2 * LIMIT));
    }

    #[test]
    fn what_is_missing_is_what_those_need_that_wait() {
        let memory = RequestMemory::new(LIMIT);
        let held = memory.try_take(LIMIT - 10, &Rc::default());
        assert_eq!(memory.missing(), 0, "nobody waits");
        let small = memory.want(30);
        assert_eq!(memory.missing(), 20);
        let large = memory.want(2 * LIMIT);
        assert_eq!(memory.missing(), LIMIT - 10, "one that is larger than all is served alone");
        drop(large);
        assert_eq!(memory.missing(), 20);
        let mut freed = Box::pin(memory.freed());
        assert!(freed.as_mut().now_or_never().is_none());
        drop(held);
        assert!(freed.as_mut().now_or_never().is_some());
        drop(small);
        assert_eq!(memory.missing(), 0);
    }

    #[test]
    fn of_many_parked_fetches_only_as_many_end_as_it_takes() {
        let covering = |sizes: &[usize], missing| -> Vec<usize> {
            oldest_covering(0..sizes.len(), |at| sizes[*at], missing).collect()
        };
        assert!(covering(&[10; 300], 0).is_empty());
        assert_eq!(covering(&[10; 300], 1), [0]);
        assert_eq!(covering(&[10; 300], 25), [0, 1, 2]);
        assert_eq!(covering(&[10; 300], 1 << 20).len(), 300);
        assert_eq!(covering(&[0, 10, 0, 10, 10], 15), [1, 3], "only those that hold some");
    }
}
