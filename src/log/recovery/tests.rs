use super::*;
use crate::codec::record_batch::{BatchHeader, Compression, assign_offset, write_batch};
use crate::log::producers::ProducerEvent;
use crate::types::{ProducerEpoch, ProducerId, Sequence};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const BASE: u64 = 500;
const BATCH_SIZE_MAX: usize = 4096;

#[test]
fn whole_log_is_clean_at_its_end_and_in_zeros() {
    let log = log(&[(3, 10, 0, 70), (1, 0, 2, 90), (5, 30, 2, 80)]);
    for zeros in [0, 1, 16, 17, 100] {
        let mut file = log.bytes.clone();
        file.resize(file.len() + zeros, 0);
        let (recovered, batches) = scan(options(), &file, 64);
        assert_eq!(recovered.tail, Tail::Clean);
        assert_eq!(recovered.log_end, offset(BASE + 9));
        assert_eq!(recovered.file_position_end, log.bytes.len() as u64);
        assert_eq!(recovered.last_leader_epoch, Some(LeaderEpoch(2)));
        assert_eq!(batches, log.batches);
        let max = MaxTimestamp { timestamp: Timestamp(90), last_offset: offset(BASE + 3) };
        assert_eq!(recovered.max_timestamp, Some(max));
    }
}

#[test]
fn empty_file_is_an_empty_log() {
    let (recovered, _) = scan(options(), &[], 1);
    assert_eq!((recovered.log_end, recovered.file_position_end), (offset(BASE), 0));
    assert_eq!(recovered.tail, Tail::Clean);
}

#[test]
fn log_that_ends_before_its_recovery_point_is_corrupt() {
    let log = log(&[(3, 10, 0, 70), (1, 0, 0, 90)]);
    let point = RecoveryPoint { flushed_end: offset(BASE + 4), file_position: log.bytes.len() as u64 };
    let options = ScanOptions { recovery_point: Some(point), ..options() };
    assert_eq!(scan(options, &log.bytes, 64).0.tail, Tail::Clean);

    let second = log.batches[1].file_position as usize;
    let corrupt = Tail::Corrupt { file_position: second as u64, damage: Damage::Missing };
    assert_eq!(scan(options, &log.bytes[..second], 64).0.tail, corrupt, "the file is shorter");
    let mut zeroed = log.bytes.clone();
    zeroed[second..].fill(0);
    assert_eq!(scan(options, &zeroed, 64).0.tail, corrupt, "zeros lie there");
}

#[test]
fn bytes_beyond_the_zeros_are_reported() {
    let log = log(&[(3, 10, 0, 70)]);
    let mut file = log.bytes.clone();
    file.resize(file.len() + 100, 0);
    file.push(1);
    let (recovered, _) = scan(options(), &file, 64);
    let file_position = log.bytes.len() as u64;
    assert_eq!(recovered.tail, Tail::Torn { file_position, damage: Damage::BeyondZeros });
    assert_eq!(recovered.file_position_end, file_position);
}

#[test]
fn batch_out_of_its_place_ends_the_log() {
    let whole = log(&[(3, 10, 4, 70), (2, 10, 5, 70)]);
    let second = whole.batches[1].file_position as usize;
    let moved = |base: u64, epoch: i32, options: ScanOptions| {
        let mut bytes = whole.bytes.clone();
        assign_offset(&mut bytes[second..], offset(base), LeaderEpoch(epoch));
        match scan(options, &bytes, 64).0.tail {
            Tail::Torn { damage, .. } => Some(damage),
            _ => None,
        }
    };
    let base_offset = |got| Some(Damage::BaseOffset { expected: offset(BASE + 3), got: offset(got) });
    assert_eq!(moved(BASE + 2, 5, options()), base_offset(BASE + 2));
    assert_eq!(moved(BASE + 4, 5, options()), base_offset(BASE + 4));
    let compacted = ScanOptions { gaps: OffsetGaps::Allowed, ..options() };
    assert_eq!(moved(BASE + 4, 5, compacted), None);
    assert_eq!(moved(BASE + 2, 5, compacted), base_offset(BASE + 2));

    let far = BASE + RELATIVE_OFFSET_MAX;
    assert_eq!(moved(far - 1, 5, compacted), None);
    let last_offset = offset(far + 1);
    assert_eq!(moved(far, 5, compacted), Some(Damage::OutOfSegment { last_offset }));
    let last_offset = Offset::MAX;
    assert_eq!(moved(Offset::MAX.get() - 1, 5, compacted), Some(Damage::OutOfSegment { last_offset }));

    let epoch = |got| Some(Damage::LeaderEpoch { previous: Some(LeaderEpoch(4)), got: LeaderEpoch(got) });
    assert_eq!(moved(BASE + 3, 3, options()), epoch(3));
    assert_eq!(moved(BASE + 3, -1, options()), epoch(-1));
    let known = ScanOptions { leader_epoch_max: Some(LeaderEpoch(5)), ..options() };
    assert_eq!(moved(BASE + 3, 6, known), epoch(6));
    assert_eq!(moved(BASE + 3, 6, options()), None);
}

#[test]
fn first_batch_follows_the_segment_before() {
    let log = log(&[(3, 10, 4, 70)]);
    let later = ScanOptions { leader_epoch_min: Some(LeaderEpoch(5)), ..options() };
    assert!(matches!(scan(later, &log.bytes, 64).0.tail, Tail::Torn { file_position: 0, .. }));
}

#[test]
fn oversized_length_is_damage_and_not_memory() {
    let log = log(&[(3, 10, 4, 70)]);
    let mut file = log.bytes.clone();
    file.extend_from_slice(&log.bytes);
    let at = log.bytes.len();
    file[at + 8..at + 12].copy_from_slice(&i32::MAX.to_be_bytes());
    let mut scan = RecoveryScan::new(options());
    let progress = file.chunks(10).map(|chunk| scan.feed(chunk, &mut |_, _| {})).last();
    assert_eq!(progress, Some(Progress::Damaged));
    assert!(scan.carry.capacity() <= 2 * BATCH_SIZE_MAX);
    let damage = Damage::Oversized { size: i32::MAX as usize + 12 };
    assert_eq!(scan.finish().tail, Tail::Torn { file_position: at as u64, damage });
}

/// Record count, payload size, gain in leader epoch and timestamp of each batch.
fn shapes() -> impl Strategy<Value = Vec<(u32, usize, i32, i64)>> {
    vec((1..5u32, 0..80usize, 0..2i32, 0..100i64), 1..12).prop_map(|mut shapes| {
        let mut epoch = 0;
        shapes.iter_mut().for_each(|shape| {
            epoch += shape.2;
            shape.2 = epoch;
        });
        shapes
    })
}

proptest! {
    /// Cut anywhere, followed by nothing or zeros: exactly the whole batches before the cut, and
    /// corruption exactly if that lies before the recovery point.
    #[test]
    fn cut_log_gives_its_whole_batches(
        shapes in shapes(),
        cut in any::<Index>(),
        zeros in prop_oneof![Just(0usize), 1..300usize],
        flushed in proptest::option::of(any::<Index>()),
        chunk in 1..200usize,
    ) {
        let log = log(&shapes);
        let cut = cut.index(log.bytes.len() + 1);
        let mut file = log.bytes[..cut].to_vec();
        file.resize(cut + zeros, 0);
        // A batch that ends in zeros is whole again when only those were cut.
        let same = file.iter().zip(&log.bytes).take_while(|(a, b)| a == b).count();
        let kept = log.batches.iter().filter(|batch| batch.file_position_end() <= same as u64).count();
        check(&log, &file, kept, flushed, chunk)?;
    }

    /// Any byte altered: exactly the batches before the one it is in. The leader epoch is left out:
    /// nothing covers it.
    #[test]
    fn altered_log_gives_the_batches_before(
        shapes in shapes(),
        at in any::<Index>(),
        flip in 1..=255u8,
        flushed in proptest::option::of(any::<Index>()),
        chunk in 1..200usize,
    ) {
        let log = log(&shapes);
        let at = at.index(log.bytes.len());
        let hit = log.batches.iter().position(|batch| (at as u64) < batch.file_position_end()).unwrap();
        prop_assume!(!(12..16).contains(&(at as u64 - log.batches[hit].file_position)));
        let mut file = log.bytes.clone();
        file[at] ^= flip;
        check(&log, &file, hit, flushed, chunk)?;
    }

    /// Lost sectors, as after a power cut: each either written or still what it was.
    #[test]
    fn torn_sectors_give_a_prefix(shapes in shapes(), lost in vec(any::<bool>(), 1..20), chunk in 1..200usize) {
        let log = log(&shapes);
        let mut file = log.bytes.clone();
        for (sector, lost) in file.chunks_mut(64).zip(lost.iter().cycle()) {
            if *lost {
                sector.fill(0);
            }
        }
        let same = file.iter().zip(&log.bytes).take_while(|(a, b)| a == b).count();
        let kept = log.batches.iter().filter(|batch| batch.file_position_end() <= same as u64).count();
        check(&log, &file, kept, None, chunk)?;
    }

    /// Fuzz in small: bytes that look like batches. No panic, the same for every chunk size, and
    /// never more than a batch held.
    #[test]
    fn any_bytes_end_the_scan(
        shapes in shapes(),
        noise in vec((any::<Index>(), any::<u8>()), 0..6),
        junk in vec(prop_oneof![Just(0u8), any::<u8>()], 0..300),
        gaps in prop_oneof![Just(OffsetGaps::Refused), Just(OffsetGaps::Allowed)],
        chunk in 1..200usize,
    ) {
        let mut file = log(&shapes).bytes;
        noise.iter().for_each(|(at, byte)| { let at = at.index(file.len()); file[at] = *byte; });
        file.extend(junk);
        let options = ScanOptions { gaps, ..options() };
        let (recovered, batches) = scan(options, &file, chunk);
        prop_assert_eq!(scan(options, &file, file.len()), (recovered, batches.clone()));
        let mut index = SegmentIndex::new(options.segment_base, 10);
        batches.iter().for_each(|batch| index.observe(batch));
        prop_assert_eq!(index.max_timestamp(), recovered.max_timestamp);
    }
}

proptest! {
    /// A log is opened with what its appends had left, also when its files are older than its end:
    /// the snapshot from the segment's base, the epochs from any time.
    #[test]
    fn rebuilt_segment_is_the_one_that_was_appended(
        shapes in shapes(),
        producers in vec((0..3i64, any::<bool>()), 12),
        interval in 0..300u32,
        epochs_from in any::<Index>(),
        chunk in 1..200usize,
    ) {
        let log = log_of(&shapes, &producers);
        let now = Timestamp(77);
        let mut before = Producers::new();
        let mut rest = &log_of(&[(2, 0, 0, 0)], &[(1, true)]).bytes[..];
        while let Ok((view, after)) = BatchView::split_first(rest) {
            record(&mut before, &view, now);
            rest = after;
        }

        let (mut live, mut epochs) = (before.clone(), LeaderEpochs::new());
        let mut epochs_saved = LeaderEpochs::new();
        let (mut index, mut info) = empty(interval);
        let saved_at = epochs_from.index(log.batches.len());
        for (at, stored) in log.batches.iter().enumerate() {
            let (view, _) = BatchView::split_first(&log.bytes[stored.file_position as usize..]).unwrap();
            record(&mut live, &view, now);
            epochs.assign(stored.leader_epoch, stored.base_offset);
            index.observe(stored);
            info.append(stored, now);
            if at == saved_at {
                epochs_saved = epochs.clone();
            }
        }

        let (empty_index, empty_info) = empty(interval);
        let mut rebuild = SegmentRebuild::new(empty_info, empty_index, before, epochs_saved);
        let mut scan = RecoveryScan::new(options());
        for bytes in log.bytes.chunks(chunk) {
            let _ = scan.feed(bytes, &mut |view, stored| rebuild.take(view, stored, now));
        }
        prop_assert_eq!(scan.finish().tail, Tail::Clean);
        prop_assert_eq!(rebuild.producers, live);
        prop_assert_eq!(rebuild.epochs, epochs);
        prop_assert_eq!(rebuild.index, index);
        prop_assert_eq!(rebuild.info, info);
        prop_assert_eq!(rebuild.aborted, []);
    }
}

fn empty(interval: u32) -> (SegmentIndex, SegmentInfo) {
    let base = offset(BASE);
    (SegmentIndex::new(base, interval), SegmentInfo::empty(base, Timestamp(0)))
}

fn record(producers: &mut Producers, view: &BatchView<'_>, now: Timestamp) {
    if let Some(event) = ProducerEvent::of(view, &StoredBatch::new(view, 0), now) {
        assert_eq!(producers.take(&event), None);
    }
}

/// Scans `file`, which agrees with `log` up to batch `kept`.
fn check(
    log: &Log,
    file: &[u8],
    kept: usize,
    flushed: Option<Index>,
    chunk: usize,
) -> Result<(), TestCaseError> {
    let point = flushed.map(|flushed| {
        let flushed = flushed.index(log.batches.len() + 1);
        let before = &log.batches[..flushed];
        let flushed_end = before.last().map_or(offset(BASE), |batch| batch.last_offset.advance(1).unwrap());
        let file_position = before.last().map_or(0, |batch| batch.file_position_end());
        (flushed, RecoveryPoint { flushed_end, file_position })
    });
    let recovery_point = point.map(|(_, point)| point);
    let (recovered, batches) = scan(ScanOptions { recovery_point, ..options() }, file, chunk);
    prop_assert_eq!(&batches, &log.batches[..kept]);
    let end = batches.last().map_or(0, |batch| batch.file_position_end());
    prop_assert_eq!(recovered.file_position_end, end);
    prop_assert_eq!(recovered.batch_count, kept as u64);
    let zeros_follow = file[end as usize..].iter().all(|byte| *byte == 0);
    match recovered.tail {
        Tail::Corrupt { file_position, .. } => {
            prop_assert!(point.is_some_and(|(flushed, _)| kept < flushed));
            prop_assert_eq!(file_position, end);
        }
        Tail::Clean => {
            prop_assert!(point.is_none_or(|(flushed, _)| flushed <= kept));
            prop_assert!(zeros_follow);
        }
        Tail::Torn { file_position, .. } => {
            prop_assert!(point.is_none_or(|(flushed, _)| flushed <= kept));
            prop_assert!(!zeros_follow);
            prop_assert_eq!(file_position, end);
        }
    }
    Ok(())
}

fn scan(options: ScanOptions, file: &[u8], chunk: usize) -> (Recovered, Vec<StoredBatch>) {
    let mut batches = Vec::new();
    let mut scan = RecoveryScan::new(options);
    for bytes in file.chunks(chunk.max(1)) {
        let _ = scan.feed(bytes, &mut |_, batch| batches.push(*batch));
        assert!(scan.carry.len() <= options.batch_size_max);
    }
    (scan.finish(), batches)
}

fn options() -> ScanOptions {
    ScanOptions {
        segment_base: offset(BASE),
        recovery_point: None,
        gaps: OffsetGaps::Refused,
        leader_epoch_min: None,
        leader_epoch_max: None,
        batch_size_max: BATCH_SIZE_MAX,
    }
}

struct Log {
    bytes: Vec<u8>,
    batches: Vec<StoredBatch>,
}

fn log(shapes: &[(u32, usize, i32, i64)]) -> Log {
    log_of(shapes, &[(0, false)])
}

/// Each batch from the producer at its place in `producers` (going round), if that one is idempotent.
fn log_of(shapes: &[(u32, usize, i32, i64)], producers: &[(i64, bool)]) -> Log {
    let mut log = Log { bytes: Vec::new(), batches: Vec::new() };
    let mut base = BASE;
    let producers = producers.iter().cycle();
    for ((record_count, payload_size, epoch, timestamp), (id, idempotent)) in shapes.iter().zip(producers) {
        let producer = (ProducerId(*id), ProducerEpoch(0), Sequence(base as i32));
        let header = BatchHeader {
            compression: Compression::None,
            transactional: false,
            record_count: *record_count,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(*timestamp),
            producer: idempotent.then_some(producer),
        };
        let at = log.bytes.len();
        write_batch(&header, &vec![base as u8; *payload_size], &mut log.bytes);
        assign_offset(&mut log.bytes[at..], offset(base), LeaderEpoch(*epoch));
        let (view, _) = BatchView::split_first(&log.bytes[at..]).unwrap();
        log.batches.push(StoredBatch::new(&view, at as u64));
        base += *record_count as u64;
    }
    log
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
