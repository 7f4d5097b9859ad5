//! Producer ids (KIP-98, KIP-730): nodes take blocks and give ids out of them without asking again.

use crate::cluster::image::Image;
use crate::cluster::record::{ProducerIdBlock, Record};
use crate::types::NodeId;

/// Kafka's block (`ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`). Ids left of a block when a node stops
/// are lost; there are 2^63.
pub const PRODUCER_IDS_PER_BLOCK: u32 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no producer ids are left after {next}")]
pub struct ProducerIdsExhausted {
    pub next: i64,
}

/// The next block, for `node` alone once the record is in the log.
pub fn decide_allocate_producer_ids(
    image: &Image,
    node: NodeId,
) -> Result<(Vec<Record>, ProducerIdBlock), ProducerIdsExhausted> {
    let next = image.next_producer_id();
    let block = ProducerIdBlock::new(next, PRODUCER_IDS_PER_BLOCK).ok_or(ProducerIdsExhausted { next })?;
    Ok((vec![Record::ProducerIdsAllocated { node, block }], block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_each_other_over_a_restart() {
        let mut image = Image::default();
        let mut firsts = Vec::new();
        for _ in 0..3 {
            let (records, block) = decide_allocate_producer_ids(&image, NodeId(1)).expect("ids are left");
            records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
            firsts.push(block.first);
            image = Image::rebuild(&image.snapshot()).expect("a snapshot applies");
        }
        assert_eq!(firsts, [0, 1000, 2000]);
    }

    #[test]
    fn exhaustion_is_an_error() {
        let mut image = Image::default();
        let block = ProducerIdBlock::new(i64::MAX - 10, 10).expect("the last ids");
        image.apply(&Record::ProducerIdsAllocated { node: NodeId(1), block }).expect("fits");
        assert!(decide_allocate_producer_ids(&image, NodeId(1)).is_err());
    }
}
