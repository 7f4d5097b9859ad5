//! A start and a clean stop: the last checkpoint and the clean mark, the journals, then the
//! partitions; at the end everything written out, the final state, the mark.

use crate::disk::{DiskError, DiskResult};
use crate::shell::open::{OpenFailed, OpenRequest, open};
use crate::shell::replay::replay;
use crate::shell::{SHARD, Shell, background};
use odradek::log::checkpoint::{Checkpoint, CleanStop, first_generation, merge};
use odradek::log::data_dir::{CLEAN_STOP_FILE, checkpoint_name, is_checkpoint};
use odradek::log::journal::ring::FileIndex;
use odradek::types::{ShardId, TopicPartition};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a start came to.
pub struct Started {
    pub clean: bool,
    /// Partitions that are not served.
    pub failed: BTreeMap<TopicPartition, OpenFailed>,
}

pub fn journal_directory() -> String {
    format!("journal.{}", SHARD.0)
}

pub fn damaged_journal_directory(number: u32) -> String {
    format!("{}.damaged.{number}", journal_directory())
}

/// Where a journal goes that has been replayed, until it is removed.
pub fn replayed_journal_directory() -> String {
    format!("{}.replayed", journal_directory())
}

pub fn journal_file(file: FileIndex) -> String {
    format!("{:08}.journal", file.0)
}

/// Opens what the last run left. `partitions` are those that the metadata knows, with their directories.
pub async fn start(shell: &Rc<Shell>, partitions: &BTreeMap<TopicPartition, String>) -> DiskResult<Started> {
    let disk = &shell.disk;
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    let names: Vec<String> = disk.list("").await?.into_iter().map(|(name, _)| name).collect();
    for name in names.iter().filter(|name| is_checkpoint(name)) {
        match Checkpoint::decode(&disk.read_file(name).await?) {
            Ok(checkpoint) => checkpoints.push(checkpoint),
            Err(error) => {
                shell.world.note(format_args!("checkpoint unreadable: {error}"));
                shell.world.count("recovery: checkpoint unreadable");
            }
        }
    }
    let clean = match disk.read_file(CLEAN_STOP_FILE).await {
        Ok(bytes) => CleanStop::decode(&bytes).is_ok_and(|stop| stop.confirms(&checkpoints)),
        Err(DiskError::NotFound) => false,
        Err(error) => return Err(error),
    };
    if disk.exists(CLEAN_STOP_FILE) {
        disk.remove_if_present(CLEAN_STOP_FILE).await?;
        disk.sync_directory("").await?;
    }
    shell.generation.set(first_generation(&checkpoints));
    let points = merge(&checkpoints);
    let replayed = replay(shell, partitions, clean).await?;
    let mut failed = BTreeMap::new();
    for (id, name) in partitions {
        let request = OpenRequest {
            id: *id,
            name: name.clone(),
            point: points.get(id).copied(),
            clean,
            journal_end: replayed.ends.get(id).copied(),
        };
        let opened = match replayed.corrupt.contains(id) {
            true => Err(OpenFailed::JournalCorrupt),
            false => open(shell, request).await,
        };
        if let Err(error) = opened {
            shell.world.note(format_args!("{name} is not served: {error:?}"));
            shell.unavailable.borrow_mut().insert(*id, points.get(id).copied());
            failed.insert(*id, error);
        }
    }
    Ok(Started { clean, failed })
}

/// Flushes what is left and writes the final state. Whether the next start need not scan.
pub async fn finish(shell: &Rc<Shell>) -> bool {
    shell.close();
    while shell.unstored_bytes() > 0 && !shell.is_offline() {
        shell.write_all_out();
        shell.world.sleep(1000).await;
    }
    if shell.is_offline() {
        return false;
    }
    if background::write_final_state(shell).await.is_err() || !shell.unavailable.borrow().is_empty() {
        return false;
    }
    let generations: BTreeMap<ShardId, _> = BTreeMap::from([(SHARD, shell.generation.get())]);
    shell.disk.replace_file(CLEAN_STOP_FILE, &CleanStop { generations }.encode()).await.is_ok()
}

/// Which file of the data directory a path names, for damage and its limits.
pub fn is_derived(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path == checkpoint_name(SHARD)
        || path == CLEAN_STOP_FILE
        || [".index", ".timeindex", ".snapshot", "leader-epoch-checkpoint"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
}
