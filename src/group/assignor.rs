//! Who is to have which partition, decided by the coordinator (KIP-848).
//!
//! | assignor | what it does |
//! |---|---|
//! | `uniform` | everybody as many partitions as everybody else, as few as possible moved |
//! | `range` | of each topic to everybody a run of neighbouring partitions, so that topics with as many partitions are shared alike |
//!
//! Both take members in order and leave nothing to chance: the same members, topics and partitions are always
//! assigned alike. Source: Kafka `UniformAssignor`, `RangeAssignor`.

mod range;
mod uneven;
mod uniform;

use crate::codec::consumer_record::Partitions;
use crate::types::TopicId;
use std::collections::{BTreeMap, BTreeSet};

/// A way to assign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    Uniform,
    Range,
}

/// Who takes part.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    pub id: &'a str,
    pub instance_id: Option<&'a str>,
    /// Topics that it reads; only such that there are.
    pub topics: &'a BTreeSet<TopicId>,
    /// What was aimed at for it until now.
    pub held: Option<&'a Partitions>,
}

/// Partitions of each topic.
pub type Counts = BTreeMap<TopicId, i32>;

/// Partitions by member.
pub type Targets = BTreeMap<String, Partitions>;

impl Assignor {
    /// In the order in which Kafka has them: the first is the default.
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    pub fn named(name: &str) -> Option<Assignor> {
        Assignor::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// Assigns every partition of every topic that somebody reads, each once.
    ///
    /// Shape: O((members + partitions) log members) where all read the same topics; `uniform`, where they do not,
    /// makes one pass over a topic's partitions for each time that it can still improve something.
    pub fn assign(self, members: &[Candidate<'_>], counts: &Counts) -> Targets {
        match self {
            Assignor::Range => range::assign(members, counts),
            Assignor::Uniform if is_even(members) => uniform::assign(members, counts),
            Assignor::Uniform => uneven::assign(members, counts),
        }
    }
}

/// All members read the same topics.
fn is_even(members: &[Candidate<'_>]) -> bool {
    let mut topics = members.iter().map(|member| member.topics);
    let first = topics.next();
    topics.all(|topics| first.is_some_and(|first| std::ptr::eq(first, topics) || first == topics))
}

/// What each member keeps of what it has: partitions of topics that it reads and that there are, each of them
/// with the first who has it.
fn kept(members: &[Candidate<'_>], counts: &Counts) -> Vec<Partitions> {
    let mut taken: BTreeMap<TopicId, BTreeSet<i32>> = BTreeMap::new();
    let of_member = |member: &Candidate<'_>| {
        let mut kept = Partitions::new();
        for (topic, indexes) in member.held.into_iter().flatten() {
            let count = counts.get(topic).copied().unwrap_or(0);
            if !member.topics.contains(topic) || count == 0 {
                continue;
            }
            let taken = taken.entry(*topic).or_default();
            let indexes: BTreeSet<i32> = indexes
                .iter()
                .copied()
                .filter(|index| (0..count).contains(index) && taken.insert(*index))
                .collect();
            if !indexes.is_empty() {
                kept.insert(*topic, indexes);
            }
        }
        kept
    };
    members.iter().map(of_member).collect()
}

fn size(partitions: &Partitions) -> usize {
    partitions.values().map(BTreeSet::len).sum()
}

fn named(members: &[Candidate<'_>], partitions: Vec<Partitions>) -> Targets {
    members.iter().map(|member| member.id.to_owned()).zip(partitions).collect()
}

#[cfg(test)]
mod tests;
