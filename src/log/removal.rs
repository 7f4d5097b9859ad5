//! Files that were given up and wait for their removal (`file.delete.delay.ms`).
//!
//! ```text
//! retention, DeleteRecords   00000000000000000000.log ─► .log.deleted ─── delay ──► gone
//! DeleteTopics               orders-0 ─► orders-0.<unique>-delete ─────── delay ──► gone
//! ```
//!
//! The new name comes at once, so that nobody opens the file again; who has it open goes on reading.
//! Nothing of this is kept over a restart: a start removes whatever has such a name (Kafka
//! `LocalLog.deleteSegmentFiles`, `LogManager.deleteLogs`).

use crate::types::Mono;
use crate::types::limits::REMOVALS_WAITING_MAX;
use std::collections::BTreeMap;

/// Lives: one per shard. Pure.
/// Shape: O(log n) per removal; never more than [`REMOVALS_WAITING_MAX`] wait.
#[derive(Debug)]
pub struct Removals<T> {
    /// By when they are due and in which order they came.
    waiting: BTreeMap<(Mono, u64), T>,
    next: u64,
    count_max: usize,
}

impl<T> Default for Removals<T> {
    fn default() -> Removals<T> {
        Removals { waiting: BTreeMap::new(), next: 0, count_max: REMOVALS_WAITING_MAX }
    }
}

impl<T> Removals<T> {
    pub fn wait(&mut self, due: Mono, removal: T) {
        self.waiting.insert((due, self.next), removal);
        self.next += 1;
    }

    /// The next one that is to go by `now`: one that is due, or the first of too many.
    pub fn take(&mut self, now: Mono) -> Option<T> {
        let first = self.waiting.first_entry()?;
        if first.key().0 <= now {
            return Some(first.remove());
        }
        if self.waiting.len() > self.count_max {
            return self.waiting.pop_first().map(|(_, removal)| removal);
        }
        None
    }

    pub fn count(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goes_when_it_is_due() {
        let mut removals = Removals::default();
        removals.wait(Mono(20), "later");
        removals.wait(Mono(10), "sooner");
        removals.wait(Mono(10), "as soon");
        assert_eq!(removals.take(Mono(9)), None);
        assert_eq!(removals.take(Mono(10)), Some("sooner"));
        assert_eq!(removals.take(Mono(10)), Some("as soon"));
        assert_eq!(removals.take(Mono(19)), None);
        assert_eq!(removals.take(Mono(25)), Some("later"));
        assert_eq!((removals.take(Mono(99)), removals.count()), (None, 0));
    }

    #[test]
    fn the_first_of_too_many_goes_before_its_time() {
        let mut removals = Removals { count_max: 2, ..Removals::default() };
        for number in 0..4u64 {
            removals.wait(Mono(100 - number), number);
        }
        assert_eq!((removals.take(Mono(0)), removals.take(Mono(0))), (Some(3), Some(2)));
        assert_eq!((removals.take(Mono(0)), removals.count()), (None, 2));
    }
}
