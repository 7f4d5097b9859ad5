//! What becomes of the decisions of a quorum's nodes: their disks, their images, and the checks of both. The same for
//! every simulation that has such nodes.

use crate::quorum::node::{CrashOf, Kept, Landed, Node, peer_of, slot_of};
use crate::quorum::settings::{MS, Mistake, Settings, TICK, check};
use crate::quorum::watch::Watch;
use crate::random::Random;
use crate::world::{Micros, World};
use odradek::cluster::image::Image;
use odradek::cluster::log_entry::Verdict;
use odradek::cluster::quorum::entry::{LogEntry, Payload};
use odradek::cluster::quorum::frame::{self, FOUNDING_INDEX};
use odradek::cluster::quorum::members::{Members, PeerId};
use odradek::cluster::quorum::message::Message;
use odradek::cluster::quorum::{Effect, Event, Outcome, Persist, Quorum, Refusal, Ticket, Written};
use odradek::cluster::record::Record;
use odradek::types::Uuid;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a process comes to after a while.
pub enum Due {
    Tick,
    Written,
    Flushed,
    TakeSnapshot,
    /// What became of a message.
    Report(Box<Event>),
}

/// Lives: one per seed.
pub struct Nodes {
    pub world: Rc<World>,
    pub settings: Settings,
    pub cluster: Uuid,
    /// By slot.
    pub all: Vec<Node>,
    /// What was flushed in directories that were lost: it has been told, and may count.
    pub lost: BTreeMap<PeerId, Kept>,
    pub watch: Watch,
    /// The image that a log goes on from is a leader's snapshot to nobody.
    is_starting: bool,
}

impl Nodes {
    pub fn new(world: &Rc<World>, settings: Settings, cluster: Uuid, all: Vec<Node>, watch: Watch) -> Nodes {
        let (world, lost) = (world.clone(), BTreeMap::new());
        Nodes { world, settings, cluster, all, lost, watch, is_starting: false }
    }

    pub fn is_running(&self, slot: usize, start: u64) -> bool {
        self.all[slot].running.is_some() && self.all[slot].starts == start
    }

    /// Who leads, as far as it knows itself.
    pub fn leader(&self) -> Option<usize> {
        let leads = |node: &&Node| node.quorum().is_some_and(Quorum::is_leader);
        self.all.iter().filter(leads).max_by_key(|node| node.quorum().map(Quorum::term)).map(|node| node.slot)
    }

    pub fn image_records(&self, slot: usize) -> Vec<Record> {
        let Some(running) = &self.all[slot].running else { return Vec::new() };
        if self.settings.makes(Mistake::SnapshotImageStale) {
            return running.stale.clone();
        }
        running.image.snapshot()
    }

    /// Those whose directory is lost, and that are members nevertheless.
    pub fn lost_member(&self) -> Option<PeerId> {
        let members = self.watch.members();
        let mut all = members.voters.iter().chain(&members.observers);
        all.find(|peer| self.is_lost(**peer)).copied()
    }

    /// Its directory is another one by now.
    pub fn is_lost(&self, peer: PeerId) -> bool {
        self.all[slot_of(peer).expect("of this seed")].peer != peer
    }

    pub fn crash(&mut self, slot: usize, loses_power: bool) {
        let mut dice = Random::new(self.world.draw());
        let node = &mut self.all[slot];
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

    /// The directory of a node that has crashed is gone.
    pub fn lose_directory(&mut self, slot: usize) {
        let keeps_name = self.settings.makes(Mistake::EmptyTakenForKnown);
        let node = &mut self.all[slot];
        self.lost.insert(node.peer, node.kept.clone());
        node.lose_directory(keeps_name);
        self.world.note(format_args!("{:?} begins anew", node.peer));
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

    fn restore(&mut self, slot: usize, index: u64, records: &[Record]) -> Option<Image> {
        let peer = self.all[slot].peer;
        self.world.note(format_args!("{peer:?} restores {index}"));
        if !self.is_starting {
            self.world.count("snapshot: restored");
        }
        let Ok(image) = Image::rebuild(records) else {
            self.world.finding(check::IMAGES, format_args!("a snapshot does not apply"));
            return None;
        };
        self.watch.image(peer, index, &image);
        let running = self.all[slot].running.as_mut()?;
        running.applied = index;
        Some(std::mem::replace(&mut running.image, image))
    }

    /// Whether the process has it now.
    fn apply(&mut self, slot: usize, index: u64, term: u64, records: &[Record]) -> bool {
        let peer = self.all[slot].peer;
        self.world.note(format_args!("{peer:?} applies {index} of term {term}"));
        let Some(running) = &mut self.all[slot].running else { return false };
        if index != running.applied + 1 {
            let what = format!("{peer:?} applies entry {index} after {}", running.applied);
            self.world.finding(check::IN_ORDER, format_args!("{what}"));
            return false;
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
            self.world.finding(check::IMAGES, format_args!("entry {index}, {peer:?}: {error}"));
            return false;
        }
        let (nodes, lost) = (&self.all, &self.lost);
        let has = |peer: PeerId, index, term| {
            let node = &nodes[slot_of(peer).expect("a node of this seed")];
            let kept = if node.peer == peer { Some(&node.kept) } else { lost.get(&peer) };
            kept.is_some_and(|kept| kept.has(index, term))
        };
        self.watch.applied(peer, (index, term), records, current_term, has);
        if self.watch.is_kept(index)
            && let Some(running) = &self.all[slot].running
        {
            self.watch.image(peer, index, &running.image);
        }
        true
    }

    /// What a start finds in the log, as it has to be; `None` after a finding.
    fn recover(&mut self, slot: usize) -> Option<(frame::Recovered, usize)> {
        let node = &mut self.all[slot];
        let bytes = node.disk.read(0, node.disk.size() as usize);
        let scanned = frame::scan(&bytes, node.peer);
        let mut end = scanned.valid_end;
        match &scanned.verdict {
            Verdict::Corrupt { .. } | Verdict::Unreadable { .. } if node.is_damaged => {
                self.world.count("start: damage of the metadata log found");
                return None;
            }
            verdict if node.is_damaged => {
                let what = format!("{:?}: damage is taken for {verdict:?}", node.peer);
                self.world.finding(check::READABLE, format_args!("{what}"));
                return None;
            }
            Verdict::Clean => {}
            Verdict::TornTail { .. } => self.world.count("start: torn tail cut"),
            Verdict::Corrupt { .. } | Verdict::Unreadable { .. } => {
                let what = format!("{:?}: {:?}", node.peer, scanned.verdict);
                self.world.finding(check::READABLE, format_args!("{what}"));
                return None;
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
                self.world.finding(check::RECOVERED, format_args!("{what}"));
                return None;
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
        Some((recovered, end))
    }
}

/// What has nodes of a quorum, and is told what comes of them.
pub trait Shell {
    fn quorum(&mut self) -> &mut Nodes;

    /// So much later, if the process is still there.
    fn later(&mut self, delay: Micros, slot: usize, start: u64, due: Due);

    fn transmit(&mut self, slot: usize, message: Message);

    fn answered(&mut self, slot: usize, ticket: Ticket, outcome: Outcome);

    /// The image has these, and is otherwise as it was.
    fn has_applied(&mut self, _slot: usize, _records: &[Record]) {}

    /// The image is another one.
    fn has_restored(&mut self, _slot: usize, _before: Image) {}

    fn begins_to_lead(&mut self, _slot: usize, _term: u64) {}

    fn follows(&mut self, _slot: usize, _leader: Option<PeerId>) {}

    /// A process goes on from what the disk has. Whether it runs.
    fn start_process(&mut self, slot: usize) -> bool {
        let nodes = self.quorum();
        let Some((recovered, end)) = nodes.recover(slot) else { return false };
        nodes.world.count("starts");
        let mut effects = Vec::new();
        let node = &mut nodes.all[slot];
        let settings = node.quorum_settings(&nodes.settings, nodes.world.draw());
        let quorum = Quorum::start(nodes.cluster, node.peer, settings, recovered.clone(), &mut effects);
        node.run(quorum, &recovered, end);
        let (peer, start) = (node.peer, node.starts);
        nodes.world.note(format_args!(
            "start {peer:?}, {} entries behind {:?}",
            recovered.entries.len(),
            recovered.base.index
        ));
        let delay = nodes.world.below(TICK);
        self.later(delay, slot, start, Due::Tick);
        self.quorum().is_starting = true;
        self.carry_out(slot, effects);
        self.quorum().is_starting = false;
        true
    }

    /// What a running process comes to.
    fn comes_to(&mut self, slot: usize, start: u64, due: Due) {
        match due {
            Due::Tick => {
                let delay = TICK - 10 * MS + self.quorum().world.below(20 * MS);
                self.later(delay, slot, start, Due::Tick);
                self.tell(slot, Event::Tick);
            }
            Due::Written => self.has_written(slot, start),
            Due::Flushed => self.has_flushed(slot),
            Due::TakeSnapshot => {
                let nodes = self.quorum();
                nodes.world.count("snapshot: asked for");
                let records = nodes.image_records(slot);
                self.tell(slot, Event::SnapshotTaken { records });
            }
            Due::Report(event) => self.tell(slot, *event),
        }
    }

    /// One event of a node, and everything that follows at once.
    fn tell(&mut self, slot: usize, event: Event) {
        let nodes = self.quorum();
        let Some(running) = &mut nodes.all[slot].running else { return };
        let (was_leader, term) = (running.quorum.is_leader(), running.quorum.term());
        let mut effects = Vec::new();
        running.quorum.step(event, &mut effects);
        if was_leader && !running.quorum.is_leader() && running.quorum.term() == term {
            let is_voter = running.quorum.members().voters.contains(&running.quorum.me());
            nodes.world.count(if is_voter {
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
        let nodes = self.quorum();
        let (peer, start) = (nodes.all[slot].peer, nodes.all[slot].starts);
        match effect {
            Effect::Send(message) => self.transmit(slot, message),
            Effect::Persist(persist) => self.persist(slot, persist),
            Effect::Apply { index, term, records } => {
                if nodes.apply(slot, index, term, &records) {
                    self.has_applied(slot, &records);
                }
            }
            Effect::Restore { index, records } => {
                if let Some(before) = nodes.restore(slot, index, &records) {
                    self.has_restored(slot, before);
                }
            }
            Effect::MembersChanged(members) => {
                let Some(running) = &nodes.all[slot].running else { return };
                nodes.watch.members_are(peer, running.applied, &members);
            }
            Effect::Elected { term } => {
                nodes.world.note(format_args!("{peer:?} is elected in term {term}"));
                let Some(running) = &nodes.all[slot].running else { return };
                nodes.watch.elected(peer, term, &running.quorum);
            }
            Effect::Leading { term } => {
                nodes.world.note(format_args!("{peer:?} leads term {term}"));
                self.begins_to_lead(slot, term);
            }
            Effect::Following { term, leader } => {
                nodes.world.note(format_args!("{peer:?} follows {leader:?} in term {term}"));
                self.follows(slot, leader);
            }
            Effect::Answer { ticket, outcome } => self.answered(slot, ticket, outcome),
            Effect::SnapshotWanted => {
                let delay = nodes.world.below(20 * MS);
                self.later(delay, slot, start, Due::TakeSnapshot);
            }
            Effect::Refused { from, reason } => {
                nodes.world.note(format_args!("{peer:?} refuses a message of {from:?}: {reason}"));
                nodes.refused(reason);
            }
            Effect::Stop(stop) => nodes.world.finding(check::GOES_ON, format_args!("{peer:?}: {stop}")),
        }
    }

    fn persist(&mut self, slot: usize, persist: Persist) {
        let nodes = self.quorum();
        let Some(running) = &mut nodes.all[slot].running else { return };
        running.enqueue(persist);
        if nodes.settings.makes(Mistake::SentBeforeFlushed) {
            let messages = running.premature_messages();
            messages.into_iter().for_each(|message| self.transmit(slot, message));
        }
    }

    fn begin_write(&mut self, slot: usize) {
        let nodes = self.quorum();
        let node = &mut nodes.all[slot];
        let Some(running) = &mut node.running else { return };
        let Some(is_shared) = running.begin(&mut node.disk, &nodes.settings) else { return };
        let start = node.starts;
        if is_shared {
            nodes.world.count("disk: writes merged");
        }
        let delay = nodes.world.below(nodes.settings.write_max + 1);
        self.later(delay, slot, start, Due::Written);
    }

    fn has_written(&mut self, slot: usize, start: u64) {
        let nodes = self.quorum();
        let (now, node) = (nodes.world.now(), &mut nodes.all[slot]);
        let Some(running) = &mut node.running else { return };
        running.written(&mut node.disk);
        let slow = if now < node.slow.0 { node.slow.1 } else { 0 };
        let premature = running.premature_number();
        let delay = slow + nodes.world.below(nodes.settings.write_max + 1);
        let makes_mistake = nodes.settings.makes(Mistake::WrittenTakenForFlushed);
        self.later(delay, slot, start, Due::Flushed);
        if let Some(number) = premature.filter(|_| makes_mistake) {
            self.tell(slot, Event::Persisted(number));
        }
    }

    fn has_flushed(&mut self, slot: usize) {
        let nodes = self.quorum();
        let node = &mut nodes.all[slot];
        let Some(running) = &mut node.running else { return };
        let Some(landed) = running.flushed(&mut node.disk, &mut node.kept) else { return };
        let Landed { number, what, then_send, replaced_entries } = landed;
        if replaced_entries {
            nodes.world.count("disk: entries replaced");
        }
        let entries = match what {
            Some(Written::Append(write) | Written::Replace { write, .. }) => write.entries,
            None => Vec::new(),
        };
        for entry in &entries {
            let before = node.kept.term_before(entry.index);
            nodes.watch.flushed(node.peer, entry, before);
        }
        let is_early = nodes.settings.makes(Mistake::AppliedBeforeCommitted);
        then_send.into_iter().for_each(|message| self.transmit(slot, message));
        if is_early {
            self.apply_early(slot, &entries);
        }
        self.tell(slot, Event::Persisted(number));
    }

    fn apply_early(&mut self, slot: usize, entries: &[LogEntry]) {
        for entry in entries {
            if let Payload::Records(data) = &entry.payload {
                let records = odradek::cluster::encoding::decode(data).unwrap_or_default();
                let nodes = self.quorum();
                let applied = nodes.all[slot].running.as_ref().map_or(0, |running| running.applied);
                if entry.index == applied + 1 {
                    nodes.apply(slot, entry.index, entry.term, &records);
                }
            }
        }
    }
}
