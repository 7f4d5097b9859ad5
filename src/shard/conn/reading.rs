//! Requests of a connection: read, and dispatched in their order, while there is memory for them and for their
//! answers.

use crate::codec::api::versions::ApiKey;
use crate::codec::frame::{self, Frame};
use crate::shard::Shard;
use crate::shard::api::{self, Caller, RequestContext};
use crate::shard::conn::{CloseReason, Connection, is_disconnect};
use crate::shard::receive::{Growth, Holder, HolderState, ReceiveBuffer, ReceiveMemory, Received, slowest};
use crate::types::Mono;
use crate::types::limits::{
    FRAME_PREFIX_SIZE, PARKED_AHEAD_TIME_MAX, RECEIVE_BUFFER_SIZE, RECEIVE_RELIEF_INTERVAL,
};
use futures::future::select;
use futures::io::AsyncRead;
use glommio::net::TcpStream;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

pub async fn read_requests(shard: &Rc<Shard>, connection: &Rc<Connection>) -> Result<(), CloseReason> {
    loop {
        let held = connection.receive.borrow().as_ref().map_or(0, ReceiveBuffer::size);
        if !may_go_on(shard, connection, held).await || !poll_read(shard, connection).await? {
            return Ok(());
        }
        connection.last_active.set(shard.clock.mono());
        let mut buffer = connection.receive.borrow_mut().take().expect("bytes were received into it");
        loop {
            match buffer.next(shard.config.socket_request_max_bytes)? {
                Received::Request(frame) => {
                    let held = buffer.size();
                    dispatch(shard, connection, buffer.bytes_mut(frame), held).await?;
                    if buffer.is_empty() {
                        break; // Given back before anything is waited for.
                    }
                    if !may_go_on(shard, connection, buffer.size()).await {
                        return Ok(());
                    }
                    // A buffer may hold thousands of them.
                    glommio::executor().yield_if_needed().await;
                }
                Received::Part { needed } => {
                    if !buffer.is_empty() && !make_room(shard, connection, &mut buffer, needed).await? {
                        return Ok(());
                    }
                    break;
                }
            }
        }
        shard.stores.pump();
        if buffer.is_empty() {
            shard.receive_memory.keep(buffer.into_bytes());
        } else {
            *connection.receive.borrow_mut() = Some(buffer);
        }
        // Between two reads every other connection of the core gets its turn.
        glommio::executor().yield_now().await;
    }
}

/// Waits while too much is in flight. `held`: bytes of the receive buffer that waits with it. False if the
/// connection ended meanwhile.
async fn may_go_on(shard: &Rc<Shard>, connection: &Connection, held: usize) -> bool {
    wait_while(shard, connection, held, Connection::must_wait).await;
    wait_while_muted(shard, connection, held).await;
    !connection.is_closed()
}

/// Waits until its client may go on. That it makes no step meanwhile is not the client's doing.
async fn wait_while_muted(shard: &Rc<Shard>, connection: &Connection, held: usize) {
    if !connection.is_muted() {
        return;
    }
    connection.held.set((held > 0).then_some(Holder { held, state: HolderState::Muted }));
    while !connection.is_closed() && !shard.is_stopping() {
        let wait = connection.muted_until.get().since(shard.clock.mono());
        if wait.is_zero() {
            break;
        }
        shard.stores.pump();
        let drained = pin!(connection.drained.notified());
        select(drained, pin!(glommio::timer::sleep(wait))).await;
    }
    connection.muted_until.set(Mono::default());
    connection.unmuted.set(shard.clock.mono());
    connection.held.set(None);
}

/// Waits for answers to leave. What is parked before them leaves soon: its client decides how long it
/// would stay, and meanwhile holds receive memory and is not heard.
async fn wait_while(
    shard: &Rc<Shard>,
    connection: &Connection,
    held: usize,
    must_wait: fn(&Connection) -> bool,
) {
    if !must_wait(connection) {
        return;
    }
    let state = HolderState::Client { since: shard.clock.mono() };
    connection.held.set((held > 0).then_some(Holder { held, state }));
    let begun = shard.clock.mono();
    while must_wait(connection) && !connection.is_closed() {
        shard.stores.pump();
        let drained = pin!(connection.drained.notified());
        select(drained, pin!(glommio::timer::sleep(PARKED_AHEAD_TIME_MAX))).await;
        if shard.clock.mono().since(begun) >= PARKED_AHEAD_TIME_MAX {
            connection.hurry_fetches();
        }
    }
    connection.held.set(None);
}

/// Reads into the connection's buffer, or into one of the pool's that it gives back at once when the
/// socket has nothing: a silent connection holds none. False at the end of the connection, and once the
/// broker stops.
async fn poll_read(shard: &Rc<Shard>, connection: &Rc<Connection>) -> Result<bool, CloseReason> {
    let mut counted = false;
    loop {
        let polled = poll_fn(|cx| {
            if shard.is_stopping() {
                return Poll::Ready(Some(Ok(0)));
            }
            if connection.is_muted() {
                // An answer that was being made while this waited for the socket was too much.
                return Poll::Ready(None);
            }
            let mut stream = connection.stream.borrow_mut();
            let mut receive = connection.receive.borrow_mut();
            if let Some(buffer) = &mut *receive {
                let polled = Pin::new(&mut *stream).poll_read(cx, buffer.free());
                match polled {
                    Poll::Ready(Ok(size)) => buffer.filled(size),
                    Poll::Ready(Err(_)) => {}
                    Poll::Pending => connection.keep_reader(cx.waker()),
                }
                return polled.map(Some);
            }
            // Asked when the socket has news, not when the wait for it began: others may have taken
            // the room meanwhile. Who has nothing to read waits for nobody's room.
            let Some(size_max) = may_begin(&shard.receive_memory, &stream) else {
                return Poll::Ready(None);
            };
            let mut bytes = shard.receive_memory.buffer(RECEIVE_BUFFER_SIZE);
            let polled =
                Pin::new(&mut *stream).poll_read(cx, &mut bytes[..size_max.min(RECEIVE_BUFFER_SIZE)]);
            match polled {
                Poll::Ready(Ok(size)) if size > 0 => {
                    let mut buffer = ReceiveBuffer::new(bytes, &shard.receive_memory, shard.clock.mono())
                        .of_one_request(size_max);
                    buffer.filled(size);
                    *receive = Some(buffer);
                }
                _ => shard.receive_memory.keep(bytes),
            }
            if polled.is_pending() {
                connection.keep_reader(cx.waker());
            }
            polled.map(Some)
        })
        .await;
        match polled {
            None if connection.is_closed() => return Ok(false),
            None if connection.is_muted() => {
                let held = connection.receive.borrow().as_ref().map_or(0, ReceiveBuffer::size);
                wait_while_muted(shard, connection, held).await;
            }
            None => {
                if !std::mem::replace(&mut counted, true) {
                    shard.metrics.borrow_mut().memory_waits += 1;
                }
                let wanted = RECEIVE_BUFFER_SIZE;
                relieved_or_closed(shard, connection, wanted, RECEIVE_RELIEF_INTERVAL).await;
            }
            Some(Ok(size)) => return Ok(size > 0),
            Some(Err(error)) if connection.is_closed() || is_disconnect(&error) => return Ok(false),
            Some(Err(error)) => return Err(error.into()),
        }
    }
}

/// How much a connection without a buffer may read into one; `None` while it may have none. Where only a small
/// request lets it have one that is all of it, as what follows may be large. It needs none while its socket
/// has nothing.
fn may_begin(memory: &ReceiveMemory, stream: &TcpStream) -> Option<usize> {
    if memory.has_first_buffer() {
        return Some(usize::MAX);
    }
    match look_ahead(stream) {
        Ahead::Nothing => Some(usize::MAX),
        Ahead::Small { size } => memory.has_small_buffer().then_some(size),
        Ahead::Unknown => None,
    }
}

/// What a read would find.
enum Ahead {
    Nothing,
    /// A request that a first buffer holds, with its prefix; or what ends the connection.
    Small {
        size: usize,
    },
    /// Any other, or not even its prefix.
    Unknown,
}

fn look_ahead(stream: &TcpStream) -> Ahead {
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    let mut prefix = [0u8; FRAME_PREFIX_SIZE];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor belongs to `stream`, and `prefix` has room for what is asked for.
    let found = unsafe { libc::recv(fd, (&raw mut prefix).cast(), prefix.len(), flags) };
    match found {
        ..0 if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => Ahead::Nothing,
        ..=0 => Ahead::Small { size: FRAME_PREFIX_SIZE },
        1..4 => Ahead::Unknown,
        4.. => match frame::next_frame(&prefix, usize::MAX) {
            Ok(Frame::Need { size }) if size > RECEIVE_BUFFER_SIZE => Ahead::Unknown,
            Ok(Frame::Need { size }) => Ahead::Small { size },
            _ => Ahead::Small { size: FRAME_PREFIX_SIZE }, // An empty one, or what is none.
        },
    }
}

/// Sees to it that receive memory of `wanted` bytes becomes free, and waits until some was given back, the
/// connection has ended, or some time has gone by.
async fn relieved_or_closed(shard: &Shard, connection: &Connection, wanted: usize, at_most: Duration) {
    let freed = shard.receive_memory.freed.notified(); // Before anything is given back.
    relieve(shard, wanted, shard.clock.mono());
    let closed = pin!(connection.drained.notified());
    select(pin!(glommio::timer::sleep(at_most)), select(freed, closed)).await;
}

/// Receive memory is short by some `wanted` bytes: takes back what is held without need, else closes those
/// that make the least of it.
pub fn relieve(shard: &Shard, wanted: usize, now: Mono) {
    if !shard.receive_memory.begin_relief(now) {
        return;
    }
    let connections = shard.connections();
    let mut shrunk = false;
    for connection in &connections {
        if connection.held.get().is_some_and(|holder| matches!(holder.state, HolderState::Client { .. })) {
            connection.hurry_fetches(); // It waits behind them with what it holds.
        }
        let bytes = connection.receive.borrow_mut().as_mut().and_then(ReceiveBuffer::shrink);
        if let Some(bytes) = bytes {
            shard.receive_memory.keep(bytes);
            shrunk = true;
        }
    }
    if shrunk {
        return;
    }
    let holders = connections.iter().map(|connection| connection.holder());
    for (at, holder, waited) in slowest(holders, shard.receive_memory.is_stuck(), wanted, now) {
        shard.metrics.borrow_mut().receive_evictions += 1;
        connections[at].close(&CloseReason::HoldsReceiveMemory { held: holder.held, waited });
    }
}

/// Makes room for more of the frame that begins in the buffer. False if the connection ended meanwhile.
async fn make_room(
    shard: &Rc<Shard>,
    connection: &Connection,
    buffer: &mut ReceiveBuffer,
    needed: usize,
) -> Result<bool, CloseReason> {
    let asked = shard.clock.mono();
    buffer.make_room(needed, asked);
    let more = buffer.wants(needed);
    if more == 0 {
        return Ok(true);
    }
    let left = needed - buffer.size();
    let state = HolderState::Growing { since: asked, left };
    connection.held.set(Some(Holder { held: buffer.size(), state }));
    let may_grow = wait_to_grow(shard, connection, buffer, more, needed, asked).await;
    connection.held.set(None);
    let may_grow = may_grow?;
    if may_grow {
        buffer.grow(more, shard.clock.mono());
    }
    Ok(may_grow)
}

/// Waits until `more` may be taken. False if the connection ended meanwhile.
async fn wait_to_grow(
    shard: &Rc<Shard>,
    connection: &Connection,
    buffer: &mut ReceiveBuffer,
    more: usize,
    needed: usize,
    asked: Mono,
) -> Result<bool, CloseReason> {
    let mut counted = false;
    loop {
        let now = shard.clock.mono();
        let waited = now.since(asked);
        match buffer.may_grow(more, needed, now) {
            Growth::Now => return Ok(true),
            Growth::Refused => return Err(CloseReason::NoReceiveMemory { size: more, waited }),
            Growth::Wait(at_most) => {
                if !std::mem::replace(&mut counted, true) {
                    shard.metrics.borrow_mut().memory_waits += 1;
                }
                relieved_or_closed(shard, connection, more, at_most.min(RECEIVE_RELIEF_INTERVAL)).await;
            }
        }
        if connection.is_closed() || shard.is_stopping() {
            return Ok(false);
        }
    }
}

/// `held`: bytes of the receive buffer that the frame is in.
async fn dispatch(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: &mut [u8],
    held: usize,
) -> Result<(), CloseReason> {
    let size = frame.len();
    let (header, body) = frame::parse_request_header(frame)?;
    let context = RequestContext::new(&header);
    let body_start = size - body.len();
    let keeps_it = matches!(context.api_key, ApiKey::JoinGroup | ApiKey::ConsumerGroupHeartbeat);
    let client_id = keeps_it.then(|| header.client_id.unwrap_or_default().to_owned());
    shard.metrics.borrow_mut().request_received(context.api_key.to_wire(), size);
    connection.count_request(context.api_key, header.client_id, size);
    if context.api_key == ApiKey::Fetch {
        // Before it takes memory: it may be for as long as its client likes.
        wait_while(shard, connection, held, Connection::fetch_must_wait).await;
        wait_while_muted(shard, connection, held).await; // For what it has waited for.
    }
    let ticket = connection.begin(context.api_key, size, shard.clock.mono());
    let charged = shard.charged(connection, header.client_id);
    if let Some(charged) = charged.as_ref().filter(|_| context.api_key == ApiKey::Produce) {
        charged.produced(size);
    }
    let caller = Caller { client_id, charged };
    api::dispatch(shard, connection, ticket, (context, caller), &mut frame[body_start..]).await
}
