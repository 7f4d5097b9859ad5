//! InitProducerId (key 22) for idempotent producers (KIP-98). Transactions are not offered yet: a
//! transactional id is refused.

use crate::cluster::record::ProducerIdBlock;
use crate::codec::error_code::ErrorCode;
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use std::rc::Rc;

pub async fn answer(shard: &Rc<Shard>, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let refused = |error: ErrorCode| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if request.transactional_id.is_some() {
        return refused(ErrorCode::CoordinatorNotAvailable);
    }
    match next_producer_id(shard).await {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Err(error) => refused(error),
    }
}

/// Takes an id from this shard's block; a new block is one change of the metadata.
async fn next_producer_id(shard: &Rc<Shard>) -> Result<i64, ErrorCode> {
    loop {
        if let Some(block) = shard.producer_ids.get() {
            shard.producer_ids.set(ProducerIdBlock::new(block.first + 1, block.count - 1));
            return Ok(block.first);
        }
        match shard.control(ControlRequest::AllocateProducerIds).await {
            ControlReply::ProducerIds(block) => shard.producer_ids.set(Some(block)),
            ControlReply::Failed(error) => return Err(error),
            _ => unreachable!("an allocation is answered by a block"),
        }
    }
}
