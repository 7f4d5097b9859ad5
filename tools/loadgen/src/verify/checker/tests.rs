//! Each fault is fed on its own and must be reported as exactly that.

use super::*;
use crate::verify::stamp::{Stamp, write_stamped};
use odradek::codec::records::{Header, NewRecord, Records, write_record};
use proptest::prelude::*;

const RUN: RunId = RunId(0x5eed);
const PARTITION: i32 = 2;

#[test]
fn a_faultless_log_is_clean() {
    let report = check(log(0..100), 100);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.records, 100);
}

#[test]
fn a_lost_record_is_lost() {
    let mut log = log(0..100);
    log.remove(40);
    assert_only(check(log, 100), Fault::Lost, 40..41);
}

#[test]
fn a_lost_tail_is_lost() {
    assert_only(check(log(0..90), 100), Fault::Lost, 90..100);
    assert_only(check(Vec::new(), 100), Fault::Lost, 0..100);
}

#[test]
fn what_was_not_acknowledged_may_be_missing_or_there() {
    // 40 to 59 were in flight when the broker died.
    let acked = BTreeMap::from([(PARTITION, vec![0..40, 60..100])]);
    for there in 40..=60 {
        let sequences: Vec<u64> = (0..there).chain(60..100).collect();
        let report = check_against(log(sequences), 100, &acked);
        assert!(report.is_clean(), "{there}: {report:?}");
    }
    let sequences: Vec<u64> = (0..50).chain(61..100).collect();
    assert_only(check_against(log(sequences), 100, &acked), Fault::Lost, 60..61);
}

#[test]
fn a_duplicated_record_is_duplicated() {
    for at in [41, 100] {
        let mut log = log(0..100);
        let again = log[40].clone();
        log.insert(at, again);
        assert_only(check(log, 100), Fault::Duplicated, 40..41);
    }
}

#[test]
fn a_reordered_record_is_reordered() {
    let mut swapped = log(0..100);
    swapped.swap(40, 41);
    assert_only(check(swapped, 100), Fault::Reordered, 40..41);
    let mut late = log(0..100);
    let record = late.remove(10);
    late.push(record);
    assert_only(check(late, 100), Fault::Reordered, 10..11);
}

#[test]
fn offsets_that_go_back_are_reordered() {
    let records = log(0..3);
    let mut checker = Checker::new(RUN);
    for (offset, bytes) in [5, 6, 6].into_iter().zip(&records) {
        read(&mut checker, offset, bytes, TIMESTAMP, 3);
    }
    assert_only(checker.finish(&acked(3)), Fault::Reordered, 2..3);
}

#[test]
fn an_altered_value_is_altered_and_nothing_else() {
    for bit in [0, 8 * 12 + 3, 8 * 30, 8 * 99 + 7] {
        let mut records = log(0..100);
        records[40].value[bit / 8] ^= 1 << (bit % 8);
        assert_only(check(records, 100), Fault::Altered(Part::Value), 40..41);
    }
    let mut cut = log(0..100);
    cut[40].value.truncate(10);
    assert_only(check(cut, 100), Fault::Altered(Part::Value), 40..41);
}

#[test]
fn an_altered_key_header_or_timestamp_is_named() {
    let mut key = log(0..100);
    key[40].key[3] ^= 1;
    assert_only(check(key, 100), Fault::Altered(Part::Key), 40..41);
    let mut header = log(0..100);
    header[40].headers[1].1[0] ^= 1;
    assert_only(check(header, 100), Fault::Altered(Part::Headers), 40..41);
    let mut dropped = log(0..100);
    dropped[40].headers.pop();
    assert_only(check(dropped, 100), Fault::Altered(Part::Headers), 40..41);
    let mut timestamp = log(0..100);
    timestamp[40].timestamp_delta = 1;
    assert_only(check(timestamp, 100), Fault::Altered(Part::Timestamp), 40..41);
}

#[test]
fn an_invented_record_is_invented() {
    let strangers = [
        Stamp { run: RunId(1), partition: PARTITION, sequence: 5, timestamp: TIMESTAMP },
        Stamp { run: RUN, partition: PARTITION + 1, sequence: 5, timestamp: TIMESTAMP },
        Stamp { run: RUN, partition: PARTITION, sequence: 100, timestamp: TIMESTAMP },
    ];
    for stranger in strangers {
        let mut records = log(0..100);
        records.insert(40, owned(&stranger));
        assert_only(check(records, 100), Fault::Invented, stranger.sequence..stranger.sequence + 1);
    }
}

#[test]
fn unreadable_bytes_stand_for_the_records_they_replace() {
    let mut checker = Checker::new(RUN);
    let records = log(0..10);
    read(&mut checker, 0, &records[0], TIMESTAMP, 10);
    checker.unreadable(PARTITION, 1, 8);
    read(&mut checker, 9, &records[9], TIMESTAMP, 10);
    assert_only(checker.finish(&acked(10)), Fault::Altered(Part::Value), 1..9);
}

/// Every other record of a million is missing: half a million gaps.
#[test]
fn memory_is_bounded_however_much_is_wrong() {
    let mut checker = Checker::new(RUN);
    let total = 1_000_000;
    for (offset, sequence) in (0..total).step_by(2).enumerate() {
        let record = owned(&stamp(sequence));
        read(&mut checker, offset as i64, &record, TIMESTAMP, total);
        assert!(checker.gap_count <= GAPS_MAX);
    }
    let kept: usize = checker.partitions.values().map(|progress| progress.gaps.len()).sum();
    assert_eq!(kept, checker.gap_count);
    let report = checker.finish(&acked(total));
    assert_eq!(report.faults, BTreeMap::from([(Fault::Lost, total / 2)]));
    assert_eq!(report.offenders.len(), OFFENDERS_MAX);
}

proptest! {
    /// A naive model that keeps every sequence agrees on what is lost, duplicated and out of order.
    #[test]
    fn the_checker_agrees_with_a_naive_model(sequences in proptest::collection::vec(0..30u64, 0..60)) {
        let mut seen = std::collections::BTreeSet::new();
        let (mut duplicated, mut reordered) = (0u64, 0u64);
        for &sequence in &sequences {
            let late = seen.last().is_some_and(|&last| sequence < last);
            if !seen.insert(sequence) {
                duplicated += 1;
            } else if late {
                reordered += 1;
            }
        }
        let lost = 30 - seen.len() as u64;
        let expected: BTreeMap<Fault, u64> =
            [(Fault::Lost, lost), (Fault::Duplicated, duplicated), (Fault::Reordered, reordered)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect();
        prop_assert_eq!(check(log(sequences), 30).faults, expected);
    }
}

const TIMESTAMP: Timestamp = Timestamp(1_700_000_000_000);

#[derive(Clone, Debug)]
struct OwnedRecord {
    timestamp_delta: i64,
    key: Vec<u8>,
    value: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
}

fn stamp(sequence: u64) -> Stamp {
    Stamp { run: RUN, partition: PARTITION, sequence, timestamp: TIMESTAMP }
}

fn owned(stamp: &Stamp) -> OwnedRecord {
    let (mut value, mut out) = (Vec::new(), Vec::new());
    write_stamped(stamp, 0, &mut value, 100, &mut out);
    let record = Records::new(&out, 1).next().unwrap().unwrap();
    OwnedRecord {
        timestamp_delta: record.timestamp_delta,
        key: record.key.unwrap().to_vec(),
        value: record.value.unwrap().to_vec(),
        headers: record.headers().map(|h| (h.key.to_vec(), h.value.unwrap().to_vec())).collect(),
    }
}

fn log(sequences: impl IntoIterator<Item = u64>) -> Vec<OwnedRecord> {
    sequences.into_iter().map(|sequence| owned(&stamp(sequence))).collect()
}

fn acked(end: u64) -> BTreeMap<i32, Vec<Range<u64>>> {
    BTreeMap::from([(PARTITION, Vec::from_iter(std::iter::once(0..end)))])
}

fn check(log: Vec<OwnedRecord>, sent_end: u64) -> Report {
    check_against(log, sent_end, &acked(sent_end))
}

fn check_against(log: Vec<OwnedRecord>, sent_end: u64, acked: &BTreeMap<i32, Vec<Range<u64>>>) -> Report {
    let mut checker = Checker::new(RUN);
    for (offset, record) in log.iter().enumerate() {
        read(&mut checker, offset as i64, record, TIMESTAMP, sent_end);
    }
    checker.finish(acked)
}

fn read(checker: &mut Checker, offset: i64, record: &OwnedRecord, base: Timestamp, sent_end: u64) {
    let headers: Vec<Header<'_>> =
        record.headers.iter().map(|(key, value)| Header { key, value: Some(value) }).collect();
    let new = NewRecord {
        timestamp_delta: record.timestamp_delta,
        offset_delta: 0,
        key: Some(&record.key),
        value: Some(&record.value),
        headers: &headers,
    };
    let mut bytes = Vec::new();
    write_record(&new, &mut bytes);
    let view = Records::new(&bytes, 1).next().unwrap().unwrap();
    let timestamp = Some(Timestamp(base.0 + view.timestamp_delta));
    checker.read(&Read { partition: PARTITION, offset, timestamp, record: view }, sent_end);
}

fn assert_only(report: Report, fault: Fault, sequences: Range<u64>) {
    let count = sequences.end - sequences.start;
    assert_eq!(report.faults, BTreeMap::from([(fault, count)]), "{:?}", report.offenders);
    assert_eq!(report.offenders.len(), 1);
    assert_eq!(report.offenders[0].sequences, Some(sequences));
    assert_eq!(report.offenders[0].partition, PARTITION);
}
