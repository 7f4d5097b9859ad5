//! Up to where a log is compacted, as it survives a restart: `cleaner-offset-checkpoint` in the
//! partition's directory, one entry in the text format of Kafka's file of that name (which lies in the
//! data directory and holds all partitions of the node; ours moves and goes with its partition):
//!
//! ```text
//! 0                      version
//! 1                      entries
//! orders 3 4711          topic, partition, first dirty offset
//! ```

use crate::types::{Offset, PartitionIndex};

/// Name of the file in a partition's directory.
pub const CLEANER_CHECKPOINT_FILE: &str = "cleaner-offset-checkpoint";

const VERSION: &str = "0";

pub fn encode(topic: &str, partition: PartitionIndex, first_dirty: Offset) -> String {
    format!("{VERSION}\n1\n{topic} {partition} {first_dirty}\n")
}

/// The first dirty offset. `None` for what is not such a file: the whole log counts as dirty, which
/// costs a pass and nothing else.
pub fn decode(text: &str, topic: &str, partition: PartitionIndex) -> Option<Offset> {
    let mut lines = text.lines();
    let head = (lines.next()?, lines.next()?);
    let mut fields = lines.next()?.split(' ');
    let named = (fields.next()?, fields.next()?.parse().ok().and_then(PartitionIndex::from_wire)?);
    let offset = Offset::new(fields.next()?.parse().ok()?)?;
    let ends = fields.next().is_none() && lines.next().is_none();
    (head == (VERSION, "1") && named == (topic, partition) && ends).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kafkas_and_round_trips() {
        let partition = PartitionIndex::from_wire(3).unwrap();
        let text = encode("orders", partition, Offset::new(4711).unwrap());
        assert_eq!(text, "0\n1\norders 3 4711\n");
        assert_eq!(decode(&text, "orders", partition), Offset::new(4711));
        assert_eq!(decode(&text, "order", partition), None);
        for wrong in ["", "0\n1\n", "1\n1\norders 3 5\n", "0\n1\norders 3 -5\n", "0\n1\norders 3 5 6\n"] {
            assert_eq!(decode(wrong, "orders", partition), None, "{wrong}");
        }
    }
}
