//! What is kept, for how long, and what happens when it is not.

use super::*;

#[test]
fn an_id_that_nobody_uses_goes() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    cluster.add(V1, producer, 0).unwrap();
    cluster.end(V1, producer, COMMIT).unwrap();
    cluster.pass(SETTINGS.id_expiration - Duration::from_millis(1));
    assert!(cluster.writes.is_empty());
    cluster.pass(Duration::from_millis(1));
    let late = cluster.send_add(V1, producer, &[("t", 0)]);
    cluster.settle();
    assert_eq!(cluster.added(late), Err(ErrorCode::InvalidProducerIdMapping));
    assert_eq!((cluster.coordinator.count(), cluster.coordinator.describe("id")), (0, None));
    assert_eq!(cluster.log.last().unwrap().value, None, "a tombstone");
    cluster.restart();
    assert_eq!(cluster.coordinator.count(), 0);
    assert_eq!(cluster.init(), Ok(writer(101, 0)), "a new one");
}

#[test]
fn an_id_with_an_open_transaction_stays() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    cluster.add(V1, producer, 0).unwrap();
    cluster.now = Timestamp(cluster.now.0 + SETTINGS.id_expiration.as_millis() as i64 * 2);
    cluster.decide(|coordinator, now, effects| coordinator.expire("id", now, effects));
    assert!(cluster.writes.is_empty());
    cluster.send_end(V1, producer, COMMIT);
    cluster.write_one();
    cluster.decide(|coordinator, now, effects| coordinator.expire("id", now, effects));
    assert!(cluster.writes.is_empty(), "its markers are being written");
}

#[test]
fn what_cannot_be_written_has_not_happened() {
    let mut cluster = Cluster::new();
    cluster.write_result = Err(ErrorCode::KafkaStorageError);
    assert_eq!(cluster.init(), Err(ErrorCode::NotCoordinator));
    assert_eq!(cluster.coordinator.count(), 0);
    cluster.write_result = Ok(());
    let producer = cluster.init().unwrap();
    cluster.write_result = Err(ErrorCode::MessageTooLarge);
    assert_eq!(cluster.add(V2, producer, 0), Err(ErrorCode::UnknownServerError));
    assert_eq!(cluster.state(), TransactionState::Empty);
    cluster.write_result = Ok(());
    cluster.add(V2, producer, 0).unwrap();
    cluster.write_result = Err(ErrorCode::NotEnoughReplicas);
    assert_eq!(cluster.end(V2, producer, COMMIT), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(cluster.state(), TransactionState::Ongoing);
    assert!(cluster.markings.is_empty() && cluster.markers.is_empty());
    assert_eq!(cluster.init(), Err(ErrorCode::CoordinatorNotAvailable), "nor is anybody fenced");
    cluster.write_result = Ok(());
    assert_eq!(cluster.end(V2, producer, COMMIT), Ok(writer(101, 1)), "the first id was lost");
}

#[test]
fn an_end_that_cannot_be_written_is_written_again_without_its_markers() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    cluster.add(V2, producer, 0).unwrap();
    cluster.send_end(V2, producer, COMMIT);
    cluster.write_one();
    cluster.write_result = Err(ErrorCode::KafkaStorageError);
    cluster.mark_one();
    cluster.write_one();
    assert_eq!(cluster.state(), TransactionState::PrepareCommit);
    let again = cluster.markings.front().expect("it is tried again");
    assert!(again.is_again && again.partitions.is_empty());
    cluster.write_result = Ok(());
    cluster.settle();
    assert_eq!(cluster.state(), TransactionState::CompleteCommit);
    assert_eq!(cluster.markers_of(0).len(), 1);
}

/// They may be asked about before others of the log are looked at.
#[test]
fn of_several_ids_each_goes_on_by_itself() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    cluster.add(V1, producer, 0).unwrap();
    cluster.send_end(V1, producer, COMMIT);
    cluster.write_one();
    let prepared = cluster.value();
    let value =
        TransactionValue { producer: ProducerId(7), state: TransactionState::PrepareAbort, ..prepared };
    let other = TransactionRecord { transactional_id: "other".to_owned(), value: Some(value) };
    cluster.log.push(other);
    cluster.read_again();
    cluster.decide(|coordinator, _, effects| coordinator.loaded("other", effects));
    assert_eq!(cluster.markings[0].transactional_id, "other");
    let init = cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected: None });
    assert_eq!(cluster.told(init), Err(ErrorCode::ConcurrentTransactions));
    cluster.load();
    assert_eq!(cluster.markings.len(), 2, "one of each");
    assert_eq!(cluster.markings[1].transactional_id, "id");
    assert_ne!(cluster.markings[0].id, cluster.markings[1].id);
    // What is said of one says nothing of the other.
    let first = cluster.markings[0].id;
    cluster.decide(|coordinator, now, effects| coordinator.marked("id", first, now, effects));
    assert!(cluster.writes.is_empty());
    cluster.settle();
    assert_eq!(cluster.state(), TransactionState::CompleteCommit);
    let other = cluster.coordinator.describe("other").map(|value| value.state);
    assert_eq!(other, Some(TransactionState::CompleteAbort));
    assert_eq!(cluster.markers_of(0), [(7, 0, ABORT), (100, 0, COMMIT)]);
}

#[test]
fn markers_of_another_transaction_complete_nothing() {
    for version in [V1, V2] {
        let mut cluster = Cluster::new();
        let mut producer = cluster.init().unwrap();
        cluster.add(version, producer, 0).unwrap();
        let end = cluster.send_end(version, producer, COMMIT);
        cluster.write_one();
        let first = cluster.markings.front().unwrap().clone();
        cluster.settle();
        producer = cluster.told(end).unwrap();
        cluster.add(version, producer, 0).unwrap();
        cluster.send_end(version, producer, COMMIT);
        cluster.write_one();
        cluster.decide(|coordinator, now, effects| coordinator.marked("id", first.id, now, effects));
        assert!(cluster.writes.is_empty(), "also where both have the same marker");
        assert_eq!(cluster.state(), TransactionState::PrepareCommit);
    }
}

/// The second ones would end the next transaction, which in version 1 has the same epoch.
#[test]
fn markers_are_not_written_twice_at_a_time() {
    for version in [V1, V2] {
        let mut cluster = Cluster::new();
        let producer = cluster.init().unwrap();
        cluster.add(version, producer, 0).unwrap();
        cluster.restart();
        let end = cluster.send_end(version, producer, COMMIT);
        cluster.write_one();
        // Whoever walks the ids that are loaded comes to this one when it is decided already.
        cluster.decide(|coordinator, _, effects| coordinator.loaded("id", effects));
        assert_eq!(cluster.markings.len(), 1);
        cluster.mark_one();
        cluster.decide(|coordinator, _, effects| coordinator.loaded("id", effects));
        cluster.settle();
        let next = cluster.told(end).unwrap();
        cluster.add(version, next, 0).unwrap();
        assert_eq!(cluster.markers_of(0).len(), 1);
        assert!(cluster.markings.is_empty(), "nothing is left that could end the next one");
    }
}

#[test]
fn who_waits_is_told_when_this_is_the_coordinator_no_more() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    let first = cluster.send_add(V2, producer, &[("t", 0)]);
    let second = cluster.send_add(V2, producer, &[("t", 1)]);
    cluster.decide(|coordinator, _, effects| coordinator.resign(effects));
    assert_eq!(cluster.added(second), Err(ErrorCode::NotCoordinator));
    cluster.settle();
    assert_eq!(cluster.added(first), Ok(()), "it is kept");
    cluster.pass(Duration::from_secs(3600));
    assert!(cluster.writes.is_empty());
}

#[test]
fn additions_that_wait_are_bounded() {
    use crate::types::limits::TRANSACTION_ADDITIONS_WAITING_MAX;
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    cluster.send_add(V2, producer, &[("t", 0)]);
    for partition in 1..=TRANSACTION_ADDITIONS_WAITING_MAX as i32 {
        cluster.send_add(V2, producer, &[("t", partition)]);
    }
    let more = cluster.send_add(V2, producer, &[("u", 0)]);
    assert_eq!(cluster.added(more), Err(ErrorCode::ConcurrentTransactions));
}

/// Its producer was told to come again, and may never.
#[test]
fn an_addition_that_is_given_up_is_not_made() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    let first = cluster.send_add(V2, producer, &[("t", 0)]);
    let given_up = cluster.send_add(V2, producer, &[("t", 1)]);
    let third = cluster.send_add(V2, producer, &[("t", 2)]);
    for _ in 0..2 {
        cluster.decide(|coordinator, _, _| coordinator.give_up("id", given_up));
    }
    cluster.decide(|coordinator, _, _| coordinator.give_up("other", third));
    cluster.settle();
    assert_eq!((cluster.added(first), cluster.added(third)), (Ok(()), Ok(())));
    assert!(!cluster.answers.contains_key(&given_up));
    assert!(!cluster.value().partitions.contains("t", 1));
    // What is being written already is.
    let writing = cluster.send_add(V2, producer, &[("t", 3)]);
    cluster.decide(|coordinator, _, _| coordinator.give_up("id", writing));
    cluster.settle();
    assert!(cluster.value().partitions.contains("t", 3));
}

/// One request may name very many partitions.
#[test]
fn what_waits_takes_room_as_what_is_kept_does() {
    use crate::types::limits::TRANSACTIONS_SIZE_MAX;
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    let first = cluster.send_add(V2, producer, &[("t", 0)]);
    let large = "t".repeat(TRANSACTIONS_SIZE_MAX / 2);
    let waiting = cluster.send_add(V2, producer, &[(&large, 1)]);
    let more = cluster.send_add(V2, producer, &[(&large, 2)]);
    assert_eq!(cluster.added(more), Err(ErrorCode::ConcurrentTransactions));
    cluster.decide(|coordinator, _, _| coordinator.give_up("id", waiting));
    let later = cluster.send_add(V2, producer, &[(&large, 3)]);
    assert!(!cluster.answers.contains_key(&later), "there is room again");
    cluster.decide(|coordinator, _, _| coordinator.give_up("id", later));
    cluster.settle();
    assert_eq!(cluster.added(first), Ok(()));
}

#[test]
fn states_that_are_never_written_are_read_as_what_is_safe() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    cluster.add(V1, producer, 0).unwrap();
    let fenced = TransactionValue { state: TransactionState::PrepareEpochFence, ..cluster.value() };
    let record = |value| TransactionRecord { transactional_id: "id".to_owned(), value: Some(value) };
    cluster.log.push(record(fenced));
    cluster.restart();
    assert_eq!(cluster.state(), TransactionState::Ongoing);
    let dead = TransactionValue { state: TransactionState::Dead, ..cluster.value() };
    cluster.log.push(record(dead));
    cluster.restart();
    assert_eq!(cluster.coordinator.count(), 0);
}

#[test]
fn ids_are_listed_once_they_are_kept() {
    let mut cluster = Cluster::new();
    cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected: None });
    assert_eq!(cluster.coordinator.listed("id"), None);
    cluster.settle();
    let listed = cluster.coordinator.listed("id").unwrap();
    assert_eq!((listed.state, listed.start), (TransactionState::Empty, Timestamp::NONE));
    assert_eq!(cluster.coordinator.ids_after(None, 9), ["id"]);
    assert!(cluster.coordinator.ids_after(Some("id"), 9).is_empty());
}
