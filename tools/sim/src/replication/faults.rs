//! What goes wrong.

use crate::replication::log::offset;
use crate::replication::network::CONTROLLER;
use crate::replication::node::Role;
use crate::replication::scene::{Scene, index};
use crate::replication::settings::{MS, S};
use crate::world::Micros;
use odradek::replication::leader;
use odradek::types::NodeId;

impl Scene {
    /// Until the seed becomes calm.
    pub fn do_harm(&mut self) {
        if self.is_calm {
            return;
        }
        self.do_one_harm();
        let pause = self.world.between(50 * MS, self.settings.fault_pause_max);
        self.after(pause, |scene| scene.do_harm());
    }

    pub fn any_node(&self) -> usize {
        1 + self.world.below(self.settings.nodes as u64) as usize
    }

    pub fn a_while(&self) -> Micros {
        match self.world.below(3) {
            0 => self.world.between(50 * MS, 500 * MS),
            1 => self.world.between(500 * MS, 3 * S),
            _ => self.world.between(3 * S, 10 * S),
        }
    }

    fn do_one_harm(&mut self) {
        let node = self.any_node();
        let time = self.a_while();
        match self.world.below(40) {
            0..=6 => self.crash_and_restart(node, time),
            7 => {
                self.world.count("fault: all nodes crash");
                for node in 1..=self.settings.nodes {
                    let time = self.a_while() / 2;
                    self.crash_and_restart(node, time);
                }
            }
            8..=12 => self.pause_node(node, time),
            13..=14 => {
                self.world.count("fault: node cut off");
                for other in (0..=self.settings.nodes).filter(|other| *other != node) {
                    self.cut_for(node, other, time);
                    self.cut_for(other, node, time);
                }
            }
            15..=16 => {
                let other = self.any_node();
                self.world.count("fault: link cut");
                self.cut_for(node, other, time);
                self.cut_for(other, node, time);
            }
            17..=19 => {
                let other = self.any_node();
                self.world.count("fault: link cut one way");
                self.cut_for(node, other, time);
            }
            20..=22 => {
                self.world.count("fault: cut off from the controller");
                self.cut_for(node, CONTROLLER, time);
                if self.world.one_in(2) {
                    self.cut_for(CONTROLLER, node, time);
                }
            }
            23..=25 => {
                self.world.count("fault: connection lost");
                let other = self.any_node();
                self.disconnect_all(node, Some(other));
            }
            26..=28 => {
                self.world.count("fault: slow disk");
                self.nodes[node].is_slow = true;
                self.after(time, move |scene| scene.nodes[node].is_slow = false);
            }
            29..=30 => {
                if self.controller.is_up {
                    self.world.count("fault: controller away");
                    self.controller_goes(time);
                }
            }
            31..=32 => {
                self.world.count("fault: controlled shutdown");
                self.shut_down(node);
            }
            33 => self.restart_one_by_one(node),
            _ => self.move_log_start(),
        }
    }

    pub fn restart_one_by_one(&mut self, first: usize) {
        self.world.count("fault: rolling restart");
        for at in 0..self.settings.nodes {
            let node = (first + at - 1) % self.settings.nodes + 1;
            self.after(at as Micros * 3 * S, move |scene| {
                if !scene.is_calm {
                    scene.shut_down(node);
                }
            });
        }
    }

    pub fn shut_down(&mut self, node: usize) {
        if self.nodes[node].is_up {
            self.nodes[node].wants_shut_down = true;
            let run = self.nodes[node].run;
            // Whoever is not let go goes anyway.
            self.after(8 * S, move |scene| {
                if scene.nodes[node].is_up && scene.nodes[node].run == run && !scene.is_calm {
                    scene.crash_and_restart(node, S);
                }
            });
        }
    }

    pub fn crash_and_restart(&mut self, node: usize, time: Micros) {
        if !self.nodes[node].is_up {
            return;
        }
        self.world.count("fault: crash");
        self.crash_node(node);
        self.damage(node);
        self.start_later(node, time);
    }

    pub fn start_later(&mut self, node: usize, time: Micros) {
        self.after(time, move |scene| {
            if !scene.nodes[node].is_up {
                scene.start_node(node);
            }
        });
    }

    /// The logs of a node that is down are gone.
    pub fn wipe(&mut self, node: usize) {
        self.world.count("restart: empty disk");
        self.world.note(format_args!("node {node} has an empty disk"));
        self.nodes[node].is_empty = true;
        self.engine_is_wiped(node);
        self.nodes[node].replicas.values_mut().for_each(|replica| replica.log.wipe());
    }

    /// A minority of those who count may be damaged before the controller knows: fewer than have to be in sync, and
    /// one of them is whole. More than that no protocol survives.
    pub fn may_lose(&self, node: usize, partition: usize) -> bool {
        let leadership = &self.controller.partitions[&partition];
        // Nobody may elect uncleanly there. A proposal that is on its way may leave only those that are damaged, unless
        // all are in sync and whole.
        let is_whole = |other: &NodeId| index(*other) == node || !self.is_lost(index(*other), partition);
        let is_complete = leadership.in_sync.len() == leadership.replicas.len();
        if self.is_coordinated(partition) && !(is_complete && leadership.replicas.iter().all(is_whole)) {
            return false;
        }
        // Nor may the one that is left then tell a doubt of itself.
        if self.is_coordinated(partition) && self.nodes[node].engine.is_some() {
            return false;
        }
        // Fewer may have to be in sync, any moment now.
        let asked = self.metadata.as_ref().and_then(|metadata| metadata.minimum_asked.get(&partition));
        if asked.is_some_and(|asked| self.world.now() < asked + 30 * S) {
            return false;
        }
        // Those that come do not count before they are in sync.
        let count = leadership.target_count().min(leadership.replicas.len() - leadership.adding.len());
        // A reassignment that is on its way may leave so few, any moment now.
        let asked = self.metadata.as_ref().and_then(|metadata| metadata.reassignment_asked.get(&partition));
        let asked = asked.filter(|(asked, _)| self.world.now() < asked + 30 * S);
        let count = asked.map_or(count, |(_, target)| count.min(*target));
        let minimum = self.in_sync_min(partition).min(count);
        let others = leadership.in_sync.iter().chain(&leadership.eligible_leaders).map(|other| index(*other));
        let others: Vec<usize> = others.filter(|other| *other != node).collect();
        // Those that are in sync by a proposal that is on its way count as well.
        let replicas = leadership.replicas.iter().map(|other| index(*other)).filter(|other| *other != node);
        let lost = replicas.filter(|other| self.is_lost(*other, partition)).count();
        lost + 1 < minimum && others.iter().any(|other| !self.is_lost(*other, partition))
    }

    /// A node's log of a partition is damaged or gone, and the controller does not know.
    pub fn is_lost(&self, node: usize, partition: usize) -> bool {
        let node = &self.nodes[node];
        node.is_empty || node.replicas.get(&partition).is_some_and(|replica| replica.log.is_lost)
    }

    fn damage(&mut self, node: usize) {
        let is_here =
            |partition: &usize| self.controller.partitions[partition].replicas.contains(&self.nodes[node].id);
        let partitions: Vec<usize> = self.partitions().into_iter().filter(is_here).collect();
        match self.world.below(8) {
            0 if self.metadata.is_none()
                && partitions.iter().all(|partition| self.may_lose(node, *partition)) =>
            {
                self.wipe(node);
            }
            1 | 2 if self.nodes[node].engine.is_some() => self.damage_engine(node, &partitions),
            1 | 2 => {
                for partition in partitions {
                    if self.may_lose(node, partition) && self.world.one_in(2) {
                        self.world.count("restart: damaged");
                        let Some(replica) = self.nodes[node].replicas.get_mut(&partition) else { continue };
                        let log = &mut replica.log;
                        let (start, end) = (log.start(), log.end());
                        let kept = start + self.world.below(end.saturating_sub(start) + 1);
                        log.damage(kept);
                        self.world
                            .note(format_args!("node {node} partition {partition} is damaged at {kept}"));
                    }
                }
            }
            _ => self.world.count("restart: clean"),
        }
    }

    pub fn pause_node(&mut self, node: usize, time: Micros) {
        let found = &mut self.nodes[node];
        if !found.is_up || found.is_paused {
            return;
        }
        self.world.count("fault: pause");
        self.world.note(format_args!("node {node} is stopped for {time}"));
        found.is_paused = true;
        let run = found.run;
        self.after(time, move |scene| {
            if scene.nodes[node].run == run {
                scene.resume_node(node);
            }
        });
    }

    pub fn resume_node(&mut self, node: usize) {
        if !self.nodes[node].is_paused {
            return;
        }
        self.world.note(format_args!("node {node} goes on"));
        self.nodes[node].is_paused = false;
        for (partition, replica) in &self.nodes[node].replicas {
            let current = self.controller.partitions.get(partition);
            if let Role::Leader(leader) = &replica.role
                && current.is_some_and(|current| current.leader_epoch > leader.epoch())
            {
                self.world.count("leader: stale, wakes up");
            }
        }
        let run = self.nodes[node].run;
        for action in std::mem::take(&mut self.nodes[node].deferred) {
            self.at_node(node, run, action);
        }
    }

    pub fn cut_for(&mut self, from: usize, to: usize, time: Micros) {
        if from == to {
            return;
        }
        self.network.cut(from, to);
        self.after(time, move |scene| scene.network.mend(from, to));
    }

    /// Retention.
    pub fn move_log_start(&mut self) {
        let partitions = self.ordinary_partitions();
        if partitions.is_empty() {
            return;
        }
        let partition = partitions[self.world.below(partitions.len() as u64) as usize];
        for node in 1..=self.settings.nodes {
            let found = &self.nodes[node];
            if !found.is_up || found.is_paused {
                continue;
            }
            let Some(replica) = found.replicas.get(&partition) else { continue };
            if let Role::Leader(leader) = &replica.role {
                let end = replica.log.removable_end(leader.high_watermark().get());
                let start = replica.log.start();
                if end > start {
                    let log_start = offset(start + self.world.below(end - start + 1));
                    self.watch.wants_start(partition, log_start.get());
                    self.lead(node, partition, leader::Event::LogStartWanted { log_start });
                }
            }
        }
    }

    /// Nothing goes wrong any more, and whoever is gone comes back.
    pub fn become_calm(&mut self) {
        self.world.note(format_args!("calm"));
        self.is_calm = true;
        self.network.mend_all();
        self.controller_comes();
        for node in 1..=self.settings.nodes {
            self.nodes[node].is_slow = false;
            if let Some(metadata) = &mut self.metadata {
                metadata.quorum.all[node - 1].slow = (0, 0);
            }
            self.resume_node(node);
            if !self.nodes[node].is_up {
                self.start_node(node);
            }
        }
    }
}
