//! The segment that a group of segments becomes.

use crate::codec::record_batch::{BatchError, BatchView};
use crate::log::checksums::{HasTransactions, SegmentChecksums, SegmentId};
use crate::log::index::{FILE_POSITION_MAX, SegmentIndex};
use crate::log::segment::{RELATIVE_OFFSET_MAX, SegmentInfo, StoredBatch};
use crate::log::transactions::index::TransactionIndex;
use crate::types::{Offset, Timestamp, TopicPartition};

/// Why a batch has no place in the new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Re-encoded batches can be larger than they were, by a few bytes each.
    #[error("offset {offset} or its file position does not fit the compacted segment")]
    OutOfSegment { offset: Offset },
}

/// Lives: while a group is compacted. Pure.
#[derive(Debug)]
pub struct CompactedSegment {
    info: SegmentInfo,
    index: SegmentIndex,
    checksums: SegmentChecksums,
    transactions: TransactionIndex,
}

impl CompactedSegment {
    /// `first`: the first of the group, whose name the new one takes.
    pub fn new(
        partition: TopicPartition,
        first: &SegmentInfo,
        index_interval_bytes: u32,
    ) -> CompactedSegment {
        let segment = SegmentId { partition, base_offset: first.base_offset };
        CompactedSegment {
            checksums: SegmentChecksums::new(segment),
            info: SegmentInfo::empty(first.base_offset, first.created_at),
            index: SegmentIndex::new(first.base_offset, index_interval_bytes),
            transactions: TransactionIndex::default(),
        }
    }

    /// What is left of aborted transactions in it, and which is open at its end: as it was for the last of
    /// the group's segments that had any.
    pub fn list_transactions(&mut self, transactions: TransactionIndex) {
        self.transactions = transactions;
    }

    /// `None` when no batch of it is part of a transaction.
    pub fn transactions(&self) -> Option<&TransactionIndex> {
        (self.checksums.has_transactions() != HasTransactions::No).then_some(&self.transactions)
    }

    /// The file of its transaction index, if it needs one.
    pub fn encode_transactions(&self) -> Option<Vec<u8>> {
        let index = self.transactions()?;
        Some(index.encode(&self.checksums.segment(), self.info.size))
    }

    /// Takes note of the next batch. `modified_at`: of the segment that it is from.
    pub fn push(&mut self, bytes: &[u8], modified_at: Timestamp) -> Result<(), OutputError> {
        let (batch, _) = BatchView::split_first(bytes)?;
        let stored = StoredBatch::new(&batch, self.info.size);
        let reach = stored.last_offset.since(self.info.base_offset);
        if reach > RELATIVE_OFFSET_MAX || stored.file_position_end() > FILE_POSITION_MAX {
            return Err(OutputError::OutOfSegment { offset: stored.base_offset });
        }
        self.index.observe(&stored);
        self.checksums.observe(batch.header(), stored.size);
        self.info.append(&stored, modified_at);
        self.info.has_transactions = self.checksums.has_transactions();
        Ok(())
    }

    pub fn info(&self) -> &SegmentInfo {
        &self.info
    }

    pub fn index(&self) -> &SegmentIndex {
        &self.index
    }

    pub fn into_checksums(self) -> SegmentChecksums {
        self.checksums
    }

    pub fn checksums(&self) -> &SegmentChecksums {
        &self.checksums
    }
}
