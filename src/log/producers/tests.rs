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
    }
}

fn reseal(bytes: &mut [u8]) {
    let crc = crate::codec::record_batch::crc32c(&bytes[6..]);
    bytes[2..6].copy_from_slice(&crc.to_be_bytes());
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
