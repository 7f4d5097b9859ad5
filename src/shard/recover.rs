//! What the last run has left in the log directories, brought in order before any shard starts: deleted
//! topics' data, checkpoints and the clean mark, journals.
//!
//! Each directory is recovered by itself, side by side: they are taken to be disks of their own. One that
//! fails meanwhile is offline; without the first one, which has the metadata, there is no start.

use crate::cluster::image::Image;
use crate::cluster::record::PartitionState;
use crate::config::Config;
use crate::log::checkpoint::{Checkpoint, CheckpointGeneration, CleanStop, first_generation, merge};
use crate::log::data_dir::{CLEAN_STOP_FILE, is_checkpoint};
use crate::log::journal::ring::RingLimits;
use crate::log::plan::SyncFs;
use crate::metrics::recovery::{RecoveryBranch, RecoveryCounts};
use crate::shard::disk::sync_directory;
use crate::shard::final_state::take_final_states;
use crate::shard::journal_replay::{self, Keep, ReplayStart};
use crate::shard::log_dirs::{LogDir, LogDirs};
use crate::shard::partitions::{Held, LastStop, remove_orphans};
use crate::types::{LogDirIndex, NodeId, ShardId, TopicId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// What a shard goes on with in one directory.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub last: LastStop,
    /// Of the checkpoints of this run.
    pub generation: CheckpointGeneration,
}

/// Removes what is left of deleted topics and of replicas that are elsewhere now, and says which partitions each
/// directory has.
pub fn find_partitions(
    dirs: &mut LogDirs,
    image: &Image,
    node: NodeId,
    deleted: &BTreeSet<TopicId>,
) -> io::Result<BTreeMap<LogDirIndex, Held>> {
    of_each(dirs, |_, dir| remove_orphans(&dir.path, image, node, deleted))
}

/// The metadata of before this start stated anything, and as it is to become.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    pub before: &'a Image,
    pub image: &'a Image,
}

/// Brings the logs in every directory up to date with its journals. Before the metadata states the cores of
/// this start: a journal that has lost something is put aside with its partitions while they are its own.
/// `replicas_removed`: the directories that replicas have gone from; nothing is expected of them if they come again.
pub fn recover(
    config: &Config,
    images: Images<'_>,
    dirs: &mut LogDirs,
    replicas_removed: &BTreeSet<LogDirIndex>,
) -> io::Result<BTreeMap<LogDirIndex, Recovered>> {
    let homes = dirs.clone();
    of_each(dirs, |index, dir| recover_one(config, images, &homes, replicas_removed, (index, dir)))
}

/// Does it in every directory that is online, and takes those offline where it fails.
fn of_each<T: Send>(
    dirs: &mut LogDirs,
    work: impl Fn(LogDirIndex, &LogDir) -> io::Result<T> + Sync,
) -> io::Result<BTreeMap<LogDirIndex, T>> {
    let work = &work;
    let results: Vec<(LogDirIndex, io::Result<T>)> = std::thread::scope(|scope| {
        let online = dirs.iter().filter(|(_, dir)| dir.offline.is_none());
        let running: Vec<_> =
            online.map(|(index, dir)| (index, scope.spawn(move || work(index, dir)))).collect();
        let ended = running.into_iter().map(|(index, thread)| {
            (index, thread.join().unwrap_or_else(|_| Err(io::Error::other("it ended abnormally"))))
        });
        ended.collect()
    });
    let mut done = BTreeMap::new();
    for (index, result) in results {
        match result {
            Ok(result) => {
                done.insert(index, result);
            }
            Err(error) if index == LogDirIndex::METADATA => return Err(error),
            Err(error) => dirs.fail(index, error.to_string()),
        }
    }
    Ok(done)
}

fn recover_one(
    config: &Config,
    images: Images<'_>,
    homes: &LogDirs,
    replicas_removed: &BTreeSet<LogDirIndex>,
    (index, dir): (LogDirIndex, &LogDir),
) -> io::Result<Recovered> {
    let replicas_removed = replicas_removed.contains(&index);
    let (mut last, generation) = read_last_stop(&dir.path)?;
    let limits = RingLimits { file_size: config.journal_file_size, file_count_max: config.journal_files };
    let start = ReplayStart {
        data_dir: &dir.path,
        image: images.image,
        before: images.before,
        node: config.node_id,
        is_here: &|replica| homes.home(replica) == Some(index),
        clean: last.clean,
        sync_fs: SyncFs::of(&dir.file_system),
        generation,
        // What a journal says of a replica that has gone it would say of one that has come as well.
        checkpointed_by: &last.checkpointed_by,
        keep: (config.journal && !replicas_removed).then_some(Keep { limits, shard_count: config.cores }),
        replicas_removed,
    };
    last.journal = journal_replay::replay(&start, &mut last.points)?;
    if replicas_removed {
        let is_here = |state: &PartitionState| state.replica_on(config.node_id).is_some();
        last.retain(|id| images.before.partition(*id).is_some_and(is_here));
    }
    last.recovery.add(&last.journal.recovery);
    remove_clean_mark(&dir.path)?;
    Ok(Recovered { last, generation })
}

/// Reads what the last run left.
#[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
pub(super) fn read_last_stop(data_dir: &Path) -> io::Result<(LastStop, CheckpointGeneration)> {
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    let mut recovery = RecoveryCounts::default();
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(is_checkpoint) {
            continue;
        }
        match Checkpoint::decode(&std::fs::read(entry.path())?) {
            Ok(checkpoint) => checkpoints.push(checkpoint),
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "a checkpoint is unreadable; its partitions are scanned");
                recovery.count(RecoveryBranch::CheckpointUnreadable);
            }
        }
    }
    let mark = data_dir.join(CLEAN_STOP_FILE);
    let clean = match std::fs::read(&mark) {
        Ok(bytes) => CleanStop::decode(&bytes).is_ok_and(|stop| stop.confirms(&checkpoints)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    let states = take_final_states(data_dir, clean, &mut recovery)?;
    let generation = first_generation(&checkpoints);
    tracing::info!(
        directory = %data_dir.display(), clean,
        partitions = checkpoints.iter().map(|checkpoint| checkpoint.points.len()).sum::<usize>(),
        "{}",
        if clean {
            "the last stop was clean: nothing is scanned"
        } else {
            "no clean stop: active segments are scanned"
        }
    );
    let points = merge(&checkpoints);
    let mut checkpointed_by: BTreeMap<TopicPartition, BTreeSet<ShardId>> = BTreeMap::new();
    for checkpoint in &checkpoints {
        for id in checkpoint.points.keys() {
            checkpointed_by.entry(*id).or_default().insert(checkpoint.shard);
        }
    }
    Ok((LastStop { points, checkpointed_by, clean, states, recovery, ..LastStop::default() }, generation))
}

/// From now on a stop is unclean. The journals have been marked: what a clean stop made superfluous in
/// them is not replayed.
#[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
fn remove_clean_mark(data_dir: &Path) -> io::Result<()> {
    let mark = data_dir.join(CLEAN_STOP_FILE);
    if mark.exists() {
        std::fs::remove_file(&mark)?;
        sync_directory(data_dir)?;
    }
    Ok(())
}
