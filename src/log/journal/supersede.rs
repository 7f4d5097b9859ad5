//! What later entries of the journal make of earlier ones. Looked through once, before anything is
//! redone: a file that was replaced, cut or removed since must not be written to on the way.
//!
//! | later entry | earlier bytes of the partition |
//! |---|---|
//! | log start moved to `start` | of segments that end at or below it: written where their file may still be, never missed |
//! | segments replaced | of these segments: gone; what took their place holds what is left |
//! | log is being cut, was cut | behind the cut: gone |
//! | partition deleted, replica removed | gone |
//!
//! Bytes are a range of a file and nothing says which version of the file they belong to; so an entry
//! is redone as if the log had always looked as it does in the end, never to be undone later. Below the log
//! start it is redone all the same: until a segment is final it stays, and what producers sent last may stand
//! nowhere but in it.

use crate::log::journal::block::{BlockSequence, Change};
use crate::log::partition::Place;
use crate::types::{Offset, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// Where an entry stands: in which block, and how many are before it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryAt(pub BlockSequence, pub u32);

/// How much of what an entry holds of a segment is still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Whole,
    /// Bytes before this file position.
    UpTo(u64),
    /// All of it while its file is there; nobody misses it.
    BelowLogStart,
    Gone,
}

/// Lives: behind the scan of a journal, while it is replayed.
/// Shape: per partition a few words and what its later entries name; not its bytes.
#[derive(Debug, Default)]
pub struct Supersession {
    partitions: BTreeMap<TopicPartition, Later>,
}

#[derive(Debug, Default)]
struct Later {
    deleted: Option<EntryAt>,
    /// Segments before this one lie below the log start.
    dropped: Option<(EntryAt, Offset)>,
    /// Base offsets from the first on and below the second; none inside a later one.
    replaced: Vec<(EntryAt, Offset, Offset)>,
    /// Each at or behind the one before: what an earlier one cut off a later one does not have.
    cuts: Vec<(EntryAt, Place)>,
    /// The last cut that is known to be carried out.
    cut_done: Option<EntryAt>,
    /// Base offsets that were named so far, from the oldest that may be wanted on.
    segments: BTreeSet<Offset>,
}

impl Supersession {
    /// Takes the entries in their order.
    pub fn look(&mut self, at: EntryAt, partition: TopicPartition, change: &Change) {
        let later = self.partitions.entry(partition).or_default();
        match *change {
            Change::Bytes { place, .. } => {
                later.segments.insert(place.segment);
            }
            Change::Closed { segment, next, .. } => later.segments.extend([segment, next]),
            Change::LogStart { start, .. } => {
                // The segment that holds it; what is not named here is left to whoever has the files.
                let first = later.segments.range(..=start).next_back().copied();
                if let Some(first) = first {
                    let dropped = later.dropped.map_or(first, |(_, before)| first.max(before));
                    later.dropped = Some((at, dropped));
                    later.segments = later.segments.split_off(&first);
                }
            }
            Change::Deleted { .. } | Change::Removed { .. } => {
                *later = Later { deleted: Some(at), ..Later::default() };
            }
            Change::Replaced { from, to, .. } => {
                later.replaced.retain(|(_, first, end)| *first < from || to < *end);
                later.replaced.push((at, from, to));
            }
            Change::Cutting { place, .. } => later.cut(at, place),
            Change::Cut { place, .. } => {
                later.cut(at, place);
                later.cut_done = Some(at);
            }
            Change::Flushed { .. } => {}
        }
    }

    /// What is left of the part of a segment that the entry at `at` speaks of.
    pub fn fate(&self, at: EntryAt, partition: TopicPartition, segment: Offset) -> Fate {
        let Some(later) = self.partitions.get(&partition) else { return Fate::Whole };
        let is_replaced =
            |(when, from, to): &(EntryAt, Offset, Offset)| at < *when && *from <= segment && segment < *to;
        if later.deleted.is_some_and(|when| at < when) || later.replaced.iter().any(is_replaced) {
            return Fate::Gone;
        }
        match later.cuts.iter().find(|(when, _)| at < *when) {
            Some((_, place)) if place.segment < segment => Fate::Gone,
            Some((_, place)) if place.segment == segment => Fate::UpTo(place.file_position),
            Some(_) | None if later.is_below_log_start(at, segment) => Fate::BelowLogStart,
            Some(_) | None => Fate::Whole,
        }
    }

    /// Whether nobody reads the segment any more that the entry at `at` speaks of.
    pub fn is_below_log_start(&self, at: EntryAt, partition: TopicPartition, segment: Offset) -> bool {
        self.partitions.get(&partition).is_some_and(|later| later.is_below_log_start(at, segment))
    }

    /// Whether the files were cut as the entry at `at` says: the log may have grown since. Or they are gone: those of
    /// a replica that has come since are others.
    pub fn is_cut(&self, at: EntryAt, partition: TopicPartition) -> bool {
        let Some(later) = self.partitions.get(&partition) else { return false };
        later.cut_done.is_some_and(|done| at <= done) || later.deleted.is_some_and(|when| at < when)
    }
}

impl Later {
    fn is_below_log_start(&self, at: EntryAt, segment: Offset) -> bool {
        self.dropped.is_some_and(|(when, first)| at < when && segment < first)
    }

    fn cut(&mut self, at: EntryAt, place: Place) {
        while self.cuts.last().is_some_and(|(_, last)| place <= *last) {
            self.cuts.pop();
        }
        self.cuts.push((at, place));
        // Names of before mean nothing behind the cut.
        let behind = self.segments.split_off(&place.segment);
        drop(behind);
        self.segments.insert(place.segment);
    }
}
