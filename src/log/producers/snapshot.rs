//! The `.snapshot` file: the producers of a partition as they were just before the offset in its
//! name. Kafka's format (`ProducerSnapshot.json` version 1, `ProducerStateManager`):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | version: 1 |
//! | 2 | 4 | CRC-32C of everything after this field |
//! | 6 | 4 | count of producers |
//! | 10 | 46 each | producer |
//! | | | the earlier batches, below; absent in Kafka's own files |
//!
//! | offset | size | field of a producer |
//! |---|---|---|
//! | 0 | 8 | producer id |
//! | 8 | 2 | producer epoch |
//! | 10 | 4 | last sequence of its newest batch, -1: none |
//! | 14 | 8 | last offset of that batch, -1: none |
//! | 22 | 4 | last offset - base offset of that batch |
//! | 26 | 8 | timestamp of that batch, or of the newest marker |
//! | 34 | 4 | transaction coordinator epoch, -1: none |
//! | 38 | 8 | first offset of the open transaction, -1: none |
//!
//! Kafka writes down one batch per producer, so that after a restart a retry of any other is out
//! of order. Its reader computes the CRC over the whole file and ignores what follows the
//! producers; there we keep the other batches of each window, oldest first, and the newest marker (or batch
//! that is not numbered):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic: `ODRK` |
//! | 4 | 4 | count of batches |
//! | 8 | 32 each | producer id 8, last sequence 4 (-1: the newest marker), last offset 8, offset delta 4, timestamp 8 |
//!
//! All integers big-endian, signed.

use super::{ProducerState, ProducerTable, Producers, RetainedBatch, Unsequenced, Window};
use crate::codec::record_batch::{UNSEQUENCED, crc32c};
use crate::types::{CoordinatorEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

const VERSION: i16 = 1;
const CRC_AT: usize = 2;
const CRC_COVERS_FROM: usize = 6;
const HEADER_SIZE: usize = 10;
const PRODUCER_SIZE: usize = 46;
const EARLIER_MAGIC: [u8; 4] = *b"ODRK";
const EARLIER_HEADER_SIZE: usize = 8;
const EARLIER_SIZE: usize = 32;

/// Why a file is no snapshot that can be trusted. The caller falls back to an older one, or to
/// none, and records the log's batches from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("{size} bytes are no producer snapshot")]
    Size { size: usize },
    #[error("producer snapshot version {version} is not supported; 1 is")]
    Version { version: i16 },
    #[error("CRC-32C is {computed:#010x}, the snapshot says {stored:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("producer {producer_id} has values that no producer can have")]
    Producer { producer_id: i64 },
}

/// A producer as a snapshot spells it, for who shows the file. -1 stays -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotProducer {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub newest: SnapshotBatch,
    pub coordinator_epoch: i32,
    /// First offset of the open transaction.
    pub transaction_start: i64,
}

/// A batch as both tables of a snapshot spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotBatch {
    pub last_sequence: i32,
    pub last_offset: i64,
    /// Last offset less base offset.
    pub offset_delta: i32,
    pub timestamp: i64,
}

/// What a snapshot lists: its producers, and the earlier batches of each by producer id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotListing {
    pub producers: Vec<SnapshotProducer>,
    pub earlier: Vec<(i64, SnapshotBatch)>,
}

impl SnapshotListing {
    /// Reads a snapshot as it stands; only version, CRC and size are judged.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotListing, SnapshotError> {
        let (entries, earlier) = sealed_tables(bytes)?;
        let producers = entries.chunks_exact(PRODUCER_SIZE).map(|entry| take_entry(Fields(entry))).collect();
        let earlier = earlier_entries(earlier).ok_or(SnapshotError::Size { size: bytes.len() })?;
        let earlier = earlier.chunks_exact(EARLIER_SIZE).map(|entry| {
            let mut fields = Fields(entry);
            (fields.i64(), fields.batch())
        });
        Ok(SnapshotListing { producers, earlier: earlier.collect() })
    }
}

/// The producers as they were at one moment. With many of them it takes milliseconds to encode them: that
/// goes a chunk at a time.
#[derive(Clone, Debug)]
pub struct ProducerSnapshot {
    table: ProducerTable,
    chunks_encoded: usize,
    encoded: EncodedProducers,
}

impl ProducerSnapshot {
    /// Encodes some 250 more, in some 10 µs. False once there are none.
    pub fn encode_chunk(&mut self) -> bool {
        let Some(chunk) = self.table.chunk(self.chunks_encoded) else { return false };
        for (id, state) in chunk {
            put_producer(&mut self.encoded.producers, *id, state);
            put_earlier_batches(&mut self.encoded.earlier, *id, state);
        }
        self.chunks_encoded += 1;
        true
    }

    /// Encodes the rest.
    pub fn finish(mut self) -> EncodedProducers {
        while self.encode_chunk() {}
        self.encoded
    }
}

/// Both tables of a snapshot. May leave the core, to become its file elsewhere.
#[derive(Clone, Debug, Default)]
pub struct EncodedProducers {
    producers: Vec<u8>,
    earlier: Vec<u8>,
}

impl EncodedProducers {
    /// The `.snapshot` file.
    pub fn seal(&self) -> Vec<u8> {
        let size = HEADER_SIZE + self.producers.len() + EARLIER_HEADER_SIZE + self.earlier.len();
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&((self.producers.len() / PRODUCER_SIZE) as i32).to_be_bytes());
        out.extend_from_slice(&self.producers);
        if !self.earlier.is_empty() {
            out.extend_from_slice(&EARLIER_MAGIC);
            out.extend_from_slice(&((self.earlier.len() / EARLIER_SIZE) as i32).to_be_bytes());
            out.extend_from_slice(&self.earlier);
        }
        let crc = crc32c(&out[CRC_COVERS_FROM..]);
        out[CRC_AT..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
        out
    }
}

impl Producers {
    /// O(n / 256): what is written from here on is not in it.
    pub fn snapshot(&self) -> ProducerSnapshot {
        let table = self.by_id.clone();
        ProducerSnapshot { table, chunks_encoded: 0, encoded: EncodedProducers::default() }
    }

    pub fn encode_snapshot(&self) -> Vec<u8> {
        self.snapshot().finish().seal()
    }

    /// Reads a snapshot, ours or Kafka's. Idleness starts anew at `now`. If it holds more producers
    /// than we keep, the most recent ones are taken.
    pub fn decode_snapshot(bytes: &[u8], now: Timestamp) -> Result<Producers, SnapshotError> {
        let size_error = SnapshotError::Size { size: bytes.len() };
        let (entries, earlier) = sealed_tables(bytes)?;
        let mut producers = Producers::new();
        for entry in entries.chunks_exact(PRODUCER_SIZE) {
            take_producer(&mut producers, Fields(entry), now)?;
        }
        take_earlier_batches(&mut producers, earlier).ok_or(size_error)??;
        while producers.count() > producers.count_max && producers.forget_least_recent() {}
        Ok(producers)
    }
}

/// Checks version, CRC and size; returns the bytes of the two tables.
fn sealed_tables(bytes: &[u8]) -> Result<(&[u8], &[u8]), SnapshotError> {
    let size_error = SnapshotError::Size { size: bytes.len() };
    let (header, tables) = bytes.split_first_chunk::<HEADER_SIZE>().ok_or(size_error)?;
    let mut fields = Fields(header);
    let version = fields.i16();
    if version != VERSION {
        return Err(SnapshotError::Version { version });
    }
    let stored = fields.i32() as u32;
    let computed = crc32c(&bytes[CRC_COVERS_FROM..]);
    if stored != computed {
        return Err(SnapshotError::Crc { stored, computed });
    }
    let count = usize::try_from(fields.i32()).map_err(|_| size_error)?;
    tables.split_at_checked(count.saturating_mul(PRODUCER_SIZE)).ok_or(size_error)
}

/// The entries of the table of earlier batches. `None` when the size is wrong.
fn earlier_entries(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.is_empty() {
        return Some(bytes);
    }
    let (header, entries) = bytes.split_first_chunk::<EARLIER_HEADER_SIZE>()?;
    let (magic, count) = header.split_first_chunk::<4>()?;
    let count = usize::try_from(Fields(count).i32()).ok()?;
    let fits = *magic == EARLIER_MAGIC && entries.len() == count.checked_mul(EARLIER_SIZE)?;
    fits.then_some(entries)
}

fn take_entry(mut fields: Fields<'_>) -> SnapshotProducer {
    SnapshotProducer {
        producer_id: fields.i64(),
        producer_epoch: fields.i16(),
        newest: fields.batch(),
        coordinator_epoch: fields.i32(),
        transaction_start: fields.i64(),
    }
}

fn put_producer(out: &mut Vec<u8>, id: ProducerId, state: &ProducerState) {
    let newest = state.batches.as_slice().last();
    let offset_delta = newest.map_or(0, |batch| batch.last_offset.since(batch.base_offset) as i32);
    out.extend_from_slice(&id.0.to_be_bytes());
    out.extend_from_slice(&state.epoch.0.to_be_bytes());
    out.extend_from_slice(&newest.map_or(-1, |batch| batch.last_sequence.0).to_be_bytes());
    out.extend_from_slice(&newest.map_or(-1, |batch| batch.last_offset.to_wire()).to_be_bytes());
    out.extend_from_slice(&offset_delta.to_be_bytes());
    let timestamp = newest.map(|batch| batch.timestamp).or(state.unsequenced.map(|marker| marker.timestamp));
    out.extend_from_slice(&timestamp.unwrap_or(Timestamp::NONE).0.to_be_bytes());
    out.extend_from_slice(&state.coordinator_epoch.0.to_be_bytes());
    out.extend_from_slice(&state.transaction_start.map_or(-1, Offset::to_wire).to_be_bytes());
}

fn put_earlier_batches(out: &mut Vec<u8>, id: ProducerId, state: &ProducerState) {
    let batches = state.batches.as_slice();
    for batch in &batches[..batches.len().saturating_sub(1)] {
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(&batch.last_sequence.0.to_be_bytes());
        out.extend_from_slice(&batch.last_offset.to_wire().to_be_bytes());
        out.extend_from_slice(&(batch.last_offset.since(batch.base_offset) as i32).to_be_bytes());
        out.extend_from_slice(&batch.timestamp.0.to_be_bytes());
    }
    if let Some(written) = state.unsequenced {
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(&UNSEQUENCED.0.to_be_bytes());
        out.extend_from_slice(&written.offset.to_wire().to_be_bytes());
        out.extend_from_slice(&0i32.to_be_bytes());
        out.extend_from_slice(&written.timestamp.0.to_be_bytes());
    }
}

fn take_producer(producers: &mut Producers, fields: Fields<'_>, now: Timestamp) -> Result<(), SnapshotError> {
    let entry = take_entry(fields);
    let SnapshotProducer { producer_id, producer_epoch: epoch, newest, coordinator_epoch, .. } = entry;
    let error = SnapshotError::Producer { producer_id };
    let transaction_start = Offset::from_wire(entry.transaction_start);

    let id = ProducerId(producer_id);
    if producer_id < 0 || epoch < 0 || producers.by_id.contains(id) {
        return Err(error);
    }
    let mut batches = Window::default();
    // Without an offset: only transaction markers. Without a sequence: offsets committed in a
    // transaction, which are not sequenced. Either way the next sequence is 0, as in Kafka.
    if newest.last_offset >= 0 && newest.last_sequence >= 0 {
        batches.push(newest.retained().ok_or(error)?);
    }
    let state = ProducerState {
        batches,
        coordinator_epoch: CoordinatorEpoch(coordinator_epoch),
        transaction_start,
        ..ProducerState::new(ProducerEpoch(epoch), now)
    };
    if let Some(start) = transaction_start {
        let open = &mut producers.transactions.get_or_insert_default().open;
        if open.insert(start, id).is_some() {
            return Err(error); // One batch begins one transaction.
        }
    }
    producers.by_recency.insert((state.recency(), id));
    producers.by_id.insert(id, state);
    Ok(())
}

/// Puts the earlier batches before the newest of each producer. `None` when the size is wrong.
fn take_earlier_batches(producers: &mut Producers, bytes: &[u8]) -> Option<Result<(), SnapshotError>> {
    for entry in earlier_entries(bytes)?.chunks_exact(EARLIER_SIZE) {
        let mut fields = Fields(entry);
        let producer_id = fields.i64();
        let earlier = fields.batch();
        let id = ProducerId(producer_id);
        let put = match earlier.last_sequence {
            sequence if sequence == UNSEQUENCED.0 => put_unsequenced(producers, id, &earlier),
            _ => put_before_newest(producers, id, &earlier),
        };
        if put.is_none() {
            return Some(Err(SnapshotError::Producer { producer_id }));
        }
    }
    Some(Ok(()))
}

fn put_unsequenced(producers: &mut Producers, id: ProducerId, marker: &SnapshotBatch) -> Option<()> {
    let offset = Offset::from_wire(marker.last_offset).filter(|_| marker.offset_delta == 0)?;
    let state = producers.by_id.get_mut(id)?;
    if state.unsequenced.is_some() {
        return None;
    }
    producers.by_recency.remove(&(state.recency(), id));
    state.unsequenced = Some(Unsequenced { offset, timestamp: Timestamp(marker.timestamp) });
    producers.by_recency.insert((state.recency(), id));
    Some(())
}

fn put_before_newest(producers: &mut Producers, id: ProducerId, earlier: &SnapshotBatch) -> Option<()> {
    let earlier = earlier.retained()?;
    let state = producers.by_id.get_mut(id)?;
    let (newest, before) = state.batches.as_slice().split_last()?;
    let newest = *newest;
    let follows = before.last().is_none_or(|batch| batch.last_offset < earlier.base_offset);
    let window_has_room = before.len() + 1 < state.batches.batches.len();
    if !follows || !window_has_room || newest.base_offset <= earlier.last_offset {
        return None;
    }
    state.batches.count -= 1;
    state.batches.push(earlier);
    state.batches.push(newest);
    Some(())
}

impl SnapshotBatch {
    fn retained(&self) -> Option<RetainedBatch> {
        let last_offset = Offset::from_wire(self.last_offset)?;
        let base_offset = Offset::from_wire(self.last_offset.checked_sub(self.offset_delta as i64)?)?;
        if self.offset_delta < 0 || self.last_sequence < 0 {
            return None;
        }
        Some(RetainedBatch {
            base_sequence: retreat(Sequence(self.last_sequence), self.offset_delta),
            last_sequence: Sequence(self.last_sequence),
            base_offset,
            last_offset,
            timestamp: Timestamp(self.timestamp),
        })
    }
}

/// The sequence `records` earlier (Kafka `DefaultRecordBatch.decrementSequence`).
fn retreat(sequence: Sequence, records: i32) -> Sequence {
    const MODULUS: i64 = i32::MAX as i64 + 1;
    Sequence((sequence.0 as i64 - records as i64).rem_euclid(MODULUS) as i32)
}

/// Takes integers off bytes whose size was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the size was checked");
        self.0 = rest;
        *field
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }

    fn batch(&mut self) -> SnapshotBatch {
        SnapshotBatch {
            last_sequence: self.i32(),
            last_offset: self.i64(),
            offset_delta: self.i32(),
            timestamp: self.i64(),
        }
    }
}
