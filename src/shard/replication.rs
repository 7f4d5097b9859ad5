//! Replication on one shard: which of its replicas lead and follow, and the connections between them and others.
//!
//! ```text
//!   metadata ─► roles ─┬─ leader ◄─ what happens to its log       follower ─┐
//!                      │      └─► feed ─────── socket ───────► uplink ──────┘
//!                      └─ ticks: who lags, what was not answered
//! ```
//!
//! A shard that follows connects to the shard that leads, over the port for nodes: the first frame says whom it is
//! for, and the connection is handed to that shard. Over it go all partitions that the one follows of the other.
//!
//! | file | what it does |
//! |---|---|
//! | `role.rs` | what a replica is, and what follows from each event of it |
//! | `feed.rs` | a connection to a shard that follows |
//! | `uplink.rs` | a connection to a shard that leads |
//! | `cutting.rs` | a follower's log is cut |
//! | `proposals.rs` | a leader asks for another in-sync set |
//! | `throttle.rs` | replicas that catch up are held to a rate |
//!
//! Coordinators go with the leaders of their partitions: they read them anew.

pub mod cutting;
pub mod feed;
mod proposals;
pub mod role;
pub mod throttle;
pub mod uplink;

use crate::cluster::lifecycle::InSyncMin;
use crate::cluster::record::{Node, PartitionState};
use crate::replication::follower::{Event as FollowerEvent, Follower, FollowerStart};
use crate::replication::in_sync::Committed;
use crate::replication::leader::{Event, Leader, LeaderSettings, LeaderStart};
use crate::shard::peers::socket::PeerSocket;
use crate::shard::replica::Replica;
use crate::shard::replication::cutting::{begin_epoch, known_high_watermark};
use crate::shard::replication::feed::{Feed, FollowerShard};
use crate::shard::replication::proposals::Proposals;
use crate::shard::replication::role::{Following, Leading, Role};
use crate::shard::replication::throttle::ShardThrottle;
use crate::shard::replication::uplink::{LeaderShard, Uplink};
use crate::shard::step::Pace;
use crate::shard::{Shard, groups};
use crate::types::{NodeId, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks at who lags, and at who has to state again.
const TICK: Duration = Duration::from_millis(100);

/// After which a proposal that was not answered is sent again.
const PROPOSAL_PATIENCE: Duration = Duration::from_millis(500);

/// Lives: with its shard.
#[derive(Default)]
pub struct ShardReplication {
    /// Connections of shards that follow this one.
    pub feeds: RefCell<BTreeMap<FollowerShard, Rc<Feed>>>,
    uplinks: RefCell<BTreeMap<LeaderShard, Rc<Uplink>>>,
    /// Partitions of this shard that have other replicas.
    replicated: RefCell<BTreeSet<TopicPartition>>,
    /// What leaders want of the controller.
    proposals: Proposals,
    /// Whose log is being cut: it is back soon, and follows.
    cutting: Cell<Option<TopicPartition>>,
    pub throttle: ShardThrottle,
}

impl ShardReplication {
    pub fn is_cutting(&self, id: &TopicPartition) -> bool {
        self.cutting.get().as_ref() == Some(id)
    }

    /// Those that have others.
    pub fn each_replica(&self, shard: &Shard, look: impl Fn(&Rc<Replica>)) {
        let replicated: Vec<TopicPartition> = self.replicated.borrow().iter().copied().collect();
        replicated.iter().filter_map(|id| shard.stores.find(id)).for_each(|replica| look(&replica));
    }
}

/// A connection of a shard that follows this one, which has agreed on a version of the messages.
pub fn serve(shard: &Rc<Shard>, follower: FollowerShard, connection: OwnedFd, version: u16) {
    match PeerSocket::take_over(connection, version) {
        Ok(socket) => {
            shard.spawn(feed::serve(shard.clone(), follower, Rc::new(socket)));
        }
        Err(error) => tracing::warn!(node = follower.node.0, %error, "a follower's connection is gone"),
    }
}

/// Looks after leaders and followers until the process ends.
pub fn start(shard: &Rc<Shard>) {
    throttle::changed(shard);
    shard.spawn(throttle::run(shard.clone()));
    let shard = shard.clone();
    shard.clone().spawn(async move {
        while !shard.is_stopping() {
            glommio::timer::sleep(TICK).await;
            tick(&shard).await;
        }
    });
}

async fn tick(shard: &Rc<Shard>) {
    let mut pace = Pace::new(&shard.clock);
    let replicated: Vec<TopicPartition> = shard.replication.replicated.borrow().iter().copied().collect();
    for id in replicated {
        let Some(replica) = shard.stores.find(&id) else { continue };
        note_eligible(shard, &replica);
        replica.lead(Event::Tick { now: shard.clock.mono() });
        replica.expire_parked(shard.clock.mono());
        let states_again = replica
            .replication
            .with_follower(|following| following.machine.is_away() && following.uplink.is_connected());
        if states_again == Some(true) {
            replica.follow(FollowerEvent::Connected);
        }
        pace.give_way().await;
    }
}

/// A log was opened. Where there are other replicas nobody is served from it before it has a role.
pub fn opened(shard: &Rc<Shard>, replica: &Rc<Replica>) {
    let is_alone = shard.image.borrow().partition(replica.id).is_none_or(|state| state.replicas.len() == 1);
    if !is_alone {
        let log_start = replica.log.borrow().log_start();
        replica.log.borrow_mut().replicate_from(Some(log_start));
        replica.take_role(shard, Role::Idle { epoch: None });
    }
}

/// A replica is gone: it leads and follows nobody.
pub fn left(shard: &Rc<Shard>, replica: &Rc<Replica>) {
    shard.replication.replicated.borrow_mut().remove(&replica.id);
    if !replica.replication.is_alone() {
        replica.take_role(shard, Role::Alone);
    }
}

/// Partitions of this shard become what the metadata say.
pub fn take_roles(shard: &Rc<Shard>, ids: impl IntoIterator<Item = TopicPartition>) {
    ids.into_iter().for_each(|id| take_role(shard, id));
}

/// The same of one.
pub fn take_role(shard: &Rc<Shard>, id: TopicPartition) {
    let epoch = |id| shard.stores.find(&id)?.replication.epoch();
    let before = epoch(id);
    change_role(shard, id);
    if before != epoch(id) {
        groups::role_changed(shard, id);
        shard.transactions.role_changed(shard, id);
    }
}

fn change_role(shard: &Rc<Shard>, id: TopicPartition) {
    let Some(replica) = shard.stores.find(&id) else {
        shard.replication.replicated.borrow_mut().remove(&id);
        return;
    };
    let Some(state) = shard.image.borrow().partition(id).cloned() else { return };
    if !shard.owns(&state) {
        return; // It is removed once those before it are carried out.
    }
    if state.replicas.len() == 1 {
        shard.replication.replicated.borrow_mut().remove(&id);
        begin_epoch(&replica, state.leader_epoch);
        if !replica.replication.is_alone() {
            replica.log.borrow_mut().replicate_from(None);
            replica.take_role(shard, Role::Alone);
        }
        return;
    }
    shard.replication.replicated.borrow_mut().insert(id);
    if replica.replication.epoch() == Some(state.leader_epoch) {
        let replicas: Vec<NodeId> = state.replicas.iter().map(|replica| replica.node).collect();
        replica.lead(Event::ReplicasChanged { replicas: &replicas, now: shard.clock.mono() });
        note_eligible(shard, &replica);
        // How many have to be in sync goes by how many there are.
        if let Some(settings) = leader_settings(shard, id) {
            replica.lead(Event::Configured { settings });
        }
        replica.lead(Event::IsrCommitted(committed(&state)));
        return;
    }
    begin_epoch(&replica, state.leader_epoch);
    // The only one knows it for all.
    let high_watermark = match replica.replication.is_alone() {
        true => replica.log.borrow().high_watermark(),
        false => known_high_watermark(&replica),
    };
    // The role of before ends before the next one begins: nobody is answered for it any more.
    replica.take_role(shard, Role::Idle { epoch: Some(state.leader_epoch) });
    replica.log.borrow_mut().replicate_from(Some(high_watermark));
    match state.leader {
        None => {}
        Some(leader) if leader == shard.node => lead(shard, &replica, &state),
        Some(_) => follow(shard, &replica, &state),
    }
}

/// It was found damaged: it acknowledges nothing any more, and states nothing under another registration.
pub fn follow_no_more(shard: &Rc<Shard>, id: TopicPartition) {
    if let Some(replica) = shard.stores.find(&id).filter(|replica| replica.replication.is_follower()) {
        replica.take_role(shard, Role::Idle { epoch: replica.replication.epoch() });
    }
}

/// A follower whose log is not what it takes it for begins again with what is there, after a while. One whose log
/// directory has failed does not.
pub fn follow_later(shard: &Rc<Shard>, replica: &Rc<Replica>, pause: Duration) {
    let epoch = replica.replication.epoch();
    if replica.replication.serves() || replica.is_deleted() {
        return;
    }
    replica.take_role(shard, Role::Idle { epoch });
    let (shard, replica) = (shard.clone(), replica.clone());
    shard.clone().spawn(async move {
        glommio::timer::sleep(pause).await;
        let Some(state) = shard.image.borrow().partition(replica.id).cloned() else { return };
        let is_current = epoch == Some(state.leader_epoch) && replica.replication.epoch() == epoch;
        if is_current && !replica.is_deleted() && !shard.stores.of(&replica).is_offline() {
            follow(&shard, &replica, &state);
        }
    });
}

fn committed(state: &PartitionState) -> Committed {
    Committed { partition_epoch: state.partition_epoch, in_sync: state.in_sync.clone() }
}

/// Settings of the leader of a partition of that topic.
pub fn leader_settings(shard: &Shard, id: TopicPartition) -> Option<LeaderSettings> {
    let image = shard.image.borrow();
    let topic = image.topic(id.topic)?;
    let state = image.partition(id)?;
    // As the controller counts: those that come do not before they are in sync.
    let replicas = (state.replicas.len() - state.adding.len()).max(1);
    let in_sync_min = InSyncMin::of(topic, &shard.topic_defaults()).get(state);
    Some(LeaderSettings {
        in_sync_min: in_sync_min.clamp(1, replicas),
        lag_max: shard.config.replica_lag_time_max,
        proposal_patience: PROPOSAL_PATIENCE,
    })
}

fn note_eligible(shard: &Shard, replica: &Replica) {
    let image = shard.image.borrow();
    let is_eligible = |node| image.node(node).is_some_and(Node::is_active);
    replica.replication.with_leader_mut(|leader| leader.note_eligible(is_eligible));
}

fn lead(shard: &Rc<Shard>, replica: &Rc<Replica>, state: &PartitionState) {
    let Some(settings) = leader_settings(shard, replica.id) else { return };
    let now = shard.clock.mono();
    let machine = {
        let mut log = replica.log.borrow_mut();
        log.begin_leading();
        Leader::new(LeaderStart {
            node: shard.node,
            epoch: state.leader_epoch,
            replicas: state.replicas.iter().map(|replica| replica.node).collect(),
            in_sync: committed(state),
            log_start: log.log_start(),
            log_start_flushed: log.log_start(),
            log_end: log.log_end(),
            flushed_end: log.durable_end(),
            high_watermark: log.high_watermark(),
            settings,
            now,
        })
    };
    tracing::debug!(partition = ?replica.id, epoch = state.leader_epoch.0, "leads");
    replica.take_role(shard, Role::Leader(Box::new(Leading::new(machine))));
    note_eligible(shard, replica);
    replica.lead(Event::Tick { now });
}

fn follow(shard: &Rc<Shard>, replica: &Rc<Replica>, state: &PartitionState) {
    if shard.is_damaged(replica.id) {
        return; // It would be taken for one that has everything.
    }
    let leader = state.leader.and_then(|leader| state.replica_on(leader));
    let Some(leader) = leader.map(|leader| LeaderShard { node: leader.node, shard: leader.owner }) else {
        return;
    };
    let known = shard.replication.uplinks.borrow().get(&leader).cloned();
    let uplink = known.unwrap_or_else(|| {
        let uplink = Uplink::start(shard, leader);
        shard.replication.uplinks.borrow_mut().insert(leader, uplink.clone());
        uplink
    });
    let machine = {
        let log = replica.log.borrow();
        Follower::new(FollowerStart {
            partition: replica.id,
            epoch: state.leader_epoch,
            log_start: log.log_start(),
            log_start_flushed: log.log_start(),
            log_end: log.log_end(),
            flushed_end: log.durable_end(),
            high_watermark: log.high_watermark(),
            sessions: replica.replication.sessions.get(),
        })
    };
    tracing::debug!(partition = ?replica.id, epoch = state.leader_epoch.0, leader = leader.node.0, "follows");
    uplink.join(replica.id);
    let following = Following { machine, uplink: uplink.clone() };
    replica.take_role(shard, Role::Follower(Box::new(following)));
    if uplink.is_connected() {
        replica.follow(FollowerEvent::Connected);
    }
}
