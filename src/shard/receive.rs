//! Memory for requests on their way in: who may take some, who waits, and who has to go.
//!
//! ```text
//! silent connection    holds nothing
//! first bytes          take one receive buffer; while none fits, the socket is not read, but looked at:
//!                      a request that one holds finds one whatever large ones have announced
//! a larger request     gets twice as much whenever what it has is full: nothing for what it announces
//! executed             gives everything back, and all that wait look again
//!
//! limit  |--- requests of any size ---------------------------|------- reserve -------|
//!                  first buffers go on while large ones hold this:          ^
//!                  the large one nearest to its end goes on while first buffers hold all before it
//! ```
//!
//! There is no queue: whoever finds room takes it. A request is among the large ones as soon as its prefix
//! is there, and these get more only while all of them could still come to their end, one after the other,
//! so that none waits for another that waits for it. First buffers are what such requests begin with: no
//! more are given out than leave the large ones their ends.
//!
//! While somebody waits, what others hold is looked at: a buffer that is hardly filled becomes a small
//! one, and whoever has made no step for [`RECEIVE_STEP_TIME_MAX`] loses its connection, the largest
//! holder first. A request that waits for [`RECEIVE_GROW_WAIT_MAX`] while no other large one came to its
//! end costs its own connection.

mod spares;

use crate::codec::frame::{self, Frame, FrameError};
use crate::config::memory::MemoryPlan;
use crate::shard::event::Broadcast;
use crate::shard::memory::{Charge, Meter};
use crate::shard::receive::spares::SpareBuffers;
use crate::types::Mono;
use crate::types::limits::{
    RECEIVE_BUFFER_SIZE, RECEIVE_GROW_WAIT_MAX, RECEIVE_RELIEF_PAUSE, RECEIVE_SPARES_SHARE,
    RECEIVE_SPARES_SIZE_MAX, RECEIVE_STEP_TIME_MAX, SOCKET_READ_SIZE_MIN,
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

/// A request that its first buffer does not hold; one that is there needs no more, and gives all back.
#[derive(Clone, Copy, Debug)]
struct Growing {
    held: usize,
    /// In all.
    needed: usize,
    /// It has asked for more and got none.
    is_waiting: bool,
}

impl Growing {
    fn left(&self) -> usize {
        self.needed.saturating_sub(self.held)
    }
}

/// Lives: one per shard.
pub struct ReceiveMemory {
    meter: Rc<Meter>,
    /// Bytes that large requests leave to first buffers, and first buffers to the nearest of these.
    reserve: usize,
    /// Notified whenever some of it was given back, or is not needed any more.
    pub freed: Broadcast,
    /// Requests larger than their first buffers. Ordered, so that runs repeat.
    growing: RefCell<BTreeMap<u64, Growing>>,
    next_growing: Cell<u64>,
    /// How many of them have come to their end.
    finished: Cell<u64>,
    /// When holders were last looked at.
    relieved: Cell<Option<Mono>>,
    spares: RefCell<SpareBuffers>,
}

/// What one connection holds of it, until dropped.
pub struct ReceiveCharge {
    /// `None` only while it is dropped.
    charge: Option<Charge>,
    /// Its place among those that grow.
    growing: Option<u64>,
    /// Since when it waits for more, and how many others had come to their end then.
    waiting: Option<(Mono, u64)>,
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
            finished: Cell::new(0),
            relieved: Cell::new(None),
            spares: RefCell::new(SpareBuffers::new(
                (limit / RECEIVE_SPARES_SHARE).min(RECEIVE_SPARES_SIZE_MAX),
            )),
        })
    }

    /// A buffer of `size` bytes, whatever they are. Charged by whoever receives into it.
    pub fn buffer(&self, size: usize) -> Vec<u8> {
        self.spares.borrow_mut().take(size)
    }

    /// It may be needed again.
    pub fn keep(&self, buffer: Vec<u8>) {
        self.spares.borrow_mut().keep(buffer);
    }

    pub fn used(&self) -> usize {
        self.meter.used()
    }

    /// Whether there is a first buffer for one more connection. Whatever the requests in first buffers
    /// turn out to be, the reserve is left to finish one of them; those that are known to be large can
    /// all be finished beside one more of them and a small one, and the nearest of them can be at once if it
    /// is not larger than half of the memory.
    pub fn has_first_buffer(&self) -> bool {
        let growing = self.growing.borrow();
        // All of them may turn out to be large, and the nearest leaves room for a small one.
        self.has_room_beside(&growing, RECEIVE_BUFFER_SIZE)
            && can_all_finish(growing.values().copied(), self.meter.limit(), 2 * RECEIVE_BUFFER_SIZE)
    }

    /// The same of one whose request is known to be small: it gives the buffer back whatever the large ones
    /// have announced, and is not kept out by what they do not send. While the nearest of them waits for
    /// such buffers, they are given out one at a time, beside which it goes on.
    pub fn has_small_buffer(&self) -> bool {
        let growing = self.growing.borrow();
        let nearest_waits = nearest(&growing).is_some_and(|(id, _)| growing[&id].is_waiting);
        self.has_room_beside(&growing, 0) && (!nearest_waits || self.first_buffers(&growing) == 0)
    }

    /// Whether one more first buffer leaves the reserve, and the nearest large request its end or half of the
    /// memory, with some to spare.
    fn has_room_beside(&self, growing: &BTreeMap<u64, Growing>, spare: usize) -> bool {
        let first = self.first_buffers(growing) + RECEIVE_BUFFER_SIZE;
        let limit = self.meter.limit();
        let unfinished: usize =
            growing.values().filter(|growing| growing.left() > 0).map(|growing| growing.held).sum();
        let kept = nearest(growing).map_or(0, |(_, left)| left.min(limit / 2) + spare);
        self.meter.has_room(RECEIVE_BUFFER_SIZE)
            && first <= limit - self.reserve
            && unfinished + first + kept <= limit
    }

    /// Bytes of those buffers whose requests are not known to be larger.
    fn first_buffers(&self, growing: &BTreeMap<u64, Growing>) -> usize {
        self.meter.used() - growing.values().map(|growing| growing.held).sum::<usize>()
    }

    /// The large requests wait for each other and nothing else: first buffers that were given out before
    /// have all turned into them.
    pub fn is_stuck(&self) -> bool {
        !can_all_finish(self.growing.borrow().values().copied(), self.meter.limit(), RECEIVE_BUFFER_SIZE)
    }

    /// Counts `size`, whether there is room or not: the caller has asked.
    pub fn take(self: &Rc<Self>, size: usize) -> ReceiveCharge {
        ReceiveCharge {
            charge: Some(self.meter.charge(size)),
            growing: None,
            waiting: None,
            memory: self.clone(),
        }
    }

    /// Whether it is time to look at the holders again; the caller then does.
    pub fn begin_relief(&self, now: Mono) -> bool {
        let is_due = self.relieved.get().is_none_or(|last| now.since(last) >= RECEIVE_RELIEF_PAUSE);
        if is_due {
            self.relieved.set(Some(now));
        }
        is_due
    }

    /// The request nearest to its end gets more while all of it fits beside the first buffers that there
    /// are, or one. The others leave these the reserve, and each other their ends; one that a first buffer
    /// would hold leaves no reserve.
    fn may_hold_more(&self, id: u64, more: usize) -> bool {
        let growing = self.growing.borrow();
        let own = growing[&id];
        let first = self.first_buffers(&growing);
        let limit = self.meter.limit();
        if nearest(&growing).is_some_and(|(nearest, _)| nearest == id) {
            let held: usize = growing.values().map(|growing| growing.held).sum();
            return held + own.left() + first.max(RECEIVE_BUFFER_SIZE) <= limit;
        }
        let reserve = if own.needed <= RECEIVE_BUFFER_SIZE { 0 } else { self.reserve };
        let after = growing.iter().map(|(other, growing)| {
            let held = growing.held + if *other == id { more } else { 0 };
            Growing { held, ..*growing }
        });
        can_all_finish(after, limit, first.max(reserve))
    }
}

/// The request that needs the least to come to its end, and how much; of two the older.
fn nearest(growing: &BTreeMap<u64, Growing>) -> Option<(u64, usize)> {
    let unfinished = growing.iter().map(|(id, growing)| (*id, growing.left())).filter(|(_, left)| *left > 0);
    unfinished.min_by_key(|(_, left)| *left)
}

/// Whether an order is left in which every request can be received whole: the nearest to its end first,
/// which gives back what it held (Dijkstra's banker, for one resource). `others`: bytes that are held
/// beside them. O(n log n) for n such requests, at each step of one and for each first buffer.
fn can_all_finish(growing: impl Iterator<Item = Growing>, limit: usize, others: usize) -> bool {
    let mut growing: Vec<Growing> = growing.collect();
    let held: usize = growing.iter().map(|growing| growing.held).sum();
    let Some(mut free) = limit.checked_sub(held + others) else { return false };
    growing.sort_unstable_by_key(Growing::left);
    growing.iter().all(|growing| {
        let fits = growing.left() <= free;
        free += growing.held;
        fits
    })
}

impl ReceiveCharge {
    /// Whether a request of `needed` bytes may get `more` now. It waits for as long as others come to
    /// their end meanwhile.
    fn may_grow(&mut self, more: usize, needed: usize, now: Mono) -> Growth {
        if needed > self.memory.meter.limit() - self.memory.reserve {
            return Growth::Refused;
        }
        let id = self.needs(needed);
        if self.memory.may_hold_more(id, more) {
            self.waiting = None;
            return Growth::Now;
        }
        if let Some(growing) = self.memory.growing.borrow_mut().get_mut(&id) {
            growing.is_waiting = true;
        }
        let finished = self.memory.finished.get();
        let waiting = self.waiting.filter(|(_, seen)| *seen == finished);
        let (since, _) = *self.waiting.insert(waiting.unwrap_or((now, finished)));
        let waited = now.since(since);
        if waited >= RECEIVE_GROW_WAIT_MAX {
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
        memory.growing.borrow_mut().insert(id, Growing { held, needed, is_waiting: false });
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

    /// Its request is there; what follows in the buffer is another one. A buffer that was made for the one
    /// request holds nothing else, and is given back.
    fn settle(&mut self) {
        let Some(id) = self.growing else { return };
        self.memory.finished.set(self.memory.finished.get() + 1);
        let held = self.charge.as_ref().map_or(0, Charge::size);
        if held > RECEIVE_BUFFER_SIZE {
            self.needs(held);
        } else {
            self.memory.growing.borrow_mut().remove(&id);
            self.growing = None;
        }
        self.memory.freed.notify_all(); // What it left to its end is others' now.
    }

    fn charge_mut(&mut self) -> &mut Charge {
        self.charge.as_mut().expect("it is there until the drop")
    }
}

impl Drop for ReceiveCharge {
    fn drop(&mut self) {
        if let Some(id) = self.growing.take() {
            self.memory.growing.borrow_mut().remove(&id);
        }
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
    /// Nothing is received beyond it.
    read_end: usize,
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
        let read_end = usize::MAX;
        ReceiveBuffer { bytes, start: 0, end: 0, read_end, charge, step_since: now, is_new_request: false }
    }

    /// Takes no more than the first request, which has so many bytes.
    pub fn of_one_request(self, size: usize) -> ReceiveBuffer {
        ReceiveBuffer { read_end: size, ..self }
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
        let read_end = self.read_end.min(self.bytes.len());
        &mut self.bytes[self.end..read_end]
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
                self.read_end = usize::MAX;
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
        if needed > self.bytes.len() {
            self.charge.needs(needed); // Before it has to grow, so that the others leave it room.
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
    pub fn may_grow(&mut self, more: usize, needed: usize, now: Mono) -> Growth {
        self.charge.may_grow(more, needed, now)
    }

    /// Amortised over all steps each byte is copied once.
    pub fn grow(&mut self, more: usize, now: Mono) {
        self.charge.grow(more);
        let mut bytes = self.charge.memory.buffer(self.bytes.len() + more);
        self.move_to(&mut bytes);
        self.charge.memory.keep(std::mem::replace(&mut self.bytes, bytes));
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
        let mut bytes = self.charge.memory.buffer(size);
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
    /// It is not read for a while: its client has used up a quota.
    Muted,
}

/// Who has to go, of those that hold receive memory while another waits for `wanted` bytes: of the clients
/// that made no step for too long the largest holders, until they cover it. `is_stuck`: large requests wait
/// for each other and nothing else; then the one with the most to come has to go. Returns their places and
/// how long each made no step.
pub fn slowest(
    holders: impl Iterator<Item = Option<Holder>>,
    is_stuck: bool,
    wanted: usize,
    now: Mono,
) -> Vec<(usize, Holder, Duration)> {
    let mut overdue = Vec::new();
    let mut growing = Vec::new();
    for (at, holder) in holders.enumerate() {
        let Some(holder) = holder else { continue };
        match holder.state {
            HolderState::Client { since } if now.since(since) >= RECEIVE_STEP_TIME_MAX => {
                overdue.push((at, holder, now.since(since)));
            }
            HolderState::Client { .. } | HolderState::Muted => {}
            HolderState::Growing { since, left } => growing.push((left, (at, holder, now.since(since)))),
        }
    }
    if overdue.is_empty() && is_stuck {
        let most = growing.into_iter().max_by_key(|(left, _)| *left);
        return most.map(|(_, found)| found).into_iter().collect();
    }
    overdue.sort_by_key(|(_, holder, _)| std::cmp::Reverse(holder.held));
    let mut freed = 0;
    overdue.retain(|(_, holder, _)| {
        let is_needed = freed < wanted;
        freed += if is_needed { holder.held } else { 0 };
        is_needed
    });
    overdue
}

#[cfg(test)]
mod tests;
