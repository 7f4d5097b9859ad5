//! Journals that have lost something are kept, and say of which partitions: a start takes no log of these for whole
//! (DESIGN 5), until what is left of it has gone.

use crate::log::named_partitions::LOST_PARTITIONS_FILE;
use crate::shard::disk::{blocking, is_full_disk};
use crate::shard::segments::NO_SPACE_RETRY;
use crate::shard::store::Store;
use crate::shard::{journal, named_partitions};
use crate::types::TopicPartition;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// What an earlier start has found a journal to have lost; `None` where it could not say.
pub fn read(directory: &Path) -> io::Result<Option<BTreeSet<TopicPartition>>> {
    named_partitions::read(&directory.join(LOST_PARTITIONS_FILE))
}

pub fn write(directory: &Path, lost: &BTreeSet<TopicPartition>) -> io::Result<()> {
    named_partitions::write(&directory.join(LOST_PARTITIONS_FILE), lost)
}

/// Nothing is left of these replicas, as far as is on disk: what has their ids from here on has lost nothing.
pub async fn forget(store: &Rc<Store>, ids: BTreeSet<TopicPartition>) {
    if ids.is_empty() || store.is_offline() {
        return;
    }
    match forget_once(store, &ids).await {
        // Nothing waits for it, least of all what would make room.
        Err(error) if is_full_disk(&error) => {
            store.spawn(forget_once_there_is_space(store.clone(), ids));
        }
        forgotten => report(forgotten),
    }
}

async fn forget_once_there_is_space(store: Rc<Store>, ids: BTreeSet<TopicPartition>) {
    loop {
        glommio::timer::sleep(NO_SPACE_RETRY).await;
        if store.is_offline() {
            return;
        }
        match forget_once(&store, &ids).await {
            Err(error) if is_full_disk(&error) => {}
            forgotten => return report(forgotten),
        }
    }
}

async fn forget_once(store: &Store, ids: &BTreeSet<TopicPartition>) -> io::Result<()> {
    let (path, gone) = (store.path.clone(), ids.clone());
    blocking(move || forget_in(&path, |id| gone.contains(id))).await
}

fn report(forgotten: io::Result<()>) {
    if let Err(error) = forgotten {
        tracing::warn!(%error, "a later start takes replicas for damaged once more that are made again");
    }
}

/// The same in a log directory.
pub fn forget_in(log_directory: &Path, is_gone: impl Fn(&TopicPartition) -> bool) -> io::Result<()> {
    for entry in std::fs::read_dir(log_directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let found = name.to_str().and_then(journal::parse_directory_name);
        if found.is_some_and(|(_, condition)| condition != journal::Condition::Usable) {
            named_partitions::forget(&entry.path().join(LOST_PARTITIONS_FILE), &is_gone)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::partition_id;
    use crate::types::ShardId;

    #[test]
    fn what_has_gone_is_lost_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let lost: BTreeSet<TopicPartition> = (0..3).map(|index| partition_id(1, index)).collect();
        let kept = directory.path().join(journal::damaged_directory_name(ShardId(0), 1));
        let live = directory.path().join(journal::directory_name(ShardId(0)));
        for path in [&kept, &live] {
            std::fs::create_dir(path).unwrap();
            write(path, &lost).unwrap();
        }
        forget_in(directory.path(), |id| *id == partition_id(1, 1)).unwrap();
        let expected = BTreeSet::from([partition_id(1, 0), partition_id(1, 2)]);
        assert_eq!(read(&kept).unwrap(), Some(expected));
        assert_eq!(read(&live).unwrap(), Some(lost));
    }
}
