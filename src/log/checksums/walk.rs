//! Walking stored batches in pieces of any size, each judged on its own: its header, its CRC-32C, that
//! it lies behind the one before. Holds a header, whatever a length field says.

use crate::codec::record_batch::{
    BATCH_HEADER_SIZE, BatchError, BatchFields, CRC_COVERS_FROM, Crc32c, crc32c,
};
use crate::log::checksums::HeaderBytes;
use crate::log::recovery::Damage;
use crate::log::segment::StoredBatch;
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// Damage at a place of a segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {file_position}: {damage}")]
pub struct DamageAt {
    /// Where the batch begins that is not what it was.
    pub file_position: u64,
    pub damage: Damage,
}

/// A batch that was walked over.
#[derive(Clone, Copy, Debug)]
pub struct Walked<'a> {
    pub header: &'a HeaderBytes,
    pub stored: StoredBatch,
    /// Whether its CRC-32C holds, and its fields can be.
    pub verdict: Result<(), BatchError>,
}

/// What a header at `position` says, if it can be one there: of a batch that ends at `end` of the file at
/// most, and has no offset below `offset_min`.
pub fn header_at(
    header: &HeaderBytes,
    position: u64,
    end: u64,
    offset_min: Offset,
) -> Result<StoredBatch, DamageAt> {
    let damage = |damage| DamageAt { file_position: position, damage };
    let fields = BatchFields::decode(header);
    let size = fields.size().map_err(|error| damage(error.into()))?;
    let base_offset = Offset::from_wire(fields.base_offset);
    let (Some(base_offset), Some(last_offset)) = (base_offset, fields.last_offset()) else {
        return Err(damage(BatchError::BaseOffset { base_offset: fields.base_offset }.into()));
    };
    if fields.last_offset_delta < 0 {
        let (records, last_offset_delta) = (fields.record_count, fields.last_offset_delta);
        return Err(damage(BatchError::RecordCount { records, last_offset_delta }.into()));
    }
    if base_offset < offset_min {
        return Err(damage(Damage::BaseOffset { expected: offset_min, got: base_offset }));
    }
    if position + size as u64 > end {
        return Err(damage(Damage::CutOff));
    }
    Ok(StoredBatch {
        base_offset,
        last_offset,
        max_timestamp: Timestamp(fields.max_timestamp),
        leader_epoch: LeaderEpoch(fields.leader_epoch),
        file_position: position,
        size,
    })
}

/// Lives: for one walk over consecutive batches. Pure.
#[derive(Debug)]
pub struct BatchWalk {
    /// File position of the batch that is being walked over.
    position: u64,
    /// File position at which a batch ends.
    end: u64,
    /// The base offset of the next batch is at least this.
    next_offset: Offset,
    header: HeaderBytes,
    header_filled: usize,
    /// The batch whose header was read, with what is left of it and the checksum so far.
    body: Option<(StoredBatch, u64, Crc32c)>,
}

impl BatchWalk {
    /// From the batch at `position` on, up to `end`. No offset lies below `offset_min`.
    pub fn new(position: u64, end: u64, offset_min: Offset) -> BatchWalk {
        BatchWalk {
            position,
            end,
            next_offset: offset_min,
            header: [0; BATCH_HEADER_SIZE],
            header_filled: 0,
            body: None,
        }
    }

    /// Takes the next bytes, and hands every batch that ends in them to `on_batch`.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        on_batch: &mut impl FnMut(&Walked<'_>) -> Result<(), DamageAt>,
    ) -> Result<(), DamageAt> {
        while !bytes.is_empty() {
            bytes = match (&self.body, bytes.first_chunk::<BATCH_HEADER_SIZE>()) {
                (Some(_), _) => self.take_body(bytes, on_batch)?,
                (None, Some(header)) if self.header_filled == 0 => {
                    self.header = *header;
                    self.take_batch(bytes, on_batch)?
                }
                (None, _) => self.take_header(bytes)?,
            };
        }
        Ok(())
    }

    /// Nothing more comes.
    pub fn finish(&self) -> Result<(), DamageAt> {
        let is_whole = self.position == self.end && self.header_filled == 0 && self.body.is_none();
        if is_whole { Ok(()) } else { Err(self.damage(Damage::CutOff)) }
    }

    /// What comes next, or ended the walk, is zeros and no batch.
    pub fn is_at_zeros(&self) -> bool {
        self.body.is_none() && self.header.iter().all(|byte| *byte == 0)
    }

    fn damage(&self, damage: Damage) -> DamageAt {
        DamageAt { file_position: self.position, damage }
    }

    /// A batch whose header is whole in `bytes`; maybe all of it is.
    fn take_batch<'a>(
        &mut self,
        bytes: &'a [u8],
        on_batch: &mut impl FnMut(&Walked<'_>) -> Result<(), DamageAt>,
    ) -> Result<&'a [u8], DamageAt> {
        let stored = self.judge_header()?;
        match bytes.split_at_checked(stored.size as usize) {
            Some((batch, rest)) => {
                self.hand_out(stored, crc32c(&batch[CRC_COVERS_FROM..]), on_batch)?;
                Ok(rest)
            }
            None => {
                self.begin_body(stored);
                Ok(&bytes[BATCH_HEADER_SIZE..])
            }
        }
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], DamageAt> {
        let taken = bytes.len().min(BATCH_HEADER_SIZE - self.header_filled);
        self.header[self.header_filled..self.header_filled + taken].copy_from_slice(&bytes[..taken]);
        self.header_filled += taken;
        if self.header_filled == BATCH_HEADER_SIZE {
            let stored = self.judge_header()?;
            self.begin_body(stored);
        }
        Ok(&bytes[taken..])
    }

    fn begin_body(&mut self, stored: StoredBatch) {
        let mut crc = Crc32c::default();
        crc.update(&self.header[CRC_COVERS_FROM..]);
        self.header_filled = 0;
        self.body = Some((stored, (stored.size as usize - BATCH_HEADER_SIZE) as u64, crc));
    }

    fn take_body<'a>(
        &mut self,
        bytes: &'a [u8],
        on_batch: &mut impl FnMut(&Walked<'_>) -> Result<(), DamageAt>,
    ) -> Result<&'a [u8], DamageAt> {
        let (stored, left, crc) = self.body.as_mut().expect("a batch is being walked over");
        let (taken, rest) = bytes.split_at(bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX)));
        crc.update(taken);
        *left -= taken.len() as u64;
        if *left == 0 {
            let (stored, computed) = (*stored, crc.value());
            self.body = None;
            self.hand_out(stored, computed, on_batch)?;
        }
        Ok(rest)
    }

    fn judge_header(&self) -> Result<StoredBatch, DamageAt> {
        header_at(&self.header, self.position, self.end, self.next_offset)
    }

    fn hand_out(
        &mut self,
        stored: StoredBatch,
        computed: u32,
        on_batch: &mut impl FnMut(&Walked<'_>) -> Result<(), DamageAt>,
    ) -> Result<(), DamageAt> {
        let fields = BatchFields::decode(&self.header);
        let verdict = match computed == fields.crc {
            true => fields.check(),
            false => Err(BatchError::Crc { stored: fields.crc, computed }),
        };
        let next = stored.last_offset.advance(1);
        let next = next.ok_or(self.damage(Damage::OutOfSegment { last_offset: stored.last_offset }))?;
        on_batch(&Walked { header: &self.header, stored, verdict })?;
        self.position = stored.file_position_end();
        self.next_offset = next;
        Ok(())
    }
}
