//! Which bytes go where: plans that the shell carries out without deciding anything.
//!
//! ```text
//! file of a segment      0       4096      8192      12288
//!                        |---------|---------|---------|
//! flushed                ##########====
//! appended since                       =======
//! WritePlan                        [...........zeros..]   aligned: starts at the tail block's head,
//!                                                         ends with zeros up to the next boundary
//! ```
//!
//! The tail block is written again by the next write. Its acknowledged bytes are the same in both,
//! so that a torn rewrite cannot lose them. Here the commit journal (next form of the log) goes in:
//! it produces the same plans with another target.

use crate::types::Offset;
use crate::types::limits::IO_ALIGNMENT;

const ALIGNMENT: u64 = IO_ALIGNMENT as u64;

/// The last aligned position at or before `position`.
pub const fn align_down(position: u64) -> u64 {
    position & !(ALIGNMENT - 1)
}

/// The first aligned position at or after `position`.
pub const fn align_up(position: u64) -> u64 {
    (position + ALIGNMENT - 1) & !(ALIGNMENT - 1)
}

/// One replica among those of its shard: an index into the shard's tables, reused after a topic
/// was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Where a batch goes. Made by `PartitionLog::plan_append`, applied by `PartitionLog::apply_append`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendPlan {
    /// The offset that the batch's first record gets.
    pub base_offset: Offset,
    /// Base offset of the segment that takes it; a new segment when it equals `base_offset` and
    /// differs from the active one.
    pub segment: Offset,
    /// Byte position in that segment's file.
    pub file_position: u64,
    /// Bytes of the batch.
    pub size: u32,
    /// The active segment is closed first.
    pub rolls: bool,
}

/// Everything that one partition appended since its last write, as one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePlan {
    pub slot: Slot,
    /// The log end that this write reaches, exclusive.
    pub end: Offset,
    /// Bytes appended since the previous write.
    pub size: u64,
}

/// What one flush covers: writes that had completed before it was issued, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushPlan {
    pub entries: Vec<FlushEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushEntry {
    pub slot: Slot,
    /// The flushed end of the partition once this flush returns, exclusive.
    pub end: Offset,
    /// Base offsets of the segments that were written and not flushed.
    pub segments: Vec<Offset>,
}

/// How a flush is carried out: one per file, or one for the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMethod {
    /// `fdatasync` on each file, all at once.
    Files,
    /// One `syncfs`. Also writes back what others left dirty on the file system.
    FileSystem,
}

/// The most files that are flushed one by one; more are flushed by one `syncfs`.
///
/// Unit: files. Each `fdatasync` is a trip through a kernel worker thread. Measured with 8 partitions
/// at full rate (100-byte records in 64 KiB batches, one core, ext4 on a virtual disk): 2.0 ms and
/// 1.2 CPU-s per GB with a flush per file, 0.9 ms and 0.75 CPU-s per GB with `syncfs`, 5.2 against
/// 8.9 million records per second. The price: `syncfs` also waits for other processes' dirty pages
/// on that file system, so the data directory wants one of its own.
pub const FLUSH_FILES_MAX: usize = 2;

impl FlushPlan {
    pub fn file_count(&self) -> usize {
        self.entries.iter().map(|entry| entry.segments.len()).sum()
    }

    pub fn method(&self) -> FlushMethod {
        if self.file_count() > FLUSH_FILES_MAX { FlushMethod::FileSystem } else { FlushMethod::Files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_is_a_block() {
        assert_eq!((align_down(4095), align_down(4096)), (0, 4096));
        assert_eq!((align_up(1), align_up(4096), align_up(4097)), (4096, 4096, 8192));
    }
}
