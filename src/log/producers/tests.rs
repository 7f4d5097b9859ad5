use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn retry_of_any_of_the_last_five_gets_its_offsets() {
    let mut producers = Producers::new();
    for n in 0..7 {
        append(&mut producers, batch(1, 0, n * 10, 10), n as u64 * 10);
    }
    for n in 2..7 {
        let SequenceCheck::Duplicate(stored) = producers.check(&batch(1, 0, n * 10, 10)).unwrap() else {
            panic!("batch {n} was to be appended again");
        };
        assert_eq!(stored.base_offset, offset(n as u64 * 10));
        assert_eq!(stored.last_offset, offset(n as u64 * 10 + 9));
        assert_eq!(stored.timestamp, Timestamp(n as i64 * 10));
    }
    let forgotten = producers.check(&batch(1, 0, 10, 10));
    assert_eq!(forgotten, Err(SequenceError::OutOfOrder { expected: Sequence(70), got: Sequence(10) }));
}

#[test]
fn part_of_a_stored_batch_is_no_duplicate() {
    let mut producers = Producers::new();
    append(&mut producers, batch(1, 0, 0, 10), 0);
    for (base, records) in [(0, 9), (1, 9), (0, 11), (9, 1), (9, 2), (11, 1)] {
        let refused = producers.check(&batch(1, 0, base, records));
        assert_eq!(refused, Err(SequenceError::OutOfOrder { expected: Sequence(10), got: Sequence(base) }));
    }
}

#[test]
fn unknown_producer_may_begin_anywhere() {
    assert_eq!(Producers::new().check(&batch(1, 3, 77, 2)), Ok(SequenceCheck::Append));
}

#[test]
fn new_epoch_begins_at_zero_and_fences_the_old_one() {
    let mut producers = Producers::new();
    append(&mut producers, batch(1, 4, 0, 3), 0);
    let refused = producers.check(&batch(1, 5, 3, 1));
    assert_eq!(refused, Err(SequenceError::OutOfOrder { expected: Sequence(0), got: Sequence(3) }));
    append(&mut producers, batch(1, 5, 0, 3), 3);
    let fenced = producers.check(&batch(1, 4, 3, 1));
    let error = SequenceError::StaleEpoch { current: ProducerEpoch(5), got: ProducerEpoch(4) };
    assert_eq!(fenced, Err(error));
    let SequenceCheck::Duplicate(stored) = producers.check(&batch(1, 5, 0, 3)).unwrap() else {
        panic!("the same sequences of the old epoch are another batch");
    };
    assert_eq!(stored.base_offset, offset(3));
}

#[test]
fn sequences_wrap_to_zero() {
    let mut producers = Producers::new();
    append(&mut producers, batch(1, 0, i32::MAX - 1, 4), 0); // MAX - 1, MAX, 0, 1.
    append(&mut producers, batch(1, 0, 2, 1), 4);
    append(&mut producers, batch(2, 0, i32::MAX, 1), 5);
    assert_eq!(producers.check(&batch(2, 0, 0, 1)), Ok(SequenceCheck::Append));
    let duplicate = producers.check(&batch(1, 0, i32::MAX - 1, 4));
    assert!(matches!(duplicate, Ok(SequenceCheck::Duplicate(stored)) if stored.base_offset == offset(0)));
}

/// All looks of one round. Returns how many were forgotten.
fn expire(producers: &mut Producers, now: Timestamp, idle_max: Duration) -> usize {
    let before = producers.count();
    let mut next = Some(ProducerId(0));
    while let Some(from) = next {
        next = producers.expire(from, now, idle_max);
    }
    before - producers.count()
}

#[test]
fn idle_producers_expire() {
    let mut producers = Producers::new();
    append(&mut producers, batch(1, 0, 0, 1), 10);
    append(&mut producers, batch(2, 0, 0, 1), 60);
    assert_eq!(expire(&mut producers, Timestamp(109), Duration::from_millis(100)), 0);
    assert_eq!(expire(&mut producers, Timestamp(110), Duration::from_millis(100)), 1);
    assert_eq!(producers.check(&batch(1, 0, 5, 1)), Ok(SequenceCheck::Append));
    assert!(producers.check(&batch(2, 0, 5, 1)).is_err());
}

#[test]
fn least_recently_used_producer_makes_room() {
    let mut producers = Producers::with_count_max(2);
    append(&mut producers, batch(1, 0, 0, 1), 0);
    append(&mut producers, batch(2, 0, 0, 1), 1);
    append(&mut producers, batch(1, 0, 1, 1), 2);
    append(&mut producers, batch(3, 0, 0, 1), 3);
    assert_eq!(producers.count(), 2);
    assert!(producers.check(&batch(1, 0, 9, 1)).is_err(), "1 is still known");
    assert!(producers.check(&batch(2, 0, 9, 1)).is_ok(), "2 was forgotten");
}

#[test]
fn truncation_forgets_what_was_cut() {
    let mut producers = Producers::new();
    append(&mut producers, batch(1, 0, 0, 5), 0);
    append(&mut producers, batch(1, 0, 5, 5), 5);
    append(&mut producers, batch(2, 0, 0, 5), 10);
    assert_eq!(producers.clone().truncate_to(offset(15)), Rewind::Complete);
    assert_eq!(producers.truncate_to(offset(10)), Rewind::Incomplete, "nothing is left of producer 2");
    assert_eq!(producers.truncate_to(offset(9)), Rewind::Complete);
    assert_eq!(producers.check(&batch(1, 0, 5, 5)), Ok(SequenceCheck::Append));
}

/// Built by hand after `ProducerSnapshot.json`: what Kafka writes for one producer.
#[test]
fn snapshot_layout_is_kafkas() {
    let mut producers = Producers::new();
    append(&mut producers, batch(0x0102, 3, 7, 4), 0x20);
    let mut golden: Vec<u8> = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    golden.extend([0, 0, 0, 0, 0, 0, 1, 2]); // Producer id.
    golden.extend([0, 3]); // Epoch.
    golden.extend([0, 0, 0, 10]); // Last sequence.
    golden.extend([0, 0, 0, 0, 0, 0, 0, 0x23]); // Last offset.
    golden.extend([0, 0, 0, 3]); // Offset delta.
    golden.extend([0, 0, 0, 0, 0, 0, 0, 0x20]); // Timestamp.
    golden.extend([0xff; 4]); // Coordinator epoch.
    golden.extend([0xff; 8]); // First offset of the open transaction.
    let crc = crate::codec::record_batch::crc32c(&golden[6..]);
    golden[2..6].copy_from_slice(&crc.to_be_bytes());

    assert_eq!(producers.encode_snapshot(), golden);
    assert_eq!(Producers::decode_snapshot(&golden, Timestamp(0x20)), Ok(producers));
}

#[test]
fn transaction_fields_survive_and_keep_a_producer() {
    let mut producers = Producers::new();
    append(&mut producers, batch(1, 0, 0, 1), 0);
    let mut bytes = producers.encode_snapshot();
    let end = bytes.len();
    bytes[end - 12..].copy_from_slice(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5]);
    reseal(&mut bytes);
    let mut decoded = Producers::decode_snapshot(&bytes, Timestamp(0)).unwrap();
    assert_eq!(decoded.encode_snapshot(), bytes);
    assert_eq!(expire(&mut decoded, Timestamp(i64::MAX), Duration::ZERO), 0);
}

#[test]
fn any_flipped_bit_of_a_snapshot_is_found() {
    let mut producers = Producers::new();
    append(&mut producers, batch(1, 0, 0, 5), 0);
    append(&mut producers, batch(1, 0, 5, 5), 5);
    let whole = producers.encode_snapshot();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Producers::decode_snapshot(&bytes, Timestamp(0)).is_err(), "bit {bit}");
    }
    for size in 0..whole.len() {
        assert!(Producers::decode_snapshot(&whole[..size], Timestamp(0)).is_err(), "size {size}");
    }
}

#[test]
fn impossible_producers_are_refused_under_a_good_crc() {
    let mut producers = Producers::new();
    append(&mut producers, batch(1, 0, 0, 5), 0);
    let whole = producers.encode_snapshot();
    let broken = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        reseal(&mut bytes);
        Producers::decode_snapshot(&bytes, Timestamp(0)).err()
    };
    assert_eq!(broken(10, &[0xff; 8]), Some(SnapshotError::Producer { producer_id: -1 }));
    assert_eq!(broken(18, &[0xff; 2]), Some(SnapshotError::Producer { producer_id: 1 }), "epoch");
    assert_eq!(broken(32, &[0xff; 4]), Some(SnapshotError::Producer { producer_id: 1 }), "delta");
    assert_eq!(broken(35, &[5]), Some(SnapshotError::Producer { producer_id: 1 }), "delta past offset 0");
    assert_eq!(broken(6, &[0x7f, 0xff, 0xff, 0xff]), Some(SnapshotError::Size { size: whole.len() }));
}

#[test]
fn impossible_earlier_batches_are_refused_under_a_good_crc() {
    let mut producers = Producers::new();
    for n in 0..6 {
        append(&mut producers, batch(1, 0, n, 1), n as u64);
    }
    let whole = producers.encode_snapshot();
    let earlier = 10 + 46;
    let broken = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        reseal(&mut bytes);
        Producers::decode_snapshot(&bytes, Timestamp(0)).err()
    };
    let first = earlier + 8;
    let refused = Some(SnapshotError::Producer { producer_id: 1 });
    assert_eq!(broken(earlier, b"ODRX"), Some(SnapshotError::Size { size: whole.len() }));
    assert_eq!(broken(earlier + 7, &[3]), Some(SnapshotError::Size { size: whole.len() }));
    assert_eq!(broken(first + 7, &[2]), Some(SnapshotError::Producer { producer_id: 2 }), "unknown producer");
    assert_eq!(broken(first + 8, &[0x80]), refused, "negative sequence");
    assert_eq!(broken(first + 32 + 19, &[1]), refused, "not after the one before");
    assert_eq!(broken(first + 3 * 32 + 19, &[5]), refused, "not before the newest");
    assert_eq!(broken(first + 19, &[0]), None, "a gap in offsets is other producers' batches");

    let mut longer = whole.clone();
    longer[earlier + 7] = 5;
    longer.splice(first..first, whole[first..first + 32].iter().copied());
    longer[first + 19] = 0;
    reseal(&mut longer);
    assert_eq!(Producers::decode_snapshot(&longer, Timestamp(0)).err(), refused, "more than the window");
}

/// What a producer does to a partition, good or bad.
#[derive(Clone, Debug)]
enum Step {
    Send { id: i64, epoch: i16, skip: i32, records: i32 },
    Retry { back: usize },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3i64, 0..3i16, prop_oneof![4 => Just(0), 1 => -2..3i32], 1..5i32)
            .prop_map(|(id, epoch, skip, records)| Step::Send { id, epoch, skip, records }),
        3 => (0..9usize).prop_map(|back| Step::Retry { back }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// The model keeps every stored batch for ever and looks through all of them.
    #[test]
    fn agrees_with_a_log_that_remembers_everything(
        steps in vec(step(), 0..120),
        start in prop_oneof![Just(0), Just(i32::MAX - 8)],
    ) {
        let mut producers = Producers::new();
        let mut log: Vec<AcceptedBatch> = Vec::new();
        let mut sent: Vec<BatchProducer> = Vec::new();
        for step in steps {
            let producer = match step {
                Step::Send { id, epoch, skip, records } => {
                    let next = next_sequence(&log, id, epoch).unwrap_or(Sequence(start));
                    let base = (next.0 as i64 + skip as i64).rem_euclid(1 << 31) as i32;
                    batch(id, epoch, base, records)
                }
                Step::Retry { back } => match sent.iter().rev().nth(back) {
                    Some(producer) => *producer,
                    None => continue,
                },
                Step::Restart => {
                    let bytes = producers.encode_snapshot();
                    let now = Timestamp(0);
                    let decoded = Producers::decode_snapshot(&bytes, now).unwrap();
                    let listing = SnapshotListing::decode(&bytes).unwrap();
                    prop_assert_eq!(listing.producers.len(), producers.count());
                    prop_assert_eq!(decoded.encode_snapshot(), bytes);
                    producers = decoded;
                    continue;
                }
            };
            sent.push(producer);
            let end = log.last().map_or(0, |batch| batch.last_offset.get() + 1);
            prop_assert_eq!(producers.check(&producer), expected(&log, &producer));
            if expected(&log, &producer) == Ok(SequenceCheck::Append) {
                log.push(append(&mut producers, producer, end));
            }
        }

        // A truncated state that calls itself complete is the state of the shorter log.
        let cut = log.len() / 2;
        let end = log.get(cut).map_or(offset(0), |batch| batch.base_offset);
        if log.len() > cut && producers.truncate_to(end) == Rewind::Complete {
            for producer in &sent {
                let (got, want) = (producers.check(producer), expected(&log[..cut], producer));
                let forgotten = matches!(want, Ok(SequenceCheck::Duplicate(_))) && got.is_err();
                prop_assert!(got == want || forgotten, "{:?} and {:?}", got, want);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_a_snapshot(
        mut bytes in vec(any::<u8>(), 0..200),
        count in 0..3u8,
        entries in vec(vec(0..3u8, 46), 0..3),
    ) {
        let _ = Producers::decode_snapshot(&bytes, Timestamp(0));
        let tail = bytes.split_off(bytes.len().min(12));
        let mut resealed = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, count];
        resealed.extend(entries.concat());
        resealed.extend(tail);
        reseal(&mut resealed);
        let listed = SnapshotListing::decode(&resealed);
        if let Ok(producers) = Producers::decode_snapshot(&resealed, Timestamp(0)) {
            prop_assert!(listed.is_ok(), "what is accepted can be shown");
            let again = Producers::decode_snapshot(&producers.encode_snapshot(), Timestamp(0));
            prop_assert_eq!(again, Ok(producers));
        }
    }
}

/// The rules over the whole log: only the newest epoch of a producer counts, and of that the five
/// newest batches.
fn expected(log: &[AcceptedBatch], producer: &BatchProducer) -> Result<SequenceCheck, SequenceError> {
    let mine: Vec<&AcceptedBatch> = log.iter().filter(|batch| batch.producer.id == producer.id).collect();
    let Some(current) = mine.last().map(|batch| batch.producer.epoch) else {
        return Ok(SequenceCheck::Append);
    };
    if producer.epoch < current {
        return Err(SequenceError::StaleEpoch { current, got: producer.epoch });
    }
    let window = mine.iter().rev().take(PRODUCER_BATCHES_RETAINED);
    let mut window = window.filter(|batch| batch.producer.epoch == current);
    if let Some(stored) = window.find(|batch| batch.producer == *producer) {
        return Ok(SequenceCheck::Duplicate(RetainedBatch {
            base_sequence: producer.base_sequence,
            last_sequence: producer.last_sequence,
            base_offset: stored.base_offset,
            last_offset: stored.last_offset,
            timestamp: stored.timestamp,
        }));
    }
    let expected = if producer.epoch == current {
        next_sequence(log, producer.id.0, current.0).unwrap()
    } else {
        Sequence(0)
    };
    if producer.base_sequence == expected {
        Ok(SequenceCheck::Append)
    } else {
        Err(SequenceError::OutOfOrder { expected, got: producer.base_sequence })
    }
}

fn next_sequence(log: &[AcceptedBatch], id: i64, epoch: i16) -> Option<Sequence> {
    let newest = log.iter().rev().find(|batch| batch.producer.id.0 == id)?;
    let same_epoch = newest.producer.epoch.0 == epoch;
    Some(if same_epoch { newest.producer.last_sequence.advance(1) } else { Sequence(0) })
}

/// Timestamps and times of append are the base offset, to tell batches apart.
fn append(producers: &mut Producers, producer: BatchProducer, base_offset: u64) -> AcceptedBatch {
    let span = (producer.last_sequence.0 as i64 - producer.base_sequence.0 as i64).rem_euclid(1 << 31);
    let accepted = AcceptedBatch {
        producer,
        base_offset: offset(base_offset),
        last_offset: offset(base_offset + span as u64),
        timestamp: Timestamp(base_offset as i64),
        appended_at: Timestamp(base_offset as i64),
    };
    assert_eq!(producers.check(&producer), Ok(SequenceCheck::Append));
    producers.record(&accepted);
    accepted
}

fn batch(id: i64, epoch: i16, base_sequence: i32, records: i32) -> BatchProducer {
    let base_sequence = Sequence(base_sequence);
    BatchProducer {
        id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
        base_sequence,
        last_sequence: base_sequence.advance(records as u32 - 1),
        is_transactional: false,
    }
}

fn reseal(bytes: &mut [u8]) {
    let crc = crate::codec::record_batch::crc32c(&bytes[6..]);
    bytes[2..6].copy_from_slice(&crc.to_be_bytes());
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}

/// A partition's producers, with a coordinator that knows every transaction.
struct Partition {
    producers: Producers,
    end: u64,
}

impl Partition {
    fn new() -> Partition {
        Partition { producers: Producers::new(), end: 0 }
    }

    fn take(&mut self, batch: &BatchProducer) -> Result<u64, SequenceError> {
        let base_offset = self.end;
        assert_eq!(self.producers.check(batch)?, SequenceCheck::Append);
        append(&mut self.producers, *batch, base_offset);
        let records = (batch.last_sequence.0 - batch.base_sequence.0) as u64 + 1;
        self.end += records;
        Ok(base_offset)
    }

    fn verify(&mut self, batch: &BatchProducer, version: TransactionVersion) {
        match self.producers.begin_verification(batch, version, Timestamp(0)).unwrap() {
            VerificationNeed::Nothing => {}
            VerificationNeed::Ask(guard) => assert!(self.producers.verified(batch.id, guard)),
        }
    }

    /// The batch of a transaction that the coordinator has confirmed.
    fn transact(&mut self, id: i64, epoch: i16, base: i32) -> Result<u64, SequenceError> {
        let batch = transactional(id, epoch, base);
        self.verify(&batch, TransactionVersion::V1);
        self.take(&batch)
    }

    fn end(&mut self, marker: &EndMarker, version: TransactionVersion) -> Result<Ended, MarkerRejected> {
        self.producers.check_marker(marker, version)?;
        let event = ProducerEvent::Marker {
            producer: marker.producer,
            epoch: marker.producer_epoch,
            end: Some((marker.outcome, marker.coordinator_epoch)),
            written: Unsequenced { offset: offset(self.end), timestamp: Timestamp(self.end as i64) },
            appended_at: Timestamp(self.end as i64),
        };
        self.end += 1;
        let ended = self.producers.take(&event);
        Ok(ended.map(|ended| {
            let EndedTransaction { first_offset, last_offset, last_stable_offset, .. } = ended;
            (first_offset.get(), last_offset.get(), last_stable_offset.get())
        }))
    }
}

/// First offset, marker, what is stable behind it.
type Ended = Option<(u64, u64, u64)>;

fn transactional(id: i64, epoch: i16, base: i32) -> BatchProducer {
    BatchProducer { is_transactional: true, ..batch(id, epoch, base, 1) }
}

fn commit(id: i64, epoch: i16, coordinator_epoch: i32) -> EndMarker {
    EndMarker {
        producer: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        coordinator_epoch: CoordinatorEpoch(coordinator_epoch),
        outcome: TransactionOutcome::Commit,
    }
}

#[test]
fn transactions_are_open_from_their_first_batch_to_their_marker() {
    let mut partition = Partition::new();
    assert_eq!(partition.transact(1, 0, 0), Ok(0));
    assert_eq!(partition.transact(2, 0, 0), Ok(1));
    assert_eq!(partition.transact(1, 0, 1), Ok(2));
    assert_eq!(partition.producers.first_open_transaction(), Some(offset(0)));
    assert_eq!(partition.end(&commit(1, 0, 5), TransactionVersion::V1), Ok(Some((0, 3, 1))));
    assert_eq!(partition.producers.first_open_transaction(), Some(offset(1)));
    assert_eq!(partition.end(&commit(2, 0, 5), TransactionVersion::V1), Ok(Some((1, 4, 5))));
    assert_eq!(partition.producers.first_open_transaction(), None);
    assert_eq!(partition.end(&commit(2, 0, 5), TransactionVersion::V1), Ok(None), "none is open");
    // In version 1 the sequences go on.
    assert_eq!(partition.transact(1, 0, 2), Ok(6));
    assert_eq!(partition.producers.first_open_transaction(), Some(offset(6)));
}

#[test]
fn an_open_transaction_is_forgotten_and_the_sequence_is_not() {
    let mut partition = Partition::new();
    assert_eq!(partition.transact(1, 0, 0), Ok(0));
    assert_eq!(partition.transact(2, 0, 0), Ok(1));
    partition.producers.forget_open_transactions();
    assert_eq!(partition.producers.first_open_transaction(), None);
    assert_eq!(partition.end(&commit(1, 0, 5), TransactionVersion::V1), Ok(None), "none is open");
    assert_eq!(partition.transact(1, 0, 1), Ok(3), "the sequence goes on");
    assert_eq!(partition.producers.first_open_transaction(), Some(offset(3)));
}

#[test]
fn a_transaction_begins_only_with_its_coordinators_word() {
    let mut partition = Partition::new();
    let first = transactional(1, 0, 0);
    assert_eq!(partition.take(&first), Err(SequenceError::NotVerified));
    let ask = partition.producers.begin_verification(&first, TransactionVersion::V1, Timestamp(0));
    let Ok(VerificationNeed::Ask(guard)) = ask else { panic!("{ask:?}") };
    assert_eq!(partition.take(&first), Err(SequenceError::NotVerified), "asked, not answered");
    assert!(partition.producers.verified(first.id, guard));
    assert_eq!(partition.take(&first), Ok(0));
    // It is open: nobody asks.
    let next = transactional(1, 0, 1);
    let need = partition.producers.begin_verification(&next, TransactionVersion::V1, Timestamp(0));
    assert_eq!(need, Ok(VerificationNeed::Nothing));
    assert_eq!(partition.take(&next), Ok(1));
    // A retry of what is stored, also behind the end of the transaction, needs nobody's word.
    partition.end(&commit(1, 0, 0), TransactionVersion::V1).unwrap();
    let need = partition.producers.begin_verification(&first, TransactionVersion::V1, Timestamp(0));
    assert_eq!(need, Ok(VerificationNeed::Nothing));
    assert!(matches!(partition.producers.check(&first), Ok(SequenceCheck::Duplicate(_))));
    // The next one is another transaction.
    assert_eq!(partition.take(&transactional(1, 0, 2)), Err(SequenceError::NotVerified));
}

#[test]
fn an_answer_about_a_transaction_that_has_ended_is_of_no_use() {
    let mut partition = Partition::new();
    let late = transactional(1, 0, 0);
    let ask = partition.producers.begin_verification(&late, TransactionVersion::V1, Timestamp(0));
    let Ok(VerificationNeed::Ask(guard)) = ask else { panic!("{ask:?}") };
    // The coordinator has answered, and aborted it before the answer came.
    partition.end(&commit(1, 0, 0), TransactionVersion::V1).unwrap();
    assert!(!partition.producers.verified(late.id, guard));
    assert_eq!(partition.take(&late), Err(SequenceError::NotVerified));
    // Neither is it the answer to the next question.
    let ask = partition.producers.begin_verification(&late, TransactionVersion::V1, Timestamp(0));
    assert!(matches!(ask, Ok(VerificationNeed::Ask(next)) if next != guard), "{ask:?}");
    assert!(!partition.producers.verified(late.id, guard));
    assert_eq!(partition.take(&late), Err(SequenceError::NotVerified));
}

#[test]
fn a_newer_epoch_is_another_question() {
    let mut partition = Partition::new();
    let older = transactional(1, 0, 0);
    partition.verify(&older, TransactionVersion::V1);
    let newer = transactional(1, 1, 0);
    let ask = partition.producers.begin_verification(&newer, TransactionVersion::V1, Timestamp(0));
    let Ok(VerificationNeed::Ask(guard)) = ask else { panic!("{ask:?}") };
    assert_eq!(partition.take(&newer), Err(SequenceError::NotVerified));
    assert!(partition.producers.verified(newer.id, guard));
    assert_eq!(partition.take(&older), Err(SequenceError::NotVerified), "it is the newer one's now");
    assert_eq!(partition.take(&newer), Ok(0));
}

/// Somebody asks under an epoch that the producer does not have, and is told to come again; then the producer
/// asks.
#[test]
fn an_answer_is_about_the_epoch_that_was_asked_about() {
    let mut partition = Partition::new();
    let (stray, right) = (transactional(1, i16::MAX, 0), transactional(1, 3, 0));
    let ask = partition.producers.begin_verification(&stray, TransactionVersion::V1, Timestamp(0));
    let Ok(VerificationNeed::Ask(strays)) = ask else { panic!("{ask:?}") };
    let ask = partition.producers.begin_verification(&right, TransactionVersion::V2, Timestamp(0));
    let Ok(VerificationNeed::Ask(guard)) = ask else { panic!("{ask:?}") };
    assert_ne!(guard, strays);
    assert!(partition.producers.verified(right.id, guard));
    assert_eq!(partition.take(&stray), Err(SequenceError::NotVerified), "nobody has said so of it");
    assert_eq!(partition.take(&right), Ok(0), "and it is in nobody's way");
    assert!(!partition.producers.verified(stray.id, strays), "the transaction is open");
}

#[test]
fn a_later_batch_does_not_overtake_the_first_that_was_asked_about() {
    let mut partition = Partition::new();
    let (first, second) = (transactional(1, 0, 4), transactional(1, 0, 5));
    partition.producers.begin_verification(&first, TransactionVersion::V1, Timestamp(0)).unwrap();
    partition.verify(&second, TransactionVersion::V1);
    let expected = SequenceError::OutOfOrder { expected: Sequence(4), got: Sequence(5) };
    assert_eq!(partition.take(&second), Err(expected));
    assert_eq!(partition.take(&first), Ok(0));
    assert_eq!(partition.take(&second), Ok(1));
}

#[test]
fn an_unknown_producer_of_version_2_begins_at_zero() {
    for (version, accepted) in [(TransactionVersion::V1, true), (TransactionVersion::V2, false)] {
        let mut partition = Partition::new();
        let batch = transactional(1, 3, 7);
        partition.verify(&batch, version);
        assert_eq!(partition.take(&batch).is_ok(), accepted, "{version:?}");
    }
}

#[test]
fn nothing_else_is_written_beside_an_open_transaction() {
    let mut partition = Partition::new();
    partition.transact(1, 0, 0).unwrap();
    assert_eq!(partition.take(&batch(1, 0, 1, 1)), Err(SequenceError::NotTransactional));
    assert_eq!(partition.take(&batch(2, 0, 0, 1)), Ok(1), "by another one it is");
    partition.end(&commit(1, 0, 0), TransactionVersion::V1).unwrap();
    assert_eq!(partition.take(&batch(1, 0, 1, 1)), Ok(3));
}

#[test]
fn an_older_epoch_ends_no_transaction() {
    let mut partition = Partition::new();
    partition.transact(1, 4, 0).unwrap();
    let stale = |got| Err(MarkerRejected::StaleEpoch { current: ProducerEpoch(4), got: ProducerEpoch(got) });
    assert_eq!(partition.end(&commit(1, 3, 0), TransactionVersion::V1), stale(3));
    assert_eq!(partition.producers.first_open_transaction(), Some(offset(0)));
    // A fenced producer's transaction is aborted with the next epoch, which is the producer's from then on.
    assert_eq!(partition.end(&commit(1, 5, 0), TransactionVersion::V1), Ok(Some((0, 1, 2))));
    let fenced = SequenceError::StaleEpoch { current: ProducerEpoch(5), got: ProducerEpoch(4) };
    assert_eq!(partition.take(&transactional(1, 4, 1)), Err(fenced));
}

/// KIP-890: the epoch is raised with every transaction, so a marker with the epoch of what is written now is
/// of an earlier one.
#[test]
fn a_late_marker_of_version_2_does_not_end_the_next_transaction() {
    let mut partition = Partition::new();
    let v2 = TransactionVersion::V2;
    partition.transact(1, 0, 0).unwrap();
    assert_eq!(
        partition.end(&commit(1, 0, 0), v2),
        Err(MarkerRejected::StaleEpoch { current: ProducerEpoch(0), got: ProducerEpoch(0) })
    );
    assert_eq!(partition.end(&commit(1, 1, 0), v2), Ok(Some((0, 1, 2))));
    // Its answer was lost: the same one again is taken.
    assert_eq!(partition.end(&commit(1, 1, 0), v2), Ok(None));
    // The next transaction begins with it, at sequence 0.
    let gap = SequenceError::OutOfOrder { expected: Sequence(0), got: Sequence(1) };
    assert_eq!(partition.transact(1, 1, 1), Err(gap));
    assert_eq!(partition.transact(1, 1, 0), Ok(3));
    let late = Err(MarkerRejected::StaleEpoch { current: ProducerEpoch(1), got: ProducerEpoch(1) });
    assert_eq!(partition.end(&commit(1, 1, 0), v2), late);
    assert_eq!(partition.producers.first_open_transaction(), Some(offset(3)));
}

#[test]
fn an_earlier_coordinator_is_fenced() {
    let mut partition = Partition::new();
    partition.transact(1, 0, 0).unwrap();
    partition.end(&commit(1, 0, 7), TransactionVersion::V1).unwrap();
    partition.transact(1, 0, 1).unwrap();
    let fenced = MarkerRejected::CoordinatorFenced { current: CoordinatorEpoch(7), got: CoordinatorEpoch(6) };
    assert_eq!(partition.end(&commit(1, 0, 6), TransactionVersion::V1), Err(fenced));
    assert_eq!(partition.end(&commit(1, 0, 7), TransactionVersion::V1), Ok(Some((2, 3, 4))));
    // Of each producer: another one may have another coordinator.
    assert_eq!(partition.end(&commit(2, 0, 1), TransactionVersion::V1), Ok(None));
}

/// It would fence the coordinator that there is, and leave every later transaction open.
#[test]
fn no_coordinator_has_an_epoch_above_the_newest() {
    let mut partition = Partition::new();
    let newest = CoordinatorEpoch(2);
    let may_be = |partition: &Partition, epoch| {
        [1, 2].map(|id| partition.producers.may_be_coordinators(&commit(id, 0, epoch), newest))
    };
    for epoch in [-1, 0, 2] {
        assert_eq!(may_be(&partition, epoch), [true, true], "{epoch}");
    }
    assert_eq!(may_be(&partition, 3), [false, false]);
    assert_eq!(may_be(&partition, i32::MAX), [false, false]);
    partition.transact(1, 0, 0).unwrap();
    assert_eq!(may_be(&partition, 3), [false, false]);
    partition.end(&commit(1, 0, 7), TransactionVersion::V1).unwrap();
    assert_eq!(may_be(&partition, 7), [true, false], "one has written here, of another cluster");
    assert_eq!(may_be(&partition, 8), [false, false]);
}

#[test]
fn a_producer_is_not_forgotten_while_its_transaction_is_open() {
    let mut partition = Partition { producers: Producers::with_count_max(2), end: 0 };
    partition.transact(1, 0, 0).unwrap();
    partition.take(&batch(2, 0, 0, 1)).unwrap();
    partition.take(&batch(3, 0, 0, 1)).unwrap();
    assert!(partition.producers.check(&batch(2, 0, 9, 1)).is_ok(), "2 has made room for 3, not 1");
    assert_eq!(partition.producers.first_open_transaction(), Some(offset(0)));
    assert_eq!(expire(&mut partition.producers, Timestamp(i64::MAX), Duration::ZERO), 1, "3");
    assert_eq!(partition.end(&commit(1, 0, 0), TransactionVersion::V1), Ok(Some((0, 3, 4))));
    assert_eq!(expire(&mut partition.producers, Timestamp(i64::MAX), Duration::ZERO), 1);
}

#[test]
fn questions_that_nobody_answers_are_forgotten() {
    let mut producers = Producers::new();
    let first = transactional(1, 0, 0);
    let ask = producers.begin_verification(&first, TransactionVersion::V1, Timestamp(5)).unwrap();
    let VerificationNeed::Ask(guard) = ask else { panic!("{ask:?}") };
    assert_eq!(expire(&mut producers, Timestamp(104), Duration::from_millis(100)), 0);
    assert!(producers.clone().verified(first.id, guard));
    assert_eq!(expire(&mut producers, Timestamp(105), Duration::from_millis(100)), 0);
    assert!(!producers.verified(first.id, guard));
    // So are the oldest of too many.
    let begin = |producers: &mut Producers, id: usize| {
        let batch = transactional(id as i64, 0, 0);
        producers.begin_verification(&batch, TransactionVersion::V1, Timestamp(0)).unwrap()
    };
    let VerificationNeed::Ask(oldest) = begin(&mut producers, 7) else { panic!("it is asked") };
    for id in 0..crate::types::limits::VERIFICATIONS_PER_PARTITION_MAX {
        begin(&mut producers, 1000 + id);
    }
    assert!(!producers.verified(ProducerId(7), oldest));
}

#[test]
fn as_many_transactions_are_open_as_are_remembered() {
    let mut partition = Partition::new();
    for id in 0..TRANSACTIONS_PER_PARTITION_MAX as i64 {
        partition.transact(id, 0, 0).unwrap();
    }
    assert_eq!(partition.transact(-1 + (1 << 40), 0, 0), Err(SequenceError::TooManyTransactions));
    assert!(partition.transact(5, 0, 1).is_ok(), "one that is open goes on");
    partition.end(&commit(5, 0, 0), TransactionVersion::V1).unwrap();
    assert!(partition.transact(-1 + (1 << 40), 0, 0).is_ok());
}

/// What a group coordinator writes has no sequence; it opens transactions all the same.
#[test]
fn offsets_committed_in_a_transaction_are_part_of_it() {
    let mut producers = Producers::new();
    let (id, epoch) = (ProducerId(1), ProducerEpoch(0));
    assert_eq!(producers.check_unsequenced(id, epoch), Err(SequenceError::NotVerified));
    let question = BatchProducer { base_sequence: Sequence(0), ..transactional(1, 0, 0) };
    let ask = producers.begin_verification(&question, TransactionVersion::V1, Timestamp(0)).unwrap();
    let VerificationNeed::Ask(guard) = ask else { panic!("{ask:?}") };
    assert!(producers.verified(id, guard));
    assert_eq!(producers.check_unsequenced(id, epoch), Ok(()));
    let written = Unsequenced { offset: offset(4), timestamp: Timestamp(9) };
    let event = ProducerEvent::Unsequenced { producer: id, epoch, written, appended_at: Timestamp(9) };
    assert_eq!(producers.take(&event), None);
    assert_eq!(producers.first_open_transaction(), Some(offset(4)));
    assert_eq!(producers.check_unsequenced(id, epoch), Ok(()));
    assert!(producers.check_unsequenced(id, ProducerEpoch(1)).is_err());
    let description = producers.describe(ProducerId(0), 9)[0];
    assert_eq!((description.last_sequence, description.last_timestamp), (None, Timestamp(9)));
}

#[test]
fn a_producer_is_described_by_what_it_wrote_last() {
    let mut partition = Partition::new();
    partition.transact(3, 2, 8).unwrap();
    let describe = |partition: &Partition| partition.producers.describe(ProducerId(3), 1)[0];
    let described = describe(&partition);
    assert_eq!((described.id, described.epoch), (ProducerId(3), ProducerEpoch(2)));
    assert_eq!(described.last_sequence, Some(Sequence(8)));
    assert_eq!(described.transaction_start, Some(offset(0)));
    assert_eq!(described.coordinator_epoch, CoordinatorEpoch::NONE);
    partition.end += 9;
    partition.end(&commit(3, 3, 6), TransactionVersion::V2).unwrap();
    let described = describe(&partition);
    assert_eq!((described.last_sequence, described.last_timestamp), (None, Timestamp(10)));
    assert_eq!((described.coordinator_epoch, described.transaction_start), (CoordinatorEpoch(6), None));
    assert_eq!(partition.producers.describe(ProducerId(4), 1), []);
}

/// What may happen to a partition with transactions; nothing of it is refused.
#[derive(Clone, Copy, Debug)]
enum Logged {
    Plain { id: i64 },
    Transactional { id: i64 },
    Unsequenced { id: i64 },
    End { id: i64, abort: bool, raise: bool },
}

fn logged() -> impl Strategy<Value = Logged> {
    prop_oneof![
        2 => (0..3i64).prop_map(|id| Logged::Plain { id: 10 + id }),
        4 => (0..3i64).prop_map(|id| Logged::Transactional { id }),
        1 => (0..3i64).prop_map(|id| Logged::Unsequenced { id }),
        3 => (0..3i64, any::<bool>(), any::<bool>())
            .prop_map(|(id, abort, raise)| Logged::End { id, abort, raise }),
    ]
}

/// The events of a log, each with a timestamp of its own.
fn events(steps: &[Logged]) -> Vec<ProducerEvent> {
    let mut producers: std::collections::BTreeMap<i64, (i16, Sequence)> = Default::default();
    let mut events = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let (base, appended_at) = (offset(at as u64), Timestamp(0));
        let written = Unsequenced { offset: base, timestamp: Timestamp(at as i64) };
        events.push(match *step {
            Logged::Plain { id } | Logged::Transactional { id } => {
                let (epoch, next) = producers.entry(id).or_insert((0, Sequence(0)));
                let is_transactional = matches!(step, Logged::Transactional { .. });
                let producer = BatchProducer { is_transactional, ..batch(id, *epoch, next.0, 1) };
                *next = next.advance(1);
                let timestamp = Timestamp(at as i64);
                ProducerEvent::Batch(AcceptedBatch {
                    producer,
                    base_offset: base,
                    last_offset: base,
                    timestamp,
                    appended_at,
                })
            }
            Logged::Unsequenced { id } => {
                let (epoch, _) = *producers.entry(id).or_insert((0, Sequence(0)));
                let (producer, epoch) = (ProducerId(id), ProducerEpoch(epoch));
                ProducerEvent::Unsequenced { producer, epoch, written, appended_at }
            }
            Logged::End { id, abort, raise } => {
                let (epoch, next) = producers.entry(id).or_insert((0, Sequence(0)));
                if raise {
                    (*epoch, *next) = (*epoch + 1, Sequence(0));
                }
                let outcome = if abort { TransactionOutcome::Abort } else { TransactionOutcome::Commit };
                let end = Some((outcome, CoordinatorEpoch(at as i32)));
                let (producer, epoch) = (ProducerId(id), ProducerEpoch(*epoch));
                ProducerEvent::Marker { producer, epoch, end, written, appended_at }
            }
        });
    }
    events
}

proptest! {
    /// A start from any snapshot and the log behind it is a start from the log alone.
    #[test]
    fn snapshot_and_replay_are_a_full_replay(steps in vec(logged(), 0..80), cut in any::<proptest::sample::Index>()) {
        let events = events(&steps);
        let cut = cut.index(events.len() + 1);
        let mut full = Producers::new();
        let mut ended = Vec::new();
        for event in &events[..cut] {
            ended.push(full.take(event));
        }
        let mut restored = Producers::decode_snapshot(&full.encode_snapshot(), Timestamp(0)).unwrap();
        prop_assert_eq!(&restored, &full);
        for event in &events[cut..] {
            prop_assert_eq!(restored.take(event), full.take(event));
        }
        prop_assert_eq!(&restored, &full);
        prop_assert_eq!(restored.encode_snapshot(), full.encode_snapshot());
        prop_assert_eq!(restored.describe(ProducerId(0), 99), full.describe(ProducerId(0), 99));
    }

    /// The model looks through all of the log.
    #[test]
    fn what_is_open_and_how_it_ends_agrees_with_the_log(steps in vec(logged(), 0..80)) {
        let mut producers = Producers::new();
        let mut open: std::collections::BTreeMap<ProducerId, Offset> = Default::default();
        for (at, event) in events(&steps).iter().enumerate() {
            let at = offset(at as u64);
            let got = producers.take(event);
            let want = match event {
                ProducerEvent::Batch(batch) => {
                    if batch.producer.is_transactional {
                        open.entry(batch.producer.id).or_insert(at);
                    }
                    None
                }
                ProducerEvent::Unsequenced { producer, .. } => {
                    open.entry(*producer).or_insert(at);
                    None
                }
                ProducerEvent::Marker { producer, end, .. } => open.remove(producer).map(|first_offset| {
                    let last_stable_offset = open.values().min().copied();
                    EndedTransaction {
                        producer: *producer,
                        first_offset,
                        last_offset: at,
                        outcome: end.unwrap().0,
                        last_stable_offset: last_stable_offset.unwrap_or(at.advance(1).unwrap()),
                    }
                }),
            };
            prop_assert_eq!(got, want);
            prop_assert_eq!(producers.first_open_transaction(), open.values().min().copied());
        }
    }

    /// Of a log that is cut short nothing is believed that was behind the cut.
    #[test]
    fn a_truncated_state_that_calls_itself_complete_has_no_later_transaction(
        steps in vec(logged(), 0..60),
        cut in any::<proptest::sample::Index>(),
    ) {
        let events = events(&steps);
        let cut = cut.index(events.len() + 1);
        let (mut shorter, mut whole) = (Producers::new(), Producers::new());
        for (at, event) in events.iter().enumerate() {
            whole.take(event);
            if at < cut {
                shorter.take(event);
            }
        }
        if whole.truncate_to(offset(cut as u64)) == Rewind::Complete {
            prop_assert_eq!(whole.first_open_transaction(), shorter.first_open_transaction());
        }
    }
}
