//! Partitions move from one shard of this node to another one while both serve (DESIGN 4).
//!
//! The metadata say whose they are; shard 0, which has these applied one after the other, sees to the rest:
//!
//! ```text
//!   from:  let go ─────────┐                          ┌─► forget ──────────────┐
//!          written out,    ▼                          │   checkpoint without   ▼
//!          not found   records applied everywhere     │   it, journal: gone    to:  take over
//!                          └─► to: expect ────────────┘                             opened, takes its role
//!                                  checkpoint has it
//! ```
//!
//! A start replays the journals of both shards. After a crash between any two steps it finds the same log:
//!
//! | crash before | where the log ends and begins |
//! |---|---|
//! | expect | checkpoint and journal of the shard that had it |
//! | forget | the same, and the checkpoint of the one that gets it |
//! | the journal says that it is gone | that journal, and the checkpoint of the one that gets it |
//! | take over | the checkpoint of the one that gets it |
//!
//! Nothing changes the log before the journal of the shard that had it says that it is gone: what is in there would be
//! replayed over what has come since.

use crate::cluster::image::Image;
use crate::cluster::record::{PartitionState as PartitionStateRecord, Record};
use crate::codec::error_code::ErrorCode;
use crate::log::checkpoint::PartitionPoint;
use crate::log::final_state::PartitionState;
use crate::log::journal::block::{Change, Entry};
use crate::shard::background::write_checkpoint;
use crate::shard::disk::is_full_disk;
use crate::shard::final_state::state_of;
use crate::shard::message::{Reply, Request};
use crate::shard::partitions::{self, LastStop, open_handed_over};
use crate::shard::replica::Replica;
use crate::shard::replication::role::Role;
use crate::shard::replication::take_role;
use crate::shard::restoring::StatedUnder;
use crate::shard::store::Store;
use crate::shard::{Shard, Unavailable, groups, replication};
use crate::types::{LeaderEpoch, LogDirIndex, NodeId, Offset, ShardId, TopicPartition};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// A checkpoint that found no space is written again after so long.
const NO_SPACE_RETRY: Duration = Duration::from_secs(1);

/// What shard 0 asks of those that let go and of those that take over.
#[derive(Clone)]
pub enum HandoverStep {
    /// These are another shard's from now on.
    LetGo(Vec<TopicPartition>),
    /// They are on their way to the receiver, which has the metadata that say so; how far each is flushed.
    Expect(Vec<(TopicPartition, Option<PartitionPoint>)>),
    /// They have reached the checkpoints of the shards that get them.
    Forget(Vec<TopicPartition>),
    /// They are the receiver's.
    TakeOver(Vec<HandedOver>),
}

/// A partition's log between two shards: nothing of it is in memory or in flight.
#[derive(Clone, Debug)]
pub struct HandedOver {
    pub id: TopicPartition,
    /// How far it is flushed; `None` where nobody knows, as it was never open.
    pub point: Option<PartitionPoint>,
    /// What an open needs so that it need not scan. `None`: it was not open, or its log directory has failed.
    pub state: Option<PartitionState>,
    /// Of one that has other replicas.
    high_watermark: Option<Offset>,
    /// Sessions with leaders.
    sessions: u32,
    /// It is damaged.
    damaged: Option<StatedUnder>,
}

/// Which partitions leave which shard for which.
type Moves = BTreeMap<TopicPartition, (ShardId, ShardId)>;

/// What is on its way while records are applied.
pub struct Underway {
    moves: Moves,
    handed: Vec<HandedOver>,
}

/// Partitions that have another owner on this node once these records are applied, but stay on it all the while.
fn moves(image: &Image, node: NodeId, records: &[Record]) -> Moves {
    let owner = |state: &PartitionStateRecord| state.replica_on(node).map(|replica| replica.owner);
    let mut last: BTreeMap<TopicPartition, Option<ShardId>> = BTreeMap::new();
    for record in records {
        match record {
            Record::PartitionChanged { id, state } => {
                // One that has left does not come back as it was.
                let next = last.get(id).is_none_or(Option::is_some).then(|| owner(state)).flatten();
                last.insert(*id, next);
            }
            Record::TopicDeleted { topic } => {
                let of_topic = last.iter_mut().filter(|(id, _)| id.topic == *topic);
                of_topic.for_each(|(_, owner)| *owner = None);
            }
            _ => {}
        }
    }
    let moves = last.into_iter().filter_map(|(id, to)| {
        let (from, to) = (image.partition(id).and_then(owner)?, to?);
        (from != to).then_some((id, (from, to)))
    });
    moves.collect()
}

/// Before these records are applied anywhere: the shards that have partitions which are others' then let them go.
pub async fn begin(shard: &Rc<Shard>, records: &[Record]) -> Underway {
    let moves = moves(&shard.image.borrow(), shard.node, records);
    let mut by_owner: BTreeMap<ShardId, Vec<TopicPartition>> = BTreeMap::new();
    moves.iter().for_each(|(id, (from, _))| by_owner.entry(*from).or_default().push(*id));
    let let_go = by_owner.into_iter().map(|(from, ids)| ask(shard, from, HandoverStep::LetGo(ids)));
    let handed = join_all(let_go).await.into_iter().flatten().collect();
    Underway { moves, handed }
}

/// Once they are applied everywhere.
pub async fn complete(shard: &Rc<Shard>, Underway { moves, handed }: Underway) {
    if handed.is_empty() {
        return;
    }
    let mut arriving: BTreeMap<ShardId, Vec<HandedOver>> = BTreeMap::new();
    let mut departed: BTreeMap<ShardId, Vec<TopicPartition>> = BTreeMap::new();
    for handed in handed {
        let (from, to) = moves[&handed.id];
        departed.entry(from).or_default().push(handed.id);
        arriving.entry(to).or_default().push(handed);
    }
    let expect = arriving.iter().map(|(to, handed)| {
        let points = handed.iter().map(|handed| (handed.id, handed.point)).collect();
        ask(shard, *to, HandoverStep::Expect(points))
    });
    join_all(expect).await;
    join_all(departed.into_iter().map(|(from, ids)| ask(shard, from, HandoverStep::Forget(ids)))).await;
    let take_over = arriving.into_iter().map(|(to, handed)| ask(shard, to, HandoverStep::TakeOver(handed)));
    join_all(take_over).await;
}

async fn ask(shard: &Rc<Shard>, to: ShardId, step: HandoverStep) -> Vec<HandedOver> {
    if to == shard.id {
        return take_step(shard, step).await;
    }
    match shard.mesh.call(to, Request::Handover(step)).await {
        Reply::Handover(handed) => handed,
        _ => unreachable!("a step of a handover is answered by what was let go"),
    }
}

/// One step on the shard that it is asked of.
pub async fn take_step(shard: &Rc<Shard>, step: HandoverStep) -> Vec<HandedOver> {
    let _turn = shard.changing_partitions.acquire_permit(1).await.expect("it is never closed");
    let mut let_gone = Vec::new();
    match step {
        HandoverStep::LetGo(ids) => {
            let_gone = join_all(ids.into_iter().map(|id| let_go(shard, id))).await;
        }
        HandoverStep::Expect(points) => expect(shard, points).await,
        HandoverStep::Forget(ids) => forget(shard, &ids).await,
        HandoverStep::TakeOver(handed) => take_over(shard, handed).await,
    }
    partitions::count(shard);
    let_gone
}

/// From here on nobody is served from it here; whoever waits for it looks elsewhere.
async fn let_go(shard: &Rc<Shard>, id: TopicPartition) -> HandedOver {
    shard.handed_over.borrow_mut().insert(id);
    let damaged = shard.damaged_no_more(id);
    let Some(replica) = shard.stores.find(&id) else {
        let point = shard.unavailable.borrow().get(&id).and_then(|unavailable| unavailable.point);
        return HandedOver { id, point, state: None, high_watermark: None, sessions: 0, damaged };
    };
    let store = shard.stores.of(&replica).clone();
    let has_others = !replica.replication.is_alone();
    let high_watermark = has_others.then(|| replica.log.borrow().high_watermark());
    // No segment is replaced or dropped meanwhile: the next owner must not find half of that.
    let replacing = replica.replacing.acquire_permit(1).await;
    let is_settled = settle(shard, &store, &replica).await;
    let point = PartitionPoint::of(&replica.log.borrow(), replica.log_start_decided());
    let state = is_settled.then(|| state_of(&replica));
    // Checkpoints say so until the other shard has one that does.
    shard.unavailable.borrow_mut().insert(id, Unavailable { dir: Some(store.dir), point: Some(point) });
    store.remove(&id);
    replica.give_up(ErrorCode::NotLeaderOrFollower);
    replication::left(shard, &replica);
    drop(replacing);
    groups::role_changed(shard, id);
    shard.transactions.role_changed(shard, id);
    replica.names_released().await;
    store.release_slot(replica.slot).await;
    tracing::info!(directory = %replica.directory.display(), "a replica leaves this core for another one");
    let sessions = replica.replication.sessions.get();
    HandedOver { id, point: Some(point), state, high_watermark, sessions, damaged }
}

/// Ends what the replica was and waits until all of it is flushed in its segments, the closed ones final. `false` where
/// its log directory has failed.
async fn settle(shard: &Rc<Shard>, store: &Rc<Store>, replica: &Rc<Replica>) -> bool {
    loop {
        if !replica.replication.is_idle() {
            // Without an epoch, so that nobody goes on under the one there was.
            replica.take_role(shard, Role::Idle { epoch: None });
        }
        store.write_out(replica.slot).await;
        let active = replica.log.borrow().active().base_offset;
        if let Err(error) = replica.finish_rolls(store, active).await {
            if !is_full_disk(&error) {
                store.fail(&format!("closing segments of {}: {error}", replica.directory.display()));
            }
            return false;
        }
        if store.is_offline() {
            return false;
        }
        // Nothing else runs between this look and what the caller does.
        if replica.replication.is_idle() && store.is_idle(replica.slot) && replica.is_rolled_out() {
            return true;
        }
    }
}

async fn expect(shard: &Rc<Shard>, points: Vec<(TopicPartition, Option<PartitionPoint>)>) {
    let mut dirs = BTreeSet::new();
    for (id, point) in points {
        let dir = home(shard, id);
        shard.handed_over.borrow_mut().insert(id);
        shard.unavailable.borrow_mut().insert(id, Unavailable { dir, point });
        dirs.extend(dir);
    }
    write_checkpoints(shard, dirs).await;
}

async fn forget(shard: &Rc<Shard>, ids: &[TopicPartition]) {
    let mut by_dir: BTreeMap<LogDirIndex, Vec<Entry>> = BTreeMap::new();
    for id in ids {
        shard.handed_over.borrow_mut().remove(id);
        let unavailable = shard.unavailable.borrow_mut().remove(id);
        let epoch = shard.image.borrow().partition(*id).map_or(LeaderEpoch(0), |state| state.leader_epoch);
        if let Some(dir) = unavailable.and_then(|unavailable| unavailable.dir) {
            let gone = Entry { partition: *id, change: Change::Removed { epoch } };
            by_dir.entry(dir).or_default().push(gone);
        }
    }
    write_checkpoints(shard, by_dir.keys().copied().collect()).await;
    for (dir, gone) in by_dir {
        shard.stores.get(dir).log_changes(gone).await;
    }
}

/// In each of these directories that has not failed; waits for space where there is none.
async fn write_checkpoints(shard: &Rc<Shard>, dirs: BTreeSet<LogDirIndex>) {
    for dir in dirs {
        let store = shard.stores.get(dir);
        while !store.is_offline() {
            match write_checkpoint(shard, store).await {
                Ok(()) => break,
                Err(error) if is_full_disk(&error) => {
                    let directory = store.path.display();
                    tracing::warn!(%directory, "no space for a checkpoint: partitions wait on their way to another core");
                    glommio::timer::sleep(NO_SPACE_RETRY).await;
                }
                Err(error) => store.fail(&format!("writing the checkpoint: {error}")),
            }
        }
    }
}

async fn take_over(shard: &Rc<Shard>, handed: Vec<HandedOver>) {
    // Those that were open open without a scan.
    for clean in [true, false] {
        let of_kind = || handed.iter().filter(|handed| handed.state.is_some() == clean);
        let last = LastStop {
            points: of_kind().filter_map(|handed| Some((handed.id, handed.point?))).collect(),
            states: of_kind().filter_map(|handed| Some((handed.id, handed.state.clone()?))).collect(),
            clean,
            ..LastStop::default()
        };
        open_handed_over(shard, of_kind().map(|handed| handed.id).collect(), &last).await;
    }
    for HandedOver { id, high_watermark, sessions, damaged, .. } in handed {
        shard.handed_over.borrow_mut().remove(&id);
        if let Some(stated) = damaged {
            shard.replica_is_damaged(id, stated); // Before it follows anybody.
        }
        if let Some(replica) = shard.stores.find(&id) {
            shard.unavailable.borrow_mut().remove(&id); // Only now: a checkpoint has it from either.
            replica.replication.sessions.set(sessions);
            let is_alone = replica.replication.is_alone();
            if let Some(known) = high_watermark.filter(|_| !is_alone) {
                let mut log = replica.log.borrow_mut();
                let known = known.min(log.durable_end()).max(log.log_start());
                log.replicate_from(Some(known));
            }
            tracing::info!(directory = %replica.directory.display(), "a replica has come from another core");
            take_role(shard, id);
            if is_alone {
                groups::role_changed(shard, id);
                shard.transactions.role_changed(shard, id);
            }
        }
    }
}

fn home(shard: &Shard, id: TopicPartition) -> Option<LogDirIndex> {
    let image = shard.image.borrow();
    let replica = image.partition(id)?.replica_on(shard.node)?;
    shard.log_dirs.home(replica)
}

impl Shard {
    /// A partition on its way from or to another shard: it is opened here by nobody else.
    pub fn is_handed_over(&self, id: &TopicPartition) -> bool {
        self.handed_over.borrow().contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node, partition_id, replica, topic_id};
    use crate::config::Routing;

    #[test]
    fn what_stays_on_the_node_is_handed_over() {
        let mut image = image_of(&[1, 2].map(|id| node(id, 4, Routing::Node)));
        image.apply(&Record::TopicCreated { topic: topic_id(1), name: "t".to_owned() }).expect("new");
        let owned = |replicas: &[(i32, u16)]| {
            PartitionStateRecord::new(replicas.iter().map(|(node, owner)| replica(*node, *owner)).collect())
        };
        for index in 0..2 {
            let (id, state) = (partition_id(1, index), owned(&[(1, 0), (2, 3)]));
            image.apply(&Record::PartitionCreated { id, state }).expect("the next");
        }
        let id = partition_id(1, 0);
        let changed = |replicas: &[(i32, u16)]| Record::PartitionChanged { id, state: owned(replicas) };
        let found = |records: &[Record]| {
            let moves = moves(&image, NodeId(1), records);
            moves.into_iter().map(|(id, (from, to))| (id, from.0, to.0)).collect::<Vec<_>>()
        };
        assert_eq!(found(&[changed(&[(1, 2), (2, 3)])]), [(id, 0, 2)]);
        assert_eq!(
            found(&[changed(&[(1, 2), (2, 3)]), changed(&[(2, 3), (1, 1)])]),
            [(id, 0, 1)],
            "the last"
        );
        assert_eq!(found(&[changed(&[(1, 2)]), changed(&[(1, 0)])]), [], "there and back");
        assert_eq!(found(&[changed(&[(1, 0), (2, 1)])]), [], "the other node's");
        assert_eq!(found(&[changed(&[(2, 3)])]), [], "it leaves");
        assert_eq!(
            found(&[changed(&[(2, 3)]), changed(&[(2, 3), (1, 1)])]),
            [],
            "it has left and comes anew"
        );
        let deleted = Record::TopicDeleted { topic: topic_id(1) };
        assert_eq!(found(&[changed(&[(1, 2), (2, 3)]), deleted]), [], "it is deleted");
    }
}
