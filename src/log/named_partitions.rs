//! Files that name partitions, for a later start.
//!
//! ```text
//! version: 0
//! MzE8dy87TCSMBw0PLz0eWg 0
//! MzE8dy87TCSMBw0PLz0eWg 3
//! crc32: df1b99dc
//! ```
//!
//! | file | names those |
//! |---|---|
//! | `journal.0.damaged.1/lost-partitions` | of which this journal has lost something |
//! | `doubtful-partitions` | whose replicas in this log directory may lack their end, as far as nobody knows it yet |
//!
//! Written by the start that has found it out, and believed by every later one: who owns which partition
//! may be another thing by then, and topics that were made since have lost nothing.

use crate::types::{PartitionIndex, TopicId, TopicPartition, parse_uuid_text, uuid_text};
use std::collections::BTreeSet;
use std::fmt::Write as _;

pub const LOST_PARTITIONS_FILE: &str = "lost-partitions";

pub const DOUBTFUL_PARTITIONS_FILE: &str = "doubtful-partitions";

const HEADER: &str = "version: 0\n";

/// The text of the file.
pub fn encode(named: &BTreeSet<TopicPartition>) -> String {
    let mut text = HEADER.to_owned();
    for id in named {
        writeln!(text, "{} {}", uuid_text(id.topic.0), id.partition.to_wire()).expect("a string takes it");
    }
    let checksum = crc32fast::hash(text.as_bytes());
    writeln!(text, "crc32: {checksum:08x}").expect("as before");
    text
}

/// `None` for what is no such file as a whole: then nobody knows.
pub fn decode(text: &str) -> Option<BTreeSet<TopicPartition>> {
    let (covered, checksum) = text.rsplit_once("crc32: ")?;
    if checksum != format!("{:08x}\n", crc32fast::hash(covered.as_bytes())) {
        return None;
    }
    covered.strip_prefix(HEADER)?.lines().map(decode_line).collect()
}

fn decode_line(line: &str) -> Option<TopicPartition> {
    let (topic, partition) = line.split_once(' ')?;
    let partition = PartitionIndex::from_wire(partition.parse().ok()?)?;
    Some(TopicPartition { topic: TopicId(parse_uuid_text(topic)?), partition })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Uuid;

    #[test]
    fn named_partitions_are_read_back_and_no_cut_or_flipped_text_is() {
        let id = |topic: u128, partition| TopicPartition {
            topic: TopicId(Uuid::from_u128(topic)),
            partition: PartitionIndex::from_wire(partition).unwrap(),
        };
        for lost in [BTreeSet::new(), BTreeSet::from([id(7, 0), id(7, 3), id(1 << 90, 12)])] {
            let text = encode(&lost);
            assert_eq!(decode(&text), Some(lost));
            for at in 0..text.len() {
                assert_eq!(decode(&text[..at]), None);
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                assert_eq!(String::from_utf8(bytes).ok().and_then(|text| decode(&text)), None, "{at}");
            }
        }
    }
}
