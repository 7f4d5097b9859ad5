//! One TCP connection to a broker: version negotiation, pipelined requests, and one vectored write
//! for everything that is queued.
//!
//! Requests on the data path are queued as [`Outgoing`]: bytes of their own with shared payloads
//! between them, so that no batch is copied in user space. Answers are parsed in the receive buffer.
//!
//! A read that was polled once is never abandoned while the connection lives: there is one poll loop
//! per connection, and time-outs end the connection. Absent: TLS and SASL.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};

use crate::versions::{Api, Unsupported, Versions};

pub const CLIENT_ID: &str = "odradek-loadgen";

/// Bytes of one answer; a broker that announces more is not believed.
const FRAME_SIZE_MAX: usize = 256 << 20;
/// Slices of one vectored write.
const SLICES_MAX: usize = 64;
/// Bytes that must be free in the receive buffer before a read.
const READ_SIZE_MIN: usize = 4096;
/// How long connecting or a single administrative request may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a broker could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{address}: {error}")]
    Io { address: String, error: io::Error },
    #[error("{address}: no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout { address: String },
    #[error("{address} answered what is not the Kafka protocol: {reason}")]
    Protocol { address: String, reason: String },
    #[error("{address}: {error}")]
    Unsupported { address: String, error: Unsupported },
    #[error("'{address}' is not a HOST:PORT that resolves")]
    Address { address: String },
}

/// A request on its way out: own bytes, cut where shared payloads go in between.
#[derive(Default)]
pub struct Outgoing {
    pub bytes: Vec<u8>,
    /// End in `bytes` of the part before each payload, ascending; the payload; the part of it to send.
    pub payloads: Vec<(usize, Rc<[u8]>, std::ops::Range<usize>)>,
}

impl Outgoing {
    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.payloads.iter().map(|(_, _, range)| range.len()).sum::<usize>()
    }

    /// The whole request in one piece, for tests and measurements of the other side.
    pub fn to_bytes(&self) -> Vec<u8> {
        (0..self.parts()).flat_map(|part| self.part(part)).copied().collect()
    }

    /// Part `index` of the alternation own, payload, own, payload, ..., own.
    fn part(&self, index: usize) -> &[u8] {
        let payload = index / 2;
        if index % 2 == 1 {
            let (_, bytes, range) = &self.payloads[payload];
            return &bytes[range.clone()];
        }
        let start = if payload == 0 { 0 } else { self.payloads[payload - 1].0 };
        let end = self.payloads.get(payload).map_or(self.bytes.len(), |(end, _, _)| *end);
        &self.bytes[start..end]
    }

    fn parts(&self) -> usize {
        self.payloads.len() * 2 + 1
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.payloads.clear();
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bytes arrived; complete answers may be among them.
    Received,
    /// Everything queued is in the socket.
    Flushed,
    /// The timer that was passed in has fired.
    Due,
}

/// Lives: on the executor that opened it.
pub struct Connection {
    stream: TcpStream,
    address: Rc<str>,
    versions: Versions,
    /// Received and not yet taken: `start..end`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    output: VecDeque<Outgoing>,
    /// How far the front of `output` is written: part, and bytes of it.
    written: (usize, usize),
    spare: Vec<Outgoing>,
    next_correlation: i32,
}

impl Connection {
    /// Connects and learns the broker's versions. `receive_size`: bytes of the receive buffer; it
    /// grows when a single answer is larger.
    pub async fn open(address: &str, receive_size: usize) -> Result<Connection, CallError> {
        let resolved = resolve(address)?;
        let failed = |error: io::Error| CallError::Io { address: address.to_string(), error };
        let stream =
            TcpStream::connect_timeout(resolved, CALL_TIMEOUT).await.map_err(|e| failed(e.into()))?;
        stream.set_nodelay(true).map_err(|e| failed(e.into()))?;
        let mut connection = Connection {
            stream,
            address: address.into(),
            versions: Versions::default(),
            input: vec![0; receive_size.max(READ_SIZE_MIN * 2)],
            start: 0,
            end: 0,
            output: VecDeque::new(),
            written: (0, 0),
            spare: Vec::new(),
            next_correlation: 0,
        };
        connection.versions = connection.negotiate().await?;
        Ok(connection)
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The highest version that both sides speak.
    pub fn version(&self, api: Api) -> Result<i16, CallError> {
        self.versions
            .of(api)
            .map_err(|error| CallError::Unsupported { address: self.address.to_string(), error })
    }

    pub fn offers(&self, api_key: i16) -> bool {
        self.versions.offers(api_key)
    }

    /// Whether partitions join a transaction by being written to (KIP-890).
    pub fn has_implicit_transactions(&self) -> bool {
        self.versions.transactions >= 2
    }

    /// Sends one request and waits for its answer. Nothing else may be in flight.
    pub async fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, CallError> {
        let correlation = self.queue_message(request, version)?;
        let frame = within(CALL_TIMEOUT, self.one_frame()).await;
        let mut frame = frame
            .ok_or_else(|| CallError::Timeout { address: self.address.to_string() })?
            .map_err(|error| self.io_error(error))?;
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version))
            .map_err(|e| self.protocol_error(e))?;
        if header.correlation_id != correlation {
            let found = header.correlation_id;
            return Err(self.protocol_error(format!("answer {found} to request {correlation}")));
        }
        R::Response::decode(&mut frame, version).map_err(|e| self.protocol_error(e))
    }

    /// An empty request to fill, reusing the memory of one that was sent.
    pub fn outgoing(&mut self) -> Outgoing {
        self.spare.pop().unwrap_or_default()
    }

    /// Correlation id for the next request that is queued.
    pub fn correlation(&mut self) -> i32 {
        self.next_correlation = self.next_correlation.wrapping_add(1);
        self.next_correlation
    }

    /// Queues a whole request, size prefix included.
    pub fn queue(&mut self, request: Outgoing) {
        self.output.push_back(request);
    }

    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Queues a message of the library and returns its correlation id.
    pub fn queue_message<R: Request>(&mut self, request: &R, version: i16) -> Result<i32, CallError> {
        let correlation = self.correlation();
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut body = BytesMut::new();
        encode_request_header_into_buffer(&mut body, &header).map_err(|e| self.protocol_error(e))?;
        request.encode(&mut body, version).map_err(|e| self.protocol_error(e))?;
        let mut outgoing = self.outgoing();
        outgoing.bytes.extend_from_slice(&(body.len() as i32).to_be_bytes());
        outgoing.bytes.extend_from_slice(&body);
        self.queue(outgoing);
        Ok(correlation)
    }

    /// The next complete answer, without its size prefix, if one was received.
    pub fn take_frame(&mut self) -> io::Result<Option<&[u8]>> {
        let received = &self.input[self.start..self.end];
        let Some(size) = frame_size(received)? else {
            return Ok(None);
        };
        if received.len() < 4 + size {
            return Ok(None);
        }
        let start = self.start + 4;
        self.start = start + size;
        Ok(Some(&self.input[start..start + size]))
    }

    /// Writes what is queued, reads what is there, and waits until something happened.
    /// `flushed_wanted`: whether an emptied queue is an event; `timer`: whether and when to give up.
    pub async fn progress(
        &mut self,
        flushed_wanted: bool,
        timer: &mut Option<glommio::timer::Timer>,
    ) -> io::Result<Progress> {
        poll_fn(|cx| self.poll_progress(cx, flushed_wanted, timer)).await
    }

    fn poll_progress(
        &mut self,
        cx: &mut Context<'_>,
        flushed_wanted: bool,
        timer: &mut Option<glommio::timer::Timer>,
    ) -> Poll<io::Result<Progress>> {
        let had_output = !self.output.is_empty();
        if had_output && self.poll_flush(cx)?.is_ready() && flushed_wanted {
            return Poll::Ready(Ok(Progress::Flushed));
        }
        if self.poll_receive(cx)?.is_ready() {
            return Poll::Ready(Ok(Progress::Received));
        }
        if let Some(timer) = timer
            && Pin::new(timer).poll(cx).is_ready()
        {
            return Poll::Ready(Ok(Progress::Due));
        }
        Poll::Pending
    }

    /// Everything queued leaves in as few vectored writes as the socket takes.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = gather(&self.output, self.written, &mut slices);
            let written = match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => written?,
                Poll::Pending => return Poll::Pending,
            };
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        loop {
            let Some(front) = self.output.front() else {
                assert_eq!(written, 0, "no more is written than was queued");
                return;
            };
            let (part, done) = self.written;
            let rest = front.part(part).len() - done;
            if written < rest {
                self.written.1 += written;
                return;
            }
            written -= rest;
            self.written = (part + 1, 0);
            if part + 1 == front.parts() {
                let mut sent = self.output.pop_front().expect("there is a front");
                sent.clear();
                self.spare.push(sent);
                self.written = (0, 0);
            }
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.make_room()?;
        match Pin::new(&mut self.stream).poll_read(cx, &mut self.input[self.end..]) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(received)) => {
                self.end += received;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Moves a half-received answer to the front, and grows the buffer when it does not fit there.
    fn make_room(&mut self) -> io::Result<()> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let expected = frame_size(&self.input[self.start..self.end])?.map_or(0, |size| 4 + size);
        let missing = expected.saturating_sub(self.end - self.start).max(READ_SIZE_MIN);
        if self.input.len() - self.end >= missing {
            return Ok(());
        }
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.input.len() - self.end < missing {
            self.input.resize(self.end + missing, 0);
        }
        Ok(())
    }

    async fn one_frame(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Bytes::copy_from_slice(frame));
            }
            self.progress(false, &mut None).await?;
        }
    }

    /// A broker that does not know our version answers in version 0 with its own range (KIP-511).
    async fn negotiate(&mut self) -> Result<Versions, CallError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        self.queue_message(&request, 3)?;
        let mut frame = within(CALL_TIMEOUT, self.one_frame())
            .await
            .ok_or_else(|| CallError::Timeout { address: self.address.to_string() })?
            .map_err(|error| self.io_error(error))?;
        ResponseHeader::decode(&mut frame, 0).map_err(|e| self.protocol_error(e))?;
        let refused = frame.get(..2) == Some(&UNSUPPORTED_VERSION.to_be_bytes()[..]);
        let answer = if refused {
            self.call(&ApiVersionsRequest::default(), 0).await?
        } else {
            ApiVersionsResponse::decode(&mut frame, 3).map_err(|e| self.protocol_error(e))?
        };
        if answer.error_code != 0 {
            return Err(self.protocol_error(format!("ApiVersions: error {}", answer.error_code)));
        }
        let offered = answer.api_keys.iter().map(|key| (key.api_key, key.min_version..=key.max_version));
        let mut versions = Versions::new(offered);
        let mut finalized = answer.finalized_features.iter();
        let transactions = finalized.find(|feature| feature.name.as_str() == "transaction.version");
        versions.transactions = transactions.map_or(0, |feature| feature.max_version_level);
        Ok(versions)
    }

    pub fn io_error(&self, error: io::Error) -> CallError {
        CallError::Io { address: self.address.to_string(), error }
    }

    pub fn protocol_error(&self, reason: impl std::fmt::Display) -> CallError {
        CallError::Protocol { address: self.address.to_string(), reason: reason.to_string() }
    }
}

const UNSUPPORTED_VERSION: i16 = 35;

/// Size of the frame that starts `received`, when its prefix is there.
fn frame_size(received: &[u8]) -> io::Result<Option<usize>> {
    let Some((prefix, _)) = received.split_first_chunk::<4>() else {
        return Ok(None);
    };
    match usize::try_from(i32::from_be_bytes(*prefix)) {
        Ok(size) if size <= FRAME_SIZE_MAX => Ok(Some(size)),
        Ok(_) | Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of impossible size")),
    }
}

/// Fills `slices` from what is queued beyond `written`, and returns how many it took.
fn gather<'a>(output: &'a VecDeque<Outgoing>, written: (usize, usize), slices: &mut [IoSlice<'a>]) -> usize {
    let mut count = 0;
    let (mut part, mut done) = written;
    for request in output {
        while part < request.parts() && count < slices.len() {
            let bytes = &request.part(part)[done..];
            if !bytes.is_empty() {
                slices[count] = IoSlice::new(bytes);
                count += 1;
            }
            part += 1;
            done = 0;
        }
        if count == slices.len() {
            break;
        }
        part = 0;
    }
    count
}

/// `None` when `future` took longer; the caller then drops the connection that it used.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let timer = glommio::timer::Timer::new(limit);
    let future = std::pin::pin!(future);
    match futures::future::select(future, timer).await {
        futures::future::Either::Left((value, _)) => Some(value),
        futures::future::Either::Right(_) => None,
    }
}

/// Prefers IPv4, as brokers listen there when told `localhost`.
fn resolve(address: &str) -> Result<SocketAddr, CallError> {
    let bad = || CallError::Address { address: address.to_string() };
    let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(|_| bad())?.collect();
    found.iter().find(|a| a.is_ipv4()).or(found.first()).copied().ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_alternate_between_own_bytes_and_payloads() {
        let payload: Rc<[u8]> = Rc::from(&b"0123456789"[..]);
        let request = Outgoing {
            bytes: b"headmidtail".to_vec(),
            payloads: vec![(4, payload.clone(), 2..5), (7, payload, 0..1)],
        };
        let parts: Vec<&[u8]> = (0..request.parts()).map(|part| request.part(part)).collect();
        assert_eq!(parts, [&b"head"[..], b"234", b"mid", b"0", b"tail"]);
        assert_eq!(request.size(), 15);
    }

    #[test]
    fn gathering_resumes_where_a_write_stopped() {
        let payload: Rc<[u8]> = Rc::from(&b"payload"[..]);
        let one = |text: &[u8]| Outgoing {
            bytes: text.to_vec(),
            payloads: vec![(text.len(), payload.clone(), 0..7)],
        };
        let output = VecDeque::from([one(b"first"), one(b"second")]);
        let mut slices = [IoSlice::new(&[]); 3];
        let count = gather(&output, (0, 2), &mut slices);
        assert_eq!(
            slices[..count].iter().map(|s| s.to_vec()).collect::<Vec<_>>(),
            [b"rst".to_vec(), b"payload".to_vec(), b"second".to_vec()]
        );
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(gather(&output, (1, 6), &mut slices), 3);
        assert_eq!(&*slices[0], b"d");
    }

    #[test]
    fn impossible_frame_sizes_are_refused() {
        assert_eq!(frame_size(&[0, 0, 1]).unwrap(), None);
        assert_eq!(frame_size(&[0, 0, 1, 0]).unwrap(), Some(256));
        assert!(frame_size(&[0xff, 0, 0, 0]).is_err());
        assert!(frame_size(&[0x7f, 0, 0, 0]).is_err());
    }
}
