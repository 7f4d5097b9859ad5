//! Segments that go while others read them, and what is left of them on disk.

use super::cutting::store_in;
use super::journalled::{claimed, has_room, journalled_after};
use super::*;
use crate::cluster::image::tests::replica as replica_on;
use crate::cluster::record::{self, PartitionState, Record};
use crate::shard::background::{drop_segments, retain, write_checkpoint};
use crate::shard::conn::tests::shard_of;
use crate::shard::partitions::{Changes, apply, carry_out};
use crate::shard::reader::ReadFailed;
use crate::shard::stores::Stores;
use crate::types::PartitionEpoch;
use std::time::Duration;

/// The deletion comes at every point at which a read waits, with and without the segment's file and
/// index at hand.
#[test]
fn a_read_of_what_is_being_deleted_is_exact_or_out_of_range() {
    on_executor(async {
        let (mut served, mut refused) = (0, 0);
        for waits in 0..12 {
            for is_warm in [false, true] {
                let directory = directory();
                let (store, replica, expected) = rolled(&directory, Duration::from_secs(60)).await;
                // From the disk, as after a start.
                drop((store, replica));
                let store = store_without_tail();
                let replica = open_partition(&store, directory.path(), 0, 3_000).await;
                if is_warm {
                    replica.read(&Reading::own(&store), Offset::ZERO, 1).await.unwrap();
                }
                let own = Reading::own(&store);
                let reading = replica.read(&own, offset(2), 1 << 20);
                let mut reading = std::pin::pin!(reading);
                let mut read = None;
                for _ in 0..waits {
                    if let std::task::Poll::Ready(done) = futures::poll!(&mut reading) {
                        read = Some(done);
                        break;
                    }
                    // One answer of the disk or of the helper thread each time, about.
                    glommio::timer::sleep(Duration::from_micros(200)).await;
                }
                let end = replica.log.borrow().high_watermark();
                replica.log.borrow_mut().advance_log_start(end);
                // Side by side: each may wait for the other to be done with a name.
                let read_on = async {
                    match read {
                        Some(read) => read,
                        None => reading.await,
                    }
                };
                let (read, ()) = futures::join!(read_on, drop_segments(&store, &replica));
                match read {
                    Ok(read) => {
                        let bytes: Vec<u8> =
                            read.slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
                        assert!(!bytes.is_empty());
                        assert!(expected[2..].concat().starts_with(&bytes), "exactly what was there");
                        served += 1;
                    }
                    // Below the log start by now, which makes it out of range for a fetch.
                    Err(ReadFailed::OutOfRange | ReadFailed::Disk { .. }) => refused += 1,
                    Err(error) => panic!("after {waits} waits, warm {is_warm}: {error}"),
                }
                assert_eq!(store.offline_reason(), None);
                let late = replica.read(&Reading::own(&store), offset(2), 1 << 20).await;
                assert!(matches!(late, Err(ReadFailed::OutOfRange)));
            }
        }
        assert!(served > 0 && refused > 0, "{served} were served, {refused} refused");
    });
}

#[test]
fn deleted_segments_keep_their_bytes_for_the_delay_and_no_longer_than_the_process() {
    on_executor(async {
        for delay in [Duration::ZERO, Duration::from_secs(3600)] {
            let directory = directory();
            let (store, replica, _) = rolled(&directory, delay).await;
            let logs = names(&directory, ".log").len();
            let end = replica.log.borrow().high_watermark();
            replica.log.borrow_mut().advance_log_start(end);
            drop_segments(&store, &replica).await;
            assert_eq!(names(&directory, ".log").len(), 1, "renamed at once");
            assert_eq!(names(&directory, ".log.deleted").len(), logs - 1);
            assert_eq!(names(&directory, ".timeindex.deleted").len(), logs - 1);
            store.remove_due().await;
            let left = names(&directory, ".deleted").len();
            assert_eq!(left == 0, delay.is_zero(), "{left} files after {delay:?}");
            drop((store, replica));
            open_partition(&store_without_tail(), directory.path(), 0, 3_000).await;
            assert_eq!(names(&directory, ".deleted"), Vec::<String>::new());
        }
    });
}

/// A partition with several closed segments, and its batches.
async fn rolled(
    directory: &tempfile::TempDir,
    file_delete_delay: Duration,
) -> (Rc<Store>, Rc<Replica>, Vec<Vec<u8>>) {
    let store = store(None, 8 << 20);
    let replica = open_partition(&store, directory.path(), 0, 3_000).await;
    Rc::make_mut(&mut replica.log.borrow_mut().config).file_delete_delay = file_delete_delay;
    let acks = Acks::new(None);
    let mut batches = Vec::new();
    for number in 0..20u8 {
        let mut bytes = batch(1, None, &[number; 500]);
        append(&store, &replica, &acks, &mut bytes).await;
        batches.push(bytes);
    }
    acks.all_arrived(&store).await;
    assert!(replica.log.borrow().closed().len() > 2, "segments were rolled");
    (store, replica, batches)
}

fn store_without_tail() -> Rc<Store> {
    store(None, 1 << 20)
}

fn names(directory: &tempfile::TempDir, suffix: &str) -> Vec<String> {
    let files = std::fs::read_dir(directory.path().join("t-0")).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(suffix)).collect()
}

/// Whoever waited for a flush before it, as a log start without a journal does, waited in vain.
#[test]
fn an_offline_directory_gets_no_checkpoint() {
    on_executor(async {
        let directory = directory();
        let store = store_without_tail();
        open_partition(&store, directory.path(), 0, 3_000).await;
        let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
        store.fail("a test's disk");
        let written = write_checkpoint(&shard, &store).await;
        assert!(written.is_err_and(|error| error.to_string().contains("offline")));
    });
}

/// More of them than are deleted together.
#[test]
fn a_deleted_topic_gives_up_all_its_directories_and_no_others() {
    on_executor(async {
        const COUNT: usize = 150;
        let directory = directory();
        let store = store_without_tail();
        let acks = Acks::new(None);
        for index in 0..COUNT {
            let replica = open_partition(&store, directory.path(), index as i32, 1 << 20).await;
            if index % 50 == 0 {
                append(&store, &replica, &acks, &mut batch(1, None, b"x")).await;
            }
        }
        let mut other = request(directory.path(), 0, 1 << 20);
        other.id.topic = TopicId(Uuid::from_u128(2));
        other.directory = directory.path().join("u-0");
        let other = open(&store, other).await.unwrap();
        let topic = store.replicas_of(TopicId(Uuid::from_u128(1)), 1)[0].id.topic;
        let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
        carry_out(&shard, Changes { deleted: vec![topic], ..Changes::default() }).await;
        assert_eq!(store.replica_count(), 1);
        assert!(!other.is_deleted());
        let names = || {
            let files = std::fs::read_dir(directory.path()).unwrap();
            files.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        };
        assert_eq!(names().filter(|name| name.ends_with("-delete")).count(), COUNT);
        assert!(names().any(|name| name == "u-0"));
        assert_eq!(store.offline_reason(), None);
    });
}

/// To another node and back: what it comes back with is nothing. To another core it goes with all it has.
#[test]
fn a_replica_goes_and_comes_as_the_metadata_say() {
    on_executor(async {
        for is_journalled in [false, true] {
            let directory = directory();
            claimed(directory.path());
            let store = store_in(directory.path(), is_journalled);
            let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
            if is_journalled {
                has_room(&store).await;
            }
            let acks = Acks::new(None);
            append(&store, &replica, &acks, &mut batch(1, None, b"x")).await;
            acks.all_arrived(&store).await;
            let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
            let id = replica.id;
            let to = |epoch: i32, replicas: &[record::Replica]| {
                let state = PartitionState {
                    leader_epoch: LeaderEpoch(epoch),
                    partition_epoch: PartitionEpoch(epoch),
                    ..PartitionState::new(replicas.to_vec())
                };
                apply(&shard, &[Record::PartitionChanged { id, state }])
            };
            let names = || {
                let files = std::fs::read_dir(directory.path()).unwrap();
                let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                names.filter(|name| name.starts_with("t-0")).collect::<Vec<String>>()
            };
            let changes = to(1, &[replica_on(2, 0)]);
            assert_eq!((&changes.removed[..], &changes.created[..]), (&[id][..], &[][..]));
            carry_out(&shard, changes).await;
            shard.removals.all_ended().await;
            assert!(store.find(&id).is_none() && replica.is_deleted());
            assert_eq!(shard.absence(&id), ErrorCode::NotLeaderOrFollower);
            assert!(names().iter().all(|name| name.ends_with("-delete")), "{:?}", names());

            let changes = to(2, &[replica_on(2, 0), replica_on(1, 0)]);
            assert_eq!((&changes.removed[..], &changes.created[..]), (&[][..], &[id][..]));
            carry_out(&shard, changes).await;
            let again = store.find(&id).expect("it has come");
            assert_eq!(again.log.borrow().log_end(), Offset::ZERO);
            assert!(!again.replication.serves(), "it follows");
            assert!(names().contains(&"t-0".to_owned()));

            // It is handed over as it is, which is not this one's to see to.
            let changes = to(3, &[replica_on(1, 1)]);
            assert_eq!((&changes.removed[..], &changes.created[..]), (&[][..], &[][..]));
            carry_out(&shard, changes).await;
            assert!(!again.is_deleted());
            assert_eq!(store.offline_reason(), None);
        }
    });
}

/// The journal has a block for many of them, not one for each with two flushes of its own.
#[test]
fn log_starts_that_retention_moves_are_made_durable_together() {
    const COUNT: i32 = 12;
    on_executor(async {
        let directory = directory();
        let store = journalled_after(directory.path(), 64 << 20, None).await;
        let acks = Acks::new(None);
        let mut replicas = Vec::new();
        for index in 0..COUNT {
            replicas.push(open_partition(&store, directory.path(), index, 3_000).await);
        }
        has_room(&store).await;
        for replica in &replicas {
            Rc::make_mut(&mut replica.log.borrow_mut().config).retention_bytes = Some(0);
            for number in 0..10 {
                append(&store, replica, &acks, &mut batch(1, None, &[number; 500])).await;
            }
        }
        acks.all_arrived(&store).await;
        for replica in &replicas {
            store.write_out(replica.slot).await;
        }
        let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
        let flushes = || store.metrics.borrow().flush_latency_us.count();
        let before = flushes();
        retain(&shard).await;
        for replica in &replicas {
            let log = replica.log.borrow();
            assert!(log.log_start() >= log.active().base_offset, "all closed segments are gone");
            assert!(log.closed().is_empty());
        }
        assert!(flushes() - before < COUNT as u64 / 2, "{} flushes", flushes() - before);
        assert_eq!(store.offline_reason(), None);
    });
}
