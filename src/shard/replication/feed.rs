//! A connection to a shard that follows partitions of this one: what it says, and what it gets.
//!
//! ```text
//!   statements, acknowledgements ─► leaders ─► alignments, turns ─► [writer: one frame at a time] ─► appends
//! ```
//!
//! The writer takes partitions in turn: those whose next bytes are in memory first, then one that has to be read
//! from disk, in the queue and out of the memory of those that catch up. What is on its way is bounded by the
//! [window](crate::replication::window); what waits is one entry a partition. Replicas that are held to a
//! [rate](super::throttle) leave their turn to the others until they may go on.

use crate::codec::peer_message::PeerMessage;
use crate::codec::replication::{
    Acknowledgements, Alignment, AlignmentOutcome, Append, Refusal, Statement, Statements,
};
use crate::log::read::Rope;
use crate::replication::divergence::FirstBatch;
use crate::replication::leader::{Event, Leader, ToSend};
use crate::replication::throttle::Credit;
use crate::replication::window::{Lane, Turns, Window};
use crate::shard::Shard;
use crate::shard::catch_up::Reading;
use crate::shard::event::Signal;
use crate::shard::peers::socket::{FrameReader, PeerError, PeerSocket};
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::replication::throttle::Allowance;
use crate::shard::response::Slice;
use crate::types::limits::{PEER_PARTITIONS_MAX, REPLICATION_FRAME_SIZE, REPLICATION_WINDOW_SIZE};
use crate::types::{LeaderEpoch, NodeId, Offset, ShardId, TopicPartition};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Bytes up to which a frame is sent in one write, for one more copy.
const GATHERED_SIZE: usize = 64 << 10;

/// A partition that could not be read is tried again after so long.
const READ_RETRY: Duration = Duration::from_millis(100);

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FollowerShard {
    pub node: NodeId,
    pub shard: ShardId,
}

/// Lives: with its connection.
pub struct Feed {
    follower: FollowerShard,
    socket: Rc<PeerSocket>,
    alignments: RefCell<Vec<Alignment>>,
    turns: RefCell<Turns<TopicPartition>>,
    /// Those that may be sent nothing for now, by their rate.
    held: RefCell<Turns<TopicPartition>>,
    window: RefCell<Window>,
    /// What the follower takes of throttled replicas.
    pub credit: RefCell<Credit>,
    news: Signal,
    /// Alignments were taken from their queue.
    taken: Signal,
    is_over: Cell<bool>,
}

/// Appends that are sent together.
#[derive(Default)]
struct Frame {
    appends: Vec<Append>,
    payload: Vec<Slice>,
    size: usize,
}

impl Feed {
    pub fn node(&self) -> NodeId {
        self.follower.node
    }

    /// Answers a statement.
    pub fn align(&self, alignment: Alignment) {
        self.alignments.borrow_mut().push(alignment);
        self.news.notify();
    }

    /// A partition has something for it.
    pub fn want(&self, partition: TopicPartition) {
        self.turns.borrow_mut().want(partition, Lane::Tail);
        self.news.notify();
    }

    /// Those that were held back take their turn again, in the order in which they were.
    pub fn release_held(&self) {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            return;
        }
        let mut turns = self.turns.borrow_mut();
        while let Some(partition) = held.next(Lane::Tail) {
            turns.want(partition, Lane::Tail);
        }
        self.news.notify();
    }

    fn hold(&self, partition: TopicPartition) {
        self.held.borrow_mut().want(partition, Lane::Tail);
    }

    pub fn close(&self) {
        self.is_over.set(true);
        self.socket.shut_down();
        self.news.notify();
        self.taken.notify();
    }

    fn refuse(&self, statement: &Statement) {
        let Statement { partition, leader_epoch, session, .. } = *statement;
        let outcome = AlignmentOutcome::Refused(Refusal::NotLeader);
        self.align(Alignment { partition, leader_epoch, session, outcome });
    }
}

/// Serves a follower until its connection ends.
pub async fn serve(shard: Rc<Shard>, follower: FollowerShard, socket: Rc<PeerSocket>) {
    let feed = Rc::new(Feed {
        follower,
        socket,
        alignments: RefCell::default(),
        turns: RefCell::default(),
        held: RefCell::default(),
        credit: RefCell::default(),
        window: RefCell::new(Window::new(REPLICATION_WINDOW_SIZE)),
        news: Signal::default(),
        taken: Signal::default(),
        is_over: Cell::new(false),
    });
    if let Some(before) = shard.replication.feeds.borrow_mut().insert(follower, feed.clone()) {
        before.close();
    }
    let writing = shard.spawn(write(shard.clone(), feed.clone()));
    let reason = read(&shard, &feed).await;
    feed.close();
    writing.await;
    shard.replication.each_replica(&shard, |replica| replica.lost(&feed));
    let mut feeds = shard.replication.feeds.borrow_mut();
    if feeds.get(&follower).is_some_and(|current| Rc::ptr_eq(current, &feed)) {
        feeds.remove(&follower);
    }
    drop(feeds);
    let (node, peer) = (follower.node.0, feed.socket.peer);
    match reason {
        PeerError::Closed | PeerError::Socket(_) => {
            tracing::debug!(node, %peer, %reason, "the connection of a follower has ended");
        }
        reason => tracing::warn!(node, %peer, %reason, "the connection of a follower was closed"),
    }
}

// --- What it says

async fn read(shard: &Rc<Shard>, feed: &Rc<Feed>) -> PeerError {
    let mut reader = FrameReader::default();
    loop {
        let (message, _) = match reader.next(&feed.socket).await {
            Ok(heard) => heard,
            Err(error) => return error,
        };
        match message {
            PeerMessage::Statements(statements) if statements.node == feed.node() => {
                stated(shard, feed, &statements);
                // Who states and does not read its answers is not read from either.
                while feed.alignments.borrow().len() > PEER_PARTITIONS_MAX && !feed.is_over.get() {
                    feed.taken.notified().await;
                }
            }
            PeerMessage::Acknowledgements(acks) if acks.node == feed.node() => {
                if let Err(error) = feed.window.borrow_mut().released(acks.released_bytes) {
                    return error.into();
                }
                feed.credit.borrow_mut().told(acks.throttled_bytes_max);
                feed.release_held();
                feed.news.notify();
                acknowledged(shard, &acks);
            }
            _ => return PeerError::Unexpected,
        }
    }
}

fn stated(shard: &Shard, feed: &Rc<Feed>, statements: &Statements) {
    for statement in &statements.partitions {
        let Some(replica) = shard.stores.find(&statement.partition) else {
            feed.refuse(statement);
            continue;
        };
        let epochs = replica.log.borrow().epochs().clone();
        let event = Event::Stated {
            replica: statements.node,
            broker_epoch: statements.broker_epoch,
            statement,
            epochs: &epochs,
            now: shard.clock.mono(),
        };
        if !replica.stated(feed, event) {
            feed.refuse(statement);
        }
    }
}

fn acknowledged(shard: &Shard, acks: &Acknowledgements) {
    for ack in &acks.partitions {
        if let Some(replica) = shard.stores.find(&ack.partition) {
            replica.lead(Event::Acknowledged {
                replica: acks.node,
                broker_epoch: acks.broker_epoch,
                acknowledgement: ack,
                now: shard.clock.mono(),
            });
        }
    }
}

// --- What it gets

async fn write(shard: Rc<Shard>, feed: Rc<Feed>) {
    while !feed.is_over.get() {
        let frame = next_frame(&shard, &feed).await;
        // Whatever is sent of a partition comes behind its alignment.
        let alignments = std::mem::take(&mut *feed.alignments.borrow_mut());
        feed.taken.notify();
        for some in alignments.chunks(PEER_PARTITIONS_MAX) {
            if feed.socket.say(&PeerMessage::Alignments(some.to_vec())).await.is_err() {
                return feed.close();
            }
        }
        if frame.appends.is_empty() {
            if feed.alignments.borrow().is_empty() && !feed.is_over.get() {
                feed.news.notified().await;
            }
            continue;
        }
        if send(&feed.socket, frame).await.is_err() {
            return feed.close(); // The reader notices.
        }
    }
}

async fn send(socket: &PeerSocket, frame: Frame) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(256 + if frame.size <= GATHERED_SIZE { frame.size } else { 0 });
    let payload = frame.payload.iter().map(Slice::bytes);
    PeerMessage::Appends(frame.appends).encode(socket.version(), payload, &mut head);
    if frame.size <= GATHERED_SIZE {
        frame.payload.iter().for_each(|slice| head.extend_from_slice(slice.bytes()));
        return socket.write_all(&head).await;
    }
    socket.write_all(&head).await?;
    for slice in &frame.payload {
        socket.write_all(slice.bytes()).await?;
    }
    Ok(())
}

/// What there is room for, of many partitions: the tail first.
async fn next_frame(shard: &Rc<Shard>, feed: &Rc<Feed>) -> Frame {
    let mut frame = Frame::default();
    while frame.size < REPLICATION_FRAME_SIZE && frame.appends.len() < PEER_PARTITIONS_MAX {
        let next = feed.turns.borrow_mut().next(Lane::Tail);
        let Some(partition) = next else { break };
        let Some(turn) = Turn::of(shard, feed, partition) else { continue };
        if turn.has_batches() && !turn.replica.is_in_memory(turn.read_at) {
            feed.turns.borrow_mut().want(partition, Lane::CatchUp);
        } else if !add(shard, feed, turn, Lane::Tail, &mut frame).await {
            break;
        }
    }
    while frame.appends.is_empty() {
        let next = feed.turns.borrow_mut().next(Lane::CatchUp);
        let Some(partition) = next else { break };
        let Some(turn) = Turn::of(shard, feed, partition) else { continue };
        add(shard, feed, turn, Lane::CatchUp, &mut frame).await;
        break;
    }
    frame
}

/// A partition whose turn it is.
struct Turn {
    replica: Rc<Replica>,
    epoch: LeaderEpoch,
    to_send: ToSend,
    /// Where what is to be sent is read.
    read_at: Offset,
    allowance: Allowance,
}

impl Turn {
    /// `None`: it has nothing, or may be sent nothing for now.
    fn of(shard: &Shard, feed: &Feed, partition: TopicPartition) -> Option<Turn> {
        let replica = shard.stores.find(&partition).filter(|replica| replica.is_heard_on(feed))?;
        let look = |leader: &Leader| {
            let is_in_sync = leader.in_sync().committed().contains(&feed.node());
            let to_send = leader.to_send(feed.node())?;
            Some((leader.epoch(), to_send, leader.reads_at(to_send.from), is_in_sync))
        };
        let (epoch, to_send, read_at, is_in_sync) = replica.replication.with_leader(look)??;
        let allowance = shard.replication.throttle.allowance(shard, feed, partition, is_in_sync);
        let turn = Turn { replica, epoch, to_send, read_at, allowance };
        if turn.has_batches() && allowance.size == 0 {
            feed.hold(partition);
            return None;
        }
        Some(turn)
    }

    fn has_batches(&self) -> bool {
        self.to_send.from < self.to_send.to
    }
}

/// Adds what there is room for. `false`: there was none, and its turn comes first once there is.
async fn add(shard: &Rc<Shard>, feed: &Rc<Feed>, turn: Turn, lane: Lane, frame: &mut Frame) -> bool {
    let Turn { ref replica, epoch, to_send, read_at, allowance } = turn;
    let (mut slices, mut size, mut to) = (Vec::new(), 0, to_send.from);
    if turn.has_batches() {
        let room = feed.window.borrow().room(lane).min(allowance.size) as usize;
        let size_max = room.min(REPLICATION_FRAME_SIZE - frame.size);
        let reading = Reading::own(shard.stores.of(replica));
        match replica.read_appended(&reading, read_at, size_max, to_send.to).await {
            Ok(read) => {
                if let Some((base_offset, end)) = extent_of(&read.slices) {
                    if base_offset < to_send.from {
                        // It states again, and begins with the whole batch.
                        let first_batch = FirstBatch { within: to_send.from, base_offset };
                        replica.replication.with_leader_mut(|leader| leader.begins_within(first_batch));
                        feed.close();
                        return false;
                    }
                    to = end;
                }
                (slices, size) = (read.slices, read.size);
            }
            // The log begins behind it by now: it has to state anew, and begins there too.
            Err(ReadFailed::OutOfRange) if to_send.from < replica.log.borrow().log_start() => {
                feed.close();
                return false;
            }
            Err(failed) => {
                replica.tell(shard.stores.of(replica), &failed);
                if !replica.is_deleted() {
                    want_later(shard, feed, replica.id);
                }
                return true;
            }
        }
        if !feed.window.borrow().admits(lane, size as u64) {
            feed.turns.borrow_mut().put_back(replica.id, lane);
            return false;
        }
        if size == 0 {
            want_later(shard, feed, replica.id); // Memory for reads is short.
            return true;
        }
    }
    if feed.is_over.get() {
        return false; // Another connection has its place.
    }
    let sent = replica.replication.with_leader_mut(|leader| {
        let is_same = leader.epoch() == epoch
            && leader.to_send(feed.node()).is_some_and(|now| {
                now.session == to_send.session && now.from == to_send.from && to <= now.to
            });
        if is_same {
            leader.sent(feed.node(), ToSend { to, ..to_send });
        }
        is_same
    });
    // It has another role by now, or the follower has stated anew.
    if sent != Some(true) {
        return true;
    }
    feed.window.borrow_mut().sent(size as u64);
    shard.replication.throttle.sent(shard, feed, allowance, size as u64);
    if to < to_send.to {
        feed.turns.borrow_mut().want(replica.id, Lane::Tail);
    }
    frame.size += size;
    frame.payload.extend(slices);
    frame.appends.push(Append {
        partition: replica.id,
        leader_epoch: epoch,
        session: to_send.session,
        base_offset: to_send.from,
        high_watermark: to_send.high_watermark,
        log_start: to_send.log_start,
        size: size as u32,
        is_throttled: allowance.by_follower,
    });
    true
}

/// Where the first of these batches begins, and the last one ends.
fn extent_of(slices: &[Slice]) -> Option<(Offset, Offset)> {
    let pieces: Vec<&[u8]> = slices.iter().map(Slice::bytes).collect();
    let rope = Rope::new(&pieces);
    let mut batches = rope.batches(0);
    let first = batches.next()?;
    Some((first.base_offset, batches.last().map_or(first.end_offset, |last| last.end_offset)))
}

fn want_later(shard: &Rc<Shard>, feed: &Rc<Feed>, partition: TopicPartition) {
    let feed = feed.clone();
    shard.spawn(async move {
        glommio::timer::sleep(READ_RETRY).await;
        feed.want(partition);
    });
}
