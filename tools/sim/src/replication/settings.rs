//! What one seed of replication runs with, and the mistake that it makes on purpose.

use crate::random::Random;
use crate::seeds::PlannedMistake;
use crate::world::Micros;

/// A mistake that somebody could make, for the tests that must find it. `None` in every other run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A follower acknowledges what it has appended and not flushed.
    AckBeforeFlush,
    /// A leader counts itself before it has flushed.
    LeaderBeforeFlush,
    /// What was sent to a replica counts as acknowledged: nobody waits for a slow one.
    SentTakenForAcked,
    /// A leader takes who lags out of the in-sync set by itself.
    ShrunkWithoutController,
    /// Who follows a new leader cuts its log to its high watermark.
    CutToHighWatermark,
    /// Leaders compare log ends, and no epochs.
    EpochsNotCompared,
    /// Followers take the messages of any leader for their own's.
    StaleLeaderAccepted,
    /// Nobody looks for batches that are sent again.
    DuplicateStored,
    /// Who is proposed does not count until the controller has committed it.
    MaximalNotUsed,
    /// A start does not say that it found damage.
    DamageNotTold,
    /// Anybody who is there is elected.
    AnybodyElected,
    /// What a leader says is the high watermark is taken for it, also beyond the log.
    WatermarkUncapped,
    /// The controller does not look at partition epochs.
    PartitionEpochIgnored,
    /// The controller does not look at the registrations of those who come in.
    BrokerEpochIgnored,
    /// A leader goes on below `min.insync.replicas`.
    MinimumNotEnforced,
    /// A leader that starts again goes on under its epoch.
    EpochResumed,
    /// A new leader tells the latest offset although it does not know it yet.
    LatestTooEarly,
    /// A leader shows a log start before its followers have it.
    LogStartTooEarly,
    /// Nobody is ever elected again once a partition is without a leader.
    NeverElectedAgain,
}

impl PlannedMistake for Mistake {
    const ALL: &'static [Mistake] = &[
        Mistake::AckBeforeFlush,
        Mistake::LeaderBeforeFlush,
        Mistake::SentTakenForAcked,
        Mistake::ShrunkWithoutController,
        Mistake::CutToHighWatermark,
        Mistake::EpochsNotCompared,
        Mistake::StaleLeaderAccepted,
        Mistake::DuplicateStored,
        Mistake::MaximalNotUsed,
        Mistake::DamageNotTold,
        Mistake::AnybodyElected,
        Mistake::WatermarkUncapped,
        Mistake::PartitionEpochIgnored,
        Mistake::BrokerEpochIgnored,
        Mistake::MinimumNotEnforced,
        Mistake::EpochResumed,
        Mistake::LatestTooEarly,
        Mistake::LogStartTooEarly,
        Mistake::NeverElectedAgain,
    ];

    fn name(self) -> &'static str {
        match self {
            Mistake::AckBeforeFlush => "ack-before-flush",
            Mistake::LeaderBeforeFlush => "leader-before-flush",
            Mistake::SentTakenForAcked => "sent-taken-for-acked",
            Mistake::ShrunkWithoutController => "shrunk-without-controller",
            Mistake::CutToHighWatermark => "cut-to-high-watermark",
            Mistake::EpochsNotCompared => "epochs-not-compared",
            Mistake::StaleLeaderAccepted => "stale-leader-accepted",
            Mistake::DuplicateStored => "duplicate-stored",
            Mistake::MaximalNotUsed => "maximal-not-used",
            Mistake::DamageNotTold => "damage-not-told",
            Mistake::AnybodyElected => "anybody-elected",
            Mistake::WatermarkUncapped => "watermark-uncapped",
            Mistake::PartitionEpochIgnored => "partition-epoch-ignored",
            Mistake::BrokerEpochIgnored => "broker-epoch-ignored",
            Mistake::MinimumNotEnforced => "minimum-not-enforced",
            Mistake::EpochResumed => "epoch-resumed",
            Mistake::LatestTooEarly => "latest-too-early",
            Mistake::LogStartTooEarly => "log-start-too-early",
            Mistake::NeverElectedAgain => "never-elected-again",
        }
    }

    fn check(self) -> &'static str {
        match self {
            Mistake::AckBeforeFlush
            | Mistake::LeaderBeforeFlush
            | Mistake::SentTakenForAcked
            | Mistake::ShrunkWithoutController
            | Mistake::MaximalNotUsed
            | Mistake::CutToHighWatermark => check::MEMBERS,
            Mistake::EpochsNotCompared => check::IDENTICAL,
            Mistake::StaleLeaderAccepted => check::PROTOCOL,
            Mistake::DuplicateStored => check::STORED_ONCE,
            Mistake::DamageNotTold | Mistake::BrokerEpochIgnored => check::MEMBERS,
            Mistake::AnybodyElected => check::MEMBERS,
            Mistake::WatermarkUncapped => check::WITHIN,
            Mistake::PartitionEpochIgnored => check::MEMBERS,
            Mistake::MinimumNotEnforced => check::MINIMUM,
            Mistake::EpochResumed => check::ONE_LEADER,
            Mistake::LatestTooEarly => check::FORWARD,
            Mistake::LogStartTooEarly => check::LOG_START,
            Mistake::NeverElectedAgain => check::SERVED,
        }
    }
}

/// The names of the checks: what holds, whatever happens.
pub mod check {
    pub const KEPT: &str = "what was acknowledged is there for ever";
    pub const ONE_VALUE: &str = "an offset has one value, for ever";
    pub const STORED_ONCE: &str = "what is sent again is stored once";
    pub const ORDER: &str = "what is acknowledged lies above what was known before it was sent";
    pub const READS: &str = "reads move forward without a gap";
    pub const FORWARD: &str = "the latest offset never moves back for a client";
    pub const LOG_START: &str = "the log start never moves back for a client";
    pub const ONE_LEADER: &str = "a leader epoch has one leader";
    pub const LEADERS: &str = "a leader has everything that was ever below a high watermark";
    pub const IDENTICAL: &str = "replicas are identical up to the high watermark";
    pub const WITHIN: &str = "a high watermark lies within what is flushed";
    pub const MINIMUM: &str = "what is below the high watermark is flushed on the minimum of replicas";
    pub const MEMBERS: &str = "who is in sync or eligible has everything below the high watermark";
    pub const PHANTOM: &str = "nothing is read that nobody sent";
    pub const SERVED: &str = "once faults have ended everything is served again";
    pub const PROTOCOL: &str = "nodes understand each other";
}

/// What a seed is like. Units: virtual microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub nodes: usize,
    pub partitions: usize,
    /// One producer in so many does not wait for all replicas.
    pub impatient: u64,
    pub producers: usize,
    pub readers: usize,
    /// How much more time than usual clients take between two requests.
    pub unhurried: u64,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Micros,
    pub session_max: Micros,
    pub heartbeat: Micros,
    pub latency_max: Micros,
    /// One frame in so many takes long.
    pub spike: u64,
    pub flush_max: Micros,
    pub window: u64,
    /// Offsets in memory, for followers.
    pub tail: u64,
    pub fault_pause_max: Micros,
    pub faulty_time: Micros,
    pub min_one: bool,
    pub mistake: Option<Mistake>,
}

/// A millisecond.
pub const MS: Micros = 1000;
/// A second.
pub const S: Micros = 1_000_000;

impl Settings {
    pub fn draw(seed: u64, mistake: Option<Mistake>) -> Settings {
        let mut dice = Random::of(seed, 5);
        Settings {
            nodes: *dice.pick(&[3, 3, 3, 4, 5]),
            partitions: dice.between(1, 3) as usize,
            impatient: *dice.pick(&[3, 6, u64::MAX]),
            producers: dice.between(1, 2) as usize,
            readers: dice.between(1, 2) as usize,
            unhurried: 1,
            lag_max: *dice.pick(&[300 * MS, 1500 * MS, 5 * S]),
            session_max: *dice.pick(&[800 * MS, 2 * S, 6 * S]),
            heartbeat: *dice.pick(&[150 * MS, 300 * MS]),
            latency_max: *dice.pick(&[2 * MS, 10 * MS, 50 * MS]),
            spike: *dice.pick(&[20, 100, 1000]),
            flush_max: *dice.pick(&[2 * MS, 10 * MS, 40 * MS]),
            window: *dice.pick(&[64, 256, 4096]),
            tail: *dice.pick(&[4, 30, 1000]),
            fault_pause_max: *dice.pick(&[500 * MS, 2 * S, 6 * S]),
            faulty_time: *dice.pick(&[15 * S, 30 * S, 60 * S]),
            min_one: dice.one_in(4),
            mistake,
        }
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}
