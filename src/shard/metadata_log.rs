//! The metadata log's file, on shard 0: small, append-only, flushed before anything is answered.
//!
//! It is read as a whole at start and written through the helper thread, since a change of the
//! metadata is rare and never on the data path. Once it has grown it is replaced by a snapshot of
//! the image. The Raft quorum will take its place.

use crate::cluster::image::{Image, Inapplicable};
use crate::cluster::log_entry::{EncodeError, EntrySequence, Verdict, encode_entry, encode_snapshot, scan};
use crate::cluster::record::Record;
use crate::shard::disk::{replace_file, sync_directory};
use crate::types::TopicId;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes from which a start replaces the log by a snapshot.
const SNAPSHOT_SIZE_MIN: u64 = 16 << 20;

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
    #[error("the metadata log has failed before; restart the broker once its disk is well")]
    Unusable,
}

/// What a start finds.
#[derive(Debug)]
pub struct Replayed {
    pub log: MetadataLog,
    pub image: Image,
    /// Topics that the log says were deleted; forgotten once a snapshot has replaced it.
    pub deleted: BTreeSet<TopicId>,
}

/// Lives: on shard 0. Its calls block: they run on the main thread at start, then on the helper.
#[derive(Debug)]
pub struct MetadataLog {
    path: PathBuf,
    file: std::fs::File,
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
        match &found.verdict {
            Verdict::Clean => {}
            Verdict::TornTail { damage } => {
                tracing::warn!(path = %path.display(), %damage, "a torn metadata entry was cut; it was never answered");
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
        Ok(Replayed { log: MetadataLog { path, file, next }, image, deleted })
    }

    /// Writes one change and flushes it. After an error the log is not to be used again.
    pub fn append(&mut self, records: &[Record]) -> Result<(), MetadataLogError> {
        let bytes = encode_entry(self.next, records)?;
        self.file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| MetadataLogError::Disk { path: self.path.clone(), source })?;
        self.next = self.next.next();
        Ok(())
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
