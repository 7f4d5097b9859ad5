//! Kafka's names for the numbers that metrics and commands show.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;

/// `Produce`, or `other` for what no Kafka API has as its key.
pub fn api_name(api_key: i16) -> String {
    ApiKey::try_from(api_key).map_or_else(|()| "other".to_string(), |api| format!("{api:?}"))
}

/// `NOT_LEADER_OR_FOLLOWER`, as Kafka's documentation and clients spell it.
pub fn error_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        None => "NONE".to_string(),
        Some(ResponseError::Unknown(code)) => format!("ERROR_{code}"),
        Some(error) => screaming(&format!("{error:?}")),
    }
}

fn screaming(camel: &str) -> String {
    let mut name = String::with_capacity(camel.len() + 8);
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas() {
        assert_eq!(api_name(0), "Produce");
        assert_eq!(api_name(19), "CreateTopics");
        assert_eq!(api_name(-1), "other");
        assert_eq!(error_name(0), "NONE");
        assert_eq!(error_name(6), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(error_name(-1), "UNKNOWN_SERVER_ERROR");
        assert_eq!(error_name(17), "INVALID_TOPIC_EXCEPTION");
        assert_eq!(error_name(9999), "ERROR_9999");
    }
}
