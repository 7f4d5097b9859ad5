//! Judges a partition from its segments' ends: whether they join, and whether the log reaches what the
//! checkpoint says was flushed.
//!
//! ```text
//! segments     [0 ───── 120)[120 ─── 300)[300 ──────── 410)      each begins where the one before ends
//! checkpoint      log_start ▲               flushed_end ▲        inside; at the end after a clean stop
//! ```

use crate::log::checkpoint::PartitionPoint;
use crate::log::inspect::findings::{Findings, Offence, Place};
use crate::log::inspect::segment_check::{SegmentFacts, SegmentRole};
use crate::log::recovery::OffsetGaps;
use crate::log::segment::SegmentFile;
use crate::types::{LeaderEpoch, Offset};

/// What a partition's log is held against.
#[derive(Clone, Copy, Debug)]
pub struct PartitionExpectation {
    /// The last stop was clean.
    pub clean: bool,
    pub gaps: OffsetGaps,
    /// What the newest checkpoint says.
    pub point: Option<PartitionPoint>,
    /// The journal has bytes of this log to replay. From the recovery point on its segments may lack them.
    pub journalled: bool,
}

impl PartitionExpectation {
    pub fn role(&self, base_offset: Offset, is_last: bool) -> SegmentRole {
        match (is_last, self.clean) {
            (false, _) if self.may_lack_bytes(base_offset) => SegmentRole::ActiveUnclean,
            (false, _) => SegmentRole::Closed,
            (true, true) => SegmentRole::ActiveClean,
            (true, false) => SegmentRole::ActiveUnclean,
        }
    }

    fn may_lack_bytes(&self, base_offset: Offset) -> bool {
        let flushed = self.point.map_or(Offset::ZERO, |point| point.segment_base);
        !self.clean && self.journalled && flushed <= base_offset
    }
}

/// What is known of a partition once it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionFacts {
    /// Base offset of the oldest segment, or the log start where that lies behind it.
    pub log_start: Offset,
    /// Exclusive; after the last whole batch before any damage.
    pub log_end: Offset,
    pub segment_count: u64,
    pub batch_count: u64,
    pub record_count: u64,
    /// Bytes of batches.
    pub size: u64,
}

/// Lives: for one pass over one partition. Pure.
#[derive(Debug)]
pub struct PartitionCheck {
    expected: PartitionExpectation,
    facts: PartitionFacts,
    oldest: Option<Offset>,
    last: Option<SegmentFacts>,
    /// The checkpoint's segment was among them.
    point_segment_found: bool,
    damaged: bool,
}

impl PartitionCheck {
    pub fn new(expected: PartitionExpectation) -> PartitionCheck {
        PartitionCheck {
            expected,
            facts: PartitionFacts::default(),
            oldest: None,
            last: None,
            point_segment_found: false,
            damaged: false,
        }
    }

    /// The last epoch so far: the next segment's are not smaller.
    pub fn leader_epoch_min(&self) -> Option<LeaderEpoch> {
        self.last.and_then(|last| last.last_leader_epoch)
    }

    /// Takes the next segment, in the order of base offsets.
    pub fn take(&mut self, segment: &SegmentFacts, findings: &mut Findings) {
        let place =
            Place::File { base_offset: segment.base_offset, file: SegmentFile::Log, file_position: 0 };
        if let Some(last) = &self.last {
            let (expected, got) = (last.end_offset, segment.base_offset);
            let joins = match self.expected.gaps {
                OffsetGaps::Refused => expected == got,
                OffsetGaps::Allowed => expected <= got,
            };
            // Where damage hides the end, only an overlap can be told.
            if expected < got && !joins && self.expected.may_lack_bytes(last.base_offset) {
                findings.note(place, Offence::SegmentGapReplayed { expected, got });
            } else if !joins && (!last.damaged || expected > got) {
                findings.problem(place, Offence::SegmentGap { expected, got });
            }
        }
        self.oldest = self.oldest.or(Some(segment.base_offset));
        self.point_segment_found |=
            self.expected.point.is_some_and(|point| point.segment_base == segment.base_offset);
        self.damaged |= segment.damaged;
        self.facts.segment_count += 1;
        self.facts.batch_count += segment.batch_count;
        self.facts.record_count += segment.record_count;
        self.facts.size += segment.size;
        self.last = Some(*segment);
    }

    /// There are no more segments.
    pub fn finish(mut self, findings: &mut Findings) -> PartitionFacts {
        let place = Place::Partition;
        let oldest = self.oldest.unwrap_or_default();
        let log_start = self.expected.point.map_or(oldest, |point| point.log_start);
        // A log without a segment is where its start is.
        let log_end = self.last.map_or(log_start, |last| last.end_offset);
        self.facts.log_start = log_start.max(oldest);
        self.facts.log_end = log_end;
        let Some(point) = self.expected.point else {
            if self.expected.clean && self.last.is_some() {
                findings.problem(place, Offence::PointMissing);
            }
            return self.facts;
        };
        if self.oldest.is_some_and(|oldest| log_start < oldest) {
            findings.problem(place, Offence::LogStartBelow { log_start, oldest });
        }
        // A segment without a byte may have no file yet.
        if !self.point_segment_found && point.file_position > 0 {
            findings.problem(place, Offence::SegmentMissing { segment: point.segment_base });
        }
        // What damage hides was reported where it is.
        if log_end < point.flushed_end && !self.damaged {
            findings.problem(place, Offence::EndsEarly { point, log_end });
        }
        if self.expected.clean && point.flushed_end < log_end {
            findings.problem(place, Offence::GoesOn { point, log_end });
        }
        self.facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_join_and_reach_the_point_are_fine() {
        assert_eq!(judged(&[(0, 120), (120, 300), (300, 410)], clean(5, 410, 300)), [""; 0]);
        assert_eq!(judged(&[(0, 120)], unclean(0, 100, 0)), [""; 0], "the log may go on behind the point");
        assert_eq!(judged(&[], clean(7, 7, 7)), [""; 0], "nothing was ever written");
        let compacted = PartitionExpectation { gaps: OffsetGaps::Allowed, ..clean(0, 410, 300) };
        assert_eq!(judged(&[(0, 120), (300, 410)], compacted), [""; 0]);
    }

    #[test]
    fn what_the_journal_has_may_be_missing_behind_the_recovery_point() {
        let segments = [(0, 120), (120, 250), (300, 410)];
        let journalled = |expected| PartitionExpectation { journalled: true, ..expected };
        let mut findings = Findings::default();
        assert_eq!(checked(&segments, journalled(unclean(0, 150, 120)), &mut findings).len(), 1);
        assert_eq!((findings.problem_count, findings.note_count), (0, 1));
        for expected in
            [unclean(0, 150, 120), journalled(unclean(0, 310, 300)), journalled(clean(0, 410, 300))]
        {
            let mut findings = Findings::default();
            checked(&segments, expected, &mut findings);
            assert_eq!((findings.problem_count, findings.note_count), (1, 0), "{expected:?}");
        }
        let roles =
            [0, 120, 300].map(|base| journalled(unclean(0, 150, 120)).role(offset(base), base == 300));
        let active = SegmentRole::ActiveUnclean;
        assert_eq!(roles, [SegmentRole::Closed, active, active]);
    }

    #[test]
    fn each_contradiction_is_told() {
        let cases = [
            (
                judged(&[(0, 120), (130, 300)], clean(0, 300, 130)),
                "the segment begins at 130, the one before ends at 120",
            ),
            (
                judged(&[(0, 120), (110, 300)], clean(0, 300, 110)),
                "the segment begins at 110, the one before ends at 120",
            ),
            (judged(&[(120, 300)], clean(5, 300, 120)), "the log starts at 5, but the oldest segment at 120"),
            (judged(&[(0, 120)], clean(0, 300, 0)), "the log ends at 120; flushed were 300"),
            (
                judged(&[(0, 120)], unclean(0, 300, 120)),
                "segment 120, which the checkpoint names, is not there",
            ),
            (
                judged(&[(0, 120)], clean(0, 100, 0)),
                "a clean stop is marked at 100, but the log goes on to 120",
            ),
            (
                judged(&[(0, 120)], PartitionExpectation { point: None, ..clean(0, 0, 0) }),
                "a clean stop is marked, but no checkpoint has this partition",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found.first().map(String::as_str), Some(expected), "{found:?}");
        }
    }

    fn clean(log_start: u64, flushed_end: u64, segment_base: u64) -> PartitionExpectation {
        let point = PartitionPoint {
            log_start: offset(log_start),
            flushed_end: offset(flushed_end),
            segment_base: offset(segment_base),
            file_position: flushed_end - segment_base,
        };
        PartitionExpectation { clean: true, gaps: OffsetGaps::Refused, point: Some(point), journalled: false }
    }

    fn unclean(log_start: u64, flushed_end: u64, segment_base: u64) -> PartitionExpectation {
        PartitionExpectation { clean: false, ..clean(log_start, flushed_end, segment_base) }
    }

    fn judged(segments: &[(u64, u64)], expected: PartitionExpectation) -> Vec<String> {
        checked(segments, expected, &mut Findings::default())
    }

    fn checked(
        segments: &[(u64, u64)],
        expected: PartitionExpectation,
        findings: &mut Findings,
    ) -> Vec<String> {
        let mut check = PartitionCheck::new(expected);
        for (base, end) in segments {
            let facts = SegmentFacts {
                base_offset: offset(*base),
                end_offset: offset(*end),
                last_leader_epoch: None,
                batch_count: 1,
                record_count: end - base,
                size: 100,
                damaged: false,
            };
            check.take(&facts, findings);
        }
        check.finish(findings);
        findings.kept().iter().map(|finding| finding.offence.to_string()).collect()
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }
}
