//! The records of a batch, looked into without holding the core: a small batch in this turn, a large one,
//! or one that becomes large when it is decompressed, on the shard's helper thread.

use crate::codec::record_batch::BatchView;
use crate::codec::records::Records;
use crate::log::compaction::payload::{PayloadError, records, records_in_turn};
use crate::shard::disk::blocking;

/// What `look` says of the records. The batch is copied where they go to the helper thread.
pub async fn look_inside<T: Send + 'static>(
    batch: &[u8],
    look: impl Fn(&BatchView<'_>, Records<'_>) -> T + Send + 'static,
) -> Result<T, PayloadError> {
    if let Some(looked) = look_in_turn(batch, &look)? {
        return Ok(looked);
    }
    let batch = batch.to_vec();
    blocking(move || {
        let (view, _) = BatchView::split_first(&batch)?;
        let mut scratch = Vec::new();
        Ok(look(&view, records(&view, &mut scratch)?))
    })
    .await
}

fn look_in_turn<T>(
    batch: &[u8],
    look: impl Fn(&BatchView<'_>, Records<'_>) -> T,
) -> Result<Option<T>, PayloadError> {
    let (view, _) = BatchView::split_first(batch)?;
    let mut scratch = Vec::new();
    Ok(records_in_turn(&view, &mut scratch)?.map(|records| look(&view, records)))
}
