//! What one seed of a cluster runs with, and the mistake that it makes on purpose.

use self::check::{
    COMMIT_KEPT, COMMITTED, COMPLETED, DERIVED, FENCED, FOUND, GIVEN_ONCE, LATEST, ONE_OUTCOME, WAITED_FOR,
    WANTED, WHOLE,
};
use crate::quorum::settings as quorum;
use crate::random::Random;
use crate::replication::settings as replication;
use crate::seeds::PlannedMistake;
use crate::settings as engine;
use crate::world::{MS, Micros, S};
use odradek::cluster::image::Image;
use odradek::codec::control::AlterPartitions;

/// A mistake that somebody could make, for the tests that must find it. `None` in every other run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// One of what a simulation of leaders and followers makes.
    Replicas(replication::Mistake),
    /// One of what a simulation of the quorum makes.
    Quorum(quorum::Mistake),
    /// One of what a simulation of the storage engine makes.
    Engine(engine::Mistake),
    /// A start does not say that it found damage.
    DamageNotTold,
    /// A fenced node stays in sync of everything.
    FencedStaysInSync,
    /// A node that has started again goes on as what it was: unfenced, and under the old leader epochs.
    EpochNotFenced,
    /// A registration takes the place of any other, however late it comes.
    AnyRegistrationReplaced,
    /// The controller does not look at the epochs that a leader asks under.
    AlterUnchecked,
    /// A reassignment is over once anybody who comes is in sync.
    ReassignedTooEarly,
    /// Who goes with a reassignment stays in sync.
    RemovedInSync,
    /// A leader is told of another in-sync set before that is committed.
    AnsweredBeforeCommitted,
    /// Unclean elections are held where they are not allowed.
    AlwaysUnclean,
    /// An unclean election does not wait for who has everything and is coming.
    NobodyWaitedFor,
    /// A node goes by a change of its own metadata log before it is committed.
    GoesByUncommitted,
    /// A coordinator answers once its record is in its own log.
    CoordinatorAnswersEarly,
    /// A coordinator is not told that its node leads no more.
    CoordinatorStays,
    /// A coordinator reads up to the high watermark that its node knows when it begins to lead.
    LoadedTooEarly,
    /// A leader answers for a marker once that is in its own log.
    MarkerAnsweredEarly,
    /// A partition that could not be reached counts as one that has its marker.
    MarkerNotTriedAgain,
    /// After a failover nobody goes on with what was decided.
    DecidedNotResumed,
}

impl Mistake {
    fn is_of_coordinators(self) -> bool {
        matches!(
            self,
            Mistake::CoordinatorAnswersEarly
                | Mistake::CoordinatorStays
                | Mistake::LoadedTooEarly
                | Mistake::MarkerAnsweredEarly
                | Mistake::MarkerNotTriedAgain
                | Mistake::DecidedNotResumed
        )
    }
}

impl PlannedMistake for Mistake {
    const ALL: &'static [Mistake] = &[
        Mistake::Replicas(replication::Mistake::AckBeforeFlush),
        Mistake::Replicas(replication::Mistake::LeaderBeforeFlush),
        Mistake::Replicas(replication::Mistake::SentTakenForAcked),
        Mistake::Replicas(replication::Mistake::ShrunkWithoutController),
        Mistake::Replicas(replication::Mistake::CutToHighWatermark),
        Mistake::Replicas(replication::Mistake::EpochsNotCompared),
        Mistake::Replicas(replication::Mistake::StaleLeaderAccepted),
        Mistake::Replicas(replication::Mistake::DuplicateStored),
        Mistake::Replicas(replication::Mistake::MaximalNotUsed),
        Mistake::Replicas(replication::Mistake::MinimumNotEnforced),
        Mistake::Quorum(quorum::Mistake::SentBeforeFlushed),
        Mistake::Quorum(quorum::Mistake::VoteNotWritten),
        Mistake::Engine(engine::Mistake::FlushLeftOut),
        Mistake::Engine(engine::Mistake::AcknowledgedAcrossGap),
        Mistake::Engine(engine::Mistake::RecycledBeforeStored),
        Mistake::Engine(engine::Mistake::CutNotLogged),
        Mistake::Engine(engine::Mistake::EpochsForgotten),
        Mistake::DamageNotTold,
        Mistake::FencedStaysInSync,
        Mistake::EpochNotFenced,
        Mistake::AnyRegistrationReplaced,
        Mistake::AlterUnchecked,
        Mistake::ReassignedTooEarly,
        Mistake::RemovedInSync,
        Mistake::AnsweredBeforeCommitted,
        Mistake::AlwaysUnclean,
        Mistake::NobodyWaitedFor,
        Mistake::GoesByUncommitted,
        Mistake::CoordinatorAnswersEarly,
        Mistake::CoordinatorStays,
        Mistake::LoadedTooEarly,
        Mistake::MarkerAnsweredEarly,
        Mistake::MarkerNotTriedAgain,
        Mistake::DecidedNotResumed,
    ];

    fn name(self) -> &'static str {
        match self {
            Mistake::Replicas(mistake) => mistake.name(),
            Mistake::Quorum(mistake) => mistake.name(),
            Mistake::Engine(mistake) => mistake.name(),
            Mistake::DamageNotTold => "damage-not-told",
            Mistake::FencedStaysInSync => "fenced-stays-in-sync",
            Mistake::EpochNotFenced => "epoch-not-fenced",
            Mistake::AnyRegistrationReplaced => "any-registration-replaced",
            Mistake::AlterUnchecked => "alter-unchecked",
            Mistake::ReassignedTooEarly => "reassigned-too-early",
            Mistake::RemovedInSync => "removed-in-sync",
            Mistake::AnsweredBeforeCommitted => "answered-before-committed",
            Mistake::AlwaysUnclean => "always-unclean",
            Mistake::NobodyWaitedFor => "nobody-waited-for",
            Mistake::GoesByUncommitted => "goes-by-uncommitted",
            Mistake::CoordinatorAnswersEarly => "coordinator-answers-early",
            Mistake::CoordinatorStays => "coordinator-stays",
            Mistake::LoadedTooEarly => "loaded-too-early",
            Mistake::MarkerAnsweredEarly => "marker-answered-early",
            Mistake::MarkerNotTriedAgain => "marker-not-tried-again",
            Mistake::DecidedNotResumed => "decided-not-resumed",
        }
    }

    fn check(self) -> &'static str {
        use replication::check;
        match self {
            Mistake::Replicas(mistake) => mistake.check(),
            Mistake::Quorum(mistake) => mistake.check(),
            Mistake::Engine(engine::Mistake::EpochsForgotten) => DERIVED,
            Mistake::Engine(_) => FOUND,
            Mistake::DamageNotTold => check::MEMBERS,
            Mistake::FencedStaysInSync => FENCED,
            Mistake::EpochNotFenced => check::ONE_LEADER,
            Mistake::AnyRegistrationReplaced => LATEST,
            Mistake::AlterUnchecked | Mistake::AnsweredBeforeCommitted => check::MEMBERS,
            Mistake::ReassignedTooEarly => COMPLETED,
            Mistake::RemovedInSync => quorum::check::GOES_ON,
            Mistake::AlwaysUnclean => WANTED,
            Mistake::NobodyWaitedFor => WAITED_FOR,
            Mistake::GoesByUncommitted => quorum::check::MAJORITY,
            Mistake::CoordinatorAnswersEarly => COMMITTED,
            Mistake::CoordinatorStays => GIVEN_ONCE,
            Mistake::LoadedTooEarly => COMMIT_KEPT,
            Mistake::MarkerAnsweredEarly => WHOLE,
            Mistake::MarkerNotTriedAgain => ONE_OUTCOME,
            Mistake::DecidedNotResumed => replication::check::SERVED,
        }
    }
}

/// The names of the checks that neither of the two simulations has that this one is made of.
pub mod check {
    pub const FOUND: &str =
        "a start finds of a log what was told to be flushed, and what was appended behind it";
    pub const TOLD: &str = "a start tells what it cannot find";
    pub const DERIVED: &str = "epochs and producers of a log are those of its batches";
    pub const COMPLETED: &str = "replicas go once all that stay are in sync";
    pub const REPLICAS: &str = "nobody is in sync or eligible but replicas";
    pub const FENCED: &str = "nobody leads who is fenced";
    pub const LATEST: &str = "a registration takes the place of none that came after it";
    pub const WANTED: &str = "an unclean election is held only where somebody wants it";
    pub const WAITED_FOR: &str = "an unclean election waits for who has everything and is coming";
    pub const COMMITTED: &str = "an offset that a coordinator says is committed is below the high watermark";
    pub const COMMIT_KEPT: &str = "an acknowledged commit is there, whoever coordinates";
    pub const COMMIT_FORWARD: &str = "a committed offset never moves back for a client";
    pub const COMMIT_SENT: &str = "nobody is told an offset that nobody has committed";
    pub const ONE_OUTCOME: &str = "a transaction has one outcome, in all of its partitions";
    pub const COMMITTED_ONLY: &str = "nothing is read but what was committed";
    pub const WHOLE: &str = "an acknowledged commit is read whole";
    pub const STORED_ONCE: &str = "what is sent again in a transaction is read once";
    pub const STABLE: &str = "the last stable offset never moves back for a client";
    pub const MEMBER_FORWARD: &str = "a member's epoch never moves back for it";
    pub const ERRORS: &str = "requests are refused as the protocol has it";
    pub const FENCED_PRODUCER: &str = "a producer that was fenced changes nothing any more";
    pub const GIVEN_ONCE: &str = "a producer's epoch is given out once";
}

/// Records of one entry where no change is made in parts.
pub const PART_WHOLE: usize = 10_000;

/// What a seed is like. Units: virtual microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub replication: replication::Settings,
    pub quorum: quorum::Settings,
    /// Records of one entry, of a change that may be made in parts.
    pub part: usize,
    /// Between two times at which leaders go back to the preferred replicas.
    pub balance_every: Micros,
    /// Between two things that operators do.
    pub operator_pause_max: Micros,
    /// Replicas' logs are kept by the storage engine.
    pub has_engine: bool,
    /// There are coordinators, and clients of theirs.
    pub has_coordinators: bool,
    pub mistake: Option<Mistake>,
}

impl Settings {
    pub fn draw(seed: u64, mistake: Option<Mistake>) -> Settings {
        let (of_replicas, of_quorum) = match mistake {
            Some(Mistake::Replicas(mistake)) => (Some(mistake), None),
            Some(Mistake::Quorum(mistake)) => (None, Some(mistake)),
            Some(Mistake::GoesByUncommitted) => (None, Some(quorum::Mistake::AppliedBeforeCommitted)),
            _ => (None, None),
        };
        let mut dice = Random::of(seed, 7);
        let drawn = replication::Settings::draw(seed, of_replicas);
        let nodes = *dice.pick(&[3, 4, 4, 5]);
        let replication = replication::Settings {
            nodes,
            partitions: dice.between(1, 3) as usize,
            producers: 1,
            readers: 1,
            unhurried: *dice.pick(&[2, 4, 8]),
            faulty_time: dice.between(100, 130) * S,
            fault_pause_max: *dice.pick(&[S, 3 * S, 6 * S]),
            heartbeat: *dice.pick(&[300 * MS, 600 * MS]),
            session_max: *dice.pick(&[2 * S, 4 * S, 6 * S]),
            ..drawn
        };
        let quorum = quorum::Settings {
            voters: *dice.pick(&[1, 3, 3]),
            upgraded: None,
            time: replication.faulty_time,
            ..quorum::Settings::draw(seed, of_quorum)
        };
        let is_of_coordinators = mistake.is_some_and(Mistake::is_of_coordinators);
        let has_engine = matches!(mistake, Some(Mistake::Engine(_))) || dice.one_in(3) && !is_of_coordinators;
        let has_coordinators = is_of_coordinators || dice.one_in(2);
        let mut settings = Settings {
            replication,
            quorum,
            part: *dice.pick(&[1, 2, PART_WHOLE]),
            balance_every: *dice.pick(&[3 * S, 10 * S, 60 * S]),
            operator_pause_max: *dice.pick(&[2 * S, 5 * S, 10 * S]),
            has_engine,
            has_coordinators,
            mistake,
        };
        if settings.has_engine {
            // Its flushes take their time, and nothing is released before all are through.
            settings.replication.window = settings.replication.window.max(512);
        }
        settings
    }

    /// What a leader asks for, as a controller sees it that makes a mistake of it.
    pub fn mistake_proposal(&self, image: &Image, asked: &mut AlterPartitions) {
        if self.mistake != Some(Mistake::AlterUnchecked) {
            return;
        }
        for proposal in &mut asked.partitions {
            let Some(state) = image.partition(proposal.partition) else { continue };
            proposal.partition_epoch = state.partition_epoch;
            for (node, epoch) in &mut proposal.in_sync {
                *epoch = image.node(*node).map(|node| node.broker_epoch);
            }
        }
    }
}
