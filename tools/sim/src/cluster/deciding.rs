//! What the node that leads the quorum decides, as `odradek::shard` carries it out: one thing after the other, each
//! on an image that has the one before.

use crate::cluster::asking::Reply;
use crate::cluster::coordinators::topics::internal_topic;
use crate::cluster::metadata::{Metadata, id};
use crate::cluster::settings::{Mistake, Settings};
use crate::quorum::shell::Shell;
use crate::replication::scene::Scene;
use crate::world::{MS, Micros, S};
use odradek::cluster::brokers::Brokers;
use odradek::cluster::decide::{
    self, decide_alter_partitions, decide_alter_reassignments, decide_create_internal, decide_create_topics,
    decide_delete_topics, decide_elect_leaders, decide_incremental_alter_configs,
};
use odradek::cluster::elections::{Leaderless, elect_leaderless, elect_preferred, may_elect_after};
use odradek::cluster::heartbeats::Heartbeats;
use odradek::cluster::image::Image;
use odradek::cluster::lifecycle::{NodeChange, change_node, may_change_in_sync_min, settle_eligible};
use odradek::cluster::placement::DirectoryChoice;
use odradek::cluster::quorum::members::{ChangeRejected, MemberChange, PeerId};
use odradek::cluster::quorum::{Event, Outcome, ProposalRejected, Ticket};
use odradek::cluster::record::{Node, Record};
use odradek::cluster::registration::{RegistrationRefused, Start, register};
use odradek::codec::control::{AlterPartitions, AlteredPartition, Heartbeat, HeartbeatAnswer};
use odradek::codec::error_code::ErrorCode;
use odradek::types::{BrokerEpoch, Mono, NodeId, TopicId, Uuid};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What is to be done once a proposal has an outcome.
pub type Then = Box<dyn FnOnce(&mut Scene, Outcome)>;

/// What waits for its turn; it ends with the turn given back.
type Job = Box<dyn FnOnce(&mut Scene, usize)>;

/// What a request leads to: records to commit, and the answer once they are.
type Decision = (Vec<Record>, Vec<u8>);

/// Between two looks at what is due.
const LOOK: Micros = 50 * MS;

/// After which a member that has said nothing is taken for gone.
const SILENCE_MAX: Micros = 3 * S;

/// Voters beyond which nobody gets a vote.
const VOTERS_WANTED: usize = 3;

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    CatchingUp,
    Registering,
    Serving,
}

/// Lives: one per process.
pub struct Desk {
    pub stage: Stage,
    /// It leads the quorum, and has applied everything that was committed before.
    pub is_leading: bool,
    pub leading_since: Micros,
    /// When each member said something last.
    pub heard: BTreeMap<PeerId, Micros>,
    pub heartbeats: Heartbeats,
    /// The registration of this node that the leader has told of.
    pub told: Option<BrokerEpoch>,
    /// The last one that led, if it was another one.
    pub led: Option<PeerId>,
    pub wants_shut_down: bool,
    pub started: Option<Start>,
    pub waiting: BTreeMap<Ticket, Then>,
    /// It looks at what is due, again and again while it leads.
    is_looking: bool,
    leaderless_due: bool,
    balanced: Micros,
    jobs: VecDeque<Job>,
    has_turn: bool,
    /// Questions that are not answered yet.
    pub asking: BTreeMap<u64, crate::cluster::asking::Asking>,
    pub next_question: u64,
}

impl Desk {
    pub fn new(settings: &Settings, now: Micros) -> Desk {
        let session = Duration::from_micros(settings.replication.session_max);
        Desk {
            stage: Stage::CatchingUp,
            is_leading: false,
            leading_since: now,
            heard: BTreeMap::new(),
            heartbeats: Heartbeats::new(session, Mono(now * 1000)),
            told: None,
            led: None,
            wants_shut_down: false,
            started: None,
            waiting: BTreeMap::new(),
            is_looking: false,
            leaderless_due: false,
            balanced: now,
            jobs: VecDeque::new(),
            has_turn: false,
            asking: BTreeMap::new(),
            next_question: 0,
        }
    }

    pub fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }
}

/// What is asked of whoever decides.
pub enum Request {
    AlterPartitions(AlterPartitions),
    CreateTopics(kafka_protocol::messages::CreateTopicsRequest),
    DeleteTopics(kafka_protocol::messages::DeleteTopicsRequest),
    ElectLeaders(kafka_protocol::messages::ElectLeadersRequest),
    AlterReassignments(kafka_protocol::messages::AlterPartitionReassignmentsRequest),
    IncrementalAlterConfigs(kafka_protocol::messages::IncrementalAlterConfigsRequest),
    RemoveVoter(PeerId),
}

/// As a client is told of it.
fn code_of(outcome: Outcome) -> ErrorCode {
    match outcome {
        Outcome::Committed { .. } => ErrorCode::None,
        Outcome::Refused(
            ProposalRejected::NotLeader { .. } | ProposalRejected::NotReady | ProposalRejected::HandingOver,
        ) => ErrorCode::NotController,
        Outcome::Unknown
        | Outcome::Refused(
            ProposalRejected::Busy
            | ProposalRejected::Members(ChangeRejected::Pending | ChangeRejected::Behind { .. }),
        ) => ErrorCode::RequestTimedOut,
        Outcome::Refused(_) => ErrorCode::KafkaStorageError,
    }
}

impl Scene {
    fn image_at(&self, slot: usize) -> &Image {
        self.decided().image_of(slot).expect("it runs")
    }

    // --- Turns

    pub fn in_turn(&mut self, slot: usize, job: impl FnOnce(&mut Scene, usize) + 'static) {
        self.metadata().desks[slot].jobs.push_back(Box::new(job));
        self.next_turn(slot);
    }

    fn next_turn(&mut self, slot: usize) {
        let desk = &mut self.metadata().desks[slot];
        if desk.has_turn {
            return;
        }
        let Some(job) = desk.jobs.pop_front() else { return };
        desk.has_turn = true;
        job(self, slot);
    }

    fn end_turn(&mut self, slot: usize) {
        self.metadata().desks[slot].has_turn = false;
        self.after_at(0, id(slot), move |scene| scene.next_turn(slot));
    }

    /// Records of which each makes sense without those behind it, in parts.
    fn commit_all(
        &mut self,
        slot: usize,
        mut records: Vec<Record>,
        then: impl FnOnce(&mut Scene, ErrorCode) + 'static,
    ) {
        if records.is_empty() {
            return then(self, ErrorCode::None);
        }
        let part = self.decided().settings.part.min(records.len());
        let rest = records.split_off(part);
        if !rest.is_empty() {
            self.world.count("controller: a change in parts");
        }
        let then = move |scene: &mut Scene, outcome| match code_of(outcome) {
            ErrorCode::None => scene.commit_all(slot, rest, then),
            code => then(scene, code),
        };
        self.propose_at(slot, records, Box::new(then));
    }

    fn commit(
        &mut self,
        slot: usize,
        records: Vec<Record>,
        then: impl FnOnce(&mut Scene, ErrorCode) + 'static,
    ) {
        if records.is_empty() {
            return then(self, ErrorCode::None);
        }
        self.propose_at(slot, records, Box::new(move |scene, outcome| then(scene, code_of(outcome))));
    }

    // --- Requests

    /// Carries out one request, after those before it.
    pub fn execute(&mut self, slot: usize, request: Request, reply: Reply) {
        if let Request::RemoveVoter(peer) = request {
            return self.change_members(slot, MemberChange::Remove(peer), move |scene, outcome| {
                reply(scene, code_of(outcome), Vec::new());
            });
        }
        self.in_turn(slot, move |scene, slot| {
            if !scene.decided().is_leading(slot) {
                scene.end_turn(slot);
                return reply(scene, ErrorCode::NotController, Vec::new());
            }
            let (mut records, answer) = scene.decide(slot, &request);
            records.extend(scene.eligible_after(slot, &records));
            if scene.decided().makes(Mistake::AnsweredBeforeCommitted) {
                reply(scene, ErrorCode::None, answer);
                return scene.commit(slot, records, move |scene, _| scene.end_turn(slot));
            }
            scene.commit(slot, records, move |scene, code| {
                scene.end_turn(slot);
                reply(scene, code, answer);
            });
        });
    }

    /// What becomes of eligible replicas where another number has to be in sync.
    fn eligible_after(&self, slot: usize, records: &[Record]) -> Vec<Record> {
        if !records.iter().any(may_change_in_sync_min) {
            return Vec::new();
        }
        let mut after = self.image_at(slot).clone();
        records.iter().for_each(|record| after.apply(record).expect("it was decided on this image"));
        settle_eligible(&after, &self.decided().defaults)
    }

    fn decide(&mut self, slot: usize, request: &Request) -> Decision {
        let metadata = self.metadata();
        let next_partition = metadata.next_partition;
        let Metadata { quorum, config, defaults, settings, .. } = metadata;
        let image = &quorum.all[slot].running.as_ref().expect("it runs").image;
        let node = NodeId(id(slot) as i32);
        let brokers = Brokers::new(image, node);
        let one = DirectoryChoice::One;
        let view = decide::Controller {
            image,
            brokers: &brokers,
            config,
            defaults,
            log_dirs: (node, &one),
            mutations: None,
        };
        match request {
            Request::AlterPartitions(asked) => {
                let mut asked = asked.clone();
                settings.mistake_proposal(image, &mut asked);
                let (records, altered) = decide_alter_partitions(view, &asked);
                let records = match settings.mistake {
                    Some(Mistake::ReassignedTooEarly) => complete_early(records),
                    Some(Mistake::RemovedInSync) => keep_removed(image, records),
                    _ => records,
                };
                let answer = odradek::codec::control::encode_altered_partitions(&altered);
                self.count_alterations(&altered);
                (records, answer)
            }
            Request::CreateTopics(request) => {
                let topic = crate::replication::scene::partition_id(next_partition).topic;
                let mut new_topic_id = || topic;
                let name = request.topics.first().map_or("", |topic| topic.name.as_str());
                let (records, code) = match internal_topic(name) {
                    // No client can make those: a node asks for them that needs them.
                    Some(topic) => {
                        let (records, refused) = decide_create_internal(view, &topic, &mut new_topic_id);
                        (records, refused.into_values().next().map_or(0, ErrorCode::code))
                    }
                    None => {
                        let (records, response) = decide_create_topics(view, request, &mut new_topic_id);
                        (records, response.topics.first().map_or(0, |topic| topic.error_code))
                    }
                };
                if !records.is_empty() {
                    metadata.next_partition += 1;
                }
                (records, code.to_be_bytes().to_vec())
            }
            Request::DeleteTopics(request) => {
                let (records, response) = decide_delete_topics(view, request, 6);
                let code = response.responses.first().map_or(0, |topic| topic.error_code);
                (records, code.to_be_bytes().to_vec())
            }
            Request::ElectLeaders(request) => {
                let (records, response) = decide_elect_leaders(view, request);
                let results = response.replica_election_results.first();
                let code = results.and_then(|topic| topic.partition_result.first());
                (records, code.map_or(0, |result| result.error_code).to_be_bytes().to_vec())
            }
            Request::AlterReassignments(request) => {
                let (records, response) = decide_alter_reassignments(view, request);
                let results = response.responses.first().and_then(|topic| topic.partitions.first());
                (records, results.map_or(0, |result| result.error_code).to_be_bytes().to_vec())
            }
            Request::IncrementalAlterConfigs(request) => {
                let (records, response) = decide_incremental_alter_configs(view, request);
                let code = response.responses.first().map_or(0, |resource| resource.error_code);
                (records, code.to_be_bytes().to_vec())
            }
            Request::RemoveVoter(_) => unreachable!("it changes no records"),
        }
    }

    fn count_alterations(&self, altered: &[AlteredPartition]) {
        use odradek::codec::control::{AlterOutcome, AlterRefusal};
        for altered in altered {
            let AlterOutcome::Refused { reason, .. } = &altered.outcome else { continue };
            self.world.count(match reason {
                AlterRefusal::StaleBrokerEpoch => "alter: StaleBrokerEpoch",
                AlterRefusal::NotController => "alter: NotController",
                AlterRefusal::FencedLeaderEpoch => "alter: FencedLeaderEpoch",
                AlterRefusal::InvalidUpdateVersion => "alter: InvalidUpdateVersion",
                AlterRefusal::InvalidRequest => "alter: InvalidRequest",
                AlterRefusal::IneligibleReplica => "alter: IneligibleReplica",
                AlterRefusal::UnknownPartition => "alter: UnknownPartition",
            });
        }
    }

    // --- Members

    pub fn change_members(
        &mut self,
        slot: usize,
        change: MemberChange,
        then: impl FnOnce(&mut Scene, Outcome) + 'static,
    ) {
        let ticket = self.ticket(slot, &[], Box::new(then));
        self.tell(slot, Event::ChangeMembers { ticket, change });
    }

    /// An observer that has caught up, if one more voter is good to have.
    fn next_voter(&self, slot: usize) -> Option<PeerId> {
        if !self.decided().is_leading(slot) {
            return None;
        }
        let now = self.world.now();
        let desk = &self.decided().desks[slot];
        let quorum = self.decided().quorum.all[slot].quorum()?;
        let (members, progress) = (quorum.members(), quorum.progress());
        let is_heard = |peer: &PeerId| {
            desk.heard.get(peer).is_some_and(|heard| now.saturating_sub(*heard) < SILENCE_MAX)
        };
        let is_ready = |peer: &&PeerId| {
            is_heard(peer) && progress.get(*peer).is_some_and(|flushed| *flushed >= quorum.committed())
        };
        let mut ready = members.observers.iter().filter(is_ready);
        let voters = members.voters.len();
        let first = ready.next().filter(|_| voters < VOTERS_WANTED)?;
        let is_odd_again = voters.is_multiple_of(2) || ready.next().is_some();
        is_odd_again.then_some(*first)
    }

    pub fn promote(&mut self, slot: usize) {
        self.after_at(500 * MS, id(slot), move |scene| scene.promote(slot));
        if self.next_voter(slot).is_some() {
            self.in_turn(slot, |scene, slot| scene.promote_one(slot));
        }
    }

    fn promote_one(&mut self, slot: usize) {
        let Some(peer) = self.next_voter(slot) else { return self.end_turn(slot) };
        self.change_members(slot, MemberChange::AddVoter(peer), move |scene, outcome| match outcome {
            Outcome::Committed { .. } => {
                scene.world.count("members: voter added");
                scene.promote_one(slot);
            }
            _ => scene.end_turn(slot),
        });
    }

    // --- Registrations

    /// What a start adds to the metadata as they are here.
    pub fn registration(&self, slot: usize, start: &Start) -> Result<Vec<Record>, RegistrationRefused> {
        let metadata = self.decided();
        let mut start = start.clone();
        let image = self.image_at(slot);
        if metadata.makes(Mistake::AnyRegistrationReplaced) {
            start.replaces = image.node(start.node.id).map(|node| node.broker_epoch);
        }
        let mut records = register(image, &start, &metadata.defaults, Uuid::nil())?;
        if metadata.makes(Mistake::EpochNotFenced)
            && let (Some(before), Some(Record::NodeRegistered(node))) =
                (image.node(start.node.id), records.last_mut())
        {
            node.is_fenced = before.is_fenced;
            records.retain(|record| matches!(record, Record::NodeRegistered(_)));
        }
        Ok(records)
    }

    /// Registers this node, as the leader.
    pub fn register_self(&mut self, slot: usize, start: Start) {
        self.in_turn(slot, move |scene, slot| match scene.registration(slot, &start) {
            Ok(records) if scene.decided().is_leading(slot) => {
                scene.commit_all(slot, records, move |scene, _| scene.end_turn(slot));
            }
            Ok(_) | Err(_) => scene.end_turn(slot),
        });
    }

    /// Registers another node, as the leader, and makes it a member.
    pub fn register_other(&mut self, slot: usize, peer: PeerId, start: Start, reply: Reply) {
        self.in_turn(slot, move |scene, slot| {
            if !scene.decided().is_leading(slot) {
                scene.end_turn(slot);
                return reply(scene, ErrorCode::NotController, Vec::new());
            }
            let quorum = scene.decided().quorum.all[slot].quorum().expect("it leads");
            let members = quorum.members().clone();
            let change = MemberChange::AddObserver(peer);
            let is_member = members.contains(peer);
            if !is_member && members.check(change).is_err() {
                scene.world.count("node: registration refused, another directory");
                scene.end_turn(slot);
                return reply(scene, ErrorCode::InvalidRequest, Vec::new());
            }
            let records = match scene.registration(slot, &start) {
                Ok(records) => records,
                Err(refused) => {
                    scene.end_turn(slot);
                    let code = match refused {
                        RegistrationRefused::ReplacesAnother(_) => ErrorCode::DuplicateBrokerRegistration,
                        _ => ErrorCode::InvalidRequest,
                    };
                    return reply(scene, code, Vec::new());
                }
            };
            let node = start.node.id;
            scene.commit_all(slot, records, move |scene, code| {
                if code != ErrorCode::None {
                    scene.end_turn(slot);
                    return reply(scene, code, Vec::new());
                }
                scene.node_changed(slot, node);
                if is_member {
                    scene.end_turn(slot);
                    return reply(scene, code, Vec::new());
                }
                scene.change_members(slot, change, move |scene, outcome| {
                    scene.end_turn(slot);
                    if let Outcome::Committed { .. } = outcome {
                        scene.world.count("members: observer added");
                    }
                    reply(scene, code_of(outcome), Vec::new());
                });
            });
        });
    }

    // --- Nodes

    /// As the leader.
    pub fn hear(&mut self, slot: usize, heartbeat: &Heartbeat) -> HeartbeatAnswer {
        let now = self.mono();
        let Metadata { quorum, desks, .. } = self.metadata();
        let image = &quorum.all[slot].running.as_ref().expect("it runs").image;
        desks[slot].heartbeats.heard(image, heartbeat, now)
    }

    fn due_changes(&mut self, slot: usize) -> Vec<(NodeId, BrokerEpoch, NodeChange)> {
        let now = self.mono();
        let Metadata { quorum, desks, .. } = self.metadata();
        let image = &quorum.all[slot].running.as_ref().expect("it runs").image;
        desks[slot].heartbeats.due(image, now)
    }

    fn node_changed(&mut self, slot: usize, node: NodeId) {
        let now = self.mono();
        let Metadata { quorum, desks, .. } = self.metadata();
        let running = quorum.all[slot].running.as_ref().expect("it runs");
        desks[slot].heartbeats.changed(&running.image, node, now, running.applied);
    }

    /// Carries out what is due, while this node leads.
    fn look_around(&mut self, slot: usize) {
        if !self.decided().is_leading(slot) {
            self.metadata().desks[slot].is_looking = false;
            return;
        }
        self.after_at(LOOK, id(slot), move |scene| scene.look_around(slot));
        if !self.due_changes(slot).is_empty() {
            self.in_turn(slot, |scene, slot| {
                if !scene.decided().is_leading(slot) {
                    return scene.end_turn(slot);
                }
                let due = scene.due_changes(slot);
                scene.change_nodes(slot, due.into());
            });
        }
        if self.is_election_due(slot) {
            self.in_turn(slot, |scene, slot| scene.hold_elections(slot));
        }
    }

    fn change_nodes(&mut self, slot: usize, mut due: VecDeque<(NodeId, BrokerEpoch, NodeChange)>) {
        let Some((node, broker_epoch, change)) = due.pop_front() else { return self.end_turn(slot) };
        let metadata = self.decided();
        let mut records = change_node(self.image_at(slot), &metadata.defaults, (node, broker_epoch), &change);
        if metadata.makes(Mistake::FencedStaysInSync) && change == NodeChange::Fence {
            records.retain(|record| !matches!(record, Record::PartitionChanged { .. }));
        }
        self.commit_all(slot, records, move |scene, code| {
            if code != ErrorCode::None {
                return scene.end_turn(slot);
            }
            scene.node_changed(slot, node);
            scene.change_nodes(slot, due);
        });
    }

    // --- Leading

    pub fn leads_quorum(&mut self, slot: usize, term: u64) {
        let (now, mono) = (self.world.now(), self.mono());
        let Metadata { quorum, desks, .. } = self.metadata();
        let running = quorum.all[slot].running.as_ref().expect("it runs");
        if !running.quorum.is_leader() || running.quorum.term() != term {
            return;
        }
        let desk = &mut desks[slot];
        desk.is_leading = true;
        (desk.leading_since, desk.balanced, desk.leaderless_due) = (now, now, true);
        let before = desk.led.take().and_then(|peer| {
            let heard = *desk.heard.get(&peer)?;
            Some((peer.node(), Mono(heard * 1000)))
        });
        desk.heartbeats.begin(&running.image, mono, running.applied, before);
        if !std::mem::replace(&mut desk.is_looking, true) {
            let first = self.world.below(LOOK);
            self.after_at(first, id(slot), move |scene| scene.look_around(slot));
        }
    }

    pub fn may_elect_after(&mut self, slot: usize, records: &[Record]) {
        if records.iter().any(may_elect_after) {
            self.metadata().desks[slot].leaderless_due = true;
        }
    }

    fn is_election_due(&self, slot: usize) -> bool {
        let desk = &self.decided().desks[slot];
        self.decided().is_leading(slot) && (desk.leaderless_due || self.is_balance_due(slot))
    }

    fn is_balance_due(&self, slot: usize) -> bool {
        let since = self.world.now() - self.decided().desks[slot].balanced;
        since >= self.decided().settings.balance_every
    }

    fn hold_elections(&mut self, slot: usize) {
        if !self.is_election_due(slot) {
            return self.end_turn(slot);
        }
        if !std::mem::take(&mut self.metadata().desks[slot].leaderless_due) {
            return self.balance(slot);
        }
        let now = self.mono();
        let metadata = self.decided();
        let (heartbeats, defaults) = (&metadata.desks[slot].heartbeats, &metadata.defaults);
        let waits = !metadata.makes(Mistake::NobodyWaitedFor);
        let is_coming = |node: &Node| waits && heartbeats.is_coming(node, now);
        let image = self.image_at(slot);
        let Leaderless { records, is_waiting } = match metadata.makes(Mistake::AlwaysUnclean) {
            false => elect_leaderless(image, defaults, is_coming),
            true => elect_leaderless(&all_unclean(image), defaults, is_coming),
        };
        self.commit_all(slot, records, move |scene, code| {
            if is_waiting || code != ErrorCode::None {
                scene.metadata().desks[slot].leaderless_due = true;
            }
            match code {
                ErrorCode::None if scene.is_balance_due(slot) => scene.balance(slot),
                _ => scene.end_turn(slot),
            }
        });
    }

    fn balance(&mut self, slot: usize) {
        let records = elect_preferred(self.image_at(slot), &self.decided().defaults);
        if !records.is_empty() {
            self.world.count("controller: leaders go back to the preferred");
        }
        self.commit_all(slot, records, move |scene, code| {
            if code == ErrorCode::None {
                let now = scene.world.now();
                scene.metadata().desks[slot].balanced = now;
            }
            scene.end_turn(slot);
        });
    }
}

/// A mistake: every topic allows unclean elections.
fn all_unclean(image: &Image) -> Image {
    let mut image = image.clone();
    let topics: Vec<TopicId> = image.topics().map(|topic| topic.id).collect();
    for topic in topics {
        let (key, value) = ("unclean.leader.election.enable".to_owned(), Some("true".to_owned()));
        image.apply(&Record::TopicConfigSet { topic, key, value }).expect("it is there");
    }
    image
}

/// A mistake: who goes with a reassignment stays in sync.
fn keep_removed(image: &Image, records: Vec<Record>) -> Vec<Record> {
    let keep = |record| match record {
        Record::PartitionChanged { id, mut state } => {
            let before = image.partition(id).map_or(&[][..], |before| &before.in_sync);
            let gone = before.iter().filter(|node| state.replica_on(**node).is_none());
            state.in_sync.extend(gone.copied().collect::<Vec<_>>());
            Record::PartitionChanged { id, state }
        }
        record => record,
    };
    records.into_iter().map(keep).collect()
}

/// A mistake: a reassignment is over once anybody who comes is in sync.
fn complete_early(records: Vec<Record>) -> Vec<Record> {
    let complete = |record| match record {
        Record::PartitionChanged { id, mut state } if !state.adding.is_empty() => {
            let is_in_sync = state.adding.iter().any(|node| state.in_sync.contains(node));
            let leader_stays = state.leader.is_some_and(|leader| !state.removing.contains(&leader));
            if is_in_sync && leader_stays {
                let removing = std::mem::take(&mut state.removing);
                state.adding.clear();
                state.replicas.retain(|replica| !removing.contains(&replica.node));
                state.in_sync.retain(|node| !removing.contains(node));
                state.eligible_leaders.retain(|node| !removing.contains(node));
                state.leader_epoch.0 += 1;
            }
            Record::PartitionChanged { id, state }
        }
        record => record,
    };
    records.into_iter().map(complete).collect()
}
