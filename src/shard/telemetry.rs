//! Client instances and what they measure (`crate::telemetry` decides): found by their ids, on the shard that an id
//! belongs to, whichever connection they come by.

use crate::codec::compression::decompress;
use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::Compression;
use crate::config::client_metrics::Subscription;
use crate::metrics::clients::{ClientMetrics, ClientSeries};
use crate::shard::Shard;
use crate::shard::conn::Connection;
use crate::shard::disk::blocking;
use crate::shard::message::{Reply, Request};
use crate::telemetry::instances::{Assigned, ClientIdentity, InstanceView, Instances, Push, Subscriptions};
use crate::types::limits::TELEMETRY_DECOMPRESSED_SIZE_MAX;
use crate::types::{ShardId, Uuid, uuid_text};
use bytes::Bytes;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

/// Pushed bytes that are decompressed in the turn of the request; more go to the helper thread.
const IN_TURN_SIZE_MAX: usize = 4 << 10;

/// Lives: one per shard.
#[derive(Default)]
pub struct Telemetry {
    pub instances: RefCell<Instances>,
    subscriptions: RefCell<Subscriptions>,
}

/// What a client instance asks.
pub struct TelemetryCall {
    pub instance: Uuid,
    pub identity: ClientIdentity,
    pub request: TelemetryRequest,
}

pub enum TelemetryRequest {
    Get,
    Push { push: Push, compression: i8, metrics: Bytes },
}

pub enum TelemetryReply {
    Assigned(Result<Assigned, ErrorCode>),
    Pushed(ErrorCode),
}

impl Shard {
    /// The subscriptions are others now.
    pub fn subscriptions_changed(&self) {
        let image = self.image.borrow();
        let mut subscriptions = self.telemetry.subscriptions.borrow_mut();
        subscriptions.version += 1;
        // They were checked before they were committed; those of another build may be none.
        subscriptions.all =
            image.subscriptions().filter_map(|(_, settings)| Subscription::parse(settings).ok()).collect();
    }

    /// Asks the shard that has the instance.
    pub async fn telemetry(self: &Rc<Self>, call: TelemetryCall) -> TelemetryReply {
        let count = self.mesh.shard_count() as u128;
        let owner = ShardId((call.instance.as_u128() % count) as u16);
        if owner == self.id {
            return call_local(self, call).await;
        }
        match self.mesh.call(owner, Request::Telemetry(Box::new(call))).await {
            Reply::Telemetry(reply) => reply,
            _ => unreachable!("telemetry is answered by telemetry"),
        }
    }

    /// What the client at an address measures, as far as it is this shard's.
    pub fn client_metrics(&self, address: SocketAddr) -> Vec<ClientMetrics> {
        let instances = self.telemetry.instances.borrow();
        let shown = |view: InstanceView| {
            let series = view.series.into_iter();
            let series = series.map(|((name, attributes), value)| ClientSeries { name, attributes, value });
            ClientMetrics {
                instance: uuid_text(view.instance),
                pushes: view.pushes,
                interval: view.interval,
                series: series.collect(),
            }
        };
        instances.views_of(&address.ip().to_string(), address.port()).map(shown).collect()
    }
}

/// Who is behind a connection, as subscriptions tell clients apart.
pub fn identity(connection: &Connection) -> ClientIdentity {
    let client = connection.client.borrow();
    ClientIdentity {
        client_id: client.client_id.clone().unwrap_or_default(),
        software_name: client.software_name.clone(),
        software_version: client.software_version.clone(),
        address: connection.peer.ip().to_string(),
        port: connection.peer.port(),
    }
}

/// For an instance of this shard.
pub async fn call_local(shard: &Rc<Shard>, call: TelemetryCall) -> TelemetryReply {
    let TelemetryCall { instance, identity, request } = call;
    let now = shard.clock.mono();
    match request {
        TelemetryRequest::Get => {
            let subscriptions = shard.telemetry.subscriptions.borrow();
            let mut instances = shard.telemetry.instances.borrow_mut();
            TelemetryReply::Assigned(instances.get(instance, identity, &subscriptions, now))
        }
        TelemetryRequest::Push { push, compression, metrics } => {
            let begun = {
                let subscriptions = shard.telemetry.subscriptions.borrow();
                let mut instances = shard.telemetry.instances.borrow_mut();
                let size_max = shard.config.telemetry_max_bytes;
                instances.begin_push(instance, identity, push, size_max, &subscriptions, now)
            };
            let taken = match begun {
                Ok(()) => take(shard, instance, compression, metrics).await,
                Err(error) => Err(error),
            };
            TelemetryReply::Pushed(taken.err().unwrap_or_default())
        }
    }
}

async fn take(shard: &Shard, instance: Uuid, compression: i8, metrics: Bytes) -> Result<(), ErrorCode> {
    let codec = u8::try_from(compression).ok().filter(|code| usize::from(*code) < Compression::ALL.len());
    let codec = codec.map(|code| Compression::ALL[usize::from(code)]);
    let codec = codec.ok_or(ErrorCode::UnsupportedCompressionType)?;
    if metrics.is_empty() {
        return Ok(());
    }
    let is_small = metrics.len() <= IN_TURN_SIZE_MAX;
    let expand = move || {
        let mut expanded = Vec::new();
        decompress(codec, &metrics, TELEMETRY_DECOMPRESSED_SIZE_MAX, &mut expanded).map(|()| expanded)
    };
    let expanded = if is_small { expand() } else { blocking(expand).await };
    let expanded = expanded.map_err(|_| ErrorCode::InvalidRecord)?;
    let taken = shard.telemetry.instances.borrow_mut().take(instance, &expanded);
    taken.map_err(|error| {
        tracing::debug!(%error, "pushed metrics are none");
        ErrorCode::InvalidRecord
    })
}
