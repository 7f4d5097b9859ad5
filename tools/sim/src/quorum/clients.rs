//! Who proposes, and what becomes of it.

use crate::quorum::cluster::{Cluster, topic};
use crate::quorum::node::slot_of;
use crate::quorum::settings::{Mistake, NODES, check};
use crate::quorum::shell::Shell;
use crate::quorum::watch::Proposal;
use odradek::cluster::quorum::members::{ChangeRejected, PeerId};
use odradek::cluster::quorum::{Event, Outcome, ProposalRejected, Quorum, Ticket};
use odradek::cluster::record::{ConfigResource, Record};

impl Cluster {
    pub(super) fn has_outcome(&mut self, slot: usize, ticket: Ticket, outcome: Outcome) {
        self.world.note(format_args!("{ticket:?}: {outcome:?}"));
        let Some(proposal) = self.nodes.watch.proposals.remove(&ticket) else {
            return self
                .world
                .finding(check::ANSWERED, format_args!("{ticket:?} has another outcome: {outcome:?}"));
        };
        match outcome {
            Outcome::Committed { index } => {
                self.world.count("proposal: committed");
                self.nodes.watch.acknowledged(&proposal, index);
                self.check_majority_reached(slot, index, &proposal);
                if let Some((last, done)) = &mut self.last
                    && *last == ticket
                {
                    *done = Some(index);
                }
            }
            Outcome::Unknown => self.world.count("proposal: outcome unknown"),
            Outcome::Refused(reason) => {
                self.world.count(match reason {
                    ProposalRejected::NotLeader { .. } => "proposal: refused, NotLeader",
                    ProposalRejected::NotReady => "proposal: refused, NotReady",
                    ProposalRejected::HandingOver => "proposal: refused, HandingOver",
                    ProposalRejected::Busy => "proposal: refused, Busy",
                    ProposalRejected::TooLarge { .. } | ProposalRejected::TooManyRecords(_) => {
                        "proposal: refused, TooLarge"
                    }
                    ProposalRejected::Members(ChangeRejected::Behind { .. }) => "members: refused, Behind",
                    ProposalRejected::Members(ChangeRejected::Pending) => "members: refused, Pending",
                    ProposalRejected::Members(ChangeRejected::Leader) => "members: refused, Leader",
                    ProposalRejected::Members(_) => "members: refused, other",
                });
            }
        }
    }

    /// Since it was proposed nothing has changed: its leader has to be with a majority.
    pub(super) fn check_majority_reached(&self, slot: usize, index: u64, proposal: &Proposal) {
        if proposal.topology != self.topology {
            return;
        }
        let reaches = |peer: PeerId| {
            let to = slot_of(peer).expect("a node of this seed");
            let node = &self.nodes.all[to];
            node.peer == peer && node.running.is_some() && self.network.reaches(slot, to)
        };
        if !self.nodes.watch.deciding(index).any(|members| members.is_majority(reaches)) {
            let (peer, members) = (self.nodes.all[slot].peer, self.nodes.watch.members());
            let what = format!("{peer:?} has entry {index} committed, cut off from most of {members:?}");
            self.world.finding(check::MINORITY, format_args!("{what}"));
        }
    }

    pub(super) fn ticket(&mut self, slot: usize, records: &[Record]) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let proposal = Proposal { slot, records: records.to_vec(), topology: self.topology };
        self.nodes.watch.proposals.insert(ticket, proposal);
        ticket
    }

    pub(super) fn propose_anywhere(&mut self) {
        let slot = match self.nodes.leader() {
            Some(leader) if !self.world.one_in(10) => leader,
            _ => self.world.below(NODES as u64) as usize,
        };
        self.propose(slot);
    }

    pub(super) fn propose(&mut self, slot: usize) -> Option<Ticket> {
        let now = self.world.now();
        let node = &self.nodes.all[slot];
        let running = node.running.as_ref().filter(|_| node.paused_until <= now)?;
        let mut records = Vec::new();
        match self.world.below(4) {
            0 | 1 => {
                records.push(topic(self.next_topic));
                self.next_topic += 1;
            }
            _ => {
                let (key, value) =
                    (format!("key-{}", self.world.below(9)), self.world.below(1000).to_string());
                records.push(Record::ConfigSet {
                    resource: ConfigResource::Brokers,
                    key,
                    value: Some(value),
                });
            }
        }
        let before = running.quorum.last_index();
        let ticket = self.ticket(slot, &records);
        self.tell(slot, Event::Propose { ticket, records });
        let last = self.nodes.all[slot].quorum().map_or(0, Quorum::last_index);
        if self.settings.makes(Mistake::AnsweredAtOnce)
            && last > before
            && self.nodes.watch.proposals.contains_key(&ticket)
        {
            self.has_outcome(slot, ticket, Outcome::Committed { index: last });
        }
        Some(ticket)
    }
}
