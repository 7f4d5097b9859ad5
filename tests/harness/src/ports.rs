//! Ports that no other test uses and no outgoing connection takes.
//!
//! A broker needs consecutive ports and keeps them over a restart, so asking the kernel for any free
//! one is not enough. Blocks of ports below the kernel's ephemeral range are handed out by file
//! locks, which hold between the processes of a test run too and end with their owner.

use std::fs::{File, TryLockError};
use std::net::TcpListener;
use std::path::Path;

/// Ports of one block: base, one per core, other nodes, spare, admin.
const BLOCK_SIZE: u16 = 8;
const FIRST: u16 = 20_000;
const BLOCKS: u16 = 1_000; // Ends below 32768, where Linux's ephemeral ports start.

pub struct PortBlock {
    first: u16,
    _lock: File,
}

impl PortBlock {
    /// Locks a block all of whose ports are free. `directory` is the same for every test.
    pub fn take(directory: &Path) -> PortBlock {
        std::fs::create_dir_all(directory).expect("the lock directory can be made");
        // Runs side by side start looking in different places.
        let start = std::process::id() as u16 % BLOCKS;
        (0..BLOCKS)
            .map(|step| (start + step) % BLOCKS)
            .find_map(|block| try_take(directory, block))
            .expect("one of a thousand blocks of ports is free")
    }

    pub fn base(&self) -> u16 {
        self.first
    }

    /// Counts the blocks.
    pub fn number(&self) -> usize {
        usize::from(block_of(self.first))
    }

    pub fn admin(&self) -> u16 {
        self.first + BLOCK_SIZE - 1
    }
}

fn block_of(port: u16) -> u16 {
    port.wrapping_sub(FIRST) / BLOCK_SIZE
}

/// Whether they are of one broker.
pub fn are_of_one(a: u16, b: u16) -> bool {
    block_of(a) == block_of(b)
}

fn try_take(directory: &Path, block: u16) -> Option<PortBlock> {
    let lock = File::create(directory.join(block.to_string())).expect("a lock file can be made");
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return None,
        Err(TryLockError::Error(error)) => panic!("locking a block of ports: {error}"),
    }
    let first = FIRST + block * BLOCK_SIZE;
    let free = (first..first + BLOCK_SIZE).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    free.then_some(PortBlock { first, _lock: lock })
}
