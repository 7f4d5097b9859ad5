//! Who belongs to the quorum: voters decide, observers only follow.
//!
//! A member is a node **and** the metadata directory that it has: a node that lost its directory is another
//! member. It has forgotten what it had acknowledged and whom it had voted for; were it counted as the one it
//! was, a majority could be made of nodes of which none knows an acknowledged change (KIP-853 names voters by
//! directory for the same reason).

use std::collections::BTreeSet;
use std::fmt;

use raft::eraftpb::ConfState;

use crate::types::limits::{QUORUM_MEMBERS_MAX, QUORUM_VOTERS_MAX};
use crate::types::{DirectoryId, NodeId};

/// A member as the `raft` crate and our schemas name it.
///
/// | bits | what |
/// |---|---|
/// | 0..32 | the node's id, plus one: zero is nobody |
/// | 32..64 | which of the metadata directories that the node has had |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u64);

impl PeerId {
    /// `incarnation`: from the id of the node's first log directory.
    pub fn new(node: NodeId, incarnation: u32) -> PeerId {
        assert!(node.0 >= 0, "a node id is not negative");
        PeerId(u64::from(incarnation) << 32 | (node.0 as u64 + 1))
    }

    /// The node with its metadata in this directory.
    pub fn of_directory(node: NodeId, directory: DirectoryId) -> PeerId {
        // Any of its bits are as random as the others.
        PeerId::new(node, directory.0.as_u128() as u32)
    }

    /// `None` for what names nobody.
    pub fn from_raw(raw: u64) -> Option<PeerId> {
        let low = raw & u64::from(u32::MAX);
        (1..=i32::MAX as u64 + 1).contains(&low).then_some(PeerId(raw))
    }

    pub fn raw(self) -> u64 {
        self.0
    }

    pub fn node(self) -> NodeId {
        NodeId(((self.0 & u64::from(u32::MAX)) - 1) as i32)
    }

    pub fn incarnation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node().0, self.incarnation())
    }
}

/// Everybody in the quorum.
///
/// Invariant: nobody is both; no node is there twice. Without a voter it is the quorum of a node that has not been
/// told of one yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub voters: BTreeSet<PeerId>,
    pub observers: BTreeSet<PeerId>,
}

/// A change of one member: two majorities, before and after it, always have a voter in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A node that follows the log from now on.
    AddObserver(PeerId),
    /// An observer that has caught up gets a vote.
    AddVoter(PeerId),
    Remove(PeerId),
}

impl MemberChange {
    pub fn peer(self) -> PeerId {
        match self {
            MemberChange::AddObserver(peer) | MemberChange::AddVoter(peer) | MemberChange::Remove(peer) => {
                peer
            }
        }
    }
}

/// Why members cannot be changed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRejected {
    #[error("{0:?} is a member already")]
    Member(PeerId),
    #[error("node {0:?} is a member with another metadata directory; remove that one first")]
    OtherDirectory(NodeId),
    #[error("{0:?} is no observer; only an observer is given a vote")]
    NoObserver(PeerId),
    #[error("{peer:?} has {matched} of {committed} entries; it gets a vote once it has caught up")]
    Behind { peer: PeerId, matched: u64, committed: u64 },
    #[error("{0:?} is no member")]
    Unknown(PeerId),
    #[error("the last voter cannot be removed")]
    LastVoter,
    #[error("the leader cannot be removed; transfer leadership first")]
    Leader,
    #[error("{QUORUM_VOTERS_MAX} voters, or {QUORUM_MEMBERS_MAX} members, are the most")]
    TooMany,
    #[error("another change of the members is not committed yet")]
    Pending,
}

impl Members {
    pub fn voters(voters: impl IntoIterator<Item = PeerId>) -> Members {
        Members { voters: voters.into_iter().collect(), observers: BTreeSet::new() }
    }

    pub fn contains(&self, peer: PeerId) -> bool {
        self.voters.contains(&peer) || self.observers.contains(&peer)
    }

    /// Whether so many of the voters decide.
    pub fn is_majority(&self, of: impl Fn(PeerId) -> bool) -> bool {
        let count = self.voters.iter().filter(|voter| of(**voter)).count();
        count * 2 > self.voters.len()
    }

    /// Whether the change makes sense by itself; its order among others is not looked at.
    pub fn check(&self, change: MemberChange) -> Result<(), ChangeRejected> {
        let peer = change.peer();
        match change {
            MemberChange::AddObserver(_) => {
                let mut all = self.voters.iter().chain(&self.observers);
                if self.contains(peer) {
                    Err(ChangeRejected::Member(peer))
                } else if all.any(|other| other.node() == peer.node()) {
                    Err(ChangeRejected::OtherDirectory(peer.node()))
                } else if self.voters.len() + self.observers.len() >= QUORUM_MEMBERS_MAX {
                    Err(ChangeRejected::TooMany)
                } else {
                    Ok(())
                }
            }
            MemberChange::AddVoter(_) if !self.observers.contains(&peer) => {
                Err(ChangeRejected::NoObserver(peer))
            }
            MemberChange::AddVoter(_) if self.voters.len() >= QUORUM_VOTERS_MAX => {
                Err(ChangeRejected::TooMany)
            }
            MemberChange::AddVoter(_) => Ok(()),
            MemberChange::Remove(_) if !self.contains(peer) => Err(ChangeRejected::Unknown(peer)),
            MemberChange::Remove(_) if self.voters.len() == 1 && self.voters.contains(&peer) => {
                Err(ChangeRejected::LastVoter)
            }
            MemberChange::Remove(_) => Ok(()),
        }
    }

    pub(super) fn to_raft(&self) -> ConfState {
        let raw = |peers: &BTreeSet<PeerId>| peers.iter().map(|peer| peer.0).collect();
        ConfState { voters: raw(&self.voters), learners: raw(&self.observers), ..ConfState::default() }
    }

    /// `None` where it is no state that changes of one member lead to.
    pub(super) fn from_raft(state: &ConfState) -> Option<Members> {
        if !state.voters_outgoing.is_empty() || !state.learners_next.is_empty() {
            return None;
        }
        Members::from_raw(state.voters.iter().copied(), state.learners.iter().copied())
    }

    pub(super) fn from_raw(
        voters: impl IntoIterator<Item = u64>,
        observers: impl IntoIterator<Item = u64>,
    ) -> Option<Members> {
        let voters: BTreeSet<PeerId> = voters.into_iter().map(PeerId::from_raw).collect::<Option<_>>()?;
        let observers: BTreeSet<PeerId> =
            observers.into_iter().map(PeerId::from_raw).collect::<Option<_>>()?;
        let nodes: BTreeSet<NodeId> = voters.iter().chain(&observers).map(|peer| peer.node()).collect();
        let are_different = nodes.len() == voters.len() + observers.len();
        (are_different && nodes.len() <= QUORUM_MEMBERS_MAX).then_some(Members { voters, observers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: i32, incarnation: u32) -> PeerId {
        PeerId::new(NodeId(node), incarnation)
    }

    #[test]
    fn a_peer_is_a_node_and_its_directory() {
        for (node, incarnation) in [(0, 0), (7, 9), (i32::MAX, u32::MAX)] {
            let peer = peer(node, incarnation);
            assert_eq!((peer.node(), peer.incarnation()), (NodeId(node), incarnation));
            assert_eq!(PeerId::from_raw(peer.raw()), Some(peer));
        }
        assert_eq!(PeerId::from_raw(0), None);
        assert_eq!(PeerId::from_raw(7 << 32), None);
        assert_eq!(PeerId::from_raw(u64::MAX), None);
    }

    #[test]
    fn a_change_makes_sense_by_itself_or_is_refused() {
        use ChangeRejected::*;
        use MemberChange::*;
        let mut members = Members::voters([peer(1, 0)]);
        assert_eq!(members.check(Remove(peer(1, 0))), Err(LastVoter));
        members.observers.insert(peer(2, 0));
        assert_eq!(members.check(AddVoter(peer(2, 0))), Ok(()));
        assert_eq!(members.check(AddVoter(peer(3, 0))), Err(NoObserver(peer(3, 0))));
        assert_eq!(members.check(AddVoter(peer(2, 1))), Err(NoObserver(peer(2, 1))));
        assert_eq!(members.check(AddObserver(peer(2, 0))), Err(Member(peer(2, 0))));
        assert_eq!(members.check(AddObserver(peer(2, 1))), Err(OtherDirectory(NodeId(2))));
        assert_eq!(members.check(Remove(peer(2, 1))), Err(Unknown(peer(2, 1))));
        assert_eq!(members.check(Remove(peer(2, 0))), Ok(()));
        members.voters.extend((10..16).map(|node| peer(node, 0)));
        assert_eq!(members.check(AddVoter(peer(2, 0))), Err(TooMany));
        assert_eq!(members.check(Remove(peer(1, 0))), Ok(()));
    }

    #[test]
    fn majorities_count_voters_only() {
        let mut members = Members::voters([peer(1, 0), peer(2, 0), peer(3, 0), peer(4, 0)]);
        members.observers.insert(peer(5, 0));
        assert!(!members.is_majority(|peer| [1, 2, 5].contains(&peer.node().0)));
        assert!(members.is_majority(|peer| [1, 2, 3].contains(&peer.node().0)));
        assert!(!Members::default().is_majority(|_| true));
    }

    #[test]
    fn members_are_what_raft_says() {
        let mut members = Members::voters([peer(1, 4), peer(2, 0)]);
        members.observers.insert(peer(9, 1));
        assert_eq!(Members::from_raft(&members.to_raft()), Some(members.clone()));
        let mut twice = members.to_raft();
        twice.learners.push(peer(1, 5).raw());
        assert_eq!(Members::from_raft(&twice), None, "one node, two directories");
        let mut joint = members.to_raft();
        joint.voters_outgoing.push(peer(1, 4).raw());
        assert_eq!(Members::from_raft(&joint), None);
    }
}
