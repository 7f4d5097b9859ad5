//! What followers decide, carried out: statements, appends, acknowledgements.

use crate::replication::log::{BATCH_SIZE, Batch, offset};
use crate::replication::network::Way;
use crate::replication::node::{Replica, Role};
use crate::replication::scene::{Scene, number_of};
use crate::replication::settings::Mistake;
use odradek::codec::control::Greeting;
use odradek::codec::peer_message::{PEER_VERSION_MAX, PEER_VERSION_MIN, PeerMessage};
use odradek::codec::replication::{Acknowledgement, Acknowledgements, Append, Statement, Statements};
use odradek::replication::follower::{Effect, Event, Rejected};
use odradek::types::Uuid;

/// A connection to a leader.
pub struct Uplink {
    pub connection: usize,
    /// Bytes of payload that it has brought, and those that are done with.
    pub received: u64,
    pub released: u64,
    told: u64,
    acknowledgements: Vec<Acknowledgement>,
}

impl Scene {
    /// One event of a follower, and what follows from it.
    pub fn follow(&mut self, id: usize, partition: usize, event: Event<'_>) {
        self.follow_with(id, partition, event, &[]);
    }

    fn follow_with(&mut self, id: usize, partition: usize, event: Event<'_>, batches: &[Batch]) {
        let mut effects = Vec::new();
        let Some(replica) = self.nodes[id].replicas.get_mut(&partition) else { return };
        let Role::Follower { leader, machine } = &mut replica.role else { return };
        let leader = *leader;
        let was_following = machine.is_following();
        machine.step(event, &mut effects);
        if !was_following && machine.is_following() {
            self.world.count("follower: follows");
        }
        for effect in effects {
            self.carry_out_follow(id, partition, leader, effect, batches);
        }
    }

    fn carry_out_follow(
        &mut self,
        id: usize,
        partition: usize,
        leader: usize,
        effect: Effect,
        batches: &[Batch],
    ) {
        let node = &mut self.nodes[id];
        let replica = node.replicas.get_mut(&partition).expect("it has one");
        match effect {
            Effect::State => {
                let Role::Follower { machine, .. } = &replica.role else { return };
                let statement = machine.statement(&replica.log.epochs);
                self.state(id, leader, statement);
            }
            Effect::CutTo(end) => {
                self.world.count("follower: cuts its log");
                self.world.note(format_args!("node {id} partition {partition} is cut to {end}"));
                replica.log.cut_to(end.get());
                self.begin_cut(id, partition, end.get());
            }
            Effect::StartOver(at) => {
                self.world.count("follower: starts over");
                self.world.note(format_args!("node {id} partition {partition} starts over at {at}"));
                replica.log.start_over(at.get());
                self.begin_cut(id, partition, at.get());
            }
            Effect::Append { end } => {
                batches.iter().for_each(|batch| replica.log.append(*batch));
                if self.makes(Mistake::AckBeforeFlush) {
                    self.follow(id, partition, Event::Flushed { flushed_end: end });
                }
                self.want_flush(id);
            }
            Effect::MoveLogStart(to) => {
                self.world.count("follower: log start moves");
                replica.log.move_start(to.get());
                replica.log.forget_epochs(to.get());
                self.want_flush(id);
            }
            Effect::Acknowledge { flushed_end, log_start } => {
                let Role::Follower { machine, .. } = &replica.role else { return };
                let acknowledgement = machine.acknowledgement(flushed_end, log_start);
                if let Some(uplink) = node.uplinks.get_mut(&leader) {
                    uplink.acknowledgements.push(acknowledgement);
                }
            }
            Effect::AdvanceHighWatermark(to) => self.check_high_watermark(id, partition, to.get()),
            // The next tick does.
            Effect::Retry => {}
            Effect::Reject(Rejected::Epoch { .. }) => self.world.count("follower: rejects an epoch"),
            Effect::Reject(Rejected::Session) => self.world.count("follower: rejects a session"),
            // Behind a damaged frame that was found out late; it states again.
            Effect::Reject(Rejected::Gap { .. }) => self.world.count("follower: finds a gap"),
        }
    }

    /// Until the cut is flushed it follows nobody: then it begins again with what is left.
    fn begin_cut(&mut self, id: usize, partition: usize, to: u64) {
        self.resign(id, partition);
        self.check_cut(id, partition, to);
        self.want_flush(id);
    }

    /// Connects to a leader if need be, and states what is to be stated.
    pub fn reach(&mut self, id: usize, leader: usize) {
        if self.nodes[id].broker_epoch.is_none() {
            return;
        }
        if !self.nodes[id].uplinks.contains_key(&leader) {
            let Some(connection) = self.connect(id, leader) else { return };
            self.world.note(format_args!("node {id} connects to {leader}: {connection}"));
            let uplink =
                Uplink { connection, received: 0, released: 0, told: 0, acknowledgements: Vec::new() };
            self.nodes[id].uplinks.insert(leader, uplink);
            let greeting = Greeting {
                cluster: Uuid::from_u128(1),
                node: self.nodes[id].id,
                version_min: PEER_VERSION_MIN,
                version_max: PEER_VERSION_MAX,
                peer: 0,
                address: None,
                shards: None,
            };
            self.say(connection, Way::ToLeader, &PeerMessage::Greeting(greeting), &[]);
        }
        let is_away = |replica: &Replica| match &replica.role {
            Role::Follower { leader: of, machine } => *of == leader && machine.is_away(),
            Role::Idle | Role::Leader(_) => false,
        };
        for partition in self.nodes[id].partitions_where(is_away) {
            self.follow(id, partition, Event::Connected);
        }
    }

    pub fn connection_lost(&mut self, id: usize, connection: usize) {
        let uplinks = &mut self.nodes[id].uplinks;
        self.world.note(format_args!("node {id} has lost connection {connection}"));
        let lost = uplinks.iter().find(|(_, uplink)| uplink.connection == connection);
        let Some(leader) = lost.map(|(leader, _)| *leader) else { return };
        uplinks.remove(&leader);
        let follows =
            |replica: &Replica| matches!(&replica.role, Role::Follower { leader: of, .. } if *of == leader);
        for partition in self.nodes[id].partitions_where(follows) {
            self.follow(id, partition, Event::Lost);
        }
    }

    fn state(&mut self, id: usize, leader: usize, statement: Statement) {
        let node = &self.nodes[id];
        let (Some(uplink), Some(broker_epoch)) = (node.uplinks.get(&leader), node.broker_epoch) else {
            return;
        };
        let connection = uplink.connection;
        let statements = Statements { node: node.id, broker_epoch, partitions: vec![statement] };
        self.say(connection, Way::ToLeader, &PeerMessage::Statements(statements), &[]);
    }

    pub fn appends(
        &mut self,
        id: usize,
        leader: usize,
        connection: usize,
        appends: &[Append],
        payload: &[u8],
    ) {
        let uplink = self.nodes[id].uplinks.get_mut(&leader).filter(|uplink| uplink.connection == connection);
        if let Some(uplink) = uplink {
            uplink.received += payload.len() as u64;
        }
        let mut rest = payload;
        for append in appends {
            let (bytes, more) = rest.split_at(append.size as usize);
            rest = more;
            let partition = number_of(append.partition);
            let batches: Vec<Batch> = bytes.chunks_exact(BATCH_SIZE).map(Batch::decode).collect();
            let end = batches.last().map_or(append.base_offset, |batch| offset(batch.end()));
            let mut append = *append;
            if self.makes(Mistake::StaleLeaderAccepted)
                && let Some(Role::Follower { machine, .. }) =
                    self.nodes[id].replicas.get(&partition).map(|replica| &replica.role)
            {
                (append.leader_epoch, append.session) = (machine.epoch(), machine.sessions());
            }
            self.follow_with(id, partition, Event::Received { append: &append, end }, &batches);
            if self.makes(Mistake::WatermarkUncapped) && self.nodes[id].replicas.contains_key(&partition) {
                self.check_high_watermark(id, partition, append.high_watermark.get());
            }
        }
        self.release_if_flushed(id);
        self.send_acknowledgements(id);
    }

    /// What was thrown away is done with too.
    pub fn release_if_flushed(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        if node.replicas.values().all(|replica| replica.log.unflushed_count() == 0) {
            node.uplinks.values_mut().for_each(|uplink| uplink.released = uplink.received);
        }
    }

    /// Everything that is to be acknowledged, of many partitions in one frame.
    pub fn send_acknowledgements(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        let Some(broker_epoch) = node.broker_epoch else { return };
        let mut frames = Vec::new();
        for uplink in node.uplinks.values_mut() {
            if uplink.acknowledgements.is_empty() && uplink.told == uplink.released {
                continue;
            }
            uplink.told = uplink.released;
            let acknowledgements = Acknowledgements {
                node: node.id,
                broker_epoch,
                released_bytes: uplink.released,
                partitions: std::mem::take(&mut uplink.acknowledgements),
                throttled_bytes_max: None,
            };
            frames.push((uplink.connection, PeerMessage::Acknowledgements(acknowledgements)));
        }
        for (connection, message) in frames {
            self.say(connection, Way::ToLeader, &message, &[]);
        }
    }
}
