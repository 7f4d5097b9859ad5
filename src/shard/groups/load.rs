//! A partition of `__consumer_offsets` read from its beginning, a stretch at a time and without holding the
//! core, into a coordinator.

use crate::codec::group_record::{GroupRecord, GroupRecordError};
use crate::codec::record_batch::BatchView;
use crate::codec::records::Records;
use crate::group::coordinator::Coordinator;
use crate::log::compaction::payload::PayloadError;
use crate::log::read::Rope;
use crate::shard::Shard;
use crate::shard::catch_up::Reading;
use crate::shard::groups::{Served, ServedState, for_each_group, forget_gone_topics, new_coordinator};
use crate::shard::look_inside::look_inside;
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::step::Pace;
use crate::types::Offset;
use crate::types::limits::IO_SIZE_MAX;
use std::rc::Rc;

/// Why a coordinator cannot take up its work.
#[derive(Debug, thiserror::Error)]
enum LoadFailed {
    #[error(transparent)]
    Read(#[from] ReadFailed),
    #[error("the batch at offset {at}: {source}")]
    Batch { at: Offset, source: PayloadError },
    #[error("the partition was deleted")]
    Deleted,
}

/// Reads a partition; at once if there is nothing in it.
pub fn begin(shard: &Rc<Shard>, served: &Rc<Served>, replica: &Rc<Replica>) {
    let is_empty = {
        let log = replica.log.borrow();
        log.log_start() == log.log_end()
    };
    if is_empty {
        *served.state.borrow_mut() = ServedState::Ready(Box::new(new_coordinator(shard)));
        return;
    }
    let (shard, served, replica) = (shard.clone(), served.clone(), replica.clone());
    shard.clone().spawn(async move {
        let begun = shard.clock.mono();
        let partition = served.id.partition.index();
        match replay(&shard, &replica).await {
            Ok(coordinator) => {
                let groups = coordinator.group_count();
                *served.state.borrow_mut() = ServedState::Ready(Box::new(coordinator));
                for_each_group(&shard, &served, |coordinator, id, now, effects| {
                    coordinator.loaded(id, now, effects);
                })
                .await;
                let took_ms = shard.clock.mono().since(begun).as_millis() as u64;
                tracing::debug!(partition, groups, took_ms, "consumer groups are loaded");
                // A crash may have come between a topic's deletion and theirs.
                forget_gone_topics(&shard, &served).await;
            }
            Err(error) => {
                *served.state.borrow_mut() = ServedState::Failed { at: shard.clock.mono() };
                if !matches!(error, LoadFailed::Deleted) {
                    tracing::error!(partition, %error, "the consumer groups of a partition are not available");
                }
            }
        }
    });
}

async fn replay(shard: &Rc<Shard>, replica: &Rc<Replica>) -> Result<Coordinator, LoadFailed> {
    let mut coordinator = new_coordinator(shard);
    let mut pace = Pace::new(&shard.clock);
    let mut at = replica.log.borrow().log_start();
    loop {
        if replica.is_deleted() {
            return Err(LoadFailed::Deleted);
        }
        // What was deleted meanwhile is not needed.
        at = at.max(replica.log.borrow().log_start());
        if at >= replica.log.borrow().high_watermark() {
            return Ok(coordinator);
        }
        let reading = Reading::own(shard.stores.of(replica));
        let read = match replica.read(&reading, at, IO_SIZE_MAX).await {
            Err(ReadFailed::OutOfRange) if at < replica.log.borrow().log_start() => continue,
            read => read.inspect_err(|failed| replica.tell(shard.stores.of(replica), failed))?,
        };
        let pieces: Vec<&[u8]> = read.slices.iter().map(Slice::bytes).collect();
        let rope = Rope::new(&pieces);
        for batch in rope.batches(0) {
            let bytes = rope.copied(batch.at..batch.at + batch.size);
            let records = look_inside(&bytes, decode).await;
            for record in records.map_err(|source| LoadFailed::Batch { at: batch.base_offset, source })? {
                pace.give_way().await;
                match record {
                    Ok(record) => coordinator.apply(&record),
                    // One group is the worse for it, the others go on.
                    Err(error) => {
                        let partition = replica.id.partition.index();
                        tracing::error!(partition, batch = %batch.base_offset, %error, "a record of consumer groups is passed over");
                    }
                }
            }
            at = batch.end_offset;
        }
        if read.size == 0 {
            glommio::executor().yield_task_queue_now().await; // Memory was short.
        }
    }
}

/// The records of a batch that are known here. Of transactions, which nobody can have had yet, none.
fn decode(batch: &BatchView<'_>, records: Records<'_>) -> Vec<Result<GroupRecord, GroupRecordError>> {
    if batch.is_control() || batch.is_transactional() {
        return Vec::new();
    }
    let known = records.map_while(Result::ok);
    known.filter_map(|record| GroupRecord::decode(record.key, record.value).transpose()).collect()
}
