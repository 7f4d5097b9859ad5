//! A node: its replicas' roles, its disk, its registration.

use crate::cluster::engine::Engine;
use crate::replication::controller::ClusterImage;
use crate::replication::following::Uplink;
use crate::replication::leading::Feed;
use crate::replication::log::{Log, offset};
use crate::replication::network::{CONTROLLER, Way};
use crate::replication::scene::{Action, Scene, index, number_of, partition_id};
use crate::replication::settings::{MS, Mistake, S, check};
use crate::world::Micros;
use odradek::cluster::leadership::Leadership;
use odradek::codec::control::{Doubtful, Heartbeat, LogsFound, Registration};
use odradek::codec::peer_frame::{PeerFrame, next_peer_frame};
use odradek::codec::peer_message::{PEER_VERSION_MAX, PeerMessage};
use odradek::replication::follower::{Follower, FollowerStart};
use odradek::replication::in_sync::{Committed, Proposal};
use odradek::replication::leader::{Leader, LeaderSettings, LeaderStart};
use odradek::replication::{follower, leader};
use odradek::types::{BrokerEpoch, LeaderEpoch, Mono, NodeId, Uuid};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What a replica is at the moment.
pub enum Role {
    Idle,
    Leader(Box<Leader>),
    Follower { leader: usize, machine: Box<Follower> },
}

/// Lives: one per replica of a node.
pub struct Replica {
    pub log: Log,
    pub role: Role,
    /// Of the role; -1: none was taken since the start.
    pub epoch: i32,
    /// As known while it has no role, and when it takes one.
    pub high_watermark: u64,
    /// Sessions with leaders since the start.
    sessions: u32,
    /// What it has last asked of the controller.
    pub proposed: Option<Proposal>,
}

impl Replica {
    fn new() -> Replica {
        Replica {
            log: Log::default(),
            role: Role::Idle,
            epoch: -1,
            high_watermark: 0,
            sessions: 0,
            proposed: None,
        }
    }

    /// It follows a leader whose log it was not compared with yet.
    pub fn is_behind(&self) -> bool {
        matches!(&self.role, Role::Follower { machine, .. } if !machine.is_following())
    }

    pub fn known_high_watermark(&self) -> u64 {
        match &self.role {
            Role::Idle => self.high_watermark,
            Role::Leader(leader) => leader.high_watermark().get(),
            Role::Follower { machine, .. } => machine.high_watermark().get(),
        }
    }
}

/// Lives: one per node, through its crashes.
pub struct Node {
    pub id: NodeId,
    pub is_up: bool,
    pub is_paused: bool,
    pub deferred: Vec<Action>,
    /// Counts its starts.
    pub run: u64,
    pub broker_epoch: Option<BrokerEpoch>,
    /// The registration before, as the controller says.
    replaces: Option<BrokerEpoch>,
    pub wants_shut_down: bool,
    pub is_empty: bool,
    pub image: Rc<ClusterImage>,
    pub replicas: BTreeMap<usize, Replica>,
    /// To those who follow, by node.
    pub feeds: BTreeMap<usize, Feed>,
    /// The connection on which each partition's follower has said last what it has: only there it is answered.
    pub heard_on: BTreeMap<(usize, usize), usize>,
    /// To those who lead.
    pub uplinks: BTreeMap<usize, Uplink>,
    is_flushing: bool,
    pub is_slow: bool,
    /// Keeps its logs on a disk; `None`: they are flushed when it is time.
    pub engine: Option<Box<Engine>>,
    /// Produce requests: whom to answer, and what they were about.
    pub produces: BTreeMap<u64, (usize, u64, u64)>,
    pub next_produce: u64,
}

impl Node {
    pub fn new(id: NodeId) -> Node {
        Node {
            id,
            is_up: false,
            is_paused: false,
            deferred: Vec::new(),
            run: 0,
            broker_epoch: None,
            replaces: None,
            wants_shut_down: false,
            is_empty: false,
            image: Rc::default(),
            replicas: BTreeMap::new(),
            feeds: BTreeMap::new(),
            heard_on: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            is_flushing: false,
            is_slow: false,
            engine: None,
            produces: BTreeMap::new(),
            next_produce: 0,
        }
    }

    pub fn replica(&mut self, partition: usize) -> &mut Replica {
        self.replicas.get_mut(&partition).expect("it has one")
    }

    /// Its replicas that are like that.
    pub fn partitions_where(&self, is_wanted: impl Fn(&Replica) -> bool) -> Vec<usize> {
        let wanted = self.replicas.iter().filter(|(_, replica)| is_wanted(replica));
        wanted.map(|(partition, _)| *partition).collect()
    }
}

impl Scene {
    pub fn mono(&self) -> Mono {
        Mono(self.world.now() * 1000)
    }

    // --- Start and end

    pub fn start_node(&mut self, id: usize) {
        if self.is_engine_finishing(id) {
            return self.start_later(id, 10 * MS);
        }
        let node = &mut self.nodes[id];
        assert!(!node.is_up, "it runs");
        node.is_up = true;
        node.run += 1;
        node.broker_epoch = None;
        node.replaces = None;
        node.wants_shut_down = false;
        node.image = Rc::default();
        node.is_flushing = false;
        node.next_produce = node.run << 32;
        for replica in node.replicas.values_mut() {
            replica.role = Role::Idle;
            replica.epoch = -1;
            replica.sessions = 0;
            replica.high_watermark = match self.metadata.is_some() {
                true => replica.log.start(),
                false => replica.log.high_watermark(),
            };
        }
        self.world.note(format_args!("node {id} starts"));
        if self.metadata.is_some() {
            self.start_with_quorum(id);
        } else {
            self.register(id);
            self.beat(id);
        }
        self.tick(id);
    }

    /// Everything in memory is gone.
    pub fn crash_node(&mut self, id: usize) {
        self.world.note(format_args!("node {id} crashes"));
        self.engine_crashes(id);
        let node = &mut self.nodes[id];
        node.is_up = false;
        node.is_paused = false;
        node.deferred.clear();
        node.feeds.clear();
        node.heard_on.clear();
        node.uplinks.clear();
        node.produces.clear();
        for (partition, replica) in &mut node.replicas {
            replica.role = Role::Idle;
            let unflushed = replica.log.unflushed_count();
            let kept = match self.world.below(3) {
                // A start finds more of it, or not.
                _ if node.engine.is_some() => 0,
                0 => 0,
                1 => unflushed,
                _ => self.world.below(unflushed as u64 + 1) as usize,
            };
            let lost = replica.log.crash(kept);
            if lost > 0 && node.engine.is_none() {
                self.world.count("restart: unflushed lost");
            }
            if kept > 0 {
                self.world.count("restart: unflushed there");
            }
            let end = replica.log.end();
            self.world.note(format_args!("node {id} partition {partition} is left with {end}, {lost} lost"));
        }
        self.disconnect_all(id, None);
        self.coordinators_crash(id);
        self.quorum_crashes(id);
        self.check_members_at(id);
    }

    // --- The controller

    /// Until it is answered.
    fn register(&mut self, id: usize) {
        if self.nodes[id].broker_epoch.is_some() {
            return;
        }
        self.ask_to_register(id);
        let again = self.world.between(300 * MS, S);
        self.after_at(again, id, move |scene| scene.register(id));
    }

    fn ask_to_register(&mut self, id: usize) {
        let node = &self.nodes[id];
        let damaged = node.replicas.iter().filter(|(_, replica)| replica.log.is_lost);
        let damaged: Vec<_> = damaged.map(|(partition, _)| partition_id(*partition)).collect();
        let logs = match node.is_empty {
            true => LogsFound::Empty,
            false => LogsFound::Damaged(damaged),
        };
        let logs = if self.makes(Mistake::DamageNotTold) { LogsFound::Damaged(Vec::new()) } else { logs };
        let incarnation = incarnation(id, self.nodes[id].run);
        let replaces = self.nodes[id].replaces;
        let node = self.nodes[id].id;
        let registration =
            Registration { node, incarnation, logs, doubtful: Doubtful::Partitions(Vec::new()), replaces };
        self.ask_controller(id, &PeerMessage::Registration(registration));
    }

    fn beat(&mut self, id: usize) {
        let node = &self.nodes[id];
        if let Some(broker_epoch) = node.broker_epoch {
            let heartbeat = Heartbeat {
                offline_directories: Vec::new(),
                node: node.id,
                broker_epoch,
                metadata_offset: node.image.version,
                wants_shut_down: node.wants_shut_down,
            };
            self.ask_controller(id, &PeerMessage::Heartbeat(heartbeat));
        }
        let next = self.settings.heartbeat;
        self.after_at(next, id, move |scene| scene.beat(id));
    }

    pub fn ask_controller(&mut self, id: usize, message: &PeerMessage) {
        if self.metadata.is_some() {
            return self.ask_quorum(id, message);
        }
        let mut frame = Vec::new();
        message.encode(PEER_VERSION_MAX, [], &mut frame);
        let Some(time) = self.time_of_request() else { return };
        self.after(time, move |scene| {
            if !scene.network.is_cut(id, CONTROLLER) {
                scene.controller_hears(id, &frame);
            }
        });
    }

    /// A request on its own: it may be lost, or overtaken.
    pub fn time_of_request(&mut self) -> Option<Micros> {
        let latency = self.latency();
        if self.is_calm {
            return Some(latency);
        }
        if self.world.one_in(60) {
            self.world.count("network: request to the controller lost");
            return None;
        }
        if self.world.one_in(30) {
            self.world.count("network: request to the controller late");
            return Some(latency + self.world.below(2 * S));
        }
        Some(latency)
    }

    pub fn controller_answers(&mut self, id: usize, frame: &[u8]) {
        match self.decode(id, frame).map(|(message, _)| message) {
            Some(PeerMessage::Registered(registered)) => {
                let node = &mut self.nodes[id];
                if registered.incarnation != incarnation(id, node.run) || node.broker_epoch.is_some() {
                    return;
                }
                if registered.is_accepted {
                    node.broker_epoch = Some(registered.broker_epoch);
                    node.is_empty = false;
                } else if node.replaces != Some(registered.broker_epoch) {
                    node.replaces = Some(registered.broker_epoch);
                    self.ask_to_register(id);
                }
            }
            Some(PeerMessage::HeartbeatAnswer(answer)) => {
                let node = &mut self.nodes[id];
                if node.broker_epoch != Some(answer.broker_epoch) {
                    return;
                }
                if !answer.is_known {
                    node.broker_epoch = None;
                    node.replaces = None;
                    self.world.count("node: has to register again");
                    return self.register(id);
                }
                if answer.may_shut_down && node.wants_shut_down {
                    self.stop_node(id);
                }
            }
            Some(PeerMessage::AlteredPartitions(altered)) => self.altered(id, &altered),
            Some(other) => {
                self.world.finding(check::PROTOCOL, format_args!("the controller says {other:?}"));
            }
            None => {}
        }
    }

    /// News of the cluster. Those from before this process was registered are about the one before it.
    pub fn take_image(&mut self, id: usize, image: &Rc<ClusterImage>) {
        let node = &mut self.nodes[id];
        let is_ours = node.broker_epoch.is_some_and(|epoch| image.version >= epoch.0 as u64);
        if !is_ours && !self.settings.makes(Mistake::EpochResumed) || image.version <= node.image.version {
            return;
        }
        node.image = image.clone();
        self.take_roles(id);
    }

    /// What the image says of partitions.
    pub fn take_roles(&mut self, id: usize) {
        let known: Vec<usize> = self.nodes[id].image.partitions.keys().copied().collect();
        known.into_iter().for_each(|partition| self.take_role(id, partition));
    }

    fn take_role(&mut self, id: usize, partition: usize) {
        let image = self.nodes[id].image.clone();
        let leadership = &image.partitions[&partition];
        let node_id = self.nodes[id].id;
        if !leadership.replicas.contains(&node_id) {
            return self.lose_replica(id, partition);
        }
        let epoch = leadership.leader_epoch.0;
        let committed =
            Committed { partition_epoch: leadership.partition_epoch, in_sync: leadership.in_sync.clone() };
        let now = self.mono();
        let settings = self.leader_settings(id, partition);
        let replica = self.nodes[id].replicas.entry(partition).or_insert_with(Replica::new);
        if epoch == replica.epoch {
            if matches!(replica.role, Role::Leader(_)) {
                let replicas = &leadership.replicas;
                self.lead(id, partition, leader::Event::ReplicasChanged { replicas, now });
                self.note_eligible(id, partition);
                self.lead(id, partition, leader::Event::Configured { settings });
                self.lead(id, partition, leader::Event::IsrCommitted(committed));
            }
            return;
        }
        self.resign(id, partition);
        let replica = self.nodes[id].replica(partition);
        replica.epoch = epoch;
        let log = &mut replica.log;
        match leadership.leader.map(index) {
            None => {}
            Some(leader) if leader == id => {
                log.epochs.assign(LeaderEpoch(epoch), offset(log.end()));
                let high_watermark = replica.high_watermark.min(log.flushed_end).max(log.start());
                if high_watermark < log.end() {
                    self.world.count("leader: begins with a high watermark behind its epoch");
                }
                let start = LeaderStart {
                    node: node_id,
                    epoch: LeaderEpoch(epoch),
                    replicas: leadership.replicas.clone(),
                    in_sync: committed,
                    log_start: offset(log.start()),
                    log_start_flushed: offset(log.start().min(log.durable.start)),
                    log_end: offset(log.end()),
                    flushed_end: offset(log.flushed_end),
                    high_watermark: offset(high_watermark),
                    settings,
                    now,
                };
                replica.role = Role::Leader(Box::new(Leader::new(start)));
                self.world.count("leader: begins");
                let end = replica.log.end();
                self.world.note(format_args!(
                    "node {id} leads {partition} under {epoch} from {end}, high watermark {high_watermark}"
                ));
                self.check_leader(id, partition, epoch);
                if self.watch.losses(partition) > 0 {
                    self.take_back(id, partition, high_watermark);
                }
                self.note_eligible(id, partition);
                self.lead(id, partition, leader::Event::Tick { now });
                self.coordinates(id, partition);
            }
            Some(leader) => {
                if self.settings.makes(Mistake::CutToHighWatermark) {
                    log.cut_to(replica.high_watermark.max(log.start()));
                }
                let start = FollowerStart {
                    partition: partition_id(partition),
                    epoch: LeaderEpoch(epoch),
                    log_start: offset(log.start()),
                    log_start_flushed: offset(log.start().min(log.durable.start)),
                    log_end: offset(log.end()),
                    flushed_end: offset(log.flushed_end),
                    high_watermark: offset(replica.high_watermark.min(log.flushed_end).max(log.start())),
                    sessions: replica.sessions,
                };
                replica.role = Role::Follower { leader, machine: Box::new(Follower::new(start)) };
                self.reach(id, leader);
            }
        }
    }

    pub fn in_sync_min(&self, partition: usize) -> usize {
        self.controller.in_sync_min(partition)
    }

    /// As the node knows the metadata. Those that come do not count before they are in sync.
    pub fn in_sync_min_known_to(&self, id: usize, partition: usize) -> usize {
        let image = &self.nodes[id].image;
        let Leadership { replicas, adding, .. } = &image.partitions[&partition];
        image.in_sync_min[&partition].clamp(1, (replicas.len() - adding.len()).max(1))
    }

    fn leader_settings(&self, id: usize, partition: usize) -> LeaderSettings {
        let in_sync_min = match self.makes(Mistake::MinimumNotEnforced) {
            true => 1,
            false => self.in_sync_min_known_to(id, partition),
        };
        LeaderSettings {
            in_sync_min,
            lag_max: Duration::from_micros(self.settings.lag_max),
            proposal_patience: Duration::from_micros(500 * MS),
        }
    }

    fn note_eligible(&mut self, id: usize, partition: usize) {
        let node = &mut self.nodes[id];
        let Some(active) = &node.image.active else { return };
        if let Some(Role::Leader(leader)) = node.replicas.get_mut(&partition).map(|replica| &mut replica.role)
        {
            leader.note_eligible(|node| active.contains(&node));
        }
    }

    /// The partition goes on without this node's.
    pub fn lose_replica(&mut self, id: usize, partition: usize) {
        if !self.nodes[id].replicas.contains_key(&partition) {
            return;
        }
        self.world.count("replica: removed");
        self.world.note(format_args!("node {id} partition {partition} is removed"));
        self.resign(id, partition);
        let replica = self.nodes[id].replicas.remove(&partition).expect("it is there");
        self.watch.is_removed(partition, &replica.log);
        self.engine_removes(id, partition, replica.log);
    }

    /// The role ends; what it knew stays.
    pub fn resign(&mut self, id: usize, partition: usize) {
        self.coordinates_no_more(id, partition);
        let replica = self.nodes[id].replica(partition);
        replica.high_watermark = replica.known_high_watermark();
        match std::mem::replace(&mut replica.role, Role::Idle) {
            Role::Idle => {}
            Role::Follower { machine, .. } => replica.sessions = machine.sessions(),
            Role::Leader(leader) => {
                let effects = leader.resign();
                if !effects.is_empty() {
                    self.world.count("leader: resigns with requests waiting");
                }
                self.carry_out_lead(id, partition, effects);
            }
        }
    }

    pub fn stop_node(&mut self, id: usize) {
        self.world.note(format_args!("node {id} stops"));
        self.engine_finishes(id);
        self.crash_node(id);
        let time = self.world.below(if self.is_calm { 100 * MS } else { 2 * S });
        self.after(time, move |scene| {
            if !scene.nodes[id].is_up {
                scene.start_node(id);
            }
        });
    }

    /// Leaders look at the time, followers try again.
    fn tick(&mut self, id: usize) {
        let now = self.mono();
        for partition in self.nodes[id].partitions_where(|_| true) {
            let leader = match &self.nodes[id].replica(partition).role {
                Role::Idle => continue,
                Role::Leader(_) => {
                    self.note_eligible(id, partition);
                    self.lead(id, partition, leader::Event::Tick { now });
                    continue;
                }
                Role::Follower { leader, .. } => *leader,
            };
            self.reach(id, leader);
        }
        self.after_at(200 * MS, id, move |scene| scene.tick(id));
    }

    // --- The disk

    /// Something was written: a flush follows, one at a time.
    pub fn want_flush(&mut self, id: usize) {
        if self.nodes[id].engine.is_some() {
            return self.hand_to_engine(id);
        }
        let node = &self.nodes[id];
        let is_wanted = node.replicas.values().any(|replica| replica.log.unflushed_count() > 0);
        if node.is_flushing || !is_wanted {
            return;
        }
        let counts = node.replicas.iter().map(|(number, replica)| (*number, replica.log.unflushed_count()));
        let counts: Vec<(usize, usize)> = counts.filter(|(_, count)| *count > 0).collect();
        let received: Vec<(usize, u64)> =
            node.uplinks.iter().map(|(leader, uplink)| (*leader, uplink.received)).collect();
        let is_slow = node.is_slow && !self.is_calm;
        self.nodes[id].is_flushing = true;
        let time = match is_slow {
            true => self.world.between(10 * MS, if self.world.one_in(8) { 5 * S } else { 300 * MS }),
            false if self.is_calm => self.world.between(100, self.settings.flush_max.min(5 * MS)),
            false => self.world.between(100, self.settings.flush_max),
        };
        self.after_at(time, id, move |scene| {
            for (partition, count) in counts {
                scene.flushed(id, partition, count);
            }
            scene.nodes[id].is_flushing = false;
            for (leader, received) in received {
                if let Some(uplink) = scene.nodes[id].uplinks.get_mut(&leader) {
                    uplink.released = uplink.released.max(received.min(uplink.received));
                }
            }
            scene.release_if_flushed(id);
            scene.send_acknowledgements(id);
            scene.want_flush(id);
        });
    }

    pub fn flushed(&mut self, id: usize, partition: usize, count: usize) {
        // It may be gone by now, or another one.
        let Some(replica) = self.nodes[id].replicas.get_mut(&partition) else { return };
        let high_watermark = replica.known_high_watermark();
        let count = count.min(replica.log.unflushed_count());
        let flushed = replica.log.flush(count, high_watermark);
        let (end, start) = (offset(flushed.end), offset(flushed.start));
        match &replica.role {
            Role::Idle if flushed.is_cut => {
                replica.epoch = -1;
                self.take_role(id, partition);
            }
            Role::Idle => {}
            Role::Leader(_) => {
                if !self.makes(Mistake::LeaderBeforeFlush) {
                    self.lead(id, partition, leader::Event::Flushed { flushed_end: end });
                }
                self.lead(id, partition, leader::Event::LogStartFlushed { log_start: start });
            }
            Role::Follower { .. } => {
                if !self.makes(Mistake::AckBeforeFlush) {
                    self.follow(id, partition, follower::Event::Flushed { flushed_end: end });
                }
                self.follow(id, partition, follower::Event::LogStartFlushed { log_start: start });
            }
        }
    }

    // --- Frames

    pub fn decode<'a>(&self, id: usize, frame: &'a [u8]) -> Option<(PeerMessage, &'a [u8])> {
        let Ok(PeerFrame::Complete { kind, table, payload, .. }) = next_peer_frame(frame) else {
            self.world.note(format_args!("node {id} has a damaged frame"));
            return None;
        };
        match PeerMessage::decode(kind, &frame[table], payload.len()) {
            Ok(message) => Some((message, &frame[payload])),
            Err(error) => {
                self.world.finding(check::PROTOCOL, format_args!("{kind:?}: {error}"));
                None
            }
        }
    }

    pub fn receive(&mut self, connection: usize, way: Way, frame: &[u8]) {
        let ends = self.network.connection(connection);
        let (follower, leader) = (ends.follower, ends.leader);
        let to = if way == Way::ToLeader { leader } else { follower };
        let Some((message, payload)) = self.decode(to, frame) else {
            self.network.drop_rest(connection, way);
            return self.disconnect(connection);
        };
        match message {
            PeerMessage::Greeting(_) => self.greeted(leader, follower, connection),
            PeerMessage::Statements(statements) => self.stated(leader, connection, &statements),
            PeerMessage::Acknowledgements(acks) => self.acknowledged(leader, connection, &acks),
            PeerMessage::Alignments(alignments) => {
                for alignment in &alignments {
                    let partition = number_of(alignment.partition);
                    self.follow(follower, partition, follower::Event::Aligned(alignment));
                }
            }
            PeerMessage::Appends(appends) => self.appends(follower, leader, connection, &appends, payload),
            other => self.world.finding(check::PROTOCOL, format_args!("a node says {other:?}")),
        }
    }
}

pub fn incarnation(node: usize, run: u64) -> Uuid {
    Uuid::from_u128(((node as u128) << 64) | u128::from(run))
}
