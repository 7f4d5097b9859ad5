//! How much of what readers of cold history want the disk has to do at a time.
//!
//! ```text
//! in line  c ─ b ─ a ──► gate ──► in flight, up to a limit that may change from one moment to the next
//!                         ▲          │
//!                         └── ends ──┘   the first in line goes as soon as it fits, or when nothing is in flight
//! ```
//!
//! Strictly in order: nothing that is smaller passes the first in line, so that nobody starves. While somebody
//! is in line something is in flight, whose end looks at the line again. Who is dropped, in line or in flight,
//! hands on what it leaves.

use crate::shard::event::Signal;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Lives: one per shard.
pub struct ReadGate<L: Fn() -> usize> {
    /// Bytes.
    in_flight: Cell<usize>,
    line: RefCell<VecDeque<Rc<Waiting>>>,
    limit: L,
}

struct Waiting {
    size: usize,
    is_admitted: Cell<bool>,
    /// It was given up; the line is not searched for it.
    is_gone: Cell<bool>,
    signal: Signal,
}

impl<L: Fn() -> usize> ReadGate<L> {
    pub fn new(limit: L) -> ReadGate<L> {
        ReadGate { in_flight: Cell::new(0), line: RefCell::default(), limit }
    }

    /// Waits until `size` bytes may be read; they are in flight until what is returned is dropped.
    pub async fn pass(&self, size: usize) -> Passage<'_, L> {
        if self.line.borrow().is_empty() && self.admits(size) {
            self.in_flight.set(self.in_flight.get() + size);
            return Passage { gate: self, size };
        }
        let waiting = Rc::new(Waiting {
            size,
            is_admitted: Cell::new(false),
            is_gone: Cell::new(false),
            signal: Signal::default(),
        });
        self.line.borrow_mut().push_back(waiting.clone());
        let mut place = Place { gate: self, waiting: Some(&waiting) };
        waiting.signal.notified().await;
        place.waiting = None;
        Passage { gate: self, size }
    }

    /// Bytes that may be in flight now.
    pub fn limit(&self) -> usize {
        (self.limit)()
    }

    fn admits(&self, size: usize) -> bool {
        let in_flight = self.in_flight.get();
        in_flight == 0 || in_flight + size <= self.limit()
    }

    fn end(&self, size: usize) {
        self.in_flight.set(self.in_flight.get() - size);
        self.admit();
    }

    fn admit(&self) {
        let mut line = self.line.borrow_mut();
        while let Some(first) = line.front()
            && (first.is_gone.get() || self.admits(first.size))
        {
            if !first.is_gone.get() {
                self.in_flight.set(self.in_flight.get() + first.size);
                first.is_admitted.set(true);
                first.signal.notify();
            }
            line.pop_front();
        }
    }
}

/// A read in flight.
pub struct Passage<'a, L: Fn() -> usize> {
    gate: &'a ReadGate<L>,
    size: usize,
}

impl<L: Fn() -> usize> Drop for Passage<'_, L> {
    fn drop(&mut self) {
        self.gate.end(self.size);
    }
}

/// A place in line, which may be given up.
struct Place<'a, L: Fn() -> usize> {
    gate: &'a ReadGate<L>,
    waiting: Option<&'a Rc<Waiting>>,
}

impl<L: Fn() -> usize> Drop for Place<'_, L> {
    fn drop(&mut self) {
        let Some(waiting) = self.waiting else { return };
        if waiting.is_admitted.get() {
            return self.gate.end(waiting.size); // Admitted, and nobody came.
        }
        waiting.is_gone.set(true);
        self.gate.admit(); // It may have been the first.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    type Pass<'a, L> = Pin<Box<dyn Future<Output = Passage<'a, L>> + 'a>>;

    /// In line, or through.
    fn ask<L: Fn() -> usize>(gate: &ReadGate<L>, size: usize) -> Pass<'_, L> {
        let mut pass: Pass<'_, L> = Box::pin(gate.pass(size).fuse());
        if let Some(passage) = poll(&mut pass) {
            return Box::pin(std::future::ready(passage));
        }
        pass
    }

    fn poll<'a, L: Fn() -> usize>(pass: &mut Pass<'a, L>) -> Option<Passage<'a, L>> {
        match pass.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(passage) => Some(passage),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_first_in_line_is_passed_by_nobody() {
        let gate = ReadGate::new(|| 8);
        let first = poll(&mut ask(&gate, 5)).expect("nothing is in flight");
        let mut large = ask(&gate, 8);
        let mut small = ask(&gate, 1);
        assert!(poll(&mut large).is_none());
        assert!(poll(&mut small).is_none(), "it would fit, and stands behind");
        drop(first);
        let large = poll(&mut large).expect("its turn");
        assert!(poll(&mut small).is_none());
        drop(large);
        assert!(poll(&mut small).is_some());
    }

    #[test]
    fn one_that_is_too_large_goes_alone() {
        let gate = ReadGate::new(|| 8);
        let small = poll(&mut ask(&gate, 1)).expect("nothing is in flight");
        let mut huge = ask(&gate, 100);
        assert!(poll(&mut huge).is_none());
        drop(small);
        let huge = poll(&mut huge).expect("nothing is in flight");
        let mut next = ask(&gate, 1);
        assert!(poll(&mut next).is_none());
        drop(huge);
        assert!(poll(&mut next).is_some());
    }

    /// The limit is that of the moment in which a read begins, not of the one in which it was asked for.
    #[test]
    fn a_limit_that_changes_holds_for_those_in_line() {
        let limit = Cell::new(8);
        let gate = ReadGate::new(|| limit.get());
        let mut passed: Vec<_> = (0..8).map(|_| poll(&mut ask(&gate, 1)).expect("it fits")).collect();
        let mut line: Vec<_> = (0..12).map(|_| ask(&gate, 1)).collect();
        limit.set(1);
        for _ in 0..7 {
            passed.pop();
            assert!(poll(&mut line[0]).is_none(), "{} are in flight", passed.len());
        }
        passed.pop();
        passed.push(poll(&mut line[0]).expect("one may go"));
        assert!(poll(&mut line[1]).is_none());
        limit.set(8);
        passed.clear();
        passed.extend(line[1..].iter_mut().filter_map(poll));
        assert_eq!(passed.len(), 8);
    }

    #[test]
    fn whoever_is_dropped_hands_on_what_it_leaves() {
        let gate = ReadGate::new(|| 1);
        let failed = poll(&mut ask(&gate, 1)).expect("nothing is in flight");
        let (admitted, in_line, mut last) = (ask(&gate, 1), ask(&gate, 1), ask(&gate, 1));
        drop(in_line);
        drop(failed); // The next has the turn now, and is gone before it takes it, with the read that failed.
        drop(admitted);
        drop(poll(&mut last).expect("nobody else is there"));
        assert_eq!((gate.in_flight.get(), gate.line.borrow().len()), (0, 0));
    }
}
