//! What becomes of a message: cut links, loss, doubles, delays that overtake each other.

use crate::quorum::cluster::{Cluster, Happening};
use crate::quorum::node::slot_of;
use crate::quorum::settings::{MS, Mistake, NODES, S, Settings, check};
use crate::quorum::shell::{Due, Shell};
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
}

/// When copies of a message arrive that would take so long, if any does.
pub fn arrivals(world: &World, settings: &Settings, latency: Micros) -> Vec<Micros> {
    if settings.network_fault == u64::MAX || !world.one_in(settings.network_fault) {
        return vec![latency];
    }
    match world.below(3) {
        0 => {
            world.count("network: lost");
            Vec::new()
        }
        1 => {
            world.count("network: twice");
            vec![latency, world.below(S)]
        }
        _ => {
            world.count("network: late");
            vec![latency + world.between(100 * MS, 4 * S)]
        }
    }
}

impl Cluster {
    pub(super) fn dispatch(&mut self, slot: usize, message: Message) {
        self.world.count("messages");
        self.nodes.watch.sent(&message);
        let (kind, start) = (message.kind(), self.nodes.all[slot].starts);
        let Some(to) = slot_of(message.to).filter(|to| *to < NODES) else { return };
        if kind == MessageKind::TimeoutNow {
            self.world.count("transfer: arrived");
        }
        if self.network.is_cut(slot, to) {
            return self.not_delivered(slot, start, &message.to, kind);
        }
        let latency = self.world.below(self.settings.latency_max + 1);
        let arrivals = match self.network.is_calm {
            true => vec![latency],
            false => arrivals(&self.world, &self.settings, latency),
        };
        if arrivals.is_empty() {
            self.report_snapshot(slot, start, message.to, kind, false);
        }
        let bytes = message.encode();
        for delay in arrivals {
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
            self.at(
                self.world.below(200 * MS),
                Happening::Due { slot, start, due: Due::Report(Box::new(event)) },
            );
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
        self.at(delay, Happening::Due { slot, start, due: Due::Report(Box::new(event)) });
    }

    pub(super) fn arrive(&mut self, from: usize, to: usize, start: u64, bytes: Vec<u8>, kind: MessageKind) {
        let peer = self.nodes.all[to].peer;
        if self.network.is_cut(from, to) || self.nodes.all[to].running.is_none() {
            return self.not_delivered(from, start, &peer, kind);
        }
        if let Some(wait) = self.pause_of(to, self.nodes.all[to].starts) {
            return self.at(wait, Happening::Arrive { from, to, start, bytes, kind });
        }
        let message = match Message::decode(&bytes) {
            Ok(message) => message,
            Err(error) => {
                return self.world.finding(check::GOES_ON, format_args!("a message of ours: {error}"));
            }
        };
        self.report_snapshot(from, start, message.to, kind, true);
        self.tell(to, Event::Received(message));
    }
}
