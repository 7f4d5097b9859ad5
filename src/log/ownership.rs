//! Whose a partition's directory is: `partition.metadata`, and what follows from it.
//!
//! The file is Kafka's (`PartitionMetadataFile`), whose reader stops behind the second line, and a
//! checksum of what stands before it:
//!
//! ```text
//! version: 0
//! topic_id: MzE8dy87TCSMBw0PLz0eWg
//! crc32: df1b99dc
//! ```
//!
//! Files of Kafka and of earlier builds have no third line: there a flipped bit makes the directory
//! another topic's.
//!
//! | the file says | the metadata knows that topic | the directory is |
//! |---|---|---|
//! | this topic | | opened |
//! | nothing: there is none | | given to this topic |
//! | another topic | no | put aside under a `-stray` name, never removed by us |
//! | another topic | yes | left alone; the partition is offline |
//! | nothing that can be read | | left alone; the partition is offline |

use crate::types::{TopicId, Uuid, parse_uuid_text, uuid_text};

/// Name of the file.
pub const PARTITION_METADATA: &str = "partition.metadata";

/// Why a text is no `partition.metadata`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionMetadataError {
    #[error("partition.metadata is not of version 0")]
    Version,
    #[error("partition.metadata names no topic id")]
    TopicId,
    #[error("partition.metadata is damaged: its checksum does not hold")]
    Checksum,
}

/// The text of the file.
pub fn encode(topic: TopicId) -> String {
    let text = format!("version: 0\ntopic_id: {}\n", uuid_text(topic.0));
    let checksum = checksum_line(&text);
    text + &checksum
}

fn checksum_line(text: &str) -> String {
    format!("crc32: {:08x}\n", crc32fast::hash(text.as_bytes()))
}

/// Reads our text, Kafka's, and the form with hyphens that earlier builds of ours wrote.
pub fn decode(text: &str) -> Result<TopicId, PartitionMetadataError> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.strip_prefix(':')).map(str::trim)
    };
    if value("version") != Some("0") {
        return Err(PartitionMetadataError::Version);
    }
    let id = value("topic_id").ok_or(PartitionMetadataError::TopicId)?;
    let id = parse_uuid_text(id).or_else(|| Uuid::parse_str(id).ok());
    let id = id.map(TopicId).filter(|id| *id != TopicId::ZERO).ok_or(PartitionMetadataError::TopicId)?;
    let end_of_two = text.match_indices('\n').nth(1).map_or(text.len(), |(at, _)| at + 1);
    let (covered, rest) = text.split_at(end_of_two);
    if !rest.is_empty() && rest != checksum_line(covered) {
        return Err(PartitionMetadataError::Checksum);
    }
    Ok(id)
}

/// What becomes of a directory that a partition wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is this topic's.
    Open,
    /// It is nobody's: it becomes this topic's.
    Take,
    /// It is put aside, and an empty one is taken.
    PutAside { other: TopicId },
    /// It stays as it is, and the partition offline.
    Refuse(ClaimRefused),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    #[error("it holds the data of topic id {}, which exists under another name", uuid_text(.other.0))]
    OtherTopic { other: TopicId },
    #[error("{0}; nothing says whose data it is: restore the file, or move the directory away")]
    Unreadable(#[from] PartitionMetadataError),
}

/// `text` is the file's, `None` when there is none; `is_known` asks the cluster's metadata.
pub fn claim(text: Option<&str>, topic: TopicId, is_known: impl Fn(TopicId) -> bool) -> Claim {
    match text.map(decode) {
        None => Claim::Take,
        Some(Ok(found)) if found == topic => Claim::Open,
        Some(Ok(other)) if is_known(other) => Claim::Refuse(ClaimRefused::OtherTopic { other }),
        Some(Ok(other)) => Claim::PutAside { other },
        Some(Err(error)) => Claim::Refuse(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kafkas_and_the_earlier_form_is_read() {
        let id = TopicId(Uuid::from_u128(0x3331_3c77_2f3b_4c24_8c07_0d0f_2f3d_1e5a));
        let text = "version: 0\ntopic_id: MzE8dy87TCSMBw0PLz0eWg\n";
        assert_eq!(encode(id), format!("{text}crc32: df1b99dc\n"));
        assert_eq!(decode(&encode(id)), Ok(id));
        assert_eq!(decode(text), Ok(id));
        assert_eq!(decode("version: 0\ntopic_id: 33313c77-2f3b-4c24-8c07-0d0f2f3d1e5a\n"), Ok(id));
        assert_eq!(decode("version: 0\ntopic_id: MzE8dy87TCSMBw0PLz0eWg"), Ok(id));
    }

    /// Else the directory would be put aside as another topic's, and its partition begin anew.
    #[test]
    fn no_flipped_bit_makes_it_another_topics() {
        let id = TopicId(Uuid::from_u128(0x3331_3c77_2f3b_4c24_8c07_0d0f_2f3d_1e5a));
        let text = encode(id);
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // What is no text is read as an empty one.
            let damaged = String::from_utf8(bytes).unwrap_or_default();
            assert!(matches!(claim(Some(&damaged), id, |_| false), Claim::Refuse(_)), "{bit}: {damaged}");
        }
        for size in 0..text.len() {
            let cut = claim(Some(&text[..size]), id, |_| false);
            assert!(matches!(cut, Claim::Open | Claim::Refuse(_)), "{size}");
        }
    }

    #[test]
    fn what_names_no_topic_is_refused() {
        for text in ["", "topic_id: MzE8dy87TCSMBw0PLz0eWg", "version: 1\ntopic_id: MzE8dy87TCSMBw0PLz0eWg"] {
            assert_eq!(decode(text), Err(PartitionMetadataError::Version), "{text}");
        }
        for id in ["", "x", "AAAAAAAAAAAAAAAAAAAAAA"] {
            let text = format!("version: 0\ntopic_id: {id}\n");
            assert_eq!(decode(&text), Err(PartitionMetadataError::TopicId), "{text}");
        }
    }

    #[test]
    fn no_data_of_a_known_or_unreadable_topic_is_moved() {
        let (ours, other) = (TopicId(Uuid::from_u128(1)), TopicId(Uuid::from_u128(2)));
        let text = encode(other);
        assert_eq!(claim(Some(&encode(ours)), ours, |_| true), Claim::Open);
        assert_eq!(claim(None, ours, |_| false), Claim::Take);
        assert_eq!(claim(Some(&text), ours, |_| false), Claim::PutAside { other });
        let refused = Claim::Refuse(ClaimRefused::OtherTopic { other });
        assert_eq!(claim(Some(&text), ours, |id| id == other), refused);
        assert!(matches!(claim(Some("version: 0\n"), ours, |_| false), Claim::Refuse(_)));
    }
}
