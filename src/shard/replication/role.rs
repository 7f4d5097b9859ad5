//! What a replica is to the others of its partition, and what follows from each event of it.
//!
//! The decisions are [`replication::leader`](crate::replication::leader)'s and
//! [`replication::follower`](crate::replication::follower)'s; here they hear what happens to the log, and what
//! they want is carried out. Nothing here waits: what takes time is a task of the shard.

use crate::codec::error_code::ErrorCode;
use crate::codec::replication::Statement;
use crate::replication::follower::{self, Follower};
use crate::replication::in_sync::Proposal;
use crate::replication::leader::{self, Leader, NotEnoughReplicas};
use crate::replication::produces::{Acks, ProduceId, ProduceOutcome as Outcome};
use crate::shard::Shard;
use crate::shard::background::{drop_segments, write_checkpoint};
use crate::shard::disk::is_full_disk;
use crate::shard::event::Broadcast;
use crate::shard::message::ProduceOutcome;
use crate::shard::replica::{ParkedAck, Replica};
use crate::shard::replication::feed::Feed;
use crate::shard::replication::uplink::Uplink;
use crate::shard::replication::{cutting, proposals};
use crate::shard::segments::NO_SPACE_RETRY;
use crate::shard::store::changes::Logged;
use crate::types::{LeaderEpoch, Mono, NodeId, Offset};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// What a replica is.
#[derive(Default)]
pub enum Role {
    /// The only one.
    #[default]
    Alone,
    /// Nobody leads, or the metadata were not looked at yet.
    Idle {
        epoch: Option<LeaderEpoch>,
    },
    Leader(Box<Leading>),
    Follower(Box<Following>),
}

pub struct Leading {
    pub machine: Leader,
    /// The connections of followers, as each was last heard on one.
    feeds: BTreeMap<NodeId, Weak<Feed>>,
    parked: BTreeMap<ProduceId, (Mono, ParkedAck)>,
    next_produce: u64,
}

impl Leading {
    pub fn new(machine: Leader) -> Leading {
        Leading { machine, feeds: BTreeMap::new(), parked: BTreeMap::new(), next_produce: 0 }
    }
}

pub struct Following {
    pub machine: Follower,
    pub uplink: Rc<Uplink>,
}

/// Lives: with its replica.
#[derive(Default)]
pub struct Replication {
    role: RefCell<Role>,
    /// Sessions with leaders since the start of the process.
    pub sessions: Cell<u32>,
    shard: RefCell<Weak<Shard>>,
    /// Signalled when the role has changed, or the log start that clients see.
    pub changed: Broadcast,
}

impl Replication {
    pub fn is_alone(&self) -> bool {
        matches!(*self.role.borrow(), Role::Alone)
    }

    /// Whether nothing is appended to it, for nobody.
    pub fn is_idle(&self) -> bool {
        matches!(*self.role.borrow(), Role::Idle { .. })
    }

    pub fn is_leader(&self) -> bool {
        matches!(*self.role.borrow(), Role::Leader(_))
    }

    /// Whether clients are served from it.
    pub fn serves(&self) -> bool {
        self.is_alone() || self.is_leader()
    }

    /// Whether it follows a leader. Clients that want to may read from it.
    pub fn is_follower(&self) -> bool {
        matches!(*self.role.borrow(), Role::Follower(_))
    }

    /// Whether everything is readable that an earlier leader has shown (KIP-207).
    pub fn knows_high_watermark(&self) -> bool {
        self.with_leader(|leader| leader.latest().is_ok()).unwrap_or(true)
    }

    /// Under which leader epoch the role was taken; `None` of the only replica, and of one that has none yet.
    pub fn epoch(&self) -> Option<LeaderEpoch> {
        match &*self.role.borrow() {
            Role::Alone => None,
            Role::Idle { epoch } => *epoch,
            Role::Leader(leading) => Some(leading.machine.epoch()),
            Role::Follower(following) => Some(following.machine.epoch()),
        }
    }

    /// Looks at the leader, if it is one.
    pub fn with_leader<T>(&self, look: impl FnOnce(&Leader) -> T) -> Option<T> {
        match &*self.role.borrow() {
            Role::Leader(leading) => Some(look(&leading.machine)),
            Role::Alone | Role::Idle { .. } | Role::Follower(_) => None,
        }
    }

    /// Changes something about the leader that has no consequences.
    pub fn with_leader_mut<T>(&self, change: impl FnOnce(&mut Leader) -> T) -> Option<T> {
        match &mut *self.role.borrow_mut() {
            Role::Leader(leading) => Some(change(&mut leading.machine)),
            Role::Alone | Role::Idle { .. } | Role::Follower(_) => None,
        }
    }

    pub fn with_follower<T>(&self, look: impl FnOnce(&Following) -> T) -> Option<T> {
        match &*self.role.borrow() {
            Role::Follower(following) => Some(look(following)),
            Role::Alone | Role::Idle { .. } | Role::Leader(_) => None,
        }
    }

    fn shard(&self) -> Option<Rc<Shard>> {
        self.shard.borrow().upgrade()
    }
}

impl Replica {
    /// From now on it is this; what it was before is over.
    pub fn take_role(self: &Rc<Self>, shard: &Rc<Shard>, role: Role) {
        *self.replication.shard.borrow_mut() = Rc::downgrade(shard);
        let before = std::mem::replace(&mut *self.replication.role.borrow_mut(), role);
        match before {
            Role::Alone => self.refuse_parked(ErrorCode::NotLeaderOrFollower),
            Role::Idle { .. } => {}
            Role::Leader(leading) => {
                let Leading { machine, mut parked, .. } = *leading;
                for effect in machine.resign() {
                    if let leader::Effect::Answer { produce, outcome } = effect
                        && let Some((_, ack)) = parked.remove(&produce)
                    {
                        answer(ack, outcome);
                    }
                }
            }
            Role::Follower(following) => {
                self.replication.sessions.set(following.machine.sessions());
                following.uplink.leave(self.id);
            }
        }
        self.replication.changed.notify_all();
        self.wake_watchers();
    }

    // --- What happens to the log

    /// Whether anything may be appended for a client.
    pub fn admit(&self, acks: Acks) -> Result<(), ProduceOutcome> {
        match &*self.replication.role.borrow() {
            Role::Alone => Ok(()),
            Role::Leader(leading) => leading.machine.admit(acks).map_err(not_enough),
            Role::Idle { .. } | Role::Follower(_) => {
                Err(ProduceOutcome { error: ErrorCode::NotLeaderOrFollower, ..ProduceOutcome::default() })
            }
        }
    }

    /// A batch of a client was appended.
    pub fn appended(self: &Rc<Self>, end: Offset) {
        self.lead(leader::Event::Appended { log_end: end });
    }

    /// The write of everything below `end` was issued.
    pub fn issued(self: &Rc<Self>, end: Offset) {
        self.lead(leader::Event::Issued { end });
    }

    /// Everything below `end` is flushed here.
    pub fn flushed(self: &Rc<Self>, end: Offset) {
        if self.replication.is_alone() {
            return;
        }
        self.lead(leader::Event::Flushed { flushed_end: end });
        self.follow(follower::Event::Flushed { flushed_end: end });
    }

    /// Parks an answer until other replicas have the batch that ends at `end`; gives it back where there are none.
    pub fn park_replicated(self: &Rc<Self>, ack: ParkedAck, end: Offset, now: Mono) -> Option<ParkedAck> {
        let mut effects = Vec::new();
        {
            let mut role = self.replication.role.borrow_mut();
            let Role::Leader(leading) = &mut *role else { return Some(ack) };
            let produce = ProduceId(leading.next_produce);
            leading.next_produce += 1;
            let acks = ack.acks();
            leading.parked.insert(produce, (now.after(ack.time_max()), ack));
            leading.machine.park(produce, end, acks, &mut effects);
        }
        self.carry_out_lead(effects);
        None
    }

    /// Nobody is answered any more but with this.
    pub fn refuse_replicated(&self, error: ErrorCode) {
        let parked = {
            let mut role = self.replication.role.borrow_mut();
            let Role::Leader(leading) = &mut *role else { return };
            let parked = std::mem::take(&mut leading.parked);
            parked.keys().for_each(|produce| leading.machine.forget(*produce));
            parked
        };
        parked.into_values().for_each(|(_, ack)| ack.refuse(error));
    }

    /// Who has waited as long as its client wants is told so; its batch stays where it is.
    pub fn expire_parked(&self, now: Mono) {
        let expired: Vec<ParkedAck> = {
            let mut role = self.replication.role.borrow_mut();
            let Role::Leader(leading) = &mut *role else { return };
            let Leading { machine, parked, .. } = &mut **leading;
            let expired = parked.extract_if(.., |_, (deadline, _)| *deadline <= now);
            let expired = expired.map(|(produce, (_, ack))| {
                machine.forget(produce);
                ack
            });
            expired.collect()
        };
        expired.into_iter().for_each(|ack| ack.refuse(ErrorCode::RequestTimedOut));
    }

    // --- Leaders

    /// One event of a leader, and what follows from it; nothing where it does not lead.
    pub fn lead(self: &Rc<Self>, event: leader::Event<'_>) {
        let mut effects = Vec::new();
        {
            let mut role = self.replication.role.borrow_mut();
            let Role::Leader(leading) = &mut *role else { return };
            leading.machine.step(event, &mut effects);
        }
        self.carry_out_lead(effects);
    }

    /// A follower has said what it has, on this connection.
    pub fn stated(self: &Rc<Self>, feed: &Rc<Feed>, event: leader::Event<'_>) -> bool {
        {
            let mut role = self.replication.role.borrow_mut();
            let Role::Leader(leading) = &mut *role else { return false };
            // From a core that the follower has left, say: the one that has it now is heard on another connection.
            if leading.machine.knows_newer(&event) {
                return true;
            }
            leading.feeds.insert(feed.node(), Rc::downgrade(feed));
        }
        self.lead(event);
        true
    }

    /// A follower's connection has ended.
    pub fn lost(&self, feed: &Rc<Feed>) {
        let mut role = self.replication.role.borrow_mut();
        let Role::Leader(leading) = &mut *role else { return };
        let is_its = |known: &Weak<Feed>| known.as_ptr() == Rc::as_ptr(feed);
        if leading.feeds.get(&feed.node()).is_some_and(is_its) {
            leading.feeds.remove(&feed.node());
            leading.machine.lost(feed.node());
        }
    }

    /// Whether a follower was last heard on this connection: another core of its node may have it by now.
    pub fn is_heard_on(&self, feed: &Feed) -> bool {
        let role = self.replication.role.borrow();
        let Role::Leader(leading) = &*role else { return false };
        leading.feeds.get(&feed.node()).is_some_and(|known| std::ptr::eq(known.as_ptr(), feed))
    }

    fn feed(&self, replica: NodeId) -> Option<Rc<Feed>> {
        let role = self.replication.role.borrow();
        let Role::Leader(leading) = &*role else { return None };
        leading.feeds.get(&replica)?.upgrade()
    }

    fn carry_out_lead(self: &Rc<Self>, effects: Vec<leader::Effect>) {
        for effect in effects {
            match effect {
                leader::Effect::Align { replica, alignment } => {
                    if let Some(feed) = self.feed(replica) {
                        feed.align(alignment);
                    }
                }
                leader::Effect::Send { replica } => {
                    if let Some(feed) = self.feed(replica) {
                        feed.want(self.id);
                    }
                }
                leader::Effect::AdvanceHighWatermark(to) => {
                    self.log.borrow_mut().replicated(to);
                    self.wake_watchers();
                }
                leader::Effect::AdvanceLogStart(to) => self.advance_log_start(to),
                leader::Effect::MoveLogStart(to) => self.move_log_start(to),
                leader::Effect::Propose(proposal) => self.propose(proposal),
                leader::Effect::Answer { produce, outcome } => {
                    let ack = match &mut *self.replication.role.borrow_mut() {
                        Role::Leader(leading) => leading.parked.remove(&produce),
                        Role::Alone | Role::Idle { .. } | Role::Follower(_) => None,
                    };
                    if let Some((_, ack)) = ack {
                        answer(ack, outcome);
                    }
                }
                leader::Effect::RejectAck { replica, reason } => {
                    tracing::debug!(partition = ?self.id, replica = replica.0, %reason, "an acknowledgement means nothing");
                }
            }
        }
    }

    fn propose(self: &Rc<Self>, proposal: Proposal) {
        if let Some(shard) = self.replication.shard() {
            proposals::propose(&shard, self, proposal);
        }
    }

    // --- Followers

    /// One event of a follower, and what follows from it. Whether batches that came are to be appended.
    pub fn follow(self: &Rc<Self>, event: follower::Event<'_>) -> bool {
        let mut effects = Vec::new();
        {
            let mut role = self.replication.role.borrow_mut();
            let Role::Follower(following) = &mut *role else { return false };
            following.machine.step(event, &mut effects);
        }
        let mut appends = false;
        for effect in effects {
            match effect {
                follower::Effect::State => self.state(),
                follower::Effect::CutTo(end) => self.cut_log(cutting::Cut::To(end)),
                follower::Effect::StartOver(at) => self.cut_log(cutting::Cut::StartOver(at)),
                follower::Effect::Append { .. } => appends = true,
                follower::Effect::MoveLogStart(to) => self.move_log_start(to),
                follower::Effect::Acknowledge { flushed_end, log_start } => {
                    self.replication.with_follower(|following| {
                        let acknowledgement = following.machine.acknowledgement(flushed_end, log_start);
                        following.uplink.acknowledge(acknowledgement);
                    });
                }
                follower::Effect::AdvanceHighWatermark(to) => {
                    self.log.borrow_mut().replicated(to);
                    self.wake_watchers();
                }
                // The next tick does.
                follower::Effect::Retry => {}
                follower::Effect::Reject(reason) => {
                    tracing::debug!(partition = ?self.id, %reason, "a leader's message means nothing");
                }
            }
        }
        appends
    }

    fn state(&self) {
        self.replication.with_follower(|following| {
            let statement: Statement = following.machine.statement(self.log.borrow().epochs());
            following.uplink.state(statement);
        });
    }

    /// Until the cut is made it follows nobody: what is to go may still be flushed, and connections come and go.
    fn cut_log(self: &Rc<Self>, cut: cutting::Cut) {
        let (Some(shard), Some(epoch)) = (self.replication.shard(), self.replication.epoch()) else { return };
        self.take_role(&shard, Role::Idle { epoch: Some(epoch) });
        shard.spawn(cutting::cut(shard.clone(), self.clone(), epoch, cut));
    }

    // --- Log starts

    /// Makes a new log start durable; that it is what clients see comes later.
    fn move_log_start(self: &Rc<Self>, to: Offset) {
        let Some(shard) = self.replication.shard() else { return };
        let (replica, epoch) = (self.clone(), self.replication.epoch());
        let task = {
            let shard = shard.clone();
            async move {
                if !make_durable(&shard, &replica, to).await
                    || replica.is_deleted()
                    || replica.replication.epoch() != epoch
                {
                    return;
                }
                if replica.replication.is_leader() {
                    replica.lead(leader::Event::LogStartFlushed { log_start: to });
                } else {
                    replica.advance_log_start(to);
                    replica.follow(follower::Event::LogStartFlushed { log_start: to });
                }
            }
        };
        shard.spawn(task);
    }

    fn advance_log_start(self: &Rc<Self>, to: Offset) {
        let Some(shard) = self.replication.shard() else { return };
        self.log.borrow_mut().advance_log_start(to);
        self.replication.changed.notify_all();
        let replica = self.clone();
        shard.clone().spawn(async move {
            if !replica.is_deleted() {
                drop_segments(shard.stores.of(&replica), &replica).await;
            }
        });
    }
}

/// `false`: the log directory has failed, or the partition is gone.
async fn make_durable(shard: &Rc<Shard>, replica: &Rc<Replica>, to: Offset) -> bool {
    let store = shard.stores.of(replica);
    while !replica.is_deleted() && !store.is_offline() && !store.is_closed() {
        let change = replica.decide_log_start(to);
        if !replica.log.borrow().is_flushed_below(replica.log_start_decided()) {
            store.write_out(replica.slot).await;
        }
        match store.log_changes(vec![change]).await {
            Logged::Flushed => return true,
            Logged::Failed => return false,
            Logged::NoJournal => match write_checkpoint(shard, store).await {
                Ok(()) => return true,
                Err(error) if is_full_disk(&error) => glommio::timer::sleep(NO_SPACE_RETRY).await,
                Err(error) => store.fail(&format!("writing the checkpoint: {error}")),
            },
        }
    }
    false
}

fn answer(ack: ParkedAck, outcome: Outcome) {
    match outcome {
        Outcome::Done => ack.answer(),
        Outcome::NotEnoughReplicasAfterAppend => ack.refuse(ErrorCode::NotEnoughReplicasAfterAppend),
        Outcome::NotLeader => ack.refuse(ErrorCode::NotLeaderOrFollower),
    }
}

fn not_enough(refused: NotEnoughReplicas) -> ProduceOutcome {
    let message = Some(refused.to_string());
    ProduceOutcome { error: ErrorCode::NotEnoughReplicas, message, ..ProduceOutcome::default() }
}
