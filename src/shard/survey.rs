//! What lies in partitions' directories, looked at many at a time: a start asks its helper thread once
//! for many partitions, not many times for each.

use crate::log::checkpoint::PartitionPoint;
use crate::log::ownership::{self, PARTITION_METADATA};
use crate::log::plan::SyncFs;
use crate::log::segment::{FileName, SegmentFile};
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::compaction::swap::complete_swaps;
use crate::shard::disk::sync_directory;
use crate::shard::open::OpenRequest;
use crate::shard::replacing::{Replacement, replace_files};
use crate::shard::segments::{EPOCHS_FILE, SPARE_SUFFIX};
use crate::types::{Offset, Timestamp, TopicId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a file that is read while its directory is looked at. A longer one is read when its turn
/// comes, so that a batch of partitions stays small.
const FILE_SIZE_MAX: u64 = 64 << 10;

/// The files of a partition's directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Size and modification time (ms since the epoch), by base offset.
    pub logs: BTreeMap<Offset, (u64, Timestamp)>,
    pub epochs: Option<String>,
    /// Producer snapshots that belong to no segment: of clean stops.
    pub snapshots: Vec<Offset>,
    /// Small files of the clean stop that the checkpoint confirms.
    pub clean: BTreeMap<SegmentFile, Vec<u8>>,
    /// What was put right before it was listed.
    pub recovery: Vec<RecoveryBranch>,
    /// The directory is new, and the file of its first segment was made with it.
    pub is_new: bool,
}

/// A directory to look into, and whose it is to be.
pub struct Wanted {
    pub directory: PathBuf,
    pub topic: TopicId,
    /// What the last clean stop says.
    pub clean: Option<PartitionPoint>,
    /// Base offset of the segment that a new directory begins with.
    pub first_segment: Offset,
}

impl Wanted {
    pub fn of(request: &OpenRequest) -> Wanted {
        Wanted {
            directory: request.directory.clone(),
            topic: request.id.topic,
            clean: request.clean_point().filter(|_| request.has_files_beside()),
            first_segment: request.first_segment(),
        }
    }
}

/// What was found in it.
pub enum Survey {
    /// It is this topic's.
    Owned(Listing),
    /// Nobody's: there is none, or its maker did not come to naming an owner.
    Free,
    /// Something else is in `partition.metadata`.
    Claimed,
}

/// Looks into each. Blocks.
pub fn survey(wanted: &[Wanted]) -> Vec<io::Result<Survey>> {
    let surveys = wanted.iter().map(|wanted| {
        let text = read_metadata_file(&wanted.directory)?;
        Ok(match text.map(|text| ownership::decode(&text)) {
            None => Survey::Free,
            Some(Ok(topic)) if topic == wanted.topic => {
                Survey::Owned(list(&wanted.directory, wanted.clean.as_ref())?)
            }
            Some(_) => Survey::Claimed,
        })
    });
    surveys.collect()
}

/// The text of a directory's `partition.metadata`; `None` when there is none.
pub fn read_metadata_file(directory: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(directory.join(PARTITION_METADATA)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        // What is no text is no name of a topic either.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(error) => Err(error),
    }
}

/// Makes directories of one parent, or takes those that are free, for their topics. Blocks. After an
/// error some of them may be taken.
///
/// A new one gets the empty file of its first segment, whose name is flushed with everybody else's: made
/// at the first write, it would cost each partition a flush of its own. A directory with an owner has a
/// segment from then on: a roll names the next one before the last may go.
pub fn take_directories(wanted: &[Wanted], sync_fs: SyncFs) -> io::Result<Vec<Listing>> {
    let mut listings = Vec::with_capacity(wanted.len());
    for Wanted { directory, clean, first_segment, .. } in wanted {
        let listing = match std::fs::create_dir(directory) {
            Ok(()) => Listing::default(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => list(directory, clean.as_ref())?,
            Err(error) => return Err(error),
        };
        let is_new = listing.logs.is_empty(); // Or its maker did not come to naming a segment.
        if is_new {
            std::fs::File::create_new(directory.join(SegmentFile::Log.name(*first_segment)))?;
            if sync_fs == SyncFs::Nothing {
                sync_directory(directory)?; // Before it has an owner.
            }
        }
        listings.push(Listing { is_new, ..listing });
    }
    let files = wanted.iter().map(|wanted| Replacement {
        path: wanted.directory.join(PARTITION_METADATA),
        bytes: ownership::encode(wanted.topic).into_bytes(),
    });
    replace_files(&files.collect::<Vec<_>>(), sync_fs)?;
    let parents: BTreeSet<&Path> = wanted.iter().filter_map(|wanted| wanted.directory.parent()).collect();
    parents.into_iter().try_for_each(sync_directory)?;
    Ok(listings)
}

/// The same for one.
pub fn take_directory(wanted: Wanted, sync_fs: SyncFs) -> io::Result<Listing> {
    take_directories(&[wanted], sync_fs).map(|mut listings| listings.remove(0))
}

/// Removes what a crash left half done, and lists the rest. `clean` is what the last clean stop says.
/// Blocks.
#[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
pub fn list(directory: &Path, clean: Option<&PartitionPoint>) -> io::Result<Listing> {
    let mut listing = Listing { recovery: complete_swaps(directory)?, ..Listing::default() };
    // Those of no segment are removed: one was rebuilt while its segment was deleted.
    let mut indexes: Vec<(Offset, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with(SPARE_SUFFIX) || name.ends_with(".tmp") {
            std::fs::remove_file(entry.path())?;
            continue;
        }
        if name == EPOCHS_FILE {
            listing.epochs = std::fs::read_to_string(entry.path()).ok();
            continue;
        }
        match FileName::parse(name) {
            Some(FileName::Deleted { .. }) => std::fs::remove_file(entry.path())?,
            Some(FileName::Live { base_offset, file: SegmentFile::Log }) => {
                let metadata = entry.metadata()?;
                let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                listing.logs.insert(base_offset, (metadata.len(), Timestamp(modified.as_millis() as i64)));
            }
            Some(FileName::Live { base_offset, file: SegmentFile::ProducerSnapshot }) => {
                listing.snapshots.push(base_offset);
            }
            Some(FileName::Live { base_offset, .. }) => indexes.push((base_offset, entry.path())),
            // A compaction that was cut off has been completed above.
            Some(FileName::Cleaned { .. } | FileName::Swap { .. }) | None => {}
        }
    }
    let logs = &listing.logs;
    listing.snapshots.retain(|base| !logs.contains_key(base));
    for (_, orphan) in indexes.into_iter().filter(|(base, _)| !logs.contains_key(base)) {
        std::fs::remove_file(orphan)?;
    }
    if let Some(point) = clean {
        listing.clean = read_clean(directory, point);
    }
    Ok(listing)
}

/// What is missing or large is left out.
fn read_clean(directory: &Path, point: &PartitionPoint) -> BTreeMap<SegmentFile, Vec<u8>> {
    let files = [
        (SegmentFile::OffsetIndex, point.segment_base),
        (SegmentFile::TimeIndex, point.segment_base),
        (SegmentFile::Checksums, point.segment_base),
        (SegmentFile::TransactionIndex, point.segment_base),
        (SegmentFile::ProducerSnapshot, point.flushed_end),
    ];
    let read = files.into_iter().filter_map(|(file, base)| {
        let path = directory.join(file.name(base));
        let is_small = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= FILE_SIZE_MAX);
        #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
        let bytes = is_small.then(|| std::fs::read(&path).ok()).flatten()?;
        Some((file, bytes))
    });
    read.collect()
}
