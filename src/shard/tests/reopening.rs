//! Starts on directories from which derived files are missing.

use super::*;
use crate::log::segment::SegmentFile;
use crate::types::Timestamp;

#[test]
fn timestamps_of_a_segment_without_its_index_are_found_again() {
    on_executor(async {
        let directory = directory();
        let expected = {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 3_000).await;
            let acks = Acks::new(None);
            for timestamp in 0..40 {
                let payload = [7; 500];
                let batch =
                    SampleBatch { timestamp: 1_000 + timestamp, payload: &payload, ..Default::default() };
                append(&store, &replica, &acks, &mut batch.encode()).await;
            }
            acks.all_arrived(&store).await;
            let log = replica.log.borrow();
            assert!(log.closed().len() > 4, "segments were rolled");
            log.closed().iter().map(|closed| (closed.base_offset, closed.max_timestamp)).collect::<Vec<_>>()
        };
        let file =
            |at: usize, file: SegmentFile| directory.path().join("t-0").join(file.name(expected[at].0));
        remove(&file(0, SegmentFile::TimeIndex));
        remove(&file(1, SegmentFile::OffsetIndex));
        std_write(&file(2, SegmentFile::TimeIndex), &[]);
        std_write(&file(3, SegmentFile::TimeIndex), &[0xff; 24]);
        // And one that belongs to no segment, as a rebuild beside a deletion may leave it.
        let orphan = directory.path().join("t-0").join(SegmentFile::TimeIndex.name(offset(1 << 40)));
        std_write(&orphan, &[]);
        for start in 0..2 {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 3_000).await;
            assert_eq!(
                replica.log.borrow().first_unindexed().is_some(),
                start == 0,
                "files were written anew"
            );
            // Two at once: each segment is read through once.
            let (one, other) =
                futures::join!(replica.index_timestamps(&store), replica.index_timestamps(&store));
            one.and(other).unwrap();
            let log = replica.log.borrow();
            let found: Vec<(Offset, Timestamp)> =
                log.closed().iter().map(|closed| (closed.base_offset, closed.max_timestamp)).collect();
            assert_eq!(found[..expected.len()], expected);
            assert!(!orphan.exists());
        }
    });
}

/// A time index has no checksum: one bit of it makes a segment decades old, a cut one some records older than it is,
/// and retention would take what nobody wanted to lose.
#[test]
fn a_damaged_time_index_does_not_make_a_segment_old() {
    const NOW: i64 = 1_800_000_000_000;
    on_executor(async {
        let directory = directory();
        let expected: Vec<(Offset, Timestamp)> = {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 20_000).await;
            let acks = Acks::new(None);
            for number in 0..100 {
                let payload = [7; 1_000];
                let batch = SampleBatch { timestamp: NOW + number, payload: &payload, ..Default::default() };
                append(&store, &replica, &acks, &mut batch.encode()).await;
            }
            acks.all_arrived(&store).await;
            let log = replica.log.borrow();
            log.closed().iter().map(|closed| (closed.base_offset, closed.max_timestamp)).collect()
        };
        let file = |at: usize| directory.path().join("t-0").join(SegmentFile::TimeIndex.name(expected[at].0));
        let whole: Vec<Vec<u8>> = (0..3).map(|at| std_read(&file(at))).collect();
        assert!(whole[0].len() > 24, "{}", whole[0].len());
        let last_of = |at: usize| whole[at].len() - 12;
        let one = [&expected[0].1.0.to_be_bytes()[..], &whole[0][last_of(0) + 8..]].concat();
        let mut old = one.clone();
        old[2] ^= 1; // In 1992.
        let mut young = whole[1].clone();
        young[last_of(1) + 2] ^= 2; // Never to go.
        for (what, damaged) in
            [("old", [&old, &young, &whole[2][..24].to_vec()]), ("whole", [&one, &whole[1], &whole[2]])]
        {
            damaged.iter().enumerate().for_each(|(at, bytes)| std_write(&file(at), bytes));
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 20_000).await;
            let found: Vec<Timestamp> =
                replica.log.borrow().closed().iter().map(|closed| closed.max_timestamp).collect();
            assert_eq!(
                (found[0], found[1], found[2]) == (expected[0].1, expected[1].1, expected[2].1),
                what == "whole"
            );
            replica.log.borrow_mut().config.retention_ms = Some(1_000);
            // What is said to be young is not asked, and stays longer than it might.
            let due = replica.retention_plan(&store, Timestamp(NOW + 50)).await.delete;
            assert_eq!(due, [], "{what}");
            assert_eq!(std_read(&file(0)) == whole[0], what == "old");
            let due = replica.retention_plan(&store, Timestamp(expected[2].1.0 + 1_001)).await.delete;
            let count = if what == "old" { 1 } else { 3 };
            let bases: Vec<Offset> = due.iter().map(|(segment, _)| *segment).collect();
            let of_all: Vec<Offset> = expected[..count].iter().map(|(base, _)| *base).collect();
            assert_eq!(bases, of_all, "{what}");
        }
    });
}

/// What is no batch of the segment ends in an error, not in a panic, and what is found by it is not
/// believed.
#[test]
fn a_damaged_segment_without_its_index_stays_unknown() {
    on_executor(async {
        let directory = directory();
        {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 3_000).await;
            let acks = Acks::new(None);
            for _ in 0..20 {
                append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
            }
            acks.all_arrived(&store).await;
        }
        let file = |file: SegmentFile| directory.path().join("t-0").join(file.name(Offset::ZERO));
        remove(&file(SegmentFile::TimeIndex));
        let mut bytes = std_read(&file(SegmentFile::Log));
        let second = batch(1, None, &[7; 500]).len();
        bytes[second + 3] = 1; // The base offset is under no checksum.
        std_write(&file(SegmentFile::Log), &bytes);
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 3_000).await;
        assert!(replica.index_timestamps(&store).await.is_err());
        assert_eq!(replica.log.borrow().first_unindexed(), Some(Offset::ZERO));
        assert!(!file(SegmentFile::TimeIndex).exists());
    });
}

/// Whichever snapshots are left, a retry of any batch in the window gets its first place.
#[test]
fn producers_survive_a_crash_without_their_snapshots() {
    on_executor(async {
        for left in 0..4 {
            let directory = directory();
            let bases: Vec<Offset> = {
                let store = store(None, 8 << 20);
                let replica = open_partition(&store, directory.path(), 0, 1_500).await;
                let acks = Acks::new(None);
                // Another producer wrote only at the beginning.
                append(&store, &replica, &acks, &mut by(2, 0)).await;
                for sequence in 0..11 {
                    append(&store, &replica, &acks, &mut by(1, sequence)).await;
                }
                acks.all_arrived(&store).await;
                let log = replica.log.borrow();
                log.closed().iter().chain([log.active()]).map(|segment| segment.base_offset).collect()
            };
            assert!(bases.len() > 4, "{bases:?}");
            let snapshot =
                |base: Offset| directory.path().join("t-0").join(SegmentFile::ProducerSnapshot.name(base));
            // The newest is damaged, those before it are gone, the `left` oldest are as they were.
            for base in &bases[left + 1..bases.len() - 1] {
                remove(&snapshot(*base));
            }
            let newest = snapshot(*bases.last().unwrap());
            let mut bytes = std_read(&newest);
            *bytes.last_mut().unwrap() ^= 1;
            std_write(&newest, &bytes);

            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 1_500).await;
            let acks = Acks::new(None);
            append(&store, &replica, &acks, &mut by(2, 0)).await;
            for sequence in 6..12 {
                append(&store, &replica, &acks, &mut by(1, sequence)).await;
            }
            acks.all_arrived(&store).await;
            let arrived = acks.arrived.borrow();
            let offsets: Vec<u64> =
                arrived.iter().map(|ack| ack.outcome.base_offset.unwrap().get()).collect();
            assert_eq!(offsets, [0, 7, 8, 9, 10, 11, 12], "{left} snapshots were left");
            assert!(std_read(&newest) != bytes, "it was written anew");
        }
    });
}

/// What lies behind a damaged batch of a closed segment is not known; the partition opens all the
/// same.
#[test]
fn a_replay_ends_at_damage_and_goes_on_with_the_next_segment() {
    on_executor(async {
        let directory = directory();
        let newest = {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 1_500).await;
            let acks = Acks::new(None);
            for id in 1..=9 {
                append(&store, &replica, &acks, &mut by(id, 0)).await;
            }
            acks.all_arrived(&store).await;
            let log = replica.log.borrow();
            for segment in log.closed() {
                let file = SegmentFile::ProducerSnapshot.name(segment.base_offset);
                let path = directory.path().join("t-0").join(file);
                if path.exists() {
                    remove(&path);
                }
            }
            log.active().base_offset
        };
        let file = |file: SegmentFile, base: Offset| directory.path().join("t-0").join(file.name(base));
        remove(&file(SegmentFile::ProducerSnapshot, newest));
        let mut bytes = std_read(&file(SegmentFile::Log, Offset::ZERO));
        let size = by(1, 0).len();
        bytes[size + 100] ^= 1;
        std_write(&file(SegmentFile::Log, Offset::ZERO), &bytes);
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 1_500).await;
        let acks = Acks::new(None);
        for id in [1, 9] {
            append(&store, &replica, &acks, &mut by(id, 0)).await;
        }
        acks.all_arrived(&store).await;
        let offsets: Vec<_> = acks.arrived.borrow().iter().map(|ack| ack.outcome.base_offset).collect();
        assert_eq!(offsets, [Some(Offset::ZERO), Some(offset(8))]);
    });
}

fn by(id: i64, sequence: i32) -> Vec<u8> {
    let producer = Some((ProducerId(id), ProducerEpoch(0), Sequence(sequence)));
    SampleBatch { producer, payload: &[7; 500], ..Default::default() }.encode()
}
