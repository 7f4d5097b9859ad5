//! DescribeClientQuotas (48), AlterClientQuotas (49).

use crate::cluster::describe::{QuotaFilter, described_client_quotas};
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
};
use std::rc::Rc;

/// Entities that are looked at before others run: some hundred nanoseconds each.
const ENTITIES_PER_STEP: usize = 1000;

pub async fn describe(shard: &Shard, request: &DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    let filter = match QuotaFilter::of(request) {
        Ok(filter) => filter,
        Err(refused) => return refused,
    };
    let (mut entries, mut after) = (Vec::new(), None);
    loop {
        after =
            filter.describe(shard.image.borrow().quotas(), after.as_ref(), ENTITIES_PER_STEP, &mut entries);
        if after.is_none() {
            return described_client_quotas(entries);
        }
        glommio::executor().yield_if_needed().await;
    }
}

pub async fn alter(shard: &Rc<Shard>, request: AlterClientQuotasRequest) -> AlterClientQuotasResponse {
    let asked: Vec<_> = request.entries.iter().map(|entry| entry.entity.clone()).collect();
    match shard.control(ControlRequest::AlterClientQuotas(request)).await {
        ControlReply::AlterClientQuotas(response) => response,
        ControlReply::Failed(error) => {
            let failed = asked.into_iter().map(|entity| {
                let entity = entity.into_iter().map(|component| {
                    EntityData::default()
                        .with_entity_type(component.entity_type)
                        .with_entity_name(component.entity_name)
                });
                EntryData::default()
                    .with_error_code(error.code())
                    .with_error_message(Some(error.message().into()))
                    .with_entity(entity.collect())
            });
            AlterClientQuotasResponse::default().with_entries(failed.collect())
        }
        _ => unreachable!("quotas are answered by quotas"),
    }
}
