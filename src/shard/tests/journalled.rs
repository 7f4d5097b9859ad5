//! Stores with a commit journal.

use super::*;
use crate::cluster::image::Image;
use crate::cluster::image::tests::{add_topic, image_of, node, topic_id};
use crate::cluster::registration::tests::registration;
use crate::config::Routing;
use crate::log::checkpoint::{Checkpoint, PartitionPoint};
use crate::log::data_dir::checkpoint_name;
use crate::log::journal::block::{BlockHeader, BlockView};
use crate::log::journal::replay::{FoundBlock, Replay};
use crate::log::journal::ring::{FileIndex, JournalHead, RingLimits};
use crate::log::named_partitions::LOST_PARTITIONS_FILE;
use crate::log::ownership::{self, PARTITION_METADATA};
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::journal::Journal;
use crate::shard::journal_replay::{Keep, ReplayStart, replay};
use crate::shard::replica::TickItem;
use crate::shard::store::changes::Logged;
use crate::types::{NodeId, ShardId};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

const LIMITS: RingLimits = RingLimits { file_size: 32 << 20, file_count_max: 3 };

/// Many partitions that each keep a little in memory only: together they fill what there may be, and
/// are written out before producers wait for ever.
#[test]
fn what_many_partitions_keep_in_memory_is_written_out_in_time() {
    // Their buffers, of 16 to 128 KiB each, fit into the tail's memory even when their bytes do not fit
    // into the part of it that may wait for a write-out.
    const PARTITIONS: i32 = 60;
    on_executor(async {
        let directory = directory();
        let store = journalled_after(directory.path(), 16 << 20, None).await;
        let mut replicas = Vec::new();
        for index in 0..PARTITIONS {
            replicas.push(open_partition(&store, directory.path(), index, 8 << 20).await);
        }
        store.pump();
        while !store.has_journal_room() {
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
        }
        let acks = Acks::new(None);
        for _round in 0..8 {
            // None of them ever reaches the size from which a partition is written out by itself.
            for replica in &replicas {
                append(&store, replica, &acks, &mut batch(1, None, &[7; 30_000])).await;
                while store.is_full() {
                    store.pump();
                    if store.is_full() {
                        store.drained.notified().await;
                    }
                }
            }
        }
        acks.all_arrived(&store).await;
        assert!(store.unstored_bytes() < 16 << 20);
        for replica in &replicas {
            assert_eq!(replica.log.borrow().high_watermark(), offset(8));
        }
    });
}

/// An index points to before the newest batches, and what lies there is in memory no longer: the read
/// begins on disk and ends in memory.
#[test]
fn what_only_the_journal_has_is_read_from_memory() {
    on_executor(async {
        let directory = directory();
        let store = journalled_after(directory.path(), 16 << 20, None).await;
        let replica = open_partition(&store, directory.path(), 0, 8 << 20).await;
        store.pump();
        while !store.has_journal_room() {
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
        }
        let acks = Acks::new(None);
        for _ in 0..8 {
            append(&store, &replica, &acks, &mut batch(1, None, &[7; 1000])).await;
        }
        store.write_out(replica.slot).await;
        append(&store, &replica, &acks, &mut batch(1, None, &[8; 1000])).await;
        acks.all_arrived(&store).await;
        while replica.evict_oldest() {}
        assert_eq!(replica.log.borrow().stored_end(), offset(8), "the last one is in the journal only");
        for from in [0, 5, 8] {
            let read = replica.read(&Reading::own(&store), offset(from), 1 << 20).await.unwrap();
            assert_eq!(read.batches as u64, 9 - from);
        }
    });
}

pub(super) async fn journalled_after(directory: &Path, tail: usize, head: Option<JournalHead>) -> Rc<Store> {
    let metrics = Rc::new(RefCell::new(ShardMetrics::new()));
    let memory = MemoryPlan { tail, unflushed: tail / 2, ..MemoryPlan::new(1 << 30) };
    let disk = Disk::new(SyncFs::Device, None);
    let mut journal = Journal::new(directory, ShardId(0), disk.clone(), LIMITS);
    if let Some(head) = head {
        journal = journal.resume(head).await.unwrap();
    }
    let shared = Shared::new(Clock::new(), metrics, &memory, 1);
    Store::new(&shared, store_dir(), disk, Some((ShardId(0), journal)))
}

/// Every start goes on with the files that it finds, with numbers that were never used before; what an
/// earlier run has left in them is not replayed again.
#[test]
fn journal_files_are_used_again_by_the_next_starts() {
    on_executor(async {
        let directory = directory();
        let image = claimed(directory.path());
        let mut points = BTreeMap::new();
        let mut expected = Vec::new();
        let mut marks: Vec<BlockHeader> = Vec::new();
        let mut inodes = None;
        for run in 0..6u8 {
            let clean = run == 3;
            let replayed = replay(&start(directory.path(), &image, clean), &mut points).unwrap();
            assert_eq!(replayed.corrupt, BTreeSet::new());
            let head = replayed.heads.get(&ShardId(0));
            assert_eq!(head.is_some(), run > 0, "made once");
            if let Some(head) = head {
                let last = marks.last();
                assert!(last.is_none_or(|last| last.sequence < head.mark.header.sequence));
                assert!(last.is_none_or(|last| last.epoch < head.mark.header.epoch));
                assert_eq!(clean, head.mark.header.position == 0, "a clean journal is not read through");
                marks.push(head.mark.header);
            }
            let store = journalled_after(directory.path(), 16 << 20, head.copied()).await;
            let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
            assert_eq!(replica.log.borrow().log_end(), offset(u64::from(run) * 3), "run {run}");
            assert!(read_all(&store, &replica, 1 << 20).await == expected, "run {run}");
            has_room(&store).await;
            let acks = Acks::new(None);
            for number in 0..3u8 {
                let mut bytes = batch(1, None, &[run * 3 + number; 700]);
                append(&store, &replica, &acks, &mut bytes).await;
                expected.extend(bytes);
                acks.all_arrived(&store).await;
            }
            next_file_is_made(directory.path()).await;
            let files = ["00000000.journal", "00000001.journal"].map(|name| inode(directory.path(), name));
            assert_eq!(*inodes.get_or_insert(files), files, "they were made once");
            if run == 2 {
                store.write_out(replica.slot).await; // What a clean stop does.
            }
        }
        let names = std::fs::read_dir(directory.path().join("journal.0")).unwrap();
        assert_eq!(names.count(), 2);
    });
}

/// A log start that was flushed stays, also when nothing but the journal had it, and over two crashes.
#[test]
fn log_start_survives_a_crash_and_the_next_one() {
    on_executor(async {
        let directory = directory();
        let image = claimed(directory.path());
        {
            let store = journalled_after(directory.path(), 16 << 20, None).await;
            let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
            has_room(&store).await;
            let acks = Acks::new(None);
            for _ in 0..5 {
                append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
            }
            acks.all_arrived(&store).await;
            assert_eq!(replica.log.borrow().stored_end(), Offset::ZERO, "only the journal has it");
            let change = replica.decide_log_start(offset(3));
            assert_eq!(store.log_changes(vec![change]).await, Logged::Flushed);
            next_file_is_made(directory.path()).await;
        }
        for crash in 0..2 {
            let mut points = read_checkpoint(directory.path());
            assert_eq!(points.is_empty(), crash == 0);
            let replayed = replay(&start(directory.path(), &image, false), &mut points).unwrap();
            let point = points[&request(directory.path(), 0, 1).id];
            assert_eq!((point.log_start, point.flushed_end), (offset(3), offset(5)), "crash {crash}");
            let store =
                journalled_after(directory.path(), 16 << 20, replayed.heads.get(&ShardId(0)).copied()).await;
            let mut request = request(directory.path(), 0, 1 << 20);
            request.point = Some(point);
            let replica = open(&store, request).await.unwrap();
            assert_eq!(replica.log.borrow().log_start(), offset(3));
        }
    });
}

/// Damage to what a change has acted on, or to the last flush before a pause, is then no torn tail.
#[test]
fn flush_of_a_change_and_the_last_one_before_a_pause_are_stated() {
    on_executor(async {
        let directory = directory();
        claimed(directory.path());
        let store = journalled_after(directory.path(), 16 << 20, None).await;
        let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
        has_room(&store).await;
        let acks = Acks::new(None);
        append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
        acks.all_arrived(&store).await;
        next_file_is_made(directory.path()).await;
        assert_eq!(unstated_blocks(directory.path()), 1);
        let change = replica.decide_log_start(offset(1));
        assert_eq!(store.log_changes(vec![change]).await, Logged::Flushed);
        assert_eq!(unstated_blocks(directory.path()), 0, "the change is carried out now");
        append(&store, &replica, &acks, &mut batch(1, None, &[8; 500])).await;
        acks.all_arrived(&store).await;
        assert_eq!(unstated_blocks(directory.path()), 1);
        store.state_flushed();
        for _ in 0..10_000 {
            if unstated_blocks(directory.path()) == 0 {
                return;
            }
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("nothing states the last flush");
    });
}

/// Records were acknowledged that only the journal has, and a part of it is gone: nothing tells how much
/// of it was needed, at this start or at the next.
#[test]
fn journal_that_was_cut_short_keeps_its_partitions_offline() {
    on_executor(async {
        for rest in [Some((1 << 20) + 100), Some(4096), Some(0), None] {
            let directory = directory();
            let image = claimed(directory.path());
            {
                let store = journalled_after(directory.path(), 16 << 20, None).await;
                let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
                has_room(&store).await;
                let acks = Acks::new(None);
                for _ in 0..3 {
                    append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
                    acks.all_arrived(&store).await;
                }
                next_file_is_made(directory.path()).await;
            }
            let first = directory.path().join("journal.0/00000000.journal");
            #[expect(clippy::disallowed_methods, reason = "a test damages a file")]
            match rest {
                Some(rest) => {
                    std::fs::File::options().write(true).open(&first).unwrap().set_len(rest).unwrap();
                }
                None => std::fs::remove_file(&first).unwrap(),
            }
            let mut image = image;
            for start_number in 0..2u128 {
                let replayed = replay(&start(directory.path(), &image, false), &mut BTreeMap::new()).unwrap();
                let branch = match (start_number, rest) {
                    (0, Some(_)) => RecoveryBranch::JournalFileCut,
                    (0, None) => RecoveryBranch::JournalFileGone,
                    _ => RecoveryBranch::JournalKeptDamaged,
                };
                assert_eq!(replayed.recovery.taken().collect::<Vec<_>>(), [(branch, 1)], "{rest:?}");
                assert_eq!(
                    replayed.corrupt,
                    BTreeSet::from([request(directory.path(), 0, 1).id]),
                    "{rest:?}"
                );
                assert!(replayed.heads.is_empty());
                assert!(directory.path().join("journal.0.damaged.1").exists());
                assert!(!directory.path().join("journal.0").exists());
                // What is made later has lost nothing, and whose the others are does not matter.
                add_topic(&mut image, 2 + start_number, &format!("u{start_number}"), &[0]);
            }
            // A core that is no more: who owned what is not known, and all of it is offline.
            let (kept, lost) =
                (directory.path().join("journal.0.damaged.1"), directory.path().join("journal.5"));
            rename(&kept, &lost);
            remove(&lost.join(LOST_PARTITIONS_FILE));
            let replayed = replay(&start(directory.path(), &image, false), &mut BTreeMap::new()).unwrap();
            assert_eq!(replayed.corrupt.len(), 3, "{rest:?}");
        }
    });
}

/// A start with fewer cores finds that one of before has lost its journal, and ends before it serves: the next
/// one, with as many cores as before, knows whose it was.
#[test]
fn lost_journal_was_of_the_partitions_that_its_core_had_before() {
    let directory = directory();
    std::fs::create_dir(directory.path().join("journal.1")).unwrap();
    std::fs::File::create_new(directory.path().join("journal.1/00000001.journal")).unwrap();
    let owned_by = |cores, owners: &[u16]| {
        let mut image = image_of(&[node(1, cores, Routing::Node)]);
        add_topic(&mut image, 1, "t", owners);
        image
    };
    let (before, image) = (owned_by(2, &[1, 0]), owned_by(1, &[0, 0]));
    let lost = BTreeSet::from([request(directory.path(), 0, 1).id]);
    let fewer = ReplayStart { before: &before, ..start(directory.path(), &image, false) };
    assert_eq!(replay(&fewer, &mut BTreeMap::new()).unwrap().corrupt, lost);
    let again = replay(&start(directory.path(), &before, false), &mut BTreeMap::new()).unwrap();
    assert_eq!(again.corrupt, lost);
}

/// Its directory was missing while a start with fewer cores moved what the core had, and while one with as many
/// as before followed.
#[test]
fn lost_journal_may_be_of_partitions_that_were_moved_since() {
    let lost = || {
        let directory = directory();
        std::fs::create_dir(directory.path().join("journal.1")).unwrap();
        std::fs::File::create_new(directory.path().join("journal.1/00000001.journal")).unwrap();
        directory
    };
    let mut image = image_of(&[node(1, 2, Routing::Node)]);
    add_topic(&mut image, 1, "t", &[1, 0]);
    for cores in [1, 2] {
        for record in registration(&image, node(1, cores, Routing::Node), cores.into()).unwrap() {
            image.apply(&record).unwrap();
        }
    }
    let directory = lost();
    let replayed = replay(&start(directory.path(), &image, false), &mut BTreeMap::new()).unwrap();
    assert_eq!(replayed.corrupt, BTreeSet::from([request(directory.path(), 0, 1).id]));
    // Another core's checkpoint has it: then that journal has nothing of it that is not in its segments.
    let id = request(directory.path(), 0, 1).id;
    for (shard, expected) in [(0, BTreeSet::new()), (1, BTreeSet::from([id]))] {
        let directory = lost();
        let checkpointed_by = BTreeMap::from([(id, BTreeSet::from([ShardId(shard)]))]);
        let start =
            ReplayStart { checkpointed_by: &checkpointed_by, ..start(directory.path(), &image, false) };
        assert_eq!(replay(&start, &mut BTreeMap::new()).unwrap().corrupt, expected, "{shard}");
    }
}

/// Without a journal too, as the shard that had it may write its next checkpoint before the one that has it.
#[test]
fn partition_that_moves_to_another_core_keeps_its_recovery_point() {
    for (clean, moves, is_elsewhere) in
        [(false, false, false), (true, true, false), (true, false, false), (true, false, true)]
    {
        let directory = directory();
        let owned_by = |owner| {
            let mut image = image_of(&[node(1, 2, Routing::Node)]);
            add_topic(&mut image, 1, "t", &[owner]);
            image
        };
        let (before, image) = (owned_by(u16::from(moves)), owned_by(0));
        let id = request(directory.path(), 0, 1).id;
        let point = PartitionPoint {
            log_start: offset(3),
            flushed_end: offset(9),
            segment_base: offset(3),
            file_position: 700,
        };
        let mut points = BTreeMap::from([(id, point)]);
        // Its owner has changed while the node was down, too.
        let checkpointed_by = BTreeMap::from([(id, BTreeSet::from([ShardId(u16::from(is_elsewhere))]))]);
        let moving = ReplayStart {
            before: &before,
            checkpointed_by: &checkpointed_by,
            ..start(directory.path(), &image, clean)
        };
        replay(&moving, &mut points).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test looks at a file")]
        let written = std::fs::read(directory.path().join(checkpoint_name(ShardId(0))));
        let points = written.ok().map(|bytes| Checkpoint::decode(&bytes).unwrap().points);
        let expected = (!clean || moves || is_elsewhere).then(|| BTreeMap::from([(id, point)]));
        assert_eq!(points, expected, "{clean}, {moves}, {is_elsewhere}");
    }
}

pub(super) fn start<'a>(data_dir: &'a Path, image: &'a Image, clean: bool) -> ReplayStart<'a> {
    ReplayStart {
        data_dir,
        image,
        before: image,
        node: NodeId(1),
        is_here: &|_| true,
        clean,
        sync_fs: SyncFs::Metadata,
        checkpointed_by: const { &BTreeMap::new() },
        generation: CheckpointGeneration(1),
        keep: Some(Keep { limits: LIMITS, shard_count: 1 }),
        replicas_removed: false,
    }
}

/// The metadata's topic `t`, whose first partition's directory is there.
pub(super) fn claimed(data_dir: &Path) -> Image {
    claimed_with(data_dir, &[0])
}

/// With so many partitions, each of a shard.
pub(super) fn claimed_with(data_dir: &Path, owners: &[u16]) -> Image {
    let mut image = image_of(&[node(1, 1, Routing::Node)]);
    add_topic(&mut image, 1, "t", owners);
    let directory = data_dir.join("t-0");
    if std::fs::create_dir(&directory).is_ok() {
        std_write(&directory.join(SegmentFile::Log.name(Offset::ZERO)), b"");
    }
    std_write(&directory.join(PARTITION_METADATA), ownership::encode(topic_id(1)).as_bytes());
    image
}

pub(super) fn read_checkpoint(data_dir: &Path) -> BTreeMap<TopicPartition, PartitionPoint> {
    let path = data_dir.join(checkpoint_name(ShardId(0)));
    if path.exists() { Checkpoint::decode(&std_read(&path)).unwrap().points } else { BTreeMap::new() }
}

pub(super) async fn has_room(store: &Rc<Store>) {
    store.pump();
    while !store.has_journal_room() {
        glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Waits for the file that is made ahead: tasks do not end with a store here.
pub(super) async fn next_file_is_made(data_dir: &Path) {
    for _ in 0..30_000 {
        if data_dir.join("journal.0/00000001.journal").exists() {
            return;
        }
        glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("the second file was not made");
}

/// Blocks with entries whose damage a start would take for a torn tail.
fn unstated_blocks(data_dir: &Path) -> usize {
    let files = ["00000000.journal", "00000001.journal"].map(|name| data_dir.join("journal.0").join(name));
    let files = files.map(|path| std_read(&path));
    let mut found = Replay::default();
    for (file, bytes) in files.iter().enumerate() {
        let read = |position: u64, size: usize| {
            let rest = &bytes[position as usize..];
            Ok::<_, std::convert::Infallible>(rest[..size.min(rest.len())].to_vec())
        };
        let Ok(_) = found.scan_file(FileIndex(file as u32), bytes.len() as u64, read);
    }
    let has_entries = |block: &FoundBlock| {
        let bytes = &files[block.file.0 as usize][block.position as usize..][..block.size];
        BlockView::decode(bytes, block.position).unwrap().entries().next().is_some()
    };
    let unstated = found.blocks().filter(|(sequence, _)| !found.is_flushed(*sequence));
    unstated.filter(|(_, block)| has_entries(block)).count()
}

fn inode(data_dir: &Path, name: &str) -> u64 {
    std::fs::metadata(data_dir.join("journal.0").join(name)).unwrap().ino()
}

/// A tick that goes over a roll may lose its last block: what it has of the closed segment does not reach beyond
/// it, or the next start would miss what was never flushed.
#[test]
fn bytes_of_a_closed_segment_reach_its_end() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 64 << 20);
        let replica = open_partition(&store, directory.path(), 0, 10_000).await;
        let acks = Acks::new(None);
        for _ in 0..3 {
            append(&store, &replica, &acks, &mut batch(1, None, &[1; 2800])).await;
            acks.all_arrived(&store).await;
        }
        while replica.segments.spare_size().is_none() {
            replica.ready.notified().await;
        }
        for _ in 0..2 {
            append(&store, &replica, &acks, &mut batch(1, None, &[2; 900])).await;
        }
        let mut items = Vec::new();
        replica.tick_items(offset(5), &mut items);
        let ends: Vec<(u64, u64)> = items
            .iter()
            .filter_map(|item| match item {
                TickItem::Bytes { place, end, .. } => Some((place.segment.get(), end.get())),
                TickItem::Closed { .. } => None,
            })
            .collect();
        assert_eq!(ends, [(0, 4), (4, 5)]);
        acks.all_arrived(&store).await;
    });
}
