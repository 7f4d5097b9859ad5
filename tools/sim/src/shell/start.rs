//! A start and a clean stop: the last checkpoint and the clean mark, the journals, then the
//! partitions; at the end everything written out, the final state, the mark.

use crate::disk::{DiskError, DiskResult};
use crate::shell::deletion::remove_orphans;
use crate::shell::open::{OpenFailed, OpenRequest, open};
use crate::shell::replay::replay;
use crate::shell::{Shell, background};
use odradek::log::checkpoint::{Checkpoint, CleanStop, first_generation, merge};
use odradek::log::data_dir::{CLEAN_STOP_FILE, is_checkpoint, is_final_state};
use odradek::log::final_state::{self, PartitionState};
use odradek::types::{ShardId, TopicPartition};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a start came to.
pub struct Started {
    pub clean: bool,
    /// Partitions that are not served.
    pub failed: BTreeMap<TopicPartition, OpenFailed>,
}

/// Opens what the last run left, each partition on its shard.
pub async fn start(shells: &[Rc<Shell>]) -> DiskResult<Started> {
    let main = &shells[0];
    let disk = &main.disk;
    remove_orphans(main).await?;
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    let names: Vec<String> = disk.list("").await?.into_iter().map(|(name, _)| name).collect();
    for name in names.iter().filter(|name| is_checkpoint(name)) {
        match Checkpoint::decode(&disk.read_file(name).await?) {
            Ok(checkpoint) => checkpoints.push(checkpoint),
            Err(error) => {
                main.world.note(format_args!("checkpoint unreadable: {error}"));
                main.world.count("recovery: checkpoint unreadable");
            }
        }
    }
    let clean = match disk.read_file(CLEAN_STOP_FILE).await {
        Ok(bytes) => CleanStop::decode(&bytes).is_ok_and(|stop| stop.confirms(&checkpoints)),
        Err(DiskError::NotFound) => false,
        Err(error) => return Err(error),
    };
    if clean {
        main.model.borrow_mut().journals.are_not_needed();
    }
    let mut states = take_final_states(main, &names, clean).await?;
    shells.iter().for_each(|shell| shell.generation.set(first_generation(&checkpoints)));
    let mut points = merge(&checkpoints);
    let checkpointed = points.clone();
    let replayed = replay(shells, &mut points, clean).await?;
    if disk.exists(CLEAN_STOP_FILE) {
        disk.remove_if_present(CLEAN_STOP_FILE).await?;
        disk.sync_directory("").await?;
    }
    if main.metadata.borrow_mut().state_cores(shells.len() as u16) {
        main.world.count("partitions moved to other cores");
    }
    for shell in shells {
        shell.begin_journal(replayed.heads.get(&shell.shard).copied()).await?;
    }
    let mut failed = BTreeMap::new();
    let partitions = main.metadata.borrow().partitions.clone();
    for (id, known) in partitions {
        let shell = &shells[known.owner.index()];
        let request = OpenRequest {
            id,
            name: known.directory(),
            kind: known.kind,
            leader_epoch: known.leader_epoch,
            point: points.get(&id).copied(),
            checkpointed_end: checkpointed.get(&id).map(|point| point.flushed_end),
            clean,
            state: states.remove(&id),
            journal_end: replayed.ends.get(&id).copied(),
        };
        let opened = match replayed.corrupt.contains(&id) {
            true => Err(OpenFailed::JournalCorrupt),
            false => open(shell, request).await,
        };
        if let Err(error) = opened {
            shell.world.note(format_args!("{} is not served: {error:?}", known.directory()));
            shell.unavailable.borrow_mut().insert(id, points.get(&id).copied());
            failed.insert(id, error);
        }
    }
    Ok(Started { clean, failed })
}

/// What the shards of the last run have left, if the stop was clean; the files are removed.
async fn take_final_states(
    shell: &Shell,
    names: &[String],
    clean: bool,
) -> DiskResult<BTreeMap<TopicPartition, PartitionState>> {
    let mut states = BTreeMap::new();
    for name in names.iter().filter(|name| is_final_state(name)) {
        if clean {
            match final_state::decode(&shell.disk.read_file(name).await?) {
                Ok(found) => states.extend(found),
                Err(_) => shell.world.count("recovery: final state unreadable"),
            }
        }
        shell.disk.remove_if_present(name).await?;
    }
    Ok(states)
}

/// Flushes what is left and writes the final state. Whether the next start need not scan.
pub async fn finish(shells: &[Rc<Shell>]) -> bool {
    let mut is_clean = true;
    for shell in shells {
        is_clean &= finish_shard(shell).await;
    }
    if !is_clean {
        return false;
    }
    let generations: BTreeMap<ShardId, _> =
        shells.iter().map(|shell| (shell.shard, shell.generation.get())).collect();
    shells[0].disk.replace_file(CLEAN_STOP_FILE, &CleanStop { generations }.encode()).await.is_ok()
}

async fn finish_shard(shell: &Rc<Shell>) -> bool {
    shell.close();
    while shell.unstored_bytes() > 0 && !shell.is_offline() {
        shell.write_all_out();
        shell.world.sleep(1000).await;
    }
    if shell.is_offline() {
        return false;
    }
    background::write_final_state(shell).await.is_ok() && shell.unavailable.borrow().is_empty()
}

/// Whether a file can be built again, or costs a scan at most.
pub fn is_derived(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    is_checkpoint(path)
        || is_final_state(path)
        || path == CLEAN_STOP_FILE
        || [
            ".index",
            ".timeindex",
            ".checksums",
            ".snapshot",
            "leader-epoch-checkpoint",
            "cleaner-offset-checkpoint",
        ]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}
