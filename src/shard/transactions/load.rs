//! A partition of `__transaction_state` read from its beginning, a stretch at a time and without holding the
//! core, into a coordinator. Transactions that are decided go on from there.

use crate::codec::record_batch::{BatchView, Compression};
use crate::codec::records::{RecordView, Records};
use crate::codec::transaction_record::{TransactionRecord, TransactionRecordError};
use crate::log::compaction::payload::PayloadError;
use crate::log::read::Rope;
use crate::shard::Shard;
use crate::shard::catch_up::Reading;
use crate::shard::look_inside::look_inside;
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::step::Pace;
use crate::shard::transactions::{Served, ServedState, TRANSACTIONS_STEP, new_coordinator};
use crate::txn::Effect;
use crate::txn::coordinator::Coordinator;
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
    #[error("the record at offset {at}: {source}")]
    Record { at: Offset, source: TransactionRecordError },
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
        *served.state.borrow_mut() = ServedState::Ready(Box::new(new_coordinator(shard, served.id)));
        return;
    }
    let (shard, served, replica) = (shard.clone(), served.clone(), replica.clone());
    shard.clone().spawn(async move {
        let begun = shard.clock.mono();
        let partition = served.id.partition.index();
        match replay(&shard, &replica).await {
            Ok(mut coordinator) => {
                let ids = coordinator.count();
                let mut effects = go_on(&shard, &mut coordinator).await;
                *served.state.borrow_mut() = ServedState::Ready(Box::new(coordinator));
                let mut pace = Pace::new(&shard.clock);
                while !effects.is_empty() {
                    let later = effects.split_off(effects.len().min(TRANSACTIONS_STEP));
                    served.carry_out(&shard, std::mem::replace(&mut effects, later));
                    pace.give_way().await;
                }
                let took_ms = shard.clock.mono().since(begun).as_millis() as u64;
                tracing::debug!(partition, ids, took_ms, "transactions are loaded");
            }
            Err(error) => {
                *served.state.borrow_mut() = ServedState::Failed { at: shard.clock.mono() };
                if !matches!(error, LoadFailed::Deleted) {
                    tracing::error!(partition, %error, "the transactions of a partition are not available");
                }
            }
        }
    });
}

/// What was decided, and is not ended in all of its partitions. Found before anything is asked: what a request
/// decides meanwhile is not to be ended twice.
async fn go_on(shard: &Rc<Shard>, coordinator: &mut Coordinator) -> Vec<Effect> {
    let mut pace = Pace::new(&shard.clock);
    let mut effects = Vec::new();
    let mut ids = coordinator.ids_after(None, TRANSACTIONS_STEP);
    while let Some(last) = ids.last() {
        ids.iter().for_each(|id| coordinator.loaded(id, &mut effects));
        ids = coordinator.ids_after(Some(last), TRANSACTIONS_STEP);
        pace.give_way().await;
    }
    effects
}

async fn replay(shard: &Rc<Shard>, replica: &Rc<Replica>) -> Result<Coordinator, LoadFailed> {
    let mut coordinator = new_coordinator(shard, replica.id);
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
            let records = if view.compression() == Some(Compression::None) {
                decode_all(&view, Records::new(view.payload(), view.record_count()))
            } else {
                // Nobody has written such, or a directory of Kafka's has come here.
                look_inside(&bytes, decode_all).await.map_err(failed)?
            };
            for record in records {
                pace.give_way().await;
                // A transaction that cannot be read must not end in another way than it was decided.
                let record = record.map_err(failed)?;
                let record = record.map_err(|source| LoadFailed::Record { at: batch.base_offset, source })?;
                if let Some(record) = record {
                    coordinator.apply(record);
                }
            }
            at = batch.end_offset;
        }
        if read.size == 0 {
            glommio::executor().yield_task_queue_now().await; // Memory was short.
        }
    }
}

type Decoded = Result<Option<TransactionRecord>, TransactionRecordError>;

fn decode(record: &RecordView<'_>) -> Decoded {
    TransactionRecord::decode(record.key, record.value)
}

/// Markers, which an operator may have written here, are passed over.
fn decode_all(batch: &BatchView<'_>, records: Records<'_>) -> Vec<Result<Decoded, PayloadError>> {
    let taken = records.filter(|_| !batch.is_control());
    taken.map(|record| record.as_ref().map(decode).map_err(|error| (*error).into())).collect()
}
