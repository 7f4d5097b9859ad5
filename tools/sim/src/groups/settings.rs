//! What one seed of the groups runs with, and the mistake that it makes on purpose.

use crate::random::Random;
use crate::seeds::PlannedMistake;
use crate::world::Micros;
pub use crate::world::{MS, S};
use odradek::group::Settings as GroupSettings;
use std::time::Duration;

/// A mistake that somebody could make, for the tests that must find it. `None` in every other run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A write counts as kept when it is in the log and not when it is flushed.
    AnsweredBeforeFlushed,
    /// A write that the log has refused counts as kept.
    RefusedTakenForKept,
    /// Commits are not asked for their generation.
    CommitGenerationUnchecked,
    /// Heartbeats, syncs and commits are not asked for their instance id.
    InstanceUnchecked,
    /// Nobody looks at deadlines.
    DeadlinesUnwatched,
    /// Every other heartbeat is answered without a word to the coordinator.
    HeartbeatsUnheard,
    /// The cleaner takes deletions away while what they delete is still there.
    TombstonesDroppedEarly,
    /// A replay passes over generations and members.
    GroupsNotReplayed,
    /// A replay passes over the last batch.
    ReplayEndsEarly,
    /// A sync is taken for one of the current generation.
    SyncGenerationUnchecked,
    /// An answer that had to wait for a write is lost now and then.
    AnswersForgotten,
    /// Everybody who joins is told to lead.
    EverybodyLeads,
    /// What a leader sends for one member goes to the next.
    AssignmentsShifted,
    /// Offsets expire as if it were a month later.
    ExpiredEarly,
}

impl PlannedMistake for Mistake {
    const ALL: &'static [Mistake] = &[
        Mistake::AnsweredBeforeFlushed,
        Mistake::RefusedTakenForKept,
        Mistake::CommitGenerationUnchecked,
        Mistake::InstanceUnchecked,
        Mistake::DeadlinesUnwatched,
        Mistake::HeartbeatsUnheard,
        Mistake::TombstonesDroppedEarly,
        Mistake::GroupsNotReplayed,
        Mistake::ReplayEndsEarly,
        Mistake::SyncGenerationUnchecked,
        Mistake::AnswersForgotten,
        Mistake::EverybodyLeads,
        Mistake::AssignmentsShifted,
        Mistake::ExpiredEarly,
    ];

    fn name(self) -> &'static str {
        match self {
            Mistake::AnsweredBeforeFlushed => "answered-before-flushed",
            Mistake::RefusedTakenForKept => "refused-taken-for-kept",
            Mistake::CommitGenerationUnchecked => "commit-generation-unchecked",
            Mistake::InstanceUnchecked => "instance-unchecked",
            Mistake::DeadlinesUnwatched => "deadlines-unwatched",
            Mistake::HeartbeatsUnheard => "heartbeats-unheard",
            Mistake::TombstonesDroppedEarly => "tombstones-dropped-early",
            Mistake::GroupsNotReplayed => "groups-not-replayed",
            Mistake::ReplayEndsEarly => "replay-ends-early",
            Mistake::SyncGenerationUnchecked => "sync-generation-unchecked",
            Mistake::AnswersForgotten => "answers-forgotten",
            Mistake::EverybodyLeads => "everybody-leads",
            Mistake::AssignmentsShifted => "assignments-shifted",
            Mistake::ExpiredEarly => "expired-early",
        }
    }

    fn check(self) -> &'static str {
        match self {
            Mistake::AnsweredBeforeFlushed | Mistake::RefusedTakenForKept | Mistake::ReplayEndsEarly => {
                check::COMMIT_KEPT
            }
            Mistake::CommitGenerationUnchecked => check::COMMIT_ENTITLED,
            Mistake::InstanceUnchecked => check::FENCED_TOLD,
            Mistake::DeadlinesUnwatched => check::STOPPED_EXPELLED,
            Mistake::HeartbeatsUnheard => check::HEARTBEATS_KEEP,
            Mistake::TombstonesDroppedEarly => check::DELETED_STAYS,
            Mistake::GroupsNotReplayed => check::GENERATION_KEPT,
            Mistake::SyncGenerationUnchecked => check::OLD_REFUSED,
            Mistake::AnswersForgotten => check::ANSWERED,
            Mistake::EverybodyLeads => check::ONE_LEADER,
            Mistake::AssignmentsShifted => check::ASSIGNED,
            Mistake::ExpiredEarly => check::NOT_TAKEN_AWAY,
        }
    }
}

/// The names of the checks: what holds, whatever happens.
pub mod check {
    pub const GENERATION_GROWS: &str = "a generation only grows";
    pub const ONE_LEADER: &str = "one member leads a generation";
    pub const ASSIGNED: &str = "members get what the leader of their generation sent for them";
    pub const COMMIT_KEPT: &str = "an acknowledged commit is fetched back";
    pub const COMMIT_ENTITLED: &str = "nobody commits but members of the generation";
    pub const OLD_REFUSED: &str = "requests of another generation are refused";
    pub const GONE_REFUSED: &str = "who is gone is refused";
    pub const FENCED_TOLD: &str = "a fenced static instance is told so";
    pub const HEARTBEATS_KEEP: &str = "a member that heartbeats in time is never expelled";
    pub const STOPPED_EXPELLED: &str = "a member that stopped is expelled within its session time-out";
    pub const ANSWERED: &str = "every request is answered, and once";
    pub const DELETED_STAYS: &str = "what was deleted stays deleted";
    pub const DELETED_EMPTY: &str = "a deleted group has no members and no offsets";
    pub const NOT_TAKEN_AWAY: &str = "nothing is taken away that may still be used";
    pub const GENERATION_KEPT: &str = "a generation that was handed out survives a restart";
    pub const REPLAYED: &str = "a replay gives what the log says";
    pub const NOTHING_LEFT: &str = "nothing is held once all groups are gone";
}

/// How members of a seed behave in time. Units: virtual microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub groups: usize,
    /// Members that each group has at most, at a time.
    pub consumers: u64,
    /// Partitions of a topic.
    pub partitions: i32,
    pub coordinator: GroupSettings,
    /// Sessions of this seed's clients are between these.
    pub sessions: (Micros, Micros),
    /// Rebalances may take so much at most.
    pub rebalance_max: Micros,
    /// A request and its answer are on their way for at most.
    pub latency_max: Micros,
    /// A write takes at most, if nothing is wrong.
    pub write_max: Micros,
    /// One request in so many is lost, another one comes twice.
    pub network_fault: u64,
    /// One write in so many is refused, or slow.
    pub write_fault: u64,
    /// A deadline is looked at so late at most.
    pub lateness_max: Micros,
    pub mistake: Option<Mistake>,
}

impl Settings {
    pub fn draw(seed: u64, mistake: Option<Mistake>) -> Settings {
        let mut dice = Random::of(seed, 2);
        let retention = *dice.pick(&[60 * S, 600 * S, 7 * 86_400 * S]);
        let coordinator = GroupSettings {
            session_timeout_min: Duration::from_secs(1),
            session_timeout_max: Duration::from_secs(60),
            initial_rebalance_delay: Duration::from_micros(*dice.pick(&[0, 500 * MS, 3 * S])),
            size_max: *dice.pick(&[usize::MAX, usize::MAX, usize::MAX, 3]),
            offset_metadata_max: 10,
            offsets_retention: Duration::from_micros(retention),
        };
        let session_max = dice.between(2, 10) * S;
        Settings {
            groups: dice.between(1, 4) as usize,
            consumers: dice.between(1, 6),
            partitions: dice.between(1, 4) as i32,
            coordinator,
            sessions: (S, session_max),
            rebalance_max: dice.between(1, 20) * S,
            latency_max: *dice.pick(&[MS, 20 * MS, 200 * MS]),
            write_max: *dice.pick(&[MS, 20 * MS, 200 * MS]),
            network_fault: *dice.pick(&[15, 50, 300, u64::MAX]),
            write_fault: *dice.pick(&[10, 40, 200, u64::MAX]),
            lateness_max: *dice.pick(&[0, 5 * MS, 50 * MS]),
            mistake,
        }
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}
