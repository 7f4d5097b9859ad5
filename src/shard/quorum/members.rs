//! Which members get a vote.
//!
//! A node that joins follows the log first, as an observer. Once it has caught up it gets a vote, as long as there are
//! fewer voters than wanted, and it is one of those that are to vote (`voters`). Two voters are worse than one, since neither can be missed: votes are given so that their
//! number is odd again at once.

use crate::cluster::quorum::event::Event;
use crate::cluster::quorum::members::{MemberChange, PeerId};
use crate::shard::quorum::MetadataQuorum;
use futures::future::select;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Voters beyond which a node that joins stays an observer, where nobody says who votes.
const VOTERS_WANTED: usize = 3;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Gives votes, while this node leads.
pub async fn promote(quorum: Rc<MetadataQuorum>) {
    while !quorum.has_failed() {
        select(pin!(quorum.promoting.notified()), pin!(glommio::timer::sleep(PAUSE))).await;
        quorum.pass_on_while_starting();
        while next_voter(&quorum).is_some() {
            let Ok(_turn) = quorum.turn().acquire_permit(1).await else { return };
            // An operator may have been faster.
            let Some(peer) = next_voter(&quorum) else { break };
            match quorum.change_members(MemberChange::AddVoter(peer)).await {
                Ok(()) => {
                    tracing::info!(node = peer.node().0, "an observer of the metadata quorum got a vote")
                }
                Err(error) => {
                    tracing::debug!(node = peer.node().0, %error, "an observer gets no vote yet");
                    break;
                }
            }
        }
    }
}

/// An observer that has caught up, if one more voter is good to have.
fn next_voter(quorum: &MetadataQuorum) -> Option<PeerId> {
    if !quorum.is_leading() {
        return None;
    }
    let state = quorum.quorum.borrow();
    let (members, progress) = (state.members(), state.progress());
    let wanted = &quorum.config.voters;
    let is_wanted = |peer: &PeerId| wanted.is_empty() || wanted.iter().any(|it| it.node == peer.node());
    let count_wanted = if wanted.is_empty() { VOTERS_WANTED } else { wanted.len() };
    let is_ready = |peer: &&PeerId| {
        is_wanted(peer)
            && quorum.is_heard(**peer)
            && progress.get(*peer).is_some_and(|flushed| *flushed >= state.committed())
    };
    let mut ready = members.observers.iter().filter(is_ready);
    let voters = members.voters.len();
    let of_wanted = members.voters.iter().filter(|peer| is_wanted(peer)).count();
    let first = ready.next().filter(|_| of_wanted < count_wanted)?;
    let is_odd_again = voters % 2 == 0 || ready.next().is_some();
    is_odd_again.then_some(*first)
}

impl MetadataQuorum {
    /// A node that still recovers its logs cannot decide: another one is to lead, as long as there is one.
    fn pass_on_while_starting(&self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        let leads_for = self.clock().mono().since(self.leading_since.get());
        if self.is_leading()
            && self.attached().is_none()
            && leads_for > PATIENCE
            && let Some(next) = self.successor()
        {
            self.step(Event::Transfer(next));
        }
    }
}
