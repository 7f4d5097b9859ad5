//! Journals that have lost something are kept, and say of which partitions: a start takes no log of these for whole
//! (DESIGN 5), until what is left of it has gone.

use crate::log::journal::lost::{self, LOST_PARTITIONS_FILE};
use crate::shard::disk::{blocking, replace_file};
use crate::shard::journal;
use crate::shard::store::Store;
use crate::types::TopicPartition;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

/// Two shards of one process may change the same file.
static CHANGING: Mutex<()> = Mutex::new(());

/// What an earlier start has found a journal to have lost; `None` where it could not say. One that cannot be
/// read now is another matter: partitions that have lost nothing would be offline for it.
pub fn read(directory: &Path) -> io::Result<Option<BTreeSet<TopicPartition>>> {
    match std::fs::read_to_string(directory.join(LOST_PARTITIONS_FILE)) {
        Ok(text) => Ok(lost::decode(&text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub fn write(directory: &Path, lost: &BTreeSet<TopicPartition>) -> io::Result<()> {
    replace_file(&directory.join(LOST_PARTITIONS_FILE), lost::encode(lost).as_bytes())
}

/// Nothing is left of these replicas, as far as is on disk: what has their ids from here on has lost nothing.
pub async fn forget(store: &Rc<Store>, ids: &[TopicPartition]) {
    let (path, gone) = (store.path.clone(), ids.to_vec());
    if let Err(error) = blocking(move || forget_in(&path, |id| gone.contains(id))).await {
        tracing::warn!(partitions = ?ids, %error, "a later start takes replicas for damaged once more");
    }
}

/// The same in a log directory.
pub fn forget_in(log_directory: &Path, is_gone: impl Fn(&TopicPartition) -> bool) -> io::Result<()> {
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    for entry in std::fs::read_dir(log_directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let found = name.to_str().and_then(journal::parse_directory_name);
        if !found.is_some_and(|(_, condition)| condition != journal::Condition::Usable) {
            continue;
        }
        let Some(mut lost) = read(&entry.path())? else { continue };
        let count = lost.len();
        lost.retain(|id| !is_gone(id));
        if lost.len() < count {
            write(&entry.path(), &lost)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::partition_id;
    use crate::shard::disk::remove_if_present;
    use crate::types::ShardId;

    #[test]
    fn what_a_journal_has_lost_is_read_or_the_start_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOST_PARTITIONS_FILE);
        assert_eq!(read(directory.path()).unwrap(), None);
        replace_file(&path, b"nobody knows").unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        write(directory.path(), &BTreeSet::new()).unwrap();
        assert_eq!(read(directory.path()).unwrap(), Some(BTreeSet::new()));
        remove_if_present(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(read(directory.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

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
