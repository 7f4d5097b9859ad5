//! Connections between followers and leaders, and what becomes of frames on them.
//!
//! Frames of a connection arrive in order, each way. A cut link holds them up; a connection ends sooner or later
//! if it stays cut, and what was on its way may then still come, beside what the next connection brings. Requests
//! to the controller are on their own each, and overtake one another.

use crate::replication::scene::Scene;
use crate::replication::settings::{MS, S};
use std::collections::VecDeque;

/// The controller, among the ends of links.
pub const CONTROLLER: usize = 0;

/// Which way on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToLeader,
    ToFollower,
}

#[derive(Clone, Debug)]
pub struct Connection {
    pub follower: usize,
    pub leader: usize,
    /// Of their processes.
    runs: (u64, u64),
    pub is_up: bool,
    queues: [VecDeque<Vec<u8>>; 2],
}

/// Lives: one per seed.
pub struct Network {
    connections: Vec<Connection>,
    /// From and to; several faults may cut one link.
    cut: Vec<Vec<u32>>,
}

impl Network {
    pub fn new(nodes: usize) -> Network {
        Network { connections: Vec::new(), cut: vec![vec![0; nodes + 1]; nodes + 1] }
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from][to] > 0
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut[from][to] += 1;
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        self.cut[from][to] = self.cut[from][to].saturating_sub(1);
    }

    pub fn mend_all(&mut self) {
        self.cut.iter_mut().flatten().for_each(|cuts| *cuts = 0);
    }

    pub fn connection(&self, id: usize) -> &Connection {
        &self.connections[id]
    }

    /// What follows a damaged frame is not read.
    pub fn drop_rest(&mut self, id: usize, way: Way) {
        self.connections[id].queues[way as usize].clear();
    }

    fn ends(&self, id: usize, way: Way) -> (usize, usize, u64) {
        let connection = &self.connections[id];
        match way {
            Way::ToLeader => (connection.follower, connection.leader, connection.runs.1),
            Way::ToFollower => (connection.leader, connection.follower, connection.runs.0),
        }
    }
}

impl Scene {
    /// A connection, if both ends can be reached.
    pub fn connect(&mut self, follower: usize, leader: usize) -> Option<usize> {
        let is_cut = self.network.is_cut(follower, leader) || self.network.is_cut(leader, follower);
        if is_cut || !self.nodes[leader].is_up {
            return None;
        }
        let runs = (self.nodes[follower].run, self.nodes[leader].run);
        let queues = [VecDeque::new(), VecDeque::new()];
        self.network.connections.push(Connection { follower, leader, runs, is_up: true, queues });
        Some(self.network.connections.len() - 1)
    }

    pub fn send(&mut self, id: usize, way: Way, frame: Vec<u8>) {
        let connection = &mut self.network.connections[id];
        if !connection.is_up {
            return;
        }
        let queue = &mut connection.queues[way as usize];
        queue.push_back(frame);
        if queue.len() == 1 {
            let latency = self.latency();
            self.after(latency, move |scene| scene.arrive(id, way));
        }
    }

    /// The first frame that is on its way arrives, unless it is held up.
    fn arrive(&mut self, id: usize, way: Way) {
        if !self.network.connections[id].is_up {
            return;
        }
        let (from, to, run) = self.network.ends(id, way);
        if self.network.is_cut(from, to) {
            self.world.count("network: held up");
            if self.world.one_in(12) {
                return self.disconnect(id);
            }
            let again = self.world.between(20 * MS, 300 * MS);
            return self.after(again, move |scene| scene.arrive(id, way));
        }
        let queue = &mut self.network.connections[id].queues[way as usize];
        let Some(mut frame) = queue.pop_front() else { return };
        if !queue.is_empty() {
            // What follows is close behind.
            let latency = self.latency() / 4;
            self.after(latency, move |scene| scene.arrive(id, way));
        }
        if !self.is_calm && self.world.one_in(4000) {
            self.world.count("fault: frame damaged");
            let bit = self.world.below(frame.len() as u64 * 8) as usize;
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        self.at_node(to, run, move |scene| scene.receive(id, way, &frame));
    }

    /// The connection ends; both sides find out, and what was on its way may come yet.
    pub fn disconnect(&mut self, id: usize) {
        let connection = &mut self.network.connections[id];
        if !connection.is_up {
            return;
        }
        connection.is_up = false;
        let (follower, runs) = (connection.follower, connection.runs);
        let queues = std::mem::take(&mut connection.queues);
        for (way, queue) in [Way::ToLeader, Way::ToFollower].into_iter().zip(queues) {
            let (_, to, run) = self.network.ends(id, way);
            let mut time = 0;
            if self.world.one_in(2) {
                continue;
            }
            for frame in queue {
                time += self.world.below(if self.one_in(4) { S } else { 20 * MS });
                self.after(time, move |scene| {
                    scene.at_node(to, run, move |scene| {
                        scene.world.count("network: late over an old connection");
                        scene.receive(id, way, &frame);
                    });
                });
            }
        }
        let time = self.world.below(if self.one_in(4) { S } else { 20 * MS });
        self.after(time, move |scene| {
            scene.at_node(follower, runs.0, move |scene| scene.connection_lost(follower, id));
        });
    }

    /// Every connection of two nodes, or of one with all, ends.
    pub fn disconnect_all(&mut self, node: usize, other: Option<usize>) {
        for id in 0..self.network.connections.len() {
            let connection = &self.network.connections[id];
            let ends = [connection.follower, connection.leader];
            if connection.is_up && ends.contains(&node) && other.is_none_or(|other| ends.contains(&other)) {
                self.disconnect(id);
            }
        }
    }
}
