//! Producers that lose their id: to another one, to time, to the end of their epochs.

use super::*;

const EXHAUSTED: i16 = i16::MAX - 1;

#[test]
fn another_producer_ends_the_transaction_and_gets_a_newer_epoch() {
    for version in [V1, V2] {
        let mut cluster = Cluster::new();
        let old = cluster.init().unwrap();
        cluster.add(version, old, 0).unwrap();
        assert_eq!(cluster.init(), Err(ErrorCode::ConcurrentTransactions), "it comes again");
        assert_eq!(cluster.state(), TransactionState::CompleteAbort);
        assert_eq!(cluster.markers_of(0), [(100, 1, ABORT)], "an epoch that nobody was told");
        let new = cluster.init().unwrap();
        assert_eq!(new, writer(100, 2));
        assert_eq!(cluster.add(version, old, 0), Err(ErrorCode::ProducerFenced));
        assert_eq!(cluster.end(version, old, COMMIT), Err(ErrorCode::ProducerFenced));
        assert_eq!(cluster.end(version, old, ABORT), Err(ErrorCode::ProducerFenced));
        assert_eq!(cluster.init_as(Some(old)), Err(ErrorCode::ProducerFenced));
    }
}

/// Its EndTxn is not one that is repeated, although the epoch is the next.
#[test]
fn who_was_fenced_is_not_taken_for_one_who_has_aborted() {
    for outcome in [COMMIT, ABORT] {
        let mut cluster = Cluster::new();
        let old = cluster.init().unwrap();
        cluster.add(V2, old, 0).unwrap();
        cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected: None });
        cluster.write_one();
        assert_eq!(cluster.state(), TransactionState::PrepareAbort);
        let ticket = cluster.send_end(V2, old, outcome);
        assert_eq!(cluster.told(ticket), Err(ErrorCode::ProducerFenced));
        cluster.settle();
        assert_eq!(cluster.end(V2, old, outcome), Err(ErrorCode::ProducerFenced));
        cluster.restart();
        assert_eq!(cluster.end(V2, old, outcome), Err(ErrorCode::ProducerFenced));
    }
}

#[test]
fn a_transaction_whose_time_is_over_is_aborted() {
    let mut cluster = Cluster::new();
    let old = cluster.init().unwrap();
    cluster.add(V2, old, 0).unwrap();
    cluster.pass(Duration::from_millis(TIMEOUT_MS as u64));
    assert_eq!(cluster.state(), TransactionState::Ongoing, "to the millisecond");
    cluster.pass(Duration::from_millis(1));
    cluster.settle();
    assert_eq!(cluster.state(), TransactionState::CompleteAbort);
    assert_eq!(cluster.markers_of(0), [(100, 1, ABORT)]);
    assert_eq!(cluster.end(V2, old, COMMIT), Err(ErrorCode::ProducerFenced));
    assert_eq!(cluster.add(V2, old, 0), Err(ErrorCode::ProducerFenced));
    // The time counts from the beginning, over a restart, and not from what was added last.
    let new = cluster.init().unwrap();
    cluster.add(V1, new, 0).unwrap();
    cluster.pass(Duration::from_millis(TIMEOUT_MS as u64 - 1));
    cluster.add(V1, new, 1).unwrap();
    cluster.restart();
    cluster.pass(Duration::from_millis(2));
    cluster.settle();
    assert_eq!(cluster.state(), TransactionState::CompleteAbort);
    assert_eq!(cluster.markers_of(1), [(100, 3, ABORT)]);
}

#[test]
fn time_does_not_end_what_is_being_ended() {
    let mut cluster = Cluster::new();
    let producer = cluster.init().unwrap();
    cluster.add(V1, producer, 0).unwrap();
    cluster.send_end(V1, producer, COMMIT);
    cluster.pass(Duration::from_secs(3600));
    cluster.write_one();
    cluster.pass(Duration::from_secs(3600));
    cluster.settle();
    assert_eq!(cluster.markers_of(0), [(100, 0, COMMIT)]);
}

#[test]
fn time_outs_are_within_what_the_operator_has_set() {
    let mut cluster = Cluster::new();
    for (timeout_ms, fine) in [(0, false), (-1, false), (1, true), (900_000, true), (900_001, false)] {
        let ticket = cluster.send_init(Init { timeout_ms, expected: None });
        cluster.settle();
        let refused = cluster.told(ticket) == Err(ErrorCode::InvalidTransactionTimeout);
        assert_eq!(refused, !fine, "{timeout_ms}");
    }
    assert_eq!(cluster.value().timeout_ms, 900_000);
}

#[test]
fn an_id_with_exhausted_epochs_is_replaced_by_the_next_producer() {
    let mut cluster = Cluster::with_epoch(EXHAUSTED - 1);
    let last = cluster.init().unwrap();
    assert_eq!(last, writer(100, EXHAUSTED));
    assert_eq!(cluster.init(), Ok(writer(101, 0)));
    assert_eq!(cluster.value().previous_producer, Some(ProducerId(100)));
    assert_eq!(cluster.add(V1, last, 0), Err(ErrorCode::InvalidProducerIdMapping));
    // The last epoch is there to fence with, and nobody has it.
    let mut cluster = Cluster::with_epoch(EXHAUSTED);
    let last = writer(100, EXHAUSTED);
    cluster.add(V2, last, 0).unwrap();
    assert_eq!(cluster.init(), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(cluster.markers_of(0), [(100, i16::MAX, ABORT)]);
    let nobodys = writer(100, i16::MAX);
    assert_eq!(cluster.add(V1, nobodys, 0), Err(ErrorCode::ProducerFenced));
    assert_eq!(cluster.end(V2, nobodys, ABORT), Err(ErrorCode::ProducerFenced));
    assert_eq!(cluster.end(V2, last, ABORT), Err(ErrorCode::ProducerFenced));
    assert_eq!(cluster.init(), Ok(writer(101, 0)));
}

#[test]
fn in_version_2_the_end_of_a_transaction_replaces_an_exhausted_id() {
    for outcome in [COMMIT, ABORT] {
        let mut cluster = Cluster::with_epoch(EXHAUSTED);
        let last = writer(100, EXHAUSTED);
        cluster.add(V2, last, 0).unwrap();
        let ticket = cluster.send_end(V2, last, outcome);
        cluster.write_one();
        assert_eq!(cluster.told(ticket), Ok(writer(101, 0)));
        let value = cluster.value();
        assert_eq!((value.producer, value.next_producer), (ProducerId(100), Some(ProducerId(101))));
        cluster.restart();
        cluster.settle();
        assert_eq!(cluster.markers_of(0), [(100, i16::MAX, outcome)]);
        let value = cluster.value();
        assert_eq!(
            (value.producer, value.epoch, value.next_producer),
            (ProducerId(101), ProducerEpoch(0), None)
        );
        assert_eq!(cluster.end(V2, last, outcome), Ok(writer(101, 0)), "repeated");
        for nobodys in [writer(100, 5), writer(100, i16::MAX)] {
            assert_eq!(cluster.end(V2, nobodys, outcome), Err(ErrorCode::InvalidProducerIdMapping));
        }
        cluster.add(V2, writer(101, 0), 1).unwrap();
        assert_eq!(cluster.end(V2, writer(101, 0), COMMIT), Ok(writer(101, 1)));
    }
}

/// It has its new id as soon as the end is decided, and that id holds once the markers are written.
#[test]
fn who_has_a_new_id_before_the_markers_are_written_waits_or_comes_again() {
    for (marked, outcome) in [(false, COMMIT), (true, ABORT)] {
        let mut cluster = Cluster::with_epoch(EXHAUSTED);
        let last = writer(100, EXHAUSTED);
        cluster.add(V2, last, 0).unwrap();
        let end = cluster.send_end(V2, last, outcome);
        cluster.write_one();
        let new = cluster.told(end).unwrap();
        if marked {
            cluster.mark_one(); // The record that completes it is on its way.
        }
        for version in [V1, V2] {
            let early = cluster.send_end(version, new, COMMIT);
            assert_eq!(cluster.told(early), Err(ErrorCode::ConcurrentTransactions));
        }
        let init = cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected: Some(new) });
        assert_eq!(cluster.told(init), Err(ErrorCode::ConcurrentTransactions));
        let verified = cluster.coordinator.verify("id", new, "t", 0);
        assert_eq!(verified, Err(ErrorCode::ConcurrentTransactions));
        let others = cluster.send_add(V2, writer(102, 0), &[("t", 1)]);
        assert_eq!(cluster.added(others), Err(ErrorCode::InvalidProducerIdMapping));
        let add = cluster.send_add(V2, new, &[("t", 1)]);
        assert!(!cluster.answers.contains_key(&add), "it waits");
        cluster.settle();
        assert_eq!(cluster.added(add), Ok(()));
        assert_eq!(cluster.state(), TransactionState::Ongoing);
        assert_eq!(cluster.end(V2, new, COMMIT), Ok(writer(101, 1)));
        assert_eq!(cluster.markers_of(0), [(100, i16::MAX, outcome)]);
        assert_eq!(cluster.markers_of(1), [(101, 1, COMMIT)]);
    }
}

/// KIP-360: a producer that goes on after an error names who it is.
#[test]
fn who_names_its_epoch_gets_the_next_and_the_same_again_when_repeated() {
    let mut cluster = Cluster::new();
    let first = cluster.init().unwrap();
    let second = cluster.init_as(Some(first)).unwrap();
    assert_eq!(second, writer(100, 1));
    assert_eq!(cluster.init_as(Some(first)), Ok(second), "its answer was lost");
    assert_eq!(cluster.init_as(Some(writer(99, 1))), Err(ErrorCode::ProducerFenced));
    let third = cluster.init_as(Some(second)).unwrap();
    assert_eq!(third, writer(100, 2));
    assert_eq!(cluster.init_as(Some(first)), Err(ErrorCode::ProducerFenced));
    // Another producer comes, and it is not the same any more.
    cluster.init().unwrap();
    assert_eq!(cluster.init_as(Some(second)), Err(ErrorCode::ProducerFenced));
    assert_eq!(cluster.init_as(Some(third)), Err(ErrorCode::ProducerFenced));
    // Over the end of the epochs.
    let mut cluster = Cluster::with_epoch(EXHAUSTED);
    let last = writer(100, EXHAUSTED);
    assert_eq!(cluster.init_as(Some(last)), Ok(writer(101, 0)));
    assert_eq!(cluster.init_as(Some(last)), Ok(writer(101, 0)));
    assert_eq!(cluster.init_as(Some(writer(100, 3))), Err(ErrorCode::ProducerFenced));
    assert_eq!(cluster.init_as(Some(writer(101, EXHAUSTED))), Err(ErrorCode::ProducerFenced), "the old id's");
    // Nothing is known of it: it is as good as new.
    let mut cluster = Cluster::new();
    assert_eq!(cluster.init_as(Some(last)), Ok(writer(100, 0)));
}

/// One that comes late must not abort what its own producer has begun since.
#[test]
fn an_older_epoch_ends_no_transaction() {
    let mut cluster = Cluster::new();
    let first = cluster.init().unwrap();
    let second = cluster.init_as(Some(first)).unwrap();
    cluster.add(V1, second, 0).unwrap();
    assert_eq!(cluster.init_as(Some(first)), Err(ErrorCode::ProducerFenced));
    assert_eq!(cluster.state(), TransactionState::Ongoing);
    assert_eq!(cluster.init_as(Some(second)), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(cluster.state(), TransactionState::CompleteAbort);
    assert_eq!(cluster.init_as(Some(second)), Err(ErrorCode::ProducerFenced), "as in Kafka");
}

#[test]
fn one_thing_at_a_time() {
    let mut cluster = Cluster::new();
    let first = cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected: None });
    let second = cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected: None });
    assert_eq!(cluster.told(second), Err(ErrorCode::ConcurrentTransactions));
    cluster.settle();
    let producer = cluster.told(first).unwrap();
    cluster.add(V1, producer, 0).unwrap();
    cluster.send_end(V1, producer, COMMIT);
    let init = cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected: None });
    assert_eq!(cluster.told(init), Err(ErrorCode::ConcurrentTransactions));
    let again = cluster.send_end(V1, producer, COMMIT);
    assert_eq!(cluster.told(again), Err(ErrorCode::ConcurrentTransactions));
    cluster.write_one();
    let init = cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected: None });
    assert_eq!(cluster.told(init), Err(ErrorCode::ConcurrentTransactions), "markers are being written");
    cluster.settle();
    assert_eq!(cluster.init(), Ok(writer(100, 1)));
}
