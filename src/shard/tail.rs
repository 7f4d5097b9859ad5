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
use glommio::io::DmaBuffer;
use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

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

    /// Copies bytes behind those that are there.
    fn fill(&self, bytes: &[u8]) {
        let used = self.used();
        assert!(bytes.len() <= self.buffer.len() - used, "a tail block was filled past its end");
        let target = self.buffer.as_ptr().cast_mut();
        // SAFETY: the range lies inside the buffer's own allocation, which `as_ptr` points to. It lies
        // behind `end`: nobody has a reference to these bytes, since readers take ranges that end at
        // `end` at most, and nothing of an open block is being written to the disk.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.add(used), bytes.len()) };
        self.end.set(self.end.get() + bytes.len() as u64);
    }

    fn filled(&self, from: u64, to: u64) -> &[u8] {
        assert!(to <= self.end.get());
        &self.buffer.as_bytes()[(from - self.position) as usize..(to - self.position) as usize]
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
    /// The last block takes more bytes.
    open: bool,
    /// The bytes of the tail block before `end`, when no block in memory holds them.
    carry: Vec<u8>,
    block_size: usize,
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
            open: false,
            carry,
            block_size: TAIL_BUFFER_SIZE_MIN,
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
            if !self.open {
                self.open_block(bytes.len(), meter);
            }
            let block = self.blocks.back().expect("a block is open");
            let taken = bytes.len().min(block.buffer.len() - block.used());
            block.fill(&bytes[..taken]);
            self.end = block.end.get();
            bytes = &bytes[taken..];
            if block.used() == block.buffer.len() {
                self.block_size = (self.block_size * 2).min(TAIL_BUFFER_SIZE_MAX);
                self.open = false;
            }
        }
    }

    fn open_block(&mut self, wanted: usize, meter: &Rc<Meter>) {
        let position = align_down(self.end);
        let carried = (self.end - position) as usize;
        let wanted = align_up((carried + wanted) as u64) as usize;
        let capacity = wanted.clamp(self.block_size, TAIL_BUFFER_SIZE_MAX);
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
        match self.blocks.back().filter(|last| last.segment == self.segment && carried > 0) {
            Some(last) => block.fill(last.filled(position, self.end)),
            None => block.fill(&self.carry[..carried]),
        }
        self.blocks.push_back(Rc::new(block));
        self.unwritten += 1;
        self.open = true;
    }

    /// Makes the open block fit for a write: whole disk blocks and zeros behind its bytes. Readers that
    /// hold it keep the one that they have.
    fn seal(&mut self, meter: &Rc<Meter>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let block = self.blocks.pop_back().expect("a block is open");
        let used = block.used();
        let size = align_up(used as u64) as usize;
        let mut block = Rc::try_unwrap(block).unwrap_or_else(|shared| copy_of(&shared, size, meter));
        let buffer = Rc::get_mut(&mut block.buffer).expect("only its block has it");
        // What an earlier use left in the buffer must not reach the disk: it could look like a batch.
        buffer.as_bytes_mut()[used..size].fill(0);
        buffer.trim_to_size(size);
        self.blocks.push_back(Rc::new(block));
    }

    /// Seals what is open and hands out everything not written yet, oldest first.
    pub fn seal_for_write(&mut self, blocks: &mut Vec<Rc<TailBlock>>, meter: &Rc<Meter>) {
        if self.open && self.blocks.back().is_some_and(|block| block.used() < block.buffer.len() / 4) {
            self.block_size = (self.block_size / 2).max(TAIL_BUFFER_SIZE_MIN);
        }
        self.seal(meter);
        let from = self.blocks.len() - self.unwritten;
        blocks.extend(self.blocks.range(from..).cloned());
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
    copy.fill(block.filled(block.position, block.end.get()));
    copy
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
