//! Replicas that may lack their end (DESIGN 5), written down in their log directory until the controller knows.
//!
//! ```text
//! a tail is found torn ─► its partition is named ─► the tail is cut ─► registered without it ─► named no more
//! ```
//!
//! A start that cuts a tail leaves nothing to doubt for the next one: where it ends before it is registered, that one
//! goes by what was written down.

use crate::log::named_partitions::DOUBTFUL_PARTITIONS_FILE;
use crate::shard::disk::blocking;
use crate::shard::named_partitions;
use crate::shard::store::Store;
use crate::types::TopicPartition;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Whom nobody knows of yet: `all` where there is a file that does not say.
pub fn read(
    log_directory: &Path,
    all: impl FnOnce() -> BTreeSet<TopicPartition>,
) -> io::Result<BTreeSet<TopicPartition>> {
    let path = log_directory.join(DOUBTFUL_PARTITIONS_FILE);
    match named_partitions::read(&path)? {
        Some(named) => Ok(named),
        None if path.try_exists()? => Ok(all()),
        None => Ok(BTreeSet::new()),
    }
}

/// Before anything is changed of theirs.
pub fn note_in(log_directory: &Path, ids: &BTreeSet<TopicPartition>) -> io::Result<()> {
    named_partitions::add(&log_directory.join(DOUBTFUL_PARTITIONS_FILE), ids.iter().copied())
}

/// The same of one, while the shard opens it.
pub async fn note(log_directory: &Path, id: TopicPartition) -> io::Result<()> {
    let path = log_directory.to_owned();
    blocking(move || note_in(&path, &BTreeSet::from([id]))).await
}

/// Of these nothing is to be told any more.
pub fn forget_in(log_directory: &Path, is_over: impl Fn(&TopicPartition) -> bool) -> io::Result<()> {
    named_partitions::forget(&log_directory.join(DOUBTFUL_PARTITIONS_FILE), is_over)
}

/// The controller knows of these, or nobody counts on them.
pub async fn forget(store: Rc<Store>, ids: BTreeSet<TopicPartition>) {
    let path = store.path.clone();
    let forgotten = blocking(move || forget_in(&path, |id| ids.contains(id))).await;
    if let Err(error) = forgotten {
        tracing::warn!(%error, "the next start tells once more which replicas may lack their end");
    }
}
