//! A file for measurements: opened for direct I/O, and without a name, so that nothing is left of it
//! however the process ends.

#![expect(clippy::disallowed_methods, reason = "a command of its own process that works on a file")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use odradek::log::plan::SyncFs;
use odradek::preflight;
use odradek::types::limits::IO_ALIGNMENT;

#[derive(Debug)]
pub struct ScratchFile {
    file: File,
    size: u64,
    sync_fs: SyncFs,
}

impl ScratchFile {
    /// Reserves `size` bytes in the directory, none of them written.
    pub fn create(directory: &Path, size: u64) -> io::Result<ScratchFile> {
        let file = match open_nameless(directory) {
            // A file system without such files.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
                open_and_unlink(directory)
            }
            result => result,
        };
        let file = file.map_err(explain)?;
        let length = libc::off_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: fallocate takes no pointers; the descriptor is open.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let sync_fs = SyncFs::of(&preflight::file_system_name(directory)?);
        Ok(ScratchFile { file, size, sync_fs })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn write(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, position)
    }

    pub fn read(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, position)
    }

    /// `fdatasync`.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// One flush for everything on its file system, as the broker does it there.
    pub fn flush_file_system(&self) -> io::Result<()> {
        // SAFETY: syncfs takes any open descriptor; the file is open.
        if unsafe { libc::syncfs(self.file.as_raw_fd()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        match self.sync_fs {
            SyncFs::Metadata => self.flush(),
            SyncFs::Device | SyncFs::Nothing => Ok(()),
        }
    }

    /// What that promises.
    pub fn sync_fs(&self) -> SyncFs {
        self.sync_fs
    }
}

fn direct() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn open_nameless(directory: &Path) -> io::Result<File> {
    direct().custom_flags(libc::O_DIRECT | libc::O_TMPFILE).open(directory)
}

fn open_and_unlink(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".odradek-bench-{}", std::process::id()));
    let opened = direct().create_new(true).custom_flags(libc::O_DIRECT).open(&path);
    // The open may have failed after the file was made.
    if !matches!(&opened, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
        let _ = std::fs::remove_file(&path);
    }
    opened
}

fn explain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::other("its file system has no direct I/O (O_DIRECT)"),
        _ => error,
    }
}

/// Memory for direct I/O, filled with bytes that no device can compress.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    from: usize,
    size: usize,
}

impl AlignedBuffer {
    pub fn new(size: usize) -> AlignedBuffer {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let memory: Vec<u8> = (0..size + IO_ALIGNMENT).map(|_| noise()).collect();
        // The vector never grows, so its memory stays where it is.
        let from = memory.as_ptr().align_offset(IO_ALIGNMENT);
        AlignedBuffer { memory, from, size }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.size]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.size]
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_scratch_file_has_no_name_and_holds_what_was_written() {
        let directory = directory_on_disk();
        let file = ScratchFile::create(directory.path(), 1 << 20).expect("direct I/O");
        let other = open_and_unlink(directory.path()).expect("direct I/O");
        let names = std::fs::read_dir(directory.path()).expect("it can be listed").count();
        assert_eq!(names, 0, "neither way leaves a name");
        drop(other);
        let written = AlignedBuffer::new(2 * IO_ALIGNMENT);
        file.write(written.bytes(), 8192).and_then(|()| file.flush()).expect("written");
        let mut read = AlignedBuffer::new(2 * IO_ALIGNMENT);
        read.bytes_mut().fill(0);
        file.read(read.bytes_mut(), 8192).expect("read");
        assert_eq!(read.bytes(), written.bytes());
        assert!(ScratchFile::create(&directory.path().join("none"), 4096).is_err());
    }

    /// Beside the running test: the directory for temporary files may be in memory.
    pub fn directory_on_disk() -> TempDir {
        let test = std::env::current_exe().expect("a test knows its executable");
        tempfile::tempdir_in(test.parent().expect("it lies somewhere")).expect("a directory")
    }
}
