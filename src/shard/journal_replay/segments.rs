//! The segments' files that a replay writes to, with ordinary buffered I/O.
//!
//! A segment that is gone while a later one of its partition is there was deleted, and stays so; what
//! the entries themselves say of that is `log::journal`'s.

use crate::cluster::image::Image;
use crate::log::journal::redo::Redo;
use crate::log::ownership::{self, PARTITION_METADATA};
use crate::log::partition::Place;
use crate::log::plan::SyncFs;
use crate::log::segment::{FileName, SegmentFile, deleted_directory_name, directory_name};
use crate::shard::disk::{remove_if_present, sync_directory};
use crate::shard::partitions::move_away;
use crate::shard::survey::read_metadata_file;
use crate::types::{Offset, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A partition's directory and the base offsets of its segments.
type Known = (PathBuf, BTreeSet<Offset>);

/// Lives: while the journals are replayed.
pub struct Segments<'a> {
    data_dir: &'a Path,
    image: &'a Image,
    /// The base offsets of each partition's segments; `None` when the partition is gone.
    known: BTreeMap<TopicPartition, Option<Known>>,
    touched: BTreeSet<PathBuf>,
}

impl<'a> Segments<'a> {
    pub fn new(data_dir: &'a Path, image: &'a Image) -> Segments<'a> {
        Segments { data_dir, image, known: BTreeMap::new(), touched: BTreeSet::new() }
    }

    pub fn redo(&mut self, redo: &Redo<'_>, corrupt: &mut BTreeSet<TopicPartition>) -> io::Result<()> {
        match *redo {
            Redo::Write { partition, segment, file_position, bytes } => {
                let Some(path) = self.path(partition, segment)? else { return Ok(()) };
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
                file.write_all_at(bytes, file_position)?;
                self.touched.insert(path);
            }
            Redo::Cut { partition, segment, size, is_missed } => {
                let Some(path) = self.path(partition, segment)? else { return Ok(()) };
                if !path.exists() {
                    return Ok(());
                }
                let file = OpenOptions::new().write(true).open(&path)?;
                if file.metadata()?.len() < size {
                    if !is_missed {
                        return Ok(());
                    }
                    tracing::error!(path = %path.display(), size, "a closed segment is shorter than it was");
                    corrupt.insert(partition);
                    return Ok(());
                }
                file.set_len(size)?;
                // Those of a clean stop before describe less than the segment.
                for derived in SegmentFile::DERIVED {
                    remove_if_present(&path.with_file_name(derived.name(segment)))?;
                }
                self.touched.insert(path);
            }
            Redo::Truncate { partition, place } => self.truncate(partition, place)?,
            Redo::Delete { partition } => {
                let Some((directory, _)) = self.find(partition)? else { return Ok(()) };
                move_away(directory, deleted_directory_name)?;
                self.known.insert(partition, None);
            }
        }
        Ok(())
    }

    fn truncate(&mut self, partition: TopicPartition, place: Place) -> io::Result<()> {
        let Some((directory, segments)) = self.find(partition)? else { return Ok(()) };
        segments.split_off(&place.segment);
        truncate(directory, place)?;
        let path = directory.join(SegmentFile::Log.name(place.segment));
        if path.exists() {
            segments.insert(place.segment);
        }
        self.touched.insert(path);
        Ok(())
    }

    fn find(&mut self, partition: TopicPartition) -> io::Result<Option<&mut Known>> {
        if !self.known.contains_key(&partition) {
            let found = self.look_up(partition)?;
            self.known.insert(partition, found);
        }
        Ok(self.known.get_mut(&partition).and_then(Option::as_mut))
    }

    /// `None` for what was deleted.
    fn path(&mut self, partition: TopicPartition, segment: Offset) -> io::Result<Option<PathBuf>> {
        let Some((directory, segments)) = self.find(partition)? else { return Ok(None) };
        if !segments.contains(&segment) {
            if segments.last().is_some_and(|last| segment < *last) {
                return Ok(None);
            }
            segments.insert(segment);
        }
        Ok(Some(directory.join(SegmentFile::Log.name(segment))))
    }

    fn look_up(&self, partition: TopicPartition) -> io::Result<Option<Known>> {
        let Some(topic) = self.image.topic(partition.topic) else { return Ok(None) };
        let directory = self.data_dir.join(directory_name(&topic.name, partition.partition));
        // Where it is gone or another topic's, the log ends before what the journal reaches: that is
        // found when the partition is opened. Nothing was journalled before the directory had its owner, so
        // one that cannot be read is damaged, or removed: somebody may restore it.
        let owner = match read_metadata_file(&directory) {
            Ok(text) => text.and_then(|text| ownership::decode(&text).ok()),
            Err(error) => {
                tracing::warn!(directory = %directory.display(), %error, "{PARTITION_METADATA} cannot be read");
                None
            }
        };
        if owner.is_some_and(|owner| owner != partition.topic) {
            return Ok(None);
        }
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut segments = BTreeSet::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(FileName::Live { base_offset, file: SegmentFile::Log }) =
                name.to_str().and_then(FileName::parse)
            {
                segments.insert(base_offset);
            }
        }
        // A directory with an owner has a segment: this one was made just now, or emptied, and what the journal has
        // would be the end of a log without its beginning.
        let is_its = owner.is_some() || !segments.is_empty();
        Ok(is_its.then_some((directory, segments)))
    }

    /// Everything written is on stable storage, names included.
    pub fn flush(&self, sync_fs: SyncFs) -> io::Result<()> {
        if self.touched.is_empty() {
            return Ok(());
        }
        if sync_fs == SyncFs::Device {
            #[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
            let directory = File::open(self.data_dir)?;
            // SAFETY: syncfs takes any open descriptor; `directory` lives until it returns.
            let result = unsafe { libc::syncfs(directory.as_raw_fd()) };
            return if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        }
        for path in self.touched.iter().filter(|path| path.exists()) {
            #[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
            File::open(path)?.sync_all()?;
        }
        let directories = self.touched.iter().filter_map(|path| path.parent());
        let directories: BTreeSet<&Path> = directories.filter(|directory| directory.exists()).collect();
        directories.into_iter().try_for_each(sync_directory)
    }
}

/// Makes the segment of `place` the last one, and cuts it there, without a flush. Files that describe what is gone
/// go first, and the newest segment before those below it: an interrupted one is seen by its log file. Each is gone for
/// good before what lies below it goes: without a journal nothing would tell of the gap that one which came back leaves.
/// Where no segment is left, as of a log that begins anew before it, the oldest one becomes it, empty; where there is none,
/// it is made. A log of which nothing is left forgets its producers as well: a transaction that is open in a snapshot would
/// never end in it.
pub fn truncate(directory: &Path, place: Place) -> io::Result<()> {
    let mut names: Vec<(Offset, SegmentFile)> = Vec::new();
    let mut is_first = true;
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        match name.to_str().and_then(FileName::parse) {
            Some(FileName::Live { base_offset, file }) if base_offset >= place.segment => {
                names.push((base_offset, file));
            }
            Some(FileName::Live { file: SegmentFile::Log, .. }) => is_first = false,
            _ => {}
        }
    }
    let is_there = names.contains(&(place.segment, SegmentFile::Log));
    let logs = names.iter().filter(|(_, file)| *file == SegmentFile::Log);
    let kept = logs.map(|(base, _)| *base).min().filter(|_| is_first && !is_there);
    names.sort_by_key(|(base, file)| (*base, *file != SegmentFile::Log));
    for (base, file) in names.into_iter().rev() {
        let is_log = file == SegmentFile::Log;
        if is_log && kept == Some(base) {
            continue;
        }
        if base > place.segment || !is_log && file != SegmentFile::ProducerSnapshot {
            remove_if_present(&directory.join(file.name(base)))?;
            if is_log {
                sync_directory(directory)?;
            }
        }
    }
    let path = directory.join(SegmentFile::Log.name(place.segment));
    if let Some(kept) = kept {
        let kept = directory.join(SegmentFile::Log.name(kept));
        let file = OpenOptions::new().write(true).open(&kept)?;
        file.set_len(0)?;
        file.sync_all()?;
        #[expect(clippy::disallowed_methods, reason = "runs on a helper thread, or before the shards")]
        std::fs::rename(kept, path)?;
    } else if path.exists() {
        let file = OpenOptions::new().write(true).open(&path)?;
        file.set_len(file.metadata()?.len().min(place.file_position))?;
    } else if is_first {
        OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    }
    if is_first && place.file_position == 0 {
        remove_if_present(&directory.join(SegmentFile::ProducerSnapshot.name(place.segment)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, partition_id, topic_id};
    use crate::config::Routing;

    /// One whose owner cannot be read is this topic's: what the journal alone had is there when somebody has put that
    /// right.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes files")]
    fn only_a_directory_of_another_topic_is_left_alone() {
        let data_dir = tempfile::tempdir().unwrap();
        let image = image();
        let directory = data_dir.path().join("a-0");
        let base_offset = Offset::new(20).unwrap();
        let write =
            Redo::Write { partition: id(), segment: base_offset, file_position: 10, bytes: b"appended" };
        let redone = |owner: Option<&[u8]>| {
            fill(&directory);
            let path = directory.join(PARTITION_METADATA);
            owner.map_or_else(|| remove_if_present(&path), |owner| std::fs::write(&path, owner)).unwrap();
            let mut segments = Segments::new(data_dir.path(), &image);
            segments.redo(&write, &mut BTreeSet::new()).unwrap();
            std::fs::read(directory.join(SegmentFile::Log.name(base_offset))).unwrap()
        };
        let mut flipped = ownership::encode(topic_id(1)).into_bytes();
        *flipped.last_mut().unwrap() ^= 1 << 7;
        for damaged in [None, Some(flipped.as_slice()), Some(b"nobody knows"), Some(b"")] {
            assert_eq!(redone(damaged), b"0123456789appended", "{damaged:?}");
        }
        assert_eq!(redone(Some(ownership::encode(topic_id(2)).as_bytes())), b"0123456789");
        // Nor is it made, nor filled where it has lost everything.
        let redo = || Segments::new(data_dir.path(), &image).redo(&write, &mut BTreeSet::new()).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        redo();
        assert!(!directory.exists());
        std::fs::create_dir(&directory).unwrap();
        redo();
        assert_eq!(names(&directory), [""; 0]);
        // A disk that does not give the file costs nobody the start.
        fill(&directory);
        std::fs::remove_file(directory.join(PARTITION_METADATA)).unwrap();
        std::fs::create_dir(directory.join(PARTITION_METADATA)).unwrap();
        redo();
    }

    #[test]
    fn truncated_log_ends_in_its_segment_and_a_deleted_one_is_moved_away() {
        let data_dir = tempfile::tempdir().unwrap();
        let image = image();
        let directory = data_dir.path().join("a-0");
        let names = || names(&directory);
        fill(&directory);
        let offset = |value| Offset::new(value).unwrap();
        let place = Place { segment: offset(10), file_position: 5 };
        // Again after an interruption, and behind a write that came before it.
        for again in 0..3 {
            let mut segments = Segments::new(data_dir.path(), &image);
            let write =
                Redo::Write { partition: id(), segment: offset(10), file_position: 0, bytes: b"01234" };
            segments.redo(&write, &mut BTreeSet::new()).unwrap();
            segments.redo(&Redo::Truncate { partition: id(), place }, &mut BTreeSet::new()).unwrap();
            segments.flush(SyncFs::Nothing).unwrap();
            let left = [
                "00000000000000000000.index",
                "00000000000000000000.log",
                "00000000000000000010.log",
                "00000000000000000010.snapshot",
                PARTITION_METADATA,
            ];
            assert_eq!(names(), left, "{again}");
            let size = std::fs::metadata(directory.join("00000000000000000010.log")).unwrap().len();
            assert_eq!(size, 5);
        }
        // What comes behind the cut begins anew, also where another segment was.
        let mut segments = Segments::new(data_dir.path(), &image);
        let write = Redo::Write { partition: id(), segment: offset(12), file_position: 0, bytes: b"new" };
        segments.redo(&Redo::Truncate { partition: id(), place }, &mut BTreeSet::new()).unwrap();
        segments.redo(&write, &mut BTreeSet::new()).unwrap();
        assert!(names().contains(&"00000000000000000012.log".to_owned()));
        segments.redo(&Redo::Delete { partition: id() }, &mut BTreeSet::new()).unwrap();
        segments.redo(&write, &mut BTreeSet::new()).unwrap();
        segments.flush(SyncFs::Nothing).unwrap();
        assert!(!directory.exists(), "it is not made again");
    }

    /// A crash in between has left the one that it was to begin with, or none.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes files")]
    fn a_log_that_was_about_to_begin_anew_has_a_segment() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place { segment: Offset::new(10).unwrap(), file_position: 0 };
        for left in [Some("00000000000000000020.log"), None] {
            if let Some(left) = left {
                File::create(directory.path().join(left)).unwrap();
            }
            File::create(directory.path().join("00000000000000000010.snapshot")).unwrap();
            truncate(directory.path(), place).unwrap();
            assert_eq!(names(directory.path()), ["00000000000000000010.log"], "nor has it producers");
            std::fs::remove_file(directory.path().join("00000000000000000010.log")).unwrap();
        }
    }

    /// Of what is left the producers stay, of nothing none.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes files")]
    fn producers_go_with_the_last_batch() {
        for (file_position, below, stays) in
            [(0, false, false), (0, true, true), (5, false, true), (5, true, true)]
        {
            let directory = tempfile::tempdir().unwrap();
            fill(directory.path());
            if !below {
                std::fs::remove_file(directory.path().join("00000000000000000000.log")).unwrap();
            }
            truncate(directory.path(), Place { segment: Offset::new(10).unwrap(), file_position }).unwrap();
            let found = names(directory.path()).contains(&"00000000000000000010.snapshot".to_owned());
            assert_eq!(found, stays, "{file_position} {below}");
        }
    }

    fn id() -> TopicPartition {
        partition_id(1, 0)
    }

    fn image() -> Image {
        let mut image = image_of(&[node(1, 1, Routing::Node)]);
        add_topic(&mut image, 1, "a", &[0]);
        image
    }

    #[expect(clippy::disallowed_methods, reason = "a test makes files")]
    fn fill(directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join(PARTITION_METADATA), ownership::encode(topic_id(1))).unwrap();
        for name in
            ["00.log", "00.index", "10.log", "10.index", "10.timeindex", "10.snapshot", "20.log", "20.index"]
        {
            std::fs::write(directory.join(format!("000000000000000000{name}")), b"0123456789").unwrap();
        }
        std::fs::write(directory.join("00000000000000000017.snapshot"), b"").unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
