//! Partitions of this shard come, change and go as the metadata says.
//!
//! A directory belongs to a topic id, written in its `partition.metadata` (Kafka
//! `PartitionMetadataFile`): what a deleted topic left behind is never opened as the log of a new one
//! that has its name.

use crate::cluster::image::Image;
use crate::cluster::record::{ConfigResource, PartitionState as PartitionStateRecord, Record};
use crate::config::TimestampType;
use crate::config::topic::{TopicConfig, TopicDefaults};
use crate::log::checkpoint::PartitionPoint;
use crate::log::compaction::plan::CompactionLimits;
use crate::log::durability::Durability;
use crate::log::final_state::PartitionState;
use crate::log::ownership::{Claim, claim};
use crate::log::partition::{Cleanup, LogConfig};
use crate::log::plan::SyncFs;
use crate::log::recompression::StoredCompression;
use crate::log::segment::{SegmentInfo, directory_name, stray_directory_name};
use crate::metrics::recovery::{RecoveryBranch, RecoveryCounts};
use crate::replication::leader::Event;
use crate::shard::disk::{DiskFile, blocking, is_full_disk};
use crate::shard::journal_replay::Replayed;
use crate::shard::open::{OpenFailed, OpenRequest, read};
use crate::shard::replica::Replica;
use crate::shard::segments::NO_SPACE_RETRY;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::shard::survey::{
    Listing, Survey, Wanted, list, read_metadata_file, survey, take_directories, take_directory,
};
use crate::shard::{Shard, Unavailable, groups, replication};
use crate::types::{LogDirIndex, ShardId, TopicId, TopicPartition, uuid_text};
use futures::future::join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

mod deletion;

pub use deletion::{Held, Removals, move_away, remove_orphans};

/// Partitions whose directories are looked at, made and flushed together: what a hop to the helper
/// thread and a flush cost is shared by so many. Some kilobytes each meanwhile.
const OPEN_BATCH: usize = 256;

/// Such batches under way at a start, so that one uses the rings while another uses the helper thread.
const OPEN_BATCHES: usize = 2;

/// The same while the shard serves: a producer's flush waits for the file system to be done with the
/// directories that were made before it.
const CREATE_BATCH: usize = 16;

/// Partitions of a batch whose files are read side by side.
const OPEN_CONCURRENCY: usize = 32;

/// What the last run left behind for a start.
#[derive(Clone, Debug, Default)]
pub struct LastStop {
    pub points: BTreeMap<TopicPartition, PartitionPoint>,
    /// The shards whose checkpoints name a partition: more than one where it was on its way between them.
    pub checkpointed_by: BTreeMap<TopicPartition, BTreeSet<ShardId>>,
    pub clean: bool,
    /// Of the partitions that a clean stop has left no files of.
    pub states: BTreeMap<TopicPartition, PartitionState>,
    /// The closed segments of those that another shard has let go; of others their files say it.
    pub closed: BTreeMap<TopicPartition, Vec<SegmentInfo>>,
    pub journal: Replayed,
    /// What was put right or refused before any shard ran.
    pub recovery: RecoveryCounts,
}

impl LastStop {
    /// Nothing is expected of other partitions.
    pub fn retain(&mut self, is_kept: impl Fn(&TopicPartition) -> bool) {
        self.points.retain(|id, _| is_kept(id));
        self.states.retain(|id, _| is_kept(id));
        self.journal.ends.retain(|id, _| is_kept(id));
        self.journal.corrupt.retain(|id| is_kept(id));
    }
}

/// Opens every partition of this shard, those of all log directories side by side. Those that fail are
/// unavailable, the others go on. `last`: in the order of the directories.
pub async fn open_all(shard: &Rc<Shard>, last: &[&LastStop]) {
    let owned: Vec<TopicPartition> = {
        let image = shard.image.borrow();
        let owned = image.partitions().filter(|(_, state)| {
            state.replica_on(shard.node).is_some_and(|replica| replica.owner == shard.id)
        });
        owned.map(|(id, _)| id).collect()
    };
    let size = BatchSize { partitions: OPEN_BATCH, side_by_side: OPEN_BATCHES, gives_way: false };
    let by_dir =
        by_directory(shard, owned.iter().copied(), |dir, id| last[dir.index()].points.get(id).copied());
    let opened = by_dir.into_iter().map(|(dir, ids)| open_some(shard, dir, ids, last[dir.index()], size));
    join_all(opened).await;
    replication::take_roles(shard, owned);
    count(shard);
}

/// Partitions by the log directory that has them. Those of one that cannot be used are unavailable: they
/// are never made anew elsewhere. `point_of`: what the last checkpoint says.
fn by_directory(
    shard: &Shard,
    ids: impl IntoIterator<Item = TopicPartition>,
    point_of: impl Fn(LogDirIndex, &TopicPartition) -> Option<PartitionPoint>,
) -> BTreeMap<LogDirIndex, Vec<TopicPartition>> {
    let image = shard.image.borrow();
    let mut by_dir: BTreeMap<LogDirIndex, Vec<TopicPartition>> = BTreeMap::new();
    for id in ids {
        let replica = image.partition(id).and_then(|state| state.replica_on(shard.node));
        let Some(replica) = replica else { continue }; // Deleted meanwhile.
        let dir = shard.log_dirs.home(replica);
        let elsewhere = shard.log_dirs.misplaced(&id);
        if let Some(path) = elsewhere {
            let name = image.topic(id.topic).map(|topic| directory_name(&topic.name, id.partition));
            tracing::error!(
                found = %path.join(name.unwrap_or_default()).display(), directory_id = ?replica.directory,
                "a partition is offline: it lies in another log directory than the metadata say; move it back"
            );
        }
        match dir.filter(|dir| elsewhere.is_none() && !shard.stores.get(*dir).is_offline()) {
            Some(dir) => by_dir.entry(dir).or_default().push(id),
            None => {
                let point = dir.and_then(|dir| point_of(dir, &id));
                shard.unavailable.borrow_mut().insert(id, Unavailable { dir, point });
            }
        }
    }
    by_dir
}

/// How many partitions are opened together, and how often at a time.
#[derive(Clone, Copy)]
struct BatchSize {
    partitions: usize,
    side_by_side: usize,
    /// The disk is left to producers for as long as each batch took.
    gives_way: bool,
}

/// Opens partitions of one log directory side by side; those that found no space are tried again until
/// there is some.
async fn open_some(
    shard: &Rc<Shard>,
    dir: LogDirIndex,
    ids: Vec<TopicPartition>,
    last: &LastStop,
    size: BatchSize,
) {
    let store = shard.stores.get(dir);
    let batches = ids.chunks(size.partitions).map(|ids| async move {
        let begun = shard.clock.mono();
        let opened = open_batch(shard, store, ids, last).await;
        if size.gives_way {
            glommio::timer::sleep(shard.clock.mono().since(begun)).await;
        }
        opened
    });
    let opened: Vec<Opened> = stream::iter(batches).buffer_unordered(size.side_by_side).concat().await;
    let mut waiting = Vec::new();
    for (id, opened) in opened {
        let Err(error) = opened else { continue };
        let waits = error.is_for_want_of_space();
        tracing::error!(%error, waits, "a partition is offline");
        let point = last.points.get(&id).copied();
        shard.unavailable.borrow_mut().insert(id, Unavailable { dir: Some(dir), point });
        if error.is_damage() {
            shard.replica_damaged(id);
        }
        waiting.extend(waits.then_some(id));
    }
    if !waiting.is_empty() {
        let points = waiting.iter().filter_map(|id| Some((*id, *last.points.get(id)?))).collect();
        let last =
            LastStop { points, clean: last.clean, journal: last.journal.clone(), ..LastStop::default() };
        shard.spawn(open_once_there_is_space(shard.clone(), dir, waiting, last));
    }
}

type Opened = (TopicPartition, Result<(), OpenFailed>);

/// Opens partitions whose directories are looked at, made and flushed together.
async fn open_batch(
    shard: &Rc<Shard>,
    store: &Rc<Store>,
    ids: &[TopicPartition],
    last: &LastStop,
) -> Vec<Opened> {
    let requests = open_requests(shard, store, ids, last);
    let all: Vec<Wanted> = requests.iter().map(Wanted::of).collect();
    let mut surveys = blocking(move || survey(&all)).await;
    let free = requests.iter().zip(&surveys).filter(|(_, survey)| matches!(survey, Ok(Survey::Free)));
    let free: Vec<Wanted> = free.map(|(request, _)| Wanted::of(request)).collect();
    let sync_fs = store.disk.sync_fs();
    // Where it fails they are tried one by one: the disk may be full for some of them.
    if let Ok(taken) = blocking(move || take_directories(&free, sync_fs)).await {
        let free = surveys.iter_mut().filter(|survey| matches!(survey, Ok(Survey::Free)));
        free.zip(taken).for_each(|(survey, listing)| *survey = Ok(Survey::Owned(listing)));
    }
    let read = requests.into_iter().zip(surveys).map(|(request, survey)| async move {
        let (id, directory) = (request.id, request.directory.clone());
        let listing = match survey {
            Ok(Survey::Owned(listing)) => Ok(listing),
            Ok(Survey::Free | Survey::Claimed) => claim_listing(shard, &request, sync_fs).await,
            Err(source) => Err(OpenFailed::listing(directory.clone(), source)),
        };
        match &listing {
            Err(OpenFailed::Foreign { .. }) => store.recovered(RecoveryBranch::DirectoryForeign),
            Err(OpenFailed::Corrupt { .. }) => store.recovered(RecoveryBranch::SegmentDamaged),
            _ => {}
        }
        let opening = match listing {
            Ok(_) if last.journal.corrupt.contains(&id) => {
                store.recovered(RecoveryBranch::JournalPartitionOffline);
                Err(OpenFailed::JournalCorrupt { directory: directory.clone() })
            }
            Ok(listing) => read(store, request, listing).await,
            Err(error) => Err(error),
        };
        (id, directory, opening)
    });
    let read: Vec<_> = stream::iter(read).buffer_unordered(OPEN_CONCURRENCY).collect().await;
    let files = read.iter().filter_map(|(_, _, opening)| opening.as_ref().ok()?.unflushed.clone());
    let flushed = flush_together(store, files.collect()).await;
    if let Err(error) = &flushed
        && !is_full_disk(error)
    {
        store.fail(&format!("flushing what a start has found: {error}"));
    }
    let mut pace = Pace::new(&shard.clock);
    let mut opened = Vec::with_capacity(read.len());
    for (id, directory, opening) in read {
        pace.give_way().await;
        let opening = opening.and_then(|opening| match &flushed {
            Err(error) if opening.unflushed.is_some() => {
                let source = io::Error::new(error.kind(), error.to_string());
                Err(OpenFailed::Disk { directory, source })
            }
            _ => Ok(opening.replica),
        });
        opened.push((id, opening.map(|replica| serve(shard, store, replica))));
    }
    opened
}

/// From here on the replica is found.
fn serve(shard: &Rc<Shard>, store: &Store, replica: Rc<Replica>) {
    // It may have changed while the log was read.
    if let Some(state) = shard.image.borrow().partition(replica.id) {
        replica.log.borrow_mut().begin_epoch(state.leader_epoch);
    }
    let weak = Rc::downgrade(shard);
    replica.on_remote_wake(Box::new(move |to, watch| {
        if let Some(shard) = weak.upgrade() {
            shard.post_wake(to, watch);
        }
    }));
    replication::opened(shard, &replica);
    store.insert(replica);
}

/// What a start has found in these files survives from here on.
async fn flush_together(store: &Store, files: Vec<Rc<DiskFile>>) -> io::Result<()> {
    match &files[..] {
        [file, _, ..] if store.disk.sync_fs() != SyncFs::Nothing => store.disk.sync_file_system(file).await,
        files => {
            let flushes = stream::iter(files.iter().map(|file| Ok(file.flush())));
            flushes.try_buffer_unordered(OPEN_CONCURRENCY).try_collect().await
        }
    }
}

/// What is found here, and what is not.
pub fn count(shard: &Shard) {
    let mut metrics = shard.metrics.borrow_mut();
    metrics.partitions = shard.stores.replica_count() as u64;
    metrics.partitions_offline = shard.unavailable.borrow().len() as u64;
}

/// Opens partitions that found no space once there is some.
pub async fn open_once_there_is_space(
    shard: Rc<Shard>,
    dir: LogDirIndex,
    mut waiting: Vec<TopicPartition>,
    last: LastStop,
) {
    let store = shard.stores.get(dir);
    let all = waiting.clone();
    while !waiting.is_empty() {
        wait_for_space(&shard, &all, &waiting);
        glommio::timer::sleep(NO_SPACE_RETRY).await;
        let Ok(_turn) = shard.changing_partitions.acquire_permit(1).await else { return };
        if shard.is_stopping() || store.is_offline() {
            return;
        }
        waiting.retain(|id| shard.unavailable.borrow().contains_key(id)); // Others were deleted.
        while let Some(id) = waiting.last().copied() {
            match open_one(&shard, store, id, &last).await {
                Err(error) if error.is_for_want_of_space() => break,
                Err(error) => {
                    tracing::error!(%error, "a partition is offline");
                    if error.is_damage() {
                        shard.replica_damaged(id);
                    }
                }
                Ok(()) => {
                    shard.unavailable.borrow_mut().remove(&id);
                    replication::take_role(&shard, id);
                }
            }
            waiting.pop();
        }
        count(&shard);
    }
    wait_for_space(&shard, &all, &[]);
    tracing::info!("space has returned: the partitions that waited for it are open");
}

/// These are what is left of all that one task opens once there is space.
fn wait_for_space(shard: &Shard, all: &[TopicPartition], left: &[TopicPartition]) {
    let mut waiting = shard.waiting_for_space.borrow_mut();
    waiting.retain(|id| !all.contains(id));
    waiting.extend(left);
}

/// Takes replicas off this shard that may come again: nothing is left of them once this returns. The caller has the turn.
pub async fn take_off(shard: &Rc<Shard>, ids: &[TopicPartition]) {
    deletion::remove(shard, ids);
    shard.removals.all_ended().await;
}

/// Makes the replica of a partition that has none here, and has had so many sessions with leaders. The caller has the
/// turn.
pub async fn open_new(shard: &Rc<Shard>, store: &Rc<Store>, id: TopicPartition, sessions: u32) {
    let size = BatchSize { partitions: 1, side_by_side: 1, gives_way: false };
    open_some(shard, store.dir, vec![id], &LastStop::default(), size).await;
    if let Some(replica) = store.find(&id) {
        replica.replication.sessions.set(sessions);
    }
    replication::take_role(shard, id);
    count(shard);
}

/// Opens one again that was closed, or could not be opened before.
pub async fn open_one(
    shard: &Rc<Shard>,
    store: &Rc<Store>,
    id: TopicPartition,
    last: &LastStop,
) -> Result<(), OpenFailed> {
    let opened = open_batch(shard, store, &[id], last).await.pop();
    opened.map_or(Ok(()), |(_, opened)| opened) // Deleted meanwhile.
}

/// What to open of those that are still there.
fn open_requests(
    shard: &Rc<Shard>,
    store: &Store,
    ids: &[TopicPartition],
    last: &LastStop,
) -> Vec<OpenRequest> {
    let image = shard.image.borrow();
    let mut topics: BTreeMap<TopicId, (Rc<str>, Rc<LogConfig>)> = BTreeMap::new();
    let requests = ids.iter().filter_map(|id| {
        let (topic, state) = (image.topic(id.topic)?, image.partition(*id)?);
        let (topic_name, config) = topics
            .entry(id.topic)
            .or_insert_with(|| (topic.name.as_str().into(), log_config(shard, &image, id.topic)));
        Some(OpenRequest {
            id: *id,
            topic_name: topic_name.clone(),
            directory: store.path.join(directory_name(&topic.name, id.partition)),
            config: config.clone(),
            leader_epoch: state.leader_epoch,
            has_others: state.replicas.len() > 1,
            point: last.points.get(id).copied(),
            clean: last.clean,
            state: last.states.get(id).cloned(),
            closed: last.closed.get(id).cloned(),
            journal_end: last.journal.ends.get(id).copied(),
        })
    });
    requests.collect()
}

/// What is in a directory that first has to become this topic's.
async fn claim_listing(shard: &Shard, request: &OpenRequest, sync_fs: SyncFs) -> Result<Listing, OpenFailed> {
    let is_known = |topic| shard.image.borrow().topic(topic).is_some();
    let wanted = Wanted { clean: request.clean_point(), ..Wanted::of(request) };
    let (listing, aside) = claim_directory(wanted, sync_fs, is_known).await?;
    if aside.is_some() {
        shard.stores.for_reading().recovered(RecoveryBranch::DirectoryPutAside);
    }
    Ok(listing)
}

/// Makes sure that the directory is this topic's, as `log::ownership` decides. Returns what is in it, and
/// where what was in the way has gone.
async fn claim_directory(
    wanted: Wanted,
    sync_fs: SyncFs,
    is_known: impl Fn(TopicId) -> bool,
) -> Result<(Listing, Option<PathBuf>), OpenFailed> {
    let directory = wanted.directory.clone();
    let failed = |source| OpenFailed::listing(directory.clone(), source);
    let path = directory.clone();
    let text = blocking(move || read_metadata_file(&path)).await.map_err(failed)?;
    match claim(text.as_deref(), wanted.topic, is_known) {
        Claim::Open => {
            let listing = blocking(move || list(&wanted.directory, wanted.clean.as_ref()));
            Ok((listing.await.map_err(failed)?, None))
        }
        Claim::Take => {
            let listing = blocking(move || take_directory(wanted, sync_fs));
            Ok((listing.await.map_err(failed)?, None))
        }
        Claim::PutAside { other } => {
            let taken = blocking(move || {
                let aside = move_away(&wanted.directory, stray_directory_name)?;
                Ok((take_directory(wanted, sync_fs)?, aside))
            });
            let (listing, aside) = taken.await.map_err(failed)?;
            tracing::warn!(
                directory = %directory.display(), moved_to = %aside.display(), topic_id = %uuid_text(other.0),
                "a directory of a topic that nobody knows was put aside; it is never removed by the broker"
            );
            Ok((listing, Some(aside)))
        }
        Claim::Refuse(source) => Err(OpenFailed::Foreign { directory, source }),
    }
}

/// What committed metadata mean for this shard's partitions.
#[derive(Default)]
pub struct Changes {
    pub created: Vec<TopicPartition>,
    pub deleted: Vec<TopicId>,
    /// Partitions that go on without this shard.
    pub removed: Vec<TopicPartition>,
    pub configured: Vec<TopicId>,
    /// Partitions of this shard with another leader, in-sync set or set of replicas.
    pub changed: Vec<TopicPartition>,
    /// What topics inherit may be something else now.
    pub defaults_changed: bool,
}

/// Applies committed metadata to the image, in the order committed. What follows is to be
/// [carried out](carry_out) in the same order.
pub fn apply(shard: &Shard, records: &[Record]) -> Changes {
    let mut changes = Changes::default();
    let mut quotas_changed = false;
    let mut subscriptions_changed = false;
    let mut throttle_changed = false;
    let mut image = shard.image.borrow_mut();
    for record in records {
        match record {
            Record::TopicDeleted { topic } => changes.deleted.push(*topic),
            Record::TopicConfigSet { topic, .. } => changes.configured.push(*topic),
            Record::ConfigSet { resource: ConfigResource::Brokers | ConfigResource::Node(_), .. } => {
                changes.defaults_changed = true;
            }
            Record::ConfigSet { resource: ConfigResource::ClientMetrics(_), .. } => {
                subscriptions_changed = true;
            }
            // Looked at with each heartbeat.
            Record::ConfigSet { resource: ConfigResource::Group(_), .. } => {}
            Record::ClientQuotaSet { .. } => quotas_changed = true,
            Record::PartitionCreated { id, state } if shard.owns(state) => changes.created.push(*id),
            Record::PartitionChanged { id, state } => {
                change_partition(shard, &image, *id, state, &mut changes)
            }
            _ => {}
        }
        throttle_changed |= shard.replication.throttle.is_changed_by(record);
        let replicas_of = |image: &Image| match record {
            Record::PartitionChanged { id, .. } => {
                Some((id.topic, image.topic(id.topic)?.replication_factor()))
            }
            _ => None,
        };
        let replicas_before = replicas_of(&image);
        if let Err(error) = image.apply(record) {
            // What the controller committed must apply everywhere alike.
            panic!("committed metadata does not apply on shard {:?}: {error}", shard.id);
        }
        // What a topic does not say for itself may go by the number of replicas.
        if replicas_before != replicas_of(&image) {
            changes.configured.extend(replicas_before.map(|(topic, _)| topic));
        }
    }
    *shard.brokers.borrow_mut() = crate::cluster::brokers::Brokers::new(&image, shard.node);
    if quotas_changed {
        shard.quotas.changed(!image.quotas().is_empty());
    }
    if changes.defaults_changed {
        shard.settings_changed(&image);
        changes.configured = image.topics().map(|topic| topic.id).collect();
    }
    drop(image);
    if throttle_changed || changes.defaults_changed {
        replication::throttle::changed(shard);
    }
    if subscriptions_changed {
        shard.subscriptions_changed();
    }
    let is_of_topics = |record: &Record| {
        matches!(
            record,
            Record::TopicCreated { .. } | Record::TopicDeleted { .. } | Record::PartitionCreated { .. }
        )
    };
    if records.iter().any(is_of_topics) {
        groups::topics_changed(shard);
    }
    changes
}

/// What another state of a partition means for this shard, which has the one before in its image.
fn change_partition(
    shard: &Shard,
    image: &Image,
    id: TopicPartition,
    state: &PartitionStateRecord,
    changes: &mut Changes,
) {
    let before = image.partition(id);
    let is_on_node = |state: &PartitionStateRecord| state.replica_on(shard.node).is_some();
    match (before.is_some_and(|before| shard.owns(before)), shard.owns(state)) {
        // From another shard of this node, or to one, it goes as it is (`handover`).
        (false, true) if before.is_some_and(is_on_node) => changes.changed.push(id),
        (true, false) if is_on_node(state) => {}
        (false, true) => changes.created.push(id),
        (true, false) => changes.removed.push(id),
        (false, false) => {}
        (true, true) => {
            changes.changed.push(id);
            // The only replica goes on at once; where there are others, or were, the role changes first.
            let is_alone =
                before.is_some_and(|before| before.replicas.len() == 1) && state.replicas.len() == 1;
            if let Some(replica) = shard.stores.find(&id).filter(|_| is_alone) {
                replica.log.borrow_mut().begin_epoch(state.leader_epoch);
            }
        }
    }
}

/// Whether replicas come to this node, or to another shard of it.
pub fn come_here(shard: &Shard, records: &[Record]) -> bool {
    let image = shard.image.borrow();
    let owner = |state: &PartitionStateRecord| state.replica_on(shard.node).map(|replica| replica.owner);
    records.iter().any(|record| match record {
        Record::PartitionCreated { state, .. } => owner(state).is_some(),
        Record::PartitionChanged { id, state } => {
            owner(state).is_some() && owner(state) != image.partition(*id).and_then(owner)
        }
        _ => false,
    })
}

/// Opens, deletes and configures partitions. Whoever calls it next comes next.
pub async fn carry_out(shard: &Rc<Shard>, changes: Changes) {
    let _turn = shard.changing_partitions.acquire_permit(1).await.expect("it is never closed");
    if !changes.deleted.is_empty() {
        deletion::delete(shard, &changes.deleted).await;
        groups::topics_deleted(shard, &changes.deleted);
        shard.transactions.topics_deleted(shard, &changes.deleted);
    }
    if !changes.removed.is_empty() {
        deletion::remove(shard, &changes.removed);
        for id in changes.removed {
            groups::role_changed(shard, id);
            shard.transactions.role_changed(shard, id);
        }
    }
    for topic in changes.configured {
        reconfigure(shard, topic).await;
    }
    if !changes.created.is_empty() {
        shard.removals.all_ended().await; // It may be the same that has just left.
    }
    let size = BatchSize { partitions: CREATE_BATCH, side_by_side: 1, gives_way: true };
    let by_dir = by_directory(shard, changes.created.iter().copied(), |_, _| None);
    let last = LastStop::default();
    join_all(by_dir.into_iter().map(|(dir, ids)| open_some(shard, dir, ids, &last, size))).await;
    replication::take_roles(shard, changes.created.into_iter().chain(changes.changed));
    count(shard);
}

async fn reconfigure(shard: &Shard, topic: TopicId) {
    let config = {
        let image = shard.image.borrow();
        if image.topic(topic).is_none() {
            return;
        }
        log_config(shard, &image, topic)
    };
    let mut pace = Pace::new(&shard.clock);
    for store in shard.stores.iter() {
        for replica in store.replicas_of(topic, usize::MAX) {
            replica.configure(store, config.clone());
            if let Some(settings) = replication::leader_settings(shard, replica.id) {
                replica.lead(Event::Configured { settings });
            }
            pace.give_way().await;
        }
    }
    shard.stores.pump(); // What an acknowledgement waits for may have changed.
}

/// What a topic's properties mean for its logs.
fn log_config(shard: &Shard, image: &Image, topic: TopicId) -> Rc<LogConfig> {
    let topic = image.topic(topic).expect("the caller looked it up");
    let overrides = topic.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let config = TopicConfig::resolve(&shard.topic_defaults(), topic.replication_factor(), overrides);
    let config = config.unwrap_or_else(|error| {
        // Checked before it was committed; a property that became invalid falls back.
        tracing::warn!(topic = topic.name, %error, "a stored property is invalid; the defaults are used");
        TopicConfig::resolve(&shard.topic_defaults(), 1, std::iter::empty()).expect("defaults are valid")
    });
    let config = to_log_config(&config);
    if config.compression.is_some() {
        shard.recompresses.set(true);
    }
    Rc::new(config)
}

fn to_log_config(config: &TopicConfig) -> LogConfig {
    let ms = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let compact = config.is_compacted().then(|| CompactionLimits {
        delete_retention_ms: ms(config.delete_retention_ms),
        min_lag_ms: ms(config.min_compaction_lag_ms),
        max_lag_ms: ms(config.max_compaction_lag_ms),
        min_dirty_ppm: (config.min_cleanable_dirty_ratio * 1e6) as u32,
    });
    // What is to be compacted in time has to be closed in time (Kafka `LogConfig.maxSegmentMs`).
    let segment_ms = match &compact {
        Some(limits) => ms(config.segment_ms).min(limits.max_lag_ms),
        None => ms(config.segment_ms),
    };
    LogConfig {
        segment_size_max: config.segment_bytes.into(),
        segment_ms,
        segment_jitter_ms: ms(config.segment_jitter_ms),
        batch_size_max: config.max_message_bytes as usize,
        index_interval_bytes: config.index_interval_bytes,
        index_size_max: config.segment_index_bytes,
        append_time: config.timestamp_type == TimestampType::LogAppendTime,
        timestamp_before_max_ms: ms(config.timestamp_before_max_ms),
        timestamp_after_max_ms: ms(config.timestamp_after_max_ms),
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        file_delete_delay: Duration::from_millis(config.file_delete_delay_ms),
        cleanup: Cleanup { delete: config.is_deleting(), compact },
        durability: Durability::of(config),
        compression: StoredCompression::of(config),
    }
}

/// The defaults that a start resolves topics with.
pub fn topic_defaults(config: &crate::config::Config) -> Result<TopicDefaults, String> {
    TopicDefaults::from_config(config).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::ownership::{self, PARTITION_METADATA};
    use crate::shard::disk::replace_file;
    use crate::types::{NodeId, Offset, Uuid};
    use std::path::Path;

    #[test]
    fn data_of_others_is_put_aside_or_left_alone() {
        let data_dir = tempfile::tempdir().unwrap();
        let (ours, known, unknown) =
            (TopicId(Uuid::from_u128(1)), TopicId(Uuid::from_u128(2)), TopicId(Uuid::from_u128(3)));
        let path = data_dir.path().join("t-0");
        let names = || {
            let mut names: Vec<String> = std::fs::read_dir(data_dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is available");
        executor.run(async {
            let claim = || claim_directory(wanted(&path, ours), SyncFs::Nothing, |topic| topic == known);
            claim().await.unwrap();
            claim().await.unwrap();
            assert_eq!(read_metadata_file(&path).unwrap(), Some(ownership::encode(ours)));
            for text in [ownership::encode(known), "\0damaged".to_owned()] {
                replace_file(&path.join(PARTITION_METADATA), text.as_bytes()).unwrap();
                assert!(matches!(claim().await, Err(OpenFailed::Foreign { .. })));
                assert_eq!(read_metadata_file(&path).unwrap(), Some(text), "left alone");
                assert_eq!(names(), ["t-0"]);
            }
            replace_file(&path.join(PARTITION_METADATA), ownership::encode(unknown).as_bytes()).unwrap();
            replace_file(&path.join("00000000000000000000.log"), b"records").unwrap();
            let (listing, _) = claim().await.unwrap();
            assert!(listing.is_new);
        });
        let [_, aside] = &names()[..] else { panic!("{:?}", names()) };
        assert!(aside.starts_with("t-0.") && aside.ends_with("-stray"), "{aside}");
        // No start takes it for anything.
        remove_orphans(data_dir.path(), &Image::default(), NodeId(1), &BTreeSet::from([unknown])).unwrap();
        let kept = std::fs::metadata(data_dir.path().join(aside).join("00000000000000000000.log")).unwrap();
        assert_eq!(kept.len(), 7);
    }

    pub(super) fn wanted(directory: &Path, topic: TopicId) -> Wanted {
        Wanted { directory: directory.to_owned(), topic, clean: None, first_segment: Offset::ZERO }
    }
}
