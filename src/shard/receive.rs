//! Memory for requests on their way in: who may take some, who waits, and for how long.
//!
//! ```text
//! silent connection    holds nothing
//! first bytes          take one receive buffer; while none fits, the socket is not read
//! a larger request     grows its buffer: at once if that fits, else when others have given back
//! executed             gives everything back, and all that wait look again
//! ```
//!
//! There is no queue: whoever finds room takes it. A request that claims much waits while small ones go
//! by, and after [`GROW_WAIT_MAX`] it costs its own connection, never those behind it.

use crate::shard::event::Broadcast;
use crate::shard::memory::{Charge, Meter};
use std::rc::Rc;
use std::time::Duration;

/// How long a request that is larger than a receive buffer may wait for memory.
pub const GROW_WAIT_MAX: Duration = Duration::from_secs(10);

/// Whether a request may have the rest of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    Now,
    /// Look again once memory was given back, or after this long.
    Wait(Duration),
    /// It has waited long enough, or could never have so much.
    Refused,
}

/// Lives: one per shard.
pub struct ReceiveMemory {
    meter: Rc<Meter>,
    /// Notified whenever some of it was given back.
    pub freed: Broadcast,
}

/// What one connection holds of it, until dropped.
pub struct ReceiveCharge {
    /// `None` only while it is dropped.
    charge: Option<Charge>,
    memory: Rc<ReceiveMemory>,
}

impl ReceiveMemory {
    pub fn new(limit: usize) -> Rc<ReceiveMemory> {
        Rc::new(ReceiveMemory { meter: Meter::new(limit), freed: Broadcast::default() })
    }

    pub fn used(&self) -> usize {
        self.meter.used()
    }

    pub fn has_room(&self, size: usize) -> bool {
        self.meter.has_room(size)
    }

    /// Counts `size`, whether there is room or not: the caller has asked.
    pub fn take(self: &Rc<Self>, size: usize) -> ReceiveCharge {
        ReceiveCharge { charge: Some(self.meter.charge(size)), memory: self.clone() }
    }
}

impl ReceiveCharge {
    /// Whether `more` may be taken by someone who has waited for it for `waited`.
    pub fn may_grow(&self, more: usize, waited: Duration) -> Growth {
        let meter = &self.memory.meter;
        if meter.has_room(more) {
            Growth::Now
        } else if waited >= GROW_WAIT_MAX || self.size() + more > meter.limit() {
            Growth::Refused
        } else {
            Growth::Wait(GROW_WAIT_MAX - waited)
        }
    }

    pub fn grow(&mut self, more: usize) {
        let charge = self.charge.as_mut().expect("it is there until the drop");
        charge.grow(more);
    }

    fn size(&self) -> usize {
        self.charge.as_ref().map_or(0, Charge::size)
    }
}

impl Drop for ReceiveCharge {
    fn drop(&mut self) {
        self.charge = None; // Before anybody looks.
        self.memory.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_request_grows_once_others_have_given_back() {
        let memory = ReceiveMemory::new(1000);
        let others = [memory.take(300), memory.take(300)];
        let mut large = memory.take(100);
        assert_eq!(large.may_grow(301, MOMENT), Growth::Wait(GROW_WAIT_MAX - MOMENT));
        assert_eq!(large.may_grow(300, MOMENT), Growth::Now, "a smaller one need not wait behind it");
        drop(others);
        assert_eq!(large.may_grow(900, MOMENT), Growth::Now);
        large.grow(900);
        assert_eq!(memory.used(), 1000);
        assert!(!memory.has_room(1));
        drop(large);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_wait_ends() {
        let memory = ReceiveMemory::new(1000);
        let _others = memory.take(900);
        let large = memory.take(100);
        assert_eq!(large.may_grow(1, GROW_WAIT_MAX - MOMENT), Growth::Wait(MOMENT));
        assert_eq!(large.may_grow(1, GROW_WAIT_MAX), Growth::Refused);
        assert_eq!(large.may_grow(901, Duration::ZERO), Growth::Refused, "it would wait for nothing");
    }

    #[test]
    fn whoever_waits_is_woken_by_what_is_given_back_and_not_before() {
        let memory = ReceiveMemory::new(1000);
        let mut first = memory.take(500);
        let second = memory.take(500);
        let mut freed = Box::pin(memory.freed.notified());
        assert!(freed.as_mut().now_or_never().is_none());
        first.grow(0);
        assert!(freed.as_mut().now_or_never().is_none());
        drop(second);
        assert!(freed.as_mut().now_or_never().is_some());
        assert!(memory.has_room(500), "what is given back is there when they look");
    }
}
