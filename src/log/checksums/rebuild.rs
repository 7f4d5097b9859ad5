//! The checksums of a closed segment from its batches, where there is no companion to hold against them.
//!
//! What a batch's CRC does not cover is judged by its neighbours: offsets ascend and end where the next
//! segment begins, epochs are those of the epoch cache. Where two neighbours contradict each other,
//! neither is believed. What cannot be noticed: an offset that was changed where compaction has left a
//! gap.

use crate::log::checksums::walk::{BatchWalk, DamageAt, Walked};
use crate::log::checksums::{HeaderBytes, SegmentChecksums, SegmentId};
use crate::log::epochs::LeaderEpochs;
use crate::log::index::SegmentExtent;
use crate::log::recovery::Damage;
use crate::log::segment::StoredBatch;
use crate::types::{LeaderEpoch, Offset};

/// What a segment's batches say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Of the batches that can be believed: all, or those before the damage. One whose CRC does not
    /// hold is among them; whoever reads it finds that.
    pub checksums: SegmentChecksums,
    /// The first batch whose CRC does not hold, or where nothing can be told apart any more.
    pub damage: Option<DamageAt>,
}

/// Lives: while a segment is read through. Pure.
#[derive(Debug)]
pub struct ChecksumRebuild {
    extent: SegmentExtent,
    walk: BatchWalk,
    judge: Judge,
    /// Nothing behind it can be told apart.
    end: Option<DamageAt>,
}

#[derive(Debug)]
struct Judge {
    epochs: LeaderEpochs,
    epoch_max: LeaderEpoch,
    last_epoch: Option<LeaderEpoch>,
    checksums: SegmentChecksums,
    /// The batch that the next one has to follow before it is believed.
    pending: Option<(HeaderBytes, StoredBatch)>,
    /// The first batch whose CRC does not hold.
    damage: Option<DamageAt>,
}

impl ChecksumRebuild {
    /// `epochs`: the partition's; the newest of them is at most `epoch_max`.
    pub fn new(
        segment: SegmentId,
        extent: SegmentExtent,
        epochs: LeaderEpochs,
        epoch_max: LeaderEpoch,
    ) -> ChecksumRebuild {
        assert_eq!(segment.base_offset, extent.base_offset);
        ChecksumRebuild {
            extent,
            walk: BatchWalk::new(0, extent.size, extent.base_offset),
            judge: Judge {
                epochs,
                epoch_max,
                last_epoch: None,
                checksums: SegmentChecksums::new(segment),
                pending: None,
                damage: None,
            },
            end: None,
        }
    }

    /// Takes the next bytes of the segment. `false`: more is of no use.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        let judge = &mut self.judge;
        if self.end.is_none() {
            self.end = self.walk.feed(bytes, &mut |batch| judge.take(batch)).err();
        }
        self.end.is_none()
    }

    pub fn finish(mut self) -> Rebuilt {
        // Earlier builds may have left a closed segment with zeros behind its last batch.
        let end = self.end.or_else(|| self.walk.finish().err());
        let end = end.filter(|_| !self.walk.is_at_zeros() || self.judge.pending.is_none());
        let end = end.or_else(|| self.check_last());
        if end.is_none() {
            self.judge.settle();
        }
        // Whatever comes first.
        let damage = self.judge.damage.or(end);
        Rebuilt { checksums: self.judge.checksums, damage }
    }

    /// The last batch reaches to the next segment.
    fn check_last(&self) -> Option<DamageAt> {
        let (_, last) = self.judge.pending.as_ref()?;
        let expected = self.extent.end_offset;
        if last.last_offset.advance(1) == Some(expected) {
            return None;
        }
        // Its delta is under its CRC.
        let delta = last.last_offset.since(last.base_offset);
        let expected = Offset::new(expected.get().saturating_sub(delta + 1)).unwrap_or_default();
        let damage = Damage::BaseOffset { expected, got: last.base_offset };
        Some(DamageAt { file_position: last.file_position, damage })
    }
}

impl Judge {
    fn take(&mut self, batch: &Walked<'_>) -> Result<(), DamageAt> {
        let stored = batch.stored;
        let damaged = |damage| DamageAt { file_position: stored.file_position, damage };
        let epoch = stored.leader_epoch;
        let (low, high) = self.epochs.bounds_for(stored.base_offset);
        let low = low.max(self.last_epoch);
        if epoch.0 < -1 || Some(epoch) < low || epoch > high.unwrap_or(self.epoch_max) {
            return Err(damaged(Damage::LeaderEpoch { previous: low, got: epoch }));
        }
        self.settle();
        if let Err(error) = batch.verdict {
            self.damage = self.damage.or(Some(damaged(error.into())));
        }
        self.pending = Some((*batch.header, stored));
        if epoch.0 >= 0 {
            self.last_epoch = Some(epoch);
        }
        Ok(())
    }

    /// The batch before is where it belongs.
    fn settle(&mut self) {
        if let Some((header, stored)) = self.pending.take() {
            self.checksums.observe(&header, stored.size);
        }
    }
}
