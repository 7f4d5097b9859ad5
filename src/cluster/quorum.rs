//! The metadata quorum: which changes of the cluster's metadata are committed, and who decides on the next ones.
//!
//! ```text
//!  tick, message, proposal, flushed up to n ─► Quorum::step ─► effects, in order:
//!      send          leaves at once
//!      persist n     written and flushed, then its messages leave, then the shell says: flushed up to n
//!      apply, restore                    to the image, committed for good
//!      elected, leading, following       who decides
//!      answer        of a proposal
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`event`] | what the quorum is told, and what it wants done |
//! | [`members`] | who belongs to it, and how that changes |
//! | [`frame`] | the log on disk, and what a start finds |
//! | [`message`] | what goes over the wire |
//! | [`entry`] | an entry of the log |
//! | `store` | the log as raft reads it, in memory |
//! | `timeout` | election time-outs, from a seed |
//!
//! Consensus itself is the `raft` crate's, TiKV's. Openraft was weighed against it: its state machine (`Engine`)
//! is private to the crate, what it offers is a set of tasks over an asynchronous runtime, channels and a clock of
//! its own traits. To replay a seed, or to run it beside glommio, all of that would have to be stood in for, and
//! which flush an answer waits for would be decided inside. The `raft` crate is a function of its inputs, but for the
//! election time-outs, which it lets us set; what must be flushed before what is sent it says.
//!
//! What is not left to the crate, each found by the simulation (`odradek-sim quorum`) or by reading:
//! - A leader's messages may leave before its flush, since its own vote of the term is flushed before it can win.
//!   Not so where it is the only voter: it wins within one step. Its messages then wait for the flush of its term.
//! - A node does not ask for votes while something of its own is not flushed.
//! - A leader whose disk does not answer for an election time-out steps down.
//! - A leader that a committed change removes steps down at once; the crate would go on and then fail.
//! - An entry or commit index of a peer that contradicts what is committed here makes the crate panic. Such a message
//!   is refused; where it shows that this log has lost what it had acknowledged, the node stops.
//! - Members change one at a time. Changes count once they are applied; see [`frame`] for what that rests on.
//!
//! Absent: clocks, sockets, files; addresses of the members, which are records; forwarding of proposals.

pub mod entry;
pub mod event;
pub mod frame;
pub mod members;
pub mod message;
mod store;
mod timeout;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState as RaftHardState, MessageType, Snapshot as RaftSnapshot};
use raft::{Config, ProgressState, RawNode, Ready, SnapshotStatus, StateRole};

use self::entry::{LogEntry, Payload, to_conf_change};
pub use self::event::{
    Effect, Event, Outcome, Persist, ProposalRejected, Refusal, Stop, Ticket, WriteNumber, Written,
};
use self::frame::{HardState, Recovered, Snapshot, Write, decode_parts, encode_parts};
use self::members::{ChangeRejected, MemberChange, Members, PeerId};
use self::message::{Message, decode_image, encode_image};
use self::store::Store;
use self::timeout::{ElectionTimeout, Standing};
use super::encoding;
use super::record::Record;
use crate::types::Uuid;
use crate::types::limits::{METADATA_RECORDS_PER_ENTRY_MAX, QUORUM_PROPOSALS_MAX, QUORUM_RECORDS_SIZE_MAX};

/// Bytes of entries in one message, beyond its first.
const MESSAGE_SIZE_MAX: u64 = 1 << 20;

/// Messages with entries on their way to one follower.
const MESSAGES_IN_FLIGHT_MAX: usize = 64;

/// Bytes of proposed entries that are not committed; past it proposals are refused.
const UNCOMMITTED_SIZE_MAX: u64 = 32 << 20;

/// Bytes of committed entries applied in one go.
const APPLIED_SIZE_MAX: u64 = 16 << 20;

/// Entries that an observer may lack when it is given a vote: less than a leader sends in one flight.
const VOTER_LAG_MAX: u64 = 100;

/// How one node of the quorum behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Ticks without a word of the leader until a follower asks for votes: so many, up to twice as many.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// Of the election time-outs. Differs between nodes and starts.
    pub seed: u64,
    /// Entries behind a snapshot that stay in memory, for followers that are a little behind.
    pub entries_retained: u64,
}

/// A write on its way to the disk.
#[derive(Debug)]
struct Outstanding {
    number: WriteNumber,
    /// Of raft's `Ready`; none of a compaction.
    ready: Option<u64>,
    /// The term that is flushed then.
    term: u64,
    restore: Option<Snapshot>,
}

/// Lives: one per node, on shard 0.
/// Shape: a step costs as much as what it sends and writes.
/// Invariant: applied ≤ committed; applied ≤ flushed here.
pub struct Quorum {
    cluster: Uuid,
    me: PeerId,
    settings: Settings,
    raw: RawNode<Store>,
    timeout: ElectionTimeout,
    campaigns: u64,
    /// Given out to be written, oldest first.
    outstanding: VecDeque<Outstanding>,
    last_number: WriteNumber,
    /// The term that is flushed.
    term_flushed: u64,
    /// What is proposed in this node's term, by index.
    proposals: BTreeMap<u64, Ticket>,
    members: Members,
    /// The last entry handed over to the image.
    applied: (u64, u64),
    /// What the outside was told last.
    told: Told,
    /// Ticks that a leader has waited for its oldest write.
    stalled_ticks: usize,
    /// Ticks that a snapshot has been kept for.
    snapshot_ticks: usize,
    is_stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Elected { term: u64 },
    Leading { term: u64 },
    Following { term: u64, leader: Option<PeerId> },
}

impl Quorum {
    /// Goes on from what a start has found. The effects begin with the image that the log goes on from, if any.
    pub fn start(
        cluster: Uuid,
        me: PeerId,
        settings: Settings,
        recovered: Recovered,
        effects: &mut Vec<Effect>,
    ) -> Quorum {
        let Recovered { base, hard_state, entries, .. } = recovered;
        let raft_state = RaftHardState {
            term: hard_state.term,
            vote: hard_state.vote.map_or(0, PeerId::raw),
            commit: hard_state.commit,
            ..RaftHardState::default()
        };
        let entries: Vec<Entry> = entries.iter().map(LogEntry::to_raft).collect();
        let store = Store::new((base.index, base.term), base.members.to_raft(), raft_state, entries);
        let config = Config {
            id: me.raw(),
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: base.index,
            max_size_per_msg: MESSAGE_SIZE_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_SIZE_MAX,
            max_committed_size_per_ready: APPLIED_SIZE_MAX,
            ..Config::default()
        };
        // Discarded: the levels are compiled out. Effects say what happens.
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw =
            RawNode::new(&config, store, &logger).expect("the settings are right and the store answers");
        let mut quorum = Quorum {
            cluster,
            me,
            settings,
            raw,
            timeout: ElectionTimeout::new(settings.seed, settings.election_ticks),
            campaigns: 0,
            outstanding: VecDeque::new(),
            last_number: WriteNumber(0),
            term_flushed: hard_state.term,
            proposals: BTreeMap::new(),
            members: base.members.clone(),
            applied: (base.index, base.term),
            told: Told::Nothing,
            stalled_ticks: 0,
            snapshot_ticks: 0,
            is_stopped: false,
        };
        if base.index > 0 {
            quorum.restore(base, effects);
        }
        quorum.settle(effects);
        if quorum.is_only_voter() && !quorum.is_stopped {
            // Nobody else could be meant.
            quorum.campaign();
            quorum.settle(effects);
        }
        quorum
    }

    /// Takes one event and pushes what follows from it. Never blocks, never fails.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if self.is_stopped {
            if let Event::Propose { ticket, .. } | Event::ChangeMembers { ticket, .. } = event {
                let outcome = Outcome::Refused(ProposalRejected::NotLeader { leader: None });
                effects.push(Effect::Answer { ticket, outcome });
            }
            return;
        }
        match event {
            Event::Tick => self.tick(),
            Event::Received(message) => self.receive(message, effects),
            Event::Propose { ticket, records } => {
                if let Err(reason) = self.propose(ticket, &records) {
                    effects.push(Effect::Answer { ticket, outcome: Outcome::Refused(reason) });
                }
            }
            Event::ChangeMembers { ticket, change } => {
                if let Err(reason) = self.change_members(ticket, change) {
                    effects.push(Effect::Answer { ticket, outcome: Outcome::Refused(reason) });
                }
            }
            Event::Transfer(to) => {
                if self.is_leader() && to != self.me && self.members.voters.contains(&to) {
                    self.raw.transfer_leader(to.raw());
                }
            }
            Event::Persisted(number) => self.persisted(number, effects),
            Event::Unreachable(peer) => self.raw.report_unreachable(peer.raw()),
            Event::SnapshotSent { to, delivered } => {
                let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raw.report_snapshot(to.raw(), status);
            }
            Event::SnapshotTaken { records } => self.prepare_snapshot(&records),
            Event::Compact { records } => self.compact(&records, effects),
        }
        self.settle(effects);
    }

    pub fn me(&self) -> PeerId {
        self.me
    }

    pub fn cluster(&self) -> Uuid {
        self.cluster
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn leader(&self) -> Option<PeerId> {
        PeerId::from_raw(self.raw.raft.leader_id)
    }

    /// As of the last entry that was applied.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Index and term of the last entry that was applied.
    pub fn applied(&self) -> (u64, u64) {
        self.applied
    }

    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// The term of an entry; `None` where it is not there, or only in the image.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        // Between two steps all of the log is in the store. (Raft's own look-up says 0 for what is not there.)
        self.raw.store().term_of(index)
    }

    /// Entries in memory: what a compaction would shorten.
    pub fn entry_count(&self) -> u64 {
        self.raw.store().last() - self.raw.store().base().0
    }

    /// What the leader knows of each member: the last entry that it has flushed. Empty elsewhere.
    pub fn progress(&self) -> BTreeMap<PeerId, u64> {
        if !self.is_leader() {
            return BTreeMap::new();
        }
        let known = self.raw.raft.prs().iter();
        known.filter_map(|(id, progress)| Some((PeerId::from_raw(*id)?, progress.matched))).collect()
    }

    fn is_only_voter(&self) -> bool {
        self.members.voters.len() == 1 && self.members.voters.contains(&self.me)
    }

    fn tick(&mut self) {
        self.age_snapshot();
        if !self.outstanding.is_empty() {
            // A node whose disk does not answer keeps still: it could not vote for itself.
            if !self.is_leader() {
                return;
            }
            // Others could commit without its disk, but only it could answer: it makes way.
            self.stalled_ticks += 1;
            if self.stalled_ticks > self.settings.election_ticks && !self.is_only_voter() {
                self.stalled_ticks = 0;
                let term = self.term();
                self.raw.raft.become_follower(term, 0);
                return;
            }
        }
        self.raw.tick();
        // Raft counts from zero once it has asked.
        if !self.is_leader() && self.raw.raft.election_elapsed == 0 {
            self.campaigns += 1;
        }
    }

    fn campaign(&mut self) {
        self.campaigns += 1;
        // It refuses while a change of the members is committed and not applied, and comes again with a tick.
        let _ = self.raw.campaign();
    }

    fn receive(&mut self, message: Message, effects: &mut Vec<Effect>) {
        match self.check(&message) {
            Ok(()) => {
                // What is an error to raft here is an answer of somebody who is no member any more.
                let _ = self.raw.step(message.raft);
            }
            Err(Rejected::Refused(reason)) => effects.push(Effect::Refused { from: message.from, reason }),
            Err(Rejected::Stop(stop)) => self.stop(stop, effects),
        }
    }

    /// Raft takes its peers at their word and panics where that contradicts what it knows.
    fn check(&self, message: &Message) -> Result<(), Rejected> {
        if message.cluster != self.cluster {
            return Err(Refusal::OtherCluster(message.cluster).into());
        }
        if message.to != self.me {
            return Err(Refusal::OtherPeer(message.to).into());
        }
        if message.from == self.me {
            return Err(Refusal::OwnMessage.into());
        }
        let (raft, log) = (&message.raft, &self.raw.raft.raft_log);
        if raft.term < self.term() {
            return Ok(());
        }
        match raft.get_msg_type() {
            MessageType::MsgHeartbeat if raft.commit > log.last_index() => {
                let (acknowledged, last) = (raft.commit, log.last_index());
                Err(Rejected::Stop(Stop::LogLost { acknowledged, last }))
            }
            // Raft takes no term for that of an entry that is not there.
            MessageType::MsgAppend if raft.log_term == 0 && raft.index > 0 => {
                Err(Refusal::Diverged { index: raft.index }.into())
            }
            MessageType::MsgAppend => {
                let committed = raft.entries.iter().take_while(|entry| entry.index <= log.committed);
                let store = self.raw.store();
                let has_diverged =
                    |entry: &&Entry| store.term_of(entry.index).is_some_and(|term| term != entry.term);
                match committed.filter(has_diverged).last() {
                    Some(entry) => Err(Refusal::Diverged { index: entry.index }.into()),
                    None => Ok(()),
                }
            }
            MessageType::MsgSnapshot => {
                let members = Members::from_raft(raft.get_snapshot().get_metadata().get_conf_state());
                let is_member = members.is_some_and(|members| members.contains(self.me));
                if is_member { Ok(()) } else { Err(Refusal::NotAMember.into()) }
            }
            MessageType::MsgAppendResponse
                if self.is_leader() && !raft.reject && raft.index > log.last_index() =>
            {
                Err(Refusal::Diverged { index: raft.index }.into())
            }
            // It would campaign at once, and win at once where it is the only voter.
            MessageType::MsgTimeoutNow if !self.outstanding.is_empty() => Err(Refusal::Unflushed.into()),
            _ => Ok(()),
        }
    }

    fn propose(&mut self, ticket: Ticket, records: &[Record]) -> Result<(), ProposalRejected> {
        self.check_leading()?;
        if records.len() > METADATA_RECORDS_PER_ENTRY_MAX {
            return Err(ProposalRejected::TooManyRecords(records.len()));
        }
        let data = encoding::encode(records);
        if data.len() > QUORUM_RECORDS_SIZE_MAX {
            return Err(ProposalRejected::TooLarge { size: data.len() });
        }
        self.raw.propose(Vec::new(), data).map_err(|_| ProposalRejected::Busy)?;
        self.proposals.insert(self.last_index(), ticket);
        Ok(())
    }

    fn change_members(&mut self, ticket: Ticket, change: MemberChange) -> Result<(), ProposalRejected> {
        self.check_leading()?;
        self.check_change(change).map_err(ProposalRejected::Members)?;
        let proposed = self.raw.propose_conf_change(Vec::new(), to_conf_change(change));
        proposed.map_err(|_| ProposalRejected::Busy)?;
        self.proposals.insert(self.last_index(), ticket);
        Ok(())
    }

    fn check_leading(&self) -> Result<(), ProposalRejected> {
        match self.told {
            Told::Leading { .. } if self.raw.raft.lead_transferee.is_some() => {
                Err(ProposalRejected::HandingOver)
            }
            Told::Leading { .. } if self.proposals.len() >= QUORUM_PROPOSALS_MAX => {
                Err(ProposalRejected::Busy)
            }
            Told::Leading { .. } => Ok(()),
            Told::Elected { .. } => Err(ProposalRejected::NotReady),
            Told::Nothing | Told::Following { .. } => {
                Err(ProposalRejected::NotLeader { leader: self.leader() })
            }
        }
    }

    fn check_change(&self, change: MemberChange) -> Result<(), ChangeRejected> {
        if self.raw.raft.has_pending_conf() {
            return Err(ChangeRejected::Pending);
        }
        self.members.check(change)?;
        match change {
            MemberChange::Remove(peer) if peer == self.me => Err(ChangeRejected::Leader),
            MemberChange::AddVoter(peer) => {
                let matched = self.progress().get(&peer).copied().unwrap_or(0);
                let committed = self.committed();
                if matched + VOTER_LAG_MAX < committed || matched == 0 {
                    return Err(ChangeRejected::Behind { peer, matched, committed });
                }
                Ok(())
            }
            MemberChange::Remove(_) | MemberChange::AddObserver(_) => Ok(()),
        }
    }

    fn persisted(&mut self, number: WriteNumber, effects: &mut Vec<Effect>) {
        assert!(number <= self.last_number, "more was flushed than was given out");
        while let Some(first) = self.outstanding.front()
            && first.number <= number
        {
            let flushed = self.outstanding.pop_front().expect("it is there");
            self.stalled_ticks = 0;
            self.term_flushed = self.term_flushed.max(flushed.term);
            if let Some(snapshot) = flushed.restore {
                self.restore(snapshot, effects);
            }
            if let Some(ready) = flushed.ready {
                self.raw.on_persist_ready(ready);
            }
            if self.applied.0 > self.raw.raft.raft_log.applied() {
                self.raw.advance_apply_to(self.applied.0);
            }
        }
    }

    fn restore(&mut self, snapshot: Snapshot, effects: &mut Vec<Effect>) {
        let index = snapshot.index;
        match decode_parts(&snapshot.parts) {
            Ok(records) => {
                self.applied = (index, snapshot.term);
                self.members = snapshot.members;
                effects.push(Effect::Restore { index, records });
                effects.push(Effect::MembersChanged(self.members.clone()));
            }
            Err(error) => self.stop(Stop::Unreadable { index, error }, effects),
        }
    }

    /// The snapshot of the last entry that was applied.
    fn snapshot_of(&self, records: &[Record]) -> Snapshot {
        let (index, term) = self.applied;
        Snapshot { index, term, members: self.members.clone(), parts: encode_parts(records) }
    }

    fn prepare_snapshot(&mut self, records: &[Record]) {
        if self.applied.0 == 0 || self.is_restoring() {
            return;
        }
        let snapshot = self.snapshot_of(records);
        let mut prepared = RaftSnapshot { data: encode_image(&snapshot.parts), ..RaftSnapshot::default() };
        let metadata = prepared.mut_metadata();
        (metadata.index, metadata.term) = (snapshot.index, snapshot.term);
        metadata.set_conf_state(snapshot.members.to_raft());
        self.raw.mut_store().prepare(prepared);
        self.snapshot_ticks = 0;
    }

    /// A snapshot is as large as the image; it is kept while somebody may still ask for it.
    fn age_snapshot(&mut self) {
        if !self.raw.store().is_prepared() {
            return;
        }
        self.snapshot_ticks += 1;
        if self.snapshot_ticks > 10 * self.settings.election_ticks {
            self.raw.mut_store().forget_prepared();
        }
    }

    /// A leader's snapshot is in the log already, and not in the image.
    fn is_restoring(&self) -> bool {
        self.outstanding.iter().any(|outstanding| outstanding.restore.is_some())
    }

    fn compact(&mut self, records: &[Record], effects: &mut Vec<Effect>) {
        if self.applied.0 == 0 || self.is_restoring() {
            return;
        }
        let snapshot = self.snapshot_of(records);
        let above = self.raw.store().entries_above(snapshot.index);
        let entries = above.map(|entry| LogEntry::from_raft(entry).expect("we proposed it")).collect();
        let hard_state = hard_state_of(self.raw.store().hard_state());
        let what = Some(Written::Replace { snapshot, write: Write { hard_state, entries } });
        let to = self.applied.0.saturating_sub(self.settings.entries_retained);
        if to > self.raw.store().base().0 {
            self.raw.mut_store().compact(to);
        }
        let number = self.next_number(None, None);
        effects.push(Effect::Persist(Persist { number, what, then_send: Vec::new() }));
    }

    fn next_number(&mut self, ready: Option<u64>, restore: Option<Snapshot>) -> WriteNumber {
        self.last_number = WriteNumber(self.last_number.0 + 1);
        let term = self.raw.store().hard_state().term;
        self.outstanding.push_back(Outstanding { number: self.last_number, ready, term, restore });
        self.last_number
    }

    /// Carries out everything that raft wants by now.
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        self.settle_timeout();
        while !self.is_stopped && self.raw.has_ready() {
            let ready = self.raw.ready();
            self.take_ready(ready, effects);
            self.settle_timeout();
        }
        self.tell(effects);
        if self.raw.store().take_wanted() && !self.is_stopped {
            effects.push(Effect::SnapshotWanted);
        }
    }

    fn settle_timeout(&mut self) {
        let raft = &self.raw.raft;
        let standing =
            Standing { term: raft.term, role: raft.state, leader: raft.leader_id, campaigns: self.campaigns };
        let ticks = self.timeout.of(standing);
        self.raw.raft.set_randomized_election_timeout(ticks);
    }

    fn take_ready(&mut self, mut ready: Ready, effects: &mut Vec<Effect>) {
        let cluster = self.cluster;
        let to_ours = |raft| Message::of(cluster, raft);
        let number = ready.number();
        let at_once: Vec<Message> = ready.take_messages().into_iter().filter_map(to_ours).collect();
        let mut then_send: Vec<Message> = Vec::new();
        if self.term_flushed == self.term() {
            effects.extend(at_once.into_iter().map(Effect::Send));
        } else {
            then_send = at_once;
        }
        then_send.extend(ready.take_persisted_messages().into_iter().filter_map(to_ours));
        let restore = self.take_snapshot(ready.snapshot());
        let is_state_new = ready.hs().is_some_and(|state| {
            let before = self.raw.store().hard_state();
            state.term != before.term || state.vote != before.vote
        });
        if let Some(state) = ready.hs() {
            self.raw.mut_store().set_hard_state(state.clone());
        }
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        // The commit index alone is not worth a flush: the leader says it again.
        let what = if restore.is_some() || is_state_new || !entries.is_empty() {
            let entries = entries.iter().map(|entry| LogEntry::from_raft(entry).expect("we proposed it"));
            let hard_state = hard_state_of(self.raw.store().hard_state());
            let write = Write { hard_state, entries: entries.collect() };
            Some(match &restore {
                Some(snapshot) => Written::Replace { snapshot: snapshot.clone(), write },
                None => Written::Append(write),
            })
        } else {
            None
        };
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        if what.is_none() && self.outstanding.is_empty() {
            effects.extend(then_send.into_iter().map(Effect::Send));
            self.raw.on_persist_ready(number);
        } else {
            let number = self.next_number(Some(number), restore);
            effects.push(Effect::Persist(Persist { number, what, then_send }));
        }
        self.apply(committed, effects);
    }

    /// A leader's snapshot, which raft has taken over already.
    fn take_snapshot(&mut self, snapshot: &RaftSnapshot) -> Option<Snapshot> {
        if snapshot.is_empty() {
            return None;
        }
        let metadata = snapshot.get_metadata();
        self.raw.mut_store().restore(metadata);
        let members = Members::from_raft(metadata.get_conf_state()).expect("it was checked when it came");
        let parts: Vec<Bytes> = decode_image(&snapshot.data).expect("it was checked when it came");
        Some(Snapshot { index: metadata.index, term: metadata.term, members, parts })
    }

    fn apply(&mut self, committed: Vec<Entry>, effects: &mut Vec<Effect>) {
        for entry in committed {
            if self.is_stopped {
                return;
            }
            assert!(entry.index > self.applied.0, "entry {} is applied twice", entry.index);
            self.apply_one(&entry, effects);
        }
        if self.applied.0 > self.raw.raft.raft_log.applied() {
            self.raw.advance_apply_to(self.applied.0);
        }
    }

    fn apply_one(&mut self, entry: &Entry, effects: &mut Vec<Effect>) {
        let (index, term) = (entry.index, entry.term);
        let mut records = Vec::new();
        match LogEntry::from_raft(entry).map(|entry| entry.payload) {
            Some(Payload::Records(data)) if data.is_empty() => {}
            Some(Payload::Records(data)) => match encoding::decode(&data) {
                Ok(decoded) => records = decoded,
                Err(error) => return self.stop(Stop::Unreadable { index, error }, effects),
            },
            Some(Payload::Members(change)) => {
                if !self.apply_change(change) {
                    return self.stop(Stop::Members { index }, effects);
                }
                effects.push(Effect::Apply { index, term, records: Vec::new() });
                effects.push(Effect::MembersChanged(self.members.clone()));
                return self.applied_one(index, term, effects);
            }
            None => return self.stop(Stop::Members { index }, effects),
        }
        effects.push(Effect::Apply { index, term, records });
        self.applied_one(index, term, effects);
    }

    fn applied_one(&mut self, index: u64, term: u64, effects: &mut Vec<Effect>) {
        self.applied = (index, term);
        if let Some(ticket) = self.proposals.remove(&index) {
            // Proposals are forgotten with the leadership: this entry is that one.
            effects.push(Effect::Answer { ticket, outcome: Outcome::Committed { index } });
        }
    }

    fn apply_change(&mut self, change: MemberChange) -> bool {
        let Ok(state) = self.raw.apply_conf_change(&to_conf_change(change)) else { return false };
        let Some(members) = Members::from_raft(&state) else { return false };
        self.raw.mut_store().set_members(state);
        // A snapshot of before the change would be refused by whoever is new.
        self.raw.mut_store().forget_prepared();
        self.members = members;
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !self.members.voters.contains(&self.me) {
            // The change was of a leader before this one. The others know of its commit, or find out.
            raft.become_follower(raft.term, 0);
        }
        true
    }

    /// Says who leads, where that has changed.
    fn tell(&mut self, effects: &mut Vec<Effect>) {
        let term = self.term();
        if self.is_stopped {
            return;
        }
        if !self.is_leader() {
            let now = Told::Following { term, leader: self.leader() };
            if self.told != now {
                self.told = now;
                self.forget_proposals(effects);
                effects.push(Effect::Following { term, leader: self.leader() });
            }
            return;
        }
        if !matches!(self.told, Told::Elected { term: told } | Told::Leading { term: told } if told == term) {
            self.forget_proposals(effects);
            self.told = Told::Elected { term };
            effects.push(Effect::Elected { term });
        }
        // Its own first entry is behind all that was there before.
        if self.told == (Told::Elected { term }) && self.applied.1 == term {
            self.told = Told::Leading { term };
            effects.push(Effect::Leading { term });
        }
    }

    fn forget_proposals(&mut self, effects: &mut Vec<Effect>) {
        for ticket in std::mem::take(&mut self.proposals).into_values() {
            effects.push(Effect::Answer { ticket, outcome: Outcome::Unknown });
        }
    }

    fn stop(&mut self, stop: Stop, effects: &mut Vec<Effect>) {
        self.is_stopped = true;
        self.forget_proposals(effects);
        effects.push(Effect::Stop(stop));
    }

    /// Whether a member is being sent the image.
    pub fn is_sending_snapshot(&self, to: PeerId) -> bool {
        self.raw.raft.prs().get(to.raw()).is_some_and(|progress| progress.state == ProgressState::Snapshot)
    }
}

enum Rejected {
    Refused(Refusal),
    Stop(Stop),
}

impl From<Refusal> for Rejected {
    fn from(reason: Refusal) -> Rejected {
        Rejected::Refused(reason)
    }
}

fn hard_state_of(state: &RaftHardState) -> HardState {
    HardState { term: state.term, vote: PeerId::from_raw(state.vote), commit: state.commit }
}

#[cfg(test)]
mod tests;
