//! The metadata quorum's shell on shard 0: its disk, and who waits for what it decides.
//!
//! ```text
//!  proposal ─► Quorum::step ─► persist ─► [written one after the other, on the helper] ─► step
//!                          └─► committed ─► [applied on every shard, in order] ─► answer
//! ```
//!
//! A start reads the log on the main thread ([`start`]), and shard 0 goes on from there before any partition is
//! opened: until this node is registered as what it is now, committed changes go to an image that the start is then
//! told of ([`MetadataQuorum::register`]); once all shards have opened what it says, to all of them
//! ([`MetadataQuorum::attach`]).
//!
//! | file | what it does |
//! |---|---|
//! | [`start`] | reads the log before there are shards, founds a cluster |
//! | `registering.rs` | what a start asks before partitions are opened |
//! | `lifecycle.rs` | this node says that it is there; the leader fences those that do not |
//! | `elections.rs` | elections that the leader holds by itself |
//! | `members.rs` | which members get a vote by themselves |
//! | [`voters`] | an operator's changes of the members |
//!
//! What goes to other members and comes from them is the [peers'](crate::shard::peers) to carry. Absent: a log that
//! has grown long is replaced by a snapshot at starts only.

mod compaction;
mod elections;
mod lifecycle;
mod members;
mod registering;
pub mod start;
pub mod voters;

use crate::cluster::describe::{QuorumMember, QuorumState};
use crate::cluster::difference::{difference, replicas_gone};
use crate::cluster::elections::unclean;
use crate::cluster::heartbeats::Heartbeats;
use crate::cluster::image::Image;
use crate::cluster::levels::{LevelNotKnown, check_levels};
use crate::cluster::quorum::Quorum;
use crate::cluster::quorum::event::{Effect, Event, Outcome, Persist, ProposalRejected, Ticket, Written};
use crate::cluster::quorum::frame::FrameWriter;
use crate::cluster::quorum::members::{ChangeRejected, MemberChange, Members, PeerId};
use crate::cluster::quorum::message::{Message, MessageKind};
use crate::cluster::record::Record;
use crate::cluster::registration::Start;
use crate::codec::control::HeartbeatAnswer;
use crate::codec::error_code::ErrorCode;
use crate::config::Config;
use crate::config::topic::TopicDefaults;
use crate::shard::Shard;
use crate::shard::answers::Answers;
use crate::shard::clock::Clock;
use crate::shard::disk::blocking;
use crate::shard::event::{Broadcast, Signal};
use crate::shard::handover;
use crate::shard::message::Request;
use crate::shard::metadata_log::{MetadataLog, MetadataLogError, Purpose};
use crate::shard::partitions;
use crate::shard::peers::{Introduction, Peers, listen};
use crate::shard::quorum::compaction::Compaction;
use crate::shard::quorum::elections::Elections;
use crate::shard::quorum::start::{Metadata, RECORDS_PER_PART_MAX, TICK};
use crate::shard::settings::topic_defaults_in;
use crate::types::{BrokerEpoch, LogDirIndex, Mono, ShardId, TopicId, TopicPartition, Uuid};
use futures::future::{Either, select};
use glommio::sync::Semaphore;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use registering::RegisterError;

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The log is as it was.
    #[error(transparent)]
    Log(#[from] MetadataLogError),
    #[error(transparent)]
    Refused(ProposalRejected),
    /// Builds side by side.
    #[error(transparent)]
    Level(#[from] LevelNotKnown),
    #[error("another node leads the quorum by now; the change may have been made")]
    Unknown,
    #[error("the metadata log has failed; restart the broker once its disk is well")]
    Failed,
}

impl CommitError {
    /// What a client is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            CommitError::Level(_) => ErrorCode::UnsupportedVersion,
            CommitError::Refused(
                ProposalRejected::NotLeader { .. }
                | ProposalRejected::NotReady
                | ProposalRejected::HandingOver,
            ) => ErrorCode::NotController,
            CommitError::Unknown
            | CommitError::Refused(
                ProposalRejected::Busy
                | ProposalRejected::Members(ChangeRejected::Pending | ChangeRejected::Behind { .. }),
            ) => ErrorCode::RequestTimedOut,
            CommitError::Log(_) | CommitError::Failed | CommitError::Refused(_) => {
                ErrorCode::KafkaStorageError
            }
        }
    }
}

/// A member that has said nothing for so long is taken for gone: several election time-outs.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// What is to be done in the order in which it was decided.
enum Decided {
    Records {
        index: u64,
        records: Arc<[Record]>,
    },
    /// The image is what these add up to.
    Restore {
        index: u64,
        records: Vec<Record>,
    },
    Answer(Ticket, Outcome),
    /// This node has applied everything that was committed before it began to lead in that term.
    Leading {
        term: u64,
    },
}

/// What was applied before partitions were open.
#[derive(Default)]
struct Early {
    image: Image,
    /// Topics that are gone since the start.
    deleted: BTreeSet<TopicId>,
    /// Since the registration has ended: what the shards, which open what it has led to, do not have yet.
    since: Option<VecDeque<Decided>>,
}

/// What a start knows of this node and of others.
pub struct Around {
    /// `None`: there is only this node.
    pub introduction: Option<Introduction>,
    /// Where others connect.
    pub listen: Option<SocketAddr>,
}

/// Lives: on shard 0.
pub struct MetadataQuorum {
    quorum: RefCell<Quorum>,
    clock: Clock,
    /// Taken out while it is used; not there any more once it has failed.
    log: RefCell<Option<MetadataLog>>,
    /// Whoever uses the log.
    log_turn: Semaphore,
    persists: RefCell<VecDeque<Persist>>,
    persists_waiting: Signal,
    decided: RefCell<VecDeque<Decided>>,
    decided_waiting: Signal,
    proposals: Answers<Result<Outcome, ()>>,
    /// Decisions, one at a time: the next one sees this one applied.
    turn: Semaphore,
    /// It leads, and has applied everything that was committed before it did.
    leading: Cell<bool>,
    leading_since: Cell<Mono>,
    /// When each member said something last; of those that are none any more too.
    heard: RefCell<BTreeMap<PeerId, Mono>>,
    has_failed: Cell<bool>,
    /// A member is so far behind that it needs the image.
    snapshot_wanted: Cell<bool>,
    compaction: Compaction,
    /// The last entry that was applied here.
    applied: Cell<u64>,
    progressed: Broadcast,
    early: RefCell<Early>,
    config: Rc<Config>,
    /// As what this process has registered.
    started: RefCell<Option<Start>>,
    /// As which it registers anew, without the replicas that may lack their end and are named with that.
    anew: RefCell<Option<(Uuid, Vec<TopicPartition>)>>,
    /// Replicas that may lack their end, as a registration has said that is committed; written down still.
    told_doubtful: RefCell<BTreeSet<TopicPartition>>,
    /// The registration of this node that the leader has told of: one that joins anew has no metadata yet.
    told: Cell<Option<BrokerEpoch>>,
    /// What the leader remembers of nodes.
    heartbeats: RefCell<Heartbeats>,
    /// Something may be due that follows from them.
    looking: Signal,
    elections: Elections,
    /// This node has something to say before the next heartbeat is due.
    beating: Signal,
    /// Somebody may be to get a vote.
    promoting: Signal,
    answered: Cell<Option<HeartbeatAnswer>>,
    wants_shut_down: Cell<bool>,
    /// The last one that led, if it was another one.
    led: Cell<Option<PeerId>>,
    peers: OnceCell<Rc<Peers>>,
    /// Once its partitions are open: where committed records go.
    shard: OnceCell<Rc<Shard>>,
}

impl MetadataQuorum {
    /// Goes on where the start has ended, whose image it is.
    pub fn start(
        metadata: Metadata,
        image: Image,
        around: Around,
        config: Rc<Config>,
    ) -> io::Result<Rc<MetadataQuorum>> {
        let (quorum, log) = metadata.into_parts();
        let (leading, applied) = (quorum.is_leader(), quorum.applied().0);
        let (cluster, is_alone) = (quorum.cluster(), around.introduction.is_none());
        let clock = Clock::new();
        let heartbeats = Heartbeats::new(config.broker_session_timeout, clock.mono());
        let log_size = log.size();
        let started = Rc::new_cyclic(|weak| MetadataQuorum {
            quorum: RefCell::new(quorum),
            leading_since: Cell::new(clock.mono()),
            heard: RefCell::default(),
            clock,
            log: RefCell::new(Some(log)),
            log_turn: Semaphore::new(1),
            persists: RefCell::default(),
            persists_waiting: Signal::default(),
            decided: RefCell::default(),
            decided_waiting: Signal::default(),
            proposals: Answers::default(),
            turn: Semaphore::new(1),
            leading: Cell::new(leading),
            has_failed: Cell::new(false),
            snapshot_wanted: Cell::new(false),
            compaction: Compaction::of(log_size, config.metadata_bytes_between_snapshots),
            applied: Cell::new(applied),
            progressed: Broadcast::default(),
            early: RefCell::new(Early { image, ..Early::default() }),
            started: RefCell::default(),
            anew: RefCell::default(),
            told_doubtful: RefCell::default(),
            told: Cell::new(None),
            heartbeats: RefCell::new(heartbeats),
            config,
            looking: Signal::default(),
            elections: Elections::default(),
            beating: Signal::default(),
            promoting: Signal::default(),
            answered: Cell::new(None),
            wants_shut_down: Cell::new(false),
            led: Cell::new(None),
            peers: around.introduction.map_or_else(OnceCell::new, |introduction| {
                OnceCell::from(Rc::new(Peers::new(introduction, cluster, weak.clone())))
            }),
            shard: OnceCell::new(),
        });
        glommio::spawn_local(write(started.clone())).detach();
        glommio::spawn_local(apply(started.clone())).detach();
        if !is_alone {
            glommio::spawn_local(tick(started.clone())).detach();
            glommio::spawn_local(members::promote(started.clone())).detach();
            glommio::spawn_local(lifecycle::look(started.clone())).detach();
        }
        glommio::spawn_local(elections::hold(started.clone())).detach();
        if let Some(address) = around.listen {
            listen(&started, address)?;
        }
        Ok(started)
    }

    /// All shards have opened the partitions of the image that the registration ended with: what was committed since,
    /// and what will be, is applied to them.
    pub fn attach(&self, shard: &Rc<Shard>) {
        let early = std::mem::take(&mut *self.early.borrow_mut());
        let since = early.since.expect("it was registered before");
        let mut decided = self.decided.borrow_mut();
        since.into_iter().rev().for_each(|before| decided.push_front(before));
        // It decides again once the shards have all of that.
        if self.leading.replace(false) {
            decided.push_back(Decided::Leading { term: self.quorum.borrow().term() });
        }
        assert!(self.shard.set(shard.clone()).is_ok(), "it is attached once");
        self.decided_waiting.notify();
    }

    pub fn attached(&self) -> Option<Rc<Shard>> {
        self.shard.get().cloned()
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn peers(&self) -> Option<Rc<Peers>> {
        self.peers.get().cloned()
    }

    pub fn turn(&self) -> &Semaphore {
        &self.turn
    }

    /// Whether this node decides.
    pub fn is_leading(&self) -> bool {
        self.leading.get() && !self.has_failed.get()
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    pub fn leader(&self) -> Option<PeerId> {
        self.quorum.borrow().leader()
    }

    pub fn applied_index(&self) -> u64 {
        self.applied.get()
    }

    /// Until an entry has been applied here, or the time is over.
    pub async fn applied(&self, index: u64, time_max: Duration) {
        let mut timeout = pin!(glommio::timer::sleep(time_max));
        while self.applied.get() < index && !self.has_failed.get() {
            let progressed = pin!(self.progressed.notified());
            if let Either::Right(_) = select(progressed, timeout.as_mut()).await {
                return;
            }
        }
    }

    /// Looks at the image, as far as it was applied here.
    pub fn with_image<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        match self.shard.get() {
            Some(shard) => look(&shard.image.borrow()),
            None => look(&self.early.borrow().image),
        }
    }

    /// What topics inherit, as far as it was applied here.
    fn topic_defaults(&self) -> TopicDefaults {
        self.with_image(|image| topic_defaults_in(&self.config, image, self.me().node()))
    }

    /// A message of the quorum's protocol.
    pub fn receive(&self, message: Message) {
        if self.quorum.borrow().members().contains(message.from) {
            self.heard.borrow_mut().insert(message.from, self.clock.mono());
        }
        self.step(Event::Received(message));
    }

    /// What became of a message to a member.
    pub fn sent(&self, to: PeerId, kind: MessageKind, delivered: bool) {
        if kind == MessageKind::Snapshot {
            self.step(Event::SnapshotSent { to, delivered });
        } else if !delivered {
            self.step(Event::Unreachable(to));
        }
    }

    /// Whether a member has said something lately.
    fn is_heard(&self, peer: PeerId) -> bool {
        let heard = self.heard.borrow().get(&peer).copied();
        heard.is_some_and(|heard| self.clock.mono().since(heard) < SILENCE_MAX)
    }

    /// Whether nothing was heard of a member for so long that it does not run, as far as this leader can know.
    fn is_silent(&self, peer: PeerId) -> bool {
        let leads_for = self.clock.mono().since(self.leading_since.get());
        self.is_leading() && leads_for >= SILENCE_MAX && peer != self.me() && !self.is_heard(peer)
    }

    pub fn term(&self) -> u64 {
        self.quorum.borrow().term()
    }

    /// What is committed, as far as this node knows: at least what any member has applied, where it leads.
    pub fn committed(&self) -> u64 {
        self.quorum.borrow().committed()
    }

    /// This node stops: another voter that has caught up decides from now on, if there is one.
    pub async fn hand_over(&self) {
        const TIME_MAX: Duration = Duration::from_secs(1);
        const LOOK: Duration = Duration::from_millis(10);
        let Some(next) = self.successor() else { return };
        self.step(Event::Transfer(next));
        let begun = self.clock.mono();
        while self.quorum.borrow().is_leader() && self.clock.mono().since(begun) < TIME_MAX {
            glommio::timer::sleep(LOOK).await;
        }
    }

    fn successor(&self) -> Option<PeerId> {
        let quorum = self.quorum.borrow();
        let progress = quorum.progress();
        let others = quorum.members().voters.iter().filter(|peer| **peer != quorum.me());
        let alive = others.filter(|peer| self.is_heard(**peer));
        alive.max_by_key(|peer| progress.get(*peer)).copied()
    }

    fn me(&self) -> PeerId {
        self.quorum.borrow().me()
    }

    fn cluster(&self) -> Uuid {
        self.quorum.borrow().cluster()
    }

    /// Records of which each makes sense without those behind it: a crash in between leaves the first of them. Others
    /// decide meanwhile only once all of them are applied: the caller has the turn.
    async fn commit_all(&self, records: Vec<Record>) -> Result<(), CommitError> {
        let decided = self.leading_since.get();
        for part in records.chunks(RECORDS_PER_PART_MAX) {
            self.commit_decided(part.to_vec(), decided).await?;
        }
        Ok(())
    }

    async fn change_members(&self, change: MemberChange) -> Result<(), CommitError> {
        let waiting = self.proposals.ask();
        self.step(Event::ChangeMembers { ticket: Ticket(waiting.number()), change });
        outcome_of(waiting.answer().await)
    }

    /// Makes records durable on a majority and applies them on every shard. Given up, it goes on by itself.
    pub async fn commit(&self, records: Vec<Record>) -> Result<(), CommitError> {
        self.commit_decided(records, self.leading_since.get()).await
    }

    /// The same of what was decided while this node led since then. What was decided before somebody else led, or on the
    /// image that shards have opened and not caught up from, would contradict what was committed since: two leaders of
    /// one epoch.
    async fn commit_decided(&self, records: Vec<Record>, decided: Mono) -> Result<(), CommitError> {
        self.with_image(|image| check_levels(image, &records))?;
        let size = records.iter().map(Record::encoded_size_max).sum::<usize>();
        let frees = records.iter().all(|record| matches!(record, Record::TopicDeleted { .. }));
        let purpose = if frees { Purpose::Frees } else { Purpose::Other };
        self.make_room(FrameWriter::frame_size_max(size), purpose).await?;
        if !self.is_leading() || self.leading_since.get() != decided {
            return Err(CommitError::Refused(ProposalRejected::NotLeader { leader: self.leader() }));
        }
        let unclean = self.with_image(|image| unclean(image, &records));
        let waiting = self.proposals.ask();
        self.step(Event::Propose { ticket: Ticket(waiting.number()), records });
        outcome_of(waiting.answer().await)?;
        self.tell_of_unclean(&unclean);
        Ok(())
    }

    /// What is known of the quorum; `None` where another node leads it.
    pub fn state(&self, shard: &Shard) -> Option<QuorumState> {
        let quorum = self.quorum.borrow();
        if self.has_failed.get() || !quorum.is_leader() {
            return None;
        }
        let now = shard.clock.wall();
        let progress = quorum.progress();
        let member = |peer: &PeerId| {
            let is_me = *peer == quorum.me();
            let heard = (is_me || self.is_heard(*peer)).then_some(now);
            QuorumMember {
                node: peer.node(),
                directory: shard.log_dirs.id(LogDirIndex::METADATA).filter(|_| is_me),
                flushed: progress.get(peer).copied(),
                heard,
                caught_up: heard.filter(|_| progress.get(peer) >= Some(&quorum.committed())),
            }
        };
        let Members { voters, observers } = quorum.members();
        let of_all = |peers: &BTreeSet<PeerId>| {
            let mut members: Vec<QuorumMember> = peers.iter().map(member).collect();
            members.sort_by_key(|member| member.node);
            members
        };
        Some(QuorumState {
            leader: quorum.me().node(),
            term: quorum.term(),
            committed: quorum.committed(),
            voters: of_all(voters),
            observers: of_all(observers),
        })
    }

    async fn make_room(&self, size: u64, purpose: Purpose) -> Result<(), CommitError> {
        let _turn = self.log_turn.acquire_permit(1).await.map_err(|_| CommitError::Failed)?;
        let log = self.log.borrow_mut().take().ok_or(CommitError::Failed)?;
        let (log, result) = blocking(move || {
            let result = log.make_room(size, purpose);
            (log, result)
        })
        .await;
        *self.log.borrow_mut() = Some(log);
        Ok(result?)
    }

    pub fn step(&self, event: Event) {
        if self.has_failed.get() {
            if let Event::Propose { ticket, .. } | Event::ChangeMembers { ticket, .. } = event {
                self.proposals.complete(ticket.0, Err(()));
            }
            return;
        }
        let mut effects = Vec::new();
        self.quorum.borrow_mut().step(event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Persist(persist) => {
                    self.persists.borrow_mut().push_back(persist);
                    self.persists_waiting.notify();
                }
                Effect::Apply { index, records, .. } => {
                    self.decide(Decided::Records { index, records: records.into() });
                }
                Effect::Restore { index, records } => self.decide(Decided::Restore { index, records }),
                Effect::Answer { ticket, outcome } => self.decide(Decided::Answer(ticket, outcome)),
                Effect::Stop(stop) => {
                    tracing::error!(%stop, "the metadata quorum has stopped on this node");
                    self.fail();
                }
                Effect::Send(message) => self.send(&message),
                Effect::SnapshotWanted => {
                    self.snapshot_wanted.set(true);
                    self.decided_waiting.notify();
                }
                Effect::Refused { from, reason } => {
                    tracing::warn!(?from, %reason, "a message of the metadata quorum was passed over");
                }
                Effect::Elected { term } => tracing::info!(term, "this node was elected by the quorum"),
                Effect::Leading { term } => self.decide(Decided::Leading { term }),
                Effect::Following { term, leader } => {
                    self.leading.set(false);
                    if let Some(leader) = leader {
                        self.led.set(Some(leader));
                        self.beating.notify();
                        tracing::info!(term, leader = leader.node().0, "another node leads the quorum");
                    }
                }
                Effect::MembersChanged(members) => {
                    let ids = |peers: &BTreeSet<PeerId>| {
                        peers.iter().map(|peer| peer.node().0).collect::<BTreeSet<_>>()
                    };
                    let (voters, observers) = (ids(&members.voters), ids(&members.observers));
                    tracing::info!(?voters, ?observers, "the members of the quorum have changed");
                }
            }
        }
    }

    fn send(&self, message: &Message) {
        if let Some(peers) = self.peers.get() {
            peers.send(message);
        }
    }

    fn decide(&self, decided: Decided) {
        self.decided.borrow_mut().push_back(decided);
        self.decided_waiting.notify();
    }

    /// For good: what is on disk is not known.
    fn fail(&self) {
        self.has_failed.set(true);
        self.leading.set(false);
        self.proposals.complete_all(|| Err(()));
        self.progressed.notify_all();
    }

    /// What the next flush is for: appends share a frame as long as one holds them.
    fn next_persist(&self) -> Option<Persist> {
        let mut persists = self.persists.borrow_mut();
        let mut first = persists.pop_front()?;
        while let Some(next) = persists.pop_front() {
            let Persist { number, what, then_send } = next;
            let kept = match (&mut first.what, what) {
                (_, None) => None,
                (None, Some(Written::Append(write))) => {
                    first.what = Some(Written::Append(write));
                    None
                }
                (
                    Some(Written::Append(before) | Written::Replace { write: before, .. }),
                    Some(Written::Append(write)),
                ) => before.absorb(write).map(Written::Append),
                (_, Some(replacement @ Written::Replace { .. })) => Some(replacement),
            };
            if kept.is_some() {
                persists.push_front(Persist { number, what: kept, then_send });
                break;
            }
            first.number = number;
            first.then_send.extend(then_send);
        }
        Some(first)
    }

    /// Nothing is written any more once this returns, and nothing is under way.
    pub async fn end(&self) {
        if let Ok(turn) = self.log_turn.acquire_permit(1).await {
            std::mem::forget(turn); // For good.
        }
    }

    async fn write_one(&self, persist: Persist) -> Result<(), CommitError> {
        if let Some(written) = persist.what {
            let _turn = self.log_turn.acquire_permit(1).await.map_err(|_| CommitError::Failed)?;
            let mut log = self.log.borrow_mut().take().ok_or(CommitError::Failed)?;
            let (log, result) = blocking(move || {
                let is_replacement = matches!(written, Written::Replace { .. });
                let result = log.write(&written).map(|()| is_replacement);
                (log, result)
            })
            .await;
            // Never tried again on the same file.
            let is_replaced = result?;
            self.log_grown(log.size(), is_replaced);
            *self.log.borrow_mut() = Some(log);
        }
        persist.then_send.iter().for_each(|message| self.send(message));
        self.step(Event::Persisted(persist.number));
        Ok(())
    }
}

fn outcome_of(outcome: Result<Outcome, ()>) -> Result<(), CommitError> {
    match outcome {
        Ok(Outcome::Committed { .. }) => Ok(()),
        Ok(Outcome::Refused(reason)) => Err(CommitError::Refused(reason)),
        Ok(Outcome::Unknown) => Err(CommitError::Unknown),
        Err(()) => Err(CommitError::Failed),
    }
}

/// Writes one frame after the other.
async fn write(quorum: Rc<MetadataQuorum>) {
    loop {
        let Some(persist) = quorum.next_persist() else {
            quorum.persists_waiting.notified().await;
            continue;
        };
        if let Err(error) = quorum.write_one(persist).await {
            tracing::error!(%error, "a change of the metadata failed");
            if let Some(shard) = quorum.shard.get() {
                shard.stores.get(LogDirIndex::METADATA).fail(&error.to_string());
            }
            quorum.fail();
            return;
        }
    }
}

/// Time goes by for the quorum.
async fn tick(quorum: Rc<MetadataQuorum>) {
    while !quorum.has_failed.get() {
        glommio::timer::sleep(TICK).await;
        quorum.step(Event::Tick);
    }
}

/// Applies what is committed, in order: on every shard, and answers then: a client that was told of a topic finds it on
/// whichever core it connects to next. Before there are shards, to an image that the start is told of.
async fn apply(quorum: Rc<MetadataQuorum>) {
    loop {
        let decided = quorum.decided.borrow_mut().pop_front();
        match decided {
            None if quorum.is_compaction_due() && quorum.has_room_to_compact().await => {
                // What was decided meanwhile is applied first: the image is to be as of the last entry that was.
                if quorum.decided.borrow().is_empty() {
                    quorum.compact();
                }
            }
            None if quorum.snapshot_wanted.replace(false) => {
                // Nothing is waiting: the image is as of the last entry that was applied.
                let records = quorum.with_image(Image::snapshot);
                quorum.step(Event::SnapshotTaken { records });
            }
            None => quorum.decided_waiting.notified().await,
            Some(Decided::Answer(ticket, outcome)) => quorum.proposals.complete(ticket.0, Ok(outcome)),
            Some(Decided::Leading { term }) => quorum.begin_to_lead(term),
            Some(Decided::Records { index, records }) => {
                if !records.is_empty() {
                    quorum.apply_records(index, records).await;
                }
                quorum.has_applied(index);
            }
            Some(Decided::Restore { index, records }) => {
                let after = match Image::rebuild(&records) {
                    Ok(after) => after,
                    Err(error) => {
                        tracing::error!(%error, "the leader's snapshot of the metadata makes no image");
                        return quorum.fail();
                    }
                };
                // What this node has to let go is gone before it comes again.
                let own = quorum.with_image(|image| replicas_gone(image, &after, Some(quorum.me().node())));
                if !own.is_empty() {
                    quorum.apply_records(index, own.into()).await;
                }
                // What others had to is passed over in one step: nobody takes a role of in between.
                let records = quorum.with_image(|image| {
                    let mut records = replicas_gone(image, &after, None);
                    let mut without = image.clone();
                    for record in &records {
                        without.apply(record).expect("it takes a replica away");
                    }
                    records.extend(difference(&without, &after));
                    records
                });
                quorum.apply_records(index, records.into()).await;
                quorum.has_applied(index);
            }
        }
    }
}

impl MetadataQuorum {
    async fn apply_records(&self, index: u64, records: Arc<[Record]>) {
        if let Some(shard) = self.shard.get() {
            apply_everywhere(shard, records.clone()).await;
            return self.may_elect_after(&records);
        }
        let mut early = self.early.borrow_mut();
        for record in records.iter() {
            early.image.apply(record).expect("it was decided on this image");
            if let Record::TopicDeleted { topic } = record {
                early.deleted.insert(*topic);
            }
        }
        if let Some(since) = &mut early.since {
            since.push_back(Decided::Records { index, records });
        }
    }

    fn begin_to_lead(&self, term: u64) {
        let quorum = self.quorum.borrow();
        if quorum.is_leader() && quorum.term() == term {
            self.leading.set(true);
            self.leading_since.set(self.clock.mono());
            drop(quorum);
            self.begin_to_look();
            self.begin_to_elect();
        }
    }

    fn has_applied(&self, index: u64) {
        self.applied.set(self.applied.get().max(index));
        self.progressed.notify_all();
    }
}

async fn apply_everywhere(shard: &Rc<Shard>, records: Arc<[Record]>) {
    let _turn = shard.handovers.turn.acquire_permit(1).await.expect("it is never closed");
    let others = || (0..shard.mesh.shard_count()).map(|at| ShardId(at as u16)).filter(|to| *to != shard.id);
    // Where a replica comes to there may be what another shard has not removed yet.
    if partitions::come_here(shard, &records) {
        shard.removals.all_ended().await;
        for other in others() {
            shard.mesh.call(other, Request::EndRemovals).await;
        }
    }
    let handed = handover::begin(shard, &records).await;
    let mut tickets = Vec::new();
    for to in others() {
        tickets.push(shard.mesh.ask(to, Request::Apply(records.clone())).await);
    }
    let changes = partitions::apply(shard, &records);
    partitions::carry_out(shard, changes).await;
    for ticket in tickets {
        shard.mesh.reply(ticket).await;
    }
    handover::complete(shard, handed).await;
}

#[cfg(test)]
mod tests;
