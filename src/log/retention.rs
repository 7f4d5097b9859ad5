//! Which whole segments of a partition may go, by `DeleteRecords`, size and age.
//!
//! ```text
//! segments   │ 0 … │ 900 … │ 2100 … │ 3500 …  active │
//!                     ▲ log_start          ▲ high_watermark ≤ log_end
//!            └ goes ┘ may go by size or age, oldest first, while it lies below the high watermark
//! ```
//!
//! Kafka's rules (`UnifiedLog.deleteOldSegments`): three passes, each from the oldest segment on
//! until one stays. A segment stays while the high watermark has not reached its end, so that the
//! log start never passes it. The active segment can go by size or age too, when it holds anything;
//! it is rolled first, so that there always is one.

use crate::log::partition::PartitionLog;
use crate::log::segment::SegmentInfo;
use crate::types::{Offset, Timestamp};

/// `cleanup.policy` and the `retention.*` properties of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Whether `cleanup.policy` names `delete`; without it only what lies below the log start goes.
    pub delete: bool,
    /// `retention.ms`; `None` for -1, no limit.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`; `None` for -1, no limit.
    pub retention_bytes: Option<u64>,
}

/// The offsets of a log, as far as retention looks at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionBounds {
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
}

/// Which limit a segment has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionReason {
    LogStart,
    Size,
    Age,
}

/// What is to be done, in this order: roll, move the log start (durably), delete the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPlan {
    /// Base offset and reason of each segment that goes, oldest first.
    pub delete: Vec<(Offset, RetentionReason)>,
    /// The active segment is among them: an empty one at the log end takes its place first.
    pub roll_active: bool,
    /// Never below the old one, never past the high watermark.
    pub log_start: Offset,
}

/// What of this log may go now. What is in the journal only has no segment to delete yet.
pub fn plan_for(log: &PartitionLog, now: Timestamp) -> RetentionPlan {
    let segments: Vec<SegmentInfo> = log.closed().iter().chain([log.active()]).copied().collect();
    let bounds = RetentionBounds {
        log_start: log.log_start().min(log.stored_end()),
        high_watermark: log.stored_end(),
        log_end: log.log_end(),
    };
    let limits = RetentionLimits {
        delete: log.config.cleanup.delete,
        retention_ms: log.config.retention_ms,
        retention_bytes: log.config.retention_bytes,
    };
    plan_retention(&segments, &bounds, &limits, now)
}

/// `segments` are all of the log, oldest first, the active one last.
///
/// Shape: O(n) in the segments; called every `log.retention.check.interval.ms`.
fn plan_retention(
    segments: &[SegmentInfo],
    bounds: &RetentionBounds,
    limits: &RetentionLimits,
    now: Timestamp,
) -> RetentionPlan {
    assert!(bounds.log_start <= bounds.high_watermark);
    assert!(bounds.high_watermark <= bounds.log_end);
    debug_assert!(segments.is_sorted_by(|a, b| a.base_offset < b.base_offset));

    let mut pass = Pass { segments, bounds, delete: Vec::new() };
    pass.run(RetentionReason::LogStart, |_, next| next.is_some_and(|next| next <= bounds.log_start));
    if limits.delete {
        if let Some(retention_bytes) = limits.retention_bytes {
            let size: u64 = pass.remaining().iter().map(|segment| segment.size).sum();
            // A segment goes when what is left without it still reaches the limit.
            let mut excess = size.checked_sub(retention_bytes);
            pass.run(RetentionReason::Size, |segment, _| {
                let rest = excess.and_then(|excess| excess.checked_sub(segment.size));
                excess = rest.or(excess);
                rest.is_some()
            });
        }
        if let Some(retention_ms) = limits.retention_ms {
            let retention_ms = i64::try_from(retention_ms).unwrap_or(i64::MAX);
            pass.run(RetentionReason::Age, |segment, _| {
                now.0.saturating_sub(segment.largest_timestamp().0) > retention_ms
            });
        }
    }

    let first_left = pass.remaining().first().map_or(bounds.log_end, |segment| segment.base_offset);
    let log_start = if pass.delete.is_empty() { bounds.log_start } else { bounds.log_start.max(first_left) };
    assert!(log_start <= bounds.high_watermark, "retention passed the high watermark");
    RetentionPlan {
        roll_active: !segments.is_empty() && pass.remaining().is_empty(),
        delete: pass.delete,
        log_start,
    }
}

struct Pass<'a> {
    segments: &'a [SegmentInfo],
    bounds: &'a RetentionBounds,
    delete: Vec<(Offset, RetentionReason)>,
}

impl<'a> Pass<'a> {
    fn remaining(&self) -> &'a [SegmentInfo] {
        &self.segments[self.delete.len()..]
    }

    /// Takes segments until one is not `expired`, which is asked with the base offset of the next.
    fn run(
        &mut self,
        reason: RetentionReason,
        mut expired: impl FnMut(&SegmentInfo, Option<Offset>) -> bool,
    ) {
        while let [segment, rest @ ..] = self.remaining() {
            let next = rest.first().map(|next| next.base_offset);
            let replicated = next.unwrap_or(self.bounds.log_end) <= self.bounds.high_watermark;
            let is_empty_active = next.is_none() && segment.size == 0;
            if !replicated || is_empty_active || !expired(segment, next) {
                return;
            }
            self.delete.push((segment.base_offset, reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const NO_LIMITS: RetentionLimits =
        RetentionLimits { delete: true, retention_ms: None, retention_bytes: None };

    #[test]
    fn nothing_goes_without_a_limit() {
        let segments = [segment(0, 100, 0), segment(10, 100, 0)];
        let plan = plan_retention(&segments, &bounds(0, 20), &NO_LIMITS, Timestamp(i64::MAX));
        assert_eq!(plan, RetentionPlan { delete: vec![], roll_active: false, log_start: offset(0) });
    }

    #[test]
    fn segments_below_the_log_start_go_even_when_compacted() {
        let segments = [segment(0, 100, 0), segment(10, 100, 0), segment(20, 100, 0)];
        let compact = RetentionLimits { delete: false, retention_ms: Some(0), retention_bytes: Some(0) };
        let plan = plan_retention(&segments, &bounds(15, 30), &compact, Timestamp(9_999));
        assert_eq!(plan.delete, [(offset(0), RetentionReason::LogStart)]);
        assert_eq!(plan.log_start, offset(15), "the log start does not move back");
        let plan = plan_retention(&segments, &bounds(30, 30), &compact, Timestamp(9_999));
        assert_eq!(plan.delete.len(), 2, "the active segment stays");
        assert!(!plan.roll_active);
    }

    #[test]
    fn size_keeps_at_least_the_limit() {
        let segments = [segment(0, 100, 0), segment(10, 100, 0), segment(20, 50, 0)];
        let keep = |bytes| {
            let limits = RetentionLimits { retention_bytes: Some(bytes), ..NO_LIMITS };
            plan_retention(&segments, &bounds(0, 30), &limits, Timestamp(0))
        };
        assert_eq!(keep(151).delete, []);
        assert_eq!(keep(150).delete, [(offset(0), RetentionReason::Size)]);
        assert_eq!(keep(50).log_start, offset(20));
        let all = keep(0);
        assert!(all.roll_active);
        assert_eq!(all.log_start, offset(30));
    }

    #[test]
    fn age_is_that_of_the_newest_record() {
        let limits = RetentionLimits { retention_ms: Some(100), ..NO_LIMITS };
        let segments = [segment(0, 10, 50), segment(10, 10, 300), segment(20, 10, 60)];
        let plan = |now| plan_retention(&segments, &bounds(0, 30), &limits, Timestamp(now)).delete.len();
        assert_eq!(plan(150), 0, "exactly at the limit");
        assert_eq!(plan(151), 1);
        assert_eq!(plan(400), 1, "the oldest that stays keeps what is behind it");
        assert_eq!(plan(401), 3);
    }

    #[test]
    fn age_without_timestamps_is_that_of_the_last_append() {
        let limits = RetentionLimits { retention_ms: Some(100), ..NO_LIMITS };
        let segments = [SegmentInfo { modified_at: Timestamp(500), ..segment(0, 10, -1) }];
        let plan = |now| plan_retention(&segments, &bounds(0, 30), &limits, Timestamp(now)).delete.len();
        assert_eq!((plan(600), plan(601)), (0, 1));
    }

    #[test]
    fn an_empty_active_segment_stays() {
        let limits = RetentionLimits { retention_ms: Some(0), retention_bytes: Some(0), ..NO_LIMITS };
        let segments = [segment(0, 0, -1)];
        let plan = plan_retention(&segments, &bounds(0, 0), &limits, Timestamp(i64::MAX));
        assert_eq!(plan, RetentionPlan { delete: vec![], roll_active: false, log_start: offset(0) });
    }

    proptest! {
        #[test]
        fn oldest_first_and_never_past_the_high_watermark(
            shapes in vec((1..10u64, 1..100u64, -1..100i64), 1..12),
            marks in (0..120u64, 0..120u64),
            retention_ms in proptest::option::of(0..100u64),
            retention_bytes in proptest::option::of(0..1000u64),
            now in 0..200i64,
        ) {
            let mut segments = Vec::new();
            let mut end = 0;
            for (records, size, timestamp) in shapes {
                segments.push(segment(end, size, timestamp));
                end += records;
            }
            let high_watermark = marks.0.min(end);
            let bounds = RetentionBounds {
                log_start: offset(marks.1.min(high_watermark)),
                high_watermark: offset(high_watermark),
                log_end: offset(end),
            };
            let limits = RetentionLimits { delete: true, retention_ms, retention_bytes };
            let plan = plan_retention(&segments, &bounds, &limits, Timestamp(now));
            let count = plan.delete.len();
            let bases: Vec<Offset> = plan.delete.iter().map(|(base, _)| *base).collect();
            let oldest: Vec<Offset> = segments[..count].iter().map(|segment| segment.base_offset).collect();
            prop_assert_eq!(bases, oldest);
            prop_assert_eq!(plan.roll_active, count == segments.len());
            prop_assert!(bounds.log_start <= plan.log_start);
            prop_assert!(plan.log_start <= bounds.high_watermark);

            let mut after = segments[count..].to_vec();
            if plan.roll_active {
                after.push(segment(end, 0, -1));
            }
            let left: u64 = after.iter().map(|segment| segment.size).sum();
            let by_size = plan.delete.iter().filter(|(_, reason)| *reason == RetentionReason::Size).count();
            let by_age = plan.delete.iter().filter(|(_, reason)| *reason == RetentionReason::Age).count();
            if by_size > 0 && by_age == 0 {
                prop_assert!(retention_bytes.unwrap() <= left);
            }
            let again = RetentionBounds { log_start: plan.log_start, ..bounds };
            let plan = plan_retention(&after, &again, &limits, Timestamp(now));
            prop_assert_eq!(plan.delete, [], "what could go went at once");
        }
    }

    fn segment(base: u64, size: u64, max_timestamp: i64) -> SegmentInfo {
        SegmentInfo {
            size,
            max_timestamp: Timestamp(max_timestamp),
            ..SegmentInfo::empty(offset(base), Timestamp(0))
        }
    }

    fn bounds(log_start: u64, log_end: u64) -> RetentionBounds {
        RetentionBounds {
            log_start: offset(log_start),
            high_watermark: offset(log_end),
            log_end: offset(log_end),
        }
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
