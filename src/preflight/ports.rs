//! Are the ports free?
//!
//! The shards listen with SO_REUSEPORT, so a second broker would silently share the port and get
//! half of the connections: the port is therefore tried once without it. That alone would refuse a
//! restart for a minute, since closed connections in TIME_WAIT also count as "in use" then; only a
//! listener found in the kernel's table is another program's.
//!
//! Between this look and the shards' listeners lie the journals and the segments, seconds of them. A port
//! of the kernel's ephemeral range could go to anybody's outgoing connection meanwhile, so every port is
//! kept bound, without listening, until the broker ends. That does not keep out a second broker of the same
//! user which is started within those seconds, with other data directories and the same port: it may bind as
//! the shards may, and there is no listener to be seen yet.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Config, HostPort, Routing};

/// Addresses to listen on. No outgoing connection is given their ports while this lives.
#[derive(Debug)]
pub struct Listeners {
    /// All shards accept on it (`node` routing), or it bootstraps (`core` routing). Its port is never
    /// 0.
    pub base: SocketAddr,
    /// One per shard, in shard order; empty under `node` routing.
    pub per_shard: Vec<SocketAddr>,
    /// Shard 0 accepts other nodes on it.
    pub peers: Option<SocketAddr>,
    /// Bound to them, for the kernel's eyes only.
    _held: Vec<Socket>,
}

#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("{listen} cannot be looked up ({error}): give --listen an address of this host")]
    Unresolved { listen: HostPort, error: io::Error },
    #[error(
        "{address} is in use: stop the program that listens there (`ss -ltnp`) or choose another --listen"
    )]
    InUse { address: SocketAddr },
    #[error(
        "{address} is not an address of this host: choose another --listen, and --advertise what clients see"
    )]
    NotOurs { address: SocketAddr },
    #[error("no permission to listen on {address}: choose a port above 1023, or grant CAP_NET_BIND_SERVICE")]
    Forbidden { address: SocketAddr },
    #[error("cannot listen on {address}: {error}")]
    Other { address: SocketAddr, error: io::Error },
    #[error("no {count} consecutive free ports were found: give --listen a port")]
    NoneFree { count: usize },
    #[error("--peer-listen {listen}: {error}")]
    Peers { listen: HostPort, error: Box<PortError> },
}

pub fn check(config: &Config) -> Result<Listeners, PortError> {
    let mut listeners = check_clients(config)?;
    if let Some(listen) = &config.peer_listen {
        let refused = |error| PortError::Peers { listen: listen.clone(), error: Box::new(error) };
        let (address, held) = check_peers(listen).map_err(refused)?;
        listeners.peers = Some(address);
        listeners._held.push(held);
    }
    Ok(listeners)
}

fn check_peers(listen: &HostPort) -> Result<(SocketAddr, Socket), PortError> {
    let mut address = resolve(listen)?;
    if address.port() == 0 {
        let free = TcpListener::bind(address).and_then(|listener| listener.local_addr());
        address = free.map_err(|error| refusal(address, error))?;
    }
    Ok((address, take_patiently(address)?))
}

fn check_clients(config: &Config) -> Result<Listeners, PortError> {
    let address = resolve(&config.listen)?;
    let shards = if config.routing == Routing::Core { config.cores } else { 0 };
    if address.port() != 0 {
        return check_from(address, shards);
    }
    /// Every try starts at another port that the kernel says is free.
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let free = TcpListener::bind(address).and_then(|listener| listener.local_addr());
        let free = free.map_err(|error| refusal(address, error))?;
        if free.port() as usize + shards > u16::MAX as usize {
            continue;
        }
        match check_from(free, shards) {
            Ok(listeners) => return Ok(listeners),
            Err(PortError::InUse { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(PortError::NoneFree { count: shards + 1 })
}

/// Port + 1 + shard does not overflow: `Config` was checked for it.
fn check_from(base: SocketAddr, shards: usize) -> Result<Listeners, PortError> {
    let on_port = |offset: usize| SocketAddr::new(base.ip(), base.port() + offset as u16);
    let per_shard: Vec<_> = (0..shards).map(|shard| on_port(1 + shard)).collect();
    let addresses = std::iter::once(&base).chain(&per_shard);
    let held = addresses.map(|&address| take_patiently(address)).collect::<Result<_, _>>()?;
    Ok(Listeners { base, per_shard, peers: None, _held: held })
}

/// The kernel closes the rings of a killed broker, and with them its listeners, a moment after the
/// process is gone: a supervisor's restart is not refused for that.
fn take_patiently(address: SocketAddr) -> Result<Socket, PortError> {
    const TRIES: u32 = 30;
    const BETWEEN: std::time::Duration = std::time::Duration::from_millis(100);
    for _ in 0..TRIES {
        match take(address) {
            Err(PortError::InUse { .. }) => {
                #[expect(clippy::disallowed_methods, reason = "on the main thread, before anything runs")]
                std::thread::sleep(BETWEEN);
            }
            result => return result,
        }
    }
    take(address)
}

fn take(address: SocketAddr) -> Result<Socket, PortError> {
    probe(address)?;
    hold(address).map_err(|error| refusal(address, error))
}

/// A socket as the shards will have, which does not listen: they may bind beside it, an outgoing connection
/// is given another port.
fn hold(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// IPv4 first where a name has both: what Kafka clients try first.
fn resolve(listen: &HostPort) -> Result<SocketAddr, PortError> {
    let unresolved = |error| PortError::Unresolved { listen: listen.clone(), error };
    let addresses = (listen.host.as_str(), listen.port).to_socket_addrs().map_err(unresolved)?;
    let first = addresses.min_by_key(SocketAddr::is_ipv6);
    first.ok_or_else(|| unresolved(io::Error::from(io::ErrorKind::NotFound)))
}

fn probe(address: SocketAddr) -> Result<(), PortError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !has_listener(address) => Ok(()),
        Err(error) => Err(refusal(address, error)),
    }
}

fn refusal(address: SocketAddr, error: io::Error) -> PortError {
    match error.kind() {
        io::ErrorKind::AddrInUse => PortError::InUse { address },
        io::ErrorKind::AddrNotAvailable => PortError::NotOurs { address },
        io::ErrorKind::PermissionDenied => PortError::Forbidden { address },
        _ => PortError::Other { address, error },
    }
}

/// True if the kernel lists a listener that conflicts, or if its table cannot be read.
fn has_listener(address: SocketAddr) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|path| match std::fs::read_to_string(path) {
        Ok(table) => table.lines().filter_map(listener).any(|(ip, port)| {
            let wildcard = ip.is_unspecified() || address.ip().is_unspecified();
            port == address.port() && (wildcard || ip == address.ip())
        }),
        // IPv6 may be switched off; the first table is always there.
        Err(_) => path.ends_with("tcp"),
    })
}

/// Address and port of a line in state LISTEN. The address is words of four bytes in host order.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != LISTEN {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some((IpAddr::from(v4), port));
    }
    Some((IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_and_a_free_port_is_not_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        assert!(has_listener(address));
        assert!(matches!(probe(address), Err(PortError::InUse { .. })));
        drop(listener);
        assert!(probe(address).is_ok());
    }

    #[test]
    fn closed_connections_do_not_refuse_a_restart() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let client = std::net::TcpStream::connect(address).expect("it listens");
        let (served, _) = listener.accept().expect("a client waits");
        drop(listener);
        drop(served); // The server closes first, so TIME_WAIT stays on its port.
        drop(client);
        assert!(!has_listener(address));
        assert!(probe(address).is_ok());
    }

    /// Two shards beside what is held, as glommio binds them; a program without SO_REUSEPORT gets nothing.
    #[test]
    fn a_held_port_is_the_shards_alone() {
        let held = take("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = held.local_addr().expect("it is bound").as_socket().expect("of the internet");
        let shards = [hold(address), hold(address)].map(|shard| shard.expect("beside what is held"));
        shards.iter().for_each(|shard| shard.listen(16).expect("it is bound"));
        drop(std::net::TcpStream::connect(address).expect("a shard listens"));
        drop(shards);
        assert!(std::net::TcpStream::connect(address).is_err(), "what is held does not listen");
        assert!(TcpListener::bind(address).is_err());
        drop(held);
        assert!(take(address).is_ok());
    }

    #[test]
    fn the_kernels_table_is_understood() {
        let v4 = "   0: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1";
        assert_eq!(listener(v4), Some((IpAddr::from([127, 0, 0, 1]), 9092)));
        let established = v4.replace(" 0A ", " 01 ");
        assert_eq!(listener(&established), None);
        let v6 = "   0: 00000000000000000000000001000000:2384 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(listener(v6), Some((IpAddr::from(std::net::Ipv6Addr::LOCALHOST), 9092)));
        assert_eq!(listener("  sl  local_address rem_address   st tx_queue"), None);
    }
}
