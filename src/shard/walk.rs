//! A walk over all replicas of a shard, however many, in steps that hold the executor briefly.

use crate::shard::replica::Replica;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::types::TopicPartition;
use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;

/// Replicas looked up together.
const LOOK_AHEAD: usize = 64;

/// Lives: as long as one walk. Replicas come in the order of their ids; one that comes meanwhile may be
/// missed, one that goes is left out.
pub struct Walk {
    store: Rc<Store>,
    pace: Pace,
    from: Bound<TopicPartition>,
    ahead: VecDeque<Rc<Replica>>,
}

impl Walk {
    pub fn new(store: &Rc<Store>) -> Walk {
        let pace = Pace::new(&store.clock);
        Walk { store: store.clone(), pace, from: Bound::Unbounded, ahead: VecDeque::new() }
    }

    pub async fn next(&mut self) -> Option<Rc<Replica>> {
        self.pace.give_way().await;
        loop {
            if self.ahead.is_empty() {
                self.ahead = self.store.replicas_from(self.from, LOOK_AHEAD);
                self.from = Bound::Excluded(self.ahead.back()?.id);
            }
            let next = self.ahead.pop_front()?;
            if !next.is_deleted() {
                return Some(next);
            }
        }
    }
}
