//! What a shard's share of `--memory` goes to. Start checks locked memory and the largest request by
//! it, the shards allot by it.
//!
//! ```text
//! budget   |-- tail 3/8 --|- read 1/8 -|- receive 1/8 -|- response 1/8 -|forward|requests|- the rest 1/8 -|
//!          '--- registered with the ring -'                                1/16    1/16
//! ```

use crate::types::limits::{FRAME_PREFIX_SIZE, RECEIVE_BUFFER_SIZE, RECEIVE_RESERVE_SHARE};

/// How a shard's share of `--memory` is divided.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Commit buffers and the newest records kept for readers.
    pub tail: usize,
    /// Appended and not yet flushed. Part of `tail`.
    pub unflushed: usize,
    /// Requests being read and executed.
    pub receive: usize,
    /// Blocks read from disk for readers behind the tail, until their answer is made, and ahead of them;
    /// who finds it spent waits for a turn (`log::read_turns`).
    pub read: usize,
    /// Answers being made or waiting for their sockets, beyond what they pin of the above.
    pub response: usize,
    /// Batches on their way to other shards.
    pub forward: usize,
    /// Requests other than Produce, decoded and not answered.
    pub requests: usize,
}

/// One part of so many of a shard's budget is for requests being received.
const RECEIVE_SHARE: usize = 8;

/// Bytes of a shard's tail and of its reads from disk. With these the registered pool holds both,
/// and no buffer is ever faulted in on the data path; a reader further behind than the tail is
/// served at the disk's speed.
const TAIL_SIZE_MAX: usize = 768 << 20;
const READ_SIZE_MAX: usize = 256 << 20;

/// The runtime's: one for I/O, one for what must not wait, one for polled devices.
const RINGS_PER_EXECUTOR: u64 = 3;

/// Bytes. The rings of one executor, where the kernel counts them as locked (before Linux 5.12), and
/// room for what has not been given back yet of a broker that ran before.
const RINGS_LOCKED_SIZE: u64 = 2 << 20;

// The kernel takes at most 1 GiB as one registered buffer.
const _: () = assert!(TAIL_SIZE_MAX + READ_SIZE_MAX <= 1 << 30);

impl MemoryPlan {
    /// Of the memory for requests being received, what large ones leave to those that one buffer holds.
    pub fn receive_reserve(receive: usize) -> usize {
        (receive / RECEIVE_RESERVE_SHARE).max(RECEIVE_BUFFER_SIZE)
    }

    /// The largest request that can be received while nothing else is; its prefix takes room as well.
    pub fn request_size_max(&self) -> usize {
        self.receive.saturating_sub(MemoryPlan::receive_reserve(self.receive) + FRAME_PREFIX_SIZE)
    }

    /// The budget of a shard from which on a request of that size can be received.
    pub fn budget_for_request(size: usize) -> u64 {
        const SHARE: u64 = RECEIVE_RESERVE_SHARE as u64;
        let size = (size + FRAME_PREFIX_SIZE) as u64;
        let receive = (size * SHARE).div_ceil(SHARE - 1);
        receive.max(size + RECEIVE_BUFFER_SIZE as u64) * RECEIVE_SHARE as u64
    }

    /// Size of the pool of I/O buffers that an executor registers with its rings, pinned at start.
    pub fn registered(&self) -> usize {
        self.tail + self.read
    }

    /// What the kernel counts as locked for that. Every ring of an executor registers the same pool,
    /// and each registration counts in full (measured: under a limit of 8 MiB pools up to 2.4 MiB are
    /// registered).
    pub fn locked(&self) -> u64 {
        self.registered() as u64 * RINGS_PER_EXECUTOR + RINGS_LOCKED_SIZE
    }

    /// Divides a shard's budget. An eighth is left to everything that is not a buffer.
    pub fn new(budget: usize) -> MemoryPlan {
        let tail = (budget * 3 / 8).min(TAIL_SIZE_MAX);
        MemoryPlan {
            tail,
            unflushed: (tail / 2).min(128 << 20),
            receive: budget / RECEIVE_SHARE,
            read: (budget / 8).min(READ_SIZE_MAX),
            response: budget / 8,
            forward: budget / 16,
            requests: budget / 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_into_the_budget_and_the_pool_into_one_registration() {
        for budget in [64 << 20, 1 << 30, 100 << 30] {
            let plan = MemoryPlan::new(budget);
            let answers = plan.response + plan.forward + plan.requests;
            assert!(plan.tail + plan.read + plan.receive + answers <= budget / 8 * 7);
            assert!(plan.unflushed <= plan.tail);
            assert!(plan.registered() <= 1 << 30);
        }
        assert_eq!(MemoryPlan::new(100 << 30).locked(), 3 * (1 << 30) + (2 << 20));
    }

    #[test]
    fn the_budget_for_a_request_is_the_smallest_that_takes_it() {
        for size in [1 << 10, 1 << 20, 2_000_000, 100 << 20] {
            let budget = MemoryPlan::budget_for_request(size) as usize;
            assert!(MemoryPlan::new(budget).request_size_max() >= size, "{size}");
            assert!(MemoryPlan::new(budget - 4 * RECEIVE_SHARE).request_size_max() < size, "{size}");
        }
    }
}
