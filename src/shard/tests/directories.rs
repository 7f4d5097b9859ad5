//! Several log directories on one shard.

use super::*;
use crate::shard::api::produce;
use crate::shard::conn::tests::shard_of;
use crate::shard::stores::Stores;
use futures::FutureExt;
use std::pin::pin;

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
        assert!(stores.iter().all(|store| !store.is_full()));
    });
}

#[test]
fn who_appends_to_a_full_directory_waits_and_nobody_else() {
    on_executor(async {
        let directories = [directory(), directory()];
        let stores = stores(8 << 20, [directories[0].path(), directories[1].path()]);
        let acks = Acks::new(None);
        let mut replicas = Vec::new();
        for (index, (store, directory)) in (0..).zip(stores.iter().zip(&directories)) {
            let replica = open_partition(store, directory.path(), index, 1 << 20).await;
            append(store, &replica, &acks, &mut batch(1, None, b"the first")).await;
            acks.all_arrived(store).await;
            replicas.push(replica);
        }
        let memory = stores.for_reading().tail_memory.clone();
        let shard = shard_of(stores, directories[0].path(), &[0, 0]).await;
        // What is not in its segment fills the second one while memory is spent.
        append(shard.stores.of(&replicas[1]), &replicas[1], &acks, &mut batch(1, None, b"x")).await;
        let spent = memory.charge(memory.limit());
        shard.stores.for_reading().eviction.make_room(&memory);
        let is_full: Vec<bool> = shard.stores.iter().map(|store| store.is_full()).collect();
        assert_eq!(is_full, [false, true]);
        let target: Rc<dyn AckTarget> = acks.clone();
        let mut batches = [batch(1, None, b"y"), batch(1, None, b"y")];
        let [first, second] = &mut batches;
        let of_first = produce::append(&shard, &target, 10, &replicas[0].id, first, None);
        assert!(of_first.now_or_never().is_some());
        let mut of_second = pin!(produce::append(&shard, &target, 11, &replicas[1].id, second, None));
        assert!((&mut of_second).now_or_never().is_none());
        drop(spent);
        of_second.await;
    });
}
