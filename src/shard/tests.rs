//! A shard's store on a real disk, without network: acknowledgements, recovery, reads.
//!
//! The executor and the ring are real, the requests are calls. Time is the wall clock's, but nothing
//! waits for it: every wait is for the disk.

mod catching_up;
mod compacting;
mod cutting;
mod deleting;
mod directories;
mod durability;
mod journalled;
mod moving;
mod recording;
mod recovering;
mod reopening;
mod replaying;
mod transactions;
mod verifying;

use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::BatchView;
use crate::config::memory::MemoryPlan;
use crate::log::checkpoint::{CheckpointGeneration, PartitionPoint};
use crate::log::partition::LogConfig;
use crate::log::plan::SyncFs;
use crate::log::samples::{SampleBatch, log_config};
use crate::log::segment::SegmentFile;
use crate::metrics::ShardMetrics;
use crate::shard::catch_up::Reading;
use crate::shard::clock::Clock;
use crate::shard::disk::{Disk, DiskEvent, Recorder, free_space, is_full_disk};
use crate::shard::event::Signal;
use crate::shard::message::ProduceOutcome;
use crate::shard::open::{OpenFailed, OpenRequest, open};
use crate::shard::reader::ReadFailed;
use crate::shard::replica::{Appended, Replica};
use crate::shard::segments::Segments;
use crate::shard::store::{AckTarget, Store, StoreDir};
use crate::shard::stores::Shared;
use crate::types::{
    LeaderEpoch, LogDirIndex, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId,
    TopicPartition, Uuid,
};
use glommio::{Latency, Shares, TaskQueueHandle};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The promise that everything rests on (DESIGN 2.1). Built with `--features seeded-no-flush`, which
/// leaves the flush out, this test must fail.
#[test]
fn no_acknowledgement_is_ahead_of_its_flush() {
    for sync_fs in [SyncFs::Device, SyncFs::Metadata, SyncFs::Nothing] {
        let events = acknowledgements_follow_flushes(sync_fs);
        let names_a_file = |event: &DiskEvent| match event {
            DiskEvent::FlushIssued { file } => !file.as_os_str().is_empty(),
            _ => true,
        };
        // Where a syncfs is known to flush it is taken; elsewhere every file has its own flush.
        assert_eq!(events.iter().all(names_a_file), sync_fs == SyncFs::Nothing, "{sync_fs:?}");
    }
}

/// Three partitions under appends: more files at a time than are flushed one by one.
fn acknowledgements_follow_flushes(sync_fs: SyncFs) -> Vec<DiskEvent> {
    let events: Rc<RefCell<Vec<DiskEvent>>> = Rc::default();
    let recorded = events.clone();
    on_executor(async {
        let directory = directory();
        let recorder: Recorder = Some(events.clone());
        let store = store_on(sync_fs, recorder.clone(), 64 << 20);
        let replicas = [
            open_partition(&store, directory.path(), 0, 1 << 20).await,
            open_partition(&store, directory.path(), 1, 1 << 20).await,
            open_partition(&store, directory.path(), 2, 8192).await,
        ];
        let acks = Acks::new(recorder);
        for round in 0..200 {
            let replica = &replicas[round % 3];
            let payload = vec![round as u8; 50 + round * 37 % 3000];
            append(&store, replica, &acks, &mut batch(1, None, &payload)).await;
            if round % 7 == 0 {
                store.pump();
            }
        }
        acks.all_arrived(&store).await;
        let events = events.borrow();
        for ack in acks.arrived.borrow().iter() {
            assert_eq!(ack.outcome.error, ErrorCode::None);
            let durable = durable_end(&events[..ack.events_before], &ack.file);
            assert!(
                durable >= ack.end,
                "{} was acknowledged at byte {} while {durable} were flushed",
                ack.file.display(),
                ack.end
            );
        }
        assert_eq!(acks.arrived.borrow().len(), 200);
    });
    recorded.take()
}

/// A checkpoint or a retention pass asks for commits too, with a twentieth of the share: the writes, the
/// flush and the acknowledgements that follow are not for its queue.
#[test]
fn a_commit_that_background_work_asks_for_keeps_its_own_share() {
    struct Queues(RefCell<Vec<TaskQueueHandle>>, Signal);
    impl AckTarget for Queues {
        fn acknowledged(&self, _: u32, _: ProduceOutcome) {
            self.0.borrow_mut().push(glommio::executor().current_task_queue());
            self.1.notify();
        }
    }
    on_executor(async {
        let directory = directory();
        let store = store(None, 64 << 20);
        let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
        // The first append makes the file; only what comes behind it is at hand at once.
        let acks = Acks::new(None);
        append(&store, &replica, &acks, &mut batch(1, None, &[1; 100])).await;
        acks.all_arrived(&store).await;
        let own = glommio::executor().current_task_queue();
        let queue = glommio::executor().create_task_queue(Shares::Static(50), Latency::NotImportant, "side");
        let queues = Rc::new(Queues(RefCell::default(), Signal::default()));
        let target: Rc<dyn AckTarget> = queues.clone();
        let mut bytes = batch(1, None, &[2; 100]);
        assert!(matches!(replica.append(&store, &mut bytes, &target, 0), Ok(Appended::Parked)));
        let asking = store.clone();
        glommio::spawn_local_into(async move { asking.pump() }, queue).unwrap().await;
        while queues.0.borrow().is_empty() {
            queues.1.notified().await;
        }
        assert_eq!(*queues.0.borrow(), [own]);
    });
}

/// With a tail budget far below what is written, blocks of a partition are evicted by its own
/// appends; nothing is lost on the way to a reader.
#[test]
fn everything_appended_is_read_back_however_small_the_tail() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 2 << 20);
        let replica = open_partition(&store, directory.path(), 0, 300_000).await;
        let acks = Acks::new(None);
        let mut expected = Vec::new();
        for round in 0..400u32 {
            let payload = vec![round as u8; (round as usize * 131) % 40_000 + 1];
            let mut bytes = batch(1 + round % 3, None, &payload);
            append(&store, &replica, &acks, &mut bytes).await;
            expected.push(bytes);
            if round % 5 == 0 {
                store.pump();
                acks.all_arrived(&store).await;
            }
        }
        acks.all_arrived(&store).await;
        assert!(replica.log.borrow().closed().len() > 5, "segments were rolled");
        for size_max in [1, 5_000, 100_000, 10 << 20] {
            assert!(read_all(&store, &replica, size_max).await == expected.concat(), "{size_max}");
        }
    });
}

/// A header that lies about its length, or is none, costs its reader one window and no memory.
#[test]
fn a_damaged_header_is_found_without_reading_the_segment() {
    const COUNT: u64 = 120;
    const READ_MAX: u64 = 256 << 10;
    on_executor(async {
        let directory = directory();
        let store = store(None, 2 << 20);
        let replica = open_partition(&store, directory.path(), 0, 64 << 20).await;
        let acks = Acks::new(None);
        let mut size = 0;
        for _ in 0..COUNT {
            let mut bytes = batch(1, None, &[7; 100_000]);
            size = bytes.len() as u64;
            append(&store, &replica, &acks, &mut bytes).await;
            acks.all_arrived(&store).await;
        }
        let length = |bytes: u64| ((bytes - 12) as u32).to_be_bytes().to_vec();
        let cases = [
            (10, 16, vec![0x82], "another magic"),
            (20, 8, length(size + (1 << 20)), "a length that ends inside another batch"),
            (30, 8, length(1 << 30), "a length past the end of the log"),
            (40, 8, vec![0xff; 4], "a negative length"),
            (50, 0, vec![0; 61], "no header"),
        ];
        let log = newest_log(directory.path());
        for (at, field, bytes, _) in &cases {
            overwrite(&log, at * size + field, bytes);
        }
        let disk_read = || store.metrics.borrow().disk_read_bytes;
        for (at, _, _, what) in cases {
            let before = disk_read();
            let read = replica.read(&Reading::own(&store), offset(at), 1000).await;
            assert!(matches!(read, Err(ReadFailed::Damaged { .. })), "{what}");
            let read = disk_read() - before;
            assert!(read <= READ_MAX, "{what}: {read} bytes were read");
            assert_eq!(store.catch_up.used(), 0, "{what}");
        }
        // A whole one that is larger than asked for is on the account while somebody has it.
        let read = replica.read(&Reading::own(&store), offset(5), 1000).await.unwrap();
        assert_eq!((read.size as u64, read.batches), (size, 1));
        assert!(store.catch_up.used() as u64 >= size);
        drop(read);
        while store.catch_up.used() > 0 {
            replica.reads.forget(); // What was read ahead, once it is there.
            glommio::executor().yield_now().await;
        }
    });
}

/// An index file whose entries could be right, and are not, costs one pass over its segment.
#[test]
fn an_index_entry_that_leads_to_no_batch_is_rebuilt() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 2 << 20);
        let replica = open_partition(&store, directory.path(), 0, 60_000).await;
        let acks = Acks::new(None);
        let mut expected = Vec::new();
        for round in 0..100u32 {
            let mut bytes = batch(1, None, &vec![round as u8; 1000]);
            append(&store, &replica, &acks, &mut bytes).await;
            expected.push(bytes);
        }
        acks.all_arrived(&store).await;
        let closed = replica.log.borrow().closed()[0];
        let path = replica.segments.path(closed.base_offset, SegmentFile::OffsetIndex);
        let before = std_read(&path);
        // The seventh entry is the last one of the first extent, where it does not matter to which batch
        // it leads: a read begins with the extent.
        let wrong = [("into a batch", 33_000), ("past the one that is looked for", 31 * 1061)];
        for (is_on_disk, (what, position)) in
            [false, true].into_iter().flat_map(|at| wrong.map(|to| (at, to)))
        {
            while is_on_disk && replica.evict_oldest() {}
            assert_eq!(replica.tail().begin(closed.base_offset).is_none(), is_on_disk);
            overwrite(&path, 6 * 8 + 4, &u32::to_be_bytes(position));
            replica.reads.forget();
            let relative = u32::from_be_bytes(before[48..52].try_into().unwrap());
            let read = replica.read(&Reading::own(&store), offset(relative.into()), 1 << 20).await.unwrap();
            assert!(read.batches > 0, "{what}");
            let first = read.slices[0].bytes();
            let base = u64::from_be_bytes(first[..8].try_into().unwrap());
            assert_eq!(base, u64::from(relative), "{what}");
            assert_eq!(std_read(&path), before, "{what}: the file is as it was");
        }
        assert!(read_all(&store, &replica, 5_000).await == expected.concat());
    });
}

#[test]
fn a_crash_loses_nothing_acknowledged_and_a_torn_tail_is_cut() {
    on_executor(async {
        let directory = directory();
        let mut expected = Vec::new();
        {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 100_000).await;
            let acks = Acks::new(None);
            for round in 0..100 {
                let mut bytes = batch(2, Some(round * 2), &vec![round as u8; 3000]);
                append(&store, &replica, &acks, &mut bytes).await;
                expected.extend(bytes);
                store.pump();
            }
            acks.all_arrived(&store).await;
        }
        // The store is gone without a clean stop; half a batch follows the last one.
        let log = newest_log(directory.path());
        tear(&log, &expected);
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 100_000).await;
        assert_eq!(replica.log.borrow().high_watermark(), offset(200));
        assert!(read_all(&store, &replica, 1 << 20).await == expected);
        // The producer's last batch is known again: sent once more it gets its first offset.
        let acks = Acks::new(None);
        append(&store, &replica, &acks, &mut batch(2, Some(198), &[99; 3000])).await;
        acks.all_arrived(&store).await;
        assert_eq!(acks.arrived.borrow()[0].outcome.base_offset, Some(offset(198)));
        // And the log goes on behind the cut.
        append(&store, &replica, &acks, &mut batch(1, Some(200), &[1; 10])).await;
        acks.all_arrived(&store).await;
        assert_eq!(acks.arrived.borrow()[1].outcome.base_offset, Some(offset(200)));
    });
}

#[test]
fn damage_below_the_recovery_point_takes_the_partition_offline() {
    on_executor(async {
        let directory = directory();
        let point = {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
            let acks = Acks::new(None);
            for _ in 0..10 {
                append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
            }
            acks.all_arrived(&store).await;
            point_of(&replica)
        };
        let path = newest_log(directory.path());
        let mut bytes = std_read(&path);
        bytes[1000] ^= 1;
        std_write(&path, &bytes);
        let store = store(None, 8 << 20);
        let mut request = request(directory.path(), 0, 1 << 20);
        request.point = Some(point);
        assert!(matches!(open(&store, request).await, Err(OpenFailed::Corrupt { .. })));
        assert!(std_read(&path) == bytes, "nothing was cut");
    });
}

/// Retention rolls an idle segment; the next append is written while that roll is finished on disk.
#[test]
fn an_append_behind_a_roll_that_is_being_finished_waits_for_it() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 100_000).await;
        let acks = Acks::new(None);
        append(&store, &replica, &acks, &mut batch(1, None, &[1; 500])).await;
        acks.all_arrived(&store).await;
        let rolled = roll_idle(&store, &replica).await;
        let finishing = glommio::spawn_local({
            let (replica, store) = (replica.clone(), store.clone());
            async move { replica.finish_rolls(&store, rolled).await }
        });
        let finishing = finishing.detach();
        append(&store, &replica, &acks, &mut batch(1, None, &[2; 500])).await;
        acks.all_arrived(&store).await;
        finishing.await.unwrap().unwrap();
        assert!(acks.arrived.borrow().iter().all(|ack| ack.outcome.error == ErrorCode::None));
        assert_eq!(replica.segments.written(), offset(1));
        assert_eq!(replica.log.borrow().high_watermark(), offset(2));
    });
}

/// Partitions that were begun together end their segments together: each roll needs three flushes, and all
/// share them. What is beside a segment was flushed before it got its name, and before the next segment did.
#[test]
fn partitions_that_roll_together_share_their_flushes() {
    const PARTITIONS: i32 = 30;
    on_executor(async {
        let directory = directory();
        let events: Rc<RefCell<Vec<DiskEvent>>> = Rc::default();
        let store = store_on(SyncFs::Device, Some(events.clone()), 64 << 20);
        let acks = Acks::new(None);
        let mut replicas = Vec::new();
        for index in 0..PARTITIONS {
            let replica = open_partition(&store, directory.path(), index, 100_000).await;
            append(&store, &replica, &acks, &mut batch(1, None, &[1; 500])).await;
            replicas.push(replica);
        }
        acks.all_arrived(&store).await;
        let mut rolled = Vec::new();
        for replica in &replicas {
            rolled.push(roll_idle(&store, replica).await);
        }
        events.borrow_mut().clear();
        let rolls = replicas.iter().zip(rolled).map(|(replica, rolled)| replica.finish_rolls(&store, rolled));
        for finished in futures::future::join_all(rolls).await {
            finished.unwrap();
        }
        let flushes =
            events.borrow().iter().filter(|event| matches!(event, DiskEvent::FlushIssued { .. })).count();
        assert!((3..=9).contains(&flushes), "{flushes} for {PARTITIONS} rolls");
        for replica in &replicas {
            assert_eq!(replica.segments.written(), offset(1));
            for file in [SegmentFile::OffsetIndex, SegmentFile::TimeIndex, SegmentFile::Checksums] {
                assert!(replica.segments.path(Offset::ZERO, file).exists(), "{file:?}");
            }
            assert!(replica.segments.path(offset(1), SegmentFile::ProducerSnapshot).exists());
        }
    });
}

/// A topic is deleted between a roll in memory and its end on disk, and its directory's path is
/// another topic's by then: nothing is written there, and the log directory stays online.
#[test]
fn a_roll_of_a_deleted_partition_leaves_the_path_alone() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 100_000).await;
        let acks = Acks::new(None);
        append(&store, &replica, &acks, &mut batch(1, None, &[1; 500])).await;
        acks.all_arrived(&store).await;
        roll_idle(&store, &replica).await;
        append(&store, &replica, &acks, &mut batch(1, None, &[2; 500])).await;
        store.remove(&replica.id);
        replica.mark_deleted();
        replica.names_released().await;
        rename(&directory.path().join("t-0"), &directory.path().join("gone"));
        acks.all_arrived(&store).await;
        assert_eq!(acks.arrived.borrow()[1].outcome.error, ErrorCode::UnknownTopicOrPartition);
        store.release_slot(replica.slot).await;
        assert_eq!(store.offline_reason(), None);
        assert!(!directory.path().join("t-0").exists());
    });
}

/// A larger spare is asked for while a smaller batch takes the one that is there: they are never
/// the same file.
#[test]
fn a_spare_is_adopted_once() {
    on_executor(async {
        let directory = directory();
        let disk = Disk::new(SyncFs::Metadata, None);
        let segments = Segments::new(directory.path().to_owned(), Offset::ZERO);
        segments.prepare_spare(&disk, 1 << 20).await.unwrap();
        let enlarging = segments.prepare_spare(&disk, 2 << 20);
        let mut enlarging = std::pin::pin!(enlarging);
        assert!(futures::poll!(&mut enlarging).is_pending());
        assert_eq!(segments.spare_size(), None, "nobody takes it meanwhile");
        enlarging.await.unwrap();
        assert_eq!(segments.spare_size(), Some(2 << 20));
    });
}

/// A roll comes while bytes are being reserved for what it closes: none are left behind its end, where a
/// lost index could not be built again.
#[test]
fn a_closed_segment_gets_no_more_space() {
    on_executor(async {
        let directory = directory();
        let disk = Disk::new(SyncFs::Metadata, None);
        let segments = Segments::new(directory.path().to_owned(), Offset::ZERO);
        segments.extend_active(&disk, 8192).await.unwrap();
        segments.prepare_spare(&disk, 8192).await.unwrap();
        let held = segments.hold_sizes().await.unwrap();
        let extending = segments.extend_active(&disk, 1 << 20);
        let mut extending = std::pin::pin!(extending);
        assert!(futures::poll!(&mut extending).is_pending());
        segments.adopt_spare(offset(9));
        drop(held);
        extending.await.unwrap();
        let path = segments.path(Offset::ZERO, SegmentFile::Log);
        assert_eq!(std_read(&path).len(), 8192);
    });
}

/// A start finds the active segment as long as it was reserved: what it asks for beyond that is all that the
/// disk has to have.
#[test]
fn what_a_start_finds_reserved_is_no_new_space() {
    const SIZE: u64 = 512 << 20;
    on_executor(async {
        let directory = directory();
        let disk = Disk::new(SyncFs::Metadata, None);
        let segments = Segments::new(directory.path().to_owned(), Offset::ZERO);
        segments.extend_active(&disk, SIZE).await.unwrap();
        let file = segments.written_file(&disk, Offset::ZERO).await.unwrap().unwrap();
        let free = free_space(&*file).unwrap().unwrap();
        let nearly_full = disk.with_min_free(free - SIZE / 2);
        let started = Segments::new(directory.path().to_owned(), Offset::ZERO);
        started.extend_active(&nearly_full, SIZE + (1 << 20)).await.unwrap();
        let refused = started.extend_active(&nearly_full, 2 * SIZE).await;
        assert!(is_full_disk(&refused.unwrap_err()));
    });
}

#[test]
fn nothing_is_appended_behind_the_final_state() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 100_000).await;
        let acks = Acks::new(None);
        let target: Rc<dyn AckTarget> = acks.clone();
        store.close();
        let refused = replica.append(&store, &mut batch(1, None, &[1; 10]), &target, 0);
        assert!(matches!(refused, Err(outcome) if outcome.error == ErrorCode::KafkaStorageError));
        assert_eq!(replica.log.borrow().log_end(), Offset::ZERO);
    });
}

#[test]
fn a_segment_that_is_gone_takes_the_partition_offline() {
    on_executor(async {
        let directory = directory();
        let point = {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, directory.path(), 0, 2_000).await;
            let acks = Acks::new(None);
            for _ in 0..10 {
                append(&store, &replica, &acks, &mut batch(1, None, &[7; 500])).await;
            }
            acks.all_arrived(&store).await;
            assert!(!replica.log.borrow().closed().is_empty());
            point_of(&replica)
        };
        loop {
            let path = newest_log(directory.path());
            remove(&path);
            let mut request = request(directory.path(), 0, 2_000);
            request.point = Some(point);
            let opened = open(&store(None, 8 << 20), request).await;
            assert!(matches!(opened, Err(OpenFailed::Corrupt { .. })));
            if path.ends_with("00000000000000000000.log") {
                break;
            }
        }
    });
}

/// An acknowledgement, with how much the disk had done by then.
struct Arrived {
    outcome: ProduceOutcome,
    file: PathBuf,
    /// File position after the acknowledged batch.
    end: u64,
    events_before: usize,
}

struct Acks {
    recorder: Recorder,
    expected: RefCell<BTreeMap<u32, (PathBuf, u64)>>,
    arrived: RefCell<Vec<Arrived>>,
    sent: Cell<u32>,
    signal: Signal,
}

impl Acks {
    fn new(recorder: Recorder) -> Rc<Acks> {
        Rc::new(Acks {
            recorder,
            expected: RefCell::default(),
            arrived: RefCell::default(),
            sent: Cell::new(0),
            signal: Signal::default(),
        })
    }

    async fn all_arrived(&self, store: &Rc<Store>) {
        store.pump();
        while self.arrived.borrow().len() < self.sent.get() as usize {
            self.signal.notified().await;
        }
    }
}

impl AckTarget for Acks {
    fn acknowledged(&self, index: u32, outcome: ProduceOutcome) {
        let (file, end) = self.expected.borrow().get(&index).cloned().unwrap_or_default();
        let events_before = self.recorder.as_ref().map_or(0, |events| events.borrow().len());
        self.arrived.borrow_mut().push(Arrived { outcome, file, end, events_before });
        self.signal.notify();
    }
}

/// Bytes of a file that a flush has covered: written before it was issued, and it returned.
fn durable_end(events: &[DiskEvent], path: &Path) -> u64 {
    let (mut written, mut covered, mut durable) = (0, 0, 0);
    let concerns = |file: &Path| file == path || file.as_os_str().is_empty();
    for event in events {
        match event {
            DiskEvent::WriteCompleted { file, position, size } if file == path => {
                written = written.max(position + *size as u64);
            }
            DiskEvent::FlushIssued { file } if concerns(file) => covered = written,
            DiskEvent::FlushCompleted { file } if concerns(file) => durable = covered,
            _ => {}
        }
    }
    durable
}

async fn append(store: &Rc<Store>, replica: &Rc<Replica>, acks: &Rc<Acks>, batch: &mut [u8]) {
    let index = acks.sent.get();
    acks.sent.set(index + 1);
    let target: Rc<dyn AckTarget> = acks.clone();
    loop {
        match replica.append(store, batch, &target, index) {
            Ok(Appended::Parked) => break,
            Ok(Appended::Wait) => {
                store.pump();
                replica.ready.notified().await;
            }
            Err(outcome) => panic!("{outcome:?}"),
        }
    }
    let place = replica.log.borrow().end_place();
    let file = replica.written_file(store, place.segment).await.unwrap().map(|file| file.path().to_owned());
    acks.expected.borrow_mut().insert(index, (file.unwrap_or_default(), place.file_position));
}

async fn read_all(store: &Rc<Store>, replica: &Rc<Replica>, size_max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut next = Offset::ZERO;
    while next < replica.log.borrow().high_watermark() {
        let read = replica.read(&Reading::own(store), next, size_max).await.unwrap();
        assert!(read.size > 0, "a read below the high watermark found nothing");
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (view, tail) = BatchView::split_first(rest).unwrap();
            assert_eq!(view.validate_stored(), Ok(()));
            next = view.end_offset();
            rest = tail;
        }
        out.extend(bytes);
    }
    out
}

pub(super) async fn open_partition(
    store: &Rc<Store>,
    directory: &Path,
    index: i32,
    segment: u64,
) -> Rc<Replica> {
    open(store, request(directory, index, segment)).await.unwrap()
}

fn point_of(replica: &Replica) -> PartitionPoint {
    let log = replica.log.borrow();
    let place = log.durable_place();
    PartitionPoint {
        log_start: log.log_start(),
        flushed_end: log.high_watermark(),
        segment_base: place.segment,
        file_position: place.file_position,
    }
}

fn request(directory: &Path, index: i32, segment_size_max: u64) -> OpenRequest {
    let partition = PartitionIndex::from_wire(index).unwrap();
    OpenRequest {
        id: TopicPartition { topic: TopicId(Uuid::from_u128(1)), partition },
        topic_name: "t".into(),
        directory: directory.join(format!("t-{index}")),
        config: log_config(segment_size_max).into(),
        has_others: true,
        leader_epoch: LeaderEpoch(0),
        point: None,
        clean: false,
        state: None,
        closed: None,
        journal_end: None,
    }
}

fn batch(record_count: u32, sequence: Option<i32>, payload: &[u8]) -> Vec<u8> {
    let producer = sequence.map(|sequence| (ProducerId(1), ProducerEpoch(0), Sequence(sequence)));
    SampleBatch { record_count, producer, payload, ..Default::default() }.encode()
}

pub(super) fn store(recorder: Recorder, tail: usize) -> Rc<Store> {
    store_on(SyncFs::Metadata, recorder, tail)
}

fn store_on(sync_fs: SyncFs, recorder: Recorder, tail: usize) -> Rc<Store> {
    let memory = MemoryPlan { tail, unflushed: tail, read: 1 << 20, ..MemoryPlan::new(0) };
    let metrics = Rc::new(RefCell::new(ShardMetrics::new()));
    let shared = Shared::new(Clock::new(), metrics, &memory, 1);
    Store::new(&shared, store_dir(), Disk::new(sync_fs, recorder), None)
}

/// Of the only log directory.
fn store_dir() -> StoreDir {
    let index = LogDirIndex::METADATA;
    StoreDir { index, path: PathBuf::from("a test's"), generation: CheckpointGeneration::default() }
}

/// Writes half a batch behind the last whole one of a preallocated segment.
fn tear(log: &Path, whole: &[u8]) {
    let mut bytes = std_read(log);
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.resize(bytes.len().max(used + 500), 0);
    bytes[used..used + 500].copy_from_slice(&whole[..500]);
    std_write(log, &bytes);
}

async fn roll_idle(store: &Rc<Store>, replica: &Rc<Replica>) -> Offset {
    loop {
        match replica.try_roll(store) {
            Some(segment) => return segment,
            None => replica.ready.notified().await,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test moves a directory")]
fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a test removes files")]
fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

fn newest_log(directory: &Path) -> PathBuf {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(directory.join("t-0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    logs.pop().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test damages files")]
fn std_read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn overwrite(path: &Path, position: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, position).unwrap();
    file.sync_all().unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a test damages files")]
fn std_write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

pub(super) fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}

pub(super) fn on_executor(test: impl Future<Output = ()>) {
    let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is available");
    executor.run(test);
}
