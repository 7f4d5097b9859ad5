//! A partition read from its beginning, a stretch at a time and without holding the core, into a coordinator.

use crate::codec::control_record::EndMarker;
use crate::codec::record_batch::{BatchView, Compression};
use crate::codec::records::Records;
use crate::log::compaction::payload::PayloadError;
use crate::log::read::Rope;
use crate::shard::Shard;
use crate::shard::catch_up::Reading;
use crate::shard::coordinators::{BatchPlace, Coordinating, Decoded, Served, State};
use crate::shard::look_inside::look_inside;
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::step::Pace;
use crate::types::Offset;
use crate::types::limits::IO_SIZE_MAX;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks at how far a new leader is.
const HIGH_WATERMARK_WAIT: Duration = Duration::from_millis(5);

/// Why a coordinator cannot take up its work.
#[derive(Debug, thiserror::Error)]
enum LoadFailed<E: Error + 'static> {
    #[error(transparent)]
    Read(#[from] ReadFailed),
    #[error("the batch at offset {at}: {source}")]
    Batch { at: Offset, source: PayloadError },
    #[error("the record at offset {at}: {source}")]
    Record { at: Offset, source: E },
    #[error("the partition was deleted, or is led elsewhere")]
    Gone,
}

/// Reads a partition; at once if there is nothing in it.
pub fn begin<C: Coordinating>(shard: &Rc<Shard>, served: &Rc<Served<C>>, replica: &Rc<Replica>) {
    let is_empty = {
        let log = replica.log.borrow();
        log.log_start() == log.log_end()
    };
    if is_empty {
        return served.take_up(C::empty(shard, served.id));
    }
    let (shard, served, replica) = (shard.clone(), served.clone(), replica.clone());
    shard.clone().spawn(async move {
        let begun = shard.clock.mono();
        let partition = served.id.partition.index();
        match replay::<C>(&shard, &replica).await {
            Ok(coordinator) => {
                let ids = coordinator.count();
                coordinator.go_on(&shard, &served).await;
                let took_ms = shard.clock.mono().since(begun).as_millis() as u64;
                tracing::debug!(partition, ids, took_ms, "{} are loaded", C::STATE);
            }
            Err(error) => {
                *served.state.borrow_mut() = State::Failed { at: shard.clock.mono() };
                if !matches!(error, LoadFailed::Gone) {
                    tracing::error!(partition, %error, "the {} of a partition are not available", C::STATE);
                }
            }
        }
    });
}

async fn replay<C: Coordinating>(
    shard: &Rc<Shard>,
    replica: &Rc<Replica>,
) -> Result<C, LoadFailed<C::RecordError>> {
    let mut coordinator = C::empty(shard, replica.id);
    let mut pace = Pace::new(&shard.clock);
    let mut at = replica.log.borrow().log_start();
    loop {
        if replica.is_deleted() || !replica.replication.serves() {
            return Err(LoadFailed::Gone);
        }
        // What was deleted meanwhile is not needed.
        at = at.max(replica.log.borrow().log_start());
        if at >= replica.log.borrow().high_watermark() {
            if replica.replication.knows_high_watermark() {
                return Ok(coordinator);
            }
            // What the leader before has kept may lie beyond.
            glommio::timer::sleep(HIGH_WATERMARK_WAIT).await;
            continue;
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
            replay_batch(&mut coordinator, replica, batch.base_offset, &bytes, &mut pace).await?;
            at = batch.end_offset;
        }
        if read.size == 0 {
            glommio::executor().yield_task_queue_now().await; // Memory was short.
        }
    }
}

async fn replay_batch<C: Coordinating>(
    coordinator: &mut C,
    replica: &Replica,
    base_offset: Offset,
    bytes: &[u8],
    pace: &mut Pace,
) -> Result<(), LoadFailed<C::RecordError>> {
    let failed = |source| LoadFailed::Batch { at: base_offset, source };
    let (view, _) = BatchView::split_first(bytes).map_err(|error| failed(error.into()))?;
    if view.is_control() {
        if let Some(marker) = EndMarker::read(&view) {
            coordinator.replay_marker(marker, pace).await;
        }
        return Ok(());
    }
    let producer = view.writer().map(|(producer, _)| producer).filter(|_| view.is_transactional());
    let place = BatchPlace { base_offset, producer };
    let unusable = |source| LoadFailed::Record { at: base_offset, source };
    if view.compression() == Some(Compression::None) {
        for record in Records::new(view.payload(), view.record_count()) {
            pace.give_way().await;
            let record = record.map_err(|error| failed(error.into()))?;
            coordinator.replay(replica, place, C::decode(&record)).map_err(unusable)?;
        }
    } else {
        // Nobody has written such, or a directory of Kafka's has come here.
        for record in look_inside(bytes, decode_all::<C>).await.map_err(failed)? {
            pace.give_way().await;
            coordinator.replay(replica, place, record.map_err(failed)?).map_err(unusable)?;
        }
    }
    Ok(())
}

fn decode_all<C: Coordinating>(
    _: &BatchView<'_>,
    records: Records<'_>,
) -> Vec<Result<Decoded<C>, PayloadError>> {
    records.map(|record| record.as_ref().map(C::decode).map_err(|error| (*error).into())).collect()
}
