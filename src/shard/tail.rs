//! A partition's newest bytes in memory: the buffers that are written to disk, and that readers at
//! the tail are answered from.
//!
//! ```text
//! file      0         4096      8192      12288     16384
//!           |---------|---------|---------|---------|
//! block 1   [#########|#########|####zzzzz]              sealed by a write at 9000 bytes, zeros after
//! block 2             .         [####=====|====== ...    starts at the tail block's head with a copy
//!                               ^start                   of its bytes, goes on where block 1 ended
//! ```
//!
//! A block is filled once, from its start on, and what is filled never changes: it is shared with the
//! answers of any number of readers while the rest is still being filled. A write to the segment seals
//! it first; the journal takes what it needs from open blocks as well.

use crate::log::plan::{align_down, align_up};
use crate::shard::disk::{BufferOrigin, allocate};
use crate::shard::memory::{Charge, Meter};
use crate::types::Offset;
use crate::types::limits::{
    TAIL_BUFFER_SIZE_MAX, TAIL_BUFFER_SIZE_MIN, TAIL_PIECE_SHARE_MIN, TAIL_PIECE_SIZE_MIN,
};
use crate::types::prefetch::prefetch_lines;
use glommio::io::DmaBuffer;
use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

/// Of a batch: the processor fetches the rest by itself once it is read one after the other.
const PREFETCHED_LINES: usize = 4;

/// A piece of one segment.
#[derive(Debug)]
pub struct TailBlock {
    /// What is written: whole disk blocks, zeros after `end` once it is sealed.
    pub buffer: Rc<DmaBuffer>,
    /// Base offset of the segment.
    pub segment: Offset,
    /// File position of the buffer's first byte, aligned.
    pub position: u64,
    /// File position after its last byte; grows while the block is open.
    end: Cell<u64>,
    _charge: Charge,
}

impl TailBlock {
    fn used(&self) -> usize {
        (self.end.get() - self.position) as usize
    }

    fn filled(&self, from: u64, to: u64) -> &[u8] {
        assert!(to <= self.end.get());
        &self.buffer.as_bytes()[(from - self.position) as usize..(to - self.position) as usize]
    }
}

/// The last block while it takes more bytes, and where they go: with many partitions, each look at the block
/// itself is one at memory that no cache has.
///
/// Invariant: `at` points behind the block's last byte, which is that before `end` of the file; what lies between
/// `position` and there is filled, and `room` bytes of the buffer follow.
#[derive(Debug)]
struct OpenBlock {
    block: Rc<TailBlock>,
    position: u64,
    end: u64,
    at: NonNull<u8>,
    room: usize,
}

impl OpenBlock {
    /// Of a block that nobody else has and nothing is in.
    fn new(block: Rc<TailBlock>) -> OpenBlock {
        let at = NonNull::new(block.buffer.as_ptr().cast_mut()).expect("a buffer has an address");
        assert!(block.used() == 0, "what is filled is not open");
        OpenBlock { position: block.position, end: block.position, at, room: block.buffer.len(), block }
    }

    /// Copies bytes behind those that are there.
    fn fill(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room, "a tail block was filled past its end");
        // SAFETY: the range lies inside the block's buffer, which the block keeps. It lies behind the block's
        // `end`: nobody has a reference to these bytes, since readers take ranges that end at `end` at most,
        // and nothing of an open block is being written to the disk.
        self.at = unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.as_ptr(), bytes.len());
            self.at.add(bytes.len())
        };
        self.room -= bytes.len();
        self.end += bytes.len() as u64;
        self.block.end.set(self.end);
    }

    /// What is in it of these bytes of the file, if all is.
    fn filled(&self, range: &Range<u64>) -> Option<&[u8]> {
        if range.start < self.position || range.end > self.end || range.is_empty() {
            return None;
        }
        let (back, size) = ((self.end - range.start) as usize, (range.end - range.start) as usize);
        // SAFETY: both ends lie between `position` and `end`, which is filled, ends at `at`, and never changes.
        Some(unsafe { std::slice::from_raw_parts(self.at.as_ptr().sub(back), size) })
    }
}

/// A range of a block's buffer.
#[derive(Clone, Debug)]
pub struct TailSlice {
    pub block: Rc<TailBlock>,
    pub range: Range<usize>,
}

impl TailSlice {
    pub fn bytes(&self) -> &[u8] {
        &self.block.buffer.as_bytes()[self.range.clone()]
    }

    /// It keeps far more memory than it is worth.
    pub fn is_small_part(&self) -> bool {
        let size = self.range.len();
        size < TAIL_PIECE_SIZE_MIN && size < self.block.buffer.len() / TAIL_PIECE_SHARE_MIN
    }
}

/// Lives: one per replica, on its owner shard.
/// Invariant: blocks are contiguous within a segment.
#[derive(Debug)]
pub struct Tail {
    segment: Offset,
    /// File position after the last appended byte.
    end: u64,
    blocks: VecDeque<Rc<TailBlock>>,
    /// How many of them, from the back, were not handed to a write yet.
    unwritten: usize,
    /// How many of them, from the front, are flushed in their segment: they may go.
    evictable: usize,
    /// The last block, if it takes more bytes.
    open: Option<OpenBlock>,
    /// The bytes of the tail block before `end`, when no block in memory holds them.
    carry: Vec<u8>,
    /// Bytes of the last write: the next may be as long.
    write_size: usize,
}

impl Tail {
    /// A tail that goes on at `end` of `segment`; `carry` are the bytes from the last boundary.
    pub fn new(segment: Offset, end: u64, carry: Vec<u8>) -> Tail {
        assert!(carry.len() as u64 == end - align_down(end), "carry does not reach to the boundary");
        Tail {
            segment,
            end,
            blocks: VecDeque::new(),
            unwritten: 0,
            evictable: 0,
            open: None,
            carry,
            write_size: TAIL_BUFFER_SIZE_MIN,
        }
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// The bytes between the last block boundary and the end.
    pub fn last_partial_block(&self) -> Vec<u8> {
        let from = align_down(self.end);
        match self.blocks.back().filter(|last| last.segment == self.segment) {
            Some(last) if from < self.end => last.filled(from, self.end).to_vec(),
            _ => self.carry[..(self.end - from) as usize].to_vec(),
        }
    }

    /// Copies `bytes` behind the last ones: the one copy on a record's way in.
    ///
    /// O(bytes).
    pub fn append(&mut self, mut bytes: &[u8], meter: &Rc<Meter>) {
        while !bytes.is_empty() {
            if self.open.is_none() {
                self.open = Some(self.open_block(bytes.len(), meter));
            }
            let open = self.open.as_mut().expect("a block is open");
            let taken = bytes.len().min(open.room);
            open.fill(&bytes[..taken]);
            self.end += taken as u64;
            bytes = &bytes[taken..];
            if open.room == 0 {
                self.open = None;
            }
        }
    }

    fn open_block(&mut self, wanted: usize, meter: &Rc<Meter>) -> OpenBlock {
        let position = align_down(self.end);
        let carried = (self.end - position) as usize;
        let wanted = align_up((carried + wanted) as u64) as usize;
        // What the last write had and this one has not yet; or as much again as there is.
        let held = self.unwritten_size();
        let more = if held < self.write_size { self.write_size - held } else { held };
        let capacity =
            wanted.max(well_filled(more, self.write_size)).clamp(TAIL_BUFFER_SIZE_MIN, TAIL_BUFFER_SIZE_MAX);
        let (buffer, origin) = allocate(capacity);
        if origin == BufferOrigin::Heap {
            meter.count_heap_buffer();
        }
        let block = TailBlock {
            buffer: Rc::new(buffer),
            segment: self.segment,
            position,
            end: Cell::new(position),
            _charge: meter.charge(capacity),
        };
        let block = Rc::new(block);
        let mut open = OpenBlock::new(block.clone());
        match self.blocks.back().filter(|last| last.segment == self.segment && carried > 0) {
            Some(last) => open.fill(last.filled(position, self.end)),
            None => open.fill(&self.carry[..carried]),
        }
        self.blocks.push_back(block);
        self.unwritten += 1;
        open
    }

    /// Makes the open block fit for a write: whole disk blocks and zeros behind its bytes. Readers that
    /// hold it keep the one that they have.
    fn seal(&mut self, meter: &Rc<Meter>) {
        if self.open.take().is_none() {
            return;
        }
        let block = self.blocks.pop_back().expect("a block is open");
        let used = block.used();
        let size = align_up(used as u64) as usize;
        let mut block = match Rc::try_unwrap(block) {
            // It stays in memory for a while, with all of its buffer.
            Ok(block) if size.next_power_of_two() < block.buffer.len() / 2 => copy_of(&block, size, meter),
            Ok(block) => block,
            Err(shared) => copy_of(&shared, size, meter),
        };
        let buffer = Rc::get_mut(&mut block.buffer).expect("only its block has it");
        // What an earlier use left in the buffer must not reach the disk: it could look like a batch.
        buffer.as_bytes_mut()[used..size].fill(0);
        buffer.trim_to_size(size);
        self.blocks.push_back(Rc::new(block));
    }

    /// Bytes of the blocks that no write has.
    fn unwritten_size(&self) -> usize {
        self.blocks.range(self.blocks.len() - self.unwritten..).map(|block| block.used()).sum()
    }

    /// Seals what is open and hands out everything not written yet, oldest first.
    pub fn seal_for_write(&mut self, blocks: &mut Vec<Rc<TailBlock>>, meter: &Rc<Meter>) {
        self.seal(meter);
        self.write_size = self.unwritten_size();
        blocks.extend(self.blocks.range(self.blocks.len() - self.unwritten..).cloned());
        self.unwritten = 0;
    }

    /// Goes on in a new segment.
    pub fn roll(&mut self, segment: Offset, meter: &Rc<Meter>) {
        self.seal(meter);
        self.segment = segment;
        self.end = 0;
        self.carry.clear();
    }

    /// The bytes of `segment` from file position `range.start` to `range.end`, or `None` when the
    /// first of them is no longer in memory. O(log blocks); O(1) for what was appended last.
    pub fn slices(&self, segment: Offset, range: Range<u64>) -> Option<Vec<TailSlice>> {
        let is_before = |block: &Rc<TailBlock>| (block.segment, block.end.get()) <= (segment, range.start);
        let is_in_last = |last: &Rc<TailBlock>| last.segment == segment && last.position <= range.start;
        let first = match self.blocks.back() {
            Some(last) if is_in_last(last) && !is_before(last) => self.blocks.len() - 1,
            _ => self.blocks.partition_point(is_before),
        };
        let block = self.blocks.get(first)?;
        if block.segment != segment || range.start < block.position {
            return None;
        }
        let mut slices = Vec::with_capacity(2);
        let mut at = range.start;
        for block in self.blocks.range(first..) {
            if at >= range.end || block.segment != segment {
                break;
            }
            let end = block.end.get().min(range.end);
            let from = (at - block.position) as usize;
            slices.push(TailSlice { block: block.clone(), range: from..from + (end - at) as usize });
            at = end;
        }
        (at == range.end).then_some(slices)
    }

    /// The same bytes where all of them are in the block that takes more, as those of a tick mostly are.
    pub fn open_bytes(&self, segment: Offset, range: &Range<u64>) -> Option<&[u8]> {
        self.open.as_ref().filter(|_| segment == self.segment)?.filled(range)
    }

    /// The last `size` bytes are read soon.
    pub fn prefetch_last(&self, size: usize) {
        if let Some(open) = &self.open {
            prefetch_lines(open.at.as_ptr().wrapping_sub(size), PREFETCHED_LINES);
        }
    }

    /// Bytes are appended soon.
    pub fn prefetch_append(&self) {
        if let Some(open) = &self.open {
            prefetch_lines(open.at.as_ptr(), PREFETCHED_LINES);
        }
    }

    /// File position of the first byte of `segment` that is in memory; those behind it are as well.
    pub fn begin(&self, segment: Offset) -> Option<u64> {
        let first = self.blocks.partition_point(|block| block.segment < segment);
        self.blocks.get(first).filter(|block| block.segment == segment).map(|block| block.position)
    }

    /// Everything before `stored`, a segment and a position in it, is flushed there. Returns how many more
    /// blocks may go because of that: each is told once. Amortised O(1).
    pub fn stored(&mut self, stored: (Offset, u64)) -> usize {
        let written = self.blocks.range(self.evictable..self.blocks.len() - self.unwritten);
        let more = written.take_while(|block| (block.segment, block.end.get()) <= stored).count();
        self.evictable += more;
        more
    }

    /// Drops the oldest block if everything in it is flushed in its segment. Its memory is free once the answers
    /// that share it have left.
    pub fn evict_oldest(&mut self) -> bool {
        if self.evictable == 0 {
            return false;
        }
        self.evictable -= 1;
        let block = self.blocks.pop_front().expect("an evictable block is there");
        if self.blocks.is_empty() && block.segment == self.segment {
            let from = (align_down(self.end) - block.position) as usize;
            let to = (self.end - block.position) as usize;
            self.carry.clear();
            self.carry.extend_from_slice(&block.buffer.as_bytes()[from..to]);
        }
        true
    }

    /// Forgets what lies in segments before `segment`, which were deleted. Returns how many blocks of those
    /// that might have been evicted.
    pub fn drop_before(&mut self, segment: Offset) -> usize {
        let evictable = self.evictable;
        while self.blocks.len() > self.unwritten
            && self.blocks.front().is_some_and(|block| block.segment < segment)
        {
            self.blocks.pop_front();
            self.evictable = self.evictable.saturating_sub(1);
        }
        evictable - self.evictable
    }
}

/// Bytes of a buffer for so many of a write: the next power of two, or, where more than a quarter of what the write
/// has would stay empty, the one before, and the rest goes into another buffer.
fn well_filled(size: usize, of_write: usize) -> usize {
    let above = size.next_power_of_two();
    if above - size <= of_write.max(size) / 4 { above } else { above / 2 }
}

/// The same bytes in a buffer of their own.
fn copy_of(block: &TailBlock, size: usize, meter: &Rc<Meter>) -> TailBlock {
    let (buffer, origin) = allocate(size);
    if origin == BufferOrigin::Heap {
        meter.count_heap_buffer();
    }
    let copy = TailBlock {
        buffer: Rc::new(buffer),
        segment: block.segment,
        position: block.position,
        end: Cell::new(block.position),
        _charge: meter.charge(size),
    };
    let copy = Rc::new(copy);
    OpenBlock::new(copy.clone()).fill(block.filled(block.position, block.end.get()));
    Rc::into_inner(copy).expect("nobody else has it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        Write,
        Evict,
    }

    /// Appends, writes and evictions in any order: what was written to a file of blocks, and what
    /// readers are given, is what was appended.
    #[test]
    fn blocks_are_the_appended_bytes() {
        let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is available");
        executor.run(async {
            let steps = prop_oneof![
                (1usize..9000).prop_map(Step::Append),
                Just(Step::Append(70_000)),
                Just(Step::Write),
                Just(Step::Evict),
            ];
            let mut runner = proptest::test_runner::TestRunner::default();
            runner.run(&proptest::collection::vec(steps, 1..80), |steps| check(&steps)).unwrap();
        });
    }

    /// The shard keeps an entry for each that is told: none is told twice, and none that has to stay.
    #[test]
    fn a_block_is_told_evictable_once() {
        let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is available");
        executor.run(async {
            let meter = Meter::new(usize::MAX);
            let mut tail = Tail::new(Offset::ZERO, 0, Vec::new());
            let write = |tail: &mut Tail| tail.seal_for_write(&mut Vec::new(), &meter);
            tail.append(&[1; 40_000], &meter);
            assert_eq!(tail.stored((Offset::ZERO, 0)), 0, "nothing is written");
            write(&mut tail);
            tail.append(&[2; 100], &meter);
            assert_eq!(tail.stored((Offset::ZERO, 39_999)), 0, "the last byte is not stored");
            assert_eq!(tail.stored((Offset::ZERO, 40_000)), 1);
            assert_eq!(tail.stored((Offset::ZERO, 40_000)), 0, "it was told");
            assert!(tail.evict_oldest());
            assert!(!tail.evict_oldest(), "the open block stays");
            write(&mut tail);
            let next = Offset::new(7).expect("small");
            tail.roll(next, &meter);
            tail.append(&[3; 100], &meter);
            write(&mut tail);
            assert_eq!(tail.stored((next, 100)), 2);
            assert_eq!(tail.drop_before(next), 1, "retention takes one of those that were told");
            assert!(tail.evict_oldest());
            assert!(!tail.evict_oldest());
            assert_eq!(meter.used(), 0);
        });
    }

    /// Whose writes are all as long gets few blocks for each, which are well filled.
    #[test]
    fn blocks_are_as_long_as_the_writes_are() {
        let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is available");
        executor.run(async {
            let meter = Meter::new(usize::MAX);
            let mut tail = Tail::new(Offset::ZERO, 0, Vec::new());
            let writes = [
                (60_000, 3),
                (60_000, 1),
                (60_000, 1),
                (80_000, 2),
                (80_000, 2),
                (3_000, 1),
                (3_000, 1),
                (3_000, 1),
            ];
            for (size, count) in writes {
                let mut blocks = Vec::new();
                (0..size / 1_000).for_each(|_| tail.append(&[7; 1_000], &meter));
                tail.seal_for_write(&mut blocks, &meter);
                assert_eq!(blocks.len(), count, "{size}");
                assert!(meter.used() < 2 * size + TAIL_BUFFER_SIZE_MIN, "{size}: {}", meter.used());
                tail.stored((Offset::ZERO, tail.end()));
                while tail.evict_oldest() {}
                drop(blocks);
                assert_eq!(meter.used(), 0);
            }
        });
    }

    #[test]
    fn the_last_bytes_are_found_without_their_block_until_it_is_sealed() {
        let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is available");
        executor.run(async {
            let meter = Meter::new(usize::MAX);
            let mut tail = Tail::new(Offset::ZERO, 0, Vec::new());
            tail.append(&[1; 5_000], &meter);
            tail.append(&[2; 700], &meter);
            assert_eq!(tail.open_bytes(Offset::ZERO, &(5_000..5_700)), Some(&[2; 700][..]));
            assert_eq!(tail.open_bytes(Offset::ZERO, &(4_999..5_001)), Some(&[1, 2][..]));
            assert_eq!(tail.open_bytes(Offset::ZERO, &(5_000..5_701)), None, "it is not there");
            assert_eq!(tail.open_bytes(Offset::ZERO, &(0..0)), None);
            assert_eq!(tail.open_bytes(Offset::new(1).unwrap(), &(5_000..5_700)), None, "another segment");
            tail.seal_for_write(&mut Vec::new(), &meter);
            assert_eq!(tail.open_bytes(Offset::ZERO, &(5_000..5_700)), None, "it is sealed");
            tail.append(&[3; 10], &meter);
            assert_eq!(tail.open_bytes(Offset::ZERO, &(5_699..5_702)), Some(&[2, 3, 3][..]), "with a copy");
            assert_eq!(tail.open_bytes(Offset::ZERO, &(4_000..5_702)), None, "another block");
        });
    }

    fn check(steps: &[Step]) -> Result<(), TestCaseError> {
        let meter = Meter::new(usize::MAX);
        let mut tail = Tail::new(Offset::ZERO, 0, Vec::new());
        let mut model: Vec<u8> = Vec::new();
        let mut file: Vec<u8> = Vec::new();
        let mut written = 0;
        for step in steps {
            match step {
                Step::Append(size) => {
                    let bytes: Vec<u8> = (0..*size).map(|i| ((model.len() + i) % 251) as u8).collect();
                    tail.append(&bytes, &meter);
                    model.extend(bytes);
                }
                Step::Write => {
                    let mut blocks = Vec::new();
                    tail.seal_for_write(&mut blocks, &meter);
                    for block in blocks {
                        let bytes = block.buffer.as_bytes();
                        prop_assert!(bytes.len().is_multiple_of(4096));
                        let end = block.position as usize + bytes.len();
                        file.resize(file.len().max(end), 0);
                        file[block.position as usize..end].copy_from_slice(bytes);
                    }
                    written = model.len();
                }
                Step::Evict => {
                    tail.stored((Offset::ZERO, written as u64));
                    tail.evict_oldest();
                }
            }
            prop_assert_eq!(tail.end(), model.len() as u64);
            for start in [written, model.len().saturating_sub(700)] {
                if let Some(bytes) = tail.open_bytes(Offset::ZERO, &(start as u64..model.len() as u64)) {
                    prop_assert_eq!(bytes, &model[start..]);
                }
            }
            prop_assert_eq!(&file[..written], &model[..written]);
            prop_assert!(file[written..].iter().all(|byte| *byte == 0));
            for start in [0, written / 2, written.saturating_sub(5000)] {
                if let Some(slices) = tail.slices(Offset::ZERO, start as u64..written as u64) {
                    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
                    prop_assert_eq!(&bytes[..], &model[start..written]);
                }
            }
        }
        drop(tail);
        prop_assert_eq!(meter.used(), 0);
        Ok(())
    }
}
