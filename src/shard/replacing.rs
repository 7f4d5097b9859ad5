//! Small files replaced many at a time: two flushes of the file system instead of two for each file.
//!
//! ```text
//! a.tmp b.tmp c.tmp ─► flush ─► a b c get their names ─► flush
//! ```
//!
//! Each file is whole and flushed, or as it was, whenever the power goes. Where a flush of the file
//! system is not known to be one, every file and directory gets its own.

use crate::log::plan::SyncFs;
use crate::shard::disk::{sync_directory, sync_file_system};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file and what it is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

impl Replacement {
    fn temporary(&self) -> PathBuf {
        let mut temporary = self.path.as_os_str().to_owned();
        temporary.push(".tmp");
        temporary.into()
    }

    /// Writes what it is to hold beside it, flushed only if `flush`. Blocks. Leaves nothing after an error.
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    pub fn stage(&self, flush: bool) -> io::Result<()> {
        let write = || {
            let mut temporary = File::create(self.temporary())?;
            temporary.write_all(&self.bytes)?;
            if flush { temporary.sync_all() } else { Ok(()) }
        };
        write().inspect_err(|_| self.unstage())
    }

    /// Gives what was [staged](Self::stage), and flushed since, its name. Blocks.
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    pub fn put(&self) -> io::Result<()> {
        std::fs::rename(self.temporary(), &self.path).inspect_err(|_| self.unstage())
    }

    /// On a full disk every block counts.
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    fn unstage(&self) {
        let _ = std::fs::remove_file(self.temporary());
    }
}

/// Replaces files of existing directories. Blocks. After an error each of them is whole, as it was or
/// as it was to be.
pub fn replace_files(files: &[Replacement], sync_fs: SyncFs) -> io::Result<()> {
    let Some(last) = files.last() else { return Ok(()) };
    let replaced = (|| {
        files.iter().try_for_each(|file| file.stage(sync_fs == SyncFs::Nothing))?;
        flush(&last.temporary(), sync_fs)?;
        files.iter().try_for_each(Replacement::put)?;
        let directories: BTreeSet<&Path> = files.iter().filter_map(|file| file.path.parent()).collect();
        sync_directories(&directories, sync_fs)
    })();
    if replaced.is_err() {
        files.iter().for_each(Replacement::unstage);
    }
    replaced
}

/// Makes the names in these directories survive a crash. Blocks.
pub fn sync_directories(directories: &BTreeSet<&Path>, sync_fs: SyncFs) -> io::Result<()> {
    match directories.first() {
        Some(directory) if directories.len() > 1 && sync_fs != SyncFs::Nothing => flush(directory, sync_fs),
        _ => directories.iter().try_for_each(|directory| sync_directory(directory)),
    }
}

/// One flush of the file system that `path` is on, where that is one.
fn flush(path: &Path, sync_fs: SyncFs) -> io::Result<()> {
    if sync_fs == SyncFs::Nothing {
        return Ok(());
    }
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    let file = File::open(path)?;
    sync_file_system(&file)?;
    if sync_fs == SyncFs::Metadata { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_together_or_stay_as_they_were() {
        for sync_fs in [SyncFs::Device, SyncFs::Metadata, SyncFs::Nothing] {
            let directory = tempfile::tempdir().unwrap();
            let path = |at: usize| directory.path().join(format!("d{}", at % 3)).join(format!("f{at}"));
            let files = |text: &str| -> Vec<Replacement> {
                let file = |at| Replacement { path: path(at), bytes: format!("{text} {at}").into_bytes() };
                (0..7).map(file).collect()
            };
            for at in 0..3 {
                std::fs::create_dir(directory.path().join(format!("d{at}"))).unwrap();
            }
            replace_files(&files("old"), sync_fs).unwrap();
            let mut newer = files("new");
            newer.push(Replacement { path: directory.path().join("none/f"), bytes: Vec::new() });
            assert!(replace_files(&newer, sync_fs).is_err());
            for (at, file) in files("old").iter().enumerate() {
                assert_eq!(read(&file.path), file.bytes, "{at} with {sync_fs:?}");
                assert!(!file.temporary().exists(), "what was begun is removed");
            }
            replace_files(&files("new"), sync_fs).unwrap();
            files("new").iter().for_each(|file| assert_eq!(read(&file.path), file.bytes));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test reads a file")]
    fn read(path: &Path) -> Vec<u8> {
        std::fs::read(path).unwrap()
    }
}
