//! One client connection: frames in, answers out in request order.
//!
//! ```text
//! socket ─► receive buffer ─► frames ─► api ─────────────► answers, by request sequence
//!   ▲        (from a pool,      │        produce: in place   [ready][waiting][ready] ..
//!   │         only while it     │        others: own task       │
//!   │         holds bytes)      └ too much in flight: not read  ▼
//!   └────────────────────────────────────────────── one vectored write for all that are ready
//! ```
//!
//! Two tasks a connection, neither ever cancelled in a read: one reads and dispatches, one writes.
//! A connection ends by shutting its socket down, which both notice. What breaks the protocol closes
//! this connection with a logged reason and nothing else. When the broker stops, nothing more is read,
//! what was read is answered, and the client gets to see the end of its answers.

use crate::codec::api::produce::ProduceError;
use crate::codec::api::request::RequestError;
use crate::codec::api::response::EncodeError;
use crate::codec::api::versions::ApiKey;
use crate::codec::frame::{self, Frame, FrameError, HeaderError};
use crate::metrics::ShardMetrics;
use crate::metrics::clients::ClientSnapshot;
use crate::shard::api::{self, Caller, RequestContext};
use crate::shard::event::Signal;
use crate::shard::memory::Charge;
use crate::shard::quotas::ClientLimits;
use crate::shard::receive::{Growth, Holder, HolderState, ReceiveBuffer, ReceiveMemory, Received, slowest};
use crate::shard::response::{Response, ResponseMemory, WriteCursor};
use crate::shard::{Parked, Shard};
use crate::types::limits::{
    CLIENT_TEXT_SIZE_MAX, CONNECTION_INFLIGHT_BYTES_MAX, CONNECTION_REQUESTS_MAX,
    CONNECTION_RESPONSE_BYTES_MAX, FRAME_PREFIX_SIZE, PARKED_AHEAD_TIME_MAX, RECEIVE_BUFFER_SIZE,
    RECEIVE_RELIEF_INTERVAL, RESPONSE_SIZE_FLOOR, SOCKET_SLICES_MAX, SOCKET_WRITE_SIZE_COLD,
    SOCKET_WRITE_SIZE_MAX, STOP_LINGER_MAX,
};
use crate::types::{Mono, ShardId};
use futures::future::select;
use futures::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Which address a client came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The base port: the broker itself under `node` routing, bootstrap and administration under
    /// `core`.
    Base,
    /// A core's own port (`core` routing).
    Core(ShardId),
}

/// Why a connection is closed from our side.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("{api} version {api_version} is not supported")]
    UnsupportedRequest { api: &'static str, api_version: i16 },
    #[error(transparent)]
    MalformedRequest(#[from] RequestError),
    #[error("malformed Produce request: {0}")]
    MalformedProduce(#[from] ProduceError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("a produce request with acks=0 failed: {reason}")]
    UnacknowledgedProduce { reason: String },
    #[error("no receive memory for {size} more bytes of a request within {waited:?}")]
    NoReceiveMemory { size: usize, waited: Duration },
    #[error("idle for longer than connections.max.idle.ms")]
    Idle,
    #[error("no progress for {waited:?} with {held} bytes of receive memory, which is short")]
    HoldsReceiveMemory { held: usize, waited: Duration },
    #[error("{held} bytes of answers were not taken for {waited:?}, and memory for them is short")]
    HoldsAnswers { held: usize, waited: Duration },
    #[error("answers that keep {held} bytes of the newest records were not taken for {waited:?}")]
    HoldsTail { held: usize, waited: Duration },
    #[error("the broker is stopping")]
    Stopping,
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
}

impl CloseReason {
    /// Something went wrong: logged as a warning and counted.
    fn is_failure(&self) -> bool {
        !matches!(self, CloseReason::Idle | CloseReason::Stopping)
    }
}

enum Answer {
    Waiting,
    Ready(Response),
    /// A request without an answer (`acks=0`).
    Nothing,
}

struct Pending {
    answer: Answer,
    request_size: usize,
    api_key: ApiKey,
    received: Mono,
}

#[derive(Default)]
struct Answers {
    /// Sequence of the first entry.
    first: u64,
    queue: VecDeque<Pending>,
    inflight_bytes: usize,
    response_bytes: usize,
    /// Bytes of tail buffers that answers keep.
    pinned_tail: usize,
    /// The socket is given some that are in the queue no more.
    is_writing: bool,
}

impl Answers {
    /// The client has taken all that there is, and a request of its waits for us.
    fn wait_for_us(&self) -> bool {
        let front = self.queue.front();
        !self.is_writing && front.is_some_and(|front| matches!(front.answer, Answer::Waiting))
    }
}

/// Who a client says it is.
#[derive(Clone, Debug, Default)]
pub struct ClientInfo {
    /// Of its first request and of the last that was neither Produce nor Fetch, which are many and have the
    /// same.
    pub client_id: Option<String>,
    /// As its ApiVersions says (KIP-511).
    pub software_name: Option<String>,
    pub software_version: Option<String>,
}

/// As much of what a client says of itself as is kept with its connection, which has no account for it.
pub fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(CLIENT_TEXT_SIZE_MAX)]
}

/// What a connection has carried.
struct Counts {
    since: Mono,
    requests: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
}

/// Lives: on one shard, from accept to close. Handlers keep it alive until their answer is in.
pub struct Connection {
    pub id: u64,
    pub peer: SocketAddr,
    pub listener: Listener,
    stream: RefCell<TcpStream>,
    answers: RefCell<Answers>,
    writer: Signal,
    /// Wakes its reader where it waits for anything but the socket.
    drained: Signal,
    /// Wakes it where it waits for the socket.
    reader: RefCell<Option<Waker>>,
    /// What fetches in progress may come to.
    fetching_bytes: Cell<usize>,
    /// The same of all other answers that are being made.
    making_bytes: Cell<usize>,
    closed: Cell<bool>,
    /// When the socket last took or gave a byte.
    last_active: Cell<Mono>,
    /// What has come of the next request while more is waited for.
    receive: RefCell<Option<ReceiveBuffer>>,
    /// What it holds of receive memory while it waits for something else than its socket.
    held: Cell<Option<Holder>>,
    /// Its fetches that wait for data. Bounded by its requests in flight.
    parked: RefCell<Vec<Weak<Parked>>>,
    /// Requests that are on the account of the shard's memory for them.
    pub requests_counted: Rc<Cell<usize>>,
    /// It is not read before: its client has used up a quota.
    muted_until: Cell<Mono>,
    /// Since when it is read again. Before it was not its client's turn.
    unmuted: Cell<Mono>,
    /// What its client may use, as far as that was looked up.
    pub limits: RefCell<Option<Rc<ClientLimits>>>,
    pub client: RefCell<ClientInfo>,
    counts: Counts,
    /// The shard's.
    metrics: Rc<RefCell<ShardMetrics>>,
    response_memory: Rc<ResponseMemory>,
}

/// What the answer to a fetch in progress may take of its connection's memory.
pub struct FetchingAnswer {
    connection: Rc<Connection>,
    size: usize,
}

impl Drop for FetchingAnswer {
    fn drop(&mut self) {
        let fetching = &self.connection.fetching_bytes;
        fetching.set(fetching.get() - self.size);
        self.connection.drained.notify();
    }
}

/// An answer that is being made and is not a fetch's.
pub struct MakingAnswer {
    connection: Rc<Connection>,
    charge: Charge,
}

impl Drop for MakingAnswer {
    fn drop(&mut self) {
        let making = &self.connection.making_bytes;
        making.set(making.get() - self.charge.size());
        self.connection.drained.notify();
    }
}

/// The place of one request's answer among its connection's answers.
#[derive(Clone, Copy, Debug)]
pub struct AnswerTicket(u64);

impl Connection {
    pub fn new(
        id: u64,
        stream: TcpStream,
        peer: SocketAddr,
        listener: Listener,
        now: Mono,
        metrics: Rc<RefCell<ShardMetrics>>,
        response_memory: Rc<ResponseMemory>,
    ) -> Rc<Connection> {
        Rc::new(Connection {
            id,
            peer,
            listener,
            stream: RefCell::new(stream),
            answers: RefCell::default(),
            writer: Signal::default(),
            drained: Signal::default(),
            reader: RefCell::default(),
            fetching_bytes: Cell::new(0),
            making_bytes: Cell::new(0),
            closed: Cell::new(false),
            last_active: Cell::new(now),
            receive: RefCell::default(),
            held: Cell::new(None),
            parked: RefCell::default(),
            requests_counted: Rc::default(),
            muted_until: Cell::default(),
            unmuted: Cell::default(),
            limits: RefCell::default(),
            client: RefCell::default(),
            counts: Counts {
                since: now,
                requests: Cell::new(0),
                bytes_in: Cell::new(0),
                bytes_out: Cell::new(0),
            },
            metrics,
            response_memory,
        })
    }

    /// Takes the next place in the order of answers.
    fn begin(&self, api_key: ApiKey, request_size: usize, received: Mono) -> AnswerTicket {
        let mut answers = self.answers.borrow_mut();
        answers.inflight_bytes += request_size;
        answers.queue.push_back(Pending { answer: Answer::Waiting, request_size, api_key, received });
        AnswerTicket(answers.first + answers.queue.len() as u64 - 1)
    }

    /// Puts an answer in its place; `None` when the request has none. It leaves once all before it
    /// have, and is on the shard's account until then.
    pub fn complete(&self, ticket: AnswerTicket, response: Option<Response>) {
        let response = response.map(|response| response.charge_to(&self.response_memory));
        let mut answers = self.answers.borrow_mut();
        let at = (ticket.0 - answers.first) as usize;
        answers.response_bytes += response.as_ref().map_or(0, Response::size);
        answers.pinned_tail += response.as_ref().map_or(0, Response::pinned_tail);
        let pending = &mut answers.queue[at];
        debug_assert!(matches!(pending.answer, Answer::Waiting), "a request was answered twice");
        pending.answer = response.map_or(Answer::Nothing, Answer::Ready);
        if at == 0 {
            drop(answers);
            self.writer.notify();
        }
    }

    /// Ends the connection at once: what is being written is cut off. Idempotent.
    pub fn close(&self, reason: &CloseReason) {
        if self.closed.replace(true) {
            return;
        }
        if reason.is_failure() {
            self.metrics.borrow_mut().connections_failed += 1;
            tracing::warn!(peer = %self.peer, %reason, "connection closed");
        } else {
            tracing::debug!(peer = %self.peer, %reason, "connection closed");
        }
        self.shutdown();
    }

    fn shutdown(&self) {
        self.closed.set(true);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&*self.stream.borrow());
        // SAFETY: the descriptor belongs to `stream`, which lives as long as `self`.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
        self.writer.notify();
        self.drained.notify();
        self.hurry_fetches();
    }

    /// The broker stops: the reader looks at once.
    pub fn begin_stop(&self) {
        self.drained.notify();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Its reader is about to wait for the socket.
    fn keep_reader(&self, waker: &Waker) {
        let mut kept = self.reader.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    /// The client sees the end behind what was written; it may still send.
    fn end_writing(&self) {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&*self.stream.borrow());
        // SAFETY: the descriptor belongs to `stream`, which lives as long as `self`.
        unsafe { libc::shutdown(fd, libc::SHUT_WR) };
    }

    /// One of its fetches waits for data, but not for longer than the connection lasts.
    pub(super) fn fetch_parked(&self, fetch: &Rc<Parked>) {
        let mut parked = self.parked.borrow_mut();
        parked.retain(|fetch| fetch.strong_count() > 0);
        parked.push(Rc::downgrade(fetch));
    }

    /// Those that wait for data are answered with what there is.
    pub fn hurry_fetches(&self) {
        self.parked.borrow().iter().filter_map(Weak::upgrade).for_each(|fetch| fetch.hurry());
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Since when the client has neither sent a byte nor taken one, while it was its turn: no request
    /// waits for us.
    pub fn idle_since(&self) -> Option<Mono> {
        (!self.answers.borrow().wait_for_us()).then(|| self.last_active.get())
    }

    /// What it holds of receive memory, unless it is being served with it.
    fn holder(&self) -> Option<Holder> {
        if self.is_closed() {
            return None; // It is about to give it back.
        }
        let Some(Holder { held, state }) = self.held.get() else {
            let receive = self.receive.borrow();
            let buffer = receive.as_ref()?;
            let since = buffer.step_since().max(self.unmuted.get());
            let state = HolderState::Client { since };
            return Some(Holder { held: buffer.size(), state });
        };
        let state = match state {
            // It waits until its client takes answers, and not for those that are being made. Each byte
            // that it takes is a step.
            HolderState::Client { since } => HolderState::Client { since: since.max(self.idle_since()?) },
            other @ (HolderState::Growing { .. } | HolderState::Muted) => other,
        };
        Some(Holder { held, state })
    }

    /// Requests are being served, or their answers have not left.
    fn is_busy(&self) -> bool {
        let answers = self.answers.borrow();
        !answers.queue.is_empty() || answers.response_bytes > 0
    }

    /// Bytes of answers that the socket has not taken yet.
    pub fn response_bytes(&self) -> usize {
        self.answers.borrow().response_bytes
    }

    /// Bytes of tail buffers that they keep.
    pub fn pinned_tail(&self) -> usize {
        self.answers.borrow().pinned_tail
    }

    /// A request of `size` bytes has come.
    fn count_request(&self, api_key: ApiKey, client_id: Option<&str>, size: usize) {
        let counts = &self.counts;
        let is_first = counts.requests.replace(counts.requests.get() + 1) == 0;
        counts.bytes_in.set(counts.bytes_in.get() + (FRAME_PREFIX_SIZE + size) as u64);
        if is_first || !matches!(api_key, ApiKey::Produce | ApiKey::Fetch) {
            let mut client = self.client.borrow_mut();
            let client_id = client_id.map(clipped);
            if client.client_id.as_deref() != client_id {
                client.client_id = client_id.map(str::to_owned);
            }
        }
    }

    pub fn snapshot(&self, shard: ShardId, now: Mono) -> ClientSnapshot {
        let client = self.client.borrow().clone();
        ClientSnapshot {
            shard,
            connection: self.id,
            address: self.peer,
            client_id: client.client_id,
            software_name: client.software_name,
            software_version: client.software_version,
            connected: now.since(self.counts.since),
            requests: self.counts.requests.get(),
            bytes_in: self.counts.bytes_in.get(),
            bytes_out: self.counts.bytes_out.get(),
        }
    }

    /// Nothing more is read of it until then.
    pub fn mute_until(&self, until: Mono) {
        self.muted_until.set(self.muted_until.get().max(until));
    }

    fn is_muted(&self) -> bool {
        self.muted_until.get() > Mono::default()
    }

    /// Its next request has to wait for its answers. While those of all connections are more than the
    /// shard may hold, each still has a little, which it gets on with.
    fn must_wait(&self) -> bool {
        let answers = self.answers.borrow();
        let held = answers.response_bytes + self.making_bytes.get();
        answers.queue.len() >= CONNECTION_REQUESTS_MAX
            || answers.inflight_bytes >= CONNECTION_INFLIGHT_BYTES_MAX
            || held >= CONNECTION_RESPONSE_BYTES_MAX
            || held >= RESPONSE_SIZE_FLOOR && self.response_memory.excess() > 0
    }

    /// An answer of some `size` bytes is being made; it counts until what is returned is dropped.
    pub fn making_answer(self: &Rc<Self>, size: usize) -> MakingAnswer {
        self.making_bytes.set(self.making_bytes.get() + size);
        MakingAnswer { connection: self.clone(), charge: self.response_memory.charge(size) }
    }

    /// The same of a fetch, which may come to `size` bytes and does not count for the shard yet.
    pub fn fetching_answer(self: &Rc<Self>, size: usize) -> FetchingAnswer {
        self.fetching_bytes.set(self.fetching_bytes.get() + size);
        FetchingAnswer { connection: self.clone(), size }
    }

    /// A fetch has to wait while answers hold as much memory as they may, those of fetches in progress
    /// included, unless it is the next to leave: a small request for a large answer is read long before
    /// its turn.
    fn fetch_must_wait(&self) -> bool {
        let answers = self.answers.borrow();
        let held = answers.response_bytes + self.fetching_bytes.get();
        held >= CONNECTION_RESPONSE_BYTES_MAX && !answers.queue.is_empty()
    }

    /// For its reader: resolves once there may be room for its next request, or the connection has ended.
    pub async fn drained_or_ended(&self) {
        self.drained.notified().await;
    }

    /// The answers at the front that are ready, in order.
    fn take_ready(&self, shard: &Shard, out: &mut Vec<Response>) {
        let mut answers = self.answers.borrow_mut();
        let mut pieces = 0;
        let now = shard.clock.mono();
        while let Some(pending) = answers.queue.front() {
            if matches!(pending.answer, Answer::Waiting) || pieces >= SOCKET_SLICES_MAX {
                break;
            }
            let pending = answers.queue.pop_front().expect("looked at above");
            answers.first += 1;
            answers.inflight_bytes -= pending.request_size;
            let mut size = 0;
            if let Answer::Ready(response) = pending.answer {
                size = response.size();
                pieces += response.piece_count();
                out.push(response);
            }
            shard.metrics.borrow_mut().request_answered(
                pending.api_key.to_wire(),
                size,
                now.since(pending.received),
            );
        }
        answers.is_writing = !out.is_empty();
    }
}

/// Serves a connection until it ends.
pub async fn serve(shard: Rc<Shard>, connection: Rc<Connection>) {
    let writer = shard.spawn(write_answers(shard.clone(), connection.clone()));
    let result = read_requests(&shard, &connection).await;
    connection.receive.take();
    match result {
        Ok(()) if shard.is_stopping() => {
            finish_answers(&shard, &connection).await;
            connection.close(&CloseReason::Stopping);
        }
        Ok(()) => connection.shutdown(),
        Err(reason) => connection.close(&reason),
    }
    writer.await;
    shard.connection_ended(&connection);
}

/// Waits until everything that was taken is answered, and lets the client have the answers: a socket that
/// is closed with unread bytes in it takes back what the client has not received yet.
async fn finish_answers(shard: &Rc<Shard>, connection: &Connection) {
    while connection.is_busy() && !connection.is_closed() {
        shard.stores.pump();
        connection.drained.notified().await;
    }
    let is_quiet = shard.clock.mono().since(connection.last_active.get()) >= STOP_LINGER_MAX;
    if is_quiet || connection.is_closed() {
        return;
    }
    connection.end_writing();
    let dropped = poll_fn(|cx| {
        let mut bytes = shard.receive_memory.buffer(RECEIVE_BUFFER_SIZE);
        let polled = Pin::new(&mut *connection.stream.borrow_mut()).poll_read(cx, &mut bytes);
        shard.receive_memory.keep(bytes);
        match polled {
            Poll::Ready(Ok(size)) if size > 0 => {
                cx.waker().wake_by_ref(); // The others have their turn first.
                Poll::Pending
            }
            polled => polled.map(drop),
        }
    });
    select(pin!(glommio::timer::sleep(STOP_LINGER_MAX)), pin!(dropped)).await;
}

async fn read_requests(shard: &Rc<Shard>, connection: &Rc<Connection>) -> Result<(), CloseReason> {
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

fn is_disconnect(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
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
fn relieve(shard: &Shard, wanted: usize, now: Mono) {
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

async fn write_answers(shard: Rc<Shard>, connection: Rc<Connection>) {
    let mut responses: Vec<Response> = Vec::new();
    loop {
        connection.take_ready(&shard, &mut responses);
        if responses.is_empty() {
            if connection.is_closed() {
                return;
            }
            connection.drained.notify();
            connection.writer.notified().await;
            continue;
        }
        let result;
        (responses, result) = write_in_queue(&shard, &connection, responses).await;
        if let Err(error) = result {
            if !connection.is_closed() && !is_disconnect(&error) {
                connection.close(&CloseReason::Socket(error));
            } else {
                connection.shutdown();
            }
            return;
        }
        let sent: usize = responses.iter().map(Response::size).sum();
        let unpinned: usize = responses.iter().map(Response::pinned_tail).sum();
        responses.clear();
        let mut answers = connection.answers.borrow_mut();
        answers.response_bytes -= sent;
        answers.pinned_tail -= unpinned;
        answers.is_writing = false;
        drop(answers);
        connection.drained.notify();
    }
}

/// Sends answers; those with bytes from disk take their share of the core with the reads of these.
async fn write_in_queue(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    responses: Vec<Response>,
) -> (Vec<Response>, io::Result<()>) {
    if !responses.iter().any(Response::is_from_disk) {
        let result = write_all(shard, connection, &responses).await;
        return (responses, result);
    }
    let (sending, connection) = (shard.clone(), connection.clone());
    let written = async move {
        let result = write_all(&sending, &connection, &responses).await;
        (responses, result)
    };
    shard.stores.for_reading().catch_up.run(written).await
}

async fn write_all(shard: &Shard, connection: &Connection, responses: &[Response]) -> io::Result<()> {
    let mut cursor = WriteCursor::default();
    let is_cold = responses.iter().any(Response::is_from_disk);
    let size_max = if is_cold { SOCKET_WRITE_SIZE_COLD } else { SOCKET_WRITE_SIZE_MAX };
    while !cursor.is_done(responses) {
        let mut slices = Vec::new();
        cursor.slices(responses, SOCKET_SLICES_MAX, size_max, &mut slices);
        let taken = poll_fn(|cx| {
            let mut stream = connection.stream.borrow_mut();
            Pin::new(&mut *stream).poll_write_vectored(cx, &slices)
        })
        .await?;
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        connection.last_active.set(shard.clock.mono());
        connection.counts.bytes_out.set(connection.counts.bytes_out.get() + taken as u64);
        cursor.advance(responses, taken);
        match is_cold {
            true => glommio::executor().yield_task_queue_now().await,
            false => glommio::executor().yield_if_needed().await,
        }
    }
    Ok(())
}

/// Closes a socket that is one too many, before it costs anything.
pub async fn refuse(stream: TcpStream) {
    let _ = stream.shutdown(Shutdown::Both).await;
}

#[cfg(test)]
pub(super) mod tests;
