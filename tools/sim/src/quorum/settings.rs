//! What one seed of the quorum runs with, and the mistake that it makes on purpose.

use crate::random::Random;
use crate::seeds::PlannedMistake;
use crate::world::Micros;

/// A mistake that somebody could make, for the tests that must find it. `None` in every other run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// What may be said only after a flush is said before it.
    SentBeforeFlushed,
    /// A write counts as flushed once it is written.
    WrittenTakenForFlushed,
    /// The vote is not among what is written.
    VoteNotWritten,
    /// Entries are applied when they are flushed here.
    AppliedBeforeCommitted,
    /// A proposal is answered when it is taken.
    AnsweredAtOnce,
    /// A snapshot's image is the one of some entries before.
    SnapshotImageStale,
    /// A start takes the members to be those of the founding.
    MembersLost,
    /// Messages are not asked for their cluster.
    ClusterUnchecked,
    /// A start leaves the torn end of the log where it is.
    TornTailKept,
    /// Of writes that share a flush only the last one is written.
    MergedWritesLost,
    /// A node whose directory is empty comes back as the member that it was.
    EmptyTakenForKnown,
    /// Nobody says what became of a snapshot.
    SnapshotsUnreported,
    /// The hard state is not in front of the entries: it comes with the next write.
    HardStateLate,
}

impl PlannedMistake for Mistake {
    const ALL: &'static [Mistake] = &[
        Mistake::SentBeforeFlushed,
        Mistake::WrittenTakenForFlushed,
        Mistake::VoteNotWritten,
        Mistake::AppliedBeforeCommitted,
        Mistake::AnsweredAtOnce,
        Mistake::SnapshotImageStale,
        Mistake::MembersLost,
        Mistake::ClusterUnchecked,
        Mistake::TornTailKept,
        Mistake::MergedWritesLost,
        Mistake::EmptyTakenForKnown,
        Mistake::SnapshotsUnreported,
        Mistake::HardStateLate,
    ];

    fn name(self) -> &'static str {
        match self {
            Mistake::SentBeforeFlushed => "sent-before-flushed",
            Mistake::WrittenTakenForFlushed => "written-taken-for-flushed",
            Mistake::VoteNotWritten => "vote-not-written",
            Mistake::AppliedBeforeCommitted => "applied-before-committed",
            Mistake::AnsweredAtOnce => "answered-at-once",
            Mistake::SnapshotImageStale => "snapshot-image-stale",
            Mistake::MembersLost => "members-lost",
            Mistake::ClusterUnchecked => "cluster-unchecked",
            Mistake::TornTailKept => "torn-tail-kept",
            Mistake::MergedWritesLost => "merged-writes-lost",
            Mistake::EmptyTakenForKnown => "empty-taken-for-known",
            Mistake::SnapshotsUnreported => "snapshots-unreported",
            Mistake::HardStateLate => "hard-state-late",
        }
    }

    fn check(self) -> &'static str {
        match self {
            Mistake::SentBeforeFlushed | Mistake::WrittenTakenForFlushed => check::MAJORITY,
            Mistake::VoteNotWritten | Mistake::HardStateLate => check::ONE_VOTE,
            Mistake::AppliedBeforeCommitted => check::MAJORITY,
            Mistake::AnsweredAtOnce => check::ANSWERED_COMMITTED,
            Mistake::SnapshotImageStale => check::IMAGES,
            Mistake::MembersLost => check::MEMBERS,
            Mistake::ClusterUnchecked => check::FOREIGN,
            Mistake::TornTailKept | Mistake::MergedWritesLost => check::READABLE,
            Mistake::EmptyTakenForKnown => check::GOES_ON,
            Mistake::SnapshotsUnreported => check::LIVE,
        }
    }
}

/// The names of the checks: what holds, whatever happens.
pub mod check {
    pub const ONE_LEADER: &str = "one node leads a term";
    pub const ONE_VOTE: &str = "a node votes once in a term";
    pub const COMMITTED: &str = "a committed entry is the same everywhere and for ever";
    pub const MATCHING: &str = "logs that share an entry share all before it";
    pub const COMPLETE: &str = "what is committed is in the log of every later leader";
    pub const MAJORITY: &str = "nothing is committed that a majority has not flushed";
    pub const MINORITY: &str = "a minority commits nothing";
    pub const ANSWERED_COMMITTED: &str = "an acknowledged proposal is committed";
    pub const ANSWERED: &str = "every proposal has one outcome";
    pub const IMAGES: &str = "images are equal as of the same entry";
    pub const MEMBERS: &str = "members are equal as of the same entry";
    pub const IN_ORDER: &str = "entries are applied in order, each once";
    pub const FOREIGN: &str = "messages of another cluster change nothing";
    pub const READABLE: &str = "a log can be read after every crash";
    pub const RECOVERED: &str = "a start finds what was flushed, and nothing else";
    pub const GOES_ON: &str = "no node has to stop";
    pub const VOTERS_LEAD: &str = "nobody leads but voters";
    pub const LIVE: &str = "once nothing goes wrong, proposals are committed and everybody has them";
}

/// A millisecond.
pub const MS: Micros = 1000;
/// A second.
pub const S: Micros = 1_000_000;

/// The time between two ticks.
pub const TICK: Micros = 100 * MS;
pub const ELECTION_TICKS: usize = 10;
pub const HEARTBEAT_TICKS: usize = 2;

/// Nodes of a seed, members or not.
pub const NODES: usize = 7;

/// Units: virtual microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Those that found the quorum.
    pub voters: usize,
    /// The only voter goes on with a log of a build that knew no quorum, of so many entries.
    pub upgraded: Option<u64>,
    /// How long things go wrong.
    pub time: Micros,
    pub fault_every: Micros,
    pub propose_every: Micros,
    pub change_every: Micros,
    /// A message is on its way for at most, if nothing is wrong.
    pub latency_max: Micros,
    /// A write, and a flush, take at most, if nothing is wrong.
    pub write_max: Micros,
    /// One message in so many is lost, another one comes twice, a third one late.
    pub network_fault: u64,
    /// Entries after which a log is compacted.
    pub compact_after: u64,
    pub entries_retained: u64,
    pub mistake: Option<Mistake>,
}

impl Settings {
    pub fn draw(seed: u64, mistake: Option<Mistake>) -> Settings {
        let mut dice = Random::of(seed, 3);
        let voters = *dice.pick(&[1, 1, 3, 3, 3, 5, 5]);
        Settings {
            voters,
            upgraded: (voters == 1 && dice.one_in(2)).then(|| dice.between(1, 12)),
            time: dice.between(6, 20) * S,
            fault_every: *dice.pick(&[200 * MS, 600 * MS, 1500 * MS, 4 * S]),
            propose_every: *dice.pick(&[20 * MS, 60 * MS, 200 * MS]),
            change_every: *dice.pick(&[300 * MS, S, 4 * S]),
            latency_max: *dice.pick(&[MS, 10 * MS, 60 * MS]),
            write_max: *dice.pick(&[MS, 10 * MS, 60 * MS]),
            network_fault: *dice.pick(&[8, 30, 300, u64::MAX]),
            compact_after: *dice.pick(&[5, 20, 60]),
            entries_retained: *dice.pick(&[0, 3, 30]),
            mistake,
        }
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}
