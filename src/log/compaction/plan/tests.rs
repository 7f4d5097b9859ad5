use super::*;
use crate::log::checksums::SegmentChecksums;
use crate::log::epochs::LeaderEpochs;
use crate::log::index::SegmentIndex;
use crate::log::partition::{Cleanup, LogConfig, Opened};
use crate::log::producers::Producers;
use crate::log::samples::{log_config, sample_segment};
use crate::types::LeaderEpoch;
use proptest::prelude::*;

const LIMITS: CompactionLimits =
    CompactionLimits { delete_retention_ms: 0, min_lag_ms: 0, max_lag_ms: i64::MAX, min_dirty_ppm: 500_000 };
const NOW: Timestamp = Timestamp(1_000_000);

#[test]
fn everything_closed_is_dirty_at_first() {
    let log = log(0, &[(0, 100, 5), (10, 100, 6)], 20, 25);
    let found = Cleanable::of(&log, None, Offset::MAX, &LIMITS, NOW);
    assert_eq!((found.first_dirty, found.first_uncleanable), (offset(0), offset(20)));
    assert_eq!((found.clean_bytes, found.dirty_bytes, found.dirty_ppm()), (0, 200, 1_000_000));
    assert!(found.is_due(&LIMITS));
}

#[test]
fn the_active_segment_and_what_is_not_final_on_disk_stay() {
    let log = log(0, &[(0, 100, 5), (10, 100, 6)], 20, 25);
    let found = Cleanable::of(&log, None, offset(10), &LIMITS, NOW);
    assert_eq!((found.first_uncleanable, found.dirty_bytes), (offset(10), 100));
    let found = Cleanable::of(&log, None, offset(0), &LIMITS, NOW);
    assert_eq!((found.first_uncleanable, found.dirty_bytes), (offset(0), 0));
    assert!(!found.is_due(&LIMITS));
}

/// DeleteRecords has moved the log start into a segment that is still written to, or too young.
#[test]
fn a_segment_that_is_not_final_stays_wherever_the_log_starts() {
    let log = log(15, &[(0, 100, 5), (10, 300, NOW.0)], 20, 25);
    for (final_below, min_lag_ms) in [(offset(10), 0), (offset(0), 0), (Offset::MAX, 50)] {
        let limits = CompactionLimits { min_lag_ms, ..LIMITS };
        let found = Cleanable::of(&log, None, final_below, &limits, NOW);
        assert_eq!((found.first_dirty, found.dirty_bytes), (offset(15), 0));
        assert!(!found.is_due(&limits));
    }
    assert!(Cleanable::of(&log, None, Offset::MAX, &LIMITS, NOW).is_due(&LIMITS));
}

#[test]
fn a_log_is_due_above_the_dirty_ratio() {
    let log = log(0, &[(0, 300, 5), (10, 100, 6), (20, 200, 7)], 30, 30);
    let due = |checkpoint| {
        let found = Cleanable::of(&log, Some(offset(checkpoint)), Offset::MAX, &LIMITS, NOW);
        (found.clean_bytes, found.dirty_bytes, found.is_due(&LIMITS))
    };
    assert_eq!(due(10), (300, 300, false), "half is not above one half");
    assert_eq!(due(5), (0, 600, true), "a segment that is dirty from its middle is dirty");
    assert_eq!(due(20), (400, 200, false));
    assert_eq!(due(30), (600, 0, false));
}

#[test]
fn records_younger_than_the_lag_are_left_alone() {
    let log = log(0, &[(0, 100, 5), (10, 100, NOW.0 - 50), (20, 100, 7)], 30, 30);
    let of = |min_lag_ms| {
        let limits = CompactionLimits { min_lag_ms, ..LIMITS };
        Cleanable::of(&log, None, Offset::MAX, &limits, NOW).first_uncleanable
    };
    assert_eq!(of(50), offset(30));
    assert_eq!(of(51), offset(10), "and what follows a young segment");
    assert_eq!(of(i64::MAX), offset(0));
}

#[test]
fn the_longest_lag_makes_a_log_due_whatever_its_ratio() {
    let log = log(0, &[(0, 1_000, 5), (10, 1, NOW.0 - 100)], 20, 20);
    let due = |max_lag_ms| {
        let limits = CompactionLimits { max_lag_ms, ..LIMITS };
        Cleanable::of(&log, Some(offset(10)), Offset::MAX, &limits, NOW).is_due(&limits)
    };
    assert!(!due(100));
    assert!(due(99));
}

#[test]
fn a_checkpoint_outside_the_log_means_the_whole_log() {
    let log = log(15, &[(10, 100, 5), (20, 100, 6)], 30, 35);
    let first = |checkpoint| Cleanable::of(&log, checkpoint, Offset::MAX, &LIMITS, NOW).first_dirty;
    assert_eq!(first(None), offset(15));
    assert_eq!(first(Some(offset(3))), offset(15), "deleted since");
    assert_eq!(first(Some(offset(20))), offset(20));
    assert_eq!(first(Some(offset(36))), offset(15), "cut by a crash since");
}

#[test]
fn neighbours_become_one_segment_while_they_fit() {
    let limits = GroupLimits { segment_size_max: 100, index_size_max: 50 };
    let far = RELATIVE_OFFSET_MAX + 1;
    /// End offset, size and index size of each segment; how many make each group.
    type Case<'a> = (&'a [(u64, u64, u64)], &'a [usize]);
    let cases: [Case<'_>; 6] = [
        (&[], &[]),
        (&[(10, 50, 1), (20, 50, 1), (30, 1, 1)], &[2, 1]),
        (&[(10, 500, 1), (20, 50, 1)], &[1, 1]),
        (&[(10, 1, 30), (20, 1, 20), (30, 1, 1)], &[2, 1]),
        (&[(10, 1, 1), (far, 1, 1)], &[2]),
        (&[(10, 1, 1), (far + 1, 1, 1)], &[1, 1]),
    ];
    for (segments, expected) in cases {
        let mut base = 0;
        let segments: Vec<SegmentToClean> = segments
            .iter()
            .map(|(end, size, index_size)| {
                let info = SegmentInfo { size: *size, ..SegmentInfo::empty(offset(base), NOW) };
                base = *end;
                SegmentToClean { info, end_offset: offset(*end), index_size: *index_size }
            })
            .collect();
        assert_eq!(group_segments(&segments, &limits), expected);
    }
}

proptest! {
    #[test]
    fn groups_keep_their_limits(
        shapes in proptest::collection::vec((1..150u64, 0..60u64, 1..1u64 << 30), 0..30),
    ) {
        let limits = GroupLimits { segment_size_max: 100, index_size_max: 50 };
        let mut base = 0;
        let segments: Vec<SegmentToClean> = shapes.iter().map(|(size, index_size, records)| {
            let info = SegmentInfo { size: *size, ..SegmentInfo::empty(offset(base), NOW) };
            base += records;
            SegmentToClean { info, end_offset: offset(base), index_size: *index_size }
        }).collect();
        let mut rest = &segments[..];
        for count in group_segments(&segments, &limits) {
            let (group, after) = rest.split_at(count);
            rest = after;
            if let [_, _, ..] = group {
                prop_assert!(group.iter().map(|segment| segment.info.size).sum::<u64>() <= 100);
                prop_assert!(group.iter().map(|segment| segment.index_size).sum::<u64>() <= 50);
                let last = group.last().unwrap().end_offset.get() - 1;
                prop_assert!(last - group[0].info.base_offset.get() <= RELATIVE_OFFSET_MAX);
            }
        }
        prop_assert!(rest.is_empty());
    }
}

/// Base offset, size and largest timestamp of each closed segment.
fn log(log_start: u64, closed: &[(u64, u64, i64)], active: u64, log_end: u64) -> PartitionLog {
    let info = |(base, size, timestamp): &(u64, u64, i64)| SegmentInfo {
        size: *size,
        first_timestamp: Some(Timestamp(*timestamp)),
        max_timestamp: Timestamp(*timestamp),
        ..SegmentInfo::empty(offset(*base), Timestamp(0))
    };
    let opened = Opened {
        log_start: offset(log_start),
        log_end: offset(log_end),
        closed: closed.iter().map(info).collect(),
        active: SegmentInfo::empty(offset(active), Timestamp(0)),
        active_index: SegmentIndex::new(offset(active), 4096),
        active_checksums: SegmentChecksums::new(sample_segment(offset(active))),
        producers: Producers::new(),
        aborted: Vec::new(),
        epochs: LeaderEpochs::default(),
        jitter_seed: 0,
    };
    let config =
        LogConfig { cleanup: Cleanup { delete: false, compact: Some(LIMITS) }, ..log_config(1 << 20) };
    PartitionLog::new(opened, config, LeaderEpoch(0))
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
