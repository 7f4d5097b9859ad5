//! Readers of what has left the tail: turns, memory, what a look-up reads.

use super::*;
use crate::codec::record_batch::{BatchHeader, Compression, write_batch};
use crate::codec::records::{NewRecord, write_record};
use crate::log::read::ListOffsetsTarget;
use crate::log::read_turns::ReaderId;
use crate::shard::api::list_offsets::look_up;
use crate::shard::catch_up::Hold;
use crate::types::{ShardId, Timestamp};
use futures::FutureExt;

const BATCH_SIZE: usize = 50_000;

/// All memory for reads is taken and readers of old records stand in line: one at the tail is answered
/// in its first turn, without a wait.
#[test]
fn a_reader_at_the_tail_never_stands_in_line() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = history(&directory, 100).await;
        let end = replica.log.borrow().high_watermark().get();
        let mut taken = Hold::new(&Reading::own(&store));
        taken.reserve(0, 1 << 20).await.unwrap();
        let mut cold: Vec<_> = (0..10)
            .map(|number| {
                let (reading, replica) = (reader(&store, number), replica.clone());
                Box::pin(async move { replica.read(&reading, offset(number), 1 << 20).await.unwrap().size })
            })
            .collect();
        for read in &mut cold {
            assert!(futures::poll!(read).is_pending());
        }
        while store.catch_up.waiting_count() < 10 {
            glommio::executor().yield_now().await; // Their tasks run in the queue of those that catch up.
        }
        let at_tail = replica.read(&reader(&store, 99), offset(end - 1), 1 << 20).now_or_never();
        let at_tail = at_tail.expect("nothing to wait for").unwrap();
        assert_eq!((at_tail.batches, at_tail.disk_size), (1, 0));
        assert_eq!(store.metrics.borrow().catch_up_waits, 10);
        drop(taken);
        for size in futures::future::join_all(cold).await {
            assert!(size >= BATCH_SIZE);
        }
        assert_eq!(store.catch_up.waiting_count(), 0);
        nothing_is_held(&store).await;
    });
}

/// Many readers of all of the history at once: each gets every byte, and at no time do they hold more
/// than the budget.
#[test]
fn readers_of_history_share_the_budget_and_each_gets_everything() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = history(&directory, 200).await;
        let expected = replica.log.borrow().high_watermark();
        let used_max = Rc::new(Cell::new(0));
        let readers = (0..10).map(|number| {
            let (store, replica, used_max) = (store.clone(), replica.clone(), used_max.clone());
            async move {
                let mut next = Offset::ZERO;
                while next < expected {
                    let reading = reader(&store, number);
                    let read = replica.read(&reading, next, 700_000).await.unwrap();
                    used_max.set(used_max.get().max(store.catch_up.used()));
                    assert!(read.size > 0);
                    let bytes: Vec<u8> = read.slices.iter().flat_map(|s| s.bytes().to_vec()).collect();
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let (view, tail) = BatchView::split_first(rest).unwrap();
                        assert_eq!(view.base_offset(), next);
                        next = view.end_offset();
                        rest = tail;
                    }
                }
            }
        });
        futures::future::join_all(readers).await;
        assert!(store.metrics.borrow().catch_up_waits > 0, "they stood in line");
        assert!(used_max.get() <= READ_BUDGET, "{} bytes", used_max.get());
        nothing_is_held(&store).await;
    });
}

/// Two reads of one fetch do not wait for each other's memory: the second one is left for the next.
#[test]
fn a_fetch_that_holds_memory_does_not_wait_for_more() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = history(&directory, 100).await;
        let reading = reader(&store, 1);
        let first = replica.read(&reading, Offset::ZERO, 700_000).await.unwrap();
        assert!(first.size > 0);
        let second = replica.read(&reading, offset(20), 700_000).await.unwrap();
        assert!(second.is_short);
        assert_eq!(second.size, 0);
        drop(first);
        let second = replica.read(&reading, offset(20), 700_000).await.unwrap();
        assert!(second.size > 0);
    });
}

/// A reader that goes on where it stopped finds the next stretch in memory.
#[test]
fn the_next_stretch_is_read_before_it_is_asked_for() {
    on_executor(async {
        let directory = directory();
        let (store, replica) = history(&directory, 100).await;
        let first = replica.read(&reader(&store, 1), Offset::ZERO, 200_000).await.unwrap();
        let next = offset(first.batches as u64);
        drop(first);
        let second = replica.read(&reader(&store, 1), next, 200_000).await.unwrap();
        assert!(second.size > 0);
        let read = store.metrics.borrow().disk_read_bytes;
        // What the second one began to read ahead, and no more, may come on top.
        assert!(read <= 64 * 1024 + 4 * (200_000 + 2 * 4096), "{read} bytes for two reads");
        assert_eq!(second.disk_size, second.size, "it still counts as read from disk");
    });
}

/// What lies in memory is not read from disk again: there the file may not even have it yet.
#[test]
fn a_read_that_begins_on_disk_goes_on_in_the_tail() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 2 << 20);
        let replica = open_partition(&store, directory.path(), 0, 64 << 20).await;
        let acks = Acks::new(None);
        for number in 0..100 {
            append(&store, &replica, &acks, &mut batch(1, None, &[number; BATCH_SIZE])).await;
            acks.all_arrived(&store).await;
        }
        let begin = replica.tail().begin(Offset::ZERO).expect("some of it is in memory");
        let size = replica.log.borrow().size() / 100;
        let first = offset(begin / size - 3);
        let read = replica.read(&reader(&store, 1), first, 10 * size as usize).await.unwrap();
        assert_eq!(read.size as u64, 10 * size);
        assert!(read.disk_size as u64 <= begin - first.get() * size, "{} bytes from disk", read.disk_size);
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
        for (number, stored) in (first.get()..).zip(bytes.chunks(size as usize)) {
            let (view, _) = BatchView::split_first(stored).unwrap();
            assert_eq!(view.validate_stored(), Ok(()));
            assert_eq!((view.base_offset(), view.payload()[0]), (offset(number), number as u8));
        }
    });
}

/// However large the segment: what a look-up reads is an interval of the index and a batch. The log
/// is one segment with a stretch in which no timestamp grows, where the time index says nothing.
#[test]
fn a_look_up_reads_a_bounded_piece_of_a_segment() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 1 << 20);
        let replica = open_partition(&store, directory.path(), 0, 64 << 20).await;
        let acks = Acks::new(None);
        // 100, 101, ..; then 3 MB that are older than all before; then newer ones.
        let timestamp = |number: i64| if (300..900).contains(&number) { 50 } else { 100 + number };
        for number in 0..1200 {
            append(&store, &replica, &acks, &mut stamped(timestamp(number), 5_000)).await;
            if number % 20 == 0 {
                acks.all_arrived(&store).await;
            }
        }
        acks.all_arrived(&store).await;
        roll_idle(&store, &replica).await;
        let active = replica.log.borrow().active().base_offset;
        replica.finish_rolls(&store, active).await.unwrap();
        replica.drop_tail_before(&store, active);
        let disk_read = || store.metrics.borrow().disk_read_bytes;
        // Once, the index is read from its file; that is not counted here.
        for number in [0, 1, 150, 299, 900, 901, 1100, 1199] {
            let before = disk_read();
            let target = ListOffsetsTarget::AtOrAfter(Timestamp(timestamp(number)));
            let found = look_up(&store, &replica, target).await.unwrap().unwrap();
            assert_eq!(found.0, offset(number as u64));
            assert!(disk_read() - before <= 80 << 10, "{} bytes for a timestamp", disk_read() - before);

            let before = disk_read();
            let read = replica.read(&Reading::own(&store), offset(number as u64), 1).await.unwrap();
            assert_eq!(read.batches, 1);
            drop(read);
            assert!(disk_read() - before <= 160 << 10, "{} bytes for an offset", disk_read() - before);
        }
        // No record has it: the next one is behind the stretch.
        let target = ListOffsetsTarget::AtOrAfter(Timestamp(450));
        let before = disk_read();
        let found = look_up(&store, &replica, target).await.unwrap().unwrap();
        assert_eq!(found.0, offset(900));
        assert!(disk_read() - before <= 80 << 10, "{} bytes across the stretch", disk_read() - before);
    });
}

const READ_BUDGET: usize = 1 << 20;

/// Returns once all memory has come back; what was read ahead is given up for that.
async fn nothing_is_held(store: &Rc<Store>) {
    for _ in 0..100_000 {
        if store.catch_up.used() == 0 {
            return;
        }
        store.replicas().iter().for_each(|replica| replica.reads.ahead.clear());
        glommio::executor().yield_now().await;
    }
    panic!("{} bytes did not come back", store.catch_up.used());
}

fn reader(store: &Rc<Store>, connection: u64) -> Rc<Reading> {
    Reading::new(store, ReaderId { shard: ShardId(0), connection: connection + 1 })
}

/// A partition whose newest megabyte is in memory, and a read budget that is one turn.
async fn history(directory: &tempfile::TempDir, batches: usize) -> (Rc<Store>, Rc<Replica>) {
    let store = store(None, 2 << 20);
    let replica = open_partition(&store, directory.path(), 0, 2 << 20).await;
    let acks = Acks::new(None);
    for number in 0..batches {
        append(&store, &replica, &acks, &mut batch(1, None, &[number as u8; BATCH_SIZE])).await;
        acks.all_arrived(&store).await;
    }
    (store, replica)
}

fn stamped(timestamp: i64, size: usize) -> Vec<u8> {
    let header = BatchHeader {
        compression: Compression::None,
        transactional: false,
        record_count: 1,
        base_timestamp: Timestamp(timestamp),
        max_timestamp: Timestamp(timestamp),
        producer: None,
    };
    let mut records = Vec::new();
    write_record(&NewRecord { value: Some(&vec![7; size]), ..NewRecord::default() }, &mut records);
    let mut out = Vec::new();
    write_batch(&header, &records, &mut out);
    out
}
