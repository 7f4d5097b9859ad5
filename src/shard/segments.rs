//! The files of one partition: which are open, which takes writes, which is prepared for the roll.
//!
//! ```text
//! <topic>-<partition>/
//!   00000000000000000000.log     closed: exact length, indexes and checksums beside it
//!   00000000000000004711.log     active: preallocated
//!   3.spare                      preallocated for the next roll, renamed when that is on disk
//! ```
//!
//! A roll happens in memory at once; on disk it is finished by the next write, in this order: the
//! old file is cut to its length and flushed, its indexes and the producer state are written, the
//! spare gets its name. Only then is the new segment written to. A crash anywhere in between leaves
//! the old segment as the last one, whole. The three flushes of it are shared with other partitions
//! that roll at that time, where one flush of the file system stands for all.

use crate::log::checksums::{SegmentChecksums, SegmentId};
use crate::log::compaction::swap::{SwapStep, abandon_steps};
use crate::log::index::SegmentIndex;
use crate::log::partition::ClosedSegment;
use crate::log::plan::SyncFs;
use crate::log::producers::EncodedProducers;
use crate::log::segment::SegmentFile;
use crate::log::transactions::index::TransactionIndex;
use crate::shard::compaction::swap::{CarriedOut, carry_out};
use crate::shard::disk::{
    Disk, DiskFile, blocking, is_full_disk, remove_if_present, replace_file, sync_directory, unless_full,
};
use crate::shard::open_files::PooledFile;
use crate::shard::replacing::Replacement;
use crate::types::Offset;
use glommio::sync::{Permit, Semaphore};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Closed segments of one partition that are kept open for readers; the least recently opened is
/// closed past it.
const READERS_OPEN_MAX: usize = 4;

/// What found no space on disk is tried again after this long.
pub const NO_SPACE_RETRY: Duration = Duration::from_secs(1);

/// Suffix of a file that waits for its roll.
pub const SPARE_SUFFIX: &str = ".spare";

/// Name of the leader epoch cache's file (Kafka `LeaderEpochCheckpointFile`).
pub const EPOCHS_FILE: &str = "leader-epoch-checkpoint";

/// A segment file that may be written.
#[derive(Debug)]
pub struct SegmentHandle {
    file: Rc<PooledFile>,
    /// Bytes reserved on disk.
    allocated: Cell<u64>,
}

/// Lives: one per replica.
#[derive(Debug)]
pub struct Segments {
    directory: PathBuf,
    /// Base offset of the oldest segment that was not deleted.
    first: Cell<Offset>,
    /// Base offset of the segment that takes appends.
    active: Cell<Offset>,
    /// Base offset of the segment that takes writes: behind `active` while a roll is unfinished.
    written: Cell<Offset>,
    writable: RefCell<BTreeMap<Offset, Rc<SegmentHandle>>>,
    /// Bytes reserved for the active segment, once its file is open. Every batch asks for it.
    active_allocated: Cell<Option<u64>>,
    spare: RefCell<Option<Rc<SegmentHandle>>>,
    spare_number: Cell<u64>,
    /// The file that the active segment begins with has its name under a flush.
    first_is_named: Cell<bool>,
    readers: RefCell<VecDeque<(Offset, Rc<PooledFile>)>>,
    /// Held while a closed segment's name is opened, removed or replaced: the runtime panics when a
    /// name goes between its opening of it and its look at it.
    names: Semaphore,
    /// Held while bytes are reserved for a segment's file, or cut off it: none are ever left behind the end
    /// of a closed one.
    sizes: Semaphore,
    /// A compacted segment that has not got its name yet.
    swapped: RefCell<Option<Swapped>>,
}

/// A compacted segment that is the log's, under another name than its own.
#[derive(Debug)]
struct Swapped {
    base: Offset,
    file: Rc<DiskFile>,
    /// What is left to be done; nothing is under way.
    rest: Vec<SwapStep>,
}

impl Segments {
    /// `active`: the newest segment; its file may not exist yet.
    pub fn new(directory: PathBuf, active: Offset) -> Segments {
        Segments {
            directory,
            first: Cell::new(Offset::ZERO),
            active: Cell::new(active),
            written: Cell::new(active),
            writable: RefCell::default(),
            active_allocated: Cell::new(None),
            spare: RefCell::default(),
            spare_number: Cell::new(0),
            first_is_named: Cell::new(false),
            readers: RefCell::default(),
            names: Semaphore::new(1),
            sizes: Semaphore::new(1),
            swapped: RefCell::new(None),
        }
    }

    /// The file of the active segment is there, and its name survives a crash: it was made with the
    /// directory, or a clean stop has left it.
    pub fn active_is_named(&self) {
        self.first_is_named.set(true);
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn path(&self, segment: Offset, file: SegmentFile) -> PathBuf {
        self.directory.join(file.name(segment))
    }

    /// Bytes reserved for the active segment; `None` until its file is open.
    pub fn active_size(&self) -> Option<u64> {
        self.active_allocated.get()
    }

    pub fn spare_size(&self) -> Option<u64> {
        self.spare.borrow().as_ref().map(|handle| handle.allocated.get())
    }

    /// Base offset of the segment that takes writes; those before it are final on disk.
    pub fn written(&self) -> Offset {
        self.written.get()
    }

    pub fn handle(&self, segment: Offset) -> Option<Rc<SegmentHandle>> {
        self.writable.borrow().get(&segment).cloned()
    }

    /// The file of a segment that may be written, opened if need be; `None` when it is final or gone. The
    /// caller keeps the directory where it is.
    pub async fn written_file(&self, disk: &Disk, segment: Offset) -> io::Result<Option<Rc<DiskFile>>> {
        let Some(handle) = self.handle(segment) else { return Ok(None) };
        self.file(disk, &handle).await.map(Some)
    }

    async fn file(&self, disk: &Disk, handle: &SegmentHandle) -> io::Result<Rc<DiskFile>> {
        if let Some(file) = handle.file.if_open() {
            return Ok(file);
        }
        let _names = self.names.acquire_permit(1).await?;
        disk.open_files().get(disk, &handle.file).await
    }

    /// Opens the active segment's file if need be and reserves its first `size` bytes.
    pub async fn extend_active(&self, disk: &Disk, size: u64) -> io::Result<()> {
        let segment = self.active.get();
        let open = self.handle(segment);
        let handle = match open {
            Some(handle) => handle,
            None => {
                let path = self.path(segment, SegmentFile::Log);
                let file = disk.open_files().create(disk, &path).await?;
                if !self.first_is_named.replace(true) {
                    self.sync_directory().await?;
                }
                let handle = Rc::new(SegmentHandle { file, allocated: Cell::new(0) });
                self.writable.borrow_mut().insert(segment, handle.clone());
                if self.active.get() == segment {
                    self.active_allocated.set(Some(0));
                }
                handle
            }
        };
        let _sizes = self.hold_sizes().await?;
        // One that was rolled meanwhile gets nothing: it is cut to its length, or was.
        if handle.allocated.get() < size && self.active.get() == segment {
            let file = self.file(disk, &handle).await?;
            // What a start has found is as long as it was reserved.
            let allocated = match handle.allocated.get() {
                0 => file.size().await?,
                allocated => allocated,
            };
            disk.allocate(&file, size, allocated).await?;
            handle.allocated.set(size);
            if self.active.get() == segment {
                self.active_allocated.set(Some(size));
            }
        }
        Ok(())
    }

    /// Creates the file of the next segment, whose name is not known yet, or enlarges it. There is no
    /// spare to adopt meanwhile: a roll must not take the file that is put back here.
    pub async fn prepare_spare(&self, disk: &Disk, size: u64) -> io::Result<()> {
        let spare = self.spare.borrow_mut().take();
        let handle = match spare {
            Some(handle) => handle,
            None => {
                let number = self.spare_number.get();
                self.spare_number.set(number + 1);
                let path = self.directory.join(format!("{number}{SPARE_SUFFIX}"));
                let file = disk.open_files().create(disk, &path).await?;
                Rc::new(SegmentHandle { file, allocated: Cell::new(0) })
            }
        };
        let mut result = Ok(());
        if handle.allocated.get() < size {
            result = match self.file(disk, &handle).await {
                Ok(file) => disk.allocate(&file, size, handle.allocated.get()).await,
                Err(error) => Err(error),
            };
            if result.is_ok() {
                handle.allocated.set(size);
            }
        }
        // Without space it is kept as it is, for the next try.
        *self.spare.borrow_mut() = Some(handle);
        result
    }

    /// The spare becomes the segment that starts at `segment`; on disk it keeps its name for now.
    pub fn adopt_spare(&self, segment: Offset) {
        let spare = self.spare.borrow_mut().take().expect("a roll is planned only with a spare");
        self.active_allocated.set(Some(spare.allocated.get()));
        self.writable.borrow_mut().insert(segment, spare);
        self.active.set(segment);
    }

    /// Finishes a roll on disk; `next` is the base offset of the segment after the closed one.
    ///
    /// On a full disk the files that can be built again are left out. The next segment's name is
    /// asked for until it is there, or `keep_trying` says no: what is to be written then was
    /// accepted, and its space is reserved.
    pub async fn finish(
        &self,
        disk: &Disk,
        closed: ClosedSegment,
        next: Offset,
        producers: EncodedProducers,
        epochs: String,
        keep_trying: impl Fn() -> bool,
    ) -> io::Result<()> {
        let base = closed.info.base_offset;
        assert!(base == self.written.get(), "rolls are finished in order");
        let old = match self.handle(base) {
            Some(handle) => handle.file.clone(),
            None => disk.open_files().create(disk, &self.path(base, SegmentFile::Log)).await?,
        };
        let file = {
            let _names = self.names.acquire_permit(1).await?;
            disk.open_files().get(disk, &old).await?
        };
        let sizes = self.hold_sizes().await?;
        file.truncate(closed.info.size).await?;
        drop(sizes);
        let sync_fs = disk.sync_fs();
        if sync_fs == SyncFs::Nothing {
            file.flush().await?;
        }
        let derived = Derived { directory: self.directory.clone(), closed, next, producers, epochs };
        let staged = blocking(move || derived.stage(sync_fs)).await?;
        sync_together(disk, &file).await?;
        let named = blocking(move || staged.put(sync_fs)).await?;
        sync_together(disk, &file).await?;
        if let Some(error) = named {
            tracing::warn!(
                directory = %self.directory.display(), segment = %base, %error,
                "no space for the files beside a closed segment; they are built again when they are needed"
            );
        }
        let spare = self.handle(next).expect("the spare was adopted at the roll");
        self.name_segment(disk, &file, &spare.file, next, keep_trying).await?;
        drop(file);
        self.writable.borrow_mut().remove(&base);
        self.remember_reader(base, old);
        self.written.set(next);
        Ok(())
    }

    /// Gives the spare its name as a segment. A directory may need a block for it. `beside`: any file on the
    /// same file system.
    async fn name_segment(
        &self,
        disk: &Disk,
        beside: &DiskFile,
        spare: &PooledFile,
        segment: Offset,
        keep_trying: impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut waited = false;
        loop {
            let names = self.names.acquire_permit(1).await?;
            let (from, to) = (spare.path(), self.path(segment, SegmentFile::Log));
            let named = to.clone();
            let directory = self.directory.clone();
            let alone = disk.sync_fs() == SyncFs::Nothing;
            let renamed = blocking(move || {
                #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
                std::fs::rename(from, to)?;
                Ok(if alone { sync_directory(&directory) } else { Ok(()) })
            });
            let synced = renamed.await.and_then(|synced: io::Result<()>| {
                spare.renamed(named);
                synced
            });
            drop(names);
            let synced = match synced {
                Ok(()) => sync_together(disk, beside).await,
                error => error,
            };
            match synced {
                Err(error) if is_full_disk(&error) && keep_trying() => {
                    if !std::mem::replace(&mut waited, true) {
                        let directory = self.directory.display();
                        tracing::warn!(%directory, %segment, "no space for a segment's name; appends wait for it");
                    }
                    glommio::timer::sleep(NO_SPACE_RETRY).await;
                }
                done => return done,
            }
        }
    }

    /// Writes the index files of a closed segment, both or, after a crash, one: then they are built
    /// again.
    pub async fn write_index(&self, index: &SegmentIndex) -> io::Result<()> {
        let base = index.base_offset();
        let (offsets, times) = (index.encode_offset_index(), index.encode_time_index());
        let offset_path = self.path(base, SegmentFile::OffsetIndex);
        let time_path = self.path(base, SegmentFile::TimeIndex);
        blocking(move || {
            replace_file(&offset_path, &offsets)?;
            replace_file(&time_path, &times)
        })
        .await
    }

    /// Writes the companion of a closed segment.
    pub async fn write_checksums(&self, checksums: &SegmentChecksums) -> io::Result<()> {
        let path = self.path(checksums.segment().base_offset, SegmentFile::Checksums);
        let bytes = checksums.encode();
        blocking(move || replace_file(&path, &bytes)).await
    }

    /// Writes the transaction index of a closed segment of `size` bytes.
    pub async fn write_transactions(
        &self,
        segment: SegmentId,
        size: u64,
        index: &TransactionIndex,
    ) -> io::Result<()> {
        let path = self.path(segment.base_offset, SegmentFile::TransactionIndex);
        let bytes = index.encode(&segment, size);
        blocking(move || replace_file(&path, &bytes)).await
    }

    /// A file to read a segment from.
    pub async fn reader(&self, disk: &Disk, segment: Offset) -> io::Result<Rc<DiskFile>> {
        if let Some(file) = self.open_reader(segment) {
            return Ok(file);
        }
        let _names = self.names.acquire_permit(1).await?;
        if let Some(file) = self.open_reader(segment) {
            return Ok(file);
        }
        if segment < self.first.get() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(handle) = self.handle(segment) {
            return disk.open_files().get(disk, &handle.file).await;
        }
        let file = disk.open_for_reading(&self.path(segment, SegmentFile::Log)).await?;
        let pooled = disk.open_files().adopt(file.clone()).await;
        self.remember_reader(segment, pooled);
        Ok(file)
    }

    fn open_reader(&self, segment: Offset) -> Option<Rc<DiskFile>> {
        if let Some(handle) = self.handle(segment) {
            return handle.file.if_open();
        }
        let swapped = self.swapped.borrow();
        if let Some(swapped) = swapped.as_ref().filter(|swapped| swapped.base == segment) {
            return Some(swapped.file.clone());
        }
        let readers = self.readers.borrow();
        readers.iter().find(|(base, _)| *base == segment).and_then(|(_, file)| file.if_open())
    }

    /// Holds the sizes of files still.
    pub async fn hold_sizes(&self) -> io::Result<Permit<'_>> {
        Ok(self.sizes.acquire_permit(1).await?)
    }

    /// Holds the names of closed segments still.
    pub async fn hold_names(&self) -> io::Result<Permit<'_>> {
        Ok(self.names.acquire_permit(1).await?)
    }

    /// Reads of the first of `replaced` go to `file` from now on, whatever its name, which it gets by the
    /// steps of `rest`. Under [`hold_names`](Self::hold_names).
    pub fn swap_reader(&self, replaced: &[Offset], file: Rc<DiskFile>, rest: Vec<SwapStep>) {
        assert!(self.swapped.borrow().is_none(), "one swap is finished before the next");
        self.readers.borrow_mut().retain(|(base, _)| !replaced.contains(base));
        *self.swapped.borrow_mut() = Some(Swapped { base: replaced[0], file, rest });
    }

    /// The compacted segment that has not got its name yet.
    pub fn unfinished_swap(&self) -> Option<Offset> {
        self.swapped.borrow().as_ref().map(|swapped| swapped.base)
    }

    /// Goes on with what is left of a swap; readers open the file anew by its name then. What finds no
    /// space stays to be done. Under [`hold_names`](Self::hold_names).
    pub async fn finish_swap(&self) -> CarriedOut {
        let rest = self.swapped.borrow().as_ref().map_or(Vec::new(), |swapped| swapped.rest.clone());
        let directory = self.directory.clone();
        let carried = blocking(move || carry_out(&directory, &rest)).await;
        match &carried.stopped {
            None => *self.swapped.borrow_mut() = None,
            Some(_) => {
                self.swapped.borrow_mut().as_mut().expect("it has steps left").rest = carried.rest.clone();
            }
        }
        carried
    }

    fn remember_reader(&self, segment: Offset, file: Rc<PooledFile>) {
        assert!(self.first.get() <= segment, "a deleted segment is not opened");
        let mut readers = self.readers.borrow_mut();
        readers.retain(|(base, _)| *base != segment); // Closed meanwhile.
        if readers.len() >= READERS_OPEN_MAX {
            readers.pop_front();
        }
        readers.push_back((segment, file));
    }

    /// Gives the files of deleted segments their last names, and returns those, segment by segment.
    /// Readers that have one open finish their read. `first` is the oldest segment that is left.
    pub async fn give_up(&self, segments: Vec<Offset>, first: Offset) -> io::Result<Vec<Vec<PathBuf>>> {
        let _names = self.names.acquire_permit(1).await?;
        self.first.set(first);
        self.readers.borrow_mut().retain(|(base, _)| *base >= first);
        let swapped = self.swapped.borrow_mut().take_if(|swapped| segments.contains(&swapped.base));
        let abandoned = swapped.map(|swapped| abandon_steps(&swapped.rest));
        let directory = self.directory.clone();
        blocking(move || {
            let mut given_up = Vec::with_capacity(segments.len());
            if let Some(steps) = abandoned {
                given_up.push(carry_out(&directory, &steps).whole()?);
            }
            for base in segments {
                let mut files = Vec::with_capacity(SegmentFile::ALL.len());
                for file in SegmentFile::ALL {
                    let deleted = directory.join(file.deleted_name(base));
                    files.extend(give_up(&directory.join(file.name(base)), deleted)?);
                }
                given_up.push(files);
            }
            sync_directory(&directory)?;
            Ok(given_up)
        })
        .await
    }

    async fn sync_directory(&self) -> io::Result<()> {
        let directory = self.directory.clone();
        blocking(move || sync_directory(&directory)).await
    }
}

/// What is written beside a closed segment and can be built again from the batches.
struct Derived {
    directory: PathBuf,
    closed: ClosedSegment,
    next: Offset,
    producers: EncodedProducers,
    epochs: String,
}

impl Derived {
    /// Writes each beside its place. Files of a clean stop may be there from when the segment was shorter:
    /// those do not stay where there is no space for others.
    fn stage(&self, sync_fs: SyncFs) -> io::Result<Staged> {
        let ClosedSegment { info, index, checksums, .. } = &self.closed;
        let replacement = |file: SegmentFile, base, bytes| Replacement {
            path: self.directory.join(file.name(base)),
            bytes,
        };
        let base = info.base_offset;
        let transactions = self.closed.encode_transactions();
        // Where the snapshot is, a start looks for no epochs before it. Older ones are of use: those that they do not name
        // are found in the active segment.
        let epochs =
            Replacement { path: self.directory.join(EPOCHS_FILE), bytes: self.epochs.as_bytes().to_owned() };
        let files = [
            epochs,
            replacement(SegmentFile::OffsetIndex, base, index.encode_offset_index()),
            replacement(SegmentFile::TimeIndex, base, index.encode_time_index()),
            replacement(SegmentFile::Checksums, base, checksums.encode()),
            replacement(SegmentFile::ProducerSnapshot, self.next, self.producers.seal()),
        ];
        let transactions = transactions.map(|bytes| replacement(SegmentFile::TransactionIndex, base, bytes));
        let mut staged =
            Staged { directory: self.directory.clone(), files: Vec::new(), lacks_epochs: false, full: None };
        for file in files.into_iter().chain(transactions) {
            match unless_full(file.stage(sync_fs == SyncFs::Nothing))? {
                None => staged.files.push(file),
                Some(error) => staged.left_out(&file, error)?,
            }
        }
        Ok(staged)
    }
}

/// Files that wait for a flush before they get their names.
struct Staged {
    directory: PathBuf,
    files: Vec<Replacement>,
    lacks_epochs: bool,
    /// There was no space for one.
    full: Option<io::Error>,
}

impl Staged {
    /// Each for itself. Returns the last error for want of space.
    fn put(mut self, sync_fs: SyncFs) -> io::Result<Option<io::Error>> {
        for file in std::mem::take(&mut self.files) {
            let is_snapshot = file.path.extension().is_some_and(|name| name == "snapshot");
            if is_snapshot && self.lacks_epochs {
                remove_if_present(&file.path)?;
                continue;
            }
            if let Some(error) = unless_full(file.put())? {
                self.left_out(&file, error)?;
            }
        }
        if sync_fs == SyncFs::Nothing
            && let Some(error) = unless_full(sync_directory(&self.directory))?
        {
            self.full = Some(error);
        }
        Ok(self.full)
    }

    fn left_out(&mut self, file: &Replacement, error: io::Error) -> io::Result<()> {
        self.full = Some(error);
        self.lacks_epochs |= file.path.ends_with(EPOCHS_FILE);
        if file.path.ends_with(EPOCHS_FILE) { Ok(()) } else { remove_if_present(&file.path) }
    }
}

/// One flush for all that roll, where a flush of the file system is one.
async fn sync_together(disk: &Disk, file: &DiskFile) -> io::Result<()> {
    match disk.sync_fs() {
        SyncFs::Nothing => Ok(()),
        SyncFs::Device | SyncFs::Metadata => disk.sync_together(file).await,
    }
}

/// Gives a file its last name. Returns that, or `None` when there is no file or no space for the name:
/// then the file is removed at once.
#[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
pub fn give_up(live: &Path, deleted: PathBuf) -> io::Result<Option<PathBuf>> {
    match std::fs::rename(live, &deleted) {
        Ok(()) => Ok(Some(deleted)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if is_full_disk(&error) => remove_if_present(live).map(|()| None),
        Err(error) => Err(error),
    }
}
