//! Stores with a commit journal.

use super::*;
use crate::log::journal::ring::RingLimits;
use crate::shard::journal::Journal;
use crate::types::ShardId;

/// Many partitions that each keep a little in memory only: together they fill what there may be, and
/// are written out before producers wait for ever.
#[test]
fn what_many_partitions_keep_in_memory_is_written_out_in_time() {
    // Their buffers, of 16 to 128 KiB each, fit into the tail's memory even when their bytes do not fit
    // into the part of it that may wait for a write-out.
    const PARTITIONS: i32 = 60;
    on_executor(async {
        let directory = directory();
        let store = journalled(directory.path(), 16 << 20);
        let mut replicas = Vec::new();
        for index in 0..PARTITIONS {
            replicas.push(open_partition(&store, directory.path(), index, 8 << 20).await);
        }
        store.pump();
        while !store.has_journal_room() {
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
        }
        let acks = Acks::new(None);
        for _round in 0..6 {
            // None of them ever reaches the size from which a partition is written out by itself.
            for replica in &replicas {
                append(&store, replica, &acks, &mut batch(1, None, &[7; 40_000])).await;
                while store.is_full() {
                    store.pump();
                    if store.is_full() {
                        store.drained.notified().await;
                    }
                }
            }
        }
        acks.all_arrived(&store).await;
        assert!(store.unstored_bytes() < 16 << 20);
        for replica in &replicas {
            assert_eq!(replica.log.borrow().high_watermark(), offset(6));
        }
    });
}

fn journalled(directory: &Path, tail: usize) -> Rc<Store> {
    let metrics = Rc::new(RefCell::new(ShardMetrics::new()));
    let memory = MemoryPlan { tail, unflushed: tail / 2, ..MemoryPlan::new(1 << 30) };
    let disk = Disk::new(SyncFs::Device, None);
    let limits = RingLimits { file_size: 32 << 20, file_count_max: 3 };
    let journal = Journal::new(directory, ShardId(0), disk.clone(), limits);
    Store::new(Clock::new(), disk, metrics, &memory, Some((ShardId(0), journal)))
}
