//! At a clean stop: everything a start needs so that it need not scan.
//!
//! What `log::final_state` takes goes into one file of the shard; a partition with more gets its
//! indexes, its checksums, the producers at the log end and the leader epochs beside its active segment.

use crate::log::data_dir::{final_state_name, is_final_state};
use crate::log::final_state::{self, FinalStateWriter, PartitionState};
use crate::log::segment::SegmentFile;
use crate::metrics::recovery::{RecoveryBranch, RecoveryCounts};
use crate::shard::Shard;
use crate::shard::background::write_checkpoint;
use crate::shard::disk::{blocking, replace_file};
use crate::shard::replacing::{Replacement, replace_files};
use crate::shard::replica::Replica;
use crate::shard::segments::EPOCHS_FILE;
use crate::shard::store::Store;
use crate::shard::walk::Walk;
use crate::types::TopicPartition;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Bytes of files past which they are written: two flushes are shared by so many.
const BATCH_SIZE_MAX: usize = 16 << 20;

/// Writes down where all partitions of a log directory end, then the checkpoint that confirms it.
pub async fn write_final_state(shard: &Rc<Shard>, store: &Rc<Store>) -> io::Result<()> {
    let mut walk = Walk::new(store);
    let mut states = FinalStateWriter::default();
    let mut files = Vec::new();
    while let Some(replica) = walk.next().await {
        let active = replica.log.borrow().active().base_offset;
        replica.finish_rolls(store, active).await?;
        let state = state_of(&replica);
        if !states.add(replica.id, &state) {
            files.extend(files_of(&replica, state));
        }
        if files.iter().map(|file: &Replacement| file.bytes.len()).sum::<usize>() >= BATCH_SIZE_MAX {
            write(store, std::mem::take(&mut files)).await?;
        }
    }
    write(store, files).await?;
    let path = store.path.join(final_state_name(shard.id));
    blocking(move || replace_file(&path, &states.finish())).await?;
    write_checkpoint(shard, store).await
}

pub fn state_of(replica: &Replica) -> PartitionState {
    PartitionState::of(&replica.log.borrow(), replica.tail().last_partial_block())
}

fn files_of(replica: &Replica, state: PartitionState) -> impl Iterator<Item = Replacement> {
    let path = |file: SegmentFile, base| replica.directory.join(file.name(base));
    let has_transactions = !state.transactions.is_empty();
    let transactions = (path(SegmentFile::TransactionIndex, state.active), state.transactions);
    let files = [
        (path(SegmentFile::OffsetIndex, state.active), state.offset_index),
        (path(SegmentFile::TimeIndex, state.active), state.time_index),
        (path(SegmentFile::Checksums, state.active), state.checksums),
        (path(SegmentFile::ProducerSnapshot, state.log_end), state.producers),
        (replica.directory.join(EPOCHS_FILE), state.epochs),
    ];
    let files = files.into_iter().chain(has_transactions.then_some(transactions));
    files.map(|(path, bytes)| Replacement { path, bytes })
}

async fn write(store: &Store, files: Vec<Replacement>) -> io::Result<()> {
    let sync_fs = store.disk.sync_fs();
    blocking(move || replace_files(&files, sync_fs)).await
}

/// What the shards of the last run have left, if the stop was clean; the files are removed. Blocks.
#[expect(clippy::disallowed_methods, reason = "runs on the main thread at start")]
pub fn take_final_states(
    data_dir: &Path,
    clean: bool,
    recovery: &mut RecoveryCounts,
) -> io::Result<BTreeMap<TopicPartition, PartitionState>> {
    let mut states = BTreeMap::new();
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_final_state) {
            continue;
        }
        if clean {
            match final_state::decode(&std::fs::read(entry.path())?) {
                Ok(found) => states.extend(found),
                Err(error) => {
                    tracing::warn!(path = %entry.path().display(), %error, "a final state is unreadable; its partitions are scanned");
                    recovery.count(RecoveryBranch::FinalStateUnreadable);
                }
            }
        }
        std::fs::remove_file(entry.path())?;
    }
    Ok(states)
}
