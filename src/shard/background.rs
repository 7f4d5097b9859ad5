//! What a shard does on the side: checkpoints, retention, expiry of producers and idle connections.
//!
//! Runs in a task queue with few shares, so that it takes its turns behind the data path.

use crate::log::checkpoint::{Checkpoint, PartitionPoint};
use crate::log::commit::changes::CHANGES_PER_BLOCK;
use crate::log::data_dir::checkpoint_name;
use crate::log::journal::block::Entry;
use crate::metrics::{MemoryKind, ShardMetrics};
use crate::replication::leader::Event;
use crate::shard::Shard;
use crate::shard::compaction;
use crate::shard::conn::{CloseReason, Connection};
use crate::shard::disk::{is_full_disk, replace_file, unless_full};
use crate::shard::replica::Replica;
use crate::shard::response::{Untaken, untaken_too_long};
use crate::shard::step::{Pace, timed};
use crate::shard::store::Store;
use crate::shard::store::changes::Logged;
use crate::shard::walk::Walk;
use crate::types::limits::RESPONSE_SIZE_FLOOR;
use crate::types::{Mono, Offset, ProducerId, ShardId};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Between two checkpoints of a shard that is written to. What an unclean start scans does not
/// depend on it; without a journal, whether damage can be told from a torn tail does.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at idle connections.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at deleted files that are due; well below `file.delete.delay.ms` as it is used.
const REMOVAL_INTERVAL: Duration = Duration::from_millis(500);

/// Between two looks at clients that push no metrics any more.
const TELEMETRY_CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// Name of a shard's checkpoint in the data directory.
pub fn checkpoint_path(data_dir: &Path, shard: ShardId) -> PathBuf {
    data_dir.join(checkpoint_name(shard))
}

/// Starts the side work of a shard; it ends with the executor.
pub fn start(shard: &Rc<Shard>, queue: glommio::TaskQueueHandle) {
    spawn_every(shard, queue, shard.config.log_retention_check_interval, |shard| async move {
        retain(&shard).await;
    });
    spawn_every(shard, queue, CHECKPOINT_INTERVAL, |shard| async move {
        for store in shard.stores.iter() {
            let mut walk = Walk::new(store);
            while let Some(replica) = walk.next().await {
                replica.reads.ahead.drop_idle();
            }
            if store.is_offline() {
                continue; // Nothing is written to it any more.
            }
            keep_checkpoint(&shard, store).await;
        }
    });
    spawn_every(shard, queue, REMOVAL_INTERVAL, |shard| async move {
        for store in shard.stores.iter() {
            store.remove_due().await;
        }
    });
    compaction::start(shard);
    spawn_every(shard, queue, shard.config.producer_id_expiration_check_interval, |shard| async move {
        expire_producers(&shard).await;
    });
    spawn_every(shard, queue, TELEMETRY_CHECK_INTERVAL, |shard| async move {
        shard.expire_telemetry().await;
    });
    let idle_max = shard.config.connections_max_idle;
    let interval = IDLE_CHECK_INTERVAL.min(idle_max.unwrap_or(IDLE_CHECK_INTERVAL));
    spawn_every(shard, queue, interval, move |shard| async move {
        if let Some(idle_max) = idle_max {
            close_idle(&shard, idle_max);
        }
        close_untaken(&shard, shard.clock.mono());
    });
}

fn spawn_every<F: Future<Output = ()> + 'static>(
    shard: &Rc<Shard>,
    queue: glommio::TaskQueueHandle,
    interval: Duration,
    work: impl Fn(Rc<Shard>) -> F + 'static,
) {
    let working = shard.clone();
    let looped = async move {
        loop {
            glommio::timer::sleep(interval).await;
            if working.is_stopping() {
                return;
            }
            work(working.clone()).await;
        }
    };
    let looped = timed(&shard.clock, &shard.metrics, looped);
    glommio::spawn_local_into(looped, queue).expect("the queue was just made").detach();
}

fn close_idle(shard: &Shard, idle_max: Duration) {
    let now = shard.clock.mono();
    for connection in shard.connections() {
        if connection.idle_since().is_some_and(|since| now.since(since) >= idle_max) {
            connection.close(&CloseReason::Idle);
        }
    }
}

/// While memory for answers is short, or they keep the tail short, those that nobody takes cost their own
/// connection.
pub fn close_untaken(shard: &Shard, now: Mono) {
    let excess = shard.response_memory.excess();
    hurry_before_answers(shard, excess, Connection::response_bytes);
    let excess = shard.answers_short.lasting(excess, now);
    close_most_untaken(shard, excess, now, Connection::response_bytes, |Untaken { held, waited }| {
        CloseReason::HoldsAnswers { held, waited }
    });
    let tail = shard.stores.for_reading();
    let unstored: u64 = shard.stores.iter().map(|store| store.unstored_bytes()).sum();
    let waits_for_disk = unstored > tail.tail_memory.limit() as u64 / 2;
    let excess = if waits_for_disk { 0 } else { tail.eviction.excess(&tail.tail_memory) };
    hurry_before_answers(shard, excess, Connection::pinned_tail);
    let excess = shard.tail_short.lasting(excess, now);
    close_most_untaken(shard, excess, now, Connection::pinned_tail, |Untaken { held, waited }| {
        CloseReason::HoldsTail { held, waited }
    });
}

/// A fetch that waits for data keeps the answers behind it, which it is not the client's turn to take.
fn hurry_before_answers(shard: &Shard, excess: usize, held: fn(&Connection) -> usize) {
    if excess > 0 {
        let connections = shard.connections();
        let holding = connections.iter().filter(|connection| held(connection) > RESPONSE_SIZE_FLOOR);
        holding.for_each(|connection| connection.hurry_fetches());
    }
}

fn close_most_untaken(
    shard: &Shard,
    excess: usize,
    now: Mono,
    held: fn(&Connection) -> usize,
    reason: fn(Untaken) -> CloseReason,
) {
    if excess == 0 {
        return;
    }
    let connections = shard.connections();
    let untaken = connections.iter().map(|connection| Untaken {
        held: held(connection),
        waited: connection.idle_since().map_or(Duration::ZERO, |since| now.since(since)),
    });
    let untaken: Vec<Untaken> = untaken.collect();
    for at in untaken_too_long(&untaken, excess) {
        connections[at].close(&reason(untaken[at]));
    }
}

async fn expire_producers(shard: &Rc<Shard>) {
    let idle_max = shard.settings().producer_id_expiration;
    let mut pace = Pace::new(&shard.clock);
    for store in shard.stores.iter() {
        let mut walk = Walk::new(store);
        while let Some(replica) = walk.next().await {
            let mut next = Some(ProducerId(0));
            while let Some(from) = next {
                next = replica.log.borrow_mut().producers.expire(from, shard.clock.wall(), idle_max);
                pace.give_way().await;
            }
        }
    }
}

/// A log that is to begin later.
struct Due {
    replica: Rc<Replica>,
    log_start: Offset,
}

/// Applies `retention.ms` and `retention.bytes` to every partition. The new log starts are made durable
/// together, as many as the journal takes in one block.
pub async fn retain(shard: &Rc<Shard>) {
    for store in shard.stores.iter() {
        let mut due = Vec::new();
        let mut walk = Walk::new(store);
        while let Some(replica) = walk.next().await {
            if store.is_offline() {
                break;
            }
            due.extend(look_for_due(shard, store, replica).await);
            if due.len() == CHANGES_PER_BLOCK {
                advance_log_starts(shard, store, std::mem::take(&mut due)).await;
            }
        }
        if !due.is_empty() {
            advance_log_starts(shard, store, due).await;
        }
    }
}

/// Decides what of a log goes, and rolls the active segment if it is to go.
async fn look_for_due(shard: &Rc<Shard>, store: &Rc<Store>, replica: Rc<Replica>) -> Option<Due> {
    // Whoever follows begins where its leader does.
    let decides = || replica.replication.is_leader() || replica.replication.is_alone();
    if replica.log.borrow().config.retention_ms.is_some() {
        replica.index_all(store).await;
    }
    if !decides() {
        return None;
    }
    let mut due = replica.retention_plan(store, shard.clock.wall()).await;
    let is_followed = replica.replication.is_leader();
    let goes_on = decides() && !replica.is_deleted() && !store.is_offline() && !store.is_closed();
    if due.delete.is_empty() || !goes_on {
        return None;
    }
    let rolled = if due.roll_active { replica.try_roll(store) } else { None };
    if due.roll_active && rolled.is_none() {
        // The spare is being prepared, or a write is in flight: the closed ones go now, the active
        // one next time.
        due.delete.pop();
        due.log_start = due.log_start.min(replica.log.borrow().active().base_offset);
    }
    for (segment, reason) in &due.delete {
        tracing::info!(directory = %replica.directory.display(), %segment, ?reason, "retention deletes a segment");
    }
    if let Some(segment) = rolled
        && let Err(error) = replica.finish_rolls(store, segment).await
    {
        store.fail(&format!("rolling {}: {error}", replica.directory.display()));
        return None;
    }
    if is_followed {
        replica.lead(Event::LogStartWanted { log_start: due.log_start });
        return None;
    }
    Some(Due { replica, log_start: due.log_start })
}

/// The log starts are durable before the files go, so that they never move back. On a full disk the files
/// go all the same: nothing else makes room, and the log starts with the oldest that is left.
async fn advance_log_starts(shard: &Rc<Shard>, store: &Rc<Store>, mut due: Vec<Due>) {
    if store.is_closed() {
        return; // The final state has the log start as it is; a clean start looks for no other.
    }
    due.retain(|Due { replica, .. }| !replica.is_deleted());
    let decide = |Due { replica, log_start }: &Due| replica.decide_log_start(*log_start);
    let changes: Vec<Entry> = due.iter().map(decide).collect();
    for Due { replica, .. } in &due {
        if !replica.log.borrow().is_flushed_below(replica.log_start_decided()) {
            store.write_out(replica.slot).await;
        }
    }
    // Of one that has left meanwhile the journal has said the last.
    let is_here = |(Due { replica, .. }, _): &(&Due, Entry)| !replica.is_deleted();
    let changes = due.iter().zip(changes).filter(is_here).map(|(_, change)| change).collect();
    let durable = match store.log_changes(changes).await {
        Logged::Flushed => Ok(()),
        Logged::NoJournal => write_checkpoint(shard, store).await,
        Logged::Failed => return,
    };
    match durable {
        Err(error) if is_full_disk(&error) => {
            tracing::warn!(%error, "no space for the checkpoint; segments are deleted without it");
        }
        Err(error) => return store.fail(&format!("writing the checkpoint: {error}")),
        Ok(()) => {}
    }
    for Due { replica, log_start } in due {
        replica.log.borrow_mut().advance_log_start(log_start);
        drop_segments(store, &replica).await;
    }
}

/// Removes the segments that lie wholly below the log start.
pub async fn drop_segments(store: &Store, replica: &Rc<Replica>) {
    let Ok(_turn) = replica.replacing.acquire_permit(1).await else { return };
    let dropped = replica.log.borrow_mut().drop_final_segments(replica.segments.written());
    if dropped.is_empty() {
        return;
    }
    replica.reads.forget();
    let first = replica.log.borrow().closed().front().map(|segment| segment.base_offset);
    let first = first.unwrap_or(replica.log.borrow().active().base_offset);
    replica.drop_tail_before(store, first);
    let bases: Vec<Offset> = dropped.iter().map(|segment| segment.base_offset).collect();
    bases.iter().for_each(|base| replica.reads.checksums.written(*base)); // A swap without its name yet.
    if let Err(error) = replica.remove_segments(store, bases, first).await {
        store.fail(&format!("removing segments of {}: {error}", replica.directory.display()));
    }
}

/// Writes the next checkpoint; without space, later. Any other failure is final, also of a flush of its name:
/// what a journal has of log starts is let go once a checkpoint has them.
pub async fn keep_checkpoint(shard: &Rc<Shard>, store: &Rc<Store>) {
    match unless_full(write_checkpoint(shard, store).await) {
        Ok(None) => {}
        Ok(Some(error)) => {
            let directory = store.path.display();
            tracing::warn!(%directory, %error, "no space for the checkpoint; it is tried again, and a start before that scans more");
        }
        Err(error) => store.fail(&format!("writing the checkpoint: {error}")),
    }
}

/// Writes down how far each partition of a log directory is flushed. Not of one that is offline: whoever waited
/// for a flush there waited in vain, and a log start that was not reached would be taken for one that was.
pub async fn write_checkpoint(shard: &Rc<Shard>, store: &Rc<Store>) -> io::Result<()> {
    // What is written later is read later: a log start never moves back on disk.
    let _turn = store.checkpoint_turn.acquire_permit(1).await?;
    if store.is_offline() {
        return Err(io::Error::other("the log directory is offline"));
    }
    store.state_flushed();
    let seen = store.changes_seen();
    let mut has_log_starts = true;
    // Taken first and last: one that is opened, or closed, while the walk goes on is in at least one of the three.
    let mut unavailable = shard.unavailable.borrow().clone();
    let mut points = Vec::with_capacity(store.replica_count());
    let mut walk = Walk::new(store);
    while let Some(replica) = walk.next().await {
        let point = PartitionPoint::of(&replica.log.borrow(), replica.log_start_decided());
        if point.log_start < replica.log_start_decided() {
            has_log_starts = false; // The next one has it: a point does not begin behind its end.
            store.request_write_out(replica.slot);
        }
        points.push((replica.id, point));
    }
    unavailable.extend(shard.unavailable.borrow().iter().map(|(id, unavailable)| (*id, *unavailable)));
    let generation = store.next_checkpoint_generation();
    let (shard_id, dir) = (shard.id, store.dir);
    let path = checkpoint_path(&store.path, shard.id);
    let write = move || {
        let here = unavailable.into_iter().filter(|(_, unavailable)| unavailable.dir == Some(dir));
        let of_unavailable = here.filter_map(|(id, unavailable)| Some((id, unavailable.point?)));
        let points: BTreeMap<_, _> = of_unavailable.chain(points).collect();
        let bytes = Checkpoint { shard: shard_id, generation, points }.encode();
        replace_file(&path, &bytes)
    };
    store.side_thread.run(write).await?;
    if let Some(seen) = seen.filter(|_| has_log_starts) {
        store.checkpointed(seen);
    }
    Ok(())
}

impl Shard {
    /// Reads the gauges that are not kept as counters.
    pub fn fill_gauges(&self, metrics: &mut ShardMetrics) {
        let shared = self.stores.for_reading(); // The same memory in all of them.
        metrics.connections_open = self.connection_count() as u64;
        metrics.fetches_parked = self.parked_fetches.get() as u64;
        metrics.catch_up_waiting = shared.catch_up.waiting_count() as u64;
        metrics.partitions = self.stores.replica_count() as u64;
        metrics.groups = self.groups.group_count() as u64;
        metrics.transactional_ids = self.transactions.count() as u64;
        metrics.dma_buffer_fallbacks = shared.tail_memory.heap_buffers();
        metrics.memory_budget_bytes = self.config.memory_bytes_per_shard();
        metrics.memory_set(MemoryKind::Receive, self.receive_memory.used());
        metrics.memory_set(MemoryKind::Tail, shared.tail_memory.used());
        metrics.memory_set(MemoryKind::ReadAhead, shared.catch_up.used());
        metrics.memory_set(MemoryKind::Mesh, self.forward_memory.used());
        metrics.memory_set(MemoryKind::Requests, self.request_memory.used());
        metrics.memory_set(MemoryKind::Response, self.response_memory.used());
    }
}
