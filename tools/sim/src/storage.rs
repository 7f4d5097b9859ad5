//! `odradek-sim storage`: what it is to whoever runs seeds.

use crate::run::run_seed;
use crate::seeds::{PlannedMistake, SeedOptions, SeedResult, Simulation};
use crate::settings::Mistake;

/// The storage engine on a simulated disk.
pub struct Storage;

impl Simulation for Storage {
    type Mistake = Mistake;
    const NAME: &'static str = "storage";
    const EXPECTED: &'static [&'static str] = EXPECTED;
    const RATES: &'static [&'static str] = &["operations", "crashes", "damage"];

    fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
        run_seed(options)
    }
}

impl PlannedMistake for Mistake {
    const ALL: &'static [Mistake] = &Mistake::ALL;

    fn name(self) -> &'static str {
        Mistake::name(self)
    }

    fn check(self) -> &'static str {
        Mistake::check(self)
    }
}

/// Everything that a long run has to have met at least once: faults, branches of recovery.
const EXPECTED: &[&str] = &[
    "operations",
    "append",
    "append: duplicate",
    "append: refused for want of space",
    "append: refused, log directory offline",
    "read",
    "read: from memory",
    "read: from disk",
    "roll",
    "checkpoint",
    "retention",
    "log start moved",
    "stop: clean",
    "stop: kill",
    "stop: power loss",
    "stop: power loss while starting",
    "fault: EIO on read",
    "fault: EIO on write",
    "fault: EIO on flush",
    "fault: EIO on syncfs",
    "fault: EIO on allocate",
    "fault: EIO on truncate",
    "fault: EIO on open",
    "fault: EIO on rename",
    "fault: EIO on remove",
    "fault: EIO on list",
    "fault: EIO on directory flush",
    "fault: full disk",
    "fault: stall",
    "fault: misdirected write",
    "damage",
    "damage: flipped bit",
    "damage: zeroed sector",
    "damage: cut short",
    "damage: segment gone",
    "damage: sector of something else",
    "damage: of a segment",
    "damage: of a journal",
    "damage: of a derived file",
    "recovery: clean",
    "recovery: tail whole",
    "recovery: tail torn, cut",
    "recovery: corrupt, offline",
    "recovery: shorter than flushed, offline",
    "recovery: no segment left, offline",
    "recovery: damage below a recorded flush, offline",
    "recovery: producers rebuilt",
    "recovery: index rebuilt",
    "recovery: checksums rebuilt",
    "recovery: transaction index rebuilt",
    "transaction: batch",
    "transaction: commit marker",
    "transaction: abort marker",
    "transaction: aborted after a crash",
    "transaction: readers wait for its end",
    "read: committed batch",
    "read: aborted batch",
    "read: aborted transactions of a later segment",
    "read: damage noticed",
    "journal: whole",
    "journal: whole blocks beyond a gap",
    "journal: flushed block gone",
    "journal: bytes of one partition damaged",
    "journal: partition offline",
    "journal: block replayed",
    "journal: file used again",
    "journal: mark without entries",
    "journal: flush stated without entries",
    "segment: closed by replay",
    "journal: change logged",
    "journal: flush of segments recorded",
    "journal: gone on with",
    "journal: of a core that is no more",
    "partitions moved to other cores",
    "acknowledged before a flush",
    "recovery: acknowledged records lost with the power, as their topic allows",
    "recovery: from the final state",
    "recovery: from files beside a segment",
    "recovery: files beside a segment are not believed",
    "recovery: index entry led nowhere",
    "recovery: log start told by names only",
    "roll: closed what was to be enlarged",
    "retention: no space for its log start",
    "compaction",
    "compaction: segments replaced",
    "compaction: in several passes",
    "compaction: given up",
    "compaction: no space",
    "compaction: no space for a name",
    "recovery: swap completed",
    "recovery: swap undone",
    "cut",
    "cut: started over",
    "journal: cut replayed",
    "topic deleted",
    "topic deleted: no space for a name",
    "topic made again under its name",
    "journal: deletion replayed",
    "recovery: deletion carried out",
    "recovery: deleted directory removed",
];
