//! `uniform`, where members read different topics: everybody keeps what it has, what is free goes to who has the
//! least, then partitions move from who has more to who has less, as long as that makes it more even.

use crate::codec::consumer_record::Partitions;
use crate::group::assignor::{Budget, Counts, Members, size};
use crate::types::TopicId;
use std::collections::{BTreeMap, BTreeSet};

/// Members by how many partitions they have; one by its place in the list.
#[derive(Debug)]
struct Loads {
    assigned: Vec<Partitions>,
    counts: Vec<usize>,
}

impl Loads {
    fn give(&mut self, member: usize, topic: TopicId, index: i32) {
        self.assigned[member].get_or_default(topic).insert(index);
        self.counts[member] += 1;
    }

    /// The last of the partitions of a topic that a member has.
    fn take(&mut self, member: usize, topic: TopicId) -> Option<i32> {
        let indexes = self.assigned[member].get_mut(&topic)?;
        let index = indexes.pop_last()?;
        if indexes.is_empty() {
            self.assigned[member].remove(&topic);
        }
        self.counts[member] -= 1;
        Some(index)
    }

    fn ordered(&self, readers: &[usize]) -> BTreeSet<(usize, usize)> {
        readers.iter().map(|member| (self.counts[*member], *member)).collect()
    }
}

/// A topic, and who reads it.
type Readers = (TopicId, Vec<usize>);

#[derive(Debug)]
pub struct Uneven {
    loads: Loads,
    readers: BTreeMap<TopicId, Vec<usize>>,
    /// Members whose topics have been looked at.
    read: usize,
    /// Topics that few can take come first, so that the others make up for it.
    order: Option<Vec<Readers>>,
    filled: usize,
    /// Topics that are left of a pass over them, the last one first; and whether it has moved any partition.
    left: usize,
    has_moved: bool,
}

impl Uneven {
    /// `kept`: what everybody has that it may keep.
    pub fn new(kept: Vec<Partitions>) -> Uneven {
        Uneven {
            loads: Loads { counts: kept.iter().map(size).collect(), assigned: kept },
            readers: BTreeMap::new(),
            read: 0,
            order: None,
            filled: 0,
            left: 0,
            has_moved: true,
        }
    }

    /// Goes on, one member or topic at a time; what all are to have in the end.
    pub fn step<M: Members + ?Sized>(
        &mut self,
        members: &M,
        counts: &Counts,
        budget: &mut Budget,
    ) -> Option<Vec<Partitions>> {
        while self.read < members.count() && budget.is_left() {
            let topics = members.get(self.read).topics;
            topics.iter().for_each(|topic| self.readers.entry(*topic).or_default().push(self.read));
            budget.spend(1 + topics.len());
            self.read += 1;
        }
        if self.read < members.count() {
            return None;
        }
        let order = self.order.get_or_insert_with(|| {
            let mut order: Vec<Readers> = std::mem::take(&mut self.readers).into_iter().collect();
            order.sort_by_key(|(topic, readers)| (readers.len(), *topic));
            order
        });
        while let Some((topic, readers)) = order.get(self.filled)
            && budget.is_left()
        {
            let count = counts[topic];
            fill(&mut self.loads, *topic, readers, count);
            budget.spend(1 + readers.len() + count.max(0) as usize);
            self.filled += 1;
        }
        // Each move makes the sum of the squares smaller, so this ends.
        while self.filled == order.len() && budget.is_left() {
            if self.left == 0 {
                if !std::mem::take(&mut self.has_moved) {
                    return Some(std::mem::take(&mut self.loads.assigned));
                }
                self.left = order.len();
            }
            if let Some(at) = self.left.checked_sub(1) {
                let (topic, readers) = &order[at];
                let moved = even_out(&mut self.loads, *topic, readers);
                self.has_moved |= moved > 0;
                budget.spend(1 + readers.len() + moved);
                self.left = at;
            }
        }
        None
    }
}

/// Gives what nobody has of a topic to its readers with the least.
fn fill(loads: &mut Loads, topic: TopicId, readers: &[usize], count: i32) {
    let mut is_free = vec![true; count.max(0) as usize];
    for indexes in readers.iter().filter_map(|member| loads.assigned[*member].get(&topic)) {
        indexes.iter().for_each(|index| is_free[*index as usize] = false);
    }
    if !is_free.contains(&true) {
        return;
    }
    let mut order = loads.ordered(readers);
    for (index, _) in (0..).zip(is_free).filter(|(_, is_free)| *is_free) {
        let (load, member) = order.pop_first().expect("a topic has a reader");
        loads.give(member, topic, index);
        order.insert((load + 1, member));
    }
}

/// Moves partitions of a topic between its readers until none has two more than another, or none of the topic; how
/// many.
fn even_out(loads: &mut Loads, topic: TopicId, readers: &[usize]) -> usize {
    // Nearly always there is nothing to do, which takes no more than a look at the numbers.
    let least = readers.iter().map(|member| loads.counts[*member]).min().unwrap_or(0);
    let has =
        |member: &usize| loads.counts[*member] >= least + 2 && loads.assigned[*member].contains_key(&topic);
    let givers: Vec<usize> = readers.iter().copied().filter(has).collect();
    if givers.is_empty() {
        return 0;
    }
    let mut order = loads.ordered(readers);
    let mut givers = loads.ordered(&givers);
    let mut moved = 0;
    while let Some((most, giver)) = givers.pop_last() {
        let (least, taker) = *order.first().expect("a topic has a reader");
        if most < least + 2 {
            break; // All that are left have no more.
        }
        let Some(index) = loads.take(giver, topic) else { continue };
        loads.give(taker, topic, index);
        order.remove(&(least, taker));
        order.remove(&(most, giver));
        order.extend([(least + 1, taker), (most - 1, giver)]);
        givers.remove(&(least, taker));
        givers.insert((least + 1, taker));
        if loads.assigned[giver].contains_key(&topic) {
            givers.insert((most - 1, giver));
        }
        moved += 1;
    }
    moved
}
