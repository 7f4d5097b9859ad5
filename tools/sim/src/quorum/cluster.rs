//! All nodes of a seed, what is on its way between them, and what happens next.

use crate::quorum::network::Network;
use crate::quorum::node::{Kept, Node, founding, peer_of, slot_of};
use crate::quorum::settings::{ELECTION_TICKS, MS, Mistake, NODES, S, Settings, check};
use crate::quorum::shell::{Due, Nodes, Shell};
use crate::quorum::watch::Watch;
use crate::world::{Micros, World};
use odradek::cluster::log_entry::{EntrySequence, encode_entry};
use odradek::cluster::quorum::frame::{self, FOUNDING_INDEX};
use odradek::cluster::quorum::members::Members;
use odradek::cluster::quorum::message::{Message, MessageKind};
use odradek::cluster::quorum::{Effect, Event, Outcome, Quorum, Refusal, Ticket};
use odradek::cluster::record::{FEATURE_LEVEL, Record};
use odradek::types::{TopicId, Uuid};
use std::collections::BTreeMap;
use std::rc::Rc;

pub const CLUSTER: Uuid = Uuid::from_u128(0xC1);

/// What happens at some time. `start` names a process: what was meant for one that is gone goes with it.
pub(super) enum Happening {
    Due { slot: usize, start: u64, due: Due },
    Arrive { from: usize, to: usize, start: u64, bytes: Vec<u8>, kind: MessageKind },
    Start { slot: usize },
    Heal,
    Propose,
    Change,
    Fault,
    Calm,
    Look,
}

/// Lives: one per seed.
pub struct Cluster {
    pub(super) world: Rc<World>,
    pub(super) settings: Settings,
    pub(super) nodes: Nodes,
    pub(super) network: Network,
    pub(super) queue: BTreeMap<(Micros, u64), Happening>,
    next_happening: u64,
    pub(super) next_ticket: u64,
    pub(super) next_topic: u128,
    /// One more whenever a link or a process comes or goes.
    pub(super) topology: u64,
    /// A quorum of other people, with the same names.
    stranger: Quorum,
    /// When nothing goes wrong any more.
    pub(super) calm_from: Option<Micros>,
    /// The proposal that everybody has to have at the end.
    pub(super) last: Option<(Ticket, Option<u64>)>,
    pub(super) is_done: bool,
}

impl Cluster {
    pub fn new(world: &Rc<World>, settings: Settings) -> Cluster {
        let mut nodes: Vec<Node> = (0..NODES).map(Node::new).collect();
        let members = Members::voters((0..settings.voters).map(|slot| peer_of(slot, 0)));
        let mut records = vec![
            Record::ClusterCreated { cluster_id: CLUSTER },
            Record::FeatureLevelSet { level: FEATURE_LEVEL },
        ];
        let base = match settings.upgraded {
            Some(entries) => {
                let mut bytes = encode_entry(EntrySequence::FIRST, &records).expect("small");
                for sequence in 2..=entries {
                    let record = topic(u128::from(sequence) << 64);
                    bytes.extend(
                        encode_entry(EntrySequence(sequence), std::slice::from_ref(&record)).expect("small"),
                    );
                    records.push(record);
                }
                let kept = Kept::of(&frame::scan(&bytes, peer_of(0, 0)).recovered);
                nodes[0].install(bytes, kept);
                entries
            }
            None => {
                let (bytes, kept) = founding(&members, &records);
                nodes[..settings.voters]
                    .iter_mut()
                    .for_each(|node| node.install(bytes.clone(), kept.clone()));
                FOUNDING_INDEX
            }
        };
        world.count(match settings.voters {
            1 => "quorum of 1",
            3 => "quorum of 3",
            _ => "quorum of 5",
        });
        let watch = Watch::new(world, base, &records, &members);
        Cluster {
            world: world.clone(),
            settings,
            nodes: Nodes::new(world, settings, CLUSTER, nodes, watch),
            network: Network::default(),
            queue: BTreeMap::new(),
            next_happening: 0,
            next_ticket: 0,
            next_topic: 1,
            topology: 0,
            stranger: stranger(world.draw()),
            calm_from: None,
            last: None,
            is_done: false,
        }
    }

    pub async fn run(mut self) {
        for slot in 0..self.settings.voters {
            self.at(self.world.below(300 * MS), Happening::Start { slot });
        }
        let Settings { fault_every, propose_every, change_every, time, .. } = self.settings;
        self.at(propose_every, Happening::Propose);
        self.at(2 * S + change_every, Happening::Change);
        self.at(S + fault_every, Happening::Fault);
        self.at(time, Happening::Calm);
        while let Some(((time, _), happening)) = self.queue.pop_first() {
            let now = self.world.now();
            if time > now {
                self.world.sleep(time - now).await;
            }
            self.happen(happening);
            if self.is_done || self.world.has_findings() {
                break;
            }
        }
    }

    /// So much later.
    pub(super) fn at(&mut self, delay: Micros, happening: Happening) {
        self.queue.insert((self.world.now() + delay, self.next_happening), happening);
        self.next_happening += 1;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Due { slot, start, due } => {
                let may_wait = matches!(due, Due::Tick | Due::Flushed);
                if let Some(wait) = self.pause_of(slot, start).filter(|_| may_wait) {
                    return self.at(wait, Happening::Due { slot, start, due });
                }
                if self.nodes.is_running(slot, start) {
                    self.comes_to(slot, start, due);
                }
            }
            Happening::Arrive { from, to, start, bytes, kind } => self.arrive(from, to, start, bytes, kind),
            Happening::Start { slot } => self.start(slot),
            Happening::Heal => {
                self.topology += 1;
                self.network.heal();
            }
            Happening::Propose => {
                if self.calm_from.is_none() {
                    let every = self.settings.propose_every;
                    self.at(every / 2 + self.world.below(every), Happening::Propose);
                    self.propose_anywhere();
                }
            }
            Happening::Change => {
                if self.calm_from.is_none() {
                    let every = self.settings.change_every;
                    self.at(every / 2 + self.world.below(every), Happening::Change);
                    self.change_members();
                }
            }
            Happening::Fault => {
                if self.calm_from.is_none() {
                    let every = self.settings.fault_every;
                    self.at(every / 2 + self.world.below(every), Happening::Fault);
                    self.fault();
                }
            }
            Happening::Calm => self.become_calm(),
            Happening::Look => self.look(),
        }
    }

    /// How long a stopped process does not get to it.
    pub(super) fn pause_of(&self, slot: usize, start: u64) -> Option<Micros> {
        let wait = self.nodes.all[slot].paused_until.saturating_sub(self.world.now());
        (wait > 0 && self.nodes.is_running(slot, start)).then_some(wait)
    }

    pub(super) fn start(&mut self, slot: usize) {
        if self.nodes.all[slot].running.is_none() {
            self.topology += 1;
            self.start_process(slot);
        }
    }

    pub(super) fn crash(&mut self, slot: usize, loses_power: bool) {
        if self.nodes.all[slot].running.is_none() {
            return;
        }
        self.topology += 1;
        self.world.count(if loses_power { "crash: power lost" } else { "crash: killed" });
        self.nodes.crash(slot, loses_power);
    }

    /// Something of another cluster comes in.
    pub(super) fn hear_stranger(&mut self) {
        let mut effects = Vec::new();
        for _ in 0..4 * ELECTION_TICKS {
            self.stranger.step(Event::Tick, &mut effects);
        }
        let messages = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send(message) => Some(message),
            _ => None,
        });
        for mut message in messages {
            let Some(to) = slot_of(message.to).filter(|to| *to < NODES) else { continue };
            if self.settings.makes(Mistake::ClusterUnchecked) {
                message.cluster = CLUSTER;
            }
            let node = &mut self.nodes.all[to];
            let now = self.world.now();
            let Some(running) = node.running.as_mut().filter(|_| node.paused_until <= now) else { continue };
            message.to = node.peer;
            let mut effects = Vec::new();
            let before = (running.quorum.term(), running.quorum.last_index(), running.quorum.leader());
            running.quorum.step(Event::Received(message), &mut effects);
            let after = (running.quorum.term(), running.quorum.last_index(), running.quorum.leader());
            let is_refused =
                matches!(effects[..], [Effect::Refused { reason: Refusal::OtherCluster(_), .. }]);
            if before != after || !is_refused {
                let what = format!("{:?} takes them: {effects:?}", node.peer);
                self.world.finding(check::FOREIGN, format_args!("{what}"));
            }
            self.carry_out(to, effects);
        }
    }
}

impl Shell for Cluster {
    fn quorum(&mut self) -> &mut Nodes {
        &mut self.nodes
    }

    fn later(&mut self, delay: Micros, slot: usize, start: u64, due: Due) {
        self.at(delay, Happening::Due { slot, start, due });
    }

    fn transmit(&mut self, slot: usize, message: Message) {
        self.dispatch(slot, message);
    }

    fn answered(&mut self, slot: usize, ticket: Ticket, outcome: Outcome) {
        self.has_outcome(slot, ticket, outcome);
    }
}

pub(super) fn topic(number: u128) -> Record {
    Record::TopicCreated { topic: TopicId(Uuid::from_u128(number)), name: format!("topic-{number}") }
}

/// Of another cluster, whose terms are far ahead.
fn stranger(seed: u64) -> Quorum {
    let members = Members::voters((0..NODES).map(|slot| peer_of(slot, 0)));
    let (bytes, _) = founding(&members, &[]);
    let mut recovered = frame::scan(&bytes, peer_of(0, 0)).recovered;
    recovered.hard_state.term = 1000;
    let settings = Node::new(0).quorum_settings(&Settings::draw(0, None), seed);
    Quorum::start(Uuid::from_u128(0xC2), peer_of(0, 0), settings, recovered, &mut Vec::new())
}
