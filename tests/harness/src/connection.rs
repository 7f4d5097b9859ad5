//! One connection in plain protocol: requests of the library's types, or any bytes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};

use crate::wait::PATIENCE;

pub struct Connection {
    stream: TcpStream,
    correlation_id: i32,
}

impl Connection {
    pub fn open(port: u16) -> Connection {
        Connection::try_open(port).expect("the broker accepts")
    }

    /// For a broker that may be gone.
    pub fn try_open(port: u16) -> io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, correlation_id: 0 })
    }

    /// Where it was opened to.
    pub fn port(&self) -> u16 {
        self.stream.peer_addr().map_or(0, |address| address.port())
    }

    /// Sends a request and waits for its answer.
    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let called = self.try_call(version, request);
        called.unwrap_or_else(|error| panic!("API {} version {version}: {error}", R::KEY))
    }

    pub fn try_call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.send(version, request)?;
        self.receive::<R>(version)
    }

    /// Sends a request without waiting; answers come in the order of requests.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        self.correlation_id += 1;
        self.stream.write_all(&frame(version, self.correlation_id, request))
    }

    /// From now on sending fails where the broker does not read.
    pub fn stop_waiting_to_send(&mut self) {
        const PATIENCE_TO_SEND: Duration = Duration::from_millis(500);
        self.stream.set_write_timeout(Some(PATIENCE_TO_SEND)).expect("it is not zero");
    }

    /// Takes the next answer, which has to be that of the oldest unanswered request.
    pub fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut bytes = self.receive_frame()?;
        let key = ApiKey::try_from(R::KEY).expect("the library knows its own keys");
        let header = ResponseHeader::decode(&mut bytes, key.response_header_version(version));
        let header = header.map_err(io::Error::other)?;
        assert!(header.correlation_id <= self.correlation_id, "an answer to no request");
        let response = R::Response::decode(&mut bytes, version).map_err(io::Error::other)?;
        assert!(!bytes.has_remaining(), "{} bytes follow the answer to API {}", bytes.remaining(), R::KEY);
        Ok(response)
    }

    /// The next answer's bytes, correlation id first.
    pub fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut bytes = BytesMut::zeroed(u32::from_be_bytes(length) as usize);
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes.freeze())
    }

    /// Sends anything.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits until the broker closes the connection; false if it is still open after `patience`.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut rest = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.stream.set_read_timeout(Some(left)).expect("it is not zero");
            match self.stream.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => panic!("reading to the end: {error}"),
            }
        }
    }
}

/// A request as it stands on the wire, length first.
pub fn frame<R: Request>(version: i16, correlation_id: i32, request: &R) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("process-test")));
    let mut body = BytesMut::new();
    header.encode(&mut body, R::header_version(version)).expect("the header fits");
    request
        .encode(&mut body, version)
        .unwrap_or_else(|error| panic!("API {} version {version}: {error}", R::KEY));
    let mut framed = Vec::with_capacity(4 + body.len());
    framed.put_i32(body.len() as i32);
    framed.put_slice(&body);
    framed
}
