//! What is wrong with a partition's files, in the order in which it was found, bounded.

use crate::codec::record_batch::BatchError;
use crate::log::checkpoint::PartitionPoint;
use crate::log::checksums::ChecksumsError;
use crate::log::producers::SnapshotError;
use crate::log::recovery::RecoveryPoint;
use crate::log::segment::SegmentFile;
use crate::log::transactions::index::TransactionIndexError;
use crate::types::{LeaderEpoch, Offset};

/// Findings of one partition that are kept; the rest are counted. The first ones say what happened,
/// those behind are mostly its consequences.
pub const FINDINGS_KEPT_MAX: usize = 10;

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Expected after an unclean stop, or rebuilt by the next start.
    Note,
    /// Records are damaged, missing or contradicted.
    Problem,
}

/// Where a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The partition as a whole.
    Partition,
    File {
        base_offset: Offset,
        file: SegmentFile,
        file_position: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub place: Place,
    pub offence: Offence,
}

/// What does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    #[error("CRC-32C is {computed:#010x}, the batch says {stored:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("{0}")]
    Fields(BatchError),
    #[error("base offset {got} where {expected} was expected")]
    BaseOffset { expected: Offset, got: i64 },
    #[error("offset {last_offset} is too far from the segment's base offset")]
    OutOfSegment { last_offset: Offset },
    #[error("leader epoch {} after {}", .got.0, .previous.0)]
    LeaderEpochGoesBack { previous: LeaderEpoch, got: LeaderEpoch },
    #[error("leader epoch {} is above {}, the partition's in the metadata", .got.0, .max.0)]
    LeaderEpochUnknown { max: LeaderEpoch, got: LeaderEpoch },
    #[error("leader epoch {} where the leader epoch checkpoint says {}", .got.0, .noted.0)]
    LeaderEpochNoted { noted: LeaderEpoch, got: LeaderEpoch },

    #[error("the file ends inside a batch: {available} of {needed} bytes")]
    CutOff { needed: u64, available: u64 },
    #[error("no batch begins here: {0}; what follows cannot be read")]
    NoBatch(BatchError),
    #[error("bytes follow the zeros that end the log")]
    BeyondZeros,
    #[error("a closed segment ends with {count} zeros")]
    ZerosInClosed { count: u64 },
    #[error("a torn write; the next start cuts the log here ({0})")]
    Torn(Box<Offence>),

    #[error("it cannot be used, and is built again: {0}")]
    Checksums(ChecksumsError),
    #[error("there are no checksums of a closed segment; they are built again from its batches")]
    ChecksumsMissing,
    #[error("it cannot be used, and is built again: {0}")]
    Transactions(TransactionIndexError),
    #[error(
        "there is no index of the aborted transactions of a closed segment; it is built again from its batches"
    )]
    TransactionsMissing,
    #[error(
        "the batches up to byte {end} are not those that were written: checksum {computed:#010x}, {stored:#010x} was expected"
    )]
    NotWritten { end: u64, stored: u32, computed: u32 },

    #[error("the recovery point ({}) lies inside the batch that begins here", .0.flushed_end)]
    PointInsideBatch(RecoveryPoint),
    #[error("the recovery point says offset {}, here is {got}", .point.flushed_end)]
    PointOffset { point: RecoveryPoint, got: Offset },

    #[error("there is no index")]
    IndexMissing,
    #[error("{size} bytes are not a whole number of entries")]
    IndexSize { size: usize },
    #[error("entry {entry} says that a batch begins at {file_position}; none does")]
    IndexPosition { entry: usize, file_position: u32 },
    #[error(
        "entry {entry} says that the batch at {file_position} ends with offset {says}; it ends with {is}"
    )]
    IndexOffset { entry: usize, file_position: u32, says: u64, is: Offset },
    #[error("entry {entry} says that a batch ends with offset {says}; none does")]
    TimeOffset { entry: usize, says: u64 },
    #[error("entry {entry} says that {says} is the largest timestamp up to offset {offset}; it is {is}")]
    TimeValue { entry: usize, offset: u64, says: i64, is: i64 },
    #[error("the last entry says that {says} is the segment's largest timestamp; it is {is}")]
    TimeLast { says: i64, is: i64 },
    #[error("the index has {size} bytes, more than are looked at; it was not compared")]
    IndexTooLarge { size: u64 },

    #[error("{0}")]
    Snapshot(SnapshotError),
    #[error("the segment begins at {got}, the one before ends at {expected}")]
    SegmentGap { expected: Offset, got: Offset },
    #[error(
        "the segment begins at {got}, the one before ends at {expected}; the journal has bytes to replay"
    )]
    SegmentGapReplayed { expected: Offset, got: Offset },
    #[error("a clean stop is marked, but no checkpoint has this partition")]
    PointMissing,
    #[error("the log ends at {log_end}; flushed were {}", .point.flushed_end)]
    EndsEarly { point: PartitionPoint, log_end: Offset },
    #[error("a clean stop is marked at {}, but the log goes on to {log_end}", .point.flushed_end)]
    GoesOn { point: PartitionPoint, log_end: Offset },
    #[error("the log starts at {log_start}, but the oldest segment at {oldest}")]
    LogStartBelow { log_start: Offset, oldest: Offset },
    #[error("segment {segment}, which the checkpoint names, is not there")]
    SegmentMissing { segment: Offset },
    /// What the caller found about the directory itself.
    #[error("{0}")]
    Directory(String),
}

/// Lives: for one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    kept: Vec<Finding>,
    pub problem_count: u64,
    pub note_count: u64,
}

impl Findings {
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }

    pub fn push(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Note => self.note_count += 1,
            Severity::Problem => self.problem_count += 1,
        }
        if self.kept.len() < FINDINGS_KEPT_MAX {
            self.kept.push(finding);
        }
    }

    pub fn problem(&mut self, place: Place, offence: Offence) {
        self.push(Finding { severity: Severity::Problem, place, offence });
    }

    pub fn note(&mut self, place: Place, offence: Offence) {
        self.push(Finding { severity: Severity::Note, place, offence });
    }
}
