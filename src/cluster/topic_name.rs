//! Which topic names are legal, and which two would collide (Kafka `Topic`).

use crate::types::limits::TOPIC_NAME_LENGTH_MAX;

/// Topics that only the broker itself writes: coordinators keep their state there.
pub const INTERNAL: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// Reserved: Kafka keeps its own metadata log under this name.
pub const CLUSTER_METADATA: &str = "__cluster_metadata";

/// Why a name is not a topic name. The texts are part of the protocol in practice: clients show
/// them, and tools compare them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    #[error("Topic name is invalid: '{0}' is not allowed")]
    Dots(&'static str),
    #[error(
        "Topic name is invalid: the length of '{0}' is longer than the max allowed length {TOPIC_NAME_LENGTH_MAX}"
    )]
    TooLong(String),
    #[error(
        "Topic name is invalid: '{0}' contains one or more characters other than \
         ASCII alphanumerics, '.', '_' and '-'"
    )]
    Characters(String),
}

pub fn validate(name: &str) -> Result<(), InvalidTopicName> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        "" => Err(InvalidTopicName::Empty),
        "." => Err(InvalidTopicName::Dots(".")),
        ".." => Err(InvalidTopicName::Dots("..")),
        // Echoed shortened: a name may be as long as the request.
        _ if name.chars().count() > TOPIC_NAME_LENGTH_MAX => {
            Err(InvalidTopicName::TooLong(name.chars().take(TOPIC_NAME_LENGTH_MAX + 1).collect()))
        }
        _ if !name.bytes().all(legal) => Err(InvalidTopicName::Characters(name.to_owned())),
        _ => Ok(()),
    }
}

pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// What two names have in common when metric names, which know no '.', cannot tell them apart.
/// `None` when the name has neither '.' nor '_' and so collides with nothing.
pub fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for name in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(validate(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert!(validate(name).is_err(), "{name}");
        }
        let error = validate("a/b").expect_err("slash").to_string();
        assert_eq!(
            error,
            "Topic name is invalid: 'a/b' contains one or more characters other than ASCII alphanumerics, \
             '.', '_' and '-'"
        );
    }

    #[test]
    fn dot_and_underscore_collide() {
        assert_eq!(collision_key("a.b_c"), collision_key("a_b.c"));
        assert_eq!(collision_key("abc"), None);
    }
}
