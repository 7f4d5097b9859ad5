//! Messages between the shards of a node, over bounded queues.
//!
//! A shard never waits for another while it holds up its own receiving: what does not fit the queue
//! waits in an outbox per peer, whose task sends when there is room again. Requests wait for room in
//! the outbox; replies always have it, since each answers a request that was let in.

use crate::metrics::ShardMetrics;
use crate::shard::event::{Broadcast, Signal};
use crate::shard::message::{Message, Reply, Request};
use crate::types::ShardId;
use crate::types::limits::MESH_QUEUE_LENGTH;
use glommio::channels::channel_mesh::Senders;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

#[derive(Default)]
struct Outbox {
    queue: RefCell<VecDeque<Message>>,
    /// A message left `queue` and is not in the channel yet: nothing may overtake it.
    sending: Cell<bool>,
    filled: Signal,
    drained: Broadcast,
}

enum Outstanding {
    Asked(Option<Waker>),
    Answered(Reply),
}

/// Lives: one per shard.
pub struct Mesh {
    senders: Senders<Message>,
    outboxes: Vec<Outbox>,
    next_id: Cell<u64>,
    outstanding: RefCell<BTreeMap<u64, Outstanding>>,
    metrics: Rc<RefCell<ShardMetrics>>,
}

/// The other shard is gone: the node is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {0:?} is gone")]
pub struct ShardGone(pub ShardId);

impl Mesh {
    pub fn new(senders: Senders<Message>, metrics: Rc<RefCell<ShardMetrics>>) -> Rc<Mesh> {
        let outboxes = (0..senders.nr_consumers()).map(|_| Outbox::default()).collect();
        Rc::new(Mesh {
            senders,
            outboxes,
            next_id: Cell::new(1),
            outstanding: RefCell::new(BTreeMap::new()),
            metrics,
        })
    }

    pub fn shard_count(&self) -> usize {
        self.outboxes.len()
    }

    /// Sends a request and waits for its reply. Requests to one shard arrive in the order in which
    /// [`ask`](Self::ask) returned their tickets.
    pub async fn call(&self, to: ShardId, request: Request) -> Reply {
        let ticket = self.ask(to, request).await;
        self.reply(ticket).await
    }

    /// Sends a request; the reply is waited for separately, so that the caller keeps its order.
    pub async fn ask(&self, to: ShardId, request: Request) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.outstanding.borrow_mut().insert(id, Outstanding::Asked(None));
        let outbox = &self.outboxes[to.index()];
        while outbox.queue.borrow().len() >= MESH_QUEUE_LENGTH {
            outbox.drained.notified().await;
        }
        self.post(to, Message::Request { id, request });
        id
    }

    /// The reply to the request of `ticket`.
    pub async fn reply(&self, ticket: u64) -> Reply {
        poll_fn(|cx| {
            let mut outstanding = self.outstanding.borrow_mut();
            match outstanding.remove(&ticket) {
                Some(Outstanding::Answered(reply)) => Poll::Ready(reply),
                _ => {
                    outstanding.insert(ticket, Outstanding::Asked(Some(cx.waker().clone())));
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Sends without waiting: replies, and notices that are bounded by what they are about.
    pub fn post(&self, to: ShardId, message: Message) {
        self.metrics.borrow_mut().mesh_messages_sent += 1;
        let outbox = &self.outboxes[to.index()];
        let mut queue = outbox.queue.borrow_mut();
        let message = if queue.is_empty() && !outbox.sending.get() {
            match self.senders.try_send_to(to.index(), message) {
                Ok(()) => return,
                Err(glommio::GlommioError::WouldBlock(glommio::ResourceType::Channel(message))) => message,
                Err(_) => return, // The node is stopping.
            }
        } else {
            message
        };
        self.metrics.borrow_mut().mesh_queue_full += 1;
        queue.push_back(message);
        outbox.filled.notify();
    }

    /// A reply came in for a request of this shard.
    pub fn answered(&self, id: u64, reply: Reply) {
        let mut outstanding = self.outstanding.borrow_mut();
        let Some(waiting) = outstanding.get_mut(&id) else { return };
        if let Outstanding::Asked(waker) = std::mem::replace(waiting, Outstanding::Answered(reply)) {
            drop(outstanding);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Sends what waits in one peer's outbox, for ever. One task per peer.
    pub async fn run_outbox(self: Rc<Self>, to: ShardId) {
        let outbox = &self.outboxes[to.index()];
        loop {
            let message = outbox.queue.borrow_mut().pop_front();
            match message {
                Some(message) => {
                    outbox.sending.set(true);
                    if self.senders.send_to(to.index(), message).await.is_err() {
                        return;
                    }
                    outbox.sending.set(false);
                    outbox.drained.notify_all();
                }
                None => outbox.filled.notified().await,
            }
        }
    }

    pub fn close(&self) {
        self.senders.close();
    }
}
