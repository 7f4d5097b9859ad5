//! The checksums that reads of closed segments are held against: from their companions, or built again
//! from the batches.

use crate::log::checksums::rebuild::{ChecksumRebuild, Rebuilt};
use crate::log::checksums::walk::DamageAt;
use crate::log::checksums::{Extent, HasTransactions, SegmentChecksums, SegmentId};
use crate::log::index::SegmentExtent;
use crate::log::segment::SegmentFile;
use crate::shard::catch_up::Hold;
use crate::shard::disk::blocking;
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::shard::verified::CHECK_STEP_SIZE;
use crate::types::Offset;
use crate::types::limits::IO_SIZE_MAX;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

/// Closed segments whose checksums are kept in memory, per partition.
const CHECKSUMS_MAX: usize = 4;

/// What is known of a closed segment.
struct Known {
    checksums: SegmentChecksums,
    /// Where the segment cannot be told apart any more; nothing behind the checksums is served.
    damage: Option<DamageAt>,
}

/// Lives: one per replica.
#[derive(Default)]
pub struct Checksums {
    /// Of segments whose companion is not written yet.
    unwritten: RefCell<BTreeMap<Offset, Rc<Known>>>,
    known: RefCell<VecDeque<Rc<Known>>>,
}

impl Checksums {
    /// Forgets what was read from files.
    pub fn clear(&self) {
        self.known.borrow_mut().clear();
    }

    /// A segment was closed in memory.
    pub fn closed(&self, checksums: SegmentChecksums) {
        let base = checksums.segment().base_offset;
        self.unwritten.borrow_mut().insert(base, Rc::new(Known { checksums, damage: None }));
    }

    /// Its companion is written, or never will be.
    pub fn written(&self, segment: Offset) {
        self.unwritten.borrow_mut().remove(&segment);
    }

    fn find(&self, segment: Offset) -> Option<Rc<Known>> {
        let unwritten = self.unwritten.borrow().get(&segment).cloned();
        unwritten.or_else(|| {
            let known = self.known.borrow();
            known.iter().find(|known| known.checksums.segment().base_offset == segment).cloned()
        })
    }

    fn keep(&self, found: Rc<Known>) {
        let mut known = self.known.borrow_mut();
        known.retain(|known| known.checksums.segment() != found.checksums.segment());
        if known.len() >= CHECKSUMS_MAX {
            known.pop_front();
        }
        known.push_back(found);
    }
}

impl Replica {
    pub fn segment_id(&self, base_offset: Offset) -> SegmentId {
        SegmentId { partition: self.id, base_offset }
    }

    /// The extents of a segment from the one that holds `file_position` on, within `size_max` bytes. None
    /// behind its last batch. What is appended later is in none of them.
    pub async fn extents(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
        file_position: u64,
        size_max: u64,
    ) -> Result<Vec<Extent>, ReadFailed> {
        let active = {
            let log = self.log.borrow();
            let is_active = log.active().base_offset == segment;
            is_active.then(|| log.active_checksums().extents(file_position, size_max))
        };
        let (extents, damage) = match active {
            Some(extents) => (extents, None),
            None => {
                let known = self.closed_checksums(hold, segment).await?;
                (known.checksums.extents(file_position, size_max), known.damage)
            }
        };
        match damage.filter(|_| extents.is_empty()) {
            Some(damage) => Err(ReadFailed::Damaged { segment, damage }),
            None => Ok(extents),
        }
    }

    /// Whether batches of a closed segment are part of transactions: its checksums say so, which are read once
    /// for that after a start.
    pub async fn has_transactions(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
    ) -> Result<HasTransactions, ReadFailed> {
        let known = self.log.borrow().closed_has_transactions(segment).ok_or(ReadFailed::OutOfRange)?;
        if known != HasTransactions::Unknown {
            return Ok(known);
        }
        let generation = self.reads.generation();
        let known = self.closed_checksums(hold, segment).await?;
        let found = known.checksums.has_transactions();
        if known.damage.is_some() && found == HasTransactions::No {
            return Ok(HasTransactions::Unknown); // Of what lies behind the damage nobody knows.
        }
        if generation == self.reads.generation() {
            self.log.borrow_mut().note_transactions(segment, found);
        }
        Ok(found)
    }

    async fn closed_checksums(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
    ) -> Result<Rc<Known>, ReadFailed> {
        if let Some(known) = self.reads.checksums.find(segment) {
            return Ok(known);
        }
        let turn = hold.wait_for(&self.checking, segment).await?;
        if let Some(known) = self.reads.checksums.find(segment) {
            return Ok(known);
        }
        let generation = self.reads.generation();
        let known = Rc::new(self.load_checksums(hold, segment).await?);
        drop(turn);
        if generation == self.reads.generation() {
            self.reads.checksums.keep(known.clone());
        }
        Ok(known) // Else maybe of a file that is gone: whoever asked looks again.
    }

    async fn load_checksums(self: &Rc<Self>, hold: &mut Hold, segment: Offset) -> Result<Known, ReadFailed> {
        let disk = |source| ReadFailed::Disk { segment, source };
        let path = self.segments.path(segment, SegmentFile::Checksums);
        let id = self.segment_id(segment);
        let (extent, decoded) = {
            // While a compacted segment takes its place, the names are of one and the other.
            let _names = self.segments.hold_names().await.map_err(disk)?;
            let (extent, _) = self.closed_extent(segment)?;
            let decoded = blocking(move || {
                #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
                let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
                SegmentChecksums::decode(id, extent.size, &bytes).map_err(|error| error.to_string())
            });
            (extent, decoded.await)
        };
        match decoded {
            Ok(checksums) => Ok(Known { checksums, damage: None }),
            Err(reason) => {
                let directory = self.directory.display();
                tracing::warn!(
                    %directory, %segment, reason,
                    "the checksums of a segment are built again: all of its batches are looked at"
                );
                hold.store().metrics.borrow_mut().checksums_rebuilt += 1;
                self.rebuild_checksums(hold, extent).await
            }
        }
    }

    /// Reads a closed segment through, and writes its companion if all of it can be believed.
    async fn rebuild_checksums(
        self: &Rc<Self>,
        hold: &mut Hold,
        extent: SegmentExtent,
    ) -> Result<Known, ReadFailed> {
        let segment = extent.base_offset;
        let (epochs, epoch_max) = {
            let log = self.log.borrow();
            (log.epochs().clone(), log.leader_epoch())
        };
        let mut rebuild = ChecksumRebuild::new(self.segment_id(segment), extent, epochs, epoch_max);
        let mut pace = Pace::new(&hold.store().clock);
        let mut position = 0;
        'segment: while position < extent.size {
            let end = extent.size.min(position + IO_SIZE_MAX as u64);
            let slices = self.slices(hold, segment, position, end).await?;
            for piece in slices.iter().flat_map(|slice| slice.bytes().chunks(CHECK_STEP_SIZE)) {
                if !rebuild.feed(piece) {
                    break 'segment;
                }
                position += piece.len() as u64;
                pace.give_way().await;
            }
            if position < end {
                break; // The file ends early.
            }
        }
        let Rebuilt { checksums, damage } = rebuild.finish();
        match damage {
            // A companion says nothing of zeros behind the last batch: it would not be this file's.
            None if checksums.end() < extent.size => {}
            None => self
                .keep_companion(hold.store(), &checksums, extent)
                .await
                .map_err(|source| ReadFailed::Disk { segment, source })?,
            // Its reads are refused, and tell it.
            Some(damage) => tracing::error!(
                directory = %self.directory.display(), %segment, %damage,
                "a closed segment is damaged; it gets no companion"
            ),
        }
        let damage = damage.filter(|_| checksums.end() < extent.size);
        Ok(Known { checksums, damage })
    }

    async fn keep_companion(
        &self,
        store: &Store,
        checksums: &SegmentChecksums,
        extent: SegmentExtent,
    ) -> io::Result<()> {
        let segment = extent.base_offset;
        let _turn = self.replacing.acquire_permit(1).await?;
        if self.log.borrow().closed_extent(segment) != Some(extent) {
            return Ok(()); // Deleted or compacted meanwhile.
        }
        let Some(_names) = self.hold_names() else { return Ok(()) };
        let written = self.segments.write_checksums(checksums).await;
        let left_out = "no space for rebuilt checksums; the next start builds them again";
        store.derived_written(&self.directory, written, left_out);
        Ok(())
    }
}
