//! The `.txnindex` file beside a closed segment: the aborted transactions whose markers lie in it, in the
//! order of these. Kafka's entries (`AbortedTxn`), and what tells a wrong file from a right one behind them:
//!
//! | offset | size | field of an entry |
//! |---|---|---|
//! | 0 | 2 | version: 0 |
//! | 2 | 8 | producer id |
//! | 10 | 8 | first offset of the transaction |
//! | 18 | 8 | offset of its marker |
//! | 26 | 8 | last stable offset behind the marker |
//!
//! | offset | size | field of the end |
//! |---|---|---|
//! | 0 | 8 | first offset of the oldest transaction that is open at the segment's end, -1: none |
//! | 8 | 4 | magic: `ODTX` |
//! | 12 | 4 | CRC-32 (`crc32fast`) of topic id, partition, base offset and size of the segment, and of everything before |
//!
//! All integers big-endian, signed. The end is shorter than an entry, so that Kafka's reader does not see it.
//! A segment without any batch of a transaction has no file: its `.checksums` say that there is none
//! ([`SegmentChecksums::has_transactions`](crate::log::checksums::SegmentChecksums::has_transactions)). Where one is
//! missing or wrong that should be there, it is built again from the batches, and from the producers as they
//! were before them ([`TransactionIndexRebuild`]).

use super::{AbortedTransaction, aborted};
use crate::codec::record_batch::BatchView;
use crate::log::checksums::{HasTransactions, NAME_SIZE, SegmentChecksums, SegmentId, segment_name};
use crate::log::producers::{ProducerEvent, Producers};
use crate::log::segment::StoredBatch;
use crate::types::{Offset, ProducerId, Timestamp};

const VERSION: i16 = 0;
const ENTRY_SIZE: usize = 34;
const END_SIZE: usize = 16;
const MAGIC: [u8; 4] = *b"ODTX";
const CRC_SIZE: usize = 4;

const _: () = assert!(END_SIZE < ENTRY_SIZE, "Kafka's reader takes what is as long for an entry");

/// Why a file is not used; it is built again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionIndexError {
    #[error("{size} bytes are no transaction index")]
    Size { size: usize },
    #[error("it is damaged, another segment's, or of the segment when it had another length")]
    Crc,
    #[error("entry {entry} has values that it cannot have")]
    Entry { entry: usize },
}

/// Aborted transactions whose markers lie in one closed segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionIndex {
    pub aborted: Vec<AbortedTransaction>,
    /// Where the oldest transaction begins that is open at the segment's end.
    pub first_open: Option<Offset>,
}

impl TransactionIndex {
    /// The file beside a segment of `segment_size` bytes.
    pub fn encode(&self, segment: &SegmentId, segment_size: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.aborted.len() * ENTRY_SIZE + END_SIZE);
        for entry in &self.aborted {
            out.extend_from_slice(&VERSION.to_be_bytes());
            out.extend_from_slice(&entry.producer.0.to_be_bytes());
            for offset in [entry.first_offset, entry.last_offset, entry.last_stable_offset] {
                out.extend_from_slice(&offset.to_wire().to_be_bytes());
            }
        }
        out.extend_from_slice(&self.first_open.map_or(-1, Offset::to_wire).to_be_bytes());
        out.extend_from_slice(&MAGIC);
        let crc = seal(segment, segment_size, &out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads the file of a segment of `segment_size` bytes.
    pub fn decode(
        segment: &SegmentId,
        segment_size: u64,
        bytes: &[u8],
    ) -> Result<TransactionIndex, TransactionIndexError> {
        let (covered, crc) =
            bytes.split_last_chunk::<CRC_SIZE>().ok_or(TransactionIndexError::Size { size: bytes.len() })?;
        let index = TransactionIndex::list(bytes)?;
        if seal(segment, segment_size, covered) != u32::from_be_bytes(*crc) {
            return Err(TransactionIndexError::Crc);
        }
        let mut before = None;
        for (entry, transaction) in index.aborted.iter().enumerate() {
            let AbortedTransaction { first_offset, last_offset, last_stable_offset, .. } = *transaction;
            let is_ordered = before.is_none_or(|before| before < last_offset);
            let is_whole = first_offset <= last_offset && last_stable_offset.get() <= last_offset.get() + 1;
            if !is_ordered || !is_whole || last_offset < segment.base_offset {
                return Err(TransactionIndexError::Entry { entry });
            }
            before = Some(last_offset);
        }
        Ok(index)
    }

    /// The index of the segment with these checksums, which say whether it needs a file at all.
    pub fn of_segment(
        checksums: &SegmentChecksums,
        file: &[u8],
    ) -> Result<TransactionIndex, TransactionIndexError> {
        match checksums.has_transactions() {
            HasTransactions::No => Ok(TransactionIndex::default()),
            HasTransactions::Yes | HasTransactions::Unknown => {
                TransactionIndex::decode(&checksums.segment(), checksums.end(), file)
            }
        }
    }

    /// Reads a file as it stands, whoever it belongs to: only its size, magic and entries are judged.
    pub fn list(bytes: &[u8]) -> Result<TransactionIndex, TransactionIndexError> {
        let size_error = TransactionIndexError::Size { size: bytes.len() };
        let (entries, end) = bytes.split_last_chunk::<END_SIZE>().ok_or(size_error)?;
        let (entries, rest) = entries.as_chunks::<ENTRY_SIZE>();
        let (first_open, magic) = end.split_first_chunk::<8>().expect("as long as it is");
        if !rest.is_empty() || magic[..4] != MAGIC {
            return Err(size_error);
        }
        let mut aborted = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            aborted.push(take_entry(entry).ok_or(TransactionIndexError::Entry { entry: at })?);
        }
        let first_open = Offset::from_wire(i64::from_be_bytes(*first_open));
        Ok(TransactionIndex { aborted, first_open })
    }
}

fn take_entry(entry: &[u8; ENTRY_SIZE]) -> Option<AbortedTransaction> {
    let (version, fields) = entry.split_first_chunk::<2>()?;
    let (fields, []) = fields.as_chunks::<8>() else { return None };
    let [producer, first, last, stable] = *fields else { return None };
    let offset = |field| Offset::from_wire(i64::from_be_bytes(field));
    let producer = i64::from_be_bytes(producer);
    if i16::from_be_bytes(*version) != VERSION || producer < 0 {
        return None;
    }
    Some(AbortedTransaction {
        first_offset: offset(first)?,
        producer: ProducerId(producer),
        last_offset: offset(last)?,
        last_stable_offset: offset(stable)?,
    })
}

/// CRC-32 that only this segment's file has.
fn seal(segment: &SegmentId, segment_size: u64, covered: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    let name: [u8; NAME_SIZE] = segment_name(segment);
    crc.update(&name);
    crc.update(&segment_size.to_be_bytes());
    crc.update(covered);
    crc.finalize()
}

/// Builds the index of a segment again: is shown its batches, after those before it that the producers do not
/// have yet.
///
/// Lives: while segments are read through. Pure.
#[derive(Debug)]
pub struct TransactionIndexRebuild {
    segment_base: Offset,
    producers: Producers,
    aborted: Vec<AbortedTransaction>,
}

impl TransactionIndexRebuild {
    /// `producers`: as they were just before the first batch that it is shown.
    pub fn new(segment_base: Offset, producers: Producers) -> TransactionIndexRebuild {
        TransactionIndexRebuild { segment_base, producers, aborted: Vec::new() }
    }

    pub fn take(&mut self, batch: &BatchView<'_>, stored: &StoredBatch) {
        if !batch.is_transactional() {
            return;
        }
        let ended =
            ProducerEvent::of(batch, stored, Timestamp::NONE).and_then(|event| self.producers.take(&event));
        let ended = ended.filter(|ended| ended.last_offset >= self.segment_base);
        self.aborted.extend(ended.as_ref().and_then(aborted));
    }

    pub fn finish(self) -> TransactionIndex {
        let first_open = self.producers.first_open_transaction();
        TransactionIndex { aborted: self.aborted, first_open }
    }
}
