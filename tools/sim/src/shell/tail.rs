//! A partition's newest bytes in memory: what was appended and is not flushed in its segment, and
//! maybe more.

use odradek::log::partition::Place;
use odradek::log::plan::{align_down, align_up};
use odradek::types::Offset;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of one segment from an aligned position on.
#[derive(Debug, Default)]
struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// One write: whole disk blocks.
#[derive(Debug)]
pub struct TailWrite {
    pub segment: Offset,
    pub position: u64,
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
pub struct Tail {
    pieces: BTreeMap<Offset, Piece>,
    /// What lies before it was handed to a write of its segment.
    unwritten: Place,
}

impl Tail {
    /// `carry`: the bytes from the last boundary up to `end`.
    pub fn new(end: Place, carry: Vec<u8>) -> Tail {
        let start = align_down(end.file_position);
        assert!(carry.len() as u64 == end.file_position - start, "carry does not reach to the boundary");
        let pieces = BTreeMap::from([(end.segment, Piece { start, bytes: carry })]);
        Tail { pieces, unwritten: end }
    }

    /// The bytes between the last boundary and the end.
    pub fn last_partial_block(&self) -> Vec<u8> {
        let (_, piece) = self.pieces.last_key_value().expect("there is always an active segment");
        piece.bytes[(align_down(piece.end()) - piece.start) as usize..].to_vec()
    }

    pub fn append(&mut self, bytes: &[u8]) {
        let (_, piece) = self.pieces.iter_mut().next_back().expect("there is always an active segment");
        piece.bytes.extend_from_slice(bytes);
    }

    pub fn roll(&mut self, segment: Offset) {
        self.pieces.insert(segment, Piece::default());
    }

    /// The first byte of the segment that is in memory.
    pub fn begin(&self, segment: Offset) -> Option<u64> {
        self.pieces.get(&segment).map(|piece| piece.start)
    }

    pub fn slice(&self, segment: Offset, range: Range<u64>) -> Option<&[u8]> {
        let piece = self.pieces.get(&segment)?;
        if range.start < piece.start || range.end > piece.end() {
            return None;
        }
        Some(&piece.bytes[(range.start - piece.start) as usize..(range.end - piece.start) as usize])
    }

    /// Hands out everything not written yet, oldest first, in pieces of at most `size_max` bytes.
    pub fn seal_for_write(&mut self, size_max: u64) -> Vec<TailWrite> {
        let mut writes = Vec::new();
        for (segment, piece) in self.pieces.range(self.unwritten.segment..) {
            let from = if *segment == self.unwritten.segment { self.unwritten.file_position } else { 0 };
            if from == piece.end() {
                continue;
            }
            let mut at = align_down(from);
            while at < piece.end() {
                let end = piece.end().min(at + size_max);
                let mut bytes =
                    piece.bytes[(at - piece.start) as usize..(end - piece.start) as usize].to_vec();
                bytes.resize((align_up(end) - at) as usize, 0);
                writes.push(TailWrite { segment: *segment, position: at, bytes });
                at = end;
            }
        }
        let (segment, piece) = self.pieces.last_key_value().expect("there is always an active segment");
        self.unwritten = Place { segment: *segment, file_position: piece.end() };
        writes
    }

    /// The active segment was closed while everything was written.
    pub fn rolled_while_written(&mut self, segment: Offset) {
        self.unwritten = Place { segment, file_position: 0 };
    }

    /// Drops what is flushed in its segment, but for the last block.
    pub fn evict(&mut self, stored: Place) {
        let keep = stored.min(self.unwritten);
        self.pieces.retain(|segment, _| *segment >= keep.segment);
        if let Some(piece) = self.pieces.get_mut(&keep.segment) {
            let start = align_down(keep.file_position).clamp(piece.start, piece.end());
            piece.bytes.drain(..(start - piece.start) as usize);
            piece.start = start;
        }
    }

    /// Forgets what lies in deleted segments.
    pub fn drop_before(&mut self, segment: Offset) {
        let unwritten = self.unwritten.segment;
        self.pieces.retain(|base, _| *base >= segment || *base >= unwritten);
    }
}
