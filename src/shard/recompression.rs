//! Batches compressed as their topic stores them, without holding the core: a small one in this turn, a large one,
//! or one that becomes large when it is decompressed, on the shard's side thread. The caller waits, so that batches
//! of a connection are appended in their order.

use crate::codec::compression::DecompressError;
use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::BatchView;
use crate::log::compaction::payload::PayloadError;
use crate::log::partition::AppendDecision;
use crate::log::recompression::{StoredCompression, recompress, recompress_in_turn};
use crate::shard::message::ProduceOutcome;
use crate::shard::replica::Replica;
use crate::shard::store::Store;

/// What is to be appended instead of a batch; `None`: the batch itself, or it is refused or known already.
pub async fn recompressed(
    store: &Store,
    replica: &Replica,
    batch: &[u8],
    to: StoredCompression,
) -> Result<Option<Vec<u8>>, ProduceOutcome> {
    let (view, _) = BatchView::split_first(batch).expect("it was checked where it was received");
    if !to.changes(&view) {
        return Ok(None);
    }
    let size_max = {
        let log = replica.log.borrow();
        match log.decide_append(&view, store.clock.wall()) {
            Ok(AppendDecision::Append(_)) => log.config.batch_size_max,
            Ok(AppendDecision::Duplicate(_)) | Err(_) => return Ok(None),
        }
    };
    if let Some(stored) = recompress_in_turn(&view, to).map_err(refused)? {
        return Ok(Some(stored));
    }
    let batch = batch.to_vec();
    let stored = store.side_thread.run(move || {
        let (view, _) = BatchView::split_first(&batch)?;
        recompress(&view, to, size_max)
    });
    stored.await.map(Some).map_err(refused)
}

fn refused(error: PayloadError) -> ProduceOutcome {
    let code = match error {
        PayloadError::Decompress(DecompressError::TooLarge { .. }) => ErrorCode::MessageTooLarge,
        PayloadError::Decompress(DecompressError::Corrupt { .. })
        | PayloadError::Batch(_)
        | PayloadError::Record(_)
        | PayloadError::Codec
        | PayloadError::OffsetDelta { .. }
        | PayloadError::Order { .. } => ErrorCode::InvalidRecord,
    };
    ProduceOutcome { error: code, message: Some(error.to_string()), ..Default::default() }
}
