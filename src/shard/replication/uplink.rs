//! A connection to a shard that leads partitions that this one follows.
//!
//! ```text
//!   connects, greets ─► states all partitions ─► alignments, appends ─► followers ─► acknowledgements
//! ```
//!
//! Made again and again while any partition is followed over it. A partition that the leader refuses states anew at
//! the next [tick](crate::shard::replication), or once the metadata have news of it.

use crate::codec::control::Greeting;
use crate::codec::peer_message::{PEER_VERSION_MAX, PEER_VERSION_MIN, PeerMessage};
use crate::codec::record_batch::BatchView;
use crate::codec::replication::{Acknowledgement, Acknowledgements, Append, Statement, Statements};
use crate::config::HostPort;
use crate::replication::follower::Event;
use crate::replication::throttle::Grant;
use crate::shard::Shard;
use crate::shard::event::Signal;
use crate::shard::peers::link::connect;
use crate::shard::peers::socket::{FrameReader, PeerError, PeerSocket};
use crate::shard::peers::{GREETING_TIME_MAX, check as check_greeting};
use crate::shard::replica::Replica;
use crate::shard::replication::follow_later;
use crate::shard::segments::NO_SPACE_RETRY;
use crate::types::limits::{PEER_PARTITIONS_MAX, PEER_TABLE_SIZE_MAX};
use crate::types::{LeaderEpoch, NodeId, Offset, ShardId, TopicPartition, Uuid};
use futures::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Between two tries to connect: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Whom it is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaderShard {
    pub node: NodeId,
    pub shard: ShardId,
}

/// Bytes that the connection has brought, up to a batch that is in the log and not flushed yet.
struct Unflushed {
    through: u64,
    partition: TopicPartition,
    role: (LeaderEpoch, u32),
    end: Offset,
}

/// Lives: with the shard, once a partition was followed over it.
pub struct Uplink {
    leader: LeaderShard,
    /// Those that are followed over it.
    partitions: RefCell<BTreeSet<TopicPartition>>,
    is_connected: Cell<bool>,
    statements: RefCell<BTreeMap<TopicPartition, Statement>>,
    acknowledgements: RefCell<BTreeMap<TopicPartition, Acknowledgement>>,
    /// Bytes of payload of this connection, and what of them is done with.
    received: Cell<u64>,
    released: Cell<u64>,
    unflushed: RefCell<VecDeque<Unflushed>>,
    /// What this connection may bring of throttled replicas, and what the leader was told of it.
    pub grant: RefCell<Grant>,
    told_limit: Cell<Option<u64>>,
    /// There is something to be said.
    news: Signal,
    /// There is somebody to follow.
    wanted: Signal,
}

impl Uplink {
    pub fn start(shard: &Rc<Shard>, leader: LeaderShard) -> Rc<Uplink> {
        let uplink = Rc::new(Uplink {
            leader,
            partitions: RefCell::default(),
            is_connected: Cell::new(false),
            statements: RefCell::default(),
            acknowledgements: RefCell::default(),
            received: Cell::new(0),
            released: Cell::new(0),
            unflushed: RefCell::default(),
            grant: RefCell::default(),
            told_limit: Cell::default(),
            news: Signal::default(),
            wanted: Signal::default(),
        });
        shard.spawn(run(shard.clone(), uplink.clone()));
        uplink
    }

    pub fn join(&self, partition: TopicPartition) {
        self.partitions.borrow_mut().insert(partition);
        self.wanted.notify();
    }

    pub fn leave(&self, partition: TopicPartition) {
        self.partitions.borrow_mut().remove(&partition);
        self.statements.borrow_mut().remove(&partition);
        self.acknowledgements.borrow_mut().remove(&partition);
        self.news.notify(); // What it has brought of that is done with.
    }

    pub fn is_connected(&self) -> bool {
        self.is_connected.get()
    }

    pub fn state(&self, statement: Statement) {
        if self.is_connected.get() {
            self.statements.borrow_mut().insert(statement.partition, statement);
            self.news.notify();
        }
    }

    pub fn acknowledge(&self, acknowledgement: Acknowledgement) {
        if self.is_connected.get() {
            self.acknowledgements.borrow_mut().insert(acknowledgement.partition, acknowledgement);
            self.news.notify();
        }
    }

    /// The leader is told what it may send of throttled replicas, where that is not what it was told last.
    pub fn tell_limit(&self, shard: &Shard) {
        if self.is_connected.get() && self.told_limit.get() != self.limit(shard) {
            self.news.notify();
        }
    }

    fn limit(&self, shard: &Shard) -> Option<u64> {
        let is_limited = shard.replication.throttle.limits(self.leader);
        is_limited.then(|| self.grant.borrow().bytes_max())
    }

    fn followed(&self) -> Vec<TopicPartition> {
        self.partitions.borrow().iter().copied().collect()
    }

    /// What was flushed, or thrown away, is done with.
    fn release(&self, shard: &Shard) {
        let mut unflushed = self.unflushed.borrow_mut();
        while let Some(first) = unflushed.front() {
            let is_waited_for = shard.stores.find(&first.partition).is_some_and(|replica| {
                role_of(&replica) == Some(first.role)
                    && replica.log.borrow().durable_end() < first.end
                    && !shard.stores.of(&replica).is_offline()
            });
            if is_waited_for {
                return;
            }
            self.released.set(first.through);
            unflushed.pop_front();
        }
        self.released.set(self.received.get());
    }
}

/// As what a replica follows: its epoch and session.
fn role_of(replica: &Replica) -> Option<(LeaderEpoch, u32)> {
    replica.replication.with_follower(|following| (following.machine.epoch(), following.machine.sessions()))
}

async fn run(shard: Rc<Shard>, uplink: Rc<Uplink>) {
    let mut pause = RETRY_MIN;
    while !shard.is_stopping() {
        if uplink.partitions.borrow().is_empty() {
            uplink.wanted.notified().await;
            continue;
        }
        let node = uplink.leader.node;
        // Whoever is no member of the cluster any more has nothing to say.
        let is_registered = shard.image.borrow().node(shard.node).is_some();
        let address = shard.image.borrow().node(node).and_then(|node| node.peer.clone());
        if let Some(address) = address.filter(|_| is_registered) {
            let (is_greeted, reason) = converse(&shard, &uplink, &address).await;
            if is_greeted {
                pause = RETRY_MIN;
            }
            match reason {
                PeerError::Closed | PeerError::Socket(_) => {
                    tracing::debug!(leader = node.0, %reason, "no connection to a leader");
                }
                reason => tracing::warn!(leader = node.0, %reason, "the connection to a leader was closed"),
            }
        }
        glommio::timer::sleep(pause).await;
        pause = (2 * pause).min(RETRY_MAX);
    }
}

/// Until the connection ends: whether there was one, and why it did.
async fn converse(shard: &Rc<Shard>, uplink: &Rc<Uplink>, address: &HostPort) -> (bool, PeerError) {
    let socket = match connect(address, &shard.stores.for_reading().side_thread).await {
        Ok(socket) => Rc::new(socket),
        Err(error) => return (false, error),
    };
    let mut reader = FrameReader::default();
    if let Err(error) = greet(shard, uplink, &socket, &mut reader).await {
        socket.shut_down();
        return (false, error);
    }
    uplink.is_connected.set(true);
    uplink.received.set(0);
    uplink.released.set(0);
    uplink.unflushed.borrow_mut().clear();
    uplink.grant.take();
    uplink.told_limit.set(None);
    let is_over = Rc::new(Cell::new(false));
    let writing = shard.spawn(write(shard.clone(), uplink.clone(), socket.clone(), is_over.clone()));
    each_followed(shard, uplink, || Event::Connected);
    let reason = read(shard, uplink, &socket, &mut reader).await;
    is_over.set(true);
    uplink.is_connected.set(false);
    uplink.statements.borrow_mut().clear();
    uplink.acknowledgements.borrow_mut().clear();
    socket.shut_down();
    uplink.news.notify();
    writing.await;
    each_followed(shard, uplink, || Event::Lost);
    (true, reason)
}

fn each_followed(shard: &Shard, uplink: &Uplink, event: impl Fn() -> Event<'static>) {
    for partition in uplink.followed() {
        if let Some(replica) = shard.stores.find(&partition) {
            replica.follow(event());
        }
    }
}

/// Says which shard it is for, and hears who the other side is.
async fn greet(
    shard: &Shard,
    uplink: &Uplink,
    socket: &PeerSocket,
    reader: &mut FrameReader,
) -> Result<(), PeerError> {
    let cluster = shard.image.borrow().cluster_id().unwrap_or(Uuid::nil());
    let greeting = Greeting {
        cluster,
        node: shard.node,
        version_min: PEER_VERSION_MIN,
        version_max: PEER_VERSION_MAX,
        peer: 0,
        address: None,
        shards: Some((shard.id, uplink.leader.shard)),
    };
    socket.say(&PeerMessage::Greeting(greeting)).await?;
    let timeout = glommio::timer::sleep(GREETING_TIME_MAX);
    let heard = match select(pin!(reader.next(socket)), pin!(timeout)).await {
        Either::Left((heard, _)) => heard?.0,
        Either::Right(_) => return Err(PeerError::NoGreeting),
    };
    let PeerMessage::Greeting(greeting) = heard else { return Err(PeerError::Unexpected) };
    check_greeting(&greeting, cluster, shard.node)?;
    socket.agree(&greeting);
    Ok(())
}

// --- What it says

async fn write(shard: Rc<Shard>, uplink: Rc<Uplink>, socket: Rc<PeerSocket>, is_over: Rc<Cell<bool>>) {
    let mut told = 0;
    let broker_epoch = shard.broker_epoch();
    while !is_over.get() {
        if shard.broker_epoch() != broker_epoch {
            return socket.shut_down(); // What it has stated was said by another registration: it states again.
        }
        uplink.release(&shard);
        let limit = uplink.limit(&shard);
        let statements = take(&uplink.statements, |statement| statement.epochs.len());
        let acknowledgements = take(&uplink.acknowledgements, |_| 0);
        let is_new = told != uplink.released.get() || uplink.told_limit.get() != limit;
        if statements.is_empty() && acknowledgements.is_empty() && !is_new {
            uplink.news.notified().await;
            continue;
        }
        let mut said = Ok(());
        // First, since it says how much may come of what is stated now.
        if !acknowledgements.is_empty() || is_new {
            told = uplink.released.get();
            uplink.told_limit.set(limit);
            let message = Acknowledgements {
                node: shard.node,
                broker_epoch,
                released_bytes: told,
                partitions: acknowledgements,
                throttled_bytes_max: limit,
            };
            said = socket.say(&PeerMessage::Acknowledgements(message)).await;
        }
        if said.is_ok() && !statements.is_empty() {
            let message = Statements { node: shard.node, broker_epoch, partitions: statements };
            said = socket.say(&PeerMessage::Statements(message)).await;
        }
        if said.is_err() {
            return socket.shut_down(); // The reader notices.
        }
    }
}

/// As many as go into one frame. `epochs_of`: how many epochs one states.
fn take<T>(waiting: &RefCell<BTreeMap<TopicPartition, T>>, epochs_of: impl Fn(&T) -> usize) -> Vec<T> {
    /// Bytes of one in a frame, and of an epoch: more than they are.
    const SIZE: usize = 128;
    const EPOCH_SIZE: usize = 16;
    let mut waiting = waiting.borrow_mut();
    let (mut taken, mut size) = (Vec::new(), 0);
    while taken.len() < PEER_PARTITIONS_MAX
        && let Some((partition, next)) = waiting.pop_first()
    {
        size += SIZE + EPOCH_SIZE * epochs_of(&next);
        if size > PEER_TABLE_SIZE_MAX && !taken.is_empty() {
            waiting.insert(partition, next);
            break;
        }
        taken.push(next);
    }
    taken
}

// --- What it brings

async fn read(
    shard: &Rc<Shard>,
    uplink: &Rc<Uplink>,
    socket: &PeerSocket,
    reader: &mut FrameReader,
) -> PeerError {
    loop {
        let (message, payload) = match reader.next(socket).await {
            Ok(heard) => heard,
            Err(error) => return error,
        };
        match message {
            PeerMessage::Alignments(alignments) => {
                for alignment in &alignments {
                    if let Some(replica) = shard.stores.find(&alignment.partition) {
                        replica.follow(Event::Aligned(alignment));
                    }
                }
            }
            PeerMessage::Appends(appends) => {
                let mut rest = payload;
                for append in &appends {
                    let (bytes, more) = rest.split_at(append.size as usize);
                    rest = more;
                    if let Err(error) = receive(shard, uplink, append, bytes).await {
                        return error;
                    }
                }
                shard.stores.pump();
                uplink.news.notify();
            }
            _ => return PeerError::Unexpected,
        }
    }
}

/// Takes in batches of one partition.
async fn receive(shard: &Rc<Shard>, uplink: &Uplink, append: &Append, bytes: &[u8]) -> Result<(), PeerError> {
    let before = uplink.received.get();
    uplink.received.set(before + bytes.len() as u64);
    if append.is_throttled {
        let mut grant = uplink.grant.borrow_mut();
        match shard.replication.throttle.limits(uplink.leader) {
            true => grant.received(bytes.len() as u64),
            false => grant.received_freely(bytes.len() as u64),
        }
        shard.metrics.borrow_mut().throttled_follower_bytes += bytes.len() as u64;
    }
    let end = check(append, bytes)?;
    let Some(replica) = shard.stores.find(&append.partition) else { return Ok(()) };
    if !replica.follow(Event::Received { append, end }) {
        return Ok(());
    }
    let role = role_of(&replica);
    let store = shard.stores.of(&replica);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (view, after) = BatchView::split_first(rest).expect("it was just checked");
        shard.wait_for_room(store).await;
        loop {
            // Whoever has another role by now has counted without these.
            if role_of(&replica) != role || replica.is_deleted() {
                return Ok(());
            }
            match replica.append_replicated(store, view.bytes()) {
                Ok(true) => break,
                Ok(false) => {
                    store.pump();
                    replica.ready.notified().await;
                }
                Err(refused) => {
                    let reason = refused.message.unwrap_or_default();
                    tracing::warn!(partition = ?replica.id, error = ?refused.error, reason, "a follower cannot append");
                    follow_later(shard, &replica, NO_SPACE_RETRY);
                    return Ok(());
                }
            }
        }
        rest = after;
    }
    if let Some(role) = role {
        let through = uplink.received.get();
        uplink.unflushed.borrow_mut().push_back(Unflushed { through, partition: replica.id, role, end });
    }
    Ok(())
}

/// Where these batches end; whole, and one behind the other.
fn check(append: &Append, bytes: &[u8]) -> Result<Offset, PeerError> {
    let (mut end, mut rest) = (append.base_offset, bytes);
    while !rest.is_empty() {
        let (view, after) = BatchView::split_first(rest).map_err(PeerError::Batch)?;
        if view.base_offset() < end {
            return Err(PeerError::Unexpected);
        }
        (end, rest) = (view.end_offset(), after);
    }
    Ok(end)
}
