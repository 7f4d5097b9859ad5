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
//!
//! | file | what it does |
//! |---|---|
//! | `reading.rs` | reads requests and dispatches them, while there is memory for them and their answers |
//! | `writing.rs` | writes answers |

mod reading;
mod writing;

use crate::codec::api::produce::ProduceError;
use crate::codec::api::request::RequestError;
use crate::codec::api::response::EncodeError;
use crate::codec::api::versions::ApiKey;
use crate::codec::frame::{FrameError, HeaderError};
use crate::metrics::ShardMetrics;
use crate::metrics::clients::ClientSnapshot;
use crate::shard::conn::reading::read_requests;
use crate::shard::conn::writing::write_answers;
use crate::shard::event::Signal;
use crate::shard::memory::Charge;
use crate::shard::quotas::ClientLimits;
use crate::shard::receive::{Holder, HolderState, ReceiveBuffer};
use crate::shard::response::{Response, ResponseMemory};
use crate::shard::{Parked, Shard};
use crate::types::limits::{
    CLIENT_TEXT_SIZE_MAX, CONNECTION_INFLIGHT_BYTES_MAX, CONNECTION_REQUESTS_MAX,
    CONNECTION_RESPONSE_BYTES_MAX, FRAME_PREFIX_SIZE, RECEIVE_BUFFER_SIZE, RESPONSE_SIZE_FLOOR,
    SOCKET_SLICES_MAX, STOP_LINGER_MAX,
};
use crate::types::{Mono, ShardId};
use futures::future::select;
use futures::io::AsyncRead;
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

fn is_disconnect(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}

/// Closes a socket that is one too many, before it costs anything.
pub async fn refuse(stream: TcpStream) {
    let _ = stream.shutdown(Shutdown::Both).await;
}

#[cfg(test)]
pub(super) mod tests;
