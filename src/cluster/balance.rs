//! Which replicas go where so that nodes have alike many, or one of them none: plans for
//! `AlterPartitionReassignments`, made from what clients are told. Pure.
//!
//! Counted in replicas, and in partitions whose preferred leader a node is. Racks are never given up for evenness: a
//! partition has its replicas in no fewer racks than before. Absent: sizes and traffic.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::types::NodeId;

/// A node that partitions may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub node: NodeId,
    pub rack: Option<String>,
}

/// A partition and its replicas, the preferred leader first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assigned {
    pub topic: String,
    pub partition: i32,
    pub replicas: Vec<NodeId>,
}

/// A partition has fewer other nodes than replicas that have to leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{topic}-{partition} has {replicas} replicas, and there are no more than {nodes} nodes for them")]
pub struct TooFewNodes {
    pub topic: String,
    pub partition: i32,
    pub replicas: usize,
    pub nodes: usize,
}

/// Nodes and what they have, while a plan is made.
struct Loads<'a> {
    racks: BTreeMap<NodeId, Option<&'a str>>,
    replicas: BTreeMap<NodeId, usize>,
    leaders: BTreeMap<NodeId, usize>,
}

impl<'a> Loads<'a> {
    fn new(targets: &'a [Target], partitions: &[Assigned]) -> Loads<'a> {
        let none = || targets.iter().map(|target| (target.node, 0)).collect();
        let racks = targets.iter().map(|target| (target.node, target.rack.as_deref())).collect();
        let mut loads = Loads { racks, replicas: none(), leaders: none() };
        for partition in partitions {
            partition.replicas.iter().for_each(|node| change(&mut loads.replicas, *node, 1));
            partition.replicas.first().into_iter().for_each(|node| change(&mut loads.leaders, *node, 1));
        }
        loads
    }

    /// Replicas among these that are in the rack of a node; without a rack it shares none.
    fn sharing(&self, node: NodeId, replicas: &[NodeId]) -> usize {
        let rack = self.racks.get(&node).copied().flatten();
        let in_it = |other: &&NodeId| rack.is_some() && self.racks.get(*other).copied().flatten() == rack;
        replicas.iter().filter(in_it).count()
    }

    fn replace(&mut self, replicas: &mut [NodeId], place: usize, node: NodeId) {
        let before = std::mem::replace(&mut replicas[place], node);
        change(&mut self.replicas, before, -1);
        change(&mut self.replicas, node, 1);
        if place == 0 {
            change(&mut self.leaders, before, -1);
            change(&mut self.leaders, node, 1);
        }
    }
}

/// Nodes that are no targets are not counted.
fn change(counts: &mut BTreeMap<NodeId, usize>, node: NodeId, by: isize) {
    if let Some(count) = counts.get_mut(&node) {
        *count = count.saturating_add_signed(by);
    }
}

/// Those that have changed.
fn changed(before: &[Assigned], after: Vec<Assigned>) -> Vec<Assigned> {
    after.into_iter().zip(before).filter(|(after, before)| after != *before).map(|(after, _)| after).collect()
}

/// Every replica of a node goes to a target, which it is none of itself, in as many racks as there are and to the least
/// loaded there; it keeps its place in the order. O(partitions × replicas × nodes).
pub fn plan_drain(
    leaving: NodeId,
    targets: &[Target],
    partitions: &[Assigned],
) -> Result<Vec<Assigned>, TooFewNodes> {
    let mut loads = Loads::new(targets, partitions);
    let mut after = partitions.to_vec();
    for assigned in &mut after {
        let Some(place) = assigned.replicas.iter().position(|node| *node == leaving) else { continue };
        let others: Vec<NodeId> = without(&assigned.replicas, place);
        let free = loads.racks.keys().filter(|node| !others.contains(node)).copied();
        let next = free.min_by_key(|node| (loads.sharing(*node, &others), loads.replicas[node], *node));
        let next = next.ok_or_else(|| TooFewNodes {
            topic: assigned.topic.clone(),
            partition: assigned.partition,
            replicas: others.len() + 1,
            nodes: targets.len(),
        })?;
        loads.replace(&mut assigned.replicas, place, next);
    }
    Ok(changed(partitions, after))
}

fn without(replicas: &[NodeId], place: usize) -> Vec<NodeId> {
    let others = replicas.iter().enumerate().filter(|(other, _)| *other != place);
    others.map(|(_, node)| *node).collect()
}

/// Everything that one node has goes to another one, in its place.
pub fn plan_replace(from: NodeId, to: NodeId, partitions: &[Assigned]) -> Vec<Assigned> {
    let mut after = partitions.to_vec();
    for assigned in after.iter_mut().filter(|assigned| !assigned.replicas.contains(&to)) {
        assigned.replicas.iter_mut().filter(|node| **node == from).for_each(|node| *node = to);
    }
    changed(partitions, after)
}

/// Replicas go from who has most to who has least while that makes them more alike, then each partition's order
/// changes where that makes leaders more alike. Nothing moves that need not. O(moves × partitions × nodes).
pub fn plan_rebalance(targets: &[Target], partitions: &[Assigned]) -> Vec<Assigned> {
    let mut loads = Loads::new(targets, partitions);
    let mut after = partitions.to_vec();
    while move_one(&mut loads, &mut after) {}
    while lead_elsewhere(&mut loads, &mut after) {}
    changed(partitions, after)
}

/// Moves one replica; `false`: none makes it better.
fn move_one(loads: &mut Loads<'_>, partitions: &mut [Assigned]) -> bool {
    let mut by_load: Vec<(usize, NodeId)> =
        loads.replicas.iter().map(|(node, load)| (*load, *node)).collect();
    by_load.sort_unstable();
    for &(most, from) in by_load.iter().rev() {
        for &(least, to) in by_load.iter().take_while(|(least, _)| least + 1 < most) {
            let fits = |assigned: &Assigned| {
                let place = assigned.replicas.iter().position(|node| *node == from)?;
                let others = without(&assigned.replicas, place);
                let is_free = !others.contains(&to);
                (is_free && loads.sharing(to, &others) <= loads.sharing(from, &others)).then_some(place)
            };
            debug_assert!(least < most);
            // Followers first: no leader has to change for them.
            let found =
                partitions.iter().enumerate().filter_map(|(at, assigned)| Some((at, fits(assigned)?)));
            if let Some((at, place)) = found.min_by_key(|(at, place)| (*place == 0, *at)) {
                loads.replace(&mut partitions[at].replicas, place, to);
                return true;
            }
        }
    }
    false
}

/// Lets another replica of a partition be the preferred leader; `false`: none makes it better.
fn lead_elsewhere(loads: &mut Loads<'_>, partitions: &mut [Assigned]) -> bool {
    let led = |node: &NodeId| loads.leaders.get(node).copied();
    let gain = |assigned: &Assigned| {
        let leads = led(assigned.replicas.first()?)?;
        let others = (1..).zip(&assigned.replicas[1..]);
        let fewest = others.filter_map(|(place, node)| Some((led(node)?, place))).min()?;
        (fewest.0 + 1 < leads).then(|| (leads - fewest.0, fewest.1))
    };
    let found = partitions.iter().enumerate().filter_map(|(at, assigned)| Some((gain(assigned)?, at)));
    let Some(((_, place), at)) = found.max_by_key(|((gain, _), at)| (*gain, Reverse(*at))) else {
        return false;
    };
    let replicas = &mut partitions[at].replicas;
    change(&mut loads.leaders, replicas[0], -1);
    change(&mut loads.leaders, replicas[place], 1);
    replicas.swap(0, place);
    true
}

/// Nodes that have replicas of these.
pub fn nodes_of(partitions: &[Assigned]) -> BTreeSet<NodeId> {
    partitions.iter().flat_map(|assigned| assigned.replicas.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn target(id: i32, rack: &str) -> Target {
        Target { node: NodeId(id), rack: (!rack.is_empty()).then(|| rack.to_owned()) }
    }

    fn assigned(partition: i32, replicas: &[i32]) -> Assigned {
        let replicas = replicas.iter().copied().map(NodeId).collect();
        Assigned { topic: "orders".to_owned(), partition, replicas }
    }

    fn ids(plan: &[Assigned]) -> Vec<(i32, Vec<i32>)> {
        plan.iter().map(|it| (it.partition, it.replicas.iter().map(|node| node.0).collect())).collect()
    }

    #[test]
    fn a_drained_node_hands_over_in_place_and_to_other_racks() {
        let targets = [target(1, "a"), target(2, "b"), target(4, "a"), target(5, "c")];
        let before = [assigned(0, &[3, 1]), assigned(1, &[2, 3]), assigned(2, &[1, 2])];
        let plan = plan_drain(NodeId(3), &targets, &before).expect("there are enough");
        assert_eq!(ids(&plan), [(0, vec![5, 1]), (1, vec![2, 4])]);
    }

    #[test]
    fn a_node_whose_replicas_have_no_other_place_is_not_drained() {
        let before = [assigned(7, &[1, 2, 3])];
        let error =
            plan_drain(NodeId(3), &[target(1, ""), target(2, "")], &before).expect_err("there are two");
        let told = "orders-7 has 3 replicas, and there are no more than 2 nodes for them";
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn a_replaced_node_hands_over_everything() {
        let before = [assigned(0, &[3, 1]), assigned(1, &[2, 3]), assigned(2, &[1, 2]), assigned(3, &[3, 4])];
        let plan = plan_replace(NodeId(3), NodeId(4), &before);
        assert_eq!(ids(&plan), [(0, vec![4, 1]), (1, vec![2, 4])], "of 3 it has a replica already");
    }

    #[test]
    fn a_new_node_gets_its_share_and_no_more_moves() {
        let targets = [target(1, ""), target(2, ""), target(3, "")];
        let before: Vec<Assigned> = (0..6).map(|at| assigned(at, &[1 + at % 2, 2 - at % 2])).collect();
        let plan = plan_rebalance(&targets, &before);
        let moved: usize = plan.iter().filter(|it| it.replicas.contains(&NodeId(3))).count();
        assert_eq!(moved, 4, "{plan:?}");
    }

    #[test]
    fn racks_are_not_given_up() {
        // Node 3 has nothing, and shares its rack with 2.
        let targets = [target(1, "a"), target(2, "b"), target(3, "b")];
        let before: Vec<Assigned> = (0..4).map(|at| assigned(at, &[1, 2])).collect();
        for assigned in plan_rebalance(&targets, &before) {
            assert!(assigned.replicas.contains(&NodeId(1)), "{assigned:?}");
        }
    }

    fn cluster() -> impl Strategy<Value = (Vec<Target>, Vec<Assigned>)> {
        (2..7usize, 1..4usize, vec(any::<u64>(), 1..40), 0..4usize).prop_map(
            |(nodes, factor, draws, racks)| {
                let rack = |node: usize| if racks == 0 { String::new() } else { format!("{}", node % racks) };
                let targets = (0..nodes).map(|node| target(node as i32, &rack(node))).collect();
                let partitions = (0..).zip(draws).map(|(at, draw)| {
                    let first = draw as usize % nodes;
                    let step = 1 + (draw >> 32) as usize % (nodes - 1).max(1);
                    let mut replicas: Vec<i32> = Vec::new();
                    for number in 0..nodes * nodes {
                        let node = ((first + number * step + number / nodes) % nodes) as i32;
                        if replicas.len() < factor.min(nodes) && !replicas.contains(&node) {
                            replicas.push(node);
                        }
                    }
                    assigned(at, &replicas)
                });
                (targets, partitions.collect())
            },
        )
    }

    fn spread(counts: &BTreeMap<NodeId, usize>) -> usize {
        counts.values().max().unwrap() - counts.values().min().unwrap()
    }

    fn racks_of(loads: &Loads<'_>, assigned: &Assigned) -> usize {
        let racks = assigned.replicas.iter().map(|node| loads.racks[node]);
        racks.collect::<BTreeSet<_>>().len()
    }

    fn apply(before: &[Assigned], plan: &[Assigned]) -> Vec<Assigned> {
        let changed = |it: &Assigned| plan.iter().find(|to| to.partition == it.partition).cloned();
        before.iter().map(|it| changed(it).unwrap_or_else(|| it.clone())).collect()
    }

    proptest! {
        #[test]
        fn a_rebalanced_cluster_is_even_and_stays((targets, before) in cluster()) {
            let after = apply(&before, &plan_rebalance(&targets, &before));
            let (old, loads) = (Loads::new(&targets, &before), Loads::new(&targets, &after));
            for (before, after) in before.iter().zip(&after) {
                let distinct: BTreeSet<_> = after.replicas.iter().collect();
                prop_assert_eq!(distinct.len(), before.replicas.len());
                prop_assert!(racks_of(&loads, after) >= racks_of(&loads, before));
            }
            prop_assert!(spread(&loads.replicas) <= spread(&old.replicas));
            if targets.iter().all(|target| target.rack.is_none()) {
                prop_assert!(spread(&loads.replicas) <= 1, "{:?}", loads.replicas);
            }
            prop_assert_eq!(plan_rebalance(&targets, &after), Vec::new());
        }

        #[test]
        fn a_drained_node_has_nothing((targets, before) in cluster()) {
            let left = &targets[1..];
            match plan_drain(targets[0].node, left, &before) {
                Ok(plan) => {
                    let after = apply(&before, &plan);
                    prop_assert!(!nodes_of(&after).contains(&targets[0].node));
                    for (before, after) in before.iter().zip(&after) {
                        let distinct: BTreeSet<_> = after.replicas.iter().collect();
                        prop_assert_eq!(distinct.len(), before.replicas.len());
                        let stayed = before.replicas.iter().filter(|node| after.replicas.contains(node)).count();
                        prop_assert!(stayed + 1 >= before.replicas.len(), "only one moves");
                    }
                }
                Err(refused) => prop_assert!(refused.replicas > left.len()),
            }
        }
    }
}
