//! Connected clients, as the admin plane shows them: copies that a shard makes when it is asked.

use std::net::SocketAddr;
use std::time::Duration;

use crate::types::ShardId;

/// One connection of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSnapshot {
    pub shard: ShardId,
    /// Among those of its shard since the start.
    pub connection: u64,
    pub address: SocketAddr,
    /// As its last request that was neither Produce nor Fetch named it, or its first.
    pub client_id: Option<String>,
    /// As it says itself (KIP-511).
    pub software_name: Option<String>,
    pub software_version: Option<String>,
    pub connected: Duration,
    pub requests: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What a client instance measures of itself (KIP-714): of each series the newest value.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientMetrics {
    pub instance: String,
    pub pushes: u64,
    pub interval: Duration,
    pub series: Vec<ClientSeries>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClientSeries {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub value: f64,
}
