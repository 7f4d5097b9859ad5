//! `uniform`, where all members read the same topics: everybody keeps what fits its share, the rest fills up who
//! has less.

use crate::codec::consumer_record::Partitions;
use crate::group::assignor::{Candidate, Counts, Targets, kept, named, size};
use crate::types::TopicId;
use std::collections::{BTreeMap, BTreeSet};

pub fn assign(members: &[Candidate<'_>], counts: &Counts) -> Targets {
    let Some(first) = members.first() else { return Targets::new() };
    let partition_count: usize = first.topics.iter().map(|topic| counts[topic].max(0) as usize).sum();
    let mut assigned = kept(members, counts);
    let shares = shares(&assigned, partition_count);
    for (assigned, share) in assigned.iter_mut().zip(&shares) {
        cut(assigned, *share);
    }
    let mut free = free(first, &assigned, counts).into_iter();
    for (assigned, share) in assigned.iter_mut().zip(&shares) {
        for (topic, index) in free.by_ref().take(share - size(assigned)) {
            assigned.entry(topic).or_default().insert(index);
        }
    }
    assert!(free.next().is_none(), "the shares add up to all partitions");
    named(members, assigned)
}

/// How many partitions each member is to have. Where it does not come out even, who has more now keeps one more.
fn shares(assigned: &[Partitions], partition_count: usize) -> Vec<usize> {
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

/// Partitions that nobody has.
fn free(reader: &Candidate<'_>, assigned: &[Partitions], counts: &Counts) -> Vec<(TopicId, i32)> {
    let mut has: BTreeMap<TopicId, Vec<bool>> = BTreeMap::new();
    for topic in reader.topics {
        has.insert(*topic, vec![false; counts[topic].max(0) as usize]);
    }
    for (topic, indexes) in assigned.iter().flatten() {
        let has = has.get_mut(topic).expect("only what is read is kept");
        indexes.iter().for_each(|index| has[*index as usize] = true);
    }
    let of_topic = |(topic, has): (TopicId, Vec<bool>)| {
        let indexes = (0..).zip(has).filter(|(_, has)| !has);
        indexes.map(move |(index, _)| (topic, index))
    };
    has.into_iter().flat_map(of_topic).collect()
}
