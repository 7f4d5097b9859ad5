//! Other nodes, on shard 0: connections to them, and what the metadata quorum and the controller say over them.
//!
//! ```text
//!  to each address one link:  [frames] ─► connects, greets, writes ─► (greeting, answers) ─► who asked
//!  accepted:                  greeting ─► messages of the quorum ─► Quorum::step
//!                                     └─► questions ─► the leader decides ─► answers
//! ```
//!
//! A node says what it has to say over connections that it has made itself, and answers over those that were made
//! to it. Messages of the quorum may be lost: where a link is down or full, they are.
//!
//! | file | what it does |
//! |---|---|
//! | `link.rs` | a connection to another node, made again and again |
//! | `serving.rs` | a connection from another node |
//! | `socket.rs` | frames over a socket |
//! | `discovery.rs` | which cluster a new node joins, before there are shards |
//! | `forwarding.rs` | what clients ask of the controller, where that is another node |
//!
//! Absent: encryption, and proof of who the other side is beyond the id of the cluster.

pub mod discovery;
pub mod forwarding;
pub mod link;
mod serving;
pub mod socket;

use crate::cluster::quorum::members::PeerId;
use crate::cluster::quorum::message::Message;
use crate::codec::control::{Answer, Greeting, Question, QuestionKind};
use crate::codec::error_code::ErrorCode;
use crate::codec::peer_frame::agree_on_version;
use crate::codec::peer_message::{PEER_VERSION_MAX, PEER_VERSION_MIN};
use crate::config::HostPort;
use crate::metrics::ShardMetrics;
use crate::shard::clock::Clock;
use crate::shard::peers::forwarding::question;
use crate::shard::peers::link::{Link, Outgoing};
use crate::shard::quorum::MetadataQuorum;
use crate::shard::side_thread::SideThread;
use crate::types::limits::{PEER_PAYLOAD_SIZE_MAX, QUORUM_MEMBERS_MAX};
use crate::types::{NodeId, Uuid};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

pub use serving::listen;

/// How long a connection may take to be made, and the other side to greet.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
pub const GREETING_TIME_MAX: Duration = Duration::from_secs(5);

/// Of a question, from whoever leads.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Of one try where another one does no harm: whoever was asked may be gone without a word.
const TRY_TIME_MAX: Duration = Duration::from_secs(2);

/// What a start says of itself to others.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub me: PeerId,
    /// Where others reach this node.
    pub address: HostPort,
    /// Nodes that know more of the cluster, besides those that its metadata names.
    pub seeds: Vec<HostPort>,
}

/// Lives: on shard 0 of a node that has others.
pub struct Peers {
    introduction: Introduction,
    cluster: Uuid,
    /// As many for each topic of conversation as there are nodes and seeds, and have been at other addresses since the
    /// start.
    links: RefCell<BTreeMap<(Talk, HostPort), Rc<Link>>>,
    /// Where members have said that they are reached: newer than what the metadata say.
    told: RefCell<BTreeMap<PeerId, HostPort>>,
    /// Names of hosts are looked up there.
    lookups: Rc<SideThread>,
    /// Whom messages are for.
    quorum: Weak<MetadataQuorum>,
}

/// What a connection is for: answers that take their time hold up no others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Talk {
    Metadata,
    /// With their coordinators, and of these with leaders.
    Transactions,
}

/// Why a question was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It was not asked.
    NotSent,
    /// It may have been answered, and nobody heard.
    Lost,
}

impl Peers {
    pub fn new(introduction: Introduction, cluster: Uuid, quorum: Weak<MetadataQuorum>) -> Peers {
        let lookups = SideThread::start(&Clock::new(), &Rc::new(RefCell::new(ShardMetrics::new())));
        let (links, told) = (RefCell::default(), RefCell::default());
        Peers { introduction, cluster, links, told, lookups, quorum }
    }

    pub fn me(&self) -> PeerId {
        self.introduction.me
    }

    fn greeting(&self) -> Greeting {
        let Introduction { me, address, .. } = &self.introduction;
        Greeting {
            cluster: self.cluster,
            node: me.node(),
            version_min: PEER_VERSION_MIN,
            version_max: PEER_VERSION_MAX,
            peer: me.raw(),
            address: Some((address.host.clone(), address.port)),
            shards: None,
        }
    }

    /// Another node has said who it is. Whether it is one to talk to.
    fn greeted(&self, greeting: &Greeting) -> Result<(), GreetingRefused> {
        check(greeting, self.cluster, self.me().node())?;
        let peer = PeerId::from_raw(greeting.peer).filter(|peer| peer.node() == greeting.node);
        if let (Some(peer), Some((host, port))) = (peer, &greeting.address) {
            let address = HostPort { host: host.clone(), port: *port };
            let mut told = self.told.borrow_mut();
            // Whoever knows the cluster's id may say so; members are no more than that.
            if told.len() < QUORUM_MEMBERS_MAX || told.contains_key(&peer) {
                told.insert(peer, address);
            }
        }
        Ok(())
    }

    /// Where a node is reached.
    pub fn address_of(&self, peer: PeerId) -> Option<HostPort> {
        if peer == self.me() {
            return Some(self.introduction.address.clone());
        }
        if let Some(told) = self.told.borrow().get(&peer) {
            return Some(told.clone());
        }
        self.quorum.upgrade()?.with_image(|image| image.node(peer.node())?.peer.clone())
    }

    /// The same of a broker, whichever member of the quorum it is, if any.
    fn address_of_node(&self, node: NodeId) -> Option<HostPort> {
        let registered = self.quorum.upgrade()?.with_image(|image| image.node(node)?.peer.clone());
        registered.filter(|_| node != self.me().node())
    }

    /// Everybody who may know who leads.
    fn known_addresses(&self) -> Vec<HostPort> {
        let mut known: Vec<HostPort> = self.told.borrow().values().cloned().collect();
        let me = self.me().node();
        if let Some(quorum) = self.quorum.upgrade() {
            quorum.with_image(|image| {
                let others = image.nodes().filter(|node| node.id != me);
                known.extend(others.filter_map(|node| node.peer.clone()));
            });
        }
        known.extend(self.introduction.seeds.iter().cloned());
        known.retain(|address| *address != self.introduction.address);
        known.sort();
        known.dedup();
        known
    }

    fn link(&self, talk: Talk, address: &HostPort) -> Rc<Link> {
        let start = || Link::start(address.clone(), self.quorum.clone());
        self.links.borrow_mut().entry((talk, address.clone())).or_insert_with(start).clone()
    }

    /// Sends a message of the quorum, or loses it.
    pub fn send(&self, message: &Message) {
        let Some(address) = self.address_of(message.to) else {
            if let Some(quorum) = self.quorum.upgrade() {
                quorum.sent(message.to, message.kind(), false);
            }
            return;
        };
        let payload = message.encode();
        if payload.len() > PEER_PAYLOAD_SIZE_MAX {
            let (to, size) = (message.to.node().0, payload.len());
            // Nor is it tried again at once: raft waits to hear of it.
            return tracing::error!(to, size, "a snapshot of the metadata is too large to be sent");
        }
        let outgoing = Outgoing::Message { to: message.to, kind: message.kind(), payload };
        self.link(Talk::Metadata, &address).push(outgoing);
    }

    /// Asks whom this node takes for the leader of the quorum, once; `None` without an answer in that time.
    pub async fn ask_once(
        &self,
        question: &Question,
        payload: &[u8],
        time_max: Duration,
    ) -> Option<(Answer, Vec<u8>)> {
        let leader = self.quorum.upgrade()?.leader().filter(|leader| *leader != self.me())?;
        let link = self.link(Talk::Metadata, &self.address_of(leader)?);
        link.ask(question, payload, time_max).await.ok()
    }

    /// Asks a node about transactions; `None` without an answer in that time.
    pub async fn ask_node(
        &self,
        node: NodeId,
        kind: QuestionKind,
        payload: &[u8],
        time_max: Duration,
    ) -> Option<(Answer, Vec<u8>)> {
        let link = self.link(Talk::Transactions, &self.address_of_node(node)?);
        link.ask(&question(kind, self.me()), payload, time_max).await.ok()
    }

    /// Asks whoever leads the quorum, and waits until this node has applied what the answer speaks of.
    pub async fn ask_leader(
        &self,
        question: &Question,
        payload: &[u8],
        is_repeatable: bool,
    ) -> Result<(Answer, Vec<u8>), ErrorCode> {
        const PAUSE: Duration = Duration::from_millis(50);
        let Some(quorum) = self.quorum.upgrade() else { return Err(ErrorCode::NotController) };
        let begun = quorum.clock().mono();
        let mut hint = None;
        let mut turn = 0;
        loop {
            let leader = hint.take().or_else(|| quorum.leader()).filter(|leader| *leader != self.me());
            let address = leader.and_then(|leader| self.address_of(leader));
            let known = self.known_addresses();
            let address = address.or_else(|| known.get(turn % known.len().max(1)).cloned());
            turn += 1;
            let waited = quorum.clock().mono().since(begun);
            if waited >= ANSWER_TIME_MAX || quorum.has_failed() || quorum.is_leading() {
                return Err(ErrorCode::NotController);
            }
            if let Some(address) = address {
                let link = self.link(Talk::Metadata, &address);
                let time_max = if is_repeatable { TRY_TIME_MAX } else { ANSWER_TIME_MAX };
                match link.ask(question, payload, time_max.min(ANSWER_TIME_MAX - waited)).await {
                    Ok((answer, _)) if answer.error == ErrorCode::NotController.code() => {
                        hint = PeerId::from_raw(answer.leader);
                        // A node that is new knows of nobody else where it is.
                        if let (Some(leader), Some((host, port))) = (hint, answer.leader_address) {
                            let known = &mut *self.told.borrow_mut();
                            known.entry(leader).or_insert(HostPort { host, port });
                        }
                    }
                    // Nothing was changed: there is nothing to wait for. A node that joins would wait in vain.
                    Ok((answer, payload)) if answer.error != 0 => return Ok((answer, payload)),
                    Ok((answer, payload)) => {
                        quorum.applied(answer.index, ANSWER_TIME_MAX).await;
                        return Ok((answer, payload));
                    }
                    Err(Unanswered::Lost) if !is_repeatable => return Err(ErrorCode::RequestTimedOut),
                    Err(Unanswered::NotSent | Unanswered::Lost) => {}
                }
            }
            glommio::timer::sleep(PAUSE).await;
        }
    }
}

/// Whether another node is one for node `me` of that cluster to talk to.
pub fn check(greeting: &Greeting, cluster: Uuid, me: NodeId) -> Result<(), GreetingRefused> {
    let Greeting { version_min, version_max, .. } = *greeting;
    if greeting.cluster != cluster {
        return Err(GreetingRefused::OtherCluster(greeting.cluster));
    }
    let ours = (PEER_VERSION_MIN, PEER_VERSION_MAX);
    if agree_on_version(ours, (version_min, version_max)).is_none() {
        return Err(GreetingRefused::Version { version_min, version_max });
    }
    if greeting.node == me {
        return Err(GreetingRefused::OwnNode(me));
    }
    Ok(())
}

/// Why a connection between two nodes is closed.
#[derive(Debug, thiserror::Error)]
pub enum GreetingRefused {
    #[error("it belongs to cluster {}", crate::types::uuid_text(*.0))]
    OtherCluster(Uuid),
    #[error(
        "it speaks versions {version_min} to {version_max}, this build {PEER_VERSION_MIN} to {PEER_VERSION_MAX}"
    )]
    Version { version_min: u16, version_max: u16 },
    #[error("it says that it is node {}, as this one", .0.0)]
    OwnNode(NodeId),
}
