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
//! A block is filled once, sealed, then immutable and shared: by the write in flight and by the
//! answers of any number of readers. Only sealed blocks are ever written or read.

use crate::log::plan::{align_down, align_up};
use crate::shard::disk::{BufferOrigin, allocate};
use crate::shard::memory::{Charge, Meter};
use crate::types::Offset;
use crate::types::limits::{TAIL_BUFFER_SIZE_MAX, TAIL_BUFFER_SIZE_MIN};
use glommio::io::DmaBuffer;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

/// A sealed piece of one segment.
#[derive(Debug)]
pub struct TailBlock {
    /// What is written: whole blocks, zeros after `end`.
    pub buffer: Rc<DmaBuffer>,
    /// Base offset of the segment.
    pub segment: Offset,
    /// File position of the buffer's first byte, aligned.
    pub position: u64,
    /// File position after its last byte.
    end: u64,
    _charge: Charge,
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
}

#[derive(Debug)]
struct OpenBlock {
    buffer: DmaBuffer,
    charge: Charge,
    position: u64,
    end: u64,
}

/// Lives: one per replica, on its owner shard.
/// Invariant: sealed blocks and the open one are contiguous within a segment.
#[derive(Debug)]
pub struct Tail {
    segment: Offset,
    /// File position after the last appended byte.
    end: u64,
    sealed: VecDeque<Rc<TailBlock>>,
    /// How many of `sealed`, from the back, were not handed to a write yet.
    unwritten: usize,
    open: Option<OpenBlock>,
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
            sealed: VecDeque::new(),
            unwritten: 0,
            open: None,
            carry,
            block_size: TAIL_BUFFER_SIZE_MIN,
        }
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Copies `bytes` behind the last ones: the one copy on a record's way in.
    ///
    /// Returns how many blocks were sealed, for the shard's eviction order.
    pub fn append(&mut self, mut bytes: &[u8], meter: &Rc<Meter>) -> usize {
        let mut sealed = 0;
        while !bytes.is_empty() {
            if self.open.is_none() {
                self.open_block(bytes.len(), meter);
            }
            let open = self.open.as_mut().expect("just opened");
            let used = (open.end - open.position) as usize;
            let taken = bytes.len().min(open.buffer.len() - used);
            open.buffer.as_bytes_mut()[used..used + taken].copy_from_slice(&bytes[..taken]);
            open.end += taken as u64;
            self.end = open.end;
            bytes = &bytes[taken..];
            if used + taken == open.buffer.len() {
                self.block_size = (self.block_size * 2).min(TAIL_BUFFER_SIZE_MAX);
                self.seal();
                sealed += 1;
            }
        }
        sealed
    }

    fn open_block(&mut self, wanted: usize, meter: &Rc<Meter>) {
        let position = align_down(self.end);
        let carried = (self.end - position) as usize;
        let capacity = (wanted + carried).next_power_of_two().clamp(self.block_size, TAIL_BUFFER_SIZE_MAX);
        let (mut buffer, origin) = allocate(capacity);
        if origin == BufferOrigin::Heap {
            meter.count_heap_buffer();
        }
        let head = &mut buffer.as_bytes_mut()[..carried];
        match self.sealed.back().filter(|block| block.segment == self.segment) {
            Some(block) => {
                let from = (position - block.position) as usize;
                head.copy_from_slice(&block.buffer.as_bytes()[from..from + carried]);
            }
            None => head.copy_from_slice(&self.carry),
        }
        self.open = Some(OpenBlock { buffer, charge: meter.charge(capacity), position, end: self.end });
    }

    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        let mut buffer = open.buffer;
        let used = (open.end - open.position) as usize;
        let aligned = align_up(used as u64) as usize;
        // What an earlier use left in the buffer must not reach the disk: it could look like a batch.
        buffer.as_bytes_mut()[used..aligned].fill(0);
        buffer.trim_to_size(aligned);
        self.sealed.push_back(Rc::new(TailBlock {
            buffer: Rc::new(buffer),
            segment: self.segment,
            position: open.position,
            end: open.end,
            _charge: open.charge,
        }));
        self.unwritten += 1;
    }

    /// Seals what is open and hands out everything not written yet, oldest first. Returns how many
    /// blocks this call sealed.
    pub fn seal_for_write(&mut self, blocks: &mut Vec<Rc<TailBlock>>) -> usize {
        let sealed = usize::from(self.open.is_some());
        if let Some(open) = &self.open {
            let used = (open.end - open.position) as usize;
            if used < open.buffer.len() / 4 {
                self.block_size = (self.block_size / 2).max(TAIL_BUFFER_SIZE_MIN);
            }
        }
        self.seal();
        let from = self.sealed.len() - self.unwritten;
        blocks.extend(self.sealed.range(from..).cloned());
        self.unwritten = 0;
        sealed
    }

    /// Goes on in a new segment.
    pub fn roll(&mut self, segment: Offset) -> usize {
        let sealed = usize::from(self.open.is_some());
        self.seal();
        self.segment = segment;
        self.end = 0;
        self.carry.clear();
        sealed
    }

    /// The bytes of `segment` from file position `range.start` to `range.end`, or `None` when the
    /// first of them is no longer in memory. O(log blocks).
    pub fn slices(&self, segment: Offset, range: Range<u64>) -> Option<Vec<TailSlice>> {
        let first = self.sealed.partition_point(|block| (block.segment, block.end) <= (segment, range.start));
        let block = self.sealed.get(first)?;
        if block.segment != segment || range.start < block.position {
            return None;
        }
        let mut slices = Vec::with_capacity(2);
        let mut at = range.start;
        for block in self.sealed.range(first..) {
            if at >= range.end || block.segment != segment {
                break;
            }
            let end = block.end.min(range.end);
            let from = (at - block.position) as usize;
            slices.push(TailSlice { block: block.clone(), range: from..from + (end - at) as usize });
            at = end;
        }
        (at == range.end).then_some(slices)
    }

    /// Drops the oldest block if everything in it is flushed. Its memory is free once the answers
    /// that share it have left.
    pub fn evict_oldest(&mut self, flushed: (Offset, u64)) -> bool {
        match self.sealed.front() {
            Some(block) if self.sealed.len() > self.unwritten && (block.segment, block.end) <= flushed => {}
            _ => return false,
        }
        let block = self.sealed.pop_front().expect("looked at above");
        if self.sealed.is_empty() && self.open.is_none() && block.segment == self.segment {
            let from = (align_down(self.end) - block.position) as usize;
            let to = (self.end - block.position) as usize;
            self.carry.clear();
            self.carry.extend_from_slice(&block.buffer.as_bytes()[from..to]);
        }
        true
    }

    /// Forgets what lies in segments before `segment`, which were deleted. Returns how many blocks.
    pub fn drop_before(&mut self, segment: Offset) -> usize {
        let count = self.sealed.len();
        while self.sealed.len() > self.unwritten
            && self.sealed.front().is_some_and(|block| block.segment < segment)
        {
            self.sealed.pop_front();
        }
        count - self.sealed.len()
    }
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
                    tail.seal_for_write(&mut blocks);
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
                    tail.evict_oldest((Offset::ZERO, written as u64));
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
