//! A connection to another node, made whenever there is something to be said.

use crate::cluster::quorum::members::PeerId;
use crate::cluster::quorum::message::MessageKind;
use crate::codec::control::{Answer, Question};
use crate::codec::peer_message::PeerMessage;
use crate::config::HostPort;
use crate::shard::answers::Answers;
use crate::shard::event::Signal;
use crate::shard::peers::socket::{FrameReader, PeerError, PeerSocket};
use crate::shard::peers::{CONNECT_TIME_MAX, GREETING_TIME_MAX, Unanswered};
use crate::shard::quorum::MetadataQuorum;
use crate::shard::side_thread::SideThread;
use futures::future::{Either, select};
use glommio::net::TcpStream;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Bytes that wait for a connection; past it messages of the quorum are lost, and questions are not asked.
const QUEUE_SIZE_MAX: usize = 64 << 20;

/// Between two tries to connect: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What is to be said.
pub enum Outgoing {
    Message { to: PeerId, kind: MessageKind, payload: Vec<u8> },
    Question { question: Question, payload: Vec<u8> },
}

impl Outgoing {
    /// Bytes, some more or less.
    fn size(&self) -> usize {
        let (Outgoing::Message { payload, .. } | Outgoing::Question { payload, .. }) = self;
        payload.len() + 256
    }

    fn frame(&self, version: u16) -> Vec<u8> {
        let (message, payload) = match self {
            Outgoing::Message { payload, .. } => (PeerMessage::Quorum, payload),
            Outgoing::Question { question, payload } => (PeerMessage::Question(question.clone()), payload),
        };
        let mut frame = Vec::with_capacity(self.size());
        message.encode(version, [&payload[..]], &mut frame);
        frame.extend_from_slice(payload);
        frame
    }
}

/// Lives: with the peers of shard 0, once somebody had something to say to that address.
pub struct Link {
    address: HostPort,
    queue: RefCell<VecDeque<Outgoing>>,
    /// Bytes.
    queued: Cell<usize>,
    waiting: Signal,
    answers: Answers<Result<(Answer, Vec<u8>), Unanswered>>,
    quorum: Weak<MetadataQuorum>,
}

impl Link {
    pub fn start(address: HostPort, quorum: Weak<MetadataQuorum>) -> Rc<Link> {
        let link = Rc::new(Link {
            address,
            queue: RefCell::default(),
            queued: Cell::new(0),
            waiting: Signal::default(),
            answers: Answers::default(),
            quorum,
        });
        glommio::spawn_local(run(link.clone())).detach();
        link
    }

    pub fn push(&self, outgoing: Outgoing) {
        let size = outgoing.size();
        if self.queued.get() + size > QUEUE_SIZE_MAX && self.queued.get() > 0 {
            return self.lose(outgoing);
        }
        self.queued.set(self.queued.get() + size);
        self.queue.borrow_mut().push_back(outgoing);
        self.waiting.notify();
    }

    fn pop(&self) -> Option<Outgoing> {
        let outgoing = self.queue.borrow_mut().pop_front()?;
        self.queued.set(self.queued.get() - outgoing.size());
        Some(outgoing)
    }

    /// It was not sent, as far as is known.
    fn lose(&self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Message { to, kind, .. } => self.report(to, kind, false),
            Outgoing::Question { question, .. } => {
                self.answers.complete(question.number, Err(Unanswered::NotSent));
            }
        }
    }

    fn report(&self, to: PeerId, kind: MessageKind, delivered: bool) {
        if let Some(quorum) = self.quorum.upgrade() {
            quorum.sent(to, kind, delivered);
        }
    }

    /// Asks, and waits for the answer.
    pub async fn ask(
        &self,
        question: &Question,
        payload: &[u8],
        time_max: Duration,
    ) -> Result<(Answer, Vec<u8>), Unanswered> {
        let waiting = self.answers.ask();
        let number = waiting.number();
        let question = Question { number, ..question.clone() };
        self.push(Outgoing::Question { question, payload: payload.to_vec() });
        match select(pin!(waiting.answer()), pin!(glommio::timer::sleep(time_max))).await {
            Either::Left((answer, _)) => answer,
            // The other side may be gone without a word.
            Either::Right(_) => Err(Unanswered::Lost),
        }
    }
}

/// Connects whenever there is something to be said.
async fn run(link: Rc<Link>) {
    let mut pause = RETRY_MIN;
    loop {
        while link.queue.borrow().is_empty() {
            link.waiting.notified().await;
        }
        let Some(peers) = link.quorum.upgrade().and_then(|quorum| quorum.peers()) else { return };
        let connected = connect(&link.address, &peers.lookups).await;
        let ended = match connected {
            Ok(socket) => {
                let socket = Rc::new(socket);
                match greet_first(&socket, &peers).await {
                    Ok(reader) => {
                        pause = RETRY_MIN;
                        converse(&link, &socket, reader).await
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        tracing::debug!(address = %link.address, error = %ended, "no connection to another node");
        if let PeerError::Refused(reason) = &ended {
            tracing::warn!(address = %link.address, %reason, "another node is no member of this cluster");
        }
        // What was asked may have been done.
        while let Some(outgoing) = link.pop() {
            link.lose(outgoing);
        }
        link.answers.complete_all(|| Err(Unanswered::Lost));
        drop(peers);
        glommio::timer::sleep(pause).await;
        pause = (2 * pause).min(RETRY_MAX);
    }
}

pub async fn connect(address: &HostPort, lookups: &SideThread) -> Result<PeerSocket, PeerError> {
    let (host, port) = (address.host.clone(), address.port);
    let first = match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port),
        Err(_) => {
            let resolve = move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            let found = lookups.run(resolve).await.unwrap_or_default();
            let first = found.into_iter().min_by_key(SocketAddr::is_ipv6);
            first.ok_or_else(|| PeerError::Unresolved(address.to_string()))?
        }
    };
    let stream = TcpStream::connect_timeout(first, CONNECT_TIME_MAX).await.map_err(std::io::Error::from)?;
    Ok(PeerSocket::new(stream)?)
}

async fn greet_first(socket: &PeerSocket, peers: &super::Peers) -> Result<FrameReader, PeerError> {
    let mut reader = FrameReader::default();
    let greeted = greet(socket, &mut reader, peers).await;
    if greeted.is_err() {
        socket.shut_down();
    }
    greeted.map(|()| reader)
}

/// Until the connection ends: why.
async fn converse(link: &Rc<Link>, socket: &Rc<PeerSocket>, reader: FrameReader) -> PeerError {
    let is_over = Rc::new(Cell::new(false));
    let reading = glommio::spawn_local(read(link.clone(), socket.clone(), reader, is_over.clone()));
    let written = write(link, socket, &is_over).await;
    socket.shut_down();
    let read = reading.await;
    written.err().map_or(read, PeerError::from)
}

/// Says who this node is, and hears who the other one is.
async fn greet(socket: &PeerSocket, reader: &mut FrameReader, peers: &super::Peers) -> Result<(), PeerError> {
    socket.say(&PeerMessage::Greeting(peers.greeting())).await?;
    let timeout = glommio::timer::sleep(GREETING_TIME_MAX);
    let heard = match select(pin!(reader.next(socket)), pin!(timeout)).await {
        Either::Left((heard, _)) => heard?.0,
        Either::Right(_) => return Err(PeerError::NoGreeting),
    };
    let PeerMessage::Greeting(greeting) = heard else { return Err(PeerError::Unexpected) };
    peers.greeted(&greeting)?;
    socket.agree(&greeting);
    Ok(())
}

async fn write(link: &Link, socket: &PeerSocket, is_over: &Cell<bool>) -> std::io::Result<()> {
    while !is_over.get() {
        let Some(outgoing) = link.pop() else {
            link.waiting.notified().await;
            continue;
        };
        let written = socket.write_all(&outgoing.frame(socket.version())).await;
        if let Outgoing::Message { to, kind, .. } = outgoing {
            link.report(to, kind, written.is_ok());
        }
        written?;
    }
    Ok(())
}

/// The answers to what was asked; why the connection has ended.
async fn read(
    link: Rc<Link>,
    socket: Rc<PeerSocket>,
    mut reader: FrameReader,
    is_over: Rc<Cell<bool>>,
) -> PeerError {
    let error = loop {
        match reader.next(&socket).await {
            Ok((PeerMessage::Answer(answer), payload)) => {
                let (number, payload) = (answer.number, payload.to_vec());
                link.answers.complete(number, Ok((answer, payload)));
            }
            Ok(_) => break PeerError::Unexpected,
            Err(error) => break error,
        }
    };
    is_over.set(true);
    socket.shut_down();
    link.waiting.notify();
    error
}
