//! The metadata of a seed: the quorum of its nodes, what each process knows besides, and what is decided.
//!
//! A change counts as decided once the first node has applied it. Checks and clients go by that; nodes by what they
//! have applied themselves.

use crate::cluster::asking::Effort;
use crate::cluster::deciding::{Desk, Then};
use crate::cluster::settings::{Mistake, PART_WHOLE, Settings, check};
use crate::quorum::network;
use crate::quorum::node::{Node, founding, peer_of, slot_of};
use crate::quorum::shell::{Due, Nodes, Shell};
use crate::quorum::watch::{Proposal, Watch};
use crate::replication::controller::ClusterImage;
use crate::replication::node::incarnation;
use crate::replication::scene::{Scene, number_of, partition_id};
use crate::world::{Micros, World};
use odradek::cluster::difference::{difference, replicas_gone};
use odradek::cluster::image::Image;
use odradek::cluster::leadership::Leadership;
use odradek::cluster::lifecycle::InSyncMin;
use odradek::cluster::quorum::frame::FOUNDING_INDEX;
use odradek::cluster::quorum::members::{Members, PeerId};
use odradek::cluster::quorum::message::{Message, MessageKind};
use odradek::cluster::quorum::{Event, Outcome, Ticket};
use odradek::cluster::record::{FEATURE_LEVEL, Node as NodeRecord, Record};
use odradek::codec::control::{QuestionKind, decode_altered_partitions, encode_alter_partitions};
use odradek::codec::error_code::ErrorCode;
use odradek::codec::peer_message::PeerMessage;
use odradek::config::topic::TopicDefaults;
use odradek::config::{Config, Machine};
use odradek::types::{NodeId, TopicPartition, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const CLUSTER: Uuid = Uuid::from_u128(0xC1);

/// Lives: one per seed.
pub struct Metadata {
    pub settings: Settings,
    pub quorum: Nodes,
    /// What processes know that is in no log, by slot.
    pub desks: Vec<Desk>,
    pub config: Config,
    pub defaults: TopicDefaults,
    /// The last entry that is decided, and the image as of then.
    decided: u64,
    pub image: Image,
    /// `min.insync.replicas` of topics that set it to this, with so many replicas.
    in_sync_min: BTreeMap<(Option<String>, usize), usize>,
    next_ticket: u64,
    /// Partitions that were made for nodes alone that had lost their disks, before anybody knew. Nobody else may lead
    /// them.
    pub stillborn: BTreeSet<usize>,
    /// When it was last asked for that another number of replicas has to be in sync, by partition.
    pub minimum_asked: BTreeMap<usize, Micros>,
    /// When a partition's last reassignment was asked for, and to how many replicas.
    pub reassignment_asked: BTreeMap<usize, (Micros, usize)>,
    /// Partitions of which a start has told that the end of a replica may be gone.
    pub doubted: BTreeSet<usize>,
    /// Partitions that somebody wanted anybody to lead.
    pub asked_uncleanly: BTreeSet<usize>,
    /// When the process of each node was registered.
    registered: BTreeMap<usize, Micros>,
    /// Of topics that were asked for.
    pub next_partition: usize,
}

impl Metadata {
    pub fn new(world: &Rc<World>, settings: Settings) -> Metadata {
        let mut all: Vec<Node> = (0..settings.replication.nodes).map(Node::new).collect();
        let members = Members::voters((0..settings.quorum.voters).map(|slot| peer_of(slot, 0)));
        let records = [
            Record::ClusterCreated { cluster_id: CLUSTER },
            Record::FeatureLevelSet { level: FEATURE_LEVEL },
        ];
        let (bytes, kept) = founding(&members, &records);
        for node in &mut all[..settings.quorum.voters] {
            node.install(bytes.clone(), kept.clone());
        }
        world.count(if settings.quorum.voters == 1 { "quorum of 1" } else { "quorum of 3" });
        let watch = Watch::new(world, FOUNDING_INDEX, &records, &members);
        let machine = Machine { cpus_allowed: vec![0], memory_bytes: 1 << 30 };
        Metadata {
            settings,
            desks: all.iter().map(|_| Desk::new(&settings, world.now())).collect(),
            quorum: Nodes::new(world, settings.quorum, CLUSTER, all, watch),
            config: Config::defaults(&machine).expect("the defaults are right"),
            defaults: TopicDefaults::default(),
            decided: FOUNDING_INDEX,
            image: Image::rebuild(&records).expect("a founding image"),
            in_sync_min: BTreeMap::new(),
            next_ticket: 0,
            stillborn: BTreeSet::new(),
            minimum_asked: BTreeMap::new(),
            reassignment_asked: BTreeMap::new(),
            doubted: BTreeSet::new(),
            asked_uncleanly: BTreeSet::new(),
            registered: BTreeMap::new(),
            next_partition: 0,
        }
    }

    /// Of a node that runs.
    pub fn image_of(&self, slot: usize) -> Option<&Image> {
        self.quorum.all[slot].running.as_ref().map(|running| &running.image)
    }

    pub fn applied(&self, slot: usize) -> u64 {
        self.quorum.all[slot].running.as_ref().map_or(0, |running| running.applied)
    }

    pub fn is_leading(&self, slot: usize) -> bool {
        self.quorum.all[slot].running.is_some() && self.desks[slot].is_leading
    }

    /// The image as nodes go by it.
    fn known(&mut self, image: &Image, version: u64) -> ClusterImage {
        let mut known = ClusterImage { version, ..ClusterImage::default() };
        for topic in image.topics() {
            for (id, state) in topic.partitions() {
                let number = number_of(id);
                let set = topic.config.get("min.insync.replicas").cloned();
                let key = (set, state.replicas.len() - state.adding.len());
                let in_sync_min = self.in_sync_min.entry(key);
                let in_sync_min =
                    in_sync_min.or_insert_with(|| InSyncMin::of(topic, &self.defaults).get(state));
                known.in_sync_min.insert(number, *in_sync_min);
                known.partitions.insert(number, state.leadership());
            }
        }
        known.active = Some(image.nodes().filter(|node| node.is_active()).map(|node| node.id).collect());
        known
    }
}

/// Of a node, from its number.
pub fn slot(id: usize) -> usize {
    id - 1
}

/// The other way round.
pub fn id(slot: usize) -> usize {
    slot + 1
}

impl Scene {
    pub fn metadata(&mut self) -> &mut Metadata {
        self.metadata.as_mut().expect("a quorum decides")
    }

    /// The same, to look at.
    pub fn decided(&self) -> &Metadata {
        self.metadata.as_ref().expect("a quorum decides")
    }

    /// Proposes records, or a change of the members, and what is to be done then.
    pub fn propose_at(&mut self, slot: usize, records: Vec<Record>, then: Then) {
        let ticket = self.ticket(slot, &records, then);
        self.tell(slot, Event::Propose { ticket, records });
    }

    pub fn ticket(&mut self, slot: usize, records: &[Record], then: Then) -> Ticket {
        let metadata = self.metadata();
        metadata.next_ticket += 1;
        let ticket = Ticket(metadata.next_ticket);
        let proposal = Proposal { slot, records: records.to_vec(), topology: 0 };
        metadata.quorum.watch.proposals.insert(ticket, proposal);
        metadata.desks[slot].waiting.insert(ticket, then);
        ticket
    }

    /// A process is gone.
    pub fn quorum_crashes(&mut self, id: usize) {
        let Some(metadata) = &mut self.metadata else { return };
        let (slot, now) = (slot(id), self.world.now());
        let loses_power = self.world.one_in(2);
        metadata.quorum.crash(slot, loses_power);
        metadata.desks[slot] = Desk::new(&metadata.settings, now);
    }

    /// A leader of a partition asks whoever decides.
    pub fn ask_quorum(&mut self, id: usize, message: &PeerMessage) {
        let PeerMessage::AlterPartitions(request) = message else {
            unreachable!("nodes say the rest themselves")
        };
        let payload = encode_alter_partitions(request);
        let kind = (QuestionKind::AlterPartitions, 0);
        self.ask_for(id, kind, payload, Effort::Repeated, move |scene, code, payload| {
            if code == ErrorCode::None {
                let altered = decode_altered_partitions(&payload).expect("what was encoded");
                scene.altered(id, &altered);
            }
        });
    }

    /// What the node has applied is what it goes by, once it is registered.
    pub fn go_by_image(&mut self, slot: usize) {
        let metadata = self.metadata();
        let Some(running) = metadata.quorum.all[slot].running.as_ref() else { return };
        let (image, version) = (running.image.clone(), running.applied);
        self.go_by(slot, &image, version);
    }

    fn go_by(&mut self, slot: usize, image: &Image, version: u64) {
        let id = id(slot);
        let node = NodeId(id as i32);
        let broker_epoch = self.own_registration(slot, image).map(|node| node.broker_epoch);
        self.nodes[id].broker_epoch = broker_epoch;
        if !self.decided().desks[slot].is_serving() {
            return;
        }
        let known = Rc::new(self.metadata().known(image, version));
        let gone = self.nodes[id].partitions_where(|_| true);
        let gone: Vec<usize> =
            gone.into_iter().filter(|partition| !known.partitions.contains_key(partition)).collect();
        self.nodes[id].image = known;
        for partition in gone {
            self.world.note(format_args!("{node:?} deletes {partition}"));
            self.lose_replica(id, partition);
        }
        self.take_roles(id);
    }

    /// The node in an image, if it is there as this process.
    pub fn own_registration<'a>(&self, slot: usize, image: &'a Image) -> Option<&'a NodeRecord> {
        let id = id(slot);
        let process = incarnation(id, self.nodes[id].run);
        image.node(NodeId(id as i32)).filter(|node| node.incarnation == process)
    }

    // --- What is decided

    fn is_decided(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::PartitionCreated { id, state } => {
                    let number = number_of(*id);
                    self.world.count("topic: created");
                    self.world.note(format_args!("partition {number}: {:?}", state.leadership()));
                    self.watch.begins(number);
                    self.controller.partitions.insert(number, state.leadership());
                    if state.in_sync.iter().all(|node| self.nodes[node.0 as usize].is_empty) {
                        self.world.count("topic: made on lost disks");
                        self.metadata().stillborn.insert(number);
                    }
                    self.coordinated_topic_is_made(id.topic, number);
                    self.start_clients_of(number);
                }
                Record::PartitionChanged { id, state } => {
                    let number = number_of(*id);
                    let next = state.leadership();
                    if let Some(before) = self.controller.partitions.get(&number) {
                        self.count_reassignment(before, &next);
                        self.check_change(number, before, &next);
                        if next.is_unclean_after(before) || is_cancelled_uncleanly(before, &next) {
                            self.check_unclean(number, before);
                            self.is_led_uncleanly(number, &next);
                        }
                        self.take_leadership(number, next);
                    }
                }
                Record::TopicDeleted { topic } => {
                    self.world.count("topic: deleted");
                    let first = TopicPartition { topic: *topic, ..partition_id(0) };
                    self.controller.partitions.remove(&number_of(first));
                    self.watch.ends(number_of(first));
                    self.metadata().stillborn.remove(&number_of(first));
                }
                Record::NodeRegistered(node) => self.is_registered(node),
                _ => {}
            }
            let metadata = self.metadata();
            metadata.image.apply(record).expect("it was applied to another image like it");
        }
        let metadata = self.metadata.as_mut().expect("a quorum decides");
        let image = std::mem::take(&mut metadata.image);
        let known = metadata.known(&image, metadata.decided);
        self.controller.members = image.members();
        self.controller.in_sync_min = known.in_sync_min.clone();
        self.controller.image = Rc::new(known);
        metadata.image = image;
        self.check_leaders_unfenced();
        self.check_all_members();
    }

    /// Of a change in parts the node's own comes last.
    fn check_leaders_unfenced(&self) {
        if self.decided().settings.part < PART_WHOLE {
            return;
        }
        for (partition, leadership) in &self.controller.partitions {
            let leader = leadership.leader.and_then(|leader| self.controller.members.get(leader));
            if leader.is_some_and(|leader| leader.is_fenced) {
                self.world.finding(check::FENCED, format_args!("partition {partition}: {leadership:?}"));
            }
        }
    }

    /// Of a partition, whatever has led to it.
    fn check_change(&self, partition: usize, before: &Leadership, next: &Leadership) {
        let is_replica = |node: &NodeId| next.replicas.contains(node);
        if !next.in_sync.iter().chain(&next.eligible_leaders).all(is_replica) {
            self.world.finding(check::REPLICAS, format_args!("partition {partition}: {next:?}"));
        }
        let goes = |node: &NodeId| !is_replica(node) && !before.adding.contains(node);
        let has_gone = before.replicas.iter().any(goes);
        if has_gone && !next.replicas.iter().all(|node| next.in_sync.contains(node)) {
            self.world.finding(check::COMPLETED, format_args!("partition {partition}: {before:?}, {next:?}"));
        }
    }

    /// Somebody is elected who may lack something.
    fn check_unclean(&self, partition: usize, before: &Leadership) {
        let metadata = self.decided();
        let topic = metadata.image.topic(partition_id(partition).topic);
        let allows = topic.and_then(|topic| topic.config.get("unclean.leader.election.enable"));
        let is_asked = metadata.asked_uncleanly.contains(&partition);
        if allows.map(String::as_str) != Some("true") && !is_asked {
            return self
                .world
                .finding(check::WANTED, format_args!("partition {partition}, before: {before:?}"));
        }
        // Less than half a session ago it has registered, and the one that decides has seen that.
        let since = metadata.quorum.leader().map(|slot| metadata.desks[slot].leading_since);
        let is_coming = |id: &NodeId| {
            let node = metadata.image.node(*id).filter(|node| node.is_fenced && !node.is_shutting_down);
            let registered = metadata.registered.get(&(id.0 as usize)).copied().unwrap_or(0);
            let is_new = self.world.now() - registered < self.settings.session_max / 2;
            node.is_some() && is_new && since.is_some_and(|since| since < registered)
        };
        let coming = before.in_sync.iter().chain(&before.eligible_leaders).find(|node| is_coming(node));
        if let Some(coming) = coming.filter(|_| !is_asked) {
            let what = format!("partition {partition}: {coming:?} is coming, before: {before:?}");
            self.world.finding(check::WAITED_FOR, format_args!("{what}"));
        }
    }

    fn is_registered(&mut self, node: &NodeRecord) {
        let known = self.decided().image.node(node.id);
        if let Some(known) = known.filter(|known| known.incarnation > node.incarnation) {
            self.world.finding(check::LATEST, format_args!("{node:?} takes the place of {known:?}"));
        }
        let before = known.map(|node| (node.broker_epoch, node.is_fenced));
        let id = node.id.0 as usize;
        if before.map(|(epoch, _)| epoch) == Some(node.broker_epoch) {
            match (before, node.is_fenced) {
                (Some((_, false)), true) => self.world.count("node: fenced"),
                (Some((_, true)), false) => self.world.count("node: unfenced"),
                _ if node.is_shutting_down => self.world.count("node: begins to stop"),
                _ => {}
            }
            return;
        }
        if before.is_some_and(|(_, is_fenced)| !is_fenced) {
            self.world.count("restart: before it was missed");
        }
        self.world.note(format_args!("node {id} is registered as {:?}", node.broker_epoch));
        let now = self.world.now();
        self.metadata().registered.insert(id, now);
        // This process has said what it lacks.
        if self.nodes[id].is_up && node.incarnation == incarnation(id, self.nodes[id].run) {
            self.nodes[id].replicas.values_mut().for_each(|replica| replica.log.is_lost = false);
        }
    }

    // --- Messages

    /// When copies of what goes from one node to another arrive.
    pub fn arrivals(&self, from: usize, to: usize) -> Vec<Micros> {
        if self.network.is_cut(from, to) {
            self.world.count("quorum: not through");
            return Vec::new();
        }
        let latency = self.latency();
        match self.is_calm {
            true => vec![latency],
            false => network::arrivals(&self.world, &self.decided().quorum.settings, latency),
        }
    }

    fn send_to_member(&mut self, from: usize, message: Message) {
        let to = slot_of(message.to).expect("a node of this seed");
        self.metadata().quorum.watch.sent(&message);
        let (kind, start) = (message.kind(), self.decided().quorum.all[from].starts);
        let peer = message.to;
        let arrivals = self.arrivals(id(from), id(to));
        if arrivals.is_empty() {
            return self.not_delivered(from, start, peer, kind);
        }
        let bytes = message.encode();
        for delay in arrivals {
            let bytes = bytes.clone();
            self.after(delay, move |scene| {
                let node = &scene.nodes[id(to)];
                if scene.network.is_cut(id(from), id(to)) || !node.is_up {
                    return scene.not_delivered(from, start, peer, kind);
                }
                let run = node.run;
                scene.at_node(id(to), run, move |scene| {
                    let message = Message::decode(&bytes).expect("a message of ours");
                    scene.hears_member(to, message);
                    scene.delivered(from, start, peer, kind, true);
                });
            });
        }
    }

    fn hears_member(&mut self, slot: usize, message: Message) {
        let now = self.world.now();
        let metadata = self.metadata();
        let is_member = |peer: PeerId| {
            metadata.quorum.all[slot].quorum().is_some_and(|quorum| quorum.members().contains(peer))
        };
        if is_member(message.from) {
            metadata.desks[slot].heard.insert(message.from, now);
        }
        self.tell(slot, Event::Received(message));
    }

    fn not_delivered(&mut self, from: usize, start: u64, to: PeerId, kind: MessageKind) {
        self.delivered(from, start, to, kind, false);
        if kind != MessageKind::Snapshot && self.world.one_in(4) {
            let delay = self.world.below(200_000);
            self.later(delay, from, start, Due::Report(Box::new(Event::Unreachable(to))));
        }
    }

    /// Whoever sends a snapshot is told what became of it.
    fn delivered(&mut self, from: usize, start: u64, to: PeerId, kind: MessageKind, delivered: bool) {
        if kind == MessageKind::Snapshot {
            self.world.count(if delivered { "snapshot: arrived" } else { "snapshot: lost" });
            let delay = self.world.below(20_000);
            self.later(delay, from, start, Due::Report(Box::new(Event::SnapshotSent { to, delivered })));
        }
    }
}

impl Shell for Scene {
    fn quorum(&mut self) -> &mut Nodes {
        &mut self.metadata().quorum
    }

    fn later(&mut self, delay: Micros, slot: usize, start: u64, due: Due) {
        let (id, run) = (id(slot), self.nodes[id(slot)].run);
        // The disk goes on while the process is stopped.
        let is_disk = matches!(due, Due::Written);
        let go_on = move |scene: &mut Scene| {
            if scene.decided().quorum.is_running(slot, start) {
                scene.comes_to(slot, start, due);
            }
        };
        match is_disk {
            true => self.after(delay, go_on),
            false => self.after(delay, move |scene| scene.at_node(id, run, go_on)),
        }
    }

    fn transmit(&mut self, slot: usize, message: Message) {
        self.send_to_member(slot, message);
    }

    /// In its turn: what follows from it comes behind everything else that this step has led to.
    fn answered(&mut self, slot: usize, ticket: Ticket, outcome: Outcome) {
        self.world.note(format_args!("{ticket:?}: {outcome:?}"));
        let metadata = self.metadata();
        let Some(proposal) = metadata.quorum.watch.proposals.remove(&ticket) else { return };
        if let Outcome::Committed { index } = outcome {
            metadata.quorum.watch.acknowledged(&proposal, index);
        }
        self.after_at(0, id(slot), move |scene| {
            if let Some(then) = scene.metadata().desks[slot].waiting.remove(&ticket) {
                then(scene, outcome);
            }
        });
    }

    fn has_applied(&mut self, slot: usize, records: &[Record]) {
        let applied = self.decided().applied(slot);
        if applied > self.decided().decided {
            self.metadata().decided = applied;
            if !records.is_empty() {
                self.is_decided(records);
            }
        }
        if !records.is_empty() {
            self.go_by_image(slot);
            self.may_elect_after(slot, records);
        }
    }

    /// What this node has to let go is gone before it comes again; nobody takes a role of in between.
    fn has_restored(&mut self, slot: usize, before: Image) {
        let metadata = self.metadata();
        let Some(running) = metadata.quorum.all[slot].running.as_ref() else { return };
        let (after, version) = (running.image.clone(), running.applied);
        let gone = replicas_gone(&before, &after, Some(NodeId(id(slot) as i32)));
        let mut without = before;
        gone.iter().for_each(|record| without.apply(record).expect("it takes a replica away"));
        if !gone.is_empty() {
            self.go_by(slot, &without, version);
        }
        for record in difference(&without, &after) {
            without.apply(&record).expect("it leads to an image of the same log");
        }
        if without != after {
            self.world.finding(
                crate::quorum::settings::check::IMAGES,
                format_args!("what a snapshot changes does not lead to it"),
            );
        }
        self.go_by(slot, &after, version);
    }

    fn begins_to_lead(&mut self, slot: usize, term: u64) {
        self.leads_quorum(slot, term);
    }

    fn follows(&mut self, slot: usize, leader: Option<PeerId>) {
        let desk = &mut self.metadata().desks[slot];
        desk.is_leading = false;
        if leader.is_some() {
            desk.led = leader;
        }
    }
}

impl Metadata {
    pub fn makes(&self, mistake: Mistake) -> bool {
        self.settings.mistake == Some(mistake)
    }
}

/// Whoever leads lacks something: a reassignment was cancelled that was about to take its leader away as well.
fn is_cancelled_uncleanly(before: &Leadership, next: &Leadership) -> bool {
    let had_all = |node: &NodeId| before.in_sync.contains(node) || before.eligible_leaders.contains(node);
    let is_complete = next.replicas.iter().all(|node| next.in_sync.contains(node));
    next.leader.is_some() && before.leader != next.leader && !next.in_sync.iter().any(had_all) && !is_complete
}
