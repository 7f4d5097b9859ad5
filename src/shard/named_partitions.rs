//! The files of [`log::named_partitions`](crate::log::named_partitions), read and changed.

use crate::log::named_partitions::{decode, encode};
use crate::shard::disk::replace_file;
use crate::types::TopicPartition;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Shards of one process may change the same file: on their helper threads, where waiting holds nobody up.
static CHANGING: Mutex<()> = Mutex::new(());

/// `Ok(None)` where there is no file, or none that says anything. One that cannot be read now is another matter:
/// partitions that lack nothing would be taken for some that do.
pub fn read(path: &Path) -> io::Result<Option<BTreeSet<TopicPartition>>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(decode(&text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub fn write(path: &Path, named: &BTreeSet<TopicPartition>) -> io::Result<()> {
    replace_file(path, encode(named).as_bytes())
}

/// These are named as well.
pub fn add(path: &Path, named: impl IntoIterator<Item = TopicPartition>) -> io::Result<()> {
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = read(path)?.unwrap_or_default();
    let count = all.len();
    all.extend(named);
    if all.len() > count { write(path, &all) } else { Ok(()) }
}

/// Those are named no more.
pub fn forget(path: &Path, is_forgotten: impl Fn(&TopicPartition) -> bool) -> io::Result<()> {
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut all) = read(path)? else { return Ok(()) };
    let count = all.len();
    all.retain(|id| !is_forgotten(id));
    if all.len() < count { write(path, &all) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::partition_id;
    use crate::shard::disk::remove_if_present;

    #[test]
    fn names_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some-partitions");
        let ids = |indexes: &[usize]| {
            indexes.iter().map(|index| partition_id(1, *index)).collect::<BTreeSet<TopicPartition>>()
        };
        forget(&path, |_| true).unwrap();
        assert!(!path.exists());
        add(&path, ids(&[0, 2])).unwrap();
        add(&path, ids(&[1, 2])).unwrap();
        assert_eq!(read(&path).unwrap(), Some(ids(&[0, 1, 2])));
        forget(&path, |id| *id == partition_id(1, 1)).unwrap();
        assert_eq!(read(&path).unwrap(), Some(ids(&[0, 2])));
    }

    #[test]
    fn what_says_nothing_is_no_error_and_what_cannot_be_read_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some-partitions");
        assert_eq!(read(&path).unwrap(), None);
        replace_file(&path, b"nobody knows").unwrap();
        assert_eq!(read(&path).unwrap(), None);
        remove_if_present(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
