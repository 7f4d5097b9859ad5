//! Frames over a socket, which is read by one task and written by another.

use crate::cluster::quorum::message::InvalidMessage;
use crate::codec::control::Greeting;
use crate::codec::peer_frame::{PeerFrame, PeerFrameError, agree_on_version, next_peer_frame};
use crate::codec::peer_message::{MessageError, PEER_VERSION_MAX, PEER_VERSION_MIN, PeerMessage};
use crate::codec::record_batch::BatchError;
use crate::replication::window::ReleaseBeyondSent;
use crate::shard::peers::GreetingRefused;
use futures::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;

/// Bytes that are read at once.
const READ_SIZE: usize = 64 << 10;

/// Why a connection between nodes ends.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] PeerFrameError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("a frame of version {0}, which was not agreed on")]
    Version(u16),
    #[error("the other side has closed it")]
    Closed,
    #[error("a message that does not belong there")]
    Unexpected,
    #[error(transparent)]
    Refused(#[from] GreetingRefused),
    #[error("no greeting in time")]
    NoGreeting,
    #[error("a message of the quorum: {0}")]
    Quorum(#[from] InvalidMessage),
    #[error("{0} cannot be looked up")]
    Unresolved(String),
    #[error("a batch that is none: {0}")]
    Batch(BatchError),
    #[error(transparent)]
    Released(#[from] ReleaseBeyondSent),
}

/// One connection to another node.
pub struct PeerSocket {
    stream: RefCell<TcpStream>,
    pub peer: SocketAddr,
    /// Of the messages that are sent. The first one, before anything is agreed upon, every build understands.
    version: Cell<u16>,
}

impl PeerSocket {
    pub fn new(stream: TcpStream) -> io::Result<PeerSocket> {
        stream.set_nodelay(true)?;
        notice_silence(&stream)?;
        let peer = stream.peer_addr()?;
        Ok(PeerSocket { stream: RefCell::new(stream), peer, version: Cell::new(PEER_VERSION_MIN) })
    }

    /// The newest version that both sides understand; every message but the greetings is of it.
    pub fn version(&self) -> u16 {
        self.version.get()
    }

    /// The other side has said what it understands, and was found to be one to talk to.
    pub fn agree(&self, greeting: &Greeting) {
        let theirs = (greeting.version_min, greeting.version_max);
        if let Some(version) = agree_on_version((PEER_VERSION_MIN, PEER_VERSION_MAX), theirs) {
            self.version.set(version);
        }
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buffer)).await
    }

    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    pub async fn say(&self, message: &PeerMessage) -> io::Result<()> {
        let mut frame = Vec::new();
        message.encode(self.version(), [], &mut frame);
        self.write_all(&frame).await
    }

    /// The connection, for another core. Nothing of it was read that belongs to that one.
    pub fn hand_over(&self) -> io::Result<OwnedFd> {
        // SAFETY: the descriptor belongs to `stream`, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.stream.borrow().as_raw_fd()) }.try_clone_to_owned()
    }

    /// One that another core has handed over, which has agreed on that version.
    pub fn take_over(fd: OwnedFd, version: u16) -> io::Result<PeerSocket> {
        // SAFETY: it is the descriptor of a stream socket, and nobody else's.
        let socket = PeerSocket::new(unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) })?;
        socket.version.set(version);
        Ok(socket)
    }

    /// Both directions: whoever reads or writes notices.
    pub fn shut_down(&self) {
        let fd = self.stream.borrow().as_raw_fd();
        // SAFETY: the descriptor belongs to `stream`, which lives as long as `self`.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }
}

/// The kernel ends a connection whose other side takes nothing any more, or does not answer its probes.
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    /// Of what was sent and not taken; milliseconds.
    const TAKEN_WITHIN_MS: libc::c_int = 5_000;
    /// Until an idle connection is probed, between probes, and how many of them; seconds.
    const IDLE: libc::c_int = 2;
    const BETWEEN: libc::c_int = 1;
    const PROBES: libc::c_int = 3;
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, IDLE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, BETWEEN),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, PROBES),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, TAKEN_WITHIN_MS),
    ];
    for (level, name, value) in options {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the value is read during the call and has the size that is given.
        let result =
            unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), size) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What was read of a connection and not looked at yet.
#[derive(Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// The frame before, which was given out.
    consumed: usize,
}

impl FrameReader {
    /// The next frame's message and payload.
    pub async fn next(&mut self, socket: &PeerSocket) -> Result<(PeerMessage, &[u8]), PeerError> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        loop {
            match next_peer_frame(&self.buffer)? {
                PeerFrame::Complete { kind, version, table, payload } => {
                    if !(PEER_VERSION_MIN..=PEER_VERSION_MAX).contains(&version) {
                        return Err(PeerError::Version(version));
                    }
                    let message = PeerMessage::decode(kind, &self.buffer[table], payload.len())?;
                    self.consumed = payload.end;
                    return Ok((message, &self.buffer[payload]));
                }
                PeerFrame::Need { size } => {
                    let filled = self.buffer.len();
                    // As much as arrives, whatever is promised.
                    let room = (size - filled).clamp(READ_SIZE / 16, READ_SIZE);
                    self.buffer.resize(filled + room, 0);
                    let read = socket.read(&mut self.buffer[filled..]).await;
                    self.buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
                    if read? == 0 {
                        return Err(PeerError::Closed);
                    }
                }
            }
        }
    }
}
