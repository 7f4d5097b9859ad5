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
//! so that a torn rewrite cannot lose them.

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

/// How far one write has come, which the disk may do in pieces.
#[derive(Clone, Copy, Debug)]
pub struct WriteProgress {
    /// Bytes; a whole number of blocks.
    size: usize,
    /// Bytes from its start that are written.
    end: usize,
}

/// What to do when the disk has written a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteRest {
    Nothing,
    /// Write from this byte of it on: the block in which the piece ended is written again from its start.
    From(usize),
    /// It came no further than the piece before: written again, it would not end.
    Stuck,
}

impl WriteProgress {
    pub fn new(size: usize) -> WriteProgress {
        WriteProgress { size, end: 0 }
    }

    /// A piece of `size` bytes from byte `from` on is written.
    pub fn wrote(&mut self, from: usize, size: usize) -> WriteRest {
        let end = from + size;
        assert!(end <= self.size, "more was written than there is");
        if end <= self.end && self.size > 0 {
            return WriteRest::Stuck;
        }
        self.end = end;
        if end == self.size { WriteRest::Nothing } else { WriteRest::From(end - end % IO_ALIGNMENT) }
    }
}

/// Whether so many more bytes may be reserved for appends on a file system that has `free` left: of those,
/// `min_free` are for what makes room again, which appends come before. `None`: it does not say.
pub fn may_reserve(free: Option<u64>, more: u64, min_free: u64) -> bool {
    free.is_none_or(|free| free.saturating_sub(more) >= min_free)
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

/// What small appends have gathered since the last tick, as one write to the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickPlan {
    pub entries: Vec<TickEntry>,
}

/// What one partition appended since anything of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickEntry {
    pub slot: Slot,
    /// The log end that it reaches, exclusive.
    pub end: Offset,
    /// Bytes.
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

/// What one `syncfs` promises for direct writes that have completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFs {
    /// It ends with a flush of the device's cache (ext4, `ext4_sync_fs`).
    Device,
    /// It writes out metadata; the device's cache is flushed only if there was any (XFS,
    /// `xfs_log_force`). An `fdatasync` of any one file behind it flushes the cache for all.
    Metadata,
    /// Nothing that we know of. On FUSE it succeeds and never reaches the program behind the mount,
    /// where an `fdatasync` of one file flushes that file alone: every file gets its own.
    Nothing,
}

impl SyncFs {
    /// By the file system's name; what is not known to flush is not believed to.
    pub fn of(file_system: &str) -> SyncFs {
        match file_system {
            "ext4" => SyncFs::Device,
            "xfs" => SyncFs::Metadata,
            _ => SyncFs::Nothing,
        }
    }
}

/// How a flush is carried out: one per file, or one for the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMethod {
    /// `fdatasync` on each file, many at once.
    Files,
    /// One `syncfs`. Also writes back what others left dirty on the file system.
    FileSystem,
}

/// The most files that are flushed one by one where `syncfs` is known to flush; more are flushed by one
/// `syncfs`.
///
/// Unit: files. Each `fdatasync` is a trip through a kernel worker thread. Measured with 8 partitions
/// at full rate (100-byte records in 64 KiB batches, one core, ext4 on a virtual disk): 2.0 ms and
/// 1.2 CPU-s per GB with a flush per file, 0.9 ms and 0.75 CPU-s per GB with `syncfs`, 5.2 against
/// 8.9 million records per second. The price: `syncfs` also waits for other processes' dirty pages
/// on that file system, so the data directory wants one of its own.
pub const FLUSH_FILES_MAX: usize = 2;

/// The most flushes of single files under way at a time.
///
/// Unit: files. Each holds a kernel worker thread until the device has answered.
pub const FILE_FLUSHES_IN_FLIGHT_MAX: usize = 64;

impl FlushPlan {
    pub fn file_count(&self) -> usize {
        self.entries.iter().map(|entry| entry.segments.len()).sum()
    }

    pub fn method(&self, sync_fs: SyncFs) -> FlushMethod {
        match sync_fs {
            SyncFs::Nothing => FlushMethod::Files,
            SyncFs::Device | SyncFs::Metadata if self.file_count() <= FLUSH_FILES_MAX => FlushMethod::Files,
            SyncFs::Device | SyncFs::Metadata => FlushMethod::FileSystem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `syncfs` that reaches no disk must never stand for the flush of several files.
    #[test]
    fn one_flush_for_all_only_where_it_is_known_to_be_one() {
        let method = |file_system: &str, files: usize| plan_of(files).method(SyncFs::of(file_system));
        for known in ["ext4", "xfs"] {
            assert_eq!(method(known, FLUSH_FILES_MAX), FlushMethod::Files, "{known}");
            assert_eq!(method(known, FLUSH_FILES_MAX + 1), FlushMethod::FileSystem, "{known}");
        }
        for unknown in ["fuse", "overlay", "btrfs", "zfs", "tmpfs", "a file system of type 0x1234"] {
            assert_eq!(method(unknown, FLUSH_FILES_MAX + 1), FlushMethod::Files, "{unknown}");
            assert_eq!(method(unknown, 10_000), FlushMethod::Files, "{unknown}");
        }
    }

    #[test]
    fn rest_of_a_short_write_begins_with_the_block_that_it_ended_in() {
        let mut progress = WriteProgress::new(16384);
        assert_eq!(progress.wrote(0, 4096), WriteRest::From(4096));
        assert_eq!(progress.wrote(4096, 5000), WriteRest::From(8192));
        assert_eq!(progress.wrote(8192, 8192), WriteRest::Nothing);
        assert_eq!(WriteProgress::new(4096).wrote(0, 4096), WriteRest::Nothing);
    }

    #[test]
    fn short_write_that_comes_no_further_is_not_tried_for_ever() {
        let mut progress = WriteProgress::new(8192);
        assert_eq!(progress.wrote(0, 512), WriteRest::From(0));
        assert_eq!(progress.wrote(0, 1024), WriteRest::From(0), "a sector more");
        assert_eq!(progress.wrote(0, 1024), WriteRest::Stuck);
        assert_eq!(WriteProgress::new(8192).wrote(0, 0), WriteRest::Stuck);
        let mut progress = WriteProgress::new(8192);
        assert_eq!(progress.wrote(0, 4608), WriteRest::From(4096));
        assert_eq!(progress.wrote(4096, 512), WriteRest::Stuck);
        assert_eq!(progress.wrote(4096, 0), WriteRest::Stuck);
    }

    #[test]
    fn appends_leave_what_is_to_be_left() {
        assert!(may_reserve(Some(100), 36, 64));
        assert!(!may_reserve(Some(100), 37, 64));
        assert!(!may_reserve(Some(10), 100, 64), "less is left than is asked for");
        assert!(may_reserve(None, u64::MAX, 64));
    }

    #[test]
    fn alignment_is_a_block() {
        assert_eq!((align_down(4095), align_down(4096)), (0, 4096));
        assert_eq!((align_up(1), align_up(4096), align_up(4097)), (4096, 4096, 8192));
    }

    fn plan_of(files: usize) -> FlushPlan {
        let segments = (0..files as u64).map(|base| Offset::new(base).unwrap()).collect();
        FlushPlan { entries: vec![FlushEntry { slot: Slot(0), end: Offset::ZERO, segments }] }
    }
}
