//! Holds a segment against its checksums as its bytes pass. What the batches themselves give away is
//! said by [`segment_check`](super::segment_check).

use crate::log::checksums::check::ExtentCheck;
use crate::log::checksums::{ChecksumsError, Extent, SegmentChecksums, SegmentId};
use crate::log::inspect::findings::{Findings, Offence, Place};
use crate::log::inspect::segment_check::SegmentRole;
use crate::log::recovery::Damage;
use crate::log::segment::SegmentFile;

/// Lives: for one pass over one segment. Pure.
#[derive(Debug)]
pub struct CompanionCheck {
    segment: SegmentId,
    /// Those to come, the next one last.
    extents: Vec<Extent>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    /// `None` once it was told.
    check: Option<ExtentCheck>,
    left: u64,
}

impl CompanionCheck {
    /// `size`: bytes of batches. `companion`: the file as it is; `None` when it is not there.
    pub fn new(
        segment: SegmentId,
        role: SegmentRole,
        size: u64,
        companion: Option<&[u8]>,
        findings: &mut Findings,
    ) -> CompanionCheck {
        let place =
            Place::File { base_offset: segment.base_offset, file: SegmentFile::Checksums, file_position: 0 };
        let decoded = companion.map(|bytes| SegmentChecksums::decode(segment, size, bytes));
        let mut extents = Vec::new();
        match (role, decoded) {
            // A start reads it through.
            (SegmentRole::ActiveUnclean, _) => {}
            (_, Some(Ok(checksums))) => extents = checksums.all().collect(),
            (SegmentRole::Closed, None) => findings.note(place, Offence::ChecksumsMissing),
            // Of an earlier stop: the final state may have the newer ones.
            (SegmentRole::ActiveClean, None | Some(Err(ChecksumsError::Foreign))) => {}
            (SegmentRole::Closed | SegmentRole::ActiveClean, Some(Err(error))) => {
                findings.problem(place, Offence::Checksums(error));
            }
        }
        extents.reverse();
        CompanionCheck { segment, extents, current: None }
    }

    /// Takes the next bytes of the segment.
    pub fn feed(&mut self, mut bytes: &[u8], findings: &mut Findings) {
        while !bytes.is_empty() {
            let Some(mut current) = self.current.take().or_else(|| self.next()) else { return };
            let size = bytes.len().min(usize::try_from(current.left).unwrap_or(usize::MAX));
            let (taken, rest) = bytes.split_at(size);
            current.left -= size as u64;
            // What is wrong with a batch by itself is said elsewhere.
            current.check = current.check.and_then(|mut check| check.feed(taken).is_ok().then_some(check));
            bytes = rest;
            if current.left > 0 {
                self.current = Some(current);
            } else if let Some(Err(damage)) = current.check.map(ExtentCheck::finish)
                && let Damage::Checksum { end, stored, computed } = damage.damage
            {
                let place = Place::File {
                    base_offset: self.segment.base_offset,
                    file: SegmentFile::Log,
                    file_position: damage.file_position,
                };
                findings.problem(place, Offence::NotWritten { end, stored, computed });
            }
        }
    }

    fn next(&mut self) -> Option<Current> {
        let extent = self.extents.pop()?;
        let check = ExtentCheck::new(&self.segment, extent);
        Some(Current { check: Some(check), left: extent.end - extent.start })
    }
}
