//! What a shard's share of `--memory` goes to. Start checks locked memory and the largest request by
//! it, the shards allot by it.
//!
//! ```text
//! budget   |--- tail 3/8 ---|- read 1/8 -|- receive 1/8 -|- response 1/8 -|--- the rest 2/8 ---|
//!          '--- registered with the ring -'
//! ```

/// How a shard's share of `--memory` is divided.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Commit buffers and the newest records kept for readers.
    pub tail: usize,
    /// Appended and not yet flushed. Part of `tail`.
    pub unflushed: usize,
    /// Requests being read and executed.
    pub receive: usize,
    /// Blocks read from disk for readers behind the tail.
    pub read: usize,
    /// Answers waiting for their sockets, beyond what they pin of the above.
    pub response: usize,
}

/// Bytes of a shard's tail and of its reads from disk. With these the registered pool holds both,
/// and no buffer is ever faulted in on the data path; a reader further behind than the tail is
/// served at the disk's speed.
const TAIL_SIZE_MAX: usize = 512 << 20;
const READ_SIZE_MAX: usize = 256 << 20;

/// The runtime's: one for I/O, one for what must not wait, one for polled devices.
const RINGS_PER_EXECUTOR: u64 = 3;

/// Bytes. The rings of one executor, where the kernel counts them as locked (before Linux 5.12), and
/// room for what has not been given back yet of a broker that ran before.
const RINGS_LOCKED_SIZE: u64 = 2 << 20;

// The kernel takes at most 1 GiB as one registered buffer.
const _: () = assert!(TAIL_SIZE_MAX + READ_SIZE_MAX <= 1 << 30);

impl MemoryPlan {
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

    /// Divides a shard's budget. A quarter is left to everything that is not a buffer.
    pub fn new(budget: usize) -> MemoryPlan {
        let tail = (budget * 3 / 8).min(TAIL_SIZE_MAX);
        MemoryPlan {
            tail,
            unflushed: (tail / 2).min(128 << 20),
            receive: budget / 8,
            read: (budget / 8).min(READ_SIZE_MAX),
            response: budget / 8,
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
            assert!(plan.tail + plan.read + plan.receive + plan.response <= budget / 4 * 3);
            assert!(plan.unflushed <= plan.tail);
            assert!(plan.registered() <= 768 << 20);
        }
        assert_eq!(MemoryPlan::new(100 << 30).locked(), 3 * (768 << 20) + (2 << 20));
    }
}
