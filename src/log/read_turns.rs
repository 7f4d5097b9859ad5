//! Whose turn it is to read from disk: the memory for reads of what is no longer in the tail, handed
//! out in order.
//!
//! ```text
//! budget   |--- turns: answers being read ---|- read ahead, at most half -|--- free ---|
//! waiting    reader 3 ─ reader 1 ─ reader 7   one turn each, then the line begins again
//!               └ its next one stands behind 7
//! ```
//!
//! A turn that does not fit waits, and nothing passes it: what is given back goes to the first in line,
//! however large its wish. Readers take their turns one after the other, so one that asks a hundred
//! times costs the others no more than one that asks once. A turn larger than the budget, for a batch
//! of that size, is given when nothing else is held. Whoever waits must hold nothing; then everything
//! that is held comes back by itself.
//!
//! Absent: the reads themselves, and how many of them are in flight.

use crate::types::ShardId;
use std::collections::{BTreeMap, VecDeque};

/// Who reads: a connection of a shard. Connections are counted from one; zero is the shard itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderId {
    pub shard: ShardId,
    pub connection: u64,
}

/// A turn that was asked for and not granted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TurnId(u64);

/// What became of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Granted,
    /// [`ReadTurns::grant_next`] names it when it is granted.
    Waits(TurnId),
}

#[derive(Debug)]
struct Wish {
    turn: TurnId,
    size: usize,
}

/// Lives: one per shard. Pure.
/// Invariant: turns + ahead ≤ budget, but for a single turn that is larger than that.
#[derive(Debug)]
pub struct ReadTurns {
    /// Bytes, as are the next two.
    budget: usize,
    turns: usize,
    ahead: usize,
    /// Of each reader that waits, oldest first; none is empty.
    waiting: BTreeMap<ReaderId, VecDeque<Wish>>,
    /// Those readers, the next first.
    line: VecDeque<ReaderId>,
    next_turn: u64,
}

impl ReadTurns {
    pub fn new(budget: usize) -> ReadTurns {
        ReadTurns {
            budget,
            turns: 0,
            ahead: 0,
            waiting: BTreeMap::new(),
            line: VecDeque::new(),
            next_turn: 0,
        }
    }

    /// Bytes held.
    pub fn used(&self) -> usize {
        self.turns + self.ahead
    }

    /// Turns that are waited for.
    pub fn waiting_count(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// A turn of `size` bytes, if it can be had without a wait.
    pub fn try_take(&mut self, size: usize) -> bool {
        let takes = self.line.is_empty() && self.fits(size);
        if takes {
            self.turns += size;
        }
        takes
    }

    /// A turn of `size` bytes, now or when it is the reader's.
    pub fn ask(&mut self, reader: ReaderId, size: usize) -> Asked {
        if self.try_take(size) {
            return Asked::Granted;
        }
        let turn = TurnId(self.next_turn);
        self.next_turn += 1;
        let wishes = self.waiting.entry(reader).or_default();
        if wishes.is_empty() {
            self.line.push_back(reader);
        }
        wishes.push_back(Wish { turn, size });
        Asked::Waits(turn)
    }

    /// The next of those that wait, if it fits; it is granted by that.
    pub fn grant_next(&mut self) -> Option<TurnId> {
        let reader = *self.line.front()?;
        let size = self.first_size()?;
        if !self.fits(size) {
            return None;
        }
        self.line.pop_front();
        let wishes = self.waiting.get_mut(&reader).expect("a reader in line waits");
        let wish = wishes.pop_front().expect("a reader in line waits");
        if wishes.is_empty() {
            self.waiting.remove(&reader);
        } else {
            self.line.push_back(reader);
        }
        self.turns += wish.size;
        Some(wish.turn)
    }

    /// A turn is no longer waited for. O(turns of that reader + readers).
    pub fn withdraw(&mut self, reader: ReaderId, turn: TurnId) {
        let Some(wishes) = self.waiting.get_mut(&reader) else { return };
        wishes.retain(|wish| wish.turn != turn);
        if wishes.is_empty() {
            self.waiting.remove(&reader);
            self.line.retain(|other| *other != reader);
        }
    }

    pub fn give_back(&mut self, size: usize) {
        assert!(size <= self.turns, "more was given back than taken");
        self.turns -= size;
    }

    /// Memory to read ahead. Never while somebody waits for a turn.
    pub fn take_ahead(&mut self, size: usize) -> bool {
        let takes =
            self.line.is_empty() && self.ahead + size <= self.budget / 2 && self.used() + size <= self.budget;
        if takes {
            self.ahead += size;
        }
        takes
    }

    pub fn give_back_ahead(&mut self, size: usize) {
        assert!(size <= self.ahead, "more was given back than taken");
        self.ahead -= size;
    }

    /// The first in line does not fit beside what was read ahead, whatever comes back otherwise.
    pub fn needs_ahead_back(&self) -> bool {
        self.ahead > 0 && self.first_size().is_some_and(|size| size > self.budget - self.ahead)
    }

    fn first_size(&self) -> Option<usize> {
        let wishes = self.waiting.get(self.line.front()?)?;
        wishes.front().map(|wish| wish.size)
    }

    fn fits(&self, size: usize) -> bool {
        self.used() == 0 || self.used() + size <= self.budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_fit_waits_and_is_not_passed_by_what_would() {
        let mut turns = ReadTurns::new(100);
        assert_eq!(turns.ask(reader(1), 60), Asked::Granted);
        let large = waits(turns.ask(reader(2), 90));
        let small = waits(turns.ask(reader(3), 10));
        assert!(!turns.try_take(1), "somebody waits");
        assert_eq!(turns.grant_next(), None);
        turns.give_back(60);
        assert_eq!((turns.grant_next(), turns.grant_next()), (Some(large), Some(small)));
        assert_eq!((turns.used(), turns.waiting_count()), (100, 0));
    }

    #[test]
    fn a_reader_that_asks_often_has_one_turn_in_a_round() {
        let mut turns = ReadTurns::new(10);
        assert_eq!(turns.ask(reader(9), 10), Asked::Granted);
        let greedy: Vec<TurnId> = (0..100).map(|_| waits(turns.ask(reader(1), 10))).collect();
        let modest = [2, 3].map(|number| waits(turns.ask(reader(number), 10)));
        let mut granted = Vec::new();
        for _ in 0..5 {
            turns.give_back(10);
            granted.extend(turns.grant_next());
        }
        assert_eq!(granted, [greedy[0], modest[0], modest[1], greedy[1], greedy[2]]);
    }

    #[test]
    fn a_turn_larger_than_the_budget_is_given_when_nothing_else_is_held() {
        let mut turns = ReadTurns::new(100);
        assert!(turns.take_ahead(40));
        assert_eq!(turns.ask(reader(1), 30), Asked::Granted);
        let huge = waits(turns.ask(reader(2), 500));
        assert!(turns.needs_ahead_back());
        assert!(!turns.take_ahead(1), "somebody waits");
        turns.give_back_ahead(40);
        assert!(!turns.needs_ahead_back());
        assert_eq!(turns.grant_next(), None);
        turns.give_back(30);
        assert_eq!(turns.grant_next(), Some(huge));
        assert!(!turns.try_take(1));
        turns.give_back(500);
        assert_eq!(turns.used(), 0);
    }

    #[test]
    fn reading_ahead_leaves_half_to_the_turns() {
        let mut turns = ReadTurns::new(100);
        assert!(turns.take_ahead(50));
        assert!(!turns.take_ahead(1));
        assert_eq!(turns.ask(reader(1), 50), Asked::Granted);
    }

    #[test]
    fn who_has_gone_is_not_waited_for() {
        let mut turns = ReadTurns::new(10);
        assert_eq!(turns.ask(reader(1), 10), Asked::Granted);
        let gone = waits(turns.ask(reader(2), 10));
        let stays = waits(turns.ask(reader(3), 10));
        turns.withdraw(reader(2), gone);
        turns.withdraw(reader(2), gone);
        turns.give_back(10);
        assert_eq!((turns.grant_next(), turns.waiting_count()), (Some(stays), 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u64, usize),
        GiveBack,
        Withdraw,
        Ahead(usize),
        AheadBack,
    }

    proptest! {
        /// Whatever is asked: the budget is kept, the line moves as soon as it can, and when everything
        /// has come back nobody is left.
        #[test]
        fn the_budget_is_kept_and_everybody_gets_a_turn(steps in proptest::collection::vec(prop_oneof![
            3 => (0u64..5, 1usize..150).prop_map(|(reader, size)| Step::Ask(reader, size)),
            3 => Just(Step::GiveBack),
            1 => Just(Step::Withdraw),
            1 => (1usize..60).prop_map(Step::Ahead),
            1 => Just(Step::AheadBack),
        ], 0..200)) {
            let mut turns = ReadTurns::new(100);
            let mut held: VecDeque<usize> = VecDeque::new();
            let mut ahead: Vec<usize> = Vec::new();
            let mut wishes: Vec<(ReaderId, TurnId, usize)> = Vec::new();
            for step in steps {
                match step {
                    Step::Ask(number, size) => match turns.ask(reader(number), size) {
                        Asked::Granted => held.push_back(size),
                        Asked::Waits(turn) => wishes.push((reader(number), turn, size)),
                    },
                    Step::GiveBack => if let Some(size) = held.pop_front() { turns.give_back(size) },
                    Step::Withdraw => if let Some((reader, turn, _)) = wishes.pop() {
                        turns.withdraw(reader, turn);
                    },
                    Step::Ahead(size) => if turns.take_ahead(size) { ahead.push(size) },
                    Step::AheadBack => if let Some(size) = ahead.pop() { turns.give_back_ahead(size) },
                }
                grant(&mut turns, &mut wishes, &mut held);
                let sum: usize = held.iter().chain(&ahead).sum();
                prop_assert_eq!(turns.used(), sum);
                prop_assert!(sum <= 100 || (held.len() == 1 && ahead.is_empty()), "{:?} {:?}", held, ahead);
                prop_assert_eq!(turns.waiting_count(), wishes.len());
                prop_assert!(wishes.is_empty() || sum > 0, "the line waits for nothing");
            }
            ahead.drain(..).for_each(|size| turns.give_back_ahead(size));
            grant(&mut turns, &mut wishes, &mut held);
            while let Some(size) = held.pop_front() {
                turns.give_back(size);
                grant(&mut turns, &mut wishes, &mut held);
            }
            prop_assert!(wishes.is_empty());
            prop_assert_eq!(turns.used(), 0);
        }
    }

    fn grant(turns: &mut ReadTurns, wishes: &mut Vec<(ReaderId, TurnId, usize)>, held: &mut VecDeque<usize>) {
        while let Some(turn) = turns.grant_next() {
            let at = wishes.iter().position(|(_, wish, _)| *wish == turn).expect("it was waited for");
            held.push_back(wishes.remove(at).2);
        }
    }

    fn reader(connection: u64) -> ReaderId {
        ReaderId { shard: ShardId(0), connection }
    }

    fn waits(asked: Asked) -> TurnId {
        match asked {
            Asked::Waits(turn) => turn,
            Asked::Granted => panic!("it was granted"),
        }
    }
}
