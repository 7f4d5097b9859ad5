//! What one seed of the transactions runs with, and the mistake that it makes on purpose.

use crate::random::Random;
use crate::seeds::PlannedMistake;
use crate::world::Micros;
pub use crate::world::{MS, S};
use odradek::txn::Settings as TransactionSettings;
use std::time::Duration;

/// A mistake that somebody could make, for the tests that must find it. `None` in every other run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A write of a coordinator counts as kept when it is in the log and not when it is flushed.
    AnsweredBeforeFlushed,
    /// A write that the log has refused counts as kept.
    RefusedTakenForKept,
    /// A partition that has refused a marker counts as one that has it.
    MarkerErrorTakenForDone,
    /// A coordinator hears that all markers are there when the first one is.
    MarkedByTheFirst,
    /// Markers of a retry say the opposite.
    OutcomeTurned,
    /// Partitions take batches without the word of the coordinator.
    VerificationSkipped,
    /// A late answer of a coordinator is taken for one to the newest question.
    GuardIgnored,
    /// Nobody looks at time-outs.
    TimeoutsUnwatched,
    /// Transactions are aborted as if it were an hour later.
    TimedOutEarly,
    /// After a start nobody goes on with what was decided.
    NotResumed,
    /// A replay passes over the last record.
    ReplayEndsEarly,
    /// The cleaner takes deletions away while what they delete is still there.
    TombstonesDroppedEarly,
    /// Whoever waits for a write is now and then not answered.
    AnswersForgotten,
    /// Producers are taken for the newest with their id.
    EpochUnchecked,
    /// A producer id is given out again.
    IdGivenTwice,
    /// Late batches are given the newest epoch.
    EpochOfBatchRaised,
    /// Readers of committed records read all that is flushed.
    ReadPastStable,
    /// The group coordinator is not told of markers.
    OffsetsNotEnded,
    /// The group coordinator takes every marker for one that commits.
    OffsetsAlwaysCommitted,
    /// Ids expire as if it were a month later.
    ExpiredEarly,
}

impl PlannedMistake for Mistake {
    const ALL: &'static [Mistake] = &[
        Mistake::AnsweredBeforeFlushed,
        Mistake::RefusedTakenForKept,
        Mistake::MarkerErrorTakenForDone,
        Mistake::MarkedByTheFirst,
        Mistake::OutcomeTurned,
        Mistake::VerificationSkipped,
        Mistake::GuardIgnored,
        Mistake::TimeoutsUnwatched,
        Mistake::TimedOutEarly,
        Mistake::NotResumed,
        Mistake::ReplayEndsEarly,
        Mistake::TombstonesDroppedEarly,
        Mistake::AnswersForgotten,
        Mistake::EpochUnchecked,
        Mistake::IdGivenTwice,
        Mistake::EpochOfBatchRaised,
        Mistake::ReadPastStable,
        Mistake::OffsetsNotEnded,
        Mistake::OffsetsAlwaysCommitted,
        Mistake::ExpiredEarly,
    ];

    fn name(self) -> &'static str {
        match self {
            Mistake::AnsweredBeforeFlushed => "answered-before-flushed",
            Mistake::RefusedTakenForKept => "refused-taken-for-kept",
            Mistake::MarkerErrorTakenForDone => "marker-error-taken-for-done",
            Mistake::MarkedByTheFirst => "marked-by-the-first",
            Mistake::OutcomeTurned => "outcome-turned",
            Mistake::VerificationSkipped => "verification-skipped",
            Mistake::GuardIgnored => "guard-ignored",
            Mistake::TimeoutsUnwatched => "timeouts-unwatched",
            Mistake::TimedOutEarly => "timed-out-early",
            Mistake::NotResumed => "not-resumed",
            Mistake::ReplayEndsEarly => "replay-ends-early",
            Mistake::TombstonesDroppedEarly => "tombstones-dropped-early",
            Mistake::AnswersForgotten => "answers-forgotten",
            Mistake::EpochUnchecked => "epoch-unchecked",
            Mistake::IdGivenTwice => "id-given-twice",
            Mistake::EpochOfBatchRaised => "epoch-of-batch-raised",
            Mistake::ReadPastStable => "read-past-stable",
            Mistake::OffsetsNotEnded => "offsets-not-ended",
            Mistake::OffsetsAlwaysCommitted => "offsets-always-committed",
            Mistake::ExpiredEarly => "expired-early",
        }
    }

    fn check(self) -> &'static str {
        match self {
            Mistake::AnsweredBeforeFlushed | Mistake::RefusedTakenForKept => check::KEPT,
            Mistake::MarkerErrorTakenForDone | Mistake::MarkedByTheFirst => check::ALL_MARKED,
            Mistake::OutcomeTurned => check::ONE_OUTCOME,
            Mistake::VerificationSkipped | Mistake::GuardIgnored => check::KNOWN,
            Mistake::TimeoutsUnwatched => check::ENDS,
            Mistake::TimedOutEarly => check::REASON,
            Mistake::NotResumed => check::ENDS,
            Mistake::ReplayEndsEarly => check::REPLAYED,
            Mistake::TombstonesDroppedEarly => check::KEPT,
            Mistake::AnswersForgotten => check::ANSWERED,
            Mistake::EpochUnchecked => check::FENCED,
            Mistake::IdGivenTwice => check::FORWARD,
            Mistake::EpochOfBatchRaised => check::LATE,
            Mistake::ReadPastStable => check::COMMITTED_ONLY,
            Mistake::OffsetsNotEnded | Mistake::OffsetsAlwaysCommitted => check::OFFSETS,
            Mistake::ExpiredEarly => check::REASON,
        }
    }
}

/// The names of the checks: what holds, whatever happens.
pub mod check {
    pub const ONE_OUTCOME: &str = "a transaction has one outcome, in all of its partitions";
    pub const COURSE: &str = "a transaction takes its course";
    pub const ALL_MARKED: &str = "a transaction is complete once all of its partitions have the marker";
    pub const WHOLE: &str = "an acknowledged commit is read whole";
    pub const COMMITTED_ONLY: &str = "nothing is read but what was committed";
    pub const STORED_ONCE: &str = "what is sent again is stored once";
    pub const FENCED: &str = "who was fenced changes nothing any more";
    pub const FORWARD: &str = "producer ids and epochs go forward and are given out once";
    pub const LATE: &str = "late requests never get into a newer transaction";
    pub const KNOWN: &str = "the coordinator knows every transaction that is open in a partition";
    pub const ENDS: &str = "every transaction ends once its time is over and nothing goes wrong";
    pub const STABLE: &str = "the last stable offset never moves back";
    pub const REASON: &str = "nothing is ended, fenced or forgotten without a reason";
    pub const KEPT: &str = "what was acknowledged survives a restart";
    pub const REPLAYED: &str = "a replay gives what the log says";
    pub const TOLD: &str = "what is described and listed is what the log says";
    pub const ANSWERED: &str = "every request is answered, and once";
    pub const ERRORS: &str = "requests are refused as the protocol has it";
    pub const OFFSETS: &str = "a group has the offsets that its log says are committed";
    pub const NOTHING_LEFT: &str = "nothing is held once all ids have expired";
}

/// What a seed is like. Units: virtual microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Partitions of `__transaction_state`.
    pub coordinators: usize,
    pub ids: usize,
    /// Producers that each transactional id has at most, at a time.
    pub producers: u64,
    /// Partitions that are written to, beside the one of `__consumer_offsets`.
    pub partitions: usize,
    pub coordinator: TransactionSettings,
    /// Transactions take at most, longest.
    pub timeout_max: Micros,
    /// Between two looks for transactions whose time is over.
    pub abort_interval: Micros,
    /// `transaction.partition.verification.enable`.
    pub verifies: bool,
    /// Ids of the seed begin where the epochs of their producers are about to be used up.
    pub is_exhausted: bool,
    pub latency_max: Micros,
    pub write_max: Micros,
    /// One request in so many is lost, another one comes twice.
    pub network_fault: u64,
    /// One write in so many is refused, or slow.
    pub write_fault: u64,
    pub mistake: Option<Mistake>,
}

impl Settings {
    pub fn draw(seed: u64, mistake: Option<Mistake>) -> Settings {
        let mut dice = Random::of(seed, 3);
        let expiration = *dice.pick(&[20 * S, 60 * S, 600 * S]);
        let coordinator = TransactionSettings {
            timeout_max: Duration::from_secs(60),
            id_expiration: Duration::from_micros(expiration),
        };
        Settings {
            coordinators: dice.between(1, 2) as usize,
            ids: dice.between(1, 3) as usize,
            producers: *dice.pick(&[1, 1, 2, 3]),
            partitions: dice.between(1, 3) as usize,
            coordinator,
            timeout_max: dice.between(2, 20) * S,
            abort_interval: *dice.pick(&[200 * MS, S, 3 * S]),
            verifies: !dice.one_in(8),
            is_exhausted: dice.one_in(4),
            latency_max: *dice.pick(&[MS, 20 * MS, 200 * MS]),
            write_max: *dice.pick(&[MS, 20 * MS, 200 * MS]),
            network_fault: *dice.pick(&[12, 40, 200, u64::MAX]),
            write_fault: *dice.pick(&[10, 40, 200, u64::MAX]),
            mistake,
        }
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}
