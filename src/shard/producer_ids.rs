//! Producer ids that this shard may give out: a block at a time, each of which is one change of the metadata.

use crate::cluster::record::ProducerIdBlock;
use crate::codec::error_code::ErrorCode;
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use crate::types::ProducerId;
use std::rc::Rc;

/// An id that nobody else gets.
pub async fn next(shard: &Rc<Shard>) -> Result<ProducerId, ErrorCode> {
    loop {
        if let Some(id) = take(shard) {
            return Ok(id);
        }
        refill(shard).await?;
    }
}

/// Sees to it that [`take`] has one, if there is any to be had.
pub async fn prepare(shard: &Rc<Shard>) {
    if shard.producer_ids.get().is_none()
        && let Err(error) = refill(shard).await
    {
        tracing::warn!(%error, "there are no producer ids");
    }
}

/// One of those that are here.
pub fn take(shard: &Shard) -> Option<ProducerId> {
    let block = shard.producer_ids.get()?;
    shard.producer_ids.set(ProducerIdBlock::new(block.first + 1, block.count - 1));
    Some(ProducerId(block.first))
}

async fn refill(shard: &Rc<Shard>) -> Result<(), ErrorCode> {
    match shard.control(ControlRequest::AllocateProducerIds).await {
        ControlReply::ProducerIds(block) => shard.producer_ids.set(Some(block)),
        ControlReply::Failed(error) => return Err(error),
        _ => unreachable!("an allocation is answered by a block"),
    }
    Ok(())
}
