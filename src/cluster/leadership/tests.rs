//! Each rule as a small story; and any story keeps the rules.

use super::alter::{AlterRefused, Alteration};
use super::membership::LogFound;
use super::*;
use crate::cluster::image::tests::replica;
use crate::cluster::record::PartitionState;
use proptest::prelude::*;

struct Story {
    members: Members,
    in_sync_min: usize,
    partition: Leadership,
    next_epoch: i64,
}

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

impl Story {
    fn new(replicas: &[i32], in_sync_min: usize) -> Story {
        let mut members = Members::default();
        for (at, node) in nodes(replicas).into_iter().enumerate() {
            members.register(node, BrokerEpoch(at as i64));
            members.unfence(node);
        }
        let partition =
            Leadership::new(nodes(replicas), Rules { members: &members, in_sync_min, offline: &[] });
        Story { members, in_sync_min, partition, next_epoch: 100 }
    }

    fn take(&mut self, change: impl FnOnce(&Leadership, Rules<'_>) -> Option<Leadership>) -> bool {
        let rules = Rules { members: &self.members, in_sync_min: self.in_sync_min, offline: &[] };
        let next = change(&self.partition, rules);
        let is_change = next.is_some();
        if let Some(next) = next {
            assert_eq!(next.partition_epoch.0, self.partition.partition_epoch.0 + 1);
            assert!(next.leader_epoch >= self.partition.leader_epoch);
            assert!(next.leader == self.partition.leader || next.leader_epoch > self.partition.leader_epoch);
            self.partition = next;
        }
        is_change
    }

    fn fence(&mut self, node: i32) {
        self.members.fence(NodeId(node));
        self.take(|partition, rules| partition.node_left(rules, NodeId(node)));
    }

    fn unfence(&mut self, node: i32) {
        self.members.unfence(NodeId(node));
        self.take(|partition, rules| partition.node_came(rules, NodeId(node)));
    }

    fn start(&mut self, node: i32, found: LogFound) {
        self.next_epoch += 1;
        self.members.register(NodeId(node), BrokerEpoch(self.next_epoch));
        self.take(|partition, rules| partition.node_started(rules, NodeId(node), found));
    }

    fn shut_down(&mut self, node: i32) {
        self.members.begin_shut_down(NodeId(node));
        self.take(|partition, rules| partition.node_left(rules, NodeId(node)));
    }

    fn asked<'a>(&self, in_sync: &'a [(NodeId, Option<BrokerEpoch>)]) -> Alteration<'a> {
        let node = self.partition.leader.expect("somebody leads");
        Alteration {
            node,
            broker_epoch: self.members.get(node).expect("it is registered").broker_epoch,
            leader_epoch: self.partition.leader_epoch,
            partition_epoch: self.partition.partition_epoch,
            in_sync,
        }
    }

    fn with_epochs(&self, in_sync: &[i32]) -> Vec<(NodeId, Option<BrokerEpoch>)> {
        let with_epoch = |node: NodeId| (node, self.members.get(node).map(|member| member.broker_epoch));
        nodes(in_sync).into_iter().map(with_epoch).collect()
    }

    fn alter(&mut self, in_sync: &[i32]) -> Result<(), AlterRefused> {
        let in_sync = self.with_epochs(in_sync);
        let asked = self.asked(&in_sync);
        let rules = Rules { members: &self.members, in_sync_min: self.in_sync_min, offline: &[] };
        let next = self.partition.alter(rules, asked)?;
        assert_eq!(next.partition_epoch.0, self.partition.partition_epoch.0 + 1);
        self.partition = next;
        Ok(())
    }

    /// Leader, in sync, eligible.
    fn state(&self) -> (i32, Vec<i32>, Vec<i32>) {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let leader = self.partition.leader.map_or(0, |node| node.0);
        (leader, ids(&self.partition.in_sync), ids(&self.partition.eligible_leaders))
    }
}

#[test]
fn who_leaves_a_set_that_is_too_small_stays_eligible() {
    let mut story = Story::new(&[1, 2, 3], 2);
    story.fence(3);
    assert_eq!(story.state(), (1, vec![1, 2], vec![]), "two are enough, and go on without it");
    story.fence(2);
    assert_eq!(story.state(), (1, vec![1], vec![2]));
    story.fence(1);
    assert_eq!(story.state(), (0, vec![], vec![1, 2]));
    story.unfence(3);
    assert_eq!(story.state().0, 0, "it lacks what was acknowledged");
    story.unfence(2);
    assert_eq!(story.state(), (2, vec![2], vec![1]));
    story.unfence(1);
    story.alter(&[1, 2]).unwrap();
    assert_eq!(story.state(), (2, vec![1, 2], vec![]));
}

#[test]
fn who_is_in_sync_and_away_is_eligible_once_an_eligible_one_leads() {
    let mut story = Story::new(&[1, 2, 3], 2);
    story.fence(1);
    story.fence(2);
    story.start(3, LogFound::Complete);
    assert_eq!(story.state(), (0, vec![3], vec![2]));
    story.unfence(2);
    assert_eq!(story.state(), (0, vec![3], vec![2]), "who is in sync is waited for");
    story.take(|partition, rules| partition.elect(rules, Election::Unclean));
    assert_eq!(story.state(), (2, vec![2], vec![3]));
    story.start(2, LogFound::Lost);
    story.unfence(3);
    assert_eq!(story.state(), (3, vec![3], vec![]), "nothing is lost");
}

#[test]
fn nobody_stays_eligible_beside_a_leader_that_is_enough() {
    let mut story = Story::new(&[1, 2, 3], 2);
    [3, 2, 1].into_iter().for_each(|node| story.fence(node));
    assert_eq!(story.state(), (0, vec![], vec![1, 2]));
    story.in_sync_min = 1;
    story.unfence(1);
    // From now on it acknowledges alone what the other one does not have.
    assert_eq!(story.state(), (1, vec![1], vec![]));
}

#[test]
fn a_doubtful_log_keeps_its_place_where_nobody_else_counts() {
    let mut story = Story::new(&[1, 2, 3], 2);
    story.start(3, LogFound::Doubtful);
    assert_eq!(story.state(), (1, vec![1, 2], vec![]));
    [1, 2].into_iter().for_each(|node| story.fence(node));
    story.start(1, LogFound::Doubtful);
    assert_eq!(story.state(), (0, vec![], vec![2]), "2 is away, and has everything");
    story.start(2, LogFound::Doubtful);
    story.unfence(2);
    assert_eq!(story.state(), (2, vec![2], vec![]), "it is the last");
    let mut story = Story::new(&[1, 2], 2);
    [2, 1].into_iter().for_each(|node| story.fence(node));
    story.members.0.remove(&NodeId(2));
    story.start(1, LogFound::Doubtful);
    story.unfence(1);
    assert_eq!(story.state().0, 1, "2 is unregistered, and nobody waits for it");
}

#[test]
fn a_leader_that_starts_again_has_a_new_epoch() {
    let mut story = Story::new(&[1], 1);
    story.start(1, LogFound::Complete);
    assert_eq!(story.state(), (0, vec![1], vec![]));
    story.unfence(1);
    assert_eq!(story.state(), (1, vec![1], vec![]));
    assert_eq!(story.partition.leader_epoch, LeaderEpoch(2));
}

#[test]
fn a_complete_log_keeps_its_place_and_a_lost_one_does_not() {
    let mut story = Story::new(&[1, 2, 3], 2);
    story.start(2, LogFound::Complete);
    assert_eq!(story.state(), (1, vec![1, 2, 3], vec![]));
    story.start(1, LogFound::Complete);
    assert_eq!(story.state(), (3, vec![1, 2, 3], vec![]), "2 is not up to date yet");
    story.start(3, LogFound::Lost);
    assert_eq!(story.state(), (0, vec![1, 2], vec![]));
    story.fence(1);
    story.fence(2);
    assert_eq!(story.state(), (0, vec![], vec![1, 2]));
    story.start(1, LogFound::Lost);
    assert_eq!(story.state(), (0, vec![], vec![2]));
    story.unfence(1);
    assert_eq!(story.state(), (0, vec![], vec![2]));
    story.unfence(2);
    assert_eq!(story.state(), (2, vec![2], vec![]));
}

#[test]
fn a_registration_that_comes_late_is_refused() {
    let mut story = Story::new(&[1, 2], 1);
    let late = story.members.get(NodeId(1)).map(|member| member.broker_epoch);
    assert_eq!(story.members.may_register(NodeId(1), late), Ok(()));
    story.start(1, LogFound::Complete);
    let current = story.members.get(NodeId(1)).unwrap().broker_epoch;
    let refused = Err(membership::ReplacesAnother { current });
    assert_eq!(story.members.may_register(NodeId(1), late), refused);
    assert_eq!(story.members.may_register(NodeId(1), None), refused);
    assert_eq!(story.members.may_register(NodeId(9), None), Ok(()));
}

#[test]
fn leaders_move_before_a_node_stops() {
    let mut story = Story::new(&[1, 2, 3], 2);
    story.shut_down(1);
    assert_eq!(story.state(), (2, vec![2, 3], vec![]));
    assert_eq!(story.alter(&[1, 2, 3]), Err(AlterRefused::IneligibleReplica(NodeId(1))));
    story.shut_down(2);
    assert_eq!(story.state(), (3, vec![3], vec![2]));
}

#[test]
fn alterations_under_old_or_unknown_epochs_are_refused() {
    let story = Story::new(&[1, 2, 3], 2);
    let in_sync = story.with_epochs(&[1, 2]);
    let asked = story.asked(&in_sync);
    let rules = Rules { members: &story.members, in_sync_min: 2, offline: &[] };
    let mut partition = story.partition.clone();
    (partition.leader_epoch, partition.partition_epoch) = (LeaderEpoch(4), PartitionEpoch(9));
    let alter = |asked: Alteration<'_>| partition.alter(rules, asked).map(|next| next.partition_epoch.0);
    let current = Alteration { leader_epoch: LeaderEpoch(4), partition_epoch: PartitionEpoch(9), ..asked };
    assert_eq!(alter(current), Ok(10));
    let stale = Alteration { broker_epoch: BrokerEpoch(55), ..current };
    assert_eq!(alter(stale), Err(AlterRefused::StaleBrokerEpoch(NodeId(1))));
    let ahead = Alteration { partition_epoch: PartitionEpoch(10), ..current };
    assert_eq!(alter(ahead), Err(AlterRefused::NotController));
    let fenced = Alteration { leader_epoch: LeaderEpoch(3), ..current };
    assert!(matches!(alter(fenced), Err(AlterRefused::FencedLeaderEpoch { .. })));
    let other = Alteration { node: NodeId(2), broker_epoch: BrokerEpoch(1), ..current };
    assert_eq!(alter(other), Err(AlterRefused::NotLeader(NodeId(2))));
    let old = Alteration { partition_epoch: PartitionEpoch(8), ..current };
    assert!(matches!(alter(old), Err(AlterRefused::InvalidUpdateVersion { .. })));
    for wrong in [vec![2, 3], vec![1, 1], vec![1, 4]] {
        let in_sync = story.with_epochs(&wrong);
        assert_eq!(alter(Alteration { in_sync: &in_sync, ..current }), Err(AlterRefused::InvalidInSync));
    }
}

#[test]
fn who_comes_in_has_to_be_the_one_that_caught_up() {
    let mut story = Story::new(&[1, 2, 3], 2);
    story.fence(3);
    assert_eq!(story.alter(&[1, 2, 3]), Err(AlterRefused::IneligibleReplica(NodeId(3))));
    let caught_up = story.with_epochs(&[1, 2, 3]);
    story.start(3, LogFound::Lost);
    story.unfence(3);
    let rules = Rules { members: &story.members, in_sync_min: 2, offline: &[] };
    let altered = story.partition.alter(rules, story.asked(&caught_up));
    assert_eq!(altered, Err(AlterRefused::IneligibleReplica(NodeId(3))), "it has started anew since");
    story.alter(&[1, 2, 3]).unwrap();
    assert_eq!(story.state(), (1, vec![1, 2, 3], vec![]));
}

#[test]
fn an_alteration_that_changes_nothing_still_ends_the_partition_epoch() {
    let mut story = Story::new(&[1, 2, 3], 2);
    story.alter(&[1, 2, 3]).unwrap();
    assert_eq!((story.partition.leader_epoch.0, story.partition.partition_epoch.0), (0, 1));
}

#[test]
fn unclean_only_if_asked_for_and_preferred_where_it_can() {
    let mut story = Story::new(&[1, 2, 3], 1);
    story.fence(2);
    story.fence(3);
    story.fence(1);
    story.unfence(2);
    assert_eq!(story.state(), (0, vec![], vec![1]));
    let before = story.partition.clone();
    assert!(story.take(|partition, rules| partition.elect(rules, Election::Unclean)));
    assert!(story.partition.is_unclean_after(&before));
    assert_eq!(story.state(), (2, vec![2], vec![]));
    story.unfence(1);
    assert!(!story.take(|partition, rules| partition.elect(rules, Election::Preferred)));
    story.alter(&[1, 2]).unwrap();
    let before = story.partition.clone();
    assert!(story.take(|partition, rules| partition.elect(rules, Election::Preferred)));
    assert!(!story.partition.is_unclean_after(&before));
    assert_eq!(story.state(), (1, vec![1, 2], vec![]));
    assert!(!story.take(|partition, rules| partition.elect(rules, Election::Unclean)));
}

/// It is to go from 1, 2, 3 to 4, which has begun to copy.
fn moving_to_the_fourth() -> Story {
    let mut story = Story::new(&[1, 2, 3], 2);
    story.members.register(NodeId(4), BrokerEpoch(50));
    story.members.unfence(NodeId(4));
    assert!(story.take(|partition, rules| partition.reassign(rules, &nodes(&[4]))));
    assert_eq!(story.partition.replicas, nodes(&[4, 1, 2, 3]));
    story
}

#[test]
fn who_leads_once_it_has_come_is_elected_cleanly() {
    let mut story = moving_to_the_fourth();
    let before = story.partition.clone();
    assert_eq!(story.alter(&[1, 2, 3, 4]), Ok(()));
    assert_eq!(story.state(), (4, vec![4], vec![]), "the others go with that change");
    assert!(!story.partition.is_unclean_after(&before));
    // So is one that was there before, and has caught up only now.
    let mut story = Story::new(&[1, 2, 3], 1);
    assert_eq!(story.alter(&[1]), Ok(()));
    assert!(story.take(|partition, rules| partition.reassign(rules, &nodes(&[2, 3]))));
    let before = story.partition.clone();
    assert_eq!(story.alter(&[1, 2, 3]), Ok(()));
    assert_eq!(story.state(), (2, vec![2, 3], vec![]));
    assert!(!story.partition.is_unclean_after(&before));
    // So is one that is taken in by a leader that is about to stop.
    let mut story = Story::new(&[1, 2], 1);
    assert_eq!(story.alter(&[1]), Ok(()));
    story.shut_down(1);
    story.partition.in_sync = nodes(&[1]);
    story.partition.eligible_leaders.clear();
    story.partition.leader = Some(NodeId(1));
    let before = story.partition.clone();
    assert_eq!(story.alter(&[1, 2]), Ok(()));
    assert_eq!(story.state(), (2, vec![1, 2], vec![]));
    assert!(!story.partition.is_unclean_after(&before));
    // Where it has not come it has not, whoever else is away.
    let mut story = moving_to_the_fourth();
    story.partition.in_sync.clear();
    let before = story.partition.clone();
    for node in 1..=3 {
        story.members.fence(NodeId(node));
    }
    story.take(|partition, rules| partition.elect(rules, Election::Unclean));
    assert_eq!(story.state().0, 4);
    assert!(story.partition.is_unclean_after(&before));
}

#[test]
fn who_has_begun_with_nothing_is_the_last_to_lead_uncleanly() {
    let mut story = moving_to_the_fourth();
    story.partition.in_sync = nodes(&[1]);
    story.fence(1);
    story.partition.eligible_leaders.clear();
    assert_eq!(story.state().0, 0);
    assert!(story.take(|partition, rules| partition.elect(rules, Election::Unclean)));
    assert_eq!(story.state(), (2, vec![2], vec![]));
}

#[test]
fn cancelled_it_is_led_by_who_has_everything() {
    // Only the fourth is in sync, and the second has all that was acknowledged.
    let cancelled = |is_unclean_allowed, eligible: &[i32]| {
        let mut story = moving_to_the_fourth();
        story.partition.in_sync = nodes(&[4]);
        story.partition.leader = Some(NodeId(4));
        story.partition.eligible_leaders = nodes(eligible);
        let rules = Rules { members: &story.members, in_sync_min: 2, offline: &[] };
        let cancelled = story.partition.cancel_reassignment(rules, is_unclean_allowed);
        cancelled.map(|next| (next.leader.map(|node| node.0), next.in_sync))
    };
    assert_eq!(cancelled(false, &[2]), Ok((Some(2), nodes(&[2]))));
    assert_eq!(cancelled(true, &[2]), Ok((Some(2), nodes(&[2]))));
    assert_eq!(cancelled(false, &[]), Err(reassignment::NotCancelled::Unclean));
    assert_eq!(cancelled(true, &[]), Ok((None, vec![])), "the controller sees whether somebody is coming");
    let mut story = moving_to_the_fourth();
    story.partition.in_sync = nodes(&[4]);
    for node in 1..=4 {
        story.members.fence(NodeId(node));
    }
    let rules = Rules { members: &story.members, in_sync_min: 2, offline: &[] };
    let nobody = story.partition.cancel_reassignment(rules, true).expect("it is allowed");
    assert_eq!((nobody.leader, nobody.in_sync), (None, vec![]), "nobody is said to have what it lacks");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Fence(i32),
    Unfence(i32),
    Start(i32, bool),
    ShutDown(i32),
    Alter(u8),
    Preferred,
    /// To so many nodes from one on.
    Reassign(i32, usize),
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..6).prop_map(Step::Fence),
        3 => (1..6).prop_map(Step::Unfence),
        1 => (1..6, any::<bool>()).prop_map(|(node, is_complete)| Step::Start(node, is_complete)),
        1 => (1..6).prop_map(Step::ShutDown),
        3 => any::<u8>().prop_map(Step::Alter),
        1 => Just(Step::Preferred),
        2 => (0..5, 1..5usize).prop_map(|(first, count)| Step::Reassign(first, count)),
        1 => Just(Step::Cancel),
    ]
}

proptest! {
    #[test]
    fn any_story_keeps_the_rules(
        count in 1..6i32,
        in_sync_min in 1..4usize,
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let replicas: Vec<i32> = (1..=count).collect();
        let mut story = Story::new(&replicas, in_sync_min);
        for step in steps {
            let before = story.partition.clone();
            match step {
                Step::Fence(node) => story.fence(node),
                Step::Unfence(node) if story.members.get(NodeId(node)).is_some() => story.unfence(node),
                Step::Start(node, is_complete) => {
                    story.start(node, if is_complete { LogFound::Complete } else { LogFound::Lost });
                }
                Step::ShutDown(node) => story.shut_down(node),
                Step::Alter(mask) if before.leader.is_some() => {
                    let wanted = |node: &i32| mask & (1 << node) != 0;
                    let _ = story.alter(&(1..6).filter(wanted).collect::<Vec<_>>());
                }
                Step::Preferred => {
                    story.take(|partition, rules| partition.elect(rules, Election::Preferred));
                }
                Step::Reassign(first, count) => {
                    let target: Vec<i32> = (0..count as i32).map(|at| (first + at) % 5 + 1).collect();
                    story.take(|partition, rules| partition.reassign(rules, &nodes(&target)));
                    let is_on = |node: &NodeId| story.partition.replicas.contains(node);
                    prop_assert!(nodes(&target).iter().all(is_on));
                }
                Step::Cancel => {
                    let was_there = |node: &NodeId| !before.adding.contains(node);
                    story.take(|partition, rules| partition.cancel_reassignment(rules, false).ok());
                    let is_cancelled = story.partition.partition_epoch != before.partition_epoch;
                    prop_assert!(!is_cancelled || story.partition.replicas.iter().all(was_there));
                }
                Step::Unfence(_) | Step::Alter(_) => {}
            }
            let now = &story.partition;
            let had_all = |node: &NodeId| before.in_sync.contains(node) || before.eligible_leaders.contains(node);
            if let Some(leader) = now.leader {
                prop_assert!(now.in_sync.contains(&leader));
                prop_assert!(story.members.is_active(leader) || !matches!(step, Step::Start(node, _) if node == leader.0));
                // The high watermark waits for whoever its leader asks for.
                let is_asked_for = matches!(step, Step::Alter(mask) if mask & (1 << leader.0) != 0);
                if now.leader != before.leader {
                    let may_lead = had_all(&leader) || is_asked_for;
                    prop_assert!(may_lead, "a leader that may lack something: {:?} {:?}", before, now);
                }
            }
            let has_left = before.replicas.iter().any(|node| !now.replicas.contains(node));
            prop_assert!(!has_left || now.leader_epoch > before.leader_epoch);
            let left = before.replicas.iter().filter(|node| !now.replicas.contains(node));
            let may_leave = |node: &NodeId| before.adding.contains(node) || !now.is_reassigned();
            prop_assert!(left.copied().all(|node| may_leave(&node)), "{:?} {:?}", before, now);
            let placed = now.replicas.iter().map(|node| replica(node.0, 0)).collect();
            prop_assert_eq!(PartitionState::created(placed, now).check(), Ok(()));
            prop_assert!(now.in_sync.iter().all(|node| !now.eligible_leaders.contains(node)));
            prop_assert!(now.eligible_leaders.iter().all(had_all));
            let in_sync_min = in_sync_min.min(now.replicas.len() - now.adding.len());
            prop_assert!(now.in_sync.len() < in_sync_min || now.eligible_leaders.is_empty());
        }
    }
}
