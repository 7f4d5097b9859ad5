//! Compaction of real files: what is left, what a crash leaves, what readers see meanwhile.

use super::*;
use crate::codec::compression::{compress, decompress};
use crate::codec::record_batch::{BatchHeader, Compression, write_batch};
use crate::codec::records::{NewRecord, Records, write_record};
use crate::log::compaction::checkpoint::CLEANER_CHECKPOINT_FILE;
use crate::log::compaction::plan::CompactionLimits;
use crate::log::compaction::swap::{SwapStep, cleaned_name, decide_steps, replace_steps};
use crate::log::partition::Cleanup;
use crate::log::segment::SegmentFile;
use crate::shard::compaction::swap::{carry_out, full};
use crate::shard::compaction::{Cleaner, CleanerSettings};
use crate::types::Timestamp;
use std::collections::BTreeSet;

pub(super) const SETTINGS: CleanerSettings =
    CleanerSettings { map_size_max: 1 << 20, bytes_per_second: None };

/// Key, value (`None`: a tombstone) and offset.
pub(super) type Found = (String, Option<String>, u64);

#[test]
fn the_last_record_of_every_key_is_left_and_stays_over_a_restart() {
    on_executor(async {
        for map_size_max in [1 << 20, 24 * 5] {
            let directory = directory();
            let settings = CleanerSettings { map_size_max, ..SETTINGS };
            let before = {
                let store = store(None, 8 << 20);
                let replica = open_compacted(&store, directory.path(), 2_000).await;
                fill(&store, &replica, 60).await;
                let before = found(&read_all(&store, &replica, 1 << 20).await);
                let segments = replica.log.borrow().closed().len();
                let cleaner = Cleaner::new(vec![store.clone()], settings);
                let mut passes = 0;
                while cleaner.clean_dirtiest().await {
                    passes += 1;
                }
                assert!(passes > 0);
                assert!(map_size_max > 1_000 || passes > 2, "five keys a pass");
                // A full segment has no room for its neighbour before it was compacted once.
                let left = replica.log.borrow().closed().len();
                assert!(left < segments || passes == 1, "small segments became one");
                check_compacted(&store, &replica, &before).await;
                assert_eq!(names(directory.path(), ".cleaned"), BTreeSet::new());
                assert!(store.metrics.borrow().compacted_records_removed > 0);
                replica.reads.forget(); // What is read from here on is held against its companions.
                check_compacted(&store, &replica, &before).await;
                assert_eq!(store.metrics.borrow().checksums_rebuilt, 0, "every new segment has its own");
                before
            };
            // Unclean: the active segment is scanned, the others are as they are.
            let store = store(None, 8 << 20);
            let replica = open_compacted(&store, directory.path(), 2_000).await;
            check_compacted(&store, &replica, &before).await;
            let cleaner = Cleaner::new(vec![store.clone()], settings);
            assert!(!cleaner.clean_dirtiest().await, "what is clean is known to be");
            assert_eq!(store.metrics.borrow().compaction_dirty_percent_max, 0);
        }
    });
}

/// A stop after each step of the swap, and after each step of its completion at the start: the log
/// holds what it held before or what the pass left, and every offset is still answered.
#[test]
fn a_crash_at_any_step_leaves_the_old_segments_or_the_new_one() {
    on_executor(async {
        let (old, new) = (directory(), directory());
        {
            let store = store(None, 8 << 20);
            let replica = open_compacted(&store, old.path(), 2_000).await;
            fill(&store, &replica, 40).await;
        }
        copy(&old.path().join("t-0"), &new.path().join("t-0"));
        let (before, after, replaced) = {
            let store = store(None, 8 << 20);
            // Large segments: all the small ones become one.
            let replica = open_compacted(&store, new.path(), 1 << 20).await;
            let before = found(&read_all(&store, &replica, 1 << 20).await);
            let bases: Vec<Offset> =
                replica.log.borrow().closed().iter().map(|closed| closed.base_offset).collect();
            assert!(Cleaner::new(vec![store.clone()], SETTINGS).clean_dirtiest().await);
            assert_eq!(replica.log.borrow().closed().len(), 1);
            // The old ones keep their bytes for `file.delete.delay.ms`.
            assert_eq!(names(new.path(), ".log.deleted").len(), bases.len());
            (before, found(&read_all(&store, &replica, 1 << 20).await), bases)
        };
        assert!(after.len() < before.len() && replaced.len() > 3);
        let base = replaced[0];
        let steps: Vec<SwapStep> =
            decide_steps(base).into_iter().chain(replace_steps(base, &replaced[1..])).collect();
        let mut outcomes = BTreeSet::new();
        for crash in 0..=steps.len() {
            let crashed = directory();
            let partition = crashed.path().join("t-0");
            copy(&old.path().join("t-0"), &partition);
            for file in [SegmentFile::Log].into_iter().chain(SegmentFile::DERIVED) {
                let written = new.path().join("t-0").join(file.name(base));
                if written.exists() {
                    std_write(&partition.join(cleaned_name(file, base)), &std_read(&written));
                }
            }
            carry_out(&partition, &steps[..crash]).whole().unwrap();
            let store = store(None, 8 << 20);
            let replica = open_compacted(&store, crashed.path(), 2_000).await;
            let left = found(&read_all(&store, &replica, 1 << 20).await);
            let is_new = left == after;
            assert!(is_new || left == before, "step {crash}");
            outcomes.insert(is_new);
            for suffix in [".cleaned", ".swap", ".deleted"] {
                assert_eq!(names(crashed.path(), suffix), BTreeSet::new(), "step {crash}");
            }
            let logs = replica.log.borrow().closed().len();
            assert_eq!(logs, if is_new { 1 } else { replaced.len() }, "step {crash}");
            assert!(replica.log.borrow().closed().iter().all(|closed| closed.is_indexed));
            every_offset_is_answered(&store, &replica).await;
        }
        assert_eq!(outcomes.len(), 2, "both happen");
    });
}

/// A disk that fills up at any step of the swap: the log holds what it held before or what the pass left,
/// now and after a start; nothing is offline, and once there is space all names are what they should be.
#[test]
fn a_full_disk_at_any_step_takes_nothing_offline_and_loses_nothing() {
    on_executor(async {
        let old = directory();
        let (before, replaced) = {
            let store = store(None, 8 << 20);
            let replica = open_compacted(&store, old.path(), 2_000).await;
            fill(&store, &replica, 40).await;
            let closed = replica.log.borrow().closed().len();
            (found(&read_all(&store, &replica, 1 << 20).await), closed)
        };
        let mut outcomes = BTreeSet::new();
        for (full_at, is_deleted) in (0..45).flat_map(|step| [(step, false), (step, true)]) {
            let directory = directory();
            let partition = directory.path().join("t-0");
            copy(&old.path().join("t-0"), &partition);
            let store = store(None, 8 << 20);
            // Large segments: all the small ones become one.
            let replica = open_compacted(&store, directory.path(), 1 << 20).await;
            full::refuse(&partition, full_at..full_at + 1_000);
            let cleaner = Cleaner::new(vec![store.clone()], SETTINGS);
            cleaner.clean_all(|| true).await;
            cleaner.clean_all(|| true).await; // There is still no space.
            assert_eq!(store.offline_reason(), None, "step {full_at}");
            let segments = replica.log.borrow().closed().len();
            let is_new = segments == 1;
            assert!(is_new || segments == replaced, "step {full_at}");
            outcomes.insert((is_new, replica.segments.unfinished_swap().is_some()));
            if is_new {
                check_compacted(&store, &replica, &before).await;
                assert_eq!(store.metrics.borrow().checksums_rebuilt, 0, "step {full_at}");
            } else {
                assert!(found(&read_all(&store, &replica, 1 << 20).await) == before, "step {full_at}");
            }
            // A start meanwhile.
            let (again, copied) = (super::directory(), super::store(None, 8 << 20));
            copy(&partition, &again.path().join("t-0"));
            full::refuse(&again.path().join("t-0"), 0..0);
            let started = open_compacted(&copied, again.path(), 1 << 20).await;
            assert_eq!(started.log.borrow().closed().len(), segments, "step {full_at}");
            every_offset_is_answered(&copied, &started).await;

            full::refuse(&partition, 0..0);
            if is_deleted && is_new {
                let base = replica.log.borrow().closed()[0].base_offset;
                let active = replica.log.borrow().active().base_offset;
                replica.log.borrow_mut().advance_log_start(active);
                replica.log.borrow_mut().drop_segments(1);
                replica.reads.forget();
                replica.remove_segments(&store, vec![base], active).await.unwrap();
                assert_eq!(replica.segments.unfinished_swap(), None);
                assert_eq!(names(directory.path(), ".log").len(), 1, "the active one, step {full_at}");
            } else {
                cleaner.clean_all(|| true).await;
                assert_eq!(store.offline_reason(), None);
                check_compacted(&store, &replica, &before).await;
                assert_eq!(names(directory.path(), ".log").len(), 2, "step {full_at}");
            }
            for suffix in [".cleaned", ".swap"] {
                assert_eq!(names(directory.path(), suffix), BTreeSet::new(), "step {full_at}");
            }
        }
        let expected = [(false, false), (true, false), (true, true)];
        assert_eq!(outcomes, BTreeSet::from(expected), "all happen");
    });
}

/// A log that finds no space is dirtier than the other one, and stays so.
#[test]
fn a_log_that_finds_no_space_does_not_keep_the_others_waiting() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let mut replicas = Vec::new();
        for partition in 0..2 {
            let mut request = request(directory.path(), partition, 2_000);
            Rc::make_mut(&mut request.config).cleanup = compacted();
            replicas.push(open(&store, request).await.unwrap());
        }
        fill(&store, &replicas[0], 80).await;
        fill(&store, &replicas[1], 40).await;
        full::refuse(&directory.path().join("t-0"), 0..1_000);
        let cleaner = Cleaner::new(vec![store.clone()], SETTINGS);
        assert!(!cleaner.clean_dirtiest().await, "the one without space comes first");
        assert_eq!(store.metrics.borrow().compactions, 0);
        cleaner.clean_all(|| true).await;
        assert!(store.metrics.borrow().compactions > 0, "the other one is compacted");
        let removed = store.metrics.borrow().compacted_records_removed;
        full::refuse(&directory.path().join("t-0"), 0..0);
        cleaner.clean_all(|| true).await;
        assert!(store.metrics.borrow().compacted_records_removed > removed, "its turn comes again");
    });
}

#[test]
fn a_cleaner_checkpoint_that_cannot_be_written_takes_the_directory_offline() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_compacted(&store, directory.path(), 2_000).await;
        fill(&store, &replica, 40).await;
        let path = directory.path().join("t-0").join(CLEANER_CHECKPOINT_FILE);
        std::fs::create_dir(&path).unwrap();
        std::fs::create_dir(path.join("in the way")).unwrap();
        Cleaner::new(vec![store.clone()], SETTINGS).clean_all(|| true).await;
        assert!(store.is_offline());
    });
}

/// Readers go on while passes swap segments under them: whatever they get is what was written.
#[test]
fn reads_in_flight_are_served_exactly() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 1 << 20);
        let replica = open_compacted(&store, directory.path(), 2_000).await;
        fill(&store, &replica, 100).await;
        let written = found(&read_all(&store, &replica, 1 << 20).await);
        let end = replica.log.borrow().high_watermark();
        replica.drop_tail_before(&store, end);
        let done = Cell::new(false);
        let cleaning = async {
            // A few keys a pass: many swaps.
            let settings = CleanerSettings { map_size_max: 24 * 4, ..SETTINGS };
            let cleaner = Cleaner::new(vec![store.clone()], settings);
            while cleaner.clean_dirtiest().await {}
            done.set(true);
        };
        let reading = async |size_max: usize| {
            while !done.get() {
                let mut next = Offset::ZERO;
                while next < end {
                    let read = replica.read(&Reading::own(&store), next, size_max).await.unwrap();
                    let bytes: Vec<u8> =
                        read.slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
                    let mut rest = &bytes[..];
                    assert!(!rest.is_empty());
                    while !rest.is_empty() {
                        let (batch, tail) = BatchView::split_first(rest).unwrap();
                        assert_eq!(batch.validate_stored(), Ok(()));
                        assert!(batch.end_offset() > next, "offsets go on");
                        next = batch.end_offset();
                        rest = tail;
                    }
                    for record in found(&bytes) {
                        assert!(written.contains(&record), "{record:?} was never written");
                    }
                    glommio::executor().yield_now().await;
                }
            }
        };
        futures::join!(cleaning, reading(1), reading(3_000), reading(1 << 20));
        check_compacted(&store, &replica, &written).await;
    });
}

#[test]
fn a_damaged_segment_is_left_as_it_is() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_compacted(&store, directory.path(), 2_000).await;
        fill(&store, &replica, 40).await;
        let segment = replica.log.borrow().closed()[1].base_offset;
        let path = replica.segments.path(segment, SegmentFile::Log);
        let mut bytes = std_read(&path);
        bytes[100] ^= 1;
        std_write(&path, &bytes);
        let cleaner = Cleaner::new(vec![store.clone()], SETTINGS);
        assert!(!cleaner.clean_dirtiest().await);
        assert_eq!(store.metrics.borrow().partitions_uncleanable, 1);
        assert!(std_read(&path) == bytes, "nothing is written over it");
        assert_eq!(names(directory.path(), ".cleaned"), BTreeSet::new());
        assert_eq!(store.offline_reason(), None);
        assert!(!cleaner.clean_dirtiest().await, "and not tried again");
    });
}

#[test]
fn segments_that_retention_takes_are_not_brought_back() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_compacted(&store, directory.path(), 2_000).await;
        fill(&store, &replica, 40).await;
        // After the first segment it waits for its budget.
        let settings = CleanerSettings { bytes_per_second: Some(20_000), ..SETTINGS };
        let cleaner = Rc::new(Cleaner::new(vec![store.clone()], settings));
        let cleaning = glommio::spawn_local({
            let cleaner = cleaner.clone();
            async move { cleaner.clean_dirtiest().await }
        });
        let cleaning = cleaning.detach();
        glommio::timer::sleep(std::time::Duration::from_millis(20)).await;
        let taken = {
            let mut log = replica.log.borrow_mut();
            let start = log.closed()[2].base_offset;
            log.advance_log_start(start);
            log.drop_segments(2)
        };
        replica.reads.forget();
        let bases = taken.iter().map(|segment| segment.base_offset).collect();
        let first = replica.log.borrow().closed()[0].base_offset;
        replica.remove_segments(&store, bases, first).await.unwrap();
        assert_eq!(cleaning.await, Some(false));
        assert_eq!(store.metrics.borrow().partitions_uncleanable, 0, "it is no damage");
        for segment in taken {
            assert!(!replica.segments.path(segment.base_offset, SegmentFile::Log).exists());
        }
        assert_eq!(names(directory.path(), ".cleaned"), BTreeSet::new());
    });
}

/// What is left after a pass: of what lay below the active segment every key's last record, and the
/// active segment as it was.
async fn check_compacted(store: &Rc<Store>, replica: &Rc<Replica>, before: &[Found]) {
    let active = replica.log.borrow().active().base_offset.get();
    let mut last = BTreeMap::new();
    for (key, _, offset) in before.iter().filter(|(_, _, offset)| *offset < active) {
        last.insert(key, *offset);
    }
    let stays = |(key, _, offset): &&Found| *offset >= active || last[key] == *offset;
    let expected: Vec<Found> = before.iter().filter(stays).cloned().collect();
    assert!(expected.len() < before.len());
    assert_eq!(found(&read_all(store, replica, 1 << 20).await), expected);
    every_offset_is_answered(store, replica).await;
}

/// A consumer that stands anywhere, also in a gap, gets the next batch there is.
pub(super) async fn every_offset_is_answered(store: &Rc<Store>, replica: &Rc<Replica>) {
    let end = replica.log.borrow().high_watermark();
    for at in 0..end.get() {
        let read = replica.read(&Reading::own(store), offset(at), 1).await.unwrap();
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
        let (batch, rest) = BatchView::split_first(&bytes).unwrap();
        assert!(rest.is_empty() && batch.end_offset() > offset(at));
    }
}

/// Updates of a dozen keys in batches of every codec, one in seven a tombstone.
pub(super) async fn fill(store: &Rc<Store>, replica: &Rc<Replica>, batches: usize) {
    let acks = Acks::new(None);
    for round in 0..batches {
        let records: Vec<(String, Option<String>)> = (0..3)
            .map(|at| {
                let number = round * 3 + at;
                let value =
                    (number % 7 != 3).then(|| format!("value {number} {}", "x".repeat(number * 37 % 400)));
                (format!("key {}", number * 5 % 12), value)
            })
            .collect();
        let mut bytes = keyed(&records, Compression::ALL[round % 5]);
        append(store, replica, &acks, &mut bytes).await;
        if round % 10 == 9 {
            acks.all_arrived(store).await;
        }
    }
    acks.all_arrived(store).await;
    store.write_out(replica.slot).await; // A journal may have it only.
    assert!(replica.log.borrow().closed().len() > 3, "segments were rolled");
    let active = replica.log.borrow().active().base_offset;
    assert_eq!(replica.segments.written(), active, "and are final on disk");
}

fn keyed(records: &[(String, Option<String>)], compression: Compression) -> Vec<u8> {
    let mut payload = Vec::new();
    for (at, (key, value)) in records.iter().enumerate() {
        let record = NewRecord {
            offset_delta: at as i32,
            key: Some(key.as_bytes()),
            value: value.as_ref().map(String::as_bytes),
            ..NewRecord::default()
        };
        write_record(&record, &mut payload);
    }
    let mut packed = Vec::new();
    compress(compression, &payload, &mut packed);
    let header = BatchHeader {
        compression,
        transactional: false,
        record_count: records.len() as u32,
        base_timestamp: Timestamp(1_000),
        max_timestamp: Timestamp(1_000),
        producer: None,
    };
    let mut out = Vec::new();
    write_batch(&header, &packed, &mut out);
    out
}

pub(super) fn found(bytes: &[u8]) -> Vec<Found> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (batch, tail) = BatchView::split_first(rest).unwrap();
        rest = tail;
        let mut payload = Vec::new();
        decompress(batch.compression().unwrap(), batch.payload(), 1 << 20, &mut payload).unwrap();
        for record in Records::new(&payload, batch.record_count()) {
            let record = record.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let offset = batch.base_offset().get() + record.offset_delta as u64;
            out.push((text(record.key.unwrap()), record.value.map(text), offset));
        }
    }
    out
}

async fn open_compacted(store: &Rc<Store>, directory: &Path, segment: u64) -> Rc<Replica> {
    let mut request = request(directory, 0, segment);
    Rc::make_mut(&mut request.config).cleanup = compacted();
    open(store, request).await.unwrap()
}

pub(super) fn compacted() -> Cleanup {
    let limits = CompactionLimits {
        delete_retention_ms: 1 << 40,
        min_lag_ms: 0,
        max_lag_ms: i64::MAX,
        min_dirty_ppm: 0,
    };
    Cleanup { delete: false, compact: Some(limits) }
}

pub(super) fn names(directory: &Path, suffix: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory.join("t-0")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(suffix)).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test copies a directory")]
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
