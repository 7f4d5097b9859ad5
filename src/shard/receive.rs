//! Memory for requests on their way in: who may take some, who waits, and who has to go.
//!
//! ```text
//! silent connection    holds nothing
//! first bytes          take one receive buffer; while none fits, the socket is not read
//! a larger request     gets twice as much whenever what it has is full: nothing for what it announces
//! executed             gives everything back, and all that wait look again
//!
//! limit  |--- requests of any size ---------------------------|-- first buffers only --|
//! ```
//!
//! There is no queue: whoever finds room takes it. Large requests get more only while all of them could
//! still come to their end, one after the other, so that none waits for another that waits for it.
//!
//! While somebody waits, what others hold is looked at: a buffer that is hardly filled becomes a small
//! one, and whoever has made no step for [`RECEIVE_STEP_TIME_MAX`] loses its connection, the largest
//! holder first. A request that waits for [`RECEIVE_GROW_WAIT_MAX`] costs its own connection.

use crate::codec::frame::{self, Frame, FrameError};
use crate::config::memory::MemoryPlan;
use crate::shard::event::Broadcast;
use crate::shard::memory::{Charge, Meter};
use crate::types::Mono;
use crate::types::limits::{
    RECEIVE_BUFFER_SIZE, RECEIVE_GROW_WAIT_MAX, RECEIVE_RELIEF_PAUSE, RECEIVE_STARVED_MAX,
    RECEIVE_STEP_TIME_MAX, SOCKET_READ_SIZE_MIN,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Whether a request may have more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    Now,
    /// Look again once memory was given back, or after this long.
    Wait(Duration),
    /// It has waited long enough, or could never have so much.
    Refused,
}

/// A request that does not fit its buffer.
#[derive(Clone, Copy, Debug)]
struct Growing {
    held: usize,
    /// In all.
    needed: usize,
}

impl Growing {
    fn left(&self) -> usize {
        self.needed.saturating_sub(self.held)
    }
}

/// Lives: one per shard.
pub struct ReceiveMemory {
    meter: Rc<Meter>,
    /// Bytes that only first buffers take.
    reserve: usize,
    /// Notified whenever some of it was given back.
    pub freed: Broadcast,
    /// Requests larger than their buffers. Ordered, so that runs repeat.
    growing: RefCell<BTreeMap<u64, Growing>>,
    next_growing: Cell<u64>,
    /// When holders were last looked at.
    relieved: Cell<Option<Mono>>,
}

/// What one connection holds of it, until dropped.
pub struct ReceiveCharge {
    /// `None` only while it is dropped.
    charge: Option<Charge>,
    /// Its place among those that grow.
    growing: Option<u64>,
    memory: Rc<ReceiveMemory>,
}

impl ReceiveMemory {
    pub fn new(limit: usize) -> Rc<ReceiveMemory> {
        Rc::new(ReceiveMemory {
            meter: Meter::new(limit),
            reserve: MemoryPlan::receive_reserve(limit).min(limit),
            freed: Broadcast::default(),
            growing: RefCell::default(),
            next_growing: Cell::new(0),
            relieved: Cell::new(None),
        })
    }

    pub fn used(&self) -> usize {
        self.meter.used()
    }

    /// Whether there is a first buffer for one more connection.
    pub fn has_first_buffer(&self) -> bool {
        self.meter.has_room(RECEIVE_BUFFER_SIZE)
    }

    /// Counts `size`, whether there is room or not: the caller has asked.
    pub fn take(self: &Rc<Self>, size: usize) -> ReceiveCharge {
        ReceiveCharge { charge: Some(self.meter.charge(size)), growing: None, memory: self.clone() }
    }

    /// Whether it is time to look at the holders again; the caller then does.
    pub fn begin_relief(&self, now: Mono) -> bool {
        let is_due = self.relieved.get().is_none_or(|last| now.since(last) >= RECEIVE_RELIEF_PAUSE);
        if is_due {
            self.relieved.set(Some(now));
        }
        is_due
    }

    /// The request nearest to its end may take half of the reserve; one that a first buffer would hold
    /// may take all of it.
    fn may_hold_more(&self, id: u64, more: usize) -> bool {
        let growing = self.growing.borrow();
        let own = &growing[&id];
        let is_nearest = || growing.values().all(|other| own.left() <= other.left());
        let limit = self.meter.limit();
        let limit = if own.needed <= RECEIVE_BUFFER_SIZE {
            limit
        } else if is_nearest() {
            limit - self.reserve / 2
        } else {
            limit - self.reserve
        };
        self.meter.used() + more <= limit && self.can_all_finish(&growing, id, more)
    }

    /// Whether an order is left in which every request can be received whole: the nearest to its end
    /// first, which gives back what it held (Dijkstra's banker, for one resource). What is not in
    /// `growing` comes to its end by itself. O(n log n) for n such requests, at each step of one.
    fn can_all_finish(&self, growing: &BTreeMap<u64, Growing>, id: u64, more: usize) -> bool {
        let after = growing.iter().map(|(other, growing)| {
            let held = growing.held + if *other == id { more } else { 0 };
            Growing { held, ..*growing }
        });
        let mut after: Vec<Growing> = after.collect();
        let held: usize = after.iter().map(|growing| growing.held).sum();
        let mut free = self.meter.limit().saturating_sub(held);
        after.sort_unstable_by_key(Growing::left);
        after.iter().all(|growing| {
            let fits = growing.left() <= free;
            free += growing.held;
            fits
        })
    }
}

impl ReceiveCharge {
    /// Whether a request of `needed` bytes may get `more` now, having waited for it for `waited`.
    fn may_grow(&mut self, more: usize, needed: usize, waited: Duration) -> Growth {
        let memory = &self.memory;
        if needed > memory.meter.limit() - memory.reserve / 2 {
            return Growth::Refused;
        }
        let id = self.needs(needed);
        if self.memory.may_hold_more(id, more) {
            Growth::Now
        } else if waited >= RECEIVE_GROW_WAIT_MAX {
            Growth::Refused
        } else {
            Growth::Wait(RECEIVE_GROW_WAIT_MAX - waited)
        }
    }

    /// It holds less than its request needs in all.
    fn needs(&mut self, needed: usize) -> u64 {
        let memory = &self.memory;
        let id = *self.growing.get_or_insert_with(|| {
            let id = memory.next_growing.get();
            memory.next_growing.set(id + 1);
            id
        });
        let held = self.charge.as_ref().map_or(0, Charge::size);
        memory.growing.borrow_mut().insert(id, Growing { held, needed });
        id
    }

    fn grow(&mut self, more: usize) {
        self.charge_mut().grow(more);
        if let Some(id) = self.growing
            && let Some(growing) = self.memory.growing.borrow_mut().get_mut(&id)
        {
            growing.held += more;
        }
    }

    fn shrink(&mut self, less: usize, needed: usize) {
        self.charge_mut().shrink(less);
        self.needs(needed);
        self.memory.freed.notify_all();
    }

    /// Its request is there; what follows in the buffer is another one.
    fn settle(&mut self) {
        if let Some(id) = self.growing.take() {
            self.memory.growing.borrow_mut().remove(&id);
        }
    }

    fn charge_mut(&mut self) -> &mut Charge {
        self.charge.as_mut().expect("it is there until the drop")
    }
}

impl Drop for ReceiveCharge {
    fn drop(&mut self) {
        self.settle();
        self.charge = None; // Before anybody looks.
        self.memory.freed.notify_all();
    }
}

/// What stands at the start of a receive buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A request, without its prefix. It counts as taken.
    Request(Range<usize>),
    /// A part of one that takes so many bytes in all, as far as they are known.
    Part { needed: usize },
}

/// Received bytes that are not executed yet, of one connection.
///
/// ```text
/// bytes  |taken|-- received --|------ free ------|
///        0     start          end                size
/// ```
pub struct ReceiveBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    charge: ReceiveCharge,
    /// When the request at its start made its last step: it began, or got more room.
    step_since: Mono,
    /// One was taken since.
    is_new_request: bool,
}

impl ReceiveBuffer {
    /// Nothing is received yet.
    pub fn new(bytes: Vec<u8>, memory: &Rc<ReceiveMemory>, now: Mono) -> ReceiveBuffer {
        let charge = memory.take(bytes.len());
        ReceiveBuffer { bytes, start: 0, end: 0, charge, step_since: now, is_new_request: false }
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn step_since(&self) -> Mono {
        self.step_since
    }

    pub fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// The socket has filled so much of the free part.
    pub fn filled(&mut self, size: usize) {
        self.end += size;
        assert!(self.end <= self.bytes.len());
    }

    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }

    /// Takes the next request out, if it is there.
    pub fn next(&mut self, request_size_max: usize) -> Result<Received, FrameError> {
        let start = self.start;
        match frame::next_frame(&self.bytes[start..self.end], request_size_max)? {
            Frame::Complete { body } => {
                self.start = start + body.end;
                self.is_new_request = true;
                self.charge.settle();
                Ok(Received::Request(start + body.start..start + body.end))
            }
            Frame::Need { size } => Ok(Received::Part { needed: size }),
        }
    }

    /// Makes the rest of the request at the start fit, as far as the buffer goes. What is left to read
    /// then is as much as one read takes, or all of the request.
    pub fn make_room(&mut self, needed: usize, now: Mono) {
        if std::mem::take(&mut self.is_new_request) {
            self.step_since = now;
        }
        let free = self.bytes.len() - self.end;
        if self.start > 0 && (free < SOCKET_READ_SIZE_MIN || self.start + needed > self.bytes.len()) {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// What it needs beyond its size to read on: nothing while there is room, then as much again, up to
    /// the whole request. So what a request holds is a first buffer, or some twice what has come of it.
    pub fn wants(&self, needed: usize) -> usize {
        let size = self.bytes.len();
        if needed <= size || size - self.end >= SOCKET_READ_SIZE_MIN {
            return 0;
        }
        needed.min(size * 2) - size
    }

    /// Whether a request of `needed` bytes may grow by `more`.
    pub fn may_grow(&mut self, more: usize, needed: usize, waited: Duration) -> Growth {
        self.charge.may_grow(more, needed, waited)
    }

    /// Amortised over all steps each byte is copied once.
    pub fn grow(&mut self, more: usize, now: Mono) {
        self.charge.grow(more);
        let mut bytes = vec![0; self.bytes.len() + more];
        self.move_to(&mut bytes);
        self.bytes = bytes;
        self.step_since = now;
    }

    /// Goes on in a smaller buffer if that one holds what has come with room for as much again; returns
    /// the first buffer that it was. Its request may have to wait for what it gives back, and never for
    /// long: it can be the first to come to its end.
    pub fn shrink(&mut self) -> Option<Vec<u8>> {
        let received = self.end - self.start;
        let size = (received * 2).max(received + SOCKET_READ_SIZE_MIN);
        let free = self.bytes.len() - self.end;
        if self.bytes.len() != RECEIVE_BUFFER_SIZE || size > RECEIVE_BUFFER_SIZE / 2 {
            return None;
        }
        if free < SOCKET_READ_SIZE_MIN {
            return None; // A read may be under way.
        }
        let Ok(Frame::Need { size: needed }) =
            frame::next_frame(&self.bytes[self.start..self.end], usize::MAX)
        else {
            return None; // It is about to be taken, or to end its connection.
        };
        let mut bytes = vec![0; size];
        self.move_to(&mut bytes);
        self.charge.shrink(RECEIVE_BUFFER_SIZE - size, needed);
        Some(std::mem::replace(&mut self.bytes, bytes))
    }

    fn move_to(&mut self, bytes: &mut [u8]) {
        let received = self.end - self.start;
        bytes[..received].copy_from_slice(&self.bytes[self.start..self.end]);
        (self.start, self.end) = (0, received);
    }

    /// Its memory is given back; the caller may keep the bytes for another one.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A connection that holds receive memory and is not being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub held: usize,
    pub state: HolderState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderState {
    /// It is the client's turn, to send or to take answers, since its last step.
    Client { since: Mono },
    /// It waits for so many bytes in all.
    Growing { since: Mono, left: usize },
}

/// Who has to go, of those that hold receive memory while another waits for some: of the clients that
/// made no step for too long the largest holder. `is_starved`: not even first buffers are left, for longer
/// than a moment; then also a large request that waits itself, the one with the most to come first.
/// Returns its place and since when it made no step.
pub fn slowest(
    holders: impl Iterator<Item = Option<Holder>>,
    is_starved: bool,
    now: Mono,
) -> Option<(usize, Holder, Duration)> {
    let judged = holders.enumerate().filter_map(|(at, holder)| {
        let holder = holder?;
        let (rank, since, size_max) = match holder.state {
            HolderState::Client { since } => ((1, holder.held), since, RECEIVE_STEP_TIME_MAX),
            HolderState::Growing { since, left } if is_starved => ((0, left), since, RECEIVE_STARVED_MAX),
            HolderState::Growing { .. } => return None,
        };
        let waited = now.since(since);
        (waited >= size_max).then_some((rank, (at, holder, waited)))
    });
    judged.max_by_key(|(rank, _)| *rank).map(|(_, found)| found)
}

#[cfg(test)]
mod tests;
