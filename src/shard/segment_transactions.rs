//! The aborted transactions of closed segments as readers of committed records need them: from their
//! files, or built again from the batches.

use crate::codec::record_batch::{BATCH_HEADER_SIZE, BatchView, is_transactional};
use crate::log::checksums::HasTransactions;
use crate::log::index::SegmentExtent;
use crate::log::producers::Producers;
use crate::log::read::Rope;
use crate::log::segment::{SegmentFile, StoredBatch};
use crate::log::transactions::AbortedSearch;
use crate::log::transactions::index::{TransactionIndex, TransactionIndexRebuild};
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::catch_up::Hold;
use crate::shard::disk::blocking;
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::step::Pace;
use crate::types::limits::IO_SIZE_MAX;
use crate::types::{Offset, Timestamp};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Closed segments whose index is kept in memory, per partition.
const INDEXES_MAX: usize = 4;

/// Lives: one per replica.
#[derive(Default)]
pub struct TransactionIndexes(RefCell<Option<Box<Known>>>);

#[derive(Default)]
struct Known {
    /// Of segments whose file is not written yet.
    unwritten: BTreeMap<Offset, Rc<TransactionIndex>>,
    read: VecDeque<(Offset, Rc<TransactionIndex>)>,
}

impl TransactionIndexes {
    /// Forgets what was read from files.
    pub fn clear(&self) {
        if let Some(known) = &mut *self.0.borrow_mut() {
            known.read.clear();
        }
    }

    /// A segment was closed in memory. One without transactions has no index.
    pub fn closed(&self, segment: Offset, index: Option<&TransactionIndex>) {
        if let Some(index) = index {
            let mut known = self.0.borrow_mut();
            known.get_or_insert_default().unwritten.insert(segment, Rc::new(index.clone()));
        }
    }

    /// Its file is written, or never will be.
    pub fn written(&self, segment: Offset) {
        if let Some(known) = &mut *self.0.borrow_mut() {
            known.unwritten.remove(&segment);
        }
    }

    fn find(&self, segment: Offset) -> Option<Rc<TransactionIndex>> {
        let known = self.0.borrow();
        let known = known.as_ref()?;
        let read = || known.read.iter().find(|(base, _)| *base == segment).map(|(_, index)| index);
        known.unwritten.get(&segment).or_else(read).cloned()
    }

    fn keep(&self, segment: Offset, index: Rc<TransactionIndex>) {
        let mut known = self.0.borrow_mut();
        let read = &mut known.get_or_insert_default().read;
        read.retain(|(base, _)| *base != segment);
        if read.len() >= INDEXES_MAX {
            read.pop_front();
        }
        read.push_back((segment, index));
    }
}

impl Replica {
    /// Looks for the aborted transactions that a read from `offset` on, in `segment`, has to name; `stable`
    /// is the last stable offset. Costs nothing where no batch of the segment is part of a transaction.
    pub async fn search_aborted(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
        offset: Offset,
        stable: Offset,
    ) -> Result<AbortedSearch, ReadFailed> {
        let end =
            self.log.borrow().closed_extent(segment).map_or(stable, |extent| extent.end_offset.min(stable));
        let mut search = AbortedSearch::new(offset, end);
        let mut next = segment;
        loop {
            {
                let log = self.log.borrow();
                if log.active().base_offset == next {
                    search.take_listed(log.active_aborted());
                    return Ok(search);
                }
            }
            match self.has_transactions(hold, next).await? {
                HasTransactions::No if next == segment => return Ok(search),
                // Damaged, and none before that: a read of it ends there.
                HasTransactions::Unknown if next == segment => return Ok(search),
                HasTransactions::No => {} // Nothing ends here that was open before.
                HasTransactions::Yes | HasTransactions::Unknown => {
                    let index = self.closed_transactions(hold, next).await?;
                    if !search.take(&index) {
                        return Ok(search);
                    }
                }
            }
            next = self.closed_extent(next)?.0.end_offset;
        }
    }

    /// The index of a closed segment that has transactions.
    pub async fn closed_transactions(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
    ) -> Result<Rc<TransactionIndex>, ReadFailed> {
        if let Some(index) = self.reads.transactions.find(segment) {
            return Ok(index);
        }
        let generation = self.reads.generation();
        let index = Rc::new(self.load_transactions(hold, segment).await?);
        if generation == self.reads.generation() {
            self.reads.transactions.keep(segment, index.clone());
        }
        Ok(index) // Else maybe of a file that is gone: whoever asked looks again.
    }

    async fn load_transactions(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
    ) -> Result<TransactionIndex, ReadFailed> {
        let disk = |source| ReadFailed::Disk { segment, source };
        let (id, path) =
            (self.segment_id(segment), self.segments.path(segment, SegmentFile::TransactionIndex));
        let (extent, decoded) = {
            // While a compacted segment takes its place, the names are of one and the other.
            let _names = self.segments.hold_names().await.map_err(disk)?;
            let (extent, _) = self.closed_extent(segment)?;
            let decoded = blocking(move || {
                #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
                let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
                TransactionIndex::decode(&id, extent.size, &bytes).map_err(|error| error.to_string())
            });
            (extent, decoded.await)
        };
        let reason = match decoded {
            Ok(index) => return Ok(index),
            Err(reason) => reason,
        };
        let _turn = hold.wait_for(&self.reindexing, segment).await?;
        if let Some(index) = self.reads.transactions.find(segment) {
            return Ok(TransactionIndex::clone(&index)); // Somebody else has built it meanwhile.
        }
        tracing::warn!(
            directory = %self.directory.display(), %segment, reason,
            "the index of a segment's aborted transactions is built again from its batches"
        );
        hold.store().recovered(RecoveryBranch::TransactionsRebuilt);
        let index = self.rebuild_transactions(hold, &extent).await?;
        let turn = self.replacing.acquire_permit(1).await;
        let _turn = turn.map_err(|error| disk(error.into()))?;
        if self.log.borrow().closed_extent(segment) == Some(extent) {
            let written = self.write_transactions(segment, extent.size, &index).await;
            let left_out = "no space for a rebuilt transaction index; the next start builds it again";
            hold.store().derived_written(&self.directory, written, left_out);
        }
        Ok(index)
    }

    /// Reads a closed segment through; before it those behind the newest snapshot of the producers that can be
    /// used, for the transactions that were open where it begins.
    async fn rebuild_transactions(
        self: &Rc<Self>,
        hold: &mut Hold,
        extent: &SegmentExtent,
    ) -> Result<TransactionIndex, ReadFailed> {
        let segment = extent.base_offset;
        let bases: Vec<Offset> = {
            let log = self.log.borrow();
            log.closed().iter().map(|closed| closed.base_offset).filter(|base| *base <= segment).collect()
        };
        let (producers, from) = self.newest_snapshot(&bases).await;
        let mut rebuild = TransactionIndexRebuild::new(segment, producers);
        let mut pace = Pace::new(&hold.store().clock);
        for base in &bases[from..] {
            let (extent, _) = self.closed_extent(*base)?;
            let mut position = 0;
            while position < extent.size {
                let stretch = self.verified(hold, *base, position, IO_SIZE_MAX as u64, extent.size).await?;
                if let Some(damage) = stretch.damage {
                    return Err(damage);
                }
                let pieces: Vec<&[u8]> = stretch.slices.iter().map(Slice::bytes).collect();
                take_transactional(&Rope::new(&pieces), &mut rebuild);
                position = stretch.end;
                pace.give_way().await;
            }
        }
        Ok(rebuild.finish())
    }

    /// The newest snapshot at one of these segments that can be read, and which it is. Without any the log is
    /// taken from its first segment on, before which nothing of it is left.
    async fn newest_snapshot(&self, bases: &[Offset]) -> (Producers, usize) {
        for (at, base) in bases.iter().enumerate().rev() {
            let path = self.segments.path(*base, SegmentFile::ProducerSnapshot);
            #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
            let bytes = blocking(move || std::fs::read(path).ok()).await;
            let decoded = bytes.map(|bytes| Producers::decode_snapshot(&bytes, Timestamp::NONE));
            if let Some(Ok(producers)) = decoded {
                return (producers, at);
            }
        }
        (Producers::new(), 0)
    }
}

fn take_transactional(rope: &Rope<'_>, rebuild: &mut TransactionIndexRebuild) {
    for place in rope.batches(0) {
        let header = rope.copied(place.at..place.at + BATCH_HEADER_SIZE);
        if !header.first_chunk().is_some_and(is_transactional) || place.at + place.size > rope.size() {
            continue;
        }
        let bytes = rope.copied(place.at..place.at + place.size);
        if let Ok((batch, _)) = BatchView::split_first(&bytes) {
            rebuild.take(&batch, &StoredBatch::new(&batch, 0));
        }
    }
}
