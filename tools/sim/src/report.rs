//! How often everything happened, summed over seeds, and what a run of many seeds needs to have met.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Everything that a long run has to have met at least once: faults, branches of recovery.
pub const EXPECTED: &[&str] = &[
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
    "topic deleted",
    "topic deleted: no space for a name",
    "topic made again under its name",
    "journal: deletion replayed",
    "recovery: deletion carried out",
    "recovery: deleted directory removed",
];

/// Named counters; summable, and a text file in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    pub fn add(&mut self, name: &str, count: u64) {
        match self.0.get_mut(name) {
            Some(sum) => *sum += count,
            None => {
                self.0.insert(name.to_owned(), count);
            }
        }
    }

    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn sum(&mut self, other: &Counts) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    /// What should have happened and did not.
    pub fn missing(&self) -> Vec<&'static str> {
        EXPECTED.iter().copied().filter(|name| self.get(name) == 0).collect()
    }

    /// One `name = count` a line.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        for (name, count) in &self.0 {
            writeln!(out, "{name} = {count}").expect("a string takes it");
        }
        out
    }

    /// `None` for what is not such a text.
    pub fn decode(text: &str) -> Option<Counts> {
        let mut counts = Counts::default();
        for line in text.lines() {
            let (name, count) = line.rsplit_once(" = ")?;
            counts.add(name, count.parse().ok()?);
        }
        Some(counts)
    }

    /// A table for people: what is expected first, in its order, then the rest.
    pub fn table(&self) -> String {
        let rest = self.0.keys().map(String::as_str).filter(|name| !EXPECTED.contains(name));
        let mut out = String::new();
        for name in EXPECTED.iter().copied().chain(rest) {
            writeln!(out, "{:>14}  {name}", self.get(name)).expect("a string takes it");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_survive_a_file() {
        let mut counts = Counts::default();
        counts.add("fault: stall", 3);
        let mut read = Counts::decode(&counts.encode()).unwrap();
        read.sum(&counts);
        assert_eq!(read.get("fault: stall"), 6);
        assert!(read.missing().contains(&"operations"));
        assert_eq!(Counts::decode("no count"), None);
    }
}
