//! Reads from disk that are held against the checksums of what was written: whole extents, checked before
//! a byte of them leaves.
//!
//! ```text
//! extents   |---- 1 ----|---- 2 ----|---- 3 ----|- open -|
//! asked for        ^from there on
//! read      [-----------------------------------]            from the start of an extent to the end of one
//! checked    whole       whole      damaged
//! stretch   [-----------------------]                        what lies before the damage is served
//! ```
//!
//! What comes from the tail never went through the disk, and is not checked unless an extent reaches over
//! to it. Checking is CRC at memory speed, some 0.1 ms a MiB, and gives way in between.

use crate::log::checksums::check::ExtentCheck;
use crate::log::checksums::walk::DamageAt;
use crate::log::checksums::{Extent, SegmentId};
use crate::shard::catch_up::Hold;
use crate::shard::reader::{ReadFailed, take_range};
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::shard::step::Pace;
use crate::types::Offset;
use std::rc::Rc;

/// Bytes that are checked before others may run.
pub const CHECK_STEP_SIZE: usize = 256 << 10;

/// Whole batches of one segment that are what was written.
pub struct Stretch {
    pub slices: Vec<Slice>,
    /// File positions.
    pub start: u64,
    pub end: u64,
    /// Why it is not longer, if it is for damage.
    pub damage: Option<ReadFailed>,
}

impl Replica {
    /// The batches around and behind `position`, up to `readable_end` and within `size_max` bytes, but at
    /// least one extent; none behind the last one. What was read under `hold` before must be gone.
    pub async fn verified(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
        position: u64,
        size_max: u64,
        readable_end: u64,
    ) -> Result<Stretch, ReadFailed> {
        let mut extents = self.extents(hold, segment, position, size_max).await?;
        extents.retain(|extent| extent.start < readable_end);
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else {
            let (slices, damage) = (Vec::new(), None);
            return Ok(Stretch { slices, start: position, end: readable_end, damage });
        };
        let (start, end) = (first.start, last.end);
        let slices = self.slices(hold, segment, start, end).await?;
        let mut checked = (end, None);
        if slices.iter().any(Slice::is_disk) {
            let mut pace = Pace::new(&hold.store().clock);
            let pieces = slices.iter().map(Slice::bytes);
            checked = check_extents(&self.segment_id(segment), &extents, pieces, &mut pace).await;
        }
        let (checked_end, damage) = checked;
        let damage = damage.map(|damage| ReadFailed::Damaged { segment, damage });
        match damage {
            Some(damage) if checked_end == start => Err(damage),
            damage => {
                let end = checked_end.min(readable_end);
                let slices = take_range(slices, 0, (end - start) as usize).slices;
                Ok(Stretch { slices, start, end, damage })
            }
        }
    }
}

/// Holds consecutive extents against their bytes. Returns up to where they are what was written, and what
/// is not.
pub async fn check_extents<'a>(
    segment: &SegmentId,
    extents: &[Extent],
    mut pieces: impl Iterator<Item = &'a [u8]>,
    pace: &mut Pace,
) -> (u64, Option<DamageAt>) {
    let mut piece: &[u8] = &[];
    for extent in extents {
        let mut check = ExtentCheck::new(segment, *extent);
        let mut left = (extent.end - extent.start) as usize;
        while left > 0 {
            if piece.is_empty() {
                let Some(next) = pieces.next() else { break }; // The file ends early.
                piece = next;
            }
            let (step, rest) = piece.split_at(piece.len().min(left).min(CHECK_STEP_SIZE));
            if let Err(damage) = check.feed(step) {
                return (extent.start, Some(damage));
            }
            left -= step.len();
            piece = rest;
            pace.give_way().await;
        }
        if let Err(damage) = check.finish() {
            return (extent.start, Some(damage));
        }
    }
    (extents.last().map_or(0, |last| last.end), None)
}
