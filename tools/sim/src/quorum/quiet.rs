//! The end of a seed: nothing goes wrong any more, and everybody has to get everything.

use crate::quorum::cluster::{Cluster, Happening};
use crate::quorum::node::slot_of;
use crate::quorum::settings::{MS, NODES, S, check};
use crate::world::Micros;

/// How long it takes at most, once nothing goes wrong any more, until everybody has everything.
const QUIET_MAX: Micros = 30 * S;

impl Cluster {
    /// From now on nothing goes wrong.
    pub(super) fn become_calm(&mut self) {
        let now = self.world.now();
        self.world.note(format_args!("calm"));
        self.calm_from = Some(now);
        self.topology += 1;
        self.network.heal();
        self.network.is_calm = true;
        for slot in 0..NODES {
            self.nodes.all[slot].slow = (0, 0);
            self.nodes.all[slot].paused_until = 0;
            let peer = self.nodes.all[slot].peer;
            if self.nodes.all[slot].running.is_none()
                && (self.nodes.all[slot].starts > 0 || self.nodes.watch.members().contains(peer))
            {
                self.at(self.world.below(S), Happening::Start { slot });
            }
        }
        self.at(200 * MS, Happening::Look);
    }

    /// Whether everything has come to its end.
    pub(super) fn look(&mut self) {
        let since = self.world.now() - self.calm_from.expect("it is calm");
        if let Some((_, Some(index))) = self.last
            && self.has_everybody(index)
        {
            self.world.count("quiet: everybody has everything");
            self.world.counts.borrow_mut().add("quiet: milliseconds", since / MS);
            self.is_done = true;
            return self.check_end();
        }
        if since > QUIET_MAX {
            let standing = self.nodes.all.iter().filter_map(|node| {
                let quorum = node.quorum()?;
                let (leader, term) = (quorum.leader(), quorum.term());
                let (applied, members) = (quorum.applied().0, quorum.members());
                Some(format!("{:?}: leader {leader:?} in {term}, applied {applied}, {members:?}", node.peer))
            });
            let what = standing.collect::<Vec<_>>().join("; ");
            return self.world.finding(check::LIVE, format_args!("{what}"));
        }
        self.at(100 * MS, Happening::Look);
        let is_open = self
            .last
            .is_none_or(|(ticket, done)| done.is_none() && !self.nodes.watch.proposals.contains_key(&ticket));
        if let Some(leader) = self.nodes.leader()
            && !self.remove_lost_directory(leader)
            && is_open
        {
            self.last = self.propose(leader).map(|ticket| (ticket, None));
        }
    }

    /// All that are members, and the node that leads them.
    pub(super) fn has_everybody(&self, index: u64) -> bool {
        let members = self.nodes.watch.members();
        members.voters.iter().chain(&members.observers).all(|peer| {
            let node = &self.nodes.all[slot_of(*peer).expect("a node of this seed")];
            node.peer == *peer && node.running.as_ref().is_some_and(|running| running.applied >= index)
        })
    }

    pub(super) fn check_end(&self) {
        for node in &self.nodes.all {
            let Some(running) = &node.running else { continue };
            if running.applied > 0 {
                self.nodes.watch.image(node.peer, running.applied, &running.image);
            }
        }
    }
}
