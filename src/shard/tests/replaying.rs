//! A kill between the record of a change in the journal and what it says: the next start carries it
//! out, or finds it half done, whatever step it was at.

use super::compacting::{Found, SETTINGS, compacted, copy, every_offset_is_answered, fill, found, names};
use super::cutting::store_in;
use super::journalled::{claimed, claimed_with, has_room, journalled_after, next_file_is_made, start};
use super::*;
use crate::cluster::image::Image;
use crate::cluster::image::tests::{add_topic, image_of, node, topic_id};
use crate::codec::record_batch::assign_offset;
use crate::config::Routing;
use crate::log::compaction::swap::{SwapStep, cleaned_name, decide_steps, replace_steps};
use crate::log::journal::block::{Change, Entry};
use crate::log::ownership::{self, PARTITION_METADATA};
use crate::log::partition::Cleanup;
use crate::shard::compaction::Cleaner;
use crate::shard::compaction::swap::carry_out;
use crate::shard::conn::tests::shard_of;
use crate::shard::journal_replay::replay;
use crate::shard::partitions::{self, Changes, move_away, remove_orphans};
use crate::shard::recover::read_last_stop;
use crate::shard::store::changes::Logged;
use crate::shard::stores::Stores;
use crate::types::{NodeId, ShardId};
use std::collections::BTreeSet;

const SEGMENT: u64 = 2_000;

/// The replaced segments' bytes are still in the journal, and are replayed up to where its record says
/// what became of them.
#[test]
fn compaction_that_was_killed_at_any_step_is_replayed() {
    on_executor(async {
        let (old, new) = (directory(), directory());
        claimed_with(old.path(), &[0, 0]);
        let (before, after, replaced) = {
            let store = journalled_after(old.path(), 16 << 20, None).await;
            // What it has is never written out: the journal keeps everything that comes after.
            let other = open_partition(&store, old.path(), 1, 1 << 20).await;
            let replica = started(&store, old.path(), None, compacted()).await;
            has_room(&store).await;
            let acks = Acks::new(None);
            append(&store, &other, &acks, &mut batch(1, None, &[1; 10])).await;
            acks.all_arrived(&store).await;
            fill(&store, &replica, 40).await;
            next_file_is_made(old.path()).await;
            let before = found(&read_all(&store, &replica, 1 << 20).await);
            let bases: Vec<Offset> =
                replica.log.borrow().closed().iter().map(|closed| closed.base_offset).collect();
            copy(&old.path().join("t-0"), &new.path().join("t-0"));
            Rc::make_mut(&mut replica.log.borrow_mut().config).segment_size_max = 1 << 20; // All of them become one.
            assert!(Cleaner::new(vec![store.clone()], SETTINGS).clean_dirtiest().await);
            assert_eq!(replica.log.borrow().closed().len(), 1);
            let after = found(&read_all(&store, &replica, 1 << 20).await);
            (before, after, bases)
        };
        // `old` has become the compacted one, `new` is what it was.
        let (compacted_dir, original) = (old, new);
        assert!(after.len() < before.len() && replaced.len() > 3);
        let base = replaced[0];
        let steps: Vec<SwapStep> =
            decide_steps(base).into_iter().chain(replace_steps(base, &replaced[1..])).collect();
        let mut outcomes = BTreeSet::new();
        for crash in 0..=steps.len() {
            let crashed = directory();
            let image = claimed_with(crashed.path(), &[0, 0]);
            let partition = crashed.path().join("t-0");
            copy(&original.path().join("t-0"), &partition);
            copy(&compacted_dir.path().join("t-1"), &crashed.path().join("t-1"));
            copy(&compacted_dir.path().join("journal.0"), &crashed.path().join("journal.0"));
            for file in [SegmentFile::Log, SegmentFile::OffsetIndex, SegmentFile::TimeIndex] {
                let bytes = std_read(&compacted_dir.path().join("t-0").join(file.name(base)));
                std_write(&partition.join(cleaned_name(file, base)), &bytes);
            }
            carry_out(&partition, &steps[..crash]).whole().unwrap();
            for again in 0..2 {
                let mut points = BTreeMap::new();
                let replayed = replay(&start(crashed.path(), &image, false), &mut points).unwrap();
                assert_eq!(replayed.corrupt, BTreeSet::new(), "step {crash}");
                let head = replayed.heads.get(&ShardId(0)).copied();
                let store = journalled_after(crashed.path(), 16 << 20, head).await;
                let point = points.get(&request(crashed.path(), 0, 1).id).copied();
                assert_eq!(point.is_some(), again == 0, "the second time nothing is replayed");
                let replica = started(&store, crashed.path(), point, compacted()).await;
                let left: Vec<Found> = found(&read_all(&store, &replica, 1 << 20).await);
                let is_new = left == after;
                assert!(is_new || left == before, "step {crash}");
                outcomes.insert(is_new);
                for suffix in [".cleaned", ".swap", ".deleted"] {
                    assert_eq!(names(crashed.path(), suffix), BTreeSet::new(), "step {crash}");
                }
                let logs = replica.log.borrow().closed().len();
                assert_eq!(logs, if is_new { 1 } else { replaced.len() }, "step {crash}");
                every_offset_is_answered(&store, &replica).await;
            }
        }
        assert_eq!(outcomes.len(), 2, "both happen");
    });
}

/// DeleteRecords: the log start is in the journal, and of the segments below it the first few files
/// have their last names.
#[test]
fn log_start_whose_segments_were_going_is_where_it_was_decided() {
    on_executor(async {
        let original = directory();
        claimed(original.path());
        let (bases, decided, end) = {
            let store = journalled_after(original.path(), 16 << 20, None).await;
            let replica = started(&store, original.path(), None, Cleanup::DELETE).await;
            has_room(&store).await;
            let acks = Acks::new(None);
            for _ in 0..30 {
                append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
                acks.all_arrived(&store).await;
            }
            next_file_is_made(original.path()).await;
            let bases: Vec<Offset> =
                replica.log.borrow().closed().iter().map(|closed| closed.base_offset).collect();
            assert!(bases.len() > 4, "{bases:?}");
            let decided = bases[3].advance(1).unwrap(); // Inside a segment.
            let change = replica.decide_log_start(decided);
            assert_eq!(store.log_changes(vec![change]).await, Logged::Flushed);
            (bases, decided, replica.log.borrow().log_end())
        };
        let files = bases[..3].iter().flat_map(|base| SegmentFile::ALL.map(|file| (file, *base)));
        let files: Vec<(SegmentFile, Offset)> = files.collect();
        for crash in 0..=files.len() {
            let crashed = directory();
            let image = claimed(crashed.path());
            for name in ["t-0", "journal.0"] {
                copy(&original.path().join(name), &crashed.path().join(name));
            }
            let partition = crashed.path().join("t-0");
            for (file, base) in &files[..crash] {
                let live = partition.join(file.name(*base));
                if live.exists() {
                    rename(&live, &partition.join(file.deleted_name(*base)));
                }
            }
            let mut points = BTreeMap::new();
            let replayed = replay(&start(crashed.path(), &image, false), &mut points).unwrap();
            assert_eq!(replayed.corrupt, BTreeSet::new(), "{crash} files were gone");
            let point = points.get(&request(crashed.path(), 0, 1).id).copied();
            let head = replayed.heads.get(&ShardId(0)).copied();
            let store = journalled_after(crashed.path(), 16 << 20, head).await;
            let replica = started(&store, crashed.path(), point, Cleanup::DELETE).await;
            let ends = (replica.log.borrow().log_start(), replica.log.borrow().log_end());
            assert_eq!(ends, (decided, end), "{crash} files were gone");
            for at in decided.get()..end.get() {
                let read = replica.read(&Reading::own(&store), offset(at), 1).await.unwrap();
                assert_eq!(read.batches, 1);
            }
            let below = replica.read(&Reading::own(&store), bases[3], 1).await;
            assert!(matches!(below, Err(ReadFailed::OutOfRange)));
        }
    });
}

/// A topic is deleted, and one of the same name may be there already: nothing of the old one comes back,
/// and nothing of it gets into the new one, whether or not its directory had been moved away.
#[test]
fn deleted_topic_does_not_come_back_from_the_journal() {
    on_executor(async {
        for (moved, made_anew) in [(false, false), (true, false), (true, true), (false, true)] {
            let directory = directory();
            claimed(directory.path());
            {
                let store = journalled_after(directory.path(), 16 << 20, None).await;
                let replica = started(&store, directory.path(), None, Cleanup::DELETE).await;
                has_room(&store).await;
                let acks = Acks::new(None);
                append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
                acks.all_arrived(&store).await;
                next_file_is_made(directory.path()).await;
                let epoch = replica.log.borrow().leader_epoch();
                let deleted = Entry { partition: replica.id, change: Change::Deleted { epoch } };
                assert_eq!(store.log_changes(vec![deleted]).await, Logged::Flushed);
            }
            let path = directory.path().join("t-0");
            let old = std_read(&newest_log(directory.path()));
            if moved {
                let new_name = crate::log::segment::deleted_directory_name;
                move_away(&path, new_name).unwrap();
            }
            let mut image: Image = image_of(&[node(1, 1, Routing::Node)]);
            if made_anew {
                add_topic(&mut image, 2, "t", &[0]);
            }
            if made_anew && moved {
                make_directory(&path);
                std_write(&path.join(PARTITION_METADATA), ownership::encode(topic_id(2)).as_bytes());
            }
            // A start: what was deleted goes first, then the journals are replayed.
            remove_orphans(directory.path(), &image, NodeId(1), &BTreeSet::from([topic_id(1)])).unwrap();
            let mut points = BTreeMap::new();
            let replayed = replay(&start(directory.path(), &image, false), &mut points).unwrap();
            assert_eq!(replayed.corrupt, BTreeSet::new());
            assert_eq!(path.exists(), made_anew && moved, "{moved} {made_anew}");
            if path.exists() {
                assert_eq!(names(directory.path(), ".log"), BTreeSet::new(), "nothing was written there");
            }
            assert!(old.iter().any(|byte| *byte != 0) || !old.is_empty());
        }
    });
}

/// The metadata still has the topic, and the journal says that it was deleted: the metadata was to
/// follow. Its directory is moved away and not made again by what stood before.
#[test]
fn deletion_that_only_the_journal_knows_is_carried_out() {
    on_executor(async {
        let directory = directory();
        let image = claimed(directory.path());
        {
            let store = journalled_after(directory.path(), 16 << 20, None).await;
            let replica = started(&store, directory.path(), None, Cleanup::DELETE).await;
            has_room(&store).await;
            let acks = Acks::new(None);
            append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
            acks.all_arrived(&store).await;
            next_file_is_made(directory.path()).await;
            let epoch = replica.log.borrow().leader_epoch();
            let deleted = Entry { partition: replica.id, change: Change::Deleted { epoch } };
            assert_eq!(store.log_changes(vec![deleted]).await, Logged::Flushed);
        }
        let mut points = BTreeMap::new();
        let replayed = replay(&start(directory.path(), &image, false), &mut points).unwrap();
        assert_eq!(replayed.corrupt, BTreeSet::new());
        assert_eq!((replayed.ends.len(), points.len()), (0, 0), "nothing is expected of it");
        assert!(!directory.path().join("t-0").exists());
    });
}

/// A replica was removed, and has come again: to this core, or to another one, whose journal has it then. Nothing of
/// the one that has gone gets into it, and its directory stays.
#[test]
fn replica_that_has_come_again_is_not_touched_by_what_was_said_before() {
    on_executor(async {
        for is_elsewhere in [false, true] {
            let directory = directory();
            let image = claimed(directory.path());
            let path = directory.path().join("t-0");
            let mut expected = batch(1, None, b"of now");
            {
                let store = store_in(directory.path(), true);
                let replica = started(&store, directory.path(), None, Cleanup::DELETE).await;
                has_room(&store).await;
                let acks = Acks::new(None);
                for number in 0..5 {
                    append(&store, &replica, &acks, &mut batch(1, None, &[number; 500])).await;
                }
                acks.all_arrived(&store).await;
                next_file_is_made(directory.path()).await;
                let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
                let removed = vec![replica.id];
                partitions::carry_out(&shard, Changes { removed, ..Changes::default() }).await;
                shard.removals.all_ended().await;
                assert!(replica.is_deleted());
                assert!(!path.exists());
                let (last, _) = read_last_stop(directory.path()).unwrap();
                assert_eq!(last.points, BTreeMap::new(), "the checkpoint does not speak of it");
                claimed(directory.path());
                if is_elsewhere {
                    assign_offset(&mut expected, Offset::ZERO, LeaderEpoch(0));
                    std_write(&path.join("00000000000000000000.log"), &expected);
                } else {
                    let again = started(&store, directory.path(), None, Cleanup::DELETE).await;
                    append(&store, &again, &acks, &mut expected).await;
                    acks.all_arrived(&store).await;
                }
            }
            let mut points = BTreeMap::new();
            let replayed = replay(&start(directory.path(), &image, false), &mut points).unwrap();
            assert_eq!(replayed.corrupt, BTreeSet::new());
            let end = (!is_elsewhere).then_some(offset(1));
            assert_eq!(replayed.ends.get(&request(directory.path(), 0, 1).id).copied(), end);
            let store = store_in(directory.path(), true);
            let point = points.get(&request(directory.path(), 0, 1).id).copied();
            let replica = started(&store, directory.path(), point, Cleanup::DELETE).await;
            assert_eq!(replica.log.borrow().log_end(), offset(1), "{is_elsewhere}");
            assert_eq!(read_all(&store, &replica, 1 << 20).await, expected, "{is_elsewhere}");
        }
    });
}

/// Opens the partition as a start does that has read the checkpoint.
async fn started(
    store: &Rc<Store>,
    directory: &Path,
    point: Option<PartitionPoint>,
    cleanup: Cleanup,
) -> Rc<Replica> {
    let mut request = request(directory, 0, SEGMENT);
    request.point = point;
    Rc::make_mut(&mut request.config).cleanup = cleanup;
    open(store, request).await.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test makes a directory")]
fn make_directory(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
}
