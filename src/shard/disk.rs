//! Files with direct I/O on this shard's ring: the only seam between the log and the disk.
//!
//! Every error that leaves here from a write or a flush is final for the log directory: the caller
//! takes it offline, nothing is tried again. A [`Recorder`] sees each write and flush where it is
//! issued and where it completes, so that a test can show that no acknowledgement is ahead of them.

use crate::log::plan::{SyncFs, WriteProgress, WriteRest, may_reserve};
use crate::shard::open_files::OpenFiles;
use crate::shard::shared_flush::SharedFlush;
use crate::types::limits::{IO_ALIGNMENT, IO_SIZE_MAX, OPEN_FILES_MAX};
use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};
use std::cell::RefCell;
use std::fmt::{self, Write};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What reached the disk, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    WriteCompleted { file: PathBuf, position: u64, size: usize },
    FlushIssued { file: PathBuf },
    FlushCompleted { file: PathBuf },
}

/// Receives [`DiskEvent`]s. `None` in a broker; tests hand one in.
pub type Recorder = Option<Rc<RefCell<Vec<DiskEvent>>>>;

/// A file opened for direct I/O.
#[derive(Debug)]
pub struct DiskFile {
    file: DmaFile,
    path: PathBuf,
    recorder: Recorder,
}

/// The disk operations that need no open file, and the recorder that new files share.
#[derive(Clone, Debug)]
pub struct Disk {
    recorder: Recorder,
    sync_fs: SyncFs,
    open_files: Rc<OpenFiles>,
    /// Bytes that reservations leave free.
    min_free: u64,
    shared_flush: Rc<SharedFlush>,
}

impl Disk {
    pub fn new(sync_fs: SyncFs, recorder: Recorder) -> Disk {
        let open_files = Rc::new(OpenFiles::new(OPEN_FILES_MAX));
        Disk { recorder, sync_fs, open_files, min_free: 0, shared_flush: Rc::default() }
    }

    /// Reserves nothing of the last `min_free` bytes of a file system.
    pub fn with_min_free(self, min_free: u64) -> Disk {
        Disk { min_free, ..self }
    }

    /// Keeps no more segments open.
    pub fn with_open_files_max(self, count_max: usize) -> Disk {
        Disk { open_files: Rc::new(OpenFiles::new(count_max)), ..self }
    }

    /// The same on another file system: how many files are open counts together.
    pub fn on(&self, sync_fs: SyncFs) -> Disk {
        Disk { sync_fs, shared_flush: Rc::default(), ..self.clone() }
    }

    /// Segments that are open.
    pub fn open_files(&self) -> &OpenFiles {
        &self.open_files
    }

    /// What a `syncfs` promises on the file system of the log directory.
    pub fn sync_fs(&self) -> SyncFs {
        self.sync_fs
    }

    /// Creates the file, or opens it as it is.
    pub async fn create(&self, path: &Path) -> io::Result<Rc<DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).dma_open(path).await?;
        Ok(Rc::new(DiskFile { file, path: path.to_owned(), recorder: self.recorder.clone() }))
    }

    /// Opens a file that is there, for reading and writing.
    pub async fn open(&self, path: &Path) -> io::Result<Rc<DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).dma_open(path).await?;
        Ok(Rc::new(DiskFile { file, path: path.to_owned(), recorder: self.recorder.clone() }))
    }

    pub async fn open_for_reading(&self, path: &Path) -> io::Result<Rc<DiskFile>> {
        let file = OpenOptions::new().read(true).dma_open(path).await?;
        Ok(Rc::new(DiskFile { file, path: path.to_owned(), recorder: self.recorder.clone() }))
    }

    /// Reserves a file's first `size` bytes, which read as zeros where nothing was written; it has
    /// `allocated` of them. There is no space for it either where too little would be left.
    ///
    /// The file system is asked each time, as space that was there a moment ago may be somebody else's, and on
    /// the shard itself: ext4 and XFS answer from counters in memory, in about a microsecond, while a helper
    /// thread may be at a flush.
    pub async fn allocate(&self, file: &DiskFile, size: u64, allocated: u64) -> io::Result<()> {
        if self.min_free > 0 {
            let fd = file.as_raw_fd();
            // SAFETY: `file` is borrowed until the call returns, and keeps its descriptor open.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            let free = free_space(&borrowed)?;
            if !may_reserve(free, size.saturating_sub(allocated), self.min_free) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(file.file.pre_allocate(size, false).await?)
    }

    /// As [`sync_file_system`](Self::sync_file_system), in one flush with all who ask for one while another
    /// is under way.
    pub async fn sync_together(&self, file: &DiskFile) -> io::Result<()> {
        self.shared_flush.flush(|| self.sync_file_system(file)).await
    }

    /// One flush for the whole file system that `file` is on. Not for [`SyncFs::Nothing`].
    pub async fn sync_file_system(&self, file: &DiskFile) -> io::Result<()> {
        assert!(self.sync_fs != SyncFs::Nothing, "a syncfs that promises nothing");
        if cfg!(feature = "seeded-no-flush") {
            return Ok(());
        }
        self.record(|| DiskEvent::FlushIssued { file: PathBuf::new() });
        let fd = file.file.as_raw_fd();
        // SAFETY: `file` is borrowed until the flush returns, and keeps its descriptor open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        blocking(move || sync_file_system(&borrowed)).await?;
        if self.sync_fs == SyncFs::Metadata {
            file.file.fdatasync().await?;
        }
        self.record(|| DiskEvent::FlushCompleted { file: PathBuf::new() });
        Ok(())
    }

    fn record(&self, event: impl FnOnce() -> DiskEvent) {
        if let Some(recorder) = &self.recorder {
            recorder.borrow_mut().push(event());
        }
    }
}

impl DiskFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the whole buffer; what a short write left is written again from where it stopped, as long as
    /// that gets it further.
    pub async fn write(&self, buffer: Rc<DmaBuffer>, position: u64) -> io::Result<()> {
        assert!(buffer.len() <= IO_SIZE_MAX, "a write larger than IO_SIZE_MAX");
        assert!(position.is_multiple_of(IO_ALIGNMENT as u64), "an unaligned write");
        let mut progress = WriteProgress::new(buffer.len());
        let mut rest = progress.wrote(0, self.file.write_rc_at(buffer.clone(), position).await?);
        while let WriteRest::From(from) = rest {
            let mut again = glommio::allocate_dma_buffer(buffer.len() - from);
            again.as_bytes_mut().copy_from_slice(&buffer.as_bytes()[from..]);
            rest = progress.wrote(from, self.file.write_at(again, position + from as u64).await?);
        }
        if rest == WriteRest::Stuck {
            return Err(io::Error::from(io::ErrorKind::WriteZero));
        }
        self.record(|| DiskEvent::WriteCompleted { file: self.path.clone(), position, size: buffer.len() });
        Ok(())
    }

    /// Returns once everything whose write completed before is on stable storage.
    pub async fn flush(&self) -> io::Result<()> {
        if cfg!(feature = "seeded-no-flush") {
            return Ok(());
        }
        self.record(|| DiskEvent::FlushIssued { file: self.path.clone() });
        self.file.fdatasync().await?;
        self.record(|| DiskEvent::FlushCompleted { file: self.path.clone() });
        Ok(())
    }

    /// Up to `size` bytes from `position`, both aligned; fewer at the end of the file.
    pub async fn read(&self, position: u64, size: usize) -> io::Result<ReadResult> {
        Ok(self.file.read_at_aligned(position, size).await?)
    }

    pub async fn truncate(&self, size: u64) -> io::Result<()> {
        Ok(self.file.truncate(size).await?)
    }

    /// Whether anything was ever written at or behind `position`. What was only reserved reads as zeros
    /// and has no data; where the file system cannot tell, there is some as far as the file reaches.
    pub async fn has_data_from(&self, position: u64) -> io::Result<bool> {
        let fd = self.file.as_raw_fd();
        blocking(move || {
            // SAFETY: lseek takes any open descriptor, and `self` is borrowed until it returns. Nobody
            // goes by the descriptor's own position.
            let found = unsafe { libc::lseek(fd, position as libc::off_t, libc::SEEK_DATA) };
            match io::Error::last_os_error() {
                _ if found >= 0 => Ok(true),
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(false),
                error => Err(error),
            }
        })
        .await
    }

    pub async fn size(&self) -> io::Result<u64> {
        Ok(self.file.file_size().await?)
    }

    fn record(&self, event: impl FnOnce() -> DiskEvent) {
        if let Some(recorder) = &self.recorder {
            recorder.borrow_mut().push(event());
        }
    }
}

impl AsRawFd for DiskFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// A buffer for direct writes, and whether the ring's registered pool had none left: then it is from
/// the heap, which works, but costs pinning its pages for every write.
pub fn allocate(size: usize) -> (DmaBuffer, BufferOrigin) {
    let buffer = glommio::allocate_dma_buffer(size);
    let origin = BufferOrigin::of(&buffer);
    (buffer, origin)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferOrigin {
    Pool,
    Heap,
}

impl BufferOrigin {
    /// The runtime shows it nowhere but in the buffer's debug text, of which the beginning is enough:
    /// some 100 ns a buffer. A test notices if that text changes.
    fn of(buffer: &DmaBuffer) -> BufferOrigin {
        let mut head = TextHead::default();
        let _ = write!(head, "{buffer:?}"); // Ends with an error once the head is full.
        let text = &head.bytes[..head.filled];
        if text.windows(5).any(|word| word == b"Uring") { BufferOrigin::Pool } else { BufferOrigin::Heap }
    }
}

/// The first bytes of what is written.
#[derive(Default)]
struct TextHead {
    bytes: [u8; 32],
    filled: usize,
}

impl fmt::Write for TextHead {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = &mut self.bytes[self.filled..];
        let taken = text.len().min(free.len());
        free[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.filled += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Runs a call that may block on the runtime's thread beside this shard, as flushes of a file system are. What
/// takes long, and nobody's answer waits for, goes to the [side thread](crate::shard::side_thread) instead.
pub async fn blocking<R: Send + 'static>(call: impl FnOnce() -> R + Send + 'static) -> R {
    glommio::executor().spawn_blocking(call).await
}

/// One `syncfs`. Blocks. What it promises is [`SyncFs`]'s to say.
pub fn sync_file_system(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: syncfs takes any open descriptor; `file` is borrowed until it returns.
    check(unsafe { libc::syncfs(file.as_raw_fd()) })
}

/// Bytes that are free for us on the file system of `file`; `None` where it does not say.
pub fn free_space(file: &impl AsRawFd) -> io::Result<Option<u64>> {
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: fstatvfs takes any open descriptor and fills in `found`, which lives until it returns.
    check(unsafe { libc::fstatvfs(file.as_raw_fd(), found.as_mut_ptr()) })?;
    // SAFETY: it has succeeded.
    let found = unsafe { found.assume_init() };
    Ok((found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize)))
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug)]
pub struct FileSystemSpace {
    pub total: u64,
    /// What is free for us.
    pub usable: u64,
}

/// How large the file system is that has `path`. Blocks.
pub fn file_system_space(path: &Path) -> io::Result<FileSystemSpace> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero, and statvfs fills in `found`; both live until it returns.
    check(unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) })?;
    // SAFETY: it has succeeded.
    let found = unsafe { found.assume_init() };
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(FileSystemSpace { total: bytes(found.f_blocks), usable: bytes(found.f_bavail) })
}

/// Makes a created, renamed or removed name survive a crash.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    std::fs::File::open(path)?.sync_all()
}

/// Replaces a small file: whole and flushed, or as it was.
#[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        let _ = std::fs::remove_file(&temporary); // On a full disk every block counts.
        return Err(error);
    }
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

#[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
pub fn remove_if_present(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether space may return, unlike after any other error.
pub fn is_full_disk(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Takes an error for want of space as `Ok(Some(error))`: the file can be built again.
///
/// For files that are derived from others, whose old form is removed then. Any other error stays one:
/// a disk that fails to write does not keep what it has acknowledged either.
pub fn unless_full(result: io::Result<()>) -> io::Result<Option<io::Error>> {
    match result {
        Ok(()) => Ok(None),
        Err(error) if is_full_disk(&error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_beyond_the_pool_are_known_to_be_from_the_heap() {
        const POOL: usize = 1 << 20;
        let builder = glommio::LocalExecutorBuilder::default().io_memory(POOL);
        builder.make().expect("io_uring is available").run(async {
            let buffers: Vec<_> = (0..POOL / IO_ALIGNMENT * 2).map(|_| allocate(IO_ALIGNMENT)).collect();
            let from_pool = buffers.iter().filter(|(_, origin)| *origin == BufferOrigin::Pool).count();
            assert_eq!(buffers[0].1, BufferOrigin::Pool);
            assert!(from_pool * IO_ALIGNMENT > POOL / 2, "{from_pool}");
            assert!(from_pool * IO_ALIGNMENT <= POOL, "{from_pool}");
            assert_eq!(allocate(POOL).1, BufferOrigin::Heap);
            drop(buffers);
            assert_eq!(allocate(IO_ALIGNMENT).1, BufferOrigin::Pool);
        });
    }

    #[test]
    fn only_want_of_space_is_passed_over() {
        for code in [libc::ENOSPC, libc::EDQUOT] {
            let full = unless_full(Err(io::Error::from_raw_os_error(code)));
            assert_eq!(full.unwrap().unwrap().raw_os_error(), Some(code));
        }
        assert!(unless_full(Ok(())).unwrap().is_none());
        for code in [libc::EIO, libc::EROFS, libc::ENOENT] {
            assert!(unless_full(Err(io::Error::from_raw_os_error(code))).is_err());
        }
    }

    #[test]
    fn reservation_that_would_leave_too_little_finds_no_space() {
        glommio::LocalExecutorBuilder::default().make().expect("io_uring is available").run(async {
            let directory = tempfile::tempdir().unwrap();
            let disk = Disk::new(SyncFs::Nothing, None);
            let file = disk.create(&directory.path().join("file")).await.unwrap();
            let free = free_space(&*file).unwrap().unwrap();
            let full = disk.clone().with_min_free(free * 2).allocate(&file, 1 << 20, 0).await;
            assert!(is_full_disk(&full.unwrap_err()));
            assert_eq!(file.size().await.unwrap(), 0);
            disk.clone().with_min_free(free / 2).allocate(&file, 1 << 20, 0).await.unwrap();
            assert_eq!(file.size().await.unwrap(), 1 << 20);
        });
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace_file(&path, b"old").unwrap();
        // A directory in the place of the name: the last step fails.
        let blocked = directory.path().join("blocked");
        #[expect(clippy::disallowed_methods, reason = "a test makes a directory")]
        std::fs::create_dir_all(blocked.join("in the way")).unwrap();
        assert!(replace_file(&blocked, b"new").is_err());
        assert!(!directory.path().join("blocked.tmp").exists(), "what was begun is removed");
        #[expect(clippy::disallowed_methods, reason = "a test reads a file")]
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes, b"old");
    }
}
