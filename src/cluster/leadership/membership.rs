//! Nodes that start, come back, are fenced, stop: what becomes of a partition.
//!
//! | what happens | leads | in sync | eligible |
//! |---|---|---|---|
//! | it starts, its log complete | no more; again under a new epoch | stays | stays |
//! | it starts, its log not complete | no more | out | out |
//! | it starts, its log may lack its end | no more | out, unless nobody else is left | out |
//! | nothing is heard of it (fenced) | no more | out | in, while fewer than the minimum are in sync |
//! | its log directory has failed, or cannot be used at a start | no more | out | the same |
//! | it stops in an orderly way | others first | out | the same |
//! | it is up to date (unfenced) | where nobody leads | | |
//!
//! A leader that starts again never goes on under its old epoch: followers may have batches from it that it has
//! lost, and others would take their offsets.

use super::{Election, Leadership, Member, Members, Rules, Target};
use crate::types::{BrokerEpoch, NodeId};

/// What a start has found of a replica's log (DESIGN 6: the restart rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFound {
    /// Everything that it had acknowledged is there.
    Complete,
    /// Damage, or no proof, or nothing at all.
    Lost,
    /// It may lack the end of that.
    Doubtful,
    /// Its log directory cannot be used: what it has acknowledged may be back with it.
    Unavailable,
}

/// The registration that a process would replace is not the one it has heard of: it is late, or another one was
/// faster. It hears of the current one, and may try again.
///
/// Without this a copy of an earlier process's registration could come late, and take the place of a log that
/// has long caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is registered as {current:?}")]
pub struct ReplacesAnother {
    pub current: BrokerEpoch,
}

impl Members {
    /// Whether a process may register that has heard of `replaces`.
    pub fn may_register(&self, node: NodeId, replaces: Option<BrokerEpoch>) -> Result<(), ReplacesAnother> {
        match self.get(node).map(|member| member.broker_epoch) {
            Some(current) if replaces != Some(current) => Err(ReplacesAnother { current }),
            _ => Ok(()),
        }
    }

    /// A node has started. It is fenced until it is up to date.
    pub fn register(&mut self, node: NodeId, broker_epoch: BrokerEpoch) {
        let newest = self.0.values().map(|member| member.broker_epoch).max();
        assert!(newest.is_none_or(|newest| newest < broker_epoch), "epochs of registrations go up");
        self.0.insert(node, Member { broker_epoch, is_fenced: true, is_shutting_down: false });
    }

    pub fn fence(&mut self, node: NodeId) {
        if let Some(member) = self.0.get_mut(&node) {
            member.is_fenced = true;
        }
    }

    pub fn unfence(&mut self, node: NodeId) {
        if let Some(member) = self.0.get_mut(&node) {
            member.is_fenced = false;
        }
    }

    pub fn begin_shut_down(&mut self, node: NodeId) {
        if let Some(member) = self.0.get_mut(&node) {
            member.is_shutting_down = true;
        }
    }
}

impl Leadership {
    /// A node has registered anew; `rules` know it already as fenced. `None` where all stays as it is.
    pub fn node_started(&self, rules: Rules<'_>, node: NodeId, found: LogFound) -> Option<Leadership> {
        match found {
            LogFound::Lost => self.node_lost(rules, node),
            LogFound::Doubtful if !self.is_last(rules, node) => self.node_lost(rules, node),
            LogFound::Unavailable => self.node_left(rules, node),
            LogFound::Complete | LogFound::Doubtful if self.leader == Some(node) => {
                self.elect(rules, Election::Online)
            }
            LogFound::Complete | LogFound::Doubtful => None,
        }
    }

    fn node_lost(&self, rules: Rules<'_>, node: NodeId) -> Option<Leadership> {
        let in_sync = self.without(node);
        self.change(rules, Target { lost: Some(node), ..Target::in_sync(&in_sync) })
    }

    /// Nobody else could lead without a loss, now or later.
    fn is_last(&self, rules: Rules<'_>, node: NodeId) -> bool {
        let mut all = self.in_sync.iter().chain(&self.eligible_leaders);
        all.all(|other| *other == node || rules.members.get(*other).is_none())
    }

    /// A node was fenced, wants to stop, or its log directory has failed; `rules` know that already.
    pub fn node_left(&self, rules: Rules<'_>, node: NodeId) -> Option<Leadership> {
        if !self.in_sync.contains(&node) {
            return None;
        }
        let in_sync = self.without(node);
        self.change(rules, Target::in_sync(&in_sync))
    }

    /// A node was unfenced; `rules` know that already.
    pub fn node_came(&self, rules: Rules<'_>, node: NodeId) -> Option<Leadership> {
        let is_wanted = self.leader.is_none() && self.replicas.contains(&node);
        if is_wanted { self.elect(rules, Election::Online) } else { None }
    }

    fn without(&self, node: NodeId) -> Vec<NodeId> {
        self.in_order(|replica| self.in_sync.contains(&replica) && replica != node)
    }
}
