//! Reassignment: other replicas for a partition (KIP-455).
//!
//! ```text
//!   {1, 2, 3} ── to {3, 4} ──► {3, 4, 1, 2}, adding {4}, removing {1, 2} ── {3, 4} are in sync ──► {3, 4}
//!                               └── cancelled ──► {3, 1, 2}
//! ```
//!
//! Until all that are to stay are in sync those of before stay as well. Then they go in the same change, whatever has
//! led to it: where a leader goes another one leads, and where anybody goes the leader epoch ends, so that nobody
//! follows or leads on under it. Nodes that are fenced meanwhile only delay it.
//!
//! Other than in Kafka one reassignment takes the place of another with what there was before either of them in
//! mind: cancelled, it leads back there. Source: Kafka `PartitionReassignmentReplicas`, `PartitionReassignmentRevert`.

use super::{Election, Leadership, Rules, Target};
use crate::types::NodeId;

/// All replicas, and which of them come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    replicas: Vec<NodeId>,
    adding: Vec<NodeId>,
    removing: Vec<NodeId>,
}

/// Why a reassignment is not cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotCancelled {
    NotInProgress,
    /// Nobody who was there before has everything, or those who have are away.
    Unclean,
}

impl Leadership {
    pub fn is_reassigned(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// How many replicas there will be once the reassignment is over, if there is one.
    pub fn target_count(&self) -> usize {
        self.replicas.len() - self.removing.len()
    }

    /// The replicas are to be these, in that order; each is named once. `None` where they are.
    pub fn reassign(&self, rules: Rules<'_>, target: &[NodeId]) -> Option<Leadership> {
        assert!(!target.is_empty(), "a partition has a replica");
        let mut removing = without(&self.replicas, target);
        removing.sort();
        let replicas: Vec<NodeId> = target.iter().chain(&removing).copied().collect();
        let mut adding = without(&replicas, &self.replicas_before());
        adding.sort();
        let assignment = Assignment { replicas, adding, removing };
        self.change(rules, Target { assignment: Some(&assignment), ..Target::in_sync(&self.in_sync) })
    }

    /// The replicas are those of before the reassignment. `is_unclean_allowed`: also where what only others have
    /// is lost.
    pub fn cancel_reassignment(
        &self,
        rules: Rules<'_>,
        is_unclean_allowed: bool,
    ) -> Result<Leadership, NotCancelled> {
        if !self.is_reassigned() {
            return Err(NotCancelled::NotInProgress);
        }
        let replicas = self.replicas_before();
        let in_sync = without(&self.in_sync, &self.adding);
        let assignment = Assignment { replicas, adding: Vec::new(), removing: Vec::new() };
        // Where nobody may lead who is there, the controller looks at once whether somebody who has everything is
        // coming, before it lets others.
        let target =
            Target { assignment: Some(&assignment), election: Election::Online, ..Target::in_sync(&in_sync) };
        let next = self.change(rules, target).expect("nobody comes or goes any more");
        // One that is eligible has everything as well. Where nobody has, one that is alive is found, now or later.
        let has_all = !in_sync.is_empty() || next.leader.is_some();
        if has_all || is_unclean_allowed { Ok(next) } else { Err(NotCancelled::Unclean) }
    }

    /// The reassignment is over, with these in sync.
    pub(super) fn completed(&self, in_sync: &[NodeId]) -> Option<Assignment> {
        let replicas = without(&self.replicas, &self.removing);
        let is_complete = self.is_reassigned() && replicas.iter().all(|node| in_sync.contains(node));
        is_complete.then_some(Assignment { replicas, adding: Vec::new(), removing: Vec::new() })
    }

    pub(super) fn assign(&mut self, assignment: Assignment) {
        let Assignment { replicas, adding, removing } = assignment;
        (self.replicas, self.adding, self.removing) = (replicas, adding, removing);
    }

    pub(super) fn replicas_before(&self) -> Vec<NodeId> {
        without(&self.replicas, &self.adding)
    }
}

fn without(nodes: &[NodeId], others: &[NodeId]) -> Vec<NodeId> {
    nodes.iter().copied().filter(|node| !others.contains(node)).collect()
}
