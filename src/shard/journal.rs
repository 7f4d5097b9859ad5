//! The files of a shard's commit journal: makes them, writes blocks, flushes.
//!
//! ```text
//! <data-dir>/journal.<shard>/
//!   00000000.journal     of one size, filled with zeros when it was made
//!   00000001.journal     made when the first ones do not suffice
//! ```
//!
//! Decides nothing: which block goes where and what a flush covers comes from `log::journal`. A start
//! replays what is in them into the segments and goes on with the same files.

use crate::log::journal::ring::{BlockPlace, FileIndex, JournalFlush, JournalHead, RingLimits};
use crate::shard::disk::{Disk, DiskFile, allocate, blocking, sync_directory};
use crate::types::ShardId;
use crate::types::limits::IO_SIZE_MAX;
use glommio::io::DmaBuffer;
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Name of a file that is not filled with zeros yet.
pub const MAKING: &str = "next.journal.making";

/// Lives: one per shard with a journal.
pub struct Journal {
    directory: PathBuf,
    disk: Disk,
    limits: RingLimits,
    /// Where an earlier run's files go on.
    head: Option<JournalHead>,
    files: RefCell<Vec<Rc<DiskFile>>>,
}

/// Name of a shard's journal directory in the data directory.
pub fn directory_name(shard: ShardId) -> String {
    format!("journal.{}", shard.0)
}

/// Whether a start has found a journal damaged: then it is kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Usable,
    /// Counted, since a journal may be damaged more than once.
    Damaged(u32),
}

/// The shard whose journal a directory of this name holds: `journal.3`, `journal.3.damaged.1`.
pub fn parse_directory_name(name: &str) -> Option<(ShardId, Condition)> {
    let name = name.strip_prefix("journal.")?;
    let (shard, condition) = match name.split_once(".damaged.") {
        None => (name, Condition::Usable),
        Some((shard, number)) => (shard, Condition::Damaged(number.parse().ok()?)),
    };
    Some((ShardId(shard.parse().ok()?), condition))
}

/// Where the `number`th damaged journal of a shard is kept.
pub fn damaged_directory_name(shard: ShardId, number: u32) -> String {
    format!("{}.damaged.{number}", directory_name(shard))
}

const REPLAYED_SUFFIX: &str = ".replayed";

/// Where a shard's journal goes once it has been replayed, until it is removed.
pub fn replayed_directory_name(shard: ShardId) -> String {
    format!("{}{REPLAYED_SUFFIX}", directory_name(shard))
}

/// Whether a directory of this name is what is left of a journal that was replayed.
pub fn is_replayed_directory(name: &str) -> bool {
    let shard = name.strip_prefix("journal.").and_then(|name| name.strip_suffix(REPLAYED_SUFFIX));
    shard.is_some_and(|shard| shard.parse::<u16>().is_ok())
}

/// The file of this name in a journal's directory.
pub fn parse_file_name(name: &str) -> Option<FileIndex> {
    name.strip_suffix(".journal")?.parse().ok().map(FileIndex)
}

/// Name of a journal file in it.
pub fn file_name(file: FileIndex) -> String {
    format!("{:08}.journal", file.0)
}

impl Journal {
    pub fn new(data_dir: &Path, shard: ShardId, disk: Disk, limits: RingLimits) -> Journal {
        let directory = data_dir.join(directory_name(shard));
        Journal { directory, disk, limits, head: None, files: RefCell::default() }
    }

    /// Goes on with the files that a start has found.
    pub async fn resume(mut self, head: JournalHead) -> io::Result<Journal> {
        for file in 0..head.file_count {
            let opened = self.disk.create(&self.directory.join(file_name(FileIndex(file)))).await?;
            self.files.get_mut().push(opened);
        }
        self.head = Some(head);
        Ok(self)
    }

    pub fn head(&self) -> Option<JournalHead> {
        self.head
    }

    pub fn limits(&self) -> RingLimits {
        self.limits
    }

    /// Makes the next file: every block written once and flushed, so that a later flush finds nothing
    /// to do for the file system. Yields between writes.
    pub async fn make_file(&self, file: FileIndex) -> io::Result<()> {
        let directory = self.directory.clone();
        blocking(move || {
            #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
            std::fs::create_dir_all(&directory)?;
            sync_directory(directory.parent().unwrap_or(Path::new("/")))
        })
        .await?;
        let (path, making) = (self.directory.join(file_name(file)), self.directory.join(MAKING));
        let made = self.disk.create(&making).await?;
        self.disk.allocate(&made, self.limits.file_size, made.size().await?).await?;
        let mut position = 0;
        while position < self.limits.file_size {
            let size = (self.limits.file_size - position).min(IO_SIZE_MAX as u64);
            let (mut zeros, _) = allocate(size as usize);
            zeros.as_bytes_mut().fill(0);
            made.write(Rc::new(zeros), position).await?;
            position += size;
            glommio::executor().yield_if_needed().await;
        }
        made.flush().await?;
        let directory = self.directory.clone();
        blocking(move || {
            #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
            std::fs::rename(making, path)?;
            sync_directory(&directory)
        })
        .await?;
        let mut files = self.files.borrow_mut();
        assert!(files.len() == file.0 as usize, "journal files are made in order");
        files.push(made);
        Ok(())
    }

    pub async fn write(&self, place: &BlockPlace, block: Rc<DmaBuffer>) -> io::Result<()> {
        self.file(place.file).write(block, place.header.position).await
    }

    pub async fn flush(&self, flush: &JournalFlush) -> io::Result<()> {
        for file in &flush.files {
            self.file(*file).flush().await?;
        }
        Ok(())
    }

    fn file(&self, file: FileIndex) -> Rc<DiskFile> {
        self.files.borrow()[file.0 as usize].clone()
    }
}
