//! Receive buffers between two uses.
//!
//! What the allocator is given back it returns to the kernel, above some hundred kilobytes at once or when it
//! feels like it, and every page of the next buffer is a fault and a page of zeros: of requests of 1 MB that
//! was half of the core's time. So some buffers stay here.
//!
//! ```text
//! usual   [ 256 KiB ] [ 256 KiB ] ..           at most RECEIVE_BUFFERS_KEPT
//! large   [ 512 KiB ] [ 1 MiB ] [ 700 kB ] ..  at most large_max bytes; the oldest goes first
//! ```
//!
//! Who takes one is charged for the size that it asked for, and may hold an eighth more.

use crate::types::limits::{RECEIVE_BUFFER_SIZE, RECEIVE_BUFFERS_KEPT};
use std::collections::VecDeque;

/// Sizes of large ones are multiples of so many bytes, so that requests of about one size find each other's.
const STEP: usize = RECEIVE_BUFFER_SIZE / 8;

/// Lives: one per shard.
pub struct SpareBuffers {
    usual: Vec<Vec<u8>>,
    large: VecDeque<Vec<u8>>,
    /// Bytes of the large ones, as is the next.
    large_size: usize,
    large_max: usize,
}

impl SpareBuffers {
    pub fn new(large_max: usize) -> SpareBuffers {
        SpareBuffers { usual: Vec::new(), large: VecDeque::new(), large_size: 0, large_max }
    }

    /// A buffer of `size` bytes, whatever they are.
    pub fn take(&mut self, size: usize) -> Vec<u8> {
        let spare = match size {
            RECEIVE_BUFFER_SIZE => self.usual.pop(),
            _ => self.take_large(size),
        };
        spare.unwrap_or_else(|| {
            let mut buffer =
                vec![0; if size > RECEIVE_BUFFER_SIZE { size.next_multiple_of(STEP) } else { size }];
            buffer.truncate(size);
            buffer
        })
    }

    /// The smallest that is large enough.
    fn take_large(&mut self, size: usize) -> Option<Vec<u8>> {
        let fits = |buffer: &Vec<u8>| (size..=size.saturating_add(size / 8)).contains(&buffer.capacity());
        let fitting = self.large.iter().enumerate().filter(|(_, buffer)| fits(buffer));
        let (at, _) = fitting.min_by_key(|(_, buffer)| buffer.capacity())?;
        let mut buffer = self.large.remove(at)?;
        self.large_size -= buffer.capacity();
        buffer.resize(size, 0);
        Some(buffer)
    }

    pub fn keep(&mut self, buffer: Vec<u8>) {
        let size = buffer.capacity();
        if buffer.len() == RECEIVE_BUFFER_SIZE && size < 2 * RECEIVE_BUFFER_SIZE {
            if self.usual.len() < RECEIVE_BUFFERS_KEPT {
                self.usual.push(buffer);
            }
            return;
        }
        if size < RECEIVE_BUFFER_SIZE || size > self.large_max {
            return;
        }
        while self.large_size + size > self.large_max {
            let oldest = self.large.pop_front().expect("they have the bytes");
            self.large_size -= oldest.capacity();
        }
        self.large_size += size;
        self.large.push_back(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn a_buffer_comes_back_to_whoever_asks_for_about_its_size() {
        let mut spares = SpareBuffers::new(4096 * KIB);
        for size in [256 * KIB, 512 * KIB, 1000 * KIB] {
            let buffer = spares.take(size);
            assert_eq!(buffer.len(), size);
            let at = buffer.as_ptr();
            spares.keep(buffer);
            let again = spares.take(size);
            assert_eq!((again.as_ptr(), again.len()), (at, size));
            spares.keep(again);
        }
        // Another one of about that size gets the same; one of half of it does not.
        let about = spares.take(990 * KIB);
        assert_eq!((about.len(), about.capacity()), (990 * KIB, 1024 * KIB));
        let half = spares.take(400 * KIB);
        assert_eq!((half.len(), half.capacity()), (400 * KIB, 416 * KIB));
        assert_eq!(spares.large_size, 512 * KIB);
    }

    /// What is charged is the size that was asked for.
    #[test]
    fn nobody_holds_more_than_an_eighth_beyond_its_size() {
        let mut spares = SpareBuffers::new(64 << 20);
        (1..40).for_each(|count| spares.keep(vec![0; count * 100 * KIB]));
        for size in (RECEIVE_BUFFER_SIZE + 1..4000 * KIB).step_by(7919) {
            let buffer = spares.take(size);
            assert!(buffer.len() == size && buffer.capacity() <= size + size / 8, "{size}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let mut spares = SpareBuffers::new(2048 * KIB);
        (0..20).for_each(|_| spares.keep(vec![0; RECEIVE_BUFFER_SIZE]));
        assert_eq!(spares.usual.len(), RECEIVE_BUFFERS_KEPT);
        for size in [500 * KIB, 600 * KIB, 700 * KIB, 800 * KIB] {
            spares.keep(vec![0; size]);
            assert!(spares.large_size <= 2048 * KIB);
        }
        let kept: Vec<usize> = spares.large.iter().map(Vec::len).collect();
        assert_eq!(kept, [700 * KIB, 800 * KIB]);
        spares.keep(vec![0; 3000 * KIB]);
        assert_eq!(spares.large.len(), 2, "one that leaves no room for others is not kept");
        assert_eq!(spares.take(100 * KIB).capacity(), 100 * KIB);
    }
}
