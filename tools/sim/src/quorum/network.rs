//! What becomes of a message: cut links, loss, doubles, delays that overtake each other.

use crate::quorum::cluster::{Cluster, Happening};
use crate::quorum::node::slot_of;
use crate::quorum::settings::{MS, Mistake, NODES, S, Settings, check};
use crate::world::{Micros, World};
use odradek::cluster::quorum::Event;
use odradek::cluster::quorum::members::PeerId;
use odradek::cluster::quorum::message::{Message, MessageKind};

/// Which node can be heard by which.
///
/// Lives: one per seed.
#[derive(Clone, Debug)]
pub struct Network {
    /// From, to.
    cut: [[bool; NODES]; NODES],
    /// Faults of single messages.
    pub is_calm: bool,
}

impl Default for Network {
    fn default() -> Network {
        Network { cut: [[false; NODES]; NODES], is_calm: false }
    }
}

/// When copies of a message arrive, if any does.
pub struct Fate {
    pub arrivals: Vec<Micros>,
}

impl Network {
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from][to]
    }

    pub fn is_whole(&self) -> bool {
        self.cut.iter().flatten().all(|cut| !cut)
    }

    pub fn heal(&mut self) {
        self.cut = [[false; NODES]; NODES];
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut[from][to] = true;
    }

    /// Nobody of one side hears anybody of the other.
    pub fn part(&mut self, is_one_side: impl Fn(usize) -> bool) {
        for (from, row) in self.cut.iter_mut().enumerate() {
            for (to, cut) in row.iter_mut().enumerate() {
                *cut |= is_one_side(from) != is_one_side(to);
            }
        }
    }

    /// Nodes that hear this one and are heard by it.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || (!self.cut[from][to] && !self.cut[to][from])
    }

    pub fn fate(&self, world: &World, settings: &Settings) -> Fate {
        let mut arrivals = vec![world.below(settings.latency_max + 1)];
        if !self.is_calm && settings.network_fault != u64::MAX && world.one_in(settings.network_fault) {
            match world.below(3) {
                0 => {
                    world.count("network: lost");
                    arrivals.clear();
                }
                1 => {
                    world.count("network: twice");
                    arrivals.push(world.below(S));
                }
                _ => {
                    world.count("network: late");
                    arrivals[0] += world.between(100 * MS, 4 * S);
                }
            }
        }
        Fate { arrivals }
    }
}

impl Cluster {
    pub(super) fn send(&mut self, slot: usize, message: Message) {
        self.world.count("messages");
        self.watch.sent(&message);
        let (kind, start) = (message.kind(), self.nodes[slot].starts);
        let Some(to) = slot_of(message.to).filter(|to| *to < NODES) else { return };
        if kind == MessageKind::TimeoutNow {
            self.world.count("transfer: arrived");
        }
        if self.network.is_cut(slot, to) {
            return self.not_delivered(slot, start, &message.to, kind);
        }
        let fate = self.network.fate(&self.world, &self.settings);
        if fate.arrivals.is_empty() {
            self.report_snapshot(slot, start, message.to, kind, false);
        }
        let bytes = message.encode();
        for delay in fate.arrivals {
            self.at(delay, Happening::Arrive { from: slot, to, start, bytes: bytes.clone(), kind });
        }
    }

    /// A message does not get through its link.
    pub(super) fn not_delivered(&mut self, slot: usize, start: u64, to: &PeerId, kind: MessageKind) {
        self.world.count("network: cut");
        self.report_snapshot(slot, start, *to, kind, false);
        if self.world.one_in(4) {
            self.world.count("network: unreachable");
            let event = Event::Unreachable(*to);
            self.at(self.world.below(200 * MS), Happening::Report { slot, start, event });
        }
    }

    /// Whoever sends a snapshot is told what became of it.
    pub(super) fn report_snapshot(
        &mut self,
        slot: usize,
        start: u64,
        to: PeerId,
        kind: MessageKind,
        delivered: bool,
    ) {
        if kind != MessageKind::Snapshot {
            return;
        }
        self.world.count(if delivered { "snapshot: arrived" } else { "snapshot: lost" });
        if self.settings.makes(Mistake::SnapshotsUnreported) {
            return;
        }
        let event = Event::SnapshotSent { to, delivered };
        let delay = if delivered { self.world.below(20 * MS) } else { self.world.below(S) };
        self.at(delay, Happening::Report { slot, start, event });
    }

    pub(super) fn arrive(&mut self, from: usize, to: usize, start: u64, bytes: Vec<u8>, kind: MessageKind) {
        let peer = self.nodes[to].peer;
        if self.network.is_cut(from, to) || self.nodes[to].running.is_none() {
            return self.not_delivered(from, start, &peer, kind);
        }
        if let Some(wait) = self.pause_of(to, self.nodes[to].starts) {
            return self.at(wait, Happening::Arrive { from, to, start, bytes, kind });
        }
        let message = match Message::decode(&bytes) {
            Ok(message) => message,
            Err(error) => {
                return self.world.finding(check::GOES_ON, format_args!("a message of ours: {error}"));
            }
        };
        self.report_snapshot(from, start, message.to, kind, true);
        self.step(to, Event::Received(message));
    }
}
