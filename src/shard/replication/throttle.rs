//! The rates that replicas of this shard are held to while they catch up.
//!
//! ```text
//!   metadata ─► who is held back, this shard's part of the node's rates ─► buckets
//!   pulse ─┬─► feeds: those that were held back take their turn again
//!          └─► uplinks: what this shard takes is shared among them, and their leaders are told
//! ```
//!
//! Connections that read from disk at the same time may each send what is left in the bucket; it is owed then.
//!
//! The decisions are [`cluster::throttled`](crate::cluster::throttled)'s and
//! [`replication::throttle`](crate::replication::throttle)'s.

use crate::cluster::record::Record;
use crate::cluster::throttled::{Side, Throttled};
use crate::replication::throttle::{Bucket, grant};
use crate::shard::Shard;
use crate::shard::event::Signal;
use crate::shard::replication::feed::Feed;
use crate::shard::replication::uplink::{LeaderShard, Uplink};
use crate::types::TopicPartition;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Between two looks at who may go on: a tenth of what a bucket holds.
const PULSE: Duration = Duration::from_millis(50);

/// Lives: one per shard.
#[derive(Default)]
pub struct ShardThrottle {
    throttled: RefCell<Throttled>,
    /// `None`: no limit.
    leaders: RefCell<Option<Bucket>>,
    followers: RefCell<Option<Bucket>>,
    /// There is a rate, or was one.
    is_set: Signal,
    has_pulse: Cell<bool>,
}

/// What a replica that catches up may be sent now.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Bytes; a batch may be larger, where there are any.
    pub size: u64,
    by_leader: bool,
    pub by_follower: bool,
}

impl Allowance {
    const UNLIMITED: Allowance = Allowance { size: u64::MAX, by_leader: false, by_follower: false };
}

impl ShardThrottle {
    /// What may be sent of a partition that this shard leads, over that connection.
    pub fn allowance(&self, shard: &Shard, feed: &Feed, id: TopicPartition, is_in_sync: bool) -> Allowance {
        let throttled = self.throttled.borrow();
        if is_in_sync || throttled.is_empty() {
            return Allowance::UNLIMITED;
        }
        let (image, brokers) = (shard.image.borrow(), shard.brokers.borrow());
        let Some(state) = image.partition(id) else { return Allowance::UNLIMITED };
        let mut allowance = Allowance::UNLIMITED;
        if let Some(bucket) = &mut *self.leaders.borrow_mut()
            && throttled.names(&brokers, Side::Leader, id, shard.node, state)
        {
            allowance.by_leader = true;
            allowance.size = bucket.left(shard.clock.mono());
        }
        if throttled.names(&brokers, Side::Follower, id, feed.node(), state) {
            allowance.by_follower = true;
            allowance.size = allowance.size.min(feed.credit.borrow().left());
        }
        allowance
    }

    /// So much was sent of it.
    pub fn sent(&self, shard: &Shard, feed: &Feed, allowance: Allowance, size: u64) {
        if allowance.by_leader {
            if let Some(bucket) = &mut *self.leaders.borrow_mut() {
                bucket.take(size);
            }
            shard.metrics.borrow_mut().throttled_leader_bytes += size;
        }
        if allowance.by_follower {
            feed.credit.borrow_mut().sent(size);
        }
    }

    /// Whether a connection may bring throttled replicas only what was granted.
    pub fn limits(&self, leader: LeaderShard) -> bool {
        self.followers.borrow().is_some() && self.throttled.borrow().has_source(leader.node, leader.shard)
    }

    /// Whether the record may change who is held back.
    pub fn is_changed_by(&self, record: &Record) -> bool {
        self.throttled.borrow().is_changed_by(record)
    }
}

/// The metadata, or the settings in effect, say something else.
pub fn changed(shard: &Shard) {
    let throttle = &shard.replication.throttle;
    let settings = shard.settings();
    let throttled = {
        let (image, brokers) = (shard.image.borrow(), shard.brokers.borrow());
        Throttled::of(&image, &brokers, (shard.node, shard.id))
    };
    let now = shard.clock.mono();
    let sides = [
        (Side::Leader, settings.leader_replication_throttled_rate, &throttle.leaders),
        (Side::Follower, settings.follower_replication_throttled_rate, &throttle.followers),
    ];
    for (side, rate, bucket) in sides {
        let share = rate.filter(|_| !throttled.is_empty()).map(|rate| throttled.share(side, shard.id, rate));
        let mut bucket = bucket.borrow_mut();
        match (&mut *bucket, share) {
            (Some(bucket), Some(share)) => bucket.set_rate(share, now),
            (bucket, share) => *bucket = share.map(|share| Bucket::new(share, now)),
        }
    }
    let is_limited = throttle.leaders.borrow().is_some() || throttle.followers.borrow().is_some();
    let counts = [Side::Leader, Side::Follower].map(|side| throttled.count(side, shard.id));
    {
        let rate = |bucket: &RefCell<Option<Bucket>>| bucket.borrow().as_ref().map_or(0, Bucket::rate);
        let mut metrics = shard.metrics.borrow_mut();
        [metrics.throttled_leader_replicas, metrics.throttled_follower_replicas] = counts;
        metrics.throttled_leader_rate = rate(&throttle.leaders);
        metrics.throttled_follower_rate = rate(&throttle.followers);
    }
    *throttle.throttled.borrow_mut() = throttled;
    if is_limited || throttle.has_pulse.get() {
        throttle.has_pulse.set(is_limited);
        throttle.is_set.notify();
    }
}

/// Lets those go on that may, until the process ends.
pub async fn run(shard: Rc<Shard>) {
    let throttle = &shard.replication.throttle;
    while !shard.is_stopping() {
        match throttle.has_pulse.get() {
            true => glommio::timer::sleep(PULSE).await,
            false => throttle.is_set.notified().await,
        }
        let feeds: Vec<Rc<Feed>> = shard.replication.feeds.borrow().values().cloned().collect();
        feeds.iter().for_each(|feed| feed.release_held());
        grant_uplinks(&shard);
    }
}

fn grant_uplinks(shard: &Shard) {
    let throttle = &shard.replication.throttle;
    let sources: Vec<Rc<Uplink>> = {
        let (throttled, uplinks) = (throttle.throttled.borrow(), shard.replication.uplinks.borrow());
        let found = throttled.sources().filter_map(|(node, shard)| uplinks.get(&LeaderShard { node, shard }));
        found.filter(|uplink| uplink.is_connected()).cloned().collect()
    };
    if let Some(bucket) = &mut *throttle.followers.borrow_mut() {
        let mut grants: Vec<_> = sources.iter().map(|uplink| uplink.grant.borrow_mut()).collect();
        let mut grants: Vec<_> = grants.iter_mut().map(|grant| &mut **grant).collect();
        grant(bucket, &mut grants, shard.clock.mono());
    }
    // Also those that are not limited any more.
    let uplinks: Vec<Rc<Uplink>> = shard.replication.uplinks.borrow().values().cloned().collect();
    uplinks.iter().for_each(|uplink| uplink.tell_limit(shard));
}
