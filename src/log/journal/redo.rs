//! What a start does with the blocks that it believes: which bytes go where, what is cut, what is gone.
//!
//! ```text
//! blocks that are believed ─► look_ahead, all of them ─► block, one after the other ─► Redo ...
//! ```
//!
//! Twice over all of them, since what an entry asks for depends on those behind it
//! ([`supersede`](crate::log::journal::supersede)). A replay that was interrupted is done again from its
//! first block and comes to the same end: bytes go to the place that they had, a file is cut only where
//! nothing was appended since.
//!
//! A partition that another shard takes over at a start needs no entry: all journals have been replayed
//! by then, and none of them is needed any more.

use crate::log::journal::block::{BlockView, Change, Entry};
use crate::log::journal::supersede::{EntryAt, Fate, Supersession};
use crate::log::partition::Place;
use crate::types::{Offset, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// What a replay does to one partition's files, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redo<'a> {
    /// Write these bytes at this place of the segment's file.
    Write { partition: TopicPartition, segment: Offset, file_position: u64, bytes: &'a [u8] },
    /// The segment's file is cut to its exact size: another one follows it. One that is shorter has lost
    /// something, which matters where it `is_missed`.
    Cut { partition: TopicPartition, segment: Offset, size: u64, is_missed: bool },
    /// The log ends at `place`: its segment is the last one, and cut there.
    Truncate { partition: TopicPartition, place: Place },
    /// The partition was deleted: nothing of it is opened again.
    Delete { partition: TopicPartition },
}

/// How far a log reached, as the journal tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub end: Offset,
    pub place: Place,
}

/// Takes the blocks that are believed, in order, and says what to do with each entry.
///
/// Lives: behind a [`Replay`](crate::log::journal::replay::Replay), while its blocks are read again.
#[derive(Debug, Default)]
pub struct Redoing {
    superseded: Supersession,
    looked_to_the_end: bool,
    corrupt: BTreeSet<TopicPartition>,
    /// Segments below the log start with damaged bytes.
    unmissed: BTreeSet<(TopicPartition, Offset)>,
    ended: bool,
    /// The log end that each partition reaches.
    ends: BTreeMap<TopicPartition, Offset>,
    reached: BTreeMap<TopicPartition, Reached>,
    log_starts: BTreeMap<TopicPartition, Offset>,
    truncated: BTreeMap<TopicPartition, Reached>,
}

impl Redoing {
    /// Takes note of what a block's entries make of those before them. All blocks go through here
    /// before the first goes through [`block`](Self::block).
    pub fn look_ahead(&mut self, view: &BlockView<'_>, is_flushed: bool) {
        if self.looked_to_the_end {
            return;
        }
        if ends_replay(view, is_flushed) {
            self.looked_to_the_end = true;
            return;
        }
        for (at, (entry, _)) in (0..).zip(view.entries()) {
            self.superseded.look(EntryAt(view.header.sequence, at), entry.partition, &entry.change);
        }
    }

    /// What one block's entries ask for. An entry of a flushed block whose bytes do not hold makes its
    /// partition corrupt; one of an unflushed block ends the replay.
    pub fn block<'a>(&mut self, view: &BlockView<'a>, is_flushed: bool, redo: &mut Vec<Redo<'a>>) {
        if self.ended {
            return;
        }
        if ends_replay(view, is_flushed) {
            self.ended = true;
            return;
        }
        for (at, (entry, bytes)) in (0..).zip(view.entries()) {
            self.entry(EntryAt(view.header.sequence, at), &entry, bytes, redo);
        }
    }

    fn entry<'a>(&mut self, at: EntryAt, entry: &Entry, bytes: Option<&'a [u8]>, redo: &mut Vec<Redo<'a>>) {
        let partition = entry.partition;
        match entry.change {
            Change::Bytes { place, end, size, .. } => {
                let position = place.file_position;
                let position_end = position.saturating_add(size.into());
                let fate = self.superseded.fate(at, partition, place.segment);
                let until = match fate {
                    Fate::Gone => position,
                    Fate::UpTo(until) => until.min(position_end),
                    Fate::BelowLogStart | Fate::Whole => position_end,
                };
                self.reaches(partition, end);
                // What is not wanted any more cannot be missed either.
                if until <= position || self.is_behind_damage(partition, place.segment) {
                    return; // What follows would leave a gap.
                }
                let Some(bytes) = bytes else {
                    if self.superseded.is_below_log_start(at, partition, place.segment) {
                        self.unmissed.insert((partition, place.segment));
                    } else {
                        self.corrupt.insert(partition);
                    }
                    return;
                };
                if until == position_end && self.ends[&partition] == end {
                    let place = Place { segment: place.segment, file_position: position_end };
                    self.reached.insert(partition, Reached { end, place });
                }
                let bytes = &bytes[..(until - position) as usize];
                redo.push(Redo::Write { partition, segment: place.segment, file_position: position, bytes });
            }
            Change::Closed { segment, size, .. } => {
                let fate = self.superseded.fate(at, partition, segment);
                let is_wanted = matches!(fate, Fate::Whole | Fate::BelowLogStart);
                if is_wanted && !self.is_behind_damage(partition, segment) {
                    redo.push(Redo::Cut { partition, segment, size, is_missed: fate == Fate::Whole });
                }
            }
            Change::LogStart { start, .. } => {
                let known = self.log_starts.entry(partition).or_insert(start);
                *known = start.max(*known);
            }
            Change::Deleted { .. } => {
                self.forget(partition);
                redo.push(Redo::Delete { partition });
            }
            // Its directory was gone before. If there is one, it has come again.
            Change::Removed { .. } => self.forget(partition),
            Change::Replaced { .. } | Change::Flushed { .. } => {}
            Change::Cutting { place, end, .. } => {
                let reached = self.ends_at(partition, place, end);
                if !self.superseded.is_cut(at, partition) && !self.corrupt.contains(&partition) {
                    self.truncated.insert(partition, reached);
                    redo.push(Redo::Truncate { partition, place });
                }
            }
            Change::Cut { place, end, .. } => {
                self.ends_at(partition, place, end);
            }
        }
    }

    fn forget(&mut self, partition: TopicPartition) {
        self.ends.remove(&partition);
        self.reached.remove(&partition);
        self.log_starts.remove(&partition);
        self.truncated.remove(&partition);
    }

    fn is_behind_damage(&self, partition: TopicPartition, segment: Offset) -> bool {
        self.corrupt.contains(&partition) || self.unmissed.contains(&(partition, segment))
    }

    /// The log went on to `end`; parts of a range that goes on in the next block do not say it.
    fn reaches(&mut self, partition: TopicPartition, end: Offset) {
        let known = self.ends.entry(partition).or_insert(end);
        *known = end.max(*known);
    }

    /// A log that was cut begins where it ends then, at the latest: one that begins anew may do so before its start.
    fn ends_at(&mut self, partition: TopicPartition, place: Place, end: Offset) -> Reached {
        let reached = Reached { end, place };
        if let Some(start) = self.log_starts.get_mut(&partition) {
            *start = end.min(*start);
        }
        self.ends.insert(partition, end);
        self.reached.insert(partition, reached);
        reached
    }

    /// Partitions with damaged bytes that had been flushed: they stay offline.
    pub fn corrupt(&self) -> &BTreeSet<TopicPartition> {
        &self.corrupt
    }

    /// Where each replayed partition's log ends; a scan that finds less has found damage.
    pub fn ends(&self) -> &BTreeMap<TopicPartition, Offset> {
        &self.ends
    }

    /// The same with the place of it, for the next checkpoint; only of what was written.
    pub fn reached(&self) -> &BTreeMap<TopicPartition, Reached> {
        &self.reached
    }

    /// Where logs begin at least.
    pub fn log_starts(&self) -> &BTreeMap<TopicPartition, Offset> {
        &self.log_starts
    }

    /// Logs that this replay has cut: what an older checkpoint says of them holds no longer.
    pub fn truncated(&self) -> &BTreeMap<TopicPartition, Reached> {
        &self.truncated
    }

    /// Those of them that end where a segment begins. One that was to begin anew further on has less until it has
    /// followed again than others count on.
    pub fn may_lack_their_end(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        let ends_with_segment = |reached: &Reached| reached.place.file_position == 0;
        let found = self.truncated.iter().filter(move |(_, reached)| ends_with_segment(reached));
        found.map(|(partition, _)| *partition)
    }
}

/// A block that is whole but for some bytes, and was never flushed.
fn ends_replay(view: &BlockView<'_>, is_flushed: bool) -> bool {
    !is_flushed && view.entries().any(|(_, bytes)| bytes.is_none())
}

#[cfg(test)]
mod tests;
