//! Finding batches in stored bytes: where a read starts, where it is cut, which offset a timestamp
//! means. Works on a rope, the pieces in which the bytes lie in memory, and copies nothing.

use crate::codec::record_batch::{BATCH_HEADER_SIZE, BATCH_OVERHEAD};
use crate::types::{Offset, Timestamp};
use std::ops::Range;

/// What ListOffsets asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListOffsetsTarget {
    /// -1: the high watermark.
    Latest,
    /// -2: the log start.
    Earliest,
    /// -3: the record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// -5: up to where the log is in tiered storage (KIP-1005), of which there is none.
    LatestTiered,
    /// The first record whose timestamp is at or past this one (KIP-79).
    AtOrAfter(Timestamp),
}

/// The header fields that walking needs. Headers may lie across two pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlace {
    /// Bytes from the rope's start.
    pub at: usize,
    /// Bytes of the whole batch, which may end beyond the rope.
    pub size: usize,
    pub base_offset: Offset,
    /// Exclusive.
    pub end_offset: Offset,
    pub max_timestamp: Timestamp,
}

/// Where a read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes from the rope's start, exclusive.
    pub end: usize,
    /// How many batches stay.
    pub batches: usize,
    /// Of the last of them; exclusive.
    pub end_offset: Offset,
}

/// Bytes in pieces, in order. Cost of walking: one header a batch, the pieces are walked along.
pub struct Rope<'a> {
    pieces: &'a [&'a [u8]],
    size: usize,
}

impl<'a> Rope<'a> {
    pub fn new(pieces: &'a [&'a [u8]]) -> Rope<'a> {
        Rope { pieces, size: pieces.iter().map(|piece| piece.len()).sum() }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// The batches from byte `at` on, while their headers are whole.
    pub fn batches(&self, at: usize) -> Batches<'_> {
        let mut piece = 0;
        let mut piece_at = 0;
        while piece < self.pieces.len() && piece_at + self.pieces[piece].len() <= at {
            piece_at += self.pieces[piece].len();
            piece += 1;
        }
        Batches { rope: self, at, piece, piece_at }
    }

    /// The batch that holds `offset`, or the next one if a gap does.
    pub fn find_offset(&self, offset: Offset) -> Option<BatchPlace> {
        self.batches(0).find(|batch| batch.end_offset > offset)
    }

    /// Whether a batch begins here that does not lie behind `offset`: what an index entry promises. One
    /// that is wrong may point into the middle of a batch, or past the one that is looked for.
    pub fn leads_to(&self, offset: Offset) -> bool {
        self.batches(0).next().is_some_and(|first| first.base_offset <= offset)
    }

    /// Where to cut so that at most `size_max` bytes from `start` stay, in whole batches that begin before the
    /// offset `below`, but at least the first. `None` when the rope ends before the first batch does. One walk tells all of it: over
    /// megabytes of tiny batches each takes most of a millisecond.
    pub fn cut(&self, start: usize, size_max: usize, below: Offset) -> Option<Cut> {
        let mut cut: Option<Cut> = None;
        for batch in self.batches(start) {
            let end = batch.at + batch.size;
            let is_enough = end - start > size_max || batch.base_offset >= below;
            if end > self.size || (cut.is_some() && is_enough) {
                break;
            }
            let batches = cut.map_or(0, |cut| cut.batches) + 1;
            cut = Some(Cut { end, batches, end_offset: batch.end_offset });
        }
        cut
    }

    /// The bytes of `range`, which lies inside.
    pub fn copied(&self, range: Range<usize>) -> Vec<u8> {
        let mut out = vec![0; range.len()];
        let (mut piece, mut from) = (0, range.start);
        while piece < self.pieces.len() && from >= self.pieces[piece].len() {
            from -= self.pieces[piece].len();
            piece += 1;
        }
        self.copy(piece, from, &mut out);
        out
    }

    fn copy(&self, mut piece: usize, mut from: usize, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let bytes = &self.pieces[piece][from..];
            let taken = bytes.len().min(out.len() - done);
            out[done..done + taken].copy_from_slice(&bytes[..taken]);
            done += taken;
            piece += 1;
            from = 0;
        }
    }
}

pub struct Batches<'a> {
    rope: &'a Rope<'a>,
    at: usize,
    piece: usize,
    piece_at: usize,
}

impl Iterator for Batches<'_> {
    type Item = BatchPlace;

    fn next(&mut self) -> Option<BatchPlace> {
        if self.at + BATCH_HEADER_SIZE > self.rope.size {
            return None;
        }
        while self.piece_at + self.rope.pieces[self.piece].len() <= self.at {
            self.piece_at += self.rope.pieces[self.piece].len();
            self.piece += 1;
        }
        let from = self.at - self.piece_at;
        let piece = self.rope.pieces[self.piece];
        let mut copied = [0; BATCH_HEADER_SIZE];
        let header = match piece.get(from..from + BATCH_HEADER_SIZE) {
            Some(header) => header.try_into().expect("a header's bytes"),
            None => {
                self.rope.copy(self.piece, from, &mut copied);
                &copied
            }
        };
        let place = parse_place(header, self.at)?;
        self.at += place.size;
        Some(place)
    }
}

/// `None` for what cannot be a stored batch: zeros after the tail, damage.
fn parse_place(header: &[u8; BATCH_HEADER_SIZE], at: usize) -> Option<BatchPlace> {
    let i64_at = |at: usize| i64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let i32_at = |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let size = usize::try_from(i32_at(8)).ok()? + BATCH_OVERHEAD;
    let last_offset_delta = u32::try_from(i32_at(23)).ok()?;
    if size < BATCH_HEADER_SIZE || header[16] != 2 {
        return None;
    }
    let base_offset = Offset::from_wire(i64_at(0))?;
    let end_offset = base_offset.advance(last_offset_delta)?.advance(1)?;
    Some(BatchPlace { at, size, base_offset, end_offset, max_timestamp: Timestamp(i64_at(35)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::record_batch::{BatchHeader, Compression, assign_offset, write_batch};
    use crate::types::LeaderEpoch;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes are cut into pieces, the same batches are found.
        #[test]
        fn pieces_do_not_matter(
            sizes in proptest::collection::vec((1u32..5, 0usize..200), 1..20),
            cuts in proptest::collection::vec(1usize..150, 1..60),
            wanted in 0u64..60,
            size_max in 0usize..800,
        ) {
            let (bytes, starts) = stored(&sizes);
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            let rope = Rope::new(&pieces);
            let found: Vec<(usize, u64, u64)> = rope.batches(0)
                .map(|batch| (batch.at, batch.base_offset.get(), batch.end_offset.get())).collect();
            prop_assert_eq!(&found, &starts);

            let expected = starts.iter().find(|(_, _, end)| *end > wanted);
            let from = wanted as usize % bytes.len();
            let to = (from + size_max).min(bytes.len());
            prop_assert_eq!(rope.copied(from..to), &bytes[from..to]);

            let place = rope.find_offset(Offset::new(wanted).unwrap());
            prop_assert_eq!(place.map(|batch| batch.at), expected.map(|(at, _, _)| *at));
            if let Some(place) = place {
                let Cut { end, batches, end_offset } = rope.cut(place.at, size_max, Offset::MAX).unwrap();
                let kept = || starts.iter().filter(|(at, _, _)| (place.at..end).contains(at));
                prop_assert_eq!(kept().count(), batches);
                prop_assert_eq!(kept().next_back().map(|(_, _, end)| *end), Some(end_offset.get()));
                let ends: Vec<usize> = starts.iter().map(|(at, _, _)| *at).skip(1).chain([bytes.len()]).collect();
                prop_assert!(ends.contains(&end));
                prop_assert!(end - place.at <= size_max.max(place.size));
                let next = ends.iter().find(|other| **other > end);
                prop_assert!(next.is_none_or(|next| next - place.at > size_max));
                // The same, up to a batch's boundary.
                for (_, _, below) in &starts {
                    let below = Offset::new(*below).unwrap();
                    let cut = rope.cut(place.at, size_max, below).unwrap();
                    prop_assert_eq!(cut.end_offset, end_offset.min(below).max(place.end_offset));
                }
            }
        }

        #[test]
        fn any_bytes_are_walked_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            let pieces = [left, right];
            let rope = Rope::new(&pieces);
            let _ = rope.find_offset(Offset::new(5).unwrap());
            let _ = rope.cut(0, 100, Offset::MAX);
        }
    }

    fn stored(sizes: &[(u32, usize)]) -> (Vec<u8>, Vec<(usize, u64, u64)>) {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        let mut next = 0;
        for (records, payload) in sizes {
            let at = bytes.len();
            let header = BatchHeader {
                compression: Compression::None,
                transactional: false,
                record_count: *records,
                base_timestamp: Timestamp(0),
                max_timestamp: Timestamp(0),
                producer: None,
            };
            write_batch(&header, &vec![7; *payload], &mut bytes);
            assign_offset(&mut bytes[at..], Offset::new(next).unwrap(), LeaderEpoch(0));
            starts.push((at, next, next + *records as u64));
            next += *records as u64;
        }
        (bytes, starts)
    }
}
