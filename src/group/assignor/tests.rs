//! Assignments by named case, and what holds for any.

use super::*;
use crate::types::Uuid;
use proptest::prelude::*;

fn topic(number: u128) -> TopicId {
    TopicId(Uuid::from_u128(number))
}

/// Topics with so many partitions each; the first is number 1.
fn counts(counts: &[i32]) -> Counts {
    (1..).map(topic).zip(counts.iter().copied()).collect()
}

fn topics(numbers: &[u128]) -> BTreeSet<TopicId> {
    numbers.iter().map(|number| topic(*number)).collect()
}

/// A group that is assigned again and again.
struct Group {
    assignor: Assignor,
    counts: Counts,
    members: BTreeMap<String, (Option<String>, BTreeSet<TopicId>)>,
    targets: Targets,
}

impl Group {
    fn new(assignor: Assignor, partition_counts: &[i32]) -> Group {
        let counts = counts(partition_counts);
        Group { assignor, counts, members: BTreeMap::new(), targets: Targets::new() }
    }

    fn join(&mut self, id: &str, reads: &[u128]) -> &mut Group {
        self.members.insert(id.to_owned(), (None, topics(reads)));
        self
    }

    fn assign(&mut self) -> &Targets {
        let candidates: Vec<Candidate<'_>> = self
            .members
            .iter()
            .map(|(id, (instance_id, topics))| Candidate {
                id,
                instance_id: instance_id.as_deref(),
                topics,
                held: self.targets.get(id),
            })
            .collect();
        let targets = self.assignor.assign(&candidates, &self.counts);
        self.targets = targets;
        self.check();
        &self.targets
    }

    /// Every partition that somebody reads is with one of its readers.
    fn check(&self) {
        let mut seen = BTreeSet::new();
        for (id, target) in &self.targets {
            for (topic, indexes) in target {
                assert!(!indexes.is_empty());
                assert!(self.members[id].1.contains(topic), "{id} does not read {topic:?}");
                for index in indexes {
                    assert!((0..self.counts[topic]).contains(index));
                    assert!(seen.insert((*topic, *index)), "{topic:?}-{index} is assigned twice");
                }
            }
        }
        let read: BTreeSet<TopicId> = self.members.values().flat_map(|(_, topics)| topics.clone()).collect();
        let expected: i32 = read.iter().map(|topic| self.counts[topic]).sum();
        assert_eq!(seen.len(), expected as usize, "not all partitions are assigned");
        assert_eq!(self.targets.keys().collect::<Vec<_>>(), self.members.keys().collect::<Vec<_>>());
    }

    fn of(&self, id: &str, topic_number: u128) -> Vec<i32> {
        let indexes = self.targets[id].get(&topic(topic_number));
        indexes.into_iter().flatten().copied().collect()
    }

    fn sizes(&self) -> Vec<usize> {
        self.targets.values().map(size).collect()
    }

    /// Partitions that are with somebody else than before.
    fn moved(&self, before: &Targets) -> usize {
        let lost = |(id, target): (&String, &Partitions)| -> usize {
            let of_topic = |(topic, indexes): (&TopicId, &SortedSet<i32>)| {
                let now = self.targets.get(id).and_then(|target| target.get(topic));
                indexes.iter().filter(|index| now.is_none_or(|now| !now.contains(index))).count()
            };
            target.iter().map(of_topic).sum()
        };
        before.iter().map(lost).sum()
    }
}

#[test]
fn nobody_is_assigned_nothing() {
    for assignor in Assignor::ALL {
        assert_eq!(Group::new(assignor, &[3]).assign(), &Targets::new());
        let mut group = Group::new(assignor, &[3]);
        group.join("a", &[]).assign();
        assert_eq!(group.sizes(), [0]);
    }
}

#[test]
fn range_gives_neighbours_and_the_longer_runs_first() {
    let mut group = Group::new(Assignor::Range, &[5, 2]);
    group.join("a", &[1, 2]).join("b", &[1, 2]).join("c", &[1, 2]).assign();
    assert_eq!([group.of("a", 1), group.of("b", 1), group.of("c", 1)], [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!([group.of("a", 2), group.of("b", 2), group.of("c", 2)], [vec![0], vec![1], vec![]]);
}

#[test]
fn range_shares_topics_among_those_who_read_them() {
    let mut group = Group::new(Assignor::Range, &[4, 3]);
    group.join("a", &[1]).join("b", &[1, 2]).join("c", &[2]).assign();
    assert_eq!([group.of("a", 1), group.of("b", 1)], [vec![0, 1], vec![2, 3]]);
    assert_eq!([group.of("b", 2), group.of("c", 2)], [vec![0, 1], vec![2]]);
}

#[test]
fn range_takes_static_members_first_by_their_instance() {
    let mut group = Group::new(Assignor::Range, &[3]);
    group.join("a", &[1]).join("y", &[1]).join("z", &[1]);
    group.members.get_mut("z").unwrap().0 = Some("first".to_owned());
    group.members.get_mut("y").unwrap().0 = Some("second".to_owned());
    group.assign();
    assert_eq!([group.of("z", 1), group.of("y", 1), group.of("a", 1)], [vec![0], vec![1], vec![2]]);
}

#[test]
fn uniform_shares_all_topics_alike() {
    let mut group = Group::new(Assignor::Uniform, &[5, 2]);
    group.join("a", &[1, 2]).join("b", &[1, 2]).join("c", &[1, 2]).assign();
    assert_eq!(group.sizes(), [3, 2, 2]);
}

#[test]
fn uniform_moves_no_more_than_a_newcomer_needs() {
    let mut group = Group::new(Assignor::Uniform, &[9]);
    group.join("b", &[1]).join("c", &[1]).assign();
    let before = group.targets.clone();
    // By name it comes first.
    group.join("a", &[1]).assign();
    assert_eq!(group.sizes(), [3, 3, 3]);
    assert_eq!(group.moved(&before), 3);
}

#[test]
fn uniform_keeps_the_larger_shares_where_they_are() {
    let mut group = Group::new(Assignor::Uniform, &[4]);
    group.join("b", &[1]).join("c", &[1]).assign();
    let before = group.targets.clone();
    group.join("a", &[1]).assign();
    assert_eq!(group.moved(&before), 1, "of three one has two, and that is no newcomer");
}

#[test]
fn uniform_shares_what_a_member_leaves() {
    let mut group = Group::new(Assignor::Uniform, &[8]);
    group.join("a", &[1]).join("b", &[1]).join("c", &[1]).join("d", &[1]).assign();
    group.members.remove("b");
    let mut before = group.targets.clone();
    before.remove("b");
    group.assign();
    assert_eq!((group.moved(&before), group.sizes()), (0, vec![3, 3, 2]));
}

#[test]
fn uniform_gives_out_new_partitions_and_takes_back_those_of_topics_that_are_gone() {
    for reads in [&[&[1, 2][..], &[1, 2]], &[&[1, 2][..], &[2]]] {
        let mut group = Group::new(Assignor::Uniform, &[2, 2]);
        group.join("a", reads[0]).join("b", reads[1]).assign();
        let before = group.targets.clone();
        group.counts = counts(&[2, 4]);
        group.assign();
        assert_eq!((group.moved(&before), group.sizes()), (0, vec![3, 3]));
        group.counts = counts(&[2]);
        group.join("a", &[1]).join("b", &[]).assign();
        assert_eq!(group.sizes(), [2, 0]);
    }
}

#[test]
fn uniform_takes_the_last_of_the_largest_topics() {
    let mut group = Group::new(Assignor::Uniform, &[1, 4, 3]);
    group.join("a", &[1, 2, 3]).assign();
    group.join("b", &[1, 2, 3]).assign();
    let left = |number: u128| group.targets["a"].get(&topic(number)).cloned();
    let expected = [Some(SortedSet::from([0])), Some(SortedSet::from([0, 1])), Some(SortedSet::from([0]))];
    assert_eq!([left(1), left(2), left(3)], expected);
    // Of thousands of topics as well.
    let mut group = Group::new(Assignor::Uniform, &[1; 5000]);
    let all: Vec<u128> = (1..=5000).collect();
    group.join("a", &all).assign();
    let before = group.targets.clone();
    group.join("b", &all).assign();
    assert_eq!((group.sizes(), group.moved(&before)), (vec![2500, 2500], 2500));
}

#[test]
fn uniform_makes_up_for_topics_that_few_read() {
    let mut group = Group::new(Assignor::Uniform, &[4, 4]);
    group.join("a", &[1]).join("b", &[1, 2]).join("c", &[1, 2]).assign();
    let sizes = group.sizes();
    assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
    // Somebody who can read only one topic comes to many who have it.
    let mut group = Group::new(Assignor::Uniform, &[6, 1]);
    group.join("a", &[1]).assign();
    let before = group.targets.clone();
    group.join("b", &[1, 2]).assign();
    assert_eq!((group.sizes(), group.moved(&before)), (vec![4, 3], 2));
}

#[test]
fn what_two_members_have_stays_with_one_of_them() {
    let mut group = Group::new(Assignor::Uniform, &[2]);
    group.join("a", &[1]).join("b", &[1]);
    let both = Partitions::from([(topic(1), SortedSet::from([0, 1]))]);
    group.targets = Targets::from([("a".to_owned(), both.clone()), ("b".to_owned(), both)]);
    group.assign();
    assert_eq!(group.sizes(), [1, 1]);
}

#[derive(Clone, Debug)]
enum Step {
    Join(u8, Vec<u128>),
    Leave(u8),
    Grow(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let reads = prop_oneof![Just(vec![1, 2, 3]), prop::collection::vec(1..4u128, 0..4),];
    prop_oneof![
        (0..8u8, reads).prop_map(|(member, reads)| Step::Join(member, reads)),
        (0..8u8).prop_map(Step::Leave),
        (0..3u8).prop_map(Step::Grow),
    ]
}

proptest! {
    #[test]
    fn all_partitions_are_assigned_once_whatever_happens(
        is_range: bool, budget in 1..30usize, steps in prop::collection::vec(step(), 1..20)
    ) {
        let assignor = if is_range { Assignor::Range } else { Assignor::Uniform };
        let mut group = Group::new(assignor, &[3, 1, 6]);
        for step in steps {
            match step {
                Step::Join(member, reads) => {
                    group.join(&member.to_string(), &reads);
                }
                Step::Leave(member) => {
                    group.members.remove(&member.to_string());
                }
                Step::Grow(number) => *group.counts.get_mut(&topic(u128::from(number) + 1)).unwrap() += 1,
            }
            let (in_steps, _) = in_steps(&group, budget);
            group.assign();
            prop_assert_eq!(&group.targets, &in_steps);
            let mut reads = group.members.values().map(|(_, topics)| topics);
            let first = reads.next();
            if assignor == Assignor::Uniform && reads.all(|topics| Some(topics) == first) {
                let sizes = group.sizes();
                let spread = sizes.iter().max().unwrap_or(&0) - sizes.iter().min().unwrap_or(&0);
                prop_assert!(spread <= 1, "{sizes:?}");
            }
            // Nothing moves without a reason.
            let before = group.targets.clone();
            group.assign();
            prop_assert_eq!(&group.targets, &before);
        }
    }
}

/// Members of a group, and what it takes to assign their partitions in steps of some budget.
fn in_steps(group: &Group, budget: usize) -> (Targets, usize) {
    let candidates: Vec<Candidate<'_>> = group
        .members
        .iter()
        .map(|(id, (instance_id, topics))| Candidate {
            id,
            instance_id: instance_id.as_deref(),
            topics,
            held: group.targets.get(id),
        })
        .collect();
    let mut assigning = Assigning::new(group.assignor);
    for steps in 1.. {
        if let Some(assigned) = assigning.step(&candidates[..], &group.counts, &mut Budget::new(budget)) {
            return (group.members.keys().cloned().zip(assigned).collect(), steps);
        }
    }
    unreachable!("it ends")
}

#[test]
fn large_groups_are_assigned_in_steps() {
    for assignor in Assignor::ALL {
        for is_even in [true, false] {
            let mut group = Group::new(assignor, &[100, 100, 100]);
            for member in 0..100 {
                let reads: &[u128] = if is_even || member % 2 == 0 { &[1, 2, 3] } else { &[2, 3] };
                group.join(&format!("{member:03}"), reads);
            }
            let (targets, steps) = in_steps(&group, 20);
            assert!(steps > 20, "{assignor:?} {is_even}: {steps}");
            assert_eq!(group.assign(), &targets);
        }
    }
}
