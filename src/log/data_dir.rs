//! Names in a data directory beside those of a partition's segments. None of them can be a partition's
//! directory, which ends in a hyphen and a number: topics may have almost any name.
//!
//! ```text
//! recovery-point-checkpoint.<shard>            one per shard         checkpoint
//! clean-stop                                   between two runs      checkpoint
//! doubtful-partitions                          until they are known  named_partitions
//! final-state.<shard>                          between two runs      final_state
//! ```

use crate::types::ShardId;

/// Says that the last stop was clean.
pub const CLEAN_STOP_FILE: &str = "clean-stop";

const CHECKPOINT_PREFIX: &str = "recovery-point-checkpoint.";

const FINAL_STATE_PREFIX: &str = "final-state.";

/// Name of what a shard leaves at a clean stop.
pub fn final_state_name(shard: ShardId) -> String {
    format!("{FINAL_STATE_PREFIX}{}", shard.0)
}

/// Whether a file is some shard's, also one that was being written.
pub fn is_final_state(name: &str) -> bool {
    name.starts_with(FINAL_STATE_PREFIX)
}

/// Name of a shard's checkpoint.
pub fn checkpoint_name(shard: ShardId) -> String {
    format!("{CHECKPOINT_PREFIX}{}", shard.0)
}

/// Whether a file is some shard's checkpoint, and not one that was being written.
pub fn is_checkpoint(name: &str) -> bool {
    let digits = name.strip_prefix(CHECKPOINT_PREFIX);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::named_partitions::DOUBTFUL_PARTITIONS_FILE;
    use crate::log::segment::DirectoryName;

    #[test]
    fn a_half_written_checkpoint_is_none() {
        assert!(is_checkpoint(&checkpoint_name(ShardId(12))));
        for other in ["recovery-point-checkpoint.12.tmp", "recovery-point-checkpoint.", "clean-stop"] {
            assert!(!is_checkpoint(other), "{other}");
        }
    }

    #[test]
    fn no_topic_is_in_the_way() {
        assert_eq!(DirectoryName::parse(&checkpoint_name(ShardId(0))), None);
        assert_eq!(DirectoryName::parse(CLEAN_STOP_FILE), None);
        assert_eq!(DirectoryName::parse(DOUBTFUL_PARTITIONS_FILE), None);
        assert_eq!(DirectoryName::parse(&final_state_name(ShardId(0))), None);
    }
}
