//! The files of one partition: which are open, which takes writes, which is prepared for the roll.
//!
//! ```text
//! <topic>-<partition>/
//!   00000000000000000000.log     closed: exact length, indexes beside it
//!   00000000000000004711.log     active: preallocated
//!   3.spare                      preallocated for the next roll, renamed when that is on disk
//! ```
//!
//! A roll happens in memory at once; on disk it is finished by the next write, in this order: the
//! old file is cut to its length and flushed, its indexes and the producer state are written, the
//! spare gets its name. Only then is the new segment written to. A crash anywhere in between leaves
//! the old segment as the last one, whole.

use crate::log::index::SegmentIndex;
use crate::log::partition::ClosedSegment;
use crate::log::segment::SegmentFile;
use crate::shard::disk::{Disk, DiskFile, blocking, replace_file, sync_directory};
use crate::types::Offset;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Closed segments of one partition that are kept open for readers; the least recently opened is
/// closed past it.
const READERS_OPEN_MAX: usize = 4;

/// Suffix of a file that waits for its roll.
pub const SPARE_SUFFIX: &str = ".spare";

/// Name of the leader epoch cache's file (Kafka `LeaderEpochCheckpointFile`).
pub const EPOCHS_FILE: &str = "leader-epoch-checkpoint";

/// An open segment file that may be written.
#[derive(Debug)]
pub struct SegmentHandle {
    pub file: Rc<DiskFile>,
    /// Bytes reserved on disk.
    allocated: Cell<u64>,
}

/// Lives: one per replica.
#[derive(Debug)]
pub struct Segments {
    directory: PathBuf,
    /// Base offset of the segment that takes appends.
    active: Cell<Offset>,
    /// Base offset of the segment that takes writes: behind `active` while a roll is unfinished.
    written: Cell<Offset>,
    writable: RefCell<BTreeMap<Offset, Rc<SegmentHandle>>>,
    spare: RefCell<Option<Rc<SegmentHandle>>>,
    spare_number: Cell<u64>,
    readers: RefCell<VecDeque<(Offset, Rc<DiskFile>)>>,
}

impl Segments {
    /// `active`: the newest segment; its file may not exist yet.
    pub fn new(directory: PathBuf, active: Offset) -> Segments {
        Segments {
            directory,
            active: Cell::new(active),
            written: Cell::new(active),
            writable: RefCell::default(),
            spare: RefCell::default(),
            spare_number: Cell::new(0),
            readers: RefCell::default(),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn path(&self, segment: Offset, file: SegmentFile) -> PathBuf {
        self.directory.join(file.name(segment))
    }

    /// Bytes reserved for the active segment; `None` until its file is open.
    pub fn active_size(&self) -> Option<u64> {
        self.writable.borrow().get(&self.active.get()).map(|handle| handle.allocated.get())
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

    /// Opens the active segment's file if need be and reserves its first `size` bytes.
    pub async fn extend_active(&self, disk: &Disk, size: u64) -> io::Result<()> {
        let segment = self.active.get();
        let open = self.handle(segment);
        let handle = match open {
            Some(handle) => handle,
            None => {
                let file = disk.create(&self.path(segment, SegmentFile::Log)).await?;
                self.sync_directory().await?;
                let handle = Rc::new(SegmentHandle { file, allocated: Cell::new(0) });
                self.writable.borrow_mut().insert(segment, handle.clone());
                handle
            }
        };
        if handle.allocated.get() < size {
            handle.file.allocate(size).await?;
            handle.allocated.set(size);
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
                let file = disk.create(&self.directory.join(format!("{number}{SPARE_SUFFIX}"))).await?;
                Rc::new(SegmentHandle { file, allocated: Cell::new(0) })
            }
        };
        let mut result = Ok(());
        if handle.allocated.get() < size {
            result = handle.file.allocate(size).await;
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
        self.writable.borrow_mut().insert(segment, spare);
        self.active.set(segment);
    }

    /// Finishes a roll on disk; `next` is the base offset of the segment after the closed one.
    pub async fn finish(
        &self,
        disk: &Disk,
        closed: &ClosedSegment,
        next: Offset,
        snapshot: Vec<u8>,
        epochs: String,
    ) -> io::Result<()> {
        let base = closed.info.base_offset;
        assert!(base == self.written.get(), "rolls are finished in order");
        let old = match self.handle(base) {
            Some(handle) => handle.file.clone(),
            None => disk.create(&self.path(base, SegmentFile::Log)).await?,
        };
        old.truncate(closed.info.size).await?;
        old.flush().await?;
        let spare = self.handle(next).expect("the spare was adopted at the roll");
        let directory = self.directory.clone();
        let offset_index = closed.index.encode_offset_index();
        let time_index = closed.index.encode_time_index();
        let spare_path = spare.file.path().to_owned();
        blocking(move || {
            replace_file(&directory.join(SegmentFile::OffsetIndex.name(base)), &offset_index)?;
            replace_file(&directory.join(SegmentFile::TimeIndex.name(base)), &time_index)?;
            replace_file(&directory.join(SegmentFile::ProducerSnapshot.name(next)), &snapshot)?;
            replace_file(&directory.join(EPOCHS_FILE), epochs.as_bytes())?;
            #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
            std::fs::rename(&spare_path, directory.join(SegmentFile::Log.name(next)))?;
            sync_directory(&directory)
        })
        .await?;
        self.writable.borrow_mut().remove(&base);
        self.remember_reader(base, old);
        self.written.set(next);
        Ok(())
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

    /// A file to read a segment from.
    pub async fn reader(&self, disk: &Disk, segment: Offset) -> io::Result<Rc<DiskFile>> {
        if let Some(handle) = self.handle(segment) {
            return Ok(handle.file.clone());
        }
        let known =
            self.readers.borrow().iter().find(|(base, _)| *base == segment).map(|(_, file)| file.clone());
        if let Some(file) = known {
            return Ok(file);
        }
        let file = disk.open_for_reading(&self.path(segment, SegmentFile::Log)).await?;
        self.remember_reader(segment, file.clone());
        Ok(file)
    }

    fn remember_reader(&self, segment: Offset, file: Rc<DiskFile>) {
        let mut readers = self.readers.borrow_mut();
        if readers.len() >= READERS_OPEN_MAX {
            readers.pop_front();
        }
        readers.push_back((segment, file));
    }

    /// Removes the files of deleted segments. Readers that have one open finish their read.
    pub async fn remove(&self, segments: Vec<Offset>) -> io::Result<()> {
        self.readers.borrow_mut().retain(|(base, _)| !segments.contains(base));
        let directory = self.directory.clone();
        blocking(move || {
            for base in segments {
                for file in SegmentFile::ALL {
                    remove_if_present(&directory.join(file.name(base)))?;
                }
            }
            sync_directory(&directory)
        })
        .await
    }

    async fn sync_directory(&self) -> io::Result<()> {
        let directory = self.directory.clone();
        blocking(move || sync_directory(&directory)).await
    }
}

#[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
fn remove_if_present(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
