//! What is read before it is asked for: while a reader of cold history digests one stretch, the disk
//! works on the next one.
//!
//! Of a partition at most [`STRETCHES_MAX`], so that as many readers at different places do not undo
//! each other's. One that was handed out stays for others who follow close behind, until memory is
//! wanted or nobody came for a while.

use crate::log::plan::align_down;
use crate::shard::catch_up::{AheadMemory, blocks_size};
use crate::shard::event::Broadcast;
use crate::shard::reader::push_range;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::store::Store;
use crate::types::Offset;
use glommio::io::ReadResult;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Stretches of one partition that are read ahead.
const STRETCHES_MAX: usize = 8;

struct Stretch {
    number: u64,
    segment: Offset,
    /// File positions.
    start: u64,
    end: u64,
    /// `None` while the disk works on it.
    arrived: Option<Arrived>,
    /// It was handed out.
    is_used: bool,
    /// Nobody has asked since the last look.
    is_idle: bool,
}

struct Arrived {
    pieces: Vec<Rc<ReadResult>>,
    _memory: AheadMemory,
}

/// Lives: one per replica.
#[derive(Default)]
pub struct ReadAhead {
    /// Oldest first.
    stretches: RefCell<VecDeque<Stretch>>,
    next_number: Cell<u64>,
    arrival: Broadcast,
}

impl ReadAhead {
    /// Hands out what there is from `start` on, waiting for the disk if it is about to arrive. Returns
    /// up to where.
    pub async fn take(&self, segment: Offset, start: u64, end: u64, slices: &mut Vec<Slice>) -> u64 {
        loop {
            {
                let mut stretches = self.stretches.borrow_mut();
                let Some(found) = stretches.iter_mut().find(|stretch| stretch.covers(segment, start)) else {
                    return start;
                };
                if let Some(arrived) = &found.arrived {
                    let end = end.min(found.end);
                    push_range(&arrived.pieces, found.start, start, end, slices);
                    found.is_used = true;
                    found.is_idle = false;
                    return end;
                }
            }
            self.arrival.notified().await;
        }
    }

    /// Gives back what was read for readers that did not come back. Called now and then.
    pub fn drop_idle(&self) {
        let mut stretches = self.stretches.borrow_mut();
        stretches
            .retain_mut(|stretch| !std::mem::replace(&mut stretch.is_idle, true) || !stretch.has_arrived());
    }

    /// Gives back all that is not being read.
    pub fn drop_arrived(&self) {
        self.stretches.borrow_mut().retain(|stretch| !stretch.has_arrived());
    }

    /// Forgets everything; what is still being read then goes nowhere.
    pub fn clear(&self) {
        self.stretches.borrow_mut().clear();
        self.arrival.notify_all();
    }

    fn covers(&self, segment: Offset, position: u64) -> bool {
        self.stretches.borrow().iter().any(|stretch| stretch.covers(segment, position))
    }

    /// Drops the oldest stretch that was handed out. False when there is none.
    fn drop_used(&self) -> bool {
        let mut stretches = self.stretches.borrow_mut();
        let used = stretches.iter().position(|stretch| stretch.is_used);
        used.and_then(|at| stretches.remove(at)).is_some()
    }

    /// Makes room for one more: a used one goes first, then the oldest that is there. False when all of
    /// them are being read.
    fn make_place(&self) -> bool {
        if self.stretches.borrow().len() < STRETCHES_MAX || self.drop_used() {
            return true;
        }
        let mut stretches = self.stretches.borrow_mut();
        let oldest = stretches.iter().position(Stretch::has_arrived);
        oldest.and_then(|at| stretches.remove(at)).is_some()
    }

    fn begin(&self, segment: Offset, start: u64, end: u64) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let stretch = Stretch { number, segment, start, end, arrived: None, is_used: false, is_idle: false };
        self.stretches.borrow_mut().push_back(stretch);
        number
    }

    /// The disk has answered; `None` was an error, which whoever asks for the bytes meets itself.
    fn finish(&self, number: u64, arrived: Option<Arrived>) {
        let mut stretches = self.stretches.borrow_mut();
        if let Some(at) = stretches.iter().position(|stretch| stretch.number == number) {
            match arrived {
                Some(arrived) => stretches[at].arrived = Some(arrived),
                None => drop(stretches.remove(at)),
            }
        }
        drop(stretches);
        self.arrival.notify_all();
    }
}

impl Stretch {
    fn covers(&self, segment: Offset, position: u64) -> bool {
        self.segment == segment && (self.start..self.end).contains(&position)
    }

    fn has_arrived(&self) -> bool {
        self.arrived.is_some()
    }
}

impl Replica {
    /// Begins to read the stretch that a sequential reader will ask for next, if there is memory.
    pub fn read_ahead(self: &Rc<Self>, store: &Rc<Store>, segment: Offset, start: u64, end: u64) {
        let end = self.tail().begin(segment).map_or(end, |tail_begin| end.min(tail_begin));
        let ahead = &self.reads.ahead;
        if end <= start || ahead.covers(segment, start) || !ahead.make_place() {
            return;
        }
        let size = blocks_size(start, end);
        let memory = loop {
            match store.catch_up.take_ahead(size) {
                Some(memory) => break memory,
                None if ahead.drop_used() => {}
                None => return,
            }
        };
        let start = align_down(start); // Where the first buffer begins.
        let number = ahead.begin(segment, start, end);
        let (replica, reading) = (self.clone(), store.clone());
        store.catch_up.spawn(async move {
            let catch_up = &reading.catch_up;
            let pieces = match replica.reader(&reading, segment).await {
                Ok(file) => catch_up.read(&file, start, end).await.ok(),
                Err(_) => None,
            };
            // Somebody may wait for all of the memory by now.
            let arrived = pieces.filter(|_| !catch_up.needs_ahead_back());
            let arrived = arrived.map(|pieces| Arrived { pieces, _memory: memory });
            replica.reads.ahead.finish(number, arrived);
        });
    }
}
