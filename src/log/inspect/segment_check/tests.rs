//! Segments with one thing wrong, and what is said of it.

use super::*;
use crate::codec::record_batch::{
    BATCH_HEADER_SIZE, BatchHeader, Compression, assign_offset, seal, write_batch,
};
use crate::log::index::SegmentIndex;
use crate::log::inspect::findings::FINDINGS_KEPT_MAX;
use crate::log::inspect::walk::SegmentWalk;
use crate::log::segment::StoredBatch;
use expect_test::{Expect, expect};
use proptest::collection::vec;
use proptest::prelude::*;

const UNCLEAN: SegmentRole = SegmentRole::ActiveUnclean;

#[test]
fn a_whole_segment_has_no_findings() {
    let segment = Segment::new();
    segment.check(SegmentRole::Closed, expect![""]);
    for zeros in [1, 30, 70, 5000] {
        let mut preallocated = Segment::new();
        preallocated.bytes.resize(preallocated.bytes.len() + zeros, 0);
        preallocated.check(SegmentRole::ActiveClean, expect![""]);
        preallocated.check(UNCLEAN, expect![""]);
    }
}

#[test]
fn a_flipped_bit_is_a_problem_in_its_place() {
    let mut segment = Segment::new();
    segment.bytes[segment.at[1] + BATCH_HEADER_SIZE] ^= 1;
    segment.check(
        SegmentRole::Closed,
        expect![[r#"
            Problem 00000000000000000100.log byte 81: CRC-32C is 0x9dd24ef1, the batch says 0xaa91b94c
        "#]],
    );
    segment.check(
        UNCLEAN,
        expect![[r#"
            Problem 00000000000000000100.log byte 81: CRC-32C is 0x9dd24ef1, the batch says 0xaa91b94c
        "#]],
    );
}

#[test]
fn the_last_batch_of_a_killed_broker_may_be_torn() {
    let mut segment = Segment::new();
    let last = *segment.at.last().expect("there are batches");
    segment.bytes[last + BATCH_HEADER_SIZE] ^= 1;
    segment.check(UNCLEAN, expect![[r#"
        Note 00000000000000000100.log byte 243: a torn write; the next start cuts the log here (CRC-32C is 0xda0acb0e, the batch says 0xed493cb3)
    "#]]);
    segment.bytes.truncate(last + 70);
    segment.check(UNCLEAN, expect![[r#"
        Note 00000000000000000100.log byte 243: a torn write; the next start cuts the log here (the file ends inside a batch: 70 of 81 bytes)
    "#]]);
    // Below the recovery point it is damage.
    segment.point = Some(RecoveryPoint { flushed_end: offset(112), file_position: 324 });
    segment.check(
        UNCLEAN,
        expect![[r#"
        Problem 00000000000000000100.log byte 243: the file ends inside a batch: 70 of 81 bytes
    "#]],
    );
}

#[test]
fn what_ends_a_segment_too_early_or_too_late() {
    let mut segment = Segment::new();
    segment.bytes.extend([0; 700]);
    segment.check(
        SegmentRole::Closed,
        expect![[r#"
        Problem 00000000000000000100.log byte 324: a closed segment ends with 700 zeros
    "#]],
    );
    segment.bytes[1000] = 1;
    segment.check(
        SegmentRole::ActiveClean,
        expect![[r#"
        Problem 00000000000000000100.log byte 1000: bytes follow the zeros that end the log
    "#]],
    );
    segment.bytes.truncate(324);
    segment.bytes.extend([0xa5; 700]);
    segment.check(SegmentRole::ActiveClean, expect![[r#"
        Problem 00000000000000000100.log byte 324: no batch begins here: message format v-91 is not supported; v2 is; what follows cannot be read
    "#]]);
}

#[test]
fn offsets_and_epochs_go_forward() {
    let mut segment = Segment::new();
    let at = segment.at[2];
    assign_offset(&mut segment.bytes[at..], offset(107), LeaderEpoch(0));
    segment.check(
        SegmentRole::Closed,
        expect![[r#"
        Problem 00000000000000000100.log byte 162: base offset 107 where 106 was expected
    "#]],
    );
    let mut segment = Segment::new();
    assign_offset(&mut segment.bytes[segment.at[0]..], offset(100), LeaderEpoch(9));
    segment.check(
        SegmentRole::Closed,
        expect![[r#"
        Problem 00000000000000000100.log byte 0: leader epoch 9 is above 5, the partition's in the metadata
        Problem 00000000000000000100.log byte 81: leader epoch 0 after 9
        Problem 00000000000000000100.log byte 162: leader epoch 0 after 9
        Problem 00000000000000000100.log byte 243: leader epoch 0 after 9
    "#]],
    );
}

#[test]
fn the_recovery_point_lies_between_batches() {
    let mut segment = Segment::new();
    segment.point = Some(RecoveryPoint { flushed_end: offset(106), file_position: 162 });
    segment.check(UNCLEAN, expect![""]);
    segment.point = Some(RecoveryPoint { flushed_end: offset(107), file_position: 162 });
    segment.check(
        UNCLEAN,
        expect![[r#"
        Problem 00000000000000000100.log byte 162: the recovery point says offset 107, here is 106
    "#]],
    );
    segment.point = Some(RecoveryPoint { flushed_end: offset(106), file_position: 163 });
    segment.check(UNCLEAN, expect![[r#"
        Problem 00000000000000000100.log byte 162: the recovery point (106) lies inside the batch that begins here
    "#]]);
    segment.point = Some(RecoveryPoint { flushed_end: offset(113), file_position: 324 });
    segment.check(
        SegmentRole::ActiveClean,
        expect![[r#"
        Problem 00000000000000000100.log byte 324: the recovery point says offset 113, here is 112
    "#]],
    );
}

#[test]
fn indexes_are_held_against_the_batches() {
    let mut segment = Segment::new();
    segment.offset_index[7] += 1;
    segment.check(
        SegmentRole::Closed,
        expect![[r#"
        Problem 00000000000000000100.index byte 0: entry 0 says that a batch begins at 82; none does
    "#]],
    );
    let mut segment = Segment::new();
    segment.offset_index[3] += 1;
    segment.time_index[7] += 1;
    segment.check(SegmentRole::Closed, expect![[r#"
        Problem 00000000000000000100.index byte 0: entry 0 says that the batch at 81 ends with offset 106; it ends with 105
        Problem 00000000000000000100.timeindex byte 0: entry 0 says that 1004 is the largest timestamp up to offset 105; it is 1003
    "#]]);
    let mut segment = Segment::new();
    segment.offset_index.truncate(9);
    segment.time_index.truncate(12);
    segment.check(SegmentRole::Closed, expect![[r#"
        Problem 00000000000000000100.index byte 8: 9 bytes are not a whole number of entries
        Problem 00000000000000000100.timeindex byte 0: the last entry says that 1003 is the segment's largest timestamp; it is 1009
    "#]]);
    let mut segment = Segment::new();
    segment.offset_index.extend([0, 0, 0, 50, 0, 0, 4, 0]);
    segment.time_index.extend([0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 50]);
    segment.check(SegmentRole::Closed, expect![[r#"
        Problem 00000000000000000100.index byte 24: entry 3 says that a batch begins at 1024; none does
        Problem 00000000000000000100.timeindex byte 36: entry 3 says that a batch ends with offset 150; none does
        Problem 00000000000000000100.timeindex byte 36: the last entry says that 2304 is the segment's largest timestamp; it is 1009
    "#]]);
}

proptest! {
    /// Whatever the files hold, also under a good CRC, is judged: no panic, and no more findings kept
    /// than there is room for.
    #[test]
    fn any_change_is_judged(
        changes in vec((0usize..400, any::<u8>()), 0..6),
        reseal in any::<bool>(),
        in_offsets in vec((0usize..30, any::<u8>()), 0..3),
        in_times in vec((0usize..40, any::<u8>()), 0..3),
        role in prop_oneof![Just(SegmentRole::Closed), Just(SegmentRole::ActiveClean), Just(UNCLEAN)],
        gaps in prop_oneof![Just(OffsetGaps::Refused), Just(OffsetGaps::Allowed)],
        point in proptest::option::of((90u64..120, 0u64..400)),
    ) {
        let mut segment = Segment::new();
        let change = |bytes: &mut Vec<u8>, changes: &[(usize, u8)]| {
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(*at) { *byte = *value; }
            }
        };
        change(&mut segment.bytes, &changes);
        change(&mut segment.offset_index, &in_offsets);
        change(&mut segment.time_index, &in_times);
        if reseal {
            segment.at.iter().for_each(|at| seal(&mut segment.bytes[*at..*at + 81]));
        }
        segment.point =
            point.map(|(end, file_position)| RecoveryPoint { flushed_end: offset(end), file_position });
        let (facts, findings) = segment.judge(role, gaps);
        prop_assert!(findings.kept().len() <= FINDINGS_KEPT_MAX);
        prop_assert!(facts.end_offset >= facts.base_offset);
        let damaged = changes.iter().any(|(at, value)| Segment::new().bytes.get(*at).is_some_and(|was| was != value));
        prop_assert!(damaged || !facts.damaged, "what was not changed is not damaged");
    }
}

/// Four batches of three records from offset 100, indexed at each.
struct Segment {
    bytes: Vec<u8>,
    at: Vec<usize>,
    offset_index: Vec<u8>,
    time_index: Vec<u8>,
    point: Option<RecoveryPoint>,
}

impl Segment {
    fn new() -> Segment {
        let mut index = SegmentIndex::new(offset(100), 10);
        let (mut bytes, mut at) = (Vec::new(), Vec::new());
        for base in [100, 103, 106, 109] {
            at.push(bytes.len());
            let batch = batch_at(base, 3);
            index.observe(&StoredBatch {
                base_offset: offset(base),
                last_offset: offset(base + 2),
                max_timestamp: Timestamp(900 + base as i64),
                leader_epoch: LeaderEpoch(0),
                file_position: bytes.len() as u64,
                size: batch.len() as u32,
            });
            bytes.extend(batch);
        }
        let (offset_index, time_index) = (index.encode_offset_index(), index.encode_time_index());
        Segment { bytes, at, offset_index, time_index, point: None }
    }

    fn judge(&self, role: SegmentRole, gaps: OffsetGaps) -> (SegmentFacts, Findings) {
        let mut findings = Findings::default();
        let expectation = SegmentExpectation {
            base_offset: offset(100),
            role,
            gaps,
            leader_epoch_min: None,
            leader_epoch_max: Some(LeaderEpoch(5)),
            epochs: &LeaderEpochs::default(),
            recovery_point: self.point,
            offset_index: Some(&self.offset_index),
            time_index: Some(&self.time_index),
        };
        let mut check = SegmentCheck::new(expectation, &mut findings);
        let mut walk = SegmentWalk::new();
        walk.feed(&self.bytes, &mut |batch, _| check.take(batch, &mut findings));
        let facts = check.finish(&walk.finish(), &mut findings);
        (facts, findings)
    }

    fn check(&self, role: SegmentRole, expected: Expect) {
        let (_, findings) = self.judge(role, OffsetGaps::Refused);
        let lines = findings.kept().iter().map(|finding| match finding.place {
            Place::Partition => panic!("a segment knows no partition"),
            Place::File { base_offset, file, file_position } => {
                let name = file.name(base_offset);
                format!("{:?} {name} byte {file_position}: {}\n", finding.severity, finding.offence)
            }
        });
        expected.assert_eq(&lines.collect::<String>());
    }
}

/// Batches end to end: base offset and record count of each.
pub fn segment_of(batches: &[(u64, u32)]) -> Vec<u8> {
    batches.iter().flat_map(|(base, records)| batch_at(*base, *records)).collect()
}

/// 81 bytes.
pub fn batch_at(base: u64, record_count: u32) -> Vec<u8> {
    let header = BatchHeader {
        compression: Compression::None,
        transactional: false,
        record_count,
        base_timestamp: Timestamp(900),
        max_timestamp: Timestamp(900 + base as i64),
        producer: None,
    };
    let mut bytes = Vec::new();
    write_batch(&header, &[7; 20], &mut bytes);
    assign_offset(&mut bytes, offset(base), LeaderEpoch(0));
    bytes
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}
