//! What a consumer says of itself when it joins a group (protocol type `consumer`): the one thing in it that
//! the broker looks at, the topics.
//!
//! | field | type |
//! |---|---|
//! | version | i16, from 0 |
//! | topics | array of string |
//! | what assignors of the clients need, by version | not looked at |
//!
//! Source: Kafka `ConsumerProtocolSubscription`, whose versions all begin like this one.

use crate::codec::wire::{Encoding, Reader, WireError};

/// The protocol type of consumers.
pub const PROTOCOL_TYPE: &str = "consumer";

/// The topics of a subscription.
pub fn subscribed_topics(subscription: &[u8]) -> Result<Vec<&str>, WireError> {
    let mut reader = Reader::new(subscription, Encoding::Classic);
    let _version = reader.i16()?;
    /// Bytes of an empty name.
    const NAME_SIZE_MIN: usize = 2;
    let count = reader.count(NAME_SIZE_MIN)?;
    (0..count).map(|_| reader.str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_come_first_in_every_version() {
        let newest = b"\0\x03\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\0\0\0\0\x01\0\0";
        assert_eq!(subscribed_topics(newest), Ok(vec!["a", "bc"]));
        assert_eq!(subscribed_topics(b"\0\0\0\0\0\0"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_subscription_is_refused() {
        assert!(subscribed_topics(b"").is_err());
        assert!(subscribed_topics(b"\0\0\x7f\xff\xff\xff").is_err());
        assert!(subscribed_topics(b"\0\0\0\0\0\x01\0\x05ab").is_err());
    }
}
