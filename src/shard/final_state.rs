//! At a clean stop: everything a start needs so that it need not scan, written many partitions at a
//! time.
//!
//! Beside the active segment its indexes, the producers at the log end and the leader epochs. A
//! partition that was opened with these and got nothing since keeps them as they are.

use crate::log::segment::SegmentFile;
use crate::shard::Shard;
use crate::shard::background::write_checkpoint;
use crate::shard::disk::{blocking, remove_if_present};
use crate::shard::replacing::{Replacement, replace_files};
use crate::shard::replica::Replica;
use crate::shard::segments::EPOCHS_FILE;
use crate::shard::walk::Walk;
use crate::types::Offset;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

/// Files of one batch, and bytes past which it is written: two flushes are shared by so many.
const BATCH_FILES_MAX: usize = 4096;
const BATCH_SIZE_MAX: usize = 16 << 20;

/// The log that the files of a clean stop speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalState {
    /// Base offset of the active segment.
    pub active: Offset,
    pub log_end: Offset,
}

#[derive(Default)]
struct Batch {
    files: Vec<Replacement>,
    size: usize,
    /// Producer snapshots of the clean stop before.
    outdated: Vec<PathBuf>,
}

/// Writes the files of all partitions, then the checkpoint that confirms them.
pub async fn write_final_state(shard: &Rc<Shard>) -> io::Result<()> {
    let mut walk = Walk::new(&shard.store);
    let mut batch = Batch::default();
    while let Some(replica) = walk.next().await {
        let active = replica.log.borrow().active().base_offset;
        replica.finish_rolls(&shard.store, active).await?;
        batch.add(&replica);
        if batch.files.len() >= BATCH_FILES_MAX || batch.size >= BATCH_SIZE_MAX {
            write(shard, std::mem::take(&mut batch)).await?;
        }
    }
    write(shard, batch).await?;
    write_checkpoint(shard).await
}

impl Batch {
    fn add(&mut self, replica: &Replica) {
        let log = replica.log.borrow();
        let (active, log_end) = (log.active().base_offset, log.high_watermark());
        let on_disk = replica.final_state.get();
        if on_disk == Some(FinalState { active, log_end }) {
            return;
        }
        let index = log.active_index();
        let path = |file: SegmentFile, base| replica.directory.join(file.name(base));
        let files = [
            (path(SegmentFile::OffsetIndex, active), index.encode_offset_index()),
            (path(SegmentFile::TimeIndex, active), index.encode_time_index()),
            (path(SegmentFile::ProducerSnapshot, log_end), log.producers.encode_snapshot()),
            (replica.directory.join(EPOCHS_FILE), log.epochs().encode().into_bytes()),
        ];
        self.size += files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        self.files.extend(files.into_iter().map(|(path, bytes)| Replacement { path, bytes }));
        let is_segment = |end| active == end || log.closed().iter().any(|closed| closed.base_offset == end);
        let outdated = on_disk.map(|state| state.log_end).filter(|end| *end != log_end && !is_segment(*end));
        self.outdated.extend(outdated.map(|end| path(SegmentFile::ProducerSnapshot, end)));
    }
}

async fn write(shard: &Rc<Shard>, batch: Batch) -> io::Result<()> {
    let sync_fs = shard.store.disk.sync_fs();
    blocking(move || {
        replace_files(&batch.files, sync_fs)?;
        batch.outdated.iter().try_for_each(|snapshot| remove_if_present(snapshot))
    })
    .await
}
