//! Which part of a log is compacted, when it is due, and which segments become one (Kafka
//! `LogCleanerManager`, `Cleaner.groupSegmentsBySize`).
//!
//! ```text
//! segments   │ 0 … │ 900 … │ 2100 … │ 3500 … │ 4200 …  active │
//!            └ clean bytes ┴──── cleanable ──┘ first_uncleanable: not final on disk, past the last stable
//!                          ▲ first_dirty                          offset, or younger than the lag
//! ```

use crate::log::partition::PartitionLog;
use crate::log::segment::{RELATIVE_OFFSET_MAX, SegmentInfo};
use crate::types::{Offset, Timestamp};

/// The properties of a compacted topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionLimits {
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`, in millionths.
    pub min_dirty_ppm: u32,
}

/// How dirty a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanable {
    pub first_dirty: Offset,
    /// Exclusive; base offset of a segment, or the first dirty offset where nothing can be compacted.
    pub first_uncleanable: Offset,
    /// Bytes compacted before.
    pub clean_bytes: u64,
    /// Bytes between the two offsets.
    pub dirty_bytes: u64,
    /// `max.compaction.lag.ms` has passed for the oldest dirty segment.
    pub is_overdue: bool,
}

impl Cleanable {
    /// Looks at a log. `checkpoint` is the first dirty offset that was written down; `final_below` is
    /// the base offset of the first segment that is still written to.
    ///
    /// Shape: O(n) in the segments.
    pub fn of(
        log: &PartitionLog,
        checkpoint: Option<Offset>,
        final_below: Offset,
        limits: &CompactionLimits,
        now: Timestamp,
    ) -> Cleanable {
        // A checkpoint past the end tells of records that a crash has taken: all is dirty then.
        let first_dirty = match checkpoint {
            Some(offset) if offset <= log.log_end() => offset.max(log.log_start()),
            Some(_) | None => log.log_start(),
        };
        let dirty = |segment: &&SegmentInfo| end_of(log, segment) > first_dirty;
        let too_young = log.closed().iter().filter(dirty).find(|segment| {
            limits.min_lag_ms > 0 && segment.largest_timestamp().0 > now.0.saturating_sub(limits.min_lag_ms)
        });
        // Nobody knows yet whether what an open transaction wrote is to stay; and a marker that can still be
        // lost would take the word back for which older values went.
        let bound = log.settled_end().min(final_below).min(log.active().base_offset);
        let bound = too_young.map_or(bound, |segment| bound.min(segment.base_offset));
        let whole = log.closed().iter().take_while(|segment| end_of(log, segment) <= bound);
        let first_uncleanable = whole.last().map_or(first_dirty, |segment| end_of(log, segment));
        let first_uncleanable = first_uncleanable.max(first_dirty);
        // By its end: a log start may lie inside a segment that is not final yet.
        let below = |segment: &&SegmentInfo| end_of(log, segment) <= first_uncleanable;
        let (mut clean_bytes, mut dirty_bytes, mut oldest) = (0, 0, None);
        for segment in log.closed().iter().filter(below) {
            if dirty(&segment) {
                dirty_bytes += segment.size;
                let first = segment.first_timestamp.filter(|first| first.0 > 0);
                oldest = [oldest, first].into_iter().flatten().min();
            } else {
                clean_bytes += segment.size;
            }
        }
        let is_overdue =
            oldest.is_some_and(|oldest| oldest.0 < now.0.saturating_sub(limits.max_lag_ms.max(0)));
        Cleanable { first_dirty, first_uncleanable, clean_bytes, dirty_bytes, is_overdue }
    }

    /// Dirty share of what can be compacted, in millionths.
    pub fn dirty_ppm(&self) -> u32 {
        let total = u128::from(self.clean_bytes) + u128::from(self.dirty_bytes);
        (u128::from(self.dirty_bytes) * 1_000_000).checked_div(total).unwrap_or(0) as u32
    }

    /// Whether a pass is worth it, or asked for by `max.compaction.lag.ms`.
    pub fn is_due(&self, limits: &CompactionLimits) -> bool {
        self.dirty_bytes > 0 && (self.is_overdue || self.dirty_ppm() > limits.min_dirty_ppm)
    }
}

/// Where a closed segment ends: the base offset of the next. Exclusive.
pub fn end_of(log: &PartitionLog, segment: &SegmentInfo) -> Offset {
    let after = log.closed().partition_point(|other| other.base_offset <= segment.base_offset);
    log.closed().get(after).map_or(log.active().base_offset, |next| next.base_offset)
}

/// A segment with what its files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentToClean {
    pub info: SegmentInfo,
    /// Exclusive.
    pub end_offset: Offset,
    /// Bytes of the larger of its indexes.
    pub index_size: u64,
}

/// How large a compacted segment may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// `segment.bytes`.
    pub segment_size_max: u64,
    /// `segment.index.bytes`.
    pub index_size_max: u64,
}

/// Puts neighbours together that fit into one segment, so that segments do not shrink for ever.
/// Returns how many of `segments` belong to each group, in order.
pub fn group_segments(segments: &[SegmentToClean], limits: &GroupLimits) -> Vec<usize> {
    let mut counts = Vec::new();
    let mut rest = segments;
    while let Some(first) = rest.first() {
        let (mut size, mut index_size) = (0, 0);
        let joins = |segment: &&SegmentToClean| -> bool {
            size += segment.info.size;
            index_size += segment.index_size;
            let reach = segment.end_offset.since(first.info.base_offset);
            size <= limits.segment_size_max
                && index_size <= limits.index_size_max
                && reach <= RELATIVE_OFFSET_MAX + 1
        };
        // A segment that is too large by itself (the limit was lowered) is a group of its own.
        let count = rest.iter().take_while(joins).count().max(1);
        counts.push(count);
        rest = &rest[count..];
    }
    assert_eq!(counts.iter().sum::<usize>(), segments.len());
    counts
}

#[cfg(test)]
mod tests;
