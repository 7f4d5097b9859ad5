//! What lies between nodes: every connection from one to another passes here, and may be dark or slow, in one
//! direction or both.
//!
//! ```text
//! node ─► the other's advertised address ─► [greeting says who it is] ─► bytes, if they may pass ─► the other
//! ```
//!
//! Bytes that may not pass wait, as packets do that are sent again: a connection is half open until its ends give
//! it up.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek::codec::peer_frame::{PeerFrame, next_peer_frame};
use odradek::codec::peer_message::PeerMessage;

pub const NODES: usize = 3;

/// What becomes of bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    #[default]
    Open,
    Dark,
    /// Each piece waits so long.
    Slow(Duration),
}

/// Ways from each node to each, by their places.
#[derive(Clone, Default)]
pub struct Network {
    ways: Arc<Mutex<[[Way; NODES]; NODES]>>,
}

impl Network {
    pub fn set(&self, from: usize, to: usize, way: Way) {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)[from][to] = way;
    }

    pub fn heal(&self) {
        *self.ways.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }

    fn way(&self, from: usize, to: usize) -> Way {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)[from][to]
    }

    /// Waits until bytes may pass.
    fn pass(&self, from: usize, to: usize) {
        const LOOK: Duration = Duration::from_millis(5);
        loop {
            match self.way(from, to) {
                Way::Open => return,
                Way::Slow(time) => return std::thread::sleep(time),
                Way::Dark => std::thread::sleep(LOOK),
            }
        }
    }

    /// Stands before the node at place `to`, until the process ends.
    pub fn stand_before(&self, to: usize, listen: u16, behind: String) -> io::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", listen))?;
        let network = self.clone();
        std::thread::spawn(move || {
            for accepted in listener.incoming().map_while(Result::ok) {
                let (network, behind) = (network.clone(), behind.clone());
                // Its ends see it closed.
                std::thread::spawn(move || drop(network.connect(accepted, to, &behind)));
            }
        });
        Ok(())
    }

    fn connect(&self, mut client: TcpStream, to: usize, behind: &str) -> io::Result<()> {
        let mut first = Vec::new();
        let from = greeting_of(&mut client, &mut first)?;
        self.pass(from, to);
        let mut server = TcpStream::connect(behind)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        server.write_all(&first)?;
        let (back_from, back_to) = (server.try_clone()?, client.try_clone()?);
        let network = self.clone();
        std::thread::spawn(move || network.pump(back_from, back_to, (to, from)));
        self.pump(client, server, (from, to));
        Ok(())
    }

    fn pump(&self, mut source: TcpStream, mut target: TcpStream, (from, to): (usize, usize)) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = source.read(&mut bytes) {
            self.pass(from, to);
            if target.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        // What ends one direction ends both, as a reset does.
        let _ = source.shutdown(Shutdown::Both);
        let _ = target.shutdown(Shutdown::Both);
    }
}

/// Reads the greeting, and returns the place of the node that it names.
fn greeting_of(client: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        match next_peer_frame(bytes).map_err(io::Error::other)? {
            PeerFrame::Need { size } => {
                let have = bytes.len();
                bytes.resize(size, 0);
                client.read_exact(&mut bytes[have..])?;
            }
            PeerFrame::Complete { kind, table, payload, .. } => {
                let message = PeerMessage::decode(kind, &bytes[table], payload.len());
                let PeerMessage::Greeting(greeting) = message.map_err(io::Error::other)? else {
                    return Err(io::Error::other("no greeting"));
                };
                let place = usize::try_from(greeting.node.0 - 1).ok().filter(|place| *place < NODES);
                return place.ok_or_else(|| io::Error::other("no node of this cluster"));
            }
        }
    }
}
