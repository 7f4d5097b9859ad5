//! How many segment files a shard keeps open: past its limit the one that was not used for longest is
//! closed, and opened again when it is needed.
//!
//! "For longest" is taken roughly, as clocks of page caches do: a file that was used since it was last
//! looked at gets another round. One with I/O in flight stays; if all have some, opening waits for
//! them, though not for ever: a task that holds one file may want another.

use crate::shard::disk::{Disk, DiskFile};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Between two looks for a file whose I/O is over, and how often to look.
const BUSY_RETRY: Duration = Duration::from_millis(1);
const BUSY_RETRIES_MAX: usize = 100;

/// A file that may be closed when it is not in use.
#[derive(Debug)]
pub struct PooledFile {
    path: RefCell<PathBuf>,
    file: RefCell<Option<Rc<DiskFile>>>,
    used: Cell<bool>,
}

impl PooledFile {
    /// The file, if it is open. It stays open as long as the caller has it.
    pub fn if_open(&self) -> Option<Rc<DiskFile>> {
        let file = self.file.borrow().clone();
        self.used.set(self.used.get() || file.is_some());
        file
    }

    pub fn path(&self) -> PathBuf {
        self.path.borrow().clone()
    }

    /// It has another name from now on.
    pub fn renamed(&self, path: PathBuf) {
        *self.path.borrow_mut() = path;
    }

    /// Closes it unless somebody uses it. `false` when it stays.
    fn close(&self) -> bool {
        let mut file = self.file.borrow_mut();
        if file.as_ref().is_some_and(|file| Rc::strong_count(file) > 1) {
            return false;
        }
        *file = None;
        true
    }
}

/// Lives: one per shard.
#[derive(Debug)]
pub struct OpenFiles {
    count_max: usize,
    /// Files that were opened, in the order in which they are looked at.
    round: RefCell<VecDeque<Weak<PooledFile>>>,
    /// Files that are being opened.
    opening: Cell<usize>,
}

/// Room for a file that is being opened.
struct Opening<'a>(&'a OpenFiles);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get() - 1);
    }
}

impl OpenFiles {
    pub fn new(count_max: usize) -> OpenFiles {
        assert!(count_max > 0);
        OpenFiles { count_max, round: RefCell::default(), opening: Cell::new(0) }
    }

    /// Creates the file, or opens it as it is.
    pub async fn create(&self, disk: &Disk, path: &Path) -> io::Result<Rc<PooledFile>> {
        let _opening = self.make_room().await;
        let file = disk.create(path).await?;
        let pooled = PooledFile {
            path: RefCell::new(path.to_owned()),
            file: RefCell::default(),
            used: Cell::new(false),
        };
        let pooled = Rc::new(pooled);
        self.opened(&pooled, file);
        Ok(pooled)
    }

    /// The file, opened if need be. The caller keeps its name still.
    pub async fn get(&self, disk: &Disk, pooled: &Rc<PooledFile>) -> io::Result<Rc<DiskFile>> {
        if let Some(file) = pooled.if_open() {
            return Ok(file);
        }
        let _opening = self.make_room().await;
        let file = disk.open(&pooled.path()).await?;
        if let Some(other) = pooled.if_open() {
            return Ok(other); // Somebody else was quicker.
        }
        self.opened(pooled, file.clone());
        Ok(file)
    }

    /// Takes in a file that is open already.
    pub async fn adopt(&self, file: Rc<DiskFile>) -> Rc<PooledFile> {
        let _opening = self.make_room().await;
        let path = RefCell::new(file.path().to_owned());
        let pooled = Rc::new(PooledFile { path, file: RefCell::default(), used: Cell::new(false) });
        self.opened(&pooled, file);
        pooled
    }

    fn opened(&self, pooled: &Rc<PooledFile>, file: Rc<DiskFile>) {
        *pooled.file.borrow_mut() = Some(file);
        pooled.used.set(true);
        self.round.borrow_mut().push_back(Rc::downgrade(pooled));
    }

    async fn make_room(&self) -> Opening<'_> {
        for _ in 0..BUSY_RETRIES_MAX {
            if self.close_unused() {
                break;
            }
            glommio::timer::sleep(BUSY_RETRY).await;
        }
        self.opening.set(self.opening.get() + 1);
        Opening(self)
    }

    /// Whether there is room for one more. Amortised O(1): each use is looked at once.
    fn close_unused(&self) -> bool {
        let mut round = self.round.borrow_mut();
        let count_max = self.count_max.saturating_sub(self.opening.get());
        for _ in 0..2 * round.len() {
            if round.len() < count_max {
                return true;
            }
            let Some(next) = round.pop_front() else { return true };
            let Some(pooled) = next.upgrade() else { continue };
            if pooled.used.replace(false) || !pooled.close() {
                round.push_back(next);
            }
        }
        round.len() < count_max
    }

    /// Files that are open, or whose partition is gone and were not looked at since.
    pub fn count(&self) -> usize {
        self.round.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::plan::SyncFs;

    #[test]
    fn what_was_not_used_for_longest_is_closed_and_opened_again() {
        let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is available");
        executor.run(async {
            let directory = tempfile::tempdir().unwrap();
            let disk = Disk::new(SyncFs::Metadata, None);
            let files = OpenFiles::new(4);
            let mut pooled = Vec::new();
            for at in 0..20 {
                pooled.push(files.create(&disk, &directory.path().join(format!("{at}"))).await.unwrap());
                assert!(files.count() <= 4);
            }
            let open = |pooled: &[Rc<PooledFile>]| -> Vec<usize> {
                (0..pooled.len()).filter(|at| pooled[*at].file.borrow().is_some()).collect()
            };
            assert_eq!(open(&pooled), [16, 17, 18, 19]);
            let held = files.get(&disk, &pooled[3]).await.unwrap();
            for at in 0..20 {
                files.get(&disk, &pooled[at]).await.unwrap();
                assert!(open(&pooled).contains(&3), "it is in use");
                assert!(open(&pooled).len() <= 4);
            }
            drop(held);
            pooled[5].renamed(directory.path().join("0"));
            assert_eq!(files.get(&disk, &pooled[5]).await.unwrap().path(), directory.path().join("0"));
            pooled.clear();
            files.close_unused();
        });
    }
}
