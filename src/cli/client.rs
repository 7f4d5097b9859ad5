//! A small blocking Kafka client for the commands: one connection, one request at a time.
//!
//! Versions are negotiated as every client does it (ApiVersions first, KIP-511), so the commands
//! work against any Kafka-compatible broker, and one that lacks an API is told so by name.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use clap::Args;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Message, Request, StrBytes, encode_request_header_into_buffer,
};
use odradek::config::HostPort;
use odradek::metrics::names::{api_name, error_name};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// The broker's own limit for topic changes is passed in requests and is shorter.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes. Metadata of every topic of a large cluster stays well below.
const ANSWER_SIZE_MAX: usize = 256 << 20;
const UNSUPPORTED_VERSION: i16 = 35;

/// What every command that asks brokers takes.
#[derive(Debug, Args)]
pub struct ClientFlags {
    /// Brokers to ask; the first that answers is used
    #[arg(
        long,
        visible_alias = "bootstrap-server",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:9092",
        global = true
    )]
    pub brokers: Vec<HostPort>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no broker answers at {brokers} ({error}): start one, or point --brokers at it")]
    Unreachable { brokers: String, error: io::Error },
    #[error("{broker} ended the conversation ({error}): is it a Kafka broker?")]
    Disconnected { broker: String, error: io::Error },
    #[error("{broker} sent an answer that is not Kafka's: {problem}")]
    Malformed { broker: String, problem: String },
    #[error("{broker} does not support {api} in a version that this command speaks")]
    Unsupported { broker: String, api: String },
    #[error("{api}: {}", error_name(*.code))]
    Refused { api: &'static str, code: i16 },
}

pub struct Client {
    stream: TcpStream,
    broker: String,
    /// First and last version of each API key that the broker offers.
    versions: BTreeMap<i16, (i16, i16)>,
    correlation_id: i32,
}

impl Client {
    /// Connects to the first of `brokers` that answers.
    pub fn connect(brokers: &[HostPort]) -> Result<Client, ClientError> {
        let mut last_error = io::Error::from(io::ErrorKind::NotFound);
        for broker in brokers {
            match connect(broker) {
                Ok(stream) => {
                    let broker = broker.to_string();
                    let mut client = Client { stream, broker, versions: BTreeMap::new(), correlation_id: 0 };
                    client.negotiate()?;
                    return Ok(client);
                }
                Err(error) => last_error = error,
            }
        }
        let brokers = brokers.iter().map(HostPort::to_string).collect::<Vec<_>>().join(", ");
        Err(ClientError::Unreachable { brokers, error: last_error })
    }

    /// Sends what `request` makes for the newest version that both sides know.
    pub fn send<R: Request>(&mut self, request: impl FnOnce(i16) -> R) -> Result<R::Response, ClientError> {
        self.send_up_to(R::VERSIONS.max, request)
    }

    /// The same, of no version behind `version_max`.
    pub fn send_up_to<R: Request>(
        &mut self,
        version_max: i16,
        request: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, ClientError> {
        let (first, last) = self.versions.get(&R::KEY).copied().unwrap_or((0, -1));
        let version = last.min(version_max);
        if version < first.max(R::VERSIONS.min) {
            return Err(ClientError::Unsupported { broker: self.broker.clone(), api: api_name(R::KEY) });
        }
        let answer = self.exchange(&request(version), version)?;
        self.decode::<R::Response>(answer, version)
    }

    /// True if the broker offers the API at all.
    pub fn offers<R: Request>(&self) -> bool {
        self.versions.contains_key(&R::KEY)
    }

    fn negotiate(&mut self) -> Result<(), ClientError> {
        const VERSION: i16 = 3; // The last one that every broker of this decade takes.
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("odradek-cli"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = self.exchange(&request, VERSION)?;
        // A broker that does not know the version answers in version 0.
        let refused = answer.get(..2) == Some(&UNSUPPORTED_VERSION.to_be_bytes());
        let response: ApiVersionsResponse = if refused {
            let answer = self.exchange(&ApiVersionsRequest::default(), 0)?;
            self.decode(answer, 0)?
        } else {
            self.decode(answer, VERSION)?
        };
        if response.error_code != 0 {
            return Err(ClientError::Refused { api: "ApiVersions", code: response.error_code });
        }
        let ranges = response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version)));
        self.versions = ranges.collect();
        Ok(())
    }

    /// Returns the answer's body, without its header.
    fn exchange<R: Request>(&mut self, request: &R, version: i16) -> Result<Bytes, ClientError> {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("odradek-cli")));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let encoded = encode_request_header_into_buffer(&mut frame, &header)
            .and_then(|()| request.encode(&mut frame, version));
        encoded.map_err(|error| self.malformed(format!("the request cannot be written: {error}")))?;
        let length = (frame.len() - 4) as u32; // Requests of a command line: far below 4 GiB.
        frame[..4].copy_from_slice(&length.to_be_bytes());

        let mut answer = self.round_trip(&frame).map_err(|error| {
            let broker = self.broker.clone();
            ClientError::Disconnected { broker, error }
        })??;
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut answer, header_version)
            .map_err(|error| self.malformed(error.to_string()))?;
        if header.correlation_id != self.correlation_id {
            return Err(self.malformed(format!("correlation id {}", header.correlation_id)));
        }
        Ok(answer)
    }

    /// Outer: the connection failed. Inner: what came is no frame.
    fn round_trip(&mut self, frame: &[u8]) -> io::Result<Result<Bytes, ClientError>> {
        self.stream.write_all(frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ANSWER_SIZE_MAX {
            return Ok(Err(self.malformed(format!("a frame of {length} bytes"))));
        }
        // Grows with what arrives: a length alone is no reason to allocate.
        let mut answer = Vec::new();
        (&mut self.stream).take(length as u64).read_to_end(&mut answer)?;
        if answer.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Ok(answer.into()))
    }

    fn decode<T: Decodable + Message>(&self, mut answer: Bytes, version: i16) -> Result<T, ClientError> {
        T::decode(&mut answer, version).map_err(|error| self.malformed(error.to_string()))
    }

    fn malformed(&self, problem: String) -> ClientError {
        ClientError::Malformed { broker: self.broker.clone(), problem }
    }
}

fn connect(broker: &HostPort) -> io::Result<TcpStream> {
    let mut last_error = io::Error::from(io::ErrorKind::NotFound);
    for address in (broker.host.as_str(), broker.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
                stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
                return Ok(stream);
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use kafka_protocol::messages::MetadataRequest;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn an_old_broker_is_asked_again_in_version_0() {
        let refusal = ApiVersionsResponse::default().with_error_code(UNSUPPORTED_VERSION);
        let offer = ApiVersion::default().with_api_key(MetadataRequest::KEY).with_max_version(8);
        let accepted = ApiVersionsResponse::default().with_api_keys(vec![offer]);
        let broker = broker(vec![frame(1, &refusal, 0), frame(2, &accepted, 0)]);
        let client = Client::connect(&[broker]).expect("it answers the second time");
        assert_eq!(client.versions[&MetadataRequest::KEY], (0, 8));
        assert!(!client.offers::<kafka_protocol::messages::CreateTopicsRequest>());
    }

    #[test]
    fn what_is_not_kafka_is_refused_without_allocating_for_it() {
        let http = Client::connect(&[broker(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()])]);
        assert!(matches!(http.err(), Some(ClientError::Malformed { .. })), "\"HTTP\" as a length");
        let closed = Client::connect(&[broker(vec![Vec::new()])]);
        assert!(matches!(closed.err(), Some(ClientError::Disconnected { .. })));
        let half = Client::connect(&[broker(vec![vec![0, 1, 0, 0, 7]])]);
        assert!(matches!(half.err(), Some(ClientError::Disconnected { .. })));
        let garbage = Client::connect(&[broker(vec![vec![0, 0, 0, 4, 0, 0, 0, 9]])]);
        assert!(matches!(garbage.err(), Some(ClientError::Malformed { .. })));
    }

    #[test]
    fn a_missing_broker_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let missing = HostPort { host: "127.0.0.1".to_string(), port };
        let error = Client::connect(&[missing]).err().expect("nobody listens").to_string();
        assert!(error.starts_with(&format!("no broker answers at 127.0.0.1:{port}")), "{error}");
    }

    fn frame(correlation_id: i32, response: &ApiVersionsResponse, version: i16) -> Vec<u8> {
        let mut body = BytesMut::new();
        body.put_i32(correlation_id);
        response.encode(&mut body, version).expect("valid");
        let mut frame = (body.len() as u32).to_be_bytes().to_vec();
        frame.extend_from_slice(&body);
        frame
    }

    /// Sends one of `answers` for each request, then closes.
    fn broker(answers: Vec<Vec<u8>>) -> HostPort {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client connects");
            for answer in answers {
                let mut length = [0; 4];
                stream.read_exact(&mut length).expect("a request");
                let mut request = vec![0; u32::from_be_bytes(length) as usize];
                stream.read_exact(&mut request).expect("a whole request");
                stream.write_all(&answer).expect("the client reads");
            }
        });
        HostPort { host: "127.0.0.1".to_string(), port }
    }
}
