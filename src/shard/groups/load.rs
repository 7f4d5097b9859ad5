//! A partition of `__consumer_offsets` read from its beginning, a stretch at a time and without holding the
//! core, into a coordinator.

use crate::codec::control_record::EndMarker;
use crate::codec::group_record::{GroupRecord, GroupRecordError};
use crate::codec::record_batch::{BatchView, Compression};
use crate::codec::records::{RecordView, Records};
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
use crate::types::limits::{GROUP_TRANSACTION_AT_ONCE_MAX, IO_SIZE_MAX};
use crate::types::{Offset, ProducerId};
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
            let failed = |source| LoadFailed::Batch { at: batch.base_offset, source };
            let (view, _) = BatchView::split_first(&bytes).map_err(|error| failed(error.into()))?;
            if view.is_control() {
                // Its transaction is decided.
                if let Some(marker) = EndMarker::read(&view) {
                    coordinator.transaction_ended(marker.producer, marker.outcome);
                    while coordinator.end_transactions(GROUP_TRANSACTION_AT_ONCE_MAX) {
                        pace.give_way().await;
                    }
                }
                at = batch.end_offset;
                continue;
            }
            let producer = view.writer().map(|(producer, _)| producer).filter(|_| view.is_transactional());
            let is_ours = view.compression() == Some(Compression::None);
            if !is_ours {
                // Nobody has written such, or a directory of Kafka's has come here.
                for record in look_inside(&bytes, decode_all).await.map_err(failed)? {
                    pace.give_way().await;
                    let record = record.map_err(failed)?;
                    take(&mut coordinator, replica, (batch.base_offset, producer), record);
                }
            } else {
                for record in Records::new(view.payload(), view.record_count()) {
                    pace.give_way().await;
                    let record = record.map_err(|error| failed(error.into()))?;
                    take(&mut coordinator, replica, (batch.base_offset, producer), decode(&record));
                }
            }
            at = batch.end_offset;
        }
        if read.size == 0 {
            glommio::executor().yield_task_queue_now().await; // Memory was short.
        }
    }
}

type Decoded = Result<Option<GroupRecord>, GroupRecordError>;

fn decode(record: &RecordView<'_>) -> Decoded {
    GroupRecord::decode(record.key, record.value)
}

fn decode_all(_: &BatchView<'_>, records: Records<'_>) -> Vec<Result<Decoded, PayloadError>> {
    records.map(|record| record.as_ref().map(decode).map_err(|error| (*error).into())).collect()
}

/// `producer`: whose transaction the batch is part of.
fn take(
    coordinator: &mut Coordinator,
    replica: &Replica,
    (batch, producer): (Offset, Option<ProducerId>),
    record: Decoded,
) {
    match record {
        Ok(Some(mut record)) => {
            if let GroupRecord::Group { group, value: Some(value) } = &mut record {
                let dropped = value.drop_repeated();
                if dropped > 0 {
                    let partition = replica.id.partition.index();
                    tracing::error!(partition, %batch, group, dropped, "a group's record names members twice");
                }
            }
            match producer {
                Some(producer) => coordinator.apply_in_transaction(producer, &record),
                None => coordinator.apply(&record),
            }
        }
        Ok(None) => {} // Of another kind of group.
        // One group is the worse for it, the others go on.
        Err(error) => {
            let partition = replica.id.partition.index();
            tracing::error!(partition, %batch, %error, "a record of consumer groups is passed over");
        }
    }
}
