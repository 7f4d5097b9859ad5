use super::index::{TransactionIndex, TransactionIndexError};
use super::*;
use crate::log::samples::sample_segment;
use proptest::collection::vec;
use proptest::prelude::*;

/// Built by hand after Kafka's `AbortedTxn`.
#[test]
fn entries_are_kafkas_and_the_end_is_shorter_than_one() {
    let index = TransactionIndex { aborted: vec![aborted(0x11, 5, 9, 7)], first_open: Some(offset(7)) };
    let bytes = index.encode(&sample_segment(offset(5)), 4711);
    let mut golden = vec![0, 0]; // Version.
    for field in [0x11u64, 5, 9, 7] {
        golden.extend(field.to_be_bytes()); // Producer, first and last offset, last stable offset.
    }
    golden.extend(7u64.to_be_bytes()); // Open at the end.
    golden.extend(*b"ODTX");
    assert_eq!(bytes[..bytes.len() - 4], golden);
    assert!(bytes.len() - 34 < 34);
    assert_eq!(TransactionIndex::decode(&sample_segment(offset(5)), 4711, &bytes), Ok(index));
}

#[test]
fn another_segments_index_is_not_believed() {
    let index = TransactionIndex { aborted: vec![aborted(1, 5, 9, 7)], first_open: None };
    let bytes = index.encode(&sample_segment(offset(5)), 4711);
    let refused = Err(TransactionIndexError::Crc);
    assert_eq!(TransactionIndex::decode(&sample_segment(offset(4)), 4711, &bytes), refused);
    assert_eq!(TransactionIndex::decode(&sample_segment(offset(5)), 4712, &bytes), refused);
    let mut other = sample_segment(offset(5));
    other.partition.partition = crate::types::PartitionIndex::from_wire(4).unwrap();
    assert_eq!(TransactionIndex::decode(&other, 4711, &bytes), refused);
}

#[test]
fn what_no_index_can_say_is_refused_under_a_good_crc() {
    let segment = sample_segment(offset(5));
    let decode = |aborted: Vec<AbortedTransaction>| {
        let bytes = TransactionIndex { aborted, first_open: None }.encode(&segment, 1);
        TransactionIndex::decode(&segment, 1, &bytes).err()
    };
    assert_eq!(decode(vec![aborted(1, 0, 5, 6)]), None, "it may have begun in an earlier segment");
    let refused = |entry| Some(TransactionIndexError::Entry { entry });
    assert_eq!(decode(vec![aborted(1, 0, 4, 4)]), refused(0), "its marker is in an earlier segment");
    assert_eq!(decode(vec![aborted(1, 9, 8, 8)]), refused(0), "it ends before it begins");
    assert_eq!(decode(vec![aborted(1, 0, 8, 10)]), refused(0), "more is stable than there is");
    assert_eq!(
        decode(vec![aborted(1, 0, 8, 8), aborted(2, 6, 8, 9)]),
        refused(1),
        "two markers at one offset"
    );
}

#[test]
fn what_has_ended_is_unstable_until_its_marker_stays() {
    let mut transactions = PartitionTransactions::default();
    let ended = |first, last, outcome| EndedTransaction {
        producer: ProducerId(1),
        first_offset: offset(first),
        last_offset: offset(last),
        outcome,
        last_stable_offset: offset(last + 1),
    };
    transactions.ended(&ended(3, 9, TransactionOutcome::Abort));
    transactions.ended(&ended(5, 7, TransactionOutcome::Commit));
    assert_eq!(transactions.first_unreplicated(), Some(offset(3)));
    transactions.replicated(offset(9));
    assert_eq!(transactions.first_unreplicated(), Some(offset(3)), "the marker itself is not below it");
    transactions.replicated(offset(10));
    assert_eq!(transactions.first_unreplicated(), None);
    assert_eq!(transactions.aborted(), [aborted(1, 3, 9, 10)]);
}

#[test]
fn readers_are_told_of_what_overlaps() {
    let transaction = aborted(1, 10, 20, 21);
    for (from, end, overlaps) in
        [(0, 10, false), (0, 11, true), (15, 16, true), (20, 30, true), (21, 30, false)]
    {
        assert_eq!(transaction.overlaps(offset(from), offset(end)), overlaps, "{from}..{end}");
    }
}

proptest! {
    #[test]
    fn indexes_are_read_back_and_no_flipped_bit_is(
        gaps in vec((1..5u64, 0..9u64, 0..9u64), 0..9),
        first_open in proptest::option::of(0..100u64),
        flip in any::<proptest::sample::Index>(),
        size in any::<u64>(),
    ) {
        let segment = sample_segment(offset(20));
        let mut last = 20;
        let aborted = gaps.iter().map(|(gap, length, unstable)| {
            last += gap;
            aborted(*gap as i64, last - length, last, (last + 1).saturating_sub(*unstable))
        });
        let index = TransactionIndex { aborted: aborted.collect(), first_open: first_open.map(offset) };
        let mut bytes = index.encode(&segment, size);
        prop_assert_eq!(TransactionIndex::decode(&segment, size, &bytes), Ok(index));
        let bit = flip.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(TransactionIndex::decode(&segment, size, &bytes).is_err());
        prop_assert!(TransactionIndex::decode(&segment, size, &bytes[..bit / 8]).is_err());
    }

    #[test]
    fn any_bytes_are_refused_or_an_index(bytes in vec(any::<u8>(), 0..200)) {
        let _ = (TransactionIndex::list(&bytes), TransactionIndex::decode(&sample_segment(offset(0)), 0, &bytes));
    }
}

fn aborted(producer: i64, first: u64, last: u64, stable: u64) -> AbortedTransaction {
    AbortedTransaction {
        first_offset: offset(first),
        producer: ProducerId(producer),
        last_offset: offset(last),
        last_stable_offset: offset(stable),
    }
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
