//! Whole passes over a log in memory, against a model that knows nothing of batches.

use super::filter::{BatchFacts, BatchFilter, Fate, FilterOptions};
use super::keys::{KeyWalk, MapProgress};
use super::offset_map::HashSeed;
use super::payload::PayloadError;
use crate::codec::compression::{compress, decompress};
use crate::codec::record_batch::{BatchHeader, BatchView, Compression, assign_offset, write_batch};
use crate::codec::records::{Header, NewRecord, Records, write_record};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: i64,
    pub header: Vec<u8>,
}

/// A batch that is to be made.
#[derive(Clone, Debug)]
struct Shape {
    records: Vec<(u8, bool)>,
    codec: Compression,
    producer: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    (vec((0..12u8, any::<bool>()), 1..6), 0..5usize, any::<bool>())
        .prop_map(|(records, codec, producer)| Shape { records, codec: Compression::ALL[codec], producer })
}

proptest! {
    /// Any number of passes, with maps of any size, the log growing in between and time going by: what
    /// is left is what the rules leave, record by record, and the offsets of batches never change.
    #[test]
    fn passes_leave_what_the_model_leaves(
        shapes in vec(shape(), 1..30),
        passes in vec((1..40usize, 0..30usize, 0..200i64), 1..8),
    ) {
        let mut sequence = 0;
        let mut base = 0;
        let all: Vec<Vec<u8>> = shapes.iter().map(|shape| made(shape, &mut base, &mut sequence)).collect();
        let mut model = Model::default();
        let mut log: Vec<Vec<u8>> = Vec::new();
        let (mut appended, mut first_dirty, mut now) = (0, 0, 1_000);
        for (slots, grown, elapsed) in passes {
            now += elapsed;
            let until = (appended + grown).min(all.len());
            for bytes in &all[appended..until] {
                model.append(bytes);
                log.push(bytes.clone());
            }
            appended = until;
            let Some(end) = log.last().map(|bytes| view(bytes).end_offset().get()) else { continue };
            let spans = spans(&log);
            let pass = Pass { first_dirty, end, slots, now, retention: 100 };
            let clean_end = pass.run(&mut log);
            prop_assert!(first_dirty < clean_end || first_dirty == end, "no pass is in vain");
            model.compact(first_dirty, clean_end, now, 100);
            prop_assert_eq!(&read(&log), &model.records());
            prop_assert_eq!(log.last().map(|bytes| view(bytes).end_offset().get()), Some(end));
            let mut known = spans.iter();
            for batch in self::spans(&log) {
                prop_assert!(known.any(|before| *before == batch), "a batch changed its place");
            }
            first_dirty = clean_end;
        }
    }

    /// However little fits into the map: once a log is clean, exactly the last record of every key is
    /// left, and no tombstone that has had its time.
    #[test]
    fn a_clean_log_holds_every_key_once(shapes in vec(shape(), 1..30), slots in 2..20usize) {
        let (mut sequence, mut base) = (0, 0);
        let mut log: Vec<Vec<u8>> = shapes.iter().map(|shape| made(shape, &mut base, &mut sequence)).collect();
        let mut last = BTreeMap::new();
        for record in read(&log) {
            last.insert(record.key.clone(), record);
        }
        let mut first_dirty = 0;
        while first_dirty < base {
            first_dirty = Pass { first_dirty, end: base, slots, now: 1_000, retention: 100 }.run(&mut log);
        }
        let mut expected: Vec<Record> = last.into_values().collect();
        expected.sort_by_key(|record| record.offset);
        prop_assert_eq!(read(&log), expected.clone());
        // Before the horizon nothing goes, after it every tombstone.
        let again = |log: &mut Vec<Vec<u8>>, now| Pass { first_dirty: base, end: base, slots, now, retention: 100 }.run(log);
        again(&mut log, 1_099);
        prop_assert_eq!(read(&log), expected.clone());
        // A batch that the map did not hold as a whole has got its horizon from this second pass.
        again(&mut log, 1_199);
        expected.retain(|record| record.value.is_some());
        prop_assert_eq!(read(&log), expected);
    }
}

/// The rules, on records alone.
#[derive(Default)]
struct Model {
    /// Batch number, record.
    records: Vec<(usize, Record)>,
    /// Last offset and delete horizon of each batch.
    batches: Vec<(u64, Option<i64>)>,
}

impl Model {
    fn append(&mut self, bytes: &[u8]) {
        let number = self.batches.len();
        self.batches.push((view(bytes).last_offset().get(), None));
        self.records.extend(read(&[bytes.to_vec()]).into_iter().map(|record| (number, record)));
    }

    fn compact(&mut self, first_dirty: u64, clean_end: u64, now: i64, retention: i64) {
        let mut newest: BTreeMap<Option<Vec<u8>>, u64> = BTreeMap::new();
        for (_, record) in &self.records {
            if (first_dirty..clean_end).contains(&record.offset) {
                newest.insert(record.key.clone(), record.offset);
            }
        }
        let batches = &mut self.batches;
        self.records.retain(|(batch, record)| {
            let is_newest = newest.get(&record.key).is_none_or(|newest| *newest <= record.offset);
            let expired = record.value.is_none() && batches[*batch].1.is_some_and(|horizon| horizon <= now);
            record.offset >= clean_end || (is_newest && !expired)
        });
        for (batch, record) in &self.records {
            let (last, horizon) = &mut batches[*batch];
            if record.value.is_none() && *last < clean_end {
                horizon.get_or_insert(now + retention);
            }
        }
    }

    fn records(&self) -> Vec<Record> {
        self.records.iter().map(|(_, record)| record.clone()).collect()
    }
}

struct Pass {
    first_dirty: u64,
    end: u64,
    slots: usize,
    now: i64,
    retention: i64,
}

impl Pass {
    /// Returns the first offset that is still dirty.
    fn run(&self, log: &mut Vec<Vec<u8>>) -> u64 {
        let (first_dirty, end) = (offset(self.first_dirty), offset(self.end));
        let mut walk = KeyWalk::new(first_dirty, end, self.slots * 24, HashSeed(1, 2));
        let is_full = log.iter().any(|bytes| walk.take(bytes).unwrap() == MapProgress::Full);
        if !is_full {
            walk.segment_ended(end);
        }
        let options = FilterOptions { now: Timestamp(self.now), delete_retention_ms: self.retention, end };
        let mut filter = BatchFilter::new(walk.finish(), options);
        let clean_end = filter.clean_end().map_or(self.first_dirty, Offset::get);
        let mut kept = Vec::new();
        for bytes in log.iter() {
            let mut out = Vec::new();
            let fate = filter.take(bytes, &BatchFacts::default(), &mut out).unwrap();
            assert_eq!(fate == Fate::Dropped, out.is_empty());
            assert!(fate != Fate::Kept || out == *bytes);
            kept.extend((!out.is_empty()).then_some(out));
        }
        let counts = filter.counts();
        assert_eq!(counts.bytes_kept, kept.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
        assert_eq!(counts.records_kept as usize, read(&kept).len());
        *log = kept;
        clean_end
    }
}

fn made(shape: &Shape, base: &mut u64, sequence: &mut i32) -> Vec<u8> {
    let mut payload = Vec::new();
    let count = shape.records.len() as u32;
    let base_timestamp = 500 + *base as i64;
    for (at, (key, has_value)) in shape.records.iter().enumerate() {
        let value = [at as u8, *key, *base as u8];
        let record = NewRecord {
            timestamp_delta: at as i64 * 3 % 4,
            offset_delta: at as i32,
            key: Some(&[*key]),
            value: has_value.then_some(&value[..]),
            headers: &[Header { key: b"h", value: Some(&[*key; 3]) }],
        };
        write_record(&record, &mut payload);
    }
    let mut packed = Vec::new();
    compress(shape.codec, &payload, &mut packed);
    let header = BatchHeader {
        compression: shape.codec,
        transactional: false,
        record_count: count,
        base_timestamp: Timestamp(base_timestamp),
        max_timestamp: Timestamp(base_timestamp + 3),
        producer: shape.producer.then_some((ProducerId(1), ProducerEpoch(0), Sequence(*sequence))),
    };
    let mut out = Vec::new();
    write_batch(&header, &packed, &mut out);
    assign_offset(&mut out, offset(*base), LeaderEpoch(0));
    *base += count as u64;
    *sequence += count as i32;
    out
}

/// What a consumer reads.
pub fn read(log: &[Vec<u8>]) -> Vec<Record> {
    let mut out = Vec::new();
    for bytes in log {
        let batch = view(bytes);
        assert_eq!(batch.validate_stored(), Ok(()));
        let mut payload = Vec::new();
        decompress(batch.compression().unwrap(), batch.payload(), 1 << 20, &mut payload).unwrap();
        for record in Records::new(&payload, batch.record_count()) {
            let record = record.unwrap();
            let header = record.headers().next().and_then(|header| header.value);
            out.push(Record {
                offset: batch.base_offset().get() + record.offset_delta as u64,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                timestamp: batch.base_timestamp().0 + record.timestamp_delta,
                header: header.unwrap_or_default().to_vec(),
            });
        }
    }
    out
}

/// What of every batch must not change: offsets, codec (while it has records) and producer.
fn spans(log: &[Vec<u8>]) -> Vec<String> {
    let span = |bytes: &Vec<u8>| {
        let batch = view(bytes);
        format!("{}-{} {:?}", batch.base_offset(), batch.last_offset(), batch.producer())
    };
    log.iter().map(span).collect()
}

fn view(bytes: &[u8]) -> BatchView<'_> {
    let (view, rest) = BatchView::split_first(bytes).unwrap();
    assert!(rest.is_empty());
    view
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}

/// A disk may give whole batches that belong elsewhere: the pass ends there, and the log stays as it is.
#[test]
fn batches_out_of_order_are_damage() {
    let shape = Shape { records: vec![(7, true)], codec: Compression::None, producer: false };
    let at = |mut base: u64| made(&shape, &mut base, &mut 0);
    let mut walk = KeyWalk::new(offset(0), offset(300), 4096, HashSeed(1, 2));
    assert_eq!(walk.take(&at(192)), Ok(MapProgress::More));
    let behind = PayloadError::Order { last: offset(192), got: offset(65) };
    assert_eq!(walk.take(&at(65)), Err(behind));
    assert_eq!(walk.take(&at(193)), Ok(MapProgress::More));
}
