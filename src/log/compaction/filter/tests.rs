use super::*;
use crate::codec::compression::decompress;
use crate::codec::record_batch::{BatchHeader, assign_offset, seal, write_batch};
use crate::codec::records::Records;
use crate::log::compaction::keys::{KeyWalk, MapProgress};
use crate::log::compaction::offset_map::HashSeed;
use crate::log::transactions::AbortedTransaction;
use crate::types::{LeaderEpoch, ProducerEpoch, ProducerId, Sequence};

const NOW: i64 = 10_000;
const RETENTION: i64 = 1_000;

type KeyValue<'a> = (Option<&'a str>, Option<&'a str>);

#[test]
fn only_the_newest_of_a_key_stays_in_its_own_codec() {
    for codec in Compression::ALL {
        let log = [batch(0, codec, &[kv("a", "1"), kv("b", "1")]), batch(2, codec, &[kv("a", "2")])];
        let (out, fates) = compact(&log, NOW);
        assert_eq!(fates, [Fate::Rewritten, Fate::Kept]);
        assert_eq!(keys(&out[0]), ["b@1"]);
        assert_eq!(view(&out[0]).compression(), Some(codec));
        assert_eq!(out[1], log[1], "what stays whole is not touched");
    }
}

#[test]
fn timestamps_are_those_of_the_records_that_stay() {
    let mut log = [batch(0, Compression::None, &[kv("a", "1"), kv("b", "1"), kv("c", "1"), kv("a", "2")])];
    let (out, _) = compact(&log, NOW);
    // Record `n` of a batch has 100 + n.
    assert_eq!(
        (view(&out[0]).base_timestamp(), view(&out[0]).max_timestamp()),
        (Timestamp(101), Timestamp(103))
    );
    log[0][22] |= 1 << 3; // LogAppendTime.
    seal(&mut log[0]);
    let (out, _) = compact(&log, NOW);
    assert!(view(&out[0]).is_log_append_time());
    assert_eq!(view(&out[0]).max_timestamp(), view(&log[0]).max_timestamp());
}

#[test]
fn a_tombstone_stays_until_its_horizon() {
    let log = [
        batch(0, Compression::Lz4, &[kv("a", "1")]),
        batch(1, Compression::Lz4, &[tombstone("a"), kv("b", "1")]),
    ];
    let (once, fates) = compact(&log, NOW);
    assert_eq!(fates, [Fate::Dropped, Fate::Rewritten]);
    assert_eq!(keys(&once[0]), ["a@1", "b@2"]);
    assert_eq!(view(&once[0]).delete_horizon(), Some(Timestamp(NOW + RETENTION)));
    assert_eq!(timestamps(&once[0]), [100, 101], "the horizon is no record's time");
    let (early, fates) = compact(&once, NOW + RETENTION - 1);
    assert_eq!(fates, [Fate::Kept]);
    let (late, fates) = compact(&early, NOW + RETENTION);
    assert_eq!(fates, [Fate::Rewritten]);
    assert_eq!(keys(&late[0]), ["b@2"]);
    assert_eq!(view(&late[0]).delete_horizon(), Some(Timestamp(NOW + RETENTION)), "kept as Kafka keeps it");
}

#[test]
fn a_tombstone_that_the_map_does_not_reach_gets_no_horizon() {
    let log = [
        batch(0, Compression::None, &[kv("a", "1"), kv("b", "1")]),
        batch(2, Compression::None, &[tombstone("a")]),
    ];
    // Two keys fit, the third would, but the walk ends before it.
    let mut filter = BatchFilter::new(map(&log[..1], 0), options(NOW));
    let mut out = Vec::new();
    assert_eq!(filter.take(&log[1], &BatchFacts::default(), &mut out), Ok(Fate::Kept));
    assert_eq!(out, log[1]);
}

#[test]
fn records_without_key_go() {
    let log = [batch(0, Compression::None, &[(None, Some("x")), kv("a", "1")])];
    let (out, _) = compact(&log, NOW);
    assert_eq!(keys(&out[0]), ["a@1"]);
}

#[test]
fn the_newest_batch_of_a_producer_stays_without_records() {
    let batches = |sequence| {
        let mut bytes = Vec::new();
        let payload = payload(&[kv("a", "1"), kv("b", "1")]);
        let header = BatchHeader {
            producer: Some((ProducerId(9), ProducerEpoch(3), Sequence(sequence))),
            ..header(2)
        };
        write_batch(&header, &payload, &mut bytes);
        bytes
    };
    let mut log = [batches(0), batches(2), batch(4, Compression::None, &[kv("a", "2"), kv("b", "2")])];
    assign_offset(&mut log[1], offset(2), LeaderEpoch(5));
    let last = LastRecord { epoch: ProducerEpoch(3), last_offset: Some(offset(3)) };
    let facts = BatchFacts { last_record: Some(last), ends_group: false };
    let mut filter = BatchFilter::new(map(&log, 0), options(NOW));
    let mut out = Vec::new();
    assert_eq!(filter.take(&log[0], &facts, &mut out), Ok(Fate::Dropped));
    assert_eq!(filter.take(&log[1], &facts, &mut out), Ok(Fate::Emptied));
    let (kept, before) = (view(&out), view(&log[1]));
    assert_eq!(kept.record_count(), 0);
    assert_eq!((kept.base_offset(), kept.last_offset()), (offset(2), offset(3)));
    assert_eq!((kept.producer(), kept.leader_epoch()), (before.producer(), LeaderEpoch(5)));
    // And again, by the next pass.
    let mut again = Vec::new();
    assert_eq!(filter.take(&out, &facts, &mut again), Ok(Fate::Kept));
    assert_eq!(again, out);
    // Once the producer has gone on, it goes.
    let mut gone = Vec::new();
    assert_eq!(filter.take(&out, &BatchFacts::default(), &mut gone), Ok(Fate::Dropped));
}

#[test]
fn the_last_batch_of_a_group_and_of_the_pass_stays_without_records() {
    let log = [batch(0, Compression::Zstd, &[kv("a", "1")]), batch(1, Compression::Zstd, &[kv("a", "2")])];
    let facts = BatchFacts { last_record: None, ends_group: true };
    let mut filter = BatchFilter::new(map(&log, 0), options(NOW));
    let mut out = Vec::new();
    assert_eq!(filter.take(&log[0], &facts, &mut out), Ok(Fate::Emptied));
    assert_eq!(view(&out).max_timestamp(), Timestamp::NONE, "no record, no time");
    let mut filter = BatchFilter::new(map(&log, 0), FilterOptions { end: offset(1), ..options(NOW) });
    assert_eq!(filter.take(&log[0], &BatchFacts::default(), &mut out), Ok(Fate::Emptied));
}

#[test]
fn what_an_aborted_transaction_wrote_goes_and_its_marker_after_it() {
    let log = [
        data(7, 0, &[kv("a", "committed")]),
        marker(7, 1, 1),
        data(7, 2, &[kv("a", "aborted")]),
        marker(7, 3, 0),
        batch(4, Compression::None, &[kv("z", "1")]),
    ];
    let aborted = AbortedTransaction {
        first_offset: offset(2),
        producer: ProducerId(7),
        last_offset: offset(3),
        last_stable_offset: offset(4),
    };
    let pass = |log: &[Vec<u8>], aborted: Option<AbortedTransaction>, now| {
        let mut walk = KeyWalk::new(Offset::ZERO, offset(100), 1 << 20, HashSeed(1, 2));
        walk.transactions().add_aborted(aborted);
        log.iter().for_each(|bytes| assert_eq!(walk.take(bytes), Ok(MapProgress::More)));
        let mut filter = BatchFilter::new(walk.finish(), options(now));
        filter.transactions().add_aborted(aborted);
        let mut kept = Vec::new();
        for bytes in log {
            let mut out = Vec::new();
            filter.take(bytes, &BatchFacts::default(), &mut out).unwrap();
            kept.extend((!out.is_empty()).then_some(out));
        }
        (kept, filter.transactions().take_retained())
    };
    let bases = |log: &[Vec<u8>]| log.iter().map(|bytes| view(bytes).base_offset().get()).collect::<Vec<_>>();

    let (first, retained) = pass(&log, Some(aborted), NOW);
    assert_eq!(bases(&first), [0, 1, 3, 4], "the aborted record goes, both markers stay");
    assert_eq!(retained, [aborted], "a batch of it was met: the index goes on saying so");
    assert_eq!(view(&first[2]).delete_horizon(), None);
    let (second, retained) = pass(&first, Some(aborted), NOW);
    assert_eq!(bases(&second), [0, 1, 3, 4]);
    assert_eq!(retained, [], "nothing of it is left");
    assert_eq!(view(&second[2]).delete_horizon(), Some(Timestamp(NOW + RETENTION)));
    assert_eq!(view(&second[1]).delete_horizon(), None, "the committed record is there");
    let (third, _) = pass(&second, None, NOW + RETENTION);
    assert_eq!(bases(&third), [0, 1, 4]);
}

#[test]
fn a_marker_that_is_all_a_producer_wrote_stays_for_its_epoch() {
    let mut bytes = marker(7, 0, 1);
    let last = LastRecord { epoch: ProducerEpoch(0), last_offset: None };
    let facts = BatchFacts { last_record: Some(last), ends_group: false };
    let mut filter = BatchFilter::new(map(&[], 5), options(NOW));
    for (now, fate) in
        [(NOW, Fate::Rewritten), (NOW + RETENTION, Fate::Emptied), (NOW + RETENTION, Fate::Kept)]
    {
        filter.options.now = Timestamp(now);
        let mut out = Vec::new();
        assert_eq!(filter.take(&bytes, &facts, &mut out), Ok(fate));
        assert!(view(&out).is_control());
        bytes = out;
    }
    let newer = LastRecord { epoch: ProducerEpoch(1), last_offset: None };
    let facts = BatchFacts { last_record: Some(newer), ends_group: false };
    assert_eq!(filter.take(&bytes, &facts, &mut Vec::new()), Ok(Fate::Dropped));
}

#[test]
fn damage_stops_the_pass() {
    let log = [batch(0, Compression::Zstd, &[kv("a", "1")])];
    let mut flipped = log[0].clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut resealed = flipped.clone();
    seal(&mut resealed);
    let mut far = batch(0, Compression::None, &[kv("a", "1"), kv("a", "2")]);
    far[26] = 0; // Last offset delta: less than the second record's.
    seal(&mut far);
    for bytes in [flipped, resealed, far] {
        let mut walk = KeyWalk::new(Offset::ZERO, offset(100), 1 << 20, HashSeed(1, 2));
        assert!(walk.take(&bytes).is_err());
        let mut filter = BatchFilter::new(map(&log, 0), options(NOW));
        let mut out = Vec::new();
        assert!(filter.take(&bytes, &BatchFacts::default(), &mut out).is_err());
        assert!(out.is_empty());
    }
}

/// A whole pass; returns what is left and what became of every batch.
fn compact(log: &[Vec<u8>], now: i64) -> (Vec<Vec<u8>>, Vec<Fate>) {
    let mut filter = BatchFilter::new(map(log, 0), options(now));
    let (mut kept, mut fates) = (Vec::new(), Vec::new());
    for bytes in log {
        let mut out = Vec::new();
        fates.push(filter.take(bytes, &BatchFacts::default(), &mut out).unwrap());
        kept.extend((!out.is_empty()).then_some(out));
    }
    (kept, fates)
}

fn options(now: i64) -> FilterOptions {
    FilterOptions { now: Timestamp(now), delete_retention_ms: RETENTION, end: offset(100) }
}

fn map(log: &[Vec<u8>], latest: u64) -> OffsetMap {
    let mut walk = KeyWalk::new(Offset::ZERO, offset(100), 1 << 20, HashSeed(1, 2));
    log.iter().for_each(|bytes| assert_eq!(walk.take(bytes), Ok(MapProgress::More)));
    let mut map = walk.finish();
    map.advance_latest(offset(latest));
    map
}

fn kv<'a>(key: &'a str, value: &'a str) -> KeyValue<'a> {
    (Some(key), Some(value))
}

fn tombstone(key: &str) -> KeyValue<'_> {
    (Some(key), None)
}

fn payload(records: &[KeyValue<'_>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (at, (key, value)) in records.iter().enumerate() {
        let (key, value) = (key.map(str::as_bytes), value.map(str::as_bytes));
        let record =
            NewRecord { timestamp_delta: at as i64, offset_delta: at as i32, key, value, headers: &[] };
        write_record(&record, &mut payload);
    }
    payload
}

fn header(record_count: u32) -> BatchHeader {
    BatchHeader {
        compression: Compression::None,
        transactional: false,
        record_count,
        base_timestamp: Timestamp(100),
        max_timestamp: Timestamp(100 + record_count as i64 - 1),
        producer: None,
    }
}

fn batch(base: u64, codec: Compression, records: &[KeyValue<'_>]) -> Vec<u8> {
    let mut packed = Vec::new();
    compress(codec, &payload(records), &mut packed);
    let mut out = Vec::new();
    write_batch(&BatchHeader { compression: codec, ..header(records.len() as u32) }, &packed, &mut out);
    assign_offset(&mut out, offset(base), LeaderEpoch(0));
    out
}

/// A batch of a transaction.
fn data(producer: i64, base: u64, records: &[KeyValue<'_>]) -> Vec<u8> {
    let producer = Some((ProducerId(producer), ProducerEpoch(0), Sequence(base as i32)));
    let header = BatchHeader { transactional: true, producer, ..header(records.len() as u32) };
    let mut out = Vec::new();
    write_batch(&header, &payload(records), &mut out);
    assign_offset(&mut out, offset(base), LeaderEpoch(0));
    out
}

/// A transaction marker: kind 0 aborts, 1 commits.
fn marker(producer: i64, base: u64, kind: u8) -> Vec<u8> {
    let mut payload = Vec::new();
    let record = NewRecord { key: Some(&[0, 0, 0, kind]), value: Some(&[0; 6]), ..NewRecord::default() };
    write_record(&record, &mut payload);
    let producer = Some((ProducerId(producer), ProducerEpoch(0), Sequence(-1)));
    let mut out = Vec::new();
    write_batch(&BatchHeader { transactional: true, producer, ..header(1) }, &payload, &mut out);
    out[22] |= 1 << 5; // Control.
    seal(&mut out);
    assign_offset(&mut out, offset(base), LeaderEpoch(0));
    out
}

fn view(bytes: &[u8]) -> BatchView<'_> {
    let (view, _) = BatchView::split_first(bytes).unwrap();
    assert_eq!(view.validate_stored(), Ok(()));
    view
}

fn decompressed(batch: &BatchView<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    decompress(batch.compression().unwrap(), batch.payload(), 1 << 20, &mut out).unwrap();
    out
}

/// `key@offset` of every record.
fn keys(bytes: &[u8]) -> Vec<String> {
    let batch = view(bytes);
    let payload = decompressed(&batch);
    let name = |record: crate::codec::records::RecordView<'_>| {
        let key = String::from_utf8_lossy(record.key.unwrap()).into_owned();
        format!("{key}@{}", batch.base_offset().get() + record.offset_delta as u64)
    };
    Records::new(&payload, batch.record_count()).map(|record| name(record.unwrap())).collect()
}

fn timestamps(bytes: &[u8]) -> Vec<i64> {
    let batch = view(bytes);
    let payload = decompressed(&batch);
    let of =
        |record: crate::codec::records::RecordView<'_>| batch.base_timestamp().0 + record.timestamp_delta;
    Records::new(&payload, batch.record_count()).map(|record| of(record.unwrap())).collect()
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
