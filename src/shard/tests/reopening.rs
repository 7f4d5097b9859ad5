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
        let (first, newest) = expected[0];
        let file = directory.path().join("t-0").join(SegmentFile::TimeIndex.name(first));
        let whole = std_read(&file);
        let (last, end) = (whole.len() - 12, whole.len());
        assert!(last >= 12);
        let mut old = whole[last..].to_vec();
        old[2] ^= 1; // In 1992.
        let before_last = i64::from_be_bytes(whole[last - 12..last - 4].try_into().unwrap());
        let after = |timestamp: i64| Timestamp(timestamp + 1_001);
        // What is there, the time of a check by which the file says that it is due, and whether it is.
        let cases = [
            (&old[..], Timestamp(NOW), false),
            (&whole[..last], after(before_last), false),
            (&whole[last..end], after(newest.0 - 1), false),
            (&whole[last..end], after(newest.0), true),
            (&old[..], after(newest.0), true),
        ];
        for (case, (found, now, is_due)) in cases.into_iter().enumerate() {
            std_write(&file, found);
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 20_000).await;
            let believed = replica.log.borrow().closed()[0].max_timestamp;
            assert_eq!(believed == newest, found == &whole[last..], "{case}: it is what the file says");
            Rc::make_mut(&mut replica.log.borrow_mut().config).retention_ms = Some(1_000);
            let due = replica.retention_plan(&store, now).await.delete;
            let due: Vec<Offset> = due.into_iter().map(|(segment, _)| segment).collect();
            assert_eq!(due, if is_due { vec![first] } else { vec![] }, "{case}");
            let is_news = believed != newest;
            assert_eq!(replica.log.borrow().closed()[0].max_timestamp, newest, "{case}");
            assert_eq!(std_read(&file) == whole, is_news, "{case}: it is built again where it is wrong");
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
