//! Who leads a partition, who is in sync and who may lead once nobody is: the controller's side of replication.
//!
//! ```text
//!   in sync {1, 2, 3} ── 3 is lost ──► {1, 2} ── 2 is lost ──► {1}, eligible {2}
//!        ▲                                                      │ 1 is lost: nobody leads
//!        └── {2} leads again, eligible {1}  ◄── 2 is back ── {}, eligible {1, 2}
//! ```
//!
//! While fewer than `min.insync.replicas` are in sync the high watermark stands still, so that whoever leaves
//! then still has everything that was acknowledged: it is eligible to lead when nobody is in sync (KIP-966). A
//! change of the leader ends the leader epoch, any change the partition epoch (KIP-497).
//!
//! | module | what it decides |
//! |---|---|
//! | [`alter`] | whether a leader gets the in-sync set that it asks for |
//! | [`membership`] | what it means for a partition that a node comes, goes, or has lost its log |
//! | [`reassignment`] | other replicas: when they come, when those of before go, and how to go back |
//! | `stored.rs` | to and from what the image has of it |
//!
//! Pure. Absent: the last known leader of KIP-966: a leader that crashes stays eligible here, and one that is not any
//! more has lost its log, and is no better than others. Source: KIP-455, 497, 841, 903, 966; Kafka
//! `PartitionChangeBuilder`, `ReplicationControlManager`.

pub mod alter;
pub mod membership;
pub mod reassignment;
mod stored;

use std::collections::BTreeMap;

use self::reassignment::Assignment;
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch};

/// Leader and in-sync set of a partition.
///
/// Invariant: replicas name each node once; everybody named is a replica; nobody is both in sync and eligible; a
/// leader is in sync; some replica does not go, and some was there before. Lists are in the order of the replicas,
/// but for those of the nodes that come and go, which are sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// In preference order: the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    pub in_sync: Vec<NodeId>,
    pub eligible_leaders: Vec<NodeId>,
    /// Replicas that a reassignment brings in, and those that go once all others are in sync.
    pub adding: Vec<NodeId>,
    pub removing: Vec<NodeId>,
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
}

/// A node as the controller knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub broker_epoch: BrokerEpoch,
    /// It leads nothing and gets into no in-sync set: nothing was heard of it, or not yet that it is up to date.
    pub is_fenced: bool,
    pub is_shutting_down: bool,
}

/// Lives: one per controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(pub BTreeMap<NodeId, Member>);

impl Members {
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.0.get(&node)
    }

    /// It may lead and come into an in-sync set.
    pub fn is_active(&self, node: NodeId) -> bool {
        self.get(node).is_some_and(|member| !member.is_fenced && !member.is_shutting_down)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The leader stays where it can; else the first in preference order.
    Online,
    /// The first in preference order where it can.
    Preferred,
    /// As a last resort anybody that is there, and what only others had is lost.
    Unclean,
}

/// What a partition is to become; the rest follows.
#[derive(Clone, Copy, Debug)]
struct Target<'a> {
    in_sync: &'a [NodeId],
    /// Other replicas.
    assignment: Option<&'a Assignment>,
    /// Its log is not what it was: it is not eligible any more.
    lost: Option<NodeId>,
    election: Election,
}

/// What decisions about a partition look at.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub members: &'a Members,
    /// `min.insync.replicas` of the topic.
    pub in_sync_min: usize,
    /// Nodes that may be alive, but whose log directory with this partition cannot be used.
    pub offline: &'a [NodeId],
}

impl Rules<'_> {
    /// It may lead the partition and come into its in-sync set.
    pub fn is_active(&self, node: NodeId) -> bool {
        self.members.is_active(node) && !self.offline.contains(&node)
    }
}

impl<'a> Target<'a> {
    /// Another in-sync set, and what follows from it.
    fn in_sync(in_sync: &'a [NodeId]) -> Target<'a> {
        Target { in_sync, assignment: None, lost: None, election: Election::Online }
    }
}

impl Leadership {
    /// A new partition: led by its first active replica, everyone active in sync.
    pub fn new(replicas: Vec<NodeId>, rules: Rules<'_>) -> Leadership {
        let active = replicas.iter().copied().filter(|node| rules.is_active(*node));
        let in_sync: Vec<NodeId> = active.collect();
        Leadership {
            leader: in_sync.first().copied(),
            replicas,
            in_sync,
            eligible_leaders: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
        }
    }

    /// Another leader where there is a better one; `None` where all stays as it is.
    pub fn elect(&self, rules: Rules<'_>, election: Election) -> Option<Leadership> {
        self.change(rules, Target { election, ..Target::in_sync(&self.in_sync) })
    }

    /// Whether the election of its leader may have lost something: it was neither in sync nor eligible before. Nor has it
    /// come into the in-sync set with that very change: beside who was in it, or where the leader before it goes with a
    /// reassignment that is over.
    pub fn is_unclean_after(&self, before: &Leadership) -> bool {
        let had_all = before.in_sync.iter().chain(&before.eligible_leaders);
        let lacked_none = |leader: NodeId| had_all.clone().any(|node| *node == leader);
        let goes = |leader| before.removing.contains(&leader) && !self.replicas.contains(&leader);
        let has_come = before.leader.is_some_and(goes) || self.in_sync.iter().any(|node| lacked_none(*node));
        self.leader.is_some_and(|leader| before.leader != Some(leader) && !has_come)
    }

    /// How many have to be in sync for the high watermark to move. Never more than there are replicas; those that come
    /// do not count before they are in sync.
    pub fn in_sync_min(&self, rules: Rules<'_>) -> usize {
        rules.in_sync_min.clamp(1, (self.replicas.len() - self.adding.len()).max(1))
    }

    fn change(&self, rules: Rules<'_>, target: Target<'_>) -> Option<Leadership> {
        let mut next = self.clone();
        if let Some(assignment) = target.assignment {
            next.assign(assignment.clone());
        }
        if let Some(completed) = next.completed(target.in_sync) {
            next.assign(completed);
        }
        next.in_sync = next.in_order(|node| target.in_sync.contains(&node));
        next.eligible_leaders = match next.in_sync.len() >= next.in_sync_min(rules) {
            true => Vec::new(),
            false => next.in_order(|node| {
                let had_all = self.in_sync.contains(&node) || self.eligible_leaders.contains(&node);
                had_all && !next.in_sync.contains(&node) && target.lost != Some(node)
            }),
        };
        next.leader = next.best_leader(rules, target.election);
        if let Some(leader) = next.leader {
            if next.eligible_leaders.contains(&leader) {
                // Whoever is in sync and away has everything as well; as long as one alone is not enough.
                let is_enough = next.in_sync_min(rules) == 1;
                let had_all = |node| next.in_sync.contains(&node) || next.eligible_leaders.contains(&node);
                next.eligible_leaders = next.in_order(|node| !is_enough && node != leader && had_all(node));
                next.in_sync = vec![leader];
            } else if !next.in_sync.contains(&leader) {
                // Unclean: nobody else counts any more.
                next.in_sync = vec![leader];
                next.eligible_leaders = Vec::new();
            }
        }
        if next == *self {
            return None;
        }
        // Nobody follows on under the epoch that a replica has left.
        let has_left = self.replicas.iter().any(|node| !next.replicas.contains(node));
        if next.leader != self.leader || has_left {
            next.leader_epoch = LeaderEpoch(self.leader_epoch.0 + 1);
        }
        next.partition_epoch = PartitionEpoch(self.partition_epoch.0 + 1);
        assert!(next.leader.is_none_or(|leader| next.in_sync.contains(&leader)));
        Some(next)
    }

    fn in_order(&self, is_wanted: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        self.replicas.iter().copied().filter(|node| is_wanted(*node)).collect()
    }

    /// Of those in sync; of those eligible only when nobody is in sync.
    fn best_leader(&self, rules: Rules<'_>, election: Election) -> Option<NodeId> {
        let may_lead = |node: &NodeId| {
            let has_all = self.in_sync.contains(node)
                || (self.in_sync.is_empty() && self.eligible_leaders.contains(node));
            has_all && rules.is_active(*node)
        };
        let current = self.leader.filter(|leader| may_lead(leader));
        let preferred = self.replicas.first().copied().filter(|node| may_lead(node));
        let any = || self.replicas.iter().copied().find(|node| may_lead(node));
        match election {
            Election::Online => current.or_else(any),
            Election::Preferred => preferred.or(current).or_else(any),
            Election::Unclean => {
                // Those that come have begun with nothing.
                let alive = |node: &NodeId| rules.is_active(*node);
                let of_before = || self.replicas_before().into_iter().find(alive);
                let of_all = || self.replicas.iter().copied().find(alive);
                current.or_else(any).or_else(of_before).or_else(of_all)
            }
        }
    }
}

#[cfg(test)]
mod tests;
