//! `range`: of each topic a run of neighbouring partitions to each of its readers, the longer runs first.

use crate::codec::consumer_record::Partitions;
use crate::group::assignor::{Budget, Counts, Members};
use crate::types::TopicId;
use std::collections::BTreeMap;

/// What is left of a topic.
#[derive(Debug)]
struct Rest {
    next: i32,
    count: i32,
    readers: i32,
    given: i32,
}

impl Rest {
    /// The run of the next reader: the first ones have one more, where it does not come out even.
    fn take(&mut self) -> std::ops::Range<i32> {
        let longer = i32::from(self.given < self.count % self.readers);
        let run = self.next..self.next + self.count / self.readers + longer;
        self.given += 1;
        self.next = run.end;
        run
    }
}

/// Static members come first, by their instance ids: they keep their place when they come back under another
/// member id.
#[derive(Debug, Default)]
pub struct Range {
    rests: BTreeMap<TopicId, Rest>,
    statics: BTreeMap<(String, usize), usize>,
    dynamics: Vec<usize>,
    counted: usize,
    /// Of those that come first: how many have been given their runs.
    given: usize,
    order: Vec<usize>,
    assigned: Vec<Partitions>,
}

impl Range {
    /// Goes on, one member at a time; what all are to have in the end.
    pub fn step<M: Members + ?Sized>(
        &mut self,
        members: &M,
        counts: &Counts,
        budget: &mut Budget,
    ) -> Option<Vec<Partitions>> {
        while self.counted < members.count() && budget.is_left() {
            self.count(members, counts, budget);
        }
        if self.counted < members.count() {
            return None;
        }
        if self.order.len() < members.count() {
            self.order = std::mem::take(&mut self.statics).into_values().collect();
            self.order.append(&mut self.dynamics);
            self.assigned = vec![Partitions::new(); members.count()];
        }
        while self.given < self.order.len() && budget.is_left() {
            self.give(members, budget);
        }
        (self.given == self.order.len()).then(|| std::mem::take(&mut self.assigned))
    }

    fn count<M: Members + ?Sized>(&mut self, members: &M, counts: &Counts, budget: &mut Budget) {
        let place = self.counted;
        let member = members.get(place);
        for topic in member.topics {
            let count = counts.get(topic).copied().unwrap_or(0);
            let rest = self.rests.entry(*topic).or_insert(Rest { next: 0, count, readers: 0, given: 0 });
            rest.readers += 1;
        }
        match member.instance_id {
            Some(instance_id) => drop(self.statics.insert((instance_id.to_owned(), place), place)),
            None => self.dynamics.push(place),
        }
        self.counted += 1;
        budget.spend(1 + member.topics.len());
    }

    fn give<M: Members + ?Sized>(&mut self, members: &M, budget: &mut Budget) {
        let place = self.order[self.given];
        let mut partition_count = 0;
        for topic in members.get(place).topics {
            let run = self.rests.get_mut(topic).expect("counted above").take();
            if !run.is_empty() {
                partition_count += run.len();
                self.assigned[place].insert(*topic, run.collect());
            }
        }
        self.given += 1;
        budget.spend(1 + members.get(place).topics.len() + partition_count);
    }
}
