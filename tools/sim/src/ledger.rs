//! Which blocks of the journals were issued, and where: what a start believes is held against it.
//!
//! | check | SAFETY |
//! |---|---|
//! | blocks that are believed are those of this use | 9 |

use crate::disk::directory::NodeId;
use crate::world::World;
use odradek::log::journal::block::BlockSequence;
use odradek::log::journal::ring::BlockPlace;
use std::collections::{BTreeMap, BTreeSet};

/// Every block of the journals that was issued, by the file and the position it was issued for. A file is
/// known by its identity: its name may go to another one, or come back when the power is lost.
#[derive(Debug, Default)]
pub struct Ledger {
    blocks: BTreeMap<(NodeId, u64), (BlockSequence, usize)>,
    /// Where the last of them did not get to: what it was to replace is there.
    astray: BTreeSet<(NodeId, u64)>,
}

impl Ledger {
    /// What lay at its place is no block any more, as little of it as it may cover.
    pub fn issued(&mut self, file: NodeId, place: BlockPlace, size: usize) {
        let (from, to) = (place.header.position, place.header.position + size as u64);
        self.blocks.retain(|(of, at), (_, size)| *of != file || *at >= to || at + *size as u64 <= from);
        self.blocks.insert((file, from), (place.header.sequence, size));
        self.astray.remove(&(file, from));
    }

    /// A write for this position went elsewhere.
    pub fn went_astray(&mut self, file: NodeId, position: u64) {
        self.astray.insert((file, position));
    }

    pub fn has_blocks_in(&self, file: NodeId) -> bool {
        self.blocks.range((file, 0)..=(file, u64::MAX)).next().is_some()
    }

    fn issued_at(&self, file: NodeId, position: u64) -> Option<BlockSequence> {
        self.blocks.get(&(file, position)).map(|(sequence, _)| *sequence)
    }

    pub fn check_believed(&self, world: &World, sequence: BlockSequence, file: NodeId, position: u64) {
        let known = self.issued_at(file, position);
        let is_left = self.astray.contains(&(file, position)) && known.is_some_and(|known| sequence < known);
        if known != Some(sequence) && !is_left {
            world.finding(
                "blocks that are believed are those of this use",
                format_args!("block {} at {position} of {file:?}, issued: {known:?}", sequence.0),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek::log::journal::block::{BlockHeader, FileEpoch};
    use odradek::log::journal::ring::FileIndex;
    use odradek::types::ShardId;

    #[test]
    fn what_an_earlier_use_of_a_file_left_under_a_larger_block_is_no_block() {
        let mut ledger = Ledger::default();
        for (sequence, position, size) in [(7, 0, 4096), (8, 4096, 8192), (9, 12288, 4096)] {
            ledger.issued(NodeId(1), place(sequence, position), size);
        }
        ledger.issued(NodeId(1), place(50, 0), 8192);
        let at = |position| ledger.issued_at(NodeId(1), position).map(|sequence| sequence.0);
        assert_eq!([at(0), at(4096), at(8192), at(12288)], [Some(50), None, None, Some(9)]);
    }

    #[test]
    fn what_a_write_that_went_astray_was_to_replace_may_be_believed() {
        let world = World::new(1, false);
        let mut ledger = Ledger::default();
        ledger.issued(NodeId(1), place(7, 0), 4096);
        ledger.issued(NodeId(1), place(50, 0), 4096);
        ledger.went_astray(NodeId(1), 0);
        ledger.check_believed(&world, BlockSequence(7), NodeId(1), 0);
        assert!(!world.has_findings());
        ledger.issued(NodeId(1), place(60, 0), 4096);
        ledger.check_believed(&world, BlockSequence(7), NodeId(1), 0);
        assert!(world.has_findings());
    }

    #[test]
    fn a_file_is_not_the_one_that_had_its_name_before() {
        let mut ledger = Ledger::default();
        ledger.issued(NodeId(1), place(7, 0), 4096);
        assert!(ledger.has_blocks_in(NodeId(1)));
        assert!(!ledger.has_blocks_in(NodeId(2)));
        ledger.issued(NodeId(2), place(1, 0), 4096);
        assert_eq!(ledger.issued_at(NodeId(1), 0), Some(BlockSequence(7)));
        assert_eq!(ledger.issued_at(NodeId(2), 0), Some(BlockSequence(1)));
    }

    fn place(sequence: u64, position: u64) -> BlockPlace {
        let sequence = BlockSequence(sequence);
        let header = BlockHeader {
            shard: ShardId(0),
            epoch: FileEpoch(1),
            position,
            sequence,
            flushed: sequence,
            needed: sequence,
            file_size: 0,
        };
        BlockPlace { file: FileIndex(0), header }
    }
}
