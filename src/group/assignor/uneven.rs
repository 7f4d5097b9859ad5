//! `uniform`, where members read different topics: everybody keeps what it has, what is free goes to who has the
//! least, then partitions move from who has more to who has less, as long as that makes it more even.

use crate::codec::consumer_record::Partitions;
use crate::group::assignor::{Candidate, Counts, Targets, kept, named, size};
use crate::types::TopicId;
use std::collections::{BTreeMap, BTreeSet};

/// Members by how many partitions they have; one by its place in the list.
struct Loads {
    assigned: Vec<Partitions>,
    counts: Vec<usize>,
}

impl Loads {
    fn give(&mut self, member: usize, topic: TopicId, index: i32) {
        self.assigned[member].entry(topic).or_default().insert(index);
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

pub fn assign(members: &[Candidate<'_>], counts: &Counts) -> Targets {
    let mut readers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (place, member) in members.iter().enumerate() {
        member.topics.iter().for_each(|topic| readers.entry(*topic).or_default().push(place));
    }
    let assigned = kept(members, counts);
    let mut loads = Loads { counts: assigned.iter().map(size).collect(), assigned };
    // Topics that few can take come first, so that the others make up for it.
    let mut order: Vec<(TopicId, Vec<usize>)> = readers.into_iter().collect();
    order.sort_by_key(|(topic, readers)| (readers.len(), *topic));
    for (topic, readers) in &order {
        fill(&mut loads, *topic, readers, counts[topic]);
    }
    // Each move makes the sum of the squares smaller, so this ends.
    let mut has_moved = true;
    while has_moved {
        has_moved = order
            .iter()
            .rev()
            .fold(false, |moved, (topic, readers)| even_out(&mut loads, *topic, readers) || moved);
    }
    named(members, loads.assigned)
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

/// Moves partitions of a topic between its readers until none has two more than another, or none of the topic.
fn even_out(loads: &mut Loads, topic: TopicId, readers: &[usize]) -> bool {
    // Nearly always there is nothing to do, which takes no more than a look at the numbers.
    let least = readers.iter().map(|member| loads.counts[*member]).min().unwrap_or(0);
    let has =
        |member: &usize| loads.counts[*member] >= least + 2 && loads.assigned[*member].contains_key(&topic);
    let givers: Vec<usize> = readers.iter().copied().filter(has).collect();
    if givers.is_empty() {
        return false;
    }
    let mut order = loads.ordered(readers);
    let mut givers = loads.ordered(&givers);
    let mut has_moved = false;
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
        has_moved = true;
    }
    has_moved
}
