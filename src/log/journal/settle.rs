//! The recovery points once the journals are replayed into the segments.
//!
//! A checkpoint says what it said when it was written; what the journals had beyond it is flushed in
//! the segments by now, and what they say of flushes was then. The points that follow go to disk before a
//! journal is used again: log starts stand nowhere else then.

use crate::log::checkpoint::PartitionPoint;
use crate::log::journal::flushed_ends::FlushedEnds;
use crate::log::journal::redo::Reached;
use crate::types::{Offset, TopicPartition};
use std::collections::BTreeMap;

/// What the journals say of logs, those that are whole.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    pub reached: BTreeMap<TopicPartition, Reached>,
    pub truncated: BTreeMap<TopicPartition, Reached>,
    pub log_starts: BTreeMap<TopicPartition, Offset>,
    /// Flushed in the segments, without anything that had to be done for it.
    pub flushed: BTreeMap<TopicPartition, Reached>,
}

impl Settled {
    /// What one journal says of flushes.
    pub fn take_flushed(&mut self, flushed_ends: &FlushedEnds) {
        for (partition, flushed) in flushed_ends.ends() {
            let known = self.flushed.entry(*partition).or_insert(*flushed);
            if known.end < flushed.end {
                *known = *flushed;
            }
        }
    }

    /// Brings the last checkpoint's points up to date.
    pub fn apply(&self, points: &mut BTreeMap<TopicPartition, PartitionPoint>) {
        for (partition, cut) in &self.truncated {
            if let Some(point) = points.get_mut(partition)
                && cut.end < point.flushed_end
            {
                *point = at(point.log_start.min(cut.end), cut);
            }
        }
        for (partition, reached) in self.reached.iter().chain(&self.flushed) {
            let known = points.get(partition);
            if reached.end > known.map_or(Offset::ZERO, |point| point.flushed_end) {
                let log_start = known.map_or(Offset::ZERO, |point| point.log_start);
                points.insert(*partition, at(log_start, reached));
            }
        }
        for (partition, start) in &self.log_starts {
            // A log start was flushed; where it lies nobody says, until the next checkpoint.
            let flushed = PartitionPoint {
                log_start: *start,
                flushed_end: *start,
                segment_base: *start,
                file_position: 0,
            };
            let point = points.entry(*partition).or_insert(flushed);
            if point.flushed_end < *start {
                *point = flushed;
            }
            point.log_start = point.log_start.max(*start);
        }
    }
}

fn at(log_start: Offset, reached: &Reached) -> PartitionPoint {
    PartitionPoint {
        log_start,
        flushed_end: reached.end,
        segment_base: reached.place.segment,
        file_position: reached.place.file_position,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::partition::Place;
    use crate::types::{PartitionIndex, TopicId, Uuid};

    #[test]
    fn points_follow_the_journal_where_it_goes_further() {
        let settled = Settled { reached: [(id(), reached(50, 40, 900))].into(), ..Settled::default() };
        assert_eq!(applied(&settled, None), Some(point(0, 50, 40, 900)));
        assert_eq!(applied(&settled, Some(point(7, 30, 20, 100))), Some(point(7, 50, 40, 900)));
        let further = point(7, 60, 40, 1000); // Written to the segment alone.
        assert_eq!(applied(&settled, Some(further)), Some(further));
    }

    #[test]
    fn points_follow_what_is_flushed_where_it_goes_further() {
        let settled = Settled {
            reached: [(id(), reached(50, 40, 900))].into(),
            flushed: [(id(), reached(60, 40, 1000))].into(),
            ..Settled::default()
        };
        assert_eq!(applied(&settled, Some(point(7, 30, 20, 100))), Some(point(7, 60, 40, 1000)));
        let further = Settled { reached: [(id(), reached(70, 70, 0))].into(), ..settled };
        assert_eq!(applied(&further, Some(point(7, 30, 20, 100))), Some(point(7, 70, 70, 0)));
    }

    #[test]
    fn log_start_is_kept_whatever_else_is_known() {
        let settled = Settled { log_starts: [(id(), offset(45))].into(), ..Settled::default() };
        assert_eq!(applied(&settled, None), Some(point(45, 45, 45, 0)));
        assert_eq!(applied(&settled, Some(point(7, 60, 40, 1000))), Some(point(45, 60, 40, 1000)));
        assert_eq!(applied(&settled, Some(point(48, 60, 40, 1000))), Some(point(48, 60, 40, 1000)));
        assert_eq!(applied(&settled, Some(point(7, 30, 20, 100))), Some(point(45, 45, 45, 0)));
        let settled = Settled { reached: [(id(), reached(50, 40, 900))].into(), ..settled };
        assert_eq!(applied(&settled, Some(point(7, 30, 20, 100))), Some(point(45, 50, 40, 900)));
    }

    #[test]
    fn what_a_replay_has_cut_is_not_expected_any_more() {
        let cut = reached(25, 20, 50);
        let settled =
            Settled { truncated: [(id(), cut)].into(), reached: [(id(), cut)].into(), ..Settled::default() };
        assert_eq!(applied(&settled, Some(point(7, 30, 30, 0))), Some(point(7, 25, 20, 50)));
    }

    fn applied(settled: &Settled, known: Option<PartitionPoint>) -> Option<PartitionPoint> {
        let mut points: BTreeMap<_, _> = known.map(|point| (id(), point)).into_iter().collect();
        settled.apply(&mut points);
        points.get(&id()).copied()
    }

    fn point(log_start: u64, flushed_end: u64, segment: u64, file_position: u64) -> PartitionPoint {
        PartitionPoint {
            log_start: offset(log_start),
            flushed_end: offset(flushed_end),
            segment_base: offset(segment),
            file_position,
        }
    }

    fn reached(end: u64, segment: u64, file_position: u64) -> Reached {
        Reached { end: offset(end), place: Place { segment: offset(segment), file_position } }
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
