//! How far a journal says that logs were flushed in their segments: beyond the last checkpoint nothing else
//! does, and without it damage looks like a torn tail.
//!
//! ```text
//! blocks of the run   │ bytes, records │ bytes, records │ bytes, records │
//!                     first left ............... needed ............... end
//!                     │ bytes and records count         │ records count  │ bytes are redone
//! ```
//!
//! | what says it | why |
//! |---|---|
//! | a record ([`Change::Flushed`]) in any block of the run | that flush had returned when the block was issued |
//! | bytes in a block below `needed` | a block says that everything in it is flushed in its segments |
//!
//! Both are facts of before, so that it does not matter whether the block that tells them was flushed itself,
//! or stated to be. What could make them untrue is in the journal too, behind them: a cut takes back what lay
//! behind it, a deletion all of it. Neither is carried out before a later block states that it is on stable
//! storage, so that a run that ends before one ends before it was carried out. A block that is missing inside
//! the run might have said so; nothing before it counts.
//!
//! What is no reason to take anything back:
//! - Segments replaced by compaction: none of them is the last one, and only in that one a position counts.
//! - A log start beyond: the log ends behind it.
//! - Another core: it is given out by a start, which puts what it has read here into its checkpoint and leaves
//!   a gap in the numbers before its mark.
//!
//! Absent: cuts that a running shard makes. When they come, a record that was issued between `Cutting` and
//! `Cut` must not raise what the cut takes back: the next start would miss it.
//!
//! Absent: a checksum over what was flushed. That of the extent a segment's end lies in is known for whole
//! extents only; the batches that a scan finds have their own.

use crate::log::journal::block::{BlockView, Change};
use crate::log::journal::redo::Reached;
use crate::log::partition::Place;
use crate::types::{Offset, TopicPartition};
use std::collections::BTreeMap;

/// Lives: behind the scan of one journal, while the blocks of its run are read in their order.
#[derive(Debug, Default)]
pub struct FlushedEnds {
    known: BTreeMap<TopicPartition, Reached>,
}

impl FlushedEnds {
    /// `is_needed`: what the block has of bytes may be nowhere else.
    pub fn block(&mut self, view: &BlockView<'_>, is_needed: bool) {
        for (entry, _) in view.entries() {
            let partition = entry.partition;
            match entry.change {
                Change::Bytes { place, end, size, .. } if !is_needed => {
                    let file_position = place.file_position.saturating_add(size.into());
                    self.reaches(partition, end, Place { file_position, ..place });
                }
                Change::Flushed { place, end, .. } => self.reaches(partition, end, place),
                Change::Cutting { place, end, .. } | Change::Cut { place, end, .. } => {
                    if let Some(known) = self.known.get_mut(&partition).filter(|known| end < known.end) {
                        *known = Reached { end, place };
                    }
                }
                Change::Deleted { .. } | Change::Removed { .. } => {
                    self.known.remove(&partition);
                }
                Change::Bytes { .. }
                | Change::Closed { .. }
                | Change::LogStart { .. }
                | Change::Replaced { .. } => {}
            }
        }
    }

    /// A part of a range that goes on in the next block says that it reaches nothing.
    fn reaches(&mut self, partition: TopicPartition, end: Offset, place: Place) {
        let known = self.known.entry(partition).or_insert(Reached { end, place });
        if known.end <= end {
            *known = Reached { end, place };
        }
    }

    /// Of those of which something was said.
    pub fn ends(&self) -> &BTreeMap<TopicPartition, Reached> {
        &self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::journal::block::{BlockHeader, BlockSequence, BlockWriter, Entry, FileEpoch, block_size};
    use crate::types::{LeaderEpoch, PartitionIndex, ShardId, TopicId, Uuid};

    #[test]
    fn the_furthest_record_counts_wherever_it_stands() {
        assert_eq!(ends(&[(flushed(50, 40, 900), true)]), Some((50, 40, 900)));
        assert_eq!(ends(&[(flushed(50, 40, 900), false), (flushed(60, 60, 0), true)]), Some((60, 60, 0)));
        assert_eq!(ends(&[]), None);
    }

    #[test]
    fn bytes_count_once_they_are_not_needed_any_more() {
        assert_eq!(ends(&[(bytes(50, 40, 900), true)]), None);
        assert_eq!(ends(&[(bytes(50, 40, 900), false)]), Some((50, 40, 905)));
        let behind = [(flushed(50, 40, 905), false), (bytes(60, 40, 905), false)];
        assert_eq!(ends(&behind), Some((60, 40, 910)));
        let goes_on = [(flushed(50, 40, 905), false), (bytes(0, 40, 905), false)];
        assert_eq!(ends(&goes_on), Some((50, 40, 905)), "only its last part reaches the end");
    }

    #[test]
    fn cut_and_deleted_logs_are_missed_only_as_far_as_they_were_left() {
        let place = |segment, file_position| Place { segment: offset(segment), file_position };
        let epoch = LeaderEpoch(1);
        let cutting = Change::Cutting { place: place(20, 70), end: offset(25), epoch };
        let cut = Change::Cut { place: place(20, 70), end: offset(25), epoch };
        let before = (flushed(50, 40, 900), false);
        assert_eq!(ends(&[before, (cutting, true)]), Some((25, 20, 70)));
        assert_eq!(
            ends(&[before, (cutting, false), (cut, false), (flushed(30, 20, 99), true)]),
            Some((30, 20, 99))
        );
        assert_eq!(ends(&[(flushed(22, 20, 9), false), (cutting, true)]), Some((22, 20, 9)));
        assert_eq!(ends(&[before, (Change::Deleted { epoch }, true)]), None);
    }

    /// The log ends behind its start, and the segment that is written to is never replaced.
    #[test]
    fn log_starts_and_replaced_segments_take_nothing_back() {
        let epoch = LeaderEpoch(1);
        for change in [
            Change::LogStart { start: offset(90), epoch },
            Change::Replaced { from: offset(0), to: offset(80), epoch },
            Change::Closed { segment: offset(40), size: 900, next: offset(50) },
        ] {
            assert_eq!(ends(&[(flushed(50, 40, 900), false), (change, false)]), Some((50, 40, 900)));
        }
    }

    /// Each change in a block of its own, with whether that is needed.
    fn ends(changes: &[(Change, bool)]) -> Option<(u64, u64, u64)> {
        let mut found = FlushedEnds::default();
        for (change, is_needed) in changes {
            let mut block = vec![0; block_size(1, 5)];
            let mut writer = BlockWriter::new(&mut block, 1);
            match *change {
                Change::Bytes { place, end, .. } => {
                    writer.bytes(id(), place, end, [&b"bytes"[..]].into_iter())
                }
                change => writer.change(&Entry { partition: id(), change }),
            }
            writer.finish(&header());
            found.block(&BlockView::decode(&block, 0).unwrap(), *is_needed);
        }
        let Reached { end, place } = found.ends().get(&id()).copied()?;
        Some((end.get(), place.segment.get(), place.file_position))
    }

    fn flushed(end: u64, segment: u64, file_position: u64) -> Change {
        let place = Place { segment: offset(segment), file_position };
        Change::Flushed { place, end: offset(end), epoch: LeaderEpoch(0) }
    }

    fn bytes(end: u64, segment: u64, file_position: u64) -> Change {
        let place = Place { segment: offset(segment), file_position };
        Change::Bytes { place, end: offset(end), size: 5, crc: 0 }
    }

    fn header() -> BlockHeader {
        let (sequence, epoch) = (BlockSequence(1), FileEpoch(1));
        BlockHeader {
            shard: ShardId(0),
            epoch,
            position: 0,
            sequence,
            flushed: sequence,
            needed: sequence,
            file_size: 0,
        }
    }

    fn id() -> TopicPartition {
        TopicPartition {
            topic: TopicId(Uuid::from_u128(1)),
            partition: PartitionIndex::from_wire(0).unwrap(),
        }
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
