//! The controller, in the place of a quorum: what it has decided stands, but it may be away, and late.

use crate::replication::network::CONTROLLER;
use crate::replication::node::incarnation;
use crate::replication::scene::{Scene, index, number_of, partition_id};
use crate::replication::settings::{MS, Mistake, check};
use crate::world::Micros;
use odradek::cluster::leadership::alter::{AlterRefused, Alteration};
use odradek::cluster::leadership::membership::LogFound;
use odradek::cluster::leadership::{Election, Leadership, Members, Rules};
use odradek::codec::control::{
    AlterOutcome, AlterPartitions, AlterRefusal, AlteredPartition, Heartbeat, HeartbeatAnswer, LogsFound,
    PartitionProposal, Registered, Registration,
};
use odradek::codec::peer_message::{PEER_VERSION_MAX, PeerMessage};
use odradek::types::{BrokerEpoch, NodeId, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What nodes know of the cluster.
#[derive(Debug, Default)]
pub struct ClusterImage {
    pub version: u64,
    pub partitions: BTreeMap<usize, Leadership>,
    /// `min.insync.replicas` of each.
    pub in_sync_min: BTreeMap<usize, usize>,
    /// Who may come into an in-sync set; `None`: the controller's to say alone.
    pub active: Option<BTreeSet<NodeId>>,
}

/// Lives: one per seed.
pub struct Controller {
    pub is_up: bool,
    version: u64,
    pub partitions: BTreeMap<usize, Leadership>,
    pub in_sync_min: BTreeMap<usize, usize>,
    pub members: Members,
    incarnations: BTreeMap<usize, Uuid>,
    heard: BTreeMap<usize, Micros>,
    pub image: Rc<ClusterImage>,
}

impl Controller {
    pub fn new() -> Controller {
        Controller {
            is_up: true,
            version: 0,
            partitions: BTreeMap::new(),
            in_sync_min: BTreeMap::new(),
            members: Members::default(),
            incarnations: BTreeMap::new(),
            heard: BTreeMap::new(),
            image: Rc::default(),
        }
    }

    pub fn in_sync_min(&self, partition: usize) -> usize {
        self.in_sync_min.get(&partition).copied().unwrap_or(1)
    }

    fn rules(&self, partition: usize) -> Rules<'_> {
        Rules { members: &self.members, in_sync_min: self.in_sync_min(partition), offline: &[] }
    }

    pub fn unfenced_count(&self) -> usize {
        self.members.0.values().filter(|member| !member.is_fenced).count()
    }

    /// It has what the partition must not lose, as far as the controller knows.
    pub fn is_needed(&self, partition: usize, node: NodeId) -> bool {
        let leadership = &self.partitions[&partition];
        leadership.in_sync.contains(&node) || leadership.eligible_leaders.contains(&node)
    }
}

impl Default for Controller {
    fn default() -> Controller {
        Controller::new()
    }
}

impl Scene {
    pub fn create_partitions(&mut self) {
        for partition in 0..self.settings.partitions {
            let count = match self.world.below(6) {
                0 => 1,
                1 => 2,
                2 if self.settings.nodes >= 5 => 5,
                _ => 3,
            };
            let count = count.min(self.settings.nodes);
            let first = self.world.below(self.settings.nodes as u64) as usize;
            let replicas = (0..count).map(|at| NodeId(((first + at) % self.settings.nodes) as i32 + 1));
            let replicas: Vec<NodeId> = replicas.collect();
            let majority = count / 2 + 1;
            let in_sync_min = if self.settings.min_one && partition == 0 { 1 } else { majority };
            let controller = &mut self.controller;
            controller.in_sync_min.insert(partition, in_sync_min);
            let leadership = Leadership::new(replicas, controller.rules(partition));
            self.world.note(format_args!("partition {partition}: {leadership:?}, minimum {in_sync_min}"));
            controller.partitions.insert(partition, leadership);
            self.watch.begins(partition);
        }
        self.publish();
    }

    /// Those that there are.
    pub fn partitions(&self) -> Vec<usize> {
        self.controller.partitions.keys().copied().collect()
    }

    /// It watches over nodes.
    pub fn control(&mut self) {
        let (now, session_max) = (self.world.now(), self.settings.session_max);
        if self.controller.is_up {
            let is_lost = |id: &usize| {
                let member = self.controller.members.get(NodeId(*id as i32));
                let heard = self.controller.heard.get(id).copied().unwrap_or(0);
                member.is_some_and(|member| !member.is_fenced) && now > heard + session_max
            };
            let lost: Vec<usize> = (1..=self.settings.nodes).filter(is_lost).collect();
            for id in lost {
                self.world.count("controller: fenced");
                self.world.note(format_args!("node {id} is fenced"));
                let node = NodeId(id as i32);
                self.controller.members.fence(node);
                self.change_all(|leadership, rules| leadership.node_left(rules, node));
            }
            if self.one_in(100) || self.is_calm && self.one_in(20) {
                self.elect_preferred();
            }
        }
        self.after(100 * MS, |scene| scene.control());
    }

    fn elect_preferred(&mut self) {
        let before: Vec<_> =
            self.controller.partitions.values().map(|leadership| leadership.leader).collect();
        self.change_all(|leadership, rules| {
            let wants =
                leadership.leader.is_some() && leadership.leader != leadership.replicas.first().copied();
            if wants { leadership.elect(rules, Election::Preferred) } else { None }
        });
        for (leadership, before) in self.controller.partitions.values().zip(before) {
            if leadership.leader != before {
                self.world.count("controller: preferred leader elected");
            }
        }
    }

    pub fn controller_goes(&mut self, time: Micros) {
        self.controller.is_up = false;
        self.after(time, |scene| scene.controller_comes());
    }

    /// Another one takes over: it has to give nodes time.
    pub fn controller_comes(&mut self) {
        if !self.controller.is_up {
            self.controller.is_up = true;
            let now = self.world.now();
            self.controller.heard.values_mut().for_each(|heard| *heard = now);
        }
    }

    fn change_all(&mut self, change: impl Fn(&Leadership, Rules<'_>) -> Option<Leadership>) {
        let mut is_change = false;
        for partition in self.partitions() {
            let next = change(&self.controller.partitions[&partition], self.controller.rules(partition));
            if let Some(next) = next {
                is_change = true;
                self.take_leadership(partition, next);
            }
        }
        if is_change {
            self.publish();
        }
    }

    pub fn take_leadership(&mut self, partition: usize, next: Leadership) {
        let before = &self.controller.partitions[&partition];
        if next.leader != before.leader {
            let was_eligible = next.leader.is_some_and(|leader| before.eligible_leaders.contains(&leader));
            self.world.count(match next.leader {
                None => "controller: nobody to elect",
                Some(_) if was_eligible => "controller: elected from the eligible",
                Some(_) => "controller: elected from the in-sync set",
            });
        }
        self.world.note(format_args!("partition {partition}: {next:?}"));
        self.controller.partitions.insert(partition, next);
    }

    /// The new state is there for all, and reaches nodes sooner or later.
    fn publish(&mut self) {
        let controller = &mut self.controller;
        controller.version += 1;
        let (partitions, in_sync_min) = (controller.partitions.clone(), controller.in_sync_min.clone());
        let version = controller.version;
        controller.image = Rc::new(ClusterImage { version, partitions, in_sync_min, active: None });
        let image = controller.image.clone();
        for id in 1..=self.settings.nodes {
            self.push_image(id, image.clone());
        }
        self.check_all_members();
    }

    fn push_image(&mut self, id: usize, image: Rc<ClusterImage>) {
        if let Some(time) = self.time_of_request() {
            self.after(time, move |scene| {
                if !scene.network.is_cut(CONTROLLER, id) {
                    let run = scene.nodes[id].run;
                    scene.at_node(id, run, move |scene| scene.take_image(id, &image));
                }
            });
        }
    }

    fn answer_node(&mut self, id: usize, message: &PeerMessage) {
        let mut frame = Vec::new();
        message.encode(PEER_VERSION_MAX, [], &mut frame);
        let Some(time) = self.time_of_request() else { return };
        let run = self.nodes[id].run;
        self.after(time, move |scene| {
            if !scene.network.is_cut(CONTROLLER, id) {
                scene.at_node(id, run, move |scene| scene.controller_answers(id, &frame));
            }
        });
    }

    // --- Requests

    pub fn controller_hears(&mut self, id: usize, frame: &[u8]) {
        if !self.controller.is_up {
            return;
        }
        match self.decode(CONTROLLER, frame).map(|(message, _)| message) {
            Some(PeerMessage::Registration(registration)) => self.registers(id, &registration),
            Some(PeerMessage::Heartbeat(heartbeat)) => self.beats(id, heartbeat),
            Some(PeerMessage::AlterPartitions(request)) => self.alters(id, &request),
            other => self.world.finding(check::PROTOCOL, format_args!("the controller hears {other:?}")),
        }
    }

    fn registers(&mut self, id: usize, registration: &Registration) {
        let node = registration.node;
        let known = self.controller.incarnations.get(&id) == Some(&registration.incarnation);
        if !known {
            if let Err(other) = self.controller.members.may_register(node, registration.replaces) {
                if registration.replaces.is_some() {
                    self.world.count("controller: registration late");
                }
                let (incarnation, broker_epoch) = (registration.incarnation, other.current);
                let registered = Registered { incarnation, broker_epoch, is_accepted: false };
                return self.answer_node(id, &PeerMessage::Registered(registered));
            }
            let was_alive = self.controller.members.get(node).is_some_and(|member| !member.is_fenced);
            if was_alive {
                self.world.count("restart: before it was missed");
            }
            self.controller.version += 1;
            let broker_epoch = BrokerEpoch(self.controller.version as i64);
            self.controller.incarnations.insert(id, registration.incarnation);
            let now = self.world.now();
            self.controller.heard.insert(id, now);
            self.controller.members.register(node, broker_epoch);
            self.world
                .note(format_args!("node {id} is registered as {broker_epoch:?}, {:?}", registration.logs));
            // This process has said what it lacks.
            if self.nodes[id].is_up && registration.incarnation == incarnation(id, self.nodes[id].run) {
                self.nodes[id].replicas.values_mut().for_each(|replica| replica.log.is_lost = false);
            }
            let resumes = self.makes(Mistake::EpochResumed);
            if resumes {
                self.controller.members.unfence(node);
            }
            for partition in self.partitions() {
                let found = match &registration.logs {
                    LogsFound::Empty => LogFound::Lost,
                    LogsFound::Damaged(damaged) if damaged.contains(&partition_id(partition)) => {
                        LogFound::Lost
                    }
                    LogsFound::Damaged(_) => LogFound::Complete,
                };
                let leadership = &self.controller.partitions[&partition];
                if self.controller.is_needed(partition, node) {
                    self.world.count(match found {
                        LogFound::Lost => "controller: log lost, out of the in-sync set",
                        LogFound::Complete | LogFound::Doubtful | LogFound::Unavailable => {
                            "controller: log complete, place kept"
                        }
                    });
                }
                if let Some(next) = leadership.node_started(self.controller.rules(partition), node, found) {
                    self.take_leadership(partition, next);
                }
            }
            self.publish();
        }
        let broker_epoch = self.controller.members.get(node).expect("just registered").broker_epoch;
        let registered =
            Registered { incarnation: registration.incarnation, broker_epoch, is_accepted: true };
        self.answer_node(id, &PeerMessage::Registered(registered));
    }

    fn beats(&mut self, id: usize, heartbeat: Heartbeat) {
        let node = heartbeat.node;
        let member = self.controller.members.get(node).copied();
        let Some(member) = member.filter(|member| member.broker_epoch == heartbeat.broker_epoch) else {
            let broker_epoch = heartbeat.broker_epoch;
            let answer =
                HeartbeatAnswer { broker_epoch, is_known: false, is_fenced: true, may_shut_down: false };
            return self.answer_node(id, &PeerMessage::HeartbeatAnswer(answer));
        };
        let now = self.world.now();
        self.controller.heard.insert(id, now);
        if member.is_fenced && heartbeat.metadata_offset >= member.broker_epoch.0 as u64 {
            self.world.count("controller: unfenced");
            self.world.note(format_args!("node {id} is unfenced"));
            self.controller.members.unfence(node);
            let (never, anybody) =
                (self.makes(Mistake::NeverElectedAgain), self.makes(Mistake::AnybodyElected));
            self.change_all(|leadership, rules| match anybody {
                true if leadership.leader.is_none() => leadership.elect(rules, Election::Unclean),
                _ if never => None,
                _ => leadership.node_came(rules, node),
            });
        }
        if heartbeat.wants_shut_down && !member.is_shutting_down {
            self.controller.members.begin_shut_down(node);
            self.world.note(format_args!("node {id} wants to stop"));
            if self.controller.partitions.values().any(|leadership| leadership.leader == Some(node)) {
                self.world.count("controller: leaders moved for a shutdown");
            }
            self.change_all(|leadership, rules| leadership.node_left(rules, node));
        }
        let member = *self.controller.members.get(node).expect("it is known");
        let leads = self.controller.partitions.values().any(|leadership| leadership.leader == Some(node));
        let answer = HeartbeatAnswer {
            broker_epoch: member.broker_epoch,
            is_known: true,
            is_fenced: member.is_fenced,
            may_shut_down: member.is_shutting_down && !leads,
        };
        self.answer_node(id, &PeerMessage::HeartbeatAnswer(answer));
        if heartbeat.metadata_offset < self.controller.image.version {
            let image = self.controller.image.clone();
            self.push_image(id, image);
        }
    }

    fn alters(&mut self, id: usize, request: &AlterPartitions) {
        let altered: Vec<_> =
            request.partitions.iter().map(|proposal| self.alter(request, proposal)).collect();
        self.answer_node(id, &PeerMessage::AlteredPartitions(altered));
    }

    fn alter(&mut self, request: &AlterPartitions, proposal: &PartitionProposal) -> AlteredPartition {
        let partition = number_of(proposal.partition);
        let current = &self.controller.partitions[&partition];
        let mut in_sync = proposal.in_sync.clone();
        if self.makes(Mistake::BrokerEpochIgnored) {
            for (node, epoch) in &mut in_sync {
                *epoch = self.controller.members.get(*node).map(|member| member.broker_epoch);
            }
        }
        let partition_epoch = match self.makes(Mistake::PartitionEpochIgnored) {
            true => current.partition_epoch,
            false => proposal.partition_epoch,
        };
        let asked = Alteration {
            node: request.node,
            broker_epoch: request.broker_epoch,
            leader_epoch: proposal.leader_epoch,
            partition_epoch,
            in_sync: &in_sync,
        };
        let outcome = match current.alter(self.controller.rules(partition), asked) {
            Ok(next) => {
                let (before, after) = (current.in_sync.len(), next.in_sync.len());
                if after > before {
                    self.world.count("controller: in-sync set grew");
                } else if after < before {
                    self.world.count("controller: in-sync set shrank");
                }
                let (partition_epoch, in_sync) = (next.partition_epoch, next.in_sync.clone());
                self.take_leadership(partition, next);
                self.publish();
                AlterOutcome::Committed { partition_epoch, in_sync }
            }
            Err(refused) => {
                self.world.note(format_args!("partition {partition}: {refused}"));
                let reason = self.reason(refused);
                AlterOutcome::Refused { partition_epoch: proposal.partition_epoch, reason }
            }
        };
        AlteredPartition { partition: proposal.partition, leader_epoch: proposal.leader_epoch, outcome }
    }

    fn reason(&self, refused: AlterRefused) -> AlterRefusal {
        let (reason, name) = match refused {
            AlterRefused::StaleBrokerEpoch(_) => (AlterRefusal::StaleBrokerEpoch, "alter: StaleBrokerEpoch"),
            AlterRefused::NotController => (AlterRefusal::NotController, "alter: NotController"),
            AlterRefused::FencedLeaderEpoch { .. } => {
                (AlterRefusal::FencedLeaderEpoch, "alter: FencedLeaderEpoch")
            }
            AlterRefused::InvalidUpdateVersion { .. } => {
                (AlterRefusal::InvalidUpdateVersion, "alter: InvalidUpdateVersion")
            }
            AlterRefused::NotLeader(_) | AlterRefused::InvalidInSync => {
                (AlterRefusal::InvalidRequest, "alter: InvalidRequest")
            }
            AlterRefused::IneligibleReplica(_) => {
                (AlterRefusal::IneligibleReplica, "alter: IneligibleReplica")
            }
        };
        self.world.count(name);
        if matches!(reason, AlterRefusal::NotController | AlterRefusal::InvalidRequest) {
            self.world.finding(check::PROTOCOL, format_args!("a proposal is refused: {refused}"));
        }
        reason
    }

    /// Who leads, as anybody may have heard of it.
    pub fn heard_of(&self, partition: usize) -> Option<(Option<usize>, i32)> {
        let any = 1 + self.world.below(self.settings.nodes as u64) as usize;
        let node = &self.nodes[any];
        let image = if node.is_up && !node.is_paused { &node.image } else { &self.controller.image };
        let leadership = image.partitions.get(&partition)?;
        Some((leadership.leader.map(index), leadership.leader_epoch.0))
    }
}
