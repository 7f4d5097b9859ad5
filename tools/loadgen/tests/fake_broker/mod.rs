//! A broker of a few lines that keeps batches in memory and does what it is told wrong.
//!
//! One thread per connection, one topic, protocol by the library: nothing here is shared with the
//! client under test but the record batch view. It checks idempotent sequences as Kafka does.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Request, StrBytes, decode_request_header_from_buffer,
};
use odradek::codec::record_batch::{BATCH_HEADER_SIZE, BatchView, assign_offset, seal};
use odradek::types::{LeaderEpoch, Offset};

/// What goes wrong with one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// The connection is closed before the batch is stored.
    CutBefore,
    /// The batch is stored and the connection closed without an answer.
    CutAfter,
    /// The batch is refused with this code.
    Refuse(i16),
    /// Acknowledged and thrown away.
    Lose,
    /// Stored twice.
    Duplicate,
    /// A byte of the last record's value is changed, under a new CRC.
    Alter,
}

#[derive(Default)]
struct Log {
    batches: Vec<Vec<u8>>,
    end: i64,
    /// Next sequence and latest batches (base sequence, base offset) by producer id.
    producers: BTreeMap<i64, (i32, Vec<(i32, i64)>)>,
}

struct Shared {
    partitions: i32,
    address: std::net::SocketAddr,
    logs: BTreeMap<i32, Log>,
    /// By the number of the batch, counting all that arrive.
    mischief: BTreeMap<u64, Mischief>,
    batches_seen: u64,
    next_producer_id: i64,
    versions: BTreeMap<i16, (i16, i16)>,
    /// What fetches behind offset 0 are answered; 0 for nothing unusual.
    fetch_error: i16,
}

/// Lives: for one test; its threads end with their connections.
pub struct FakeBroker {
    shared: Arc<Mutex<Shared>>,
}

const SUPPORTED: [(i16, i16, i16); 7] =
    [(0, 0, 11), (1, 4, 12), (2, 1, 7), (3, 0, 12), (18, 0, 3), (19, 2, 7), (22, 0, 4)];

impl FakeBroker {
    pub fn start(partitions: i32, mischief: &[(u64, Mischief)]) -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            partitions,
            address: listener.local_addr().unwrap(),
            logs: (0..partitions).map(|partition| (partition, Log::default())).collect(),
            mischief: mischief.iter().copied().collect(),
            batches_seen: 0,
            next_producer_id: 1000,
            versions: SUPPORTED.into_iter().map(|(key, min, max)| (key, (min, max))).collect(),
            fetch_error: 0,
        }));
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = of_thread.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        FakeBroker { shared }
    }

    /// Offers an API up to `max` only; below its minimum takes it away.
    pub fn limit(&self, api_key: i16, max: i16) {
        let mut shared = self.shared.lock().unwrap();
        match max {
            0.. => shared.versions.get_mut(&api_key).unwrap().1 = max,
            _ => drop(shared.versions.remove(&api_key)),
        }
    }

    /// All but what begins at offset 0 cannot be fetched any more.
    pub fn refuse_fetches(&self, code: i16) {
        self.shared.lock().unwrap().fetch_error = code;
    }

    pub fn address(&self) -> String {
        self.shared.lock().unwrap().address.to_string()
    }

    /// Records stored, over all partitions.
    pub fn records(&self) -> i64 {
        self.shared.lock().unwrap().logs.values().map(|log| log.end).sum()
    }

    /// Records stored per batch, in the order of each partition.
    pub fn batch_record_counts(&self) -> Vec<u32> {
        let shared = self.shared.lock().unwrap();
        let batches = shared.logs.values().flat_map(|log| &log.batches);
        batches.map(|bytes| BatchView::split_first(bytes).unwrap().0.record_count()).collect()
    }
}

/// Until the client, or some mischief, ends the connection.
fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) {
    stream.set_nodelay(true).unwrap();
    loop {
        let mut size = [0; 4];
        if stream.read_exact(&mut size).is_err() {
            return;
        }
        let mut frame = vec![0; u32::from_be_bytes(size) as usize];
        if stream.read_exact(&mut frame).is_err() {
            return;
        }
        let mut frame = Bytes::from(frame);
        let header = decode_request_header_from_buffer(&mut frame).unwrap();
        let Some(answer) = answer(&header, &mut frame, shared) else {
            return;
        };
        if !answer.is_empty() && stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// `None` closes the connection; an empty answer is none.
fn answer(header: &RequestHeader, body: &mut Bytes, shared: &Mutex<Shared>) -> Option<Vec<u8>> {
    let version = header.request_api_version;
    let mut state = shared.lock().unwrap();
    let out = match ApiKey::try_from(header.request_api_key).unwrap() {
        ApiKey::ApiVersions => {
            let keys = state.versions.iter().map(|(&key, &(min, max))| {
                ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
            });
            encode::<ApiVersionsRequest>(
                header,
                &ApiVersionsResponse::default().with_api_keys(keys.collect()),
            )
        }
        ApiKey::Metadata => encode::<MetadataRequest>(header, &metadata(&state)),
        ApiKey::CreateTopics => {
            let request = CreateTopicsRequest::decode(body, version).unwrap();
            let created = CreatableTopicResult::default().with_name(request.topics[0].name.clone());
            encode::<CreateTopicsRequest>(header, &CreateTopicsResponse::default().with_topics(vec![created]))
        }
        ApiKey::InitProducerId => {
            state.next_producer_id += 1;
            let id = state.next_producer_id;
            let response =
                InitProducerIdResponse::default().with_producer_id(id.into()).with_producer_epoch(0);
            encode::<InitProducerIdRequest>(header, &response)
        }
        ApiKey::ListOffsets => {
            let request = ListOffsetsRequest::decode(body, version).unwrap();
            encode::<ListOffsetsRequest>(header, &list_offsets(&state, &request))
        }
        ApiKey::Produce => {
            let request = ProduceRequest::decode(body, version).unwrap();
            let acks = request.acks;
            let response = produce(&mut state, request)?;
            if acks == 0 {
                return Some(Vec::new());
            }
            encode::<ProduceRequest>(header, &response)
        }
        ApiKey::Fetch => {
            let request = FetchRequest::decode(body, version).unwrap();
            let mut response = fetch(&state, &request);
            let mut waited_ms = 0;
            while is_empty(&response) && waited_ms < request.max_wait_ms {
                drop(state);
                std::thread::park_timeout(std::time::Duration::from_millis(1));
                waited_ms += 1;
                state = shared.lock().unwrap();
                response = fetch(&state, &request);
            }
            encode::<FetchRequest>(header, &response)
        }
        other => panic!("{other:?} was not offered"),
    };
    Some(out)
}

fn encode<R: Request>(header: &RequestHeader, response: &R::Response) -> Vec<u8> {
    let version = header.request_api_version;
    let mut out = BytesMut::new();
    let head = ResponseHeader::default().with_correlation_id(header.correlation_id);
    head.encode(&mut out, R::Response::header_version(version)).unwrap();
    response.encode(&mut out, version).unwrap();
    let mut framed = (out.remaining() as u32).to_be_bytes().to_vec();
    framed.extend_from_slice(&out);
    framed
}

fn metadata(state: &MutexGuard<'_, Shared>) -> MetadataResponse {
    let broker = MetadataResponseBroker::default()
        .with_node_id(1.into())
        .with_host(StrBytes::from_string(state.address.ip().to_string()))
        .with_port(state.address.port() as i32);
    let partitions = (0..state.partitions).map(|index| {
        MetadataResponsePartition::default().with_partition_index(index).with_leader_id(1.into())
    });
    let topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
        .with_partitions(partitions.collect());
    MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic])
}

fn list_offsets(state: &MutexGuard<'_, Shared>, request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let partitions = request.topics[0].partitions.iter().map(|partition| {
        let end = state.logs[&partition.partition_index].end;
        ListOffsetsPartitionResponse::default()
            .with_partition_index(partition.partition_index)
            .with_offset(if partition.timestamp == -1 { end } else { 0 })
    });
    let topic = ListOffsetsTopicResponse::default().with_partitions(partitions.collect());
    ListOffsetsResponse::default().with_topics(vec![topic])
}

fn produce(state: &mut MutexGuard<'_, Shared>, request: ProduceRequest) -> Option<ProduceResponse> {
    let mut partitions = Vec::new();
    let mut cut = false;
    for part in &request.topic_data[0].partition_data {
        let number = state.batches_seen;
        state.batches_seen += 1;
        let mischief = state.mischief.remove(&number);
        if mischief == Some(Mischief::CutBefore) {
            return None;
        }
        cut |= mischief == Some(Mischief::CutAfter);
        let (error_code, base_offset) = match mischief {
            Some(Mischief::Refuse(code)) => (code, -1),
            _ => append(state.logs.get_mut(&part.index).unwrap(), part.records.as_ref().unwrap(), mischief),
        };
        partitions.push(
            PartitionProduceResponse::default()
                .with_index(part.index)
                .with_error_code(error_code)
                .with_base_offset(base_offset),
        );
    }
    let topic = TopicProduceResponse::default().with_partition_responses(partitions);
    (!cut).then(|| ProduceResponse::default().with_responses(vec![topic]))
}

/// Error code and base offset.
fn append(log: &mut Log, records: &[u8], mischief: Option<Mischief>) -> (i16, i64) {
    const CORRUPT_MESSAGE: i16 = 2;
    const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    let (batch, rest) = BatchView::split_first(records).unwrap();
    if batch.validate_produced().is_err() || !rest.is_empty() {
        return (CORRUPT_MESSAGE, -1);
    }
    if let Some(producer) = batch.producer() {
        let (next, latest) = log.producers.entry(producer.id.0).or_default();
        if let Some((_, offset)) = latest.iter().find(|(base, _)| *base == producer.base_sequence.0) {
            return (0, *offset);
        }
        if producer.base_sequence.0 != *next {
            return (OUT_OF_ORDER_SEQUENCE_NUMBER, -1);
        }
        *next = producer.last_sequence.advance(1).0;
        latest.push((producer.base_sequence.0, log.end));
        if latest.len() > 5 {
            latest.remove(0);
        }
    }
    let base_offset = log.end;
    let copies = match mischief {
        Some(Mischief::Lose) => 0,
        Some(Mischief::Duplicate) => 2,
        _ => 1,
    };
    for _ in 0..copies {
        let mut bytes = batch.bytes().to_vec();
        if mischief == Some(Mischief::Alter) {
            // The value is followed by two headers that end in a sequence of eight bytes.
            let headers = 1 + 1 + 9 + 1 + 4 + 1 + 8 + 1 + 8;
            let at = bytes.len() - headers - 1;
            assert!(at > BATCH_HEADER_SIZE);
            bytes[at] ^= 1;
            seal(&mut bytes);
        }
        assign_offset(&mut bytes, Offset::new(log.end as u64).unwrap(), LeaderEpoch(0));
        log.batches.push(bytes);
        log.end += batch.record_count() as i64;
    }
    (0, base_offset)
}

fn is_empty(response: &FetchResponse) -> bool {
    response.responses[0].partitions.iter().all(|p| p.records.as_ref().is_none_or(Bytes::is_empty))
}

fn fetch(state: &MutexGuard<'_, Shared>, request: &FetchRequest) -> FetchResponse {
    let partitions = request.topics[0].partitions.iter().map(|wanted| {
        let log = &state.logs[&wanted.partition];
        if state.fetch_error != 0 && wanted.fetch_offset > 0 {
            let refused = PartitionData::default().with_partition_index(wanted.partition);
            return refused.with_error_code(state.fetch_error).with_records(None);
        }
        let mut records = Vec::new();
        for bytes in &log.batches {
            let end = BatchView::split_first(bytes).unwrap().0.end_offset().to_wire();
            if end > wanted.fetch_offset && records.len() < wanted.partition_max_bytes as usize {
                records.extend_from_slice(bytes);
            }
        }
        PartitionData::default()
            .with_partition_index(wanted.partition)
            .with_high_watermark(log.end)
            .with_records(Some(Bytes::from(records)))
    });
    let topic = FetchableTopicResponse::default().with_partitions(partitions.collect());
    FetchResponse::default().with_responses(vec![topic])
}
