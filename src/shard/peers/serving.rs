//! A connection from another node: messages of the quorum, and questions to whoever leads it.

use crate::cluster::quorum::message::Message;
use crate::codec::control::{Answer, Greeting};
use crate::codec::peer_message::PeerMessage;
use crate::shard::event::Signal;
use crate::shard::message::Message as ShardMessage;
use crate::shard::peers::forwarding;
use crate::shard::peers::socket::{FrameReader, PeerError, PeerSocket};
use crate::shard::peers::{GREETING_TIME_MAX, Peers};
use crate::shard::quorum::MetadataQuorum;
use crate::shard::replication::{self, feed::FollowerShard};
use crate::types::limits::QUORUM_MEMBERS_MAX;
use crate::types::{ShardId, Uuid};
use futures::future::{Either, select};
use glommio::net::TcpListener;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Questions of one connection that are being answered; past it no more are read.
const QUESTIONS_MAX: usize = 256;

/// Connections of other nodes at a time: two of each, and those that a node has just lost.
const CONNECTIONS_MAX: usize = 4 * QUORUM_MEMBERS_MAX;

/// Lives: with its connection.
#[derive(Default)]
struct Answering {
    /// Of the messages.
    version: u16,
    frames: RefCell<VecDeque<Vec<u8>>>,
    waiting: Signal,
    is_over: Cell<bool>,
    open: Cell<usize>,
    answered: Signal,
}

/// Accepts other nodes until the process ends.
pub fn listen(quorum: &Rc<MetadataQuorum>, address: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).map_err(std::io::Error::from)?;
    let quorum = quorum.clone();
    glommio::spawn_local(async move {
        let open = Rc::new(Cell::new(0));
        loop {
            match listener.accept().await {
                Ok(_) if open.get() >= CONNECTIONS_MAX => {
                    tracing::warn!(
                        CONNECTIONS_MAX,
                        "a connection of another node was refused: there are too many"
                    );
                }
                Ok(stream) => {
                    let Ok(socket) = PeerSocket::new(stream) else { continue };
                    let (quorum, open) = (quorum.clone(), open.clone());
                    open.set(open.get() + 1);
                    glommio::spawn_local(async move {
                        serve(quorum, Rc::new(socket)).await;
                        open.set(open.get() - 1);
                    })
                    .detach();
                }
                Err(error) => {
                    // Out of descriptors, most likely: those that end make room.
                    tracing::warn!(%error, "a connection of another node was not accepted");
                    glommio::timer::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
    .detach();
    Ok(())
}

async fn serve(quorum: Rc<MetadataQuorum>, socket: Rc<PeerSocket>) {
    let Some(peers) = quorum.peers() else { return };
    let mut reader = FrameReader::default();
    let greeted = greet(&peers, &socket, &mut reader).await;
    let ended = match greeted {
        // Who only wanted to know which cluster this is.
        Ok(None) => PeerError::Closed,
        Ok(Some(Greeting { node, shards: Some((from, to)), .. })) => {
            return match hand_over(&quorum, &socket, FollowerShard { node, shard: from }, to) {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(peer = %socket.peer, %error, "a follower's connection was not handed over");
                    socket.shut_down();
                }
            };
        }
        Ok(Some(_)) => converse(&quorum, &socket, &mut reader).await,
        Err(error) => error,
    };
    socket.shut_down();
    match ended {
        PeerError::Closed | PeerError::Socket(_) => {
            tracing::debug!(peer = %socket.peer, reason = %ended, "the connection of another node has ended");
        }
        reason => tracing::warn!(peer = %socket.peer, %reason, "the connection of another node was closed"),
    }
}

/// A shard follows partitions of one of this node: that one goes on with the connection.
fn hand_over(
    quorum: &MetadataQuorum,
    socket: &PeerSocket,
    follower: FollowerShard,
    to: ShardId,
) -> std::io::Result<()> {
    let Some(shard) = quorum.attached() else { return Err(std::io::Error::other("the node still starts")) };
    // One connection each: that bounds them.
    let FollowerShard { node, shard: from } = follower;
    if !quorum.with_image(|image| image.node(node).is_some_and(|node| from.0 < node.cores)) {
        return Err(std::io::Error::other(format!("node {} has no core {}", node.0, from.0)));
    }
    if to.index() >= shard.mesh.shard_count() {
        return Err(std::io::Error::other(format!("there is no core {}", to.0)));
    }
    let (connection, version) = (socket.hand_over()?, socket.version());
    match to == shard.id {
        true => replication::serve(&shard, follower, connection, version),
        false => shard.mesh.post(to, ShardMessage::Follower { follower, connection, version }),
    }
    Ok(())
}

/// Hears who the other side is, and says who this one is; `None` where it belongs to no cluster yet.
async fn greet(
    peers: &Peers,
    socket: &PeerSocket,
    reader: &mut FrameReader,
) -> Result<Option<Greeting>, PeerError> {
    let timeout = glommio::timer::sleep(GREETING_TIME_MAX);
    let heard = match select(pin!(reader.next(socket)), pin!(timeout)).await {
        Either::Left((heard, _)) => heard?.0,
        Either::Right(_) => return Err(PeerError::NoGreeting),
    };
    let PeerMessage::Greeting(greeting) = heard else { return Err(PeerError::Unexpected) };
    socket.say(&PeerMessage::Greeting(peers.greeting())).await?;
    if greeting.cluster == Uuid::nil() {
        return Ok(None);
    }
    peers.greeted(&greeting)?;
    socket.agree(&greeting);
    Ok(Some(greeting))
}

async fn converse(
    quorum: &Rc<MetadataQuorum>,
    socket: &Rc<PeerSocket>,
    reader: &mut FrameReader,
) -> PeerError {
    let answering = Rc::new(Answering { version: socket.version(), ..Answering::default() });
    let writing = glommio::spawn_local(write(answering.clone(), socket.clone()));
    let error = read(quorum, socket, reader, &answering).await;
    answering.is_over.set(true);
    answering.waiting.notify();
    socket.shut_down();
    writing.await;
    error
}

async fn read(
    quorum: &Rc<MetadataQuorum>,
    socket: &PeerSocket,
    reader: &mut FrameReader,
    answering: &Rc<Answering>,
) -> PeerError {
    loop {
        let (message, payload) = match reader.next(socket).await {
            Ok(heard) => heard,
            Err(error) => return error,
        };
        match message {
            PeerMessage::Quorum => match Message::decode(payload) {
                Ok(message) => quorum.receive(message),
                Err(error) => return error.into(),
            },
            PeerMessage::Question(question) => {
                while answering.open.get() >= QUESTIONS_MAX && !answering.is_over.get() {
                    answering.answered.notified().await;
                }
                answering.open.set(answering.open.get() + 1);
                let (quorum, answering, payload) = (quorum.clone(), answering.clone(), payload.to_vec());
                glommio::spawn_local(async move {
                    let (answer, payload) = forwarding::answer(&quorum, &question, &payload).await;
                    answering.say(Answer { number: question.number, ..answer }, &payload);
                })
                .detach();
            }
            _ => return PeerError::Unexpected,
        }
    }
}

impl Answering {
    fn say(&self, answer: Answer, payload: &[u8]) {
        let mut frame = Vec::with_capacity(128 + payload.len());
        PeerMessage::Answer(answer).encode(self.version, [payload], &mut frame);
        frame.extend_from_slice(payload);
        self.frames.borrow_mut().push_back(frame);
        self.waiting.notify();
    }
}

async fn write(answering: Rc<Answering>, socket: Rc<PeerSocket>) {
    while !answering.is_over.get() {
        let frame = answering.frames.borrow_mut().pop_front();
        let Some(frame) = frame else {
            answering.waiting.notified().await;
            continue;
        };
        if socket.write_all(&frame).await.is_err() {
            answering.is_over.set(true);
            answering.answered.notify();
            socket.shut_down(); // The reader notices.
            return;
        }
        answering.open.set(answering.open.get() - 1);
        answering.answered.notify();
    }
}
