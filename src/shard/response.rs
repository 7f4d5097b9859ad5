//! An answer as pieces: encoded bytes, and slices of stored buffers.
//!
//! A slice keeps the whole buffer that it lies in. One that is a small part of a tail buffer is copied instead
//! ([`TAIL_PIECE_SIZE_MIN`](crate::types::limits::TAIL_PIECE_SIZE_MIN)); of larger ones what they keep is known
//! ([`Response::pinned_tail`]), and answers that nobody takes go when the tail is short.

use crate::shard::memory::{Charge, Meter};
use crate::shard::tail::{TailBlock, TailSlice};
use crate::types::Mono;
use crate::types::limits::{RESPONSE_SHARE, RESPONSE_SIZE_FLOOR, RESPONSE_TAKE_TIME_MAX};
use bytes::Bytes;
use glommio::io::ReadResult;
use std::cell::Cell;
use std::io::IoSlice;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Memory for answers: those that are there, and what fetches in progress may come to. Both keep a fetch
/// small; only the first is held up by clients that do not take it.
///
/// Lives: one per shard.
pub struct ResponseMemory {
    answers: Rc<Meter>,
    fetching: Rc<Meter>,
}

impl ResponseMemory {
    pub fn new(limit: usize) -> Rc<ResponseMemory> {
        Rc::new(ResponseMemory { answers: Meter::new(limit), fetching: Meter::new(limit) })
    }

    pub fn used(&self) -> usize {
        self.answers.used() + self.fetching.used()
    }

    /// By how much the answers are more than there may be.
    pub fn excess(&self) -> usize {
        self.answers.used().saturating_sub(self.answers.limit())
    }

    /// What an answer may hold now: its share of the budget, or what is left of it. Past the budget (slow
    /// readers hold the rest) answers become small, so that everybody goes on.
    pub fn room(&self) -> usize {
        let limit = self.answers.limit();
        limit.saturating_sub(self.used()).min(limit / RESPONSE_SHARE).max(RESPONSE_SIZE_FLOOR)
    }

    /// Counts an answer that is there or is being made.
    pub fn charge(&self, size: usize) -> Charge {
        self.answers.charge(size)
    }

    /// Counts what a fetch may find.
    pub fn reserve(&self, size: usize) -> Charge {
        self.fetching.charge(size)
    }
}

/// Since when some memory is short, as far as was looked.
#[derive(Debug, Default)]
pub struct Shortage(Cell<Option<Mono>>);

impl Shortage {
    /// Takes note of an excess; it counts once every look has found one for long enough.
    pub fn lasting(&self, excess: usize, now: Mono) -> usize {
        let since = (excess > 0).then(|| self.0.get().unwrap_or(now));
        self.0.set(since);
        let lasts = since.is_some_and(|since| now.since(since) >= RESPONSE_TAKE_TIME_MAX);
        if lasts { excess } else { 0 }
    }
}

/// Answers of one connection that its client does not take.
#[derive(Clone, Copy, Debug)]
pub struct Untaken {
    pub held: usize,
    pub waited: Duration,
}

/// Whose answers have to go, the most first, until an `excess` of the shard's memory for them is covered.
/// Those of the others are nearly taken, or small. Returns their places.
pub fn untaken_too_long(untaken: &[Untaken], excess: usize) -> Vec<usize> {
    let is_long = |at: &usize| {
        let Untaken { held, waited } = untaken[*at];
        held > RESPONSE_SIZE_FLOOR && waited >= RESPONSE_TAKE_TIME_MAX
    };
    let mut places: Vec<usize> = (0..untaken.len()).filter(is_long).collect();
    places.sort_by_key(|at| std::cmp::Reverse(untaken[*at].held));
    let mut freed = 0;
    places.retain(|at| {
        let is_needed = freed < excess;
        freed += if is_needed { untaken[*at].held } else { 0 };
        is_needed
    });
    places
}

/// Record bytes from wherever they are.
#[derive(Clone)]
pub enum Slice {
    /// The buffer that was written to disk.
    Tail(TailSlice),
    /// A direct read.
    Disk(Rc<ReadResult>, Range<usize>),
    /// Copied over from another shard.
    Shared(Bytes),
}

impl Slice {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Slice::Tail(slice) => slice.bytes(),
            Slice::Disk(block, range) => &block[range.clone()],
            Slice::Shared(bytes) => bytes,
        }
    }

    pub fn is_disk(&self) -> bool {
        matches!(self, Slice::Disk(..))
    }

    pub fn len(&self) -> usize {
        match self {
            Slice::Tail(slice) => slice.range.len(),
            Slice::Disk(_, range) => range.len(),
            Slice::Shared(bytes) => bytes.len(),
        }
    }
}

impl Slice {
    /// A part of it, from the same memory.
    pub fn narrow(self, part: Range<usize>) -> Slice {
        match self {
            Slice::Tail(TailSlice { block, range }) => {
                Slice::Tail(TailSlice { block, range: range.start + part.start..range.start + part.end })
            }
            Slice::Disk(block, range) => Slice::Disk(block, range.start + part.start..range.start + part.end),
            Slice::Shared(bytes) => Slice::Shared(bytes.slice(part)),
        }
    }

    /// In memory of its own if it would keep much more than its bytes.
    fn unpinned(self) -> Slice {
        match self {
            Slice::Tail(slice) if slice.is_small_part() => {
                Slice::Shared(Bytes::copy_from_slice(slice.bytes()))
            }
            slice => slice,
        }
    }
}

enum Piece {
    /// A range of `head`.
    Head(Range<usize>),
    Slice(Slice),
}

/// A whole frame, length prefix included, ready for the socket.
pub struct Response {
    head: Vec<u8>,
    pieces: Vec<Piece>,
    size: usize,
    pinned_tail: usize,
    /// What it pins of the shard's memory, until it has left.
    charge: Option<Charge>,
    is_from_disk: bool,
}

impl Response {
    pub fn new(head: Vec<u8>) -> Response {
        Response::spliced(head, Vec::new())
    }

    /// `splices`: positions in `head`, ascending, with the slices that go there.
    pub fn spliced(head: Vec<u8>, splices: Vec<(usize, Vec<Slice>)>) -> Response {
        let mut pieces = Vec::with_capacity(splices.len() * 3 + 1);
        let mut size = head.len();
        let mut pinned_tail = 0;
        let mut last: Option<Rc<TailBlock>> = None;
        let mut from = 0;
        for (at, slices) in splices {
            pieces.push(Piece::Head(from..at));
            from = at;
            for slice in slices {
                size += slice.len();
                let slice = slice.unpinned();
                if let Slice::Tail(TailSlice { block, .. }) = &slice {
                    let is_same = last.replace(block.clone()).is_some_and(|last| Rc::ptr_eq(&last, block));
                    pinned_tail += if is_same { 0 } else { block.buffer.len() };
                }
                pieces.push(Piece::Slice(slice));
            }
        }
        if from < head.len() {
            pieces.push(Piece::Head(from..head.len()));
        }
        Response { head, pieces, size, pinned_tail, charge: None, is_from_disk: false }
    }

    /// Counts what it pins until it is dropped, once: its bytes, and of what was read from disk the
    /// buffers that they lie in.
    pub fn charge_to(mut self, memory: &ResponseMemory) -> Response {
        if self.charge.is_none() {
            self.charge = Some(memory.charge(self.pinned_size()));
        }
        self
    }

    fn pinned_size(&self) -> usize {
        let mut last: Option<&Rc<ReadResult>> = None;
        let of_piece = |piece| match piece {
            &Piece::Slice(Slice::Disk(ref block, _)) => {
                let is_same = last.replace(block).is_some_and(|last| Rc::ptr_eq(last, block));
                if is_same { 0 } else { block.len() }
            }
            Piece::Slice(slice) => slice.len(),
            Piece::Head(range) => range.len(),
        };
        self.pieces.iter().map(of_piece).sum()
    }

    /// Bytes of tail buffers that it keeps; one that several answers keep counts in each.
    pub fn pinned_tail(&self) -> usize {
        self.pinned_tail
    }

    /// Says whether it has bytes that were read from disk, here or on another shard.
    pub fn mark_from_disk(self, is_from_disk: bool) -> Response {
        Response { is_from_disk, ..self }
    }

    pub fn is_from_disk(&self) -> bool {
        self.is_from_disk
    }

    /// What was encoded, without slices of record bytes. Its size does not change.
    pub fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head
    }

    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn piece_count(&self) -> usize {
        self.pieces.len()
    }

    /// The bytes of piece `index`.
    pub fn piece(&self, index: usize) -> &[u8] {
        match &self.pieces[index] {
            Piece::Head(range) => &self.head[range.clone()],
            Piece::Slice(slice) => slice.bytes(),
        }
    }
}

/// Where a vectored write of several answers stands.
#[derive(Default)]
pub struct WriteCursor {
    response: usize,
    piece: usize,
    byte: usize,
}

impl WriteCursor {
    /// Up to `max` slices of what is left, and up to `size_max` bytes.
    pub fn slices<'a>(
        &self,
        responses: &'a [Response],
        max: usize,
        size_max: usize,
        out: &mut Vec<IoSlice<'a>>,
    ) {
        let mut piece = self.piece;
        let mut skip = self.byte;
        let mut room = size_max;
        for response in &responses[self.response..] {
            while piece < response.piece_count() {
                if out.len() == max || room == 0 {
                    return;
                }
                let bytes = &response.piece(piece)[skip..];
                let bytes = &bytes[..bytes.len().min(room)];
                if !bytes.is_empty() {
                    out.push(IoSlice::new(bytes));
                }
                room -= bytes.len();
                skip = 0;
                piece += 1;
            }
            piece = 0;
        }
    }

    /// Moves on by the bytes that the socket took.
    pub fn advance(&mut self, responses: &[Response], mut bytes: usize) {
        while self.response < responses.len() {
            let response = &responses[self.response];
            while self.piece < response.piece_count() {
                let left = response.piece(self.piece).len() - self.byte;
                if bytes < left {
                    self.byte += bytes;
                    return;
                }
                bytes -= left;
                self.byte = 0;
                self.piece += 1;
            }
            self.piece = 0;
            self.response += 1;
        }
        assert!(bytes == 0, "the socket took more than it was given");
    }

    pub fn is_done(&self, responses: &[Response]) -> bool {
        self.response == responses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tail::Tail;
    use crate::types::Offset;
    use crate::types::limits::{TAIL_BUFFER_SIZE_MAX, TAIL_PIECE_SIZE_MIN};
    use proptest::prelude::*;

    #[test]
    fn what_fetches_may_find_makes_answers_small_and_is_no_excess() {
        let limit = 16 * RESPONSE_SIZE_FLOOR;
        let memory = ResponseMemory::new(limit);
        let reserved = memory.reserve(2 * limit);
        assert_eq!((memory.room(), memory.excess(), memory.used()), (RESPONSE_SIZE_FLOOR, 0, 2 * limit));
        drop(reserved);
        assert_eq!(memory.room(), limit / RESPONSE_SHARE, "the others get as much");
        let most = memory.charge(limit - limit / RESPONSE_SHARE + 1);
        assert_eq!(memory.room(), limit / RESPONSE_SHARE - 1);
        drop(most);
        let answer = memory.charge(limit + 1);
        assert_eq!((memory.room(), memory.excess()), (RESPONSE_SIZE_FLOOR, 1));
        drop(answer);
        assert_eq!((memory.excess(), memory.used()), (0, 0));
    }

    #[test]
    fn a_shortage_counts_once_every_look_has_found_it_for_long_enough() {
        let shortage = Shortage::default();
        let look = |excess, second| shortage.lasting(excess, Mono(0).after(Duration::from_secs(second)));
        assert_eq!([look(3, 50), look(4, 55), look(5, 60), look(6, 65)], [0, 0, 5, 6]);
        assert_eq!([look(0, 70), look(7, 75)], [0, 0]);
    }

    #[test]
    fn the_most_that_is_not_taken_goes_first_and_no_more_than_has_to() {
        const FLOOR: usize = RESPONSE_SIZE_FLOOR;
        let long = RESPONSE_TAKE_TIME_MAX;
        let short = long - Duration::from_millis(1);
        let untaken = [(3 * FLOOR, long), (FLOOR, long), (9 * FLOOR, short), (5 * FLOOR, long)];
        let untaken = untaken.map(|(held, waited)| Untaken { held, waited });
        assert_eq!(untaken_too_long(&untaken, 1), [3]);
        assert_eq!(untaken_too_long(&untaken, 5 * FLOOR), [3]);
        assert_eq!(untaken_too_long(&untaken, 5 * FLOOR + 1), [3, 0]);
        assert_eq!(untaken_too_long(&untaken, 100 * FLOOR), [3, 0], "small ones and quick ones stay");
        assert!(untaken_too_long(&untaken, 0).is_empty());
    }

    #[test]
    fn a_small_part_of_a_tail_buffer_is_copied_and_a_large_one_keeps_it() {
        let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is available");
        executor.run(async {
            const BLOCK: usize = TAIL_BUFFER_SIZE_MAX;
            let bytes: Vec<u8> = (0..BLOCK).map(|at| (at % 251) as u8).collect();
            // Of one block: its size, the slice's, and whether it is copied.
            let cases = [
                (BLOCK, 1, true),
                (BLOCK, TAIL_PIECE_SIZE_MIN - 1, true),
                (BLOCK, TAIL_PIECE_SIZE_MIN, false),
                (BLOCK, BLOCK, false),
                (16 << 10, (2 << 10) - 1, true),
                (16 << 10, 2 << 10, false),
            ];
            for (block, size, is_copied) in cases {
                let meter = Meter::new(usize::MAX);
                let mut tail = Tail::new(Offset::ZERO, 0, Vec::new());
                tail.append(&bytes[..block], &meter);
                let slices = tail.slices(Offset::ZERO, 0..size as u64).expect("it is in memory");
                let slices = slices.into_iter().map(Slice::Tail).collect();
                let response = Response::spliced(vec![0; 10], vec![(5, slices)]);
                drop(tail);
                let pinned = if is_copied { 0 } else { block };
                assert_eq!((meter.used(), response.pinned_tail()), (pinned, pinned), "{size} of {block}");
                assert_eq!((response.piece(1), response.size()), (&bytes[..size], 10 + size));
                drop(response);
                assert_eq!(meter.used(), 0);
            }
        });
    }

    proptest! {
        #[test]
        fn any_partial_writes_send_every_byte_once(
            takes in proptest::collection::vec(0usize..40, 1..200),
            sizes in proptest::collection::vec((1usize..30, 0usize..30), 1..10),
            max in 1usize..6,
            size_max in 1usize..50,
        ) {
            let mut expected = Vec::new();
            let mut next = 0u8;
            let responses: Vec<Response> = sizes.iter().map(|(head, slice)| {
                let mut take = |n: usize| (0..n).map(|_| { next = next.wrapping_add(1); next }).collect::<Vec<u8>>();
                let head_bytes = take(*head);
                let slice_bytes = take(*slice);
                let at = head / 2;
                expected.extend_from_slice(&head_bytes[..at]);
                expected.extend_from_slice(&slice_bytes);
                expected.extend_from_slice(&head_bytes[at..]);
                Response::spliced(head_bytes, vec![(at, vec![Slice::Shared(slice_bytes.into())])])
            }).collect();
            let mut cursor = WriteCursor::default();
            let mut sent = Vec::new();
            for take in takes.iter().cycle().take(10_000) {
                if cursor.is_done(&responses) {
                    break;
                }
                let mut slices = Vec::new();
                cursor.slices(&responses, max, size_max, &mut slices);
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                prop_assert!(bytes.len() <= size_max);
                let taken = (*take).max(1).min(bytes.len());
                sent.extend_from_slice(&bytes[..taken]);
                cursor.advance(&responses, taken);
            }
            prop_assert_eq!(sent, expected);
        }
    }
}
