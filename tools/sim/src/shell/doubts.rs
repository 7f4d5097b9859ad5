//! Replicas that may lack their end, written down until the controller knows, as `odradek::shard::doubts` has it.

use crate::disk::{DiskError, DiskResult};
use crate::shell::Shell;
use odradek::log::named_partitions::{DOUBTFUL_PARTITIONS_FILE, decode, encode};
use odradek::types::TopicPartition;
use std::collections::BTreeSet;

/// Whom nobody knows of yet.
pub async fn read(shell: &Shell) -> DiskResult<BTreeSet<TopicPartition>> {
    match shell.disk.read_file(DOUBTFUL_PARTITIONS_FILE).await {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(decode).unwrap_or_default()),
        Err(DiskError::NotFound) => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Before anything is changed of theirs.
pub async fn note(shell: &Shell, ids: &BTreeSet<TopicPartition>) -> DiskResult<()> {
    shell.doubtful.borrow_mut().extend(ids);
    let _turn = shell.naming.take().await;
    let mut all = read(shell).await?;
    let count = all.len();
    all.extend(ids);
    match all.len() > count {
        true => write(shell, &all).await,
        false => Ok(()),
    }
}

/// The controller knows of these.
pub async fn forget(shell: &Shell, ids: &BTreeSet<TopicPartition>) -> DiskResult<()> {
    let _turn = shell.naming.take().await;
    let mut all = read(shell).await?;
    let count = all.len();
    all.retain(|id| !ids.contains(id));
    match all.len() < count {
        true => write(shell, &all).await,
        false => Ok(()),
    }
}

async fn write(shell: &Shell, all: &BTreeSet<TopicPartition>) -> DiskResult<()> {
    shell.disk.replace_file(DOUBTFUL_PARTITIONS_FILE, encode(all).as_bytes()).await
}
