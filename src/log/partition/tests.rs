use super::*;
use crate::codec::control_record::TransactionOutcome;
use crate::codec::record_batch::{BatchHeader, Compression, assign_offset, write_batch};
use crate::log::durability::FlushBounds;
use crate::log::producers::verification::VerificationNeed;
use crate::log::samples::{SampleBatch, log_config, sample_segment};
use crate::types::limits::ABORTED_PER_SEGMENT_MAX;
use crate::types::{CoordinatorEpoch, ProducerEpoch, ProducerId, Sequence};
use proptest::prelude::*;

#[test]
fn offsets_are_dense_and_readable_only_once_durable() {
    let mut log = log(1 << 20);
    assert_eq!(append(&mut log, 3, None), Ok(offset(0)));
    assert_eq!(append(&mut log, 2, None), Ok(offset(3)));
    assert_eq!(log.locate(offset(0)), None);
    log.sealed(offset(5));
    assert_eq!(append(&mut log, 1, None), Ok(offset(5)));
    log.durable(offset(5));
    assert_eq!(log.high_watermark(), offset(5));
    let (segment, end) = log.locate(offset(4)).unwrap();
    assert_eq!((segment, end), (offset(0), log.durable_place().file_position));
    assert_eq!(log.locate(offset(5)), None);
}

#[test]
fn a_full_segment_is_rolled_and_dropped_once_below_the_log_start() {
    let mut log = log(200);
    for expected in 0..4 {
        assert_eq!(append(&mut log, 1, None), Ok(offset(expected)));
    }
    assert!(!log.closed().is_empty());
    log.sealed(offset(4));
    log.durable(offset(4));
    assert_eq!(log.droppable_segments(), 0);
    log.advance_log_start(offset(4));
    let count = log.droppable_segments();
    assert_eq!(count, log.closed().len());
    assert_eq!(log.drop_segments(count).len(), count);
    assert_eq!(log.locate(offset(1)), None);
}

#[test]
fn what_was_only_written_is_not_flushed() {
    let mut log = log(1 << 20);
    append(&mut log, 2, None).unwrap();
    log.sealed(offset(2));
    log.segment_sealed(offset(2));
    log.durable(offset(2));
    assert!(log.is_flushed_below(offset(2)), "by the journal");
    let bounds = FlushBounds { records_max: 9, within: std::time::Duration::ZERO };
    Rc::make_mut(&mut log.config).durability = Durability::Write(bounds);
    assert!(!log.is_flushed_below(offset(1)));
    log.stored(offset(2));
    assert!(log.is_flushed_below(offset(2)));
}

/// The segment behind them has nothing durable yet: the ends lie in the last one of them.
#[test]
fn what_is_durable_ends_where_a_compacted_segment_does() {
    let mut log = log(200);
    while log.closed().len() < 2 {
        if log.closed().len() == 1 {
            let end = log.log_end(); // What is stored reaches to the roll.
            log.segment_sealed(end);
            log.durable(end);
            log.stored(end);
        }
        append(&mut log, 1, None).unwrap();
    }
    let bases: Vec<Offset> = log.closed().iter().map(|segment| segment.base_offset).collect();
    assert_eq!(log.durable_place().segment, bases[1], "the last one before the active");
    let compacted = SegmentInfo { size: 70, ..log.closed()[0] };
    log.replace_segments(&bases, compacted);
    let place = Place { segment: bases[0], file_position: 70 };
    assert_eq!((log.durable_place(), log.stored_place()), (place, place));
    assert_eq!(log.locate(bases[1]), Some((bases[0], 70)));
}

#[test]
fn a_segment_without_its_index_is_unknown_until_it_was_looked_through() {
    let mut log = log(100);
    for _ in 0..3 {
        append(&mut log, 1, None).unwrap();
    }
    assert_eq!((log.closed().len(), log.first_unindexed()), (2, None));
    log.closed[1].is_indexed = false;
    log.closed[1].max_timestamp = Timestamp::NONE;
    assert_eq!(log.first_unindexed(), Some(offset(1)));
    let size = log.closed()[1].size;
    let extent = SegmentExtent { base_offset: offset(1), end_offset: offset(2), size };
    assert_eq!(log.closed_extent(offset(1)), Some(extent));
    log.indexed(offset(1), Timestamp(10));
    assert_eq!((log.first_unindexed(), log.closed()[1].max_timestamp), (None, Timestamp(10)));
    log.indexed(offset(7), Timestamp(10));
    assert_eq!(log.closed_extent(offset(2)), None, "the active segment");
}

#[test]
fn segments_roll_before_their_age_by_a_share_of_the_jitter() {
    let mut log = log(1 << 20);
    Rc::make_mut(&mut log.config).segment_ms = 1_000;
    assert_eq!(log.roll_limits().segment_ms, 1_000);
    Rc::make_mut(&mut log.config).segment_jitter_ms = 400;
    let mut ages: Vec<i64> = (0..50u64)
        .map(|base| {
            log.active.base_offset = offset(base);
            log.roll_limits().segment_ms
        })
        .collect();
    assert!(ages.iter().all(|age| (601..=1_000).contains(age)), "{ages:?}");
    ages.sort();
    ages.dedup();
    assert!(ages.len() > 30, "segments differ");
    Rc::make_mut(&mut log.config).segment_jitter_ms = i64::MAX;
    assert!((1..=1_000).contains(&log.roll_limits().segment_ms), "never more than segment.ms");
}

#[test]
fn a_repeated_batch_gets_its_first_offset() {
    let mut log = log(1 << 20);
    let producer = (ProducerId(9), ProducerEpoch(0), Sequence(0));
    assert_eq!(append(&mut log, 2, Some(producer)), Ok(offset(0)));
    let bytes = batch(2, Some(producer));
    let (view, _) = BatchView::split_first(&bytes).unwrap();
    match log.decide_append(&view, Timestamp(1)).unwrap() {
        AppendDecision::Duplicate(stored) => assert_eq!(stored.base_offset, offset(0)),
        other => panic!("{other:?}"),
    }
    let gap = (ProducerId(9), ProducerEpoch(0), Sequence(5));
    assert!(matches!(append(&mut log, 1, Some(gap)), Err(AppendRejected::Sequence(_))));
}

#[test]
fn a_marker_is_appended_like_a_batch_and_fenced() {
    let mut log = log(1 << 20);
    assert_eq!(transact(&mut log, 1, 0), Ok(offset(0)));
    assert_eq!(append(&mut log, 1, None), Ok(offset(1)));
    assert_eq!(mark(&mut log, 1, TransactionOutcome::Abort, 4), Ok(offset(2)));
    let fenced = mark(&mut log, 1, TransactionOutcome::Abort, 3);
    assert!(matches!(fenced, Err(AppendRejected::Marker(MarkerRejected::CoordinatorFenced { .. }))));
    let [entry] = log.active_aborted() else { panic!("{:?}", log.active_aborted()) };
    assert_eq!((entry.first_offset, entry.last_offset), (offset(0), offset(2)));
    assert_eq!(log.last_stable_offset(), offset(0), "nothing is durable");
    log.sealed(offset(3));
    log.durable(offset(3));
    assert_eq!(log.last_stable_offset(), offset(3));
    // What is closed takes its list along, and says what is open at its end.
    assert_eq!(transact(&mut log, 1, 1), Ok(offset(3)));
    let closed = log.roll(Timestamp(1));
    let expected = TransactionIndex { aborted: vec![*entry_of(&closed)], first_open: Some(offset(3)) };
    assert_eq!(closed.transactions.as_ref(), Some(&expected));
    assert_eq!(log.active_aborted(), []);
    append(&mut log, 1, None).unwrap();
    assert!(log.roll(Timestamp(1)).transactions.is_none(), "no batch of it is part of one");
}

/// Where acknowledgements wait for writes only, lost power may take a marker that readers have acted on.
#[test]
fn a_transaction_is_settled_once_its_marker_is_flushed() {
    let mut log = log(1 << 20);
    append(&mut log, 1, None).unwrap();
    transact(&mut log, 1, 0).unwrap();
    log.segment_sealed(offset(2));
    mark(&mut log, 1, TransactionOutcome::Commit, 0).unwrap();
    log.segment_sealed(offset(3));
    log.durable(offset(3));
    log.stored(offset(2));
    assert_eq!((log.last_stable_offset(), log.settled_end()), (offset(3), offset(1)));
    log.stored(offset(3));
    assert_eq!(log.settled_end(), offset(3));
    append(&mut log, 1, None).unwrap();
    assert_eq!(log.settled_end(), offset(3), "what is not flushed is not settled");
}

/// Replication says how far clients may read, and never more than what is durable here.
#[test]
fn where_there_are_other_replicas_they_say_what_is_readable() {
    let mut log = log(1 << 20);
    log.replicate_from(Some(Offset::ZERO));
    append(&mut log, 1, None).unwrap();
    transact(&mut log, 1, 0).unwrap();
    log.segment_sealed(offset(2));
    mark(&mut log, 1, TransactionOutcome::Commit, 0).unwrap();
    log.segment_sealed(offset(3));
    log.durable(offset(3));
    log.stored(offset(3));
    assert_eq!((log.high_watermark(), log.durable_end()), (Offset::ZERO, offset(3)));
    assert!(log.locate(offset(2)).is_some(), "it is there for other replicas");
    log.replicated(offset(2));
    assert_eq!(log.readable_end(Isolation::Uncommitted), offset(2));
    assert_eq!(log.last_stable_offset(), offset(1), "the marker may yet be lost");
    assert_eq!(log.settled_end(), offset(1), "and is not compacted by");
    log.replicated(offset(3));
    assert_eq!((log.last_stable_offset(), log.settled_end()), (offset(3), offset(3)));
    append(&mut log, 1, None).unwrap();
    log.replicate_from(None);
    assert_eq!(log.high_watermark(), offset(3), "the only one shows what is durable");
}

#[test]
fn a_follower_takes_batches_where_its_leader_has_them() {
    let mut log = log(1 << 20);
    for base in [0, 1, 7] {
        let mut bytes = batch(1, None);
        assign_offset(&mut bytes, offset(base), LeaderEpoch(base as i32));
        let (view, _) = BatchView::split_first(&bytes).unwrap();
        let plan = log.plan_replicated(&view, Timestamp(1)).unwrap();
        assert_eq!(plan.base_offset, offset(base), "compaction has taken what was between");
        log.apply_append(&plan, &view, Timestamp(1));
    }
    assert_eq!(log.log_end(), offset(8));
    let epochs: Vec<(i32, u64)> =
        log.epochs().entries().iter().map(|entry| (entry.epoch.0, entry.start_offset.get())).collect();
    assert_eq!(epochs, [(0, 0), (1, 1), (7, 7)]);
    assert_eq!(log.locate_appended(offset(4)).map(|(segment, _)| segment), Some(Offset::ZERO));
    assert_eq!(log.locate_appended(offset(8)), None);
    log.begin_epoch(LeaderEpoch(9));
    log.begin_leading();
    assert_eq!(log.epochs().latest(), Some(LeaderEpoch(9)));
}

fn entry_of(closed: &ClosedSegment) -> &AbortedTransaction {
    &closed.transactions.as_ref().unwrap().aborted[0]
}

#[test]
fn a_segment_that_lists_many_aborted_transactions_is_closed() {
    let mut log = log(1 << 30);
    for sequence in 0..ABORTED_PER_SEGMENT_MAX as i32 {
        assert!(log.closed().is_empty());
        transact(&mut log, 1, sequence).unwrap();
        mark(&mut log, 1, TransactionOutcome::Abort, 0).unwrap();
    }
    append(&mut log, 1, None).unwrap();
    assert_eq!(log.closed().len(), 1);
}

/// What may happen to a log with transactions.
#[derive(Clone, Copy, Debug)]
enum Step {
    Plain,
    Transact { id: i64 },
    End { id: i64, abort: bool },
    Flush,
    LogStart { back: u64 },
}

/// A transaction: its producer, its first offset, its marker and whether that aborts it.
type Known = (i64, u64, Option<(u64, bool)>);

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Plain),
        4 => (1..4i64).prop_map(|id| Step::Transact { id }),
        3 => (1..4i64, any::<bool>()).prop_map(|(id, abort)| Step::End { id, abort }),
        3 => Just(Step::Flush),
        1 => (0..5u64).prop_map(|back| Step::LogStart { back }),
    ]
}

proptest! {
    /// The model looks at all of the log: what begins where, and how it ends.
    #[test]
    fn last_stable_offset_is_the_first_that_is_undecided(steps in proptest::collection::vec(step(), 0..80)) {
        let mut log = log(700);
        let mut sequences = [0; 4];
        let mut all: Vec<Known> = Vec::new();
        let mut stable = Offset::ZERO;
        for step in steps {
            let end = log.log_end().get();
            let open = |all: &[Known], id| {
                all.iter().position(|(of, _, ended)| *of == id && ended.is_none())
            };
            match step {
                Step::Plain => {
                    append(&mut log, 1, None).unwrap();
                }
                Step::Transact { id } => {
                    transact(&mut log, id, sequences[id as usize]).unwrap();
                    sequences[id as usize] += 1;
                    if open(&all, id).is_none() {
                        all.push((id, end, None));
                    }
                }
                Step::End { id, abort } => {
                    let outcome = if abort { TransactionOutcome::Abort } else { TransactionOutcome::Commit };
                    mark(&mut log, id, outcome, 0).unwrap();
                    if let Some(at) = open(&all, id) {
                        all[at].2 = Some((end, abort));
                    }
                }
                Step::Flush => {
                    let end = log.log_end();
                    log.sealed(end);
                    log.durable(end);
                }
                Step::LogStart { back } => {
                    let to = log.high_watermark().get().saturating_sub(back);
                    log.advance_log_start(offset(to));
                }
            }
            let high_watermark = log.high_watermark().get();
            let is_undecided = |ended: &Option<(u64, bool)>| ended.is_none_or(|(at, _)| at >= high_watermark);
            let first = all.iter().filter(|(_, _, ended)| is_undecided(ended)).map(|(_, first, _)| *first).min();
            let want = first.unwrap_or(u64::MAX).max(log.log_start().get()).min(high_watermark);
            prop_assert_eq!(log.last_stable_offset(), offset(want));
            prop_assert!(stable <= log.last_stable_offset(), "it moved back");
            stable = log.last_stable_offset();
            prop_assert!(log.log_start() <= stable && stable <= log.high_watermark());
            let base = log.active().base_offset.get();
            let mut listed: Vec<(u64, u64)> = all
                .iter()
                .filter_map(|(_, first, ended)| ended.filter(|(_, abort)| *abort).map(|(at, _)| (at, *first)))
                .filter(|(at, _)| *at >= base)
                .collect();
            listed.sort();
            let aborted = log.active_aborted().iter();
            let found: Vec<_> =
                aborted.map(|entry| (entry.last_offset.get(), entry.first_offset.get())).collect();
            prop_assert_eq!(found, listed);
        }
    }
}

fn transact(log: &mut PartitionLog, id: i64, sequence: i32) -> Result<Offset, AppendRejected> {
    let header = BatchHeader {
        compression: Compression::None,
        transactional: true,
        record_count: 1,
        base_timestamp: Timestamp(10),
        max_timestamp: Timestamp(10),
        producer: Some((ProducerId(id), ProducerEpoch(0), Sequence(sequence))),
    };
    let mut bytes = Vec::new();
    write_batch(&header, b"sixteen bytes ..", &mut bytes);
    let (view, _) = BatchView::split_first(&bytes).unwrap();
    let (producer, version) = (view.producer().unwrap(), TransactionVersion::V1);
    let need = log.producers.begin_verification(&producer, version, Timestamp(1)).unwrap();
    if let VerificationNeed::Ask(guard) = need {
        assert!(log.producers.verified(producer.id, guard));
    }
    append_bytes(log, bytes)
}

fn mark(
    log: &mut PartitionLog,
    id: i64,
    outcome: TransactionOutcome,
    coordinator_epoch: i32,
) -> Result<Offset, AppendRejected> {
    let marker = EndMarker {
        producer: ProducerId(id),
        producer_epoch: ProducerEpoch(0),
        coordinator_epoch: CoordinatorEpoch(coordinator_epoch),
        outcome,
    };
    let mut bytes = Vec::new();
    marker.write(Timestamp(1), &mut bytes);
    let (view, _) = BatchView::split_first(&bytes).unwrap();
    let plan = log.decide_marker(&marker, TransactionVersion::V1, &view, Timestamp(1))?;
    Ok(apply(log, &plan, bytes))
}

#[test]
fn limits_of_the_topic_are_kept() {
    let mut log = log(1 << 20);
    Rc::make_mut(&mut log.config).batch_size_max = 70;
    assert!(matches!(append(&mut log, 1, None), Err(AppendRejected::BatchTooLarge { .. })));
    Rc::make_mut(&mut log.config).batch_size_max = 1000;
    Rc::make_mut(&mut log.config).timestamp_after_max_ms = 5;
    assert!(matches!(append(&mut log, 1, None), Err(AppendRejected::Timestamp { .. })));
}

fn append(
    log: &mut PartitionLog,
    records: u32,
    producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
) -> Result<Offset, AppendRejected> {
    append_bytes(log, batch(records, producer))
}

fn append_bytes(log: &mut PartitionLog, bytes: Vec<u8>) -> Result<Offset, AppendRejected> {
    let (view, _) = BatchView::split_first(&bytes).unwrap();
    let AppendDecision::Append(plan) = log.decide_append(&view, Timestamp(1))? else { panic!("a duplicate") };
    Ok(apply(log, &plan, bytes))
}

fn apply(log: &mut PartitionLog, plan: &AppendPlan, mut bytes: Vec<u8>) -> Offset {
    if plan.rolls {
        log.roll(Timestamp(1));
    }
    assign_offset(&mut bytes, plan.base_offset, log.leader_epoch());
    let (view, _) = BatchView::split_first(&bytes).unwrap();
    log.apply_append(plan, &view, Timestamp(1));
    plan.base_offset
}

fn batch(record_count: u32, producer: Option<(ProducerId, ProducerEpoch, Sequence)>) -> Vec<u8> {
    SampleBatch { record_count, producer, ..Default::default() }.encode()
}

fn log(segment_size_max: u64) -> PartitionLog {
    let opened = Opened {
        jitter_seed: 7,
        log_start: Offset::ZERO,
        log_end: Offset::ZERO,
        closed: VecDeque::new(),
        active: SegmentInfo::empty(Offset::ZERO, Timestamp(0)),
        active_index: SegmentIndex::new(Offset::ZERO, 4096),
        active_checksums: SegmentChecksums::new(sample_segment(Offset::ZERO)),
        producers: Producers::new(),
        aborted: Vec::new(),
        epochs: LeaderEpochs::default(),
    };
    PartitionLog::new(opened, log_config(segment_size_max), LeaderEpoch(0))
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
