//! GetTelemetrySubscriptions (71), PushTelemetry (72).

use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::Compression;
use crate::shard::Shard;
use crate::shard::conn::Connection;
use crate::shard::telemetry::{TelemetryCall, TelemetryReply, TelemetryRequest, identity};
use crate::telemetry::instances::{Assigned, Push};
use crate::types::Uuid;
use kafka_protocol::messages::{
    GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse, PushTelemetryRequest,
    PushTelemetryResponse,
};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;

/// What clients may compress with, the best first, as Kafka has it.
const CODECS: [Compression; 4] =
    [Compression::Zstd, Compression::Lz4, Compression::Gzip, Compression::Snappy];

/// Nobody's, and another one that Kafka reserves.
fn is_reserved(instance: Uuid) -> bool {
    instance.as_u128() <= 1
}

pub async fn get(
    shard: &Rc<Shard>,
    connection: &Connection,
    request: GetTelemetrySubscriptionsRequest,
) -> GetTelemetrySubscriptionsResponse {
    let instance = match request.client_instance_id.is_nil() {
        true => Uuid::new_v4(),
        false => request.client_instance_id,
    };
    let call = TelemetryCall { instance, identity: identity(connection), request: TelemetryRequest::Get };
    match shard.telemetry(call).await {
        TelemetryReply::Assigned(Ok(assigned)) => told(shard, assigned),
        TelemetryReply::Assigned(Err(error)) | TelemetryReply::Pushed(error) => {
            GetTelemetrySubscriptionsResponse::default().with_error_code(error.code())
        }
    }
}

fn told(shard: &Shard, assigned: Assigned) -> GetTelemetrySubscriptionsResponse {
    let interval = i32::try_from(assigned.interval.as_millis()).unwrap_or(i32::MAX);
    let metrics = assigned.metrics.into_iter().map(StrBytes::from_string);
    GetTelemetrySubscriptionsResponse::default()
        .with_client_instance_id(assigned.instance)
        .with_subscription_id(assigned.subscription_id)
        .with_accepted_compression_types(CODECS.iter().map(|codec| *codec as i8).collect())
        .with_push_interval_ms(interval)
        .with_telemetry_max_bytes(shard.config.telemetry_max_bytes as i32)
        .with_delta_temporality(true)
        .with_requested_metrics(metrics.collect())
}

pub async fn push(
    shard: &Rc<Shard>,
    connection: &Connection,
    request: PushTelemetryRequest,
) -> PushTelemetryResponse {
    let refused = |error: ErrorCode| PushTelemetryResponse::default().with_error_code(error.code());
    if is_reserved(request.client_instance_id) {
        return refused(ErrorCode::InvalidRequest);
    }
    let push = Push {
        subscription_id: request.subscription_id,
        is_last: request.terminating,
        size: request.metrics.len(),
    };
    let (compression, metrics) = (request.compression_type, request.metrics);
    let call = TelemetryCall {
        instance: request.client_instance_id,
        identity: identity(connection),
        request: TelemetryRequest::Push { push, compression, metrics },
    };
    match shard.telemetry(call).await {
        TelemetryReply::Pushed(error) => refused(error),
        TelemetryReply::Assigned(_) => unreachable!("a push is answered as such"),
    }
}
