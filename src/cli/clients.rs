//! `odradek client`: who is connected to a broker, over its admin port.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, Subcommand};
use odradek::config::HostPort;
use serde_json::Value;

use super::table::Table;
use super::{Failure, print, print_json};

const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct ClientArguments {
    /// Admin port of the broker to ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", global = true)]
    admin: HostPort,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: ClientCommand,
}

#[derive(Debug, Subcommand)]
enum ClientCommand {
    /// List connected clients, and what they have sent and received per second meanwhile
    List {
        /// Seconds over which rates are counted; 0: none are
        #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
        interval: f64,
    },
    /// Show what a connected client measures of itself
    Describe {
        /// Its address and port, as list shows it
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
}

pub fn run(arguments: &ClientArguments) -> Result<(), Failure> {
    match &arguments.command {
        ClientCommand::List { interval } => list(arguments, *interval),
        ClientCommand::Describe { address } => describe(arguments, address),
    }
}

fn list(arguments: &ClientArguments, interval: f64) -> Result<(), Failure> {
    let before = match interval > 0.0 {
        true => {
            let before = get(&arguments.admin, "/v1/clients")?;
            wait(Duration::try_from_secs_f64(interval).map_err(|error| format!("--interval: {error}"))?);
            Some(before)
        }
        false => None,
    };
    let mut found = get(&arguments.admin, "/v1/clients")?;
    let clients = found["clients"].as_array_mut().ok_or("the broker's answer lists no clients")?;
    if let Some(before) = &before {
        let earlier = before["clients"].as_array().map(Vec::as_slice).unwrap_or_default();
        clients.iter_mut().for_each(|client| add_rates(client, earlier));
    }
    if arguments.json {
        return print_json(&found);
    }
    let mut table =
        Table::new(&["ADDRESS", "CLIENT ID", "SOFTWARE", "VERSION", "CORE", "REQUESTS/S", "IN/S", "OUT/S"]);
    for client in clients.iter() {
        let text = |name: &str| match &client[name] {
            Value::Null => "-".to_string(),
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_f64() => format!("{:.0}", number.as_f64().unwrap_or_default()),
            other => other.to_string(),
        };
        let columns = [
            "address",
            "client_id",
            "software_name",
            "software_version",
            "shard",
            "requests_per_second",
            "bytes_in_per_second",
            "bytes_out_per_second",
        ];
        let cells = columns.map(text);
        table.row(&cells.each_ref().map(String::as_str));
    }
    print(&table.to_string())
}

/// What was counted since an earlier look, per second of the broker's time.
fn add_rates(client: &mut Value, earlier: &[Value]) {
    let is_same = |other: &&Value| ["shard", "connection"].iter().all(|name| other[*name] == client[*name]);
    let Some(before) = earlier.iter().find(is_same) else { return };
    let number = |value: &Value, name: &str| value[name].as_f64().unwrap_or_default();
    let seconds = number(client, "connected_seconds") - number(before, "connected_seconds");
    if seconds <= 0.0 {
        return;
    }
    for name in ["requests", "bytes_in", "bytes_out"] {
        let rate = (number(client, name) - number(before, name)) / seconds;
        client[format!("{name}_per_second")] = rate.into();
    }
}

fn describe(arguments: &ClientArguments, address: &str) -> Result<(), Failure> {
    let found = get(&arguments.admin, &format!("/v1/clients/{address}"))?;
    if arguments.json {
        return print_json(&found);
    }
    let mut table = Table::new(&["METRIC", "ATTRIBUTES", "VALUE"]);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for series in list(&found["instances"]).iter().flat_map(|instance| list(&instance["metrics"])) {
        let attributes = series["attributes"].as_object().map(|all| {
            let each =
                all.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
            each.collect::<Vec<_>>().join(",")
        });
        let name = series["name"].as_str().unwrap_or_default();
        table.row(&[name, &attributes.unwrap_or_default(), &series["value"].to_string()]);
    }
    print(&table.to_string())
}

#[expect(clippy::disallowed_methods, reason = "rates are counted over some time")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// GET of JSON.
fn get(admin: &HostPort, path: &str) -> Result<Value, Failure> {
    let unreachable = |error: &dyn std::fmt::Display| {
        format!("no admin port answers at {admin} ({error}): start a broker, or point --admin at it")
    };
    let addresses =
        (admin.host.as_str(), admin.port).to_socket_addrs().map_err(|error| unreachable(&error))?;
    let mut last = "no such host".to_string();
    for address in addresses {
        match exchange(&address, path) {
            Ok((200, body)) => {
                return serde_json::from_str(&body).map_err(|error| format!("{admin}: {error}").into());
            }
            Ok((status, body)) => return Err(format!("{admin}: {status}: {}", body.trim()).into()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(unreachable(&last).into())
}

fn exchange(address: &std::net::SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(address, ANSWER_TIME_MAX)?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || std::io::Error::other("the answer is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    Ok((status, body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_are_what_was_counted_meanwhile() {
        let client = |connection: u64, seconds: f64, count: u64| {
            json!({
                "shard": 0, "connection": connection, "connected_seconds": seconds,
                "requests": count, "bytes_in": 10 * count, "bytes_out": 0,
            })
        };
        let earlier = [client(1, 5.0, 100), client(2, 5.0, 7)];
        let mut now = client(1, 7.0, 300);
        add_rates(&mut now, &earlier);
        assert_eq!(now["requests_per_second"], json!(100.0));
        assert_eq!(now["bytes_in_per_second"], json!(1000.0));
        assert_eq!(now["bytes_out_per_second"], json!(0.0));
        let mut new = client(3, 0.5, 9);
        add_rates(&mut new, &earlier);
        assert_eq!(new["requests_per_second"], Value::Null);
    }
}
