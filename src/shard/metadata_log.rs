//! The file of the metadata quorum's log: small, append-only, flushed before anything is said of it.
//!
//! It is read as a whole at start and written through the helper thread, since a change of the
//! metadata is rare and never on the data path. What its frames mean is
//! [`quorum::frame`](crate::cluster::quorum::frame)'s to say; who writes them when is the
//! [quorum's shell](crate::shard::quorum).
//!
//! Space is found before it is needed. Whoever proposes a change makes room for it, so that a full disk refuses
//! the change and nothing else. Blocks behind the end are kept beyond that: topics can be deleted on a full disk.
//! Some of them even that leaves to starts, which write before anything is served: one that preflight has let
//! through, because a little was free, does not fail here.

use crate::cluster::encoding::DecodeError;
use crate::cluster::image::Inapplicable;
use crate::cluster::log_entry::{EncodeError, Verdict};
use crate::cluster::quorum::event::Written;
use crate::cluster::quorum::frame::{FrameWriter, Recovered, scan};
use crate::cluster::quorum::members::PeerId;
use crate::metrics::recovery::{RecoveryBranch, RecoveryCounts};
use crate::shard::disk::{free_space, replace_file, sync_directory, unless_full};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Bytes behind the end that are kept.
const RESERVE: u64 = 256 << 10;

/// Those that only starts use.
const RESERVE_OF_STARTS: u64 = 64 << 10;

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It frees space: it may use what is kept.
    Frees,
    Other,
}

/// Why the metadata cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetadataLogError {
    #[error("{path}: {source}")]
    Disk { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {reason}; restore it from a backup, or start with an empty data directory")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} does not apply: {source}")]
    Inapplicable { path: PathBuf, source: Inapplicable },
    #[error("{path}: entry {index} is committed and cannot be read: {error}")]
    Unreadable { path: PathBuf, index: u64, error: DecodeError },
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Nothing was written; the log is as it was.
    #[error("no space for a change of the metadata: {path}: {source}")]
    Full { path: PathBuf, source: io::Error },
}

/// What a start finds.
#[derive(Debug)]
pub struct Found {
    pub log: MetadataLog,
    pub recovered: Recovered,
    pub recovery: RecoveryCounts,
}

/// Lives: with the quorum's shell. Its calls block: they run on the main thread at start, then on the helper.
#[derive(Debug)]
pub struct MetadataLog {
    path: PathBuf,
    file: std::fs::File,
    /// Bytes; where the next frame goes.
    end: u64,
    writer: FrameWriter,
}

#[expect(clippy::disallowed_methods, reason = "runs on the main thread at start, then on the helper thread")]
impl MetadataLog {
    /// Opens the log and reads it. `me`: the node that a log without members is the log of.
    pub fn open(data_dir: &Path, me: PeerId) -> Result<Found, MetadataLogError> {
        let directory = data_dir.join("metadata");
        let path = directory.join("00000000000000000000.log");
        let failed = |source| MetadataLogError::Disk { path: path.clone(), source };
        std::fs::create_dir_all(&directory).map_err(failed)?;
        sync_directory(data_dir).map_err(failed)?;
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let found = scan(&bytes, me);
        let mut recovery = RecoveryCounts::default();
        match &found.verdict {
            Verdict::Clean => {}
            Verdict::TornTail { damage } => {
                tracing::warn!(path = %path.display(), %damage, "a torn metadata entry was cut; it was never answered");
                recovery.count(RecoveryBranch::MetadataEntryTorn);
            }
            Verdict::Corrupt { damage } => {
                return Err(MetadataLogError::Damaged { path, reason: damage.to_string() });
            }
            Verdict::Unreadable { sequence, error } => {
                let reason = format!("entry {}: {error}", sequence.0);
                return Err(MetadataLogError::Damaged { path, reason });
            }
        }
        let file = open_to_append(&path).map_err(failed)?;
        let end = found.valid_end as u64;
        // Of the same size it would only give up the blocks behind the end.
        if end != bytes.len() as u64 {
            file.set_len(end).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        sync_directory(&directory).map_err(failed)?;
        let writer = FrameWriter::new(found.recovered.next);
        let log = MetadataLog { path, file, end, writer };
        Ok(Found { log, recovered: found.recovered, recovery })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.end
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the space for frames of this many bytes, or says that it is not there.
    pub fn make_room(&self, size: u64, purpose: Purpose) -> Result<(), MetadataLogError> {
        let failed = |source| MetadataLogError::Disk { path: self.path.clone(), source };
        let kept = match purpose {
            Purpose::Frees => RESERVE_OF_STARTS,
            Purpose::Other => RESERVE,
        };
        match unless_full(reserve(&self.file, self.end, size + kept)).map_err(failed)? {
            Some(source) => Err(MetadataLogError::Full { path: self.path.clone(), source }),
            None => Ok(()),
        }
    }

    /// Whether one of the same size could be written beside it; where nobody says, there is none.
    pub fn has_room_for_another(&self) -> bool {
        matches!(free_space(&self.file), Ok(Some(free)) if free > 2 * self.end + RESERVE)
    }

    /// Writes and flushes. After an error what is on disk is not known, and the log is not to be used again.
    pub fn write(&mut self, written: &Written) -> Result<(), MetadataLogError> {
        let failed = |source| MetadataLogError::Disk { path: self.path.clone(), source };
        match written {
            Written::Append(write) => {
                let bytes = self.writer.append(write)?;
                self.file.write_all(&bytes).map_err(failed)?;
                self.file.sync_data().map_err(failed)?;
                self.end += bytes.len() as u64;
            }
            Written::Replace { snapshot, write } => {
                let bytes = self.writer.replace(snapshot, write)?;
                replace_file(&self.path, &bytes).map_err(failed)?;
                self.file = open_to_append(&self.path).map_err(failed)?;
                self.end = bytes.len() as u64;
            }
        }
        // Whoever proposes something learns whether there is space for it.
        let _ = reserve(&self.file, self.end, RESERVE);
        Ok(())
    }
}

fn open_to_append(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().create(true).append(true).open(path)
}

/// Reserves blocks behind the end without changing the file's size. Of a file system that cannot reserve, what is
/// free counts.
fn reserve(file: &std::fs::File, from: u64, size: u64) -> io::Result<()> {
    let (start, length) = (from as libc::off_t, size as libc::off_t);
    loop {
        // SAFETY: fallocate takes any open descriptor and no pointers; `file` is borrowed.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, start, length) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::Unsupported => {
                let is_short = free_space(file)?.is_some_and(|free| free < size);
                return if is_short { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) };
            }
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::quorum::frame::{HardState, Snapshot, Write};
    use crate::cluster::quorum::members::Members;
    use crate::cluster::record::Record;
    use crate::types::{NodeId, Uuid};

    fn me() -> PeerId {
        PeerId::new(NodeId(1), 7)
    }

    fn founding() -> Written {
        let records = [Record::ClusterCreated { cluster_id: Uuid::from_u128(9) }];
        let snapshot = Snapshot::founding(Members::voters([me()]), &records);
        let write = Write { hard_state: Snapshot::founding_state(), entries: Vec::new() };
        Written::Replace { snapshot, write }
    }

    fn term(term: u64) -> Written {
        let hard_state = HardState { term, vote: Some(me()), commit: 1 };
        Written::Append(Write { hard_state, entries: Vec::new() })
    }

    #[test]
    fn what_was_written_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let Found { mut log, recovered, .. } = MetadataLog::open(directory.path(), me()).unwrap();
        assert_eq!(recovered, Recovered::nothing());
        log.write(&founding()).unwrap();
        let founded = log.size();
        log.write(&term(2)).unwrap();
        log.write(&term(3)).unwrap();
        assert_eq!(log.size(), founded + 2 * 4096);
        let found = MetadataLog::open(directory.path(), me()).unwrap();
        assert_eq!(found.log.size(), log.size());
        assert_eq!(found.recovered.hard_state, HardState { term: 3, vote: Some(me()), commit: 1 });
        assert_eq!(found.recovered.base.members, Members::voters([me()]));
        assert!(found.recovery == RecoveryCounts::default());
    }

    /// A really full disk is filled in `tests/process/full_disk.rs`.
    #[test]
    fn only_want_of_space_leaves_the_log_usable() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = MetadataLog::open(directory.path(), me()).unwrap().log;
        log.write(&founding()).unwrap();
        log.make_room(4096, Purpose::Other).unwrap();
        let wanted = log.make_room(1 << 60, Purpose::Frees).unwrap_err();
        assert!(matches!(wanted, MetadataLogError::Full { .. } | MetadataLogError::Disk { .. }), "{wanted}");
        // A descriptor that cannot be written stands for a disk that fails.
        #[expect(clippy::disallowed_methods, reason = "a test opens a file")]
        let read_only = std::fs::File::open(&log.path).unwrap();
        log.file = read_only;
        let failed = log.write(&term(2)).unwrap_err();
        assert!(matches!(failed, MetadataLogError::Disk { .. }), "{failed}");
    }

    /// What a full disk has left for a start is not given up by opening the log.
    #[test]
    fn opening_keeps_the_blocks_behind_the_end() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let mut log = MetadataLog::open(directory.path(), me()).unwrap().log;
        log.write(&founding()).unwrap();
        let blocks = |log: &MetadataLog| log.file.metadata().unwrap().blocks() * 512;
        let kept = blocks(&log);
        let log = MetadataLog::open(directory.path(), me()).unwrap().log;
        assert_eq!(blocks(&log), kept);
    }
}
