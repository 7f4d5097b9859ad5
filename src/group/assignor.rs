//! Who is to have which partition, decided by the coordinator (KIP-848).
//!
//! | assignor | what it does |
//! |---|---|
//! | `uniform` | everybody as many partitions as everybody else, as few as possible moved |
//! | `range` | of each topic to everybody a run of neighbouring partitions, so that topics with as many partitions are shared alike |
//!
//! Both take members in order and leave nothing to chance: the same members, topics and partitions are always
//! assigned alike. Large groups take long, so it is done in steps; nothing changes between them.
//! Source: Kafka `UniformAssignor`, `RangeAssignor`.

mod range;
mod uneven;
mod uniform;

use crate::codec::consumer_record::Partitions;
use crate::types::TopicId;
use crate::types::sorted::SortedSet;
use std::collections::{BTreeMap, BTreeSet};

/// A way to assign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    Uniform,
    Range,
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub id: &'a str,
    pub instance_id: Option<&'a str>,
    /// Topics that it reads; only such that there are.
    pub topics: &'a BTreeSet<TopicId>,
    /// What was aimed at for it until now.
    pub held: Option<&'a Partitions>,
}

/// All that take part, in the order of their ids.
pub trait Members {
    fn count(&self) -> usize;

    fn get(&self, place: usize) -> Candidate<'_>;
}

impl Members for [Candidate<'_>] {
    fn count(&self) -> usize {
        self.len()
    }

    fn get(&self, place: usize) -> Candidate<'_> {
        self[place]
    }
}

/// How much may be done in one step.
#[derive(Clone, Copy, Debug)]
pub struct Budget(usize);

impl Budget {
    /// `units`: members, topics and partitions that are looked at, some 100 ns each.
    pub fn new(units: usize) -> Budget {
        Budget(units)
    }

    pub fn spend(&mut self, units: usize) {
        self.0 = self.0.saturating_sub(units);
    }

    pub fn is_left(&self) -> bool {
        self.0 > 0
    }
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

    /// Assigns every partition of every topic that somebody reads, each once. `members`: in the order of their ids.
    pub fn assign(self, members: &[Candidate<'_>], counts: &Counts) -> Targets {
        let mut assigning = Assigning::new(self);
        loop {
            if let Some(assigned) = assigning.step(members, counts, &mut Budget::new(usize::MAX)) {
                let ids = members.iter().map(|member| member.id.to_owned());
                return ids.zip(assigned).collect();
            }
        }
    }
}

/// An assignment that is being made.
///
/// Shape: O((members + partitions) log members) where all read the same topics; `uniform`, where they do not,
/// makes one pass over a topic's partitions for each time that it can still improve something. A step may take a
/// member's or a topic's worth more than its budget.
#[derive(Debug)]
pub enum Assigning {
    Range(range::Range),
    Keeping(Keeping),
    Uniform(uniform::Uniform),
    Uneven(uneven::Uneven),
}

impl Assigning {
    pub fn new(assignor: Assignor) -> Assigning {
        match assignor {
            Assignor::Range => Assigning::Range(range::Range::default()),
            Assignor::Uniform => Assigning::Keeping(Keeping { is_even: true, ..Keeping::default() }),
        }
    }

    /// Goes on; in the end, what each member is to have, by its place. To be given the same members and counts in
    /// each step.
    pub fn step<M: Members + ?Sized>(
        &mut self,
        members: &M,
        counts: &Counts,
        budget: &mut Budget,
    ) -> Option<Vec<Partitions>> {
        if let Assigning::Keeping(keeping) = self {
            if !keeping.step(members, counts, budget) {
                return None;
            }
            let kept = std::mem::take(&mut keeping.kept);
            *self = match keeping.is_even {
                true => {
                    let topics = (members.count() > 0).then(|| members.get(0).topics);
                    Assigning::Uniform(uniform::Uniform::new(kept, topics, counts))
                }
                false => Assigning::Uneven(uneven::Uneven::new(kept)),
            };
        }
        match self {
            Assigning::Range(range) => range.step(members, counts, budget),
            Assigning::Uniform(uniform) => uniform.step(budget),
            Assigning::Uneven(uneven) => uneven.step(members, counts, budget),
            Assigning::Keeping(_) => unreachable!("it is over"),
        }
    }
}

/// What each member keeps of what it has: partitions of topics that it reads and that there are, each of them
/// with the first who has it.
#[derive(Debug, Default)]
pub struct Keeping {
    kept: Vec<Partitions>,
    is_taken: BTreeMap<TopicId, Vec<bool>>,
    /// All members until here read the same topics.
    is_even: bool,
}

impl Keeping {
    /// Whether it is over.
    fn step<M: Members + ?Sized>(&mut self, members: &M, counts: &Counts, budget: &mut Budget) -> bool {
        while self.kept.len() < members.count() && budget.is_left() {
            let member = members.get(self.kept.len());
            let first = members.get(0).topics;
            if self.is_even && !std::ptr::eq(first, member.topics) {
                budget.spend(first.len());
                self.is_even = first == member.topics;
            }
            let kept = self.keep(&member, counts);
            budget.spend(1 + member.held.map_or(0, size));
            self.kept.push(kept);
        }
        self.kept.len() == members.count()
    }

    fn keep(&mut self, member: &Candidate<'_>, counts: &Counts) -> Partitions {
        let mut kept = Partitions::new();
        for (topic, indexes) in member.held.into_iter().flatten() {
            let count = counts.get(topic).copied().unwrap_or(0).max(0) as usize;
            if !member.topics.contains(topic) || count == 0 {
                continue;
            }
            let is_taken = self.is_taken.entry(*topic).or_insert_with(|| vec![false; count]);
            let is_free = |index: &i32| {
                let place = usize::try_from(*index).ok().and_then(|index| is_taken.get_mut(index));
                place.is_some_and(|is_taken| !std::mem::replace(is_taken, true))
            };
            let indexes: SortedSet<i32> = indexes.iter().copied().filter(is_free).collect();
            if !indexes.is_empty() {
                kept.insert(*topic, indexes);
            }
        }
        kept
    }
}

fn size(partitions: &Partitions) -> usize {
    partitions.values().map(SortedSet::len).sum()
}

#[cfg(test)]
mod tests;
