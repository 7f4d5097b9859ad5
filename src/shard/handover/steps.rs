//! The steps of a handover, each on the shard that it is asked of.

use crate::codec::error_code::ErrorCode;
use crate::log::checkpoint::PartitionPoint;
use crate::log::journal::block::{Change, Entry};
use crate::shard::background::write_checkpoint;
use crate::shard::disk::is_full_disk;
use crate::shard::final_state::state_of;
use crate::shard::handover::{HandedOver, HandoverStep, StepTaken, Whole};
use crate::shard::partitions::{self, LastStop, open_one};
use crate::shard::replica::Replica;
use crate::shard::replication::role::Role;
use crate::shard::replication::take_role;
use crate::shard::store::Store;
use crate::shard::{Shard, Unavailable, groups, replication};
use crate::types::{LeaderEpoch, LogDirIndex, TopicPartition};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// One step on the shard that it is asked of.
pub async fn take_step(shard: &Rc<Shard>, step: HandoverStep) -> StepTaken {
    let _turn = shard.changing_partitions.acquire_permit(1).await.expect("it is never closed");
    let taken = match step {
        HandoverStep::LetGo(ids, patience) => {
            let let_go = join_all(ids.into_iter().map(|id| let_go(shard, id, patience))).await;
            StepTaken::LetGo(let_go.into_iter().flatten().collect())
        }
        HandoverStep::Expect(points) => StepTaken::Done(expect(shard, points).await),
        HandoverStep::Forget(ids) => StepTaken::Done(forget(shard, &ids).await),
        HandoverStep::TakeOver(handed) => {
            let taken = join_all(handed.into_iter().map(|handed| take_over(shard, handed))).await;
            StepTaken::Done(taken.into_iter().flatten().collect())
        }
        HandoverStep::Keep(ids) => {
            for id in &ids {
                shard.handed_over.borrow_mut().remove(id);
                goes_on(shard, *id);
            }
            StepTaken::Done(ids.into_iter().collect())
        }
        HandoverStep::Drop(ids) => {
            shard.handed_over.borrow_mut().retain(|id| !ids.contains(id));
            partitions::take_off(shard, &ids).await;
            StepTaken::Done(ids.into_iter().collect())
        }
    };
    partitions::count(shard);
    taken
}

/// From here on nobody is served from it here; whoever waits for it looks elsewhere. `None`: there is no space to
/// write out what it has, or to open it; it stays, and goes on with that.
async fn let_go(shard: &Rc<Shard>, id: TopicPartition, patience: Duration) -> Option<HandedOver> {
    if shard.waiting_for_space.borrow().contains(&id) {
        return None;
    }
    shard.handed_over.borrow_mut().insert(id);
    let Some(replica) = shard.stores.find(&id) else {
        let point = shard.unavailable.borrow().get(&id).and_then(|unavailable| unavailable.point);
        return Some(HandedOver { id, point, whole: None, damaged: shard.take_damaged(id) });
    };
    let store = shard.stores.of(&replica).clone();
    let directory = replica.directory.display();
    // No segment is replaced or dropped meanwhile: the next owner must not find half of that.
    let replacing = replica.replacing.acquire_permit(1).await;
    let is_settled = settle(shard, &store, &replica, patience).await;
    // What is in a log directory that has failed a start finds out, whosever it is.
    if !is_settled && !store.is_offline() {
        tracing::warn!(%directory, "a replica cannot leave this core yet");
        return None;
    }
    let (point, whole) = {
        let log = replica.log.borrow();
        let whole = Whole {
            state: state_of(&replica),
            closed: log.closed().iter().copied().collect(),
            high_watermark: log.high_watermark(),
            sessions: replica.replication.sessions.get(),
        };
        (PartitionPoint::of(&log, replica.log_start_decided()), whole)
    };
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
    tracing::info!(%directory, "a replica leaves this core for another one");
    let whole = Some(whole).filter(|_| is_settled);
    Some(HandedOver { id, point: Some(point), whole, damaged: shard.take_damaged(id) })
}

/// Ends what the replica was and waits until all of it is flushed in its segments, the closed ones final. `false` where
/// that takes too long, as without space, or its log directory has failed.
async fn settle(shard: &Rc<Shard>, store: &Rc<Store>, replica: &Rc<Replica>, patience: Duration) -> bool {
    const LOOK_INTERVAL: Duration = Duration::from_millis(1);
    let begun = shard.clock.mono();
    loop {
        if !replica.replication.is_idle() {
            // Without an epoch, so that nobody goes on under the one there was.
            replica.take_role(shard, Role::Idle { epoch: None });
        }
        let is_written = store.is_idle(replica.slot);
        // Nothing else runs between this look and what the caller does.
        if is_written && replica.is_rolled_out() && !store.is_offline() {
            return true;
        }
        if store.is_offline() || shard.is_stopping() {
            return false;
        }
        if !is_written {
            store.request_write_out(replica.slot);
            store.pump();
        } else if !replica.is_finishing_rolls() {
            store.spawn(finish(store.clone(), replica.clone())); // Not to be cut off half-way.
        }
        if shard.clock.mono().since(begun) >= patience {
            return false;
        }
        glommio::timer::sleep(LOOK_INTERVAL).await;
    }
}

async fn finish(store: Rc<Store>, replica: Rc<Replica>) {
    let active = replica.log.borrow().active().base_offset;
    if let Err(error) = replica.finish_rolls(&store, active).await
        && !is_full_disk(&error)
    {
        store.fail(&format!("closing segments of {}: {error}", replica.directory.display()));
    }
}

async fn expect(
    shard: &Rc<Shard>,
    points: Vec<(TopicPartition, Option<PartitionPoint>)>,
) -> BTreeSet<TopicPartition> {
    let mut by_dir: BTreeMap<Option<LogDirIndex>, BTreeSet<TopicPartition>> = BTreeMap::new();
    for (id, point) in points {
        let dir = home(shard, id);
        shard.handed_over.borrow_mut().insert(id);
        shard.unavailable.borrow_mut().insert(id, Unavailable { dir, point });
        by_dir.entry(dir).or_default().insert(id);
    }
    let mut done = BTreeSet::new();
    for (dir, ids) in by_dir {
        let is_done = match dir {
            Some(dir) => has_checkpoint(shard, dir).await,
            None => true, // A start that knows the directory sees to it.
        };
        if is_done {
            done.extend(ids);
        }
    }
    done
}

async fn forget(shard: &Rc<Shard>, ids: &[TopicPartition]) -> BTreeSet<TopicPartition> {
    let mut by_dir: BTreeMap<LogDirIndex, Vec<Entry>> = BTreeMap::new();
    let mut done = BTreeSet::new();
    for id in ids {
        shard.handed_over.borrow_mut().remove(id);
        shard.unavailable.borrow_mut().remove(id);
        let epoch = shard.image.borrow().partition(*id).map_or(LeaderEpoch(0), |state| state.leader_epoch);
        match home(shard, *id) {
            Some(dir) => {
                let gone = Entry { partition: *id, change: Change::Removed { epoch } };
                by_dir.entry(dir).or_default().push(gone);
            }
            None => {
                done.insert(*id);
            }
        }
    }
    for (dir, gone) in by_dir {
        let ids: Vec<TopicPartition> = gone.iter().map(|entry| entry.partition).collect();
        if has_checkpoint(shard, dir).await {
            shard.stores.get(dir).log_changes(gone).await; // Where it fails nothing is opened any more.
            done.extend(ids);
        }
    }
    done
}

/// Whether the checkpoint of a log directory says what is here now; in one that has failed nothing says anything.
async fn has_checkpoint(shard: &Rc<Shard>, dir: LogDirIndex) -> bool {
    let store = shard.stores.get(dir);
    match write_checkpoint(shard, store).await {
        Ok(()) => true,
        Err(_) if store.is_offline() => true,
        Err(error) if is_full_disk(&error) => {
            let directory = store.path.display();
            tracing::warn!(%directory, %error, "no space for a checkpoint of partitions that move");
            false
        }
        Err(error) => {
            store.fail(&format!("writing the checkpoint: {error}"));
            true
        }
    }
}

/// `None`: there is no space to open it.
async fn take_over(shard: &Rc<Shard>, handed: HandedOver) -> Option<TopicPartition> {
    let HandedOver { id, point, whole, damaged } = handed;
    if let Some(stated) = damaged {
        shard.replica_is_damaged(id, stated); // Before it follows anybody.
    }
    let store = home(shard, id).map(|dir| shard.stores.get(dir)).filter(|store| !store.is_offline());
    let (Some(store), Some(Whole { state, closed, high_watermark, sessions })) = (store, whole) else {
        shard.handed_over.borrow_mut().remove(&id);
        return Some(id);
    };
    let last = LastStop {
        points: point.map(|point| (id, point)).into_iter().collect(),
        states: BTreeMap::from([(id, state)]),
        closed: BTreeMap::from([(id, closed)]),
        clean: true,
        ..LastStop::default()
    };
    match open_one(shard, store, id, &last).await {
        Err(error) if error.is_for_want_of_space() => return None,
        Err(error) => {
            tracing::error!(%error, "a partition is offline");
            if error.is_damage() {
                shard.replica_damaged(id);
            }
        }
        Ok(()) => {}
    }
    shard.handed_over.borrow_mut().remove(&id);
    if let Some(replica) = shard.stores.find(&id) {
        shard.unavailable.borrow_mut().remove(&id); // Only now: a checkpoint has it from either.
        tracing::info!(directory = %replica.directory.display(), "a replica has come from another core");
        replica.replication.sessions.set(sessions);
        if !replica.replication.is_alone() {
            let mut log = replica.log.borrow_mut();
            let known = high_watermark.min(log.durable_end()).max(log.log_start());
            log.replicate_from(Some(known));
        }
        goes_on(shard, id);
    }
    Some(id)
}

/// It becomes what the metadata say.
fn goes_on(shard: &Rc<Shard>, id: TopicPartition) {
    take_role(shard, id);
    if shard.stores.find(&id).is_some_and(|replica| replica.replication.is_alone()) {
        groups::role_changed(shard, id);
        shard.transactions.role_changed(shard, id);
    }
}

fn home(shard: &Shard, id: TopicPartition) -> Option<LogDirIndex> {
    let image = shard.image.borrow();
    let replica = image.partition(id)?.replica_on(shard.node)?;
    shard.log_dirs.home(replica)
}
