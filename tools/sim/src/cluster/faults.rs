//! What goes wrong in a cluster, beyond what goes wrong between leaders and followers.

use crate::cluster::metadata::{id, slot};
use crate::quorum::node::slot_of;
use crate::quorum::shell::Shell;
use crate::random::Random;
use crate::replication::scene::Scene;
use crate::world::{MS, S};
use odradek::cluster::quorum::Event;
use odradek::cluster::quorum::members::PeerId;

impl Scene {
    /// Until the seed becomes calm.
    pub fn do_harm_to_cluster(&mut self) {
        if self.is_calm {
            return;
        }
        self.do_one_harm_to_cluster();
        self.compact_long_logs();
        let pause = self.world.between(100 * MS, self.settings.fault_pause_max);
        self.after(pause, |scene| scene.do_harm_to_cluster());
    }

    /// The one that decides, as often as any other.
    fn any_of_cluster(&self) -> usize {
        match self.decided().quorum.leader() {
            Some(leader) if self.world.one_in(3) => id(leader),
            _ => self.any_node(),
        }
    }

    fn do_one_harm_to_cluster(&mut self) {
        let node = self.any_of_cluster();
        let time = self.a_while();
        let leads = self.decided().is_leading(slot(node));
        match self.world.below(40) {
            0..=7 => {
                if leads && self.nodes[node].is_up {
                    self.world.count("fault: controller killed");
                }
                self.crash_and_restart(node, time);
            }
            8 => {
                self.world.count("fault: all nodes crash");
                for node in 1..=self.settings.nodes {
                    let time = self.a_while() / 2;
                    self.crash_and_restart(node, time);
                }
            }
            9..=13 => {
                if leads && self.nodes[node].is_up && !self.nodes[node].is_paused {
                    self.world.count("fault: controller stopped");
                }
                self.pause_node(node, time);
            }
            14..=16 => self.cut_off(node, time),
            17..=18 => {
                let other = self.any_node();
                self.world.count("fault: link cut");
                self.cut_for(node, other, time);
                self.cut_for(other, node, time);
            }
            19..=22 => {
                self.world.count("fault: cut off one way");
                let hears = self.world.one_in(2);
                for other in 1..=self.settings.nodes {
                    if !self.world.one_in(4) {
                        let (from, to) = if hears { (other, node) } else { (node, other) };
                        self.cut_for(from, to, time);
                    }
                }
            }
            23..=24 => {
                self.world.count("fault: connection lost");
                let other = self.any_node();
                self.disconnect_all(node, Some(other));
            }
            25..=27 => {
                self.world.count("fault: slow disk");
                self.nodes[node].is_slow = true;
                self.after(time, move |scene| scene.nodes[node].is_slow = false);
                let (until, takes) = (self.world.now() + time, self.world.between(10 * MS, S));
                self.metadata().quorum.all[slot(node)].slow = (until, takes);
            }
            28..=30 => {
                self.world.count("fault: controlled shutdown");
                self.shut_down(node);
            }
            31 => self.restart_one_by_one(node),
            32..=33 => self.replace_node(node, time),
            34 => self.hand_over(),
            35 => self.damage_metadata(node, time),
            _ => self.move_log_start(),
        }
    }

    fn cut_off(&mut self, node: usize, time: u64) {
        self.world.count("fault: node cut off");
        for other in 1..=self.settings.nodes {
            self.cut_for(node, other, time);
            self.cut_for(other, node, time);
        }
    }

    /// A node's directory is gone, the metadata in it as well. Only of those that the quorum and every partition can do
    /// without, and one at a time.
    fn replace_node(&mut self, node: usize, time: u64) {
        if !self.can_do_without(node) {
            return;
        }
        self.world.count("fault: node replaced by an empty one");
        let members = self.decided().quorum.watch.members();
        self.world.note(format_args!("node {node} is replaced by an empty one, {members:?}"));
        self.crash_node(node);
        self.wipe(node);
        self.metadata().quorum.lose_directory(slot(node));
        self.start_later(node, time);
    }

    /// The next start finds it, and refuses: the node goes on with an empty directory.
    fn damage_metadata(&mut self, node: usize, time: u64) {
        if !self.can_do_without(node) {
            return;
        }
        self.crash_node(node);
        let mut dice = Random::new(self.world.draw());
        if self.metadata().quorum.all[slot(node)].damage(&mut dice) {
            self.world.count("fault: metadata log damaged");
            self.world.note(format_args!("the metadata log of node {node} is damaged"));
            self.wipe(node);
        }
        self.start_later(node, time);
    }

    fn can_do_without(&self, node: usize) -> bool {
        let metadata = self.decided();
        let members = metadata.quorum.watch.members();
        let (peer, last) = (metadata.quorum.all[slot(node)].peer, metadata.quorum.watch.last_committed());
        if metadata.quorum.lost_member().is_some() || !self.nodes[node].is_up {
            return false;
        }
        // A change of the members may be under way that nobody has applied.
        // Nor does a change count where nobody has it on disk that it is committed.
        let has_all = |peer: &PeerId| {
            let node = &metadata.quorum.all[slot_of(*peer).expect("of this seed")];
            let is_known = node.kept.commit >= metadata.quorum.watch.members_since();
            is_known && node.quorum().is_some_and(|quorum| quorum.last_index() == last)
        };
        // The second voter may be one that is gone: it is given a vote while it is not missed yet, and of two none may go.
        let is_quorum = match members.voters.contains(&peer) {
            false => members.voters.len() != 1,
            true => members.voters.len() >= 3 && members.voters.iter().all(has_all),
        };
        let is_replica =
            |partition: &usize| self.controller.partitions[partition].replicas.contains(&self.nodes[node].id);
        is_quorum
            && self
                .partitions()
                .iter()
                .filter(|partition| is_replica(partition))
                .all(|partition| self.may_lose(node, *partition))
    }

    /// Another voter is to lead.
    fn hand_over(&mut self) {
        let Some(leader) = self.decided().quorum.leader() else { return };
        let quorum = self.decided().quorum.all[leader].quorum().expect("it leads");
        let voters: Vec<PeerId> = quorum.members().voters.iter().copied().collect();
        if voters.is_empty() || self.nodes[id(leader)].is_paused {
            return;
        }
        self.world.count("fault: quorum handed over");
        let to = voters[self.world.below(voters.len() as u64) as usize];
        self.tell(leader, Event::Transfer(to));
    }

    /// Of whoever has a metadata log that grew long: a snapshot takes its place.
    fn compact_long_logs(&mut self) {
        for slot in 0..self.settings.nodes {
            let metadata = self.decided();
            let after = metadata.quorum.settings.compact_after + metadata.quorum.settings.entries_retained;
            let Some(quorum) = metadata.quorum.all[slot].quorum() else { continue };
            if quorum.entry_count() > after && !self.nodes[id(slot)].is_paused {
                self.world.count("compaction");
                let records = metadata.quorum.image_records(slot);
                self.tell(slot, Event::Compact { records });
            }
        }
    }
}
