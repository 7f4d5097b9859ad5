//! The leader of a partition: what its followers get, and how far the high watermark is.
//!
//! ```text
//!   log_start ≤ high_watermark ≤ flushed_end ≤ issued_end ≤ log_end
//!   │ clients  │ read             │ flushed     │ pushed to    │ appended
//!   │ may read │ and acknowledged │ here        │ followers    │
//! ```
//!
//! The high watermark is the lowest flushed end over the maximal in-sync set, the leader included; it never
//! moves back, and stands still while fewer than `min.insync.replicas` are in sync (KIP-966). The log start that
//! clients see goes by the same rule: it moves once all in-sync replicas have flushed it, so that no later
//! leader shows an earlier one.
//!
//! Source: KIP-101, 207, 279, 320, 497, 903, 966; Kafka `Partition.scala`; hachikuji/kafka-specification
//! `Kip320`, `AsyncIsr`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::codec::replication::{Acknowledgement, Alignment, AlignmentOutcome, Refusal, Statement};
use crate::log::epochs::{EpochStart, LeaderEpochs};
use crate::replication::divergence::{Divergence, FirstBatch, LogEnds, divergence};
use crate::replication::in_sync::{Committed, InSync, Proposal};
use crate::replication::produces::{Acks, ProduceId, ProduceOutcome, Produces};
use crate::replication::progress::{Progress, Session};
use crate::replication::{EpochRefused, check_epoch};
use crate::types::{BrokerEpoch, LeaderEpoch, Mono, NodeId, Offset, PartitionEpoch};

#[derive(Clone, Copy, Debug)]
pub struct LeaderSettings {
    /// `min.insync.replicas`, counting the leader, and never more than there are replicas.
    pub in_sync_min: usize,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
    /// After which a proposal that was not answered is sent again, or one that was refused is made anew.
    pub proposal_patience: Duration,
}

/// What a leadership begins with.
#[derive(Clone, Debug)]
pub struct LeaderStart {
    pub node: NodeId,
    pub epoch: LeaderEpoch,
    /// All of them, this node among them.
    pub replicas: Vec<NodeId>,
    pub in_sync: Committed,
    /// Where the log begins, and where it does for certain: that move is flushed.
    pub log_start: Offset,
    pub log_start_flushed: Offset,
    pub log_end: Offset,
    pub flushed_end: Offset,
    /// The highest that this replica knows.
    pub high_watermark: Offset,
    pub settings: LeaderSettings,
    pub now: Mono,
}

#[derive(Clone, Debug)]
pub enum Event<'a> {
    Appended {
        log_end: Offset,
    },
    /// The write of everything below was issued, and its bytes are at hand.
    Issued {
        end: Offset,
    },
    Flushed {
        flushed_end: Offset,
    },
    /// Retention or an administrator wants the log to begin there.
    LogStartWanted {
        log_start: Offset,
    },
    /// That it does is flushed.
    LogStartFlushed {
        log_start: Offset,
    },
    Stated {
        replica: NodeId,
        broker_epoch: BrokerEpoch,
        statement: &'a Statement,
        /// Of this log.
        epochs: &'a LeaderEpochs,
        now: Mono,
    },
    Acknowledged {
        replica: NodeId,
        broker_epoch: BrokerEpoch,
        acknowledgement: &'a Acknowledgement,
        now: Mono,
    },
    IsrCommitted(Committed),
    /// All of them, this node among them; under the same leader epoch none has gone.
    ReplicasChanged {
        replicas: &'a [NodeId],
        now: Mono,
    },
    ProposalRefused {
        partition_epoch: PartitionEpoch,
        now: Mono,
    },
    /// The topic's properties are others.
    Configured {
        settings: LeaderSettings,
    },
    Tick {
        now: Mono,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answers a statement.
    Align {
        replica: NodeId,
        alignment: Alignment,
    },
    /// [`Leader::to_send`] has something for it.
    Send {
        replica: NodeId,
    },
    AdvanceHighWatermark(Offset),
    /// Clients see it from now on, and what lies below may go.
    AdvanceLogStart(Offset),
    /// To be written to the log and flushed; what lies below stays readable for now.
    MoveLogStart(Offset),
    Propose(Proposal),
    Answer {
        produce: ProduceId,
        outcome: ProduceOutcome,
    },
    RejectAck {
        replica: NodeId,
        reason: AckRejected,
    },
}

/// Why a follower's acknowledgement means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckRejected {
    #[error(transparent)]
    Epoch(#[from] EpochRefused),
    #[error("node {0:?} is no replica")]
    NoReplica(NodeId),
    #[error("it belongs to a session that is over")]
    Session,
    #[error("{flushed_end} is acknowledged, {sent_end} was sent")]
    BeyondSent { flushed_end: Offset, sent_end: Offset },
}

/// Fewer are in sync than `min.insync.replicas`: nothing is appended (`NOT_ENOUGH_REPLICAS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{in_sync} replicas are in sync, {in_sync_min} have to be")]
pub struct NotEnoughReplicas {
    pub in_sync: usize,
    pub in_sync_min: usize,
}

/// What a follower gets next; `from` to `to` may be nothing, and then the rest is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToSend {
    pub session: u32,
    pub from: Offset,
    pub to: Offset,
    pub high_watermark: Offset,
    pub log_start: Offset,
}

/// Lives: one per led partition, on its owner shard, as long as the leadership. Pure: no clock, no I/O.
/// Invariant: log_start ≤ high_watermark ≤ flushed_end ≤ log_end and issued_end ≤ log_end; the high watermark
/// and the log start never move back.
#[derive(Clone, Debug)]
pub struct Leader {
    node: NodeId,
    epoch: LeaderEpoch,
    /// The log's end when the leadership began.
    epoch_start: Offset,
    /// Below it nothing is read any more.
    log_start: Offset,
    /// Where it, or where a follower's begins, lies within a batch, once that was seen.
    first_batch: Option<FirstBatch>,
    /// Every in-sync replica has it: no later leader shows an earlier one.
    is_log_start_known: bool,
    /// As it is flushed here, and as it is wanted.
    log_start_flushed: Offset,
    log_start_wanted: Offset,
    log_end: Offset,
    issued_end: Offset,
    flushed_end: Offset,
    high_watermark: Offset,
    in_sync: InSync,
    /// Every other replica. Ordered, so runs replay.
    followers: BTreeMap<NodeId, Progress>,
    produces: Produces,
    settings: LeaderSettings,
    /// Not before then is another proposal made: one was refused.
    propose_after: Mono,
}

impl Leader {
    pub fn new(start: LeaderStart) -> Leader {
        assert!(start.log_start_flushed <= start.log_start, "flushed before it was written");
        assert!(start.log_start <= start.high_watermark, "a high watermark below the log");
        assert!(start.high_watermark <= start.flushed_end, "a high watermark beyond what is flushed");
        assert!(start.flushed_end <= start.log_end);
        assert!(start.settings.in_sync_min > 0, "a leader counts as in sync");
        let others = start.replicas.iter().filter(|replica| **replica != start.node);
        let followers = others.map(|replica| (*replica, Progress::new(start.now, start.log_end)));
        Leader {
            node: start.node,
            epoch: start.epoch,
            epoch_start: start.log_end,
            log_start: start.log_start_flushed,
            first_batch: None,
            is_log_start_known: start.log_start_flushed == Offset::ZERO,
            log_start_flushed: start.log_start_flushed,
            log_start_wanted: start.log_start,
            log_end: start.log_end,
            issued_end: start.log_end,
            flushed_end: start.flushed_end,
            high_watermark: start.high_watermark,
            in_sync: InSync::new(start.in_sync),
            followers: followers.collect(),
            produces: Produces::default(),
            settings: start.settings,
            propose_after: start.now,
        }
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Whether clients may be told of the log start.
    pub fn is_log_start_known(&self) -> bool {
        self.is_log_start_known
    }

    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    pub fn in_sync(&self) -> &InSync {
        &self.in_sync
    }

    pub fn follower(&self, replica: NodeId) -> Option<&Progress> {
        self.followers.get(&replica)
    }

    pub fn parked_count(&self) -> usize {
        self.produces.count()
    }

    /// Takes one event and pushes what follows from it. Never blocks, never fails.
    pub fn step(&mut self, event: Event<'_>, effects: &mut Vec<Effect>) {
        match event {
            Event::Appended { log_end } => {
                assert!(self.log_end <= log_end, "the log shrank under its leader");
                self.log_end = log_end;
            }
            Event::Issued { end } => self.issue(end, effects),
            Event::Flushed { flushed_end } => {
                assert!(self.flushed_end <= flushed_end, "what was flushed is gone");
                self.flushed_end = flushed_end;
                effects.extend(self.produces.flushed(flushed_end).map(done));
            }
            Event::LogStartWanted { log_start } => self.want_log_start(log_start, effects),
            Event::LogStartFlushed { log_start } => {
                self.log_start_flushed = self.log_start_flushed.max(log_start);
            }
            Event::Stated { replica, broker_epoch, statement, epochs, now } => {
                self.align(
                    replica,
                    Session { broker_epoch, number: statement.session },
                    statement,
                    epochs,
                    now,
                    effects,
                );
                self.propose(now, effects);
            }
            Event::Acknowledged { replica, broker_epoch, acknowledgement, now } => {
                let session = Session { broker_epoch, number: acknowledgement.session };
                match self.acknowledge(replica, session, acknowledgement, now) {
                    Ok(()) => self.propose(now, effects),
                    Err(reason) => effects.push(Effect::RejectAck { replica, reason }),
                }
            }
            Event::IsrCommitted(committed) => self.commit(committed, effects),
            Event::ReplicasChanged { replicas, now } => {
                for replica in replicas.iter().filter(|replica| **replica != self.node) {
                    self.followers.entry(*replica).or_insert_with(|| Progress::new(now, self.log_end));
                }
            }
            Event::ProposalRefused { partition_epoch, now } => {
                self.refuse(partition_epoch, now);
            }
            Event::Configured { settings } => {
                assert!(settings.in_sync_min > 0, "a leader counts as in sync");
                self.settings = settings;
            }
            Event::Tick { now } => {
                effects.extend(self.in_sync.again(now, self.settings.proposal_patience).map(Effect::Propose));
                self.propose(now, effects);
            }
        }
        self.advance(effects);
        assert!(self.log_start <= self.high_watermark);
        assert!(self.high_watermark <= self.flushed_end);
        assert!(self.flushed_end <= self.log_end);
        assert!(self.issued_end <= self.log_end);
    }

    /// The leadership is over: everybody who waits is told so.
    pub fn resign(mut self) -> Vec<Effect> {
        let outcome = ProduceOutcome::NotLeader;
        self.produces.take_all().map(|produce| Effect::Answer { produce, outcome }).collect()
    }

    // --- Producers

    /// Whether a batch may be appended.
    pub fn admit(&self, acks: Acks) -> Result<(), NotEnoughReplicas> {
        let (in_sync, in_sync_min) = (self.in_sync.committed().len(), self.settings.in_sync_min);
        match acks {
            Acks::All if in_sync < in_sync_min => Err(NotEnoughReplicas { in_sync, in_sync_min }),
            Acks::All | Acks::Leader => Ok(()),
        }
    }

    /// The answer to a batch that ends at `end`, appended now or, sent again, long ago.
    pub fn park(&mut self, produce: ProduceId, end: Offset, acks: Acks, effects: &mut Vec<Effect>) {
        assert!(end <= self.log_end, "an answer for what was not appended");
        let is_there = match acks {
            Acks::Leader => end <= self.flushed_end,
            Acks::All => end <= self.high_watermark,
        };
        match is_there {
            true if self.admit(acks).is_err() => effects.push(too_few(produce)),
            true => effects.push(done(produce)),
            false => self.produces.park(produce, end, acks),
        }
    }

    /// The client does not wait any more.
    pub fn forget(&mut self, produce: ProduceId) {
        self.produces.forget(produce);
    }

    // --- Followers

    /// Which nodes may come into an in-sync set, as far as the metadata say (Kafka `isReplicaIsrEligible`).
    pub fn note_eligible(&mut self, is_eligible: impl Fn(NodeId) -> bool) {
        self.followers.iter_mut().for_each(|(node, progress)| progress.is_eligible = is_eligible(*node));
    }

    /// The connection of a follower is gone: it has to state again before it is taken for one.
    pub fn lost(&mut self, replica: NodeId) {
        if let Some(progress) = self.followers.get_mut(&replica) {
            progress.is_following = false;
        }
    }

    /// What a follower gets next, if anything is there for it.
    pub fn to_send(&self, replica: NodeId) -> Option<ToSend> {
        let progress = self.followers.get(&replica).filter(|progress| progress.is_following)?;
        let session = progress.session?.number;
        let (high_watermark, log_start) = (self.high_watermark, self.log_start_wanted);
        let is_news = progress.told_high_watermark < high_watermark || progress.told_log_start < log_start;
        let (from, to) = (progress.sent_end, self.issued_end.max(progress.sent_end));
        (from < to || is_news).then_some(ToSend { session, from, to, high_watermark, log_start })
    }

    /// Whether a statement is older than what was last heard of its replica.
    pub fn knows_newer(&self, event: &Event<'_>) -> bool {
        let Event::Stated { replica, broker_epoch, statement, .. } = event else { return false };
        let session = Session { broker_epoch: *broker_epoch, number: statement.session };
        let progress = self.followers.get(replica);
        progress.and_then(|progress| progress.session).is_some_and(|known| session <= known)
    }

    /// A follower that is to begin there was found to need the whole batch.
    pub fn begins_within(&mut self, first_batch: FirstBatch) {
        self.first_batch = Some(first_batch);
    }

    /// Where to read what is to be sent from an offset on.
    pub fn reads_at(&self, from: Offset) -> Offset {
        let first = self.first_batch.filter(|first| first.base_offset == from);
        first.map_or(from, |first| first.within)
    }

    /// It was sent up to `to`, which may be less.
    pub fn sent(&mut self, replica: NodeId, sent: ToSend) {
        let Some(progress) = self.followers.get_mut(&replica) else { return };
        if progress.session.is_some_and(|session| session.number == sent.session) && progress.is_following {
            assert!(progress.sent_end == sent.from && sent.to <= self.issued_end.max(sent.from));
            progress.sent_end = sent.to;
            progress.told_high_watermark = sent.high_watermark;
            progress.told_log_start = sent.log_start;
        }
    }

    fn issue(&mut self, end: Offset, effects: &mut Vec<Effect>) {
        assert!(self.issued_end <= end, "writes are issued in order");
        assert!(end <= self.log_end);
        self.issued_end = end;
        self.send_to_all(effects);
    }

    fn send_to_all(&self, effects: &mut Vec<Effect>) {
        let following = self.followers.iter().filter(|(_, progress)| progress.is_following);
        effects.extend(following.map(|(replica, _)| Effect::Send { replica: *replica }));
    }

    /// A follower has said what it has. Until it agrees with this log nothing of it counts.
    fn align(
        &mut self,
        replica: NodeId,
        session: Session,
        statement: &Statement,
        epochs: &LeaderEpochs,
        now: Mono,
        effects: &mut Vec<Effect>,
    ) {
        // Under the epoch that was stated: the follower believes nobody else.
        let (partition, leader_epoch) = (statement.partition, statement.leader_epoch);
        let mut answer = |outcome| {
            let alignment = Alignment { partition, leader_epoch, session: session.number, outcome };
            effects.push(Effect::Align { replica, alignment });
        };
        match check_epoch(self.epoch, Some(statement.leader_epoch)) {
            Err(EpochRefused::Fenced { .. }) => {
                return answer(AlignmentOutcome::Refused(Refusal::FencedLeaderEpoch));
            }
            Err(EpochRefused::Unknown { .. }) => {
                return answer(AlignmentOutcome::Refused(Refusal::UnknownLeaderEpoch));
            }
            Ok(()) => {}
        }
        let Some(progress) = self.followers.get_mut(&replica) else {
            return answer(AlignmentOutcome::Refused(Refusal::NoReplica));
        };
        if progress.session.is_some_and(|known| session <= known) {
            return; // It came late, over a connection that is no more.
        }
        let stated: Vec<EpochStart> = statement
            .epochs
            .iter()
            .map(|stated| EpochStart { epoch: stated.epoch, start_offset: stated.start_offset })
            .collect();
        let of_leader =
            LogEnds { log_start: self.log_start, log_end: self.log_end, epochs: epochs.entries() };
        let of_follower =
            LogEnds { log_start: statement.log_start, log_end: statement.log_end, epochs: &stated };
        progress.session = Some(session);
        match divergence(of_leader, epochs, self.first_batch, of_follower) {
            Divergence::None => {
                progress.is_following = true;
                progress.sent_end = statement.log_end;
                progress.log_start = statement.log_start;
                (progress.told_high_watermark, progress.told_log_start) = (Offset::ZERO, Offset::ZERO);
                progress.seen(statement.flushed_end.min(statement.log_end), self.log_end, now);
                answer(AlignmentOutcome::Follow);
                effects.push(Effect::Send { replica });
            }
            Divergence::CutTo(end) => {
                // Below that end the two may still differ: it has stated its newest epochs only.
                progress.is_following = false;
                progress.seen(Offset::ZERO, self.log_end, now);
                answer(AlignmentOutcome::CutTo(end));
            }
            Divergence::StartOver(at) => {
                progress.is_following = false;
                progress.seen(Offset::ZERO, self.log_end, now);
                answer(AlignmentOutcome::StartOver(at));
            }
        }
    }

    fn acknowledge(
        &mut self,
        replica: NodeId,
        session: Session,
        ack: &Acknowledgement,
        now: Mono,
    ) -> Result<(), AckRejected> {
        check_epoch(self.epoch, Some(ack.leader_epoch))?;
        let progress = self.followers.get_mut(&replica).ok_or(AckRejected::NoReplica(replica))?;
        if progress.session != Some(session) || !progress.is_following {
            return Err(AckRejected::Session);
        }
        let (flushed_end, sent_end) = (ack.flushed_end, progress.sent_end);
        if flushed_end > sent_end {
            return Err(AckRejected::BeyondSent { flushed_end, sent_end });
        }
        progress.log_start = progress.log_start.max(ack.log_start);
        progress.seen(flushed_end, self.log_end, now);
        Ok(())
    }

    // --- Who is in sync

    fn commit(&mut self, committed: Committed, effects: &mut Vec<Effect>) {
        if self.in_sync.commit(committed) && self.admit(Acks::All).is_err() {
            effects.extend(self.produces.take_for_replicas().map(too_few));
        }
    }

    /// Whoever was to come in is not proposed again for a while; others are.
    fn refuse(&mut self, partition_epoch: PartitionEpoch, now: Mono) {
        let Some(refused) = self.in_sync.refused(partition_epoch) else { return };
        let later = now.after(self.settings.proposal_patience);
        self.propose_after = later;
        for (node, _) in refused.in_sync.iter().filter(|(_, broker_epoch)| broker_epoch.is_some()) {
            if let Some(progress) = self.followers.get_mut(node) {
                progress.propose_after = later;
                self.propose_after = now;
            }
        }
    }

    /// Who lags goes out and who has caught up comes in, one at a time: the controller refuses all or nothing, and
    /// nobody is to be kept out by another one that may not come in.
    fn propose(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        if self.in_sync.is_pending() || now < self.propose_after {
            return;
        }
        let committed = self.in_sync.committed();
        let lags = |node: &NodeId| {
            let progress = self.followers.get(node);
            progress.is_some_and(|progress| progress.is_lagging(self.log_end, now, self.settings.lag_max))
        };
        let stay = committed.iter().filter(|node| !lags(node));
        let mut in_sync: Vec<(NodeId, Option<BrokerEpoch>)> = stay.map(|node| (*node, None)).collect();
        let may_come = |(replica, progress): &(&NodeId, &Progress)| {
            !committed.contains(replica) && now >= progress.propose_after && self.has_caught_up(progress)
        };
        let comes = self.followers.iter().find(may_come);
        in_sync.extend(
            comes.map(|(replica, progress)| (*replica, progress.session.map(|session| session.broker_epoch))),
        );
        let is_change = comes.is_some() || in_sync.len() < committed.len();
        let is_away = |node| self.followers.get(&node).is_some_and(|progress| !progress.is_eligible);
        // Whoever was proposed in vain and lags, or is away, is not waited for any longer: the set as it is ends the
        // epoch.
        if is_change || self.in_sync.in_vain().any(|node| lags(&node) || is_away(node)) {
            effects.push(Effect::Propose(self.in_sync.propose(self.epoch, in_sync, now)));
        }
    }

    /// It has everything that may ever have been acknowledged: what this leader knows of, and what earlier ones
    /// acknowledged, which lies below the start of this epoch (Kafka `Partition.isFollowerInSync`).
    fn has_caught_up(&self, progress: &Progress) -> bool {
        progress.is_following
            && progress.is_eligible
            && progress.flushed_end >= self.high_watermark
            && progress.flushed_end >= self.epoch_start
            && progress.log_start >= self.log_start
    }

    // --- Watermarks

    fn want_log_start(&mut self, log_start: Offset, effects: &mut Vec<Effect>) {
        let log_start = log_start.min(self.high_watermark);
        if log_start > self.log_start_wanted {
            self.log_start_wanted = log_start;
            effects.push(Effect::MoveLogStart(log_start));
            self.send_to_all(effects);
        }
    }

    fn advance(&mut self, effects: &mut Vec<Effect>) {
        if self.in_sync.committed().len() < self.settings.in_sync_min {
            return;
        }
        let (mut flushed_end, mut log_start) = (self.flushed_end, self.log_start_flushed);
        for node in self.in_sync.maximal().filter(|node| *node != self.node) {
            // Of a node that is no replica (any more) nothing is known.
            let progress = self.followers.get(&node);
            flushed_end = flushed_end.min(progress.map_or(Offset::ZERO, |progress| progress.flushed_end));
            log_start = log_start.min(progress.map_or(Offset::ZERO, |progress| progress.log_start));
        }
        if flushed_end > self.high_watermark {
            self.high_watermark = flushed_end;
            effects.push(Effect::AdvanceHighWatermark(flushed_end));
            effects.extend(self.produces.replicated(flushed_end).map(done));
            self.send_to_all(effects);
        }
        self.is_log_start_known |= log_start >= self.log_start;
        if log_start > self.log_start {
            self.log_start = log_start;
            effects.push(Effect::AdvanceLogStart(log_start));
        }
    }
}

fn done(produce: ProduceId) -> Effect {
    Effect::Answer { produce, outcome: ProduceOutcome::Done }
}

fn too_few(produce: ProduceId) -> Effect {
    Effect::Answer { produce, outcome: ProduceOutcome::NotEnoughReplicasAfterAppend }
}

#[cfg(test)]
mod tests;
