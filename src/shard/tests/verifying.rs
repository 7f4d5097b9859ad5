//! What the disk hands back is what was written, or it is refused: closed segments, and what of the active
//! one has left memory.

use super::*;
use crate::codec::record_batch::{assign_offset, seal};
use crate::log::checksums::{Extent, SegmentChecksums};
use crate::log::final_state::PartitionState;
use crate::log::read::ListOffsetsTarget;
use crate::shard::api::list_offsets::look_up;
use crate::shard::reader::ReadBytes;
use crate::types::Timestamp;

/// Bytes of a batch; five of them are an extent.
const BATCH_SIZE: u64 = 61 + 8_000;
const COUNT: u64 = 40;
const SEGMENT_SIZE: u64 = 20 * BATCH_SIZE;

/// A log of two segments of twenty batches, none of it in memory. The first is closed.
async fn filled(directory: &Path) -> (Rc<Store>, Rc<Replica>) {
    let store = store(None, 2 << 20);
    let replica = open_partition(&store, directory, 0, SEGMENT_SIZE).await;
    let acks = Acks::new(None);
    for number in 0..COUNT {
        append(&store, &replica, &acks, &mut batch(1, None, &[number as u8; 8_000])).await;
        acks.all_arrived(&store).await;
    }
    evict(&replica);
    assert_eq!(replica.log.borrow().closed().len(), 1);
    (store, replica)
}

fn evict(replica: &Replica) {
    while replica.evict_oldest() {}
    replica.reads.forget();
}

async fn read(store: &Rc<Store>, replica: &Rc<Replica>, at: u64) -> Result<ReadBytes, ReadFailed> {
    replica.read(&Reading::own(store), offset(at), 1 << 20).await
}

fn file(directory: &Path, file: SegmentFile, base: u64) -> PathBuf {
    directory.join("t-0").join(file.name(offset(base)))
}

/// Batches from `at` on until a read fails, or the end.
async fn count_from(store: &Rc<Store>, replica: &Rc<Replica>, at: u64) -> u64 {
    let mut next = at;
    while next < COUNT {
        let Ok(read) = read(store, replica, next).await else { break };
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
        let mut rest = &bytes[..];
        while let Ok((view, after)) = BatchView::split_first(rest) {
            assert_eq!((view.base_offset(), view.validate_stored()), (offset(next), Ok(())));
            assert!(view.payload().iter().all(|byte| *byte == next as u8));
            next += 1;
            rest = after;
        }
        assert!(rest.is_empty());
    }
    next - at
}

#[test]
fn a_changed_byte_is_refused_and_all_else_is_served() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = filled(directory.path()).await;
        for base in [0, 20] {
            let log = file(directory.path(), SegmentFile::Log, base);
            let whole = std_read(&log);
            // In the second batch of the second extent.
            let at = 6 * BATCH_SIZE;
            for (what, byte) in [
                ("base offset", 7),
                ("length", 11),
                ("leader epoch", 15),
                ("magic", 16),
                ("crc", 20),
                ("max timestamp", 42),
                ("payload", 4_000),
            ] {
                overwrite(&log, at + byte, &[whole[(at + byte) as usize] ^ 1]);
                evict(&replica);
                assert_eq!(count_from(&store, &replica, base).await, 5, "{what}: up to the extent");
                let Err(failed) = read(&store, &replica, base + 6).await else { panic!("{what}: served") };
                let ReadFailed::Damaged { segment, damage } = &failed else { panic!("{what}: {failed}") };
                assert_eq!(segment.get(), base, "{what}");
                assert!(
                    (5 * BATCH_SIZE..10 * BATCH_SIZE).contains(&damage.file_position),
                    "{what}: {damage}"
                );
                let name = SegmentFile::Log.name(offset(base));
                assert!(failed.to_string().starts_with(&format!("{name} is damaged at byte ")), "{failed}");
                assert_eq!(
                    count_from(&store, &replica, base + 10).await,
                    COUNT - base - 10,
                    "{what}: behind it"
                );
                overwrite(&log, at + byte, &[whole[(at + byte) as usize]]);
                evict(&replica);
            }
        }
        let told = store.metrics.borrow().read_corruption;
        let failed = ReadFailed::Damaged {
            segment: offset(0),
            damage: crate::log::checksums::walk::DamageAt {
                file_position: 1,
                damage: crate::log::recovery::Damage::CutOff,
            },
        };
        (0..3).for_each(|_| replica.tell(&store, &failed));
        assert_eq!(store.metrics.borrow().read_corruption, told + 3);
        assert_eq!(count_from(&store, &replica, 0).await, COUNT, "as it was");
    });
}

#[test]
fn a_whole_batch_of_elsewhere_is_refused() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = filled(directory.path()).await;
        for base in [0, 20] {
            let log = file(directory.path(), SegmentFile::Log, base);
            let whole = std_read(&log);
            let at = 6 * BATCH_SIZE;
            let here = whole[at as usize..(at + BATCH_SIZE) as usize].to_vec();
            // Of another partition, at this offset; and one that was here before.
            let mut foreign = batch(1, None, &[0xee; 8_000]);
            assign_offset(&mut foreign, offset(base + 6), LeaderEpoch(0));
            let mut stale = here.clone();
            stale[100] ^= 1;
            seal(&mut stale);
            let neighbour = whole[(at + BATCH_SIZE) as usize..(at + 2 * BATCH_SIZE) as usize].to_vec();
            for (what, bytes) in [("foreign", foreign), ("stale", stale), ("its neighbour", neighbour)] {
                BatchView::split_first(&bytes).unwrap().0.validate_stored().unwrap();
                overwrite(&log, at, &bytes);
                evict(&replica);
                let refused = read(&store, &replica, base + 6).await;
                assert!(matches!(refused, Err(ReadFailed::Damaged { .. })), "{what}");
                assert_eq!(count_from(&store, &replica, base).await, 5, "{what}");
                overwrite(&log, at, &here);
            }
        }
    });
}

#[test]
fn look_ups_and_indexes_believe_no_damage() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = filled(directory.path()).await;
        let log = file(directory.path(), SegmentFile::Log, 0);
        let byte = 7;
        let before = std_read(&log)[byte];
        overwrite(&log, byte as u64, &[before ^ 1]);
        evict(&replica);
        let found = look_up(&store, &replica, ListOffsetsTarget::AtOrAfter(Timestamp(5))).await;
        assert!(matches!(found, Err(ReadFailed::Damaged { .. })));
        remove(&file(directory.path(), SegmentFile::OffsetIndex, 0));
        evict(&replica);
        let refused = read(&store, &replica, 1).await;
        assert!(matches!(refused, Err(ReadFailed::Damaged { .. })));
        overwrite(&log, byte as u64, &[before]);
        assert_eq!(count_from(&store, &replica, 0).await, COUNT);
    });
}

#[test]
fn a_companion_that_is_gone_or_wrong_is_built_again() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = filled(directory.path()).await;
        let path = file(directory.path(), SegmentFile::Checksums, 0);
        let whole = std_read(&path);
        let extents =
            SegmentChecksums::decode(replica.segment_id(Offset::ZERO), SEGMENT_SIZE, &whole).unwrap();
        assert_eq!(extents.count(), 4);
        let mut flipped = whole.clone();
        flipped[60] ^= 1;
        // As large a segment, of which the checksums are others.
        let mut other = SegmentChecksums::new(replica.segment_id(Offset::ZERO));
        other.observe(&[7; 61], SEGMENT_SIZE as u32 - 1);
        let cases = [
            ("missing", None),
            ("cut", Some(whole[..whole.len() - 8].to_vec())),
            ("empty", Some(Vec::new())),
            ("flipped", Some(flipped)),
            ("of another length", Some(other.encode())),
        ];
        for (at, (what, bytes)) in cases.iter().enumerate() {
            match bytes {
                Some(bytes) => std_write(&path, bytes),
                None => remove(&path),
            }
            evict(&replica);
            assert_eq!(count_from(&store, &replica, 0).await, COUNT, "{what}");
            assert!(std_read(&path) == whole, "{what}: the file is as it was");
            assert_eq!(store.metrics.borrow().checksums_rebuilt, at as u64 + 1, "{what}");
        }
        // Readers that come together wait for one.
        remove(&path);
        evict(&replica);
        let reads = (0..4).map(|at| read(&store, &replica, at));
        for read in futures::future::join_all(reads).await {
            assert!(read.unwrap().size > 0);
        }
        assert_eq!(store.metrics.borrow().checksums_rebuilt, cases.len() as u64 + 1);
    });
}

/// Of a segment without a companion nothing is believed that its batches contradict.
#[test]
fn damage_does_not_get_a_companion() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = filled(directory.path()).await;
        let (log, path) =
            (file(directory.path(), SegmentFile::Log, 0), file(directory.path(), SegmentFile::Checksums, 0));
        let whole = std_read(&log);
        for (what, byte, served) in
            [("base offset", 6, 10), ("leader epoch", 14, 10), ("magic", 16, 10), ("payload", 500, 10)]
        {
            let at = 11 * BATCH_SIZE + byte;
            overwrite(&log, at, &[whole[at as usize] ^ 1]);
            remove(&path);
            evict(&replica);
            assert!(count_from(&store, &replica, 0).await >= served, "{what}");
            let refused = read(&store, &replica, 11).await;
            assert!(matches!(refused, Err(ReadFailed::Damaged { .. })), "{what}");
            assert!(!path.exists(), "{what}");
            // What its own CRC gives away does not cost what lies behind it.
            let behind = count_from(&store, &replica, 15).await;
            assert_eq!(behind, if what == "payload" { COUNT - 15 } else { 0 }, "{what}");
            overwrite(&log, at, &[whole[at as usize]]);
            evict(&replica);
            assert_eq!(count_from(&store, &replica, 0).await, COUNT);
        }
    });
}

#[test]
fn checksums_survive_a_kill_a_roll_and_a_clean_stop() {
    on_executor(async {
        let directory = directory();
        let (expected, point, state) = {
            let (_, replica) = filled(directory.path()).await;
            (extents_of(&replica), point_of(&replica), state_of(&replica))
        };
        // A kill: the active segment is scanned.
        {
            let store = store(None, 2 << 20);
            let replica = open_partition(&store, directory.path(), 0, SEGMENT_SIZE).await;
            assert_eq!(extents_of(&replica), expected);
            assert_eq!(count_from(&store, &replica, 0).await, COUNT);
            assert_eq!(store.metrics.borrow().checksums_rebuilt, 0);
        }
        // A clean stop, with a final state and with files.
        let beside = [
            (SegmentFile::OffsetIndex, 20, &state.offset_index),
            (SegmentFile::TimeIndex, 20, &state.time_index),
            (SegmentFile::Checksums, 20, &state.checksums),
            (SegmentFile::ProducerSnapshot, COUNT, &state.producers),
        ];
        for in_state in [true, false] {
            for (kind, base, bytes) in beside {
                std_write(&file(directory.path(), kind, base), bytes);
            }
            std_write(&directory.path().join("t-0").join(crate::shard::segments::EPOCHS_FILE), &state.epochs);
            let store = store(None, 2 << 20);
            let mut request = request(directory.path(), 0, SEGMENT_SIZE);
            (request.point, request.clean) = (Some(point), true);
            request.state = in_state.then(|| state.clone());
            let replica = open(&store, request).await.unwrap();
            assert_eq!(extents_of(&replica), expected, "{in_state}");
            assert_eq!(count_from(&store, &replica, 0).await, COUNT, "{in_state}");
            assert_eq!(store.metrics.borrow().checksums_rebuilt, 0);
        }
        // And it goes on from there, into the next segment.
        let store = store(None, 2 << 20);
        let replica = open_partition(&store, directory.path(), 0, SEGMENT_SIZE).await;
        let acks = Acks::new(None);
        for _ in 0..5 {
            append(&store, &replica, &acks, &mut batch(1, None, &[0xaa; 8_000])).await;
            acks.all_arrived(&store).await;
        }
        assert_eq!(replica.log.borrow().closed().len(), 2);
        evict(&replica);
        assert_eq!(count_from(&store, &replica, 0).await, COUNT);
        assert_eq!(
            store.metrics.borrow().checksums_rebuilt,
            0,
            "each was written when its segment was closed"
        );
        assert!(file(directory.path(), SegmentFile::Checksums, 20).exists());
    });
}

/// The bytes that the next write begins with come from the disk, and go out to readers of the tail.
#[test]
fn the_last_block_is_believed_only_as_it_was_written() {
    on_executor(async {
        let directory = directory();
        let (point, state) = {
            let (_, replica) = filled(directory.path()).await;
            (point_of(&replica), state_of(&replica))
        };
        for (kind, base, bytes) in [
            (SegmentFile::OffsetIndex, 20, &state.offset_index),
            (SegmentFile::TimeIndex, 20, &state.time_index),
            (SegmentFile::Checksums, 20, &state.checksums),
            (SegmentFile::ProducerSnapshot, COUNT, &state.producers),
        ] {
            std_write(&file(directory.path(), kind, base), bytes);
        }
        std_write(&directory.path().join("t-0").join(crate::shard::segments::EPOCHS_FILE), &state.epochs);
        let log = file(directory.path(), SegmentFile::Log, 20);
        let at = point.file_position - 1;
        overwrite(&log, at, &[std_read(&log)[at as usize] ^ 1]);
        let mut request = request(directory.path(), 0, SEGMENT_SIZE);
        (request.point, request.clean) = (Some(point), true);
        let opened = open(&store(None, 2 << 20), request).await;
        assert!(
            matches!(opened, Err(OpenFailed::Corrupt { .. })),
            "a scan finds it below the recovery point"
        );
    });
}

fn extents_of(replica: &Replica) -> Vec<Extent> {
    replica.log.borrow().active_checksums().all().collect()
}

fn state_of(replica: &Replica) -> PartitionState {
    crate::shard::final_state::state_of(replica)
}
