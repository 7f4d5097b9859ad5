//! Lists of replicas whose replication is held to a rate (KIP-73): `partition:broker,...`, or `*` for all.
//!
//! Source: Kafka `ThrottledReplicaListValidator`, `TopicConfigHandler.parseThrottledPartitions`.

use std::collections::BTreeSet;

use crate::types::{BrokerId, PartitionIndex};

/// Which replicas of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThrottledReplicas {
    All,
    Some(BTreeSet<(PartitionIndex, BrokerId)>),
}

impl ThrottledReplicas {
    /// `None`: no such list. Entries may be empty, as Kafka's may.
    pub fn parse(text: &str) -> Option<ThrottledReplicas> {
        if text.trim() == "*" {
            return Some(ThrottledReplicas::All);
        }
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries.map(replica).collect::<Option<_>>().map(ThrottledReplicas::Some)
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, ThrottledReplicas::Some(replicas) if replicas.is_empty())
    }

    pub fn contains(&self, partition: PartitionIndex, broker: BrokerId) -> bool {
        match self {
            ThrottledReplicas::All => true,
            ThrottledReplicas::Some(replicas) => replicas.contains(&(partition, broker)),
        }
    }
}

fn replica(entry: &str) -> Option<(PartitionIndex, BrokerId)> {
    let (partition, broker) = entry.split_once(':')?;
    let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    Some((PartitionIndex::from_wire(number(partition)?)?, BrokerId(number(broker)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(text: &str, partition: i32, broker: i32) -> Option<bool> {
        let partition = PartitionIndex::from_wire(partition).expect("an index");
        ThrottledReplicas::parse(text).map(|replicas| replicas.contains(partition, BrokerId(broker)))
    }

    #[test]
    fn lists_are_taken_as_kafka_takes_them() {
        assert_eq!(contains("*", 7, 3), Some(true));
        assert_eq!(contains(" * ", 7, 3), Some(true));
        assert_eq!(contains("0:1, 7:3", 7, 3), Some(true));
        assert_eq!(contains("0:1,,7:3,", 0, 3), Some(false));
        assert_eq!(contains("", 0, 0), Some(false));
        assert!(ThrottledReplicas::parse(" , ").expect("nothing is a list").is_empty());
        for wrong in ["0", "0:", ":1", "*,0:1", "0:1;1:1", "a:1", "0:-1", "+0:1", "0:1:2", "0:99999999999"] {
            assert_eq!(ThrottledReplicas::parse(wrong), None, "{wrong}");
        }
    }
}
