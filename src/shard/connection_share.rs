//! How many connections this shard may have, of those that `max.connections` allows the node.
//!
//! The kernel spreads connections unevenly, so no shard keeps a fixed part. Each begins with an equal
//! one; a full shard asks the others for some of what they have free:
//!
//! ```text
//! shard 0   |#########|          full: asks ─────────► shard 1   |###......|
//!           |#########...|       ◄── three of six free ─         |###...|
//! ```
//!
//! What one lends it no longer has, so the shares (and those on their way) always add up to the node's
//! limit, and nothing is shared between cores to keep it. Shards may ask each other at the same time: one
//! that has nothing but asks itself may be about to get more than it needs, and says so; whoever asked it
//! asks again before it refuses a connection. Pure.

use crate::types::{Mono, ShardId};
use std::time::Duration;

/// After nobody had any, so long passes before a shard asks again: a flood of connections past the limit
/// is refused without a flood of messages.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Questions in a row that may end in vain while other shards ask as well, and the time between two of them.
pub const ASK_ROUNDS_MAX: usize = 5;
pub const ASK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// A shard's answer to another one that has no slots left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    pub slots: usize,
    /// It asks others itself: they may have given it more than it needs.
    pub is_asking: bool,
}

/// Lives: one per shard.
#[derive(Debug)]
pub struct ConnectionShare {
    /// Below zero after the limit was lowered by more than was here.
    slots: i64,
    /// Rounds of questions to the others that have not come to their end.
    asking: usize,
    /// When all others were asked in vain.
    refused: Option<Mono>,
}

impl ConnectionShare {
    /// The equal part of `limit` with which a shard begins; the first shards get what is left over.
    pub fn new(limit: usize, shards: usize, shard: ShardId) -> ConnectionShare {
        ConnectionShare { slots: part(limit, shards, shard), asking: 0, refused: None }
    }

    /// The node may have another number from now on. Each shard makes its own part larger or smaller by what
    /// the equal parts differ, wherever slots have gone meanwhile: the shares add up to the new limit.
    pub fn change_limit(&mut self, (before, after): (usize, usize), shards: usize, shard: ShardId) {
        self.slots += part(after, shards, shard) - part(before, shards, shard);
        self.refused = None;
    }

    pub fn has_room(&self, open: usize) -> bool {
        (open as i64) < self.slots
    }

    /// Whether the others are worth asking.
    pub fn may_ask(&self, now: Mono) -> bool {
        self.refused.is_none_or(|refused| now.since(refused) >= ASK_INTERVAL)
    }

    /// The others are asked from here on, until [`ends_asking`](Self::ends_asking).
    pub fn begins_asking(&mut self) {
        self.asking += 1;
    }

    pub fn ends_asking(&mut self) {
        self.asking -= 1;
    }

    pub fn asked_in_vain(&mut self, now: Mono) {
        self.refused = Some(now);
    }

    /// Another shard has given `slots` of its own.
    pub fn take(&mut self, slots: usize) {
        self.slots += slots as i64;
        if slots > 0 {
            self.refused = None;
        }
    }

    /// Gives away half of what is free, the last one too: whoever asks has none.
    pub fn lend(&mut self, open: usize) -> Lent {
        let free = usize::try_from(self.slots - open as i64).unwrap_or_default();
        let slots = free.div_ceil(2);
        self.slots -= slots as i64;
        Lent { slots, is_asking: self.asking > 0 }
    }
}

/// An equal part of `limit`; the first shards get what is left over.
fn part(limit: usize, shards: usize, shard: ShardId) -> i64 {
    (limit / shards + usize::from(shard.index() < limit % shards)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_begin_equal_and_add_up() {
        for (limit, shards) in [(10, 4), (3, 4), (20_000, 7), (1, 2)] {
            let slots =
                (0..shards).map(|shard| ConnectionShare::new(limit, shards, ShardId(shard as u16)).slots);
            let slots: Vec<i64> = slots.collect();
            assert_eq!(slots.iter().sum::<i64>(), limit as i64);
            assert!(slots.iter().max().unwrap() - slots.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_flood_is_refused_without_asking_again_for_a_while() {
        let mut share = ConnectionShare::new(2, 2, ShardId(0));
        let now = Mono(1_000);
        assert!(share.may_ask(now));
        share.asked_in_vain(now);
        assert!(!share.may_ask(now));
        assert!(share.may_ask(now.after(ASK_INTERVAL)));
        share.take(1);
        assert!(share.may_ask(now), "somebody had one");
    }

    #[test]
    fn slots_that_are_on_their_way_are_waited_for() {
        let mut shares = [0, 1].map(|shard| ConnectionShare::new(12, 2, ShardId(shard)));
        // The first is full and asks the second, which has three connections: two of its three free slots are
        // on their way.
        shares[0].begins_asking();
        let on_its_way = shares[1].lend(3);
        assert_eq!(on_its_way, Lent { slots: 2, is_asking: false });
        // Meanwhile the second gets two more, has room for one of them only, and asks: there is one left.
        assert!(shares[1].has_room(3) && !shares[1].has_room(4));
        assert_eq!(shares[0].lend(6), Lent { slots: 0, is_asking: true });
        shares[0].take(on_its_way.slots);
        shares[0].ends_asking();
        assert_eq!(shares[0].lend(7), Lent { slots: 1, is_asking: false });
    }

    proptest! {
        /// Connections come and go anywhere: one is refused only if the node has as many as it may.
        #[test]
        fn a_connection_is_refused_exactly_at_the_nodes_limit(
            steps in proptest::collection::vec((0..3usize, any::<bool>(), 0..40usize), 1..300),
            limit in 1..20usize,
        ) {
            let mut limit = limit;
            let mut shares = [0, 1, 2].map(|shard| ConnectionShare::new(limit, 3, ShardId(shard)));
            let mut open = [0usize; 3];
            for (shard, comes, changed) in steps {
                // Now and then the limit changes under them.
                if (1..20).contains(&changed) && comes {
                    for (at, share) in shares.iter_mut().enumerate() {
                        share.change_limit((limit, changed), 3, ShardId(at as u16));
                    }
                    limit = changed;
                }
                if !comes {
                    open[shard] = open[shard].saturating_sub(1);
                    continue;
                }
                // Where the limit was lowered below what is there, those that are too many stay until they end,
                // and others may come up to their own parts.
                let is_over = shares.iter().zip(open).any(|(share, open)| (open as i64) > share.slots);
                for other in (0..3).filter(|other| *other != shard) {
                    if !shares[shard].has_room(open[shard]) {
                        let lent = shares[other].lend(open[other]);
                        shares[shard].take(lent.slots);
                    }
                }
                let admitted = shares[shard].has_room(open[shard]);
                if !is_over {
                    prop_assert_eq!(admitted, open.iter().sum::<usize>() < limit);
                }
                open[shard] += usize::from(admitted);
                prop_assert_eq!(shares.iter().map(|share| share.slots).sum::<i64>(), limit as i64);
            }
        }
    }
}
