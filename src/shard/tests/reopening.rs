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
