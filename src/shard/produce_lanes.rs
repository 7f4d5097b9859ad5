//! Batches that a peer has received for partitions of this shard, appended in the order in which it has sent them,
//! so that two of a producer stay in theirs.
//!
//! | lane | what is in it |
//! |---|---|
//! | transactional | requests of transactions, whose coordinators are waited for |
//! | recompressed | batches for topics that store them in a codec of their own, which takes its time |
//! | plain | all others, which wait for none of these |
//!
//! The batches of a request outside transactions may be in two lanes, those of a partition are in one. When its topic
//! begins to have a codec, the first of them waits for what is in the plain lane before it; when it has none any
//! more, its batches go behind those that are still in the other lane.
//!
//! A lane holds no more than the peer may have outstanding.

use crate::shard::Shard;
use crate::shard::api::produce;
use crate::shard::event::{Broadcast, Signal};
use crate::shard::message::{Message, ProduceItem, Reply};
use crate::shard::store::AckTarget;
use crate::types::{ShardId, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Batches, each with its number in its request.
type Numbered = Vec<(u32, ProduceItem)>;

/// What a request has for a lane.
struct Queued {
    target: Rc<dyn AckTarget>,
    items: Numbered,
    /// How many the plain lane had taken before.
    after: u64,
}

#[derive(Default)]
struct Lane {
    queue: RefCell<VecDeque<Queued>>,
    filled: Signal,
    taken: Cell<u64>,
    done: Cell<u64>,
    one_done: Broadcast,
}

/// Lives: one for each peer.
pub struct ProduceLanes {
    shard: Rc<Shard>,
    peer: ShardId,
    plain: Rc<Lane>,
    transactional: Rc<Lane>,
    recompressed: Rc<Lane>,
    /// Batches that the lane of the recompressed has, of each partition.
    recompressing: Rc<RefCell<BTreeMap<TopicPartition, usize>>>,
}

impl ProduceLanes {
    pub fn start(shard: &Rc<Shard>, peer: ShardId) -> ProduceLanes {
        let lanes = ProduceLanes {
            shard: shard.clone(),
            peer,
            plain: Rc::default(),
            transactional: Rc::default(),
            recompressed: Rc::default(),
            recompressing: Rc::default(),
        };
        shard.spawn(run(shard.clone(), lanes.plain.clone()));
        shard.spawn(run(shard.clone(), lanes.transactional.clone()));
        let (plain, recompressing) = (lanes.plain.clone(), lanes.recompressing.clone());
        shard.spawn(run_recompressed(shard.clone(), lanes.recompressed.clone(), plain, recompressing));
        lanes
    }

    /// Takes a request and answers it when all of its batches are durable, or refused.
    pub fn push(&self, id: u64, items: Vec<ProduceItem>) {
        let (mesh, peer) = (self.shard.mesh.clone(), self.peer);
        let done = Box::new(move |outcomes| {
            mesh.post(peer, Message::Reply { id, reply: Reply::Produce(outcomes) });
        });
        let is_transactional = items.iter().any(|item| item.claim.is_some());
        // All of one request.
        let first = items.first().expect("a request has something");
        let waits = (first.waits_for, first.time_max);
        let target: Rc<dyn AckTarget> = produce::Forwarded::new(items.len(), waits, done);
        let items = (0..).zip(items);
        if is_transactional {
            self.transactional.push(target, items.collect(), 0);
        } else if !self.shard.recompresses.get() {
            self.plain.push(target, items.collect(), 0);
        } else {
            let (slow, quick): (Numbered, Numbered) = items.partition(|(_, item)| self.is_recompressed(item));
            if !slow.is_empty() {
                let mut recompressing = self.recompressing.borrow_mut();
                slow.iter().for_each(|(_, item)| *recompressing.entry(item.partition).or_default() += 1);
                drop(recompressing);
                self.recompressed.push(target.clone(), slow, self.plain.taken.get());
            }
            if !quick.is_empty() {
                self.plain.push(target, quick, 0);
            }
        }
    }

    fn is_recompressed(&self, item: &ProduceItem) -> bool {
        let has_codec = || {
            let replica = self.shard.stores.find(&item.partition);
            replica.is_some_and(|replica| replica.log.borrow().config.compression.is_some())
        };
        has_codec() || self.recompressing.borrow().contains_key(&item.partition)
    }
}

impl Lane {
    fn push(&self, target: Rc<dyn AckTarget>, items: Numbered, after: u64) {
        self.taken.set(self.taken.get() + 1);
        self.queue.borrow_mut().push_back(Queued { target, items, after });
        self.filled.notify();
    }

    async fn next(&self, shard: &Shard) -> Queued {
        loop {
            let next = self.queue.borrow_mut().pop_front();
            if let Some(next) = next {
                return next;
            }
            shard.stores.pump();
            self.filled.notified().await;
        }
    }
}

async fn run(shard: Rc<Shard>, lane: Rc<Lane>) {
    loop {
        let Queued { target, items, .. } = lane.next(&shard).await;
        let mut refused = Vec::new();
        if items.len() > 1 {
            let batches = items.iter().map(|(_, item)| (&item.partition, &item.batch[..]));
            refused = produce::verify_all(&shard, batches, items[0].1.claim.as_ref()).await;
        }
        for (at, (index, mut item)) in items.into_iter().enumerate() {
            if let Some(refused) = refused.get_mut(at).and_then(Option::take) {
                target.acknowledged(index, refused);
                continue;
            }
            let claim = item.claim.as_ref();
            produce::append(&shard, &target, index, &item.partition, &mut item.batch, claim).await;
        }
        lane.done.set(lane.done.get() + 1);
        lane.one_done.notify_all();
    }
}

async fn run_recompressed(
    shard: Rc<Shard>,
    lane: Rc<Lane>,
    plain: Rc<Lane>,
    recompressing: Rc<RefCell<BTreeMap<TopicPartition, usize>>>,
) {
    loop {
        let Queued { target, items, after } = lane.next(&shard).await;
        while plain.done.get() < after {
            plain.one_done.notified().await;
        }
        for (index, mut item) in items {
            produce::append(&shard, &target, index, &item.partition, &mut item.batch, None).await;
            let mut recompressing = recompressing.borrow_mut();
            let count = recompressing.get_mut(&item.partition).expect("it was counted when it came");
            *count -= 1;
            if *count == 0 {
                recompressing.remove(&item.partition);
            }
        }
    }
}
