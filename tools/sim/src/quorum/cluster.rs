//! All nodes of a seed, what is on its way between them, and what happens next.

use crate::quorum::network::Network;
use crate::quorum::node::{CrashOf, Kept, Landed, Node, founding, peer_of, slot_of};
use crate::quorum::settings::{ELECTION_TICKS, MS, Mistake, NODES, S, Settings, TICK, check};
use crate::quorum::watch::Watch;
use crate::random::Random;
use crate::world::{Micros, World};
use odradek::cluster::image::Image;
use odradek::cluster::log_entry::{EntrySequence, Verdict, encode_entry};
use odradek::cluster::quorum::entry::Payload;
use odradek::cluster::quorum::frame::{self, FOUNDING_INDEX};
use odradek::cluster::quorum::members::{Members, PeerId};
use odradek::cluster::quorum::message::MessageKind;
use odradek::cluster::quorum::{Effect, Event, Persist, Quorum, Refusal, Ticket, Written};
use odradek::cluster::record::{FEATURE_LEVEL, Record};
use odradek::types::{TopicId, Uuid};
use std::collections::BTreeMap;
use std::rc::Rc;

pub const CLUSTER: Uuid = Uuid::from_u128(0xC1);

/// What happens at some time. `start` names a process: what was meant for one that is gone goes with it.
pub(super) enum Happening {
    Tick { slot: usize, start: u64 },
    Written { slot: usize, start: u64 },
    Flushed { slot: usize, start: u64 },
    Arrive { from: usize, to: usize, start: u64, bytes: Vec<u8>, kind: MessageKind },
    Report { slot: usize, start: u64, event: Event },
    TakeSnapshot { slot: usize, start: u64 },
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
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    /// What was flushed in directories that were lost: it has been told, and may count.
    pub(super) lost: BTreeMap<PeerId, Kept>,
    pub(super) watch: Watch,
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
    /// The image that a log goes on from is a leader's snapshot to nobody.
    is_starting: bool,
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
        Cluster {
            world: world.clone(),
            settings,
            nodes,
            network: Network::default(),
            lost: BTreeMap::new(),
            watch: Watch::new(world, base, &records, &members),
            queue: BTreeMap::new(),
            next_happening: 0,
            next_ticket: 0,
            next_topic: 1,
            topology: 0,
            stranger: stranger(world.draw()),
            calm_from: None,
            last: None,
            is_done: false,
            is_starting: false,
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
            Happening::Tick { slot, start } => {
                if let Some(wait) = self.pause_of(slot, start) {
                    return self.at(wait, Happening::Tick { slot, start });
                }
                if self.is_running(slot, start) {
                    self.at(TICK - 10 * MS + self.world.below(20 * MS), Happening::Tick { slot, start });
                    self.step(slot, Event::Tick);
                }
            }
            Happening::Written { slot, start } => {
                if self.is_running(slot, start) {
                    self.written(slot, start);
                }
            }
            Happening::Flushed { slot, start } => {
                if let Some(wait) = self.pause_of(slot, start) {
                    return self.at(wait, Happening::Flushed { slot, start });
                }
                if self.is_running(slot, start) {
                    self.flushed(slot);
                }
            }
            Happening::Arrive { from, to, start, bytes, kind } => self.arrive(from, to, start, bytes, kind),
            Happening::Report { slot, start, event } => {
                if self.is_running(slot, start) {
                    self.step(slot, event);
                }
            }
            Happening::TakeSnapshot { slot, start } => {
                if self.is_running(slot, start) {
                    self.world.count("snapshot: asked for");
                    let records = self.image_records(slot);
                    self.step(slot, Event::SnapshotTaken { records });
                }
            }
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

    pub(super) fn is_running(&self, slot: usize, start: u64) -> bool {
        self.nodes[slot].running.is_some() && self.nodes[slot].starts == start
    }

    /// How long a stopped process does not get to it.
    pub(super) fn pause_of(&self, slot: usize, start: u64) -> Option<Micros> {
        let wait = self.nodes[slot].paused_until.saturating_sub(self.world.now());
        (wait > 0 && self.is_running(slot, start)).then_some(wait)
    }

    pub(super) fn start(&mut self, slot: usize) {
        if self.nodes[slot].running.is_some() {
            return;
        }
        self.topology += 1;
        let node = &mut self.nodes[slot];
        let bytes = node.disk.read(0, node.disk.size() as usize);
        let scanned = frame::scan(&bytes, node.peer);
        let mut end = scanned.valid_end;
        match &scanned.verdict {
            Verdict::Clean => {}
            Verdict::TornTail { .. } => self.world.count("start: torn tail cut"),
            Verdict::Corrupt { .. } | Verdict::Unreadable { .. } => {
                let what = format!("{:?}: {:?}", node.peer, scanned.verdict);
                return self.world.finding(check::READABLE, format_args!("{what}"));
            }
        }
        if self.settings.makes(Mistake::TornTailKept) {
            end = bytes.len();
        } else {
            node.cut(end);
        }
        let mut recovered = scanned.recovered;
        let found = Kept::of(&recovered);
        match node.in_flight.take() {
            Some(in_flight) if found == in_flight && found != node.kept => {
                self.world.count("start: write in flight is there");
            }
            in_flight if found != node.kept => {
                let (peer, kept) = (node.peer, &node.kept);
                let what = format!("{peer:?} finds {found:?}, flushed was {kept:?}, in flight {in_flight:?}");
                return self.world.finding(check::RECOVERED, format_args!("{what}"));
            }
            Some(_) => self.world.count("start: write in flight is not there"),
            None => {}
        }
        node.kept = found;
        if recovered.upgraded {
            self.world.count("start: upgraded log");
        }
        if self.settings.makes(Mistake::MembersLost) && recovered.base.index > FOUNDING_INDEX {
            let first = self.settings.voters;
            recovered.base.members = Members::voters((0..first).map(|slot| peer_of(slot, 0)));
        }
        self.world.count("starts");
        let mut effects = Vec::new();
        let settings = node.quorum_settings(&self.settings, self.world.draw());
        let quorum = Quorum::start(CLUSTER, node.peer, settings, recovered.clone(), &mut effects);
        node.run(quorum, &recovered, end);
        let (peer, start) = (node.peer, node.starts);
        self.world.note(format_args!(
            "start {peer:?}, {} entries behind {:?}",
            recovered.entries.len(),
            recovered.base.index
        ));
        self.at(self.world.below(TICK), Happening::Tick { slot, start });
        self.is_starting = true;
        self.carry_out(slot, effects);
        self.is_starting = false;
    }

    pub(super) fn crash(&mut self, slot: usize, loses_power: bool) {
        if self.nodes[slot].running.is_none() {
            return;
        }
        self.topology += 1;
        self.world.count(if loses_power { "crash: power lost" } else { "crash: killed" });
        let mut dice = Random::new(self.world.draw());
        let node = &mut self.nodes[slot];
        node.paused_until = 0;
        let of = node.crash(loses_power, &mut dice);
        self.world.note(format_args!("crash {:?}, of {of:?}", node.peer));
        match of {
            CrashOf::Nothing | CrashOf::Write => {}
            CrashOf::Replaced => self.world.count("start: log replaced, as asked for"),
            CrashOf::NotReplaced => self.world.count("start: log not replaced yet"),
        }
        // Who asked it will never know.
        self.watch.proposals.retain(|_, proposal| proposal.slot != slot);
    }

    /// One event of a node, and everything that follows at once.
    pub(super) fn step(&mut self, slot: usize, event: Event) {
        let Some(running) = &mut self.nodes[slot].running else { return };
        let (was_leader, term) = (running.quorum.is_leader(), running.quorum.term());
        let mut effects = Vec::new();
        running.quorum.step(event, &mut effects);
        if was_leader && !running.quorum.is_leader() && running.quorum.term() == term {
            let is_voter = running.quorum.members().voters.contains(&running.quorum.me());
            self.world.count(if is_voter {
                "leader: made way"
            } else {
                "leader: removed by a change of another"
            });
        }
        self.carry_out(slot, effects);
    }

    fn carry_out(&mut self, slot: usize, effects: Vec<Effect>) {
        for effect in effects {
            self.carry_out_one(slot, effect);
        }
        self.begin_write(slot);
    }

    fn carry_out_one(&mut self, slot: usize, effect: Effect) {
        let peer = self.nodes[slot].peer;
        let start = self.nodes[slot].starts;
        match effect {
            Effect::Send(message) => self.send(slot, message),
            Effect::Persist(persist) => self.persist(slot, persist),
            Effect::Apply { index, term, records } => self.apply(slot, index, term, &records),
            Effect::Restore { index, records } => {
                self.world.note(format_args!("{peer:?} restores {index}"));
                if !self.is_starting {
                    self.world.count("snapshot: restored");
                }
                let Ok(image) = Image::rebuild(&records) else {
                    return self.world.finding(check::IMAGES, format_args!("a snapshot does not apply"));
                };
                self.watch.image(peer, index, &image);
                let Some(running) = &mut self.nodes[slot].running else { return };
                (running.image, running.applied) = (image, index);
            }
            Effect::MembersChanged(members) => {
                let Some(running) = &self.nodes[slot].running else { return };
                self.watch.members_are(peer, running.applied, &members);
            }
            Effect::Elected { term } => {
                self.world.note(format_args!("{peer:?} is elected in term {term}"));
                let Some(running) = &self.nodes[slot].running else { return };
                self.watch.elected(peer, term, &running.quorum);
            }
            Effect::Leading { term } => self.world.note(format_args!("{peer:?} leads term {term}")),
            Effect::Following { term, leader } => {
                self.world.note(format_args!("{peer:?} follows {leader:?} in term {term}"));
            }
            Effect::Answer { ticket, outcome } => self.answered(slot, ticket, outcome),
            Effect::SnapshotWanted => {
                self.at(self.world.below(20 * MS), Happening::TakeSnapshot { slot, start });
            }
            Effect::Refused { from, reason } => {
                self.world.note(format_args!("{peer:?} refuses a message of {from:?}: {reason}"));
                self.refused(reason);
            }
            Effect::Stop(stop) => self.world.finding(check::GOES_ON, format_args!("{peer:?}: {stop}")),
        }
    }

    fn refused(&self, reason: Refusal) {
        match reason {
            Refusal::OtherCluster(_) => self.world.count("network: another cluster"),
            Refusal::OtherPeer(_) => self.world.count("network: for an old directory"),
            Refusal::Unflushed => self.world.count("refused: unflushed"),
            Refusal::OwnMessage => self.world.count("refused: own message"),
            Refusal::Diverged { .. } => self.world.count("refused: diverged"),
            Refusal::NotAMember => self.world.count("refused: not a member"),
        }
    }

    fn apply(&mut self, slot: usize, index: u64, term: u64, records: &[Record]) {
        let peer = self.nodes[slot].peer;
        self.world.note(format_args!("{peer:?} applies {index} of term {term}"));
        let Some(running) = &mut self.nodes[slot].running else { return };
        if index != running.applied + 1 {
            let what = format!("{peer:?} applies entry {index} after {}", running.applied);
            return self.world.finding(check::IN_ORDER, format_args!("{what}"));
        }
        if self.settings.makes(Mistake::SnapshotImageStale) && index.is_multiple_of(3) {
            running.stale = running.image.snapshot();
        }
        running.applied = index;
        let current_term = running.quorum.term();
        let mut failed = None;
        for record in records {
            failed = running.image.apply(record).err().or(failed);
        }
        if let Some(error) = failed {
            return self.world.finding(check::IMAGES, format_args!("entry {index}, {peer:?}: {error}"));
        }
        let (nodes, lost) = (&self.nodes, &self.lost);
        let has = |peer: PeerId, index, term| {
            let node = &nodes[slot_of(peer).expect("a node of this seed")];
            let kept = if node.peer == peer { Some(&node.kept) } else { lost.get(&peer) };
            kept.is_some_and(|kept| kept.has(index, term))
        };
        self.watch.applied(peer, (index, term), records, current_term, has);
        if self.watch.is_kept(index)
            && let Some(running) = &self.nodes[slot].running
        {
            self.watch.image(peer, index, &running.image);
        }
    }

    fn persist(&mut self, slot: usize, persist: Persist) {
        let Some(running) = &mut self.nodes[slot].running else { return };
        running.enqueue(persist);
        if self.settings.makes(Mistake::SentBeforeFlushed) {
            let messages = running.premature_messages();
            messages.into_iter().for_each(|message| self.send(slot, message));
        }
    }

    fn begin_write(&mut self, slot: usize) {
        let node = &mut self.nodes[slot];
        let Some(running) = &mut node.running else { return };
        let Some(is_shared) = running.begin(&mut node.disk, &self.settings) else { return };
        let start = node.starts;
        if is_shared {
            self.world.count("disk: writes merged");
        }
        self.at(self.world.below(self.settings.write_max + 1), Happening::Written { slot, start });
    }

    fn written(&mut self, slot: usize, start: u64) {
        let (now, node) = (self.world.now(), &mut self.nodes[slot]);
        let Some(running) = &mut node.running else { return };
        running.written(&mut node.disk);
        let slow = if now < node.slow.0 { node.slow.1 } else { 0 };
        let premature = running.premature_number();
        self.at(slow + self.world.below(self.settings.write_max + 1), Happening::Flushed { slot, start });
        if let Some(number) = premature
            && self.settings.makes(Mistake::WrittenTakenForFlushed)
        {
            self.step(slot, Event::Persisted(number));
        }
    }

    fn flushed(&mut self, slot: usize) {
        let node = &mut self.nodes[slot];
        let Some(running) = &mut node.running else { return };
        let Some(landed) = running.flushed(&mut node.disk, &mut node.kept) else { return };
        let Landed { number, what, then_send, replaced_entries } = landed;
        if replaced_entries {
            self.world.count("disk: entries replaced");
        }
        let entries = match what {
            Some(Written::Append(write) | Written::Replace { write, .. }) => write.entries,
            None => Vec::new(),
        };
        for entry in &entries {
            let before = node.kept.term_before(entry.index);
            self.watch.flushed(node.peer, entry, before);
        }
        then_send.into_iter().for_each(|message| self.send(slot, message));
        if self.settings.makes(Mistake::AppliedBeforeCommitted) {
            self.apply_early(slot, &entries);
        }
        self.step(slot, Event::Persisted(number));
    }

    fn apply_early(&mut self, slot: usize, entries: &[odradek::cluster::quorum::entry::LogEntry]) {
        for entry in entries {
            if let Payload::Records(data) = &entry.payload {
                let records = odradek::cluster::encoding::decode(data).unwrap_or_default();
                let applied = self.nodes[slot].running.as_ref().map_or(0, |running| running.applied);
                if entry.index == applied + 1 {
                    self.apply(slot, entry.index, entry.term, &records);
                }
            }
        }
    }

    pub(super) fn image_records(&self, slot: usize) -> Vec<Record> {
        let Some(running) = &self.nodes[slot].running else { return Vec::new() };
        if self.settings.makes(Mistake::SnapshotImageStale) {
            return running.stale.clone();
        }
        running.image.snapshot()
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
            let node = &mut self.nodes[to];
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
