//! Every rule: a log that keeps it passes, and one that breaks it is told.

use super::*;

const RUN: u64 = 7;

/// Records 0 to 5 were acknowledged at their own offsets, 6 and 7 were not answered.
fn promises(kind: Kind) -> Promises {
    let mut promises = Promises::new(kind, RUN);
    let contents: Vec<Content> = (0..6).map(value).collect();
    let sending = promises.send(&contents);
    assert_eq!(promises.acknowledged(sending, 0), None);
    promises.send(&[value(6), value(7)]);
    promises
}

/// Three keys in turn.
fn value(sequence: u32) -> Content {
    Content { key: Some(sequence % 3), is_null: false }
}

fn record(offset: i64, sequence: usize) -> Read {
    Read { offset, key: Some(sequence as u32 % 3), stamp: Some(Stamp { run: RUN, sequence }) }
}

fn read(earliest: i64, latest: i64, records: &[Read]) -> ReadBack {
    ReadBack { earliest, latest, records: records.to_vec(), bytes: 100 * records.len() as u64 }
}

/// `sequences`, each at the offset that it was acknowledged at.
fn read_of(earliest: i64, latest: i64, sequences: &[usize]) -> ReadBack {
    let records: Vec<Read> = sequences.iter().map(|sequence| record(*sequence as i64, *sequence)).collect();
    read(earliest, latest, &records)
}

#[track_caller]
fn told(wrong: &[String], what: &str) {
    assert!(wrong.iter().any(|line| line.contains(what)), "{what:?} is not in {wrong:?}");
}

#[test]
fn what_was_acknowledged_is_there_and_what_was_not_may_be() {
    let whole = promises(Kind::Whole);
    assert_eq!(whole.judge(&read_of(0, 6, &[0, 1, 2, 3, 4, 5])), [""; 0]);
    assert_eq!(whole.judge(&read_of(0, 8, &[0, 1, 2, 3, 4, 5, 6, 7])), [""; 0]);
    let mut without = [0, 1, 2, 3, 4, 5].map(|sequence| record(sequence as i64, sequence)).to_vec();
    without.push(record(6, 7));
    assert_eq!(whole.judge(&read(0, 7, &without)), [""; 0], "the first of two without an answer");
    told(&whole.judge(&read_of(0, 6, &[0, 1, 3, 4, 5])), "lost: offsets 2 to 2");
    told(&whole.judge(&read_of(0, 6, &[0, 1, 2, 3, 4])), "lost: offsets 5 to 5");
    told(&whole.judge(&read_of(0, 5, &[0, 1, 2, 3, 4])), "high watermark moved back from 6 to 5");
    told(&whole.judge(&read_of(1, 6, &[1, 2, 3, 4, 5])), "nothing was to be deleted");
}

#[test]
fn every_record_is_one_that_was_sent_at_the_offset_that_was_acknowledged() {
    let whole = promises(Kind::Whole);
    let with = |at: usize, changed: Read| {
        let mut all = read_of(0, 6, &[0, 1, 2, 3, 4, 5]);
        all.records[at] = changed;
        whole.judge(&all)
    };
    told(&with(2, record(2, 3)), "sequence 3 was acknowledged at Some(3), not 2");
    told(&with(2, record(2, 6)), "offset 2 was acknowledged for another record");
    told(&with(5, record(5, 1)), "sequence 1 at 5 was read behind 4");
    told(&with(2, record(1, 2)), "offset 1 was read behind 1");
    told(&with(2, Read { key: Some(0), ..record(2, 2) }), "altered");
    told(&with(2, Read { stamp: None, ..record(2, 2) }), "altered");
    told(&with(2, record(2, 8)), "invented");
    let of_another_run = Stamp { run: RUN - 1, sequence: 2 };
    told(&with(2, Read { stamp: Some(of_another_run), ..record(2, 2) }), "invented");
    told(&whole.judge(&read_of(0, 6, &[0, 1, 2, 3, 4, 5, 6])), "offset 6 was read behind 5, below 6");
}

#[test]
fn an_acknowledgement_is_not_before_an_end_that_was_known() {
    let mut whole = promises(Kind::Whole);
    let sending = whole.send(&[value(8)]);
    assert_eq!(whole.acknowledged(sending, 6), None);
    let sending = whole.send(&[value(9)]);
    let wrong = whole.acknowledged(sending, 6);
    told(&Vec::from_iter(wrong), "acknowledged at offset 6, and 7 was the end before");
}

#[test]
fn deleted_records_stay_deleted_and_no_others_go() {
    let mut trimmed = promises(Kind::Trimmed);
    told(&trimmed.judge(&read_of(2, 6, &[2, 3, 4, 5])), "no more than 0 was asked");
    trimmed.delete(2);
    trimmed.deleted(2);
    trimmed.delete(4);
    assert_eq!(trimmed.judge(&read_of(2, 6, &[2, 3, 4, 5])), [""; 0]);
    assert_eq!(trimmed.judge(&read_of(4, 6, &[4, 5])), [""; 0], "asked and not answered");
    told(&trimmed.judge(&read_of(0, 6, &[0, 1, 2, 3, 4, 5])), "log start moved back from 2 to 0");
    told(&trimmed.judge(&read_of(5, 6, &[5])), "no more than 4 was asked");
    told(&trimmed.judge(&read_of(2, 6, &[2, 4, 5])), "lost: offsets 3 to 3");
}

#[test]
fn retention_moves_the_log_start_forward_and_leaves_what_stays() {
    let mut retained = promises(Kind::Retained { bytes_min: 300 });
    assert_eq!(retained.judge(&read_of(3, 6, &[3, 4, 5])), [""; 0]);
    told(&retained.judge(&read_of(4, 6, &[4, 5])), "200 bytes are left of 300");
    assert_eq!(retained.observed((0, 6), 3, 6), [""; 0]);
    told(&retained.judge(&read_of(2, 6, &[2, 3, 4, 5])), "log start moved back from 3 to 2");
    told(&retained.judge(&read(7, 6, &[])), "behind the high watermark");
}

#[test]
fn offsets_that_were_answered_never_go_back() {
    let mut whole = promises(Kind::Whole);
    assert_eq!(whole.observed((0, 6), 0, 8), [""; 0]);
    told(&whole.observed((0, 8), 0, 7), "high watermark moved back from 8 to 7");
    told(&whole.observed((1, 8), 0, 8), "log start moved back from 1 to 0");
    assert_eq!((whole.earliest(), whole.latest()), (0, 8));
}

#[test]
fn of_every_key_the_last_acknowledged_record_is_there() {
    let compacted = promises(Kind::Compacted);
    assert_eq!(compacted.judge(&read_of(0, 6, &[0, 1, 2, 3, 4, 5])), [""; 0], "not compacted yet");
    assert_eq!(compacted.judge(&read_of(0, 6, &[3, 4, 5])), [""; 0]);
    assert_eq!(compacted.judge(&read_of(0, 8, &[5, 6, 7])), [""; 0], "replaced by what was not answered");
    told(&compacted.judge(&read_of(0, 6, &[3, 5])), "lost: key Some(1), acknowledged with sequence 4");
    told(&compacted.judge(&read_of(0, 6, &[0, 4, 5])), "key Some(0) is what sequence 0 made it; 3 was");
    told(&compacted.judge(&read_of(0, 6, &[4, 3, 5])), "offset 3 was read behind 4");
    told(&compacted.judge(&read_of(3, 6, &[3, 4, 5])), "nothing was to be deleted");
}

#[test]
fn a_deleted_key_may_be_gone_and_never_comes_back() {
    let null = Content { key: Some(1), is_null: true };
    let nothing = |offset| Read { offset, key: Some(1), stamp: None };
    let mut compacted = promises(Kind::Compacted);
    compacted.send(&[null]);
    let with = |more: Read| read(0, 9, &[record(3, 3), record(4, 4), record(5, 5), more]);
    assert_eq!(compacted.judge(&read_of(0, 6, &[3, 4, 5])), [""; 0], "it did not come to that");
    assert_eq!(compacted.judge(&read_of(0, 7, &[3, 5])), [""; 0], "it did, and both are gone");
    assert_eq!(compacted.judge(&with(nothing(8))), [""; 0]);
    told(&compacted.judge(&with(Read { key: Some(2), ..nothing(8) })), "invented");
    let sending = compacted.send(&[null]);
    assert_eq!(compacted.acknowledged(sending, 8), None);
    assert_eq!(compacted.judge(&with(nothing(8))), [""; 0]);
    assert_eq!(compacted.judge(&read_of(0, 9, &[3, 5])), [""; 0]);
    told(&compacted.judge(&read_of(0, 9, &[3, 4, 5])), "key Some(1) is what sequence 4 made it; 9 was");
}

#[test]
fn topics_are_there_or_not_as_was_answered() {
    let there = |names: &[&str]| -> BTreeSet<String> { names.iter().map(ToString::to_string).collect() };
    let mut ledger = Ledger::default();
    for name in ["made", "making", "deleting", "deleted"] {
        ledger.create(name, Kind::Whole, 1);
    }
    let runs: BTreeSet<u64> = ledger.topics.values().map(|topic| topic.partitions[0].run()).collect();
    assert_eq!(runs.len(), 4, "each is known by its run");
    let presences =
        [("made", Presence::There), ("deleting", Presence::Deleting), ("deleted", Presence::Absent)];
    for (name, presence) in presences {
        ledger.set_presence(name, presence);
    }
    assert_eq!(ledger.settle(&there(&["made", "deleting"])), [""; 0]);
    assert_eq!((ledger.presence("making"), ledger.presence("deleting")), (Presence::Absent, Presence::There));
    told(&ledger.settle(&there(&["deleting"])), "made: lost");
    told(&ledger.settle(&there(&["deleting", "deleted"])), "deleted: the deleted topic is back");
}
