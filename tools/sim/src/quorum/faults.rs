//! What goes wrong, and who adds and removes members while it does.

use crate::quorum::cluster::{Cluster, Happening};
use crate::quorum::settings::{MS, NODES, S};
use crate::quorum::shell::Shell;
use odradek::cluster::quorum::Event;
use odradek::cluster::quorum::members::{MemberChange, PeerId};

impl Cluster {
    pub(super) fn fault(&mut self) {
        match self.world.below(14) {
            0..=2 => {
                let slot = self.any_running();
                self.crash(slot, self.world.one_in(2));
                self.start_later(slot);
            }
            3 if self.world.one_in(3) => self.crash_all(),
            4 | 5 => self.part(),
            6 => self.pause(),
            7 => self.slow_down(),
            8 => self.transfer(),
            9 => self.lose_directory(),
            10 => self.hear_stranger(),
            _ => self.compact_long_logs(),
        }
        self.compact_long_logs();
    }

    /// Of whoever has a log that grew long.
    fn compact_long_logs(&mut self) {
        for slot in 0..NODES {
            let after = self.settings.compact_after;
            let Some(quorum) = self.nodes.all[slot].quorum() else { continue };
            if quorum.entry_count() > after + self.settings.entries_retained {
                self.world.count("compaction");
                let records = self.nodes.image_records(slot);
                self.tell(slot, Event::Compact { records });
            }
        }
    }

    fn any_running(&self) -> usize {
        let running: Vec<usize> = (0..NODES).filter(|slot| self.nodes.all[*slot].running.is_some()).collect();
        match self.nodes.leader() {
            Some(leader) if self.world.one_in(2) => leader,
            _ if running.is_empty() => 0,
            _ => running[self.world.below(running.len() as u64) as usize],
        }
    }

    fn start_later(&mut self, slot: usize) {
        let delay = if self.world.one_in(2) { self.world.below(100 * MS) } else { self.world.below(4 * S) };
        self.at(delay, Happening::Start { slot });
    }

    fn crash_all(&mut self) {
        self.world.count("crash: all at once");
        for slot in 0..NODES {
            if self.nodes.all[slot].running.is_some() {
                self.crash(slot, true);
                self.start_later(slot);
            }
        }
    }

    fn part(&mut self) {
        if self.network.is_whole() {
            self.at(self.world.between(200 * MS, 5 * S), Happening::Heal);
        }
        self.topology += 1;
        match self.world.below(3) {
            0 => {
                self.world.count("partition: in two");
                let side = self.world.draw();
                self.network.part(|slot| side >> slot & 1 == 1);
            }
            1 => {
                self.world.count("partition: one way");
                let slot = self.any_running();
                let hears = self.world.one_in(2);
                for other in (0..NODES).filter(|other| *other != slot) {
                    let (from, to) = if hears { (slot, other) } else { (other, slot) };
                    if !self.world.one_in(4) {
                        self.network.cut(from, to);
                    }
                }
            }
            _ => {
                let Some(leader) = self.nodes.leader() else { return };
                self.world.count("partition: leader alone");
                self.network.part(|slot| slot == leader);
            }
        }
        self.world.note(format_args!("links are cut"));
    }

    fn pause(&mut self) {
        let slot = self.any_running();
        self.world.count("pause");
        let time = self.world.between(100 * MS, 5 * S);
        self.world.note(format_args!("{:?} is stopped for {time}", self.nodes.all[slot].peer));
        self.nodes.all[slot].paused_until = self.world.now() + time;
    }

    fn slow_down(&mut self) {
        let slot = self.any_running();
        self.world.count("disk: slow");
        let until = self.world.now() + self.world.between(100 * MS, 2 * S);
        self.nodes.all[slot].slow = (until, self.world.between(10 * MS, 5 * S));
    }

    fn transfer(&mut self) {
        let Some(leader) = self.nodes.leader() else { return };
        let Some(quorum) = self.nodes.all[leader].quorum() else { return };
        let voters: Vec<PeerId> = quorum.members().voters.iter().copied().collect();
        if voters.is_empty() || self.nodes.all[leader].paused_until > self.world.now() {
            return;
        }
        self.world.count("transfer");
        let to = voters[self.world.below(voters.len() as u64) as usize];
        self.tell(leader, Event::Transfer(to));
    }

    /// A node comes back with an empty directory. Only of those that a quorum can do without, and one at a time.
    fn lose_directory(&mut self) {
        let members = self.nodes.watch.members();
        if members.voters.len() < 4 || members.voters.iter().any(|peer| self.nodes.is_lost(*peer)) {
            return;
        }
        let slot = self.any_running();
        self.world.count("members: directory replaced");
        self.crash(slot, true);
        self.nodes.lose_directory(slot);
        self.start_later(slot);
    }

    /// Removes a member whose directory is lost. Whether there is one.
    pub(super) fn remove_lost_directory(&mut self, leader: usize) -> bool {
        let Some(lost) = self.nodes.lost_member() else { return false };
        let ticket = self.ticket(leader, &[]);
        self.tell(leader, Event::ChangeMembers { ticket, change: MemberChange::Remove(lost) });
        true
    }

    /// An administrator does one thing.
    pub(super) fn change_members(&mut self) {
        let Some(leader) = self.nodes.leader() else { return };
        if self.nodes.all[leader].paused_until > self.world.now() || self.remove_lost_directory(leader) {
            return;
        }
        let Some(quorum) = self.nodes.all[leader].quorum() else { return };
        let members = quorum.members().clone();
        let (me, index) = (quorum.me(), quorum.last_index());
        let is_small = members.voters.len() < 5;
        let slot = self.world.below(NODES as u64) as usize;
        let peer = self.nodes.all[slot].peer;
        let change = if members.observers.contains(&peer) {
            if is_small && !self.world.one_in(4) {
                MemberChange::AddVoter(peer)
            } else {
                MemberChange::Remove(peer)
            }
        } else if members.voters.contains(&peer) {
            if members.voters.len() <= 3 && !self.world.one_in(4) && peer != me {
                return;
            }
            MemberChange::Remove(peer)
        } else {
            if self.nodes.all[slot].running.is_none() {
                self.at(self.world.below(2 * S), Happening::Start { slot });
            }
            MemberChange::AddObserver(peer)
        };
        let was_voter = members.voters.contains(&peer);
        let ticket = self.ticket(leader, &[]);
        self.tell(leader, Event::ChangeMembers { ticket, change });
        let Some(quorum) = self.nodes.all[leader].quorum() else { return };
        if quorum.last_index() > index {
            self.world.note(format_args!("{change:?} is proposed"));
            self.world.count(match change {
                MemberChange::AddObserver(_) => "members: observer added",
                MemberChange::AddVoter(_) => "members: voter added",
                MemberChange::Remove(_) if was_voter => "members: voter removed",
                MemberChange::Remove(_) => "members: observer removed",
            });
        }
        if self.world.one_in(4) {
            // One who does not wait.
            let ticket = self.ticket(leader, &[]);
            self.tell(leader, Event::ChangeMembers { ticket, change });
        }
    }
}
