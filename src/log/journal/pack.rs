//! Which ranges of bytes go into which block.
//!
//! In order and as full as they get: a range that does not fit is continued in the next block.

use crate::log::journal::block::{BLOCK_ENTRIES_MAX, BLOCK_SIZE_MAX, ENTRY_SIZE, HEADER_SIZE, block_size};
use std::ops::Range;

/// The fewest bytes worth an entry of their own at the end of a block.
const FRAGMENT_SIZE_MIN: usize = 4096;

/// One entry of a block: a part of the range `item`, `part` counted from the range's first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub item: usize,
    pub part: Range<usize>,
    /// The range is whole with this part.
    pub last: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBlock {
    pub parts: Vec<Part>,
    body_size: usize,
}

impl PackedBlock {
    /// Bytes on disk.
    pub fn size(&self) -> usize {
        block_size(self.parts.len(), self.body_size)
    }

    /// Bytes that one more entry may have; `None` when there is no place for the entry itself.
    fn room(&self, block_size_max: usize) -> Option<usize> {
        if self.parts.len() == BLOCK_ENTRIES_MAX {
            return None;
        }
        let used = HEADER_SIZE + (self.parts.len() + 1) * ENTRY_SIZE + self.body_size;
        block_size_max.checked_sub(used)
    }
}

/// Packs items of these sizes, an item of size 0 being an entry without bytes. O(items + blocks).
pub fn pack(sizes: impl Iterator<Item = usize>) -> Vec<PackedBlock> {
    pack_into(sizes, BLOCK_SIZE_MAX)
}

/// The same into smaller blocks.
pub fn pack_into(sizes: impl Iterator<Item = usize>, block_size_max: usize) -> Vec<PackedBlock> {
    assert!(block_size_max > HEADER_SIZE + ENTRY_SIZE + FRAGMENT_SIZE_MIN);
    assert!(block_size_max <= BLOCK_SIZE_MAX);
    let mut blocks = Vec::with_capacity(1);
    let mut block = PackedBlock::default();
    for (item, size) in sizes.enumerate() {
        let mut at = 0;
        loop {
            let room = block.room(block_size_max);
            let Some(room) = room.filter(|room| size - at <= *room || *room >= FRAGMENT_SIZE_MIN) else {
                blocks.push(std::mem::take(&mut block));
                continue;
            };
            let taken = (size - at).min(room);
            block.parts.push(Part { item, part: at..at + taken, last: at + taken == size });
            block.body_size += taken;
            at += taken;
            if at == size {
                break;
            }
        }
    }
    if !block.parts.is_empty() {
        blocks.push(block);
    }
    blocks
}

/// The most bytes on disk that items of `size` bytes in all can take, however they are packed.
pub fn packed_size_max(items: usize, size: usize) -> usize {
    // Every block but the last is filled up to a fragment; each may end in a partial disk block.
    let content = size + items * ENTRY_SIZE;
    let blocks = content / (BLOCK_SIZE_MAX - HEADER_SIZE - ENTRY_SIZE - FRAGMENT_SIZE_MIN) + 1;
    content + blocks * (HEADER_SIZE + ENTRY_SIZE + 2 * FRAGMENT_SIZE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_ranges_share_a_block() {
        let blocks = pack([4000, 0, 4000].into_iter());
        assert_eq!(blocks.len(), 1);
        assert_eq!((blocks[0].parts.len(), blocks[0].size()), (3, 12288));
    }

    #[test]
    fn large_range_goes_on_in_the_next_block() {
        let blocks = pack([1500 << 10].into_iter());
        let parts: Vec<&Part> = blocks.iter().flat_map(|block| &block.parts).collect();
        assert_eq!((parts.len(), parts[0].last, parts[1].last), (2, false, true));
        assert_eq!(parts[0].part.end, parts[1].part.start);
        assert_eq!(blocks[0].size(), BLOCK_SIZE_MAX);
    }

    #[test]
    fn an_entry_without_bytes_needs_a_place_too() {
        let room = PackedBlock::default().room(BLOCK_SIZE_MAX).unwrap();
        for left in [0, ENTRY_SIZE - 1, ENTRY_SIZE] {
            let blocks = pack([room - left, 0].into_iter());
            assert_eq!(blocks.len(), if left < ENTRY_SIZE { 2 } else { 1 }, "{left}");
            assert!(blocks.iter().all(|block| block.size() <= BLOCK_SIZE_MAX));
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_packed_once_and_in_order(sizes in proptest::collection::vec(
            prop_oneof![Just(0usize), 1usize..300, 1usize..3_000_000], 0..60)
        ) {
            let blocks = pack(sizes.iter().copied());
            let mut next = (0, 0);
            for part in blocks.iter().flat_map(|block| &block.parts) {
                prop_assert_eq!((part.item, part.part.start), next);
                prop_assert_eq!(part.last, part.part.end == sizes[part.item]);
                prop_assert!(!part.part.is_empty() || sizes[part.item] == 0);
                next = if part.last { (part.item + 1, 0) } else { (part.item, part.part.end) };
            }
            prop_assert_eq!(next, (sizes.len(), 0));
            prop_assert!(blocks.iter().all(|block| block.size() <= BLOCK_SIZE_MAX));
            let size: usize = blocks.iter().map(PackedBlock::size).sum();
            prop_assert!(size <= packed_size_max(sizes.len(), sizes.iter().sum()));
        }
    }
}
