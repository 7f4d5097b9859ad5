//! `uniform`, where all members read the same topics: everybody keeps what fits its share, the rest fills up who
//! has less.

use crate::codec::consumer_record::Partitions;
use crate::group::assignor::{Budget, Counts, size};
use crate::types::TopicId;
use std::collections::BTreeSet;

#[derive(Debug)]
pub struct Uniform {
    assigned: Vec<Partitions>,
    shares: Vec<usize>,
    free: Free,
    /// Members that have been cut to their shares, and then such that have been filled up.
    cut: usize,
    filled: usize,
}

impl Uniform {
    /// `kept`: what everybody has that it may keep; `topics`: what all read.
    pub fn new(kept: Vec<Partitions>, topics: Option<&BTreeSet<TopicId>>, counts: &Counts) -> Uniform {
        let topics = topics.into_iter().flatten();
        let free = Free::new(topics.map(|topic| (*topic, counts[topic].max(0) as usize)));
        let shares = shares(&kept, free.is_taken.iter().map(|(_, taken)| taken.len()).sum());
        Uniform { assigned: kept, shares, free, cut: 0, filled: 0 }
    }

    /// Goes on, one member at a time; what all are to have in the end.
    pub fn step(&mut self, budget: &mut Budget) -> Option<Vec<Partitions>> {
        while self.cut < self.assigned.len() && budget.is_left() {
            let assigned = &mut self.assigned[self.cut];
            budget.spend(1 + size(assigned));
            cut(assigned, self.shares[self.cut]);
            self.free.take(assigned);
            self.cut += 1;
        }
        while self.cut == self.assigned.len() && self.filled < self.assigned.len() && budget.is_left() {
            let assigned = &mut self.assigned[self.filled];
            let missing = self.shares[self.filled] - size(assigned);
            let free = |_| self.free.next(budget).expect("the shares add up to all partitions");
            let given: Vec<(TopicId, i32)> = (0..missing).map(free).collect();
            for of_topic in given.chunk_by(|one, other| one.0 == other.0) {
                assigned.get_or_default(of_topic[0].0).extend(of_topic.iter().map(|(_, index)| *index));
            }
            budget.spend(1 + assigned.len());
            self.filled += 1;
        }
        if self.filled < self.assigned.len() {
            return None;
        }
        assert!(self.free.next(budget).is_none(), "the shares add up to all partitions");
        Some(std::mem::take(&mut self.assigned))
    }
}

/// How many partitions each member is to have. Where it does not come out even, who has more now keeps one more.
fn shares(assigned: &[Partitions], partition_count: usize) -> Vec<usize> {
    if assigned.is_empty() {
        return Vec::new();
    }
    let (least, mut larger) = (partition_count / assigned.len(), partition_count % assigned.len());
    let mut shares = vec![least; assigned.len()];
    let has_more = |index: &usize| size(&assigned[*index]) > least;
    let (more, less): (Vec<usize>, Vec<usize>) = (0..assigned.len()).partition(has_more);
    for index in more.into_iter().chain(less) {
        if larger == 0 {
            break;
        }
        shares[index] += 1;
        larger -= 1;
    }
    shares
}

/// Takes away what is more than a share: of the topics with the most partitions first, the last of them, so that
/// topics stay spread.
///
/// Shape: O(topics + partitions taken), times the logarithm of the topics; nothing for who has no more.
fn cut(assigned: &mut Partitions, share: usize) {
    let more = size(assigned).saturating_sub(share);
    if more == 0 {
        return;
    }
    let mut order: BTreeSet<(usize, TopicId)> =
        assigned.iter().map(|(topic, indexes)| (indexes.len(), *topic)).collect();
    for _ in 0..more {
        let (count, largest) = order.pop_last().expect("there is more than the share");
        let indexes = assigned.get_mut(&largest).expect("it is one of these");
        indexes.pop_last();
        match count - 1 {
            0 => drop(assigned.remove(&largest)),
            left => drop(order.insert((left, largest))),
        }
    }
}

/// Partitions that nobody has, in their order.
#[derive(Debug)]
struct Free {
    is_taken: Vec<(TopicId, Vec<bool>)>,
    /// Where to look next: a topic's place, and a partition.
    at: (usize, usize),
}

impl Free {
    /// `topics`: in the order of their ids.
    fn new(topics: impl Iterator<Item = (TopicId, usize)>) -> Free {
        Free { is_taken: topics.map(|(topic, count)| (topic, vec![false; count])).collect(), at: (0, 0) }
    }

    fn take(&mut self, assigned: &Partitions) {
        for (topic, indexes) in assigned {
            let found = self.is_taken.binary_search_by_key(topic, |(topic, _)| *topic);
            let (_, is_taken) = &mut self.is_taken[found.expect("only what is read is kept")];
            indexes.iter().for_each(|index| is_taken[*index as usize] = true);
        }
    }

    fn next(&mut self, budget: &mut Budget) -> Option<(TopicId, i32)> {
        loop {
            let (topic, is_taken) = self.is_taken.get(self.at.0)?;
            budget.spend(1);
            let index = self.at.1;
            match is_taken.get(index) {
                None => self.at = (self.at.0 + 1, 0),
                Some(is_taken) => {
                    self.at.1 += 1;
                    if !is_taken {
                        return Some((*topic, index as i32));
                    }
                }
            }
        }
    }
}
