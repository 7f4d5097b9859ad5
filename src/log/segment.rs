//! Segments of a partition's log: their names, when the active one is rolled, how much of it is
//! preallocated.
//!
//! ```text
//! <topic>-<partition>/                         the partition's directory
//! <topic>-<partition>.<32 hex digits>-delete/  the same after the topic was deleted
//! <topic>-<partition>.<32 hex digits>-stray/   the same of a topic that nobody knows
//!   00000000000000004711.log                   base offset, 20 digits
//!   00000000000000004711.log.deleted           after retention, until the file is removed
//!   00000000000000004711.log.cleaned, .swap    on its way into the log (see compaction::swap)
//! ```
//!
//! Names are Kafka's (`LogFileUtils`, `LocalLog`), so that its tools can read a data directory.
//! Absent: `.txnindex` (transactions).

use crate::codec::record_batch::BatchView;
use crate::log::checksums::HasTransactions;
use crate::types::limits::{IO_ALIGNMENT, TOPIC_NAME_LENGTH_MAX};
use crate::types::{LeaderEpoch, Offset, PartitionIndex, Timestamp, Uuid};

/// Bytes of the largest step in which a segment's file grows (less when `segment.bytes` is less).
/// Each step changes the file's size, which costs the next flush a journal commit; and a step is
/// what a crashed start may have to read past the end.
pub const ALLOCATION_STEP_MAX: u64 = 64 << 20;

/// Bytes of the first step of a segment that follows a full one: its partition is not quiet.
pub const SPARE_ALLOCATION_MIN: u64 = 1 << 20;

/// Bytes of the first step. Steps double from here: ten thousand quiet partitions reserve 640 MB, and
/// one that fills its first 64 MiB has asked ten times.
pub const ALLOCATION_STEP_MIN: u64 = 64 << 10;

/// Largest offset that the index of a segment can express, relative to its base (Kafka's index
/// entries are signed 32-bit).
pub const RELATIVE_OFFSET_MAX: u64 = i32::MAX as u64;

/// Characters of a file name on every file system we support.
const FILE_NAME_LENGTH_MAX: usize = 255;
const OFFSET_DIGITS: usize = 20;
const DELETED_FILE_SUFFIX: &str = ".deleted";
/// Suffix of a compacted segment's file that is being written.
pub const CLEANED_SUFFIX: &str = ".cleaned";
/// Suffix of a compacted segment's file that takes the place of others.
pub const SWAP_SUFFIX: &str = ".swap";
const DELETED_DIRECTORY_SUFFIX: &str = "-delete";
const STRAY_DIRECTORY_SUFFIX: &str = "-stray";

const _: () = assert!(ALLOCATION_STEP_MAX.is_multiple_of(ALLOCATION_STEP_MIN));
const _: () = assert!(ALLOCATION_STEP_MIN.is_multiple_of(IO_ALIGNMENT as u64));

/// One batch at its place in a segment's file: all that indexes, recovery and reads need of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    pub base_offset: Offset,
    /// Inclusive.
    pub last_offset: Offset,
    pub max_timestamp: Timestamp,
    pub leader_epoch: LeaderEpoch,
    pub file_position: u64,
    /// Bytes.
    pub size: u32,
}

impl StoredBatch {
    pub fn new(batch: &BatchView<'_>, file_position: u64) -> StoredBatch {
        StoredBatch {
            base_offset: batch.base_offset(),
            last_offset: batch.last_offset(),
            max_timestamp: batch.max_timestamp(),
            leader_epoch: batch.leader_epoch(),
            file_position,
            size: batch.size() as u32, // The length field is an i32.
        }
    }

    /// Where the next batch begins.
    pub fn file_position_end(&self) -> u64 {
        self.file_position + self.size as u64
    }
}

/// What is known of a segment without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub base_offset: Offset,
    /// Bytes of batches; the file may be longer (preallocated).
    pub size: u64,
    /// Max timestamp of the first batch; `None` while empty or when that batch has none.
    pub first_timestamp: Option<Timestamp>,
    /// Largest of all batches; [`Timestamp::NONE`] when none has one.
    pub max_timestamp: Timestamp,
    /// `false`: the index files of a closed segment were missing or wrong at a start, and
    /// `max_timestamp` says nothing until its batches have been looked through.
    pub is_indexed: bool,
    /// Of a closed segment; not known after a start until its checksums were read.
    pub has_transactions: HasTransactions,
    /// Wall clock at creation, the age of a segment whose first batch has no timestamp.
    pub created_at: Timestamp,
    /// Wall clock of the newest append, the age of a segment without timestamps (the file's
    /// modification time after a start).
    pub modified_at: Timestamp,
}

impl SegmentInfo {
    pub fn empty(base_offset: Offset, now: Timestamp) -> SegmentInfo {
        SegmentInfo {
            base_offset,
            size: 0,
            first_timestamp: None,
            max_timestamp: Timestamp::NONE,
            is_indexed: true,
            has_transactions: HasTransactions::No,
            created_at: now,
            modified_at: now,
        }
    }

    /// Counts a batch that was appended at the end.
    pub fn append(&mut self, batch: &StoredBatch, now: Timestamp) {
        assert_eq!(batch.file_position, self.size, "a batch was appended away from the segment's end");
        assert!(self.base_offset <= batch.base_offset);
        if self.size == 0 && batch.max_timestamp.0 >= 0 {
            self.first_timestamp = Some(batch.max_timestamp);
        }
        self.max_timestamp = self.max_timestamp.max(batch.max_timestamp);
        self.size = batch.file_position_end();
        self.modified_at = now;
    }

    /// Kafka `LogSegment.largestTimestamp`: what `retention.ms` is measured against.
    pub fn largest_timestamp(&self) -> Timestamp {
        if self.max_timestamp.0 >= 0 { self.max_timestamp } else { self.modified_at }
    }
}

/// A batch that asks for its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncomingBatch {
    /// Bytes.
    pub size: u32,
    /// The last offset it would get.
    pub last_offset: Offset,
    pub max_timestamp: Timestamp,
}

/// When a segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollLimits {
    /// `segment.bytes`. A batch above it is refused before it asks to be appended.
    pub segment_bytes: u64,
    /// `segment.ms`, less this segment's share of `segment.jitter.ms`. Milliseconds.
    pub segment_ms: i64,
}

/// Why the active segment is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollReason {
    /// `segment.bytes` would be exceeded.
    Size,
    /// `segment.ms` has passed.
    Age,
    /// The batch's offset does not fit an index entry of this segment.
    OffsetOverflow,
}

/// Whether `incoming` starts a new segment (Kafka `LogSegment.shouldRoll`).
///
/// Age counts from the first batch's timestamp to the incoming one's, not to the wall clock, so
/// that replayed old data rolls as it did when it was new; without timestamps, from creation to
/// `now`. An empty segment is never rolled for size or age. An index that is full asks for a roll
/// on its own (`SegmentIndex::is_full`).
pub fn roll_reason(
    segment: &SegmentInfo,
    incoming: &IncomingBatch,
    limits: &RollLimits,
    now: Timestamp,
) -> Option<RollReason> {
    assert!(segment.base_offset <= incoming.last_offset, "a batch below its segment");
    if incoming.last_offset.since(segment.base_offset) > RELATIVE_OFFSET_MAX {
        return Some(RollReason::OffsetOverflow);
    }
    if segment.size == 0 {
        return None;
    }
    if segment.size + incoming.size as u64 > limits.segment_bytes {
        return Some(RollReason::Size);
    }
    let waited_ms = match segment.first_timestamp {
        Some(first) => incoming.max_timestamp.0.saturating_sub(first.0),
        None => now.0.saturating_sub(segment.created_at.0),
    };
    if waited_ms > limits.segment_ms { Some(RollReason::Age) } else { None }
}

/// By how much a segment rolls before `segment.ms`: at least 0, less than `jitter_ms_max`
/// (`segment.jitter.ms`, at most `segment.ms`). Drawn from the partition and the segment, so that a
/// restart does not draw again.
pub fn roll_jitter_ms(seed: u64, base_offset: Offset, jitter_ms_max: i64) -> i64 {
    let Ok(max @ 1..) = u64::try_from(jitter_ms_max) else { return 0 };
    // SplitMix64: the seed and neighbouring offsets are no random numbers by themselves.
    let mut mixed = seed.wrapping_add(base_offset.get().wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) % max) as i64
}

/// Bytes that the file of a segment must have before `file_position_end` is written, at least
/// `file_position_end`.
///
/// Shape: steps that double from [`ALLOCATION_STEP_MIN`] to [`ALLOCATION_STEP_MAX`], then equal
/// ones; never past `segment_bytes` rounded up to a block, unless the end itself lies there (the
/// limit was lowered).
pub fn allocation_for(file_position_end: u64, segment_bytes: u64) -> u64 {
    let block = IO_ALIGNMENT as u64;
    let stepped = if file_position_end <= ALLOCATION_STEP_MIN {
        ALLOCATION_STEP_MIN
    } else if file_position_end <= ALLOCATION_STEP_MAX {
        file_position_end.next_power_of_two()
    } else {
        file_position_end.next_multiple_of(ALLOCATION_STEP_MAX)
    };
    let capped = stepped.min(segment_bytes.next_multiple_of(block));
    capped.max(file_position_end.next_multiple_of(block))
}

/// The files of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentFile {
    Log,
    OffsetIndex,
    TimeIndex,
    /// What its batches are held against when they are read.
    Checksums,
    /// Aborted transactions whose markers lie in it.
    TransactionIndex,
    /// Producers as they were just before the offset in its name.
    ProducerSnapshot,
}

impl SegmentFile {
    pub const ALL: [SegmentFile; 6] = [
        SegmentFile::Log,
        SegmentFile::OffsetIndex,
        SegmentFile::TimeIndex,
        SegmentFile::Checksums,
        SegmentFile::TransactionIndex,
        SegmentFile::ProducerSnapshot,
    ];

    /// What describes a segment's batches, and can be built again from them.
    pub const DERIVED: [SegmentFile; 4] = [
        SegmentFile::OffsetIndex,
        SegmentFile::TimeIndex,
        SegmentFile::Checksums,
        SegmentFile::TransactionIndex,
    ];

    pub const fn suffix(self) -> &'static str {
        match self {
            SegmentFile::Log => ".log",
            SegmentFile::OffsetIndex => ".index",
            SegmentFile::TimeIndex => ".timeindex",
            SegmentFile::Checksums => ".checksums",
            SegmentFile::TransactionIndex => ".txnindex",
            SegmentFile::ProducerSnapshot => ".snapshot",
        }
    }

    pub fn name(self, base_offset: Offset) -> String {
        format!("{:020}{}", base_offset.get(), self.suffix())
    }

    /// The name under which a file waits for its removal.
    pub fn deleted_name(self, base_offset: Offset) -> String {
        format!("{:020}{}{DELETED_FILE_SUFFIX}", base_offset.get(), self.suffix())
    }
}

/// A name in a partition's directory, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    Live { base_offset: Offset, file: SegmentFile },
    Deleted { base_offset: Offset, file: SegmentFile },
    Cleaned { base_offset: Offset, file: SegmentFile },
    Swap { base_offset: Offset, file: SegmentFile },
}

impl FileName {
    /// `None` for files that are no segment's, such as `leader-epoch-checkpoint`.
    pub fn parse(name: &str) -> Option<FileName> {
        let suffixes = [DELETED_FILE_SUFFIX, CLEANED_SUFFIX, SWAP_SUFFIX];
        let stripped = suffixes.iter().find_map(|suffix| Some((name.strip_suffix(suffix)?, Some(*suffix))));
        let (name, waits) = stripped.unwrap_or((name, None));
        let (digits, suffix) = name.split_at_checked(OFFSET_DIGITS)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let base_offset = Offset::new(digits.parse().ok()?)?;
        let file = SegmentFile::ALL.into_iter().find(|file| file.suffix() == suffix)?;
        Some(match waits {
            None => FileName::Live { base_offset, file },
            Some(CLEANED_SUFFIX) => FileName::Cleaned { base_offset, file },
            Some(SWAP_SUFFIX) => FileName::Swap { base_offset, file },
            Some(_) => FileName::Deleted { base_offset, file },
        })
    }
}

/// Name of a partition's directory.
pub fn directory_name(topic: &str, partition: PartitionIndex) -> String {
    format!("{topic}-{partition}")
}

/// Name to which a deleted partition's directory is moved before its files are removed. A long
/// topic name is cut so that the whole fits a file name (Kafka `LocalLog.logDeleteDirName`).
pub fn deleted_directory_name(topic: &str, partition: PartitionIndex, unique: Uuid) -> String {
    renamed_directory_name(topic, partition, unique, DELETED_DIRECTORY_SUFFIX)
}

/// Name to which a directory is moved whose topic nobody knows. It is an operator's to remove (Kafka
/// `UnifiedLog.logStrayDirName`).
pub fn stray_directory_name(topic: &str, partition: PartitionIndex, unique: Uuid) -> String {
    renamed_directory_name(topic, partition, unique, STRAY_DIRECTORY_SUFFIX)
}

fn renamed_directory_name(topic: &str, partition: PartitionIndex, unique: Uuid, suffix: &str) -> String {
    let suffix = format!("-{partition}.{}{suffix}", unique.simple());
    let kept = topic.floor_char_boundary(FILE_NAME_LENGTH_MAX - suffix.len());
    format!("{}{suffix}", &topic[..kept])
}

/// A name in the data directory, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryName {
    Live {
        topic: String,
        partition: PartitionIndex,
    },
    /// The topic's name may be cut; nothing but removal is left to do.
    Deleted {
        topic_prefix: String,
        partition: PartitionIndex,
    },
}

impl DirectoryName {
    /// `None` for a name that no partition's directory can have.
    pub fn parse(name: &str) -> Option<DirectoryName> {
        let Some(renamed) = name.strip_suffix(DELETED_DIRECTORY_SUFFIX) else {
            let (topic, partition) = split_partition(name)?;
            return Some(DirectoryName::Live { topic: topic.to_owned(), partition });
        };
        let (directory, unique) = renamed.rsplit_once('.')?;
        if unique.len() != 32 || !unique.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let (topic, partition) = split_partition(directory)?;
        Some(DirectoryName::Deleted { topic_prefix: topic.to_owned(), partition })
    }
}

/// Accepts only what [`directory_name`] writes, so that two names never mean one partition.
fn split_partition(name: &str) -> Option<(&str, PartitionIndex)> {
    let (topic, digits) = name.rsplit_once('-')?;
    let canonical = digits == "0" || !digits.starts_with('0');
    if !canonical || !digits.bytes().all(|byte| byte.is_ascii_digit()) || !is_topic_name(topic) {
        return None;
    }
    Some((topic, PartitionIndex::from_wire(digits.parse().ok()?)?))
}

/// Kafka `Topic.validate`.
fn is_topic_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let length_fits = (1..=TOPIC_NAME_LENGTH_MAX).contains(&name.len());
    length_fits && name != "." && name != ".." && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn file_names_are_kafkas() {
        let base = offset(4711);
        assert_eq!(SegmentFile::Log.name(base), "00000000000000004711.log");
        assert_eq!(SegmentFile::TimeIndex.deleted_name(base), "00000000000000004711.timeindex.deleted");
        for file in SegmentFile::ALL {
            let live = FileName::parse(&file.name(base));
            assert_eq!(live, Some(FileName::Live { base_offset: base, file }));
            let cleaned = FileName::parse(&format!("{}.cleaned", file.name(base)));
            assert_eq!(cleaned, Some(FileName::Cleaned { base_offset: base, file }));
            let swap = FileName::parse(&format!("{}.swap", file.name(base)));
            assert_eq!(swap, Some(FileName::Swap { base_offset: base, file }));
            let deleted = FileName::parse(&file.deleted_name(base));
            assert_eq!(deleted, Some(FileName::Deleted { base_offset: base, file }));
        }
    }

    #[test]
    fn other_files_are_not_taken_for_segments() {
        for name in [
            "leader-epoch-checkpoint",
            "partition.metadata",
            "0000000000000000000.log",
            "00000000000000000000.stray",
            "00000000000000000000.log.swap.cleaned",
            "+0000000000000000000.log",
            "99999999999999999999.log",
            "0000000000000000000é.log",
            "",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn deleted_directory_fits_a_file_name() {
        let topic = "t".repeat(TOPIC_NAME_LENGTH_MAX);
        let name = deleted_directory_name(&topic, partition(12), Uuid::from_u128(7));
        assert_eq!(name.len(), FILE_NAME_LENGTH_MAX);
        assert!(name.ends_with("-12.00000000000000000000000000000007-delete"), "{name}");
        let Some(DirectoryName::Deleted { topic_prefix, partition }) = DirectoryName::parse(&name) else {
            panic!("{name} was not recognised");
        };
        assert!(topic.starts_with(&topic_prefix));
        assert_eq!(partition.to_wire(), 12);
    }

    #[test]
    fn directories_that_are_no_partitions_are_left_alone() {
        for name in
            ["lost+found", "topic", "topic-", "-0", "topic-01", "topic-+1", "a b-0", "..-0", "t-0-delete"]
        {
            assert_eq!(DirectoryName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn roll_follows_kafkas_order_of_reasons() {
        let limits = RollLimits { segment_bytes: 1000, segment_ms: 50 };
        let mut segment = SegmentInfo::empty(offset(10), Timestamp(0));
        let incoming = |size, last, timestamp| IncomingBatch {
            size,
            last_offset: offset(last),
            max_timestamp: Timestamp(timestamp),
        };
        let roll =
            |segment: &SegmentInfo, incoming, now| roll_reason(segment, &incoming, &limits, Timestamp(now));

        assert_eq!(roll(&segment, incoming(1000, 10, 0), 9_999), None, "an empty segment stays");
        segment.append(&batch_at(10, 0, 600, 100), Timestamp(0));
        assert_eq!(roll(&segment, incoming(400, 11, 150), 9_999), None, "exactly full, exactly old");
        assert_eq!(roll(&segment, incoming(401, 11, 100), 0), Some(RollReason::Size));
        assert_eq!(roll(&segment, incoming(1, 11, 151), 0), Some(RollReason::Age));
        let far = 10 + RELATIVE_OFFSET_MAX;
        assert_eq!(roll(&segment, incoming(1, far, 100), 0), None);
        assert_eq!(roll(&segment, incoming(1, far + 1, 100), 0), Some(RollReason::OffsetOverflow));
    }

    #[test]
    fn age_without_timestamps_counts_from_creation() {
        let limits = RollLimits { segment_bytes: 1000, segment_ms: 50 };
        let mut segment = SegmentInfo::empty(offset(0), Timestamp(1_000));
        segment.append(&batch_at(0, 0, 10, -1), Timestamp(1_000));
        let incoming = IncomingBatch { size: 1, last_offset: offset(1), max_timestamp: Timestamp(-1) };
        assert_eq!(roll_reason(&segment, &incoming, &limits, Timestamp(1_050)), None);
        assert_eq!(roll_reason(&segment, &incoming, &limits, Timestamp(1_051)), Some(RollReason::Age));
    }

    #[test]
    fn a_small_segment_is_allocated_at_once() {
        assert_eq!(allocation_for(1, 10_000), 12_288);
        assert_eq!(allocation_for(10_000, 10_000), 12_288);
        assert_eq!(allocation_for(20_000, 10_000), 20_480, "the limit was lowered");
    }

    proptest! {
        #[test]
        fn directory_names_round_trip(topic in "[a-zA-Z0-9._-]{1,249}", number in 0..=i32::MAX) {
            prop_assume!(topic != "." && topic != "..");
            let partition = partition(number);
            let name = directory_name(&topic, partition);
            prop_assert_eq!(DirectoryName::parse(&name), Some(DirectoryName::Live { topic, partition }));
        }

        #[test]
        fn any_name_is_parsed_or_refused(name in any::<String>()) {
            let _ = (FileName::parse(&name), DirectoryName::parse(&name));
        }

        #[test]
        fn allocation_covers_the_end_in_bounded_steps(
            end in 0..1u64 << 31,
            segment_bytes in 1..1u64 << 31,
        ) {
            let size = allocation_for(end, segment_bytes);
            prop_assert!(end <= size);
            prop_assert_eq!(size % IO_ALIGNMENT as u64, 0);
            prop_assert!(size - end <= ALLOCATION_STEP_MAX);
            prop_assert_eq!(allocation_for(size, segment_bytes.max(size)), size, "a step ends on a step");
            if end <= segment_bytes {
                prop_assert!(size < segment_bytes + IO_ALIGNMENT as u64);
            }
        }
    }

    fn batch_at(base: u64, file_position: u64, size: u32, timestamp: i64) -> StoredBatch {
        StoredBatch {
            base_offset: offset(base),
            last_offset: offset(base),
            max_timestamp: Timestamp(timestamp),
            leader_epoch: LeaderEpoch(0),
            file_position,
            size,
        }
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn partition(value: i32) -> PartitionIndex {
        PartitionIndex::from_wire(value).unwrap()
    }
}
