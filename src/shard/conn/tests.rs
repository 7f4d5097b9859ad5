//! Connections over sockets of this machine, with the shard around them and one quiet partition.
//!
//! Where a test waits, it is for what the other side of its socket does.

use super::*;
use crate::cluster::image::Image;
use crate::cluster::image::tests::{add_topic, image_of, node};
use crate::cluster::record::Record;
use crate::codec::error_code::ErrorCode;
use crate::config::quota::{EntityName, QuotaEntity, QuotaKind, QuotaLimit};
use crate::config::{Config, Machine, Routing};
use crate::shard::background::close_untaken;
use crate::shard::clock::Clock;
use crate::shard::conn::reading::relieve;
use crate::shard::log_dirs::LogDirs;
use crate::shard::mesh::Mesh;
use crate::shard::message::Message;
use crate::shard::response::Slice;
use crate::shard::stores::Stores;
use crate::shard::tail::Tail;
use crate::shard::tests::{directory, on_executor, open_partition, store};
use crate::shard::{Parked, ShardParts};
use crate::types::limits::{RESPONSE_TAKE_TIME_MAX, TAIL_BUFFER_SIZE_MAX};
use crate::types::{NodeId, Offset};
use glommio::channels::channel_mesh::MeshBuilder;
use glommio::net::TcpListener;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};
use std::io::{Read, Write};
use std::path::Path;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of one core, with twice the least memory that this may have: a broker takes half.
pub fn config() -> Config {
    let machine = Machine { cpus_allowed: vec![0], memory_bytes: 128 << 20 };
    Config::defaults(&machine).expect("it is enough")
}

fn pending(answer: Answer) -> Pending {
    Pending { answer, request_size: 1, api_key: ApiKey::Fetch, received: Mono(0) }
}

/// It left the queue when the socket was given it.
#[test]
fn an_answer_that_is_not_taken_waits_for_the_client_whatever_is_behind_it() {
    let mut answers = Answers::default();
    assert!(!answers.wait_for_us(), "there is no request");
    answers.queue.push_back(pending(Answer::Waiting));
    assert!(answers.wait_for_us(), "a parked fetch");
    answers.is_writing = true;
    assert!(!answers.wait_for_us());
    answers.queue.push_front(pending(Answer::Ready(Response::new(vec![0]))));
    answers.is_writing = false;
    assert!(!answers.wait_for_us());
}

/// Two of them may come to more than a connection's answers may hold: the third is not read before.
#[test]
fn a_fetch_does_not_stay_parked_while_its_connection_is_not_read() {
    on_executor(async {
        let place = Place::new().await;
        let (mut client, connection) = place.connect().await;
        for _ in 0..3 {
            client.send(&fetch(50 << 20)).await;
        }
        client.receive().await.expect("the first makes room for the third");
        wait_until(|| connection.fetching_bytes.get() == 50 << 20).await;
        drop(client);
        wait_until(|| place.shard.connection_count() == 0).await;
    });
}

#[test]
fn a_fetch_stays_parked_while_small_requests_come_behind_it() {
    on_executor(async {
        let place = Place::new().await;
        let (mut client, connection) = place.connect().await;
        for _ in 0..3 {
            client.send(&fetch(1 << 20)).await;
        }
        wait_until(|| place.shard.parked_fetches.get() == 3 && connection.reader.borrow().is_some()).await;
        assert!(connection.held.get().is_none(), "it waits for its socket");
        assert!(place.shard.wakes.borrow().values().all(|fetch| !fetch.is_hurried.get()));
    });
}

#[test]
fn a_fetch_that_holds_up_a_request_is_answered_at_once_while_receive_memory_is_short() {
    on_executor(async {
        let place = Place::new().await;
        let (_client, connection) = place.connect().await;
        let parked = Rc::new(Parked { signal: Rc::default(), memory_size: 0, is_hurried: Cell::new(false) });
        connection.fetch_parked(&parked);
        let relieve_at = |second| relieve(&place.shard, 1, Mono(0).after(Duration::from_secs(second)));
        relieve_at(1);
        assert!(!parked.is_hurried.get(), "it holds up nothing");
        let state = HolderState::Client { since: Mono(0) };
        connection.held.set(Some(Holder { held: 1, state }));
        relieve_at(2);
        assert!(parked.is_hurried.get());
    });
}

/// Its reader waits for the socket already when the answer turns out to be too much.
#[test]
fn a_client_that_is_throttled_while_its_fetch_is_parked_is_not_read() {
    on_executor(async {
        let place = Place::new().await;
        place.limit(QuotaKind::RequestPercentage, 1e-9);
        let (mut client, connection) = place.connect().await;
        client.send(&fetch(1 << 20)).await;
        wait_until(|| place.shard.parked_fetches.get() == 1 && connection.reader.borrow().is_some()).await;
        assert!(!connection.is_muted());
        connection.hurry_fetches();
        client.receive().await.expect("there is nothing, and the time that it has to wait");
        let until = connection.muted_until.get();
        assert!(until > place.shard.clock.mono(), "for a second");
        client.send(&frame(ApiKey::ApiVersions, 0, &[])).await;
        client.receive().await.expect("it is answered later");
        assert!(place.shard.clock.mono() >= until);
    });
}

/// Asking for a session that there is not costs as well.
#[test]
fn a_fetch_that_fails_counts_for_the_time_that_it_takes() {
    on_executor(async {
        let place = Place::new().await;
        place.limit(QuotaKind::RequestPercentage, 1e-9);
        let (mut client, connection) = place.connect().await;
        let request = FetchRequest::default().with_session_id(5).with_session_epoch(1);
        let mut body = Vec::new();
        request.encode(&mut body, 11).expect("a version that we serve");
        client.send(&frame(ApiKey::Fetch, 11, &body)).await;
        let (mut answer, mut prefix) = (Vec::new(), [0; 14]);
        client.receive_into(&mut answer).await.expect("it is refused");
        prefix.copy_from_slice(&answer[..14]);
        assert_eq!(prefix[12..14], ErrorCode::FetchSessionIdNotFound.code().to_be_bytes());
        let throttle = i32::from_be_bytes(prefix[8..12].try_into().expect("four bytes"));
        assert!(throttle > 0 && connection.is_muted(), "{throttle} ms");
    });
}

/// A connection keeps some of what its client says, however long that is.
#[test]
fn what_is_kept_of_a_client_is_bounded() {
    assert_eq!(clipped("app"), "app");
    let long = "\u{20ac}".repeat(10_000);
    assert!((CLIENT_TEXT_SIZE_MAX - 3..=CLIENT_TEXT_SIZE_MAX).contains(&clipped(&long).len()));
    on_executor(async {
        let place = Place::new().await;
        let (_client, connection) = place.connect().await;
        connection.count_request(ApiKey::Metadata, Some(&long), 100);
        assert_eq!(connection.client.borrow().client_id.as_deref(), Some(clipped(&long)));
    });
}

/// It is told how long it has to wait, and does.
#[test]
fn a_client_that_is_not_read_is_not_a_slow_one() {
    on_executor(async {
        let place = Place::new().await;
        let (mut client, connection) = place.connect().await;
        let (begin, end) = (&[0, 0, 1, 0][..], &[0; 10][..]);
        client.send(begin).await;
        wait_until(|| connection.receive.borrow().is_some() && connection.reader.borrow().is_some()).await;
        let later = |seconds| place.shard.clock.mono().after(Duration::from_secs(seconds));
        connection.mute_until(later(1000));
        client.send(end).await;
        wait_until(|| connection.held.get().is_some()).await;
        assert_eq!(connection.holder().map(|holder| holder.state), Some(HolderState::Muted));
        relieve(&place.shard, RECEIVE_BUFFER_SIZE, later(50)); // It goes on in a smaller buffer.
        relieve(&place.shard, RECEIVE_BUFFER_SIZE, later(100));
        assert!(!connection.is_closed());
        connection.muted_until.set(place.shard.clock.mono());
        let ended = place.shard.clock.mono();
        connection.drained.notify();
        wait_until(|| !connection.is_muted()).await;
        let state = connection.holder().map(|holder| holder.state);
        assert!(matches!(state, Some(HolderState::Client { since }) if since >= ended), "{state:?}");
        relieve(&place.shard, RECEIVE_BUFFER_SIZE, later(200));
        assert!(connection.is_closed(), "from then on it is");
    });
}

/// It is not the client's turn before it is answered.
#[test]
fn a_fetch_does_not_stay_parked_before_answers_that_memory_is_short_for() {
    on_executor(async {
        let place = Place::new().await;
        let (_client, connection) = place.connect().await;
        let parked = Rc::new(Parked { signal: Rc::default(), memory_size: 0, is_hurried: Cell::new(false) });
        connection.fetch_parked(&parked);
        connection.begin(ApiKey::Fetch, 1, Mono(0));
        let behind = connection.begin(ApiKey::Metadata, 1, Mono(0));
        connection.complete(behind, Some(Response::new(vec![0; RESPONSE_SIZE_FLOOR + 1])));
        close_untaken(&place.shard, place.shard.clock.mono());
        assert!(!parked.is_hurried.get(), "there is memory");
        let _others = place.shard.response_memory.charge(place.shard.config.memory_plan().response);
        close_untaken(&place.shard, place.shard.clock.mono());
        assert!(parked.is_hurried.get());
    });
}

#[test]
fn a_small_request_is_served_beside_large_ones_that_do_not_come() {
    on_executor(async {
        let place = Place::new().await;
        let mut announced = Vec::new();
        for _ in 0..4 {
            let (mut client, connection) = place.connect().await;
            client.send(&(7i32 << 20).saturating_sub(4).to_be_bytes()).await;
            client.send(&[0; 65 << 10]).await;
            wait_until(|| connection.receive.borrow().is_some()).await;
            announced.push(client);
        }
        let (mut client, connection) = place.connect().await;
        let small = frame(ApiKey::ApiVersions, 0, &[]);
        let large = [&((7i32 << 20) - 4).to_be_bytes()[..], &[0; 65 << 10]].concat();
        client.send(&small[..6]).await;
        wait_until(|| connection.receive.borrow().is_some()).await;
        client.send(&[&small[6..], &large].concat()).await;
        client.receive().await.expect("it is answered");
        a_moment().await;
        assert!(connection.receive.borrow().is_none(), "what is behind it waits in the socket");
        assert!(!connection.is_closed());
        assert_eq!(place.shard.metrics.borrow().receive_evictions, 0);
    });
}

/// The socket takes what it can, and the client nothing of it.
#[test]
fn answers_that_nobody_takes_do_not_keep_the_tail() {
    on_executor(async {
        let place = Place::new().await;
        let (_client, connection) = place.connect().await;
        let memory = place.shard.stores.for_reading().tail_memory.clone();
        let mut tail = Tail::new(Offset::ZERO, 0, Vec::new());
        tail.append(&vec![0; TAIL_BUFFER_SIZE_MAX], &memory);
        let newest = tail.slices(Offset::ZERO, 0..TAIL_BUFFER_SIZE_MAX as u64);
        let newest = newest.and_then(|mut slices| slices.pop()).expect("one block has it");
        drop(tail);
        let answer = Response::spliced(vec![0; 12], vec![(12, vec![Slice::Tail(newest); 7])]);
        let ticket = connection.begin(ApiKey::Fetch, 1, Mono(0));
        connection.complete(ticket, Some(answer));
        assert_eq!(place.shard.response_memory.excess(), 0);
        a_moment().await;
        let begun = place.shard.clock.mono();
        let look = |at: Duration| close_untaken(&place.shard, begun.after(at));
        look(2 * RESPONSE_TAKE_TIME_MAX);
        assert!(!connection.is_closed(), "there is room for others");
        let others = memory.charge(memory.limit() - memory.used());
        look(2 * RESPONSE_TAKE_TIME_MAX);
        assert!(!connection.is_closed(), "it may be a moment's shortage");
        look(3 * RESPONSE_TAKE_TIME_MAX);
        assert!(connection.is_closed());
        wait_until(|| memory.used() == others.size()).await;
    });
}

/// A shard of a node that sets nothing, with the least memory, and with these stores. Its topic is `t`, with
/// a partition per owner.
pub async fn shard_of(stores: Stores, directory: &Path, owners: &[u16]) -> Rc<Shard> {
    let mut image = image_of(&[node(1, 1, Routing::Node)]);
    add_topic(&mut image, 1, "t", owners);
    shard_with(ShardId(0), stores, directory, image).await
}

/// The same of a shard with that number and metadata, which knows no other one.
pub async fn shard_with(id: ShardId, stores: Stores, directory: &Path, image: Image) -> Rc<Shard> {
    let config = config();
    let metrics = Rc::new(RefCell::new(ShardMetrics::new()));
    let mesh = MeshBuilder::<Message, _>::full(1, 16).join().await;
    let (senders, _) = mesh.expect("it is the only one");
    Shard::new(ShardParts {
        id,
        node: NodeId(1),
        clock: Clock::new(),
        metrics: metrics.clone(),
        stores,
        log_dirs: Rc::new(LogDirs::only(directory)),
        mesh: Mesh::new(senders, metrics),
        image,
        memory: config.memory_plan(),
        config: Rc::new(config),
    })
}

/// A shard, and where it listens.
struct Place {
    shard: Rc<Shard>,
    listener: TcpListener,
    _directory: tempfile::TempDir,
}

impl Place {
    async fn new() -> Place {
        let directory = directory();
        let store = store(None, config().memory_plan().tail);
        open_partition(&store, directory.path(), 0, 1 << 20).await;
        let shard = shard_of(Stores::new(vec![store]), directory.path(), &[0]).await;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        Place { shard, listener, _directory: directory }
    }

    /// What each client may use.
    fn limit(&self, kind: QuotaKind, limit: f64) {
        let entity = QuotaEntity { user: Some(EntityName::Default), client_id: None };
        let record = Record::ClientQuotaSet { entity, kind, limit: QuotaLimit::new(limit) };
        self.shard.image.borrow_mut().apply(&record).expect("it fits any");
        self.shard.quotas.changed(true);
    }

    async fn connect(&self) -> (Client, Rc<Connection>) {
        let address = self.listener.local_addr().expect("it is bound");
        let client = std::net::TcpStream::connect(address).expect("it listens");
        client.set_nonblocking(true).expect("it is a socket");
        let stream = self.listener.accept().await.expect("a client has connected");
        let peer = stream.peer_addr().expect("it is connected");
        let connection = self.shard.connection_started(|id| {
            let (now, metrics) = (self.shard.clock.mono(), self.shard.metrics.clone());
            let memory = self.shard.response_memory.clone();
            Connection::new(id, stream, peer, Listener::Base, now, metrics, memory)
        });
        self.shard.spawn(serve(self.shard.clone(), connection.clone()));
        (Client(client), connection)
    }
}

/// The other side of a connection.
struct Client(std::net::TcpStream);

impl Client {
    async fn send(&mut self, frame: &[u8]) {
        let mut sent = 0;
        while sent < frame.len() {
            match self.0.write(&frame[sent..]) {
                Ok(size) => sent += size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => a_moment().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next bytes; `None` at the end, or when none come.
    async fn receive(&mut self) -> Option<usize> {
        self.receive_into(&mut Vec::new()).await
    }

    async fn receive_into(&mut self, bytes: &mut Vec<u8>) -> Option<usize> {
        let clock = Clock::new();
        let begun = clock.mono();
        bytes.resize(64 << 10, 0);
        while clock.mono().since(begun) < PATIENCE {
            match self.0.read(bytes) {
                Ok(size) => return (size > 0).then_some(size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => a_moment().await,
                Err(_) => return None,
            }
        }
        None
    }
}

async fn wait_until(mut is_so: impl FnMut() -> bool) {
    let clock = Clock::new();
    let begun = clock.mono();
    while !is_so() {
        assert!(clock.mono().since(begun) < PATIENCE, "it does not come to that");
        a_moment().await;
    }
}

async fn a_moment() {
    glommio::timer::sleep(Duration::from_millis(1)).await;
}

/// A request, with its prefix.
fn frame(api_key: ApiKey, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = ((10 + body.len()) as u32).to_be_bytes().to_vec();
    frame.extend(api_key.to_wire().to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0xff, 0xff]);
    frame.extend(body);
    frame
}

/// Of the quiet partition, for as long as it takes.
fn fetch(bytes_max: i32) -> Vec<u8> {
    let partition = FetchPartition::default().with_partition_max_bytes(bytes_max);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_static_str("t")))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(i32::MAX)
        .with_min_bytes(1)
        .with_max_bytes(bytes_max)
        .with_topics(vec![topic]);
    let mut body = Vec::new();
    request.encode(&mut body, 11).expect("a version that we serve");
    frame(ApiKey::Fetch, 11, &body)
}
