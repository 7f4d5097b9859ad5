//! Which cluster a new node joins: asked of the nodes that it was told of, before there are shards.

#![expect(clippy::disallowed_methods, reason = "runs on the main thread before any shard exists")]

use crate::codec::control::Greeting;
use crate::codec::peer_frame::{PeerFrame, next_peer_frame};
use crate::codec::peer_message::{PEER_VERSION_MAX, PEER_VERSION_MIN, PeerMessage};
use crate::config::{Config, HostPort};
use crate::types::{NodeId, Uuid};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Until one of them has answered: they may be starting too.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);
const IO_TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes of a greeting.
const GREETING_SIZE_MAX: usize = 4 << 10;

/// The id of the cluster that `join` names nodes of; `None` where it names none. Blocks.
///
/// `is_over`: whether nobody wants to know any more.
pub fn cluster_to_join(config: &Config, is_over: impl Fn() -> bool) -> Result<Option<Uuid>, String> {
    if config.join.is_empty() {
        return Ok(None);
    }
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        let mut last = String::new();
        for address in &config.join {
            match ask(address, config.node_id) {
                Ok(Greeting { node, .. }) if node == config.node_id => {
                    return Err(format!("{address} is node {} too: choose another --node-id", node.0));
                }
                Ok(Greeting { cluster, .. }) if cluster != Uuid::nil() => return Ok(Some(cluster)),
                Ok(_) => last = format!("{address} belongs to no cluster yet"),
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        if begun.elapsed() > PATIENCE || is_over() {
            return Err(format!("no cluster can be joined: {last}"));
        }
        if !is_told {
            is_told = true;
            tracing::info!(reason = last, "waiting for a node of the cluster to answer");
        }
        std::thread::sleep(PAUSE);
    }
}

fn ask(address: &HostPort, node: NodeId) -> io::Result<Greeting> {
    let found = (address.host.as_str(), address.port).to_socket_addrs()?;
    let first = found.min_by_key(SocketAddr::is_ipv6).ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&first, IO_TIME_MAX)?;
    stream.set_read_timeout(Some(IO_TIME_MAX))?;
    stream.set_write_timeout(Some(IO_TIME_MAX))?;
    let greeting = Greeting {
        cluster: Uuid::nil(),
        node,
        version_min: PEER_VERSION_MIN,
        version_max: PEER_VERSION_MAX,
        peer: 0,
        address: None,
        shards: None,
    };
    let mut frame = Vec::new();
    PeerMessage::Greeting(greeting).encode(PEER_VERSION_MIN, [], &mut frame);
    stream.write_all(&frame)?;
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut received = Vec::new();
    loop {
        match next_peer_frame(&received).map_err(|error| invalid(error.to_string()))? {
            PeerFrame::Complete { kind, table, payload, .. } => {
                let message = PeerMessage::decode(kind, &received[table], payload.len());
                return match message.map_err(|error| invalid(error.to_string()))? {
                    PeerMessage::Greeting(greeting) => Ok(greeting),
                    _ => Err(invalid("not a greeting".to_owned())),
                };
            }
            PeerFrame::Need { size } if size > GREETING_SIZE_MAX => {
                return Err(invalid("not a greeting".to_owned()));
            }
            PeerFrame::Need { .. } => {
                let mut part = [0; 512];
                match stream.read(&mut part)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => received.extend_from_slice(&part[..read]),
                }
            }
        }
    }
}
