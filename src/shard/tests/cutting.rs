//! A follower's log is cut while the shard serves, and opened again after a crash.

use super::journalled::{claimed, has_room, start};
use super::*;
use crate::cluster::image::tests::{partition_id, replica as replica_on};
use crate::cluster::record::{PartitionState, Record};
use crate::codec::record_batch::assign_offset;
use crate::log::checkpoint::Checkpoint;
use crate::log::data_dir::checkpoint_name;
use crate::log::journal::block::{Change, Entry};
use crate::log::journal::ring::RingLimits;
use crate::log::partition::Place;
use crate::shard::Shard;
use crate::shard::conn::tests::shard_of;
use crate::shard::journal::Journal;
use crate::shard::journal_replay::replay;
use crate::shard::replication::cutting::{Cut, cut};
use crate::shard::replication::role::Role;
use crate::shard::replication::take_role;
use crate::shard::store::changes::Logged;
use crate::shard::stores::Stores;
use crate::types::{NodeId, PartitionEpoch, ShardId};
use std::collections::BTreeSet;

const LIMITS: RingLimits = RingLimits { file_size: 32 << 20, file_count_max: 3 };

/// Some four batches a segment.
const SEGMENT: u64 = 4096;
const BATCHES: u64 = 11;

pub(super) fn store_in(directory: &Path, is_journalled: bool) -> Rc<Store> {
    store_of(ShardId(0), directory, is_journalled)
}

pub(super) fn store_of(shard: ShardId, directory: &Path, is_journalled: bool) -> Rc<Store> {
    let memory = MemoryPlan { tail: 16 << 20, unflushed: 8 << 20, ..MemoryPlan::new(1 << 30) };
    let metrics = Rc::new(RefCell::new(ShardMetrics::new()));
    let disk = Disk::new(SyncFs::Device, None);
    let journal = Journal::new(directory, shard, disk.clone(), LIMITS);
    let shared = Shared::new(Clock::new(), metrics, &memory, 1);
    let dir = StoreDir { path: directory.to_owned(), ..store_dir() };
    Store::new(&shared, dir, disk, is_journalled.then_some((shard, journal)))
}

/// A replica with some batches under epoch 0, of which another node's is the leader from epoch 1 on.
async fn following(directory: &Path, is_journalled: bool) -> (Rc<Shard>, Rc<Replica>, Vec<u8>) {
    following_with(directory, is_journalled, 1).await
}

/// The same with so many records in each batch.
async fn following_with(
    directory: &Path,
    is_journalled: bool,
    records: u32,
) -> (Rc<Shard>, Rc<Replica>, Vec<u8>) {
    claimed(directory);
    let store = store_in(directory, is_journalled);
    let replica = open_partition(&store, directory, 0, SEGMENT).await;
    if is_journalled {
        has_room(&store).await;
    }
    let acks = Acks::new(None);
    for number in 0..BATCHES {
        let sequence = number as i32 * records as i32;
        append(&store, &replica, &acks, &mut batch(records, Some(sequence), &[number as u8; 900])).await;
    }
    acks.all_arrived(&store).await;
    let bytes = read_all(&store, &replica, 1 << 20).await;
    let shard = shard_of(Stores::new(vec![store]), directory, &[0]).await;
    let state = PartitionState {
        leader: Some(NodeId(2)),
        leader_epoch: LeaderEpoch(1),
        partition_epoch: PartitionEpoch(1),
        ..PartitionState::new(vec![replica_on(1, 0), replica_on(2, 0)])
    };
    let changed = Record::PartitionChanged { id: partition_id(1, 0), state };
    shard.image.borrow_mut().apply(&changed).expect("it is there");
    take_role(&shard, replica.id);
    (shard, replica, bytes)
}

/// Batches from one offset on, as another replica would get them.
pub(super) async fn read_from(store: &Rc<Store>, replica: &Rc<Replica>, from: u64) -> Vec<u8> {
    let (mut at, mut out) = (offset(from), Vec::new());
    let end = replica.log.borrow().log_end();
    while at < end {
        let read = replica.read_appended(&Reading::own(store), at, 1 << 20, end).await.unwrap();
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (view, tail) = BatchView::split_first(rest).unwrap();
            assert_eq!(view.validate_stored(), Ok(()));
            (at, rest) = (view.end_offset(), tail);
        }
        out.extend(bytes);
    }
    out
}

/// A batch of the new leader.
async fn append_new(shard: &Rc<Shard>, replica: &Rc<Replica>, at: u64) -> Vec<u8> {
    let store = shard.stores.of(replica);
    replica.take_role(shard, Role::Idle { epoch: Some(LeaderEpoch(1)) }); // It has heard of none.
    let mut new = batch(1, None, &[200; 700]);
    assign_offset(&mut new, offset(at), LeaderEpoch(1));
    while !replica.append_replicated(store, &new).expect("it is served") {
        store.pump();
        replica.ready.notified().await;
    }
    store.pump();
    while replica.log.borrow().durable_end() < replica.log.borrow().log_end() {
        store.drained.notified().await;
    }
    new
}

fn epochs_of(replica: &Replica) -> Vec<(i32, u64)> {
    let log = replica.log.borrow();
    log.epochs().entries().iter().map(|entry| (entry.epoch.0, entry.start_offset.get())).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test copies files")]
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => match std::fs::copy(entry.path(), target) {
                // The side thread has just renamed or removed it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            },
        }
    }
}

/// As a start finds the directory after a kill now.
async fn after_a_kill(directory: &Path) -> (Rc<Store>, Rc<Replica>, tempfile::TempDir) {
    let (store, replica, left, _) = doubted_after_a_kill(directory).await;
    (store, replica, left)
}

/// The same, and whether the start says that the log may lack its end.
async fn doubted_after_a_kill(directory: &Path) -> (Rc<Store>, Rc<Replica>, tempfile::TempDir, bool) {
    let left = super::directory();
    copy(directory, left.path());
    let image = claimed(left.path());
    let checkpoint = left.path().join(checkpoint_name(ShardId(0)));
    let mut points = match checkpoint.exists() {
        true => Checkpoint::decode(&std_read(&checkpoint)).unwrap().points,
        false => BTreeMap::new(),
    };
    let replayed = replay(&start(left.path(), &image, false), &mut points).unwrap();
    assert!(replayed.corrupt.is_empty());
    let store = store_in(left.path(), false);
    let wanted = OpenRequest { leader_epoch: LeaderEpoch(1), ..request(left.path(), 0, SEGMENT) };
    let (point, journal_end) = (points.get(&wanted.id).copied(), replayed.ends.get(&wanted.id).copied());
    let is_doubtful = replayed.doubtful.contains(&wanted.id);
    let replica = open(&store, OpenRequest { point, journal_end, ..wanted }).await.unwrap();
    (store, replica, left, is_doubtful)
}

#[test]
fn a_log_is_cut_anywhere_and_goes_on_from_there() {
    for (is_journalled, end) in [(true, 10), (true, 6), (true, 1), (true, 0), (false, 10), (false, 3)] {
        on_executor(async move {
            let directory = directory();
            let (shard, before, bytes) = following(directory.path(), is_journalled).await;
            cut(shard.clone(), before.clone(), LeaderEpoch(1), Cut::To(offset(end))).await;
            let replica = shard.stores.find(&before.id).expect("it is open again");
            assert!(before.is_deleted() && !Rc::ptr_eq(&before, &replica));
            let store = shard.stores.of(&replica).clone();
            assert_eq!(replica.log.borrow().log_end(), offset(end), "{is_journalled}");
            let mut expected = bytes[..bytes.len() / BATCHES as usize * end as usize].to_vec();
            assert!(read_from(&store, &replica, 0).await == expected);
            assert_eq!(epochs_of(&replica), if end > 0 { vec![(0, 0)] } else { vec![] });
            let next = replica.log.borrow().producers.last_record(ProducerId(1));
            assert_eq!(next.is_some(), end > 0, "producers are as they were there");
            assert_eq!(replica.replication.epoch(), Some(LeaderEpoch(1)), "it follows again");
            let (_, killed, _left) = after_a_kill(directory.path()).await;
            assert_eq!(killed.log.borrow().log_end(), offset(end));
            expected.extend(append_new(&shard, &replica, end).await);
            assert!(read_from(&store, &replica, 0).await == expected);
            assert_eq!(epochs_of(&replica).last(), Some(&(1, end)));
            // What was cut is not back, and what came behind is there.
            let (store, killed, _left) = after_a_kill(directory.path()).await;
            assert!(read_from(&store, &killed, 0).await == expected);
            assert_eq!(epochs_of(&killed).last(), Some(&(1, end)));
        });
    }
}

#[test]
fn a_log_begins_anew_where_its_leaders_does() {
    for (is_journalled, at) in [(true, 50), (true, 7), (false, 50)] {
        on_executor(async move {
            let directory = directory();
            let (shard, before, _) = following(directory.path(), is_journalled).await;
            cut(shard.clone(), before.clone(), LeaderEpoch(1), Cut::StartOver(offset(at))).await;
            let replica = shard.stores.find(&before.id).expect("it is open again");
            let store = shard.stores.of(&replica).clone();
            let ends = |replica: &Replica| {
                let log = replica.log.borrow();
                (log.log_start().get(), log.log_end().get())
            };
            assert_eq!(ends(&replica), (at, at));
            assert_eq!(epochs_of(&replica), []);
            let (_, killed, _left) = after_a_kill(directory.path()).await;
            assert_eq!(ends(&killed), (at, at));
            let expected = append_new(&shard, &replica, at).await;
            assert!(read_from(&store, &replica, at).await == expected);
            let (store, killed, _left) = after_a_kill(directory.path()).await;
            assert_eq!(ends(&killed), (at, at + 1));
            assert!(read_from(&store, &killed, at).await == expected);
        });
    }
}

/// What is left of it was deleted before: of that, maybe of a later epoch than what comes now, nothing may stay in front.
/// A batch that reaches across the end goes as a whole.
#[test]
fn a_log_that_is_cut_to_its_start_or_before_begins_anew() {
    for (is_journalled, log_start, to, end) in
        [(true, 12, 12, 12), (true, 13, 14, 12), (true, 14, 5, 5), (false, 13, 14, 12)]
    {
        on_executor(async move {
            let directory = directory();
            let (shard, before, _) = following_with(directory.path(), is_journalled, 3).await;
            before.log.borrow_mut().advance_log_start(offset(log_start));
            cut(shard.clone(), before.clone(), LeaderEpoch(1), Cut::To(offset(to))).await;
            let replica = shard.stores.find(&before.id).expect("it is open again");
            let ends = |replica: &Replica| {
                let log = replica.log.borrow();
                (log.log_start().get(), log.log_end().get(), log.active().size)
            };
            assert_eq!(ends(&replica), (end, end, 0), "{log_start} {to}");
            assert_eq!(epochs_of(&replica), []);
            assert_eq!(replica.log.borrow().producers.last_record(ProducerId(1)), None);
            let expected = append_new(&shard, &replica, end).await;
            let store = shard.stores.of(&replica).clone();
            assert!(read_from(&store, &replica, end).await == expected);
            let (store, killed, _left) = after_a_kill(directory.path()).await;
            assert!(read_from(&store, &killed, end).await == expected);
            assert_eq!(epochs_of(&killed), [(1, end)]);
        });
    }
}

/// A crash in between: it is whole, or begins anew, or has nothing and says so: others count on what lies before.
#[test]
fn a_crash_while_a_log_begins_anew_leaves_none_that_is_taken_for_whole() {
    on_executor(async {
        let directory = directory();
        let (shard, replica, _) = following(directory.path(), true).await;
        let cutting =
            shard.spawn(cut(shard.clone(), replica.clone(), LeaderEpoch(1), Cut::StartOver(offset(50))));
        let mut seen = BTreeSet::new();
        while shard.stores.find(&replica.id).is_none_or(|found| Rc::ptr_eq(&found, &replica)) {
            let (_, killed, _left, is_doubtful) = doubted_after_a_kill(directory.path()).await;
            let log = killed.log.borrow();
            seen.insert((log.log_start().get(), log.log_end().get(), is_doubtful));
        }
        cutting.await;
        assert!(
            seen.iter().all(|it| [(0, BATCHES, false), (0, 0, true), (50, 50, false)].contains(it)),
            "{seen:?}"
        );
        let (_, killed, _left, is_doubtful) = doubted_after_a_kill(directory.path()).await;
        assert_eq!((killed.log.borrow().log_start(), is_doubtful), (offset(50), false));
    });
}

/// The same where nothing but the journal says so yet.
#[test]
fn a_log_that_was_about_to_begin_anew_may_lack_its_end() {
    on_executor(async {
        let directory = directory();
        let (shard, replica, _) = following(directory.path(), true).await;
        let store = shard.stores.of(&replica).clone();
        store.write_out(replica.slot).await;
        let place = Place { segment: Offset::ZERO, file_position: 0 };
        let change = Change::Cutting { place, end: Offset::ZERO, epoch: LeaderEpoch(1) };
        let logged = store.log_changes(vec![Entry { partition: replica.id, change }]).await;
        assert_eq!(logged, Logged::Flushed);
        let (_, killed, _left, is_doubtful) = doubted_after_a_kill(directory.path()).await;
        assert_eq!((killed.log.borrow().log_end(), is_doubtful), (Offset::ZERO, true));
    });
}

/// Whoever still takes it for the leader looks for another one: its disk is in order.
#[test]
fn a_log_that_is_being_cut_is_led_by_others() {
    on_executor(async {
        let directory = directory();
        let (shard, replica, _) = following(directory.path(), true).await;
        assert_eq!(shard.absence(&partition_id(9, 0)), ErrorCode::UnknownTopicOrPartition);
        let cutting = shard.spawn(cut(shard.clone(), replica.clone(), LeaderEpoch(1), Cut::To(offset(5))));
        let mut looks = 0;
        while shard.stores.find(&replica.id).is_none_or(|found| Rc::ptr_eq(&found, &replica)) {
            if shard.stores.find(&replica.id).is_none() {
                assert_eq!(shard.absence(&replica.id), ErrorCode::NotLeaderOrFollower);
                looks += 1;
            }
            glommio::timer::sleep(std::time::Duration::from_micros(100)).await;
        }
        cutting.await;
        assert!(looks > 0);
    });
}

/// A crash in between: the log is as it was, or cut, and a cut that is made again ends the same.
#[test]
fn a_crash_while_a_log_is_cut_leaves_it_whole_or_cut() {
    on_executor(async {
        let directory = directory();
        let (shard, replica, bytes) = following(directory.path(), true).await;
        let cutting = shard.spawn(cut(shard.clone(), replica.clone(), LeaderEpoch(1), Cut::To(offset(5))));
        let kept = bytes[..bytes.len() / BATCHES as usize * 5].to_vec();
        let mut seen = BTreeSet::new();
        while shard.stores.find(&replica.id).is_none_or(|found| Rc::ptr_eq(&found, &replica)) {
            let (store, killed, _left) = after_a_kill(directory.path()).await;
            let end = killed.log.borrow().log_end().get();
            assert!(end == 5 || end == BATCHES, "{end}");
            let expected = if end == 5 { &kept } else { &bytes };
            assert!(&read_from(&store, &killed, 0).await == expected);
            seen.insert(end);
        }
        cutting.await;
        assert!(!seen.is_empty());
        let (_, killed, _left) = after_a_kill(directory.path()).await;
        assert_eq!(killed.log.borrow().log_end(), offset(5));
    });
}
