//! A topic is deleted, and directories of topics that were.

use crate::disk::{DiskError, DiskResult};
use crate::shell::Shell;
use crate::shell::background::write_checkpoint;
use crate::shell::journal::parse_damaged_directory;
use crate::shell::replica::Replica;
use odradek::log::journal::block::{Change, Entry};
use odradek::log::named_partitions::{self, LOST_PARTITIONS_FILE};
use odradek::log::ownership::{self, PARTITION_METADATA};
use odradek::log::segment::{DirectoryName, deleted_directory_name};
use odradek::types::{LeaderEpoch, TopicPartition, Uuid};
use std::rc::Rc;

/// What the metadata's deletion of a topic means for its shard: the name is free when this returns, the
/// bytes go later.
pub async fn delete(shell: &Rc<Shell>, id: &TopicPartition) {
    shell.unavailable.borrow_mut().remove(id);
    let Some(replica) = shell.remove(id) else { return };
    replica.mark_deleted();
    shell.world.count("topic deleted");
    shell.world.note(format_args!("{} is deleted", replica.name));
    let epoch = replica.log.borrow().leader_epoch();
    // Offline or not: the metadata says the same, and a start removes what is left here.
    shell.log_changes(vec![Entry { partition: replica.id, change: Change::Deleted { epoch } }]).await;
    replica.names_released().await;
    let moved = match move_away(shell, &replica.name).await {
        Err(error) if error.is_full() => remove_in_place(shell, &replica.name).await.map(|()| None),
        moved => moved.map(Some),
    };
    match moved {
        Ok(deleted) => shell.world.spawn(release(shell.clone(), replica, deleted)),
        Err(error) => shell.failed(format_args!("deleting {}", replica.name), error),
    }
}

async fn release(shell: Rc<Shell>, replica: Rc<Replica>, deleted: Option<String>) {
    shell.pump();
    shell.release_slot(replica.slot).await;
    if let Some(deleted) = deleted {
        let _ = shell.disk.remove_directory(&deleted).await; // A start knows it by its name.
    }
}

/// The partition goes on without this replica, which may come again: what a start finds of the one that has gone
/// must not touch the one that has come. One that could not be opened goes by the name of its directory.
pub async fn remove(shell: &Rc<Shell>, id: &TopicPartition, directory: &str) -> DiskResult<()> {
    shell.unavailable.borrow_mut().remove(id);
    if let Some(replica) = shell.remove(id) {
        replica.mark_deleted();
        replica.names_released().await;
        shell.release_slot(replica.slot).await;
    }
    if shell.is_offline() {
        return Err(DiskError::Offline);
    }
    shell.world.note(format_args!("{directory} is removed"));
    let moved = match shell.disk.exists(directory) {
        true => Some(move_away(shell, directory).await?),
        false => None,
    };
    let epoch = shell.metadata.borrow().partitions.get(id).map_or(LeaderEpoch(0), |known| known.leader_epoch);
    shell.log_changes(vec![Entry { partition: *id, change: Change::Removed { epoch } }]).await;
    forget_lost(shell, |lost| lost == id).await?;
    write_checkpoint(shell).await?;
    shell.world.count("replica removed");
    match moved {
        Some(moved) => shell.disk.remove_directory(&moved).await,
        None => Ok(()),
    }
}

/// What was lost with journals that are kept is of no concern any more, of those of which nothing is left.
pub async fn forget_lost(shell: &Shell, is_gone: impl Fn(&TopicPartition) -> bool) -> DiskResult<()> {
    let _turn = shell.naming.take().await;
    for (name, _) in shell.disk.list("").await? {
        if parse_damaged_directory(&name).is_none() {
            continue;
        }
        let path = format!("{name}/{LOST_PARTITIONS_FILE}");
        let bytes = match shell.disk.read_file(&path).await {
            Err(DiskError::NotFound) => continue,
            read => read?,
        };
        let Some(mut lost) = std::str::from_utf8(&bytes).ok().and_then(named_partitions::decode) else {
            continue;
        };
        let count = lost.len();
        lost.retain(|id| !is_gone(id));
        if lost.len() < count {
            shell.disk.replace_file(&path, named_partitions::encode(&lost).as_bytes()).await?;
        }
    }
    Ok(())
}

/// Renames a partition's directory so that it is never opened again. Returns the new name.
async fn move_away(shell: &Shell, directory: &str) -> DiskResult<String> {
    let Some(DirectoryName::Live { topic, partition }) = DirectoryName::parse(directory) else {
        unreachable!("every partition's directory has its name");
    };
    let unique = Uuid::from_u128(u128::from(shell.world.draw()));
    let moved = deleted_directory_name(&topic, partition, unique);
    shell.disk.rename(directory, &moved).await?;
    shell.disk.sync_directory("").await?;
    Ok(moved)
}

/// Without space for another name: what says whose it was goes last.
async fn remove_in_place(shell: &Shell, directory: &str) -> DiskResult<()> {
    shell.world.count("topic deleted: no space for a name");
    for (name, _) in shell.disk.list(directory).await? {
        if name != PARTITION_METADATA {
            shell.disk.remove_if_present(&format!("{directory}/{name}")).await?;
        }
    }
    shell.disk.remove_directory(directory).await?;
    shell.disk.sync_directory("").await
}

/// Removes what topics left behind whose deletion a crash interrupted. At start, before anything else.
pub async fn remove_orphans(shell: &Shell) -> DiskResult<()> {
    for (name, size) in shell.disk.list("").await? {
        if size.is_some() {
            continue;
        }
        let path = match DirectoryName::parse(&name) {
            Some(DirectoryName::Deleted { .. }) => name,
            Some(DirectoryName::Live { .. }) => {
                let text = match shell.disk.read_file(&format!("{name}/{PARTITION_METADATA}")).await {
                    Err(DiskError::NotFound) => String::new(),
                    read => String::from_utf8(read?).unwrap_or_default(),
                };
                let Ok(topic) = ownership::decode(&text) else { continue };
                if !shell.metadata.borrow().deleted.contains(&topic) {
                    continue;
                }
                shell.world.count("recovery: deletion carried out");
                match move_away(shell, &name).await {
                    Err(error) if error.is_full() => {
                        remove_in_place(shell, &name).await?;
                        continue;
                    }
                    moved => moved?,
                }
            }
            None => continue,
        };
        shell.world.count("recovery: deleted directory removed");
        shell.disk.remove_directory(&path).await?;
    }
    Ok(())
}
