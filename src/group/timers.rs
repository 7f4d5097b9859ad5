//! Deadlines as data: what to look at, and when.
//!
//! An entry is a reminder and not the deadline itself, which is where it belongs, in a member or a group: a
//! heartbeat moves that one, the reminder comes too early and is set again. So a member that sends heartbeats
//! costs one entry, whatever their rate.

use crate::types::Mono;
use std::collections::BTreeSet;
use std::rc::Rc;

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A member's session, also of one that has only asked for its id.
    Session { group: Rc<str>, member: Rc<str> },
    /// The group waits for members to join.
    Join { group: Rc<str> },
    /// It waits for members to ask for their assignments.
    Sync { group: Rc<str> },
    /// A member of a group of the newer protocol, whichever of its deadlines is the first.
    Member { group: Rc<str>, member: Rc<str> },
}

/// Lives: one per coordinator. Bounded by the members and groups there are: each has one reminder for each of
/// its deadlines, which goes with it.
#[derive(Debug, Default)]
pub struct Timers {
    queue: BTreeSet<(Mono, Timer)>,
}

impl Timers {
    pub fn set(&mut self, at: Mono, timer: Timer) {
        self.queue.insert((at, timer));
    }

    pub fn cancel(&mut self, at: Mono, timer: &Timer) {
        self.queue.remove(&(at, timer.clone()));
    }

    pub fn count(&self) -> usize {
        self.queue.len()
    }

    /// When there is something to look at.
    pub fn next(&self) -> Option<Mono> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// The next reminder that is due.
    pub fn take_due(&mut self, now: Mono) -> Option<Timer> {
        let is_due = self.queue.first().is_some_and(|(at, _)| *at <= now);
        is_due.then(|| self.queue.pop_first().expect("looked at above").1)
    }
}
