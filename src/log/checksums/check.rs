//! Checking one extent that was read from disk, in pieces: every batch by its own CRC-32C, all headers by
//! the extent's checksum.

use crate::log::checksums::walk::{BatchWalk, DamageAt, Walked};
use crate::log::checksums::{Extent, HeaderBytes, SegmentChecksums, SegmentId, begun, continued};
use crate::log::recovery::Damage;

/// Lives: while the bytes of one extent are looked at. Pure.
/// Cost: one pass of CRC-32C, and 61 bytes of CRC-32 a batch.
#[derive(Debug)]
pub struct ExtentCheck {
    extent: Extent,
    walk: BatchWalk,
    computed: u32,
}

impl ExtentCheck {
    pub fn new(segment: &SegmentId, extent: Extent) -> ExtentCheck {
        ExtentCheck {
            extent,
            walk: BatchWalk::new(extent.start, extent.end, segment.base_offset),
            computed: begun(segment, extent.start),
        }
    }

    /// Takes the next of its bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), DamageAt> {
        let computed = &mut self.computed;
        self.walk.feed(bytes, &mut |batch: &Walked<'_>| {
            let file_position = batch.stored.file_position;
            batch.verdict.map_err(|error| DamageAt { file_position, damage: error.into() })?;
            *computed = continued(*computed, batch.header);
            Ok(())
        })
    }

    /// All of its bytes were taken, or the file has ended.
    pub fn finish(self) -> Result<(), DamageAt> {
        self.walk.finish()?;
        let Extent { start, end, crc } = self.extent;
        match self.computed == crc {
            true => Ok(()),
            false => Err(DamageAt {
                file_position: start,
                damage: Damage::Checksum { end, stored: crc, computed: self.computed },
            }),
        }
    }
}

/// Holds the batches of a whole segment, which were checked by their own CRC-32C, against its companion.
///
/// Lives: for one pass over a segment. Pure.
#[derive(Debug)]
pub struct ChecksumCompare {
    found: SegmentChecksums,
    companion: Option<SegmentChecksums>,
    /// Extents of the companion that were found.
    compared: usize,
    damage: Option<DamageAt>,
}

impl ChecksumCompare {
    /// Without a companion everything is believed.
    pub fn new(segment: SegmentId, companion: Option<SegmentChecksums>) -> ChecksumCompare {
        ChecksumCompare { found: SegmentChecksums::new(segment), companion, compared: 0, damage: None }
    }

    /// Takes the next batch. Says whether all batches so far are those that were written.
    pub fn observe(&mut self, header: &HeaderBytes, size: u32) -> bool {
        if self.damage.is_some() {
            return false;
        }
        self.found.observe(header, size);
        let Some(companion) = &self.companion else { return true };
        let Some(expected) = companion.extent_at(self.compared) else {
            self.damage = Some(DamageAt { file_position: companion.end(), damage: Damage::CutOff });
            return false;
        };
        if self.found.end() < expected.end {
            return false;
        }
        match self.found.extent_at(self.compared) {
            Some(found) if found == expected => self.compared += 1,
            found => {
                let (end, stored) = (expected.end, expected.crc);
                let computed = found.map_or(0, |found| found.crc);
                let damage = Damage::Checksum { end, stored, computed };
                self.damage = Some(DamageAt { file_position: expected.start, damage });
            }
        }
        self.damage.is_none()
    }

    pub fn damage(&self) -> Option<DamageAt> {
        self.damage
    }
}
