//! Transactions that take their course: begun, added to, committed and aborted, in both versions.

use super::*;

#[test]
fn a_producer_commits_and_aborts_in_version_1_under_one_epoch() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    assert_eq!(producer, writer(100, 0));
    assert_eq!(cluster.state(), TransactionState::Empty);
    assert_eq!(cluster.add(V1, producer, 0), Ok(()));
    assert_eq!(cluster.add(V1, producer, 1), Ok(()));
    assert_eq!(cluster.state(), TransactionState::Ongoing);
    assert_eq!(cluster.end(V1, producer, COMMIT), Ok(producer));
    assert_eq!(cluster.state(), TransactionState::CompleteCommit);
    assert_eq!(cluster.markers_of(0), [(100, 0, COMMIT)]);
    assert_eq!(cluster.markers_of(1), [(100, 0, COMMIT)]);
    assert_eq!(cluster.add(V1, producer, 1), Ok(()));
    assert_eq!(cluster.end(V1, producer, ABORT), Ok(producer));
    assert_eq!(cluster.state(), TransactionState::CompleteAbort);
    assert_eq!(cluster.markers_of(0).len(), 1, "it was not part of the second");
    assert_eq!(cluster.markers_of(1), [(100, 0, COMMIT), (100, 0, ABORT)]);
    assert_eq!((cluster.coordinator.committed, cluster.coordinator.aborted), (1, 1));
}

#[test]
fn every_transaction_of_version_2_has_an_epoch_of_its_own() {
    let mut cluster = Cluster::new();
    let first = cluster.init().unwrap();
    cluster.add(V2, first, 0).unwrap();
    let second = cluster.end(V2, first, COMMIT).unwrap();
    assert_eq!(second, writer(100, 1));
    assert_eq!(cluster.markers_of(0), [(100, 1, COMMIT)], "the marker has the next epoch");
    assert_eq!(cluster.value().previous_producer, Some(ProducerId(100)));
    assert_eq!(cluster.add(V2, first, 1), Err(ErrorCode::ProducerFenced), "it came late");
    cluster.add(V2, second, 1).unwrap();
    assert_eq!(cluster.end(V2, second, ABORT), Ok(writer(100, 2)));
    assert_eq!(cluster.markers_of(1), [(100, 2, ABORT)]);
}

#[test]
fn an_end_that_is_repeated_is_answered_as_the_first() {
    let mut cluster = Cluster::new();
    let first = cluster.init().unwrap();
    cluster.add(V2, first, 0).unwrap();
    let ticket = cluster.send_end(V2, first, COMMIT);
    assert!(cluster.write_one());
    assert_eq!(cluster.told(ticket), Ok(writer(100, 1)), "as soon as it is decided");
    assert_eq!(cluster.state(), TransactionState::PrepareCommit);
    let again = cluster.send_end(V2, first, COMMIT);
    assert_eq!(cluster.told(again), Err(ErrorCode::ConcurrentTransactions));
    let other = cluster.send_end(V2, first, ABORT);
    assert_eq!(cluster.told(other), Err(ErrorCode::InvalidTxnState));
    cluster.settle();
    assert_eq!(cluster.end(V2, first, COMMIT), Ok(writer(100, 1)));
    assert_eq!(cluster.end(V2, first, ABORT), Err(ErrorCode::InvalidTxnState));
    cluster.restart();
    assert_eq!(cluster.end(V2, first, COMMIT), Ok(writer(100, 1)), "also by the next coordinator");
    assert_eq!(cluster.markers_of(0).len(), 1);
    // In version 1 it cannot be told from the end of the next transaction, if that has nothing.
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    cluster.add(V1, producer, 0).unwrap();
    cluster.end(V1, producer, COMMIT).unwrap();
    assert_eq!(cluster.end(V1, producer, COMMIT), Ok(producer));
    assert_eq!(cluster.end(V1, producer, ABORT), Err(ErrorCode::InvalidTxnState));
}

/// It has the epoch of its next transaction as soon as the end of this one is decided, and may end that at once.
#[test]
fn who_ends_the_next_transaction_early_comes_again() {
    for outcome in [COMMIT, ABORT] {
        let mut cluster = Cluster::new();
        let first = cluster.init().unwrap();
        cluster.add(V2, first, 0).unwrap();
        let end = cluster.send_end(V2, first, COMMIT);
        cluster.write_one();
        let second = cluster.told(end).unwrap();
        let early = cluster.send_end(V2, second, outcome);
        assert_eq!(cluster.told(early), Err(ErrorCode::ConcurrentTransactions), "markers are being written");
        cluster.mark_one();
        let early = cluster.send_end(V2, second, outcome);
        assert_eq!(cluster.told(early), Err(ErrorCode::ConcurrentTransactions), "the last record is");
        let newer = cluster.send_end(V2, writer(100, 2), outcome);
        assert_eq!(cluster.told(newer), Err(ErrorCode::ProducerFenced), "nobody was told of that");
        cluster.settle();
        assert_eq!(cluster.end(V2, second, ABORT), Ok(writer(100, 2)));
    }
}

#[test]
fn nothing_can_be_committed_before_it_has_begun() {
    for version in [V1, V2] {
        let mut cluster = Cluster::new();
        let producer = cluster.init().unwrap();
        assert_eq!(cluster.end(version, producer, COMMIT), Err(ErrorCode::InvalidTxnState));
        assert_eq!(cluster.end(version, writer(7, 0), COMMIT), Err(ErrorCode::InvalidProducerIdMapping));
    }
}

/// A batch may be on its way whose answer has not come: the abort shuts it out.
#[test]
fn version_2_aborts_also_what_has_not_begun() {
    let mut cluster = Cluster::new();
    let first = cluster.init().unwrap();
    let second = cluster.end(V2, first, ABORT).unwrap();
    assert_eq!((second, cluster.state()), (writer(100, 1), TransactionState::CompleteAbort));
    assert_eq!(cluster.value().start, cluster.now);
    assert_eq!(cluster.end(V2, first, ABORT), Ok(second), "again");
    assert_eq!(cluster.end(V2, second, ABORT), Ok(writer(100, 2)), "the next");
    assert_eq!(cluster.add(V2, first, 0), Err(ErrorCode::ProducerFenced));
    assert_eq!(cluster.end(V2, writer(100, 2), COMMIT), Err(ErrorCode::InvalidTxnState));
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    assert_eq!(cluster.end(V1, producer, ABORT), Err(ErrorCode::InvalidTxnState));
}

#[test]
fn additions_that_come_while_one_is_written_are_written_together() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    let tickets: Vec<Ticket> =
        (0..5).map(|partition| cluster.send_add(V2, producer, &[("t", partition)])).collect();
    assert_eq!(cluster.writes.len(), 1);
    assert!(cluster.write_one());
    assert!(cluster.answers.contains_key(&tickets[0]));
    assert!(!cluster.answers.contains_key(&tickets[1]));
    assert_eq!(cluster.writes.len(), 1, "one for the other four");
    cluster.settle();
    assert!(tickets.iter().all(|ticket| cluster.added(*ticket) == Ok(())));
    assert_eq!(cluster.log.len(), 3);
    let known = cluster.send_add(V2, producer, &[("t", 3), ("t", 0)]);
    assert_eq!(cluster.added(known), Ok(()), "at once");
    assert!(cluster.writes.is_empty());
}

#[test]
fn what_is_added_while_markers_are_written_waits_for_them() {
    for version in [V1, V2] {
        let mut cluster = Cluster::new();
        let first = cluster.init().unwrap();
        cluster.add(version, first, 0).unwrap();
        let end = cluster.send_end(version, first, COMMIT);
        let early = cluster.send_add(version, first, &[("t", 1)]);
        assert_eq!(cluster.added(early), Err(ErrorCode::ConcurrentTransactions), "not decided yet");
        assert!(cluster.write_one());
        let second = cluster.told(end).unwrap();
        let next = cluster.send_add(version, second, &[("t", 2)]);
        assert!(!cluster.answers.contains_key(&next));
        assert!(cluster.mark_one());
        assert!(!cluster.answers.contains_key(&next), "the end is not written");
        cluster.settle();
        assert_eq!(cluster.added(next), Ok(()));
        assert_eq!(cluster.state(), TransactionState::Ongoing);
        assert_eq!(cluster.value().partitions, [("t", 2)].into_iter().collect());
    }
}

#[test]
fn only_what_was_added_is_verified() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    let verify =
        |cluster: &Cluster, writer, partition| cluster.coordinator.verify("id", writer, "t", partition);
    assert_eq!(verify(&cluster, producer, 0), Err(ErrorCode::TransactionAbortable));
    cluster.add(V1, producer, 0).unwrap();
    assert_eq!(verify(&cluster, producer, 0), Ok(()));
    assert_eq!(verify(&cluster, producer, 1), Err(ErrorCode::TransactionAbortable));
    assert_eq!(verify(&cluster, writer(100, 1), 0), Err(ErrorCode::ProducerFenced));
    assert_eq!(verify(&cluster, writer(99, 0), 0), Err(ErrorCode::InvalidProducerIdMapping));
    cluster.send_end(V1, producer, COMMIT);
    cluster.write_one();
    assert_eq!(verify(&cluster, producer, 0), Err(ErrorCode::ConcurrentTransactions));
    cluster.settle();
    assert_eq!(verify(&cluster, producer, 0), Err(ErrorCode::TransactionAbortable), "it has ended");
    let unknown = cluster.coordinator.verify("other", producer, "t", 0);
    assert_eq!(unknown, Err(ErrorCode::InvalidProducerIdMapping));
    assert_eq!(cluster.coordinator.verify("", producer, "t", 0), Err(ErrorCode::InvalidRequest));
}

#[test]
fn a_producer_may_change_to_the_other_version() {
    let mut cluster = Cluster::new();
    let mut producer = cluster.init().unwrap();
    cluster.add(V1, producer, 0).unwrap();
    producer = cluster.end(V1, producer, COMMIT).unwrap();
    cluster.add(V2, producer, 0).unwrap();
    producer = cluster.end(V2, producer, COMMIT).unwrap();
    assert_eq!(producer, writer(100, 1));
    cluster.add(V1, producer, 0).unwrap();
    assert_eq!(cluster.end(V1, producer, ABORT), Ok(writer(100, 1)));
    assert_eq!(cluster.markers_of(0), [(100, 0, COMMIT), (100, 1, COMMIT), (100, 1, ABORT)]);
}
