//! Where the segment of an interrupted swap ends, which says what it replaces: walked header by header,
//! each held against the segment's `.checksums`. A batch's own CRC-32C does not cover its base offset,
//! and a flipped bit there would have segments removed that nothing has taken the place of.

use crate::codec::record_batch::BATCH_HEADER_SIZE;
use crate::log::checksums::check::ChecksumCompare;
use crate::log::checksums::walk::{DamageAt, header_at};
use crate::log::checksums::{DecodedChecksums, SegmentChecksums, SegmentId};
use crate::log::recovery::Damage;
use crate::types::{Offset, PartitionIndex, TopicId, TopicPartition};

/// Lives: while a start looks at one `.log.swap`. Pure.
/// Shape: one header a batch, O(batches); what they hold is not read.
#[derive(Debug)]
pub struct SwappedSegment {
    size: u64,
    /// Where the next header is.
    position: u64,
    /// The offset after the last batch so far.
    end: Offset,
    /// `None`: without a companion every header is believed that can be one.
    compare: Option<ChecksumCompare>,
}

impl SwappedSegment {
    /// Of a file of `size` bytes. `companions`: the files that may be its `.checksums`; which one is, and
    /// whether it is whole, is told by what is in it.
    pub fn new<'a>(
        base: Offset,
        size: u64,
        companions: impl IntoIterator<Item = &'a [u8]>,
    ) -> SwappedSegment {
        let companion = companions.into_iter().find_map(|bytes| {
            let (topic, partition, base_offset) = DecodedChecksums::decode(bytes).ok()?.segment();
            let partition =
                TopicPartition { topic: TopicId(topic), partition: PartitionIndex::from_wire(partition)? };
            let segment = SegmentId { partition, base_offset: Offset::from_wire(base_offset)? };
            (segment.base_offset == base).then_some(segment)?;
            SegmentChecksums::decode(segment, size, bytes).ok()
        });
        let compare = companion.map(|companion| ChecksumCompare::new(companion.segment(), Some(companion)));
        SwappedSegment { size, position: 0, end: base, compare }
    }

    /// File position of the header that is looked at next; `None` behind the last batch.
    pub fn next_header(&self) -> Option<u64> {
        (self.position < self.size).then_some(self.position)
    }

    /// Whether anything but the headers themselves says that they are right.
    pub fn has_companion(&self) -> bool {
        self.compare.is_some()
    }

    /// Takes the header at [`next_header`](Self::next_header).
    pub fn observe(&mut self, header: &[u8; BATCH_HEADER_SIZE]) -> Result<(), DamageAt> {
        let stored = header_at(header, self.position, self.size, self.end)?;
        let last_offset = stored.last_offset;
        let damage = DamageAt { file_position: self.position, damage: Damage::OutOfSegment { last_offset } };
        self.end = last_offset.advance(1).ok_or(damage)?;
        self.position = stored.file_position_end();
        if let Some(compare) = &mut self.compare {
            compare.observe(header, stored.size);
            compare.damage().map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// The offset after the last batch, once all headers were taken. There is one: a compacted segment's
    /// last batch is always kept.
    pub fn finish(self) -> Result<Offset, DamageAt> {
        match self.position == 0 {
            true => Err(DamageAt { file_position: 0, damage: Damage::CutOff }),
            false => Ok(self.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::record_batch::{BatchHeader, Compression, assign_offset, write_batch};
    use crate::types::{LeaderEpoch, Timestamp, Uuid};

    const BASE: u64 = 10;

    /// Whatever bit of whatever header is another one: it is found, or it says nothing of where the
    /// segment ends.
    #[test]
    fn no_flipped_bit_moves_the_end() {
        let (bytes, headers, checksums) = segment();
        let whole = end_of(&bytes, &[&checksums]);
        assert_eq!(whole, Ok(offset(BASE + 6)));
        for at in headers.iter().flat_map(|at| *at..*at + BATCH_HEADER_SIZE) {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(end_of(&damaged, &[&checksums]).is_err(), "byte {at}, bit {bit}");
            }
        }
        for cut in 0..bytes.len() {
            let end = end_of(&bytes[..cut], &[&checksums]);
            let whole = headers.iter().position(|at| *at == cut).filter(|batches| *batches > 0);
            assert_eq!(
                end.ok(),
                whole.map(|batches| offset(BASE + 2 * batches as u64)),
                "nothing behind it goes"
            );
        }
    }

    #[test]
    fn a_companion_that_is_damaged_or_anothers_is_passed_over() {
        let (bytes, headers, checksums) = segment();
        let mut damaged = checksums.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let others = SegmentChecksums::new(SegmentId { base_offset: offset(BASE + 1), ..id() }).encode();
        let mut moved = bytes.clone();
        moved[headers[2] + 6] ^= 1; // 256 offsets further on.
        for companions in [&[&damaged[..], &others] as &[_], &[]] {
            assert_eq!(end_of(&bytes, companions), Ok(offset(BASE + 6)));
            assert_eq!(end_of(&moved, companions), Ok(offset(BASE + 262)), "nothing speaks against it");
        }
        assert!(
            end_of(&moved, &[&damaged, &others, &checksums]).is_err(),
            "the one that is its own is found"
        );
    }

    /// Three batches of two records, where each begins, and their `.checksums`.
    fn segment() -> (Vec<u8>, Vec<usize>, Vec<u8>) {
        let header = BatchHeader {
            compression: Compression::None,
            transactional: false,
            record_count: 2,
            base_timestamp: Timestamp(1),
            max_timestamp: Timestamp(1),
            producer: None,
        };
        let (mut bytes, mut headers) = (Vec::new(), Vec::new());
        let mut checksums = SegmentChecksums::new(id());
        for at in 0..3 {
            let start = bytes.len();
            headers.push(start);
            write_batch(&header, &[7; 20], &mut bytes);
            let batch = &mut bytes[start..];
            assign_offset(batch, offset(BASE + 2 * at), LeaderEpoch(0));
            checksums.observe(batch.first_chunk().unwrap(), batch.len() as u32);
        }
        (bytes, headers, checksums.encode())
    }

    fn end_of(bytes: &[u8], companions: &[&[u8]]) -> Result<Offset, DamageAt> {
        let mut segment = SwappedSegment::new(offset(BASE), bytes.len() as u64, companions.iter().copied());
        while let Some(at) = segment.next_header() {
            let header = bytes[at as usize..].first_chunk();
            segment.observe(header.ok_or(DamageAt { file_position: at, damage: Damage::CutOff })?)?;
        }
        segment.finish()
    }

    fn id() -> SegmentId {
        let topic = TopicId(Uuid::from_bytes([3; 16]));
        let partition = PartitionIndex::from_wire(1).unwrap();
        SegmentId { partition: TopicPartition { topic, partition }, base_offset: offset(BASE) }
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
