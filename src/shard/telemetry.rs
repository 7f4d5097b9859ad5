//! Client instances and what they measure (`crate::telemetry` decides): found by their ids, on the shard that an id
//! belongs to, whichever connection they come by.

use crate::codec::compression::decompress;
use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::Compression;
use crate::metrics::clients::{ClientMetrics, ClientSeries};
use crate::shard::Shard;
use crate::shard::conn::Connection;
use crate::shard::message::{Reply, Request};
use crate::telemetry::instances::{
    Assigned, ClientIdentity, InstanceView, Instances, Push, Subscriptions, read_series,
};
use crate::types::limits::TELEMETRY_DECOMPRESSED_SIZE_MAX;
use crate::types::{ShardId, Uuid, uuid_text};
use bytes::Bytes;
use glommio::sync::Semaphore;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

/// Series that are kept before others run: some hundred nanoseconds each.
const SERIES_PER_STEP: usize = 200;

/// Instances that are forgotten before others run, each with all of its series.
const EXPIRED_PER_STEP: usize = 4;

/// Lives: one per shard.
pub struct Telemetry {
    pub instances: RefCell<Instances>,
    subscriptions: RefCell<Subscriptions>,
    /// One push is read at a time: the thread that does it has other work as well.
    reading: Semaphore,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        let (instances, subscriptions) = Default::default();
        Telemetry { instances, subscriptions, reading: Semaphore::new(1) }
    }
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
        self.telemetry.subscriptions.borrow_mut().update(image.subscriptions());
    }

    /// Forgets the instances that have been silent for too long.
    pub async fn expire_telemetry(&self) {
        let now = self.clock.mono();
        loop {
            let is_more = self.telemetry.instances.borrow_mut().expire(now, EXPIRED_PER_STEP);
            if !is_more {
                return;
            }
            glommio::executor().yield_task_queue_now().await;
        }
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

/// Decompresses and reads pushed metrics beside the core: a few bytes may expand to very many.
async fn take(shard: &Shard, instance: Uuid, compression: i8, metrics: Bytes) -> Result<(), ErrorCode> {
    let instances = &shard.telemetry.instances;
    let codec = u8::try_from(compression).ok().filter(|code| usize::from(*code) < Compression::ALL.len());
    let Some(codec) = codec.map(|code| Compression::ALL[usize::from(code)]) else {
        instances.borrow_mut().tell_to_ask(instance, shard.clock.mono());
        return Err(ErrorCode::UnsupportedCompressionType);
    };
    if metrics.is_empty() {
        return Ok(());
    }
    let asked = instances.borrow().asked(instance);
    let size_max = TELEMETRY_DECOMPRESSED_SIZE_MAX.max(shard.config.telemetry_max_bytes);
    let read = move || {
        let mut expanded = Vec::new();
        decompress(codec, &metrics, size_max, &mut expanded).map_err(|error| error.to_string())?;
        read_series(&expanded, &asked).map_err(|error| error.to_string())
    };
    let series = {
        let _turn = shard.telemetry.reading.acquire_permit(1).await.expect("it is never closed");
        shard.stores.for_reading().side_thread.run(read).await
    };
    let series = series.map_err(|error| {
        tracing::debug!(%error, "pushed metrics are none");
        ErrorCode::InvalidRecord
    })?;
    instances.borrow_mut().pushed(instance);
    let mut series = series.into_iter();
    while series.len() > 0 {
        instances.borrow_mut().keep(instance, series.by_ref().take(SERIES_PER_STEP));
        glommio::executor().yield_if_needed().await;
    }
    Ok(())
}
