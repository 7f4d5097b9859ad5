//! Whose turn it is on a follower's connection, and how many bytes may be on their way.
//!
//! ```text
//!   sent ─────────────┬──────────────┬───────► bytes of the connection, counted from its begin
//!            released ┘   in flight  └ sent      in flight ≤ window
//! ```
//!
//! The follower releases bytes when they are flushed there (or thrown away). Partitions whose new bytes are
//! at hand go first; catching up from disk has what is left, and never more than half of the window, so that
//! the tail finds room.

use std::collections::{BTreeSet, VecDeque};

/// Where the next bytes of a partition are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// In memory: they were just written.
    Tail,
    /// On disk.
    CatchUp,
}

/// Lives: one per connection to a follower.
/// Invariant: `released` ≤ `sent`.
#[derive(Clone, Debug)]
pub struct Window {
    size: u64,
    sent: u64,
    released: u64,
}

/// A release of bytes that were never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{released} bytes released of {sent} sent")]
pub struct ReleaseBeyondSent {
    pub released: u64,
    pub sent: u64,
}

impl Window {
    pub fn new(size: u64) -> Window {
        assert!(size > 0, "nothing would ever be sent");
        Window { size, sent: 0, released: 0 }
    }

    pub fn in_flight(&self) -> u64 {
        self.sent - self.released
    }

    /// Bytes that may be sent now. One batch may be larger where nothing is in flight, or it never left.
    pub fn room(&self, lane: Lane) -> u64 {
        let size = match lane {
            Lane::Tail => self.size,
            Lane::CatchUp => self.size.div_ceil(2),
        };
        size.saturating_sub(self.in_flight())
    }

    /// Whether a first batch of that size may be sent.
    pub fn admits(&self, lane: Lane, size: u64) -> bool {
        self.in_flight() == 0 || size <= self.room(lane)
    }

    pub fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// The follower has done with so many bytes of this connection, in all. Older news change nothing.
    pub fn released(&mut self, released: u64) -> Result<(), ReleaseBeyondSent> {
        if released > self.sent {
            return Err(ReleaseBeyondSent { released, sent: self.sent });
        }
        self.released = self.released.max(released);
        Ok(())
    }
}

/// The partitions that have something for a follower, in turn.
///
/// Lives: one per connection to a follower. Shape: O(log partitions) per call.
#[derive(Clone, Debug)]
pub struct Turns<K> {
    tail: VecDeque<K>,
    catch_up: VecDeque<K>,
    queued: BTreeSet<(Lane, K)>,
}

impl<K: Copy + Ord> Turns<K> {
    pub fn new() -> Turns<K> {
        Turns { tail: VecDeque::new(), catch_up: VecDeque::new(), queued: BTreeSet::new() }
    }

    /// Something is there for it. Once until its turn has come.
    pub fn want(&mut self, partition: K, lane: Lane) {
        if self.queued.insert((lane, partition)) {
            self.lane(lane).push_back(partition);
        }
    }

    /// Whose turn it is in that lane.
    pub fn next(&mut self, lane: Lane) -> Option<K> {
        let partition = self.lane(lane).pop_front()?;
        self.queued.remove(&(lane, partition));
        Some(partition)
    }

    /// It had no room, and stays the next one.
    pub fn put_back(&mut self, partition: K, lane: Lane) {
        if self.queued.insert((lane, partition)) {
            self.lane(lane).push_front(partition);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<K> {
        match lane {
            Lane::Tail => &mut self.tail,
            Lane::CatchUp => &mut self.catch_up,
        }
    }
}

impl<K: Copy + Ord> Default for Turns<K> {
    fn default() -> Turns<K> {
        Turns::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_takes_room_until_it_is_released() {
        let mut window = Window::new(100);
        assert!(window.admits(Lane::Tail, 1000), "or a large batch never left");
        window.sent(60);
        assert_eq!((window.room(Lane::Tail), window.room(Lane::CatchUp)), (40, 0));
        assert!(!window.admits(Lane::Tail, 41));
        assert_eq!(window.released(61), Err(ReleaseBeyondSent { released: 61, sent: 60 }));
        assert_eq!(window.released(50), Ok(()));
        assert_eq!(window.released(20), Ok(()), "older news");
        assert_eq!((window.room(Lane::Tail), window.room(Lane::CatchUp)), (90, 40));
    }

    #[test]
    fn turns_go_round_and_nobody_is_queued_twice() {
        let mut turns = Turns::new();
        for partition in [1, 2, 1, 3] {
            turns.want(partition, Lane::Tail);
        }
        turns.want(1, Lane::CatchUp);
        assert_eq!(turns.next(Lane::Tail), Some(1));
        turns.want(1, Lane::Tail);
        assert_eq!(turns.next(Lane::Tail), Some(2));
        turns.put_back(2, Lane::Tail);
        let rest: Vec<_> = std::iter::from_fn(|| turns.next(Lane::Tail)).collect();
        assert_eq!(rest, [2, 3, 1]);
        assert_eq!((turns.next(Lane::CatchUp), turns.next(Lane::CatchUp)), (Some(1), None));
        assert!(turns.is_empty());
    }
}
