//! Finds the batches of a segment in bytes that come in pieces of any size.
//!
//! ```text
//! file    │ header 61 │ records …… │ header │ records ── │ 000000000 │
//!         feed ──────► feed ─────► feed ─────────► feed ──────►        finish
//! ```
//!
//! Unlike [`RecoveryScan`](crate::log::recovery::RecoveryScan) it hands out batches whose CRC does not
//! hold, since their length may, and it holds no batch in memory: the CRC is computed as the bytes pass.
//! Only a caller that asks for the records has them collected, up to a size that it names. The walk ends
//! where nothing says how long the next batch is.

use crate::codec::record_batch::{BATCH_HEADER_SIZE, BatchError, BatchFields, CRC_COVERS_FROM, Crc32c};

/// Bytes at a batch's boundary that are zero only where the log has ended (the length may not be).
const ZEROS_TOLD_BY: usize = 17;

/// A batch at its place, judged by nobody yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkedBatch {
    pub file_position: u64,
    /// Bytes.
    pub size: u32,
    pub fields: BatchFields,
    pub computed_crc: u32,
}

impl WalkedBatch {
    pub fn crc_holds(&self) -> bool {
        self.fields.crc == self.computed_crc
    }

    pub fn file_position_end(&self) -> u64 {
        self.file_position + u64::from(self.size)
    }
}

/// The records of a batch, where they were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    NotKept,
    /// More bytes than the caller's bound.
    TooLarge,
    /// As stored, maybe compressed.
    Whole(&'a [u8]),
}

/// How a segment's bytes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkEnd {
    /// End of the last batch.
    pub file_position: u64,
    /// Bytes that were fed.
    pub size: u64,
    pub tail: WalkTail,
}

/// What follows the last batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkTail {
    /// Nothing.
    End,
    /// Zeros up to the end of the file: preallocated, not written yet.
    Zeros,
    /// Zeros, and then bytes from this position on.
    BeyondZeros { at: u64 },
    /// A batch's beginning.
    CutOff { needed: u64, available: u64 },
    /// Bytes that cannot be a batch's header.
    NoBatch { error: BatchError },
}

/// Lives: for one pass over one file. Pure.
/// Shape: one CRC per byte; holds a header, and at most `payload_max` bytes of records.
#[derive(Debug)]
pub struct SegmentWalk {
    /// Bytes of records that are kept for the caller; 0: none.
    payload_max: usize,
    state: State,
    /// End of the last batch.
    batches_end: u64,
    /// Bytes fed so far.
    fed: u64,
    header: [u8; BATCH_HEADER_SIZE],
    /// Of the batch that is passing.
    crc: Crc32c,
    payload: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Header { filled: usize },
    Records { fields: BatchFields, size: u32, left: u64 },
    Zeros,
    Ended(WalkTail),
}

impl SegmentWalk {
    /// A walk that hands out no records.
    pub fn new() -> SegmentWalk {
        SegmentWalk::with_payload(0)
    }

    /// A walk that hands out the records of batches that have at most `payload_max` bytes of them.
    pub fn with_payload(payload_max: usize) -> SegmentWalk {
        SegmentWalk {
            payload_max,
            state: State::Header { filled: 0 },
            batches_end: 0,
            fed: 0,
            header: [0; BATCH_HEADER_SIZE],
            crc: Crc32c::default(),
            payload: Vec::new(),
        }
    }

    /// Takes the next bytes of the file; `on_batch` gets every batch whose last byte is among them.
    pub fn feed(&mut self, mut bytes: &[u8], on_batch: &mut impl FnMut(&WalkedBatch, Payload<'_>)) {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Header { filled } => {
                    let taken = bytes.len().min(BATCH_HEADER_SIZE - *filled);
                    self.header[*filled..*filled + taken].copy_from_slice(&bytes[..taken]);
                    *filled += taken;
                    if *filled == BATCH_HEADER_SIZE {
                        self.begin_batch();
                    }
                    taken
                }
                State::Records { left, size, .. } => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    self.crc.update(&bytes[..taken]);
                    if *size as usize - BATCH_HEADER_SIZE <= self.payload_max {
                        self.payload.extend_from_slice(&bytes[..taken]);
                    }
                    *left -= taken as u64;
                    taken
                }
                State::Zeros => match bytes.iter().position(|byte| *byte != 0) {
                    Some(at) => {
                        let at = self.fed + at as u64;
                        self.state = State::Ended(WalkTail::BeyondZeros { at });
                        bytes.len()
                    }
                    None => bytes.len(),
                },
                State::Ended(_) => bytes.len(),
            };
            self.fed += taken as u64;
            bytes = &bytes[taken..];
            self.end_batch(on_batch);
        }
    }

    /// The file has ended.
    pub fn finish(self) -> WalkEnd {
        let tail = match self.state {
            State::Header { filled: 0 } => WalkTail::End,
            State::Header { filled } if self.header[..filled].iter().all(|byte| *byte == 0) => {
                WalkTail::Zeros
            }
            State::Header { filled } => {
                WalkTail::CutOff { needed: BATCH_HEADER_SIZE as u64, available: filled as u64 }
            }
            State::Records { size, left, .. } => {
                WalkTail::CutOff { needed: u64::from(size), available: u64::from(size) - left }
            }
            State::Zeros => WalkTail::Zeros,
            State::Ended(tail) => tail,
        };
        WalkEnd { file_position: self.batches_end, size: self.fed, tail }
    }

    /// The header is there; its last bytes are not counted as fed yet.
    fn begin_batch(&mut self) {
        if self.header[..ZEROS_TOLD_BY].iter().all(|byte| *byte == 0) {
            self.state = match self.header.iter().position(|byte| *byte != 0) {
                Some(at) => State::Ended(WalkTail::BeyondZeros { at: self.batches_end + at as u64 }),
                None => State::Zeros,
            };
            return;
        }
        let fields = BatchFields::decode(&self.header);
        self.state = match fields.size() {
            Err(error) => State::Ended(WalkTail::NoBatch { error }),
            Ok(size) => {
                self.crc = Crc32c::default();
                self.crc.update(&self.header[CRC_COVERS_FROM..]);
                self.payload.clear();
                State::Records { fields, size, left: u64::from(size) - BATCH_HEADER_SIZE as u64 }
            }
        };
    }

    /// Hands the batch out once its last byte was taken.
    fn end_batch(&mut self, on_batch: &mut impl FnMut(&WalkedBatch, Payload<'_>)) {
        let State::Records { fields, size, left: 0 } = &self.state else {
            return;
        };
        let batch = WalkedBatch {
            file_position: self.batches_end,
            size: *size,
            fields: *fields,
            computed_crc: self.crc.value(),
        };
        let payload = match *size as usize - BATCH_HEADER_SIZE {
            _ if self.payload_max == 0 => Payload::NotKept,
            bytes if bytes > self.payload_max => Payload::TooLarge,
            _ => Payload::Whole(&self.payload),
        };
        on_batch(&batch, payload);
        self.batches_end = batch.file_position_end();
        self.state = State::Header { filled: 0 };
    }
}

impl Default for SegmentWalk {
    fn default() -> SegmentWalk {
        SegmentWalk::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::inspect::segment_check::tests::{batch_at, segment_of};
    use proptest::prelude::*;

    #[test]
    fn a_flipped_bit_is_shown_and_the_batches_behind_it_too() {
        let mut bytes = segment_of(&[(0, 3), (3, 1), (4, 2)]);
        let second = batch_at(0, 3).len();
        bytes[second + BATCH_HEADER_SIZE + 1] ^= 4;
        let (batches, end) = walk(&bytes, &[]);
        let held: Vec<_> = batches.iter().map(WalkedBatch::crc_holds).collect();
        assert_eq!(held, [true, false, true]);
        assert_eq!(batches[1].file_position, second as u64);
        assert_eq!(end.tail, WalkTail::End);
    }

    #[test]
    fn every_end_is_told_apart() {
        let whole = segment_of(&[(0, 3)]);
        let size = whole.len() as u64;
        let tail = |extra: &[u8]| walk(&[&whole, extra].concat(), &[]).1;
        assert_eq!(tail(&[]), WalkEnd { file_position: size, size, tail: WalkTail::End });
        assert_eq!(tail(&[0; 5]).tail, WalkTail::Zeros);
        assert_eq!(
            tail(&[0; 9000]),
            WalkEnd { file_position: size, size: size + 9000, tail: WalkTail::Zeros }
        );
        let mut beyond = [0; 9000];
        beyond[30] = 1;
        assert_eq!(tail(&beyond).tail, WalkTail::BeyondZeros { at: size + 30 });
        (beyond[30], beyond[8000]) = (0, 1);
        assert_eq!(tail(&beyond).tail, WalkTail::BeyondZeros { at: size + 8000 });
        let next = batch_at(3, 1);
        let cut = next.len() as u64 - 1;
        assert_eq!(tail(&next[..next.len() - 1]).tail, WalkTail::CutOff { needed: cut + 1, available: cut });
        assert_eq!(tail(&next[..20]).tail, WalkTail::CutOff { needed: 61, available: 20 });
        assert_eq!(
            tail(&[0xa5; 700]).tail,
            WalkTail::NoBatch { error: BatchError::Magic { magic: 0xa5u8 as i8 } }
        );
    }

    #[test]
    fn a_length_that_lies_costs_no_memory() {
        let mut bytes = batch_at(0, 1);
        bytes[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        let mut walk = SegmentWalk::with_payload(100);
        walk.feed(&bytes, &mut |_, _| panic!("nothing is whole"));
        walk.feed(&vec![7; 1 << 20], &mut |_, _| panic!("nothing is whole"));
        assert_eq!(walk.payload.capacity(), 0);
        assert!(matches!(walk.finish().tail, WalkTail::CutOff { .. }));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in proptest::collection::vec(1usize..200, 1..40), tail in 0usize..200) {
            let mut bytes = segment_of(&[(0, 3), (3, 1), (4, 20), (24, 2)]);
            bytes.resize(bytes.len() + tail, 0);
            prop_assert_eq!(walk(&bytes, &cuts), walk(&bytes, &[]));
        }

        #[test]
        fn any_bytes_are_walked(bytes in proptest::collection::vec(any::<u8>(), 0..300), keep in 0usize..200) {
            let mut stored = segment_of(&[(0, 3), (3, 1)]);
            stored.truncate(keep);
            stored.extend(bytes);
            let (_, end) = walk(&stored, &[]);
            prop_assert_eq!(end.size, stored.len() as u64);
            prop_assert!(end.file_position <= end.size);
        }
    }

    /// Walks `bytes` in pieces of the sizes in `cuts`, over and over.
    fn walk(bytes: &[u8], cuts: &[usize]) -> (Vec<WalkedBatch>, WalkEnd) {
        let mut walk = SegmentWalk::with_payload(1000);
        let mut batches = Vec::new();
        let mut rest = bytes;
        let mut cuts = cuts.iter().copied().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
            walk.feed(piece, &mut |batch, payload| {
                let (from, to) = (batch.file_position as usize, batch.file_position_end() as usize);
                assert_eq!(payload, Payload::Whole(&bytes[from + BATCH_HEADER_SIZE..to]));
                batches.push(*batch);
            });
            rest = after;
        }
        (batches, walk.finish())
    }
}
