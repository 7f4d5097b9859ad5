//! DescribeClientQuotas (48), AlterClientQuotas (49).

use crate::cluster::describe::describe_client_quotas;
use crate::shard::Shard;
use crate::shard::controller::{ControlReply, ControlRequest};
use kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
};
use std::rc::Rc;

pub fn describe(shard: &Shard, request: &DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    describe_client_quotas(shard.image.borrow().quotas(), request)
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
