//! Which log directories a node starts with, which of them it can use, and which one has a partition.
//!
//! ```text
//! preflight ─► taken ──────────┐                        ┌─► partitions found ─► directories stated
//!          ─► new ─► adopted ──┼─► online ──────────────┤
//!                └► not mounted│                        └─► recovered, each by itself
//!          ─► unusable ────────┴─► offline: its partitions too; never made anew elsewhere
//! ```
//!
//! A directory is known by its `directory.id`: another path is the same directory. The metadata say which
//! one a partition is in; of nodes that only ever had one they say nothing.

use crate::cluster::image::Image;
use crate::cluster::record::{LogDirectory, Replica};
use crate::config::Config;
use crate::preflight::{self, OtherDir, Preflight, PreflightError};
use crate::types::{DirectoryId, LogDirIndex, NodeId, TopicPartition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One log directory of this start.
#[derive(Clone, Debug)]
pub struct LogDir {
    pub path: PathBuf,
    /// `None`: it cannot be used, and nothing says which one it is.
    pub id: Option<DirectoryId>,
    /// Empty for one that cannot be used.
    pub file_system: String,
    /// Why it could not be used at this start.
    pub offline: Option<String>,
}

/// Those of this start, in their order.
///
/// Lives: as long as the process; shards share it, and what fails later is their stores' to know.
#[derive(Clone, Debug)]
pub struct LogDirs {
    dirs: Vec<LogDir>,
    /// Partitions that lie in another directory than the metadata say.
    misplaced: BTreeMap<TopicPartition, LogDirIndex>,
}

/// Two directories hold one partition: nothing says which one is the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is in {} and in {}: move one of them away", .first.display(), .second.display())]
pub struct HeldTwice {
    pub name: String,
    pub first: PathBuf,
    pub second: PathBuf,
}

impl LogDirs {
    /// Those that preflight has taken, and new ones of which no partition is missing. `held` gets the
    /// latter, which stay ours as long as it lives.
    pub fn settle(
        config: &Config,
        preflight: &Preflight,
        image: &Image,
        held: &mut Vec<preflight::LogDir>,
    ) -> Result<LogDirs, PreflightError> {
        let mut dirs = vec![online(&preflight.metadata)];
        let known = Known { image, node: config.node_id, others: &preflight.others };
        for other in &preflight.others {
            dirs.push(match other {
                OtherDir::Ready(directory) => online(directory),
                OtherDir::Unusable { path, error } => offline(path, known.id_at(path), error.to_string()),
                OtherDir::New { path, .. } if known.partitions_missing_at(path) > 0 => {
                    let count = known.partitions_missing_at(path);
                    let reason =
                        format!("no log directory is there, and it had {count} partitions: mount it");
                    offline(path, known.id_at(path), reason)
                }
                OtherDir::New { path, refusal: Some(refusal) } if known.id_at(path).is_some() => {
                    offline(path, known.id_at(path), refusal.to_string())
                }
                OtherDir::New { path, .. } => match preflight::adopt(config, &preflight.metadata, path) {
                    Ok(directory) => {
                        held.push(directory);
                        online(held.last().expect("just pushed"))
                    }
                    Err(error) if known.id_at(path).is_some() => {
                        offline(path, known.id_at(path), error.to_string())
                    }
                    Err(error) => return Err(error),
                },
            });
        }
        Ok(LogDirs { dirs, misplaced: BTreeMap::new() })
    }

    #[cfg(test)]
    pub fn only(path: &Path) -> LogDirs {
        let dir = LogDir { path: path.to_owned(), id: None, file_system: String::new(), offline: None };
        LogDirs { dirs: vec![dir], misplaced: BTreeMap::new() }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (LogDirIndex, &LogDir)> {
        self.dirs.iter().enumerate().map(|(at, dir)| (LogDirIndex(at as u16), dir))
    }

    pub fn id(&self, dir: LogDirIndex) -> Option<DirectoryId> {
        self.dirs[dir.index()].id
    }

    /// It turned out that it cannot be used.
    pub fn fail(&mut self, dir: LogDirIndex, reason: String) {
        self.dirs[dir.index()].offline = Some(reason);
    }

    /// The directory that has a replica of this node; `None` when it is not among those of this start.
    pub fn home(&self, replica: &Replica) -> Option<LogDirIndex> {
        let Some(id) = replica.directory else { return Some(LogDirIndex::METADATA) };
        self.iter().find(|(_, dir)| dir.id == Some(id)).map(|(index, _)| index)
    }

    /// Where a partition lies that should be elsewhere.
    pub fn misplaced(&self, partition: &TopicPartition) -> Option<&Path> {
        self.misplaced.get(partition).map(|dir| &*self.dirs[dir.index()].path)
    }

    /// What the metadata is told of this node's directories: nothing where there is only one. One that is
    /// not among them any more is remembered as long as it has partitions, and is as one that cannot be used.
    pub fn registered(&self, image: &Image, node: NodeId) -> Vec<LogDirectory> {
        let path = |dir: &LogDir| absolute(&dir.path);
        let here = self.dirs.iter().filter_map(|dir| {
            Some(LogDirectory { id: dir.id?, path: path(dir), is_offline: dir.offline.is_some() })
        });
        let mut all: Vec<LogDirectory> = here.collect();
        let before = image.node(node).map(|node| &node.log_directories[..]).unwrap_or_default();
        for directory in before {
            let is_missed = all.iter().all(|here| here.id != directory.id);
            if is_missed && image.directory_load(node, directory.id) > 0 {
                all.push(LogDirectory { is_offline: true, ..directory.clone() });
            }
        }
        if self.dirs.len() == 1 && all.len() == 1 { Vec::new() } else { all }
    }

    /// Where partitions were found, each once.
    pub fn locate(
        &self,
        found: &BTreeMap<LogDirIndex, Vec<TopicPartition>>,
        name: impl Fn(&TopicPartition) -> String,
    ) -> Result<BTreeMap<TopicPartition, LogDirIndex>, HeldTwice> {
        let mut located = BTreeMap::new();
        for (dir, partitions) in found {
            for partition in partitions {
                if let Some(other) = located.insert(*partition, *dir) {
                    let path = |dir: LogDirIndex| self.dirs[dir.index()].path.clone();
                    return Err(HeldTwice { name: name(partition), first: path(other), second: path(*dir) });
                }
            }
        }
        Ok(located)
    }

    /// Finds those that lie elsewhere than the metadata say, which says where all are by now.
    pub fn note_misplaced(
        &mut self,
        image: &Image,
        node: NodeId,
        located: &BTreeMap<TopicPartition, LogDirIndex>,
    ) {
        let is_misplaced = |(id, dir): &(&TopicPartition, &LogDirIndex)| {
            let replica = image.partition(**id).and_then(|state| state.replica_on(node));
            replica.is_some_and(|replica| self.home(replica) != Some(**dir))
        };
        self.misplaced = located.iter().filter(is_misplaced).map(|(id, dir)| (*id, *dir)).collect();
    }

    /// Says once of each directory that cannot be used what is offline with it.
    pub fn report(&self, image: &Image, node: NodeId) {
        for (_, dir) in self.iter() {
            let Some(reason) = &dir.offline else { continue };
            let partitions = dir.id.map_or(0, |id| image.directory_load(node, id));
            tracing::error!(
                directory = %dir.path.display(), reason, partitions,
                "the log directory cannot be used: its partitions are offline"
            );
        }
        for (id, partitions) in image.directory_loads(node) {
            if self.dirs.iter().all(|dir| dir.id != Some(id)) {
                let before = image.node(node).map(|node| &node.log_directories[..]).unwrap_or_default();
                let path = before.iter().find(|directory| directory.id == id).map(|found| &*found.path);
                tracing::error!(
                    directory_id = %id, last_seen = path.unwrap_or("unknown"), partitions,
                    "no --data-dir is this log directory: its partitions are offline"
                );
            }
        }
    }
}

/// What the metadata knows of the directories of this node.
struct Known<'a> {
    image: &'a Image,
    node: NodeId,
    others: &'a [OtherDir],
}

impl Known<'_> {
    /// The directory that was at a path, unless it is at another one now.
    fn id_at(&self, path: &Path) -> Option<DirectoryId> {
        let path = absolute(path);
        let before = &self.image.node(self.node)?.log_directories;
        let id = before.iter().find(|directory| directory.path == path)?.id;
        let is_here = |other: &OtherDir| match other {
            OtherDir::Ready(directory) => directory.identity.directory_id == id,
            OtherDir::New { .. } | OtherDir::Unusable { .. } => false,
        };
        (!self.others.iter().any(is_here)).then_some(id)
    }

    fn partitions_missing_at(&self, path: &Path) -> u32 {
        self.id_at(path).map_or(0, |id| self.image.directory_load(self.node, id))
    }
}

fn online(directory: &preflight::LogDir) -> LogDir {
    LogDir {
        path: directory.path.clone(),
        id: Some(directory.identity.directory_id),
        file_system: directory.file_system.name.clone(),
        offline: None,
    }
}

fn offline(path: &Path, id: Option<DirectoryId>, reason: String) -> LogDir {
    LogDir { path: path.to_owned(), id, file_system: String::new(), offline: Some(reason) }
}

/// As it is remembered: whatever directory the broker is started in.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
