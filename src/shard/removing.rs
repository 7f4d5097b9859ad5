//! What was given up goes from the disk slice by slice.
//!
//! ```text
//! 1 GiB ─ 16 MiB cut off ─ pause ─ 16 MiB cut off ─ pause ─ … ─ the rest, and the name
//! ```
//!
//! A file system takes back all blocks of a removed file in one transaction and, mounted with `discard`, tells the
//! device of them before that has ended: a flush that comes meanwhile waits for it. On ext4 a flush beside the removal of
//! segments of 1 GiB takes up to 56 to 64 ms; in slices of 64 MiB 15 ms, of 16 MiB 6 ms.
//!
//! Who has a file open, or under another name, goes on reading what there was: such a file is not cut.
//!
//! Absent: what goes at once under its own name: segments of a follower that starts over, what compaction discards, and
//! everything that a start removes.

use crate::shard::disk::remove_if_present;
use crate::shard::side_thread::SideThread;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes that a file system takes back at once.
const SLICE: u64 = 16 << 20;

/// After so many.
const PAUSE: Duration = Duration::from_millis(5);

/// `fcntl(2)`: which signal tells that somebody opens what there is a lease on.
const F_SETSIG: libc::c_int = 10;

/// What was given up under its last name and still holds disk space.
#[derive(Debug)]
pub enum Removal {
    /// The files of a segment.
    Files(Vec<PathBuf>),
    /// The directory of a partition.
    Directory(PathBuf),
}

/// What a step has taken from the disk, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// The end of a file.
    Slice(u64),
    /// All that there was of it.
    Whole(u64),
}

/// Lives: while removals that are due are carried out, one after the other.
pub struct Remover<'a> {
    side_thread: &'a SideThread,
    /// Since the last pause.
    taken: Cell<u64>,
}

impl Remover<'_> {
    pub fn new(side_thread: &SideThread) -> Remover<'_> {
        Remover { side_thread, taken: Cell::new(0) }
    }

    /// Other work of the side thread's comes in between. What is gone already is none of its business.
    pub async fn remove(&self, removal: Removal) -> io::Result<()> {
        let (files, directory) = match removal {
            Removal::Files(files) => (files, None),
            Removal::Directory(directory) => {
                let listed = directory.clone();
                (self.side_thread.run(move || files_in(&listed)).await?, Some(directory))
            }
        };
        for file in files {
            self.remove_file(file).await?;
        }
        match directory {
            Some(directory) => self.side_thread.run(move || remove_directory(&directory)).await,
            None => Ok(()),
        }
    }

    async fn remove_file(&self, file: PathBuf) -> io::Result<()> {
        loop {
            let path = file.clone();
            let taken = self.side_thread.run(move || take_some(&path)).await?;
            let (Taken::Slice(bytes) | Taken::Whole(bytes)) = taken;
            self.taken.set(self.taken.get() + bytes);
            if self.taken.get() >= SLICE {
                self.taken.set(0);
                glommio::timer::sleep(PAUSE).await;
            }
            if matches!(taken, Taken::Whole(_)) {
                return Ok(());
            }
        }
    }
}

/// The last slice of a file, or all of it.
fn take_some(path: &Path) -> io::Result<Taken> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Taken::Whole(0)),
        Err(error) => return Err(error),
    };
    let held = metadata.len();
    // Somebody else may have it under another name: what is cut is gone there too.
    if held > SLICE
        && metadata.nlink() == 1
        && let Ok(file) = File::options().write(true).open(path)
    {
        let rest = (held - 1) / SLICE * SLICE;
        if is_open_nowhere_else(&file) && file.set_len(rest).is_ok() {
            return Ok(Taken::Slice(held - rest));
        }
    }
    remove_if_present(path).map(|()| Taken::Whole(held))
}

/// The kernel gives a lease to write to such files only (`fcntl(2)`), and that is all it is for. Under its last name
/// nobody opens the file any more.
fn is_open_nowhere_else(file: &File) -> bool {
    let control = |command, argument: libc::c_int| {
        // SAFETY: these commands take integers and no pointers; the descriptor is open.
        unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
    };
    // Another process may look at it just then. The signal that would tell of that by default ends the process; nothing
    // here hears of this one.
    control(F_SETSIG, libc::SIGWINCH)
        && control(libc::F_SETLEASE, libc::F_WRLCK)
        && control(libc::F_SETLEASE, libc::F_UNLCK)
}

fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::clock::Clock;
    use crate::shard::tests::on_executor;
    use std::os::unix::fs::FileExt;
    use std::rc::Rc;

    #[test]
    fn a_large_file_goes_slice_by_slice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("00000000000000000000.log.deleted");
        let file = File::create_new(&path).unwrap();
        file.set_len(2 * SLICE + 5).unwrap();
        drop(file);
        assert_eq!(take_some(&path).unwrap(), Taken::Slice(5));
        assert_eq!(take_some(&path).unwrap(), Taken::Slice(SLICE));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SLICE);
        assert_eq!(take_some(&path).unwrap(), Taken::Whole(SLICE));
        assert!(!path.exists());
        assert_eq!(take_some(&path).unwrap(), Taken::Whole(0), "it is gone already");
    }

    #[test]
    fn what_has_another_name_is_left_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let (path, copy) = (directory.path().join("1.log.deleted"), directory.path().join("copy"));
        File::create_new(&path).unwrap().set_len(3 * SLICE).unwrap();
        std::fs::hard_link(&path, &copy).unwrap();
        assert_eq!(take_some(&path).unwrap(), Taken::Whole(3 * SLICE));
        assert!(!path.exists());
        assert_eq!(std::fs::metadata(&copy).unwrap().len(), 3 * SLICE);
    }

    #[test]
    fn a_directory_goes_with_all_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t-0.x-delete");
        std::fs::create_dir(&path).unwrap();
        for (name, size) in [("0.log", 2 * SLICE + 7), ("0.index", 12), ("partition.metadata", 0)] {
            File::create_new(path.join(name)).unwrap().set_len(size).unwrap();
        }
        on_executor(async {
            let side_thread = SideThread::start(&Clock::new(), &Rc::default());
            Remover::new(&side_thread).remove(Removal::Directory(path.clone())).await.unwrap();
        });
        assert!(!path.exists());
    }

    #[test]
    fn who_reads_a_file_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("00000000000000000000.log.deleted");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(3 * SLICE).unwrap();
        file.write_all_at(&[7; 4096], 3 * SLICE - 4096).unwrap();
        assert!(!is_open_nowhere_else(&File::options().write(true).open(&path).unwrap()));
        assert_eq!(take_some(&path).unwrap(), Taken::Whole(3 * SLICE));
        assert!(!path.exists());
        let mut read = [0; 4096];
        file.read_exact_at(&mut read, 3 * SLICE - 4096).unwrap();
        assert_eq!(read, [7; 4096]);
    }
}
