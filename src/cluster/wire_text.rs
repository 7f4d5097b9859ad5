//! Texts in responses.

use std::fmt::Display;

use kafka_protocol::protocol::StrBytes;

use crate::types::{Uuid, uuid_text};

/// Bytes of an error message. A string of the older versions holds 32,767, and what a message
/// quotes may be as long as that on its own.
const ERROR_MESSAGE_SIZE_MAX: usize = 4096;

/// A message that fits every version of a response.
pub(super) fn error_message(error: &impl Display) -> Option<StrBytes> {
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(ERROR_MESSAGE_SIZE_MAX));
    Some(StrBytes::from_string(text))
}

/// The cluster's id in Metadata and DescribeCluster.
pub fn cluster_id_text(id: Uuid) -> String {
    uuid_text(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_id_is_url_safe_base64() {
        assert_eq!(cluster_id_text(Uuid::from_u128(u128::MAX)), "_____________________w");
        assert_eq!(cluster_id_text(Uuid::from_u128(0)), "A".repeat(22));
        let id = Uuid::from_u128(0x3331_3c77_2f3b_4c24_8c07_0d0f_2f3d_1e5a);
        assert_eq!(cluster_id_text(id), "MzE8dy87TCSMBw0PLz0eWg");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = error_message(&"ä".repeat(40_000)).expect("a message");
        assert_eq!(text.len(), ERROR_MESSAGE_SIZE_MAX);
        assert_eq!(error_message(&"short").as_deref(), Some("short"));
    }
}
