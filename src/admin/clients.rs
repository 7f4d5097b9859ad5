//! Connected clients and what they measure, in JSON.

use serde_json::{Map, Value, json};

use crate::metrics::clients::{ClientMetrics, ClientSeries, ClientSnapshot};

pub fn list(mut clients: Vec<ClientSnapshot>) -> String {
    clients.sort_by_key(|client| (client.shard, client.connection));
    format!("{:#}\n", json!({ "clients": clients.iter().map(client).collect::<Vec<_>>() }))
}

pub fn describe(measured: &[ClientMetrics]) -> String {
    let instances = measured.iter().map(|client| {
        json!({
            "client_instance_id": client.instance,
            "pushes": client.pushes,
            "interval_seconds": client.interval.as_secs_f64(),
            "metrics": client.series.iter().map(series).collect::<Vec<_>>(),
        })
    });
    format!("{:#}\n", json!({ "instances": instances.collect::<Vec<_>>() }))
}

fn client(client: &ClientSnapshot) -> Value {
    json!({
        "shard": client.shard.0,
        "connection": client.connection,
        "address": client.address.to_string(),
        "client_id": client.client_id,
        "software_name": client.software_name,
        "software_version": client.software_version,
        "connected_seconds": client.connected.as_secs_f64(),
        "requests": client.requests,
        "bytes_in": client.bytes_in,
        "bytes_out": client.bytes_out,
    })
}

fn series(series: &ClientSeries) -> Value {
    let attributes: Map<String, Value> =
        series.attributes.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    // A value that is no number has no place in JSON: it is null.
    json!({ "name": series.name, "attributes": attributes, "value": series.value })
}
