//! `odradek.durability=write` on a real disk: what an acknowledgement waits for, and what follows.

use super::*;
use crate::log::durability::{Durability, FlushBounds};
use std::time::Duration;

fn write_within(within: Duration) -> Durability {
    Durability::Write(FlushBounds { records_max: u64::MAX, within })
}

#[test]
fn a_written_batch_is_acknowledged_before_its_flush_and_flushed_in_time() {
    on_executor(async {
        let events: Rc<RefCell<Vec<DiskEvent>>> = Rc::default();
        let directory = directory();
        let recorder: Recorder = Some(events.clone());
        let store = store_on(SyncFs::Nothing, recorder.clone(), 64 << 20);
        let durability = write_within(Duration::from_millis(20));
        let replica = open_with(&store, directory.path(), durability).await;
        let acks = Acks::new(recorder);
        for round in 0..50 {
            append(&store, &replica, &acks, &mut batch(1, None, &vec![round as u8; 700])).await;
            acks.all_arrived(&store).await;
        }
        let end = replica.log.borrow().end_place().file_position;
        assert_eq!(replica.log.borrow().high_watermark(), offset(50), "readable");
        {
            let events = events.borrow();
            let mut unflushed = 0;
            for ack in acks.arrived.borrow().iter() {
                let before = &events[..ack.events_before];
                assert!(ack.end <= written_end(before, &ack.file), "acknowledged before its write");
                unflushed += u32::from(durable_end(before, &ack.file) < ack.end);
            }
            assert!(unflushed > 0, "every acknowledgement has waited for a flush");
        }
        let path = newest_log(directory.path());
        // A flush is recorded a moment before the log hears of it.
        while replica.log.borrow().stored_end() < offset(50) {
            glommio::timer::sleep(Duration::from_millis(5)).await;
        }
        assert!(durable_end(&events.borrow(), &path) >= end);
    });
}

/// With `flush.messages=1` an acknowledgement waits for its flush again, and so it does once the topic
/// says `fsync`.
#[test]
fn bounds_and_changes_of_the_topic_hold_at_once() {
    on_executor(async {
        let events: Rc<RefCell<Vec<DiskEvent>>> = Rc::default();
        let directory = directory();
        let recorder: Recorder = Some(events.clone());
        let store = store_on(SyncFs::Nothing, recorder.clone(), 64 << 20);
        let long = Duration::from_secs(3600);
        let replica = open_with(&store, directory.path(), write_within(long)).await;
        let strict = [Durability::Write(FlushBounds { records_max: 1, within: long }), Durability::Fsync];
        for durability in strict {
            let acks = Acks::new(recorder.clone());
            append(&store, &replica, &acks, &mut batch(1, None, &[1; 700])).await;
            acks.all_arrived(&store).await;
            let config = LogConfig { durability, ..log_config(1 << 20) };
            replica.configure(&store, Rc::new(config));
            let acks = Acks::new(recorder.clone());
            append(&store, &replica, &acks, &mut batch(1, None, &[2; 700])).await;
            acks.all_arrived(&store).await;
            let arrived = acks.arrived.borrow();
            let durable = durable_end(&events.borrow()[..arrived[0].events_before], &arrived[0].file);
            assert!(arrived[0].end <= durable, "{durability:?}");
            replica.configure(&store, Rc::new(LogConfig { durability: write_within(long), ..config }));
        }
    });
}

#[test]
fn a_crash_of_the_process_loses_nothing_that_was_written() {
    on_executor(async {
        let directory = directory();
        let mut expected = Vec::new();
        {
            let store = store(None, 8 << 20);
            let replica = open_with(&store, directory.path(), write_within(Duration::from_secs(3600))).await;
            let acks = Acks::new(None);
            for round in 0..100 {
                let mut bytes = batch(2, Some(round * 2), &vec![round as u8; 3000]);
                append(&store, &replica, &acks, &mut bytes).await;
                expected.extend(bytes);
                store.pump();
            }
            acks.all_arrived(&store).await;
            assert!(replica.log.borrow().stored_end() < offset(200), "the last were never flushed");
        }
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
        assert!(read_all(&store, &replica, 1 << 20).await == expected);
    });
}

async fn open_with(store: &Rc<Store>, directory: &Path, durability: Durability) -> Rc<Replica> {
    let mut request = request(directory, 0, 1 << 20);
    Rc::make_mut(&mut request.config).durability = durability;
    open(store, request).await.unwrap()
}

/// Bytes of a file that completed writes have reached.
fn written_end(events: &[DiskEvent], path: &Path) -> u64 {
    let ends = events.iter().filter_map(|event| match event {
        DiskEvent::WriteCompleted { file, position, size } if file == path => Some(position + *size as u64),
        _ => None,
    });
    ends.max().unwrap_or(0)
}
