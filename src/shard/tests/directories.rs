//! Several log directories on one shard.

use super::*;
use crate::shard::stores::Stores;

/// Two stores of a shard, each with a directory of its own.
fn stores(tail: usize, directories: [&Path; 2]) -> Stores {
    let memory = MemoryPlan { tail, unflushed: tail, read: 1 << 20, ..MemoryPlan::new(0) };
    let metrics = Rc::new(RefCell::new(ShardMetrics::new()));
    let shared = Shared::new(Clock::new(), metrics, &memory, 2);
    let disk = Disk::new(SyncFs::Metadata, None);
    let store = |at: usize| {
        let (index, path) = (LogDirIndex(at as u16), directories[at].to_owned());
        let dir = StoreDir { index, path, generation: CheckpointGeneration::default() };
        Store::new(&shared, dir, disk.on(SyncFs::Metadata), None)
    };
    Stores::new(vec![store(0), store(1)])
}

#[test]
fn memory_goes_to_the_directory_that_is_written_to() {
    on_executor(async {
        const TAIL: usize = 4 << 20;
        let directories = [directory(), directory()];
        let stores = stores(TAIL, [directories[0].path(), directories[1].path()]);
        let acks = Acks::new(None);
        let mut replicas = Vec::new();
        for (index, (store, directory)) in (0..).zip(stores.iter().zip(&directories)) {
            replicas.push(open_partition(store, directory.path(), index, 64 << 20).await);
        }
        let mut sent = [Vec::new(), Vec::new()];
        // One after the other, each with as much as there is for both.
        for (at, replica) in replicas.iter().enumerate() {
            for _ in 0..80 {
                let mut one = batch(1, None, &[at as u8; 60_000]);
                append(stores.of(replica), replica, &acks, &mut one).await;
                acks.all_arrived(stores.of(replica)).await;
                sent[at].extend(one);
            }
        }
        let memory = &stores.for_reading().tail_memory;
        assert!(memory.used() <= TAIL + (1 << 20), "{} bytes", memory.used());
        for (at, replica) in replicas.iter().enumerate() {
            assert_eq!(stores.find(&replica.id).map(|found| found.dir), Some(LogDirIndex(at as u16)));
            let read = read_all(stores.for_reading(), replica, 1 << 20).await;
            assert!(read == sent[at], "directory {at}");
        }
    });
}

#[test]
fn failed_directory_refuses_and_the_other_goes_on() {
    on_executor(async {
        let directories = [directory(), directory()];
        let stores = stores(8 << 20, [directories[0].path(), directories[1].path()]);
        let mut replicas = Vec::new();
        for (index, (store, directory)) in (0..).zip(stores.iter().zip(&directories)) {
            replicas.push(open_partition(store, directory.path(), index, 64 << 20).await);
        }
        let told = Rc::new(RefCell::new(Vec::new()));
        let telling = told.clone();
        stores
            .get(LogDirIndex(1))
            .on_failed(Box::new(move |reason| telling.borrow_mut().push(reason.to_owned())));
        let acks = Acks::new(None);
        let flushed = batch(1, None, b"flushed");
        append(stores.of(&replicas[1]), &replicas[1], &acks, &mut flushed.clone()).await;
        acks.all_arrived(stores.of(&replicas[1])).await;
        stores.of(&replicas[1]).fail("input/output error");
        stores.of(&replicas[1]).fail("once more");
        assert_eq!(*told.borrow(), ["input/output error"], "the other shards are told once");
        let target: Rc<dyn AckTarget> = acks.clone();
        let refused = replicas[1].append(stores.of(&replicas[1]), &mut flushed.clone(), &target, 0);
        assert_eq!(refused.err().map(|outcome| outcome.error), Some(ErrorCode::KafkaStorageError));
        assert_eq!(read_all(stores.for_reading(), &replicas[1], 1 << 20).await.len(), flushed.len());
        append(stores.of(&replicas[0]), &replicas[0], &acks, &mut flushed.clone()).await;
        acks.all_arrived(stores.of(&replicas[0])).await;
        assert!(!stores.is_full());
    });
}
