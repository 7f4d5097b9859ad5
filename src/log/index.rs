//! The sparse indexes of a segment: where to begin looking for an offset or a timestamp.
//!
//! ```text
//! batches      │ 0–4 │ 5–9 │ 10–30 │ 31–33 │ 34–60 │ 61–62 │        last offsets 4, 9, 30 …
//! file position 0     900   1800    5200    5900    9700
//! offset index                      (33, 5200)      (62, 9700)     every index.interval.bytes
//! time index                        (t, o)          (t', o')       largest timestamp up to there
//! ```
//!
//! `.index`, one entry per interval, both fields increasing (Kafka `OffsetIndex`):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | last offset of a batch, relative to the segment's base offset |
//! | 4 | 4 | file position of that batch |
//!
//! `.timeindex`, both fields increasing (Kafka `TimeIndex`):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | largest timestamp so far, ms |
//! | 8 | 4 | last offset of the first batch that has it, relative |
//!
//! All integers big-endian. The files carry no checksum: one that is not monotonic or does not fit
//! its segment is refused, and the index is built again from the batches.

use crate::log::segment::{RELATIVE_OFFSET_MAX, StoredBatch};
use crate::types::with_last::WithLast;
use crate::types::{Offset, Timestamp};

/// Bytes of an entry of `.index`.
pub const OFFSET_ENTRY_SIZE: usize = 8;
/// Bytes of an entry of `.timeindex`.
pub const TIME_ENTRY_SIZE: usize = 12;

/// Largest file position an entry can hold (Kafka reads a signed 32-bit integer).
pub const FILE_POSITION_MAX: u64 = i32::MAX as u64;

/// An entry of `.index` as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Last offset of a batch, relative to the segment's base offset.
    pub relative_offset: u32,
    /// Of that batch.
    pub file_position: u32,
}

impl OffsetEntry {
    pub fn decode(bytes: &[u8; OFFSET_ENTRY_SIZE]) -> OffsetEntry {
        OffsetEntry { relative_offset: u32_at(bytes, 0), file_position: u32_at(bytes, 4) }
    }
}

/// An entry of `.timeindex` as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// Largest so far.
    pub timestamp: Timestamp,
    /// Last offset of the first batch that has it, relative to the segment's base offset.
    pub relative_offset: u32,
}

impl TimeEntry {
    pub fn decode(bytes: &[u8; TIME_ENTRY_SIZE]) -> TimeEntry {
        let timestamp = i64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        TimeEntry { timestamp: Timestamp(timestamp), relative_offset: u32_at(bytes, 8) }
    }
}

/// The largest timestamp of a segment, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxTimestamp {
    pub timestamp: Timestamp,
    /// Last offset of the first batch that has it.
    pub last_offset: Offset,
}

/// What a segment's index is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentExtent {
    pub base_offset: Offset,
    /// Exclusive.
    pub end_offset: Offset,
    /// Bytes of batches.
    pub size: u64,
}

/// Why index files are not used; the caller observes the segment's batches instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    #[error("{size} bytes are not a whole number of entries")]
    Size { size: usize },
    #[error("offset index entry {entry} does not follow the one before, or lies outside the segment")]
    OffsetEntry { entry: usize },
    #[error("time index entry {entry} does not follow the one before, or lies outside the segment")]
    TimeEntry { entry: usize },
}

/// Lives: one per segment, with the partition. Pure.
/// Shape: two sorted vectors, 24 bytes per interval; lookups O(log n), appends O(1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentIndex {
    base_offset: Offset,
    interval_bytes: u64,
    offsets: WithLast<OffsetEntry>,
    times: WithLast<TimeEntry>,
    bytes_since_entry: u64,
    max_timestamp: Option<MaxTimestamp>,
}

impl SegmentIndex {
    /// An index of no batches; `interval_bytes` is `index.interval.bytes`.
    pub fn new(base_offset: Offset, interval_bytes: u32) -> SegmentIndex {
        SegmentIndex {
            base_offset,
            interval_bytes: interval_bytes as u64,
            offsets: WithLast::default(),
            times: WithLast::default(),
            bytes_since_entry: 0,
            max_timestamp: None,
        }
    }

    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// `None` when no batch has a timestamp.
    pub fn max_timestamp(&self) -> Option<MaxTimestamp> {
        self.max_timestamp
    }

    /// Takes note of the next batch of the segment (Kafka `LogSegment.append`).
    pub fn observe(&mut self, batch: &StoredBatch) {
        assert!(batch.file_position <= FILE_POSITION_MAX, "segment.bytes is a signed 32-bit integer");
        let relative_offset = self.relative(batch.last_offset);
        if batch.max_timestamp > self.max_timestamp.map_or(Timestamp::NONE, |max| max.timestamp) {
            self.max_timestamp =
                Some(MaxTimestamp { timestamp: batch.max_timestamp, last_offset: batch.last_offset });
        }
        if self.bytes_since_entry > self.interval_bytes {
            let file_position = batch.file_position as u32;
            if let Some(last) = self.offsets.last() {
                assert!(last.relative_offset < relative_offset);
                assert!(last.file_position < file_position);
            }
            self.offsets.push(OffsetEntry { relative_offset, file_position });
            if let Some(time) = self.next_time_entry() {
                self.times.push(time);
            }
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += batch.size as u64;
    }

    /// File position from which the batch that holds `offset` is found by reading forward; it never
    /// lies behind that batch, nor more than an interval and a batch before it.
    pub fn position_for(&self, offset: Offset) -> u64 {
        let Some(relative) = offset.get().checked_sub(self.base_offset.get()) else {
            return 0;
        };
        let after = self.offsets.partition_point(|entry| entry.relative_offset as u64 <= relative);
        after.checked_sub(1).map_or(0, |at| self.offsets[at].file_position as u64)
    }

    /// File position from which the first batch with a timestamp at or past `timestamp` is found by
    /// reading forward; it never lies behind that batch, nor more than an interval and a batch before it.
    ///
    /// An entry is made where the largest timestamp has grown since the one before: between two entries
    /// nothing passes the first until the interval that ends with the second. So the second leads there,
    /// however much lies in between; the first alone would not.
    pub fn position_for_timestamp(&self, timestamp: Timestamp) -> u64 {
        let after = self.times.partition_point(|entry| entry.timestamp <= timestamp);
        let reached = after.checked_sub(1).map(|at| self.times[at]);
        let at = |relative| {
            let offset = self.base_offset.advance(relative);
            self.position_for(
                offset.expect("an entry's offset was an Offset when it was observed or decoded"),
            )
        };
        let passes = self.times.get(after).copied().or_else(|| self.next_time_entry());
        let is_it = |entry: &TimeEntry| entry.timestamp == timestamp;
        if let Some(first) = reached.filter(is_it).or(passes.filter(is_it)) {
            return at(first.relative_offset);
        }
        match (passes.filter(|entry| entry.timestamp > timestamp), reached) {
            (Some(passes), _) => at(passes.relative_offset.saturating_sub(1)),
            (None, Some(reached)) => at(reached.relative_offset),
            (None, None) => 0,
        }
    }

    /// Bytes of the larger of the two files.
    pub fn file_size_max(&self) -> u64 {
        let offsets = self.offsets.len() * OFFSET_ENTRY_SIZE;
        let times = (self.times.len() + 1) * TIME_ENTRY_SIZE;
        offsets.max(times) as u64
    }

    /// Whether the files would exceed `index_bytes_max` (`segment.index.bytes`) with the next
    /// entry: the segment is to be rolled. One time entry is kept for the end.
    pub fn is_full(&self, index_bytes_max: u32) -> bool {
        let bytes_max = index_bytes_max as usize;
        self.offsets.len() >= bytes_max / OFFSET_ENTRY_SIZE
            || self.times.len() + 1 >= bytes_max / TIME_ENTRY_SIZE
    }

    /// Drops what lies at or past `end`, and returns the file position from which the remaining
    /// batches have to be observed again: the largest timestamp is known up to there only.
    pub fn truncate_to(&mut self, end: Offset) -> u64 {
        let relative_end = end.get().saturating_sub(self.base_offset.get());
        let kept = self.offsets.partition_point(|entry| (entry.relative_offset as u64) < relative_end);
        self.offsets.edit(|all| all.truncate(kept));
        let known = self.offsets.last().map(|entry| entry.relative_offset);
        let kept = self.times.partition_point(|entry| Some(entry.relative_offset) <= known);
        self.times.edit(|all| all.truncate(kept));
        self.max_timestamp = self.last_time_entry();
        self.bytes_since_entry = 0;
        self.offsets.last().map_or(0, |entry| entry.file_position as u64)
    }

    /// The `.index` file.
    pub fn encode_offset_index(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.offsets.len() * OFFSET_ENTRY_SIZE);
        for entry in &self.offsets[..] {
            out.extend_from_slice(&entry.relative_offset.to_be_bytes());
            out.extend_from_slice(&entry.file_position.to_be_bytes());
        }
        out
    }

    /// The `.timeindex` file. Ends with the largest timestamp of the whole segment, so that it is
    /// known without a scan, as in a segment that Kafka closed.
    pub fn encode_time_index(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity((self.times.len() + 1) * TIME_ENTRY_SIZE);
        for entry in self.times.iter().copied().chain(self.next_time_entry()) {
            out.extend_from_slice(&entry.timestamp.0.to_be_bytes());
            out.extend_from_slice(&entry.relative_offset.to_be_bytes());
        }
        out
    }

    /// Reads both files of a segment that was written to its end before they were.
    ///
    /// Monotonic entries inside the segment are accepted as they are: a file that was swapped for
    /// another's is only found by what reads the batches there.
    pub fn decode(
        extent: &SegmentExtent,
        interval_bytes: u32,
        offset_index: &[u8],
        time_index: &[u8],
    ) -> Result<SegmentIndex, IndexError> {
        let mut index = SegmentIndex::new(extent.base_offset, interval_bytes);
        let relative_end =
            extent.end_offset.get().saturating_sub(extent.base_offset.get()).min(RELATIVE_OFFSET_MAX + 1);
        let (entries, rest) = offset_index.as_chunks::<OFFSET_ENTRY_SIZE>();
        if !rest.is_empty() {
            return Err(IndexError::Size { size: offset_index.len() });
        }
        index.offsets.edit(|all| all.reserve_exact(entries.len()));
        for (at, bytes) in entries.iter().enumerate() {
            let entry = OffsetEntry::decode(bytes);
            let follows = index.offsets.last().is_none_or(|last| {
                last.relative_offset < entry.relative_offset && last.file_position < entry.file_position
            });
            let inside = (entry.relative_offset as u64) < relative_end
                && (entry.file_position as u64) < extent.size.min(FILE_POSITION_MAX + 1);
            if !follows || !inside {
                return Err(IndexError::OffsetEntry { entry: at });
            }
            index.offsets.push(entry);
        }
        let (entries, rest) = time_index.as_chunks::<TIME_ENTRY_SIZE>();
        if !rest.is_empty() {
            return Err(IndexError::Size { size: time_index.len() });
        }
        index.times.edit(|all| all.reserve_exact(entries.len()));
        for (at, bytes) in entries.iter().enumerate() {
            let entry = TimeEntry::decode(bytes);
            let follows = index.times.last().map_or(entry.timestamp.0 >= 0, |last| {
                last.timestamp < entry.timestamp && last.relative_offset < entry.relative_offset
            });
            if !follows || entry.relative_offset as u64 >= relative_end {
                return Err(IndexError::TimeEntry { entry: at });
            }
            index.times.push(entry);
        }
        index.max_timestamp = index.last_time_entry();
        let last_position = index.offsets.last().map_or(0, |entry| entry.file_position as u64);
        index.bytes_since_entry = extent.size - last_position;
        Ok(index)
    }

    /// The entry for the largest timestamp so far, unless it is there already.
    fn next_time_entry(&self) -> Option<TimeEntry> {
        let max = self.max_timestamp?;
        let is_new = self.times.last().is_none_or(|last| last.timestamp < max.timestamp);
        is_new
            .then(|| TimeEntry { timestamp: max.timestamp, relative_offset: self.relative(max.last_offset) })
    }

    fn last_time_entry(&self) -> Option<MaxTimestamp> {
        let last = self.times.last()?;
        let last_offset = self.base_offset.advance(last.relative_offset)?;
        Some(MaxTimestamp { timestamp: last.timestamp, last_offset })
    }

    fn relative(&self, offset: Offset) -> u32 {
        let relative = offset.since(self.base_offset);
        assert!(relative <= RELATIVE_OFFSET_MAX, "the segment was to be rolled before this offset");
        relative as u32
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaderEpoch;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const BASE: u64 = 1_000;

    #[test]
    fn layout_is_kafkas() {
        let mut index = SegmentIndex::new(offset(BASE), 100);
        index.observe(&batch(BASE, 5, 101, 0, 70));
        index.observe(&batch(BASE + 5, 2, 101, 101, 90));
        index.observe(&batch(BASE + 7, 1, 50, 202, 95));
        index.observe(&batch(BASE + 8, 1, 60, 252, 80));
        assert_eq!(index.encode_offset_index(), [0, 0, 0, 6, 0, 0, 0, 101, 0, 0, 0, 7, 0, 0, 0, 202]);
        let times = [0, 0, 0, 0, 0, 0, 0, 90, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 95, 0, 0, 0, 7];
        assert_eq!(index.encode_time_index(), times);
    }

    #[test]
    fn last_time_entry_is_the_largest_of_the_segment() {
        let mut index = SegmentIndex::new(offset(BASE), 4096);
        index.observe(&batch(BASE, 5, 100, 0, 70));
        index.observe(&batch(BASE + 5, 5, 100, 100, 60));
        assert!(index.encode_offset_index().is_empty());
        assert_eq!(index.encode_time_index(), [0, 0, 0, 0, 0, 0, 0, 70, 0, 0, 0, 4]);
    }

    #[test]
    fn batches_without_timestamps_leave_no_time_entry() {
        let mut index = SegmentIndex::new(offset(BASE), 1);
        index.observe(&batch(BASE, 5, 100, 0, -1));
        index.observe(&batch(BASE + 5, 5, 100, 100, -1));
        assert_eq!(index.max_timestamp(), None);
        assert!(index.encode_time_index().is_empty());
        assert_eq!(index.position_for_timestamp(Timestamp(5)), 0);
    }

    #[test]
    fn full_index_asks_for_a_roll_before_it_overflows() {
        let mut index = SegmentIndex::new(offset(BASE), 0);
        let mut position = 0;
        for n in 0..100 {
            assert!(index.encode_offset_index().len() <= 96 && index.encode_time_index().len() <= 96);
            if index.is_full(96) {
                assert!(n > 5);
                return;
            }
            index.observe(&batch(BASE + n, 1, 10, position, n as i64));
            position += 10;
        }
        panic!("a hundred entries in 96 bytes");
    }

    #[test]
    fn wrong_files_are_refused() {
        let extent = SegmentExtent { base_offset: offset(BASE), end_offset: offset(BASE + 100), size: 1000 };
        let decode = |offsets: &[u8], times: &[u8]| SegmentIndex::decode(&extent, 100, offsets, times).err();
        let offsets = |entries: &[[u32; 2]]| -> Vec<u8> {
            entries.iter().flatten().flat_map(|field| field.to_be_bytes()).collect()
        };
        let times = |entries: &[(i64, u32)]| -> Vec<u8> {
            let field = |(timestamp, offset): &(i64, u32)| {
                [&timestamp.to_be_bytes()[..], &offset.to_be_bytes()[..]].concat()
            };
            entries.iter().flat_map(field).collect()
        };
        assert_eq!(decode(&offsets(&[[3, 100], [99, 999]]), &times(&[(5, 3), (6, 99)])), None);
        assert_eq!(decode(&[0; 9], &[]), Some(IndexError::Size { size: 9 }));
        assert_eq!(decode(&[], &[0; 11]), Some(IndexError::Size { size: 11 }));
        for wrong in [[[3, 100], [3, 200]], [[3, 100], [4, 100]], [[3, 100], [100, 200]], [[3, 1], [4, 1000]]]
        {
            assert_eq!(decode(&offsets(&wrong), &[]), Some(IndexError::OffsetEntry { entry: 1 }));
        }
        for wrong in [[(5, 3), (5, 4)], [(5, 3), (6, 3)], [(5, 3), (6, 100)]] {
            assert_eq!(decode(&[], &times(&wrong)), Some(IndexError::TimeEntry { entry: 1 }));
        }
        assert_eq!(decode(&[], &times(&[(-1, 3)])), Some(IndexError::TimeEntry { entry: 0 }));
    }

    /// Sizes, record counts and timestamps of a segment's batches.
    fn segment() -> impl Strategy<Value = Vec<StoredBatch>> {
        vec((1..300u32, 1..20u64, -1..50i64), 0..60).prop_map(|shapes| {
            let (mut base, mut position) = (BASE, 0);
            let place = |(size, records, timestamp)| {
                let stored = batch(base, records, size, position, timestamp);
                base += records;
                position += size as u64;
                stored
            };
            shapes.into_iter().map(place).collect()
        })
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_scan_and_stay_close(batches in segment(), interval in 0..600u32) {
            let index = built(&batches, interval);
            let end = extent(&batches).end_offset;
            for target in (BASE..end.get()).map(offset) {
                let position = index.position_for(target);
                let holder = batches.iter().find(|batch| batch.last_offset >= target).unwrap();
                prop_assert!(position == 0 || batches.iter().any(|batch| batch.file_position == position));
                prop_assert!(position <= holder.file_position);
                prop_assert!(holder.file_position - position <= interval as u64 + 2 * 300);
            }
            prop_assert_eq!(index.position_for(offset(BASE - 1)), 0);
            for timestamp in -2..60 {
                let position = index.position_for_timestamp(Timestamp(timestamp));
                let first = batches.iter().find(|batch| batch.max_timestamp.0 >= timestamp.max(0));
                if let Some(first) = first {
                    prop_assert!(position <= first.file_position);
                    prop_assert!(first.file_position - position <= interval as u64 + 2 * 300);
                }
            }
        }

        #[test]
        fn largest_timestamp_is_the_first_of_its_value(batches in segment(), interval in 0..600u32) {
            let largest = batches.iter().map(|batch| batch.max_timestamp).max();
            let first = batches.iter().find(|batch| Some(batch.max_timestamp) == largest);
            let expected = first.filter(|batch| batch.max_timestamp.0 >= 0).map(|batch| MaxTimestamp {
                timestamp: batch.max_timestamp,
                last_offset: batch.last_offset,
            });
            prop_assert_eq!(built(&batches, interval).max_timestamp(), expected);
        }

        #[test]
        fn files_round_trip_and_go_on_as_before(batches in segment(), interval in 0..600u32, cut in 0..60usize) {
            let (before, after) = batches.split_at(cut.min(batches.len()));
            let index = built(before, interval);
            let (offsets, times) = (index.encode_offset_index(), index.encode_time_index());
            let mut decoded = SegmentIndex::decode(&extent(before), interval, &offsets, &times).unwrap();
            prop_assert_eq!(decoded.max_timestamp(), index.max_timestamp());
            prop_assert_eq!(&decoded.encode_offset_index(), &offsets);
            prop_assert_eq!(&decoded.encode_time_index(), &times);
            after.iter().for_each(|batch| decoded.observe(batch));
            prop_assert_eq!(decoded.encode_offset_index(), built(&batches, interval).encode_offset_index());
            prop_assert_eq!(decoded.max_timestamp(), built(&batches, interval).max_timestamp());
        }

        #[test]
        fn truncated_and_observed_again_is_the_shorter_index(
            batches in segment(),
            interval in 0..600u32,
            cut in 0..60usize,
        ) {
            let (kept, cut_off) = batches.split_at(cut.min(batches.len()));
            let mut index = built(&batches, interval);
            let end = cut_off.first().map_or(extent(&batches).end_offset, |batch| batch.base_offset);
            let from = index.truncate_to(end);
            kept.iter().filter(|batch| batch.file_position >= from).for_each(|batch| index.observe(batch));
            prop_assert_eq!(index, built(kept, interval));
        }

        #[test]
        fn any_bytes_are_refused_or_monotonic(
            offsets in vec(prop_oneof![Just(0u8), 0..9u8], 0..40),
            times in vec(prop_oneof![Just(0u8), 0..9u8], 0..40),
            size in 0..1u64 << 40,
        ) {
            let extent = SegmentExtent { base_offset: offset(BASE), end_offset: Offset::MAX, size };
            if let Ok(index) = SegmentIndex::decode(&extent, 10, &offsets, &times) {
                prop_assert_eq!(index.encode_offset_index(), offsets);
                prop_assert_eq!(index.encode_time_index(), times);
                let _ = (index.position_for(Offset::MAX), index.position_for_timestamp(Timestamp(i64::MAX)));
            }
        }
    }

    fn built(batches: &[StoredBatch], interval: u32) -> SegmentIndex {
        let mut index = SegmentIndex::new(offset(BASE), interval);
        batches.iter().for_each(|batch| index.observe(batch));
        index
    }

    fn extent(batches: &[StoredBatch]) -> SegmentExtent {
        let base_offset = offset(BASE);
        let Some(last) = batches.last() else {
            return SegmentExtent { base_offset, end_offset: base_offset, size: 0 };
        };
        let end_offset = last.last_offset.advance(1).unwrap();
        SegmentExtent { base_offset, end_offset, size: last.file_position_end() }
    }

    fn batch(base: u64, records: u64, size: u32, file_position: u64, timestamp: i64) -> StoredBatch {
        StoredBatch {
            base_offset: offset(base),
            last_offset: offset(base + records - 1),
            max_timestamp: Timestamp(timestamp),
            leader_epoch: LeaderEpoch(0),
            file_position,
            size,
        }
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
