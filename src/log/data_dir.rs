//! Names in a data directory beside those of a partition's segments, and the file that says whose a
//! partition's directory is.
//!
//! ```text
//! recovery-point-checkpoint-<shard>            one per shard         checkpoint
//! clean-stop                                   between two runs      checkpoint
//! <topic>-<partition>/partition.metadata       Kafka's text format: "version: 0", "topic_id: <uuid>"
//! ```
//!
//! Kafka writes the id in URL-safe base 64 (`PartitionMetadataFile`), we write a hyphenated UUID.

use crate::types::{ShardId, TopicId, Uuid};

/// Says that the last stop was clean.
pub const CLEAN_STOP_FILE: &str = "clean-stop";

/// Name of a partition's file that says which topic it belongs to.
pub const PARTITION_METADATA_FILE: &str = "partition.metadata";

const CHECKPOINT_PREFIX: &str = "recovery-point-checkpoint-";

/// Name of a shard's checkpoint.
pub fn checkpoint_name(shard: ShardId) -> String {
    format!("{CHECKPOINT_PREFIX}{}", shard.0)
}

/// Whether a file is some shard's checkpoint, and not one that was being written.
pub fn is_checkpoint(name: &str) -> bool {
    let digits = name.strip_prefix(CHECKPOINT_PREFIX);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The text of `partition.metadata`.
pub fn encode_partition_metadata(topic: TopicId) -> String {
    format!("version: 0\ntopic_id: {}\n", topic.0)
}

/// `None` when the text names no topic.
pub fn decode_partition_metadata(text: &str) -> Option<TopicId> {
    let value = text.lines().find_map(|line| line.strip_prefix("topic_id: "))?;
    Some(TopicId(Uuid::parse_str(value.trim()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_names_its_topic() {
        let topic = TopicId(Uuid::from_u128(0x0123_4567_89ab_cdef));
        let text = encode_partition_metadata(topic);
        assert_eq!(text, "version: 0\ntopic_id: 00000000-0000-0000-0123-456789abcdef\n");
        assert_eq!(decode_partition_metadata(&text), Some(topic));
        for damaged in ["", "version: 0\n", "topic_id: x\n"] {
            assert_eq!(decode_partition_metadata(damaged), None);
        }
    }

    #[test]
    fn a_half_written_checkpoint_is_none() {
        assert!(is_checkpoint(&checkpoint_name(ShardId(12))));
        for other in ["recovery-point-checkpoint-12.tmp", "recovery-point-checkpoint-", "clean-stop"] {
            assert!(!is_checkpoint(other), "{other}");
        }
    }
}
