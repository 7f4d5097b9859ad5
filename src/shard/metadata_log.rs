//! The metadata log's file, on shard 0: small, append-only, flushed before anything is answered.
//!
//! It is read as a whole at start and written through the helper thread, since a change of the
//! metadata is rare and never on the data path. Once it has grown it is replaced by a snapshot of
//! the image. The Raft quorum will take its place.

use crate::cluster::image::{Image, Inapplicable};
use crate::cluster::log_entry::{EncodeError, EntrySequence, Verdict, encode_entry, encode_snapshot, scan};
use crate::cluster::record::Record;
use crate::metrics::recovery::{RecoveryBranch, RecoveryCounts};
use crate::shard::disk::{replace_file, sync_directory, unless_full};
use crate::types::TopicId;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Bytes from which a start replaces the log by a snapshot.
const SNAPSHOT_SIZE_MIN: u64 = 16 << 20;

/// Records of one entry where a change may be split: the bytes of this many always fit, as in a
/// snapshot.
const RECORDS_PER_PART_MAX: usize = 10_000;

/// Why the metadata cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetadataLogError {
    #[error("{path}: {source}")]
    Disk { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {reason}; restore it from a backup, or start with an empty data directory")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} does not apply: {source}")]
    Inapplicable { path: PathBuf, source: Inapplicable },
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Nothing was written; the log is as it was.
    #[error("no space for a change of the metadata: {path}: {source}")]
    Full { path: PathBuf, source: io::Error },
    #[error("the metadata log has failed before; restart the broker once its disk is well")]
    Unusable,
}

impl MetadataLogError {
    /// Whether the log is to be used no more: what it holds on disk is not known.
    pub fn is_final(&self) -> bool {
        match self {
            MetadataLogError::Full { .. } | MetadataLogError::Encode(_) => false,
            MetadataLogError::Disk { .. }
            | MetadataLogError::Damaged { .. }
            | MetadataLogError::Inapplicable { .. }
            | MetadataLogError::Unusable => true,
        }
    }
}

/// What a start finds.
#[derive(Debug)]
pub struct Replayed {
    pub log: MetadataLog,
    pub image: Image,
    /// Topics that the log says were deleted; forgotten once a snapshot has replaced it.
    pub deleted: BTreeSet<TopicId>,
    pub recovery: RecoveryCounts,
}

/// Lives: on shard 0. Its calls block: they run on the main thread at start, then on the helper.
#[derive(Debug)]
pub struct MetadataLog {
    path: PathBuf,
    file: std::fs::File,
    /// Bytes; where the next entry goes.
    end: u64,
    next: EntrySequence,
}

#[expect(clippy::disallowed_methods, reason = "runs on the main thread at start, then on the helper thread")]
impl MetadataLog {
    /// Opens the log and replays it.
    pub fn open(data_dir: &Path) -> Result<Replayed, MetadataLogError> {
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
        let found = scan(&bytes);
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
        let mut image = Image::default();
        let mut deleted = BTreeSet::new();
        for record in found.entries.iter().flat_map(|entry| &entry.records) {
            image
                .apply(record)
                .map_err(|source| MetadataLogError::Inapplicable { path: path.clone(), source })?;
            if let Record::TopicDeleted { topic } = record {
                deleted.insert(*topic);
            }
        }
        let mut next = found.entries.last().map_or(EntrySequence::FIRST, |entry| entry.sequence.next());
        if bytes.len() as u64 > SNAPSHOT_SIZE_MIN {
            next = replace_by_snapshot(&path, &image, next)?;
        }
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        if bytes.len() as u64 <= SNAPSHOT_SIZE_MIN {
            file.set_len(found.valid_end as u64).map_err(failed)?;
        }
        file.flush().and_then(|()| file.sync_all()).map_err(failed)?;
        sync_directory(&directory).map_err(failed)?;
        let end = file.metadata().map_err(failed)?.len();
        Ok(Replayed { log: MetadataLog { path, file, end, next }, image, deleted, recovery })
    }

    /// Writes one change and flushes it. After an error that
    /// [`is_final`](MetadataLogError::is_final) the log is not to be used again; after another it is
    /// as it was before.
    pub fn append(&mut self, records: &[Record]) -> Result<(), MetadataLogError> {
        let bytes = encode_entry(self.next, records)?;
        let failed = |source| MetadataLogError::Disk { path: self.path.clone(), source };
        let full = |source| MetadataLogError::Full { path: self.path.clone(), source };
        let size = bytes.len() as u64;
        if let Some(source) = unless_full(reserve(&self.file, self.end, size)).map_err(failed)? {
            return Err(full(source));
        }
        if let Some(source) = unless_full(self.file.write_all(&bytes)).map_err(failed)? {
            // Only where space cannot be reserved. What was written in part is in no flush yet.
            self.file.set_len(self.end).map_err(failed)?;
            return Err(full(source));
        }
        self.file.sync_data().map_err(failed)?;
        self.end += size;
        self.next = self.next.next();
        Ok(())
    }

    /// Writes records of which each makes sense without those after it, in as many entries as it
    /// takes. A crash in between leaves the first of them.
    pub fn append_in_parts(&mut self, records: &[Record]) -> Result<(), MetadataLogError> {
        records.chunks(RECORDS_PER_PART_MAX).try_for_each(|part| self.append(part))
    }
}

/// Reserves the blocks of the next entry without changing the file's size, so that a full disk is
/// found before anything is written. A file system that cannot reserve says so, and is tried.
fn reserve(file: &std::fs::File, from: u64, size: u64) -> io::Result<()> {
    let (from, size) = (from as libc::off_t, size as libc::off_t);
    loop {
        // SAFETY: fallocate takes any open descriptor and no pointers; `file` is borrowed.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, from, size) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::Unsupported => return Ok(()),
            _ => return Err(error),
        }
    }
}

fn replace_by_snapshot(
    path: &Path,
    image: &Image,
    next: EntrySequence,
) -> Result<EntrySequence, MetadataLogError> {
    let (bytes, next) = encode_snapshot(next, &image.snapshot())?;
    replace_file(path, &bytes).map_err(|source| MetadataLogError::Disk { path: path.to_owned(), source })?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node};
    use crate::cluster::registration::register;
    use crate::config::Routing;
    use crate::types::Uuid;
    use std::collections::BTreeMap;

    /// A really full disk is filled in `tests/process/full_disk.rs`.
    #[test]
    fn only_want_of_space_leaves_the_log_usable() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = MetadataLog::open(directory.path()).unwrap().log;
        let records = image_of(&[node(1, 2, Routing::Node)]).snapshot();
        // A descriptor that cannot be written stands for a disk that fails.
        #[expect(clippy::disallowed_methods, reason = "a test opens a file")]
        let read_only = std::fs::File::open(&log.path).unwrap();
        log.file = read_only;
        let failed = log.append(&records).unwrap_err();
        assert!(matches!(failed, MetadataLogError::Disk { .. }) && failed.is_final(), "{failed}");
        assert_eq!((log.next, log.end), (EntrySequence::FIRST, 0));
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(!MetadataLogError::Full { path: log.path.clone(), source }.is_final());
    }

    #[test]
    fn more_partitions_than_an_entry_holds_are_moved_to_other_cores() {
        let directory = tempfile::tempdir().unwrap();
        let mut image = image_of(&[node(1, 4, Routing::Node)]);
        let owners = vec![3; RECORDS_PER_PART_MAX / 2 + 500];
        for topic in 1..=2 {
            add_topic(&mut image, topic, &format!("topic-{topic}"), &owners);
        }
        let mut log = MetadataLog::open(directory.path()).unwrap().log;
        log.append_in_parts(&image.snapshot()).unwrap();
        let fewer = node(1, 1, Routing::Node);
        let records = register(&image, &fewer, &BTreeMap::new(), Uuid::from_u128(1)).unwrap();
        assert!(records.len() > 2 * owners.len());
        // The first part alone, as a crash would leave it: the next start moves the rest.
        log.append(&records[..RECORDS_PER_PART_MAX]).unwrap();
        let Replayed { mut log, mut image, .. } = MetadataLog::open(directory.path()).unwrap();
        let rest = register(&image, &fewer, &BTreeMap::new(), Uuid::from_u128(1)).unwrap();
        assert!(rest.len() < records.len());
        log.append_in_parts(&rest).unwrap();
        image = MetadataLog::open(directory.path()).unwrap().image;
        assert!(image.partitions().all(|(_, state)| state.replicas[0].owner.0 == 0));
        assert_eq!(register(&image, &fewer, &BTreeMap::new(), Uuid::from_u128(1)), Ok(Vec::new()));
    }
}
