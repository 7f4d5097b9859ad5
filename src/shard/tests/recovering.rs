//! Every branch of recovery: a directory as that one finds it, what the start makes of it, and that it is
//! counted. What each leaves of the log is also told elsewhere, in more detail.

use super::journalled::{claimed, has_room, journalled_after, next_file_is_made, start};
use super::*;
use crate::cluster::image::tests::topic_id;
use crate::cluster::quorum::members::PeerId;
use crate::cluster::record::{ConfigResource, Record};
use crate::codec::record_batch::BatchProducer;
use crate::log::compaction::plan::CompactionLimits;
use crate::log::compaction::swap::{Interrupted, cleaned_name};
use crate::log::data_dir::{checkpoint_name, final_state_name};
use crate::log::epochs::LeaderEpochs;
use crate::log::journal::block::{BlockHeader, BlockSequence, BlockWriter, FileEpoch};
use crate::log::named_partitions::DOUBTFUL_PARTITIONS_FILE;
use crate::log::ownership::{self, PARTITION_METADATA};
use crate::log::producers::{AcceptedBatch, ProducerEvent, Producers};
use crate::metrics::recovery::{RecoveryBranch, RecoveryCounts};
use crate::shard::background::keep_checkpoint;
use crate::shard::conn::tests::shard_of;
use crate::shard::doubts;
use crate::shard::final_state::take_final_states;
use crate::shard::journal::damaged_directory_name;
use crate::shard::journal_replay::{ReplayStart, Replayed, replay};
use crate::shard::kept_journals;
use crate::shard::partitions::{LastStop, open_all, take_off};
use crate::shard::quorum::start::Metadata;
use crate::shard::recover::read_last_stop;
use crate::shard::replay::producers_before;
use crate::shard::segments::EPOCHS_FILE;
use crate::shard::stores::Stores;
use crate::types::{NodeId, ShardId, Timestamp};
use std::collections::BTreeSet;

/// What a start makes of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Everything is there.
    Whole,
    /// Its first segment is not.
    Shorter,
    Offline,
}

/// One way to find a partition.
struct Case {
    branch: RecoveryBranch,
    outcome: Outcome,
    /// Given its directory and the base offsets of its segments.
    damage: fn(&Path, &[Offset]),
    /// Given what the last run knew.
    ask: fn(&mut OpenRequest, PartitionPoint),
}

fn as_it_is(_: &mut OpenRequest, _: PartitionPoint) {}

fn untouched(_: &Path, _: &[Offset]) {}

const PARTITIONS: &[Case] = &[
    Case {
        branch: RecoveryBranch::TornTailCut,
        outcome: Outcome::Whole,
        damage: |directory, _| tear(&newest_log(directory.parent().unwrap()), &[7; 600]),
        ask: as_it_is,
    },
    Case {
        branch: RecoveryBranch::SegmentDamaged,
        outcome: Outcome::Offline,
        damage: |directory, _| flip(&newest_log(directory.parent().unwrap()), 100),
        ask: |request, point| request.point = Some(point),
    },
    Case {
        branch: RecoveryBranch::LogShort,
        outcome: Outcome::Offline,
        damage: untouched,
        ask: |request, point| request.journal_end = point.flushed_end.advance(1),
    },
    // All that would say how long the log was has gone with its segments.
    Case {
        branch: RecoveryBranch::LogShort,
        outcome: Outcome::Offline,
        damage: |directory, bases| {
            bases.iter().for_each(|base| remove(&directory.join(SegmentFile::Log.name(*base))));
        },
        ask: as_it_is,
    },
    Case {
        branch: RecoveryBranch::CleanStateUnusable,
        outcome: Outcome::Whole,
        damage: untouched,
        ask: |request, point| (request.point, request.clean) = (Some(point), true),
    },
    Case {
        branch: RecoveryBranch::LogStartByNames,
        outcome: Outcome::Shorter,
        damage: |directory, bases| remove(&directory.join(SegmentFile::Log.name(bases[0]))),
        ask: as_it_is,
    },
    Case {
        branch: RecoveryBranch::IndexRebuilt,
        outcome: Outcome::Whole,
        damage: |directory, bases| remove(&directory.join(SegmentFile::TimeIndex.name(bases[1]))),
        ask: as_it_is,
    },
    Case {
        branch: RecoveryBranch::ProducersRebuilt,
        outcome: Outcome::Whole,
        damage: |directory, bases| {
            remove(&directory.join(SegmentFile::ProducerSnapshot.name(*bases.last().unwrap())));
        },
        ask: as_it_is,
    },
    Case {
        branch: RecoveryBranch::EpochsRebuilt,
        outcome: Outcome::Whole,
        damage: |directory, _| std_write(&directory.join(EPOCHS_FILE), b"no epochs"),
        ask: as_it_is,
    },
    Case {
        branch: RecoveryBranch::SwapCompleted,
        outcome: Outcome::Whole,
        damage: |directory, bases| {
            rename(
                &directory.join(SegmentFile::Log.name(bases[1])),
                &directory.join(Interrupted::log_name(bases[1])),
            );
        },
        ask: as_it_is,
    },
    // How far it reaches is not known, and with it not which others it replaces: none is removed.
    Case {
        branch: RecoveryBranch::SegmentDamaged,
        outcome: Outcome::Offline,
        damage: |directory, bases| {
            let swapped = directory.join(Interrupted::log_name(bases[1]));
            rename(&directory.join(SegmentFile::Log.name(bases[1])), &swapped);
            let last = std_read(&swapped).len() / 2; // Of its two batches.
            flip(&swapped, last + 5);
        },
        ask: as_it_is,
    },
    Case {
        branch: RecoveryBranch::SwapUndone,
        outcome: Outcome::Whole,
        damage: |directory, bases| {
            std_write(&directory.join(cleaned_name(SegmentFile::Log, bases[1])), b"half of it");
        },
        ask: as_it_is,
    },
];

#[test]
fn every_way_to_find_a_partition_is_put_right_and_counted() {
    on_executor(async {
        for case in PARTITIONS {
            let directory = directory();
            let (point, bases, written) = {
                let store = store(None, 8 << 20);
                let replica = open_partition(&store, directory.path(), 0, 1_500).await;
                let acks = Acks::new(None);
                for sequence in 0..11 {
                    append(&store, &replica, &acks, &mut batch(1, Some(sequence), &[7; 500])).await;
                }
                acks.all_arrived(&store).await;
                let log = replica.log.borrow();
                let segments = log.closed().iter().chain([log.active()]);
                let bases: Vec<Offset> = segments.map(|segment| segment.base_offset).collect();
                (point_of(&replica), bases, log.log_end())
            };
            assert!(bases.len() > 3);
            (case.damage)(&directory.path().join("t-0"), &bases);
            let branch = case.branch;
            let mut request = request(directory.path(), 0, 1_500);
            (case.ask)(&mut request, point);
            let store = store(None, 8 << 20);
            match open(&store, request).await {
                Err(OpenFailed::Corrupt { .. }) => assert_eq!(case.outcome, Outcome::Offline, "{branch:?}"),
                Err(error) => panic!("{branch:?}: {error}"),
                Ok(replica) => {
                    replica.index_timestamps(&store).await.unwrap();
                    let log = replica.log.borrow();
                    let first = if case.outcome == Outcome::Shorter { bases[1] } else { Offset::ZERO };
                    assert_ne!(case.outcome, Outcome::Offline, "{branch:?}");
                    assert_eq!((log.log_start(), log.log_end()), (first, written), "{branch:?}");
                }
            }
            assert_eq!(taken(&store.metrics.borrow().recovery), [(branch, 1)]);
        }
    });
}

/// Of the log before its oldest segment nothing is left: of sequences, a compacted one has no other word than
/// that segment's snapshot, which may have an open transaction.
#[test]
fn sequences_of_the_oldest_snapshot_survive_although_a_transaction_is_open() {
    on_executor(async {
        let directory = directory();
        let [oldest, active] = [17, 28].map(|offset| Offset::from_wire(offset).unwrap());
        let mut request = request(directory.path(), 0, 1_500);
        claimed(directory.path());
        let (producer, next) = (ProducerId(22), Sequence(4));
        let mut producers = Producers::new();
        producers.take(&ProducerEvent::Batch(AcceptedBatch {
            producer: BatchProducer {
                id: producer,
                epoch: ProducerEpoch(0),
                base_sequence: Sequence(1),
                last_sequence: Sequence(3),
                is_transactional: true,
            },
            base_offset: Offset::from_wire(11).unwrap(),
            last_offset: Offset::from_wire(13).unwrap(),
            timestamp: Timestamp(5),
            appended_at: Timestamp(5),
        }));
        let of_segment = |file: SegmentFile| request.directory.join(file.name(oldest));
        std_write(&of_segment(SegmentFile::ProducerSnapshot), &producers.encode_snapshot());
        std_write(&of_segment(SegmentFile::Log), b"");
        for compact in [None, Some(limits())] {
            Rc::make_mut(&mut request.config).cleanup.compact = compact;
            let store = store(None, 8 << 20);
            let found = producers_before(&store, &request, &[oldest], active, &mut LeaderEpochs::new())
                .await
                .unwrap();
            let open = found.first_open_transaction();
            assert_eq!(open.map(Offset::to_wire), compact.is_none().then_some(11));
            let goes_on = BatchProducer {
                id: producer,
                epoch: ProducerEpoch(0),
                base_sequence: next,
                last_sequence: next,
                is_transactional: false,
            };
            assert!(found.last_record(producer).is_some_and(|record| record.last_offset.is_some()));
            if compact.is_some() {
                assert!(found.check(&goes_on).is_ok());
            }
            remove(&request.directory.join(SegmentFile::ProducerSnapshot.name(active)));
        }
    });
}

fn limits() -> CompactionLimits {
    CompactionLimits { delete_retention_ms: 0, min_lag_ms: 0, max_lag_ms: i64::MAX, min_dirty_ppm: 0 }
}

/// What a whole partition counts: nothing.
#[test]
fn an_unclean_stop_that_has_lost_nothing_counts_no_branch() {
    on_executor(async {
        let directory = directory();
        for _ in 0..2 {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 1_500).await;
            let acks = Acks::new(None);
            for _ in 0..8 {
                append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
            }
            acks.all_arrived(&store).await;
            assert_eq!(store.metrics.borrow().recovery, RecoveryCounts::default());
        }
    });
}

#[test]
fn directories_that_are_not_the_partitions_are_counted() {
    on_executor(async {
        let id = request(Path::new(""), 0, 1).id;
        let mut lost = Replayed::default();
        lost.corrupt.insert(id);
        let unknown = ownership::encode(TopicId(Uuid::from_u128(77)));
        let cases = [
            (RecoveryBranch::DirectoryPutAside, unknown, Replayed::default(), true),
            (RecoveryBranch::DirectoryForeign, "nobody's".to_owned(), Replayed::default(), false),
            (RecoveryBranch::JournalPartitionOffline, ownership::encode(topic_id(1)), lost, false),
        ];
        for (branch, owner, journal, is_served) in cases {
            let directory = directory();
            claimed(directory.path());
            std_write(&directory.path().join("t-0").join(PARTITION_METADATA), owner.as_bytes());
            let store = store_at(directory.path());
            let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
            let last = LastStop { journal, ..LastStop::default() };
            open_all(&shard, &[&last]).await;
            assert_eq!(store.find(&id).is_some(), is_served, "{branch:?}");
            assert_eq!(taken(&store.metrics.borrow().recovery), [(branch, 1)]);
        }
    });
}

/// It may come again, and begins empty then: a start does not take the new one for the one that had lost something.
#[test]
fn what_a_journal_has_lost_of_a_replica_goes_with_the_replica() {
    on_executor(async {
        let id = request(Path::new(""), 0, 1).id;
        for leaves_while_up in [true, false] {
            let directory = directory();
            let image = claimed(directory.path());
            let kept = directory.path().join(damaged_directory_name(ShardId(0), 1));
            std::fs::create_dir(&kept).unwrap();
            kept_journals::write(&kept, &BTreeSet::from([id])).unwrap();
            let here = || start(directory.path(), &image, false);
            let journal = replay(&here(), &mut BTreeMap::new()).unwrap();
            assert_eq!(journal.corrupt, BTreeSet::from([id]));
            if leaves_while_up {
                let store = store_at(directory.path());
                let shard = shard_of(Stores::new(vec![store]), directory.path(), &[0]).await;
                let last = LastStop { journal, ..LastStop::default() };
                open_all(&shard, &[&last]).await;
                take_off(&shard, &[id]).await;
            } else {
                let elsewhere = ReplayStart { node: NodeId(2), ..here() };
                replay(&elsewhere, &mut BTreeMap::new()).unwrap();
            }
            let again = replay(&here(), &mut BTreeMap::new()).unwrap();
            assert_eq!(again.corrupt, BTreeSet::new(), "leaves while up: {leaves_while_up}");
        }
    });
}

/// The same where it has left before a start finds out what the journal has lost.
#[test]
fn nothing_is_lost_of_a_replica_that_is_elsewhere() {
    let directory = directory();
    let image = claimed(directory.path());
    std::fs::create_dir(directory.path().join("journal.0")).unwrap();
    std::fs::File::create_new(directory.path().join("journal.0/00000001.journal")).unwrap();
    let elsewhere = ReplayStart { node: NodeId(2), ..start(directory.path(), &image, false) };
    let replayed = replay(&elsewhere, &mut BTreeMap::new()).unwrap();
    assert_eq!(replayed.corrupt.len(), 1, "the first of its files is gone");
    let again = replay(&start(directory.path(), &image, false), &mut BTreeMap::new()).unwrap();
    assert_eq!(again.corrupt, BTreeSet::new());
}

/// A tail is cut, and the next start finds nothing to doubt: it has to know all the same.
#[test]
fn a_doubt_outlives_the_start_that_has_it() {
    let directory = directory();
    let image = claimed(directory.path());
    let id = request(Path::new(""), 0, 1).id;
    on_executor(async {
        let store = store_at(directory.path());
        std_write(&directory.path().join("t-0").join(SegmentFile::Log.name(Offset::ZERO)), &[7; 600]);
        open_partition(&store, directory.path(), 0, 1 << 20).await;
        assert_eq!(taken(&store.metrics.borrow().recovery), [(RecoveryBranch::TornTailCut, 1)]);
    });
    let next = || replay(&start(directory.path(), &image, false), &mut BTreeMap::new()).unwrap();
    assert_eq!(next().doubtful, BTreeSet::from([id]));
    on_executor(async { doubts::forget(store_at(directory.path()), BTreeSet::from([id])).await });
    assert_eq!(next().doubtful, BTreeSet::new());
    std_write(&directory.path().join(DOUBTFUL_PARTITIONS_FILE), b"damaged");
    assert_eq!(next().doubtful, BTreeSet::from([id]), "it may be any");
}

#[test]
fn small_files_that_cannot_be_read_are_counted() {
    let directory = directory();
    std_write(&directory.path().join(checkpoint_name(ShardId(0))), b"damaged");
    let (last, _) = read_last_stop(directory.path()).unwrap();
    assert!(last.points.is_empty() && !last.clean);
    assert_eq!(taken(&last.recovery), [(RecoveryBranch::CheckpointUnreadable, 1)]);

    std_write(&directory.path().join(final_state_name(ShardId(0))), b"damaged");
    let mut recovery = RecoveryCounts::default();
    assert!(take_final_states(directory.path(), true, &mut recovery).unwrap().is_empty());
    assert_eq!(taken(&recovery), [(RecoveryBranch::FinalStateUnreadable, 1)]);

    let me = PeerId::new(NodeId(1), 7);
    let mut metadata = Metadata::open(directory.path(), me).unwrap().metadata;
    metadata.commit(&claimed(directory.path()).snapshot()).unwrap();
    let path = directory.path().join("metadata/00000000000000000000.log");
    let whole = std_read(&path);
    let setting = |value: &str| Record::ConfigSet {
        resource: ConfigResource::Brokers,
        key: "log.retention.ms".to_string(),
        value: Some(value.to_string()),
    };
    metadata.commit(&[setting("1")]).unwrap();
    drop(metadata);
    let torn = std_read(&path);
    assert!(torn.len() > whole.len() && torn.starts_with(&whole));
    std_write(&path, &torn[..whole.len() + 20]);
    let found = Metadata::open(directory.path(), me).unwrap();
    assert_eq!(taken(&found.recovery), [(RecoveryBranch::MetadataEntryTorn, 1)]);
    assert_eq!(found.image.settings(&ConfigResource::Brokers), None, "it was never answered");
    drop(found);
    assert!(std_read(&path).starts_with(&whole), "the torn one is cut");
    assert!(Metadata::open(directory.path(), me).unwrap().recovery == RecoveryCounts::default());
}

/// Blocks of a journal's only file, by sequence: up to which one each states flushes, or whether it is
/// damaged.
#[test]
fn every_verdict_on_a_journal_is_counted() {
    #[derive(Clone, Copy)]
    enum Block {
        States(u64),
        Damaged,
        Missing,
    }
    use Block::{Damaged, Missing, States};
    let cases: &[(&[Block], &[RecoveryBranch], bool)] = &[
        (&[States(1), States(2), States(3)], &[], true),
        (&[States(1), States(2), Damaged], &[RecoveryBranch::JournalBlockDamaged], true),
        (&[States(1), Missing, States(2)], &[RecoveryBranch::JournalBlockBeyondGap], true),
        (&[States(1), Missing, States(3)], &[RecoveryBranch::JournalBlockGone], false),
        (
            &[States(1), Damaged, States(3)],
            &[RecoveryBranch::JournalBlockDamaged, RecoveryBranch::JournalBlockGone],
            false,
        ),
    ];
    const BLOCK: usize = 4096;
    for (at, (blocks, expected, is_whole)) in cases.iter().enumerate() {
        let directory = directory();
        let image = claimed(directory.path());
        let mut bytes = vec![0; 16 * BLOCK];
        for (at, block) in blocks.iter().enumerate() {
            let flushed = match block {
                States(flushed) => *flushed,
                Damaged => 1,
                Missing => continue,
            };
            let header = BlockHeader {
                shard: ShardId(0),
                epoch: FileEpoch(1),
                position: (at * BLOCK) as u64,
                sequence: BlockSequence(at as u64 + 1),
                flushed: BlockSequence(flushed),
                needed: BlockSequence(1),
                file_size: bytes.len() as u64,
            };
            let out = &mut bytes[at * BLOCK..(at + 1) * BLOCK];
            BlockWriter::new(out, 0).finish(&header);
            out[41] ^= u8::from(matches!(block, Damaged));
        }
        let journal = directory.path().join("journal.0");
        std::fs::create_dir(&journal).unwrap();
        std_write(&journal.join("00000000.journal"), &bytes);
        let replayed = replay(&start(directory.path(), &image, false), &mut BTreeMap::new()).unwrap();
        let counted: Vec<RecoveryBranch> = replayed.recovery.taken().map(|(branch, _)| branch).collect();
        assert_eq!(counted, *expected, "{at}");
        assert_eq!(replayed.corrupt.is_empty(), *is_whole, "{at}");
    }
}

#[test]
fn damage_to_committed_bytes_in_a_journal_is_counted() {
    on_executor(async {
        let directory = directory();
        let image = claimed(directory.path());
        {
            let store = journalled_after(directory.path(), 16 << 20, None).await;
            let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
            has_room(&store).await;
            let acks = Acks::new(None);
            for value in 0..3 {
                append(&store, &replica, &acks, &mut batch(1, None, &[value + 0x51; 500])).await;
                acks.all_arrived(&store).await;
            }
            next_file_is_made(directory.path()).await;
        }
        let path = directory.path().join("journal.0/00000000.journal");
        let first = std_read(&path).windows(100).position(|bytes| bytes == [0x51; 100]).unwrap();
        flip(&path, first);
        let replayed = replay(&start(directory.path(), &image, false), &mut BTreeMap::new()).unwrap();
        assert_eq!(replayed.corrupt, BTreeSet::from([request(directory.path(), 0, 1).id]));
        assert_eq!(taken(&replayed.recovery), [(RecoveryBranch::JournalEntryDamaged, 1)]);
    });
}

/// A failed write beside the segments is one of the disk: the next flush of their directory would not be
/// believed rightly.
#[test]
fn a_file_beside_a_segment_that_cannot_be_written_takes_the_directory_offline() {
    on_executor(async {
        for file in [SegmentFile::TimeIndex, SegmentFile::Checksums, SegmentFile::ProducerSnapshot] {
            let directory = directory();
            let bases: Vec<Offset> = {
                let store = store(None, 8 << 20);
                let replica = open_partition(&store, directory.path(), 0, 1_500).await;
                let acks = Acks::new(None);
                for _ in 0..8 {
                    append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
                }
                acks.all_arrived(&store).await;
                let log = replica.log.borrow();
                log.closed().iter().chain([log.active()]).map(|segment| segment.base_offset).collect()
            };
            let is_snapshot = file == SegmentFile::ProducerSnapshot;
            let base = if is_snapshot { *bases.last().unwrap() } else { bases[0] };
            // A directory in the place of the name.
            let path = directory.path().join("t-0").join(file.name(base));
            remove(&path);
            std::fs::create_dir(&path).unwrap();
            std::fs::create_dir(path.join("in the way")).unwrap();
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 1_500).await;
            replica.index_timestamps(&store).await.unwrap();
            assert!(!read_all(&store, &replica, 1 << 20).await.is_empty(), "reads go on");
            assert!(store.is_offline(), "{file:?}");
        }
    });
}

#[test]
fn checkpoint_that_cannot_be_written_takes_the_directory_offline() {
    on_executor(async {
        for is_blocked in [false, true] {
            let directory = directory();
            if is_blocked {
                let path = directory.path().join(checkpoint_name(ShardId(0)));
                std::fs::create_dir(&path).unwrap();
                std::fs::create_dir(path.join("in the way")).unwrap();
            }
            let store = store_at(directory.path());
            let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
            keep_checkpoint(&shard, &store).await;
            assert_eq!(store.is_offline(), is_blocked);
        }
    });
}

fn taken(counts: &RecoveryCounts) -> Vec<(RecoveryBranch, u64)> {
    counts.taken().collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std_read(path);
    bytes[at] ^= 1;
    std_write(path, &bytes);
}

fn store_at(path: &Path) -> Rc<Store> {
    let memory = MemoryPlan { tail: 8 << 20, unflushed: 8 << 20, read: 1 << 20, ..MemoryPlan::new(0) };
    let metrics = Rc::new(RefCell::new(ShardMetrics::new()));
    let dir = StoreDir {
        index: LogDirIndex::METADATA,
        path: path.to_owned(),
        generation: CheckpointGeneration::default(),
    };
    let shared = Shared::new(Clock::new(), metrics, &memory, 1);
    Store::new(&shared, dir, Disk::new(SyncFs::Metadata, None), None)
}
