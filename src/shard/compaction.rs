//! Compacts the logs of a shard, the dirtiest first (Kafka `LogCleaner`). What stays is decided in
//! `log::compaction`; here it is read, written and put in place.
//!
//! Runs in a task queue of its own with few shares, a batch at a time. A large batch is decompressed
//! on the side thread, so that no step holds the core for long.
//!
//! | what goes wrong | what follows |
//! |---|---|
//! | a segment cannot be read, or a batch in it is damaged | that partition is not compacted any more, and says so |
//! | no space for the compacted segment | it is given up; tried again after `log.cleaner.backoff.ms`, the other logs meanwhile |
//! | no space for its name, once it is the log's | it is read under the name it has, and gets its own after that time |
//! | another write, a flush or a rename fails | the log directory goes offline |
//! | retention or a deletion takes what is being compacted | it is given up |

mod files;
mod pass;
pub mod swap;

use crate::log::compaction::checkpoint::{CLEANER_CHECKPOINT_FILE, decode, encode};
use crate::log::compaction::pace::Pace;
use crate::log::compaction::plan::{Cleanable, CompactionLimits};
use crate::log::read::Rope;
use crate::metrics::ShardMetrics;
use crate::shard::Shard;
use crate::shard::catch_up::{Hold, Reading};
use crate::shard::clock::Clock;
use crate::shard::compaction::pass::{Failed, PassDone};
use crate::shard::disk::{blocking, replace_file};
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::step::{self, timed};
use crate::shard::store::Store;
use crate::shard::walk::Walk;
use crate::types::limits::{OFFSET_MAP_SIZE_MAX, OFFSET_MAP_SIZE_MIN};
use crate::types::{Offset, Timestamp, TopicPartition};
use glommio::{Latency, Shares};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// One part of so many of a shard's memory budget may go to the map of keys.
const MAP_MEMORY_SHARE: usize = 16;

/// A shard's part of the broker's settings.
#[derive(Clone, Copy, Debug)]
pub struct CleanerSettings {
    /// Bytes of the map of keys.
    pub map_size_max: usize,
    /// `None`: no limit.
    pub bytes_per_second: Option<u64>,
}

impl CleanerSettings {
    fn of(shard: &Shard) -> CleanerSettings {
        let config = shard.settings();
        let memory_max = config.memory_bytes_per_shard() as usize / MAP_MEMORY_SHARE;
        let wanted = config.log_cleaner_dedupe_buffer_size / config.cores;
        let bytes_per_second =
            config.log_cleaner_io_max_bytes_per_second.map(|bytes| (bytes / config.cores as u64).max(1));
        let map_size_max = wanted.min(memory_max).clamp(OFFSET_MAP_SIZE_MIN, OFFSET_MAP_SIZE_MAX);
        CleanerSettings { map_size_max, bytes_per_second }
    }
}

/// Starts compaction; it ends with the executor.
pub fn start(shard: &Rc<Shard>) {
    if !shard.config.log_cleaner_enable {
        return;
    }
    let queue =
        glommio::executor().create_task_queue(Shares::Static(20), Latency::NotImportant, "compaction");
    let stores: Vec<Rc<Store>> = shard.stores.iter().cloned().collect();
    let cleaner = Cleaner::new(stores, CleanerSettings::of(shard));
    let running = shard.clone();
    let looped = async move {
        loop {
            glommio::timer::sleep(running.settings().log_cleaner_backoff).await;
            cleaner.set(CleanerSettings::of(&running));
            cleaner.clean_all(|| !running.is_stopping()).await;
            if running.is_stopping() {
                return;
            }
        }
    };
    let looped = timed(&shard.clock, &shard.metrics, looped);
    glommio::spawn_local_into(looped, queue).expect("the queue was just made").detach();
}

/// Lives: one per shard, for all its log directories.
pub struct Cleaner {
    stores: Vec<Rc<Store>>,
    clock: Clock,
    metrics: Rc<RefCell<ShardMetrics>>,
    settings: Cell<CleanerSettings>,
    pace: RefCell<Pace>,
    /// What was written down of each partition: its first dirty offset.
    checkpoints: RefCell<BTreeMap<TopicPartition, Option<Offset>>>,
    /// Partitions that cannot be read.
    uncleanable: RefCell<BTreeSet<TopicPartition>>,
}

/// A log that is worth a pass.
struct Dirty {
    replica: Rc<Replica>,
    cleanable: Cleanable,
    limits: CompactionLimits,
}

impl Cleaner {
    /// `stores`: those of a shard, in the order of their directories.
    pub fn new(stores: Vec<Rc<Store>>, settings: CleanerSettings) -> Cleaner {
        Cleaner {
            clock: stores[0].clock.clone(),
            metrics: stores[0].metrics.clone(),
            stores,
            settings: Cell::new(settings),
            pace: RefCell::new(Pace::new(settings.bytes_per_second)),
            checkpoints: RefCell::default(),
            uncleanable: RefCell::default(),
        }
    }

    /// The settings have changed: from the next pass on.
    fn set(&self, settings: CleanerSettings) {
        self.settings.set(settings);
        self.pace.borrow_mut().set_rate(settings.bytes_per_second);
    }

    fn store(&self, replica: &Replica) -> &Rc<Store> {
        &self.stores[replica.dir.index()]
    }

    /// Passes over the logs that are due, the dirtiest first, while `goes_on`. One that does not get on
    /// waits for the next round: the others do not wait for it.
    pub async fn clean_all(&self, goes_on: impl Fn() -> bool) {
        let mut passed_over = BTreeSet::new();
        self.finish_swaps(&mut passed_over).await;
        while goes_on() {
            let Some(dirty) = self.dirtiest(&passed_over).await else { return };
            if !self.clean(&dirty).await {
                passed_over.insert(dirty.replica.id);
            }
        }
    }

    /// One pass over the dirtiest log that is due. Whether there was one, and it got on.
    #[cfg(test)]
    pub async fn clean_dirtiest(&self) -> bool {
        match self.dirtiest(&BTreeSet::new()).await {
            Some(dirty) => self.clean(&dirty).await,
            None => false,
        }
    }

    /// Compacted segments that found no space for their names get them. `unfinished`: those that still do
    /// not.
    async fn finish_swaps(&self, unfinished: &mut BTreeSet<TopicPartition>) {
        for store in &self.stores {
            let mut walk = Walk::new(store);
            while let Some(replica) = walk.next().await {
                if replica.segments.unfinished_swap().is_none() || store.is_offline() {
                    continue;
                }
                if let Err(failed) = self.finish_swap(&replica).await {
                    self.failed(&replica, failed);
                    unfinished.insert(replica.id);
                }
            }
        }
    }

    /// One pass. Whether it got on.
    async fn clean(&self, dirty: &Dirty) -> bool {
        let directory = dirty.replica.directory.display().to_string();
        match self.pass(dirty).await {
            Ok(done) => {
                tracing::info!(
                    directory, first_dirty = %done.first_dirty, bytes_in = done.counts.bytes_read,
                    bytes_out = done.counts.bytes_kept, "a log was compacted"
                );
                self.count(&done);
                self.write_checkpoint(&dirty.replica, done.first_dirty).await
                    && done.first_dirty > dirty.cleanable.first_dirty
            }
            Err(failed) => {
                self.failed(&dirty.replica, failed);
                false
            }
        }
    }

    fn failed(&self, replica: &Rc<Replica>, failed: Failed) {
        let directory = replica.directory.display().to_string();
        match failed {
            Failed::Superseded => {}
            Failed::NoSpace(error) => {
                tracing::warn!(directory, %error, "no space for a compacted segment; it is tried again");
            }
            Failed::Unreadable { .. } | Failed::DoesNotFit { .. } => {
                tracing::error!(directory, error = %failed, "a log cannot be compacted: it stays as it is");
                let mut uncleanable = self.uncleanable.borrow_mut();
                uncleanable.insert(replica.id);
                self.metrics.borrow_mut().partitions_uncleanable = uncleanable.len() as u64;
            }
            Failed::Disk(error) => {
                self.store(replica).fail(&format!("compacting {directory}: {error}"));
            }
        }
    }

    /// Looks at every compacted log but those that were passed over.
    async fn dirtiest(&self, passed_over: &BTreeSet<TopicPartition>) -> Option<Dirty> {
        self.forget_gone().await;
        let mut dirtiest: Option<Dirty> = None;
        let mut dirty_ppm_max = 0;
        for store in &self.stores {
            let mut walk = Walk::new(store);
            while let Some(replica) = walk.next().await {
                let Some(limits) = replica.log.borrow().config.cleanup.compact else { continue };
                let is_passed_over =
                    passed_over.contains(&replica.id) || self.uncleanable.borrow().contains(&replica.id);
                if store.is_offline() || is_passed_over {
                    continue;
                }
                let checkpoint = self.checkpoint(&replica).await;
                if limits.max_lag_ms < i64::MAX {
                    self.note_first_timestamps(&replica).await;
                }
                let now = self.clock.wall();
                let written = replica.segments.written();
                let cleanable = Cleanable::of(&replica.log.borrow(), checkpoint, written, &limits, now);
                dirty_ppm_max = dirty_ppm_max.max(cleanable.dirty_ppm());
                let is_dirtier =
                    dirtiest.as_ref().is_none_or(|most| most.cleanable.dirty_ppm() < cleanable.dirty_ppm());
                if cleanable.is_due(&limits) && is_dirtier {
                    dirtiest = Some(Dirty { replica, cleanable, limits });
                }
            }
        }
        self.metrics.borrow_mut().compaction_dirty_percent_max = u64::from(dirty_ppm_max / 10_000);
        let takes_changes = |store: &Rc<Store>| !store.is_offline() && !store.is_closed();
        dirtiest.filter(|dirty| takes_changes(self.store(&dirty.replica)))
    }

    /// Of partitions that were deleted nothing is kept.
    async fn forget_gone(&self) {
        let known: Vec<TopicPartition> = {
            let (checkpoints, uncleanable) = (self.checkpoints.borrow(), self.uncleanable.borrow());
            checkpoints.keys().chain(uncleanable.iter()).copied().collect()
        };
        let mut pace = step::Pace::new(&self.clock);
        for id in known {
            if self.stores.iter().all(|store| store.find(&id).is_none()) {
                self.checkpoints.borrow_mut().remove(&id);
                self.uncleanable.borrow_mut().remove(&id);
            }
            pace.give_way().await;
        }
    }

    /// What was written down of a partition, read once.
    async fn checkpoint(&self, replica: &Replica) -> Option<Offset> {
        if let Some(known) = self.checkpoints.borrow().get(&replica.id) {
            return *known;
        }
        let path = replica.directory.join(CLEANER_CHECKPOINT_FILE);
        let text = blocking(move || std::fs::read_to_string(path)).await;
        let read = text.ok().and_then(|text| decode(&text, &replica.topic_name, replica.id.partition));
        self.checkpoints.borrow_mut().insert(replica.id, read);
        read
    }

    /// Whether the partition is still there; without it, the next start compacts once more what is clean.
    async fn write_checkpoint(&self, replica: &Rc<Replica>, first_dirty: Offset) -> bool {
        self.checkpoints.borrow_mut().insert(replica.id, Some(first_dirty));
        let Some(_names) = replica.hold_names() else { return false };
        let text = encode(&replica.topic_name, replica.id.partition, first_dirty);
        let path = replica.directory.join(CLEANER_CHECKPOINT_FILE);
        let written = self.store(replica).side_thread.run(move || replace_file(&path, text.as_bytes())).await;
        self.store(replica).derived_written(
            &replica.directory,
            written,
            "no space for the cleaner checkpoint",
        );
        true
    }

    /// `max.compaction.lag.ms` counts from the first batch of a segment, which a start does not read.
    async fn note_first_timestamps(&self, replica: &Rc<Replica>) {
        let unknown: Vec<Offset> = {
            let log = replica.log.borrow();
            let unknown = log.closed().iter().filter(|segment| segment.first_timestamp.is_none());
            unknown.map(|segment| segment.base_offset).collect()
        };
        let mut pace = step::Pace::new(&self.clock);
        for segment in unknown {
            pace.give_way().await;
            let first = self.first_timestamp(replica, segment).await;
            // Without a timestamp it is never overdue, as in Kafka.
            let first = first.ok().flatten().unwrap_or(Timestamp(0));
            replica.log.borrow_mut().note_first_timestamp(segment, first);
        }
    }

    async fn first_timestamp(
        &self,
        replica: &Rc<Replica>,
        segment: Offset,
    ) -> Result<Option<Timestamp>, ReadFailed> {
        let mut hold = Hold::new(&Reading::own(self.store(replica)));
        let first = replica.verified(&mut hold, segment, 0, 0, u64::MAX).await?;
        let pieces: Vec<&[u8]> = first.slices.iter().map(Slice::bytes).collect();
        Ok(Rope::new(&pieces).batches(0).next().map(|batch| batch.max_timestamp))
    }

    fn count(&self, done: &PassDone) {
        let mut metrics = self.metrics.borrow_mut();
        metrics.compactions += 1;
        metrics.compacted_bytes_in += done.counts.bytes_read;
        metrics.compacted_bytes_out += done.counts.bytes_kept;
        metrics.compacted_records_removed += done.counts.records_read - done.counts.records_kept;
    }

    /// Waits until the disk budget has paid for what was read or written.
    async fn pay(&self, bytes: u64) {
        let wait = self.pace.borrow_mut().spend(bytes, self.clock.mono());
        if !wait.is_zero() {
            glommio::timer::sleep(wait).await;
        }
    }
}
