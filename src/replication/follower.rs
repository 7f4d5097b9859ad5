//! A follower of a partition: what it believes, appends, cuts and acknowledges.
//!
//! ```text
//!            connected                Follow                appends in order
//!   Away ──────────────► Stating ───────────────► Following ───────────────► Following
//!    ▲                    ▲    │ CutTo, StartOver     │ a gap, or refused
//!    │ lost, refused      │    ▼                      ▼
//!    └── (any)            └─ Cutting ◄──────────── Stating
//! ```
//!
//! It cuts its log only where a leader of its own epoch says so, never to its high watermark (KIP-101, 279,
//! 320), and acknowledges only what it has flushed. What it takes for the high watermark lies within what it has
//! flushed: whatever it is told, it can lead with it.

use crate::codec::replication::{
    Acknowledgement, Alignment, AlignmentOutcome, Append, StatedEpoch, Statement,
};
use crate::log::epochs::LeaderEpochs;
use crate::types::limits::STATED_EPOCHS_MAX;
use crate::types::{LeaderEpoch, Offset, TopicPartition};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No connection, or a leader that does not answer as one.
    Away,
    Stating,
    Cutting,
    Following,
}

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A connection to the leader is there, or is to be tried again.
    Connected,
    Lost,
    Aligned(&'a Alignment),
    /// Its batches were checked: they are whole, follow each other, and end at `end`.
    Received {
        append: &'a Append,
        end: Offset,
    },
    /// What [`Effect::CutTo`] or [`Effect::StartOver`] asked for is flushed.
    Cut,
    Flushed {
        flushed_end: Offset,
    },
    LogStartFlushed {
        log_start: Offset,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// [`Follower::statement`] goes to the leader.
    State,
    CutTo(Offset),
    /// Everything goes; the log begins there.
    StartOver(Offset),
    /// The batches of the message go to the log, which then ends at `end`.
    Append {
        end: Offset,
    },
    MoveLogStart(Offset),
    Acknowledge {
        flushed_end: Offset,
        log_start: Offset,
    },
    AdvanceHighWatermark(Offset),
    /// The leader is not what this replica takes it for, or the other way round: news of the cluster are due,
    /// or a while.
    Retry,
    Reject(Rejected),
}

/// Why a message of a leader means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the leader's epoch {stated:?} is not {current:?}")]
    Epoch { stated: LeaderEpoch, current: LeaderEpoch },
    #[error("it belongs to a session that is over")]
    Session,
    #[error("it continues at {base_offset}, the log ends at {log_end}")]
    Gap { base_offset: Offset, log_end: Offset },
}

/// What following begins with.
#[derive(Clone, Copy, Debug)]
pub struct FollowerStart {
    pub partition: TopicPartition,
    pub epoch: LeaderEpoch,
    /// Where the log begins, and where it does for certain: that move is flushed.
    pub log_start: Offset,
    pub log_start_flushed: Offset,
    pub log_end: Offset,
    pub flushed_end: Offset,
    /// The highest that this replica knows.
    pub high_watermark: Offset,
    /// Sessions of this process with leaders of this partition so far.
    pub sessions: u32,
}

/// Lives: one per followed partition and leader epoch, on its owner shard. Pure: no clock, no I/O.
/// Invariant: log_start ≤ high_watermark ≤ flushed_end ≤ log_end.
#[derive(Clone, Debug)]
pub struct Follower {
    partition: TopicPartition,
    epoch: LeaderEpoch,
    phase: Phase,
    session: u32,
    log_start: Offset,
    log_start_flushed: Offset,
    log_end: Offset,
    flushed_end: Offset,
    high_watermark: Offset,
    /// As the leader said in this session; it may lie beyond this log.
    leader_high_watermark: Offset,
    leader_log_start: Offset,
    acknowledged: Option<(Offset, Offset)>,
}

impl Follower {
    pub fn new(start: FollowerStart) -> Follower {
        assert!(start.log_start_flushed <= start.log_start, "flushed before it was written");
        assert!(start.log_start <= start.high_watermark, "a high watermark below the log");
        assert!(start.high_watermark <= start.flushed_end, "a high watermark beyond what is flushed");
        assert!(start.flushed_end <= start.log_end);
        Follower {
            partition: start.partition,
            epoch: start.epoch,
            phase: Phase::Away,
            session: start.sessions,
            log_start: start.log_start,
            log_start_flushed: start.log_start_flushed,
            log_end: start.log_end,
            flushed_end: start.flushed_end,
            high_watermark: start.high_watermark,
            leader_high_watermark: Offset::ZERO,
            leader_log_start: Offset::ZERO,
            acknowledged: None,
        }
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Sessions so far: the next follower of this process goes on from there.
    pub fn sessions(&self) -> u32 {
        self.session
    }

    pub fn is_following(&self) -> bool {
        self.phase == Phase::Following
    }

    pub fn is_away(&self) -> bool {
        self.phase == Phase::Away
    }

    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// What goes to the leader for [`Effect::State`]. `epochs` are those of this log.
    pub fn statement(&self, epochs: &LeaderEpochs) -> Statement {
        let entries = epochs.entries();
        let stated = &entries[entries.len().saturating_sub(STATED_EPOCHS_MAX)..];
        let stated =
            stated.iter().map(|entry| StatedEpoch { epoch: entry.epoch, start_offset: entry.start_offset });
        Statement {
            partition: self.partition,
            leader_epoch: self.epoch,
            session: self.session,
            log_start: self.log_start_flushed,
            log_end: self.log_end,
            flushed_end: self.flushed_end,
            epochs: stated.collect(),
        }
    }

    /// What goes to the leader for [`Effect::Acknowledge`].
    pub fn acknowledgement(&self, flushed_end: Offset, log_start: Offset) -> Acknowledgement {
        let (leader_epoch, session) = (self.epoch, self.session);
        Acknowledgement { partition: self.partition, leader_epoch, session, flushed_end, log_start }
    }

    /// Takes one event and pushes what follows from it. Never blocks, never fails.
    pub fn step(&mut self, event: Event<'_>, effects: &mut Vec<Effect>) {
        match event {
            Event::Connected => self.state(effects),
            Event::Lost => self.phase = Phase::Away,
            Event::Aligned(alignment) => match self.is_ours(alignment.leader_epoch, alignment.session) {
                Ok(()) if self.phase == Phase::Stating => self.align(alignment.outcome, effects),
                Ok(()) => effects.push(Effect::Reject(Rejected::Session)),
                Err(reason) => effects.push(Effect::Reject(reason)),
            },
            Event::Received { append, end } => self.receive(append, end, effects),
            Event::Cut => {
                if self.phase == Phase::Cutting {
                    self.state(effects);
                }
            }
            Event::Flushed { flushed_end } => {
                assert!(flushed_end <= self.log_end, "flushed beyond the log");
                assert!(self.flushed_end <= flushed_end, "what was flushed is gone");
                self.flushed_end = flushed_end;
            }
            Event::LogStartFlushed { log_start } => {
                self.log_start_flushed = self.log_start_flushed.max(log_start);
            }
        }
        self.advance(effects);
        assert!(self.log_start <= self.high_watermark);
        assert!(self.high_watermark <= self.flushed_end);
        assert!(self.flushed_end <= self.log_end);
    }

    fn state(&mut self, effects: &mut Vec<Effect>) {
        self.session += 1;
        self.phase = Phase::Stating;
        (self.leader_high_watermark, self.leader_log_start) = (Offset::ZERO, Offset::ZERO);
        self.acknowledged = None;
        effects.push(Effect::State);
    }

    /// Only a leader of the epoch that this replica follows is believed, in the session that it answers.
    fn is_ours(&self, epoch: LeaderEpoch, session: u32) -> Result<(), Rejected> {
        if epoch != self.epoch {
            return Err(Rejected::Epoch { stated: epoch, current: self.epoch });
        }
        if session == self.session { Ok(()) } else { Err(Rejected::Session) }
    }

    fn align(&mut self, outcome: AlignmentOutcome, effects: &mut Vec<Effect>) {
        match outcome {
            AlignmentOutcome::Follow => self.phase = Phase::Following,
            // Nothing is left of it: the leader has heard of an earlier log start.
            AlignmentOutcome::CutTo(end) if self.log_start == end && end < self.log_end => {
                self.start_over(end, effects);
            }
            AlignmentOutcome::CutTo(end) if self.log_start < end && end < self.log_end => {
                self.cut(end);
                effects.push(Effect::CutTo(end));
            }
            AlignmentOutcome::StartOver(at) => self.start_over(at, effects),
            AlignmentOutcome::CutTo(_) | AlignmentOutcome::Refused(_) => {
                self.phase = Phase::Away;
                effects.push(Effect::Retry);
            }
        }
    }

    fn start_over(&mut self, at: Offset, effects: &mut Vec<Effect>) {
        self.cut(Offset::ZERO);
        (self.log_start, self.log_start_flushed) = (at, at);
        (self.log_end, self.flushed_end, self.high_watermark) = (at, at, at);
        effects.push(Effect::StartOver(at));
    }

    /// The high watermark goes with the log only after an unclean election, or where this replica had lost what
    /// it once had.
    fn cut(&mut self, end: Offset) {
        self.phase = Phase::Cutting;
        self.log_end = end;
        self.flushed_end = self.flushed_end.min(end);
        self.high_watermark = self.high_watermark.min(end);
    }

    fn receive(&mut self, append: &Append, end: Offset, effects: &mut Vec<Effect>) {
        assert!(append.base_offset <= end, "batches end where they begin or later");
        if let Err(reason) = self.is_ours(append.leader_epoch, append.session) {
            return effects.push(Effect::Reject(reason));
        }
        if self.phase != Phase::Following {
            return effects.push(Effect::Reject(Rejected::Session));
        }
        if append.base_offset != self.log_end {
            let (base_offset, log_end) = (append.base_offset, self.log_end);
            effects.push(Effect::Reject(Rejected::Gap { base_offset, log_end }));
            return self.state(effects);
        }
        if end > self.log_end {
            self.log_end = end;
            effects.push(Effect::Append { end });
        }
        self.leader_high_watermark = self.leader_high_watermark.max(append.high_watermark);
        self.leader_log_start = self.leader_log_start.max(append.log_start);
    }

    fn advance(&mut self, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Following {
            return;
        }
        let high_watermark = self.leader_high_watermark.min(self.flushed_end);
        if high_watermark > self.high_watermark {
            self.high_watermark = high_watermark;
            effects.push(Effect::AdvanceHighWatermark(high_watermark));
        }
        let log_start = self.leader_log_start.min(self.high_watermark);
        if log_start > self.log_start {
            self.log_start = log_start;
            effects.push(Effect::MoveLogStart(log_start));
        }
        let news = (self.flushed_end, self.log_start_flushed);
        if self.acknowledged != Some(news) {
            self.acknowledged = Some(news);
            effects.push(Effect::Acknowledge { flushed_end: news.0, log_start: news.1 });
        }
    }
}

#[cfg(test)]
mod tests;
