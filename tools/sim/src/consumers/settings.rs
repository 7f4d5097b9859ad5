//! What one seed of the consumers runs with, and the mistake that it makes on purpose.

use crate::groups::settings::{MS, Mistake as BrokerMistake, S, Settings as BrokerSettings};
use crate::random::Random;
use crate::seeds::PlannedMistake;
use crate::world::Micros;
use odradek::group::Settings as GroupSettings;
use odradek::group::assignor::Assignor;
use odradek::group::consumer::{ConsumerSettings, Migration};
use std::time::Duration;

/// A mistake that somebody could make, for the tests that must find it. `None` in every other run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A write counts as kept when it is in the log and not when it is flushed.
    AnsweredBeforeFlushed,
    /// A write that the log has refused counts as kept.
    RefusedTakenForKept,
    /// Heartbeats are not asked for their epoch.
    EpochUnchecked,
    /// Commits are not asked for their epoch.
    CommitEpochUnchecked,
    /// Heartbeats are not asked for their instance id.
    InstanceUnchecked,
    /// Whoever says what it has is taken to have nothing.
    OwnedForgotten,
    /// Nobody looks at deadlines.
    DeadlinesUnwatched,
    /// A heartbeat that says nothing new is answered without a word to the coordinator.
    HeartbeatsUnheard,
    /// Members may take as long as they like to let partitions go.
    RebalanceUnlimited,
    /// The cleaner takes deletions away while what they delete is still there.
    TombstonesDroppedEarly,
    /// A replay passes over what members have.
    MembersNotReplayed,
    /// A replay passes over the last batch.
    ReplayEndsEarly,
    /// Groups are not told that topics have come, gone or grown.
    TopicsUnseen,
    /// A regular expression is held against the first topic only.
    PatternsCutShort,
    /// A member is told of a partition more than it has.
    MoreTold,
    /// An answer that had to wait is lost now and then.
    AnswersForgotten,
}

impl PlannedMistake for Mistake {
    const ALL: &'static [Mistake] = &[
        Mistake::AnsweredBeforeFlushed,
        Mistake::RefusedTakenForKept,
        Mistake::EpochUnchecked,
        Mistake::CommitEpochUnchecked,
        Mistake::InstanceUnchecked,
        Mistake::OwnedForgotten,
        Mistake::DeadlinesUnwatched,
        Mistake::HeartbeatsUnheard,
        Mistake::RebalanceUnlimited,
        Mistake::TombstonesDroppedEarly,
        Mistake::MembersNotReplayed,
        Mistake::ReplayEndsEarly,
        Mistake::TopicsUnseen,
        Mistake::PatternsCutShort,
        Mistake::MoreTold,
        Mistake::AnswersForgotten,
    ];

    fn name(self) -> &'static str {
        match self {
            Mistake::AnsweredBeforeFlushed => "answered-before-flushed",
            Mistake::RefusedTakenForKept => "refused-taken-for-kept",
            Mistake::EpochUnchecked => "epoch-unchecked",
            Mistake::CommitEpochUnchecked => "commit-epoch-unchecked",
            Mistake::InstanceUnchecked => "instance-unchecked",
            Mistake::OwnedForgotten => "owned-forgotten",
            Mistake::DeadlinesUnwatched => "deadlines-unwatched",
            Mistake::HeartbeatsUnheard => "heartbeats-unheard",
            Mistake::RebalanceUnlimited => "rebalance-unlimited",
            Mistake::TombstonesDroppedEarly => "tombstones-dropped-early",
            Mistake::MembersNotReplayed => "members-not-replayed",
            Mistake::ReplayEndsEarly => "replay-ends-early",
            Mistake::TopicsUnseen => "topics-unseen",
            Mistake::PatternsCutShort => "patterns-cut-short",
            Mistake::MoreTold => "more-told",
            Mistake::AnswersForgotten => "answers-forgotten",
        }
    }

    fn check(self) -> &'static str {
        match self {
            Mistake::AnsweredBeforeFlushed | Mistake::MoreTold => check::TOLD_KEPT,
            Mistake::RefusedTakenForKept => check::MEMORY_IS_LOG,
            Mistake::EpochUnchecked => check::OLD_REFUSED,
            Mistake::CommitEpochUnchecked => check::COMMIT_ENTITLED,
            Mistake::InstanceUnchecked => check::ERRORS,
            Mistake::OwnedForgotten => check::ONE_READER,
            Mistake::DeadlinesUnwatched => check::STOPPED_EXPELLED,
            Mistake::HeartbeatsUnheard => check::HEARTBEATS_KEEP,
            Mistake::RebalanceUnlimited => check::LET_GO_IN_TIME,
            Mistake::TombstonesDroppedEarly => check::KEPT,
            Mistake::MembersNotReplayed | Mistake::ReplayEndsEarly => check::REPLAYED,
            Mistake::TopicsUnseen | Mistake::PatternsCutShort => check::CONVERGED,
            Mistake::AnswersForgotten => crate::groups::settings::check::ANSWERED,
        }
    }
}

impl Mistake {
    /// The same, of those that a broker makes.
    fn of_broker(self) -> Option<BrokerMistake> {
        Some(match self {
            Mistake::AnsweredBeforeFlushed => BrokerMistake::AnsweredBeforeFlushed,
            Mistake::RefusedTakenForKept => BrokerMistake::RefusedTakenForKept,
            Mistake::DeadlinesUnwatched => BrokerMistake::DeadlinesUnwatched,
            Mistake::HeartbeatsUnheard => BrokerMistake::HeartbeatsUnheard,
            Mistake::TombstonesDroppedEarly => BrokerMistake::TombstonesDroppedEarly,
            Mistake::MembersNotReplayed => BrokerMistake::GroupsNotReplayed,
            Mistake::ReplayEndsEarly => BrokerMistake::ReplayEndsEarly,
            Mistake::AnswersForgotten => BrokerMistake::AnswersForgotten,
            Mistake::EpochUnchecked
            | Mistake::CommitEpochUnchecked
            | Mistake::InstanceUnchecked
            | Mistake::OwnedForgotten
            | Mistake::RebalanceUnlimited
            | Mistake::TopicsUnseen
            | Mistake::PatternsCutShort
            | Mistake::MoreTold => return None,
        })
    }
}

/// The names of the checks: what holds, whatever happens. What holds for commits and answers too is named in
/// [`crate::groups::settings::check`].
pub mod check {
    pub const ONE_READER: &str = "a partition is read by one member";
    pub const EPOCHS_GROW: &str = "epochs only grow";
    pub const EPOCH_FOR_A_REASON: &str = "a group goes on to another epoch for a reason";
    pub const SUBSCRIBED: &str = "members get what is aimed at for them, of topics that they read";
    pub const AIMED_EVENLY: &str = "every partition that is read is aimed at once, evenly";
    pub const TOLD_KEPT: &str = "what a member is told is kept";
    pub const KEPT: &str = "what was kept survives a restart";
    pub const REPLAYED: &str = "a replay gives what the log says";
    pub const MEMORY_IS_LOG: &str = "what is in memory is what the log says";
    pub const OLD_REFUSED: &str = "requests of another epoch are refused";
    pub const COMMIT_ENTITLED: &str = "nobody commits but members in their epoch";
    pub const ERRORS: &str = "an error has its reason";
    pub const HEARTBEATS_KEEP: &str = "a member that heartbeats and lets go in time is never taken out";
    pub const STOPPED_EXPELLED: &str = "a member that stopped is taken out within its session time-out";
    pub const LET_GO_IN_TIME: &str = "a member that does not let go in time is taken out";
    pub const LEFT_GONE: &str = "who has left is gone";
    pub const CONVERTED: &str = "a group that changes its protocol keeps its members";
    pub const CONVERGED: &str = "once nothing goes wrong all partitions are read, and nothing moves";
}

/// How members of a seed behave. Units: virtual microseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    pub broker: BrokerSettings,
    pub consumers: ConsumerSettings,
    /// One member in so many uses the classic protocol; `u64::MAX`: none.
    pub classic: u64,
    /// Members of the classic protocol keep what they have in a rebalance.
    pub cooperates: bool,
    /// One member in so many subscribes by a regular expression.
    pub regexes: u64,
    /// A topic comes, goes or grows about so often.
    pub topics_pause: Micros,
    pub mistake: Option<Mistake>,
}

impl Settings {
    pub fn draw(seed: u64, mistake: Option<Mistake>) -> Settings {
        let mut dice = Random::of(seed, 2);
        let session = dice.between(2, 8) * S;
        let coordinator = GroupSettings {
            session_timeout_min: Duration::from_secs(1),
            session_timeout_max: Duration::from_secs(60),
            initial_rebalance_delay: Duration::from_micros(*dice.pick(&[0, 500 * MS])),
            size_max: *dice.pick(&[usize::MAX, usize::MAX, 4]),
            offset_metadata_max: 10,
            offsets_retention: Duration::from_micros(*dice.pick(&[60 * S, 600 * S, 7 * 86_400 * S])),
        };
        let broker = BrokerSettings {
            groups: dice.between(1, 3) as usize,
            consumers: dice.between(1, 6),
            partitions: dice.between(1, 4) as i32,
            coordinator,
            sessions: (S, session),
            rebalance_max: dice.between(1, 15) * S,
            latency_max: *dice.pick(&[MS, 20 * MS, 200 * MS]),
            write_max: *dice.pick(&[MS, 20 * MS, 200 * MS]),
            network_fault: *dice.pick(&[15, 50, 300, u64::MAX]),
            write_fault: *dice.pick(&[10, 40, 200, u64::MAX]),
            lateness_max: *dice.pick(&[0, 5 * MS, 50 * MS]),
            mistake: mistake.and_then(Mistake::of_broker),
        };
        let consumers = ConsumerSettings {
            session_timeout: Duration::from_micros(session),
            heartbeat_interval: Duration::from_micros(session / 4),
            size_max: *dice.pick(&[i32::MAX as usize, i32::MAX as usize, i32::MAX as usize, 4]),
            assignors: match dice.below(4) {
                0 => vec![Assignor::Range, Assignor::Uniform],
                1 => vec![Assignor::Uniform],
                _ => Assignor::ALL.to_vec(),
            },
            migration: match dice.below(8) {
                0 => Migration::Disabled,
                1 => Migration::Upgrade,
                2 => Migration::Downgrade,
                _ => Migration::Bidirectional,
            },
            aiming_at_once_max: *dice.pick(&[0, 10, usize::MAX, usize::MAX]),
        };
        Settings {
            broker,
            consumers,
            classic: *dice.pick(&[2, 3, 6, u64::MAX]),
            cooperates: dice.one_in(2),
            regexes: *dice.pick(&[1, 3, u64::MAX]),
            topics_pause: *dice.pick(&[S, 5 * S, 20 * S]),
            mistake,
        }
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    pub fn session(&self) -> Micros {
        self.consumers.session_timeout.as_micros() as Micros
    }
}
