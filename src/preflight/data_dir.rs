//! The data directory: created, ours alone, and on a file system with direct I/O.
//!
//! The file system is judged by its type first: an O_DIRECT open succeeds on tmpfs and says nothing.
//! Where the type is not known to be fine, and on overlay, direct I/O is tried with real writes.

#![expect(clippy::disallowed_methods, reason = "runs on the main thread before any shard exists")]

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::last_error;
use crate::types::limits::IO_ALIGNMENT;

/// Name of the file that a broker locks.
const LOCK_FILE: &str = "odradek.lock";

/// Holds the directory: another process cannot lock it until this is dropped or the process ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// What direct I/O the data directory offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// As `mount` names it; hexadecimal if we do not know it.
    pub name: String,
    /// False only with `unsafe-buffered-io`.
    pub direct_io: bool,
    /// Bytes: the largest of what `statx` reports and 4096.
    pub alignment: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{} cannot be created ({error}): make it writable for this user or choose another --data-dir", .path.display())]
    Create { path: PathBuf, error: io::Error },
    #[error("{} holds no broker's data ({error} for {LOCK_FILE})", .path.display())]
    NoBroker { path: PathBuf, error: io::Error },
    #[error("{} belongs to another broker{}: stop it or choose another --data-dir", .path.display(), process(.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("{} cannot be locked ({error}): choose a --data-dir on a local file system", .path.display())]
    Lock { path: PathBuf, error: io::Error },
    #[error("{} cannot be written ({error}): free space on it or make it writable for this user", .path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error(
        "{} is on {name}, {}: choose a --data-dir on ext4 or xfs, or pass --unsafe-buffered-io for \
         development (acknowledged records can be lost)", .path.display(), .problem
    )]
    FileSystem { path: PathBuf, name: String, problem: &'static str },
    #[error("{} wants direct I/O in units of {alignment} bytes, more than {IO_ALIGNMENT}: choose another --data-dir", .path.display())]
    Alignment { path: PathBuf, alignment: usize },
}

fn process(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// Creates the directory if need be, and takes it.
pub fn take(path: &Path) -> Result<DataDirLock, DataDirError> {
    let create = |error| DataDirError::Create { path: path.to_path_buf(), error };
    create_durably(path).map_err(create)?;
    let open =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(LOCK_FILE));
    let mut file = open.map_err(create)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = read_pid(&mut file);
            return Err(DataDirError::Locked { path: path.to_path_buf(), pid });
        }
        Err(TryLockError::Error(error)) => {
            return Err(DataDirError::Lock { path: path.to_path_buf(), error });
        }
    }
    // The lock is what counts; the number is for the message above.
    let write =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    write.map_err(|error| DataDirError::Write { path: path.to_path_buf(), error })?;
    Ok(DataDirLock { _file: file })
}

/// Keeps a broker from starting on the directory while it is read. Writes nothing.
///
/// Errors: `Locked` while a broker runs; `NoBroker` when none ever ran here.
pub fn hold_for_reading(path: &Path) -> Result<DataDirLock, DataDirError> {
    let name = path.join(LOCK_FILE);
    let mut file =
        File::open(&name).map_err(|error| DataDirError::NoBroker { path: path.to_path_buf(), error })?;
    match file.try_lock_shared() {
        Ok(()) => Ok(DataDirLock { _file: file }),
        Err(TryLockError::WouldBlock) => {
            let pid = read_pid(&mut file);
            Err(DataDirError::Locked { path: path.to_path_buf(), pid })
        }
        Err(TryLockError::Error(error)) => Err(DataDirError::Lock { path: path.to_path_buf(), error }),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut pid = String::new();
    file.take(PID_LENGTH_MAX).read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}

/// Creates the missing directories from the top, each one's name flushed before the next is made: what
/// is acknowledged later must not vanish with an unflushed entry above it. The lowest that is there is
/// flushed too: a `mkdir` does not do it, nor did a start that was killed here.
fn create_durably(path: &Path) -> io::Result<()> {
    let named = |path: &&Path| !path.as_os_str().is_empty();
    let missing = path.ancestors().filter(named).take_while(|path| !path.exists()).count();
    let mut levels: Vec<&Path> = path.ancestors().filter(named).take(missing + 1).collect();
    levels.reverse();
    for level in levels {
        let Some(parent) = level.parent() else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let made = !level.exists();
        if made {
            match std::fs::create_dir(level) {
                // Another start was faster; the lock decides between the two.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && level.is_dir() => {}
                result => result?,
            }
        }
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            Err(error) if !made && is_not_ours_to_flush(&error) => {
                tracing::debug!(directory = %parent.display(), %error, "it is not flushed");
            }
            result => result?,
        }
    }
    Ok(())
}

/// A directory that others made above ours may be closed to us, read only, or of another kind.
fn is_not_ours_to_flush(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::EINVAL))
}

/// Bytes of a process id in decimal, and the newline; more is not read.
const PID_LENGTH_MAX: u64 = 16;

/// What we think of a file system for log data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Works, with a remark for the log.
    Remark(&'static str),
    Refused(&'static str),
}

/// From statfs(2) and linux/magic.h.
const FILE_SYSTEMS: &[(u32, &str, Verdict)] = &[
    (0xEF53, "ext4", Verdict::Fine),
    (0x5846_5342, "xfs", Verdict::Fine),
    (0xF2F5_2010, "f2fs", Verdict::Fine),
    (0xCA45_1A4E, "bcachefs", Verdict::Remark("it is little tested with this broker")),
    (
        0x9123_683E,
        "btrfs",
        Verdict::Remark("copy on write fragments the log; `chattr +C` the data directory"),
    ),
    (0x2FC1_2FC1, "zfs", Verdict::Remark("direct I/O needs OpenZFS 2.3 or newer")),
    (0x794C_7630, "overlay", Verdict::Remark("mount a volume for the data directory")),
    (0x6573_5546, "fuse", Verdict::Remark("its flushes are as good as the program behind the mount")),
    (0x0102_1994, "tmpfs", Verdict::Refused("which is memory and loses everything in a crash")),
    (0x8584_58F6, "ramfs", Verdict::Refused("which is memory and loses everything in a crash")),
    (0x6969, "nfs", Verdict::Refused("a network file system, where a flush promises nothing")),
    (0xFF53_4D42, "cifs", Verdict::Refused("a network file system, where a flush promises nothing")),
    (0xFE53_4D42, "smb2", Verdict::Refused("a network file system, where a flush promises nothing")),
    (0x00C3_6400, "ceph", Verdict::Refused("a network file system, where a flush promises nothing")),
    (0x0102_1997, "9p", Verdict::Refused("which is shared with a host and has no direct I/O of its own")),
    (0xF15F, "ecryptfs", Verdict::Refused("which has no direct I/O")),
];

pub fn check_file_system(path: &Path, buffered_allowed: bool) -> Result<FileSystem, DataDirError> {
    let magic =
        file_system_magic(path).map_err(|error| DataDirError::Create { path: path.to_path_buf(), error })?;
    let (name, verdict) = judge(magic);
    let problem = match verdict {
        Verdict::Refused(problem) => Some(problem),
        Verdict::Fine | Verdict::Remark(_) => match try_direct_io(path) {
            Ok(true) => None,
            Ok(false) => Some("without direct I/O (O_DIRECT)"),
            Err(error) => return Err(DataDirError::Write { path: path.to_path_buf(), error }),
        },
    };
    if let Some(problem) = problem {
        if !buffered_allowed {
            return Err(DataDirError::FileSystem { path: path.to_path_buf(), name, problem });
        }
        tracing::warn!(path = %path.display(), file_system = %name, "unsafe-buffered-io: acknowledged records can be lost");
        return Ok(FileSystem { name, direct_io: false, alignment: IO_ALIGNMENT });
    }
    if let Verdict::Remark(remark) = verdict {
        tracing::warn!(path = %path.display(), file_system = %name, "{remark}");
    }
    let alignment = direct_io_alignment(&path.join(LOCK_FILE)).unwrap_or(0).max(IO_ALIGNMENT);
    if alignment > IO_ALIGNMENT {
        return Err(DataDirError::Alignment { path: path.to_path_buf(), alignment });
    }
    Ok(FileSystem { name, direct_io: true, alignment })
}

/// Its name, as [`FileSystem::name`] has it.
pub fn file_system_name(path: &Path) -> io::Result<String> {
    Ok(judge(file_system_magic(path)?).0)
}

fn judge(magic: u32) -> (String, Verdict) {
    match FILE_SYSTEMS.iter().find(|(known, _, _)| *known == magic) {
        Some((_, name, verdict)) => (name.to_string(), *verdict),
        None => {
            (format!("a file system of type {magic:#x}"), Verdict::Remark("it is unknown to this broker"))
        }
    }
}

fn c_path(path: &Path) -> io::Result<std::ffi::CString> {
    std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn file_system_magic(path: &Path) -> io::Result<u32> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and `stat` is writable.
    if unsafe { libc::statfs(path.as_ptr(), &mut stat) } != 0 {
        return Err(last_error());
    }
    Ok(stat.f_type as u32) // Sign-extended on some targets; the magic numbers have 32 bits.
}

/// Writes, flushes and reads back one aligned block; false if O_DIRECT is refused anywhere.
fn try_direct_io(directory: &Path) -> io::Result<bool> {
    #[repr(C, align(4096))]
    struct Block([u8; IO_ALIGNMENT]);
    const { assert!(align_of::<Block>() == IO_ALIGNMENT) };
    let path = directory.join(".odradek-probe");
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let result = opened.and_then(|file| {
        let mut block = Box::new(Block([0x5A; IO_ALIGNMENT]));
        file.write_all_at(&block.0, 0)?;
        file.sync_data()?;
        block.0.fill(0);
        file.read_exact_at(&mut block.0, 0)?;
        Ok(block.0.iter().all(|&byte| byte == 0x5A))
    });
    // The open may have failed after the file was made.
    let _ = std::fs::remove_file(&path);
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(false),
        result => result,
    }
}

/// Bytes that offsets and buffers must be multiples of; `None` where the kernel does not say.
fn direct_io_alignment(file: &Path) -> Option<usize> {
    let path = c_path(file).ok()?;
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and `stat` is writable.
    let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, libc::STATX_DIOALIGN, &mut stat) };
    let reported = result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0 && stat.stx_dio_offset_align != 0;
    reported.then(|| stat.stx_dio_mem_align.max(stat.stx_dio_offset_align) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_broker_is_refused_and_told_the_firsts_process() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("deep/data");
        let lock = take(&path).expect("free");
        // A lock belongs to an open file, so the same process can try as another would.
        match take(&path) {
            Err(DataDirError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        assert!(matches!(hold_for_reading(&path), Err(DataDirError::Locked { .. })));
        drop(lock);
        let held = hold_for_reading(&path).expect("free again");
        hold_for_reading(&path).expect("readers do not mind each other");
        assert!(matches!(take(&path), Err(DataDirError::Locked { .. })), "a broker waits for the reader");
        drop(held);
        take(&path).expect("free again");
        let empty = hold_for_reading(directory.path());
        assert!(matches!(empty, Err(DataDirError::NoBroker { .. })), "nothing is created");
    }

    #[test]
    fn memory_file_systems_are_refused_by_name_unless_asked_for() {
        let shm = Path::new("/dev/shm");
        if file_system_magic(shm).ok() != Some(0x0102_1994) {
            panic!("/dev/shm is not a tmpfs here; the test needs one");
        }
        let directory = tempfile::tempdir_in(shm).expect("a temporary directory");
        take(directory.path()).expect("free");
        let error = check_file_system(directory.path(), false).expect_err("tmpfs").to_string();
        assert!(error.contains("is on tmpfs, which is memory and"), "{error}");
        assert!(error.contains("--unsafe-buffered-io"), "{error}");
        let allowed = check_file_system(directory.path(), true).expect("allowed");
        assert_eq!((allowed.name.as_str(), allowed.direct_io), ("tmpfs", false));
    }

    #[test]
    fn every_refusal_completes_its_sentence() {
        for (magic, name, verdict) in FILE_SYSTEMS {
            assert_eq!(judge(*magic), (name.to_string(), *verdict));
        }
        assert_eq!(judge(0x1234).0, "a file system of type 0x1234");
    }

    #[test]
    fn a_directory_that_cannot_be_made_says_so() {
        let error = take(Path::new("/proc/odradek")).expect_err("proc is read only");
        assert!(matches!(error, DataDirError::Create { .. }), "{error}");
    }
}
