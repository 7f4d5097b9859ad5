//! Damaged replicas are made again from those of others (DESIGN 5).
//!
//! ```text
//! a start or a read finds it ─► the node registers anew, without it ─► it is in sync no more, another one leads
//!                                                        └─► what is left of it goes ─► an empty one follows
//! ```
//!
//! The new registration is what keeps an empty log from being taken for the one that there was: nobody takes a replica
//! into the in-sync set that was found up to date under an earlier one (KIP-903), and under the new one a damaged log
//! follows nobody. A replica of which nobody else has everything stays as it is, and says so: what is left of it may be
//! the last there is.

use crate::cluster::image::Image;
use crate::cluster::record::Node;
use crate::shard::message::Message;
use crate::shard::{Shard, groups, partitions, replication};
use crate::types::{BrokerEpoch, NodeId, ShardId, TopicPartition};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// The shard that has the metadata quorum.
const QUORUM_SHARD: ShardId = ShardId(0);

/// Between two looks whether others have what is damaged here.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Under which registration a replica may have stated what it had; `None`: under none, as it was never open.
pub type StatedUnder = Option<BrokerEpoch>;

/// Somebody else who is there has everything, and this node counts for having it too: it is in sync or eligible, or a
/// leader may propose it for what was stated under its registration.
pub fn is_to_be_told(image: &Image, node: NodeId, id: TopicPartition, stated: StatedUnder) -> bool {
    image.partition(id).is_some_and(|state| {
        let has_all = || state.in_sync.iter().chain(&state.eligible_leaders);
        let is_there = |other: &NodeId| *other != node && image.node(*other).is_some_and(Node::is_active);
        let is_current = |epoch| image.node(node).is_some_and(|node| node.broker_epoch == epoch);
        state.replica_on(node).is_some()
            && has_all().any(is_there)
            && (has_all().any(|it| *it == node) || stated.is_some_and(is_current))
    })
}

/// The end of a replica may be gone that this node counts for having, and others count too, be they there or not: as
/// long as it counts it could lead without that. Nodes that are unregistered are waited for by nobody.
pub fn is_doubt_to_be_told(image: &Image, node: NodeId, id: TopicPartition) -> bool {
    image.partition(id).is_some_and(|state| {
        let has_all = || state.in_sync.iter().chain(&state.eligible_leaders);
        has_all().any(|it| *it == node) && has_all().any(|it| *it != node && image.node(*it).is_some())
    })
}

/// Another one leads, and nobody counts on what is here, nor can: what was stated was said by another registration.
fn is_to_be_restored(image: &Image, node: NodeId, id: TopicPartition, stated: StatedUnder) -> bool {
    let is_newer = |epoch| image.node(node).is_some_and(|node| node.broker_epoch > epoch);
    let is_so = image.partition(id).is_some_and(|state| {
        let counts = state.in_sync.iter().chain(&state.eligible_leaders).any(|it| *it == node);
        state.replica_on(node).is_some() && !counts && state.leader.is_some()
    });
    is_so && stated.is_none_or(is_newer)
}

impl Shard {
    /// A start or a read has found a replica of this shard damaged.
    pub fn replica_damaged(self: &Rc<Shard>, id: TopicPartition) {
        // Who reads on in one that has left says nothing of it.
        let is_here = || self.image.borrow().partition(id).is_some_and(|state| self.owns(state));
        if self.is_damaged(id) || self.is_handed_over(&id) || !is_here() {
            return;
        }
        replication::follow_no_more(self, id);
        let has_stated = self
            .stores
            .find(&id)
            .is_some_and(|replica| replica.replication.sessions.get() > 0 || replica.replication.is_leader());
        self.replica_is_damaged(id, has_stated.then(|| self.broker_epoch()));
    }

    /// The same of one that has stated what it had under that registration.
    pub fn replica_is_damaged(self: &Rc<Shard>, id: TopicPartition, stated: StatedUnder) {
        self.damaged.borrow_mut().insert(id, stated);
        self.tell_damaged(id, Some(stated));
        if !self.restoring.replace(true) {
            self.spawn(restore_all(self.clone()));
        }
    }

    /// A damaged replica leaves this shard as it is, for another one of the node.
    pub fn take_damaged(&self, id: TopicPartition) -> Option<StatedUnder> {
        self.damaged.borrow_mut().remove(&id)
    }

    pub fn is_damaged(&self, id: TopicPartition) -> bool {
        self.damaged.borrow().contains_key(&id)
    }

    /// A start has found that the end of a replica of this shard may be gone: others that are in sync are sure to have
    /// it.
    pub fn replica_doubtful(&self, id: TopicPartition) {
        match self.id == QUORUM_SHARD {
            true => self.note_doubtful(id),
            false => self.mesh.post(QUORUM_SHARD, Message::Doubtful { id }),
        }
    }

    /// The same of any shard of this node, on the one that has the quorum.
    pub fn note_doubtful(&self, id: TopicPartition) {
        self.doubtful_on_node.borrow_mut().insert(id);
        if let Some(controller) = self.controller.get() {
            controller.quorum.beat_soon(); // Before anybody takes it for one that has everything.
        }
    }

    /// Whoever has the quorum hears of it. `None`: it is damaged no more.
    fn tell_damaged(&self, id: TopicPartition, damaged: Option<StatedUnder>) {
        match self.id == QUORUM_SHARD {
            true => self.note_damaged(id, damaged),
            false => self.mesh.post(QUORUM_SHARD, Message::Damaged { id, damaged }),
        }
    }

    /// The same of any shard of this node, on the one that has the quorum.
    pub fn note_damaged(&self, id: TopicPartition, damaged: Option<StatedUnder>) {
        let mut on_node = self.damaged_on_node.borrow_mut();
        match damaged {
            Some(stated) => on_node.insert(id, stated),
            None => on_node.remove(&id),
        };
        if let Some(controller) = self.controller.get() {
            controller.quorum.beat_soon(); // Whoever waits for all in sync waits for that.
        }
    }
}

/// As long as some are damaged.
async fn restore_all(shard: Rc<Shard>) {
    let mut is_told = BTreeSet::new();
    loop {
        glommio::timer::sleep(LOOK_INTERVAL).await;
        let damaged = shard.damaged.borrow().clone();
        if damaged.is_empty() || shard.is_stopping() {
            return shard.restoring.set(false);
        }
        for (id, stated) in damaged {
            let (is_here, is_alone, is_due) = {
                let image = shard.image.borrow();
                let state = image.partition(id).filter(|state| shard.owns(state));
                let is_alone = state.is_some() && !is_to_be_told(&image, shard.node, id, stated);
                (state.is_some(), is_alone, is_to_be_restored(&image, shard.node, id, stated))
            };
            if !is_here {
                forget(&shard, id);
            } else if is_due {
                restore(&shard, id).await;
            } else if is_alone && is_told.insert(id) {
                tracing::error!(partition = ?id, "a damaged replica stays as it is: nobody else has everything of it");
            }
        }
    }
}

fn forget(shard: &Shard, id: TopicPartition) {
    shard.damaged.borrow_mut().remove(&id);
    shard.tell_damaged(id, None);
}

/// What is left of it goes, and an empty one takes its place.
async fn restore(shard: &Rc<Shard>, id: TopicPartition) {
    let Ok(_turn) = shard.changing_partitions.acquire_permit(1).await else { return };
    // Somebody may have been faster.
    let Some(stated) = shard.damaged.borrow().get(&id).copied() else { return };
    let dir = {
        let image = shard.image.borrow();
        let state = image.partition(id).filter(|state| shard.owns(state));
        let replica = state.and_then(|state| state.replica_on(shard.node));
        let dir = replica.and_then(|replica| shard.log_dirs.home(replica));
        dir.filter(|_| is_to_be_restored(&image, shard.node, id, stated))
    };
    let Some(store) = dir.map(|dir| shard.stores.get(dir).clone()) else { return };
    if shard.is_stopping() || store.is_offline() {
        return;
    }
    tracing::warn!(partition = ?id, "a damaged replica is made again: others have everything");
    let sessions = shard.stores.find(&id).map_or(0, |replica| replica.replication.sessions.get());
    partitions::take_off(shard, &[id]).await;
    groups::role_changed(shard, id);
    shard.transactions.role_changed(shard, id);
    forget(shard, id); // Unless the new one is damaged too.
    partitions::open_new(shard, &store, id, sessions).await;
    shard.metrics.borrow_mut().replicas_restored += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node, partition_id, replica, topic_id};
    use crate::cluster::record::{PartitionState, Record};
    use crate::config::Routing;

    fn image(in_sync: &[i32], eligible: &[i32], leader: Option<i32>) -> Image {
        let mut image = image_of(&[1, 2, 3].map(|id| node(id, 1, Routing::Node)));
        image.apply(&Record::TopicCreated { topic: topic_id(1), name: "t".to_owned() }).expect("new");
        let ids = |ids: &[i32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let state = PartitionState {
            in_sync: ids(in_sync),
            eligible_leaders: ids(eligible),
            leader: leader.map(NodeId),
            ..PartitionState::new((1..=2).map(|id| replica(id, 0)).collect())
        };
        image.apply(&Record::PartitionCreated { id: partition_id(1, 0), state }).expect("the next");
        image
    }

    #[test]
    fn the_last_one_is_kept_as_it_is() {
        let id = partition_id(1, 0);
        let verdict = |image: &Image, stated: StatedUnder| {
            [1, 2, 3].map(|node| {
                let node = NodeId(node);
                (is_to_be_told(image, node, id, stated), is_to_be_restored(image, node, id, stated))
            })
        };
        // Nodes are registered under epoch 0.
        let current = Some(BrokerEpoch(0));
        let (keep, tell, restore) = ((false, false), (true, false), (false, true));
        assert_eq!(verdict(&image(&[1, 2], &[], Some(1)), None), [tell, tell, keep]);
        assert_eq!(verdict(&image(&[1], &[2], Some(1)), None), [tell, tell, keep]);
        assert_eq!(verdict(&image(&[1], &[], Some(1)), None), [keep, restore, keep]);
        assert_eq!(verdict(&image(&[1], &[], Some(1)), current), [keep, tell, keep], "it may be proposed");
        assert_eq!(verdict(&image(&[1], &[], Some(1)), Some(BrokerEpoch(-1))), [keep, restore, keep]);
        assert_eq!(verdict(&image(&[], &[1], None), None), [keep, keep, keep], "nobody has it yet");
        let mut alone = image(&[1], &[2], Some(1));
        let fenced = Node { is_fenced: true, ..alone.node(NodeId(2)).expect("it is there").clone() };
        alone.apply(&Record::NodeRegistered(fenced)).expect("fits");
        assert_eq!(verdict(&alone, current)[0], keep, "who has it too is not there");
        assert!(is_doubt_to_be_told(&alone, NodeId(1), id), "it could lead before who has it too is back");
        assert!(is_doubt_to_be_told(&image(&[2], &[1], Some(2)), NodeId(1), id));
        assert!(!is_doubt_to_be_told(&image(&[1], &[], Some(1)), NodeId(1), id), "nobody else has it");
        assert!(!is_doubt_to_be_told(&image(&[1], &[], Some(1)), NodeId(2), id), "nobody counts on it");
    }
}
