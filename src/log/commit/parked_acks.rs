//! Answers that wait for a flush.

use crate::types::Offset;
use crate::types::short_queue::ShortQueue;

/// Answers that wait for a partition's durable end, in offset order.
///
/// Lives: one per partition. Bounded by the requests in flight of its connections.
#[derive(Debug)]
pub struct ParkedAcks<T> {
    parked: ShortQueue<(Offset, T)>,
}

impl<T> Default for ParkedAcks<T> {
    fn default() -> Self {
        ParkedAcks { parked: ShortQueue::default() }
    }
}

impl<T> ParkedAcks<T> {
    /// Parks an answer until everything below `end` is durable. A duplicate's batch may lie before
    /// others that wait already; its answer goes behind theirs.
    pub fn park(&mut self, end: Offset, answer: T) {
        let end = self.parked.back().map_or(end, |(last, _)| end.max(*last));
        self.parked.push_back((end, answer));
    }

    /// The next answer that may leave.
    pub fn release(&mut self, durable_end: Offset) -> Option<T> {
        match self.parked.front() {
            Some((end, _)) if *end <= durable_end => self.parked.pop_front().map(|(_, answer)| answer),
            _ => None,
        }
    }

    /// Every answer, for a log that went offline or away.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.parked.drain().map(|(_, answer)| answer)
    }

    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }
}
