//! How a compacted segment takes the place of those it was made from, so that a crash between any two
//! steps leaves either the old ones or the new one.
//!
//! ```text
//! write   B.log.cleaned, B.index.cleaned, B.timeindex.cleaned, B.checksums.cleaned   each flushed, and
//!         B.txnindex.cleaned where batches of transactions are left
//! 1       B.index.cleaned → .swap, and the other three             directory flushed
//! 2       B.log.cleaned → B.log.swap                               directory flushed: decided
//! 3       files of those that it replaces → .deleted               directory flushed
//! 4       B.index.swap → B.index, and the other three              directory flushed
//! 5       B.log.swap → B.log                                       directory flushed
//! ```
//!
//! `B` is the base offset of the first replaced segment. What was renamed in 3 is removed after
//! `file.delete.delay.ms`, or by the next start. A start that finds `B.log.swap` goes on at 3, where it
//! removes the others at once; without it, everything that ends in `.cleaned` or `.swap` is removed. Which others are replaced
//! is told by where the new segment ends: its last batch is always kept, if need be without records.
//! On a full disk, steps before the decision are undone; those behind it are gone on with once there is
//! space, each only once: repeated from the start, 3 would give up what 5 has put in place.
//! The names are Kafka's (`LocalLog.replaceSegments`), and its loader completes a swap of ours.

use crate::log::segment::{CLEANED_SUFFIX, FileName, SWAP_SUFFIX, SegmentFile};
use crate::types::Offset;

/// Kinds of files that are swapped with a segment.
const DERIVED: [SegmentFile; 4] = SegmentFile::DERIVED;

/// One step on a partition's directory. Each is atomic, and may be repeated after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwapStep {
    /// Skipped when `from` is not there: done before a crash.
    Rename {
        from: String,
        to: String,
    },
    /// Skipped when it is not there.
    Remove {
        name: String,
    },
    /// Gets the name under which it waits for its removal; skipped when it is not there.
    GiveUp {
        name: String,
        deleted: String,
    },
    SyncDirectory,
}

/// Name under which a compacted segment's file is written.
pub fn cleaned_name(file: SegmentFile, base: Offset) -> String {
    format!("{}{CLEANED_SUFFIX}", file.name(base))
}

fn swap_name(file: SegmentFile, base: Offset) -> String {
    format!("{}{SWAP_SUFFIX}", file.name(base))
}

/// Steps 1 and 2. After the last of them the new segment is the log's, whatever happens.
pub fn decide_steps(base: Offset) -> Vec<SwapStep> {
    let rename = |file| SwapStep::Rename { from: cleaned_name(file, base), to: swap_name(file, base) };
    let mut steps: Vec<SwapStep> = DERIVED.into_iter().map(rename).collect();
    steps.extend([SwapStep::SyncDirectory, rename(SegmentFile::Log), SwapStep::SyncDirectory]);
    steps
}

/// Steps 3 to 5. `others`: base offsets of the replaced segments but for `base`.
pub fn replace_steps(base: Offset, others: &[Offset]) -> Vec<SwapStep> {
    let give_up = |file: SegmentFile, base| SwapStep::GiveUp {
        name: file.name(base),
        deleted: file.deleted_name(base),
    };
    let mut steps = Vec::new();
    for other in others {
        assert!(*other > base);
        // The log last: while it is there, the others are found with it.
        steps.extend(SegmentFile::ALL.into_iter().rev().map(|file| give_up(file, *other)));
    }
    steps.extend(DERIVED.into_iter().chain([SegmentFile::Log]).map(|file| give_up(file, base)));
    steps.extend(name_steps(base));
    steps
}

/// Steps 3 to 5 at a start, when nobody reads what was replaced.
pub fn complete_steps(base: Offset, others: &[Offset]) -> Vec<SwapStep> {
    let mut steps = Vec::new();
    for other in others {
        assert!(*other > base);
        let remove = |file: SegmentFile| SwapStep::Remove { name: file.name(*other) };
        // The log last: while it is there, the others are found with it.
        steps.extend(SegmentFile::ALL.into_iter().rev().map(remove));
    }
    steps.extend(name_steps(base));
    steps
}

/// Steps 4 and 5.
fn name_steps(base: Offset) -> Vec<SwapStep> {
    let rename = |file: SegmentFile| SwapStep::Rename { from: swap_name(file, base), to: file.name(base) };
    let mut steps = vec![SwapStep::SyncDirectory];
    steps.extend(DERIVED.into_iter().map(rename));
    steps.extend([SwapStep::SyncDirectory, rename(SegmentFile::Log), SwapStep::SyncDirectory]);
    steps
}

/// What a compaction that was given up before it was decided leaves.
pub fn discard_steps(base: Offset) -> Vec<SwapStep> {
    let cleaned = [SegmentFile::Log].into_iter().chain(DERIVED).map(|file| cleaned_name(file, base));
    let swapped = DERIVED.into_iter().map(|file| swap_name(file, base));
    cleaned.chain(swapped).map(|name| SwapStep::Remove { name }).collect()
}

/// Whether a swap stands, when `rest` is what is left of its steps.
pub fn is_decided(base: Offset, rest: &[SwapStep]) -> bool {
    let cleaned = cleaned_name(SegmentFile::Log, base);
    !rest.iter().any(|step| matches!(step, SwapStep::Rename { from, .. } if *from == cleaned))
}

/// What is done instead of the rest of a decided swap when its segment is deleted before it has its name.
pub fn abandon_steps(rest: &[SwapStep]) -> Vec<SwapStep> {
    let abandon = |step: &SwapStep| match step {
        SwapStep::Rename { from, .. } => SwapStep::Remove { name: from.clone() },
        SwapStep::Remove { .. } | SwapStep::GiveUp { .. } | SwapStep::SyncDirectory => step.clone(),
    };
    rest.iter().map(abandon).collect()
}

/// What a directory's names say about compactions that a crash interrupted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interrupted {
    /// Base offsets of decided swaps.
    decided: Vec<Offset>,
    /// Names of files that belong to none of them.
    leftover: Vec<String>,
    logs: Vec<Offset>,
}

impl Interrupted {
    pub fn find<'a>(names: impl IntoIterator<Item = &'a str>) -> Interrupted {
        let mut found = Interrupted::default();
        let mut swapped_indexes = Vec::new();
        for name in names {
            match FileName::parse(name) {
                Some(FileName::Swap { base_offset, file: SegmentFile::Log }) => {
                    found.decided.push(base_offset);
                }
                Some(FileName::Swap { base_offset, .. }) => swapped_indexes.push((base_offset, name)),
                Some(FileName::Cleaned { .. }) => found.leftover.push(name.to_owned()),
                Some(FileName::Live { base_offset, file: SegmentFile::Log }) => {
                    found.logs.push(base_offset);
                }
                Some(FileName::Live { .. } | FileName::Deleted { .. }) | None => {}
            }
        }
        let undecided = swapped_indexes.into_iter().filter(|(base, _)| !found.decided.contains(base));
        found.leftover.extend(undecided.map(|(_, name)| name.to_owned()));
        found.decided.sort();
        found
    }

    /// Base offsets of the swaps that are to be completed; the caller reads where each ends.
    pub fn decided(&self) -> &[Offset] {
        &self.decided
    }

    /// Whether there are files of swaps that were not decided.
    pub fn leaves_undecided(&self) -> bool {
        !self.leftover.is_empty()
    }

    /// Name of a decided swap's log file.
    pub fn log_name(base: Offset) -> String {
        swap_name(SegmentFile::Log, base)
    }

    /// Names under which the `.checksums` of a decided swap's segment may be: before step 4, and behind it.
    pub fn checksums_names(base: Offset) -> [String; 2] {
        [swap_name(SegmentFile::Checksums, base), SegmentFile::Checksums.name(base)]
    }

    /// What is to be done before the directory is read; `ends` has where each decided one ends.
    pub fn steps(&self, ends: &[Offset]) -> Vec<SwapStep> {
        assert_eq!(ends.len(), self.decided.len());
        let mut steps: Vec<SwapStep> =
            self.leftover.iter().map(|name| SwapStep::Remove { name: name.clone() }).collect();
        for (base, end) in self.decided.iter().zip(ends) {
            let replaced = |other: &&Offset| (*base < **other) && (**other < *end);
            let others: Vec<Offset> = self.logs.iter().filter(replaced).copied().collect();
            steps.extend(complete_steps(*base, &others));
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_prefix_of_a_swap_is_undone_or_completed() {
        let before: BTreeSet<String> = files(&[0, 10, 20, 30]);
        let cleaned = [SegmentFile::Log].into_iter().chain(DERIVED);
        let start: BTreeSet<String> =
            before.iter().cloned().chain(cleaned.map(|file| cleaned_name(file, offset(10)))).collect();
        let decide = decide_steps(offset(10));
        let complete = replace_steps(offset(10), &[offset(20)]);
        let after: BTreeSet<String> = files(&[0, 10, 30]);
        let steps: Vec<SwapStep> = decide.iter().chain(&complete).cloned().collect();
        for crash in 0..=steps.len() {
            let mut names = start.clone();
            steps[..crash].iter().for_each(|step| apply(&mut names, step));
            // A crash of the recovery is one more crash.
            let recovery = recovery_of(&names);
            for again in 0..=recovery.len() {
                let mut names = names.clone();
                recovery[..again].iter().for_each(|step| apply(&mut names, step));
                let rest = recovery_of(&names);
                rest.iter().for_each(|step| apply(&mut names, step));
                names.retain(|name| !name.ends_with(".deleted")); // As a start does when it opens the log.
                let is_decided = crash >= decide.len() - 1; // The rename; its flush only keeps it.
                assert_eq!(names, if is_decided { after.clone() } else { before.clone() }, "{crash} {again}");
            }
        }
    }

    /// Where a step finds no space, what came before it is undone, or the rest follows later: a deletion
    /// or a start in between finds the one or the other.
    #[test]
    fn a_swap_that_finds_no_space_is_undone_or_gone_on_with() {
        let before: BTreeSet<String> = files(&[0, 10, 20, 30]);
        let after: BTreeSet<String> = files(&[0, 10, 30]);
        let cleaned = SegmentFile::ALL.into_iter().filter(|file| *file != SegmentFile::ProducerSnapshot);
        let start: BTreeSet<String> =
            before.iter().cloned().chain(cleaned.map(|file| cleaned_name(file, offset(10)))).collect();
        let mut steps = decide_steps(offset(10));
        steps.extend(replace_steps(offset(10), &[offset(20)]));
        let live = |names: &BTreeSet<String>| -> BTreeSet<String> {
            names.iter().filter(|name| !name.ends_with(".deleted")).cloned().collect()
        };
        let mut undone = 0;
        for full in 0..steps.len() {
            let mut names = start.clone();
            let (done, rest) = steps.split_at(full);
            done.iter().for_each(|step| apply(&mut names, step));
            if !is_decided(offset(10), rest) {
                discard_steps(offset(10)).iter().for_each(|step| apply(&mut names, step));
                assert_eq!(names, before, "{full}");
                undone += 1;
                continue;
            }
            let mut deleted = names.clone();
            rest.iter().for_each(|step| apply(&mut names, step));
            assert_eq!(live(&names), after, "{full}");
            abandon_steps(rest).iter().for_each(|step| apply(&mut deleted, step));
            deleted.retain(|name| !name.starts_with("00000000000000000010"));
            assert_eq!(live(&deleted), files(&[0, 30]), "{full}");
        }
        assert_eq!(undone, decide_steps(offset(10)).len() - 1);
    }

    #[test]
    fn the_log_file_is_renamed_last_and_alone() {
        let renames_log = |step: &SwapStep| match step {
            SwapStep::Rename { from, .. } => from.contains(".log."),
            SwapStep::Remove { .. } | SwapStep::GiveUp { .. } | SwapStep::SyncDirectory => false,
        };
        let others = [offset(20), offset(30)];
        let all = [
            decide_steps(offset(10)),
            replace_steps(offset(10), &others),
            complete_steps(offset(10), &others),
        ];
        for steps in all {
            let at = steps.iter().position(renames_log).unwrap();
            assert_eq!(at, steps.len() - 2);
            assert_eq!(steps[at - 1], SwapStep::SyncDirectory, "what came before is on disk");
            assert_eq!(steps[at + 1], SwapStep::SyncDirectory);
        }
    }

    fn recovery_of(names: &BTreeSet<String>) -> Vec<SwapStep> {
        let found = Interrupted::find(names.iter().map(String::as_str));
        let ends = vec![offset(30); found.decided().len()];
        found.steps(&ends)
    }

    fn apply(names: &mut BTreeSet<String>, step: &SwapStep) {
        match step {
            SwapStep::Rename { from, to } | SwapStep::GiveUp { name: from, deleted: to } => {
                if names.remove(from) {
                    names.insert(to.clone());
                }
            }
            SwapStep::Remove { name } => {
                names.remove(name);
            }
            SwapStep::SyncDirectory => {}
        }
    }

    fn files(bases: &[u64]) -> BTreeSet<String> {
        let all = |base: &u64| SegmentFile::ALL.map(|file| file.name(offset(*base)));
        bases.iter().flat_map(all).collect()
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
