//! Partitions go: topics that are deleted while the shard serves, replicas that go on on other nodes, directories
//! that get their last name, and at a start what was cut off has left.
//!
//! ```text
//! of topics:   t-0, partition.metadata ─► journal says so ─► t-0.ID-delete ─► nothing of it is in flight ─► removed later
//!                                                             └─ no space for the name: removed at once
//! of replicas: nothing of it is in flight ─► t-0.ID-delete ─► journal says so ─► checkpoint without it ─► removed later
//! ```
//!
//! A topic's id is never back, and a replica may be, on another shard: what a start finds of the one that has gone must
//! not touch the one that has come.

use crate::cluster::image::Image;
use crate::codec::error_code::ErrorCode;
use crate::log::commit::changes::CHANGES_PER_BLOCK;
use crate::log::journal::block::{Change, Entry};
use crate::log::ownership::{self, PARTITION_METADATA};
use crate::log::segment::{DirectoryName, deleted_directory_name, directory_name};
use crate::shard::background::write_checkpoint;
use crate::shard::disk::{blocking, is_full_disk, sync_directory};
use crate::shard::event::Broadcast;
use crate::shard::removing::Removal;
use crate::shard::replica::Replica;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::shard::survey::read_metadata_file;
use crate::shard::{Shard, kept_journals, replication};
use crate::types::{LeaderEpoch, LogDirIndex, NodeId, PartitionIndex, TopicId, TopicPartition, Uuid};
use futures::future::join_all;
use glommio::sync::Semaphore;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Partitions that are deleted together: what the journal takes in one block, and one flush of the log
/// directory for their last names.
const DELETE_BATCH: usize = CHANGES_PER_BLOCK;

/// Deletes all partitions of topics that this shard has.
pub async fn delete(shard: &Rc<Shard>, topics: &[TopicId]) {
    for topic in topics {
        shard.unavailable.borrow_mut().retain(|id, _| id.topic != *topic);
    }
    join_all(shard.stores.iter().map(|store| delete_in(shard, store, topics))).await;
}

/// Deletes the partitions of one log directory, a batch at a time; in between the disk is left to
/// producers, as when they are made.
async fn delete_in(shard: &Rc<Shard>, store: &Rc<Store>, topics: &[TopicId]) {
    let mut pace = Pace::new(&shard.clock);
    let mut batch = Vec::new();
    for topic in topics {
        pace.give_way().await;
        loop {
            let found = store.replicas_of(*topic, DELETE_BATCH - batch.len());
            if found.is_empty() {
                break;
            }
            for replica in &found {
                store.remove(&replica.id);
                replica.mark_deleted();
                replication::left(shard, replica);
            }
            batch.extend(found);
            if batch.len() == DELETE_BATCH {
                let begun = shard.clock.mono();
                delete_batch(store, std::mem::take(&mut batch)).await;
                glommio::timer::sleep(shard.clock.mono().since(begun)).await;
            }
        }
    }
    if !batch.is_empty() {
        delete_batch(store, batch).await;
    }
}

/// Deletes what can no longer be found. The names are free for new topics before this returns; the bytes
/// go in the background.
async fn delete_batch(store: &Rc<Store>, replicas: Vec<Rc<Replica>>) {
    // Offline or not: the metadata says the same, and a start removes what is left here.
    log_deletions(store, &replicas).await;
    for replica in &replicas {
        replica.names_released().await;
    }
    let directories: Vec<PathBuf> = replicas.iter().map(|replica| replica.directory.clone()).collect();
    let given_up = match blocking(move || give_up_all(&directories)).await {
        Ok(given_up) => given_up,
        Err(error) => {
            store.fail(&format!("deleting {error}"));
            vec![None; replicas.len()]
        }
    };
    store.spawn(release(store.clone(), replicas, given_up));
}

/// Gives the slots of deleted replicas free once nothing of them is in flight, and has their directories
/// removed later.
async fn release(store: Rc<Store>, replicas: Vec<Rc<Replica>>, given_up: Vec<Option<PathBuf>>) {
    let unfinished = replicas.iter().filter(|replica| !store.is_idle(replica.slot));
    unfinished.for_each(|replica| store.request_write_out(replica.slot)); // In the same rounds.
    store.pump();
    let mut pace = Pace::new(&store.clock);
    for (replica, directory) in replicas.into_iter().zip(given_up) {
        store.release_slot(replica.slot).await;
        let delay = replica.log.borrow().config.file_delete_delay;
        drop(replica);
        if let Some(directory) = directory {
            store.remove_later(Removal::Directory(directory), delay);
        }
        pace.give_way().await;
    }
}

/// Replicas that have left this shard and of which something is still there.
///
/// Lives: one per shard.
pub struct Removals {
    /// Those that left together, one after the other.
    turn: Semaphore,
    outstanding: Cell<usize>,
    ended: Broadcast,
}

impl Default for Removals {
    fn default() -> Removals {
        Removals { turn: Semaphore::new(1), outstanding: Cell::new(0), ended: Broadcast::default() }
    }
}

impl Removals {
    /// Once nothing is left of any: the same partitions may come again, and the shard may end.
    pub async fn all_ended(&self) {
        while self.outstanding.get() > 0 {
            self.ended.notified().await;
        }
    }
}

/// What one log directory has of replicas that have left.
struct Left {
    store: Rc<Store>,
    replicas: Vec<Rc<Replica>>,
    /// They could not be opened, and go by their names.
    unopened: Vec<TopicPartition>,
}

/// Takes off this shard the replicas of partitions that go on elsewhere: from here on they are not found. What they
/// have is written out and removed in the background: who leads what else has changed does not wait for that.
pub fn remove(shard: &Rc<Shard>, ids: &[TopicPartition]) {
    let mut unopened: BTreeMap<LogDirIndex, Vec<TopicPartition>> = BTreeMap::new();
    for id in ids {
        if let Some(dir) = shard.unavailable.borrow_mut().remove(id).and_then(|it| it.dir) {
            unopened.entry(dir).or_default().push(*id);
        }
    }
    let each = shard.stores.iter().map(|store| {
        let replicas: Vec<Rc<Replica>> = ids.iter().filter_map(|id| store.remove(id)).collect();
        for replica in &replicas {
            replica.give_up(ErrorCode::NotLeaderOrFollower);
            replication::left(shard, replica);
        }
        Left { store: store.clone(), replicas, unopened: unopened.remove(&store.dir).unwrap_or_default() }
    });
    let left: Vec<Left> = each.collect();
    let removals = &shard.removals;
    removals.outstanding.set(removals.outstanding.get() + 1);
    let removing = shard.clone();
    shard.spawn(async move {
        let removals = &removing.removals;
        let turn = removals.turn.acquire_permit(1).await;
        join_all(left.into_iter().map(|left| remove_from(&removing, left))).await;
        drop(turn);
        removals.outstanding.set(removals.outstanding.get() - 1);
        removals.ended.notify_all();
    });
}

async fn remove_from(shard: &Rc<Shard>, Left { store, replicas, unopened }: Left) {
    let store = &store;
    let gone = !replicas.is_empty() || !unopened.is_empty();
    for some in replicas.chunks(DELETE_BATCH) {
        remove_batch(store, some).await;
    }
    kept_journals::forget(store, replicas.iter().map(|replica| replica.id).collect()).await;
    for some in unopened.chunks(DELETE_BATCH) {
        remove_unopened(shard, store, some).await;
    }
    if gone && !store.is_offline() {
        match write_checkpoint(shard, store).await {
            Ok(()) => {}
            // Until there is another one a start would miss what a replica that has come again does not have yet.
            Err(error) if is_full_disk(&error) => {
                tracing::warn!(%error, "no space for a checkpoint without the replicas that were removed");
            }
            Err(error) => store.fail(&format!("writing the checkpoint: {error}")),
        }
    }
}

/// Where the log directory is offline they stay for a start to find.
async fn remove_batch(store: &Rc<Store>, replicas: &[Rc<Replica>]) {
    let unfinished = replicas.iter().filter(|replica| !store.is_idle(replica.slot));
    unfinished.for_each(|replica| store.request_write_out(replica.slot)); // In the same rounds.
    store.pump();
    for replica in replicas {
        replica.names_released().await;
        store.release_slot(replica.slot).await;
    }
    let directories = replicas.iter().map(|replica| replica.directory.clone()).collect();
    let given_up = give_up(store, directories).await;
    let removed = replicas.iter().map(|replica| {
        let epoch = replica.log.borrow().leader_epoch();
        Entry { partition: replica.id, change: Change::Removed { epoch } }
    });
    store.log_changes(removed.collect()).await;
    for (replica, directory) in replicas.iter().zip(given_up) {
        tracing::info!(directory = %replica.directory.display(), "a replica was removed");
        if let Some(directory) = directory {
            let delay = replica.log.borrow().config.file_delete_delay;
            store.remove_later(Removal::Directory(directory), delay);
        }
    }
}

async fn remove_unopened(shard: &Shard, store: &Rc<Store>, ids: &[TopicPartition]) {
    let named = {
        let image = shard.image.borrow();
        let named = ids.iter().filter_map(|id| {
            let topic = image.topic(id.topic)?;
            Some((store.path.join(directory_name(&topic.name, id.partition)), *id))
        });
        named.collect::<Vec<_>>()
    };
    let (owned, unread) = blocking(move || {
        let (mut owned, mut unread) = (Vec::new(), BTreeSet::new());
        for (directory, id) in named {
            match read_metadata_file(&directory) {
                Ok(Some(text)) if ownership::decode(&text).ok() == Some(id.topic) => owned.push(directory),
                Ok(_) => {}
                Err(_) => drop(unread.insert(id)),
            }
        }
        (owned, unread)
    })
    .await;
    let given_up = give_up(store, owned).await;
    let removed = ids.iter().map(|id| {
        let epoch = shard.image.borrow().partition(*id).map_or(LeaderEpoch(0), |state| state.leader_epoch);
        Entry { partition: *id, change: Change::Removed { epoch } }
    });
    store.log_changes(removed.collect()).await;
    for directory in given_up.into_iter().flatten() {
        store.remove_later(Removal::Directory(directory), Duration::ZERO);
    }
    // What cannot be read now is there still.
    kept_journals::forget(store, ids.iter().copied().filter(|id| !unread.contains(id)).collect()).await;
}

async fn give_up(store: &Store, directories: Vec<PathBuf>) -> Vec<Option<PathBuf>> {
    let count = directories.len();
    if store.is_offline() {
        return vec![None; count];
    }
    let given_up = blocking(move || give_up_all(&directories)).await;
    given_up.unwrap_or_else(|error| {
        store.fail(&format!("deleting {error}"));
        vec![None; count]
    })
}

/// Says in the journal of a log directory that these partitions of it are gone.
async fn log_deletions(store: &Rc<Store>, replicas: &[Rc<Replica>]) {
    let deleted = replicas.iter().map(|replica| {
        let epoch = replica.log.borrow().leader_epoch();
        Entry { partition: replica.id, change: Change::Deleted { epoch } }
    });
    store.log_changes(deleted.collect()).await;
}

/// Renames a partition's directory so that it is never opened again. Returns the new path.
pub fn move_away(
    directory: &Path,
    new_name: impl Fn(&str, PartitionIndex, Uuid) -> String,
) -> io::Result<PathBuf> {
    let moved = rename_away(directory, new_name)?;
    sync_directory(directory.parent().unwrap_or(Path::new("/")))?;
    Ok(moved)
}

/// The same without the flush.
#[expect(clippy::disallowed_methods, reason = "runs on the helper thread or at start")]
fn rename_away(
    directory: &Path,
    new_name: impl Fn(&str, PartitionIndex, Uuid) -> String,
) -> io::Result<PathBuf> {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(DirectoryName::Live { topic, partition }) = DirectoryName::parse(name) else {
        return Err(io::Error::other(format!("{name} is not a partition's directory")));
    };
    let moved = directory.with_file_name(new_name(&topic, partition, Uuid::new_v4()));
    std::fs::rename(directory, &moved)?;
    Ok(moved)
}

/// Gives directories of deleted topics, all of one log directory, their last names, under which they wait, with
/// one flush. `None` for one that found no space for that: it was removed at once; or that is gone.
fn give_up_all(directories: &[PathBuf]) -> io::Result<Vec<Option<PathBuf>>> {
    let mut given_up = Vec::with_capacity(directories.len());
    for directory in directories {
        let moved = match rename_away(directory, deleted_directory_name) {
            Err(error) if is_full_disk(&error) => remove_in_place(directory).map(|()| None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None), // Somebody was faster.
            moved => moved.map(Some),
        };
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
        given_up.push(moved.map_err(named)?);
    }
    match directories.first().and_then(|directory| directory.parent()) {
        Some(log_directory) => sync_directory(log_directory).map(|()| given_up),
        None => Ok(given_up),
    }
}

/// What says whose it was goes last: the next topic of that name must not take the rest for its own.
#[expect(clippy::disallowed_methods, reason = "runs on the helper thread or at start")]
fn remove_in_place(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() != PARTITION_METADATA {
            std::fs::remove_file(entry.path())?;
        }
    }
    sync_directory(directory)?;
    std::fs::remove_dir_all(directory)?;
    sync_directory(directory.parent().unwrap_or(Path::new("/")))
}

/// What a log directory has once orphans are gone.
#[derive(Debug, Default)]
pub struct Held {
    pub partitions: Vec<TopicPartition>,
    /// Some of what has gone were replicas, of which journals and checkpoints may speak and which may come again.
    pub replicas_removed: bool,
}

/// Removes what topics left behind whose deletion a crash interrupted, and the replicas that were taken off this node
/// since. At start, before any shard, by metadata that know all that this node ever knew.
///
/// Only what the metadata knows as deleted, or as in sync elsewhere, goes: were the metadata ever lost or rolled back,
/// the records would still be there.
///
/// Errors: also when a directory that no topic has now does not tell whose it is, as it may be one that has
/// to go. One that bears the name of a partition there is costs that partition only: opening it will say so.
pub fn remove_orphans(
    data_dir: &Path,
    image: &Image,
    node: NodeId,
    deleted: &BTreeSet<TopicId>,
) -> io::Result<Held> {
    let mut held = Held::default();
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(DirectoryName::parse) else { continue };
        let path = match name {
            DirectoryName::Deleted { .. } => {
                let text = read_metadata_file(&entry.path()).ok().flatten().unwrap_or_default();
                held.replicas_removed |=
                    ownership::decode(&text).map_or(true, |id| image.topic(id).is_some());
                entry.path()
            }
            DirectoryName::Live { topic, partition } => {
                let text = match read_metadata_file(&entry.path()) {
                    Ok(text) => text.unwrap_or_default(),
                    Err(error) if has_partition(image, &topic, partition) => {
                        let directory = entry.path();
                        tracing::warn!(directory = %directory.display(), %error, "a directory does not tell whose it is");
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let Ok(id) = ownership::decode(&text) else { continue };
                let named = image.topic(id).filter(|found| found.name == topic);
                match named.and_then(|found| found.partitions.get(partition.index())) {
                    Some(state) if state.is_elsewhere(node) => {
                        held.replicas_removed = true;
                    }
                    Some(_) => {
                        held.partitions.push(TopicPartition { topic: id, partition });
                        continue;
                    }
                    None if deleted.contains(&id) && image.topic(id).is_none() => {}
                    None => {
                        let directory = entry.path();
                        tracing::warn!(directory = %directory.display(), "no topic has this partition; it is left alone");
                        continue;
                    }
                }
                match give_up_all(&[entry.path()])?.pop().flatten() {
                    Some(moved) => moved,
                    None => continue,
                }
            }
        };
        tracing::info!(directory = %path.display(), "removing the data of a deleted topic, or of a replica that is elsewhere");
        std::fs::remove_dir_all(path)?;
    }
    Ok(held)
}

fn has_partition(image: &Image, topic: &str, partition: PartitionIndex) -> bool {
    image.topic_named(topic).is_some_and(|found| partition.index() < found.partitions.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, partition_id, replica};
    use crate::cluster::record::{PartitionState, Record};
    use crate::config::Routing;
    use crate::log::plan::SyncFs;
    use crate::shard::disk::replace_file;
    use crate::shard::partitions::tests::wanted;
    use crate::shard::survey::take_directories;
    use crate::types::PartitionEpoch;

    #[test]
    fn directory_without_space_for_another_name_goes_with_all_it_has() {
        let data_dir = tempfile::tempdir().unwrap();
        let path = data_dir.path().join("t-0");
        take_directory(&path, TopicId(Uuid::from_u128(1)));
        replace_file(&path.join("00000000000000000000.log"), b"records").unwrap();
        remove_in_place(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn only_what_is_known_to_be_deleted_is_removed() {
        let data_dir = tempfile::tempdir().unwrap();
        let (deleted, unknown) = (TopicId(Uuid::from_u128(1)), TopicId(Uuid::from_u128(2)));
        take_directory(&data_dir.path().join("old-0"), deleted);
        take_directory(&data_dir.path().join("stray-0"), unknown);
        std::fs::create_dir(data_dir.path().join("half-made-0")).unwrap();
        remove_orphans(data_dir.path(), &Image::default(), NodeId(1), &BTreeSet::from([deleted])).unwrap();
        let left = std::fs::read_dir(data_dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["half-made-0", "stray-0"]);
    }

    /// What cannot be read may be a deleted topic's: it would stay, and nobody would come back to it.
    #[test]
    fn directory_whose_owner_cannot_be_read_is_not_passed_over() {
        let data_dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(data_dir.path().join("old-0")).unwrap();
        std::fs::create_dir(data_dir.path().join("old-0").join(PARTITION_METADATA)).unwrap();
        let error =
            remove_orphans(data_dir.path(), &Image::default(), NodeId(1), &BTreeSet::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        // Of a partition there is, it keeps nobody else from being served.
        let mut image = image_of(&[node(1, 1, Routing::Node)]);
        add_topic(&mut image, 1, "old", &[0]);
        add_topic(&mut image, 2, "new", &[0]);
        let new = image.topic_id("new").unwrap();
        take_directory(&data_dir.path().join("new-0"), new);
        let held = remove_orphans(data_dir.path(), &image, NodeId(1), &BTreeSet::new()).unwrap();
        assert_eq!(held.partitions.iter().map(|held| held.topic).collect::<Vec<_>>(), [new]);
    }

    /// A replica that was taken off this node goes; one of which nobody else has everything stays.
    #[test]
    fn what_goes_on_elsewhere_is_removed() {
        let data_dir = tempfile::tempdir().unwrap();
        let mut image = image_of(&[node(1, 1, Routing::Node), node(2, 1, Routing::Node)]);
        add_topic(&mut image, 1, "t", &[0, 0, 0]);
        let id = image.topic_id("t").unwrap();
        let moved =
            PartitionState { partition_epoch: PartitionEpoch(1), ..PartitionState::new(vec![replica(2, 0)]) };
        let nowhere = PartitionState { in_sync: Vec::new(), leader: None, ..moved.clone() };
        for (index, state) in [(1, moved), (2, nowhere)] {
            let record = Record::PartitionChanged { id: partition_id(1, index), state };
            image.apply(&record).expect("fits");
        }
        for name in ["t-0", "t-1", "t-2"] {
            take_directory(&data_dir.path().join(name), id);
        }
        let remove = || remove_orphans(data_dir.path(), &image, NodeId(1), &BTreeSet::new()).unwrap();
        let held = remove();
        let mut partitions: Vec<usize> = held.partitions.iter().map(|id| id.partition.index()).collect();
        partitions.sort();
        assert_eq!((partitions, held.replicas_removed), (vec![0, 2], true));
        assert!(!data_dir.path().join("t-1").exists());
        assert!(!remove().replicas_removed, "it is gone");
        // One that had its last name already, and was not mentioned in the journal maybe.
        move_away(&data_dir.path().join("t-0"), deleted_directory_name).unwrap();
        assert!(remove().replicas_removed);
    }

    fn take_directory(path: &Path, topic: TopicId) {
        take_directories(&[wanted(path, topic)], SyncFs::Nothing).unwrap();
    }
}
